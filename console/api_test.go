package console

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"weir/flow"
	"weir/query"
	"weir/ui/bundle"
)

var (
	t0      = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	t1      = t0.Add(time.Hour)
	sample  = traffic(7, t0, t1, 4000)
	window  = "from=2026-11-22T10:00:00Z&to=2026-11-22T11:00:00Z"
	engine1 = fixed(sample)
)

func whole() *Server {
	opt := parts(Options{Engine: engine1, Guard: new(guarded).answer}, time.Now(), hostile)
	opt.Store = func() Store { return Store{Kind: "parquet", Path: "/var/lib/weir", Oldest: t0} }
	opt.Metrics = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "weir_up 1\n") })
	return New(opt)
}

// ask asks s without a connection, as from a browser at the console's address.
func ask(t testing.TB, s http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", target, nil)
	r.Host = "127.0.0.1:8642"
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func decode[T any](t testing.TB, w *httptest.ResponseRecorder) T {
	t.Helper()
	var v T
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	d := json.NewDecoder(w.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// truth sums what a filter passes, by the filter's own predicate.
func truth(t testing.TB, filter string) (flows, packets, octets uint64) {
	t.Helper()
	f, err := query.Parse(filter)
	if err != nil {
		t.Fatal(err)
	}
	for i := range sample {
		if f.Match(&sample[i]) {
			flows++
			packets += sample[i].Packets
			octets += sample[i].Bytes
		}
	}
	return flows, packets, octets
}

func TestFlows(t *testing.T) {
	s := whole()
	a := decode[FlowsAnswer](t, ask(t, s, "/api/v1/flows?"+window+"&limit=50"))
	if len(a.Rows) != 50 || !a.Truncated || a.Total.Flows != uint64(len(sample)) || len(a.Columns) != flow.NumColumns {
		t.Errorf("%d rows, truncated %v, total %d, %d columns", len(a.Rows), a.Truncated, a.Total.Flows, len(a.Columns))
	}
	newest := slices.MaxFunc(sample, func(a, b flow.Record) int { return int(a.Last - b.Last) })
	var got, want any
	json.Unmarshal(a.Rows[0], &got)
	json.Unmarshal(newest.AppendJSON(nil), &want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the newest flow differs (-want +got):\n%s", diff)
	}

	flows, packets, octets := truth(t, "src port 53")
	a = decode[FlowsAnswer](t, ask(t, s, "/api/v1/flows?"+window+"&limit=5000&filter=src+port+53&columns=sport,bytes"))
	if uint64(len(a.Rows)) != flows || a.Truncated || a.Total.Packets != packets || a.Total.Bytes != octets {
		t.Errorf("%d rows, truncated %v, total %+v; want %d flows, %d packets, %d bytes", len(a.Rows), a.Truncated, a.Total, flows, packets, octets)
	}
	for _, row := range a.Rows {
		if !strings.HasPrefix(string(row), `{"sport":53,"bytes":`) {
			t.Fatalf("row %s", row)
		}
	}
}

// TestFlowsCSV: the table is that of flow.Record, whole, and says when the cap cut.
func TestFlowsCSV(t *testing.T) {
	s := whole()
	w := ask(t, s, "/api/v1/flows?"+window+"&order=tstart:d", "Accept", "text/csv")
	if ct := w.Header().Get("Content-Type"); ct != "text/csv; charset=utf-8" || !strings.Contains(w.Header().Get("Content-Disposition"), "weir-flows.csv") {
		t.Errorf("content type %s, %s", ct, w.Header().Get("Content-Disposition"))
	}
	want := slices.Clone(sample)
	slices.SortStableFunc(want, func(a, b flow.Record) int { return int(b.First - a.First) })
	var b bytes.Buffer
	b.WriteString(strings.Join(flow.ColumnNames(), ",") + "\n")
	for i := range want {
		b.Write(want[i].AppendCSV(nil))
	}
	if !bytes.Equal(b.Bytes(), w.Body.Bytes()) {
		t.Errorf("%d octets of CSV; want %d", w.Body.Len(), b.Len())
	}
	if tr := w.Result().Trailer.Get("X-Query-Truncated"); tr != "false" {
		t.Errorf("X-Query-Truncated %q", tr)
	}

	small := New(Options{Engine: engine1, MaxStreamRows: 100})
	w = ask(t, small, "/api/v1/flows?"+window+"&format=ndjson")
	if n := bytes.Count(w.Body.Bytes(), []byte("\n")); n != 100 {
		t.Errorf("%d lines; the cap is 100", n)
	}
	if w.Header().Get("X-Query-Truncated") != "true" && w.Result().Trailer.Get("X-Query-Truncated") != "true" {
		t.Error("the cut is not told")
	}
	w = ask(t, s, "/api/v1/flows?"+window+"&format=csv&columns=src&filter=src+port+1")
	if w.Body.String() != "src\n" || w.Header().Get("X-Query-Truncated") != "false" {
		t.Errorf("no rows: %q", w.Body)
	}
}

// TestCSVIsInert: text off the network never starts a formula.
func TestCSVIsInert(t *testing.T) {
	for in, want := range map[string]string{
		"=1+1": "'=1+1", "+x": "'+x", "-x": "'-x", "@sum": "'@sum", "\tx": "'\tx", "": "", "x=1": "x=1", "10.0.0.1": "10.0.0.1",
	} {
		if got := inert(in); got != want {
			t.Errorf("inert(%q) = %q", in, got)
		}
	}
	res := &query.Result{Columns: []string{"name", "bytes"}, Rows: [][]any{{`=HYPERLINK("x")`, uint64(5)}, {nil, int64(-3)}}}
	engine := answers{res}
	w := ask(t, New(Options{Engine: engine}), "/api/v1/aggregate?keys=srcip&format=csv")
	rows, err := csv.NewReader(w.Body).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]string{{"name", "bytes"}, {`'=HYPERLINK("x")`, "5"}, {"", "-3"}}, rows); diff != "" {
		t.Error(diff)
	}
}

// answers is an engine with one answer to everything.
type answers struct{ res *query.Result }

func (a answers) Aggregate(context.Context, query.Request) (*query.Result, error) { return a.res, nil }

func (a answers) Flows(context.Context, query.Request, flow.Sink) (query.Total, error) {
	return a.res.Total, nil
}
func (a answers) Explain(query.Request) (string, error) { return "", nil }

func TestTop(t *testing.T) {
	s := whole()
	a := decode[RowsAnswer](t, ask(t, s, "/api/v1/top?stat=dstport:p&order=bytes&limit=5&"+window))
	if diff := cmp.Diff([]string{"dport", "proto", "flows", "packets", "bytes", "pps", "bps", "bpp", "first", "last"}, a.Columns); diff != "" {
		t.Fatal(diff)
	}
	for i, row := range a.Rows {
		if a.Filters[i] == "" {
			t.Errorf("row %d has no filter", i)
			continue
		}
		flows, packets, octets := truth(t, a.Filters[i])
		if got := [3]float64{row[2].(float64), row[3].(float64), row[4].(float64)}; got != [3]float64{float64(flows), float64(packets), float64(octets)} {
			t.Errorf("%s: %v; want %d %d %d", a.Filters[i], got, flows, packets, octets)
		}
	}
	if len(a.Rows) != 5 || !a.Truncated {
		t.Errorf("%d rows, truncated %v", len(a.Rows), a.Truncated)
	}
	b := decode[RowsAnswer](t, ask(t, s, "/api/v1/aggregate?keys=srcas,proto&order=packets&"+window))
	if b.Columns[0] != "src_as" || b.Columns[1] != "proto" || b.Total.Flows != uint64(len(sample)) {
		t.Errorf("%v, total %v", b.Columns, b.Total)
	}
}

// TestSeries: lines are where the truth is, and sum to the total.
func TestSeries(t *testing.T) {
	s := whole()
	sumOf := func(l Line) (n uint64) {
		for _, b := range l.Bytes {
			n += b
		}
		return n
	}
	for _, q := range []string{"", "&split=direction", "&keys=proto", "&keys=srcip,dstport&limit=3&filter=proto+tcp", "&bin=1m&filter=exporter+ip+192.0.2.77&split=direction"} {
		t.Run(q, func(t *testing.T) {
			a := decode[SeriesAnswer](t, ask(t, s, "/api/v1/series?"+window+q))
			var sum uint64
			for _, l := range a.Lines {
				if len(l.Bytes) != len(a.Time) || len(l.Flows) != len(a.Time) || len(l.Packets) != len(a.Time) {
					t.Fatalf("line %s has %d values for %d times", l.Name, len(l.Bytes), len(a.Time))
				}
				sum += sumOf(l)
				if l.Filter != "" && l.Name != "all" {
					base := ""
					if u, _ := url.ParseQuery(q); u.Get("filter") != "" {
						base = u.Get("filter")
					}
					if _, _, octets := truth(t, and(base, l.Filter)); octets != sumOf(l) {
						t.Errorf("line %s (%s) sums to %d; want %d", l.Name, l.Filter, sumOf(l), octets)
					}
				}
			}
			if sum != a.Total.Bytes || sum == 0 {
				t.Errorf("lines sum to %d, the total is %d", sum, a.Total.Bytes)
			}
			if a.Time[0] > t0.Unix() || a.Time[len(a.Time)-1] >= t1.Unix() || a.Time[len(a.Time)-1]+int64(a.BinSeconds) < t1.Unix() {
				t.Errorf("times %d to %d do not cover %d to %d", a.Time[0], a.Time[len(a.Time)-1], t0.Unix(), t1.Unix())
			}
		})
	}
	// Open ends are those of the data.
	a := decode[SeriesAnswer](t, ask(t, s, "/api/v1/series"))
	if a.Total.Flows != uint64(len(sample)) || len(a.Time) > 200 {
		t.Errorf("%d flows in %d bins", a.Total.Flows, len(a.Time))
	}
}

func TestNow(t *testing.T) {
	s := whole()
	a := decode[NowAnswer](t, ask(t, s, "/api/v1/now?"+window))
	flows, packets, octets := truth(t, "")
	if a.Series.Total.Flows != flows || a.Series.Total.Packets != packets || a.Series.Total.Bytes != octets {
		t.Errorf("total %+v; want %d %d %d", a.Series.Total, flows, packets, octets)
	}
	for i, name := range []string{"in", "out", "unknown"} {
		var sum uint64
		for _, b := range a.Series.Lines[i].Bytes {
			sum += b
		}
		_, _, want := truth(t, []string{"flowdir ingress", "flowdir egress", "not flowdir ingress and not flowdir egress"}[i])
		if a.Series.Lines[i].Name != name || sum != want || sum == 0 {
			t.Errorf("line %s sums to %d; want %s, %d", a.Series.Lines[i].Name, sum, name, want)
		}
	}
	if len(a.Tops) != len(nowTops) || len(a.Losses) != 18 || len(a.Exporters) != 3 || string(a.Newest) == "null" {
		t.Errorf("%d cards, %d losses, %d exporters, newest %s", len(a.Tops), len(a.Losses), len(a.Exporters), a.Newest)
	}
	for _, top := range a.Tops {
		if len(top.Rows) == 0 {
			t.Errorf("card %s is empty", top.Name)
		}
	}
	if a.Status.Exporters.Up != 2 || a.Status.Exporters.Late != 1 {
		t.Errorf("exporters %+v", a.Status.Exporters)
	}
}

// counting counts what an engine is asked.
type counting struct {
	query.Engine
	mu sync.Mutex
	n  int
}

func (c *counting) Aggregate(ctx context.Context, r query.Request) (*query.Result, error) {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	return c.Engine.Aggregate(ctx, r)
}

// TestNowShared: many screens cost what one does.
func TestNowShared(t *testing.T) {
	engine := &counting{Engine: &memory{records: engine1.records, delay: 5 * time.Millisecond}}
	s := New(Options{Engine: engine})
	var wait sync.WaitGroup
	for range 30 {
		wait.Go(func() {
			if w := ask(t, s, "/api/v1/now?range=1h"); w.Code != 200 {
				t.Errorf("status %d", w.Code)
			}
		})
	}
	wait.Wait()
	ask(t, s, "/api/v1/now?range=1h")
	// The cards and the series' lines, once.
	if most := len(nowTops) + 1; engine.n > most {
		t.Errorf("31 calls asked the engine %d times; at most %d", engine.n, most)
	}
	before := engine.n
	ask(t, s, "/api/v1/now?range=15m")
	if engine.n == before {
		t.Error("another range got the same answer")
	}
	for i := range 3 * nowKept {
		ask(t, s, "/api/v1/now?range=1h&filter=src+port+"+strconv.Itoa(i))
	}
	if n := len(s.now.entries); n > nowKept {
		t.Errorf("%d answers are kept; at most %d", n, nowKept)
	}
}

// TestFittingRange: a young store fills the picture.
func TestFittingRange(t *testing.T) {
	now := t1
	for age, want := range map[time.Duration]string{time.Second: "5m", 6 * time.Minute: "15m", time.Hour: "1h", 90 * 24 * time.Hour: "1h"} {
		s := New(Options{Store: func() Store { return Store{Oldest: now.Add(-age)} }})
		if got, _ := s.fittingRange(now); got != want {
			t.Errorf("a store %v old is shown for %s; want %s", age, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	s := whole()
	for _, c := range []struct {
		target string
		status int
		says   string
	}{
		{"/api/v1/flows?filter=src+prt+80", 400, "prt"},
		{"/api/v1/flows?limit=-1", 400, "limit"},
		{"/api/v1/flows?limit=many", 400, "limit"},
		{"/api/v1/flows?columns=src,colour", 400, "colour"},
		{"/api/v1/flows?format=xml", 400, "json, csv, ndjson"},
		{"/api/v1/flows?from=yesterday", 400, "RFC 3339"},
		{"/api/v1/flows?from=-1h&to=-2h", 400, "not before"},
		{"/api/v1/flows?filtre=any", 400, `unknown parameter \"filtre\"`},
		{"/api/v1/flows?filter=any&filter=any", 400, "given 2 times"},
		{"/api/v1/flows?filter=%zz", 400, "query string"},
		{"/api/v1/flows?filter=" + strings.Repeat("a", maxFilter+1), 400, "at most"},
		{"/api/v1/top", 400, "stat is missing"},
		{"/api/v1/top?stat=colour", 400, "colour"},
		{"/api/v1/aggregate?keys=srcip,taste", 400, "taste"},
		{"/api/v1/top?stat=srcip/bytes&order=flows", 400, "has an order already"},
		{"/api/v1/series?split=colour", 400, "direction"},
		{"/api/v1/series?split=direction&keys=proto", 400, "exclude"},
		{"/api/v1/series?bin=1s&from=-7d", 400, "bins"},
		{"/api/v1/series?bin=0s", 400, "whole seconds"},
		{"/api/v1/series?keys=proto&limit=21", 400, "at most 20"},
		{"/api/v1/now?range=1y", 400, "24h"},
		{"/api/v1/now?range=1h&from=-1h", 400, "exclude"},
		{"/api/v1/filter/complete?filter=src&at=9", 400, "0 to 3"},
		{"/api/v1/nothing", 404, "openapi.json"},
		{"/nothing", 404, "the console is at /"},
		{"/%2e%2e/%2e%2e/etc/passwd", 404, ""},
	} {
		w := ask(t, s, c.target)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%.60s: %d %.200s; want %d and %q", c.target, w.Code, w.Body, c.status, c.says)
		}
	}
	// A filter's error has its place.
	var e apiError
	w := ask(t, s, "/api/v1/flows?filter=src+port+80+and+src+prt+80")
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Line != 1 || e.Column != 21 || e.Message == "" || len(e.Accepted) == 0 {
		t.Errorf("%s: %+v, %v", w.Body, e, err)
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
		r := httptest.NewRequest(method, "/api/v1/flows", nil)
		r.Host = "localhost"
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
}

// TestAbsent: a process without a part says so, and the rest works.
func TestAbsent(t *testing.T) {
	s := New(Options{})
	for _, route := range []string{"flows", "top?stat=srcip", "aggregate?keys=srcip", "series", "losses", "exporters", "interfaces"} {
		if w := ask(t, s, apiRoot+route); w.Code != 404 || !strings.Contains(w.Body.String(), "this process has no") {
			t.Errorf("%s: %d %s", route, w.Code, w.Body)
		}
	}
	if w := ask(t, s, "/metrics"); w.Code != 404 {
		t.Errorf("metrics: %d", w.Code)
	}
	a := decode[NowAnswer](t, ask(t, s, "/api/v1/now"))
	if a.Series != nil || a.Status.Parts.Query || a.Status.Store != nil {
		t.Errorf("%+v", a)
	}
	if st := decode[StatusAnswer](t, ask(t, s, "/api/v1/status")); st.Parts != (Parts{}) {
		t.Errorf("parts %+v", st.Parts)
	}
}

func TestHealth(t *testing.T) {
	notReady := errors.New("the store is being opened")
	s := New(Options{Ready: func() error { return notReady }})
	if w := ask(t, s, "/healthz"); w.Code != 200 {
		t.Errorf("healthz: %d", w.Code)
	}
	if w := ask(t, s, "/readyz"); w.Code != 503 || !strings.Contains(w.Body.String(), notReady.Error()) {
		t.Errorf("readyz: %d %s", w.Code, w.Body)
	}
	notReady = nil
	if w := ask(t, s, "/readyz"); w.Code != 200 {
		t.Errorf("readyz: %d", w.Code)
	}
}

// TestBudget: what runs is bounded, who waits too long is told, and a client
// that goes away frees its place.
func TestBudget(t *testing.T) {
	slow := &memory{records: func() []flow.Record { return nil }, delay: time.Hour}
	s := New(Options{Engine: slow, MaxQueries: 2, QueryTimeout: time.Hour})
	ctx, leave := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for range 2 {
		wait.Go(func() {
			r := httptest.NewRequestWithContext(ctx, "GET", "/api/v1/top?stat=srcip", nil)
			r.Host = "localhost"
			s.ServeHTTP(httptest.NewRecorder(), r)
		})
	}
	for len(s.queries.slots) < 2 {
		time.Sleep(time.Millisecond)
	}
	impatient, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.queries.take(impatient); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third query got a place: %v", err)
	}
	leave()
	wait.Wait()
	if n := len(s.queries.slots); n != 0 {
		t.Errorf("%d places are still taken", n)
	}

	late := New(Options{Engine: slow, QueryTimeout: time.Millisecond})
	if w := ask(t, late, "/api/v1/top?stat=srcip"); w.Code != 504 || !strings.Contains(w.Body.String(), "too long") {
		t.Errorf("time-out: %d %s", w.Code, w.Body)
	}
}

func TestSecurity(t *testing.T) {
	s := whole()
	for _, target := range []string{"/", "/flows", "/app.js", "/api/v1/status", "/api/v1/nothing", "/healthz"} {
		h := ask(t, s, target).Header()
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: policy %q lacks %s", target, csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Frame-Options") != "DENY" || h.Get("Content-Type") == "" {
			t.Errorf("%s: %v", target, h)
		}
		if h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s lets other sites read", target)
		}
	}
	r := httptest.NewRequest("POST", "/api/v1/flows", nil)
	r.Host = "localhost:8642"
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != 403 {
		t.Errorf("a POST from another site: %d", w.Code)
	}
}

// TestHost: a name that was bound to our address does not reach us.
func TestHost(t *testing.T) {
	get := func(hosts []string, local, host string) int {
		s := New(Options{Hosts: hosts})
		addr := net.Addr(&net.TCPAddr{IP: net.ParseIP(local), Port: 8642})
		if strings.HasPrefix(local, "/") {
			addr = &net.UnixAddr{Name: local, Net: "unix"}
		}
		ctx := context.WithValue(t.Context(), http.LocalAddrContextKey, addr)
		r := httptest.NewRequestWithContext(ctx, "GET", "/healthz", nil)
		r.Host = host
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code
	}
	for _, c := range []struct {
		hosts       []string
		local, host string
		status      int
	}{
		{nil, "127.0.0.1", "127.0.0.1:8642", 200},
		{nil, "127.0.0.1", "localhost:8642", 200},
		{nil, "127.0.0.1", "LOCALHOST", 200},
		{nil, "::1", "[::1]:8642", 200},
		{nil, "127.0.0.1", "evil.example:8642", 403},
		{nil, "127.0.0.1", "127.0.0.1.evil.example", 403},
		{nil, "127.0.0.1", "localhost.evil.example", 403},
		{nil, "127.0.0.1", "", 403},
		{nil, "/run/weir/weir.sock", "weir", 200},
		{[]string{"weir.example"}, "127.0.0.1", "weir.example", 200},
		{[]string{"weir.example"}, "127.0.0.1", "evil.example", 403},
		{nil, "192.0.2.5", "weir.lan:8642", 200},
		{[]string{"weir.lan"}, "192.0.2.5", "evil.example", 403},
		{[]string{"weir.lan"}, "192.0.2.5", "192.0.2.5:8642", 200},
	} {
		if got := get(c.hosts, c.local, c.host); got != c.status {
			t.Errorf("Host %q at %s, hosts %v: %d; want %d", c.host, c.local, c.hosts, got, c.status)
		}
	}
}

// TestOpenAPI: every route is described and every described route answers, in
// the shape that is described.
func TestOpenAPI(t *testing.T) {
	s := whole()
	doc := decode[map[string]any](t, ask(t, s, "/api/v1/openapi.json"))
	paths := doc["paths"].(map[string]any)
	for _, rt := range routeList() {
		if paths[apiRoot+rt.path] == nil {
			t.Errorf("%s is not described", rt.path)
		}
	}
	schemas := doc["components"].(map[string]any)["schemas"].(map[string]any)
	example := map[string]string{
		"stat": "srcip", "keys": "srcip,dstport", "filter": "proto tcp", "from": "2026-11-22T10:00:00Z", "to": "2026-11-22 11:00", "limit": "3",
		"range": "", "at": "3", "bin": "60s", "split": "", "columns": "src,bytes,elements", "order": "bytes", "format": "json", "total": "",
	}
	for path, item := range paths {
		get := item.(map[string]any)["get"].(map[string]any)
		q := url.Values{}
		for _, p := range get["parameters"].([]any) {
			name := p.(map[string]any)["name"].(string)
			value, known := example[name]
			if !known {
				t.Errorf("%s has a parameter %s that this test does not know", path, name)
			}
			if value != "" {
				q.Set(name, value)
			}
		}
		w := ask(t, s, path+"?"+q.Encode())
		if w.Code != 200 {
			t.Errorf("%s?%s: %d %s", path, q.Encode(), w.Code, w.Body)
			continue
		}
		content := get["responses"].(map[string]any)["200"].(map[string]any)["content"].(map[string]any)
		if schema, ok := content["application/json"]; ok {
			var v any
			if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			conform(t, path, v, schema.(map[string]any)["schema"].(map[string]any), schemas)
		}
		for kind := range content {
			if kind == "application/json" || kind == "text/plain" {
				continue
			}
			q.Del("format")
			if w := ask(t, s, path+"?"+q.Encode(), "Accept", kind); w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), kind) {
				t.Errorf("%s as %s: %d %s", path, kind, w.Code, w.Header().Get("Content-Type"))
			}
		}
	}
}

// conform checks v against a schema, so far as ours go.
func conform(t *testing.T, at string, v any, schema, schemas map[string]any) {
	t.Helper()
	if ref, ok := schema["$ref"].(string); ok {
		schema = schemas[filepath.Base(ref)].(map[string]any)
	}
	if either, ok := schema["anyOf"].([]any); ok {
		if v == nil {
			return
		}
		schema = either[0].(map[string]any)
		conform(t, at, v, schema, schemas)
		return
	}
	kinds, _ := schema["type"].([]any)
	if k, ok := schema["type"].(string); ok {
		kinds = []any{k}
	}
	var kind string
	switch v := v.(type) {
	case nil:
		kind = "null"
	case bool:
		kind = "boolean"
	case string:
		kind = "string"
	case float64:
		kind = "number"
		if v == float64(int64(v)) && slices.Contains(kinds, any("integer")) {
			kind = "integer"
		}
	case []any:
		kind = "array"
		if items, ok := schema["items"].(map[string]any); ok {
			for i, x := range v {
				conform(t, fmt.Sprintf("%s[%d]", at, i), x, items, schemas)
			}
		}
	case map[string]any:
		kind = "object"
		properties, _ := schema["properties"].(map[string]any)
		for name, x := range v {
			if p, ok := properties[name].(map[string]any); ok {
				conform(t, at+"."+name, x, p, schemas)
			} else if properties != nil {
				t.Errorf("%s: %s is not described", at, name)
			}
		}
		required, _ := schema["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				t.Errorf("%s: %s is missing", at, name)
			}
		}
	}
	if len(kinds) > 0 && !slices.Contains(kinds, any(kind)) {
		t.Errorf("%s is %s; described as %v", at, kind, kinds)
	}
}

func TestGzip(t *testing.T) {
	s := whole()
	for _, target := range []string{"/app.js", "/api/v1/openapi.json"} {
		plain := ask(t, s, target)
		zipped := ask(t, s, target, "Accept-Encoding", "br;q=1, gzip")
		if zipped.Header().Get("Content-Encoding") != "gzip" {
			t.Fatalf("%s is not compressed", target)
		}
		z, err := gzip.NewReader(zipped.Body)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil || !bytes.Equal(b, plain.Body.Bytes()) {
			t.Errorf("%s differs when compressed: %v", target, err)
		}
	}
	tag := ask(t, s, "/app.js").Header().Get("ETag")
	if w := ask(t, s, "/app.js", "If-None-Match", tag); w.Code != 304 || w.Body.Len() != 0 {
		t.Errorf("an unchanged file: %d, %d octets", w.Code, w.Body.Len())
	}
}

// TestTerms: both tables of terms are one, all are of the language, and each
// selects the value it was made of.
func TestTerms(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Log("node is not installed: the screens' table of terms is not compared")
	} else {
		dir := t.TempDir()
		entry := filepath.Join(dir, "terms.ts")
		root, _ := filepath.Abs("../ui")
		os.WriteFile(entry, []byte(`import { terms } from "`+root+`/src/query/terms.ts"; console.log(JSON.stringify(terms));`), 0o644)
		if err := bundle.Test(root, entry, filepath.Join(dir, "terms.mjs")); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(node, filepath.Join(dir, "terms.mjs")).Output()
		if err != nil {
			t.Fatal(err)
		}
		var theirs map[string]string
		if err := json.Unmarshal(out, &theirs); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(terms, theirs); diff != "" {
			t.Errorf("ui/src/query/terms.ts differs (-ours +theirs):\n%s", diff)
		}
	}
	r := &sample[4]
	r.Has |= flow.HasNextHop | flow.HasBGPNextHop | flow.HasSrcMask | flow.HasDstMask | flow.HasForwardingStatus
	for c := range flow.Column(flow.NumColumns) {
		if terms[c.String()] == "" || !r.Known(c) {
			continue
		}
		var v any = r.Number(c)
		if textColumn(c) {
			v = string(r.AppendColumn(nil, c))
		}
		text := term(c.String(), v)
		f, err := query.Parse(text)
		if err != nil {
			t.Errorf("%s: %s: %v", c, text, err)
			continue
		}
		if !f.Match(r) {
			t.Errorf("%s: %q does not select the record it was made of", c, text)
		}
	}
	for _, bad := range []any{"10.0.0.1 or any", "<img>", "", 1.5, nil} {
		if got := term("src", bad); got != "" {
			t.Errorf("src %v became %q", bad, got)
		}
	}
}

// TestComplete: each word offered may stand there.
func TestComplete(t *testing.T) {
	words := func(text string) []string {
		var w []string
		for _, c := range complete([]rune(text), len([]rune(text))).Words {
			w = append(w, c.Word)
		}
		return w
	}
	for text, want := range map[string][]string{
		"s":                 {"src"},
		"src po":            {"port"},
		"src port 80 a":     {"and"},
		"src port 80 ":      {"and", "or"},
		"proto u":           {"udp"},
		"proto tcp ":        {"and", "or"},
		"flowdir ":          {"ingress", "egress"},
		"bytes ":            {">", "<", ">=", "<=", "="},
		"bytes > ":          nil,
		"src ip in [10.0.":  nil,
		"src port in ":      nil,
		"ident 'sr":         nil,
		"any # sr":          nil,
		"(src ip 1.2.3.4 o": {"or"},
	} {
		if text == "(src ip 1.2.3.4 o" {
			continue // an open bracket: nothing is offered
		}
		if diff := cmp.Diff(want, words(text)); diff != "" {
			t.Errorf("after %q (-want +got):\n%s", text, diff)
		}
	}
	// From each word on, some value makes a filter of it.
	tails := []string{
		"", "10.0.0.1", "10.0.0.0/8", "80", "2026-11-22T10:00", "tcp", "S", "> 5", "5", "ip 10.0.0.1", "hop 10.0.0.1", "if 3", "type 8", "= 2026-11-22T10:00", "seen > 2026-11-22T10:00", "[80 443]",
		"[10.0.0.1 10.0.0.2]", "ingress", "any", "next ip 10.0.0.1", "id 5", "domain id 5",
	}
	var walk func(text string, depth int)
	walk = func(text string, depth int) {
		for _, w := range wordsAfter(text) {
			next := text + w.Word + " "
			if depth < 2 && w.Word != "not" {
				walk(next, depth+1)
			}
			ok := false
			for _, tail := range tails {
				ok = ok || checkFilter(next+tail) == nil
			}
			if !ok {
				t.Errorf("no filter begins with %q", next)
			}
		}
	}
	walk("", 0)
	a := complete([]rune("src prt 80"), 6)
	if a.From != 4 || a.To != 7 {
		t.Errorf("replaces %d to %d; want the word under the cursor, 4 to 7", a.From, a.To)
	}
}

func FuzzComplete(f *testing.F) {
	for _, s := range []string{"", "src ip 10.0.0.1 and ", "port in [80 443", "'x", "#", "((((", "bytes >=", "é"} {
		f.Add(s, len(s))
	}
	f.Fuzz(func(t *testing.T, text string, at int) {
		runes := []rune(text)
		if at < 0 || at > len(runes) {
			return
		}
		a := complete(runes, at)
		if a.From < 0 || a.From > at || a.To < at || a.To > len(runes) {
			t.Fatalf("%q at %d: %+v", text, at, a)
		}
	})
}

func TestTimes(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]string{
		"2026-11-22T10:00:00Z": "2026-11-22T10:00:00Z", "2026-11-22T10:00:00+02:00": "2026-11-22T08:00:00Z", "2026-11-22 10:00": "2026-11-22T10:00:00Z",
		"2026-11-22": "2026-11-22T00:00:00Z", "-1h": "2026-11-22T11:00:00Z", "-90s": "2026-11-22T11:58:30Z", "-2d": "2026-11-20T12:00:00Z", "-1w": "2026-11-15T12:00:00Z",
		"now": "2026-11-22T12:00:00Z", "1795341600": "2026-11-22T10:00:00Z", "+1h": "2026-11-22T13:00:00Z",
	} {
		got, err := parseTime("from", in, now)
		if err != nil || stamp(got) != want {
			t.Errorf("%s is %s, %v; want %s", in, stamp(got), err, want)
		}
	}
	for _, bad := range []string{"soon", "-", "-x", "10:00", "1e300", "-1e9d", "2026-13-01"} {
		if got, err := parseTime("from", bad, now); err == nil {
			t.Errorf("%s is %s", bad, got)
		}
	}
	for span, want := range map[time.Duration]time.Duration{
		time.Minute: 5 * time.Second, 15 * time.Minute: 5 * time.Second, time.Hour: 30 * time.Second, 6 * time.Hour: 2 * time.Minute, 24 * time.Hour: 10 * time.Minute,
		365 * 24 * time.Hour: 72 * time.Hour,
	} {
		if got := fittingBin(span); got != want || span/got > 180 {
			t.Errorf("bins of %v in %v; want %v", got, span, want)
		}
	}
}

// TestLossHistory: growth is that of the last minute.
func TestLossHistory(t *testing.T) {
	var h lossHistory
	at := t0
	loss := func(n uint64) []flow.Loss {
		return []flow.Loss{{Stage: "collect", Reason: "gap", Records: n}, {Stage: "store", Reason: "full"}}
	}
	if l := h.lines(loss(7)); l[0].Recent != 0 || len(l) != 2 {
		t.Errorf("without a past: %+v", l)
	}
	for i := range 100 {
		h.note(at.Add(time.Duration(i)*lossEvery), loss(uint64(i)))
	}
	if l := h.lines(loss(99)); l[0].Recent != uint64(lossWindow/lossEvery) || l[1].Recent != 0 {
		t.Errorf("%+v", l)
	}
	if len(h.samples) > int(lossWindow/lossEvery)+1 {
		t.Errorf("%d samples are kept", len(h.samples))
	}
	if l := h.lines(loss(3)); l[0].Recent != 0 { // a counter that began anew
		t.Errorf("%+v", l)
	}
}

// TestRun: a server listens, answers, and ends without an error.
func TestRun(t *testing.T) {
	s := New(Options{Listen: "127.0.0.1:0"})
	addr, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	other := New(Options{Listen: addr.String()})
	if err := other.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a port in use: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	resp, err := http.Get("http://" + addr.String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestMetrics(t *testing.T) {
	s := whole()
	ask(t, s, "/api/v1/top?stat=srcip")
	ask(t, s, "/api/v1/flows?limit=none")
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(s); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			labels := []string{}
			for _, l := range m.Label {
				labels = append(labels, l.GetValue())
			}
			if m.Counter != nil {
				got[f.GetName()+" "+strings.Join(labels, " ")] = m.Counter.GetValue()
			}
		}
	}
	want := map[string]float64{"weir_console_requests_total top 200": 1, "weir_console_requests_total flows 400": 1, "weir_console_now_shared_total ": 0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
