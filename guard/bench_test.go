package guard

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"weir/flow"
)

// million is a second of a million flow entries: as many sources, towards a few hosts.
func million(n, victims int) []Delta {
	list := make([]Delta, n)
	for i := range list {
		d := &list[i]
		d.Key.Src = flow.AddrFrom4([4]byte{11})
		binary.BigEndian.PutUint32(d.Key.Src[12:], 0x0b000000+uint32(i)*2654435761>>8)
		d.Key.Dst = flow.AddrFrom4([4]byte{192, 0, byte(i % victims >> 8), byte(i % victims)})
		d.Key.Proto, d.Key.SrcPort, d.Key.DstPort = flow.ProtoTCP, uint16(i), 443
		d.TCPFlags, d.Packets, d.Bytes, d.Flows = flow.SYN, 1, 60, 1
		if i%4 == 0 {
			d.TCPFlags, d.Packets, d.Bytes, d.Flows, d.Established = flow.SYN|flow.ACK, 20, 20000, 0, true
		}
	}
	return list
}

func policyOf(networks ...string) Policy {
	p := DefaultPolicy()
	for _, n := range networks {
		p.Groups[0].Networks = append(p.Groups[0].Networks, netip.MustParsePrefix(n))
	}
	p.Sources = []Limit{{Packets, 100_000, Second}}
	return p
}

// benchmark says what second costs for each of n flows: also in processor time, which says
// more where others use the processors, too.
func benchmark(b *testing.B, n int, second func()) {
	b.ReportAllocs()
	var used time.Duration
	for b.Loop() {
		start := cpuTime()
		second()
		used += cpuTime() - start
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/flow")
	b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/tick")
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func newEngine(b *testing.B) *Engine {
	e, err := New(Options{Policy: policyOf("192.0.0.0/16")})
	if err != nil {
		b.Fatal(err)
	}
	return e
}

func BenchmarkSecondOfAMillionFlows(b *testing.B) {
	list := million(1_000_000, 4096)
	e := newEngine(b)
	now := int64(1e18)
	benchmark(b, len(list), func() {
		for i := 0; i < len(list); i += 1024 {
			e.Add(list[i:min(i+1024, len(list))])
		}
		now += 1e9
		e.Tick(now)
	})
}

// walked are flows as walks over the flow cache show them each second.
type walked struct {
	list   []Delta
	differ *Differ
	batch  []flow.Record
	deltas []Delta
	round  uint64
	told   int
}

func newWalked(n int) *walked {
	return &walked{list: million(n, 4096), differ: NewDiffer(n), batch: make([]flow.Record, 256)}
}

// walk shows each flow with what it counts in a second more than before.
func (w *walked) walk(take func([]Delta)) {
	w.round++
	for at := 0; at < len(w.list); at += len(w.batch) {
		some := w.list[at:min(at+len(w.batch), len(w.list))]
		for i := range some {
			k, r := &some[i].Key, &w.batch[i]
			r.Src, r.Dst, r.SrcPort, r.DstPort, r.Proto = k.Src, k.Dst, k.SrcPort, k.DstPort, k.Proto
			r.First, r.FlowID, r.Has = 1, uint64(at+i)<<flow.IDRecordBits|1, flow.HasFlowID
			r.Packets, r.Bytes, r.TCPFlags = w.round*some[i].Packets, w.round*some[i].Bytes, uint16(some[i].TCPFlags)
		}
		w.deltas = w.differ.Shown(w.deltas[:0], w.batch[:len(some)])
		w.told += len(w.deltas)
		take(w.deltas)
	}
	w.differ.Walked()
}

func BenchmarkDifferOfAMillionFlows(b *testing.B) {
	w := newWalked(1_000_000)
	second := func() { w.walk(func([]Delta) {}) }
	second()
	benchmark(b, len(w.list), second)
	w.check(b)
}

// The whole of a tick: what is told of a million flows, and what comes of it.
func BenchmarkTickOfAMillionFlows(b *testing.B) {
	w, e, now := newWalked(1_000_000), newEngine(b), int64(1e18)
	second := func() {
		w.walk(e.Add)
		now += 1e9
		e.Tick(now)
	}
	second()
	benchmark(b, len(w.list), second)
	w.check(b)
}

// check says whether all was told of.
func (w *walked) check(t testing.TB) {
	t.Helper()
	if want := int(w.round) * len(w.list); w.told != want || w.differ.Full() != 0 {
		t.Fatalf("%d of %d flows are told of, %d had no room", w.told, want, w.differ.Full())
	}
}

func TestASteadySecondAllocatesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("not in short runs, which are for the race detector: it says nothing about allocations")
	}
	list := million(50_000, 64)
	p := policyOf("192.0.0.0/16")
	p.Groups[0].Hosts = []Limit{{Packets, 1 << 40, Second}, {Bytes, 1 << 40, TenSeconds}}
	p.Sources, p.Keys = nil, 1<<10 // fewer than there are sources: the sketch works, too
	e, err := New(Options{Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	now := int64(1e18)
	second := func() {
		e.Add(list)
		now += 1e9
		e.Tick(now)
	}
	for range 2 * windowTicks {
		second()
	}
	if n := testing.AllocsPerRun(20, second); n > 0 {
		t.Errorf("a second of %d deltas allocates %v times", len(list), n)
	}
}

func TestASteadyWalkAllocatesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("not in short runs, which are for the race detector: it says nothing about allocations")
	}
	w := newWalked(10_000)
	leaving := make([]flow.Record, 0, len(w.batch))
	second := func() {
		w.walk(func([]Delta) {})
		leaving = leaving[:0]
		for i := range w.batch[:100] { // some are reported, and go on
			r := w.batch[i]
			r.EndReason = flow.EndActive
			leaving = append(leaving, r)
		}
		w.deltas = w.differ.Left(w.deltas[:0], leaving)
		for i := range leaving { // under the next id, which the walks above do not show
			leaving[i].FlowID++
		}
		w.deltas = w.differ.Left(w.deltas[:0], leaving)
	}
	for range 2 {
		second()
	}
	if n := testing.AllocsPerRun(2*kept, second); n > 0 {
		t.Errorf("a walk over %d flows allocates %v times", len(w.list), n)
	}
}
