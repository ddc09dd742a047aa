package bpf

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Constants of flow.h.
const (
	GuardRules = 256
	GuardPorts = 8
	GuardKept  = 0x8000 // of Control.Guard: the programs keep Lists.Judged for it

	GuardCount  = 0 // of GuardRule.What
	GuardPolice = 1
	GuardDrop   = 2

	GuardFromPorts = 1 // of GuardRule.Flags
	GuardSYN       = 2 // of its flows, only TCP packets with SYN and without ACK

	guardLooks = 8 // at rules, for one packet

	GuardUnit      = 4  // bits: costs and bursts are in 1/16 ns
	GuardByteShift = 16 // bits that an octet's cost has more

	// MaxAllowed is how many prefixes the allow list may have.
	MaxAllowed = (1<<16 - 1) / 2
)

// GuardRule is a rule as the programs read it: flow.h says who writes what, and when.
type GuardRule struct {
	Want, Mask [11]uint32 // of a flow's key, as its words lie in memory
	SrcPorts   [GuardPorts]uint16
	Flags      uint32
	What       uint32
	ID         uint64
	Until      uint64 // ns of the kernel's clock; 0: the row is not in use

	PacketCost, ByteCost, Burst uint64
	PacketsAt, BytesAt          uint64 // the programs'
	PPS, BPS                    uint64 // the daemon's
	_                           uint64

	HitPackets, HitBytes         uint64 // the programs add
	DroppedPackets, DroppedBytes uint64
	_                            [4]uint64
}

// GuardRow is the row of the rule that hits a flow, by its entry's Rate[0]; false: none.
func GuardRow(rate uint64) (row int, hit bool) {
	n := int(rate >> 16 & 0xffff)
	return n - 1, n > 0
}

// SetGuard is the guard's kill switch.
func (c *Control) SetGuard(on bool) {
	off := uint32(1)
	if on {
		off = 0
	}
	atomic.StoreUint32(&c.GuardOff, off)
}

// GuardOn says how it stands.
func (c *Control) GuardOn() bool { return atomic.LoadUint32(&c.GuardOff) == 0 }

// WithControl lets do at the Control of the table in a folder. It needs nothing of the
// kernel but the maps that are there.
func WithControl(dir string, do func(*Control)) error {
	m, err := openPinned(dir)
	if err != nil {
		return err
	}
	defer m.close()
	meta, err := m.readMeta()
	if err != nil {
		return err
	}
	size := int(unsafe.Sizeof(Control{}))
	if meta.Layout != Layout || int(m.control.ValueSize()) != size {
		return fmt.Errorf("%s: %w: its layout is %d, this weir knows %d", dir, ErrIncompatible, meta.Layout, Layout)
	}
	b, err := unix.Mmap(m.control.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping %s: %w", m.control, err)
	}
	defer unix.Munmap(b)
	do(&mapped[Control](b, 1)[0])
	return nil
}

// Guard is what the programs have of the guard, beside the words in Control.
type Guard struct {
	Rules []GuardRule

	rules, allowed *ebpf.Map
	mapping        []byte
}

func (g *Guard) each(visit func(name string, m **ebpf.Map)) {
	visit("guard_rules", &g.rules)
	visit("guard_allowed", &g.allowed)
}

// openGuard opens the maps in a folder, or makes and pins them.
func openGuard(dir string, spec *ebpf.CollectionSpec) (*Guard, error) {
	g := new(Guard)
	var err error
	g.each(func(name string, p **ebpf.Map) {
		if err == nil {
			*p, err = openBeside(dir, name, spec.Maps[name])
		}
	})
	if err == nil {
		g.mapping, err = unix.Mmap(g.rules.FD(), 0, GuardRules*int(unsafe.Sizeof(GuardRule{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		g.Close()
		return nil, fmt.Errorf("the guard's rules: %w", err)
	}
	g.Rules = mapped[GuardRule](g.mapping, GuardRules)
	return g, nil
}

// SetAllowed makes list the sources and destinations that no rule hits.
func (g *Guard) SetAllowed(list []netip.Prefix) error {
	if len(list) > MaxAllowed {
		return fmt.Errorf("%d prefixes; up to %d would be accepted", len(list), MaxAllowed)
	}
	return SetPrefixes(g.allowed, list)
}

// Close unmaps and closes. What is pinned or attached lives on.
func (g *Guard) Close() error {
	if g == nil {
		return nil
	}
	var err error
	if g.mapping != nil {
		err = unix.Munmap(g.mapping)
	}
	g.mapping, g.Rules = nil, nil
	g.each(func(_ string, m **ebpf.Map) {
		(*m).Close()
		*m = nil
	})
	return err
}
