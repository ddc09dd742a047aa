package wire

import (
	"weir/flow"
	"weir/ie"
)

// What records have beyond the columns: flows merged into an aggregate, and what
// flow.More and flow.Reverse tell. Elements of enterprises, a tunnel's and those of the
// other direction (RFC 5103), are IPFIX's alone.
const (
	shapeFlows Shape = 1 << (34 + iota)
	shapeSrcMAC
	shapeDstMAC
	shapeInnerVLAN
	shapeLabel1
	shapeLabel2
	shapeLabel3
	shapeFlowLabel
	shapeTTLs
	shapeLengths
	shapeTCPOptions
	shapeFragment
	shapeTunnel // of IPv4
	shapeTunnelKey
	shapeReverse

	shapeMore = shapeReverse<<1 - shapeFlows
)

// moreFields is what each bit puts into a record, in order.
var moreFields = []struct {
	bit    Shape
	pen    uint32
	id, n  uint16
	append func(dst []byte, r *flow.Record) []byte
}{
	{shapeFlows, 0, ie.IDDeltaFlowCount, 8, func(b []byte, r *flow.Record) []byte { return be.AppendUint64(b, r.Flows) }},
	{shapeSrcMAC, 0, ie.IDSourceMacAddress, 6, func(b []byte, r *flow.Record) []byte { return append(b, r.More.SrcMAC[:]...) }},
	{shapeDstMAC, 0, ie.IDDestinationMacAddress, 6, func(b []byte, r *flow.Record) []byte { return append(b, r.More.DstMAC[:]...) }},
	{shapeInnerVLAN, 0, ie.IDDot1qCustomerVlanId, 2, func(b []byte, r *flow.Record) []byte { return be.AppendUint16(b, r.More.InnerVLAN&flow.VLANMask) }},
	{shapeLabel1, 0, ie.IDMplsTopLabelStackSection, 3, func(b []byte, r *flow.Record) []byte { return appendLabel(b, r.More.Labels[0]) }},
	{shapeLabel2, 0, ie.IDMplsLabelStackSection2, 3, func(b []byte, r *flow.Record) []byte { return appendLabel(b, r.More.Labels[1]) }},
	{shapeLabel3, 0, ie.IDMplsLabelStackSection3, 3, func(b []byte, r *flow.Record) []byte { return appendLabel(b, r.More.Labels[2]) }},
	{shapeFlowLabel, 0, ie.IDFlowLabelIPv6, 4, func(b []byte, r *flow.Record) []byte { return be.AppendUint32(b, r.More.FlowLabel) }},
	{shapeTTLs, 0, ie.IDMinimumTTL, 1, func(b []byte, r *flow.Record) []byte { return append(b, r.More.MinTTL) }},
	{shapeTTLs, 0, ie.IDMaximumTTL, 1, func(b []byte, r *flow.Record) []byte { return append(b, r.More.MaxTTL) }},
	{shapeLengths, 0, ie.IDMinimumIpTotalLength, 2, func(b []byte, r *flow.Record) []byte { return be.AppendUint16(b, r.More.MinLength) }},
	{shapeLengths, 0, ie.IDMaximumIpTotalLength, 2, func(b []byte, r *flow.Record) []byte { return be.AppendUint16(b, r.More.MaxLength) }},
	{shapeTCPOptions, 0, ie.IDTcpOptions, 8, func(b []byte, r *flow.Record) []byte { return be.AppendUint64(b, r.More.TCPOptions) }},
	{shapeFragment, 0, ie.IDFragmentFlags, 1, func(b []byte, r *flow.Record) []byte { return append(b, r.More.FragmentFlags) }},
	{shapeFragment, 0, ie.IDFragmentOffset, 2, func(b []byte, r *flow.Record) []byte { return be.AppendUint16(b, r.More.FragmentOffset) }},

	// Open vSwitch's elements.
	{shapeTunnel, ie.VMware, 891, 1, func(b []byte, r *flow.Record) []byte { return append(b, r.More.Tunnel.OVS()) }},
	{shapeTunnelKey, ie.VMware, 892, 4, func(b []byte, r *flow.Record) []byte { return be.AppendUint32(b, r.More.TunnelID) }},
	{shapeTunnel, ie.VMware, 893, 4, func(b []byte, r *flow.Record) []byte { return append(b, r.More.TunnelSrc[12:]...) }},
	{shapeTunnel, ie.VMware, 894, 4, func(b []byte, r *flow.Record) []byte { return append(b, r.More.TunnelDst[12:]...) }},
	{shapeTunnel, ie.VMware, 895, 1, func(b []byte, r *flow.Record) []byte { return append(b, r.More.TunnelProto) }},
	{shapeTunnel, ie.VMware, 897, 2, func(b []byte, r *flow.Record) []byte { return be.AppendUint16(b, r.More.TunnelPort) }},

	{shapeReverse, ie.Reverse, ie.IDPacketDeltaCount, 8, func(b []byte, r *flow.Record) []byte { return be.AppendUint64(b, r.Reverse.Packets) }},
	{shapeReverse, ie.Reverse, ie.IDOctetDeltaCount, 8, func(b []byte, r *flow.Record) []byte { return be.AppendUint64(b, r.Reverse.Bytes) }},
	{shapeReverse, ie.Reverse, ie.IDFlowStartMilliseconds, 8, func(b []byte, r *flow.Record) []byte { return be.AppendUint64(b, uint64(floorMs(r.Reverse.First))) }},
	{shapeReverse, ie.Reverse, ie.IDFlowEndMilliseconds, 8, func(b []byte, r *flow.Record) []byte { return be.AppendUint64(b, uint64(floorMs(r.Reverse.Last))) }},
	{shapeReverse, ie.Reverse, ie.IDTcpControlBits, 2, func(b []byte, r *flow.Record) []byte { return be.AppendUint16(b, uint16(r.Reverse.TCPFlags)) }},
}

// appendLabel writes label, traffic class and bottom bit (IE 70).
func appendLabel(b []byte, l uint32) []byte { return append(b, byte(l>>16), byte(l>>8), byte(l)) }

// putMoreFirst is the put of moreFields[0]; the others follow it.
const putMoreFirst put1 = 128

// shapeOfMore is what of a shape is beyond the columns. A biflow's record whose other
// direction has counted nothing is one of a single direction.
func shapeOfMore(version uint8, has flow.Field, r *flow.Record) (s Shape) {
	if has&flow.HasFlows != 0 {
		s |= shapeFlows
	}
	if v := r.Reverse; v != nil && v.Packets > 0 && version == flow.VersionIPFIX {
		s |= shapeReverse
	}
	m := r.More
	if m == nil {
		return s
	}
	for _, f := range [...]struct {
		known flow.Facts
		shape Shape
	}{
		{flow.BySrcMAC, shapeSrcMAC},
		{flow.ByDstMAC, shapeDstMAC},
		{flow.ByTTL, shapeTTLs},
		{flow.ByLength, shapeLengths},
		{flow.ByFragment, shapeFragment},
	} {
		if m.Known&f.known != 0 {
			s |= f.shape
		}
	}
	if m.Known&flow.ByInnerVLAN != 0 && m.InnerVLAN&flow.KeyTagged != 0 {
		s |= shapeInnerVLAN
	}
	if m.Known&flow.ByMPLS != 0 {
		for i, bit := range [...]Shape{shapeLabel1, shapeLabel2, shapeLabel3} {
			if m.Labels[i]&flow.LabelThere != 0 {
				s |= bit
			}
		}
	}
	if m.Known&flow.ByFlowLabel != 0 && r.IPVersion == 6 {
		s |= shapeFlowLabel
	}
	if m.Known&flow.ByTCPOptions != 0 && r.Proto == flow.ProtoTCP {
		s |= shapeTCPOptions
	}
	if m.Tunnel != flow.NoTunnel && version == flow.VersionIPFIX {
		if m.TunnelSrc.Is4() {
			s |= shapeTunnel
		}
		if m.TunnelHas&flow.HasTunnelID != 0 {
			s |= shapeTunnelKey
		}
	}
	return s
}

// addMore adds the fields of s that are beyond the columns.
func (l *Layout) addMore(s Shape) {
	for i, f := range moreFields {
		if s&f.bit == 0 {
			continue
		}
		spec := FieldSpec{ID: f.id, PEN: f.pen, Length: f.n, Name: specName(f.id)}
		if f.pen != 0 {
			if e, ok := ie.Lookup(f.pen, f.id); ok {
				spec.Name = e.Name
			}
		}
		l.Fields = append(l.Fields, spec)
		l.puts = append(l.puts, put{putMoreFirst + put1(i), f.n})
		l.Size += int(f.n)
	}
}
