package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"weir/config"
	"weir/query"
	"weir/rows"
	"weir/store"
)

type queryCmd struct {
	Filter []string `arg:"" optional:"" help:"What to match (see: weir help filter); all, if there is none."`

	Store   string           `placeholder:"DIR" help:"The store (default: as configured, /var/lib/weir)."`
	Time    timeSpan         `short:"t" placeholder:"FROM[/TO]" help:"Flows that ended then: RFC 3339, '2026-11-22 10:00', or relative as -1h."`
	Stat    []string         `short:"s" sep:"none" placeholder:"STAT[:p][/ORDER]" help:"Top list: srcip, dstport:p/bytes, as, proto, … Repeatable."`
	Keys    string           `short:"A" name:"aggregate" placeholder:"KEYS" help:"Sum up by keys: srcip, srcip4/24, dstport, proto, …, separated by commas."`
	Order   string           `short:"O" placeholder:"ORDER" help:"Sort by flows, packets, bytes, pps, bps, bpp, tstart, tend, duration; :a ascends."`
	Number  *int             `short:"n" placeholder:"N" help:"Rows; 0 for all (default: 10 for -s, all for the rest)."`
	Series  *config.Duration `placeholder:"BIN" help:"One row for each BIN of time, as 5m; with -A or -s for each BIN and key."`
	Output  string           `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json, ndjson (default ${default}); or nfdump's line, long, extended, fmt:…, csv:…, nfdump-json, nfdump-csv."`
	Write   string           `short:"w" placeholder:"FILE" help:"Write there instead of to stdout."`
	Explain bool             `help:"Print the plan and its SQL instead of the answer."`
}

func (c *queryCmd) Run(a *app) (err error) {
	requests, err := c.requests(time.Now())
	if err != nil {
		return err
	}
	if !query.IsLayout(c.Output) {
		if _, err := rows.ParseFormat(c.Output); err != nil {
			return usagef("%v; or nfdump's line, long, extended, fmt:…, csv:…, nfdump-json, nfdump-csv", err)
		}
	}
	conf, log, err := a.settings()
	if err != nil {
		return err
	}
	dir := conf.Store.Dir
	if c.Store != "" {
		dir = c.Store
	}
	reader, err := store.OpenReader(dir)
	if err != nil {
		return err
	}
	engine, err := query.Open(reader, query.Options{Log: log})
	if err != nil {
		return err
	}
	if closer, ok := engine.(io.Closer); ok {
		defer closer.Close()
	}
	out, done, err := a.output(c.Write)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	for i, r := range requests {
		if i > 0 && c.Output != string(rows.NDJSON) {
			fmt.Fprintln(out)
		}
		if err := c.answer(a, engine, r, out); err != nil {
			return mistaken(engine, r, err)
		}
	}
	return incomplete(engine)
}

// incomplete is the error of an answer that broken segments are missing from.
func incomplete(engine query.Engine) error {
	broken := query.Broken(engine)
	if len(broken) == 0 {
		return nil
	}
	records, files := uint64(0), make([]string, 0, len(broken))
	for _, s := range broken {
		records += s.Rows
		files = append(files, s.File)
	}
	more := ""
	if len(files) > 3 {
		files, more = files[:3], ", …"
	}
	return fmt.Errorf("the answer is incomplete: %d broken segments with %d records are left out (%s%s)", len(broken), records, strings.Join(files, ", "), more)
}

// requests checks the flags; several -s are several questions.
func (c *queryCmd) requests(now time.Time) ([]query.Request, error) {
	r := query.Request{Filter: strings.Join(c.Filter, " "), Order: c.Order}
	if _, err := query.Parse(r.Filter); err != nil {
		return nil, usageError{err}
	}
	var err error
	if r.From, r.To, err = parseSpan(string(c.Time), now); err != nil {
		return nil, usageError{err}
	}
	if c.Keys != "" {
		r.Keys = strings.Split(c.Keys, ",")
	}
	if c.Series != nil {
		if r.Bin = time.Duration(*c.Series); r.Bin <= 0 {
			return nil, usagef("--series %v: accepted: a length of time, e.g. 30s or 5m", r.Bin)
		}
	}
	switch {
	case c.Number != nil && *c.Number < 0:
		return nil, usagef("-n %d: accepted: 0 (all) or more", *c.Number)
	case c.Number != nil && *c.Number > 0:
		r.Limit = *c.Number
	case c.Number != nil || len(c.Stat) == 0:
		r.Limit = -1
	}
	if len(c.Stat) == 0 {
		return []query.Request{r}, nil
	}
	var list []query.Request
	for _, s := range c.Stat {
		for _, one := range query.SplitStat(s) { // a table for each order
			r.Stat = one
			list = append(list, r)
		}
	}
	if len(list) > 1 && c.Output == string(rows.JSON) {
		return nil, usagef("-o json prints one array: give one -s with one order at a time, or -o ndjson")
	}
	return list, nil
}

func (c *queryCmd) answer(a *app, engine query.Engine, r query.Request, out io.Writer) error {
	if c.Explain {
		plan, err := engine.Explain(r)
		if err == nil {
			_, err = fmt.Fprintln(out, plan)
		}
		return err
	}
	raw := r.Stat == "" && len(r.Keys) == 0 && r.Bin == 0
	if query.IsLayout(c.Output) {
		p, err := query.NewPrinter(out, c.Output)
		if err != nil {
			return usageError{err}
		}
		if raw {
			total, err := engine.Flows(a.ctx, r, p)
			if err != nil {
				return err
			}
			return p.Close(total)
		}
		res, err := engine.Aggregate(a.ctx, r)
		if err != nil {
			return err
		}
		if err := p.WriteResult(r, res); err != nil {
			return err
		}
		return p.Close(res.Total)
	}
	format := rows.Format(c.Output)
	if raw {
		w := rows.NewFlows(out, format, false)
		if _, err := engine.Flows(a.ctx, r, w); err != nil {
			return err
		}
		return w.Close()
	}
	res, err := engine.Aggregate(a.ctx, r)
	if err != nil {
		return err
	}
	w := rows.New(out, format, res.Columns)
	for _, line := range res.Rows {
		if err := w.Row(line); err != nil {
			return err
		}
	}
	return w.Close()
}

// mistaken makes what the user mistyped a usage error: what cannot be planned
// can be mended by no store.
func mistaken(engine query.Engine, r query.Request, err error) error {
	if _, unplanned := engine.Explain(r); unplanned != nil {
		return usageError{err}
	}
	return err
}

// timeSpan is -t's FROM[/TO]. Its -1h is a value, though it looks like a flag.
type timeSpan string

// Decode takes the next word whatever it begins with.
func (s *timeSpan) Decode(c *kong.DecodeContext) error {
	t := c.Scan.Pop()
	text := strings.TrimPrefix(fmt.Sprint(t.Value), "=")
	if rel, ok := strings.CutPrefix(text, "-"); t.IsEOL() || ok && strings.IndexAny(rel, "0123456789") != 0 {
		return errors.New("accepted: FROM[/TO], as -1h or 2026-11-22/2026-11-23")
	}
	*s = timeSpan(text)
	return nil
}

// output opens the file that -w names, or stdout. The file appears under its
// name at once: an output that can be followed while it grows.
func (a *app) output(path string) (io.Writer, func() error, error) {
	if path == "" || path == "-" {
		return a.stdout, func() error { return nil }, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}

// parseSpan reads FROM[/TO]; the empty string is all time.
func parseSpan(s string, now time.Time) (from, to time.Time, err error) {
	if s == "" {
		return from, to, nil
	}
	a, b, both := strings.Cut(s, "/")
	if from, err = parseTime(a, now); err != nil {
		return from, to, err
	}
	if !both {
		return from, to, nil
	}
	if to, err = parseTime(b, now); err != nil {
		return from, to, err
	}
	if !from.Before(to) {
		return from, to, fmt.Errorf("-t %s: the end is not after the beginning", s)
	}
	return from, to, nil
}

// parseTime reads RFC 3339, a local-looking time taken as UTC, or -1h.
func parseTime(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	if s == "now" {
		return now, nil
	}
	if rel, ok := strings.CutPrefix(s, "-"); ok {
		d, err := config.ParseDuration(rel)
		if err == nil {
			return now.Add(-time.Duration(d)), nil
		}
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("time %q: accepted: 2026-11-22T10:00:00Z, '2026-11-22 10:00' (UTC), 2026-11-22, -1h, now", s)
}
