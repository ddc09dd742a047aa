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
