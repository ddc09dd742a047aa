package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weir/acl"
	"weir/datapath"
	"weir/flow"
	"weir/packet"
)

// Access lists can be held beside those in force: they drop nothing, and every
// record that leaves the cache is judged by both here. What a record cannot tell
// (the flags, TTL and length of each of its packets) is never guessed: where a
// verdict depends on it, the flow is counted apart.

// staging is where staged lists are, if there are any. It takes the records that a
// meter hands on, and costs nothing while nothing is staged.
type staging struct{ now atomic.Pointer[staged] }

func (s *staging) WriteRecords(batch []flow.Record) error {
	if p := s.now.Load(); p != nil {
		p.take(batch)
	}
	return nil
}

// staged is a policy and what it would have done.
type staged struct {
	change
	policy  *acl.Policy
	since   time.Time
	options juryOptions
	force   func() *datapath.InForce // nil: nothing is in force

	mu       sync.Mutex        // held for a batch at a time, and for a copy of the counts
	index    map[string]uint32 // of the interfaces
	lists    *jury             // those of policy
	now      *jury             // those in force
	inForce  *datapath.InForce
	compared time.Time // when those in force came to be compared with
	judging  int64     // Unix ns: what began since is judged by those alone
	counts   stageCounts
	handed   [handedIDs]handed // the last records, in a ring
	next     int
}

// handed is a record that the meter may show among its flows for a moment longer.
type handed struct {
	id, packets uint64
	last        int64
}

func idOf(r *flow.Record) handed { return handed{r.FlowID, r.Packets, r.Last} }

// ring gives the last records. mu is held.
func (s *staged) ring() map[handed]bool {
	m := make(map[handed]bool, handedIDs)
	for _, h := range s.handed {
		if h.id != 0 {
			m[h] = true
		}
	}
	return m
}

// settled is how long after a change of lists a flow must have begun to be surely
// judged by the new ones alone: a trial that ends by itself is noticed within a
// second, and a flow's first packet may be told a little too early.
const settled = 2 * time.Second

const (
	handedIDs  = 1024 // more than a meter hands on at a time
	mostKinds  = 16   // of packets that are asked about for one flow: what is more depends
	mostTopped = 4096 // flows of which count is kept, for each way to change
)

// juryOptions are the surroundings of lists.
type juryOptions struct {
	protect   [2][]*acl.Rule // in front of every list, as it was at the staging
	countOnly func(*acl.Binding) bool
	closed    []string                 // interfaces where nothing passes that no list judges
	indices   func() map[string]uint32 // of this machine's interfaces
}

// newStaged compiles lists, which may take a while.
func newStaged(c change, p *acl.Policy, o juryOptions, force func() *datapath.InForce) (*staged, error) {
	s := &staged{change: c, policy: p, options: o, force: force, since: time.Now(), index: o.indices()}
	var err error
	if s.lists, err = s.compile(); err != nil {
		return nil, err
	}
	s.lists.place(s.index, o.closed)
	s.counts = newStageCounts(s.lists)
	s.compare(force())
	return s, nil
}

// compile makes what judges by the staged lists as they are now.
func (s *staged) compile() (*jury, error) {
	ports := map[string]uint16{}
	for i := range s.policy.Bindings {
		name := s.policy.Bindings[i].Interface
		if _, ok := ports[name]; !ok {
			ports[name] = uint16(len(ports))
		}
	}
	for _, name := range s.options.closed {
		if _, ok := ports[name]; !ok {
			ports[name] = uint16(len(ports))
		}
	}
	if len(ports) > acl.MaxPorts {
		return nil, fmt.Errorf("lists are applied at %d interfaces; accepted: %d at most", len(ports), acl.MaxPorts)
	}
	now := time.Now()
	o := acl.CompileOptions{Now: now, Ports: ports, CountOnly: s.options.countOnly, Protect: s.options.protect}
	bank, err := acl.Compile(s.policy, o)
	if err != nil {
		return nil, err
	}
	j := newJury(s.policy, bank, ports, now)
	for f := range o.Protect {
		j.shield[f] = len(o.Protect[f])
	}
	return j, nil
}

// compare takes the lists that are in force. mu is held, or s is new.
func (s *staged) compare(f *datapath.InForce) {
	if s.inForce == nil || f == nil || f.Policy != s.inForce.Policy { // else a time range began or ended
		s.compared = time.Now()
		s.counts.forgetChanges()
	}
	s.inForce, s.now = f, nil
	if f != nil {
		s.judging = f.Since.Add(settled).UnixNano()
		s.now = newJury(f.Policy, f.Bank, f.Ports, f.Since)
		s.now.place(s.index, s.options.closed)
	}
}

// tick follows the clock and the machine's interfaces. What takes long is done while
// records go on.
func (s *staged) tick(now time.Time) error {
	index := s.options.indices()
	s.mu.Lock()
	lists := s.lists
	s.mu.Unlock()
	if !lists.until.IsZero() && !now.Before(lists.until) { // a time range began or ended
		var err error
		if lists, err = s.compile(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index, s.lists = index, lists // of the same rules, which are counted on
	s.lists.place(s.index, s.options.closed)
	if s.now != nil {
		s.now.place(s.index, s.options.closed)
	}
	return nil
}

// take judges records that left the cache.
func (s *staged) take(batch []flow.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.force(); f != s.inForce {
		s.compare(f)
	}
	for i := range batch {
		r := &batch[i]
		s.count(r, &s.counts)
		s.handed[s.next] = idOf(r)
		s.next = (s.next + 1) % handedIDs
	}
}

// count judges a record and counts it. mu is held.
func (s *staged) count(r *flow.Record, into *stageCounts) {
	into.all.record(r)
	if r.Has&flow.HasSrc == 0 {
		into.skip("aggregate", r)
		return
	}
	k := knownOf(r)
	after := s.lists.judge(r, &k)
	for _, x := range after.steps[:after.n] {
		into.step(x, r)
	}
	if after.n == 0 {
		reason := "no-list-there"
		if r.Has&(flow.HasInput|flow.HasOutput) == 0 {
			reason = "interface-unknown"
		}
		into.skip(reason, r)
	}
	before := unsure
	if after.fate != unsure { // else it does not matter
		before = s.before(r, &k)
	}
	switch {
	case before == unsure:
		into.changes[changeDepends].record(r)
	case before == after.fate:
		into.changes[changeNone].record(r)
	case before == passes:
		into.changes[newlyDropped].record(r)
		into.top[newlyDropped].add(r, after)
	default:
		into.changes[newlyPassed].record(r)
		into.top[newlyPassed].add(r, after)
	}
}

// before is what becomes of a flow now. The record says what became of its last
// packet: that is so for all of them, if these lists have judged all, and ask for
// nothing but the key. Else they are asked again.
func (s *staged) before(r *flow.Record, k *acl.Known) fate {
	if s.now == nil {
		return passes
	}
	if r.Has&flow.HasForwardingStatus != 0 && r.First >= s.judging && (s.now.fixed || r.Packets == 1) {
		if r.ForwardingStatus == statusDropped {
			return dropped
		}
		return passes
	}
	v := s.now.judge(r, k)
	return v.fate
}

// statusDropped is IE 89's "dropped, by an access list".
const statusDropped = 129

// read gives the counts, the flows in the cache among them.
func (s *staged) read(walk func(func([]flow.Record) error) error) (*staged, error) {
	var copied *staged
	var handed map[handed]bool // those of the ring
	var of uint64              // records, when it was made
	for range 3 {              // a flow that leaves meanwhile may be in neither: look again
		s.mu.Lock()
		taken := s.counts.all.flows
		if f := s.force(); f != s.inForce {
			s.compare(f)
		}
		copied = &staged{change: s.change, policy: s.policy, since: s.since, options: s.options, lists: s.lists, inForce: s.inForce, compared: s.compared, counts: s.counts.clone()}
		s.mu.Unlock()
		err := walk(func(batch []flow.Record) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if handed == nil || of != s.counts.all.flows {
				handed, of = s.ring(), s.counts.all.flows
			}
			for i := range batch {
				r := &batch[i]
				// Handed on and counted, and not yet out of the table.
				if !handed[idOf(r)] {
					s.count(r, &copied.counts)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		still := taken == s.counts.all.flows
		s.mu.Unlock()
		if still {
			break
		}
	}
	return copied, nil
}

// --- judging ---

// fate is what becomes of a flow's packets.
type fate uint8

const (
	passes fate = iota
	dropped
	unsure // that depends on what the record does not say
)

// decision is what a list makes of a flow. depends without a verdict of that name:
// several rules may decide, which say the same.
type decision struct {
	list int
	ruling
}

// judgement is what lists make of a flow: of the list where it came in, of that
// where it left, or of both.
type judgement struct {
	fate  fate
	n     int
	steps [2]decision
}

// jury is lists where they are applied. It is asked by one at a time.
type jury struct {
	policy      *acl.Policy
	bank        *acl.Bank
	ports       map[string]uint16 // the interfaces' numbers in the bank
	shield      [2]int            // how many rules protect, by family
	kinds       kinds
	looks       []acl.Fields // of each list
	fixed       bool         // no list asks for anything but the key
	from, until time.Time    // the time ranges' state is this; until zero: for ever
	leaves      [2]bool      // lists of this family judge what leaves somewhere
	at          map[uint32]*spots
}

// spots are those of an interface, by direction and family.
type spots [2][2]spot

// spot is where a list may be applied.
type spot struct {
	list      int // -1: none is
	countOnly bool
	closed    bool // what no list judges does not pass
}

func newJury(p *acl.Policy, bank *acl.Bank, ports map[string]uint16, from time.Time) *jury {
	j := &jury{policy: p, bank: bank, ports: ports, kinds: newKinds(bank), from: from, until: bank.Until}
	j.kinds.most = mostKinds
	j.fixed = true
	for _, l := range p.Lists {
		looks := p.Asker(l).Looks()
		j.looks = append(j.looks, looks)
		j.fixed = j.fixed && looks&outsideKey == 0 && !looks.Has(acl.FieldTime)
	}
	return j
}

// place finds out which interface has which lists.
func (j *jury) place(index map[string]uint32, closed []string) {
	at := map[uint32]*spots{}
	j.leaves = [2]bool{}
	for name, port := range j.ports {
		x, any := new(spots), false
		for d := range x {
			for f := range x[d] {
				s := &x[d][f]
				s.list, s.countOnly = j.bank.ListOf(port, acl.Direction(d), acl.Family(f))
				s.closed = s.list < 0 && slices.Contains(closed, name)
				any = any || s.list >= 0 || s.closed
				if acl.Direction(d) == acl.Out && s.list >= 0 && !s.countOnly {
					j.leaves[f] = true
				}
			}
		}
		if i := index[name]; i != 0 && any {
			at[i] = x
		}
	}
	j.at = at
}

// knownOf is what a record metered here says of its packets.
func knownOf(r *flow.Record) acl.Known {
	k := acl.Known{Info: packet.Info{TCPFlags: uint8(r.TCPFlags)}, AnyFlags: r.Packets != 1}
	k.Key = flow.Key{Src: r.Src, Dst: r.Dst, SrcPort: r.SrcPort, DstPort: r.DstPort, Proto: r.Proto, TOS: r.TOS}
	if r.IPVersion == 6 {
		k.Key.VLAN |= flow.KeyIPv6
	}
	if r.Fragment {
		k.Key.VLAN |= flow.KeyFragment
	}
	k.Unknown = k.Unknown.With(acl.FieldTTL)
	if r.Packets == 1 {
		k.Length = uint32(min(r.Bytes, 1<<32-1))
	} else {
		k.Unknown = k.Unknown.With(acl.FieldLength)
	}
	return k
}

// judge asks the list where the flow came in, then that where it left.
func (j *jury) judge(r *flow.Record, k *acl.Known) (v judgement) {
	family := acl.IPv4
	if k.Key.VLAN&flow.KeyIPv6 != 0 {
		family = acl.IPv6
	}
	if r.Has&flow.HasInput != 0 {
		if x := j.at[r.Input]; x != nil && j.ask(&v, &x[acl.In][family], r, k) {
			return v
		}
	}
	switch {
	case r.Has&flow.HasOutput != 0:
		if x := j.at[r.Output]; x != nil {
			j.ask(&v, &x[acl.Out][family], r, k)
		}
	case j.leaves[family] && r.ForwardingStatus == statusDropped:
		// It was dropped where it came in: nobody knows where it would have left, nor
		// what the list there would have said.
		v.fate = unsure
	}
	return v
}

// ask asks a list and says whether that was the end of it.
func (j *jury) ask(v *judgement, s *spot, r *flow.Record, k *acl.Known) (ended bool) {
	if s.list < 0 {
		if s.closed {
			v.fate = dropped
		}
		return s.closed
	}
	looks := j.looks[s.list]
	d := decision{list: s.list}
	ok := true
	if d.ruling, ok = j.kinds.classify(s.list, k); !ok {
		d.verdict, d.depends = depends, outside(looks)
	}
	if looks.Has(acl.FieldTime) && (r.First < j.from.UnixNano() || !j.until.IsZero() && r.Last >= j.until.UnixNano()) {
		d.verdict, d.depends = depends, acl.FieldTime // other rules were there for some of it
	}
	v.steps[v.n] = d
	v.n++
	switch {
	case s.countOnly || d.verdict == acl.Permit.String():
		return false
	case d.verdict == depends:
		v.fate = unsure
	default:
		v.fate = dropped
	}
	return true
}

// outside is what a list asks for that a record does not say.
func outside(looks acl.Fields) acl.Field {
	for _, f := range []acl.Field{acl.FieldFlags, acl.FieldTTL} {
		if looks.Has(f) {
			return f
		}
	}
	return acl.FieldLength
}

// --- counting ---

// Ways in which a flow's fate may change.
const (
	newlyDropped = iota
	newlyPassed
	changeDepends
	changeNone
	allChanges
)

var changeNames = [allChanges]string{"newly-dropped", "newly-passed", "depends", "none"}

// stageCounts are what lists would have done. The size is that of the lists, and of
// mostTopped flows.
type stageCounts struct {
	all     sums
	rules   [][]ruleCounts // by list and the rule's number
	changes [allChanges]sums
	top     [2]topFlows // by newlyDropped and newlyPassed
	skipped map[string]*sums
}

// ruleCounts are a rule's: alone those of flows that it decides, others those of
// which it is the first that may.
type ruleCounts struct {
	alone  sums
	others map[ruling]*sums
}

func newStageCounts(j *jury) (c stageCounts) {
	for i := range j.bank.Lists() {
		c.rules = append(c.rules, make([]ruleCounts, len(j.bank.Rules(i))))
	}
	c.skipped = map[string]*sums{}
	c.forgetChanges()
	return c
}

func (c *stageCounts) forgetChanges() {
	c.changes = [allChanges]sums{}
	for i := range c.top {
		c.top[i] = topFlows{by: map[flowEnds]toppedFlow{}}
	}
}

func (c *stageCounts) clone() stageCounts {
	n := *c
	n.rules = make([][]ruleCounts, len(c.rules))
	for i := range c.rules {
		n.rules[i] = slices.Clone(c.rules[i])
		for j := range n.rules[i] {
			if x := &n.rules[i][j]; x.others != nil {
				x.others = cloneSums(x.others)
			}
		}
	}
	n.skipped = cloneSums(c.skipped)
	for i := range n.top {
		n.top[i].by = maps.Clone(c.top[i].by)
	}
	return n
}

func cloneSums[K comparable](m map[K]*sums) map[K]*sums {
	n := make(map[K]*sums, len(m))
	for k, v := range m {
		x := *v
		n[k] = &x
	}
	return n
}

func (c *stageCounts) skip(reason string, r *flow.Record) {
	if c.skipped[reason] == nil {
		c.skipped[reason] = &sums{}
	}
	c.skipped[reason].record(r)
}

func (c *stageCounts) step(d decision, r *flow.Record) {
	x := &c.rules[d.list][d.rule]
	if d.depends == acl.NoField {
		x.alone.record(r)
		return
	}
	if x.others == nil {
		x.others = map[ruling]*sums{}
	}
	if x.others[d.ruling] == nil {
		x.others[d.ruling] = &sums{}
	}
	x.others[d.ruling].record(r)
}

// record adds a record of this machine's own, which says all of this.
func (s *sums) record(r *flow.Record) {
	s.flows++
	s.packets += r.Packets
	s.bytes += r.Bytes
	if s.first == 0 || r.First < s.first {
		s.first = r.First
	}
	s.last = max(s.last, r.Last)
}

// flowEnds name a flow.
type flowEnds struct {
	src, dst         flow.Addr
	input, output    uint32
	srcPort, dstPort uint16
	proto            uint8
}

// toppedFlow is a flow and who decides about it.
type toppedFlow struct {
	sums
	by decision // the last that was asked; n 0: no list
	n  int
}

// topFlows keeps count of the largest flows. A flood has any number: then the smaller
// half is forgotten, and counts may be too low.
type topFlows struct {
	by      map[flowEnds]toppedFlow
	partial bool
}

func (t *topFlows) add(r *flow.Record, v judgement) {
	k := flowEnds{r.Src, r.Dst, r.Input, r.Output, r.SrcPort, r.DstPort, r.Proto}
	x, ok := t.by[k]
	if !ok && len(t.by) >= mostTopped {
		t.partial = true
		for _, k := range t.most(len(t.by))[mostTopped/2:] {
			delete(t.by, k)
		}
	}
	x.record(r)
	if x.n = v.n; v.n > 0 {
		x.by = v.steps[v.n-1]
	}
	t.by[k] = x
}

// most are the n flows with the most packets, then bytes, the most first.
func (t *topFlows) most(n int) []flowEnds {
	all := slices.Collect(maps.Keys(t.by))
	slices.SortFunc(all, func(a, b flowEnds) int {
		x, y := t.by[a], t.by[b]
		return cmp.Or(
			cmp.Compare(y.packets, x.packets), cmp.Compare(y.bytes, x.bytes), slices.Compare(a.src[:], b.src[:]), slices.Compare(a.dst[:], b.dst[:]),
			cmp.Compare(a.proto, b.proto), cmp.Compare(a.srcPort, b.srcPort), cmp.Compare(a.dstPort, b.dstPort), cmp.Compare(a.input, b.input), cmp.Compare(a.output, b.output),
		)
	})
	return all[:min(n, len(all))]
}
