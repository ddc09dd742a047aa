package guard

import (
	"math"
	"net/netip"

	"github.com/gaissmai/bart"

	"weir/flow"
)

// noGroup is the group of addresses that are not protected; outside that of sources
// which are none of ours.
const (
	noGroup = math.MaxUint16
	outside = noGroup - 1
)

// rates are the sums of one second and of ten: of destinations, of their networks, of
// sources, of hostgroups. Memory is bounded by Policy.Keys; a steady tick allocates
// nothing.
type rates struct {
	of     bart.Table[uint16]
	all    bool // addresses of no other group are of the first
	memo   []memo
	dst    *table
	net    *table
	src    *table
	total  []total
	at     int // in the rings
	last   int64
	took   [windowTicks]int64 // ns of each tick in the window
	all10  int64              // their sum
	sample *sample
	hot    *sample // of destinations near a threshold
	inside func(flow.Addr) uint16
	from   func(flow.Addr) uint16
	sends  func(flow.Addr) uint16
	fresh  uint16 // group of the destination at hand

	deltas uint64 // taken since the start
}

// memo remembers the groups of addresses that have no slot.
type memo struct {
	key   flow.Addr
	group uint16
	known bool
}

// total is a hostgroup's.
type total struct {
	cur, sum Counts
	last     Counts
	ring     [windowTicks]Counts
}

func newRates(p *Policy) *rates {
	r := &rates{
		memo: make([]memo, 1<<12), dst: newTable(p.Keys), net: newTable(max(256, p.Keys/4)), src: newTable(p.Keys),
		total: make([]total, len(p.Groups)), sample: newSample(), hot: newSample(), all: len(p.Groups[0].Networks) == 0,
	}
	for i := range p.Groups {
		for _, n := range p.Groups[i].Networks {
			r.of.Insert(n, uint16(i))
		}
	}
	r.inside = r.groupOf
	r.from = func(flow.Addr) uint16 { return r.fresh }
	r.sends = r.sender
	return r
}

// groupOf is the hostgroup of an address, noGroup if it has none.
func (r *rates) groupOf(a flow.Addr) uint16 {
	if r.all && r.of.Size() == 0 {
		return 0
	}
	m := &r.memo[r.dst.hash(&a)>>20%uint64(len(r.memo))]
	if m.known && m.key == a {
		return m.group
	}
	g, ok := r.of.Lookup(a.Netip())
	switch {
	case ok:
	case r.all:
		g = 0
	default:
		g = noGroup
	}
	*m = memo{a, g, true}
	return g
}

// sender is the hostgroup of a source, outside if it is none of ours. Where every
// address is protected, no source is ours more than others.
func (r *rates) sender(a flow.Addr) uint16 {
	if r.all {
		return outside
	}
	if g := r.groupOf(a); g != noGroup {
		return g
	}
	return outside
}

// add takes one delta.
func (r *rates) add(d *Delta) {
	r.deltas++
	var c Counts
	c.set(d)
	if d.Aggregate {
		r.addAggregate(d, &c)
		return
	}
	slot := r.dst.add(&d.Key.Dst, &c, r.inside)
	group := uint16(noGroup)
	if slot >= 0 {
		group = r.dst.group[slot]
	} else {
		group = r.groupOf(d.Key.Dst)
	}
	src := mask6(d.Key.Src)
	if group != noGroup {
		r.total[group].cur.add(&c)
		n := network(d.Key.Dst)
		r.fresh = group
		r.net.add(&n, &c, r.from)
	} else if r.groupOf(d.Key.Src) == noGroup {
		return // neither end is ours
	}
	if src != d.Key.Src && r.sender(d.Key.Src) != outside {
		src = d.Key.Src // what ours send is told by address
	}
	r.src.add(&src, &c, r.sends)
	r.sample.add(d)
	if slot >= 0 && r.dst.hot[slot] {
		r.hot.add(d)
	}
}

// addAggregate counts what is of no host: in its network, and in that one's hostgroup.
func (r *rates) addAggregate(d *Delta, c *Counts) {
	if d.Key.Dst == (flow.Addr{}) {
		return
	}
	if group := r.groupOf(d.Key.Dst); group != noGroup {
		r.total[group].cur.add(c)
		n := network(d.Key.Dst)
		r.fresh = group
		r.net.add(&n, c, r.from)
	}
}

// refused counts packets of new flows that a rule dropped, which are in aggregates: to the
// host that it protects.
func (r *rates) refused(m *Match, v Volume) {
	if !m.New || !m.Dst.IsSingleIP() || v.Packets == 0 {
		return
	}
	d := Delta{Packets: v.Packets, Bytes: v.Bytes, DroppedPackets: v.Packets, DroppedBytes: v.Bytes, Flows: uint32(min(v.Packets, 1<<31))}
	d.Key.Dst, d.Key.Proto = flow.AddrFrom(m.Dst.Addr()), m.Proto
	if m.Proto == flow.ProtoTCP {
		d.TCPFlags = flow.SYN
	}
	var c Counts
	c.set(&d)
	r.dst.add(&d.Key.Dst, &c, r.inside)
	// The aggregates are of the network's hostgroup, which need not be the host's.
	own, other := r.groupOf(d.Key.Dst), r.groupOf(network(d.Key.Dst))
	if own == other || own == noGroup {
		return
	}
	r.total[own].cur.add(&c)
	if other != noGroup {
		r.total[other].cur.less(&c)
	}
}

// length closes the tick's length; the first tick has none.
func (r *rates) length(now int64) int64 {
	took := int64(1e9)
	if r.last != 0 && now > r.last {
		took = now - r.last
	}
	r.last = now
	r.all10 += took - r.took[r.at]
	r.took[r.at] = took
	return took
}

// window is the length of the longer window: never less than ten seconds, lest a young
// guard takes one second for ten.
func (r *rates) window() int64 { return max(r.all10, windowTicks*1e9) }

func (r *rates) tickTotals() {
	for i := range r.total {
		t := &r.total[i]
		t.sum.add(&t.cur)
		t.sum.sub(&t.ring[r.at])
		t.ring[r.at] = t.cur
		t.last, t.cur = t.cur, Counts{}
	}
}

// sourceOf is what a key of the sources stands for.
func (r *rates) sourceOf(key flow.Addr, group uint16) netip.Prefix {
	if group == outside {
		return sourcePrefix(key)
	}
	return hostPrefix(key)
}
