package acl

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/flow"
	"weir/packet"
)

func findings(p *Policy) string {
	var out strings.Builder
	for _, f := range p.Check() {
		fmt.Fprintln(&out, f)
	}
	return out.String()
}

func TestCheckCases(t *testing.T) {
	runCases(t, "testdata/check.txt", func(t *testing.T, c textCase) (string, string) {
		return "finds", findings(mustRead(t, c.in))
	})
}

// packetFor is a packet that is meant to match r, except that sometimes a part
// of it is not.
func packetFor(p *Policy, l *List, r *Rule, rng *rand.Rand) *packet.Info {
	in := &packet.Info{Length: rng.Uint32N(70000), TTL: uint8(rng.Uint32())}
	k := &in.Key
	addr := func(a *Addrs) (out flow.Addr) {
		nets := p.NetsOf(a, l.Family)
		n := Net{}
		if l.Family == IPv4 {
			n = NewNet(flow.Addr{10: 0xff, 11: 0xff}, flow.Addr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		}
		if len(nets) > 0 {
			n = nets[rng.IntN(len(nets))]
		}
		fill := byte(rng.IntN(3) * 0x7f)
		for i := range out {
			if rng.IntN(2) == 0 {
				fill = byte(rng.Uint32())
			}
			out[i] = n.Addr[i] | fill&^n.Care[i]
		}
		return out
	}
	number := func(ranges []Range, otherwise uint32) uint32 {
		if len(ranges) == 0 {
			return otherwise
		}
		r := ranges[rng.IntN(len(ranges))]
		return uint32(r.From) + rng.Uint32N(uint32(r.To-r.From)+1)
	}
	k.Src, k.Dst = addr(&r.Src), addr(&r.Dst)
	k.Proto = uint8([]int{1, 6, 17, 58, 50}[rng.IntN(5)])
	if r.Proto != AnyProto {
		k.Proto = uint8(r.Proto)
	}
	k.TOS = uint8(rng.Uint32())&^r.TOS.Mask | r.TOS.Value
	in.TTL = uint8(number(r.TTL, rng.Uint32N(256)))
	in.Length = number(r.Lengths, in.Length)
	if l.Family == IPv6 {
		k.VLAN |= flow.KeyIPv6
	}
	if r.Fragments || rng.IntN(4) == 0 {
		k.VLAN |= flow.KeyFragment
		return in
	}
	k.SrcPort = uint16(number(p.RangesOf(&r.SrcPorts), rng.Uint32N(65536)))
	k.DstPort = uint16(number(p.RangesOf(&r.DstPorts), rng.Uint32N(65536)))
	if len(r.ICMP) > 0 {
		k.DstPort = uint16(number(icmpRanges(r.ICMP), 0))
	}
	in.TCPFlags = uint8(rng.Uint32())
	if !r.Flags.MatchAny {
		in.TCPFlags = in.TCPFlags&^r.Flags.Clear | r.Flags.Set
	}
	return in
}

// What Check says of a rule that never matches is held against Evaluate, with
// packets made to match that rule. Rules are few and alike, so that many are
// covered.
func TestCheckClaimsNoShadowThatIsNone(t *testing.T) {
	claims, rules := map[FindingKind]int{}, 0
	rapid.Check(t, func(t *rapid.T) {
		p := genPolicy(t)
		for _, l := range p.Lists {
			var more []*Rule // the same with something left out, or put in front
			for _, r := range l.Rules {
				less := *r
				switch choose(t, "less", 0, 1, 2, 3, 4, 5) {
				case 0:
					less.Src = Addrs{}
				case 1:
					less.Dst = Addrs{}
				case 2:
					less.SrcPorts, less.DstPorts = Ports{}, Ports{}
				case 3:
					less.TOS, less.TTL, less.Lengths = TOS{}, nil, nil
				case 4:
					less.Action = Permit
				case 5:
					less.Flags, less.ICMP, less.Time = Flags{}, nil, ""
				}
				less.Reject = less.Reject && less.Action == Deny
				if choose(t, "before", true, false) {
					more = append(more, &less, r)
				} else {
					more = append(more, r, &less)
				}
			}
			for i, r := range more {
				r.Seq = uint32(i + 1)
			}
			l.Rules = more
			rules += len(more)
		}
		if err := p.Validate(); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		for _, f := range p.Check() {
			if f.Rule == nil {
				continue
			}
			claims[f.Kind]++
			for range 200 {
				in := packetFor(p, f.List, f.Rule, rng)
				v := p.Evaluate(f.List, in, time.Date(2026, 6, 3, 12, 0, 0, 0, time.Local))
				if v.Rule != f.Rule {
					continue
				}
				switch f.Kind {
				case Shadowed, Redundant, BehindAll, MatchesNothing:
					t.Fatalf("%s\nbut it takes %+v\n%s", f, in, AppendCisco(nil, p))
				case FragmentsOnly:
					if in.Key.VLAN&flow.KeyFragment == 0 {
						t.Fatalf("%s\nbut it takes %+v\n%s", f, in, AppendCisco(nil, p))
					}
				}
			}
		}
	})
	t.Logf("claims: %v of %d rules", claims, rules)
	if claims[Shadowed] == 0 || claims[Redundant] == 0 || claims[FragmentsOnly] == 0 {
		t.Errorf("claims are missing: %v", claims)
	}
}

// In a world of sixteen addresses and sixteen ports everything can be tried:
// Check must find all rules that never match, and no other.
func TestCheckIsCompleteInASmallWorld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		text.WriteString("ip access-list extended A\n")
		for range rapid.IntRange(2, 8).Draw(t, "rules") {
			net := func() string {
				bits := rapid.IntRange(28, 32).Draw(t, "bits")
				return fmt.Sprintf("10.0.0.%d/%d", rapid.IntRange(0, 15).Draw(t, "host"), bits)
			}
			from := rapid.IntRange(0, 15).Draw(t, "from")
			fmt.Fprintf(&text, " %s tcp %s 10.0.0.0/28 range %d %d\n", choose(t, "action", "permit", "deny"), net(), from, rapid.IntRange(from, 15).Draw(t, "to"))
		}
		p := mustRead(t, text.String())
		never := map[*Rule]bool{}
		for _, f := range p.Check() {
			if f.Kind == Shadowed || f.Kind == Redundant || f.Kind == FragmentsOnly {
				never[f.Rule] = true
			}
		}
		hit := map[*Rule]bool{}
		for host := range 16 {
			for port := range 16 {
				in := &packet.Info{Key: flow.Key{Src: flow.AddrFrom4([4]byte{10, 0, 0, byte(host)}), Dst: flow.AddrFrom4([4]byte{10, 0, 0, 1}), Proto: 6, DstPort: uint16(port)}}
				hit[p.Evaluate(p.Lists[0], in, time.Time{}).Rule] = true
			}
		}
		for _, r := range p.Lists[0].Rules {
			if hit[r] == never[r] {
				t.Fatalf("rule %d: matches %v, said never to %v\n%s", r.Seq, hit[r], never[r], text.String())
			}
		}
	})
}

// bigList has n rules of the usual kinds, and a few that never match.
func bigList(n int) string {
	rng := rand.New(rand.NewPCG(7, 7))
	var text strings.Builder
	text.WriteString("ip access-list extended BIG\n")
	for i := range n - 1 {
		a, b, c := rng.IntN(256), rng.IntN(256), rng.IntN(256)
		switch i % 4 {
		case 0:
			fmt.Fprintf(&text, " permit tcp any host 10.%d.%d.%d eq %d\n", a, b, c, rng.IntN(65536))
		case 1:
			fmt.Fprintf(&text, " deny udp 172.%d.%d.0/24 10.%d.0.0/16 range %d 65535\n", a, b, c, rng.IntN(65536))
		case 2:
			fmt.Fprintf(&text, " permit tcp 10.%d.0.0/16 10.%d.%d.0/24 established\n", a, b, c)
		case 3:
			fmt.Fprintf(&text, " deny ip 192.168.%d.0 0.0.0.255 any\n", a)
		}
	}
	text.WriteString(" deny ip any any log\n")
	return text.String()
}

func BenchmarkCheck(b *testing.B) {
	p := mustRead(b, bigList(4096))
	for b.Loop() {
		p.Check()
	}
}
