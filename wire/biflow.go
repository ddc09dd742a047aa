package wire

import (
	"slices"

	"weir/ie"
)

// Biflows (RFC 5103): one record tells of both directions, the other one's
// counters under the enterprise number 29305. Read as it is, a record has the
// forward direction in its columns and the rest in Elements (reverseOctetDeltaCount,
// …), and sums over columns are of half the traffic. Options.SplitBiflows makes
// two records of one instead.

// opposite pairs the elements that change places when a flow is looked at from
// the other end.
var opposite = func() map[uint16]uint16 {
	m := map[uint16]uint16{}
	for _, p := range [][2]uint16{
		{ie.IDSourceIPv4Address, ie.IDDestinationIPv4Address},
		{ie.IDSourceIPv6Address, ie.IDDestinationIPv6Address},
		{ie.IDSourceIPv4Prefix, ie.IDDestinationIPv4Prefix},
		{ie.IDSourceIPv6Prefix, ie.IDDestinationIPv6Prefix},
		{ie.IDSourceIPv4PrefixLength, ie.IDDestinationIPv4PrefixLength},
		{ie.IDSourceIPv6PrefixLength, ie.IDDestinationIPv6PrefixLength},
		{ie.IDSourceTransportPort, ie.IDDestinationTransportPort},
		{ie.IDUdpSourcePort, ie.IDUdpDestinationPort},
		{ie.IDTcpSourcePort, ie.IDTcpDestinationPort},
		{ie.IDIngressInterface, ie.IDEgressInterface},
		{ie.IDIngressPhysicalInterface, ie.IDEgressPhysicalInterface},
		{ie.IDIngressVRFID, ie.IDEgressVRFID},
		{ie.IDBgpSourceAsNumber, ie.IDBgpDestinationAsNumber},
		{ie.IDSourceMacAddress, ie.IDDestinationMacAddress},
	} {
		m[p[0]], m[p[1]] = p[1], p[0]
	}
	return m
}()

// split gives the two templates that a biflow's records are read by: of the
// forward direction, without what is of the other one, and of the other one,
// with sources and destinations in each other's places. Fields that the other
// direction has counted itself are its own. Where there are no reverse fields, t
// is the first, and there is no second.
func (t *Template) split() (forward, reverse *Template) {
	isReverse := func(f FieldSpec) bool { return f.PEN == ie.Reverse }
	if t.opts || !slices.ContainsFunc(t.Fields, isReverse) {
		return t, nil
	}
	own := map[uint16]bool{}
	for _, f := range t.Fields {
		if isReverse(f) {
			own[f.ID] = true
		}
	}
	padding := func(n uint16) FieldSpec {
		return FieldSpec{ID: ie.IDPaddingOctets, Length: n, Name: specName(ie.IDPaddingOctets)}
	}
	f, r := *t, *t
	f.Fields, r.Fields = slices.Clone(t.Fields), slices.Clone(t.Fields)
	for i, field := range t.Fields {
		switch {
		case isReverse(field):
			f.Fields[i] = padding(field.Length)
			r.Fields[i] = FieldSpec{ID: field.ID, Length: field.Length, Name: specName(field.ID)}
		case field.PEN == 0 && own[field.ID]:
			r.Fields[i] = padding(field.Length)
		case field.PEN == 0 && field.ID == ie.IDFlowDirection:
			r.Fields[i] = padding(field.Length) // of the observation point, not of the flow's ends
		case field.PEN == 0 && opposite[field.ID] != 0:
			id := opposite[field.ID]
			r.Fields[i] = FieldSpec{ID: id, Length: field.Length, Name: specName(id)}
		}
	}
	return &f, &r
}

// reverseOf reads the other direction of a record; it is kept for the end of the
// set if it was seen at all.
func (d *Decoder) reverseOf(t *Template, rec []byte, spans []span, s *session) {
	c := &d.ctx
	saved := c.proto
	c.prepare(t.plan, s)
	r := c.proto
	c.proto = saved
	c.begin()
	moves := t.plan.moves
	if spans != nil {
		moves = d.place(t.plan, spans)
	}
	c.move(&r, moves, rec)
	if r.Packets|r.Bytes == 0 {
		return
	}
	d.finish(&r, t, rec, spans, s)
	d.reversed = append(d.reversed, r)
}

// giveReversed hands on the other directions of a set's records.
func (d *Decoder) giveReversed() {
	d.msg.b.Records = append(d.msg.b.Records, d.reversed...)
	d.msg.Reversed += len(d.reversed)
	d.reversed = d.reversed[:0]
}
