package query

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds on what a filter may cost.
const (
	maxFilter = 1 << 20 // octets
	maxDepth  = 200     // of parentheses and nots
)

// parser is a recursive-descent parser: or of and of not of term.
type parser struct {
	src   string
	toks  []token
	at    int
	depth int
}

// parse gives the tree of src. The error is a *SyntaxError.
func parse(src string) (n node, err error) {
	if len(src) > maxFilter {
		e := syntaxError(src[:1], token{}, fmt.Sprintf("a filter of %d octets; %d at most", len(src), maxFilter))
		return nil, e
	}
	defer func() {
		if p := recover(); p != nil {
			e, ok := p.(*SyntaxError)
			if !ok {
				panic(p)
			}
			n, err = nil, e
		}
	}()
	p := &parser{src: src, toks: lex(src)}
	if p.peek().kind == tokEnd {
		return anyNode{}, nil
	}
	n = p.or()
	if t := p.peek(); t.kind != tokEnd {
		p.expected(t, "after a term", []string{"and", "or", "the end"})
	}
	return n, nil
}

func (p *parser) peek() token { return p.toks[p.at] }

// ahead is the token n after the next.
func (p *parser) ahead(n int) token { return p.toks[min(p.at+n, len(p.toks)-1)] }

func (p *parser) next() token {
	t := p.toks[p.at]
	if t.kind != tokEnd {
		p.at++
	}
	return t
}

// take eats a word or sign if it comes next.
func (p *parser) take(text string) bool {
	if t := p.peek(); (t.kind == tokWord || t.kind == tokPunct) && t.text == text {
		p.at++
		return true
	}
	return false
}

// fail ends the parse at t.
func (p *parser) fail(t token, format string, a ...any) {
	panic(syntaxError(p.src, t, fmt.Sprintf(format, a...)))
}

// expected ends the parse at t, which is none of the accepted.
func (p *parser) expected(t token, where string, accepted []string) {
	found := strconv.Quote(t.raw)
	switch {
	case t.kind == tokEnd:
		found = "the end"
	case t.kind == tokBad && t.text == "an open quote":
		found = "an open quote"
	}
	if where != "" {
		where = " " + where
	}
	e := syntaxError(p.src, t, fmt.Sprintf("expected %s%s, found %s", oneOf(accepted), where, found))
	e.Accepted = accepted
	if t.kind == tokWord {
		e.Suggest = closest(t.text, accepted)
	}
	panic(e)
}

func (p *parser) deeper(t token) {
	if p.depth++; p.depth > maxDepth {
		p.fail(t, "more than %d parentheses and nots inside each other", maxDepth)
	}
}

func (p *parser) or() node {
	n := p.and()
	for p.take("or") {
		n = &orNode{n, p.and()}
	}
	return n
}

func (p *parser) and() node {
	n := p.not()
	for p.take("and") {
		n = &andNode{n, p.not()}
	}
	return n
}

func (p *parser) not() node {
	t := p.peek()
	switch {
	case p.take("not"), p.take("!"):
		p.deeper(t)
		defer func() { p.depth-- }()
		return &notNode{p.not()}
	case p.take("("):
		p.deeper(t)
		defer func() { p.depth-- }()
		n := p.or()
		if end := p.next(); end.kind != tokPunct || end.text != ")" {
			p.expected(end, "", []string{"and", "or", ")"})
		}
		return n
	}
	return p.term()
}

// starts are the words a term can begin with.
var starts = func() []string {
	words := []string{"any", "not", "(", "ipv4", "ipv6"}
	for _, ph := range phrases {
		words = append(words, ph.words[0])
	}
	return unique(words)
}()

func (p *parser) term() node {
	t := p.peek()
	if t.kind != tokWord {
		p.expected(t, "", []string{"a term (ip, net, port, proto, as, packets, …)", "not", "("})
	}
	switch t.text {
	case "any":
		p.next()
		return anyNode{}
	case "ipv4", "inet":
		p.next()
		return &term{subject: &subjects.ipVersion, numbers: []uint64{4}}
	case "ipv6", "inet6":
		p.next()
		return &term{subject: &subjects.ipVersion, numbers: []uint64{6}}
	}
	return p.comparison(p.phrase())
}

// phrase finds the subject at hand: the longest phrase that matches. A column
// name counts only before a comparison, because src and dst begin phrases too.
func (p *parser) phrase() phrase {
	t := p.peek()
	var best *phrase
	var following []string // words that would go on from the first
	for i := range phrases {
		ph := &phrases[i]
		if ph.words[0] != t.text {
			continue
		}
		n := 0
		for n < len(ph.words) && p.ahead(n).kind == tokWord && p.ahead(n).text == ph.words[n] {
			n++
		}
		if n < len(ph.words) {
			if n == 1 {
				following = append(following, ph.words[1])
			}
			continue
		}
		if after := p.ahead(n); ph.column && after.kind != tokOp && !isComparison(after) && (after.kind != tokWord || after.text != "in" || p.ahead(n+1).text != "[") {
			continue
		}
		if best == nil || len(ph.words) > len(best.words) {
			best = ph
		}
	}
	if best != nil {
		p.at += len(best.words)
		return *best
	}
	if what := notStoredAfter[t.text+" "+p.ahead(1).text]; what != "" && p.ahead(1).kind == tokWord {
		both := t
		both.end = p.ahead(1).end
		p.fail(both, "weir does not store %s", what)
	}
	if len(following) > 0 {
		p.expected(p.ahead(1), fmt.Sprintf("after %q", t.text), unique(following))
	}
	column := slices.ContainsFunc(phrases, func(ph phrase) bool { return ph.words[0] == t.text })
	if column {
		p.expected(p.ahead(1), fmt.Sprintf("after %q", t.text), []string{"=", "<", ">", "<=", ">=", "in [ … ]"})
	}
	if what := notStored[t.text]; what != "" {
		p.fail(t, "weir does not store %s", what)
	}
	e := syntaxError(p.src, t, fmt.Sprintf("unknown word %q; expected a term, as ip, net, port, proto, as, if, packets, bytes or flags", t.raw))
	e.Accepted = starts
	e.Suggest = closest(t.text, starts)
	panic(e)
}

var comparisonWords = map[string]operator{
	"=": opEq, "==": opEq, "<": opLt, ">": opGt, "<=": opLe, ">=": opGe,
	"eq": opEq, "lt": opLt, "gt": opGt, "le": opLe, "ge": opGe,
}

func isComparison(t token) bool {
	_, ok := comparisonWords[t.text]
	return ok && (t.kind == tokOp || t.kind == tokWord) || (t.kind == tokWord && t.text == "ne")
}

// comparison reads what follows the subject.
func (p *parser) comparison(ph phrase) node {
	s := ph.subject
	out := &term{subject: s}
	if t := p.peek(); t.kind == tokWord && t.text == "in" {
		p.next()
		return p.list(out)
	}
	negate := false
	sign := p.peek()
	explicit := isComparison(sign) || sign.kind == tokOp
	if explicit {
		p.next()
		if sign.text == "!=" || sign.text == "ne" {
			negate = true
		} else {
			out.op = comparisonWords[sign.text]
		}
		if p.peek().kind == tokWord && p.peek().text == "unknown" {
			if out.op != opEq {
				p.fail(sign, "unknown is neither more nor less: expected =")
			}
			if !canBeUnknown(s) {
				p.fail(p.peek(), "%s is always known", s.name)
			}
			p.next()
			out.op = opUnknown
			return negated(out, negate)
		}
	}
	if out.op != opEq && (s.kind == kindAddr || s.kind == kindFamily || s.kind == kindSide) {
		p.fail(sign, "expected =, in or nothing after %q, found %q", s.name, sign.raw)
	}
	switch s.kind {
	case kindAddr:
		out.prefixes = []netip.Prefix{p.address(ph.words[len(ph.words)-1] == "net")}
	case kindTime:
		if !explicit {
			p.expected(p.peek(), fmt.Sprintf("after %q", s.name), []string{"=", "<", ">", "<=", ">="})
		}
		out.micros = p.time()
	case kindFlags:
		p.flags(out, explicit)
	case kindStatus:
		if t := p.peek(); t.kind == tokWord {
			if class, ok := statuses[t.text]; ok {
				if out.op != opEq {
					p.fail(sign, "expected = or nothing before %q", t.raw)
				}
				p.next()
				lo := &term{subject: s, op: opGe, numbers: []uint64{class << 6}}
				hi := &term{subject: s, op: opLe, numbers: []uint64{class<<6 | 63}}
				return negated(&andNode{lo, hi}, negate)
			}
		}
		out.numbers = []uint64{p.number(s)}
	default:
		out.numbers = []uint64{p.number(s)}
	}
	return negated(out, negate)
}

func negated(n node, negate bool) node {
	if negate {
		return &notNode{n}
	}
	return n
}

// canBeUnknown says whether a record may not know the subject.
func canBeUnknown(s *subject) bool {
	return len(s.cols) == 1 && (columnBits[s.cols[0]] != 0 && s.cols[0] < colFlows || s.cols[0] == colIPVersion)
}

// list reads [ a b, c ].
func (p *parser) list(out *term) node {
	s := out.subject
	if s.kind == kindTime || s.kind == kindFlags || s.kind == kindFamily {
		p.fail(p.peek(), "%q takes no list", s.name)
	}
	if !p.take("[") {
		p.expected(p.peek(), `after "in"`, []string{"[ … ]"})
	}
	out.op = opIn
	for {
		for p.take(",") {
		}
		if p.take("]") {
			break
		}
		if t := p.peek(); t.kind == tokEnd {
			p.expected(t, "in a list", []string{"a value", "]"})
		}
		if s.kind == kindAddr {
			out.prefixes = append(out.prefixes, p.address(false))
		} else {
			out.numbers = append(out.numbers, p.number(s))
		}
	}
	if len(out.numbers)+len(out.prefixes) == 0 {
		p.fail(p.toks[p.at-1], "an empty list")
	}
	out.index()
	return out
}

// names for numbers, by kind.
func names(k valueKind) map[string]uint64 {
	switch k {
	case kindProto:
		return protocols
	case kindReason:
		return endReasons
	case kindSide:
		return map[string]uint64{"ingress": 0, "egress": 1}
	case kindVersion:
		return map[string]uint64{"sflow": 105, "ipfix": 10}
	}
	return nil
}

// number reads a number with its factor, or a name for one.
func (p *parser) number(s *subject) uint64 {
	t := p.next()
	if t.kind != tokWord && t.kind != tokQuoted {
		p.expected(t, fmt.Sprintf("after %q", s.name), []string{"a number"})
	}
	text := strings.ToLower(t.text)
	if n, ok := names(s.kind)[text]; ok {
		return n
	}
	n, err := parseNumber(text)
	if err != nil {
		if table := names(s.kind); table != nil {
			var accepted []string
			for name := range table {
				accepted = append(accepted, name)
			}
			e := syntaxError(p.src, t, fmt.Sprintf("expected a number or a name of %s, found %q", s.name, t.raw))
			e.Accepted = unique(accepted)
			e.Suggest = closest(text, e.Accepted)
			panic(e)
		}
		p.fail(t, "expected a number after %q, found %q", s.name, t.raw)
	}
	if s.max > 0 && n > s.max {
		p.fail(t, "%s is at most %d, found %s", s.name, s.max, t.raw)
	}
	if s.kind == kindFamily && n != 4 && n != 6 {
		p.fail(t, "ip_version is 4 or 6, found %s", t.raw)
	}
	return n
}

// parseNumber reads decimal with a factor k, m, g or t (of a thousand), or hex.
func parseNumber(text string) (uint64, error) {
	if hex, ok := strings.CutPrefix(text, "0x"); ok {
		return strconv.ParseUint(hex, 16, 64)
	}
	factor := uint64(1)
	if n := len(text); n > 1 {
		switch text[n-1] {
		case 'k':
			factor = 1e3
		case 'm':
			factor = 1e6
		case 'g':
			factor = 1e9
		case 't':
			factor = 1e12
		}
		if factor > 1 {
			text = text[:n-1]
		}
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || strings.HasPrefix(text, "+") {
		return 0, strconv.ErrSyntax
	}
	if n > (1<<64-1)/factor {
		return 0, strconv.ErrRange
	}
	return n * factor, nil
}

// address reads an address or a network; mask says that an IPv4 netmask may
// follow.
func (p *parser) address(mask bool) netip.Prefix {
	t := p.next()
	if t.kind != tokWord && t.kind != tokQuoted {
		p.expected(t, "", []string{"an address", "a network"})
	}
	text, length, slash := strings.Cut(t.text, "/")
	if strings.Contains(text, ".") || !strings.Contains(text, ":") {
		if n := strings.Count(text, "."); slash && n < 3 { // 10/8, 172.16/12
			text += strings.Repeat(".0", 3-n)
		}
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		if err != nil && strings.ContainsAny(t.text, "ghijklmnopqrstuvwxyz") {
			p.fail(t, "expected an address, found %q: names are not looked up", t.raw)
		}
		p.fail(t, "expected an address, found %q", t.raw)
	}
	a = a.Unmap()
	bits := a.BitLen()
	switch {
	case slash:
		n, err := strconv.ParseUint(length, 10, 8)
		if err != nil || int(n) > bits {
			p.fail(t, "expected a prefix length of 0 to %d after the /, found %q", bits, length)
		}
		bits = int(n)
	case mask:
		m, err := netip.ParseAddr(p.peek().text)
		if err != nil || p.peek().kind != tokWord {
			break // one address is a network too
		}
		mt := p.next()
		if !a.Is4() || !m.Is4() {
			p.fail(mt, "a netmask is of IPv4 alone: expected ADDRESS/LENGTH")
		}
		m4 := m.As4()
		v := uint32(m4[0])<<24 | uint32(m4[1])<<16 | uint32(m4[2])<<8 | uint32(m4[3])
		for bits = 0; bits < 32 && v&(1<<(31-bits)) != 0; bits++ {
		}
		if v != ^uint32(0)<<(32-bits) {
			p.fail(mt, "%s is not a netmask: its ones are not together", mt.raw)
		}
	}
	prefix, err := a.Prefix(bits)
	if err != nil {
		p.fail(t, "%v", err)
	}
	return prefix
}

// flags reads letters (all of them are set), or a comparison with a number, or
// = letters (exactly these).
func (p *parser) flags(out *term, explicit bool) {
	t := p.peek()
	if t.kind == tokWord || t.kind == tokQuoted {
		if v, ok := parseFlags(t.text); ok {
			p.next()
			if !explicit {
				out.op = opAll
			}
			out.numbers = []uint64{v}
			return
		}
		if _, err := parseNumber(strings.ToLower(t.text)); err != nil {
			p.fail(t, "expected letters of %s (X: the first six) or a number after %q, found %q", flagNames, "flags", t.raw)
		}
	}
	out.numbers = []uint64{p.number(out.subject)}
}

func parseFlags(text string) (v uint64, ok bool) {
	for _, c := range strings.ToUpper(text) {
		if c == 'X' {
			v |= 0x3f
			continue
		}
		i := strings.IndexRune(flagNames, c)
		if i < 0 {
			return 0, false
		}
		v |= 1 << i
	}
	return v, text != ""
}

// timeLayouts are the accepted forms of a time, UTC unless it says otherwise.
var timeLayouts = []string{
	"2006-01-02T15:04:05.999999999Z07:00", "2006-01-02T15:04Z07:00",
	"2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02", "2006-01", "2006",
}

// ParseTime reads an absolute time: RFC 3339, or a prefix of it, with a T or a
// space between date and time, UTC unless a zone is given.
func ParseTime(text string) (time.Time, error) {
	text = strings.ToUpper(strings.Replace(strings.TrimSpace(text), " ", "T", 1))
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("expected a time as 2026-11-22T10:00:00, found %q", text)
}

// time reads a time, also one with a space between date and time. Whole µs.
func (p *parser) time() int64 {
	t := p.next()
	if t.kind != tokWord && t.kind != tokQuoted {
		p.expected(t, "", []string{"a time as 2026-11-22T10:00:00"})
	}
	text := t.text
	if after := p.peek(); t.kind == tokWord && len(text) == len("2006-01-02") && after.kind == tokWord &&
		strings.Contains(after.text, ":") {
		p.next()
		text += " " + after.text
	}
	at, err := ParseTime(text)
	if err != nil || at.Year() < 1678 || at.Year() > 2261 {
		p.fail(t, "expected a time as 2026-11-22T10:00:00, found %q", t.raw)
	}
	return at.UnixMicro()
}
