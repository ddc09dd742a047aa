package wire

import (
	"time"

	"weir/flow"
)

// Limits bound what exporters can make a Decoder hold. Zero fields take the
// defaults of DefaultLimits.
type Limits struct {
	Sessions        int           // exporters times domains and source ports
	Templates       int           // for one session
	Types           int           // of elements that an exporter describes, of one session
	Fields          int           // of one template
	TemplateOctets  int           // of all templates, types and applications together, about
	WaitingOctets   int           // data that waits for its template, all sessions
	WaitingTime     time.Duration // how long it may; negative: for ever
	MessageRecords  int           // flow records of one message
	MessageElements int           // octets of Elements of one message
	Interfaces      int           // named interfaces of one session
	Applications    int           // named applications of one session
	Samplers        int           // of one session
	Sources         int           // data sources of sFlow agents, all sessions
}

// DefaultLimits are what reliability asks for and memory allows.
var DefaultLimits = Limits{
	Sessions:        4096,
	Templates:       1024,
	Types:           4096,
	Fields:          512,
	TemplateOctets:  64 << 20,
	WaitingOctets:   64 << 20,
	WaitingTime:     30 * time.Minute,
	MessageRecords:  16384,
	MessageElements: 4 << 20,
	Interfaces:      4096,
	Applications:    8192,
	Samplers:        1024,
	Sources:         65536,
}

// Options of a Decoder; the zero value is ready for use.
type Options struct {
	Limits Limits

	// V8DestinationMaskFirst reads v8's prefix schemes (5, 13, 14) as flow-tools
	// writes them, see FormV8.
	V8DestinationMaskFirst bool

	// MaxSkew > 0 moves the flow times of an exporter whose clock is off by
	// more than this to the receiver's clock. The skew is measured anyway.
	MaxSkew time.Duration

	// SplitBiflows makes two records of one that tells of both directions (RFC
	// 5103), if the other one was seen, so that sums are of all the traffic.
	SplitBiflows bool

	// OnRecord, if set, is called with the octets of every v9 and IPFIX data
	// and options record, before it is decoded.
	OnRecord func(RawRecord)
}

// RawRecord is a data record as it stands in the message.
type RawRecord struct {
	Source   Source
	Version  uint8
	Domain   uint32
	Template *Template
	Waited   bool   // it came in an earlier message, before its template
	Data     []byte // valid until the call returns
}

// Decoder reads messages of any version and keeps the state of their
// exporters. It belongs to one goroutine.
type Decoder struct {
	opt Options

	sessions map[sessionKey]*session // the first of those that differ in their port
	lru      session                 // ring: next is the latest heard of, prev the longest silent
	count    int
	latest   *session

	templateOctets int // of all templates, about
	waitingOctets  int // of all sets that wait
	oldest         int64
	sources        int // data sources followed

	wide      bool // some domain 0 announced samplers
	wideTypes bool // or types

	lost Counts                                    // all that was refused since the start
	gone struct{ records, datagrams SequenceInfo } // what forgotten sessions' sequences said
	ctx  context
	msg  message

	arenaStart int           // where the message's elements begin in the batch's arena
	spans      []span        // of the record being read
	reversed   []flow.Record // the other directions of the set being read
	moves      []move        // with the offsets of the record being read
	pieces     []piece       // the same
}

// NewDecoder makes a Decoder.
func NewDecoder(opt Options) *Decoder {
	def := DefaultLimits
	l := &opt.Limits
	for _, v := range []struct {
		have *int
		def  int
	}{
		{&l.Sessions, def.Sessions},
		{&l.Templates, def.Templates},
		{&l.Types, def.Types},
		{&l.Fields, def.Fields},
		{&l.TemplateOctets, def.TemplateOctets},
		{&l.WaitingOctets, def.WaitingOctets},
		{&l.MessageRecords, def.MessageRecords},
		{&l.MessageElements, def.MessageElements},
		{&l.Interfaces, def.Interfaces},
		{&l.Applications, def.Applications},
		{&l.Samplers, def.Samplers},
		{&l.Sources, def.Sources},
	} {
		if *v.have <= 0 {
			*v.have = v.def
		}
	}
	l.Fields = min(l.Fields, hardFields)
	if l.WaitingTime == 0 {
		l.WaitingTime = def.WaitingTime
	}
	d := &Decoder{opt: opt, sessions: map[sessionKey]*session{}}
	d.lru.newer, d.lru.older = &d.lru, &d.lru
	return d
}

// message is the one being decoded.
type message struct {
	Message
	b   *Batch
	s   *session // nil: of nobody that is known
	err *SyntaxError

	retyped int // templates compiled again
}

// refuse counts what could not be taken, and remembers the first of a message.
func (d *Decoder) refuse(r Reason, octets int, offset int, field string, err error) {
	d.msg.Refused++
	d.tally(d.msg.s, r, 1, 0, octets)
	if d.msg.err == nil {
		d.msg.err = &SyntaxError{Offset: offset, Field: field, Err: err}
	}
}

func (d *Decoder) tally(s *session, r Reason, n, records, octets int) {
	for _, c := range []*Counts{&d.lost, s.counts()} {
		if c != nil {
			c[r].n += uint64(n)
			c[r].records += uint64(records)
			c[r].octets += uint64(octets)
		}
	}
}

// Decode reads one message and appends to b what it says. The Message counts
// what was read also when there is an error, which tells of the first thing
// that was refused; what follows that in the message was read where its place
// is certain. received is Unix ns.
func (d *Decoder) Decode(b *Batch, src Source, received int64, msg []byte) (Message, error) {
	d.msg = message{b: b}
	d.ctx.src, d.ctx.received, d.ctx.size, d.ctx.shift = src, received, len(msg), 0
	d.arenaStart = len(b.arena)
	if len(msg) < 2 {
		d.refuse(ShortMessage, len(msg), 0, "version number", ErrShort)
	} else {
		switch be.Uint16(msg) {
		case 1, 5, 6, 7:
			d.legacy(msg)
		case 8:
			d.v8(msg)
		case 9:
			d.v9(msg)
		case 10:
			d.ipfix(msg)
		case 0: // sFlow's version has four octets
			if len(msg) < 4 {
				d.refuse(ShortMessage, len(msg), 0, "version", ErrShort)
			} else {
				d.sflow(msg)
			}
		default:
			d.refuse(UnknownVersion, len(msg), 0, "version number", ErrVersion)
		}
	}
	if s := d.msg.s; s != nil {
		s.note(&d.msg.Message, received, len(msg))
	}
	if d.msg.err != nil {
		return d.msg.Message, d.msg.err
	}
	return d.msg.Message, nil
}

// header prepares for the records of a message whose header was read.
func (d *Decoder) header(version uint8, domain, sequence uint32, p pulse, exportedMs int64) {
	m, c := &d.msg, &d.ctx
	exportedMs = inEra(exportedMs*1e6, c.received) / 1e6
	m.Version, m.Domain, m.Sequence, m.Uptime, m.Exported = version, domain, sequence, p.uptime, exportedMs*1e6
	m.s = d.session(sessionKey{addr: c.src.Addr, domain: domain, version: version, reliable: c.src.Reliable}, sequence, p)
	c.version = version
	c.clock = clock{exported: exportedMs * 1e6, uptime: p.uptime, up: p.up}
	if !p.up && m.s != nil && m.s.init != 0 {
		c.uptime, c.up = uint32(exportedMs-m.s.init), true
	}
	if skew := c.received - c.exported; d.opt.MaxSkew > 0 && abs(skew) > int64(d.opt.MaxSkew) {
		c.shift = skew
	}
	c.common = flow.Record{
		Version: version, Domain: domain, Exporter: c.src.Addr, Received: c.received,
		Has: flow.HasReceived,
	}
	if c.src.Addr != (flow.Addr{}) { // a file of messages does not tell
		c.common.Has |= flow.HasExporter
	}
	if version != flow.VersionV1 {
		c.common.Has |= flow.HasDomain
	}
	c.proto = c.common
}

func abs(v int64) int64 {
	if v < 0 {
		return -v
	}
	return v
}

// Lost is what was refused since the start, also of exporters long forgotten.
func (d *Decoder) Lost() Counts { return d.lost }
