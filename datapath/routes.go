package datapath

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	"weir/bpf"
	"weir/hook"
	"weir/route"
)

// ErrNoForwarding is what errors.Is finds when no interface forwards.
var ErrNoForwarding = errors.New("nothing is forwarded here: no interface has `forward: on`")

// NextHop is one that the programs can send to.
type NextHop struct {
	Address   netip.Addr
	Interface uint32 // as routes have it
	Device    uint32 // frames are redirected to
	VLAN      uint16 // 0: untagged
	MAC       net.HardwareAddr
	MTU       uint16
	Alive     bool
	Flows     uint64 // in the table, by their last packet
}

// Fate is what became of packets that came in by an interface.
type Fate struct {
	Interface uint32
	Why       bpf.Why
	Packets   uint64 // since the table was made
	Flows     uint64 // in the table, by their last packet; of reasons that flows have
}

// Routes is the state of forwarding.
type Routes struct {
	NextHops []NextHop // by interface and address
	Fates    []Fate    // by interface and reason: every reason, zeros too
	Watch    route.Stats
}

// Routes reads the state of forwarding. It visits every entry of the table.
func (d *Datapath) Routes() (Routes, error) {
	d.life.RLock()
	defer d.life.RUnlock()
	if d.closed || d.forwarder == nil {
		return Routes{}, ErrNoForwarding
	}
	f := d.forwarder
	flows, kept := countWays(d.kernel().Memory())
	r := Routes{Watch: f.monitor.Snapshot()}
	f.mu.Lock()
	for k, row := range f.rows {
		if k.Ifindex == 0 {
			continue
		}
		h := &f.f.Hops[row]
		to, from := atomic.LoadUint64(&h.To), atomic.LoadUint64(&h.From)
		r.NextHops = append(r.NextHops, NextHop{
			Address: k.Address.Netip(), Interface: k.Ifindex, Device: h.Device, VLAN: uint16(from>>48) & 0xfff,
			MAC: octetsOfMAC(to), MTU: h.MTU, Alive: to>>48&bpf.HopAlive != 0, Flows: flows[row],
		})
	}
	f.mu.Unlock()
	slices.SortFunc(r.NextHops, func(a, b NextHop) int {
		if a.Interface != b.Interface {
			return int(a.Interface) - int(b.Interface)
		}
		return a.Address.Compare(b.Address)
	})
	for i, p := range d.plans {
		if !d.o.Interfaces[i].Forward.On || p.Mode == hook.AFPacket {
			continue
		}
		counts, err := d.fates(p.Ifindex)
		if err != nil {
			return r, err
		}
		for _, why := range bpf.AllWhys() {
			r.Fates = append(r.Fates, Fate{Interface: p.Ifindex, Why: why, Packets: counts[why], Flows: kept[wayAt{p.Ifindex, uint16(why)}]})
		}
	}
	return r, nil
}

// Watching is how many next hops there are, and what was heard of routes; false:
// nothing is forwarded.
func (d *Datapath) Watching() (hops int, heard route.Stats, ok bool) {
	d.life.RLock()
	defer d.life.RUnlock()
	if d.closed || d.forwarder == nil {
		return 0, heard, false
	}
	d.forwarder.mu.Lock()
	defer d.forwarder.mu.Unlock()
	for k := range d.forwarder.rows {
		if k.Ifindex != 0 {
			hops++
		}
	}
	return hops, d.forwarder.monitor.Snapshot(), true
}

// Fates is what became of the packets that came in by an interface; false: it does
// not forward.
func (d *Datapath) Fates(ifindex uint32) (counts bpf.WhyCounts, ok bool) {
	d.life.RLock()
	defer d.life.RUnlock()
	if d.closed || d.forwarder == nil || !d.forwardsAt(ifindex) {
		return counts, false
	}
	counts, err := d.fates(ifindex)
	return counts, err == nil
}

func (d *Datapath) forwardsAt(ifindex uint32) bool {
	return slices.ContainsFunc(d.o.Interfaces, func(i Interface) bool { return i.Index == ifindex && i.Forward.On })
}

func (d *Datapath) fates(ifindex uint32) (bpf.WhyCounts, error) {
	at := ports{d.kernel().Memory().Control}.find(ifindex)
	if at == nil {
		return bpf.WhyCounts{}, nil
	}
	return d.forwarder.f.Counts(uint16(at.Number))
}

type wayAt struct {
	input uint32
	way   uint16
}

// countWays counts the flows of each next hop, and those that are left to the kernel
// by interface and reason; flows that the programs forward are under bpf.Forwarded.
func countWays(m *bpf.Memory) (hops map[uint32]uint64, kept map[wayAt]uint64) {
	hops, kept = map[uint32]uint64{}, map[wayAt]uint64{}
	for i := range m.Sets[:m.Flows] {
		set := &m.Sets[i]
		for way := range set.Word {
			if atomic.LoadUint32(&set.Word[way])&^bpf.NewBit&bpf.StateMask != bpf.Live {
				continue
			}
			e := &set.Entry[way]
			to, asked := bpf.Way(atomic.LoadUint64(&e.Route))
			if !asked {
				continue
			}
			if to >= bpf.Whys {
				hops[uint32(to)]++
				to = uint16(bpf.Forwarded)
			}
			kept[wayAt{e.Key.Input, to}]++
		}
	}
	return hops, kept
}

func octetsOfMAC(word uint64) net.HardwareAddr {
	b := make([]byte, 8)
	native.PutUint64(b, word)
	return net.HardwareAddr(b[:6])
}
