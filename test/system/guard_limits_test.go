package system

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

// Limits of single flows, with real transfers in buffers of many segments: one at full
// speed below its limit loses nothing, a low limit slows it down and does not starve it,
// and who does not keep to a limit is held alone. What may enter the cache holds up nobody.
func TestGuardLimits(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	g.configure(t, "off", `
guard:
  flows:
    backup: {bps: 200G, pps: 20M, burst: 200ms, action: drop, hold: 60s, networks: [10.99.6.1]}
    slow: {bps: 8M, burst: 200ms, action: police, networks: [10.99.6.2]}
    strict: {pps: 300, burst: 200ms, action: drop, hold: 2s, max-hold: 2s, networks: [10.99.6.3]}
  new-flows: {per-cpu: 0, per-source: 0, per-destination: 50}
`)
	text, err := os.ReadFile(g.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.config, []byte(strings.ReplaceAll(string(text), "mode: xdp", "mode: tc")), 0o644); err != nil {
		t.Fatal(err)
	}
	g.process = start(t, g.r, weir, "up", "-c", g.config)
	ready(t, g.process, g.r)
	metering(t, g.process, g.r, "tc", 3)
	for i := 1; i <= 4; i++ {
		g.victim(t, fmt.Sprintf("10.99.6.%d/32", i))
	}
	count := func(what, limit string) float64 {
		return metric(t, g.r, console, fmt.Sprintf("weir_guard_limit_%s_total{limit=%q}", what, limit))
	}

	transfer(t, g.c, g.b, "10.99.6.1:5001", 100<<20)
	if n, held := count("dropped_packets", "flows.backup"), count("holds", "flows.backup"); n != 0 || held != 0 {
		t.Errorf("a backup lost %g packets and was held %g times", n, held)
	}

	began := time.Now()
	transfer(t, g.c, g.b, "10.99.6.2:5001", 2<<20)
	// Two seconds at the limit, of which 200 ms may come at once.
	if took := time.Since(began); took < 1600*time.Millisecond || took > 40*time.Second {
		t.Errorf("2 MiB took %v at 8 Mbit/s", took)
	}
	if n := count("dropped_packets", "flows.slow"); n < 1 {
		t.Errorf("%g packets of the slow one were dropped", n)
	}

	f := startFlood(t, newSender(t, g.a, "va"), watchRate, one("10.99.6.3"))
	w := watch{f, newFloodCounter(t, g), "10.99.6.3/32"}
	until(t, 20*time.Second, "the flow is held", func() bool { return count("holds", "flows.strict") >= 1 })
	w.stopped(t)
	transfer(t, g.c, g.b, "10.99.6.4:5001", 1<<20)
	f.rate.Store(100)
	until(t, 20*time.Second, "the flow is let go when it is calm", func() bool {
		sent, came := f.packets.Load(), w.arrived.of(w.network)
		time.Sleep(500 * time.Millisecond)
		sent, came = f.packets.Load()-sent, w.arrived.of(w.network)-came
		return sent > 20 && came+5 > sent
	})
	f.end()

	// Each packet a flow of its own: most do not enter the cache, and all arrive.
	before := w.arrived.of("10.99.6.4/32")
	f = startFlood(t, newSender(t, g.a, "va"), watchRate, many(4096, func(i int, _ *rand.Rand) []byte {
		return ipv4(fmt.Sprintf("198.18.%d.%d", i>>8, i&255), "10.99.6.4", 17, 0, 0, udp(uint16(1024+i), 9999, 100))
	}))
	time.Sleep(1500 * time.Millisecond)
	sent := f.end()
	until(t, 20*time.Second, "all of them arrive", func() bool { return w.arrived.of("10.99.6.4/32")-before == sent })
	if n := count("beyond_packets", "new-flows.per-destination"); n < 0.5*float64(sent) || n >= float64(sent) {
		t.Errorf("%d flows began, %g packets were kept out of the cache", sent, n)
	}
	g.stop(t)
	detach(t, g.r)
}
