package datapath

import (
	"sync/atomic"

	"weir/bpf"
	"weir/flow"
)

// What rules have decided of is not counted packet by packet: an entry's counters
// are those of the rule its verdict is from. The programs credit to the old rule
// what an entry has counted when its verdict changes; when it leaves, the rest is
// added to what its rule has of entries that have left.

// ruled is what a rule has decided of in an entry.
type ruled struct {
	rule uint16
	word uint64 // that verdict, as bpf.Entry has it
	bpf.Count
}

func ruledBy(word uint64, c bpf.Count) ruled { return ruled{ruleOf(word), word, c} }

func ruleOf(word uint64) uint16 { return uint16(word >> 16) }

// decided is what in an entry that has counted c is not credited yet: to the rule of
// the interface where it came in, and to that of the one where it left.
func (s *Sweeper) decided(slot uint32, e *bpf.Entry, c bpf.Count) (all [2]ruled) {
	if s.lists == nil {
		return all
	}
	j := &s.lists.Judged[slot]
	if s.kind(slot) != kindCatchAll { // those are of many rules, which have theirs
		credited := bpf.Count{Packets: atomic.LoadUint64(&j.CreditedPackets), Bytes: atomic.LoadUint64(&j.CreditedBytes)}
		all[0] = ruledBy(atomic.LoadUint64(&e.Verdict), bpf.Count{Packets: c.Packets - min(credited.Packets, c.Packets), Bytes: c.Bytes - min(credited.Bytes, c.Bytes)})
	}
	all[1] = ruledBy(atomic.LoadUint64(&j.Out), bpf.Count{Packets: atomic.LoadUint64(&j.OutPackets), Bytes: atomic.LoadUint64(&j.OutBytes)})
	return all
}

// leavingHits notes a rule's sum before it changes, and retireHits changes it; in
// between stands what says that this is under way (Sweeper.clear). Both may be of
// one rule: then both notes say the same.
func (s *Sweeper) leavingHits(i int, rule uint16) {
	note := &s.mem.Meta.LeavingHits[i]
	if s.lists == nil || rule == 0 {
		atomic.StoreUint64(&note[0], 0)
		return
	}
	h := &s.lists.Hits[rule]
	atomic.StoreUint64(&note[0], 0)
	atomic.StoreUint64(&note[1], atomic.LoadUint64(&h.RetiredPackets))
	atomic.StoreUint64(&note[2], atomic.LoadUint64(&h.RetiredBytes))
	atomic.StoreUint64(&note[0], uint64(rule)+1)
}

func (s *Sweeper) retireHits(r ruled, last uint64) {
	if s.lists == nil || r.rule == 0 || r.Packets == 0 {
		return
	}
	h := &s.lists.Hits[r.rule]
	atomic.StoreUint64(&h.RetiredPackets, h.RetiredPackets+r.Packets)
	atomic.StoreUint64(&h.RetiredBytes, h.RetiredBytes+r.Bytes)
	if h.Last < last {
		atomic.StoreUint64(&h.Last, last)
	}
}

// settleHits puts rules' sums back, of an entry that was leaving and is still there.
func (s *Sweeper) settleHits() {
	for i := range s.mem.Meta.LeavingHits {
		note := &s.mem.Meta.LeavingHits[i]
		if rule := atomic.LoadUint64(&note[0]); s.lists != nil && rule > 1 && rule <= uint64(len(s.lists.Hits)) {
			h := &s.lists.Hits[rule-1]
			s.at()
			atomic.StoreUint64(&h.RetiredPackets, atomic.LoadUint64(&note[1]))
			s.at()
			atomic.StoreUint64(&h.RetiredBytes, atomic.LoadUint64(&note[2]))
		}
	}
}

// Hit is what a rule has decided of since the table was made.
type Hit struct {
	bpf.Count
	Last uint64 // ns of the kernel's clock; 0: never
}

// Hits sums up by a rule's number: entries that have left, those that are there, and
// packets in none.
func (s *Sweeper) Hits() []Hit {
	if s.lists == nil {
		return nil
	}
	all := make([]Hit, len(s.lists.Hits))
	s.mu.Lock() // nothing leaves meanwhile
	defer s.mu.Unlock()
	for i := range all {
		h := &s.lists.Hits[i]
		all[i] = Hit{bpf.Count{
			Packets: atomic.LoadUint64(&h.DirectPackets) + atomic.LoadUint64(&h.RetiredPackets),
			Bytes:   atomic.LoadUint64(&h.DirectBytes) + atomic.LoadUint64(&h.RetiredBytes),
		}, atomic.LoadUint64(&h.Last)}
	}
	for i := range s.mem.Sets[:s.mem.Flows+s.mem.Aggregates] {
		set := &s.mem.Sets[i]
		s.fetchSet(i + 1)
		for way := range set.Word {
			switch atomic.LoadUint32(&set.Word[way]) & bpf.StateMask {
			case bpf.Free, bpf.Claimed:
				continue
			}
			e := &set.Entry[way]
			for _, r := range s.decided(uint32(i*bpf.Ways+way), e, read(e)) {
				h := &all[r.rule]
				h.Packets += r.Packets
				h.Bytes += r.Bytes
				if r.Packets > 0 {
					h.Last = max(h.Last, atomic.LoadUint64(&e.Last))
				}
			}
		}
	}
	return all
}

// logged visits what rules that log have decided of in the flows that are in the
// table. port is where, as in bpf.Event. Nothing leaves until end has returned.
func (s *Sweeper) logged(visit func(word uint64, k *flow.Key, port uint32, packets uint64), end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.mem.Sets[:s.mem.Flows] {
		set := &s.mem.Sets[i]
		s.fetchSet(i + 1)
		for way := range set.Word {
			switch atomic.LoadUint32(&set.Word[way]) & bpf.StateMask {
			case bpf.Free, bpf.Claimed:
				continue
			}
			slot, e := uint32(i*bpf.Ways+way), &set.Entry[way]
			s.eachLogged(slot, e, s.decided(slot, e, read(e)), visit)
		}
	}
	end()
}

func (s *Sweeper) eachLogged(slot uint32, e *bpf.Entry, all [2]ruled, visit func(word uint64, k *flow.Key, port uint32, packets uint64)) {
	for i := range all {
		if all[i].word&bpf.VerdictLog == 0 || all[i].Packets == 0 || s.kind(slot) != kindFlow {
			continue
		}
		port := e.Key.Input
		if i == 1 {
			port = atomic.LoadUint32(&e.Output) | flow.KeyEgress
		}
		visit(all[i].word, &e.Key, port, all[i].Packets)
	}
}

// rulesInUse says which rules' numbers entries have.
func (s *Sweeper) rulesInUse() []bool {
	used := make([]bool, bpf.MaxRules)
	for i := range s.mem.Sets[:s.mem.Flows+s.mem.Aggregates] {
		set := &s.mem.Sets[i]
		for way := range set.Word {
			if atomic.LoadUint32(&set.Word[way])&bpf.StateMask == bpf.Free {
				continue
			}
			used[ruleOf(atomic.LoadUint64(&set.Entry[way].Verdict))] = true
			if s.lists != nil {
				used[ruleOf(atomic.LoadUint64(&s.lists.Judged[i*bpf.Ways+way].Out))] = true
			}
		}
	}
	return used
}

// Of IE 89 (forwardingStatus): the upper two bits say what became of the packets, the
// lower six why.
const (
	statusForwarded = 64
	statusDropped   = 128 // and above
	statusDenied    = 129 // dropped, by an access list
	statusPoliced   = 138 // dropped, by the guard
	statusURPF      = 140 // dropped, for the way back to its source
)

// status is what the lists made of a flow's packets, by its last one, and the rule
// they said so by; 0 where no list judged it, and no rule.
func (s *Sweeper) status(slot uint32, e *bpf.Entry) (status uint8, rule uint16) {
	const stopped = bpf.VerdictMask | bpf.VerdictCount
	word, out := atomic.LoadUint64(&e.Verdict), atomic.LoadUint64(&s.lists.Judged[slot].Out)
	switch {
	case word&stopped == bpf.VerdictDeny:
		return statusDenied, ruleOf(word)
	case out&stopped == bpf.VerdictDeny:
		return statusDenied, ruleOf(out)
	case (word|out)&bpf.VerdictMask != bpf.VerdictNone:
		if word&bpf.VerdictMask == bpf.VerdictNone {
			word = out
		}
		return statusForwarded, ruleOf(word)
	}
	return 0, 0
}

// dropped is what of an entry's packets was dropped and is not yet in a record. A
// packet that is dropped where it comes in is in it before it is in the entry. One
// that is dropped where it leaves may come later: its record may be of the packets
// after it, or, if there are none, of no packet at all (final).
func (s *Sweeper) dropped(slot uint32) (c bpf.Count) {
	if s.lists == nil {
		return c
	}
	j := &s.lists.Judged[slot]
	if c.Packets = atomic.LoadUint64(&j.DroppedPackets); c.Packets > 0 {
		c.Bytes = atomic.LoadUint64(&j.DroppedBytes)
	}
	return c
}

// forget takes off what a record has told of dropped packets. The programs go on
// adding.
func (s *Sweeper) forget(slot uint32, told bpf.Count) {
	if told.Packets == 0 {
		return
	}
	j := &s.lists.Judged[slot]
	s.at()
	atomic.AddUint64(&j.DroppedPackets, -told.Packets)
	s.at()
	atomic.AddUint64(&j.DroppedBytes, -told.Bytes)
}
