package acl

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/flow"
	"weir/packet"
)

// naive reads a list from top to bottom, as it is written.
type naive struct {
	p   *Policy
	now time.Time
}

func (n *naive) addrs(a *Addrs, f Family, v flow.Addr) bool {
	if a.Any() {
		return true
	}
	nets := a.Nets
	if a.Group != "" {
		nets = nil
		var add func(name string)
		add = func(name string) {
			g := n.p.Group(name)
			nets = append(nets, g.Nets...)
			for _, in := range g.Groups {
				add(in)
			}
		}
		add(a.Group)
	}
	return slices.ContainsFunc(nets, func(n Net) bool {
		four := n.Addr.Is4() && [12]byte(n.Care[:12]) == [12]byte(slices.Repeat([]byte{0xff}, 12))
		return four == (f == IPv4) && n.Contains(v)
	})
}

func inRanges(list []Range, v uint32) bool {
	return slices.ContainsFunc(list, func(r Range) bool { return uint32(r.From) <= v && v <= uint32(r.To) })
}

func (n *naive) ports(p *Ports, v uint16) bool {
	if p.Any() {
		return true
	}
	list := p.Ranges
	if p.Group != "" {
		list = nil
		var add func(name string)
		add = func(name string) {
			g := n.p.Group(name)
			list = append(list, g.Ports...)
			for _, in := range g.Groups {
				add(in)
			}
		}
		add(p.Group)
	}
	return inRanges(list, uint32(v))
}

func (n *naive) inTime(name string) bool {
	if name == "" {
		return true
	}
	for _, t := range n.p.Times {
		if t.Name == name {
			within, _ := t.at(n.now)
			return within
		}
	}
	panic(name)
}

// key says whether a rule's conditions on the flow key are met, and outside
// whether the others are.
func (n *naive) key(r *Rule, f Family, in *packet.Info) bool {
	k := &in.Key
	later := k.VLAN&flow.KeyFragment != 0
	protos := func(list ...uint8) bool { return slices.Contains(list, k.Proto) }
	switch {
	case !n.inTime(r.Time):
		return false
	case r.Proto != AnyProto && r.Proto != int16(k.Proto):
		return false
	case !n.addrs(&r.Src, f, k.Src) || !n.addrs(&r.Dst, f, k.Dst) || !r.TOS.Match(k.TOS):
		return false
	case (!r.SrcPorts.Any() || !r.DstPorts.Any()) && !protos(6, 17, 33, 132, 136):
		return false
	case len(r.ICMP) > 0 && !protos(1, 58):
		return false
	case !r.Flags.None() && !protos(6):
		return false
	case later:
		return r.Fragments || !r.Layer4() || r.Action == Permit
	case r.Fragments:
		return false
	}
	icmp := len(r.ICMP) == 0
	for _, i := range r.ICMP {
		icmp = icmp || i.Type == uint8(k.DstPort>>8) && (i.Code < 0 || i.Code == int16(k.DstPort&0xff))
	}
	return icmp && n.ports(&r.SrcPorts, k.SrcPort) && n.ports(&r.DstPorts, k.DstPort)
}

func (n *naive) outside(r *Rule, in *packet.Info) bool {
	if in.Key.VLAN&flow.KeyFragment == 0 && !r.Flags.Match(in.TCPFlags) {
		return false
	}
	return (len(r.TTL) == 0 || inRanges(r.TTL, uint32(in.TTL))) && (len(r.Lengths) == 0 || inRanges(r.Lengths, min(in.Length, 0xffff)))
}

// conditionOutside says whether a rule that can match at all has a condition
// that is not on the key.
func conditionOutside(r *Rule) bool {
	var met, all [3]bool
	all = [3]bool{true, true, true}
	for v := range 0x10000 {
		n := uint32(v)
		for i, m := range []bool{r.Flags.Match(uint8(v)), len(r.TTL) == 0 || inRanges(r.TTL, n&0xff), len(r.Lengths) == 0 || inRanges(r.Lengths, n)} {
			met[i], all[i] = met[i] || m, all[i] && m
		}
	}
	later := r.Fragments || r.Action == Permit
	return (met[0] || later) && met[1] && met[2] && all != [3]bool{true, true, true}
}

// classify gives the number of the rule, and whether the verdict depends on
// more than the key.
func (n *naive) classify(rules []*Rule, outside []bool, f Family, in *packet.Info) (rule int, depends bool) {
	if f == IPv6 != (in.Key.VLAN&flow.KeyIPv6 != 0) {
		return -1, false
	}
	for i, r := range rules {
		if !n.key(r, f, in) {
			continue
		}
		depends = depends || outside[i]
		if n.outside(r, in) {
			return i, depends
		}
	}
	panic("no rule matches")
}

// A world is where random rules and packets come from: few values, so that they
// meet.
type world struct {
	*rand.Rand
	addrs [2][]flow.Addr
	ports []uint16
}

func newWorld(seed uint64) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 1))}
	for range 1 + w.IntN(12) {
		w.addrs[IPv4] = append(w.addrs[IPv4], flow.AddrFrom4([4]byte{10, byte(w.IntN(3)), byte(w.Uint32()), byte(w.Uint32())}))
		var a flow.Addr
		for i := range a {
			a[i] = byte(w.Uint32())
		}
		if w.IntN(4) > 0 {
			a = flow.AddrFrom(netip.MustParseAddr("2001:db8::1"))
			a[4+w.IntN(12)] = byte(w.Uint32())
		}
		w.addrs[IPv6] = append(w.addrs[IPv6], a)
	}
	for range 1 + w.IntN(8) {
		w.ports = append(w.ports, uint16(w.Uint32()))
	}
	w.ports = append(w.ports, 0, 65535, 80)
	return w
}

func pick[T any](w *world, list []T) T { return list[w.IntN(len(list))] }

// addr is one of the world's, or close to one.
func (w *world) addr(f Family) flow.Addr {
	a := pick(w, w.addrs[f])
	first := 0
	if f == IPv4 {
		first = 12
	}
	switch w.IntN(6) {
	case 0:
		a[first+w.IntN(16-first)] ^= 1 << w.IntN(8)
	case 1: // the next or the one before
		step := byte(1 - 2*w.IntN(2))
		for i := 15; i >= first; i-- {
			a[i] += step
			if a[i] != 0 && step == 1 || a[i] != 0xff && step != 1 {
				break
			}
		}
	case 2:
		for i := first; i < 16; i++ {
			a[i] = byte(w.Uint32())
		}
	}
	return a
}

func (w *world) net(f Family) Net {
	a := w.addr(f).Netip()
	if f == IPv6 && !a.Is6() {
		a = netip.AddrFrom16(a.As16())
	}
	n := NetFrom(netip.PrefixFrom(a, w.IntN(a.BitLen()+1)))
	if w.IntN(4) == 0 {
		first := 11 // wildcards have fields for so many octets
		if f == IPv4 {
			first = 12
		}
		for range 1 + w.IntN(3) {
			n.Care[first+w.IntN(16-first)] ^= pick(w, []byte{1, 0x80, 0x55, byte(w.Uint32())})
		}
		n = NewNet(w.addr(f), n.Care)
	}
	return n
}

func (w *world) some(most int, fn func()) {
	for range w.IntN(most + 1) {
		fn()
	}
}

func (w *world) number() uint16 {
	return pick(w, w.ports) + uint16(pick(w, []int{0, 0, 0, 1, -1, 256, 3}))
}

func (w *world) span() Range {
	r := Range{w.number(), w.number()}
	switch {
	case w.IntN(3) == 0:
		r.To = r.From
	case r.From > r.To && w.IntN(10) > 0:
		r.From, r.To = r.To, r.From
	}
	return r
}

func (w *world) of(f Family, groups []string) (a Addrs) {
	switch w.IntN(5) {
	case 0, 1:
	case 2:
		a.Group = pick(w, groups)
	default:
		a.Nets = append(a.Nets, w.net(f))
		w.some(3, func() { a.Nets = append(a.Nets, w.net(Family(w.IntN(8)/7)^f)) })
	}
	return a
}

func (w *world) portsOf(groups []string) (p Ports) {
	switch w.IntN(5) {
	case 0:
		p.Group = pick(w, groups)
	case 1, 2:
		p.Ranges = append(p.Ranges, w.span())
		w.some(3, func() { p.Ranges = append(p.Ranges, w.span()) })
	}
	return p
}

func (w *world) rule(f Family, seq uint32, strange bool) *Rule {
	r := &Rule{
		Seq: seq, Action: Action(w.IntN(2)), Reject: w.IntN(4) == 0, Log: Log(w.IntN(3)),
		Proto: pick(w, []int16{AnyProto, 6, 6, 6, 17, 17, 1, 58, 132, 47}),
	}
	nets, services := []string{"n0", "n1", "n2"}, []string{"s0", "s1"}
	r.Src, r.Dst = w.of(f, nets), w.of(f, nets)
	if strange || slices.Contains([]int16{6, 17, 132}, r.Proto) {
		r.SrcPorts, r.DstPorts = w.portsOf(services), w.portsOf(services)
	}
	if (strange || r.Proto == 1 || r.Proto == 58) && w.IntN(2) == 0 {
		w.some(3, func() {
			r.ICMP = append(r.ICMP, ICMP{uint8(w.number() >> 8), int16(pick(w, []int{-1, 0, 1, int(w.number() & 0xff)}))})
		})
	}
	if (strange || r.Proto == 6) && w.IntN(3) == 0 {
		r.Flags = pick(w, []Flags{Established, {Set: flow.SYN}, {Set: flow.SYN, Clear: flow.ACK}, {MatchAny: true, Set: 3, Clear: 0x10}, {MatchAny: true, Set: 1, Clear: 1}, {Set: 1, Clear: 1}})
	}
	if w.IntN(6) == 0 {
		r.TOS = pick(w, []TOS{{0xfc, 0xb8}, {0xe0, 0x20}, {0x1e, 0x10}, {0xff, 0}, {1, 2}})
	}
	if w.IntN(8) == 0 {
		w.some(3, func() {
			from := uint16(w.IntN(256))
			r.TTL = append(r.TTL, Range{from, from + uint16(pick(w, []int{0, 1, 100, 255}))})
		})
	}
	if w.IntN(8) == 0 {
		w.some(3, func() { r.Lengths = append(r.Lengths, w.span()) })
	}
	r.Fragments = w.IntN(12) == 0 && (strange || !r.Layer4())
	if w.IntN(10) == 0 {
		r.Time = pick(w, []string{"work", "never"})
	}
	return r
}

func (w *world) policy(lists, rules int) *Policy {
	p := &Policy{Times: []*TimeRange{
		{Name: "work", Periods: []Period{{Days: 0x3e, From: 8 * 60, To: 17 * 60}}},
		{Name: "never", End: time.Unix(0, 0)},
	}}
	nets := func(n int) (list []Net) {
		w.some(n, func() { list = append(list, w.net(Family(w.IntN(2)))) })
		return list
	}
	p.Groups = []*Group{
		{Name: "n0", Nets: nets(40), Groups: []string{"n1", "n2"}},
		{Name: "n1", Nets: nets(20)},
		{Name: "n2", Nets: nets(3), Groups: []string{"n1"}},
		{Name: "s0", Kind: GroupService, Ports: []Range{w.span(), w.span()}, Groups: []string{"s1"}},
		{Name: "s1", Kind: GroupService, Ports: []Range{w.span(), w.span(), w.span()}},
	}
	strange := w.IntN(4) == 0 // what no parser lets through
	for i := range lists {
		l := &List{Name: fmt.Sprint(i), Family: Family(w.IntN(2))}
		for seq := range w.IntN(rules + 1) {
			l.Rules = append(l.Rules, w.rule(l.Family, uint32(seq+1), strange))
		}
		p.Lists = append(p.Lists, l)
	}
	return p
}

func (w *world) packet(f Family) (in packet.Info) {
	k := &in.Key
	k.Src, k.Dst = w.addr(f), w.addr(f)
	k.Proto = pick(w, []uint8{6, 6, 6, 17, 17, 1, 58, 132, 47, uint8(w.Uint32())})
	k.TOS = pick(w, []uint8{0, 0xb8, 0xb9, 0x20, 0x10, uint8(w.Uint32())})
	if f == IPv6 {
		k.VLAN |= flow.KeyIPv6
	}
	in.TTL = uint8(w.Uint32())
	in.Length = pick(w, []uint32{uint32(w.number()), 40, 65535, 65536, 70000})
	if w.IntN(5) == 0 {
		k.VLAN |= flow.KeyFragment
	} else {
		k.SrcPort, k.DstPort = w.number(), w.number()
		if k.Proto == 1 || k.Proto == 58 {
			k.SrcPort = 0
			k.DstPort = pick(w, []uint16{k.DstPort, k.DstPort & 0xff00, 135 << 8, 136<<8 | 1})
		}
	}
	if k.Proto == flow.ProtoTCP {
		in.TCPFlags = pick(w, []uint8{flow.SYN, flow.ACK, flow.SYN | flow.ACK, flow.RST, flow.FIN, 0, uint8(w.Uint32())})
	}
	return in
}

var midday = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC) // a Wednesday

// hold compares what a bank says of packets with what the rules say.
func hold(t interface{ Fatalf(string, ...any) }, w *world, p *Policy, b *Bank, packets int) {
	n := &naive{p, midday}
	if b.Lists() != len(p.Lists) {
		t.Fatalf("%d lists of %d", b.Lists(), len(p.Lists))
	}
	outside := make([][]bool, b.Lists())
	for i := range outside {
		for _, r := range b.Rules(i) {
			outside[i] = append(outside[i], conditionOutside(r))
		}
	}
	for range packets {
		in := w.packet(Family(w.IntN(2)))
		type verdict struct {
			rule    int
			depends bool
		}
		verdicts := func(in *packet.Info) (v []verdict) {
			for i, l := range p.Lists {
				rule, depends := n.classify(b.Rules(i), outside[i], l.Family, in)
				v = append(v, verdict{rule, depends})
			}
			return v
		}
		want := verdicts(&in)
		for i, v := range want {
			got := b.Classify(i, &in)
			if got.Rule != v.rule || got.Depends != v.depends {
				t.Fatalf("list %d, %+v: rule %d, depends %v, but it is %d, %v\n%+v", i, in, got.Rule, got.Depends, v.rule, v.depends, *b.Rules(i)[max(v.rule, 0)])
			}
			if v.rule < 0 {
				continue
			}
			r := b.Rules(i)[v.rule]
			if got.Action != r.Action || got.Reject != (r.Reject && r.Action == Deny) || got.Log != r.Log || got.ID == 0 {
				t.Fatalf("list %d: rule %d is %+v: %+v", i, v.rule, *r, got)
			}
		}
		// Another packet of the flow, which differs in a thing or two.
		class, other := b.Class(&in), in
		same := w.packet(IPv4)
		if w.IntN(2) == 0 {
			other.TTL = same.TTL
		}
		if w.IntN(2) == 0 {
			other.Length = same.Length
		}
		if in.Key.Proto == flow.ProtoTCP && w.IntN(2) == 0 {
			other.TCPFlags = uint8(w.Uint32())
		}
		equal := class < ClassMany && b.Class(&other) == class
		for i, v := range verdicts(&other) {
			if (equal || !want[i].depends) && v.rule != want[i].rule {
				t.Fatalf("list %d: %+v has rule %d, of the same flow and class %d is\n%+v with rule %d, depends %v", i, in, want[i].rule, class, other, v.rule, want[i].depends)
			}
		}
	}
}

// TestClassify: random lists, and packets that are close to what they say.
func TestClassify(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(rapid.Uint64().Draw(t, "seed"))
		p := w.policy(1+w.IntN(3), rapid.SampledFrom([]int{3, 20, 70, 200}).Draw(t, "rules"))
		o := CompileOptions{Now: midday}
		if w.IntN(2) == 0 {
			o.Protect[IPv4] = []*Rule{w.rule(IPv4, 0, false)}
		}
		b, err := Compile(p, o)
		if err != nil {
			t.Fatal(err)
		}
		hold(t, w, p, b, 300)
	})
}

// TestClassifyLong: vectors whose summary has more than one word.
func TestClassifyLong(t *testing.T) {
	w := newWorld(7)
	p := w.policy(2, 0)
	for _, l := range p.Lists {
		for seq := range 9000 {
			l.Rules = append(l.Rules, w.rule(l.Family, uint32(seq+1), false))
			l.Rules[seq].Dst = Addrs{Nets: []Net{NetFrom(netip.PrefixFrom(w.addr(l.Family).Netip(), 32-seq%2))}}
		}
	}
	b, err := Compile(p, CompileOptions{Now: midday})
	if err != nil {
		t.Fatal(err)
	}
	hold(t, w, p, b, 1000)
}
