package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weir/flow"
)

// Table is the memory of a table, and what the kernel has to do with it.
type Table struct {
	maps         *maps
	mem          Memory
	mappings     [][]byte
	barrier      *ebpf.Map // grace periods by its updates; nil: membarrier
	barrierInner *ebpf.Map
	telling      sync.Mutex
	tell         *ebpf.Program
	own          map[Own]struct{} // what the map `own` holds
}

// OpenMemory opens the table that is pinned in dir, whatever its size and key
// are, so that it can be drained. Its programs are not loaded; those that are
// attached go on. A table of another layout is an error that says what to do.
func OpenMemory(dir string) (*Table, error) {
	m, err := openPinned(dir)
	if err != nil {
		return nil, err
	}
	meta, err := m.readMeta()
	if err == nil && meta.Layout != Layout {
		err = fmt.Errorf("%s: %w: its layout is %d, this weir knows %d; let the weir that made it drain it (weir meter --detach), or give up what it holds and remove the folder", dir, ErrIncompatible, meta.Layout, Layout)
	}
	if err != nil {
		m.close()
		return nil, err
	}
	spec, err := loadFlow()
	if err == nil {
		err = configure(spec, meta, Options{}, false)
	}
	if err != nil {
		m.close()
		return nil, err
	}
	spec.Programs = map[string]*ebpf.ProgramSpec{"tell_time": spec.Programs["tell_time"]}
	spec.Maps = map[string]*ebpf.MapSpec{".data.control": spec.Maps[".data.control"], ".rodata": spec.Maps[".rodata"]}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{".data.control": m.control}})
	if err != nil {
		m.close()
		return nil, loadError(err)
	}
	defer coll.Close()
	return newTable(m, coll.DetachProgram("tell_time"), false)
}

// newTable maps the memory of m, which it owns from here on, and tell.
func newTable(m *maps, tell *ebpf.Program, noMembarrier bool) (*Table, error) {
	t := &Table{maps: m, tell: tell}
	if err := t.mapAll(); err != nil {
		t.Close()
		return nil, err
	}
	if noMembarrier || !membarrierWaits() {
		if err := t.makeBarrier(); err != nil {
			t.Close()
			return nil, err
		}
	}
	return t, nil
}

func (t *Table) mapAll() error {
	sizes := map[*ebpf.Map]uintptr{
		t.maps.table: unsafe.Sizeof(Set{}), t.maps.side: unsafe.Sizeof(Side{}), t.maps.touched: 4,
		t.maps.control: unsafe.Sizeof(Control{}), t.maps.meta: unsafe.Sizeof(Meta{}),
	}
	get := func(m *ebpf.Map) ([]byte, int, error) {
		if uintptr(m.ValueSize()) != sizes[m] {
			return nil, 0, fmt.Errorf("%s: %w: values of %d octets, %d expected", m, ErrIncompatible, m.ValueSize(), sizes[m])
		}
		n, each := int(m.MaxEntries()), int(sizes[m]+7)&^7 // as the kernel's arrays have it
		size := (n*each + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1)
		b, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, 0, fmt.Errorf("mapping %s: %w", m, err)
		}
		t.mappings = append(t.mappings, b)
		return b, n, nil
	}
	for _, part := range []struct {
		m    *ebpf.Map
		take func(b []byte, n int)
	}{
		{t.maps.table, func(b []byte, n int) { t.mem.Sets = mapped[Set](b, n) }},
		{t.maps.side, func(b []byte, n int) { t.mem.Sides = mapped[Side](b, n) }},
		{t.maps.touched, func(b []byte, n int) { t.mem.Touched = mapped[Flag](b, n) }},
		{t.maps.control, func(b []byte, n int) { t.mem.Control = &mapped[Control](b, n)[0] }},
		{t.maps.meta, func(b []byte, n int) { t.mem.Meta = &mapped[Meta](b, n)[0] }},
	} {
		b, n, err := get(part.m)
		if err != nil {
			return err
		}
		part.take(b, n)
	}
	t.mem.Aggregates = aggregateSets
	t.mem.Flows = len(t.mem.Sets) - CatchAllSets - aggregateSets
	if m := t.mem.Meta; m.Sets != 0 { // it was there
		t.mem.Flows, t.mem.Aggregates = int(m.Sets), int(m.AggregateSets)
		if t.mem.Flows+t.mem.Aggregates+CatchAllSets != len(t.mem.Sets) || len(t.mem.Sides) < len(t.mem.Sets)*Ways {
			return fmt.Errorf("%w: the sizes of its maps do not agree", ErrIncompatible)
		}
	}
	return nil
}

// Memory is the table as it is mapped here, until Close.
func (t *Table) Memory() *Memory { return &t.mem }

// Close unmaps the table. What is pinned or attached lives on.
func (t *Table) Close() error {
	var err error
	for _, b := range t.mappings {
		err = errors.Join(err, unix.Munmap(b))
	}
	t.mappings, t.mem = nil, Memory{}
	t.tell.Close()
	t.barrier.Close()
	t.barrierInner.Close()
	t.maps.close()
	return err
}

// Now is the clock that entries have, in ns, and CLOCK_MONOTONIC at the same
// moment.
func (t *Table) Now() (clock, mono uint64, err error) {
	t.telling.Lock()
	defer t.telling.Unlock()
	if _, err := t.tell.Run(&ebpf.RunOptions{}); err != nil {
		return 0, 0, fmt.Errorf("asking the kernel for its clock: %w", err)
	}
	return t.mem.Control.JiffiesNs, t.mem.Control.MonoNs, nil
}

// Counters sums up over all CPUs what made no flow, by port number*2 + egress.
func (t *Table) Counters() ([]Counters, error) {
	sum := make([]Counters, 2*MaxPorts)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	each := make([]Counters, cpus)
	for i := range sum {
		if err := t.maps.counters.Lookup(uint32(i), &each); err != nil {
			return nil, fmt.Errorf("reading the kernel's counters: %w", err)
		}
		for c := range each {
			for r := range each[c] {
				sum[i][r].Packets += each[c][r].Packets
				sum[i][r].Bytes += each[c][r].Bytes
			}
		}
	}
	return sum, nil
}

// Own is a flow of this host's own exports.
type Own struct {
	Src, Dst         flow.Addr
	SrcPort, DstPort uint16
}

// SetOwn says which flows are of this host's own exports. Packets of a flow
// that the table holds already are metered until it ends.
func (t *Table) SetOwn(list []Own) error {
	want := make(map[Own]struct{}, len(list))
	for _, o := range list {
		want[o] = struct{}{}
	}
	if t.own == nil { // another daemon may have left some
		t.own = make(map[Own]struct{})
		var k Own
		var v uint8
		for it := t.maps.own.Iterate(); it.Next(&k, &v); {
			t.own[k] = struct{}{}
		}
	}
	near := ownNear(want)
	atomic.OrUint64(&t.mem.Control.OwnNear, near)
	for o := range t.own {
		if _, ok := want[o]; ok {
			continue
		}
		if err := t.maps.own.Delete(o); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("own exports: %w", err)
		}
		delete(t.own, o)
	}
	for o := range want {
		if _, ok := t.own[o]; ok {
			continue
		}
		if err := t.maps.own.Put(o, uint8(1)); err != nil {
			return fmt.Errorf("own exports: %d of %d entered: %w", len(t.own), len(want), err)
		}
		t.own[o] = struct{}{}
	}
	atomic.StoreUint64(&t.mem.Control.OwnNear, near)
	return nil
}

// ownNear has the bit of each destination: the programs look up only those that share one.
func ownNear(keys map[Own]struct{}) (near uint64) {
	for o := range keys {
		w := uint32(0)
		for i := 0; i < len(o.Dst); i += 4 {
			w ^= binary.LittleEndian.Uint32(o.Dst[i:])
		}
		near |= 1 << (w * mixer >> 26)
	}
	return near
}

// mixer spreads what differs in few bits (2^32 over the golden ratio).
const mixer = 0x9e3779b1

// SetPrefixes says which prefixes packets must be from or to that pass the
// programs that were loaded with this table; they must have been given some.
func (t *Table) SetPrefixes(list []netip.Prefix) error {
	if t.maps.prefixes == nil {
		return errors.New("prefixes belong to programs, and a table that was opened alone has none")
	}
	return SetPrefixes(t.maps.prefixes, list)
}

// maps are the maps of a table, and one of the programs': each set of them has
// prefixes of its own, which live as long as they do.
type maps struct {
	table, side, touched, control, meta, counters, own *ebpf.Map

	prefixes *ebpf.Map
}

// each visits the table's maps by their names; meta comes last, because a folder
// that has it has all.
func (m *maps) each(visit func(name string, m **ebpf.Map) error) error {
	for _, p := range []struct {
		name string
		m    **ebpf.Map
	}{
		{"table", &m.table},
		{"side", &m.side},
		{"touched", &m.touched},
		{"control", &m.control},
		{"counters", &m.counters},
		{"own", &m.own},
		{"meta", &m.meta},
	} {
		if err := visit(p.name, p.m); err != nil {
			return err
		}
	}
	return nil
}

// specName is the map's name in the object.
func specName(name string) string {
	if name == "control" {
		return ".data.control"
	}
	return name
}

func mapsOf(c *ebpf.Collection) *maps {
	m := &maps{prefixes: c.DetachMap("prefixes")}
	m.each(func(name string, to **ebpf.Map) error {
		*to = c.DetachMap(specName(name))
		return nil
	})
	return m
}

func (m *maps) replacements() map[string]*ebpf.Map {
	all := make(map[string]*ebpf.Map)
	m.each(func(name string, p **ebpf.Map) error {
		all[specName(name)] = *p
		return nil
	})
	return all
}

func (m *maps) close() {
	m.prefixes.Close()
	m.each(func(_ string, p **ebpf.Map) error {
		(*p).Close()
		return nil
	})
}

// openPinned opens the maps in a folder. If the last one to be pinned is not
// there, neither are the others.
func openPinned(dir string) (*maps, error) {
	m := new(maps)
	if _, err := os.Stat(filepath.Join(dir, "meta")); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNotPinned)
	}
	err := m.each(func(name string, p **ebpf.Map) (err error) {
		*p, err = ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		return err
	})
	if err != nil {
		m.close()
		return nil, fmt.Errorf("%s: opening the pinned flow table: %w", dir, err)
	}
	return m, nil
}

// pin pins all, in place of what a Load that did not get to its end has left.
func (m *maps) pin(dir string) error {
	return m.each(func(name string, p **ebpf.Map) error {
		path := filepath.Join(dir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := (*p).Pin(path); err != nil {
			return fmt.Errorf("pinning the flow table: %w", err)
		}
		return nil
	})
}

// Unpin removes the pins of a table from a folder. It lives as long as someone
// has it open, or a program is attached that uses it.
func Unpin(dir string) error {
	names := []string{"judged", "hits", "banks", "hops", "hop_of", "uppers", "tx", "whys", "guard_rules", "guard_limits", "guard_there", "guard_gates", "guard_gate_cpus", "guard_buckets", "guard_allowed"}
	new(maps).each(func(name string, _ **ebpf.Map) error {
		names = append([]string{name}, names...) // meta first
		return nil
	})
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// readMeta reads as much of meta as all layouts have in common, and all of it
// if it is this one's.
func (m *maps) readMeta() (*Meta, error) {
	b := make([]byte, m.meta.ValueSize())
	if err := m.meta.Lookup(uint32(0), &b); err != nil {
		return nil, fmt.Errorf("reading the pinned table's meta: %w", err)
	}
	if len(b) < 4 {
		return nil, fmt.Errorf("%w: its meta has %d octets", ErrIncompatible, len(b))
	}
	meta := &Meta{Layout: native.Uint32(b)}
	if meta.Layout == Layout {
		if len(b) != int(unsafe.Sizeof(*meta)) {
			return nil, fmt.Errorf("%w: its meta has %d octets, %d expected", ErrIncompatible, len(b), unsafe.Sizeof(*meta))
		}
		*meta = mapped[Meta](b, 1)[0]
	}
	return meta, nil
}

// onlyOneCPU: membarrier does not wait there, as it need not in most kernels.
func onlyOneCPU() bool {
	n, err := ebpf.PossibleCPU()
	return err != nil || n == 1
}

func realTime() bool {
	b, err := os.ReadFile("/sys/kernel/realtime")
	return err == nil && strings.TrimSpace(string(b)) == "1"
}
