package query

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// SyntaxError says where a filter lost its sense.
type SyntaxError struct {
	Source    string   // the filter's text
	Line, Col int      // from 1; columns count characters
	Width     int      // characters that are meant, at least 1
	Found     string   // the text there; "" at the end
	Msg       string   // what is wrong, without place and suggestion
	Accepted  []string // what would be accepted there
	Suggest   string   // did you mean; may be empty
}

// Error is one line: filter:LINE:COL: what is wrong.
func (e *SyntaxError) Error() string {
	s := fmt.Sprintf("filter:%d:%d: %s", e.Line, e.Col, e.Msg)
	if e.Suggest != "" {
		s += fmt.Sprintf(" (did you mean %q?)", e.Suggest)
	}
	return s
}

// Pretty is Error with the line of the filter below and a mark under the place.
// Control characters are shown as dots.
func (e *SyntaxError) Pretty() string {
	line := strings.Map(func(r rune) rune {
		if r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return '·'
		}
		return r
	}, strings.Split(e.Source, "\n")[e.Line-1])
	pad := []rune(line)
	pad = pad[:min(e.Col-1, len(pad))]
	for i, r := range pad {
		if r != '\t' {
			pad[i] = ' '
		}
	}
	return fmt.Sprintf("%s\n  %s\n  %s%s", e.Error(), line, string(pad), strings.Repeat("^", e.Width))
}

// syntaxError places msg at a token of src.
func syntaxError(src string, t token, msg string) *SyntaxError {
	before := src[:t.pos]
	start := strings.LastIndexByte(before, '\n') + 1
	found := src[t.pos:t.end]
	first, _, _ := strings.Cut(found, "\n")
	return &SyntaxError{
		Source: src,
		Line:   strings.Count(before, "\n") + 1,
		Col:    utf8.RuneCountInString(src[start:t.pos]) + 1,
		Width:  max(1, utf8.RuneCountInString(first)),
		Found:  found,
		Msg:    msg,
	}
}

// oneOf joins words as "a, b or c".
func oneOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// closest gives the candidate that differs from word by the fewest letters, if
// they are few.
func closest(word string, candidates []string) string {
	best, at := "", 3
	if len(word) <= 3 {
		at = 2
	}
	for _, c := range candidates {
		d := distance(word, c)
		begun := d == at && strings.HasPrefix(c, word) && !strings.HasPrefix(best, word)
		if (d < at || begun && best != "") && d < len(c) {
			best, at = c, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap.
func distance(a, b string) int {
	if max(len(a), len(b)) > 40 {
		return 1 << 30
	}
	var before []int
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(row[j]+1, prev[j+1]+1, prev[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, prev = prev, row
	}
	return prev[len(b)]
}

// unique sorts words and drops what is there twice.
func unique(words []string) []string {
	slices.Sort(words)
	return slices.Compact(words)
}
