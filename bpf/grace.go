package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Grace returns when every program that was running when it was called has
// ended: an RCU grace period, some milliseconds.
func (t *Table) Grace() error {
	if t.barrier == nil {
		if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); errno != 0 {
			return fmt.Errorf("waiting for the kernel's programs (membarrier): %w", errno)
		}
		return nil
	}
	// The kernel lets the programs that may use the old inner map come to an
	// end before the update returns.
	if err := t.barrier.Put(uint32(0), t.barrierInner); err != nil {
		return fmt.Errorf("waiting for the kernel's programs (map update): %w", err)
	}
	return nil
}

const (
	membarrierQuery  = 0
	membarrierGlobal = 1
)

// membarrierWaits says whether membarrier waits for a grace period. It refuses
// where CPUs may run without ticks (nohz_full), and returns at once where there
// is but one CPU, which is not enough if programs can be preempted.
func membarrierWaits() bool {
	if onlyOneCPU() || realTime() {
		return false
	}
	commands, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierQuery, 0, 0)
	if errno != 0 || commands&membarrierGlobal == 0 {
		return false
	}
	_, _, errno = unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	return errno == 0
}

func (t *Table) makeBarrier() (err error) {
	inner := &ebpf.MapSpec{Name: "weir_inner", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	if t.barrierInner, err = ebpf.NewMap(inner); err != nil {
		return fmt.Errorf("making a map to wait with: %w", err)
	}
	t.barrier, err = ebpf.NewMap(&ebpf.MapSpec{Name: "weir_barrier", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner})
	if err != nil {
		return fmt.Errorf("making a map to wait with: %w", err)
	}
	return nil
}
