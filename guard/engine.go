package guard

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weir/flow"
)

// Scope says what an attack's target is.
type Scope string

// The scopes.
const (
	ScopeHost     Scope = "host"
	ScopeNetwork  Scope = "network" // a /24 or /64
	ScopeGroup    Scope = "group"
	ScopeSource   Scope = "source"   // who attacks
	ScopeOutgoing Scope = "outgoing" // one of ours attacks
)

// Attack is a threshold exceeded, until it is calm again.
type Attack struct {
	ID       uint64       `json:"id"`
	Group    string       `json:"group"`
	Scope    Scope        `json:"scope"`
	Target   netip.Prefix `json:"target,omitzero"` // not of a group
	Kind     Kind         `json:"kind"`
	Limit    Limit        `json:"-"` // that was exceeded first
	Began    int64        `json:"began"`
	Seen     int64        `json:"seen"`            // above the threshold last
	Ended    int64        `json:"ended,omitempty"` // 0: it goes on
	Rate     Counts       `json:"-"`               // of the last second
	Peak     Counts       `json:"-"`
	Evidence *Evidence    `json:"evidence"`
	Note     string       `json:"note,omitempty"` // why nothing was done
	Count    int          `json:"count"`          // how often, lately, this target was attacked

	calm   int64 // since when it is below Release; 0: it is not
	action uint64
	waited bool // a tick for evidence
}

// State is where an Action stands.
type State string

// The states.
const (
	StateObserved State = "observed" // would have been done
	StateProposed State = "proposed"
	StateActive   State = "active"
	StateEnded    State = "ended"    // its time came, or the attack was over
	StateLifted   State = "lifted"   // by somebody
	StateDenied   State = "denied"   // by somebody
	StateRefused  State = "refused"  // the enforcer could not
	StateObsolete State = "obsolete" // the attack was over before anybody approved
)

// Action is what is done about an attack, or would be.
type Action struct {
	ID       uint64        `json:"id"`
	Attack   uint64        `json:"attack,omitempty"` // 0: somebody's own
	Group    string        `json:"group"`
	Match    Match         `json:"match"`
	Do       Do            `json:"do"`
	PPS      uint64        `json:"pps,omitempty"` // of police
	BPS      uint64        `json:"bps,omitempty"` // bit/s
	Announce Announce      `json:"announce"`
	State    State         `json:"state"`
	By       string        `json:"by"`  // automatic, or who
	Why      string        `json:"why"` // the threshold that fired, or what somebody said
	Note     string        `json:"note,omitempty"`
	Created  int64         `json:"created"`
	Started  int64         `json:"started,omitempty"`
	Ends     int64         `json:"ends,omitempty"` // of an active one; of a closed one: when it was
	Hold     time.Duration `json:"hold"`
	Hit      float64       `json:"hit"`      // share of the target's packets
	Innocent float64       `json:"innocent"` // share of the target's established traffic
	Counted  Volume        `json:"counted"`  // hit since it is in force
	Dropped  Volume        `json:"dropped"`
	Undo     string        `json:"undo,omitempty"`
	Here     bool          `json:"here"` // this machine enforces it; else it is only announced
}

// Event is something that happened, for those who are told.
type Event struct {
	What   string // attack, attack-end, observed, proposed, active, renewed, ended, lifted, denied, refused, obsolete, off, on
	At     int64
	By     string
	Attack *Attack // copies; nil if there is none
	Action *Action
}

// Options of an Engine.
type Options struct {
	Policy    Policy
	Enforcer  Enforcer    // nil: None
	Tell      func(Event) // called by the goroutine that changed something, one at a time; it must not change the engine
	Announcer bool        // Tell announces by BGP, so an action can be good for something without an enforcer
	Log       *slog.Logger
	Learn     bool // keep baselines
}

// Engine finds attacks and acts on them as its policy lets it. See the package's text.
type Engine struct {
	enforcer  Enforcer
	announcer bool
	tell      func(Event)
	log       *slog.Logger

	telling sync.Mutex // keeps events in order; taken before mu is released
	feed    sync.Mutex // of Add and Tick: the rates
	r       *rates

	mu       sync.Mutex
	policy   Policy
	off      bool
	now      int64
	attacks  []*Attack // going on
	actions  []*Action // open
	past     []*Attack
	done     []*Action
	lastID   uint64
	started  []int64 // of automatic actions within the last minute
	memory   map[remembered]memoryOf
	events   []Event // to be told
	counters EngineCounters
	learned  *baselines
}

// EngineCounters only grow.
type EngineCounters struct {
	Ticks, Deltas, Attacks, Proposed, Activated, Refused, Barred, Evicted, Beyond uint64
}

type remembered struct {
	scope  Scope
	target netip.Prefix
	group  string
}

type memoryOf struct {
	hold  time.Duration
	until int64
	count int
}

// mostPast is how many attacks and actions that are over are still told of.
const mostPast = 256

// mostAttacks bounds attacks at a time; the rest is in the counters of their hostgroup.
const mostAttacks = 256

// New returns an engine that takes over what its enforcer has in force already.
func New(o Options) (*Engine, error) {
	if err := o.Policy.Check(); err != nil {
		return nil, err
	}
	e := &Engine{enforcer: o.Enforcer, announcer: o.Announcer, tell: o.Tell, log: o.Log, policy: o.Policy, r: newRates(&o.Policy), memory: map[remembered]memoryOf{}}
	if e.enforcer == nil {
		e.enforcer = None{}
	}
	if e.tell == nil {
		e.tell = func(Event) {}
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if o.Learn {
		e.learned = newBaselines(len(o.Policy.Groups))
	}
	if err := e.enforcer.Allow(o.Policy.Allowed); err != nil {
		return nil, fmt.Errorf("guard: allow list: %w", err)
	}
	on, err := e.enforcer.On()
	if err != nil {
		return nil, fmt.Errorf("guard: kill switch: %w", err)
	}
	e.off = !on
	rules, err := e.enforcer.Rules()
	if err != nil {
		return nil, fmt.Errorf("guard: what is in force already: %w", err)
	}
	for _, r := range rules {
		e.actions = append(e.actions, &Action{
			ID: r.ID, Match: r.Match, Do: r.Do, PPS: r.PPS, BPS: r.BPS, State: StateActive, By: "an earlier weir", Why: "in force when this weir started",
			Ends: r.Until, Counted: r.Hit, Dropped: r.Dropped, Undo: undo(r.ID), Here: true,
		})
		e.lastID = max(e.lastID, r.ID)
	}
	return e, nil
}

// Add takes deltas of the tick that goes on. The batch is the caller's again on return.
func (e *Engine) Add(batch []Delta) {
	e.feed.Lock()
	for i := range batch {
		e.r.add(&batch[i])
	}
	e.feed.Unlock()
}

// Tick ends a tick at now, Unix ns, about once a second.
func (e *Engine) Tick(now int64) {
	e.feed.Lock()
	e.mu.Lock()
	e.count()
	e.mu.Unlock()
	over := e.roll(now)
	e.mu.Lock()
	e.now = now
	e.counters.Ticks++
	e.counters.Deltas = e.r.deltas
	e.counters.Evicted = e.r.dst.evicted + e.r.src.evicted + e.r.net.evicted
	e.counters.Beyond = e.r.dst.beyond + e.r.src.beyond + e.r.net.beyond
	for i := range over {
		e.exceeded(&over[i])
	}
	e.follow()
	e.expire()
	e.r.sample.next()
	e.r.hot.next()
	e.feed.Unlock()
	e.unlock()
}

// unlock releases mu and tells what happened, in order.
func (e *Engine) unlock() {
	events := e.events
	e.events = nil
	if len(events) == 0 {
		e.mu.Unlock()
		return
	}
	e.telling.Lock()
	e.mu.Unlock()
	defer e.telling.Unlock()
	for _, ev := range events {
		e.tell(ev)
	}
}

func (e *Engine) happened(what, by string, a *Attack, act *Action) {
	ev := Event{What: what, At: e.now, By: by}
	attrs := []any{"event", what, "by", by}
	if a != nil {
		c := *a
		ev.Attack = &c
		attrs = append(attrs, "attack", a.ID, "group", a.Group, "target", a.Name(), "kind", a.Kind, "threshold", a.Limit.String(), "rate", a.Measured())
	}
	if act != nil {
		c := *act
		ev.Action = &c
		attrs = append(attrs, "action", act.ID, "do", act.Do.String(), "match", act.Match.String(), "state", act.State, "note", act.Note)
	}
	e.events = append(e.events, ev)
	e.log.Info("guard", attrs...)
}

// Name is the target as it is told.
func (a *Attack) Name() string {
	if !a.Target.IsValid() {
		return a.Group
	}
	return prefixText(a.Target)
}

// Measured is the rate of what fired, as it was in the last second.
func (a *Attack) Measured() string {
	return FormatRate(a.Limit.shown(a.Rate[a.Limit.Measure]), a.Limit.unit())
}

// over is a threshold that was exceeded in a tick, or the rate of an attack's target.
type over struct {
	scope  Scope
	target netip.Prefix
	group  uint16
	limit  Limit
	fired  bool
	rate   Counts // a second
	second Counts // of the last second, whatever the window
}

// roll closes the tick in all tables.
func (e *Engine) roll(now int64) (list []over) {
	r := e.r
	took := r.length(now)
	window := r.window()
	r.settle()
	r.tickTotals()
	e.mu.Lock()
	policy := e.policy // its slices do not change
	watched := map[remembered]bool{}
	for _, a := range e.attacks {
		watched[remembered{a.Scope, a.Target, a.Group}] = true
	}
	e.mu.Unlock()
	var top []Counts
	if e.learned != nil {
		top = make([]Counts, len(policy.Groups))
	}
	look := func(scope Scope, t *table, limits func(uint16) []Limit, target func(flow.Addr, uint16) netip.Prefix) {
		t.tick(r.at, func(slot int, key *flow.Addr, group uint16, cur, sum *Counts) {
			if scope == ScopeHost && top != nil && int(group) < len(top) {
				for m := range cur {
					top[group][m] = max(top[group][m], cur[m])
				}
			}
			near := false
			fired := -1
			list2 := limits(group)
			for i := range list2 {
				l := &list2[i]
				v, ns := cur[l.Measure], took
				if l.Window == TenSeconds {
					v, ns = sum[l.Measure], window
				}
				if v == 0 {
					continue
				}
				rate := float64(v) * 1e9 / float64(ns)
				near = near || rate > float64(l.Rate)/4
				if fired < 0 && rate > float64(l.Rate) {
					fired = i
				}
			}
			if slot >= 0 {
				t.hot[slot] = near
			}
			if !near && (len(watched) == 0 || cur[Packets] == 0) {
				return
			}
			s := scope
			if scope == ScopeSource && group != outside {
				s = ScopeOutgoing
			}
			o := over{scope: s, target: target(*key, group), group: group, rate: cur.per(took), second: cur.per(took)}
			if group == outside {
				o.group = 0
			}
			switch {
			case fired >= 0 && len(list) < 4*mostAttacks:
				o.fired, o.limit = true, list2[fired]
				if o.limit.Window == TenSeconds {
					o.rate = sum.per(window)
				}
			case !watched[remembered{s, o.target, policy.Groups[o.group].Name}]:
				return
			}
			list = append(list, o)
		})
	}
	look(ScopeHost, r.dst, func(g uint16) []Limit { return policy.Groups[g].Hosts }, func(k flow.Addr, _ uint16) netip.Prefix { return hostPrefix(k) })
	look(ScopeNetwork, r.net, func(g uint16) []Limit { return policy.Groups[g].Subnets }, func(k flow.Addr, _ uint16) netip.Prefix { return netPrefix(k) })
	look(ScopeSource, r.src, func(g uint16) []Limit {
		if g == outside {
			return policy.Sources
		}
		return policy.Groups[g].Outgoing
	}, r.sourceOf)
	for i := range policy.Groups {
		g := &policy.Groups[i]
		t := &r.total[i]
		o := over{scope: ScopeGroup, group: uint16(i), rate: t.last.per(took), second: t.last.per(took)}
		for _, l := range g.Total {
			v, ns := t.last[l.Measure], took
			if l.Window == TenSeconds {
				v, ns = t.sum[l.Measure], window
			}
			if float64(v)*1e9/float64(ns) > float64(l.Rate) {
				o.fired, o.limit = true, l
				break
			}
		}
		if o.fired || watched[remembered{ScopeGroup, netip.Prefix{}, g.Name}] {
			list = append(list, o)
		}
	}
	if e.learned != nil {
		for g := range top {
			rate := top[g].per(took)
			e.learned.note(g, &rate)
		}
	}
	r.at = (r.at + 1) % windowTicks
	return list
}

// attack finds the one that goes on.
func (e *Engine) attack(scope Scope, target netip.Prefix, group string) *Attack {
	for _, a := range e.attacks {
		if a.Scope == scope && a.Target == target && a.Group == group {
			return a
		}
	}
	return nil
}

// exceeded takes what a table said of one key.
func (e *Engine) exceeded(o *over) {
	g := &e.policy.Groups[o.group]
	a := e.attack(o.scope, o.target, g.Name)
	if a == nil {
		if !o.fired || e.covered(o, g) {
			return
		}
		if len(e.attacks) >= mostAttacks {
			e.counters.Barred++
			return
		}
		e.lastID++
		a = &Attack{ID: e.lastID, Group: g.Name, Scope: o.scope, Target: o.target, Limit: o.limit, Began: e.now, Count: 1}
		if m, ok := e.memory[remembered{o.scope, o.target, g.Name}]; ok && m.until > e.now {
			a.Count = m.count + 1
		}
		e.attacks = append(e.attacks, a)
		e.counters.Attacks++
	}
	a.Rate = o.second
	for m := range a.Peak {
		a.Peak[m] = max(a.Peak[m], o.second[m])
	}
	switch v, calm := o.rate[a.Limit.Measure], float64(a.Limit.Rate)*g.Release; {
	case o.fired:
		a.Seen, a.calm = e.now, 0
	case float64(v) >= calm:
		a.calm = 0
	case a.calm == 0:
		a.calm = e.now
	}
	if o.second == (Counts{}) {
		return
	}
	base := a.base()
	if n := max(count(e.r.sample, base), count(e.r.hot, base)); a.Evidence == nil || n > a.Evidence.Deltas+a.Evidence.Deltas/4 {
		a.Evidence = e.r.gather(e.now, base)
	}
	if o.fired {
		if k := classify(&a.Rate, a.Evidence); a.Kind == "" || a.action == 0 {
			a.Kind = k
		}
	}
}

// covered says whether an attack on hosts, or on a network, of this explains that its
// network, or group, is over the threshold, too.
func (e *Engine) covered(o *over, g *Group) bool {
	if o.scope != ScopeNetwork && o.scope != ScopeGroup {
		return false
	}
	var sum uint64
	for _, a := range e.attacks {
		inside := a.Scope == ScopeHost && a.Group == g.Name || o.scope == ScopeGroup && a.Scope == ScopeNetwork && a.Group == g.Name
		if inside && a.Ended == 0 && (o.scope == ScopeGroup || o.target.Overlaps(a.Target)) {
			sum += a.Rate[o.limit.Measure]
		}
	}
	return 2*sum >= o.rate[o.limit.Measure]
}

// base is the widest match of an attack.
func (a *Attack) base() *Match {
	switch a.Scope {
	case ScopeSource, ScopeOutgoing:
		return &Match{Src: a.Target}
	}
	return &Match{Dst: a.Target}
}

// count takes over what the enforcer counted. It is called with feed and mu.
func (e *Engine) count() {
	if len(e.actions) == 0 {
		return
	}
	rules, err := e.enforcer.Rules()
	if err != nil {
		e.log.Warn("guard: cannot read what rules have hit", "error", err)
		return
	}
	for _, r := range rules {
		if a := e.open(r.ID); a != nil {
			e.r.refused(&a.Match, Volume{r.Dropped.Packets - min(a.Dropped.Packets, r.Dropped.Packets), r.Dropped.Bytes - min(a.Dropped.Bytes, r.Dropped.Bytes)})
			a.Counted, a.Dropped = r.Hit, r.Dropped
		}
	}
}

func (e *Engine) open(id uint64) *Action {
	for _, a := range e.actions {
		if a.ID == id {
			return a
		}
	}
	return nil
}

// follow looks at every attack: what is to be done, and whether it is over.
func (e *Engine) follow() {
	for _, a := range slices.Clone(e.attacks) {
		g := e.policy.group(a.Group)
		if g == nil { // a new policy does not know it
			e.over(a)
			continue
		}
		if a.Seen != e.now && a.calm == 0 && !e.present(a) {
			a.calm = e.now // nothing came at all
			a.Rate = Counts{}
		}
		if a.calm != 0 && e.now-a.calm >= int64(g.Calm) {
			e.over(a)
			continue
		}
		switch {
		case a.Seen != e.now:
		case a.action == 0:
			e.act(g, a)
		default:
			e.review(g, a)
		}
	}
}

// present says whether a's target counted in the last tick.
func (e *Engine) present(a *Attack) bool {
	t, key := e.r.dst, flow.AddrFrom(a.Target.Addr())
	switch a.Scope {
	case ScopeGroup:
		return true
	case ScopeNetwork:
		t = e.r.net
	case ScopeSource, ScopeOutgoing:
		t = e.r.src
	}
	s := t.find(&key)
	return s >= 0 && t.idle[s] == 0
}

// over ends an attack, and what is done about it.
func (e *Engine) over(a *Attack) {
	a.Ended = e.now
	e.attacks = slices.DeleteFunc(e.attacks, func(x *Attack) bool { return x == a })
	e.past = push(e.past, a)
	e.remember(a)
	e.happened("attack-end", "automatic", a, nil)
	for _, act := range slices.Clone(e.actions) {
		if act.Attack != a.ID {
			continue
		}
		switch act.State {
		case StateProposed, StateObserved:
			e.close(act, StateObsolete, "automatic", "the attack is over")
		case StateActive:
			e.end(act, StateEnded, "automatic", "the attack is over")
		}
	}
}

func push[T any](list []T, x T) []T {
	if len(list) >= mostPast {
		list = slices.Delete(list, 0, 1)
	}
	return append(list, x)
}

// remember makes the next hold longer.
func (e *Engine) remember(a *Attack) {
	key := remembered{a.Scope, a.Target, a.Group}
	m := e.memory[key]
	m.until, m.count = e.now+int64(e.policy.Remember), a.Count
	e.memory[key] = m
	if len(e.memory) > 16*mostPast {
		for k, m := range e.memory {
			if m.until <= e.now {
				delete(e.memory, k)
			}
		}
	}
	for k := range e.memory { // hostile variety: any one goes
		if len(e.memory) <= 16*mostPast {
			break
		}
		delete(e.memory, k)
	}
}

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
		if a != nil && g != nil && g.WhileAttacked && a.calm == 0 && !e.off {
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

// Approve puts a proposal in force. An override does so whatever the mode, the allow
// list and the limits say; it is told as such.
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
	for _, allowed := range e.policy.Allowed {
		for _, x := range []netip.Prefix{act.Match.Dst, act.Match.Src} {
			if x.IsValid() && x.Overlaps(allowed) && !override {
				return *act, fmt.Errorf("%d: %s is allowed (%s); --override puts it in force all the same: %w", id, prefixText(x), prefixText(allowed), ErrBarred)
			}
		}
	}
	if err := e.start(act, by, e.ongoing(act.Attack)); err != nil {
		return *act, err
	}
	return *act, nil
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

// SetOn is the kill switch. Off lifts everything, and nothing comes into force until it
// is on again; attacks are still found and told of.
func (e *Engine) SetOn(now int64, on bool, by string) error {
	e.mu.Lock()
	defer e.unlock()
	e.now = max(e.now, now)
	if e.off == !on {
		return nil
	}
	err := e.enforcer.SetOn(on)
	e.off = !on
	if !on {
		for _, act := range slices.Clone(e.actions) {
			if act.State == StateActive {
				err = errors.Join(err, e.end(act, StateLifted, by, "the kill switch"))
			}
		}
		e.happened("off", by, nil, nil)
		return err
	}
	e.happened("on", by, nil, nil)
	return err
}

// On says how the kill switch stands.
func (e *Engine) On() bool { e.mu.Lock(); defer e.mu.Unlock(); return !e.off }

// SetPolicy puts another policy in the place of the one in force. Attacks and actions go
// on; counting begins anew if networks or the number of keys changed.
func (e *Engine) SetPolicy(p Policy) error {
	if err := p.Check(); err != nil {
		return err
	}
	e.feed.Lock()
	defer e.feed.Unlock()
	e.mu.Lock()
	defer e.unlock()
	if err := e.enforcer.Allow(p.Allowed); err != nil {
		return fmt.Errorf("guard: allow list: %w", err)
	}
	same := p.Keys == e.policy.Keys && slices.EqualFunc(p.Groups, e.policy.Groups, func(a, b Group) bool {
		return a.Name == b.Name && slices.Equal(a.Networks, b.Networks)
	})
	e.policy = p
	if !same {
		deltas := e.r.deltas
		e.r = newRates(&p)
		e.r.deltas = deltas
		if e.learned != nil {
			e.learned = newBaselines(len(p.Groups))
		}
	}
	return nil
}
