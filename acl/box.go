package acl

import (
	"encoding/binary"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"

	"weir/flow"
)

// Sets of packets, for Check: what a rule matches is a product of sets, one for
// each thing it may ask for. A shape is such a product; a box one of which all
// addresses are one cube and all numbers one range. Taking a shape from a box
// leaves boxes.
//
// Later fragments are looked at apart from the other packets, as rules mean
// something else for them: see shapeOf.

// octets is a set of them.
type octets [4]uint64

var allOctets = octets{math.MaxUint64, math.MaxUint64, math.MaxUint64, math.MaxUint64}

func (s *octets) put(v uint8)      { s[v>>6] |= 1 << (v & 63) }
func (s *octets) has(v uint8) bool { return s[v>>6]>>(v&63)&1 != 0 }
func (s *octets) empty() bool      { return *s == octets{} }

func (s octets) and(t octets) octets {
	for i := range s {
		s[i] &= t[i]
	}
	return s
}

func (s octets) minus(t octets) octets {
	for i := range s {
		s[i] &^= t[i]
	}
	return s
}

// some is one of them.
func (s *octets) some(rng *rand.Rand) uint8 {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	n = rng.IntN(n)
	for v := 0; ; v++ {
		if s.has(uint8(v)) {
			if n == 0 {
				return uint8(v)
			}
			n--
		}
	}
}

func setOf(has func(v uint8) bool) (s octets) {
	for v := range 256 {
		if has(uint8(v)) {
			s.put(uint8(v))
		}
	}
	return s
}

// span is the numbers from and to, both included.
type span struct{ from, to uint32 }

// spans of ranges, in order and without overlap.
func spansOf(ranges []Range) []span {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b Range) int { return int(a.From) - int(b.From) })
	var all []span
	for _, r := range sorted {
		if n := len(all); n > 0 && uint32(r.From) <= all[n-1].to+1 {
			all[n-1].to = max(all[n-1].to, uint32(r.To))
		} else {
			all = append(all, span{uint32(r.From), uint32(r.To)})
		}
	}
	return all
}

func (s span) and(t span) (span, bool) {
	s.from, s.to = max(s.from, t.from), min(s.to, t.to)
	return s, s.from <= s.to
}

func (s span) meets(all []span) bool {
	return slices.ContainsFunc(all, func(t span) bool { return s.from <= t.to && t.from <= s.to })
}

// cube is a Net as numbers.
type cube struct{ addr, care [2]uint64 }

func cubeOf(n Net) cube {
	return cube{halves(n.Addr), halves(n.Care)}
}

func halves(a flow.Addr) [2]uint64 {
	return [2]uint64{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])}
}

func (c *cube) meets(d *cube) bool {
	return (c.addr[0]^d.addr[0])&c.care[0]&d.care[0]|(c.addr[1]^d.addr[1])&c.care[1]&d.care[1] == 0
}

func (c *cube) has(a [2]uint64) bool {
	return a[0]&c.care[0] == c.addr[0] && a[1]&c.care[1] == c.addr[1]
}

// within says whether d has all of c.
func (c *cube) within(d *cube) bool {
	return d.care[0]&^c.care[0] == 0 && d.care[1]&^c.care[1] == 0 && d.has(c.addr)
}

// and is what c and d have in common, if they meet.
func (c cube) and(d *cube) cube {
	for i := range 2 {
		c.addr[i] |= d.addr[i]
		c.care[i] |= d.care[i]
	}
	return c
}

// minus appends what is left of c without d, which it meets.
func (c cube) minus(d *cube, left []cube) []cube {
	for i := range 2 {
		for free := d.care[i] &^ c.care[i]; free != 0; {
			bit := uint64(1) << (63 - bits.LeadingZeros64(free))
			free &^= bit
			c.care[i] |= bit
			other := c
			other.addr[i] |= ^d.addr[i] & bit
			left = append(left, other)
			c.addr[i] |= d.addr[i] & bit
		}
	}
	return left
}

// cubes are those of the addresses of a rule. Rules that name one group share
// one, which remembers its answer.
type cubes struct {
	all   []cube
	asked [2]int // of which witness has was asked last, of its source and destination
	said  [2]bool
}

// has says whether the address of a witness is in one of them.
func (c *cubes) has(w *witness, side int) bool {
	if len(c.all) == 1 {
		return c.all[0].has(w.addr[side])
	}
	if c.asked[side] != w.number {
		c.asked[side] = w.number
		c.said[side] = slices.ContainsFunc(c.all, func(d cube) bool { return d.has(w.addr[side]) })
	}
	return c.said[side]
}

// shape is what a rule matches.
type shape struct {
	rule                  *Rule
	proto, tos, ttl, flag octets
	sport, dport, length  []span
	addr                  [2]*cubes // source, destination
}

// witness is a packet.
type witness struct {
	number               int // of the packet, from 1
	addr                 [2][2]uint64
	sport, dport, length uint32
	proto, tos, ttl, tcp uint8
}

// shapes makes shapes of rules.
type shapes struct {
	family Family
	groups map[string]*cubes
	byName map[string]*Group
}

func (s *shapes) find(name string) *Group { return s.byName[name] }

var anyNet = [...]cube{
	IPv4: {[2]uint64{0, 0xffff << 32}, [2]uint64{math.MaxUint64, math.MaxUint32 << 32}},
	IPv6: {},
}

var (
	anyPort   = []span{{0, math.MaxUint16}}
	anyLength = []span{{0, maxLength}}
)

func (s *shapes) cubes(a *Addrs) *cubes {
	if a.Group != "" {
		if c := s.groups[a.Group]; c != nil {
			return c
		}
	}
	c := &cubes{}
	if a.Any() {
		c.all = []cube{anyNet[s.family]}
	}
	for _, n := range a.Nets {
		c.all = append(c.all, cubeOf(n))
	}
	if a.Group != "" {
		for _, n := range netsOf(s.find, a.Group, s.family) {
			c.all = append(c.all, cubeOf(n))
		}
		s.groups[a.Group] = c
	}
	return c
}

func (s *shapes) ports(a *Ports) []span {
	ranges := a.Ranges
	if a.Group != "" {
		ranges = rangesOf(s.find, a.Group)
	}
	return spansOf(ranges)
}

// of is what r matches: of later fragments, or of the other packets. Nil if it
// matches none.
func (s *shapes) of(r *Rule, later bool) *shape {
	if later && r.Layer4() && r.Action == Deny || !later && r.Fragments {
		return nil
	}
	h := &shape{
		rule: r, proto: allOctets, ttl: allOctets, flag: allOctets, tos: allOctets,
		sport: anyPort, dport: anyPort, length: anyLength, addr: [2]*cubes{s.cubes(&r.Src), s.cubes(&r.Dst)},
	}
	if r.Proto != AnyProto {
		h.proto = octets{}
		h.proto.put(uint8(r.Proto))
	}
	if r.TOS.Mask != 0 {
		h.tos = setOf(r.TOS.Match)
	}
	if len(r.TTL) > 0 {
		h.ttl = setOf(func(v uint8) bool { return within(r.TTL, uint32(v)) })
	}
	if len(r.Lengths) > 0 {
		h.length = spansOf(r.Lengths)
	}
	if !later {
		if !r.Flags.None() {
			h.flag = setOf(r.Flags.Match)
		}
		if !r.SrcPorts.Any() {
			h.sport = s.ports(&r.SrcPorts)
		}
		if !r.DstPorts.Any() {
			h.dport = s.ports(&r.DstPorts)
		}
		if len(r.ICMP) > 0 { // which is where ports would be
			h.dport = spansOf(icmpRanges(r.ICMP))
		}
	}
	if len(h.addr[0].all) == 0 || len(h.addr[1].all) == 0 || len(h.sport) == 0 || len(h.dport) == 0 {
		return nil
	}
	return h
}

// icmpRanges are types and codes as the key has them, in its destination port.
func icmpRanges(types []ICMP) []Range {
	var all []Range
	for _, i := range types {
		from := uint16(i.Type) << 8
		to := from | 0xff
		if i.Code >= 0 {
			from |= uint16(i.Code)
			to = from
		}
		all = append(all, Range{from, to})
	}
	return all
}

// has says whether the rule matches w.
func (h *shape) has(w *witness) bool {
	in := func(all []span, v uint32) bool { return (span{v, v}).meets(all) }
	return h.proto.has(w.proto) && in(h.dport, w.dport) && h.addr[0].has(w, 0) && h.addr[1].has(w, 1) && in(h.sport, w.sport) &&
		h.flag.has(w.tcp) && h.tos.has(w.tos) && h.ttl.has(w.ttl) && in(h.length, w.length)
}

// witness is a packet that the rule matches.
func (h *shape) witness(number int, rng *rand.Rand) *witness {
	of := func(all []span) uint32 {
		s := all[rng.IntN(len(all))]
		switch rng.IntN(4) {
		case 0:
			return s.from
		case 1:
			return s.to
		}
		return s.from + rng.Uint32N(s.to-s.from+1)
	}
	w := &witness{
		number: number, sport: of(h.sport), dport: of(h.dport), length: of(h.length),
		proto: h.proto.some(rng), tos: h.tos.some(rng), ttl: h.ttl.some(rng), tcp: h.flag.some(rng),
	}
	for side, c := range h.addr {
		d := c.all[rng.IntN(len(c.all))]
		for i := range 2 {
			w.addr[side][i] = d.addr[i] | rng.Uint64()&^d.care[i]
		}
	}
	return w
}

// box is packets: the products of one of each.
type box struct {
	proto, tos, ttl, flag octets
	number                [3]span // source port, destination port, length
	addr                  [2]cube
}

// boxes are those that h is made of, nil if they are more than limit.
func (h *shape) boxes(limit int) []box {
	if len(h.sport)*len(h.dport)*len(h.length) > limit || len(h.addr[0].all)*len(h.addr[1].all) > limit {
		return nil
	}
	var all []box
	for _, sport := range h.sport {
		for _, dport := range h.dport {
			for _, length := range h.length {
				for _, src := range h.addr[0].all {
					for _, dst := range h.addr[1].all {
						all = append(all, box{h.proto, h.tos, h.ttl, h.flag, [3]span{sport, dport, length}, [2]cube{src, dst}})
					}
				}
				if len(all) > limit {
					return nil
				}
			}
		}
	}
	return all
}

// meets says whether h has some of b.
func (h *shape) meets(b *box) bool {
	for _, both := range [4]octets{b.proto.and(h.proto), b.tos.and(h.tos), b.ttl.and(h.ttl), b.flag.and(h.flag)} {
		if both.empty() {
			return false
		}
	}
	for side, c := range h.addr {
		if !slices.ContainsFunc(c.all, func(d cube) bool { return d.meets(&b.addr[side]) }) {
			return false
		}
	}
	return b.number[0].meets(h.sport) && b.number[1].meets(h.dport) && b.number[2].meets(h.length)
}

// minus appends what is left of b, which h meets, without h. One part after the
// other: what h does not have in it is left, what it has goes on to the next.
func (b box) minus(h *shape, left []box) []box {
	for _, part := range []struct {
		of *octets
		h  octets
	}{{&b.proto, h.proto}, {&b.tos, h.tos}, {&b.ttl, h.ttl}, {&b.flag, h.flag}} {
		all := *part.of
		if *part.of = all.minus(part.h); !part.of.empty() {
			left = append(left, b)
		}
		*part.of = all.and(part.h)
	}
	inside := []box{b}
	for i, spans := range [3][]span{h.sport, h.dport, h.length} {
		var next []box
		for _, b := range inside {
			rest := b.number[i] // not looked at yet
			done := false
			for _, s := range spans {
				both, ok := rest.and(s)
				if !ok {
					continue
				}
				if rest.from < both.from {
					b.number[i] = span{rest.from, both.from - 1}
					left = append(left, b)
				}
				b.number[i] = both
				next = append(next, b)
				if both.to == rest.to {
					done = true
					break
				}
				rest.from = both.to + 1
			}
			if !done {
				b.number[i] = rest
				left = append(left, b)
			}
		}
		inside = next
	}
	for side, c := range h.addr {
		var next []box
		for _, b := range inside {
			rest := []cube{b.addr[side]}
			for i := range c.all {
				d := &c.all[i]
				var after []cube
				for _, r := range rest {
					if !r.meets(d) {
						after = append(after, r)
						continue
					}
					b.addr[side] = r.and(d)
					next = append(next, b)
					after = r.minus(d, after)
				}
				rest = after
			}
			for _, r := range rest {
				b.addr[side] = r
				left = append(left, b)
			}
		}
		inside = next
	}
	return left
}

// covers says whether h has all that g has, part by part: if so, it does; if
// not, it may still, which is not claimed.
func (h *shape) covers(g *shape) bool {
	for _, s := range [][2]octets{{g.proto, h.proto}, {g.tos, h.tos}, {g.ttl, h.ttl}, {g.flag, h.flag}} {
		if rest := s[0].minus(s[1]); !rest.empty() {
			return false
		}
	}
	for _, s := range [][2][]span{{g.sport, h.sport}, {g.dport, h.dport}, {g.length, h.length}} {
		for _, t := range s[0] {
			if !slices.ContainsFunc(s[1], func(u span) bool { return u.from <= t.from && t.to <= u.to }) {
				return false
			}
		}
	}
	for side := range 2 {
		if g.addr[side] == h.addr[side] {
			continue
		}
		for _, c := range g.addr[side].all {
			if !slices.ContainsFunc(h.addr[side].all, func(d cube) bool { return c.within(&d) }) {
				return false
			}
		}
	}
	return true
}
