package system

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pulse sends a frame of each of several flows every 5 ms, numbered in
// order, and knows when.
type pulse struct {
	mu   sync.Mutex
	sent []beat
	stop chan struct{}
	done chan struct{}
}

type beat struct {
	at   time.Time
	flow int
}

// startPulse sends packets until it is ended; the frames are from a to the router.
func startPulse(t testing.TB, out *sender, packets [][]byte) *pulse {
	s := &pulse{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
			}
			s.mu.Lock()
			var frames [][]byte
			now := time.Now()
			for i, p := range packets {
				frames = append(frames, routerFrame(p, uint32(len(s.sent))))
				s.sent = append(s.sent, beat{now, i})
			}
			s.mu.Unlock()
			out.send(t, frames...)
		}
	}()
	t.Cleanup(func() { s.end() })
	return s
}

// end stops it and gives what was sent.
func (s *pulse) end() []beat {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	<-s.done
	return s.sent
}

// count is how many frames were sent up to now.
func (s *pulse) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent)
}

// change is something that happens to a router's routing, told by a command, and
// where packets of its own destinations go before and after: "b", "c", "b2" (to
// another link address at b) or "" (nowhere).
type change struct {
	name          string
	setup, change string
	to            []string
	before, after string
	undo          string // of a change that concerns others' destinations, too; its setup is told just before
}

// changes are of every kind that moves packets elsewhere. N stands for a number of
// each one's own, in 10.100+N.0.0/16 and fd00:100+N::/32.
func changes() []change {
	four, six := []string{"10.N.7.7"}, []string{"fd00:N::7"}
	both := append(four, six...)
	const byB, byC = "ip route add 10.N.0.0/16 via 10.2.0.1; ip -6 route add fd00:N::/32 via fd00:2::1", "ip route add 10.N.7.0/24 via 10.3.0.1; ip -6 route add fd00:N::/48 via fd00:3::1"
	return []change{
		{name: "a route is added", setup: ":", change: byB, to: both, before: "", after: "b"},
		{name: "a route is withdrawn", setup: byB, change: "ip route del 10.N.0.0/16; ip -6 route del fd00:N::/32", to: both, before: "b", after: ""},
		{name: "a more specific route is added", setup: byB, change: byC, to: both, before: "b", after: "c"},
		{name: "a more specific route is withdrawn", setup: byB + ";" + byC, change: "ip route del 10.N.7.0/24; ip -6 route del fd00:N::/48", to: both, before: "c", after: "b"},
		{name: "a route is replaced", setup: byB, change: "ip route replace 10.N.0.0/16 via 10.3.0.1; ip -6 route replace fd00:N::/32 via fd00:3::1", to: both, before: "b", after: "c"},
		{
			name: "a route of a better metric is added", to: both, before: "b", after: "c",
			setup:  "ip route add 10.N.0.0/16 via 10.2.0.1 metric 20; ip -6 route add fd00:N::/32 via fd00:2::1 metric 20",
			change: "ip route add 10.N.0.0/16 via 10.3.0.1 metric 10; ip -6 route add fd00:N::/32 via fd00:3::1 metric 10",
		},
		{name: "a blackhole", setup: byB, change: "ip route add blackhole 10.N.7.0/24; ip -6 route add blackhole fd00:N::/48", to: both, before: "b", after: ""},
		{name: "a route that says unreachable, in the place of one that does not", setup: byB, change: "ip route replace unreachable 10.N.0.0/16", to: four, before: "b", after: ""},
		{name: "a blackhole goes", setup: byB + ";ip route add blackhole 10.N.7.0/24", change: "ip route del blackhole 10.N.7.0/24", to: four, before: "", after: "b"},
		{name: "a rule is added", setup: byB + "; ip route add default via 10.3.0.1 table N; ip -6 route add default via fd00:3::1 table N", change: "ip rule add to 10.N.0.0/16 lookup N; ip -6 rule add to fd00:N::/32 lookup N", to: both, before: "b", after: "c"},
		{name: "a rule is deleted", setup: byB + "; ip route add default via 10.3.0.1 table N; ip rule add to 10.N.0.0/16 lookup N", change: "ip rule del to 10.N.0.0/16 lookup N", to: four, before: "c", after: "b"},
		{
			name: "another of two equal routes goes", to: both, before: "bc", after: "c",
			setup:  "ip route add 10.N.0.0/16 nexthop via 10.2.0.1 nexthop via 10.3.0.1; ip -6 route add fd00:N::/32 nexthop via fd00:2::1 nexthop via fd00:3::1",
			change: "ip route replace 10.N.0.0/16 via 10.3.0.1; ip -6 route del fd00:N::/32 via fd00:2::1",
		},
		{
			name: "a next hop object is another", to: both, before: "b", after: "c",
			setup:  "ip nexthop add id N via 10.2.0.1 dev rb; ip route add 10.N.0.0/16 nhid N; ip nexthop add id 1N via fd00:2::1 dev rb; ip -6 route add fd00:N::/32 nhid 1N",
			change: "ip nexthop replace id N via 10.3.0.1 dev rc; ip nexthop replace id 1N via fd00:3::1 dev rc",
		},
		{
			name: "a group of next hop objects is another", to: four, before: "bc", after: "c",
			setup:  "ip nexthop add id 1N via 10.2.0.1 dev rb; ip nexthop add id 2N via 10.3.0.1 dev rc; ip nexthop add id N group 1N/2N; ip route add 10.N.0.0/16 nhid N",
			change: "ip nexthop replace id N group 2N",
		},
		{
			name: "a neighbour moves", to: both, before: "b", after: "b2",
			setup:  "ip neigh replace 10.2.0.N lladdr 02:00:00:00:02:01 dev rb nud reachable; ip route add 10.N.0.0/16 via 10.2.0.N; ip neigh replace fd00:2::N lladdr 02:00:00:00:02:01 dev rb nud reachable; ip -6 route add fd00:N::/32 via fd00:2::N",
			change: "ip neigh replace 10.2.0.N lladdr 02:00:00:00:02:02 dev rb nud reachable; ip neigh replace fd00:2::N lladdr 02:00:00:00:02:02 dev rb nud reachable",
		},
		{
			name: "a neighbour is gone", to: four, before: "b", after: "",
			setup:  "ip neigh replace 10.2.0.N lladdr 02:00:00:00:02:01 dev rb nud permanent; ip route add 10.N.0.0/16 via 10.2.0.N",
			change: "ip neigh del 10.2.0.N dev rb",
		},
		{
			name: "a neighbour does not answer", to: four, before: "b", after: "",
			setup:  "ip neigh replace 10.2.0.N lladdr 02:00:00:00:02:01 dev rb nud permanent; ip route add 10.N.0.0/16 via 10.2.0.N",
			change: "ip neigh change 10.2.0.N dev rb nud failed",
		},
		{
			name: "an address is this router's now", to: []string{"10.N.7.7"}, before: "b", after: "",
			setup: byB, change: "ip addr add 10.N.7.7/32 dev lo",
		},
		{
			name: "an interface goes down", to: both, before: "b", after: "c", undo: "ip link set rb up; ip -6 addr replace fd00:2::ff/64 dev rb nodad; ip neigh replace 10.2.0.1 lladdr 02:00:00:00:02:01 dev rb nud permanent; ip neigh replace fd00:2::1 lladdr 02:00:00:00:02:01 dev rb nud permanent",
			setup:  "ip route add 10.N.0.0/16 via 10.2.0.1 metric 10; ip route add 10.N.0.0/16 via 10.3.0.1 metric 20; ip -6 route add fd00:N::/32 via fd00:2::1 metric 10; ip -6 route add fd00:N::/32 via fd00:3::1 metric 20",
			change: "ip link set rb down",
		},
		{
			name: "an address is removed", to: four, before: "b", after: "c", undo: "ip addr add 10.2.0.254/24 dev rb",
			setup:  "ip route add 10.N.0.0/16 via 10.2.0.1 metric 10; ip route add 10.N.0.0/16 via 10.3.0.1 metric 20",
			change: "ip addr del 10.2.0.254/24 dev rb",
		},
		{name: "forwarding is switched off", setup: byB, to: four, before: "b", after: "", change: "echo 0 >/proc/sys/net/ipv4/conf/ra/forwarding", undo: "echo 1 >/proc/sys/net/ipv4/conf/ra/forwarding"},
	}
}

// changing is a network whose routing changes while packets pass.
type changing struct {
	crossed
	list   []change
	b, c   *tap
	pulse  *pulse
	ofFlow []int // which change a flow is of
}

const flowsOfEach = 2 // of each change and address

func newChanging(t *testing.T) *changing {
	g := &changing{crossed: newCrossed(t), list: changes()}
	for _, family := range []string{"ipv4", "ipv6"} {
		must(t, g.r, "sh", "-c", "echo 600000 >/proc/sys/net/"+family+"/neigh/rb/base_reachable_time_ms; echo 0 >/proc/sys/net/"+family+"/neigh/rb/locktime")
	}
	var packets [][]byte
	for i := range g.list {
		c := &g.list[i]
		own := fmt.Sprint(100 + i)
		for _, s := range []*string{&c.setup, &c.change, &c.undo} {
			*s = strings.NewReplacer("10.N", "10."+own, "N", own).Replace(*s)
		}
		if c.undo == "" {
			must(t, g.r, "sh", "-e", "-c", c.setup)
		}
		for _, dst := range c.to {
			dst = strings.ReplaceAll(dst, "N", own)
			for j := range flowsOfEach {
				l4 := udp(uint16(5000+j), 53, 20)
				p := ipv6(fmt.Sprintf("fd00:1::%x", 7+j), dst, 17, 0, l4)
				if !strings.Contains(dst, ":") {
					p = ipv4(fmt.Sprint("10.1.0.", 7+j), dst, 17, 0, 0, l4)
				}
				packets = append(packets, p)
				g.ofFlow = append(g.ofFlow, i)
			}
		}
	}
	g.b, g.c = newTap(t, g.crossed.b, "vb"), newTap(t, g.crossed.c, "vc")
	g.pulse = startPulse(t, newSender(t, g.a, "va"), packets)
	return g
}

// whereTo says where each numbered frame went: as change has it.
func (g *changing) whereTo(t *testing.T) map[uint32]string {
	t.Helper()
	where := map[uint32]string{}
	for _, at := range []struct {
		p    *tap
		name string
		mac  byte
	}{{g.b, "b", 2}, {g.c, "c", 3}} {
		for _, f := range at.p.take(isNumbered) {
			n, _ := numberOf(f)
			where[n] = at.name
			if f[5] != 1 {
				where[n] = fmt.Sprint(at.name, f[5])
			}
		}
		if lost := at.p.lost(t); lost > 0 {
			t.Fatalf("the tap lost %d frames", lost)
		}
	}
	return where
}

// happened is a change that was made: packets from number `from` up to `till` tell of
// it.
type happened struct {
	i          int
	begun, at  time.Time
	from, till int
}

// pass waits until each flow has had so many packets more.
func (g *changing) pass(t *testing.T, times int) {
	t.Helper()
	want := g.pulse.count() + times*len(g.ofFlow)
	until(t, 20*time.Second, "packets are sent", func() bool { return g.pulse.count() >= want })
}

// make makes changes, all at once, and watches for so long what follows.
func (g *changing) make(t *testing.T, watch time.Duration, which ...int) (list []happened) {
	t.Helper()
	from := g.pulse.count()
	g.pass(t, 12)
	for _, i := range which {
		h := happened{i: i, from: from, begun: time.Now()}
		must(t, g.r, "sh", "-e", "-c", g.list[i].change)
		h.at = time.Now()
		list = append(list, h)
	}
	time.Sleep(watch)
	g.pass(t, 12)
	for i := range list {
		list[i].till = g.pulse.count()
	}
	return list
}

// lag is how long after a change packets still went as before: how much later the
// last ones that did were sent. A busy machine may lose one of those that are sent at
// a time, but not most.
func (g *changing) lag(t *testing.T, h happened, sent []beat, where map[uint32]string) time.Duration {
	t.Helper()
	c := &g.list[h.i]
	lag, before, after, lost := time.Duration(0), 0, 0, 0
	for at := h.from / len(g.ofFlow); at < h.till/len(g.ofFlow); at++ { // the packets of one time
		went, all := map[string]int{}, 0
		var when time.Time
		for n := at * len(g.ofFlow); n < (at+1)*len(g.ofFlow); n++ {
			if g.ofFlow[sent[n].flow] == h.i {
				went[where[uint32(n)]]++
				all++
				when = sent[n].at
			}
		}
		isBefore := when.Before(h.begun)
		wants := map[bool]string{true: c.before, false: c.after}[isBefore]
		right := went[wants]
		if wants == "bc" {
			right = went["b"] + went["c"]
		}
		missing := 0
		if wants != "" {
			missing = went[""]
		}
		wrong := right+missing < all || 2*missing > all
		if !wrong {
			lost += missing
		}
		switch {
		case isBefore && wrong:
			t.Errorf("%s: before, packets went to %v, not %q", c.name, went, c.before)
			return 0
		case isBefore:
			before++
		case wrong:
			lag = max(lag, when.Sub(h.at))
		default:
			after++
		}
	}
	if before < 5 || after < 5 || lost > (before+after)/4 {
		t.Errorf("%s: %d times before, %d as it should be after, %d packets lost: nothing is shown", c.name, before, after, lost)
	}
	return lag
}

// judge says of changes how long packets went as before.
func (g *changing) judge(t *testing.T, list []happened, most time.Duration) {
	t.Helper()
	sent := g.pulse.end()
	settle()
	where := g.whereTo(t)
	for _, h := range list {
		lag := g.lag(t, h, sent, where)
		t.Logf("%-70s %v", g.list[h.i].name, lag.Round(time.Millisecond))
		if lag > most {
			t.Errorf("%s: packets sent up to %v later went as before", g.list[h.i].name, lag)
		}
	}
}

// Whatever changes in the kernel's routing, the next packets follow.
func TestForwardChanges(t *testing.T) {
	t.Parallel()
	g := newChanging(t)
	f := startForwarding(t, g.r, forwardAll)
	time.Sleep(300 * time.Millisecond)
	var list []happened
	for i, c := range g.list {
		if c.undo != "" {
			must(t, g.r, "sh", "-e", "-c", c.setup)
			time.Sleep(250 * time.Millisecond)
		}
		list = append(list, g.make(t, 250*time.Millisecond, i)...)
		must(t, g.r, "sh", "-e", "-c", c.undo)
	}
	g.judge(t, list, 100*time.Millisecond*slow)
	if d := f.fates(t, "ra"); d["forwarded"] < d.all()/2 {
		t.Errorf("most went by the kernel: %v", d)
	}
	f.stop(t)
	detach(t, g.r)
}

// And if weir hears of nothing, within two seconds: each flow asks the routing table
// again.
func TestForwardChangesUnheard(t *testing.T) {
	t.Parallel()
	g := newChanging(t)
	f := startForwarding(t, g.r, forwardAll)
	time.Sleep(300 * time.Millisecond)
	const watch = 2500 * time.Millisecond
	deaf := func(which ...int) []happened {
		f.signal(t, unix.SIGSTOP)
		defer f.signal(t, unix.SIGCONT)
		return g.make(t, watch*slow, which...)
	}
	var list []happened
	var which []int
	for i, c := range g.list {
		if c.undo == "" {
			which = append(which, i)
		}
	}
	list = append(list, deaf(which...)...)
	for i, c := range g.list {
		if c.undo == "" {
			continue
		}
		must(t, g.r, "sh", "-e", "-c", c.setup)
		time.Sleep(250 * time.Millisecond)
		list = append(list, deaf(i)...)
		must(t, g.r, "sh", "-e", "-c", c.undo)
	}
	g.judge(t, list, 2100*time.Millisecond) // and a tick of the kernel's clock, and what a packet takes to get there
	f.stop(t)
	detach(t, g.r)
}
