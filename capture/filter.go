package capture

import (
	"errors"
	"fmt"

	"golang.org/x/net/bpf"

	"weir/packet"
)

// Filter is a compiled filter expression. It may be used from any goroutine.
type Filter struct {
	expr string
	link packet.LinkType
	// strip: the link type's headers have no fixed place. They are taken off
	// before the program sees the frame, which asks for the EtherType as the
	// kernel's programs do.
	strip bool
	code  []instruction
}

// FilterError says what of a filter expression was not understood.
type FilterError struct {
	Expr   string
	Column int // of the first character in doubt, from 1
	Msg    string
	// Link: the expression is sound, but asks for what frames of this link
	// type do not have.
	Link bool
}

func (e *FilterError) Error() string { return fmt.Sprintf("filter:1:%d: %s", e.Column, e.Msg) }

// CompileFilter compiles an expression in the language of pcap-filter(7) for
// frames of the given link type. It matches what tcpdump matches, peculiarities
// included (a vlan, mpls or pppoes moves everything that is written after it
// behind that header; IPv6 extension headers are not walked, but for one
// fragment header), but for these:
//
//   - host names are not resolved, protochain, gateway and the fields of 802.11
//     and of lesser known protocols are refused, with what would be accepted;
//   - 802.2 frames are known in both versions of Linux cooked frames;
//   - in BSD loopback frames every system's number of IPv6 is known;
//   - behind PPP, NFLOG, 802.11 and other headers without a fixed place, the
//     packet itself is looked at, as it is in raw IP.
//
// For an interface, whose link type only OpenLive knows, compile for
// packet.LinkNetwork: that takes what any interface can answer, and Match is
// for frames without link headers only. What an interface's socket does not see
// any more, the outermost VLAN tag, is asked of the kernel: tagged frames match
// there what they match in a capture file. An empty expression matches everything.
func CompileFilter(expr string, link packet.LinkType) (*Filter, error) {
	f := &Filter{expr: expr, link: link}
	layout, fixed := layoutOf(link)
	f.strip = !fixed
	raw, err := compile(expr, layout, maxFilterSnap)
	var fe *FilterError
	if link == packet.LinkNetwork && errors.As(err, &fe) && fe.Link {
		layout, _ = layoutOf(packet.LinkEthernet)
		layout.live = true
		_, err = compile(expr, layout, maxFilterSnap)
		raw = nil // and Match never
	}
	if err != nil {
		return nil, err
	}
	f.code = translate(raw)
	return f, nil
}

const maxFilterSnap = 1 << 18

func (f *Filter) String() string { return f.expr }

// Match says whether a frame passes; wire is its length on the line. What the
// program asks for beyond the captured octets makes it not pass.
func (f *Filter) Match(data []byte, wire uint32) bool {
	if f == nil {
		return true
	}
	etherType := uint32(f.link) & 0xffff
	if f.strip && f.link>>16 != packet.LinkNetwork>>16 {
		at, _ := packet.Network(f.link, data)
		data, etherType = data[at.Offset:], uint32(at.EtherType)
	}
	return run(f.code, data, wire, etherType) != 0
}

// Program is the filter for programs that see frames of a link type where they
// pass, with all their tags in them; packet.LinkNetwork: without link headers. It
// may ask for the packet type and, with LinkNetwork, for the EtherType. The error
// is a *FilterError when it asks for what such frames do not have.
func (f *Filter) Program(link packet.LinkType) ([]bpf.RawInstruction, error) {
	layout, fixed := layoutOf(link)
	if !fixed && link != packet.LinkNetwork {
		return nil, fmt.Errorf("filters are not possible on frames of link type %d", link)
	}
	layout.live = true
	return compile(f.expr, layout, maxFilterSnap)
}

// program is the filter as the kernel runs it on an interface of the given link
// type; the kernel keeps snap octets of a frame that passes. A nil filter
// passes everything.
func (f *Filter) program(link packet.LinkType, snap int) ([]bpf.RawInstruction, error) {
	if f == nil {
		return []bpf.RawInstruction{{Op: opRet, K: uint32(snap)}}, nil
	}
	layout, fixed := layoutOf(link)
	if !fixed && link != packet.LinkNetwork {
		return nil, errors.New("filters are not possible on an interface in monitor mode; capture to a file and filter that")
	}
	layout.live = true
	return compileLive(f.expr, layout, snap)
}
