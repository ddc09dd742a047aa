package console

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"weir/query"
)

// route is one line of the API. The list below is the router's and the
// description's alike, so neither knows of something the other does not.
type route struct {
	path    string
	summary string
	params  []param
	answer  any      // zero value of what is answered in JSON; nil: not JSON
	types   []string // other media types of the answer
	handle  func(*Server, http.ResponseWriter, *http.Request) error
}

// param is a query parameter.
type param struct {
	name, kind, help string
	required         bool
}

var (
	pFilter = param{name: "filter", kind: "string", help: "filter in nfdump's language; empty: everything"}
	pFrom   = param{name: "from", kind: "string", help: "flows that end at or after: RFC 3339, 2026-11-22 10:00 (UTC), Unix seconds, or relative as -1h; empty: from the first"}
	pTo     = param{name: "to", kind: "string", help: "flows that end before; same forms; empty: no end"}
	pOrder  = param{name: "order", kind: "string", help: "order of the rows: flows, packets, bytes, pps, bps, bpp, tstart, tend, duration; then :a or :d, ascending or descending"}
	pLimit  = param{name: "limit", kind: "integer", help: "rows at most"}
	pFormat = param{name: "format", kind: "string", help: "json (default), csv or ndjson; Accept: text/csv or application/x-ndjson does the same"}
	pStat   = param{name: "stat", kind: "string", help: "statistic, as query's -s: srcip, dstport:p, proto/bytes", required: true}
	pKeys   = param{name: "keys", kind: "string", help: "aggregation keys, as query's -A: srcip,dstport", required: true}
)

// routeList is the API.
func routeList() []route {
	return []route{
		{
			"flows", "Flow records, newest first unless ordered otherwise",
			[]param{
				pFilter, pFrom, pTo, pOrder, pLimit,
				{name: "columns", kind: "string", help: "columns by name, comma-separated; empty: all"},
				{name: "total", kind: "string", help: "false: leave out the total when the limit cut, which spares a query"},
				pFormat,
			},
			FlowsAnswer{},
			[]string{"text/csv", "application/x-ndjson"},
			(*Server).flows,
		},
		{
			"top", "The largest keys of a statistic",
			[]param{pStat, pFilter, pFrom, pTo, pOrder, pLimit, pFormat},
			RowsAnswer{},
			[]string{"text/csv", "application/x-ndjson"},
			(*Server).top,
		},
		{
			"aggregate", "Flows summed by keys",
			[]param{pKeys, pFilter, pFrom, pTo, pOrder, pLimit, pFormat},
			RowsAnswer{},
			[]string{"text/csv", "application/x-ndjson"},
			(*Server).aggregate,
		},
		{
			"series", "Traffic over time: the sum, by direction, or the largest keys and the rest",
			[]param{
				{name: "bin", kind: "string", help: "width of a bin: 10s, 5m; empty: fitting"},
				{name: "keys", kind: "string", help: "one line for each of the largest keys, as query's -A"},
				{name: "split", kind: "string", help: "direction: one line for in, one for out, one for flows that do not say"},
				pFilter, pFrom, pTo, pOrder, pLimit,
			},
			SeriesAnswer{},
			nil, (*Server).series,
		},
		{
			"now", "What the Now screen shows, in one call; shared between callers for at least two seconds",
			[]param{{name: "range", kind: "string", help: "5m, 15m, 1h, 6h or 24h before now; empty: what fits the data"}, pFilter, pFrom, pTo},
			NowAnswer{},
			nil, (*Server).nowPage,
		},
		{
			"filter/check", "Whether a filter is well-formed, and where it is not",
			[]param{pFilter},
			CheckAnswer{},
			nil, (*Server).filterCheck,
		},
		{
			"filter/complete", "Words that may stand at a place of a filter",
			[]param{pFilter, {name: "at", kind: "integer", help: "the place, in characters from 0; empty: the end"}},
			CompleteAnswer{},
			nil, (*Server).filterComplete,
		},
		{"losses", "Every counter of loss, zeros included", nil, LossesAnswer{}, nil, (*Server).lossesPage},
		{"exporters", "The senders of flow records", nil, ExportersAnswer{}, nil, (*Server).exporters},
		{"interfaces", "The interfaces metered here and those told by exporters", nil, InterfacesAnswer{}, nil, (*Server).interfaces},
		{"guard", "Attacks with their evidence, and what is done about them, or would be", nil, GuardAnswer{}, nil, (*Server).guardPage},
		{"status", "The process and its parts", nil, StatusAnswer{}, nil, (*Server).status},
		{"openapi.json", "This description", nil, map[string]any{}, nil, (*Server).openapi},
	}
}

const apiRoot = "/api/v1/"

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range routeList() {
		mux.Handle("GET "+apiRoot+rt.path, s.answer(rt))
	}
	mux.HandleFunc("GET "+apiRoot, func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &apiError{Status: http.StatusNotFound, Message: "no such route: " + r.URL.Path + "; see " + apiRoot + "openapi.json"})
	})
	mux.HandleFunc("POST "+apiRoot+"guard", s.guardAction)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if s.opt.Metrics == nil {
			writeError(w, absent("metrics"))
			return
		}
		s.opt.Metrics.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { plain(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if s.opt.Ready != nil {
			if err := s.opt.Ready(); err != nil {
				plain(w, http.StatusServiceUnavailable, "not ready: "+err.Error()+"\n")
				return
			}
		}
		plain(w, http.StatusOK, "ready\n")
	})
	mux.Handle("GET /", newScreens())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead && (r.Method != http.MethodPost || r.URL.Path != apiRoot+"guard") {
			w.Header().Set("Allow", "GET, HEAD")
			writeError(w, &apiError{Status: http.StatusMethodNotAllowed, Message: r.Method + " is not allowed: this server only reads"})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write([]byte(text))
}

// answer runs a route and counts it.
func (s *Server) answer(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &statusWriter{ResponseWriter: w, engine: s.opt.Engine}
		if err := rt.checkParams(r); err != nil {
			writeError(rec, err)
		} else if err := rt.handle(s, rec, r); err != nil {
			if rec.status == 0 {
				writeError(rec, err)
			} else if r.Context().Err() == nil {
				// Too late for a status: break the stream, so that nobody takes
				// half an answer for a whole one.
				s.opt.Logger.Warn("answer cut short", "route", rt.path, "err", err)
				s.metrics.request(rt.path, rec.status, time.Since(start))
				panic(http.ErrAbortHandler)
			}
		}
		if rec.status >= 500 {
			s.opt.Logger.Warn("request failed", "route", rt.path, "status", rec.status)
		}
		s.metrics.request(rt.path, rec.status, time.Since(start))
	})
}

// checkParams refuses parameters the route does not know: a misspelt filter
// must not answer for everything.
func (rt route) checkParams(r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	for name := range query {
		known := false
		for _, p := range rt.params {
			known = known || p.name == name
		}
		if !known {
			names := make([]string, len(rt.params))
			for i, p := range rt.params {
				names[i] = p.name
			}
			return badRequest("unknown parameter %s; accepted: %s", strconv.Quote(name), strings.Join(names, ", "))
		}
		if len(query[name]) > 1 {
			return badRequest("parameter %s is given %d times", name, len(query[name]))
		}
	}
	for _, p := range rt.params {
		if p.required && query.Get(p.name) == "" {
			return badRequest("parameter %s is missing: %s", p.name, p.help)
		}
	}
	return nil
}

// statusWriter remembers the status, and says in a header when answers lack
// the records of segments that were found broken.
type statusWriter struct {
	http.ResponseWriter
	engine query.Engine
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		if n := len(query.Broken(w.engine)); n > 0 {
			w.Header().Set("X-Query-Incomplete", fmt.Sprintf("%d broken segments", n))
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// apiError is what an error looks like on the wire.
type apiError struct {
	Status  int    `json:"-"`
	Message string `json:"error"`
	// Of a filter only: where its sense was lost.
	Line       int      `json:"line,omitempty"`
	Column     int      `json:"column,omitempty"`
	Width      int      `json:"width,omitempty"`
	Accepted   []string `json:"accepted,omitempty"`
	Suggestion string   `json:"suggestion,omitempty"`

	retry bool
}

func (e *apiError) Error() string { return e.Message }

func badRequest(format string, args ...any) *apiError {
	return &apiError{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

func absent(what string) *apiError {
	return &apiError{Status: http.StatusNotFound, Message: "this process has no " + what}
}

// asAPIError finds the status that fits an error.
func asAPIError(err error) *apiError {
	var api *apiError
	var syntax *query.SyntaxError
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &syntax):
		return filterError(syntax)
	case errors.Is(err, context.DeadlineExceeded):
		return &apiError{Status: http.StatusGatewayTimeout, Message: "the query took too long and was ended; narrow the time range or the filter"}
	case errors.Is(err, context.Canceled):
		return &apiError{Status: 499, Message: "the client went away"}
	}
	return &apiError{Status: http.StatusInternalServerError, Message: err.Error()}
}

func writeError(w http.ResponseWriter, err error) {
	e := asAPIError(err)
	if e.retry {
		w.Header().Set("Retry-After", "2")
	}
	b, _ := json.Marshal(e)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(e.Status)
	w.Write(append(b, '\n'))
}

// writeJSON answers v, compressed if the client can read that.
func writeJSON(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeJSONBytes(w, r, append(b, '\n'))
}

func writeJSONBytes(w http.ResponseWriter, r *http.Request, b []byte) error {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept-Encoding")
	if len(b) > 2048 && acceptsGzip(r) {
		var z bytes.Buffer
		gz, _ := gzip.NewWriterLevel(&z, gzip.BestSpeed)
		gz.Write(b)
		gz.Close()
		b = z.Bytes()
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	w.Write(b) // a client that went away is no failure of ours
	return nil
}

func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if name == "gzip" && strings.TrimSpace(q) != "q=0" {
			return true
		}
	}
	return false
}
