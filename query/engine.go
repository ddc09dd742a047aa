package query

import (
	"errors"
	"log/slog"

	"weir/store"
)

// Options of an engine. The zero value is usable.
type Options struct {
	Memory  int64        // octets the engine may use; default 1 GiB
	Threads int          // default: all CPUs
	TempDir string       // spill folder; default: a fresh folder of the system's
	Log     *slog.Logger // nil: silent
}

// Open gives an engine over the store that r reads. An engine is safe for
// concurrent use; if it implements io.Closer, close it.
func Open(r *store.Reader, o Options) (Engine, error) { return nil, errors.New("not yet") }
