package acl

import (
	"slices"
	"time"

	"weir/flow"
	"weir/packet"
)

// Verdict is what a list says of a packet.
type Verdict struct {
	Action Action
	Rule   *Rule // nil: what is implicit at the end of every list
}

// Types of ICMPv6 that the end of an IPv6 list permits (RFC 4861).
const (
	neighborSolicitation  = 135
	neighborAdvertisement = 136
)

// Evaluate asks the rules of l one after the other. It is the definition of
// what a list means; nothing here is done for speed.
//
// A list judges the packets of its family (flow.KeyIPv6): the caller asks it of
// no others. p has passed Validate.
func (p *Policy) Evaluate(l *List, in *packet.Info, now time.Time) Verdict {
	for _, r := range l.Rules {
		if p.matches(l.Family, r, in, now) {
			return Verdict{r.Action, r}
		}
	}
	k := &in.Key
	if l.Family == IPv6 && k.Proto == flow.ProtoICMPv6 && k.VLAN&flow.KeyFragment == 0 {
		if t := k.DstPort >> 8; t == neighborSolicitation || t == neighborAdvertisement {
			return Verdict{Action: Permit}
		}
	}
	return Verdict{Action: Deny}
}

func (p *Policy) matches(f Family, r *Rule, in *packet.Info, now time.Time) bool {
	k := &in.Key
	if r.Time != "" && !p.Time(r.Time).Active(now) {
		return false
	}
	if r.Proto != AnyProto && r.Proto != int16(k.Proto) {
		return false
	}
	if !p.hasAddr(f, &r.Src, k.Src) || !p.hasAddr(f, &r.Dst, k.Dst) {
		return false
	}
	if !r.TOS.Match(k.TOS) {
		return false
	}
	if len(r.TTL) > 0 && !within(r.TTL, uint32(in.TTL)) {
		return false
	}
	if len(r.Lengths) > 0 && !within(r.Lengths, min(in.Length, maxLength)) {
		return false
	}
	if k.VLAN&flow.KeyFragment != 0 {
		// What layer 4 would say is not there: a permit lets it pass, as nothing
		// can be made of it without the first fragment; a deny does not apply.
		return r.Fragments || !r.Layer4() || r.Action == Permit
	}
	if r.Fragments {
		return false
	}
	if !p.hasPort(&r.SrcPorts, k.SrcPort) || !p.hasPort(&r.DstPorts, k.DstPort) {
		return false
	}
	if len(r.ICMP) > 0 && !slices.ContainsFunc(r.ICMP, func(i ICMP) bool {
		return uint16(i.Type) == k.DstPort>>8 && (i.Code < 0 || uint16(i.Code) == k.DstPort&0xff)
	}) {
		return false
	}
	return r.Flags.Match(in.TCPFlags)
}

func (p *Policy) hasAddr(f Family, a *Addrs, addr flow.Addr) bool {
	return a.Any() || slices.ContainsFunc(p.NetsOf(a, f), func(n Net) bool { return n.Contains(addr) })
}

func (p *Policy) hasPort(s *Ports, port uint16) bool {
	return s.Any() || within(p.RangesOf(s), uint32(port))
}

// maxLength is what packets count as that are longer, which only the machine's
// own offloads make.
const maxLength = 1<<16 - 1

// within says whether n is in one of the ranges.
func within(ranges []Range, n uint32) bool {
	return slices.ContainsFunc(ranges, func(r Range) bool { return uint32(r.From) <= n && n <= uint32(r.To) })
}

// NetsOf is the networks of a in a list of family f: of a group those of this
// family, and those of groups within it. Nil where a is any, or there are none.
func (p *Policy) NetsOf(a *Addrs, f Family) []Net {
	if a.Group == "" {
		return a.Nets
	}
	return netsOf(p.Group, a.Group, f)
}

// netsOf is the networks of a group, as NetsOf.
func netsOf(find func(name string) *Group, group string, f Family) []Net {
	var nets []Net
	eachGroup(find, group, map[string]bool{}, func(g *Group) {
		for _, n := range g.Nets {
			if n.Family() == f {
				nets = append(nets, n)
			}
		}
	})
	return nets
}

// RangesOf is the ranges of s, those of groups within its group among them. Nil
// where s is any, or its group is empty.
func (p *Policy) RangesOf(s *Ports) []Range {
	if s.Group == "" {
		return s.Ranges
	}
	return rangesOf(p.Group, s.Group)
}

// rangesOf is the ranges of a group, as RangesOf.
func rangesOf(find func(name string) *Group, group string) []Range {
	var ranges []Range
	eachGroup(find, group, map[string]bool{}, func(g *Group) { ranges = append(ranges, g.Ports...) })
	return ranges
}

// eachGroup visits a group and those within it, each once.
func eachGroup(find func(name string) *Group, name string, seen map[string]bool, visit func(*Group)) {
	g := find(name)
	if g == nil || seen[name] {
		return
	}
	seen[name] = true
	visit(g)
	for _, inner := range g.Groups {
		eachGroup(find, inner, seen, visit)
	}
}

// Time is the time range of a name, or nil.
func (p *Policy) Time(name string) *TimeRange {
	for _, t := range p.Times {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// Active says whether now is in t: not before Start, before End, and in one of
// the periods if there are any. Nil is never active.
func (t *TimeRange) Active(now time.Time) bool { return t != nil && t.active(now.Local()) }

// active reads the wall clock of now's own location.
func (t *TimeRange) active(now time.Time) bool {
	if !t.Start.IsZero() && now.Before(t.Start) || !t.End.IsZero() && !now.Before(t.End) {
		return false
	}
	return len(t.Periods) == 0 || slices.ContainsFunc(t.Periods, func(p Period) bool { return p.active(now) })
}

const (
	dayMinutes  = 24 * 60
	weekMinutes = 7 * dayMinutes
)

// active compares minutes of the week as clocks show them, so that a change to
// or from summer time moves no boundary: an hour that is left out is left out
// of the period, one that comes twice is in it twice.
func (p *Period) active(now time.Time) bool {
	at := int(now.Weekday())*dayMinutes + now.Hour()*60 + now.Minute()
	for day := range 7 {
		if p.Days>>day&1 == 0 {
			continue
		}
		since := (at - day*dayMinutes - p.From + 2*weekMinutes) % weekMinutes
		if since < p.minutes(day) {
			return true
		}
	}
	return false
}

// minutes is how long the period is that begins on day.
func (p *Period) minutes(day int) int {
	days := 0
	if p.Span {
		days = (int(p.ToDay) - day + 7) % 7
	}
	n := days*dayMinutes + p.To - p.From
	switch {
	case n > 0:
		return n
	case p.Span: // to the same day of next week
		return n + weekMinutes
	}
	return n + dayMinutes
}
