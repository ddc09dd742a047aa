package packet

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"weir/flow"
)

// x is octets in hexadecimal, with spaces anywhere.
func x(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

func join(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

var (
	macs = x("020000000001 020000000002")
	// A UDP datagram from 10.0.0.1:1000 to 10.0.0.2:2000, 32 octets, TTL 64.
	ip4 = x("45000020 00000000 40110000 0a000001 0a000002  03e807d0 000c0000 61626364")
	// From ::1 to ::2, 52 octets, hop limit 64, traffic class 0x2e.
	ip6   = join(x("62e00000 000c1140"), make([]byte, 15), x("01"), make([]byte, 15), x("02  03e807d0 000c0000 61626364"))
	snap  = x("aaaa03 000000")
	label = x("00064140")
)

// ether is an Ethernet frame of a type.
func ether(etherType uint16, payload ...[]byte) []byte {
	return join(macs, be.AppendUint16(nil, etherType), join(payload...))
}

// short is an 802.3 frame.
func short(payload ...[]byte) []byte {
	b := join(payload...)
	return join(macs, be.AppendUint16(nil, uint16(len(b))), b)
}

func patch(b []byte, at int, with string) []byte {
	return join(b[:at], x(with), b[at+len(x(with)):])
}

// summary is what Decode says, in short: addresses are always the same here.
func summary(link LinkType, frame []byte) string {
	var in Info
	in.Key.Input = 42
	if why := Decode(link, frame, uint32(len(frame)), &in); why != Decoded {
		return why.String()
	}
	k := in.Key
	s := fmt.Sprintf("%d %d>%d len %d", k.Proto, k.SrcPort, k.DstPort, in.Length)
	if k.VLAN&flow.KeyTagged != 0 {
		s += fmt.Sprintf(" vlan %d", k.VLAN&flow.VLANMask)
	}
	if k.VLAN&flow.KeyFragment != 0 {
		s += " fragment"
	}
	if in.TCPFlags != 0 {
		s += fmt.Sprintf(" flags %#x", in.TCPFlags)
	}
	switch {
	case k.VLAN&flow.KeyIPv6 != 0 && k.Src.String() == "::1" && k.Dst.String() == "::2":
		s = "ip6 " + s
	case k.VLAN&flow.KeyIPv6 == 0 && k.Src.String() == "10.0.0.1" && k.Dst.String() == "10.0.0.2":
	default:
		s = fmt.Sprint(k.Src, " ", k.Dst, " ", s)
	}
	if in.TTL != 64 || k.Input != 42 || k.VLAN&flow.KeyIPv6 != 0 && k.TOS != 0x2e {
		s += fmt.Sprintf(" ttl %d tos %d input %d", in.TTL, k.TOS, k.Input)
	}
	return s
}

// far is Cisco metadata of n octets, but for the last EtherType.
func far(n int) []byte {
	var b []byte
	for n > 0 {
		size := min(n, 1024)
		if len(b) > 0 {
			b = append(b, 0x89, 0x09)
		}
		b = append(b, 1, byte((size-4)/4))
		b = append(b, make([]byte, size-4)...)
		n -= size
	}
	return b
}

// wires is an Ethernet frame with n pseudowires within each other.
func wires(n int) []byte {
	b := ether(0x0800, ip4)
	for range n {
		b = ether(0x8847, label, x("00000000"), b)
	}
	return b
}

const (
	v4 = "17 1000>2000 len 32"
	v6 = "ip6 17 1000>2000 len 52"
)

// TestLinkLayers: what tshark finds in these frames, and what it does not.
func TestLinkLayers(t *testing.T) {
	eth := ether(0x0800, ip4)
	wlan := func(control, qos string) []byte {
		return join(x(control), x("0000 020000000001 020000000002 020000000003 1000"), x(qos))
	}
	sll := func(hw, proto string, payload ...[]byte) []byte {
		return join(x("0000"), x(hw), x("0006 0102030405060000"), x(proto), join(payload...))
	}
	sll2 := func(hw, proto string, payload ...[]byte) []byte {
		return join(x(proto), x("0000 00000001"), x(hw), x("0006 0102030405060000"), join(payload...))
	}
	for _, c := range []struct {
		name string
		link LinkType
		b    []byte
		want string
	}{
		{"ethernet", LinkEthernet, eth, v4},
		{"ethernet ip6", LinkEthernet, ether(0x86dd, ip6), v6},
		{"padding and FCS change nothing", LinkEthernet, join(eth, make([]byte, 18)), v4},
		{"802.1Q", LinkEthernet, ether(0x8100, x("a005 0800"), ip4), v4 + " vlan 5"},
		{"priority tag", LinkEthernet, ether(0x8100, x("a000 86dd"), ip6), v6 + " vlan 0"},
		{"QinQ", LinkEthernet, ether(0x8100, x("0005 8100 0006 0800"), ip4), v4 + " vlan 5"},
		{"802.1ad", LinkEthernet, ether(0x88a8, x("0005 8100 0006 86dd"), ip6), v6 + " vlan 5"},
		{"0x9100", LinkEthernet, ether(0x9100, x("0007 0800"), ip4), v4 + " vlan 7"},
		{"0x9200 is no tag", LinkEthernet, ether(0x9200, x("0007 0800"), ip4), "other-type"},
		{"tag, then 802.2", LinkEthernet, ether(0x8100, x("0005 0028"), snap, x("0800"), ip4), v4 + " vlan 5"},
		{"tag cut", LinkEthernet, ether(0x8100, x("0005")), "truncated-link"},
		{"31 tags", LinkEthernet, ether(0x8100, []byte(strings.Repeat("\x00\x05\x81\x00", 30)), x("0005 0800"), ip4), v4 + " vlan 5"},
		{"32 tags behind an Ethernet header", LinkEthernet, ether(0x8100, []byte(strings.Repeat("\x00\x05\x81\x00", 31)), x("0005 0800"), ip4), "too-deep"},
		{"34 tags", LinkEthernet, ether(0x8100, []byte(strings.Repeat("\x00\x05\x81\x00", 34)), x("0005 0800"), ip4), "too-deep"},
		{"arp", LinkEthernet, ether(0x0806, make([]byte, 28)), "arp"},
		{"lldp", LinkEthernet, ether(0x88cc, make([]byte, 60)), "other-type"},
		{"spanning tree", LinkEthernet, short(x("424203"), make([]byte, 40)), "llc"},
		{"raw 802.3", LinkEthernet, short(x("ffff"), make([]byte, 40)), "llc"},
		{"snap", LinkEthernet, short(snap, x("0800"), ip4), v4},
		{"snap 802.1H", LinkEthernet, short(x("aaaa03 0000f8 86dd"), ip6), v6},
		{"snap of Cisco", LinkEthernet, short(x("aaaa03 00000c 2000"), ip4), "llc"},
		{"snap bridged", LinkEthernet, short(x("aaaa03 0080c2 0007 0000"), eth), v4},
		{"802.2 SAP of IP", LinkEthernet, short(x("060603"), ip4), v4},
		{"neither type nor length", LinkEthernet, ether(1510, snap, x("0800"), ip4), "other-type"},
		{"jumbo 802.2", LinkEthernet, ether(0x8870, snap, x("0800"), ip4), v4},
		{"ISL", LinkEthernet, join(x("01000c0000 00 020000000002 003a aaaa03 00000c 000a 0000 0000"), eth, x("00000000")), v4},
		{"FabricPath", LinkEthernet, ether(0x8903, x("0047"), ether(0x8100, x("0005 0800"), ip4)), v4 + " vlan 5"},
		{"802.1ah", LinkEthernet, ether(0x88e7, x("00000005"), eth), v4},
		{"802.1ah in a backbone tag", LinkEthernet, ether(0x88a8, x("0009 88e7 00000005"), eth), v4 + " vlan 9"},
		{"TRILL", LinkEthernet, ether(0x22f3, x("0000 0001 0002"), eth), v4},
		{"TRILL with options", LinkEthernet, ether(0x22f3, x("0080 0001 0002"), make([]byte, 8), eth), v4},
		{"VN-Tag", LinkEthernet, ether(0x8926, x("00000001 0800"), ip4), v4},
		{"E-Tag", LinkEthernet, ether(0x893f, x("000000010002 0800"), ip4), v4},
		{"Cisco metadata", LinkEthernet, ether(0x8909, x("0101 00010005 0800"), ip4), v4},
		{"Cisco metadata, 4094 octets up to a tag", LinkEthernet, ether(0x8909, far(4080), x("8100 0005 0800"), ip4), v4 + " vlan 5"},
		{"Cisco metadata, 4098 octets up to a tag", LinkEthernet, ether(0x8909, far(4084), x("8100 0005 0800"), ip4), "too-deep"},
		{"NSH", LinkEthernet, ether(0x894f, x("00420201 000001ff"), ip4), v4},
		{"NSH with Ethernet", LinkEthernet, ether(0x894f, x("00420203 000001ff"), eth), v4},
		{"MACsec, integrity only", LinkEthernet, ether(0x88e5, x("0000 00000001 0800"), ip4, make([]byte, 16)), v4},
		{"MACsec with SCI", LinkEthernet, ether(0x88e5, x("2000 00000001 0000000000000000 0800"), ip4, make([]byte, 16)), v4},
		{"MACsec, encrypted", LinkEthernet, ether(0x88e5, x("0c00 00000001"), make([]byte, 60)), "other-type"},
		{"bridged Ethernet", LinkEthernet, ether(0x6558, eth), v4},
		{"frame cut", LinkEthernet, eth[:13], "truncated-link"},
		{"empty frame", LinkEthernet, nil, "truncated-link"},

		{"mpls", LinkEthernet, ether(0x8847, label, ip4), v4},
		{"mpls, three labels", LinkEthernet, ether(0x8848, x("00064040 00064040"), label, ip6), v6},
		{"mpls behind a tag", LinkEthernet, ether(0x8100, x("0005 8847"), label, ip4), v4 + " vlan 5"},
		{"mpls, labels without end", LinkEthernet, ether(0x8847, []byte(strings.Repeat("\x00\x06\x40\x40", 100))), "too-deep"},
		{"mpls cut", LinkEthernet, ether(0x8847, x("00064040")), "truncated-link"},
		{"pseudowire", LinkEthernet, ether(0x8847, label, x("00000000"), eth), v4},
		{"pseudowire with tag", LinkEthernet, ether(0x8847, label, x("00000007"), ether(0x8100, x("0005 86dd"), ip6)), v6 + " vlan 5"},
		{"pseudowire without control word", LinkEthernet, ether(0x8847, label, eth), v4},
		{"the same, addresses like IPv4's first octet", LinkEthernet, ether(0x8847, label, patch(eth, 0, "42"), make([]byte, 9)), v4},
		{"pseudowire with ARP", LinkEthernet, ether(0x8847, label, x("00000000"), ether(0x0806, make([]byte, 28))), "mpls-payload"},
		{"four pseudowires", LinkEthernet, wires(4), v4},
		{"five pseudowires", LinkEthernet, wires(5), "mpls-payload"},
		{"pseudowire control channel", LinkEthernet, ether(0x8847, label, x("10000007"), make([]byte, 20)), "mpls-payload"},

		{"pppoe", LinkEthernet, ether(0x8864, x("11000001 0022 0021"), ip4), v4},
		{"pppoe ip6", LinkEthernet, ether(0x8864, x("11000001 0036 0057"), ip6), v6},
		{"pppoe, a longer length", LinkEthernet, ether(0x8864, x("11000001 ffff 0021"), ip4), v4},
		{"pppoe, a shorter length", LinkEthernet, ether(0x8864, x("11000001 0017 0021"), ip4), "17 0>0 len 32"},
		{"pppoe, no length", LinkEthernet, ether(0x8864, x("11000001 0000 0021"), ip4), "truncated-link"},
		{"pppoe, padded", LinkEthernet, ether(0x8864, x("11000001 0017 0021"), patch(ip4, 2, "0000")), "17 0>0 len 21"},
		{"pppoe, short protocol", LinkEthernet, ether(0x8864, x("11000001 0021 21"), ip4), v4},
		{"pppoe discovery", LinkEthernet, ether(0x8863, x("11090000 0000")), "other-type"},
		{"pppoe with LCP", LinkEthernet, ether(0x8864, x("11000001 000a c021 0901000800000000")), "other-type"},
		{"pppoe with mpls", LinkEthernet, ether(0x8864, x("11000001 0026 0281"), label, ip4), v4},
		{"pppoe bridged", LinkEthernet, ether(0x8864, x("11000001 0032 0031 0001"), eth), v4},
		{"pppoe multilink", LinkEthernet, ether(0x8864, x("11000001 0028 003d c0000001 0021"), ip4), v4},
		{"pppoe multilink, a fragment", LinkEthernet, ether(0x8864, x("11000001 0028 003d 80000001 0021"), ip4), "other-type"},
		{"link type PPPoE", LinkPPPoE, join(x("11000001 0022 0021"), ip4), v4},

		{"null, little-endian", LinkNull, join(x("02000000"), ip4), v4},
		{"null, big-endian", LinkNull, join(x("00000002"), ip4), v4},
		{"null, IPv6 of Linux", LinkNull, join(x("0a000000"), ip6), v6},
		{"null, IPv6 of OpenBSD", LinkNull, join(x("18000000"), ip6), v6},
		{"null, IPv6 of FreeBSD", LinkNull, join(x("0000001c"), ip6), v6},
		{"null, IPv6 of macOS", LinkNull, join(x("1e000000"), ip6), v6},
		{"null, EtherType", LinkNull, join(x("00000800"), ip4), v4},
		{"null, ISO", LinkNull, join(x("07000000"), ip4), "address-family"},
		{"null, PPP", LinkNull, join(x("ff030021"), ip4), v4},
		{"null, Cisco HDLC", LinkNull, join(x("0f000800"), ip4), v4},
		{"loop", LinkLoop, join(x("00000018"), ip6), v6},

		{"ppp", LinkPPP, join(x("ff03 0021"), ip4), v4},
		{"ppp, address compressed", LinkPPP, join(x("0057"), ip6), v6},
		{"ppp, all compressed", LinkPPP, join(x("21"), ip4), v4},
		{"ppp, protocol compressed", LinkPPPHDLC, join(x("ff03 21"), ip4), v4},
		{"ppp hdlc, Cisco's", LinkPPPHDLC, join(x("0f00 0800"), ip4), v4},
		{"ppp with direction", LinkPPPDir, join(x("01 ff03 0021"), ip4), v4},
		{"pppd", LinkPPPWithDir, join(x("00 ff03 0057"), ip6), v6},
		{"chdlc", LinkCiscoHDLC, join(x("8f00 86dd"), ip6), v6},
		{"chdlc with mpls", LinkCiscoHDLC, join(x("0f00 8847"), label, ip4), v4},
		{"chdlc slarp", LinkCiscoHDLC, join(x("8f00 8035"), make([]byte, 18)), "arp"},
		{"chdlc cdp", LinkCiscoHDLC, join(x("8f00 2000"), make([]byte, 18)), "other-type"},
		{"chdlc with direction", LinkHDLCDir, join(x("00 0f00 0800"), ip4), v4},
		{"frame relay", LinkFrameRelay, join(x("1841 03cc"), ip4), v4},
		{"frame relay snap", LinkFrameRelay, join(x("1841 0300 80 000000 86dd"), ip6), v6},
		{"frame relay of Cisco", LinkFrameRelay, join(x("1841 0800"), ip4), v4},

		{"sll", LinkSLL, sll("0001", "0800", ip4), v4},
		{"sll vlan", LinkSLL, sll("0001", "8100", x("0005 86dd"), ip6), v6 + " vlan 5"},
		{"sll 802.2", LinkSLL, sll("0001", "0004", snap, x("0800"), ip4), v4},
		{"sll gre", LinkSLL, sll("030a", "0800", ip4), v4},
		{"sll netlink", LinkSLL, sll("0338", "0000", ip4), "address-family"},
		{"sll ppp", LinkSLL, sll("0200", "0007", x("0021"), ip4), v4},
		{"sll can", LinkSLL, sll("0118", "000c", ip4), "other-type"},
		{"sll arp", LinkSLL, sll("0001", "0806", make([]byte, 28)), "arp"},
		{"sll2", LinkSLL2, sll2("0001", "0800", ip4), v4},
		{"sll2 none", LinkSLL2, sll2("fffe", "86dd", ip6), v6},
		{"sll2 cut", LinkSLL2, x("0800"), "truncated-link"},

		{"raw", LinkRaw, ip4, v4},
		{"raw ip6", LinkRawBSD, ip6, v6},
		{"raw, neither", LinkRawOpenBSD, patch(ip4, 0, "55"), "bad-ip-version"},
		{"raw, empty", LinkRaw, nil, "truncated-ip"},
		{"ipv4", LinkIPv4, ip4, v4},
		{"ipv4 with ip6", LinkIPv4, ip6, "bad-ip-version"},
		{"ipv6", LinkIPv6, ip6, v6},
		{"network ipv4", LinkOfEtherType(0x0800), ip4, v4},
		{"network ipv6", LinkOfEtherType(0x86dd), ip6, v6},
		{"network mpls", LinkOfEtherType(0x8847), join(label, ip4), v4},
		{"network arp", LinkOfEtherType(0x0806), ip4, "arp"},

		{"nflog", LinkNFLog, join(x("02000001 0800 0100 08000100 1400 0500 00000000000000000000000000000000 2400 0900"), ip4), v4},
		{"nflog, big-endian", LinkNFLog, join(x("0a000001 0008 0001 86dd0100 0038 0009"), ip6), v6},
		{"nflog, arp", LinkNFLog, join(x("03000001 2400 0900"), ip4), "address-family"},
		{"nflog, bridge", LinkNFLog, join(x("07000001 2400 0900"), ip4), v4},
		{"nflog, bridge with its EtherType", LinkNFLog, join(x("07000001 0800 0100 86dd0100 3800 0900"), ip6), v6},
		{"nflog, tag", LinkNFLog, join(x("07000001 0800 0100 81000100 2800 0900 0007 0800"), ip4), v4 + " vlan 7"},
		{"nflog, padded", LinkNFLog, join(x("02000001 1900 0900"), patch(ip4[:21], 2, "0000"), x("000000")), "17 0>0 len 21"},
		{"nflog, no length", LinkNFLog, join(x("02000001 0000 0900"), ip4), "other-type"},
		{"nflog, no packet", LinkNFLog, x("02000001 0800 0100 08000100"), "truncated-link"},
		{"pflog", LinkPFLog, join(x("3d02 0000"), make([]byte, 60), ip4), v4},
		{"pflog ip6", LinkPFLog, join(x("401c 0000"), make([]byte, 60), ip6), v6},
		{"ppi", LinkPPI, join(x("00000800 01000000"), eth), v4},
		{"ppi in ppi in ppi", LinkPPI, []byte(strings.Repeat("\x00\x00\x08\x00\xc0\x00\x00\x00", 40)), "too-deep"},
		{"arcnet", LinkARCNetBSD, join(x("0102 d4 00 0001"), ip4), v4},
		{"arcnet, RFC 1051", LinkARCNetLinux, join(x("0102 0000 f0"), ip4), v4},
		{"arcnet, exception", LinkARCNetBSD, join(x("0102 d4 ff ffff d4 00 0001"), ip4), v4},
		{"arcnet arp", LinkARCNetBSD, join(x("0102 d5 00 0001"), make([]byte, 8)), "arp"},

		{"802.11", LinkWLAN, join(wlan("0802", ""), snap, x("0800"), ip4), v4},
		{"802.11 qos", LinkWLAN, join(wlan("8802", "0000"), snap, x("86dd"), ip6), v6},
		{"802.11 qos with HT control", LinkWLAN, join(wlan("8882", "0000 00000000"), snap, x("0800"), ip4), v4},
		{"802.11 four addresses", LinkWLAN, join(wlan("0803", "020000000004"), snap, x("0800"), ip4), v4},
		{"802.11 aggregate", LinkWLAN, join(wlan("8802", "8000 020000000001 020000000002 0028"), snap, x("0800"), ip4, make([]byte, 40)), v4},
		{"802.11 protected", LinkWLAN, join(wlan("0842", ""), make([]byte, 60)), "wlan-protected"},
		{"802.11 beacon", LinkWLAN, join(wlan("8000", ""), make([]byte, 60)), "wlan-control"},
		{"802.11 acknowledgement", LinkWLAN, x("d400 0000 020000000001"), "wlan-control"},
		{"802.11 null", LinkWLAN, wlan("4802", ""), "wlan-control"},
		{"802.11 later fragment", LinkWLAN, join(patch(wlan("0802", ""), 22, "1100"), snap, x("0800"), ip4), "wlan-control"},
		{"radiotap", LinkRadiotap, join(x("00000800 00000000"), wlan("0802", ""), snap, x("0800"), ip4), v4},
		{"radiotap, padded", LinkRadiotap, join(x("00000900 02000000 20"), wlan("8802", "0000 ffff"), snap, x("0800"), ip4), v4},
		{"radiotap, time and flags, two words", LinkRadiotap, join(x("00001900 03000080 00000000"), make([]byte, 12), x("20"), wlan("8802", "0000 ffff"), snap, x("0800"), ip4), v4},
		{"radiotap, a lie", LinkRadiotap, x("0000ffff 00000000"), "truncated-link"},
		{"prism", LinkPrism, join(x("00000041 90000000"), make([]byte, 136), wlan("0802", ""), snap, x("0800"), ip4), v4},
		{"avs", LinkAVS, join(x("80211001 00000040"), make([]byte, 56), wlan("0802", ""), snap, x("0800"), ip4), v4},
		{"avs as prism", LinkPrism, join(x("80211001 00000040"), make([]byte, 56), wlan("0802", ""), snap, x("0800"), ip4), v4},

		{"no such link type", 147, eth, "unknown-link"},
	} {
		if got := summary(c.link, c.b); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestHeaders: IP and what follows, in raw frames.
func TestHeaders(t *testing.T) {
	proto := func(p string) []byte { return patch(ip4, 9, p) }
	total := func(b []byte, n int) []byte { return patch(b, 2, fmt.Sprintf("%04x", n)) }
	six := func(length int, next string, payload ...[]byte) []byte {
		return join(patch(patch(ip6, 4, fmt.Sprintf("%04x", length)), 6, next)[:40], join(payload...))
	}
	udp := ip6[40:]
	for _, c := range []struct {
		name string
		b    []byte
		want string
	}{
		{"tcp", join(total(proto("06"), 40)[:20], x("1000 2000 00000001 00000002 5012 0000 0000 0000")), "6 4096>8192 len 40 flags 0x12"},
		{"tcp, nine flags", join(total(proto("06"), 40)[:20], x("1000 2000 00000001 00000002 51ff 0000 0000 0000")), "6 4096>8192 len 40 flags 0xff"},
		{"tcp, cut behind the ports", join(total(proto("06"), 40)[:20], x("1000 2000")), "6 4096>8192 len 40"},
		{"tcp, cut behind the flags", join(total(proto("06"), 40)[:20], x("1000 2000 00000001 00000002 5002 ffff")), "6 4096>8192 len 40 flags 0x2"},
		{"tcp, cut within the window", join(total(proto("06"), 40)[:20], x("1000 2000 00000001 00000002 5002 ff")), "6 4096>8192 len 40"},
		{"tcp, no header length", join(total(proto("06"), 40)[:20], x("1000 2000 00000001 00000002 4002 0000 0000 0000")), "6 4096>8192 len 40"},
		{"udp, cut within the ports", ip4[:23], "17 0>0 len 32"},
		{"udp, no ports within the packet", join(total(ip4, 20), make([]byte, 26)), "17 0>0 len 20"},
		{"udp, half a port within it", join(total(ip4, 22), make([]byte, 24)), "17 0>0 len 22"},
		{"udp-lite", proto("88"), "136 1000>2000 len 32"},
		{"sctp", proto("84"), "132 1000>2000 len 32"},
		{"sctp, cut within its header", proto("84")[:31], "132 0>0 len 32"},
		{"dccp", proto("21"), "33 1000>2000 len 32"},
		{"icmp", proto("01"), "1 0>1000 len 32"},
		{"icmp, five octets", total(proto("01"), 25), "1 0>0 len 25"},
		{"icmp, six octets", total(proto("01"), 26), "1 0>1000 len 26"},
		{"icmp6 in ip4", proto("3a"), "58 0>0 len 32"},
		{"gre", proto("2f"), "47 0>0 len 32"},
		{"ipip", proto("04"), "4 0>0 len 32"},
		{"esp", proto("32"), "50 0>0 len 32"},
		{"ah", proto("33"), "51 0>0 len 32"},
		{"options", join(total(patch(ip4[:20], 0, "46"), 36), x("94040000"), ip4[20:]), "17 1000>2000 len 36"},
		{"options cut", join(total(patch(ip4[:20], 0, "4f"), 100), x("9404")), "17 0>0 len 100"},
		{"first fragment", patch(ip4, 6, "2000"), "17 1000>2000 len 32"},
		{"later fragment", patch(ip4, 6, "2001"), "17 0>0 len 32 fragment"},
		{"last fragment", patch(ip4, 6, "1fff"), "17 0>0 len 32 fragment"},
		{"do not fragment", patch(ip4, 6, "4000"), v4},
		{"length 0, to be segmented", join(total(ip4, 0), make([]byte, 2000)), "17 1000>2000 len 2032"},
		{"length below the header", total(ip4, 19), "bad-total-length"},
		{"header length 4", patch(ip4, 0, "44"), "bad-header-length"},
		{"version 5", patch(ip4, 0, "55"), "bad-ip-version"},
		{"cut", ip4[:19], "truncated-ip"},

		{"ip6 tcp", join(six(20, "06"), x("1000 2000 00000001 00000002 5018 0000 0000 0000")), "ip6 6 4096>8192 len 60 flags 0x18"},
		{"icmp6", six(8, "3a", x("8700 0000 00000000")), "ip6 58 0>34560 len 48"},
		{"icmp in ip6", six(8, "01", x("0800 0000 00000000")), "ip6 1 0>0 len 48"},
		{"hop by hop", six(20, "00", x("1100 01040000 0000"), udp), "ip6 17 1000>2000 len 60"},
		{"hop by hop, routing, options", six(52, "00", x("2b00 01040000 0000  3c02 0001 00000000"), make([]byte, 16), x("1101"), make([]byte, 14), udp), "ip6 17 1000>2000 len 92"},
		{"routing, segments left", six(28, "2b", x("1101 0001"), make([]byte, 12), udp), "ip6 17 1000>2000 len 68"},
		{"first fragment", six(20, "2c", x("1100 0001 00000001"), udp), "ip6 17 1000>2000 len 60"},
		{"atomic fragment", six(20, "2c", x("1100 0000 00000001"), udp), "ip6 17 1000>2000 len 60"},
		{"later fragment", six(20, "2c", x("1100 0008 00000001"), udp), "ip6 17 0>0 len 60 fragment"},
		{"later fragment with options", six(20, "2c", x("3c00 0008 00000001"), udp), "ip6 60 0>0 len 60 fragment"},
		{"fragment header cut", six(20, "2c", x("1100 0008 000000")), "ip6 44 0>0 len 60"},
		{"extension header cut after its first octet", six(20, "00", x("11")), "ip6 0 0>0 len 60"},
		{"extension header cut", six(20, "00", x("1100 0104")), "ip6 17 0>0 len 60"},
		{"extension header beyond the packet", six(4, "00", x("1100 01040000 0000"), udp), "ip6 17 0>0 len 44"},
		{"no next header", six(0, "3b"), "ip6 59 0>0 len 40"},
		{"eight extension headers", six(76, "3c", []byte(strings.Repeat("\x3c\x00\x01\x04\x00\x00\x00\x00", 7)), x("1100 01040000 0000"), udp), "ip6 17 1000>2000 len 116"},
		{"nine extension headers", six(84, "3c", []byte(strings.Repeat("\x3c\x00\x01\x04\x00\x00\x00\x00", 8)), x("1100 01040000 0000"), udp), "ip6 60 0>0 len 124"},
		{"ah ends the walk", six(20, "33", x("1104 0000 00000001"), udp), "ip6 51 0>0 len 60"},
		{"mobility ends the walk", six(8, "87", x("3b00 0000 00000000")), "ip6 135 0>0 len 48"},
		{"jumbo", six(0, "00", x("1100 c204 00011170"), udp), "ip6 17 1000>2000 len 70040"},
		{"jumbo behind another option", six(0, "00", x("1101 0000 0100 c204 00011170 0102 0000"), udp), "ip6 17 1000>2000 len 70040"},
		{"jumbo, the eighth option", six(0, "00", x("1101 00000000000000 c204 00011170 00"), udp), "ip6 17 1000>2000 len 70040"},
		{"jumbo, the ninth option", six(0, "00", x("1101 0000000000000000 c204 00011170"), udp), "ip6 0 0>0 len 40"},
		{"jumbo beyond all measure", six(0, "00", x("1100 c204 ffffffff"), udp), "ip6 17 1000>2000 len 4294967295"},
		{"no jumbo option where one should be", six(0, "00", x("1100 01040000 0000"), udp), "ip6 0 0>0 len 40"},
		{"jumbo option in another header", six(0, "3c", x("1100 c204 00011170"), udp), "ip6 60 0>0 len 40"},
		{"length 0", six(0, "11", udp), "ip6 17 0>0 len 40"},
		{"length 0, too long for the field", six(0, "11", udp, make([]byte, 70000)), "ip6 17 1000>2000 len 70052"},
		{"cut", ip6[:39], "truncated-ip"},
	} {
		if got := summary(LinkRaw, c.b); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestEveryCut: a frame that ends anywhere is a reason or the same flow, and
// what it counts never depends on where it ends.
func TestEveryCut(t *testing.T) {
	whole := ether(0x8100, x("0005 8847"), label, ip4)
	for n := range whole {
		var in Info
		switch why := Decode(LinkEthernet, whole[:n:n], uint32(len(whole)), &in); {
		case why == Decoded && n < 22+20:
			t.Errorf("%d octets: decoded", n)
		case why != Decoded && n >= 22+20:
			t.Errorf("%d octets: %v", n, why)
		case why == Decoded && (in.Length != 32 || in.Key.Proto != 17):
			t.Errorf("%d octets: %+v", n, in)
		}
	}
}

func TestReasons(t *testing.T) {
	names := map[string]bool{}
	for _, r := range append(Reasons(), Decoded) {
		if r.String() == "" || r.String() == "unknown" || r.Help() == "" || names[r.String()] {
			t.Errorf("reason %d: %q, %q", r, r, r.Help())
		}
		if strings.ToLower(r.String()) != r.String() || strings.ContainsAny(r.String(), " _") {
			t.Errorf("%q is not lower-kebab", r)
		}
		names[r.String()] = true
	}
	if Decoded.NonIP() || !ARP.NonIP() || BadVersion.NonIP() || TruncatedLink.NonIP() {
		t.Error("NonIP is wrong")
	}
}

// TestAllocations: nothing is allocated, whatever the link layer.
func TestAllocations(t *testing.T) {
	frames := []struct {
		link LinkType
		b    []byte
	}{
		{LinkEthernet, ether(0x0800, ip4)},
		{LinkEthernet, ether(0x8100, x("0005 86dd"), ip6)},
		{LinkEthernet, ether(0x8100, x("0005 8100 0006 8847"), label, x("00000000"), ether(0x8864, x("11000001 0022 0021"), ip4))},
		{LinkRadiotap, join(x("00000800 00000000 0802"), make([]byte, 22), snap, x("0800"), ip4)},
		{LinkNFLog, join(x("02000001 0800 0100 08000100 2400 0900"), ip4)},
		{LinkPrism, join(x("00000041 90000000"), make([]byte, 200))},
		{LinkPPPDir, join(x("01 ff03 0021"), ip4)},
	}
	var in Info
	if n := testing.AllocsPerRun(100, func() {
		for _, f := range frames {
			Decode(f.link, f.b, uint32(len(f.b)), &in)
		}
	}); n != 0 {
		t.Errorf("%v allocations in %d packets, want 0", n, len(frames))
	}
}
