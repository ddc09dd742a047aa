package cache

import (
	"math"
	"unsafe"

	"weir/flow"
	"weir/packet"
)

// Wide flows know more than an Entry holds: what Config.Select adds to the key or
// wants collected, and the other direction of a biflow. Such a table has two or three
// places of an entry's size for each flow, which the entry's memory goes on into:
//
//	Entry | flow.More | both      More if facts are asked for, both if biflows are
//
// The same is true of a Gone in a Batch. An Entry's packets, octets and times are of
// both directions then, so that timers, sums and losses are those of any flow; its
// flags, lengths and TTLs are of the forward one.
//
// A biflow's key is turned so that both directions have the same (turn), and
// MoreReversed tells of a packet whether its was.

// maxPlaces is the most an entry takes.
const maxPlaces = 3

// both is what a biflow knows of its directions. Forward is that of the first packet.
type both struct {
	flow.Reverse
	First, Last int64 // of the forward packets
	Reversed    bool  // the forward direction is not that of the key
	Egress      bool  // the forward packets were seen leaving
	Ended       uint8 // FIN was seen: 1 forward, 2 back
}

// placesOf is how many places a flow takes.
func placesOf(s *flow.Selection) uint32 {
	n := uint32(1)
	if hasMore(s) {
		n++
	}
	if s.Biflow {
		n++
	}
	return n
}

// hasMore says whether flows have a flow.More; lengths and TTLs to collect are in an
// Entry.
func hasMore(s *flow.Selection) bool {
	return s.Facts()&flow.FactsMore&^(flow.ByTTL|flow.ByLength) != 0 || s.Key&(flow.ByTTL|flow.ByLength) != 0
}

// more is what stands behind e, if flows have it.
func (e *Entry) more() *flow.More { return (*flow.More)(unsafe.Add(unsafe.Pointer(e), EntrySize)) }

// both is what stands last behind e, if flows are biflows.
func (e *Entry) both(places uint32) *both {
	return (*both)(unsafe.Add(unsafe.Pointer(e), uintptr(places-1)*EntrySize))
}

// copyWide copies what stands behind an entry.
func copyWide(to, from *Entry, places uint32) {
	copy(unsafe.Slice(to, places)[1:], unsafe.Slice(from, places)[1:])
}

// moreWords is the part of a More that can be a key.
func moreWords(m *flow.More) *[flow.MoreKeyWords]uint64 {
	return (*[flow.MoreKeyWords]uint64)(unsafe.Pointer(m))
}

// wide is what is made of a Selection.
type wide struct {
	more, biflow bool
	keyed        bool // some of More is in the key
	types        bool // ICMP's types are in the key
	mask         [flow.MoreKeyWords]uint64
}

func newWide(cfg *Config) *wide {
	s := &cfg.Select
	w := &wide{more: hasMore(s), biflow: s.Biflow, types: icmpTypes(s)}
	key := s.Key
	if s.Inner {
		key |= flow.ByTunnel
	}
	w.keyed = key&flow.FactsMore != 0
	w.mask = *moreWords(maskMore(key))
	return w
}

// maskMore has all bits of what is in the key.
func maskMore(key flow.Facts) *flow.More {
	const all16, all32 = math.MaxUint16, math.MaxUint32
	m := new(flow.More)
	mac := [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for fact, set := range map[flow.Facts]func(){
		flow.BySrcMAC:    func() { m.SrcMAC = mac },
		flow.ByDstMAC:    func() { m.DstMAC = mac },
		flow.ByInnerVLAN: func() { m.InnerVLAN = all16 },
		flow.ByLength:    func() { m.Length = all16 },
		flow.ByMPLS: func() { // the label and whether there is one, not its traffic class
			for i := range m.Labels {
				m.Labels[i] = flow.LabelThere | 0xfffff0
			}
		},
		flow.ByFlowLabel: func() { m.FlowLabel = all32 },
		flow.ByTTL:       func() { m.TTL = math.MaxUint8 },
		flow.ByTunnel: func() {
			m.Tunnel, m.TunnelProto, m.TunnelHas = math.MaxUint8, math.MaxUint8, math.MaxUint8
			m.TunnelID, m.TunnelPort = all32, all16
			for i := range m.TunnelSrc {
				m.TunnelSrc[i], m.TunnelDst[i] = 0xff, 0xff
			}
		},
	} {
		if key&fact != 0 {
			set()
		}
	}
	return m
}

// prepare makes a packet's key what is looked up, and gives its hash.
func (w *wide) prepare(cfg *Config, s *secret, k *flow.Key, x *flow.More) uint64 {
	x.Flags = 0
	if masks(cfg) {
		maskKey(cfg, k)
	}
	if w.biflow {
		if turn(k, w.types) {
			x.Reverse()
		}
		if k.Input&flow.KeyEgress != 0 {
			k.Input &^= flow.KeyEgress
			x.Flags |= flow.MoreEgress
		}
	}
	return w.hash(s, k, x)
}

// hash is of the whole key.
func (w *wide) hash(s *secret, k *flow.Key, x *flow.More) uint64 {
	h := s.hash(k)
	if w.keyed {
		words := moreWords(x)
		for i := 0; i < len(words); i += 2 {
			h = fold(h^words[i]&w.mask[i]^s[i%len(s)], words[i+1]&w.mask[i+1]^s[(i+1)%len(s)])
		}
	}
	return h
}

// sameMore says whether the entry in the slot has the key of packet i of the chunk, as
// far as More has it.
func (c *Cache) sameMore(slot uint32, i int) bool {
	w := c.wide
	if !w.keyed {
		return true
	}
	a, b := moreWords(c.at(slot).more()), moreWords(c.more[i])
	differ := uint64(0)
	for j := range a {
		differ |= (a[j] ^ b[j]) & w.mask[j]
	}
	return differ == 0
}

// icmpTypes says whether ICMP's types are in the key.
func icmpTypes(s *flow.Selection) bool {
	return s.Key == 0 || s.Key&(flow.ByProto|flow.ByDstPort) == flow.ByProto|flow.ByDstPort
}

// turn gives a biflow's key its one way round, and says whether it turned it: the
// smaller address and port first. Of ICMP, if types are in the key, what asks and what
// answers belong together, as the question has it; the rest has one direction.
func turn(k *flow.Key, types bool) bool {
	if types && hasType(k) {
		to, answer := flow.ICMPQuestion(k.Proto, uint8(k.DstPort>>8))
		if !answer {
			return false
		}
		k.DstPort = uint16(to)<<8 | k.DstPort&0xff
		k.Src, k.Dst = k.Dst, k.Src
		return true
	}
	if !larger(k) {
		return false
	}
	swap(k)
	return true
}

// hasType says whether the key is of ICMP, and of a packet that has a type.
func hasType(k *flow.Key) bool {
	return (k.Proto == flow.ProtoICMP || k.Proto == flow.ProtoICMPv6) && k.VLAN&flow.KeyFragment == 0
}

// turnBack undoes turn.
func turnBack(k *flow.Key, types bool) {
	if types && hasType(k) {
		k.DstPort = uint16(flow.ICMPAnswer(k.Proto, uint8(k.DstPort>>8)))<<8 | k.DstPort&0xff
		k.Src, k.Dst = k.Dst, k.Src
		return
	}
	swap(k)
}

func swap(k *flow.Key) { k.Src, k.Dst, k.SrcPort, k.DstPort = k.Dst, k.Src, k.DstPort, k.SrcPort }

func larger(k *flow.Key) bool {
	for i := range k.Src {
		if k.Src[i] != k.Dst[i] {
			return k.Src[i] > k.Dst[i]
		}
	}
	return k.SrcPort > k.DstPort
}

// asSeen is packet i of the chunk as it was before prepare turned it.
func (c *Cache) asSeen(i int, in *packet.Info) *packet.Info {
	if c.wide == nil || c.more[i].Flags == 0 {
		return in
	}
	seen := *in
	if c.more[i].Flags&flow.MoreReversed != 0 {
		turnBack(&seen.Key, c.wide.types)
	}
	if c.more[i].Flags&flow.MoreEgress != 0 {
		seen.Key.Input |= flow.KeyEgress
	}
	return &seen
}

// createWide fills what stands behind a new entry.
func (c *Cache) createWide(e *Entry, in *packet.Info, x *flow.More) {
	if c.wide.more {
		*e.more() = *x
	}
	if c.wide.biflow {
		b := e.both(c.places)
		*b = both{First: in.Time, Last: in.Time, Reversed: x.Flags&flow.MoreReversed != 0, Egress: x.Flags&flow.MoreEgress != 0}
		if in.TCPFlags&flow.FIN != 0 {
			b.Ended = 1
		}
	}
}

// hitWide counts a packet of a wide flow.
func (c *Cache) hitWide(slot uint32, e *Entry, in *packet.Info, x *flow.More) {
	e.Bytes += uint64(in.Length)
	e.Packets++
	ends := in.TCPFlags&(flow.FIN|flow.RST) != 0
	forward := true
	if c.wide.biflow {
		b := e.both(c.places)
		forward = x.Flags&flow.MoreReversed != 0 == b.Reversed
		if forward {
			b.forward(e, in)
		} else {
			b.back(in, x)
		}
		ends = in.TCPFlags&flow.RST != 0 || in.TCPFlags&flow.FIN != 0 && b.Ended == 3
	}
	if forward {
		e.TCPFlags |= in.TCPFlags
		l := uint16(min(in.Length, math.MaxUint16))
		e.MinLength, e.MaxLength = min(e.MinLength, l), max(e.MaxLength, l)
		e.MinTTL, e.MaxTTL = min(e.MinTTL, in.TTL), max(e.MaxTTL, in.TTL)
		if c.wide.more {
			m := e.more()
			m.TCPOptions |= x.TCPOptions
			m.FragmentFlags |= x.FragmentFlags
		}
	}
	t := in.Time
	if e.Packets == 1 || t < e.Last || ends || e.Mark != 0 {
		c.hit(slot, e, t, ends)
		return
	}
	e.Last = t
	c.stampHit(slot, e, t)
}

// forward notes a packet of the forward direction, which e has counted.
func (b *both) forward(e *Entry, in *packet.Info) {
	if e.Packets-b.Packets == 1 {
		b.First, b.Last = in.Time, in.Time
	}
	b.First, b.Last = min(b.First, in.Time), max(b.Last, in.Time)
	if in.TCPFlags&flow.FIN != 0 {
		b.Ended |= 1
	}
}

// back counts a packet of the other direction.
func (b *both) back(in *packet.Info, x *flow.More) {
	l := uint16(min(in.Length, math.MaxUint16))
	if b.Packets == 0 {
		b.Reverse = flow.Reverse{First: in.Time, Last: in.Time, MinLength: l, MinTTL: in.TTL}
	}
	b.Packets++
	b.Bytes += uint64(in.Length)
	b.Reverse.First, b.Reverse.Last = min(b.Reverse.First, in.Time), max(b.Reverse.Last, in.Time)
	b.TCPFlags |= in.TCPFlags
	b.MinLength, b.MaxLength = min(b.MinLength, l), max(b.MaxLength, l)
	b.MinTTL, b.MaxTTL = min(b.MinTTL, in.TTL), max(b.MaxTTL, in.TTL)
	b.TCPOptions |= x.TCPOptions
	b.FragmentFlags |= x.FragmentFlags
	if in.TCPFlags&flow.FIN != 0 {
		b.Ended |= 2
	}
}

// clearWide begins a new delta of a flow that has been reported.
func (c *Cache) clearWide(e *Entry) {
	if c.wide.more {
		m := e.more()
		m.TCPOptions, m.FragmentFlags = 0, 0
	}
	if c.wide.biflow {
		b := e.both(c.places)
		*b = both{Reversed: b.Reversed, Egress: b.Egress, Ended: b.Ended}
	}
}

// Told is where what records tell beyond their columns is kept, for as long as a batch
// of them lives.
type Told struct {
	more    []flow.More
	reverse []flow.Reverse
	json    []byte
}

// reset forgets what was told; there will be up to n records.
func (t *Told) reset(n int) {
	if cap(t.more) < n {
		t.more, t.reverse = make([]flow.More, 0, n), make([]flow.Reverse, 0, n)
	}
	t.more, t.reverse, t.json = t.more[:0], t.reverse[:0], t.json[:0]
}

// Tells says whether records have something to tell that Tell must add.
func (r *Recorder) Tells() bool { return r.tells }

// Begin makes t ready for a batch of at most n records.
func (r *Recorder) Begin(t *Told, n int) {
	if r.tells {
		t.reset(n)
	}
}

// Tell adds to out, which Fill has made of g, what its columns do not say. It keeps
// that in t.
func (r *Recorder) Tell(g *Gone, out *flow.Record, t *Told) {
	if !r.tells || g.Mark&(goneAggregate|goneCatchAll) != 0 {
		return
	}
	s := r.selection
	reversed := false
	if s.Biflow {
		b := g.both(r.places)
		reversed = b.Reversed
		if reversed {
			r.turnBack(&g.Key, out)
		}
		if b.Egress {
			out.Input, out.Output, out.Direction = 0, out.Input, 1
			out.Has = out.Has&^flow.HasInput | flow.HasOutput | flow.HasDirection
		}
		t.reverse = append(t.reverse, b.Reverse)
		out.Reverse = &t.reverse[len(t.reverse)-1]
		out.Packets -= b.Packets
		out.Bytes -= b.Bytes
		if out.Packets > 0 {
			out.First, out.Last = b.First, b.Last
		}
	}
	if known := s.Facts() & flow.FactsMore; known != 0 {
		t.more = append(t.more, flow.More{})
		m := &t.more[len(t.more)-1]
		if hasMore(&s) {
			if *m = *g.more(); reversed {
				m.Reverse()
			}
		}
		m.Known = known
		if out.Packets > 0 {
			m.MinLength, m.MaxLength, m.MinTTL, m.MaxTTL = g.MinLength, g.MaxLength, g.MinTTL, g.MaxTTL
		}
		out.More = m
	}
	at := len(t.json)
	t.json = out.AppendMore(t.json)
	if len(t.json) > at {
		out.Elements = t.json[at:len(t.json):len(t.json)]
	}
}

// turnBack gives out the direction of the first packet.
func (r *Recorder) turnBack(k *flow.Key, out *flow.Record) {
	key := *k
	turnBack(&key, icmpTypes(&r.selection))
	out.Src, out.Dst, out.SrcPort, out.DstPort = key.Src, key.Dst, key.SrcPort, key.DstPort
	if out.Has&flow.HasICMP != 0 {
		out.ICMPType, out.ICMPCode = uint8(key.DstPort>>8), uint8(key.DstPort)
	}
}
