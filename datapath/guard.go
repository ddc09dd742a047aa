package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"weir/bpf"
	"weir/flow"
	"weir/guard"
	"weir/hook"
)

// Guard carries out the guard's rules in the kernel's programs (guard.Enforcer). Rules
// end in the kernel; what is in force stays so without this process.
type Guard struct {
	k *bpf.Kernel

	index func(name string) (ifindex uint32, metered bool)
	rule  func(name string) (number uint16, known bool) // of an access list

	mu       sync.Mutex // one change at a time; and Close waits
	closed   bool
	profiles []guard.Profile
	of       []int // by a row of limits: the profile

	// Admission keeps many flows out of the table, or did some looks ago: see refresh.
	crowded    bool
	sinceCrowd int
	keptOut    uint64
}

// isOpening says whether a rule stops what opens flows, so that it does not get into the
// table.
func isOpening(flags uint32) bool { return flags&(bpf.GuardNew|bpf.GuardSYN) != 0 }

// policeBurst is what may come at once at a policed rate, as time at it.
const policeBurst = 100 * time.Millisecond

// newGuard takes over what an earlier process has left in force.
func newGuard(k *bpf.Kernel, index func(string) (uint32, bool), rule func(string) (uint16, bool)) *Guard {
	g := &Guard{k: k, index: index, rule: rule, sinceCrowd: crowdOver}
	g.move()
	return g
}

// leaveGuard is for programs that have no guard: what they keep beside entries is not
// kept for it.
func leaveGuard(c *bpf.Control) {
	atomic.StoreUint64(&c.Guard, atomic.LoadUint64(&c.Guard)>>32<<32)
}

// rowKey is a flow's key as the programs compare it.
type rowKey [11]uint32

func wordsOf(k *flow.Key) rowKey { return *(*rowKey)(unsafe.Pointer(k)) }
func keyFrom(w rowKey) flow.Key  { return *(*flow.Key)(unsafe.Pointer(&w)) }

var _ = [1]struct{}{}[unsafe.Sizeof(flow.Key{})-unsafe.Sizeof(rowKey{})]

// keyedBy is a flow's key as a table of a key mode has it.
func keyedBy(k flow.Key, mode flow.KeyMask) flow.Key {
	if mode == flow.Key5Tuple {
		k.Input, k.TOS = 0, 0
		k.VLAN &= flow.KeyIPv6 | flow.KeyFragment | flow.KeyInner
	}
	return k
}

func (g *Guard) mode() flow.KeyMask { return flow.KeyMask(g.k.Memory().Meta.KeyMode) }

// compile writes what a rule hits into a row.
func compile(m *guard.Match, mode flow.KeyMask, r *bpf.GuardRule) error {
	var want, mask flow.Key
	switch {
	case m.Flow != nil:
		want = keyedBy(*m.Flow, mode)
		for i := range r.Mask {
			r.Mask[i] = ^uint32(0)
		}
		r.Want = wordsOf(&want)
		return nil
	case m.SYN && m.Proto != 0 && m.Proto != flow.ProtoTCP:
		return fmt.Errorf("%w: a SYN of protocol %d", guard.ErrUnsupported, m.Proto)
	case len(m.SrcPorts) > bpf.GuardPorts:
		return fmt.Errorf("%w: %d source ports, up to %d can be", guard.ErrUnsupported, len(m.SrcPorts), bpf.GuardPorts)
	case m.Dst.IsValid() && m.Src.IsValid() && m.Dst.Addr().Is4() != m.Src.Addr().Is4():
		return fmt.Errorf("%w: from %v to %v", guard.ErrUnsupported, m.Src, m.Dst)
	}
	writePrefix(m.Dst, &want.Dst, &mask.Dst)
	writePrefix(m.Src, &want.Src, &mask.Src)
	if m.SYN {
		r.Flags |= bpf.GuardSYN
		want.Proto, mask.Proto = flow.ProtoTCP, 0xff
	}
	if m.New {
		r.Flags |= bpf.GuardNew
	}
	if m.Proto != 0 {
		want.Proto, mask.Proto = m.Proto, 0xff
	}
	if m.DstPort != 0 {
		want.DstPort, mask.DstPort = m.DstPort, 0xffff
	}
	if m.Fragments {
		want.VLAN, mask.VLAN = flow.KeyFragment, flow.KeyFragment
	}
	if len(m.SrcPorts) > 0 {
		r.Flags |= bpf.GuardFromPorts
		for i := range r.SrcPorts {
			r.SrcPorts[i] = m.SrcPorts[min(i, len(m.SrcPorts)-1)]
		}
	}
	r.Want, r.Mask = wordsOf(&want), wordsOf(&mask)
	return nil
}

func writePrefix(p netip.Prefix, want, mask *flow.Addr) {
	if !p.IsValid() {
		return
	}
	p = p.Masked()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	*want = flow.AddrFrom(p.Addr())
	for i := range mask {
		mask[i] = ^byte(0) << (8 - min(max(bits-8*i, 0), 8))
	}
}

// match reads back what a row hits.
func match(r *bpf.GuardRule) (m guard.Match) {
	want, mask := keyFrom(r.Want), keyFrom(r.Mask)
	if mask.Input != 0 {
		return guard.Match{Flow: &want, Dst: netip.PrefixFrom(want.Dst.Netip(), want.Dst.Netip().BitLen()), Src: netip.PrefixFrom(want.Src.Netip(), want.Src.Netip().BitLen()), Proto: want.Proto}
	}
	m = guard.Match{
		Dst: prefixOf(want.Dst, mask.Dst), Src: prefixOf(want.Src, mask.Src), Proto: want.Proto, DstPort: want.DstPort,
		Fragments: want.VLAN&flow.KeyFragment != 0, SYN: r.Flags&bpf.GuardSYN != 0, New: r.Flags&bpf.GuardNew != 0,
	}
	if r.Flags&bpf.GuardFromPorts != 0 {
		m.SrcPorts = slices.Clone(r.SrcPorts[:])
		slices.Sort(m.SrcPorts)
		m.SrcPorts = slices.Compact(m.SrcPorts)
	}
	return m
}

func prefixOf(want, mask flow.Addr) netip.Prefix {
	bits := 0
	for _, b := range mask {
		for ; b != 0; b <<= 1 {
			bits++
		}
	}
	switch {
	case bits == 0:
		return netip.Prefix{}
	case want.Is4() && bits >= 96:
		return netip.PrefixFrom(want.Netip(), bits-96)
	}
	return netip.PrefixFrom(netip.AddrFrom16(want), bits)
}

var whats = [...]uint32{guard.Count: bpf.GuardCount, guard.Police: bpf.GuardPolice, guard.Drop: bpf.GuardDrop}

// rates writes what a rule does.
func (g *Guard) rates(rule *guard.Rule, r *bpf.GuardRule) {
	const second = uint64(time.Second) << bpf.GuardUnit
	var packet, octet uint64
	if rule.Do == guard.Police && rule.PPS > 0 {
		packet = max(second/rule.PPS, 1)
	}
	if rule.Do == guard.Police && rule.BPS > 0 {
		octet = min(max(8*second<<bpf.GuardByteShift/rule.BPS, 1), 1<<44) // so that a buffer's cost has room in 64 bits
	}
	burst := max(uint64(policeBurst), 4*g.k.Memory().Meta.TickNs) << bpf.GuardUnit
	for _, w := range []struct {
		at *uint64
		v  uint64
	}{{&r.PacketCost, packet}, {&r.ByteCost, octet}, {&r.Burst, burst}, {&r.PPS, rule.PPS}, {&r.BPS, rule.BPS}} {
		atomic.StoreUint64(w.at, w.v)
	}
	atomic.StoreUint32(&r.What, whats[rule.Do])
}

// Can says why m cannot be matched.
func (g *Guard) Can(m *guard.Match) error { return compile(m, g.mode(), new(bpf.GuardRule)) }

// errClosedGuard is for who asks after Close.
var errClosedGuard = fmt.Errorf("the metering has stopped: %w", guard.ErrNoEnforcer)

func (g *Guard) open() (unlock func(), err error) {
	if g == nil {
		return nil, guard.ErrNoEnforcer
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil, errClosedGuard
	}
	return g.mu.Unlock, nil
}

// unlessClosed runs do unless the metering has stopped, when nothing is in force here.
func (g *Guard) unlessClosed(do func() error) error {
	unlock, err := g.open()
	if errors.Is(err, guard.ErrNoEnforcer) {
		return nil
	}
	defer unlock()
	return do()
}

func (g *Guard) close() {
	if g == nil {
		return
	}
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
}

// offset is by what Unix time is ahead of the kernel's clock, and that clock now.
func (g *Guard) offset() (offset int64, clock uint64, err error) {
	clock, mono, err := g.k.Now()
	return wall(mono) - int64(clock), clock, err
}

// Install puts a rule in force. One with its ID goes on counting if it hits the same.
func (g *Guard) Install(rule guard.Rule) error {
	unlock, err := g.open()
	if err != nil {
		return err
	}
	defer unlock()
	var next bpf.GuardRule
	if err := compile(&rule.Match, g.mode(), &next); err != nil {
		return err
	}
	if rule.Do == guard.Police && rule.PPS == 0 && rule.BPS == 0 {
		return errors.New("a rule that polices has no rate")
	}
	offset, clock, err := g.offset()
	if err != nil {
		return err
	}
	until := rule.Until - offset
	if until <= int64(clock) {
		return errors.New("the rule's time is over already")
	}
	if at := g.find(rule.ID); at >= 0 {
		old := &g.k.Guard.Rules[at]
		if old.Want == next.Want && old.Mask == next.Mask && old.Flags == next.Flags && old.SrcPorts == next.SrcPorts {
			g.rates(&rule, old)
			over := atomic.LoadUint64(&old.Until) <= clock
			atomic.StoreUint64(&old.Until, uint64(until))
			if over { // flows have been told that it hits them no more
				g.move()
			}
			return nil
		}
		if err := g.free(old); err != nil {
			return err
		}
	}
	at, err := g.room(clock)
	if err != nil {
		return err
	}
	if err := g.k.Guard.ClearRule(at); err != nil {
		return err
	}
	row := &g.k.Guard.Rules[at]
	if isOpening(next.Flags) {
		if err := g.markThere(); err != nil {
			return err
		}
	}
	g.rates(&rule, &next)
	next.ID = rule.ID
	*row = next
	atomic.StoreUint64(&row.Until, uint64(until))
	g.move()
	return nil
}

// find is the row of a rule; -1: there is none.
func (g *Guard) find(id uint64) int {
	for i := range g.k.Guard.Rules {
		if r := &g.k.Guard.Rules[i]; r.ID == id && atomic.LoadUint64(&r.Until) != 0 {
			return i
		}
	}
	return -1
}

// room is a row that is not in use; those of rules that are over are.
func (g *Guard) room(clock uint64) (int, error) {
	for i := range g.k.Guard.Rules {
		r := &g.k.Guard.Rules[i]
		until := atomic.LoadUint64(&r.Until)
		if until > clock {
			continue
		}
		if until == 0 {
			return i, nil
		}
		return i, g.free(r)
	}
	return -1, fmt.Errorf("there is room for %d rules of the guard, and so many are in force", bpf.GuardRules)
}

// free takes a rule out of force, and lets its row go when no program can still be at it.
func (g *Guard) free(r *bpf.GuardRule) error {
	atomic.StoreUint64(&r.Until, 0)
	g.move()
	if err := g.k.Grace(); err != nil {
		return fmt.Errorf("waiting for the kernel's programs: %w", err)
	}
	return nil
}

// move makes flows ask the rules anew. It comes after what has changed.
func (g *Guard) move() {
	rows, flood := 0, g.crowded
	for i := range g.k.Guard.Rules {
		if r := &g.k.Guard.Rules[i]; atomic.LoadUint64(&r.Until) != 0 {
			rows = i + 1
			flood = flood || isOpening(r.Flags)
		}
	}
	c := &g.k.Memory().Control.Guard
	generation := uint32(atomic.LoadUint64(c)>>32) + 1
	if generation == 0 { // flows that never asked have that
		generation = 1
	}
	word := uint64(generation)<<32 | bpf.GuardKept | uint64(rows)
	if flood {
		word |= atomic.LoadUint64(c) & bpf.GuardTold
	}
	atomic.StoreUint64(c, word)
}

// Lift ends a rule.
func (g *Guard) Lift(id uint64) error {
	return g.unlessClosed(func() error {
		if at := g.find(id); at >= 0 {
			return g.free(&g.k.Guard.Rules[at])
		}
		return nil
	})
}

// Rules are those in force.
func (g *Guard) Rules() (all []guard.Installed, err error) {
	err = g.unlessClosed(func() error {
		offset, clock, err := g.offset()
		if err != nil {
			return err
		}
		for i := range g.k.Guard.Rules {
			r := &g.k.Guard.Rules[i]
			until := atomic.LoadUint64(&r.Until)
			if until <= clock {
				continue
			}
			n, err := g.k.Guard.RuleTally(i)
			if err != nil {
				return err
			}
			all = append(all, guard.Installed{
				Rule:    guard.Rule{ID: r.ID, Match: match(r), Do: guard.Do(atomic.LoadUint32(&r.What)), PPS: r.PPS, BPS: r.BPS, Until: int64(until) + offset},
				Hit:     guard.Volume{Packets: n.Packets, Bytes: n.Bytes},
				Dropped: guard.Volume{Packets: n.DroppedPackets, Bytes: n.DroppedBytes},
				Refused: guard.Volume{Packets: n.RefusedPackets, Bytes: n.RefusedBytes},
			})
		}
		return nil
	})
	return all, err
}

// Allow names what no rule hits.
func (g *Guard) Allow(list []netip.Prefix) error {
	return g.unlessClosed(func() error {
		if err := g.k.Guard.SetAllowed(list); err != nil {
			return err
		}
		g.move()
		return nil
	})
}

// SetOn is the kill switch.
func (g *Guard) SetOn(on bool) error {
	return g.unlessClosed(func() error {
		g.k.Memory().Control.SetGuard(on)
		return nil
	})
}

// On says how it stands.
func (g *Guard) On() (on bool, err error) {
	on = true
	err = g.unlessClosed(func() error {
		on = g.k.Memory().Control.GuardOn()
		return nil
	})
	return on, err
}

// GuardSwitch is the kill switch of what is pinned, whether or not a daemon runs.
type GuardSwitch struct{ o hook.Options }

// OpenGuardSwitch finds what is pinned in this network namespace; nothing is an error:
// guard.ErrNoEnforcer.
func OpenGuardSwitch(o hook.Options) (*GuardSwitch, error) {
	s := &GuardSwitch{o}
	return s, s.each(func(*bpf.Control) {})
}

// SetOn sets the switch of all tables that are there: programs may still be at an older.
func (s *GuardSwitch) SetOn(on bool) error {
	return s.each(func(c *bpf.Control) { c.SetGuard(on) })
}

// On says how the one in use stands.
func (s *GuardSwitch) On() (on bool, err error) {
	err = s.each(func(c *bpf.Control) { on = c.GuardOn() })
	return on, err
}

func (s *GuardSwitch) each(do func(*bpf.Control)) error {
	var found []*table
	err := hook.In(s.o, func(dir string) (err error) {
		if found, err = tables(dir); err != nil {
			return err
		}
		for _, t := range found {
			err = errors.Join(err, bpf.WithControl(t.dir, do))
		}
		return err
	})
	switch {
	case len(found) > 0, errors.Is(err, fs.ErrPermission):
		return err
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return guard.ErrNoEnforcer
	}
	return fmt.Errorf("%w (%w)", guard.ErrNoEnforcer, err)
}
