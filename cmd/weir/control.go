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
	"weir/hook"
)

// What more a metering process may be able to tell than metering asks of all.
type (
	// walker shows its flows batch by batch (as meter.Meter does), so that
	// nobody holds all of them. Batches are valid during the call; yield is
	// called one at a time.
	walker interface {
		Walk(ctx context.Context, yield func([]flow.Record) error) error
	}
	// planner knows how each interface is metered; nil: that one is not.
	planner interface {
		plan(ifindex uint32) *hook.Plan
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
	tell := func(path, none string, value func(context.Context) (any, error)) {
		mux.HandleFunc("GET /control/"+path, func(w http.ResponseWriter, r *http.Request) {
			v, err := value(r.Context())
			if err != nil {
				refuse(w, err)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			if v == nil {
				w.WriteHeader(http.StatusNotFound)
				v = map[string]string{"error": none}
			}
			if err := json.NewEncoder(w).Encode(v); err != nil {
				n.log.Debug("control answer", "path", path, "error", err)
			}
		})
	}
	d := newDesk(n)
	mux.HandleFunc("/control/flows", d.handle(d.flows))
	mux.HandleFunc("/control/top", d.handle(d.top))
	n.aclHandlers(mux)
	n.guardHandlers(mux)
	tell("cache", "no interface is metered here", func(context.Context) (any, error) {
		if m, _, _ := n.rooms(); m == nil {
			return nil, nil
		}
		return n.cache(), nil
	})
	tell("balance", "no interface is metered here", func(ctx context.Context) (any, error) {
		lines, err := n.balance(ctx)
		return map[string]any{"balance": lines}, err
	})
	tell("interfaces", "no interface is metered here, and no collector runs", func(context.Context) (any, error) {
		if m, _, c := n.rooms(); m == nil && c == nil {
			return nil, nil
		}
		return map[string]any{"interfaces": d.interfaces()}, nil
	})
	tell("routes", "nothing is forwarded here", func(context.Context) (any, error) {
		list, err := n.routes()
		return map[string]any{"routes": list}, err
	})
	tell("export", "nothing is exported here", func(context.Context) (any, error) {
		if _, e, _ := n.rooms(); e == nil && !exporting(n.aggregations()) {
			return nil, nil
		}
		return map[string]any{"destinations": n.destinations()}, nil
	})
	mux.HandleFunc("/control/export/send-templates", n.sendTemplates)
	tell("aggregation", "there is no aggregation cache here: see flow-aggregation in weir config example", func(context.Context) (any, error) {
		if l := n.aggregations(); len(l) > 0 {
			return map[string]any{"caches": l.lines()}, nil
		}
		return nil, nil
	})
	mux.HandleFunc("GET /control/aggregation/{cache}", n.aggregated)
	tell("templates", "no collector runs here", func(context.Context) (any, error) {
		_, _, c := n.rooms()
		if c == nil {
			return nil, nil
		}
		return map[string]any{"templates": c.Templates()}, nil
	})
	tell("store", "no store is kept here", func(context.Context) (any, error) {
		if n.store == nil {
			return nil, nil
		}
		s := n.store.Stats()
		return map[string]any{
			"dir": s.Dir, "records": s.Rows, "segments": s.Segments, "bytes": s.Bytes,
			"durable": s.Durable, "buffered": s.Buffered, "failing": s.Failing,
		}, nil
	})
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go d.watch(watching)
	go n.followStaged(watching)
	err := control.New(n.config().Control, mux, n.log.With("component", "control")).Run(ctx)
	if err != nil {
		n.log.Log(ctx, level, "weir show cannot ask this process", "error", err)
	}
	return nil
}
