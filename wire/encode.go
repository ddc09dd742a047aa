package wire

import (
	"fmt"
	"math"

	"weir/flow"
	"weir/ie"
)

// Encoding. In: flow.Record, and what the caller knows of the exporter: its
// boot time, sequence numbers, sampling. Out: octets appended to a slice.
// Nothing here keeps state or allocates, NewLayout aside; who fills datagrams,
// counts and keeps time is package export.

// Lengths of headers and records in octets.
const (
	HeaderV1Len    = 16
	HeaderV5Len    = 24 // v7's too
	HeaderV9Len    = 20
	HeaderIPFIXLen = 16
	SetHeaderLen   = 4

	RecordV1Len = 48
	RecordV5Len = 48
	RecordV7Len = 52

	// How many records a datagram may hold, by custom: old collectors size
	// their buffers so.
	MaxRecordsV1 = 24
	MaxRecordsV5 = 30
	MaxRecordsV7 = 27
)

// MaxSpan bounds what 32 bits of milliseconds of sysUptime can say: from boot
// to export. It is half the range, so that decoders that take differences as
// signed, and those that take them as unsigned, read the same.
const MaxSpan = int64(1) << 31 * 1e6 // ns

// ASTrans stands for an AS number that 16 bits cannot hold (RFC 6793).
const ASTrans = 23456

// Stamp is when a message is written, for its header.
type Stamp struct {
	Unix int64 // Unix ns
	Boot int64 // Unix ns when sysUptime was 0; whole milliseconds
}

// Uptime is sysUptime in ms.
func (s Stamp) Uptime() uint32 { return uint32((s.Unix - s.Boot) / 1e6) }

func (s Stamp) seconds() uint32 { return uint32(s.Unix / 1e9) }

// nanos is the residue below the second, cut to the millisecond so that the
// header's wall clock and sysUptime are one instant.
func (s Stamp) nanos() uint32 { return uint32(s.Unix % 1e9 / 1e6 * 1e6) }

// sinceBoot is t in ms of sysUptime.
func sinceBoot(t, boot int64) uint32 { return uint32(floorMs(t) - floorMs(boot)) }

// floorMs is the millisecond that t lies in, also before 1970.
func floorMs(t int64) int64 {
	ms := t / 1e6
	if t%1e6 < 0 {
		ms--
	}
	return ms
}

// PutHeaderV9 writes the header of a v9 datagram over the first octets of b.
// count is of all records: data, templates, options and their templates (RFC
// 3954 section 5.1). v9 has whole seconds only: give s a whole second, or
// readers are up to one second off.
func PutHeaderV9(b []byte, count uint16, s Stamp, sequence, source uint32) {
	_ = b[HeaderV9Len-1]
	be.PutUint16(b, flow.VersionV9)
	be.PutUint16(b[2:], count)
	be.PutUint32(b[4:], s.Uptime())
	be.PutUint32(b[8:], s.seconds())
	be.PutUint32(b[12:], sequence)
	be.PutUint32(b[16:], source)
}

// PutHeaderIPFIX writes the header of the IPFIX message b over its first
// octets, with len(b) as its length (RFC 7011 section 3.1).
func PutHeaderIPFIX(b []byte, s Stamp, sequence, domain uint32) {
	_ = b[HeaderIPFIXLen-1]
	be.PutUint16(b, flow.VersionIPFIX)
	be.PutUint16(b[2:], uint16(len(b)))
	be.PutUint32(b[4:], s.seconds())
	be.PutUint32(b[8:], sequence)
	be.PutUint32(b[12:], domain)
}

// SequenceOffset is where a datagram of the version holds its sequence number;
// 0 if it has none.
func SequenceOffset(version uint8) int {
	switch version {
	case flow.VersionV5, flow.VersionV7, flow.VersionV8:
		return 16
	case flow.VersionV9:
		return 12
	case flow.VersionIPFIX:
		return 8
	}
	return 0
}

// AppendSet begins a set; its length is written by EndSet.
func AppendSet(dst []byte, id uint16) []byte {
	return append(dst, byte(id>>8), byte(id), 0, 0)
}

// EndSet closes the set that began at dst[at], padding it with zeros to a
// multiple of four octets. A record of the set must be longer than 3 octets,
// or the padding would look like one.
func EndSet(dst []byte, at int) []byte {
	for (len(dst)-at)%4 != 0 {
		dst = append(dst, 0)
	}
	be.PutUint16(dst[at+2:], uint16(len(dst)-at))
	return dst
}

// Numbers of the sets that hold templates.
const (
	TemplateSetV9    = 0
	OptionsSetV9     = 1
	TemplateSetIPFIX = 2
	OptionsSetIPFIX  = 3
	FirstTemplateID  = 256
)

// TemplateSet and OptionsSet are those of the version.
func TemplateSet(version uint8) uint16 {
	if version == flow.VersionIPFIX {
		return TemplateSetIPFIX
	}
	return TemplateSetV9
}

func OptionsSet(version uint8) uint16 {
	if version == flow.VersionIPFIX {
		return OptionsSetIPFIX
	}
	return OptionsSetV9
}

// AppendOptionsTemplate writes an options template record: the first scope of
// fields are its scope. IPFIX counts fields (RFC 7011 section 3.4.2.2), v9
// octets (RFC 3954 section 6.1), where the scope's numbers are scope types.
func AppendOptionsTemplate(dst []byte, version uint8, id uint16, scope int, fields []FieldSpec) []byte {
	dst = be.AppendUint16(dst, id)
	if version == flow.VersionIPFIX {
		dst = be.AppendUint16(dst, uint16(len(fields)))
		dst = be.AppendUint16(dst, uint16(scope))
	} else {
		dst = be.AppendUint16(dst, uint16(4*scope))
		dst = be.AppendUint16(dst, uint16(4*(len(fields)-scope)))
	}
	for _, f := range fields {
		dst = appendSpec(dst, f)
	}
	return dst
}

// AppendString writes a text or octets as a value of length n: cut, or filled up with zeros;
// with its own length in front if n is VariableLength (RFC 7011 section 7).
func AppendString[T string | []byte](dst []byte, s T, n uint16) []byte {
	if n == VariableLength {
		s = s[:min(len(s), math.MaxUint16)]
		if len(s) < 255 {
			dst = append(dst, byte(len(s)))
		} else {
			dst = append(dst, 255, byte(len(s)>>8), byte(len(s)))
		}
		return append(dst, s...)
	}
	s = s[:min(len(s), int(n))]
	dst = append(dst, s...)
	for range int(n) - len(s) {
		dst = append(dst, 0)
	}
	return dst
}

// appendUint writes v in n octets, which must hold it.
func appendUint(dst []byte, v uint64, n uint16) []byte {
	switch n {
	case 1:
		return append(dst, byte(v))
	case 2:
		return be.AppendUint16(dst, uint16(v))
	case 4:
		return be.AppendUint32(dst, uint32(v))
	case 8:
		return be.AppendUint64(dst, v)
	}
	panic(fmt.Sprintf("wire: no integer of %d octets", n))
}

// specName is the name FieldSpec promises.
func specName(id uint16) string {
	if e, ok := ie.Lookup(ie.IANA, id); ok {
		return e.Name
	}
	return fmt.Sprintf("ie%d", id)
}
