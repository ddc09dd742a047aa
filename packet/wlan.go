package packet

import "encoding/binary"

// wlan reads an IEEE 802.11 frame of any kind. padded says that the header was
// filled up to a multiple of four octets (a radiotap flag). Of an aggregate
// (A-MSDU) the first packet is taken: one frame is one packet here.
func (w *walker) wlan(padded bool) Reason {
	b := w.rest()
	if len(b) < 2 {
		return TruncatedLink
	}
	const (
		data      = 0x08 // type in the first octet
		typeBits  = 0x0c
		qos       = 0x80 // subtype bits of data frames
		null      = 0x40
		toDS      = 0x01 // flags in the second
		fromDS    = 0x02
		protected = 0x40
		order     = 0x80
	)
	if b[0]&0x03 != 0 || b[0]&typeBits != data || b[0]&null != 0 {
		return WLANControl
	}
	if b[1]&protected != 0 {
		return WLANProtected
	}
	size := 24
	if b[1]&toDS != 0 && b[1]&fromDS != 0 {
		size += 6 // a fourth address
	}
	aggregate := false
	if b[0]&qos != 0 {
		if len(b) > size {
			aggregate = b[size]&0x80 != 0
		}
		size += 2
		if b[1]&order != 0 {
			size += 4 // HT control
		}
	}
	if padded {
		size = (size + 3) &^ 3
	}
	if aggregate {
		size += 14 // destination, source and length of the first one
	}
	// A fragment of a frame but the first starts anywhere.
	if len(b) >= 24 && binary.LittleEndian.Uint16(b[22:])&0x0f != 0 {
		return WLANControl
	}
	return w.after(size, w.llc)
}

// radiotap reads a radiotap header: version, pad, length (little-endian), a
// chain of presence words, fields. Of these the flags are wanted, and in front
// of them is at most the time stamp.
func (w *walker) radiotap() Reason {
	b := w.rest()
	if len(b) < 8 {
		return TruncatedLink
	}
	size := int(binary.LittleEndian.Uint16(b[2:]))
	if size < 8 || size > len(b) {
		return TruncatedLink
	}
	const (
		hasTime  = 1 << 0
		hasFlags = 1 << 1
		more     = 1 << 31
		dataPad  = 0x20
	)
	present := binary.LittleEndian.Uint32(b[4:])
	off := 8
	for word := present; word&more != 0 && off+4 <= size; off += 4 {
		word = binary.LittleEndian.Uint32(b[off:])
	}
	if present&hasTime != 0 {
		off = (off+7)&^7 + 8
	}
	padded := present&hasFlags != 0 && off < size && b[off]&dataPad != 0
	w.skip(size)
	return w.wlan(padded)
}

// prism reads a Prism header: message code and length in the writer's byte
// order. Some drivers write an AVS header under the same link type.
func (w *walker) prism() Reason {
	b := w.rest()
	if len(b) < 8 {
		return TruncatedLink
	}
	if be.Uint32(b)&0xfffff000 == 0x80211000 {
		return w.avs()
	}
	size := int(binary.LittleEndian.Uint32(b[4:]) & 0xffff)
	if size < 8 {
		size = int(be.Uint32(b[4:]) & 0xffff)
	}
	if size < 8 {
		return TruncatedLink
	}
	return w.after(size, func() Reason { return w.wlan(false) })
}

// avs reads an AVS header: magic, length, both in network order.
func (w *walker) avs() Reason {
	b := w.rest()
	if len(b) < 8 {
		return TruncatedLink
	}
	size := int(be.Uint32(b[4:]))
	if size < 8 || size > len(b) {
		return TruncatedLink
	}
	w.skip(size)
	return w.wlan(false)
}
