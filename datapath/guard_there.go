package datapath

import (
	"sync/atomic"

	"weir/bpf"
)

// While a rule of new flows is in force, the programs tell by a bit whether a flow may be
// in the table: a flood of those that are not costs them no look at it. A bank of bits
// lacks none of an entry that can be found, at any moment: who enters marks both banks
// first; one that is emptied is not in use until all entries are in it; and between
// emptying and looking at entries a grace period lets programs publish those whose marks
// may have been emptied away. Marks of flows that are gone cost a look.

// markThere makes the programs ask the banks.
func (g *Guard) markThere() error {
	c := &g.k.Memory().Control.Guard
	if atomic.LoadUint64(c)&bpf.GuardMarks == 0 {
		atomic.StoreUint64(c, atomic.LoadUint64(c)|bpf.GuardMarks)
		if err := g.k.Grace(); err != nil {
			return err
		}
	}
	return g.fillThere()
}

// fillThere fills the bank that is not in use, and changes over.
func (g *Guard) fillThere() error {
	m := g.k.Memory()
	c := &m.Control.Guard
	next := 1
	if atomic.LoadUint64(c)&bpf.GuardBank != 0 {
		next = 0
	}
	bank := g.k.Guard.There[next]
	for i := range bank {
		atomic.StoreUint64(&bank[i], 0)
	}
	if err := g.k.Grace(); err != nil {
		return err
	}
	for i := range m.Sets[:m.Flows] {
		for way := range m.Sets[i].Word {
			w := atomic.LoadUint32(&m.Sets[i].Word[way])
			switch w & bpf.StateMask {
			case bpf.Free:
			default:
				atomic.OrUint64(&bank[w>>8/64], 1<<(w>>8%64))
			}
		}
	}
	word := atomic.LoadUint64(c)&^bpf.GuardBank | bpf.GuardFlood
	if next == 1 {
		word |= bpf.GuardBank
	}
	atomic.StoreUint64(c, word)
	return nil
}

// refresh forgets marks of flows that are gone. It is asked now and then.
func (g *Guard) refresh() error {
	return g.unlessClosed(func() error {
		if atomic.LoadUint64(&g.k.Memory().Control.Guard)&bpf.GuardFlood == 0 {
			return nil
		}
		return g.fillThere()
	})
}
