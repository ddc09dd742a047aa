package acl

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ChangeKind says what became of something.
type ChangeKind uint8

const (
	Added ChangeKind = iota
	Removed
	Changed    // a rule of the same number, or a group, time range or binding of the same name
	Moved      // a rule that other rules have overtaken
	Renumbered // a rule whose number alone is another
)

func (k ChangeKind) String() string {
	return [...]string{"added", "removed", "changed", "moved", "renumbered"}[min(k, Renumbered)]
}

// Change is one difference between two policies.
type Change struct {
	Kind     ChangeKind
	In       string // the line that what changed stands under: the head of a list, group, time range or interface
	Old, New *Rule  // of a rule; nil: not there, or not about a rule
	// Was and Is are the lines that went and that came.
	Was, Is []string
}

// Diff is what makes new of old: lists with their rules, then groups, time
// ranges and bindings. Rules are the same if they say the same; what moved or
// has another number is told as such.
func Diff(old, new *Policy) []Change {
	var all []Change
	before, after := old.byName(), new.byName()
	for _, l := range old.Lists {
		if after[listKey{l.Name, l.Family}] == nil {
			all = append(all, Change{Kind: Removed, In: l.head(), Was: []string{l.head()}})
			all = append(all, diffRules(l, &List{Name: l.Name, Family: l.Family})...)
		}
	}
	for _, l := range new.Lists {
		was := before[listKey{l.Name, l.Family}]
		if was == nil {
			was = &List{Name: l.Name, Family: l.Family}
			all = append(all, Change{Kind: Added, In: l.head(), Is: []string{l.head()}})
		}
		all = append(all, diffRules(was, l)...)
	}
	all = append(all, diffBlocks(blocks(old), blocks(new))...)
	return all
}

// AppendDiff appends changes as text: a head, and under it lines with - for what
// went, + for what came, > for what moved and = for what has another number.
func AppendDiff(dst []byte, changes []Change) []byte {
	in := ""
	line := func(mark, s string) { dst = append(append(append(dst, mark...), s...), '\n') }
	for _, c := range changes {
		if len(c.Was) > 0 && c.Was[0] == c.In || len(c.Is) > 0 && c.Is[0] == c.In {
			in = c.In // told by the line itself
		}
		if c.In != in {
			line("  ", c.In)
			in = c.In
		}
		switch c.Kind {
		case Moved, Renumbered:
			mark := map[ChangeKind]string{Moved: "> ", Renumbered: "= "}[c.Kind]
			line(mark, fmt.Sprintf("%s (was %d)", c.Is[len(c.Is)-1], c.Old.Seq))
		default:
			for _, s := range c.Was {
				line("- ", s)
			}
			for _, s := range c.Is {
				line("+ ", s)
			}
		}
	}
	return dst
}

// lines are r's remarks and r with its number.
func (r *Rule) lines(f Family) []string {
	return append(remarkLines(r.Remarks), strconv.FormatUint(uint64(r.Seq), 10)+" "+r.Cisco(f))
}

func remarkLines(remarks []string) []string {
	var all []string
	for _, s := range remarks {
		all = append(all, strings.TrimSpace("remark "+s))
	}
	return all
}

// pair is a rule before and after.
type pair struct{ old, new *Rule }

func diffRules(old, new *List) []Change {
	f, head := new.Family, new.head()
	pairs, gone, come := match(old, new)
	moved := overtaken(old, new, pairs)
	var all []Change
	add := func(k ChangeKind, p pair) {
		c := Change{Kind: k, In: head, Old: p.old, New: p.new}
		if p.old != nil {
			c.Was = p.old.lines(f)
		}
		if p.new != nil {
			c.Is = p.new.lines(f)
		}
		all = append(all, c)
	}
	for _, p := range pairs {
		switch {
		case moved[p]:
			add(Moved, p)
		case p.old.Seq != p.new.Seq:
			add(Renumbered, p)
		}
		if was, is := lineDiff(remarkLines(p.old.Remarks), remarkLines(p.new.Remarks)); len(was)+len(is) > 0 {
			all = append(all, Change{Kind: Changed, In: head, Old: p.old, New: p.new, Was: was, Is: is})
		}
	}
	bySeq := map[uint32]*Rule{}
	for _, r := range gone {
		bySeq[r.Seq] = r
	}
	for _, r := range come {
		if was := bySeq[r.Seq]; was != nil {
			add(Changed, pair{was, r})
			delete(bySeq, r.Seq)
		} else {
			add(Added, pair{nil, r})
		}
	}
	for _, r := range gone {
		if bySeq[r.Seq] != nil {
			add(Removed, pair{r, nil})
		}
	}
	slices.SortStableFunc(all, func(a, b Change) int { return cmp.Or(cmp.Compare(a.seq(), b.seq()), cmp.Compare(b.Kind, a.Kind)) })
	if was, is := lineDiff(remarkLines(old.Remarks), remarkLines(new.Remarks)); len(was)+len(is) > 0 {
		all = append(all, Change{Kind: Changed, In: head, Was: was, Is: is})
	}
	return all
}

// seq is where a change is told among others.
func (c *Change) seq() uint32 {
	if c.New != nil {
		return c.New.Seq
	}
	return c.Old.Seq
}

// match finds the rules that say the same before and after, those of the same
// number first.
func match(old, new *List) (pairs []pair, gone, come []*Rule) {
	says := map[string][]*Rule{} // what is left of old
	numbers := map[uint32]*Rule{}
	text := map[*Rule]string{}
	for _, r := range old.Rules {
		text[r] = r.Cisco(old.Family)
		numbers[r.Seq] = r
	}
	taken := map[*Rule]*Rule{}
	partner := map[*Rule]*Rule{}
	for _, r := range new.Rules {
		text[r] = r.Cisco(new.Family)
		if was := numbers[r.Seq]; was != nil && text[was] == text[r] {
			taken[was], partner[r] = r, was
		}
	}
	for _, r := range old.Rules {
		if taken[r] == nil {
			says[text[r]] = append(says[text[r]], r)
		}
	}
	for _, r := range new.Rules {
		if left := says[text[r]]; partner[r] == nil && len(left) > 0 {
			taken[left[0]], partner[r] = r, left[0]
			says[text[r]] = left[1:]
		}
		if was := partner[r]; was != nil {
			pairs = append(pairs, pair{was, r})
		} else {
			come = append(come, r)
		}
	}
	for _, r := range old.Rules {
		if taken[r] == nil {
			gone = append(gone, r)
		}
	}
	return pairs, gone, come
}

// overtaken is the fewest pairs without which the rest is in the same order
// before and after: those that are not in a longest ascending sequence.
func overtaken(old, new *List, pairs []pair) map[pair]bool {
	index := map[*Rule]int{}
	for i, r := range old.Rules {
		index[r] = i
	}
	var tails []int                 // the pair that ends the best sequence of each length
	prev := make([]int, len(pairs)) // the one before it there
	for i, p := range pairs {
		n, _ := slices.BinarySearchFunc(tails, index[p.old], func(t, at int) int { return cmp.Compare(index[pairs[t].old], at) })
		prev[i] = -1
		if n > 0 {
			prev[i] = tails[n-1]
		}
		if n == len(tails) {
			tails = append(tails, i)
		} else {
			tails[n] = i
		}
	}
	moved := map[pair]bool{}
	for _, p := range pairs {
		moved[p] = true
	}
	if len(tails) > 0 {
		for i := tails[len(tails)-1]; i >= 0; i = prev[i] {
			delete(moved, pairs[i])
		}
	}
	return moved
}

// lineDiff is the lines that are in one only, as often as they are there more;
// all of them where the order alone differs.
func lineDiff(old, new []string) (was, is []string) {
	if slices.Equal(old, new) {
		return nil, nil
	}
	n := map[string]int{}
	for _, s := range new {
		n[s]++
	}
	for _, s := range old {
		if n[s]--; n[s] < 0 {
			was = append(was, s)
		}
	}
	n = map[string]int{}
	for _, s := range old {
		n[s]++
	}
	for _, s := range new {
		if n[s]--; n[s] < 0 {
			is = append(is, s)
		}
	}
	if len(was)+len(is) == 0 {
		return old, new
	}
	return was, is
}

// part is a group, a time range or a binding, as lines.
type part struct {
	head  string
	lines []string
}

// blocks are all that is no list, by what tells one from another.
func blocks(p *Policy) []part {
	var all []part
	add := func(w ciscoWriter) {
		lines := strings.Split(strings.TrimSuffix(string(w.dst), "\n!\n"), "\n")
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		all = append(all, part{lines[0], lines[1:]})
	}
	for _, g := range p.Groups {
		var w ciscoWriter
		w.group(g)
		add(w)
	}
	for _, t := range p.Times {
		var w ciscoWriter
		w.time(t)
		add(w)
	}
	at := map[string]int{}
	for _, b := range p.Bindings {
		head := "interface " + b.Interface
		i, ok := at[head]
		if !ok {
			i = len(all)
			at[head] = i
			all = append(all, part{head: head})
		}
		all[i].lines = append(all[i].lines, b.text())
	}
	return all
}

func diffBlocks(old, new []part) []Change {
	was := map[string]*part{}
	for i := range old {
		was[old[i].head] = &old[i]
	}
	var all []Change
	for _, n := range new {
		o := was[n.head]
		delete(was, n.head)
		if o == nil {
			all = append(all, Change{Kind: Added, In: n.head, Is: append([]string{n.head}, n.lines...)})
			continue
		}
		if gone, come := lineDiff(o.lines, n.lines); len(gone)+len(come) > 0 {
			all = append(all, Change{Kind: Changed, In: n.head, Was: gone, Is: come})
		}
	}
	for _, o := range old {
		if was[o.head] != nil {
			all = append(all, Change{Kind: Removed, In: o.head, Was: append([]string{o.head}, o.lines...)})
		}
	}
	return all
}
