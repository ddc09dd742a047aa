package console

import (
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"weir/query"
)

// CheckAnswer says whether a filter is well-formed. If it is not, the rest says
// where its sense was lost and what may stand there.
type CheckAnswer struct {
	OK         bool     `json:"ok"`
	Canonical  string   `json:"canonical"` // the filter as it was understood
	Message    string   `json:"message"`
	Line       int      `json:"line"`   // from 1
	Column     int      `json:"column"` // from 1, in characters
	Width      int      `json:"width"`  // characters concerned
	Accepted   []string `json:"accepted"`
	Suggestion string   `json:"suggestion"`
}

func (s *Server) filterCheck(w http.ResponseWriter, r *http.Request) error {
	text := r.URL.Query().Get("filter")
	a := CheckAnswer{OK: true, Accepted: []string{}}
	if err := checkFilter(text); err != nil {
		e := asAPIError(err)
		a = CheckAnswer{
			Message: e.Message, Line: e.Line, Column: e.Column, Width: e.Width,
			Accepted: append([]string{}, e.Accepted...), Suggestion: e.Suggestion,
		}
	} else if f, err := query.Parse(text); err == nil {
		a.Canonical = f.String()
	}
	return writeJSON(w, r, &a)
}

// CompleteAnswer lists words for a place in a filter.
type CompleteAnswer struct {
	From  int          `json:"from"` // the words replace the characters From to To
	To    int          `json:"to"`
	Words []Completion `json:"words"`
}

// Completion is a word and what it means.
type Completion struct {
	Word string `json:"word"`
	Help string `json:"help"`
}

func (s *Server) filterComplete(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	text := []rune(q.Get("filter"))
	if len(text) > maxFilter {
		return badRequest("filter: %d characters; at most %d are accepted", len(text), maxFilter)
	}
	at := len(text)
	if v := q.Get("at"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n > len(text) {
			return badRequest("at %s is not a place in the filter: 0 to %d", strconv.Quote(v), len(text))
		}
		at = n
	}
	a := complete(text, at)
	return writeJSON(w, r, &a)
}

func wordRune(r rune) bool {
	return r == '_' || r == '.' || r == ':' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= utf8.RuneSelf
}

// complete finds the words that may stand at a place: those after which the
// text up to there makes sense, beginning with what is written already.
func complete(text []rune, at int) CompleteAnswer {
	from, to := at, at
	for from > 0 && wordRune(text[from-1]) {
		from--
	}
	for to < len(text) && wordRune(text[to]) {
		to++
	}
	begun := strings.ToLower(string(text[from:at]))
	a := CompleteAnswer{From: from, To: to, Words: []Completion{}}
	for _, word := range wordsAfter(string(text[:from])) {
		if strings.HasPrefix(word.Word, begun) && word.Word != begun {
			a.Words = append(a.Words, word)
		}
	}
	return a
}
