package aggregate

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"weir/flow"
)

// Defaults, IOS's.
const (
	DefaultEntries = 4096
	DefaultIdle    = 15 * time.Second
	DefaultActive  = 30 * time.Minute

	maxEntries = 1 << 24
)

// Masks are the shortest prefixes that addresses are kept by, in bits: a record's own
// mask, from its route, wins where it is longer. Where neither is known a prefix has 0
// bits, as on IOS.
type Masks struct{ Src4, Dst4, Src6, Dst6 uint8 }

// Config says what a cache merges, and for how long.
type Config struct {
	Scheme  Scheme
	Entries int           // aggregates it holds; 0: DefaultEntries
	Idle    time.Duration // an aggregate that nothing is added to leaves after this; 0: never
	Active  time.Duration // any leaves so long after its first record came; 0: never
	Masks   Masks
	// FollowRecords makes time that of the newest flow end given, instead of the
	// wall clock: for captures, whose time is in the past.
	FollowRecords bool
	Now           func() time.Time // nil: time.Now
}

// Validate says what is wrong with c.
func (c *Config) Validate() error {
	switch {
	case !c.Scheme.valid():
		return fmt.Errorf("aggregate: unknown scheme %d", c.Scheme)
	case c.Entries < 0 || c.Entries > maxEntries:
		return fmt.Errorf("aggregate: %d entries, want 1 to %d", c.Entries, maxEntries)
	case c.Idle < 0 || c.Active < 0:
		return fmt.Errorf("aggregate: timeouts %v, %v: want 0 (never) or more", c.Idle, c.Active)
	case c.Masks.Src4 > 32 || c.Masks.Dst4 > 32 || c.Masks.Src6 > 128 || c.Masks.Dst6 > 128:
		return fmt.Errorf("aggregate: masks /%d, /%d, of IPv6 /%d, /%d: accepted: 0 to 32, of IPv6 to 128", c.Masks.Src4, c.Masks.Dst4, c.Masks.Src6, c.Masks.Dst6)
	}
	return nil
}

// Count is a number of records and what they count.
type Count struct{ Records, Packets, Bytes uint64 }

func (c *Count) add(packets, bytes uint64) {
	c.Records++
	c.Packets += packets
	c.Bytes += bytes
}

func (c *Count) plus(o Count) {
	c.Records, c.Packets, c.Bytes = c.Records+o.Records, c.Packets+o.Packets, c.Bytes+o.Bytes
}

func (c *Count) less(o Count) {
	c.Records, c.Packets, c.Bytes = c.Records-o.Records, c.Packets-o.Packets, c.Bytes-o.Bytes
}

// Stats are a cache's counters: Added = Left + Held + Lost in records of the main cache,
// packets and octets.
type Stats struct {
	Scheme   Scheme
	Entries  int // aggregates held
	Capacity int
	Peak     int
	Added    Count // main cache's records; a biflow's is one for each direction
	Held     Count
	Left     Count
	Lost     Count // left, and nobody took them

	Created uint64                       // aggregates
	Expired [flow.EndResource + 1]uint64 // aggregates that left, by reason
}

// Cache is one aggregation cache. It may be used from any goroutine.
type Cache struct {
	cfg  Config
	sink flow.Sink

	mu      sync.Mutex
	index   map[key]int32
	entries []entry
	free    []int32
	// Aggregates in use, in order: idle begins with the one that waits for longest,
	// age with the oldest.
	idle, age list
	clock     int64 // Unix ns; the newest that was seen
	stats     Stats
	out       []flow.Record
	json      []byte
	split     []flow.Record
	err       error
}

// key is what records must agree in. A field that is not in has is zero.
type key struct {
	src, dst         flow.Addr
	has              flow.Field
	srcAS, dstAS     uint32
	input, output    uint32
	sampling         uint32
	srcPort, dstPort uint16
	proto, tos       uint8
	srcMask, dstMask uint8
	version          uint8 // of IP
}

type entry struct {
	key             key
	first, last     int64 // of the flows
	created, used   int64 // by the cache's clock
	packets, octets uint64
	flows           uint64
	idle, age       links
}

// batch is how many records are handed on at a time.
const batch = 256

// New makes a cache whose aggregates go to sink.
func New(cfg Config, sink flow.Sink) (*Cache, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Entries == 0 {
		cfg.Entries = DefaultEntries
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Cache{cfg: cfg, sink: sink, index: make(map[key]int32), idle: newList(), age: newList(), clock: math.MinInt64, out: make([]flow.Record, 0, batch)}
	c.stats.Scheme, c.stats.Capacity = cfg.Scheme, cfg.Entries
	return c, nil
}

// Run lets go what is due, each second, until ctx ends; with FollowRecords that is
// decided as records come.
func (c *Cache) Run(ctx context.Context) error {
	if c.cfg.FollowRecords {
		<-ctx.Done()
		return nil
	}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := c.Tick(c.cfg.Now().UnixNano()); err != nil {
				return err
			}
		}
	}
}

// WriteRecords merges the main cache's records.
func (c *Cache) WriteRecords(records []flow.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.cfg.FollowRecords {
		c.tick(c.cfg.Now().UnixNano())
	}
	for i := range records {
		r := &records[i]
		if r.Reverse == nil {
			c.add(r)
			continue
		}
		c.split = r.AppendDirections(c.split[:0])
		for j := range c.split {
			c.add(&c.split[j])
		}
	}
	c.flush()
	return c.err
}

// Tick lets go what is due at now.
func (c *Cache) Tick(now int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick(now)
	c.flush()
	return c.err
}

// Drain lets go all, for the given reason.
func (c *Cache) Drain(why flow.EndReason) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.age.first != none {
		c.leave(c.age.first, why)
	}
	c.flush()
	return c.err
}

// Sync asks the sink, if it can tell.
func (c *Cache) Sync() error {
	if s, ok := c.sink.(flow.Syncer); ok {
		return s.Sync()
	}
	return nil
}

// Stats returns the counters.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Entries = len(c.index)
	return s
}

// Losses is the cache's part of the ledger.
func (c *Cache) Losses() []flow.Loss {
	s := c.Stats()
	return []flow.Loss{{
		Stage: "aggregate", Reason: "sink-failed", Records: s.Lost.Records, Packets: s.Lost.Packets, Bytes: s.Lost.Bytes,
		Help: "What takes an aggregation cache's records failed: see the error it ended with.",
	}}
}

// Entries shows what is held, in the order in which it came, without ending anything.
func (c *Cache) Entries() (list []flow.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := c.age.first; i != none; i = c.entries[i].age.next {
		var r flow.Record
		c.entries[i].fill(&r, flow.EndUnknown)
		r.Has &^= flow.HasEndReason
		r.Elements = r.AppendMore(nil)
		list = append(list, r)
	}
	return list
}

// tick moves the clock, and lets go what is due: first what is idle.
func (c *Cache) tick(now int64) {
	c.clock = max(c.clock, now)
	for i := c.idle.first; i != none && due(c.entries[i].used, c.cfg.Idle, c.clock); i = c.idle.first {
		c.leave(i, flow.EndIdle)
	}
	for i := c.age.first; i != none && due(c.entries[i].created, c.cfg.Active, c.clock); i = c.age.first {
		c.leave(i, flow.EndActive)
	}
}

func due(since int64, timeout time.Duration, now int64) bool {
	return timeout > 0 && now-since >= int64(timeout) && now > since
}

// add merges one record.
func (c *Cache) add(r *flow.Record) {
	if c.cfg.FollowRecords && r.Has&flow.HasLast != 0 {
		c.tick(r.Last)
	}
	k := c.keyOf(r)
	i, ok := c.index[k]
	if !ok {
		i = c.enter(k, r)
	}
	e := &c.entries[i]
	e.first, e.last = min(e.first, r.First), max(e.last, r.Last)
	e.packets += r.Packets
	e.octets += r.Bytes
	e.flows++
	e.used = c.clock
	c.idle.toEnd(c.entries, i, idleOf)
	c.stats.Added.add(r.Packets, r.Bytes)
	c.stats.Held.add(r.Packets, r.Bytes)
}

// enter makes an aggregate; if there is no room, the one that waits for longest leaves.
func (c *Cache) enter(k key, r *flow.Record) int32 {
	if len(c.index) >= c.cfg.Entries {
		c.leave(c.idle.first, flow.EndResource)
	}
	var i int32
	if n := len(c.free); n > 0 {
		i, c.free = c.free[n-1], c.free[:n-1]
	} else {
		i = int32(len(c.entries))
		c.entries = append(c.entries, entry{})
	}
	c.entries[i] = entry{key: k, first: r.First, last: r.Last, created: c.clock, idle: unlinked, age: unlinked}
	c.index[k] = i
	c.age.toEnd(c.entries, i, ageOf)
	c.stats.Created++
	c.stats.Peak = max(c.stats.Peak, len(c.index))
	return i
}

// leave hands an aggregate on.
func (c *Cache) leave(i int32, why flow.EndReason) {
	if len(c.out) == batch {
		c.flush()
	}
	e := &c.entries[i]
	c.out = c.out[:len(c.out)+1]
	r := &c.out[len(c.out)-1]
	e.fill(r, why)
	at := len(c.json)
	c.json = r.AppendMore(c.json)
	r.Elements = c.json[at:len(c.json):len(c.json)]
	delete(c.index, e.key)
	c.idle.remove(c.entries, i, idleOf)
	c.age.remove(c.entries, i, ageOf)
	c.free = append(c.free, i)
	c.stats.Expired[why]++
}

// fill makes out an aggregate's record.
func (e *entry) fill(r *flow.Record, why flow.EndReason) {
	k := &e.key
	*r = flow.Record{
		Src: k.src, Dst: k.dst, SrcAS: k.srcAS, DstAS: k.dstAS, Input: k.input, Output: k.output, SrcPort: k.srcPort, DstPort: k.dstPort,
		Proto: k.proto, TOS: k.tos, SrcMask: k.srcMask, DstMask: k.dstMask, IPVersion: k.version, Sampling: k.sampling,
		First: e.first, Last: e.last, Packets: e.packets, Bytes: e.octets, Flows: e.flows, EndReason: why,
		Has: k.has | flow.HasFirst | flow.HasLast | flow.HasPackets | flow.HasBytes | flow.HasFlows | flow.HasEndReason,
	}
	if k.has&flow.HasDstPort != 0 && (k.proto == flow.ProtoICMP || k.proto == flow.ProtoICMPv6) {
		r.ICMPType, r.ICMPCode = uint8(k.dstPort>>8), uint8(k.dstPort)
		r.Has |= flow.HasICMP
	}
}

// flush hands on what has left.
func (c *Cache) flush() {
	if len(c.out) == 0 {
		return
	}
	var sum Count
	for i := range c.out {
		sum.Records += c.out[i].Flows
		sum.Packets += c.out[i].Packets
		sum.Bytes += c.out[i].Bytes
	}
	to := &c.stats.Lost
	if c.err == nil {
		if c.err = c.sink.WriteRecords(c.out); c.err == nil {
			to = &c.stats.Left
		}
	}
	to.plus(sum)
	c.stats.Held.less(sum)
	c.out, c.json = c.out[:0], c.json[:0]
}

// keyOf is what the scheme keeps of a record.
func (c *Cache) keyOf(r *flow.Record) key {
	fields := c.cfg.Scheme.Fields()
	has := r.Has & fields
	known := func(f flow.Field) bool { return has&f != 0 }
	k := key{has: has, version: r.IPVersion}
	if k.version == 0 {
		k.version = versionOf(r)
	}
	if r.Has&flow.HasSampling != 0 {
		k.sampling = r.Sampling
		k.has |= flow.HasSampling
	}
	least := &c.cfg.Masks
	srcMin, dstMin := least.Src4, least.Dst4
	if k.version == 6 {
		srcMin, dstMin = least.Src6, least.Dst6
	}
	if known(flow.HasSrc) {
		if k.src = r.Src; fields&flow.HasSrcMask != 0 {
			k.src, k.srcMask = prefix(r.Src, maskOf(r.SrcMask, known(flow.HasSrcMask), srcMin), k.version)
			k.has |= flow.HasSrcMask
		}
	}
	if known(flow.HasDst) {
		if k.dst = r.Dst; fields&flow.HasDstMask != 0 {
			k.dst, k.dstMask = prefix(r.Dst, maskOf(r.DstMask, known(flow.HasDstMask), dstMin), k.version)
			k.has |= flow.HasDstMask
		}
	}
	if known(flow.HasSrcAS) {
		k.srcAS = r.SrcAS
	}
	if known(flow.HasDstAS) {
		k.dstAS = r.DstAS
	}
	if known(flow.HasInput) {
		k.input = r.Input
	}
	if known(flow.HasOutput) {
		k.output = r.Output
	}
	if known(flow.HasSrcPort) {
		k.srcPort = r.SrcPort
	}
	if known(flow.HasDstPort) {
		k.dstPort = r.DstPort
	}
	if known(flow.HasProto) {
		k.proto = r.Proto
	}
	if known(flow.HasTOS) {
		k.tos = r.TOS
	}
	return k
}

// versionOf tells the IP version by the addresses.
func versionOf(r *flow.Record) uint8 {
	for _, a := range []struct {
		has  flow.Field
		addr *flow.Addr
	}{{flow.HasSrc, &r.Src}, {flow.HasDst, &r.Dst}} {
		if r.Has&a.has != 0 && !a.addr.Is4() && *a.addr != (flow.Addr{}) {
			return 6
		}
	}
	return 4
}

// maskOf is a route's mask, where it is known, or the shortest that is wanted.
func maskOf(mask uint8, known bool, least uint8) uint8 {
	if !known {
		mask = 0
	}
	return max(mask, least)
}

// prefix leaves the first bits of an address.
func prefix(a flow.Addr, bits, version uint8) (flow.Addr, uint8) {
	most, from := uint8(128), uint8(0)
	if version == 4 {
		most, from = 32, 96
	}
	bits = min(bits, most)
	for i := range a {
		switch keep := int(from) + int(bits) - 8*i; {
		case keep <= 0:
			a[i] = 0
		case keep < 8:
			a[i] &= 0xff << (8 - keep)
		}
	}
	if version == 4 {
		a[10], a[11] = 0xff, 0xff
	}
	return a, bits
}
