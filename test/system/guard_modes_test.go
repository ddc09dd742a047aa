package system

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

const modesPolicy = `
guard:
  mode: approve
  action: drop
  networks: [10.99.0.0/16]
  thresholds: {pps: 1k, flows: 600}
  outgoing: {}
  hold: 30s
  max-hold: 10m
  calm: 2s
  hostgroups:
    observe: {networks: [10.99.1.1], mode: observe}
    propose: {networks: [10.99.2.1], mode: propose}
    approve: {networks: [10.99.3.1], mode: approve}
    automatic: {networks: [10.99.4.1], mode: automatic}
    police: {networks: [10.99.5.1], mode: automatic, action: police, police-pps: 500}
`

// one is a flood of one flow.
func one(dst string) [][]byte {
	return [][]byte{ipv4("198.18.1.1", dst, 17, 0, 0, udp(4000, 9999, 100))}
}

// watch is a flood with what comes of it to its victim.
type watch struct {
	f       *flood
	arrived *floodCounter
	network string
}

const watchRate = 2000 // packets a second

// during counts what is sent in a time, and what comes of it: nothing else is on its way.
func (w watch) during(t testing.TB, lasts time.Duration) (sent, came uint64) {
	t.Helper()
	quiet := func() (uint64, uint64) {
		w.f.rate.Store(0)
		defer w.f.rate.Store(watchRate)
		var sent, came uint64
		until(t, 10*time.Second, "nothing is on its way", func() bool {
			s, c := w.f.packets.Load(), w.arrived.of(w.network)
			time.Sleep(50 * time.Millisecond)
			sent, came = w.f.packets.Load(), w.arrived.of(w.network)
			return s == sent && c == came
		})
		return sent, came
	}
	sent0, came0 := quiet()
	time.Sleep(lasts)
	sent, came = quiet()
	return sent - sent0, came - came0
}

// passes says that all comes that is sent.
func (w watch) passes(t testing.TB) {
	t.Helper()
	if sent, came := w.during(t, 300*time.Millisecond); came != sent || sent < 100 {
		t.Errorf("%s: %d packets were sent, %d arrived", w.network, sent, came)
	}
}

// stopped says that nothing comes.
func (w watch) stopped(t testing.TB) {
	t.Helper()
	if sent, came := w.during(t, 300*time.Millisecond); came > 0 || sent < 100 {
		t.Errorf("%s: %d packets were sent, %d arrived all the same", w.network, sent, came)
	}
}

// How far the guard goes is the mode's, and the operator's: on a router whose packets
// weir forwards, so that what is dropped is not forwarded either. What is in force
// outlives weir until its time, and not longer; the kill switch needs no weir.
func TestGuardModes(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	g.configure(t, "on", modesPolicy)
	g.begin(t)
	until(t, 20*time.Second, "weir forwards", func() bool {
		return strings.Contains(must(t, g.r, weir, "show", "routes", "-o", "json", "--control", g.control).stdout, `"alive"`)
	})
	arrived := newFloodCounter(t, g)
	floods := map[string]watch{}
	for i, group := range []string{"observe", "propose", "approve", "automatic", "police"} {
		dst := fmt.Sprintf("10.99.%d.1", i+1)
		floods[group] = watch{startFlood(t, newSender(t, g.a, "va"), watchRate, one(dst)), arrived, dst + "/32"}
	}
	ask := func(args ...string) {
		t.Helper()
		if r := g.guard(t, args...); r.status != 0 {
			t.Errorf("guard %v: %s", args, r.stderr)
		}
	}
	refused := func(words string, args ...string) {
		t.Helper()
		if r := g.guard(t, args...); r.status == 0 || !strings.Contains(r.stderr, words) {
			t.Errorf("guard %v: %s%s, want %q", args, r.stdout, r.stderr, words)
		}
	}
	id := func(a guardAction) string { return fmt.Sprint(a.ID) }

	observed, proposed := g.awaitAction(t, "observe", "observed"), g.awaitAction(t, "propose", "proposed")
	waits, active := g.awaitAction(t, "approve", "proposed"), g.awaitAction(t, "automatic", "active")
	policed := g.awaitAction(t, "police", "active")
	floods["automatic"].stopped(t)
	for _, group := range []string{"observe", "propose", "approve"} {
		floods[group].passes(t)
	}
	began := time.Now()
	sent, came := floods["police"].during(t, 2*time.Second)
	if at500 := 500 * time.Since(began).Seconds(); float64(came) < 0.5*at500 || float64(came) > 1.3*at500 || sent < 2*came {
		t.Errorf("policed to 500 packets a second: %d of %d in %v", came, sent, time.Since(began))
	}
	refused("was only observed", "approve", id(observed))
	refused("mode propose", "approve", id(proposed))
	ask("approve", id(waits))
	floods["approve"].stopped(t)
	refused("in force already", "approve", id(waits))
	ask("approve", id(proposed), "--override")
	floods["propose"].stopped(t)
	ask("lift", id(proposed))
	floods["propose"].passes(t)
	ask("lift", id(waits))
	floods["approve"].passes(t)

	// Somebody's own.
	ask("propose", "--to", "10.99.1.1", "--proto", "udp", "--dport", "9999", "--action", "drop", "--for", "1m", "--approve")
	floods["observe"].stopped(t)
	own := g.awaitAction(t, "", "active")
	for _, a := range g.actions(t, "") {
		if a.Attack == 0 {
			own = a
		}
	}
	refused("is allowed", "propose", "--from", "10.1.0.254", "--action", "drop", "--approve")

	// Another policy, of which the hostgroups and thresholds differ.
	g.configure(t, "on", strings.NewReplacer("automatic}", "observe}", "pps: 1k", "pps: 1500").Replace(modesPolicy))
	taken := countOf(g.stderr.String(), "configuration taken")
	g.signal(t, 1)
	until(t, 20*time.Second, "it is taken", func() bool { return countOf(g.stderr.String(), "configuration taken") > taken })
	floods["automatic"].stopped(t)
	floods["observe"].stopped(t)
	if a := g.action(t, active.ID); a.State != "active" || a.Left <= 0 {
		t.Errorf("another policy, and the action is %+v", a)
	}
	g.configure(t, "on", modesPolicy)

	// A new weir takes over what it finds.
	g.stop(t)
	floods["automatic"].stopped(t)
	g.begin(t)
	floods["automatic"].stopped(t)
	floods["observe"].stopped(t)
	if a := g.action(t, own.ID); a.State != "active" || a.By != "an earlier weir" || a.Dropped == 0 || a.Left <= 0 || a.Left > 60 {
		t.Errorf("taken over: %+v", a)
	}
	if a := g.action(t, policed.ID); a.State != "active" || !strings.HasPrefix(a.What, "police 500pps: ") {
		t.Errorf("taken over: %+v", a)
	}
	ask("lift", id(own))
	floods["observe"].passes(t)

	// Killed: the rule ends by itself, at its time.
	ask("extend", id(active), "--for", "8s")
	ends := g.action(t, active.ID).Ends
	for _, a := range g.actions(t, "automatic") { // one that the new weir found for itself
		if a.State == "active" && a.ID != active.ID {
			ask("lift", id(a))
		}
	}
	g.kill(t)
	floods["automatic"].stopped(t)
	before := arrived.of("10.99.4.1/32")
	until(t, 20*time.Second, "it ends by itself", func() bool {
		return arrived.of("10.99.4.1/32") > before
	})
	if late := time.Since(ends); late < -300*time.Millisecond || late > 3*time.Second*slow {
		t.Errorf("it ended %v after its time", late)
	}
	floods["automatic"].passes(t)

	// The kill switch, without a weir.
	if sent, came := floods["police"].during(t, time.Second); came > sent/2 {
		t.Errorf("police without weir: %d of %d came", came, sent)
	}
	r := g.guard(t, "off")
	if r.status != 0 || !strings.Contains(r.stdout, "the kernel's programs: off") || !strings.Contains(r.stdout, "no weir is running") {
		t.Errorf("guard off: %s%s", r.stdout, r.stderr)
	}
	for _, w := range floods {
		w.passes(t)
	}
	g.begin(t)
	time.Sleep(2500 * time.Millisecond) // it finds the attacks again
	for _, w := range floods {
		w.passes(t)
	}
	if v := metric(t, g.r, console, "weir_guard_on"); v != 0 {
		t.Errorf("weir_guard_on is %v", v)
	}
	ask("on")
	if _, err := os.Stat(g.dir + "/guard.off"); err == nil {
		t.Error("the mark of the kill switch is left")
	}

	// Packets that were forwarded are those that arrived.
	for _, w := range floods {
		w.f.end()
	}
	settle()
	if got := fatesOf(t, g.r, g.control, "ra"); got["forwarded"] > arrived.all() || got["forwarded"] == 0 {
		t.Errorf("%d packets of the floods arrived, and were forwarded: %v", arrived.all(), got.less(nil))
	}
	g.stop(t)
	detach(t, g.r)
}
