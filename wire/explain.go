package wire

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"weir/flow"
	"weir/ie"
	"weir/packet"
)

// Line is what Explain says of some octets of a message: a field, or a
// structure whose fields follow at a greater depth. The fields of a message
// cover it: each octet is in one of them, in order.
type Line struct {
	Depth     int
	Offset    int // octets from the start of the message
	Length    int
	Structure bool   // Octets is nil: they are the fields' that follow
	Octets    []byte // points into the message
	Field     string // in the words of the format's document
	Value     string // as read
	Meaning   string // of the value: a time, a protocol, a unit
	Problem   string // what is wrong there; "": nothing
}

// Explain is Decode that tells what it read, octet by octet. What is refused,
// and what sequence numbers say is missing, stands as a Problem beside the octets
// that it is about.
func (d *Decoder) Explain(b *Batch, src Source, received int64, msg []byte) ([]Line, Message, error) {
	x := &explainer{d: d, msg: msg, received: received}
	before := d.peek(src, msg)
	var datagrams, samples SequenceInfo
	if before != nil {
		x.s = before
		datagrams, samples = before.seq.info, before.samples
	}
	x.message()
	m, err := d.Decode(b, src, received, msg)
	if s := d.msg.s; s != nil {
		if s != before {
			datagrams, samples = SequenceInfo{}, SequenceInfo{}
		}
		x.note(x.sequence, sequenceProblem(datagrams, s.seq.info, unit(m.Version)))
		x.note(x.sequence, sequenceProblem(samples, s.samples, "samples"))
	}
	if syntax, ok := err.(*SyntaxError); ok {
		x.noteAt(syntax.Offset, syntax.Field+": "+syntax.Err.Error())
	}
	return x.lines, m, err
}

// peek gives the session that a message of src would belong to, as far
// as it is there; nil if not. It changes nothing.
func (d *Decoder) peek(src Source, msg []byte) *session {
	k := sessionKey{addr: src.Addr, reliable: src.Reliable}
	if len(msg) < 16 {
		return nil
	}
	switch v := be.Uint16(msg); {
	case v == 0:
		r := &reader{b: msg, off: 4}
		if agent, ok := r.address(); ok && !agent.IsZero() {
			k.addr = agent
		}
		k.version, k.domain = flow.VersionSFlow, r.u32()
	case v == flow.VersionV9 && len(msg) >= 20:
		k.version, k.domain = flow.VersionV9, be.Uint32(msg[16:])
	case v == flow.VersionIPFIX:
		k.version, k.domain = flow.VersionIPFIX, be.Uint32(msg[12:])
	case v < flow.VersionV9 && len(msg) >= 24:
		if k.version = uint8(v); v != 1 {
			k.domain = uint32(be.Uint16(msg[20:]))
		}
	}
	head := d.sessions[k]
	if s := d.find(k, src.Port); s != nil {
		return s
	}
	if head != nil && head.sibling == nil {
		return head // from another port: it may go on from there
	}
	return nil
}

// sequenceProblem is what a message changed in what sequence numbers say.
func sequenceProblem(was, is SequenceInfo, unit string) string {
	switch {
	case is.Restarts > was.Restarts:
		return "the exporter began anew"
	case is.Duplicates > was.Duplicates:
		return "the same number came before: a duplicate"
	case is.Gaps > was.Gaps:
		return fmt.Sprintf("sequence gap: %d %s before this message did not come (yet)", is.Missing+is.Lost-was.Missing-was.Lost, unit)
	case is.Reordered > was.Reordered:
		return "out of order: it comes late, or from elsewhere"
	}
	return ""
}

// explainer walks over a message and writes lines.
type explainer struct {
	d        *Decoder
	s        *session // whose templates are known; nil: of nobody
	msg      []byte
	off      int
	end      int // of the structure at hand
	depth    int
	lines    []Line
	received int64

	version   uint8
	clock     clock
	types     *session             // that was told what enterprises' elements are
	templates map[uint16]*Template // of this message; nil: one that was refused
	unknown   bool                 // some data set could not be counted
	sequence  int                  // line of the sequence number; -1: none
}

// field takes the next n octets as a field; fewer, with a problem, if they are
// not there. Nothing is said of no octets.
func (x *explainer) field(n int, name, value, meaning string) (whole bool) {
	have := min(n, x.end-x.off)
	if have > 0 {
		x.lines = append(x.lines, Line{
			Depth: x.depth, Offset: x.off, Length: have, Octets: x.msg[x.off : x.off+have : x.off+have],
			Field: name, Value: value, Meaning: meaning,
		})
		if have < n {
			l := &x.lines[len(x.lines)-1]
			l.Value, l.Meaning = "", ""
			l.Problem = fmt.Sprintf("%d octets are expected, %d are there", n, have)
		}
		x.off += have
	} else if n > 0 && len(x.lines) > 0 {
		x.problem(fmt.Sprintf("%s is missing: %d octets are expected, none are there", name, n))
	}
	return have == n
}

// next is the number in the next n octets, as far as they are there.
func (x *explainer) next(n int) uint64 {
	v, _ := uintOf(x.msg[x.off:min(x.off+n, x.end)])
	return v
}

// number takes a field that is one.
func (x *explainer) number(n int, name string) uint64 {
	v := x.next(n)
	x.field(n, name, strconv.FormatUint(v, 10), "")
	return v
}

// problem notes what is wrong with the last line.
func (x *explainer) problem(text string) { x.note(len(x.lines)-1, text) }

func (x *explainer) note(line int, text string) {
	if line < 0 || line >= len(x.lines) || text == "" {
		return
	}
	l := &x.lines[line]
	if l.Problem != "" {
		text = l.Problem + "; " + text
	}
	l.Problem = text
}

// noteAt notes a problem at the octet, if none stands there or around it yet.
func (x *explainer) noteAt(off int, text string) {
	best := -1
	for i := range x.lines {
		l := &x.lines[i]
		if off >= l.Offset && off < l.Offset+max(l.Length, 1) || off >= len(x.msg) && i == len(x.lines)-1 {
			if l.Problem != "" {
				return
			}
			best = i
		}
	}
	if best < 0 {
		best = len(x.lines) - 1
	}
	x.note(best, text)
}

// structure opens one of n octets, runs f over its fields, and takes what f left.
func (x *explainer) structure(n int, name, meaning string, f func()) {
	n = min(n, x.end-x.off)
	if n <= 0 {
		return
	}
	x.lines = append(x.lines, Line{Depth: x.depth, Offset: x.off, Length: n, Structure: true, Field: name, Meaning: meaning})
	end, after := x.end, x.off+n
	x.end = after
	x.depth++
	f()
	if x.off < after {
		x.rest("not read")
	}
	x.depth--
	x.end = end
}

// rest takes all that is left of the structure at hand.
func (x *explainer) rest(problem string) {
	n := x.end - x.off
	if n <= 0 {
		return
	}
	x.field(n, "octets", "", "")
	x.problem(problem)
}

// padding takes what is left of the structure at hand as padding.
func (x *explainer) padding() {
	n := x.end - x.off
	if n <= 0 {
		return
	}
	clean := zeros(x.msg[x.off:x.end])
	x.field(n, "padding", "", "")
	if !clean {
		x.problem("padding is not zero")
	}
}

func (x *explainer) message() {
	x.end, x.sequence = len(x.msg), -1
	if len(x.msg) < 2 {
		x.rest("a message has a version number of 2 octets at least")
		return
	}
	switch v := be.Uint16(x.msg); v {
	case 1, 5, 6, 7, 8:
		x.version = uint8(v)
		x.fixed()
	case 9, 10:
		x.version = uint8(v)
		x.templated()
	case 0:
		x.version = flow.VersionSFlow
		x.sflow()
	default:
		x.number(2, "version")
		x.problem("a version that is not read")
	}
	x.rest("not read")
}

// fixed explains v1, v5, v6, v7 and v8.
func (x *explainer) fixed() {
	head := fixedHeaders[x.version]
	count, scheme := 0, 0
	x.structure(min(sizeOf(head), x.end), "header", fmt.Sprintf("NetFlow v%d", x.version), func() {
		if len(x.msg) >= 16 {
			p, ms := legacyTime(x.msg)
			x.clock = clock{exported: ms * 1e6, uptime: p.uptime, up: true}
		}
		for _, f := range head {
			switch f.name {
			case "count":
				count = int(x.next(2))
			case "aggregation":
				scheme = int(x.next(1))
			case "flow_sequence":
				x.sequence = len(x.lines)
			}
			x.fixedField(f)
		}
	})
	if x.off < sizeOf(head) {
		x.problem("the message ends within its header")
		return
	}
	countLine := 2
	record, name := fixedRecords[x.version], "record"
	if x.version == flow.VersionV8 {
		if scheme == 0 || scheme >= len(v8Records) {
			x.rest("records of an aggregation scheme that does not exist")
			return
		}
		record, name = v8Records[scheme], v8Schemes[scheme].name+" record"
		if x.d.opt.V8DestinationMaskFirst {
			record = masksTurned(record)
		}
	}
	size := sizeOf(record)
	there := (x.end - x.off) / size
	if count != there || (x.end-x.off)%size != 0 {
		x.note(countLine, fmt.Sprintf("%d records of %d octets are there, and %d octets more", there, size, (x.end-x.off)%size))
	}
	for i := range min(count, there) {
		x.structure(size, fmt.Sprintf("%s %d", name, i+1), "", func() {
			for _, f := range record {
				x.fixedField(f)
			}
			x.ordered()
		})
	}
	x.rest("behind the last record that the header counts")
}

// masksTurned is a v8 record with the destination mask first.
func masksTurned(record []fixedField) []fixedField {
	turned := append([]fixedField(nil), record...)
	for i := range turned {
		switch turned[i].name {
		case "src_mask":
			if i+1 < len(turned) && turned[i+1].name == "dst_mask" {
				turned[i].name, turned[i+1].name = "dst_mask", "src_mask"
				return turned
			}
		}
	}
	return turned
}

// ordered notes a record whose Last is before its First.
func (x *explainer) ordered() {
	first, last, at := int64(0), int64(0), -1
	for i := len(x.lines) - 1; i >= 0 && !x.lines[i].Structure; i-- {
		switch l := &x.lines[i]; l.Field {
		case "First", "flowStartSysUpTime":
			if len(l.Octets) == 4 {
				first = x.clock.sysUp(be.Uint32(l.Octets))
			}
		case "Last", "flowEndSysUpTime":
			if at = i; len(l.Octets) == 4 {
				last = x.clock.sysUp(be.Uint32(l.Octets))
			}
		}
	}
	if at >= 0 && first != 0 && last < first {
		x.note(at, "before the flow's start: taken as equal")
	}
}

func (x *explainer) fixedField(f fixedField) {
	v := x.next(f.n)
	value, meaning, problem := strconv.FormatUint(v, 10), "", ""
	switch f.kind {
	case "addr":
		if x.end-x.off >= 4 {
			value = netip.AddrFrom4([4]byte(x.msg[x.off:])).String()
		}
	case "proto":
		meaning = protocolName(uint8(v))
	case "flags":
		meaning = flagNames(uint16(v))
	case "secs":
		meaning = x.wall(int64(v) * 1e9)
	case "nsecs":
		if v >= 1e9 {
			problem = "more than a second"
		}
	case "uptime":
		meaning = clockTime(x.clock.sysUp(uint32(v)))
		if int32(uint32(v)-x.clock.uptime) > 0 {
			problem = "after SysUptime: in the future of the export"
		}
	case "zero":
		if v != 0 {
			problem = "not zero"
		}
	case "sampling":
		if n := v & 0x3fff; n != 0 {
			meaning = fmt.Sprintf("mode %d, one packet in %d", v>>14, n)
		} else {
			meaning = "not sampled"
		}
	case "scheme":
		if v > 0 && int(v) < len(v8Schemes) {
			meaning = v8Schemes[v].name
		} else {
			problem = "no such aggregation scheme"
		}
	}
	if x.field(f.n, f.name, value, meaning) && problem != "" {
		x.problem(problem)
	}
}

func clockTime(ns int64) string { return string(flow.AppendTime(nil, ns)) }

// wall tells an exporter's time, and how far it is from when the message came.
func (x *explainer) wall(ns int64) string {
	if x.received == 0 {
		return clockTime(ns)
	}
	off := time.Duration(x.received - ns).Round(time.Second)
	switch {
	case off > time.Second:
		return fmt.Sprintf("%s, %v before it came", clockTime(ns), off)
	case off < -time.Second:
		return fmt.Sprintf("%s, %v after it came", clockTime(ns), -off)
	}
	return clockTime(ns)
}

var protocolNames = map[uint8]string{
	0: "HOPOPT", 1: "ICMP", 2: "IGMP", 4: "IPv4", 6: "TCP", 17: "UDP", 33: "DCCP", 41: "IPv6", 46: "RSVP", 47: "GRE", 50: "ESP", 51: "AH",
	58: "IPv6-ICMP", 88: "EIGRP", 89: "OSPFIGP", 103: "PIM", 112: "VRRP", 115: "L2TP", 132: "SCTP", 136: "UDPLite",
}

func protocolName(p uint8) string { return protocolNames[p] }

func flagNames(v uint16) string {
	var all []string
	for i, n := range [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if v&(1<<i) != 0 {
			all = append(all, n)
		}
	}
	return strings.Join(all, " ")
}

// templated explains v9 (RFC 3954) and IPFIX (RFC 7011), in the words of each.
func (x *explainer) templated() {
	x.templates = map[uint16]*Template{}
	if x.s != nil {
		x.types = x.d.typesOf(x.s)
	}
	v9 := x.version == flow.VersionV9
	head := 16
	if v9 {
		head = 20
	}
	if len(x.msg) < head {
		x.number(2, "Version Number")
		x.rest("the message ends within its header")
		return
	}
	countLine, count := 0, 0
	name := "NetFlow v9 (RFC 3954)"
	if !v9 {
		name = "IPFIX (RFC 7011)"
	}
	x.structure(head, "message header", name, func() {
		x.number(2, "Version Number")
		countLine = len(x.lines)
		if v9 {
			count = int(x.number(2, "Count"))
			up := uint32(x.next(4))
			x.field(4, "sysUpTime", strconv.FormatUint(uint64(up), 10), (time.Duration(up) * time.Millisecond).String())
			x.clock = clock{exported: int64(x.next(4)) * 1e9, uptime: up, up: true}
			x.seconds("UNIX Secs")
			x.sequence = len(x.lines)
			x.number(4, "Sequence Number")
			x.number(4, "Source ID")
			return
		}
		n := int(x.number(2, "Length"))
		if n != len(x.msg) {
			x.problem(fmt.Sprintf("the message has %d octets", len(x.msg)))
		}
		x.clock = clock{exported: int64(x.next(4)) * 1e9}
		if x.s != nil && x.s.init != 0 {
			x.clock.uptime, x.clock.up = uint32(x.clock.exported/1e6-x.s.init), true
		}
		x.seconds("Export Time")
		x.sequence = len(x.lines)
		x.number(4, "Sequence Number")
		x.number(4, "Observation Domain ID")
		if n >= 16 && n < len(x.msg) {
			count = n // where sets end
		}
	})
	if !v9 && count > 0 {
		defer func(end int) { x.end = end }(x.end)
		x.end = count
	}
	records := 0
	for x.off < x.end {
		n, more := x.set()
		records += n
		if !more {
			break
		}
	}
	if v9 && records != count && !x.unknown {
		x.note(countLine, fmt.Sprintf("%d records are there (templates and data)", records))
	}
}

func (x *explainer) seconds(name string) {
	v := x.next(4)
	x.field(4, name, strconv.FormatUint(v, 10), x.wall(int64(v)*1e9))
}

// set explains one set or flowset, and says how many records are in it.
func (x *explainer) set() (records int, more bool) {
	v9 := x.version == flow.VersionV9
	word := "Set"
	if v9 {
		word = "FlowSet"
	}
	rest := x.msg[x.off:x.end]
	if len(rest) < 4 || v9 && zeros(rest) {
		x.padding()
		return 0, false
	}
	id, n := be.Uint16(rest), int(be.Uint16(rest[2:]))
	if n < 4 || n > len(rest) {
		if zeros(rest) {
			x.padding()
			return 0, false
		}
		x.number(2, word+" ID")
		x.number(2, "Length")
		if n < 4 {
			x.problem("a set has 4 octets at least: where the next begins is not known")
		} else {
			x.problem(fmt.Sprintf("%d octets are left of the message", len(rest)))
		}
		x.rest("in a set whose length is not possible")
		return 0, false
	}
	kind, f := "", func() {}
	switch {
	case v9 && id == setV9Templates, !v9 && id == setIPFIXTemplates:
		kind, f = "Template "+word, func() { records = x.templateRecords(false) }
	case v9 && id == setV9Options, !v9 && id == setIPFIXOptions:
		kind, f = "Options Template "+word, func() { records = x.templateRecords(true) }
	case id < firstData:
		kind, f = word, func() { x.rest("of a set whose number is reserved") }
	default:
		kind, f = "Data "+word, func() { records = x.dataRecords(id) }
	}
	x.structure(n, kind, "", func() {
		x.number(2, word+" ID")
		if id < firstData && !strings.Contains(kind, "Template") {
			x.problem("reserved")
		}
		x.number(2, "Length")
		f()
	})
	return records, true
}

// templateRecords explains the records of a template set.
func (x *explainer) templateRecords(options bool) (n int) {
	v9 := x.version == flow.VersionV9
	for x.end-x.off >= 4 && !zeros(x.msg[x.off:x.end]) {
		b := x.msg[x.off:x.end]
		t := &Template{ID: be.Uint16(b), opts: options, v9: v9, types: x.types}
		fields, head := int(be.Uint16(b[2:])), 4
		withdrawal := fields == 0 && !v9
		if options && !withdrawal {
			head = 6
			if len(b) < 6 {
				x.rest("the set ends within a template record")
				return n
			}
			if v9 {
				t.Scope = fields / 4
				fields = (fields + int(be.Uint16(b[4:]))) / 4
			} else {
				t.Scope = int(be.Uint16(b[4:]))
			}
		}
		size := head
		for range fields { // each has 4 octets at least, or the set ends
			if size+4 > len(b) {
				break
			}
			if size += 4; !v9 && b[size-4]&0x80 != 0 {
				size += 4
			}
		}
		name := "Template Record"
		switch {
		case withdrawal:
			name = "Template Withdrawal"
		case options:
			name = "Options Template Record"
		}
		x.structure(min(size, len(b)), name, "", func() { x.templateRecord(t, fields, withdrawal) })
		n++
	}
	x.padding()
	return n
}

func (x *explainer) templateRecord(t *Template, fields int, withdrawal bool) {
	x.number(2, "Template ID")
	all := withdrawal && (t.ID == setIPFIXTemplates || t.ID == setIPFIXOptions)
	if t.ID < firstData && !all {
		x.problem("templates have numbers from 256 on")
	}
	switch {
	case withdrawal:
		x.number(2, "Field Count")
		x.withdraw(t, all)
		return
	case t.opts && t.v9:
		x.number(2, "Option Scope Length")
		x.number(2, "Option Length")
		if b := x.msg[x.off-4:]; be.Uint16(b)%4 != 0 || be.Uint16(b[2:])%4 != 0 {
			x.problem("not a multiple of 4")
		}
	case t.opts:
		x.number(2, "Field Count")
		x.number(2, "Scope Field Count")
		if t.Scope == 0 || t.Scope > fields {
			x.problem(fmt.Sprintf("of %d fields, 1 to all can be the scope", fields))
		}
	default:
		x.number(2, "Field Count")
	}
	if left := (x.end - x.off) / 4; fields > left {
		x.problem(fmt.Sprintf("%d fields are expected, the set has room for %d", fields, left))
	}
	length, variable := 0, false
	for i := range fields {
		if x.end-x.off < 4 {
			return
		}
		f := FieldSpec{ID: uint16(x.next(2)), Length: be.Uint16(x.msg[x.off+2:])}
		enterprise := !t.v9 && f.ID&0x8000 != 0
		if enterprise {
			if f.ID &= 0x7fff; x.end-x.off >= 8 {
				f.PEN = be.Uint32(x.msg[x.off+4:])
			}
		}
		t.Fields = append(t.Fields, f)
		t.Fields[i].Name = t.nameOf(i)
		x.fieldSpec(t, i, enterprise)
		if f.Length == VariableLength && !t.v9 {
			variable = true
		} else {
			length += int(f.Length)
		}
	}
	switch {
	case length == 0 && !variable:
		x.problem("records of this template would have no octets: it is refused")
		x.templates[t.ID] = nil
	case length > 65535 || t.ID < firstData || len(t.Fields) > x.d.opt.Limits.Fields || t.opts && !t.v9 && (t.Scope == 0 || t.Scope > fields):
	default:
		t.plan = compile(t)
		x.templates[t.ID] = t
	}
}

// withdraw forgets what a withdrawal takes back.
func (x *explainer) withdraw(t *Template, all bool) {
	if x.s == nil || !x.s.key.reliable {
		x.problem("a withdrawal over UDP: RFC 7011 section 8.4 forbids it, it is ignored")
		return
	}
	x.templates[t.ID] = nil
	for id, k := range x.s.templates {
		if all && k.opts == t.opts {
			x.templates[id] = nil
		}
	}
	for id, k := range x.templates {
		if all && k != nil && k.opts == t.opts {
			x.templates[id] = nil
		}
	}
}

// fieldSpec explains a field specifier.
func (x *explainer) fieldSpec(t *Template, i int, enterprise bool) {
	f := t.Fields[i]
	e, known := lookup(t, i)
	meaning := f.Name
	if known {
		if u := e.Units; u != "" {
			meaning += ", " + u
		}
	}
	typ, length := "Field Type", "Field Length"
	switch {
	case i < t.Scope && t.v9:
		typ, length = "Scope Field Type", "Scope Field Length"
	case i < t.Scope:
		typ, length = "Scope Information Element id.", "Scope Field Length"
	case t.opts && t.v9:
		typ, length = "Option Field Type", "Option Field Length"
	case !t.v9:
		typ = "Information Element id."
	}
	value := strconv.Itoa(int(f.ID))
	if enterprise {
		value += " (enterprise)"
	}
	x.field(2, typ, value, meaning)
	how := ""
	switch n := e.Type.Len(); {
	case f.Length == VariableLength && !t.v9:
		how = "variable: each value brings its own"
	case known && e.Type.Integer() && int(f.Length) < n && f.Length > 0:
		how = fmt.Sprintf("reduced-size encoding of %v", e.Type)
	case known:
		how = e.Type.String()
	}
	x.field(2, length, strconv.Itoa(int(f.Length)), how)
	if known && !e.Type.Integer() && e.Type.Len() > 0 && f.Length != VariableLength && int(f.Length) != e.Type.Len() && f.Length != 0 {
		x.problem(fmt.Sprintf("%v has %d octets: values are kept as octets", e.Type, e.Type.Len()))
	}
	if enterprise {
		x.number(4, "Enterprise Number")
	}
}

// template finds one of this message, else of those that came before.
func (x *explainer) template(id uint16) *Template {
	if t, ok := x.templates[id]; ok {
		return t
	}
	if x.s != nil {
		if k := x.s.templates[id]; k != nil {
			return k.Template
		}
	}
	return nil
}

// dataRecords explains the records of a data set.
func (x *explainer) dataRecords(id uint16) (n int) {
	t := x.template(id)
	if t == nil {
		x.unknown = true
		x.rest(fmt.Sprintf("template %d is not known (yet): the octets wait for it", id))
		return 0
	}
	name := "Data Record"
	if t.opts {
		name = "Options Data Record"
	}
	spans := make([]span, len(t.Fields))
	for x.end-x.off >= t.plan.length {
		b := x.msg[x.off:x.end]
		if len(b) < 4 && zeros(b) && t.plan.variable {
			break
		}
		size, ok := t.plan.walk(spans, b)
		if !ok {
			x.rest("a value of variable length runs beyond its set")
			return n
		}
		n++
		x.structure(size, fmt.Sprintf("%s %d", name, n), fmt.Sprintf("template %d", id), func() {
			at := x.off
			for i := range t.Fields {
				if pre := at + spans[i].off - x.off; pre > 0 { // the length in front
					x.field(pre, "Length", strconv.Itoa(spans[i].n), "")
				}
				x.value(t, i, spans[i].n)
			}
			x.ordered()
		})
	}
	x.padding()
	return n
}

// value explains the value of a template's field i.
func (x *explainer) value(t *Template, i, n int) {
	f, typ := t.Fields[i], t.plan.specs[i].typ
	name := f.Name
	if i < t.Scope {
		name = "scope " + name
	}
	if typ.List() {
		x.list(typ, name, n, 0)
		return
	}
	value, meaning := x.read(typ, n), ""
	if f.PEN == 0 && !(i < t.Scope && t.v9) {
		meaning = x.meaning(f.ID, n)
	}
	x.field(n, name, value, meaning)
}

// read is a value as text.
func (x *explainer) read(typ ie.Type, n int) string {
	b := x.msg[x.off:min(x.off+n, x.end)]
	if len(b) == 0 {
		return ""
	}
	x.d.arenaStart = 0
	var text string
	v := x.d.appendValue(nil, typ, b, x.s, maxDepth)
	if json.Unmarshal(v, &text) == nil {
		return text
	}
	return string(v)
}

// meaning is what a value of one of IANA's elements stands for.
func (x *explainer) meaning(id uint16, n int) string {
	v, ok := uintOf(x.msg[x.off:min(x.off+n, x.end)])
	if !ok {
		return ""
	}
	switch id {
	case ie.IDProtocolIdentifier:
		return protocolName(uint8(v))
	case ie.IDTcpControlBits:
		return flagNames(uint16(v))
	case ie.IDFlowStartSysUpTime, ie.IDFlowEndSysUpTime:
		if x.clock.up {
			return clockTime(x.clock.sysUp(uint32(v)))
		}
		return "ms since the exporter began, which is not known"
	case ie.IDFlowEndReason:
		return flow.EndReason(v).String()
	case ie.IDFlowDirection:
		if v < 2 {
			return [...]string{"ingress", "egress"}[v]
		}
	case ie.IDIcmpTypeCodeIPv4, ie.IDIcmpTypeCodeIPv6:
		return fmt.Sprintf("type %d, code %d", v>>8, v&255)
	case ie.IDForwardingStatus:
		return [...]string{"unknown", "forwarded", "dropped", "consumed"}[v>>6&3]
	}
	if e, ok := ie.Lookup(ie.IANA, id); ok && (e.Units == "octets" || e.Units == "packets" || e.Units == "flows") {
		return e.Units
	}
	return ""
}

// list explains structured data (RFC 6313 section 4.5); depth bounds lists in
// lists.
func (x *explainer) list(typ ie.Type, name string, n, depth int) {
	if depth >= maxDepth {
		x.field(n, name, "", typ.String()+", deeper than is read")
		return
	}
	x.structure(n, name, typ.String(), func() {
		v := uint8(x.next(1))
		semantic := ""
		switch {
		case int(v) < len(listSemantics):
			semantic = listSemantics[v]
		case v == 255:
			semantic = "undefined"
		}
		x.field(1, "Semantic", strconv.Itoa(int(v)), semantic)
		switch typ {
		case ie.BasicList:
			x.basicList(depth)
		case ie.SubTemplateList:
			x.listRecords(uint16(x.number(2, "Template ID")), depth)
		case ie.SubTemplateMultiList:
			for x.off < x.end {
				if x.end-x.off < 4 {
					return
				}
				id, size := uint16(x.next(2)), int(be.Uint16(x.msg[x.off+2:]))
				if size < 4 || size > x.end-x.off {
					x.rest("a length that is not possible")
					return
				}
				x.structure(size, "Data Records", "", func() {
					x.number(2, "Template ID")
					x.number(2, "Data Records Length")
					x.listRecords(id, depth)
				})
			}
		}
	})
}

func (x *explainer) basicList(depth int) {
	if x.end-x.off < 4 {
		x.rest("the list ends within its header")
		return
	}
	f := FieldSpec{ID: uint16(x.next(2)), Length: be.Uint16(x.msg[x.off+2:])}
	enterprise := f.ID&0x8000 != 0
	if f.ID &= 0x7fff; enterprise && x.end-x.off >= 8 {
		f.PEN = be.Uint32(x.msg[x.off+4:])
	}
	e, _ := x.types.element(f.PEN, f.ID)
	name := nameOf(e, f.PEN, f.ID)
	x.field(2, "Field ID", strconv.Itoa(int(f.ID)), name)
	x.number(2, "Element Length")
	if enterprise {
		x.number(4, "Enterprise Number")
	}
	for x.off < x.end {
		n := int(f.Length)
		if f.Length == VariableLength {
			from, to, ok := variable(x.msg[x.off:x.end])
			if !ok {
				x.rest("a value of variable length runs beyond its list")
				return
			}
			n = to - from
			x.field(from, "Length", strconv.Itoa(n), "")
		}
		if n == 0 && f.Length != VariableLength || n > x.end-x.off {
			x.rest("the list ends within an element")
			return
		}
		if e.Type.List() {
			x.list(e.Type, name, n, depth+1)
			continue
		}
		x.field(n, name, x.read(e.Type, n), "")
	}
}

// listRecords explains the records of a template within a list.
func (x *explainer) listRecords(id uint16, depth int) {
	t := x.template(id)
	if t == nil || t.opts {
		x.rest(fmt.Sprintf("template %d is not known", id))
		return
	}
	spans := make([]span, len(t.Fields))
	for k := 1; x.off < x.end; k++ {
		size, ok := t.plan.walk(spans, x.msg[x.off:x.end])
		if !ok || size == 0 {
			x.rest("the list ends within a record")
			return
		}
		x.structure(size, fmt.Sprintf("record %d", k), fmt.Sprintf("template %d", id), func() {
			at := x.off
			for i := range t.Fields {
				if pre := at + spans[i].off - x.off; pre > 0 {
					x.field(pre, "Length", strconv.Itoa(spans[i].n), "")
				}
				if typ := t.plan.specs[i].typ; typ.List() {
					x.list(typ, t.Fields[i].Name, spans[i].n, depth+1)
				} else {
					x.value(t, i, spans[i].n)
				}
			}
		})
	}
}

// sflow explains an sFlow datagram, in the words of sflow_version_5.txt.
func (x *explainer) sflow() {
	if v := x.next(4); v != 5 || x.end < 4 {
		x.number(4, "version")
		x.problem("a version of sFlow that is not read")
		return
	}
	head := 28 - 4
	switch {
	case len(x.msg) < 8:
	case be.Uint32(x.msg[4:]) == 1:
		head = 28
	case be.Uint32(x.msg[4:]) == 2:
		head = 40
	}
	samples, countLine := uint64(0), -1
	x.structure(head, "datagram header", "sFlow v5", func() {
		x.number(4, "version")
		x.xdr(xdrField{"agent_address", xdrAddress})
		x.number(4, "sub_agent_id")
		x.sequence = len(x.lines)
		x.number(4, "sequence_number")
		x.field(4, "uptime", strconv.FormatUint(x.next(4), 10), (time.Duration(x.next(4)) * time.Millisecond).String())
		countLine = len(x.lines)
		samples = x.number(4, "samples")
	})
	n := uint64(0)
	for ; n < samples && x.off < x.end; n++ {
		x.sflowRecord(fmt.Sprintf("sample %d", n+1), sflowSamples, func(f sflowFormat, s *xdrStruct) {
			count := x.xdrStruct(s)
			table := sflowFlowRecords
			if f == sflowCounterSample || f == sflowCountersExpanded {
				table = sflowCounterRecords
			}
			for i := uint64(0); i < count && x.off < x.end; i++ {
				x.sflowRecord(fmt.Sprintf("record %d", i+1), table, func(_ sflowFormat, s *xdrStruct) { x.xdrStruct(s) })
			}
		})
	}
	if n < samples {
		x.note(countLine, fmt.Sprintf("%d samples are there", n))
	}
	x.rest("behind the last sample that the header counts")
}

// sflowRecord explains a data format, a length and what they are of.
func (x *explainer) sflowRecord(name string, table map[sflowFormat]*xdrStruct, body func(sflowFormat, *xdrStruct)) {
	if x.end-x.off < 8 {
		x.rest("too short for a data format and a length")
		return
	}
	f, n := sflowFormat(x.next(4)), uint64(be.Uint32(x.msg[x.off+4:]))
	size := int(min(n+8, uint64(x.end-x.off)))
	s := table[f]
	meaning := fmt.Sprintf("enterprise %d, format %d", f.enterprise(), f.number())
	if s != nil {
		name += ": " + s.name
	}
	x.structure(min(size+int(-n&3), x.end-x.off), name, meaning, func() {
		x.field(4, "data_format", strconv.Itoa(int(f)), meaning)
		x.number(4, "length")
		if uint64(size) < n+8 {
			x.problem(fmt.Sprintf("%d octets are left", size-8))
		}
		if s == nil {
			x.field(x.end-x.off, "opaque", "", "a format that is not known: stepped over")
			return
		}
		body(f, s)
		if rest := x.end - x.off; rest > 0 {
			x.field(rest, "more", "", "what a later revision added, or padding")
		}
	})
}

// xdrStruct explains a structure, and gives the value of its last field.
func (x *explainer) xdrStruct(s *xdrStruct) (last uint64) {
	for i, f := range s.fields {
		if x.off >= x.end {
			return 0
		}
		if s.rest != nil && i == len(s.fields)-1 {
			for n, k := x.number(4, f.name), 1; n > 0 && x.off < x.end; n, k = n-1, k+1 {
				x.xdrStruct(&xdrStruct{fields: s.rest.fields})
			}
			return 0
		}
		last = x.xdr(f)
	}
	return last
}

// xdr explains one value.
func (x *explainer) xdr(f xdrField) uint64 {
	r := &reader{b: x.msg[:x.end], off: x.off}
	v := f.kind.append(nil, r)
	text := string(v)
	if s := ""; json.Unmarshal(v, &s) == nil {
		text = s
	}
	if r.bad {
		x.field(x.end-x.off, f.name, "", "")
		x.problem("the value runs beyond its record")
		return 0
	}
	n := r.off - x.off
	switch f.kind {
	case xdrAddress:
		x.field(4, f.name+" type", strconv.FormatUint(x.next(4), 10), [...]string{"unknown", "IPv4", "IPv6"}[min(x.next(4), 2)])
		x.field(n-4, f.name, text, "")
	case xdrMAC:
		x.field(6, f.name, text, "")
		x.zeroField(2)
	case xdrString, xdrOpaque:
		size := int(x.number(4, f.name+" length"))
		meaning := ""
		if f.name == "header" {
			meaning = x.frame(size)
			text = ""
		}
		x.field(size, f.name, text, meaning)
		x.zeroField(n - 4 - size)
	case xdrList, xdrPath, xdrStack, xdrMACs:
		x.number(4, f.name+" count")
		x.field(n-4, f.name, text, "")
	default:
		value := x.next(n)
		x.field(n, f.name, text, sflowMeaning(f.name, value))
		return value
	}
	return 0
}

func (x *explainer) zeroField(n int) {
	if n <= 0 {
		return
	}
	clean := zeros(x.msg[x.off:min(x.off+n, x.end)])
	x.field(n, "padding", "", "")
	if !clean {
		x.problem("padding is not zero")
	}
}

// sflowMeaning is what some numbers of sFlow stand for.
func sflowMeaning(name string, v uint64) string {
	switch name {
	case "source_id":
		return fmt.Sprintf("class %d, index %d", v>>24, v&0xffffff)
	case "sampling_rate":
		return fmt.Sprintf("one packet in %d", v)
	case "input", "output":
		switch value := v & (1<<30 - 1); v >> 30 {
		case 0:
			return sflowPort(value)
		case 1:
			return "discarded: " + dropReason(uint32(value))
		case 2:
			return fmt.Sprintf("%d interfaces", value)
		}
	case "input_value", "output_value", "inputifindex", "outputifindex":
		return sflowPort(v)
	case "input_format", "output_format":
		if v < 3 {
			return [...]string{"an ifIndex", "discarded", "several interfaces"}[v]
		}
	case "reason":
		return dropReason(uint32(v))
	case "protocol":
		return protocolName(uint8(v))
	case "tcp_flags":
		return flagNames(uint16(v))
	case "header_protocol":
		if v < uint64(len(headerProtocols)) {
			return headerProtocols[v]
		}
	}
	return ""
}

func sflowPort(v uint64) string {
	switch v {
	case 0:
		return "not known"
	case 0x3fffffff:
		return "this device itself"
	}
	return "ifIndex"
}

// frame says in one line what a sampled header holds; its protocol stands four
// fields before it.
func (x *explainer) frame(n int) string {
	at := len(x.lines) - 4
	if at < 0 || x.lines[at].Field != "header_protocol" || len(x.lines[at].Octets) != 4 || len(x.lines[at+1].Octets) != 4 {
		return ""
	}
	link, ok := linkOf(be.Uint32(x.lines[at].Octets))
	if !ok {
		return "of a link type that is not read"
	}
	var in packet.Info
	data := x.msg[x.off:min(x.off+n, x.end)]
	if why := packet.Decode(link, data, max(be.Uint32(x.lines[at+1].Octets), uint32(len(data))), &in); why != packet.Decoded {
		return "no IP packet that is read: " + why.String()
	}
	k := &in.Key
	end := func(a flow.Addr, port uint16) string {
		if port == 0 || k.Proto == flow.ProtoICMP || k.Proto == flow.ProtoICMPv6 {
			return a.String()
		}
		return netip.AddrPortFrom(a.Netip(), port).String()
	}
	text := fmt.Sprintf("%s to %s, protocol %d %s", end(k.Src, k.SrcPort), end(k.Dst, k.DstPort), k.Proto, protocolName(k.Proto))
	if k.Proto == flow.ProtoTCP {
		text += " " + flagNames(uint16(in.TCPFlags))
	}
	return fmt.Sprintf("%s, IP length %d", strings.TrimSpace(text), in.Length)
}
