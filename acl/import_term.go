package acl

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"

	"weir/flow"
)

// Foreign rules as sets of packets. What a rule of nftables or iptables asks for
// becomes terms: a term is a product of sets, one for each thing that can be
// asked, and a rule is the union of its terms. Products of products are exact,
// so chains that jump into one another become one list by and alone.

// Bits of term.frag.
const (
	fragNone  = 1 << iota // packets that are no later fragments
	fragLater             // later fragments
	fragBoth  = fragNone | fragLater
)

// Bits of term.state, connection tracking's.
const (
	stateNew = 1 << iota
	stateEstablished
	stateRelated
	stateInvalid
	stateUntracked
	stateAny = stateUntracked<<1 - 1
)

// term is packets: those that are in each of its sets.
type term struct {
	families uint8 // 1<<IPv4 | 1<<IPv6
	proto    octets
	src, dst addrSet
	// Of 16-bit numbers; nil: all. icmp is type*256+code.
	sport, dport, icmp, length []Range
	flags, tos, ttl            octets
	frag                       uint8
	iif, oif                   []ifaces // all of these hold
	state                      uint8
	log                        Log

	asked []*foreign // the rules whose state it is, for those to be told about
	notes []note
}

// note is what differs, and the rule that it differs from.
type note struct {
	of         *foreign
	why        string
	more, less bool
}

// addrSet is addresses: all, those of a group, or those in nets.
type addrSet struct {
	any   bool
	group string
	nets  []Net
}

// ifaces is interfaces by name, or all others. A name that ends with * is all
// those that begin so.
type ifaces struct {
	names []string
	not   bool
}

func anyTerm() term {
	return term{
		families: 1<<IPv4 | 1<<IPv6, proto: allOctets, src: addrSet{any: true}, dst: addrSet{any: true},
		flags: allOctets, tos: allOctets, ttl: allOctets, frag: fragBoth, state: stateAny,
	}
}

// maxParts is how many networks or ranges a set may come to when sets are cut
// with one another or turned inside out.
const maxParts = 1 << 16

var (
	errParts = errors.New("its sets cut one another into more than 65536 parts")
	errWork  = errors.New("the rule set is too large to be laid out in lists")
)

// budget bounds what an import may do.
type budget int

// spend says whether n more steps may be done.
func (b *budget) spend(n int) error {
	if *b -= budget(n + 1); *b < 0 {
		return errWork
	}
	return nil
}

// and is the packets that are in both.
func (b *budget) and(s, t *term, group func(name string) []Net) (u term, err error) {
	if (s.all(IPv4) || s.all(IPv6)) && s.log == NoLog && s.asked == nil && s.notes == nil && s.iif == nil && s.oif == nil {
		u = *t // of all packets of some families
		u.families &= s.families
		return u, b.spend(1)
	}
	u = term{
		families: s.families & t.families, proto: s.proto.and(t.proto), flags: s.flags.and(t.flags), tos: s.tos.and(t.tos), ttl: s.ttl.and(t.ttl),
		frag: s.frag & t.frag, state: s.state & t.state, log: max(s.log, t.log),
		iif: slices.Concat(s.iif, t.iif), oif: slices.Concat(s.oif, t.oif), asked: slices.Concat(s.asked, t.asked), notes: slices.Concat(s.notes, t.notes),
	}
	var errs [6]error
	u.src, errs[0] = b.andAddrs(&s.src, &t.src, group)
	u.dst, errs[1] = b.andAddrs(&s.dst, &t.dst, group)
	u.sport, errs[2] = b.andRanges(s.sport, t.sport)
	u.dport, errs[3] = b.andRanges(s.dport, t.dport)
	u.icmp, errs[4] = b.andRanges(s.icmp, t.icmp)
	u.length, errs[5] = b.andRanges(s.length, t.length)
	return u, errors.Join(errs[:]...)
}

func (b *budget) andAddrs(s, t *addrSet, group func(name string) []Net) (u addrSet, err error) {
	switch {
	case s.any:
		return *t, b.spend(0)
	case t.any, s.group != "" && s.group == t.group:
		return *s, b.spend(0)
	}
	of := func(a *addrSet) []Net {
		if a.group != "" {
			return group(a.group)
		}
		return a.nets
	}
	left, right := of(s), of(t)
	if err := b.spend(len(left) * len(right)); err != nil {
		return u, err
	}
	for _, m := range left {
		for _, n := range right {
			if both, ok := m.and(&n); ok {
				u.nets = append(u.nets, both)
			}
		}
		if len(u.nets) > maxParts {
			return u, errParts
		}
	}
	return u, nil
}

// and is the addresses that are in both, if there are any.
func (n Net) and(m *Net) (Net, bool) {
	for i := range n.Addr {
		if (n.Addr[i]^m.Addr[i])&n.Care[i]&m.Care[i] != 0 {
			return Net{}, false
		}
		n.Addr[i] |= m.Addr[i]
		n.Care[i] |= m.Care[i]
	}
	return n, true
}

// andRanges is the numbers that are in both; nil is all, what is empty is not
// nil.
func (b *budget) andRanges(s, t []Range) ([]Range, error) {
	switch {
	case s == nil:
		return t, nil
	case t == nil:
		return s, nil
	}
	u := []Range{}
	if err := b.spend(len(s) + len(t)); err != nil {
		return u, err
	}
	for i, j := 0, 0; i < len(s) && j < len(t); {
		r := Range{max(s[i].From, t[j].From), min(s[i].To, t[j].To)}
		if r.From <= r.To {
			u = append(u, r)
		}
		if s[i].To < t[j].To {
			i++
		} else {
			j++
		}
	}
	return u, nil
}

// empty says whether it has no packets, as far as that can be seen.
func (t *term) empty() bool {
	none := func(r []Range) bool { return r != nil && len(r) == 0 }
	return t.families == 0 || t.frag == 0 || t.state == 0 || t.proto.empty() || t.flags.empty() || t.tos.empty() || t.ttl.empty() ||
		t.src.none() || t.dst.none() || none(t.sport) || none(t.dport) || none(t.icmp) || none(t.length)
}

func (a *addrSet) none() bool { return !a.any && a.group == "" && len(a.nets) == 0 }

// all says whether all packets of a family are in it.
func (t *term) all(f Family) bool {
	return t.families>>f&1 != 0 && t.frag == fragBoth && t.state == stateAny && t.proto == allOctets && t.flags == allOctets && t.tos == allOctets &&
		t.ttl == allOctets && t.src.any && t.dst.any && t.sport == nil && t.dport == nil && t.icmp == nil && t.length == nil
}

// layer4 says whether it asks for what later fragments do not have.
func (t *term) layer4() bool {
	return t.sport != nil || t.dport != nil || t.icmp != nil || t.flags != allOctets
}

// octetSet is the set of some octets.
func octetSet(values ...uint8) (s octets) {
	for _, v := range values {
		s.put(v)
	}
	return s
}

// portProtos are the protocols whose ports are in the key.
var portProtos = octetSet(flow.ProtoTCP, flow.ProtoUDP, flow.ProtoUDPLite, flow.ProtoSCTP, flow.ProtoDCCP)

func (s octets) list() []uint8 {
	var all []uint8
	for v := range 256 {
		if s.has(uint8(v)) {
			all = append(all, uint8(v))
		}
	}
	return all
}

func (s octets) ranges() []Range {
	var all []Range
	for v := range uint16(256) {
		switch n := len(all); {
		case !s.has(uint8(v)):
		case n > 0 && all[n-1].To+1 == v:
			all[n-1].To = v
		default:
			all = append(all, Range{v, v})
		}
	}
	return all
}

func setOfRanges(ranges []Range) octets {
	return setOf(func(v uint8) bool { return within(ranges, uint32(v)) })
}

// sortRanges is the same numbers, in order and without overlap.
func sortRanges(ranges []Range) []Range {
	all := []Range{}
	for _, s := range spansOf(ranges) {
		all = append(all, Range{uint16(s.from), uint16(s.to)})
	}
	return all
}

// cubesOf is a set of octets as conditions on their bits: an octet is in the set
// if it has the bits value among those of mask, for one of them.
func cubesOf(s octets) []TOS {
	var all []TOS
	var split func(mask, value uint8, bit int)
	split = func(mask, value uint8, bit int) {
		in := setOf(func(v uint8) bool { return v&mask == value })
		switch part := s.and(in); {
		case part.empty():
		case part == in:
			all = append(all, TOS{mask, value})
		default:
			// A bit that makes no difference here stays out of the condition.
			for b := bit; ; b-- {
				m := uint8(1) << b
				if mirrored(part, m) {
					continue
				}
				split(mask|m, value, b-1)
				split(mask|m, value|m, b-1)
				return
			}
		}
	}
	split(0, 0, 7)
	return all
}

// mirrored says whether the bit m makes no difference for s.
func mirrored(s octets, m uint8) bool {
	for v := range 256 {
		if s.has(uint8(v)) != s.has(uint8(v)^m) {
			return false
		}
	}
	return true
}

// flagsOf is a set of flags octets as conditions, any of which may hold.
func flagsOf(s octets) []Flags {
	if s == allOctets {
		return []Flags{{}}
	}
	// All but those with some bits one way is one condition: as `established` is.
	if rest := cubesOf(allOctets.minus(s)); len(rest) == 1 && rest[0].Mask&(rest[0].Mask-1) != 0 {
		c := rest[0]
		return []Flags{{MatchAny: true, Set: c.Mask &^ c.Value, Clear: c.Value}}
	}
	var all []Flags
	for _, c := range cubesOf(s) {
		all = append(all, Flags{Set: c.Value, Clear: c.Mask &^ c.Value})
	}
	return all
}

// icmpOfRanges is types and codes.
func icmpOfRanges(ranges []Range) []ICMP {
	var all []ICMP
	for _, r := range ranges {
		for v := int(r.From); v <= int(r.To); v++ {
			if v&0xff == 0 && v+0xff <= int(r.To) {
				all = append(all, ICMP{uint8(v >> 8), -1})
				v += 0xff
			} else {
				all = append(all, ICMP{uint8(v >> 8), int16(v & 0xff)})
			}
		}
	}
	return all
}

// Addresses.

// span16 is addresses of one family, both ends included.
type span16 struct{ from, to netip.Addr }

// netSpans is nets in order and without overlap, if they are all prefixes.
func netSpans(nets []Net, f Family) ([]span16, bool) {
	spans := make([]span16, 0, len(nets))
	for i := range nets {
		p, ok := nets[i].Prefix()
		if !ok || nets[i].Family() != f {
			return nil, false
		}
		spans = append(spans, span16{p.Addr(), lastAddr(p)})
	}
	slices.SortFunc(spans, func(a, b span16) int { return a.from.Compare(b.from) })
	merged := spans[:0]
	for _, s := range spans {
		if n := len(merged); n > 0 && (!merged[n-1].to.Less(s.from) || merged[n-1].to.Next() == s.from) {
			if merged[n-1].to.Less(s.to) {
				merged[n-1].to = s.to
			}
			continue
		}
		merged = append(merged, s)
	}
	return merged, true
}

var (
	firstAddr = [...]netip.Addr{IPv4: netip.AddrFrom4([4]byte{}), IPv6: netip.IPv6Unspecified()}
	finalAddr = [...]netip.Addr{IPv4: netip.AddrFrom4([4]byte{255, 255, 255, 255}), IPv6: netip.AddrFrom16([16]byte(bytes.Repeat([]byte{0xff}, 16)))}
)

// inverse is the addresses of a family that are in none of the nets.
func (b *budget) inverse(nets []Net, f Family) ([]Net, error) {
	if err := b.spend(len(nets)); err != nil {
		return nil, err
	}
	left := []Net{}
	if spans, ok := netSpans(nets, f); ok {
		from := firstAddr[f]
		for _, s := range spans {
			if from.Less(s.from) {
				left = append(left, rangeNets(from, s.from.Prev())...)
			}
			if len(left) > maxParts {
				return nil, errParts
			}
			if from = s.to.Next(); !from.IsValid() {
				break
			}
		}
		if from.IsValid() {
			left = append(left, rangeNets(from, finalAddr[f])...)
		}
	} else {
		rest := []cube{anyNet[f]}
		for _, n := range nets {
			var after []cube
			d := cubeOf(n)
			if err := b.spend(len(rest)); err != nil {
				return nil, err
			}
			for _, c := range rest {
				if c.meets(&d) {
					after = c.minus(&d, after)
				} else {
					after = append(after, c)
				}
			}
			if rest = after; len(rest) > maxParts {
				return nil, errParts
			}
		}
		for i := range rest {
			left = append(left, netOf(&rest[i]))
		}
	}
	if len(left) > maxParts {
		return nil, errParts
	}
	return left, mapped(left, f)
}

var errMapped = errors.New("IPv6 addresses within ::ffff:0:0/96 are IPv4's here")

// mapped says if there are addresses that would be taken for IPv4's.
func mapped(nets []Net, f Family) error {
	if slices.ContainsFunc(nets, func(n Net) bool { return n.Family() != f }) {
		return errMapped
	}
	return nil
}

func netOf(c *cube) (n Net) {
	for i := range 16 {
		shift := 56 - 8*(i&7)
		n.Addr[i] = uint8(c.addr[i>>3] >> shift)
		n.Care[i] = uint8(c.care[i>>3] >> shift)
	}
	return n
}

// Interfaces.

// has says whether an interface is among these: by name, by NAME* for all those
// that begin so, or "" for one that no rule names.
func (i *ifaces) has(name string) bool {
	for _, n := range i.names {
		if begin, ok := cutStar(n); n == name && name != "" || ok && len(name) > 0 && len(name) >= len(begin) && name[:len(begin)] == begin {
			return !i.not
		}
	}
	return i.not
}

func cutStar(s string) (begin string, ok bool) {
	if n := len(s) - 1; n >= 0 && s[n] == '*' {
		return s[:n], true
	}
	return s, false
}
