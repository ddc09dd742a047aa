package route

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// quick makes the kernel's neighbours of an interface age much faster
// than usual: REACHABLE for 0.1 to 0.3 s and three probes 0.1 s apart.
func (s *space) quick(dev string) {
	for _, family := range []string{"ipv4", "ipv6"} {
		at := "net/" + family + "/neigh/" + dev + "/"
		s.sysctl(at+"base_reachable_time_ms", "200")
		s.sysctl(at+"retrans_time_ms", "100")
		s.sysctl(at+"delay_first_probe_time", "0")
	}
}

// state is the kernel's word for a neighbour: REACHABLE, FAILED, …
func (s *space) state(addr, dev string) string {
	out, err := s.try("", "ip", "neigh", "show", "to", addr, "dev", dev, "nud", "all")
	if f := strings.Fields(out); err == nil && len(f) > 0 {
		return f[len(f)-1]
	}
	return ""
}

// A neighbour that only a fast path sends to is verified as if the kernel sent
// to it: it stays valid while it answers, and is known to be dead when it does
// not. One that is not in use is left alone.
func TestNeighboursInUseAreVerified(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/24", "10.0.0.2/24")
	p.ip("addr", "add", "10.0.0.3/24", "dev", "x")
	p.ip("addr", "add", "2001:db8::2/64", "dev", "x", "nodad")
	r.ip("addr", "add", "2001:db8::1/64", "dev", "a", "nodad")
	r.quick("a")
	mac := p.link("x").HardwareAddr.String()
	table := newFake()
	dev := r.index("a")
	used := []Hop{{dev, netip.MustParseAddr("10.0.0.2")}, {dev, netip.MustParseAddr("2001:db8::2")}}
	table.used = append(used, Hop{dev, netip.MustParseAddr("10.0.0.99")}) // an unknown one
	m := r.watch(Options{Table: table, KeepAlive: 50 * time.Millisecond})
	for _, h := range append(used, Hop{dev, netip.MustParseAddr("10.0.0.3")}) {
		r.ip("neigh", "replace", h.Gateway.String(), "lladdr", mac, "dev", "a", "nud", "stale")
	}
	for _, h := range used {
		eventually(t, h.Gateway.String()+" is verified", func() bool { return r.state(h.Gateway.String(), "a") == "REACHABLE" })
	}
	before := m.Snapshot().Refreshed
	eventually(t, "they are verified again and again", func() bool { return m.Snapshot().Refreshed > before+6 })
	if s := r.state("10.0.0.3", "a"); s != "STALE" {
		t.Errorf("a neighbour that is not in use is %s", s)
	}
	if _, ok := table.when("drop 10.0.0.99"); !ok {
		t.Error("an unknown next hop stays")
	}

	p.ip("link", "set", "dev", "x", "arp", "off") // it hears no more, and the link stays up
	p.ip("addr", "flush", "dev", "x")
	dead := time.Now()
	for _, h := range used {
		eventually(t, h.Gateway.String()+" is dead", func() bool { w, _ := table.hop(h); return !w.Alive })
	}
	t.Logf("known to be dead after %v", time.Since(dead).Round(time.Millisecond))
}

// A permanent neighbour stays one: NTF_USE would end that.
func TestPermanentNeighboursAreLeftAlone(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/24", "10.0.0.2/24")
	r.ip("neigh", "add", "10.0.0.9", "lladdr", "02:00:00:00:00:09", "dev", "a", "nud", "permanent")
	r.ip("neigh", "add", "10.0.0.10", "lladdr", "02:00:00:00:00:0a", "dev", "a", "nud", "noarp")
	table := newFake()
	dev := r.index("a")
	table.used = []Hop{{dev, netip.MustParseAddr("10.0.0.9")}, {dev, netip.MustParseAddr("10.0.0.10")}}
	m := r.watch(Options{Table: table, KeepAlive: time.Millisecond})
	time.Sleep(50 * time.Millisecond)
	if a, b := r.state("10.0.0.9", "a"), r.state("10.0.0.10", "a"); a != "PERMANENT" || b != "NOARP" {
		t.Errorf("%s, %s", a, b)
	}
	if s := m.Snapshot(); s.Refreshed != 0 || s.Hops != 2 {
		t.Errorf("%+v", s)
	}
}

// More neighbours in use than one call asks for; some of them are gone.
func TestManyNeighboursInUse(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/16", "10.0.0.2/16")
	var lines strings.Builder
	table := newFake()
	dev := r.index("a")
	for i := range 600 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(4 + i/256), byte(i)})
		table.used = append(table.used, Hop{dev, a})
		fmt.Fprintf(&lines, "neigh add %s lladdr 02:00:00:00:00:09 dev a nud stale\n", a)
	}
	r.batch(lines.String())
	m := r.watch(Options{Table: table, KeepAlive: 20 * time.Millisecond})
	eventually(t, "each is asked for", func() bool { return m.Snapshot().Refreshed >= 600 })
	if s := m.Snapshot(); s.LastError != "" || s.Hops != 600 {
		t.Errorf("%+v", s)
	}
}
