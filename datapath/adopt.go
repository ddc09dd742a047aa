package datapath

import (
	"sync/atomic"

	"weir/bpf"
	"weir/flow"
)

// Adopt takes over a table, which another daemon may have left at any moment:
// what was on its way is sent again under the same flow ids, entries that had
// been taken out are finished, the ledger is taken up. Run begins with it.
func (s *Sweeper) Adopt() error {
	if s.err != nil || s.adopted {
		return s.err
	}
	clock, err := s.clock()
	if err != nil {
		s.fail(err)
		return err
	}
	s.now = clock
	s.settleSum()
	// Whoever had found an entry before it became DYING is through after this,
	// and a claim that outlasts it is nobody's.
	claims := s.claimed[:0]
	s.each(func(slot uint32, word *uint32) {
		if w := atomic.LoadUint32(word); w&bpf.StateMask == bpf.Claimed {
			claims = append(claims, slot)
		}
	})
	if !s.grace() {
		return s.err
	}
	s.freeClaims(claims)

	// First what was on its way: the fewest repeats.
	s.eachUsed(func(slot uint32, dying bool) {
		if !s.sendAgain(slot, dying) {
			s.putBack(slot, dying)
		}
	})
	s.flush()
	s.each(func(slot uint32, word *uint32) {
		if atomic.LoadUint32(word)&bpf.StateMask == bpf.Dying {
			why := flow.EndReason(noteOn(s.note(slot), s.entry(slot)) & noteReason)
			if why == flow.EndUnknown {
				why = s.guess(slot, true)
			}
			if s.kind(slot) == kindFlow && !s.lossy {
				s.left++ // it was another daemon that took it out
			}
			s.final(slot, why)
		}
	})
	s.flush()
	if s.err != nil {
		return s.err
	}
	s.recount()
	if !s.lossy {
		s.refused = 0 // since now
	}
	s.aged = marks{created: s.created()}
	s.ticked = s.aged
	s.adopted = true
	s.publish(0)
	return nil
}

// eachUsed visits every slot that has an entry, catch-alls included.
func (s *Sweeper) eachUsed(visit func(slot uint32, dying bool)) {
	s.each(func(slot uint32, word *uint32) {
		switch atomic.LoadUint32(word) & bpf.StateMask {
		case bpf.New, bpf.Live:
			visit(slot, false)
		case bpf.Dying:
			visit(slot, true)
		}
	})
	for slot := s.firstCatchAll(); slot < s.slots() && s.err == nil; slot++ {
		visit(slot, false)
	}
}

// settleSum puts back a port's sum if the entry that was leaving is still there.
func (s *Sweeper) settleSum() {
	leaving := &s.mem.Meta.Leaving
	at := atomic.LoadUint64(&leaving[0])
	port, slot := at>>32, at&(1<<32-1)-1
	if at == 0 {
		return
	}
	if port < uint64(len(s.mem.Meta.Retired)) && slot < uint64(s.slots()) {
		if atomic.LoadUint64(&s.entry(uint32(slot)).Packets) != 0 {
			sum := &s.mem.Meta.Retired[port]
			s.at()
			atomic.StoreUint64(&sum.Packets, atomic.LoadUint64(&leaving[1]))
			s.at()
			atomic.StoreUint64(&sum.Bytes, atomic.LoadUint64(&leaving[2]))
			s.settleHits()
		}
	}
	s.at()
	atomic.StoreUint64(&leaving[0], 0)
}

// sendAgain sends what of a slot was on its way, and says whether something was.
func (s *Sweeper) sendAgain(slot uint32, dying bool) bool {
	if !s.room() {
		return false
	}
	e := s.entry(slot)
	done, next := s.banks(slot, e)
	was, now := load(done), load(next)
	if now.Packets <= was.Packets {
		return false
	}
	note := noteOn(s.note(slot), e)
	r := record{
		first: atomic.LoadUint64(&e.First), last: atomic.LoadUint64(&e.Last), facts: loadFacts(e),
		now: now, was: was, incarnation: atomic.LoadUint32(&e.Incarnation) + 1,
		why: flow.EndReason(note & noteReason),
	}
	if r.why == flow.EndUnknown {
		r.why = s.guess(slot, dying)
	}
	if dying {
		r.dropped = s.dropped(slot) // as it was, or nothing if it has been taken off
	} else {
		// What it said of dropped packets nobody knows: those that are not taken
		// off are in the next record. If this one was sent, they are told twice.
		r.first, r.facts = noteTime(note, r.last), bpf.Facts(uint8(note>>noteFlags))
	}
	s.send(slot, e, r, false) // an entry that is DYING is finished once this is committed
	return true
}

// putBack gives an entry back what it forgot for a record that was not yet on
// its way.
func (s *Sweeper) putBack(slot uint32, dying bool) {
	note, e := s.note(slot), s.entry(slot)
	n := noteOn(note, e)
	if dying || atomic.LoadUint32(note) == 0 {
		return
	}
	if first := noteTime(n, atomic.LoadUint64(&e.Last)); first != 0 {
		for {
			now := atomic.LoadUint64(&e.First)
			if now != 0 && now < first+1<<noteUnit {
				break // it has not been forgotten, and knows better
			}
			s.at()
			if atomic.CompareAndSwapUint64(&e.First, now, first) {
				break
			}
		}
	}
	flags := bpf.Facts(uint8(n >> noteFlags))
	for {
		now := loadFacts(e)
		s.at()
		if now|flags == now || atomic.CompareAndSwapUint64((*uint64)(&e.Facts), uint64(now), uint64(now|flags)) {
			break
		}
	}
	s.at()
	atomic.StoreUint32(note, 0)
}

// guess is why an entry was reported or taken out, if no note says so.
func (s *Sweeper) guess(slot uint32, dying bool) flow.EndReason {
	e := s.entry(slot)
	switch {
	case s.kind(slot) != kindFlow:
		return flow.EndResource
	case !dying:
		return flow.EndActive
	case loadFacts(e).Mark()&bpf.MarkClosing != 0 && s.closing(e) <= s.now:
		return flow.EndDetected
	case atomic.LoadUint64(&e.Last)+s.idle <= s.now:
		return flow.EndIdle
	}
	return flow.EndResource
}

// recount counts everything anew.
func (s *Sweeper) recount() {
	for i := range s.pages {
		atomic.StoreUint32(&s.mem.Touched[i].Word, 0)
		s.pages[i].sets = s.allSets(i)
		s.countPage(i, &s.pages[i])
	}
	for slot := s.firstCatchAll(); slot < s.slots(); slot++ {
		s.tally(slot, atomic.LoadUint64(&s.entry(slot).Packets))
	}
	s.countAll()
}
