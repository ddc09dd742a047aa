package capture

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"weir/packet"
)

// A pcapng file (draft-ietf-opsawg-pcapng) is a sequence of blocks
//
//	type u32, total length u32, body, total length u32
//
// of a whole number of 32-bit words, in sections: each begins with a section
// header, which has the byte order of all its blocks, and describes the
// interfaces that its packets name by number.
type pcapng struct {
	swapped bool
	section bool // a section header was read
	ifaces  []pcapngInterface
}

// Block types.
const (
	blockSection   = 0x0a0d0d0a // the same in either byte order
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6

	sectionMagic = 0x1a2b3c4d
)

// pcapngInterface is one interface description.
type pcapngInterface struct {
	link packet.LinkType
	snap uint32 // of simple packets; 0: no limit
	// A time stamp is nanoseconds after multiplying (mul != 0), dividing
	// (div != 0), or as a binary fraction with shift bits.
	mul, div uint64
	shift    uint
	offset   int64 // seconds to add
}

func (p *pcapng) u32(b []byte) uint32 {
	v := binary.LittleEndian.Uint32(b)
	if p.swapped {
		v = bits.ReverseBytes32(v)
	}
	return v
}

func (p *pcapng) u16(b []byte) uint16 {
	v := binary.LittleEndian.Uint16(b)
	if p.swapped {
		v = bits.ReverseBytes16(v)
	}
	return v
}

func (p *pcapng) read(f *file, b *Batch) error {
	out := b.Packets[:cap(b.Packets)]
	n := 0
	for n < len(out) {
		need := 12
		if f.hi-f.lo >= need {
			buf := f.buf[f.lo:f.hi]
			kind, total := p.u32(buf), p.u32(buf[4:])
			if kind == blockSection {
				if err := p.order(buf); err != nil {
					b.Packets = out[:n]
					return f.fail(err)
				}
				total = p.u32(buf[4:])
			} else if !p.section {
				b.Packets = out[:n]
				return f.fail(fmt.Errorf("%w: no section header", ErrNotCapture))
			}
			if total < 12 || total&3 != 0 {
				b.Packets = out[:n]
				return f.fail(fmt.Errorf("a block of %d octets; a multiple of 4 from 12 on would be accepted: the file is damaged", total))
			}
			switch kind {
			case blockSection, blockInterface, blockPacket, blockSimple, blockEnhanced:
				if total > bufferSize {
					b.Packets = out[:n]
					return f.fail(fmt.Errorf("a block of type %d with %d octets; up to %d would be accepted", kind, total, bufferSize))
				}
				need = int(total)
				if len(buf) < need {
					break
				}
				block := buf[:need:need]
				if again := p.u32(block[need-4:]); again != total {
					b.Packets = out[:n]
					return f.fail(fmt.Errorf("a block of %d octets says %d at its end: the file is damaged", total, again))
				}
				got, err := p.block(kind, block, &out[n])
				if err != nil {
					b.Packets = out[:n]
					return f.fail(err)
				}
				if got {
					n++
				}
				f.lo += need
				continue
			default:
				// Names, statistics, secrets, custom blocks: whatever their length.
				if int(total) > len(buf) && n > 0 {
					b.Packets = out[:n]
					return nil // skipping makes room, which ends what was given
				}
				if !f.skip(int64(total)) {
					b.Packets = out[:n]
					return f.fail(fmt.Errorf("%w: a block of %d octets", ErrTruncated, total))
				}
				continue
			}
		}
		if n > 0 {
			break
		}
		if !f.fill(need) {
			b.Packets = out[:0]
			return f.ended(need)
		}
	}
	b.Packets = out[:n]
	return nil
}

// order reads the byte order from a section header.
func (p *pcapng) order(buf []byte) error {
	switch magic := binary.LittleEndian.Uint32(buf[8:]); magic {
	case sectionMagic:
		p.swapped = false
	case bits.ReverseBytes32(sectionMagic):
		p.swapped = true
	default:
		return fmt.Errorf("section header with byte order %#08x: the file is damaged", magic)
	}
	return nil
}

// block reads one block; got says that it was a packet and is in pk.
func (p *pcapng) block(kind uint32, b []byte, pk *Packet) (got bool, err error) {
	switch kind {
	case blockEnhanced: // interface, time (high, low), captured, wire, octets
		if len(b) < 32 {
			return false, fmt.Errorf("enhanced packet block of %d octets; at least 32 would be accepted", len(b))
		}
		return p.packet(b, 28, p.u32(b[8:]), p.u32(b[12:]), p.u32(b[16:]), p.u32(b[20:]), p.u32(b[24:]), pk)
	case blockPacket: // interface u16, drops u16, then the same
		if len(b) < 32 {
			return false, fmt.Errorf("packet block of %d octets; at least 32 would be accepted", len(b))
		}
		return p.packet(b, 28, uint32(p.u16(b[8:])), p.u32(b[12:]), p.u32(b[16:]), p.u32(b[20:]), p.u32(b[24:]), pk)
	case blockSimple: // wire, octets; always of the first interface, no time
		if len(b) < 16 {
			return false, fmt.Errorf("simple packet block of %d octets; at least 16 would be accepted", len(b))
		}
		wire := p.u32(b[8:])
		captured := min(wire, uint32(len(b)-16))
		if len(p.ifaces) > 0 && p.ifaces[0].snap > 0 {
			captured = min(captured, p.ifaces[0].snap)
		}
		got, err = p.packet(b, 12, 0, 0, 0, captured, wire, pk)
		pk.Time = 0
		return got, err
	case blockInterface:
		return false, p.iface(b)
	case blockSection:
		if len(b) < 28 {
			return false, fmt.Errorf("section header of %d octets; at least 28 would be accepted", len(b))
		}
		if major := p.u16(b[12:]); major != 1 {
			return false, fmt.Errorf("pcapng version %d.%d; 1.0 would be accepted", major, p.u16(b[14:]))
		}
		p.section = true
		p.ifaces = p.ifaces[:0]
	}
	return false, nil
}

func (p *pcapng) packet(b []byte, at int, iface, high, low, captured, wire uint32, pk *Packet) (bool, error) {
	if uint64(iface) >= uint64(len(p.ifaces)) {
		return false, fmt.Errorf("a packet of interface %d; the section describes %d: the file is damaged", iface, len(p.ifaces))
	}
	if uint64(captured) > uint64(len(b)-4-at) || captured > maxFrame {
		return false, fmt.Errorf("a frame of %d octets in a block of %d: the file is damaged", captured, len(b))
	}
	i := &p.ifaces[iface]
	end := at + int(captured)
	pk.Data = b[at:end:end]
	stamp := uint64(high)<<32 | uint64(low)
	if i.mul-1 < 1000 && i.offset == 0 && stamp < maxTime/1000 {
		pk.Time = int64(stamp * i.mul) // micro- to nanoseconds, which is nearly all
	} else {
		pk.Time = i.time(stamp)
	}
	pk.Wire = wire
	pk.Link = i.link
	pk.Interface, pk.VLAN, pk.Egress = 0, 0, false
	return true, nil
}

// Option codes of an interface description.
const (
	optEnd        = 0
	optResolution = 9
	optOffset     = 14
)

// iface reads an interface description: link type u16, reserved u16, snap
// length u32, options (code u16, length u16, value, padding).
func (p *pcapng) iface(b []byte) error {
	if len(b) < 20 {
		return fmt.Errorf("interface description of %d octets; at least 20 would be accepted", len(b))
	}
	i := pcapngInterface{link: packet.LinkType(p.u16(b[8:])), snap: p.u32(b[12:]), mul: 1000}
	opts := b[16 : len(b)-4]
	for len(opts) >= 4 {
		code, size := p.u16(opts), int(p.u16(opts[2:]))
		opts = opts[4:]
		if code == optEnd || size > len(opts) {
			break
		}
		switch value := opts[:size]; {
		case code == optResolution && size == 1:
			i.resolution(value[0])
		case code == optOffset && size == 8:
			high, low := p.u32(value), p.u32(value[4:])
			if !p.swapped {
				high, low = low, high
			}
			i.offset = int64(uint64(high)<<32 | uint64(low))
		}
		opts = opts[min((size+3)&^3, len(opts)):]
	}
	p.ifaces = append(p.ifaces, i)
	return nil
}

// resolution sets the unit of time stamps: 10^-v seconds, or 2^-v with the
// high bit set.
func (i *pcapngInterface) resolution(v byte) {
	i.mul, i.div, i.shift = 0, 0, 0
	n := uint(v & 0x7f)
	switch {
	case v&0x80 != 0:
		i.shift = n
	case n <= 9:
		i.mul = pow10(9 - n)
	default:
		i.div = pow10(min(n-9, 19))
	}
}

func pow10(n uint) uint64 {
	v := uint64(1)
	for range n {
		v *= 10
	}
	return v
}

// maxTime bounds time stamps, the far past's too: the year 2116, so that sums
// and differences of two stay in range. pcap ends in 2106.
const maxTime = 1 << 62

// time is Unix nanoseconds of a time stamp; what is out of range becomes the
// end of the range.
func (i *pcapngInterface) time(stamp uint64) int64 {
	var high, ns uint64
	switch {
	case i.mul != 0:
		high, ns = bits.Mul64(stamp, i.mul)
	case i.div != 0:
		ns = stamp / i.div
	default:
		high, ns = bits.Mul64(stamp, 1_000_000_000)
		if i.shift >= 64 {
			high, ns = 0, high>>(i.shift-64)
		} else if i.shift > 0 {
			high, ns = high>>i.shift, high<<(64-i.shift)|ns>>i.shift
		}
	}
	if high != 0 || ns > maxTime {
		ns = maxTime
	}
	const limit = maxTime / 1_000_000_000
	offset := max(-limit, min(i.offset, limit)) * 1_000_000_000
	return min(int64(ns)-maxTime+offset, 0) + maxTime
}
