package acl

import (
	"fmt"
	"slices"
	"strings"

	"weir/flow"
)

// actions begin a rule. reject is weir's own: a deny that answers.
var actions = []string{"permit", "deny", "reject"}

// refused are words of IOS that weir knows and does not do.
var refused = map[string]string{
	"reflect":                "weir keeps no reflexive lists",
	"evaluate":               "weir keeps no reflexive lists",
	"dynamic":                "weir keeps no dynamic lists",
	"timeout":                "weir keeps no dynamic lists",
	"option":                 "weir does not look at IP options",
	"routing":                "weir does not look at IPv6 extension headers",
	"routing-type":           "weir does not look at IPv6 extension headers",
	"dest-option":            "weir does not look at IPv6 extension headers",
	"dest-option-type":       "weir does not look at IPv6 extension headers",
	"hbh":                    "weir does not look at IPv6 extension headers",
	"mobility":               "weir does not look at IPv6 extension headers",
	"mobility-type":          "weir does not look at IPv6 extension headers",
	"auth":                   "weir does not look at IPv6 extension headers; ahp is the protocol 51",
	"undetermined-transport": "weir does not say what it could not parse",
	"flow-label":             "weir does not look at the flow label",
	"host-query":             "weir does not look at the types of IGMP",
	"host-report":            "weir does not look at the types of IGMP",
	"dvmrp":                  "weir does not look at the types of IGMP",
}

// Parts of a rule that errors point to.
const (
	partProto    = "protocol"
	partSrc      = "source"
	partDst      = "destination"
	partSrcPorts = "source ports"
	partDstPorts = "destination ports"
	partICMP     = "ICMP"
	partFlags    = "flags"
	partFrags    = "fragments"
	partTOS      = "tos"
	partTTL      = "ttl"
	partLength   = "length"
	partTime     = "time-range"
	partSeq      = "sequence"
	partRemark   = "remark"
)

// note remembers where a part of r stands.
func (l *line) note(r *Rule, part string) { l.places.set(r, part, l.peek().at) }

// rule takes a rule from its action on. seq is what `sequence N` at its end
// says, or 0.
func (l *line) rule(f Family, standard bool) (r *Rule, seq uint32) {
	r = &Rule{Proto: AnyProto, Pos: l.peek().at}
	switch l.word(actions...) {
	case "permit":
		r.Action = Permit
	case "reject":
		r.Reject = true
	}
	if standard {
		l.note(r, partSrc)
		r.Src = l.addrs("source", f, standardWords)
		return r, l.options(r, f, []string{"log"})
	}
	l.note(r, partProto)
	protoAt := l.peek()
	group := false
	if keyword(protoAt.text, "object-group") != "" { // the ports of a group, whose protocol is in it
		group = true
		l.next++
		l.note(r, partDstPorts)
		r.DstPorts.Group = l.name("the name of an object-group service")
		l.note(r, partProto)
	} else {
		r.Proto = l.proto(f)
	}
	l.note(r, partSrc)
	r.Src = l.addrs("source", f, extendedWords)
	if !group {
		l.ports(r, partSrcPorts, &r.SrcPorts, false)
	}
	l.note(r, partDst)
	r.Dst = l.addrs("destination", f, extendedWords)
	if !group {
		l.ports(r, partDstPorts, &r.DstPorts, true)
	}
	words := []string{"fragments", "dscp", "precedence", "tos", "tos-octet", "ttl", "length", "log", "log-input", "time-range"}
	if f == IPv6 {
		words = append(words, "sequence")
	}
	if r.Proto == flow.ProtoTCP {
		words = append(words, "established", "match-any", "match-all")
		words = append(words, flagNames.names()[:6]...)
	}
	return r, l.options(r, f, words)
}

// proto takes a protocol's name or number.
func (l *line) proto(f Family) int16 {
	t := l.take()
	tab := protoTables[f]
	n, ok := tab.number(t.text, 255)
	if ok {
		return int16(n)
	}
	if w := keyword(t.text, tab.names()...); w != "" && w != "icmpv6" {
		return int16(tab.byName[w])
	}
	switch {
	case f == IPv4 && strings.EqualFold(t.text, "ipv6"):
		l.fail(t, `found "ipv6"; accepted in an IPv4 list: ip, or 41 for IPv6 in IPv4`)
	case f == IPv6 && strings.EqualFold(t.text, "ip"):
		l.fail(t, `found "ip"; accepted in an IPv6 list: ipv6`)
	default:
		l.refuse(t, "a protocol's number, 0 to 255", append(tab.names(), "object-group")...)
	}
	return 0
}

// ports takes a condition on ports, if one is there. last: behind the
// destination, where object-group cannot be an address.
func (l *line) ports(r *Rule, part string, s *Ports, last bool) {
	t := l.peek()
	group := keyword(t.text, "portgroup") != "" || last && keyword(t.text, "object-group") != ""
	if !group && !l.isOperator() {
		return
	}
	if !hasPorts(r.Proto) {
		l.fail(t, "found %s, but %s has no ports; accepted with ports: tcp, udp, sctp, dccp, udplite", quote(t.text), protoName(r.Proto))
		return
	}
	if group {
		l.next++
		l.note(r, part)
		s.Group = l.name("the name of an object-group service")
		return
	}
	l.note(r, part)
	s.Ranges = l.numbers("a port", portTable(r.Proto), 65535)
}

// protoName is a protocol for messages.
func protoName(proto int16) string {
	if proto == AnyProto {
		return "a rule for all protocols"
	}
	if s, ok := protoTables[IPv4].byN[int(proto)]; ok {
		return s
	}
	return fmt.Sprintf("protocol %d", proto)
}

// options takes what stands behind the addresses, in any order.
func (l *line) options(r *Rule, f Family, words []string) (seq uint32) {
	seen := map[string]bool{}
	isICMP := r.Proto == icmpProto[f]
	for l.more() {
		t := l.peek()
		if isICMP && l.icmp(r, f) {
			continue
		}
		w := keyword(t.text, words...)
		if w == "" {
			l.refuseOption(t, r, f, words)
			return 0
		}
		l.next++
		if seen[w] && w != "ttl" && w != "length" {
			l.fail(t, "%s stands here a second time", w)
			return 0
		}
		seen[w] = true
		switch w {
		case "fragments":
			l.places.set(r, partFrags, t.at)
			r.Fragments = true
		case "dscp", "precedence", "tos":
			l.places.set(r, partTOS, t.at)
			i := slices.IndexFunc(tosFields, func(f tosField) bool { return f.name == w })
			fld := tosFields[i]
			if r.TOS.Mask&fld.mask != 0 {
				l.fail(t, "%s asks for bits of the TOS octet that the rule has asked for already", w)
				return 0
			}
			n := l.named("a number", fld.names, int(fld.mask>>fld.shift))
			r.TOS.Mask |= fld.mask
			r.TOS.Value |= uint8(n << fld.shift)
		case "tos-octet":
			l.places.set(r, partTOS, t.at)
			if r.TOS.Mask != 0 {
				l.fail(t, "tos-octet asks for bits of the TOS octet that the rule has asked for already")
				return 0
			}
			v := l.take()
			tos, ok := parseTOS(v.text)
			if !ok {
				l.refuse(v, "VALUE/MASK, like 0xb8/0xfc, with no bit in VALUE that MASK has not")
			}
			r.TOS = tos
		case "ttl":
			l.places.set(r, partTTL, t.at)
			r.TTL = append(r.TTL, l.numbers("a TTL", noNames, 255)...)
		case "length":
			l.places.set(r, partLength, t.at)
			r.Lengths = append(r.Lengths, l.numbers("a length in octets", noNames, 65535)...)
		case "log", "log-input":
			if r.Log != NoLog {
				l.fail(t, "log and log-input in one rule; accepted: one of them")
			}
			r.Log = LogFlow
			if w == "log-input" {
				r.Log = LogInput
			}
		case "time-range":
			l.note(r, partTime)
			r.Time = l.name("the name of a time-range")
		case "sequence":
			seq = uint32(l.number("a sequence number", 1, maxSeq))
		default:
			l.places.set(r, partFlags, t.at)
			l.flags(t, r, w, seen)
		}
	}
	return seq
}

// refuseOption says what is wrong with a word behind the addresses.
func (l *line) refuseOption(t token, r *Rule, f Family, words []string) {
	s := strings.ToLower(t.text)
	why, known := refused[s]
	switch {
	case known:
		l.fail(t, "found %s: %s", quote(t.text), why)
	case (s == "established" || strings.HasPrefix(s, "match-") || flagNames.byName[s] != 0) && len(words) > 1 && !slices.Contains(words, "established"):
		l.fail(t, "found %s, but %s has no TCP flags; accepted with flags: tcp", quote(t.text), protoName(r.Proto))
	case r.Proto == icmpProto[f]:
		all := append(slices.Clone(words), icmpTables[f].names()...)
		if m := suggest(t.text, all); m != "" {
			l.fail(t, "found %s; accepted: types and codes of ICMP, %s (did you mean %q?)", quote(t.text), strings.Join(words, ", "), m)
			return
		}
		l.refuse(t, "types and codes of ICMP", words...)
	case hasPorts(r.Proto) && r.DstPorts.Any():
		l.refuse(t, "", slices.Concat(operators, words)...)
	default:
		l.refuse(t, "", words...)
	}
}

// icmp takes a type and code, if they are there: a name; a type and perhaps a
// code as numbers; TYPE/CODE or TYPE/any, which alone can be told apart where
// there are several.
func (l *line) icmp(r *Rule, f Family) bool {
	t := l.peek()
	i, ok := parseICMP(t.text, f)
	if !ok {
		return false
	}
	if len(r.ICMP) == 0 {
		l.places.set(r, partICMP, t.at)
	}
	l.next++
	if i.Code < 0 && !strings.Contains(t.text, "/") {
		if c, ok := decimal(l.peek().text, 255); ok {
			l.next++
			i.Code = int16(c)
		}
	}
	r.ICMP = append(r.ICMP, i)
	return true
}

// parseICMP reads a name, TYPE, TYPE/CODE or TYPE/any.
func parseICMP(s string, f Family) (ICMP, bool) {
	s = strings.ToLower(s)
	if n, ok := icmpTables[f].byName[s]; ok {
		return icmpOf(n), true
	}
	typ, code, both := strings.Cut(s, "/")
	t, ok := decimal(typ, 255)
	if !ok {
		return ICMP{}, false
	}
	if !both || code == "any" {
		return ICMP{uint8(t), -1}, true
	}
	c, ok := decimal(code, 255)
	return ICMP{uint8(t), int16(c)}, ok
}

// parseTOS reads VALUE/MASK.
func parseTOS(s string) (TOS, bool) {
	value, mask, ok := strings.Cut(s, "/")
	v, ok1 := octet(value)
	m, ok2 := octet(mask)
	return TOS{m, v}, ok && ok1 && ok2 && m != 0 && v&^m == 0
}

// octet reads a number from 0 to 255, also as 0x….
func octet(s string) (uint8, bool) {
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		var n uint8
		for i := range len(hex) {
			d := strings.IndexByte("0123456789abcdef", hex[i])
			if d < 0 || i > 1 {
				return 0, false
			}
			n = n<<4 | uint8(d)
		}
		return n, hex != ""
	}
	n, ok := decimal(s, 255)
	return uint8(n), ok
}

// flags takes what is behind established, match-any or match-all, or the words
// for flags that are set, of which one is enough (as it was in IOS before
// there was match-any).
func (l *line) flags(t token, r *Rule, w string, seen map[string]bool) {
	words := 0
	for _, s := range append(flagNames.names(), "established", "match-any", "match-all") {
		if seen[s] {
			words++
		}
	}
	bit, single := flagNames.byName[w]
	if words > 1 && (!single || seen["established"] || seen["match-any"] || seen["match-all"]) {
		l.fail(t, "found %s behind another condition on flags; accepted: one of established, match-any …, match-all …, or flags alone", quote(t.text))
		return
	}
	switch {
	case single:
		r.Flags.Set |= uint8(bit)
		r.Flags.MatchAny = words > 1
	case w == "established":
		r.Flags = Established
	default:
		r.Flags.MatchAny = w == "match-any"
		for first := true; ; first = false {
			t := l.peek()
			if t.text == "" || t.text[0] != '+' && t.text[0] != '-' {
				if first {
					l.refuse(t, "flags, each with + for set or - for not set, like +syn -ack")
				}
				return
			}
			if fault := r.Flags.add(t.text); fault != "" {
				l.fail(t, "found %s; %s", quote(t.text), fault)
				return
			}
			l.next++
		}
	}
}

// add takes +syn or -syn into f, or says what is wrong with it.
func (f *Flags) add(s string) string {
	bit, ok := flagNames.byName[strings.ToLower(s[1:])]
	if !ok {
		return accepted(s[1:], flagNames.names())
	}
	if (f.Set|f.Clear)&uint8(bit) != 0 {
		return "this flag stands here already"
	}
	if s[0] == '+' {
		f.Set |= uint8(bit)
	} else {
		f.Clear |= uint8(bit)
	}
	return ""
}
