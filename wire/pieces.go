package wire

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"strconv"

	"weir/ie"
)

// A part of a plan's elements: pieces, which leave no choice, and after them at most one
// element that does.
type part struct {
	pieces []piece
	room   int   // octets that pieces may write over
	then   *elem // nil: none
}

// piece is one member of a JSON object: a comma and a name as a key, then a value whose form
// is known when the plan is made. A longer key is shared among pieces without values.
type piece struct {
	lead  *[leadStep]byte
	size  uint8 // octets of lead that count
	form  form
	n     uint8 // octets of the value
	field uint16
	off   uint16 // where it stands, unless lengths vary
}

// form is how a value is written where its type and length leave no choice.
type form uint8

const (
	anyForm form = iota // as appendValue does
	noValue             // the key goes on
	formNumber
	formNumber1 // of so many octets, as most are
	formNumber2
	formNumber4
	formNumber8
	formMAC
	formIPv4
)

// form is m's, if it is the only one of its name.
func (m *member) form() form {
	switch {
	case m.left != always:
		return anyForm
	case m.typ.Integer() && !m.typ.Signed() && m.n >= 1 && m.n <= 8:
		switch m.n {
		case 1:
			return formNumber1
		case 2:
			return formNumber2
		case 4:
			return formNumber4
		case 8:
			return formNumber8
		}
		return formNumber
	case m.typ == ie.MACAddress && m.n == 6:
		return formMAC
	case m.typ == ie.IPv4Address && m.n == 4:
		return formIPv4
	}
	return anyForm
}

// longestForm is how many octets a value of a form has at most: 2^64-1. A MAC address in its
// quotes has 19.
const longestForm = 20

// parts puts elems together so that most are pieces. Those that are written only when their
// column did not take them are left out if usual is set.
func parts(elems []elem, usual bool) []part {
	var list []part
	var last part
	for i := range elems {
		e := &elems[i]
		m := &e.member[0]
		switch f := m.form(); {
		case usual && e.leftOnly():
		case len(e.member) > 1, f == anyForm:
			last.then = e
			if list == nil {
				list = make([]part, 0, len(elems)-i)
			}
			list = append(list, last)
			last = part{}
		default:
			if last.pieces == nil {
				last.pieces = make([]piece, 0, len(elems)-i)
			}
			last.add(e, f)
		}
	}
	if len(last.pieces) > 0 {
		list = append(list, last)
	}
	return list
}

// leftOnly says that no member is in every record's elements.
func (e *elem) leftOnly() bool {
	return !slices.ContainsFunc(e.member, func(m member) bool { return m.left == always })
}

func (p *part) add(e *elem, f form) {
	if p.room == 0 {
		p.room = leadStep // a whole step is written, whatever counts of it
	}
	p.room += len(e.key) + longestForm
	m := &e.member[0]
	for at := 0; at < len(e.key); at += leadMost {
		q := piece{lead: (*[leadStep]byte)(e.key[at:cap(e.key)]), size: leadMost, form: noValue}
		if rest := len(e.key) - at; rest <= leadMost {
			q = piece{lead: q.lead, size: uint8(rest), form: f, n: uint8(m.n), field: m.field, off: m.off}
		}
		p.pieces = append(p.pieces, q)
	}
}

// placed gives p's pieces the places that a record's values have.
func (d *Decoder) placed(p *part, spans []span) part {
	d.pieces = append(d.pieces[:0], p.pieces...)
	for i := range d.pieces {
		q := &d.pieces[i]
		q.off = uint16(spans[q.field].off)
	}
	return part{pieces: d.pieces, room: p.room}
}

// write appends the pieces of one record. Room is made once, and more is written than stays:
// copying as much as there is would take longer. As b is known to be longer than any piece,
// its bounds are asked for once a piece, and not with each write.
func (p *part) write(dst, rec []byte) []byte {
	dst = slices.Grow(dst, p.room)
	n := len(dst)
	b := dst[n : n+p.room]
	pieces := p.pieces
	for i := range pieces {
		_ = b[leadStep+longestForm-1]
		q := &pieces[i]
		*(*[leadStep / 2]byte)(b) = [leadStep / 2]byte(q.lead[:])
		*(*[leadStep / 2]byte)(b[leadStep/2:]) = [leadStep / 2]byte(q.lead[leadStep/2:])
		b = b[q.size&(leadStep-1):]
		var v uint64
		switch f := rec[q.off:]; q.form {
		case noValue:
			continue
		case formNumber1:
			v = uint64(f[0])
		case formNumber2:
			v = uint64(be.Uint16(f))
		case formNumber4:
			v = uint64(be.Uint32(f))
		case formNumber8:
			v = be.Uint64(f)
		case formMAC:
			putMAC((*[20]byte)(b), (*[6]byte)(f))
			b = b[19:]
			continue
		case formIPv4:
			b = b[putIPv4((*[20]byte)(b), (*[4]byte)(f)):]
			continue
		default:
			for _, c := range f[:q.n] {
				v = v<<8 | uint64(c)
			}
		}
		if v < uint64(len(decimals)) {
			d := decimals[v]
			binary.LittleEndian.PutUint32(b, d)
			b = b[d>>24&3:]
		} else {
			b = b[putUint(b, v):]
		}
	}
	return dst[:n+p.room-len(b)]
}

// putUint writes v, which is not zero, and gives how many digits it has. b has at least
// longestForm octets.
func putUint(b []byte, v uint64) int {
	if v >= 1e8 {
		return len(strconv.AppendUint(b[:0], v, 10))
	}
	// Eight digits at a time: two of four, four of two, eight of one.
	v = v/1e4 | v%1e4<<32
	hundreds := v * 10486 >> 20 & 0x7f_0000007f
	v = hundreds | (v-100*hundreds)<<16
	tens := v * 103 >> 10 & 0x000f000f_000f000f
	v = tens | (v-10*tens)<<8
	zeros := bits.TrailingZeros64(v) &^ 7 // bits of digits in front
	binary.LittleEndian.PutUint64(b, (v|0x30303030_30303030)>>(zeros&63))
	return 8 - zeros/8
}

// putMAC writes an address in quotes, 19 octets; the 20th may be anything afterwards.
func putMAC(b *[20]byte, f *[6]byte) {
	b[0] = '"'
	*(*[4]byte)(b[1:]) = hexPairs[f[0]]
	*(*[4]byte)(b[4:]) = hexPairs[f[1]]
	*(*[4]byte)(b[7:]) = hexPairs[f[2]]
	*(*[4]byte)(b[10:]) = hexPairs[f[3]]
	*(*[4]byte)(b[13:]) = hexPairs[f[4]]
	*(*[4]byte)(b[16:]) = hexPairs[f[5]]
	b[18] = '"'
}

// putIPv4 writes an address in quotes, at most 17 octets.
func putIPv4(b *[20]byte, f *[4]byte) int {
	b[0] = '"'
	n := 1
	for _, c := range f {
		d := decimals[c]
		binary.LittleEndian.PutUint32(b[n:], d)
		n += int(d >> 24)
		b[n] = '.'
		n++
	}
	b[n-1] = '"'
	return n
}

// decimals are the numbers of one octet, the first digit in the lowest octet; the highest
// tells how many digits there are.
var decimals = func() (t [256]uint32) {
	for i := range t {
		b := strconv.Itoa(i)
		for j := range b {
			t[i] |= uint32(b[j]) << (8 * j)
		}
		t[i] |= uint32(len(b)) << 24
	}
	return t
}()

// hexPairs are the numbers of one octet in hexadecimal, each with a colon.
var hexPairs = func() (t [256][4]byte) {
	for i := range t {
		t[i] = [4]byte{hexDigits[i>>4], hexDigits[i&15], ':'}
	}
	return t
}()
