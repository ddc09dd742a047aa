package acl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"weir/flow"
)

// AppendNft appends what `nft -f` reads to judge packets as p does: a table weir
// for each family, in it a set for each group, and for each list a base chain
// for each direction that it is applied in: what comes in is judged before
// anything else happens to it (hook prerouting), what goes out after all else
// (hook postrouting). The reports are of what nft cannot say, or says in another
// way; all else means the same.
//
// A list that is applied nowhere is a chain that nothing leads to. p has passed
// Validate.
func AppendNft(dst []byte, p *Policy) ([]byte, []Report) {
	w := nftWriter{dst: dst, p: p, told: map[string]bool{}}
	for _, f := range []Family{IPv4, IPv6} {
		w.table(f)
	}
	return w.dst, w.reports
}

type nftWriter struct {
	dst     []byte
	p       *Policy
	reports []Report
	told    map[string]bool // of the reports

	family Family
	sets   map[string]string // of groups: the name, "" where there is nothing in it for a set
	names  map[string]bool
}

// Places in the kernel: before connection tracking puts fragments together (-400),
// and behind the translation of source addresses (100).
const (
	nftFirst = -450
	nftLast  = 300
)

var nftTables = [...]string{IPv4: "ip", IPv6: "ip6"}

// report adds a report, unless it is there: a list may be written twice.
func (w *nftWriter) report(r *Report) {
	if s := r.String(); !w.told[s] {
		w.told[s] = true
		w.reports = append(w.reports, *r)
	}
}

func (w *nftWriter) linef(format string, args ...any) {
	w.dst = fmt.Appendf(w.dst, format+"\n", args...)
}

// name is s as nft can have it: none of its own words, and not taken.
func (w *nftWriter) name(s, suffix string) string {
	b := []byte(s)
	upper := false // no word of nft has one
	for i, c := range b {
		switch {
		case c >= 'A' && c <= 'Z':
			upper = true
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			b[i] = '_'
		}
	}
	if c := b[0]; c < 'A' || c > 'z' || c == '_' {
		b = append([]byte("acl-"), b...)
	}
	s = string(b)
	if !upper || w.names[s] {
		s += suffix
	}
	for i, base := 2, s; w.names[s]; i++ {
		s = base + "-" + strconv.Itoa(i)
	}
	w.names[s] = true
	return s
}

func (w *nftWriter) table(f Family) {
	lists := slices.DeleteFunc(slices.Clone(w.p.Lists), func(l *List) bool { return l.Family != f })
	if len(lists) == 0 {
		return
	}
	w.family, w.sets, w.names = f, map[string]string{}, map[string]bool{}
	// The table that is there, if one is, makes room for the new one at once.
	w.linef("table %s weir\ndelete table %[1]s weir\ntable %[1]s weir {", nftTables[f])
	for _, l := range lists {
		for _, r := range l.Rules {
			if r.Time != "" {
				continue
			}
			w.netSet(r.Src.Group)
			w.netSet(r.Dst.Group)
			w.portSet(r.SrcPorts.Group)
			w.portSet(r.DstPorts.Group)
		}
	}
	for _, l := range lists {
		var on [2][]string
		for i := range w.p.Bindings {
			b := &w.p.Bindings[i]
			if b.List != l.Name || b.Family != f {
				continue
			}
			if len(b.Interface) > 15 || strings.ContainsAny(b.Interface, "\"\\*/$") {
				w.report(&Report{
					Outcome: Refused, Chain: "interface " + b.Interface, Pos: b.Pos, Text: b.text(), More: true,
					Why: []string{"Linux has no interface of this name"},
				})
				continue
			}
			on[b.Direction] = append(on[b.Direction], strconv.Quote(b.Interface))
		}
		for _, dir := range []Direction{In, Out} {
			if len(on[dir]) > 0 {
				w.chain(l, dir, on[dir], len(on[1-dir]) > 0)
			}
		}
		if len(on[In])+len(on[Out]) == 0 {
			w.report(&Report{
				Outcome: Approximated, Chain: l.head(), Pos: l.Pos, Text: "the list as a whole",
				Why: []string{"it is applied nowhere: nothing leads to its chain"},
			})
			w.chain(l, In, nil, false)
		}
	}
	w.linef("}")
}

// chain is a list as it is applied at some interfaces in a direction.
func (w *nftWriter) chain(l *List, dir Direction, on []string, both bool) {
	suffix := "-acl"
	if both {
		suffix = "-" + dir.String()
	}
	name, later := w.name(l.Name, suffix), ""
	if slices.ContainsFunc(l.Rules, func(r *Rule) bool { return r.Layer4() || r.Fragments }) {
		later = w.name(l.Name, suffix+"-later")
		w.linef("\tchain %s {", later)
		w.rules(l, dir, true)
		w.linef("\t\tcounter drop")
		w.linef("\t}")
	}
	w.linef("\tchain %s {", name)
	if len(on) > 0 {
		hook, priority, key := "prerouting", nftFirst, "iifname"
		if dir == Out {
			hook, priority, key = "postrouting", nftLast, "oifname"
		}
		names := on[0]
		if len(on) > 1 {
			names = "{ " + strings.Join(on, ", ") + " }"
		}
		w.linef("\t\ttype filter hook %s priority %d; policy drop;", hook, priority)
		w.linef("\t\t%s != %s accept", key, names)
	}
	if later != "" {
		w.linef("\t\t%s goto %s", [...]string{IPv4: "ip frag-off & 0x1fff != 0", IPv6: "frag frag-off != 0"}[w.family], later)
	}
	w.rules(l, dir, false)
	if l.Family == IPv6 {
		w.linef("\t\ticmpv6 type { %d, %d } counter accept", neighborSolicitation, neighborAdvertisement)
	}
	w.remarks(l.Remarks, nil)
	w.linef("\t\tcounter drop")
	w.linef("\t}")
}

// rules is what l's rules say of later fragments, or of all other packets.
// Kernels there are that read a later fragment's octets as if ports were there:
// so these have a chain of their own, where nobody asks for any.
func (w *nftWriter) rules(l *List, dir Direction, later bool) {
	for _, r := range l.Rules {
		report := Report{Chain: l.head(), Pos: r.Pos, Text: strconv.Itoa(int(r.Seq)) + " " + r.Cisco(l.Family)}
		lines := w.rule(l, r, dir, later, &report)
		if !later {
			w.remarks(r.Remarks, lines)
		}
		for _, s := range lines {
			w.linef("\t\t%s", s)
		}
		if len(report.Why) > 0 {
			w.report(&report)
		}
	}
}

// maxComment is how long the kernel's comments may be.
const maxComment = 127

// remarks are comments: of the first line, if that can have them.
func (w *nftWriter) remarks(remarks, lines []string) {
	if len(remarks) == 1 && len(lines) > 0 && remarks[0] != "" && len(remarks[0]) <= maxComment && !strings.ContainsAny(remarks[0], "\"\\$") {
		lines[0] += ` comment "` + remarks[0] + `"`
		return
	}
	for _, s := range remarks {
		w.linef("\t\t# %s", s)
	}
}

// netSet is a set for the prefixes of a group.
func (w *nftWriter) netSet(group string) {
	if _, known := w.sets[group]; known || group == "" {
		return
	}
	spans, _ := splitNets(netsOf(w.p.Group, group, w.family), w.family)
	if w.sets[group] = ""; len(spans) == 0 {
		return
	}
	w.sets[group] = w.name(group, "-net")
	w.linef("\tset %s {\n\t\ttype %s; flags interval", w.sets[group], nftAddrTypes[w.family])
	w.linef("\t\telements = { %s }\n\t}", strings.Join(spanTexts(spans), ", "))
}

var nftAddrTypes = [...]string{IPv4: "ipv4_addr", IPv6: "ipv6_addr"}

// portSet is a set for the ports of a group.
func (w *nftWriter) portSet(group string) {
	if _, known := w.sets[group]; known || group == "" {
		return
	}
	ranges := sortRanges(rangesOf(w.p.Group, group))
	if w.sets[group] = ""; len(ranges) == 0 {
		return
	}
	w.sets[group] = w.name(group, "-port")
	w.linef("\tset %s {\n\t\ttype inet_service; flags interval", w.sets[group])
	w.linef("\t\telements = { %s }\n\t}", strings.Join(nftRanges(ranges), ", "))
}

// splitNets is the prefixes among nets as spans, and the others.
func splitNets(nets []Net, f Family) (spans []span16, wild []Net) {
	var prefixes []Net
	for _, n := range nets {
		if _, ok := n.Prefix(); ok {
			prefixes = append(prefixes, n)
		} else {
			wild = append(wild, n)
		}
	}
	spans, _ = netSpans(prefixes, f)
	return spans, wild
}

func spanTexts(spans []span16) []string {
	texts := make([]string, len(spans))
	for i, s := range spans {
		texts[i] = s.from.String() + "-" + s.to.String()
		if nets := rangeNets(s.from, s.to); len(nets) == 1 {
			p, _ := nets[0].Prefix()
			if texts[i] = p.String(); p.IsSingleIP() {
				texts[i] = s.from.String()
			}
		}
	}
	return texts
}

func nftRanges(ranges []Range) []string {
	texts := make([]string, len(ranges))
	for i, r := range ranges {
		texts[i] = strconv.Itoa(int(r.From))
		if r.To != r.From {
			texts[i] += "-" + strconv.Itoa(int(r.To))
		}
	}
	return texts
}

// nftSetText is one value, or a set of several.
func nftSetText(texts []string) string {
	if len(texts) == 1 {
		return texts[0]
	}
	return "{ " + strings.Join(texts, ", ") + " }"
}

// addrs is the conditions on an address, any of which may hold. None: there is
// no such address.
func (w *nftWriter) addrs(a *Addrs, key string) []string {
	if a.Any() {
		return []string{""}
	}
	key = nftTables[w.family] + " " + key + " "
	spans, wild := splitNets(w.p.NetsOf(a, w.family), w.family)
	if len(spans) == 1 && spans[0] == (span16{firstAddr[w.family], finalAddr[w.family]}) {
		return []string{""}
	}
	var all []string
	switch {
	case len(spans) == 0:
	case a.Group != "":
		all = append(all, key+"@"+w.sets[a.Group]+" ")
	default:
		all = append(all, key+nftSetText(spanTexts(spans))+" ")
	}
	for _, n := range wild {
		mask, value := n.Care.Netip(), n.Addr.Netip()
		if w.family == IPv4 {
			mask = low4(n.Care)
		}
		all = append(all, fmt.Sprintf("%s& %s == %s ", key, mask, value))
	}
	return all
}

// ports is the condition on a port; not ok: there is no such port.
func (w *nftWriter) ports(r *Rule, s *Ports, key string) (text string, ok bool) {
	if s.Any() {
		return "", true
	}
	text = nftPorts[r.Proto] + " " + key + " "
	if s.Group != "" {
		set := w.sets[s.Group]
		return text + "@" + set + " ", set != ""
	}
	return text + nftSetText(nftRanges(sortRanges(s.Ranges))) + " ", true
}

var nftPorts = map[int16]string{
	flow.ProtoTCP: "tcp", flow.ProtoUDP: "udp", flow.ProtoUDPLite: "udplite", flow.ProtoSCTP: "sctp", flow.ProtoDCCP: "dccp",
}

// rule is r as rules of nft, for later fragments or all other packets, and what
// is to be said of that.
func (w *nftWriter) rule(l *List, r *Rule, dir Direction, later bool, report *Report) (lines []string) {
	if r.Time != "" {
		report.Outcome, report.More, report.Less = Refused, r.Action == Deny, r.Action == Permit
		report.say("nft compares times of day in UTC, and follows no change to summer time")
		return nil
	}
	differs := func(why string) {
		report.Outcome = Approximated
		report.say(why)
	}
	layer3 := ""
	if r.Proto != AnyProto {
		layer3 = fmt.Sprintf("meta l4proto %d ", r.Proto)
	}
	if w.family == IPv6 && r.Proto == protoAH {
		differs("nft sees the protocol behind an authentication header, never the header")
		report.More, report.Less = r.Action == Deny, r.Action == Permit
	}
	layer3 += w.tos(r.TOS)
	if len(r.TTL) > 0 {
		layer3 += [...]string{IPv4: "ip ttl ", IPv6: "ip6 hoplimit "}[w.family] + nftSetText(nftRanges(sortRanges(r.TTL))) + " "
	}
	if len(r.Lengths) > 0 {
		lengths := nftRanges(sortRanges(r.Lengths))
		if n := len(lengths) - 1; strings.HasSuffix(lengths[n], "65535") { // which stands for all that is longer
			lengths[n] = strings.TrimSuffix(lengths[n], "-65535") + "-4294967295"
		}
		layer3 += "meta length " + nftSetText(lengths) + " "
	}
	rest := []string{""}
	switch {
	case later && r.Layer4() && r.Action == Deny, !later && r.Fragments:
		rest = nil
	case !later:
		rest = w.layer4(r)
	}
	action := "counter "
	if r.Log != NoLog {
		action = fmt.Sprintf("log prefix \"%s \" counter ", strings.NewReplacer(`"`, "_", `\`, "_", "$", "_").Replace(l.Name))
		differs("nft logs each packet, not a flow's first one and then sums")
	}
	actions := [][2]string{{"", action + "accept"}}
	if r.Action == Deny {
		actions[0][1] = action + "drop"
	}
	if r.Reject && dir == Out {
		differs("nft answers nothing where packets leave")
	} else if r.Reject {
		const reset = "reject with tcp reset"
		icmp := [...]string{IPv4: "reject with icmp type admin-prohibited", IPv6: "reject with icmpv6 type admin-prohibited"}[w.family]
		switch r.Proto {
		case flow.ProtoTCP:
			actions[0][1] = action + reset
		case AnyProto:
			actions = [][2]string{{"meta l4proto 6 ", action + reset}, {"", action + icmp}}
		default:
			actions[0][1] = action + icmp
		}
	}
	for _, src := range w.addrs(&r.Src, "saddr") {
		for _, dst := range w.addrs(&r.Dst, "daddr") {
			for _, four := range rest {
				for _, a := range actions {
					lines = append(lines, src+dst+layer3+four+a[0]+a[1])
				}
			}
		}
	}
	return lines
}

const protoAH = 51

// tos is the condition on the TOS octet: by name where nft has one, else by its
// place in the header.
func (w *nftWriter) tos(t TOS) string {
	switch {
	case t.Mask == 0:
		return ""
	case t.Mask == 0xfc:
		return fmt.Sprintf("%s dscp %d ", nftTables[w.family], t.Value>>2)
	case w.family == IPv4:
		return fmt.Sprintf("@nh,8,8 & 0x%02x == 0x%02x ", t.Mask, t.Value)
	}
	return fmt.Sprintf("@nh,0,16 & 0x%04x == 0x%04x ", int(t.Mask)<<4, int(t.Value)<<4)
}

// layer4 is the conditions on layer 4, any of which may hold.
func (w *nftWriter) layer4(r *Rule) []string {
	sport, ok1 := w.ports(r, &r.SrcPorts, "sport")
	dport, ok2 := w.ports(r, &r.DstPorts, "dport")
	if !ok1 || !ok2 {
		return nil
	}
	all := []string{sport + dport}
	if len(r.ICMP) > 0 {
		icmp := [...]string{IPv4: "icmp", IPv6: "icmpv6"}[w.family]
		var types, both []string
		for _, i := range r.ICMP {
			if i.Code < 0 {
				types = append(types, strconv.Itoa(int(i.Type)))
			} else {
				both = append(both, fmt.Sprintf("%d . %d", i.Type, i.Code))
			}
		}
		all = nil
		for _, part := range []struct {
			key    string
			values []string
		}{{icmp + " type ", types}, {icmp + " type . " + icmp + " code ", both}} {
			slices.Sort(part.values)
			if values := slices.Compact(part.values); len(values) > 0 {
				all = append(all, part.key+"{ "+strings.Join(values, ", ")+" } ")
			}
		}
	}
	if fl := r.Flags; !fl.None() {
		before := all
		all = nil
		for _, s := range before {
			switch {
			case !fl.MatchAny:
				all = append(all, fmt.Sprintf("%stcp flags & 0x%02x == 0x%02x ", s, fl.Set|fl.Clear, fl.Set))
				continue
			case fl.Set != 0:
				all = append(all, fmt.Sprintf("%stcp flags & 0x%02x != 0 ", s, fl.Set))
			}
			if fl.Clear != 0 {
				all = append(all, fmt.Sprintf("%stcp flags & 0x%02x != 0x%02x ", s, fl.Clear, fl.Clear))
			}
		}
	}
	return all
}
