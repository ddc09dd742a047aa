package cache

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// memory maps n entries outside the Go heap, from the start of a huge page on.
// What is not touched takes no room.
func memory(n int) (entries []Entry, mapping []byte, err error) {
	size := n * EntrySize
	mapping, err = unix.Mmap(-1, 0, size+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, err
	}
	start := unsafe.Pointer(unsafe.SliceData(mapping))
	if rest := uintptr(start) % hugePage; rest != 0 {
		start = unsafe.Add(start, hugePage-rest)
	}
	return unsafe.Slice((*Entry)(start), n), mapping, nil
}

// onHugePages asks for huge pages under entries [from, to), which are used all
// over from now on: a table is read at random, and small pages cost a miss of
// the address translation beside each miss of the data. Where the kernel does
// not give them it is slower, no more.
func (c *Cache) onHugePages(from, to uint32) {
	if len(c.entries)*EntrySize < hugePage {
		return
	}
	size := EntrySize * int(c.places)
	lo := int(from) * size / hugePage * hugePage
	hi := min((int(to)*size+hugePage-1)/hugePage*hugePage, len(c.entries)*EntrySize/hugePage*hugePage)
	if lo >= hi {
		return
	}
	part := unsafe.Slice((*byte)(unsafe.Pointer(&c.entries[lo/EntrySize])), hi-lo)
	_ = unix.Madvise(part, unix.MADV_HUGEPAGE)
	_ = unix.Madvise(part, unix.MADV_COLLAPSE) // since Linux 6.1: now, not when the kernel finds the time
}
