package datapath

import (
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
	"unsafe"

	"weir/bpf"
	"weir/flow"
)

// maxClaimed is how many claims are watched at a time. A claim lasts as long as
// a key is written; there are as many as processors.
const maxClaimed = 256

const empty = math.MaxUint64 // when what is not there is due

// sweep is the tick at a whole second: what is due ends or is reported.
//
// A page is looked at if the programs have touched it, or if something in it
// may be due: packets only ever put off when an entry is due, but for the first
// FIN or RST, and that touches.
func (s *Sweeper) sweep() {
	s.claimed = s.claimed[:0]
	for i := range s.pages {
		p := &s.pages[i]
		if s.touched(i, p) || p.due <= s.now {
			if s.sweepPage(i, p); s.err != nil {
				break
			}
		}
	}
	for slot := s.firstCatchAll(); slot < s.slots() && s.err == nil; slot++ {
		s.lookCatchAll(slot)
	}
	s.flush() // deltas need no grace
	s.countAll()
	s.freeStuck()
	s.age(true)
	s.finish()
	s.ticked = marks{s.created(), s.refused}
	s.publish(1)
}

// press is the tick in between, of a table that is nearly full: entries are
// counted, and age.
func (s *Sweeper) press() {
	for i := range s.pages {
		p := &s.pages[i]
		if s.touched(i, p) || p.aggregates > 0 {
			s.countPage(i, p)
		}
	}
	s.countAll()
	s.age(false)
	s.finish()
	s.publish(0)
}

// touched says whether the programs have entered something in the page since it
// was last asked. Then all its sets are to be read.
func (s *Sweeper) touched(i int, p *page) bool {
	// The programs set the flag when the entry is there; it is cleared before
	// the entries are read.
	if flag := &s.mem.Touched[i].Word; atomic.LoadUint32(flag) == 0 || atomic.SwapUint32(flag, 0) == 0 {
		return false
	}
	p.sets = s.allSets(i)
	return true
}

func (s *Sweeper) allSets(page int) uint64 {
	if left := s.mem.Flows + s.mem.Aggregates - page*pageSets; left < pageSets {
		return 1<<left - 1
	}
	return 1<<pageSets - 1
}

// sweepPage ends what is due in a page, and finds out when the next is.
//
// Where there are more than a few flows, it is several times as fast to read
// everything, one set while the next is fetched, and not to branch on what is
// there: a processor that guesses wrong stops reading on ahead.
func (s *Sweeper) sweepPage(i int, p *page) {
	due := uint64(empty)
	dense := p.live >= densePage
	*p = page{sets: p.sets}
	for sets := p.sets; sets != 0; sets &= sets - 1 {
		bit := bits.TrailingZeros64(sets)
		at := i*pageSets + bit
		set := &s.mem.Sets[at]
		if dense {
			s.fetchSet(at + 1)
		}
		live, used := inUse(set)
		p.sets &^= (uint64(used) - 1) >> 63 << bit // if it is 0
		if used != live {
			s.claim(at, used&^live)
			due = s.now
		}
		if at >= s.mem.Flows {
			if live != 0 {
				due = s.now // they are looked at in every tick
			}
			for ; live != 0; live &= live - 1 {
				s.lookAggregate(set, at, bits.TrailingZeros32(live), p)
			}
		} else if dense {
			var next uint64
			next, live = s.lookOver(set, live, p)
			due = min(due, next)
		}
		for ; live != 0; live &= live - 1 {
			due = min(due, s.look(set, at, bits.TrailingZeros32(live), p))
		}
		if s.err != nil {
			return
		}
	}
	p.due = due
}

const densePage = pageSets / 2 // flows

// fetchSet begins to read the entries and the words of a set.
func (s *Sweeper) fetchSet(at int) {
	if at < len(s.mem.Sets) {
		prefetch(unsafe.Pointer(&s.mem.Sets[at]), unsafe.Offsetof(bpf.Set{}.Note)/lineSize)
	}
}

const lineSize = 64

// inUse are the ways of a set that are NEW or LIVE, and those that are not FREE.
func inUse(set *bpf.Set) (live, used uint32) {
	for way := range set.Word {
		state := atomic.LoadUint32(&set.Word[way]) & bpf.StateMask
		live |= (state&^bpf.NewBit ^ bpf.Live - 1) >> 31 << way
		used |= (state + bpf.StateMask) >> 8 << way
	}
	return live, used
}

// lookOver does for the flows of a set what look does for one of which there is
// nothing to say, and gives those to look at. It reads all entries, also free
// ones, and does not branch.
func (s *Sweeper) lookOver(set *bpf.Set, live uint32, p *page) (due uint64, more uint32) {
	due = empty
	for way := range set.Entry {
		e := &set.Entry[way]
		first := atomic.LoadUint64(&e.First)
		next := min(atomic.LoadUint64(&e.Last)+s.idle, first+s.active)
		is := uint64(live) >> way & 1
		// due, or nothing since it was reported, or closing
		odd := ((next-s.now-1)>>63 | (first-1)>>63 | uint64(loadFacts(e).Mark()&bpf.MarkClosing)) & is
		more |= uint32(odd << way)
		due = min(due, next|(is^odd)-1)
	}
	p.live += uint16(bits.OnesCount32(live &^ more))
	return due, more
}

// look decides at the tick about a flow. This is the order of reasons: the end
// of the connection, idleness, the active timeout. It gives the time before
// which it is not due, if it stays.
func (s *Sweeper) look(set *bpf.Set, at, way int, p *page) (due uint64) {
	e := &set.Entry[way]
	last, first := atomic.LoadUint64(&e.Last), atomic.LoadUint64(&e.First)
	due = empty
	if loadFacts(e).Mark()&bpf.MarkClosing != 0 {
		if due = s.closing(e); due <= s.now {
			s.kill(uint32(at*bpf.Ways+way), &set.Word[way], flow.EndDetected)
			return empty
		}
	}
	idle := last + s.idle
	if idle <= s.now {
		s.kill(uint32(at*bpf.Ways+way), &set.Word[way], flow.EndIdle)
		return empty
	}
	p.live++
	if first == 0 {
		first = s.since(uint32(at*bpf.Ways+way), e, last)
	}
	over := first + s.active
	if over <= s.now {
		s.report(uint32(at*bpf.Ways+way), e, first, flow.EndActive)
		over = s.now + s.active // a packet since, at the earliest
	}
	return min(due, idle, over)
}

// closing is when an entry with a FIN or RST ends. The mark and the second are
// not written in one.
func (s *Sweeper) closing(e *bpf.Entry) uint64 {
	if s.tcpEnd == never {
		return never
	}
	at := uint64(atomic.LoadUint32(&e.Closing)) * second
	if at == 0 {
		return s.now + 1
	}
	return at + s.tcpEnd
}

// since is the time of an entry's first packet since it was reported, as far as
// it is known: now, if there was none. A packet that was counted while `first`
// was taken away may have left it at none; then the last one's time stands.
func (s *Sweeper) since(slot uint32, e *bpf.Entry, last uint64) uint64 {
	done, _ := s.banks(slot, e)
	if last+second > s.now || atomic.LoadUint64(&e.Packets) == atomic.LoadUint64(&done.Packets) {
		return s.now
	}
	atomic.CompareAndSwapUint64(&e.First, 0, last)
	return last
}

// report lets go what an entry has counted; it stays. If it has counted
// nothing, `first` was set by a packet that an earlier report took along.
func (s *Sweeper) report(slot uint32, e *bpf.Entry, first uint64, why flow.EndReason) {
	done, _ := s.banks(slot, e)
	if atomic.LoadUint64(&e.Packets) == atomic.LoadUint64(&done.Packets) {
		atomic.CompareAndSwapUint64(&e.First, first, 0)
		return
	}
	s.delta(slot, why)
}

// lookAggregate is look for what counts packets that found no place: it leaves
// by the idle and the active timeout, for lack of resources. Its packets are the
// refusals.
func (s *Sweeper) lookAggregate(set *bpf.Set, at, way int, p *page) {
	slot, e := uint32(at*bpf.Ways+way), &set.Entry[way]
	s.tally(slot, atomic.LoadUint64(&e.Packets))
	if s.isOver(slot, e) {
		s.kill(slot, &set.Word[way], flow.EndResource)
		return
	}
	p.aggregates++
}

// lookCatchAll is look for a port's last resort, which stays.
func (s *Sweeper) lookCatchAll(slot uint32) {
	e := s.entry(slot)
	packets := atomic.LoadUint64(&e.Packets)
	if packets == 0 {
		return
	}
	s.tally(slot, packets)
	if s.isOver(slot, e) {
		s.report(slot, e, atomic.LoadUint64(&e.First), flow.EndResource)
	}
}

// tally counts what of an aggregate's packets has not been counted as refused.
func (s *Sweeper) tally(slot uint32, packets uint64) {
	c := &s.counted[slot-uint32(s.mem.Flows)*bpf.Ways]
	s.refused += packets - *c
	*c = packets
}

func (s *Sweeper) isOver(slot uint32, e *bpf.Entry) bool {
	last, first := atomic.LoadUint64(&e.Last), atomic.LoadUint64(&e.First)
	if last+s.idle <= s.now {
		return true
	}
	if first == 0 {
		first = s.since(slot, e, last)
	}
	return first+s.active <= s.now
}

// countPage counts what is in a page's sets, and no more.
func (s *Sweeper) countPage(i int, p *page) {
	*p = page{sets: p.sets} // and due now: nobody has looked when
	for sets := p.sets; sets != 0; sets &= sets - 1 {
		at := i*pageSets + bits.TrailingZeros64(sets)
		live, _ := inUse(&s.mem.Sets[at])
		if at < s.mem.Flows {
			p.live += uint16(bits.OnesCount32(live))
			continue
		}
		p.aggregates += uint16(bits.OnesCount32(live))
		for m := live; m != 0; m &= m - 1 {
			way := bits.TrailingZeros32(m)
			s.tally(uint32(at*bpf.Ways+way), atomic.LoadUint64(&s.mem.Sets[at].Entry[way].Packets))
		}
	}
}

// countAll sums up what the pages hold.
func (s *Sweeper) countAll() {
	s.live, s.aggregates = 0, 0
	for i := range s.pages {
		p := &s.pages[i]
		s.live += uint64(p.live)
		s.aggregates += uint64(p.aggregates)
	}
	s.peak = max(s.peak, s.live)
}

// created is how many flows have been entered, or adopted.
func (s *Sweeper) created() uint64 { return s.left + s.live }

// claim notes entries of a set that are not yet flows.
func (s *Sweeper) claim(set int, ways uint32) {
	for m := ways; m != 0; m &= m - 1 {
		way := bits.TrailingZeros32(m)
		if w := atomic.LoadUint32(&s.mem.Sets[set].Word[way]); w&bpf.StateMask == bpf.Claimed && len(s.claimed) < cap(s.claimed) {
			s.claimed = append(s.claimed, uint32(set*bpf.Ways+way))
		}
	}
}

// freeStuck frees entries whose claim a grace period has not made a flow of:
// the program that claimed them is no more. Those that two ticks have seen are
// waited for.
func (s *Sweeper) freeStuck() {
	both := s.stuck[:0]
	for _, slot := range s.stuck {
		if _, again := slices.BinarySearch(s.claimed, slot); again {
			both = append(both, slot)
		}
	}
	s.freeClaims(both)
	s.stuck, s.claimed = s.claimed, s.stuck[:0]
}

func (s *Sweeper) freeClaims(slots []uint32) {
	if len(slots) == 0 || !s.grace() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, slot := range slots {
		word, e := &s.set(slot).Word[slot%bpf.Ways], s.entry(slot)
		if w := atomic.LoadUint32(word); w&bpf.StateMask == bpf.Claimed {
			atomic.StoreUint64(&e.Packets, 0)
			atomic.StoreUint64(&e.Bytes, 0)
			if atomic.CompareAndSwapUint32(word, w, bpf.Free) {
				s.interrupted.Records++
				s.interrupted.Packets++ // the one it was claimed for
			}
		}
	}
}

// publish shows Stats where they stand.
func (s *Sweeper) publish(sweeps uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Sweeps += sweeps
	s.stats.Created, s.stats.Entries, s.stats.Aggregates = s.created(), s.live, s.aggregates
	s.stats.Peak = s.peak
	s.stats.Refused = s.refused
}
