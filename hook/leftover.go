package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/pin"
	"golang.org/x/sys/unix"

	"weir/bpf"
)

// Leftover is the folder of a network namespace that is gone.
type Leftover struct {
	Name    string // of the folder, for people
	Hooks   int    // pins of programs, which are attached to nothing any more
	Maps    int
	Flows   uint64 // in the table
	Packets uint64 // of these flows, never handed on
	Err     error  // why the table could not be read; nil if there is none

	cookie uint64
}

// String is "/sys/fs/bpf/weir/v1/netns-7: 2 hooks, 8 maps; 12 flows of 340 packets never handed on".
func (l Leftover) String() string {
	s := fmt.Sprintf("%s: %d hooks, %d maps", l.Name, l.Hooks, l.Maps)
	switch {
	case l.Err != nil:
		s += fmt.Sprintf("; what its table holds cannot be read (%v)", l.Err)
	case l.Flows > 0:
		s += fmt.Sprintf("; %d flows, %d packets of them never handed on", l.Flows, l.Packets)
	}
	return s
}

// Leftovers lists the folders of network namespaces that are gone: nobody holds
// them, no interface has a program of theirs, and no process is in a namespace
// with their cookie, nor has one a name.
func Leftovers(o Options) ([]Leftover, error) {
	var found []Leftover
	err := eachLeftover(o, func(p place, cookie uint64) error {
		l := Leftover{Name: p.name, cookie: cookie}
		l.count(p.path)
		found = append(found, l)
		return nil
	})
	return found, err
}

// Sweep removes a leftover, if it still is one.
func Sweep(o Options, l Leftover) error {
	return eachLeftover(o, func(p place, cookie uint64) error {
		if cookie != l.cookie {
			return nil
		}
		f := &Folder{place: p}
		if err := f.take(false); err != nil {
			return err
		}
		return f.Remove()
	})
}

func eachLeftover(o Options, fn func(p place, cookie uint64) error) error {
	root, err := findBPFFS(false)
	if errors.Is(err, errNoBPFFS) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.close()
	base := place{path: filepath.Join(root.path, weirPath), name: filepath.Join(root.name, weirPath)}
	if o.Dir != "" {
		base = place{path: filepath.Clean(o.Dir), name: filepath.Clean(o.Dir)}
	}
	entries, err := os.ReadDir(base.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var known map[uint64]bool
	for _, e := range entries {
		cookie, ok := namespaceOf(e.Name())
		if !ok {
			continue
		}
		p := place{path: filepath.Join(base.path, e.Name()), name: filepath.Join(base.name, e.Name())}
		if _, held := holder(p.path); held {
			continue
		}
		if known == nil {
			if known, err = knownNamespaces(); err != nil {
				return err
			}
		}
		if known[cookie] || attachedSomewhere(p.path) {
			continue
		}
		if err := fn(p, cookie); err != nil {
			return err
		}
	}
	return nil
}

// attachedSomewhere says whether a folder has a link to an interface, or one
// that cannot be read.
func attachedSomewhere(dir string) bool {
	all, err := readPins(dir, false)
	if err != nil {
		return true
	}
	for _, h := range all {
		if h.Alive {
			return true
		}
	}
	return false
}

// count looks at what is pinned.
func (l *Leftover) count(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		l.Err = err
		return
	}
	for _, e := range entries {
		if !e.IsDir() {
			l.Maps++
		}
	}
	links, _ := os.ReadDir(filepath.Join(dir, linksFolder))
	for _, e := range links {
		if !e.IsDir() {
			l.Hooks++
		}
	}
	l.Flows, l.Packets, l.Err = tableHolds(dir)
}

// tableHolds counts the flows of a pinned table, and the packets of theirs that
// its daemon has not handed on. No table holds nothing.
func tableHolds(dir string) (flows, packets uint64, err error) {
	sets, closeTable, err := mapPinned[bpf.Set](filepath.Join(dir, "table"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer closeTable()
	sides, closeSides, err := mapPinned[bpf.Side](filepath.Join(dir, "side"))
	if err != nil {
		return 0, 0, err
	}
	defer closeSides()
	for i := range sets {
		for way := range bpf.Ways {
			state := atomic.LoadUint32(&sets[i].Word[way]) & bpf.StateMask
			e := &sets[i].Entry[way]
			seen := atomic.LoadUint64(&e.Packets)
			if state == bpf.Free && i < len(sets)-bpf.CatchAllSets || state == bpf.Claimed || seen == 0 {
				continue // the catch-alls have no words
			}
			slot := i*bpf.Ways + way
			if slot >= len(sides) {
				return flows, packets, fmt.Errorf("%d sides for %d sets", len(sides), len(sets))
			}
			if done := sides[slot].Bank[e.Incarnation&1].Packets; seen > done {
				flows++
				packets += seen - done
			}
		}
	}
	return flows, packets, nil
}

// mapPinned maps an array into memory, for reading. Its values must have the
// size of a T.
func mapPinned[T any](path string) (values []T, unmap func(), err error) {
	p, err := pin.Load(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil, nil, err
	}
	defer p.Close() // the mapping keeps it
	m, ok := p.(*ebpf.Map)
	var v T
	if !ok || m.Type() != ebpf.Array || m.ValueSize() != uint32(unsafe.Sizeof(v)) {
		return nil, nil, fmt.Errorf("%s has another layout", filepath.Base(path))
	}
	size := int(m.MaxEntries()) * int(unsafe.Sizeof(v))
	mem, err := unix.Mmap(m.FD(), 0, (size+os.Getpagesize()-1)&^(os.Getpagesize()-1), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: mmap: %w", filepath.Base(path), err)
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&mem[0])), m.MaxEntries()), func() { unix.Munmap(mem) }, nil
}
