package datapath

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weir/acl"
	"weir/bpf"
)

// Filter is the access lists that the programs judge by: which are in force, which
// are on trial, and what each rule has decided of.
//
// A change is compiled beside what is in force, put into the bank that nobody reads,
// and then one word says that it is the other bank now: each packet is judged by the
// old lists or by the new ones. A change on trial is taken back by the programs
// themselves when its time is over, whether there is a daemon or not.
//
// The policies stand in the banks too, so that the next daemon knows what its
// predecessor had put in force, and by which number each rule goes.
type Filter struct {
	log     *slog.Logger
	lists   *bpf.Lists
	control *bpf.Control
	clock   func() (uint64, error) // ns of the kernel's clock
	grace   func() error
	used    func() []bool // rules' numbers that entries have
	options FilterOptions

	mu      sync.Mutex
	ids     map[string]uint16 // by a rule's identity
	names   atomic.Pointer[ruleNames]
	running *inForce // nil: none
	trial   *inForce
	known   atomic.Pointer[[]*inForce] // those, and what was before: who asks rule waits for nobody
	present atomic.Pointer[InForce]    // changed with mu held
	before  *acl.Policy                // what was in force before the last change that was confirmed
}

// InForce is the lists that packets are judged by, or were a moment ago. It does not
// change.
type InForce struct {
	Policy *acl.Policy
	Bank   *acl.Bank
	Ports  map[string]uint16 // the interfaces' numbers in it
	Since  time.Time         // when this process saw them begin to judge
}

// FilterOptions are what lists need to know of their surroundings.
type FilterOptions struct {
	Ports func() map[string]uint16 // numbers of the interfaces
	// Protect gives the rules in front of every list, by family, as they are now; nil:
	// there are none.
	Protect func() [2][]*acl.Rule
	// CountOnly says of a binding that it drops nothing; nil: all do.
	CountOnly func(*acl.Binding) bool
	LogEvery  time.Duration // between sums of what rules log; 0: five minutes
	LogRate   int           // lines a second; 0: 100
	Answers   int           // to packets that were rejected, a second; 0: 100; less: none
	// Orphan is how long after the daemon's last sign of life the ports' choice for
	// that case is made; 0: lists stay in force without it.
	Orphan time.Duration
}

// inForce is a policy that programs have.
type inForce struct {
	policy *acl.Policy
	bank   *acl.Bank
	ports  map[string]uint16
	shield [2]int // how many rules protect, by family
	number int    // of the bank
	word   uint64
	since  time.Time
	until  time.Time // of a trial
	rules  map[uint16]named
}

// named is a rule, and the list it is in.
type named struct {
	list *acl.List
	rule *acl.Rule
}

func newInForce(p *acl.Policy, bank *acl.Bank) *inForce {
	n := &inForce{policy: p, bank: bank, rules: map[uint16]named{}}
	for i, l := range p.Lists {
		for at, r := range bank.Rules(i) {
			n.rules[bank.ID(i, at)] = named{l, r}
		}
	}
	return n
}

// publish is called when other lists are in force, or on trial. What was before is
// kept for packets that are still on their way here. mu is held.
func (f *Filter) publish() {
	const keep = 3
	var all []*inForce
	for _, n := range []*inForce{f.running, f.trial} {
		if n != nil && !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	if old := f.known.Load(); old != nil {
		for _, n := range *old {
			if len(all) < keep && !slices.Contains(all, n) {
				all = append(all, n)
			}
		}
	}
	f.known.Store(&all)
}

// rule is whose verdict a word is.
func (f *Filter) rule(word uint64) (named, bool) {
	all := f.known.Load()
	if all == nil {
		return named{}, false
	}
	var found named
	for _, n := range *all {
		r, ok := n.rules[ruleOf(word)]
		if ok && n.word>>32 == word>>32 {
			return r, true
		}
		if ok && found.rule == nil {
			found = r // a verdict that still holds, of lists before the last change
		}
	}
	return found, found.rule != nil
}

// logs says whether a rule does.
func (f *Filter) logs() bool {
	if all := f.known.Load(); all != nil {
		for _, n := range *all {
			for _, r := range n.rules {
				if r.rule.Log != acl.NoLog {
					return true
				}
			}
		}
	}
	return false
}

// Errors that errors.Is finds.
var (
	ErrNoTrial = errors.New("no change of access lists is on trial")
	ErrTrial   = errors.New("a change of access lists is on trial: confirm it or roll it back first")
)

func newFilter(k *bpf.Kernel, log *slog.Logger, o FilterOptions) *Filter {
	return &Filter{
		log: log, lists: k.Lists, control: k.Memory().Control, grace: k.Grace, options: o, ids: map[string]uint16{},
		clock: func() (uint64, error) { now, _, err := k.Now(); return now, err },
		used:  func() []bool { return nil },
	}
}

const inForceNow, onTrial = "in force", "on trial" // states of lists, as errors tell them

// adopt takes up what another daemon has left in force, and on trial.
func (f *Filter) adopt() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.tell()
	defer f.publish()
	now, err := f.clock()
	if err != nil {
		return err
	}
	word, trial := atomic.LoadUint64(&f.control.Lists), atomic.LoadUint64(&f.control.Trial)
	until := atomic.LoadUint64(&f.control.TrialUntil)
	if now >= until {
		trial = 0
	}
	was, err := f.left(inForceNow, word)
	tried, failed := f.left(onTrial, trial)
	switch { // a trial's trailer is the later one, and has the numbers of what is in force, too
	case tried != nil:
		f.ids = tried.ids()
	case was != nil:
		f.ids = was.ids()
	}
	if was != nil && err == nil {
		f.running, err = f.again(was, inForceNow, word)
	}
	if tried != nil && failed == nil {
		if f.trial, failed = f.again(tried, onTrial, trial); f.trial != nil {
			f.trial.until = time.Now().Add(time.Duration(until - now))
		}
	}
	if f.trial == nil {
		atomic.StoreUint64(&f.control.Trial, 0)
	}
	return errors.Join(err, failed)
}

// left is what stands behind a bank that a word names; nil: the word names none.
func (f *Filter) left(state string, word uint64) (*trailer, error) {
	if word == 0 {
		return nil, nil
	}
	words, err := f.lists.Bank(int(word & bpf.ListsBank))
	if err != nil {
		return nil, fmt.Errorf("reading the access lists %s: %w", state, err)
	}
	t, err := readTrailer(words)
	if err != nil {
		return nil, fmt.Errorf("the access lists %s: %w", state, err)
	}
	return t, nil
}

// again is what another daemon has compiled. mu is held.
func (f *Filter) again(t *trailer, state string, word uint64) (*inForce, error) {
	p, err := acl.ReadCisco(state, t.policy)
	if err != nil {
		return nil, fmt.Errorf("the access lists %s: %w", state, err)
	}
	now, err := f.compile(p)
	if err != nil {
		return nil, fmt.Errorf("the access lists %s: %w", state, err)
	}
	now.number, now.word, now.since = int(word&bpf.ListsBank), word, t.since
	return now, nil
}

// appendIdentity appends by what a rule keeps its number, whatever is changed around it. Those
// that nobody wrote have no sequence number.
func appendIdentity(dst []byte, l *acl.List, r *acl.Rule, nth uint64) []byte {
	dst = append(append(append(dst, l.Family.String()...), ' '), l.Name...)
	dst = append(append(dst, 0), r.Cisco(l.Family)...)
	dst = append(strconv.AppendUint(append(dst, 0), nth, 10), 0)
	return strconv.AppendBool(dst, r.Seq == 0)
}

// ruleNames are the identities of rules by their number.
type ruleNames struct {
	of      []string
	changed uint64 // how often a number was given to another rule
}

// nameRules shows what the numbers stand for to who must not wait for a change of
// lists. mu is held.
func (f *Filter) nameRules() {
	was := f.names.Load()
	if was == nil {
		was = new(ruleNames)
	}
	now := &ruleNames{of: make([]string, 0, len(was.of)), changed: was.changed}
	for name, id := range f.ids {
		if n := int(id) + 1; n > len(now.of) {
			now.of = slices.Grow(now.of, n-len(now.of))[:n]
		}
		now.of[id] = name
	}
	for id, name := range was.of {
		if name != "" && (id >= len(now.of) || now.of[id] != name) {
			now.changed++ // or is given to none, and in time to another
			break
		}
	}
	f.names.Store(now)
}

// Rule is what a number in records stands for: a list's name, and a rule as Cisco
// writes it, without its sequence number, which may change. Also a rule that is in
// force no more has its number, as long as flows may have a verdict from it.
func (f *Filter) Rule(number uint16) (list, rule string, ok bool) {
	names := f.names.Load()
	if names == nil || int(number) >= len(names.of) || number == 0 {
		return "", "", false
	}
	part := strings.SplitN(names.of[number], "\x00", 3)
	if len(part) < 3 {
		return "", "", false
	}
	_, list, ok = strings.Cut(part[0], " ") // behind the family
	return list, part[1], ok
}

// Changed grows when a number is given to another rule.
func (f *Filter) Changed() uint64 {
	if names := f.names.Load(); names != nil {
		return names.changed
	}
	return 0
}

// compile makes a bank for the interfaces there are. mu is held.
func (f *Filter) compile(p *acl.Policy) (*inForce, error) {
	var protect [2][]*acl.Rule
	if f.options.Protect != nil {
		protect = f.options.Protect()
	}
	free := f.free(p)
	full := false
	var key []byte
	number := func(l *acl.List, r *acl.Rule, nth uint64) uint16 {
		key = appendIdentity(key[:0], l, r, nth)
		id, ok := f.ids[string(key)]
		if !ok {
			if id = free(); id == 0 {
				full = true
				return 0
			}
			f.ids[string(key)] = id
		}
		return id
	}
	alike := make([]uint64, bpf.MaxRules) // by the number of the first of them
	ports := f.options.Ports()
	bank, err := acl.Compile(p, acl.CompileOptions{
		Now: time.Now(), Ports: ports, Protect: protect, CountOnly: f.options.CountOnly,
		IDs: func(l *acl.List, r *acl.Rule) uint16 {
			id := number(l, r, 0)
			nth := alike[id]
			alike[id]++
			if nth > 0 && id != 0 {
				return number(l, r, nth)
			}
			return id
		},
	})
	f.nameRules()
	if err == nil && full {
		err = fmt.Errorf("more than %d rules in all lists, those counted that flows still point to", bpf.MaxRules-1)
	}
	if err != nil {
		return nil, err
	}
	now := newInForce(p, bank)
	now.ports, now.shield, now.since = ports, [2]int{len(protect[0]), len(protect[1])}, time.Now()
	return now, nil
}

// free gives numbers that no rule has. When there are few left, those of rules that
// are gone, and that no entry has, are given anew.
func (f *Filter) free(p *acl.Policy) func() uint16 {
	taken := make([]bool, bpf.MaxRules)
	taken[0] = true
	n := 0
	for _, l := range p.Lists {
		n += len(l.Rules) + 8
	}
	if len(f.ids)+n > bpf.MaxRules*3/4 {
		used := f.used()
		keep := map[uint16]bool{}
		for _, now := range []*inForce{f.running, f.trial} {
			if now == nil {
				continue
			}
			for list := range now.bank.Lists() {
				for i := range now.bank.Rules(list) {
					keep[now.bank.ID(list, i)] = true
				}
			}
		}
		maps.DeleteFunc(f.ids, func(_ string, id uint16) bool {
			gone := !keep[id] && int(id) < len(used) && !used[id]
			if gone {
				f.lists.Hits[id] = bpf.Hits{}
			}
			return gone
		})
	}
	for _, id := range f.ids {
		taken[id] = true
	}
	next := 1
	return func() uint16 {
		for ; next < len(taken); next++ {
			if !taken[next] {
				taken[next] = true
				return uint16(next)
			}
		}
		return 0
	}
}

// Apply puts a policy in force: for good, or on trial for so long, after which the
// programs go back to what was in force by themselves.
func (f *Filter) Apply(p *acl.Policy, trial time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.expire(); err != nil {
		return err
	}
	if f.trial != nil {
		return ErrTrial
	}
	return f.apply(p, trial)
}

func (f *Filter) apply(p *acl.Policy, trial time.Duration) error {
	next, err := f.compile(p)
	if err != nil {
		return err
	}
	// By the word itself: what it says may be of a weir that nobody could read.
	if now := atomic.LoadUint64(&f.control.Lists); now != 0 {
		next.number = 1 - int(now&bpf.ListsBank)
	}
	behind := trailer{policy: acl.AppendCisco(nil, p), names: f.names.Load().of, since: next.since}
	words := behind.append(next.bank.Words)
	// Nobody reads the other bank who began after its word went.
	if err := f.grace(); err != nil {
		return err
	}
	if err := f.lists.SetBank(next.number, words); err != nil {
		return err
	}
	generation := atomic.LoadUint64(&f.control.Generation) + 2
	if generation > 1<<31 {
		generation = 2
	}
	atomic.StoreUint64(&f.control.Generation, generation)
	next.word = generation<<32 | uint64(next.number)
	if trial <= 0 {
		f.force(next)
		return nil
	}
	now, err := f.clock()
	if err != nil {
		return err
	}
	next.until = time.Now().Add(trial)
	f.trial = next
	f.publish()
	atomic.StoreUint64(&f.control.TrialUntil, now+uint64(trial))
	atomic.StoreUint64(&f.control.Trial, next.word)
	f.tell()
	f.log.Info("access lists are on trial", "until", next.until.Format(time.RFC3339))
	return nil
}

// force makes lists the ones in force. mu is held.
func (f *Filter) force(next *inForce) {
	if f.running != nil {
		f.before = f.running.policy
	}
	f.running = next
	f.publish()
	atomic.StoreUint64(&f.control.Lists, next.word)
	f.tell()
	f.setOrphan()
	if len(next.bank.Unbound) > 0 {
		for _, b := range next.bank.Unbound {
			f.log.Warn("an access list is bound at an interface that is not metered in the kernel", "list", b.List, "interface", b.Interface)
		}
	}
	f.log.Info("access lists are in force", "lists", next.bank.Lists(), "octets", next.bank.Size())
}

// tell lets InForce know. mu is held.
func (f *Filter) tell() {
	now := f.running
	if f.trial != nil {
		now = f.trial
	}
	if now == nil {
		f.present.Store(nil)
		return
	}
	if was := f.present.Load(); was == nil || was.Bank != now.bank { // else a trial was confirmed
		f.present.Store(&InForce{now.policy, now.bank, now.ports, time.Now()})
	}
}

// InForce is what packets are judged by now; nil: nothing. It waits for nobody, not
// for a change under way either, so that it can be asked wherever records pass. Of a
// trial that ended by itself it knows within a second.
func (f *Filter) InForce() *InForce { return f.present.Load() }

// setOrphan says what is in force without a daemon. mu is held.
func (f *Filter) setOrphan() {
	word := uint64(0)
	if f.options.Orphan > 0 {
		if err := f.alive(); err != nil {
			f.log.Error("access lists", "error", err)
		}
		word = f.running.word + 1<<32 | bpf.ListsOrphan
	}
	atomic.StoreUint64(&f.control.Orphan, word)
}

// Confirm keeps what is on trial.
func (f *Filter) Confirm() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.expire(); err != nil {
		return err
	}
	if f.trial == nil {
		return ErrNoTrial
	}
	next := f.trial
	next.until = time.Time{}
	f.force(next) // the two words are of one bank now, so that nothing is judged anew
	atomic.StoreUint64(&f.control.Trial, 0)
	f.trial = nil
	f.tell()
	return nil
}

// Rollback ends a trial at once; without one it puts in force what was before the
// last change.
func (f *Filter) Rollback() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.expire(); err != nil {
		return err
	}
	if f.trial != nil {
		atomic.StoreUint64(&f.control.Trial, 0)
		f.trial = nil
		f.tell()
		f.log.Info("a change of access lists was rolled back")
		return nil
	}
	if f.before == nil {
		return errors.New("nothing to roll back: no change is on trial, and none was made since weir began")
	}
	return f.apply(f.before, 0)
}

// expire notes that a trial is over: the programs know it already. mu is held.
func (f *Filter) expire() error {
	if f.trial == nil {
		return nil
	}
	now, err := f.clock()
	if err != nil {
		return err
	}
	if now < atomic.LoadUint64(&f.control.TrialUntil) {
		return nil
	}
	atomic.StoreUint64(&f.control.Trial, 0)
	f.trial = nil
	f.tell()
	f.log.Warn("a change of access lists was not confirmed: what was in force before is again")
	return nil
}

// alive puts off what ports do without a daemon.
func (f *Filter) alive() error {
	if f.options.Orphan <= 0 {
		return nil
	}
	now, err := f.clock()
	if err == nil {
		atomic.StoreUint64(&f.control.AliveUntil, now+uint64(f.options.Orphan))
	}
	return err
}

// Tick is called every second or so: it is the daemon's sign of life, and looks
// whether a trial is over or a time range begins or ends.
func (f *Filter) Tick() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(f.alive(), f.expire()); err != nil {
		return err
	}
	if r := f.running; r != nil && f.trial == nil && !r.bank.Until.IsZero() && !time.Now().Before(r.bank.Until) {
		before := f.before
		if err := f.apply(r.policy, 0); err != nil {
			return fmt.Errorf("compiling access lists whose time ranges have changed: %w", err)
		}
		f.before = before
	}
	return nil
}

// State is what is in force.
type FilterState struct {
	Policy *acl.Policy // nil: nothing
	Since  time.Time
	Trial  *acl.Policy // what is on trial instead; nil: nothing is
	Until  time.Time   // of the trial
	Memory int         // octets of the compiled lists
	Lists  []ListState
}

// ListState is a list as the programs have it.
type ListState struct {
	List  *acl.List
	Rules []RuleState // the protecting ones, its own, the implicit ones
}

// RuleState is a rule and what it has decided of since the table was made.
type RuleState struct {
	Rule      *acl.Rule
	Number    uint16 // in records; the same also when its sequence number is another
	Protected bool
	Implicit  bool
	Packets   uint64
	Bytes     uint64
	Last      time.Time // zero: never
}

// state shows what is in force, with hits by number.
func (f *Filter) state(hits []Hit, wall func(clock uint64) int64) FilterState {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.expire()
	var s FilterState
	now := f.running
	if f.running != nil {
		s.Policy, s.Since = f.running.policy, f.running.since
	}
	if f.trial != nil {
		s.Trial, s.Until, now = f.trial.policy, f.trial.until, f.trial
	}
	if now == nil {
		return s
	}
	s.Memory = now.bank.Size()
	for i, l := range now.policy.Lists {
		ls := ListState{List: l}
		protect, own := now.shield[l.Family], len(l.Rules)
		for n, r := range now.bank.Rules(i) {
			id := now.bank.ID(i, n)
			rs := RuleState{Rule: r, Number: id, Protected: n < protect, Implicit: n >= protect+own}
			if int(id) < len(hits) {
				h := hits[id]
				rs.Packets, rs.Bytes = h.Packets, h.Bytes
				if h.Last != 0 {
					rs.Last = time.Unix(0, wall(h.Last))
				}
			}
			ls.Rules = append(ls.Rules, rs)
		}
		s.Lists = append(s.Lists, ls)
	}
	return s
}

// number is that of a rule in force, by LIST/SEQUENCE; a nil filter has none.
func (f *Filter) number(name string) (uint16, bool) {
	if f == nil {
		return 0, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.running
	if f.trial != nil {
		now = f.trial
	}
	if now == nil {
		return 0, false
	}
	for number, n := range now.rules {
		if n.list.Name+"/"+strconv.FormatUint(uint64(n.rule.Seq), 10) == name {
			return number, true
		}
	}
	return 0, false
}

// same says whether two policies read alike.
func same(a, b *acl.Policy) bool {
	return a != nil && b != nil && bytes.Equal(acl.AppendCisco(nil, a), acl.AppendCisco(nil, b))
}

// Ensure puts a policy in force unless it is already. While another is on trial it is
// refused (ErrTrial): nobody would look at it again when the trial is over.
func (f *Filter) Ensure(p *acl.Policy) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.expire(); err != nil {
		return err
	}
	if f.running != nil && same(f.running.policy, p) {
		// Other interfaces, other rules that protect: the words may differ all the same.
		words, err := f.lists.Bank(f.running.number)
		if err != nil {
			return err
		}
		again, err := f.compile(p)
		if err != nil {
			return err
		}
		bank := again.bank.Words
		if len(words) >= len(bank) && slices.Equal(words[:len(bank)], bank) {
			f.setOrphan()
			return nil
		}
	}
	if f.trial != nil {
		if f.running != nil && same(f.running.policy, p) {
			return nil // what protects is seen to with the next change
		}
		return ErrTrial
	}
	return f.apply(p, 0)
}

// boundFlags are those of an interface's port for the lists that a policy has there.
func boundFlags(p *acl.Policy, name string) (flags uint32) {
	for i := range p.Bindings {
		if b := &p.Bindings[i]; b.Interface == name {
			flags |= map[acl.Direction]uint32{acl.In: bpf.PortListIn, acl.Out: bpf.PortListOut}[b.Direction]
		}
	}
	return flags
}

// policies are those that are in force, or may be in a moment.
func (f *Filter) policies() (all []*acl.Policy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, now := range []*inForce{f.running, f.trial} {
		if now != nil {
			all = append(all, now.policy)
		}
	}
	return all
}

// SetProtect says which rules protect from the next change on.
func (f *Filter) SetProtect(protect func() [2][]*acl.Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.options.Protect = protect
}

func (f *Filter) setUsed(used func() []bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = used
}

// run gives signs of life until ctx ends.
func (f *Filter) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := f.Tick(); err != nil {
			f.log.Error("access lists", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ListChoice says what becomes of an interface's packets when no list can tell.
type ListChoice struct {
	Unruled Fallback // no list judges them: open is the default
	Orphan  Fallback // no daemon is there: the default is to go on with the lists
	Full    Fallback // no place in the table: the default is to judge each packet
}

// Fallback is one of the choices.
type Fallback uint8

const (
	FallbackDefault Fallback = iota
	FallbackOpen             // they pass
	FallbackClosed           // they do not
)

func (c ListChoice) flags() (flags uint32) {
	for _, x := range []struct {
		is           Fallback
		open, closed uint32
	}{{c.Unruled, 0, bpf.PortUnruledClosed}, {c.Orphan, bpf.PortOrphanOpen, bpf.PortOrphanClosed}, {c.Full, bpf.PortFullOpen, bpf.PortFullClosed}} {
		switch x.is {
		case FallbackOpen:
			flags |= x.open
		case FallbackClosed:
			flags |= x.closed
		}
	}
	return flags
}
