package capture

import (
	"fmt"
	"strings"
)

// token is a word or an operator of a filter expression.
type token struct {
	text string // of an operator always the same: "&&" is "and"
	word bool
	raw  bool // was written with a backslash: never a keyword
	at   int  // offset in the expression
}

// operators, longest first.
var operators = []string{"&&", "||", "<<", ">>", "<=", ">=", "==", "!=", "(", ")", "[", "]", "!", "<", ">", "=", "+", "-", "*", "/", "%", "&", "|", "^", ":"}

func wordByte(c byte, inside bool) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.':
		return true
	case c == '-', c == ':':
		return !inside || c == '-'
	}
	return false
}

// lex splits an expression. Within brackets a colon is an operator, elsewhere a
// part of an address.
func lex(expr string) ([]token, *FilterError) {
	var all []token
	depth := 0
next:
	for i := 0; i < len(expr); {
		c := expr[i]
		if c == ' ' || c == '\t' || c == '\n' || c == '\r' {
			i++
			continue
		}
		start := i
		raw := c == '\\'
		if raw {
			i++
		}
		j := i
		if j < len(expr) && (wordByte(expr[j], depth > 0) && expr[j] != '-' && expr[j] != '.') && !(expr[j] == ':' && !strings.HasPrefix(expr[j:], "::")) {
			for j < len(expr) && wordByte(expr[j], depth > 0) {
				j++
			}
			for expr[j-1] == '-' { // an operator after all
				j--
			}
			text := expr[i:j]
			if !raw {
				switch text {
				case "and", "or", "not":
					all = append(all, token{text: text, at: start})
					i = j
					continue
				}
			}
			all = append(all, token{text, true, raw, start})
			i = j
			continue
		}
		if !raw {
			for _, op := range operators {
				if !strings.HasPrefix(expr[i:], op) {
					continue
				}
				text := op
				switch op {
				case "&&":
					text = "and"
				case "||":
					text = "or"
				case "!":
					text = "not"
				case "==":
					text = "="
				case "[":
					depth++
				case "]":
					depth = max(0, depth-1)
				}
				all = append(all, token{text: text, at: start})
				i += len(op)
				continue next
			}
		}
		return nil, &FilterError{Expr: expr, Column: start + 1, Msg: fmt.Sprintf("%q has no meaning in a filter expression", rune(expr[min(i, len(expr)-1)]))}
	}
	return all, nil
}
