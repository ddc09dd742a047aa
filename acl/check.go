package acl

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// FindingKind says what was found.
type FindingKind uint8

const (
	Shadowed       FindingKind = iota // a rule that never matches: others, which do something else, take all its packets
	Redundant                         // a rule that never matches: others, which do the same, take all its packets
	FragmentsOnly                     // a rule that only later fragments can match
	BehindAll                         // rules behind one that matches everything
	MatchesNothing                    // a rule that asks for what is in an empty group
	EmptyGroup                        // a group with nothing in it
	NoPermit                          // a list that permits nothing
	Unbound                           // a list that is applied nowhere
	UnknownList                       // a binding of a list that is not there
	Unused                            // a group or time range that nothing refers to
	LikelyMask                        // a wildcard that looks like a subnet mask
	LastMinute                        // a period to 23:59, which leaves out the day's last minute
)

var findingNames = [...]string{
	"shadowed", "redundant", "fragments-only", "behind-all", "matches-nothing", "empty-group", "no-permit", "unbound",
	"unknown-list", "unused", "likely-mask", "last-minute",
}

func (k FindingKind) String() string {
	if int(k) < len(findingNames) {
		return findingNames[k]
	}
	return "unknown"
}

// Finding is something about a policy that is valid and yet hardly meant.
type Finding struct {
	Kind FindingKind
	Pos  Pos
	List *List   // nil: not about one
	Rule *Rule   // nil: not about one
	By   []*Rule // rules of List that make it so, in order
	Msg  string  // a sentence
}

func (f Finding) String() string {
	if at := f.Pos.String(); at != "" {
		return at + ": " + f.Kind.String() + ": " + f.Msg
	}
	return f.Kind.String() + ": " + f.Msg
}

// Limits of Check's search for unions. Beyond them nothing is claimed.
const (
	maxBoxes     = 1024    // of a rule at a time
	boxesPerRule = 1 << 16 // looked at for a rule
	boxesPerList = 1 << 23 // and for a list
	witnesses    = 8
	namedRules   = 16 // of a union that is made as small as it can be
)

// Check says what is valid and yet hardly meant, list by list, then what is
// about none. What it says of a rule that never matches is so: each packet that
// the rule asks for is taken by rules before it. It is not complete: a rule of
// so many networks, or before which so many rules cut it up, that the search
// would take long is not told of; and a rule with a time range counts, for
// rules after it, only if they have the same one.
//
// p has passed Validate.
func (p *Policy) Check() []Finding {
	c := checker{p: p, rng: rand.New(rand.NewPCG(1, 2)), byName: map[string]*Group{}}
	for _, g := range p.Groups {
		c.byName[g.Name] = g
	}
	lists := p.byName()
	bound := map[listKey]bool{}
	for _, b := range p.Bindings {
		bound[listKey{b.List, b.Family}] = true
	}
	for _, l := range p.Lists {
		c.list(l)
		if !bound[listKey{l.Name, l.Family}] {
			c.add(Finding{Kind: Unbound, Pos: l.Pos, List: l, Msg: fmt.Sprintf("the %s list %s is applied at no interface", familyNames[l.Family], l.Name)})
		}
	}
	for _, b := range p.Bindings {
		if lists[listKey{b.List, b.Family}] == nil {
			c.add(Finding{Kind: UnknownList, Pos: b.Pos, Msg: fmt.Sprintf("%s has the %s list %s %s, which is not there", b.Interface, familyNames[b.Family], b.List, b.Direction)})
		}
	}
	c.groups()
	c.times()
	return c.found
}

// byName is the lists by what tells one from another.
func (p *Policy) byName() map[listKey]*List {
	lists := map[listKey]*List{}
	for _, l := range p.Lists {
		lists[listKey{l.Name, l.Family}] = l
	}
	return lists
}

type checker struct {
	p      *Policy
	rng    *rand.Rand
	found  []Finding
	byName map[string]*Group

	shapes [2][]*shape // of the rules so far: of packets that are no later fragments, and of those that are
	asked  int         // witnesses so far
	budget int
}

func (c *checker) add(f Finding) { c.found = append(c.found, f) }

// name is a rule in a message.
func (r *Rule) name(f Family) string { return fmt.Sprintf("%d %s", r.Seq, r.Cisco(f)) }

func (c *checker) list(l *List) {
	c.budget = boxesPerList
	c.shapes = [2][]*shape{}
	of := shapes{l.Family, map[string]*cubes{}, c.byName}
	permits := false
	for i, r := range l.Rules {
		permits = permits || r.Action == Permit
		c.wildcards(l, r)
		var own [2]*shape
		for later := range 2 {
			own[later] = of.of(r, later == 1)
		}
		switch {
		case own[0] == nil && own[1] == nil:
			c.add(Finding{Kind: MatchesNothing, Pos: r.Pos, List: l, Rule: r, Msg: fmt.Sprintf("rule %s matches nothing: a group it names has nothing for %s", r.name(l.Family), familyNames[l.Family])})
		case own[0] == nil && !r.Fragments:
			c.add(Finding{Kind: FragmentsOnly, Pos: r.Pos, List: l, Rule: r, Msg: fmt.Sprintf("rule %s matches later fragments only: a group it names has no ports", r.name(l.Family))})
		default:
			c.rule(l, r, own)
		}
		for later, h := range own {
			if h != nil {
				c.shapes[later] = append(c.shapes[later], h)
			}
		}
		if rest := l.Rules[i+1:]; r.all() && len(rest) > 0 {
			c.behind(l, r, rest)
			for _, r := range rest {
				permits = permits || r.Action == Permit
			}
			break
		}
	}
	if !permits {
		c.add(Finding{Kind: NoPermit, Pos: l.Pos, List: l, Msg: fmt.Sprintf("the %s list %s permits nothing", familyNames[l.Family], l.Name)})
	}
}

// all says whether r matches every packet, at any time.
func (r *Rule) all() bool {
	return r.Proto == AnyProto && r.Src.Any() && r.Dst.Any() && !r.Fragments && r.TOS.Mask == 0 && len(r.TTL) == 0 && len(r.Lengths) == 0 && r.Time == ""
}

func (c *checker) behind(l *List, r *Rule, rest []*Rule) {
	what := "rule " + rest[0].name(l.Family) + " stands"
	if len(rest) > 1 {
		what = fmt.Sprintf("the %d rules from %s stand", len(rest), rest[0].name(l.Family))
	}
	c.add(Finding{Kind: BehindAll, Pos: rest[0].Pos, List: l, Rule: rest[0], By: []*Rule{r}, Msg: what + " behind " + r.name(l.Family) + ", which matches everything"})
}

// rule looks for rules that take all of r's packets.
func (c *checker) rule(l *List, r *Rule, own [2]*shape) {
	var by []*Rule
	fragments := false // are left
	for later, h := range own {
		if h == nil {
			continue
		}
		covering := c.covering(h, c.shapes[later], by)
		switch {
		case covering != nil:
			by = append(by, covering...)
		case later == 1 && own[0] != nil:
			fragments = true
		default:
			return
		}
	}
	by = inOrder(l, by)
	kind := Redundant
	for _, b := range by {
		if b.Action != r.Action || b.Reject != r.Reject {
			kind = Shadowed
		}
	}
	// The verb has to agree.
	verbs := map[FindingKind]string{FragmentsOnly: "take the rest", Redundant: "do the same before", Shadowed: "decide before"}
	if len(by) == 1 {
		verbs = map[FindingKind]string{FragmentsOnly: "takes the rest", Redundant: "does the same before", Shadowed: "decides before"}
	}
	what := "never matches"
	if fragments {
		kind, what = FragmentsOnly, "matches later fragments only"
	}
	c.add(Finding{kind, r.Pos, l, r, by, fmt.Sprintf("rule %s %s: %s %s", r.name(l.Family), what, names(l, by), verbs[kind])})
}

// inOrder is the rules among by, each once, as the list has them.
func inOrder(l *List, by []*Rule) []*Rule {
	in := map[*Rule]bool{}
	for _, r := range by {
		in[r] = true
	}
	var all []*Rule
	for _, r := range l.Rules {
		if in[r] {
			all = append(all, r)
		}
	}
	return all
}

// names tells of rules: one in full, few by their numbers, many by how many.
func names(l *List, by []*Rule) string {
	switch n := len(by); {
	case n == 1:
		return by[0].name(l.Family)
	case n <= namedRules:
		var seqs []string
		for _, r := range by {
			seqs = append(seqs, strconv.FormatUint(uint64(r.Seq), 10))
		}
		return "rules " + strings.Join(seqs[:n-1], ", ") + " and " + seqs[n-1] + " together"
	default:
		return fmt.Sprintf("%d rules from %d to %d together", n, by[0].Seq, by[n-1].Seq)
	}
}

// covering is rules among those before h that take all its packets, or nil if
// there are none or it takes too long to find out; preferred ones if they will
// do.
func (c *checker) covering(h *shape, before []*shape, preferred []*Rule) []*Rule {
	// A packet of the rule that no other takes shows that it is needed: most
	// rules are done with here. One rule that takes all takes the first packet.
	for n := range witnesses {
		c.asked++
		w := h.witness(c.asked, c.rng)
		taken := false
		var alone []*Rule
		for _, g := range before {
			if !g.counts(h) || !g.has(w) {
				continue
			}
			taken = true
			if n > 0 {
				break
			}
			if (alone == nil || slices.Contains(preferred, g.rule)) && g.covers(h) {
				if alone = []*Rule{g.rule}; len(preferred) == 0 || slices.Contains(preferred, g.rule) {
					break
				}
			}
		}
		if !taken || alone != nil {
			return alone
		}
	}
	var all []*shape
	for _, g := range before {
		if g.counts(h) {
			all = append(all, g)
		}
	}
	took := c.union(h, all)
	// As few as will do, from the last on: what is more likely to be meant
	// stands before.
	for i := len(took) - 1; i >= 0 && len(took) <= namedRules; i-- {
		fewer := append(append([]*shape(nil), took[:i]...), took[i+1:]...)
		if again := c.union(h, fewer); again != nil {
			took = again
			i = min(i, len(took))
		}
	}
	var rules []*Rule
	for _, g := range took {
		rules = append(rules, g.rule)
	}
	return rules
}

// counts says whether g is there whenever h is.
func (g *shape) counts(h *shape) bool { return g.rule.Time == "" || g.rule.Time == h.rule.Time }

// union is those of the shapes that take something of h, if together they take
// all of it.
func (c *checker) union(h *shape, all []*shape) []*shape {
	left := h.boxes(maxBoxes)
	if left == nil {
		return nil
	}
	budget := boxesPerRule
	var took []*shape
	for _, g := range all {
		var after []box
		takes := false
		for i := range left {
			if !g.meets(&left[i]) {
				after = append(after, left[i])
				continue
			}
			takes = true
			after = left[i].minus(g, after)
			if len(after) > maxBoxes {
				return nil
			}
		}
		budget -= len(left)
		c.budget -= len(left)
		if budget < 0 || c.budget < 0 {
			return nil
		}
		if takes {
			took = append(took, g)
		}
		if left = after; len(left) == 0 {
			return took
		}
	}
	return nil
}

// wildcards looks for subnet masks where wildcards are: 10.0.0.0 255.0.0.0 is
// every address that ends in .0.0.0.
func (c *checker) wildcards(l *List, r *Rule) {
	for _, a := range []*Addrs{&r.Src, &r.Dst} {
		for _, n := range a.Nets {
			wild := ^halves(n.Care)[1] & 0xffffffff
			inverse := ^wild & 0xffffffff
			if l.Family == IPv4 && n.Addr.IsZero() && wild != 0xffffffff && wild != 0 && inverse&(inverse+1) == 0 {
				c.add(Finding{
					Kind: LikelyMask, Pos: r.Pos, List: l, Rule: r,
					Msg: fmt.Sprintf("rule %s: %s matches addresses by their end; a wildcard has its ones where the address does not matter", r.name(l.Family), n.text()),
				})
			}
		}
	}
}

func (c *checker) groups() {
	used := map[string]bool{}
	for _, l := range c.p.Lists {
		for _, r := range l.Rules {
			for _, name := range []string{r.Src.Group, r.Dst.Group, r.SrcPorts.Group, r.DstPorts.Group} {
				used[name] = true
			}
		}
	}
	for _, g := range c.p.Groups {
		for _, name := range g.Groups {
			used[name] = true
		}
	}
	for _, g := range c.p.Groups {
		if len(g.Nets) == 0 && len(g.Ports) == 0 && len(g.Groups) == 0 {
			c.add(Finding{Kind: EmptyGroup, Pos: g.Pos, Msg: fmt.Sprintf("the group %s is empty", g.Name)})
		}
		if !used[g.Name] {
			c.add(Finding{Kind: Unused, Pos: g.Pos, Msg: fmt.Sprintf("nothing refers to the group %s", g.Name)})
		}
	}
}

func (c *checker) times() {
	used := map[string]bool{}
	for _, l := range c.p.Lists {
		for _, r := range l.Rules {
			used[r.Time] = true
		}
	}
	for _, t := range c.p.Times {
		if !used[t.Name] {
			c.add(Finding{Kind: Unused, Pos: t.Pos, Msg: fmt.Sprintf("nothing refers to the time range %s", t.Name)})
		}
		for _, p := range t.Periods {
			if p.To == dayMinutes-1 {
				c.add(Finding{Kind: LastMinute, Pos: t.Pos, Msg: fmt.Sprintf("the time range %s leaves out the last minute of the day; 24:00 is the end of it", t.Name)})
				break
			}
		}
	}
}
