package capture_test

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weir/capture"
	"weir/packet"
)

// expressionList is matched against tcpdump's answers, and by package bpf in the
// kernel against ours.
//
//go:embed testdata/expressions.txt
var expressionList string

// expressions are those of the list that packets can be asked: any, and, under
// their headings, Ethernet or Linux cooked ones.
func expressions(headings ...string) []string {
	all := []string{""}
	wanted := false
	for line := range strings.Lines(expressionList) {
		line = strings.TrimSuffix(line, "\n")
		if heading, ok := strings.CutPrefix(line, "# "); ok {
			wanted = slices.Contains(headings, heading)
		} else if wanted {
			all = append(all, line)
		}
	}
	return all
}

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
		{packet.LinkEthernet, expressions("any", "ethernet")},
		{packet.LinkSLL, expressions("any", "cooked")},
		{packet.LinkSLL2, expressions("any", "cooked")},
		{packet.LinkRaw, expressions("any")},
		{packet.LinkIPv4, expressions("any")},
		{packet.LinkCiscoHDLC, append(expressions("any"), "mpls", "mpls and ip", "mpls and tcp")},
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
