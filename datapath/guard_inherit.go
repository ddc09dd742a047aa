package datapath

import (
	"fmt"
	"slices"
	"sync/atomic"

	"weir/bpf"
)

// inheritGuard puts in force, before programs see a packet, what an older table's have in
// force: what they drop is dropped from the first packet on, whichever daemon made them.
// settle is for when the programs have changed: it carries over what the older counted
// until then.
func (d *Datapath) inheritGuard() (settle func(), err error) {
	settle = func() {}
	for _, t := range slices.Backward(d.old) {
		old, err := bpf.OpenGuard(t.dir)
		if err != nil {
			return settle, err
		}
		if old == nil {
			continue
		}
		rows, err := d.guard.inherit(t.maps.Memory().Control, old)
		if err != nil {
			old.Close()
			return settle, err
		}
		return func() {
			defer old.Close()
			err := d.kernel().Grace()
			for _, row := range rows {
				if err == nil {
					err = d.guard.carry(old, row)
				}
			}
			if err != nil {
				d.log.Warn("what the guard's rules had counted does not go over", "error", err)
			}
		}, nil
	}
	return settle, nil
}

// inherit puts in force what old has. The limits of single flows are the configuration's,
// and come with it.
func (g *Guard) inherit(c *bpf.Control, old *bpf.Guard) (rows []int, err error) {
	unlock, err := g.open()
	if err != nil {
		return nil, err
	}
	defer unlock()
	allowed, err := old.Allowed()
	if err == nil {
		err = g.k.Guard.SetAllowed(allowed)
	}
	if err != nil {
		return nil, err
	}
	g.k.Memory().Control.SetGuard(c.GuardOn())
	for i := range g.k.Guard.Gates.Cost {
		atomic.StoreUint64(&g.k.Guard.Gates.Burst[i], atomic.LoadUint64(&old.Gates.Burst[i]))
		atomic.StoreUint64(&g.k.Guard.Gates.Cost[i], atomic.LoadUint64(&old.Gates.Cost[i]))
	}
	_, clock, err := g.offset()
	if err != nil {
		return nil, err
	}
	opening := false
	for i := range old.Rules {
		until := atomic.LoadUint64(&old.Rules[i].Until)
		if until <= clock {
			continue
		}
		next := old.Rules[i]
		if m := match(&next); m.Flow != nil {
			key := keyedBy(*m.Flow, g.mode())
			next.Want = wordsOf(&key)
		}
		next.Until = 0
		g.k.Guard.Rules[i] = next
		rows = append(rows, i)
		opening = opening || isOpening(next.Flags)
		if err := g.carry(old, i); err != nil {
			return nil, err
		}
	}
	if opening {
		if err := g.markThere(); err != nil {
			return nil, err
		}
	}
	for _, i := range rows {
		atomic.StoreUint64(&g.k.Guard.Rules[i].Until, atomic.LoadUint64(&old.Rules[i].Until))
	}
	g.move()
	return rows, nil
}

// carry takes over what programs at an older table have counted of a rule.
func (g *Guard) carry(old *bpf.Guard, row int) error {
	n, err := old.RuleTally(row)
	if err != nil {
		return fmt.Errorf("row %d: %w", row, err)
	}
	to := &g.k.Guard.Rules[row].Carried
	for i, n := range [...]uint64{n.Packets, n.Bytes, n.DroppedPackets, n.DroppedBytes, n.RefusedPackets, n.RefusedBytes} {
		atomic.StoreUint64(&to[i], n)
	}
	return nil
}
