package cache

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// memory maps n entries outside the Go heap, on huge pages where the kernel
// gives them: a table is read at random, and small pages cost a miss of the
// address translation beside each miss of the data.
func memory(n int) (entries []Entry, mapping []byte, err error) {
	size := n * EntrySize
	mapping, err = unix.Mmap(-1, 0, size+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, err
	}
	start := unsafe.Pointer(unsafe.SliceData(mapping))
	if rest := uintptr(start) % hugePage; rest != 0 && size >= hugePage {
		start = unsafe.Add(start, hugePage-rest)
	}
	entries = unsafe.Slice((*Entry)(start), n)
	if size >= hugePage {
		_ = unix.Madvise(mapping, unix.MADV_HUGEPAGE) // advice: without it, slower
	}
	return entries, mapping, nil
}
