package hook

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attach plans and attaches.
func attach(t testing.TB, f *Folder, k *Features, s set, name string, want Mode) *Plan {
	t.Helper()
	own, err := f.List()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := k.Plan(iface(t, name), want, own)
	if err != nil {
		t.Fatal(err)
	}
	done, err := f.Attach(plan, s.programs())
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// Somebody's XDP program stays and goes on; auto goes round it and says whose
// it is, an explicit xdp fails and says so too.
func TestForeignXDP(t *testing.T) {
	for _, how := range []string{"by link", "by netlink", "generic"} {
		t.Run(strings.ReplaceAll(how, " ", "-"), func(t *testing.T) {
			network(t)
			pair(t, "va", "vb")
			k := probe(Options{})
			index := int(iface(t, "va").Index)
			theirs := newCounter(t, "their_xdp", ebpf.XDP, false, etherType, 0)
			flags := link.XDPDriverMode
			if how == "generic" {
				flags = link.XDPGenericMode
			}
			f := folder(t, Options{})
			pin := filepath.Join(bpffsPath, "theirs")
			if how == "by netlink" {
				if err := setXDP(uint32(index), theirs.FD(), 0, false); err != nil {
					t.Fatal(err)
				}
			} else {
				l, err := link.AttachXDP(link.XDPOptions{Program: theirs.Program, Interface: index, Flags: flags})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				if err := l.Pin(pin); err != nil {
					t.Fatal(err)
				}
				defer l.Unpin()
			}

			who := fmt.Sprintf("their_xdp (id %d", programID(theirs.Program))
			_, err := k.Plan(iface(t, "va"), XDP, nil)
			if err == nil || !strings.Contains(err.Error(), who) || !strings.Contains(err.Error(), "--mode tc") {
				t.Errorf("xdp: %v; want %q named", err, who)
			}
			s := newSet(t, k)
			done := attach(t, f, k, s, "va", Auto)
			if done.Mode != TC || !strings.Contains(done.Why, who) || how != "by netlink" && !strings.Contains(done.Why, "pinned at "+pin) {
				t.Errorf("auto: %s", done)
			}
			if how == "generic" && !strings.Contains(done.Why, "generic mode") {
				t.Errorf("auto: %s", done)
			}
			t.Log(done)
			newSender(t, "vb").send(t, 50)
			received(t, theirs, 50)
			received(t, s.ingress, 50)

			// A plan made before they came fails when it is carried out.
			early := *done
			early.Want, early.Mode, early.Spots = XDP, XDP, []Spot{{AtXDP, Link}, {Egress, TCX}}
			if _, err := f.Attach(&early, s.programs()); err == nil || !strings.Contains(err.Error(), who) {
				t.Errorf("xdp attached: %v; want %q named", err, who)
			}
			early.Want = Auto
			early.Notes = nil
			if done, err := f.Attach(&early, s.programs()); err != nil || done.Mode != TC || !strings.Contains(done.Why, who) {
				t.Errorf("auto attached: %v, %v", done, err)
			}
			others, err := Others(uint32(index), nil)
			if err != nil || len(others) == 0 || others[0].Name != "their_xdp" || others[0].Point != AtXDP {
				t.Errorf("Others = %v, %v", others, err)
			}
			if err := f.Remove(); err != nil {
				t.Fatal(err)
			}
			newSender(t, "vb").send(t, 5)
			received(t, theirs, 55)
		})
	}
}

// Others in TCX stay and keep their order; we go first.
func TestForeignTCX(t *testing.T) {
	network(t)
	pair(t, "va", "vb")
	k := probe(Options{})
	if !k.TCX {
		t.Skip("not tried: no TCX")
	}
	i := iface(t, "va")
	a := newCounter(t, "their_a", ebpf.SchedCLS, false, etherType, next)
	b := newCounter(t, "their_b", ebpf.SchedCLS, false, etherType, 2) // TCX_DROP: whoever comes after it sees nothing
	for _, c := range []*counter{a, b} {
		l, err := link.AttachTCX(link.TCXOptions{Program: c.Program, Interface: int(i.Index), Attach: ebpf.AttachTCXIngress})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	f, s := folder(t, Options{}), newSet(t, k)
	done := attach(t, f, k, s, "va", TC)
	for _, c := range []*counter{a, b} {
		info, _ := c.Info()
		if want := fmt.Sprintf("TC ingress program %s (id %d) stays, after ours", info.Name, programID(c.Program)); !strings.Contains(done.String(), want) {
			t.Errorf("%s\nwant %q in it", done, want)
		}
	}
	newSender(t, "vb").send(t, 40)
	for _, c := range []*counter{s.ingress, a, b} {
		received(t, c, 40)
	}

	// One that comes later and goes first is told of.
	c := newCounter(t, "their_c", ebpf.SchedCLS, false, etherType, next)
	l, err := link.AttachTCX(link.TCXOptions{Program: c.Program, Interface: int(i.Index), Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	order(t, i.Index, Ingress, "their_c our_ingress their_a their_b")
	again := attach(t, f, k, s, "va", TC)
	if !strings.Contains(again.String(), "their_c (id ") || !strings.Contains(again.String(), "runs before ours and may keep packets from it") {
		t.Errorf("%s", again)
	}
	order(t, i.Index, Ingress, "their_c our_ingress their_a their_b")
	if err := f.Remove(); err != nil {
		t.Fatal(err)
	}
	order(t, i.Index, Ingress, "their_c their_a their_b")
	newSender(t, "vb").send(t, 2)
	received(t, b, 42)
}

// order checks who is at a point, in the order of running.
func order(t testing.TB, ifindex uint32, point Point, want string) {
	t.Helper()
	on, err := onInterface(ifindex)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, a := range on {
		if a.Point == point {
			names = append(names, a.Name)
		}
	}
	if got := strings.Join(names, " "); got != want {
		t.Errorf("at %s: %s; want %s", point, got, want)
	}
}

// Other filters of a clsact qdisc stay and keep their order; the qdisc goes
// only if we made it and nobody else uses it.
func TestForeignClsact(t *testing.T) {
	o := Options{NoTCX: true}
	foreign := func(t *testing.T, index uint32, c *counter, priority uint16) *netlink.BpfFilter {
		f := filter(index, Ingress, priority, c.FD())
		f.Handle, f.Name = 0x10, "theirs"
		if err := netlink.FilterAdd(f); err != nil {
			t.Fatal(err)
		}
		return f
	}
	t.Run("theirs-first", func(t *testing.T) {
		network(t)
		pair(t, "va", "vb")
		k, i := probe(o), iface(t, "va")
		made, err := addClsact(i.Index)
		if err != nil || !made {
			t.Fatal(made, err)
		}
		theirs := newCounter(t, "their_bpf", ebpf.SchedCLS, false, etherType, next)
		foreign(t, i.Index, theirs, 1)
		if err := netlink.FilterAdd(u32(i.Index, 5)); err != nil {
			t.Fatal(err)
		}
		f, s := folder(t, o), newSet(t, k)
		done := attach(t, f, k, s, "va", TC)
		t.Log(done)
		if !strings.Contains(done.String(), fmt.Sprintf("their_bpf (id %d, priority 1) stays, after ours", programID(theirs.Program))) ||
			!strings.Contains(done.String(), "filter u32 (priority 5) stays, after ours") {
			t.Errorf("%s", done)
		}
		order(t, i.Index, Ingress, "our_ingress their_bpf u32")
		newSender(t, "vb").send(t, 30)
		received(t, s.ingress, 30)
		received(t, theirs, 30)
		if err := f.Remove(); err != nil {
			t.Fatal(err)
		}
		order(t, i.Index, Ingress, "their_bpf u32")
		if kind, _ := clsactQdisc(i.Index); kind != "clsact" {
			t.Error("their qdisc is gone")
		}
	})
	t.Run("another-kind-in-front", func(t *testing.T) {
		network(t)
		pair(t, "va", "vb")
		k, i := probe(o), iface(t, "va")
		if _, err := addClsact(i.Index); err != nil {
			t.Fatal(err)
		}
		if err := netlink.FilterAdd(u32(i.Index, 1)); err != nil {
			t.Fatal(err)
		}
		f, s := folder(t, o), newSet(t, k)
		done := attach(t, f, k, s, "va", TC)
		if !strings.Contains(done.String(), "TC ingress filter u32 (priority 1) runs before ours and may keep packets from it") {
			t.Errorf("%s", done)
		}
		order(t, i.Index, Ingress, "u32 our_ingress")
	})
	t.Run("a-priority-of-one-protocol", func(t *testing.T) {
		network(t)
		pair(t, "va", "vb")
		k, i := probe(o), iface(t, "va")
		if _, err := addClsact(i.Index); err != nil {
			t.Fatal(err)
		}
		theirs := newCounter(t, "their_bpf", ebpf.SchedCLS, false, etherType, next)
		theirFilter := filter(i.Index, Ingress, 1, theirs.FD())
		theirFilter.Handle, theirFilter.Name, theirFilter.Protocol = 1, "theirs", unix.ETH_P_IP
		if err := netlink.FilterAdd(theirFilter); err != nil {
			t.Fatal(err)
		}
		f, s := folder(t, o), newSet(t, k)
		attach(t, f, k, s, "va", TC)
		order(t, i.Index, Ingress, "their_bpf our_ingress")
		newSender(t, "vb").send(t, 7)
		received(t, s.ingress, 7)
	})
	t.Run("ours-first", func(t *testing.T) {
		network(t)
		pair(t, "va", "vb")
		k, i := probe(o), iface(t, "va")
		f, s := folder(t, o), newSet(t, k)
		attach(t, f, k, s, "va", TC)
		theirs := newCounter(t, "their_bpf", ebpf.SchedCLS, false, etherType, next)
		filter := foreign(t, i.Index, theirs, 3)
		if err := f.Detach(i.Index); err != nil {
			t.Fatal(err)
		}
		order(t, i.Index, Ingress, "their_bpf")
		if kind, _ := clsactQdisc(i.Index); kind != "clsact" {
			t.Error("the qdisc is gone, and their filter with it")
		}
		if err := netlink.FilterDel(filter); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("an-ingress-qdisc", func(t *testing.T) {
		network(t)
		pair(t, "va", "vb")
		k, i := probe(o), iface(t, "va")
		if err := netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: int(i.Index), Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0),
		}}); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Plan(i, TC, nil); err == nil || !strings.Contains(err.Error(), "ingress qdisc") {
			t.Errorf("tc: %v", err)
		}
		f, s := folder(t, o), newSet(t, k)
		if done := attach(t, f, k, s, "va", Auto); done.Mode != AFPacket || !strings.Contains(done.Why, "ingress qdisc") {
			t.Errorf("auto: %s", done)
		}
	})
	t.Run("a-filter-of-ours-without-a-pin", func(t *testing.T) {
		network(t)
		pair(t, "va", "vb")
		k, i := probe(o), iface(t, "va")
		f, s := folder(t, o), newSet(t, k)
		attach(t, f, k, s, "va", TC)
		before := newSet(t, k)
		// As if the bpffs had ended with a mount namespace.
		if err := clear(f.path); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		f = folder(t, o)
		attach(t, f, k, before, "va", TC)
		order(t, i.Index, Ingress, "our_ingress")
		newSender(t, "vb").send(t, 9)
		received(t, before.ingress, 9)
	})
}

// u32 is a filter that takes nothing.
func u32(ifindex uint32, priority uint16) netlink.Filter {
	return &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: int(ifindex), Parent: netlink.HANDLE_MIN_INGRESS, Priority: priority, Protocol: unix.ETH_P_IP},
		ClassId:     netlink.MakeHandle(1, 1),
		Sel:         &netlink.TcU32Sel{Nkeys: 1, Flags: netlink.TC_U32_TERMINAL, Keys: []netlink.TcU32Key{{Mask: 0xffffffff, Val: 0xffffffff, Off: 12}}},
	}
}

// A process that has a program open is found.
func TestProcessOf(t *testing.T) {
	network(t)
	c := newCounter(t, "their_xdp", ebpf.XDP, false, etherType, 0)
	if p := processOf(programID(c.Program)); p != "" {
		t.Errorf("held by %s: we ourselves do not count", p)
	}
	if _, err := ebpf.NewProgramFromID(1 << 30); !errors.Is(err, unix.ENOENT) {
		t.Fatal(err)
	}
	if p := processOf(1 << 30); p != "" {
		t.Errorf("a program that is not there is held by %s", p)
	}
}
