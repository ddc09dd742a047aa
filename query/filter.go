package query

import (
	"net/netip"
	"slices"
	"strings"

	"weir/flow"
)

// Filter is a parsed filter: a predicate over flow records. It is safe for
// concurrent use.
type Filter struct{ root node }

// Parse reads text in the filter language. An error is a *SyntaxError. The
// empty text matches everything.
func Parse(text string) (*Filter, error) {
	n, err := parse(text)
	if err != nil {
		return nil, err
	}
	return &Filter{n}, nil
}

// String prints the filter in its canonical form, which parses to the same filter.
func (f *Filter) String() string {
	var b strings.Builder
	f.root.print(&b, 0)
	return b.String()
}

// All says whether every record passes.
func (f *Filter) All() bool { return f.root == anyNode{} }

// Match says whether r passes. A term about a field that r does not know is
// false (so its negation is true). Times are compared in whole µs, rates and
// durations computed in whole ms, as the store has them.
func (f *Filter) Match(r *flow.Record) bool { return match(f.root, r) }

func match(n node, r *flow.Record) bool {
	switch n := n.(type) {
	case *orNode:
		return match(n.l, r) || match(n.r, r)
	case *andNode:
		return match(n.l, r) && match(n.r, r)
	case *notNode:
		return !match(n.x, r)
	case *term:
		return slices.ContainsFunc(n.subject.cols, func(c column) bool { return n.matchColumn(c, r) })
	}
	return true // anyNode
}

func (t *term) matchColumn(c column, r *flow.Record) bool {
	if !known(r, c) {
		return t.op == opUnknown
	}
	switch {
	case t.op == opUnknown:
		return false
	case t.subject.kind == kindAddr:
		a := address(r, c).Netip()
		if t.table != nil {
			return t.table.Contains(a)
		}
		return slices.ContainsFunc(t.prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	case t.subject.kind == kindTime:
		return compare(micros(r, c), t.op, t.micros)
	case t.sorted != nil:
		_, found := slices.BinarySearch(t.sorted, number(r, c))
		return found
	case t.op == opIn:
		return slices.Contains(t.numbers, number(r, c))
	case t.op == opAll:
		return number(r, c)&t.numbers[0] == t.numbers[0]
	}
	return compare(number(r, c), t.op, t.numbers[0])
}

func compare[T int64 | uint64](a T, op operator, b T) bool {
	switch op {
	case opLt:
		return a < b
	case opGt:
		return a > b
	case opLe:
		return a <= b
	case opGe:
		return a >= b
	}
	return a == b
}
