package acl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/flow"
	"weir/packet"
)

// Field is what a rule asks a packet for, in the order in which a rule says it.
type Field uint8

const (
	NoField Field = iota
	FieldProto
	FieldSrc
	FieldSrcPort
	FieldDst
	FieldDstPort
	FieldICMP
	FieldFlags
	FieldFragment
	FieldTOS
	FieldTTL
	FieldLength
	FieldTime
	fields
)

var fieldNames = [fields]string{
	"", "protocol", "source", "source port", "destination", "destination port", "ICMP type", "TCP flags", "fragment", "TOS", "TTL",
	"length", "time",
}

func (f Field) String() string { return fieldNames[min(f, fields-1)] }

// Fields is a set of them.
type Fields uint16

// Has says whether f is one of them.
func (s Fields) Has(f Field) bool { return s>>f&1 != 0 }

// With is s and f.
func (s Fields) With(f Field) Fields { return s | 1<<f }

// Known is what is known of a packet, or of all the packets of a flow. The zero
// value of what it adds to Info is a packet of which everything is known. Where
// the protocol is not known, ports, ICMP type and flags are not either.
type Known struct {
	packet.Info
	Unknown Fields
	// AnyFlags: TCPFlags is the OR of the flags of several packets, each of which
	// has some of them.
	AnyFlags bool
	From, To time.Time // when it, or they, came; To before From is From
}

// Tri is whether a rule matches what is known.
type Tri uint8

const (
	No    Tri = iota
	Maybe     // that depends on what is not known
	Yes
)

// Step is what a rule says of what is known.
type Step struct {
	Rule  *Rule // with number 0: implicit
	Match Tri
	Field Field // No: the first that differs; Maybe: the first that is not known
}

// Answer is what a list says of what is known.
type Answer struct {
	Action Action
	Rule   *Rule // the first that may decide; with number 0: implicit
	// Sure: Rule decides. Agreed: whichever rule decides, the verdict is Action.
	Sure, Agreed bool
	Field        Field // what the rest depends on, if it is not sure
}

// Asker asks a list about packets of which not everything is known. Where all
// is known it says what Evaluate says. What it says to be sure is so for every
// packet that may be meant; of rules that exclude one another in ways it does
// not see, it may think several possible.
type Asker struct {
	family Family
	rules  []asked
}

// asked is a rule with what it refers to.
type asked struct {
	*Rule
	src, dst     []Net // nil: any
	sport, dport []Range
	time         *TimeRange
	none         Fields // of groups that have nothing for the list
}

// Asker makes one for l. p has passed Validate.
func (p *Policy) Asker(l *List) *Asker {
	a := &Asker{family: l.Family}
	for _, r := range append(slices.Clone(l.Rules), Implicit(l.Family)...) {
		x := asked{Rule: r, src: p.NetsOf(&r.Src, l.Family), dst: p.NetsOf(&r.Dst, l.Family), sport: p.RangesOf(&r.SrcPorts), dport: p.RangesOf(&r.DstPorts)}
		if r.Time != "" {
			x.time = p.Time(r.Time)
		}
		for f, empty := range map[Field]bool{
			FieldSrc: !r.Src.Any() && len(x.src) == 0, FieldDst: !r.Dst.Any() && len(x.dst) == 0,
			FieldSrcPort: !r.SrcPorts.Any() && len(x.sport) == 0, FieldDstPort: !r.DstPorts.Any() && len(x.dport) == 0,
		} {
			if empty {
				x.none = x.none.With(f)
			}
		}
		a.rules = append(a.rules, x)
	}
	return a
}

// Looks is the fields that the list's rules ask for.
func (a *Asker) Looks() (s Fields) {
	for i := range a.rules {
		r := &a.rules[i]
		for f, asks := range map[Field]bool{
			FieldProto: r.Proto != AnyProto, FieldSrc: !r.Src.Any(), FieldSrcPort: !r.SrcPorts.Any(), FieldDst: !r.Dst.Any(),
			FieldDstPort: !r.DstPorts.Any(), FieldICMP: len(r.ICMP) > 0, FieldFlags: !r.Flags.None(), FieldFragment: r.Fragments || r.Layer4(),
			FieldTOS: r.TOS.Mask != 0, FieldTTL: len(r.TTL) > 0, FieldLength: len(r.Lengths) > 0, FieldTime: r.Time != "",
		} {
			if asks {
				s = s.With(f)
			}
		}
	}
	return s
}

// Steps are the rules up to the first that matches for sure, the implicit ones
// among them.
func (a *Asker) Steps(k *Known) []Step {
	var all []Step
	for i := range a.rules {
		m, f := a.rules[i].match(k)
		all = append(all, Step{a.rules[i].Rule, m, f})
		if m == Yes {
			break
		}
	}
	return all
}

// Ask is what the list says.
func (a *Asker) Ask(k *Known) (found Answer) {
	for i := range a.rules {
		r := &a.rules[i]
		m, f := r.match(k)
		switch {
		case m == No:
			continue
		case found.Rule == nil:
			found = Answer{Action: r.Action, Rule: r.Rule, Sure: m == Yes, Agreed: true, Field: f}
		default:
			found.Agreed = found.Action == r.Action
		}
		if m == Yes || !found.Agreed {
			break
		}
	}
	return found
}

// match says whether r matches, and what it fails on or depends on.
func (r *asked) match(k *Known) (Tri, Field) {
	if !k.Unknown.Has(FieldFragment) {
		return r.whole(k, k.Key.VLAN&flow.KeyFragment != 0)
	}
	m, f := r.whole(k, false)
	if n, _ := r.whole(k, true); n != m {
		return Maybe, FieldFragment
	}
	return m, f
}

// whole is match of a packet that is, or is not, a later fragment.
func (r *asked) whole(k *Known, later bool) (Tri, Field) {
	open := NoField
	for f := FieldProto; f < fields; f++ {
		switch r.field(f, k, later) {
		case No:
			return No, f
		case Maybe:
			if open == NoField {
				open = f
			}
		}
	}
	if open != NoField {
		return Maybe, open
	}
	return Yes, NoField
}

// field says whether one field is as r asks.
func (r *asked) field(f Field, k *Known, later bool) Tri {
	if later && f >= FieldSrcPort && f <= FieldFlags && f != FieldDst {
		return Yes // FieldFragment has the rest
	}
	if r.none.Has(f) {
		return No
	}
	asks, is := false, false
	switch f {
	case FieldProto:
		asks, is = r.Proto != AnyProto, r.Proto == int16(k.Key.Proto)
	case FieldSrc:
		asks, is = len(r.src) > 0, contains(r.src, k.Key.Src)
	case FieldSrcPort:
		asks, is = len(r.sport) > 0, within(r.sport, uint32(k.Key.SrcPort))
	case FieldDst:
		asks, is = len(r.dst) > 0, contains(r.dst, k.Key.Dst)
	case FieldDstPort:
		asks, is = len(r.dport) > 0, within(r.dport, uint32(k.Key.DstPort))
	case FieldICMP:
		asks = len(r.ICMP) > 0
		is = slices.ContainsFunc(r.ICMP, func(i ICMP) bool {
			return uint16(i.Type) == k.Key.DstPort>>8 && (i.Code < 0 || uint16(i.Code) == k.Key.DstPort&0xff)
		})
	case FieldFlags:
		if asks = !r.Flags.None(); asks && k.AnyFlags {
			return r.Flags.some(k.TCPFlags)
		}
		is = r.Flags.Match(k.TCPFlags)
	case FieldFragment:
		if later {
			// The implicit permits are of whole packets.
			asks, is = true, r.Fragments || !r.Layer4() || r.Action == Permit && r.Seq > 0
		} else {
			asks, is = r.Fragments, false
		}
		return tri(!asks || is)
	case FieldTOS:
		asks, is = r.TOS.Mask != 0, r.TOS.Match(k.Key.TOS)
	case FieldTTL:
		asks, is = len(r.TTL) > 0, within(r.TTL, uint32(k.TTL))
	case FieldLength:
		asks, is = len(r.Lengths) > 0, within(r.Lengths, min(k.Length, maxLength))
	case FieldTime:
		if r.time == nil {
			return tri(r.Time == "")
		}
		if !k.Unknown.Has(FieldTime) {
			return r.time.during(k.From, k.To)
		}
		asks = true
	}
	switch {
	case !asks:
		return Yes
	case k.Unknown.Has(f):
		return Maybe
	}
	return tri(is)
}

func tri(b bool) Tri {
	if b {
		return Yes
	}
	return No
}

func contains(nets []Net, a flow.Addr) bool {
	for i := range nets {
		if nets[i].Contains(a) {
			return true
		}
	}
	return false
}

// some says whether all, none or some of the octets that have no other bits
// than v meet the condition.
func (f Flags) some(v uint8) Tri {
	first := f.Match(v)
	for part := v; part != 0; {
		part = (part - 1) & v
		if f.Match(part) != first {
			return Maybe
		}
	}
	return tri(first)
}

// during says whether t is active all the time, or at no time, from one moment
// to the other. Of more than a week with periods nothing is known.
func (t *TimeRange) during(from, to time.Time) Tri {
	first := t.Active(from)
	if !to.After(from) {
		return tri(first)
	}
	if t.Active(to) != first {
		return Maybe
	}
	// What begins and ends in between is noticed at the minutes, on which all
	// that recurs begins.
	switch {
	case len(t.Periods) == 0:
		if !first && t.Start.After(from) && !t.End.IsZero() && t.End.Before(to) {
			return Maybe
		}
	case to.Sub(from) > weekMinutes*time.Minute:
		return Maybe
	default:
		for at := from.Truncate(time.Minute).Add(time.Minute); at.Before(to); at = at.Add(time.Minute) {
			if t.Active(at) != first {
				return Maybe
			}
		}
	}
	return tri(first)
}

// Why says what a packet has in a field and what r, of a list of family f, asks
// for there, in Cisco's words: "22", "eq www 443". What is not known is "not
// known".
func (k *Known) Why(r *Rule, family Family, f Field) (found, wanted string) {
	key := &k.Key
	switch f {
	case FieldProto:
		found, wanted = protoTables[family].text(int(key.Proto)), protoTables[family].text(int(r.Proto))
	case FieldSrc:
		found, wanted = key.Src.String(), addrsText(&r.Src, "")
	case FieldDst:
		found, wanted = key.Dst.String(), addrsText(&r.Dst, "")
	case FieldSrcPort:
		found, wanted = k.portText(key.SrcPort), r.portsText(&r.SrcPorts)
	case FieldDstPort:
		found, wanted = k.portText(key.DstPort), r.portsText(&r.DstPorts)
	case FieldICMP:
		found = k.ICMPText(family)
		var all []string
		for _, i := range r.ICMP {
			all = append(all, i.text(family, len(r.ICMP) == 1))
		}
		wanted = strings.Join(all, " ")
	case FieldFlags:
		found, wanted = FlagsText(k.TCPFlags), r.Flags.String()
	case FieldFragment:
		found, wanted = "none, or the first", "fragments"
		if key.VLAN&flow.KeyFragment != 0 {
			found, wanted = "a later one", "what only whole packets and first fragments have"
		}
	case FieldTOS:
		found, wanted = fmt.Sprintf("0x%02x", key.TOS), r.TOS.String()
		if r.TOS.Mask == dscpMask {
			found = "dscp " + dscpNames.text(int(key.TOS>>2))
		}
	case FieldTTL:
		found, wanted = strconv.Itoa(int(k.TTL)), strings.Join(setTexts(r.TTL, 255), " or ")
	case FieldLength:
		found, wanted = strconv.FormatUint(uint64(k.Length), 10), strings.Join(setTexts(r.Lengths, 65535), " or ")
	case FieldTime:
		found, wanted = k.From.Format("Mon 2006-01-02 15:04:05"), "time-range "+r.Time
	}
	if k.Unknown.Has(f) {
		found = "not known"
	}
	return found, wanted
}

const dscpMask = 0xfc

// portText is a port, and its name where it has one.
func (k *Known) portText(port uint16) string {
	s := strconv.Itoa(int(port))
	if name := portTable(int16(k.Key.Proto)).text(int(port)); name != s {
		s += " (" + name + ")"
	}
	return s
}

func (r *Rule) portsText(s *Ports) string {
	if s.Group != "" {
		return "portgroup " + s.Group
	}
	tab := portTable(r.Proto)
	if t := rangesText(s.Ranges, 65535, tab); t != "" {
		return t
	}
	return braces(s.Ranges, func(r Range) string { return rangeText(r, 65535, tab) })
}

// ICMPText is the ICMP type and code in a list's words: the name that has both,
// else the type's and the code.
func (k *Known) ICMPText(f Family) string {
	typ, code := k.Key.DstPort>>8, int16(k.Key.DstPort&0xff)
	for _, i := range []ICMP{{uint8(typ), code}, {uint8(typ), all}} {
		if s, ok := icmpTables[f].byN[i.index()]; ok && (i.Code >= 0 || code == 0) {
			return s
		}
	}
	return fmt.Sprintf("%d/%d", typ, code)
}

// ProtoText is a protocol in a list's words.
func ProtoText(f Family, proto uint8) string { return protoTables[f].text(int(proto)) }

// FlagsText is TCP flags in a list's words: "syn ack", "none".
func FlagsText(v uint8) string {
	var all []string
	for _, e := range flagNames.entries {
		if v&uint8(e.n) != 0 {
			all = append(all, e.name)
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, " ")
}

// ParseProto reads a protocol's name, as in a rule, or number.
func ParseProto(f Family, s string) (uint8, error) {
	if n, ok := protoTables[f].number(s, 255); ok && n != AnyProto {
		return uint8(n), nil
	}
	return 0, fmt.Errorf("protocol %q: %s", s, accepted(s, append(slices.DeleteFunc(protoTables[f].names(), func(s string) bool { return s == "ip" || s == "ipv6" }), "a number, 0 to 255")))
}

// ParsePort reads a port of a protocol, as in a rule.
func ParsePort(proto uint8, s string) (uint16, error) {
	if !hasPorts(int16(proto)) {
		return 0, fmt.Errorf("port %q: %s has no ports; tcp, udp, sctp, dccp and udplite have", s, protoName(int16(proto)))
	}
	tab := portTable(int16(proto))
	if n, ok := tab.number(s, 65535); ok {
		return uint16(n), nil
	}
	hint := ""
	if m := suggest(s, tab.names()); m != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", m)
	}
	return 0, fmt.Errorf("port %q: accepted: a number, 0 to 65535, or a name that IOS has for a port of %s%s", s, protoName(int16(proto)), hint)
}

// ParseICMP reads an ICMP type and code: a name, as in a rule, TYPE or
// TYPE/CODE. A name or type without a code has code 0.
func ParseICMP(f Family, s string) (typ, code uint8, err error) {
	if n, ok := icmpTables[f].byName[strings.ToLower(s)]; ok {
		i := icmpOf(n)
		return i.Type, uint8(max(i.Code, 0)), nil
	}
	first, second, both := strings.Cut(s, "/")
	t, ok := decimal(first, 255)
	c, ok2 := 0, true
	if both {
		c, ok2 = decimal(second, 255)
	}
	if !ok || !ok2 {
		hint := ""
		if m := suggest(s, icmpTables[f].names()); m != "" {
			hint = fmt.Sprintf(" (did you mean %q?)", m)
		}
		return 0, 0, fmt.Errorf("ICMP %q: accepted: TYPE, TYPE/CODE, or a name of IOS such as echo or packet-too-big%s", s, hint)
	}
	return uint8(t), uint8(c), nil
}

// ParseFlags reads TCP flags, separated by commas or blanks; "none" is no flag.
func ParseFlags(s string) (v uint8, err error) {
	for _, w := range strings.FieldsFunc(strings.ToLower(s), func(c rune) bool { return c == ',' || c == ' ' || c == '+' }) {
		n, ok := flagNames.byName[w]
		if !ok && w != "none" {
			return 0, fmt.Errorf("flag %q: %s", w, accepted(w, append(flagNames.names(), "none")))
		}
		v |= uint8(n)
	}
	return v, nil
}

// ParseDSCP reads a DSCP, as in a rule, as the octet that it is in.
func ParseDSCP(s string) (uint8, error) {
	n, ok := dscpNames.number(s, 63)
	if !ok {
		return 0, fmt.Errorf("DSCP %q: %s", s, accepted(s, append(dscpNames.names(), "a number, 0 to 63")))
	}
	return uint8(n << 2), nil
}

// Head is the line that begins l.
func (l *List) Head() string { return l.head() }

// Text is r with its number, as `show access-lists` prints it; an implicit rule
// says so.
func (r *Rule) Text(f Family) string {
	if r.Seq == 0 {
		return "implicit " + r.Cisco(f)
	}
	return r.name(f)
}
