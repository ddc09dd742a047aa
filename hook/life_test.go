package hook

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A new daemon swaps its programs in while packets pass: the old and the new
// ones together have counted each.
func TestSwapUnderTrafficMissesNothing(t *testing.T) {
	swaps := 20
	if testing.Short() {
		swaps = 4
	}
	for _, c := range []struct {
		name string
		o    Options
		want Mode
	}{
		{"xdp-by-link", Options{}, XDP},
		{"xdp-by-netlink", Options{NoLink: true}, XDP},
		{"tcx", Options{}, TC},
		{"clsact", Options{NoTCX: true}, TC},
	} {
		t.Run(c.name, func(t *testing.T) {
			network(t)
			pair(t, "va", "vb")
			k := probe(c.o)
			f := folder(t, c.o)
			sets := []set{newSet(t, k), newSet(t, k)}
			attach(t, f, k, sets[0], "va", c.want)

			ingress := func(s set) *counter {
				if c.want == XDP {
					return s.xdp
				}
				return s.ingress
			}
			out, in := newSender(t, "va"), newSender(t, "vb")
			var sentOut, sentIn atomic.Int64
			stop, done := make(chan struct{}), make(chan error, 2)
			for _, s := range []struct {
				*sender
				n *atomic.Int64
			}{{out, &sentOut}, {in, &sentIn}} {
				go func() { done <- s.pour(stop, func() { s.n.Add(1) }) }()
			}
			for i := range swaps {
				if err := f.Close(); err != nil { // one daemon goes
					t.Fatal(err)
				}
				var err error
				if f, err = Open(c.o); err != nil { // the next one comes
					t.Fatal(err)
				}
				s := sets[(i+1)%2]
				in, out := ingress(s).count(t), s.egress.count(t)
				attach(t, f, k, s, "va", c.want)
				eventually(t, "the new programs count", func() bool { return ingress(s).count(t) > in && s.egress.count(t) > out })
			}
			close(stop)
			for range 2 {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			sum := func(which func(set) *counter) (n int) {
				for _, s := range sets {
					n += which(s).count(t)
				}
				return n
			}
			egress := func(s set) *counter { return s.egress }
			// A frame that finds the other end's queue full never gets there.
			wantIn, wantOut := int(sentIn.Load())-dropped(t, "vb"), int(sentOut.Load())
			for range 300 {
				if sum(ingress) >= wantIn && sum(egress) >= wantOut {
					break
				}
				pause()
			}
			if got := sum(ingress); got != wantIn {
				t.Errorf("%d came in, %d were counted", wantIn, got)
			}
			if got := sum(egress); got != wantOut {
				t.Errorf("%d went out, %d were counted", wantOut, got)
			}
			t.Logf("%d in, %d out, %d swaps", wantIn, wantOut, swaps)
			if err := f.Remove(); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, c.o, "va", "vb")
		})
	}
}

// dropped are frames that an interface could not hand over, as the other end's
// queue was full. Some kernels tell the sender, some do not.
func dropped(t testing.TB, name string) int {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return int(l.Attrs().Statistics.TxDropped)
}

// A process may end between any two steps of a swap: what it leaves is ours to
// the next one.
func TestDiedWithinASwap(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
		want Mode
		at   Spot
	}{
		{"xdp-by-netlink", Options{NoLink: true}, XDP, Spot{AtXDP, Netlink}},
		{"clsact", Options{NoTCX: true}, TC, Spot{Ingress, Clsact}},
	} {
		for _, swapped := range []bool{false, true} {
			name := c.name + "-before"
			if swapped {
				name = c.name + "-after"
			}
			t.Run(name, func(t *testing.T) {
				network(t)
				pair(t, "va", "vb")
				k := probe(c.o)
				f, s, dead := folder(t, c.o), newSet(t, k), newSet(t, k)
				attach(t, f, k, s, "va", c.want)
				index := iface(t, "va").Index

				// The dying one pins its program beside, perhaps attaches it, and ends.
				program := programAt(dead.programs(), c.at.Point, false)
				if err := pinBeside(program, f.pin(index, c.at)); err != nil {
					t.Fatal(err)
				}
				if swapped {
					var err error
					if c.at.Point == AtXDP {
						err = setXDP(index, program.FD(), s.xdp.FD(), false)
					} else {
						err = setFilter(index, c.at.Point, 1, program)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}

				f = folder(t, c.o)
				list, err := f.List()
				if err != nil || strings.Count(attachments(list), "va:") != 2 {
					t.Fatalf("List = %v, %v", list, err)
				}
				next := newSet(t, k)
				if done := attach(t, f, k, next, "va", c.want); done.Mode != c.want {
					t.Errorf("%s", done)
				}
				newSender(t, "vb").send(t, 20)
				if c.at.Point == AtXDP {
					received(t, next.xdp, 20)
				} else {
					received(t, next.ingress, 20)
				}
				if err := f.Remove(); err != nil {
					t.Fatal(err)
				}
				nothingLeft(t, c.o, "va", "vb")
			})
		}
	}
}

// From one mode to another: each packet after it is counted once.
func TestChangeOfMode(t *testing.T) {
	network(t)
	pair(t, "va", "vb")
	k := probe(Options{})
	noTCX := probe(Options{NoTCX: true})
	tc := string(k.tcHow())
	f := folder(t, Options{})
	in := newSender(t, "vb")
	for i, step := range []struct {
		k    *Features
		want Mode
		at   string
	}{
		{k, XDP, "xdp/link egress/" + tc},
		{k, TC, "ingress/" + tc + " egress/" + tc},
		{noTCX, TC, "ingress/clsact egress/clsact"},
		{noTCX, XDP, "xdp/link egress/clsact"},
		{k, Auto, "xdp/link egress/" + tc},
		{k, AFPacket, ""},
	} {
		s := newSet(t, k)
		if done := attach(t, f, step.k, s, "va", step.want); spots(done) != step.at {
			t.Errorf("step %d: %s", i, done)
		}
		in.send(t, 10)
		if step.want == AFPacket {
			continue
		}
		if strings.HasPrefix(step.at, "xdp/") {
			received(t, s.xdp, 10)
		} else {
			received(t, s.ingress, 10)
		}
		if n := s.counts(t); n[0]+n[1] != 10 {
			t.Errorf("step %d counted %v", i, n)
		}
	}
	list, err := f.List()
	if err != nil || len(list) != 0 {
		t.Errorf("after afpacket: %v, %v", list, err)
	}
	if kind, _ := clsactQdisc(iface(t, "va").Index); kind != "" {
		t.Errorf("a qdisc is left: %s", kind)
	}
}

// Under traffic, a change of mode counts no packet twice.
func TestChangeOfModeUnderTraffic(t *testing.T) {
	network(t)
	pair(t, "va", "vb")
	f := folder(t, Options{})
	kernels := []*Features{probe(Options{}), probe(Options{NoTCX: true}), probe(Options{NoLink: true})}
	sets := []set{newSet(t, kernels[0]), newSet(t, kernels[0])}
	count := func(s set) int { return s.xdp.count(t) + s.ingress.count(t) }
	change := func(i int) {
		attach(t, f, kernels[i%len(kernels)], sets[i%2], "va", []Mode{XDP, TC}[i%2])
	}
	change(0)
	in := newSender(t, "vb")
	stop, done := make(chan struct{}), make(chan error, 1)
	sent := 0
	go func() { done <- in.pour(stop, func() { sent++ }) }()
	for i := range 12 {
		was := count(sets[i%2])
		eventually(t, "the programs count", func() bool { return count(sets[i%2]) > was })
		change(i + 1)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	counted := func() int { return count(sets[0]) + count(sets[1]) }
	for was := -1; was != counted(); pause() { // the last ones are on their way
		was = counted()
	}
	arrived := sent - dropped(t, "vb")
	if n := counted(); n > arrived {
		t.Errorf("%d came in, %d were counted", arrived, n)
	} else {
		t.Logf("%d came in, %d of them in the moments of 12 changes", arrived, arrived-n)
	}
}

// The interface goes: its pins are found dead and are removed; it comes again.
func TestInterfaceGoes(t *testing.T) {
	for _, o := range []Options{{}, {NoTCX: true, NoLink: true}} {
		network(t)
		pair(t, "va", "vb")
		k := probe(o)
		f, s := folder(t, o), newSet(t, k)
		attach(t, f, k, s, "va", Auto)
		l, _ := netlink.LinkByName("va")
		if err := netlink.LinkDel(l); err != nil {
			t.Fatal(err)
		}
		list, err := f.List()
		if err != nil || len(list) != 2 || list[0].Alive || list[1].Alive {
			t.Fatalf("List = %v, %v", list, err)
		}
		if pruned, err := f.Prune(); err != nil || len(pruned) != 2 {
			t.Errorf("Prune = %v, %v", pruned, err)
		}
		if rest, _ := filepath.Glob(filepath.Join(f.Dir(), linksFolder, "*")); len(rest) > 0 {
			t.Errorf("left: %v", rest)
		}
		pair(t, "va", "vb")
		attach(t, f, k, s, "va", Auto)
		newSender(t, "vb").send(t, 10)
		received(t, s.xdp, 10)

		// Gone again, and replaced by one with the same index before anybody looked.
		was := iface(t, "va").Index
		l, _ = netlink.LinkByName("va")
		if err := netlink.LinkDel(l); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "va", Index: int(was)}, PeerName: "vb"}); err != nil {
			t.Fatal(err)
		}
		up(t, "va")
		up(t, "vb")
		carrier(t, "va")
		fresh := newSet(t, k)
		if done := attach(t, f, k, fresh, "va", Auto); done.Mode != XDP {
			t.Errorf("%s", done)
		}
		newSender(t, "vb").send(t, 10)
		received(t, fresh.xdp, 10)
		if err := f.Remove(); err != nil {
			t.Fatal(err)
		}
		nothingLeft(t, o, "va", "vb")
	}
}

// The interface is given to another network namespace: our programs go with it,
// which the folder of this one notices and ends.
func TestInterfaceMoves(t *testing.T) {
	network(t)
	pair(t, "va", "vb")
	k := probe(Options{})
	f, s := folder(t, Options{}), newSet(t, k)
	attach(t, f, k, s, "va", Auto)
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	there, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	enter := func(ns *os.File) {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
	}
	enter(here)
	l, _ := netlink.LinkByName("va")
	if err := netlink.LinkSetNsFd(l, int(there.Fd())); err != nil {
		t.Fatal(err)
	}
	pruned, err := f.Prune()
	if err != nil || len(pruned) != 2 {
		t.Errorf("Prune = %v, %v", pruned, err)
	}
	enter(there)
	on, err := onInterface(iface(t, "va").Index)
	if err != nil || len(on) > 0 {
		t.Errorf("still on the interface, in its new namespace: %v, %v", on, err)
	}
	enter(here)
}

// One process at a time has a folder.
func TestHeld(t *testing.T) {
	plainNetwork(t)
	f := folder(t, Options{})
	_, err := Open(Options{})
	var held *HeldError
	if !errors.Is(err, ErrHeld) || !errors.As(err, &held) || held.PID != os.Getpid() {
		t.Fatalf("Open again: %v", err)
	}
	t.Log(err)
	if err := DetachAll(Options{}); !errors.Is(err, ErrHeld) {
		t.Errorf("DetachAll: %v", err)
	}
	if pid, held := Holder(Options{}); !held || pid != os.Getpid() {
		t.Errorf("Holder = %d, %v", pid, held)
	}
	name, err := Dir(Options{})
	if err != nil || name != f.Name() || !strings.HasPrefix(name, "/sys/fs/bpf/weir/v1/netns-") {
		t.Errorf("Dir = %q, %v; the folder's name is %q", name, err, f.Name())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, held := Holder(Options{}); held {
		t.Error("still held")
	}
	nothingLeft(t, Options{})
	if again, err := Open(Options{}); err != nil {
		t.Error(err)
	} else {
		again.Close()
	}
}
