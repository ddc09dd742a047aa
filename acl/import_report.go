package acl

import (
	"fmt"
	"slices"
	"strings"
)

// Outcome is what became of a rule on its way from one language to another.
type Outcome uint8

const (
	Imported     Outcome = iota // it means the same
	Approximated                // it is there, and differs in what Report.Why says
	Refused                     // it is not there
)

func (o Outcome) String() string { return [...]string{"imported", "approximated", "refused"}[o%3] }

// Report is what became of one rule, or of one chain as a whole: each that was
// read has one.
type Report struct {
	Outcome Outcome
	Chain   string // where it was: family, table and chain, or the list
	Handle  uint64 // of nft; 0: none
	Pos     Pos    // of what has lines instead
	Text    string // the rule
	Why     []string
	// More: what was made may admit what the original denies; Less: deny what
	// it admits.
	More, Less bool
}

// String is r in a line, or a few.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-13s", r.Outcome.String())
	if at := r.Pos.String(); at != "" {
		b.WriteString(at + ": ")
	}
	b.WriteString(r.Chain)
	if r.Handle != 0 {
		fmt.Fprintf(&b, " handle %d", r.Handle)
	}
	b.WriteString(": " + r.Text)
	for _, why := range r.Why {
		b.WriteString("\n    " + why)
	}
	if s := r.effect(); s != "" {
		b.WriteString("\n    " + s)
	}
	return b.String()
}

// effect is what the difference does to what is admitted.
func (r *Report) effect() string {
	switch {
	case r.More && r.Less:
		return "so more or less may be admitted than before"
	case r.More:
		return "so MORE may be admitted than before"
	case r.Less:
		return "so less may be admitted than before"
	}
	return ""
}

// AppendReports appends a line for each report, further ones for what differs,
// and how many there are of each kind.
func AppendReports(dst []byte, reports []Report) []byte {
	var n [3]int
	var more, less int
	for i := range reports {
		r := &reports[i]
		dst = append(dst, r.String()...)
		dst = append(dst, '\n')
		n[r.Outcome%3]++
		if r.More {
			more++
		}
		if r.Less {
			less++
		}
	}
	dst = fmt.Appendf(dst, "%d: %d imported, %d approximated, %d refused", len(reports), n[Imported], n[Approximated], n[Refused])
	if more > 0 {
		dst = fmt.Appendf(dst, "; by %d of them MORE may be admitted than before", more)
	}
	if less > 0 {
		dst = fmt.Appendf(dst, "; by %d of them less", less)
	}
	return append(dst, '\n')
}

// say adds to why, once.
func (r *Report) say(why string) {
	if why != "" && !slices.Contains(r.Why, why) {
		r.Why = append(r.Why, why)
	}
}
