package system

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// A flood of weir's own collector: it is dropped in the kernel, records of exporters
// that are none of it arrive to the last, and datagrams of the flood that came before
// are counted, each.
func TestGuardCollector(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	g.configure(t, "off", `
guard:
  mode: automatic
  action: drop
  allow-own: off # this machine's addresses are what is to be protected
  networks: [10.1.0.254]
  thresholds: {pps: 1k, flows: 600}
  outgoing: {}
  hold: 5s
  max-hold: 60s
  calm: 2s
`)
	g.begin(t)
	e := newExporter(t, g.c, "10.3.0.1", "10.1.0.254:2055", 7)
	records := func(n int) {
		t.Helper()
		e.send(t, e.message(n, e.data(300, n)))
	}
	e.send(t, e.message(10, templateSet(300), e.data(300, 10)))
	f := startFlood(t, newSender(t, g.a, "va"), drillRate, many(200, func(i int, _ *rand.Rand) []byte {
		return ipv4("10.1.0.77", "10.1.0.254", 17, 0, 0, udp(uint16(2000+i), 2055, 400))
	}))
	var act guardAction
	until(t, 20*time.Second, "an action is in force", func() bool {
		records(20)
		for _, a := range g.actions(t, "default") {
			act = a
			if a.State == "active" {
				return true
			}
		}
		return false
	})
	for range 20 {
		records(20)
		time.Sleep(100 * time.Millisecond)
	}
	if !strings.HasPrefix(act.What, "drop: from 10.1.0.77 to 10.1.0.254") && !strings.HasPrefix(act.What, "drop: udp from 10.1.0.77") {
		t.Errorf("what is dropped: %s", act.What)
	}
	sent := f.end()
	until(t, 20*time.Second, "it ends", func() bool { act = g.action(t, act.ID); return act.State == "ended" })
	until(t, 20*time.Second, "all records of the exporter are stored", func() bool {
		_, c, err := aggregate(g.r, "exporter ip 10.3.0.1")
		return err == nil && c == e.sent
	})
	var came uint64
	for _, l := range losses(t, g.r, g.control) {
		if l.Datagrams > 0 {
			t.Logf("%s/%s: %d datagrams", l.Stage, l.Reason, l.Datagrams)
			came += l.Datagrams
		}
	}
	if came+act.Dropped != sent {
		t.Errorf("of %d datagrams of the flood %d came to the collector, %d were dropped", sent, came, act.Dropped)
	}
	g.stop(t)
	detach(t, g.r)
}
