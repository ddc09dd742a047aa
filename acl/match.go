package acl

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"weir/flow"
)

// Match is a rule's conditions in normal form: nothing refers to anything, each
// field is the set of the values that meet the rule's condition, and a set that
// has all values is no condition.
type Match struct {
	Proto, TOS, Flags, TTL ByteSet
	// Ascending, and with a gap between any two. DstPorts of ICMP are type<<8|code,
	// as in flow.Key; Lengths have 65535 for all that is longer.
	SrcPorts, DstPorts, Lengths []Range
	Src, Dst                    AddrSet
	// First and Later say which packets the rule is for: those that are no later
	// fragments, and those that are. Of a later fragment SrcPorts, DstPorts and
	// Flags are not asked.
	First, Later bool
}

// Never says whether no packet can match.
func (m *Match) Never() bool {
	none := ByteSet{}
	if m.Proto == none || m.TOS == none || m.TTL == none || len(m.Lengths) == 0 || m.Src.empty() || m.Dst.empty() {
		return true
	}
	return !m.Later && (!m.First || m.Flags == none || len(m.SrcPorts) == 0 || len(m.DstPorts) == 0)
}

// Outside says whether the rule has a condition on something that is not in the
// flow key: TCP flags, TTL, length.
func (m *Match) Outside() bool {
	return m.Flags != allBytes || m.TTL != allBytes || !allNumbers(m.Lengths)
}

// ByteSet is a set of octets: bit v&63 of word v>>6.
type ByteSet [4]uint64

var allBytes = ByteSet{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}

// Has says whether v is in the set.
func (s *ByteSet) Has(v uint8) bool { return s[v>>6]>>(v&63)&1 != 0 }

func (s *ByteSet) add(v uint8) { s[v>>6] |= 1 << (v & 63) }

// bytesThat are those that meet a condition.
func bytesThat(meet func(v uint8) bool) (s ByteSet) {
	for v := range 256 {
		if meet(uint8(v)) {
			s.add(uint8(v))
		}
	}
	return s
}

func bytesOf(list ...uint8) (s ByteSet) {
	for _, v := range list {
		s.add(v)
	}
	return s
}

func (s *ByteSet) intersect(o ByteSet) {
	for i := range s {
		s[i] &= o[i]
	}
}

var allRanges = []Range{{0, 0xffff}}

func allNumbers(r []Range) bool { return len(r) == 1 && r[0] == allRanges[0] }

// joined gives ranges in normal form. Those that end before they begin have no
// numbers.
func joined(ranges []Range) []Range {
	out := make([]Range, 0, len(ranges))
	for _, r := range ranges {
		if r.From <= r.To {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Range) int { return cmp.Compare(a.From, b.From) })
	n := 0
	for _, r := range out {
		if n > 0 && int(r.From) <= int(out[n-1].To)+1 {
			out[n-1].To = max(out[n-1].To, r.To)
			continue
		}
		out[n] = r
		n++
	}
	return out[:n]
}

// prefix is the addresses whose first bits are those of word; the rest of word
// is 0. IPv4 is v4-mapped.
type prefix struct {
	word [2]uint64
	bits uint8
}

var anyAddr = [...]prefix{IPv4: {[2]uint64{0, 0xffff << 32}, 96}, IPv6: {}}

func compareAddr(a, b prefix) int {
	return cmp.Or(cmp.Compare(a.word[0], b.word[0]), cmp.Compare(a.word[1], b.word[1]), cmp.Compare(a.bits, b.bits))
}

func ones(n uint8) [2]uint64 {
	if n <= 64 {
		return [2]uint64{^uint64(0) << (64 - n), 0}
	}
	return [2]uint64{^uint64(0), ^uint64(0) << (128 - n)}
}

func (p prefix) covers(o prefix) bool {
	m := ones(p.bits)
	return p.bits <= o.bits && o.word[0]&m[0] == p.word[0] && o.word[1]&m[1] == p.word[1]
}

// parent is the prefix of one bit less, and sibling says whether o is its other
// half.
func (p prefix) parent() prefix {
	p.bits--
	m := ones(p.bits)
	p.word[0] &= m[0]
	p.word[1] &= m[1]
	return p
}

func (p prefix) sibling(o prefix) bool {
	return p.bits == o.bits && p.bits > 0 && p != o && p.parent() == o.parent()
}

// AddrSet is a set of addresses.
type AddrSet struct {
	prefixes []prefix // ascending, none in another, no two that make one
	wild     []Net    // others, that are no prefixes
}

func (s *AddrSet) empty() bool { return len(s.prefixes) == 0 && len(s.wild) == 0 }

func (s *AddrSet) all(f Family) bool { return len(s.prefixes) == 1 && s.prefixes[0] == anyAddr[f] }

// compact makes s smaller without changing what is in it.
func (s *AddrSet) compact() {
	slices.SortFunc(s.prefixes, compareAddr)
	n := 0
	for _, p := range s.prefixes {
		if n > 0 && s.prefixes[n-1].covers(p) {
			continue
		}
		for n > 0 && s.prefixes[n-1].sibling(p) {
			p = p.parent()
			n--
		}
		s.prefixes[n] = p
		n++
	}
	s.prefixes = s.prefixes[:n]
}

func words(a flow.Addr) [2]uint64 {
	return [2]uint64{binary.BigEndian.Uint64(a[:]), binary.BigEndian.Uint64(a[8:])}
}

// leading is how many bits are cared for in front of the first that is not.
func (n *Net) leading() uint8 {
	care := words(n.Care)
	if care[0] != ^uint64(0) {
		return uint8(bits.LeadingZeros64(^care[0]))
	}
	return uint8(64 + bits.LeadingZeros64(^care[1]))
}

// cover is the smallest prefix that has all of n, and exact says whether it has
// nothing else.
func (n *Net) cover() (p prefix, exact bool) {
	p.bits = n.leading()
	m, w := ones(p.bits), words(n.Addr)
	p.word = [2]uint64{w[0] & m[0], w[1] & m[1]}
	return p, words(n.Care) == m
}

// family is IPv4 if n has v4-mapped addresses only.
func (n *Net) family() Family {
	if n.Addr.Is4() && n.leading() >= 96 {
		return IPv4
	}
	return IPv6
}

// What wildcards that are no prefixes may be expanded to.
const (
	maxExpanded      = 256     // prefixes, each
	maxExpandedTotal = 1 << 16 // prefixes, in one set
)

// expand adds n to s as prefixes, if they are not too many.
func (s *AddrSet) expand(n Net) {
	care := words(n.Care)
	last := 128 - bits.TrailingZeros64(care[1])
	if care[1] == 0 {
		last = 64 - bits.TrailingZeros64(care[0])
	}
	free := last - bits.OnesCount64(care[0]) - bits.OnesCount64(care[1])
	if free >= bits.Len(maxExpanded) || len(s.prefixes)+1<<free > maxExpandedTotal {
		s.wild = append(s.wild, n)
		return
	}
	m := ones(uint8(last))
	open := [2]uint64{^care[0] & m[0], ^care[1] & m[1]}
	p := prefix{words(n.Addr), uint8(last)}
	for range 1 << free {
		s.prefixes = append(s.prefixes, p)
		// the next number in the open bits
		lo, carry := bits.Add64(p.word[1]|^open[1], 1, 0)
		hi, _ := bits.Add64(p.word[0]|^open[0], 0, carry)
		p.word[1] = p.word[1]&^open[1] | lo&open[1]
		p.word[0] = p.word[0]&^open[0] | hi&open[0]
	}
}

// normaliser makes normal forms of a policy's rules.
type normaliser struct {
	policy *Policy
	nets   map[netGroup]*AddrSet
	ports  map[string][]Range
}

type netGroup struct {
	name   string
	family Family
}

func newNormaliser(p *Policy) *normaliser {
	return &normaliser{policy: p, nets: map[netGroup]*AddrSet{}, ports: map[string][]Range{}}
}

// members calls fn for a group and all in it, each once.
func (n *normaliser) members(name string, kind GroupKind, fn func(g *Group)) error {
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		g := n.policy.Group(name)
		if g == nil || g.Kind != kind {
			return fmt.Errorf("there is no object group %q of this kind", name)
		}
		fn(g)
		for _, in := range g.Groups {
			if err := visit(in); err != nil {
				return err
			}
		}
		return nil
	}
	return visit(name)
}

func (n *normaliser) addrs(a *Addrs, f Family) (*AddrSet, error) {
	if a.Any() {
		return &AddrSet{prefixes: []prefix{anyAddr[f]}}, nil
	}
	nets := a.Nets
	id := netGroup{a.Group, f}
	if a.Group != "" {
		if s := n.nets[id]; s != nil {
			return s, nil
		}
		nets = nil
		if err := n.members(a.Group, GroupNetwork, func(g *Group) { nets = append(nets, g.Nets...) }); err != nil {
			return nil, err
		}
	}
	s := new(AddrSet)
	for _, net := range nets {
		if net.family() != f {
			continue
		}
		if p, exact := net.cover(); exact {
			s.prefixes = append(s.prefixes, p)
		} else {
			s.expand(net)
		}
	}
	s.compact()
	if a.Group != "" {
		n.nets[id] = s
	}
	return s, nil
}

func (n *normaliser) numbers(p *Ports) ([]Range, error) {
	if p.Any() {
		return allRanges, nil
	}
	if p.Group == "" {
		return joined(p.Ranges), nil
	}
	if r, ok := n.ports[p.Group]; ok {
		return r, nil
	}
	var ranges []Range
	if err := n.members(p.Group, GroupService, func(g *Group) { ranges = append(ranges, g.Ports...) }); err != nil {
		return nil, err
	}
	n.ports[p.Group] = joined(ranges)
	return n.ports[p.Group], nil
}

var (
	protoPorts = bytesOf(flow.ProtoTCP, flow.ProtoUDP, flow.ProtoDCCP, flow.ProtoSCTP, flow.ProtoUDPLite)
	protoICMP  = bytesOf(flow.ProtoICMP, flow.ProtoICMPv6)
	protoTCP   = bytesOf(flow.ProtoTCP)
)

// match gives a rule's normal form. Times are not looked at.
func (n *normaliser) match(r *Rule, f Family) (m Match, err error) {
	m.Proto = allBytes
	if r.Proto != AnyProto {
		m.Proto = bytesOf(uint8(r.Proto))
	}
	src, err := n.addrs(&r.Src, f)
	if err != nil {
		return m, fmt.Errorf("source: %w", err)
	}
	dst, err := n.addrs(&r.Dst, f)
	if err != nil {
		return m, fmt.Errorf("destination: %w", err)
	}
	m.Src, m.Dst = *src, *dst
	if m.SrcPorts, err = n.numbers(&r.SrcPorts); err != nil {
		return m, fmt.Errorf("source ports: %w", err)
	}
	if m.DstPorts, err = n.numbers(&r.DstPorts); err != nil {
		return m, fmt.Errorf("destination ports: %w", err)
	}
	if !r.SrcPorts.Any() || !r.DstPorts.Any() {
		m.Proto.intersect(protoPorts)
	}
	if len(r.ICMP) > 0 {
		m.Proto.intersect(protoICMP)
		m.DstPorts = nil
		for _, i := range r.ICMP {
			from, to := i.Code, i.Code
			if i.Code < 0 {
				from, to = 0, 0xff
			}
			m.DstPorts = append(m.DstPorts, Range{uint16(i.Type)<<8 | uint16(from), uint16(i.Type)<<8 | uint16(to)})
		}
		m.DstPorts = joined(m.DstPorts)
	}
	m.Flags = bytesThat(r.Flags.Match)
	if !r.Flags.None() {
		m.Proto.intersect(protoTCP)
	}
	m.TOS = bytesThat(r.TOS.Match)
	m.TTL, m.Lengths = allBytes, allRanges
	if len(r.TTL) > 0 {
		m.TTL = bytesThat(func(v uint8) bool {
			return slices.ContainsFunc(r.TTL, func(r Range) bool { return r.From <= uint16(v) && uint16(v) <= r.To })
		})
	}
	if len(r.Lengths) > 0 {
		m.Lengths = joined(r.Lengths)
	}
	m.First = !r.Fragments
	m.Later = r.Fragments || r.Action == Permit || !r.Layer4()
	return m, nil
}

// at says whether it is within t at a time, in whose location days begin, and
// when that may change next; the zero time: never.
func (t *TimeRange) at(now time.Time) (within bool, until time.Time) {
	change := func(at time.Time) {
		if at.After(now) && (until.IsZero() || at.Before(until)) {
			until = at
		}
	}
	within = len(t.Periods) == 0
	y, m, d := now.Date()
	for i := range t.Periods {
		p := &t.Periods[i]
		for day := d - 8; day <= d+8; day++ {
			begin := time.Date(y, m, day, 0, p.From, 0, 0, now.Location())
			weekday := time.Date(y, m, day, 12, 0, 0, 0, now.Location()).Weekday()
			if p.Days>>weekday&1 == 0 {
				continue
			}
			days := 0
			if p.Span {
				days = int(p.ToDay-weekday+7) % 7
			}
			if days == 0 && p.To <= p.From {
				days = 1
				if p.Span {
					days = 7
				}
			}
			end := time.Date(y, m, day+days, 0, p.To, 0, 0, now.Location())
			within = within || !now.Before(begin) && now.Before(end)
			change(begin)
			change(end)
		}
	}
	if !t.Start.IsZero() {
		within = within && !now.Before(t.Start)
		change(t.Start)
	}
	if !t.End.IsZero() {
		within = within && now.Before(t.End)
		change(t.End)
	}
	return within, until
}
