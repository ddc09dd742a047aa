package hook

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weir/bpf"
	"weir/host"
)

// A network namespace ends while programs count in it and no daemon runs: its
// folder is found, with what its table holds, and can be emptied or swept.
func TestLeftovers(t *testing.T) {
	network(t)
	leftover := func() {
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		defer home.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
				t.Fatal(err)
			}
		}()
		pair(t, "va", "vb")
		f, err := Open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		dir := filepath.Join(f.Dir(), "table-1")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		memory := pinTable(t, dir)
		k := probe(Options{})
		plan, err := k.Plan(iface(t, "va"), Auto, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Attach(plan, newSet(t, k).programs()); err != nil {
			t.Fatal(err)
		}
		if list, err := Leftovers(Options{}); err != nil || len(list) > 0 {
			t.Errorf("while it is in use: %v, %v", list, err)
		}
		for i, packets := range []uint64{5, 7, 0} { // three flows; of the second, 3 packets are handed on
			memory.sets[i].Entry[i].Packets = packets
			memory.sets[i].Word[i] = bpf.Live
		}
		memory.sides[1*bpf.Ways+1].Bank[0].Packets = 3
		memory.sets[len(memory.sets)-1].Entry[7].Packets = 11 // a catch-all
		memory.sets[3].Entry[0].Packets = 99                  // free: nobody's
		memory.write(t)
	}
	leftover()
	runtime.GC() // what still refers to the namespace is closed above
	var list []Leftover
	eventually(t, "the namespace is gone", func() bool {
		var err error
		if list, err = Leftovers(Options{}); err != nil {
			t.Fatal(err)
		}
		return len(list) == 1
	})
	if len(list) != 1 {
		t.FailNow()
	}
	l := list[0]
	if l.Err != nil || l.Hooks != 2 || l.Maps != 3 || l.Flows != 3 || l.Packets != 5+4+11 {
		t.Errorf("%+v", l)
	}
	t.Log(l)
	if f := finding(Findings(Options{}, nil, nil), "leftover"); f == nil || f.State != host.Warn || f.Fix != "rm -r "+l.Name || !strings.Contains(f.Found, "20 packets of them never handed on") {
		t.Errorf("the doctor: %+v", f)
	}
	// Somebody may open it and hand on what it holds.
	f, err := l.Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(f.Dir(), "table-1", "table")); err != nil {
		t.Error(err)
	}
	if list, err := Leftovers(Options{}); err != nil || len(list) > 0 {
		t.Errorf("while it is held: %v, %v", list, err)
	}
	if err := Sweep(Options{}, l); err == nil {
		t.Error("swept under the feet of who holds it")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(Options{}, l); err != nil {
		t.Fatal(err)
	}
	if list, err := Leftovers(Options{}); err != nil || len(list) > 0 {
		t.Errorf("after Sweep: %v, %v", list, err)
	}
	if rest := pinsLeft(); len(rest) > 0 {
		t.Errorf("left: %v", rest)
	}
}

// tableMemory is a table's maps, and what to write to them.
type tableMemory struct {
	maps  []*ebpf.Map
	sets  []bpf.Set
	sides []bpf.Side
}

func (m tableMemory) write(t testing.TB) {
	t.Helper()
	for i := range m.sets {
		if err := m.maps[0].Put(uint32(i), &m.sets[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range m.sides {
		if err := m.maps[1].Put(uint32(i), &m.sides[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.maps[2].Put(uint32(0), &bpf.Meta{Layout: bpf.Layout}); err != nil {
		t.Fatal(err)
	}
}

// pinTable pins a table of 10 sets of flows and the catch-alls.
func pinTable(t testing.TB, dir string) tableMemory {
	t.Helper()
	const sets = 10 + bpf.CatchAllSets
	m := tableMemory{sets: make([]bpf.Set, sets), sides: make([]bpf.Side, sets*bpf.Ways)}
	for _, v := range []struct {
		name  string
		size  uintptr
		count int
	}{
		{"table", unsafe.Sizeof(bpf.Set{}), sets},
		{"side", unsafe.Sizeof(bpf.Side{}), sets * bpf.Ways},
		{"meta", unsafe.Sizeof(bpf.Meta{}), 1},
	} {
		one, err := ebpf.NewMap(&ebpf.MapSpec{
			Name: v.name, Type: ebpf.Array, Flags: unix.BPF_F_MMAPABLE,
			KeySize: 4, ValueSize: uint32(v.size), MaxEntries: uint32(v.count),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { one.Close() })
		if err := one.Pin(filepath.Join(dir, v.name)); err != nil {
			t.Fatal(err)
		}
		m.maps = append(m.maps, one)
	}
	return m
}

func finding(list []host.Finding, check string) *host.Finding {
	for i := range list {
		if list[i].Check == check {
			return &list[i]
		}
	}
	return nil
}

func TestFindings(t *testing.T) {
	network(t)
	pair(t, "va", "vb")
	o := Options{}
	look := func(want Mode) func(check string) host.Finding {
		list := Findings(o, []host.Interface{iface(t, "va")}, func(string) Mode { return want })
		for _, f := range list {
			t.Logf("%-14s %-5s %s  [%s]", f.Check, f.State, f.Found, f.Fix)
			if f.Found == "" || (f.State == host.OK) != (f.Fix == "") {
				t.Errorf("%+v: says nothing, or has a fix where all is well, or none where not", f)
			}
			if strings.Contains(f.Found+f.Fix, "\n") {
				t.Errorf("%+v: more than one line", f)
			}
		}
		return func(check string) host.Finding {
			if f := finding(list, check); f != nil {
				return *f
			}
			return host.Finding{}
		}
	}
	unix.Unmount(bpffsPath, unix.MNT_DETACH)
	at := look(Auto)
	if f := at("programs"); f.State != host.OK || !strings.HasPrefix(f.Found, "XDP, fragments, ") || strings.Contains(f.Found, ", TCX,") != haveTCX() {
		t.Errorf("%+v", f)
	}
	if f := at("bpffs"); f.State != host.OK || !strings.Contains(f.Found, "not mounted yet") {
		t.Errorf("%+v", f)
	}
	if isBPFFS(bpffsPath) {
		t.Error("the doctor mounted a bpffs")
	}
	if f := at("metering va"); f.State != host.OK || !strings.HasPrefix(f.Found, onThisKernel("xdp (native, driver veth), egress by tcx")) {
		t.Errorf("%+v", f)
	}

	k := probe(o)
	f := folder(t, o)
	attach(t, f, k, newSet(t, k), "va", Auto)
	at = look(Auto)
	if f := at("pins"); f.State != host.OK || !strings.Contains(f.Found, onThisKernel("held by process 1: va egress by tcx, va xdp by link")) {
		t.Errorf("%+v", f)
	}
	if f := at("metering va"); f.State != host.OK || f.Found != onThisKernel("xdp (native, driver veth), egress by tcx; attached") {
		t.Errorf("%+v", f)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f := look(Auto)("pins"); f.State != host.Warn || !strings.Contains(f.Fix, "weir meter --detach") {
		t.Errorf("without a daemon: %+v", f)
	}

	// Somebody else comes.
	if err := DetachAll(o); err != nil {
		t.Fatal(err)
	}
	theirs := newSet(t, k).xdp
	if err := setXDP(iface(t, "va").Index, theirs.FD(), 0, false); err != nil {
		t.Fatal(err)
	}
	if f := look(Auto)("metering va"); f.State != host.OK || !strings.HasPrefix(f.Found, "tc (XDP program our_xdp (id ") {
		t.Errorf("auto: %+v", f)
	}
	if f := look(XDP)("metering va"); f.State != host.Fail || !strings.Contains(f.Found, "is there already") {
		t.Errorf("xdp: %+v", f)
	}
	o = Options{NoBPF: true}
	at = look(Auto)
	if f := at("programs"); f.State != host.Warn {
		t.Errorf("%+v", f)
	}
	if f := at("metering va"); f.State != host.OK || !strings.HasPrefix(f.Found, "afpacket (") {
		t.Errorf("%+v", f)
	}
}

// What the NIC does with packets before anybody sees them.
func TestOffloads(t *testing.T) {
	plainNetwork(t)
	pair(t, "va", "vb")
	on, err := offloads("va")
	if err != nil {
		t.Fatal(err)
	}
	if !on["rx-vlan-hw-parse"] || !on["tx-tcp-segmentation"] || on["rx-lro"] {
		t.Errorf("of a veth: %v", on)
	}
	if _, err := offloads("weir-none0"); err == nil {
		t.Error("an interface that is not there has offloads")
	}
}
