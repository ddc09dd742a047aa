package wire

import (
	"bytes"
	"strconv"

	"weir/flow"
	"weir/ie"
)

// hardFields bounds Limits.Fields.
const hardFields = 4096

// Set numbers (RFC 3954 section 5.2, RFC 7011 section 3.3.2).
const (
	setV9Templates    = 0
	setV9Options      = 1
	setIPFIXTemplates = 2
	setIPFIXOptions   = 3
	firstData         = 256
)

// nameOf is an element's name, or one made of its number.
func nameOf(e ie.Element, pen uint32, id uint16) string {
	switch {
	case e.Name != "":
		return e.Name
	case pen == 0:
		return "ie" + strconv.Itoa(int(id))
	}
	return "pen" + strconv.FormatUint(uint64(pen), 10) + "." + strconv.Itoa(int(id))
}

// templateSet reads the records of a template set or options template set.
//
//	v9     template ID, field count, {type, length}…
//	v9     template ID, scope length, option length (octets), {type, length}…
//	IPFIX  template ID, field count, {E + ID, length, [PEN]}…
//	IPFIX  template ID, field count, scope field count, {E + ID, length, [PEN]}…
func (d *Decoder) templateSet(body []byte, at int, options bool) {
	v9 := d.ctx.version == flow.VersionV9
	r := reader{b: body}
	for r.left() >= 4 {
		if zeros(body[r.off:]) {
			return // padding
		}
		start := r.off
		if old := d.msg.s.templates[be.Uint16(body[start:])]; old != nil && old.opts == options && bytes.HasPrefix(body[start:], old.raw) {
			// As it was: its length is in its octets, so no more need be read.
			r.off += len(old.raw)
			d.msg.Templates++
			d.refreshed(old)
			continue
		}
		t := &Template{ID: r.u16(), opts: options, v9: v9, types: d.typesOf(d.msg.s)}
		n := int(r.u16()) // IPFIX: fields in all
		size := n
		switch {
		case options && v9:
			n += int(r.u16()) // octets of scope, then of options fields
			if size%4 != 0 || n%4 != 0 {
				d.refuse(BadTemplate, len(body)-start, at+start, "options template length", ErrLength)
				return
			}
			t.Scope, n = size/4, n/4
		case n == 0 && !v9:
			if t.ID < firstData && t.ID != setIPFIXTemplates && t.ID != setIPFIXOptions {
				d.refuse(BadTemplate, len(body)-start, at+start, "template ID", ErrReserved)
				return
			}
			d.withdraw(t.ID, options, at+start)
			continue
		case options:
			t.Scope = int(r.u16())
		}
		if r.bad {
			d.refuse(BadTemplate, len(body)-start, at+start, "template record", ErrShort)
			return
		}
		if n > d.opt.Limits.Fields {
			d.refuse(TemplateFields, len(body)-start, at+start+2, "field count", ErrLimit)
			return
		}
		if n*4 > r.left() {
			d.refuse(BadTemplate, len(body)-start, at+start+2, "field count", ErrCount)
			return
		}
		t.Fields = make([]FieldSpec, 0, n)
		length, variable := 0, false
		for i := range n {
			f := FieldSpec{ID: r.u16(), Length: r.u16()}
			if !v9 && f.ID&0x8000 != 0 {
				f.ID, f.PEN = f.ID&0x7fff, r.u32()
			}
			t.Fields = append(t.Fields, f)
			t.Fields[i].Name = t.nameOf(i)
			if f.Length == VariableLength && !v9 {
				variable = true
			} else {
				length += int(f.Length)
			}
		}
		if r.bad {
			d.refuse(BadTemplate, len(body)-start, at+start, "field specifiers", ErrShort)
			return
		}
		d.msg.Templates++
		t.raw = body[start:r.off]
		switch {
		case t.ID < firstData:
			d.refuse(BadTemplate, r.off-start, at+start, "template ID", ErrReserved)
		case options && !v9 && (t.Scope == 0 || t.Scope > n):
			d.refuse(BadTemplate, r.off-start, at+start+4, "scope field count", ErrCount)
		case length == 0 && !variable:
			d.refuse(EmptyTemplate, r.off-start, at+start+2, "field count", ErrEmpty)
			d.drop(t.ID) // what it was is not what comes now
		case length > 65535:
			d.refuse(BadTemplate, r.off-start, at+start+2, "field lengths", ErrLength)
		default:
			d.define(t, at+start)
		}
	}
}

func (t *Template) nameOf(i int) string {
	f := t.Fields[i]
	if i < t.Scope && t.v9 {
		if s := ie.ScopeV9(f.ID); s != "" {
			return s
		}
		return "scope" + strconv.Itoa(int(f.ID))
	}
	e, _ := lookup(t, i)
	return nameOf(e, f.PEN, f.ID)
}

// octets is about what a template costs to hold.
func (t *Template) octets() int { return 256 + len(t.raw) + 160*len(t.Fields) }

// define takes a template in, and lets go the data that waited for it.
func (d *Decoder) define(t *Template, at int) {
	s := d.msg.s
	event := TemplateEvent{Source: d.ctx.src, Version: d.ctx.version, Domain: s.key.domain, Template: t}
	old := s.templates[t.ID]
	switch {
	case old == nil && len(s.templates) >= d.opt.Limits.Templates, !d.roomFor(t.octets()):
		d.refuse(TemplateLimit, len(t.raw), at, "template", ErrLimit)
		return
	default:
		if old != nil {
			event.Action = Redefined
			s.n.redefined++
			d.drop(t.ID)
		}
		t.raw = bytes.Clone(t.raw)
		d.keep(s, t, d.ctx.received)
	}
	d.msg.b.Templates = append(d.msg.b.Templates, event)
	if len(s.waiting) > 0 {
		d.release(t.ID)
	}
}

// refreshed notes that a template was sent again.
func (d *Decoder) refreshed(k *known) {
	k.seen = d.ctx.received
	d.msg.b.Templates = append(d.msg.b.Templates, TemplateEvent{
		Source: d.ctx.src, Version: d.ctx.version, Domain: d.msg.s.key.domain, Action: Refreshed, Template: k.Template,
	})
}

// keep compiles a template and holds it.
func (d *Decoder) keep(s *session, t *Template, seen int64) {
	k := &known{Template: t, seen: seen, typed: t.types.typed, typedBy: t.types}
	t.compile(d.opt.SplitBiflows)
	s.templates[t.ID] = k
	s.octets += t.octets()
	d.templateOctets += t.octets()
}

// roomFor frees room for a template by forgetting exporters long silent.
func (d *Decoder) roomFor(octets int) bool {
	for d.templateOctets+octets > d.opt.Limits.TemplateOctets {
		if oldest := d.lru.newer; oldest == d.msg.s || !d.makeRoom() {
			return false
		}
	}
	return true
}

// drop forgets a template of the message's session.
func (d *Decoder) drop(id uint16) *Template {
	s := d.msg.s
	old := s.templates[id]
	if old == nil {
		return nil
	}
	s.octets -= old.octets()
	d.templateOctets -= old.octets()
	delete(s.templates, id)
	return old.Template
}

// withdraw forgets one template, or all of a kind (RFC 7011 section 8.1). Over
// UDP it is ignored: anyone could send it, and the RFC forbids it there.
func (d *Decoder) withdraw(id uint16, options bool, at int) {
	s := d.msg.s
	if !s.key.reliable {
		d.refuse(WithdrawalOverUDP, 4, at, "template withdrawal", ErrReserved)
		return
	}
	d.msg.Templates++
	for have, t := range s.templates {
		if t.opts == options && (have == id || id < firstData) {
			d.drop(have)
			d.msg.b.Templates = append(d.msg.b.Templates, TemplateEvent{
				Source: d.ctx.src, Version: d.ctx.version,
				Domain: s.key.domain, Action: Withdrawn, Template: t.Template,
			})
		}
	}
}

// Value gives the octets of field i in a record's; nil if the record is not of
// the template.
func (t *Template) Value(record []byte, i int) []byte {
	spans := make([]span, len(t.Fields))
	if size, ok := t.plan.walk(spans, record); !ok || size > len(record) {
		return nil
	}
	return record[spans[i].off : spans[i].off+spans[i].n]
}
