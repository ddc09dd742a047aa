package acl

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"weir/flow"
)

// AppendCisco appends p as IOS would print it, in an order in which it can be
// read: ReadCisco of it is p again, positions aside. What IOS has no words for
// is written with weir's own (docs/access-lists.md).
//
// Networks and ports of a rule that need more than one condition go into a
// group of their own, with a name that begins with ~; reading puts them back.
func AppendCisco(dst []byte, p *Policy) []byte {
	w := ciscoWriter{dst: dst}
	for _, t := range p.Times {
		w.time(t)
	}
	for _, g := range p.Groups {
		w.group(g)
	}
	for _, l := range p.Lists {
		w.list(l)
	}
	for i, b := range p.Bindings {
		if i == 0 || p.Bindings[i-1].Interface != b.Interface {
			w.line("interface ", b.Interface)
		}
		w.line(" ", b.text())
		if i == len(p.Bindings)-1 || p.Bindings[i+1].Interface != b.Interface {
			w.line("!")
		}
	}
	return w.dst
}

// text is b as a line of an interface.
func (b *Binding) text() string {
	verb := [...]string{IPv4: "ip access-group ", IPv6: "ipv6 traffic-filter "}[b.Family&1]
	return verb + b.List + " " + b.Direction.String()
}

// Cisco is r in a list of family f as `show access-lists` prints it, without
// its sequence number and its remarks. Networks that are more than one
// condition, which AppendCisco would put into a group, stand in braces.
func (r *Rule) Cisco(f Family) string { return string(r.append(nil, f, nil)) }

type ciscoWriter struct {
	dst  []byte
	made map[string]bool // names of groups made
}

func (w *ciscoWriter) line(parts ...string) {
	for _, s := range parts {
		w.dst = append(w.dst, s...)
	}
	w.dst = append(w.dst, '\n')
}

func (w *ciscoWriter) time(t *TimeRange) {
	w.line("time-range ", t.Name)
	if !t.Start.IsZero() || !t.End.IsZero() {
		w.line(" absolute", t.absolute())
	}
	for _, p := range t.Periods {
		w.line(" periodic ", p.String())
	}
	w.line("!")
}

// absolute is " start …", " end …" or both.
func (t *TimeRange) absolute() string {
	const layout = "15:04 2 January 2006"
	s := ""
	if !t.Start.IsZero() {
		s = " start " + t.Start.Local().Format(layout)
	}
	if !t.End.IsZero() {
		s += " end " + t.End.Local().Format(layout)
	}
	return s
}

// String is what stands behind `periodic`.
func (p Period) String() string {
	var days []string
	switch p.Days {
	case daily:
		days = []string{"daily"}
	case weekdays:
		days = []string{"weekdays"}
	case weekend:
		days = []string{"weekend"}
	default:
		for i, d := range dayNames {
			if p.Days>>i&1 != 0 {
				days = append(days, d)
			}
		}
	}
	s := strings.Join(days, " ") + " " + clockText(p.From) + " to "
	if p.Span {
		s += p.ToDay.String() + " "
	}
	return s + clockText(p.To)
}

func clockText(minutes int) string {
	return fmt.Sprintf("%d:%02d", minutes/60, minutes%60)
}

func (w *ciscoWriter) group(g *Group) {
	w.line("object-group ", g.kind(), " ", g.Name)
	if g.Remark != "" {
		w.line(" description ", g.Remark)
	}
	for _, n := range g.Nets {
		w.line(" ", n.member())
	}
	for _, r := range g.Ports {
		w.line(" ", rangeText(r, 65535, noNames))
	}
	for _, name := range g.Groups {
		w.line(" group-object ", name)
	}
	w.line("!")
}

// kind is the word for what is in g. IOS has groups for each family.
func (g *Group) kind() string {
	switch {
	case g.Kind == GroupService:
		return "service"
	case len(g.Nets) > 0 && !slices.ContainsFunc(g.Nets, func(n Net) bool { return n.Family() == IPv4 }):
		return "v6-network"
	}
	return "network"
}

// member is n as a line of a group.
func (n *Net) member() string {
	p, ok := n.Prefix()
	switch {
	case !ok:
		return "wildcard " + n.text()
	case p.IsSingleIP():
		return "host " + p.Addr().String()
	case p.Addr().Is4():
		return p.Addr().String() + " " + low4(n.Care).String()
	}
	return p.String()
}

func (w *ciscoWriter) list(l *List) {
	// Groups come before the rules that need them.
	names := map[place]string{}
	for _, r := range l.Rules {
		for _, a := range []struct {
			part string
			*Addrs
		}{{"source", &r.Src}, {"destination", &r.Dst}} {
			if len(a.Nets) > 1 {
				g := Group{Name: w.name(l, r, a.part), Nets: a.Nets}
				names[place{a.Addrs, ""}] = g.Name
				w.group(&g)
			}
		}
		for _, s := range []struct {
			part string
			*Ports
		}{{"source-ports", &r.SrcPorts}, {"destination-ports", &r.DstPorts}} {
			if len(s.Ranges) > 0 && rangesText(s.Ranges, 65535, noNames) == "" {
				g := Group{Name: w.name(l, r, s.part), Kind: GroupService, Ports: s.Ranges}
				names[place{s.Ports, ""}] = g.Name
				w.group(&g)
			}
		}
	}
	w.line(l.head())
	number := " "
	if l.Family == IPv6 {
		number = " sequence "
	}
	for _, r := range l.Rules {
		for _, s := range r.Remarks {
			w.remark(s)
		}
		w.dst = append(strconv.AppendUint(append(w.dst, number...), uint64(r.Seq), 10), ' ')
		if standardList(l) {
			w.dst = r.appendStandard(w.dst)
		} else {
			w.dst = r.append(w.dst, l.Family, names)
		}
		w.line()
	}
	for _, s := range l.Remarks {
		w.remark(s)
	}
	w.line("!")
}

func (w *ciscoWriter) remark(s string) {
	if s == "" {
		w.line(" remark")
	} else {
		w.line(" remark ", s)
	}
}

// head is the line that begins l.
func (l *List) head() string {
	switch {
	case l.Family == IPv6:
		return "ipv6 access-list " + l.Name
	case standardList(l):
		return "ip access-list standard " + l.Name
	}
	return "ip access-list extended " + l.Name
}

// standardList says whether the list has the number of a standard one.
func standardList(l *List) bool {
	n, ok := decimal(l.Name, 1<<30)
	return ok && l.Family == IPv4 && standardNumber(n)
}

// name is one for a group of a rule's own.
func (w *ciscoWriter) name(l *List, r *Rule, part string) string {
	s := string(generated) + l.Name + "-" + strconv.FormatUint(uint64(r.Seq), 10) + "-" + part
	if w.made == nil {
		w.made = map[string]bool{}
	}
	for w.made[s] { // the list of the other family, or one whose name ends so
		s += "'"
	}
	w.made[s] = true
	return s
}

func (r *Rule) verb() string {
	if r.Reject {
		return "reject"
	}
	return r.Action.String()
}

func (r *Rule) appendStandard(dst []byte) []byte {
	dst = append(append(dst, r.verb()...), ' ')
	dst = append(dst, addrsText(&r.Src, "")...)
	if r.Log != NoLog {
		dst = append(dst, " log"...)
	}
	return dst
}

// append appends r from its action on. names are those of the groups made for
// its networks and ports.
func (r *Rule) append(dst []byte, f Family, names map[place]string) []byte {
	word := func(s string) { dst = append(append(dst, ' '), s...) }
	dst = append(dst, r.verb()...)
	word(protoTables[f].text(int(r.Proto)))
	tab := portTable(r.Proto)
	ports := func(s *Ports) {
		switch group := s.Group + names[place{s, ""}]; {
		case group != "":
			word("portgroup " + group)
		case len(s.Ranges) > 0:
			t := rangesText(s.Ranges, 65535, tab)
			if t == "" {
				t = braces(s.Ranges, func(r Range) string { return rangeText(r, 65535, tab) })
			}
			word(t)
		}
	}
	word(addrsText(&r.Src, names[place{&r.Src, ""}]))
	ports(&r.SrcPorts)
	word(addrsText(&r.Dst, names[place{&r.Dst, ""}]))
	ports(&r.DstPorts)
	for _, i := range r.ICMP {
		word(i.text(f, len(r.ICMP) == 1))
	}
	if !r.Flags.None() {
		word(r.Flags.String())
	}
	if r.Fragments {
		word("fragments")
	}
	if r.TOS.Mask != 0 {
		word(r.TOS.String())
	}
	for _, s := range setTexts(r.TTL, 255) {
		word("ttl " + s)
	}
	for _, s := range setTexts(r.Lengths, 65535) {
		word("length " + s)
	}
	if r.Time != "" {
		word("time-range " + r.Time)
	}
	switch r.Log {
	case LogFlow:
		word("log")
	case LogInput:
		word("log-input")
	}
	return dst
}

func braces[T any](all []T, text func(T) string) string {
	parts := make([]string, len(all))
	for i, x := range all {
		parts[i] = text(x)
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

// addrsText is a source or destination; group is the one made for it, if one
// was.
func addrsText(a *Addrs, group string) string {
	switch group = a.Group + group; {
	case group != "":
		return "object-group " + group
	case len(a.Nets) == 0:
		return "any"
	case len(a.Nets) == 1:
		return a.Nets[0].text()
	}
	return braces(a.Nets, func(n Net) string { return n.text() })
}

// text is n in a rule: a host, an IPv6 prefix, or an address and a wildcard.
func (n *Net) text() string {
	p, ok := n.Prefix()
	switch {
	case ok && p.IsSingleIP():
		return "host " + p.Addr().String()
	case ok && p.Addr().Is6():
		return p.String()
	}
	var wild flow.Addr
	for i := range wild {
		wild[i] = ^n.Care[i]
	}
	if n.Family() == IPv4 {
		return n.Addr.Netip().String() + " " + low4(wild).String()
	}
	return netip.AddrFrom16(n.Addr).String() + " " + netip.AddrFrom16(wild).String()
}

// low4 is the last four octets of a, as an IPv4 address.
func low4(a flow.Addr) netip.Addr { return netip.AddrFrom4([4]byte(a[12:])) }

// rangesText is a set of numbers as one condition, or "" if it takes several.
func rangesText(ranges []Range, limit int, tab *table) string {
	if len(ranges) == 1 {
		return rangeText(ranges[0], limit, tab)
	}
	if singles(ranges) {
		if len(ranges) > 10 { // IOS takes no more
			return ""
		}
		return "eq" + listText(ranges, tab)
	}
	if rest := complement(ranges, limit); len(rest) <= 10 && singles(rest) && slices.Equal(complement(rest, limit), ranges) {
		return "neq" + listText(rest, tab)
	}
	return ""
}

func singles(ranges []Range) bool {
	return len(ranges) > 0 && !slices.ContainsFunc(ranges, func(r Range) bool { return r.From != r.To })
}

func listText(ranges []Range, tab *table) string {
	s := ""
	for _, r := range ranges {
		s += " " + tab.text(int(r.From))
	}
	return s
}

func rangeText(r Range, limit int, tab *table) string {
	from, to := int(r.From), int(r.To)
	switch {
	case from == to:
		return "eq " + tab.text(from)
	case from == 0 && to < limit:
		return "lt " + tab.text(to+1)
	case from > 0 && to == limit:
		return "gt " + tab.text(from-1)
	}
	return "range " + tab.text(from) + " " + tab.text(to)
}

// setTexts is a set of numbers as conditions of which one is enough.
func setTexts(ranges []Range, limit int) []string {
	if len(ranges) == 0 {
		return nil
	}
	if s := rangesText(ranges, limit, noNames); s != "" {
		return []string{s}
	}
	all := make([]string, len(ranges))
	for i, r := range ranges {
		all[i] = rangeText(r, limit, noNames)
	}
	return all
}

// text is a type and code; alone: the only one of its rule.
func (i ICMP) text(f Family, alone bool) string {
	if s, ok := icmpTables[f].byN[i.index()]; ok {
		return s
	}
	sep, code := "/", "any"
	if alone {
		sep, code = " ", ""
	}
	if i.Code >= 0 {
		code = strconv.Itoa(int(i.Code))
	}
	return strings.TrimSuffix(strconv.Itoa(int(i.Type))+sep+code, " ")
}

// String is the condition in words: established, one flag, or match-any and
// match-all.
func (f Flags) String() string {
	switch {
	case f.None():
		return ""
	case f == Established:
		return "established"
	case !f.MatchAny && f.Clear == 0 && f.Set&(f.Set-1) == 0 && f.Set < flow.ECE:
		return flagNames.byN[int(f.Set)]
	}
	s := "match-all"
	if f.MatchAny {
		s = "match-any"
	}
	for _, half := range []struct {
		sign string
		bits uint8
	}{{" +", f.Set}, {" -", f.Clear}} {
		for _, e := range flagNames.entries {
			if half.bits&uint8(e.n) != 0 {
				s += half.sign + e.name
			}
		}
	}
	return s
}

// String is the condition in words: dscp, precedence, tos, or VALUE/MASK.
func (t TOS) String() string {
	var parts []string
	mask := uint8(0) // what parts says
	for _, f := range tosFields {
		if f.mask == t.Mask || f.name != "dscp" && f.mask&^t.Mask == 0 && f.mask&mask == 0 {
			parts = append(parts, f.name+" "+f.names.text(int(t.Value&f.mask>>f.shift)))
			mask |= f.mask
		}
	}
	if mask != t.Mask {
		return "tos-octet " + t.octets()
	}
	return strings.Join(parts, " ")
}

func (t TOS) octets() string {
	return fmt.Sprintf("0x%02x/0x%02x", t.Value, t.Mask)
}
