package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/acl"
	"weir/config"
	"weir/control"
	"weir/datapath"
	"weir/flow"
	"weir/hook"
	"weir/host"
	"weir/rows"
)

var errNothingStaged = errors.New("nothing is staged; `weir acl stage FILE` does")

// applied forgets what is staged if that is in force for good now.
func (s *staging) applied(c *change) {
	if p := s.now.Load(); p != nil && p.Text == c.Text {
		s.now.CompareAndSwap(p, nil)
	}
}

// inForce is the lists that packets are judged by now; nil: none.
func (n *node) inForce() *datapath.InForce {
	d, err := n.filtered()
	if err != nil {
		return nil
	}
	return d.Filtering().InForce()
}

// stageEvery is how often staged lists follow the clock and the interfaces.
const stageEvery = 2 * time.Second

// followStaged does so until ctx ends.
func (n *node) followStaged(ctx context.Context) {
	tick := time.NewTicker(stageEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if s := n.staging.now.Load(); s != nil {
				if err := s.tick(now); err != nil {
					n.log.Error("staged access lists", "error", err)
				}
			}
		}
	}
}

// interfaceIndices are this machine's.
func interfaceIndices() map[string]uint32 {
	index := map[string]uint32{}
	all, err := host.Links()
	if err != nil {
		return index
	}
	for _, i := range all {
		index[i.Name] = i.Index
	}
	return index
}

// stageHandlers are the control socket's part about staged lists.
func (n *node) stageHandlers(answer func(string, func(http.ResponseWriter, *http.Request) (any, error))) {
	busy := make(chan struct{}, 1) // lists are compiled, and counts copied, one at a time
	alone := func(do func(http.ResponseWriter, *http.Request) (any, error)) func(http.ResponseWriter, *http.Request) (any, error) {
		return func(w http.ResponseWriter, r *http.Request) (any, error) {
			select {
			case busy <- struct{}{}:
				defer func() { <-busy }()
				return do(w, r)
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
	}
	answer("POST /control/acl/stage", alone(func(w http.ResponseWriter, r *http.Request) (any, error) {
		c, p, err := n.readChange(w, r)
		if err != nil {
			return nil, err
		}
		return n.stage(c, p)
	}))
	answer("GET /control/acl/stage", alone(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		most := defaultTop
		if text := r.URL.Query().Get("n"); text != "" {
			v, err := strconv.Atoi(text)
			if err != nil || v < 0 || v > mostTopped {
				return nil, badQuestion{fmt.Errorf("n %.40q: accepted: 0 to %d", text, mostTopped)}
			}
			most = v
		}
		return n.stagedAnswer(r.Context(), most)
	}))
	answer("POST /control/acl/stage/drop", func(http.ResponseWriter, *http.Request) (any, error) {
		if n.staging.now.Swap(nil) == nil {
			return nil, errNothingStaged
		}
		return map[string]any{}, nil
	})
	answer("POST /control/acl/bound", func(w http.ResponseWriter, r *http.Request) (any, error) {
		_, p, err := n.readChange(w, r)
		if err != nil {
			return nil, err
		}
		return map[string]any{"text": string(acl.AppendCisco(nil, p))}, nil
	})
}

// stage begins to count by lists.
func (n *node) stage(c change, p *acl.Policy) (any, error) {
	m, _, _ := n.rooms()
	conf := n.config()
	switch {
	case m == nil:
		return nil, errNotMetering
	case conf.Cache.Key == "5tuple":
		return nil, errors.New("flows are told apart by cache.key 5tuple here, which lacks the interface: access lists need the key cisco")
	case len(p.Bindings) == 0:
		return nil, badQuestion{fmt.Errorf("%s applies its lists nowhere, and interfaces.NAME.acl of the configuration neither: `interface NAME`, `ip access-group LIST in`", c.Name)}
	}
	o := filterOptions(conf)
	s, err := newStaged(c, p, juryOptions{
		protect: protected(conf, c.Session), countOnly: o.CountOnly, closed: closedInterfaces(conf), indices: interfaceIndices,
	}, n.inForce)
	if err != nil {
		return nil, badQuestion{errors.New(oneLine(err))}
	}
	n.staging.now.Store(s)
	rules := 0
	for _, l := range p.Lists {
		rules += len(l.Rules)
	}
	n.log.Info("access lists are staged: they count, and drop nothing", "lists", len(p.Lists), "rules", rules)
	return map[string]any{"lists": len(p.Lists), "rules": rules, "notes": n.stageNotes(p)}, nil
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// closedInterfaces are those where nothing passes that no list judges.
func closedInterfaces(conf *config.Config) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(conf.Interfaces)) {
		if conf.Interfaces[name].ACL.NoList == "closed" {
			names = append(names, name)
		}
	}
	return names
}

// stageNotes say what of staged lists counts nothing, or could not be applied.
func (n *node) stageNotes(p *acl.Policy) (notes []string) {
	m, _, _ := n.rooms()
	plans, ok := m.(planner)
	if !ok {
		return nil
	}
	if _, err := n.filtered(); err != nil {
		notes = append(notes, "nothing is filtered here: applied, these lists need an `acl:` in the configuration and a restart")
	}
	var names []string
	for _, b := range p.Bindings {
		names = append(names, b.Interface)
	}
	slices.Sort(names)
	index := interfaceIndices()
	for _, name := range slices.Compact(names) {
		plan := plans.plan(index[name])
		switch {
		case plan == nil:
			notes = append(notes, name+" is not metered here: its lists judge nothing")
		case plan.Mode == hook.AFPacket:
			notes = append(notes, name+" is metered through packet sockets: applied, its lists drop nothing")
		}
	}
	return notes
}

// defaultTop is how many flows are named of each change.
const defaultTop = 10

// stagedRow is a row of `weir acl stage`. What is empty is not known, or not of its
// section.
type stagedRow struct {
	Section string  `json:"section"` // change, flow, rule, not-judged
	Change  string  `json:"change,omitempty"`
	List    string  `json:"list,omitempty"`
	Family  string  `json:"family,omitempty"`
	Rule    *uint32 `json:"rule,omitempty"`
	Kind    string  `json:"kind,omitempty"` // rule, protected, implicit
	Verdict string  `json:"verdict,omitempty"`
	Depends string  `json:"depends_on,omitempty"`
	Proto   *uint8  `json:"proto,omitempty"`
	Src     string  `json:"src,omitempty"`
	SrcPort *uint16 `json:"sport,omitempty"`
	Dst     string  `json:"dst,omitempty"`
	DstPort *uint16 `json:"dport,omitempty"`
	Input   uint32  `json:"input,omitempty"`
	Output  uint32  `json:"output,omitempty"`
	Flows   uint64  `json:"flows"`
	Packets uint64  `json:"packets"`
	Bytes   uint64  `json:"bytes"`
	First   int64   `json:"first,omitempty"` // Unix ns
	Last    int64   `json:"last,omitempty"`
	Text    string  `json:"text,omitempty"` // of the rule
}

var stagedColumns = []string{
	"section", "change", "list", "family", "rule", "kind", "verdict", "depends_on", "proto", "src", "sport", "dst", "dport", "input", "output",
	"flows", "packets", "bytes", "first", "last", "text",
}

func (r *stagedRow) cells() []any {
	text := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	index := func(i uint32) any {
		if i == 0 {
			return nil
		}
		return i
	}
	return []any{
		r.Section, text(r.Change), text(r.List), text(r.Family), known(r.Rule), text(r.Kind), text(r.Verdict), text(r.Depends),
		known(r.Proto), text(r.Src), known(r.SrcPort), text(r.Dst), known(r.DstPort), index(r.Input), index(r.Output),
		r.Flows, r.Packets, r.Bytes, when(r.First), when(r.Last), text(r.Text),
	}
}

// known is a number as a cell.
func known[N uint8 | uint16 | uint32](n *N) any {
	if n == nil {
		return nil
	}
	return *n
}

// stagedReport is what `weir acl stage` shows.
type stagedReport struct {
	Name     string      `json:"name"`
	Since    time.Time   `json:"since"`
	Compared time.Time   `json:"compared"` // changes are counted since then
	Force    bool        `json:"force"`    // something is in force
	Partial  bool        `json:"partial"`  // of very many changed flows only some are known
	Flows    uint64      `json:"flows"`
	Packets  uint64      `json:"packets"`
	Bytes    uint64      `json:"bytes"`
	Rows     []stagedRow `json:"rows"`
	Notes    []string    `json:"notes"`
}

func (n *node) stagedAnswer(ctx context.Context, most int) (*stagedReport, error) {
	s := n.staging.now.Load()
	if s == nil {
		return nil, errNothingStaged
	}
	m, _, _ := n.rooms()
	if m == nil {
		return nil, errNotMetering
	}
	s, err := s.read(func(yield func([]flow.Record) error) error { return walkOf(m)(ctx, yield) })
	if err != nil {
		return nil, err
	}
	r := s.report(most)
	r.Notes = n.stageNotes(s.policy)
	return r, nil
}

// report makes the rows of a copy.
func (s *staged) report(most int) *stagedReport {
	c := &s.counts
	r := &stagedReport{
		Name: s.Name, Since: s.since, Compared: s.compared, Force: s.inForce != nil, Partial: c.top[newlyDropped].partial || c.top[newlyPassed].partial,
		Flows: c.all.flows, Packets: c.all.packets, Bytes: c.all.bytes, Rows: []stagedRow{},
	}
	add := func(row stagedRow, x *sums) {
		row.Flows, row.Packets, row.Bytes, row.First, row.Last = x.flows, x.packets, x.bytes, x.first, x.last
		r.Rows = append(r.Rows, row)
	}
	for i := range c.changes {
		add(stagedRow{Section: "change", Change: changeNames[i]}, &c.changes[i])
	}
	for i := range c.top {
		for _, k := range c.top[i].most(most) {
			x := c.top[i].by[k]
			row := stagedRow{Section: "flow"}
			if x.n > 0 {
				row = s.ruleRow("flow", x.by)
			}
			row.Change = changeNames[i]
			row.Proto, row.Src, row.SrcPort, row.Dst, row.DstPort = &k.proto, k.src.String(), &k.srcPort, k.dst.String(), &k.dstPort
			row.Input, row.Output = k.input, k.output
			add(row, &x.sums)
		}
	}
	for l, rules := range c.rules {
		for i := range rules {
			x := &rules[i]
			rule := s.lists.bank.Rules(l)[i]
			add(s.ruleRow("rule", decision{l, ruling{rule: i, verdict: rule.Action.String()}}), &x.alone)
			others := slices.SortedFunc(maps.Keys(x.others), func(a, b ruling) int {
				if a.depends != b.depends {
					return int(a.depends) - int(b.depends)
				}
				return strings.Compare(a.verdict, b.verdict)
			})
			for _, o := range others {
				add(s.ruleRow("rule", decision{l, o}), x.others[o])
			}
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(c.skipped)) {
		add(stagedRow{Section: "not-judged", Depends: reason}, c.skipped[reason])
	}
	return r
}

// ruleRow tells of a rule and what comes of it.
func (s *staged) ruleRow(section string, d decision) stagedRow {
	l := s.policy.Lists[d.list]
	rule := s.lists.bank.Rules(d.list)[d.rule]
	row := stagedRow{Section: section, List: l.Name, Family: l.Family.String(), Kind: "rule", Verdict: d.verdict, Text: rule.Cisco(l.Family)}
	if d.depends != acl.NoField {
		row.Depends = d.depends.String()
	}
	switch shield := s.lists.shield[l.Family]; {
	case d.rule < shield:
		row.Kind = "protected"
	case d.rule >= shield+len(l.Rules):
		row.Kind = "implicit"
	default:
		row.Rule = &rule.Seq
	}
	return row
}

// --- the verb ---

type aclStageCmd struct {
	File   string `arg:"" optional:"" help:"Access lists, in Cisco's words or in YAML; - is stdin. Without: what those that are staged would do."`
	Drop   bool   `help:"Forget what is staged."`
	Number int    `short:"n" default:"10" placeholder:"N" help:"How many of the flows are named that would be dropped, or pass, unlike now (default ${default})."`
	All    bool   `help:"All rules in a table, of long lists also those that no flow met."`
	Output string `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json, ndjson (default ${default})."`
}

func (c *aclStageCmd) Run(a *app) error {
	format, err := rows.ParseFormat(c.Output)
	switch {
	case err != nil:
		return usageError{err}
	case c.Drop && c.File != "":
		return usagef("--drop forgets what is staged: without a file")
	case c.Number < 0 || c.Number > mostTopped:
		return usagef("-n %d: accepted: 0 to %d", c.Number, mostTopped)
	case c.Drop:
		if err := a.post("/control/acl/stage/drop", nil, nil); err != nil {
			return err
		}
		fmt.Fprintln(a.stderr, "weir: nothing is staged any more")
		return nil
	case c.File != "":
		return c.stage(a)
	}
	var r stagedReport
	if err := a.get(fmt.Sprintf("/control/acl/stage?n=%d", c.Number), &r); err != nil {
		return err
	}
	if format == rows.Table {
		return c.table(a, &r)
	}
	w := rows.New(a.stdout, format, stagedColumns)
	for i := range r.Rows {
		if err := w.Row(r.Rows[i].cells()); err != nil {
			return err
		}
	}
	return w.Close()
}

func (c *aclStageCmd) stage(a *app) error {
	x, err := readChange(a, c.File)
	if err != nil {
		return err
	}
	x.Session = os.Getenv("SSH_CONNECTION")
	var answer struct {
		Lists int      `json:"lists"`
		Rules int      `json:"rules"`
		Notes []string `json:"notes"`
	}
	if err := a.post("/control/acl/stage", x, &answer); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "weir: staged: %s of %s, which drop nothing; `weir acl stage` shows what they would\n", count(answer.Lists, "list"), count(answer.Rules, "rule"))
	for _, note := range answer.Notes {
		fmt.Fprintf(a.stderr, "weir: %s\n", rows.Plain(note))
	}
	return nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// longList is how many rules a table has at most of those that no flow met.
const longList = 40

// table prints a report for people.
func (c *aclStageCmd) table(a *app, r *stagedReport) error {
	const layout = "2006-01-02 15:04:05"
	fmt.Fprintf(a.stdout, "%s, staged %s: %d flows, %d packets, %d bytes\n", rows.Plain(r.Name), r.Since.Local().Format(layout), r.Flows, r.Packets, r.Bytes)
	against := "nothing, as no lists are in force"
	if r.Force {
		against = "the lists in force, since " + r.Compared.Local().Format(layout)
	}
	fmt.Fprintf(a.stdout, "\nAgainst %s\n", against)
	w := rows.New(a.stdout, rows.Table, []string{"flows", "packets", "bytes", "would be"})
	for _, x := range r.section("change") {
		if err := w.Row([]any{x.Flows, x.Packets, x.Bytes, changeWords[x.Change]}); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	for _, way := range changeNames[:changeDepends] {
		if err := c.flows(a, r, way); err != nil {
			return err
		}
	}
	if err := c.rules(a, r); err != nil {
		return err
	}
	skipped := r.section("not-judged")
	if len(skipped) > 0 {
		fmt.Fprintln(a.stdout)
	}
	for _, x := range skipped {
		fmt.Fprintf(a.stdout, "not judged, %s: %d flows, %d packets, %d bytes\n", x.Depends, x.Flows, x.Packets, x.Bytes)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(a.stderr, "weir: %s\n", rows.Plain(note))
	}
	return nil
}

var changeWords = map[string]string{"newly-dropped": "newly dropped", "newly-passed": "newly passed", "depends": "depends: a record cannot tell", "none": "as now"}

func (r *stagedReport) section(name string) (list []*stagedRow) {
	for i := range r.Rows {
		if r.Rows[i].Section == name {
			list = append(list, &r.Rows[i])
		}
	}
	return list
}

// flows prints those whose fate would change in a way.
func (c *aclStageCmd) flows(a *app, r *stagedReport, way string) error {
	names := interfaceNameTable()
	port := func(i uint32) any {
		if name, ok := names[i]; ok {
			return name
		}
		if i == 0 {
			return nil
		}
		return i
	}
	w, n := rows.New(a.stdout, rows.Table, []string{"flows", "packets", "bytes", "proto", "source", "sport", "destination", "dport", "in", "out", "rule"}), 0
	for _, x := range r.section("flow") {
		if x.Change != way {
			continue
		}
		if n++; n == 1 {
			about := ""
			if r.Partial {
				about = " (of very many; counts may be too low)"
			}
			fmt.Fprintf(a.stdout, "\n%s%s most\n", strings.ToUpper(changeWords[way][:1])+changeWords[way][1:], about)
		}
		rule := any(nil)
		if x.Text != "" {
			rule = strings.TrimSpace(fmt.Sprintf("%s %v", x.List, ruleName(x)))
		}
		if err := w.Row([]any{x.Flows, x.Packets, x.Bytes, known(x.Proto), x.Src, known(x.SrcPort), x.Dst, known(x.DstPort), port(x.Input), port(x.Output), rule}); err != nil {
			return err
		}
	}
	if n == 0 {
		return nil
	}
	return w.Close()
}

func ruleName(x *stagedRow) string {
	if x.Rule != nil {
		return fmt.Sprint(*x.Rule)
	}
	return x.Kind
}

// rules prints each list's.
func (c *aclStageCmd) rules(a *app, r *stagedReport) (err error) {
	all := r.section("rule")
	for len(all) > 0 {
		n := slices.IndexFunc(all, func(x *stagedRow) bool { return x.List != all[0].List || x.Family != all[0].Family })
		if n < 0 {
			n = len(all)
		}
		list := all[:n]
		all = all[n:]
		l := acl.List{Name: list[0].List}
		if list[0].Family == acl.IPv6.String() {
			l.Family = acl.IPv6
		}
		fmt.Fprintf(a.stdout, "\n%s\n", rows.Plain(l.Head()))
		w, left := rows.New(a.stdout, rows.Table, []string{"flows", "packets", "bytes", "verdict", "last", "rule"}), 0
		for _, x := range list {
			if x.Flows == 0 && (x.Kind != "rule" || n > longList && !c.All) {
				if x.Kind == "rule" {
					left++
				}
				continue
			}
			verdict := x.Verdict
			if x.Depends != "" {
				verdict += " (" + x.Depends + ")"
			}
			text := ruleName(x) + " " + x.Text
			if x.Rule == nil {
				text = "[" + x.Kind + "] " + x.Text
			}
			if err := w.Row([]any{x.Flows, x.Packets, x.Bytes, verdict, when(x.Last), text}); err != nil {
				return err
			}
		}
		if err := w.Close(); err != nil {
			return err
		}
		if left > 0 {
			fmt.Fprintf(a.stdout, "%s without a flow; --all has all\n", count(left, "rule"))
		}
	}
	return nil
}

// get asks the running weir for something.
func (a *app) get(path string, answer any) error {
	conf, _, err := a.settings()
	if err != nil {
		return err
	}
	r, err := control.Client(conf.Control).Get("http://localhost" + path)
	if err != nil {
		return unwrapped(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return refusal(r)
	}
	return json.NewDecoder(io.LimitReader(r.Body, maxAnswer)).Decode(answer)
}
