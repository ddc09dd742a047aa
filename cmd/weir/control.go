package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"weir/config"
	"weir/control"
	"weir/export"
	"weir/flow"
	"weir/meter"
)

// What more a metering process may be able to tell than metering asks of all.
type (
	// walker shows its flows batch by batch (as meter.Meter does), so that
	// nobody holds all of them. Batches are valid during the call; yield is
	// called one at a time.
	walker interface {
		Walk(ctx context.Context, yield func([]flow.Record) error) error
	}
	// hander knows what its records said since its counters began, if these
	// outlive the process that handed the records on. For others the tally
	// before their sink does.
	hander interface {
		Handed() meter.Count
	}
)

// serveControl answers `weir show` until ctx ends. Another weir at the socket
// is no reason to stop: this one only cannot be asked.
func (n *node) serveControl(ctx context.Context) error { return n.answerAt(ctx, slog.LevelWarn) }

// meterNode is a node of a metering process alone, so that `weir meter -i` can
// be asked: its records go through tally.before, then answering.
func meterNode(conf *config.Config, log slogger) *node {
	return &node{conf: conf, log: log, started: time.Now(), reloaded: reload{true, time.Now()}}
}

// answering answers `weir show` about m, and e if there is one, until end.
// Another weir at the socket is nothing to speak of.
func (n *node) answering(ctx context.Context, m metering, e *export.Exporter) (end func()) {
	n.mu.Lock()
	n.meter, n.exporter = m, e
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.answerAt(ctx, slog.LevelDebug)
	}()
	return func() { cancel(); <-done }
}

// answerAt serves the control socket; that it cannot is told at this level.
func (n *node) answerAt(ctx context.Context, level slog.Level) error {
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
		n.log.Log(ctx, level, "weir show cannot ask this process", "error", err)
	}
	return nil
}
