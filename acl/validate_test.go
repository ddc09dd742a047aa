package acl

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// What only a program can get wrong, as neither language has words for it.
func TestValidate(t *testing.T) {
	v4, v6 := NetFrom(netip.MustParsePrefix("10.0.0.0/8")), NetFrom(netip.MustParsePrefix("2001:db8::/32"))
	dirty := v4
	dirty.Addr[15] = 1
	rule := func(r Rule) *Policy {
		if r.Seq == 0 {
			r.Seq = 10
		}
		return &Policy{Lists: []*List{{Name: "A", Rules: []*Rule{&r}}}}
	}
	group := func(g Group) *Policy { return &Policy{Groups: []*Group{&g}} }
	period := func(p Period) *Policy { return &Policy{Times: []*TimeRange{{Name: "T", Periods: []Period{p}}}} }
	for want, p := range map[string]*Policy{
		"the protocol 256":                           rule(Rule{Proto: 256}),
		"an action that is none of":                  rule(Rule{Proto: -1, Action: Permit, Reject: true}),
		"a source that is a group and networks":      rule(Rule{Proto: -1, Src: Addrs{Group: "G", Nets: []Net{v4}}}),
		"a network with bits that its mask has not":  rule(Rule{Proto: -1, Src: Addrs{Nets: []Net{dirty}}}),
		"an IPv6 network; accepted in an IPv4 list":  rule(Rule{Proto: -1, Dst: Addrs{Nets: []Net{v6}}}),
		"source ports that are a group and ranges":   rule(Rule{Proto: 6, SrcPorts: Ports{Group: "G", Ranges: []Range{{1, 1}}}}),
		"destination ports from 2 to 1":              rule(Rule{Proto: 6, DstPorts: Ports{Ranges: []Range{{2, 1}}}}),
		"the ICMP code 256":                          rule(Rule{Proto: 1, ICMP: []ICMP{{3, 256}}}),
		"types of ICMP for protocol 58":              rule(Rule{Proto: 58, ICMP: []ICMP{{135, -1}}}),
		"flags that are to be set and not set":       rule(Rule{Proto: 6, Flags: Flags{MatchAny: true}}),
		"a value of the TOS octet with bits":         rule(Rule{Proto: -1, TOS: TOS{Mask: 1, Value: 2}}),
		"TTLs from 0 to 256":                         rule(Rule{Proto: -1, TTL: []Range{{0, 256}}}),
		"a way to log that is not known":             rule(Rule{Proto: -1, Log: 9}),
		"a remark with control characters":           rule(Rule{Proto: -1, Remarks: []string{"a\nb"}}),
		"the sequence number 2147483648 behind 0":    rule(Rule{Proto: -1, Seq: 1 << 31}),
		"a list of no known family":                  {Lists: []*List{{Name: "A", Family: 2}}},
		"found an empty name for a list":             {Lists: []*List{{}}},
		"the IPv6 list A is there already":           {Lists: []*List{{Name: "A", Family: IPv6}, {Name: "A", Family: IPv6}}},
		"the sequence number 5 behind 5":             {Lists: []*List{{Name: "A", Rules: []*Rule{{Seq: 5, Proto: -1}, {Seq: 5, Proto: -1}}}}},
		"the group G is of no known kind":            group(Group{Name: "G", Kind: 2}),
		"the group G has networks and ports":         group(Group{Name: "G", Ports: []Range{{1, 1}}}),
		"the group G has a network with bits":        group(Group{Name: "G", Nets: []Net{dirty}}),
		"a description with control characters":      group(Group{Name: "G", Remark: " x"}),
		"a name that begins with ~":                  group(Group{Name: "~G"}),
		"the group G is there already":               {Groups: []*Group{{Name: "G"}, {Name: "G"}}},
		"the time range T has a period without days": period(Period{}),
		"the time range T has a period with a time":  period(Period{Days: 1, From: 1440}),
		"the time range T has a period from several": period(Period{Days: 3, Span: true}),
		"the time range T starts or ends within":     {Times: []*TimeRange{{Name: "T", End: time.Date(2026, 1, 1, 0, 0, 1, 0, time.Local)}}},
		"the time range T is there already":          {Times: []*TimeRange{{Name: "T"}, {Name: "T"}}},
		"an unknown direction or family":             {Bindings: []Binding{{Interface: "eth0", Direction: 2}}},
		"found an empty name for an interface":       {Bindings: []Binding{{List: "A"}}},
	} {
		err := p.Validate()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err := (&Policy{}).Validate(); err != nil {
		t.Error(err)
	}
}
