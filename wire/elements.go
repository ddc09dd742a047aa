package wire

import (
	"encoding/hex"
	"math"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"weir/ie"
)

// Elements are JSON, built in the batch's arena: {"name":value,…} in the
// template's order. Integers and floats are numbers; times RFC 3339 strings;
// addresses, MAC addresses and text strings; octet arrays, and whatever has
// not its type's length, hexadecimal strings; an element that comes more than
// once in a record an array; lists (RFC 6313) objects, see lists.go.

// maxString is how much of a text is kept.
const maxString = 1024

func appendKey(dst []byte, name string) []byte {
	return append(appendString(dst, []byte(name)), ':')
}

// appendElements writes p's elements of one record. spans tells where fields
// are when lengths vary; nil: the plan knows.
func (d *Decoder) appendElements(dst []byte, p *plan, spans []span, rec []byte, left uint64, s *session) []byte {
	start := len(dst)
	parts := p.usual
	if left != 0 {
		parts = p.all
	}
	for i := range parts {
		t := &parts[i]
		switch {
		case len(t.pieces) == 0:
		case spans == nil:
			dst = t.write(dst, rec)
		default:
			at := d.placed(t, spans)
			dst = at.write(dst, rec)
		}
		if t.then != nil {
			dst = d.appendAny(dst, t.then, spans, rec, left, s)
		}
	}
	return closed(dst, start)
}

// closed makes an object of the members from start on, if there are any.
func closed(dst []byte, start int) []byte {
	if len(dst) == start {
		return dst
	}
	dst[start] = '{' // instead of a comma
	return append(dst, '}')
}

// appendAny writes an element of any form, if the record has it.
func (d *Decoder) appendAny(dst []byte, e *elem, spans []span, rec []byte, left uint64, s *session) []byte {
	if len(e.member) > 1 {
		return d.appendRepeated(dst, e, spans, rec, left, s)
	}
	m := &e.member[0]
	f, ok := m.value(rec, spans, left)
	if !ok {
		return dst
	}
	return d.appendValue(append(dst, e.key...), m.typ, f, s, 0)
}

// appendRepeated writes an element that comes more than once in the template.
func (d *Decoder) appendRepeated(dst []byte, e *elem, spans []span, rec []byte, left uint64, s *session) []byte {
	n := 0
	for i := range e.member {
		if _, ok := e.member[i].value(rec, spans, left); ok {
			n++
		}
	}
	if n == 0 {
		return dst
	}
	dst = append(dst, e.key...)
	open := byte('[')
	for i := range e.member {
		f, ok := e.member[i].value(rec, spans, left)
		if !ok {
			continue
		}
		if n > 1 {
			dst = append(dst, open)
			open = ','
		}
		dst = d.appendValue(dst, e.member[i].typ, f, s, 0)
	}
	if n > 1 {
		dst = append(dst, ']')
	}
	return dst
}

// value gives a member's octets, if it is to be written: always, or because it
// did not fit its column. Of no octets, only text and octets are values.
func (m *member) value(rec []byte, spans []span, left uint64) ([]byte, bool) {
	if m.left != always && left&(1<<m.left) == 0 {
		return nil, false
	}
	off, n := int(m.off), int(m.n)
	if spans != nil {
		off, n = spans[m.field].off, spans[m.field].n
	}
	return rec[off : off+n], !blank(m.typ, n)
}

// blank says that a value of n octets is none.
func blank(t ie.Type, n int) bool { return n == 0 && t != ie.String && t != ie.OctetArray }

// appendValue writes one value by its type.
func (d *Decoder) appendValue(dst []byte, t ie.Type, f []byte, s *session, depth int) []byte {
	switch {
	case t.Integer():
		v, ok := uintOf(f)
		if !ok {
			break
		}
		if t.Signed() {
			shift := 64 - 8*len(f)
			return strconv.AppendInt(dst, int64(v<<shift)>>shift, 10)
		}
		return strconv.AppendUint(dst, v, 10)
	case t == ie.String:
		return appendText(dst, f)
	case t == ie.IPv4Address && len(f) == 4:
		return appendAddr(dst, netip.AddrFrom4([4]byte(f)))
	case t == ie.IPv6Address && len(f) == 16:
		return appendAddr(dst, netip.AddrFrom16([16]byte(f)))
	case t == ie.MACAddress && len(f) == 6:
		return appendMAC(dst, f)
	case t == ie.Boolean && len(f) == 1 && (f[0] == 1 || f[0] == 2):
		return strconv.AppendBool(dst, f[0] == 1)
	case t == ie.Float32 || t == ie.Float64:
		v, ok := floatOf(f)
		if !ok || math.IsNaN(v) || math.IsInf(v, 0) {
			break // JSON has no such numbers
		}
		return strconv.AppendFloat(dst, v, 'g', -1, 64)
	case t >= ie.DateTimeSeconds && t <= ie.DateTimeNanoseconds:
		ns, ok := absolute(t, f)
		if !ok {
			break
		}
		dst = append(dst, '"')
		dst = time.Unix(ns/1e9, ns%1e9).UTC().AppendFormat(dst, timeForm[t-ie.DateTimeSeconds])
		return append(dst, '"')
	case t.List():
		return d.appendList(dst, t, f, s, depth)
	}
	return appendHex(dst, f)
}

var timeForm = [...]string{
	"2006-01-02T15:04:05Z", "2006-01-02T15:04:05.000Z",
	"2006-01-02T15:04:05.000000Z", "2006-01-02T15:04:05.000000000Z",
}

const hexDigits = "0123456789abcdef"

func appendHex(dst, f []byte) []byte {
	dst = append(dst, '"')
	dst = hex.AppendEncode(dst, f)
	return append(dst, '"')
}

func appendAddr(dst []byte, a netip.Addr) []byte {
	dst = append(dst, '"')
	dst = a.AppendTo(dst)
	return append(dst, '"')
}

// floatOf reads a float64, or a float32 standing for one (RFC 7011 section 6.2).
func floatOf(f []byte) (float64, bool) {
	switch len(f) {
	case 4:
		return float64(math.Float32frombits(be.Uint32(f))), true
	case 8:
		return math.Float64frombits(be.Uint64(f)), true
	}
	return 0, false
}

// appendText writes a text of the network: without the zeros that pad it, at
// most maxString octets.
func appendText(dst, f []byte) []byte {
	return appendString(dst, text(f))
}

func text(f []byte) []byte {
	for len(f) > 0 && f[len(f)-1] == 0 {
		f = f[:len(f)-1]
	}
	if len(f) > maxString {
		cut := maxString
		for cut > maxString-utf8.UTFMax && !utf8.RuneStart(f[cut]) {
			cut--
		}
		f = f[:cut]
	}
	return f
}

// appendString writes a JSON string that is inert wherever it is shown later:
// what is no UTF-8 becomes U+FFFD; control characters (C0, C1, DEL), those that
// change the direction of text, line separators and HTML's special characters
// are escaped.
func appendString(dst, f []byte) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(f); {
		if c := f[i]; c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				dst = append(dst, '\\', c)
			case c < ' ' || c == 0x7f || c == '<' || c == '>' || c == '&':
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			default:
				dst = append(dst, c)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(f[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			dst = append(dst, "\ufffd"...)
		case unsafeRune(r):
			dst = append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
		default:
			dst = append(dst, f[i:i+n]...)
		}
		i += n
	}
	return append(dst, '"')
}

func unsafeRune(r rune) bool {
	return r >= 0x80 && r <= 0x9f || // C1
		r == 0x061c || r == 0x200e || r == 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || // direction
		r == 0x2028 || r == 0x2029 || r == 0xfeff // separators, byte order mark
}
