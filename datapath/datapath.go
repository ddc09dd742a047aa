package datapath

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"weir/acl"
	"weir/bpf"
	"weir/cache"
	"weir/capture"
	"weir/flow"
	"weir/hook"
	"weir/host"
	"weir/meter"
	"weir/packet"
)

// Interface is one to meter, and how.
type Interface struct {
	host.Interface
	Want     hook.Mode
	Filter   *capture.Filter // nil: every packet
	Prefixes []netip.Prefix  // source or destination is in one of them; none: every packet
	Lists    ListChoice      // what becomes of packets that no access list can judge
	Forward  ForwardChoice
}

// Options say what to meter in the kernel.
type Options struct {
	Interfaces []Interface
	Cache      cache.Config // Entries, timeouts, Key
	Sampling   uint32       // one packet in so many, by lot; 0 and 1: all
	Hook       hook.Options
	Log        *slog.Logger

	// Policy is the access lists that judge what passes; nil: everything passes,
	// and none can be applied later.
	Policy *acl.Policy
	Filter FilterOptions // Ports is found here

	Forward ForwardOptions

	Guard bool // rules of the guard are carried out (Datapath.Guard)
}

// Datapath is the kernel's flow table with its programs at their hooks. It
// outlives the process: whoever opens the same folder again goes on with what
// is there.
type Datapath struct {
	o      Options
	log    *slog.Logger
	probe  *hook.Features
	folder *hook.Folder
	groups []*group // programs, by what they choose; all share the first's table
	made   *table   // the one in use, if it was not there
	old    []*table // tables of another size or key, to be emptied
	plans  []*hook.Plan
	filter *Filter // nil without Options.Policy
	guard  *Guard  // nil without Options.Guard

	forwarder *forwarder // nil if no interface forwards
	uppers    []upper    // of setUppers, whose caller has it: Open, then watch

	life   sync.RWMutex // held by who reads the table; Close waits for it
	closed bool

	mu      sync.Mutex
	sweeper *Sweeper // nil before Run
	ended   bool
	before  drained      // from old
	base    bpf.Count    // handed on before this process began
	told    bpf.Counters // counted before it began, and told by another
	last    meter.Snapshot
	refused meter.Count // of last
	untold  meter.Count // of last
	events  *events     // nil before Run, and without lists
	at      time.Time   // of last
	gone    map[uint32]bool
}

// group is the programs of the interfaces that choose the same packets.
type group struct {
	filter   *capture.Filter
	prefixes []netip.Prefix
	kernel   *bpf.Kernel
}

func (g *group) fits(i *Interface) bool {
	same := (g.filter == nil) == (i.Filter == nil) && (g.filter == nil || g.filter.String() == i.Filter.String())
	return same && slices.Equal(g.prefixes, i.Prefixes)
}

// Open plans, loads what is not there and attaches. The plans are those of all
// interfaces, in order: those of mode hook.AFPacket are not metered here, and
// Why says why. Without any that is, there is no Datapath, which is no error.
func Open(o Options) (*Datapath, []*hook.Plan, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &Datapath{o: o, log: o.Log, probe: hook.Probe(o.Hook), gone: map[uint32]bool{}}
	if err := d.open(); err != nil {
		d.Close()
		return nil, nil, err
	}
	if !d.any() {
		d.Close()
		return nil, d.plans, nil
	}
	return d, d.plans, nil
}

// any says whether an interface is left to meter here.
func (d *Datapath) any() bool {
	return slices.ContainsFunc(d.plans, func(p *hook.Plan) bool { return p.Mode != hook.AFPacket })
}

// spare turns all that need not be in the kernel over to packet sockets; the
// first that must be makes it an error.
func (d *Datapath) spare(why error) error {
	for _, p := range d.plans {
		if p.Mode == hook.AFPacket {
			continue
		}
		if p.Want != hook.Auto {
			return fmt.Errorf("%s: --mode %s: %w", p.Interface, p.Want, why)
		}
		p.Mode, p.Spots, p.Why = hook.AFPacket, nil, strings.ReplaceAll(why.Error(), "\n", " ")
	}
	return nil
}

func (d *Datapath) open() error {
	own, err := hook.List(d.o.Hook)
	if err != nil {
		d.log.Debug("pins are not read", "error", err)
	}
	for _, i := range d.o.Interfaces {
		p, err := d.probe.Plan(i.Interface, i.Want, own)
		if err != nil {
			return err
		}
		d.plans = append(d.plans, p)
	}
	if !d.any() {
		return nil
	}
	if d.folder, err = hook.Open(d.o.Hook); err != nil {
		return d.spare(err)
	}
	if w := d.folder.Warning(); w != "" {
		d.log.Warn(w)
	}
	if err := d.load(); err != nil {
		return d.spare(err)
	}
	if err := d.attach(); err != nil {
		d.undo(own)
		return err
	}
	if d.any() {
		return d.detachOthers()
	}
	return nil
}

// undo takes off what this process has attached, after an error; own is what
// was there before. If that was nothing, the table goes too.
func (d *Datapath) undo(own []hook.Attachment) {
	for _, p := range d.plans {
		if !slices.ContainsFunc(own, func(a hook.Attachment) bool { return a.Ifindex == p.Ifindex }) {
			if err := d.folder.Detach(p.Ifindex); err != nil {
				d.log.Warn("taking programs off again", "interface", p.Interface, "error", err)
			}
			ports{d.kernel().Memory().Control}.quiet(p.Ifindex)
		}
	}
	if d.made != nil && len(own) == 0 {
		if err := d.made.remove(); err != nil {
			d.log.Warn("removing the flow table again", "error", err)
		}
	}
}

// load loads the programs over the table that is there, or over a new one. One
// of another size or key is left for Run to empty, and everything older too.
func (d *Datapath) load() error {
	there, err := tables(d.folder.Dir())
	if err != nil {
		return err
	}
	next := 1
	if n := len(there); n > 0 {
		next = there[n-1].number + 1
	}
	var at string // the folder of the table in use
	if n := len(there); n > 0 {
		at = there[n-1].dir
		err := d.loadGroups(at)
		switch {
		case err == nil:
			there = there[:n-1]
		case errors.Is(err, bpf.ErrIncompatible):
			d.log.Info("the flow table that is there does not fit, its flows are handed on", "why", err)
			d.closeGroups()
			at = ""
		default:
			return err
		}
	}
	for _, t := range there {
		if err := t.open(); err != nil {
			d.log.Warn("an old flow table cannot be read, what it holds is dropped", "table", t.dir, "error", err)
			if err := t.remove(); err != nil {
				return err
			}
			continue
		}
		d.old = append(d.old, t)
	}
	if at == "" {
		t := &table{dir: tableDir(d.folder.Dir(), next), number: next}
		if err := t.make(); err != nil {
			return err
		}
		if err := d.loadGroups(t.dir); err != nil {
			t.remove()
			return err
		}
		d.made = t
	}
	return nil
}

// loadGroups loads programs for each choice of packets there is.
func (d *Datapath) loadGroups(dir string) error {
	var secret [9]uint64
	if err := binary.Read(rand.Reader, binary.NativeEndian, &secret); err != nil {
		return err
	}
	for i := range d.o.Interfaces {
		in := &d.o.Interfaces[i]
		if d.plans[i].Mode == hook.AFPacket || slices.ContainsFunc(d.groups, func(g *group) bool { return g.fits(in) }) {
			continue
		}
		if len(in.Prefixes) == 0 {
			in.Prefixes = nil // no list, rather than one that nothing is in
		}
		k, err := bpf.Load(bpf.Options{
			Entries: d.o.Cache.Entries, Key: d.o.Cache.Key, Dir: dir, NoFrags: !d.probe.Fragments,
			Secret: [8]uint64(secret[:8]), Boot: uint32(secret[8]) & 0xfff, Born: time.Now().UnixNano(),
			Filter: in.Filter, Prefixes: in.Prefixes, Lists: d.o.Policy != nil, Forward: d.forwards(), Guard: d.o.Guard, Needs: d.needs(in),
		})
		if err != nil {
			return err
		}
		d.groups = append(d.groups, &group{in.Filter, in.Prefixes, k})
	}
	if d.kernel().Memory().Meta.Sample == 0 { // it is new
		d.sample()
	}
	return nil
}

// needs are the programs of interfaces that choose the same packets: those that
// their plans name, and those that take their place if a plan cannot be carried out.
func (d *Datapath) needs(like *Interface) (n bpf.Needs) {
	g := group{filter: like.Filter, prefixes: like.Prefixes}
	for i, p := range d.plans {
		switch {
		case p.Mode == hook.AFPacket || !g.fits(&d.o.Interfaces[i]):
		case p.NoLink:
			n.IngressIP, n.EgressIP = true, true
		default:
			n.XDP = n.XDP || p.Mode == hook.XDP
			n.Ingress = n.Ingress || p.Mode == hook.TC || p.Want == hook.Auto
			n.Egress = true
		}
	}
	return n
}

// sample tells the programs how many packets to look at.
func (d *Datapath) sample() {
	m := d.kernel().Memory()
	m.Control.Sample, m.Control.SampleRest = bpf.SampleThreshold(d.o.Sampling)
	m.Meta.Sample = max(d.o.Sampling, 1)
}

func (d *Datapath) closeGroups() {
	for _, g := range d.groups {
		g.kernel.Close()
	}
	d.groups = nil
}

// kernel is the table in use.
func (d *Datapath) kernel() *bpf.Kernel { return d.groups[0].kernel }

// attach puts the programs at the hooks of each interface, or swaps those that
// are there in place. A port is written before its programs see a packet.
func (d *Datapath) attach() error {
	ports := ports{d.kernel().Memory().Control}
	atomic.StoreUint64(&ports.c.Correct, 1) // until setFlags knows
	for i, p := range d.plans {
		if p.Mode == hook.AFPacket {
			continue
		}
		if err := ports.set(p.Ifindex, d.flags(i)); err != nil {
			return err
		}
		ports.setMAC(p.Ifindex, macOf(p.Ifindex))
	}
	if d.o.Policy != nil {
		if err := d.openFilter(); err != nil {
			return err
		}
	}
	if d.o.Guard {
		d.guard = newGuard(d.kernel(), d.input, func(name string) (uint16, bool) { return d.filter.number(name) })
		if d.made != nil {
			settle, err := d.inheritGuard()
			if err != nil {
				d.log.Warn("what the guard had in force at the flow table before does not go over", "error", err)
			}
			defer settle()
		}
	} else {
		leaveGuard(d.kernel().Memory().Control)
	}
	if d.forwards() {
		if err := d.openForward(); err != nil {
			return err
		}
		d.setFlags(ports)
	}
	for i, p := range d.plans {
		if p.Mode == hook.AFPacket {
			continue
		}
		at := slices.IndexFunc(d.groups, func(g *group) bool { return g.fits(&d.o.Interfaces[i]) })
		done, err := d.folder.Attach(p, d.groups[at].kernel.Programs)
		if err != nil {
			ports.quiet(p.Ifindex)
			return err
		}
		if d.plans[i] = done; done.Mode == hook.AFPacket {
			ports.quiet(p.Ifindex)
			continue
		}
		if err := ports.set(done.Ifindex, d.flags(i)); err != nil {
			return err
		}
	}
	d.setUppers(ports)
	if d.o.Policy == nil { // no program asks for lists any more
		c := d.kernel().Memory().Control
		for _, word := range []*uint64{&c.Trial, &c.Orphan, &c.Lists} {
			atomic.StoreUint64(word, 0)
		}
	}
	return nil
}

// openFilter puts the lists in force before a packet is seen that they are to judge.
func (d *Datapath) openFilter() error {
	o := d.o.Filter
	o.Ports = func() map[string]uint16 {
		ports, all := ports{d.kernel().Memory().Control}, map[string]uint16{}
		for _, p := range d.plans {
			if at := ports.find(p.Ifindex); p.Mode != hook.AFPacket && at != nil {
				all[p.Interface] = uint16(at.Number)
			}
		}
		return all
	}
	d.filter = newFilter(d.kernel(), d.log, o)
	if err := d.filter.adopt(); err != nil {
		d.log.Warn("what a weir before had in force is replaced", "error", err)
	}
	err := d.filter.Ensure(d.o.Policy)
	if errors.Is(err, ErrTrial) {
		d.log.Warn("the lists of the configuration are not in force", "reason", err)
		return nil
	}
	return err
}

// flags are those of the i-th interface's port.
func (d *Datapath) flags(i int) (f uint32) {
	p := d.plans[i]
	if p.Ingress() {
		f |= bpf.PortIngress
	}
	if p.NoLink {
		f |= bpf.PortNoLink
	}
	if v4, v6 := hook.Forwards(p.Interface); v4 || v6 {
		f |= bpf.PortForwards
	}
	if d.forwarder.refuses(p.Interface) == "" {
		f |= d.o.Interfaces[i].Forward.flags(p)
	}
	if d.o.Policy != nil {
		f |= d.o.Interfaces[i].Lists.flags()
		policies := []*acl.Policy{d.o.Policy}
		if d.filter != nil {
			policies = d.filter.policies()
		}
		for _, policy := range policies {
			f |= boundFlags(policy, p.Interface)
		}
	}
	return f
}

// detachOthers takes off what another daemon metered and nobody wants now.
func (d *Datapath) detachOthers() error {
	if _, err := d.folder.Prune(); err != nil {
		d.log.Warn("old pins", "error", err)
	}
	list, err := d.folder.List()
	if err != nil {
		return err
	}
	for _, a := range list {
		if d.plan(a.Ifindex) != nil {
			continue
		}
		d.log.Info("no longer metered: taken off its hook", "interface", a.Interface, "hook", a.Point)
		if err := d.folder.Detach(a.Ifindex); err != nil {
			return err
		}
		ports{d.kernel().Memory().Control}.quiet(a.Ifindex)
	}
	return nil
}

// plan is that of an interface metered here, or nil.
func (d *Datapath) plan(ifindex uint32) *hook.Plan {
	for _, p := range d.plans {
		if p.Ifindex == ifindex && p.Mode != hook.AFPacket {
			return p
		}
	}
	return nil
}

// Born is when the table was made: the zero of sysUptime of what exports it.
func (d *Datapath) Born() time.Time { return time.Unix(0, int64(d.kernel().Memory().Meta.Born)) }

// Filtering is the access lists; nil: there are none.
func (d *Datapath) Filtering() *Filter { return d.filter }

// Guard carries out the guard's rules; nil without Options.Guard.
func (d *Datapath) Guard() *Guard { return d.guard }

// input is what flow keys have of an interface that comes in by the kernel's programs.
func (d *Datapath) input(name string) (ifindex uint32, metered bool) {
	for _, p := range d.plans {
		if p.Interface == name && p.Mode != hook.AFPacket {
			return p.Ifindex, true
		}
	}
	return 0, false
}

// Dropped is what access lists and the guard have stopped since the table was made, also
// outside of flows.
func (d *Datapath) Dropped() (bpf.Count, error) {
	d.life.RLock()
	defer d.life.RUnlock()
	if d.closed || d.kernel().Lists == nil {
		return bpf.Count{}, ErrNoLists
	}
	counters, err := d.kernel().Counters()
	if err != nil {
		return bpf.Count{}, err
	}
	all := allPorts(counters)
	return all[bpf.Dropped], nil
}

// Apply puts lists in force (Filter.Apply), and Rollback those before.
func (d *Datapath) Apply(p *acl.Policy, trial time.Duration) error {
	return d.change(func() error { return d.filter.Apply(p, trial) })
}

func (d *Datapath) Rollback() error { return d.change(d.filter.Rollback) }

// Ensure puts lists in force unless they are.
func (d *Datapath) Ensure(p *acl.Policy) error {
	return d.change(func() error { return d.filter.Ensure(p) })
}

// change lets the ports know at once where lists are.
func (d *Datapath) change(do func() error) error {
	d.life.RLock()
	defer d.life.RUnlock()
	if d.closed || d.filter == nil {
		return ErrNoLists
	}
	err := do()
	d.setFlags(ports{d.kernel().Memory().Control})
	if d.guard != nil {
		if err := d.guard.relist(); err != nil {
			d.log.Warn("limits of flows", "error", err)
		}
	}
	return err
}

// ErrNoLists is what errors.Is finds when nothing is filtered.
var ErrNoLists = errors.New("nothing is filtered here: the configuration has no `acl:`")

// FilterState is what lists are in force and what their rules have decided of.
func (d *Datapath) FilterState() (FilterState, error) {
	d.life.RLock()
	defer d.life.RUnlock()
	s := d.sweeping()
	if d.closed || d.filter == nil || s == nil {
		return FilterState{}, ErrNoLists
	}
	return d.filter.state(s.Hits(), func(clock uint64) int64 { return int64(clock) + s.offset.Load() }), nil
}

// ExportMemory is where an exporter keeps its sequence numbers for the next
// process.
func (d *Datapath) ExportMemory() []uint64 { return d.kernel().Memory().Meta.Sequence[:] }

// Where is the folder of the pins.
func (d *Datapath) Where() string { return d.folder.Name() }

// SetOwn says which UDP flows are our own exports. They are not metered.
func (d *Datapath) SetOwn(keys []bpf.Own) error { return d.kernel().SetOwn(keys) }

// Close lets go of all. What is attached stays attached, and counts.
func (d *Datapath) Close() error {
	d.life.Lock()
	defer d.life.Unlock()
	d.closed = true
	d.guard.close()
	d.closeGroups()
	for _, t := range d.old {
		t.close()
	}
	if d.folder == nil {
		return nil
	}
	return d.folder.Close()
}

// Run meters until ctx ends: then what is counted leaves, and the programs go
// on counting. Records go to sink.
func (d *Datapath) Run(ctx context.Context, sink flow.Sink) error {
	for ; len(d.old) > 0; d.old = d.old[1:] {
		if err := d.old[0].empty(d.sweepConfig(), sink, &d.before); err != nil {
			return err
		}
		d.old[0].close()
	}
	cfg := d.sweepConfig()
	cfg.Lists, cfg.Forward = d.kernel().Lists, d.kernel().Forward
	if was := d.kernel().Memory().Meta.Sample; was != cfg.Sampling {
		// What was counted at the old rate is told at the old rate.
		cfg.Sampling = was
		if err := d.before.take(cfg, d.kernel(), sink, (*Sweeper).Drain); err != nil {
			return err
		}
		d.sample()
		cfg.Sampling = max(d.o.Sampling, 1)
	}
	var told *events
	if d.filter != nil {
		told = newEvents(d.log, d.filter, d.nameOf)
		cfg.Departed = told.book.departed
	}
	s, err := NewSweeper(cfg, d.kernel(), sink)
	if err != nil {
		if told != nil {
			told.answers.close()
		}
		return err
	}
	d.begin(s)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var beside sync.WaitGroup
	beside.Go(func() { d.watch(ctx) })
	if d.forwarder != nil {
		beside.Go(func() { d.forwarder.run(ctx, d) })
	}
	if d.filter != nil {
		d.filter.setUsed(s.rulesInUse)
		beside.Go(func() { d.filter.run(ctx) })
		told.walk = s.logged
		d.mu.Lock()
		d.events = told
		d.mu.Unlock()
		var rings []*ebpf.Map
		for _, g := range d.groups {
			rings = append(rings, g.kernel.Lists.Events)
		}
		beside.Go(func() { told.run(ctx, rings) })
	}
	err = s.Run(ctx)
	cancel()
	beside.Wait()
	if err == nil {
		err = s.Drain(flow.EndForced)
	}
	d.end()
	return err
}

func (d *Datapath) sweepConfig() SweepConfig {
	c := d.o.Cache
	return SweepConfig{Idle: c.Idle, Active: c.Active, TCPEnd: c.TCPEnd, Key: c.Key, Sampling: max(d.o.Sampling, 1)}
}

// How often the surroundings are looked at, and how often it is noted what has
// been told of packets in no flow: who is killed tells so much of them twice.
const (
	watchEvery = 2 * time.Second
	tellEvery  = 5 // times that
)

// watch notes what changes around the table: interfaces that go, forwarding
// that is switched on.
func (d *Datapath) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	ports := ports{d.kernel().Memory().Control}
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n%tellEvery == 0 {
			d.tell()
		}
		gone, err := d.folder.Prune()
		if err != nil {
			d.log.Debug("pins", "error", err)
		}
		for _, a := range gone {
			d.lose(a.Ifindex, a.Interface)
		}
		d.setFlags(ports)
		d.setUppers(ports)
		if err := d.guard.refresh(); err != nil {
			d.log.Debug("marks of who is in the table", "error", err)
		}
	}
}

func (d *Datapath) setFlags(ports ports) {
	correct := uint64(0)
	if host.RoutesByMark() {
		correct = 1
	}
	atomic.StoreUint64(&ports.c.Correct, correct)
	for i, p := range d.plans {
		if p.Mode != hook.AFPacket && !d.lost(p.Ifindex) {
			ports.set(p.Ifindex, d.flags(i))
			ports.setMAC(p.Ifindex, macOf(p.Ifindex))
		}
	}
}

// setUppers lets the programs know what is on top of metered interfaces.
func (d *Datapath) setUppers(ports ports) {
	links, err := host.Links()
	if err != nil {
		d.log.Debug("interfaces", "error", err)
		return
	}
	list := uppers(links, func(ifindex uint32) (uint32, bool) {
		p := d.plan(ifindex)
		at := ports.find(ifindex)
		if p == nil || at == nil || !p.Ingress() || d.lost(ifindex) {
			return 0, false
		}
		return at.Number, true
	})
	for _, was := range d.uppers {
		if !slices.ContainsFunc(list, func(u upper) bool { return u.ifindex == was.ifindex }) && d.plan(was.ifindex) == nil {
			ports.quiet(was.ifindex)
		}
	}
	d.uppers = list
	for _, u := range list {
		if err := ports.setUpper(u); err != nil {
			d.log.Warn("packets that it forwards are counted where they leave, too", "error", err)
		}
	}
}

func (d *Datapath) tell() {
	counters, err := d.kernel().Counters()
	if err != nil {
		d.log.Debug("the kernel's counters", "error", err)
		return
	}
	total := allPorts(counters)
	d.mu.Lock()
	defer d.mu.Unlock()
	tell(d.kernel().Memory().Meta, &total)
}

// lose notes that nothing meters an interface any more.
func (d *Datapath) lose(ifindex uint32, name string) {
	d.mu.Lock()
	known := d.gone[ifindex]
	d.gone[ifindex] = true
	d.mu.Unlock()
	ports{d.kernel().Memory().Control}.quiet(ifindex) // what comes in there is counted where it leaves
	if p := d.plan(ifindex); p != nil && !known {
		d.log.Warn("an interface is gone, or somebody took our program off it: no longer metered; SIGHUP takes it up again", "interface", p.Interface)
	}
}

func (d *Datapath) lost(ifindex uint32) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gone[ifindex]
}

// nameOf is an interface's name.
func (d *Datapath) nameOf(ifindex uint32) string {
	if p := d.plan(ifindex); p != nil {
		return p.Interface
	}
	return fmt.Sprintf("#%d", ifindex)
}

// Gone says whether an interface stopped being metered since Open.
func (d *Datapath) Gone() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.gone) > 0
}

// Walk shows the flows that are in the table, in batches that are valid during
// the call. It ends when the table is closed.
func (d *Datapath) Walk(ctx context.Context, yield func([]flow.Record) error) error {
	d.life.RLock()
	defer d.life.RUnlock()
	s := d.sweeping()
	if d.closed || s == nil {
		return nil
	}
	return s.Walk(func(batch []flow.Record) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.life.RUnlock() // nobody who reads slowly holds up a Close
		err := yield(batch)
		d.life.RLock()
		if err == nil && d.closed {
			err = errClosed
		}
		return err
	})
}

var errClosed = errors.New("the metering has stopped")

// Entries copies out the flows that are in the table.
func (d *Datapath) Entries(ctx context.Context) ([]flow.Record, error) {
	var all []flow.Record
	err := d.Walk(ctx, func(batch []flow.Record) error {
		all = flow.AppendCopies(all, batch)
		return nil
	})
	return all, err
}

func (d *Datapath) sweeping() *Sweeper {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sweeper
}

// Plans is how each interface is metered, those of packet sockets left out.
func (d *Datapath) Plans() (list []*hook.Plan) {
	for _, p := range d.plans {
		if p.Mode != hook.AFPacket {
			list = append(list, p)
		}
	}
	return list
}

// Reasons of this stage beside packet.Reason's, as package meter names them.
const (
	notSampled = "not-sampled"
	ownExport  = "own-export"
)

// Losses is the datapath's part of the ledger.
func (d *Datapath) Losses() []flow.Loss {
	s := d.Snapshot()
	var all []flow.Loss
	for _, why := range packet.Reasons() {
		c := s.Ignored[why.String()]
		all = append(all, flow.Loss{Stage: "packet", Reason: why.String(), Packets: c.Packets, Bytes: c.Bytes, Help: why.Help()})
	}
	for _, r := range []struct{ name, help string }{
		{notSampled, "Sampling did not choose the packet; records say at which rate."},
		{ownExport, "Our own exports, which are not metered: each would make a flow to be exported."},
	} {
		c := s.Ignored[r.name]
		all = append(all, flow.Loss{Stage: "packet", Reason: r.name, Packets: c.Packets, Bytes: c.Bytes, Help: r.help})
	}
	d.mu.Lock()
	refused, untold, events := d.refused, d.untold, d.events
	d.mu.Unlock()
	if events != nil {
		all = append(all, events.losses(untold.Packets)...)
	}
	all = append(all, meter.Aggregated(refused))
	if w := d.sweeping(); w != nil {
		all = append(all, w.Losses()...)
	}
	return all
}
