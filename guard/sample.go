package guard

import (
	"math/rand/v2"

	"weir/flow"
)

// sampleSize is how many deltas a sample holds at most.
const sampleSize = 8192

// sample is spread evenly over the packets of a tick: they are cut into blocks of stride
// packets, one packet of each is drawn, and its delta is in the sample. So shares in it
// are shares of packets, and nobody can send in step with it. Its memory is constant;
// when it is full, every second one is left out and the stride doubles.
type sample struct {
	stride  uint64
	at      uint64 // packets of the block that are over
	pick    uint64 // the packet of the block that is drawn, from 1
	packets uint64 // seen in this tick
	list    []sampled
	dice    uint64 // xorshift64 (Marsaglia 2003)
}

type sampled struct {
	Delta
	weight uint64 // blocks
}

func newSample() *sample {
	return &sample{stride: 1, pick: 1, list: make([]sampled, 0, sampleSize), dice: rand.Uint64() | 1}
}

func (s *sample) draw() uint64 {
	s.dice ^= s.dice << 13
	s.dice ^= s.dice >> 7
	s.dice ^= s.dice << 17
	return 1 + s.dice%s.stride
}

func (s *sample) add(d *Delta) {
	s.packets += d.Packets
	end := s.at + d.Packets
	if end < s.stride && end < s.pick { // as most are, where there are many
		s.at = end
		return
	}
	n := uint64(0)
	if s.at < s.pick && s.pick <= end {
		n++
	}
	if end >= s.stride { // whole blocks in between, and the beginning of the next
		n += end/s.stride - 1
		s.at, s.pick = end%s.stride, s.draw()
		if s.pick <= s.at {
			n++
		}
	} else {
		s.at = end
	}
	if n == 0 {
		return
	}
	if len(s.list) == cap(s.list) {
		s.halve()
	}
	s.list = append(s.list, sampled{*d, n})
}

func (s *sample) halve() {
	kept, carry := s.list[:0], uint64(0)
	for i := range s.list {
		w := s.list[i].weight + carry
		carry = w % 2
		if w >= 2 {
			kept = append(kept, s.list[i])
			kept[len(kept)-1].weight = w / 2
		}
	}
	s.list = kept
	s.stride *= 2
	s.at, s.pick = 0, s.draw()
}

// next begins a tick; its stride fits what the last one had.
func (s *sample) next() {
	s.stride = max(1, s.packets/(sampleSize/2))
	s.at, s.packets, s.list = 0, 0, s.list[:0]
	s.pick = s.draw()
}

// of visits the deltas that m matches, with the packets that each stands for.
func (s *sample) of(m *Match, visit func(d *Delta, packets uint64)) {
	for i := range s.list {
		if m.Hits(&s.list[i].Delta) {
			visit(&s.list[i].Delta, s.list[i].weight*s.stride)
		}
	}
}

// mask6 zeroes the host part of an IPv6 address's /64; IPv4 addresses stay.
func mask6(a flow.Addr) flow.Addr {
	if !a.Is4() {
		clear(a[8:])
	}
	return a
}

// network is the /24 or /64 of a.
func network(a flow.Addr) flow.Addr {
	if a.Is4() {
		a[15] = 0
		return a
	}
	clear(a[8:])
	return a
}
