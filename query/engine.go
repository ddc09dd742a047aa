package query

import (
	"errors"
	"io"
	"log/slog"

	"weir/store"
)

// Options of an engine. The zero value is usable.
type Options struct {
	Memory  int64        // octets the engine may use before it spills; default 1 GiB
	Threads int          // default: all CPUs
	TempDir string       // spill folder; default: a folder in the system's, removed by Close
	Log     *slog.Logger // nil: silent
}

// ErrNoEngine is returned by Open in a program built without cgo.
var ErrNoEngine = errors.New("query: this build has no query engine (it was built without cgo)")

// Open gives an engine over the store that r reads. It is safe for concurrent
// use, and it is an io.Closer: Close frees its memory and its spill folder.
func Open(r *store.Reader, o Options) (Engine, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return open(r, o)
}

// Close closes e if it wants to be.
func Close(e Engine) error {
	if c, ok := e.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
