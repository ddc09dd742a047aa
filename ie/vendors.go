package ie

type vendorKey struct {
	pen uint32
	id  uint16
}

// certReverse marks CERT's elements of the reverse direction.
const certReverse = 0x4000

// v9Types are v9 field types outside IANA's range. v9 has no enterprise bit,
// so vendors share 16 bits; the PEN says whose meaning is taken.
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
	// Palo Alto Networks, PAN-OS
	{25461, 56701, String, DefaultSemantics, "paloAltoAppId", ""},
	{25461, 56702, String, DefaultSemantics, "paloAltoUserId", ""},
})

// vendors are enterprise elements met often enough to name.
var vendors = vendorTable([]Element{
	// Cisco's AVC
	{Cisco, 12235, OctetArray, DefaultSemantics, "ciscoApplicationHttpHost", ""},
	{Cisco, 12236, IPv4Address, DefaultSemantics, "ciscoClientIPv4Address", ""},
	{Cisco, 12237, IPv4Address, DefaultSemantics, "ciscoServerIPv4Address", ""},
	{Cisco, 12240, Unsigned16, Identifier, "ciscoClientTransportPort", ""},
	{Cisco, 12241, Unsigned16, Identifier, "ciscoServerTransportPort", ""},
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
