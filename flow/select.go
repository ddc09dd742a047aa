package flow

import (
	"fmt"
	"strconv"
	"strings"
)

// Facts is a set of what is known of a packet: what can be a part of the key,
// what can be collected beside it.
type Facts uint32

// The facts, in the order in which they are told.
const (
	BySrc Facts = 1 << iota
	ByDst
	BySrcPort
	ByDstPort // also ICMP's type and code, as on IOS
	ByProto
	ByTOS  // all eight bits
	ByDSCP // the upper six
	ByInput
	ByVLAN // the outermost tag

	// What has no place in Key but in More.
	ByInnerVLAN // the second tag
	BySrcMAC
	ByDstMAC
	ByMPLS
	ByFlowLabel // IPv6's
	ByTTL
	ByLength
	ByTunnel // what is around the inner header: addresses, kind, VNI or the like

	// What is collected only.
	ByTCPOptions
	ByFragment

	allFacts
)

// Sets of facts.
const (
	Facts5Tuple = BySrc | ByDst | BySrcPort | ByDstPort | ByProto
	FactsCisco  = Facts5Tuple | ByTOS | ByInput | ByVLAN

	// FactsMore are those of More.
	FactsMore = ByInnerVLAN | BySrcMAC | ByDstMAC | ByMPLS | ByFlowLabel | ByTTL | ByLength | ByTunnel | ByTCPOptions | ByFragment

	factsKey     = (allFacts - 1) &^ (ByTCPOptions | ByFragment)
	factsCollect = FactsMore &^ ByTunnel
)

// factNames are the facts' names, and words that stand for several. Behind each
// preset stands what it is.
var factNames = []struct {
	name  string
	facts Facts
	help  string
}{
	{"src", BySrc, "source address"},
	{"dst", ByDst, "destination address"},
	{"sport", BySrcPort, "source port"},
	{"dport", ByDstPort, "destination port; ICMP: type and code"},
	{"proto", ByProto, "protocol"},
	{"tos", ByTOS, "ToS or traffic class, all eight bits"},
	{"dscp", ByDSCP, "the upper six bits of ToS"},
	{"input", ByInput, "interface"},
	{"vlan", ByVLAN, "outermost VLAN"},
	{"inner-vlan", ByInnerVLAN, "second VLAN tag"},
	{"src-mac", BySrcMAC, "source MAC address"},
	{"dst-mac", ByDstMAC, "destination MAC address"},
	{"mpls", ByMPLS, "the first three MPLS labels"},
	{"flow-label", ByFlowLabel, "IPv6 flow label"},
	{"ttl", ByTTL, "TTL or hop limit"},
	{"length", ByLength, "IP length of the packet"},
	{"tunnel", ByTunnel, "what is around the header that is looked at (with --tunnel inner)"},
	{"tcp-options", ByTCPOptions, "TCP options seen"},
	{"fragment", ByFragment, "fragmentation flags and offset"},
	{"mac", BySrcMAC | ByDstMAC, "src-mac,dst-mac"},
	{"ports", BySrcPort | ByDstPort, "sport,dport"},
}

// keyPresets are words for a whole key, some of them Cisco's.
var keyPresets = []struct {
	name  string
	facts Facts
	help  string
}{
	{"cisco", FactsCisco, "addresses, ports, protocol, ToS, interface, VLAN: IOS's key"},
	{"5tuple", Facts5Tuple, "addresses, protocol, ports"},
	{"netflow-original", FactsCisco, "Flexible NetFlow's name of cisco"},
	{"protocol-port", BySrcPort | ByDstPort | ByProto, "protocol and ports, of all hosts"},
	{"protocol-port-tos", BySrcPort | ByDstPort | ByProto | ByTOS, "the same by ToS"},
	{"hosts", BySrc | ByDst, "addresses alone"},
	{"datalink", FactsCisco | ByInnerVLAN | BySrcMAC | ByDstMAC, "cisco with MAC addresses and both VLAN tags (ip flow-capture mac-addresses, vlan-id)"},
	{"mpls-flow", FactsCisco | ByMPLS, "cisco with the MPLS labels (mpls netflow egress)"},
}

// ParseKey reads what makes a flow: words from KeyNames, joined by commas.
func ParseKey(s string) (Facts, error) {
	var key Facts
	for word := range strings.SplitSeq(s, ",") {
		word = strings.TrimSpace(word)
		f, ok := factsOf(word)
		for _, p := range keyPresets {
			if p.name == word {
				f, ok = p.facts, true
			}
		}
		if !ok || f&^factsKey != 0 {
			return 0, fmt.Errorf("%q: accepted: %s, joined by commas", word, strings.Join(KeyNames(), ", "))
		}
		key |= f
	}
	if key&ByTOS != 0 {
		key &^= ByDSCP // which is a part of it
	}
	return key, nil
}

// ParseCollect reads what is collected beside the key: words from CollectNames.
func ParseCollect(s string) (Facts, error) {
	var all Facts
	for word := range strings.SplitSeq(s, ",") {
		word = strings.TrimSpace(word)
		f, ok := factsOf(word)
		if !ok || f&^factsCollect != 0 {
			return 0, fmt.Errorf("%q: accepted: %s, joined by commas", word, strings.Join(CollectNames(), ", "))
		}
		all |= f
	}
	return all, nil
}

// Word is a name of a key's or collected fields, for people to read.
type Word struct {
	Name, Help     string
	Preset         bool // of a whole key
	Key, Collected bool // where it may stand
}

// Words lists all that ParseKey and ParseCollect know.
func Words() []Word {
	var list []Word
	for _, p := range keyPresets {
		list = append(list, Word{Name: p.name, Help: p.help, Preset: true, Key: true})
	}
	for _, n := range factNames {
		list = append(list, Word{Name: n.name, Help: n.help, Key: n.facts&^factsKey == 0, Collected: n.facts&^factsCollect == 0})
	}
	return list
}

func factsOf(word string) (Facts, bool) {
	for _, n := range factNames {
		if n.name == word {
			return n.facts, true
		}
	}
	return 0, false
}

// KeyNames lists what ParseKey knows: presets, then facts.
func KeyNames() []string {
	var names []string
	for _, p := range keyPresets {
		names = append(names, p.name)
	}
	return append(names, namesOf(factsKey)...)
}

// CollectNames lists what ParseCollect knows.
func CollectNames() []string { return namesOf(factsCollect) }

func namesOf(set Facts) (names []string) {
	for _, n := range factNames {
		if n.facts&^set == 0 {
			names = append(names, n.name)
		}
	}
	return names
}

// String is f as ParseKey or ParseCollect reads it.
func (f Facts) String() string {
	switch f {
	case FactsCisco:
		return "cisco"
	case Facts5Tuple:
		return "5tuple"
	}
	var names []string
	for _, n := range factNames {
		if n.facts&(n.facts-1) == 0 && f&n.facts != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ",")
}

// Selection is what makes a flow, and what is told of it, where that is more
// than one of the two keys that the kernel's programs know (KeyMask). The zero
// value is nothing of the kind.
type Selection struct {
	Key     Facts // 0: as the KeyMask says
	Collect Facts // beside the key
	Biflow  bool  // both directions are one flow (RFC 5103)
	Inner   bool  // the header in a tunnel is looked at; ByTunnel is then a part of the key
}

// Validate says what is wrong with s.
func (s *Selection) Validate() error {
	if s.Key&^factsKey != 0 {
		return fmt.Errorf("%s cannot be a part of the key", s.Key&^factsKey)
	}
	if s.Collect&^factsCollect != 0 {
		return fmt.Errorf("%s cannot be collected", s.Collect&^factsCollect)
	}
	for _, pair := range [...]Facts{BySrc | ByDst, BySrcPort | ByDstPort, BySrcMAC | ByDstMAC} {
		if half := s.Key & pair; s.Biflow && half != 0 && half != pair {
			return fmt.Errorf("%s alone has no other direction: biflows want %s", half, pair)
		}
	}
	if s.Key&ByTunnel != 0 && !s.Inner {
		return fmt.Errorf("tunnels are not looked into, so that they cannot be a part of the key")
	}
	return nil
}

// Plain says whether s is nothing beyond a KeyMask.
func (s *Selection) Plain() bool { return *s == Selection{} }

// Facts are all facts that must be read of a packet.
func (s *Selection) Facts() Facts {
	f := s.Key | s.Collect
	if s.Inner {
		f |= ByTunnel
	}
	return f
}

// Wide says whether flows need more than an entry that has a Key.
func (s *Selection) Wide() bool {
	return s.Biflow || s.Facts()&FactsMore&^(ByTTL|ByLength) != 0 || s.Key&(ByTTL|ByLength) != 0
}

// Mask zeroes what s leaves out of a packet's key.
func (s *Selection) Mask(k *Key) {
	if s.Key&BySrc == 0 {
		k.Src = Addr{}
	}
	if s.Key&ByDst == 0 {
		k.Dst = Addr{}
	}
	if s.Key&BySrcPort == 0 {
		k.SrcPort = 0
	}
	if s.Key&ByDstPort == 0 {
		k.DstPort = 0
	}
	if s.Key&(BySrcPort|ByDstPort) == 0 {
		k.VLAN &^= KeyFragment // only ports make a later fragment differ
	}
	if s.Key&ByProto == 0 {
		k.Proto = 0
	}
	switch {
	case s.Key&ByTOS != 0:
	case s.Key&ByDSCP != 0:
		k.TOS &= 0xfc
	default:
		k.TOS = 0
	}
	if s.Key&ByInput == 0 {
		k.Input = 0
	}
	if s.Key&ByVLAN == 0 {
		k.VLAN &= KeyIPv6 | KeyFragment | KeyInner
	}
}

// MaxLabels is how many MPLS labels are kept.
const MaxLabels = 3

// More is what a packet says beyond a Key, as far as it was asked for; the rest is
// zero. As a part of a record it is of the flow: what is not in the key is of its
// first packet. 128 octets without padding; MoreKeyWords words of it can be key.
type More struct {
	SrcMAC, DstMAC [6]byte           // of the outermost Ethernet header
	InnerVLAN      uint16            // the second tag: id, and KeyTagged
	Length         uint16            // of the IP packet; 65535: that or more
	Labels         [MaxLabels]uint32 // from the top: label, traffic class and bottom bit in 24 bits, and LabelThere
	FlowLabel      uint32            // 20 bits
	TTL            uint8
	Tunnel         Tunnel // KeyInner is set in the flow's key then
	TunnelProto    uint8  // of the outermost IP header
	TunnelHas      uint8  // HasTunnelID
	TunnelID       uint32 // VNI, TEID or GRE key
	TunnelPort     uint16 // destination port of the outermost UDP header, 0: it has none
	_              [6]byte
	TunnelSrc      Addr // of the outermost IP header
	TunnelDst      Addr

	// What follows is collected only.
	TCPOptions     uint64 // IE 209: a bit for each kind below 64, OR over the flow
	Known          Facts  // what was asked for (of records)
	FragmentOffset uint16 // IE 88, in units of eight octets
	FragmentFlags  uint8  // IE 197, OR over the flow: 0x40 don't fragment, 0x20 more fragments
	Flags          uint8  // MoreReversed
	MinLength      uint16 // of the packets counted, 65535: that or more (of records)
	MaxLength      uint16
	MinTTL, MaxTTL uint8
	_              [26]byte
}

// MoreKeyWords is how many words of eight octets, from its start, a More's key has.
const MoreKeyWords = 10

// LabelThere in an element of More.Labels: there is a label.
const LabelThere = 1 << 24

// HasTunnelID in More.TunnelHas: the tunnel's header has a TunnelID.
const HasTunnelID = 1

// What was done to a packet's key for the sake of a biflow, in More.Flags.
const (
	MoreReversed = 1 << iota // source and destination were exchanged, in More as well
	MoreEgress               // KeyEgress was taken off: the interface was the output
)

// Tunnel is a kind of tunnel.
type Tunnel uint8

const (
	NoTunnel     Tunnel = iota
	TunnelIPIP          // RFC 2003, and IPv6 in IPv6 (RFC 2473)
	Tunnel6in4          // RFC 4213: IPv6 in IPv4
	TunnelGRE           // RFC 2784, RFC 2890; NVGRE (RFC 7637) too
	TunnelVXLAN         // RFC 7348
	TunnelGeneve        // RFC 8926
	TunnelGTPU          // 3GPP TS 29.281
	TunnelTeredo        // RFC 4380
)

// OVS is the number that Open vSwitch's element tunnelType (VMware 891) has for
// the kind; 0: none, which is its unknown.
func (t Tunnel) OVS() uint8 {
	switch t {
	case TunnelVXLAN:
		return 1
	case TunnelGRE:
		return 2
	case TunnelGeneve:
		return 7
	}
	return 0
}

// Reverse is the other direction of a biflow: what came from Record.Dst.
type Reverse struct {
	Packets, Bytes       uint64
	First, Last          int64 // Unix ns; 0 while Packets is 0
	TCPOptions           uint64
	TCPFlags             uint8
	MinTTL, MaxTTL       uint8
	FragmentFlags        uint8
	MinLength, MaxLength uint16
}

// Reverse flips what has a direction.
func (m *More) Reverse() {
	m.SrcMAC, m.DstMAC = m.DstMAC, m.SrcMAC
	m.TunnelSrc, m.TunnelDst = m.TunnelDst, m.TunnelSrc
	m.Flags ^= MoreReversed
}

// AppendMore appends what r has in Flows, More and Reverse, as Elements has it
// when an export of r is read: nothing where there is nothing.
func (r *Record) AppendMore(dst []byte) []byte {
	e := elements{dst: dst}
	if r.Has&HasFlows != 0 {
		e.uint("deltaFlowCount", r.Flows)
	}
	if r.More != nil {
		r.More.append(&e, r)
	}
	if r.Reverse != nil {
		r.Reverse.append(&e, r.knownMore())
	}
	return e.end()
}

func (r *Record) knownMore() Facts {
	if r.More == nil {
		return 0
	}
	return r.More.Known
}

func (m *More) append(e *elements, r *Record) {
	if m.Known&BySrcMAC != 0 {
		e.mac("sourceMacAddress", &m.SrcMAC)
	}
	if m.Known&ByDstMAC != 0 {
		e.mac("destinationMacAddress", &m.DstMAC)
	}
	if m.Known&ByInnerVLAN != 0 && m.InnerVLAN&KeyTagged != 0 {
		e.uint("dot1qCustomerVlanId", uint64(m.InnerVLAN&VLANMask))
	}
	if m.Known&ByMPLS != 0 {
		for i, l := range m.Labels {
			if l&LabelThere != 0 {
				e.hex(labelNames[i], uint64(l&0xffffff), 3)
			}
		}
	}
	if m.Known&ByFlowLabel != 0 && r.IPVersion == 6 {
		e.uint("flowLabelIPv6", uint64(m.FlowLabel))
	}
	if m.Known&ByTTL != 0 {
		e.uint("minimumTTL", uint64(m.MinTTL))
		e.uint("maximumTTL", uint64(m.MaxTTL))
	}
	if m.Known&ByLength != 0 {
		e.uint("minimumIpTotalLength", uint64(m.MinLength))
		e.uint("maximumIpTotalLength", uint64(m.MaxLength))
	}
	if m.Known&ByTCPOptions != 0 && r.Proto == ProtoTCP {
		e.uint("tcpOptions", m.TCPOptions)
	}
	if m.Known&ByFragment != 0 {
		e.uint("fragmentFlags", uint64(m.FragmentFlags))
		e.uint("fragmentOffset", uint64(m.FragmentOffset))
	}
	if m.Tunnel != NoTunnel {
		m.appendTunnel(e)
	}
}

func (m *More) appendTunnel(e *elements) {
	if n := m.Tunnel.OVS(); n != 0 {
		e.uint("tunnelType", uint64(n))
	}
	if m.TunnelHas&HasTunnelID != 0 {
		e.hex("tunnelKey", uint64(m.TunnelID), 4)
	}
	names := [2]string{"tunnelSourceIPv4Address", "tunnelDestinationIPv4Address"}
	if !m.TunnelSrc.Is4() {
		names = [2]string{"tunnelSourceIPv6Address", "tunnelDestinationIPv6Address"}
	}
	e.addr(names[0], m.TunnelSrc)
	e.addr(names[1], m.TunnelDst)
	e.uint("tunnelProtocolIdentifier", uint64(m.TunnelProto))
	if m.TunnelPort != 0 {
		e.uint("tunnelDestinationTransportPort", uint64(m.TunnelPort))
	}
}

var labelNames = [MaxLabels]string{"mplsTopLabelStackSection", "mplsLabelStackSection2", "mplsLabelStackSection3"}

func (v *Reverse) append(e *elements, known Facts) {
	e.uint("reversePacketDeltaCount", v.Packets)
	e.uint("reverseOctetDeltaCount", v.Bytes)
	if v.Packets == 0 {
		return
	}
	e.time("reverseFlowStartMilliseconds", v.First)
	e.time("reverseFlowEndMilliseconds", v.Last)
	if v.TCPFlags != 0 {
		e.uint("reverseTcpControlBits", uint64(v.TCPFlags))
	}
	if known&ByTTL != 0 {
		e.uint("reverseMinimumTTL", uint64(v.MinTTL))
		e.uint("reverseMaximumTTL", uint64(v.MaxTTL))
	}
	if known&ByLength != 0 {
		e.uint("reverseMinimumIpTotalLength", uint64(v.MinLength))
		e.uint("reverseMaximumIpTotalLength", uint64(v.MaxLength))
	}
	if known&ByTCPOptions != 0 && v.TCPOptions != 0 {
		e.uint("reverseTcpOptions", v.TCPOptions)
	}
	if known&ByFragment != 0 {
		e.uint("reverseFragmentFlags", uint64(v.FragmentFlags))
	}
}

// elements writes a JSON object.
type elements struct {
	dst  []byte
	some bool
}

func (e *elements) key(name string) {
	if e.some {
		e.dst = append(e.dst, ',')
	} else {
		e.dst = append(e.dst, '{')
	}
	e.some = true
	e.dst = append(append(append(e.dst, '"'), name...), '"', ':')
}

func (e *elements) uint(name string, v uint64) {
	e.key(name)
	e.dst = strconv.AppendUint(e.dst, v, 10)
}

func (e *elements) mac(name string, m *[6]byte) {
	e.key(name)
	for i, c := range m {
		e.dst = append(e.dst, ":\""[b2i(i == 0)], hexDigits[c>>4], hexDigits[c&15])
	}
	e.dst = append(e.dst, '"')
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

const hexDigits = "0123456789abcdef"

// hex writes the lower n octets of v.
func (e *elements) hex(name string, v uint64, n int) {
	e.key(name)
	e.dst = append(e.dst, '"')
	for n--; n >= 0; n-- {
		c := byte(v >> (8 * n))
		e.dst = append(e.dst, hexDigits[c>>4], hexDigits[c&15])
	}
	e.dst = append(e.dst, '"')
}

func (e *elements) addr(name string, a Addr) {
	e.key(name)
	e.dst = append(AppendAddr(append(e.dst, '"'), a), '"')
}

// time writes ms, as an export has it.
func (e *elements) time(name string, ns int64) {
	e.key(name)
	e.dst = append(e.dst, '"')
	e.dst = AppendTime(e.dst, ns-(ns%1e6+1e6)%1e6)
	e.dst = append(e.dst[:len(e.dst)-len("000Z")], 'Z', '"')
}

func (e *elements) end() []byte {
	if e.some {
		return append(e.dst, '}')
	}
	return e.dst
}
