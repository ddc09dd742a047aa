package bpf

import (
	"encoding/binary"
	"math"
	"net/netip"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weir/capture"
	"weir/packet"
	"weir/test/kernel"
)

// loadChoice loads the real programs with a small table.
func loadChoice(t *testing.T, o Options) *Kernel {
	t.Helper()
	kernel.Programs(t)
	o.Entries = 1 << 10
	k, err := Load(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func counters(t *testing.T, k *Kernel) (sum Counters) {
	t.Helper()
	all, err := k.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		for r := range all[i] {
			sum[r].Packets += all[i][r].Packets
			sum[r].Bytes += all[i][r].Bytes
		}
	}
	return sum
}

// metered is what the table holds.
func metered(k *Kernel) (c Count) {
	for i := range k.Memory().Sets {
		s := &k.Memory().Sets[i]
		for w, word := range s.Word {
			if word&StateMask != Free {
				c.Packets += s.Entry[w].Packets
				c.Bytes += s.Entry[w].Bytes
			}
		}
	}
	return c
}

// udp is a frame with addresses and a destination port; 64 octets from the IP
// header on.
func udp(src, dst string, port uint16) []byte {
	f := append(make([]byte, 12), 0x08, 0x00, 0x45, 0, 0, 64, 0, 0, 0, 0, 64, 17, 0, 0)
	for _, a := range []string{src, dst} {
		b := netip.MustParseAddr(a).As4()
		f = append(f, b[:]...)
	}
	f = binary.BigEndian.AppendUint16(f, 4000)
	f = binary.BigEndian.AppendUint16(f, port)
	return append(f, make([]byte, 14+64-len(f))...)
}

// send gives a program a frame, n times to the packet: a run that a signal interrupts is
// begun anew, and Go preempts by a signal, which has to wait.
func send(t *testing.T, p *ebpf.Program, frame []byte, n int) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var urgent, before unix.Sigset_t
	urgent.Val[0] = 1 << (unix.SIGURG - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &urgent, &before); err != nil {
		t.Fatal(err)
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	if _, err := p.Run(&ebpf.RunOptions{Data: frame, Repeat: uint32(n)}); err != nil {
		t.Fatal(err)
	}
}

// TestFilterChooses: what the filter lets pass is in the table, the rest is
// counted; and of what it lets pass, lots choose.
func TestFilterChooses(t *testing.T) {
	f, err := capture.CompileFilter("udp port 53 and not host 10.0.0.9", packet.LinkNetwork)
	if err != nil {
		t.Fatal(err)
	}
	k := loadChoice(t, Options{Filter: f})
	var passed, left uint64
	for _, p := range []*ebpf.Program{k.Programs.XDP, k.Programs.Ingress, k.Programs.Egress} {
		send(t, p, udp("10.0.0.1", "10.0.0.2", 53), 3)
		send(t, p, udp("10.0.0.1", "10.0.0.2", 54), 2)
		send(t, p, udp("10.0.0.1", "10.0.0.9", 53), 1)
		passed, left = passed+3, left+3
	}
	if got := metered(k); got != (Count{passed, 64 * passed}) {
		t.Errorf("metered %v, want %d packets of 64 octets", got, passed)
	}
	if got := counters(t, k)[Filtered]; got.Packets != left || got.Bytes != 64*left && got.Bytes != 78*left {
		t.Errorf("filtered %v, want %d packets", got, left)
	}
	sampling(t, k)
}

// sampling: of n packets as many are looked at as should be, within six standard
// deviations, which chance exceeds once in 500 million runs.
func sampling(t *testing.T, k *Kernel) {
	const sent = 200_000
	before, left := metered(k), counters(t, k)[NotSampled]
	for _, n := range []uint32{1, 2, 3, 100, 5000, 1<<24 - 1} {
		c := k.Memory().Control
		c.Sample, c.SampleRest = SampleThreshold(n)
		send(t, k.Programs.XDP, udp("10.0.0.1", "10.0.0.2", 53), sent)
		now, out := metered(k), counters(t, k)[NotSampled]
		got, rest := now.Packets-before.Packets, out.Packets-left.Packets
		before, left = now, out
		if got+rest != sent {
			t.Errorf("1:%d: %d looked at and %d not, of %d", n, got, rest, sent)
		}
		p := 1 / float64(n)
		if off := math.Abs(float64(got) - sent*p); off > max(6*math.Sqrt(sent*p*(1-p)), 3) {
			t.Errorf("1:%d: looked at %d of %d packets", n, got, sent)
		}
		t.Logf("1:%d: %d of %d", n, got, sent)
	}
}

// TestPrefixesChoose: source or destination in the list, which may change.
func TestPrefixesChoose(t *testing.T) {
	one, two := netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.0/16")
	k := loadChoice(t, Options{Prefixes: []netip.Prefix{one, netip.MustParsePrefix("::/0")}})
	for _, f := range [][]byte{udp("10.1.0.1", "192.0.2.1", 1), udp("192.0.2.1", "10.1.0.1", 2), udp("10.2.0.1", "192.0.2.1", 3), udp("192.0.2.1", "192.0.2.2", 4)} {
		send(t, k.Programs.XDP, f, 2)
	}
	if got := metered(k); got.Packets != 4 {
		t.Errorf("metered %v, want 4 packets", got)
	}
	if got := counters(t, k)[Filtered]; got != (Count{4, 256}) {
		t.Errorf("filtered %v, want 4 packets of 64 octets", got)
	}
	if err := k.SetPrefixes([]netip.Prefix{one, two}); err != nil {
		t.Fatal(err)
	}
	send(t, k.Programs.XDP, udp("10.2.0.1", "192.0.2.1", 3), 2)
	if got := metered(k); got.Packets != 6 {
		t.Errorf("with another list metered %v, want 6 packets", got)
	}
}

// TestSampleThreshold: each packet is chosen with probability 1/n, but for one
// part in 2^32 of that.
func TestSampleThreshold(t *testing.T) {
	for n := uint64(2); n < 1<<32; n += 1 + n/3 {
		whole, rest := SampleThreshold(uint32(n))
		// Of the 2^64 pairs of numbers that may be drawn, so many choose.
		chosen := uint64(whole)<<32 | uint64(rest)
		if miss := -(chosen * n); miss >= n {
			t.Fatalf("1:%d: %d of 2^64, which times %d is %d less", n, chosen, n, miss)
		}
	}
}
