package capture

import (
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"weir/packet"
	"weir/test/kernel"
)

// words are what expressions are made of.
var words = strings.Fields(`ip ip6 arp tcp udp icmp icmp6 sctp igmp ether and or not ( ) src dst host net port portrange proto 80 443 1-1000 10.0.0.1 10.0.0.0/8 ::1 fe80::/10
	vlan 5 mpls pppoes less greater 100 len = != < > <= >= + - * / % & | ^ << >> tcp[13] ip[2:2] udp[ ip[0] ] : 2 4 \tcp mask 255.0.0.0 inbound outbound multicast broadcast 1:2:3:4:5:6
	tcp[tcpflags] tcp-syn icmp[icmptype] icmp-echo 7 0 0xff domain http stp pim esp 0x86dd`)

// check holds one expression to the rules of the kernel and to another
// interpreter.
func check(t *testing.T, expr string, link packet.LinkType, frame []byte) {
	layout, fixed := layoutOf(link)
	raw, err := compile(expr, layout, 99)
	if err != nil {
		var fe *FilterError
		if !errors.As(err, &fe) || fe.Column < 1 || fe.Column > len(expr)+1 || fe.Msg == "" || strings.Contains(err.Error(), "\n") {
			t.Fatalf("%q: %v (%T)", expr, err, err)
		}
		return
	}
	got := run(translate(raw), frame, uint32(len(frame)), 0x0800)
	if got != 0 && got != 99 {
		t.Fatalf("%q gives %d", expr, got)
	}
	all, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatalf("%q: not all of the program is known: %v", expr, raw)
	}
	for _, in := range all {
		if ext, ok := in.(bpf.LoadExtension); ok && ext.Num != bpf.ExtLen || !fixed {
			return // only the kernel has these
		}
	}
	vm, err := bpf.NewVM(all)
	if err != nil {
		t.Fatalf("%q: %v: %v", expr, err, all)
	}
	want, err := vm.Run(frame)
	if err != nil {
		t.Fatalf("%q: %v", expr, err)
	}
	if uint32(want) != got {
		t.Fatalf("%q on %x: %d, another interpreter says %d\n%v", expr, frame, got, want, all)
	}
}

var links = []packet.LinkType{packet.LinkEthernet, packet.LinkSLL, packet.LinkRaw, packet.LinkNull, packet.LinkCiscoHDLC, packet.LinkIPv6, packet.LinkNetwork}

// TestRandomExpressions: whatever words are put together, the outcome is a
// program that every interpreter understands the same way, or one clear line.
func TestRandomExpressions(t *testing.T) {
	frame, _ := hex.DecodeString("0200000000010200000000028100000508004500002800000000400600000a0000010a000002005001bb00000001000000025012000000000000")
	r := rand.New(rand.NewPCG(1, 2))
	compiled := 0
	for range 60_000 {
		var b strings.Builder
		for range 1 + r.IntN(9) {
			b.WriteString(words[r.IntN(len(words))])
			b.WriteByte(' ')
		}
		link := links[r.IntN(len(links))]
		if _, err := CompileFilter(b.String(), link); err == nil {
			compiled++
		}
		check(t, b.String(), link, frame[:r.IntN(len(frame)+1)])
	}
	if compiled < 600 {
		t.Errorf("only %d expressions were sound", compiled)
	}
}

func FuzzFilter(f *testing.F) {
	frame, _ := hex.DecodeString("02000000000102000000000208004500002800000000400600000a0000010a000002005001bb00000001000000025012000000000000")
	for _, expr := range []string{
		"tcp port 80 or 443", "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420", "vlan 5 and mpls 7 and ip6 net fe80::/10", "not (src or dst portrange 1-2)",
		"ether host 1:2:3:4:5:6 or len - 4 > ip[2:2] % 7 ^ 3", "pppoes 1 and udp", "ip[ip[0]:4] / tcp[0] = -1", "", strings.Repeat("port 1 or ", 100) + "port 2",
	} {
		f.Add(expr, uint8(0), frame)
	}
	f.Fuzz(func(t *testing.T, expr string, link uint8, frame []byte) {
		check(t, expr, links[int(link)%len(links)], frame)
	})
}

// TestKernelTakes: what is compiled for interfaces passes the kernel's checks.
func TestKernelTakes(t *testing.T) {
	kernel.SocketFilters(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	l := &live{fd: fd}
	for _, expr := range []string{
		"", "tcp port 80 or 443", "vlan 5 and vlan and port 53", "inbound and not vlan", "ip[ip[0] & 15] / tcp[13] ^ 7 = len % 3", "tcp[0xffffffff] = 1 or ether[0xfffff000] = 1",
		strings.TrimSuffix(strings.Repeat("host 1.2.3.4 or ", 30), "or "), "net ::/0 and net 0.0.0.0/0", "ip[4] << ip[5] = 1",
	} {
		for _, link := range []packet.LinkType{packet.LinkEthernet, packet.LinkNetwork} {
			f := &Filter{expr: expr}
			code, err := f.program(link, 256)
			var fe *FilterError
			if errors.As(err, &fe) && fe.Link {
				continue
			}
			if err != nil {
				t.Errorf("%q: %v", expr, err)
			} else if err := l.attach(code); err != nil {
				t.Errorf("%.60q: the kernel refuses %d instructions: %v", expr, len(code), err)
			}
		}
	}
}

// TestFarJumps: programs longer than a jump reaches.
func TestFarJumps(t *testing.T) {
	var b strings.Builder
	for i := range 120 {
		if i > 0 {
			b.WriteString(" or ")
		}
		b.WriteString("net 10.0." + string('0'+rune(i%10)) + ".0/24 and not tcp[4:2] = 7")
	}
	b.WriteString(" or host 9.9.9.9")
	frame, _ := hex.DecodeString("02000000000102000000000208004500002800000000400600000909090909090909005001bb00000001000000025012000000000000")
	layout, _ := layoutOf(packet.LinkEthernet)
	raw, err := compile(b.String(), layout, 99)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) < 1000 {
		t.Errorf("only %d instructions", len(raw))
	}
	check(t, b.String(), packet.LinkEthernet, frame)
	if run(translate(raw), frame, 60, 0) == 0 {
		t.Error("the last alternative was not reached")
	}
	frame[26], frame[30] = 8, 8
	check(t, b.String(), packet.LinkEthernet, frame)
}

// TestHeadersWithoutAPlace: frames whose headers the program cannot skip are
// matched without them.
func TestHeadersWithoutAPlace(t *testing.T) {
	ip, _ := hex.DecodeString("4500001c00000000401100000a0000010a00000203e8003500080000")
	ip6, _ := hex.DecodeString("60000000000811400000000000000000000000000000000100000000000000000000000000000002" + "03e8003500080000")
	in := func(s string, b []byte) []byte {
		h, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return append(h, b...)
	}
	for _, c := range []struct {
		link  packet.LinkType
		frame []byte
		expr  string
		want  bool
	}{
		{packet.LinkPPP, in("ff03 0021", ip), "udp port 53 and ip[2:2] = 28", true},
		{packet.LinkPPP, in("21", ip), "udp port 53", true},
		{packet.LinkPPP, in("21", ip), "port 54 or ip6", false},
		{packet.LinkPPP, in("57", ip6), "ip6 and udp port 53 and not ip", true},
		{packet.LinkNFLog, in("02000001 0800 0100 08000100 2000 0900", ip), "host 10.0.0.2", true},
		{packet.LinkWLAN, in("0802 0000 020000000001 020000000002 020000000003 1000 aaaa03 000000 0800", ip), "src host 10.0.0.1", true},
		{packet.LinkWLAN, in("0802 0000 020000000001 020000000002 020000000003 1000 aaaa03 000000 0806", ip), "arp", true},
		{packet.LinkOfEtherType(0x0800), ip, "port 53", true},
		{packet.LinkOfEtherType(0x86dd), ip6, "ip6 port 53 or ip6", false},
		{packet.LinkOfEtherType(0x86dd), ip6, "ip6 and port 53", true},
		{packet.LinkNull, in("02000000", ip), "port 53", true},
		{packet.LinkNull, in("0000000a", ip6), "port 53 and ip6", true},
		{packet.LinkNull, in("1e000000", ip6), "ip6 host ::2", true},
		{packet.LinkLoop, in("00000018", ip6), "not ip6", false},
	} {
		f, err := CompileFilter(c.expr, c.link)
		if err != nil {
			if c.want {
				t.Errorf("link type %d: %q: %v", c.link, c.expr, err)
			}
			continue
		}
		if got := f.Match(c.frame, uint32(len(c.frame))); got != c.want {
			t.Errorf("link type %d: %q: %v, want %v", c.link, c.expr, got, c.want)
		}
	}
}

// TestTagTakenOff: at an interface, where the kernel has taken the outermost tag
// off, filters match what they match of the frame on the wire.
func TestTagTakenOff(t *testing.T) {
	text, err := os.ReadFile("testdata/expressions.txt")
	if err != nil {
		t.Fatal(err)
	}
	list, _, _ := strings.Cut(string(text), "# cooked")
	exprs := strings.Split(strings.TrimSpace(list), "\n")
	exprs = append(exprs, "ether[14:2] = 5", "ether[12:4] = 0x81000005", "ether[10:4] != 0x81", "ether[11:2] > 7", "ether[13:4] & 0xff = 8", "ether[15:2] = 0x0508", "ether[14] & 15 = 0 and ether[15] = 5",
		"ether[12:2] - 0x8100 = ether[14:2] - 5", "ether[12:2] & 0x8000 != 0 and ether[12:2] >= 0x8100", "ether[12:2] > 0x8100", "ether[0] + ether[12:2] > 0x8100", "not (vlan and ether[14:2] * ether[15] = 25)",
		"ether[ether[26] & 15 + 20:2] > 300", "ether[ether[26] & 7:2] > 300", "ether[0xfffff000] = 1 or vlan 5", "len - 18 = ether[20:2]", "less 64", "not vlan 5 or ip", "vlan or not udp", "ether proto 0x88a8 and not vlan 7")
	ip, _ := hex.DecodeString("4500002c00000000401100000a0000010a000002" + "0035005000180000" + "00000000000000000000000000000000")
	ip6, _ := hex.DecodeString("6000000000140640" + "fe800000000000000000000000000001" + "00000000000000000000000000000001" + "005001bb000000010000000250120000" + "00000000")
	arp, _ := hex.DecodeString("0001080006040001020000000001c0a80101000000000000" + "0a000002")
	var bodies [][]byte
	for _, b := range [][]byte{append([]byte{0x08, 0}, ip...), append([]byte{0x86, 0xdd}, ip6...), append([]byte{0x08, 6}, arp...)} {
		bodies = append(bodies, b, append([]byte{0x81, 0, 0, 7}, b...), append([]byte{0x88, 0x47, 0, 1, 0x21, 64}, b[2:]...), append([]byte{0x88, 0x64, 0x11, 0, 0, 1, 0, 46, 0, 0x21}, b[2:]...))
	}
	matched := 0
	for _, expr := range exprs {
		if expr == "" || expr[0] == '#' {
			continue
		}
		f, err := CompileFilter(expr, packet.LinkEthernet)
		if err != nil {
			t.Fatalf("%q: %v", expr, err)
		}
		raw, err := f.program(packet.LinkEthernet, 99)
		if err != nil {
			t.Fatalf("%q: %v", expr, err)
		}
		for i, body := range bodies {
			for n := 2; n <= len(body); n++ {
				for _, tag := range [][]byte{nil, {0x81, 0, 0, 5}, {0x88, 0xa8, 0x20, 5}} {
					macs := []byte{2, 0, 0, 0, 0, byte(i), 2, 0, 0, 0, 0, 1}
					whole := append(append(append([]byte{}, macs...), tag...), body[:n]...)
					rest := append(append([]byte{}, macs...), body[:n]...)
					// What the kernel would be asked is put in.
					code := append([]bpf.RawInstruction{}, raw...)
					for j, in := range code {
						if in.Op != opLdB && in.Op != opLdH || in.K < extension {
							continue
						}
						v := map[uint32]uint32{extVLANSeen: 0}
						if tag != nil {
							v = map[uint32]uint32{extVLANSeen: 1, extVLANTag: uint32(tag[2])<<8 | uint32(tag[3]), extVLANType: uint32(tag[0])<<8 | uint32(tag[1])}
						}
						code[j] = bpf.RawInstruction{Op: opLdImm, K: v[in.K]}
					}
					got := run(translate(code), rest, uint32(len(rest)), 0) != 0
					want := f.Match(whole, uint32(len(whole)))
					if got != want {
						t.Fatalf("%q, tag %x taken off %x: %v, want %v\n%v", expr, tag, whole, got, want, raw)
					}
					if want && tag != nil {
						matched++
					}
				}
			}
		}
	}
	if matched < 1000 {
		t.Errorf("only %d tagged frames matched", matched)
	}
}

func BenchmarkMatch(b *testing.B) {
	frame, _ := hex.DecodeString("02000000000102000000000208004500002800000000400600000a0000010a000002005001bb00000001000000025012000000000000")
	for _, expr := range []string{"ip", "tcp port 443", "port 80 or 53 or host 10.0.0.3", "tcp[tcpflags] & tcp-syn != 0"} {
		b.Run(expr, func(b *testing.B) {
			f, err := CompileFilter(expr, packet.LinkEthernet)
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			for b.Loop() {
				f.Match(frame, 60)
				n++
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/packet")
		})
	}
}
