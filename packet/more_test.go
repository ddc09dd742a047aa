package packet

import (
	"fmt"
	"testing"

	"weir/flow"
)

// inner4 and inner6 are what tunnels carry here: UDP, 32 and 52 octets.
var inner4, inner6 = ip4, ip6

// over wraps b in an IPv4 header from 192.0.2.1 to 192.0.2.2.
func over(proto byte, b ...[]byte) []byte {
	body := join(b...)
	return join(x("4500"), be.AppendUint16(nil, uint16(20+len(body))), x("0000 4000 40"), []byte{proto}, x("0000 c0000201 c0000202"), body)
}

// udp wraps b in a UDP header.
func udp(src, dst uint16, b ...[]byte) []byte {
	body := join(b...)
	h := be.AppendUint16(be.AppendUint16(nil, src), dst)
	return over(17, be.AppendUint16(h, uint16(8+len(body))), x("0000"), body)
}

// moreSummary is what DecodeMore says of a frame's tunnel and inner header.
func moreSummary(frame []byte) string {
	var in Info
	var m flow.More
	if why := DecodeMore(LinkEthernet, frame, uint32(len(frame)), true, &in, &m); why != Decoded {
		return why.String()
	}
	s := fmt.Sprintf("%v %v>%v %d %d>%d %d", in.Key.VLAN&flow.KeyInner != 0, in.Key.Src, in.Key.Dst, in.Key.Proto, in.Key.SrcPort, in.Key.DstPort, in.Length)
	if m.Tunnel != flow.NoTunnel {
		s += fmt.Sprintf(" | %d %v>%v %d:%d", m.Tunnel, m.TunnelSrc, m.TunnelDst, m.TunnelProto, m.TunnelPort)
		if m.TunnelHas&flow.HasTunnelID != 0 {
			s += fmt.Sprintf(" id %d", m.TunnelID)
		}
	}
	return s
}

func TestTunnels(t *testing.T) {
	const four, six = "true 10.0.0.1>10.0.0.2 17 1000>2000 32", "true ::1>::2 17 1000>2000 52"
	const outer = "192.0.2.1>192.0.2.2"
	frame := ether(0x0800, inner4)
	for _, c := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"none", ether(0x0800, inner4), "false 10.0.0.1>10.0.0.2 17 1000>2000 32"},
		{"IP in IP (RFC 2003)", ether(0x0800, over(4, inner4)), four + " | 1 " + outer + " 4:0"},
		{"6in4 (RFC 4213)", ether(0x0800, over(41, inner6)), six + " | 2 " + outer + " 41:0"},
		{"IPv6 in IPv6 (RFC 2473)", ether(0x86dd, patch(patch(ip6, 4, "0034"), 6, "29")[:40], inner6), six + " | 1 ::1>::2 41:0"},
		{"IPv4 in IPv6", ether(0x86dd, patch(patch(ip6, 4, "0020"), 6, "04")[:40], inner4), four + " | 1 ::1>::2 4:0"},
		{"GRE", ether(0x0800, over(47, x("0000 0800"), inner4)), four + " | 3 " + outer + " 47:0"},
		{"GRE with checksum, key, sequence (RFC 2890)", ether(0x0800, over(47, x("b000 86dd 00000000 00000007 00000001"), inner6)), six + " | 3 " + outer + " 47:0 id 7"},
		{"Ethernet over GRE: NVGRE", ether(0x0800, over(47, x("2000 6558 00000901"), frame)), four + " | 3 " + outer + " 47:0 id 2305"},
		{"MPLS over GRE", ether(0x0800, over(47, x("0000 8847"), label, inner4)), four + " | 3 " + outer + " 47:0"},
		{"GRE version 1 is PPTP's", ether(0x0800, over(47, x("3001 880b 00000000 00000000"), inner4)), "false 192.0.2.1>192.0.2.2 47 0>0 64"},
		{"GRE with routes", ether(0x0800, over(47, x("4000 0800 00000000"), inner4)), "false 192.0.2.1>192.0.2.2 47 0>0 60"},
		{"VXLAN", ether(0x0800, udp(50000, 4789, x("08000000 00007b00"), frame)), four + " | 4 " + outer + " 17:4789 id 123"},
		{"VXLAN on Linux' old port, tagged inside", ether(0x0800, udp(50000, 8472, x("08000000 00007b00"), ether(0x8100, x("0005 0800"), inner4))), four + " | 4 " + outer + " 17:8472 id 123"},
		{"VXLAN without a VNI", ether(0x0800, udp(50000, 4789, x("00000000 00007b00"), frame)), "false 192.0.2.1>192.0.2.2 17 50000>4789 82"},
		{"VXLAN with ARP", ether(0x0800, udp(50000, 4789, x("08000000 00007b00"), ether(0x0806, x("0001")))), "false 192.0.2.1>192.0.2.2 17 50000>4789 52"},
		{"Geneve with options", ether(0x0800, udp(50000, 6081, x("0100 6558 00000500 01020304"), frame)), four + " | 5 " + outer + " 17:6081 id 5"},
		{"Geneve with IP", ether(0x0800, udp(50000, 6081, x("0000 86dd 00000500"), inner6)), six + " | 5 " + outer + " 17:6081 id 5"},
		{"GTP-U", ether(0x0800, udp(2152, 2152, x("30ff 0020 00000009"), inner4)), four + " | 6 " + outer + " 17:2152 id 9"},
		{"GTP-U with a PDU session container", ether(0x0800, udp(2152, 2152, x("34ff 0028 00000009 00000085 01 0000 00"), inner6)), six + " | 6 " + outer + " 17:2152 id 9"},
		{"GTP-U echo", ether(0x0800, udp(2152, 2152, x("3201 0004 00000000 00000000"))), "false 192.0.2.1>192.0.2.2 17 2152>2152 40"},
		{"Teredo", ether(0x0800, udp(50000, 3544, inner6)), six + " | 7 " + outer + " 17:3544"},
		{"Teredo with authentication and origin", ether(0x0800, udp(3544, 50000, x("0001 00 00 0000000000000000 00  0000 ffff ffffffff"), inner6)), six + " | 7 " + outer + " 17:50000"},
		{"two tunnels: the innermost packet, the outermost header", ether(0x0800, over(47, x("0000 0800"), udp(50000, 4789, x("08000000 00007b00"), frame))), four + " | 3 " + outer + " 47:0"},
		{"a later fragment is not looked into", ether(0x0800, patch(over(47, x("0000 0800"), inner4), 6, "0001")), "false 192.0.2.1>192.0.2.2 47 0>0 56"},
		{"what is carried is broken", ether(0x0800, over(4, patch(inner4, 0, "41"))), "false 192.0.2.1>192.0.2.2 4 0>0 52"},
	} {
		if got := moreSummary(c.frame); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		for cut := range c.frame { // nothing is read that is not there
			moreSummary(c.frame[:cut:cut])
		}
	}
}

func TestMoreFacts(t *testing.T) {
	tcp := join(x("4500003c 00004000 3f060000 0a000001 0a000002"), x("03e807d0 00000001 00000000 a002ffff 0000 0000"), x("020405b4 0402080a 00000000 00000000 01030307"))
	for _, c := range []struct {
		name  string
		frame []byte
		check func(m *flow.More) bool
	}{
		{"MAC addresses", ether(0x0800, ip4), func(m *flow.More) bool {
			return m.DstMAC == [6]byte{2, 0, 0, 0, 0, 1} && m.SrcMAC == [6]byte{2, 0, 0, 0, 0, 2}
		}},
		{"no second tag", ether(0x8100, x("0005 0800"), ip4), func(m *flow.More) bool { return m.InnerVLAN == 0 }},
		{"second tag", ether(0x88a8, x("0005 8100 e006 0800"), ip4), func(m *flow.More) bool { return m.InnerVLAN == flow.KeyTagged|6 }},
		{"three labels of four", ether(0x8847, x("00010040 00020040 00030040"), label, ip4), func(m *flow.More) bool {
			return m.Labels == [3]uint32{flow.LabelThere | 0x000100, flow.LabelThere | 0x000200, flow.LabelThere | 0x000300}
		}},
		{"labels of a try that failed are forgotten", ether(0x8847, x("00064140"), x("02"), make([]byte, 11), x("8847 00064140"), make([]byte, 8)), nil},
		{"flow label, hop limit, length", ether(0x86dd, patch(ip6, 0, "62e12345")), func(m *flow.More) bool { return m.FlowLabel == 0x12345 && m.TTL == 64 && m.Length == 52 }},
		{"TCP options", ether(0x0800, tcp), func(m *flow.More) bool {
			return m.TCPOptions == 1<<2|1<<4|1<<8|1<<1|1<<3 && m.FragmentFlags == 0x40 && m.TTL == 63
		}},
		{"a broken TCP option", ether(0x0800, patch(tcp, 40, "0200")), func(m *flow.More) bool { return m.TCPOptions == 1<<2 }},
		{"later fragment", ether(0x0800, patch(ip4, 6, "2064")), func(m *flow.More) bool { return m.FragmentFlags == 0x20 && m.FragmentOffset == 100 }},
		{"later fragment of IPv6", ether(0x86dd, patch(patch(ip6, 4, "0014"), 6, "2c")[:40], x("1100 0321 00000001"), ip6[40:]), func(m *flow.More) bool { return m.FragmentFlags == 0x20 && m.FragmentOffset == 100 }},
	} {
		var in Info
		m := flow.More{FlowLabel: 1} // of the last packet
		why := DecodeMore(LinkEthernet, c.frame, uint32(len(c.frame)), false, &in, &m)
		if c.check == nil {
			if why == Decoded {
				t.Errorf("%s: decoded", c.name)
			}
			continue
		}
		if why != Decoded || !c.check(&m) {
			t.Errorf("%s: %v, %+v", c.name, why, m)
		}
	}
}

func TestMoreAllocations(t *testing.T) {
	frame := ether(0x0800, over(47, x("0000 0800"), udp(50000, 4789, x("08000000 00007b00"), ether(0x0800, ip4))))
	var in Info
	var m flow.More
	if n := testing.AllocsPerRun(100, func() { DecodeMore(LinkEthernet, frame, uint32(len(frame)), true, &in, &m) }); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
}
