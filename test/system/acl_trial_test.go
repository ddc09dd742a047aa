package system

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/test/kernel"
)

// What is in force, and what is tried: 1 is denied by both, 53 permitted by both, 54
// is permitted by the latter only.
const (
	triedBefore = `
ip access-list extended IN
 10 permit udp any any eq 53
 20 deny udp any any eq 54
`
	triedAfter = `
ip access-list extended IN
 10 permit udp any any range 53 54
`
)

// A trial that nobody confirms ends in the kernel, with the daemon stopped, and with
// it killed; a confirmed one is in force for good, killed and started again. All the
// while what is denied by all lists does not arrive, and what all permit does.
func TestListsTrial(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	l := newLine(t, false)
	arrived, out := newArrivals(t, l.b, "vb"), newSender(t, l.a, "va")
	j := startJudged(t, l.b, "xdp", "interfaces: {vb: {meter: true, mode: MODE, acl: {in: IN}}}\ncache: {entries: 1Ki}", triedBefore)
	var list []frame
	for _, port := range []uint16{1, 53, 54} {
		f := udp4("10.7.0.1", "10.8.0.1", 1000, port, 64)
		f.octets, f.key = numbered(f.octets, uint32(port)), "all"
		list = append(list, f)
	}
	s := startStream(t, out, list, 4*time.Millisecond)
	times := func(i int) int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return int(s.times[i])
	}
	until(t, 5*time.Second, "frames arrive", func() bool { return arrived.of(53) > 20 && times(2) > 20 })
	const trial = 2 * time.Second
	// over waits for the end of what was begun at a time: not before, and not long
	// after its time.
	over := func(how string, begun time.Time) {
		t.Helper()
		last, at := arrived.of(54), time.Now()
		if last == 0 {
			t.Fatalf("%s: nothing is tried", how)
		}
		for ; time.Since(at) < 300*time.Millisecond*slow; time.Sleep(5 * time.Millisecond) {
			if now := arrived.of(54); now > last {
				last, at = now, time.Now()
			}
			if time.Since(begun) > 2*trial*slow {
				t.Fatalf("%s: the trial does not end", how)
			}
		}
		if took := at.Sub(begun); took < trial-100*time.Millisecond || took > trial+2*time.Second*slow {
			t.Errorf("%s: it was in force for %v, want %v", how, took, trial)
		}
		arrived.mu.Lock()
		delete(arrived.times, 54)
		arrived.mu.Unlock()
	}
	tried := func() {
		t.Helper()
		until(t, 5*time.Second, "what is tried passes", func() bool { return arrived.of(54) > 0 })
	}
	if arrived.of(54) > 0 {
		t.Fatal("54 is denied, and arrives")
	}

	begun := time.Now()
	j.apply(t, triedAfter, "--confirm", trial.String())
	j.signal(t, syscall.SIGSTOP)
	tried()
	over("stopped", begun)
	j.signal(t, syscall.SIGCONT)
	until(t, 5*time.Second, "it says that the trial is over", func() bool { return strings.Contains(j.stderr.String(), "was not confirmed") })
	if r := j.acl(t, "confirm"); r.status == 0 {
		t.Errorf("what is over was confirmed: %s", r.stderr)
	}

	begun = time.Now()
	j.apply(t, triedAfter, "--confirm", trial.String())
	j.kill(t)
	tried()
	over("killed", begun)
	j.begin(t)
	if got := len(j.rules(t)); got != 3 {
		t.Errorf("after a trial and a kill: %+v", j.rules(t))
	}

	// In a trial it may be killed and started again, and then be told to keep it.
	j.apply(t, triedAfter, "--confirm", "60s")
	tried()
	if r := j.acl(t, "apply", "--now", j.lists); r.status == 0 || !strings.Contains(r.stderr, "on trial") {
		t.Errorf("a change while another is on trial: %d %s", r.status, r.stderr)
	}
	j.write(t, triedBefore+" 30 permit icmp any any\n")
	j.hangUp(t, false)
	if !strings.Contains(j.stderr.String(), "confirm it or roll it back first") {
		t.Errorf("a changed file while another change is on trial: %s", tail(j.stderr.String(), 500))
	}
	j.write(t, triedBefore)
	j.hangUp(t, true)
	sent, came := times(2), arrived.of(54)
	j.kill(t)
	j.begin(t)
	if r := j.acl(t, "confirm"); r.status != 0 || !strings.Contains(r.stderr, j.lists) {
		t.Fatalf("confirm: %s", r.stderr)
	}
	j.kill(t)
	j.begin(t)
	s.end()
	until(t, 5*time.Second, "all that all lists permit arrives", func() bool { return arrived.of(53) >= times(1) })
	if got := arrived.of(53); got != times(1) {
		t.Errorf("%d frames arrived, %d were sent", got, times(1))
	}
	if got := arrived.of(1); got != 0 {
		t.Errorf("%d frames arrived that no list permits", got)
	}
	if sent, came := times(2)-sent, arrived.of(54)-came; came < sent-16 || came > sent+16 { // a batch is on its way when they are read
		t.Errorf("of %d frames that are permitted since a change was tried, and then kept, %d arrived", sent, came)
	}

	// A change by the file is taken back, in the file too, whatever an earlier one has
	// left beside it.
	j.write(t, triedBefore)
	j.hangUp(t, true)
	if r := j.acl(t, "rollback"); r.status != 0 {
		t.Errorf("rollback: %s", r.stderr)
	}
	j.hangUp(t, true)
	if got := j.rules(t); len(got) != 2 || !strings.Contains(got[0].Rule, "range domain 54") {
		t.Errorf("after a rollback and a reload: %+v", got)
	}
	j.stop(t)
	t.Logf("%d frames sent", s.sent().all.Packets)
}
