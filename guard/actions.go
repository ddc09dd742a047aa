package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// What is done about attacks: planned, proposed, put in force, renewed, ended.

// keep remembers how long an action about a lasts.
func (e *Engine) keep(a *Attack, act *Action) {
	e.memory[remembered{a.Scope, a.Target, a.Group}] = memoryOf{act.Hold, act.Ends + int64(e.policy.Remember), a.Count}
}

// hold is how long the next action about a lasts: it doubles each time, up to a limit.
func (e *Engine) hold(g *Group, a *Attack) time.Duration {
	m, ok := e.memory[remembered{a.Scope, a.Target, a.Group}]
	if !ok || m.until <= e.now || m.hold == 0 {
		return g.Hold
	}
	return min(2*m.hold, g.MaxHold)
}

// act makes an action of an attack, as far as the mode goes.
func (e *Engine) act(g *Group, a *Attack) {
	if a.Evidence == nil || a.Evidence.Deltas == 0 {
		if a.waited {
			return
		}
		a.waited = true // the next tick's sample has it
		if a.Began == e.now {
			e.happened("attack", "automatic", a, nil)
		}
		return
	}
	if a.Began == e.now {
		e.happened("attack", "automatic", a, nil)
	}
	if a.Scope == ScopeGroup {
		a.Note = "a whole hostgroup is over its threshold: nothing is proposed but to look at its hosts and networks"
		return
	}
	p, err := e.plan(g, a)
	if err != nil {
		a.Note = err.Error()
		return
	}
	act := &Action{
		Attack: a.ID, Group: g.Name, Match: p.match, Do: g.Do, PPS: g.PPS, BPS: g.BPS, Announce: g.Announce, By: "automatic",
		Why: fmt.Sprintf("%s of %s: %s over %s", a.Kind, a.Name(), a.Measured(), a.Limit), Hold: e.hold(g, a), Created: e.now,
	}
	act.take(&p)
	if act.Do != Police {
		act.PPS, act.BPS = 0, 0
	}
	e.lastID++
	act.ID = e.lastID
	act.Undo = undo(act.ID)
	a.action = act.ID
	e.actions = append(e.actions, act)
	switch {
	case g.Mode == Observe:
		e.state(act, StateObserved, a)
	case g.Mode < Automatic:
		e.propose(act, a)
	default:
		why := e.policy.barrier(g, a, act)
		here := e.enforcer.Can(&act.Match)
		switch {
		case why != "":
		case here != nil && (!e.announcer || act.Announce == NoAnnounce):
			why = here.Error()
		case e.off:
			why = "the kill switch is off: weir guard on"
		case e.active() >= e.policy.MaxActions:
			why = fmt.Sprintf("%d actions are in force, as many as there may be", e.policy.MaxActions)
		case !e.mayStart():
			why = fmt.Sprintf("%d actions were started within a minute, as many as may be", e.policy.MaxPerMinute)
		}
		if why != "" {
			e.counters.Barred++
			act.Note = "not by automatism: " + why
			e.propose(act, a)
			return
		}
		if e.start(act, act.By, a) == nil {
			e.started = append(e.started, e.now)
		}
	}
}

// plan weighs what could be done about a.
func (e *Engine) plan(g *Group, a *Attack) (plan, error) {
	can := e.enforcer.Can
	if g.Mode < Approve || can(a.base()) != nil {
		can = func(*Match) error { return nil } // nothing will be put in force here
	}
	if here := can; g.Announce == FlowSpec {
		can = func(m *Match) error {
			if m.New {
				return errNoNewFlows
			}
			return here(m)
		}
	}
	return e.r.weigh(*a.base(), a.Limit, a.Rate[a.Limit.Measure], a.Kind, can)
}

var errNoNewFlows = fmt.Errorf("%w: FlowSpec does not know which flows are new", ErrUnsupported)

func (act *Action) take(p *plan) {
	act.Match, act.Hit, act.Innocent = p.match, p.hit, p.innocent
	if act.Announce == RTBH {
		act.Hit, act.Innocent = 1, 1 // whatever is sent to the victim
	}
}

// review plans a proposal anew when there is better evidence.
func (e *Engine) review(g *Group, a *Attack) {
	act := e.open(a.action)
	if act == nil || act.State == StateActive || a.Evidence == nil || a.Evidence.At != e.now {
		return
	}
	if p, err := e.plan(g, a); err == nil {
		act.take(&p)
	}
}

func undo(id uint64) string { return fmt.Sprintf("weir guard lift %d", id) }

func (e *Engine) propose(act *Action, a *Attack) {
	e.counters.Proposed++
	e.state(act, StateProposed, a)
}

func (e *Engine) state(act *Action, s State, a *Attack) {
	act.State = s
	e.happened(string(s), act.By, a, act)
}

func (e *Engine) active() (n int) {
	for _, a := range e.actions {
		if a.State == StateActive {
			n++
		}
	}
	return n
}

func (e *Engine) mayStart() bool {
	e.started = slices.DeleteFunc(e.started, func(at int64) bool { return at <= e.now-int64(time.Minute) })
	return len(e.started) < e.policy.MaxPerMinute
}

// start puts an action in force.
func (e *Engine) start(act *Action, by string, a *Attack) error {
	act.Ends = e.now + int64(act.Hold)
	if err := e.install(act); err != nil {
		e.counters.Refused++
		act.Note = err.Error()
		e.close(act, StateRefused, by, err.Error())
		return err
	}
	act.Started, act.By = e.now, by
	if a != nil {
		e.keep(a, act)
	}
	e.counters.Activated++
	e.state(act, StateActive, a)
	return nil
}

// install gives an action to the enforcer; what only others carry out needs none.
func (e *Engine) install(act *Action) error {
	err := e.enforcer.Install(Rule{ID: act.ID, Match: act.Match, Do: act.Do, PPS: act.PPS, BPS: act.BPS, Until: act.Ends})
	act.Here = err == nil
	if err != nil && e.announcer && act.Announce != NoAnnounce {
		act.Note = "announced only: " + err.Error()
		return nil
	}
	return err
}

// expire ends, or renews, what is due.
func (e *Engine) expire() {
	for _, act := range slices.Clone(e.actions) {
		if act.State != StateActive || act.Ends > e.now+renewAhead {
			continue
		}
		a := e.ongoing(act.Attack)
		g := e.policy.group(act.Group)
		may := g != nil && g.WhileAttacked && (act.By != "automatic" || g.Mode == Automatic) // a reload may have changed the mode
		if a != nil && may && a.calm == 0 && !e.off {
			act.Hold = min(2*act.Hold, max(act.Hold, g.MaxHold))
			act.Ends = e.now + int64(act.Hold)
			if err := e.install(act); err == nil {
				e.keep(a, act)
				e.happened("renewed", "automatic", a, act)
				continue
			}
		}
		if act.Ends <= e.now {
			e.end(act, StateEnded, "automatic", "its time came")
			if a != nil {
				a.action = 0 // if it goes on, something is done again
			}
		}
	}
}

// renewAhead is how long before its end a rule is renewed: two ticks, so that there is
// no gap.
const renewAhead = int64(2 * time.Second)

func (e *Engine) ongoing(id uint64) *Attack {
	for _, a := range e.attacks {
		if a.ID == id && id != 0 {
			return a
		}
	}
	return nil
}

// end takes an action out of force.
func (e *Engine) end(act *Action, s State, by, note string) error {
	err := e.enforcer.Lift(act.ID)
	if err != nil {
		note += "; the rule stays until " + time.Unix(0, act.Ends).UTC().Format(time.RFC3339) + ": " + err.Error()
	}
	act.Ends = e.now
	e.close(act, s, by, note)
	return err
}

func (e *Engine) close(act *Action, s State, by, note string) {
	act.State, act.Note, act.Undo = s, note, ""
	e.actions = slices.DeleteFunc(e.actions, func(x *Action) bool { return x == act })
	e.done = push(e.done, act)
	e.happened(string(s), by, e.ongoing(act.Attack), act)
}

// Errors of what somebody asks for.
var (
	ErrNoAction = errors.New("no such action: weir guard list shows those there are")
	ErrState    = errors.New("it is not in a state for that")
	ErrBarred   = errors.New("the policy is in its way")
)

// Propose makes somebody's own proposal. now is Unix ns.
func (e *Engine) Propose(now int64, act Action, by string) (Action, error) {
	e.mu.Lock()
	defer e.unlock()
	e.now = max(e.now, now)
	m := &act.Match
	if !m.Dst.IsValid() && !m.Src.IsValid() {
		return act, errors.New("it names no address; accepted: to PREFIX, from PREFIX")
	}
	if m.Dst.IsValid() && m.Src.IsValid() && m.Dst.Addr().Is4() != m.Src.Addr().Is4() {
		return act, errors.New("from and to are of different families")
	}
	if len(m.SrcPorts) > MaxPorts {
		return act, fmt.Errorf("%d source ports; accepted: up to %d", len(m.SrcPorts), MaxPorts)
	}
	if act.Do == Police && act.PPS == 0 && act.BPS == 0 {
		return act, errors.New("police without a rate; accepted: --pps, --bps")
	}
	if act.Hold <= 0 || act.Hold > 30*24*time.Hour {
		return act, fmt.Errorf("it would last %v; accepted: up to 30 days", act.Hold)
	}
	if act.Announce != NoAnnounce && !e.announcer {
		return act, errors.New("nothing is announced here: guard.bgp has no neighbours")
	}
	if act.Announce == RTBH && !m.Dst.IsValid() {
		return act, errors.New("rtbh announces a destination; accepted: to PREFIX")
	}
	if e.proposals() >= mostPast {
		return act, fmt.Errorf("%d proposals wait already", mostPast)
	}
	e.lastID++
	act.ID, act.Attack, act.Group, act.By, act.Created = e.lastID, 0, "", by, e.now
	act.Undo = undo(act.ID)
	fresh := act
	e.actions = append(e.actions, &fresh)
	e.propose(&fresh, nil)
	return fresh, nil
}

func (e *Engine) proposals() (n int) {
	for _, a := range e.actions {
		if a.State != StateActive {
			n++
		}
	}
	return n
}

// Approve puts a proposal in force. An override does so whatever the mode says, and if
// some of what it would hit is allowed, which is spared; it is told as such.
func (e *Engine) Approve(now int64, id uint64, by string, override bool) (Action, error) {
	e.mu.Lock()
	defer e.unlock()
	e.now = max(e.now, now)
	act := e.open(id)
	switch {
	case act == nil:
		return Action{}, fmt.Errorf("%d: %w", id, ErrNoAction)
	case act.State == StateActive:
		return *act, fmt.Errorf("%d is in force already: %w", id, ErrState)
	case e.off:
		return *act, fmt.Errorf("%d: the kill switch is off (weir guard on): %w", id, ErrBarred)
	case act.State == StateObserved && !override:
		return *act, fmt.Errorf("%d was only observed: hostgroup %s is in mode observe; --override puts it in force all the same: %w", id, act.Group, ErrBarred)
	case e.active() >= e.policy.MaxActions:
		return *act, fmt.Errorf("%d: %d actions are in force, as many as there may be: %w", id, e.policy.MaxActions, ErrBarred)
	}
	if g := e.policy.group(act.Group); g != nil && g.Mode == Propose && act.Attack != 0 && !override {
		return *act, fmt.Errorf("%d: hostgroup %s is in mode propose, which puts nothing in force; --override does all the same: %w", id, act.Group, ErrBarred)
	}
	if err := e.allowed(act, override); err != nil {
		return *act, fmt.Errorf("%d: %w", id, err)
	}
	if err := e.start(act, by, e.ongoing(act.Attack)); err != nil {
		return *act, err
	}
	return *act, nil
}

// allowed says how the allow list is in an action's way. What enforces rules spares
// everything on it, so an override is for rules that hit others, too, and for what is
// announced.
func (e *Engine) allowed(act *Action, override bool) error {
	for _, allowed := range e.policy.Allowed {
		for _, x := range []netip.Prefix{act.Match.Dst, act.Match.Src} {
			switch {
			case !x.IsValid() || !x.Overlaps(allowed):
			case allowed.Bits() <= x.Bits() && act.Announce == NoAnnounce:
				return fmt.Errorf("%s is allowed (%s), and no rule hits what is: guard.allow, guard.allow-own: %w", prefixText(x), prefixText(allowed), ErrBarred)
			case !override:
				return fmt.Errorf("%s is allowed (%s); --override puts it in force all the same: %w", prefixText(x), prefixText(allowed), ErrBarred)
			}
		}
	}
	return nil
}

// Lift ends what is in force, or denies a proposal.
func (e *Engine) Lift(now int64, id uint64, by string) (Action, error) {
	e.mu.Lock()
	defer e.unlock()
	e.now = max(e.now, now)
	act := e.open(id)
	if act == nil {
		return Action{}, fmt.Errorf("%d: %w", id, ErrNoAction)
	}
	if act.State != StateActive {
		e.close(act, StateDenied, by, "denied")
		return *act, nil
	}
	err := e.end(act, StateLifted, by, "lifted")
	return *act, err
}

// Extend lets what is in force last for d from now.
func (e *Engine) Extend(now int64, id uint64, by string, d time.Duration) (Action, error) {
	e.mu.Lock()
	defer e.unlock()
	e.now = max(e.now, now)
	act := e.open(id)
	switch {
	case act == nil:
		return Action{}, fmt.Errorf("%d: %w", id, ErrNoAction)
	case act.State != StateActive:
		return *act, fmt.Errorf("%d is not in force: %w", id, ErrState)
	case d <= 0 || d > 30*24*time.Hour:
		return *act, fmt.Errorf("%v; accepted: up to 30 days", d)
	}
	old := act.Ends
	act.Ends, act.Hold = e.now+int64(d), d
	if err := e.install(act); err != nil {
		act.Ends = old
		return *act, err
	}
	e.happened("renewed", by, e.ongoing(act.Attack), act)
	return *act, nil
}
