package acl

import (
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/flow"
)

// Limits beside those in acl.go.
const (
	maxGroups = 1 << 16
	maxNested = 64 // groups in groups in …
	maxPeriod = 1024
)

// Validate says what about p has no meaning: references to what is not there,
// ports of a protocol without ports, two rules of one number, and so on. What
// ReadCisco and ReadYAML return has passed it; who makes a Policy by other
// means calls it. The error is an Errors.
func (p *Policy) Validate() error {
	v := validator{p: p}
	v.run()
	return v.errs.err()
}

type validator struct {
	p      *Policy
	places places
	errs   Errors
	groups map[string]*Group
	times  map[string]*TimeRange
	// nested is how deep groups are nested in one: 1 for none; 0 while it is
	// being found out, so that who finds it has gone in a circle.
	nested map[*Group]int
}

// at is the position of a part of something that stands at otherwise.
func (v *validator) at(of any, part string, otherwise Pos) Pos {
	if at, ok := v.places[place{of, part}]; ok {
		return at
	}
	return otherwise
}

func (v *validator) run() {
	v.allGroups()
	v.times = map[string]*TimeRange{}
	for _, t := range v.p.Times {
		if v.name("a time range", t.Name, t.Pos) && v.times[t.Name] != nil {
			v.errs.add(t.Pos, "the time range %s is there already%s", t.Name, behind(v.times[t.Name].Pos))
		}
		v.times[t.Name] = t
		v.time(t)
	}
	lists := map[listKey]*List{}
	rules := 0
	for _, l := range v.p.Lists {
		if l.Family > IPv6 {
			v.errs.add(l.Pos, "a list of no known family")
			continue
		}
		key := listKey{l.Name, l.Family}
		if v.name("a list", l.Name, l.Pos) && lists[key] != nil {
			v.errs.add(l.Pos, "the %s list %s is there already%s", familyNames[l.Family], l.Name, behind(lists[key].Pos))
		}
		lists[key] = l
		v.list(l)
		rules += len(l.Rules)
	}
	if rules > MaxIDs {
		v.errs.add(Pos{}, "%d rules in all lists; accepted: up to %d", rules, MaxIDs)
	}
	v.bindings(lists)
}

// behind tells where something else stands, if that is known.
func behind(at Pos) string {
	if at.Line == 0 {
		return ""
	}
	return ", since line " + strconv.Itoa(at.Line)
}

func (v *validator) name(what, s string, at Pos) bool {
	fault := nameFault(s)
	if fault != "" {
		v.errs.add(at, "found %s for %s", fault, what)
	}
	return fault == ""
}

func (v *validator) text(what, s string, at Pos) {
	if !printable(s) || len(s) > maxText {
		v.errs.add(at, "a %s with control characters, with blanks around it or of more than %d octets", what, maxText)
	}
}

// Groups.

func (v *validator) allGroups() {
	v.groups = map[string]*Group{}
	if n := len(v.p.Groups); n > maxGroups {
		v.errs.add(v.p.Groups[maxGroups].Pos, "%d groups; accepted: up to %d", n, maxGroups)
		return
	}
	for _, g := range v.p.Groups {
		if v.name("a group", g.Name, g.Pos) && v.groups[g.Name] != nil {
			v.errs.add(g.Pos, "the group %s is there already%s", g.Name, behind(v.groups[g.Name].Pos))
			continue
		}
		v.groups[g.Name] = g
	}
	v.nested = map[*Group]int{}
	for _, g := range v.p.Groups {
		v.group(g)
		if v.nested[g] == 0 {
			v.depth(g, nil)
		}
	}
}

func (v *validator) group(g *Group) {
	v.text("description", g.Remark, g.Pos)
	switch {
	case g.Kind > GroupService:
		v.errs.add(g.Pos, "the group %s is of no known kind", g.Name)
	case g.Kind == GroupNetwork && len(g.Ports) > 0, g.Kind == GroupService && len(g.Nets) > 0:
		v.errs.add(g.Pos, "the group %s has networks and ports; accepted: one of them", g.Name)
	}
	for _, n := range g.Nets {
		if NewNet(n.Addr, n.Care) != n {
			v.errs.add(g.Pos, "the group %s has a network with bits that its mask has not", g.Name)
		}
	}
	v.ranges(g.Ports, 65535, "ports", g.Pos)
	seen := map[string]bool{}
	for _, name := range g.Groups {
		at := v.at(g, name, g.Pos)
		switch inner := v.groups[name]; {
		case inner == nil:
			v.errs.add(at, "there is no group %s%s", quote(name), v.didYouMean(name, g.Kind))
		case inner.Kind != g.Kind:
			v.errs.add(at, "the group %s is of the other kind than %s", name, g.Name)
		case seen[name]:
			v.errs.add(at, "the group %s is in %s already", name, g.Name)
		}
		seen[name] = true
	}
}

// depth finds circles. way is the groups that lead to g.
func (v *validator) depth(g *Group, way []*Group) int {
	v.nested[g] = 0
	n := 1
	for _, name := range g.Groups {
		inner := v.groups[name]
		if inner == nil {
			continue
		}
		if i := slices.Index(way, inner); i >= 0 || inner == g {
			names := []string{}
			if i >= 0 {
				for _, w := range way[i:] {
					names = append(names, w.Name)
				}
			}
			names = append(names, g.Name, name)
			v.errs.add(v.at(g, name, g.Pos), "groups in a circle: %s", strings.Join(names, " > "))
			continue
		}
		d := v.nested[inner]
		if d == 0 {
			if len(way) >= maxNested {
				v.errs.add(v.at(g, name, g.Pos), "groups nested deeper than %d", maxNested)
				break
			}
			d = v.depth(inner, append(way, g))
		}
		if n = max(n, d+1); n > maxNested {
			v.errs.add(v.at(g, name, g.Pos), "groups nested deeper than %d", maxNested)
			n = maxNested // told once
			break
		}
	}
	v.nested[g] = n
	return n
}

// didYouMean suggests a group of a kind.
func (v *validator) didYouMean(name string, kind GroupKind) string {
	return v.oneOf(name, func(yield func(string) bool) {
		for _, g := range v.p.Groups {
			if g.Kind == kind && !yield(g.Name) {
				return
			}
		}
	})
}

// oneOf suggests one of the first thousand names, for as long as messages are
// read.
func (v *validator) oneOf(name string, all iter.Seq[string]) string {
	if len(v.errs) > maxErrors {
		return ""
	}
	var names []string
	for s := range all {
		if names = append(names, s); len(names) == 1000 {
			break
		}
	}
	slices.Sort(names)
	if s := suggest(name, names); s != "" {
		return ` (did you mean "` + s + `"?)`
	}
	return ""
}

func (v *validator) ranges(ranges []Range, limit uint16, what string, at Pos) {
	for _, r := range ranges {
		if r.From > r.To || r.To > limit {
			v.errs.add(at, "%s from %d to %d; accepted: the lower number first, up to %d", what, r.From, r.To, limit)
		}
	}
}

// Times.

func (v *validator) time(t *TimeRange) {
	if !t.Start.IsZero() && !t.End.IsZero() && !t.Start.Before(t.End) {
		v.errs.add(t.Pos, "the time range %s ends before it starts", t.Name)
	}
	for _, at := range []time.Time{t.Start, t.End} {
		if !at.IsZero() && (at.Second() != 0 || at.Nanosecond() != 0 || at.Local().Year() < 1970 || at.Local().Year() > 9999) {
			v.errs.add(t.Pos, "the time range %s starts or ends within a minute, or before 1970; accepted: whole minutes", t.Name)
		}
	}
	if len(t.Periods) > maxPeriod {
		v.errs.add(t.Pos, "%d periods; accepted: up to %d", len(t.Periods), maxPeriod)
	}
	for _, p := range t.Periods {
		switch {
		case p.Days == 0 || p.Days > daily:
			v.errs.add(t.Pos, "the time range %s has a period without days", t.Name)
		case p.From < 0 || p.From >= dayMinutes || p.To < 0 || p.To > dayMinutes:
			v.errs.add(t.Pos, "the time range %s has a period with a time of day beyond 24:00", t.Name)
		case p.Span && (p.Days&(p.Days-1) != 0 || p.ToDay < time.Sunday || p.ToDay > time.Saturday), !p.Span && p.ToDay != 0:
			v.errs.add(t.Pos, "the time range %s has a period from several days to one", t.Name)
		}
	}
}

// Lists.

func (v *validator) list(l *List) {
	standard := false
	if n, ok := decimal(l.Name, 1<<30); ok && l.Family == IPv4 {
		standard = standardNumber(n)
		if !standard && !extendedNumber(n) {
			v.errs.add(l.Pos, "%s", numberFault(l.Name, l.Family, false))
		}
	}
	if n := len(l.Rules); n > MaxRules {
		v.errs.add(l.Pos, "the list %s has %d rules; accepted: up to %d", l.Name, n, MaxRules)
	}
	for _, s := range l.Remarks {
		v.text("remark", s, l.Pos)
	}
	last := uint32(0)
	for _, r := range l.Rules {
		if r.Seq <= last || r.Seq > maxSeq {
			v.errs.add(v.at(r, partSeq, r.Pos), "the sequence number %d behind %d; accepted: ascending numbers from 1 to %d", r.Seq, last, maxSeq)
		}
		last = max(last, r.Seq)
		v.rule(l, r)
		if standard && !r.standard() {
			v.errs.add(r.Pos, "a standard list (%s) asks for the source alone; accepted: permit or deny, a source, log", l.Name)
		}
	}
}

// standard says whether a standard list could have r.
func (r *Rule) standard() bool {
	return r.Proto == AnyProto && r.Dst.Any() && r.Src.Group == "" && len(r.Src.Nets) <= 1 && !r.Layer4() && !r.Fragments &&
		r.TOS == (TOS{}) && r.TTL == nil && r.Lengths == nil && r.Log != LogInput && r.Time == ""
}

func (v *validator) rule(l *List, r *Rule) {
	fail := func(part, format string, args ...any) { v.errs.add(v.at(r, part, r.Pos), format, args...) }
	if r.Proto < AnyProto || r.Proto > 255 {
		fail(partProto, "the protocol %d; accepted: 0 to 255", r.Proto)
	}
	if r.Action > Permit || r.Reject && r.Action != Deny {
		fail("", "an action that is none of permit, deny, reject")
	}
	v.addrs(l, r, &r.Src, partSrc)
	v.addrs(l, r, &r.Dst, partDst)
	v.ports(r, &r.SrcPorts, partSrcPorts)
	v.ports(r, &r.DstPorts, partDstPorts)
	if len(r.ICMP) > 0 && r.Proto != icmpProto[l.Family] {
		fail(partICMP, "types of ICMP for %s; accepted in an %s list: icmp", protoName(r.Proto), familyNames[l.Family])
	}
	for _, i := range r.ICMP {
		if i.Code < -1 || i.Code > 255 {
			fail(partICMP, "the ICMP code %d; accepted: 0 to 255", i.Code)
		}
	}
	if r.Flags != (Flags{}) {
		switch {
		case r.Proto != flow.ProtoTCP:
			fail(partFlags, "flags for %s; accepted with flags: tcp", protoName(r.Proto))
		case r.Flags.None() || r.Flags.Set&r.Flags.Clear != 0:
			fail(partFlags, "flags that are to be set and not set")
		}
	}
	if r.Fragments && r.Layer4() {
		fail(partFrags, "fragments and ports, types of ICMP or flags, which later fragments do not have; accepted: one of them")
	}
	if r.TOS.Value&^r.TOS.Mask != 0 {
		fail(partTOS, "a value of the TOS octet with bits that its mask has not")
	}
	v.ranges(r.TTL, 255, "TTLs", v.at(r, partTTL, r.Pos))
	v.ranges(r.Lengths, 65535, "lengths", v.at(r, partLength, r.Pos))
	if r.Log > LogInput {
		fail("", "a way to log that is not known")
	}
	if r.Time != "" && v.times[r.Time] == nil {
		fail(partTime, "there is no time range %s%s", quote(r.Time), v.oneOf(r.Time, maps.Keys(v.times)))
	}
	for _, s := range r.Remarks {
		v.text("remark", s, v.at(r, partRemark, r.Pos))
	}
}

func (v *validator) addrs(l *List, r *Rule, a *Addrs, part string) {
	at := v.at(r, part, r.Pos)
	if a.Group != "" {
		switch g := v.groups[a.Group]; {
		case len(a.Nets) > 0:
			v.errs.add(at, "a %s that is a group and networks; accepted: one of them", part)
		case g == nil:
			v.errs.add(at, "there is no group %s%s", quote(a.Group), v.didYouMean(a.Group, GroupNetwork))
		case g.Kind != GroupNetwork:
			v.errs.add(at, "%s is a group of ports; accepted for the %s: one of networks", a.Group, part)
		}
	}
	for _, n := range a.Nets {
		switch {
		case NewNet(n.Addr, n.Care) != n:
			v.errs.add(at, "a network with bits that its mask has not")
		case n.Family() != l.Family:
			v.errs.add(at, "an %s network; accepted in an %s list: %s", familyNames[n.Family()], familyNames[l.Family], exampleNet[l.Family])
		}
	}
}

func (v *validator) ports(r *Rule, s *Ports, part string) {
	at := v.at(r, part, r.Pos)
	switch g := v.groups[s.Group]; {
	case s.Any():
		return
	case s.Group != "" && len(s.Ranges) > 0:
		v.errs.add(at, "%s that are a group and ranges; accepted: one of them", part)
	case s.Group != "" && g == nil:
		v.errs.add(at, "there is no group %s%s", quote(s.Group), v.didYouMean(s.Group, GroupService))
	case s.Group != "" && g.Kind != GroupService:
		v.errs.add(at, "%s is a group of networks; accepted for ports: one of ports", s.Group)
	case !hasPorts(r.Proto):
		v.errs.add(at, "%s, but %s has no ports; accepted with ports: tcp, udp, sctp, dccp, udplite", part, protoName(r.Proto))
	}
	v.ranges(s.Ranges, 65535, part, at)
}

// Bindings.

func (v *validator) bindings(lists map[listKey]*List) {
	type point struct {
		iface string
		dir   Direction
		f     Family
	}
	seen := map[point]Binding{}
	for _, b := range v.p.Bindings {
		v.name("an interface", b.Interface, b.Pos)
		if b.Direction > Out || b.Family > IPv6 {
			v.errs.add(b.Pos, "an unknown direction or family")
			continue
		}
		if lists[listKey{b.List, b.Family}] == nil {
			v.errs.add(b.Pos, "there is no %s list %s%s", familyNames[b.Family], quote(b.List), v.oneOf(b.List, func(yield func(string) bool) {
				for _, l := range v.p.Lists {
					if l.Family == b.Family && !yield(l.Name) {
						return
					}
				}
			}))
		}
		at := point{b.Interface, b.Direction, b.Family}
		if other, twice := seen[at]; twice {
			v.errs.add(b.Pos, "%s has the %s list %s %s already%s; accepted: one", b.Interface, familyNames[b.Family], other.List, b.Direction, behind(other.Pos))
		}
		seen[at] = b
	}
}
