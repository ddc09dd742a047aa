package wire

import (
	"strconv"

	"weir/ie"
)

// Structured data (RFC 6313). A basicList is {"semantic":…,"<name>":[…]}, a
// subTemplateList {"semantic":…,"template":n,"records":[{…}]}, a
// subTemplateMultiList {"semantic":…,"records":[{…}]}. What cannot be read
// (an unknown template, a length that lies, too deep) is hexadecimal.

const (
	maxDepth   = 4    // lists within lists
	maxMembers = 1024 // of one list that are shown
)

var listSemantics = [...]string{"noneOf", "exactlyOneOf", "oneOrMoreOf", "allOf", "ordered"}

func appendSemantic(dst []byte, v uint8) []byte {
	dst = append(dst, `{"semantic":`...)
	switch {
	case int(v) < len(listSemantics):
		dst = append(append(append(dst, '"'), listSemantics[v]...), '"')
	case v == 255:
		dst = append(dst, `"undefined"`...)
	default:
		dst = strconv.AppendUint(dst, uint64(v), 10)
	}
	return dst
}

// appendList writes a list; depth tells how many lists it is in, and bounds the
// recursion.
func (d *Decoder) appendList(dst []byte, t ie.Type, f []byte, s *session, depth int) []byte {
	if depth >= maxDepth || d.budget(dst) {
		return appendHex(dst, f)
	}
	start := len(dst)
	ok := false
	switch t {
	case ie.BasicList:
		dst, ok = d.appendBasicList(dst, f, s, depth)
	case ie.SubTemplateList:
		if len(f) >= 3 {
			dst = appendSemantic(dst, f[0])
			id := be.Uint16(f[1:])
			dst = append(dst, `,"template":`...)
			dst = strconv.AppendUint(dst, uint64(id), 10)
			dst = append(dst, `,"records":[`...)
			dst, ok = d.appendRecords(dst, id, f[3:], s, depth, 0)
			dst = append(dst, `]}`...)
		}
	case ie.SubTemplateMultiList:
		dst, ok = d.appendMultiList(dst, f, s, depth)
	}
	if !ok {
		return appendHex(dst[:start], f)
	}
	return dst
}

func (d *Decoder) appendBasicList(dst, f []byte, s *session, depth int) ([]byte, bool) {
	r := reader{b: f}
	dst = appendSemantic(dst, r.u8())
	spec := FieldSpec{ID: r.u16(), Length: r.u16()}
	if spec.ID&0x8000 != 0 {
		spec.ID, spec.PEN = spec.ID&0x7fff, r.u32()
	}
	if r.bad || spec.Length == 0 {
		return dst, false
	}
	by := s
	if s != nil {
		by = d.typesOf(s)
	}
	e, _ := by.element(spec.PEN, spec.ID)
	dst = append(dst, ',')
	dst = append(appendKey(dst, nameOf(e, spec.PEN, spec.ID)), '[')
	rest := f[r.off:]
	for n := 0; len(rest) > 0; n++ {
		from, to := 0, int(spec.Length)
		if spec.Length == VariableLength {
			var ok bool
			if from, to, ok = variable(rest); !ok {
				return dst, false
			}
		} else if to > len(rest) {
			return dst, false
		}
		if n < maxMembers && !d.budget(dst) {
			if n > 0 {
				dst = append(dst, ',')
			}
			dst = d.appendValue(dst, e.Type, rest[from:to], s, depth+1)
		}
		rest = rest[to:] // to >= 1: a variable length has at least its own octet
	}
	return append(dst, `]}`...), true
}

func (d *Decoder) appendMultiList(dst, f []byte, s *session, depth int) ([]byte, bool) {
	if len(f) < 1 {
		return dst, false
	}
	dst = append(appendSemantic(dst, f[0]), `,"records":[`...)
	rest, first := f[1:], 0
	for len(rest) > 0 {
		if len(rest) < 4 {
			return dst, false
		}
		id, n := be.Uint16(rest), int(be.Uint16(rest[2:]))
		if n < 4 || n > len(rest) {
			return dst, false
		}
		before := len(dst)
		var ok bool
		if dst, ok = d.appendRecords(dst, id, rest[4:n], s, depth, first); !ok {
			return dst, false
		}
		if len(dst) > before {
			first = 1
		}
		rest = rest[n:]
	}
	return append(dst, `]}`...), true
}

// appendRecords writes records of a template as objects, all fields as
// elements; first is 0 if none stands before them.
func (d *Decoder) appendRecords(dst []byte, id uint16, f []byte, s *session, depth, first int) ([]byte, bool) {
	if s == nil {
		return dst, false
	}
	known, ok := s.templates[id]
	if !ok || known.opts {
		return dst, false
	}
	p := known.plan
	spans := make([]span, len(p.specs)) // d.spans is the outer record's
	for n := first; len(f) > 0 && len(f) >= p.length; n++ {
		size, ok := p.walk(spans, f)
		if !ok || size == 0 {
			return dst, false
		}
		if n < maxMembers && !d.budget(dst) {
			if n > 0 {
				dst = append(dst, ',')
			}
			dst = d.appendFields(dst, known.Template, 0, len(p.specs), spans, f, s, depth+1)
		}
		f = f[size:]
	}
	return dst, true
}

// appendFields writes fields from to to of a record as an object.
func (d *Decoder) appendFields(dst []byte, t *Template, from, to int, spans []span, rec []byte, s *session, depth int) []byte {
	sep := byte('{')
	absent := func(i int) bool {
		sp := &t.plan.specs[i]
		return sp.skip || blank(sp.typ, spans[i].n)
	}
	for i := from; i < to; i++ {
		sp := &t.plan.specs[i]
		if absent(i) || sp.dup {
			continue
		}
		dst = append(dst, sep)
		sep = ','
		dst = append(dst, sp.lead[1:]...)
		if sp.again == 0 {
			dst = d.appendValue(dst, sp.typ, rec[spans[i].off:spans[i].off+spans[i].n], s, depth)
			continue
		}
		open := byte('[')
		for j := i; ; j = t.plan.specs[j].again {
			if !absent(j) {
				dst = append(dst, open)
				open = ','
				dst = d.appendValue(dst, sp.typ, rec[spans[j].off:spans[j].off+spans[j].n], s, depth)
			}
			if t.plan.specs[j].again == 0 {
				break
			}
		}
		dst = append(dst, ']')
	}
	if sep == '{' {
		dst = append(dst, '{')
	}
	return append(dst, '}')
}

// budget says whether the message's elements used all they may.
func (d *Decoder) budget(dst []byte) bool {
	return len(dst)-d.arenaStart > d.opt.Limits.MessageElements
}
