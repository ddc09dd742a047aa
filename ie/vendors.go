package ie

type vendorKey struct {
	pen uint32
	id  uint16
}

// certReverse marks CERT's elements of the reverse direction.
const certReverse = 0x4000

// v9Types are v9 field types outside IANA's range. v9 has no enterprise bit,
// so vendors share 16 bits; the PEN says whose meaning is taken. What Cisco numbers
// under its enterprise in IPFIX is in v9 that number with the highest bit set:
// LookupV9 knows.
var v9Types = v9Table([]Element{
	// Cisco ASA, NSEL
	{Cisco, 33000, OctetArray, DefaultSemantics, "ingressAclId", ""},
	{Cisco, 33001, OctetArray, DefaultSemantics, "egressAclId", ""},
	{Cisco, 33002, Unsigned16, Identifier, "fwExtEvent", ""},
	{Cisco, 40000, String, DefaultSemantics, "aaaUsername", ""},
	{Cisco, 40001, IPv4Address, DefaultSemantics, "xlateSourceIPv4Address", ""},
	{Cisco, 40002, IPv4Address, DefaultSemantics, "xlateDestinationIPv4Address", ""},
	{Cisco, 40003, Unsigned16, Identifier, "xlateSourceTransportPort", ""},
	{Cisco, 40004, Unsigned16, Identifier, "xlateDestinationTransportPort", ""},
	{Cisco, 40005, Unsigned8, Identifier, "fwEvent", ""},
	// Cisco TrustSec
	{Cisco, 34000, Unsigned16, Identifier, "sourceSecurityGroupTag", ""},
	{Cisco, 34001, Unsigned16, Identifier, "destinationSecurityGroupTag", ""},
	{Cisco, 34002, String, DefaultSemantics, "sourceSecurityGroupName", ""},
	{Cisco, 34003, String, DefaultSemantics, "destinationSecurityGroupName", ""},
	// Palo Alto Networks, PAN-OS
	{25461, 56701, String, DefaultSemantics, "paloAltoAppId", ""},
	{25461, 56702, String, DefaultSemantics, "paloAltoUserId", ""},
})

// vendors are enterprise elements met often enough to name.
var vendors = vendorTable([]Element{
	// Cisco's AVC and performance monitor: media and TCP …
	{Cisco, 4232, Unsigned64, DeltaCounter, "ciscoPacketsDropped", "packets"},
	{Cisco, 4235, Unsigned64, Quantity, "ciscoByteRate", ""},
	{Cisco, 4236, Unsigned64, DeltaCounter, "ciscoApplicationMediaBytes", "octets"},
	{Cisco, 4238, Unsigned32, Quantity, "ciscoApplicationMediaByteRate", ""},
	{Cisco, 4239, Unsigned64, DeltaCounter, "ciscoApplicationMediaPackets", "packets"},
	{Cisco, 4241, Unsigned32, Quantity, "ciscoApplicationMediaPacketRate", ""},
	{Cisco, 4243, Unsigned8, Identifier, "ciscoApplicationMediaEvent", ""},
	{Cisco, 4244, Unsigned8, Identifier, "ciscoMonitorEvent", ""},
	{Cisco, 4245, Unsigned32, Quantity, "ciscoTimestampInterval", ""},
	{Cisco, 4246, Unsigned32, DeltaCounter, "ciscoTransportPacketsExpected", "packets"},
	{Cisco, 4248, Unsigned32, Quantity, "ciscoTransportRoundTripTime", ""},
	{Cisco, 4249, Unsigned32, DeltaCounter, "ciscoTransportEventPacketLoss", ""},
	{Cisco, 4251, Unsigned32, DeltaCounter, "ciscoTransportPacketsLost", "packets"},
	{Cisco, 4253, Unsigned32, Quantity, "ciscoTransportPacketsLostRate", ""},
	{Cisco, 4254, Unsigned32, Identifier, "ciscoTransportRtpSsrc", ""},
	{Cisco, 4255, Unsigned32, Quantity, "ciscoTransportRtpJitterMean", "microseconds"},
	{Cisco, 4256, Unsigned32, Quantity, "ciscoTransportRtpJitterMinimum", "microseconds"},
	{Cisco, 4257, Unsigned32, Quantity, "ciscoTransportRtpJitterMaximum", "microseconds"},
	{Cisco, 4273, Unsigned8, Identifier, "ciscoTransportRtpPayloadType", ""},
	{Cisco, 4303, Unsigned64, DeltaCounter, "ciscoTransportBytesOutOfOrder", "octets"},
	{Cisco, 4306, Unsigned64, DeltaCounter, "ciscoTransportPacketsOutOfOrder", "packets"},
	{Cisco, 4315, Unsigned32, Quantity, "ciscoTransportTcpWindowSizeMinimum", "octets"},
	{Cisco, 4316, Unsigned32, Quantity, "ciscoTransportTcpWindowSizeMaximum", "octets"},
	{Cisco, 4317, Unsigned32, Quantity, "ciscoTransportTcpWindowSizeMean", "octets"},
	{Cisco, 4318, Unsigned16, Quantity, "ciscoTransportTcpMaximumSegmentSize", "octets"},
	{Cisco, 4324, Unsigned64, Quantity, "ciscoTransportTcpWindowSizeSum", "octets"},
	{Cisco, 4325, Unsigned64, Quantity, "ciscoTransportRtpJitterMeanSum", "microseconds"},
	// … classes and policies, queues …
	{Cisco, 8232, OctetArray, DefaultSemantics, "ciscoClassHierarchy", ""},
	{Cisco, 8233, Unsigned32, Identifier, "ciscoClassId", ""},
	{Cisco, 8234, String, DefaultSemantics, "ciscoClassName", ""},
	{Cisco, 8235, Unsigned16, Identifier, "ciscoClassType", ""},
	{Cisco, 8236, Unsigned32, Identifier, "ciscoPolicyId", ""},
	{Cisco, 8237, String, DefaultSemantics, "ciscoPolicyName", ""},
	{Cisco, 8238, Unsigned16, Identifier, "ciscoPolicyType", ""},
	{Cisco, 8337, Unsigned64, DeltaCounter, "ciscoServerNetworkBytes", "octets"},
	{Cisco, 8338, Unsigned64, DeltaCounter, "ciscoClientNetworkBytes", "octets"},
	// … response times …
	{Cisco, 9252, Unsigned8, Identifier, "ciscoWaasSegment", ""},
	{Cisco, 9253, Unsigned8, Identifier, "ciscoWaasPassThroughReason", ""},
	{Cisco, 9267, Unsigned32, DeltaCounter, "ciscoClientRetransmittedBytes", "octets"},
	{Cisco, 9268, Unsigned32, DeltaCounter, "ciscoClientRetransmittedPackets", "packets"},
	{Cisco, 9269, Unsigned32, DeltaCounter, "ciscoServerRetransmittedBytes", "octets"},
	{Cisco, 9270, Unsigned32, DeltaCounter, "ciscoServerRetransmittedPackets", "packets"},
	{Cisco, 9272, Unsigned32, DeltaCounter, "ciscoTransactionCount", ""},
	{Cisco, 9273, Unsigned32, Quantity, "ciscoTransactionTimeSum", "milliseconds"},
	{Cisco, 9274, Unsigned32, Quantity, "ciscoTransactionTimeMaximum", "milliseconds"},
	{Cisco, 9275, Unsigned32, Quantity, "ciscoTransactionTimeMinimum", "milliseconds"},
	{Cisco, 9292, Unsigned32, DeltaCounter, "ciscoResponseCount", ""},
	{Cisco, 9293, Unsigned32, DeltaCounter, "ciscoResponseTimeBin1Count", ""},
	{Cisco, 9294, Unsigned32, DeltaCounter, "ciscoResponseTimeBin2Count", ""},
	{Cisco, 9295, Unsigned32, DeltaCounter, "ciscoResponseTimeBin3Count", ""},
	{Cisco, 9296, Unsigned32, DeltaCounter, "ciscoResponseTimeBin4Count", ""},
	{Cisco, 9297, Unsigned32, DeltaCounter, "ciscoResponseTimeBin5Count", ""},
	{Cisco, 9298, Unsigned32, DeltaCounter, "ciscoResponseTimeBin6Count", ""},
	{Cisco, 9299, Unsigned32, DeltaCounter, "ciscoResponseTimeBin7Count", ""},
	{Cisco, 9300, Unsigned32, DeltaCounter, "ciscoLateResponseCount", ""},
	{Cisco, 9303, Unsigned32, Quantity, "ciscoResponseTimeSum", "milliseconds"},
	{Cisco, 9304, Unsigned32, Quantity, "ciscoResponseTimeMaximum", "milliseconds"},
	{Cisco, 9305, Unsigned32, Quantity, "ciscoResponseTimeMinimum", "milliseconds"},
	{Cisco, 9306, Unsigned32, Quantity, "ciscoServerResponseTimeSum", "milliseconds"},
	{Cisco, 9307, Unsigned32, Quantity, "ciscoServerResponseTimeMaximum", "milliseconds"},
	{Cisco, 9308, Unsigned32, Quantity, "ciscoServerResponseTimeMinimum", "milliseconds"},
	{Cisco, 9309, Unsigned32, Quantity, "ciscoTotalResponseTimeSum", "milliseconds"},
	{Cisco, 9310, Unsigned32, Quantity, "ciscoTotalResponseTimeMaximum", "milliseconds"},
	{Cisco, 9311, Unsigned32, Quantity, "ciscoTotalResponseTimeMinimum", "milliseconds"},
	{Cisco, 9313, Unsigned32, Quantity, "ciscoNetworkTimeSum", "milliseconds"},
	{Cisco, 9314, Unsigned32, Quantity, "ciscoNetworkTimeMaximum", "milliseconds"},
	{Cisco, 9315, Unsigned32, Quantity, "ciscoNetworkTimeMinimum", "milliseconds"},
	{Cisco, 9316, Unsigned32, Quantity, "ciscoClientNetworkTimeSum", "milliseconds"},
	{Cisco, 9317, Unsigned32, Quantity, "ciscoClientNetworkTimeMaximum", "milliseconds"},
	{Cisco, 9318, Unsigned32, Quantity, "ciscoClientNetworkTimeMinimum", "milliseconds"},
	{Cisco, 9319, Unsigned32, Quantity, "ciscoServerNetworkTimeSum", "milliseconds"},
	{Cisco, 9320, Unsigned32, Quantity, "ciscoServerNetworkTimeMaximum", "milliseconds"},
	{Cisco, 9321, Unsigned32, Quantity, "ciscoServerNetworkTimeMinimum", "milliseconds"},
	{Cisco, 9357, OctetArray, DefaultSemantics, "ciscoApplicationHttpUriStatistics", ""},
	{Cisco, 9360, Unsigned32, Identifier, "ciscoQueueId", ""},
	{Cisco, 9361, Unsigned64, DeltaCounter, "ciscoQueueDrops", "packets"},
	// … applications and connections
	{Cisco, 12232, String, DefaultSemantics, "ciscoApplicationCategoryName", ""},
	{Cisco, 12233, String, DefaultSemantics, "ciscoApplicationSubCategoryName", ""},
	{Cisco, 12234, String, DefaultSemantics, "ciscoApplicationGroupName", ""},
	{Cisco, 12235, OctetArray, DefaultSemantics, "ciscoApplicationHttpHost", ""},
	{Cisco, 12236, IPv4Address, DefaultSemantics, "ciscoClientIPv4Address", ""},
	{Cisco, 12237, IPv4Address, DefaultSemantics, "ciscoServerIPv4Address", ""},
	{Cisco, 12238, IPv6Address, DefaultSemantics, "ciscoClientIPv6Address", ""},
	{Cisco, 12239, IPv6Address, DefaultSemantics, "ciscoServerIPv6Address", ""},
	{Cisco, 12240, Unsigned16, Identifier, "ciscoClientTransportPort", ""},
	{Cisco, 12241, Unsigned16, Identifier, "ciscoServerTransportPort", ""},
	{Cisco, 12242, Unsigned32, Identifier, "ciscoConnectionId", ""},
	{Cisco, 12243, String, DefaultSemantics, "ciscoApplicationTrafficClass", ""},
	{Cisco, 12244, String, DefaultSemantics, "ciscoApplicationBusinessRelevance", ""},
	// CERT's YAF
	{CERT, 14, Unsigned16, Flags, "initialTCPFlags", ""},
	{CERT, 15, Unsigned16, Flags, "unionTCPFlags", ""},
	{CERT, 18, OctetArray, DefaultSemantics, "payload", ""},
	{CERT, 21, Unsigned32, Quantity, "reverseFlowDeltaMilliseconds", "milliseconds"},
	{CERT, 33, Unsigned16, Identifier, "silkAppLabel", ""},
	{CERT, 35, Unsigned8, Quantity, "payloadEntropy", ""},
	{CERT, 40, Unsigned16, Flags, "flowAttributes", ""},
	{CERT, 100, Unsigned32, TotalCounter, "expiredFragmentCount", ""},
	{CERT, 101, Unsigned32, TotalCounter, "assembledFragmentCount", ""},
	{CERT, 102, Unsigned32, Quantity, "meanFlowRate", ""},
	{CERT, 103, Unsigned32, Quantity, "meanPacketRate", ""},
	{CERT, 104, Unsigned32, TotalCounter, "flowTableFlushEventCount", ""},
	{CERT, 105, Unsigned32, TotalCounter, "flowTablePeakCount", ""},
	{CERT, 500, Unsigned64, TotalCounter, "smallPacketCount", "packets"},
	{CERT, 501, Unsigned64, TotalCounter, "nonEmptyPacketCount", "packets"},
	{CERT, 502, Unsigned64, TotalCounter, "dataByteCount", "octets"},
	// VMware's virtual switches and Open vSwitch
	{VMware, 891, Unsigned8, Identifier, "tunnelType", ""},
	{VMware, 892, OctetArray, DefaultSemantics, "tunnelKey", ""},
	{VMware, 893, IPv4Address, DefaultSemantics, "tunnelSourceIPv4Address", ""},
	{VMware, 894, IPv4Address, DefaultSemantics, "tunnelDestinationIPv4Address", ""},
	{VMware, 895, Unsigned8, Identifier, "tunnelProtocolIdentifier", ""},
	{VMware, 896, Unsigned16, Identifier, "tunnelSourceTransportPort", ""},
	{VMware, 897, Unsigned16, Identifier, "tunnelDestinationTransportPort", ""},
	// Viptela
	{41916, 4321, Unsigned32, Identifier, "viptelaVpnId", ""},
})

func v9Table(list []Element) map[uint16]Element {
	m := make(map[uint16]Element, len(list))
	for _, e := range list {
		m[e.ID] = e
	}
	return m
}

func vendorTable(list []Element) map[vendorKey]Element {
	m := make(map[vendorKey]Element, len(list))
	for _, e := range list {
		m[vendorKey{e.PEN, e.ID}] = e
	}
	return m
}
