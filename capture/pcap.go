package capture

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"weir/packet"
)

// A pcap file (draft-ietf-opsawg-pcap):
//
//	magic u32, major u16, minor u16, zone i32, accuracy u32, snap length u32, link type u32
//	for each packet: seconds u32, fraction u32, captured u32, wire u32, captured octets
//
// in the byte order of the magic number, which also tells the fraction's unit.
// Relatives differ in the length of the headers.
type pcap struct {
	swapped bool   // the file is big-endian
	nanos   uint64 // in a unit of the fraction
	head    int    // octets in front of each frame
	front   int    // octets in front of the first packet
	lengths byte   // 0: captured, wire; 1: the other way round; 2: whichever is smaller is captured
	link    packet.LinkType
}

// pcapOf knows the format by its first four octets.
func pcapOf(head []byte) (*pcap, bool) {
	p := &pcap{nanos: 1000, head: 16, front: 24}
	magic := binary.LittleEndian.Uint32(head)
	if b := binary.BigEndian.Uint32(head); b == 0xa1b2c3d4 || b == 0xa1b23c4d || b == 0xa1b2cd34 || b == 0x1c0001ab || b == 0x1c0001ac {
		magic, p.swapped = b, true
	}
	switch magic {
	case 0xa1b2c3d4:
	case 0xa1b23c4d:
		p.nanos = 1
	case 0xa1b2cd34: // "modified": interface, protocol, packet type after the lengths
		p.head = 24
	case 0x1c0001ab: // IXIA software: the file's size after the header
		p.front = 28
	case 0x1c0001ac: // IXIA hardware
		p.nanos, p.front = 1, 28
	default:
		return nil, false
	}
	return p, true
}

func (p *pcap) u32(b []byte) uint32 {
	v := binary.LittleEndian.Uint32(b)
	if p.swapped {
		v = bits.ReverseBytes32(v)
	}
	return v
}

func (p *pcap) header(f *file) error {
	if !f.fill(p.front) {
		return f.ended(p.front)
	}
	var order binary.ByteOrder = binary.LittleEndian
	if p.swapped {
		order = binary.BigEndian
	}
	major, minor := order.Uint16(f.buf[4:]), order.Uint16(f.buf[6:])
	switch {
	case major > 2 && major != 543:
		return f.fail(fmt.Errorf("pcap version %d.%d; 2.4 would be accepted", major, minor))
	case major == 2 && minor < 3 || major == 543:
		p.lengths = 1
	case major == 2 && minor == 3:
		p.lengths = 2
	}
	p.link = packet.LinkType(p.u32(f.buf[20:]) & 0x03ffffff) // above: the length of the FCS
	f.lo = p.front
	return nil
}

func (p *pcap) read(f *file, b *Batch) error {
	out := b.Packets[:cap(b.Packets)]
	n := 0
	buf, lo := f.buf[:f.hi], f.lo
	for n < len(out) {
		need := p.head
		if len(buf)-lo >= need {
			h := (*[16]byte)(buf[lo:])
			captured, wire := p.u32(h[8:]), p.u32(h[12:])
			if p.lengths != 0 && (p.lengths == 1 || captured > wire) {
				captured, wire = wire, captured
			}
			if captured > maxFrame {
				b.Packets, f.lo = out[:n], lo
				return f.fail(fmt.Errorf("a frame of %d octets; up to %d would be accepted: the file is damaged", captured, maxFrame))
			}
			need += int(captured)
			if len(buf)-lo >= need {
				pk := &out[n]
				pk.Data = buf[lo+p.head : lo+need : lo+need]
				pk.Time = int64(uint64(p.u32(h[:]))*1e9 + uint64(p.u32(h[4:]))*p.nanos)
				pk.Wire = wire
				pk.Link = p.link
				pk.Interface, pk.VLAN, pk.Egress = 0, 0, false
				lo += need
				n++
				continue
			}
		}
		f.lo = lo
		if n > 0 {
			break
		}
		if !f.fill(need) {
			b.Packets = out[:0]
			return f.ended(need)
		}
		buf, lo = f.buf[:f.hi], 0
	}
	b.Packets, f.lo = out[:n], lo
	return nil
}
