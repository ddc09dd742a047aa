package export

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/flow"
	"weir/wire"
)

// The memory against a map that holds the same: what was set comes back, by the
// destination it was set for and no other; the one taken up longest ago gives
// way.
func TestMemoryTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type kept struct {
			seq   uint32
			known bool
			boot  int64
			taken int
		}
		words := make([]uint64, rapid.IntRange(0, MemoryWords+9).Draw(t, "words"))
		slots := max(0, min(len(words), MemoryWords)/slotWords-1)
		twin := map[int]*kept{}
		base := rapid.Int64Range(0, 1<<32).Draw(t, "base") * 1e9
		for now := 1; now < 150; now++ {
			// Each turn is another process, or destination, at the same words.
			n := rapid.IntRange(0, 80).Draw(t, "destination")
			d := Destination{Host: "collector", Port: uint16(1 + n%40), Version: 9, Domain: uint32(1 + n/40)}
			s := newMemory(words).take(nameOf(d, 0), time.Unix(0, int64(now)))
			if (s == nil) != (slots == 0) {
				t.Fatalf("slot %v of %d", s, slots)
			}
			k := twin[n]
			if k == nil && slots > 0 {
				if len(twin) == slots {
					oldest := -1
					for i, o := range twin {
						if oldest < 0 || o.taken < twin[oldest].taken {
							oldest = i
						}
					}
					delete(twin, oldest)
				}
				k = &kept{}
				twin[n] = k
			}
			if k == nil {
				k = &kept{}
			}
			k.taken = now
			seq, known := s.sequence()
			boot, knownBoot := s.boot(base)
			if known != k.known || knownBoot != k.known || known && (seq != k.seq || boot != k.boot) {
				t.Fatalf("destination %d: %d %v, boot %d %v; set was %+v", n, seq, known, boot, knownBoot, *k)
			}
			if _, ok := s.boot(base + 1); ok {
				t.Fatal("the boot of another Options.Boot is believed")
			}
			if s != nil {
				k.seq, k.known, k.boot = rapid.Uint32().Draw(t, "seq"), true, base+rapid.Int64Range(-1<<31, 1<<31-1).Draw(t, "boot")*1e9
				s.setSequence(k.seq)
				s.setBoot(k.boot, base)
			}
		}
	})
}

// Whatever the words are, no number is believed that was not stored, and a
// destination can be remembered afterwards.
func FuzzMemory(f *testing.F) {
	good := make([]uint64, 16)
	name := nameOf(Destination{Host: "h", Port: 1, Version: 9, Domain: 1}, 0)
	s := newMemory(good).take(name, time.Unix(1, 0))
	s.setSequence(77)
	s.setBoot(1e9, 0)
	octets := func(words []uint64) (b []byte) {
		for _, w := range words {
			b = be.AppendUint64(b, w)
		}
		return b
	}
	f.Add(octets(good))
	f.Add(octets(make([]uint64, MemoryWords)))
	f.Add(octets(good[:9]))
	f.Add(octets(good[:8]))
	f.Add(octets(good[:1]))
	for i := range good {
		torn := slices.Clone(good)
		torn[i] ^= 1 << (7 * i % 64)
		f.Add(octets(torn))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		words := make([]uint64, min(len(b)/8, 2*MemoryWords))
		for i := range words {
			words[i] = be.Uint64(b[8*i:])
		}
		want, wantBoot := slices.Contains(words, good[5]), slices.Contains(words, good[6])
		s := newMemory(words).take(name, time.Unix(2, 0))
		if seq, ok := s.sequence(); ok && !(want && seq == 77) && seq != 0 {
			t.Fatalf("sequence %d out of %x", seq, b)
		}
		if boot, ok := s.boot(0); ok && !(wantBoot && boot == 1e9) && s.words[slotBoot] != 0 {
			t.Fatalf("boot %d out of %x", boot, b)
		}
		if len(words) < 8 {
			if s != nil {
				t.Fatalf("a slot in %d words", len(words))
			}
			return
		}
		s.setSequence(5)
		if seq, ok := newMemory(words).take(name, time.Unix(3, 0)).sequence(); !ok || seq != 5 {
			t.Fatalf("%d, %v after 5 was set", seq, ok)
		}
	})
}

// lives are exporters one after the other, over one memory, to one collector.
type lives struct {
	t      *testing.T
	c      *collector
	o      Options
	now    time.Time
	memory []uint64
}

func newLives(t *testing.T, form string) *lives {
	c := listen(t, "127.0.0.1:0").start()
	l := &lives{t: t, c: c, now: time.Unix(1_750_000_000, 0), memory: make([]uint64, MemoryWords)}
	l.o = Options{Destinations: []Destination{parse(t, "udp://"+c.addr()+"?"+form)}, Boot: l.now, Block: true, Memory: l.memory}
	return l
}

// live runs one exporter, that ends as it should.
func (l *lives) live(do func(e *Exporter)) Stats {
	l.t.Helper()
	now := l.now
	l.o.Now = func() time.Time { return now }
	e, err := New(l.o)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	do(e)
	cancel()
	if err := <-done; err != nil {
		l.t.Fatal(err)
	}
	return e.Stats()[0]
}

// exporters is what the collector knows.
func (l *lives) exporters() []wire.ExporterInfo {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	return l.c.dec.Exporters()
}

// Over restarts the sequence has no hole and no repetition, whatever is sent
// between data, and the exporter's start does not move.
func TestSequenceOverRestarts(t *testing.T) {
	for _, form := range []string{"version=5", "version=7", "version=9", "version=9&template=full", "version=10", "version=10&template=cisco"} {
		t.Run(form, func(t *testing.T) {
			l := newLives(t, form)
			l.o.Interfaces = func() []Interface { return []Interface{{Index: 1, Name: "eth0"}} }
			rng := rand.New(rand.NewPCG(20, 20))
			datagrams := 0
			var started time.Time
			for i := range 8 {
				l.now = l.now.Add(time.Duration(rng.Int64N(int64(20 * time.Hour))))
				st := l.live(func(e *Exporter) {
					for range rng.IntN(4) { // sometimes nothing
						records, _ := mixed(1+rng.IntN(700), l.now.UnixNano())
						e.WriteRecords(records)
						if rng.IntN(2) == 0 {
							e.Sync()
						}
					}
				})
				datagrams += int(st.Datagrams)
				l.c.until(t, "last datagram", func() bool { return l.c.grams == datagrams })
				for _, x := range l.exporters() {
					if q := x.Sequence; q.Gaps+q.Lost+q.Missing+q.Reordered+q.Duplicates+q.Restarts > 0 {
						t.Fatalf("life %d: the collector saw %+v", i, q)
					}
					if !x.Started.IsZero() && !started.IsZero() && !x.Started.Equal(started) {
						t.Fatalf("life %d: the exporter began at %v; before it was %v", i, x.Started, started)
					}
					started = x.Started
				}
			}
			if n := len(l.exporters()); n != 1 || datagrams < 30 {
				t.Errorf("%d datagrams, of %d exporters to the collector's eye", datagrams, n)
			}
		})
	}
}

// What was lost without being sent is a hole also when the process ended
// before the next datagram.
func TestLossShowsAfterRestart(t *testing.T) {
	l := newLives(t, "version=5&queue=16")
	records, _ := mixed(2_000, l.now.UnixNano())
	records = slices.DeleteFunc(records, func(r flow.Record) bool { return r.IPVersion == 6 })[:40*wire.MaxRecordsV5]
	first := l.live(func(e *Exporter) { e.WriteRecords(records[:5]); e.Sync() })
	l.o.Block = false
	e, err := New(l.o)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	e.WriteRecords(records) // nobody sends: most do not fit the queue
	e.senders[0].flush()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Run(ctx); err != nil {
		t.Fatal(err)
	}
	st := e.Stats()[0]
	lost := lossOf(st.Lost, queueFull).Records
	last := l.live(func(e *Exporter) { e.WriteRecords(records[:5]); e.Sync() })
	l.c.until(t, "last datagram", func() bool { return l.c.grams == int(first.Datagrams+st.Datagrams+last.Datagrams) })
	q := l.exporters()[0].Sequence
	if lost == 0 || q.Missing+q.Lost != lost || q.Duplicates+q.Restarts+q.Reordered > 0 {
		t.Errorf("%d records did not fit; the collector saw %+v", lost, q)
	}
}

// Flows that began before the process, but after Options.Boot, have their
// times; so have those of an exporter that is up for months, whose sysUptime
// begins anew when 31 bits of ms are over, and then stays over restarts.
func TestTimesOverRestarts(t *testing.T) {
	const day = 24 * time.Hour
	for _, form := range []string{"version=5", "version=9", "version=9&template=full", "version=10"} {
		t.Run(form, func(t *testing.T) {
			l := newLives(t, form)
			var times, want [][2]int64
			var starts []int64 // of sysUptime, one after the other
			l.c.mu.Lock()
			l.c.each = func(m wire.Message, records []flow.Record) {
				for _, r := range records {
					times = append(times, [2]int64{r.First, r.Last})
				}
				start := m.Exported - int64(m.Uptime)*1e6
				if n := len(starts); m.Version != flow.VersionIPFIX && (n == 0 || starts[n-1] != start) {
					starts = append(starts, start)
				}
				if int64(m.Uptime)*1e6 > wire.MaxSpan {
					t.Errorf("sysUptime is %d ms", m.Uptime)
				}
			}
			l.c.mu.Unlock()
			steps := []time.Duration{10 * day, 9 * day, day, 2 * day, 5 * day, 8 * day, day / 2, 25 * day, 40 * day, time.Hour, 10 * day, time.Hour}
			datagrams := 0
			atOnce := 0 // new starts while the exporter was up, and away, for less than 24 days
			for i, step := range steps {
				l.now = l.now.Add(step)
				l.c.mu.Lock()
				n := len(starts)
				l.c.mu.Unlock()
				st := l.live(func(e *Exporter) {
					for _, age := range []time.Duration{step / 2, 0, step + time.Minute} {
						r := plain(rand.New(rand.NewPCG(1, uint64(i))), l.now.UnixNano())
						r.Src, r.Dst, r.IPVersion = flow.AddrFrom4([4]byte{1}), flow.AddrFrom4([4]byte{2}), 4
						r.First = l.now.Add(-min(age, 12*time.Hour)).UnixNano()
						want = append(want, [2]int64{r.First, r.Last})
						e.WriteRecords([]flow.Record{r})
					}
				})
				datagrams += int(st.Datagrams)
				l.c.until(t, "last datagram", func() bool { return l.c.grams == datagrams })
				if n > 0 && len(starts) > n && l.now.UnixNano()-starts[n-1] < wire.MaxSpan {
					atOnce++
				}
			}
			if len(starts) > 9 || atOnce > 0 { // 111 days: at least every 24.8, and again for an older flow
				t.Errorf("sysUptime began %d times, %d times of those without need: %v", len(starts), atOnce, starts)
			}
			slices.SortFunc(times, func(a, b [2]int64) int { return slices.Compare(a[:], b[:]) })
			slices.SortFunc(want, func(a, b [2]int64) int { return slices.Compare(a[:], b[:]) })
			if !slices.Equal(times, want) {
				t.Errorf("times read\n%v; given\n%v", times, want)
			}
			if q := l.exporters()[0].Sequence; q.Gaps+q.Lost+q.Missing+q.Reordered+q.Duplicates > 0 {
				t.Errorf("the collector saw %+v", q)
			}
		})
	}
}

// Two destinations that are alike have a slot each.
func TestTwins(t *testing.T) {
	c := listen(t, "127.0.0.1:0").start()
	memory := make([]uint64, MemoryWords)
	d := parse(t, "udp://"+c.addr()+"?version=5")
	for i := range 3 {
		e, stop := running(t, Options{Destinations: []Destination{d, d}, Memory: memory, Block: true})
		records, _ := mixed(100, time.Now().UnixNano())
		e.WriteRecords(records)
		stop()
		for n, s := range e.senders {
			seq, ok := newMemory(memory).take(nameOf(d, n), time.Now()).sequence()
			if st := s.stats(); !ok || seq != uint32(st.WireRecords)*uint32(i+1) {
				t.Fatalf("life %d, destination %d: %d, %v after %d records a life", i, n, seq, ok, st.WireRecords)
			}
		}
	}
	if fmt.Sprint(nameOf(d, 0)) == fmt.Sprint(nameOf(d, 1)) {
		t.Error("they have one name")
	}
}
