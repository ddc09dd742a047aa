package hook

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weir/bpf"
)

// Leftover is the folder of a network namespace that is gone.
type Leftover struct {
	Name    string // of the folder, for people
	Hooks   int    // pins of programs, which are attached to nothing any more
	Maps    int
	Flows   uint64 // in its tables, with packets never handed on
	Packets uint64 // those
	Err     error  // why not all could be read

	cookie uint64
}

// String is "/sys/fs/bpf/weir/v1/netns-7: 2 hooks, 8 maps; 12 flows of 340 packets never handed on".
func (l Leftover) String() string {
	s := fmt.Sprintf("%s: %d hooks, %d maps", l.Name, l.Hooks, l.Maps)
	switch {
	case l.Err != nil:
		s += fmt.Sprintf("; not all of it can be read: %v", l.Err)
	case l.Flows > 0:
		s += fmt.Sprintf("; %d flows, %d packets of them never handed on", l.Flows, l.Packets)
	}
	return s
}

// Leftovers lists the folders of network namespaces that are gone: nobody holds
// them, no interface has a program of theirs, and no process is in a namespace
// with their cookie, nor has one a name.
func Leftovers(o Options) ([]Leftover, error) {
	all, err := allFolders(o)
	if errors.Is(err, errNoBPFFS) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer all.close()
	entries, err := os.ReadDir(all.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	known, err := knownNamespaces()
	if err != nil {
		return nil, err
	}
	var found []Leftover
	for _, e := range entries {
		cookie, ok := namespaceOf(e.Name())
		path := filepath.Join(all.path, e.Name())
		if !ok || known[cookie] || inUse(path) {
			continue
		}
		l := Leftover{Name: filepath.Join(all.name, e.Name()), cookie: cookie}
		l.count(path)
		found = append(found, l)
	}
	return found, nil
}

// Open holds a leftover, so that what its tables hold can be handed on, if it
// still is one. Remove of the Folder ends it.
func (l Leftover) Open(o Options) (*Folder, error) {
	p, err := allFolders(o)
	if err != nil {
		return nil, err
	}
	p.path, p.name = filepath.Join(p.path, namespaceFolder(l.cookie)), l.Name
	f := &Folder{place: *p}
	known, err := knownNamespaces()
	if err == nil && (known[l.cookie] || inUse(p.path)) {
		err = fmt.Errorf("%s is in use again", l.Name)
	}
	if err == nil {
		err = f.take(false)
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// Sweep removes a leftover, if it still is one, with all it holds.
func Sweep(o Options, l Leftover) error {
	f, err := l.Open(o)
	if err != nil {
		return err
	}
	return f.Remove()
}

// allFolders is where the folders of all network namespaces are.
func allFolders(o Options) (*place, error) {
	if o.Dir != "" {
		return &place{path: filepath.Clean(o.Dir), name: filepath.Clean(o.Dir)}, nil
	}
	p, err := findBPFFS(false)
	if err != nil {
		return nil, err
	}
	p.path, p.name = filepath.Join(p.path, weirPath), filepath.Join(p.name, weirPath)
	return p, nil
}

// inUse says whether somebody holds a folder, or it has a link to an interface,
// or one that cannot be read.
func inUse(dir string) bool {
	if _, held := holder(dir); held {
		return true
	}
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
	l.Err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() || strings.HasSuffix(path, newMark):
		case filepath.Base(filepath.Dir(path)) == linksFolder:
			l.Hooks++
		default:
			l.Maps++
			if d.Name() == "table" {
				return l.flows(filepath.Dir(path))
			}
		}
		return nil
	})
}

// flows counts those of a table, and the packets of theirs that its daemon has
// not handed on. The maps are only read.
func (l *Leftover) flows(dir string) error {
	metas, unmap, err := mapped[bpf.Meta](filepath.Join(dir, "meta"))
	if err != nil {
		return err
	}
	layout := metas[0].Layout
	unmap()
	if layout != bpf.Layout {
		return fmt.Errorf("%s: its layout is %d, this weir knows %d", dir, layout, bpf.Layout)
	}
	sets, unmap, err := mapped[bpf.Set](filepath.Join(dir, "table"))
	if err != nil {
		return err
	}
	defer unmap()
	sides, unmap, err := mapped[bpf.Side](filepath.Join(dir, "side"))
	if err != nil {
		return err
	}
	defer unmap()
	if len(sides) < len(sets)*bpf.Ways {
		return fmt.Errorf("%s: %d slots, but %d sides", dir, len(sets)*bpf.Ways, len(sides))
	}
	for i := range sets {
		for way := range bpf.Ways {
			state := atomic.LoadUint32(&sets[i].Word[way]) & bpf.StateMask
			if i < len(sets)-bpf.CatchAllSets && (state == bpf.Free || state == bpf.Claimed) { // catch-alls have no words
				continue
			}
			e := &sets[i].Entry[way]
			seen := atomic.LoadUint64(&e.Packets)
			if done := sides[i*bpf.Ways+way].Bank[e.Incarnation&1].Packets; seen > done {
				l.Flows++
				l.Packets += seen - done
			}
		}
	}
	return nil
}

// mapped maps a pinned array into memory, to be read. Its values must have the
// size of a T.
func mapped[T any](path string) (values []T, unmap func(), err error) {
	m, err := ebpf.LoadPinnedMap(path, nil) // what is opened for reading only cannot be mapped
	if err != nil {
		return nil, nil, err
	}
	defer m.Close() // the mapping keeps it
	size := int(unsafe.Sizeof(*new(T)))
	if m.Type() != ebpf.Array || int(m.ValueSize()) != size || m.MaxEntries() == 0 {
		return nil, nil, fmt.Errorf("%s has another layout than this weir's", path)
	}
	page := os.Getpagesize()
	mem, err := unix.Mmap(m.FD(), 0, (int(m.MaxEntries())*size+page-1)&^(page-1), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: mmap: %w", path, err)
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&mem[0])), m.MaxEntries()), func() { unix.Munmap(mem) }, nil
}
