package hook

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weir/host"
	"weir/test/kernel"
)

// As root, the tests run in namespaces of their own: of processes (they are
// process 1), of mounts, and of the network. Whatever they leave behind ends
// with them.
const (
	stage   = "WEIR_HOOK_STAGE"
	inside  = "inside"
	missing = "WEIR_HOOK_MISSING" // why there are no such namespaces
)

func TestMain(m *testing.M) {
	switch s := os.Getenv(stage); s {
	case inside:
		if err := furnish(); err != nil {
			os.Setenv(missing, err.Error())
		}
		os.Exit(m.Run())
	case "":
		if os.Getuid() != 0 {
			os.Setenv(missing, "it needs root")
			os.Exit(m.Run())
		}
		if err := kernel.Loads(); err != nil { // asked out here: process 1 cannot end before one that hangs
			os.Setenv(kernel.OffEnv, err.Error())
		}
		os.Exit(enter(m))
	default:
		helper(s)
	}
}

func enter(m *testing.M) int {
	runtime.LockOSThread() // the child's parent-death signal is this thread's
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), stage+"="+inside)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	os.Setenv(missing, "namespaces cannot be made: "+err.Error())
	return m.Run()
}

// furnish gives the namespaces their own /proc and /sys, which has no bpffs.
func furnish() error {
	for _, mount := range []struct {
		what, where, kind string
		flags             uintptr
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{"proc", "/proc", "proc", 0},
		{"sysfs", "/sys", "sysfs", 0},
		{"tmpfs", "/run", "tmpfs", 0},
	} {
		if err := unix.Mount(mount.what, mount.where, mount.kind, mount.flags, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", mount.where, err)
		}
	}
	return nil
}

// needRoot skips, by name, what cannot be tried.
func needRoot(t testing.TB) {
	t.Helper()
	if why := os.Getenv(missing); why != "" {
		t.Skipf("not tried: %s", why)
	}
}

// network gives the test a network namespace of its own, until it ends, where
// the kernel takes programs.
func network(t testing.TB) {
	t.Helper()
	needRoot(t)
	kernel.Programs(t)
	plainNetwork(t)
}

// plainNetwork is for what needs no programs.
func plainNetwork(t testing.TB) {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread()
	old, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer old.Close()
		if err := unix.Setns(int(old.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Fatal(err) // and the thread ends with the goroutine, as it is still locked
		}
		runtime.UnlockOSThread()
	})
	up(t, "lo")
}

func up(t testing.TB, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		t.Fatalf("%s up: %v", name, err)
	}
}

// pair makes two ends of a cable, up.
func pair(t testing.TB, a, b string) {
	t.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a, TxQLen: 1000}, PeerName: b}
	if err := netlink.LinkAdd(v); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{a, b} {
		up(t, name)
	}
	carrier(t, a)
	carrier(t, b)
}

// carrier waits until an interface carries frames.
func carrier(t testing.TB, name string) {
	t.Helper()
	for range 500 {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
			return
		}
		pause()
	}
	t.Fatalf("%s has no carrier", name)
}

func iface(t testing.TB, name string) host.Interface {
	t.Helper()
	i, err := ifaceNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func ifaceNamed(name string) (host.Interface, error) {
	all, err := host.Interfaces()
	if err != nil {
		return host.Interface{}, err
	}
	found, err := host.Find(all, []string{name})
	if err != nil {
		return host.Interface{}, err
	}
	return found[0], nil
}

// folder opens this network namespace's folder; what it has is removed at the
// end.
func folder(t testing.TB, o Options) *Folder {
	t.Helper()
	f, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		if err := DetachAll(o); err != nil {
			t.Error(err)
		}
	})
	return f
}

// The frames that tests send and count.
const etherType = 0x88b5 // for local experiments

// counter is a program that counts and passes on.
type counter struct {
	*ebpf.Program
	hits *ebpf.Map
}

func (c *counter) count(t testing.TB) int {
	t.Helper()
	var n uint64
	if err := c.hits.Lookup(uint32(0), &n); err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// newCounter is loadCounter until the test ends.
func newCounter(t testing.TB, name string, kind ebpf.ProgramType, frags bool, etherType uint16, verdict int32) *counter {
	t.Helper()
	c := loadCounter(t, name, kind, frags, etherType, verdict)
	t.Cleanup(func() {
		c.Close()
		c.hits.Close()
	})
	return c
}

// loadCounter counts frames of an Ethernet type. A TC program returns verdict.
func loadCounter(t testing.TB, name string, kind ebpf.ProgramType, frags bool, etherType uint16, verdict int32) *counter {
	t.Helper()
	hits, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	wire := int32(etherType>>8 | etherType<<8&0xff00)
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		wire = int32(etherType)
	}
	var body asm.Instructions
	spec := &ebpf.ProgramSpec{Name: name, Type: kind, License: "Dual MIT/GPL"}
	if kind == ebpf.XDP {
		verdict = 2
		spec.AttachType = ebpf.AttachXDP // as package bpf's has it
		if frags {
			spec.Flags = unix.BPF_F_XDP_HAS_FRAGS
		}
		body = asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // data
			asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data_end
			asm.Mov.Reg(asm.R4, asm.R2),
			asm.Add.Imm(asm.R4, 14),
			asm.JGT.Reg(asm.R4, asm.R3, "out"),
			asm.LoadMem(asm.R5, asm.R2, 12, asm.Half),
		}
	} else {
		body = asm.Instructions{asm.LoadMem(asm.R5, asm.R1, 16, asm.Word)} // protocol
	}
	spec.Instructions = append(body,
		asm.JNE.Imm(asm.R5, wire, "out"),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, hits.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, verdict).WithSymbol("out"),
		asm.Return(),
	)
	p, err := ebpf.NewProgram(spec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	return &counter{p, hits}
}

// set is one program for each point.
type set struct{ xdp, ingress, egress, ingressIP, egressIP *counter }

const next = -1 // TCX_NEXT, TC_ACT_UNSPEC

// pool keeps the sets that no test uses: kernels do not bear programs being
// loaded and freed by the thousand.
var pool = map[bool][]set{}

func newSet(t testing.TB, f *Features) set {
	t.Helper()
	var s set
	if free := pool[f.Fragments]; len(free) > 0 {
		s, pool[f.Fragments] = free[len(free)-1], free[:len(free)-1]
	} else {
		s = set{
			loadCounter(t, "our_xdp", ebpf.XDP, f.Fragments, etherType, 0),
			loadCounter(t, "our_ingress", ebpf.SchedCLS, false, etherType, next),
			loadCounter(t, "our_egress", ebpf.SchedCLS, false, etherType, next),
			loadCounter(t, "our_ingress_ip", ebpf.SchedCLS, false, unix.ETH_P_IP, next),
			loadCounter(t, "our_egress_ip", ebpf.SchedCLS, false, unix.ETH_P_IP, next),
		}
	}
	for _, c := range []*counter{s.xdp, s.ingress, s.egress, s.ingressIP, s.egressIP} {
		if err := c.hits.Put(uint32(0), uint64(0)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { pool[f.Fragments] = append(pool[f.Fragments], s) })
	return s
}

// probed are the kernel's features, asked once for each kind of options.
var probed = map[Options]*Features{}

func probe(o Options) *Features {
	if probed[o] == nil {
		probed[o] = Probe(o)
	}
	return probed[o]
}

func (s set) programs() Programs {
	return Programs{
		XDP: s.xdp.Program, Ingress: s.ingress.Program, Egress: s.egress.Program,
		IngressIP: s.ingressIP.Program, EgressIP: s.egressIP.Program,
	}
}

// counts are of xdp, ingress, egress, and the latter two of IP.
func (s set) counts(t testing.TB) [5]int {
	return [5]int{s.xdp.count(t), s.ingress.count(t), s.egress.count(t), s.ingressIP.count(t), s.egressIP.count(t)}
}

// sender sends frames out of an interface.
type sender struct {
	fd    int
	to    unix.SockaddrLinklayer
	frame []byte
}

func newSender(t testing.TB, name string) *sender {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	s := &sender{fd: fd, to: unix.SockaddrLinklayer{Ifindex: int(iface(t, name).Index)}, frame: make([]byte, 60)}
	for i := range 12 {
		s.frame[i] = 2
	}
	binary.BigEndian.PutUint16(s.frame[12:], etherType)
	return s
}

// send sends n frames and waits until the kernel has delivered them: each is
// handed over by the sending CPU's softirq, which may be deferred.
func (s *sender) send(t testing.TB, n int) {
	t.Helper()
	for range n {
		if err := s.one(); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *sender) one() error {
	for {
		err := unix.Sendto(s.fd, s.frame, 0, &s.to)
		if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// pour sends frames until it is told to stop, and tells of each, whether it was
// lost on its way or not: see dropped.
func (s *sender) pour(stop chan struct{}, sent func()) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		if err := unix.Sendto(s.fd, s.frame, 0, &s.to); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		sent()
	}
}

func pause() { time.Sleep(10 * time.Millisecond) }

// eventually waits for something that the kernel does on its own time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		pause()
	}
	t.Errorf("never: %s", what)
}

// received waits for a counter to reach n, and checks that it stays there.
func received(t testing.TB, c *counter, n int) {
	t.Helper()
	name := ""
	if info, err := c.Program.Info(); err == nil {
		name = info.Name
	}
	for range 500 {
		if c.count(t) >= n {
			break
		}
		pause()
	}
	if got := c.count(t); got != n {
		t.Errorf("%s counted %d, want %d", name, got, n)
	}
}

// spots are a plan's in short: "xdp/link egress/tcx".
func spots(p *Plan) string {
	var s []string
	for _, at := range p.Spots {
		s = append(s, string(at.Point)+"/"+string(at.How))
	}
	return strings.Join(s, " ")
}

// onThisKernel is what is said of a kernel with TCX, for the one there is.
func onThisKernel(s string) string {
	if !haveTCX() {
		s = strings.ReplaceAll(s, "tcx", "clsact")
	}
	return s
}

// attachments are a list's in short, the living ones.
func attachments(list []Attachment) string {
	var s []string
	for _, a := range list {
		if a.Alive {
			s = append(s, fmt.Sprintf("%s:%s/%s=%s", a.Interface, a.Point, a.How, a.Name))
		}
	}
	return strings.Join(s, " ")
}

// nothingLeft checks that no hook, qdisc or pin of ours is there.
func nothingLeft(t testing.TB, o Options, names ...string) {
	t.Helper()
	for _, name := range names {
		i := iface(t, name)
		on, err := onInterface(i.Index)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range on {
			if strings.HasPrefix(a.Name, "our_") || a.mark {
				t.Errorf("%s: %s is still there", name, a.Other)
			}
		}
		if kind, err := clsactQdisc(i.Index); err != nil || kind != "" {
			t.Errorf("%s: qdisc %q is left (%v)", name, kind, err)
		}
	}
	if list, err := List(o); err != nil || len(list) > 0 {
		t.Errorf("List = %v, %v; want nothing", list, err)
	}
	p, err := findPlace(o, false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if _, err := os.Stat(p.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", p.name, err)
	}
	if rest := pinsLeft(); len(rest) > 0 && o.Dir == "" {
		t.Errorf("left: %v", rest)
	}
}

// pinsLeft is what is in the bpffs, but for the kernel's own.
func pinsLeft() (left []string) {
	all, _ := filepath.Glob(filepath.Join(bpffsPath, "*"))
	for _, path := range all {
		if !strings.HasSuffix(path, ".debug") {
			left = append(left, path)
		}
	}
	return left
}
