package capture

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/bpf"
)

// A filter expression (pcap-filter(7)):
//
//	expr      = unary { ("and" | "or") unary }        equal rank, left to right
//	unary     = "not" unary | "(" expr ")" | relation | primitive
//	primitive = [proto] [dir] [kind] id               what is left out: see qualifier
//	          | proto | proto ("multicast" | "broadcast") | "less" n | "greater" n
//	          | "vlan" [n] | "mpls" [n] | "pppoed" | "pppoes" [n] | "inbound" | "outbound"
//	id        = "not" id | "(" id { ("and" | "or") id } ")" | value
//	relation  = sum ("<" | ">" | "<=" | ">=" | "=" | "!=") sum
//	sum       = numbers, "len", proto "[" sum [":" size] "]", operators of C
//
// A value alone takes the qualifiers of what was before it.

// qualifier is what is asked of a value.
type qualifier struct {
	set   bool
	proto string // "": any
	dir   string // "", "src", "dst", "src and dst", "src or dst"
	kind  string // "": host, net, port, portrange, proto
}

// protocols are the words that name one, and how they are told: by EtherType,
// or by the IP protocol number behind IPv4, IPv6 or both.
var protocols = map[string]struct {
	etherType uint16
	number    uint8
	ip4, ip6  bool
}{
	"ether": {}, "link": {},
	"ip": {etherType: etherIP}, "ip6": {etherType: etherIP6}, "arp": {etherType: etherARP}, "rarp": {etherType: etherRARP},
	"stp": {etherType: 0x42}, "iso": {etherType: 0xfe}, "netbeui": {etherType: 0xf0},
	"tcp": {0, 6, true, true}, "udp": {0, 17, true, true}, "sctp": {0, 132, true, true},
	"icmp": {0, 1, true, false}, "icmp6": {0, 58, false, true}, "igmp": {0, 2, true, false}, "igrp": {0, 9, true, false},
	"pim": {0, 103, true, true}, "ah": {0, 51, true, true}, "esp": {0, 50, true, true},
	"vrrp": {0, 112, true, false}, "carp": {0, 112, true, false},
}

// etherNames and protoNames are what "ether proto" and "proto" take by name.
var etherNames = map[string]uint32{
	"ip": etherIP, "ip6": etherIP6, "arp": etherARP, "rarp": etherRARP, "stp": 0x42, "iso": 0xfe, "netbeui": 0xf0,
	"loopback": 0x9000, "mopdl": 0x6001, "moprc": 0x6002, "lat": 0x6004, "sca": 0x6007, "decnet": 0x6003,
}

var protoNames = map[string]uint32{
	"icmp": 1, "igmp": 2, "ipencap": 4, "tcp": 6, "egp": 8, "igrp": 9, "igp": 9, "udp": 17, "dccp": 33, "ipv6": 41, "ipv6-route": 43, "ipv6-frag": 44, "rsvp": 46,
	"gre": 47, "esp": 50, "ah": 51, "ipv6-icmp": 58, "icmp6": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "eigrp": 88, "ospf": 89, "ipip": 94,
	"pim": 103, "vrrp": 112, "carp": 112, "l2tp": 115, "sctp": 132, "udplite": 136,
}

// constants are the names that stand for numbers in relations.
var constants = map[string]uint32{
	"tcpflags": 13, "tcp-fin": 1, "tcp-syn": 2, "tcp-rst": 4, "tcp-push": 8, "tcp-ack": 16, "tcp-urg": 32, "tcp-ece": 64, "tcp-cwr": 128,
	"icmptype": 0, "icmpcode": 1, "icmp-echoreply": 0, "icmp-unreach": 3, "icmp-sourcequench": 4, "icmp-redirect": 5, "icmp-echo": 8,
	"icmp-routeradvert": 9, "icmp-routersolicit": 10, "icmp-timxceed": 11, "icmp-paramprob": 12, "icmp-tstamp": 13, "icmp-tstampreply": 14,
	"icmp-ireq": 15, "icmp-ireqreply": 16, "icmp-maskreq": 17, "icmp-maskreply": 18,
	"icmp6type": 0, "icmp6code": 1, "icmp6-destinationrunreach": 1, "icmp6-packettoobig": 2, "icmp6-timeexceeded": 3, "icmp6-parameterproblem": 4,
	"icmp6-echo": 128, "icmp6-echoreply": 129, "icmp6-multicastlistenerquery": 130, "icmp6-multicastlistenerreportv1": 131,
	"icmp6-multicastlistenerdone": 132, "icmp6-routersolicit": 133, "icmp6-routeradvert": 134, "icmp6-neighborsolicit": 135,
	"icmp6-neighboradvert": 136, "icmp6-redirect": 137, "icmp6-routerrenum": 138, "icmp6-nodeinformationquery": 139,
	"icmp6-nodeinformationresponse": 140, "icmp6-ineighbordiscoverysolicit": 141, "icmp6-ineighbordiscoveryadvert": 142,
	"icmp6-multicastlistenerreportv2": 143, "icmp6-homeagentdiscoveryrequest": 144, "icmp6-homeagentdiscoveryreply": 145,
	"icmp6-mobileprefixsolicit": 146, "icmp6-mobileprefixadvert": 147, "icmp6-certpathsolicit": 148, "icmp6-certpathadvert": 149,
	"icmp6-multicastrouteradvert": 151, "icmp6-multicastroutersolicit": 152, "icmp6-multicastrouterterm": 153,
}

var kinds = []string{"host", "net", "port", "portrange", "proto"}

var others = []string{"src", "dst", "less", "greater", "len", "vlan", "mpls", "pppoed", "pppoes", "inbound", "outbound", "broadcast", "multicast", "mask"}

// refused are words of the language that are not compiled here, with a way out.
var refused = map[string]string{
	"protochain": "proto looks at the protocol of the IP header, and behind an IPv6 fragment header",
	"gateway":    "ether host and not host say the same with addresses",
	"wlan":       "", "radio": "", "fddi": "", "tr": "", "ppp": "", "slip": "", "type": "", "subtype": "", "dir": "", "addr1": "", "addr2": "", "addr3": "", "addr4": "", "ra": "", "ta": "",
	"geneve": "udp port 6081 matches the outer packets", "vxlan": "udp port 4789 matches the outer packets",
	"decnet": "ether proto 0x6003 matches the frames", "atalk": "ether proto 0x809b matches the frames", "aarp": "ether proto 0x80f3 matches the frames",
	"ipx": "ether proto 0x8137 matches most of the frames", "lat": "ether proto 0x6004 matches the frames", "mopdl": "ether proto 0x6001 matches the frames",
	"moprc": "ether proto 0x6002 matches the frames", "sca": "ether proto 0x6007 matches the frames",
	"ifname": "", "on": "", "rulenum": "", "rnr": "", "reason": "", "rset": "", "ruleset": "", "srnr": "", "subrulenum": "", "action": "", "llc": "",
	"es-is": "", "esis": "", "is-is": "", "isis": "", "l1": "", "l2": "", "iih": "", "lsp": "", "snp": "", "csnp": "", "psnp": "", "clnp": "",
	"vpi": "", "vci": "", "lane": "", "oam": "", "oamf4": "", "bcc": "", "sc": "", "ilmic": "", "connectmsg": "", "metaconnect": "",
}

// parser compiles while it reads: where headers are depends on what was read.
type parser struct {
	expr   string
	tokens []token
	pos    int
	depth  int
	layout
	unanswered *FilterError
}

// compile makes the program that returns snap for frames that pass.
func compile(expr string, l layout, snap int) ([]bpf.RawInstruction, error) {
	n, err := parse(expr, l)
	if err != nil {
		return nil, err
	}
	code, ok := assemble(n, snap)
	if !ok {
		return nil, tooLong(expr)
	}
	return code, nil
}

// compileLive does the same for the kernel. There a tag may be in the frame, or
// taken off it: the program looks, and then does one of two things.
func compileLive(expr string, l layout, snap int) ([]bpf.RawInstruction, error) {
	n, err := parse(expr, l)
	if err != nil {
		return nil, err
	}
	if _, all := n.(constant); !all && l.framing == framingEthernet {
		taken := field(extVLANSeen, 1, 1, 0)
		switch off := takenOff(n); off {
		case constant(false):
			n = both(not{taken}, n)
		case constant(true):
			n = either(taken, n)
		default:
			n = either(both(taken, off), both(not{taken}, n))
		}
	}
	code, ok := assemble(n, snap)
	if !ok {
		return nil, tooLong(expr)
	}
	return code, nil
}

func tooLong(expr string) error {
	return &FilterError{Expr: expr, Column: 1, Msg: fmt.Sprintf("the expression needs more than %d instructions", maxProgram)}
}

func parse(expr string, l layout) (n node, err error) {
	tokens, lexErr := lex(expr)
	if lexErr != nil {
		return nil, lexErr
	}
	if len(tokens) == 0 {
		return constant(true), nil
	}
	p := &parser{expr: expr, tokens: tokens, layout: l}
	defer func() {
		if r := recover(); r != nil {
			fe, ok := r.(*FilterError)
			if !ok {
				panic(r)
			}
			n, err = nil, fe
		}
	}()
	var q qualifier
	n = p.expression(&q)
	if t, ok := p.peek(); ok {
		p.fail(t, "expected and, or, or the end; found %q", t.text)
	}
	if p.unanswered != nil {
		return nil, p.unanswered
	}
	return n, nil
}

// fail leaves the parser with an error at a token; parse catches it.
func (p *parser) fail(t token, format string, args ...any) {
	panic(&FilterError{Expr: p.expr, Column: t.at + 1, Msg: fmt.Sprintf(format, args...)})
}

// failLink notes what frames of this link type cannot be asked, and lets the
// parser go on: what else is wrong is wrong for every link type.
func (p *parser) failLink(t token, format string, args ...any) node {
	if p.unanswered == nil {
		p.unanswered = &FilterError{Expr: p.expr, Column: t.at + 1, Msg: fmt.Sprintf(format, args...), Link: true}
	}
	return constant(false)
}

func (p *parser) peek() (token, bool) { return p.ahead(0) }

func (p *parser) ahead(n int) (token, bool) {
	if p.pos+n < len(p.tokens) {
		return p.tokens[p.pos+n], true
	}
	return token{at: len(p.expr)}, false
}

// next takes a token; what says what was expected.
func (p *parser) next(what string) token {
	t, ok := p.peek()
	if !ok {
		p.fail(t, "expected %s; found the end", what)
	}
	p.pos++
	return t
}

// is says whether the n-th token from here is this operator or keyword.
func (p *parser) is(n int, text string) bool {
	t, ok := p.ahead(n)
	return ok && t.text == text && !t.raw
}

func (p *parser) accept(text string) bool {
	if p.is(0, text) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) expect(text string) {
	if !p.accept(text) {
		t, ok := p.peek()
		if !ok {
			p.fail(t, "expected %q; found the end", text)
		}
		p.fail(t, "expected %q; found %q", text, t.text)
	}
}

// enter bounds the recursion.
func (p *parser) enter() func() {
	if p.depth++; p.depth > 200 {
		t, _ := p.peek()
		p.fail(t, "the expression is nested too deeply")
	}
	return func() { p.depth-- }
}

// expression and unary read with the qualifiers q, and leave there what the
// next value alone takes.
func (p *parser) expression(q *qualifier) node {
	defer p.enter()()
	n := p.unary(q)
	for {
		switch {
		case p.accept("and"):
			n = and{n, p.unary(q)}
		case p.accept("or"):
			n = or{n, p.unary(q)}
		default:
			return n
		}
	}
}

func (p *parser) unary(q *qualifier) node {
	defer p.enter()()
	if p.accept("not") {
		return not{p.unary(q)}
	}
	if p.relationAhead() {
		*q = qualifier{}
		return p.relation()
	}
	if p.accept("(") {
		n := p.expression(q)
		p.expect(")")
		return n
	}
	return p.primitive(q)
}

// relationAhead says whether a sum begins here: whether behind its first
// operand is an operator of arithmetic.
func (p *parser) relationAhead() bool {
	t, ok := p.peek()
	if !ok {
		return false
	}
	n := 1
	switch {
	case t.text == "-" && !t.word:
		return true
	case t.text == "(" && !t.word:
		for open := 1; open > 0; n++ {
			u, ok := p.ahead(n)
			if !ok {
				return false
			}
			if !u.word && u.text == "(" {
				open++
			} else if !u.word && u.text == ")" {
				open--
			}
		}
	case !t.word || t.raw:
		return false
	case t.text == "len":
		return true
	default:
		if _, proto := protocols[t.text]; proto && p.is(1, "[") {
			return true
		}
		if _, ok := number(t.text); !ok {
			if _, ok := constants[t.text]; !ok {
				return false
			}
		}
	}
	u, ok := p.ahead(n)
	if !ok || u.word {
		return false
	}
	switch u.text {
	case "<", ">", "<=", ">=", "=", "!=", "<<", ">>", "+", "-", "*", "/", "%", "&", "|", "^":
		return true
	}
	return false
}

// number reads decimal, octal (0…) and hexadecimal (0x…) numbers.
func number(s string) (uint32, bool) {
	if s == "" || s[0] < '0' || s[0] > '9' || strings.Contains(s, "_") {
		return 0, false
	}
	if len(s) > 1 && s[0] == '0' && strings.ContainsAny(s[1:2], "bBoO") {
		return 0, false
	}
	v, err := strconv.ParseUint(s, 0, 32)
	return uint32(v), err == nil
}

func (p *parser) number(what string) uint32 {
	if p.accept("(") {
		v := p.number(what)
		p.expect(")")
		return v
	}
	t := p.next(what)
	v, ok := number(t.text)
	if !ok {
		p.fail(t, "expected %s; found %q", what, t.text)
	}
	return v
}

// primitive reads everything that is no relation.
func (p *parser) primitive(q *qualifier) node {
	t, ok := p.peek()
	const wanted = "a primitive such as host, net, port, proto, src, dst, vlan, less, or a protocol"
	if !ok {
		p.fail(t, "expected %s; found the end", wanted)
	}
	if !t.word {
		p.fail(t, "expected %s; found %q", wanted, t.text)
	}
	if !t.raw {
		if _, proto := protocols[t.text]; proto {
			return p.qualified(q)
		}
		if slices.Contains(kinds, t.text) || t.text == "src" || t.text == "dst" {
			return p.qualified(q)
		}
		if n := p.special(t); n != nil {
			*q = qualifier{}
			return n
		}
		if hint, no := refused[t.text]; no {
			if hint != "" {
				hint = "; " + hint
			}
			p.fail(t, "%q is not supported%s", t.text, hint)
		}
	}
	if !q.set {
		if _, isNumber := number(t.text); !isNumber {
			if _, err := netip.ParseAddr(t.text); err != nil && !strings.Contains(t.text, ".") {
				words := append(append([]string{}, kinds...), others...)
				for w := range protocols {
					words = append(words, w)
				}
				slices.Sort(words)
				if near := nearest(t.text, words); near != "" {
					p.fail(t, "expected %s; found %q: did you mean %s?", wanted, t.text, near)
				}
			}
		}
		p.fail(t, "expected %s; found %q, which says not of what: host %s?", wanted, t.text, t.text)
	}
	return p.value(*q)
}

// qualified reads [proto] [dir] [kind] id, or a protocol alone.
func (p *parser) qualified(q *qualifier) node {
	*q = qualifier{set: true}
	first, _ := p.peek()
	if _, proto := protocols[first.text]; proto {
		p.pos++
		q.proto = first.text
		if q.proto == "link" {
			q.proto = "ether"
		}
		switch {
		case p.accept("multicast"):
			n := p.multicast(first, q.proto)
			*q = qualifier{}
			return n
		case p.accept("broadcast"):
			n := p.broadcast(first, q.proto)
			*q = qualifier{}
			return n
		}
	}
	for _, d := range [2]string{"src", "dst"} {
		if !p.accept(d) {
			continue
		}
		q.dir = d
		other := map[string]string{"src": "dst", "dst": "src"}[d]
		for _, op := range [2]string{"and", "or"} {
			if p.is(0, op) && p.is(1, other) {
				p.pos += 2
				q.dir = "src " + op + " dst"
			}
		}
		break
	}
	for _, k := range kinds {
		if p.is(0, k) {
			p.pos++
			q.kind = k
			break
		}
	}
	if t, ok := p.peek(); ok && !t.raw && (t.text == "protochain" || t.text == "gateway") {
		p.fail(t, "%q is not supported; %s", t.text, refused[t.text])
	}
	if q.dir == "" && q.kind == "" { // a protocol alone
		n := p.protocol(first)
		*q = qualifier{}
		return n
	}
	return p.id(*q)
}

func (p *parser) id(q qualifier) node {
	defer p.enter()()
	if p.accept("not") {
		return not{p.id(q)}
	}
	if !p.accept("(") {
		return p.value(q)
	}
	n := p.id(q)
	for !p.accept(")") {
		switch {
		case p.accept("and"):
			n = and{n, p.id(q)}
		case p.accept("or"):
			n = or{n, p.id(q)}
		default:
			t, _ := p.peek()
			p.fail(t, "expected and, or, or )")
		}
	}
	return n
}

// special reads the primitives that are not about a value; nil if t is none.
func (p *parser) special(t token) node {
	numbered := func(what string, limit uint32) (uint32, bool) {
		u, ok := p.peek()
		if !ok || !u.word {
			return 0, false
		}
		if _, ok := number(u.text); !ok {
			return 0, false
		}
		if p.relationAhead() {
			return 0, false
		}
		v := p.number(what)
		if v > limit {
			p.fail(u, "%s %d; up to %d would be accepted", what, v, limit)
		}
		return v, true
	}
	switch t.text {
	case "less", "greater":
		p.pos++
		v := p.number("a length")
		load := []bpf.RawInstruction{{Op: opLdLen}}
		if t.text == "less" {
			return not{&test{load, opJgt, v}}
		}
		return &test{load, opJge, v}
	case "multicast":
		p.pos++
		return p.multicast(t, "ether")
	case "broadcast":
		p.pos++
		return p.broadcast(t, "ether")
	case "inbound", "outbound":
		p.pos++
		var sent node
		switch {
		case p.live:
			sent = field(extPktType, 2, 4, 0)
		case p.framing == framingCooked && p.kind == 14:
			sent = field(0, 2, 4, 0)
		case p.framing == framingCooked:
			sent = field(10, 1, 4, 0)
		default:
			return p.failLink(t, "%s is known of live interfaces and Linux cooked captures, not of %s frames", t.text, p.name)
		}
		if t.text == "inbound" {
			return not{sent}
		}
		return sent
	case "vlan":
		p.pos++
		id, has := numbered("a VLAN id", 4095)
		return p.vlan(t, id, has)
	case "mpls":
		p.pos++
		label, has := numbered("an MPLS label", 1<<20-1)
		return p.mpls(t, label, has)
	case "pppoed":
		p.pos++
		return p.carries(t, etherPPPD)
	case "pppoes":
		p.pos++
		session, has := numbered("a PPPoE session", 65535)
		n := p.carries(t, etherPPPS)
		if has {
			n = both(n, field(p.net(0), 4, session, 0xffff))
		}
		at := int(p.net(6))
		p.layout.framing, p.layout.link, p.layout.kind, p.layout.network, p.layout.labels = framingPPP, at, at, at+2, 0
		return n
	}
	return nil
}

// carries tests for a network layer type that t asks for.
func (p *parser) carries(t token, etherType uint16) node {
	n, why := p.etherType(etherType)
	if n == nil {
		p.fail(t, "%s", why)
	}
	return n
}

func (p *parser) vlan(t token, id uint32, has bool) node {
	if p.labels > 0 {
		p.fail(t, "vlan behind MPLS is not possible")
	}
	if p.framing != framingEthernet {
		return p.failLink(t, "vlan can be asked of Ethernet frames, not of %s frames", p.name)
	}
	n := either(p.carries(t, 0x8100), p.carries(t, 0x88a8), p.carries(t, 0x9100))
	if has {
		n = both(n, field(p.net(0), 2, id, 0x0fff))
	}
	p.kind += 4
	p.network += 4
	return n
}

func (p *parser) mpls(t token, label uint32, has bool) node {
	var n node
	switch {
	case p.labels > 0: // not the bottom of the stack
		n = field(p.net(-2), 1, 0, 1)
	case p.framing == framingEthernet || p.framing == framingCisco || p.framing == framingPPP:
		n = p.carries(t, etherMPLS)
	default:
		return p.failLink(t, "mpls can be asked of Ethernet, PPP and Cisco HDLC frames, not of %s frames", p.name)
	}
	if has {
		n = both(n, field(p.net(0), 4, label<<12, 0xfffff000))
	}
	p.labels++
	return n
}

func (p *parser) multicast(t token, proto string) node {
	switch proto {
	case "ether":
		if p.framing != framingEthernet {
			return p.noAddresses(t)
		}
		return compareField(uint32(p.link), 1, opJset, 1)
	case "ip":
		return both(p.carries(t, etherIP), compareField(p.net(16), 1, opJge, 224))
	case "ip6":
		return both(p.carries(t, etherIP6), field(p.net(24), 1, 255, 0))
	}
	p.fail(t, "%s multicast has no meaning; ether, ip or ip6 multicast would be accepted", proto)
	return nil
}

func (p *parser) broadcast(t token, proto string) node {
	if proto != "ether" {
		p.fail(t, "%s broadcast needs a netmask that is not known here; ether broadcast or dst host a.b.c.255 would be accepted", proto)
	}
	if p.framing != framingEthernet {
		return p.noAddresses(t)
	}
	return p.mac([6]byte{255, 255, 255, 255, 255, 255}, 0)
}

func (p *parser) noAddresses(t token) node {
	return p.failLink(t, "ether addresses can be asked of Ethernet frames, not of %s frames", p.name)
}

func (p *parser) mac(m [6]byte, at int) node {
	return both(field(uint32(p.link+at+2), 4, binary.BigEndian.Uint32(m[2:]), 0), field(uint32(p.link+at), 2, uint32(binary.BigEndian.Uint16(m[:])), 0))
}

// protocol is a protocol alone.
func (p *parser) protocol(t token) node {
	d := protocols[t.text]
	switch {
	case d.etherType != 0:
		return p.carries(t, d.etherType)
	case d.number == 0:
		p.fail(t, "%s needs host, proto, multicast or broadcast behind it", t.text)
	}
	var n node
	if d.ip4 {
		n = p.protocol4(t, uint32(d.number))
	}
	if d.ip6 {
		n = either(n, p.protocol6(t, uint32(d.number)))
	}
	return n
}

func (p *parser) protocol4(t token, number uint32) node {
	return both(p.carries(t, etherIP), field(p.net(9), 1, number, 0))
}

// protocol6 looks behind one fragment header, and behind no other.
func (p *parser) protocol6(t token, number uint32) node {
	return both(p.carries(t, etherIP6), either(
		field(p.net(6), 1, number, 0),
		both(field(p.net(6), 1, 44, 0), field(p.net(40), 1, number, 0))))
}

// value reads one value and tests it as the qualifiers say.
func (p *parser) value(q qualifier) node {
	what := map[string]string{
		"": "an address", "host": "an address", "net": "a network", "port": "a port", "portrange": "two ports such as 8000-8010", "proto": "a protocol",
	}[q.kind]
	t := p.next(what)
	if !t.word {
		p.fail(t, "expected %s; found %q", what, t.text)
	}
	if q.proto == "ether" && (q.kind == "host" || q.kind == "") {
		return p.etherHost(t, q)
	}
	switch q.kind {
	case "port":
		return p.port(t, q)
	case "portrange":
		return p.portRange(t, q)
	case "proto":
		return p.proto(t, q)
	}
	return p.host(t, q)
}

// directed joins tests of the source and of the destination.
func directed(dir string, src, dst func() node) node {
	switch dir {
	case "src":
		return src()
	case "dst":
		return dst()
	case "src and dst":
		return both(src(), dst())
	}
	return either(src(), dst())
}

func (p *parser) etherHost(t token, q qualifier) node {
	m, ok := parseMAC(t.text)
	if !ok {
		p.fail(t, "expected an Ethernet address such as 02:00:5e:10:00:01; found %q", t.text)
	}
	if p.framing != framingEthernet {
		return p.noAddresses(t)
	}
	return directed(q.dir, func() node { return p.mac(m, 6) }, func() node { return p.mac(m, 0) })
}

// parseMAC reads 1:2:3:4:5:6, 1-2-3-4-5-6, 0102.0304.0506 and 010203040506.
func parseMAC(s string) (m [6]byte, ok bool) {
	if len(s) == 12 && !strings.ContainsAny(s, ":.-") {
		v, err := strconv.ParseUint(s, 16, 48)
		for i := range m {
			m[i] = byte(v >> (40 - 8*i))
		}
		return m, err == nil
	}
	if hw, err := net.ParseMAC(s); err == nil && len(hw) == 6 {
		return [6]byte(hw), true
	}
	for _, sep := range [2]string{":", "-"} {
		parts := strings.Split(s, sep)
		if len(parts) != 6 {
			continue
		}
		for i, h := range parts {
			v, err := strconv.ParseUint(h, 16, 8)
			if err != nil || len(h) > 2 {
				return m, false
			}
			m[i] = byte(v)
		}
		return m, true
	}
	return m, false
}

// host tests addresses and networks.
func (p *parser) host(t token, q qualifier) node {
	if _, mac := parseMAC(t.text); mac && strings.ContainsAny(t.text, ":-") {
		p.fail(t, "%q is an Ethernet address; ether host would be accepted", t.text)
	}
	if strings.Contains(t.text, ":") {
		return p.host6(t, q)
	}
	v, bits, ok := dotted(t.text)
	if !ok {
		p.fail(t, "expected an address; found %q (names are not resolved)", t.text)
	}
	mask := uint32(math.MaxUint32)
	switch {
	case p.accept("/"):
		p.netOnly(t, q)
		u, _ := p.peek()
		n := p.number("a prefix length")
		if n > 32 {
			p.fail(u, "prefix length %d; up to 32 would be accepted", n)
		}
		v <<= 32 - bits
		mask = uint32(uint64(math.MaxUint32) << (32 - n))
		p.inNet(t, v&^mask == 0)
	case p.accept("mask"):
		p.netOnly(t, q)
		u := p.next("a netmask")
		m, n, ok := dotted(u.text)
		if !ok {
			p.fail(u, "expected a netmask such as 255.255.255.0; found %q", u.text)
		}
		v <<= 32 - bits
		mask = m << (32 - n)
		p.inNet(t, v&^mask == 0)
	case bits == 32 && !strings.Contains(t.text, ".") && q.kind == "net":
		for v != 0 && v&0xff000000 == 0 { // net 10 is 10.0.0.0/8
			v <<= 8
			mask <<= 8
		}
	default:
		v <<= 32 - bits
		mask <<= 32 - bits
	}
	word := func(at int) func() node {
		return func() node { return masked(p.net(at), v, mask) }
	}
	in := func(etherType uint16, src, dst int) node {
		return both(p.carries(t, etherType), directed(q.dir, word(src), word(dst)))
	}
	switch q.proto {
	case "ip":
		return in(etherIP, 12, 16)
	case "arp":
		return in(etherARP, 14, 24)
	case "rarp":
		return in(etherRARP, 14, 24)
	case "":
		n := in(etherIP, 12, 16)
		if p.labels == 0 {
			n = either(n, in(etherARP, 14, 24), in(etherRARP, 14, 24))
		}
		return n
	case "ip6":
		p.fail(t, "%q is no IPv6 address", t.text)
	}
	p.fail(t, "%s has no addresses of its own; ip, ip6, arp, rarp or nothing would be accepted before it", q.proto)
	return nil
}

func (p *parser) netOnly(t token, q qualifier) {
	if q.kind != "net" {
		p.fail(t, "a mask belongs to net: net %s/…", t.text)
	}
}

func (p *parser) inNet(t token, ok bool) {
	if !ok {
		p.fail(t, "%q has bits set outside the network", t.text)
	}
}

// dotted reads one to four numbers with dots between them, and how many bits
// they are; a number alone is a whole address.
func dotted(s string) (v uint32, bits int, ok bool) {
	if v, ok := number(s); ok {
		return v, 32, true
	}
	parts := strings.Split(s, ".")
	if len(parts) < 2 || len(parts) > 4 {
		return 0, 0, false
	}
	for _, d := range parts {
		n, err := strconv.ParseUint(d, 10, 8)
		if err != nil {
			return 0, 0, false
		}
		v = v<<8 | uint32(n)
	}
	return v, 8 * len(parts), true
}

func (p *parser) host6(t token, q qualifier) node {
	a, err := netip.ParseAddr(t.text)
	if err != nil || a.Zone() != "" {
		p.fail(t, "expected an address; found %q", t.text)
	}
	length := 128
	if p.accept("/") {
		p.netOnly(t, q)
		u, _ := p.peek()
		n := p.number("a prefix length")
		if n > 128 {
			p.fail(u, "prefix length %d; up to 128 would be accepted", n)
		}
		length = int(n)
		prefix := netip.PrefixFrom(a, length)
		p.inNet(t, prefix.Masked().Addr() == a)
	}
	if q.proto != "" && q.proto != "ip6" {
		p.fail(t, "%s has no IPv6 addresses; ip6 or nothing would be accepted before it", q.proto)
	}
	raw := a.As16()
	address := func(at int) func() node {
		return func() node {
			var all node
			for w := range 4 {
				mask := uint32(uint64(math.MaxUint32) << (32 - max(0, min(length-32*w, 32))))
				all = both(all, masked(p.net(at+4*w), binary.BigEndian.Uint32(raw[4*w:]), mask))
			}
			return all
		}
	}
	return both(p.carries(t, etherIP6), directed(q.dir, address(8), address(24)))
}

// transports are the protocols with ports, in the order they are asked for.
var transports = []string{"sctp", "tcp", "udp"}

// ports tests ports of the protocols named, in IPv6 behind the fixed header, in
// IPv4 not in later fragments. atom tests the port at an offset.
func (p *parser) ports(t token, q qualifier, protos []string, atom func(load []bpf.RawInstruction) node) node {
	if q.proto != "" && !slices.Contains(transports, q.proto) {
		p.fail(t, "%s has no ports; tcp, udp, sctp or nothing would be accepted before it", q.proto)
	}
	proto := func(at uint32) node {
		var n node
		for _, name := range protos {
			n = either(n, field(at, 1, uint32(protocols[name].number), 0))
		}
		return n
	}
	port6 := func(at int) func() node {
		return func() node { return atom([]bpf.RawInstruction{{Op: opLdH, K: p.net(40 + at)}}) }
	}
	port4 := func(at int) func() node {
		return func() node {
			return atom([]bpf.RawInstruction{{Op: opLdxMsh, K: p.net(0)}, {Op: opLdHX, K: p.net(at)}})
		}
	}
	return either(
		both(p.carries(t, etherIP6), proto(p.net(6)), directed(q.dir, port6(0), port6(2))),
		both(p.carries(t, etherIP), proto(p.net(9)), not{p.fragment()}, directed(q.dir, port4(0), port4(2))))
}

// fragment tests for a later fragment of IPv4.
func (p *parser) fragment() node { return compareField(p.net(6), 2, opJset, 0x1fff) }

// portNumber reads a port, by number or by its name in the system's list, and
// the protocols it is a port of.
func (p *parser) portNumber(t token, q qualifier) (uint32, []string) {
	protos := transports
	if q.proto != "" {
		protos = []string{q.proto}
	}
	if v, ok := number(t.text); ok {
		if v > 65535 {
			p.fail(t, "port %d; up to 65535 would be accepted", v)
		}
		return v, protos
	}
	tcp, tcpErr := net.LookupPort("tcp", t.text)
	udp, udpErr := net.LookupPort("udp", t.text)
	switch {
	case tcpErr != nil && udpErr != nil:
		p.fail(t, "expected a port; found %q", t.text)
	case q.proto == "tcp" && tcpErr != nil, q.proto == "udp" && udpErr != nil:
		p.fail(t, "%s has no port of the name %q", q.proto, t.text)
	case q.proto == "udp":
		return uint32(udp), protos
	case q.proto != "" || tcpErr == nil && udpErr == nil && tcp == udp:
		return uint32(max(tcp, udp)), protos
	case tcpErr == nil:
		return uint32(tcp), []string{"tcp"}
	}
	return uint32(udp), []string{"udp"}
}

func (p *parser) port(t token, q qualifier) node {
	v, protos := p.portNumber(t, q)
	return p.ports(t, q, protos, func(load []bpf.RawInstruction) node { return &test{load, opJeq, v} })
}

func (p *parser) portRange(t token, q qualifier) node {
	from, to, ok := strings.Cut(t.text, "-")
	if !ok {
		to = from
	}
	lo, protos := p.portNumber(token{text: from, at: t.at}, q)
	hi, _ := p.portNumber(token{text: to, at: t.at + len(t.text) - len(to)}, q)
	if lo > hi {
		lo, hi = hi, lo
	}
	return p.ports(t, q, protos, func(load []bpf.RawInstruction) node {
		return both(&test{load, opJge, lo}, not{&test{load, opJgt, hi}})
	})
}

// proto tests protocol numbers: EtherTypes behind ether, else of IP.
func (p *parser) proto(t token, q qualifier) node {
	if q.dir != "" {
		p.fail(t, "proto has no direction")
	}
	if q.proto == "ether" {
		v, ok := number(t.text)
		if !ok {
			if v, ok = etherNames[t.text]; !ok {
				p.fail(t, "expected an EtherType such as 0x88cc or \\arp; found %q", t.text)
			}
		}
		if v > 0xffff {
			p.fail(t, "EtherType %#x; up to 0xffff would be accepted", v)
		}
		if p.framing == framingEthernet && v == 0xe0 {
			p.fail(t, "IPX has three encapsulations; ether proto 0x8137 would be accepted for one of them")
		}
		return p.carries(t, uint16(v))
	}
	v, ok := number(t.text)
	if !ok {
		if v, ok = protoNames[t.text]; !ok {
			p.fail(t, "expected a protocol such as 47 or \\tcp; found %q", t.text)
		}
	}
	if v > 255 {
		p.fail(t, "protocol %d; up to 255 would be accepted", v)
	}
	switch q.proto {
	case "ip":
		return p.protocol4(t, v)
	case "ip6":
		return p.protocol6(t, v)
	case "":
		return either(p.protocol4(t, v), p.protocol6(t, v))
	}
	p.fail(t, "%s proto has no meaning; ether, ip, ip6 or nothing would be accepted before proto", q.proto)
	return nil
}
