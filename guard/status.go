package guard

import (
	"cmp"
	"slices"
	"time"
)

// Status is all that is told of the guard at one moment.
type Status struct {
	On      bool           `json:"on"` // the kill switch
	Groups  []GroupStatus  `json:"groups"`
	Attacks []AttackStatus `json:"attacks"` // those that go on first, then the newest
	Actions []ActionStatus `json:"actions"` // open ones first, then the newest
	Limits  []LimitStatus  `json:"limits"`  // of single flows, then those of new ones
}

// LimitStatus is a limit that no attack is needed for, and what it has counted.
type LimitStatus struct {
	Name    string `json:"name"`    // flows.NAME, or new-flows.per-…
	Over    Volume `json:"over"`    // beyond it
	Dropped Volume `json:"dropped"` // of these, what was dropped; of new flows none is
	Held    uint64 `json:"held"`    // how often a flow's hold began
}

// limits are the limits with what they have counted.
func (e *Engine) limits() []LimitStatus {
	t, err := e.enforcer.Tolls()
	if err != nil {
		e.log.Warn("guard: cannot read what limits have counted", "error", err)
	}
	list := []LimitStatus{}
	for _, p := range t.Profiles {
		list = append(list, LimitStatus{"flows." + p.Name, p.Over, p.Dropped, p.Held})
	}
	return append(list,
		LimitStatus{Name: "new-flows.per-cpu", Over: t.CPU}, LimitStatus{Name: "new-flows.per-source", Over: t.Source}, LimitStatus{Name: "new-flows.per-destination", Over: t.Destination})
}

// GroupStatus is a hostgroup and its traffic.
type GroupStatus struct {
	Group      string   `json:"group"`
	Mode       Mode     `json:"mode"`
	Networks   int      `json:"networks"`
	PPS        uint64   `json:"pps"`   // of the last second
	BPS        uint64   `json:"bps"`   // bit/s
	Flows      uint64   `json:"flows"` // new ones a second
	SYNRatio   float64  `json:"syn_ratio"`
	DroppedPPS uint64   `json:"dropped_pps"`
	PPS10      uint64   `json:"pps_10s"`
	BPS10      uint64   `json:"bps_10s"`
	Thresholds []string `json:"thresholds"`
}

// AttackStatus is an attack as it is shown.
type AttackStatus struct {
	Attack
	Name      string  `json:"name"`      // the target
	Threshold string  `json:"threshold"` // the one that fired, with its value
	Rate      string  `json:"rate"`      // of what fired, in the last second
	Peak      string  `json:"peak"`
	PPS       uint64  `json:"pps"`
	BPS       uint64  `json:"bps"`
	Flows     uint64  `json:"flows"`
	PeakPPS   uint64  `json:"peak_pps"`
	PeakBPS   uint64  `json:"peak_bps"`
	SYNRatio  float64 `json:"syn_ratio"`
}

// ActionStatus is an action as it is shown.
type ActionStatus struct {
	Action
	What string  `json:"what"` // police 5kpps, udp sport 53 to 192.0.2.1
	Left float64 `json:"left"` // seconds until its end; 0: none
}

// View is a as it is shown.
func (a *Attack) View() AttackStatus {
	return AttackStatus{
		Attack: *a, Name: a.Name(), Threshold: a.Limit.String(), Rate: a.Measured(),
		Peak: FormatRate(a.Limit.shown(a.Peak[a.Limit.Measure]), a.Limit.unit()),
		PPS:  a.Rate[Packets], BPS: 8 * a.Rate[Bytes], Flows: a.Rate[Flows], PeakPPS: a.Peak[Packets], PeakBPS: 8 * a.Peak[Bytes], SYNRatio: a.Rate.SYNRatio(),
	}
}

// View is act as it is shown at now, Unix ns.
func (act *Action) View(now int64) ActionStatus {
	v := ActionStatus{Action: *act, What: act.What()}
	if act.State == StateActive {
		v.Left = max(0, time.Duration(act.Ends-now).Seconds())
	}
	return v
}

// What says what is done, to which packets.
func (act *Action) What() string {
	s := act.Do.String()
	if act.PPS > 0 {
		s += " " + FormatRate(act.PPS, "pps")
	}
	if act.BPS > 0 {
		s += " " + FormatRate(act.BPS, "bps")
	}
	if act.Announce != NoAnnounce {
		s += " + " + act.Announce.String()
	}
	return s + ": " + act.Match.String()
}

// Status tells all, at now, Unix ns.
func (e *Engine) Status(now int64) Status {
	e.feed.Lock()
	defer e.feed.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Status{On: !e.off, Groups: []GroupStatus{}, Attacks: []AttackStatus{}, Actions: []ActionStatus{}, Limits: e.limits()}
	for i := range e.policy.Groups {
		g, t := &e.policy.Groups[i], &e.r.total[i]
		took := e.r.took[(e.r.at+windowTicks-1)%windowTicks]
		if took == 0 {
			took = 1e9
		}
		rate, ten := t.last.per(took), t.sum.per(e.r.window())
		x := GroupStatus{
			Group: g.Name, Mode: g.Mode, Networks: len(g.Networks), PPS: rate[Packets], BPS: 8 * rate[Bytes], Flows: rate[Flows],
			SYNRatio: rate.SYNRatio(), DroppedPPS: rate[DropPackets], PPS10: ten[Packets], BPS10: 8 * ten[Bytes], Thresholds: []string{},
		}
		for _, l := range g.Hosts {
			x.Thresholds = append(x.Thresholds, l.String())
		}
		s.Groups = append(s.Groups, x)
	}
	attacks := slices.Clone(e.attacks)
	slices.SortStableFunc(attacks, func(a, b *Attack) int { return cmp.Compare(b.Rate[Packets], a.Rate[Packets]) })
	for _, a := range attacks {
		s.Attacks = append(s.Attacks, a.View())
	}
	for _, a := range slices.Backward(e.past) {
		s.Attacks = append(s.Attacks, a.View())
	}
	for _, act := range slices.Backward(e.actions) {
		s.Actions = append(s.Actions, act.View(now))
	}
	for _, act := range slices.Backward(e.done) {
		s.Actions = append(s.Actions, act.View(now))
	}
	return s
}

// Counters are what only grows, and how much is in force.
func (e *Engine) Counters() (c EngineCounters, attacks, active int, tracked [3]int) {
	e.feed.Lock()
	defer e.feed.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.counters, len(e.attacks), e.active(), [3]int{e.r.dst.n, e.r.net.n, e.r.src.n}
}
