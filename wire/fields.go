package wire

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"weir/ie"
)

// Fields is a choice of what records carry, made by name; the zero value is no
// choice: all that the preset has.
type Fields struct {
	names string // as they were given
	keep  Shape  // what may stay of a shape
	leave Shape  // the negative bits: what goes
	times Shape  // which kind of times was asked for by name; 0: the version's
}

// columnFields gives the flow columns' names the elements that stand for them;
// of alternatives, such as IPv4's and IPv6's, a record has one.
var columnFields = map[string][]uint16{
	"first":             {ie.IDFlowStartSysUpTime, ie.IDFlowStartMilliseconds},
	"last":              {ie.IDFlowEndSysUpTime, ie.IDFlowEndMilliseconds},
	"proto":             {ie.IDProtocolIdentifier},
	"src":               {ie.IDSourceIPv4Address, ie.IDSourceIPv6Address},
	"sport":             {ie.IDSourceTransportPort},
	"dst":               {ie.IDDestinationIPv4Address, ie.IDDestinationIPv6Address},
	"dport":             {ie.IDDestinationTransportPort},
	"tos":               {ie.IDIpClassOfService},
	"tcp_flags":         {ie.IDTcpControlBits},
	"packets":           {ie.IDPacketDeltaCount},
	"bytes":             {ie.IDOctetDeltaCount},
	"input":             {ie.IDIngressInterface},
	"output":            {ie.IDEgressInterface},
	"direction":         {ie.IDFlowDirection},
	"vlan":              {ie.IDVlanId},
	"icmp":              {ie.IDIcmpTypeCodeIPv4, ie.IDIcmpTypeCodeIPv6},
	"next_hop":          {ie.IDIpNextHopIPv4Address, ie.IDIpNextHopIPv6Address},
	"bgp_next_hop":      {ie.IDBgpNextHopIPv4Address, ie.IDBgpNextHopIPv6Address},
	"src_as":            {ie.IDBgpSourceAsNumber},
	"dst_as":            {ie.IDBgpDestinationAsNumber},
	"src_mask":          {ie.IDSourceIPv4PrefixLength, ie.IDSourceIPv6PrefixLength},
	"dst_mask":          {ie.IDDestinationIPv4PrefixLength, ie.IDDestinationIPv6PrefixLength},
	"sampling":          {ie.IDSamplerId, ie.IDSelectorId},
	"end_reason":        {ie.IDFlowEndReason},
	"forwarding_status": {ie.IDForwardingStatus},
	"dropped":           {ie.IDDroppedPacketDeltaCount, ie.IDDroppedOctetDeltaCount, ie.IDFirewallEvent},
	"rule":              {ie.IDCommonPropertiesId},
	"flow_id":           {ie.IDFlowId},
	"ip_version":        {ie.IDIpVersion},
	"flows":             {ie.IDDeltaFlowCount},
	"mac":               {ie.IDSourceMacAddress, ie.IDDestinationMacAddress},
	"inner_vlan":        {ie.IDDot1qCustomerVlanId},
	"mpls":              {ie.IDMplsTopLabelStackSection, ie.IDMplsLabelStackSection2, ie.IDMplsLabelStackSection3},
	"flow_label":        {ie.IDFlowLabelIPv6},
	"ttl":               {ie.IDMinimumTTL, ie.IDMaximumTTL},
	"length":            {ie.IDMinimumIpTotalLength, ie.IDMaximumIpTotalLength},
	"tcp_options":       {ie.IDTcpOptions},
	"fragment":          {ie.IDFragmentFlags, ie.IDFragmentOffset},
}

// halves are fields that a shape has in pairs, by the bit that leaves one out.
var halves = map[uint16]Shape{
	ie.IDSourceIPv4Address: shapeNoSrc, ie.IDSourceIPv6Address: shapeNoSrc,
	ie.IDDestinationIPv4Address: shapeNoDst, ie.IDDestinationIPv6Address: shapeNoDst,
	ie.IDSourceTransportPort: shapeNoSrcPort, ie.IDDestinationTransportPort: shapeNoDstPort,
	ie.IDFlowStartSysUpTime: shapeNoFirst, ie.IDFlowStartMilliseconds: shapeNoFirst,
	ie.IDFlowEndSysUpTime: shapeNoLast, ie.IDFlowEndMilliseconds: shapeNoLast,
}

const (
	shapeHalves = shapeNoSrc | shapeNoDst | shapeNoSrcPort | shapeNoDstPort | shapeNoFirst | shapeNoLast
	// shapeWidths says how wide fields are, not which there are.
	shapeWidths = shape6 | shapeFlags16 | shapeCount32 | shapeCount64 | shapeIf32 | shapeAS32 | shapeNextHop6 | shapeBGPNextHop6
)

// FieldNames lists what ParseFields knows beside the elements' own names.
func FieldNames() []string {
	names := make([]string, 0, len(columnFields))
	for n := range columnFields {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// ParseFields reads names, separated by commas: those of flow columns (src, dport,
// bytes, …; icmp for both of its columns) or of elements (sourceIPv4Address, …),
// of which the other address family's and the other kind of time is left out.
func ParseFields(list string) (Fields, error) {
	f := Fields{leave: shapeHalves, keep: shapeWidths}
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		ids, ok := columnFields[name]
		if !ok {
			if e, known := ie.ByName(name); known && e.PEN == 0 {
				ids = []uint16{e.ID}
			}
		}
		if len(ids) == 0 {
			return Fields{}, fmt.Errorf("no field %q; accepted: %s, or the elements' own names", name, strings.Join(FieldNames(), ", "))
		}
		for _, id := range ids {
			bits, can := shapeOfField[id]
			if !can {
				return Fields{}, fmt.Errorf("%s (element %d) is not among what records can carry; accepted: %s", name, id, strings.Join(FieldNames(), ", "))
			}
			f.keep |= bits
			f.leave &^= halves[id]
			if !ok {
				f.times |= bits & (shapeUptime | shapeAbsolute)
			}
		}
		if slices.Contains(strings.Split(f.names, ","), name) {
			return Fields{}, fmt.Errorf("%s stands there twice", name)
		}
		f.names = strings.TrimPrefix(f.names+","+name, ",")
	}
	if f.keep&^shapeWidths == 0 && f.leave&(shapeNoSrc|shapeNoDst) == shapeNoSrc|shapeNoDst {
		return Fields{}, errors.New("no field at all")
	}
	return f, nil
}

// Chosen says that there is a choice.
func (f Fields) Chosen() bool { return f.names != "" }

// String is what ParseFields reads.
func (f Fields) String() string { return f.names }

// Uptime says that times in sysUptime were asked for by name, which IPFIX lacks.
func (f Fields) Uptime() bool { return f.times&shapeUptime != 0 }

// Of is what the choice leaves of a shape of the preset Selected.
func (f Fields) Of(s Shape) Shape {
	if f.times != 0 {
		s = s&^(shapeUptime|shapeAbsolute) | f.times
	}
	s = s&f.keep | f.leave
	const byFamily = shapeIPVersion | shapeICMP | shapeSrcMask | shapeDstMask
	if f.leave&(shapeNoSrc|shapeNoDst) == shapeNoSrc|shapeNoDst && s&byFamily == 0 {
		s &^= shape6
	}
	if s&shapeFlags == 0 {
		s &^= shapeFlags16
	}
	if s&shapeNextHop == 0 {
		s &^= shapeNextHop6
	}
	if s&shapeBGPNextHop == 0 {
		s &^= shapeBGPNextHop6
	}
	return plainWidths(s)
}
