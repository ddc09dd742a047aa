package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"weir/config"
	"weir/console"
	"weir/flow"
	"weir/guard"
	"weir/guard/bgp"
	"weir/host"
	"weir/metrics"
)

var errNoGuard = errors.New("no guard runs here: guard: in the configuration switches it on")

// guarding is where the guard is, if there is one. It takes the records that a meter hands
// on, and costs nothing while there is none.
type guarding struct{ now atomic.Pointer[guardRoom] }

func (g *guarding) WriteRecords(batch []flow.Record) error {
	if r := g.now.Load(); r != nil {
		r.left(batch)
	}
	return nil
}

// guardRoom is the guard with what feeds it and who it tells.
type guardRoom struct {
	engine *guard.Engine
	notify *guard.Notifier
	bgp    *bgp.Speaker // nil: nobody is told by BGP
	log    slogger
	mark   string // the file that is the kill switch

	mu     sync.Mutex // of the feed
	differ *guard.Differ
	batch  []guard.Delta
	ignore map[uint32]bool // interfaces
	primed bool            // a walk has shown what was counted before
	anew   bool            // not primed any more: the next walk is none of a second
	late   uint64          // seconds that took longer than one
}

// left takes records that leave the cache.
func (r *guardRoom) left(batch []flow.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(r.differ.Left(r.batch[:0], batch))
}

// shown takes flows that are in the cache.
func (r *guardRoom) shown(batch []flow.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(r.differ.Shown(r.batch[:0], batch))
	return nil
}

// add takes what the flows of a batch counted.
func (r *guardRoom) add(deltas []guard.Delta) {
	r.batch = deltas // for the next
	if !r.primed {
		return // a flow's whole past is not what it did in this second
	}
	if len(r.ignore) > 0 {
		deltas = slices.DeleteFunc(deltas, func(d guard.Delta) bool { return r.ignore[d.Key.Input&^flow.KeyEgress] })
	}
	r.engine.Add(deltas)
}

// startGuard starts the guard, if the configuration wants one.
func (n *node) startGuard(ctx context.Context, failed chan<- error) (*part, error) {
	conf := n.config()
	if !conf.Guard.Enabled {
		return nil, nil
	}
	r, err := newGuardRoom(conf, &n.power, n.log)
	if err != nil {
		return nil, err
	}
	return n.runGuard(ctx, failed, r), nil
}

func (n *node) runGuard(ctx context.Context, failed chan<- error, r *guardRoom) *part {
	conf := n.config()
	n.guarding.now.Store(r)
	n.log.Info("guard", "mode", conf.Guard.Mode, "hostgroups", len(conf.Guard.Hostgroups), "on", r.engine.On())
	return start(ctx, "guard", failed, func(ctx context.Context) error {
		defer n.guarding.now.CompareAndSwap(r, nil)
		return r.run(ctx, n)
	})
}

// newGuardRoom builds one; nothing of it runs yet.
func newGuardRoom(conf *config.Config, power guard.Enforcer, log slogger) (*guardRoom, error) {
	p, err := conf.Guard.Policy(ownPrefixes(conf))
	if err != nil {
		return nil, usageError{err}
	}
	r := &guardRoom{log: log.With("component", "guard"), mark: offMark(conf), differ: guard.NewDiffer(int(conf.Cache.Entries)), ignore: ignoredInterfaces(conf)}
	r.notify = guard.NewNotifier(guard.NotifyOptions{
		Script: conf.Guard.Notify.Script, Webhook: conf.Guard.Notify.Webhook, Syslog: conf.Guard.Notify.Syslog,
		Timeout: time.Duration(conf.Guard.Notify.Timeout), Log: r.log,
	})
	if r.bgp, err = newSpeaker(&conf.Guard.BGP, r.log); err != nil {
		return nil, usageError{err}
	}
	if r.engine, err = guard.New(guard.Options{Policy: p, Enforcer: power, Announcer: r.bgp != nil, Tell: r.tell, Log: r.log, Learn: conf.Guard.Learn}); err != nil {
		return nil, err
	}
	r.limit(conf, power)
	return r, nil
}

// limit puts the limits of single flows, and of new ones, in force. Floods are found all
// the same where that cannot be.
func (r *guardRoom) limit(conf *config.Config, power guard.Enforcer) {
	list, err := conf.Guard.Profiles() // checked with the configuration
	if err == nil {
		err = power.SetProfiles(list)
	}
	if err != nil {
		r.log.Error("guard.flows: not all limits are in force", "error", err)
	}
	switch err := power.SetAdmission(conf.Guard.NewFlows.Admission()); {
	case errors.Is(err, guard.ErrNoEnforcer):
		r.log.Warn("guard.new-flows: any number of flows may enter the cache", "reason", err)
	case err != nil:
		r.log.Error("guard.new-flows", "error", err)
	}
}

// newSpeaker is who announces; nil: there are no neighbours.
func newSpeaker(c *config.BGP, log slogger) (*bgp.Speaker, error) {
	if len(c.Neighbours) == 0 {
		return nil, nil
	}
	o := bgp.Options{AS: uint32(c.AS), Log: log}
	o.RouterID, _ = netip.ParseAddr(c.RouterID) // checked with the configuration, as what follows
	o.NextHop, _ = netip.ParseAddr(c.NextHop)
	o.NextHop6, _ = netip.ParseAddr(c.NextHop6)
	var err error
	if o.Communities, err = c.CommunityList(); err != nil {
		return nil, err
	}
	for _, n := range c.Neighbours {
		x := bgp.Neighbour{AS: uint32(n.AS), Port: uint16(n.Port), Multihop: n.Multihop}
		x.Address, _ = netip.ParseAddr(n.Address)
		if n.Password != "" {
			b, err := os.ReadFile(n.Password)
			if err != nil {
				return nil, fmt.Errorf("guard.bgp: password-file of %s: %w", n.Address, err)
			}
			x.Password = strings.TrimSpace(string(b))
		}
		o.Neighbours = append(o.Neighbours, x)
	}
	return bgp.New(o)
}

// tell passes on what happened.
func (r *guardRoom) tell(ev guard.Event) {
	r.notify.Tell(ev)
	if r.bgp != nil {
		r.bgp.Tell(ev)
	}
}

func ignoredInterfaces(conf *config.Config) map[uint32]bool {
	m := map[uint32]bool{}
	index := interfaceIndices()
	for name, i := range conf.Interfaces {
		if i.Guard.Ignore {
			m[index[name]] = true
		}
	}
	delete(m, 0)
	return m
}

// run ticks each second until ctx ends.
func (r *guardRoom) run(ctx context.Context, n *node) error {
	telling, stop := context.WithCancel(context.WithoutCancel(ctx))
	var others sync.WaitGroup
	others.Go(func() { r.notify.Run(telling) })
	if r.bgp != nil {
		others.Go(func() {
			if err := r.bgp.Run(telling); err != nil {
				r.log.Error("nothing is announced", "error", err)
			}
		})
	}
	defer func() { // BGP withdraws, notices that wait go out
		stop()
		others.Wait()
	}()
	r.switched(time.Now())
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if time.Since(now) > time.Second {
				r.mu.Lock()
				r.late++
				r.mu.Unlock()
			}
			r.switched(now)
			if n.power.exchanged() {
				continue
			}
			if m, _, _ := n.rooms(); m != nil {
				if w, ok := m.(walker); ok {
					if err := w.Walk(ctx, r.shown); err != nil && ctx.Err() == nil {
						r.log.Warn("the flows cannot be looked at", "error", err)
					}
				}
			}
			r.mu.Lock()
			r.differ.Walked()
			looked := !r.anew
			r.primed, r.anew = true, false
			r.mu.Unlock()
			if looked && !n.power.exchanged() { // it may have begun meanwhile
				r.engine.Tick(time.Now().UnixNano())
			}
		}
	}
}

// switched follows the file of weir guard off.
func (r *guardRoom) switched(now time.Time) {
	if _, err := os.Stat(r.mark); err == nil && r.engine.On() {
		if err := r.engine.SetOn(now.UnixNano(), false, "weir guard off"); err != nil {
			r.log.Error("the kill switch", "error", err)
		}
	}
}

// exchangeGuard follows a new configuration: its policy goes to the guard that runs; what
// else changed exchanges it. What is not taken leaves the guard as it was.
func (n *node) exchangeGuard(ctx context.Context, failed chan<- error, running *part, old *config.Config) (*part, error) {
	conf := n.config()
	r := n.guarding.now.Load()
	a, b := old.Guard, conf.Guard
	same := r != nil && a.Enabled == b.Enabled && a.Notify == b.Notify && reflect.DeepEqual(a.BGP, b.BGP) && a.Learn == b.Learn
	if same {
		p, err := conf.Guard.Policy(ownPrefixes(conf))
		if err == nil {
			err = r.engine.SetPolicy(p)
		}
		if err != nil {
			n.log.Error("the guard goes on with its old policy", "error", err)
			return running, nil
		}
		r.limit(conf, &n.power)
		r.mu.Lock()
		r.ignore = ignoredInterfaces(conf)
		if old.Cache.Entries != conf.Cache.Entries {
			r.differ, r.primed, r.anew = guard.NewDiffer(int(conf.Cache.Entries)), false, true
		}
		r.mu.Unlock()
		return running, nil
	}
	var fresh *guardRoom
	if conf.Guard.Enabled {
		var err error
		if fresh, err = newGuardRoom(conf, &n.power, n.log); err != nil {
			n.log.Error("the guard goes on as it was", "error", err)
			return running, nil
		}
	}
	if err := running.stop(); err != nil || fresh == nil {
		return nil, err
	}
	return n.runGuard(ctx, failed, fresh), nil
}

// ownPrefixes are addresses that no automatism touches: this machine's, its routers', its
// resolvers', and who it exports to.
func ownPrefixes(conf *config.Config) (list []netip.Prefix) {
	if !conf.Guard.AllowOwn {
		return nil
	}
	add := func(a netip.Addr) {
		if a = a.Unmap().WithZone(""); a.IsValid() && !a.IsUnspecified() {
			list = append(list, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	if all, err := net.InterfaceAddrs(); err == nil {
		for _, x := range all {
			if n, ok := x.(*net.IPNet); ok {
				if a, ok := netip.AddrFromSlice(n.IP); ok {
					add(a)
				}
			}
		}
	}
	if routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL); err == nil {
		for _, r := range routes {
			if a, ok := netip.AddrFromSlice(r.Gw); ok {
				add(a)
			}
		}
	}
	for _, a := range host.Resolvers() {
		add(a)
	}
	for _, n := range conf.Guard.BGP.Neighbours {
		if a, err := netip.ParseAddr(n.Address); err == nil {
			add(a)
		}
	}
	return list
}

// --- answers ---

// guardHandlers are the control socket's part about the guard.
func (n *node) guardHandlers(mux *http.ServeMux) {
	handle := func(path string, do func(*guardRoom, guardRequest) (any, error)) {
		mux.HandleFunc(path, func(w http.ResponseWriter, q *http.Request) {
			v, err := func() (any, error) {
				r := n.guarding.now.Load()
				if r == nil {
					return nil, errNoGuard
				}
				var ask guardRequest
				if q.Method == http.MethodPost {
					d := json.NewDecoder(http.MaxBytesReader(w, q.Body, 64<<10))
					d.DisallowUnknownFields()
					if err := d.Decode(&ask); err != nil {
						return nil, badQuestion{fmt.Errorf("the request cannot be read: %w", err)}
					}
					if _, err := d.Token(); err != io.EOF {
						return nil, badQuestion{errors.New("the request cannot be read: something stands behind it")}
					}
					if ask.By == "" || len(ask.By) > 64 {
						return nil, badQuestion{errors.New("by: accepted: a name of 1 to 64 octets")}
					}
				}
				return do(r, ask)
			}()
			if err != nil {
				refuse(w, err)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(v); err != nil {
				n.log.Debug("control answer", "path", path, "error", err)
			}
		})
	}
	one := func(path string, do func(*guardRoom, guardRequest) (guard.Action, error)) {
		handle("POST /control/guard/"+path, func(r *guardRoom, ask guardRequest) (any, error) {
			act, err := do(r, ask)
			if err != nil {
				return nil, err
			}
			return act.View(time.Now().UnixNano()), nil
		})
	}
	handle("GET /control/guard", func(r *guardRoom, _ guardRequest) (any, error) { return r.engine.Status(time.Now().UnixNano()), nil })
	handle("GET /control/guard/baseline", func(r *guardRoom, _ guardRequest) (any, error) {
		return map[string]any{"baselines": r.engine.Baselines()}, nil
	})
	one("approve", func(r *guardRoom, q guardRequest) (guard.Action, error) {
		return r.engine.Approve(time.Now().UnixNano(), q.ID, q.By, q.Override)
	})
	one("lift", func(r *guardRoom, q guardRequest) (guard.Action, error) {
		return r.engine.Lift(time.Now().UnixNano(), q.ID, q.By)
	})
	one("extend", func(r *guardRoom, q guardRequest) (guard.Action, error) {
		return r.engine.Extend(time.Now().UnixNano(), q.ID, q.By, q.For)
	})
	one("propose", func(r *guardRoom, q guardRequest) (guard.Action, error) {
		if q.Action == nil {
			return guard.Action{}, badQuestion{errors.New("no action in it")}
		}
		now := time.Now().UnixNano()
		act, err := r.engine.Propose(now, guard.Action{
			Match: q.Action.Match, Do: q.Action.Do, PPS: q.Action.PPS, BPS: q.Action.BPS, Announce: q.Action.Announce, Hold: q.Action.Hold, Why: q.Action.Why,
		}, q.By)
		if err == nil && q.Approve {
			return r.engine.Approve(now, act.ID, q.By, q.Override)
		}
		return act, err
	})
	for word, on := range map[string]bool{"on": true, "off": false} {
		handle("POST /control/guard/"+word, func(r *guardRoom, q guardRequest) (any, error) {
			return struct{}{}, r.engine.SetOn(time.Now().UnixNano(), on, q.By)
		})
	}
}

// guardAnswer is the guard as the console has it.
func (n *node) guardAnswer() *console.GuardAnswer {
	r := n.guarding.now.Load()
	if r == nil {
		return nil
	}
	now := time.Now().UnixNano()
	s := r.engine.Status(now)
	a := &console.GuardAnswer{On: s.On, MayAct: n.config().Guard.Console, Now: instantOf(now), Groups: []console.GuardGroup{}, Attacks: []console.GuardAttack{}, Actions: []console.GuardAction{}, Limits: []console.GuardLimit{}}
	for _, g := range s.Groups {
		a.Groups = append(a.Groups, console.GuardGroup{
			Group: g.Group, Mode: g.Mode.String(), Networks: g.Networks, PPS: g.PPS, BPS: g.BPS, Flows: g.Flows, SYNRatio: g.SYNRatio, DroppedPPS: g.DroppedPPS,
			Thresholds: g.Thresholds,
		})
	}
	for _, l := range s.Limits {
		a.Limits = append(a.Limits, console.GuardLimit{Name: l.Name, Beyond: l.Over.Packets, Dropped: l.Dropped.Packets, Held: l.Held})
	}
	for i := range s.Attacks {
		a.Attacks = append(a.Attacks, consoleAttack(&s.Attacks[i]))
	}
	for i := range s.Actions {
		x := &s.Actions[i]
		act := console.GuardAction{
			ID: x.ID, Attack: x.Attack, Group: x.Group, What: x.What, State: string(x.State), By: x.By, Why: x.Why, Note: x.Note, Created: instantOf(x.Created),
			Started: instantOf(x.Started), Ends: instantOf(x.Ends), Left: x.Left, HoldSeconds: x.Hold.Seconds(), Hit: x.Hit, Innocent: x.Innocent,
			Packets: x.Counted.Packets, DroppedPackets: x.Dropped.Packets, DroppedBytes: x.Dropped.Bytes, Undo: x.Undo, Here: x.Here,
		}
		a.Actions = append(a.Actions, act)
	}
	return a
}

func consoleAttack(x *guard.AttackStatus) console.GuardAttack {
	a := console.GuardAttack{
		ID: x.ID, Group: x.Group, Scope: string(x.Scope), Target: x.Name, Kind: string(x.Kind), Threshold: x.Threshold, Rate: x.Rate, Peak: x.Peak,
		PPS: x.PPS, BPS: x.BPS, PeakPPS: x.PeakPPS, PeakBPS: x.PeakBPS, SYNRatio: x.SYNRatio, Began: instantOf(x.Began), Seen: instantOf(x.Seen), Ended: instantOf(x.Ended),
		Note: x.Note, Times: x.Count,
	}
	e := x.Evidence
	if e == nil {
		return a
	}
	shares := func(list []guard.Share) []console.GuardShare {
		out := make([]console.GuardShare, len(list))
		for i, s := range list {
			out[i] = console.GuardShare(s)
		}
		return out
	}
	a.Evidence = &console.GuardEvidence{
		At: instantOf(e.At), Sampled: e.Deltas, Packets: e.Packets, Sources: e.Sources, Established: e.Established, TopSources: shares(e.TopSources),
		Protocols: shares(e.Protocols), SourcePorts: shares(e.SourcePorts), DestPorts: shares(e.DestPorts), Sizes: shares(e.Sizes), TCPFlags: shares(e.TCPFlags),
		Headers: []console.GuardHeader{},
	}
	for _, h := range e.Headers {
		a.Evidence.Headers = append(a.Evidence.Headers, console.GuardHeader{
			Src: h.Src.String(), Dst: h.Dst.String(), Proto: h.Proto, TCPFlags: h.TCPFlags, TOS: h.TOS, Fragment: h.Fragment, Packets: h.Packets, Bytes: h.Bytes,
		})
	}
	return a
}

func instantOf(ns int64) string {
	if ns == 0 {
		return ""
	}
	return string(flow.AppendTime(nil, ns))
}

// guardDo is what the console may ask for, if the configuration lets it.
func (n *node) guardDo(what string, id uint64, by string) error {
	r := n.guarding.now.Load()
	switch {
	case r == nil:
		return errNoGuard
	case !n.config().Guard.Console:
		return errors.New("the console only shows: guard.console is off in the configuration; `weir guard " + what + " " + strconv.FormatUint(id, 10) + "` does it")
	}
	now := time.Now().UnixNano()
	var err error
	switch what {
	case "approve":
		_, err = r.engine.Approve(now, id, by, false)
	case "lift":
		_, err = r.engine.Lift(now, id, by)
	default:
		err = fmt.Errorf("%.20q: accepted: approve, lift", what)
	}
	return err
}

// guardSamples are the guard's metrics.
func (n *node) guardSamples(emit func(metrics.Sample)) {
	r := n.guarding.now.Load()
	if r == nil {
		return
	}
	c, attacks, active, tracked := r.engine.Counters()
	s := r.engine.Status(time.Now().UnixNano())
	counter := func(name, help string, v uint64, labels ...string) {
		emit(metrics.Sample{Name: name, Help: help, Labels: labels, Value: float64(v)})
	}
	gauge := func(name, help string, v float64, labels ...string) {
		emit(metrics.Sample{Name: name, Help: help, Gauge: true, Labels: labels, Value: v})
	}
	on := 0.0
	if s.On {
		on = 1
	}
	gauge("weir_guard_on", "The kill switch: 0 after weir guard off.", on)
	gauge("weir_guard_attacks", "Attacks that go on.", float64(attacks))
	gauge("weir_guard_active_actions", "Actions in force.", float64(active))
	for i, kind := range []string{"destination", "network", "source"} {
		gauge("weir_guard_tracked_keys", "Addresses and networks that are counted exactly.", float64(tracked[i]), "kind", kind)
	}
	counter("weir_guard_attacks_total", "Attacks found.", c.Attacks)
	counter("weir_guard_proposed_total", "Actions proposed.", c.Proposed)
	counter("weir_guard_activated_total", "Actions put in force.", c.Activated)
	counter("weir_guard_refused_total", "Actions that the enforcer could not put in force.", c.Refused)
	counter("weir_guard_barred_total", "Actions that automatism did not put in force because a limit or the allow list was in its way.", c.Barred)
	counter("weir_guard_deltas_total", "Flow entries' deltas taken.", c.Deltas)
	counter("weir_guard_ticks_total", "Seconds looked at.", c.Ticks)
	counter("weir_guard_beyond_packets_total", "Packets of addresses beyond guard.keys, which are counted as lower bounds.", c.Beyond)
	counter("weir_guard_evicted_keys_total", "Addresses that gave way to larger ones.", c.Evicted)
	r.mu.Lock()
	full, late := r.differ.Full(), r.late
	r.mu.Unlock()
	counter("weir_guard_untracked_flows_total", "Looks at flows that the guard had no room for: they are told of later.", full)
	counter("weir_guard_late_seconds_total", "Seconds that were looked at late.", late)
	for _, l := range s.Limits {
		counter("weir_guard_limit_beyond_packets_total", "Packets beyond a limit of guard.flows; of guard.new-flows, those of flows that were not let into the cache.", l.Over.Packets, "limit", l.Name)
		counter("weir_guard_limit_dropped_packets_total", "Packets dropped by a limit of guard.flows.", l.Dropped.Packets, "limit", l.Name)
		counter("weir_guard_limit_holds_total", "How often all packets of a flow began to be dropped for a while.", l.Held, "limit", l.Name)
	}
	for _, g := range s.Groups {
		gauge("weir_guard_group_packets_per_second", "Packets a second to a hostgroup, in the last second.", float64(g.PPS), "group", g.Group)
		gauge("weir_guard_group_bits_per_second", "Bits a second to a hostgroup, in the last second.", float64(g.BPS), "group", g.Group)
		gauge("weir_guard_group_flows_per_second", "New flows a second to a hostgroup, in the last second.", float64(g.Flows), "group", g.Group)
	}
	if r.bgp != nil {
		b := r.bgp.State()
		gauge("weir_guard_bgp_established", "BGP neighbours whose session is established.", float64(b.Established))
		gauge("weir_guard_bgp_neighbours", "BGP neighbours configured.", float64(b.Neighbours))
		gauge("weir_guard_bgp_announced", "Routes and rules announced.", float64(b.Announced))
		counter("weir_guard_bgp_failed_total", "Announcements and withdrawals that could not be made.", b.Failed)
	}
	sent, failed, lost := r.notify.Counters()
	for _, x := range []struct {
		outcome string
		n       uint64
	}{{"sent", sent}, {"failed", failed}, {"lost", lost}} {
		counter("weir_guard_notifications_total", "Who was told by script, webhook and syslog: sent, failed, or lost because too many waited.", x.n, "outcome", x.outcome)
	}
}
