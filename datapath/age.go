package datapath

import (
	"math/bits"
	"sync/atomic"

	"weir/bpf"
	"weir/flow"
)

// Ageing: percent of the table's entries.
const (
	stagedPercent  = 60
	urgentPercent  = 75
	crowdedPercent = 90
	freePercent    = 15
)

// histogram counts flows by how long they have been idle: those with one packet,
// and the others. Sixteen bins to each doubling, of the clock's millisecond and
// up: under a flood most of the table is younger than a second.
type histogram [2][ages]uint32

const (
	ageShift = 20 // ns to about a millisecond
	ages     = 656
)

func ageBin(age uint64) uint32 {
	age >>= ageShift
	if age < 16 {
		return uint32(age)
	}
	octave := uint32(bits.Len64(age)) - 5
	return min(octave*16+uint32(age>>octave), ages-1)
}

// cut are the youngest bins that leave: of flows with one packet, and of others.
type cut [2]uint32

const nobody = ages

// age ends flows early if the table is nearly full, so that what is new need
// not be refused. From the first mark on, the idle limit of entries with one
// packet falls; from the second on a histogram of idle ages gives the cut that
// frees a part of the table: entries with one packet first, then the others,
// the longest idle ones first. Between whole seconds the others stay, unless
// the table is all but full: a working set that is too large for it is to be
// reported once a second, not ten times. Entries with one packet also leave
// when more than one new flow in a thousand was refused.
//
// If nothing was entered or refused since, the table is left alone: it cannot
// have become fuller.
func (s *Sweeper) age(wholeSecond bool) {
	if s.err != nil {
		return
	}
	created, refused := s.created()-s.aged.created, s.refused-s.aged.refused
	s.aged = marks{s.created(), s.refused}
	full := s.live >= s.urgent
	refusing := refused*1000 > refused+created
	switch {
	case created+refused == 0 || s.live <= s.staged && !refusing:
	case !full && !refusing:
		if s.idle == never {
			break // there is no limit that could fall
		}
		limit := s.idle - s.idle/4*3/(s.urgent-s.staged)*(s.live-s.staged)
		s.ageOut(cut{ageBin(limit) + 1, nobody})
	default:
		all := full && (wholeSecond || s.live >= s.crowded)
		s.ageOut(s.findCut(s.mem.Flows*bpf.Ways*freePercent/100, all))
	}
	pressure := uint32(0)
	if s.live >= s.urgent {
		pressure = 1
	}
	if c := &s.mem.Control.Pressure; atomic.LoadUint32(c) != pressure {
		atomic.StoreUint32(c, pressure)
	}
	// At this pace the next second could fill it, or the second after.
	s.fast = refusing || s.live > s.staged || s.live+(s.created()-s.ticked.created) > s.staged
}

// findCut gives the cut that frees so many, of all flows or of those with one
// packet.
func (s *Sweeper) findCut(need int, all bool) cut {
	h := s.histogram
	*h = histogram{}
	for i := range s.pages {
		s.eachFlow(i, func(_ uint32, word *uint32, e *bpf.Entry) {
			h[class(word)][ageBin(s.idleAge(e))]++
		})
	}
	c := cut{nobody, nobody}
	for k := range h {
		if k == 1 && !all {
			break
		}
		for ; need > 0 && c[k] > 0; need -= int(h[k][c[k]]) {
			c[k]--
		}
	}
	return c
}

// idleAge is for how long the flow has been idle; one that is about to end for
// its FIN or RST is as idle as if it ended then.
func (s *Sweeper) idleAge(e *bpf.Entry) uint64 {
	last := atomic.LoadUint64(&e.Last)
	age := uint64(0)
	if last < s.now {
		age = s.now - last
	}
	if loadFacts(e).Mark()&bpf.MarkClosing != 0 {
		if end := s.closing(e); end != never && s.idle != never {
			age = max(age, s.idle-min(end-min(end, s.now), s.idle))
		} else if end != never {
			age = 1 << 50 // a fortnight
		}
	}
	return age
}

// ageOut ends what is as old as the cut says.
func (s *Sweeper) ageOut(c cut) {
	if c == (cut{nobody, nobody}) {
		return
	}
	for i := range s.pages {
		p := &s.pages[i]
		s.eachFlow(i, func(slot uint32, word *uint32, e *bpf.Entry) {
			from := c[class(word)]
			if from < nobody && ageBin(s.idleAge(e)) >= from && s.kill(slot, word, flow.EndResource) {
				// It may have come after it was counted.
				s.live -= min(s.live, 1)
				p.live -= min(p.live, 1)
			}
		})
		if s.err != nil {
			return
		}
	}
}

// eachFlow visits the flows of a page, as far as its sets are known.
func (s *Sweeper) eachFlow(i int, visit func(slot uint32, word *uint32, e *bpf.Entry)) {
	for sets := s.pages[i].sets; sets != 0; sets &= sets - 1 {
		at := i*pageSets + bits.TrailingZeros64(sets)
		if at >= s.mem.Flows {
			return
		}
		set := &s.mem.Sets[at]
		if s.pages[i].live >= densePage {
			s.fetchSet(at + 1)
		}
		for live, _ := inUse(set); live != 0; live &= live - 1 {
			way := bits.TrailingZeros32(live)
			visit(uint32(at*bpf.Ways+way), &set.Word[way], &set.Entry[way])
		}
	}
}

// class is 0 for a flow that has counted one packet, else 1.
func class(word *uint32) int {
	return int(^atomic.LoadUint32(word) & bpf.NewBit / bpf.NewBit)
}
