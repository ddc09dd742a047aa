package wire

import (
	"slices"

	"weir/ie"
)

// shapeOfField is what a field of the preset Full says of its layout's shape.
var shapeOfField = map[uint16]Shape{
	ie.IDSourceIPv4Address: 0, ie.IDDestinationIPv4Address: 0,
	ie.IDSourceIPv6Address: shape6, ie.IDDestinationIPv6Address: shape6,
	ie.IDSourceTransportPort: shapePorts, ie.IDDestinationTransportPort: shapePorts,
	ie.IDIcmpTypeCodeIPv4: shapeICMP, ie.IDIcmpTypeCodeIPv6: shapeICMP | shape6,
	ie.IDProtocolIdentifier: shapeProto, ie.IDIpClassOfService: shapeTOS,
	ie.IDTcpControlBits:   shapeFlags | shapeFlags16,
	ie.IDIngressInterface: shapeInput | shapeIf32, ie.IDEgressInterface: shapeOutput | shapeIf32,
	ie.IDPacketDeltaCount: shapePackets | shapeCount64, ie.IDOctetDeltaCount: shapeBytes | shapeCount64,
	ie.IDFlowStartSysUpTime: shapeUptime, ie.IDFlowEndSysUpTime: shapeUptime,
	ie.IDFlowStartMilliseconds: shapeAbsolute, ie.IDFlowEndMilliseconds: shapeAbsolute,
	ie.IDBgpSourceAsNumber: shapeSrcAS | shapeAS32, ie.IDBgpDestinationAsNumber: shapeDstAS | shapeAS32,
	ie.IDSourceIPv4PrefixLength: shapeSrcMask, ie.IDSourceIPv6PrefixLength: shapeSrcMask | shape6,
	ie.IDDestinationIPv4PrefixLength: shapeDstMask, ie.IDDestinationIPv6PrefixLength: shapeDstMask | shape6,
	ie.IDIpNextHopIPv4Address: shapeNextHop, ie.IDIpNextHopIPv6Address: shapeNextHop | shapeNextHop6,
	ie.IDBgpNextHopIPv4Address: shapeBGPNextHop, ie.IDBgpNextHopIPv6Address: shapeBGPNextHop | shapeBGPNextHop6,
	ie.IDVlanId: shapeVLAN, ie.IDFlowDirection: shapeDirection,
	ie.IDSamplerId: shapeSampler, ie.IDSelectorId: shapeSampler,
	ie.IDFlowEndReason: shapeReason, ie.IDForwardingStatus: shapeStatus,
	ie.IDDroppedPacketDeltaCount: shapeDropped, ie.IDDroppedOctetDeltaCount: shapeDropped, ie.IDFirewallEvent: shapeDropped,
	ie.IDCommonPropertiesId: shapeRule,
	ie.IDIpVersion:          shapeIPVersion, ie.IDFlowId: shapeFlowID,

	ie.IDDeltaFlowCount: shapeFlows, ie.IDSourceMacAddress: shapeSrcMAC, ie.IDDestinationMacAddress: shapeDstMAC,
	ie.IDDot1qCustomerVlanId: shapeInnerVLAN, ie.IDFlowLabelIPv6: shapeFlowLabel, ie.IDTcpOptions: shapeTCPOptions,
	ie.IDMplsTopLabelStackSection: shapeLabel1, ie.IDMplsLabelStackSection2: shapeLabel2, ie.IDMplsLabelStackSection3: shapeLabel3,
	ie.IDMinimumTTL: shapeTTLs, ie.IDMaximumTTL: shapeTTLs, ie.IDMinimumIpTotalLength: shapeLengths, ie.IDMaximumIpTotalLength: shapeLengths,
	ie.IDFragmentFlags: shapeFragment, ie.IDFragmentOffset: shapeFragment,
}

// HasFlowID says whether t's records have a flow id (IE 148).
func (t *Template) HasFlowID() bool {
	return !t.opts && slices.ContainsFunc(t.Fields, func(f FieldSpec) bool { return f.PEN == 0 && f.ID == ie.IDFlowId })
}

// Ours says whether t is a template that weir sends, of the preset Full: its
// fields are, in number, order and width, those of a Layout. Then a flow id
// names one record. Others name a flow by it, of which many records come.
func (t *Template) Ours() bool {
	if !t.HasFlowID() || len(t.Fields) > len(shapeOfField) {
		return false
	}
	s := shapeNoSrc | shapeNoDst | shapeNoSrcPort | shapeNoDstPort // until they are met
	for _, f := range t.Fields {
		bits, ok := shapeOfField[f.ID]
		if !ok || f.PEN != 0 {
			return false
		}
		s = s&^halves[f.ID] | bits
	}
	if s&shapePorts == 0 {
		s &^= shapeNoSrcPort | shapeNoDstPort
	}
	const always = shapePackets | shapeBytes | shapeAbsolute | shapeIPVersion | shapeFlowID
	if s&always != always {
		return false
	}
	version := uint8(10)
	if t.v9 {
		version = 9
	}
	return slices.EqualFunc(NewLayout(version, s, t.ID).Fields, t.Fields, func(a, b FieldSpec) bool {
		return a.ID == b.ID && a.Length == b.Length
	})
}
