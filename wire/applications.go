package wire

import (
	"weir/ie"
)

// Applications (RFC 6759; Cisco's NBAR): records have a number, and an options
// record tells which name it has. A record whose exporter told gets the name as
// applicationName, unless it brings one itself.

const (
	maxApplicationName = 64 // octets
	applicationCost    = 96 // of an application, beside its name, about
)

// learnApplication keeps a name.
func (d *Decoder) learnApplication(id, value []byte, at int) {
	s := d.msg.s
	name := text(value)
	name = name[:min(len(name), maxApplicationName)]
	have, known := s.applications[string(id)]
	if len(name) == 0 || len(id) > 16 || known && have == string(name) {
		return
	}
	cost := len(name) - len(have)
	if !known {
		cost += applicationCost
	}
	if !known && len(s.applications) >= d.opt.Limits.Applications || cost > 0 && !d.roomFor(cost) {
		d.refuse(BadOptions, len(value), at, "application name", ErrLimit)
		return
	}
	if s.applications == nil {
		s.applications = map[string]string{}
	}
	s.applications[string(id)] = string(name)
	s.octets += cost
	d.templateOctets += cost
}

// applicationField is which field of t is an application's number without a name
// beside it, -1 if there is none.
func (t *Template) applicationField() int {
	at := -1
	for i, f := range t.Fields {
		if f.PEN != 0 || i < t.Scope {
			continue
		}
		switch f.ID {
		case ie.IDApplicationId:
			at = i
		case ie.IDApplicationName:
			return -1
		}
	}
	return at
}

// nameApplication adds the name of the record's application to the elements that
// begin at start of dst.
func (s *session) nameApplication(dst []byte, start int, id []byte) []byte {
	name, ok := s.applications[string(id)]
	if !ok {
		return dst
	}
	if len(dst) == start {
		dst = append(dst, '{')
	} else {
		dst[len(dst)-1] = ','
	}
	dst = append(dst, `"applicationName":`...)
	return append(appendString(dst, []byte(name)), '}')
}
