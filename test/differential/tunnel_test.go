package differential

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"weir/capture"
	"weir/flow"
	"weir/packet"
)

// tunnelled are captures of the corpus with each kind of tunnel.
var tunnelled = []string{
	"ndpi_4in4tunnel.pcap", "ndpi_4in6tunnel.pcap", "ndpi_6in4tunnel.pcap", "ndpi_6in6tunnel.pcap", "ndpi_gre.pcapng", "ndpi_ipv6_in_gtp.pcap",
	"ndpi_teredo.pcap", "ndpi_vxlan.pcap", "libtrace_vxlan.pcap", "pcpp_GrePackets.pcapng", "pcpp_Vxlan2.pcap", "pcpp_gtp.pcapng",
	"tcpdump_gso-ipv4-geneve-ipv4.pcap", "tcpdump_gso-ipv4-geneve-ipv6.pcap", "tcpdump_gso-ipv6-geneve-ipv4.pcap", "tcpdump_gso-ipv6-geneve-ipv6.pcap",
	"tcpdump_gso-ipv4-vxlan-ipv6.pcap", "tcpdump_gso-ipv6-vxlan-ipv4.pcap", "tcpdump_gso-ipv6-vxlan-ipv6.pcap",
}

// notOurs are tunnels that tshark looks into and weir does not.
var notOurs = []string{":ppp", ":l2tp", ":esp", ":erspan", ":pim", ":nhrp"}

// Who speaks inside of tunnels is, packet by packet, who tshark says.
func TestTunnelsAgainstTshark(t *testing.T) {
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("skipped: tshark is not installed (it says what is right)")
	}
	dir := os.Getenv("WEIR_CORPUS")
	if dir == "" {
		dir = "../../../shared/corpus"
	}
	looked, kinds := 0, map[flow.Tunnel]int{}
	for _, name := range tunnelled {
		path := filepath.Join(dir, "packets", name)
		if _, err := os.Stat(path); err != nil {
			t.Skipf("skipped: %v; set WEIR_CORPUS to the corpus's folder", err)
		}
		want := innermost(t, path)
		src, err := capture.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		b := capture.Batch{Packets: make([]capture.Packet, 0, 64)}
		for err == nil {
			err = src.Read(&b)
			for i := range b.Packets {
				n++
				var in packet.Info
				var m flow.More
				got := ""
				if b.Packets[i].DecodeMore(true, &in, &m) == packet.Decoded {
					got = in.Key.Src.String() + " " + in.Key.Dst.String()
				}
				w, ok := want[n]
				if !ok {
					continue
				}
				looked++
				kinds[m.Tunnel]++
				if got != w {
					t.Errorf("%s, frame %d: %q, tshark says %q", name, n, got, w)
				}
			}
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		src.Close()
	}
	for kind := flow.TunnelIPIP; kind <= flow.TunnelTeredo; kind++ {
		if kinds[kind] == 0 {
			t.Errorf("tunnels of kind %d were not met", kind)
		}
	}
	t.Logf("%d packets, by kind of tunnel %v", looked, kinds)
}

// innermost gives for each frame the addresses of its innermost IP header that is not
// what an ICMP error is about, as tshark reads it.
func innermost(t *testing.T, path string) map[int]string {
	args := []string{"-r", path, "-n", "-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=,"}
	for _, f := range []string{"frame.protocols", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst"} {
		args = append(args, "-e", f)
	}
	out, err := exec.Command("tshark", append(args, "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-d", "udp.port==8472,vxlan")...).Output()
	if err != nil {
		t.Fatalf("tshark %s: %v", path, err)
	}
	frames := map[int]string{}
	for n, line := range bytes.Split(bytes.TrimRight(out, "\n"), []byte("\n")) {
		f := strings.Split(string(line), "\t")
		for len(f) < 5 {
			f = append(f, "")
		}
		protocols, _, _ := strings.Cut(f[0], ":icmp")
		if strings.Contains(f[0], "malformed") || containsAny(protocols, notOurs) {
			continue
		}
		at := map[string]int{}
		last := ""
		for _, p := range strings.Split(protocols, ":") {
			if p == "ip" || p == "ipv6" {
				at[p]++
				last = p
			}
		}
		if last == "" {
			continue
		}
		srcs, dsts := strings.Split(f[1], ","), strings.Split(f[2], ",")
		if last == "ipv6" {
			srcs, dsts = strings.Split(f[3], ","), strings.Split(f[4], ",")
		}
		if i := at[last] - 1; i < len(srcs) && i < len(dsts) {
			frames[n+1] = srcs[i] + " " + dsts[i]
		}
	}
	return frames
}

func containsAny(s string, list []string) bool {
	for _, w := range list {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}
