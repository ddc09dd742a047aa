package system

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// The table is exchanged for one of another size or key, by a reload and by a restart, while
// packets come and rules are in force: no packet passes that the rules drop; the guard does not take for calm what it
// could not see; and each packet is in a record, dropped or not.
func TestGuardExchange(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	g.configure(t, "off", modesPolicy)
	g.begin(t)
	arrived := newFloodCounter(t, g)
	dropped := watch{startFlood(t, newSender(t, g.a, "va"), watchRate, one("10.99.4.1")), arrived, "10.99.4.1/32"}
	passing := watch{startFlood(t, newSender(t, g.a, "va"), 500, many(50, func(i int, _ *rand.Rand) []byte {
		return ipv4(fmt.Sprintf("198.18.7.%d", i), "10.99.6.1", 17, 0, 0, udp(4000, 9999, 100))
	})), arrived, "10.99.6.1/32"}
	act := g.awaitAction(t, "automatic", "active")
	if r := g.guard(t, "extend", fmt.Sprint(act.ID), "--for", "5m"); r.status != 0 {
		t.Fatal(r.stderr)
	}
	dropped.stopped(t)
	restart := func(t testing.TB) {
		g.stop(t)
		g.begin(t)
	}
	for _, step := range []struct {
		cache string
		come  func(testing.TB)
	}{
		{"{entries: 64Ki, idle: 2s, active: 10s}", g.reload},
		{"{entries: 16Ki, idle: 2s, active: 10s}", restart},
		{"{entries: 16Ki, idle: 2s, active: 10s, key: 5tuple}", g.reload},
	} {
		before, cache := arrived.of(dropped.network), step.cache
		g.reconfigure(t, "cache: .*", "cache: "+cache)
		step.come(t)
		n := arrived.of(dropped.network) - before
		if n > 0 {
			t.Errorf("%s: %d packets passed while the table was exchanged", cache, n)
		}
		dropped.stopped(t)
		if a := g.action(t, act.ID); a.State != "active" || a.Left <= 0 {
			t.Errorf("%s: the action is %+v", cache, a)
		}
	}
	sent := map[string]uint64{dropped.network: dropped.f.end(), passing.network: passing.f.end()}
	settle()
	if n := arrived.of(passing.network); n != sent[passing.network] {
		t.Errorf("of %d packets that nothing is done about %d arrived", sent[passing.network], n)
	}
	noLoss(t, losses(t, g.r, g.control), "guard/dropped")
	g.stop(t)
	for network, n := range sent {
		list, dropped := g.records(t, "dst net "+network), uint64(0)
		for _, m := range list {
			d, _ := droppedIn(t, m)
			dropped += d
		}
		if got := list.sum(t).Packets; got != n || dropped != n-arrived.of(network) {
			t.Errorf("%s: records of %d packets, %d of them dropped; %d were sent, and %d arrived", network, got, dropped, n, arrived.of(network))
		}
	}
	detach(t, g.r)
}
