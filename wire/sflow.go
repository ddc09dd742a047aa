package wire

import (
	"encoding/hex"
	"math"
	"net/netip"
	"slices"
	"strconv"

	"weir/flow"
	"weir/packet"
)

// sflow reads an sFlow version 5 datagram (sflow.org, sflow_version_5.txt), in
// XDR:
//
//	version 4 (5), agent address: type 4 (1 IPv4, 2 IPv6) and 4 or 16, sub-agent ID 4,
//	sequence number 4, uptime 4 (ms), samples: count 4, each:
//	data format 4 (enterprise 20 bits, format 12), length 4, octets
//
// Every sample tells its length, and so does every record in it: what is not
// known is stepped over. A flow sample is one packet; it makes one flow.Record,
// of 1 packet and the octets of its IP length, first and last when the datagram
// came, sampled one in sampling_rate. A packet that was discarded (sflow_drops)
// makes one, too. Counter samples are OptionsRecords: their scope is the data
// source, their fields the counters.
func (d *Decoder) sflow(msg []byte) {
	r := &reader{b: msg, off: 4}
	if v := be.Uint32(msg); v != 5 {
		d.refuse(UnknownVersion, len(msg), 0, "version number", ErrVersion)
		return
	}
	agent, ok := r.address()
	h := sflowHead{subAgent: r.u32(), sequence: r.u32(), uptime: r.u32(), samples: r.u32()}
	if !ok || r.bad {
		d.refuse(ShortMessage, len(msg), min(r.off, len(msg)), "datagram header", ErrShort)
		return
	}
	c := &d.ctx
	if !agent.IsZero() { // an agent that does not know its address is known by where it sends from
		c.src.Addr = agent
	}
	p := pulse{uptime: h.uptime, exported: uint32(c.received / 1e9), up: true}
	d.header(flow.VersionSFlow, h.subAgent, h.sequence, p, c.received/1e6)
	c.clock.exported, d.msg.Exported = c.received, c.received // sFlow has no clock of its own
	c.common.First, c.common.Last = c.received, c.received
	c.common.Has |= flow.HasFirst | flow.HasLast
	d.msg.Count = uint16(min(h.samples, math.MaxUint16))
	again := false
	if s := d.msg.s; s != nil {
		seen := s.seq.info.Duplicates
		s.seq.observe(raw{seq: h.sequence, data: 1, certain: true}, p, c.received)
		again = s.seq.info.Duplicates > seen
	}
	for n := h.samples; n > 0; n-- {
		at := r.off
		format := sflowFormat(r.u32())
		body := r.opaque()
		if r.bad {
			if at == len(msg) {
				d.refuse(RecordCount, 0, at, "number of samples", ErrCount)
			} else {
				d.refuse(SampleLength, len(msg)-at, at, "sample length", ErrLength)
			}
			return
		}
		d.msg.Sets++
		d.sample(format, body, at+8, again)
	}
}

type sflowHead struct{ subAgent, sequence, uptime, samples uint32 }

// address reads an sFlow address; zero if its type is 0, unknown.
func (r *reader) address() (flow.Addr, bool) {
	switch r.u32() {
	case 0:
	case 1:
		if f := r.take(4); f != nil {
			return flow.AddrFrom4([4]byte(f)), true
		}
	case 2:
		if f := r.take(16); f != nil {
			return flow.Addr(f), true
		}
	default:
		r.bad = true
	}
	return flow.Addr{}, !r.bad
}

// opaque reads a length, so many octets, and what pads them to a multiple of
// four; padding that the end cuts off is not missed.
func (r *reader) opaque() []byte {
	n := r.u32()
	if r.bad || uint64(n) > uint64(r.left()) {
		r.bad = true
		return nil
	}
	f := r.take(int(n))
	r.off = min(r.off+int(-n&3), len(r.b))
	return f
}

// sample is the head of one.
type sample struct {
	kind                   sampleKind
	sequence, class, index uint32
	rate, pool, drops      uint32
	inFormat, in           uint32
	outFormat, out         uint32
	reason                 uint32
}

type sampleKind uint8

const (
	flowSamples sampleKind = iota
	counterSamples
	discards
)

// sample reads one sample; at is where its body begins in the message.
func (d *Decoder) sample(format sflowFormat, body []byte, at int, again bool) {
	r := &reader{b: body}
	s := sample{sequence: r.u32()}
	source := func(expanded bool) {
		if s.class = r.u32(); expanded {
			s.index = r.u32()
		} else {
			s.class, s.index = s.class>>24, s.class&0xffffff
		}
	}
	port := func() (format, value uint32) { v := r.u32(); return v >> 30, v & (1<<30 - 1) }
	switch format {
	case sflowFlowSample:
		source(false)
		s.rate, s.pool, s.drops = r.u32(), r.u32(), r.u32()
		s.inFormat, s.in = port()
		s.outFormat, s.out = port()
	case sflowFlowSampleExpanded:
		source(true)
		s.rate, s.pool, s.drops = r.u32(), r.u32(), r.u32()
		s.inFormat, s.in, s.outFormat, s.out = r.u32(), r.u32(), r.u32(), r.u32()
	case sflowCounterSample, sflowCountersExpanded:
		s.kind = counterSamples
		source(format == sflowCountersExpanded)
	case sflowDiscardedPacket:
		s.kind = discards
		source(true)
		s.rate, s.drops, s.in, s.out, s.reason = 1, r.u32(), r.u32(), r.u32(), r.u32()
	default:
		d.tally(d.msg.s, SampleFormat, 1, 0, len(body))
		return
	}
	records := r.u32()
	if r.bad {
		d.refuse(SampleLength, len(body), at, "sample", ErrShort)
		return
	}
	if !again {
		d.follow(&s)
	}
	if s.kind == counterSamples {
		d.counterSample(&s, r, records, at)
	} else {
		d.flowSample(&s, r, records, at)
	}
}

// records calls f with the records of a sample that r stands in front of, and
// says whether all were whole.
func (d *Decoder) records(r *reader, n uint32, at int, f func(sflowFormat, []byte)) (whole bool) {
	for ; n > 0; n-- {
		off := r.off
		format := sflowFormat(r.u32())
		body := r.opaque()
		if r.bad {
			d.refuse(SampleLength, len(r.b)-off, at+off, "record length", ErrLength)
			return false
		}
		f(format, body)
	}
	return true
}

// sampledPacket is what the records of a sample say of its packet.
type sampledPacket struct {
	head     reader // sampled_header: behind header_protocol
	protocol uint32
	ethernet []byte
	ip       []byte // sampled_ipv4 or sampled_ipv6
	six      bool
	vlan     uint32 // extended_switch's; 0: not told
	outer    uint32 // extended_vlantunnel's outermost tag, TPID and TCI
	router   []byte
	gateway  []byte
}

// flowSample makes a record of a sampled or discarded packet.
func (d *Decoder) flowSample(s *sample, r *reader, records uint32, at int) {
	b, c := d.msg.b, &d.ctx
	if d.room(1, len(r.b), at) == 0 {
		return
	}
	rec := c.common
	s.ports(&rec)
	e := object{b: b}
	e.begin(b)
	e.drop(s)
	start := e.start
	var p sampledPacket
	room := !d.budget(b.arena)
	seen := make([]sflowFormat, 0, 16)
	whole := d.records(r, records, at, func(f sflowFormat, body []byte) {
		if slices.Contains(seen, f) || len(seen) == cap(seen) {
			d.tally(d.msg.s, SampleFormat, 1, 0, len(body))
			return
		}
		seen = append(seen, f)
		q := &reader{b: body}
		switch f {
		case sflowHeader:
			p.protocol, p.head = q.u32(), *q
			return
		case sflowEthernet:
			p.ethernet = body
			return
		case sflowIPv4, sflowIPv6:
			p.ip, p.six = body, f == sflowIPv6
			return
		case sflowRouter:
			p.router = body
		case sflowGateway:
			p.gateway = body
		case sflowSwitch:
			p.vlan = q.u32()
		case sflowVLANTunnel:
			if tags := q.list(); len(tags) > 0 {
				p.outer = be.Uint32(tags)
			}
		}
		if room {
			e.extended(f, body)
		}
	})
	if !p.read(&rec, &e) {
		b.arena = b.arena[:start]
		if whole { // else it was counted
			d.tally(d.msg.s, SampleWithoutIP, 1, 1, len(r.b))
		}
		return
	}
	rec.Packets = 1
	rec.Has |= flow.HasPackets
	if s.kind == discards {
		e.always = true
		e.uint("droppedPacketDeltaCount", 1)
		e.uint("droppedOctetDeltaCount", rec.Bytes)
	}
	if rec.Elements = e.end(); !room {
		b.arena, rec.Elements = b.arena[:start], nil
		d.refuse(ElementLimit, 0, at, "elements", ErrLimit)
	}
	b.Records = append(b.Records, rec)
	d.msg.Records++
}

// ports says where the packet came from and went to.
func (s *sample) ports(r *flow.Record) {
	if v, ok := rate(uint64(s.rate)); ok {
		r.Sampling = v
		r.Has |= flow.HasSampling
	}
	if s.inFormat == 0 && s.in != 0 {
		r.Input = s.in
		r.Has |= flow.HasInput
	}
	switch {
	case s.kind == discards:
		r.ForwardingStatus = droppedStatus(s.reason)
		r.Has |= flow.HasForwardingStatus
	case s.outFormat == 1:
		r.ForwardingStatus = droppedStatus(s.out)
		r.Has |= flow.HasForwardingStatus
	}
	if s.outFormat == 0 && s.out != 0 {
		r.Output = s.out
		r.Has |= flow.HasOutput
	}
	// A data source that is an interface samples there: the packet was seen
	// coming in, or going out.
	if s.class == 0 && s.index != 0 {
		in, out := r.Has&flow.HasInput != 0 && r.Input == s.index, r.Has&flow.HasOutput != 0 && r.Output == s.index
		if in != out {
			r.Has |= flow.HasDirection
			if out {
				r.Direction = 1
			}
		}
	}
}

// drop notes why a packet was discarded, or to how many interfaces it went.
func (o *object) drop(s *sample) {
	code, dropped := s.reason, s.kind == discards
	if s.outFormat == 1 {
		code, dropped = s.out, true
	}
	switch name := dropReason(code); {
	case dropped && name != "":
		o.key("drop_reason")
		o.b.arena = appendString(o.b.arena, []byte(name))
	case dropped:
		o.key("drop_reason")
		o.b.arena = strconv.AppendUint(o.b.arena, uint64(code), 10)
	case s.outFormat == 2:
		o.key("output_interfaces")
		o.b.arena = strconv.AppendUint(o.b.arena, uint64(s.out), 10)
	}
}

// read fills in what a record's packet says; it is false if there is no IP
// packet in it.
func (p *sampledPacket) read(r *flow.Record, e *object) bool {
	ok := p.header(r, e) || p.sampledIP(r)
	if !ok {
		return false
	}
	if p.ethernet != nil && p.head.b == nil {
		q := &reader{b: p.ethernet, off: 4}
		e.mac("sourceMacAddress", q.take(8))
		e.mac("destinationMacAddress", q.take(8))
	}
	if p.outer != 0 {
		r.VLAN = uint16(p.outer & flow.VLANMask)
		r.Has |= flow.HasVLAN
	}
	if r.Has&flow.HasVLAN == 0 && p.vlan > 0 && p.vlan < 4096 {
		r.VLAN = uint16(p.vlan)
		r.Has |= flow.HasVLAN
	}
	if p.router != nil {
		q := &reader{b: p.router}
		if a, ok := q.address(); ok && !a.IsZero() {
			r.NextHop = a
			r.Has |= flow.HasNextHop
		}
		if src, dst := q.u32(), q.u32(); !q.bad && src <= 128 && dst <= 128 {
			r.SrcMask, r.DstMask = uint8(src), uint8(dst)
			r.Has |= flow.HasSrcMask | flow.HasDstMask
		}
	}
	if p.gateway != nil {
		q := &reader{b: p.gateway}
		if a, ok := q.address(); ok && !a.IsZero() {
			r.BGPNextHop = a
			r.Has |= flow.HasBGPNextHop
		}
		_, src, _ := q.u32(), q.u32(), q.u32()
		if !q.bad {
			r.SrcAS = src
			r.Has |= flow.HasSrcAS
		}
		if path, ok := q.path(); ok { // none: the gateway's own AS, 0 as in NetFlow
			r.DstAS = path.last
			r.Has |= flow.HasDstAS
		}
	}
	return true
}

// linkOf is the link type of a header_protocol; false if none that is read.
func linkOf(protocol uint32) (packet.LinkType, bool) {
	switch protocol {
	case 1:
		return packet.LinkEthernet, true
	case 5:
		return packet.LinkFrameRelay, true
	case 7, 14: // PPP; POS is PPP in HDLC framing
		return packet.LinkPPP, true
	case 10:
		return packet.LinkRaw, true
	case 11:
		return packet.LinkIPv4, true
	case 12:
		return packet.LinkIPv6, true
	case 13:
		return packet.LinkOfEtherType(0x8847), true
	case 15:
		return packet.LinkWLAN, true
	}
	return 0, false
}

// header reads the start of the packet itself: frame_length 4, stripped 4,
// header<>. frame_length counts what was stripped (the FCS, say), too.
func (p *sampledPacket) header(r *flow.Record, e *object) bool {
	q := p.head
	length, stripped := q.u32(), q.u32()
	frame := q.opaque()
	if q.bad && len(p.head.b) >= 16 { // an opaque that lies: what is there is read
		frame = p.head.b[16:]
	}
	link, ok := linkOf(p.protocol)
	if !ok || frame == nil {
		return false
	}
	var in packet.Info
	if packet.Decode(link, frame, max(length-min(stripped, length), uint32(len(frame))), &in) != packet.Decoded {
		return false
	}
	k := &in.Key
	r.Src, r.Dst, r.SrcPort, r.DstPort, r.Proto, r.TOS, r.TCPFlags = k.Src, k.Dst, k.SrcPort, k.DstPort, k.Proto, k.TOS, uint16(in.TCPFlags)
	r.Bytes = uint64(in.Length)
	r.Has |= flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort | flow.HasProto | flow.HasTOS | flow.HasTCPFlags | flow.HasBytes
	r.IPVersion = 4
	if k.VLAN&flow.KeyIPv6 != 0 {
		r.IPVersion = 6
	}
	if k.VLAN&flow.KeyTagged != 0 {
		r.VLAN = k.VLAN & flow.VLANMask
		r.Has |= flow.HasVLAN
	}
	if k.VLAN&flow.KeyFragment != 0 {
		r.Fragment = true
	} else {
		icmpOf(r)
	}
	if link == packet.LinkEthernet && len(frame) >= 12 {
		e.mac("sourceMacAddress", frame[6:12])
		e.mac("destinationMacAddress", frame[:6])
	}
	e.uint("ipTTL", uint64(in.TTL))
	return true
}

// sampledIP reads sampled_ipv4 or sampled_ipv6, which agents send that look at
// packets themselves.
func (p *sampledPacket) sampledIP(r *flow.Record) bool {
	q := &reader{b: p.ip}
	length, proto := q.u32(), q.u32()
	r.IPVersion = 4
	if p.six {
		r.IPVersion = 6
		copy(r.Src[:], q.take(16))
		copy(r.Dst[:], q.take(16))
	} else if f := q.take(8); f != nil {
		r.Src, r.Dst = flow.AddrFrom4([4]byte(f)), flow.AddrFrom4([4]byte(f[4:]))
	}
	src, dst, flags, tos := q.u32(), q.u32(), q.u32(), q.u32()
	if q.bad {
		return false
	}
	r.Bytes, r.Proto, r.TCPFlags, r.TOS = uint64(length), uint8(proto), uint16(flags), uint8(tos)
	r.SrcPort, r.DstPort = uint16(src), uint16(dst)
	r.Has |= flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort | flow.HasProto | flow.HasTOS | flow.HasTCPFlags | flow.HasBytes
	if r.Proto == flow.ProtoICMP || r.Proto == flow.ProtoICMPv6 {
		// "or equivalent": type and code where the ports would be.
		if r.SrcPort|r.DstPort != 0 && r.SrcPort < 256 && r.DstPort < 256 {
			r.SrcPort, r.DstPort = 0, r.SrcPort<<8|r.DstPort
		}
	}
	icmpOf(r)
	return true
}

// icmpOf gives ICMP its columns, by the destination port.
func icmpOf(r *flow.Record) {
	if r.Proto == flow.ProtoICMP || r.Proto == flow.ProtoICMPv6 {
		r.ICMPType, r.ICMPCode = uint8(r.DstPort>>8), uint8(r.DstPort)
		r.Has |= flow.HasICMP
	}
}

// asPath is what an AS path begins and ends with, 0: it is empty.
type asPath struct{ first, last uint32 }

// path steps over an AS path.
func (r *reader) path() (p asPath, ok bool) {
	for n := r.u32(); n > 0 && !r.bad; n-- { // a segment has at least 8 octets: the loop ends with r
		r.u32()
		as := r.take(4 * int(min(r.u32(), math.MaxInt32/4)))
		for i := 0; i+4 <= len(as); i += 4 {
			if p.last = be.Uint32(as[i:]); p.first == 0 {
				p.first = p.last
			}
		}
	}
	return p, !r.bad
}

func (o *object) mac(name string, f []byte) {
	if len(f) >= 6 {
		o.key(name)
		o.b.arena = appendMAC(o.b.arena, f[:6])
	}
}

func appendMAC(dst, f []byte) []byte {
	dst = append(dst, '"')
	for i, c := range f {
		if i > 0 {
			dst = append(dst, ':')
		}
		dst = append(dst, hexDigits[c>>4], hexDigits[c&15])
	}
	return append(dst, '"')
}

// extended writes a record's facts that have no column: in IANA's words where
// IANA has an element for them, else as an object of the structure's name.
func (o *object) extended(f sflowFormat, body []byte) {
	q := &reader{b: body}
	switch f {
	case sflowRouter:
	case sflowSwitch:
		_, srcPriority, dstVLAN, dstPriority := q.u32(), q.u32(), q.u32(), q.u32()
		const unknown = math.MaxUint32
		if srcPriority != unknown {
			o.uint("dot1qPriority", uint64(srcPriority))
		}
		if dstVLAN != unknown {
			o.uint("postVlanId", uint64(dstVLAN))
		}
		if dstPriority != unknown {
			o.uint("dst_priority", uint64(dstPriority))
		}
	case sflowGateway:
		q.address()
		o.uint("as", uint64(q.u32()))
		q.u32()
		o.uint("bgpPrevAdjacentAsNumber", uint64(q.u32()))
		at := q.off
		path, ok := q.path()
		if !ok {
			return
		}
		o.uint("bgpNextAdjacentAsNumber", uint64(path.first))
		if path.first != 0 {
			o.key("dst_as_path")
			o.b.arena = appendPath(o.b.arena, &reader{b: body, off: at})
		}
		if list := q.list(); len(list) > 0 {
			o.key("communities")
			o.b.arena = appendList(o.b.arena, list, appendCommunity)
		}
		o.uint("localpref", uint64(q.u32()))
	case sflowNAT:
		for _, names := range [][2]string{
			{"postNATSourceIPv4Address", "postNATSourceIPv6Address"},
			{"postNATDestinationIPv4Address", "postNATDestinationIPv6Address"},
		} {
			a, ok := q.address()
			if !ok || a == (flow.Addr{}) {
				continue
			}
			name := names[0]
			if !a.Is4() {
				name = names[1]
			}
			o.key(name)
			o.b.arena = appendAddr(o.b.arena, a.Netip())
		}
	case sflowNATPort:
		o.uint("postNAPTSourceTransportPort", uint64(q.u32()))
		o.uint("postNAPTDestinationTransportPort", uint64(q.u32()))
	default:
		o.structure(sflowFlowRecords, f, body)
	}
}

// structure writes a record as an object of its name; one of an unknown format
// as hexadecimal.
func (o *object) structure(table map[sflowFormat]*xdrStruct, f sflowFormat, body []byte) {
	s := table[f]
	if s == nil {
		o.key("sflow_" + strconv.Itoa(int(f.enterprise())) + "_" + strconv.Itoa(int(f.number())))
		o.b.arena = appendHex(o.b.arena, body[:min(len(body), maxUnknown)])
		return
	}
	o.key(s.name)
	o.b.arena = appendXDR(o.b.arena, s, &reader{b: body})
}

// maxUnknown is how much of a record of unknown format is kept.
const maxUnknown = 256

// appendXDR writes a structure as a JSON object: the members that are there.
// Agents leave out what later revisions added at the end.
func appendXDR(dst []byte, s *xdrStruct, r *reader) []byte {
	sep := byte('{')
	for i, f := range s.fields {
		if r.left() == 0 {
			break
		}
		before := len(dst)
		dst = append(dst, sep, '"')
		dst = append(append(dst, f.name...), `":`...)
		if s.rest != nil && i == len(s.fields)-1 {
			dst = append(dst, '[')
			for n, first := r.u32(), true; n > 0 && r.left() > 0 && !r.bad; n, first = n-1, false {
				if !first {
					dst = append(dst, ',')
				}
				dst = appendXDR(dst, &xdrStruct{fields: s.rest.fields}, r) // takes at least an octet
			}
			dst = append(dst, ']')
		} else {
			dst = f.kind.append(dst, r)
		}
		if r.bad {
			dst = dst[:before]
			break
		}
		sep = ','
	}
	if sep == '{' {
		dst = append(dst, '{')
	}
	return append(dst, '}')
}

// append reads a value and writes it as JSON. If r becomes bad, what was
// written means nothing.
func (k xdrKind) append(dst []byte, r *reader) []byte {
	switch k {
	case xdrUint:
		return strconv.AppendUint(dst, uint64(r.u32()), 10)
	case xdrInt:
		return strconv.AppendInt(dst, int64(int32(r.u32())), 10)
	case xdrHyper:
		return strconv.AppendUint(dst, r.u64(), 10)
	case xdrFloat:
		v := float64(math.Float32frombits(r.u32()))
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return append(dst, "null"...)
		}
		return strconv.AppendFloat(dst, v, 'g', -1, 32)
	case xdrIPv4:
		if f := r.take(4); f != nil {
			return appendAddr(dst, netip.AddrFrom4([4]byte(f)))
		}
	case xdrIPv6:
		if f := r.take(16); f != nil {
			return appendAddr(dst, netip.AddrFrom16([16]byte(f)))
		}
	case xdrAddress:
		a, ok := r.address()
		if ok && a == (flow.Addr{}) {
			return append(dst, `""`...)
		}
		return appendAddr(dst, a.Netip())
	case xdrMAC:
		if f := r.take(8); f != nil {
			return appendMAC(dst, f[:6])
		}
	case xdrUUID:
		if f := r.take(16); f != nil {
			dst = append(dst, '"')
			for i, n := range []int{4, 2, 2, 2, 6} {
				if i > 0 {
					dst = append(dst, '-')
				}
				dst, f = hex.AppendEncode(dst, f[:n]), f[n:]
			}
			return append(dst, '"')
		}
	case xdrString:
		return appendText(dst, r.opaque())
	case xdrOpaque:
		return appendHex(dst, r.opaque())
	case xdrList:
		return appendList(dst, r.list(), func(dst []byte, v uint32) []byte { return strconv.AppendUint(dst, uint64(v), 10) })
	case xdrStack:
		return appendList(dst, r.list(), func(dst []byte, v uint32) []byte { return strconv.AppendUint(dst, uint64(v>>12), 10) })
	case xdrPath:
		return appendPath(dst, r)
	case xdrMACs:
		n := r.u32()
		f := r.take(8 * int(min(n, math.MaxInt32/8)))
		dst = append(dst, '[')
		for i := 0; i < len(f); i += 8 {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendMAC(dst, f[i:i+6])
		}
		return append(dst, ']')
	}
	return dst
}

// list reads a count and so many integers, as octets.
func (r *reader) list() []byte { return r.take(4 * int(min(r.u32(), math.MaxInt32/4))) }

func appendList(dst, f []byte, one func([]byte, uint32) []byte) []byte {
	dst = append(dst, '[')
	for i := 0; i < len(f); i += 4 {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = one(dst, be.Uint32(f[i:]))
	}
	return append(dst, ']')
}

// appendCommunity writes a BGP community as AS:value (RFC 1997).
func appendCommunity(dst []byte, v uint32) []byte {
	dst = strconv.AppendUint(append(dst, '"'), uint64(v>>16), 10)
	return append(strconv.AppendUint(append(dst, ':'), uint64(v&0xffff), 10), '"')
}

// appendPath reads an AS path and writes it as routers show it: sequences as
// they are, sets in braces.
func appendPath(dst []byte, r *reader) []byte {
	dst = append(dst, '"')
	sep := ""
	for n := r.u32(); n > 0 && !r.bad; n-- {
		set := r.u32() == 1
		dst = append(dst, sep...)
		if sep = " "; set {
			dst = append(dst, '{')
		}
		as := r.list()
		for i := 0; i < len(as); i += 4 {
			if i > 0 {
				if set {
					dst = append(dst, ',')
				} else {
					dst = append(dst, ' ')
				}
			}
			dst = strconv.AppendUint(dst, uint64(be.Uint32(as[i:])), 10)
		}
		if set {
			dst = append(dst, '}')
		}
	}
	return append(dst, '"')
}

// counterSample makes an OptionsRecord of a counter sample: the data source is
// the scope.
func (d *Decoder) counterSample(s *sample, r *reader, records uint32, at int) {
	b := d.msg.b
	if d.budget(b.arena) {
		d.refuse(ElementLimit, 0, at, "counters", ErrLimit)
		return
	}
	d.msg.Options++
	e := object{b: b, always: true}
	e.begin(b)
	e.uint("ds_class", uint64(s.class))
	e.uint("ds_index", uint64(s.index))
	scope := e.end()
	e.begin(b)
	d.records(r, records, at, func(f sflowFormat, body []byte) {
		if f == sflowPortName && s.class == 0 && d.msg.s != nil {
			q := &reader{b: body}
			if nm := q.opaque(); !q.bad && len(nm) > 0 {
				d.learnName(s.index, name{name: string(text(nm))}, at)
			}
		}
		if !d.budget(b.arena) {
			e.structure(sflowCounterRecords, f, body)
		}
	})
	fields := e.end()
	if fields == nil {
		fields = []byte("{}")
	}
	b.Options = append(b.Options, OptionsRecord{
		Source: d.ctx.src, Version: flow.VersionSFlow, Domain: d.msg.Domain, Received: d.ctx.received, Scope: scope, Fields: fields,
	})
}

// dataSource is a source of samples of one kind.
type dataSource struct {
	class, index uint32
	kind         sampleKind
}

// sourceState is what is followed of a data source: few octets, for chassis have
// thousands.
type sourceState struct {
	next  uint32 // sequence number expected
	drops uint32
	rate  uint32
}

// Samples more than sampleReorder ahead of or behind what is expected come from
// an agent that began anew.
const sampleReorder = 1 << 20

// follow takes the sequence number and the drops counter of a sample. Datagrams
// that come late bring samples that were counted as lost.
func (d *Decoder) follow(s *sample) {
	x := d.msg.s
	if x == nil {
		return
	}
	if x.sources == nil {
		x.sources = map[dataSource]*sourceState{}
	}
	k := dataSource{s.class, s.index, s.kind}
	o := x.sources[k]
	if o == nil {
		if d.sources >= d.opt.Limits.Sources {
			return
		}
		d.sources++
		o = &sourceState{next: s.sequence, drops: s.drops}
		x.sources[k] = o
	}
	o.rate = s.rate
	i := &x.samples
	switch gap := int32(s.sequence - o.next); {
	case gap > sampleReorder || gap < -sampleReorder || s.sequence <= 1 && gap < 0:
		i.Restarts++
		o.next, o.drops = s.sequence+1, s.drops
		return
	case gap < 0:
		i.Reordered++
		i.Lost -= min(i.Lost, 1)
		return
	case gap > 0:
		i.Gaps++
		i.Lost += uint64(gap)
	}
	o.next = s.sequence + 1
	if more := s.drops - o.drops; s.kind != counterSamples && more > 0 && more < sampleReorder {
		d.tally(x, AgentDrops, 0, int(more), 0)
	}
	o.drops = s.drops
}

// nextSFlow is the length of the datagram at b's start, as its samples' lengths
// say.
func nextSFlow(b []byte) int {
	r := &reader{b: b, off: 4}
	_, ok := r.address()
	r.take(12)
	n := r.u32()
	if !ok || uint64(n)*8 > uint64(r.left()) {
		return 0
	}
	for ; n > 0 && !r.bad; n-- {
		format := sflowFormat(r.u32())
		size := r.u32()
		if size%4 != 0 || format == 0 || size > math.MaxInt32 {
			return 0
		}
		r.take(int(size))
	}
	if r.bad {
		return 0
	}
	return r.off
}
