package acl

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"weir/flow"
)

// Chains to lists. A base chain is walked once for each interface that its rules
// name, once for all others, and once for each family: what comes out is leaves,
// terms with a verdict, in order. The first leaf that has a packet decides it.

// verdict is what a foreign rule does with its packets.
type verdict uint8

const (
	goOn verdict = iota
	accept
	drop
	jump
	goTo
	giveBack // return
)

// foreign is a rule, or a base chain as a whole, of another language.
type foreign struct {
	report  Report
	chain   *chain
	arms    []arm
	remark  string
	match   string // what it asks for, as text: to be compared
	logs    bool   // and does nothing else
	visited bool
	used    bool // something of it is in a list
	differs bool // from what is there
	refused bool // as a whole
	lost    bool // of some of its packets nothing is in a list
}

// arm is some of a rule's packets, and what becomes of them.
type arm struct {
	term    term
	verdict verdict
	target  string // the chain to jump to
	reject  bool
}

// chain is rules in order.
type chain struct {
	key, name string
	rules     []*foreign
	base      *base
	walked    bool // some list has it
}

// base is where the kernel calls a chain.
type base struct {
	hook     string
	policy   verdict
	devices  []string // of the netdev family
	families uint8
	filters  bool // a filter's, not one that translates addresses
	whole    bool // fragments are put together before
	self     *foreign
}

func (r *foreign) refuse(why string) {
	r.refused = true
	r.report.say(why)
}

func (r *foreign) note(n note) {
	r.differs = true
	r.report.say(n.why)
	r.report.More = r.report.More || n.more
	r.report.Less = r.report.Less || n.less
}

// importer is what the foreign languages have in common.
type importer struct {
	budget
	policy Policy
	chains map[string]*chain
	order  []*chain
	all    []*foreign        // rules and base chains, in the order of the file
	groups map[string]*Group // by the name in terms
	inList map[string]bool   // names of groups that are in the policy
	ids    int               // rules made
}

func newImporter() *importer {
	return &importer{budget: maxWork, chains: map[string]*chain{}, groups: map[string]*Group{}, inList: map[string]bool{}}
}

// maxWork is the steps of an import, each of them something like a term cut with
// another: a few seconds.
const maxWork = 1 << 23

// nets is the networks of a group.
func (im *importer) nets(name string) []Net {
	if g := im.groups[name]; g != nil {
		return g.Nets
	}
	return nil
}

// maxDepth is how deep chains may be called; the kernel's own limit is 16.
const maxDepth = 32

var errDepth = errors.New("chains that call one another in a circle, or deeper than 32; those that come back early count twice")

// effects is what leaving a verdict out may do.
func (im *importer) effects(a *arm) (more, less bool) {
	seen := map[string]bool{}
	var of func(v verdict, target string)
	of = func(v verdict, target string) {
		switch v {
		case accept:
			less = true
		case drop:
			more = true
		case giveBack:
			more, less = true, true
		case jump, goTo:
			if v == goTo {
				more, less = true, true
			}
			c := im.chains[target]
			if c == nil || seen[target] {
				return
			}
			seen[target] = true
			for _, r := range c.rules {
				for i := range r.arms {
					of(r.arms[i].verdict, r.arms[i].target)
				}
			}
		}
	}
	of(a.verdict, a.target)
	return more, less
}

// run makes lists of all base chains, and says what became of each rule.
func (im *importer) run() (*Policy, []Report, error) {
	for _, r := range im.all {
		for i := range r.arms {
			if target := r.arms[i].target; target != "" && im.chains[target] == nil {
				r.refuse("there is no chain " + quote(target))
			}
		}
	}
	im.foldLogs()
	lists := im.listNames()
	for i, c := range im.order {
		if c.base != nil {
			im.lists(c, lists[i])
		}
	}
	for _, r := range im.all {
		im.conclude(r)
	}
	reports := make([]Report, len(im.all))
	for i, r := range im.all {
		reports[i] = r.report
	}
	if err := im.policy.Validate(); err != nil {
		return nil, reports, err
	}
	return &im.policy, reports, nil
}

// conclude says what became of r.
func (im *importer) conclude(r *foreign) {
	switch {
	case r.refused || r.lost && !r.used:
		r.report.Outcome = Refused
		for i := range r.arms {
			more, less := im.effects(&r.arms[i])
			r.report.More, r.report.Less = r.report.More || more, r.report.Less || less
		}
	case len(r.arms) > 0 && !r.visited && r.chain.walked:
		r.report.say("no packet gets to it")
	case len(r.arms) > 0 && !r.visited:
		r.report.Outcome = Refused
		r.report.say("no list has its chain: no chain that became one leads there")
	case r.lost || r.differs:
		r.report.Outcome = Approximated
	}
}

// foldLogs gives a rule the log of the one before it that asks for the same and
// only logs.
func (im *importer) foldLogs() {
	for _, c := range im.order {
		for i, r := range c.rules {
			if !r.logs || r.refused {
				continue
			}
			if i+1 < len(c.rules) {
				if next := c.rules[i+1]; !next.refused && !next.logs && next.match == r.match && !strings.Contains(r.match, cutShort) && len(next.arms) > 0 {
					for j := range next.arms {
						next.arms[j].term.log = LogFlow
					}
					continue
				}
			}
			r.refuse("it logs, and goes on; a rule of a list logs what it decides")
		}
	}
}

// listNames is a name for the list of each base chain. Chains of different
// families may share one.
func (im *importer) listNames() []string {
	names := make([]string, len(im.order))
	families := map[string]uint8{} // that have a list of the name
	for i, c := range im.order {
		if c.base == nil {
			continue
		}
		taken := func(name string) bool { return families[name]&c.base.families != 0 }
		full := strings.Fields(c.key)
		name := listName(c.name)
		for n := len(full) - 2; taken(name) && n >= 0; n-- {
			name = listName(strings.Join(full[n:], "-"))
		}
		for n := 2; taken(name); n++ {
			name = listName(fmt.Sprintf("%d-%s", n, c.name))
		}
		names[i] = name
		families[name] |= c.base.families
	}
	return names
}

// listName is s as the name of a list or a group.
func listName(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c <= ' ' || c >= 0x7f {
			b[i] = '_'
		}
	}
	b = b[:min(len(b), maxName)]
	if _, number := decimal(string(b), 1<<30); number || nameFault(string(b)) != "" {
		b = append([]byte("nft-"), b[:min(len(b), maxName-4)]...)
	}
	return string(b)
}

// leaf is packets that are decided.
type leaf struct {
	term   term
	action Action
	reject bool
	of     *foreign
}

// frame is where a chain goes on when the one it called is through.
type frame struct {
	chain *chain
	next  int
	back  *frame
}

// walk is one way through a base chain.
type walk struct {
	*importer
	base   *base
	family Family
	dir    Direction
	iface  string
	leaves []leaf
	err    error
	// What is so, should a list come of it.
	used   []*foreign
	walked []*chain
}

const maxLeaves = MaxRules

// chain lays out c's rules from one on for the packets of guard. It says
// whether some of them may come out at the end.
func (w *walk) chain(c *chain, from int, guard *term, back *frame, depth int) bool {
	if depth > maxDepth && w.err == nil {
		w.err = errDepth
	}
	w.walked = append(w.walked, c)
	for i := from; i < len(c.rules) && w.err == nil; i++ {
		r := c.rules[i]
		r.visited = true
		for j := range r.arms {
			a := &r.arms[j]
			if r.refused {
				break
			}
			if !w.here(r, a) {
				continue
			}
			u, err := w.and(guard, &a.term, w.nets)
			if err != nil {
				w.err = err
				return true
			}
			u.iif, u.oif = nil, nil
			if u.empty() {
				continue
			}
			whole := a.term.all(w.family)
			switch a.verdict {
			case accept, drop:
				w.leaf(r, &u, a.verdict, a.reject)
				if whole {
					return false
				}
			case jump:
				through := true
				if target := w.chains[a.target]; target != nil {
					through = w.chain(target, 0, &u, &frame{c, i + 1, back}, depth+1)
				}
				w.used = append(w.used, r)
				if whole && !through {
					return false
				}
			case goTo:
				through := true
				if target := w.chains[a.target]; target != nil {
					through = w.chain(target, 0, &u, back, depth+1)
				}
				w.used = append(w.used, r)
				if through && i+1 < len(c.rules) {
					w.rest(&u, back, depth)
					through = false
				}
				if whole {
					return through
				}
			case giveBack:
				w.used = append(w.used, r)
				if whole && (back != nil || i+1 == len(c.rules)) {
					return true
				}
				if i+1 < len(c.rules) {
					w.rest(&u, back, depth)
					if whole {
						return false
					}
				}
			}
		}
	}
	return true
}

// rest lays out all that comes after a chain, for packets that leave it early.
func (w *walk) rest(u *term, back *frame, depth int) {
	for ; back != nil; back = back.back {
		if !w.chain(back.chain, back.next, u, back.back, depth+1) {
			return
		}
	}
	w.leaf(w.base.self, u, w.base.policy, false)
}

// here says whether an arm has packets of this family at this interface.
func (w *walk) here(r *foreign, a *arm) bool {
	t := &a.term
	if t.families>>w.family&1 == 0 {
		return false
	}
	known, other, which := t.iif, t.oif, "the interface that a packet leaves by is not known to a list that judges what comes in"
	if w.dir == Out {
		known, other, which = t.oif, t.iif, "the interface that a packet came in by is not asked for by lists that judge what goes out"
	}
	if len(other) > 0 {
		more, less := w.effects(a)
		r.lost = true
		r.note(note{why: which, more: more, less: less})
		return false
	}
	for i := range known {
		if !known[i].has(w.iface) {
			return false
		}
	}
	return true
}

// leaf adds a decision.
func (w *walk) leaf(r *foreign, u *term, v verdict, reject bool) {
	t := *u
	if len(w.leaves) >= maxLeaves {
		w.err = errWork
	}
	if w.err != nil {
		return
	}
	if n, ok := t.stateless(v); n.why != "" {
		for _, of := range t.asked {
			of.note(n)
			if ok {
				w.used = append(w.used, of)
			} else {
				of.lost = true
			}
		}
		if !ok || t.empty() {
			return
		}
	}
	w.used = append(w.used, r)
	for _, n := range t.notes {
		n.of.note(n)
	}
	action := Deny
	if v == accept {
		action = Permit
	}
	w.leaves = append(w.leaves, leaf{t, action, reject, r})
}

// opening is the TCP packets without ACK and RST: all that can open a connection.
var (
	later   = setOf(Established.Match)
	opening = allOctets.minus(later)
)

// stateless turns a condition on the state of the connection into what can be
// seen in the packet. Not ok: there is nothing that would be safe to say.
func (t *term) stateless(v verdict) (n note, ok bool) {
	if t.state == stateAny {
		return n, true
	}
	est, opens := t.state&stateEstablished != 0, t.state&stateNew != 0
	n = note{more: v == drop, less: v == accept}
	tcp := t.proto.has(flow.ProtoTCP)
	others := t.proto != octetSet(flow.ProtoTCP)
	t.state = stateAny
	switch {
	case est && opens:
		n = note{why: "the state of the connection is not asked for: packets of every state match", more: v == accept, less: v == drop}
		return n, true
	case v == accept && opens:
		n = note{why: "not only a connection's first packet matches, but each", more: true}
		return n, true
	case est && !tcp:
		n.why = "whether a packet belongs to a connection is known of TCP alone, which says so itself"
		return n, false
	case opens && !tcp:
		n.why = "whether a packet is a connection's first is known of TCP alone, which says so itself"
		return n, false
	case est:
		n.why = "established: each TCP packet with ACK or RST counts as one of a connection"
		n.more, n.less = true, v == drop
		if others {
			n.why += "; answers of other protocols, and what is related to a connection, do not"
			n.less = true
		}
		t.proto, t.flags = octetSet(flow.ProtoTCP), t.flags.and(later)
		return n, true
	case opens:
		n.why = "TCP packets without ACK and RST alone count as a connection's first"
		t.proto, t.flags = octetSet(flow.ProtoTCP), t.flags.and(opening)
		return n, true
	}
	n.why = "the state of a connection that no list follows: related, invalid or untracked"
	return n, false
}

// direction is at which end of the router a base chain's list is applied.
// Forwarded packets have two ends: the one that the rules ask for, the first one
// if they ask for both.
func (im *importer) direction(c *chain) Direction {
	switch c.base.hook {
	case "output", "postrouting", "egress":
		return Out
	case "forward":
		in, out := im.asked(c, In), im.asked(c, Out)
		if len(in) == 0 && len(out) > 0 {
			return Out
		}
	}
	return In
}

// reach visits c and the chains that it leads to, each once.
func (im *importer) reach(c *chain, visit func(c *chain)) {
	seen := map[*chain]bool{}
	var of func(c *chain)
	of = func(c *chain) {
		if c == nil || seen[c] {
			return
		}
		seen[c] = true
		visit(c)
		for _, r := range c.rules {
			for i := range r.arms {
				if target := r.arms[i].target; target != "" {
					of(im.chains[target])
				}
			}
		}
	}
	of(c)
}

// asked is the names of interfaces that c's rules, and those of chains it leads
// to, ask for.
func (im *importer) asked(c *chain, dir Direction) []string {
	var names []string
	in := map[string]bool{}
	im.reach(c, func(c *chain) {
		for _, r := range c.rules {
			for i := range r.arms {
				conditions := r.arms[i].term.iif
				if dir == Out {
					conditions = r.arms[i].term.oif
				}
				for _, cond := range conditions {
					for _, n := range cond.names {
						if !in[n] {
							in[n] = true
							names = append(names, n)
						}
					}
				}
			}
		}
	})
	return names
}

// lose says of all rules that lead to a list, and of the chain, why it is not
// there.
func (im *importer) lose(c *chain, why error) {
	n := note{why: why.Error(), more: true, less: true}
	c.base.self.lost = true
	c.base.self.note(n)
	im.reach(c, func(c *chain) {
		for _, r := range c.rules {
			r.lost = true
			r.note(n)
		}
	})
}

// maxIfaces is how many interfaces the rules of one chain may name.
const maxIfaces = 256

// lists makes the lists of a base chain.
func (im *importer) lists(c *chain, name string) {
	self := c.base.self
	if !c.base.filters {
		const why = "a chain that translates addresses is no filter"
		for _, r := range c.rules {
			r.visited = true
			r.refuse(why)
		}
		self.refuse(why)
		return
	}
	dir := im.direction(c)
	names := im.asked(c, dir)
	if len(names) > maxIfaces {
		self.refuse(fmt.Sprintf("its rules name %d interfaces; accepted: up to %d", len(names), maxIfaces))
		return
	}
	named := append(names, "") // and all others
	if len(c.base.devices) > 0 {
		named = c.base.devices
	}
	type made struct {
		list *List
		text string
		on   []string
	}
	var lists []*made
	free := map[string][]string{} // families of which all is admitted, by interface
	failed := false
	for _, f := range []Family{IPv4, IPv6} {
		if c.base.families>>f&1 == 0 || failed {
			continue
		}
		var own []*made
		for _, iface := range named {
			w := walk{importer: im, base: c.base, family: f, dir: dir, iface: iface}
			all := anyTerm()
			all.families = 1 << f
			if w.chain(c, 0, &all, nil, 0) {
				w.leaf(self, &all, c.base.policy, false)
			}
			var rules []*Rule
			if w.err == nil {
				rules, w.err = im.rules(w.leaves, c.base, f)
			}
			if w.err == nil && im.ids+len(rules) > MaxIDs {
				w.err = errIDs
			}
			if w.err != nil {
				im.lose(c, w.err)
				failed = true // what comes after would fare no better
				break
			}
			for _, r := range w.used {
				r.used = true
			}
			for _, c := range w.walked {
				c.walked = true
			}
			if len(rules) == 1 && rules[0].Cisco(f) == (&Rule{Action: Permit, Proto: AnyProto}).Cisco(f) {
				free[iface] = append(free[iface], familyNames[f])
				continue
			}
			text := ruleTexts(rules, f)
			if i := slices.IndexFunc(own, func(m *made) bool { return m.text == text }); i >= 0 {
				own[i].on = append(own[i].on, iface)
				continue
			}
			im.ids += len(rules)
			own = append(own, &made{&List{Name: name, Family: f, Rules: rules}, text, []string{iface}})
		}
		if len(own) > 1 {
			taken := map[string]bool{name: true}
			for _, m := range own {
				if slices.Contains(m.on, "") {
					continue // keeps the chain's name
				}
				n := listName(name + "-" + m.on[0])
				for i := 2; taken[n] || im.policy.List(n, f) != nil; i++ {
					n = listName(fmt.Sprintf("%d-%s-%s", i, name, m.on[0]))
				}
				m.list.Name, taken[n] = n, true
			}
		}
		lists = append(lists, own...)
	}
	self.used = self.used || len(lists) > 0
	for _, m := range lists {
		if im.policy.List(m.list.Name, m.list.Family) != nil {
			m.list.Name = listName(fmt.Sprintf("%d-%s", len(im.policy.Lists), m.list.Name))
		}
		im.policy.Lists = append(im.policy.Lists, m.list)
		im.needGroups(m.list)
		im.bind(c, m.list, dir, m.on, len(named) > 1)
	}
	if len(lists) == 0 {
		if !self.lost {
			self.report.say("it admits all: no list")
		}
		return
	}
	for _, iface := range named {
		if all := free[iface]; all != nil {
			where := "at " + iface
			if iface == "" {
				where = "elsewhere"
			}
			self.report.say(fmt.Sprintf("%s all of %s is admitted: no list", where, strings.Join(all, " and ")))
		}
	}
	im.tellHook(c, dir)
}

// ruleTexts is all that rules say.
func ruleTexts(rules []*Rule, f Family) string {
	var b strings.Builder
	for _, r := range rules {
		for _, s := range r.Remarks {
			b.WriteString("remark " + s + "\n")
		}
		b.WriteString(r.Cisco(f) + "\n")
	}
	return b.String()
}

// tellHook says what a list at an interface judges that the chain did not.
func (im *importer) tellHook(c *chain, dir Direction) {
	self := c.base.self
	tell := func(why string) { self.note(note{why: why, more: true, less: true}) }
	switch c.base.hook {
	case "input":
		tell("a list judges all that comes in at its interface, the chain what is for the machine itself")
	case "output":
		tell("a list judges all that goes out at its interface, the chain what the machine itself sends")
	case "forward":
		if dir == In {
			tell("a list judges all that comes in at its interface, the chain what is forwarded")
		} else {
			tell("a list judges all that goes out at its interface, the chain what is forwarded")
		}
	}
	if c.base.whole {
		tell("a list judges fragments one by one, the chain packets that connection tracking has put together; a permit that asks for ports lets later fragments pass")
	}
}

// bind applies a list where its chain asked for interfaces by name.
func (im *importer) bind(c *chain, l *List, dir Direction, on []string, several bool) {
	for _, iface := range on {
		self := c.base.self
		text := fmt.Sprintf("the %s list %s", familyNames[l.Family], l.Name)
		switch _, pattern := cutStar(iface); {
		case iface == "" && strings.HasPrefix(c.key, "netdev "):
			self.report.say(text + " is bound nowhere: this version of nft does not print the chain's device")
			continue
		case iface == "" && !several:
			self.report.say(text + " is bound nowhere: the chain names no interface")
			continue
		case iface == "":
			self.report.say(text + " is for the interfaces that no rule names, and bound nowhere")
			continue
		case pattern || nameFault(iface) != "":
			self.report.say(fmt.Sprintf("%s is for interfaces %s, and bound nowhere", text, quote(iface)))
			continue
		}
		b := Binding{Interface: iface, Direction: dir, Family: l.Family, List: l.Name}
		if i := slices.IndexFunc(im.policy.Bindings, func(o Binding) bool {
			return o.Interface == b.Interface && o.Direction == b.Direction && o.Family == b.Family
		}); i >= 0 {
			self.note(note{why: fmt.Sprintf("%s is not bound: %s has %s %s already", text, iface, im.policy.Bindings[i].List, dir), more: true})
			continue
		}
		im.policy.Bindings = append(im.policy.Bindings, b)
	}
}

// needGroups puts the groups that l names into the policy.
func (im *importer) needGroups(l *List) {
	need := func(name string) {
		if name != "" && !im.inList[name] {
			im.inList[name] = true
			im.policy.Groups = append(im.policy.Groups, im.groups[name])
		}
	}
	for _, r := range l.Rules {
		need(r.Src.Group)
		need(r.Dst.Group)
	}
}

// rules is leaves as rules. A permit that asks for ports is met by later
// fragments in a list, which it never is by a foreign rule: before the first
// such rule all that is still to be said of later fragments is said, for them
// alone.
func (im *importer) rules(leaves []leaf, b *base, f Family) ([]*Rule, error) {
	if b.whole {
		// The rules are of whole packets: fragments go the list's own way.
		for i := range leaves {
			if t := &leaves[i].term; t.frag == fragNone {
				t.frag = fragBoth
			}
		}
	}
	leaves = butSome(decided(leaves, f), f)
	differs := func(l *leaf) bool {
		return l.term.frag == fragNone && (l.action == Permit || !l.term.layer4())
	}
	at := slices.IndexFunc(leaves, func(l leaf) bool { return differs(&l) })
	if at < 0 {
		return im.layOut(leaves, f, fragBoth)
	}
	var block []leaf
	for _, l := range leaves[at:] {
		if l.term.frag&fragLater != 0 {
			block = append(block, l)
		}
	}
	// What stands before the last one and does the same is no loss, if it does
	// not log.
	for n := len(block); n > 1 && block[n-2].action == block[n-1].action && block[n-2].reject == block[n-1].reject &&
		block[n-2].term.log == NoLog && block[n-1].term.log == NoLog && block[n-1].term.all(f); n = len(block) {
		block = append(block[:n-2], block[n-1])
	}
	if len(block) == 1 && block[0].action == Permit && block[0].term.all(f) && block[0].term.log == NoLog &&
		!slices.ContainsFunc(leaves[at:], func(l leaf) bool { return l.action == Deny && differs(&l) }) {
		return im.layOut(leaves, f, fragBoth) // all later fragments pass, one way or the other
	}
	rules, err := im.layOut(leaves[:at], f, fragBoth)
	if err != nil {
		return nil, err
	}
	for _, part := range []struct {
		leaves []leaf
		frag   uint8
	}{{block, fragLater}, {leaves[at:], fragNone}} {
		more, err := im.layOut(part.leaves, f, part.frag)
		if err != nil {
			return nil, err
		}
		rules = append(rules, more...)
	}
	for i, r := range rules {
		r.Seq = uint32(i+1) * 10
	}
	if len(rules) > MaxRules {
		return nil, errRules
	}
	return rules, nil
}

var errIDs = fmt.Errorf("more than %d rules in all lists", MaxIDs)

var errRules = fmt.Errorf("more than %d rules in a list", MaxRules)

// decided takes later fragments out of the leaves behind one that has all that
// are left of them.
func decided(leaves []leaf, f Family) []leaf {
	at := slices.IndexFunc(leaves, func(l leaf) bool {
		t := l.term
		t.frag |= fragNone
		return t.all(f)
	})
	if at < 0 {
		return leaves
	}
	all := leaves[:at+1]
	for _, l := range leaves[at+1:] {
		if l.term.frag &= fragNone; l.term.frag != 0 {
			all = append(all, l)
		}
	}
	return all
}

// butSome rewrites leaves of all protocols but some, which would be hundreds of
// rules: what is left to be said of those few is said before, and the leaf is of
// all protocols then.
func butSome(leaves []leaf, f Family) []leaf {
	if len(leaves) == 0 {
		return leaves
	}
	last := leaves[len(leaves)-1].term
	if last.frag = fragBoth; !last.all(f) {
		return leaves
	}
	var behind []leaf // in reverse
	for _, l := range slices.Backward(leaves) {
		missing := allOctets.minus(l.term.proto).list()
		if n := len(missing); n == 0 || n*len(behind) > 255-n {
			behind = append(behind, l)
			continue
		}
		l.term.proto = allOctets
		all := append(slices.Clone(behind), l)
		for _, proto := range missing {
			for _, b := range behind {
				if b.term.proto = b.term.proto.and(octetSet(proto)); !b.term.proto.empty() {
					all = append(all, b)
				}
			}
		}
		behind = all
	}
	slices.Reverse(behind)
	return behind
}

// layOut is leaves as rules, of what they say of some fragments: of those alone,
// unless it is both.
func (im *importer) layOut(leaves []leaf, f Family, frag uint8) ([]*Rule, error) {
	var rules []*Rule
	told := map[*foreign]bool{}
	for i := range leaves {
		l := &leaves[i]
		if l.term.frag&frag == 0 {
			continue
		}
		made, err := im.rulesOf(l, f, frag == fragLater || l.term.frag == fragLater)
		if err != nil {
			return nil, err
		}
		if remark := l.of.remark; len(made) > 0 && remark != "" && !told[l.of] {
			made[0].Remarks = []string{remark}
			told[l.of] = true
		}
		if rules = append(rules, made...); len(rules) > MaxRules {
			return nil, errRules
		}
	}
	for i, r := range rules {
		r.Seq = uint32(i+1) * 10
	}
	return rules, nil
}

// rulesOf is one leaf as rules.
func (im *importer) rulesOf(l *leaf, f Family, fragments bool) ([]*Rule, error) {
	t := &l.term
	protos := []int16{AnyProto}
	if t.proto != allOctets {
		protos = nil
		for _, v := range t.proto.list() {
			protos = append(protos, int16(v))
		}
	}
	toses := cubesOf(t.tos)
	flags := []Flags{{}}
	if !fragments {
		flags = flagsOf(t.flags)
	}
	if err := im.spend(len(protos)*len(toses)*len(flags) + len(t.icmp)); err != nil {
		return nil, err
	}
	var rules []*Rule
	for _, proto := range protos {
		for _, tos := range toses {
			for _, fl := range flags {
				r := &Rule{
					Action: l.action, Reject: l.reject, Proto: proto, Src: t.src.addrs(), Dst: t.dst.addrs(), Fragments: fragments,
					TOS: tos, Lengths: t.length, Log: t.log, Flags: fl,
				}
				if t.ttl != allOctets {
					r.TTL = t.ttl.ranges()
				}
				if !fragments {
					r.SrcPorts.Ranges, r.DstPorts.Ranges, r.ICMP = t.sport, t.dport, icmpOfRanges(t.icmp)
				}
				rules = append(rules, r)
			}
		}
	}
	return rules, nil
}

func (a *addrSet) addrs() Addrs {
	if a.any {
		return Addrs{}
	}
	return Addrs{Group: a.group, Nets: a.nets}
}
