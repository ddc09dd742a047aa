package export

import (
	"cmp"
	"slices"
	"time"

	"weir/flow"
	"weir/wire"
)

// datagram is one export message, ready to be sent.
type datagram struct {
	b    []byte
	seq  uint32 // as in its header
	next uint32 // the one after it
	sum  sum

	count     int   // v9: all records, those of templates too
	data      int   // data records, those of options too
	templates int   // template records
	options   int   // options data records
	last      int64 // Unix ns: the newest time in it

	// Of a session: the templates that its data sets need, where its end is in what
	// the link has written, and when it was written.
	uses []*definition
	end  uint64
	at   time.Time
}

// need notes a template of g's data.
func (g *datagram) need(d *definition) {
	if !slices.Contains(g.uses, d) {
		g.uses = append(g.uses, d)
	}
}

// sum is what the flow records of a datagram say together. A record that v5
// splits counts in the datagram of its first part.
type sum struct{ records, wire, packets, octets uint64 }

func (s *sum) add(o sum) {
	s.records += o.records
	s.wire += o.wire
	s.packets += o.packets
	s.octets += o.octets
}

func (s *sum) sub(o sum) {
	s.records -= o.records
	s.wire -= o.wire
	s.packets -= o.packets
	s.octets -= o.octets
}

// stream turns records into datagrams of one version for one destination and
// observation domain: it owns their templates, sequence numbers and clock.
// Records of one layout gather until they fill a datagram of their own, which
// spares set headers; what has waited too long goes out together.
type stream struct {
	version uint8
	domain  uint32
	preset  wire.Preset
	refresh uint64 // datagrams
	random  bool   // sampling by lot
	session bool   // messages go over a link, which tells the templates
	fields  wire.Fields
	v8      wire.FormV8 // of version 8
	follow  bool        // time is the records'
	payload int         // longest datagram, octets

	get  func() *datagram  // an empty datagram with room for payload octets
	free func(g *datagram) // takes back what get gave
	emit func(g *datagram) // takes g to be sent
	lose func(why reason, r *flow.Record)
	move func(boot int64) // sysUptime begins anew

	now    int64 // Unix ns of the wall clock, set by the caller before each use
	newest int64 // Unix ns: newest Last given
	stamp  int64 // Unix ns of the last header
	boot   int64 // Unix ns, whole seconds: sysUptime is 0

	seq   uint32
	built uint64 // datagrams

	open    map[wire.Shape]*open
	order   []*open // by template id
	hint    *open   // of the last record
	nextID  uint16
	pending int // records that wait in open
	fixed   open

	sampling    samplers
	announced   bool   // sampling and boot time were told
	announcedAt uint64 // built, then

	extra   func(*optionsWriter) // names and statistics
	preface func(g *datagram)    // of a session: g is what readers need before data; nil: more will come
	defs    map[*optionsTemplate]*definition
	rules   *rules // nil: records name none
	scratch []byte
	mended  flow.Record
}

// open gathers the records of one layout.
type open struct {
	layout *wire.Layout // nil: v1, v5, v7, v8
	size   int          // octets of a record
	body   []byte
	each   []sum
	last   int64 // newest Last among them
	used   uint64

	def    *definition // of a session
	sent   bool        // its template was sent
	sentAt uint64      // in the datagram of this number
	field  uint16      // v5: the header's sampling field
}

// maxLayouts bounds the templates alive at once; the one unused for longest
// gives way, and a new one has a new number.
const maxLayouts = 64

// gather is how many datagrams' worth of records may wait for a template that
// is due again: the more data follows it at once, the less it costs.
const gather = 8

func (s *stream) gather() int {
	if s.session {
		return 1
	}
	return gather
}

// Template numbers: options first, then data.
const firstLayoutID = 300

func (s *stream) header() int {
	switch s.version {
	case flow.VersionIPFIX:
		return wire.HeaderIPFIXLen
	case flow.VersionV9:
		return wire.HeaderV9Len
	case flow.VersionV1:
		return wire.HeaderV1Len
	case flow.VersionV8:
		return wire.HeaderV8Len
	}
	return wire.HeaderV5Len
}

// begin prepares s at the wall clock time now, with sysUptime counting from
// boot; should that be too long ago, as if the exporter had started lately.
func (s *stream) begin(now, boot int64) {
	s.now, s.boot = now, floorTo(boot, time.Second)
	if s.uptime() && !s.follow && now-s.boot >= wire.MaxSpan {
		s.boot = floorTo(now-slack, time.Second)
	}
	s.open = map[wire.Shape]*open{}
	s.nextID = firstLayoutID
	switch s.version {
	case flow.VersionV1:
		s.fixed.size = wire.RecordV1Len
	case flow.VersionV5:
		s.fixed.size = wire.RecordV5Len
	case flow.VersionV7:
		s.fixed.size = wire.RecordV7Len
	case flow.VersionV8:
		s.fixed.size = s.v8.Scheme.RecordLen()
	}
}

// templated says that the version has templates.
func (s *stream) templated() bool { return s.version >= flow.VersionV9 }

// uptime says that the version tells times in sysUptime.
func (s *stream) uptime() bool { return s.version != flow.VersionIPFIX }

// add gives one record. It may emit datagrams.
func (s *stream) add(r *flow.Record) {
	if r.Has&(flow.HasFirst|flow.HasLast) != flow.HasFirst|flow.HasLast || r.First > r.Last {
		s.mended = *r
		s.mend(&s.mended)
		r = &s.mended
	}
	s.newest = max(s.newest, r.Last)
	if !s.templated() {
		s.addFixed(r)
		return
	}
	sampler := uint8(0)
	if rate := s.sampling.rateOf(r); rate > 1 || s.sampling.any {
		sampler = s.sampler(rate)
	}
	shape := wire.ShapeOf(s.version, s.preset, r, sampler != 0)
	if s.fields.Chosen() {
		shape = s.fields.Of(shape)
	}
	o := s.hint
	if o == nil || o.layout.Shape != shape {
		if o = s.open[shape]; o == nil {
			o = s.create(shape)
		}
		s.hint = o
	}
	if s.version == flow.VersionV9 {
		s.place(r.First, r.Last)
	}
	if n := len(o.body) + o.size; n > s.room() && (n > s.gather()*s.room() || !s.due(o)) {
		for len(o.body)+o.size > s.room() {
			s.emitOpen(o)
		}
	}
	if s.rules != nil && r.Has&flow.HasRule != 0 {
		s.rules.name(r.Rule)
	}
	o.body = o.layout.Append(o.body, r, s.boot, sampler)
	packets, octets := r.Total()
	s.put(o, r.Last, sum{records: 1, wire: 1, packets: packets, octets: octets})
}

func (s *stream) put(o *open, last int64, one sum) {
	if len(o.each) == 0 || last > o.last {
		o.last = last
	}
	o.each = append(o.each, one)
	o.used = s.built
	s.pending++
}

// room is what the records of one set may take in a datagram of their own.
func (s *stream) room() int { return (s.payload - s.header() - wire.SetHeaderLen) &^ 3 }

// mend gives r times that can be sent: an unknown one is the other one, or now;
// an end before the start is the start.
func (s *stream) mend(r *flow.Record) {
	switch {
	case r.Has&flow.HasFirst == 0 && r.Has&flow.HasLast == 0:
		r.First, r.Last = s.clock(), s.clock()
	case r.Has&flow.HasFirst == 0:
		r.First = r.Last
	case r.Has&flow.HasLast == 0:
		r.Last = r.First
	}
	r.Last = max(r.First, r.Last)
}

// clock is the export time: the wall clock's, or the newest record's.
func (s *stream) clock() int64 {
	if s.follow {
		return cmp.Or(s.newest, s.now)
	}
	return s.now
}

// slack is how long before the oldest record seen sysUptime begins, so that
// older ones can still follow without another beginning.
const slack = int64(time.Hour)

// place makes sure that a record's times can be said in ms of sysUptime: not
// before boot, and with the export within wire.MaxSpan after it. Else sysUptime
// begins anew, as if the exporter had started then; what waits goes out before.
func (s *stream) place(first, last int64) {
	ref := max(s.clock(), last)
	if ref-first >= wire.MaxSpan/2 {
		ref = last // too old for now: its datagram will be dated by it
	}
	if first >= s.boot && ref-s.boot < wire.MaxSpan {
		return
	}
	s.flush()
	s.boot = floorTo(first-slack, time.Second)
	s.announced = false
	s.move(s.boot)
}

// date is the time for g's header: the clock's, yet never before a time in g,
// and where sysUptime counts not beyond its range.
func (s *stream) date(g *datagram) wire.Stamp {
	unit := time.Nanosecond
	switch s.version {
	case flow.VersionV9:
		unit = time.Second // the header has no fraction
	case flow.VersionV1, flow.VersionV5, flow.VersionV7, flow.VersionV8:
		unit = time.Millisecond
	}
	t := s.clock()
	if s.uptime() && t-s.boot >= wire.MaxSpan && g.last != 0 {
		t = g.last
	}
	if t = floorTo(t, unit); t < g.last {
		t = floorTo(g.last+int64(unit)-1, unit)
	}
	// Having been dated forward must not turn the next one back.
	if t < s.stamp && s.stamp-t <= 2*int64(time.Second) {
		t = s.stamp
	}
	s.stamp = t
	return wire.Stamp{Unix: t, Boot: s.boot}
}

// floorTo cuts t to whole units.
func floorTo(t int64, unit time.Duration) int64 {
	u := int64(unit)
	m := t % u
	if m < 0 {
		m += u
	}
	return t - m
}

// create makes room for a layout that was not there.
func (s *stream) create(shape wire.Shape) *open {
	if len(s.order) >= maxLayouts {
		i := 0
		for j, o := range s.order {
			if o.used < s.order[i].used {
				i = j
			}
		}
		o := s.order[i]
		for len(o.each) > 0 {
			s.emitOpen(o)
		}
		s.order = slices.Delete(s.order, i, i+1)
		delete(s.open, o.layout.Shape)
		s.hint = nil
	}
	for slices.ContainsFunc(s.order, func(o *open) bool { return o.layout.ID == s.nextID }) {
		s.nextID = nextID(s.nextID)
	}
	l := wire.NewLayout(s.version, shape, s.nextID)
	s.nextID = nextID(s.nextID)
	most := s.gather() * s.payload
	o := &open{layout: l, size: l.Size, body: make([]byte, 0, most), each: make([]sum, 0, most/l.Size+1), used: s.built}
	if s.session {
		o.def = &definition{l.ID, wire.TemplateSet(s.version), l.AppendTemplate(nil)}
	}
	s.open[shape] = o
	s.order = append(s.order, o)
	return o
}

func nextID(id uint16) uint16 {
	if id == 65535 {
		return firstLayoutID
	}
	return id + 1
}

// start begins a datagram, after the announcements that are due.
func (s *stream) start() *datagram {
	if s.templated() && (!s.announced || s.version == flow.VersionV9 && s.sampling.any && s.built-s.announcedAt >= s.refresh) {
		s.announce()
	}
	if s.rules.due() {
		w := optionsWriter{s: s}
		w.rules(s.rules)
		w.close()
	}
	return s.blank()
}

// blank is a datagram with nothing but room for its header.
func (s *stream) blank() *datagram {
	g := s.get()
	*g = datagram{b: g.b[:s.header()], uses: g.uses[:0]}
	return g
}

// finish writes g's header and emits it. The sequence number is that before g:
// of records for v5, v7, v8 and IPFIX (options records too), of datagrams for v9.
func (s *stream) finish(g *datagram) {
	g.seq = s.seq
	stamp := s.date(g)
	switch s.version {
	case flow.VersionIPFIX:
		wire.PutHeaderIPFIX(g.b, stamp, s.seq, s.domain)
		s.seq += uint32(g.data)
	case flow.VersionV9:
		wire.PutHeaderV9(g.b, uint16(g.count), stamp, s.seq, s.domain)
		s.seq++
	default:
		h := wire.HeaderV5{Count: uint16(g.data), Stamp: stamp, Sequence: s.seq, Engine: uint16(s.domain), Sampling: s.fixed.field}
		switch s.version {
		case flow.VersionV1:
			wire.PutHeaderV1(g.b, h)
		case flow.VersionV5:
			wire.PutHeaderV5(g.b, h)
		case flow.VersionV7:
			wire.PutHeaderV7(g.b, h)
		case flow.VersionV8:
			wire.PutHeaderV8(g.b, h, s.v8.Scheme)
		}
		s.seq += uint32(g.data)
	}
	s.built++
	g.next = s.seq
	s.emit(g)
}

// emitOpen sends one datagram of o's records. If its template takes their
// place, a few stay.
func (s *stream) emitOpen(o *open) {
	g := s.start()
	s.pack(g, o)
	s.finish(g)
}

// flush emits all that waits, in as few datagrams as it fits.
func (s *stream) flush() {
	if s.pending == 0 {
		return
	}
	if !s.templated() {
		s.emitFixed()
		return
	}
	var g *datagram
	for _, o := range s.order {
		for len(o.each) > 0 {
			if g == nil {
				g = s.start()
			}
			if !s.pack(g, o) {
				s.finish(g)
				g = nil
			}
		}
	}
	if g != nil {
		s.finish(g)
	}
}

// pack moves records of o to g, with their template in front when it is due,
// and says whether all had room.
func (s *stream) pack(g *datagram, o *open) bool {
	due := s.due(o)
	space := s.payload - len(g.b) - wire.SetHeaderLen
	if due {
		space -= wire.SetHeaderLen + o.layout.TemplateSize()
	}
	n := min(len(o.each), max(space, 0)&^3/o.size)
	if n == 0 {
		return false
	}
	if due {
		s.packTemplate(g, o)
	}
	at := len(g.b)
	g.b = wire.AppendSet(g.b, o.layout.ID)
	g.b = append(g.b, o.body[:n*o.size]...)
	g.b = wire.EndSet(g.b, at)
	g.count += n
	g.data += n
	if s.session {
		g.need(o.def)
	}
	for _, e := range o.each[:n] {
		g.sum.add(e)
	}
	g.last = max(g.last, o.last)
	s.take(o, n)
	return len(o.each) == 0
}

// due says that o's template goes out again before its next data.
func (s *stream) due(o *open) bool {
	return !s.session && (!o.sent || s.built-o.sentAt >= s.refresh)
}

// take removes o's first n records.
func (s *stream) take(o *open, n int) {
	o.body = o.body[:copy(o.body, o.body[n*o.size:])]
	o.each = o.each[:copy(o.each, o.each[n:])]
	s.pending -= n
}

func (s *stream) packTemplate(g *datagram, o *open) {
	at := len(g.b)
	g.b = wire.AppendSet(g.b, wire.TemplateSet(s.version))
	g.b = o.layout.AppendTemplate(g.b)
	g.b = wire.EndSet(g.b, at)
	g.count++
	g.templates++
	o.sent, o.sentAt = true, s.built
}

// resend emits all templates, and what else readers need before data.
func (s *stream) resend() {
	if !s.templated() {
		return
	}
	s.announce()
	if s.session {
		return // the link tells its templates
	}
	g := s.blank()
	for _, o := range s.order {
		if len(g.b)+wire.SetHeaderLen+o.layout.TemplateSize() > s.payload {
			s.finish(g)
			g = s.blank()
		}
		s.packTemplate(g, o)
	}
	if g.templates > 0 {
		s.finish(g)
	} else {
		s.free(g)
	}
}

// forget makes templates and announcements due with the next data: the
// collector may be another one now.
func (s *stream) forget() {
	for _, o := range s.order {
		o.sent = false
	}
	s.announced = false
	if s.rules != nil {
		s.rules.told = 0
	}
}
