package bpf

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"weir/capture"
	"weir/packet"
)

func alternatives(n int, format string) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(format, i))
	}
	return strings.Join(all, " or ")
}

// TestFilterCost records what filters cost the verifier, and bounds it: programs may
// cost it a million instructions, and need most of them for themselves.
func TestFilterCost(t *testing.T) {
	needKernel(t)
	for _, c := range []struct {
		name, expr string
		most       uint32
	}{
		{"tcp port 443", "tcp port 443", 3000},
		{"not port 22 and not net 10.0.0.0/8", "not port 22 and not net 10.0.0.0/8", 3000},
		{"GET", "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420", 3000},
		{"vlan and port 53", "udp port 53 or (vlan and udp port 53)", 5000},
		{"10 hosts", alternatives(10, "host 10.0.0.%d"), 10000},
		{"60 hosts", alternatives(60, "host 10.0.0.%d"), 100000},
		{"40 ports", alternatives(40, "port %d"), 100000},
		{"40 networks", alternatives(40, "net 2001:db8:%d::/48"), 100000},
		{"20 ports behind tags", alternatives(20, "(vlan and port %d)"), 200000},
	} {
		f, err := capture.CompileFilter(c.expr, packet.LinkEthernet)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []view{{xdp: true}, {}} {
			raw, err := f.Program(packet.LinkEthernet)
			if err != nil {
				t.Fatal(err)
			}
			code, err := translate(raw, v)
			if err != nil {
				t.Fatal(err)
			}
			p := loadHarness(t, v, 0, []asm.Instructions{code})
			info, err := p.Info()
			if err != nil {
				t.Fatal(err)
			}
			n, ok := info.VerifiedInstructions()
			if !ok {
				t.Skip("skipped: this kernel does not say what programs cost its verifier (before 5.16)")
			}
			t.Logf("%-36s xdp %-5v %5d instructions of classic BPF, %5d of eBPF, %6d verified", c.name, v.xdp, len(raw), len(code), n)
			if n > c.most {
				t.Errorf("%s: %d instructions verified, %d at most", c.name, n, c.most)
			}
			p.Close()
		}
	}
}

// BenchmarkFilter: what a filter adds to a program, for a TCP segment to port 443.
// Between one run of it and the next the same is done without, and the best of each
// are compared.
func BenchmarkFilter(b *testing.B) {
	needKernel(b)
	frame := udp("10.0.0.1", "192.0.2.1", 443)
	frame[14+9] = 6
	cost := func(b *testing.B, p *ebpf.Program) float64 {
		const times = 1 << 20
		start := time.Now()
		if _, err := p.Run(&ebpf.RunOptions{Data: frame, Repeat: times}); err != nil {
			b.Fatal(err)
		}
		return float64(time.Since(start).Nanoseconds()) / times
	}
	for _, expr := range []string{"tcp", "tcp port 443", "udp port 53 or tcp port 443", "not port 22 and not net 10.0.0.0/8", "tcp[tcpflags] & tcp-syn != 0", alternatives(10, "host 10.1.0.%d")} {
		f, err := capture.CompileFilter(expr, packet.LinkEthernet)
		if err != nil {
			b.Fatal(err)
		}
		for _, v := range []view{{xdp: true}, {}} {
			hook := map[bool]string{true: "XDP", false: "TC"}[v.xdp]
			b.Run(fmt.Sprintf("%s/%.40s", hook, expr), func(b *testing.B) {
				raw, err := f.Program(packet.LinkEthernet)
				if err != nil {
					b.Fatal(err)
				}
				code, err := translate(raw, v)
				if err != nil {
					b.Fatal(err)
				}
				m := machine{view: v, frame: frame, linear: len(frame)}
				if _, err := m.run(code); err != nil {
					b.Fatal(err)
				}
				with, without := loadHarness(b, v, 0, []asm.Instructions{code}), loadHarness(b, v, 0, nil)
				best, least := math.Inf(1), math.Inf(1)
				for b.Loop() {
					best, least = min(best, cost(b, with)), min(least, cost(b, without))
				}
				b.ReportMetric(best-least, "ns/packet")
				b.ReportMetric(float64(m.steps), "instructions/packet")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
