package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"weir/flow"
	"weir/ie"
)

// Preset says which of a record's facts go into v9 and IPFIX records, and how
// wide. What a record does not know is never sent: a made-up zero would be
// read as a fact.
type Preset uint8

const (
	// Compact writes the key, the counters, the times and what is known of
	// interfaces, VLAN, routing and verdict, each in the fewest octets that
	// hold its value (reduced-size encoding, RFC 7011 section 6.2).
	Compact Preset = iota
	// Cisco is what an IOS engineer expects: octets and packets in 8 octets,
	// interfaces and AS in 4, with IP version, direction and end reason.
	Cisco
	// Full adds the flow id, what access lists dropped and the rule that decided,
	// TCP flags in 2 octets, and to v9 absolute times.
	Full
	// Minimal is who with whom, how much and when: addresses, ports, protocol,
	// counters and times; counters in 4 octets where they fit, so that all collectors
	// read them.
	Minimal
	// Security is what an investigation asks for: the key, TCP flags in 2 octets,
	// ICMP, where the flow came in and went out, why it ended, and what access lists
	// made of it. Widths are fixed; nothing of routing.
	Security
	presets

	// Selected has all there is, for Fields to choose from.
	Selected = presets
)

var presetNames = [presets]string{"compact", "cisco", "full", "minimal", "security"}

// presetHas is what of a record each preset looks at; the rest is as if it were
// unknown.
var presetHas = [presets + 1]flow.Field{
	Compact: ^flow.Field(0), Cisco: ^flow.Field(0), Full: ^flow.Field(0), Selected: ^flow.Field(0),
	Minimal: flow.HasFirst | flow.HasLast | flow.HasProto | flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort |
		flow.HasICMP | flow.HasPackets | flow.HasBytes,
	Security: flow.HasFirst | flow.HasLast | flow.HasProto | flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort |
		flow.HasICMP | flow.HasPackets | flow.HasBytes | flow.HasTOS | flow.HasTCPFlags | flow.HasInput | flow.HasOutput |
		flow.HasDirection | flow.HasVLAN | flow.HasEndReason | flow.HasForwardingStatus | flow.HasDropped | flow.HasRule,
}

// narrow says that the preset writes values in the fewest octets.
func (p Preset) narrow() bool { return p == Compact || p == Minimal }

func (p Preset) String() string {
	if p < presets {
		return presetNames[p]
	}
	return "unknown"
}

// ParsePreset reads a preset's name.
func ParsePreset(s string) (Preset, error) {
	for p, name := range presetNames {
		if s == name {
			return Preset(p), nil
		}
	}
	return 0, fmt.Errorf("accepted: %s", strings.Join(presetNames[:], ", "))
}

// Shape is all that a record's layout depends on: records of one shape share a
// template.
type Shape uint64

const (
	shape6 Shape = 1 << iota // addresses in 16 octets
	shapePorts
	shapeICMP
	shapeProto
	shapeTOS
	shapeFlags
	shapeFlags16
	shapePackets
	shapeBytes
	shapeCount32 // counters in 4 octets
	shapeCount64 // counters in 8
	shapeInput
	shapeOutput
	shapeIf32 // interfaces in 4 octets
	shapeDirection
	shapeVLAN
	shapeSrcAS
	shapeDstAS
	shapeAS32 // AS in 4 octets
	shapeSrcMask
	shapeDstMask
	shapeNextHop
	shapeNextHop6
	shapeBGPNextHop
	shapeBGPNextHop6
	shapeSampler
	shapeReason
	shapeStatus
	shapeDropped // packets and octets, and the firewall's event
	shapeRule
	shapeFlowID
	shapeIPVersion
	shapeUptime   // times in ms of sysUptime
	shapeAbsolute // times in ms since 1970
)

// What is left out of what every layout has, or what comes in pairs: by a selection of
// fields, or because a record does not know it.
const (
	shapeNoSrc Shape = 1 << (63 - iota)
	shapeNoDst
	shapeNoSrcPort
	shapeNoDstPort
	shapeNoFirst
	shapeNoLast
)

// direct pairs bits of Has that put one field into every preset.
var direct = [...]struct {
	has   flow.Field
	shape Shape
}{
	{flow.HasProto, shapeProto},
	{flow.HasTOS, shapeTOS},
	{flow.HasPackets, shapePackets},
	{flow.HasBytes, shapeBytes},
	{flow.HasInput, shapeInput},
	{flow.HasOutput, shapeOutput},
	{flow.HasDirection, shapeDirection},
	{flow.HasVLAN, shapeVLAN},
	{flow.HasSrcAS, shapeSrcAS},
	{flow.HasDstAS, shapeDstAS},
	{flow.HasSrcMask, shapeSrcMask},
	{flow.HasDstMask, shapeDstMask},
	{flow.HasNextHop, shapeNextHop},
	{flow.HasBGPNextHop, shapeBGPNextHop},
	{flow.HasForwardingStatus, shapeStatus},
}

// shapeOfHas is the part of a shape that Has decides, by its low and high half.
var shapeOfHas = func() (t [2][1 << 15]Shape) {
	for h := range 1 << 15 {
		for _, d := range direct {
			if flow.Field(h)&d.has != 0 {
				t[0][h] |= d.shape
			}
			if flow.Field(h)<<15&d.has != 0 {
				t[1][h] |= d.shape
			}
		}
	}
	return t
}()

// IPv6 says whether r's addresses need 16 octets.
func IPv6(r *flow.Record) bool {
	return r.IPVersion == 6 || !is4(&r.Src) || !is4(&r.Dst)
}

// is4 takes an address that was never set for one of IPv4.
func is4(a *flow.Addr) bool {
	high, middle := binary.LittleEndian.Uint64(a[:8]), binary.LittleEndian.Uint32(a[8:12])
	return high == 0 && (middle == 0xffff0000 || middle == 0 && [4]byte(a[12:]) == [4]byte{})
}

// ShapeOf is r's shape in the version (v9 or IPFIX) and preset. sampled says
// that records name their sampler.
func ShapeOf(version uint8, p Preset, r *flow.Record, sampled bool) Shape {
	has := r.Has & presetHas[p]
	s := shapeOfHas[0][has&0x7fff] | shapeOfHas[1][has>>15&0x7fff]
	if IPv6(r) {
		s |= shape6
	}
	switch {
	case has&flow.HasICMP != 0 && (r.Proto == flow.ProtoICMP || r.Proto == flow.ProtoICMPv6):
		s |= shapeICMP
	case has&(flow.HasSrcPort|flow.HasDstPort) != 0:
		s |= shapePorts
	}
	if has&flow.HasTCPFlags != 0 {
		switch {
		case r.TCPFlags > 0xff || p == Full || p >= Security:
			s |= shapeFlags | shapeFlags16
		case !p.narrow() || r.TCPFlags != 0 || r.Proto == flow.ProtoTCP:
			s |= shapeFlags
		}
	}
	if s&shapeNextHop != 0 && !r.NextHop.Is4() {
		s |= shapeNextHop6
	}
	if s&shapeBGPNextHop != 0 && !r.BGPNextHop.Is4() {
		s |= shapeBGPNextHop6
	}
	if sampled {
		s |= shapeSampler
	}
	if p.narrow() {
		switch {
		case r.Packets > math.MaxUint32 || r.Bytes > math.MaxUint32:
			s |= shapeCount64
		case r.Packets > math.MaxUint8 || r.Bytes > math.MaxUint16 || p == Minimal:
			s |= shapeCount32
		}
		if r.Input|r.Output > math.MaxUint16 {
			s |= shapeIf32
		}
		if r.SrcAS|r.DstAS > math.MaxUint16 {
			s |= shapeAS32
		}
	} else {
		s |= shapeCount64 | shapeIf32 | shapeAS32 | shapeIPVersion
		if has&flow.HasEndReason != 0 {
			s |= shapeReason
		}
		if (p == Full || p >= Security) && has&(flow.HasFlowID|flow.HasDropped|flow.HasRule) != 0 {
			if has&flow.HasFlowID != 0 && p != Security {
				s |= shapeFlowID
			}
			if has&flow.HasDropped != 0 {
				s |= shapeDropped
			}
			if has&flow.HasRule != 0 {
				s |= shapeRule
			}
		}
	}
	if has&flow.HasFlows != 0 || r.More != nil || r.Reverse != nil {
		s |= shapeOfMore(version, has, r)
	}
	if has&(flow.HasSrc|flow.HasDst) != flow.HasSrc|flow.HasDst || s&shapePorts != 0 && has&(flow.HasSrcPort|flow.HasDstPort) != flow.HasSrcPort|flow.HasDstPort {
		s |= unknownHalves(s, has)
	}
	switch {
	case version == flow.VersionIPFIX:
		s |= shapeAbsolute
	case p == Full:
		s |= shapeUptime | shapeAbsolute
	case r.Last-r.First > MaxSpan/2:
		s |= shapeAbsolute // 32 bits of ms would not do
	default:
		s |= shapeUptime
	}
	return plainWidths(s)
}

// unknownHalves leaves out what of a pair is not known.
func unknownHalves(s Shape, has flow.Field) (leave Shape) {
	if has&flow.HasSrc == 0 {
		leave |= shapeNoSrc
	}
	if has&flow.HasDst == 0 {
		leave |= shapeNoDst
	}
	if s&shapePorts != 0 && has&flow.HasSrcPort == 0 {
		leave |= shapeNoSrcPort
	}
	if s&shapePorts != 0 && has&flow.HasDstPort == 0 {
		leave |= shapeNoDstPort
	}
	return leave
}

// plainWidths drops widths that no field has: they make no other layout.
func plainWidths(s Shape) Shape {
	if s&(shapePackets|shapeBytes) == 0 {
		s &^= shapeCount32 | shapeCount64
	}
	if s&(shapeInput|shapeOutput) == 0 {
		s &^= shapeIf32
	}
	if s&(shapeSrcAS|shapeDstAS) == 0 {
		s &^= shapeAS32
	}
	return s
}

// Layout is a template to write with: the fields of a record, in order. It
// does not change.
type Layout struct {
	ID      uint16
	Version uint8
	Shape   Shape
	Size    int // octets of a record
	Fields  []FieldSpec

	puts []put
}

// put writes one field.
type put struct {
	what put1
	n    uint16
}

type put1 uint8

const (
	putSrc4 put1 = iota
	putDst4
	putSrc16
	putDst16
	putPorts // both
	putNothing
	putICMP
	putProto
	putTOS
	putFlags
	putInput
	putOutput
	putPackets
	putBytes
	putFirstUp
	putLastUp
	putFirstMs
	putLastMs
	putDirection
	putVLAN
	putSrcAS
	putDstAS
	putSrcMask
	putDstMask
	putNextHop4
	putNextHop16
	putBGPNextHop4
	putBGPNextHop16
	putSampler
	putReason
	putStatus
	putDroppedPackets
	putDroppedBytes
	putEvent
	putRule
	putFlowID
	putIPVersion
	putSrcPort
	putDstPort
	putPadding
)

// minRecord is the shortest record: padding of a set, up to 3 octets, must not look
// like one.
const minRecord = 4

// NewLayout is the layout of a shape, as template id.
func NewLayout(version uint8, s Shape, id uint16) *Layout {
	l := &Layout{ID: id, Version: version, Shape: s}
	add := func(what put1, element, n uint16) {
		l.Fields = append(l.Fields, FieldSpec{ID: element, Length: n, Name: specName(element)})
		l.puts = append(l.puts, put{what, n})
		l.Size += int(n)
	}
	when := func(bit Shape, what put1, element, n uint16) {
		if s&bit != 0 {
			add(what, element, n)
		}
	}
	// either picks IPv6's element or IPv4's.
	either := func(six bool, what6, what4 put1, id6, id4, n6, n4 uint16) {
		if six {
			add(what6, id6, n6)
		} else {
			add(what4, id4, n4)
		}
	}
	wide := func(bit Shape, n uint16) uint16 {
		if s&bit != 0 {
			return 4
		}
		return n
	}
	six := s&shape6 != 0
	packets, octets := wide(shapeCount32, 1), wide(shapeCount32, 2)
	if s&shapeCount64 != 0 {
		packets, octets = 8, 8
	}
	ifs, as := wide(shapeIf32, 2), wide(shapeAS32, 2)

	if s&shapeNoSrc == 0 {
		either(six, putSrc16, putSrc4, ie.IDSourceIPv6Address, ie.IDSourceIPv4Address, 16, 4)
	}
	if s&shapeNoDst == 0 {
		either(six, putDst16, putDst4, ie.IDDestinationIPv6Address, ie.IDDestinationIPv4Address, 16, 4)
	}
	switch {
	case s&shapePorts == 0:
	case s&(shapeNoSrcPort|shapeNoDstPort) == 0:
		add(putPorts, ie.IDSourceTransportPort, 2)
		add(putNothing, ie.IDDestinationTransportPort, 2)
	default:
		when(shapeNoDstPort, putSrcPort, ie.IDSourceTransportPort, 2)
		when(shapeNoSrcPort, putDstPort, ie.IDDestinationTransportPort, 2)
	}
	if s&shapeICMP != 0 {
		either(six, putICMP, putICMP, ie.IDIcmpTypeCodeIPv6, ie.IDIcmpTypeCodeIPv4, 2, 2)
	}
	when(shapeProto, putProto, ie.IDProtocolIdentifier, 1)
	when(shapeTOS, putTOS, ie.IDIpClassOfService, 1)
	if s&shapeFlags16 != 0 {
		add(putFlags, ie.IDTcpControlBits, 2)
	} else {
		when(shapeFlags, putFlags, ie.IDTcpControlBits, 1)
	}
	when(shapeInput, putInput, ie.IDIngressInterface, ifs)
	when(shapeOutput, putOutput, ie.IDEgressInterface, ifs)
	when(shapePackets, putPackets, ie.IDPacketDeltaCount, packets)
	when(shapeBytes, putBytes, ie.IDOctetDeltaCount, octets)
	if s&shapeNoFirst == 0 {
		when(shapeUptime, putFirstUp, ie.IDFlowStartSysUpTime, 4)
	}
	if s&shapeNoLast == 0 {
		when(shapeUptime, putLastUp, ie.IDFlowEndSysUpTime, 4)
	}
	if s&shapeNoFirst == 0 {
		when(shapeAbsolute, putFirstMs, ie.IDFlowStartMilliseconds, 8)
	}
	if s&shapeNoLast == 0 {
		when(shapeAbsolute, putLastMs, ie.IDFlowEndMilliseconds, 8)
	}
	when(shapeSrcAS, putSrcAS, ie.IDBgpSourceAsNumber, as)
	when(shapeDstAS, putDstAS, ie.IDBgpDestinationAsNumber, as)
	if s&shapeSrcMask != 0 {
		either(six, putSrcMask, putSrcMask, ie.IDSourceIPv6PrefixLength, ie.IDSourceIPv4PrefixLength, 1, 1)
	}
	if s&shapeDstMask != 0 {
		either(six, putDstMask, putDstMask, ie.IDDestinationIPv6PrefixLength, ie.IDDestinationIPv4PrefixLength, 1, 1)
	}
	if s&shapeNextHop != 0 {
		either(s&shapeNextHop6 != 0, putNextHop16, putNextHop4, ie.IDIpNextHopIPv6Address, ie.IDIpNextHopIPv4Address, 16, 4)
	}
	if s&shapeBGPNextHop != 0 {
		either(s&shapeBGPNextHop6 != 0, putBGPNextHop16, putBGPNextHop4, ie.IDBgpNextHopIPv6Address, ie.IDBgpNextHopIPv4Address, 16, 4)
	}
	when(shapeVLAN, putVLAN, ie.IDVlanId, 2)
	when(shapeDirection, putDirection, ie.IDFlowDirection, 1)
	if s&shapeSampler != 0 {
		if version == flow.VersionIPFIX {
			add(putSampler, ie.IDSelectorId, 8)
		} else {
			add(putSampler, ie.IDSamplerId, 1)
		}
	}
	when(shapeReason, putReason, ie.IDFlowEndReason, 1)
	when(shapeStatus, putStatus, ie.IDForwardingStatus, 1)
	when(shapeDropped, putDroppedPackets, ie.IDDroppedPacketDeltaCount, 8)
	when(shapeDropped, putDroppedBytes, ie.IDDroppedOctetDeltaCount, 8)
	when(shapeDropped, putEvent, ie.IDFirewallEvent, 1)
	when(shapeRule, putRule, ie.IDCommonPropertiesId, 4) // its options tell the rule (package export)
	when(shapeIPVersion, putIPVersion, ie.IDIpVersion, 1)
	when(shapeFlowID, putFlowID, ie.IDFlowId, 8)
	if s&shapeMore != 0 {
		l.addMore(s)
	}
	if l.Size < minRecord {
		add(putPadding, ie.IDPaddingOctets, uint16(minRecord-l.Size))
	}
	l.puts = join(l.puts)
	return l
}

// TemplateSize is what AppendTemplate adds.
func (l *Layout) TemplateSize() int {
	n := 4
	for _, f := range l.Fields {
		n += f.size()
	}
	return n
}

// AppendTemplate writes l's template record.
func (l *Layout) AppendTemplate(dst []byte) []byte { return AppendTemplate(dst, l.ID, l.Fields) }

// Append writes r, which must be of l's shape: l.Size octets. boot is as in
// Stamp; sampler is the id that the sampling options announced.
func (l *Layout) Append(dst []byte, r *flow.Record, boot int64, sampler uint8) []byte {
	for _, p := range l.puts {
		switch p.what {
		// Two fields and more, see join.
		case putAddrs4:
			dst = append(append(dst, r.Src[12:]...), r.Dst[12:]...)
		case putAddrs16:
			dst = append(append(dst, r.Src[:]...), r.Dst[:]...)
		case putProtoTOS:
			dst = append(dst, r.Proto, r.TOS)
		case putProtoTOSFlags:
			dst = append(dst, r.Proto, r.TOS, byte(r.TCPFlags))
		case putProtoTOSFlags16:
			dst = append(dst, r.Proto, r.TOS, byte(r.TCPFlags>>8), byte(r.TCPFlags))
		case putInOut2:
			dst = be.AppendUint32(dst, r.Input<<16|r.Output&0xffff)
		case putInOut4:
			dst = be.AppendUint64(dst, uint64(r.Input)<<32|uint64(r.Output))
		case putCounts12:
			dst = append(dst, byte(r.Packets), byte(r.Bytes>>8), byte(r.Bytes))
		case putCounts4:
			dst = be.AppendUint64(dst, r.Packets<<32|r.Bytes&0xffffffff)
		case putCounts8:
			dst = be.AppendUint64(be.AppendUint64(dst, r.Packets), r.Bytes)
		case putUps:
			dst = be.AppendUint64(dst, uint64(sinceBoot(r.First, boot))<<32|uint64(sinceBoot(r.Last, boot)))
		case putMss:
			dst = be.AppendUint64(be.AppendUint64(dst, uint64(floorMs(r.First))), uint64(floorMs(r.Last)))
		case putAS2:
			dst = be.AppendUint32(dst, r.SrcAS<<16|r.DstAS&0xffff)
		case putAS4:
			dst = be.AppendUint64(dst, uint64(r.SrcAS)<<32|uint64(r.DstAS))
		case putMasks:
			dst = append(dst, r.SrcMask, r.DstMask)
		case putReasonStatus:
			dst = append(dst, byte(r.EndReason), r.ForwardingStatus)
		case putDropped:
			dst = be.AppendUint64(be.AppendUint64(dst, r.DroppedPackets), r.DroppedBytes)
		// One field.
		case putSrc4:
			dst = append(dst, r.Src[12:]...)
		case putDst4:
			dst = append(dst, r.Dst[12:]...)
		case putSrc16:
			dst = append(dst, r.Src[:]...)
		case putDst16:
			dst = append(dst, r.Dst[:]...)
		case putPorts:
			dst = be.AppendUint32(dst, uint32(r.SrcPort)<<16|uint32(r.DstPort))
		case putICMP:
			dst = append(dst, r.ICMPType, r.ICMPCode)
		case putSrcPort:
			dst = be.AppendUint16(dst, r.SrcPort)
		case putDstPort:
			dst = be.AppendUint16(dst, r.DstPort)
		case putPadding:
			dst = append(dst, make([]byte, p.n)...)
		case putProto:
			dst = append(dst, r.Proto)
		case putTOS:
			dst = append(dst, r.TOS)
		case putFlags:
			dst = appendUint(dst, uint64(r.TCPFlags), p.n)
		case putInput:
			dst = appendUint(dst, uint64(r.Input), p.n)
		case putOutput:
			dst = appendUint(dst, uint64(r.Output), p.n)
		case putPackets:
			dst = appendUint(dst, r.Packets, p.n)
		case putBytes:
			dst = appendUint(dst, r.Bytes, p.n)
		case putFirstUp:
			dst = be.AppendUint32(dst, sinceBoot(r.First, boot))
		case putLastUp:
			dst = be.AppendUint32(dst, sinceBoot(r.Last, boot))
		case putFirstMs:
			dst = be.AppendUint64(dst, uint64(floorMs(r.First)))
		case putLastMs:
			dst = be.AppendUint64(dst, uint64(floorMs(r.Last)))
		case putDirection:
			dst = append(dst, r.Direction)
		case putVLAN:
			dst = be.AppendUint16(dst, r.VLAN)
		case putSrcAS:
			dst = appendUint(dst, uint64(r.SrcAS), p.n)
		case putDstAS:
			dst = appendUint(dst, uint64(r.DstAS), p.n)
		case putSrcMask:
			dst = append(dst, r.SrcMask)
		case putDstMask:
			dst = append(dst, r.DstMask)
		case putNextHop4:
			dst = append(dst, r.NextHop[12:]...)
		case putNextHop16:
			dst = append(dst, r.NextHop[:]...)
		case putBGPNextHop4:
			dst = append(dst, r.BGPNextHop[12:]...)
		case putBGPNextHop16:
			dst = append(dst, r.BGPNextHop[:]...)
		case putSampler:
			dst = appendUint(dst, uint64(sampler), p.n)
		case putReason:
			dst = append(dst, byte(r.EndReason))
		case putStatus:
			dst = append(dst, r.ForwardingStatus)
		case putDroppedPackets:
			dst = be.AppendUint64(dst, r.DroppedPackets)
		case putDroppedBytes:
			dst = be.AppendUint64(dst, r.DroppedBytes)
		case putEvent:
			dst = append(dst, flow.EventDenied)
		case putRule:
			dst = be.AppendUint32(dst, uint32(r.Rule))
		case putFlowID:
			dst = be.AppendUint64(dst, r.FlowID)
		case putIPVersion:
			if l.Shape&shape6 != 0 {
				dst = append(dst, 6)
			} else {
				dst = append(dst, 4)
			}
		default:
			dst = moreFields[p.what-putMoreFirst].append(dst, r)
		}
	}
	return dst
}
