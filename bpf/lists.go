package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Banks is how many compiled policies the programs can have at a time: the one
// that is in force, and the next.
const Banks = 2

// BankPage is how many words a bank's page has, as acl.h has them.
const BankPage = 1 << 18

// Lists is what the programs have of access lists, beside the words in Control
// that say which are in force.
type Lists struct {
	Judged []Judged // by slot
	Hits   []Hits   // by a rule's number

	// Events are what rules want to be told: of Event, and octets behind it.
	Events *ebpf.Map

	banks    *ebpf.Map
	judged   *ebpf.Map
	hits     *ebpf.Map
	mappings [][]byte
	fresh    bool
}

// Fresh says that no lists have been in force since the table was made, or since
// weir went on without.
func (l *Lists) Fresh() bool { return l.fresh }

// listMaps are the maps that lists need besides the table's. They are pinned
// beside it, once there have been lists.
type listMaps struct{ judged, hits, banks *ebpf.Map }

func (m *listMaps) each(visit func(name string, m **ebpf.Map)) {
	visit("judged", &m.judged)
	visit("hits", &m.hits)
	visit("banks", &m.banks)
}

func (m *listMaps) close() {
	m.each(func(_ string, p **ebpf.Map) { (*p).Close() })
}

// openLists opens the lists' maps in a folder, or makes them, and pins them if
// there is a folder.
func openLists(dir string, spec *ebpf.CollectionSpec) (*listMaps, error) {
	var err error
	m := new(listMaps)
	m.each(func(name string, p **ebpf.Map) {
		if err != nil {
			return
		}
		*p, err = openBeside(dir, name, spec.Maps[name])
	})
	if err != nil {
		m.close()
		return nil, fmt.Errorf("access lists: %w", err)
	}
	return m, nil
}

func newLists(c *ebpf.Collection) (*Lists, error) {
	l := &Lists{Events: c.DetachMap("events"), banks: c.DetachMap("banks"), judged: c.DetachMap("judged"), hits: c.DetachMap("hits")}
	if err := l.mapAll(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// OpenLists opens what lists and the guard have made of the entries of a table that was
// opened with OpenMemory; nil: nothing that says anything of them.
func OpenLists(dir string, m *Memory) (*Lists, error) {
	if atomic.LoadUint64(&m.Control.Lists) == 0 && atomic.LoadUint64(&m.Control.Guard)&GuardKept == 0 {
		return nil, nil
	}
	l := new(Lists)
	var err error
	for name, p := range map[string]**ebpf.Map{"judged": &l.judged, "hits": &l.hits} {
		if *p, err = ebpf.LoadPinnedMap(filepath.Join(dir, name), nil); err != nil {
			l.Close()
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			}
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	if n := len(m.Sets) * Ways; int(l.judged.MaxEntries()) != n {
		l.Close()
		return nil, fmt.Errorf("%s: judged has %d entries, the table %d", dir, l.judged.MaxEntries(), n)
	}
	if err := l.mapAll(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Lists) mapAll() error {
	for _, part := range []struct {
		m    *ebpf.Map
		size uintptr
		take func(b []byte, n int)
	}{
		{l.judged, unsafe.Sizeof(Judged{}), func(b []byte, n int) { l.Judged = mapped[Judged](b, n) }},
		{l.hits, unsafe.Sizeof(Hits{}), func(b []byte, n int) { l.Hits = mapped[Hits](b, n) }},
	} {
		n := int(part.m.MaxEntries())
		size := (n*int(part.size) + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1)
		b, err := unix.Mmap(part.m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("mapping %s: %w", part.m, err)
		}
		l.mappings = append(l.mappings, b)
		part.take(b, n)
	}
	return nil
}

// SetBank puts the words of a compiled policy (acl.Bank) in place of a bank. No
// program may have its number still: the word that tells it must have been
// another for a grace period.
func (l *Lists) SetBank(bank int, words []uint64) error {
	pages := max((len(words)+BankPage-1)/BankPage, 1)
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "weir_bank", Type: ebpf.Array, KeySize: 4, ValueSize: 8 * BankPage, MaxEntries: uint32(pages),
		Flags: unix.BPF_F_INNER_MAP | unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return fmt.Errorf("making a bank of %d MiB for access lists: %w", pages, err)
	}
	defer m.Close() // l.banks has it
	b, err := unix.Mmap(m.FD(), 0, 8*BankPage*pages, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping a bank: %w", err)
	}
	copy(mapped[uint64](b, BankPage*pages), words)
	if err := unix.Munmap(b); err != nil {
		return err
	}
	if err := l.banks.Put(uint32(bank), m); err != nil {
		return fmt.Errorf("handing the access lists to the kernel: %w", err)
	}
	return nil
}

// Bank reads the words of a bank; nil: it has none.
func (l *Lists) Bank(bank int) ([]uint64, error) {
	var id ebpf.MapID
	if err := l.banks.Lookup(uint32(bank), &id); errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	n := BankPage * int(m.MaxEntries())
	b, err := unix.Mmap(m.FD(), 0, 8*n, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(b)
	return append([]uint64(nil), mapped[uint64](b, n)...), nil
}

// Close unmaps and closes. What is pinned or attached lives on.
func (l *Lists) Close() error {
	if l == nil {
		return nil
	}
	var err error
	for _, b := range l.mappings {
		err = errors.Join(err, unix.Munmap(b))
	}
	l.mappings, l.Judged, l.Hits = nil, nil, nil
	for _, m := range []*ebpf.Map{l.Events, l.banks, l.judged, l.hits} {
		m.Close()
	}
	return err
}
