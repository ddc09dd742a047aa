package datapath

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/bpf"
	"weir/flow"
)

// killed is what a daemon that is no more ends with here.
type killed struct{}

// until runs the daemon to its n-th store, and says whether it came so far.
func until(n int, s *Sweeper, work func() error) (ended bool, err error) {
	defer func() {
		s.step = nil
		if e := recover(); e == (killed{}) {
			ended = true
		} else if e != nil {
			panic(e)
		}
	}()
	s.step = func() {
		if n--; n < 0 {
			panic(killed{})
		}
	}
	return false, work()
}

// outlet is a way out that holds records back until Sync, if it is late: what it
// holds when the daemon is killed is lost with it.
type outlet struct {
	*collector
	late bool
	held []flow.Record
}

func (o *outlet) WriteRecords(batch []flow.Record) error {
	if !o.late {
		return o.collector.WriteRecords(batch)
	}
	o.held = append(o.held, batch...)
	return nil
}

func (o *outlet) Sync() error {
	err := o.collector.WriteRecords(o.held)
	o.held = o.held[:0]
	return err
}

// story is a table with something of everything, and a daemon's work on it: flows
// that end for each reason, deltas of flows that go on, flows that have counted
// nothing since, aggregates, a catch-all. It is the same each time.
type story struct {
	*twin
	sent map[flow.Key]bpf.Count
	rng  *rand.Rand
}

func newStory(aggregates int) *story {
	w := &story{newTwin(2, aggregates, 1), map[flow.Key]bpf.Count{}, rand.New(rand.NewPCG(1, 2))}
	w.port(2, 1)
	w.port(3, 7)
	w.now.Store(1000 * second)
	return w
}

var storyConfig = SweepConfig{Idle: 5 * time.Second, Active: 7 * time.Second, TCPEnd: 2 * time.Second}

// send is one packet of flow n, half a second later.
func (w *story) send(n uint64, flags uint8) {
	k := numbered(n)
	if k.Proto != flow.ProtoTCP {
		flags = 0
	}
	f := frame{key: k, length: lengthOf(&k), ttl: uint8(n), flags: flags}
	plus(w.sent, k, f.length)
	w.cpus[0].packet(&f)
	w.now.Add(second / 100)
}

// part plays a part of it with a daemon that looks on as it likes.
func (w *story) part(i int) {
	switch i {
	case 0:
		for n := range uint64(40) { // more than there is room for
			w.send(n, flow.SYN)
		}
		for n := range uint64(10) {
			w.send(n, flow.ACK|flow.PSH)
		}
	case 1, 2, 3, 4:
		w.now.Add(1900 * uint64(time.Millisecond))
		for n := range uint64(8) { // these go on beyond their active timeout
			w.send(n, flow.ACK)
		}
		if i == 4 {
			w.send(3, flow.FIN)
			w.send(100, flow.RST)
		}
	case 5, 6:
		w.now.Add(2 * second)
		w.send(1, 0)
	case 7:
		w.now.Add(6 * second)
	}
}

const parts = 8

// A daemon that is killed at any store of the protocol, and one that follows it
// and is killed too: the next one takes over what is there. Whatever was sent
// is in one record after repeats are dropped by flow id; a kill repeats one
// sub-batch at most; what is repeated is the same record; sums by port hold.
func TestKilledAtEachStore(t *testing.T) {
	for _, aggregates := range []int{0, 1} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("aggregates=%d late=%v", aggregates, late), func(t *testing.T) {
				stores := killAtEach(t, aggregates, late)
				t.Logf("%d stores", stores)
				if stores < 700 {
					t.Errorf("the daemon's work is %d stores, which is not much", stores)
				}
			})
		}
	}
}

func killAtEach(t *testing.T, aggregates int, late bool) (stores int) {
	step := 1
	if racing {
		step = 7
	}
	for stores = 0; ; stores += step {
		// The second daemon is killed at each of its first stores with the
		// first's every twenty-third, else not at all.
		again := -1
		if stores%23 == 0 {
			again = 0
		}
		for ; ; again++ {
			survived, secondToo := killAt(t, aggregates, late, stores, again)
			if t.Failed() {
				t.Fatalf("killed at store %d, and then at %d", stores, again)
			}
			if survived {
				return stores
			}
			if again < 0 || secondToo || again > 60 {
				break
			}
		}
	}
}

func killAt(t *testing.T, aggregates int, late bool, first, again int) (survived, secondToo bool) {
	w := newStory(aggregates)
	c := newCollector()
	c.each = func(r *flow.Record) {
		if was, known := c.ids[r.FlowID]; known {
			compareRepeat(t, &was, r)
		}
	}
	daemon := func() *Sweeper { return sweeper(t, storyConfig, w, &outlet{collector: c, late: late}) }
	s := daemon()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Adopt())
	left, kills := first, 0
	limit := func(s *Sweeper, n *int, work func() error) bool {
		// Stores are counted over all the daemon's work.
		used := 0
		ended, err := until(*n, s, func() error {
			inner := s.step
			s.step = func() { used++; inner() }
			return work()
		})
		must(err)
		*n -= used
		return ended
	}
	survived = true
	for i := range parts {
		w.part(i)
		work := func() error { return s.Tick(w.now.Load()) }
		if i == parts-2 {
			work = func() error { return s.Drain(flow.EndForced) } // a clean stop, or an attempt
		}
		if kills == 0 {
			if !limit(s, &left, work) {
				continue
			}
			survived = false
			kills++
			w.send(2, flow.ACK) // the programs go on
			s = daemon()
			if again >= 0 {
				n := again
				if limit(s, &n, s.Adopt) {
					kills++
					w.send(5, flow.ACK)
					s = daemon()
				} else {
					secondToo = true // it ended before that
				}
			}
			must(s.Adopt())
			continue
		}
		must(work())
	}
	w.part(0)
	drain := func() error { return s.DrainAll(flow.EndForced) }
	if kills == 0 && limit(s, &left, drain) { // as it is replaced
		survived = false
		kills++
		s = daemon()
	}
	if kills > 0 {
		must(drain())
	}
	w.settle(t, c, w.sent)
	if c.repeats > uint64(kills*batchSize) {
		t.Errorf("%d records were repeated", c.repeats)
	}
	var ports [2 * bpf.MaxPorts]bpf.Count
	s.Ports(&ports)
	want := map[uint32]bpf.Count{}
	for k, n := range w.sent {
		i := portIndex(w.mem.Control, k.Input)
		want[i] = bpf.Count{Packets: want[i].Packets + n.Packets, Bytes: want[i].Bytes + n.Bytes}
	}
	for i, n := range ports {
		if n != want[uint32(i)] {
			t.Errorf("port %d: %+v, %+v were sent", i, n, want[uint32(i)])
		}
	}
	if w.mem.Meta.Leaving[0] != 0 {
		t.Error("a sum is still under way")
	}
	checkClean(t, &w.mem)
	return survived, secondToo
}

// However much is on its way, a kill repeats one sub-batch at most.
func TestKillRepeatsOneSubBatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	most := uint64(0)
	for range few(60) {
		w := newTwin(1000, 1, 1)
		w.now.Store(1000 * second)
		c := newCollector()
		sent := map[flow.Key]bpf.Count{}
		for n := range uint64(3000) {
			k := numbered(n)
			f := frame{key: k, length: lengthOf(&k)}
			plus(sent, k, f.length)
			w.cpus[0].packet(&f)
		}
		s := sweeper(t, storyConfig, w, c)
		work := func() error { return s.Tick(w.now.Add(6 * second)) }
		if rng.IntN(2) == 0 {
			work = func() error { return s.Drain(flow.EndForced) }
		}
		if ended, err := until(rng.IntN(20000), s, work); err != nil || !ended {
			t.Fatal(ended, err)
		}
		if s = sweeper(t, storyConfig, w, c); s.DrainAll(flow.EndForced) != nil {
			t.Fatal(s.err)
		}
		w.settle(t, c, sent)
		if c.repeats > batchSize {
			t.Errorf("%d records were repeated, one sub-batch has %d", c.repeats, batchSize)
		}
		most = max(most, c.repeats)
	}
	if most < batchSize/4 {
		t.Errorf("at most %d records were repeated: this tries nothing", most)
	}
}

// compareRepeat holds a record that was sent again to the first one. Of a delta
// the next daemon knows the first packet's time to the unit of the note.
func compareRepeat(t *testing.T, was, is *flow.Record) {
	a, b := *was, *is
	if d := a.First - b.First; d < -1<<noteUnit || d > 1<<noteUnit {
		t.Errorf("repeated with another first packet, %v apart", time.Duration(d))
	}
	if b.Last < a.Last {
		t.Errorf("repeated with an earlier last packet")
	}
	b.First, b.Last = a.First, a.Last
	if a.EndReason != b.EndReason || a.Packets != b.Packets || a.Bytes != b.Bytes || a.TCPFlags != b.TCPFlags || keyOf(&a) != keyOf(&b) || a.Has != b.Has {
		t.Errorf("repeated is\n%+v, was\n%+v", b, a)
	}
}

// Daemons that are killed at random stores one after the other, while packets
// come from several CPUs.
func TestKilledOverAndOver(t *testing.T) {
	const sets = 64
	w := newTwin(sets, 4, 3)
	w.port(2, 1)
	w.now.Store(1000 * second)
	c := newCollector()
	rng := rand.New(rand.NewPCG(11, 12))
	var atWork atomic.Int32
	var senders sync.WaitGroup
	all := make([]*traffic, len(w.cpus))
	packets := few(250_000)
	for i, cpu := range w.cpus {
		all[i] = newTraffic(uint64(i), sets*bpf.Ways*2)
		atWork.Add(1)
		senders.Go(func() {
			defer atWork.Add(-1)
			for n := range packets {
				f := all[i].next()
				cpu.packet(&f)
				w.now.Add(100 * second / uint64(3*packets))
				if n%64 == 63 {
					runtime.Gosched()
				}
			}
		})
	}
	daemons, ticks := 0, 0
	var s *Sweeper
	for atWork.Load() > 0 {
		s = sweeper(t, SweepConfig{Idle: 3 * time.Second, Active: 4 * time.Second, TCPEnd: time.Second}, w, &outlet{collector: c, late: daemons%2 == 0})
		daemons++
		ended, err := until(int(1+rng.ExpFloat64()*1500), s, func() error {
			if err := s.Adopt(); err != nil {
				return err
			}
			for atWork.Load() > 0 {
				ticks++
				if err := s.Tick(w.now.Load()); err != nil {
					return err
				}
				if rng.IntN(20) == 0 {
					if err := s.Drain(flow.EndForced); err != nil {
						return err
					}
				}
				runtime.Gosched()
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !ended {
			break
		}
	}
	senders.Wait()
	s = sweeper(t, SweepConfig{Idle: 3 * time.Second}, w, c)
	if err := s.DrainAll(flow.EndForced); err != nil {
		t.Fatal(err)
	}
	sent := map[flow.Key]bpf.Count{}
	var p, o uint64
	for _, tr := range all {
		for k, n := range tr.sent {
			sent[k] = bpf.Count{Packets: sent[k].Packets + n.Packets, Bytes: sent[k].Bytes + n.Bytes}
			p, o = p+n.Packets, o+n.Bytes
		}
	}
	w.settle(t, c, sent)
	checkClean(t, &w.mem)
	var ports [2 * bpf.MaxPorts]bpf.Count
	s.Ports(&ports)
	if a, b := total(&ports); a != p || b != o {
		t.Errorf("ports have %d packets and %d octets of %d and %d", a, b, p, o)
	}
	t.Logf("%d daemons, %d ticks, %d records, %d repeats", daemons, ticks, c.records, c.repeats)
	if daemons < 10 || c.repeats == 0 || c.repeats > uint64(daemons*batchSize) {
		t.Errorf("%d daemons repeated %d records", daemons, c.repeats)
	}
}

// What fits no record: a claim of which nobody makes a flow is freed after a
// grace period, and counted.
func TestStuckClaims(t *testing.T) {
	w := newTwin(4, 1, 1)
	w.now.Store(1000 * second)
	c := newCollector()
	s := sweeper(t, storyConfig, w, c)
	if err := s.Adopt(); err != nil {
		t.Fatal(err)
	}
	stick := func(set, way int) *uint32 {
		w.mem.Sets[set].Entry[way] = bpf.Entry{Packets: 5, Bytes: 500, Incarnation: 3}
		w.mem.Sets[set].Word[way] = bpf.Claimed
		return &w.mem.Sets[set].Word[way]
	}
	word := stick(2, 3)
	w.touch(2)
	for i := range 2 {
		if *word != bpf.Claimed {
			t.Fatalf("freed at tick %d: it may be at work", i)
		}
		if err := s.Tick(w.now.Add(second)); err != nil {
			t.Fatal(err)
		}
	}
	if *word != bpf.Free {
		t.Fatalf("word %#x after two ticks", *word)
	}
	word = stick(1, 1)
	s = sweeper(t, storyConfig, w, c)
	if err := s.Adopt(); err != nil {
		t.Fatal(err)
	}
	if *word != bpf.Free || c.records != 0 {
		t.Fatalf("word %#x after Adopt, %d records", *word, c.records)
	}
	i := slices.IndexFunc(s.Losses(), func(l flow.Loss) bool { return l.Reason == Interrupted })
	if l := s.Losses()[i]; l.Records != 1 || l.Packets != 1 {
		t.Errorf("%+v, want one", l)
	}
	if w.mem.Sets[1].Entry[1].Incarnation != 3 {
		t.Error("the incarnation is the slot's")
	}
}

// A sink that fails stops the sweeper. What was given to it stays on its way: the
// next daemon sends it. Only a table that is given up loses it.
func TestSinkFails(t *testing.T) {
	w := newStory(1)
	c := newCollector()
	w.part(0)
	broken := sweeper(t, storyConfig, w, flow.SinkFunc(func([]flow.Record) error { return errBroken }))
	if err := broken.Adopt(); err != nil {
		t.Fatal(err)
	}
	w.now.Add(20 * second)
	for range 2 {
		if err := broken.Tick(w.now.Load()); err != errBroken {
			t.Fatalf("Tick gives %v", err)
		}
	}
	if err := broken.Drain(flow.EndForced); err != errBroken {
		t.Fatalf("Drain gives %v", err)
	}
	if l := broken.Stats().Lost; l.Packets != 0 {
		t.Errorf("lost %+v, but it is in the table", l)
	}
	s := sweeper(t, storyConfig, w, c)
	if err := s.Tick(w.now.Load()); err != nil {
		t.Fatal(err)
	}
	if err := s.Drain(flow.EndForced); err != nil {
		t.Fatal(err)
	}
	w.settle(t, c, w.sent)

	w.part(0)
	var p, o uint64
	for _, n := range w.sent {
		p, o = p+n.Packets, o+n.Bytes
	}
	for _, m := range []map[flow.Key]bpf.Count{c.flows, c.prefixes} {
		for _, n := range m {
			p, o = p-n.Packets, o-n.Bytes
		}
	}
	for _, n := range c.caught {
		p, o = p-n.Packets, o-n.Bytes
	}
	broken = sweeper(t, storyConfig, w, flow.SinkFunc(func([]flow.Record) error { return errBroken }))
	w.now.Add(20 * second)
	if err := broken.Tick(w.now.Load()); err != errBroken {
		t.Fatalf("Tick gives %v", err)
	}
	if err := broken.DrainAll(flow.EndForced); err != errBroken {
		t.Fatalf("DrainAll gives %v", err)
	}
	if l := broken.Stats().Lost; l.Packets != p || l.Bytes != o || l.Records == 0 {
		t.Errorf("lost %+v, want %d packets and %d octets", l, p, o)
	}
	checkClean(t, &w.mem)
}
