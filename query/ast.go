package query

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gaissmai/bart"
)

// node is a filter or a part of one: and, or, not, everything or a *term.
type node interface {
	// print appends the canonical text. outer is the binding strength of what
	// stands around it: 0 nothing, 1 or, 2 and, 3 not.
	print(b *strings.Builder, outer int)
}

type (
	orNode  struct{ l, r node }
	andNode struct{ l, r node }
	notNode struct{ x node }
	anyNode struct{}
)

// operator of a term.
type operator uint8

const (
	opEq operator = iota
	opLt
	opGt
	opLe
	opGe
	opIn      // one of several
	opAll     // all bits of the number are set (flags)
	opUnknown // the value is not known
)

var operatorText = [...]string{opEq: "=", opLt: "<", opGt: ">", opLe: "<=", opGe: ">="}

// term is a comparison of a subject with a constant. A subject with several
// columns (port: source and destination) passes if one of them does. A column
// that is not known never passes, except opUnknown.
type term struct {
	subject  *subject
	op       operator
	numbers  []uint64       // opIn several; opEq, opLt, …, opAll one
	prefixes []netip.Prefix // of a subject of addresses; opEq, opIn
	micros   int64          // of a subject of times

	// Of long lists, for Match:
	sorted []uint64
	table  *bart.Lite
}

// longList is the length from which a list is searched by an index.
const longList = 16

// index prepares a term with a long list.
func (t *term) index() {
	if len(t.numbers) > longList {
		t.sorted = slices.Sorted(slices.Values(t.numbers))
	}
	if len(t.prefixes) > longList {
		t.table = new(bart.Lite)
		for _, p := range t.prefixes {
			t.table.Insert(p)
		}
	}
}

func (n *orNode) print(b *strings.Builder, outer int)  { infix(b, outer, 1, n.l, " or ", n.r) }
func (n *andNode) print(b *strings.Builder, outer int) { infix(b, outer, 2, n.l, " and ", n.r) }
func (anyNode) print(b *strings.Builder, _ int)        { b.WriteString("any") }

func (n *notNode) print(b *strings.Builder, _ int) {
	b.WriteString("not ")
	n.x.print(b, 3)
}

// infix prints a left-associative operator: the right operand binds tighter.
func infix(b *strings.Builder, outer, strength int, l node, op string, r node) {
	if outer > strength {
		b.WriteByte('(')
		defer b.WriteByte(')')
	}
	l.print(b, strength)
	b.WriteString(op)
	r.print(b, strength+1)
}

func (t *term) print(b *strings.Builder, _ int) {
	s := t.subject
	if s.kind == kindFamily && t.op == opEq {
		b.WriteString("ipv" + strconv.FormatUint(t.numbers[0], 10))
		return
	}
	b.WriteString(s.name)
	if t.op == opUnknown {
		b.WriteString(" = unknown")
		return
	}
	if t.op == opIn {
		b.WriteString(" in [")
		for i := range max(len(t.numbers), len(t.prefixes)) {
			if i > 0 {
				b.WriteByte(' ')
			}
			t.value(b, i)
		}
		b.WriteByte(']')
		return
	}
	b.WriteByte(' ')
	switch {
	case t.op == opAll: // flags S
	case t.op == opEq && s.kind != kindTime && s.kind != kindFlags && !s.columnOnly():
	default:
		b.WriteString(operatorText[t.op])
		b.WriteByte(' ')
	}
	t.value(b, 0)
}

func (t *term) value(b *strings.Builder, i int) {
	switch t.subject.kind {
	case kindAddr:
		p := t.prefixes[i]
		if p.IsSingleIP() {
			b.WriteString(p.Addr().String())
		} else {
			b.WriteString(p.String())
		}
	case kindTime:
		b.WriteString(time.UnixMicro(t.micros).UTC().Format("2006-01-02T15:04:05.999999"))
	case kindFlags:
		if t.op == opAll {
			b.WriteString(flagLetters(t.numbers[i]))
			return
		}
		b.WriteString(strconv.FormatUint(t.numbers[i], 10))
	default:
		b.WriteString(strconv.FormatUint(t.numbers[i], 10))
	}
}

// flagNames are the letters of the TCP flags, from bit 0.
const flagNames = "FSRPAUEC"

func flagLetters(v uint64) string {
	var b strings.Builder
	for i, c := range flagNames {
		if v&(1<<i) != 0 {
			b.WriteRune(c)
		}
	}
	return b.String()
}
