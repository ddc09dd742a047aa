package hook

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// Every way of attaching, forced: each packet is counted once at the point that
// the plan says, and nothing is left afterwards.
func TestEveryFallback(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
		want Mode
		mode Mode
		at   string
		mtu  int
	}{
		{name: "the best", want: Auto, mode: XDP, at: "xdp/link egress/tcx"},
		{name: "xdp asked for", want: XDP, mode: XDP, at: "xdp/link egress/tcx"},
		{name: "the kernel does not tell what a driver has", o: Options{NoFeatures: true}, want: Auto, mode: XDP, at: "xdp/link egress/tcx"},
		{name: "xdp without links", o: Options{NoLink: true}, want: Auto, mode: XDP, at: "xdp/netlink egress/tcx"},
		{name: "no tcx", o: Options{NoTCX: true}, want: Auto, mode: XDP, at: "xdp/link egress/clsact"},
		{name: "neither", o: Options{NoTCX: true, NoLink: true}, want: Auto, mode: XDP, at: "xdp/netlink egress/clsact"},
		{name: "generic xdp", o: Options{Generic: true}, want: XDP, mode: XDP, at: "xdp/link egress/tcx"},
		{name: "generic xdp without links", o: Options{Generic: true, NoLink: true}, want: XDP, mode: XDP, at: "xdp/netlink egress/tcx"},
		{name: "no xdp", o: Options{NoXDP: true}, want: Auto, mode: TC, at: "ingress/tcx egress/tcx"},
		{name: "tc asked for", want: TC, mode: TC, at: "ingress/tcx egress/tcx"},
		{name: "tc without tcx", o: Options{NoTCX: true}, want: TC, mode: TC, at: "ingress/clsact egress/clsact"},
		{name: "jumbo frames", want: Auto, mode: XDP, at: "xdp/link egress/tcx", mtu: 9000},
		{name: "jumbo frames without fragments", o: Options{NoFrags: true}, want: Auto, mode: TC, at: "ingress/tcx egress/tcx", mtu: 9000},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			network(t)
			pair(t, "va", "vb")
			if c.mtu > 0 {
				for _, name := range []string{"va", "vb"} {
					l, _ := netlink.LinkByName(name)
					if err := netlink.LinkSetMTU(l, c.mtu); err != nil {
						t.Fatal(err)
					}
				}
			}
			k := probe(c.o)
			if k.Refused != nil {
				t.Fatal(k.Refused)
			}
			plan, err := k.Plan(iface(t, "va"), c.want, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(plan)
			f := folder(t, c.o)
			s := newSet(t, k)
			done, err := f.Attach(plan, s.programs())
			if err != nil {
				t.Fatal(err)
			}
			c.at = onThisKernel(c.at)
			if done.Mode != c.mode || spots(done) != c.at || done.NoLink {
				t.Fatalf("%s at %q (no link header: %v), want %s at %q", done.Mode, spots(done), done.NoLink, c.mode, c.at)
			}
			list, err := f.List()
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Count(attachments(list), "va:"); got != 2 {
				t.Errorf("List = %s", attachments(list))
			}

			newSender(t, "vb").send(t, 100) // comes in
			newSender(t, "va").send(t, 70)  // goes out
			if c.mode == XDP {
				received(t, s.xdp, 100)
			} else {
				received(t, s.ingress, 100)
			}
			received(t, s.egress, 70)
			if n := s.counts(t); n[0]+n[1] != 100 {
				t.Errorf("counted %v: each packet once?", n)
			}

			if others, err := Others(iface(t, "va").Index, list); err != nil || len(others) > 0 {
				t.Errorf("Others = %v, %v", others, err)
			}
			if err := f.Remove(); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, c.o, "va", "vb")
			newSender(t, "vb").send(t, 3)
			if n := s.counts(t); n[0]+n[1] != 100 || n[2] != 70 {
				t.Errorf("counted %v after Remove", n)
			}
		})
	}
}

// A plan for XDP on an interface that has none is only found out by trying,
// where the kernel does not tell.
func TestXDPNotToBeHadIsFoundOutByTrying(t *testing.T) {
	network(t)
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil {
		t.Fatal(err)
	}
	up(t, "br0")
	o := Options{NoFeatures: true}
	k := probe(o)
	plan, err := k.Plan(iface(t, "br0"), Auto, nil)
	if err != nil || plan.Mode != XDP {
		t.Fatalf("%v, %v; want an attempt at XDP", plan, err)
	}
	f, s := folder(t, o), newSet(t, k)
	done, err := f.Attach(plan, s.programs())
	if err != nil || done.Mode != TC || spots(done) != onThisKernel("ingress/tcx egress/tcx") {
		t.Fatalf("%v, %v; want TC", done, err)
	}
	t.Log(done)
	plan, _ = k.Plan(iface(t, "br0"), XDP, nil)
	if _, err := f.Attach(plan, s.programs()); err == nil || !strings.Contains(err.Error(), "use --mode tc, or auto") {
		t.Errorf("explicit xdp: %v", err)
	}
	list, err := f.List()
	if want := onThisKernel("br0:egress/tcx=our_egress br0:ingress/tcx=our_ingress"); err != nil || attachments(list) != want {
		t.Errorf("after an attempt that failed: %s, %v; want %s, as before", attachments(list), err, want)
	}
}
