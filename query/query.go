// Package query answers questions about stored flows: a filter in nfdump's
// language, statistics and aggregations, series over time, records.
//
// In: a Request. Out: rows (Result) or flow records to a Sink. The text becomes
// a typed plan (parser.go, keys.go, plan.go), the plan becomes SQL of a dialect
// (dialect.go), and an engine runs that on the store's files.
//
// Units: counters as metered or exported, not multiplied by a sampling rate;
// rates as nfdump computes them, over the whole milliseconds from the first to
// the last packet, 0 when there are none; in a series they are over the bin.
// Times are UTC. Unknown is not zero: a term about it is false, a sum leaves it
// out, a group of it has the key nil.
package query

import (
	"context"
	"time"

	"weir/flow"
	"weir/store"
)

// Request is a question to the store.
type Request struct {
	From, To time.Time // flows whose Last lies in [From, To); zero: unbounded
	Filter   string    // the filter language; empty: all
	Stat     string    // -s: "srcip", "srcip:p", "dstport/bytes:a"; empty: none
	Keys     []string  // -A: "srcip4/24", "dstport", …; empty: none
	Order    string    // -O; empty: the mode's default
	Limit    int       // rows; 0: the mode's default, -1: all
	// Bin > 0 makes a series: one row a bin (and key), bins being multiples of
	// Bin since 1970. Packets and bytes are spread over the bins a flow spans, so
	// bins before From hold what of these flows was then. With keys, Limit is
	// the number of groups, the first by Order over the whole span.
	Bin time.Duration
}

// Result is the answer to an aggregated request (Stat, Keys or Bin).
type Result struct {
	Columns []string // as in COMMANDS.md: keys, then flows,packets,bytes,pps,bps,bpp,first,last
	// Rows hold nil (unknown), string, int64, uint64, float64 or time.Time.
	Rows [][]any
	// Total is over all that matched, before the limit.
	Total     Total
	Segments  int // segments read
	Took      time.Duration
	Truncated bool // the limit cut rows off
}

// Total sums what a request matched.
type Total struct {
	Flows, Packets, Bytes uint64
	First, Last           int64 // Unix ns; 0 if nothing matched
}

// add counts a record in.
func (t *Total) add(r *flow.Record) {
	t.Flows++
	if r.Has&flow.HasPackets != 0 {
		t.Packets += r.Packets
	}
	if r.Has&flow.HasBytes != 0 {
		t.Bytes += r.Bytes
	}
	if r.Has&flow.HasFirst != 0 && (t.First == 0 || r.First < t.First) {
		t.First = r.First
	}
	if r.Has&flow.HasLast != 0 {
		t.Last = max(t.Last, r.Last)
	}
}

// Broken lists the segments that e found broken or missing: they are in no
// answer of its.
func Broken(e Engine) []store.Segment {
	if b, ok := e.(interface{ Broken() []store.Segment }); ok {
		return b.Broken()
	}
	return nil
}

// Group is the records that agree in the keys, as one: its Packets and Bytes are
// theirs together, its First and Last of all of them. Known is what the keys and
// these are.
type Group struct {
	flow.Record
	Flows uint64
}

// Groups sums what matches r by its keys, one column each, and gives group by
// group, in no order and without limit: they need not fit into memory.
func Groups(ctx context.Context, e Engine, r Request, do func(*Group) error) error {
	g, ok := e.(interface {
		Groups(context.Context, Request, func(*Group) error) error
	})
	if !ok {
		return ErrNoEngine
	}
	return g.Groups(ctx, r, do)
}

// Engine answers requests.
type Engine interface {
	// Aggregate answers a request with Stat, Keys or Bin.
	Aggregate(ctx context.Context, r Request) (*Result, error)
	// Flows gives the raw records, newest first unless Order says otherwise. The
	// total is over the records given.
	Flows(ctx context.Context, r Request, sink flow.Sink) (Total, error)
	// Explain returns the plan and its SQL.
	Explain(r Request) (string, error)
}
