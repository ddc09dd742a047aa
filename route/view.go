package route

import (
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// valid are the states in which the kernel itself sends to a neighbour.
const valid = unix.NUD_PERMANENT | unix.NUD_NOARP | unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE

// view is what has been heard of links, addresses and neighbours, and what the
// table was told of it. It belongs to Monitor.Run's goroutine.
type view struct {
	bumps
	log    *slog.Logger
	output func(device uint32) bool

	links      map[uint32]heard[link]
	neighbours map[Hop]heard[neighbour]
	addresses  map[addressKey]heard[struct{}]
	own        map[netip.Addr]int // on so many interfaces
	uppers     map[upperKey]uint32
	changed    map[uint32]bool // links, in this batch
	mtus       mtuView

	round   uint32 // of listening to everything; what an older one heard is gone
	refused bool   // a next hop found no room
	said    bool   // and that was logged
}

// heard is a value with the round that last heard of it.
type heard[T any] struct {
	is    T
	round uint32
}

type neighbour struct {
	mac   [6]byte
	state uint16
	used  uint32 // the last turn of keeping alive that found it in use
	told  bool   // the table has way
	way   Way
}

type addressKey struct {
	ifindex uint32
	own     netip.Addr
	link    netip.Prefix
}

type upperKey struct {
	lower uint32
	vlan  uint16
}

func newView(t Table, stats *Stats, log *slog.Logger, output func(uint32) bool) *view {
	return &view{
		bumps: bumps{table: t, stats: stats}, log: log, output: output,
		links: map[uint32]heard[link]{}, neighbours: map[Hop]heard[neighbour]{},
		addresses: map[addressKey]heard[struct{}]{}, own: map[netip.Addr]int{}, uppers: map[upperKey]uint32{},
		changed: map[uint32]bool{}, mtus: newMTUView(),
	}
}

// message takes one in. It says whether it made sense.
func (v *view) message(m message) bool {
	s := v.stats
	switch m.kind {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		r, ok, sound := parseRoute(m.body)
		p := r.key.to
		if p.Addr().Is4() {
			s.Routes4++
		} else {
			s.Routes6++
		}
		if ok {
			v.mtus.hear(r, m.kind == unix.RTM_NEWROUTE, m.flags&unix.NLM_F_APPEND != 0)
			v.invalidate(p)
		}
		return sound
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		s.Neighbours++
		n, ok, sound := parseNeighbour(m.body)
		if ok {
			v.neighbour(n, m.kind == unix.RTM_NEWNEIGH)
		}
		return sound
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		s.Links++
		i, l, ok, sound := parseLink(m.body)
		switch {
		case ok && m.kind == unix.RTM_NEWLINK:
			v.link(i, l)
		case ok:
			v.dropLink(i)
		}
		return sound
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		s.Addresses++
		a, ok, sound := parseAddress(m.body)
		switch {
		case ok && m.kind == unix.RTM_NEWADDR:
			v.address(addressKey(a))
		case ok:
			v.dropAddress(addressKey(a))
		}
		return sound
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		s.Rules++
		v.invalidateAll()
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP, unix.RTM_NEWNEXTHOPBUCKET, unix.RTM_DELNEXTHOPBUCKET:
		// Routes that use the object change with it, and no message tells of them.
		s.NextHops++
		v.invalidateAll()
		v.mtus.question()
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		s.Settings++
		if m.kind == unix.RTM_NEWNETCONF && settingForwards(m.body) {
			v.invalidateAll()
		}
	}
	return true
}

// link takes in an interface as it is now. The kernel flushes and revives routes
// with it and tells of only some.
func (v *view) link(ifindex uint32, l link) {
	was, had := v.links[ifindex]
	v.links[ifindex] = heard[link]{l, v.round}
	if had && was.is == l {
		return
	}
	v.changed[ifindex] = true
	v.linkRoutes(was.is, l)
}

func (v *view) dropLink(ifindex uint32) {
	was, had := v.links[ifindex]
	if !had {
		return
	}
	delete(v.links, ifindex)
	v.changed[ifindex] = true
	v.linkRoutes(was.is, link{})
}

// linkRoutes invalidates for a changed link, but not for one that is still down,
// nor for a bridge's or a bond's member that stays one: routes leave by the
// master.
func (v *view) linkRoutes(was, is link) {
	if !was.admin && !is.admin {
		return
	}
	if v.member(was) && (v.member(is) && was.master == is.master || is == link{}) {
		return
	}
	v.invalidateAll()
	v.mtus.question() // the kernel tells of no route that goes with its interface
}

// flush ends a batch of messages: what depends on links that have changed is
// settled, once.
func (v *view) flush(now time.Time) {
	if len(v.changed) > 0 {
		v.settleUppers()
		v.settleHops(v.touched)
		clear(v.changed)
	}
	v.settleMTUs(now)
	v.bumps.flush(now)
}

// touched says whether a link that a next hop's way depends on has changed.
func (v *view) touched(h Hop) bool {
	l := v.links[h.Interface].is
	return v.changed[h.Interface] || v.changed[l.master] || v.changed[l.lower] || v.changed[v.links[l.lower].is.master]
}

// member says whether a link is part of what has its routes: a bridge, a bond.
// A VRF's member keeps its own.
func (v *view) member(l link) bool {
	return l.master != 0 && v.links[l.master].is.kind != "vrf"
}

// settleUppers tells the table what has changed in its map of VLANs.
func (v *view) settleUppers() {
	want := map[upperKey]uint32{}
	for i, l := range v.links {
		l := l.is
		if l.vlan != 0 && l.admin && l.lower != 0 && !v.member(l) && v.links[l.lower].is.kind != "vlan" {
			want[upperKey{l.lower, l.vlan}] = i
		}
	}
	for k := range v.uppers {
		if want[k] == 0 {
			delete(v.uppers, k)
			v.table.SetUpper(k.lower, k.vlan, 0)
		}
	}
	for k, i := range want {
		if v.uppers[k] != i {
			v.uppers[k] = i
			v.table.SetUpper(k.lower, k.vlan, i)
		}
	}
}

// address takes in one of this machine's.
func (v *view) address(k addressKey) {
	_, had := v.addresses[k]
	v.addresses[k] = heard[struct{}]{round: v.round}
	if had {
		return // its lifetime, its flags
	}
	if v.own[k.own]++; v.own[k.own] == 1 {
		v.table.SetOwn(k.own, true)
	}
	v.invalidate(netip.PrefixFrom(k.own, k.own.BitLen()))
	v.invalidate(k.link)
}

func (v *view) dropAddress(k addressKey) {
	if _, had := v.addresses[k]; !had {
		return
	}
	delete(v.addresses, k)
	if v.own[k.own]--; v.own[k.own] == 0 {
		delete(v.own, k.own)
		v.table.SetOwn(k.own, false)
	}
	if k.own.Is4() {
		v.invalidateAll() // routes that prefer it as a source go, and no message tells
		v.mtus.question()
		return
	}
	v.invalidate(netip.PrefixFrom(k.own, 128))
	v.invalidate(k.link)
}

// neighbour takes in a neighbour's state, or its end.
func (v *view) neighbour(m neighbourMessage, there bool) {
	e, had := v.neighbours[m.hop]
	n := &e.is
	n.state, e.round = m.state, v.round
	if n.state&valid != 0 {
		n.mac = m.mac
	}
	if there {
		v.settle(m.hop, n)
	} else {
		v.drop(m.hop, n)
	}
	if there && (n.state&valid != 0 && n.mac != [6]byte{} || n.told) {
		v.neighbours[m.hop] = e
	} else if had {
		delete(v.neighbours, m.hop)
	}
}

// settleHops tells the table what has changed of some next hops.
func (v *view) settleHops(which func(Hop) bool) {
	for h, e := range v.neighbours {
		if which(h) {
			v.settle(h, &e.is)
			v.neighbours[h] = e
		}
	}
}

// settle tells the table what has changed of one next hop. One that never was
// alive is not entered; one that is dead keeps its place, so that all that used
// it goes on when it comes back.
func (v *view) settle(h Hop, n *neighbour) {
	way, ok := v.way(h, n)
	switch {
	case !ok:
		v.drop(h, n)
		return
	case n.told && n.way == way, !n.told && !way.Alive:
		return
	}
	if err := v.table.SetHop(h, way); err != nil {
		v.refuse(h, err)
		v.drop(h, n) // the old way is wrong
		return
	}
	if !n.told {
		v.stats.Hops++
	}
	n.told, n.way = true, way
}

func (v *view) drop(h Hop, n *neighbour) {
	if n.told {
		n.told = false
		v.stats.Hops--
		v.table.DropHop(h)
	}
}

func (v *view) refuse(h Hop, err error) {
	v.stats.HopsRefused++
	v.refused = true
	if !v.said {
		v.said = true
		v.log.Warn("a next hop finds no room: what goes there is forwarded by the kernel; said once",
			"interface", h.Interface, "gateway", h.Gateway, "error", err)
	}
}

// retry offers again what found no room.
func (v *view) retry() {
	if v.refused {
		v.refused = false
		v.settleHops(every)
	}
}

func every(Hop) bool { return true }

// way is how to get to a neighbour; ok is false where frames cannot be sent to
// it from here.
func (v *view) way(h Hop, n *neighbour) (w Way, ok bool) {
	e, there := v.links[h.Interface]
	l := e.is
	if !there || !v.sends(l) || l.mac == [6]byte{} || n.mac == [6]byte{} {
		return w, false
	}
	w = Way{Device: h.Interface, Source: l.mac, Destination: n.mac, MTU: uint16(min(l.mtu, 0xffff)), Alive: n.state&valid != 0 && l.up()}
	if l.kind == "vlan" {
		lower, there := v.links[l.lower]
		if l.vlan == 0 || !there || !v.sends(lower.is) || lower.is.kind == "vlan" {
			return w, false
		}
		w.Device, w.VLAN = l.lower, l.vlan
		w.Alive = w.Alive && lower.is.up()
	}
	return w, v.output(w.Device)
}

// sends says whether a link's frames leave by itself, as Ethernet.
func (v *view) sends(l link) bool {
	switch l.kind {
	case "bridge", "bond", "team", "vrf":
		return false
	}
	return l.arphrd == unix.ARPHRD_ETHER && !v.member(l)
}

// begin starts to listen to everything anew; end forgets what was not heard.
func (v *view) begin() { v.round++ }

func (v *view) end() {
	for i, e := range v.links {
		if e.round != v.round {
			v.dropLink(i)
		}
	}
	for k, e := range v.addresses {
		if e.round != v.round {
			v.dropAddress(k)
		}
	}
	for h, e := range v.neighbours {
		if e.round != v.round {
			v.drop(h, &e.is)
			delete(v.neighbours, h)
		}
	}
}
