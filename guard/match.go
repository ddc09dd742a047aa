package guard

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"weir/flow"
)

// Match says which packets a rule hits: those that agree with all that is set.
type Match struct {
	Dst       netip.Prefix `json:"dst,omitzero"`
	Src       netip.Prefix `json:"src,omitzero"`
	Proto     uint8        `json:"proto,omitempty"`     // 0: any
	SrcPorts  []uint16     `json:"src_ports,omitempty"` // any of these
	DstPort   uint16       `json:"dst_port,omitempty"`
	Fragments bool         `json:"fragments,omitempty"` // later fragments only
	SYN       bool         `json:"syn,omitempty"`       // TCP with SYN and without ACK: what opens connections
	New       bool         `json:"new,omitempty"`       // of flows that are not in the cache only, which what it drops does not enter
	Flow      *flow.Key    `json:"-"`                   // this flow alone; the rest only describes it
}

// MaxPorts is how many source ports a Match may have.
const MaxPorts = 8

// Hits says whether what d stands for is hit. (Of a flow with packets of both kinds, SYN
// is told by whether it ever got beyond its SYN; New hits only flows of one packet, for
// of others it hits no more than the first.)
func (m *Match) Hits(d *Delta) bool {
	switch {
	case m.Flow != nil:
		return d.Key == *m.Flow
	case m.Proto != 0 && d.Key.Proto != m.Proto, m.Fragments && !d.fragment(), m.SYN && !d.synOnly(), m.New && !d.single():
		return false
	case m.DstPort != 0 && d.Key.DstPort != m.DstPort, len(m.SrcPorts) > 0 && !slices.Contains(m.SrcPorts, d.Key.SrcPort):
		return false
	}
	return within(m.Dst, &d.Key.Dst) && within(m.Src, &d.Key.Src)
}

// within says whether a is in p, or p is none.
func within(p netip.Prefix, a *flow.Addr) bool {
	if !p.IsValid() {
		return true
	}
	at := p.Addr().As16()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	for i := 0; i < bits/8; i++ {
		if a[i] != at[i] {
			return false
		}
	}
	if r := bits % 8; r > 0 && (a[bits/8]^at[bits/8])>>(8-r) != 0 {
		return false
	}
	return true
}

func (m Match) String() string {
	var b strings.Builder
	word := func(s ...string) {
		for _, w := range s {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(w)
		}
	}
	if m.Proto != 0 {
		word(protoName(m.Proto))
	}
	if m.Fragments {
		word("fragments")
	}
	if m.SYN {
		word("syn")
	}
	if m.New {
		word("new flows")
	}
	if m.Src.IsValid() {
		word("from", prefixText(m.Src))
	}
	if len(m.SrcPorts) > 0 {
		list := make([]string, len(m.SrcPorts))
		for i, p := range m.SrcPorts {
			list[i] = strconv.Itoa(int(p))
		}
		word("sport", strings.Join(list, ","))
	}
	if m.Dst.IsValid() {
		word("to", prefixText(m.Dst))
	}
	if m.DstPort != 0 {
		word("dport", strconv.Itoa(int(m.DstPort)))
	}
	if m.Flow != nil {
		word("one flow")
	}
	if b.Len() == 0 {
		return "everything"
	}
	return b.String()
}

// prefixText is a prefix, or the address alone if it is one.
func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

var protoNames = map[uint8]string{flow.ProtoICMP: "icmp", flow.ProtoTCP: "tcp", flow.ProtoUDP: "udp", flow.ProtoICMPv6: "icmp6", 47: "gre", 50: "esp", flow.ProtoSCTP: "sctp"}

func protoName(p uint8) string {
	if n := protoNames[p]; n != "" {
		return n
	}
	return "proto " + strconv.Itoa(int(p))
}

// ParseProto reads a protocol's name or number.
func ParseProto(s string) (uint8, bool) {
	for p, n := range protoNames {
		if n == s {
			return p, true
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return uint8(n), err == nil && n > 0
}

// hostPrefix is the prefix of one address.
func hostPrefix(a flow.Addr) netip.Prefix {
	n := a.Netip()
	return netip.PrefixFrom(n, n.BitLen())
}

// netPrefix is the /24 or /64 of an address.
func netPrefix(a flow.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Netip().Prefix(bits) // in range
	return p
}

// sourcePrefix is what stands for a source: an IPv4 address, or the /64 of an IPv6 one.
func sourcePrefix(a flow.Addr) netip.Prefix {
	if a.Is4() {
		return hostPrefix(a)
	}
	return netPrefix(a)
}

// Empty says whether m hits every packet.
func (m *Match) Empty() bool {
	return !m.Dst.IsValid() && !m.Src.IsValid() && m.Proto == 0 && len(m.SrcPorts) == 0 && m.DstPort == 0 && !m.Fragments && !m.SYN && !m.New && m.Flow == nil
}
