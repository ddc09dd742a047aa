package wire

// reader walks over octets that came from outside. After the first read beyond
// the end it is bad, and every further read gives zero: callers check once.
type reader struct {
	b   []byte
	off int
	bad bool
}

func (r *reader) left() int { return len(r.b) - r.off }

// take gives the next n octets, or nil.
func (r *reader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b)-r.off {
		r.bad = true
		return nil
	}
	f := r.b[r.off : r.off+n : r.off+n]
	r.off += n
	return f
}

func (r *reader) u8() uint8 {
	if f := r.take(1); f != nil {
		return f[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if f := r.take(2); f != nil {
		return be.Uint16(f)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if f := r.take(4); f != nil {
		return be.Uint32(f)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if f := r.take(8); f != nil {
		return be.Uint64(f)
	}
	return 0
}

// zeros says whether b holds nothing but zeros: padding.
func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// uintOf reads an unsigned integer of 1 to 8 octets: reduced-size encoding
// (RFC 7011 section 6.2), or an exporter that sends more than it needs.
func uintOf(f []byte) (uint64, bool) {
	if len(f) == 0 || len(f) > 8 {
		return 0, false
	}
	var v uint64
	for _, c := range f {
		v = v<<8 | uint64(c)
	}
	return v, true
}

// variable reads the length of a variable-length value (RFC 7011 section 7)
// at f's start: where the value begins and ends.
func variable(f []byte) (from, to int, ok bool) {
	if len(f) == 0 {
		return 0, 0, false
	}
	from, n := 1, int(f[0])
	if n == 255 {
		if len(f) < 3 {
			return 0, 0, false
		}
		from, n = 3, int(be.Uint16(f[1:]))
	}
	if n > len(f)-from {
		return 0, 0, false
	}
	return from, from + n, true
}
