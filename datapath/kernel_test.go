package datapath

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"weir/bpf"
	"weir/flow"
	"weir/test/kernel"
)

// The kernel's own programs, run by BPF_PROG_TEST_RUN. A packet each would be
// mostly system calls; so a program of ours runs before them, many times for
// one call. It makes the frame that of a flow, counts it, and calls xdp_meter.
//
// Flow n sends UDP from 10.0.0.0+n to 192.0.2.1, in packets of octetsOf(n): its
// addresses and its lengths tell on each other.

const frameSize = 14 + 2048

func octetsOf(n uint32) uint32 { return 28 + n*40503>>6&0x3ff }

// generator is what the front program knows and says.
type generator struct {
	Mode   uint32 // genFew, genSkewed or genFlood
	Few    uint32 // flows that are counted each for itself
	Many   uint32 // genSkewed: half the packets are of Few/64 flows, the others of all
	Failed uint32 // calls of xdp_meter that were none
	Seq    uint64
	Packets,
	Bytes uint64
}

const (
	genFew    = iota // flows 0 to Few-1 in turn
	genSkewed        // flows by lot, some of them often
	genFlood         // by lot one of Few, or a new one
)

// source sends packets through the real program.
type source struct {
	kernel *bpf.Kernel
	front  *ebpf.Program
	gen    *generator
	sent   []uint64 // packets of each of Few

	// What the table had counted before.
	ports           [2 * bpf.MaxPorts]bpf.Count
	refused, caught uint64
}

func loadKernel(t testing.TB, o bpf.Options) *bpf.Kernel {
	t.Helper()
	kernel.Programs(t)
	o.NoFrags = true // programs that call each other must be alike in that
	for i := range o.Secret {
		o.Secret[i] = rand.Uint64()
	}
	o.Boot = 0x5a5
	k, err := bpf.Load(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	lo := &k.Memory().Control.Port[1]
	lo.Number = 1
	lo.Ifindex = 1
	return k
}

// newSource makes a source of so many flows that are counted apart.
func newSource(t testing.TB, k *bpf.Kernel, few uint32) *source {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	makeMap := func(spec *ebpf.MapSpec) *ebpf.Map {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	const mmapable = unix.BPF_F_MMAPABLE
	size := uint32(unsafe.Sizeof(generator{}))
	gen := makeMap(&ebpf.MapSpec{Name: "gen", Type: ebpf.Array, KeySize: 4, ValueSize: size, MaxEntries: 1, Flags: mmapable})
	sent := makeMap(&ebpf.MapSpec{Name: "sent", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: few, Flags: mmapable})
	call := makeMap(&ebpf.MapSpec{Name: "call", Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err := call.Put(uint32(0), k.Programs.XDP); err != nil {
		t.Fatal(err)
	}
	front, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "front", Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "Dual MIT/GPL", Instructions: frontProgram(gen.FD(), sent.FD(), call.FD())})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { front.Close() })
	s := &source{kernel: k, front: front}
	s.gen = &mapOf[generator](t, gen, 1)[0]
	s.sent = mapOf[uint64](t, sent, int(few))
	s.gen.Few = few
	counters, err := k.Counters()
	if err != nil {
		t.Fatal(err)
	}
	s.refused, s.caught = counters[2][bpf.Refused].Packets, counters[2][bpf.Caught].Packets
	sweeper(t, SweepConfig{}, k, discard{}).Ports(&s.ports)
	return s
}

func mapOf[T any](t testing.TB, m *ebpf.Map, n int) []T {
	page := os.Getpagesize()
	b, err := unix.Mmap(m.FD(), 0, (n*int(unsafe.Sizeof(*new(T)))+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

// frontProgram. R6 is the context, R7 the generator, R8 the flow, R9 its
// packets' octets.
func frontProgram(gen, sent, call int) asm.Instructions {
	off := func(f uintptr) int16 { return int16(f) }
	var g generator
	mode, few, seq := off(unsafe.Offsetof(g.Mode)), off(unsafe.Offsetof(g.Few)), off(unsafe.Offsetof(g.Seq))
	add := func(field uintptr, reg asm.Register, size asm.Size) asm.Instruction {
		return asm.AddAtomic.Mem(asm.R7, reg, size, off(field))
	}
	next := asm.FetchAdd.Mem(asm.R7, asm.R8, asm.DWord, seq)
	next.Constant = int64(asm.FetchAdd >> 8) // the library would forget what it has been told
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMapValue(asm.R7, gen, 0),
		asm.LoadMem(asm.R0, asm.R7, mode, asm.Word),
		asm.JEq.Imm(asm.R0, genSkewed, "skewed"),
		asm.JEq.Imm(asm.R0, genFlood, "flood"),

		// in turn
		asm.Mov.Imm(asm.R8, 1),
		next,
		asm.LoadMem(asm.R1, asm.R7, few, asm.Word),
		asm.Mod.Reg(asm.R8, asm.R1),
		asm.Ja.Label("frame"),

		asm.FnGetPrandomU32.Call().WithSymbol("skewed"),
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.FnGetPrandomU32.Call(),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.LoadMem(asm.R1, asm.R7, few, asm.Word),
		asm.And.Imm(asm.R9, 1),
		asm.JEq.Imm(asm.R9, 0, "of all"),
		asm.RSh.Imm(asm.R1, 6),
		asm.Or.Imm(asm.R1, 1),
		asm.Mod.Reg(asm.R8, asm.R1).WithSymbol("of all"),
		asm.Ja.Label("frame"),

		asm.FnGetPrandomU32.Call().WithSymbol("flood"),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.LoadMem(asm.R1, asm.R7, few, asm.Word),
		asm.And.Imm(asm.R0, 1),
		asm.JNE.Imm(asm.R0, 0, "new"),
		asm.RSh.Imm(asm.R8, 1),
		asm.Mod.Reg(asm.R8, asm.R1),
		asm.Ja.Label("frame"),
		asm.Mov.Imm(asm.R8, 1).WithSymbol("new"),
		next,
		asm.Add.Reg(asm.R8, asm.R1),

		asm.Mov.Reg(asm.R9, asm.R8).WithSymbol("frame"),
		asm.Mul.Imm32(asm.R9, 40503),
		asm.RSh.Imm32(asm.R9, 6),
		asm.And.Imm(asm.R9, 0x3ff),
		asm.Add.Imm(asm.R9, 28),
		asm.LoadMem(asm.R2, asm.R6, 0, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, 4, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R2),
		asm.Add.Imm(asm.R1, 14+28),
		asm.JGT.Reg(asm.R1, asm.R3, "failed"),
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(asm.R2, 14+2, asm.R1, asm.Half),
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.Add.Imm(asm.R1, 10<<24),
		asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.StoreMem(asm.R2, 14+12, asm.R1, asm.Word),

		// count
		asm.Mov.Imm(asm.R1, 1),
		add(unsafe.Offsetof(g.Packets), asm.R1, asm.DWord),
		add(unsafe.Offsetof(g.Bytes), asm.R9, asm.DWord),
		asm.StoreMem(asm.RFP, -4, asm.R8, asm.Word),
		asm.LoadMapPtr(asm.R1, sent),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "call"), // a flood's are not counted apart
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),

		asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("call"),
		asm.LoadMapPtr(asm.R2, call),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R1, 1).WithSymbol("failed"),
		add(unsafe.Offsetof(g.Failed), asm.R1, asm.Word),
		asm.Mov.Imm(asm.R0, 2),
		asm.Return(),
	}
}

// send has a thread of its own send packets, n at least.
func (s *source) send(n int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	frame := make([]byte, frameSize)
	frame[12], frame[13] = 8, 0
	copy(frame[14:], []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, flow.ProtoUDP, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1, 0x12, 0x34, 0, 53})
	for n > 0 {
		some := min(n, 1<<16)
		if _, err := s.front.Run(&ebpf.RunOptions{Data: frame, Repeat: uint32(some)}); err != nil {
			return err
		}
		n -= some
	}
	return nil
}

// clock sets the clock to what it says after as many packets as have been sent,
// if all of them take so long.
func (s *source) clock(from uint64, takes time.Duration, packets int) uint64 {
	now := from + uint64(float64(takes)*float64(atomic.LoadUint64(&s.gen.Packets))/float64(packets))
	clockTo(s.kernel, now)
	return now
}

// keyed is the flow a record is of.
func keyed(r *flow.Record) uint32 { return binary.BigEndian.Uint32(r.Src[12:]) - 10<<24 }

// ledger sums up what arrives, and finds out what is not of one flow.
type ledger struct {
	mu                        sync.Mutex
	few                       uint32
	packets, bytes            uint64
	records                   uint64
	each                      []bpf.Count   // of the few
	early                     int           // of the few, records for lack of resources
	gone                      []flow.Record // the first of them
	aggregated, caught, flood uint64        // packets
	wrong                     []flow.Record
	ids                       map[uint64]bool // nil: not kept
	repeats                   int
}

func newLedger(few uint32) *ledger { return &ledger{few: few, each: make([]bpf.Count, few)} }

func (l *ledger) WriteRecords(batch []flow.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range batch {
		l.take(&batch[i])
	}
	return nil
}

func (l *ledger) take(r *flow.Record) {
	if l.ids != nil {
		if l.ids[r.FlowID] {
			l.repeats++
			return
		}
		l.ids[r.FlowID] = true
	}
	l.records++
	l.packets += r.Packets
	l.bytes += r.Bytes
	switch {
	case r.Has&flow.HasDst == 0:
		l.caught += r.Packets
		return
	case r.Has&flow.HasSrc == 0:
		l.aggregated += r.Packets
		return
	}
	n := keyed(r)
	octets := uint64(octetsOf(n))
	// The octets of a packet may be in the record before its own.
	if d := int64(r.Bytes-r.Packets*octets) / int64(octets); r.Bytes%octets != 0 || d < -8 || d > 8 || r.Packets == 0 {
		if len(l.wrong) < 5 {
			l.wrong = append(l.wrong, *r)
		}
	}
	if n >= l.few {
		l.flood += r.Packets
		return
	}
	l.each[n].Packets += r.Packets
	l.each[n].Bytes += r.Bytes
	if r.EndReason == flow.EndResource {
		if l.early++; l.early <= 5 {
			l.gone = append(l.gone, *r)
		}
	}
}

// settle compares what was sent with what arrived.
func (l *ledger) settle(t testing.TB, s *source) {
	t.Helper()
	if s.gen.Failed > 0 {
		t.Errorf("%d packets did not reach the program", s.gen.Failed)
	}
	if l.packets != s.gen.Packets || l.bytes != s.gen.Bytes {
		t.Errorf("records have %d packets and %d octets of %d and %d", l.packets, l.bytes, s.gen.Packets, s.gen.Bytes)
	}
	for _, r := range l.wrong {
		t.Errorf("packets of flow %d are of %d octets, this record is of several flows: %+v", keyed(&r), octetsOf(keyed(&r)), r)
	}
	bad := 0
	for n, c := range l.each {
		// What was turned away is in an aggregate.
		octets := uint64(octetsOf(uint32(n)))
		if c.Packets > s.sent[n] || c.Bytes != c.Packets*octets || l.aggregated+l.caught == 0 && c.Packets != s.sent[n] {
			if bad++; bad <= 5 {
				t.Errorf("flow %d: %d packets of %d, %d octets in records; each is of %d", n, c.Packets, s.sent[n], c.Bytes, octets)
			}
		}
	}
	if bad > 0 {
		t.Errorf("%d of %d flows are wrong", bad, len(l.each))
	}
	if counters, err := s.kernel.Counters(); err != nil {
		t.Error(err)
	} else if n := counters[2][bpf.Refused].Packets - s.refused; n != l.aggregated+l.caught {
		t.Errorf("the programs refused %d packets, aggregates have %d, catch-alls %d", n, l.aggregated, l.caught)
	} else if n := counters[2][bpf.Caught].Packets - s.caught; n != l.caught {
		t.Errorf("the programs caught %d packets, catch-alls have %d", n, l.caught)
	}
}

func clockTo(k *bpf.Kernel, ns uint64) { atomic.StoreUint64(&k.Memory().Control.TestClock, ns) }

// soaked is n, or ten times that in the long form.
func soaked(n int) int {
	if long() {
		return n * 10
	}
	return few(n)
}

// The same as TestConservation and TestFlood with the programs that are used, on
// two CPUs. They are loaded once for all of it.
func TestKernelConservation(t *testing.T) {
	const entries = 1 << 15
	k := loadKernel(t, bpf.Options{Entries: entries, TestClock: true})
	now := 1000 * second
	for _, load := range []int{10, 90, 400} {
		t.Run(fmt.Sprintf("%d%%", load), func(t *testing.T) {
			src := newSource(t, k, uint32(entries*load/100))
			src.gen.Mode = genSkewed
			l := newLedger(src.gen.Few)
			clockTo(k, now)
			s := sweeper(t, SweepConfig{Idle: 4 * time.Second, Active: 6 * time.Second, TCPEnd: 2 * time.Second}, k, l)
			if err := s.Adopt(); err != nil {
				t.Fatal(err)
			}
			packets := soaked(1_000_000)
			for s.Stats().Sweeps < 3 && !t.Failed() { // more than once where the daemon is slow
				sendAll(t, src, packets, func() error { return s.Tick(src.clock(now, time.Minute, 2*packets)) })
			}
			now = k.Memory().Control.TestClock + 100*second
			checkPorts(t, src, s)
			if err := s.DrainAll(flow.EndForced); err != nil {
				t.Fatal(err)
			}
			l.settle(t, src)
			checkPorts(t, src, s)
			st := s.Stats()
			t.Logf("%d packets, %d records, %d refused, expired %v, %d sweeps", src.gen.Packets, l.records, st.Refused, st.Expired, st.Sweeps)
			if st.Refused != l.aggregated+l.caught {
				t.Errorf("%+v", st)
			}
			checkClean(t, k.Memory())
		})
	}
	t.Run("flood", func(t *testing.T) { kernelFlood(t, k, entries, few(20*entries), now) })
}

// sendAll has two CPUs send n packets each while work is done again and again.
func sendAll(t testing.TB, src *source, n int, work func() error) {
	t.Helper()
	var senders sync.WaitGroup
	var atWork atomic.Int32
	for range 2 {
		atWork.Add(1)
		senders.Go(func() {
			defer atWork.Add(-1)
			if err := src.send(n); err != nil {
				t.Error(err)
			}
		})
	}
	defer senders.Wait()
	for atWork.Load() > 0 {
		if err := work(); err != nil {
			t.Error(err)
			return
		}
	}
}

func checkPorts(t testing.TB, src *source, s *Sweeper) {
	t.Helper()
	var ports [2 * bpf.MaxPorts]bpf.Count
	s.Ports(&ports)
	got := bpf.Count{Packets: ports[2].Packets - src.ports[2].Packets, Bytes: ports[2].Bytes - src.ports[2].Bytes}
	if want := (bpf.Count{Packets: src.gen.Packets, Bytes: src.gen.Bytes}); got != want {
		t.Errorf("the port has %+v, sent were %+v", got, want)
	}
	before, _ := total(&src.ports)
	if p, _ := total(&ports); p-before != src.gen.Packets {
		t.Errorf("%d packets on all ports of %d", p-before, src.gen.Packets)
	}
}

// Twenty million packets of distinct flows through a table for a million, and as
// many of flows that are there before.
func TestKernelFlood(t *testing.T) {
	if !long() {
		t.Skip("skipped: a long run, see make soak (WEIR_SOAK=5m); TestKernelConservation has a smaller one")
	}
	const entries = 1 << 20
	kernelFlood(t, loadKernel(t, bpf.Options{Entries: entries, TestClock: true}), entries, 20_000_000, 1000*second)
}

// kernelFlood has each of two CPUs send so many packets, half of them of new flows,
// half of flows that were there before. Those keep their entries, and all is
// counted.
func kernelFlood(t *testing.T, k *bpf.Kernel, entries, packets int, now uint64) {
	src := newSource(t, k, uint32(entries*3/10))
	l := newLedger(src.gen.Few)
	clockTo(k, now)
	s := sweeper(t, SweepConfig{Idle: 30 * time.Second, Active: time.Hour, TCPEnd: 2 * time.Second}, k, l)
	if err := s.Adopt(); err != nil {
		t.Fatal(err)
	}
	var most uint64
	tick := func() error {
		most = max(most, s.live)
		return s.Tick(src.clock(now, 20*time.Second, 2*packets))
	}
	for range 2 { // they are established before
		if err := src.send(int(src.gen.Few)); err != nil {
			t.Fatal(err)
		}
		if err := tick(); err != nil {
			t.Fatal(err)
		}
	}
	src.gen.Mode = genFlood
	src.gen.Seq = 0
	start := time.Now()
	sendAll(t, src, packets, tick)
	took := time.Since(start)
	st := s.Stats()
	t.Logf("%d packets in %v of %d new flows over %d: %d entered, %d packets aggregated, most %d of %d entries, expired %v, %d sweeps",
		2*packets, took.Round(time.Millisecond), src.gen.Seq, src.gen.Few, st.Created, st.Refused, most, st.Capacity, st.Expired, st.Sweeps)
	if l.early > 0 {
		t.Errorf("%d of %d established flows lost their entries, at clock %d to %d; the first: %+v", l.early, src.gen.Few, now, k.Memory().Control.TestClock, l.gone)
	}
	if most > st.Capacity || st.Expired[flow.EndResource] == 0 {
		t.Errorf("%+v", st)
	}
	if err := s.DrainAll(flow.EndForced); err != nil {
		t.Fatal(err)
	}
	l.settle(t, src)
	checkPorts(t, src, s)
}

// A daemon is killed with -9 at random moments, again and again, while packets
// come; the next goes on with what is pinned. What they wrote, less what has a
// flow id that is known, is what was sent.
func TestKernelKilled(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		child(t, dir)
		return
	}
	kernel.Programs(t)
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Skipf("skipped: a daemon that is killed: no bpffs can be mounted: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	pins := filepath.Join(dir, "table")
	if err := os.Mkdir(pins, 0o700); err != nil {
		t.Fatal(err)
	}
	const entries = 1 << 14
	k := loadKernel(t, bpf.Options{Entries: entries, Dir: pins, TestClock: true})
	src := newSource(t, k, entries*2)
	src.gen.Mode = genSkewed
	var now atomic.Uint64
	now.Store(1000 * second)
	clockTo(k, now.Load())
	out := filepath.Join(t.TempDir(), "records")
	rng := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	kills := 0
	written := func() int64 {
		info, err := os.Stat(out)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	var daemon *exec.Cmd
	var from int64
	var until time.Time
	// whole takes off half a record, which a killed daemon has not noted as sent.
	whole := func() error {
		const size = int64(unsafe.Sizeof(wire{}))
		if n := written(); n%size != 0 {
			return os.Truncate(out, n-n%size)
		}
		return nil
	}
	begin := func() error {
		if err := whole(); err != nil {
			return err
		}
		daemon = exec.Command(os.Args[0], "-test.run=^TestKernelKilled$")
		daemon.Env = append(os.Environ(), childDir+"="+pins, childOut+"="+out)
		daemon.Stderr, daemon.Stdout = os.Stderr, os.Stderr
		from, until = written(), time.Time{}
		return daemon.Start()
	}
	if err := begin(); err != nil {
		t.Fatal(err)
	}
	for want := soaked(80) / 8; kills < want && !t.Failed(); {
		sendAll(t, src, 100_000, func() error {
			clockTo(k, now.Add(second/20))
			time.Sleep(2 * time.Millisecond)
			switch {
			case until.IsZero():
				if written() > from { // it is at work
					until = time.Now().Add(time.Duration(rng.IntN(100)) * time.Millisecond)
				}
				return nil
			case time.Now().Before(until):
				return nil
			}
			if err := daemon.Process.Kill(); err != nil {
				return err
			}
			var exit *exec.ExitError
			if err := daemon.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
				return fmt.Errorf("the daemon ended by itself: %v", err)
			}
			kills++
			return begin()
		})
	}
	daemon.Process.Kill()
	daemon.Wait()
	kills++
	if err := whole(); err != nil {
		t.Fatal(err)
	}

	l := newLedger(src.gen.Few)
	l.ids = map[uint64]bool{}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	var w wire
	for binary.Read(r, binary.NativeEndian, &w) == nil {
		rec := w.record()
		l.take(&rec)
	}
	before := l.records
	s := sweeper(t, SweepConfig{Idle: time.Second}, k, l)
	if err := s.DrainAll(flow.EndForced); err != nil {
		t.Fatal(err)
	}
	l.settle(t, src)
	checkPorts(t, src, s)
	checkClean(t, k.Memory())
	t.Logf("%d packets, %d daemons killed, %d records of theirs, %d at the end, %d repeats", src.gen.Packets, kills, before, l.records-before, l.repeats)
	if l.repeats > kills*batchSize {
		t.Errorf("%d kills repeated %d records, want at most %d for each", kills, l.repeats, batchSize)
	}
}

const (
	childDir = "WEIR_TEST_DATAPATH"
	childOut = "WEIR_TEST_DATAPATH_OUT"
)

// wire is what a child writes of a record.
type wire struct {
	ID, Packets, Bytes, Has uint64
	Src                     uint32
	Reason                  uint32
}

func (w *wire) record() (r flow.Record) {
	r.FlowID, r.Packets, r.Bytes, r.Has, r.EndReason = w.ID, w.Packets, w.Bytes, flow.Field(w.Has), flow.EndReason(w.Reason)
	r.Src = flow.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, w.Src)))
	return r
}

// file writes each batch with one system call, which a kill may cut between two
// pages (whole).
type file struct {
	f   *os.File
	buf []byte
}

func (o *file) WriteRecords(batch []flow.Record) error {
	for i := range batch {
		r := &batch[i]
		o.buf, _ = binary.Append(o.buf, binary.NativeEndian, wire{r.FlowID, r.Packets, r.Bytes, uint64(r.Has), binary.BigEndian.Uint32(r.Src[12:]), uint32(r.EndReason)})
	}
	return nil
}

func (o *file) Sync() error {
	_, err := o.f.Write(o.buf)
	o.buf = o.buf[:0]
	return err
}

// child is a daemon.
func child(t *testing.T, dir string) {
	table, err := bpf.OpenMemory(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(os.Getenv(childOut), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := sweeper(t, SweepConfig{Idle: 2 * time.Second, Active: 3 * time.Second}, table, &file{f: f})
	for {
		clock, err := s.clock()
		if err == nil {
			err = s.Tick(clock)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Times of records are the machine's, as near as the kernel's clock steps.
func TestKernelClock(t *testing.T) {
	k := loadKernel(t, bpf.Options{Entries: 1 << 10})
	src := newSource(t, k, 16)
	var got []flow.Record
	s, err := NewSweeper(SweepConfig{Idle: time.Second}, k, flow.SinkFunc(func(b []flow.Record) error {
		got = append(got, b...)
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	from := time.Now()
	if err := src.send(16); err != nil {
		t.Fatal(err)
	}
	to := time.Now()
	if err := s.Drain(flow.EndForced); err != nil {
		t.Fatal(err)
	}
	if len(got) != 16 {
		t.Fatalf("%d records", len(got))
	}
	step := 3 * time.Duration(k.Memory().Meta.TickNs)
	for _, r := range got {
		if at := time.Unix(0, r.First); at.Before(from.Add(-step)) || at.After(to.Add(step)) || r.Last < r.First {
			t.Errorf("sent from %v to %v, the record says %v", from, to, at)
		}
	}
}

// BenchmarkKernelTick: an idle machine's second, the kernel's clock included.
func BenchmarkKernelTick(b *testing.B) {
	k := loadKernel(b, bpf.Options{Entries: 1 << 20})
	src := newSource(b, k, 100)
	s := sweeper(b, SweepConfig{Idle: time.Hour, Active: time.Hour}, k, &counting{})
	if err := src.send(100); err != nil {
		b.Fatal(err)
	}
	if err := s.Adopt(); err != nil {
		b.Fatal(err)
	}
	clock, _ := s.clock()
	start := cpuTime()
	for b.Loop() {
		if _, err := s.clock(); err != nil {
			b.Fatal(err)
		}
		clock += second / 1000
		if err := s.Tick(clock / second * second); err != nil {
			b.Fatal(err)
		}
		s.tick--
	}
	used := cpuTime() - start
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-us/tick")
	b.ReportMetric(used.Seconds()/float64(b.N)*100, "%cpu")
}

// BenchmarkKernelSweep: a million flows in the kernel's memory.
func BenchmarkKernelSweep(b *testing.B) {
	const flows = 1_000_000
	k := loadKernel(b, bpf.Options{Entries: 1 << 20})
	src := newSource(b, k, flows)
	s := sweeper(b, SweepConfig{Idle: time.Hour, Active: time.Hour, TCPEnd: 2 * time.Second}, k, &counting{})
	s.staged, s.urgent = 1<<40, 1<<40 // nothing ages
	if err := src.send(flows); err != nil {
		b.Fatal(err)
	}
	clock, err := s.clock()
	if err != nil {
		b.Fatal(err)
	}
	var used time.Duration
	for b.Loop() {
		for i := range k.Memory().Touched {
			atomic.StoreUint32(&k.Memory().Touched[i].Word, 1)
		}
		clock += second
		start := cpuTime()
		if err := s.Tick(clock); err != nil {
			b.Fatal(err)
		}
		used += cpuTime() - start
	}
	b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/sweep")
	b.ReportMetric(float64(s.live), "flows")
}

// BenchmarkKernelRetire: a million flows leave the kernel's memory, grace periods
// included.
func BenchmarkKernelRetire(b *testing.B) {
	const flows = 700_000
	k := loadKernel(b, bpf.Options{Entries: 1 << 20, TestClock: true})
	src := newSource(b, k, flows)
	sink := &counting{}
	now := 1000 * second
	clockTo(k, now)
	s := sweeper(b, SweepConfig{Idle: 15 * time.Second, Active: time.Hour, TCPEnd: 2 * time.Second}, k, sink)
	if err := s.Adopt(); err != nil {
		b.Fatal(err)
	}
	var used time.Duration
	for b.Loop() {
		b.StopTimer()
		if err := src.send(flows); err != nil {
			b.Fatal(err)
		}
		now += 20 * second
		clockTo(k, now)
		start := cpuTime()
		b.StartTimer()
		if err := s.Tick(now); err != nil {
			b.Fatal(err)
		}
		used += cpuTime() - start
	}
	b.ReportMetric(float64(sink.records)/used.Seconds(), "flows/cpu-s")
	b.ReportMetric(float64(sink.records)/b.Elapsed().Seconds(), "flows/s")
}
