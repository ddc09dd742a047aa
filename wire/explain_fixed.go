package wire

import "strings"

// The formats of fixed form, octet by octet, in the words of Cisco's documents
// (NetFlow Export Datagram Format; NetFlow FlowCollector, appendix B). A field
// is name:octets, or name:octets:kind.

// fixedField is a field of such a format.
type fixedField struct {
	name string
	n    int
	kind string // how the value is read; "": a number
}

const (
	fixedHead   = "version:2 count:2 SysUptime:4 unix_secs:4:secs unix_nsecs:4:nsecs "
	fixedFlow   = "srcaddr:4:addr dstaddr:4:addr nexthop:4:addr input:2 output:2 dPkts:4 dOctets:4 First:4:uptime Last:4:uptime srcport:2 dstport:2 "
	fixedTail   = "tcp_flags:1:flags prot:1:proto tos:1 src_as:2 dst_as:2 src_mask:1 dst_mask:1 "
	v8Flow      = "flows:4 dPkts:4 dOctets:4 First:4:uptime Last:4:uptime "
	v8Catalyst  = "dPkts:4 dOctets:4 First:4:uptime Last:4:uptime "
	v8Prefixes  = "src_prefix:4:addr dst_prefix:4:addr src_mask:1 dst_mask:1 "
	v8Switching = "extra_pkts:4 router_sc:4:addr"
)

func fixedFields(text string) (all []fixedField) {
	for _, w := range strings.Fields(text) {
		name, rest, _ := strings.Cut(w, ":")
		size, kind, _ := strings.Cut(rest, ":")
		all = append(all, fixedField{name, int(size[0] - '0'), kind})
	}
	return all
}

var fixedHeaders = map[uint8][]fixedField{
	1: fixedFields(fixedHead),
	5: fixedFields(fixedHead + "flow_sequence:4 engine_type:1 engine_id:1 sampling_interval:2:sampling"),
	6: fixedFields(fixedHead + "flow_sequence:4 engine_type:1 engine_id:1 reserved:2:zero"),
	7: fixedFields(fixedHead + "flow_sequence:4 reserved:4:zero"),
	8: fixedFields(fixedHead + "flow_sequence:4 engine_type:1 engine_id:1 aggregation:1:scheme agg_version:1 reserved:4:zero"),
}

var fixedRecords = map[uint8][]fixedField{
	1: fixedFields(fixedFlow + "pad1:2:zero prot:1:proto tos:1 tcp_flags:1:flags pad2:1:zero pad3:2:zero reserved:4:zero"),
	5: fixedFields(fixedFlow + "pad1:1:zero " + fixedTail + "pad2:2:zero"),
	6: fixedFields(fixedFlow + "pad1:1:zero " + fixedTail + "in_encaps:1 out_encaps:1 peer_nexthop:4:addr"),
	7: fixedFields(fixedFlow + "flags:1 " + fixedTail + "flags:2 router_sc:4:addr"),
}

// v8Records are v8's, by aggregation scheme.
var v8Records = [...][]fixedField{
	1:  fixedFields(v8Flow + "src_as:2 dst_as:2 input:2 output:2"),
	2:  fixedFields(v8Flow + "prot:1:proto pad:1:zero reserved:2:zero srcport:2 dstport:2"),
	3:  fixedFields(v8Flow + "src_prefix:4:addr src_mask:1 pad:1:zero src_as:2 input:2 reserved:2:zero"),
	4:  fixedFields(v8Flow + "dst_prefix:4:addr dst_mask:1 pad:1:zero dst_as:2 output:2 reserved:2:zero"),
	5:  fixedFields(v8Flow + v8Prefixes + "reserved:2:zero src_as:2 dst_as:2 input:2 output:2"),
	6:  fixedFields("dstaddr:4:addr " + v8Catalyst + "output:2 tos:1 marked_tos:1 " + v8Switching),
	7:  fixedFields("dstaddr:4:addr srcaddr:4:addr " + v8Catalyst + "output:2 input:2 tos:1 marked_tos:1 reserved:2:zero " + v8Switching),
	8:  fixedFields("dstaddr:4:addr srcaddr:4:addr dstport:2 srcport:2 " + v8Catalyst + "output:2 input:2 tos:1 prot:1:proto marked_tos:1 pad:1:zero " + v8Switching),
	9:  fixedFields(v8Flow + "src_as:2 dst_as:2 input:2 output:2 tos:1 pad:1:zero reserved:2:zero"),
	10: fixedFields(v8Flow + "prot:1:proto tos:1 reserved:2:zero srcport:2 dstport:2 input:2 output:2"),
	11: fixedFields(v8Flow + "src_prefix:4:addr src_mask:1 tos:1 src_as:2 input:2 reserved:2:zero"),
	12: fixedFields(v8Flow + "dst_prefix:4:addr dst_mask:1 tos:1 dst_as:2 output:2 reserved:2:zero"),
	13: fixedFields(v8Flow + v8Prefixes + "tos:1 pad:1:zero src_as:2 dst_as:2 input:2 output:2"),
	14: fixedFields(v8Flow + v8Prefixes + "tos:1 prot:1:proto srcport:2 dstport:2 input:2 output:2"),
}

func sizeOf(fields []fixedField) (n int) {
	for _, f := range fields {
		n += f.n
	}
	return n
}
