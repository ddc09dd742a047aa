package bpf_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"weir/bpf"
	"weir/test/kernel"
)

// benchEntries is how many flows each of the maps holds.
const benchEntries = 1 << 20

// object builds a program of testdata, or skips.
func object(t testing.TB, source string) *ebpf.CollectionSpec {
	t.Helper()
	cc := ""
	for _, name := range []string{"clang-19", "clang"} {
		if path, err := exec.LookPath(name); err == nil {
			cc = path
			break
		}
	}
	if cc == "" {
		t.Skipf("skipped: %s was not tried in the kernel: no clang to build it", source)
	}
	to := filepath.Join(t.TempDir(), "object.o")
	out, err := exec.Command(cc, "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-c", source, "-o", to).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	kernel.Programs(t)
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// benchmark loads the programs of testdata/bench with tables for benchEntries
// flows, of which packets choose one of so many by lot, and in a flood every
// other one is of a flow of its own.
func benchmark(b *testing.B, flows uint32, flood bool) *ebpf.Collection {
	b.Helper()
	spec := object(b, "testdata/bench/bench.bpf.c")
	const sets, aggregates = (benchEntries + bpf.Ways - 1) / bpf.Ways, 4096/bpf.Ways + 1
	all := sets + aggregates + bpf.CatchAllSets
	spec.Maps["table"].MaxEntries = uint32(all)
	spec.Maps["touched"].MaxEntries = uint32(all+bpf.TouchedSets-1) / bpf.TouchedSets
	spec.Maps["shared"].MaxEntries = benchEntries
	spec.Maps["percpu"].MaxEntries = benchEntries
	var secret [16]uint32
	for i := range secret {
		secret[i] = 0x9e3779b9 * uint32(i+1) // the figures of one run are of one hash
	}
	for name, value := range map[string]any{"sets": uint32(sets), "aggregate_sets": uint32(aggregates), "secret": secret, "tick_ns": uint64(4e6), "flows": flows, "flood": flood} {
		if err := spec.Variables[name].Set(value); err != nil {
			b.Fatalf("%s: %v", name, err)
		}
	}
	for name := range spec.Programs {
		if len(name) < 6 || name[:6] != "bench_" {
			delete(spec.Programs, name)
		}
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		b.Fatalf("%+v", err)
	}
	b.Cleanup(c.Close)
	// Test runs' frames come in by the loopback interface: it is a port like another.
	control := make([]byte, c.Maps[".data.control"].ValueSize())
	tell := (*bpf.Control)(unsafe.Pointer(unsafe.SliceData(control)))
	tell.Port[1] = bpf.Port{Ifindex: 1, Number: 1, Flags: bpf.PortIngress}
	if flood {
		tell.Pressure = 1 // as the daemon says when the table fills
	}
	if err := c.Maps[".data.control"].Put(uint32(0), control); err != nil {
		b.Fatal(err)
	}
	return c
}

// benchFrame is the smallest UDP packet over Ethernet.
func benchFrame() []byte {
	f := append(make([]byte, 12), 0x08, 0x00, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
	f = binary.BigEndian.AppendUint16(f, 4000)
	f = binary.BigEndian.AppendUint16(f, 53)
	return append(f, make([]byte, 60-len(f))...)
}

// age leaves a hash map as an hour of traffic leaves it: empty, with its elements
// free in any order. A new map hands them out in the order of their addresses, so
// that those of few flows lie side by side. weir's table needs no such care: where
// a flow lies in it does not depend on those that were there before.
func age(b *testing.B, m *ebpf.Map) {
	b.Helper()
	const batch = 1 << 12
	size, cpus := int(m.KeySize()), 1
	if m.Type() == ebpf.PerCPUHash {
		cpus = ebpf.MustPossibleCPU()
	}
	values := make([][128]byte, batch*cpus)
	order := rand.New(rand.NewPCG(1, 2)).Perm(benchEntries)
	all := func(key func(i int) uint64, do func(keys [][44]byte) error) {
		keys := make([][44]byte, batch)
		if size != len(keys[0]) {
			b.Fatalf("keys of %d octets", size)
		}
		for at := 0; at < benchEntries; at += batch {
			for i := range keys {
				binary.NativeEndian.PutUint64(keys[i][:], key(at+i))
			}
			if err := do(keys); err != nil {
				b.Fatal(err)
			}
		}
	}
	all(func(i int) uint64 { return uint64(i) }, func(keys [][44]byte) error {
		_, err := m.BatchUpdate(keys, values, nil)
		return err
	})
	all(func(i int) uint64 { return uint64(order[i]) }, func(keys [][44]byte) error {
		_, err := m.BatchDelete(keys, nil)
		return err
	})
}

// BenchmarkKernel is what a packet costs in the kernel above an empty program:
// found and counted in weir's table, and in the hash maps that eBPF agents use, of
// the same size and with the same parser. The programs take turns, so that all
// have the same hour; of each the best turn counts, for what others do on the
// machine only adds. What drawing a number costs is measured by a program that
// does just that, and taken off.
//
// flood: half of the packets are of 64 k known flows, half each of a flow of its
// own, in tables that are full of such: weir aggregates them, hash maps refuse them.
func BenchmarkKernel(b *testing.B) {
	for _, c := range []struct {
		name  string
		flows uint32
		flood bool
	}{{"1", 1, false}, {"4k", 4 << 10, false}, {"64k", 64 << 10, false}, {"512k", 512 << 10, false}, {"flood", 64 << 10, true}} {
		b.Run("flows="+c.name, func(b *testing.B) { benchmarkKernel(b, c.flows, c.flood) })
	}
}

func benchmarkKernel(b *testing.B, flows uint32, flood bool) {
	coll := benchmark(b, flows, flood)
	names := []string{"empty", "draw", "parse", "weir", "shared", "percpu"}
	frame := benchFrame()
	turn := func(name string, packets int) float64 {
		// The kernel looks at its clock for each repetition: one call of many.
		_, took, err := coll.Programs["bench_"+name].Benchmark(frame, packets, nil)
		if err != nil {
			b.Fatal(err)
		}
		return float64(took.Nanoseconds())
	}
	age(b, coll.Maps["shared"])
	age(b, coll.Maps["percpu"])
	const packets = 1 << 17
	if flood { // fill the tables
		for _, name := range []string{"weir", "shared", "percpu"} {
			turn(name, 3*benchEntries)
		}
	}
	for _, name := range names {
		turn(name, max(packets, 8*int(flows)))
	}
	times := map[string][]float64{}
	for b.Loop() {
		for start := time.Now(); time.Since(start) < 10*time.Second; {
			for _, name := range names {
				times[name] = append(times[name], turn(name, packets))
			}
		}
	}
	best := func(name string) float64 { return slices.Min(times[name]) - slices.Min(times["draw"]) }
	for _, name := range names[2:] {
		b.ReportMetric(best(name), name+"-ns")
	}
	b.ReportMetric(best("weir")/best("shared"), "of-shared")
	b.ReportMetric(best("weir")/best("percpu"), "of-percpu")
	b.ReportMetric(0, "ns/op")
	if testing.Verbose() {
		for _, name := range names {
			slices.Sort(times[name])
			fmt.Printf("%-8s best %6.1f median %6.1f ns of %d turns\n", name, times[name][0], times[name][len(times[name])/2], len(times[name]))
		}
	}
}
