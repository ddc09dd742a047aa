package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"weir/collect"
	"weir/flow"
	"weir/rows"
	"weir/wire"
)

// templateColumns are those of `weir decode --templates`. A table has those up to
// fields: the rest says for programs what fields says for people.
var templateColumns = []string{"kind", "exporter", "version", "domain", "template", "scope", "fields", "message", "action", "octets", "elements"}

const templateTable = 7 // columns

// listTemplates makes a decoding run list templates as they change, and
// options records. The result ends the output.
func listTemplates(o *collect.DecodeOptions, out io.Writer, format rows.Format) (finish func() error) {
	columns := templateColumns
	if format == rows.Table {
		columns = columns[:templateTable]
	}
	w := rows.New(out, format, columns)
	var failed error
	row := func(cells ...any) {
		if failed == nil {
			failed = w.Row(cells[:len(columns)])
		}
	}
	o.OnTemplate = func(frame int, e wire.TemplateEvent) {
		if e.Action == wire.Refreshed {
			return // the same again
		}
		kind := "template"
		if e.Template.Options() {
			kind = "options-template"
		}
		if e.Action == wire.Withdrawn {
			kind += "-withdrawn"
		}
		scope, fields := specs(e.Template)
		row(kind, address(e.Source.Addr), versionCell(e.Version), uint64(e.Domain), uint64(e.Template.ID), scope, fields,
			uint64(frame), e.Action.String(), octetsOf(e.Template), elementsOf(e.Template))
	}
	o.OnOptions = func(frame int, r wire.OptionsRecord) {
		kind := "options"
		if r.Version == flow.VersionSFlow {
			kind = "counters"
		}
		row(kind, address(r.Source.Addr), versionCell(r.Version), uint64(r.Domain), uint64(r.Template), rows.RawJSON(r.Scope), rows.RawJSON(r.Fields), uint64(frame), nil, nil, nil)
	}
	return func() error {
		if failed != nil {
			return failed
		}
		return w.Close()
	}
}

// octetsOf is how long a template's records are; unknown if some field brings its
// own length.
func octetsOf(t *wire.Template) any {
	n := uint64(0)
	for _, f := range t.Fields {
		if f.Length == wire.VariableLength {
			return nil
		}
		n += uint64(f.Length)
	}
	return n
}

// elementsOf is a template's fields for programs: an array of objects.
func elementsOf(t *wire.Template) any {
	type element struct {
		Scope  bool   `json:"scope,omitempty"`
		PEN    uint32 `json:"pen,omitempty"`
		ID     uint16 `json:"id"`
		Name   string `json:"name"`
		Type   string `json:"type"`
		Length any    `json:"length"` // octets, or "variable"
	}
	all := make([]element, len(t.Fields))
	for i, f := range t.Fields {
		all[i] = element{Scope: i < t.Scope, PEN: f.PEN, ID: f.ID, Name: f.Name, Type: t.Type(i).String(), Length: f.Length}
		if f.Length == wire.VariableLength {
			all[i].Length = "variable"
		}
	}
	b, err := json.Marshal(all)
	if err != nil {
		panic(err) // of numbers and text
	}
	return rows.RawJSON(b)
}

// specs writes a template's fields as name:length, the scope apart.
func specs(t *wire.Template) (scope, fields string) {
	var s, f []string
	for i, x := range t.Fields {
		length := fmt.Sprint(x.Length)
		if x.Length == wire.VariableLength {
			length = "variable"
		}
		if spec := x.Name + ":" + length; i < t.Scope {
			s = append(s, spec)
		} else {
			f = append(f, spec)
		}
	}
	return strings.Join(s, " "), strings.Join(f, " ")
}

// address is the text of a, nothing for a file's nowhere.
func address(a flow.Addr) string {
	if a.IsZero() {
		return ""
	}
	return a.String()
}

// printJSON prints v as one JSON object on one line.
func printJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// versionCell is a version as rows have it: a number, or a name.
func versionCell(v uint8) any {
	if v == flow.VersionSFlow {
		return flow.VersionName(v)
	}
	return uint64(v)
}
