package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Constants of flow.h.
const (
	GuardRules = 256
	GuardPorts = 8
	GuardMarks = 0x1000 // of Control.Guard: who enters is marked in There
	GuardBank  = 0x2000 // the bank in use is the second
	GuardFlood = 0x4000 // the bank is asked
	GuardKept  = 0x8000 // of Control.Guard: the programs keep Lists.Judged for it

	GuardTold    = GuardMarks | GuardBank | GuardFlood | guardLeftOut<<16 | guardLeftOut<<21 // of Control.Guard: all of There
	guardLeftOut = 0x1f                                                                      // of Control.Guard, five bits for each bank from bit 16 on

	GuardCount  = 0 // of GuardRule.What
	GuardPolice = 1
	GuardDrop   = 2

	GuardFromPorts = 1 // of GuardRule.Flags
	GuardSYN       = 2 // of its flows, only TCP packets with SYN and without ACK
	GuardNew       = 4 // only packets whose flow is not in the table

	guardLooks = 8 // at rules, for one packet

	GuardUnit      = 4  // bits: costs and bursts are in 1/16 ns
	GuardByteShift = 16 // bits that an octet's cost has more

	GuardLimits    = 128
	GuardSlot      = 8  // bits: of limits, units are 256 ns
	GuardCostShift = 24 // bits that costs have more

	GuardTagWords  = 262144 // of a bank of There
	GuardNearWords = 6144

	guardHeld    = 0x80
	guardBuckets = 1 << 15

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
	PacketsAt, BytesAt          uint64    // the programs'
	PPS, BPS                    uint64    // the daemon's
	Carried                     [6]uint64 // the daemon's: what programs at another table have counted, as GuardTally begins
	_                           uint64
}

// GuardLimit is what single flows may send, as the programs read it: flow.h says who
// writes what, and when.
type GuardLimit struct {
	Want, Mask           [11]uint32 // of a flow's key, as its words lie in memory
	Used                 uint32     // 0: the row is not
	Rule                 uint16     // of a list; 0: of all
	_                    uint16
	What, Burst          uint32
	PacketCost, ByteCost uint64
	Hold, MaxHold        uint64
	_                    [7]uint64
}

// GuardTally is what the programs have counted of a rule or of limits.
type GuardTally struct {
	Packets, Bytes               uint64 // of a rule: that it hit; of limits: beyond them, and let pass
	DroppedPackets, DroppedBytes uint64
	RefusedPackets, RefusedBytes uint64 // of those, what is in no flow but in an aggregate
	Held                         uint64 // how often a flow's hold began
	_                            uint64
}

// Gate is a reason not to let a flow into the table.
type Gate int

// The gates, as enum gate.
const (
	GateCPU Gate = iota
	GateSource
	GateDestination
	Gates
)

// GuardGates say how many flows may enter the table.
type GuardGates struct {
	Cost, Burst [Gates]uint64
	_           [2]uint64
}

type guardGateCPU struct {
	At             uint64
	Packets, Bytes [Gates]uint64
	_              uint64
}

// GuardHeld says whether all packets of a flow are stopped for a while, by its entry's
// Rate[0].
func GuardHeld(rate uint64) bool { return rate&guardHeld != 0 }

// GuardRow is the row of the rule that hits a flow, by its entry's Rate[0]; false: none.
func GuardRow(rate uint64) (row int, hit bool) {
	n := int(rate >> 16 & 0xffff)
	return n - 1, n > 0
}

// WithGuardLeftOut is Control.Guard with how many bits of a tag a bank of There leaves out.
func WithGuardLeftOut(word uint64, bank, n int) uint64 {
	at := 16 + 5*bank
	return word&^(guardLeftOut<<at) | uint64(n)<<at
}

// GuardMarksOf are the bits of an entry in a bank of There, by Set.Word.
func GuardMarksOf(word uint32, leftOut int) [2]uint32 {
	tag := word >> 8
	return [2]uint32{tag >> leftOut, tag * mixer >> 8 >> leftOut}
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
	Rules  []GuardRule
	Limits []GuardLimit
	Gates  *GuardGates
	There  [2][]uint64 // by the tags of Set.Word, a bit each: who may be in the table

	near                                                                []uint64
	rules, limits, tallies, there, gates, cpus, buckets, allowed, nears *ebpf.Map
	mappings                                                            [][]byte
}

func (g *Guard) each(visit func(name string, m **ebpf.Map)) {
	visit("guard_rules", &g.rules)
	visit("guard_limits", &g.limits)
	visit("guard_tallies", &g.tallies)
	visit("guard_there", &g.there)
	visit("guard_gates", &g.gates)
	visit("guard_gate_cpus", &g.cpus)
	visit("guard_buckets", &g.buckets)
	visit("guard_allowed", &g.allowed)
	visit("guard_near", &g.nears)
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
		err = g.mapAll()
	}
	if err != nil {
		g.Close()
		return nil, fmt.Errorf("the guard's rules: %w", err)
	}
	return g, nil
}

// OpenGuard opens what is pinned of a guard beside a table; nil: it had none.
func OpenGuard(dir string) (*Guard, error) {
	g := new(Guard)
	var err error
	g.each(func(name string, p **ebpf.Map) {
		if err == nil {
			*p, err = ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		}
	})
	if err == nil {
		err = g.mapAll()
	}
	switch {
	case err == nil:
		return g, nil
	case g.rules == nil && errors.Is(err, fs.ErrNotExist):
		return nil, nil
	}
	g.Close()
	return nil, fmt.Errorf("%s: the guard's rules: %w", dir, err)
}

func (g *Guard) mapAll() error {
	for _, part := range []struct {
		m    *ebpf.Map
		size uintptr
		take func([]byte)
	}{
		{g.rules, GuardRules * unsafe.Sizeof(GuardRule{}), func(b []byte) { g.Rules = mapped[GuardRule](b, GuardRules) }},
		{g.limits, GuardLimits * unsafe.Sizeof(GuardLimit{}), func(b []byte) { g.Limits = mapped[GuardLimit](b, GuardLimits) }},
		{g.there, 2 * GuardTagWords * 8, func(b []byte) {
			all := mapped[uint64](b, 2*GuardTagWords)
			g.There = [2][]uint64{all[:GuardTagWords], all[GuardTagWords:]}
		}},
		{g.nears, GuardNearWords * 8, func(b []byte) { g.near = mapped[uint64](b, GuardNearWords) }},
		{g.gates, unsafe.Sizeof(GuardGates{}), func(b []byte) { g.Gates = &mapped[GuardGates](b, 1)[0] }},
	} {
		b, err := unix.Mmap(part.m.FD(), 0, int(part.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("mapping %s: %w", part.m, err)
		}
		g.mappings = append(g.mappings, b)
		part.take(b)
	}
	return nil
}

// KeptOut sums up over all CPUs what gates kept out of the table.
func (g *Guard) KeptOut() (sum [Gates]Count, err error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return sum, err
	}
	each := make([]guardGateCPU, cpus)
	if err := g.cpus.Lookup(uint32(0), &each); err != nil {
		return sum, fmt.Errorf("reading what gates kept out: %w", err)
	}
	for i := range each {
		for k := range sum {
			sum[k].Packets += each[i].Packets[k]
			sum[k].Bytes += each[i].Bytes[k]
		}
	}
	return sum, nil
}

// RuleTally is what came of the rule in a row, LimitTally of limits.
func (g *Guard) RuleTally(row int) (GuardTally, error) {
	t, err := g.tally(row)
	was := &g.Rules[row].Carried
	for i, n := range [...]*uint64{&t.Packets, &t.Bytes, &t.DroppedPackets, &t.DroppedBytes, &t.RefusedPackets, &t.RefusedBytes} {
		*n += atomic.LoadUint64(&was[i])
	}
	return t, err
}

func (g *Guard) LimitTally(row int) (GuardTally, error) { return g.tally(GuardRules + row) }

func (g *Guard) tally(at int) (sum GuardTally, err error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return sum, err
	}
	each := make([]GuardTally, cpus)
	if err := g.tallies.Lookup(uint32(at), &each); err != nil {
		return sum, fmt.Errorf("reading what the guard has counted: %w", err)
	}
	for _, t := range each {
		sum.Packets += t.Packets
		sum.Bytes += t.Bytes
		sum.DroppedPackets += t.DroppedPackets
		sum.DroppedBytes += t.DroppedBytes
		sum.RefusedPackets += t.RefusedPackets
		sum.RefusedBytes += t.RefusedBytes
		sum.Held += t.Held
	}
	return sum, nil
}

// ClearRule and ClearLimit begin to count anew in a row that is not in use.
func (g *Guard) ClearRule(row int) error  { return g.clear(row) }
func (g *Guard) ClearLimit(row int) error { return g.clear(GuardRules + row) }

func (g *Guard) clear(at int) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	if err := g.tallies.Put(uint32(at), make([]GuardTally, cpus)); err != nil {
		return fmt.Errorf("emptying what the guard has counted: %w", err)
	}
	return nil
}

// SetAllowed makes list the sources and destinations that no rule hits.
func (g *Guard) SetAllowed(list []netip.Prefix) error {
	if len(list) > MaxAllowed {
		return fmt.Errorf("%d prefixes; up to %d would be accepted", len(list), MaxAllowed)
	}
	near := nearOf(list)
	for i := range g.near {
		atomic.OrUint64(&g.near[i], near[i])
	}
	if err := SetPrefixes(g.allowed, list); err != nil {
		return err
	}
	for i := range g.near {
		atomic.StoreUint64(&g.near[i], near[i])
	}
	return nil
}

// The parts of guard_near: enum near.
const (
	nearWide4  = 0
	nearClose4 = 1 << 16
	nearExact4 = 2 << 16
	nearWide6  = 3 << 16
	nearClose6 = 4 << 16
	nearExact6 = 5 << 16
)

// Allowed are they.
func (g *Guard) Allowed() (list []netip.Prefix, err error) {
	var k prefixKey
	var v uint8
	all := g.allowed.Iterate()
	for all.Next(&k, &v) {
		if v != 0 {
			list = append(list, k.prefix())
		}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("reading the guard's allow list: %w", err)
	}
	return list, nil
}

// nearOf has the bits of all addresses in list, as flow.h tells.
func nearOf(list []netip.Prefix) *[GuardNearWords]uint64 {
	near := new([GuardNearWords]uint64)
	set := func(part, bit uint32) { near[(part+bit)/64] |= 1 << (bit % 64) }
	for _, p := range list {
		k := prefixKeyOf(p)
		a, bits := k.Addr[:], int(k.Bits)
		if k.Addr.Is4() && k.Bits >= allOfIPv4.Bits {
			a, bits = a[12:], bits-int(allOfIPv4.Bits)
		}
		switch {
		case len(a) == 4 && bits <= 16:
			eachWithin(a, bits, 16, func(w uint32) { set(nearWide4, w) })
		case len(a) == 4 && bits <= 24:
			eachWithin(a, bits, 24, func(w uint32) { set(nearClose4, w*mixer>>16) })
		case len(a) == 4:
			eachWithin(a, bits, 32, func(w uint32) { set(nearExact4, w*mixer>>16) })
		case bits < 16: // more of them than there are bits
			for bit := range uint32(1 << 16) {
				set(nearWide6, bit)
			}
		case bits < 64:
			eachWithin(a, bits, 32, func(w uint32) { set(nearWide6, w*mixer>>16) })
		default:
			half := mixed(mixed(0, a), a[4:])
			if bits < 128 {
				set(nearClose6, half>>16)
			} else {
				set(nearExact6, mixed(mixed(half, a[8:]), a[12:])>>16)
			}
		}
	}
	return near
}

func mixed(with uint32, a []byte) uint32 { return (with ^ binary.LittleEndian.Uint32(a)) * mixer }

// eachWithin calls do for each prefix of length n, up to 32, that is in the one of bits at
// a, or has it: its octets as a word in memory, the others 0.
func eachWithin(a []byte, bits, n int, do func(word uint32)) {
	first := binary.BigEndian.Uint32(a) >> (32 - n)
	for i := range uint32(1) << max(n-bits, 0) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], (first+i)<<(32-n))
		do(binary.LittleEndian.Uint32(b[:]))
	}
}

// Close unmaps and closes. What is pinned or attached lives on.
func (g *Guard) Close() error {
	if g == nil {
		return nil
	}
	var err error
	for _, b := range g.mappings {
		err = errors.Join(err, unix.Munmap(b))
	}
	g.mappings, g.Rules, g.Limits, g.Gates, g.There, g.near = nil, nil, nil, nil, [2][]uint64{}, nil
	g.each(func(_ string, m **ebpf.Map) {
		(*m).Close() // nil, too
		*m = nil
	})
	return err
}
