package wire

import (
	"slices"

	"weir/flow"
)

// v9 reads an export packet (RFC 3954 section 5.1), 20 octets of header:
//
//	version 2, count 2, sysUptime 4, unix seconds 4, sequence 4, source ID 4
//
// The count is not relied on: exporters put less than what follows.
func (d *Decoder) v9(msg []byte) {
	if len(msg) < 20 {
		d.refuse(ShortMessage, len(msg), len(msg), "packet header", ErrShort)
		return
	}
	d.msg.Count = be.Uint16(msg[2:])
	p := pulse{uptime: be.Uint32(msg[4:]), exported: be.Uint32(msg[8:]), up: true}
	seq := be.Uint32(msg[12:])
	d.header(flow.VersionV9, be.Uint32(msg[16:]), seq, p, int64(p.exported)*1000)
	if d.msg.s == nil {
		return
	}
	d.sets(msg, 20)
	d.msg.s.seq.observe(raw{seq: seq, data: 1, certain: true}, p, d.ctx.received)
}

// ipfix reads a message (RFC 7011 section 3.1), 16 octets of header:
//
//	version 2, length 2, export seconds 4, sequence 4, observation domain ID 4
func (d *Decoder) ipfix(msg []byte) {
	if len(msg) < 16 {
		d.refuse(ShortMessage, len(msg), len(msg), "message header", ErrShort)
		return
	}
	n := int(be.Uint16(msg[2:]))
	d.msg.Count = uint16(n)
	p := pulse{exported: be.Uint32(msg[4:])}
	seq := be.Uint32(msg[8:])
	d.header(flow.VersionIPFIX, be.Uint32(msg[12:]), seq, p, int64(p.exported)*1000)
	if d.msg.s == nil {
		return
	}
	certain := n == len(msg)
	if !certain {
		d.refuse(MessageLength, int(abs(int64(len(msg)-n))), 2, "message length", ErrLength)
	}
	if n >= 16 && n < len(msg) {
		msg = msg[:n]
	}
	refused := d.msg.Refused
	d.sets(msg, 16)
	certain = certain && d.msg.Waiting == 0 && d.msg.Refused == refused
	d.msg.s.seq.observe(raw{seq, uint32(d.msg.Records), uint32(d.msg.Options), certain}, p, d.ctx.received)
}

// sets walks over the sets of a v9 or IPFIX message from off to its end.
func (d *Decoder) sets(msg []byte, off int) {
	v9 := d.ctx.version == flow.VersionV9
	for off < len(msg) {
		rest := msg[off:]
		if len(rest) < 4 {
			if !zeros(rest) {
				d.refuse(SetLength, len(rest), off, "set header", ErrShort)
			}
			return
		}
		id, n := be.Uint16(rest), int(be.Uint16(rest[2:]))
		if n < 4 || n > len(rest) {
			if id == 0 && n == 0 && zeros(rest) {
				return // padding
			}
			d.refuse(SetLength, len(rest), off+2, "set length", ErrLength)
			return
		}
		body := rest[4:n]
		d.msg.Sets++
		switch {
		case v9 && id == setV9Templates, !v9 && id == setIPFIXTemplates:
			d.templateSet(body, off+4, false)
		case v9 && id == setV9Options, !v9 && id == setIPFIXOptions:
			d.templateSet(body, off+4, true)
		case id < firstData:
			d.refuse(ReservedSet, n, off, "set ID", ErrReserved)
		default:
			if t := d.msg.s.templates[id]; t != nil {
				d.data(d.current(t), body, off+4)
			} else {
				d.msg.Waiting++
				d.wait(id, body)
			}
		}
		off += n // at least 4
	}
}

// data reads the records of a data set; at is where body begins.
func (d *Decoder) data(t *Template, body []byte, at int) {
	switch {
	case t.opts:
		d.optionsData(t, body, at)
	case t.plan.variable:
		d.variableData(t, body, at)
	default:
		d.fixedData(t, body, at)
	}
	if len(d.reversed) > 0 {
		d.giveReversed()
	}
}

// room is how many of n records the message may still have.
func (d *Decoder) room(n, size, at int) int {
	if left := d.opt.Limits.MessageRecords - d.msg.Records - d.msg.Released; n > left {
		d.refuseRecords(n-left, (n-left)*size, at)
		return max(left, 0)
	}
	return n
}

func (d *Decoder) refuseRecords(n, octets, at int) {
	d.refuse(RecordLimit, octets, at, "data records", ErrLimit)
	d.lost[RecordLimit].records += uint64(n)
	d.msg.s.lost[RecordLimit].records += uint64(n)
}

// fixedData reads records of one length. What is left over is padding.
func (d *Decoder) fixedData(t *Template, body []byte, at int) {
	p, c, b, s := t.plan, &d.ctx, d.msg.b, d.samplers(d.msg.s)
	if len(body) < p.length {
		if !zeros(body) {
			d.refuse(RecordOverrun, len(body), at, "data record", ErrShort)
		}
		return
	}
	n := d.room(len(body)/p.length, p.length, at)
	d.msg.Records += n
	c.prepare(p, s)
	first := len(b.Records)
	b.Records = slices.Grow(b.Records, n)[:first+n]
	recs := b.Records[first:]
	slow := p.finish&^finishElements != 0 || c.shift != 0 || s.perPort || t.reverse != nil
	c.begin()
	for i := range recs {
		r, rec := &recs[i], body[i*p.length:(i+1)*p.length]
		if d.opt.OnRecord != nil {
			d.raw(t, rec)
		}
		*r = c.proto
		if !slow {
			c.left = 0
			c.move(r, p.moves, rec)
			if c.left == 0 {
				if !c.end(r, 0) {
					d.msg.s.n.clamped++
				}
				if p.finish != 0 {
					d.element(r, p, rec, nil)
				}
				continue
			}
		} else {
			c.begin()
			c.move(r, p.moves, rec)
		}
		d.finish(r, t, rec, nil, s)
		if t.reverse != nil {
			d.reverseOf(t.reverse, rec, nil, s)
		}
	}
}

// variableData reads records that bring lengths of their own.
func (d *Decoder) variableData(t *Template, body []byte, at int) {
	p, c, b, s := t.plan, &d.ctx, d.msg.b, d.samplers(d.msg.s)
	spans := d.grow(len(p.specs))
	c.prepare(p, s)
	for len(body) >= p.length {
		if len(body) < 4 && zeros(body) {
			return // padding, though records could be as short
		}
		size, ok := p.walk(spans, body)
		if !ok {
			d.refuse(RecordOverrun, len(body), at, "variable-length value", ErrLength)
			return
		}
		if d.room(1, size, at) == 0 {
			return
		}
		rec := body[:size]
		if d.opt.OnRecord != nil {
			d.raw(t, rec)
		}
		d.msg.Records++
		b.Records = append(b.Records, c.proto)
		c.begin()
		r := &b.Records[len(b.Records)-1]
		c.move(r, d.place(p, spans), rec)
		d.finish(r, t, rec, spans, s)
		if t.reverse != nil {
			d.reverseOf(t.reverse, rec, spans, s)
		}
		body = body[size:] // size >= p.length >= 1
		at += size
	}
}

// place gives p's moves the places that a record's values have.
func (d *Decoder) place(p *plan, spans []span) []move {
	moves := d.moves[:0]
	for _, m := range p.moves {
		sp := spans[m.field]
		if sp.n == 0 {
			continue
		}
		m.off, m.n = uint16(sp.off), uint16(sp.n)
		moves = append(moves, m)
	}
	d.moves = moves
	return moves
}

func (d *Decoder) grow(n int) []span {
	if cap(d.spans) < n {
		d.spans = make([]span, n)
	}
	return d.spans[:n]
}

func (d *Decoder) raw(t *Template, rec []byte) {
	d.opt.OnRecord(RawRecord{
		Source: d.ctx.src, Version: d.ctx.version, Domain: d.msg.Domain, Template: t,
		Waited: d.ctx.waited, Data: rec,
	})
}

// prepare makes what records of a set have in common.
func (c *context) prepare(p *plan, s *session) {
	c.proto = p.base
	c.proto.Version, c.proto.Domain = c.common.Version, c.common.Domain
	c.proto.Exporter, c.proto.Received = c.common.Exporter, c.received
	c.proto.Has |= c.common.Has
	if s.rate != 0 {
		c.proto.Sampling = s.rate
		c.proto.Has |= flow.HasSampling
	}
}

// finish does what comes after a record's moves; smp has the samplers.
func (d *Decoder) finish(r *flow.Record, t *Template, rec []byte, spans []span, smp *session) {
	c, p := &d.ctx, t.plan
	if p.finish&finishSampling != 0 || smp.perPort {
		c.endSampling(r, smp)
	}
	if !c.end(r, p.finish) {
		d.msg.s.n.clamped++
	}
	if len(p.all) > 0 {
		d.element(r, p, rec, spans)
	}
}

// element keeps what no column took.
func (d *Decoder) element(r *flow.Record, p *plan, rec []byte, spans []span) {
	s, b := d.msg.s, d.msg.b
	if d.budget(b.arena) {
		d.refuse(ElementLimit, 0, 0, "elements", ErrLimit)
		return
	}
	start := len(b.arena)
	if p.plain != nil && d.ctx.left == 0 && spans == nil {
		b.arena = closed(p.plain.write(b.arena, rec), start)
	} else {
		b.arena = d.appendElements(b.arena, p, spans, rec, d.ctx.left, s)
	}
	if i := p.application; i >= 0 && s.applications != nil {
		sp := span{int(p.specs[i].off), int(p.specs[i].n)}
		if spans != nil {
			sp = spans[i]
		}
		b.arena = s.nameApplication(b.arena, start, rec[sp.off:sp.off+sp.n])
	}
	if len(b.arena) > start {
		r.Elements = b.arena[start:len(b.arena):len(b.arena)]
	}
}
