// Package rows prints rows for people and programs.
//
// In: flow records, or rows of values under named columns. Out: a table for
// people (which may change), or csv, json, ndjson (which may not): RFC 4180
// with a header line, one JSON array, one JSON object a line. A Writer belongs
// to one goroutine.
package rows

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"weir/flow"
)

// Format of the output.
type Format string

const (
	Table  Format = "table"
	CSV    Format = "csv"
	JSON   Format = "json"
	NDJSON Format = "ndjson"
)

// ParseFormat knows the formats' names.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Table, CSV, JSON, NDJSON:
		return f, nil
	}
	return "", fmt.Errorf("-o %s: unknown format; accepted: table, csv, json, ndjson", strconv.Quote(s))
}

// Writer prints rows of values under fixed columns. Rows of a table are held
// back until Close, which makes the columns as wide as what they hold.
type Writer struct {
	w       *bufio.Writer
	format  Format
	columns []string
	buf     []byte
	n       int
	held    [][]string
	right   []bool // the column holds numbers only
}

// New returns a Writer on w.
func New(w io.Writer, format Format, columns []string) *Writer {
	x := &Writer{w: bufio.NewWriterSize(w, 64<<10), format: format, columns: columns}
	x.right = make([]bool, len(columns))
	for i := range x.right {
		x.right[i] = true
	}
	return x
}

// Row prints one row: nil, string, bool, integers, float64, time.Time or
// RawJSON under each column.
func (x *Writer) Row(cells []any) error {
	if x.format == Table {
		line := make([]string, len(x.columns))
		for i := range line {
			if i < len(cells) {
				line[i] = x.tableCell(i, cells[i])
			}
		}
		x.held = append(x.held, line)
		return nil
	}
	b := x.open()
	for i, c := range cells {
		switch x.format {
		case CSV:
			if i > 0 {
				b = append(b, ',')
			}
			if s, ok := c.(string); ok {
				b = flow.AppendCSVText(b, Plain(s))
			} else if raw, ok := c.(RawJSON); ok {
				b = flow.AppendCSVText(b, string(raw))
			} else {
				b = appendValue(b, c)
			}
		default:
			if i > 0 {
				b = append(b, ',')
			}
			b = flow.AppendJSONText(b, x.columns[i])
			b = append(b, ':')
			b = appendJSONValue(b, c)
		}
	}
	if x.format == CSV {
		b = append(b, '\n')
	} else {
		b = append(b, '}')
	}
	return x.close(b)
}

// open begins a row: the CSV header, the JSON array and separators.
func (x *Writer) open() []byte {
	b := x.buf[:0]
	switch x.format {
	case CSV:
		if x.n == 0 {
			b = x.header(b)
		}
	case JSON:
		if x.n == 0 {
			b = append(b, "[\n"...)
		} else {
			b = append(b, ",\n"...)
		}
		b = append(b, '{')
	case NDJSON:
		b = append(b, '{')
	}
	return b
}

func (x *Writer) close(b []byte) error {
	if x.format == NDJSON {
		b = append(b, '\n')
	}
	x.n++
	x.buf = b
	_, err := x.w.Write(b)
	return err
}

func (x *Writer) header(b []byte) []byte {
	for i, c := range x.columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = flow.AppendCSVText(b, c)
	}
	return append(b, '\n')
}

// Close ends the output (an empty one is still well-formed) and flushes it.
func (x *Writer) Close() error {
	switch x.format {
	case Table:
		x.table()
	case CSV:
		if x.n == 0 {
			x.w.Write(x.header(x.buf[:0]))
		}
	case JSON:
		if x.n == 0 {
			x.w.WriteString("[")
		}
		x.w.WriteString("\n]\n")
	}
	return x.w.Flush()
}

// Flush hands on what is printed so far; for live output.
func (x *Writer) Flush() error {
	if x.format == Table {
		x.table()
		x.held = x.held[:0]
	}
	return x.w.Flush()
}

func (x *Writer) table() {
	widths := make([]int, len(x.columns))
	for i, c := range x.columns {
		widths[i] = utf8.RuneCountInString(c)
	}
	for _, line := range x.held {
		for i, c := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	if x.n == 0 {
		x.tableLine(x.columns, widths)
		x.n = 1
	}
	for _, line := range x.held {
		x.tableLine(line, widths)
	}
}

func (x *Writer) tableLine(cells []string, widths []int) {
	var b strings.Builder
	for i, c := range cells {
		if i > 0 {
			b.WriteString("  ")
		}
		pad := strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(c)))
		if x.right[i] {
			b.WriteString(pad + c)
		} else {
			b.WriteString(c + pad)
		}
	}
	x.w.WriteString(strings.TrimRight(b.String(), " "))
	x.w.WriteByte('\n')
}

func (x *Writer) tableCell(i int, c any) string {
	switch v := c.(type) {
	case nil:
		return "-"
	case string:
		x.right[i] = false
		return Plain(v)
	case time.Time:
		x.right[i] = false
		return v.UTC().Format("2006-01-02 15:04:05.000")
	case float64:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case RawJSON:
		x.right[i] = false
		return Plain(string(v))
	}
	return string(appendValue(nil, c))
}

// RawJSON is a value that is JSON already.
type RawJSON string

func appendValue(b []byte, c any) []byte {
	switch v := c.(type) {
	case nil:
		return b
	case string:
		return append(b, v...)
	case RawJSON:
		return append(b, v...)
	case bool:
		return strconv.AppendBool(b, v)
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case int32:
		return strconv.AppendInt(b, int64(v), 10)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case uint8:
		return strconv.AppendUint(b, uint64(v), 10)
	case uint16:
		return strconv.AppendUint(b, uint64(v), 10)
	case uint32:
		return strconv.AppendUint(b, uint64(v), 10)
	case uint64:
		return strconv.AppendUint(b, v, 10)
	case float64:
		return flow.AppendFloat(b, v)
	case time.Time:
		return flow.AppendTime(b, v.UnixNano())
	}
	return fmt.Append(b, c)
}

func appendJSONValue(b []byte, c any) []byte {
	switch v := c.(type) {
	case nil:
		return append(b, "null"...)
	case string:
		return flow.AppendJSONText(b, v)
	case RawJSON:
		if v == "" {
			return append(b, "null"...)
		}
		return append(b, v...)
	case time.Time:
		b = append(b, '"')
		return append(appendValue(b, v), '"')
	case fmt.Stringer:
		return flow.AppendJSONText(b, v.String())
	}
	return appendValue(b, c)
}

// Plain escapes control characters, also those of the C1 block and
// bidirectional overrides: strings came from the network, and a terminal or a
// log obeys them.
func Plain(s string) string {
	clean := func(r rune) bool {
		return r >= 0x20 && r != 0x7f && (r < 0x80 || r >= 0xa0) && r != utf8.RuneError &&
			!(r >= 0x2028 && r <= 0x202e) && !(r >= 0x2066 && r <= 0x2069)
	}
	ok := true
	for _, r := range s {
		if !clean(r) {
			ok = false
			break
		}
	}
	if ok {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") {
			fmt.Fprintf(&b, `\x%02x`, s[i])
		} else if clean(r) || r == utf8.RuneError {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
