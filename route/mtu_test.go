package route

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Of routes with an MTU, whatever way they come and go, the table knows the
// destinations, and the least MTU that may count there.
func TestMTUsOfRoutes(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/24", "10.0.0.2/24")
	cable(r, p, "b", "y", "10.0.1.1/24", "10.0.1.2/24")
	r.ip("route", "add", "192.0.2.0/24", "via", "10.0.0.2", "mtu", "1400")
	r.ip("route", "add", "198.51.100.0/24", "via", "10.0.0.2")
	r.ip("route", "add", "2001:db8:9::/48", "dev", "b", "mtu", "1290")
	table := newFake()
	m := r.watch(Options{Table: table})
	told := func(what string, want map[string]uint32) {
		t.Helper()
		prefixes := map[netip.Prefix]uint32{}
		for p, mtu := range want {
			prefixes[netip.MustParsePrefix(p)] = mtu
		}
		var got map[netip.Prefix]uint32
		defer func() {
			if t.Failed() {
				t.Logf("%s: %v", what, got)
			}
		}()
		eventually(t, fmt.Sprint(what, ": ", want), func() bool {
			table.with(func() { got = table.mtus })
			return maps.Equal(got, prefixes)
		})
	}
	told("there before", map[string]uint32{"192.0.2.0/24": 1400, "2001:db8:9::/48": 1290})
	r.ip("route", "del", "2001:db8:9::/48")
	for _, c := range []struct {
		do   string
		want map[string]uint32
	}{
		{"route add 10.9.0.0/16 via 10.0.1.2 mtu lock 1300", map[string]uint32{"192.0.2.0/24": 1400, "10.9.0.0/16": 1300}},
		{"route add 10.9.8.0/24 via 10.0.1.2 mtu 1450", map[string]uint32{"192.0.2.0/24": 1400, "10.9.0.0/16": 1300, "10.9.8.0/24": 1300}},
		{"route del 10.9.0.0/16", map[string]uint32{"192.0.2.0/24": 1400, "10.9.8.0/24": 1450}},
		{"route replace 10.9.8.0/24 via 10.0.1.2", map[string]uint32{"192.0.2.0/24": 1400}},
		{"route add 192.0.2.0/24 via 10.0.1.2 mtu 1200 table 77", map[string]uint32{"192.0.2.0/24": 1200}},
		{"route del 192.0.2.0/24 table 77", map[string]uint32{"192.0.2.0/24": 1400}},
		{"route add 192.0.2.0/24 via 10.0.1.2 metric 9 mtu 1100", map[string]uint32{"192.0.2.0/24": 1100}},
		{"route del 192.0.2.0/24 metric 9", map[string]uint32{"192.0.2.0/24": 1400}},
		{"route add 10.8.0.0/16 mtu 1350 nexthop via 10.0.0.2 nexthop via 10.0.1.2", map[string]uint32{"192.0.2.0/24": 1400, "10.8.0.0/16": 1350}},
		{"route append 192.0.2.0/24 via 10.0.1.2 mtu 1000", map[string]uint32{"192.0.2.0/24": 1000, "10.8.0.0/16": 1350}},
		{"route del 192.0.2.0/24 via 10.0.0.2", map[string]uint32{"192.0.2.0/24": 1000, "10.8.0.0/16": 1350}},
		{"route add blackhole 10.7.0.0/16", map[string]uint32{"192.0.2.0/24": 1000, "10.8.0.0/16": 1350}},
		{"route add 10.6.0.0/16 via 10.0.0.2 mtu 1500 table 88", map[string]uint32{"192.0.2.0/24": 1000, "10.8.0.0/16": 1350, "10.6.0.0/16": 1500}},
		{"nexthop add id 5 via 10.0.0.2 dev a", map[string]uint32{"192.0.2.0/24": 1000, "10.8.0.0/16": 1350, "10.6.0.0/16": 1500}},
		{"route add 10.5.0.0/16 nhid 5 mtu 1280", map[string]uint32{"192.0.2.0/24": 1000, "10.8.0.0/16": 1350, "10.6.0.0/16": 1500, "10.5.0.0/16": 1280}},
		{"nexthop del id 5", map[string]uint32{"192.0.2.0/24": 1000, "10.8.0.0/16": 1350, "10.6.0.0/16": 1500}},
		{"route add default via 10.0.0.2 mtu 1490", map[string]uint32{"0.0.0.0/0": 1490, "192.0.2.0/24": 1000, "10.8.0.0/16": 1350, "10.6.0.0/16": 1490}},
		{"route add 2001:db8:1::/48 dev b mtu 1300", map[string]uint32{"0.0.0.0/0": 1490, "192.0.2.0/24": 1000, "10.8.0.0/16": 1350, "10.6.0.0/16": 1490, "2001:db8:1::/48": 1300}},
		// All go with their interfaces, and the kernel tells of none.
		{"link set dev a down", map[string]uint32{"192.0.2.0/24": 1000, "10.8.0.0/16": 1350, "2001:db8:1::/48": 1300}},
		{"link set dev b down", nil},
	} {
		r.ip(strings.Fields(c.do)...)
		told(c.do, c.want)
	}
	if s := m.Snapshot(); s.MTUs != 0 || s.RouteListings < 2 {
		t.Errorf("%+v", s)
	}
}

// More routes with an MTU than are kept: all destinations have the least.
func TestManyMTUs(t *testing.T) {
	v := newMTUView()
	v.beginList()
	v.endList(newMTURoutes())
	at := func(i int) routeMessage {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		return routeMessage{key: routeKey{to: netip.PrefixFrom(a, 32), table: 254}, mtu: uint32(9000 - i)}
	}
	const all = mtusKept + 100
	for i := range all {
		v.hear(at(i), true, false)
	}
	want := map[netip.Prefix]uint32{all4: 9000 - all + 1, all6: 9000 - all + 1}
	if got := v.routes.prefixes(); !maps.Equal(got, want) || v.doubt {
		t.Fatalf("%v, doubt %v", got, v.doubt)
	}
	v.hear(at(all-1), false, false)
	if !v.doubt {
		t.Error("one of those that found no room has gone, and no list is wanted")
	}
}

// What is heard while routes are listed is newer than the list; what the list says of
// others holds.
func TestMTUsHeardWhileListing(t *testing.T) {
	key := func(i byte) routeKey { return routeKey{to: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, i}), 16)} }
	v := newMTUView()
	v.hear(routeMessage{key(1), 1400}, true, false)
	v.beginList()
	found := newMTURoutes() // as it was when the list began: 2 had an MTU, 3 had none
	found.set(key(2), 1300)
	found.set(key(4), 1100)
	v.hear(routeMessage{key(2), 1300}, false, false)
	v.hear(routeMessage{key(3), 1200}, true, false)
	v.endList(found)
	if want := (map[routeKey]uint32{key(3): 1200, key(4): 1100}); !maps.Equal(v.routes.of, want) {
		t.Errorf("%v, want %v", v.routes.of, want)
	}
}

// For each address the longest prefix has the least MTU of all routes around it.
func TestMTUPrefixesBesideANaiveTwin(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		r := newMTURoutes()
		for range 1 + rnd.IntN(20) {
			a := netip.AddrFrom4([4]byte{10, byte(rnd.IntN(2)), byte(rnd.IntN(4)), byte(rnd.IntN(4))})
			to, _ := a.Prefix(rnd.IntN(33))
			r.set(routeKey{to: to, table: uint32(rnd.IntN(3))}, uint32(1000+rnd.IntN(500)))
		}
		all := r.prefixes()
		for range 200 {
			a := netip.AddrFrom4([4]byte{10, byte(rnd.IntN(2)), byte(rnd.IntN(4)), byte(rnd.IntN(4))})
			var got, want uint32
			longest := -1
			for p, mtu := range all {
				if p.Contains(a) && p.Bits() > longest {
					got, longest = mtu, p.Bits()
				}
			}
			for k, mtu := range r.of {
				if k.to.Contains(a) {
					want = lesser(want, mtu)
				}
			}
			if got != want {
				t.Fatalf("%s: %d, want %d; of %v", a, got, want, r.of)
			}
		}
	}
}

// To hear of a route without an MTU allocates nothing.
func TestHearingOfRoutesWithoutMTUAllocates(t *testing.T) {
	m := newMachine(t)
	m.mtus.beginList()
	m.mtus.endList(newMTURoutes())
	msg := routeMessageOf(netip.MustParsePrefix("192.0.2.0/24"))
	m.message(msg)
	if n := testing.AllocsPerRun(100, func() {
		m.mtus.hear(routeMessage{key: routeKey{to: netip.MustParsePrefix("192.0.2.0/24")}}, true, false)
		if due := m.mtus.due(); due.After(time.Now()) {
			t.Error("there is something to tell")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
