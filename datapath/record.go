package datapath

import (
	"sync/atomic"

	"weir/bpf"
	"weir/cache"
	"weir/flow"
)

// record is what an entry has to say since it was last asked.
type record struct {
	first, last uint64 // ns of the kernel's clock; first may be unknown: 0
	facts       bpf.Facts
	now, was    bpf.Count // the entry's counters, and what of them was handed on before
	incarnation uint32    // of the record: the entry's and one
	why         flow.EndReason
	dropped     bpf.Count // of what it tells; octets without a packet wait for one
}

// Marks of a cache.Gone, beside the reason.
const (
	goneAggregate = 0x10
	goneCatchAll  = 0x20
)

// fill makes out the record of a slot. What it says of access lists it appends to
// text, and gives that back.
func (s *Sweeper) fill(slot uint32, k *flow.Key, r *record, out *flow.Record, text []byte) []byte {
	first := r.first
	if first == 0 || first > r.last {
		first = r.last
	}
	offset := s.offset.Load()
	g := cache.Gone{Entry: cache.Entry{
		Packets: r.now.Packets - r.was.Packets, Bytes: r.now.Bytes - r.was.Bytes,
		State: slot, Incarnation: r.incarnation,
		First: int64(first) + offset, Last: int64(r.last) + offset,
		TCPFlags: r.facts.TCPFlags(), Mark: uint8(r.why),
	}}
	kind := s.kind(slot)
	switch kind {
	case kindAggregate:
		g.Key = *k
		g.Key.SrcPort, g.Key.DstPort = 0, 0 // what is there is a rule and its verdict
		g.Mark |= goneAggregate
	case kindCatchAll:
		if slot-s.firstCatchAll() > 1 { // those of port number 0 are of many
			g.Key.Input = atomic.LoadUint32(&k.Input) // the programs have written it
		}
		g.Mark |= goneCatchAll
	default:
		g.Key = *k
	}
	s.recorder.Fill(&g, out)
	if kind == kindFlow && out.Has&flow.HasOutput == 0 {
		if o := atomic.LoadUint32(&s.entry(slot).Output); o != 0 {
			out.Output = o
			out.Has |= flow.HasOutput
		}
	}
	if s.forward != nil && kind == kindFlow {
		s.fillRoute(atomic.LoadUint64(&s.entry(slot).Route), out)
	}
	if s.lists == nil {
		return text
	}
	if kind != kindCatchAll { // those are of many rules
		e := s.entry(slot)
		status, rule := s.status(slot, e)
		if _, guarded := bpf.GuardRow(atomic.LoadUint64(&e.Rate[0])); guarded && r.dropped.Packets > 0 && status != statusDenied {
			status = statusPoliced
		}
		if out.Rule = rule; status != 0 && out.Has&flow.HasForwardingStatus == 0 || status >= statusDropped {
			out.ForwardingStatus = status
			out.Has |= flow.HasForwardingStatus
		}
		if out.Rule != 0 {
			out.Has |= flow.HasRule
		}
	}
	if r.dropped.Packets > 0 {
		out.DroppedPackets, out.DroppedBytes = r.dropped.Packets, r.dropped.Bytes
		out.Has |= flow.HasDropped
	}
	if out.Has&(flow.HasDropped|flow.HasRule) != 0 {
		at := len(text)
		text = out.AppendVerdict(text)
		out.Elements = text[at:len(text):len(text)]
	}
	return text
}

// fillRoute says where a flow was sent to.
func (s *Sweeper) fillRoute(route uint64, out *flow.Record) {
	way, asked := bpf.Way(route)
	if !asked {
		return
	}
	status := uint8(0)
	switch {
	case way >= bpf.Whys:
		status = statusForwarded
		h := &s.forward.Hops[way]
		if h.Number != 0 && h.Address != out.Dst { // the destination itself is no hop
			out.NextHop = h.Address
			out.Has |= flow.HasNextHop
		}
	case bpf.Why(way) == bpf.WhyURPF:
		status = statusURPF
	default:
		return // the kernel knows
	}
	out.ForwardingStatus = status
	out.Has |= flow.HasForwardingStatus
}

func loadFacts(e *bpf.Entry) bpf.Facts {
	return bpf.Facts(atomic.LoadUint64((*uint64)(&e.Facts)))
}

// resetFacts begins anew; the mark stays.
func resetFacts(e *bpf.Entry) bpf.Facts {
	for {
		f := loadFacts(e)
		if atomic.CompareAndSwapUint64((*uint64)(&e.Facts), uint64(f), uint64(bpf.NoFacts)|uint64(f.Mark())<<8) {
			return f
		}
	}
}

// A note is what a record on its way says that the entry no longer does: three
// bits of reason, one that tells which incarnation it is of (it means nothing
// once that is committed), eight of TCP flags, and of the first packet's time as
// many as there is room for, which the last packet's completes.
const (
	noteReason = 1<<3 - 1
	noteOf     = 3
	noteFlags  = 4
	noteFirst  = 12
	noteUnit   = 26 // 67 ms, for 19 hours
	noteUnits  = 1<<(32-noteFirst) - 1
)

func makeNote(e *bpf.Entry, why flow.EndReason, first uint64, f bpf.Facts) uint32 {
	return uint32(why) | atomic.LoadUint32(&e.Incarnation)&1<<noteOf | uint32(f.TCPFlags())<<noteFlags | uint32(first>>noteUnit&noteUnits)<<noteFirst
}

// noteOn is the note of an entry, 0 if there is none.
func noteOn(note *uint32, e *bpf.Entry) uint32 {
	n := atomic.LoadUint32(note)
	if n>>noteOf&1 != atomic.LoadUint32(&e.Incarnation)&1 {
		return 0
	}
	return n
}

// noteTime is the time of the first packet, at most the note's unit too early; 0 if
// there was none.
func noteTime(note uint32, last uint64) uint64 {
	n := uint64(note >> noteFirst)
	if n == 0 {
		return 0
	}
	return (last>>noteUnit - (last>>noteUnit-n)&noteUnits) << noteUnit
}

// portMemo is the last answer of portIndex.
type portMemo struct {
	input uint32
	index uint32
	tick  uint64
}

// portIndex is where a key's interface is counted in meta.retired: port number
// * 2 + egress, number 0 for those that have none.
func (s *Sweeper) portIndex(input uint32) uint32 {
	if m := &s.port; m.tick != s.tick || m.input != input {
		*m = portMemo{input, portIndex(s.mem.Control, input), s.tick}
	}
	return s.port.index
}

func portIndex(c *bpf.Control, input uint32) uint32 {
	ifindex, egress := input&^flow.KeyEgress, input>>31
	if ifindex == 0 {
		return egress
	}
	for i := range uint32(bpf.PortProbes) {
		p := &c.Port[(ifindex+i)%bpf.PortSlots]
		if atomic.LoadUint32(&p.Ifindex) == ifindex {
			return atomic.LoadUint32(&p.Number)%bpf.MaxPorts*2 + egress
		}
	}
	return egress
}
