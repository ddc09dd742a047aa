package acl

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weir/flow"
	"weir/packet"
)

// TestClassifyGroup: 64 k prefixes, of both families, in a group of two lists.
func TestClassifyGroup(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	four, six := access(rng, IPv4, 20), access(rng, IPv6, 20)
	p, other := withGroup(rng, IPv4, four), withGroup(rng, IPv6, six)
	p.Lists = append(p.Lists, six)
	p.Groups[0].Nets = append(p.Groups[0].Nets, other.Groups[0].Nets...)
	b, err := Compile(p, CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d KiB", b.Size()/1024)
	if b.Size() > 8<<20 {
		t.Errorf("%d octets for 2 x 64 k prefixes", b.Size())
	}
	members := map[bool]int{}
	n := &naive{p: p}
	for i, l := range p.Lists {
		outside := make([]bool, len(b.Rules(i)))
		for _, in := range accessPackets(rng, &List{Family: l.Family, Rules: l.Rules[1:]}, 300) {
			if rng.IntN(2) == 0 {
				in.Key.Src = p.Groups[0].Nets[1<<16*i+rng.IntN(1<<16)].Addr
				in.Key.Src[15] -= byte(rng.IntN(2))
			}
			want, _ := n.classify(b.Rules(i), outside, l.Family, &in)
			if got := b.Classify(i, &in); got.Rule != want {
				t.Fatalf("%+v: rule %d, but it is %d", in, got.Rule, want)
			}
			members[want == 0]++
		}
	}
	if members[true] < 100 || members[false] < 100 {
		t.Errorf("members: %v", members)
	}
}

// TestMemory says what lists take.
func TestMemory(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		for _, n := range []int{16, 256, 1024, 4096, 32768} {
			b, err := Compile(&Policy{Lists: []*List{access(rand.New(rand.NewPCG(1, 2)), f, n)}}, CompileOptions{})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%v, %d rules: %d KiB", f, n, b.Size()/1024)
			if most := map[int]int{16: 16, 256: 64, 1024: 256, 4096: 2048, 32768: 64 << 10}[n]; b.Size() > most<<10 {
				t.Errorf("%v, %d rules: %d KiB, more than %d", f, n, b.Size()/1024, most)
			}
		}
	}
}

// TestAllocs: the look-up takes no memory.
func TestAllocs(t *testing.T) {
	w := newWorld(3)
	p := w.policy(2, 70)
	b, err := Compile(p, CompileOptions{Now: midday})
	if err != nil {
		t.Fatal(err)
	}
	in := w.packet(IPv4)
	if n := testing.AllocsPerRun(100, func() {
		b.Classify(0, &in)
		b.Classify(1, &in)
		b.Class(&in)
		b.ListOf(1, In, IPv4)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestImplicit: what is behind the last rule.
func TestImplicit(t *testing.T) {
	p := &Policy{Lists: []*List{{Name: "a", Family: IPv6}, {Name: "b"}}}
	b, err := Compile(p, CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	six := packet.Info{Key: flow.Key{VLAN: flow.KeyIPv6, Proto: flow.ProtoICMPv6}}
	for icmp, want := range map[uint8]Result{
		136: {Rule: 0, ID: 1, Action: Permit}, 135: {Rule: 1, ID: 2, Action: Permit}, 134: {Rule: 2, ID: 3}, 128: {Rule: 2, ID: 3},
	} {
		six.Key.DstPort = uint16(icmp) << 8
		if got := b.Classify(0, &six); got != want {
			t.Errorf("ICMPv6 type %d: %+v, want %+v", icmp, got, want)
		}
	}
	later := six
	later.Key.VLAN |= flow.KeyFragment
	if got, want := b.Classify(0, &later), (Result{Rule: 2, ID: 3}); got != want {
		t.Errorf("a later fragment of ICMPv6: %+v, want %+v", got, want)
	}
	if got, want := b.Classify(1, &packet.Info{}), (Result{Rule: 0, ID: 4}); got != want {
		t.Errorf("IPv4: %+v, want %+v", got, want)
	}
	if got := b.Classify(1, &six); got.Rule != -1 || got.Action != Permit {
		t.Errorf("an IPv4 list says of IPv6: %+v", got)
	}
}

// TestIDs: each rule of each list is asked for, those that are never there too.
func TestIDs(t *testing.T) {
	p := &Policy{
		Lists: []*List{{Name: "a", Rules: []*Rule{{Seq: 10, Proto: AnyProto, Time: "past"}, {Seq: 20, Proto: AnyProto, Action: Permit}}}},
		Times: []*TimeRange{{Name: "past", End: midday}},
	}
	protect := &Rule{Action: Permit, Proto: flow.ProtoTCP}
	asked := map[*Rule]uint16{}
	b, err := Compile(p, CompileOptions{
		Now: midday, Protect: [2][]*Rule{IPv4: {protect}},
		IDs: func(_ *List, r *Rule) uint16 { asked[r] = uint16(100 + len(asked)); return asked[r] },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(asked) != 4 || len(b.Rules(0)) != 4 {
		t.Errorf("%d rules are asked for, of %d", len(asked), len(b.Rules(0)))
	}
	for proto, rule := range map[uint8]int{flow.ProtoTCP: 0, flow.ProtoUDP: 2} {
		got := b.Classify(0, &packet.Info{Key: flow.Key{Proto: proto}})
		if got.Rule != rule || got.ID != asked[b.Rules(0)[rule]] {
			t.Errorf("protocol %d: %+v, of %v", proto, got, asked)
		}
	}
}

// TestClasses: as many classes as there are, or too many.
func TestClasses(t *testing.T) {
	compile := func(rules ...*Rule) *Bank {
		b, err := Compile(&Policy{Lists: []*List{{Name: "a", Rules: rules}}}, CompileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if c := compile(&Rule{Proto: 6}).Class(&packet.Info{TCPFlags: 0x12, TTL: 9}); c != 0 {
		t.Errorf("class %d without conditions", c)
	}
	b := compile(&Rule{Proto: 6, Flags: Established}, &Rule{Proto: 6, TTL: []Range{{0, 5}}}, &Rule{Proto: 6, Lengths: []Range{{0, 100}, {200, 65535}}})
	seen := map[uint8]bool{}
	for _, flags := range []uint8{flow.SYN, flow.ACK} {
		for _, ttl := range []uint8{5, 6} {
			for _, length := range []uint32{100, 101, 200, 100_000} {
				seen[b.Class(&packet.Info{TCPFlags: flags, TTL: ttl, Length: length})] = true
			}
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d classes, want 8", len(seen))
	}
	var many []*Rule
	for i := range uint16(200) {
		many = append(many, &Rule{Proto: AnyProto, TTL: []Range{{i, i}}, Lengths: []Range{{i, 500}}})
	}
	if c := compile(many...).Class(&packet.Info{}); c != ClassMany {
		t.Errorf("class %d of too many", c)
	}
}

// TestBindings: who is bound where, and what cannot be.
func TestBindings(t *testing.T) {
	l := []*List{{Name: "a"}, {Name: "a", Family: IPv6}}
	bind := func(bs ...Binding) (*Bank, error) {
		return Compile(&Policy{Lists: l, Bindings: bs}, CompileOptions{Ports: map[string]uint16{"eth0": 3, "far": 256}})
	}
	b, err := bind(Binding{Interface: "eth0", Direction: Out, Family: IPv6, List: "a"}, Binding{Interface: "eth9", List: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if list, _ := b.ListOf(3, Out, IPv6); list != 1 {
		t.Errorf("list %d", list)
	}
	for _, at := range []uint16{2, 4, 255, 256, 65535} {
		if list, _ := b.ListOf(at, Out, IPv6); list != -1 {
			t.Errorf("port %d has list %d", at, list)
		}
	}
	if len(b.Unbound) != 1 || b.Unbound[0].Interface != "eth9" {
		t.Errorf("unbound: %v", b.Unbound)
	}
	for want, bs := range map[string][]Binding{
		`no ipv4 list "b"`: {{Interface: "eth0", List: "b"}},
		"two ipv4 lists":   {{Interface: "eth0", List: "a"}, {Interface: "eth0", List: "a"}},
		"port number 256":  {{Interface: "far", List: "a"}},
	} {
		if _, err := bind(bs...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestTooBig: what does not fit is refused, soon.
func TestTooBig(t *testing.T) {
	rules := func(n int, make func(i int) *Rule) *Policy {
		l := &List{Name: "big"}
		for i := range n {
			l.Rules = append(l.Rules, make(i))
		}
		return &Policy{Lists: []*List{l}}
	}
	for name, p := range map[string]*Policy{
		"too many rules": rules(MaxRules+1, func(int) *Rule { return &Rule{Proto: AnyProto} }),
		// each port is in thousands of ranges, and in others than the next port
		"too much memory": rules(MaxRules, func(i int) *Rule {
			at := func(v int) Range { return Range{uint16(v), uint16(v + 0x7fff)} }
			return &Rule{Proto: 6, SrcPorts: Ports{Ranges: []Range{at(i)}}, DstPorts: Ports{Ranges: []Range{at(0x8000 - i)}}}
		}),
		"wildcards on both sides": rules(1, func(int) *Rule {
			r := &Rule{Proto: AnyProto}
			for i := range 250 {
				n := NewNet(flow.AddrFrom4([4]byte{1, 0, 0, byte(i)}), flow.Addr{15: 0xff})
				for j := range 12 {
					n.Care[j] = 0xff
				}
				n.Addr[10], n.Addr[11] = 0xff, 0xff
				r.Src.Nets, r.Dst.Nets = append(r.Src.Nets, n), append(r.Dst.Nets, n)
			}
			return r
		}),
	} {
		if testing.Short() && name == "too much memory" {
			continue // takes seconds to become so much
		}
		began := time.Now()
		_, err := Compile(p, CompileOptions{})
		if err == nil || name != "too many rules" && !errors.Is(err, ErrTooBig) {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v, after %v", name, err, time.Since(began))
	}
}

// TestMissing: rules that refer to what is not there.
func TestMissing(t *testing.T) {
	for want, r := range map[string]*Rule{
		`source: there is no object group "x"`:      {Src: Addrs{Group: "x"}},
		`destination: there is no object group "s"`: {Dst: Addrs{Group: "s"}},
		`destination ports: there is no`:            {DstPorts: Ports{Group: "x"}},
		`there is no time range "x"`:                {Time: "x"},
	} {
		p := &Policy{Lists: []*List{{Name: "a", Rules: []*Rule{r}}}, Groups: []*Group{{Name: "s", Kind: GroupService}}}
		if _, err := Compile(p, CompileOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestTimes: when ranges begin and end, by the clock on the wall.
func TestTimes(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) time.Time {
		v, err := time.ParseInLocation("2006-01-02 15:04", s, zone)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	days := func(list ...time.Weekday) (d uint8) {
		for _, w := range list {
			d |= 1 << w
		}
		return d
	}
	work := TimeRange{Periods: []Period{{Days: 0x3e, From: 8 * 60, To: 18 * 60}}}
	night := TimeRange{Periods: []Period{{Days: days(time.Friday), From: 22 * 60, To: 6 * 60}}}
	span := TimeRange{Periods: []Period{{Days: days(time.Friday), From: 17 * 60, To: 9 * 60, Span: true, ToDay: time.Monday}}}
	once := TimeRange{Start: at("2026-03-28 00:00"), End: at("2026-03-30 00:00")}
	both := TimeRange{Start: once.Start, End: once.End, Periods: []Period{{Days: 0x7f, From: 0, To: 24 * 60}}}
	for _, c := range []struct {
		r      *TimeRange
		now    string
		within bool
		until  string
	}{
		{&work, "2026-03-04 07:59", false, "2026-03-04 08:00"},
		{&work, "2026-03-04 08:00", true, "2026-03-04 18:00"},
		{&work, "2026-03-04 18:00", false, "2026-03-05 08:00"},
		{&work, "2026-03-06 18:00", false, "2026-03-09 08:00"},
		{&night, "2026-03-06 23:00", true, "2026-03-07 06:00"},
		{&night, "2026-03-07 05:59", true, "2026-03-07 06:00"},
		{&night, "2026-03-07 06:00", false, "2026-03-13 22:00"},
		{&span, "2026-03-08 12:00", true, "2026-03-09 09:00"},
		{&span, "2026-03-29 03:30", true, "2026-03-30 09:00"}, // summer time has begun
		{&span, "2026-03-30 09:00", false, "2026-04-03 17:00"},
		{&once, "2026-03-27 23:59", false, "2026-03-28 00:00"},
		{&once, "2026-03-29 12:00", true, "2026-03-30 00:00"},
		{&once, "2026-03-30 00:00", false, ""},
		{&both, "2026-03-29 12:00", true, "2026-03-30 00:00"},
	} {
		within, until := c.r.active(at(c.now)), c.r.change(at(c.now))
		if within != c.within || c.until == "" != until.IsZero() || c.until != "" && !until.Equal(at(c.until)) {
			t.Errorf("%+v at %s: %v until %v, want %v until %s", *c.r, c.now, within, until, c.within, c.until)
		}
	}
	p := &Policy{
		Lists: []*List{{Name: "a", Rules: []*Rule{{Proto: AnyProto, Action: Permit, Time: "work"}, {Proto: AnyProto, Time: "once"}}}},
		Times: []*TimeRange{{Name: "once", Start: once.Start, End: once.End}, {Name: "work", Periods: work.Periods}, {Name: "unused", Start: at("2026-03-04 12:01")}},
	}
	b, err := Compile(p, CompileOptions{Now: at("2026-03-04 12:00")})
	if err != nil {
		t.Fatal(err)
	}
	if !b.Until.Equal(at("2026-03-04 18:00")) {
		t.Errorf("until %v", b.Until)
	}
}

// TestExpand: a wildcard that is expanded has the addresses of the wildcard.
func TestExpand(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		n := NetFrom(netip.MustParsePrefix("10.1.2.0/24"))
		n.Care[15] = byte(rng.Uint32()) | 1
		n.Care[14] ^= 1 << rng.IntN(8)
		n = NewNet(n.Addr, n.Care)
		var s AddrSet
		s.expand(n)
		s.compact()
		if len(s.wild) > 0 || len(s.prefixes) > maxExpanded {
			t.Fatalf("%+v: %d prefixes, %d wildcards", n, len(s.prefixes), len(s.wild))
		}
		for v := range 1 << 16 {
			a := flow.AddrFrom4([4]byte{10, 1, byte(v >> 8), byte(v)})
			in := 0
			for _, p := range s.prefixes {
				if p.covers(prefix{words(a), 128}) {
					in++
				}
			}
			if in > 1 || in == 1 != n.Contains(a) {
				t.Fatalf("%v is in %d prefixes of %s", a, in, fmt.Sprint(n))
			}
		}
	}
}
