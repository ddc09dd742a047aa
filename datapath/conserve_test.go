package datapath

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/bpf"
	"weir/flow"
)

// few is n, or less of it where everything takes ten times as long.
func few(n int) int {
	if racing || testing.Short() {
		return n / 8
	}
	return n
}

// long says whether the long forms run.
func long() bool { return os.Getenv("WEIR_SOAK") != "" }

func sweeper(t testing.TB, cfg SweepConfig, k Kernel, sink flow.Sink) *Sweeper {
	t.Helper()
	if cfg.Wall == nil {
		cfg.Wall = func(mono uint64) int64 { return int64(mono) }
	}
	s, err := NewSweeper(cfg, k, sink)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// traffic sends packets of skewed flows on a twin's CPU: most are of a few, the
// rest of many. From time to time they are others.
type traffic struct {
	rng   *rand.Rand
	flows uint64
	from  uint64
	sent  map[flow.Key]bpf.Count
}

func newTraffic(seed, flows uint64) *traffic {
	return &traffic{rng: rand.New(rand.NewPCG(seed, 7)), flows: flows, sent: map[flow.Key]bpf.Count{}}
}

func (w *traffic) next() frame {
	n := w.rng.Uint64N(w.flows)
	if w.rng.IntN(2) == 0 {
		n = n * n / w.flows * n / w.flows // the low ones are frequent
	}
	n += w.from
	k := numbered(n)
	f := frame{key: k, length: lengthOf(&k), ttl: 64, output: uint32(n % 3)}
	if k.Proto == flow.ProtoTCP {
		f.flags = flow.ACK
		if w.rng.IntN(50) == 0 {
			f.flags |= flow.FIN
		}
	}
	plus(w.sent, k, f.length)
	return f
}

// Packets of several CPUs and a sweeper that is at it all the time: whatever is
// sent is in exactly one record, of its own flow, or in the aggregate it was
// turned away to, to the packet and the octet; and the sums by port, asked
// meanwhile, never fall and end at what was sent.
func TestConservation(t *testing.T) {
	for _, load := range []struct {
		name    string
		percent int
		want    []flow.EndReason
	}{
		{"10%", 10, []flow.EndReason{flow.EndIdle, flow.EndActive, flow.EndDetected}},
		{"90%", 90, []flow.EndReason{flow.EndActive, flow.EndResource}},
		{"400%", 400, []flow.EndReason{flow.EndActive, flow.EndResource}},
	} {
		t.Run(load.name, func(t *testing.T) {
			const sets = 256
			w := newTwin(sets, 8, 4)
			w.port(2, 1)
			w.port(3, 2) // 4 has none
			w.now.Store(1000 * second)
			c := newCollector()
			c.each = func(r *flow.Record) {
				if r.Has&flow.HasSrc == 0 {
					return
				}
				// A record may have the octets of a packet that is not yet
				// counted, one for each CPU, or lack those of one that is.
				k := keyOf(r)
				each := uint64(lengthOf(&k))
				if more := int64(r.Bytes - r.Packets*each); r.Bytes%each != 0 || more > 4*int64(each) || more < -4*int64(each) {
					t.Errorf("%d packets of %d octets are %d: %+v", r.Packets, each, r.Bytes, r)
				}
				if r.First > r.Last || r.Packets == 0 {
					t.Errorf("%+v", r)
				}
			}
			s := sweeper(t, SweepConfig{Idle: 5 * time.Second, Active: 8 * time.Second, TCPEnd: 2 * time.Second}, w, c)
			if err := s.Adopt(); err != nil {
				t.Fatal(err)
			}
			sent := drive(t, w, s, uint64(sets*bpf.Ways*load.percent/100), few(200_000))
			if err := s.DrainAll(flow.EndForced); err != nil {
				t.Fatal(err)
			}
			w.settle(t, c, sent)
			stats := s.Stats()
			t.Logf("%d records %v, %d created, %d refused, peak %d", c.records, c.reasons, stats.Created, stats.Refused, stats.Peak)
			for _, why := range load.want {
				if c.reasons[why] == 0 {
					t.Errorf("nothing ended for %v", why)
				}
			}
			checkStats(t, w, s, c)
		})
	}
}

// drive sends packets from all CPUs, a minute's worth, while s sweeps and others
// look, and says what was sent.
func drive(t *testing.T, w *twin, s *Sweeper, flows uint64, packets int) map[flow.Key]bpf.Count {
	var senders, others sync.WaitGroup
	var atWork atomic.Int32
	all := make([]*traffic, len(w.cpus))
	step := 60 * second / uint64(packets*len(w.cpus))
	for i, cpu := range w.cpus {
		all[i] = newTraffic(uint64(i), flows)
		atWork.Add(1)
		senders.Go(func() {
			defer atWork.Add(-1)
			for n := range packets {
				f := all[i].next()
				cpu.packet(&f)
				w.now.Add(step)
				all[i].from = uint64(n*6/packets) * flows
				if n%256 == 255 {
					runtime.Gosched()
				}
			}
		})
	}
	others.Go(func() {
		var was, now [2 * bpf.MaxPorts]bpf.Count
		for atWork.Load() > 0 {
			s.Ports(&now)
			for i := range now {
				if now[i].Packets < was[i].Packets || now[i].Bytes < was[i].Bytes {
					t.Errorf("port %d fell from %+v to %+v", i, was[i], now[i])
				}
			}
			was = now
			for r := range s.Entries {
				if k := keyOf(r); r.Has&flow.HasSrc != 0 && (r.Bytes%uint64(lengthOf(&k)) != 0 || r.Has&flow.HasEndReason != 0) {
					t.Errorf("shown is %+v", r)
				}
			}
			s.Stats()
			s.Losses()
			time.Sleep(time.Millisecond)
		}
	})
	for atWork.Load() > 0 {
		if err := s.Tick(w.now.Load()); err != nil {
			t.Error(err)
			break
		}
		runtime.Gosched()
	}
	senders.Wait()
	others.Wait()
	sent := map[flow.Key]bpf.Count{}
	var packetsIn, octets uint64
	for _, tr := range all {
		for k, n := range tr.sent {
			c := sent[k]
			sent[k] = bpf.Count{Packets: c.Packets + n.Packets, Bytes: c.Bytes + n.Bytes}
			packetsIn += n.Packets
			octets += n.Bytes
		}
	}
	var ports [2 * bpf.MaxPorts]bpf.Count
	s.Ports(&ports)
	if p, o := total(&ports); p != packetsIn || o != octets {
		t.Errorf("ports have %d packets and %d octets of %d and %d", p, o, packetsIn, octets)
	}
	return sent
}

func total(ports *[2 * bpf.MaxPorts]bpf.Count) (packets, bytes uint64) {
	for _, c := range ports {
		packets += c.Packets
		bytes += c.Bytes
	}
	return packets, bytes
}

// checkStats holds a drained table's counters to what the collector has.
func checkStats(t *testing.T, w *twin, s *Sweeper, c *collector) {
	t.Helper()
	stats := s.Stats()
	var created, turned uint64
	for _, cpu := range w.cpus {
		created += cpu.new
		for _, n := range cpu.turned {
			turned += n.Packets
		}
	}
	var ended uint64
	for why, n := range stats.Expired {
		if flow.EndReason(why) != flow.EndActive {
			ended += n
		}
	}
	if stats.Entries != 0 || stats.Created != created || ended != created || stats.Records != c.records || stats.Refused != turned || stats.Aggregates != 0 {
		t.Errorf("%+v: %d were created, %d records came, %d packets were refused", stats, created, c.records, turned)
	}
	if stats.Expired[flow.EndActive] != c.reasons[flow.EndActive] {
		t.Errorf("%d active timeouts, %d records of them", stats.Expired[flow.EndActive], c.reasons[flow.EndActive])
	}
	checkClean(t, &w.mem)
	for _, l := range s.Losses() {
		if l.Records+l.Packets+l.Bytes != 0 {
			t.Errorf("lost: %+v", l)
		}
	}
}

// The sweeper in its own time: Run, ended by its context.
func TestRun(t *testing.T) {
	w := newTwin(16, 2, 1)
	w.now.Store(1000 * second)
	start := time.Now()
	k := &running{twin: w, start: start}
	c := newCollector()
	s := sweeper(t, SweepConfig{Idle: time.Second, TCPEnd: time.Second}, k, c)
	ctx, cancel := context.WithCancel(context.Background())
	c.each = func(*flow.Record) { cancel() }
	f := frame{key: numbered(3), length: 100}
	w.cpus[0].packet(&f)
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if c.records != 1 || c.reasons[flow.EndIdle] != 1 {
		t.Errorf("%d records %v, want one for idleness", c.records, c.reasons)
	}
	k.broken = errBroken
	if err := s.Run(context.Background()); !errors.Is(err, errBroken) {
		t.Errorf("without a clock Run ends with %v", err)
	}
}

var errBroken = errors.New("broken")

// running is a twin whose clock goes.
type running struct {
	*twin
	start  time.Time
	broken error
}

func (r *running) Now() (clock, mono uint64, err error) {
	r.now.Store(1000*second + uint64(time.Since(r.start)))
	clock, mono, _ = r.twin.Now()
	return clock, mono, r.broken
}

// checkClean says whether a table that was drained is as it was made.
func checkClean(t testing.TB, m *bpf.Memory) {
	t.Helper()
	for i := range m.Sets {
		set := &m.Sets[i]
		for way := range set.Word {
			if side := m.Sides[i*bpf.Ways+way]; set.Word[way] != bpf.Free || set.Note[way] != 0 || i < m.Flows+m.Aggregates && side != (bpf.Side{}) {
				t.Fatalf("set %d way %d is left with word %#x, note %#x, side %+v", i, way, set.Word[way], set.Note[way], side)
			}
		}
	}
}
