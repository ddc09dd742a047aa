package wire

import (
	"math"
	"math/bits"

	"weir/flow"
)

// HeaderV5 is the header of v5, v7 and v8; v1 uses Count and Stamp alone.
type HeaderV5 struct {
	Count    uint16
	Stamp    Stamp
	Sequence uint32 // records sent before this datagram
	Engine   uint16 // engine_type*256 + engine_id; v7: not sent
	Sampling uint16 // SamplingV5; v7, v8: not sent
}

// SamplingV5 is the header's sampling field: two bits of mode (1 every n-th,
// 2 by lot) and 14 of the interval. fits is false if the interval is more
// than they hold; then the largest is returned.
func SamplingV5(interval uint32, random bool) (field uint16, fits bool) {
	const most = 1<<14 - 1
	if interval <= 1 {
		return 0, true
	}
	mode := uint16(1) << 14
	if random {
		mode = 2 << 14
	}
	return mode | uint16(min(interval, most)), interval <= most
}

// PutHeaderV5 writes a v5 header over the first octets of b.
func PutHeaderV5(b []byte, h HeaderV5) {
	_ = b[HeaderV5Len-1]
	putOldHeader(b, flow.VersionV5, h)
	be.PutUint32(b[16:], h.Sequence)
	be.PutUint16(b[20:], h.Engine)
	be.PutUint16(b[22:], h.Sampling)
}

// PutHeaderV7 writes a v7 header over the first octets of b.
func PutHeaderV7(b []byte, h HeaderV5) {
	_ = b[HeaderV5Len-1]
	putOldHeader(b, flow.VersionV7, h)
	be.PutUint32(b[16:], h.Sequence)
	be.PutUint32(b[20:], 0)
}

// PutHeaderV1 writes a v1 header over the first octets of b.
func PutHeaderV1(b []byte, h HeaderV5) {
	_ = b[HeaderV1Len-1]
	putOldHeader(b, flow.VersionV1, h)
}

func putOldHeader(b []byte, version uint16, h HeaderV5) {
	be.PutUint16(b, version)
	be.PutUint16(b[2:], h.Count)
	be.PutUint32(b[4:], h.Stamp.Uptime())
	be.PutUint32(b[8:], h.Stamp.seconds())
	be.PutUint32(b[12:], h.Stamp.nanos())
}

// Parts is into how many records a flow must be split so that 32 bits hold
// the counters of each.
func Parts(packets, octets uint64) uint64 {
	part := func(v uint64) uint64 {
		n := v / math.MaxUint32
		if v%math.MaxUint32 != 0 {
			n++
		}
		return n
	}
	return max(1, part(packets), part(octets))
}

// Part is the i-th of n even parts of total; the parts' sum is exact.
func Part(total, i, n uint64) uint32 {
	if n == 1 {
		return uint32(total)
	}
	return uint32(share(total, i+1, n) - share(total, i, n))
}

// share is floor(total*i/n), without overflow.
func share(total, i, n uint64) uint64 {
	hi, lo := bits.Mul64(total, i)
	q, _ := bits.Div64(hi, lo, n)
	return q
}

// as16 and if16 are what 16 bits can say of an AS and an ifIndex.
func as16(as uint32) uint16 {
	if as > math.MaxUint16 {
		return ASTrans
	}
	return uint16(as)
}

func if16(index uint32) uint16 {
	if index > math.MaxUint16 {
		return 0
	}
	return uint16(index)
}

// ports are a record's, those of ICMP 0 and type*256+code.
func ports(r *flow.Record) (src, dst uint16) {
	if r.Has&flow.HasICMP != 0 && r.Proto == flow.ProtoICMP {
		return 0, uint16(r.ICMPType)<<8 | uint16(r.ICMPCode)
	}
	return r.SrcPort, r.DstPort
}

// fixed is what v1, v5 and v7 records have in common, their first 36 octets.
// The record is of IPv4, the counters are given apart (see Part), boot is as
// in Stamp. Ports of ICMP: 0, and type*256+code.
func fixed(dst []byte, r *flow.Record, packets, octets uint32, boot int64) []byte {
	src, dstPort := r.SrcPort, r.DstPort
	if r.Has&flow.HasICMP != 0 && r.Proto == flow.ProtoICMP {
		src, dstPort = 0, uint16(r.ICMPType)<<8|uint16(r.ICMPCode)
	}
	dst = append(dst, r.Src[12:]...)
	dst = append(dst, r.Dst[12:]...)
	if r.Has&flow.HasNextHop != 0 && r.NextHop.Is4() {
		dst = append(dst, r.NextHop[12:]...)
	} else {
		dst = append(dst, 0, 0, 0, 0)
	}
	dst = be.AppendUint16(dst, if16(r.Input))
	dst = be.AppendUint16(dst, if16(r.Output))
	dst = be.AppendUint32(dst, packets)
	dst = be.AppendUint32(dst, octets)
	dst = be.AppendUint32(dst, sinceBoot(r.First, boot))
	dst = be.AppendUint32(dst, sinceBoot(r.Last, boot))
	dst = be.AppendUint16(dst, src)
	return be.AppendUint16(dst, dstPort)
}

// AppendRecordV5 writes a v5 record, 48 octets.
func AppendRecordV5(dst []byte, r *flow.Record, packets, octets uint32, boot int64) []byte {
	dst = fixed(dst, r, packets, octets, boot)
	dst = append(dst, 0, byte(r.TCPFlags), r.Proto, r.TOS)
	dst = be.AppendUint16(dst, as16(r.SrcAS))
	dst = be.AppendUint16(dst, as16(r.DstAS))
	return append(dst, r.SrcMask, r.DstMask, 0, 0)
}

// AppendRecordV7 writes a v7 record, 52 octets; all its fields are valid and
// no router was bypassed.
func AppendRecordV7(dst []byte, r *flow.Record, packets, octets uint32, boot int64) []byte {
	return append(AppendRecordV5(dst, r, packets, octets, boot), 0, 0, 0, 0)
}

// ShortcutV7 is what a Catalyst says in v7 of a flow that it took over from a
// router.
type ShortcutV7 struct {
	Invalid uint32    // which fields are not valid: octet 36, then 46 and 47
	Router  flow.Addr // that was bypassed; zero: none
}

// ShortcutOf is what r says of itself beyond its columns, as read from v7: for
// sending collected records on.
func ShortcutOf(r *flow.Record) ShortcutV7 {
	said, _ := legacyElementsOf(r)
	return ShortcutV7{Invalid: said.Invalid, Router: flow.AddrFrom(said.Router)}
}

// AppendShortcutV7 writes a v7 record as a switch does.
func AppendShortcutV7(dst []byte, r *flow.Record, s ShortcutV7, packets, octets uint32, boot int64) []byte {
	dst = AppendRecordV7(dst, r, packets, octets, boot)
	f := dst[len(dst)-RecordV7Len:]
	f[36] = byte(s.Invalid >> 16)
	be.PutUint16(f[46:], uint16(s.Invalid))
	copy(f[48:], s.Router[12:])
	return dst
}

// AppendRecordV1 writes a v1 record, 48 octets. Here protocol and ToS stand
// before the flags.
func AppendRecordV1(dst []byte, r *flow.Record, packets, octets uint32, boot int64) []byte {
	dst = fixed(dst, r, packets, octets, boot)
	dst = append(dst, 0, 0, r.Proto, r.TOS, byte(r.TCPFlags), 0, 0, 0)
	return append(dst, 0, 0, 0, 0)
}
