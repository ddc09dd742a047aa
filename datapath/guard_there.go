package datapath

import (
	"sync/atomic"

	"weir/bpf"
)

// While a rule of what opens flows is in force, or a crowd is kept out, the programs tell by
// two bits whether a flow may be in the table: a flood of those that are not costs them no
// look at it. A bank of bits lacks none of an entry that can be found, at any moment: who
// enters marks both banks first; one that is emptied is not in use until all entries are in
// it; and between emptying and looking at entries a grace period lets programs publish those
// whose marks may have been emptied away. How many bits a bank has of a tag is told before
// it is emptied, so that after the grace period all programs know it. Marks of flows that
// are gone cost a look.

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
	flows := 0
	eachTag(m, func(uint32) { flows++ })
	leftOut := tagBitsLeftOut(flows)
	atomic.StoreUint64(c, bpf.WithGuardLeftOut(atomic.LoadUint64(c), next, leftOut))
	bank := g.k.Guard.There[next]
	for i := range bank[:len(bank)>>leftOut] {
		atomic.StoreUint64(&bank[i], 0)
	}
	if err := g.k.Grace(); err != nil {
		return err
	}
	eachTag(m, func(w uint32) {
		for _, bit := range bpf.GuardMarksOf(w, leftOut) {
			atomic.OrUint64(&bank[bit/64], 1<<(bit%64))
		}
	})
	word := atomic.LoadUint64(c)&^bpf.GuardBank | bpf.GuardFlood
	if next == 1 {
		word |= bpf.GuardBank
	}
	atomic.StoreUint64(c, word)
	return nil
}

// eachTag calls do for the word of each entry that is in the table, or may be soon.
func eachTag(m *bpf.Memory, do func(word uint32)) {
	for i := range m.Sets[:m.Flows] {
		for way := range m.Sets[i].Word {
			if w := atomic.LoadUint32(&m.Sets[i].Word[way]); w&bpf.StateMask != bpf.Free {
				do(w)
			}
		}
	}
}

// tagBitsLeftOut makes a bank as small as it can be with 32 bits for each flow: so that it
// stays in a processor's cache, and one in hundreds of new flows costs a look.
func tagBitsLeftOut(flows int) int {
	n := 0
	for n < 9 && bpf.GuardTagWords*64>>(n+1) >= 32*flows {
		n++
	}
	return n
}

// A crowd is so many packets kept out of the table between two looks; it is over after so
// many looks without.
const (
	crowd     = 10_000
	crowdOver = 15
)

// refresh forgets marks of flows that are gone, and makes some while admission keeps a
// crowd out, which need not be looked for either. It is asked now and then.
func (g *Guard) refresh() error {
	return g.unlessClosed(func() error {
		out, err := g.k.Guard.KeptOut()
		if err != nil {
			return err
		}
		total := uint64(0)
		for _, c := range out {
			total += c.Packets
		}
		g.sinceCrowd++
		if total-g.keptOut >= crowd {
			g.sinceCrowd = 0
		}
		g.keptOut = total
		was := g.crowded
		g.crowded = g.sinceCrowd < crowdOver
		if was && !g.crowded {
			g.move() // no marks any more, unless a rule needs them
		}
		switch marked := atomic.LoadUint64(&g.k.Memory().Control.Guard)&bpf.GuardFlood != 0; {
		case marked:
			return g.fillThere()
		case g.crowded:
			return g.markThere()
		}
		return nil
	})
}
