package cache

import (
	"cmp"
	"math"
	"slices"
	"time"

	"weir/flow"
	"weir/packet"
)

// model is the cache as one would first write it: a map, a sweep over
// everything at every whole second, and a table only to know who is in whose
// way. It shares with the cache the hash and the arithmetic of shapeOf.
type model struct {
	cfg     Config
	secret  secret
	shape   shape
	regions []*modelRegion
	flows   map[flow.Key]*modelFlow
	excess  map[flow.Key]*modelFlow // live: aggregates
	tick    int64                   // Unix second
	started bool

	out       []modelRecord
	created   uint64
	refused   uint64
	backwards uint64
	newest    int64
	expired   [flow.EndResource + 1]uint64
}

type modelRegion struct {
	sets, most       int
	slots            [][ways]*modelFlow
	created, refused int
	fresh            bool
}

type modelFlow struct {
	key            flow.Key
	packets, bytes uint64
	first, last    int64
	fin            int64
	closing, many  bool
	flags          uint8
	minLen, maxLen uint16
	minTTL, maxTTL uint8
	region         *modelRegion
}

// modelRecord is what both are compared by.
type modelRecord struct {
	End            int64 // Unix second
	Reason         flow.EndReason
	Key            flow.Key
	Packets, Bytes uint64
	First, Last    int64
	Flags          uint8
	MinLen, MaxLen uint16
	MinTTL, MaxTTL uint8
	Aggregate      bool
}

func compareRecords(a, b modelRecord) int {
	return cmp.Or(
		cmp.Compare(a.End, b.End), slices.Compare(a.Key.Src[:], b.Key.Src[:]), slices.Compare(a.Key.Dst[:], b.Key.Dst[:]),
		cmp.Compare(a.Key.SrcPort, b.Key.SrcPort), cmp.Compare(a.Key.DstPort, b.Key.DstPort), cmp.Compare(a.Key.Input, b.Key.Input),
		cmp.Compare(a.Key.VLAN, b.Key.VLAN), cmp.Compare(a.Key.Proto, b.Key.Proto), cmp.Compare(a.Key.TOS, b.Key.TOS),
		cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last), cmp.Compare(a.Packets, b.Packets), cmp.Compare(a.Bytes, b.Bytes),
	)
}

// newModel makes the model of a cache whose regions begin with some sets.
func newModel(cfg Config, begin func(most uint32) uint32) *model {
	m := &model{
		cfg: cfg, secret: newSecret(cfg.Seed), shape: shapeOf(cfg.Entries),
		flows: map[flow.Key]*modelFlow{}, excess: map[flow.Key]*modelFlow{}, newest: math.MinInt64,
	}
	for range m.shape.regions {
		sets := int(begin(m.shape.regionSets))
		m.regions = append(m.regions, &modelRegion{sets: sets, most: int(m.shape.regionSets), slots: make([][ways]*modelFlow, sets)})
	}
	return m
}

// passed says whether second s is d or more after t; never if d is 0.
func passed(s, t int64, d time.Duration) bool { return d != 0 && s*second-t >= int64(d) }

// reach is the first whole second for which passed is true.
func reach(t int64, d time.Duration) int64 {
	if d == 0 {
		return math.MaxInt64
	}
	s := floorSecond(t + int64(d))
	if s*second < t+int64(d) {
		s++
	}
	return s
}

// dueIn is in how many seconds the flow must be looked at.
func (m *model) dueIn(f *modelFlow) int64 {
	due := reach(f.last, m.cfg.Idle)
	if f.closing {
		due = min(due, reach(f.fin, m.cfg.TCPEnd))
	}
	if f.packets > 0 {
		due = min(due, reach(f.first, m.cfg.Active))
	}
	return max(due-m.tick, 1)
}

func (m *model) Tick(now int64) {
	to := floorSecond(now)
	if !m.started {
		m.started, m.tick = true, to
	}
	for m.tick < to {
		if len(m.flows) == 0 && len(m.excess) == 0 {
			m.tick = to
			return
		}
		m.tick++
		m.sweep()
	}
}

func (m *model) sweep() {
	for _, f := range m.flows {
		switch {
		case f.closing && passed(m.tick, f.fin, m.cfg.TCPEnd):
			m.end(f, m.tick, flow.EndDetected)
		case passed(m.tick, f.last, m.cfg.Idle):
			m.end(f, m.tick, flow.EndIdle)
		case f.packets > 0 && passed(m.tick, f.first, m.cfg.Active):
			m.record(f, m.tick, flow.EndActive)
			m.expired[flow.EndActive]++
			f.packets, f.bytes, f.first, f.flags = 0, 0, 0, 0
			f.minLen, f.maxLen, f.minTTL, f.maxTTL = math.MaxUint16, 0, math.MaxUint8, 0
		}
	}
	if m.cfg.Offline {
		return
	}
	for _, r := range m.regions {
		if r.fresh && r.live() > r.most*ways*stagedPercent/100 || r.refused > 0 {
			m.age(r)
		}
	}
	for k, f := range m.excess {
		if passed(m.tick, f.last, m.cfg.Idle) || passed(m.tick, f.first, m.cfg.Active) {
			m.record(f, m.tick, flow.EndResource)
			m.out[len(m.out)-1].Aggregate = true
			delete(m.excess, k)
		}
	}
}

func (r *modelRegion) live() (n int) {
	for _, set := range r.slots {
		for _, f := range set {
			if f != nil {
				n++
			}
		}
	}
	return n
}

func (m *model) age(r *modelRegion) {
	live, capacity := r.live(), r.most*ways
	staged, urgent := capacity*stagedPercent/100, capacity*urgentPercent/100
	refusing := r.refused*1000 > r.refused+r.created
	r.created, r.refused, r.fresh = 0, 0, false
	var cut [2]int64 // of flows with one packet, and of the others
	switch {
	case live <= staged && !refusing:
		return
	case live < urgent && !refusing:
		cut[0] = int64(m.cfg.Idle/time.Second) * 3 * int64(live-staged) / int64(4*(urgent-staged))
	default:
		need := capacity * freePercent / 100
		for i := range cut {
			for ; need > 0 && cut[i] < 128; cut[i]++ {
				for _, set := range r.slots {
					for _, f := range set {
						if f != nil && f.many == (i == 1) && m.dueIn(f) == cut[i] {
							need--
						}
					}
				}
			}
		}
	}
	for _, set := range r.slots {
		for _, f := range set {
			if f == nil {
				continue
			}
			limit := cut[0]
			if f.many {
				limit = cut[1]
			}
			busy := !f.closing && f.packets > 0 && max(reach(f.first, m.cfg.Active), m.tick+1) < reach(f.last, m.cfg.Idle)
			if m.dueIn(f) < limit && !busy {
				m.end(f, m.tick, flow.EndResource)
			}
		}
	}
}

func (m *model) Add(batch []packet.Info) {
	for i := range batch {
		m.add(&batch[i])
	}
}

func (m *model) add(in *packet.Info) {
	if !m.started {
		m.Tick(in.Time)
	}
	if in.Time < m.newest {
		m.backwards++
	}
	m.newest = max(m.newest, in.Time)
	k := in.Key
	if m.cfg.Key == flow.Key5Tuple {
		k.Input, k.TOS = 0, 0
		k.VLAN &= flow.KeyIPv6 | flow.KeyFragment | flow.KeyInner
	}
	f := m.flows[k]
	if f == nil {
		f = &modelFlow{key: k, minLen: math.MaxUint16, minTTL: math.MaxUint8, last: math.MinInt64}
		if !m.enter(f) {
			m.refused++
			f = m.aggregate(k)
		}
	} else {
		f.many = true
	}
	if f.packets == 0 || in.Time < f.first {
		f.first = in.Time
	}
	f.packets++
	f.bytes += uint64(in.Length)
	f.last = max(f.last, in.Time)
	f.flags |= in.TCPFlags
	l := uint16(min(in.Length, math.MaxUint16))
	f.minLen, f.maxLen = min(f.minLen, l), max(f.maxLen, l)
	f.minTTL, f.maxTTL = min(f.minTTL, in.TTL), max(f.maxTTL, in.TTL)
	if !f.closing && in.TCPFlags&(flow.FIN|flow.RST) != 0 && m.cfg.TCPEnd != 0 {
		f.closing, f.fin = true, in.Time
	}
}

func (m *model) aggregate(k flow.Key) *modelFlow {
	k = flow.Key{Dst: k.Dst, Input: k.Input, Proto: k.Proto, VLAN: k.VLAN & flow.KeyIPv6}
	if k.VLAN == 0 {
		k.Dst[15] = 0
	} else {
		clear(k.Dst[8:])
	}
	if m.excess[k] == nil {
		m.excess[k] = &modelFlow{key: k, minLen: math.MaxUint16, minTTL: math.MaxUint8, last: math.MinInt64}
	}
	return m.excess[k]
}

// sets are the two a key may be in when its region has n sets.
func (m *model) sets(k flow.Key, n int) [2]int {
	h := m.secret.hash(&k)
	return [2]int{int(pick(uint32(h>>32), uint32(n))), int(pick(uint32(h), uint32(n)))}
}

// enter finds a place for f, if need be at the cost of another.
func (m *model) enter(f *modelFlow) bool {
	r := m.regions[m.secret.hash(&f.key)&uint64(m.shape.regions-1)]
	capacity := r.most * ways
	pressed := r.live() >= capacity*urgentPercent/100
	set, way, full := m.choose(r, f.key, pressed)
	if (full || r.live() >= r.sets*ways/4*3) && r.sets < r.most {
		m.grow(r)
		set, way, full = m.choose(r, f.key, pressed)
	}
	if full {
		if s, w, ok := m.makeRoom(r, f.key); ok {
			set, way, full = s, w, false
		}
	}
	if full {
		if !m.cfg.Offline {
			r.refused++
			return false
		}
		m.end(r.slots[set][way], m.tick+1, flow.EndResource)
	}
	r.slots[set][way] = f
	f.region = r
	r.created++
	r.fresh = true
	m.created++
	m.flows[f.key] = f
	return true
}

// choose gives a free slot, or who must leave.
func (m *model) choose(r *modelRegion, k flow.Key, pressed bool) (set, way int, full bool) {
	sets := m.sets(k, r.sets)
	most := 0
	singles := 0
	for _, s := range sets {
		free, single := 0, 0
		for _, f := range r.slots[s] {
			if f == nil {
				free++
			} else if !f.many {
				single++
			}
		}
		singles += single
		if pressed && single >= ways/4 {
			continue
		}
		if free > most {
			most = free
			set, way = s, slices.Index(r.slots[s][:], nil)
		}
	}
	if most > 0 {
		return set, way, false
	}
	soonest := int64(math.MaxInt64)
	for _, s := range sets {
		for w, f := range r.slots[s] {
			if f == nil || pressed && singles > 0 && f.many {
				continue
			}
			if d := m.dueIn(f); d < soonest {
				soonest = d
				set, way = s, w
			}
		}
	}
	return set, way, true
}

// makeRoom moves the first flow it can out of two full sets.
func (m *model) makeRoom(r *modelRegion, k flow.Key) (set, way int, ok bool) {
	sets := m.sets(k, r.sets)
	if r.live() >= r.most*ways*crowdedPercent/100 || slices.Contains(r.slots[sets[0]][:], nil) || slices.Contains(r.slots[sets[1]][:], nil) {
		return 0, 0, false
	}
	for _, s := range sets {
		for w, f := range r.slots[s] {
			for _, to := range m.sets(f.key, r.sets) {
				if free := slices.Index(r.slots[to][:], nil); to != s && free >= 0 {
					r.slots[to][free], r.slots[s][w] = f, nil
					return s, w, true
				}
			}
		}
	}
	return 0, 0, false
}

func (m *model) grow(r *modelRegion) {
	slots := make([][ways]*modelFlow, 2*r.sets)
	for s, set := range r.slots {
		for _, f := range set {
			if f == nil {
				continue
			}
			to := m.sets(f.key, 2*r.sets)
			at := to[0]
			if m.sets(f.key, r.sets)[0] != s {
				at = to[1]
			}
			slots[at][slices.Index(slots[at][:], nil)] = f
		}
	}
	r.slots, r.sets = slots, 2*r.sets
}

func (m *model) end(f *modelFlow, end int64, why flow.EndReason) {
	if f.packets > 0 {
		m.record(f, end, why)
	}
	m.expired[why]++
	delete(m.flows, f.key)
	for s := range f.region.slots {
		for w := range f.region.slots[s] {
			if f.region.slots[s][w] == f {
				f.region.slots[s][w] = nil
			}
		}
	}
}

func (m *model) record(f *modelFlow, end int64, why flow.EndReason) {
	m.out = append(m.out, modelRecord{
		End: end, Reason: why, Key: f.key, Packets: f.packets, Bytes: f.bytes, First: f.first, Last: f.last,
		Flags: f.flags, MinLen: f.minLen, MaxLen: f.maxLen, MinTTL: f.minTTL, MaxTTL: f.maxTTL,
	})
}

func (m *model) Drain(why flow.EndReason) {
	for _, f := range m.flows {
		m.end(f, m.tick+1, why)
	}
	for k, f := range m.excess {
		m.record(f, m.tick+1, flow.EndResource)
		m.out[len(m.out)-1].Aggregate = true
		delete(m.excess, k)
	}
}

// take gives what left since the last call, in order.
func (m *model) take() []modelRecord {
	out := m.out
	m.out = nil
	slices.SortFunc(out, compareRecords)
	return out
}
