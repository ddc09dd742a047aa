package datapath

import (
	"fmt"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"weir/bpf"
	"weir/flow"
	"weir/guard"
)

// million is a table as the kernel maps it, small pages and all, in which n flows
// are. Grace periods take no processor time, and no time here.
type million struct {
	*twin
	frames []frame
}

func (m *million) Grace() error { return nil }

func mapped[T any](b testing.TB, n int) []T {
	size := n * int(unsafe.Sizeof(*new(T)))
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Munmap(m) })
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(m))), n)
}

func newMillion(b *testing.B, entries, flows int) *million {
	const aggregates = 512
	sets := entries/bpf.Ways + aggregates + bpf.CatchAllSets
	w := newTwin(1, 1, 1)
	w.mem = initial(bpf.Memory{
		Sets: mapped[bpf.Set](b, sets), Sides: mapped[bpf.Side](b, sets*bpf.Ways), Touched: mapped[bpf.Flag](b, (sets+bpf.TouchedSets-1)/bpf.TouchedSets),
		Flows: entries / bpf.Ways, Aggregates: aggregates, Control: new(bpf.Control), Meta: new(bpf.Meta),
	})
	w.port(2, 1)
	w.port(3, 2)
	w.port(4, 3)
	w.now.Store(1000 * second)
	m := &million{w, make([]frame, flows)}
	for i := range m.frames {
		k := numbered(uint64(i))
		m.frames[i] = frame{key: k, length: 100, ttl: 64, flags: flow.ACK}
	}
	return m
}

func (m *million) send() {
	for i := range m.frames {
		m.cpus[0].packet(&m.frames[i])
	}
	clear(m.cpus[0].turned)
	clear(m.cpus[0].refused)
	clear(m.cpus[0].caught)
}

// counting is a sink that counts.
type counting struct{ records, packets uint64 }

func (c *counting) WriteRecords(batch []flow.Record) error {
	c.records += uint64(len(batch))
	for i := range batch {
		c.packets += batch[i].Packets
	}
	return nil
}

// cpuTime is the processor time of this process, of which the benchmark is all
// but a little.
func cpuTime() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSweep: a million flows, none due, all touched; in a table that is
// all but full, and in one that is half full; with what the processor's caches
// hold of the table, and with none of it there.
func BenchmarkSweep(b *testing.B) {
	for _, entries := range []int{1 << 20, 1 << 21} {
		for _, cold := range []bool{false, true} {
			b.Run(fmt.Sprintf("entries=%dM/cold=%v", entries>>20, cold), func(b *testing.B) { benchmarkSweep(b, entries, cold) })
		}
	}
}

func benchmarkSweep(b *testing.B, entries int, cold bool) {
	other := make([]uint64, 64<<20) // what the processor's caches hold instead
	m := newMillion(b, entries, 1_000_000)
	sink := &counting{}
	s := sweeper(b, SweepConfig{Idle: time.Hour, Active: time.Hour, TCPEnd: 2 * time.Second}, m, sink)
	s.staged, s.urgent = 1<<40, 1<<40 // nothing ages
	m.send()
	now := m.now.Load()
	tick := func() {
		for i := range m.mem.Touched {
			m.mem.Touched[i].Word = 1
		}
		now += second
		if err := s.Tick(now); err != nil {
			b.Fatal(err)
		}
	}
	tick()
	var used time.Duration
	for b.Loop() {
		if cold {
			for i := range other {
				other[i]++
			}
		}
		start := cpuTime()
		tick()
		used += cpuTime() - start
	}
	b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/sweep")
	if s.live < 950_000 || sink.records != 0 {
		b.Fatalf("%d flows, %d records", s.live, sink.records)
	}
}

// BenchmarkRetire: a million flows end, and leave.
func BenchmarkRetire(b *testing.B) {
	m := newMillion(b, 1<<21, 1_000_000)
	sink := &counting{}
	s := sweeper(b, SweepConfig{Idle: 15 * time.Second, Active: time.Hour, TCPEnd: 2 * time.Second}, m, sink)
	if err := s.Adopt(); err != nil {
		b.Fatal(err)
	}
	var used time.Duration
	for b.Loop() {
		b.StopTimer()
		m.send()
		start := cpuTime()
		b.StartTimer()
		if err := s.Tick(m.now.Add(20 * second)); err != nil {
			b.Fatal(err)
		}
		used += cpuTime() - start
	}
	if sink.packets != uint64(b.N)*1_000_000 {
		b.Fatalf("%d packets in %d records", sink.packets, sink.records)
	}
	b.ReportMetric(float64(sink.records)/used.Seconds(), "flows/cpu-s")
}

// BenchmarkReport: the active timeout of a million flows, which stay.
func BenchmarkReport(b *testing.B) {
	m := newMillion(b, 1<<21, 1_000_000)
	sink := &counting{}
	s := sweeper(b, SweepConfig{Idle: time.Hour, Active: 10 * time.Second, TCPEnd: 2 * time.Second}, m, sink)
	if err := s.Adopt(); err != nil {
		b.Fatal(err)
	}
	var used time.Duration
	for b.Loop() {
		b.StopTimer()
		m.send()
		start := cpuTime()
		b.StartTimer()
		if err := s.Tick(m.now.Add(20 * second)); err != nil {
			b.Fatal(err)
		}
		used += cpuTime() - start
	}
	if sink.packets != uint64(b.N)*1_000_000 {
		b.Fatalf("%d packets in %d records", sink.packets, sink.records)
	}
	b.ReportMetric(float64(sink.records)/used.Seconds(), "records/cpu-s")
}

// BenchmarkAge: a table that is full of a flood's flows frees a part of itself.
func BenchmarkAge(b *testing.B) {
	m := newMillion(b, 1<<20, 1<<20)
	sink := &counting{}
	s := sweeper(b, SweepConfig{Idle: 15 * time.Second}, m, sink)
	if err := s.Adopt(); err != nil {
		b.Fatal(err)
	}
	var used time.Duration
	next := uint64(1 << 20)
	for b.Loop() {
		b.StopTimer()
		for i := range m.frames {
			m.frames[i].key = numbered(next)
			next++
		}
		m.mem.Control.Pressure = 0
		m.send()
		start := cpuTime()
		b.StartTimer()
		if err := s.Tick(m.now.Add(second / 10)); err != nil {
			b.Fatal(err)
		}
		used += cpuTime() - start
	}
	b.ReportMetric(float64(sink.records)/used.Seconds(), "flows/cpu-s")
	b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/tick")
}

// BenchmarkIdleTick: a table for a million flows in which a hundred are, each with
// a packet a second.
func BenchmarkIdleTick(b *testing.B) {
	m := newMillion(b, 1<<20, 100)
	s := sweeper(b, SweepConfig{Idle: 15 * time.Second, Active: 30 * time.Minute, TCPEnd: 2 * time.Second}, m, &counting{})
	cold := make([]byte, 64<<20) // what else the machine does in a second
	m.send()
	if err := s.Tick(m.now.Load()); err != nil { // this one looks at everything
		b.Fatal(err)
	}
	var used time.Duration
	for b.Loop() {
		m.send()
		for i := 0; i < len(cold); i += 64 {
			cold[i]++
		}
		start := cpuTime()
		clock, _ := s.clock()
		if err := s.Tick(clock + second); err != nil {
			b.Fatal(err)
		}
		used += cpuTime() - start
		m.now.Add(second)
	}
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-us/tick")
	b.ReportMetric(used.Seconds()/float64(b.N)*100, "%cpu")
}

// BenchmarkPorts: what is asked for the counters of interfaces, of a million
// flows.
func BenchmarkPorts(b *testing.B) {
	m := newMillion(b, 1<<21, 1_000_000)
	s := sweeper(b, SweepConfig{Idle: time.Hour}, m, &counting{})
	m.send()
	var into [2 * bpf.MaxPorts]bpf.Count
	start := cpuTime()
	for b.Loop() {
		s.Ports(&into)
	}
	b.ReportMetric(float64((cpuTime()-start).Microseconds())/1000/float64(b.N), "cpu-ms")
	if p, _ := total(&into); p != 1_000_000 {
		b.Fatalf("%d packets", p)
	}
}

// BenchmarkWalk: a million flows, with a packet each since the last walk, are shown; to
// nobody, and to who makes deltas of them.
func BenchmarkWalk(b *testing.B) {
	for _, deltas := range []bool{false, true} {
		b.Run(fmt.Sprintf("deltas=%v", deltas), func(b *testing.B) {
			m := newMillion(b, 1<<20, 1_000_000)
			s := sweeper(b, SweepConfig{Idle: time.Hour}, m, &counting{})
			differ, list, shown := guard.NewDiffer(1<<20), []guard.Delta(nil), 0
			var used time.Duration
			for b.Loop() {
				b.StopTimer()
				m.send()
				start := cpuTime()
				b.StartTimer()
				err := s.Walk(func(batch []flow.Record) error {
					if shown += len(batch); deltas {
						list = differ.Shown(list[:0], batch)
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
				used += cpuTime() - start
			}
			if shown < b.N*950_000 {
				b.Fatalf("%d flows in %d walks", shown, b.N)
			}
			b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/walk")
		})
	}
}
