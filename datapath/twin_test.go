package datapath

import (
	"encoding/binary"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"weir/bpf"
	"weir/flow"
)

// twin is the kernel's side of the table in Go: what bpf/flow.bpf.c does, line
// by line, over ordinary memory, so that many goroutines, the race detector and
// a virtual clock can be at it.
type twin struct {
	mem  bpf.Memory
	now  atomic.Uint64 // ns
	cpus []*cpu
}

// cpu runs programs, one at a time.
type cpu struct {
	*twin
	running  atomic.Uint64 // odd while a program runs
	hit, new uint64
	refused  map[flow.Key]bpf.Count // by aggregate
	caught   map[uint32]bpf.Count   // by interface
	turned   map[flow.Key]bpf.Count // by flow, of both
}

// frame is what the parser makes of a packet.
type frame struct {
	key    flow.Key
	length uint32
	flags  uint8
	ttl    uint8
	output uint32
}

// memory is a table in the Go heap: the race detector sees nothing else.
func memory(flows, aggregates int) bpf.Memory {
	sets := flows + aggregates + bpf.CatchAllSets
	return initial(bpf.Memory{
		Sets: make([]bpf.Set, sets), Sides: make([]bpf.Side, sets*bpf.Ways), Touched: make([]bpf.Flag, (sets+bpf.TouchedSets-1)/bpf.TouchedSets),
		Flows: flows, Aggregates: aggregates, Control: new(bpf.Control), Meta: new(bpf.Meta),
	})
}

// initial is what the loader writes into a new table.
func initial(m bpf.Memory) bpf.Memory {
	m.Meta.Boot, m.Meta.TickNs = 0x5a5, uint64(4*time.Millisecond)
	for i := m.Flows + m.Aggregates; i < len(m.Sets); i++ {
		for way := range m.Sets[i].Entry {
			m.Sets[i].Entry[way].Facts = bpf.NoFacts
		}
	}
	return m
}

func newTwin(flows, aggregates, cpus int) *twin {
	w := &twin{mem: memory(flows, aggregates)}
	for range cpus {
		w.cpus = append(w.cpus, &cpu{twin: w, refused: map[flow.Key]bpf.Count{}, caught: map[uint32]bpf.Count{}, turned: map[flow.Key]bpf.Count{}})
	}
	return w
}

// port makes an interface one that has a number.
func (w *twin) port(ifindex, number uint32) {
	for i := range uint32(bpf.PortProbes) {
		if p := &w.mem.Control.Port[(ifindex+i)%bpf.PortSlots]; p.Ifindex == 0 {
			p.Ifindex, p.Number = ifindex, number
			return
		}
	}
}

func (w *twin) Memory() *bpf.Memory                  { return &w.mem }
func (w *twin) Now() (clock, mono uint64, err error) { c := w.now.Load(); return c, c, nil }

// Grace waits as RCU does: for every program that runs now.
func (w *twin) Grace() error {
	for _, c := range w.cpus {
		for was := c.running.Load(); was%2 == 1 && c.running.Load() == was; {
			runtime.Gosched()
		}
	}
	return nil
}

// words are a key as the hash sees it.
func words(k *flow.Key) *[11]uint32 { return (*[11]uint32)(unsafe.Pointer(k)) }

func hashKey(k *flow.Key) uint64 {
	w := words(k)
	var h uint64
	for i := 0; i < 10; i += 2 {
		h += uint64(w[i]+0x9e3779b9*uint32(i+1)) * uint64(w[i+1]+0x85ebca6b*uint32(i+2))
	}
	h += uint64(w[10]+0x27d4eb2f) * 0xc2b2ae35
	h ^= h >> 32
	h *= 0x9fb21c651e98df25
	return h ^ h>>32
}

type place struct {
	set  [2]uint32
	live uint32
}

func (w *twin) place(k *flow.Key, first, n int) place {
	h := hashKey(k)
	at := func(x uint32) uint32 { return uint32(first) + uint32(uint64(x)*uint64(n)>>32) }
	return place{[2]uint32{at(uint32(h >> 32)), at(uint32(h))}, uint32(h>>32)<<8 | bpf.Live}
}

func (w *twin) find(at, live uint32, k *flow.Key) *bpf.Entry {
	s := &w.mem.Sets[at]
	for i := range s.Word {
		word := atomic.LoadUint32(&s.Word[i])
		if word&^bpf.NewBit != live || s.Entry[i].Key != *k {
			continue
		}
		if word&bpf.NewBit != 0 {
			atomic.CompareAndSwapUint32(&s.Word[i], word, live)
		}
		return &s.Entry[i]
	}
	return nil
}

func (w *twin) touch(set uint32) {
	if t := &w.mem.Touched[set/bpf.TouchedSets].Word; atomic.LoadUint32(t) == 0 {
		atomic.StoreUint32(t, 1)
	}
}

func (f *frame) facts() bpf.Facts {
	l := uint64(min(f.length, 0xffff))
	facts := uint64(f.flags) | l<<16 | l<<32 | uint64(f.ttl)<<48 | uint64(f.ttl)<<56
	if f.flags&(flow.FIN|flow.RST) != 0 {
		facts |= bpf.MarkClosing << 8
	}
	return bpf.Facts(facts)
}

func both(a, b bpf.Facts) bpf.Facts {
	return (a|b)&0xffff | bpf.Facts(min(a.MinLength(), b.MinLength()))<<16 | bpf.Facts(max(a.MaxLength(), b.MaxLength()))<<32 |
		bpf.Facts(min(a.MinTTL(), b.MinTTL()))<<48 | bpf.Facts(max(a.MaxTTL(), b.MaxTTL()))<<56
}

func (f *frame) closing(now uint64) uint32 {
	if f.flags&(flow.FIN|flow.RST) == 0 {
		return 0
	}
	return uint32((now + second - 1) / second)
}

func (w *twin) count(e *bpf.Entry, f *frame, facts bpf.Facts, closing uint32, now uint64, set uint32) {
	if atomic.LoadUint64(&e.Last) < now {
		atomic.StoreUint64(&e.Last, now)
	}
	atomic.AddUint64(&e.Bytes, uint64(f.length))
	if preempted != nil {
		preempted()
	}
	atomic.AddUint64(&e.Packets, 1)
	if atomic.LoadUint64(&e.First) == 0 {
		atomic.CompareAndSwapUint64(&e.First, 0, now)
		w.touch(set)
	}
	old := loadFacts(e)
	if both(old, facts) == old {
		return
	}
	if closing != 0 && old.Mark()&bpf.MarkClosing == 0 {
		atomic.CompareAndSwapUint32(&e.Closing, 0, closing)
	}
	for {
		if atomic.CompareAndSwapUint64((*uint64)(&e.Facts), uint64(old), uint64(both(old, facts))) {
			if facts&^old&(bpf.MarkClosing<<8) != 0 {
				w.touch(set)
			}
			return
		}
		old = loadFacts(e)
	}
}

// preempted stands where a program can be held up between its two adds.
var preempted func()

func room(s *bpf.Set, pressed bool) int {
	free, single := 0, 0
	for i := range s.Word {
		switch atomic.LoadUint32(&s.Word[i]) & bpf.StateMask {
		case bpf.Free:
			free++
		case bpf.New:
			single++
		}
	}
	if pressed && single >= bpf.Ways/4 {
		return 0
	}
	return free
}

func (w *twin) claim(at uint32, f *frame, facts bpf.Facts, closing uint32, live uint32, now uint64) bool {
	s := &w.mem.Sets[at]
	for i := range s.Word {
		if atomic.LoadUint32(&s.Word[i]) != bpf.Free || !atomic.CompareAndSwapUint32(&s.Word[i], bpf.Free, bpf.Claimed) {
			continue
		}
		e := &s.Entry[i]
		e.Packets, e.Bytes, e.Key, e.Closing, e.Output = 1, uint64(f.length), f.key, closing, f.output
		// The sweeper reads these ahead, and forgets what it need not know.
		atomic.StoreUint64(&e.First, now)
		atomic.StoreUint64(&e.Last, now)
		atomic.StoreUint64((*uint64)(&e.Facts), uint64(facts))
		if !atomic.CompareAndSwapUint32(&s.Word[i], bpf.Claimed, live|bpf.NewBit) {
			return false
		}
		w.touch(at)
		return true
	}
	return false
}

func (w *twin) enter(at place, f *frame, facts bpf.Facts, closing uint32, now uint64, pressed bool) bool {
	a, b := at.set[0], at.set[1]
	roomA, roomB := room(&w.mem.Sets[a], pressed), room(&w.mem.Sets[b], pressed)
	if roomA < roomB {
		a, b, roomA, roomB = b, a, roomB, roomA
	}
	return roomA > 0 && w.claim(a, f, facts, closing, at.live, now) || roomB > 0 && w.claim(b, f, facts, closing, at.live, now)
}

// packet runs the program for one.
func (c *cpu) packet(f *frame) {
	c.running.Add(1)
	defer c.running.Add(1)
	now, facts := c.now.Load(), f.facts()
	closing := f.closing(now)
	at := c.place(&f.key, 0, c.mem.Flows)
	for _, set := range at.set {
		if e := c.find(set, at.live, &f.key); e != nil {
			c.hit++
			c.count(e, f, facts, closing, now, set)
			return
		}
	}
	if c.enter(at, f, facts, closing, now, atomic.LoadUint32(&c.mem.Control.Pressure) != 0) {
		c.new++
		return
	}
	c.aggregate(*f, facts&^(bpf.MarkClosing<<8), now)
}

// prefix is the aggregate a key goes to.
func prefix(k flow.Key) flow.Key {
	k = flow.Key{Dst: k.Dst, Input: k.Input, Proto: k.Proto, VLAN: k.VLAN & flow.KeyIPv6}
	if k.VLAN != 0 {
		clear(k.Dst[8:])
	} else {
		k.Dst[15] = 0
	}
	return k
}

func plus[K comparable](m map[K]bpf.Count, k K, bytes uint32) {
	c := m[k]
	m[k] = bpf.Count{Packets: c.Packets + 1, Bytes: c.Bytes + uint64(bytes)}
}

func (c *cpu) aggregate(f frame, facts bpf.Facts, now uint64) {
	plus(c.turned, f.key, f.length)
	f.key, f.output = prefix(f.key), 0
	if c.mem.Aggregates > 0 {
		at := c.place(&f.key, c.mem.Flows, c.mem.Aggregates)
		for _, set := range at.set {
			if e := c.find(set, at.live, &f.key); e != nil {
				plus(c.refused, f.key, f.length)
				c.count(e, &f, facts, 0, now, set)
				return
			}
		}
		if c.enter(at, &f, facts, 0, now, false) {
			plus(c.refused, f.key, f.length)
			return
		}
	}
	slot := portIndex(c.mem.Control, f.key.Input)
	set := uint32(c.mem.Flows+c.mem.Aggregates) + slot/bpf.Ways
	e := &c.mem.Sets[set].Entry[slot%bpf.Ways]
	input := uint32(0)
	if slot > 1 {
		input = f.key.Input
		atomic.StoreUint32(&e.Key.Input, input)
	}
	plus(c.caught, input, f.length)
	c.count(e, &f, facts, 0, now, set)
}

// numbered is the key of flow n, spread over IPv4 and IPv6, interfaces and
// directions.
func numbered(n uint64) (k flow.Key) {
	if n%5 == 0 {
		k.Src, k.Dst = flow.Addr{0x20, 1}, flow.Addr{0x20, 2, 4: byte(n / 5 % 4)}
		binary.BigEndian.PutUint64(k.Src[8:], n)
		k.VLAN = flow.KeyIPv6
	} else {
		k.Src, k.Dst = flow.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), flow.AddrFrom4([4]byte{192, byte(n >> 24), byte(n % 7), 1})
	}
	k.Proto, k.DstPort = flow.ProtoUDP, uint16(n>>32)
	if n%3 == 0 {
		k.Proto = flow.ProtoTCP
	}
	k.Input = uint32(n%3) + 2
	if n%11 == 0 {
		k.Input |= flow.KeyEgress
	}
	return k
}

// lengthOf is what every packet of a flow is long: a record with another flow's
// packets in it is found out.
func lengthOf(k *flow.Key) uint32 {
	return 40 + uint32(bits.RotateLeft64(hashKey(k), 17)%1400)
}

// collector takes records in, as a store would: it drops what has a flow id that
// it knows.
type collector struct {
	mu       sync.Mutex
	ids      map[uint64]flow.Record // nil: ids are not kept
	flows    map[flow.Key]bpf.Count
	prefixes map[flow.Key]bpf.Count
	caught   map[uint32]bpf.Count
	reasons  [flow.EndResource + 1]uint64
	records  uint64
	repeats  uint64
	each     func(r *flow.Record)
}

func newCollector() *collector {
	return &collector{
		ids: map[uint64]flow.Record{}, flows: map[flow.Key]bpf.Count{}, prefixes: map[flow.Key]bpf.Count{}, caught: map[uint32]bpf.Count{},
	}
}

func (c *collector) WriteRecords(batch []flow.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range batch {
		c.take(&batch[i])
	}
	return nil
}

func (c *collector) take(r *flow.Record) {
	if c.each != nil {
		c.each(r)
	}
	if _, known := c.ids[r.FlowID]; known {
		c.repeats++
		return
	}
	c.ids[r.FlowID] = *r
	c.records++
	c.reasons[r.EndReason]++
	k := keyOf(r)
	switch {
	case r.Has&flow.HasDst == 0:
		add(c.caught, k.Input, r)
	case r.Has&flow.HasSrc == 0:
		add(c.prefixes, k, r)
	default:
		add(c.flows, k, r)
	}
}

func add[K comparable](m map[K]bpf.Count, k K, r *flow.Record) {
	c := m[k]
	m[k] = bpf.Count{Packets: c.Packets + r.Packets, Bytes: c.Bytes + r.Bytes}
}

// keyOf is the key a record is of.
func keyOf(r *flow.Record) flow.Key {
	k := flow.Key{Src: r.Src, Dst: r.Dst, SrcPort: r.SrcPort, DstPort: r.DstPort, Proto: r.Proto, TOS: r.TOS, VLAN: r.VLAN, Input: r.Input}
	if r.IPVersion == 6 {
		k.VLAN |= flow.KeyIPv6
	}
	if r.Has&flow.HasVLAN != 0 {
		k.VLAN |= flow.KeyTagged
	}
	if r.Fragment {
		k.VLAN |= flow.KeyFragment
	}
	if r.Direction == 1 {
		k.Input = r.Output | flow.KeyEgress
	}
	return k
}

// settle compares what was sent with what arrived, flow by flow.
func (w *twin) settle(t testing.TB, c *collector, sent map[flow.Key]bpf.Count) {
	t.Helper()
	refused, caught := map[flow.Key]bpf.Count{}, map[uint32]bpf.Count{}
	sum := func(c, d bpf.Count) bpf.Count {
		return bpf.Count{Packets: c.Packets + d.Packets, Bytes: c.Bytes + d.Bytes}
	}
	want := map[flow.Key]bpf.Count{}
	for k, n := range sent {
		want[k] = n
	}
	for _, cpu := range w.cpus {
		for k, n := range cpu.refused {
			refused[k] = sum(refused[k], n)
		}
		for k, n := range cpu.caught {
			caught[k] = sum(caught[k], n)
		}
		for k, n := range cpu.turned {
			left := bpf.Count{Packets: want[k].Packets - n.Packets, Bytes: want[k].Bytes - n.Bytes}
			if want[k] = left; left == (bpf.Count{}) {
				delete(want, k)
			}
		}
	}
	equal(t, "flow", want, c.flows)
	equal(t, "aggregate", refused, c.prefixes)
	equal(t, "catch-all", caught, c.caught)
}

func equal[K comparable](t testing.TB, what string, want, got map[K]bpf.Count) {
	t.Helper()
	bad := 0
	for k, n := range want {
		if got[k] != n {
			if bad++; bad <= 5 {
				t.Errorf("%s %+v: %+v in records, %+v were sent", what, k, got[k], n)
			}
		}
	}
	for k, n := range got {
		if _, ok := want[k]; !ok {
			if bad++; bad <= 5 {
				t.Errorf("%s %+v: %+v in records, none were sent", what, k, n)
			}
		}
	}
	if bad > 0 {
		t.Errorf("%d of %d %ss are wrong", bad, len(want), what)
	}
}
