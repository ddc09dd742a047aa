package capture

import (
	"golang.org/x/net/bpf"

	"weir/packet"
)

// node is a boolean expression. Each leaf is a test: straight-line code that
// leaves a value in A, and a comparison.
type node interface{}

type (
	and      struct{ a, b node }
	or       struct{ a, b node }
	not      struct{ a node }
	constant bool
	test     struct {
		load []bpf.RawInstruction
		jump uint16 // opJeq, opJgt, opJge, opJset, with opX for X
		k    uint32
	}
)

// both and either join tests, from left to right; nil stands for nothing.
func both(nodes ...node) node {
	var all node
	for _, n := range nodes {
		if all == nil {
			all = n
		} else if n != nil {
			all = and{all, n}
		}
	}
	return all
}

func either(nodes ...node) node {
	var all node
	for _, n := range nodes {
		if all == nil {
			all = n
		} else if n != nil {
			all = or{all, n}
		}
	}
	return all
}

// maxProgram is the kernel's limit.
const maxProgram = 4096

// assembler lays a tree out from its end, so that the distance of every jump is
// known when it is written. Positions count from the end: code[p-1] is the
// instruction at position p.
type assembler struct {
	code []bpf.RawInstruction // last one first
	full bool
}

// entry is where a piece of code begins. Whoever jumps there with the same
// first loads already done may jump behind them.
type entry struct {
	at    int
	load  []bpf.RawInstruction
	after int
}

func (s *assembler) emit(in bpf.RawInstruction) int {
	if len(s.code) >= maxProgram {
		s.full = true
		s.code = s.code[:0]
	}
	s.code = append(s.code, in)
	return len(s.code)
}

// tree writes n, which goes to yes or no, and says where it begins.
func (s *assembler) tree(n node, yes, no entry) entry {
	switch n := n.(type) {
	case and:
		b := s.tree(n.b, yes, no)
		return s.tree(n.a, b, no)
	case or:
		b := s.tree(n.b, yes, no)
		return s.tree(n.a, yes, b)
	case not:
		return s.tree(n.a, no, yes)
	case constant:
		if n {
			return yes
		}
		return no
	case *test:
		t, f := s.near(reach(yes, n.load), reach(no, n.load))
		at := s.emit(bpf.RawInstruction{Op: opJmp | n.jump, K: n.k, Jt: t, Jf: f})
		e := entry{load: n.load, after: at}
		for i := len(n.load) - 1; i >= 0; i-- {
			at = s.emit(n.load[i])
		}
		e.at = at
		return e
	}
	panic("capture: unknown kind of filter node")
}

// reach is the position to jump to for one who has just done load.
func reach(e entry, load []bpf.RawInstruction) int {
	if len(e.load) != len(load) || len(load) == 0 {
		return e.at
	}
	for i := range load {
		if load[i] != e.load[i] {
			return e.at
		}
	}
	return e.after
}

// near gives the distances for a jump that is written next. What is further
// away than the eight bits of a jump goes by way of a long one.
func (s *assembler) near(yes, no int) (t, f uint8) {
	const far = 250
	relay := func(to int) int {
		return s.emit(bpf.RawInstruction{Op: opJmp | opJa, K: uint32(len(s.code) - to)})
	}
	if len(s.code)-yes > far {
		yes = relay(yes)
	}
	if len(s.code)-no > far {
		no = relay(no)
	}
	return uint8(len(s.code) - yes), uint8(len(s.code) - no)
}

// assemble makes a program that returns snap for frames that pass.
func assemble(n node, snap int) ([]bpf.RawInstruction, bool) {
	var s assembler
	no := entry{at: s.emit(bpf.RawInstruction{Op: opRet})}
	yes := entry{at: s.emit(bpf.RawInstruction{Op: opRet, K: uint32(snap)})}
	start := s.tree(n, yes, no)
	if s.full {
		return nil, false
	}
	// A tree that is constant begins at one of the returns.
	code := s.code[:start.at]
	for i, j := 0, len(code)-1; i < j; i, j = i+1, j-1 {
		code[i], code[j] = code[j], code[i]
	}
	return code, true
}

// framing says how a frame tells the type of its network layer.
type framing uint8

const (
	framingEthernet framing = iota
	framingCisco            // Cisco HDLC: as Ethernet, without 802.3
	framingPPP
	framingCooked  // Linux cooked
	framingNumber  // EtherType at a place of its own
	framingFamily  // BSD loopback
	framingVersion // raw IP, of either or of the one version
	framingOutside // the kernel, or the caller, knows the EtherType
)

// layout is where the headers are. Tags and labels in the expression move them
// for what follows.
type layout struct {
	framing framing
	link    int // the link header
	kind    int // the type field
	network int // what the link header carries
	labels  int // MPLS labels passed; four octets each, behind network
	only    uint16
	name    string
	live    bool // the kernel runs it: packet type and tag can be asked for
}

// layoutOf is the layout of a link type, and whether its headers have a fixed
// place. If not, the program is for what remains without them.
func layoutOf(link packet.LinkType) (layout, bool) {
	switch link {
	case packet.LinkEthernet:
		return layout{framing: framingEthernet, kind: 12, network: 14, name: "Ethernet"}, true
	case packet.LinkCiscoHDLC:
		return layout{framing: framingCisco, kind: 2, network: 4, name: "Cisco HDLC"}, true
	case packet.LinkSLL:
		return layout{framing: framingCooked, kind: 14, network: 16, name: "Linux cooked"}, true
	case packet.LinkSLL2:
		return layout{framing: framingCooked, kind: 0, network: 20, name: "Linux cooked"}, true
	case packet.LinkNull, packet.LinkLoop:
		return layout{framing: framingFamily, kind: 0, network: 4, name: "loopback"}, true
	case packet.LinkRaw, packet.LinkRawBSD, packet.LinkRawOpenBSD:
		return layout{framing: framingVersion, name: "raw IP"}, true
	case packet.LinkIPv4:
		return layout{framing: framingVersion, only: 0x0800, name: "raw IPv4"}, true
	case packet.LinkIPv6:
		return layout{framing: framingVersion, only: 0x86dd, name: "raw IPv6"}, true
	}
	return layout{framing: framingOutside, live: link == packet.LinkNetwork, name: "this"}, false
}

// net is the offset of the network header's octet n.
func (l *layout) net(n int) uint32 { return uint32(l.network + 4*l.labels + n) }

var loads = map[int]uint16{1: opLdB, 2: opLdH, 4: opLdW}

// field tests size octets at an offset: equal to k under a mask (0: all bits).
func field(at uint32, size int, k, mask uint32) node {
	load := []bpf.RawInstruction{{Op: loads[size], K: at}}
	if mask != 0 {
		load = append(load, bpf.RawInstruction{Op: opAlu | opAnd, K: mask})
	}
	return &test{load, opJeq, k}
}

// masked tests a word; a mask of 0 asks only whether the word is there.
func masked(at, k, mask uint32) node {
	if mask == 0 {
		return &test{[]bpf.RawInstruction{{Op: opLdW, K: at}, {Op: opAlu | opAnd}}, opJeq, 0}
	}
	if mask == 1<<32-1 {
		mask = 0
	}
	return field(at, 4, k, mask)
}

func compareField(at uint32, size int, jump uint16, k uint32) node {
	return &test{[]bpf.RawInstruction{{Op: loads[size], K: at}}, jump, k}
}

// EtherTypes of the language.
const (
	etherIP   = 0x0800
	etherARP  = 0x0806
	etherRARP = 0x8035
	etherIP6  = 0x86dd
	etherMPLS = 0x8847
	etherPPPD = 0x8863
	etherPPPS = 0x8864
	maxLength = 1500
)

// etherType tests the type of the network layer; below 1501 it is an 802.2 SAP.
// Nil: nothing carries this type here.
func (l *layout) etherType(t uint16) (node, string) {
	if l.labels > 0 {
		version := uint32(0x40)
		if t == etherIP6 {
			version = 0x60
		} else if t != etherIP {
			return nil, "behind MPLS labels only ip and ip6 can be told"
		}
		// Bottom of the stack, then the version.
		return both(field(l.net(-2), 1, 1, 1), field(l.net(0), 1, version, 0xf0)), ""
	}
	at := uint32(l.kind)
	switch l.framing {
	case framingEthernet:
		if t > maxLength {
			return field(at, 2, uint32(t), 0), ""
		}
		length := not{compareField(at, 2, opJgt, maxLength)}
		if t == 0xfe || t == 0xf0 || t == 0x06 { // ISO, NetBEUI, IP: both SAPs
			return both(length, field(l.net(0), 2, uint32(t)<<8|uint32(t), 0)), ""
		}
		return both(length, field(at+2, 1, uint32(t), 0)), ""
	case framingCisco:
		if t == 0xfe {
			t = 0xfefe
		}
		return field(at, 2, uint32(t), 0), ""
	case framingPPP:
		switch t {
		case etherIP:
			t = 0x21
		case etherIP6:
			t = 0x57
		case etherMPLS:
			t = 0x281
		}
		return field(at, 2, uint32(t), 0), ""
	case framingCooked:
		const llc = 4
		switch {
		case t > maxLength:
			return field(at, 2, uint32(t), 0), ""
		case t == 0xfe || t == 0xf0 || t == 0x06:
			return both(field(at, 2, llc, 0), field(l.net(0), 2, uint32(t)<<8|uint32(t), 0)), ""
		}
		return both(field(at, 2, llc, 0), field(l.net(0), 1, uint32(t), 0)), ""
	case framingFamily:
		var all node
		families := map[uint16][]uint32{etherIP: {2}, etherIP6: {30, 10, 24, 28}}[t]
		for _, f := range families {
			all = either(all, field(at, 4, f, 0), field(at, 4, f<<24, 0))
		}
		if all == nil {
			return constant(false), ""
		}
		return all, ""
	case framingVersion:
		switch {
		case l.only != 0:
			return constant(t == l.only), ""
		case t == etherIP:
			return field(l.net(0), 1, 0x40, 0xf0), ""
		case t == etherIP6:
			return field(l.net(0), 1, 0x60, 0xf0), ""
		}
		return constant(false), ""
	}
	return field(extProtocol, 2, uint32(t), 0), ""
}
