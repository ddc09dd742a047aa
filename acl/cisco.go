package acl

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const maxSeq = 1<<31 - 1 // of a rule

// ReadCisco reads access lists, and what belongs to them, as Cisco IOS prints
// and takes them. name stands in positions. The error is an Errors.
//
// Every line has a meaning or is an error; docs/access-lists.md has them all.
func ReadCisco(name string, data []byte) (*Policy, error) {
	if err := checkText(name, data); err != nil {
		return nil, err
	}
	r := newReader(name)
	c := ciscoReader{reader: r}
	for no, text := 1, string(data); text != ""; no++ {
		var s string
		s, text, _ = strings.Cut(text, "\n")
		l := newLine(strings.TrimSuffix(s, "\r"), Pos{name, no, 1})
		l.places = r.places
		if len(l.toks) == 0 || l.toks[0].text[0] == '!' {
			continue
		}
		c.line(l)
		if l.err != nil {
			r.errs = append(r.errs, l.err)
		}
		if r.errs.enough() {
			return nil, r.errs.err()
		}
	}
	return r.policy()
}

// checkText refuses what is not text, at the first octet that is not.
func checkText(name string, data []byte) error {
	if len(data) > maxFile {
		return Errors{{Pos{File: name}, fmt.Sprintf("larger than %d MiB: no access lists", maxFile>>20)}}
	}
	line, start := 1, 0
	for i := 0; i < len(data); {
		c, size := rune(data[i]), 1
		if c >= utf8.RuneSelf {
			c, size = utf8.DecodeRune(data[i:])
		}
		switch {
		case c == '\n':
			line, start = line+1, i+1
		case c == '\r' && i+1 < len(data) && data[i+1] == '\n', c == '\t':
		case c < ' ' || c == 0x7f || c == utf8.RuneError || c >= 0x80 && c < 0xa0 || c == '\u2028' || c == '\u2029':
			return Errors{{Pos{name, line, i - start + 1}, fmt.Sprintf("found the octet 0x%02x; accepted: text", data[i])}}
		}
		i += size
	}
	return nil
}

// reader gathers a policy, in either language.
type reader struct {
	name   string
	p      *Policy
	errs   Errors
	places places
	lists  map[listKey]*listReader
	groups map[string]*groupReader
	times  map[string]*TimeRange
}

type listKey struct {
	name   string
	family Family
}

// listReader is a list that is being read.
type listReader struct {
	*List
	standard bool
	last     uint32 // the greatest sequence number
	bySeq    map[uint32]*Rule
	remarks  []string         // for the next rule
	numbered []numberedRemark // each for the first rule that has its number or a greater one
}

type numberedRemark struct {
	seq  uint32
	text string
}

// groupReader is a group that is being read, and the protocols that IOS lets
// its lines name. The policy keeps ports alone: a rule has the protocol.
type groupReader struct {
	*Group
	proto   string // "": none said; tcp, udp, tcp-udp
	byProto []use
}

// use is a rule that takes its protocol or its ports from a service group.
type use struct {
	r     *Rule
	proto bool
	at    Pos
}

func newReader(name string) *reader {
	return &reader{
		name: name, p: &Policy{}, places: places{},
		lists: map[listKey]*listReader{}, groups: map[string]*groupReader{}, times: map[string]*TimeRange{},
	}
}

// list is the list of a name, made if it is not there.
func (r *reader) list(name string, f Family, at Pos) *listReader {
	key := listKey{name, f}
	l := r.lists[key]
	if l == nil {
		l = &listReader{List: &List{Name: name, Family: f, Pos: at}, bySeq: map[uint32]*Rule{}}
		r.lists[key] = l
		r.p.Lists = append(r.p.Lists, l.List)
	}
	return l
}

// add puts a rule into a list, with a number or behind the last.
func (r *reader) add(l *listReader, rule *Rule, seq uint32, at Pos) {
	if seq == 0 {
		if l.last > maxSeq-seqStep {
			r.errs.add(at, "no sequence number is left behind %d; accepted: a number of its own, or resequence before", l.last)
			return
		}
		seq = l.last + seqStep
	}
	rule.Seq = seq
	if other := l.bySeq[seq]; other != nil {
		r.errs.add(at, "the sequence number %d is that of the rule in line %d; accepted: a number of its own", seq, other.Pos.Line)
		return
	}
	rule.Remarks = append(rule.Remarks, l.remarks...)
	l.remarks = nil
	l.bySeq[seq] = rule
	l.last = max(l.last, seq)
	l.Rules = append(l.Rules, rule)
}

// seqStep is between sequence numbers that nobody chose.
const seqStep = 10

// sort brings the rules of a list in order, and its numbered remarks to them.
func (l *listReader) sort() {
	slices.SortFunc(l.Rules, func(a, b *Rule) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, m := range l.numbered {
		i, _ := slices.BinarySearchFunc(l.Rules, m.seq, func(r *Rule, seq uint32) int { return cmp.Compare(r.Seq, seq) })
		if i < len(l.Rules) {
			l.Rules[i].Remarks = append(l.Rules[i].Remarks, m.text)
		} else {
			l.Remarks = append(l.Remarks, m.text)
		}
	}
	l.numbered = nil
}

// policy ends the reading: what was referred to is looked for, and all that is
// wrong is told.
func (r *reader) policy() (*Policy, error) {
	for _, l := range r.lists {
		l.sort()
		l.Remarks = append(l.Remarks, l.remarks...)
	}
	for _, name := range slices.Sorted(maps.Keys(r.groups)) {
		r.protocols(r.groups[name])
	}
	r.inline()
	v := validator{p: r.p, places: r.places}
	v.run()
	if err := append(r.errs, v.errs...).err(); err != nil {
		return nil, err
	}
	return r.p, nil
}

// protocols gives the rules that name a service group the protocol its lines
// have, and refuses those that have another.
func (r *reader) protocols(g *groupReader) {
	if len(g.byProto) == 0 || g.Group == nil { // an unknown group is told of elsewhere
		return
	}
	said := map[string]bool{}
	seen := map[string]bool{}
	var walk func(name string)
	walk = func(name string) {
		inner := r.groups[name]
		if inner == nil || inner.Group == nil || seen[name] {
			return
		}
		seen[name] = true
		if len(inner.Ports) > 0 {
			said[inner.proto] = true
		}
		for _, n := range inner.Groups {
			walk(n)
		}
	}
	walk(g.Name)
	for _, u := range g.byProto {
		switch {
		case !u.proto:
			got := protoName(u.r.Proto)
			for _, proto := range slices.Sorted(maps.Keys(said)) {
				if proto != "" && proto != "tcp-udp" && proto != got {
					r.errs.add(u.at, "the group %s has ports of %s, the rule is of %s; accepted: a group of %s, or one whose lines name no protocol", g.Name, proto, got, got)
					break
				}
			}
		case g.Kind == GroupService && len(said) == 1 && (said["tcp"] || said["udp"]):
			u.r.Proto = int16(protoTables[IPv4].byName[slices.Collect(maps.Keys(said))[0]])
		case g.Kind == GroupService:
			r.errs.add(u.at, "the group %s does not say one protocol in all its lines; accepted: a rule for tcp and one for udp, each with portgroup %s behind the destination", g.Name, g.Name)
			u.r.Proto = 6 // which has ports: nothing more is wrong here
		}
	}
}

// inline puts the groups that the printer made back into the rules.
func (r *reader) inline() {
	made := map[string]*Group{}
	r.p.Groups = slices.DeleteFunc(r.p.Groups, func(g *Group) bool {
		if g.Name != "" && g.Name[0] == generated && len(g.Groups) == 0 && len(g.Nets)+len(g.Ports) > 0 {
			made[g.Name] = g
			return true
		}
		return false
	})
	if len(made) == 0 {
		return
	}
	if len(r.p.Groups) == 0 {
		r.p.Groups = nil
	}
	for _, l := range r.p.Lists {
		for _, rule := range l.Rules {
			for _, a := range []*Addrs{&rule.Src, &rule.Dst} {
				if g := made[a.Group]; g != nil && g.Kind == GroupNetwork {
					*a = Addrs{Nets: g.Nets}
				}
			}
			for _, s := range []*Ports{&rule.SrcPorts, &rule.DstPorts} {
				if g := made[s.Group]; g != nil && g.Kind == GroupService {
					*s = Ports{Ranges: g.Ports}
				}
			}
		}
	}
}

// ciscoReader is a reader with the block it is in.
type ciscoReader struct {
	*reader
	in    block
	lost  bool // the head of the block was not understood: what follows was told with it
	list  *listReader
	group *groupReader
	time  *TimeRange
	iface string
}

type block uint8

const (
	top block = iota
	inList
	inGroup
	inTime
	inInterface
)

// commands are what may stand anywhere.
var commands = []string{"ip", "ipv6", "access-list", "object-group", "time-range", "interface", "exit", "end"}

// blockLines are what may stand in a block.
var blockLines = [...][]string{
	top:         nil,
	inList:      {"permit", "deny", "reject", "remark", "no"},
	inGroup:     {"host", "range", "group-object", "description"},
	inTime:      {"absolute", "periodic"},
	inInterface: {"ip access-group", "ipv6 traffic-filter"},
}

func (c *ciscoReader) line(l *line) {
	if c.in != top && c.inBlock(l) {
		return
	}
	first := l.peek()
	indented := first.at.Col > 1
	w := keyword(first.text, commands...)
	if w == "" {
		if c.lost && (indented || c.isRule(first.text)) {
			return
		}
		words := slices.Concat(blockLines[c.in], commands)
		if c.in == inGroup && c.group.Kind == GroupService {
			words = slices.Concat([]string{"eq", "lt", "gt", "range", "tcp", "udp", "tcp-udp", "group-object", "description"}, commands)
		}
		switch {
		case c.in == top && c.isRule(first.text):
			l.fail(first, "found %s outside of a list; accepted before it: ip access-list extended NAME, ipv6 access-list NAME", quote(first.text))
		case c.in == inGroup && c.group.Kind == GroupNetwork:
			l.refuse(first, "an address and a mask, A/LENGTH", words...)
		default:
			l.refuse(first, "", words...)
		}
		if !indented || c.in == top {
			c.in, c.lost = top, true
		}
		return
	}
	c.in, c.lost = top, false
	l.next++
	switch w {
	case "ip":
		c.ip(l)
	case "ipv6":
		if l.word("access-list") != "" {
			at := l.peek().at
			name := l.name("the name of a list")
			l.close()
			c.open(l, name, IPv6, false, at)
		}
	case "access-list":
		c.numbered(l)
		return
	case "object-group":
		c.objectGroup(l)
	case "time-range":
		at := l.peek().at
		name := l.name("the name of a time range")
		l.close()
		if l.err == nil {
			c.time, c.in = c.reader.time(name, at), inTime
		}
	case "interface":
		c.iface = l.name("the name of an interface")
		if n := l.peek().text; n != "" { // GigabitEthernet 0/1
			c.iface += l.name("the number of the interface")
		}
		l.close()
		c.in = inInterface
	case "exit", "end":
		l.close()
	}
	if l.err != nil {
		c.in, c.lost = top, true
	}
}

// isRule says whether a line that begins with s belongs into a list.
func (c *ciscoReader) isRule(s string) bool {
	_, number := decimal(s, maxSeq)
	return number || keyword(s, append(slices.Clone(actions), "remark", "no")...) != ""
}

// inBlock reads a line of the block, if it is one.
func (c *ciscoReader) inBlock(l *line) bool {
	switch c.in {
	case inList:
		return c.listLine(l)
	case inGroup:
		return c.groupLine(l)
	case inTime:
		return c.timeLine(l)
	}
	return c.interfaceLine(l)
}

// ip reads `ip access-list …`.
func (c *ciscoReader) ip(l *line) {
	if l.word("access-list") == "" {
		return
	}
	kind := l.word("extended", "standard", "resequence")
	if kind == "" {
		return
	}
	at := l.peek()
	name := l.name("the name or number of a list")
	if kind != "resequence" {
		l.close()
		c.open(l, name, IPv4, kind == "standard", at.at)
		return
	}
	start := l.number("the first sequence number", 1, maxSeq)
	by := l.number("the step", 1, maxSeq)
	l.close()
	list := c.lists[listKey{name, IPv4}]
	switch {
	case l.err != nil:
	case list == nil:
		l.fail(at, "there is no list %s before this line", quote(name))
	default:
		list.resequence(l, start, by)
	}
}

func (r *listReader) resequence(l *line, start, by int) {
	if n := len(r.Rules); n > 0 && start+by*(n-1) > maxSeq {
		l.fail(l.toks[len(l.toks)-2], "%d rules from %d by %d end behind %d; accepted: smaller numbers", n, start, by, maxSeq)
		return
	}
	r.sort()
	clear(r.bySeq)
	r.last = 0
	for i, rule := range r.Rules {
		rule.Seq = uint32(start + by*i)
		r.bySeq[rule.Seq] = rule
		r.last = rule.Seq
	}
}

// open begins or continues a list.
func (c *ciscoReader) open(l *line, name string, f Family, standard bool, at Pos) {
	if l.err != nil {
		return
	}
	if fault := numberFault(name, f, standard); fault != "" {
		l.fail(token{name, at}, "%s", fault)
		return
	}
	_, known := c.lists[listKey{name, f}]
	list := c.reader.list(name, f, at)
	if known && list.standard != standard {
		kinds := map[bool]string{false: "extended", true: "standard"}
		l.fail(token{name, at}, "the list %s is %s since line %d; accepted: %s", name, kinds[list.standard], list.Pos.Line, kinds[list.standard])
		return
	}
	list.standard = standard
	c.list, c.in = list, inList
}

// numberFault says why a list may not have the number that is its name.
func numberFault(name string, f Family, standard bool) string {
	n, isNumber := decimal(name, 1<<30)
	switch {
	case f == IPv6 || !isNumber:
	case standardNumber(n):
		if !standard {
			return fmt.Sprintf("%s is the number of a standard list; accepted for extended ones: a name, 100 to 199, 2000 to 2699", name)
		}
	case extendedNumber(n):
		if standard {
			return fmt.Sprintf("%s is the number of an extended list; accepted for standard ones: a name, 1 to 99, 1300 to 1999", name)
		}
	default:
		return name + " is no list's number; accepted: a name, 1 to 199, 1300 to 2699"
	}
	return ""
}

func standardNumber(n int) bool { return n >= 1 && n <= 99 || n >= 1300 && n <= 1999 }
func extendedNumber(n int) bool { return n >= 100 && n <= 199 || n >= 2000 && n <= 2699 }

// numbered reads `access-list 101 …`, a line that is a rule by itself.
func (c *ciscoReader) numbered(l *line) {
	t := l.take()
	n, ok := decimal(t.text, 1<<30)
	if !ok || !standardNumber(n) && !extendedNumber(n) {
		l.refuse(t, "the number of a list: 1 to 99, 1300 to 1999 (standard), 100 to 199, 2000 to 2699 (extended)")
		return
	}
	c.open(l, t.text, IPv4, standardNumber(n), t.at)
	c.in = top
	if l.err != nil {
		return
	}
	if w := keyword(l.peek().text, append(slices.Clone(actions), "remark")...); w == "" {
		c.refuseAction(l, l.peek())
		return
	}
	c.rule(l, 0)
}

func (c *ciscoReader) refuseAction(l *line, t token) {
	if why, known := refused[strings.ToLower(t.text)]; known {
		l.fail(t, "found %s: %s", quote(t.text), why)
		return
	}
	l.refuse(t, "", append(slices.Clone(actions), "remark")...)
}

// listLine reads a line within a list.
func (c *ciscoReader) listLine(l *line) bool {
	first := l.peek()
	seq := 0
	hasSeq := first.text[0] >= '0' && first.text[0] <= '9'
	switch w := keyword(first.text, append(slices.Clone(actions), "remark", "no", "sequence", "evaluate", "dynamic")...); {
	case hasSeq:
		if seq = l.number("a sequence number", 1, maxSeq); l.err != nil {
			return true
		}
	case w == "no":
		l.next++
		c.remove(l)
		return true
	case w == "sequence" && c.list.Family == IPv6:
		l.next++
		seq = l.number("a sequence number", 1, maxSeq)
	case w == "" || w == "sequence":
		return false
	}
	if t := l.peek(); keyword(t.text, append(slices.Clone(actions), "remark")...) == "" {
		c.refuseAction(l, t)
		c.list.last = max(c.list.last, uint32(seq))
		return true
	}
	c.rule(l, uint32(seq))
	return true
}

// remove reads `no SEQ`.
func (c *ciscoReader) remove(l *line) {
	t := l.peek()
	seq := uint32(l.number("the sequence number of a rule", 1, maxSeq))
	l.close()
	if l.err != nil {
		return
	}
	if c.list.bySeq[seq] == nil {
		l.fail(t, "the list %s has no rule %d before this line", c.list.Name, seq)
		return
	}
	delete(c.list.bySeq, seq)
	c.list.Rules = slices.DeleteFunc(c.list.Rules, func(r *Rule) bool { return r.Seq == seq })
	if len(c.list.Rules) == 0 {
		c.list.Rules = nil
	}
	c.list.last = 0
	for _, r := range c.list.Rules {
		c.list.last = max(c.list.last, r.Seq)
	}
}

// rule reads a rule or a remark from its action on.
func (c *ciscoReader) rule(l *line, seq uint32) {
	first := l.toks[0]
	if keyword(l.peek().text, "remark") != "" {
		l.next++
		switch text := l.rest(); {
		case l.err != nil:
		case seq == 0:
			c.list.remarks = append(c.list.remarks, text)
		default:
			c.list.numbered = append(c.list.numbered, numberedRemark{seq, text})
		}
		return
	}
	r, behind := l.rule(c.list.Family, c.list.standard)
	l.close()
	if l.err == nil && behind != 0 {
		if seq != 0 {
			l.fail(first, "the rule has two sequence numbers, %d and %d; accepted: one", seq, behind)
		}
		seq = behind
	}
	if l.err != nil { // the number is taken all the same
		c.list.remarks = nil
		if seq == 0 {
			seq = min(c.list.last+seqStep, maxSeq)
		}
		c.list.last = max(c.list.last, seq)
		return
	}
	r.Pos = first.at
	c.add(c.list, r, seq, first.at)
	c.uses(r)
}

// uses notes that r has ports from groups, whose protocol is known when they
// all have been read.
func (c *ciscoReader) uses(r *Rule) {
	for _, s := range []struct {
		part  string
		ports *Ports
	}{{partSrcPorts, &r.SrcPorts}, {partDstPorts, &r.DstPorts}} {
		if s.ports.Group == "" {
			continue
		}
		at, ok := c.places[place{r, s.part}]
		if !ok {
			at = r.Pos
		}
		g := c.groups[s.ports.Group]
		if g == nil { // it may come later
			g = &groupReader{}
			c.groups[s.ports.Group] = g
		}
		g.byProto = append(g.byProto, use{r, s.part == partDstPorts && r.Proto == AnyProto, at})
	}
}

// objectGroup begins a group.
func (c *ciscoReader) objectGroup(l *line) {
	kind := GroupNetwork
	switch l.word("network", "v6-network", "service") {
	case "":
		return
	case "service":
		kind = GroupService
	}
	at := l.peek()
	name := l.name("the name of a group")
	l.close()
	if l.err != nil {
		return
	}
	if g := c.reader.group(name, kind, at.at); g.Kind != kind {
		l.fail(at, "the group %s is of the other kind since line %d", name, g.Pos.Line)
	} else {
		c.group, c.in = g, inGroup
	}
}

// group is the group of a name, made if it is not there.
func (r *reader) group(name string, kind GroupKind, at Pos) *groupReader {
	g := r.groups[name]
	if g == nil {
		g = &groupReader{}
		r.groups[name] = g
	}
	if g.Group == nil {
		g.Group = &Group{Name: name, Kind: kind, Pos: at}
		r.p.Groups = append(r.p.Groups, g.Group)
	}
	return g
}

func (r *reader) time(name string, at Pos) *TimeRange {
	t := r.times[name]
	if t == nil {
		t = &TimeRange{Name: name, Pos: at}
		r.times[name] = t
		r.p.Times = append(r.p.Times, t)
	}
	return t
}

// groupLine reads a line within a group.
func (c *ciscoReader) groupLine(l *line) bool {
	g := c.group
	t := l.peek()
	switch w := keyword(t.text, "description", "group-object"); {
	case w == "description":
		l.next++
		if text := l.rest(); l.err == nil {
			g.Remark = text
		}
		return true
	case w != "":
		l.next++
		at := l.peek().at
		name := l.name("the name of a group")
		l.close()
		if l.err == nil {
			c.places.set(g.Group, name, at)
			g.Groups = append(g.Groups, name)
		}
		return true
	case g.Kind == GroupService:
		return c.serviceLine(l)
	}
	nets, ok := l.member()
	if ok && l.err == nil {
		l.close()
		g.Nets = append(g.Nets, nets...)
	}
	return ok
}

// member takes a line of a network group, if it is one.
func (l *line) member() ([]Net, bool) {
	t := l.peek()
	switch keyword(t.text, "any", "host", "range", "wildcard") {
	case "any":
		l.next++
		return []Net{NetFrom(netip.PrefixFrom(netip.IPv4Unspecified(), 0)), NetFrom(netip.PrefixFrom(netip.IPv6Unspecified(), 0))}, true
	case "host":
		l.next++
		h := l.take()
		a, ok := parseAddr(h.text)
		if !ok {
			l.refuse(h, "an address")
			return nil, true
		}
		return []Net{hostNet(a)}, true
	case "range":
		l.next++
		return l.addrRange(), true
	case "wildcard":
		l.next++
		a, w := l.pair("an address", "a wildcard")
		if l.err != nil {
			return nil, true
		}
		return []Net{wildcardNet(a, w)}, true
	}
	if strings.Contains(t.text, "/") {
		p, ok := parsePrefix(t.text)
		if ok {
			l.next++
			return []Net{NetFrom(p)}, true
		}
		l.refuse(t, "a prefix, like 192.0.2.0/24 or 2001:db8::/32")
		return nil, true
	}
	if _, ok := parseAddr(t.text); !ok {
		return nil, false
	}
	a, m := l.pair("an address", "a subnet mask, like 255.255.255.0")
	if l.err != nil {
		return nil, true
	}
	n := wildcardNet(a, complementAddr(m))
	if _, ok := n.Prefix(); !ok {
		l.fail(l.toks[l.next-1], "found %s, which is no subnet mask; accepted: one like 255.255.255.0, or before the address the word wildcard", quote(m.String()))
	}
	return []Net{n}, true
}

func complementAddr(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	for i := range b {
		b[i] = ^b[i]
	}
	c, _ := netip.AddrFromSlice(b)
	return c
}

// pair takes two addresses of one family.
func (l *line) pair(first, second string) (a, b netip.Addr) {
	t := l.take()
	a, ok := parseAddr(t.text)
	if !ok {
		l.refuse(t, first)
		return a, b
	}
	t = l.take()
	b, ok = parseAddr(t.text)
	if !ok || a.Is4() != b.Is4() {
		l.refuse(t, second)
	}
	return a, b
}

// addrRange takes two addresses and gives the prefixes that are from the one to
// the other.
func (l *line) addrRange() []Net {
	at := l.peek()
	a, b := l.pair("the first address", "the last address, of the same family")
	if l.err != nil {
		return nil
	}
	if b.Less(a) {
		l.fail(at, "a range from %s down to %s; accepted: the lower address first", a, b)
		return nil
	}
	return rangeNets(a, b)
}

// rangeNets is the fewest prefixes that make up the addresses from a to b.
func rangeNets(a, b netip.Addr) []Net {
	var nets []Net
	for {
		n := a.BitLen()
		for n > 0 {
			wider := netip.PrefixFrom(a, n-1).Masked()
			if wider.Addr() != a || b.Less(lastAddr(wider)) {
				break
			}
			n--
		}
		p := netip.PrefixFrom(a, n)
		nets = append(nets, NetFrom(p))
		last := lastAddr(p)
		if last == b {
			return nets
		}
		a = last.Next()
	}
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		if n := p.Bits() - 8*i; n < 8 {
			b[i] |= byte(0xff >> max(n, 0))
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// serviceLine reads a line of a service group, if it is one.
func (c *ciscoReader) serviceLine(l *line) bool {
	t := l.peek()
	proto, tab := "", anyPorts
	switch strings.ToLower(t.text) {
	case "tcp":
		proto, tab = "tcp", tcpPorts
	case "udp":
		proto, tab = "udp", udpPorts
	case "tcp-udp":
		proto = "tcp-udp"
	}
	if proto != "" {
		l.next++
		if keyword(l.peek().text, "source") != "" {
			l.fail(l.peek(), `found "source": weir's groups have no side; accepted: the ports alone, and portgroup behind the source`)
			return true
		}
	} else if !l.isOperator() {
		if n, known := protoTables[IPv4].byName[strings.ToLower(t.text)]; known && n != AnyProto {
			l.fail(t, "found %s: weir's service groups have ports alone; accepted: tcp, udp, tcp-udp, eq, lt, gt, range", quote(t.text))
			return true
		}
		return false
	}
	var ranges []Range
	if p := l.peek(); l.isOperator() {
		ranges = l.numbers("a port", tab, 65535)
	} else if n, ok := tab.number(p.text, 65535); ok { // IOS takes eq for granted
		l.next++
		ranges = []Range{{uint16(n), uint16(n)}}
	} else {
		l.refuse(p, "a port", operators...)
	}
	l.close()
	g := c.group
	if len(g.Ports) > 0 && g.proto != proto {
		names := map[string]string{"": "no protocol", "tcp": "tcp", "udp": "udp", "tcp-udp": "tcp-udp"}
		l.fail(t, "the lines before in this group say %s; accepted: the same, or a group for each protocol", names[g.proto])
	}
	if l.err == nil {
		g.proto = proto
		g.Ports = append(g.Ports, ranges...)
	}
	return true
}

// timeLine reads a line within a time range.
func (c *ciscoReader) timeLine(l *line) bool {
	first := l.peek()
	switch keyword(first.text, "absolute", "periodic") {
	case "absolute":
		l.next++
		if !c.time.Start.IsZero() || !c.time.End.IsZero() {
			l.fail(first, "absolute stands here a second time; accepted: once, with start and end")
			return true
		}
		l.absolute(c.time)
	case "periodic":
		l.next++
		if p := l.period(); l.err == nil {
			c.time.Periods = append(c.time.Periods, p)
		}
	default:
		return false
	}
	l.close()
	return true
}

func (l *line) absolute(t *TimeRange) {
	for first := true; first || l.more(); first = false {
		at := l.peek()
		field := &t.Start
		if l.word("start", "end") == "end" {
			field = &t.End
		}
		if !field.IsZero() {
			l.fail(at, "%s stands here a second time", strings.ToLower(at.text))
		}
		minute := l.clock(dayMinutes - 1)
		day := l.number("a day of the month", 1, 31)
		monthAt := l.peek()
		month := time.Month(0)
		for m := time.January; m <= time.December; m++ {
			if len(monthAt.text) >= 3 && strings.HasPrefix(strings.ToLower(m.String()), strings.ToLower(monthAt.text)) {
				month = m
			}
		}
		if month == 0 {
			l.refuse(monthAt, "a month, January to December")
		}
		l.take()
		yearAt := l.peek()
		year := l.number("a year", 1970, 9999)
		if l.err != nil {
			return
		}
		if d := time.Date(year, month, day, 0, 0, 0, 0, time.UTC); d.Day() != day {
			l.fail(yearAt, "%s %d has no day %d", month, year, day)
			return
		}
		*field = time.Date(year, month, day, minute/60, minute%60, 0, 0, time.Local)
	}
}

// clock takes a time of day, and gives it in minutes.
func (l *line) clock(limit int) int {
	t := l.take()
	h, m, ok := strings.Cut(t.text, ":")
	hours, ok1 := decimal(h, 24)
	minutes, ok2 := decimal(m, 59)
	n := hours*60 + minutes
	if !ok || !ok1 || !ok2 || len(m) != 2 || n > limit {
		most := "23:59"
		if limit == dayMinutes {
			most = "24:00"
		}
		l.refuse(t, "a time of day, 0:00 to "+most)
	}
	return n
}

// period takes what is behind `periodic`.
func (l *line) period() Period {
	var p Period
	first := l.peek()
	words := slices.Concat(dayNames, []string{"daily", "weekdays", "weekend"})
	for n := 0; ; n++ {
		t := l.peek()
		days := dayMask(t.text)
		if days == 0 {
			if n == 0 {
				l.refuse(t, "", words...)
			}
			break
		}
		if p.Days&days != 0 {
			l.fail(t, "%s is among the days before it already", t.text)
		}
		p.Days |= days
		l.next++
	}
	p.From = l.clock(dayMinutes - 1)
	l.word("to")
	if day := dayMask(l.peek().text); day != 0 {
		t := l.take()
		if day&(day-1) != 0 || p.Days&(p.Days-1) != 0 {
			l.fail(t, "a day behind to, and %s; accepted: from one day to one day, or days and times alone", first.text)
		}
		p.Span = true
		for 1<<p.ToDay != day && p.ToDay < time.Saturday {
			p.ToDay++
		}
	}
	p.To = l.clock(dayMinutes)
	return p
}

// dayMask is the days that a word stands for, or 0.
func dayMask(s string) uint8 {
	switch keyword(s, "daily", "weekdays", "weekend") {
	case "daily":
		return daily
	case "weekdays":
		return weekdays
	case "weekend":
		return weekend
	}
	for i, d := range dayNames {
		if len(s) >= 3 && strings.HasPrefix(strings.ToLower(d), strings.ToLower(s)) {
			return 1 << i
		}
	}
	return 0
}

// idle are lines of interface blocks that have no part in filtering: their
// beginnings, word by word.
var idle = [][]string{
	{"description"},
	{"ip", "address"},
	{"no", "ip", "address"},
	{"ipv6", "address"},
	{"no", "ipv6", "address"},
	{"ipv6", "enable"},
	{"ip", "mtu"},
	{"ipv6", "mtu"},
	{"ip", "flow"},
	{"ip", "redirects"},
	{"no", "ip", "redirects"},
	{"no", "ip", "unreachables"},
	{"no", "ip", "proxy-arp"},
	{"no", "ipv6", "redirects"},
	{"no", "ipv6", "unreachables"},
	{"no", "shutdown"},
	{"shutdown"},
	{"encapsulation"},
	{"duplex"},
	{"speed"},
	{"negotiation"},
	{"media-type"},
	{"mtu"},
	{"bandwidth"},
	{"delay"},
	{"load-interval"},
}

// interfaceLine reads a line within an interface.
func (c *ciscoReader) interfaceLine(l *line) bool {
	for _, words := range idle {
		if l.begins(words) {
			return true
		}
	}
	first := strings.ToLower(l.peek().text)
	if first != "ip" && first != "ipv6" {
		return false
	}
	f, verb := IPv4, "access-group"
	if first == "ipv6" {
		f, verb = IPv6, "traffic-filter"
	}
	second := token{}
	if len(l.toks) > 1 {
		second = l.toks[1]
	}
	switch keyword(second.text, verb, "access-list") {
	case "access-list":
		return false
	case "":
		l.refuse(second, "", verb, "access-list", "address")
		return true
	}
	l.next = 2
	at := l.peek()
	b := Binding{Interface: c.iface, Family: f, List: l.name("the name of a list"), Pos: at.at}
	if l.word("in", "out") == "out" {
		b.Direction = Out
	}
	l.close()
	if l.err == nil {
		c.p.Bindings = append(c.p.Bindings, b)
	}
	return true
}

// begins says whether the line begins with words.
func (l *line) begins(words []string) bool {
	for i, w := range words {
		if i >= len(l.toks) || !strings.EqualFold(l.toks[i].text, w) {
			return false
		}
	}
	return true
}
