package wire

import (
	"slices"

	"weir/flow"
)

// v8Scheme describes the records of one aggregation scheme: where each field
// stands, 0 if it is not there (the first field of every scheme is known).
type v8Scheme struct {
	name string
	size int
	// All but the Catalyst schemes (6 to 8) begin with flows 4, packets 4,
	// octets 4, first 4, last 4; those begin with addresses.
	catalyst bool

	src, dst, srcPort, dstPort, proto, tos     uint8
	srcAS, dstAS, srcMask, dstMask, input, out uint8
	packets, marked, extra, router             uint8
}

// v8Schemes by number. With V8DestinationMaskFirst the masks of 5, 13 and 14
// change places.
var v8Schemes = [...]v8Scheme{
	1:  {name: "AS", size: 28, srcAS: 20, dstAS: 22, input: 24, out: 26},
	2:  {name: "protocol-port", size: 28, proto: 20, srcPort: 24, dstPort: 26},
	3:  {name: "source-prefix", size: 32, src: 20, srcMask: 24, srcAS: 26, input: 28},
	4:  {name: "destination-prefix", size: 32, dst: 20, dstMask: 24, dstAS: 26, out: 28},
	5:  {name: "prefix", size: 40, src: 20, dst: 24, srcMask: 28, dstMask: 29, srcAS: 32, dstAS: 34, input: 36, out: 38},
	6:  {name: "destination", size: 32, catalyst: true, dst: 0, packets: 4, out: 20, tos: 22, marked: 23, extra: 24, router: 28},
	7:  {name: "source-destination", size: 40, catalyst: true, dst: 0, src: 4, packets: 8, out: 24, input: 26, tos: 28, marked: 29, extra: 32, router: 36},
	8:  {name: "full-flow", size: 44, catalyst: true, dst: 0, src: 4, dstPort: 8, srcPort: 10, packets: 12, out: 28, input: 30, tos: 32, proto: 33, marked: 34, extra: 36, router: 40},
	9:  {name: "AS-ToS", size: 32, srcAS: 20, dstAS: 22, input: 24, out: 26, tos: 28},
	10: {name: "protocol-port-ToS", size: 32, proto: 20, tos: 21, srcPort: 24, dstPort: 26, input: 28, out: 30},
	11: {name: "source-prefix-ToS", size: 32, src: 20, srcMask: 24, tos: 25, srcAS: 26, input: 28},
	12: {name: "destination-prefix-ToS", size: 32, dst: 20, dstMask: 24, tos: 25, dstAS: 26, out: 28},
	13: {name: "prefix-ToS", size: 40, src: 20, dst: 24, srcMask: 28, dstMask: 29, tos: 30, srcAS: 32, dstAS: 34, input: 36, out: 38},
	14: {name: "prefix-port", size: 40, src: 20, dst: 24, srcMask: 28, dstMask: 29, tos: 30, proto: 31, srcPort: 32, dstPort: 34, input: 36, out: 38},
}

// v8 reads an aggregate datagram: a header of 28 octets, v5's with aggregation
// scheme 1, aggregation version 1 and four reserved octets at 22, then records
// of one scheme.
func (d *Decoder) v8(msg []byte) {
	const head = 28
	if len(msg) < head {
		d.refuse(ShortMessage, len(msg), len(msg), "header", ErrShort)
		return
	}
	p, ms := legacyTime(msg)
	seq := be.Uint32(msg[16:])
	d.header(flow.VersionV8, uint32(be.Uint16(msg[20:])), seq, p, ms)
	d.msg.Count, d.msg.Sets = be.Uint16(msg[2:]), 1
	scheme := msg[22]
	if scheme == 0 || int(scheme) >= len(v8Schemes) {
		d.refuse(ReservedSet, len(msg)-head, 22, "aggregation scheme", ErrReserved)
		return
	}
	a := v8Schemes[scheme]
	if d.opt.V8DestinationMaskFirst && a.srcMask != 0 && a.dstMask != 0 {
		a.srcMask, a.dstMask = a.dstMask, a.srcMask
	}
	n, certain := d.legacyCount(msg, head, a.size)
	c, b := &d.ctx, d.msg.b
	c.proto.IPVersion = 4
	c.proto.Has |= a.has()
	first := len(b.Records)
	b.Records = slices.Grow(b.Records, n)[:first+n]
	for i := range n {
		r, f := &b.Records[first+i], msg[head+i*a.size:][:a.size]
		*r = c.proto
		a.read(r, f, c)
		var e object
		e.begin(b)
		e.always = true
		if a.catalyst {
			e.uint("markedTos", uint64(f[a.marked]))
			e.uint("extraPackets", uint64(be.Uint32(f[a.extra:])))
			e.addr("ipv4RouterSc", f[a.router:a.router+4])
		} else {
			e.uint("deltaFlowCount", uint64(be.Uint32(f)))
		}
		r.Elements = e.end()
		d.legacyEnd(r)
	}
	d.msg.Records = n
	if d.msg.s != nil {
		d.msg.s.seq.observe(raw{seq: seq, data: uint32(n), certain: certain}, p, c.received)
	}
}

// has is what records of the scheme say.
func (a *v8Scheme) has() flow.Field {
	h := flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast
	for _, f := range []struct {
		off uint8
		has flow.Field
	}{
		{a.src, flow.HasSrc},
		{a.dst, flow.HasDst},
		{a.srcPort, flow.HasSrcPort},
		{a.dstPort, flow.HasDstPort},
		{a.proto, flow.HasProto},
		{a.tos, flow.HasTOS},
		{a.srcAS, flow.HasSrcAS},
		{a.dstAS, flow.HasDstAS},
		{a.srcMask, flow.HasSrcMask},
		{a.dstMask, flow.HasDstMask},
		{a.input, flow.HasInput},
		{a.out, flow.HasOutput},
	} {
		if f.off != 0 {
			h |= f.has
		}
	}
	if a.catalyst {
		h |= flow.HasDst
	}
	return h
}

// read reads one record, which is as long as the scheme says.
func (a *v8Scheme) read(r *flow.Record, f []byte, c *context) {
	counters := f[4:] // behind the flow count
	if a.catalyst {
		counters = f[a.packets:]
		r.Dst = flow.AddrFrom4([4]byte(f))
	}
	r.Packets, r.Bytes = uint64(be.Uint32(counters)), uint64(be.Uint32(counters[4:]))
	r.First, r.Last = c.sysUp(be.Uint32(counters[8:])), c.sysUp(be.Uint32(counters[12:]))
	short := func(off uint8) uint16 {
		if off == 0 {
			return 0
		}
		return be.Uint16(f[off:])
	}
	octet := func(off uint8) uint8 {
		if off == 0 {
			return 0
		}
		return f[off]
	}
	if a.src != 0 {
		r.Src = flow.AddrFrom4([4]byte(f[a.src:]))
	}
	if a.dst != 0 {
		r.Dst = flow.AddrFrom4([4]byte(f[a.dst:]))
	}
	r.SrcPort, r.DstPort = short(a.srcPort), short(a.dstPort)
	r.Proto, r.TOS = octet(a.proto), octet(a.tos)
	r.SrcAS, r.DstAS = uint32(short(a.srcAS)), uint32(short(a.dstAS))
	r.SrcMask, r.DstMask = octet(a.srcMask), octet(a.dstMask)
	r.Input, r.Output = uint32(short(a.input)), uint32(short(a.out))
}
