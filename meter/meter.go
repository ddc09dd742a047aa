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
	"fmt"
	"math"
	"slices"
	"sync"

	"weir/cache"
	"weir/capture"
	"weir/flow"
	"weir/packet"
)

// Filter chooses packets; those that do not match are as if never read, and
// counted apart. *capture.Expression is one; it belongs to one goroutine, so
// RunLive with several sources wants one that is safe for all, or, better, none:
// an interface's own filter is in the kernel.
type Filter interface {
	Match(p *capture.Packet) bool
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
	// Chosen says of a packet that was decoded whether it is to be metered; what
	// is not is counted with what Filter left out. *Prefixes and
	// PrefixesByInterface have such a method. Asked from any goroutine. Nil: all are.
	Chosen func(*flow.Key) bool
	// Own says whether a packet is one of our own exports, which are ignored
	// and counted as "own-export"; asked from any goroutine. Nil: none are.
	Own    func(*flow.Key) bool
	Sample Sampling
	// SampleFlows chooses one flow in so many, by its key; the packets of the others
	// are counted as "flow-not-sampled". 0 and 1: every flow.
	SampleFlows uint32
}

// Rate is one packet in so many that is in a record, of many flows: what records say as
// their sampling.
func (c *Config) Rate() uint32 {
	return uint32(min(uint64(max(c.Sample.N, 1))*uint64(max(c.SampleFlows, 1)), math.MaxUint32))
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
	Filtered Count            `json:"filtered"` // not chosen by filter or prefixes, not in Packets
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
	Ignored map[string]Count // what is in no flow, by reason; nil: not told apart by interface
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

	mu       sync.Mutex // guards what follows: what the owners have published
	accounts []account
	caches   []cache.Stats
	merged   cache.Stats // files: what the merger handed on, or could not
	drops    []func() (packets, drops uint64)
	live     []*live
}

// New checks cfg. With several live sources sink is called from one goroutine
// at a time, but not always the same.
func New(cfg Config, sink flow.Sink) (*Meter, error) {
	if err := cfg.Cache.Validate(); err != nil {
		return nil, err
	}
	if cfg.Workers < 0 {
		return nil, fmt.Errorf("meter: %d workers, want 0 (one for each processor) or more", cfg.Workers)
	}
	return &Meter{cfg: cfg, sink: sink}, nil
}

func (m *Meter) newReader(i int) *reader {
	return &reader{
		account: newAccount(), filter: m.cfg.Filter, chosen: m.cfg.Chosen, own: m.cfg.Own, inner: m.cfg.Cache.Select.Inner,
		flows:   cache.NewFlowSampler(m.cfg.Cache, m.cfg.SampleFlows),
		sampler: newSampler(m.cfg.Sample, m.cfg.Cache.Seed+uint64(i)), newest: math.MinInt64,
	}
}

func (m *Meter) publishAccount(i int, a *account) {
	m.mu.Lock()
	for len(m.accounts) <= i {
		m.accounts = append(m.accounts, newAccount())
	}
	a.copyTo(&m.accounts[i])
	m.mu.Unlock()
}

func (m *Meter) publishCache(i int, s cache.Stats) {
	m.mu.Lock()
	for len(m.caches) <= i {
		m.caches = append(m.caches, cache.Stats{})
	}
	m.caches[i] = s
	m.mu.Unlock()
}

func (m *Meter) publishMerged(records uint64, lost cache.Lost) {
	m.mu.Lock()
	m.merged = cache.Stats{Records: records, Lost: lost}
	m.mu.Unlock()
}

// Snapshot is cheap and may be called at any time from any goroutine; while
// metering it is at most a second old.
func (m *Meter) Snapshot() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	var s Snapshot
	a := sum(m.accounts)
	for i := range m.caches {
		s.Cache.Add(&m.caches[i])
	}
	s.Cache.Add(&m.merged)
	s.Cache.Backwards = a.backwards
	s.Interfaces = a.interfaces
	for i := range m.accounts {
		m.accounts[i].ignoredAt(s.Interfaces)
	}
	for _, stats := range m.drops {
		_, drops := stats()
		s.CaptureDrops += drops
	}
	s.Metered, s.Filtered = a.metered, a.filtered
	s.Count.plus(a.metered)
	s.Ignored = make(map[string]Count, len(a.ignored))
	for _, why := range packet.Reasons() {
		s.Ignored[why.String()] = a.ignored[why]
		s.Count.plus(a.ignored[why])
	}
	s.Ignored[notSampled] = a.notSampled
	s.Ignored[flowNotSampled] = a.flows
	s.Ignored[ownExport] = a.ownExport
	s.Count.plus(a.notSampled)
	s.Count.plus(a.flows)
	s.Count.plus(a.ownExport)
	s.Flows.Created = s.Cache.Created
	s.Flows.Expired = make(map[string]uint64)
	for why := flow.EndIdle; why <= flow.EndResource; why++ {
		s.Flows.Expired[why.String()] = s.Cache.Expired[why]
	}
	s.Records = s.Cache.Records
	s.Lost = map[string]LossCount{cache.SinkFailed: LossCount(s.Cache.Lost)}
	return s
}

// Summary is the account; it is final when Run… has returned.
func (m *Meter) Summary() Summary { return m.Snapshot().Summary }

// Losses is the meter's part of the ledger: capture, packet and cache.
func (m *Meter) Losses() []flow.Loss {
	s := m.Snapshot()
	all := []flow.Loss{{
		Stage: "capture", Reason: "kernel-drop", Packets: s.CaptureDrops,
		Help: "The kernel dropped packets because they were not read in time: give the meter more rings or cores, or sample.",
	}}
	for _, why := range packet.Reasons() {
		c := s.Ignored[why.String()]
		all = append(all, flow.Loss{Stage: "packet", Reason: why.String(), Packets: c.Packets, Bytes: c.Bytes, Help: why.Help()})
	}
	c := s.Ignored[notSampled]
	all = append(all, flow.Loss{
		Stage: "packet", Reason: notSampled, Packets: c.Packets, Bytes: c.Bytes,
		Help: "Sampling did not choose the packet; records say at which rate.",
	})
	c = s.Ignored[flowNotSampled]
	all = append(all, flow.Loss{
		Stage: "packet", Reason: flowNotSampled, Packets: c.Packets, Bytes: c.Bytes,
		Help: "Sampling of flows did not choose the packet's flow; records say at which rate.",
	})
	c = s.Ignored[ownExport]
	all = append(all, flow.Loss{
		Stage: "packet", Reason: ownExport, Packets: c.Packets, Bytes: c.Bytes,
		Help: "Our own exports, which are not metered: each would make a flow to be exported.",
	})
	all = append(all, Aggregated(Count{Packets: s.Cache.Refused}))
	return append(all, s.Cache.Lost.Losses()...)
}

// Aggregated is the ledger's line for packets that found no entry. What is lost
// of them is who they were, not how many.
func Aggregated(c Count) flow.Loss {
	return flow.Loss{
		Stage: "cache", Reason: "aggregated", Packets: c.Packets, Bytes: c.Bytes,
		Help: "The cache was full: counted, and exported, by interface, protocol and destination network instead of as flows of their own. Give the cache more entries, or sample.",
	}
}

// Add sums o into s: the account of two metering processes of one machine.
func (s *Snapshot) Add(o Snapshot) {
	s.Count.plus(o.Count)
	s.Metered.plus(o.Metered)
	s.Filtered.plus(o.Filtered)
	s.Ignored = sumMaps(s.Ignored, o.Ignored, (*Count).plus)
	s.Flows.Created += o.Flows.Created
	s.Flows.Expired = sumMaps(s.Flows.Expired, o.Flows.Expired, func(a *uint64, b uint64) { *a += b })
	s.Records += o.Records
	s.Lost = sumMaps(s.Lost, o.Lost, func(a *LossCount, b LossCount) {
		a.Records, a.Packets, a.Bytes = a.Records+b.Records, a.Packets+b.Packets, a.Bytes+b.Bytes
	})
	s.Cache.Add(&o.Cache)
	s.CaptureDrops += o.CaptureDrops
	s.Interfaces = append(s.Interfaces, o.Interfaces...)
	slices.SortFunc(s.Interfaces, func(a, b Interface) int { return int(a.Index) - int(b.Index) })
}

func sumMaps[V any](a, b map[string]V, add func(*V, V)) map[string]V {
	if a == nil {
		a = make(map[string]V, len(b))
	}
	for k, v := range b {
		sum := a[k]
		add(&sum, v)
		a[k] = sum
	}
	return a
}
