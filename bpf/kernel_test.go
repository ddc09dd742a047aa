package bpf

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"weir/packet"
)

func load(t testing.TB, o Options) *Kernel {
	t.Helper()
	needKernel(t)
	k, err := Load(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func TestLoad(t *testing.T) {
	k := load(t, Options{Entries: 1 << 12})
	clock, mono, err := k.Now()
	if err != nil || clock == 0 || mono == 0 {
		t.Fatalf("Now() = %d, %d, %v", clock, mono, err)
	}
	if err := k.Grace(); err != nil {
		t.Fatal(err)
	}
	ret, err := k.Programs.XDP.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if ret != 2 || err != nil {
		t.Fatalf("run: %d, %v", ret, err)
	}
	c, err := k.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if c[0][packet.TruncatedLink].Packets+c[0][packet.LLC].Packets != 1 { // 64 zeroes
		t.Errorf("a frame without IP was not counted: %v", c[0])
	}
	tick, err := measureTick()
	if err != nil || tick <= 0 {
		t.Fatalf("measureTick() = %v, %v", tick, err)
	}
	if hz, err := kernelHz(); err == nil && tick != time.Second/time.Duration(hz) {
		t.Errorf("a tick was measured as %v, the kernel's configuration says %d Hz", tick, hz)
	}
}
