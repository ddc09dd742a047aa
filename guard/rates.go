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
	apart  []Delta // of destinations, counted in their networks already: refused

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
		memo:  make([]memo, 1<<12),
		total: make([]total, len(p.Groups)), sample: newSample(), hot: newSample(), all: len(p.Groups[0].Networks) == 0,
	}
	for i := range p.Groups {
		for _, n := range p.Groups[i].Networks {
			r.of.Insert(n, uint16(i))
		}
	}
	r.dst = newTable(p.Keys, r.groupOf, false)
	r.net = newTable(max(256, p.Keys/4), r.groupOf, false)
	r.src = newTable(p.Keys, r.sender, true)
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

// add takes one delta. What is counted of a destination that has a slot is added to its
// network and its group at the tick, by settle.
func (r *rates) add(d *Delta) {
	r.deltas++
	k := kindsOf(d)
	if d.Aggregate {
		r.addAggregate(d, k)
		return
	}
	slot, to := r.dst.sums(&d.Key.Dst, d.Packets, unasked)
	if to != nil {
		to.count(d, k)
		if slot < 0 {
			r.addNetwork(d, k, r.groupOf(d.Key.Dst))
		}
	} else if r.groupOf(d.Key.Src) == noGroup {
		return // neither end is ours
	}
	src := mask6(d.Key.Src)
	if src != d.Key.Src && r.sender(d.Key.Src) != outside {
		src = d.Key.Src // what ours send is told by address
	}
	_, from := r.src.sums(&src, d.Packets, unasked)
	from.count(d, k)
	r.sample.add(d)
	if slot >= 0 && r.dst.hot[slot] {
		r.hot.add(d)
	}
}

// settle adds what was counted of destinations since the last tick to their networks and
// groups.
func (r *rates) settle() {
	t := r.dst
	for s := range t.keys {
		c := &t.cur[s]
		if !t.used[s] || c[Packets] == 0 {
			continue
		}
		group := t.group[s]
		r.total[group].cur.add(c)
		n := network(t.keys[s])
		_, to := r.net.sums(&n, c[Packets], group)
		to.add(c)
	}
	for i := range r.apart {
		d := &r.apart[i]
		if _, to := r.dst.sums(&d.Key.Dst, d.Packets, unasked); to != nil {
			to.count(d, kindsOf(d))
		}
		r.moveTotal(d)
	}
	r.apart = r.apart[:0]
}

// moveTotal gives what is of a host to its hostgroup, which need not be its network's.
func (r *rates) moveTotal(d *Delta) {
	own, other := r.groupOf(d.Key.Dst), r.groupOf(network(d.Key.Dst))
	if own == other || own == noGroup {
		return
	}
	var c Counts
	c.count(d, kindsOf(d))
	r.total[own].cur.add(&c)
	if other != noGroup {
		r.total[other].cur.less(&c)
	}
}

// addAggregate counts what is of no host: in its network, and in that one's hostgroup.
func (r *rates) addAggregate(d *Delta, k kinds) {
	if d.Key.Dst == (flow.Addr{}) {
		return
	}
	if group := r.groupOf(d.Key.Dst); group != noGroup {
		r.addNetwork(d, k, group)
	}
}

// addNetwork counts a delta in its hostgroup and its network alone.
func (r *rates) addNetwork(d *Delta, k kinds, group uint16) {
	r.total[group].cur.count(d, k)
	n := network(d.Key.Dst)
	_, to := r.net.sums(&n, d.Packets, group)
	to.count(d, k)
}

// refused counts packets of new flows that a rule dropped, which are in aggregates: to the
// host that it protects, behind settle, as its network has them.
func (r *rates) refused(m *Match, v Volume) {
	if !m.New || !m.Dst.IsSingleIP() || v.Packets == 0 {
		return
	}
	d := Delta{Packets: v.Packets, Bytes: v.Bytes, DroppedPackets: v.Packets, DroppedBytes: v.Bytes, Flows: uint32(min(v.Packets, 1<<31))}
	d.Key.Dst, d.Key.Proto = flow.AddrFrom(m.Dst.Addr()), m.Proto
	if m.Proto == flow.ProtoTCP {
		d.TCPFlags = flow.SYN
	}
	r.apart = append(r.apart, d)
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
