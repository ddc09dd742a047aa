//go:build cgo

package query

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weir/flow"
	"weir/store"
	"weir/store/storetest"
)

// fill makes a store of the records in segments of different sizes, some of
// them merged, and gives an engine over it.
func fill(t testing.TB, records []flow.Record) (Engine, *store.Store) {
	t.Helper()
	now := epoch
	s, err := store.Open(t.TempDir(), store.Options{CompactRows: 1000, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for i, n := 0, 1; i < len(records); i, n = i+n, n*2%701+1 {
		if err := s.WriteRecords(records[i:min(i+n, len(records))]); err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		if i < len(records)/2 {
			if err := s.Tidy(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	return engineOver(t, s.Stats().Dir), s
}

func engineOver(t testing.TB, dir string) Engine {
	t.Helper()
	r, err := store.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Open(r, Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Close(e) })
	return e
}

// anyRecords are records of which anything may be unknown, with their number as
// flow ID, as the store gives them back.
func anyRecords(seed uint64, n int) []flow.Record {
	records := storetest.NewTraffic(seed, epoch.UnixNano()).Any(n)
	for i := range records {
		records[i].FlowID = uint64(i)
		records[i].Has |= flow.HasFlowID
		storetest.AsStored(&records[i], epoch.UnixNano())
	}
	return records
}

// collect is a sink that keeps what it gets.
type collect []flow.Record

func (c *collect) WriteRecords(b []flow.Record) error { *c = append(*c, b...); return nil }

func event(r *flow.Record) int64 {
	switch {
	case r.Has&flow.HasLast != 0:
		return r.Last
	case r.Has&flow.HasFirst != 0:
		return r.First
	}
	return r.Received
}

// The engine's answer to a filter is what Match says of each record, and the
// records come back as they were, newest first.
func TestFlowsAgreeWithMatch(t *testing.T) {
	records := anyRecords(1, 3000)
	e, _ := fill(t, records)
	rapid.Check(t, func(t *rapid.T) {
		f := &Filter{randomFilter(t, 3)}
		r := Request{Filter: f.String()}
		if rapid.Bool().Draw(t, "span") {
			r.From = epoch.Add(-time.Duration(rapid.Int64Range(0, 3600e9).Draw(t, "from")) / 1000 * 1000)
			r.To = r.From.Add(time.Duration(rapid.Int64Range(0, 1800e9).Draw(t, "to")) / 1000 * 1000)
		}
		if rapid.Bool().Draw(t, "limited") {
			r.Limit = rapid.IntRange(1, 50).Draw(t, "limit")
		}
		if rapid.Bool().Draw(t, "oldest first") {
			r.Order = "tend:a"
		}
		var want []flow.Record
		for i := range records {
			at := event(&records[i])
			if f.Match(&records[i]) && (r.From.IsZero() || at >= r.From.UnixNano() && at < r.To.UnixNano()) {
				want = append(want, records[i])
			}
		}
		slices.SortStableFunc(want, func(a, b flow.Record) int {
			if r.Order != "" {
				a, b = b, a
			}
			return cmp.Compare(event(&b), event(&a))
		})
		if r.Limit > 0 {
			want = want[:min(r.Limit, len(want))]
		}
		var got collect
		total, err := e.Flows(context.Background(), r, &got)
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %d records, want %d", f, len(got), len(want))
		}
		var wantTotal Total
		for i := range got {
			if event(&got[i]) != event(&want[i]) {
				t.Fatalf("%s: record %d is of %d, want %d", f, i, event(&got[i]), event(&want[i]))
			}
			if d := gocmp.Diff(records[got[i].FlowID], got[i]); d != "" {
				t.Fatalf("%s: record %d (-written +read):\n%s", f, i, d)
			}
			wantTotal.add(&got[i])
		}
		if total != wantTotal {
			t.Fatalf("total %+v, want %+v", total, wantTotal)
		}
	})
}

// group is a row of the naive aggregation.
type group struct {
	keys           []any
	flows          uint64
	packets, bytes *big.Int // nil: none knew
	first, last    *int64   // ns
}

func (g *group) add(r *flow.Record) {
	g.flows++
	if r.Has&flow.HasPackets != 0 {
		g.packets = plus(g.packets, new(big.Int).SetUint64(r.Packets))
	}
	if r.Has&flow.HasBytes != 0 {
		g.bytes = plus(g.bytes, new(big.Int).SetUint64(r.Bytes))
	}
	if r.Has&flow.HasFirst != 0 && (g.first == nil || r.First < *g.first) {
		g.first = &r.First
	}
	if r.Has&flow.HasLast != 0 && (g.last == nil || r.Last > *g.last) {
		g.last = &r.Last
	}
}

func plus(a, b *big.Int) *big.Int {
	if a == nil {
		return b
	}
	return new(big.Int).Add(a, b)
}

// row is the group as a row of a Result.
func (g *group) row() []any {
	out := append([]any{}, g.keys...)
	out = append(out, g.flows, saturated(g.packets), saturated(g.bytes))
	var ms *big.Int
	if g.first != nil && g.last != nil {
		ms = new(big.Int).SetUint64(durationMs(*g.first, *g.last))
	}
	rate := func(n *big.Int, times int64) any {
		switch {
		case n == nil || ms == nil:
			return nil
		case ms.Sign() == 0:
			return uint64(0)
		}
		return saturated(new(big.Int).Div(new(big.Int).Mul(n, big.NewInt(times)), ms))
	}
	out = append(out, rate(g.packets, 1000), rate(g.bytes, 8000))
	switch {
	case g.packets == nil || g.bytes == nil:
		out = append(out, nil)
	case g.packets.Sign() == 0:
		out = append(out, uint64(0))
	default:
		out = append(out, saturated(new(big.Int).Div(g.bytes, g.packets)))
	}
	for _, ns := range []*int64{g.first, g.last} {
		if ns == nil {
			out = append(out, nil)
		} else {
			out = append(out, time.Unix(0, *ns).UTC())
		}
	}
	return out
}

func saturated(n *big.Int) any {
	switch {
	case n == nil:
		return nil
	case !n.IsUint64():
		return uint64(1<<64 - 1)
	}
	return n.Uint64()
}

// keyOf is a key of one side of a record: nil, a number or a text.
func keyOf(k key, side int, r *flow.Record) any {
	c := k.cols[min(side, len(k.cols)-1)]
	switch {
	case !known(r, c):
		return nil
	case !k.addr:
		return number(r, c)
	}
	a := address(r, c).Netip()
	bits := a.BitLen()
	switch {
	case !k.net:
		return a.String()
	case k.ownMask:
		if known(r, k.mask) {
			bits = min(bits, int(number(r, k.mask)))
		}
	case a.Is4() && k.bits4 > 0:
		bits = k.bits4
	case a.Is6() && k.bits6 > 0:
		bits = k.bits6
	default:
		return a.String()
	}
	p, err := a.Prefix(bits)
	if err != nil {
		panic(err)
	}
	if bits == a.BitLen() && !k.ownMask {
		return a.String()
	}
	return p.String()
}

// naive groups records that pass.
func naive(records []flow.Record, f *Filter, keys []key) map[string]*group {
	groups := map[string]*group{}
	sides := 1
	for _, k := range keys {
		sides = max(sides, len(k.cols))
	}
	for i := range records {
		if !f.Match(&records[i]) {
			continue
		}
		for side := range sides {
			values := make([]any, len(keys))
			skip := false
			for j, k := range keys {
				values[j] = keyOf(k, side, &records[i])
				skip = skip || len(k.cols) > 1 && values[j] == nil
			}
			if skip {
				continue
			}
			name := fmt.Sprint(values)
			if groups[name] == nil {
				groups[name] = &group{keys: values}
			}
			groups[name].add(&records[i])
		}
	}
	return groups
}

// Statistics and keys against a map.
func TestAggregateAgreesWithNaive(t *testing.T) {
	records := anyRecords(2, 3000)
	e, _ := fill(t, records)
	names := append([]string{"record"}, sortedKeys()...)
	rapid.Check(t, func(t *rapid.T) {
		f := &Filter{randomFilter(t, 1)}
		r := Request{Filter: f.String(), Limit: -1}
		var keys []key
		if rapid.Bool().Draw(t, "stat") {
			r.Stat = rapid.SampledFrom(names).Draw(t, "name")
			if rapid.Bool().Draw(t, "split") {
				r.Stat += ":p"
			}
			s, err := parseStat(r.Stat)
			if err != nil {
				t.Fatal(err)
			}
			if keys = s.keys; s.proto {
				keys = append(slices.Clone(keys), keyTable["proto"])
			}
		} else {
			r.Keys = rapid.SampledFrom([][]string{
				{"srcip4/24"},
				{"srcip6/33", "dstport"},
				{"srcip4/23,srcip6/63", "proto"},
				{"dstip4/1", "dstip6/127"},
				{"proto", "srcas", "dstas"},
				{"inif", "outif", "vlan", "tos"},
				{"srcnet"},
				{"dstnet", "flags"},
				{"exporter", "odid", "version"},
			}).Draw(t, "keys")
			var err error
			if keys, err = parseKeys(r.Keys); err != nil {
				t.Fatal(err)
			}
		}
		order := rapid.SampledFrom([]string{"", "flows", "packets:a", "bytes", "pps", "bps:a", "bpp", "tstart", "tend:d", "duration"}).Draw(t, "order")
		r.Order = order
		res, err := e.Aggregate(context.Background(), r)
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		want := naive(records, f, keys)
		got := map[string][]any{}
		for _, row := range res.Rows {
			name := fmt.Sprint(row[:len(keys)])
			if got[name] != nil {
				t.Fatalf("%+v: group %s is there twice", r, name)
			}
			got[name] = row
		}
		for name, g := range want {
			if d := gocmp.Diff(g.row(), got[name]); d != "" {
				t.Fatalf("%+v: group %s (-naive +engine):\n%s", r, name, d)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%+v: %d groups, want %d", r, len(got), len(want))
		}
		checkOrder(t, r, res)
		var total Total
		for i := range records {
			if f.Match(&records[i]) {
				total.add(&records[i])
			}
		}
		if res.Total != total {
			t.Fatalf("%+v: total %+v, want %+v", r, res.Total, total)
		}
		if n := len(res.Rows) / 2; n > 0 { // a limit gives the beginning of the same
			r.Limit = n
			part, err := e.Aggregate(context.Background(), r)
			if err != nil {
				t.Fatal(err)
			}
			if d := gocmp.Diff(res.Rows[:n], part.Rows); d != "" || !part.Truncated || part.Total != total {
				t.Fatalf("%+v: truncated %v, total %+v, rows (-all +limited):\n%s", r, part.Truncated, part.Total, d)
			}
		}
	})
}

func sortedKeys() []string {
	var out []string
	for name := range keyTable {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// checkOrder says whether the rows are in the order asked for.
func checkOrder(t *rapid.T, r Request, res *Result) {
	o := ordering{name: "flows"}
	if r.Order != "" {
		var err error
		if o, err = parseOrder(r.Order); err != nil {
			t.Fatal(err)
		}
	}
	if o.name == "duration" {
		return // no column of its own
	}
	at := slices.Index(res.Columns, o.name)
	for i := 1; i < len(res.Rows); i++ {
		a, b := res.Rows[i-1][at], res.Rows[i][at]
		if b == nil {
			continue
		}
		if a == nil {
			t.Fatalf("%+v: row %d: unknown before known", r, i)
		}
		c := 0
		switch a := a.(type) {
		case uint64:
			c = cmp.Compare(a, b.(uint64))
		case time.Time:
			c = a.Compare(b.(time.Time))
		}
		if o.asc && c > 0 || !o.asc && c < 0 {
			t.Fatalf("%+v: rows %d and %d: %v, %v", r, i-1, i, a, b)
		}
	}
}

// A series against naive spreading: what each bin gets, and that nothing is
// lost by rounding.
func TestSeries(t *testing.T) {
	records := anyRecords(3, 300)
	for i := range records {
		if i%50 == 0 && records[i].Has&(flow.HasFirst|flow.HasLast) == flow.HasFirst|flow.HasLast {
			records[i].First = epoch.Add(-40 * 365 * 24 * time.Hour).UnixNano() // spans too many bins
		}
		if i%51 == 0 {
			records[i].Last = records[i].Last / 60e9 * 60e9 // ends with a bin
		}
	}
	e, _ := fill(t, records)
	rapid.Check(t, func(t *rapid.T) {
		bin := rapid.SampledFrom([]time.Duration{3 * time.Second, 17 * time.Second, time.Minute, 5 * time.Minute, time.Hour, 24 * time.Hour}).Draw(t, "bin")
		f := &Filter{randomFilter(t, 1)}
		r := Request{Filter: f.String(), Bin: bin, Keys: rapid.SampledFrom([][]string{nil, {"proto"}, {"srcip4/24", "proto"}}).Draw(t, "keys")}
		keys, err := parseKeys(r.Keys)
		if err != nil {
			t.Fatal(err)
		}
		type sums struct {
			flows          uint64
			packets, bytes *big.Int
		}
		want := map[string]*sums{}
		us := bin.Microseconds()
		for i := range records {
			rec := &records[i]
			if !f.Match(rec) {
				continue
			}
			var values []any
			for _, k := range keys {
				values = append(values, keyOf(k, 0, rec))
			}
			hi := event(rec) / 1000 / us
			lo := hi
			a, z := rec.First/1000, rec.Last/1000
			if rec.Has&flow.HasFirst != 0 && rec.Has&flow.HasLast != 0 && z/us > a/us && z/us-a/us <= maxBins {
				lo = a / us
			}
			part := func(n uint64, b int64) *big.Int {
				if lo == hi {
					return new(big.Int).SetUint64(n)
				}
				upto := func(t int64) *big.Int {
					x := new(big.Int).Mul(new(big.Int).SetUint64(n), big.NewInt(t-a))
					return x.Div(x, big.NewInt(z-a))
				}
				return new(big.Int).Sub(upto(min((b+1)*us, z)), upto(max(b*us, a)))
			}
			for b := lo; b <= hi; b++ {
				name := fmt.Sprint(append([]any{time.UnixMicro(b * us).UTC()}, values...))
				if want[name] == nil {
					want[name] = &sums{}
				}
				s := want[name]
				if b == hi {
					s.flows++
				}
				if rec.Has&flow.HasPackets != 0 {
					s.packets = plus(s.packets, part(rec.Packets, b))
				}
				if rec.Has&flow.HasBytes != 0 {
					s.bytes = plus(s.bytes, part(rec.Bytes, b))
				}
			}
		}
		res, err := e.Aggregate(context.Background(), r)
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		if len(res.Rows) != len(want) {
			t.Fatalf("%+v: %d rows, want %d", r, len(res.Rows), len(want))
		}
		var packets uint64
		for _, row := range res.Rows {
			n := 1 + len(keys)
			s := want[fmt.Sprint(row[:n])]
			if s == nil {
				t.Fatalf("%+v: row %v has no business there", r, row)
			}
			if d := gocmp.Diff([]any{s.flows, saturated(s.packets), saturated(s.bytes)}, row[n:n+3]); d != "" {
				t.Fatalf("%+v: row %v (-naive +engine):\n%s", r, row, d)
			}
			if p, ok := row[n+1].(uint64); ok {
				packets += p
			}
		}
		if packets != res.Total.Packets {
			t.Fatalf("%+v: the bins hold %d packets, the flows %d", r, packets, res.Total.Packets)
		}
	})
}

// With keys, the limit of a series is the number of groups.
func TestSeriesLimit(t *testing.T) {
	records := storetest.NewTraffic(5, epoch.UnixNano()).Records(3000)
	e, _ := fill(t, records)
	top, err := e.Aggregate(context.Background(), Request{Stat: "srcport/bytes", Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	res, err := e.Aggregate(context.Background(), Request{Stat: "srcport/bytes", Limit: 3, Bin: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"time", "sport", "flows", "packets", "bytes", "pps", "bps", "bpp", "first", "last"}; !slices.Equal(res.Columns, want) {
		t.Errorf("columns %v, want %v", res.Columns, want)
	}
	sum := map[any]uint64{}
	for _, row := range res.Rows {
		sum[row[1]] += row[4].(uint64)
		if bytes, bps := row[4].(uint64), row[6].(uint64); bps != bytes*8 {
			t.Errorf("%d octets in a second are %d bit/s", bytes, bps)
		}
	}
	if len(sum) != 3 || !res.Truncated {
		t.Errorf("%d groups, truncated %v; want 3, true", len(sum), res.Truncated)
	}
	for _, row := range top.Rows {
		if sum[row[0]] != row[3].(uint64) {
			t.Errorf("port %v: %d octets in bins, %d in all", row[0], sum[row[0]], row[3])
		}
	}
}

func TestRequestErrors(t *testing.T) {
	e, _ := fill(t, nil)
	ctx := context.Background()
	for _, tc := range []struct {
		r    Request
		want string
	}{
		{Request{}, "nothing to aggregate by"},
		{Request{Stat: "srcipp"}, `(did you mean "srcip"?)`},
		{Request{Stat: "srcip:q"}, "expected p"},
		{Request{Stat: "srcip/bites"}, `(did you mean "bytes"?)`},
		{Request{Stat: "srcip/bytes:x"}, "expected a (ascending) or d"},
		{Request{Stat: "srcip/obyte"}, "output counters"},
		{Request{Stat: "srcip/bytes/flows"}, "one order at a time"},
		{Request{Stat: "srcip", Keys: []string{"proto"}}, "not both"},
		{Request{Keys: []string{"srcip4/33"}}, "1 to 32"},
		{Request{Keys: []string{"port"}}, "goes with -s alone"},
		{Request{Keys: []string{"srcip", "srcip4/24"}}, "is there already"},
		{Request{Stat: "mpls1"}, "does not store"},
		{Request{Stat: "srcip", Order: "size"}, "unknown order"},
		{Request{Stat: "srcip", Limit: -2}, "limit -2"},
		{Request{Bin: 7}, "bins of 7ns"},
		{Request{Stat: "srcip", From: epoch, To: epoch.Add(-1)}, "before it begins"},
		{Request{Stat: "srcip", Filter: "prot tcp"}, `did you mean "proto"`},
	} {
		_, err := e.Aggregate(ctx, tc.r)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v:\n got %v\nwant %s", tc.r, err, tc.want)
		}
	}
	if _, err := e.Flows(ctx, Request{Stat: "srcip"}, &collect{}); err == nil {
		t.Error("Flows took a statistic")
	}
	var syntax *SyntaxError
	if _, err := e.Flows(ctx, Request{Filter: "port x"}, &collect{}); !errors.As(err, &syntax) {
		t.Errorf("Flows: %v, want a SyntaxError", err)
	}
	// An empty store is no error.
	res, err := e.Aggregate(ctx, Request{Stat: "srcip"})
	if err != nil || len(res.Rows) != 0 || res.Total != (Total{}) || len(res.Columns) != 9 {
		t.Errorf("empty store: %+v, %v", res, err)
	}
	if total, err := e.Flows(ctx, Request{}, &collect{}); err != nil || total != (Total{}) {
		t.Errorf("empty store: %+v, %v", total, err)
	}
}

// A file that vanishes or breaks under a query: the query starts again without it.
func TestMissingAndBrokenFiles(t *testing.T) {
	records := storetest.NewTraffic(6, epoch.UnixNano()).Records(3000)
	for name, harm := range map[string]func(path string) error{
		"missing":   os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, 100) },
		"noise": func(path string) error {
			data, err := os.ReadFile(path)
			for i := len(data) / 3; i < len(data)*2/3; i++ {
				data[i] ^= 0x55
			}
			return errors.Join(err, os.WriteFile(path, data, 0o640))
		},
		// No reader of Parquet sees this one; it only makes numbers wrong.
		"one bit": func(path string) error {
			data, err := os.ReadFile(path)
			data[len(data)/3] ^= 4
			return errors.Join(err, os.WriteFile(path, data, 0o640))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, s := fill(t, records)
			segments := s.Segments()
			victim := segments[len(segments)/2]
			if err := harm(filepath.Join(s.Stats().Dir, victim.File)); err != nil {
				t.Fatal(err)
			}
			var got collect
			total, err := e.Flows(context.Background(), Request{}, &got)
			if err != nil {
				t.Fatal(err)
			}
			if int(total.Flows) != len(records)-int(victim.Rows) {
				t.Errorf("%d records, want %d", total.Flows, len(records)-int(victim.Rows))
			}
			if b := Broken(e); len(b) != 1 || b[0].File != victim.File {
				t.Errorf("left out: %v, want %s", b, victim.File)
			}
		})
	}
	t.Run("merged meanwhile", func(t *testing.T) {
		e, s := fill(t, records)
		old := s.Segments()
		eng := e.(*engine)
		calls := 0
		p, err := newPlan(Request{}, true)
		if err != nil {
			t.Fatal(err)
		}
		err = eng.attempt(context.Background(), p, func(segments []store.Segment) error {
			if calls++; calls == 1 {
				if err := os.Remove(filepath.Join(s.Stats().Dir, old[0].File)); err != nil {
					t.Fatal(err)
				}
				return eng.walk(context.Background(), p, segments, &recordWriter{sink: &collect{}, total: &Total{}})
			}
			return nil
		})
		if err != nil || calls != 2 {
			t.Errorf("%v after %d attempts, want a second one", err, calls)
		}
	})
}

func TestCancel(t *testing.T) {
	e, _ := fill(t, storetest.NewTraffic(7, epoch.UnixNano()).Records(1000))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := e.Aggregate(ctx, Request{Stat: "srcip"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Aggregate: %v", err)
	}
	if _, err := e.Flows(ctx, Request{}, &collect{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Flows: %v", err)
	}
	// In the midst of a query that takes minutes.
	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := e.(*engine).rows(ctx, "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE (a.range * b.range) % 7 = 3", nil)
	if err == nil || time.Since(start) > 20*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	// The sink's error ends the walk.
	full := errors.New("full")
	_, err = e.Flows(context.Background(), Request{}, flow.SinkFunc(func([]flow.Record) error { return full }))
	if !errors.Is(err, full) {
		t.Errorf("Flows with a sink that fails: %v", err)
	}
}

// The engine can read the store, and nothing else.
func TestEngineIsConfined(t *testing.T) {
	e, _ := fill(t, nil)
	other := filepath.Join(t.TempDir(), "secret.csv")
	os.WriteFile(other, []byte("a,b\n1,2\n"), 0o600)
	for _, q := range []string{"SELECT * FROM '" + other + "'", "COPY (SELECT 1) TO '" + other + "'", "INSTALL httpfs", "SET enable_external_access = true"} {
		if err := e.(*engine).rows(context.Background(), q, func(v []driver.Value) error { return nil }); err == nil {
			t.Errorf("%s was done", q)
		}
	}
}

// Prefixes are cut as netip cuts them, at every length.
func TestPrefixSQL(t *testing.T) {
	e, _ := fill(t, nil)
	d := duckDB{}
	rapid.Check(t, func(t *rapid.T) {
		var a flow.Addr
		copy(a[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address"))
		bits := rapid.IntRange(0, 128).Draw(t, "bits")
		want, err := netip.AddrFrom16(a).Prefix(bits)
		if err != nil {
			t.Fatal(err)
		}
		err = e.(*engine).rows(context.Background(), "SELECT "+d.prefix("x", fmt.Sprint(bits))+", "+d.prefixN("x", bits)+" FROM (SELECT "+d.addr(a)+" AS x)", func(v []driver.Value) error {
			for _, x := range v {
				if got := netip.AddrFrom16(addrValue(x)); got != want.Addr() {
					t.Errorf("%v/%d: %v, want %v", netip.AddrFrom16(a), bits, got, want.Addr())
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestExplain(t *testing.T) {
	e, _ := fill(t, storetest.NewTraffic(8, epoch.UnixNano()).Records(100))
	text, err := e.Explain(Request{Filter: "net 10/8 and port in [80 443]", Stat: "srcip:p/bytes", From: epoch.Add(-time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"filter  ip 10.0.0.0/8 and port in [80 443]", "keys    src, proto", "order   bytes, descending", "limit   10", "read_parquet([", "GROUP BY ALL"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
