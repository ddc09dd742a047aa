package main

import (
	"context"
	"encoding/json"
	"net/http"

	"weir/control"
)

// serveControl answers `weir show` until ctx ends. Another weir at the socket
// is no reason to stop: this one only cannot be asked.
func (n *node) serveControl(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("/", n.server())
	tell := func(path, none string, value func() any) {
		mux.HandleFunc("GET /control/"+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			v := value()
			if v == nil {
				w.WriteHeader(http.StatusNotFound)
				v = map[string]string{"error": none}
			}
			if err := json.NewEncoder(w).Encode(v); err != nil {
				n.log.Debug("control answer", "path", path, "error", err)
			}
		})
	}
	m, e, c := n.rooms()
	tell("cache", "no interface is metered here", func() any {
		if m == nil {
			return nil
		}
		return n.cache()
	})
	tell("export", "nothing is exported here", func() any {
		if e == nil {
			return nil
		}
		return map[string]any{"destinations": n.exports()}
	})
	tell("templates", "no collector runs here", func() any {
		if c == nil {
			return nil
		}
		_, _, c := n.rooms()
		return map[string]any{"templates": c.Templates()}
	})
	tell("store", "no store is kept here", func() any {
		if n.store == nil {
			return nil
		}
		s := n.store.Stats()
		return map[string]any{
			"dir": s.Dir, "records": s.Rows, "segments": s.Segments, "bytes": s.Bytes,
			"durable": s.Durable, "buffered": s.Buffered, "failing": s.Failing,
		}
	})
	err := control.New(n.config().Control, mux, n.log.With("component", "control")).Run(ctx)
	if err != nil {
		n.log.Warn("weir show cannot ask this process", "error", err)
	}
	return nil
}
