package export

import (
	"math"

	"weir/flow"
	"weir/wire"
)

// maxParts bounds into how many v5 records one flow may be split: 17 TB.
const maxParts = 4096

// addFixed gives one record to a v1, v5, v7 or v8 stream.
func (s *stream) addFixed(r *flow.Record) {
	if wire.IPv6(r) {
		s.lose(v5IPv6, r)
		return
	}
	parts := wire.Parts(r.Packets, r.Bytes)
	if parts > maxParts {
		s.lose(v5Counter, r)
		return
	}
	if r.Last-r.First > wire.MaxSpan/2 {
		s.mended = *r
		r = &s.mended
		r.First = r.Last - wire.MaxSpan/2 // all that 32 bits of ms can say
	}
	o := &s.fixed
	if field, _ := wire.SamplingV5(s.sampling.rateOf(r), s.random); field != o.field {
		s.emitFixed() // the rate stands in the header
		o.field = field
	}
	s.place(r.First, r.Last)
	for i := range parts {
		if len(o.each) >= s.mostFixed() {
			s.emitFixed()
		}
		packets, octets := wire.Part(r.Packets, i, parts), wire.Part(r.Bytes, i, parts)
		switch s.version {
		case flow.VersionV1:
			o.body = wire.AppendRecordV1(o.body, r, packets, octets, s.boot)
		case flow.VersionV5:
			o.body = wire.AppendRecordV5(o.body, r, packets, octets, s.boot)
		case flow.VersionV7:
			o.body = wire.AppendRecordV7(o.body, r, packets, octets, s.boot)
		case flow.VersionV8:
			a := wire.AggregateV8{Packets: packets, Octets: octets}
			if i == 0 {
				a.Flows = flowsOf(r)
			}
			o.body = wire.AppendRecordV8(o.body, s.v8, r, a, s.boot)
		}
		one := sum{wire: 1, packets: uint64(packets), octets: uint64(octets)}
		if i == 0 {
			one.records = 1
		}
		s.put(o, r.Last, one)
	}
}

// flowsOf is how many flows were merged into r, as far as v8 can say it.
func flowsOf(r *flow.Record) uint32 {
	if r.Has&flow.HasFlows == 0 {
		return 1
	}
	return uint32(min(r.Flows, math.MaxUint32))
}

// mostFixed is how many records a datagram may hold.
func (s *stream) mostFixed() int {
	custom := wire.MaxRecordsV5
	switch s.version {
	case flow.VersionV1:
		custom = wire.MaxRecordsV1
	case flow.VersionV7:
		custom = wire.MaxRecordsV7
	case flow.VersionV8:
		custom = s.v8.Scheme.MaxRecords()
	}
	return min(custom, (s.payload-s.header())/s.fixed.size)
}

// emitFixed sends what waits.
func (s *stream) emitFixed() {
	o := &s.fixed
	for len(o.each) > 0 {
		n := min(len(o.each), s.mostFixed())
		g := s.blank()
		g.b = append(g.b, o.body[:n*o.size]...)
		g.count, g.data = n, n
		for _, e := range o.each[:n] {
			g.sum.add(e)
		}
		g.last = o.last
		s.take(o, n)
		s.finish(g)
	}
}
