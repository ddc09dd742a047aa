package differential

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// pcap writes frames of one link type, in any of the four common forms.
func (d dice) pcap(frames []frame) []byte {
	var order binary.AppendByteOrder = binary.LittleEndian
	if d.one(2) {
		order = binary.BigEndian
	}
	magic, unit := uint32(0xa1b2c3d4), uint32(1e6)
	if d.one(2) {
		magic, unit = 0xa1b23c4d, 1e9
	}
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 4)
	for _, v := range []uint32{0, 0, 262144, uint32(frames[0].link)} {
		b = order.AppendUint32(b, v)
	}
	for _, f := range frames {
		if f.link == linkNFLog && order == binary.AppendByteOrder(binary.BigEndian) {
			f.octets = bigEndianNFLog(f.octets)
		}
		for _, v := range []uint32{d.seconds(), d.Uint32N(unit), uint32(len(f.octets)), uint32(f.wire)} {
			b = order.AppendUint32(b, v)
		}
		b = append(b, f.octets...)
	}
	return b
}

// seconds are of any year that unsigned 32 bits can say, mostly of ours.
func (d dice) seconds() uint32 {
	return pick(d, 1_700_000_000+d.Uint32N(1000), 1_700_000_000+d.Uint32N(1e8), d.Uint32())
}

// pcapng writes frames of all link types, in sections of either byte order with
// interfaces of all resolutions.
func (d dice) pcapng(frames []frame) []byte {
	var b []byte
	for len(frames) > 0 {
		n := min(len(frames), d.between(1, 400))
		b = append(b, d.section(frames[:n])...)
		frames = frames[n:]
	}
	return b
}

type section struct {
	dice
	order binary.AppendByteOrder
	b     []byte
}

func (s *section) u16(b []byte, v ...int) []byte {
	for _, x := range v {
		b = s.order.AppendUint16(b, uint16(x))
	}
	return b
}

func (s *section) u32(b []byte, v ...uint32) []byte {
	for _, x := range v {
		b = s.order.AppendUint32(b, x)
	}
	return b
}

func pad4(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func (s *section) block(kind uint32, body []byte) {
	body = pad4(body)
	total := uint32(len(body) + 12)
	s.b = s.u32(s.b, kind, total)
	s.b = append(s.b, body...)
	s.b = s.u32(s.b, total)
}

func (s *section) option(b []byte, code int, value []byte) []byte {
	return pad4(append(s.u16(b, code, len(value)), value...))
}

// comments are options that mean nothing to us.
func (s *section) comments(b []byte) []byte {
	if s.one(2) {
		return b
	}
	b = s.option(b, 1, []byte("a comment")[:s.between(0, 9)])
	if s.one(2) {
		b = s.u16(b, 0, 0)
	}
	return b
}

// noise is a block that is no packet.
func (s *section) noise() {
	switch s.IntN(4) {
	case 0:
		s.block(4, s.u32(nil, 0)) // names: none
	case 1:
		s.block(0x80000000|s.Uint32N(1<<30), s.octets(4*s.IntN(50)))
	case 2:
		s.block(0x0bad|0x40000000, s.u32(nil, 32473, s.Uint32())) // custom, without meaning
	case 3:
		s.block(0x0000000b, s.octets(4*s.between(2, 50)))
	}
}

type ngInterface struct {
	link       int
	resolution byte
	number     uint32
}

func (d dice) section(frames []frame) []byte {
	s := &section{dice: d, order: binary.LittleEndian}
	if d.one(2) {
		s.order = binary.BigEndian
	}
	body := s.u32(nil, 0x1a2b3c4d)
	body = s.u16(body, 1, pick(d, 0, 0, 2))
	body = s.order.AppendUint64(body, 1<<64-1)
	s.block(0x0a0d0d0a, s.comments(body))
	known := map[int][]ngInterface{}
	count := uint32(0)
	for _, f := range frames {
		if len(known[f.link]) == 0 || d.one(50) {
			i := ngInterface{f.link, pick(d, byte(6), 6, 6, 9, 9, 3, 0, 1, 2, 4, 5, 7, 8, 0x80|10, 0x80|20, 0x80|30), count}
			body := s.u16(nil, f.link, 0)
			body = s.u32(body, 0)
			if i.resolution != 6 || d.one(2) {
				body = s.option(body, 9, []byte{i.resolution})
			}
			if d.one(4) {
				body = s.option(body, 14, s.order.AppendUint64(nil, uint64(d.IntN(1_000_000))))
			}
			s.block(1, s.comments(body))
			known[f.link] = append(known[f.link], i)
			count++
		}
		if d.one(30) {
			s.noise()
		}
		if f.link == linkNFLog && s.order == binary.AppendByteOrder(binary.BigEndian) {
			f.octets = bigEndianNFLog(f.octets)
		}
		s.frame(f, pick(d, known[f.link]...))
	}
	return s.b
}

func (s *section) frame(f frame, i ngInterface) {
	stamp := s.stamp(i.resolution)
	length := uint32(len(f.octets))
	if i.number == 0 && int(length) == f.wire && f.link != linkPPPDir && s.one(10) { // tshark loses its way behind a direction octet
		s.block(3, append(s.u32(nil, length), f.octets...))
		return
	}
	if s.one(20) {
		body := s.u16(nil, int(i.number), 0xffff)
		body = s.u32(body, uint32(stamp>>32), uint32(stamp), length, uint32(f.wire))
		s.block(2, s.comments(pad4(append(body, f.octets...))))
		return
	}
	body := s.u32(nil, i.number, uint32(stamp>>32), uint32(stamp), length, uint32(f.wire))
	s.block(6, s.comments(pad4(append(body, f.octets...))))
}

// stamp is a time of a packet in units of the resolution.
func (s *section) stamp(resolution byte) uint64 {
	seconds := uint64(1_700_000_000 + s.IntN(100_000))
	if resolution&0x80 != 0 {
		bits := resolution & 0x7f
		return seconds<<bits | s.Uint64()&(1<<bits-1)
	}
	unit := uint64(1)
	for range resolution {
		unit *= 10
	}
	high, low := bits.Mul64(seconds, unit)
	if high != 0 {
		return low
	}
	return low + s.Uint64N(unit)
}

// compressed is a file as people store it.
func (d dice) compressed(b []byte) ([]byte, string) {
	var out bytes.Buffer
	if d.one(2) {
		for len(b) > 0 || out.Len() == 0 { // gzip files may be several, one behind the other
			n := min(len(b), d.between(1, len(b)+1))
			z := gzip.NewWriter(&out)
			z.Write(b[:n])
			z.Close()
			b = b[n:]
		}
		return out.Bytes(), ".gz"
	}
	z, _ := zstd.NewWriter(&out)
	z.Write(b)
	z.Close()
	return out.Bytes(), ".zst"
}
