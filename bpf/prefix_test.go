package bpf

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"weir/flow"
	"weir/meter"
)

func prefixMap(t testing.TB, entries uint32) *ebpf.Map {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: the kernel takes maps from root only")
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.LPMTrie, KeySize: 20, ValueSize: 1, MaxEntries: entries, Flags: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// listed is what choose.h does.
func listed(t testing.TB, m *ebpf.Map, a flow.Addr) bool {
	var v uint8
	err := m.Lookup(&prefixKey{128, a}, &v)
	if err != nil && !strings.Contains(err.Error(), "not exist") {
		t.Fatal(err)
	}
	return v != 0
}

func contents(t testing.TB, m *ebpf.Map) map[prefixKey]uint8 {
	all := map[prefixKey]uint8{}
	var k prefixKey
	var v uint8
	i := m.Iterate()
	for i.Next(&k, &v) {
		all[k] = v
	}
	if err := i.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func randomPrefix(r *rand.Rand) netip.Prefix {
	near := func(b []byte) { // few networks, that overlap
		for i := range b {
			b[i] = []byte{0, 0, 1, 0xff, 0x20, byte(r.Uint32())}[r.IntN(6)]
		}
	}
	if r.IntN(2) == 0 {
		var b [4]byte
		near(b[:])
		return netip.PrefixFrom(netip.AddrFrom4(b), r.IntN(33)).Masked()
	}
	var b [16]byte
	near(b[r.IntN(16):])
	if a := netip.AddrFrom16(b); !a.Is4In6() {
		return netip.PrefixFrom(a, r.IntN(129)).Masked()
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), r.IntN(97))
}

// TestPrefixesAsInGo: after any list has taken the place of any other, the
// kernel says of every address what package meter says, and what every prefix
// alone says.
func TestPrefixesAsInGo(t *testing.T) {
	for _, oneByOne := range []bool{false, true} {
		t.Run(fmt.Sprintf("one by one: %v", oneByOne), func(t *testing.T) {
			prefixesOneByOne = oneByOne
			defer func() { prefixesOneByOne = false }()
			testPrefixesAsInGo(t)
		})
	}
}

func testPrefixesAsInGo(t *testing.T) {
	m := prefixMap(t, 4096)
	r := rand.New(rand.NewPCG(5, 7))
	for round := range 300 {
		var list []netip.Prefix
		for range r.IntN(12) {
			list = append(list, randomPrefix(r))
		}
		if err := SetPrefixes(m, list); err != nil {
			t.Fatal(err)
		}
		twin := meter.NewPrefixes(list)
		for range 300 {
			a := randomPrefix(r).Addr()
			if len(list) > 0 && r.IntN(2) == 0 {
				a = list[r.IntN(len(list))].Addr()
			}
			want := slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
			other := netip.MustParseAddr("233.252.0.1")
			otherIn := slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(other) })
			if got := listed(t, m, flow.AddrFrom(a)); got != want {
				t.Fatalf("round %d: %v: the kernel says %s is listed: %v, want %v", round, list, a, got, want)
			}
			for _, k := range []flow.Key{{Src: flow.AddrFrom(a), Dst: flow.AddrFrom(other)}, {Dst: flow.AddrFrom(a), Src: flow.AddrFrom(other)}} {
				if got := twin.Has(&k); got != (want || otherIn) {
					t.Fatalf("round %d: %v: Has(%s, %s) is %v, want %v", round, list, k.Src, k.Dst, got, want || otherIn)
				}
			}
		}
		if got, want := contents(t, m), prefixEntries(list); !reflect.DeepEqual(got, want) {
			t.Fatalf("round %d: the kernel has %v, want %v", round, got, want)
		}
	}
}

// TestPrefixesStay: what is in both lists is listed while one takes the other's
// place.
func TestPrefixesStay(t *testing.T) {
	m := prefixMap(t, 1<<17)
	keep := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	lists := [][]netip.Prefix{
		append([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}, keep...),
		append([]netip.Prefix{netip.MustParsePrefix("::/0")}, keep...),
		append(many(2000), keep...),
		keep,
	}
	if err := SetPrefixes(m, lists[0]); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, a := range []string{"10.1.2.3", "2001:db8::1"} {
				if !listed(t, m, flow.AddrFrom(netip.MustParseAddr(a))) {
					t.Errorf("%s was not listed at a moment", a)
					return
				}
			}
			n++
		}
	}()
	r := rand.New(rand.NewPCG(1, 1))
	for range 60 {
		if err := SetPrefixes(m, lists[r.IntN(len(lists))]); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if n := <-done; n == 0 && !t.Failed() {
		t.Error("nobody looked")
	}
}

// many are n different prefixes as routers have them.
func many(n int) []netip.Prefix {
	all := make([]netip.Prefix, n)
	for i := range all {
		if i%4 == 3 {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:], 0x2001<<48|uint64(i)*2654435761<<8>>16<<16)
			binary.BigEndian.PutUint32(b[2:], uint32(i))
			all[i] = netip.PrefixFrom(netip.AddrFrom16(b), 48)
		} else {
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], uint32(i)<<8)
			all[i] = netip.PrefixFrom(netip.AddrFrom4(b), 24)
		}
	}
	return all
}

func TestManyPrefixes(t *testing.T) {
	m := prefixMap(t, 1<<17)
	list := many(1 << 16)
	start := time.Now()
	if err := SetPrefixes(m, list); err != nil {
		t.Fatal(err)
	}
	loaded := time.Since(start)
	if n := len(contents(t, m)); n != len(list) {
		t.Errorf("%d entries, want %d", n, len(list))
	}
	start = time.Now()
	if err := SetPrefixes(m, list[:1<<15]); err != nil {
		t.Fatal(err)
	}
	t.Logf("64 Ki prefixes in %v; half of them out again in %v", loaded, time.Since(start))
	if n := len(contents(t, m)); n != 1<<15 {
		t.Errorf("%d entries, want %d", n, 1<<15)
	}
	if err := SetPrefixes(m, make([]netip.Prefix, MaxPrefixes+1)); err == nil || !strings.Contains(err.Error(), "up to 1048576") {
		t.Errorf("too many: %v", err)
	}
	small := prefixMap(t, 10)
	if err := SetPrefixes(small, list[:11]); err == nil || !strings.Contains(err.Error(), "11 prefixes") {
		t.Errorf("a full map: %v", err)
	}
}

func BenchmarkSetPrefixes(b *testing.B) {
	list := many(1 << 16)
	n := 0
	for b.Loop() {
		b.StopTimer()
		m := prefixMap(b, 1<<17)
		b.StartTimer()
		if err := SetPrefixes(m, list); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		m.Close()
		b.StartTimer()
		n += len(list)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "prefixes/s")
}

func ExampleSampleThreshold() {
	for _, n := range []uint32{1, 2, 3, 1000, 1<<24 - 1, 1<<32 - 1} {
		whole, rest := SampleThreshold(n)
		fmt.Printf("1:%d %#x.%08x\n", n, whole, rest)
	}
	// Output:
	// 1:1 0x0.00000000
	// 1:2 0x80000000.00000000
	// 1:3 0x55555555.55555555
	// 1:1000 0x418937.4bc6a7ef
	// 1:16777215 0x100.00010000
	// 1:4294967295 0x1.00000001
}
