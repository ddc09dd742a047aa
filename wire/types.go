package wire

import (
	"cmp"
	"slices"

	"weir/ie"
)

// Type information (RFC 5610): an exporter describes its own elements in options
// records, and what came as pen4711.9 has a name, a type and a unit from then on.
// What the registry or vendors.go knows stays as it is there: nobody outside
// decides what octetDeltaCount means.

type typeKey struct {
	pen uint32
	id  uint16
}

func (k typeKey) compare(o typeKey) int {
	return cmp.Or(cmp.Compare(k.pen, o.pen), cmp.Compare(k.id, o.id))
}

const (
	maxTypeName = 128 // octets
	typeCost    = 160 // of a type, beside its name, about
	maxRetyped  = 16  // templates compiled again for one message; further ones wait for the next
)

// element finds what a field specifier names: known to all, or as s was told.
func (s *session) element(pen uint32, id uint16) (ie.Element, bool) {
	e, ok := ie.Lookup(pen, id)
	if !ok && s != nil {
		e, ok = s.types[typeKey{pen, id}]
	}
	return e, ok
}

// typesOf gives the session whose types count for s: its own, or, if it was told
// of none, those announced in domain 0, which is the whole exporter.
func (d *Decoder) typesOf(s *session) *session {
	if len(s.types) > 0 || !d.wideTypes {
		return s
	}
	return d.wholeExporter(s)
}

// typeInfo gathers a record of type information.
type typeInfo struct {
	ie.Element
	hasID, hasType, hasPEN bool
}

// take notes one field; false if it is none of a type's.
func (t *typeInfo) take(id uint16, v []byte) bool {
	n, ok := uintOf(v)
	switch id {
	case ie.IDPrivateEnterpriseNumber:
		t.PEN, t.hasPEN = uint32(n), ok && n <= 1<<32-1
	case ie.IDInformationElementId:
		t.ID, t.hasID = uint16(n)&0x7fff, ok && n <= 1<<16-1
	case ie.IDInformationElementDataType:
		t.Type, t.hasType = ie.Type(n), ok && n <= uint64(ie.Unsigned256)
	case ie.IDInformationElementSemantics:
		if n <= uint64(ie.SNMPGauge) {
			t.Semantics = ie.Semantics(n)
		}
	case ie.IDInformationElementUnits:
		if n <= 1<<16-1 {
			t.Units = ie.UnitsName(uint16(n))
		}
	case ie.IDInformationElementName:
		t.Name = string(text(v))
	default:
		return false
	}
	return true
}

// learnType keeps a described element, if it is one that needs a description.
func (d *Decoder) learnType(t typeInfo, octets, at int) {
	s := d.msg.s
	if !t.hasPEN || !t.hasID || !t.hasType {
		return // an options record about other things
	}
	e, k := t.Element, typeKey{t.PEN, t.ID}
	if _, known := ie.Lookup(e.PEN, e.ID); known || e.PEN == ie.Reverse || e.Type > ie.Unsigned256 {
		return
	}
	if !validTypeName(e.Name) {
		if e.Name != "" {
			d.refuse(BadOptions, octets, at, "information element name", ErrReserved)
		}
		e.Name = "" // the number will do
	}
	have, found := s.types[k]
	if have == e {
		return
	}
	cost := typeCost + len(e.Name)
	if found {
		cost -= typeCost + len(have.Name)
	}
	if !found && len(s.types) >= d.opt.Limits.Types || cost > 0 && !d.roomFor(cost) {
		d.refuse(TypeLimit, octets, at, "information element type", ErrLimit)
		return
	}
	if s.types == nil {
		s.types = map[typeKey]ie.Element{}
	}
	s.types[k] = e
	s.octets += cost
	d.templateOctets += cost
	s.typed++
	d.wideTypes = d.wideTypes || s.key.domain == 0
}

// validTypeName says whether a name from outside may stand beside those that are
// known: of letters, digits and a few signs, and no other element's.
func validTypeName(name string) bool {
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.', c == ':', c == '/':
		default:
			return false
		}
	}
	_, taken := ie.ByName(name)
	return name != "" && len(name) <= maxTypeName && !taken
}

// current gives the template with the types that are known now: what was told
// after the template came counts too.
func (d *Decoder) current(k *known) *Template {
	by := d.typesOf(d.msg.s)
	if k.typed == by.typed && k.typedBy == by || d.msg.retyped >= maxRetyped {
		return k.Template
	}
	k.typed, k.typedBy = by.typed, by
	t := *k.Template
	t.types = by
	t.Fields = slices.Clone(t.Fields)
	changed := false
	for i, f := range t.Fields {
		if i < t.Scope && t.v9 {
			continue
		}
		if _, known := ie.Lookup(f.PEN, f.ID); known {
			continue
		}
		t.Fields[i].Name = t.nameOf(i)
		e, _ := lookup(&t, i)
		changed = changed || t.Fields[i].Name != f.Name || e.Type != k.plan.specs[i].typ
	}
	if changed {
		d.msg.retyped++
		t.compile(d.opt.SplitBiflows)
		k.Template = &t
	}
	return k.Template
}

// wholeExporter is the session of s's exporter in domain 0; s if there is none.
func (d *Decoder) wholeExporter(s *session) *session {
	k := s.key
	k.domain = 0
	if whole := d.sessions[k]; whole != nil {
		return whole
	}
	return s
}
