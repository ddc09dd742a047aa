package guard

import (
	"sync"
	"testing"
	"time"
)

// Whoever asks and changes does so while traffic is counted: nothing of it gets lost,
// and events come in order, one at a time.
func TestTheEngineIsAskedWhileItCounts(t *testing.T) {
	p := policyOf("192.0.2.0/24")
	p.Sources, p.Keys = nil, 1<<8
	p.Groups[0].Mode, p.Groups[0].Do, p.Groups[0].PPS = Approve, Drop, 0
	fake := &Fake{}
	fake.Advance(began)
	told := 0 // no lock: Tell is called by one at a time
	e, err := New(Options{Policy: p, Enforcer: fake, Learn: true, Tell: func(Event) { told++ }})
	if err != nil {
		t.Fatal(err)
	}
	const seconds, askers = 60, 3
	attack, good := synFlood("192.0.2.10", 2000), legit("192.0.2.10")
	var others, feeders sync.WaitGroup
	done := make(chan struct{})
	for range askers {
		others.Go(func() {
			for now := began; ; now += 1e6 { // once at least
				s := e.Status(now)
				for _, a := range s.Actions {
					// Another may have done it before.
					_, _ = e.Approve(now, a.ID, "alice", false)
					_, _ = e.Extend(now, a.ID, "bob", time.Hour)
					_, _ = e.Lift(now, a.ID, "alice")
				}
				e.Counters()
				e.Baselines()
				if err := e.SetOn(now, !e.On(), "bob"); err != nil {
					t.Error(err)
				}
				if err := e.SetPolicy(p); err != nil {
					t.Error(err)
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for _, list := range [][]Delta{attack, good} {
		feeders.Go(func() {
			for range seconds {
				e.Add(list)
			}
		})
	}
	feeders.Go(func() {
		for n := range int64(seconds) {
			fake.Advance(began + n*1e9)
			e.Tick(began + n*1e9)
		}
	})
	feeders.Wait()
	close(done)
	others.Wait()
	e.Tick(began + seconds*1e9)
	c, _, _, _ := e.Counters()
	if want := uint64(seconds * (len(attack) + len(good))); c.Deltas != want || c.Ticks != seconds+1 {
		t.Errorf("%d deltas in %d ticks are counted, were %d in %d", c.Deltas, c.Ticks, want, seconds+1)
	}
	if told == 0 {
		t.Error("nothing was told")
	}
}
