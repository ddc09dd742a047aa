package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/flow"
)

// drill is an engine under a virtual clock, with an enforcer that drops for real.
type drill struct {
	t      *testing.T
	e      *Engine
	fake   *Fake
	now    int64
	events []Event
	// Of what went through, by whether it was the attack's.
	sent, passed [2]uint64
}

const began = int64(1_800_000_000e9)

func newDrill(t *testing.T, change func(*Policy)) *drill {
	p := policyOf("192.0.2.0/24", "2001:db8:1::/48")
	p.Sources = nil
	g := &p.Groups[0]
	g.Mode, g.Do, g.PPS = Automatic, Drop, 0
	if testing.Short() {
		p.Keys = 1 << 12 // with the race detector, each of them takes its time
	}
	if change != nil {
		change(&p)
	}
	d := &drill{t: t, fake: &Fake{}, now: began}
	d.fake.Advance(began)
	var err error
	if d.e, err = New(Options{Policy: p, Enforcer: d.fake, Tell: func(ev Event) { d.events = append(d.events, ev) }}); err != nil {
		t.Fatal(err)
	}
	return d
}

// second sends deltas: attack ones and others. What the enforcer drops is told in the
// delta, as the kernel does.
func (d *drill) second(attack, good []Delta) {
	batch := make([]Delta, 0, len(attack)+len(good))
	for kind, list := range [][]Delta{attack, good} {
		for _, x := range list {
			d.sent[kind] += x.Packets
			if d.fake.Feed(&x) {
				d.passed[kind] += x.Packets
			} else {
				x.DroppedPackets, x.DroppedBytes = x.Packets, x.Bytes
			}
			batch = append(batch, x)
		}
	}
	d.e.Add(batch)
	d.now += 1e9
	d.fake.Advance(d.now)
	d.e.Tick(d.now)
}

func (d *drill) seconds(n int, attack, good []Delta) {
	for range n {
		d.second(attack, good)
	}
}

func (d *drill) happened(what string) (n int) {
	for _, e := range d.events {
		if e.What == what {
			n++
		}
	}
	return n
}

func addr(s string) flow.Addr { return flow.AddrFrom(netip.MustParseAddr(s)) }

func delta(src string, sport uint16, dst string, dport uint16, proto uint8, packets, bytes uint64) Delta {
	return Delta{Key: flow.Key{Src: addr(src), Dst: addr(dst), SrcPort: sport, DstPort: dport, Proto: proto}, Packets: packets, Bytes: bytes, Established: packets >= 3 && proto != flow.ProtoTCP}
}

func established(d Delta) Delta {
	d.TCPFlags, d.Established = flow.SYN|flow.ACK|flow.PSH, true
	return d
}

// legit is a host's usual traffic: whole connections, answers of a resolver.
func legit(dst string) (list []Delta) {
	for i := range 20 {
		list = append(list, established(delta("198.51.100."+string(rune('1'+i%9)), uint16(40000+i), dst, 443, flow.ProtoTCP, 100, 90000)))
	}
	return append(list, delta("198.51.100.53", 53, dst, 33000, flow.ProtoUDP, 3, 400))
}

func from(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(11 + i>>24), byte(i >> 16), byte(i >> 8), byte(i)})
}

func synFlood(dst string, n int) (list []Delta) {
	for i := range n {
		d := delta(from(i*7919).String(), uint16(i), dst, 80, flow.ProtoTCP, 1, 40)
		d.TCPFlags, d.Flows = flow.SYN, 1
		list = append(list, d)
	}
	return list
}

func reflection(dst string, n int) (list []Delta) {
	ports := []uint16{53, 123, 1900, 11211}
	for i := range n {
		list = append(list, delta(from(i*131).String(), ports[i%len(ports)], dst, uint16(1024+i), flow.ProtoUDP, 30, 30*1400))
	}
	return list
}

func fragments(dst string, n int) (list []Delta) {
	for i := range n {
		d := delta(from(i*17).String(), 0, dst, 0, flow.ProtoUDP, 40, 40*1480)
		d.Key.VLAN |= flow.KeyFragment
		list = append(list, d)
	}
	return list
}

// Issue: what is dropped is the attack, within a second, and it ends cleanly.
func TestFloodsAreFoundWithinASecondAndNarrowlyDropped(t *testing.T) {
	one := delta("203.0.113.9", 5555, "192.0.2.10", 9999, flow.ProtoUDP, 50_000, 50_000*100)
	for _, c := range []struct {
		name   string
		attack []Delta
		kind   Kind
		match  string
	}{
		{"one flow", []Delta{one}, KindFlow, "udp from 203.0.113.9 sport 5555 to 192.0.2.10 dport 9999 one flow"},
		{"spoofed SYN", synFlood("192.0.2.10", 4000), KindSYN, "tcp syn to 192.0.2.10"},
		{"reflection", reflection("192.0.2.10", 2000), KindAmp, "udp sport 53,123,1900,11211 to 192.0.2.10"},
		{"fragments", fragments("192.0.2.10", 1000), KindFragments, "fragments to 192.0.2.10"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDrill(t, nil)
			good := legit("192.0.2.10")
			d.seconds(5, nil, good)
			if n := len(d.events); n != 0 {
				t.Fatalf("%d events of usual traffic: %+v", n, d.events[0])
			}
			d.second(c.attack, good)
			s := d.e.Status(d.now)
			if len(s.Attacks) != 1 || len(s.Actions) != 1 {
				t.Fatalf("after one second: %d attacks, %d actions", len(s.Attacks), len(s.Actions))
			}
			a, act := s.Attacks[0], s.Actions[0]
			if a.Kind != c.kind || act.State != StateActive || act.Match.String() != c.match {
				t.Errorf("kind %s, action %s %s; want %s, active %s", a.Kind, act.State, act.Match, c.kind, c.match)
			}
			if a.Evidence.Deltas == 0 || len(a.Evidence.TopSources) == 0 || len(a.Evidence.Headers) == 0 || act.Hit < 0.6 || act.Innocent > 0.01 || act.Undo == "" || act.Ends != d.now+int64(time.Minute) {
				t.Errorf("evidence %+v\naction %+v", a.Evidence, act)
			}
			// While it is dropped, it is still seen: nothing ends, holds double.
			d.passed, d.sent = [2]uint64{}, [2]uint64{}
			d.seconds(100, c.attack, good)
			if d.passed[0] != 0 {
				t.Errorf("%d of %d attack packets passed while it was in force", d.passed[0], d.sent[0])
			}
			if d.passed[1] < d.sent[1]*8/10 {
				t.Errorf("of %d good packets %d passed", d.sent[1], d.passed[1])
			}
			if d.happened("attack-end") != 0 || d.happened("renewed") != 1 {
				t.Errorf("%d ends, %d renewals in 100 s of attack", d.happened("attack-end"), d.happened("renewed"))
			}
			if got := d.e.Status(d.now).Actions[0]; got.Hold != 2*time.Minute || got.Dropped.Packets == 0 {
				t.Errorf("renewed for %v, dropped %v", got.Hold, got.Dropped)
			}
			// Calm: over after 30 s, well before the hold.
			d.seconds(31, nil, good)
			s = d.e.Status(d.now)
			if rules, _ := d.fake.Rules(); len(rules) != 0 || d.happened("attack-end") != 1 || s.Actions[0].State != StateEnded || s.Attacks[0].Ended == 0 {
				t.Errorf("31 s after the attack: %d rules, %d ends, action %s", len(rules), d.happened("attack-end"), s.Actions[0].State)
			}
		})
	}
}

func TestCarpetBombingIsOfTheNetwork(t *testing.T) {
	d := newDrill(t, func(p *Policy) { p.Groups[0].Subnets = []Limit{{Packets, 50_000, Second}} })
	var attack []Delta
	for i := range 256 {
		x := delta(from(i).String(), 123, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String(), uint16(i), flow.ProtoUDP, 1000, 1000*468)
		attack = append(attack, x)
	}
	d.second(attack, legit("192.0.2.10"))
	s := d.e.Status(d.now)
	if len(s.Attacks) != 1 || s.Attacks[0].Scope != ScopeNetwork || s.Attacks[0].Name != "192.0.2.0/24" || len(s.Actions) != 1 || s.Actions[0].Match.String() != "udp sport 123 to 192.0.2.0/24" {
		t.Errorf("attacks %+v\nactions %+v", s.Attacks, s.Actions)
	}
}

func TestASlowRiseFiresOnceAtTheThreshold(t *testing.T) {
	d := newDrill(t, nil)
	for pps := uint64(1000); pps < 20_000; pps += 500 {
		d.second([]Delta{delta("203.0.113.9", 1, "192.0.2.9", 2, flow.ProtoUDP, pps, pps*100)}, nil)
	}
	if len(d.events) != 0 {
		t.Fatalf("below the threshold: %v", d.events[0].What)
	}
	for pps := uint64(20_001); pps < 40_000; pps += 500 {
		d.second([]Delta{delta("203.0.113.9", 1, "192.0.2.9", 2, flow.ProtoUDP, pps, pps*100)}, nil)
	}
	if d.happened("attack") != 1 || d.happened("active") != 1 {
		t.Errorf("%d attacks, %d actions", d.happened("attack"), d.happened("active"))
	}
}

func TestAFlashCrowdIsProposedNotBlocked(t *testing.T) {
	var crowd []Delta
	for i := range 4000 {
		x := established(delta(from(i*31).String(), uint16(i), "192.0.2.80", 443, flow.ProtoTCP, 12, 9000))
		x.Flows = 1
		crowd = append(crowd, x)
	}
	backup := []Delta{established(delta("198.51.100.7", 50000, "192.0.2.80", 873, flow.ProtoTCP, 90_000, 90_000*1500))}
	for name, load := range map[string][]Delta{"crowd": crowd, "backup": backup} {
		t.Run(name, func(t *testing.T) {
			d := newDrill(t, nil)
			d.seconds(20, load, nil)
			s := d.e.Status(d.now)
			if d.passed[0] != d.sent[0] || d.happened("active") != 0 {
				t.Errorf("%d of %d packets passed, %d actions", d.passed[0], d.sent[0], d.happened("active"))
			}
			if len(s.Attacks) != 1 || s.Attacks[0].Kind != KindCrowd || s.Actions[0].State != StateProposed || !strings.Contains(s.Actions[0].Note, "established") {
				t.Errorf("attacks %+v actions %+v", s.Attacks, s.Actions)
			}
			if s.Actions[0].Innocent < 0.99 {
				t.Errorf("it hits %.0f %% of the established traffic, it says", 100*s.Actions[0].Innocent)
			}
			// Who wants it all the same can have it.
			if _, err := d.e.Approve(d.now, s.Actions[0].ID, "alice", false); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAnIPv6SweepOfA64(t *testing.T) {
	d := newDrill(t, func(p *Policy) { p.Groups[0].Subnets = []Limit{{Flows, 10_000, Second}}; p.Keys = 256 })
	sweep := func() (list []Delta) {
		for i := range 40_000 {
			a := netip.MustParseAddr("2001:db8:1:2::").As16()
			a[12], a[13], a[14], a[15] = byte(i>>24), byte(i>>16), byte(i>>8), byte(i)
			x := delta("2001:db8:ffff::1", uint16(i), netip.AddrFrom16(a).String(), 22, flow.ProtoTCP, 1, 60)
			x.TCPFlags, x.Flows = flow.SYN, 1
			list = append(list, x)
		}
		return list
	}()
	d.second(sweep, legit("192.0.2.10"))
	s := d.e.Status(d.now)
	if len(s.Attacks) != 1 || s.Attacks[0].Name != "2001:db8:1:2::/64" || s.Attacks[0].Kind != KindSYN || s.Actions[0].State != StateActive {
		t.Fatalf("%+v\n%+v", s.Attacks, s.Actions)
	}
	d.second(sweep, legit("192.0.2.10"))
	if d.passed[1] != d.sent[1] {
		t.Errorf("good: %d of %d passed", d.passed[1], d.sent[1])
	}
}

func TestModes(t *testing.T) {
	attack := synFlood("192.0.2.10", 4000)
	for _, c := range []struct {
		mode     Mode
		state    State
		approve  bool // without an override
		override bool
	}{
		{Observe, StateObserved, false, true},
		{Propose, StateProposed, false, true},
		{Approve, StateProposed, true, true},
	} {
		t.Run(c.mode.String(), func(t *testing.T) {
			d := newDrill(t, func(p *Policy) { p.Groups[0].Mode = c.mode })
			d.seconds(3, attack, nil)
			s := d.e.Status(d.now)
			if len(s.Actions) != 1 || s.Actions[0].State != c.state || d.passed[0] != d.sent[0] {
				t.Fatalf("actions %+v, %d of %d packets passed", s.Actions, d.passed[0], d.sent[0])
			}
			id := s.Actions[0].ID
			if _, err := d.e.Approve(d.now, id, "alice", false); (err == nil) != c.approve || err != nil && !errors.Is(err, ErrBarred) {
				t.Errorf("approve: %v", err)
			}
			if !c.approve {
				if _, err := d.e.Approve(d.now, id, "alice", true); err != nil {
					t.Errorf("override: %v", err)
				}
			}
			s = d.e.Status(d.now)
			if a := s.Actions[0]; a.State != StateActive || a.By != "alice" || a.Left != 60 {
				t.Errorf("approved: %+v", a)
			}
			if _, err := d.e.Approve(d.now, id, "bob", true); !errors.Is(err, ErrState) {
				t.Errorf("approved twice: %v", err)
			}
			if a, err := d.e.Extend(d.now, id, "bob", time.Hour); err != nil || a.Ends != d.now+int64(time.Hour) {
				t.Errorf("extend: %v, %v", a, err)
			}
			if _, err := d.e.Lift(d.now, id, "bob"); err != nil {
				t.Error(err)
			}
			if rules, _ := d.fake.Rules(); len(rules) != 0 {
				t.Errorf("lifted, but %d rules", len(rules))
			}
			if _, err := d.e.Lift(d.now, id, "bob"); !errors.Is(err, ErrNoAction) {
				t.Errorf("lifted twice: %v", err)
			}
		})
	}
}

func TestAProposalIsObsoleteWhenTheAttackIsOver(t *testing.T) {
	d := newDrill(t, func(p *Policy) { p.Groups[0].Mode = Approve })
	d.second(synFlood("192.0.2.10", 4000), nil)
	d.seconds(32, nil, nil)
	if s := d.e.Status(d.now); s.Actions[0].State != StateObsolete || d.happened("obsolete") != 1 {
		t.Errorf("%+v", s.Actions)
	}
}

// The kernel ends rules by itself: nothing is renewed, or left, when this process dies.
func TestRulesEndInTheEnforcersClockAndAreAdopted(t *testing.T) {
	d := newDrill(t, nil)
	d.second(synFlood("192.0.2.10", 4000), nil)
	rules, _ := d.fake.Rules()
	if len(rules) != 1 || rules[0].Until != d.now+int64(time.Minute) {
		t.Fatalf("%+v", rules)
	}
	next, err := New(Options{Policy: policyOf("192.0.2.0/24"), Enforcer: d.fake})
	if err != nil {
		t.Fatal(err)
	}
	s := next.Status(d.now)
	if len(s.Actions) != 1 || s.Actions[0].ID != rules[0].ID || s.Actions[0].State != StateActive {
		t.Fatalf("adopted: %+v", s.Actions)
	}
	d.fake.Advance(d.now + int64(time.Minute))
	if rules, _ := d.fake.Rules(); len(rules) != 0 {
		t.Error("the rule outlives its time")
	}
	next.Tick(d.now + int64(time.Minute))
	if s := next.Status(d.now + int64(time.Minute)); s.Actions[0].State != StateEnded {
		t.Errorf("%+v", s.Actions)
	}
}

func TestHoldsDoubleUpToALimit(t *testing.T) {
	d := newDrill(t, func(p *Policy) { p.Groups[0].WhileAttacked, p.Groups[0].MaxHold = false, 200*time.Second })
	var holds []time.Duration
	for range 4 {
		d.second(synFlood("192.0.2.10", 4000), nil)
		holds = append(holds, d.e.Status(d.now).Actions[0].Hold)
		d.seconds(31, nil, nil)
	}
	want := []time.Duration{time.Minute, 2 * time.Minute, 200 * time.Second, 200 * time.Second}
	for i := range want {
		if holds[i] != want[i] {
			t.Fatalf("holds %v, want %v", holds, want)
		}
	}
	if n := d.e.Status(d.now).Attacks[0].Count; n != 4 {
		t.Errorf("the fourth attack calls itself number %d", n)
	}
	// Long after, it begins with the first again.
	d.now += int64(2 * time.Hour)
	d.second(nil, nil)
	d.second(synFlood("192.0.2.10", 4000), nil)
	if h := d.e.Status(d.now).Actions[0].Hold; h != time.Minute {
		t.Errorf("two hours later: %v", h)
	}
}

// What automatism put in force is not renewed by a policy that would not put it in force.
func TestAnotherModeRenewsNothing(t *testing.T) {
	for mode, renewed := range map[Mode]bool{Automatic: true, Approve: false, Observe: false} {
		d := newDrill(t, func(p *Policy) { p.Groups[0].Hold = 10 * time.Second })
		d.seconds(3, synFlood("192.0.2.10", 4000), nil)
		p := d.e.policy
		p.Groups = slices.Clone(p.Groups)
		p.Groups[0].Mode = mode
		if err := d.e.SetPolicy(p); err != nil {
			t.Fatal(err)
		}
		if d.seconds(5, synFlood("192.0.2.10", 4000), nil); d.e.active() != 1 {
			t.Errorf("%v: another policy ended it", mode)
		}
		d.seconds(20, synFlood("192.0.2.10", 4000), nil)
		if got := d.e.active() == 1; got != renewed || d.happened("renewed") > 0 != renewed {
			t.Errorf("%v: in force after its time: %v, want %v", mode, got, renewed)
		}
	}
}

// Of a flood whose packets have something in common, each of a flow of its own, that is
// hit: a rule of new flows lets those pass that are in the cache already. Without such a
// thing, new flows are less than a protocol.
func TestNewFlowsAreForWhatHasNothingInCommon(t *testing.T) {
	reflected, random := []Delta{}, []Delta{}
	for i := range 30_000 {
		x := delta(from(i).String(), []uint16{53, 123, 389}[i%3], "192.0.2.10", uint16(i), flow.ProtoUDP, 1, 500)
		x.Flows = 1
		y := delta(from(i).String(), uint16(1024+i*7%50_000), "192.0.2.10", uint16(i), flow.ProtoUDP, 1, 500)
		y.Flows = 1
		reflected, random = append(reflected, x), append(random, y)
	}
	for want, flood := range map[string][]Delta{"udp sport 53,123,389 to 192.0.2.10": reflected, "udp new flows to 192.0.2.10": random} {
		d := newDrill(t, nil)
		d.second(flood, nil)
		if s := d.e.Status(d.now); len(s.Actions) != 1 || s.Actions[0].Match.String() != want {
			t.Errorf("%+v, want %s", s.Actions, want)
		}
	}
}

// What a rule of new flows drops is the host's hostgroup's, though its aggregates are of
// the network's.
func TestRefusedFlowsAreTheHostgroups(t *testing.T) {
	p := policyOf("192.0.2.0/24")
	p.Groups = append(p.Groups, p.Groups[0])
	p.Groups[1].Name, p.Groups[1].Networks = "host", []netip.Prefix{netip.MustParsePrefix("192.0.2.10/32")}
	r := newRates(&p)
	x := delta("0.0.0.0", 0, "192.0.2.0", 0, flow.ProtoUDP, 900, 90_000)
	x.Aggregate = true
	r.add(&x)
	r.refused(&Match{Dst: netip.MustParsePrefix("192.0.2.10/32"), Proto: flow.ProtoUDP, New: true}, Volume{700, 70_000})
	r.settle()
	if a, b := r.total[0].cur[Packets], r.total[1].cur[Packets]; a != 200 || b != 700 {
		t.Errorf("%d packets to the network's hostgroup, %d to the host's; want 200, 700", a, b)
	}
}

func TestNoAutomatismTouchesWhatIsAllowed(t *testing.T) {
	allowed := netip.MustParsePrefix("192.0.2.53/32")
	d := newDrill(t, func(p *Policy) {
		p.Allowed = []netip.Prefix{allowed, netip.MustParsePrefix("203.0.113.0/24")}
		p.Groups[0].Do = Drop
	})
	d.seconds(3, synFlood("192.0.2.53", 4000), nil)
	s := d.e.Status(d.now)
	if s.Actions[0].State != StateProposed || !strings.Contains(s.Actions[0].Note, "192.0.2.53 is allowed") || d.passed[0] != d.sent[0] {
		t.Fatalf("%+v", s.Actions)
	}
	if got := d.fake.Allowed(); len(got) != 2 || got[0] != allowed {
		t.Errorf("the enforcer was told %v", got)
	}
	if _, err := d.e.Approve(d.now, s.Actions[0].ID, "alice", false); !errors.Is(err, ErrBarred) {
		t.Errorf("approve: %v", err)
	}
	// Nothing would come of an override: who enforces rules spares all of it.
	if _, err := d.e.Approve(d.now, s.Actions[0].ID, "alice", true); !errors.Is(err, ErrBarred) || !strings.Contains(err.Error(), "no rule hits what is") {
		t.Errorf("override: %v", err)
	}
	// Of what it is only a part of, the rest is hit.
	wide, err := d.e.Propose(d.now, Action{Match: Match{Dst: netip.MustParsePrefix("192.0.2.0/24"), Proto: 47}, Do: Drop, Hold: time.Second}, "alice")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.e.Approve(d.now, wide.ID, "alice", true); err != nil {
		t.Errorf("override: %v", err)
	}
	d.seconds(3, nil, nil) // it ends
	// An allowed source: the flow is not touched.
	d.seconds(2, []Delta{delta("203.0.113.9", 1, "192.0.2.9", 2, flow.ProtoUDP, 50_000, 5_000_000)}, nil)
	for _, a := range d.e.Status(d.now).Actions {
		if a.Match.Flow != nil && a.State == StateActive {
			t.Errorf("an allowed source is acted upon: %+v", a)
		}
	}
}

func TestActionsAreLimitedInNumberAndBreadth(t *testing.T) {
	d := newDrill(t, func(p *Policy) { p.MaxActions, p.MaxPerMinute = 3, 2 })
	var attack []Delta
	for i := range 5 {
		attack = append(attack, delta("203.0.113.9", uint16(i), netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String(), 2, flow.ProtoUDP, 50_000, 5_000_000))
	}
	d.second(attack, nil)
	if d.happened("active") != 2 || d.happened("proposed") != 3 {
		t.Errorf("%d active, %d proposed", d.happened("active"), d.happened("proposed"))
	}
	var approved int
	for _, a := range d.e.Status(d.now).Actions {
		if a.State == StateProposed {
			if _, err := d.e.Approve(d.now, a.ID, "alice", true); err == nil {
				approved++
			} else if !errors.Is(err, ErrBarred) {
				t.Error(err)
			}
		}
	}
	if approved != 1 {
		t.Errorf("%d approved beyond the limit of 3 in force", approved)
	}
	// A hostgroup as a whole, and what is broader than a /24, is not acted upon.
	p := DefaultPolicy()
	for _, m := range []Match{{}, {Dst: netip.MustParsePrefix("192.0.0.0/16")}, {Dst: netip.MustParsePrefix("2001:db8::/32")}, {Src: netip.MustParsePrefix("0.0.0.0/0")}} {
		if p.barrier(&p.Groups[0], nil, &Action{Match: m}) == "" {
			t.Errorf("nothing is in the way of %s", m)
		}
	}
}

func TestTheKillSwitch(t *testing.T) {
	d := newDrill(t, nil)
	attack := synFlood("192.0.2.10", 4000)
	d.seconds(2, attack, nil)
	if err := d.e.SetOn(d.now, false, "alice"); err != nil {
		t.Fatal(err)
	}
	rules, _ := d.fake.Rules()
	if on, _ := d.fake.On(); on || len(rules) != 0 || d.e.On() {
		t.Errorf("off: on %v, %d rules", on, len(rules))
	}
	d.passed, d.sent = [2]uint64{}, [2]uint64{}
	d.seconds(70, attack, nil)
	if d.passed[0] != d.sent[0] {
		t.Error("something is dropped while it is off")
	}
	if err := d.e.SetOn(d.now, true, "alice"); err != nil {
		t.Fatal(err)
	}
	if d.happened("off") != 1 || d.happened("on") != 1 || d.happened("lifted") != 1 {
		t.Errorf("%d off, %d on, %d lifted", d.happened("off"), d.happened("on"), d.happened("lifted"))
	}
}

func TestASourceIsNamedAndActedUponIfItIsNotForged(t *testing.T) {
	p := func(p *Policy) {
		p.Sources = []Limit{{Flows, 2000, Second}}
		p.Groups[0].Hosts, p.Groups[0].Crowds = nil, true
	}
	scan := func(good bool) (list []Delta) {
		for i := range 5000 {
			x := delta("203.0.113.66", uint16(i), netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String(), 22, flow.ProtoTCP, 4, 300)
			x.TCPFlags, x.Flows = flow.SYN, 1
			if good {
				x = established(x)
			}
			list = append(list, x)
		}
		return list
	}
	for good, want := range map[bool]State{true: StateActive, false: StateProposed} {
		d := newDrill(t, p)
		d.second(scan(good), nil)
		s := d.e.Status(d.now)
		if len(s.Attacks) != 1 || s.Attacks[0].Scope != ScopeSource || s.Attacks[0].Name != "203.0.113.66" || s.Actions[0].State != want {
			t.Errorf("established %v: %+v %+v", good, s.Attacks, s.Actions)
		}
	}
}

func TestOneOfOursAttacks(t *testing.T) {
	d := newDrill(t, nil)
	d.second([]Delta{delta("192.0.2.77", 1, "203.0.113.5", 2, flow.ProtoUDP, 60_000, 6_000_000)}, nil)
	s := d.e.Status(d.now)
	if len(s.Attacks) != 1 || s.Attacks[0].Scope != ScopeOutgoing || s.Attacks[0].Name != "192.0.2.77" {
		t.Errorf("%+v", s.Attacks)
	}
}

func TestAnEnforcerThatCannotIsToldOf(t *testing.T) {
	d := newDrill(t, nil)
	d.fake.Fails = ErrNoEnforcer
	d.second(synFlood("192.0.2.10", 4000), nil)
	if s := d.e.Status(d.now); s.Actions[0].State != StateRefused || s.Actions[0].Note == "" {
		t.Errorf("%+v", s.Actions)
	}
	// Nothing can be carried out here at all: it is proposed, and says so.
	p := policyOf("192.0.2.0/24")
	p.Groups[0].Mode = Automatic
	e, err := New(Options{Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	e.Add(synFlood("192.0.2.10", 4000))
	e.Tick(began)
	if s := e.Status(began); s.Actions[0].State != StateProposed || !strings.Contains(s.Actions[0].Note, ErrNoEnforcer.Error()) {
		t.Errorf("%+v", s.Actions)
	}
	if _, err := e.Approve(began, e.Status(began).Actions[0].ID, "alice", false); !errors.Is(err, ErrNoEnforcer) {
		t.Errorf("approved: %v", err)
	}
	// It cannot look at flags, nor at what is new: the next best match it can.
	d = newDrill(t, nil)
	d.fake.Cannot = func(m *Match) error {
		if m.SYN || m.New {
			return ErrUnsupported
		}
		return nil
	}
	d.second(synFlood("192.0.2.10", 4000), legit("192.0.2.10"))
	if s := d.e.Status(d.now); s.Actions[0].Match.String() != "tcp to 192.0.2.10 dport 80" {
		t.Errorf("%s", s.Actions[0].Match)
	}
}

func TestSomebodysOwnProposal(t *testing.T) {
	d := newDrill(t, nil)
	act := Action{Match: Match{Dst: netip.MustParsePrefix("192.0.2.1/32"), Proto: flow.ProtoUDP}, Do: Drop, Hold: time.Hour, Why: "phone"}
	got, err := d.e.Propose(d.now, act, "alice")
	if err != nil || got.State != StateProposed {
		t.Fatal(got, err)
	}
	if got, err = d.e.Approve(d.now, got.ID, "bob", false); err != nil || got.State != StateActive {
		t.Fatal(got, err)
	}
	d.second([]Delta{delta("203.0.113.5", 1, "192.0.2.1", 2, flow.ProtoUDP, 5, 500)}, nil)
	if s := d.e.Status(d.now); s.Actions[0].Dropped.Packets != 5 {
		t.Errorf("%+v", s.Actions[0])
	}
	for _, bad := range []Action{{Do: Drop, Hold: time.Hour}, {Do: Police, Hold: time.Hour, Match: act.Match}, {Do: Drop, Match: act.Match}, {Do: Drop, Match: act.Match, Hold: time.Hour, Announce: RTBH}} {
		if _, err := d.e.Propose(d.now, bad, "alice"); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestTenSecondThresholds(t *testing.T) {
	d := newDrill(t, func(p *Policy) { p.Groups[0].Hosts = []Limit{{Packets, 1000, TenSeconds}} })
	// One burst of 9 thousand is 900 a second over ten; two are more than 1000.
	burst := []Delta{delta("203.0.113.9", 1, "192.0.2.9", 2, flow.ProtoUDP, 9000, 900_000)}
	d.second(burst, nil)
	d.seconds(12, nil, nil)
	d.second(burst, nil)
	if d.happened("attack") != 0 {
		t.Fatal("bursts far apart fire")
	}
	d.seconds(5, nil, nil)
	d.second(burst, nil)
	if d.happened("attack") != 1 {
		t.Error("bursts within ten seconds do not fire")
	}
}

func TestBaselinesAreProposals(t *testing.T) {
	p := policyOf("192.0.2.0/24")
	e, err := New(Options{Policy: p, Learn: true})
	if err != nil {
		t.Fatal(err)
	}
	now := began
	for i := range 2000 {
		e.Add([]Delta{delta("203.0.113.9", 1, "192.0.2.9", 2, flow.ProtoUDP, uint64(1000+i%100), 100_000)})
		now += 1e9
		e.Tick(now)
	}
	for _, b := range e.Baselines() {
		if b.Name == "pps" {
			if b.Most != 1099 || b.High < 1090 || b.High > 1099 || b.Proposed != round(3*b.High) || b.Enough || *b.Current != 20_000 || b.Seconds != 2000 {
				t.Errorf("%+v", b)
			}
			return
		}
	}
	t.Error("nothing learned of pps")
}

// What the cache had no place for is of no host; and an attack is not over because what a
// rule drops enters no cache.
func TestAggregatesAreOfNoHost(t *testing.T) {
	d := newDrill(t, func(p *Policy) { p.Groups[0].Subnets = []Limit{{Measure: Packets, Rate: 100_000}} })
	aggregate := DeltaOf(&flow.Record{Dst: flow.AddrFrom(netip.MustParseAddr("192.0.2.0")), Proto: flow.ProtoUDP, Packets: 60_000, Bytes: 6_000_000, Has: flow.HasDst | flow.HasPackets})
	if !aggregate.Aggregate {
		t.Error("an aggregate's delta is one of a flow")
	}
	d.second([]Delta{aggregate}, nil)
	if s := d.e.Status(d.now); len(s.Attacks) != 0 || s.Groups[0].PPS != 60_000 {
		t.Errorf("%+v", s)
	}
	aggregate.Packets = 200_000
	d.second([]Delta{aggregate}, nil)
	if s := d.e.Status(d.now); len(s.Attacks) != 1 || s.Attacks[0].Name != "192.0.2.0/24" {
		t.Errorf("%+v", s.Attacks)
	}

	d = newDrill(t, nil)
	var flood []Delta
	for i := range 30_000 {
		x := delta(fmt.Sprintf("11.%d.%d.9", i>>8, i&255), uint16(i)|0x8000, "192.0.2.10", uint16(i*7)|1, flow.ProtoUDP, 1, 100)
		x.Flows = 1
		flood = append(flood, x)
	}
	d.second(flood, nil)
	for range 60 { // the fake drops it, and what it dropped is told by its counters alone
		for i := range flood {
			d.fake.Feed(&flood[i])
		}
		d.second(nil, legit("192.0.2.10"))
	}
	s := d.e.Status(d.now)
	if len(s.Attacks) != 1 || s.Attacks[0].Ended != 0 || s.Attacks[0].PPS < 30_000 || s.Actions[0].State != StateActive {
		t.Errorf("%+v\n%+v", s.Attacks, s.Actions)
	}
	for range 120 {
		d.second(nil, legit("192.0.2.10"))
	}
	if s := d.e.Status(d.now); s.Attacks[0].Ended == 0 || s.Actions[0].State != StateEnded {
		t.Errorf("%+v\n%+v", s.Attacks, s.Actions)
	}
}

// A flood of UDP packets that are each a flow of its own is met where flows begin, so that
// those of others go on; not where FlowSpec is to say it, nor if the flows last.
func TestNewFlowsAreMetWhereTheyBegin(t *testing.T) {
	spoofed := func(packets uint64) (list []Delta) {
		for i := range 30_000 {
			x := delta(fmt.Sprintf("11.%d.%d.9", i>>8, i&255), uint16(i)|0x8000, "192.0.2.10", uint16(i*7)|1, flow.ProtoUDP, packets, 100*packets)
			x.Flows = 1
			list = append(list, x)
		}
		return list
	}
	for _, tt := range []struct {
		packets uint64
		how     Announce
		want    string
	}{{1, NoAnnounce, "udp new flows to 192.0.2.10"}, {4, NoAnnounce, "udp to 192.0.2.10"}, {1, FlowSpec, "udp to 192.0.2.10"}} {
		d := newDrill(t, func(p *Policy) { p.Groups[0].Announce = tt.how })
		d.second(spoofed(tt.packets), legit("192.0.2.10"))
		if s := d.e.Status(d.now); len(s.Actions) != 1 || s.Actions[0].Match.String() != tt.want {
			t.Errorf("%d packets a flow, %v: %+v", tt.packets, tt.how, s.Actions)
		}
	}
}
