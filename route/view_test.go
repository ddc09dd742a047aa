package route

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Messages made by hand: of devices that the kernel under the tests may not have.

func linkMessage(index uint32, l link) message {
	b := make([]byte, unix.SizeofIfInfomsg)
	order.PutUint16(b[2:], l.arphrd)
	order.PutUint32(b[4:], index)
	var flags uint32
	if l.admin {
		flags |= unix.IFF_UP
	}
	if l.carrier {
		flags |= unix.IFF_LOWER_UP
	}
	order.PutUint32(b[8:], flags)
	b = appendAttr(b, unix.IFLA_ADDRESS, l.mac[:])
	b = appendAttr(b, unix.IFLA_MTU, order.AppendUint32(nil, l.mtu))
	if l.master != 0 {
		b = appendAttr(b, unix.IFLA_MASTER, order.AppendUint32(nil, l.master))
	}
	if l.lower != 0 {
		b = appendAttr(b, unix.IFLA_LINK, order.AppendUint32(nil, l.lower))
	}
	if l.kind != "" {
		info := appendAttr(nil, unix.IFLA_INFO_KIND, append([]byte(l.kind), 0))
		if l.kind == "vlan" {
			protocol := uint16(unix.ETH_P_8021Q)
			if l.vlan == 0 {
				protocol = unix.ETH_P_8021AD
			}
			data := appendAttr(nil, unix.IFLA_VLAN_PROTOCOL, binary.BigEndian.AppendUint16(nil, protocol))
			data = appendAttr(data, unix.IFLA_VLAN_ID, order.AppendUint16(nil, max(l.vlan&0xfff, 1)))
			info = appendAttr(info, unix.IFLA_INFO_DATA|unix.NLA_F_NESTED, data)
		}
		b = appendAttr(b, unix.IFLA_LINKINFO, info)
	}
	return message{kind: unix.RTM_NEWLINK, body: b}
}

func neighbourMessageOf(h Hop, state uint16, mac []byte) message {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = unix.AF_INET
	if h.Gateway.Is6() {
		b[0] = unix.AF_INET6
	}
	order.PutUint32(b[4:], h.Interface)
	order.PutUint16(b[8:], state)
	b = appendAttr(b, unix.NDA_DST, h.Gateway.AsSlice())
	if mac != nil {
		b = appendAttr(b, unix.NDA_LLADDR, mac)
	}
	return message{kind: unix.RTM_NEWNEIGH, body: b}
}

func routeMessageOf(p netip.Prefix) message {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[1] = unix.AF_INET, byte(p.Bits())
	if p.Addr().Is6() {
		b[0] = unix.AF_INET6
	}
	b = appendAttr(b, unix.RTA_TABLE, order.AppendUint32(nil, unix.RT_TABLE_MAIN))
	if p.Bits() > 0 {
		b = appendAttr(b, unix.RTA_DST, p.Addr().AsSlice())
	}
	return message{kind: unix.RTM_NEWROUTE, body: b}
}

type machine struct {
	*view
	t     *testing.T
	table *fake
	stats Stats
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, table: newFake()}
	m.view = newView(m.table, &m.stats, slog.New(slog.DiscardHandler), func(d uint32) bool { return d != 66 })
	return m
}

func (m *machine) hear(list ...message) {
	m.t.Helper()
	for _, x := range list {
		if !m.message(x) {
			m.t.Fatalf("a message of kind %d makes no sense", x.kind)
		}
	}
	m.flush(time.Now())
}

var (
	eth  = link{arphrd: unix.ARPHRD_ETHER, admin: true, carrier: true, mac: [6]byte{2, 0, 0, 0, 0, 1}, mtu: 1500}
	peer = []byte{2, 0, 0, 0, 9, 9}
)

func with(l link, change func(*link)) link { change(&l); return l }

func vlan(lower uint32, id uint16) link {
	return with(eth, func(l *link) { l.kind, l.lower, l.vlan, l.mac[5], l.mtu = "vlan", lower, Tagged|id, 2, 1496 })
}

func TestWays(t *testing.T) {
	gw := netip.MustParseAddr("10.0.0.9")
	plain := Way{Device: 2, Source: eth.mac, Destination: [6]byte(peer), MTU: 1500, Alive: true}
	tagged := Way{Device: 2, VLAN: Tagged | 7, Source: [6]byte{2, 0, 0, 0, 0, 2}, Destination: [6]byte(peer), MTU: 1496, Alive: true}
	dead := func(w Way) *Way { w.Alive = false; return &w }
	bridge := with(eth, func(l *link) { l.kind = "bridge" })
	vrf := with(eth, func(l *link) { l.kind, l.arphrd = "vrf", unix.ARPHRD_ETHER })
	member := func(master uint32, l link) link { l.master = master; return l }
	for _, c := range []struct {
		name  string
		links map[uint32]link // the route leaves by number 3 if there, else 2
		want  *Way
	}{
		{"Ethernet", map[uint32]link{2: eth}, &plain},
		{"a jumbo loopback", map[uint32]link{2: with(eth, func(l *link) { l.mtu = 65536 })}, func() *Way { w := plain; w.MTU = 65535; return &w }()},
		{"no Ethernet", map[uint32]link{2: with(eth, func(l *link) { l.arphrd = unix.ARPHRD_NONE })}, nil},
		{"no address", map[uint32]link{2: with(eth, func(l *link) { l.mac = [6]byte{} })}, nil},
		{"a bridge", map[uint32]link{2: bridge}, nil},
		{"a bond", map[uint32]link{2: with(eth, func(l *link) { l.kind = "bond" })}, nil},
		{"a bridge's port", map[uint32]link{2: member(5, eth), 5: bridge}, nil},
		{"a VRF's member", map[uint32]link{2: member(5, eth), 5: vrf}, &plain},
		{"a VLAN", map[uint32]link{2: eth, 3: vlan(2, 7)}, &tagged},
		{"a VLAN in a VRF", map[uint32]link{2: eth, 3: member(5, vlan(2, 7)), 5: vrf}, &tagged},
		{"a VLAN in a bridge", map[uint32]link{2: eth, 3: member(5, vlan(2, 7)), 5: bridge}, nil},
		{"a VLAN on a bond", map[uint32]link{2: with(eth, func(l *link) { l.kind = "bond" }), 3: vlan(2, 7)}, nil},
		{"a VLAN on what is down", map[uint32]link{2: with(eth, func(l *link) { l.carrier = false }), 3: vlan(2, 7)}, dead(tagged)},
		{"a VLAN on nothing", map[uint32]link{3: vlan(2, 7)}, nil},
		{"a VLAN on no output", map[uint32]link{66: eth, 3: vlan(66, 7)}, nil},
		{"QinQ", map[uint32]link{4: eth, 2: vlan(4, 8), 3: vlan(2, 7)}, nil},
		{"802.1ad", map[uint32]link{2: eth, 3: with(vlan(2, 7), func(l *link) { l.vlan = 0 })}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			hop := Hop{2, gw}
			if _, ok := c.links[3]; ok {
				hop.Interface = 3
			}
			// First all is well, so that what is dead was alive.
			if c.want != nil {
				m.hear(linkMessage(2, eth))
				if hop.Interface == 3 {
					m.hear(linkMessage(3, vlan(2, 7)))
				}
			}
			m.hear(neighbourMessageOf(hop, unix.NUD_REACHABLE, peer))
			for i, l := range c.links {
				m.hear(linkMessage(i, l))
			}
			got, ok := m.table.hop(hop)
			if ok != (c.want != nil) || ok && got != *c.want {
				t.Errorf("%+v, %v; want %+v", got, ok, c.want)
			}
			if n := len(m.table.hops); m.stats.Hops != n {
				t.Errorf("%d hops are counted, %d told", m.stats.Hops, n)
			}
		})
	}
}

func TestUppers(t *testing.T) {
	m := newMachine(t)
	upper := func(lower uint32, id uint16) uint32 { return m.table.uppers[upperKey{lower, Tagged | id}] }
	m.hear(linkMessage(3, vlan(2, 7)), linkMessage(2, eth), linkMessage(4, vlan(3, 8)))
	if upper(2, 7) != 3 || upper(3, 8) != 0 {
		t.Errorf("%v: want the VLAN, not the one within it", m.table.uppers)
	}
	m.hear(linkMessage(3, with(vlan(2, 7), func(l *link) { l.admin = false })))
	if upper(2, 7) != 0 {
		t.Error("a VLAN that is down takes frames")
	}
	m.hear(linkMessage(5, with(eth, func(l *link) { l.kind = "bridge" })), linkMessage(3, with(vlan(2, 7), func(l *link) { l.master = 5 })))
	if upper(2, 7) != 0 {
		t.Error("a VLAN whose frames are a bridge's takes them")
	}
	m.hear(linkMessage(3, vlan(2, 7)))
	if upper(2, 7) != 3 {
		t.Error("it is not back")
	}
	gone := linkMessage(3, vlan(2, 7))
	gone.kind = unix.RTM_DELLINK
	m.hear(gone, linkMessage(9, vlan(2, 7)))
	if upper(2, 7) != 9 {
		t.Error("its successor is not told")
	}
}

// The states of a neighbour (RFC 4861, section 7.3.2, and the kernel's own).
func TestNeighbourStates(t *testing.T) {
	m := newMachine(t)
	m.hear(linkMessage(2, eth))
	h := Hop{2, netip.MustParseAddr("10.0.0.9")}
	for _, c := range []struct {
		name         string
		state        uint16
		mac          []byte
		there, alive bool
	}{
		{"being asked for", unix.NUD_INCOMPLETE, nil, false, false},
		{"never found", unix.NUD_FAILED, nil, false, false},
		{"found", unix.NUD_REACHABLE, peer, true, true},
		{"stale", unix.NUD_STALE, peer, true, true},
		{"waiting", unix.NUD_DELAY, peer, true, true},
		{"being probed", unix.NUD_PROBE, peer, true, true},
		{"lost", unix.NUD_FAILED, nil, true, false},
		{"asked for again", unix.NUD_INCOMPLETE, nil, true, false},
		{"found again", unix.NUD_REACHABLE, []byte{2, 0, 0, 0, 9, 8}, true, true},
		{"made permanent", unix.NUD_PERMANENT, peer, true, true},
		{"without a MAC address of six octets", unix.NUD_PERMANENT, []byte{1, 2, 3, 4}, false, false},
		{"without ARP", unix.NUD_NOARP, peer, true, true},
		{"everybody", unix.NUD_NOARP, broadcast[:], false, false},
	} {
		m.hear(neighbourMessageOf(h, c.state, c.mac))
		w, there := m.table.hop(h)
		if there != c.there || w.Alive != c.alive || c.alive && w.Destination != [6]byte(c.mac) {
			t.Errorf("%s: %v, %+v", c.name, there, w)
		}
	}
	if len(m.neighbours) != 0 || m.stats.Hops != 0 {
		t.Errorf("what is of no use is kept: %v", m.neighbours)
	}
	bridge := neighbourMessageOf(h, unix.NUD_PERMANENT, peer)
	bridge.body[0] = unix.AF_BRIDGE
	proxy := neighbourMessageOf(h, unix.NUD_PERMANENT, peer)
	proxy.body[10] = unix.NTF_PROXY
	m.hear(bridge, proxy, neighbourMessageOf(Hop{2, netip.MustParseAddr("224.0.0.5")}, unix.NUD_NOARP, []byte{1, 0, 0x5e, 0, 0, 5}))
	if len(m.table.hops) != 0 {
		t.Errorf("hops: %v", m.table.hops)
	}
}

func TestRoutesThatNothingIsForwardedBy(t *testing.T) {
	m := newMachine(t)
	cloned := routeMessageOf(netip.MustParsePrefix("2001:db8::7/128"))
	order.PutUint32(cloned.body[8:], unix.RTM_F_CLONED)
	m.hear(cloned, routeMessageOf(netip.MustParsePrefix("ff00::/8")), routeMessageOf(netip.MustParsePrefix("224.0.0.0/4")))
	if w := m.table.words(); len(w) > 0 {
		t.Errorf("told %q", w)
	}
	m.hear(routeMessageOf(netip.MustParsePrefix("0.0.0.0/0")), routeMessageOf(netip.MustParsePrefix("::/0")), routeMessageOf(netip.MustParsePrefix("128.0.0.0/1")))
	if w := m.table.words(); len(w) != 3 || m.stats.Routes4 != 3 || m.stats.Routes6 != 3 {
		t.Errorf("told %q, %+v", w, m.stats)
	}
}

// A table being loaded outruns what is remembered for the second call.
func TestMoreInvalidationsThanAreRemembered(t *testing.T) {
	m := newMachine(t)
	now := time.Now()
	for i := range pending + 5 {
		m.message(routeMessageOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)))
	}
	m.flush(now)
	told := m.table.told
	m.again(now.Add(settle))
	if m.table.told != told {
		t.Error("repeated too early: the last are not yet as old")
	}
	m.table.forget()
	m.again(now.Add(2 * settle))
	if w := m.table.words(); len(w) != 1 || w[0] != "invalidate all" {
		t.Errorf("told %d things: %.3q", len(w), w)
	}
	if !m.due.IsZero() {
		t.Error("something is still due")
	}
}

func TestNoAllocationForARoute(t *testing.T) {
	m := newMachine(t)
	m.table.quiet = true
	r := []message{routeMessageOf(netip.MustParsePrefix("192.0.2.0/24")), routeMessageOf(netip.MustParsePrefix("2001:db8::/32"))}
	n := neighbourMessageOf(Hop{2, netip.MustParseAddr("10.0.0.9")}, unix.NUD_STALE, peer)
	m.hear(linkMessage(2, eth), n)
	now := time.Now()
	step := func() {
		for _, r := range r {
			m.message(r)
		}
		m.message(n)
		m.flush(now)
		now = now.Add(settle)
		m.again(now)
	}
	step()
	step()
	if a := testing.AllocsPerRun(1000, step); a != 0 {
		t.Errorf("%v allocations", a)
	}
}

func FuzzMessages(f *testing.F) {
	for _, m := range []message{
		linkMessage(2, eth), linkMessage(3, vlan(2, 7)), routeMessageOf(netip.MustParsePrefix("192.0.2.0/24")), routeMessageOf(netip.MustParsePrefix("::/0")),
		neighbourMessageOf(Hop{2, netip.MustParseAddr("10.0.0.9")}, unix.NUD_STALE, peer), neighbourMessageOf(Hop{2, netip.MustParseAddr("fe80::9")}, unix.NUD_FAILED, nil),
		{kind: unix.RTM_NEWADDR, body: appendAttr([]byte{unix.AF_INET, 24, 0, 0, 2, 0, 0, 0}, unix.IFA_LOCAL, []byte{10, 0, 0, 1})},
		{kind: unix.RTM_NEWNETCONF, body: appendAttr(make([]byte, 4), 2, make([]byte, 4))},
	} {
		a := asker{}
		f.Add(finish(append(a.begin(nil, m.kind, 0), m.body...), 0))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMachine(t)
		for len(b) > 0 {
			x, rest, ok := next(b)
			if !ok {
				break
			}
			if len(rest) >= len(b) {
				t.Fatal("a message of no length")
			}
			b = rest
			m.message(x)
		}
		m.flush(time.Now())
		if m.stats.Hops != len(m.table.hops) {
			t.Errorf("%d hops are counted, %d told", m.stats.Hops, len(m.table.hops))
		}
	})
}
