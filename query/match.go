package query

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"weir/flow"
)

// Matcher says whether a record passes a filter. It is safe for concurrent use
// and does not allocate.
type Matcher func(r *flow.Record) bool

// Matcher makes a Matcher that says what Match says, for many records: what
// can be decided beforehand is.
func (f *Filter) Matcher() Matcher { return compile(f.root) }

func compile(n node) Matcher {
	switch n := n.(type) {
	case *orNode:
		l, r := compile(n.l), compile(n.r)
		return func(x *flow.Record) bool { return l(x) || r(x) }
	case *andNode:
		l, r := compile(n.l), compile(n.r)
		return func(x *flow.Record) bool { return l(x) && r(x) }
	case *notNode:
		m := compile(n.x)
		return func(x *flow.Record) bool { return !m(x) }
	case *term:
		m := n.compile(n.subject.cols[0])
		for _, c := range n.subject.cols[1:] {
			l, r := m, n.compile(c)
			m = func(x *flow.Record) bool { return l(x) || r(x) }
		}
		return m
	}
	return func(*flow.Record) bool { return true } // anyNode
}

// compile makes the term's test of one column.
func (t *term) compile(c column) Matcher {
	var test Matcher // of a record that knows c
	switch {
	case t.op == opUnknown:
		return func(r *flow.Record) bool { return !known(r, c) }
	case t.subject.kind == kindAddr:
		test = t.compileAddr(c)
	case t.subject.kind == kindTime:
		op, limit := t.op, t.micros
		test = func(r *flow.Record) bool { return compare(micros(r, c), op, limit) }
	default:
		test = t.compileNumber(reader(c))
	}
	if c == colIPVersion {
		return func(r *flow.Record) bool { return ipVersion(r) != 0 && test(r) }
	}
	if bits := columnBits[c]; bits != 0 {
		return func(r *flow.Record) bool { return r.Has&bits == bits && test(r) }
	}
	return test
}

// compileNumber tests what read gives.
func (t *term) compileNumber(read func(*flow.Record) uint64) Matcher {
	if len(t.numbers) == 1 {
		v := t.numbers[0]
		switch t.op {
		case opEq, opIn:
			return func(r *flow.Record) bool { return read(r) == v }
		case opAll:
			return func(r *flow.Record) bool { return read(r)&v == v }
		}
	}
	if t.op == opIn {
		list := slices.Sorted(slices.Values(t.numbers))
		return func(r *flow.Record) bool {
			_, found := slices.BinarySearch(list, read(r))
			return found
		}
	}
	// An interval: from lo to hi, empty if no number is less than 0.
	lo, hi := uint64(0), uint64(math.MaxUint64)
	switch v := t.numbers[0]; t.op {
	case opLt:
		if v == 0 {
			return func(*flow.Record) bool { return false }
		}
		hi = v - 1
	case opGt:
		if v == math.MaxUint64 {
			return func(*flow.Record) bool { return false }
		}
		lo = v + 1
	case opLe:
		hi = v
	case opGe:
		lo = v
	}
	return func(r *flow.Record) bool { n := read(r); return n >= lo && n <= hi }
}

// network is a prefix in the form in which records hold addresses.
type network struct {
	hi, lo         uint64 // the address
	hiMask, loMask uint64
	four           bool // of IPv4: of v4-mapped addresses alone
}

func newNetwork(p netip.Prefix) network {
	a := p.Masked().Addr().As16()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return network{
		hi: binary.BigEndian.Uint64(a[:8]), lo: binary.BigEndian.Uint64(a[8:]),
		hiMask: ^uint64(0) << max(64-bits, 0), loMask: ^(^uint64(0) >> max(bits-64, 0)),
		four: p.Addr().Is4(),
	}
}

// has says whether a lies in the network. An IPv6 network does not contain
// IPv4 addresses, whatever it says of the range they are mapped to.
func (n *network) has(a *flow.Addr) bool {
	return binary.BigEndian.Uint64(a[:8])&n.hiMask == n.hi && binary.BigEndian.Uint64(a[8:])&n.loMask == n.lo && a.Is4() == n.four
}

func (t *term) compileAddr(c column) Matcher {
	read := addressReader(c)
	if t.table != nil {
		return func(r *flow.Record) bool { return t.table.Contains(read(r).Netip()) }
	}
	list := make([]network, len(t.prefixes))
	for i, p := range t.prefixes {
		list[i] = newNetwork(p)
	}
	if len(list) == 1 {
		n := list[0]
		return func(r *flow.Record) bool { return n.has(read(r)) }
	}
	return func(r *flow.Record) bool {
		a := read(r)
		for i := range list {
			if list[i].has(a) {
				return true
			}
		}
		return false
	}
}

// reader gives what number gives of one column: those that filters are mostly
// about without a detour.
func reader(c column) func(*flow.Record) uint64 {
	switch c {
	case colProto:
		return func(r *flow.Record) uint64 { return uint64(r.Proto) }
	case colSrcPort:
		return func(r *flow.Record) uint64 { return uint64(r.SrcPort) }
	case colDstPort:
		return func(r *flow.Record) uint64 { return uint64(r.DstPort) }
	case colTCPFlags:
		return func(r *flow.Record) uint64 { return uint64(r.TCPFlags) }
	case colPackets:
		return func(r *flow.Record) uint64 { return r.Packets }
	case colBytes:
		return func(r *flow.Record) uint64 { return r.Bytes }
	case colInput:
		return func(r *flow.Record) uint64 { return uint64(r.Input) }
	case colOutput:
		return func(r *flow.Record) uint64 { return uint64(r.Output) }
	}
	return func(r *flow.Record) uint64 { return number(r, c) }
}

// addressReader gives what address gives of one column, in place.
func addressReader(c column) func(*flow.Record) *flow.Addr {
	switch c {
	case colSrc:
		return func(r *flow.Record) *flow.Addr { return &r.Src }
	case colDst:
		return func(r *flow.Record) *flow.Addr { return &r.Dst }
	case colNextHop:
		return func(r *flow.Record) *flow.Addr { return &r.NextHop }
	case colBGPNextHop:
		return func(r *flow.Record) *flow.Addr { return &r.BGPNextHop }
	case colExporter:
		return func(r *flow.Record) *flow.Addr { return &r.Exporter }
	}
	panic("query: " + c.String() + " is not an address")
}
