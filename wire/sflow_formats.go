package wire

import "strings"

// What sFlow's structures are made of, in XDR (RFC 4506): every value takes a
// multiple of four octets, big-endian. One table serves the decoder, which
// writes what has no column as JSON, and Explain.

// xdrKind is the type of an XDR value.
type xdrKind uint8

const (
	xdrUint    xdrKind = iota // 4 octets
	xdrInt                    // 4 octets, signed
	xdrHyper                  // 8 octets
	xdrFloat                  // 4 octets
	xdrIPv4                   // 4 octets
	xdrIPv6                   // 16 octets
	xdrAddress                // its type 4, then the address: 0 (unknown), 4 or 16 octets
	xdrMAC                    // 6 octets and 2 of padding
	xdrUUID                   // 16 octets
	xdrString                 // length 4, octets, padding
	xdrOpaque                 // the same, not text
	xdrList                   // count 4, so many integers
	xdrPath                   // count 4, so many segments: type 4, count 4, so many AS numbers
	xdrStack                  // count 4, so many MPLS label stack entries (RFC 3032)
	xdrMACs                   // count 4, so many MAC addresses
)

// xdrField is a member of a structure, in the specification's words.
type xdrField struct {
	name string
	kind xdrKind
}

// xdrStruct is the body of a record. Where rest is set, count of the last
// field says how many times the fields of rest follow.
type xdrStruct struct {
	name   string
	fields []xdrField
	rest   *xdrStruct
}

// kindOf is how a field's type is written in the tables below.
var kindOf = map[string]xdrKind{
	"": xdrUint, "i": xdrInt, "h": xdrHyper, "f": xdrFloat, "4": xdrIPv4, "6": xdrIPv6, "a": xdrAddress, "m": xdrMAC,
	"u": xdrUUID, "s": xdrString, "o": xdrOpaque, "l": xdrList, "p": xdrPath, "st": xdrStack, "ms": xdrMACs,
}

// parseStruct reads "name field field:kind … [ field … ]": what stands in
// brackets comes as often as the field before it says.
func parseStruct(text string) *xdrStruct {
	head, inner, repeated := strings.Cut(text, "[")
	words := strings.Fields(head)
	s := &xdrStruct{name: words[0]}
	for _, w := range words[1:] {
		name, kind, _ := strings.Cut(w, ":")
		k, ok := kindOf[kind]
		if !ok {
			panic("wire: sFlow table: " + w)
		}
		s.fields = append(s.fields, xdrField{name, k})
	}
	if repeated {
		s.rest = parseStruct(words[len(words)-1] + " " + strings.TrimRight(inner, "] "))
	}
	return s
}

func parseStructs(table map[sflowFormat]string) map[sflowFormat]*xdrStruct {
	all := make(map[sflowFormat]*xdrStruct, len(table))
	for f, text := range table {
		all[f] = parseStruct(text)
	}
	return all
}

// sflowFormat is a data format: enterprise<<12 | format.
type sflowFormat uint32

func (f sflowFormat) enterprise() uint32 { return uint32(f) >> 12 }
func (f sflowFormat) number() uint32     { return uint32(f) & 0xfff }

const (
	sampledIPv4 = "length protocol src_ip:4 dst_ip:4 src_port dst_port tcp_flags tos"
	sampledIPv6 = "length protocol src_ip:6 dst_ip:6 src_port dst_port tcp_flags priority"
	sampledMAC  = "length src_mac:m dst_mac:m type"
	socketPorts = " local_port remote_port"
	nioCounters = "bytes_in:h pkts_in errs_in drops_in bytes_out:h packets_out errs_out drops_out"
)

// Flow records with columns of their own.
const (
	sflowHeader     sflowFormat = 1
	sflowEthernet   sflowFormat = 2
	sflowIPv4       sflowFormat = 3
	sflowIPv6       sflowFormat = 4
	sflowSwitch     sflowFormat = 1001
	sflowRouter     sflowFormat = 1002
	sflowGateway    sflowFormat = 1003
	sflowNAT        sflowFormat = 1007
	sflowVLANTunnel sflowFormat = 1012
	sflowNATPort    sflowFormat = 1020
)

// sflowFlowRecords are the flow_data structures: sflow_version_5.txt, and what
// sflow.org published since: sflow_tunnels.txt, sflow_drops.txt,
// sflow_transit.txt, sflow_application.txt, sflow_host.txt, the 802.11 and
// OpenFlow structures.
var sflowFlowRecords = parseStructs(map[sflowFormat]string{
	sflowHeader:     "sampled_header header_protocol frame_length stripped header:o",
	sflowEthernet:   "sampled_ethernet " + sampledMAC,
	sflowIPv4:       "sampled_ipv4 " + sampledIPv4,
	sflowIPv6:       "sampled_ipv6 " + sampledIPv6,
	sflowSwitch:     "extended_switch src_vlan src_priority dst_vlan dst_priority",
	sflowRouter:     "extended_router nexthop:a src_mask_len dst_mask_len",
	sflowGateway:    "extended_gateway nexthop:a as src_as src_peer_as dst_as_path:p communities:l localpref",
	1004:            "extended_user src_charset src_user:s dst_charset dst_user:s",
	1005:            "extended_url direction url:s host:s",
	1006:            "extended_mpls nexthop:a in_stack:st out_stack:st",
	sflowNAT:        "extended_nat src_address:a dst_address:a",
	1008:            "extended_mpls_tunnel tunnel_lsp_name:s tunnel_id tunnel_cos",
	1009:            "extended_mpls_vc vc_instance_name:s vll_vc_id vc_label_cos",
	1010:            "extended_mpls_FTN mplsFTNDescr:s mplsFTNMask",
	1011:            "extended_mpls_LDP_FEC mplsFecAddrPrefixLength",
	sflowVLANTunnel: "extended_vlantunnel stack:l",
	1013:            "extended_80211_payload ciphersuite data:o",
	1014:            "extended_80211_rx ssid:s bssid:m version channel speed:h rsni rcpi packet_duration",
	1015:            "extended_80211_tx ssid:s bssid:m version transmissions packet_duration retrans_duration channel speed:h power",
	1017:            "extended_openflow_v1 flow_cookie:h flow_match:h flow_actions:h",
	sflowNATPort:    "extended_nat_port src_port dst_port",
	1021:            "extended_l2_tunnel_egress " + sampledMAC,
	1022:            "extended_l2_tunnel_ingress " + sampledMAC,
	1023:            "extended_ipv4_tunnel_egress " + sampledIPv4,
	1024:            "extended_ipv4_tunnel_ingress " + sampledIPv4,
	1025:            "extended_ipv6_tunnel_egress " + sampledIPv6,
	1026:            "extended_ipv6_tunnel_ingress " + sampledIPv6,
	1027:            "extended_decapsulate_egress inner_header_offset",
	1028:            "extended_decapsulate_ingress inner_header_offset",
	1029:            "extended_vni_egress vni",
	1030:            "extended_vni_ingress vni",
	1036:            "extended_egress_queue queue",
	1037:            "extended_acl number name:s direction",
	1038:            "extended_function symbol:s",
	1039:            "extended_transit_delay delay",
	1040:            "extended_queue_depth depth",
	1041:            "extended_hw_trap group:s trap:s",
	1042:            "extended_linux_drop_reason reason:s",
	2100:            "extended_socket_ipv4 protocol local_ip:4 remote_ip:4" + socketPorts,
	2101:            "extended_socket_ipv6 protocol local_ip:6 remote_ip:6" + socketPorts,
	2102:            "extended_proxy_socket_ipv4 protocol local_ip:4 remote_ip:4" + socketPorts,
	2103:            "extended_proxy_socket_ipv6 protocol local_ip:6 remote_ip:6" + socketPorts,
	2202:            "app_operation application:s operation:s attributes:s status_descr:s req_bytes:h resp_bytes:h uS status",
	2203:            "app_parent_context application:s operation:s attributes:s",
	2204:            "app_initiator actor:s",
	2205:            "app_target actor:s",
	2206:            "http_request method protocol uri:s host:s referer:s useragent:s xff:s authuser:s mime_type:s req_bytes:h resp_bytes:h uS status",
	2209:            "extended_tcp_info direction snd_mss rcv_mss unacked lost retrans pmtu rtt rttvar snd_cwnd reordering min_rtt",
	2210:            "extended_entities src_ds_class src_ds_index dst_ds_class dst_ds_index",
})

const sflowPortName sflowFormat = 1005

// sflowCounterRecords are the counter_data structures.
var sflowCounterRecords = parseStructs(map[sflowFormat]string{
	1: "if_counters ifIndex ifType ifSpeed:h ifDirection ifStatus ifInOctets:h ifInUcastPkts ifInMulticastPkts " +
		"ifInBroadcastPkts ifInDiscards ifInErrors ifInUnknownProtos ifOutOctets:h ifOutUcastPkts ifOutMulticastPkts " +
		"ifOutBroadcastPkts ifOutDiscards ifOutErrors ifPromiscuousMode",
	2: "ethernet_counters dot3StatsAlignmentErrors dot3StatsFCSErrors dot3StatsSingleCollisionFrames " +
		"dot3StatsMultipleCollisionFrames dot3StatsSQETestErrors dot3StatsDeferredTransmissions dot3StatsLateCollisions " +
		"dot3StatsExcessiveCollisions dot3StatsInternalMacTransmitErrors dot3StatsCarrierSenseErrors " +
		"dot3StatsFrameTooLongs dot3StatsInternalMacReceiveErrors dot3StatsSymbolErrors",
	3: "tokenring_counters dot5StatsLineErrors dot5StatsBurstErrors dot5StatsACErrors dot5StatsAbortTransErrors " +
		"dot5StatsInternalErrors dot5StatsLostFrameErrors dot5StatsReceiveCongestions dot5StatsFrameCopiedErrors " +
		"dot5StatsTokenErrors dot5StatsSoftErrors dot5StatsHardErrors dot5StatsSignalLoss dot5StatsTransmitBeacons " +
		"dot5StatsRecoverys dot5StatsLobeWires dot5StatsRemoves dot5StatsSingles dot5StatsFreqErrors",
	4: "vg_counters dot12InHighPriorityFrames dot12InHighPriorityOctets:h dot12InNormPriorityFrames " +
		"dot12InNormPriorityOctets:h dot12InIPMErrors dot12InOversizeFrameErrors dot12InDataErrors " +
		"dot12InNullAddressedFrames dot12OutHighPriorityFrames dot12OutHighPriorityOctets:h dot12TransitionIntoTrainings " +
		"dot12HCInHighPriorityOctets:h dot12HCInNormPriorityOctets:h dot12HCOutHighPriorityOctets:h",
	5: "vlan_counters vlan_id octets:h ucastPkts multicastPkts broadcastPkts discards",
	6: "ieee80211_counters dot11TransmittedFragmentCount dot11MulticastTransmittedFrameCount dot11FailedCount " +
		"dot11RetryCount dot11MultipleRetryCount dot11FrameDuplicateCount dot11RTSSuccessCount dot11RTSFailureCount " +
		"dot11ACKFailureCount dot11ReceivedFragmentCount dot11MulticastReceivedFrameCount dot11FCSErrorCount " +
		"dot11TransmittedFrameCount dot11WEPUndecryptableCount dot11QoSDiscardedFragmentCount dot11AssociatedStationCount " +
		"dot11QoSCFPollsReceivedCount dot11QoSCFPollsUnusedCount dot11QoSCFPollsUnusableCount dot11QoSCFPollsLostCount",
	7: "lag_port_stats dot3adAggPortActorSystemID:m dot3adAggPortPartnerOperSystemID:m dot3adAggPortAttachedAggID " +
		"dot3adAggPortState dot3adAggPortStatsLACPDUsRx dot3adAggPortStatsMarkerPDUsRx " +
		"dot3adAggPortStatsMarkerResponsePDUsRx dot3adAggPortStatsUnknownRx dot3adAggPortStatsIllegalRx " +
		"dot3adAggPortStatsLACPDUsTx dot3adAggPortStatsMarkerPDUsTx dot3adAggPortStatsMarkerResponsePDUsTx",
	10: "sfp module_id module_num_lanes module_supply_voltage module_temperature:i lanes " +
		"[index tx_bias_current tx_power tx_power_min tx_power_max tx_wavelength rx_power rx_power_min rx_power_max rx_wavelength]",
	1001: "processor 5s_cpu 1m_cpu 5m_cpu total_memory:h free_memory:h",
	1002: "radio_utilization elapsed_time on_channel_time on_channel_busy_time",
	1004: "of_port datapath_id:h port_no",
	1005: "port_name name:s",
	2000: "host_descr hostname:s uuid:u machine_type os_name os_release:s",
	2001: "host_adapters adapters [ifIndex mac_address:ms]",
	2002: "host_parent container_type container_index",
	2003: "host_cpu load_one:f load_five:f load_fifteen:f proc_run proc_total cpu_num cpu_speed uptime cpu_user cpu_nice " +
		"cpu_system cpu_idle cpu_wio cpu_intr cpu_sintr interrupts contexts cpu_steal cpu_guest cpu_guest_nice",
	2004: "host_memory mem_total:h mem_free:h mem_shared:h mem_buffers:h mem_cached:h swap_total:h swap_free:h page_in page_out swap_in swap_out",
	2005: "host_disk_io disk_total:h disk_free:h part_max_used reads bytes_read:h read_time writes bytes_written:h write_time",
	2006: "host_net_io " + nioCounters,
	2007: "mib2_ip_group ipForwarding ipDefaultTTL ipInReceives ipInHdrErrors ipInAddrErrors ipForwDatagrams ipInUnknownProtos " +
		"ipInDiscards ipInDelivers ipOutRequests ipOutDiscards ipOutNoRoutes ipReasmTimeout ipReasmReqds ipReasmOKs " +
		"ipReasmFails ipFragOKs ipFragFails ipFragCreates",
	2008: "mib2_icmp_group icmpInMsgs icmpInErrors icmpInDestUnreachs icmpInTimeExcds icmpInParamProbs icmpInSrcQuenchs " +
		"icmpInRedirects icmpInEchos icmpInEchoReps icmpInTimestamps icmpInAddrMasks icmpInAddrMaskReps icmpOutMsgs " +
		"icmpOutErrors icmpOutDestUnreachs icmpOutTimeExcds icmpOutParamProbs icmpOutSrcQuenchs icmpOutRedirects " +
		"icmpOutEchos icmpOutEchoReps icmpOutTimestamps icmpOutTimestampReps icmpOutAddrMasks icmpOutAddrMaskReps",
	2009: "mib2_tcp_group tcpRtoAlgorithm tcpRtoMin tcpRtoMax tcpMaxConn tcpActiveOpens tcpPassiveOpens tcpAttemptFails " +
		"tcpEstabResets tcpCurrEstab tcpInSegs tcpOutSegs tcpRetransSegs tcpInErrs tcpOutRsts tcpInCsumErrors",
	2010: "mib2_udp_group udpInDatagrams udpNoPorts udpInErrors udpOutDatagrams udpRcvbufErrors udpSndbufErrors udpInCsumErrors",
	2100: "virt_node mhz cpus memory:h memory_free:h num_domains",
	2101: "virt_cpu state cpuTime nrVirtCpu",
	2102: "virt_memory memory:h maxMemory:h",
	2103: "virt_disk_io capacity:h allocation:h available:h rd_req rd_bytes:h wr_req wr_bytes:h errs",
	2104: "virt_net_io " + nioCounters,
	2105: "jvm_runtime vm_name:s vm_vendor:s vm_version:s",
	2202: "app_operations application:s success other timeout internal_error bad_request forbidden too_large not_implemented " +
		"not_found unavailable unauthorized",
	2203:         "app_resources user_time system_time mem_used:h mem_max:h fd_open fd_max conn_open conn_max",
	2206:         "app_workers workers_active workers_idle workers_max req_delayed req_dropped",
	2207:         "ovs_dp_stats hits misses lost mask_hits flows masks",
	5703<<12 | 1: "nvidia_gpu device_count processes gpu_time mem_time mem_total:h mem_free:h ecc_errors energy temperature fan_speed",
})

// Sample formats, of enterprise 0.
const (
	sflowFlowSample         sflowFormat = 1
	sflowCounterSample      sflowFormat = 2
	sflowFlowSampleExpanded sflowFormat = 3
	sflowCountersExpanded   sflowFormat = 4
	sflowDiscardedPacket    sflowFormat = 5
)

// sflowSamples are the heads of samples; records follow, as many as the last
// field counts.
var sflowSamples = parseStructs(map[sflowFormat]string{
	sflowFlowSample:         "flow_sample sequence_number source_id sampling_rate sample_pool drops input output flow_records",
	sflowCounterSample:      "counters_sample sequence_number source_id counters",
	sflowFlowSampleExpanded: "flow_sample_expanded sequence_number ds_class ds_index sampling_rate sample_pool drops input_format input_value output_format output_value flow_records",
	sflowCountersExpanded:   "counters_sample_expanded sequence_number ds_class ds_index counters",
	sflowDiscardedPacket:    "discarded_packet sequence_number ds_class ds_index drops inputifindex outputifindex reason discard_records",
})

// headerProtocols are the values of header_protocol.
var headerProtocols = [...]string{
	1: "ETHERNET-ISO88023", 2: "ISO88024-TOKENBUS", 3: "ISO88025-TOKENRING", 4: "FDDI", 5: "FRAME-RELAY", 6: "X25", 7: "PPP",
	8: "SMDS", 9: "AAL5", 10: "AAL5-IP", 11: "IPv4", 12: "IPv6", 13: "MPLS", 14: "POS", 15: "IEEE80211MAC", 16: "IEEE80211-AMPDU",
	17: "IEEE80211-AMSDU",
}

// dropReasons are why a packet was discarded, the values from 256 on
// (sflow_version_5.txt, sflow_drops.txt); those below are the codes of ICMP
// destination unreachable (RFC 1812 section 5.2.7.1).
var dropReasons = [...]string{
	"unknown", "ttl_exceeded", "acl", "no_buffer_space", "red", "traffic_shaping", "pkt_too_big", "src_mac_is_multicast",
	"vlan_tag_mismatch", "ingress_vlan_filter", "ingress_spanning_tree_filter", "port_list_is_empty", "port_loopback_filter",
	"blackhole_route", "non_ip", "uc_dip_over_mc_dmac", "dip_is_loopback_address", "sip_is_mc", "sip_is_loopback_address",
	"ip_header_corrupted", "ipv4_sip_is_limited_bc", "ipv6_mc_dip_reserved_scope", "ipv6_mc_dip_interface_local_scope",
	"unresolved_neigh", "mc_reverse_path_forwarding", "non_routable_packet", "decap_error", "overlay_smac_is_mc", "unknown_l2",
	"unknown_l3", "unknown_l3_exception", "unknown_buffer", "unknown_tunnel", "unknown_l4", "sip_is_unspecified",
	"mlag_port_isolation", "blackhole_arp_neigh", "src_mac_is_dmac", "dmac_is_reserved", "sip_is_class_e", "mc_dmac_mismatch",
	"sip_is_dip", "dip_is_local_network", "dip_is_link_local", "overlay_smac_is_dmac", "egress_vlan_filter",
	"uc_reverse_path_forwarding", "split_horizon", "locked_port",
}

var unreachables = [...]string{
	"net_unreachable", "host_unreachable", "protocol_unreachable", "port_unreachable", "frag_needed", "src_route_failed",
	"dst_net_unknown", "dst_host_unknown", "src_host_isolated", "dst_net_prohibited", "dst_host_prohibited",
	"dst_net_tos_unreachable", "dst_host_tos_unreachable", "comm_admin_prohibited", "host_precedence_violation",
	"precedence_cutoff",
}

// dropReason is a reason's name, "" if it has none.
func dropReason(code uint32) string {
	switch {
	case code < uint32(len(unreachables)):
		return unreachables[code]
	case code >= 256 && code-256 < uint32(len(dropReasons)):
		return dropReasons[code-256]
	}
	return ""
}

// droppedStatus is the forwardingStatus (IE 89) that says most of a reason: the
// upper bits are 2, dropped.
func droppedStatus(code uint32) uint8 {
	switch dropReason(code) {
	case "acl":
		return 129 // ACL deny
	case "comm_admin_prohibited", "dst_net_prohibited", "dst_host_prohibited":
		return 130 // ACL drop
	case "net_unreachable", "dst_net_unknown", "non_routable_packet", "blackhole_route", "dst_net_tos_unreachable":
		return 131 // unroutable
	case "host_unreachable", "dst_host_unknown", "unresolved_neigh", "blackhole_arp_neigh", "dst_host_tos_unreachable":
		return 132 // adjacency
	case "frag_needed", "pkt_too_big":
		return 133 // fragmentation and DF set
	case "ip_header_corrupted":
		return 134 // bad header checksum
	case "ttl_exceeded":
		return 137 // bad TTL
	case "traffic_shaping":
		return 138 // policer
	case "red":
		return 139 // WRED
	case "uc_reverse_path_forwarding", "mc_reverse_path_forwarding":
		return 140 // RPF
	case "no_buffer_space":
		return 143 // hardware
	}
	return 128 // dropped, why is not known
}
