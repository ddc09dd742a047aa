package query

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEnd tokenKind = iota
	tokWord
	tokQuoted
	tokOp    // = == != < > <= >=
	tokPunct // ( ) [ ] , !
	tokBad   // an unexpected character, an open quote
)

// token is a piece of a filter. pos and end are octet offsets.
type token struct {
	kind     tokenKind
	text     string // words in lower case; quoted without the quotes
	raw      string
	pos, end int
}

// lex cuts src into tokens, the last one a tokEnd. Comments run from # to the
// end of the line.
func lex(src string) []token {
	var out []token
	add := func(kind tokenKind, text string, pos, end int) {
		out = append(out, token{kind, text, src[pos:end], pos, end})
	}
	for i := 0; i < len(src); {
		c := src[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case c == '#':
			for i < len(src) && src[i] != '\n' {
				i++
			}
		case strings.IndexByte("()[],", c) >= 0:
			add(tokPunct, src[i:i+1], i, i+1)
			i++
		case c == '<' || c == '>' || c == '=' || c == '!':
			n := 1
			if i+1 < len(src) && src[i+1] == '=' {
				n = 2
			}
			kind := tokOp
			if c == '!' && n == 1 {
				kind = tokPunct
			}
			add(kind, src[i:i+n], i, i+n)
			i += n
		case c == '\'' || c == '"':
			end := strings.IndexByte(src[i+1:], c)
			if end < 0 {
				add(tokBad, "an open quote", i, len(src))
				i = len(src)
				break
			}
			add(tokQuoted, src[i+1:i+1+end], i, i+end+2)
			i += end + 2
		case isWord(c):
			start := i
			for i < len(src) && isWord(src[i]) {
				i++
			}
			add(tokWord, strings.ToLower(src[start:i]), start, i)
		default:
			r, n := utf8.DecodeRuneInString(src[i:])
			if unicode.IsSpace(r) {
				i += n
				break
			}
			add(tokBad, src[i:i+n], i, i+n)
			i += n
		}
	}
	add(tokEnd, "", len(src), len(src))
	return out
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_.:/-+*", c) >= 0
}
