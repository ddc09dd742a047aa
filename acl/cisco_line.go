package acl

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"weir/flow"
)

// token is a word of a line.
type token struct {
	text string
	at   Pos
}

// line is a cursor over the words of a line. The first thing wrong with it
// sticks: after that there are no more words, and whoever asked for them need
// not look.
type line struct {
	text   string
	at     Pos // of the text
	toks   []token
	next   int
	end    Pos // behind the last word
	err    *Error
	places places
}

// place is what a position is remembered for: a part of a rule, say.
type place struct {
	of   any
	part string
}

// places are positions that errors found later point to. Nil remembers none.
type places map[place]Pos

func (p places) set(of any, part string, at Pos) {
	if p != nil {
		p[place{of, part}] = at
	}
}

// newLine splits text, which stands at a position, into words.
func newLine(text string, at Pos) *line {
	l := &line{text: text, at: at}
	for i := 0; i < len(text); {
		if text[i] == ' ' || text[i] == '\t' {
			i++
			continue
		}
		start := i
		for i < len(text) && text[i] != ' ' && text[i] != '\t' {
			i++
		}
		l.toks = append(l.toks, token{text[start:i], l.pos(start)})
	}
	l.end = l.pos(len(strings.TrimRight(text, " \t")))
	return l
}

func (l *line) pos(offset int) Pos { return Pos{l.at.File, l.at.Line, l.at.Col + offset} }

// fail notes what is wrong at t, if nothing was wrong before.
func (l *line) fail(t token, format string, args ...any) {
	if l.err == nil {
		at := t.at
		if at == (Pos{}) {
			at = l.end
		}
		l.err = &Error{at, fmt.Sprintf(format, args...)}
	}
}

// refuse says that t is none of words; what stands for those that no list can
// name.
func (l *line) refuse(t token, what string, words ...string) {
	list := words
	if what != "" {
		list = append([]string{what}, words...)
	}
	msg := "accepted: " + strings.Join(list, ", ")
	if m := suggest(t.text, words); m != "" && t.text != "" {
		msg += " (did you mean " + strconv.Quote(m) + "?)"
	}
	if t.text == "" {
		l.fail(t, "the line ends here; %s", msg)
	} else {
		l.fail(t, "found %s; %s", quote(t.text), msg)
	}
}

// quote shows what was typed, not all of it if it is long.
func quote(s string) string {
	if len(s) > maxName {
		s = s[:maxName] + "…"
	}
	return strconv.Quote(s)
}

// peek is the next word; empty at the end or behind an error.
func (l *line) peek() token {
	if l.err != nil || l.next >= len(l.toks) {
		return token{}
	}
	return l.toks[l.next]
}

func (l *line) more() bool { return l.peek().text != "" }

// take is peek, and goes on.
func (l *line) take() token {
	t := l.peek()
	if t.text != "" {
		l.next++
	}
	return t
}

// keyword is the word of words that s is, in full or as a beginning of three
// letters or more that no other word shares; or "".
func keyword(s string, words ...string) string {
	s = strings.ToLower(s)
	found := ""
	for _, w := range words {
		if w == s {
			return w
		}
		if len(s) >= 3 && strings.HasPrefix(w, s) {
			if found != "" {
				found = "?"
			} else {
				found = w
			}
		}
	}
	if found == "?" {
		return ""
	}
	return found
}

// word takes one of words, or fails.
func (l *line) word(words ...string) string {
	t := l.peek()
	w := keyword(t.text, words...)
	if w == "" {
		l.refuse(t, "", words...)
		return ""
	}
	l.next++
	return w
}

// close fails if words are left.
func (l *line) close() {
	if t := l.peek(); t.text != "" {
		l.fail(t, "found %s; accepted: the end of the line", quote(t.text))
	}
}

// rest is the text from the next word on.
func (l *line) rest() string {
	t := l.peek()
	l.next = len(l.toks)
	if t.text == "" {
		return ""
	}
	text := strings.TrimRight(l.text[t.at.Col-l.at.Col:], " \t")
	if len(text) > maxText {
		l.fail(t, "a text of %d characters; accepted: up to %d", len(text), maxText)
	}
	return text
}

// name takes the name of something.
func (l *line) name(what string) string {
	t := l.take()
	if t.text == "" {
		l.refuse(t, what)
		return ""
	}
	if t.text[0] == generated && len(t.text) <= 2*maxName { // the printer's own
		return t.text
	}
	if fault := nameFault(t.text); fault != "" {
		l.fail(t, "found %s", fault)
	}
	return t.text
}

// number takes a number from low to high.
func (l *line) number(what string, low, high int) int {
	t := l.take()
	n, ok := decimal(t.text, high)
	if !ok || n < low {
		l.refuse(t, fmt.Sprintf("%s, %d to %d", what, low, high))
	}
	return n
}

// named takes a name of tab, or a number up to limit.
func (l *line) named(what string, tab *table, limit int) int {
	t := l.take()
	n, ok := tab.number(t.text, limit)
	if !ok {
		l.refuseNamed(t, fmt.Sprintf("%s, 0 to %d", what, limit), tab)
	}
	return n
}

// refuseNamed says that t is no number and none of tab's names; of a long table
// the likely name alone is told.
func (l *line) refuseNamed(t token, what string, tab *table) {
	names := tab.names()
	if len(names) > 12 {
		what += " or a name"
		if m := suggest(t.text, names); m != "" && t.text != "" {
			l.fail(t, "found %s; accepted: %s (did you mean %q?)", quote(t.text), what, m)
			return
		}
		names = nil
	}
	l.refuse(t, what, names...)
}

// Addresses.

var familyNames = [...]string{IPv4: "IPv4", IPv6: "IPv6"}

// example addresses, for messages.
var (
	exampleHost = [...]string{IPv4: "192.0.2.1", IPv6: "2001:db8::1"}
	exampleNet  = [...]string{IPv4: "192.0.2.0/24", IPv6: "2001:db8::/32"}
	exampleCare = [...]string{IPv4: "192.0.2.0 0.0.0.255", IPv6: "2001:db8::1 ::ff00"}
)

func familyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// parseAddr reads an address without a zone.
func parseAddr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Zone() == ""
}

// address takes an address of a family.
func (l *line) address(f Family) netip.Addr {
	t := l.take()
	a, ok := parseAddr(t.text)
	if !ok {
		l.refuse(t, "an address, like "+exampleHost[f])
	} else {
		l.family(t, f, familyOf(a))
	}
	return a
}

// family fails if t, which is of family g, is not of f.
func (l *line) family(t token, f, g Family) {
	if g != f {
		l.fail(t, "found %s, an %s address; accepted: %s, this being an %s list", quote(t.text), familyNames[g], familyNames[f], familyNames[f])
	}
}

// wildcardNet is the addresses that agree with a where wild has no bit.
func wildcardNet(a, wild netip.Addr) Net {
	care := flow.AddrFrom(wild)
	for i := range care {
		care[i] = ^care[i]
	}
	if a.Is4() {
		for i := range 12 {
			care[i] = 0xff
		}
	}
	return NewNet(flow.AddrFrom(a), care)
}

// parsePrefix reads A/LENGTH; bits behind the prefix are dropped, as IOS does.
func parsePrefix(s string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err == nil && !p.Masked().Addr().Is4In6()
}

func hostNet(a netip.Addr) Net { return NetFrom(netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())) }

// The words that addresses may begin with, beside themselves.
var (
	extendedWords = []string{"any", "host", "object-group", "addrgroup"}
	standardWords = []string{"any", "host"}
	yamlWords     = []string{"any", "group NAME"}
)

// addrs takes a source or destination. Where words are not extendedWords, the
// wildcard may be missing.
func (l *line) addrs(what string, f Family, words []string) Addrs {
	standard := len(words) < len(extendedWords)
	t := l.peek()
	switch keyword(t.text, words...) {
	case "any":
		l.next++
		return Addrs{}
	case "host":
		l.next++
		return Addrs{Nets: []Net{hostNet(l.address(f))}}
	case "object-group", "addrgroup":
		l.next++
		return Addrs{Group: l.name("the name of an object-group network")}
	}
	if strings.Contains(t.text, "/") {
		p, ok := parsePrefix(t.text)
		if !ok {
			l.refuse(t, "a prefix, like "+exampleNet[f])
		} else {
			l.family(t, f, familyOf(p.Addr()))
		}
		l.next++
		return Addrs{Nets: []Net{NetFrom(p)}}
	}
	a, ok := parseAddr(t.text)
	if !ok {
		l.refuse(t, fmt.Sprintf("the %s: %s, %s", what, exampleNet[f], exampleCare[f]), words...)
		return Addrs{}
	}
	l.next++
	w := l.peek()
	wild, ok := parseAddr(w.text)
	switch {
	case ok:
		l.next++
		if a.Is4() != wild.Is4() {
			l.refuse(w, "a wildcard of the address's family")
		}
		n := wildcardNet(a, wild)
		l.family(t, f, n.Family())
		return Addrs{Nets: []Net{n}}
	case standard:
		l.family(t, f, familyOf(a))
		return Addrs{Nets: []Net{hostNet(a)}}
	}
	l.refuse(w, fmt.Sprintf("a wildcard behind %s; or instead of it host %s, or %s/LENGTH", t.text, t.text, t.text))
	return Addrs{}
}

// Sets of numbers.

var operators = []string{"eq", "neq", "lt", "gt", "range"}

// isOperator says whether the next word begins a set of numbers.
func (l *line) isOperator() bool {
	return slices.Contains(operators, strings.ToLower(l.peek().text))
}

// numbers takes an operator and what it is of: eq and neq with one number or
// more.
func (l *line) numbers(what string, tab *table, limit int) []Range {
	op := l.take()
	switch strings.ToLower(op.text) {
	case "eq":
		return l.eq(what, tab, limit)
	case "neq":
		ns := l.eq(what, tab, limit)
		if l.err != nil {
			return nil
		}
		rest := complement(ns, limit)
		if len(rest) == 0 {
			l.fail(op, "no number is left; accepted: numbers that leave one")
		}
		return rest
	case "lt":
		t := l.peek()
		n := l.named(what, tab, limit)
		if n == 0 {
			l.fail(t, "nothing is less than 0; accepted: 1 to %d", limit)
			return nil
		}
		return []Range{{0, uint16(n - 1)}}
	case "gt":
		t := l.peek()
		n := l.named(what, tab, limit)
		if n == limit {
			l.fail(t, "nothing is greater than %d; accepted: 0 to %d", limit, limit-1)
			return nil
		}
		return []Range{{uint16(n + 1), uint16(limit)}}
	case "range":
		from := l.named(what, tab, limit)
		t := l.peek()
		to := l.named(what, tab, limit)
		if from > to {
			l.fail(t, "a range from %d down to %d; accepted: the lower number first", from, to)
		}
		return []Range{{uint16(from), uint16(to)}}
	}
	l.refuse(op, "", operators...)
	return nil
}

// eq takes one number or more.
func (l *line) eq(what string, tab *table, limit int) []Range {
	n := l.named(what, tab, limit)
	ranges := []Range{{uint16(n), uint16(n)}}
	for {
		n, ok := tab.number(l.peek().text, limit)
		if !ok {
			return ranges
		}
		l.next++
		ranges = append(ranges, Range{uint16(n), uint16(n)})
	}
}

// complement is the numbers from 0 to limit that are in none of the ranges, in
// ascending order.
func complement(ranges []Range, limit int) []Range {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b Range) int { return int(a.From) - int(b.From) })
	var rest []Range
	from := 0
	for _, r := range sorted {
		if int(r.From) > from {
			rest = append(rest, Range{uint16(from), r.From - 1})
		}
		from = max(from, int(r.To)+1)
	}
	if from <= limit {
		rest = append(rest, Range{uint16(from), uint16(limit)})
	}
	return rest
}
