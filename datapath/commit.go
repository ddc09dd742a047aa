package datapath

import (
	"sync/atomic"
	"unsafe"

	"weir/bpf"
	"weir/flow"
)

// The protocol of doc.go, in the order of a record's way. at stands before each
// store of it.

func (s *Sweeper) at() {
	if s.step != nil {
		s.step()
	}
}

// read gives an entry's counters: all octets of the packets it says, and as few
// others as can be had.
func read(e *bpf.Entry) bpf.Count {
	c := bpf.Count{Packets: atomic.LoadUint64(&e.Packets)}
	c.Bytes = atomic.LoadUint64(&e.Bytes)
	for range 8 { // a busy flow never stands still; any reading will do
		again := bpf.Count{Packets: atomic.LoadUint64(&e.Packets)}
		again.Bytes = atomic.LoadUint64(&e.Bytes)
		if again == c {
			break
		}
		c = again
	}
	return c
}

// banks are what of an entry has been handed on, and what will have been.
func (s *Sweeper) banks(slot uint32, e *bpf.Entry) (done, next *bpf.Count) {
	side := &s.mem.Sides[slot]
	i := atomic.LoadUint32(&e.Incarnation) & 1
	return (*bpf.Count)(&side.Bank[i]), (*bpf.Count)(&side.Bank[i^1])
}

func load(b *bpf.Count) bpf.Count {
	return bpf.Count{Packets: atomic.LoadUint64(&b.Packets), Bytes: atomic.LoadUint64(&b.Bytes)}
}

// delta puts on its way what an entry that stays has counted since the last
// time. Octets without a packet wait for it.
func (s *Sweeper) delta(slot uint32, why flow.EndReason) {
	if !s.room() {
		return
	}
	e := s.entry(slot)
	done, next := s.banks(slot, e)
	if atomic.LoadUint64(&e.Packets) == atomic.LoadUint64(&done.Packets) {
		return
	}
	first, facts := atomic.LoadUint64(&e.First), loadFacts(e)
	s.at()
	atomic.StoreUint32(s.note(slot), makeNote(e, why, first, facts))
	s.at()
	first = atomic.SwapUint64(&e.First, 0)
	s.at()
	facts = resetFacts(e)
	last := atomic.LoadUint64(&e.Last)
	now, was := read(e), load(done)
	s.at()
	atomic.StoreUint64(&next.Bytes, now.Bytes)
	s.at()
	atomic.StoreUint64(&next.Packets, now.Packets)
	s.send(slot, e, record{first, last, facts, now, was, atomic.LoadUint32(&e.Incarnation) + 1, why, s.dropped(slot)}, false)
}

// kill takes an entry out. It is finished after a grace period.
func (s *Sweeper) kill(slot uint32, word *uint32, why flow.EndReason) bool {
	s.at()
	atomic.StoreUint32(s.note(slot), makeNote(s.entry(slot), why, 0, 0))
	for {
		w := atomic.LoadUint32(word)
		if state := w & bpf.StateMask; state != bpf.New && state != bpf.Live {
			return false
		}
		s.at()
		if atomic.CompareAndSwapUint32(word, w, w&^bpf.StateMask|bpf.Dying) {
			break
		}
	}
	if s.kind(slot) == kindFlow {
		s.left++
	}
	s.dying = append(s.dying, slot|uint32(why)<<reasonBit)
	if len(s.dying) == cap(s.dying) {
		s.finish()
	}
	return true
}

// finish hands on what was taken out, and everything else that is on its way.
func (s *Sweeper) finish() {
	if len(s.dying) > 0 && s.grace() {
		for i, d := range s.dying {
			if i%fetchSize == 0 {
				s.fetch(s.dying[i:min(i+fetchSize, len(s.dying))])
			}
			s.final(d&(1<<reasonBit-1), flow.EndReason(d>>reasonBit))
			if s.err != nil {
				break
			}
		}
	}
	s.dying = s.dying[:0]
	s.flush()
}

// final puts on its way what an entry that is DYING, and whose grace period is
// over, has counted since the last time.
func (s *Sweeper) final(slot uint32, why flow.EndReason) {
	if !s.room() {
		return
	}
	e := s.entry(slot)
	done, next := s.banks(slot, e)
	now, was, dropped := read(e), load(done), s.dropped(slot)
	if now.Packets <= was.Packets {
		if dropped.Packets == 0 {
			s.items = append(s.items, item{slot: slot, why: why, final: true})
			return
		}
		// Its last packets were dropped where they leave when they had been told:
		// a record of no packets says so.
		now = was
	}
	s.at()
	atomic.StoreUint64(&next.Bytes, now.Bytes)
	s.at()
	atomic.StoreUint64(&next.Packets, now.Packets)
	s.send(slot, e, record{atomic.LoadUint64(&e.First), atomic.LoadUint64(&e.Last), loadFacts(e), now, was, atomic.LoadUint32(&e.Incarnation) + 1, why, dropped}, true)
}

// room is there for one more in the sub-batch, unless the sink has failed.
func (s *Sweeper) room() bool {
	if len(s.items) == batchSize {
		s.flush()
	}
	return s.err == nil
}

// send adds to the sub-batch what is on its way.
func (s *Sweeper) send(slot uint32, e *bpf.Entry, r record, final bool) {
	s.items = append(s.items, item{
		slot: slot, why: r.why, sent: true, final: final,
		delta: bpf.Count{Packets: r.now.Packets - r.was.Packets, Bytes: r.now.Bytes - r.was.Bytes}, dropped: r.dropped,
	})
	s.text = s.fill(slot, &e.Key, &r, &s.records[s.sends], s.text)
	s.sends++
}

// flush hands on the sub-batch, commits it, and frees what has left.
func (s *Sweeper) flush() {
	items, n := s.items, s.sends
	s.items, s.sends, s.text = s.items[:0], 0, s.text[:0]
	if s.err != nil || len(items) == 0 {
		return // what is in it stays on its way
	}
	if n > 0 && !s.lossy {
		err := s.sink.WriteRecords(s.records[:n])
		if err == nil && s.sync != nil {
			err = s.sync()
		}
		if err != nil {
			s.fail(err)
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range items {
		it := &items[i]
		set, e := s.set(it.slot), s.entry(it.slot)
		if it.sent {
			s.forget(it.slot, it.dropped)
			s.at()
			atomic.AddUint32(&e.Incarnation, 1)
			if s.lossy {
				s.stats.Lost.Records++
				s.stats.Lost.Packets += it.delta.Packets
				s.stats.Lost.Bytes += it.delta.Bytes
			} else {
				s.stats.Records++
			}
		}
		s.at()
		atomic.StoreUint32(s.note(it.slot), 0)
		if it.final {
			s.clear(it.slot, set, e)
		}
		if s.kind(it.slot) == kindFlow && (it.final || it.why == flow.EndActive) {
			s.stats.Expired[it.why]++
		}
	}
}

// clear frees an entry all of which has been handed on. mu is held.
func (s *Sweeper) clear(slot uint32, set *bpf.Set, e *bpf.Entry) {
	c := bpf.Count{Packets: atomic.LoadUint64(&e.Packets), Bytes: atomic.LoadUint64(&e.Bytes)}
	done, next := s.banks(slot, e)
	if s.kind(slot) == kindAggregate {
		s.tally(slot, c.Packets)
		s.counted[slot-uint32(s.mem.Flows)*bpf.Ways] = 0
	}
	if c.Packets != 0 {
		if was := load(done); c.Bytes > was.Bytes {
			// No program that ended in its own time leaves this behind.
			s.interrupted.Bytes += c.Bytes - was.Bytes
		}
		port := s.portIndex(e.Key.Input)
		leaving, sum := &s.mem.Meta.Leaving, &s.mem.Meta.Retired[port]
		was := bpf.Count{Packets: atomic.LoadUint64(&sum.Packets), Bytes: atomic.LoadUint64(&sum.Bytes)}
		s.at()
		atomic.StoreUint64(&leaving[1], was.Packets)
		s.at()
		atomic.StoreUint64(&leaving[2], was.Bytes)
		hits := s.decided(slot, e, c)
		for i, h := range hits {
			s.at()
			s.leavingHits(i, h.rule)
		}
		s.at()
		atomic.StoreUint64(&leaving[0], uint64(port)<<32|uint64(slot)+1)
		if s.cfg.Departed != nil {
			s.eachLogged(slot, e, hits, s.cfg.Departed)
		}
		for _, h := range hits {
			s.at()
			s.retireHits(h, atomic.LoadUint64(&e.Last))
		}
		s.at()
		atomic.StoreUint64(&sum.Packets, was.Packets+c.Packets)
		s.at()
		atomic.StoreUint64(&sum.Bytes, was.Bytes+c.Bytes)
		s.at()
		atomic.StoreUint64(&e.Packets, 0)
		s.at()
		atomic.StoreUint64(&leaving[0], 0)
	}
	s.at()
	atomic.StoreUint64(&e.Bytes, 0)
	for _, b := range [2]*bpf.Count{next, done} {
		s.at()
		atomic.StoreUint64(&b.Packets, 0)
		s.at()
		atomic.StoreUint64(&b.Bytes, 0)
	}
	s.at()
	atomic.StoreUint32(&set.Word[slot%bpf.Ways], bpf.Free)
}

const fetchSize = 32

// fetch begins to read what is about to be worked on, so that the misses
// overlap.
func (s *Sweeper) fetch(dying []uint32) {
	for _, d := range dying {
		slot := d & (1<<reasonBit - 1)
		prefetch(unsafe.Pointer(s.entry(slot)), unsafe.Sizeof(bpf.Entry{})/lineSize)
		prefetch(unsafe.Pointer(&s.mem.Sides[slot]), 1)
		prefetch(unsafe.Pointer(s.note(slot)), 1)
		if s.lists != nil {
			prefetch(unsafe.Pointer(&s.lists.Judged[slot]), 1)
		}
		prefetch(unsafe.Pointer(&s.set(slot).Word), 1)
	}
}
