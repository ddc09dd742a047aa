package cache

import (
	"math"
	"runtime"

	"golang.org/x/sys/unix"

	"weir/flow"
	"weir/packet"
)

const maxEntries = 1 << 26

// Cache is a flow cache. It belongs to one goroutine.
type Cache struct {
	cfg    Config
	secret secret

	// The table: this cache's regions of it.
	entries    []Entry // an entry's slot is its place divided by places
	places     uint32  // 1; of wide flows more, see wide.go
	wide       *wide   // nil: an entry says all
	heads      []head
	pages      []uint32 // for each page the second before which nothing is due
	groups     []uint32 // for each group of pages
	regions    []region
	regionSets uint32
	regionMask uint32 // the bits of a hash that choose among all the table's regions
	base       uint32 // of those, the first held here
	overflow   *overflow

	clock
	nextDue            uint32 // the second before which no tick has anything to do
	shift              uint8  // stamps are in units of 1<<shift seconds
	far                bool   // idle is never: stamps do not say when entries are due
	farBits            uint32 // then all ones
	agesLanes          uint64 // as stamps in all lanes: the tick less overdue
	nextLanes          uint64 // and the second after it
	maxDue             uint32 // the furthest second a stamp can say now
	stampFrom, stampTo int64  // packets of times in (from, to] get stampDue
	stampDue           uint32
	idleDue            uint32 // what stampDue stands for: the second at which they are idle
	activeDue          uint32 // and this end of the active timeout, if they are a flow's first
	newest             int64  // largest time of a packet
	ageAgain           int64  // live: when pressure may be looked at again

	idle, active, tcpEnd int64
	closers              uint8 // TCP flags that end a connection at once: of a biflow, RST alone
	mask                 bool
	live                 uint64

	out   out
	stats Stats

	// A chunk of a batch on its way through the passes of Add.
	infos   [chunk]*packet.Info
	more    []*flow.More // wide: of the same packets
	hashes  [chunk]uint64
	where   [chunk]candidates
	choices [chunk]place // of packets whose key was not there
	n       int
	slots   [chunk]uint32
	found   []uint32 // slots of a page that a sweep is at
	swept   uint64   // pages that sweeps have looked at
	touch   uint64   // keeps reads that only fetch from being optimised away

	mapping []byte
	cleanup runtime.Cleanup
}

// candidates are the sets a key may be in, and their region.
type candidates struct{ s1, s2, region uint32 }

// chunk is how many packets go through a pass of Add at a time: enough that
// their misses overlap, few enough that what they fetch is still there.
const chunk = 256

// New makes a cache; its records go to sink in batches. The table's memory is
// the operating system's: Close gives it back.
func New(cfg Config, sink flow.Sink) (*Cache, error) { return NewShare(cfg, sink, 0, 1) }

// NewShare makes the cache that holds share i of n of a table's regions (n at
// most Regions(cfg.Entries)). It must be given the packets for which Share
// says i, by AddSome.
func NewShare(cfg Config, sink flow.Sink, i, n int) (*Cache, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	sh := shapeOf(cfg.Entries)
	lo, hi := shareBounds(sh.regions, i, n)
	c := &Cache{
		cfg:        cfg,
		secret:     newSecret(cfg.Seed),
		regionSets: sh.regionSets,
		regionMask: sh.regions - 1,
		base:       lo,
		regions:    make([]region, hi-lo),
		nextDue:    never,
		shift:      shiftFor(int64(cfg.Idle)),
		idle:       int64(cfg.Idle),
		active:     int64(cfg.Active),
		tcpEnd:     int64(cfg.TCPEnd),
		mask:       masks(&cfg),
		places:     placesOf(&cfg.Select),
		newest:     math.MinInt64,
		closers:    flow.FIN | flow.RST,
		found:      make([]uint32, 0, pageSets*ways),
	}
	if c.idle == 0 {
		c.far, c.farBits = true, math.MaxUint32
	}
	if c.places > 1 {
		if c.wide = newWide(&cfg); cfg.Select.Biflow {
			c.closers = flow.RST // one direction's FIN leaves the other
		}
		c.more = make([]*flow.More, chunk)
	}
	for i := range c.regions {
		c.regions[i] = newRegion(sh.regionSets)
	}
	sets := int(sh.regionSets) * len(c.regions)
	c.heads = make([]head, sets)
	c.pages = make([]uint32, (sets+pageSets-1)/pageSets)
	c.groups = make([]uint32, (len(c.pages)+groupPages-1)/groupPages)
	for i := range c.pages {
		c.pages[i] = never
	}
	for i := range c.groups {
		c.groups[i] = never
	}
	if !cfg.Offline {
		c.overflow = newOverflow()
	}
	c.out.init(&c.cfg, sink)
	var err error
	if c.entries, c.mapping, err = memory(sets * ways * int(c.places)); err != nil {
		return nil, err
	}
	c.cleanup = runtime.AddCleanup(c, func(m []byte) { unix.Munmap(m) }, c.mapping)
	c.stats.Capacity = uint64(sets * ways)
	return c, nil
}

// Close returns the table's memory. What was not drained is lost.
func (c *Cache) Close() error {
	if c.mapping == nil {
		return nil
	}
	c.cleanup.Stop()
	m := c.mapping
	c.mapping, c.entries = nil, nil
	return unix.Munmap(m)
}

// Sharer says which cache of n has a key: what the reader of a capture needs
// to hand packets to them.
type Sharer struct {
	secret secret
	cfg    Config
	mask   bool
	wide   *wide
	share  [maxRegions]uint8
	last   uint64
}

// NewSharer divides cfg's table among n caches.
func NewSharer(cfg Config, n int) *Sharer {
	r := shapeOf(cfg.Entries).regions
	s := &Sharer{secret: newSecret(cfg.Seed), cfg: cfg, mask: masks(&cfg), last: uint64(r) - 1}
	if placesOf(&cfg.Select) > 1 {
		s.wide = newWide(&cfg)
	}
	for i := range n {
		lo, hi := shareBounds(r, i, n)
		for j := lo; j < hi; j++ {
			s.share[j] = uint8(i)
		}
	}
	return s
}

// Share zeroes what the key mask leaves out, and gives the key's hash and share.
func (s *Sharer) Share(k *flow.Key) (hash uint64, share int) {
	if s.mask {
		maskKey(&s.cfg, k)
	}
	h := s.secret.hash(k)
	return h, int(s.share[h&s.last])
}

// ShareMore is Share for wide flows: a biflow's key is turned its one way round.
func (s *Sharer) ShareMore(k *flow.Key, x *flow.More) (hash uint64, share int) {
	h := s.wide.prepare(&s.cfg, &s.secret, k, x)
	return h, int(s.share[h&s.last])
}

func shareBounds(regions uint32, i, n int) (lo, hi uint32) {
	return regions * uint32(i) / uint32(n), regions * uint32(i+1) / uint32(n)
}

// masks says whether keys lose anything.
func masks(cfg *Config) bool {
	if k := cfg.Select.Key; k != 0 {
		return k&flow.FactsCisco != flow.FactsCisco
	}
	return cfg.Key != flow.KeyCisco
}

// maskKey leaves what is among the key's fields. What says how the addresses are to
// be read stays.
func maskKey(cfg *Config, k *flow.Key) {
	if cfg.Select.Key != 0 {
		cfg.Select.Mask(k)
		return
	}
	k.Input, k.TOS = 0, 0
	k.VLAN &= flow.KeyIPv6 | flow.KeyFragment | flow.KeyInner
}

// Add counts packets, in arrival order. It may zero what the key mask leaves out.
func (c *Cache) Add(batch []packet.Info) {
	if !c.started && len(batch) > 0 {
		c.Tick(batch[0].Time)
	}
	for len(batch) > 0 {
		n := min(len(batch), chunk)
		for i := range batch[:n] {
			in := &batch[i]
			if c.mask {
				maskKey(&c.cfg, &in.Key)
			}
			c.infos[i] = in
			c.hashes[i] = c.secret.hash(&in.Key)
		}
		c.addChunk(n)
		batch = batch[n:]
	}
}

// AddMore is Add for wide flows: more is of the same packets, and is changed as well.
func (c *Cache) AddMore(batch []packet.Info, more []flow.More) {
	if !c.started && len(batch) > 0 {
		c.Tick(batch[0].Time)
	}
	for len(batch) > 0 {
		n := min(len(batch), chunk)
		for i := range batch[:n] {
			c.infos[i], c.more[i] = &batch[i], &more[i]
			c.hashes[i] = c.wide.prepare(&c.cfg, &c.secret, &batch[i].Key, &more[i])
		}
		c.addChunk(n)
		batch, more = batch[n:], more[n:]
	}
}

// AddSomeMore is AddSome for wide flows, with what ShareMore gave.
func (c *Cache) AddSomeMore(batch []packet.Info, more []flow.More, hashes []uint64, index []uint16) {
	if !c.started && len(index) > 0 {
		c.Tick(batch[index[0]].Time)
	}
	for len(index) > 0 {
		n := min(len(index), chunk)
		for i, j := range index[:n] {
			c.infos[i], c.more[i] = &batch[j], &more[j]
			c.hashes[i] = hashes[j]
		}
		c.addChunk(n)
		index = index[n:]
	}
}

// AddSome counts the packets of batch that index lists, with the hashes that a
// Sharer gave for all of batch.
func (c *Cache) AddSome(batch []packet.Info, hashes []uint64, index []uint16) {
	if !c.started && len(index) > 0 {
		c.Tick(batch[index[0]].Time)
	}
	for len(index) > 0 {
		n := min(len(index), chunk)
		for i, j := range index[:n] {
			c.infos[i] = &batch[j]
			c.hashes[i] = hashes[j]
		}
		c.addChunk(n)
		index = index[n:]
	}
}

// addChunk counts infos[:n]. Most of a packet's cost is waiting for memory: one
// line of tags, two of the entry. So the chunk goes through in passes whose
// reads do not depend on each other, and which the processor overlaps: first
// the tags, then the entries that the tags point at, and then the work.
func (c *Cache) addChunk(n int) {
	n = min(n, chunk)
	c.n = n
	var touch uint64
	for i, h := range c.hashes[:n] {
		w := c.candidates(h)
		c.where[i] = w
		touch ^= c.heads[w.s1].tagLanes() ^ c.heads[w.s2].tagLanes()
	}
	for i := range c.hashes[:n] {
		w := &c.where[i]
		tag := hashTag(c.hashes[i])
		slot := w.s1 * ways
		c.choices[i].tags = [2]uint64{} // none
		if m := like(c.heads[w.s1].tagLanes(), tag); m != 0 {
			slot += lane(m)
		} else if m := like(c.heads[w.s2].tagLanes(), tag); m != 0 {
			slot = w.s2*ways + lane(m)
		} else {
			c.choose(w, &c.choices[i])
			slot = c.choices[i].slot
		}
		c.slots[i] = slot
	}
	for _, slot := range c.slots[:n] {
		e := c.at(slot)
		touch ^= e.Packets ^ uint64(e.Last)
	}
	c.touch ^= touch
	var bytes, back uint64
	newest := c.newest
	for i, in := range c.infos[:n] {
		t := in.Time
		if t < newest {
			back++
		} else {
			newest = t
		}
		bytes += uint64(in.Length)
		slot := c.slots[i]
		e := c.at(slot)
		if c.heads[slot/ways].tags[slot%ways] == 0 || !equal(&e.Key, &in.Key) || c.wide != nil && !c.sameMore(slot, i) {
			if slot = c.find(i, &in.Key); slot == none {
				c.create(i, in)
				continue
			}
			e = c.at(slot)
		}
		if c.wide != nil {
			c.hitWide(slot, e, in, c.more[i])
			continue
		}
		// A hit. Whatever is out of the ordinary is handled apart.
		e.Bytes += uint64(in.Length)
		e.Packets++
		e.TCPFlags |= in.TCPFlags
		l := uint16(min(in.Length, math.MaxUint16))
		e.MinLength, e.MaxLength = min(e.MinLength, l), max(e.MaxLength, l)
		e.MinTTL, e.MaxTTL = min(e.MinTTL, in.TTL), max(e.MaxTTL, in.TTL)
		if e.Packets == 1 || t < e.Last || in.TCPFlags&(flow.FIN|flow.RST) != 0 || e.Mark != 0 {
			c.hit(slot, e, t, in.TCPFlags&(flow.FIN|flow.RST) != 0)
			continue
		}
		e.Last = t
		if t <= c.stampFrom || t > c.stampTo {
			c.newStampDue(t)
		}
		c.heads[slot/ways].stamps[slot%ways] = manyPackets | uint8(min(c.stampDue, e.Until|c.farBits)>>c.shift)&0x7f
	}
	c.newest = newest
	c.stats.Packets += uint64(n)
	c.stats.Bytes += bytes
	c.stats.Backwards += back
}

const none = math.MaxUint32

// at is the entry in a slot.
func (c *Cache) at(slot uint32) *Entry { return &c.entries[slot*c.places] }

// candidates finds where a key of hash h may be.
func (c *Cache) candidates(h uint64) candidates {
	r := uint32(h)&c.regionMask - c.base
	sets, base := c.regions[r].sets, r*c.regionSets
	return candidates{base + pick(uint32(h>>32), sets), base + pick(uint32(h), sets), r}
}

// find looks for the key of the chunk's packet i.
func (c *Cache) find(i int, k *flow.Key) uint32 {
	tag := hashTag(c.hashes[i])
	for _, s := range [2]uint32{c.where[i].s1, c.where[i].s2} {
		for m := like(c.heads[s].tagLanes(), tag); m != 0; m &= m - 1 {
			slot := s*ways + lane(m)
			if c.heads[s].tags[slot%ways] != 0 && equal(&c.at(slot).Key, k) && (c.wide == nil || c.sameMore(slot, i)) {
				return slot
			}
		}
	}
	return none
}

// newStampDue finds the seconds at which a flow whose last packet is of time t
// is idle (as far as a stamp can say) and one whose first is is due for the
// active timeout, and the times that share both.
func (c *Cache) newStampDue(t int64) {
	due, active := c.due(t, c.idle), max(c.due(t, c.active), c.tick+1)
	c.idleDue, c.stampDue, c.activeDue = due, min(max(due, c.tick+1), c.maxDue), active
	c.stampFrom, c.stampTo = t-1, t
	if due <= c.tick || active <= c.tick+1 || t > math.MaxInt64/2 || t < math.MinInt64/2 {
		return // not worth keeping
	}
	from, to := int64(math.MinInt64), int64(math.MaxInt64)
	if due < never-1 {
		to = c.unix(due) - c.idle
		from = to - second
	}
	if active < never-1 {
		last := c.unix(active) - c.active
		from, to = max(from, last-second), min(to, last)
	}
	c.stampFrom, c.stampTo = from, to
}

// create enters packet i of the chunk as a flow.
func (c *Cache) create(i int, in *packet.Info) {
	w := &c.where[i]
	r := &c.regions[w.region]
	p := &c.choices[i]
	if !c.holds(p, w) {
		c.choose(w, p)
	}
	if (r.live >= r.room || p.evict || p.refuse) && r.sets < c.regionSets {
		c.grow(w.region)
		for j := i; j < c.n; j++ {
			if c.where[j].region == w.region {
				c.where[j] = c.candidates(c.hashes[j])
				c.choices[j].tags = [2]uint64{}
			}
		}
		c.choose(w, p)
	}
	if p.full {
		if slot, ok := c.makeRoom(w); ok {
			*p = place{slot: slot}
		}
	}
	if p.refuse {
		r.refused++
		c.stats.Refused++
		c.nextDue = min(c.nextDue, c.tick+1)
		c.overflow.add(c, c.asSeen(i, in))
		return
	}
	e := c.at(p.slot)
	if p.evict {
		c.retire(p.slot, e, c.tick+1, flow.EndResource, r)
	}
	t := in.Time
	if t <= c.stampFrom || t > c.stampTo {
		c.newStampDue(t)
	}
	l := uint16(min(in.Length, math.MaxUint16))
	e.Packets, e.Bytes = 1, uint64(in.Length)
	e.Key = in.Key
	e.State = hashState(c.hashes[i])
	e.First, e.Last = t, t
	e.Verdict, e.Route, e.Rate = 0, 0, [2]uint64{}
	e.TCPFlags, e.Mark = in.TCPFlags, 0
	e.MinLength, e.MaxLength, e.MinTTL, e.MaxTTL = l, l, in.TTL, in.TTL
	e.Until = c.activeDue
	due := c.activeDue
	if c.wide != nil {
		c.createWide(e, in, c.more[i])
	}
	if in.TCPFlags&c.closers != 0 && c.tcpEnd != 0 {
		e.Mark = markClosing
		e.Until = max(c.due(t, c.tcpEnd), c.tick+1)
		due = min(due, e.Until)
	}
	stamp, due := c.stamp(min(due, c.idleDue))
	head := &c.heads[p.slot/ways]
	head.tags[p.slot%ways] = uint8(hashTag(c.hashes[i]))
	head.stamps[p.slot%ways] = stamp
	c.lowerPage(p.slot, due)
	r.created++
	r.fresh = true
	if r.live++; r.live > r.staged && !c.cfg.Offline {
		c.nextDue = min(c.nextDue, c.tick+1)
	}
	c.stats.Created++
	c.live++
	c.stats.Peak = max(c.stats.Peak, c.live)
}

// stampHit says in the set's head when a flow is due whose newest packet is of time t.
func (c *Cache) stampHit(slot uint32, e *Entry, t int64) {
	if t <= c.stampFrom || t > c.stampTo {
		c.newStampDue(t)
	}
	c.heads[slot/ways].stamps[slot%ways] = manyPackets | uint8(min(c.stampDue, e.Until|c.farBits)>>c.shift)&0x7f
}

// hit is what is left to do for a packet of time t that is out of the ordinary: the
// first after an active timeout, one that came late, one that ends the connection
// (a FIN or RST) or one after it.
func (c *Cache) hit(slot uint32, e *Entry, t int64, ends bool) {
	if e.Packets == 1 || t < e.First {
		e.First = t
		if e.Mark&markClosing == 0 {
			e.Until = max(c.due(e.First, c.active), c.tick+1)
		}
	}
	e.Last = max(e.Last, t)
	if ends && e.Mark&markClosing == 0 && c.tcpEnd != 0 {
		e.Mark |= markClosing
		e.Until = max(c.due(t, c.tcpEnd), c.tick+1)
	}
	c.restamp(slot, e, manyPackets)
}

// restamp says in the set's head when the entry is due.
func (c *Cache) restamp(slot uint32, e *Entry, many uint8) {
	due := min(c.due(e.Last, c.idle), e.Until)
	if e.Mark&markClosing != 0 && e.Packets > 0 {
		due = min(due, c.due(e.First, c.active))
	}
	stamp, due := c.stamp(due)
	c.heads[slot/ways].stamps[slot%ways] = stamp | many
	c.lowerPage(slot, due)
}

// retire ends a flow: what it counted leaves, the slot is free.
func (c *Cache) retire(slot uint32, e *Entry, end uint32, why flow.EndReason, r *region) {
	if e.Packets > 0 {
		c.emit(slot, e, end, why)
	}
	e.State = stateFree
	c.heads[slot/ways].tags[slot%ways] = 0
	r.live--
	c.live--
	c.stats.Expired[why]++
}
