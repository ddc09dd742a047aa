// Package console serves weir's HTTP API and its web console.
//
// In: a query.Engine over the store, and functions that return snapshots of
// the running parts: losses, exporters, interfaces, cache, store. Any of them
// may be missing: its endpoint says so with 404 and the screens do without.
// Out: JSON, CSV and NDJSON under /api/v1/, /metrics, /healthz, /readyz, and
// the embedded files of package ui at /. The screens use this API only, and
// /api/v1/openapi.json describes it.
//
// Units: packets and octets as metered (flow.Record), not multiplied by a
// sampling rate; rates are means a second; times are RFC 3339 in UTC, the
// times of a series Unix seconds. Nothing here changes state: every route is a
// GET, but for POST /api/v1/guard, which asks Options.GuardDo.
//
// A Server may be used by many goroutines. New starts nothing; Run listens and
// serves until its context ends.
package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"weir/flow"
	"weir/query"
)

// DefaultListen is where the console is served unless told otherwise: on
// loopback, for it asks no one who they are.
const DefaultListen = "127.0.0.1:8642"

// Options says where answers come from. The zero value serves the screens, and
// every one of them says what is missing.
type Options struct {
	Listen string // host:port; "": DefaultListen
	// Hosts are names under which the console may be asked for, beside
	// localhost and IP addresses: those of a reverse proxy, say. A request on a
	// loopback address with any other Host is refused (DNS rebinding).
	Hosts []string

	Engine query.Engine // nil: no store in this process

	// Snapshots; each is called for a request and must be cheap and safe at any
	// time. nil: this process has no such part.
	Losses     func() []flow.Loss
	Exporters  func() []Exporter
	Interfaces func() []Interface
	Exports    func() []Destination
	Cache      func() Cache
	Store      func() Store
	Guard      func() *GuardAnswer // nil answer: it is switched off

	// GuardDo approves or lifts an action of the guard; the error is told.
	GuardDo func(do string, id uint64, by string) error

	Metrics http.Handler // serves /metrics
	Ready   func() error // nil error: ready; serves /readyz

	Version string
	Started time.Time // zero: when New was called
	Logger  *slog.Logger

	// Budget of queries. Zero values: 4 at once, 30 s each.
	MaxQueries   int
	QueryTimeout time.Duration
	// MaxRows caps what one answer may hold; zero: 10,000 in JSON, 1,000,000 in
	// a CSV or NDJSON stream. An answer that was cut says so.
	MaxRows       int
	MaxStreamRows int
}

// Server answers the console's requests.
type Server struct {
	opt     Options
	handler http.Handler
	queries *budget
	now     *nowCache
	losses  lossHistory
	metrics *meters

	mu       sync.Mutex
	listener net.Listener
}

// New returns a Server that answers as opt says.
func New(opt Options) *Server {
	if opt.Listen == "" {
		opt.Listen = DefaultListen
	}
	if opt.Started.IsZero() {
		opt.Started = time.Now()
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.MaxQueries <= 0 {
		opt.MaxQueries = 4
	}
	if opt.QueryTimeout <= 0 {
		opt.QueryTimeout = 30 * time.Second
	}
	if opt.MaxRows <= 0 {
		opt.MaxRows = 10_000
	}
	if opt.MaxStreamRows <= 0 {
		opt.MaxStreamRows = 1_000_000
	}
	s := &Server{opt: opt, queries: newBudget(opt.MaxQueries), now: newNowCache(), metrics: newMeters()}
	s.handler = s.guard(s.routes())
	return s
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Listen opens the port, so that an address in use is known before anything
// else starts. Run does it when nobody did.
func (s *Server) Listen() (net.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		l, err := net.Listen("tcp", s.opt.Listen)
		if err != nil {
			return nil, fmt.Errorf("console: %w", err)
		}
		s.listener = l
	}
	return s.listener.Addr(), nil
}

// Run serves until ctx ends, then lets requests under way finish for at most
// five seconds. It returns nil after an orderly end.
func (s *Server) Run(ctx context.Context) error {
	if _, err := s.Listen(); err != nil {
		return err
	}
	// Requests live in a context of their own, so that ending ctx lets those
	// under way finish; what then still runs is cut off.
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(s.opt.Logger.Handler(), slog.LevelDebug),
	}
	sampler := make(chan struct{})
	sampleCtx, stop := context.WithCancel(ctx)
	go func() {
		defer close(sampler)
		s.sampleLosses(sampleCtx)
	}()
	defer func() { stop(); <-sampler }()

	failed := make(chan error, 1)
	go func() { failed <- server.Serve(s.listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("console: %w", err)
	case <-ctx.Done():
	}
	grace, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	if err := server.Shutdown(grace); err != nil {
		cut()
		server.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("console: %w", err)
	}
	return nil
}
