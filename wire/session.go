package wire

import (
	"cmp"
	"slices"
	"time"

	"weir/flow"
	"weir/ie"
)

// A session is one exporter's observation domain: the scope of template
// numbers, sequence numbers and sampling.
//
// RFC 7011 makes the source port part of it: two exporters on one host, or
// behind one address, may both use domain 0 and template 256 for different
// things. Yet a port may change under way, when a translator on the path forgets
// the old one. So a datagram from a new port takes over the session whose
// sequence it continues, and is of a new session otherwise.
type session struct {
	key       sessionKey
	port      uint16
	sibling   *session // same key, other port
	newer     *session // ring of all sessions, by the time of the latest message
	older     *session
	templates map[uint16]*known
	types     map[typeKey]ie.Element // as the exporter described them
	typed     uint32                 // how often types changed
	octets    int                    // of templates, types and applications, about

	waiting       []waiting
	waitingOctets int

	seq  sequence
	init int64 // Unix ms when the exporter started, as it announced (IE 160); 0: unknown

	samplers   []sampler
	rate       uint32 // for records that name no sampler; 0: unknown
	perPort    bool   // some sampler is an interface's
	interfaces map[uint32]name

	applications map[string]string // names by the octets of their number
	stats        map[uint16]uint64 // what the exporter counts of itself, by element

	first, last int64
	skew        int64
	started     int64 // Unix ms, by uptime; 0: unknown
	n           tallies
	lost        Counts
}

type sessionKey struct {
	addr     flow.Addr
	domain   uint32
	version  uint8
	reliable bool
}

// known is a template and when it was last sent.
type known struct {
	*Template
	seen    int64
	typed   uint32   // which state of types it is compiled with,
	typedBy *session // and whose; nil: none
}

type name struct{ name, description string }

type tallies struct {
	datagrams, octets, sets, records, options, templates, redefined, clamped uint64
}

func (s *session) counts() *Counts {
	if s == nil {
		return nil
	}
	return &s.lost
}

// note adds a message to the session's counters.
func (s *session) note(m *Message, received int64, octets int) {
	if s.first == 0 {
		s.first = received
	}
	s.last, s.skew = received, m.Exported-received
	if m.Uptime != 0 {
		s.started = m.Exported/1e6 - int64(m.Uptime)
	}
	s.n.datagrams++
	s.n.octets += uint64(octets)
	s.n.sets += uint64(m.Sets)
	s.n.records += uint64(m.Records + m.Released + m.Reversed)
	s.n.options += uint64(m.Options)
	s.n.templates += uint64(m.Templates)
}

// Ports that one address and domain may be heard from at once, and how long a
// session must have been silent to make room for another.
const (
	maxPorts = 64
	idle     = int64(time.Minute)
)

// session finds or makes the session of a message. It is nil, and that was
// counted, if there is no room; v1 to v8 need none to be read.
func (d *Decoder) session(k sessionKey, sequence uint32, p pulse) *session {
	port := d.ctx.src.Port
	if s := d.latest; s != nil && s.key == k && s.port == port {
		return s
	}
	head := d.sessions[k]
	n := 0
	for s := head; s != nil; s = s.sibling {
		if s.port == port || k.version == flow.VersionV1 {
			d.touch(s)
			return s
		}
		n++
	}
	slack := uint32(16) // datagrams
	if k.version != flow.VersionV9 {
		slack = 1000 // records
	}
	for s := head; s != nil && !k.reliable; s = s.sibling {
		if s.seq.goesOn(sequence, p, slack) {
			s.port = port
			d.touch(s)
			return s
		}
	}
	if n >= maxPorts {
		d.forget(d.oldestOf(head))
	} else if d.count >= d.opt.Limits.Sessions && !d.makeRoom() {
		d.refuse(ExporterLimit, d.ctx.size, 0, "exporter", ErrLimit)
		return nil
	}
	return d.add(k, port)
}

func (d *Decoder) add(k sessionKey, port uint16) *session {
	s := &session{key: k, port: port, sibling: d.sessions[k], templates: map[uint16]*known{}}
	s.newer, s.older = s, s
	d.sessions[k] = s
	d.count++
	d.touch(s)
	return s
}

// touch makes s the latest heard of.
func (d *Decoder) touch(s *session) {
	s.newer.older, s.older.newer = s.older, s.newer
	s.older, s.newer = d.lru.older, &d.lru
	s.older.newer, s.newer.older = s, s
	d.latest = s
}

func (d *Decoder) oldestOf(head *session) *session {
	old := head
	for s := head; s != nil; s = s.sibling {
		if s.last < old.last {
			old = s
		}
	}
	return old
}

// makeRoom forgets the session that was silent longest, if that is long enough.
func (d *Decoder) makeRoom() bool {
	s := d.lru.newer
	if s == &d.lru || d.ctx.received-s.last < idle {
		return false
	}
	d.forget(s)
	return true
}

// forget drops a session with all it holds.
func (d *Decoder) forget(s *session) {
	d.dropWaiting(s, len(s.waiting))
	d.templateOctets -= s.octets
	s.seq.giveUp(len(s.seq.holes))
	if s.key.version == flow.VersionV9 {
		d.gone.datagrams.Add(s.seq.info)
	} else {
		d.gone.records.Add(s.seq.info)
	}
	s.newer.older, s.older.newer = s.older, s.newer
	if d.latest == s {
		d.latest = nil
	}
	d.count--
	head := d.sessions[s.key]
	if head == s {
		if s.sibling == nil {
			delete(d.sessions, s.key)
		} else {
			d.sessions[s.key] = s.sibling
		}
		return
	}
	for p := head; p != nil; p = p.sibling {
		if p.sibling == s {
			p.sibling = s.sibling
			return
		}
	}
}

// Close ends the sessions of a TCP connection: their templates end with it
// (RFC 7011 section 8.4).
func (d *Decoder) Close(src Source) {
	for s := range d.each {
		if s.key.reliable && s.key.addr == src.Addr && s.port == src.Port {
			d.forget(s)
		}
	}
}

// each walks over all sessions, the latest heard of first; the one at hand may
// be forgotten.
func (d *Decoder) each(yield func(*session) bool) {
	for s := d.lru.older; s != &d.lru; {
		next := s.older
		if !yield(s) {
			return
		}
		s = next
	}
}

// sorted is all sessions by address, domain, version, port.
func (d *Decoder) sorted() []*session {
	all := slices.Collect(d.each)
	slices.SortFunc(all, func(a, b *session) int {
		return cmp.Or(a.key.addr.Netip().Compare(b.key.addr.Netip()), cmp.Compare(a.key.domain, b.key.domain),
			cmp.Compare(a.key.version, b.key.version), cmp.Compare(a.port, b.port))
	})
	return all
}
