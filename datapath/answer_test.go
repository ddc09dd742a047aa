package datapath

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"weir/flow"
	"weir/packet"
)

// The parts of packets that are or are not to be answered. Addresses are 198.51.100.7,
// or 2001:db8::7, which sends, and 192.0.2.1, or 2001:db8:1::1.
var (
	client4, server4 = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.1")
	client6, server6 = netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("2001:db8:1::1")
)

const toOne, toMany = "020000000001" + "020000000002", "ffffffffffff" + "020000000002"

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// ip4 is an IPv4 packet with a right header; fragment is flags and offset.
func ip4(src, dst netip.Addr, proto byte, fragment uint16, payload []byte, options ...byte) []byte {
	b := []byte{0x45 + byte(len(options)/4), 0, 0, 0, 0, 1, 0, 0, 61, proto, 0, 0}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	b = append(b, options...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(payload)))
	binary.BigEndian.PutUint16(b[6:], fragment)
	binary.BigEndian.PutUint16(b[10:], naiveChecksum(b))
	return append(b, payload...)
}

func ip6(src, dst netip.Addr, next byte, payload []byte) []byte {
	b := []byte{0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), next, 61}
	return append(append(append(b, src.AsSlice()...), dst.AsSlice()...), payload...)
}

func tcp(seq, ack uint32, flags byte, data int) []byte {
	b := []byte{0x9c, 0x40, 0, 80}
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	b = append(b, 0x60, flags, 0x20, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4) // with an option
	return append(b, make([]byte, data)...)
}

var udp = unhex("9c40 0035 000c 0000 01020304")

// naiveChecksum is as RFC 1071 says it, octet by octet.
func naiveChecksum(parts ...[]byte) uint16 {
	s := 0
	for i, b := range bytes.Join(parts, nil) {
		s += int(b) << (8 * (1 - i%2))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(^s)
}

// checkAnswer says what is wrong with an answer to a packet that begins like ip.
func checkAnswer(ip, out []byte) string {
	var in, was packet.Info
	if why := packet.Decode(packet.LinkRaw, out, uint32(len(out)), &in); why != packet.Decoded {
		return "it is no packet: " + why.String()
	}
	if why := packet.Decode(packet.LinkRaw, ip, uint32(len(ip)), &was); why != packet.Decoded {
		return "the packet is none: " + why.String()
	}
	if in.Length != uint32(len(out)) {
		return "it has another length"
	}
	if in.Key.Dst != was.Key.Src {
		return "it goes to somebody else"
	}
	header, quoted := 20, 548
	if out[0]>>4 == 4 {
		if out[0] != 0x45 || naiveChecksum(out[:20]) != 0 {
			return "the header's checksum"
		}
		if len(out) > 576 {
			return "it is too long"
		}
	} else {
		header, quoted = 40, 1232
	}
	if out[0]>>4 != ip[0]>>4 || in.TTL != 64 {
		return "version, TTL"
	}
	body := out[header:]
	ones := append([]byte(nil), out[12:20]...) // the pseudo header
	if header == 40 {
		ones = append([]byte(nil), out[8:40]...)
	}
	ones = append(ones, 0, in.Key.Proto, byte(len(body)>>8), byte(len(body)))
	if in.Key.Proto == flow.ProtoTCP {
		switch {
		case was.Key.Proto != flow.ProtoTCP || was.TCPFlags&flow.RST != 0:
			return "a reset for what has none"
		case in.TCPFlags&flow.RST == 0:
			return "it is no reset"
		case in.Key.Src != was.Key.Dst || in.Key.SrcPort != was.Key.DstPort || in.Key.DstPort != was.Key.SrcPort:
			return "the reset is of another connection"
		case naiveChecksum(ones, body) != 0:
			return "TCP's checksum"
		case len(body) != 20 || body[12] != 0x50:
			return "TCP's header"
		}
		return ""
	}
	if was.Key.Proto == flow.ProtoTCP {
		return "no reset"
	}
	if header == 20 {
		ones = nil
	}
	length := int(was.Length)
	if header == 40 && be.Uint16(ip[4:]) == 0 {
		length = len(ip) // it is more than can be said there, or nothing
	}
	switch {
	case naiveChecksum(ones, body) != 0:
		return "ICMP's checksum"
	case in.Key.Proto == flow.ProtoICMP && (body[0] != 3 || body[1] != 13), in.Key.Proto == flow.ProtoICMPv6 && (body[0] != 1 || body[1] != 1):
		return "ICMP's type and code"
	case !bytes.Equal(body[8:], ip[:min(len(ip), quoted, length)]):
		return "what it quotes"
	}
	return ""
}

func TestAnswer(t *testing.T) {
	ether := func(to string, kind string, ip []byte) []byte { return append(unhex(to+kind), ip...) }
	icmp := func(kind byte) []byte { return []byte{kind, 0, 0, 0, 0, 1, 0, 1, 9, 9, 9, 9} }
	addr := netip.MustParseAddr
	const syn, ack, rst, fin, psh = flow.SYN, flow.ACK, flow.RST, flow.FIN, flow.PSH
	ext := func(next byte, rest []byte) []byte { return append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, rest...) }
	frag := func(next byte, offset uint16, rest []byte) []byte {
		return append([]byte{next, 0, byte(offset >> 8), byte(offset), 0, 0, 0, 1}, rest...)
	}
	wrong := ip4(client4, server4, 17, 0, udp)
	wrong[10] ^= 1
	long := ip4(client4, server4, 6, 0, tcp(1000, 0, syn, 1000))[:114]
	var answers [][]byte
	for _, c := range []struct {
		name  string
		frame []byte
		at    int
		want  string // "": none; rst SEQ ACK; icmp
	}{
		{"TCP, SYN", ip4(client4, server4, 6, 0, tcp(1000, 0, syn, 0)), 0, "rst 0 1001"},
		{"TCP, SYN with data", ip4(client4, server4, 6, 0, tcp(1000, 0, syn, 10)), 0, "rst 0 1011"},
		{"TCP, SYN with data that is not all here", long, 0, "rst 0 2001"},
		{"TCP, SYN at the end of the numbers", ip4(client4, server4, 6, 0, tcp(1<<32-1, 0, syn, 0)), 0, "rst 0 0"},
		{"TCP, SYN FIN", ip4(client4, server4, 6, 0, tcp(1000, 0, syn|fin, 0)), 0, "rst 0 1002"},
		{"TCP, no flag", ip4(client4, server4, 6, 0, tcp(1000, 77, 0, 5)), 0, "rst 0 1005"},
		{"TCP, SYN ACK", ip4(client4, server4, 6, 0, tcp(1000, 77, syn|ack, 0)), 0, "rst 77 0"},
		{"TCP, data", ip4(client4, server4, 6, 0, tcp(1000, 5000, psh|ack, 40)), 0, "rst 5000 0"},
		{"TCP, RST", ip4(client4, server4, 6, 0, tcp(1000, 0, rst, 0)), 0, ""},
		{"TCP, RST ACK", ip4(client4, server4, 6, 0, tcp(0, 77, rst|ack, 0)), 0, ""},
		{"TCP with IP options", ip4(client4, server4, 6, 0, tcp(1000, 0, syn, 0), 1, 1, 1, 0), 0, "rst 0 1001"},
		{"TCP, half a header", ip4(client4, server4, 6, 0, tcp(1000, 0, syn, 0)[:18]), 0, ""},
		{"TCP, first fragment of a SYN", ip4(client4, server4, 6, 0x2000, tcp(1000, 0, syn, 0)), 0, ""},
		{"TCP, first fragment of data", ip4(client4, server4, 6, 0x2000, tcp(1000, 77, ack, 16)), 0, "rst 77 0"},
		{"TCP in Ethernet, with padding", ether(toOne, "0800", append(ip4(client4, server4, 6, 0, tcp(1000, 0, syn, 0)), make([]byte, 6)...)), 14, "rst 0 1001"},
		{"UDP", ip4(client4, server4, 17, 0, udp), 0, "icmp"},
		{"UDP in a VLAN", ether(toOne, "8100 0007 0800", ip4(client4, server4, 17, 0, udp)), 18, "icmp"},
		{"UDP, to many by Ethernet", ether(toMany, "0800", ip4(client4, server4, 17, 0, udp)), 14, ""},
		{"UDP, first fragment", ip4(client4, server4, 17, 0x2000, udp), 0, "icmp"},
		{"UDP, later fragment", ip4(client4, server4, 17, 0x2001, udp), 0, ""},
		{"UDP, last fragment", ip4(client4, server4, 17, 0x00b9, udp), 0, ""},
		{"UDP, a wrong header", wrong, 0, ""},
		{"UDP, a long one", ip4(client4, server4, 17, 0, append(unhex("9c40 0035 03f0 0000"), make([]byte, 1000)...)), 0, "icmp"},
		{"GRE", ip4(client4, server4, 47, 0, udp), 0, "icmp"},
		{"echo", ip4(client4, server4, 1, 0, icmp(8)), 0, "icmp"},
		{"unreachable", ip4(client4, server4, 1, 0, icmp(3)), 0, ""},
		{"redirect", ip4(client4, server4, 1, 0, icmp(5)), 0, ""},
		{"time exceeded", ip4(client4, server4, 1, 0, icmp(11)), 0, ""},
		{"ICMP that nobody knows", ip4(client4, server4, 1, 0, icmp(200)), 0, ""},
		{"ICMP without a type", ip4(client4, server4, 1, 0, nil), 0, ""},
		{"to a group", ip4(client4, addr("224.0.0.251"), 17, 0, udp), 0, ""},
		{"to all", ip4(client4, addr("255.255.255.255"), 17, 0, udp), 0, ""},
		{"from a group", ip4(addr("239.1.1.1"), server4, 17, 0, udp), 0, ""},
		{"from nobody", ip4(addr("0.0.0.0"), server4, 17, 0, udp), 0, ""},
		{"from all", ip4(addr("255.255.255.255"), server4, 6, 0, tcp(1, 0, syn, 0)), 0, ""},
		{"from the loopback", ip4(addr("127.0.0.1"), server4, 6, 0, tcp(1, 0, syn, 0)), 0, ""},
		{"to the loopback", ip4(client4, addr("127.0.0.1"), 6, 0, tcp(1, 0, syn, 0)), 0, ""},
		{"within the loopback", ip4(addr("127.0.0.1"), addr("127.0.0.1"), 6, 0, tcp(1, 0, syn, 0)), 0, "rst 0 2"},
		{"to itself", ip4(server4, server4, 6, 0, tcp(1, 0, syn, 0)), 0, ""},

		{"IPv6 TCP, SYN", ip6(client6, server6, 6, tcp(1000, 0, syn, 0)), 0, "rst 0 1001"},
		{"IPv6 TCP, data", ether(toOne, "86dd", ip6(client6, server6, 6, tcp(1000, 5000, psh|ack, 3))), 14, "rst 5000 0"},
		{"IPv6 TCP, RST", ip6(client6, server6, 6, tcp(1000, 5000, rst, 3)), 0, ""},
		{"IPv6 TCP behind options", ip6(client6, server6, 60, ext(6, tcp(1000, 0, syn, 7))), 0, "rst 0 1008"},
		{"IPv6 UDP", ip6(client6, server6, 17, udp), 0, "icmp"},
		{"IPv6 UDP, whole in a fragment", ip6(client6, server6, 44, frag(17, 0, udp)), 0, "icmp"},
		{"IPv6 UDP, later fragment", ip6(client6, server6, 44, frag(17, 8, udp)), 0, ""},
		{"IPv6 echo", ip6(client6, server6, 58, icmp(128)), 0, "icmp"},
		{"IPv6 unreachable", ip6(client6, server6, 58, icmp(1)), 0, ""},
		{"IPv6 error behind options", ip6(client6, server6, 0, ext(58, icmp(3))), 0, ""},
		{"IPv6 redirect", ip6(client6, server6, 58, icmp(137)), 0, ""},
		{"IPv6 neighbour solicitation", ip6(client6, server6, 58, icmp(135)), 0, ""},
		{"IPv6, headers without an end", ip6(client6, server6, 60, ext(60, ext(60, nil))), 0, ""},
		{"IPv6 to a group", ip6(client6, addr("ff02::fb"), 17, udp), 0, ""},
		{"IPv6 to many by Ethernet", ether("333300000001"+"020000000002", "86dd", ip6(client6, server6, 17, udp)), 14, ""},
		{"IPv6 from nobody", ip6(netip.IPv6Unspecified(), server6, 17, udp), 0, ""},
		{"IPv6 from a group", ip6(addr("ff05::1"), server6, 17, udp), 0, ""},
		{"IPv6 from the loopback", ip6(netip.IPv6Loopback(), server6, 17, udp), 0, ""},
		{"IPv6 from an IPv4 address", ip6(netip.AddrFrom16(client4.As16()), server6, 17, udp), 0, ""},
		{"nothing", nil, 0, ""},
		{"no IP", unhex("00112233"), 0, ""},
		{"beyond the end", udp, len(udp), ""},
		{"before the beginning", udp, -1, ""},
	} {
		out, ok := Answer(c.frame, c.at)
		if !ok {
			if c.want != "" {
				t.Errorf("%s: no answer, want %s", c.name, c.want)
			}
			continue
		}
		got := "icmp"
		if proto := out[9]; out[0]>>4 == 4 && proto == 6 || out[0]>>4 == 6 && out[6] == 6 {
			b := out[len(out)-20:]
			got = fmt.Sprintf("rst %d %d", be.Uint32(b[4:]), be.Uint32(b[8:]))
			if ack := b[13]&flow.ACK != 0; ack != strings.HasPrefix(c.want, "rst 0 ") {
				t.Errorf("%s: flags %x", c.name, b[13])
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %q", c.name, got, c.want)
		}
		if wrong := checkAnswer(c.frame[c.at:], out); wrong != "" {
			t.Errorf("%s: %s: %x", c.name, wrong, out)
		}
		if _, ok := Answer(out, 0); ok {
			t.Errorf("%s: the answer is answered", c.name)
		}
		answers = append(answers, out)
	}
	peer(t, answers)
}

// peer lets tshark say what it thinks of the answers.
func peer(t *testing.T, answers [][]byte) {
	shark, err := exec.LookPath("tshark")
	if err != nil {
		t.Log("not asked: no tshark")
		return
	}
	file := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	file = append(file, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 101, 0, 0, 0)
	for _, b := range answers {
		n := uint32(len(b))
		file = append(file, 0, 0, 0, 0, 0, 0, 0, 0)
		file = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(file, n), n)
		file = append(file, b...)
	}
	name := filepath.Join(t.TempDir(), "answers.pcap")
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(shark, "-r", name, "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-T", "fields",
		"-e", "ip.checksum.status", "-e", "tcp.checksum.status", "-e", "icmp.checksum.status", "-e", "icmpv6.checksum.status", "-E", "occurrence=f", "-E", "separator=/")
	out, err := cmd.Output()
	if err != nil {
		t.Logf("not asked: tshark: %v", err)
		return
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(answers) {
		t.Errorf("tshark saw %d of %d answers", len(lines), len(answers))
	}
	for i, l := range lines {
		// 1 is good; of the packets that are quoted, only the first field counts.
		if strings.ContainsAny(strings.ReplaceAll(l, "/", ""), "02") || !strings.Contains(l, "1") {
			t.Errorf("tshark says %s of %x", l, answers[i])
		}
	}
}

func FuzzAnswer(f *testing.F) {
	for _, b := range [][]byte{
		ip4(client4, server4, 6, 0, tcp(1000, 0, flow.SYN, 10)), ip4(client4, server4, 17, 0, udp), ip4(client4, server4, 1, 0, udp),
		ip6(client6, server6, 6, tcp(1000, 0, flow.SYN, 10)), ip6(client6, server6, 60, append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, udp...)),
	} {
		f.Add(b, 0)
		f.Add(append(unhex(toOne+"0800"), b...), 14)
	}
	f.Fuzz(func(t *testing.T, octets []byte, network int) {
		out, ok := Answer(octets, network)
		if !ok && network == 0 && len(octets) >= 20 && octets[0]>>4 == 4 { // chance seldom finds a checksum
			b := append([]byte(nil), octets...)
			if h := int(b[0]&15) * 4; h >= 20 && h <= len(b) {
				b[10], b[11] = 0, 0
				binary.BigEndian.PutUint16(b[10:], naiveChecksum(b[:h]))
				octets = b
				out, ok = Answer(b, 0)
			}
		}
		if !ok {
			return
		}
		if wrong := checkAnswer(octets[network:], out); wrong != "" {
			t.Fatalf("%s: %x for %x", wrong, out, octets[network:])
		}
		if _, ok := Answer(out, 0); ok {
			t.Fatalf("the answer %x is answered", out)
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	p := ip4(client4, server4, 6, 0, tcp(1000, 0, flow.SYN, 0))
	for b.Loop() {
		Answer(p, 0)
	}
}
