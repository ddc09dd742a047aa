package acl

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"pgregory.net/rapid"

	"weir/flow"
)

// Generated policies: all that is valid, and small enough for rules to meet.

func choose[T any](t *rapid.T, what string, from ...T) T {
	return from[rapid.IntRange(0, len(from)-1).Draw(t, what)]
}

func genName(t *rapid.T, what string, i int) string {
	return choose(t, what, "A", "web", "WAN-IN", "x.y", "host", "any", "101x") + fmt.Sprint(i)
}

func genNet(t *rapid.T, f Family) Net {
	a := choose(t, "address", "10.0.0.0", "10.0.0.1", "10.0.1.255", "192.0.2.77", "0.0.0.0", "255.255.255.255")
	bits := choose(t, "bits", 0, 1, 8, 22, 24, 30, 31, 32)
	wild := choose(t, "wildcard", "0.0.1.0", "0.255.0.255", "0.0.0.254")
	if f == IPv6 {
		a = choose(t, "address", "2001:db8::", "2001:db8::1", "2001:db8:1::ffff", "::", "::1", "ff02::1")
		bits = choose(t, "bits", 0, 1, 32, 48, 64, 127, 128)
		wild = choose(t, "wildcard", "::1:0", "::ff:0:0:ff", "0:ffff::")
	}
	if choose(t, "shape", 0, 0, 0, 1) == 1 {
		return wildcardNet(netip.MustParseAddr(a), netip.MustParseAddr(wild))
	}
	return NetFrom(netip.PrefixFrom(netip.MustParseAddr(a), bits).Masked())
}

func genSome[T any](t *rapid.T, what string, most int, one func() T) []T {
	var all []T
	for range rapid.IntRange(0, most).Draw(t, what) {
		all = append(all, one())
	}
	return all
}

func genRange(t *rapid.T, limit int) Range {
	values := []int{0, 1, 22, 79, 80, 81, 443, 1023, 1024, 65534, 65535}
	if limit < 256 {
		values = []int{0, 1, 2, 63, 64, 254, 255}
	}
	a, b := choose(t, "from", values...), choose(t, "to", values...)
	if choose(t, "single", true, false) {
		b = a
	}
	return Range{uint16(min(a, b)), uint16(max(a, b))}
}

func genText(t *rapid.T) string {
	return choose(t, "text", "", "x", "two words", "quote \" and ' and # and: colon", "- dash", "größe", "null", "10 permit ip any any")
}

func genPolicy(t *rapid.T) *Policy {
	p := &Policy{}
	var netGroups, portGroups []string
	for i := range rapid.IntRange(0, 4).Draw(t, "groups") {
		g := &Group{Name: genName(t, "group", i), Remark: genText(t)}
		names := &netGroups
		if choose(t, "kind", true, false) {
			g.Nets = genSome(t, "nets", 4, func() Net { return genNet(t, choose(t, "family", IPv4, IPv6)) })
		} else {
			g.Kind, names = GroupService, &portGroups
			g.Ports = genSome(t, "ports", 4, func() Range { return genRange(t, 65535) })
		}
		g.Groups = slices.Clone((*names)[:rapid.IntRange(0, len(*names)).Draw(t, "inner")])
		if len(g.Groups) == 0 {
			g.Groups = nil
		}
		*names = append(*names, g.Name)
		p.Groups = append(p.Groups, g)
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "times") {
		p.Times = append(p.Times, genTime(t, genName(t, "time", i)))
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "lists") {
		f := choose(t, "family", IPv4, IPv6)
		l := &List{Name: genName(t, "list", i/2), Family: f, Remarks: genSome(t, "remarks", 2, func() string { return genText(t) })}
		if p.List(l.Name, f) != nil {
			continue
		}
		for range rapid.IntRange(0, 6).Draw(t, "rules") {
			l.Rules = append(l.Rules, genRule(t, p, f, netGroups, portGroups))
		}
		seq := uint32(0)
		for _, r := range l.Rules {
			seq += uint32(choose(t, "step", 1, 5, 10, 100000000))
			r.Seq = seq
		}
		p.Lists = append(p.Lists, l)
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "bindings") {
		if len(p.Lists) == 0 {
			break
		}
		l := choose(t, "list", p.Lists...)
		p.Bindings = append(p.Bindings, Binding{Interface: fmt.Sprintf("eth%d", i/2), Direction: Direction(i & 1), Family: l.Family, List: l.Name})
	}
	return p
}

func genTime(t *rapid.T, name string) *TimeRange {
	r := &TimeRange{Name: name}
	if choose(t, "start", true, false) {
		r.Start = time.Date(2026, 3, 1, 8, 5, 0, 0, time.Local)
	}
	if choose(t, "end", true, false) {
		r.End = time.Date(2026, 12, 31, 23, 59, 0, 0, time.Local)
	}
	r.Periods = genSome(t, "periods", 3, func() Period {
		p := Period{
			Days: uint8(choose(t, "days", daily, weekdays, weekend, 1, 64, 0b1010101)),
			From: choose(t, "from", 0, 1, 8*60, 1439), To: choose(t, "to", 0, 1, 17*60+30, 1439, 1440),
		}
		if choose(t, "span", true, false) {
			p.Days, p.Span, p.ToDay = 1<<rapid.IntRange(0, 6).Draw(t, "day"), true, time.Weekday(rapid.IntRange(0, 6).Draw(t, "to day"))
		}
		return p
	})
	return r
}

func genRule(t *rapid.T, p *Policy, f Family, netGroups, portGroups []string) *Rule {
	r := &Rule{Action: choose(t, "action", Permit, Deny), Proto: int16(choose(t, "proto", -1, 6, 6, 17, 1, 58, 50, 0, 132, 33, 136, 253))}
	r.Reject = r.Action == Deny && choose(t, "reject", true, false)
	addrs := func(what string) (a Addrs) {
		switch choose(t, what, 0, 1, 1, 2, 3) {
		case 1:
			a.Nets = []Net{genNet(t, f)}
		case 2:
			if len(netGroups) > 0 {
				a.Group = choose(t, "group", netGroups...)
			}
		case 3:
			a.Nets = genSome(t, "nets", 3, func() Net { return genNet(t, f) })
		}
		return a
	}
	r.Src, r.Dst = addrs("source"), addrs("destination")
	layer4 := choose(t, "layer 4", true, false)
	if layer4 && hasPorts(r.Proto) {
		ports := func(what string) (s Ports) {
			if len(portGroups) > 0 && choose(t, what, true, false) {
				s.Group = choose(t, "group", portGroups...)
				return s
			}
			s.Ranges = genSome(t, what, 3, func() Range { return genRange(t, 65535) })
			return s
		}
		r.SrcPorts, r.DstPorts = ports("source ports"), ports("destination ports")
	}
	if layer4 && r.Proto == icmpProto[f] {
		r.ICMP = genSome(t, "icmp", 3, func() ICMP {
			return ICMP{uint8(choose(t, "type", 0, 3, 8, 128, 135, 136, 200)), int16(choose(t, "code", -1, 0, 4, 255))}
		})
	}
	if layer4 && r.Proto == flow.ProtoTCP && choose(t, "flags", true, false) {
		r.Flags = choose(t, "which", Established, Flags{Set: flow.SYN}, Flags{Set: flow.SYN, Clear: flow.ACK}, Flags{MatchAny: true, Clear: flow.CWR},
			Flags{MatchAny: true, Set: flow.FIN}, Flags{Set: flow.ECE}, Flags{Set: 0xf0, Clear: 0x0f})
	}
	r.Fragments = !r.Layer4() && choose(t, "fragments", true, false, false, false)
	if choose(t, "tos", true, false, false) {
		r.TOS.Mask = choose(t, "mask", uint8(0xfc), 0xe0, 0x1e, 0xfe, 0xff, 0x03, 0x80)
		r.TOS.Value = rapid.Uint8().Draw(t, "value") & r.TOS.Mask
	}
	if choose(t, "ttl", true, false, false) {
		r.TTL = genSome(t, "ttls", 3, func() Range { return genRange(t, 255) })
	}
	if choose(t, "length", true, false, false) {
		r.Lengths = genSome(t, "lengths", 3, func() Range { return genRange(t, 65535) })
	}
	r.Log = choose(t, "log", NoLog, LogFlow, LogInput)
	if len(p.Times) > 0 && choose(t, "time", true, false, false) {
		r.Time = choose(t, "which", p.Times...).Name
	}
	r.Remarks = genSome(t, "remarks", 2, func() string { return genText(t) })
	return r
}
