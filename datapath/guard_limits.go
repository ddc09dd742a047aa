package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"weir/bpf"
	"weir/flow"
	"weir/guard"
)

// limitRow is a row of limits to be, of a profile.
type limitRow struct {
	profile int
	row     bpf.GuardLimit
}

// limits compiles profiles into rows, one for each interface, prefix and rule. What
// cannot be is left out and told of.
func (g *Guard) limits(list []guard.Profile) (rows []limitRow, err error) {
	var errs []error
	for i := range list {
		p := list[i].Whole()
		if err := p.Check(); err != nil {
			errs = append(errs, fmt.Errorf("flows.%s: %w", p.Name, err))
			continue
		}
		inputs, err := g.inputs(p.Interfaces)
		if err != nil {
			errs = append(errs, fmt.Errorf("flows.%s: %w", p.Name, err))
		}
		rules, err := g.numbers(p.Rules)
		if err != nil {
			errs = append(errs, fmt.Errorf("flows.%s: %w", p.Name, err))
		}
		prefixes := p.Prefixes
		if len(prefixes) == 0 {
			prefixes = []netip.Prefix{{}}
		}
		for _, input := range inputs {
			for _, prefix := range prefixes {
				for _, rule := range rules {
					var want, mask flow.Key
					if input != 0 {
						want.Input, mask.Input = input, ^uint32(0)
					}
					writePrefix(prefix, &want.Dst, &mask.Dst)
					r := bpf.GuardLimit{Want: wordsOf(&want), Mask: wordsOf(&mask), Used: 1, Rule: rule}
					rate(&p, &r, g.k.Memory().Meta.TickNs)
					rows = append(rows, limitRow{i, r})
				}
			}
		}
	}
	return rows, errors.Join(errs...)
}

// inputs are the numbers that keys have of interfaces; none are named: 0, which is any.
func (g *Guard) inputs(names []string) (list []uint32, err error) {
	if len(names) == 0 {
		return []uint32{0}, nil
	}
	if flow.KeyMask(g.k.Memory().Meta.KeyMode) == flow.Key5Tuple {
		return nil, errors.New("interfaces: with the key 5tuple flows are of none")
	}
	var errs []error
	for _, n := range names {
		if index, ok := g.index(n); ok {
			list = append(list, index)
		} else {
			errs = append(errs, fmt.Errorf("interfaces: %s is not metered by the kernel's programs", n))
		}
	}
	return list, errors.Join(errs...)
}

// numbers are those of access lists' rules; none are named: 0, which is any.
func (g *Guard) numbers(names []string) (list []uint16, err error) {
	if len(names) == 0 {
		return []uint16{0}, nil
	}
	var errs []error
	for _, n := range names {
		if number, ok := g.rule(n); ok {
			list = append(list, number)
		} else {
			errs = append(errs, fmt.Errorf("rules: there is no %s; accepted: LIST/SEQUENCE of a list that is in force", n))
		}
	}
	return list, errors.Join(errs...)
}

// rate writes a profile's rates into a row.
func rate(p *guard.Profile, r *bpf.GuardLimit, tick uint64) {
	const second = uint64(time.Second) >> bpf.GuardSlot << bpf.GuardCostShift
	if p.PPS > 0 {
		r.PacketCost = max(second/p.PPS, 1)
	}
	if p.BPS > 0 {
		r.ByteCost = max(8*second/p.BPS, 1)
	}
	r.What = whats[p.Do]
	r.Burst = uint32(max(uint64(p.Burst), 4*tick) >> bpf.GuardSlot)
	r.Hold, r.MaxHold = uint64(p.Hold), uint64(p.MaxHold)
}

// SetProfiles puts limits of single flows in force. Flows whose row in the list stays the
// same go on as they are.
func (g *Guard) SetProfiles(list []guard.Profile) error {
	unlock, err := g.open()
	if errors.Is(err, guard.ErrNoEnforcer) && len(list) == 0 {
		return nil
	} else if err != nil {
		return err
	}
	defer unlock()
	return g.writeLimits(slices.Clone(list))
}

// relist looks up again what rules are called.
func (g *Guard) relist() error {
	return g.unlessClosed(func() error { return g.writeLimits(g.profiles) })
}

// writeLimits puts what of a list can be in force; more than there is room for leaves all
// as it was.
func (g *Guard) writeLimits(list []guard.Profile) error {
	rows, err := g.limits(list)
	if len(rows) > bpf.GuardLimits {
		return errors.Join(err, fmt.Errorf("flows: the profiles make %d rows, each an interface, prefix and rule; up to %d would be accepted", len(rows), bpf.GuardLimits))
	}
	there := g.k.Guard.Limits
	g.profiles, g.of = list, g.of[:0]
	changed := false
	for i := range there {
		switch {
		case i >= len(rows):
			changed = changed || there[i].Used != 0
		case !sameLimit(&there[i], &rows[i].row):
			changed = true
		}
		if i < len(rows) {
			g.of = append(g.of, rows[i].profile)
		}
	}
	if !changed {
		return err
	}
	for i := range there {
		atomic.StoreUint32(&there[i].Used, 0)
	}
	g.move()
	if err := g.k.Grace(); err != nil {
		return fmt.Errorf("waiting for the kernel's programs: %w", err)
	}
	for i := range rows {
		next := rows[i].row
		if !sameLimit(&there[i], &next) { // else it goes on counting
			if err := g.k.Guard.ClearLimit(i); err != nil {
				return err
			}
		}
		next.Used = 0
		there[i] = next
	}
	for i := range rows {
		atomic.StoreUint32(&there[i].Used, 1)
	}
	g.move()
	return err
}

// sameLimit compares what the daemon writes, but for whether it is in use.
func sameLimit(a, b *bpf.GuardLimit) bool {
	return a.Want == b.Want && a.Mask == b.Mask && a.Rule == b.Rule && a.What == b.What && a.Burst == b.Burst &&
		a.PacketCost == b.PacketCost && a.ByteCost == b.ByteCost && a.Hold == b.Hold && a.MaxHold == b.MaxHold
}

// admitted is what may come at once, as time at the rate.
const admitted = 250 * time.Millisecond

// SetAdmission says how many flows may enter the table.
func (g *Guard) SetAdmission(a guard.Admission) error {
	unlock, err := g.open()
	if errors.Is(err, guard.ErrNoEnforcer) && a == (guard.Admission{}) {
		return nil
	} else if err != nil {
		return err
	}
	defer unlock()
	burst := max(uint64(admitted), 4*g.k.Memory().Meta.TickNs) << bpf.GuardUnit
	for gate, limit := range [bpf.Gates]uint64{bpf.GateCPU: a.CPU, bpf.GateSource: a.Source, bpf.GateDestination: a.Destination} {
		cost := uint64(0)
		if limit > 0 {
			cost = max(uint64(time.Second)<<bpf.GuardUnit/limit, 1)
		}
		atomic.StoreUint64(&g.k.Guard.Gates.Burst[gate], burst)
		atomic.StoreUint64(&g.k.Guard.Gates.Cost[gate], cost)
	}
	return nil
}

// Tolls are what limits and admission have counted.
func (g *Guard) Tolls() (t guard.Tolls, err error) {
	err = g.unlessClosed(func() error {
		for _, p := range g.profiles {
			t.Profiles = append(t.Profiles, guard.ProfileToll{Name: p.Name})
		}
		for i, of := range g.of {
			sum := &t.Profiles[of]
			l, err := g.k.Guard.LimitTally(i)
			if err != nil {
				return err
			}
			sum.Over.Packets += l.Packets + l.DroppedPackets // what is dropped is beyond, too
			sum.Over.Bytes += l.Bytes + l.DroppedBytes
			sum.Dropped.Packets += l.DroppedPackets
			sum.Dropped.Bytes += l.DroppedBytes
			sum.Held += l.Held
		}
		out, err := g.k.Guard.KeptOut()
		for gate, v := range [bpf.Gates]*guard.Volume{bpf.GateCPU: &t.CPU, bpf.GateSource: &t.Source, bpf.GateDestination: &t.Destination} {
			*v = guard.Volume{Packets: out[gate].Packets, Bytes: out[gate].Bytes}
		}
		return err
	})
	return t, err
}
