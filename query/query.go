package query

import (
	"context"
	"time"

	"weir/flow"
)

// Request is a question to the store.
type Request struct {
	From, To time.Time     // flows whose Last lies in [From, To); zero: unbounded
	Filter   string        // the filter language; empty: all
	Stat     string        // -s: "srcip", "srcip:p", "dstport/bytes:a"; empty: none
	Keys     []string      // -A: "srcip4/24", "dstport", …; empty: none
	Order    string        // -O; empty: the mode's default
	Limit    int           // rows; 0: the mode's default, -1: all
	Bin      time.Duration // > 0: a series, one row a bin (and key)
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

// Engine answers requests.
type Engine interface {
	// Aggregate answers a request with Stat, Keys or Bin.
	Aggregate(ctx context.Context, r Request) (*Result, error)
	// Flows gives the raw records, newest first unless Order says otherwise.
	Flows(ctx context.Context, r Request, sink flow.Sink) (Total, error)
	// Explain returns the plan and its SQL.
	Explain(r Request) (string, error)
}
