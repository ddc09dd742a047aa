package wire

import (
	"encoding/json"
	"net/netip"
	"slices"

	"weir/flow"
)

// legacy reads v1, v5, v6 and v7: a header and records of fixed form. Headers
// are 16 octets in v1, 24 in the others:
//
//	0 version 2, 2 count 2, 4 sysUptime 4, 8 unix seconds 4, 12 unix nanoseconds 4,
//	16 flow sequence 4, 20 engine type 1, 21 engine ID 1, 22 sampling mode 2 bits + interval 14 (v5)
//
// Records, 48 octets in v1 and v5, 52 in v6 and v7:
//
//	0 source 4, 4 destination 4, 8 next hop 4, 12 input 2, 14 output 2, 16 packets 4, 20 octets 4,
//	24 first 4, 28 last 4, 32 source port 2, 34 destination port 2,
//	v1:  38 protocol, 39 ToS, 40 TCP flags
//	v5…: 36 pad (v7: which fields are invalid), 37 TCP flags, 38 protocol, 39 ToS,
//	     40 source AS 2, 42 destination AS 2, 44 source mask, 45 destination mask
//	v6:  46 input encapsulation octets, 47 output's, 48 next hop of the peer 4
//	v7:  46 flags 2, 48 bypassed router 4
func (d *Decoder) legacy(msg []byte) {
	version := uint8(msg[1])
	head, size := 24, 48
	switch version {
	case 1:
		head = 16
	case 6, 7:
		size = 52
	}
	if len(msg) < head {
		d.refuse(ShortMessage, len(msg), len(msg), "header", ErrShort)
		return
	}
	p, ms := legacyTime(msg)
	var domain, seq uint32
	if version != 1 {
		domain, seq = uint32(be.Uint16(msg[20:])), be.Uint32(msg[16:])
	}
	d.header(version, domain, seq, p, ms)
	d.msg.Count, d.msg.Sets = be.Uint16(msg[2:]), 1
	c, b := &d.ctx, d.msg.b
	n, certain := d.legacyCount(msg, head, size)
	c.proto.IPVersion = 4
	c.proto.Has |= flow.HasSrc | flow.HasDst | flow.HasNextHop | flow.HasInput | flow.HasOutput | flow.HasPackets |
		flow.HasBytes | flow.HasFirst | flow.HasLast | flow.HasSrcPort | flow.HasDstPort | flow.HasProto |
		flow.HasTOS | flow.HasTCPFlags
	if version != 1 {
		c.proto.Has |= flow.HasSrcAS | flow.HasDstAS | flow.HasSrcMask | flow.HasDstMask
	}
	if version == 5 {
		if v := be.Uint16(msg[22:]) & 0x3fff; v != 0 {
			c.proto.Sampling = uint32(v)
			c.proto.Has |= flow.HasSampling
		}
	}
	first := len(b.Records)
	b.Records = slices.Grow(b.Records, n)[:first+n]
	for i, recs := 0, b.Records[first:]; i < n; i++ {
		r, f := &recs[i], msg[head+i*size:][:48]
		*r = c.proto
		r.Src = flow.AddrFrom4([4]byte(f))
		r.Dst = flow.AddrFrom4([4]byte(f[4:]))
		r.NextHop = flow.AddrFrom4([4]byte(f[8:]))
		r.Input, r.Output = uint32(be.Uint16(f[12:])), uint32(be.Uint16(f[14:]))
		r.Packets, r.Bytes = uint64(be.Uint32(f[16:])), uint64(be.Uint32(f[20:]))
		r.First, r.Last = c.sysUp(be.Uint32(f[24:])), c.sysUp(be.Uint32(f[28:]))
		r.SrcPort, r.DstPort = be.Uint16(f[32:]), be.Uint16(f[34:])
		if version == 1 {
			r.Proto, r.TOS, r.TCPFlags = f[38], f[39], uint16(f[40])
		} else {
			r.TCPFlags, r.Proto, r.TOS = uint16(f[37]), f[38], f[39]
			r.SrcAS, r.DstAS = uint32(be.Uint16(f[40:])), uint32(be.Uint16(f[42:]))
			r.SrcMask, r.DstMask = f[44], f[45]
		}
		if size == 52 {
			d.legacyElements(r, version, msg[head+i*size:][:52])
		}
		d.legacyEnd(r)
	}
	d.msg.Records = n
	if s := d.msg.s; s != nil && version != 1 {
		s.seq.observe(raw{seq: seq, data: uint32(n), certain: certain}, p, c.received)
	}
}

// legacyTime reads the times of a v1 to v8 header.
func legacyTime(msg []byte) (pulse, int64) {
	p := pulse{uptime: be.Uint32(msg[4:]), exported: be.Uint32(msg[8:]), up: true}
	return p, int64(p.exported)*1000 + int64(be.Uint32(msg[12:]))/1e6
}

// legacyCount is how many records to read: as many as the header counts, if
// they are there. certain says that both agree.
func (d *Decoder) legacyCount(msg []byte, head, size int) (n int, certain bool) {
	n = int(d.msg.Count)
	if have := (len(msg) - head) / size; n > have {
		d.refuse(RecordCount, 0, 2, "count", ErrCount)
		return have, false
	}
	return n, true
}

// legacyEnd does for records of fixed form what context.end does for others.
func (d *Decoder) legacyEnd(r *flow.Record) {
	if r.Proto == flow.ProtoICMP && r.Has&flow.HasDstPort != 0 {
		r.ICMPType, r.ICMPCode = uint8(r.DstPort>>8), uint8(r.DstPort)
		r.Has |= flow.HasICMP
	}
	if r.Last < r.First {
		r.Last = r.First
		if d.msg.s != nil {
			d.msg.s.n.clamped++
		}
	}
	r.First += d.ctx.shift
	r.Last += d.ctx.shift
}

// legacyElements keeps what v6 and v7 say beyond v5, where they say anything.
func (d *Decoder) legacyElements(r *flow.Record, version uint8, f []byte) {
	var e object
	e.begin(d.msg.b)
	if version == 6 {
		e.uint("inputEncapsulationOctets", uint64(f[46]))
		e.uint("outputEncapsulationOctets", uint64(f[47]))
		e.addr("peerNextHopIPv4Address", f[48:52])
	} else {
		e.uint("invalidFieldFlags", uint64(f[36])<<16|uint64(be.Uint16(f[46:])))
		e.addr("ipv4RouterSc", f[48:52])
	}
	r.Elements = e.end()
}

// saidLegacy is what legacyElements and v8 keep without a column.
type saidLegacy struct {
	Flows   *uint32    `json:"deltaFlowCount"`
	Marked  uint8      `json:"markedTos"`
	Extra   uint32     `json:"extraPackets"`
	Invalid uint32     `json:"invalidFieldFlags"`
	Router  netip.Addr `json:"ipv4RouterSc"`
}

// legacyElementsOf reads them; false if there are none, or not of these types.
func legacyElementsOf(r *flow.Record) (said saidLegacy, ok bool) {
	if len(r.Elements) == 0 || json.Unmarshal(r.Elements, &said) != nil {
		return saidLegacy{}, false
	}
	return said, true
}
