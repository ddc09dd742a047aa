package bpf_test

import (
	"testing"

	"github.com/cilium/ebpf"

	"weir/packet"
)

// maxVerified is how many instructions the verifier may look at in a program
// that does nothing but parse: 25,000 on Linux 6.1 and 6.12.
const maxVerified = 40_000

// kernelPrograms loads testdata/parse/parse.bpf.c, or skips the test.
func kernelPrograms(t testing.TB) *ebpf.Collection {
	t.Helper()
	spec := object(t, "testdata/parse/parse.bpf.c")
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestKernelParse: what the verifier lets through says what packet.Decode says.
func TestKernelParse(t *testing.T) {
	c := kernelPrograms(t)
	for name, p := range c.Programs {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		if n, ok := info.VerifiedInstructions(); ok && n > maxVerified {
			t.Errorf("%s: the verifier looks at %d instructions, more than %d", name, n, maxVerified)
		} else {
			t.Logf("%s: %d instructions verified", name, n)
		}
	}
	shared, err := c.Maps["shared"].Memory()
	if err != nil {
		t.Fatal(err)
	}
	exchange := make([]byte, 16+answerSize)
	wrong, runs, skipped := 0, map[string]int{}, 0
	try := func(hook string, q *question) bool {
		b := exchange[:0]
		b = native.AppendUint32(b, q.start)
		b = native.AppendUint32(b, uint32(q.vlan))
		b = native.AppendUint32(b, q.wire)
		if _, err := shared.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Programs[hook].Run(&ebpf.RunOptions{Data: q.data}); err != nil {
			t.Fatalf("%s, %v: %v", hook, q, err)
		}
		if _, err := shared.ReadAt(exchange, 0); err != nil {
			t.Fatal(err)
		}
		runs[hook]++
		var a answer
		readAnswer(exchange[16:], &a)
		if d := compare(q, &a); d != "" {
			t.Errorf("%s, %v\nthe kernel says %s", hook, q, d)
			wrong++
		}
		return wrong < 5
	}
	each := func(q *question) bool {
		// Less is no frame to a test run, more is several buffers.
		if len(q.data) <= etherLen || len(q.data) > 2048 {
			skipped++
			return true
		}
		if !try("xdp_answer", q) {
			return false
		}
		// The kernel itself looks at the IP header of an skb that is tried.
		return runs["xdp_answer"]%4 != 0 || len(q.data) < etherLen+40 || try("tc_answer", q)
	}
	fuzzCorpus(t, each)
	corpusFrames(t, 20, each)
	drawn(5, 10_000)(each)
	limits(each)
	n := 0
	for q := range truncated(allOrders, 1) {
		if n++; n%500 == 0 && !each(q) {
			break
		}
	}
	t.Logf("%v runs; %d frames were too short or too long for one", runs, skipped)
}

const etherLen = 14

// BenchmarkKernelParse: what parsing adds to an empty program, in the
// processor's cache.
func BenchmarkKernelParse(b *testing.B) {
	c := kernelPrograms(b)
	tcp := transports[0].b
	hop, payload := extensions[0].put(6, tcp)
	withOptions := ip4(6, join([]byte{1, 1, 1, 1}, tcp))
	withOptions.b[0] = 0x46
	for _, f := range []struct {
		name string
		in   layer
	}{
		{"tcp4", ip4(6, tcp)},
		{"tcp6", ip6(6, tcp)},
		{"vlan-tcp4", put("802.1Q", ip4(6, tcp))},
		{"qinq-tcp4", put("802.1ad", put("802.1Q", ip4(6, tcp)))},
		{"mpls-tcp4", put("label", put("label", ip4(6, tcp)))},
		{"pppoe-tcp4", put("PPPoE", ip4(6, tcp))},
		{"pseudowire-tcp4", put("pseudowire", ip4(6, tcp))},
		{"tcp4-options", withOptions},
		{"tcp6-hopbyhop", ip6(hop, payload)},
	} {
		data := ether(f.in)
		b.Run(f.name, func(b *testing.B) {
			var in packet.Info
			if why := packet.Decode(packet.LinkEthernet, data, uint32(len(data)), &in); why != packet.Decoded {
				b.Fatal(why)
			}
			b.ReportMetric(0, "ns/op")
			least := map[string]float64{}
			for range 9 { // by turns: the machine's moods are the same for both
				for _, name := range []string{"xdp_empty", "xdp_parse"} {
					_, d, err := c.Programs[name].Benchmark(data, 200_000, nil)
					if err != nil {
						b.Fatal(err)
					}
					if ns := float64(d.Nanoseconds()); least[name] == 0 || ns < least[name] {
						least[name] = ns
					}
				}
			}
			b.ReportMetric(least["xdp_parse"]-least["xdp_empty"], "ns/packet")
		})
	}
}
