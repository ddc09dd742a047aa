package wire

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"weir/flow"
)

// SchemeV8 is an aggregation scheme of NetFlow v8, by its number: what an
// exporter merged flows by before it sent them.
type SchemeV8 uint8

// The schemes. All records of a datagram are of one. 6 to 8 are those of the
// Catalyst 5000, whose records are of single destinations, pairs and flows.
const (
	V8AS SchemeV8 = 1 + iota
	V8ProtocolPort
	V8SourcePrefix
	V8DestinationPrefix
	V8Prefix
	V8Destination
	V8SourceDestination
	V8FullFlow
	V8ASToS
	V8ProtocolPortToS
	V8SourcePrefixToS
	V8DestinationPrefixToS
	V8PrefixToS
	V8PrefixPort

	schemesV8
)

// HeaderV8Len is v8's header in octets.
const HeaderV8Len = 28

// Valid says whether there is such a scheme.
func (s SchemeV8) Valid() bool { return s > 0 && s < schemesV8 }

func (s SchemeV8) String() string {
	if s.Valid() {
		return v8Schemes[s].name
	}
	return "unknown"
}

// ParseSchemeV8 reads a scheme's name, as String gives it, or its number.
func ParseSchemeV8(text string) (SchemeV8, error) {
	var names []string
	for s := V8AS; s < schemesV8; s++ {
		if strings.EqualFold(text, v8Schemes[s].name) || text == strconv.Itoa(int(s)) {
			return s, nil
		}
		names = append(names, v8Schemes[s].name)
	}
	return 0, fmt.Errorf("accepted: 1 to 14, %s", strings.Join(names, ", "))
}

// RecordLen is the length of a record in octets; s must be valid, as below.
func (s SchemeV8) RecordLen() int { return v8Schemes[s].size }

// MaxRecords is how many a datagram may hold: old collectors (flow-tools) size
// their buffers so.
func (s SchemeV8) MaxRecords() int { return v8Schemes[s].most }

// Fields is what records of the scheme say, as in flow.Record.Has: the keys
// that flows are merged by, counters and times.
func (s SchemeV8) Fields() flow.Field { return v8Schemes[s].has() }

// FormV8 is how records of a scheme are written and read.
type FormV8 struct {
	Scheme SchemeV8
	// DestinationMaskFirst: in the schemes with two masks (5, 13, 14) the
	// destination's stands before the source's. Sources differ: flow-tools has it
	// so, Wireshark and the OpenVMS record definitions, as false, the other way.
	DestinationMaskFirst bool
}

// scheme is the description that f chooses.
func (f FormV8) scheme() *v8Scheme {
	if f.DestinationMaskFirst {
		return &v8FlowTools[f.Scheme]
	}
	return &v8Schemes[f.Scheme]
}

// v8Scheme describes the records of one aggregation scheme: where each field
// stands, 0 if it is not there (the first field of every scheme is known).
type v8Scheme struct {
	name string
	size int
	most int // records of a datagram
	// All but the Catalyst schemes (6 to 8) begin with flows 4, packets 4,
	// octets 4, first 4, last 4; those begin with addresses.
	catalyst bool

	src, dst, srcPort, dstPort, proto, tos     uint8
	srcAS, dstAS, srcMask, dstMask, input, out uint8
	packets, marked, extra, router             uint8
}

// v8Schemes by number, the source's mask first.
var v8Schemes = [schemesV8]v8Scheme{
	1:  {name: "AS", size: 28, most: 51, srcAS: 20, dstAS: 22, input: 24, out: 26},
	2:  {name: "protocol-port", size: 28, most: 51, proto: 20, srcPort: 24, dstPort: 26},
	3:  {name: "source-prefix", size: 32, most: 44, src: 20, srcMask: 24, srcAS: 26, input: 28},
	4:  {name: "destination-prefix", size: 32, most: 44, dst: 20, dstMask: 24, dstAS: 26, out: 28},
	5:  {name: "prefix", size: 40, most: 35, src: 20, dst: 24, srcMask: 28, dstMask: 29, srcAS: 32, dstAS: 34, input: 36, out: 38},
	6:  {name: "destination", size: 32, most: 44, catalyst: true, dst: 0, packets: 4, out: 20, tos: 22, marked: 23, extra: 24, router: 28},
	7:  {name: "source-destination", size: 40, most: 35, catalyst: true, dst: 0, src: 4, packets: 8, out: 24, input: 26, tos: 28, marked: 29, extra: 32, router: 36},
	8:  {name: "full-flow", size: 44, most: 32, catalyst: true, dst: 0, src: 4, dstPort: 8, srcPort: 10, packets: 12, out: 28, input: 30, tos: 32, proto: 33, marked: 34, extra: 36, router: 40},
	9:  {name: "AS-ToS", size: 32, most: 44, srcAS: 20, dstAS: 22, input: 24, out: 26, tos: 28},
	10: {name: "protocol-port-ToS", size: 32, most: 44, proto: 20, tos: 21, srcPort: 24, dstPort: 26, input: 28, out: 30},
	11: {name: "source-prefix-ToS", size: 32, most: 44, src: 20, srcMask: 24, tos: 25, srcAS: 26, input: 28},
	12: {name: "destination-prefix-ToS", size: 32, most: 44, dst: 20, dstMask: 24, tos: 25, dstAS: 26, out: 28},
	13: {name: "prefix-ToS", size: 40, most: 35, src: 20, dst: 24, srcMask: 28, dstMask: 29, tos: 30, srcAS: 32, dstAS: 34, input: 36, out: 38},
	14: {name: "prefix-port", size: 40, most: 35, src: 20, dst: 24, srcMask: 28, dstMask: 29, tos: 30, proto: 31, srcPort: 32, dstPort: 34, input: 36, out: 38},
}

// v8FlowTools is v8Schemes with the destination's mask first.
var v8FlowTools = func() [schemesV8]v8Scheme {
	t := v8Schemes
	for i := range t {
		if a := &t[i]; a.srcMask != 0 && a.dstMask != 0 {
			a.srcMask, a.dstMask = a.dstMask, a.srcMask
		}
	}
	return t
}()

// v8 reads an aggregate datagram: a header of 28 octets, v5's with aggregation
// scheme 1, aggregation version 1 and four reserved octets at 22, then records
// of one scheme.
func (d *Decoder) v8(msg []byte) {
	const head = HeaderV8Len
	if len(msg) < head {
		d.refuse(ShortMessage, len(msg), len(msg), "header", ErrShort)
		return
	}
	p, ms := legacyTime(msg)
	seq := be.Uint32(msg[16:])
	d.header(flow.VersionV8, uint32(be.Uint16(msg[20:])), seq, p, ms)
	d.msg.Count, d.msg.Sets = be.Uint16(msg[2:]), 1
	form := FormV8{Scheme: SchemeV8(msg[22]), DestinationMaskFirst: d.opt.V8DestinationMaskFirst}
	if !form.Scheme.Valid() {
		d.refuse(ReservedSet, len(msg)-head, 22, "aggregation scheme", ErrReserved)
		return
	}
	a := form.scheme()
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

// PutHeaderV8 writes a v8 header over the first octets of b. Of aggregation
// versions there is 2 only.
func PutHeaderV8(b []byte, h HeaderV5, scheme SchemeV8) {
	_ = b[HeaderV8Len-1]
	putOldHeader(b, flow.VersionV8, h)
	be.PutUint32(b[16:], h.Sequence)
	be.PutUint16(b[20:], h.Engine)
	b[22], b[23] = byte(scheme), 2
	be.PutUint32(b[24:], 0)
}

// AggregateV8 is what a v8 record says beyond a flow.Record, and its counters,
// which 32 bits must hold: see Part.
type AggregateV8 struct {
	Packets, Octets uint32
	Flows           uint32 // that were merged; not in schemes 6 to 8

	// Of the schemes 6 to 8 only.
	MarkedTOS    uint8     // of packets over the contract
	ExtraPackets uint32    // over the contract
	Router       flow.Addr // that was bypassed; zero: none
}

// AggregateOf is what r says of itself beyond its columns, as read from v8: for
// sending collected aggregates on. A record that does not say how many flows it
// is made of is one. The counters are those of a record that need not be split.
func AggregateOf(r *flow.Record) AggregateV8 {
	a := AggregateV8{Packets: uint32(r.Packets), Octets: uint32(r.Bytes), Flows: 1}
	if said, ok := legacyElementsOf(r); ok {
		if said.Flows != nil {
			a.Flows = *said.Flows
		}
		a.MarkedTOS, a.ExtraPackets, a.Router = said.Marked, said.Extra, flow.AddrFrom(said.Router)
	}
	return a
}

// AppendRecordV8 writes a v8 record of form.Scheme, which must be valid:
// RecordLen octets. The fields that the scheme has are taken from r as they are,
// prefixes included; its addresses are of IPv4. boot is as in Stamp. AS numbers,
// ifIndexes and ICMP are said as in v5.
func AppendRecordV8(dst []byte, form FormV8, r *flow.Record, a AggregateV8, boot int64) []byte {
	s := form.scheme()
	at := len(dst)
	dst = append(dst, zeroRecordV8[:s.size]...)
	f := dst[at:]
	short := func(off uint8, v uint16) {
		if off != 0 {
			be.PutUint16(f[off:], v)
		}
	}
	octet := func(off, v uint8) {
		if off != 0 {
			f[off] = v
		}
	}
	counters := f[4:]
	if s.catalyst {
		counters = f[s.packets:]
		copy(f, r.Dst[12:])
		octet(s.marked, a.MarkedTOS)
		be.PutUint32(f[s.extra:], a.ExtraPackets)
		copy(f[s.router:], a.Router[12:])
	} else {
		be.PutUint32(f, a.Flows)
	}
	be.PutUint32(counters, a.Packets)
	be.PutUint32(counters[4:], a.Octets)
	be.PutUint32(counters[8:], sinceBoot(r.First, boot))
	be.PutUint32(counters[12:], sinceBoot(r.Last, boot))
	if s.src != 0 {
		copy(f[s.src:], r.Src[12:])
	}
	if s.dst != 0 {
		copy(f[s.dst:], r.Dst[12:])
	}
	srcPort, dstPort := ports(r)
	short(s.srcPort, srcPort)
	short(s.dstPort, dstPort)
	octet(s.proto, r.Proto)
	octet(s.tos, r.TOS)
	short(s.srcAS, as16(r.SrcAS))
	short(s.dstAS, as16(r.DstAS))
	octet(s.srcMask, r.SrcMask)
	octet(s.dstMask, r.DstMask)
	short(s.input, if16(r.Input))
	short(s.out, if16(r.Output))
	return dst
}

var zeroRecordV8 [44]byte
