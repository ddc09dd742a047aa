package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"weir/config"
	"weir/control"
	"weir/rows"
)

type showCmd struct {
	What   string `arg:"" help:"loss, cache, interfaces, export, exporters, templates or store."`
	Output string `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json or ndjson (default ${default})."`
}

// view is one thing that `weir show` can show: a list of the API.
type view struct {
	path    string   // of the control socket
	list    string   // the answer's key that holds the rows; "": the answer is one row
	columns []string // in this order
}

var views = map[string]view{
	"loss":       {"/api/v1/losses", "losses", []string{"stage", "reason", "records", "packets", "bytes", "datagrams", "recent", "help"}},
	"cache":      {"/control/cache", "", []string{"entries", "capacity", "created", "packets", "bytes", "idle_seconds", "active_seconds", "expired"}},
	"interfaces": {"/api/v1/interfaces", "interfaces", []string{"exporter", "index", "name", "alias", "mode", "packets_in", "bytes_in", "packets_out", "bytes_out", "dropped"}},
	"export":     {"/control/export", "destinations", []string{"address", "version", "records", "datagrams", "bytes", "failed"}},
	"exporters":  {"/api/v1/exporters", "exporters", []string{"address", "name", "version", "domain", "datagrams", "records", "sequence_gaps", "sequence_lost", "sequence_unit", "sampling", "templates", "misses", "skew_seconds", "last_seen"}},
	"templates":  {"/control/templates", "templates", []string{"addr", "port", "version", "domain", "id", "kind", "scope", "fields", "seen"}},
	"store":      {"/control/store", "", []string{"dir", "records", "segments", "bytes", "durable", "buffered", "failing"}},
}

func (c *showCmd) Run(a *app) error {
	format, err := rows.ParseFormat(c.Output)
	if err != nil {
		return usageError{err}
	}
	if slices.Contains([]string{"flows", "top-talkers", "access-lists", "routes", "guard"}, c.What) {
		return usagef("show %s is not in this version yet", c.What)
	}
	v, ok := views[c.What]
	if !ok {
		names := slices.Sorted(maps.Keys(views))
		hint := ""
		if s := config.Suggest(c.What, names); s != "" {
			hint = fmt.Sprintf(" (did you mean %q?)", s)
		}
		return usagef("show %s: accepted: %s%s", c.What, strings.Join(names, ", "), hint)
	}
	conf, _, err := a.settings()
	if err != nil {
		return err
	}
	list, err := fetch(control.Client(conf.Control), v)
	if err != nil {
		return err
	}
	w := rows.New(a.stdout, format, v.columns)
	for _, object := range list {
		if object["mode"] == nil && c.What == "interfaces" {
			// Told by an exporter, not metered here: its counters are unknown.
			for _, name := range []string{"packets_in", "bytes_in", "packets_out", "bytes_out", "dropped"} {
				delete(object, name)
			}
		}
		line := make([]any, len(v.columns))
		for i, name := range v.columns {
			line[i] = cell(object[name])
		}
		if err := w.Row(line); err != nil {
			return err
		}
	}
	return w.Close()
}

// maxAnswer bounds what is read from the control socket, in octets.
const maxAnswer = 256 << 20

func fetch(c *http.Client, v view) ([]map[string]any, error) {
	r, err := c.Get("http://localhost" + v.path)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // without the URL, which nobody typed
		}
		return nil, err
	}
	defer r.Body.Close()
	d := json.NewDecoder(io.LimitReader(r.Body, maxAnswer))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		return nil, fmt.Errorf("the running weir answered %s with something else than JSON: %w", v.path, err)
	}
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the running weir says: %v", object["error"])
	}
	if v.list == "" {
		return []map[string]any{object}, nil
	}
	var list []map[string]any
	items, _ := object[v.list].([]any)
	for _, item := range items {
		if m, ok := item.(map[string]any); ok {
			list = append(list, m)
		}
	}
	return list, nil
}

// cell turns a JSON value into one that rows prints as it came.
func cell(v any) any {
	switch v := v.(type) {
	case nil, string, bool:
		return v
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return rows.RawJSON(b)
}
