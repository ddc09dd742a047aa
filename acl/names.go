package acl

import (
	"slices"
	"strconv"
	"strings"

	"weir/flow"
)

// entry is a name for a number.
type entry struct {
	name string
	n    int
}

// table is names for numbers. Where a number has several, the first is printed.
type table struct {
	entries []entry
	byName  map[string]int
	byN     map[int]string
}

// newTable makes a table of entries, and of aliases that are read but not
// printed.
func newTable(entries []entry, aliases ...entry) *table {
	t := &table{slices.Concat(entries, aliases), map[string]int{}, map[int]string{}}
	for i, e := range t.entries {
		t.byName[e.name] = e.n
		if _, known := t.byN[e.n]; !known && i < len(entries) {
			t.byN[e.n] = e.name
		}
	}
	return t
}

func (t *table) names() []string {
	all := make([]string, len(t.entries))
	for i, e := range t.entries {
		all[i] = e.name
	}
	return all
}

// number reads a name or a number from 0 to limit.
func (t *table) number(s string, limit int) (int, bool) {
	if n, ok := t.byName[strings.ToLower(s)]; ok {
		return n, true
	}
	return decimal(s, limit)
}

// text is the name of n, or its digits.
func (t *table) text(n int) string {
	if s, ok := t.byN[n]; ok {
		return s
	}
	return strconv.Itoa(n)
}

// decimal reads digits, and nothing else, of a number from 0 to limit.
func decimal(s string, limit int) (int, bool) {
	if s == "" || len(s) > 10 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n <= limit
}

// Names of ports, as IOS has them (permit tcp any any eq ?), and a few that it
// has not.
var (
	tcpPorts = newTable([]entry{
		{"bgp", 179},
		{"chargen", 19},
		{"cmd", 514},
		{"daytime", 13},
		{"discard", 9},
		{"domain", 53},
		{"drip", 3949},
		{"echo", 7},
		{"exec", 512},
		{"finger", 79},
		{"ftp", 21},
		{"ftp-data", 20},
		{"gopher", 70},
		{"hostname", 101},
		{"ident", 113},
		{"irc", 194},
		{"klogin", 543},
		{"kshell", 544},
		{"login", 513},
		{"lpd", 515},
		{"msrpc", 135},
		{"nntp", 119},
		{"onep-plain", 15001},
		{"onep-tls", 15002},
		{"pim-auto-rp", 496},
		{"pop2", 109},
		{"pop3", 110},
		{"smtp", 25},
		{"sunrpc", 111},
		{"tacacs", 49},
		{"talk", 517},
		{"telnet", 23},
		{"time", 37},
		{"uucp", 540},
		{"whois", 43},
		{"www", 80},
	}, []entry{
		{"connectedapps-plain", 15001}, {"connectedapps-tls", 15002}, {"syslog", 514}, // of other releases
		{"http", 80}, {"https", 443}, {"imap", 143}, {"imaps", 993}, {"ldap", 389}, {"ldaps", 636}, {"ssh", 22}, // ours
	}...)
	udpPorts = newTable([]entry{
		{"biff", 512},
		{"bootpc", 68},
		{"bootps", 67},
		{"discard", 9},
		{"dnsix", 195},
		{"domain", 53},
		{"echo", 7},
		{"isakmp", 500},
		{"mobile-ip", 434},
		{"nameserver", 42},
		{"netbios-dgm", 138},
		{"netbios-ns", 137},
		{"netbios-ss", 139},
		{"non500-isakmp", 4500},
		{"ntp", 123},
		{"pim-auto-rp", 496},
		{"rip", 520},
		{"ripv6", 521},
		{"snmp", 161},
		{"snmptrap", 162},
		{"sunrpc", 111},
		{"syslog", 514},
		{"tacacs", 49},
		{"talk", 517},
		{"tftp", 69},
		{"time", 37},
		{"who", 513},
		{"xdmcp", 177},
	}, []entry{{"https", 443}, {"radius", 1812}, {"radius-acct", 1813}}...) // ours
	noNames  = newTable(nil)
	anyPorts = newTable(slices.Concat(tcpPorts.entries, udpPorts.entries)) // in groups that do not say of which protocol
)

// portTable has the names of a protocol's ports.
func portTable(proto int16) *table {
	switch proto {
	case flow.ProtoTCP:
		return tcpPorts
	case flow.ProtoUDP, flow.ProtoUDPLite:
		return udpPorts
	case AnyProto:
		return anyPorts
	}
	return noNames
}

// hasPorts says whether packets of a protocol have ports in their key.
func hasPorts(proto int16) bool {
	switch proto {
	case flow.ProtoTCP, flow.ProtoUDP, flow.ProtoUDPLite, flow.ProtoSCTP, flow.ProtoDCCP:
		return true
	}
	return false
}

// Names of protocols in lists of either family. vrrp, dccp and udplite are
// ours.
var protocols = []entry{
	{"ahp", 51},
	{"eigrp", 88},
	{"esp", 50},
	{"gre", 47},
	{"ipinip", 4},
	{"nos", 94},
	{"ospf", 89},
	{"pcp", 108},
	{"pim", 103},
	{"sctp", flow.ProtoSCTP},
	{"tcp", flow.ProtoTCP},
	{"udp", flow.ProtoUDP},
	{"vrrp", 112},
	{"dccp", flow.ProtoDCCP},
	{"udplite", flow.ProtoUDPLite},
}

var protoTables = [...]*table{
	IPv4: newTable(slices.Concat([]entry{{"ip", AnyProto}, {"icmp", flow.ProtoICMP}, {"igmp", 2}, {"igrp", 9}}, protocols)),
	IPv6: newTable(slices.Concat([]entry{{"ipv6", AnyProto}, {"icmp", flow.ProtoICMPv6}}, protocols), entry{"icmpv6", flow.ProtoICMPv6}),
}

// icmpProto is the ICMP of each family.
var icmpProto = [...]int16{IPv4: flow.ProtoICMP, IPv6: flow.ProtoICMPv6}

// all is the code of a name that stands for a type.
const all = -1

func icmp(name string, typ, code int) entry { return entry{name, typ<<9 | (code + 1)} }

func (i ICMP) index() int { return int(i.Type)<<9 | (int(i.Code) + 1) }

func icmpOf(n int) ICMP { return ICMP{uint8(n >> 9), int16(n&511) - 1} }

// Names of ICMP types and codes, as IOS has them: RFC 792, RFC 1812 (unreachable),
// RFC 4443 and 6275 onwards (ICMPv6), RFC 8335 (extended echo).
var icmpTables = [...]*table{
	IPv4: newTable([]entry{
		icmp("administratively-prohibited", 3, 13), icmp("alternate-address", 6, all), icmp("conversion-error", 31, all),
		icmp("dod-host-prohibited", 3, 10), icmp("dod-net-prohibited", 3, 9), icmp("echo", 8, all), icmp("echo-reply", 0, all),
		icmp("echo-reply-no-error", 43, 0), icmp("extended-echo", 42, all), icmp("extended-echo-reply", 43, all),
		icmp("general-parameter-problem", 12, 0), icmp("host-isolated", 3, 8), icmp("host-precedence-unreachable", 3, 14),
		icmp("host-redirect", 5, 1), icmp("host-tos-redirect", 5, 3), icmp("host-tos-unreachable", 3, 12),
		icmp("host-unknown", 3, 7), icmp("host-unreachable", 3, 1), icmp("information-reply", 16, all),
		icmp("information-request", 15, all), icmp("interface-error", 43, 2), icmp("malformed-query", 43, 1),
		icmp("mask-reply", 18, all), icmp("mask-request", 17, all), icmp("mobile-redirect", 32, all),
		icmp("multiple-interface-match", 43, 4), icmp("net-redirect", 5, 0), icmp("net-tos-redirect", 5, 2),
		icmp("net-tos-unreachable", 3, 11), icmp("net-unreachable", 3, 0), icmp("network-unknown", 3, 6),
		icmp("no-room-for-option", 12, 2), icmp("option-missing", 12, 1), icmp("packet-too-big", 3, 4),
		icmp("parameter-problem", 12, all), icmp("photuris", 40, all), icmp("port-unreachable", 3, 3),
		icmp("precedence-unreachable", 3, 15), icmp("protocol-unreachable", 3, 2), icmp("reassembly-timeout", 11, 1),
		icmp("redirect", 5, all), icmp("router-advertisement", 9, all), icmp("router-solicitation", 10, all),
		icmp("source-quench", 4, all), icmp("source-route-failed", 3, 5), icmp("table-entry-error", 43, 3),
		icmp("time-exceeded", 11, all), icmp("timestamp-reply", 14, all), icmp("timestamp-request", 13, all),
		icmp("traceroute", 30, all), icmp("ttl-exceeded", 11, 0), icmp("unreachable", 3, all),
	}),
	IPv6: newTable([]entry{
		icmp("beyond-scope", 1, 2), icmp("cp-advertisement", 149, all), icmp("cp-solicitation", 148, all),
		icmp("destination-unreachable", 1, 3), icmp("dhaad-reply", 145, all), icmp("dhaad-request", 144, all),
		icmp("echo-reply", 129, all), icmp("echo-request", 128, all), icmp("header", 4, 0), icmp("hop-limit", 3, 0),
		icmp("ind-advertisement", 142, all), icmp("ind-solicitation", 141, all), icmp("mld-query", 130, all),
		icmp("mld-reduction", 132, all), icmp("mld-report", 131, all), icmp("mldv2-report", 143, all),
		icmp("mpd-advertisement", 147, all), icmp("mpd-solicitation", 146, all), icmp("mr-advertisement", 151, all),
		icmp("mr-solicitation", 152, all), icmp("mr-termination", 153, all), icmp("nd-na", 136, all), icmp("nd-ns", 135, all),
		icmp("next-header", 4, 1), icmp("ni-query", 139, all), icmp("ni-query-name", 139, 1),
		icmp("ni-query-v4-address", 139, 2), icmp("ni-query-v6-address", 139, 0), icmp("ni-response", 140, all),
		icmp("ni-response-qtype-unknown", 140, 2), icmp("ni-response-refuse", 140, 1), icmp("ni-response-success", 140, 0),
		icmp("no-admin", 1, 1), icmp("no-route", 1, 0), icmp("packet-too-big", 2, all), icmp("parameter-option", 4, 2),
		icmp("parameter-problem", 4, all), icmp("port-unreachable", 1, 4), icmp("reassembly-timeout", 3, 1),
		icmp("redirect", 137, all), icmp("reject-route", 1, 6), icmp("renum-command", 138, 0), icmp("renum-result", 138, 1),
		icmp("renum-seq-number", 138, 255), icmp("router-advertisement", 134, all), icmp("router-renumbering", 138, all),
		icmp("router-solicitation", 133, all), icmp("rpl-control", 155, all), icmp("source-policy", 1, 5),
		icmp("source-route-header", 1, 7), icmp("time-exceeded", 3, all), icmp("unreachable", 1, all),
	}, icmp("next-header-type", 4, 1)), // of other releases
}

// Names of parts of the TOS octet (RFC 2474, 2597, 3246; RFC 791, 1349).
var (
	dscpNames = newTable([]entry{
		{"default", 0},
		{"cs1", 8},
		{"cs2", 16},
		{"cs3", 24},
		{"cs4", 32},
		{"cs5", 40},
		{"cs6", 48},
		{"cs7", 56},
		{"af11", 10},
		{"af12", 12},
		{"af13", 14},
		{"af21", 18},
		{"af22", 20},
		{"af23", 22},
		{"af31", 26},
		{"af32", 28},
		{"af33", 30},
		{"af41", 34},
		{"af42", 36},
		{"af43", 38},
		{"ef", 46},
	})
	precedenceNames = newTable([]entry{
		{"routine", 0}, {"priority", 1}, {"immediate", 2}, {"flash", 3}, {"flash-override", 4}, {"critical", 5}, {"internet", 6}, {"network", 7},
	})
	tosNames = newTable([]entry{{"normal", 0}, {"min-monetary-cost", 1}, {"max-reliability", 2}, {"max-throughput", 4}, {"min-delay", 8}})
)

// tosField is a part of the TOS octet that can be asked for by itself.
type tosField struct {
	name  string
	mask  uint8
	shift int
	names *table
}

var tosFields = []tosField{
	{"dscp", 0xfc, 2, dscpNames}, {"precedence", 0xe0, 5, precedenceNames}, {"tos", 0x1e, 1, tosNames},
}

// flagNames are the TCP flags; IOS knows the first six.
var flagNames = newTable([]entry{
	{"ack", flow.ACK},
	{"fin", flow.FIN},
	{"psh", flow.PSH},
	{"rst", flow.RST},
	{"syn", flow.SYN},
	{"urg", flow.URG},
	{"ece", flow.ECE},
	{"cwr", flow.CWR},
})

var dayNames = []string{"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"}

const (
	weekdays = 0b0111110
	weekend  = 0b1000001
	daily    = 0b1111111
)
