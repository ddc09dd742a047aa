package datapath

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/bpf"
	"weir/flow"
)

func TestConfigIsChecked(t *testing.T) {
	w := newTwin(4, 1, 1)
	sink := newCollector()
	for _, c := range []struct {
		cfg  SweepConfig
		want string
	}{
		{SweepConfig{Idle: -1}, "idle timeout"},
		{SweepConfig{Key: 9}, "unknown key"},
	} {
		if _, err := NewSweeper(c.cfg, w, sink); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want one of %q", c.cfg, err, c.want)
		}
	}
	for _, c := range []struct {
		spoil func(m *bpf.Memory)
		want  string
	}{
		{func(m *bpf.Memory) { m.Flows = 0 }, "0 for flows"},
		{func(m *bpf.Memory) { m.Sets = m.Sets[:10] }, "10 sets"},
		{func(m *bpf.Memory) { m.Sides = m.Sides[:10] }, "10 sides"},
		{func(m *bpf.Memory) { m.Touched = nil }, "touched"},
		{func(m *bpf.Memory) { m.Meta = nil }, "meta"},
	} {
		w := newTwin(4, 1, 1)
		c.spoil(&w.mem)
		if _, err := NewSweeper(SweepConfig{}, w, sink); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want one of %q", err, c.want)
		}
	}
}

// A packet whose octets are counted and which is not: what can be said of it is
// held back, and nothing is said twice.
func TestOctetsWithoutPacketsAreHeldBack(t *testing.T) {
	w := newTwin(8, 1, 1)
	w.now.Store(1000 * second)
	var got []flow.Record
	s := sweeper(t, SweepConfig{Active: 3 * time.Second}, w, flow.SinkFunc(func(b []flow.Record) error {
		got = append(got, b...)
		return nil
	}))
	f := frame{key: numbered(1), length: 100}
	w.cpus[0].packet(&f)
	at := w.place(&f.key, 0, w.mem.Flows)
	e := w.find(at.set[0], at.live, &f.key)
	tick := func(want ...bpf.Count) {
		t.Helper()
		got = got[:0]
		if err := s.Tick(w.now.Add(5 * second)); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("%d records, want %d", len(got), len(want))
		}
		for i, c := range want {
			if got[i].Packets != c.Packets || got[i].Bytes != c.Bytes {
				t.Fatalf("%d packets, %d octets, want %+v", got[i].Packets, got[i].Bytes, c)
			}
		}
	}
	tick(bpf.Count{Packets: 1, Bytes: 100})
	e.Bytes += 100 // a program is held up here
	tick()
	if err := s.Drain(flow.EndForced); err != nil || len(got) != 0 {
		t.Fatal(err, got)
	}
	e.Packets++ // and goes on, but does not say when
	w.touch(at.set[0])
	tick(bpf.Count{Packets: 1, Bytes: 100})
	tick()

	preempted = func() { // the sweeper comes just then
		preempted = nil
		tick()
	}
	w.cpus[0].packet(&f)
	tick(bpf.Count{Packets: 1, Bytes: 100})
	tick()
	preempted = func() {
		preempted = nil
		e.Packets++ // another CPU's packet
		e.Bytes += 70
		e.First = w.now.Load()
		tick(bpf.Count{Packets: 1, Bytes: 170})
	}
	w.cpus[0].packet(&f)
	tick(bpf.Count{Packets: 1, Bytes: 0}) // its octets left before it
}

// Established flows outlive a flood of new ones: those with one packet age
// first; the table never fills up with them, and all is counted.
func TestFlood(t *testing.T) {
	sets := 1024
	if racing {
		sets = 128 // one goroutine: there is nothing to race with
	}
	w := newTwin(sets, 64, 1)
	w.port(2, 1)
	w.port(3, 2)
	w.port(4, 3)
	w.now.Store(1000 * second)
	c := newCollector()
	s := sweeper(t, SweepConfig{Idle: 15 * time.Second, Active: time.Hour, TCPEnd: 2 * time.Second}, w, c)
	if err := s.Adopt(); err != nil {
		t.Fatal(err)
	}
	sent := map[flow.Key]bpf.Count{}
	send := func(n uint64) {
		k := numbered(n)
		f := frame{key: k, length: lengthOf(&k)}
		plus(sent, k, f.length)
		w.cpus[0].packet(&f)
	}
	steady := sets * bpf.Ways * 3 / 10
	next, most := uint64(1<<20), uint64(0)
	for tenth := range 200 {
		for n := range uint64(steady) {
			if int(n)%20 == tenth%20 || tenth < 2 { // each flow a packet every two seconds
				send(n)
			}
		}
		if tenth > 20 {
			for range sets * bpf.Ways / 10 { // a tenth of the table in a tenth of a second
				send(next)
				next++
			}
		}
		if err := s.Tick(w.now.Add(second / 10)); err != nil {
			t.Fatal(err)
		}
		most = max(most, s.live)
	}
	stats := s.Stats()
	t.Logf("%d flows of a flood: %d created, %d refused, most %d of %d, expired %v", next-1<<20, stats.Created, stats.Refused, most, stats.Capacity, stats.Expired)
	seen := map[flow.Key]bool{}
	for k := range c.flows {
		seen[k] = true
	}
	lost := 0
	for n := range uint64(steady) {
		if seen[numbered(n)] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d established flows lost their entries", lost, steady)
	}
	if stats.Expired[flow.EndResource] == 0 {
		t.Error("nothing was aged")
	}
	if err := s.DrainAll(flow.EndForced); err != nil {
		t.Fatal(err)
	}
	w.settle(t, c, sent)
}

// Between the marks the idle limit of flows with one packet falls, and only
// theirs.
func TestStagedAgeing(t *testing.T) {
	const sets = 512
	w := newTwin(sets, 8, 1)
	w.now.Store(1000 * second)
	c := newCollector()
	s := sweeper(t, SweepConfig{Idle: 100 * time.Second}, w, c)
	if err := s.Adopt(); err != nil {
		t.Fatal(err)
	}
	const capacity = sets * bpf.Ways
	for n := range uint64(capacity * 68 / 100) {
		k := numbered(n)
		for range 1 + n%2 {
			w.cpus[0].packet(&frame{key: k, length: 60})
		}
		w.now.Add(80 * second / (capacity * 68 / 100))
	}
	if err := s.Tick((w.now.Load()/second + 1) * second); err != nil {
		t.Fatal(err)
	}
	// Occupancy is halfway between the marks: the limit has fallen by 3/8.
	oldest := w.now.Load() - 60*second
	if c.records == 0 {
		t.Fatal("nothing aged")
	}
	for _, r := range c.ids {
		if r.EndReason != flow.EndResource || r.Packets != 1 {
			t.Fatalf("%+v", r)
		}
		if uint64(r.Last) > oldest {
			t.Fatalf("idle for %v was too long", time.Duration(int64(w.now.Load())-r.Last))
		}
	}
	if w.mem.Control.Pressure != 0 {
		t.Error("pressure at two thirds")
	}
}

// A histogram's bins keep the order of ages.
func TestAgeBins(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 100_000 {
		a, b := rng.Uint64()>>rng.UintN(64), rng.Uint64()>>rng.UintN(64)
		if a > b {
			a, b = b, a
		}
		x, y := ageBin(a), ageBin(b)
		if x > y || y >= ages {
			t.Fatalf("ages %d and %d are in bins %d and %d", a, b, x, y)
		}
		if x == y && b > 16<<ageShift && b-a > b/16+1<<ageShift {
			t.Fatalf("ages %d and %d are in one bin", a, b)
		}
	}
}

// Records' times do not jitter with the difference of two clocks that step; a
// step of the wall clock is followed.
func TestOffsetStandsStill(t *testing.T) {
	w := newTwin(8, 1, 1)
	w.mem.Meta.TickNs = 4e6
	now, jump := uint64(5e9), int64(0)
	k := clocks{w, func() (uint64, uint64) { return now / 4e6 * 4e6, now }}
	s := sweeper(t, SweepConfig{Wall: func(mono uint64) int64 { return int64(mono) + 1_700_000_000e9 + jump }}, k, newCollector())
	offsets := map[int64]bool{}
	rng := rand.New(rand.NewPCG(3, 3))
	for range 1000 {
		now += rng.Uint64N(2e9)
		clock, err := s.clock()
		if err != nil || clock != now/4e6*4e6 {
			t.Fatal(clock, err)
		}
		offsets[s.offset.Load()] = true
		if d := int64(now) + 1_700_000_000e9 - int64(clock) - s.offset.Load(); d > 8e6 || d < -8e6 {
			t.Fatalf("%v off", time.Duration(d))
		}
	}
	if len(offsets) != 1 {
		t.Errorf("the offset moved %d times", len(offsets)-1)
	}
	jump = int64(time.Hour)
	s.clock()
	if d := s.offset.Load() - 1_700_000_000e9 - int64(time.Hour); d < 0 || d > 4e6 {
		t.Errorf("an hour later it is %v off", time.Duration(d))
	}
	if now := time.Now().UnixNano(); max(now-wall(monotonic()), wall(monotonic())-now) > int64(time.Second) {
		t.Error("the machine's wall clock is another")
	}
}

func monotonic() uint64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return uint64(ts.Nano())
}

type clocks struct {
	*twin
	now func() (uint64, uint64)
}

func (c clocks) Now() (clock, mono uint64, err error) { clock, mono = c.now(); return }

// What a record says of interfaces, and what the view shows.
func TestInterfaces(t *testing.T) {
	w := newTwin(8, 1, 1)
	w.now.Store(1000 * second)
	c := newCollector()
	s := sweeper(t, SweepConfig{Sampling: 10, Active: 5 * time.Second}, w, c)
	in, out, neither := numbered(1), numbered(2), numbered(4)
	in.Input, out.Input, neither.Input = 7, 9|flow.KeyEgress, 0
	w.cpus[0].packet(&frame{key: in, length: 100, output: 8})
	w.cpus[0].packet(&frame{key: out, length: 100, output: 9})
	w.cpus[0].packet(&frame{key: neither, length: 100})
	check := func(r *flow.Record) {
		t.Helper()
		const both = flow.HasInput | flow.HasOutput | flow.HasDirection
		var ok bool
		switch r.Src {
		case in.Src:
			ok = r.Has&both == both && r.Input == 7 && r.Output == 8 && r.Direction == 0
		case out.Src:
			ok = r.Has&both == flow.HasOutput|flow.HasDirection && r.Output == 9 && r.Direction == 1
		case neither.Src:
			ok = r.Has&both == 0
		}
		if !ok || r.Sampling != 10 || r.FlowID>>52 != 0x5a5 {
			t.Errorf("%+v", r)
		}
	}
	shown := 0
	for r := range s.Entries {
		check(r)
		if shown++; r.Has&flow.HasEndReason != 0 {
			t.Errorf("what is there has not ended: %+v", r)
		}
	}
	for range s.Entries {
		shown++
		break
	}
	if shown != 4 {
		t.Errorf("%d shown, want 3 and 1", shown)
	}
	if err := s.Walk(func(b []flow.Record) error { return errBroken }); !errors.Is(err, errBroken) {
		t.Error(err)
	}
	c.each = check
	if err := s.Drain(flow.EndForced); err != nil || c.records != 3 {
		t.Fatal(err, c.records)
	}
	for r := range s.Entries {
		t.Errorf("shown though it has been handed on: %+v", r)
	}
	w.cpus[0].packet(&frame{key: in, length: 50, output: 8})
	for r := range s.Entries {
		if r.Packets != 1 || r.Bytes != 50 {
			t.Errorf("shown is %+v, of which only the last packet is new", r)
		}
	}
}

// A sweep looks at what may be due or was touched and at nothing else, and
// misses nothing: a FIN on a page that nothing else happens to.
func TestQuietPagesAreLeftAlone(t *testing.T) {
	w := newTwin(64*pageSets, 8, 1)
	w.now.Store(1000 * second)
	c := newCollector()
	s := sweeper(t, SweepConfig{Idle: time.Minute, Active: time.Hour, TCPEnd: 2 * time.Second}, w, c)
	k := numbered(3)
	f := frame{key: k, length: 60, flags: flow.ACK}
	w.cpus[0].packet(&f)
	tick := func() {
		t.Helper()
		if err := s.Tick(w.now.Add(second)); err != nil {
			t.Fatal(err)
		}
	}
	tick()
	i := slices.IndexFunc(s.pages, func(p page) bool { return p.live > 0 })
	if s.pages[i].due != s.now+59*second || s.live != 1 {
		t.Fatalf("page %d is due in %v", i, time.Duration(s.pages[i].due-s.now))
	}
	looked := s.pages[i].due
	for range 30 {
		f.flags = flow.ACK
		w.cpus[0].packet(&f)
		tick()
		if s.pages[i].due != looked {
			t.Fatal("a packet more had the page looked at")
		}
	}
	f.flags |= flow.FIN
	w.cpus[0].packet(&f)
	tick()
	tick()
	if c.reasons[flow.EndDetected] != 1 {
		t.Fatalf("%v after FIN and two seconds", c.reasons)
	}
	if p := &s.pages[i]; p.live != 0 || p.due != empty {
		t.Errorf("an empty page is to be read: %+v", p)
	}
}

// A sweep allocates nothing, whatever it does: flows that come, end, age, are
// reported and refused.
func TestAllocations(t *testing.T) {
	if racing {
		t.Skip("allocations are counted without the race detector")
	}
	w := newTwin(512, 8, 1)
	w.now.Store(1000 * second)
	s := sweeper(t, SweepConfig{Idle: 3 * time.Second, Active: 2 * time.Second, TCPEnd: time.Second}, w, discard{})
	tr := newTraffic(1, 512*bpf.Ways*2)
	frames := make([]frame, 20000)
	for i := range frames {
		frames[i] = tr.next()
	}
	for _, cpu := range w.cpus {
		for i := range frames { // its maps grow now
			cpu.packet(&frames[i])
		}
	}
	n := 0
	round := func() {
		for range 2000 {
			w.cpus[0].packet(&frames[n%len(frames)])
			n++
		}
		s.clock()
		if err := s.Tick(w.now.Add(second / 10)); err != nil {
			t.Fatal(err)
		}
		s.wait(w.now.Load())
	}
	for range 200 {
		round()
	}
	if a := testing.AllocsPerRun(300, round); a != 0 {
		t.Errorf("a tick allocates %v times", a)
	}
	st := s.Stats()
	for _, why := range []flow.EndReason{flow.EndActive, flow.EndResource} {
		if st.Expired[why] == 0 {
			t.Errorf("nothing ended for %v: %+v", why, st)
		}
	}
	if st.Refused == 0 {
		t.Errorf("nothing was refused: %+v", st)
	}
	if a := testing.AllocsPerRun(10, func() { s.Drain(flow.EndForced) }); a != 0 {
		t.Errorf("Drain allocates %v times", a)
	}
}

type discard struct{}

func (discard) WriteRecords([]flow.Record) error { return nil }
