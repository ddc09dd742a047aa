package route

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// each change of the routing is told, and soon. A try that the machine was too
// busy for is made again.
func TestEachChangeIsToldWithin100ms(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/24", "10.0.0.2/24")
	cable(r, p, "b", "y", "10.0.1.1/24", "10.0.1.2/24")
	r.ip("addr", "add", "2001:db8::1/64", "dev", "a", "nodad")
	table := newFake()
	r.watch(Options{Table: table})

	const limit = 100 * time.Millisecond
	for _, c := range []struct{ name, do, want, undo string }{
		{"route added", "route add 192.0.2.0/24 via 10.0.0.2", "invalidate 192.0.2.0/24", "route del 192.0.2.0/24"},
		{"route withdrawn", "route del 198.51.100.0/24", "invalidate 198.51.100.0/24", "route add 198.51.100.0/24 via 10.0.0.2"},
		{"route changed", "route replace 198.51.100.0/24 via 10.0.1.2", "invalidate 198.51.100.0/24", "route replace 198.51.100.0/24 via 10.0.0.2"},
		{"more specific", "route add 198.51.100.128/25 via 10.0.1.2", "invalidate 198.51.100.128/25", "route del 198.51.100.128/25"},
		{"other metric", "route add 198.51.100.0/24 via 10.0.1.2 metric 5", "invalidate 198.51.100.0/24", "route del 198.51.100.0/24 metric 5"},
		{"blackhole", "route add blackhole 198.51.100.7", "invalidate 198.51.100.7/32", "route del blackhole 198.51.100.7"},
		{"default", "route add default via 10.0.0.2", "invalidate 0.0.0.0/0", "route del default"},
		{"other table", "route add 192.0.2.0/24 via 10.0.0.2 table 77", "invalidate 192.0.2.0/24", "route del 192.0.2.0/24 table 77"},
		{"multipath", "route add 192.0.2.0/24 nexthop via 10.0.0.2 nexthop via 10.0.1.2", "invalidate 192.0.2.0/24", "route del 192.0.2.0/24"},
		{"IPv6 route", "route add 2001:db8:1::/48 via 2001:db8::2", "invalidate 2001:db8:1::/48", "route del 2001:db8:1::/48"},
		{"IPv6 default", "route add ::/0 via 2001:db8::2", "invalidate ::/0", "route del ::/0"},
		{"rule", "rule add from 10.9.0.0/16 lookup 77", "invalidate all", "rule del from 10.9.0.0/16 lookup 77"},
		{"IPv6 rule", "-6 rule add from 2001:db8:9::/48 lookup 77", "invalidate all", "-6 rule del from 2001:db8:9::/48 lookup 77"},
		{"next hop object", "nexthop add id 7 via 10.0.0.2 dev a", "invalidate all", "nexthop del id 7"},
		{"address added", "addr add 10.0.2.1/24 dev a", "own 10.0.2.1 true", "addr del 10.0.2.1/24 dev a"},
		{"address removed", "addr del 10.0.3.1/24 dev a", "own 10.0.3.1 false", "addr add 10.0.3.1/24 dev a"},
		{"routes of an address removed", "addr del 10.0.3.1/24 dev a", "invalidate all", "addr add 10.0.3.1/24 dev a"},
		{"IPv6 address", "addr add 2001:db8:2::1/64 dev a nodad", "own 2001:db8:2::1 true", "addr del 2001:db8:2::1/64 dev a"},
		{"neighbour", "neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev a nud permanent", "hop 10.0.0.9 true", "neigh del 10.0.0.9 dev a"},
		{"neighbour gone", "neigh del 10.0.0.8 dev a", "drop 10.0.0.8", "neigh add 10.0.0.8 lladdr 02:00:00:00:00:08 dev a nud reachable"},
		{"neighbour moved", "neigh replace 10.0.0.8 lladdr 02:00:00:00:00:88 dev a nud reachable", "hop 10.0.0.8 true", "neigh replace 10.0.0.8 lladdr 02:00:00:00:00:08 dev a nud reachable"},
		{"neighbour failed", "neigh change 10.0.0.8 dev a nud failed", "hop 10.0.0.8 false", "neigh replace 10.0.0.8 lladdr 02:00:00:00:00:08 dev a nud reachable"},
		{"IPv6 neighbour", "neigh add fe80::9 lladdr 02:00:00:00:00:09 dev a nud permanent", "hop fe80::9 true", "neigh del fe80::9 dev a"},
		{"interface down", "link set dev a down", "invalidate all", "link set dev a up"},
		{"its next hops", "link set dev a down", "drop 10.0.0.8", "link set dev a up; neigh replace 10.0.0.8 lladdr 02:00:00:00:00:08 dev a nud reachable"},
		{"MTU", "link set dev a mtu 1400", "hop 10.0.0.8 true", "link set dev a mtu 1500"},
		{"MAC", "link set dev a address 02:00:00:00:00:aa", "invalidate all", "link set dev a address 02:00:00:00:00:bb"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &space{t, r.fd}
			undo := func() { // what it undoes may not be there yet
				for words := range strings.SplitSeq(c.undo, "; ") {
					r.try("", append([]string{"ip"}, strings.Fields(words)...)...)
				}
			}
			best := time.Hour
			for range 5 {
				undo()
				time.Sleep(3 * settle) // what was told of that, and again, is over
				table.forget()
				r.ip(strings.Fields(c.do)...)
				done := time.Now()
				var at time.Time
				eventually(t, fmt.Sprintf("%q after %s", c.want, c.do), func() (ok bool) {
					at, ok = table.when(c.want)
					return ok
				})
				if best = min(best, at.Sub(done)); best <= limit {
					break
				}
			}
			t.Logf("told after %v", best)
			if best > limit {
				t.Errorf("told after %v at best", best)
			}
			undo()
		})
	}
}

func TestSettingsThatRoutingHeeds(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/24", "10.0.0.2/24")
	r.sysctl("net/ipv4/ip_forward", "1")
	table := newFake()
	r.watch(Options{Table: table})
	for _, c := range [][2]string{{"net/ipv4/ip_forward", "0"}, {"net/ipv4/conf/a/forwarding", "1"}, {"net/ipv6/conf/all/forwarding", "1"}, {"net/ipv4/conf/a/ignore_routes_with_linkdown", "1"}} {
		time.Sleep(3 * settle)
		table.forget()
		r.sysctl(c[0], c[1])
		eventually(t, c[0], func() bool { _, ok := table.when("invalidate all"); return ok })
	}
}

// Every call that invalidates is made a second time, when the kernel is done.
func TestInvalidationsAreRepeated(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/24", "10.0.0.2/24")
	table := newFake()
	m := r.watch(Options{Table: table})
	time.Sleep(3 * settle)
	table.forget()
	before := m.Snapshot()
	r.batch("route add 192.0.2.0/24 via 10.0.0.2\nroute add 198.51.100.0/24 via 10.0.0.2\nrule add from 10.9.0.0/16 lookup 77\n")
	want := map[string]int{"invalidate 192.0.2.0/24": 2, "invalidate 198.51.100.0/24": 2, "invalidate all": 2}
	eventually(t, "each twice", func() bool {
		words := table.words()
		for w, n := range want {
			if count(words, w) < n && count(words, "invalidate all") < n {
				return false
			}
		}
		return true
	})
	if s := m.Snapshot(); s.Invalidations-before.Invalidations != 2 || s.InvalidationsAll-before.InvalidationsAll != 1 || s.Rules-before.Rules != 1 {
		t.Errorf("from %+v to %+v", before, s)
	}
}

func count(list []string, what string) (n int) {
	for _, w := range list {
		if w == what {
			n++
		}
	}
	return n
}

// What other interfaces do that forward nothing invalidates nothing.
func TestUnrelatedLinksInvalidateNothing(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/24", "10.0.0.2/24")
	r.ip("neigh", "add", "10.0.0.9", "lladdr", "02:00:00:00:00:09", "dev", "a", "nud", "permanent")
	for _, path := range []string{"net/ipv6/conf/default/disable_ipv6", "net/ipv6/conf/all/disable_ipv6"} {
		r.sysctl(path, "1") // its link-local routes are changes
	}
	r.batch(`link add name br address 02:00:00:00:00:bb type bridge
		link set dev br mtu 1400
		link set dev br up
		link add name k1 type veth peer name k2
		link set dev k1 master br
		link set dev k1 up
		link set dev k2 up
	`)
	eventually(t, "the bridge has a carrier", func() bool { return r.link("br").OperState == netlink.OperUp })
	m := r.watch(Options{Table: newFake()})
	before := m.Snapshot()
	r.batch(strings.Repeat(strings.Join([]string{
		"link add c1 type veth peer name c2", // a container's
		"link set dev c1 master br",
		"link set dev c1 up",
		"link set dev c1 mtu 1400",
		"link set dev c1 alias something",
		"link set dev c1 down",
		"link set dev c1 up",
		"link del c1",
		"link set dev a alias something", // of no concern to routing
		"link set dev a txqueuelen 500",
	}, "\n")+"\n", 20))
	eventually(t, "all is heard", func() bool { return m.Snapshot().Links-before.Links >= 20*10 })
	if s := m.Snapshot(); s.Invalidations != before.Invalidations || s.InvalidationsAll != before.InvalidationsAll {
		t.Errorf("from %+v to %+v", before, s)
	}
}

// A bridge's address table and its ports' messages are no neighbours and no links.
func TestBridgePortsAreNoOutputs(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/24", "10.0.0.2/24")
	r.ip("neigh", "add", "10.0.0.9", "lladdr", "02:00:00:00:00:09", "dev", "a", "nud", "permanent")
	table := newFake()
	m := r.watch(Options{Table: table})
	hop := Hop{r.index("a"), netip.MustParseAddr("10.0.0.9")}
	if w, ok := table.hop(hop); !ok || !w.Alive || w.Device != hop.Interface || w.MTU != 1500 || w.VLAN != 0 {
		t.Fatalf("%+v, %v", w, ok)
	}
	r.batch("link add name br type bridge\nlink set dev br up\nlink set dev a master br\n")
	eventually(t, "a bridge's port is dropped", func() bool { _, ok := table.hop(hop); return !ok })
	r.ip("neigh", "add", "10.0.0.10", "lladdr", "02:00:00:00:00:10", "dev", "br", "nud", "permanent")
	r.ip("link", "set", "dev", "a", "nomaster") // RTM_DELLINK of the bridge's family
	eventually(t, "it comes back", func() bool { _, ok := table.hop(hop); return ok })
	if _, ok := table.hop(Hop{r.index("br"), netip.MustParseAddr("10.0.0.10")}); ok {
		t.Error("a bridge is an output")
	}
	if s := m.Snapshot(); s.Hops != 1 || s.Malformed != 0 {
		t.Errorf("%+v", s)
	}
}

func TestRefreshAsksForOutputsAgain(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/24", "10.0.0.2/24")
	r.ip("neigh", "add", "10.0.0.9", "lladdr", "02:00:00:00:00:09", "dev", "a", "nud", "permanent")
	table := newFake()
	var on bool // with table's lock
	m := r.watch(Options{Table: table, Output: func(uint32) (is bool) { table.with(func() { is = on }); return is }})
	hop := Hop{r.index("a"), netip.MustParseAddr("10.0.0.9")}
	if _, ok := table.hop(hop); ok {
		t.Fatal("a next hop by no output")
	}
	for _, want := range []bool{true, false, true} {
		table.with(func() { on = want })
		m.Refresh()
		eventually(t, fmt.Sprint("an output: ", want), func() bool { _, ok := table.hop(hop); return ok == want })
	}
}

// A table that is full is said once, counted, and filled when there is room.
func TestHopsThatFindNoRoom(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/24", "10.0.0.2/24")
	table := newFake()
	table.full = true
	m := r.watch(Options{Table: table, KeepAlive: 10 * time.Millisecond})
	r.ip("neigh", "add", "10.0.0.9", "lladdr", "02:00:00:00:00:09", "dev", "a", "nud", "permanent")
	eventually(t, "it is counted", func() bool { return m.Snapshot().HopsRefused > 0 })
	if n := m.Snapshot().Hops; n != 0 {
		t.Errorf("%d hops", n)
	}
	table.with(func() { table.full = false })
	eventually(t, "it is offered again", func() bool {
		_, ok := table.hop(Hop{r.index("a"), netip.MustParseAddr("10.0.0.9")})
		return ok && m.Snapshot().Hops == 1
	})
}

// When messages are lost, all is asked again, and what changed in the dark is
// found. The buffers are as small as the kernel makes them; messages come
// faster than anybody reads.
func TestLostMessagesAreMadeUpFor(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/16", "10.0.0.2/16")
	table := newFake()
	table.quiet = true
	m := r.watch(Options{Table: table, ReceiveBuffer: 1})
	before := m.Snapshot()

	// The table holds the Monitor up while the neighbours change.
	var lines strings.Builder
	for i := range 200 {
		fmt.Fprintf(&lines, "neigh add 10.0.1.%d lladdr 02:00:00:00:01:%02x dev a nud permanent\n", i, i)
	}
	table.with(func() {
		r.batch("neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev a nud permanent\n" + lines.String())
	})
	eventually(t, "an overrun and a listing", func() bool {
		s := m.Snapshot()
		return s.Overruns > before.Overruns && s.Listings > before.Listings && s.Hops == 201
	})
	if at, ok := table.when("invalidate all"); !ok {
		t.Error("not all was invalidated", at)
	}

	listed := m.Snapshot().Listings
	table.with(func() {
		r.batch("neigh add 10.0.0.10 lladdr 02:00:00:00:00:0a dev a nud permanent\n" + strings.ReplaceAll(lines.String(), "neigh add", "neigh del"))
	})
	eventually(t, "those gone in the dark are dropped", func() bool {
		s := m.Snapshot()
		return s.Listings > listed && s.Hops == 2
	})

	// Of routes there is nothing to list.
	s := m.Snapshot()
	table.forget()
	lines.Reset()
	for i := range 2000 {
		fmt.Fprintf(&lines, "route add 10.%d.%d.0/24 dev a\n", 100+i/256, i%256)
	}
	table.with(func() { r.batch(lines.String()) })
	eventually(t, "an overrun of routes", func() bool { return m.Snapshot().Overruns > s.Overruns })
	eventually(t, "all is invalidated", func() bool { _, ok := table.when("invalidate all"); return ok })
}

// What changed while nobody listened is told by the next Run.
func TestRunEndsAndBeginsAgain(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/24", "10.0.0.2/24")
	r.ip("neigh", "add", "10.0.0.9", "lladdr", "02:00:00:00:00:09", "dev", "a", "nud", "permanent")
	table := newFake()
	m := New(Options{Table: table, Output: func(uint32) bool { return true }})
	m.Refresh() // of one that does not run
	own := netip.MustParseAddr("10.0.7.1")
	for round, change := range []string{"del", "add", "del"} {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.in(func() {
				if err := m.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}()
		eventually(t, "a listing", func() bool { return m.Snapshot().Listings == uint64(round)+1 })
		_, there := table.hop(Hop{r.index("a"), netip.MustParseAddr("10.0.0.9")})
		if want := round != 1; there != want || table.own[own] == want {
			t.Errorf("in round %d the next hop is there: %v; the address: %v", round, there, table.own[own])
		}
		cancel()
		<-done
		m.Refresh()
		r.batch(fmt.Sprintf("neigh %s 10.0.0.9 lladdr 02:00:00:00:00:09 dev a nud permanent\naddr %s 10.0.7.1/24 dev a\n",
			change, map[string]string{"del": "add", "add": "del"}[change]))
	}
}

// An interface goes with all that was known of it, and its number may come again.
func TestInterfaceRemoved(t *testing.T) {
	r := newSpace(t)
	table := newFake()
	m := r.watch(Options{Table: table})
	for range 2 {
		r.batch(`link add name a index 77 type veth peer name b
			addr add 10.0.0.1/24 dev a
			link set dev b up
			link set dev a up
			neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev a nud permanent
		`)
		hop := Hop{77, netip.MustParseAddr("10.0.0.9")}
		eventually(t, "it is there", func() bool { w, ok := table.hop(hop); return ok && w.Alive })
		r.ip("link", "del", "dev", "a")
		eventually(t, "all of it is gone", func() bool {
			own := true
			table.with(func() { own = table.own[netip.MustParseAddr("10.0.0.1")] })
			_, ok := table.hop(hop)
			return !ok && !own && m.Snapshot().Hops == 0
		})
	}
}
