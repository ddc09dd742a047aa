package wire

// Detect says of which version a datagram is by its form: the version number,
// and counts and lengths that agree with the datagram's size to the octet. 0
// means that it is none.
func Detect(msg []byte) (version uint8) {
	n := Next(msg)
	if n == 0 || n != len(msg) {
		return 0
	}
	return msg[1]
}

// Next is the length of the message at the start of b, as its counts and
// lengths say, which must fit into b; 0 if there is none. A v9 packet, which
// does not tell its length, ends where the next one begins or with b.
func Next(b []byte) int {
	if len(b) < 16 {
		return 0
	}
	count := int(be.Uint16(b[2:]))
	legacy := func(head, size int) int {
		if n := head + count*size; count > 0 && n <= len(b) {
			return n
		}
		return 0
	}
	switch be.Uint16(b) {
	case 1:
		return legacy(16, 48)
	case 5:
		return legacy(24, 48)
	case 6, 7:
		return legacy(24, 52)
	case 8:
		if len(b) >= HeaderV8Len && SchemeV8(b[22]).Valid() {
			return legacy(HeaderV8Len, SchemeV8(b[22]).RecordLen())
		}
	case 9:
		return nextV9(b)
	case 10:
		if count >= 16 && count <= len(b) && walks(b[16:count], setIPFIXTemplates) {
			return count
		}
	}
	return 0
}

// nextV9 walks over flowsets. 9 is no flowset's number: there the next packet
// begins.
func nextV9(b []byte) int {
	off := 20
	for len(b)-off >= 4 {
		id, n := int(be.Uint16(b[off:])), int(be.Uint16(b[off+2:]))
		switch {
		case id == 9 && off > 20 && len(b)-off >= 20:
			return off
		case n == 0 && zeros(b[off:]):
			return len(b)
		case n < 4 || n > len(b)-off || id > setV9Options && id < firstData:
			return 0
		}
		off += n
	}
	if off == 20 || !zeros(b[min(off, len(b)):]) {
		return 0
	}
	return len(b)
}

// walks says whether b is sets, back to back.
func walks(b []byte, least uint16) bool {
	for len(b) >= 4 {
		id, n := be.Uint16(b), int(be.Uint16(b[2:]))
		if id < least || id > setIPFIXOptions && id < firstData || n < 4 || n > len(b) {
			return false
		}
		b = b[n:]
	}
	return zeros(b)
}
