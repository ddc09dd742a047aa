package meter

import (
	"math/rand/v2"
	"slices"

	"weir/cache"
	"weir/capture"
	"weir/flow"
	"weir/packet"
)

// Reasons of this stage, beside packet.Reason's.
const (
	notSampled     = "not-sampled"
	flowNotSampled = "flow-not-sampled"
	ownExport      = "own-export"
)

// account is what one reader has counted. Octets of a packet with a decoded IP
// header are those of the header's length, of others the frame's on the wire.
type account struct {
	metered    Count
	ignored    []Count // by packet.Reason
	notSampled Count
	flows      Count // of flows that were not sampled
	ownExport  Count
	filtered   Count
	backwards  uint64 // metered packets with a time before one already seen
	interfaces []Interface
}

func newAccount() account {
	return account{ignored: make([]Count, len(packet.Reasons())+1)}
}

func (c *Count) add(bytes uint64) {
	c.Packets++
	c.Bytes += bytes
}

func (c *Count) plus(o Count) {
	c.Packets += o.Packets
	c.Bytes += o.Bytes
}

// copyTo copies into to, whose memory is used again.
func (a *account) copyTo(to *account) {
	ignored := append(to.ignored[:0], a.ignored...)
	interfaces := append(to.interfaces[:0], a.interfaces...)
	*to = *a
	to.ignored, to.interfaces = ignored, interfaces
}

// at finds an interface's counters; few interfaces pass through one reader.
func (a *account) at(index uint32) *Interface {
	for i := range a.interfaces {
		if a.interfaces[i].Index == index {
			return &a.interfaces[i]
		}
	}
	a.interfaces = append(a.interfaces, Interface{Index: index})
	return &a.interfaces[len(a.interfaces)-1]
}

// ignoredAt adds what is in no flow to the interface it was seen at: to be told
// if the reader read from one alone, as each live source is.
func (a *account) ignoredAt(list []Interface) {
	if len(a.interfaces) != 1 {
		return
	}
	i := slices.IndexFunc(list, func(i Interface) bool { return i.Index == a.interfaces[0].Index })
	if list[i].Ignored == nil {
		list[i].Ignored = map[string]Count{}
	}
	add := func(reason string, c Count) {
		sum := list[i].Ignored[reason]
		sum.plus(c)
		list[i].Ignored[reason] = sum
	}
	for _, why := range packet.Reasons() {
		add(why.String(), a.ignored[why])
	}
	add(notSampled, a.notSampled)
	add(flowNotSampled, a.flows)
	add(ownExport, a.ownExport)
}

// reader takes packets from a source, chooses, decodes and counts them.
type reader struct {
	account account
	filter  Filter
	chosen  func(*flow.Key) bool // nil: all
	own     func(*flow.Key) bool // nil: none
	sampler *sampler             // nil: every packet
	flows   *cache.FlowSampler   // nil: every flow
	inner   bool                 // what is in tunnels is metered
	newest  int64
}

// decode reads one packet into in, and what more is wanted into x unless that is nil,
// and says whether it is to be metered.
func (r *reader) decode(p *capture.Packet, in *packet.Info, x *flow.More) bool {
	if r.filter != nil && !r.filter.Match(p) {
		r.account.filtered.add(uint64(p.Wire))
		return false
	}
	ok := false
	octets := uint64(p.Wire)
	switch {
	case r.sampler != nil && !r.sampler.take():
		r.account.notSampled.add(octets)
	default:
		var why packet.Reason
		if x == nil {
			why = p.Decode(in)
		} else {
			why = p.DecodeMore(r.inner, in, x)
		}
		ok = why == packet.Decoded
		if ok && r.chosen != nil && !r.chosen(&in.Key) {
			r.account.filtered.add(uint64(in.Length))
			return false
		}
		if ok && r.own != nil && r.own(&in.Key) {
			ok = false
			r.account.ownExport.add(octets)
		} else if ok && !r.flows.Take(&in.Key) {
			ok = false
			r.account.flows.add(octets)
		} else if ok {
			octets = uint64(in.Length)
			r.account.metered.add(octets)
			if in.Time < r.newest {
				r.account.backwards++
			} else {
				r.newest = in.Time
			}
		} else {
			r.account.ignored[min(int(why), len(r.account.ignored)-1)].add(octets)
		}
	}
	if p.Interface != 0 {
		c := r.account.at(p.Interface)
		if p.Egress {
			c.Out.add(octets)
			in.Key.Input |= flow.KeyEgress
		} else {
			c.In.add(octets)
		}
	}
	return ok
}

// sampler chooses one packet in n: the first, and then by counting down a gap
// that is n, or geometrically distributed with mean n.
type sampler struct {
	n   uint32
	gap uint32
	rng *rand.Rand
}

func newSampler(s Sampling, seed uint64) *sampler {
	if s.N < 2 {
		return nil
	}
	m := &sampler{n: s.N, gap: 1}
	if s.Random {
		m.rng = rand.New(rand.NewPCG(seed, 0x7765_6972))
		m.gap = m.next()
	}
	return m
}

func (s *sampler) take() bool {
	if s.gap--; s.gap > 0 {
		return false
	}
	s.gap = s.next()
	return true
}

func (s *sampler) next() uint32 {
	if s.rng == nil {
		return s.n
	}
	gap := uint32(1)
	for gap < 1<<31 && s.rng.Uint32N(s.n) != 0 {
		gap++
	}
	return gap
}

// sum adds accounts up, interfaces in order.
func sum(all []account) account {
	t := newAccount()
	for i := range all {
		a := &all[i]
		t.metered.plus(a.metered)
		t.notSampled.plus(a.notSampled)
		t.flows.plus(a.flows)
		t.ownExport.plus(a.ownExport)
		t.filtered.plus(a.filtered)
		t.backwards += a.backwards
		for j := range a.ignored {
			t.ignored[j].plus(a.ignored[j])
		}
		for _, f := range a.interfaces {
			to := t.at(f.Index)
			to.In.plus(f.In)
			to.Out.plus(f.Out)
		}
	}
	slices.SortFunc(t.interfaces, func(a, b Interface) int { return int(a.Index) - int(b.Index) })
	return t
}
