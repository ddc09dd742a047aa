package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"weir/collect"
	"weir/flow"
	"weir/rows"
)

// explainColumns are those of `weir decode --explain`: a row for each field of
// a message, and for each structure that fields are in.
var explainColumns = []string{
	"message", "exporter", "version", "offset", "length", "depth", "kind", "field", "value", "meaning", "problem", "octets",
}

// explainer makes a decoding run tell its messages octet by octet. The result
// ends the output.
func explainer(o *collect.DecodeOptions, w io.Writer, format rows.Format) (finish func() error) {
	if format == rows.Table {
		p := &explainPage{w: bufio.NewWriterSize(w, 1<<16)}
		o.OnExplain = p.message
		return p.w.Flush
	}
	out := rows.New(w, format, explainColumns)
	var failed error
	o.OnExplain = func(e collect.Explained) {
		for _, l := range e.Lines {
			kind := "field"
			if l.Structure {
				kind = "structure"
			}
			if failed == nil {
				failed = out.Row([]any{
					uint64(e.Frame), address(e.Source.Addr), versionCell(e.Message.Version), uint64(l.Offset), uint64(l.Length), uint64(l.Depth),
					kind, l.Field, l.Value, l.Meaning, l.Problem, hex.EncodeToString(l.Octets),
				})
			}
		}
	}
	return func() error { return errors.Join(failed, out.Close()) }
}

// explainPage prints messages for people: offset, octets, field, value, and what
// it means or what is wrong with it.
type explainPage struct {
	w *bufio.Writer
	n int
}

// Octets of a field on one line, and the width of the field's name.
const (
	explainOctets = 8
	explainName   = 34
)

func (p *explainPage) message(e collect.Explained) {
	if p.n++; p.n > 1 {
		fmt.Fprintln(p.w)
	}
	from := ""
	if !e.Source.Addr.IsZero() {
		from = fmt.Sprintf(" from %s port %d", e.Source.Addr, e.Source.Port)
	}
	fmt.Fprintf(p.w, "message %d%s, %s, %d octets\n", e.Frame, from, flow.AppendTime(nil, e.Received), e.Octets)
	fmt.Fprintf(p.w, "%6s  %-*s  %-*s  %s\n", "octet", explainOctets*3-1, "octets", explainName, "field", "value")
	problems := 0
	for _, l := range e.Lines {
		if l.Problem != "" {
			problems++
		}
		name := strings.Repeat("  ", l.Depth) + rows.Plain(l.Field)
		value := rows.Plain(l.Value)
		switch {
		case l.Structure && l.Meaning != "":
			value = fmt.Sprintf("%d octets, %s", l.Length, rows.Plain(l.Meaning))
		case l.Structure:
			value = fmt.Sprintf("%d octets", l.Length)
		case l.Meaning != "" && value != "":
			value += " (" + rows.Plain(l.Meaning) + ")"
		case l.Meaning != "":
			value = rows.Plain(l.Meaning)
		}
		if l.Problem != "" {
			value = strings.TrimSpace(value + "   ! " + rows.Plain(l.Problem))
		}
		first := l.Octets[:min(len(l.Octets), explainOctets)]
		line := fmt.Sprintf("%6d  %-*s  %s", l.Offset, explainOctets*3-1, spaced(first), name)
		if value != "" {
			line += strings.Repeat(" ", max(explainName-utf8.RuneCountInString(name), 0)) + "  " + value
		}
		fmt.Fprintln(p.w, line)
		for at := len(first); at < len(l.Octets); at += explainOctets {
			fmt.Fprintf(p.w, "%6d  %s\n", l.Offset+at, spaced(l.Octets[at:min(at+explainOctets, len(l.Octets))]))
		}
	}
	switch problems {
	case 0:
	case 1:
		fmt.Fprintln(p.w, "1 problem, marked with !")
	default:
		fmt.Fprintf(p.w, "%d problems, marked with !\n", problems)
	}
}

// spaced writes octets in hexadecimal, a blank between.
func spaced(b []byte) string {
	var s strings.Builder
	for i, c := range b {
		if i > 0 {
			s.WriteByte(' ')
		}
		s.WriteByte("0123456789abcdef"[c>>4])
		s.WriteByte("0123456789abcdef"[c&15])
	}
	return s.String()
}
