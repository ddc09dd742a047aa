package hook

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weir/bpf"
	"weir/host"
)

func TestParseMode(t *testing.T) {
	for in, want := range map[string]Mode{"": Auto, "auto": Auto, "xdp": XDP, "tc": TC, "afpacket": AFPacket} {
		if got, err := ParseMode(in); err != nil || got != want {
			t.Errorf("ParseMode(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	if _, err := ParseMode("XDP!"); err == nil || !strings.Contains(err.Error(), "auto, xdp, tc, afpacket") {
		t.Errorf("ParseMode(XDP!): %v", err)
	}
}

func TestLinkTypes(t *testing.T) {
	for arphrd, want := range map[uint16]LinkType{
		unix.ARPHRD_ETHER: Ethernet, unix.ARPHRD_LOOPBACK: Ethernet,
		unix.ARPHRD_NONE: RawIP, unix.ARPHRD_RAWIP: RawIP, unix.ARPHRD_PPP: RawIP, unix.ARPHRD_TUNNEL: RawIP, unix.ARPHRD_SIT: RawIP,
		unix.ARPHRD_INFINIBAND: Unknown, unix.ARPHRD_CAN: Unknown, unix.ARPHRD_IEEE80211_RADIOTAP: Unknown,
	} {
		if got := linkType(arphrd); got != want {
			t.Errorf("ARPHRD %d: %v, want %v", arphrd, got, want)
		}
	}
	if _, err := LinkTypeOf("weir-none0"); err == nil {
		t.Error("an interface that is not there has a link type")
	}
	if _, err := LinkTypeOf(strings.Repeat("x", 40)); err == nil {
		t.Error("a name that is too long has a link type")
	}
}

// What needs no kernel: reasons, in words.
func TestWithoutPrograms(t *testing.T) {
	i := host.Interface{Name: "eth0", Index: 2, Kind: "device"}
	k := &Features{Refused: errors.New("no CAP_BPF")}
	p, err := k.Plan(i, Auto, nil)
	if err != nil || p.String() != "eth0: afpacket (no CAP_BPF)" {
		t.Errorf("auto: %v, %v", p, err)
	}
	for _, want := range []Mode{XDP, TC} {
		if _, err := k.Plan(i, want, nil); err == nil || err.Error() != "eth0: mode "+string(want)+" is not to be had: no CAP_BPF; use --mode afpacket, or auto" {
			t.Errorf("%s: %v", want, err)
		}
	}
	if p, err := k.Plan(i, AFPacket, nil); err != nil || p.String() != "eth0: afpacket (as asked)" || p.Ingress() {
		t.Errorf("afpacket: %v, %v", p, err)
	}
	ours := []Attachment{{Ifindex: 2, Point: AtXDP, How: Link, Alive: true}, {Ifindex: 3, Point: AtXDP, How: Link, Alive: true}}
	if p, _ := k.Plan(i, AFPacket, ours); len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "weir meter --detach -i eth0") {
		t.Errorf("with programs of an earlier one: %v", p)
	}
}

func TestFactsDecide(t *testing.T) {
	good := func() *facts {
		return &facts{name: "eth0", kind: "device", driver: "mlx5_core", mtu: 1500, link: Ethernet, told: true, features: xdpBasic | xdpFrags}
	}
	k := &Features{Fragments: true}
	for _, c := range []struct {
		name string
		make func(*facts)
		k    *Features
		why  string // of XDP
		not  string // contained in the reason against it
	}{
		{name: "all is well", why: "native, driver mlx5_core"},
		{name: "no driver", make: func(f *facts) { f.driver = "" }, why: "native, device"},
		{name: "driver without XDP", make: func(f *facts) { f.features = 0 }, not: "driver mlx5_core has no XDP here"},
		{name: "old kernel", make: func(f *facts) { f.features, f.told = 0, false }, why: "native, driver mlx5_core"},
		{name: "jumbo", make: func(f *facts) { f.mtu = 9000 }, why: "native, driver mlx5_core"},
		{name: "jumbo, driver of one buffer", make: func(f *facts) { f.mtu, f.features = 9000, xdpBasic }, not: "MTU 9000 is too large for XDP: driver mlx5_core has no XDP fragments"},
		{name: "jumbo, kernel of one buffer", make: func(f *facts) { f.mtu = 9000 }, k: &Features{}, not: "MTU 9000 is too large"},
		{name: "tun", make: func(f *facts) { f.driver, f.link = "tun", RawIP }, not: "tun has no Ethernet header, XDP is not to be had"},
		{name: "lo", make: func(f *facts) { f.loopback = true }, not: "lo has no XDP"},
		{name: "bond", make: func(f *facts) { f.kind, f.members = "bond", []string{"eth1", "eth2"} }, not: "runs in its members (eth1, eth2)"},
		{name: "theirs", make: func(f *facts) {
			f.on = []attached{{Other: Other{Point: AtXDP, How: Link, Program: 1 << 30, Name: "xdp_lb"}}}
		}, not: "XDP program xdp_lb (id 1073741824) is there already"},
		{name: "ours", make: func(f *facts) {
			f.on = []attached{{Other: Other{Point: AtXDP, How: Link, Program: 77, Name: "xdp_meter"}}}
			f.own = []Attachment{{Point: AtXDP, How: Link, Program: 77, Alive: true}}
		}, why: "native, driver mlx5_core"},
	} {
		f := good()
		if c.make != nil {
			c.make(f)
		}
		kernel := c.k
		if kernel == nil {
			kernel = k
		}
		kernel.Features = new(bpf.Features)
		why, not := f.xdp(kernel)
		if why != c.why || c.not == "" && not != "" || !strings.Contains(not, c.not) {
			t.Errorf("%s: %q, against it %q; want %q, %q", c.name, why, not, c.why, c.not)
		}
	}
}

// tun has no link header: programs for IP, both ways.
func TestTun(t *testing.T) {
	for _, o := range []Options{{}, {NoTCX: true}} {
		network(t)
		if err := netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_NO_PI}); err != nil {
			t.Fatal(err)
		}
		tun := openTun(t, "tun0")
		up(t, "tun0")
		l, _ := netlink.LinkByName("tun0")
		addr, _ := netlink.ParseAddr("192.0.2.1/24")
		if err := netlink.AddrAdd(l, addr); err != nil {
			t.Fatal(err)
		}
		if kind, err := LinkTypeOf("tun0"); err != nil || kind != RawIP {
			t.Errorf("tun0: %v, %v", kind, err)
		}
		k := probe(o)
		if _, err := k.Plan(iface(t, "tun0"), XDP, nil); err == nil || !strings.Contains(err.Error(), "no Ethernet header") {
			t.Errorf("xdp: %v", err)
		}
		f, s := folder(t, o), newSet(t, k)
		done := attach(t, f, k, s, "tun0", Auto)
		if done.Mode != TC || !done.NoLink || !done.Ingress() {
			t.Fatalf("%s", done)
		}
		t.Log(done)
		packet := []byte{0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0xf6, 0xcd, 192, 0, 2, 2, 192, 0, 2, 1, 0, 9, 0, 9, 0, 8, 0, 0}
		for range 25 { // comes in
			if _, err := unix.Write(tun, packet); err != nil {
				t.Fatal(err)
			}
		}
		out, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(out)
		for range 15 { // goes out
			if err := unix.Sendto(out, []byte("x"), 0, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{192, 0, 2, 3}}); err != nil {
				t.Fatal(err)
			}
		}
		received(t, s.ingressIP, 25)
		if n := s.egressIP.count(t); n < 15 { // and the answers to what came in: port 9 is closed
			t.Errorf("egress counted %d, want at least 15", n)
		}
		if n := s.counts(t); n[0]+n[1]+n[2] > 0 {
			t.Errorf("counted %v by programs for Ethernet", n)
		}
		if err := f.Remove(); err != nil {
			t.Fatal(err)
		}
		nothingLeft(t, o, "tun0")
	}
}

// openTun is the other end of a tun.
func openTun(t testing.TB, name string) int {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("not tried: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	req, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		t.Fatal(err)
	}
	return fd
}

// lo gives each packet out and in again: it is counted once.
func TestLoopback(t *testing.T) {
	network(t)
	k := probe(Options{})
	f, s := folder(t, Options{}), newSet(t, k)
	done := attach(t, f, k, s, "lo", Auto)
	if done.Mode != TC || spots(done) != onThisKernel("ingress/tcx") || done.NoLink {
		t.Fatalf("%s", done)
	}
	t.Log(done)
	newSender(t, "lo").send(t, 12)
	received(t, s.ingress, 12)
	if n := s.counts(t); n != [5]int{0, 12} {
		t.Errorf("counted %v", n)
	}
}

func TestBridgeAndMember(t *testing.T) {
	network(t)
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := netlink.LinkAdd(br); err != nil {
		t.Fatal(err)
	}
	up(t, "br0")
	pair(t, "va", "vb")
	l, _ := netlink.LinkByName("va")
	if err := netlink.LinkSetMaster(l, br); err != nil {
		t.Fatal(err)
	}
	k := probe(Options{})
	if _, told := driverFeatures(iface(t, "br0").Index); !told {
		if p, err := k.Plan(iface(t, "br0"), Auto, nil); err != nil || p.Mode != XDP || len(p.Notes) != 1 || p.Notes[0] != tentative {
			t.Errorf("bridge, of which the kernel does not tell: %v, %v", p, err)
		}
	} else if p, err := k.Plan(iface(t, "br0"), Auto, nil); err != nil || p.Mode != TC || !strings.Contains(p.Why, "bridge has no XDP here") {
		t.Errorf("bridge: %v, %v", p, err)
	}
	if p, err := k.Plan(iface(t, "va"), Auto, nil); err != nil || p.Mode != XDP {
		t.Errorf("its member: %v, %v", p, err)
	}
}

// More queues on the other side than veth's XDP can serve: the kernel says so,
// and so do we.
func TestTheDriversOwnWords(t *testing.T) {
	network(t)
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "va", NumTxQueues: 1, NumRxQueues: 1}, PeerName: "vb", PeerNumTxQueues: 4, PeerNumRxQueues: 4}
	if err := netlink.LinkAdd(v); err != nil {
		t.Fatal(err)
	}
	up(t, "va")
	up(t, "vb")
	o := Options{NoFeatures: true}
	k := probe(o)
	f, s := folder(t, o), newSet(t, k)
	own := []Attachment(nil)
	p, err := k.Plan(iface(t, "va"), Auto, own)
	if err != nil || p.Mode != XDP || len(p.Notes) != 1 {
		t.Fatalf("%v, %v", p, err)
	}
	done, err := f.Attach(p, s.programs())
	if err != nil || done.Mode != TC || !strings.Contains(done.Why, "queues") {
		t.Fatalf("%v, %v; want TC, by the driver's words", done, err)
	}
	t.Log(done)
	// With the features told there is no attempt.
	if _, told := driverFeatures(iface(t, "va").Index); !told {
		t.Log("not tried: a kernel that tells what a driver has (6.3)")
	} else if p, err := probe(Options{}).Plan(iface(t, "va"), Auto, nil); err != nil || p.Mode != TC || !strings.Contains(p.Why, "has no XDP here") {
		t.Errorf("told: %v, %v", p, err)
	}
}

func TestForwards(t *testing.T) {
	plainNetwork(t)
	pair(t, "va", "vb")
	set := func(family, to string) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/net/"+family+"/conf/va/forwarding", []byte(to), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ v4, v6 string }{{"0", "0"}, {"1", "0"}, {"0", "1"}, {"1", "1"}} {
		set("ipv4", c.v4)
		set("ipv6", c.v6)
		if v4, v6 := Forwards("va"); v4 != (c.v4 == "1") || v6 != (c.v6 == "1") {
			t.Errorf("Forwards = %v, %v; want %s, %s", v4, v6, c.v4, c.v6)
		}
	}
	if v4, v6 := Forwards("weir-none0"); v4 || v6 {
		t.Error("an interface that is not there forwards")
	}
}
