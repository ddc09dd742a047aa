package cache

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"weir/flow"
	"weir/packet"
)

func TestWideLayout(t *testing.T) {
	if n := unsafe.Sizeof(both{}); n > EntrySize {
		t.Errorf("both directions take %d octets, an entry's place has %d", n, EntrySize)
	}
	if n := unsafe.Sizeof(flow.More{}); n != EntrySize {
		t.Errorf("a More takes %d octets, an entry's place has %d", n, EntrySize)
	}
	for _, c := range []struct {
		s      flow.Selection
		places uint32
	}{
		{flow.Selection{}, 1},
		{flow.Selection{Key: flow.BySrc, Collect: flow.ByTTL | flow.ByLength}, 1},
		{flow.Selection{Biflow: true, Collect: flow.ByTTL}, 2},
		{flow.Selection{Collect: flow.BySrcMAC}, 2},
		{flow.Selection{Inner: true, Biflow: true}, 3},
	} {
		if got := placesOf(&c.s); got != c.places || (got > 1) != c.s.Wide() {
			t.Errorf("%+v takes %d places, want %d", c.s, got, c.places)
		}
	}
}

// wideModel is a cache of wide flows as one would first write it: keys are text, every
// second everything is looked at. It has room for all.
type wideModel struct {
	cfg   Config
	flows map[string]*wideFlow
	tick  int64
	out   []string
}

type wideFlow struct {
	first          packet.Info // and what is told of the first packet
	more           flow.More
	dir            [2]wideDir // 0: that of the first packet
	start, last    int64      // of both, start since the last report
	fin            int64      // when it was over; 0: it is not
	finSeen        [2]bool
	packets, bytes uint64
}

type wideDir struct {
	packets, bytes uint64
	first, last    int64
	flags          uint8
	options        uint64
	minLen, maxLen uint16
	minTTL, maxTTL uint8
}

// keyText is what makes a flow, in words, for one way round.
func keyText(s *flow.Selection, in *packet.Info, m *flow.More) string {
	k := in.Key
	key := s.Key
	if key == 0 {
		key = flow.FactsCisco
	}
	var b strings.Builder
	say := func(f flow.Facts, v any) {
		if key&f != 0 {
			fmt.Fprintf(&b, "%v;", v)
		}
	}
	fmt.Fprintf(&b, "%v;", k.VLAN&flow.KeyIPv6 != 0)
	if key&(flow.BySrcPort|flow.ByDstPort) != 0 {
		fmt.Fprintf(&b, "%v;", k.VLAN&flow.KeyFragment != 0)
	}
	say(flow.BySrc, k.Src)
	say(flow.ByDst, k.Dst)
	say(flow.BySrcPort, k.SrcPort)
	say(flow.ByDstPort, k.DstPort)
	say(flow.ByProto, k.Proto)
	say(flow.ByTOS, k.TOS)
	say(flow.ByDSCP, k.TOS>>2)
	input := k.Input
	if s.Biflow {
		input &^= flow.KeyEgress
	}
	say(flow.ByInput, input)
	say(flow.ByVLAN, k.VLAN&(flow.KeyTagged|flow.VLANMask))
	say(flow.ByInnerVLAN, m.InnerVLAN)
	say(flow.BySrcMAC, m.SrcMAC)
	say(flow.ByDstMAC, m.DstMAC)
	say(flow.ByTTL, m.TTL)
	say(flow.ByLength, m.Length)
	say(flow.ByFlowLabel, m.FlowLabel)
	return b.String()
}

// otherWay is the packet as one of the other direction would look.
func otherWay(in packet.Info, m flow.More, types bool) (packet.Info, flow.More) {
	k := &in.Key
	if types && k.Proto == flow.ProtoICMP && k.VLAN&flow.KeyFragment == 0 {
		switch k.DstPort >> 8 {
		case 0:
			k.DstPort |= 8 << 8
		case 8:
			k.DstPort &= 0xff
		default:
			return in, m // no answer
		}
		k.Src, k.Dst = k.Dst, k.Src
	} else {
		k.Src, k.Dst, k.SrcPort, k.DstPort = k.Dst, k.Src, k.DstPort, k.SrcPort
	}
	m.SrcMAC, m.DstMAC = m.DstMAC, m.SrcMAC
	return in, m
}

func (w *wideModel) add(in packet.Info, m flow.More) {
	s := &w.cfg.Select
	key, back := keyText(s, &in, &m), false
	f := w.flows[key]
	if f == nil && s.Biflow {
		other, om := otherWay(in, m, s.Key == 0 || s.Key&flow.ByDstPort != 0)
		if o := w.flows[keyText(s, &other, &om)]; o != nil {
			f, back = o, true
		}
	}
	if f == nil {
		f = &wideFlow{first: in, more: m, start: in.Time, last: in.Time}
		w.flows[key] = f
	}
	d := &f.dir[0]
	if back {
		d = &f.dir[1]
	}
	l := uint16(min(in.Length, math.MaxUint16))
	if d.packets == 0 {
		*d = wideDir{first: in.Time, last: in.Time, minLen: l, minTTL: in.TTL}
	}
	if f.packets == 0 {
		f.start = in.Time
	}
	d.packets++
	d.bytes += uint64(in.Length)
	d.first, d.last = min(d.first, in.Time), max(d.last, in.Time)
	d.flags |= in.TCPFlags
	d.options |= m.TCPOptions
	d.minLen, d.maxLen = min(d.minLen, l), max(d.maxLen, l)
	d.minTTL, d.maxTTL = min(d.minTTL, in.TTL), max(d.maxTTL, in.TTL)
	f.packets++
	f.bytes += uint64(in.Length)
	f.start, f.last = min(f.start, in.Time), max(f.last, in.Time)
	over := in.TCPFlags&(flow.FIN|flow.RST) != 0
	if s.Biflow {
		if in.TCPFlags&flow.FIN != 0 {
			f.finSeen[map[bool]int{false: 0, true: 1}[back]] = true
		}
		over = in.TCPFlags&flow.RST != 0 || in.TCPFlags&flow.FIN != 0 && f.finSeen[0] && f.finSeen[1]
	}
	if over && f.fin == 0 {
		f.fin = in.Time
	}
}

func (w *wideModel) to(now int64) {
	for ; w.tick < floorSecond(now); w.tick++ {
		s := w.tick + 1
		for key, f := range w.flows {
			switch {
			case f.fin != 0 && passed(s, f.fin, w.cfg.TCPEnd):
				w.end(key, f, flow.EndDetected)
			case passed(s, f.last, w.cfg.Idle):
				w.end(key, f, flow.EndIdle)
			case f.packets > 0 && passed(s, f.start, w.cfg.Active):
				w.tell(f, flow.EndActive)
				f.packets, f.bytes, f.dir = 0, 0, [2]wideDir{}
			}
		}
	}
}

func (w *wideModel) end(key string, f *wideFlow, why flow.EndReason) {
	if f.packets > 0 {
		w.tell(f, why)
	}
	delete(w.flows, key)
}

func (w *wideModel) tell(f *wideFlow, why flow.EndReason) {
	s := &w.cfg.Select
	r := wideText(why, f.dir[0].packets, f.dir[0].bytes, f.dir[0].flags)
	key := s.Key
	if key == 0 {
		key = flow.FactsCisco
	}
	if key&flow.BySrc != 0 {
		r += fmt.Sprintf(" src %v", f.first.Key.Src)
	}
	if key&flow.BySrcPort != 0 && f.first.Key.Proto != flow.ProtoICMP {
		r += fmt.Sprintf(" sport %d", f.first.Key.SrcPort)
	}
	if key&flow.ByDstPort != 0 {
		r += fmt.Sprintf(" dport %d", f.first.Key.DstPort)
	}
	if facts := s.Facts(); facts&flow.BySrcMAC != 0 {
		r += fmt.Sprintf(" mac %x", f.more.SrcMAC)
	}
	if f.dir[0].packets > 0 {
		if facts := s.Facts(); facts&flow.ByTTL != 0 {
			r += fmt.Sprintf(" ttl %d-%d", f.dir[0].minTTL, f.dir[0].maxTTL)
		}
		r += fmt.Sprintf(" times %d-%d", f.dir[0].first, f.dir[0].last)
	}
	if facts := s.Facts(); facts&flow.ByTCPOptions != 0 {
		r += fmt.Sprintf(" options %x", f.dir[0].options)
	}
	if s.Biflow {
		d := &f.dir[1]
		r += fmt.Sprintf(" back %d %d %x", d.packets, d.bytes, d.flags)
		if d.packets > 0 {
			r += fmt.Sprintf(" times %d-%d ttl %d-%d len %d-%d options %x", d.first, d.last, d.minTTL, d.maxTTL, d.minLen, d.maxLen, d.options)
		}
	}
	w.out = append(w.out, r)
}

func wideText(why flow.EndReason, packets, bytes uint64, flags uint8) string {
	return fmt.Sprintf("%v %d %d %x", why, packets, bytes, flags)
}

// recordText is a record as the model tells it.
func recordText(r *flow.Record, s *flow.Selection) string {
	t := wideText(r.EndReason, r.Packets, r.Bytes, uint8(r.TCPFlags))
	if r.Has&flow.HasSrc != 0 {
		t += fmt.Sprintf(" src %v", r.Src)
	}
	if r.Has&flow.HasSrcPort != 0 && r.Proto != flow.ProtoICMP {
		t += fmt.Sprintf(" sport %d", r.SrcPort)
	}
	if r.Has&flow.HasDstPort != 0 {
		t += fmt.Sprintf(" dport %d", r.DstPort)
	}
	if s.Facts()&flow.BySrcMAC != 0 {
		t += fmt.Sprintf(" mac %x", r.More.SrcMAC)
	}
	if r.Packets > 0 {
		if s.Facts()&flow.ByTTL != 0 {
			t += fmt.Sprintf(" ttl %d-%d", r.More.MinTTL, r.More.MaxTTL)
		}
		t += fmt.Sprintf(" times %d-%d", r.First, r.Last)
	}
	if s.Facts()&flow.ByTCPOptions != 0 {
		t += fmt.Sprintf(" options %x", r.More.TCPOptions)
	}
	if d := r.Reverse; d != nil {
		t += fmt.Sprintf(" back %d %d %x", d.Packets, d.Bytes, d.TCPFlags)
		if d.Packets > 0 {
			t += fmt.Sprintf(" times %d-%d ttl %d-%d len %d-%d options %x", d.First, d.Last, d.MinTTL, d.MaxTTL, d.MinLength, d.MaxLength, d.TCPOptions)
		}
	}
	return t
}

func drawSelection(t *rapid.T) flow.Selection {
	s := flow.Selection{
		Biflow:  rapid.Bool().Draw(t, "biflow"),
		Collect: flow.Facts(rapid.SampledFrom([]flow.Facts{0, flow.ByTTL, flow.BySrcMAC | flow.ByDstMAC, flow.ByTCPOptions | flow.ByTTL}).Draw(t, "collect")),
	}
	s.Key = rapid.SampledFrom([]flow.Facts{
		0, flow.Facts5Tuple, flow.BySrc | flow.ByDst | flow.ByProto | flow.ByDSCP, flow.Facts5Tuple | flow.BySrcMAC | flow.ByDstMAC,
		flow.FactsCisco | flow.ByInnerVLAN, flow.Facts5Tuple | flow.ByTTL | flow.ByLength, flow.BySrc | flow.ByDst | flow.ByFlowLabel,
	}).Draw(t, "key")
	return s
}

// Wide flows are those of the model, record for record, and count every packet.
func TestWideModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			Entries: 2048, Offline: true, Select: drawSelection(t),
			Idle:   drawTimeout(t, "idle", 0, 3*time.Second, 15*time.Second),
			Active: drawTimeout(t, "active", 0, 5*time.Second, 30*time.Second),
			TCPEnd: drawTimeout(t, "tcp end", 0, 2*time.Second),
		}
		var got []string
		var packets, octets uint64
		shown, left := map[uint64]uint64{}, map[uint64]uint64{}
		sink := flow.SinkFunc(func(batch []flow.Record) error {
			for i := range batch {
				p, b := batch[i].Total()
				packets, octets = packets+p, octets+b
				got = append(got, recordText(&batch[i], &cfg.Select))
				left[batch[i].FlowID] = p
			}
			return nil
		})
		c, err := New(cfg, sink)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		m := &wideModel{cfg: cfg, flows: map[string]*wideFlow{}}
		now := 1_700_000_000 * second
		m.tick = floorSecond(now)
		c.Tick(now)
		var inPackets, inOctets uint64
		for range rapid.IntRange(1, 120).Draw(t, "packets") {
			now += rapid.SampledFrom([]int64{0, 1, 1e6, second, 3 * second, 16 * second}).Draw(t, "step")
			in, more := drawPacket(t, now)
			m.to(now)
			c.Tick(now)
			m.add(in, more)
			if cfg.Select.Wide() {
				c.AddMore([]packet.Info{in}, []flow.More{more})
			} else {
				c.Add([]packet.Info{in})
			}
			inPackets++
			inOctets += uint64(in.Length)
		}
		var held uint64
		c.Entries(func(r *flow.Record) bool {
			p, _ := r.Total()
			held += p
			shown[r.FlowID] = p
			return true
		})
		c.Flush()
		if packets+held != inPackets {
			t.Fatalf("%d packets left and %d are held, of %d", packets, held, inPackets)
		}
		for key, f := range m.flows {
			m.end(key, f, flow.EndForced)
		}
		c.Drain(flow.EndForced)
		for id, p := range shown {
			if left[id] != p {
				t.Fatalf("%#x was shown with %d packets and left with %d", id, p, left[id])
			}
		}
		slices.Sort(m.out)
		slices.Sort(got)
		if !slices.Equal(m.out, got) {
			t.Fatalf("%+v\nmodel\n  %s\ncache\n  %s", cfg.Select, strings.Join(m.out, "\n  "), strings.Join(got, "\n  "))
		}
		if packets != inPackets || octets != inOctets {
			t.Fatalf("%d packets and %d octets came, %d and %d left", inPackets, inOctets, packets, octets)
		}
	})
}

func drawPacket(t *rapid.T, now int64) (in packet.Info, m flow.More) {
	pick := func(name string, of ...uint64) uint64 { return rapid.SampledFrom(of).Draw(t, name) }
	a, b := flow.AddrFrom4([4]byte{10, 0, 0, 1}), flow.AddrFrom4([4]byte{10, 0, 0, 2})
	in = packet.Info{Time: now, Length: uint32(pick("length", 40, 1500, 70000)), TTL: uint8(pick("ttl", 63, 64))}
	in.Key = flow.Key{Src: a, Dst: b, SrcPort: 1000, DstPort: 53, Proto: uint8(pick("proto", 1, 6, 17)), TOS: uint8(pick("tos", 0, 1, 4)), Input: uint32(pick("input", 0, 3, 3|flow.KeyEgress))}
	m = flow.More{SrcMAC: [6]byte{1}, DstMAC: [6]byte{2}, TTL: in.TTL, Length: uint16(min(in.Length, math.MaxUint16)), FlowLabel: uint32(pick("label", 1, 2)), InnerVLAN: uint16(pick("inner", 0, flow.KeyTagged|1))}
	m.TCPOptions = pick("options", 0, 4, 256)
	switch in.Key.Proto {
	case 1:
		in.Key.SrcPort, in.Key.DstPort = 0, uint16(pick("icmp", 0, 8<<8, 3<<8))
	case 6:
		in.TCPFlags = uint8(pick("flags", flow.SYN, flow.ACK, flow.FIN|flow.ACK, flow.RST))
	}
	if pick("fragment", 0, 0, 0, 1) == 1 {
		in.Key.SrcPort, in.Key.DstPort, in.TCPFlags = 0, 0, 0
		in.Key.VLAN |= flow.KeyFragment
	}
	if rapid.Bool().Draw(t, "back") && in.Key.Proto != 1 {
		in, m = otherWay(in, m, true)
	} else if rapid.Bool().Draw(t, "swap") {
		in.Key.Src, in.Key.Dst = in.Key.Dst, in.Key.Src
	}
	return in, m
}

// A full table of wide flows loses nothing either: what has no room leaves early, or is
// counted in aggregates.
func TestWidePressure(t *testing.T) {
	for _, offline := range []bool{true, false} {
		cfg := Config{Entries: 1024, Offline: offline, Idle: 15 * time.Second, Select: flow.Selection{Biflow: true, Collect: flow.BySrcMAC}}
		var packets, octets uint64
		c, err := New(cfg, flow.SinkFunc(func(batch []flow.Record) error {
			for i := range batch {
				p, b := batch[i].Total()
				packets, octets = packets+p, octets+b
			}
			return nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		now := 1_700_000_000 * second
		infos, more := make([]packet.Info, 512), make([]flow.More, 512)
		n := uint64(0)
		for round := range 40 {
			for i := range infos {
				k := uint32(round*300 + i)
				infos[i] = packet.Info{Time: now, Length: 100, Key: flow.Key{Src: flow.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)}), Dst: flow.AddrFrom4([4]byte{192, 0, 2, 1}), SrcPort: uint16(k), DstPort: 443, Proto: 17}}
				if i%3 == 0 {
					infos[i], more[i] = otherWay(infos[i], flow.More{SrcMAC: [6]byte{1}, DstMAC: [6]byte{2}}, true)
				}
			}
			c.AddMore(infos, more)
			n += uint64(len(infos))
			now += second / 2
			c.Tick(now)
		}
		c.Drain(flow.EndForced)
		if packets != n || octets != 100*n {
			t.Errorf("offline %v: %d packets, %d octets of %d packets", offline, packets, octets, n)
		}
		if s := c.Stats(); offline && s.Expired[flow.EndResource] == 0 || !offline && s.Refused == 0 {
			t.Errorf("offline %v: the table was not full: %+v", offline, s)
		}
		c.Close()
	}
}

func TestWideAllocations(t *testing.T) {
	c, err := New(Config{Entries: 4096, Idle: 15 * time.Second, Select: flow.Selection{Biflow: true, Collect: flow.BySrcMAC | flow.ByTTL}}, flow.SinkFunc(func([]flow.Record) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	now := 1_700_000_000 * second
	infos, more := make([]packet.Info, 256), make([]flow.More, 256)
	round := func() {
		for i := range infos {
			infos[i] = packet.Info{Time: now, Length: 100, Key: flow.Key{SrcPort: uint16(i), DstPort: 443, Proto: 17}}
			more[i] = flow.More{}
		}
		c.AddMore(infos, more)
		now += 20 * second // all of them leave
		c.Tick(now)
	}
	for range 5 {
		round()
	}
	if n := testing.AllocsPerRun(50, round); n != 0 {
		t.Errorf("%v allocations for 256 flows", n)
	}
}

func TestFlowSampler(t *testing.T) {
	cfg := Config{Seed: 7, Select: flow.Selection{Biflow: true, Key: flow.Facts5Tuple}}
	s := NewFlowSampler(cfg, 8)
	taken := 0
	for i := range 8000 {
		k := flow.Key{Src: flow.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Dst: flow.AddrFrom4([4]byte{192, 0, 2, 1}), SrcPort: uint16(i), DstPort: 443, Proto: 6, TOS: uint8(i)}
		back := k
		swap(&back)
		back.TOS = 77 // not in the key
		back.Input = flow.KeyEgress
		if s.Take(&k) != s.Take(&back) {
			t.Fatal("the two directions of a flow part")
		}
		if s.Take(&k) {
			taken++
		}
	}
	if taken < 850 || taken > 1150 {
		t.Errorf("%d of 8000 flows taken at 1:8", taken)
	}
	if !NewFlowSampler(cfg, 1).Take(&flow.Key{}) {
		t.Error("1:1 does not take all")
	}
}
