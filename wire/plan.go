package wire

import (
	"slices"

	"weir/flow"
	"weir/ie"
)

// A plan is what a template means: compiled once, run for every record. Moves
// put values into the record's columns; elems write the rest as JSON.
type plan struct {
	moves []move
	all   []part // of the elements
	usual []part // the same without those whose columns took them
	plain *part  // the only one of usual, if it leaves no choice
	specs []field

	base     flow.Record // what moves do not write, or not wholly
	length   int         // octets of a record; the least, if variable
	variable bool        // some field brings its own length
	finish   finish      // what is left to do after the moves

	application int // the field of an application's number; -1: none, or its name is there
}

// field is a template's field, resolved.
type field struct {
	typ  ie.Type
	off  uint16 // where it stands, if no variable one is before it
	n    uint16
	lead []byte // `,"name":`, and room behind it: leadOf
	skip bool   // padding

	// Fields of one name within the scope, or within the rest, are a chain.
	again int  // the next one, 0: none
	dup   bool // not the first
}

// span is where a field's value stands in a record.
type span struct{ off, n int }

// walk finds the values of the record at f's start, and how long it is. It is
// false if the record runs beyond f.
func (p *plan) walk(spans []span, f []byte) (int, bool) {
	if !p.variable {
		for i := range p.specs {
			spans[i] = span{int(p.specs[i].off), int(p.specs[i].n)}
		}
		return p.length, p.length <= len(f)
	}
	off := 0
	for i := range p.specs {
		if n := p.specs[i].n; n != VariableLength {
			spans[i] = span{off, int(n)}
			off += int(n)
			if off > len(f) {
				return 0, false
			}
			continue
		}
		from, to, ok := variable(f[off:])
		if !ok {
			return 0, false
		}
		spans[i] = span{off + from, to - from}
		off += to
	}
	return off, true
}

// move puts one field into a column.
type move struct {
	off uint16
	n   uint16
	op  op
	col column
	typ ie.Type
	// left is the bit of context.left to set when the value does not fit the
	// column, so that it is kept as an element.
	left  uint8
	field uint16
}

// elem writes one or, where a name comes twice, several fields.
type elem struct {
	key    []byte // leadOf
	member []member
}

type member struct {
	field uint16
	off   uint16
	n     uint16
	typ   ie.Type
	left  uint8 // only if this bit of context.left is set; always: always
}

const (
	always   = 255
	maxLefts = 64
)

type finish uint8

const (
	finishICMP finish = 1 << iota
	finishSampling
	finishObserved
	finishElements // some are in every record
)

// op is a move for a column in its native length, or opGeneral.
type op uint8

const (
	opGeneral op = iota
	opUp         // sysUpTime in IPFIX: the exporter's start may not be known
	opDelta      // microseconds before the export
	opOther      // a second address or mask for a column that already has one
	opSrc4
	opSrc16
	opDst4
	opDst16
	opNextHop4
	opNextHop16
	opBGPNextHop4
	opBGPNextHop16
	opSrcPort
	opDstPort
	opProto
	opTOS
	opFlags1
	opFlags2
	opPackets4
	opPackets8
	opBytes4
	opBytes8
	opInput2
	opInput4
	opOutput2
	opOutput4
	opFirstUp
	opLastUp
	opFirstMs
	opLastMs
	opSrcAS2
	opSrcAS4
	opDstAS2
	opDstAS4
	opSrcMask
	opDstMask
	opDirection
	opEndReason
	opForwarding
	opFlowID8
	opVLAN2
	opIPVersion1

	// Two fields that stand side by side, as most templates have them.
	opSrcDst4
	opSrcDst16
	opPorts
	opInOut2
	opInOut4
	opPacketsBytes4
	opPacketsBytes8
	opBytesPackets4
	opBytesPackets8
	opFirstLastUp
	opLastFirstUp
	opAS2
	opAS4
	opMasks
	opFlagsProto
	opProtoFlags
)

// joined gives the one move for two.
var joined = map[[2]op]op{
	{opSrc4, opDst4}: opSrcDst4, {opSrc16, opDst16}: opSrcDst16, {opSrcPort, opDstPort}: opPorts,
	{opInput2, opOutput2}: opInOut2, {opInput4, opOutput4}: opInOut4,
	{opPackets4, opBytes4}: opPacketsBytes4, {opPackets8, opBytes8}: opPacketsBytes8,
	{opBytes4, opPackets4}: opBytesPackets4, {opBytes8, opPackets8}: opBytesPackets8,
	{opFirstUp, opLastUp}: opFirstLastUp, {opLastUp, opFirstUp}: opLastFirstUp,
	{opSrcAS2, opDstAS2}: opAS2, {opSrcAS4, opDstAS4}: opAS4, {opSrcMask, opDstMask}: opMasks,
	{opFlags1, opProto}: opFlagsProto, {opProto, opFlags1}: opProtoFlags,
}

type opKey struct {
	col column
	n   uint16
}

var native = map[opKey]op{
	{colSrc, 4}: opSrc4, {colSrc, 16}: opSrc16, {colDst, 4}: opDst4, {colDst, 16}: opDst16,
	{colNextHop, 4}: opNextHop4, {colNextHop, 16}: opNextHop16,
	{colBGPNextHop, 4}: opBGPNextHop4, {colBGPNextHop, 16}: opBGPNextHop16,
	{colSrcPort, 2}: opSrcPort, {colDstPort, 2}: opDstPort, {colProto, 1}: opProto, {colTOS, 1}: opTOS,
	{colTCPFlags, 1}: opFlags1, {colTCPFlags, 2}: opFlags2,
	{colPackets, 4}: opPackets4, {colPackets, 8}: opPackets8, {colBytes, 4}: opBytes4, {colBytes, 8}: opBytes8,
	{colInput, 2}: opInput2, {colInput, 4}: opInput4, {colOutput, 2}: opOutput2, {colOutput, 4}: opOutput4,
	{colSrcAS, 2}: opSrcAS2, {colSrcAS, 4}: opSrcAS4, {colDstAS, 2}: opDstAS2, {colDstAS, 4}: opDstAS4,
	{colSrcMask, 1}: opSrcMask, {colDstMask, 1}: opDstMask, {colDirection, 1}: opDirection,
	{colEndReason, 1}: opEndReason, {colForwarding, 1}: opForwarding, {colFlowID, 8}: opFlowID8,
	{colVLAN, 2}: opVLAN2,
}

// nativeOp is native by column and length.
var nativeOp = func() (t [columns][17]op) {
	for k, o := range native {
		t[k.col][k.n] = o
	}
	return t
}()

// pair says that a column may be filled by IPv4's or IPv6's element, whichever
// is not zero.
func (c column) pair() bool {
	return c == colSrc || c == colDst || c == colNextHop || c == colBGPNextHop || c == colSrcMask || c == colDstMask
}

// compile gives t its plan, or two if biflows are split; then it needs nobody's
// types any more.
func (t *Template) compile(split bool) {
	forward, reverse := t, (*Template)(nil)
	if split {
		forward, reverse = t.split()
	}
	t.plan, t.reverse = compile(forward), reverse
	if reverse != nil {
		reverse.plan, reverse.types = compile(reverse), nil
	}
	t.types = nil
}

// compile makes the plan of a template. The template was checked: its records
// have at least one octet and at most 65535.
func compile(t *Template) *plan {
	p := &plan{specs: make([]field, 0, len(t.Fields)), moves: make([]move, 0, len(t.Fields))}
	used := 0 // left bits given away
	leftBit := func() uint8 {
		if used == maxLefts {
			return always
		}
		used++
		return uint8(used - 1)
	}

	// Where each field stands, and of which rank its column's best is.
	var best [columns]rule
	var have [columns]bool
	off := 0
	for i, f := range t.Fields {
		e, known := lookup(t, i)
		s := field{
			typ: e.Type, n: f.Length, off: uint16(min(off, 65535)), lead: leadOf(e, f.Name),
			skip: known && e.PEN == 0 && e.ID == ie.IDPaddingOctets,
		}
		if i < t.Scope && t.v9 {
			s.typ = ie.Unsigned64 // an interface's number, a slot's, …
		}
		if f.Length == VariableLength && !t.v9 {
			p.variable = true
			p.length++
		} else {
			p.length += int(f.Length)
			off += int(f.Length)
		}
		p.specs = append(p.specs, s)
		if r, ok := ruleOf(t, i); ok && (!have[r.col] || r.rank < best[r.col].rank) {
			best[r.col], have[r.col] = r, true
		}
	}

	names := newIndex(len(t.Fields))
	for i, f := range t.Fields {
		if i == t.Scope && i > 0 {
			names = newIndex(len(t.Fields) - i) // the scope's names are its own
		}
		if j := names.last(f.Name, i); j >= 0 {
			p.specs[j].again, p.specs[i].dup = i, true
		}
	}

	// Moves. Elements that no column takes follow in the template's order.
	var filled [columns]ie.Type
	var full [columns]bool
	keep := make([]uint8, len(t.Fields)) // 0: in a column; else bit+1 or always
	for i, f := range t.Fields {
		s := &p.specs[i]
		if s.skip || f.Length == 0 && s.typ != ie.String {
			continue // padding, or nothing there
		}
		r, ok := ruleOf(t, i)
		if !ok || r.rank != best[r.col].rank {
			keep[i] = always
			continue
		}
		m := move{off: s.off, n: s.n, col: r.col, typ: s.typ, field: uint16(i), left: always}
		switch {
		case r.col.helps():
			keep[i] = always
			if full[r.col] {
				continue
			}
			if m.op = opGeneral; r.col == colIPVersion && f.Length == 1 {
				m.op = opIPVersion1
			}
		case full[r.col] && r.col.pair() && filled[r.col] != t.family(i):
			m.op = opOther
			if !p.fits(r.col, t, i) {
				keep[i] = always
				continue
			}
		case full[r.col] && (r.col == colICMP || r.col == colICMPType || r.col == colICMPCode):
			m.op = opGeneral // IPv4's and IPv6's; the protocol tells which is meant
		case full[r.col]:
			keep[i] = always
			continue
		default:
			m.op = p.native(r.col, t, i)
		}
		full[r.col], filled[r.col] = true, t.family(i)

		// What may not fit its column is kept as an element when it does not.
		if !r.col.helps() && !m.op.fits() {
			if m.left = leftBit(); m.left == always {
				keep[i] = always
			} else {
				keep[i] = m.left + 1
			}
		}
		p.moves = append(p.moves, m)
		mapped := flow.AddrFrom4([4]byte{})
		switch m.op {
		case opSrc4:
			p.base.Src = mapped
		case opDst4:
			p.base.Dst = mapped
		case opNextHop4:
			p.base.NextHop = mapped
		case opBGPNextHop4:
			p.base.BGPNextHop = mapped
		}
		if m.op.fits() || m.op == opFirstMs || m.op == opLastMs {
			p.base.Has |= hasBit[r.col]
		}
		switch r.col {
		case colICMP, colICMPType, colICMPCode:
			p.finish |= finishICMP
			p.moves[len(p.moves)-1].typ = t.family(i)
		case colSampling, colSampler, colSampleInt, colSampleGap, colSampleN, colSampleOf, colSampleP:
			p.finish |= finishSampling
		case colObserved:
			p.finish |= finishObserved
		}
	}
	p.order()
	p.base.IPVersion = t.ipVersion()
	p.application = t.applicationField()

	some := len(keep)
	for _, k := range keep {
		if k == 0 {
			some--
		}
	}
	kept := newIndex(len(t.Fields))
	elems, members := make([]elem, 0, some), make([]member, 0, some)
	for i := range t.Fields {
		if keep[i] == 0 {
			continue
		}
		s := &p.specs[i]
		mb := member{field: uint16(i), off: s.off, n: s.n, typ: s.typ, left: always}
		if keep[i] != always {
			mb.left = keep[i] - 1
		} else {
			p.finish |= finishElements
		}
		if j := kept.first(t.Fields[i].Name, len(elems)); j < len(elems) {
			elems[j].member = append(elems[j].member, mb)
			continue
		}
		members = append(members, mb)
		elems = append(elems, elem{key: s.lead, member: members[len(members)-1 : len(members) : len(members)]})
	}
	p.usual = parts(elems, true)
	if len(p.usual) == 1 && p.usual[0].then == nil {
		p.plain = &p.usual[0]
	}
	if p.all = p.usual; slices.ContainsFunc(elems, func(e elem) bool { return e.leftOnly() }) {
		p.all = parts(elems, false)
	}
	return p
}

// index finds names again: few by looking at each, many by a map.
type index struct {
	names  []string
	values []int
	many   map[string]int
}

const fewNames = 64

func newIndex(n int) index {
	if n > fewNames {
		return index{many: make(map[string]int, n)}
	}
	return index{names: make([]string, 0, n), values: make([]int, 0, n)}
}

// at is where name's value is, which is v if it had none.
func (x *index) at(name string, v int) (have int, found bool) {
	if x.many != nil {
		if have, found = x.many[name]; !found {
			x.many[name] = v
		}
		return have, found
	}
	if i := slices.Index(x.names, name); i >= 0 {
		return x.values[i], true
	}
	x.names, x.values = append(x.names, name), append(x.values, v)
	return v, false
}

// first is name's first value: v, if it had none.
func (x *index) first(name string, v int) int {
	have, found := x.at(name, v)
	if !found {
		return v
	}
	return have
}

// last is name's latest value, -1 if it had none, which is v from now on.
func (x *index) last(name string, v int) int {
	have, found := x.at(name, v)
	switch {
	case !found:
		return -1
	case x.many != nil:
		x.many[name] = v
	default:
		x.values[slices.Index(x.names, name)] = v
	}
	return have
}

// leadOf is what stands before an element's value in JSON: a comma and its name as a key.
// Its capacity is what steps of leadMost octets take that copy leadStep each. Those of the registry are made once.
func leadOf(e ie.Element, name string) []byte {
	if e.PEN == ie.IANA && e.Name == name && int(e.ID) < len(ianaLeads) && ianaLeads[e.ID] != nil {
		return ianaLeads[e.ID]
	}
	return newLead(name) // also of numbers that the registry does not have, and the exporter described
}

// A lead is copied leadStep octets at a time, of which at most leadMost count: as many as
// there are would take longer, and of a whole step checks of bounds would have to ask.
const (
	leadStep = 32
	leadMost = leadStep - 1
)

func newLead(name string) []byte {
	b := appendKey([]byte{','}, name)
	padded := make([]byte, (len(b)+leadMost-1)/leadMost*leadMost+leadStep-leadMost)
	return padded[:copy(padded, b)]
}

var ianaLeads = func() (leads [][]byte) {
	for e := range ie.All {
		for len(leads) <= int(e.ID) {
			leads = append(leads, nil)
		}
		leads[e.ID] = newLead(e.Name)
	}
	return leads
}()

// order puts the start of the exporter's clock before stamps that count from
// it, and joins moves of fields that stand side by side.
func (p *plan) order() {
	slices.SortStableFunc(p.moves, func(a, b move) int { return a.col.turn() - b.col.turn() })
	moves := p.moves[:0]
	for _, m := range p.moves {
		if n := len(moves); n > 0 && !p.variable {
			last := &moves[n-1]
			if both, ok := joined[[2]op{last.op, m.op}]; ok && last.off+last.n == m.off {
				last.op, last.n = both, last.n+m.n
				continue
			}
		}
		moves = append(moves, m)
	}
	p.moves = moves
}

// turn is 0 for what other columns need, else 1.
func (c column) turn() int {
	if c == colInit {
		return 0
	}
	return 1
}

// fits says whether a move in native length always succeeds.
func (o op) fits() bool {
	return o > opOther && o != opFirstMs && o != opLastMs
}

// fits says whether field i has the length that its pair column takes.
func (p *plan) fits(c column, t *Template, i int) bool {
	f := t.Fields[i]
	if c == colSrcMask || c == colDstMask {
		return f.Length == 1
	}
	return int(f.Length) == p.specs[i].typ.Len()
}

// native picks the fast move for a column, if field i is as long as it should.
func (p *plan) native(c column, t *Template, i int) op {
	f := t.Fields[i]
	variable := f.Length == VariableLength && !t.v9
	switch {
	case c == colFirst && f.ID == ie.IDFlowStartSysUpTime && f.Length == 4 && t.v9:
		return opFirstUp
	case c == colLast && f.ID == ie.IDFlowEndSysUpTime && f.Length == 4 && t.v9:
		return opLastUp
	case f.ID == ie.IDFlowStartSysUpTime, f.ID == ie.IDFlowEndSysUpTime:
		return opUp
	case f.ID == ie.IDFlowStartDeltaMicroseconds, f.ID == ie.IDFlowEndDeltaMicroseconds:
		return opDelta
	case c == colFirst && f.ID == ie.IDFlowStartMilliseconds && f.Length == 8:
		return opFirstMs
	case c == colLast && f.ID == ie.IDFlowEndMilliseconds && f.Length == 8:
		return opLastMs
	case variable, c.pair() && !p.fits(c, t, i):
		return opGeneral
	}
	if f.Length > 16 {
		return opGeneral
	}
	return nativeOp[c][f.Length]
}

// lookup names field i.
func lookup(t *Template, i int) (ie.Element, bool) {
	f := t.Fields[i]
	if i < t.Scope && t.v9 {
		return ie.Element{}, false
	}
	if t.v9 {
		return ie.LookupV9(f.ID)
	}
	return t.types.element(f.PEN, f.ID)
}

// ruleOf is the rule of field i. Scope fields have none.
func ruleOf(t *Template, i int) (rule, bool) {
	f := t.Fields[i]
	if f.PEN != 0 || i < t.Scope || t.opts || f.Length == 0 {
		return rule{}, false
	}
	if int(f.ID) >= len(ruleByID) {
		return rule{}, false
	}
	r := ruleByID[f.ID]
	return r, r.col != noColumn
}

// family is IPv4Address or IPv6Address if field i is of that version, also for
// prefix lengths and ICMP; else what type it has.
func (t *Template) family(i int) ie.Type {
	switch t.Fields[i].ID {
	case ie.IDSourceIPv4PrefixLength, ie.IDDestinationIPv4PrefixLength,
		ie.IDIcmpTypeCodeIPv4, ie.IDIcmpTypeIPv4, ie.IDIcmpCodeIPv4:
		return ie.IPv4Address
	case ie.IDSourceIPv6PrefixLength, ie.IDDestinationIPv6PrefixLength,
		ie.IDIcmpTypeCodeIPv6, ie.IDIcmpTypeIPv6, ie.IDIcmpCodeIPv6:
		return ie.IPv6Address
	}
	e, _ := lookup(t, i)
	return e.Type
}

// ipVersion is 4 or 6 if the template has addresses of one version only.
func (t *Template) ipVersion() uint8 {
	var v uint8
	for i := range t.Fields {
		r, ok := ruleOf(t, i)
		if !ok || r.col != colSrc && r.col != colDst {
			continue
		}
		f := uint8(4)
		if t.family(i) == ie.IPv6Address {
			f = 6
		}
		if v != 0 && v != f {
			return 0
		}
		v = f
	}
	return v
}
