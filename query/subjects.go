package query

import (
	"slices"
	"strings"
)

// valueKind says what a subject is compared with.
type valueKind uint8

const (
	kindNumber  valueKind = iota
	kindAddr              // addresses and networks
	kindTime              // times
	kindFlags             // TCP flags: letters or a number
	kindProto             // names or numbers
	kindReason            // end reasons: names or numbers
	kindStatus            // forwarding status: names or numbers
	kindSide              // ingress, egress, 0, 1
	kindVersion           // export protocol versions: numbers, sflow
	kindFamily            // ipv4, ipv6
)

// subject is what a term is about.
type subject struct {
	name string // canonical
	cols []column
	kind valueKind
	max  uint64 // largest number that makes sense; 0: any
}

var subjects = struct {
	ip, srcIP, dstIP, exporter, nextHop, bgpNextHop             subject
	port, srcPort, dstPort, as, srcAS, dstAS, ifs, inIf, outIf  subject
	mask, srcMask, dstMask, proto, icmpType, icmpCode           subject
	vlan, tos, flags, packets, bytes, flows, pps, bps, bpp      subject
	duration, domain, fwdstat, flowdir, sampling, reason        subject
	version, flowID, fragment, first, last, received, ipVersion subject
}{
	ip:         subject{"ip", []column{colSrc, colDst}, kindAddr, 0},
	srcIP:      subject{"src ip", []column{colSrc}, kindAddr, 0},
	dstIP:      subject{"dst ip", []column{colDst}, kindAddr, 0},
	exporter:   subject{"exporter ip", []column{colExporter}, kindAddr, 0},
	nextHop:    subject{"next ip", []column{colNextHop}, kindAddr, 0},
	bgpNextHop: subject{"bgp next ip", []column{colBGPNextHop}, kindAddr, 0},
	port:       subject{"port", []column{colSrcPort, colDstPort}, kindNumber, 65535},
	srcPort:    subject{"src port", []column{colSrcPort}, kindNumber, 65535},
	dstPort:    subject{"dst port", []column{colDstPort}, kindNumber, 65535},
	as:         subject{"as", []column{colSrcAS, colDstAS}, kindNumber, 1<<32 - 1},
	srcAS:      subject{"src as", []column{colSrcAS}, kindNumber, 1<<32 - 1},
	dstAS:      subject{"dst as", []column{colDstAS}, kindNumber, 1<<32 - 1},
	ifs:        subject{"if", []column{colInput, colOutput}, kindNumber, 1<<32 - 1},
	inIf:       subject{"in if", []column{colInput}, kindNumber, 1<<32 - 1},
	outIf:      subject{"out if", []column{colOutput}, kindNumber, 1<<32 - 1},
	mask:       subject{"mask", []column{colSrcMask, colDstMask}, kindNumber, 128},
	srcMask:    subject{"src mask", []column{colSrcMask}, kindNumber, 128},
	dstMask:    subject{"dst mask", []column{colDstMask}, kindNumber, 128},
	proto:      subject{"proto", []column{colProto}, kindProto, 255},
	icmpType:   subject{"icmp-type", []column{colICMPType}, kindNumber, 255},
	icmpCode:   subject{"icmp-code", []column{colICMPCode}, kindNumber, 255},
	vlan:       subject{"vlan", []column{colVLAN}, kindNumber, 4095},
	tos:        subject{"tos", []column{colTOS}, kindNumber, 255},
	flags:      subject{"flags", []column{colTCPFlags}, kindFlags, 65535},
	packets:    subject{"packets", []column{colPackets}, kindNumber, 0},
	bytes:      subject{"bytes", []column{colBytes}, kindNumber, 0},
	flows:      subject{"flows", []column{colFlows}, kindNumber, 0},
	pps:        subject{"pps", []column{colPPS}, kindNumber, 0},
	bps:        subject{"bps", []column{colBPS}, kindNumber, 0},
	bpp:        subject{"bpp", []column{colBPP}, kindNumber, 0},
	duration:   subject{"duration", []column{colDuration}, kindNumber, 0},
	domain:     subject{"observation domain id", []column{colDomain}, kindNumber, 1<<32 - 1},
	fwdstat:    subject{"fwdstat", []column{colForwardingStatus}, kindStatus, 255},
	flowdir:    subject{"flowdir", []column{colDirection}, kindSide, 255},
	sampling:   subject{"sampling", []column{colSampling}, kindNumber, 1<<32 - 1},
	reason:     subject{"end_reason", []column{colEndReason}, kindReason, 255},
	version:    subject{"version", []column{colVersion}, kindVersion, 255},
	flowID:     subject{"flow_id", []column{colFlowID}, kindNumber, 0},
	fragment:   subject{"fragment", []column{colFragment}, kindNumber, 1},
	first:      subject{"first seen", []column{colFirst}, kindTime, 0},
	last:       subject{"last seen", []column{colLast}, kindTime, 0},
	received:   subject{"received", []column{colReceived}, kindTime, 0},
	ipVersion:  subject{"ip_version", []column{colIPVersion}, kindFamily, 255},
}

// phrase is a way to name a subject.
type phrase struct {
	words   []string
	subject *subject
	column  bool // weir's own column name, not nfdump's
}

// phrases lists all of them; the longest match wins.
var phrases = func() []phrase {
	s := &subjects
	var out []phrase
	say := func(subject *subject, texts ...string) {
		for _, t := range texts {
			out = append(out, phrase{strings.Fields(t), subject, false})
		}
	}
	col := func(subject *subject, names ...string) {
		for _, n := range names {
			out = append(out, phrase{[]string{n}, subject, true})
		}
	}
	say(&s.ip, "ip", "host", "net")
	say(&s.srcIP, "src ip", "src host", "src net")
	say(&s.dstIP, "dst ip", "dst host", "dst net")
	say(&s.exporter, "exporter ip", "router ip", "exporter host", "router host", "exporter net", "router net")
	say(&s.nextHop, "next ip", "next host", "next net")
	say(&s.bgpNextHop, "bgp next ip", "bgp next host", "bgp next net")
	say(&s.port, "port")
	say(&s.srcPort, "src port")
	say(&s.dstPort, "dst port")
	say(&s.as, "as")
	say(&s.srcAS, "src as")
	say(&s.dstAS, "dst as")
	say(&s.ifs, "if")
	say(&s.inIf, "in if")
	say(&s.outIf, "out if")
	say(&s.mask, "mask")
	say(&s.srcMask, "src mask")
	say(&s.dstMask, "dst mask")
	say(&s.proto, "proto")
	say(&s.icmpType, "icmp-type", "icmp type")
	say(&s.icmpCode, "icmp-code", "icmp code")
	say(&s.vlan, "vlan", "src vlan")
	say(&s.tos, "tos", "src tos")
	say(&s.flags, "flags")
	say(&s.packets, "packets", "in packets")
	say(&s.bytes, "bytes", "in bytes")
	say(&s.flows, "flows")
	say(&s.pps, "pps")
	say(&s.bps, "bps")
	say(&s.bpp, "bpp")
	say(&s.duration, "duration")
	say(&s.domain, "observation domain id", "observation domain", "domain id", "odid")
	say(&s.fwdstat, "fwdstat")
	say(&s.flowdir, "flowdir")
	say(&s.first, "first seen")
	say(&s.last, "last seen")

	col(&s.srcIP, "src")
	col(&s.dstIP, "dst")
	col(&s.exporter, "exporter")
	col(&s.nextHop, "next_hop")
	col(&s.bgpNextHop, "bgp_next_hop")
	col(&s.srcPort, "sport")
	col(&s.dstPort, "dport")
	col(&s.srcAS, "src_as")
	col(&s.dstAS, "dst_as")
	col(&s.inIf, "input")
	col(&s.outIf, "output")
	col(&s.srcMask, "src_mask")
	col(&s.dstMask, "dst_mask")
	col(&s.icmpType, "icmp_type")
	col(&s.icmpCode, "icmp_code")
	col(&s.flags, "tcp_flags")
	col(&s.domain, "domain")
	col(&s.fwdstat, "forwarding_status")
	col(&s.flowdir, "direction")
	col(&s.sampling, "sampling")
	col(&s.reason, "end_reason")
	col(&s.version, "version")
	col(&s.flowID, "flow_id")
	col(&s.fragment, "fragment")
	col(&s.first, "first")
	col(&s.last, "last")
	col(&s.received, "received")
	col(&s.ipVersion, "ip_version")
	return out
}()

// columnOnly says whether s is known by weir's column name alone, which a
// comparison must follow.
func (s *subject) columnOnly() bool {
	return !slices.ContainsFunc(phrases, func(p phrase) bool { return p.subject == s && !p.column })
}

// notStored are words of nfdump's language for things that weir keeps no column
// of, with the reason given to who uses them.
var notStored = map[string]string{
	"mac": "MAC addresses", "mpls": "MPLS labels", "ident": "nfdump's ident", "count": "nfdump's record numbers",
	"cnt": "nfdump's record numbers", "ttl": "the TTL", "min": "the TTL", "max": "the TTL", "nat": "translated addresses",
	"xlate": "translated addresses", "tun": "tunnels", "geo": "countries", "tz": "time zones", "payload": "payload",
	"asa": "ASA events", "pf": "pf fields", "engine": "engine numbers apart from the domain",
	"engine-type": "engine numbers apart from the domain", "engine-id": "engine numbers apart from the domain",
	"ethertype": "the Ethernet type", "vrf": "VRFs", "client": "latencies", "server": "latencies", "prev": "adjacent AS numbers",
	"ingress": "VRFs and access lists", "egress": "VRFs and access lists", "nbar": "applications",
}

// notStoredAfter are second words of the same kind.
var notStoredAfter = map[string]string{
	"dst vlan": "the inner VLAN", "dst tos": "the ToS after the router", "out packets": "output counters",
	"out bytes": "output counters", "next as": "adjacent AS numbers", "exporter id": "nfdump's exporter numbers",
	"exporter sysid": "nfdump's exporter numbers", "observation point": "observation points",
	"in src": "MAC addresses", "in dst": "MAC addresses", "out src": "MAC addresses", "out dst": "MAC addresses",
	"in mac": "MAC addresses", "out mac": "MAC addresses", "src mac": "MAC addresses", "dst mac": "MAC addresses",
	"src geo": "countries", "dst geo": "countries", "src nat": "translated addresses", "dst nat": "translated addresses",
	"src tun": "tunnels", "dst tun": "tunnels",
}

// protocols are the names accepted for protocol numbers (IANA's, and nfdump's
// spellings of them).
var protocols = map[string]uint64{
	"hopopt": 0, "icmp": 1, "igmp": 2, "ggp": 3, "ipip": 4, "ipencap": 4, "ip-in-ip": 4, "st": 5, "tcp": 6, "cbt": 7,
	"egp": 8, "igp": 9, "udp": 17, "dccp": 33, "ipv6": 41, "6in4": 41, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51,
	"icmp6": 58, "icmpv6": 58, "ipv6-icmp": 58, "eigrp": 88, "ospf": 89, "ospfigp": 89, "etherip": 97, "encap": 98,
	"pim": 103, "ipcomp": 108, "vrrp": 112, "carp": 112, "l2tp": 115, "isis": 124, "sctp": 132, "mobility": 135,
	"udplite": 136, "udp-lite": 136, "mpls-in-ip": 137,
}

// endReasons are those of flow.EndReason.
var endReasons = map[string]uint64{"idle": 1, "active": 2, "end": 3, "forced": 4, "resources": 5}

// statuses are classes of IANA element 89, its two top bits.
var statuses = map[string]uint64{"forwarded": 1, "dropped": 2, "consumed": 3}
