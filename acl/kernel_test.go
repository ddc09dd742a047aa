package acl

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"weir/test/kernel"
)

// maxVerified is how many instructions the verifier may look at in a program
// that does nothing but classify: 180,000 on Linux 6.18, most of them rounds of the
// longest list there can be.
const maxVerified = 250_000

// kernelPackets is how many packets the programs of testdata/acl/acl.bpf.c take
// in turn.
const (
	kernelPackets = 16384
	exchangeSize  = 64 + 16 + 24
)

// programs loads testdata/acl/acl.bpf.c, or skips the test.
func programs(t testing.TB) *ebpf.Collection {
	t.Helper()
	cc := ""
	for _, name := range []string{"clang-19", "clang"} {
		if path, err := exec.LookPath(name); err == nil {
			cc = path
			break
		}
	}
	if cc == "" {
		t.Skip("skipped: acl.h in the kernel was not tried: no clang to build it")
	}
	object := filepath.Join(t.TempDir(), "acl.o")
	out, err := exec.Command(cc, "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function",
		"-c", "../bpf/testdata/acl/acl.bpf.c", "-o", object).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	kernel.Programs(t)
	b, err := os.ReadFile(object)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// put makes a bank the kernel's.
func put(t testing.TB, c *ebpf.Collection, b *Bank) {
	t.Helper()
	const mmapable, innerMap = 1 << 10, 1 << 12
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "bank", Type: ebpf.Array, KeySize: 4, ValueSize: BankPage,
		MaxEntries: uint32(b.Size()+BankPage-1) / BankPage, Flags: mmapable | innerMap,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	memory, err := m.Memory()
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 0, b.Size())
	for _, w := range b.Words {
		raw = native.AppendUint64(raw, w)
	}
	if _, err := memory.WriteAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Maps["banks"].Put(uint32(0), m); err != nil {
		t.Fatal(err)
	}
}

// set writes the packets, in turn if they are fewer, and begins with the first.
func set(t testing.TB, c *ebpf.Collection, qs []question) *ebpf.Memory {
	t.Helper()
	shared, err := c.Maps["shared"].Memory()
	if err != nil {
		t.Fatal(err)
	}
	for i := range kernelPackets {
		if _, err := shared.WriteAt(appendQuestion(nil, &qs[i%len(qs)]), int64(i*exchangeSize)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Maps["turn"].Put(uint32(0), uint32(0)); err != nil {
		t.Fatal(err)
	}
	return shared
}

// TestKernel: what the verifier lets through says what Go says.
func TestKernel(t *testing.T) {
	c := programs(t)
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
	frame := make([]byte, 64)
	hold := func(b *Bank, qs []question) {
		put(t, c, b)
		shared := set(t, c, qs)
		if _, _, err := c.Programs["xdp_answer"].Benchmark(frame, len(qs), nil); err != nil {
			t.Fatal(err)
		}
		raw := make([]byte, exchangeSize)
		for i := range qs {
			if _, err := shared.ReadAt(raw, int64(i*exchangeSize)); err != nil {
				t.Fatal(err)
			}
			if got, want := readAnswer(raw[80:]), expect(b, &qs[i]); got != want {
				t.Fatalf("%+v:\nkernel %+v\nGo     %+v", qs[i], got, want)
			}
		}
	}
	banks(t, 9000, 40, func(_ *world, b *Bank, qs []question) { hold(b, qs) })
	for _, f := range []Family{IPv4, IPv6} {
		rng := rand.New(rand.NewPCG(5, 6))
		l := access(rng, f, 9000)
		b, err := Compile(&Policy{Lists: []*List{l}}, CompileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var qs []question
		for _, in := range accessPackets(rng, l, 2000) {
			qs = append(qs, question{in: in})
		}
		hold(b, qs)
	}
}

// BenchmarkKernelClassify: what a list adds to an empty program, for packets
// that are all different.
func BenchmarkKernelClassify(b *testing.B) {
	c := programs(b)
	frame := make([]byte, 64)
	run := func(name string, p *Policy) {
		b.Run(name, func(b *testing.B) {
			bank, err := Compile(p, CompileOptions{})
			if err != nil {
				b.Fatal(err)
			}
			put(b, c, bank)
			l := *p.Lists[0]
			if len(p.Groups) > 0 {
				l.Rules = l.Rules[1:]
			}
			var qs []question
			for _, in := range accessPackets(rand.New(rand.NewPCG(3, 4)), &l, kernelPackets) {
				qs = append(qs, question{in: in})
			}
			set(b, c, qs)
			b.ReportMetric(0, "ns/op")
			least := map[string]float64{}
			for range 9 { // by turns: the machine's moods are the same for both
				for _, name := range []string{"xdp_empty", "xdp_classify"} {
					_, d, err := c.Programs[name].Benchmark(frame, 200_000, nil)
					if err != nil {
						b.Fatal(err)
					}
					if ns := float64(d.Nanoseconds()); least[name] == 0 || ns < least[name] {
						least[name] = ns
					}
				}
			}
			b.ReportMetric(least["xdp_classify"]-least["xdp_empty"], "ns/packet")
			b.ReportMetric(float64(bank.Size())/1024, "KiB")
		})
	}
	for _, f := range []Family{IPv4, IPv6} {
		for _, n := range []int{1, 16, 256, 1024, 4096, 32768} {
			run(fmt.Sprintf("%v/%d", f, n), &Policy{Lists: []*List{access(rand.New(rand.NewPCG(1, 2)), f, n)}})
		}
		rng := rand.New(rand.NewPCG(1, 2))
		run(fmt.Sprintf("%v/16+64k-prefixes", f), withGroup(rng, f, access(rng, f, 16)))
	}
}
