package acl

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Limits of what is read.
const (
	maxFile   = 16 << 20 // octets
	maxErrors = 200      // told of one file
	maxName   = 64       // octets of the name of a list, a group, a time range or an interface
	maxText   = 1024     // octets of a remark
)

// Error is one thing wrong with a policy.
type Error struct {
	Pos Pos
	Msg string // what was found, and what would be accepted
}

func (e *Error) Error() string {
	if at := e.Pos.String(); at != "" {
		return at + ": " + e.Msg
	}
	return e.Msg
}

// Errors are all the things wrong with one, in the file's order.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

func (e *Errors) add(at Pos, format string, args ...any) {
	if e.enough() {
		return
	}
	*e = append(*e, &Error{at, fmt.Sprintf(format, args...)})
}

// err is e as an error: sorted, one for a place, of bounded length; nil if there
// is none.
func (e Errors) err() error {
	if len(e) == 0 {
		return nil
	}
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Col, b.Pos.Col))
	})
	e = slices.CompactFunc(e, func(a, b *Error) bool { return a.Pos == b.Pos && a.Pos.Line > 0 })
	if len(e) > maxErrors {
		e = append(e[:maxErrors:maxErrors], &Error{Pos{File: e[0].Pos.File}, "and more"})
	}
	return e
}

// enough says whether there are so many that looking for more is no use: to
// nobody but who wants to keep this program busy.
func (e Errors) enough() bool { return len(e) > 4*maxErrors }

// accepted is the end of a message: the words that would do, and the one that
// was perhaps meant.
func accepted(got string, words []string) string {
	s := "accepted: " + strings.Join(words, ", ")
	if m := suggest(got, words); m != "" {
		s += " (did you mean " + strconv.Quote(m) + "?)"
	}
	return s
}

// suggest is the word that a slip turns into got, or "".
func suggest(got string, words []string) string {
	got = strings.ToLower(got)
	best, at := "", max(1, len(got)/3)+1
	for _, w := range words {
		if d := distance(got, strings.ToLower(w)); d < at {
			best, at = w, d
		}
	}
	return best
}

// distance counts insertions, deletions, changes and swaps of neighbours.
func distance(a, b string) int {
	if len(a) > maxName || len(b) > maxName {
		return maxName
	}
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		cur[0] = i + 1
		for j := range len(b) {
			d := prev[j]
			if a[i] != b[j] {
				d++
			}
			d = min(d, cur[j]+1, prev[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, before[j-1]+1)
			}
			cur[j+1] = d
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}

// printable says whether s is text without control characters and without
// blanks around it.
func printable(s string) bool {
	if strings.TrimSpace(s) != s {
		return false
	}
	for _, c := range s {
		if c < ' ' || c == 0x7f || c == '\u2028' || c == '\u2029' || c >= 0x80 && c < 0xa0 || c == '\ufffd' {
			return false
		}
	}
	return true
}

// nameFault says why s is not a name, or "".
func nameFault(s string) string {
	switch {
	case s == "":
		return "an empty name"
	case len(s) > maxName:
		return fmt.Sprintf("a name of %d characters; accepted: up to %d", len(s), maxName)
	case s[0] == generated:
		return "a name that begins with ~: those are of the groups that weir makes when it prints"
	case s[0] == '!':
		return "a name that begins with !, which begins a comment"
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return "a name with blanks, control characters or letters that are not ASCII"
		}
	}
	return ""
}

// generated is what the names of groups begin with that the printer makes of a
// rule's own networks or ports, and that the reader puts back into the rule.
const generated = '~'
