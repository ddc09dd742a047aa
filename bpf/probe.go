package bpf

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Features are what the kernel offers the programs; nil: it does. An error says
// what is missing, and from which release on kernels have it.
type Features struct {
	Release    string // uname -r
	BPF        error  // programs may be loaded at all
	Atomics    error  // compare-and-exchange: 5.12, on arm64 5.18
	Jiffies    error  // the clock: 5.6
	Syscall    error  // a program can be asked for the clock: 5.14
	Mmap       error  // maps can be mapped: 5.5
	Frags      error  // XDP with frames in several buffers: 5.18; optional
	Membarrier error  // grace periods by membarrier; optional
	BTF        error  // the kernel's types; optional
	Hz         int    // ticks a second by the kernel's configuration; 0: it cannot be read, and is measured
}

// Missing is what the programs cannot do without.
func (f *Features) Missing() error {
	return errors.Join(f.BPF, f.Jiffies, f.Atomics, f.Mmap, f.Syscall)
}

// Probe asks the kernel. It changes nothing.
func Probe() *Features {
	f := new(Features)
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		f.Release = unix.ByteSliceToString(u.Release[:])
	}
	if !haveMemcg() {
		rlimit.RemoveMemlock()
	}
	f.BPF = since("5.15", "loading XDP programs", features.HaveProgramType(ebpf.XDP))
	if f.BPF == nil {
		f.Jiffies = since("5.6", "helper bpf_jiffies64", features.HaveProgramHelper(ebpf.XDP, asm.FnJiffies64))
		f.Atomics = since("5.12 (arm64: 5.18)", "atomic compare-and-exchange in programs", haveAtomics())
		f.Mmap = since("5.5", "maps that can be mapped", features.HaveMapFlag(features.BPF_F_MMAPABLE))
		f.Syscall = since("5.14", "programs of type syscall", features.HaveProgramType(ebpf.Syscall))
		f.Frags = since("5.18", "XDP programs for frames in several buffers", features.HaveProgramHelper(ebpf.XDP, asm.FnXdpGetBuffLen))
	}
	if !membarrierWaits() {
		f.Membarrier = errors.New("membarrier does not wait for a grace period here (one CPU, nohz_full, or a real-time kernel): the update of a map does")
	}
	if _, err := btf.LoadKernelSpec(); err != nil {
		f.BTF = fmt.Errorf("the kernel's types (CONFIG_DEBUG_INFO_BTF): %w", err)
	}
	f.Hz, _ = kernelHz()
	return f
}

func since(release, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%s: kernels have it from %s on", what, release)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: %w (root, or the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, are needed)", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// haveAtomics loads a program with the atomic operations that ours have.
func haveAtomics() error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "weir_atomics", Type: ebpf.SocketFilter, License: "MIT",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 0),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
			asm.AddAtomic.Mem(asm.RFP, asm.R1, asm.DWord, -8),
			asm.CmpXchg.Mem(asm.RFP, asm.R1, asm.DWord, -8),
			asm.CmpXchg.Mem(asm.RFP, asm.R1, asm.Word, -8),
			asm.OrAtomic.Mem(asm.RFP, asm.R1, asm.DWord, -8),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	if err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			return ebpf.ErrNotSupported
		}
		return err
	}
	return p.Close()
}

// haveMemcg says whether maps are charged to the control group, as from 5.11
// on, and not to a limit of locked memory.
func haveMemcg() bool { return features.HaveProgramHelper(ebpf.XDP, asm.FnKtimeGetCoarseNs) == nil }

// Tick is how long the kernel's clock stands still between two jiffies: by its
// configuration, or if that cannot be read, measured, which takes a moment.
func Tick() (time.Duration, error) {
	if hz, err := kernelHz(); err == nil {
		return time.Second / time.Duration(hz), nil
	}
	return measureTick()
}

// kernelHz reads CONFIG_HZ where kernels leave their configuration.
func kernelHz() (int, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return 0, err
	}
	release := unix.ByteSliceToString(u.Release[:])
	for _, path := range []string{
		"/proc/config.gz", "/boot/config-" + release, "/lib/modules/" + release + "/config",
		"/usr/lib/modules/" + release + "/config", "/lib/modules/" + release + "/build/.config",
	} {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if hz := configHz(b); hz != 0 {
			return hz, nil
		}
	}
	return 0, errors.New("the kernel's configuration cannot be read")
}

// configHz finds CONFIG_HZ in a configuration, packed or not; 0: it is not there.
func configHz(b []byte) int {
	var r io.Reader = bytes.NewReader(b)
	if z, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
		r = io.LimitReader(z, 16<<20)
	}
	for s := bufio.NewScanner(r); s.Scan(); {
		if value, ok := strings.CutPrefix(s.Text(), "CONFIG_HZ="); ok {
			if hz, err := strconv.Atoi(value); err == nil && hz >= 10 && hz <= 10000 {
				return hz
			}
		}
	}
	return 0
}

// measureTick counts jiffies against the monotonic clock.
func measureTick() (time.Duration, error) {
	spec, err := loadFlow()
	if err != nil {
		return 0, err
	}
	spec.Programs = map[string]*ebpf.ProgramSpec{"tell_time": spec.Programs["tell_time"]}
	spec.Maps = map[string]*ebpf.MapSpec{".data.control": spec.Maps[".data.control"], ".rodata": spec.Maps[".rodata"]}
	coll, err := ebpf.NewCollection(spec) // a tick is 1 ns there
	if err != nil {
		return 0, loadError(err)
	}
	defer coll.Close()
	tell, control := coll.Programs["tell_time"], coll.Maps[".data.control"]
	now := func() (jiffies, mono uint64, err error) {
		var c Control
		if _, err := tell.Run(&ebpf.RunOptions{}); err != nil {
			return 0, 0, err
		}
		err = control.Lookup(uint32(0), &c)
		return c.JiffiesNs, c.MonoNs, err
	}
	// edge waits for the next jiffy.
	edge := func() (uint64, uint64, error) {
		before, _, err := now()
		for deadline := time.Now().Add(time.Second); err == nil && time.Now().Before(deadline); {
			j, m, err := now()
			if err != nil || j != before {
				return j, m, err
			}
		}
		return 0, 0, errors.Join(err, errors.New("the kernel's clock stands still"))
	}
	j1, m1, err := edge()
	if err != nil {
		return 0, err
	}
	// A busy machine may let us see an edge some milliseconds late: the longer
	// ago the first one was, the less that is of it.
	for wait := 200 * time.Millisecond; ; wait *= 2 {
		time.Sleep(wait)
		j2, m2, err := edge()
		if err != nil {
			return 0, err
		}
		tick, usual := tickOf(j2-j1, time.Duration(m2-m1))
		if usual || wait > time.Second {
			return tick, nil
		}
	}
}

// tickOf is the tick of a frequency that kernels are built with and that so many
// jiffies in so long a time come close to, or else what was measured. Nearly all
// have a usual one; the others, of odd machines, lie closer together than a first
// measurement can tell.
func tickOf(jiffies uint64, d time.Duration) (tick time.Duration, usual bool) {
	measured := d / time.Duration(max(jiffies, 1))
	for i, hz := range []time.Duration{100, 250, 300, 1000, 24, 32, 48, 64, 128, 200, 256, 500, 512, 1024, 1200} {
		if tick := time.Second / hz; (measured - tick).Abs() < tick/100 {
			return tick, i < 4
		}
	}
	return measured, false
}
