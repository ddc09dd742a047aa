package wire

import (
	"math"

	"weir/flow"
	"weir/ie"
)

// sampler is a sampling rate that options data announced.
type sampler struct {
	id    uint32 // IE 48 or 302
	ifx   uint32 // the interface it is for; 0: any
	rate  uint32
	named bool // id was there
}

// statistics are what exporters count of themselves (RFC 7011 section 4).
var statistics = map[uint16]bool{
	ie.IDExportedOctetTotalCount: true, ie.IDExportedMessageTotalCount: true, ie.IDExportedFlowRecordTotalCount: true,
	ie.IDObservedFlowTotalCount: true, ie.IDIgnoredPacketTotalCount: true, ie.IDIgnoredOctetTotalCount: true,
	ie.IDNotSentFlowTotalCount: true, ie.IDNotSentPacketTotalCount: true, ie.IDNotSentOctetTotalCount: true,
}

// optionsData reads options data records: into the batch as JSON, and into the
// session what later records need.
func (d *Decoder) optionsData(t *Template, body []byte, at int) {
	p, b, s := t.plan, d.msg.b, d.msg.s
	spans := d.grow(len(p.specs))
	if len(body) < p.length && !zeros(body) {
		d.refuse(RecordOverrun, len(body), at, "options data record", ErrShort)
	}
	for len(body) >= p.length {
		if p.variable && len(body) < 4 && zeros(body) {
			return
		}
		size, ok := p.walk(spans, body)
		if !ok {
			d.refuse(RecordOverrun, len(body), at, "variable-length value", ErrLength)
			return
		}
		if d.msg.Options >= d.opt.Limits.MessageRecords {
			d.refuseRecords(1, len(body), at)
			return
		}
		rec := body[:size]
		if d.opt.OnRecord != nil {
			d.raw(t, rec)
		}
		d.msg.Options++
		d.learn(t, rec, spans, at)
		if d.budget(b.arena) {
			d.refuse(ElementLimit, 0, at, "options", ErrLimit)
		} else {
			o := OptionsRecord{Source: d.ctx.src, Version: d.ctx.version, Domain: s.key.domain, Template: t.ID, Received: d.ctx.received}
			start := len(b.arena)
			b.arena = d.appendFields(b.arena, t, 0, t.Scope, spans, rec, s, 0)
			middle := len(b.arena)
			b.arena = d.appendFields(b.arena, t, t.Scope, len(t.Fields), spans, rec, s, 0)
			o.Scope = b.arena[start:middle:middle]
			o.Fields = b.arena[middle:len(b.arena):len(b.arena)]
			b.Options = append(b.Options, o)
		}
		body = body[size:] // size >= p.length >= 1
		at += size
	}
}

// learn takes from an options record what helps with later records: sampling,
// interface names, the exporter's start, what it counts of itself.
func (d *Decoder) learn(t *Template, rec []byte, spans []span, at int) {
	s := d.msg.s
	var (
		smp                    sampling
		old, random            uint64 // IE 34, 50
		ifx                    uint64
		nm                     name
		typ                    typeInfo
		application, called    []byte // number and name
		hasIf, hasName, wanted bool
	)
	for i, f := range t.Fields {
		v := rec[spans[i].off : spans[i].off+spans[i].n]
		if f.PEN != 0 {
			continue
		}
		n, isInt := uintOf(v)
		if i < t.Scope && t.v9 {
			if f.ID == 2 && isInt { // interface
				ifx, hasIf = n, true
			}
			continue
		}
		switch f.ID {
		case ie.IDIngressInterface, ie.IDEgressInterface:
			if isInt && (i < t.Scope || !hasIf) {
				ifx, hasIf = n, true
			}
		case ie.IDInterfaceName:
			nm.name, hasName = string(text(v)), true
		case ie.IDInterfaceDescription:
			nm.description, hasName = string(text(v)), true
		case ie.IDApplicationId:
			application = v
		case ie.IDApplicationName:
			called = v
		case ie.IDSamplerId, ie.IDSelectorId:
			if isInt && n <= math.MaxUint32 {
				smp.sampler, smp.named = uint32(n), true
			}
		case ie.IDSamplingInterval:
			old, wanted = n, true
		case ie.IDSamplerRandomInterval:
			random, wanted = n, true
		case ie.IDSamplingPacketInterval:
			smp.interval, wanted = n, true
		case ie.IDSamplingPacketSpace:
			smp.space, smp.hasSpace = n, true
		case ie.IDSamplingSize:
			smp.n, wanted = n, true
		case ie.IDSamplingPopulation:
			smp.of, wanted = n, true
		case ie.IDSamplingProbability:
			smp.p, _ = floatOf(v)
			wanted = true
		case ie.IDSystemInitTimeMilliseconds:
			if t, ok := absolute(ie.DateTimeMilliseconds, v); ok && t > 0 {
				s.init = t / 1e6
				s.started = s.init
				if d.ctx.version == flow.VersionIPFIX { // for the rest of this message
					d.ctx.uptime, d.ctx.up = uint32(d.ctx.exported/1e6-s.init), true
				}
			}
		default:
			if typ.take(f.ID, v) {
				continue
			}
			if statistics[f.ID] && isInt {
				if s.stats == nil {
					s.stats = map[uint16]uint64{}
				}
				s.stats[f.ID] = n
			}
		}
	}
	if hasIf && ifx > math.MaxUint32 || smp.interval > math.MaxUint32 || smp.space > math.MaxUint32 ||
		smp.n > math.MaxUint32 || smp.of > math.MaxUint32 {
		d.refuse(BadOptions, len(rec), at, "options data record", ErrLength)
		return
	}
	d.learnType(typ, len(rec), at)
	if len(application) > 0 {
		d.learnApplication(application, called, at)
	}
	if hasName && hasIf {
		d.learnName(uint32(ifx), nm, at)
	}
	if wanted {
		r, ok := smp.rate()
		for _, v := range []uint64{random, old} {
			if !ok {
				r, ok = rate(v)
			}
		}
		if !ok {
			// 0 is how exporters say that they do not sample: no rate is known.
			if old|random|smp.interval|smp.n|smp.of != 0 {
				d.refuse(BadOptions, len(rec), at, "sampling interval", ErrLength)
			}
			return
		}
		d.wide = d.wide || s.key.domain == 0
		s.learnSampler(sampler{id: smp.sampler, named: smp.named, ifx: uint32(ifx), rate: r}, d.opt.Limits.Samplers)
	}
}

func (d *Decoder) learnName(ifx uint32, nm name, at int) {
	s := d.msg.s
	if s.interfaces == nil {
		s.interfaces = map[uint32]name{}
	}
	have, known := s.interfaces[ifx]
	if !known && len(s.interfaces) >= d.opt.Limits.Interfaces {
		d.refuse(BadOptions, 0, at, "interface name", ErrLimit)
		return
	}
	if nm.name == "" {
		nm.name = have.name
	}
	if nm.description == "" {
		nm.description = have.description
	}
	s.interfaces[ifx] = nm
}

// learnSampler takes a rate in and works out the session's default: the rate
// announced for no sampler and no interface, else the only one there is.
func (s *session) learnSampler(n sampler, limit int) {
	found := false
	for i := range s.samplers {
		o := &s.samplers[i]
		if o.id == n.id && o.named == n.named && o.ifx == n.ifx {
			o.rate, found = n.rate, true
		}
	}
	if !found {
		if len(s.samplers) >= limit {
			return
		}
		s.samplers = append(s.samplers, n)
	}
	s.rate, s.perPort = 0, false
	for _, o := range s.samplers {
		s.perPort = s.perPort || o.ifx != 0
		if !o.named && o.ifx == 0 {
			s.rate = o.rate
		}
	}
	if s.rate == 0 && len(s.samplers) == 1 {
		s.rate = s.samplers[0].rate
	}
}

// endSampling finds a record's sampling rate: what it says itself, else what
// its sampler, its interface or its domain was announced to have.
func (c *context) endSampling(r *flow.Record, s *session) {
	if v, ok := c.sampling.rate(); ok {
		r.Sampling = v
		r.Has |= flow.HasSampling
		return
	}
	if c.sampled {
		return // IE 34 or 50 in the record itself
	}
	for _, o := range s.samplers {
		byID := c.sampling.named && o.named && o.id == c.sampling.sampler
		byPort := o.ifx != 0 && r.Has&flow.HasInput != 0 && o.ifx == r.Input
		if byID && (o.ifx == 0 || byPort) || byPort && !o.named {
			r.Sampling = o.rate
			r.Has |= flow.HasSampling
			return
		}
	}
}

// samplers gives the session whose samplers count for s: its own, or, if it
// was told of none, those announced in domain 0, which is the whole exporter.
func (d *Decoder) samplers(s *session) *session {
	if len(s.samplers) > 0 || s.key.domain == 0 || !d.wide {
		return s
	}
	return d.wholeExporter(s)
}
