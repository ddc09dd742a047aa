package acl

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"weir/flow"
)

// ImportNft reads what `nft -j list ruleset` prints (libnftables-json(5)). Each
// base chain becomes lists, see docs/access-lists-import.md, and each rule and
// base chain a Report, in the order of the file. The error is of data that is no
// such print.
func ImportNft(name string, data []byte) (*Policy, []Report, error) {
	if len(data) > maxFile {
		return nil, nil, fmt.Errorf("%s: larger than %d MiB", name, maxFile>>20)
	}
	var all struct {
		Nftables []map[string]json.RawMessage `json:"nftables"`
	}
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, nil, fmt.Errorf("%s: not what `nft -j list ruleset` prints: %w", name, err)
	}
	if all.Nftables == nil {
		return nil, nil, fmt.Errorf("%s: not what `nft -j list ruleset` prints: no \"nftables\"", name)
	}
	n := &nftReader{importer: newImporter(), sets: map[string]*nftSet{}}
	// Rules may name what comes behind them.
	for _, o := range all.Nftables {
		if err := n.declare(o); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, o := range all.Nftables {
		raw, ok := o["rule"]
		if !ok {
			continue
		}
		var r nftRule
		if err := json.Unmarshal(raw, &r); err != nil {
			return nil, nil, fmt.Errorf("%s: a rule that is none: %w", name, err)
		}
		n.rule(&r)
	}
	for _, c := range n.order {
		if c.base != nil {
			c.base.whole = c.base.whole && n.tracks
		}
	}
	return n.run()
}

type nftReader struct {
	*importer
	sets   map[string]*nftSet // by family, table and name
	tracks bool               // something asks connection tracking
}

type nftSet struct {
	Family, Name, Table string
	Flags               any
	Elem                []any
	Timeout             float64
	group               string // its group's name, once there is one
}

type nftChain struct {
	Family, Table, Name, Type, Hook, Policy string
	Handle                                  uint64
	Prio                                    int
	Dev                                     any
}

type nftRule struct {
	Family, Table, Chain, Comment string
	Handle                        uint64
	Expr                          []map[string]any
}

// key is how things of a table are known.
func nftKey(family, table, name string) string { return family + " " + table + " " + name }

// tableFamilies are the address families that tables of a family see.
var tableFamilies = map[string]uint8{
	"ip": 1 << IPv4, "ip6": 1 << IPv6, "inet": 1<<IPv4 | 1<<IPv6, "bridge": 1<<IPv4 | 1<<IPv6, "netdev": 1<<IPv4 | 1<<IPv6,
}

// defragPriority is where connection tracking puts fragments together.
const defragPriority = -400

// declare reads a chain or a set.
func (n *nftReader) declare(o map[string]json.RawMessage) error {
	if raw, ok := o["chain"]; ok {
		var c nftChain
		if err := json.Unmarshal(raw, &c); err != nil {
			return fmt.Errorf("a chain that is none: %w", err)
		}
		ch := n.chainOf(c.Family, c.Table, c.Name)
		if c.Hook == "" || ch.base != nil {
			return nil
		}
		self := &foreign{report: Report{Chain: ch.key, Handle: c.Handle, Text: fmt.Sprintf("type %s hook %s priority %d; policy %s", c.Type, c.Hook, c.Prio, c.Policy)}}
		n.all = append(n.all, self)
		ch.base = &base{
			hook: c.Hook, policy: accept, families: tableFamilies[c.Family], filters: c.Type != "nat", self: self, devices: nftWords(c.Dev),
			whole: c.Family != "netdev" && c.Family != "bridge" && c.Prio > defragPriority,
		}
		if c.Policy == "drop" {
			ch.base.policy = drop
		}
		if c.Type == "nat" {
			n.tracks = true
		}
		if ch.base.families == 0 {
			self.refuse("a table of the family " + quote(c.Family) + " sees no IP")
			ch.base = nil
		}
	}
	for _, kind := range []string{"set", "map"} {
		if raw, ok := o[kind]; ok {
			var s nftSet
			if err := json.Unmarshal(raw, &s); err != nil {
				return fmt.Errorf("a %s that is none: %w", kind, err)
			}
			n.sets[nftKey(s.Family, s.Table, s.Name)] = &s
		}
	}
	if raw, ok := o["element"]; ok {
		var e nftSet
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("an element that is none: %w", err)
		}
		if s := n.sets[nftKey(e.Family, e.Table, e.Name)]; s != nil {
			s.Elem = append(s.Elem, e.Elem...)
		}
	}
	return nil
}

// nftWords is a word, or a list of words.
func nftWords(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var all []string
		for _, w := range v {
			all = append(all, nftWords(w)...)
		}
		return all
	}
	return nil
}

func (n *nftReader) chainOf(family, table, name string) *chain {
	key := nftKey(family, table, name)
	c := n.chains[key]
	if c == nil {
		c = &chain{key: key, name: name}
		n.chains[key] = c
		n.order = append(n.order, c)
	}
	return c
}

// rule reads a rule into its chain.
func (n *nftReader) rule(in *nftRule) {
	c := n.chainOf(in.Family, in.Table, in.Chain)
	r := &foreign{chain: c, report: Report{Chain: c.key, Handle: in.Handle, Text: nftRuleText(in)}}
	n.all = append(n.all, r)
	c.rules = append(c.rules, r)
	if s := strings.TrimSpace(in.Comment); printable(s) && len(s) <= maxText {
		r.remark = s
	}
	if tableFamilies[in.Family] == 0 {
		r.refuse("a table of the family " + quote(in.Family) + " sees no IP")
		return
	}
	first := arm{term: anyTerm()}
	first.term.families = tableFamilies[in.Family]
	s := statements{nftReader: n, rule: in, r: r, arms: []arm{first}}
	for _, e := range in.Expr {
		for name, v := range e {
			s.statement(name, v)
		}
	}
	s.finish()
}

// statements is a rule while it is read.
type statements struct {
	*nftReader
	rule    *nftRule
	r       *foreign
	arms    []arm
	decided bool // there is a verdict
	logs    bool
	match   strings.Builder
}

// finish gives the rule its arms.
func (s *statements) finish() {
	r := s.r
	r.match = s.match.String()
	switch {
	case s.decided:
		r.arms = s.arms
		for i := range r.arms {
			if s.logs {
				r.arms[i].term.log = LogFlow
			}
			for j := range r.arms[i].term.notes {
				r.arms[i].term.notes[j].of = r
			}
			if r.arms[i].term.state != stateAny {
				r.arms[i].term.asked = []*foreign{r}
			}
		}
	case s.logs:
		r.logs = true
	case !r.refused:
		r.report.say("it decides nothing")
	}
}

// statement reads one part of a rule.
func (s *statements) statement(name string, v any) {
	switch name {
	case "match":
		m, _ := v.(map[string]any)
		s.match.WriteString(nftText(v) + " ")
		op, _ := m["op"].(string)
		terms, err := s.terms(m["left"], op, m["right"])
		if err != nil {
			s.r.refuse(err.Error())
			return
		}
		s.cut(terms)
	case "vmap":
		s.vmap(v)
	case "accept", "drop", "continue", "return", "jump", "goto":
		s.verdict(name, v)
	case "reject":
		s.reject(v)
	case "counter", "comment", "notrack", "last":
	case "log":
		s.logs = true
	case "mangle", "set", "map", "flow", "dup", "secmark", "ct helper", "ct timeout", "ct expectation":
		s.r.note(note{why: "a list decides and changes nothing: without " + name})
	case "snat", "dnat", "masquerade", "redirect":
		s.tracks = true
		s.decided = true
		s.setVerdict(arm{verdict: accept})
		s.r.refuse("a list translates no addresses")
	case "queue":
		s.decided = true
		s.setVerdict(arm{verdict: giveBack}) // may be either
		s.r.refuse("a program decides: " + nftStatement(name, v))
	case "limit":
		s.r.refuse("a list counts no packets against a rate")
	default:
		s.r.refuse("a list has nothing like " + nftStatement(name, v))
	}
}

// armCost and netCost are what keeping an arm or a network costs, in steps: there
// is to be memory for all that a budget buys.
const (
	armCost = 16
	netCost = 8
)

// cut leaves of each arm what is in one of the terms.
func (s *statements) cut(terms []term) {
	if len(terms)*len(s.arms) > maxParts {
		s.r.refuse(errParts.Error())
		return
	}
	var arms []arm
	for i := range s.arms {
		for j := range terms {
			t, err := s.and(&s.arms[i].term, &terms[j], s.nets)
			if err != nil {
				s.r.refuse(err.Error())
				return
			}
			if !t.empty() {
				a := s.arms[i]
				a.term = t
				arms = append(arms, a)
				err = s.spend(armCost)
			}
			if err != nil {
				s.r.refuse(err.Error())
				return
			}
		}
	}
	s.arms = arms
}

func (s *statements) setVerdict(v arm) {
	s.decided = true
	for i := range s.arms {
		a := &s.arms[i]
		a.verdict, a.target, a.reject = v.verdict, v.target, v.reject
	}
}

// verdictOf reads a verdict.
func (s *statements) verdictOf(name string, v any) (a arm, ok bool) {
	switch name {
	case "accept":
		a.verdict = accept
	case "drop":
		a.verdict = drop
	case "return":
		a.verdict = giveBack
	case "continue":
	case "jump", "goto":
		a.verdict = jump
		if name == "goto" {
			a.verdict = goTo
		}
		m, _ := v.(map[string]any)
		target, ok := m["target"].(string)
		if !ok {
			return a, false
		}
		a.target = nftKey(s.rule.Family, s.rule.Table, target)
	default:
		return a, false
	}
	return a, true
}

func (s *statements) verdict(name string, v any) {
	a, ok := s.verdictOf(name, v)
	if !ok {
		s.r.refuse("a " + name + " to nowhere")
		return
	}
	if a.verdict != goOn {
		s.setVerdict(a)
	}
}

// answers is how a list rejects.
const answers = "a list answers TCP by RST, and the rest by ICMP's administratively prohibited"

func (s *statements) reject(v any) {
	m, _ := v.(map[string]any)
	kind, _ := m["type"].(string)
	with, _ := m["expr"].(string)
	t := anyTerm()
	switch kind {
	case "tcp reset":
		t.proto = octetSet(flow.ProtoTCP)
	case "icmp":
		t.families = 1 << IPv4
	case "icmpv6":
		t.families = 1 << IPv6
	}
	s.cut([]term{t})
	s.setVerdict(arm{verdict: drop, reject: true})
	for i := range s.arms {
		tcp := s.arms[i].term.proto.has(flow.ProtoTCP)
		if kind != "tcp reset" && (tcp || with != "admin-prohibited") {
			s.r.note(note{why: answers})
		}
	}
}

// vmap reads a map of verdicts.
func (s *statements) vmap(v any) {
	m, _ := v.(map[string]any)
	s.match.WriteString(nftText(m["key"]) + " ")
	elems, err := s.elements(m["data"])
	if err != nil {
		s.r.refuse(err.Error())
		return
	}
	if s.dynamic(m["data"]) {
		s.r.note(note{why: snapshot, more: true, less: true})
	}
	before := s.arms
	var all []arm
	var star *arm
	plain := true
	for _, e := range elems {
		pair, _ := e.([]any)
		if len(pair) != 2 {
			s.r.refuse("a map that is none of verdicts")
			return
		}
		to, _ := pair[1].(map[string]any)
		var a arm
		ok := false
		for name, v := range to {
			a, ok = s.verdictOf(name, v)
		}
		if !ok || len(to) != 1 {
			s.r.refuse("a map that is none of verdicts")
			return
		}
		plain = plain && (a.verdict == accept || a.verdict == drop)
		key := element(pair[0])
		if key == "*" {
			star = &a
			continue
		}
		terms, err := s.terms(m["key"], "==", key)
		if err != nil {
			s.r.refuse(err.Error())
			return
		}
		s.arms = before
		s.cut(terms)
		s.setVerdict(a)
		if all = append(all, slices.Clone(s.arms)...); len(all) > maxParts {
			s.r.refuse(errParts.Error())
			return
		}
	}
	if star != nil {
		if !plain {
			s.r.refuse("a map with jumps for some, and a verdict for the rest")
			return
		}
		s.arms = before
		s.setVerdict(*star)
		all = append(all, s.arms...)
	}
	s.arms = all
	s.decided = true
}

const snapshot = "the set changes while the kernel runs: what is in it now is taken"

// dynamic says whether v is a named set that changes by itself.
func (s *statements) dynamic(v any) bool {
	set := s.named(v)
	if set == nil {
		return false
	}
	flags := nftWords(set.Flags)
	return slices.Contains(flags, "dynamic") || slices.Contains(flags, "timeout") || set.Timeout > 0
}

// named is the set that @NAME names, or nil.
func (s *statements) named(v any) *nftSet {
	if name, ok := v.(string); ok && strings.HasPrefix(name, "@") {
		return s.sets[nftKey(s.rule.Family, s.rule.Table, name[1:])]
	}
	return nil
}

// elements is what is in a set: a named one, or one that is written out.
func (s *statements) elements(v any) ([]any, error) {
	if m, ok := v.(map[string]any); ok {
		if all, ok := m["set"].([]any); ok {
			return all, s.spend(len(all))
		}
	}
	if set := s.named(v); set != nil {
		return set.Elem, s.spend(len(set.Elem))
	}
	return nil, fmt.Errorf("there is no set %s", nftText(v))
}

// element is the value of one, without what the kernel keeps beside it.
func element(v any) any {
	if m, ok := v.(map[string]any); ok {
		if e, ok := m["elem"].(map[string]any); ok {
			return e["val"]
		}
	}
	return v
}

// isSet says whether v is a set.
func isSet(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.HasPrefix(v, "@")
	case map[string]any:
		_, ok := v["set"]
		return ok
	}
	return false
}

// sole is the value of a map with one key.
func sole(v any, key string) (any, bool) {
	m, _ := v.(map[string]any)
	w, ok := m[key]
	return w, ok && len(m) == 1
}

// terms reads a condition.
func (s *statements) terms(left any, op string, right any) ([]term, error) {
	if s.dynamic(right) {
		s.r.note(note{why: snapshot, more: true, less: true})
	}
	if v, ok := sole(left, "concat"); ok {
		fields, _ := v.([]any)
		return s.concat(fields, op, right)
	}
	f, err := s.field(left)
	if err != nil {
		return nil, err
	}
	t := anyTerm()
	t.notes = f.notes
	if err := f.term(s, &t, op, right); err != nil {
		return nil, err
	}
	return []term{t}, nil
}

// concat reads several things that are asked for at once: each element of the
// set has a part for each.
func (s *statements) concat(fields []any, op string, right any) ([]term, error) {
	elems := []any{right}
	if isSet(right) {
		var err error
		if elems, err = s.elements(right); err != nil {
			return nil, err
		}
	}
	if op != "==" && op != "in" {
		return nil, errors.New("all but some combinations is no rule of a list")
	}
	if len(elems) > maxParts {
		return nil, errParts
	}
	var all []term
	for _, e := range elems {
		v, _ := sole(element(e), "concat")
		values, _ := v.([]any)
		if len(values) != len(fields) || len(fields) == 0 {
			return nil, fmt.Errorf("an element with other parts than asked for: %s", nftText(e))
		}
		t := anyTerm()
		for i := range fields {
			terms, err := s.terms(fields[i], "==", values[i])
			if err != nil {
				return nil, err
			}
			if len(terms) != 1 {
				return nil, errors.New("combinations within combinations")
			}
			if t, err = s.and(&t, &terms[0], s.nets); err != nil {
				return nil, err
			}
		}
		all = append(all, t)
	}
	return all, nil
}

// nftField is something that can be asked for.
type nftField struct {
	limit    int    // the highest number there is
	names    *table // of numbers
	bits     bool   // a set of bits, rather than a number
	mask     int    // of the bits asked for; 0: all
	cost     int    // of a range, in steps
	families uint8  // that have it; 0: both
	fragment bool   // flags and offset of an IPv4 fragment
	traffic  bool   // two octets with the traffic class in them
	notes    []note
	// put asks t for numbers; the others are for what is no number.
	put   func(t *term, ranges []Range) error
	addrs func(t *term) *addrSet
	care  *flow.Addr // the bits of addresses that count; nil: all
	iface func(t *term, i ifaces)
}

// term asks t for what a condition says.
func (f *nftField) term(s *statements, t *term, op string, right any) error {
	if f.families != 0 {
		t.families &= f.families
	}
	switch {
	case f.iface != nil:
		return f.interfaces(s, t, op, right)
	case f.addrs != nil:
		return f.addresses(s, t, op, right)
	}
	var ranges []Range
	if (op == "in" || op == "!") && f.bits {
		v, err := f.value(right)
		if err != nil {
			return err
		}
		for n := range f.limit + 1 {
			if n&v != 0 == (op == "in") {
				ranges = append(ranges, Range{uint16(n), uint16(n)})
			}
		}
		return f.put(t, sortRanges(ranges))
	}
	ranges, err := f.numbers(s, right, 0)
	if err != nil {
		return err
	}
	ranges = sortRanges(ranges)
	if err := s.spend(f.cost * len(ranges)); err != nil {
		return err
	}
	at := Range{}
	if len(ranges) > 0 {
		at = ranges[0]
	}
	switch op {
	case "==", "in":
	case "!=":
		ranges = complement(ranges, f.limit)
	case "<":
		ranges = complement([]Range{{at.From, uint16(f.limit)}}, f.limit)
	case "<=":
		ranges = []Range{{0, at.To}}
	case ">":
		ranges = complement([]Range{{0, at.To}}, f.limit)
	case ">=":
		ranges = []Range{{at.From, uint16(f.limit)}}
	default:
		return fmt.Errorf("a comparison by %s", quote(op))
	}
	if f.mask != 0 {
		if f.limit > 255 {
			return errors.New("bits of a number")
		}
		// Compared is what is left under the mask.
		masked := setOf(func(v uint8) bool { return within(ranges, uint32(int(v)&f.mask)) })
		ranges = masked.and(setOfRanges([]Range{{0, uint16(f.limit)}})).ranges()
	}
	if ranges == nil {
		ranges = []Range{}
	}
	return f.put(t, ranges)
}

// value reads one number.
func (f *nftField) value(v any) (int, error) {
	switch v := v.(type) {
	case float64:
		if v >= 0 && v < 1<<32 && v == float64(int(v)) {
			return int(v), nil
		}
	case string:
		if n, ok := f.names.byName[v]; ok {
			return n, nil
		}
		if n, err := strconv.ParseUint(v, 0, 32); err == nil {
			return int(n), nil
		}
	case []any:
		return f.or(v)
	case map[string]any:
		if all, ok := sole(v, "|"); ok {
			if all, ok := all.([]any); ok {
				return f.or(all)
			}
		}
	}
	return 0, fmt.Errorf("a value that is not known: %s", nftText(v))
}

// or is several values in one.
func (f *nftField) or(all []any) (int, error) {
	sum := 0
	for _, v := range all {
		// Deeper only as far as `a | b | c` of nft goes.
		n, err := f.value(v)
		if err != nil {
			return 0, err
		}
		sum |= n
	}
	return sum, nil
}

// numbers reads a number, a range, or a set of these. What is above the limit is
// clipped.
func (f *nftField) numbers(s *statements, v any, depth int) ([]Range, error) {
	v = element(v)
	if isSet(v) || !f.bits && isList(v) {
		if depth > 0 {
			return nil, errors.New("a set within a set")
		}
		elems, ok := v.([]any)
		if !ok {
			var err error
			if elems, err = s.elements(v); err != nil {
				return nil, err
			}
		}
		var all []Range
		for _, e := range elems {
			r, err := f.numbers(s, e, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, r...)
		}
		return all, nil
	}
	if v == "*" && depth > 0 {
		return []Range{{0, uint16(f.limit)}}, nil
	}
	if ends, ok := sole(v, "range"); ok {
		ends, _ := ends.([]any)
		if len(ends) != 2 {
			return nil, errors.New("a range without two ends")
		}
		from, err := f.value(ends[0])
		if err != nil {
			return nil, err
		}
		to, err := f.value(ends[1])
		if err != nil {
			return nil, err
		}
		if from > to || from > f.limit {
			return nil, fmt.Errorf("a range from %d to %d", from, to)
		}
		return []Range{{uint16(from), uint16(min(to, f.limit))}}, nil
	}
	n, err := f.value(v)
	if err != nil {
		return nil, err
	}
	if n > f.limit {
		return nil, fmt.Errorf("the number %d; accepted: up to %d", n, f.limit)
	}
	return []Range{{uint16(n), uint16(n)}}, nil
}

func isList(v any) bool {
	_, ok := v.([]any)
	return ok
}

func (f *nftField) interfaces(s *statements, t *term, op string, right any) error {
	if op != "==" && op != "!=" && op != "in" {
		return fmt.Errorf("a comparison by %s", quote(op))
	}
	elems := []any{right}
	if isSet(right) {
		var err error
		if elems, err = s.elements(right); err != nil {
			return err
		}
	}
	cond := ifaces{not: op == "!="}
	for _, e := range elems {
		name, ok := element(e).(string)
		if !ok {
			return fmt.Errorf("an interface without a name: %s", nftText(e))
		}
		cond.names = append(cond.names, name)
	}
	f.iface(t, cond)
	return nil
}

func (f *nftField) addresses(s *statements, t *term, op string, right any) error {
	family := IPv4
	if f.families == 1<<IPv6 {
		family = IPv6
	}
	at := f.addrs(t)
	if f.care != nil {
		return f.caring(at, op, right, family)
	}
	if set := s.named(right); set != nil && op == "==" {
		name, err := s.group(set, f, family)
		if err != nil {
			return err
		}
		*at = addrSet{group: name}
		return nil
	}
	nets, err := f.nets(s, right, family, 0)
	if err == nil {
		err = mapped(nets, family)
	}
	if err != nil {
		return err
	}
	switch op {
	case "==", "in":
	case "!=":
		if nets, err = s.inverse(nets, family); err != nil {
			return err
		}
	case "<", "<=", ">", ">=":
		if len(nets) != 1 {
			return errors.New("addresses compared with several")
		}
		from, to := firstAddr[family], nets[0].Addr.Netip()
		switch op {
		case "<":
			to = to.Prev()
		case ">":
			from, to = to.Next(), finalAddr[family]
		case ">=":
			from, to = to, finalAddr[family]
		}
		if !from.IsValid() || !to.IsValid() {
			nets = nil
			break
		}
		nets = rangeNets(from, to)
		if err := mapped(nets, family); err != nil {
			return err
		}
	default:
		return fmt.Errorf("a comparison by %s", quote(op))
	}
	*at = addrSet{nets: nets, any: anyNets(nets)}
	return nil
}

// caring reads addresses of which only some bits count.
func (f *nftField) caring(at *addrSet, op string, right any, family Family) error {
	a, ok := nftAddr(right, family)
	if !ok || op != "==" && op != "!=" {
		return errors.New("bits of addresses compared otherwise than with one")
	}
	n := NewNet(flow.AddrFrom(a), *f.care)
	if n.Addr != flow.AddrFrom(a) {
		return errors.New("bits of addresses compared with one that has others")
	}
	nets := []Net{n}
	if op == "!=" {
		c := cubeOf(n)
		nets = nil
		for _, rest := range anyNet[family].minus(&c, nil) {
			nets = append(nets, netOf(&rest))
		}
	}
	*at = addrSet{nets: nets, any: anyNets(nets)}
	return mapped(nets, family)
}

// maskedAddrs is f where only the bits of a mask count.
func maskedAddrs(f *nftField, mask any) (*nftField, error) {
	family := IPv4
	if f.families == 1<<IPv6 {
		family = IPv6
	}
	m, ok := nftAddr(mask, family)
	if !ok {
		return nil, fmt.Errorf("a mask that is none: %s", nftText(mask))
	}
	wild := m.AsSlice()
	for i := range wild {
		wild[i] = ^wild[i]
	}
	w, _ := netip.AddrFromSlice(wild)
	n := wildcardNet(m, w)
	f.care = &n.Care
	return f, nil
}

// anyNets says whether one of the nets is all addresses of its family.
func anyNets(nets []Net) bool {
	return slices.ContainsFunc(nets, func(n Net) bool { return n == NetFrom(allAddrs[n.Family()]) })
}

var allAddrs = [...]netip.Prefix{IPv4: netip.PrefixFrom(firstAddr[IPv4], 0), IPv6: netip.PrefixFrom(firstAddr[IPv6], 0)}

// nets reads an address, a prefix, a range, or a set of these.
func (f *nftField) nets(s *statements, v any, family Family, depth int) ([]Net, error) {
	v = element(v)
	if isSet(v) {
		if depth > 0 {
			return nil, errors.New("a set within a set")
		}
		elems, err := s.elements(v)
		if err != nil {
			return nil, err
		}
		var all []Net
		for _, e := range elems {
			nets, err := f.nets(s, e, family, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, nets...)
		}
		return all, nil
	}
	if v == "*" && depth > 0 {
		return []Net{NetFrom(allAddrs[family])}, nil
	}
	if ends, ok := sole(v, "range"); ok {
		ends, _ := ends.([]any)
		if len(ends) == 2 {
			from, ok1 := nftAddr(ends[0], family)
			to, ok2 := nftAddr(ends[1], family)
			if ok1 && ok2 && !to.Less(from) {
				nets := rangeNets(from, to)
				return nets, s.spend(netCost * len(nets))
			}
		}
		return nil, fmt.Errorf("a range that is none: %s", nftText(v))
	}
	if p, ok := sole(v, "prefix"); ok {
		m, _ := p.(map[string]any)
		a, ok := nftAddr(m["addr"], family)
		n, isNumber := m["len"].(float64)
		if ok && isNumber && n >= 0 && int(n) <= a.BitLen() {
			return []Net{NetFrom(netip.PrefixFrom(a, int(n)).Masked())}, nil
		}
		return nil, fmt.Errorf("a prefix that is none: %s", nftText(v))
	}
	a, ok := nftAddr(v, family)
	if !ok {
		return nil, fmt.Errorf("an address that is none: %s", nftText(v))
	}
	return []Net{NetFrom(netip.PrefixFrom(a, a.BitLen()))}, nil
}

// nftAddr reads an address of a family.
func nftAddr(v any, family Family) (netip.Addr, bool) {
	s, _ := v.(string)
	a, ok := parseAddr(s)
	return a, ok && a.Is4() == (family == IPv4)
}

// group makes a named set one of the policy's groups.
func (s *statements) group(set *nftSet, f *nftField, family Family) (string, error) {
	if set.group != "" {
		return set.group, nil
	}
	nets, err := f.nets(s, "@"+set.Name, family, 0)
	if err == nil {
		err = mapped(nets, family)
	}
	if err != nil {
		return "", err
	}
	name := listName(set.Name)
	if s.groups[name] != nil {
		name = listName(set.Table + "-" + set.Name)
	}
	for i := 2; s.groups[name] != nil; i++ {
		name = listName(fmt.Sprintf("%d-%s", i, set.Name))
	}
	s.groups[name] = &Group{Name: name, Nets: nets}
	set.group = name
	return name, nil
}
