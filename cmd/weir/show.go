package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"weir/aggregate"
	"weir/config"
	"weir/control"
	"weir/query"
	"weir/rows"
)

type showCmd struct {
	What   string   `arg:"" help:"flows, top-talkers, cache, aggregation [SCHEME], interfaces, loss, balance, export, exporters, templates, access-lists, routes, guard or store."`
	Filter []string `arg:"" optional:"" help:"Of flows, top-talkers and cache --cisco: which flows (see: weir help filter); all, if there is none."`

	Number        *int   `short:"n" placeholder:"N" help:"Rows of flows and top-talkers; 0 for all flows (default: 10 for top-talkers, 100 for a table of flows, else all)."`
	Order         string `short:"O" placeholder:"ORDER" help:"Sort flows and top-talkers by bytes, packets, pps, bps, bpp, duration, first, last; :a ascends (default bytes)."`
	Stat          string `short:"s" sep:"none" placeholder:"STAT[:p][/ORDER]" help:"Of top-talkers: sums by srcip, dstip, ip, port, proto, as, if, …, instead of single flows."`
	SendTemplates bool   `name:"send-templates" help:"Of export: every destination gets its templates, and the options that go with them, now."`

	Cisco   bool   `help:"IOS's own layout: of cache, flows, top-talkers, interfaces, export, access-lists."`
	Verbose bool   `help:"With --cisco: two lines a flow, as show ip cache verbose flow."`
	Output  string `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json or ndjson (default ${default})."`
}

// view is one thing that `weir show` can show: a list that the control socket
// answers with.
type view struct {
	path    string   // of the control socket
	list    string   // the answer's key that holds the rows; "": the answer is one row
	columns []string // in this order
	// Of tables that are too wide: the columns that go, first to last, and the
	// one whose texts are cut before.
	drop []string
	cut  string
}

var views = map[string]view{
	"loss": {
		"/api/v1/losses", "losses",
		[]string{"stage", "reason", "records", "packets", "bytes", "datagrams", "recent", "help"},
		[]string{"help", "recent", "datagrams"},
		"help",
	},
	"balance": {"/control/balance", "balance", []string{"part", "reason", "packets", "bytes", "help"}, []string{"help"}, "help"},
	"cache": {"/control/cache", "", []string{
		"entries", "capacity", "created", "packets", "bytes", "idle_seconds", "active_seconds", "expired",
		"peak", "refused", "aggregates", "memory", "sweeps",
	}, nil, ""},
	"interfaces": {
		"/control/interfaces", "interfaces",
		[]string{
			"exporter", "index", "name", "alias", "mode", "packets_in", "bytes_in", "packets_out", "bytes_out", "dropped",
			"why", "ignored", "pps_in", "bps_in", "pps_out", "bps_out", "forwarded", "slow",
		},
		[]string{"ignored", "alias", "why", "slow", "forwarded", "pps_out", "pps_in", "bps_out", "bps_in", "dropped", "packets_out", "packets_in", "exporter"},
		"why",
	},
	"export": {"/control/export", "destinations", []string{ // as a table: printExport
		"address", "version", "records", "datagrams", "bytes", "failed", "state", "group", "local", "remote", "template", "domain", "payload",
		"sequence", "given_records", "filtered", "restored", "packets", "flow_bytes", "wire_records", "templates", "options", "connections",
		"queued", "queue_max", "in_flight", "spooled", "spooled_records", "spool_octets", "spool_max", "paced", "retried", "error", "error_at", "lost",
	}, nil, ""},
	"exporters": {
		"/api/v1/exporters", "exporters",
		[]string{"address", "name", "version", "domain", "datagrams", "records", "sequence_gaps", "sequence_lost", "sequence_unit", "sampling", "templates", "misses", "skew_seconds", "last_seen"},
		[]string{"name", "templates", "sequence_unit", "sampling", "sequence_gaps", "skew_seconds", "datagrams", "misses", "last_seen"},
		"",
	},
	"templates": {
		"/control/templates", "templates",
		[]string{"addr", "port", "version", "domain", "id", "kind", "scope", "fields", "seen"},
		[]string{"scope", "fields", "seen", "port"},
		"fields",
	},
	"access-lists": {
		"/control/access-lists", "rules",
		[]string{"family", "list", "seq", "rule", "kind", "packets", "bytes", "last", "bound"},
		[]string{"kind", "bound", "last", "bytes", "family"},
		"rule",
	},
	"routes": {
		"/control/routes", "routes",
		[]string{"kind", "interface", "address", "mac", "device", "vlan", "mtu", "state", "flows", "reason", "packets", "help"},
		[]string{"device", "vlan", "mtu", "help"},
		"help",
	},
	"aggregation": {
		"/control/aggregation", "caches",
		[]string{"cache", "entries", "capacity", "peak", "added", "packets", "bytes", "exported", "early", "active_seconds", "idle_seconds", "mask", "export"},
		[]string{"export", "idle_seconds", "active_seconds", "peak", "mask", "bytes"},
		"export",
	},
	"store": {"/control/store", "", []string{"dir", "records", "segments", "bytes", "durable", "buffered", "failing"}, nil, ""},
}

// showable lists what can be shown, in the order in which it is told.
var showable = []string{"flows", "top-talkers", "cache", "aggregation", "interfaces", "loss", "balance", "export", "exporters", "templates", "access-lists", "routes", "guard", "store"}

func (c *showCmd) Run(a *app) error {
	format, err := rows.ParseFormat(c.Output)
	if err != nil {
		return usageError{err}
	}
	if !slices.Contains(showable, c.What) {
		hint := ""
		if s := config.Suggest(c.What, showable); s != "" {
			hint = fmt.Sprintf(" (did you mean %q?)", s)
		}
		return usagef("show %s: accepted: %s%s", c.What, strings.Join(showable, ", "), hint)
	}
	if err := c.check(); err != nil {
		return err
	}
	conf, _, err := a.settings()
	if err != nil {
		return err
	}
	client := control.Client(conf.Control)
	switch {
	case c.aboutFlows():
		return c.stream(a, client)
	case c.What == "aggregation":
		return c.showAggregation(a, client, format)
	case c.Cisco:
		return c.cisco(a, client)
	case c.SendTemplates:
		return askTemplates(a, client)
	case c.What == "export" && format == rows.Table:
		list, err := fetch(client, views["export"])
		if err != nil {
			return err
		}
		return printExport(a.stdout, list)
	}
	if c.What == "routes" && format == rows.Table {
		return c.routes(a, client)
	}
	if c.What == "guard" {
		return c.guard(a, format)
	}
	if err := c.show(a, client, views[c.What], format); err != nil || c.What != "loss" || format != rows.Table {
		return err
	}
	// For people, the ledger and the balance belong together; scripts ask for one.
	lines, err := fetch(client, views["balance"])
	if err != nil || len(lines) == 0 {
		return nil // this process meters nothing
	}
	fmt.Fprintln(a.stdout)
	return c.print(a, views["balance"], rows.Table, ignoredInOne(lines))
}

// ignoredInOne sums up the lines of what was ignored, by reasons that the ledger has.
func ignoredInOne(lines []map[string]any) (out []map[string]any) {
	var packets, bytes int64
	for _, l := range lines {
		switch l["part"] {
		case "ignored":
			for n, sum := range map[string]*int64{"packets": &packets, "bytes": &bytes} {
				if v, ok := l[n].(json.Number); ok {
					i, _ := v.Int64()
					*sum += i
				}
			}
			continue
		case "difference":
			out = append(out, map[string]any{
				"part": "ignored", "packets": json.Number(fmt.Sprint(packets)), "bytes": json.Number(fmt.Sprint(bytes)),
				"help": "In no flow, by the reasons above (show balance has them apart).",
			})
		}
		out = append(out, l)
	}
	return out
}

// aboutFlows says whether the answer is a stream of flows or of sums of them.
func (c *showCmd) aboutFlows() bool {
	return c.What == "flows" || c.What == "top-talkers" || c.What == "cache" && c.Cisco
}

// check refuses flags that what is shown does not know.
func (c *showCmd) check() error {
	layouts := []string{"cache", "flows", "top-talkers", "aggregation", "interfaces", "export", "access-lists"}
	switch {
	case c.Cisco && !slices.Contains(layouts, c.What):
		return usagef("--cisco: IOS has no layout of %s; accepted: %s", c.What, strings.Join(layouts, ", "))
	case c.Cisco && c.Output != string(rows.Table):
		return usagef("--cisco is a layout of its own: without -o %s", c.Output)
	case c.Verbose && (!c.Cisco || c.What != "flows" && c.What != "cache"):
		return usagef("--verbose goes with show flows --cisco and show cache --cisco")
	case c.SendTemplates && (c.What != "export" || c.Cisco):
		return usagef("--send-templates goes with show export")
	case c.Stat != "" && c.What != "top-talkers":
		return usagef("-s goes with show top-talkers")
	case c.Number != nil && *c.Number < 0:
		return usagef("-n %d: accepted: 0 (all) or more", *c.Number)
	case c.What == "aggregation" && len(c.Filter) == 0 && c.Cisco:
		return usagef("show aggregation --cisco: name the cache, one of %s", strings.Join(aggregate.Names(), ", "))
	case c.What == "aggregation" && len(c.Filter) <= 1 && c.Number == nil && c.Order == "":
		return nil
	case !c.aboutFlows() && (len(c.Filter) > 0 || c.Number != nil || c.Order != ""):
		return usagef("show %s takes no filter, -n or -O: they choose flows", c.What)
	case c.What == "top-talkers" && c.Number != nil && *c.Number == 0, c.Number != nil && c.Order+c.Stat != "" && *c.Number == 0:
		return usagef("-n 0: a sorted list has 1 to %d rows", query.MostSorted)
	case c.Number != nil && *c.Number > query.MostSorted:
		return usagef("-n %d: a sorted list has 1 to %d rows; 0 for all flows, unsorted", *c.Number, query.MostSorted)
	case c.What != "top-talkers" && c.Order != "" && c.Number == nil && c.Output != string(rows.Table):
		return usagef("-O: say how many with -n N, of 1 to %d; all flows come unsorted", query.MostSorted)
	}
	if _, err := query.Parse(strings.Join(c.Filter, " ")); err != nil {
		return usageError{err}
	}
	return nil
}

// stream copies an answer about flows as it comes.
func (c *showCmd) stream(a *app, client *http.Client) (err error) {
	form := url.Values{"filter": {strings.Join(c.Filter, " ")}, "order": {c.Order}, "stat": {c.Stat}, "format": {c.Output}}
	switch {
	case c.Number != nil && *c.Number == 0:
		form.Set("limit", "-1")
	case c.Number != nil:
		form.Set("limit", strconv.Itoa(*c.Number))
	}
	if c.Verbose {
		form.Set("format", formatVerbose)
	} else if c.Cisco {
		form.Set("format", formatCisco)
	}
	if width := terminalWidth(a.stdout); width > 0 {
		form.Set("width", strconv.Itoa(width))
	}
	path := "/control/flows"
	if c.What == "top-talkers" {
		path = "/control/top"
	}
	request, err := http.NewRequestWithContext(a.ctx, http.MethodPost, "http://localhost"+path, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	client.Timeout = 0 // a long list takes as long as its reader
	r, err := client.Do(request)
	if err != nil {
		return unwrapped(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return refusal(r)
	}
	if _, err := io.Copy(a.stdout, r.Body); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the running weir broke off its answer: it ended, or nobody read on for long; its log says why (--log debug)")
		}
		return err
	}
	matched, _ := strconv.ParseUint(r.Trailer.Get(trailerMatched), 10, 64)
	given, _ := strconv.ParseUint(r.Trailer.Get(trailerGiven), 10, 64)
	if c.What == "flows" && c.Number == nil && given < matched {
		fmt.Fprintf(a.stderr, "weir: the first %d of %d flows, by %s; -n N shows N of them, -n 0 all\n", given, matched, orBytes(c.Order))
	}
	return nil
}

func orBytes(order string) string {
	if order == "" {
		return "bytes"
	}
	return order
}

// refusal is the error that an answer holds.
func refusal(r *http.Response) error {
	var object map[string]any
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&object); err != nil {
		return fmt.Errorf("the running weir answered %s with something else than JSON: %w", r.Request.URL.Path, err)
	}
	if r.StatusCode == http.StatusBadRequest {
		return usagef("%v", object["error"])
	}
	if r.StatusCode == http.StatusMethodNotAllowed {
		return errors.New("the running weir is older than this one and cannot tell: restart it")
	}
	return fmt.Errorf("the running weir says: %v", object["error"])
}

// unwrapped is an error of a client without the URL, which nobody typed.
func unwrapped(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// show prints a view.
func (c *showCmd) show(a *app, client *http.Client, v view, format rows.Format) error {
	list, err := fetch(client, v)
	if err != nil {
		return err
	}
	return c.print(a, v, format, list)
}

func (c *showCmd) print(a *app, v view, format rows.Format, list []map[string]any) error {
	lines := make([][]any, len(list))
	for i, object := range list {
		if object["mode"] == nil && c.What == "interfaces" {
			// Told by an exporter, not metered here: its counters are unknown.
			for _, name := range []string{"packets_in", "bytes_in", "packets_out", "bytes_out", "dropped"} {
				delete(object, name)
			}
		}
		lines[i] = make([]any, len(v.columns))
		for j, name := range v.columns {
			if format == rows.Table {
				lines[i][j] = plainCell(object[name])
			} else {
				lines[i][j] = cell(object[name])
			}
		}
	}
	width := terminalWidth(a.stdout)
	switch {
	case format == rows.Table && v.list == "": // one row: upright
		var upright [][]any
		for j, name := range v.columns {
			upright = append(upright, []any{name, lines[0][j]})
		}
		return uprightTable(a.stdout, upright)
	case format == rows.Table:
		left, err := writeTable(a.stdout, v.columns, lines, width, v.drop, v.cut)
		if len(left) > 0 {
			fmt.Fprintf(a.stderr, "weir: no room here for %s; -o csv has all\n", strings.Join(left, ", "))
		}
		return err
	}
	w := rows.New(a.stdout, format, v.columns)
	for _, line := range lines {
		if err := w.Row(line); err != nil {
			return err
		}
	}
	return w.Close()
}

// uprightTable prints names and values, a pair a line.
func uprightTable(w io.Writer, pairs [][]any) error {
	longest := 0
	for _, p := range pairs {
		longest = max(longest, len(p[0].(string)))
	}
	for _, p := range pairs {
		value := "-"
		switch v := p[1].(type) {
		case nil:
		case string:
			value = rows.Plain(v)
		default:
			value = fmt.Sprint(v)
		}
		if _, err := fmt.Fprintf(w, "%-*s  %s\n", longest, p[0], value); err != nil {
			return err
		}
	}
	return nil
}

// maxAnswer bounds what is read from the control socket, in octets.
const maxAnswer = 256 << 20

func fetch(c *http.Client, v view) ([]map[string]any, error) {
	r, err := c.Get("http://localhost" + v.path)
	if err != nil {
		return nil, unwrapped(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, refusal(r)
	}
	d := json.NewDecoder(io.LimitReader(r.Body, maxAnswer))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		return nil, fmt.Errorf("the running weir answered %s with something else than JSON: %w", v.path, err)
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

// plainCell is cell for people: counts by name as words, an empty text as none.
func plainCell(v any) any {
	switch v := v.(type) {
	case string:
		if v == "" {
			return nil
		}
	case []any:
		var words []string
		for _, x := range v {
			count, ok := x.(map[string]any)
			if !ok || count["name"] == nil || count["count"] == nil {
				return cell(v)
			}
			words = append(words, fmt.Sprintf("%v %v", count["name"], count["count"]))
		}
		return strings.Join(words, ", ")
	}
	return cell(v)
}
