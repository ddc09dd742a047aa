// Package meter is the metering process (RFC 7011 section 2): it joins
// captures, the decoder and the flow cache.
//
// In: capture.Source. Out: flow.Record in batches to a flow.Sink, and the
// account of every packet read: read = metered + ignored, to the packet and the
// octet; metered = records + lost + still cached.
//
// Files (RunFiles): time is the captures'; the table is divided in a fixed
// number of regions by the key's hash, worked by any number of goroutines; the
// records come out ordered by (end, key) and are the same, octet for octet, for
// any number of them. Live (RunLive): one goroutine, with its own cache, for
// each source; time is the machine's.
package meter

import (
	"context"

	"weir/cache"
	"weir/capture"
	"weir/flow"
)

// Filter chooses packets; those that do not match are as if never read, and
// counted apart. *capture.Filter is one.
type Filter interface {
	Match(data []byte, wire uint32) bool
}

// Sampling chooses one packet in N before it is decoded (RFC 5475).
type Sampling struct {
	N      uint32 // 0 and 1: every packet
	Random bool   // each packet with probability 1/N; else every Nth (systematic, count-based)
}

// Config says what to meter.
type Config struct {
	Cache   cache.Config // Offline, Sampling, Number and Gone are set by the meter
	Workers int          // RunFiles: goroutines; 0: GOMAXPROCS
	Filter  Filter       // nil: everything
	Sample  Sampling
}

// Count is a number of packets and their octets.
type Count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// LossCount is what was lost for one reason.
type LossCount struct {
	Records uint64 `json:"records"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Summary is the account of a run, as `weir meter --summary` prints it.
type Summary struct {
	Count                     // read
	Metered  Count            `json:"metered"`
	Ignored  map[string]Count `json:"ignored"`  // by reason, zeros included
	Filtered Count            `json:"filtered"` // not matched by the filter, not in Packets
	Flows    struct {
		Created uint64            `json:"created"`
		Expired map[string]uint64 `json:"expired"` // by flow.EndReason
	} `json:"flows"`
	Records uint64               `json:"records"`
	Lost    map[string]LossCount `json:"lost"` // by reason, zeros included
}

// Interface is one interface's traffic.
type Interface struct {
	Index   uint32
	In, Out Count
}

// Snapshot is the state of a meter at one moment.
type Snapshot struct {
	Summary
	Cache        cache.Stats // of all caches together
	CaptureDrops uint64      // packets the kernel dropped before they were read
	Interfaces   []Interface // ordered by Index; files have none
}

// Meter meters. New starts nothing.
type Meter struct {
	cfg  Config
	sink flow.Sink
}

// New checks cfg. With several live sources sink is called from one goroutine
// at a time, but not always the same.
func New(cfg Config, sink flow.Sink) (*Meter, error) {
	return &Meter{cfg: cfg, sink: sink}, cfg.Cache.Validate()
}

// RunFiles meters captures one after the other to their end, or until ctx ends;
// then all flows end and their records are handed on. It does not close them.
func (m *Meter) RunFiles(ctx context.Context, sources ...capture.Source) error { return nil }

// RunLive meters sources at the same time until ctx ends or all of them have
// ended; then what is metered is drained. It does not close them.
func (m *Meter) RunLive(ctx context.Context, sources ...capture.Source) error { return nil }

// Snapshot is cheap and may be called at any time from any goroutine; while
// metering it is at most a second old.
func (m *Meter) Snapshot() Snapshot { return Snapshot{} }

// Summary is the account; it is final when Run… has returned.
func (m *Meter) Summary() Summary { return Summary{} }

// Losses is the meter's part of the ledger: capture, packet and cache.
func (m *Meter) Losses() []flow.Loss { return nil }

// Entries copies out the flows that are in the live caches now, at most limit
// of each cache (0: all), each cache in its own goroutine between two batches.
func (m *Meter) Entries(ctx context.Context, limit int) ([]flow.Record, error) { return nil, nil }
