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

// templateColumns are those of `weir decode --templates` and `show templates`.
var templateColumns = []string{"kind", "exporter", "version", "domain", "template", "scope", "fields"}

// listTemplates makes a decoding run list templates as they change, and
// options records. The result ends the output.
func listTemplates(o *collect.DecodeOptions, w *rows.Writer) (finish func() error) {
	var failed error
	row := func(cells ...any) {
		if failed == nil {
			failed = w.Row(cells)
		}
	}
	o.OnTemplate = func(e wire.TemplateEvent) {
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
		row(kind, address(e.Source.Addr), versionCell(e.Version), uint64(e.Domain), uint64(e.Template.ID), scope, fields)
	}
	o.OnOptions = func(r wire.OptionsRecord) {
		kind := "options"
		if r.Version == flow.VersionSFlow {
			kind = "counters"
		}
		row(kind, address(r.Source.Addr), versionCell(r.Version), uint64(r.Domain), uint64(r.Template), rows.RawJSON(r.Scope), rows.RawJSON(r.Fields))
	}
	return func() error {
		if failed != nil {
			return failed
		}
		return w.Close()
	}
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
