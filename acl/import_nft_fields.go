package acl

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"weir/flow"
)

// Names that nft has for numbers.
var (
	nftProtos = newTable([]entry{
		{"icmp", 1},
		{"igmp", 2},
		{"ipencap", 4},
		{"tcp", 6},
		{"egp", 8},
		{"igp", 9},
		{"udp", 17},
		{"ipv6", 41},
		{"rsvp", 46},
		{"gre", 47},
		{"esp", 50},
		{"ah", 51},
		{"ipv6-icmp", 58},
		{"eigrp", 88},
		{"ospf", 89},
		{"ipip", 94},
		{"pim", 103},
		{"ipcomp", 108},
		{"vrrp", 112},
		{"l2tp", 115},
		{"sctp", 132},
		{"udplite", 136},
		{"dccp", 33},
	}, []entry{
		{"ip", 0},
		{"hopopt", 0},
		{"icmpv6", 58},
		{"ipv6-nonxt", 59},
		{"comp", 108},
		{"ggp", 3},
		{"st", 5},
		{"pup", 12},
		{"hmp", 20},
		{"xns-idp", 22},
		{"rdp", 27},
		{"iso-tp4", 29},
		{"xtp", 36},
		{"ddp", 37},
		{"idpr-cmtp", 38},
		{"ipv6-route", 43},
		{"ipv6-frag", 44},
		{"ipv6-opts", 60},
		{"rspf", 73},
		{"vmtp", 81},
		{"ospfigp", 89},
		{"ax.25", 93},
		{"etherip", 97},
		{"encap", 98},
		{"fc", 133},
		{"hip", 139},
		{"mobility-header", 135},
		{"manet", 138},
		{"mpls-in-ip", 137},
		{"shim6", 140},
		{"wesp", 141},
		{"rohc", 142},
		{"ethernet", 143},
		{"isis", 124},
		{"skip", 57},
		{"idrp", 45},
		{"all", 256},
	}...)
	nftICMP = [...]*table{
		IPv4: newTable([]entry{
			{"echo-reply", 0},
			{"destination-unreachable", 3},
			{"source-quench", 4},
			{"redirect", 5},
			{"echo-request", 8},
			{"router-advertisement", 9},
			{"router-solicitation", 10},
			{"time-exceeded", 11},
			{"parameter-problem", 12},
			{"timestamp-request", 13},
			{"timestamp-reply", 14},
			{"info-request", 15},
			{"info-reply", 16},
			{"address-mask-request", 17},
			{"address-mask-reply", 18},
		}),
		IPv6: newTable([]entry{
			{"destination-unreachable", 1},
			{"packet-too-big", 2},
			{"time-exceeded", 3},
			{"parameter-problem", 4},
			{"echo-request", 128},
			{"echo-reply", 129},
			{"mld-listener-query", 130},
			{"mld-listener-report", 131},
			{"mld-listener-done", 132},
			{"mld-listener-reduction", 132},
			{"nd-router-solicit", 133},
			{"nd-router-advert", 134},
			{"nd-neighbor-solicit", 135},
			{"nd-neighbor-advert", 136},
			{"nd-redirect", 137},
			{"router-renumbering", 138},
			{"ind-neighbor-solicit", 141},
			{"ind-neighbor-advert", 142},
			{"mld2-listener-report", 143},
		}),
	}
	nftCodes = [...]*table{
		IPv4: newTable([]entry{
			{"net-unreachable", 0},
			{"host-unreachable", 1},
			{"prot-unreachable", 2},
			{"port-unreachable", 3},
			{"frag-needed", 4},
			{"net-prohibited", 9},
			{"host-prohibited", 10},
			{"admin-prohibited", 13},
		}),
		IPv6: newTable([]entry{
			{"no-route", 0}, {"admin-prohibited", 1}, {"addr-unreachable", 3}, {"port-unreachable", 4}, {"policy-fail", 5}, {"reject-route", 6},
		}),
	}
	nftDSCP   = newTable(slices.Concat(dscpNames.entries, []entry{{"cs0", 0}, {"df", 0}, {"be", 0}, {"lephb", 1}, {"le", 1}, {"va", 44}}))
	nftFlags  = newTable(flagNames.entries, entry{"ecn", flow.ECE})
	nftECN    = newTable([]entry{{"not-ect", 0}, {"ect1", 1}, {"ect0", 2}, {"ce", 3}})
	nftStates = newTable([]entry{
		{"new", stateNew}, {"established", stateEstablished}, {"related", stateRelated}, {"invalid", stateInvalid}, {"untracked", stateUntracked},
	})
	nftFamilies   = newTable([]entry{{"ipv4", 2}, {"ipv6", 10}})
	nftEtherTypes = newTable([]entry{{"ip", 0x0800}, {"ip6", 0x86dd}, {"arp", 0x0806}, {"vlan", 0x8100}, {"8021q", 0x8100}, {"8021ad", 0x88a8}})
)

// protoOf is the protocols whose ports payload expressions of a name read.
var protoOf = map[string]octets{
	"tcp": octetSet(flow.ProtoTCP), "udp": octetSet(flow.ProtoUDP), "udplite": octetSet(flow.ProtoUDPLite), "sctp": octetSet(flow.ProtoSCTP),
	"dccp": octetSet(flow.ProtoDCCP), "th": portProtos,
}

// field reads the left side of a condition.
func (s *statements) field(left any) (*nftField, error) {
	if v, ok := sole(left, "&"); ok {
		both, _ := v.([]any)
		if len(both) != 2 {
			return nil, errors.New("bits of several things")
		}
		f, err := s.plain(both[0], true)
		if err != nil {
			return nil, err
		}
		return s.masked(f, both[1])
	}
	return s.plain(left, false)
}

var errFragment = errors.New("a list tells later fragments, whose offset is not 0, from all other packets; it knows no more of fragments than that")

// masked is f where only some bits count.
func (s *statements) masked(f *nftField, mask any) (*nftField, error) {
	if f.addrs != nil {
		return maskedAddrs(f, mask)
	}
	if f.put == nil {
		return nil, errors.New("bits of a name")
	}
	var err error
	if f.mask, err = f.value(mask); err != nil {
		return nil, err
	}
	if f.fragment {
		if f.mask&^0x8000 != 0x1fff {
			return nil, errFragment
		}
		f.mask = 0
	}
	if f.traffic {
		// The first two octets of an IPv6 header, of which the traffic class is
		// in the middle.
		if f.mask&^0x0ff0 != 0 {
			return nil, errors.New("bits of an IPv6 header beside the traffic class")
		}
		m := uint8(f.mask >> 4)
		f.mask = 0
		f.put = func(t *term, ranges []Range) error {
			t.tos = setOf(func(v uint8) bool { return within(ranges, uint32(v&m)<<4) })
			return nil
		}
	}
	return f, nil
}

// plain reads what is asked for.
func (s *statements) plain(left any, masked bool) (*nftField, error) {
	m, _ := left.(map[string]any)
	for kind, v := range m {
		if len(m) != 1 {
			break
		}
		a, _ := v.(map[string]any)
		word := func(k string) string {
			w, _ := a[k].(string)
			return w
		}
		var f *nftField
		switch kind {
		case "meta":
			f = s.meta(word("key"))
		case "ct":
			s.tracks = true
			if word("key") == "state" && word("dir") == "" {
				f = &nftField{limit: stateAny, names: nftStates, bits: true, put: func(t *term, ranges []Range) error {
					t.state = 0
					for bit := uint8(1); bit < stateAny; bit <<= 1 {
						if within(ranges, uint32(bit)) {
							t.state |= bit
						}
					}
					return nil
				}}
			}
		case "payload":
			if word("base") != "" {
				f = s.raw(a)
			} else {
				f = s.payload(word("protocol"), word("field"))
			}
		case "exthdr":
			if word("name") == "frag" && word("field") == "frag-off" && !masked {
				f = &nftField{limit: 0x1fff, names: noNames, families: 1 << IPv6, put: func(t *term, ranges []Range) error {
					if !slices.Equal(ranges, []Range{{1, 0x1fff}}) {
						return errFragment
					}
					t.frag &= fragLater
					return nil
				}}
			}
		}
		if f != nil && f.fragment && !masked {
			return nil, errFragment
		}
		if f != nil {
			return f, nil
		}
	}
	return nil, fmt.Errorf("a list cannot ask for %s", nftText(left))
}

func (s *statements) meta(key string) *nftField {
	switch key {
	case "iifname", "iif":
		return &nftField{iface: func(t *term, i ifaces) { t.iif = append(t.iif, i) }}
	case "oifname", "oif":
		return &nftField{iface: func(t *term, i ifaces) { t.oif = append(t.oif, i) }}
	case "l4proto":
		return protoField(0)
	case "nfproto":
		return familyField(nftFamilies, 2, 10)
	case "protocol":
		return familyField(nftEtherTypes, 0x0800, 0x86dd)
	case "length":
		f := lengthField(0, 0)
		if s.rule.Family == "netdev" || s.rule.Family == "bridge" {
			f.notes = []note{{why: "the frame's length, padding included, is not known to a list: the packet's is taken", more: true, less: true}}
		}
		return f
	}
	return nil
}

func protoField(families uint8) *nftField {
	return &nftField{limit: 255, names: nftProtos, families: families, put: func(t *term, ranges []Range) error {
		t.proto = t.proto.and(setOfRanges(ranges))
		return nil
	}}
}

// familyField has a number for each of the families.
func familyField(names *table, numbers ...uint32) *nftField {
	return &nftField{limit: 0xffff, names: names, put: func(t *term, ranges []Range) error {
		t.families = 0
		for f, n := range numbers {
			if within(ranges, n) {
				t.families |= 1 << f
			}
		}
		return nil
	}}
}

func lengthField(families uint8, header uint16) *nftField {
	return &nftField{limit: 0xffff, names: noNames, families: families, put: func(t *term, ranges []Range) error {
		t.length = []Range{}
		for _, r := range ranges {
			if r.From <= 0xffff-header {
				t.length = append(t.length, Range{r.From + header, min(r.To, 0xffff-header) + header})
			}
		}
		return nil
	}}
}

func tosField8(families uint8, names *table, mask uint8, shift int) *nftField {
	return &nftField{limit: int(mask >> shift), names: names, families: families, put: func(t *term, ranges []Range) error {
		t.tos = t.tos.and(setOf(func(v uint8) bool { return within(ranges, uint32(v&mask>>shift)) }))
		return nil
	}}
}

func portField(protos octets, put func(t *term, ranges []Range), names *table) *nftField {
	return &nftField{limit: 0xffff, names: names, put: func(t *term, ranges []Range) error {
		t.proto, t.frag = t.proto.and(protos), t.frag&fragNone
		put(t, ranges)
		return nil
	}}
}

// icmpField is a type or a code.
func icmpField(f Family, code bool) *nftField {
	names, cost := nftICMP[f], 0
	if code {
		names, cost = nftCodes[f], 256 // for each type
	}
	return &nftField{limit: 255, names: names, cost: cost, families: 1 << f, put: func(t *term, ranges []Range) error {
		t.proto, t.frag = t.proto.and(octetSet(uint8(icmpProto[f]))), t.frag&fragNone
		t.icmp = []Range{}
		for typ := uint16(0); code && typ <= 255; typ++ {
			for _, r := range ranges {
				t.icmp = append(t.icmp, Range{typ<<8 | r.From, typ<<8 | r.To})
			}
		}
		for _, r := range ranges {
			if !code {
				t.icmp = append(t.icmp, Range{r.From << 8, r.To<<8 | 0xff})
			}
		}
		t.icmp = sortRanges(t.icmp)
		return nil
	}}
}

func (s *statements) payload(protocol, name string) *nftField {
	protos, hasPorts := protoOf[protocol]
	switch name {
	case "sport", "dport":
		if !hasPorts {
			return nil
		}
		put := func(t *term, ranges []Range) { t.sport = ranges }
		if name == "dport" {
			put = func(t *term, ranges []Range) { t.dport = ranges }
		}
		names := anyPorts
		if protocol == "tcp" {
			names = tcpPorts
		} else if protocol == "udp" {
			names = udpPorts
		}
		f := portField(protos, put, names)
		if protocol == "th" {
			f.notes = s.allPorts()
		}
		return f
	case "flags":
		if protocol == "tcp" {
			return flagsField()
		}
		return nil
	case "type", "code":
		switch protocol {
		case "icmp":
			return icmpField(IPv4, name == "code")
		case "icmpv6":
			return icmpField(IPv6, name == "code")
		case "ether":
			return familyField(nftEtherTypes, 0x0800, 0x86dd)
		}
		return nil
	}
	switch protocol + " " + name {
	case "ip saddr", "ip6 saddr":
		return &nftField{families: tableFamilies[protocol], addrs: func(t *term) *addrSet { return &t.src }}
	case "ip daddr", "ip6 daddr":
		return &nftField{families: tableFamilies[protocol], addrs: func(t *term) *addrSet { return &t.dst }}
	case "ip protocol":
		return protoField(1 << IPv4)
	case "ip6 nexthdr":
		f := protoField(1 << IPv6)
		f.notes = []note{{why: "the protocol behind IPv6's extension headers is taken, not the first header's word", more: true, less: true}}
		return f
	case "ip dscp", "ip6 dscp":
		return tosField8(tableFamilies[protocol], nftDSCP, 0xfc, 2)
	case "ip ecn", "ip6 ecn":
		return tosField8(tableFamilies[protocol], nftECN, 0x03, 0)
	case "ip ttl", "ip6 hoplimit":
		return &nftField{limit: 255, names: noNames, families: tableFamilies[protocol], put: func(t *term, ranges []Range) error {
			t.ttl = setOfRanges(ranges)
			return nil
		}}
	case "ip length":
		return lengthField(1<<IPv4, 0)
	case "ip6 length":
		return lengthField(1<<IPv6, 40)
	case "ip version", "ip6 version":
		families := tableFamilies[protocol]
		return &nftField{limit: 15, names: noNames, families: families, put: func(t *term, ranges []Range) error {
			if want := map[string]uint32{"ip": 4, "ip6": 6}[protocol]; !within(ranges, want) {
				t.families = 0
			}
			return nil
		}}
	case "ip frag-off":
		return &nftField{limit: 0xffff, names: noNames, families: 1 << IPv4, fragment: true, put: func(t *term, ranges []Range) error {
			// Under a mask that leaves the offset.
			switch in := complement(ranges, 0x1fff); {
			case slices.Equal(ranges, []Range{{0, 0}}):
				t.frag &= fragNone
			case slices.Equal(in, []Range{{0, 0}}):
				t.frag &= fragLater
			default:
				return errFragment
			}
			return nil
		}}
	}
	return nil
}

func flagsField() *nftField {
	return &nftField{limit: 255, names: nftFlags, bits: true, put: func(t *term, ranges []Range) error {
		t.proto, t.frag = t.proto.and(octetSet(flow.ProtoTCP)), t.frag&fragNone
		t.flags = setOfRanges(ranges)
		return nil
	}}
}

// allPorts is what to say of a port of any protocol.
func (s *statements) allPorts() []note {
	for i := range s.arms {
		if rest := s.arms[i].term.proto.minus(portProtos); !rest.empty() {
			return []note{{why: "ports are those of TCP, UDP, UDP-Lite, SCTP and DCCP; of other protocols no octets are read", more: true, less: true}}
		}
	}
	return nil
}

// raw reads an octet by its place, where a list has it.
func (s *statements) raw(a map[string]any) *nftField {
	at, _ := a["offset"].(float64)
	n, _ := a["len"].(float64)
	place := fmt.Sprintf("%v %v %v", a["base"], at, n)
	switch place {
	case "nh 8 8":
		if s.only(IPv4) {
			return tosField8(1<<IPv4, noNames, 0xff, 0)
		}
	case "nh 0 16":
		if s.only(IPv6) {
			return &nftField{limit: 0xffff, names: noNames, families: 1 << IPv6, traffic: true, put: func(*term, []Range) error {
				return errors.New("bits of an IPv6 header beside the traffic class")
			}}
		}
	case "th 0 16", "th 16 16":
		put := func(t *term, ranges []Range) { t.sport = ranges }
		if at > 0 {
			put = func(t *term, ranges []Range) { t.dport = ranges }
		}
		f := portField(portProtos, put, noNames)
		f.notes = s.allPorts()
		return f
	}
	return nil
}

// only says whether the rule so far is of one family.
func (s *statements) only(f Family) bool {
	for i := range s.arms {
		if s.arms[i].term.families != 1<<f {
			return false
		}
	}
	return true
}

// Text, as nft writes it.

func nftRuleText(r *nftRule) string {
	var all []string
	for _, e := range r.Expr {
		for name, v := range e {
			all = append(all, nftStatement(name, v))
		}
	}
	if r.Comment != "" {
		all = append(all, "comment "+fmt.Sprintf("%q", r.Comment))
	}
	return shorten(strings.Join(all, " "))
}

// shorten cuts what would fill a screen.
func shorten(s string) string {
	const most = 400
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + cutShort
}

// cutShort is where a text went on.
const cutShort = "…"

// nftStatement is a statement as text.
func nftStatement(name string, v any) string {
	m, _ := v.(map[string]any)
	switch name {
	case "match":
		return nftText(v)
	case "vmap":
		return nftText(m["key"]) + " vmap " + nftText(m["data"])
	case "jump", "goto":
		return name + " " + nftText(m["target"])
	case "reject":
		if t, _ := m["type"].(string); t != "" {
			name += " with " + t
		}
		if e, _ := m["expr"].(string); e != "" {
			name += " " + e
		}
		return name
	case "counter":
		if s, named := v.(string); named {
			return "counter name " + s
		}
		return name
	case "limit":
		s := "limit rate "
		if inv, _ := m["inv"].(bool); inv {
			s += "over "
		}
		return s + nftText(m["rate"]) + "/" + nftText(m["per"])
	case "log":
		if p, ok := m["prefix"].(string); ok {
			return fmt.Sprintf("log prefix %q", p)
		}
		return name
	}
	if v == nil {
		return name
	}
	return name + " " + nftText(v)
}

// nftText is an expression as text.
func nftText(v any) string { return shorten(nftExpr(v, 0)) }

func nftExpr(v any, depth int) string {
	if depth > 16 {
		return "…"
	}
	join := func(v any, by string) string {
		all, ok := v.([]any)
		if !ok {
			return nftExpr(v, depth+1)
		}
		var parts []string
		for _, e := range all {
			if parts = append(parts, nftExpr(e, depth+1)); len(parts) > 100 {
				break
			}
		}
		return strings.Join(parts, by)
	}
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return fmt.Sprintf("%.400s", v)
	case float64:
		return fmt.Sprintf("%.15g", v)
	case []any:
		return join(v, ",")
	case map[string]any:
		word := func(k string) string { return nftExpr(v[k], depth+1) }
		if op, ok := v["op"].(string); ok && v["left"] != nil {
			left, right := word("left"), word("right")
			if name, ok := v["right"].(string); ok && strings.HasSuffix(left, "ifname") {
				right = strconv.Quote(name)
			}
			switch _, masked := sole(v["left"], "&"); {
			case op == "==" && !masked, op == "in":
				return left + " " + right
			}
			return left + " " + op + " " + right
		}
		if len(v) != 1 {
			break
		}
		for kind, w := range v {
			in, _ := w.(map[string]any)
			of := func(k string) string { return nftExpr(in[k], depth+1) }
			switch kind {
			case "payload":
				if in["base"] != nil {
					return "@" + of("base") + "," + of("offset") + "," + of("len")
				}
				return of("protocol") + " " + of("field")
			case "meta":
				switch k := of("key"); k {
				case "iif", "oif", "iifname", "oifname", "mark":
					return k
				default:
					return "meta " + k
				}
			case "ct":
				return "ct " + of("key")
			case "exthdr":
				if in["field"] == nil {
					return "exthdr " + of("name")
				}
				return of("name") + " " + of("field")
			case "fib":
				return "fib " + of("flags") + " " + of("result")
			case "prefix":
				return of("addr") + "/" + of("len")
			case "range":
				return join(w, "-")
			case "concat":
				return join(w, " . ")
			case "set":
				var parts []string
				all, _ := w.([]any)
				for _, e := range all {
					pair, _ := e.([]any)
					if len(pair) != 2 {
						parts = append(parts, nftExpr(e, depth+1))
					} else if to, _ := pair[1].(map[string]any); len(to) == 1 {
						for name, t := range to {
							parts = append(parts, nftExpr(pair[0], depth+1)+" : "+nftStatement(name, t))
						}
					}
					if len(parts) > 100 {
						break
					}
				}
				return "{ " + strings.Join(parts, ", ") + " }"
			case "elem":
				return of("val")
			case "&":
				return join(w, " & ")
			case "|":
				return join(w, "|")
			}
			return kind + " " + nftExpr(w, depth+1)
		}
	}
	text, _ := json.Marshal(v)
	return string(text)
}
