package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
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
	t.Log(c[0], *Probe())
	tick, err := measureTick()
	t.Log(tick, err)
}
