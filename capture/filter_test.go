package capture_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"weir/capture"
	"weir/packet"
)

// expressions are matched against tcpdump's answers.
var expressions = []string{
	"",
	"ip", "ip6", "arp", "tcp", "udp", "icmp", "icmp6", "sctp", "igmp", "pim", "esp", "ah", "vrrp", "rarp", "stp", "iso",
	"not ip", "!ip6 && !arp", "not (tcp or udp)",
	"port 80", "port 80 or 443", "src port 53", "dst port 53 or 67", "tcp port 443", "tcp src or dst port 80", "udp src and dst port 123",
	"port domain", "port http or https", "tcp port ssh", "portrange 1-1024", "udp dst portrange 5000-60000", "portrange 90-80",
	"host 10.0.0.1 or 192.168.1.1", "src host 192.168.0.10", "net 10", "net 192.168", "net 192.168.0.0/16", "dst net 10.0.0.0/8 or 224.0.0.0/4",
	"net 172.16.0.0 mask 255.240.0.0", "host 10.1", "net 0.0.0.0/0", "host ::1", "net fe80::/10", "src net 2001:db8::/32 or fe80::/16", "ip6 host ff02::1",
	"arp host 192.168.1.1", "ip host 127.0.0.1 and not port 53", "not host 10.0.0.1 and 10.0.0.2",
	"ip proto 6 or 17", "ip proto gre", "proto \\tcp", "ip6 proto 58", "proto 47 or proto 50", "ip6 proto \\udp",
	"less 100", "greater 1000", "len > 60 and len <= 90", "len = 64", "len - 14 = ip[2:2]", "len != 60 and len & 1 = 1",
	"tcp[tcpflags] & tcp-syn != 0", "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0 and not src port 80", "tcp[tcpflags] = tcp-syn|tcp-ack", "tcp[13] = 2 or udp",
	"icmp[icmptype] = icmp-echo or icmp[icmptype] = icmp-echoreply", "icmp[icmpcode] > 0", "icmp6[icmp6type] = icmp6-neighborsolicit or icmp6[0] = 135",
	"ip[0] & 0xf != 5", "ip[6:2] & 0x1fff != 0", "ip[8] < 5", "ip6[6] = 0", "ip[2:2] > 1000 and ip[9] = 17", "udp[4:2] > 512", "arp[6:2] = 1",
	"tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420", "ip[ip[0] & 15] = 0", "tcp[20:4] * 2 > udp[0]", "ip[2:2] % 4 + 1 = 2", "ip[12] + ip[13] > ip[16] + ip[17]",
	"ip[2:2] / (ip[8] - 64) = 3", "-ip[8] > 0xffffff00", "(ip[2:2] + 14) << 1 = len * 2", "ip[4:2] ^ 0x5555 & 0xff = 0x55",
	"tcp[100] = 1 or ip6", "udp[8:4] != 0 or tcp", "ip[60000] = 0 or udp", "ip multicast", "ip6 multicast", "(port 53 or port 5353) and (udp or tcp) and not ip6",
	"src 192.168.1.2 or dst 192.168.1.1", "src or dst host 10.0.0.1", "ip src or dst net 192", "tcp and (port 80 or (port 443 and not host 1.2.3.4))",
	"icmp and ip[20] = 3 or udp port 53 and len > 100", "5 < len and 1 + 1 = 2", "sctp port 2905 or 2944", "igrp or carp", "proto \\icmp or (tcp)",
}

// ethernetExpressions need Ethernet frames.
var ethernetExpressions = []string{
	"vlan", "vlan 5", "vlan and ip", "vlan and vlan", "vlan and vlan and tcp", "ip or vlan and ip", "vlan or ip", "not vlan and udp", "vlan and port 53", "vlan 1 or vlan 100 and ip",
	"vlan and (udp or tcp) and host 10.0.0.1", "mpls", "mpls and ip", "mpls and mpls", "mpls and mpls and ip host 10.0.0.1", "mpls 18 or ip6", "mpls and tcp port 80", "mpls 16 and mpls and ip",
	"pppoes", "pppoed", "pppoes and ip", "pppoes and udp port 53", "pppoes 1 and tcp", "vlan and pppoes and ip", "vlan and vlan and pppoes and udp",
	"ether multicast", "broadcast", "multicast and not broadcast", "ether host 00:00:5e:00:01:01", "ether src 0:1:2:3:4:5 or 00:00:00:00:00:00",
	"ether dst ff:ff:ff:ff:ff:ff", "ether[0] & 1 != 0 and ip[16] < 224", "ether proto 0x88cc", "ether proto \\arp", "ether proto 0x42", "ether proto 0xfe", "ether[12:2] <= 1500", "link[6] = 0", "not ether proto 0x0800 and not ether proto 0x86dd",
	"ether proto 0xf0 or ether proto 0xaa",
}

// cookedExpressions need Linux cooked frames.
var cookedExpressions = []string{"inbound", "outbound and tcp", "ether proto 0x88cc or ether proto 4 or ether proto 0x42"}

// gather puts every packet of a link type in the corpus into one pcap file, each
// as captured and, to see the bounds kept, cut short. The time stamp is the
// packet's number.
func gather(t *testing.T, dir string, links map[packet.LinkType][][]byte) {
	n := 0
	for _, path := range captures(t, dir) {
		read(t, path, func(p *capture.Packet) {
			data := bytes.Clone(p.Data)
			links[p.Link] = append(links[p.Link], data)
			if n++; n%3 == 0 && len(data) > 0 {
				links[p.Link] = append(links[p.Link], data[:min(len(data)-1, 12+n/3%60)])
			}
		})
	}
}

func writePcap(t *testing.T, path string, link packet.LinkType, frames [][]byte) {
	var b bytes.Buffer
	le := binary.LittleEndian
	b.Write(le.AppendUint32(nil, 0xa1b2c3d4))
	b.Write([]byte{2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0})
	b.Write(le.AppendUint32(nil, uint32(link)))
	for i, f := range frames {
		h := le.AppendUint32(nil, uint32(i))
		h = le.AppendUint32(h, 0)
		h = le.AppendUint32(h, uint32(len(f)))
		h = le.AppendUint32(h, uint32(len(f)+i%7)) // on the wire
		b.Write(h)
		b.Write(f)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestFilterAsTcpdump holds the compiler to the reference: on every packet of
// the corpus, for every expression, the same packets pass as with tcpdump.
func TestFilterAsTcpdump(t *testing.T) {
	tcpdump, err := exec.LookPath("tcpdump")
	if err != nil {
		t.Skip("skipped: tcpdump is not installed")
	}
	dir := corpus(t)
	frames := map[packet.LinkType][][]byte{}
	gather(t, dir, frames)
	for _, c := range []struct {
		link  packet.LinkType
		exprs []string
	}{
		{packet.LinkEthernet, append(append([]string{}, expressions...), ethernetExpressions...)},
		{packet.LinkSLL, append(append([]string{}, expressions...), cookedExpressions...)},
		{packet.LinkSLL2, append(append([]string{}, expressions...), cookedExpressions...)},
		{packet.LinkRaw, expressions},
		{packet.LinkIPv4, expressions},
		{packet.LinkCiscoHDLC, append([]string{"mpls", "mpls and ip", "mpls and tcp"}, expressions...)},
	} {
		all := frames[c.link]
		if len(all) == 0 {
			t.Errorf("no packets of link type %d in the corpus", c.link)
			continue
		}
		path := filepath.Join(t.TempDir(), "all.pcap")
		writePcap(t, path, c.link, all)
		t.Logf("link type %d: %d packets, %d expressions", c.link, len(all), len(c.exprs))
		for _, expr := range c.exprs {
			want, err := tcpdumpMatches(tcpdump, path, expr)
			if err != nil {
				t.Errorf("link type %d: %q: tcpdump: %v", c.link, expr, err)
				continue
			}
			f, err := capture.CompileFilter(expr, c.link)
			if err != nil {
				t.Errorf("link type %d: %q: %v", c.link, expr, err)
				continue
			}
			var got []uint32
			for i, data := range all {
				if f.Match(data, uint32(len(data)+i%7)) {
					got = append(got, uint32(i))
				}
			}
			d := differ(got, want)
			if c.link == packet.LinkSLL2 && expr == "stp" {
				// tcpdump does not look for 802.2 behind the second version.
				if d == "" {
					t.Errorf("%q: as tcpdump now; take the exception out", expr)
				}
				continue
			}
			if d != "" {
				t.Errorf("link type %d: %q: %s", c.link, expr, d)
			}
		}
	}
}

func differ(got, want []uint32) string {
	for i := 0; i < len(got) || i < len(want); i++ {
		switch {
		case i >= len(want) || i < len(got) && got[i] < want[i]:
			return fmt.Sprintf("%d packets, want %d; packet %d should not pass", len(got), len(want), got[i])
		case i >= len(got) || got[i] > want[i]:
			return fmt.Sprintf("%d packets, want %d; packet %d should pass", len(got), len(want), want[i])
		}
	}
	return ""
}

func tcpdumpMatches(tcpdump, path, expr string) ([]uint32, error) {
	// Without its optimizer, which reads fields in another order than the
	// expression says: on packets cut within them that shows.
	args := []string{"-O", "-r", path, "-w", "-"}
	if os.Geteuid() == 0 {
		args = append(args, "-Z", "root")
	}
	cmd := exec.Command(tcpdump, append(args, "--", expr)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	src, err := capture.OpenReader(bytes.NewReader(out), "tcpdump")
	if err != nil {
		return nil, err
	}
	var numbers []uint32
	var b capture.Batch
	for {
		err := src.Read(&b)
		for _, p := range b.Packets {
			numbers = append(numbers, uint32(p.Time/1_000_000_000))
		}
		if err != nil {
			return numbers, nil
		}
	}
}

// TestFilterRefuses: what is not understood is refused with its column and what
// would be accepted.
func TestFilterRefuses(t *testing.T) {
	for _, c := range []struct {
		expr   string
		column int
		says   string
	}{
		{"prot 6", 1, "did you mean proto?"},
		{"tcp prt 80", 5, "expected and, or, or the end"},
		{"port", 5, "expected a port; found the end"},
		{"port 70000", 6, "up to 65535"},
		{"tcp port nosuchport", 10, "expected a port"},
		{"host example.com", 6, "names are not resolved"},
		{"1.2.3.4", 1, "host 1.2.3.4"},
		{"src 10.0.0.0/8", 5, "net 10.0.0.0"},
		{"net 10.0.0.1/8", 5, "outside the network"},
		{"net 10.0.0.0/33", 14, "up to 32"},
		{"ip6 port 80", 10, "tcp, udp, sctp or nothing"},
		{"tcp host 1.2.3.4", 10, "ip, ip6, arp, rarp"},
		{"tcp and", 8, "found the end"},
		{"(tcp or udp", 12, "expected \")\""},
		{"tcp[13 = 2", 8, "expected \"]\""},
		{"tcp[0:3] = 2", 7, "1, 2 or 4"},
		{"ip proto chain", 10, "expected a protocol"},
		{"ip protochain 6", 4, "not supported"},
		{"wlan host 1:2:3:4:5:6", 1, "not supported"},
		{"host 1:2:3:4:5:6", 6, "ether host"},
		{"ip host ::1", 9, "no IPv6 addresses"},
		{"ip6 host 1.2.3.4", 10, "no IPv6 address"},
		{"ether host 1.2.3.4", 12, "Ethernet address"},
		{"vlan 5000", 6, "up to 4095"},
		{"mpls and arp", 10, "only ip and ip6"},
		{"len / 0 = 1", 5, "division by zero"},
		{"tcp ? udp", 5, "no meaning"},
		{"inbound", 1, "Linux cooked"},
		{"ip broadcast", 1, "netmask"},
		{strings.Repeat("(", 1000), 0, "nested too deeply"},
		{strings.Repeat("not ", 1000) + "tcp", 0, "nested too deeply"},
		{strings.TrimSuffix(strings.Repeat("host 1.2.3.4 or ", 2000), "or "), 1, "instructions"},
	} {
		_, err := capture.CompileFilter(c.expr, packet.LinkEthernet)
		var fe *capture.FilterError
		if !errors.As(err, &fe) {
			t.Errorf("%.40q: %v, want an error", c.expr, err)
			continue
		}
		if c.column != 0 && fe.Column != c.column || !strings.Contains(fe.Msg, c.says) {
			t.Errorf("%.40q: %v; want column %d and %q", c.expr, err, c.column, c.says)
		}
	}
}
