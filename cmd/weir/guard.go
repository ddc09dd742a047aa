package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"weir/config"
	"weir/control"
	"weir/datapath"
	"weir/guard"
	"weir/meter"
	"weir/query"
	"weir/rows"
	"weir/store"
)

// guardCmd is all that can be asked of the guard. What needs a running weir asks at its
// control socket.
type guardCmd struct {
	List     guardListCmd     `cmd:"" help:"What is proposed and in force, and what was."`
	Propose  guardProposeCmd  `cmd:"" help:"Propose an action of your own; with --approve, put it in force."`
	Approve  guardApproveCmd  `cmd:"" help:"Put a proposal in force."`
	Lift     guardLiftCmd     `cmd:"" help:"End what is in force, or deny a proposal."`
	Extend   guardExtendCmd   `cmd:"" help:"Let what is in force last longer, or shorter."`
	Simulate guardSimulateCmd `cmd:"" help:"Replay stored flows, or captures, against the thresholds: what would have fired?"`
	Baseline guardBaselineCmd `cmd:"" help:"Thresholds that would fit what was seen, as a proposal."`
	Import   guardImportCmd   `cmd:"" help:"Make a configuration of a fastnetmon.conf, with a report of every line."`
	Off      guardOffCmd      `cmd:"" help:"The kill switch: nothing is dropped, policed or announced until weir guard on. Works without a running weir."`
	On       guardOnCmd       `cmd:"" help:"Undo weir guard off."`
}

// --- asking ---

type guardListCmd struct {
	All    bool   `help:"Also those that are over."`
	Output string `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json, ndjson (default ${default})."`
}

var actionColumns = []string{
	"id", "state", "what", "left", "hit", "innocent", "counted_packets", "dropped_packets", "by", "why", "group", "created", "ends", "attack", "here", "note", "undo",
}

func (c *guardListCmd) Run(a *app) error {
	format, err := rows.ParseFormat(c.Output)
	if err != nil {
		return usageError{err}
	}
	s, err := a.guardStatus()
	if err != nil {
		return err
	}
	if !s.On {
		fmt.Fprintln(a.stderr, "weir: the kill switch is off: nothing is in force until `weir guard on`")
	}
	var lines [][]any
	for i := range s.Actions {
		if act := &s.Actions[i]; c.All || act.State == guard.StateObserved || act.State == guard.StateProposed || act.State == guard.StateActive {
			lines = append(lines, actionLine(act, format))
		}
	}
	if format == rows.Table {
		return printFitted(a, actionColumns, lines, []string{"undo", "here", "attack", "created", "ends", "group", "counted_packets", "innocent", "note", "by"}, "why")
	}
	return printRows(a.stdout, format, actionColumns, lines)
}

func actionLine(act *guard.ActionStatus, format rows.Format) []any {
	at := func(ns int64) any {
		if ns == 0 {
			return nil
		}
		return time.Unix(0, ns)
	}
	left := any(nil)
	if act.State == guard.StateActive {
		left = act.Left
		if format == rows.Table {
			left = config.Duration(time.Duration(act.Left) * time.Second).String()
		}
	}
	hit, innocent := any(act.Hit), any(act.Innocent)
	if format == rows.Table {
		hit, innocent = shareText(act.Hit), shareText(act.Innocent)
	}
	if act.Attack == 0 {
		hit, innocent = nil, nil
	}
	attack := any(nil)
	if act.Attack != 0 {
		attack = act.Attack
	}
	return []any{
		act.ID, string(act.State), act.What, left, hit, innocent, act.Counted.Packets, act.Dropped.Packets, act.By, act.Why, act.Group,
		at(act.Created), at(act.Ends), attack, act.Here, act.Note, act.Undo,
	}
}

func shareText(f float64) string { return fmt.Sprintf("%.0f%%", 100*f) }

// guardStatus asks the running weir.
func (a *app) guardStatus() (s guard.Status, err error) {
	conf, _, err := a.settings()
	if err != nil {
		return s, err
	}
	r, err := control.Client(conf.Control).Get("http://localhost/control/guard")
	if err != nil {
		return s, unwrapped(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return s, refusal(r)
	}
	return s, json.NewDecoder(io.LimitReader(r.Body, maxAnswer)).Decode(&s)
}

// --- deciding ---

type guardProposeCmd struct {
	To        *config.Prefix  `placeholder:"PREFIX" help:"Packets to there; an address alone is itself."`
	From      *config.Prefix  `placeholder:"PREFIX" help:"Packets from there."`
	Proto     string          `placeholder:"PROTO" help:"Of this protocol: tcp, udp, icmp, … or a number."`
	Sport     []uint16        `placeholder:"PORT" help:"From one of these ports, up to 8."`
	Dport     uint16          `placeholder:"PORT" help:"To this port."`
	Fragments bool            `help:"Later fragments only."`
	SYN       bool            `name:"syn" help:"TCP with SYN and without ACK only."`
	New       bool            `help:"Flows that are not in the cache only; what is dropped does not enter it."`
	Action    string          `default:"police" placeholder:"WHAT" help:"count, police or drop (default ${default})."`
	PPS       string          `name:"pps" placeholder:"RATE" help:"What passes, of police: packets a second, as 5k."`
	BPS       string          `name:"bps" placeholder:"RATE" help:"What passes, of police: bit/s, as 100M."`
	Announce  string          `default:"none" placeholder:"HOW" help:"Also by BGP: flowspec or rtbh."`
	For       config.Duration `default:"10m" placeholder:"TIME" help:"How long it lasts (default ${default})."`
	Why       string          `placeholder:"TEXT" help:"The reason, for those who read the list."`
	Approve   bool            `help:"Put it in force at once."`
	Override  bool            `help:"With --approve: also if some of it is allowed, which is spared."`
}

// request is what the control socket is asked about one action.
type guardRequest struct {
	ID       uint64        `json:"id,omitempty"`
	By       string        `json:"by"`
	Override bool          `json:"override,omitempty"`
	For      time.Duration `json:"for,omitempty"`
	Action   *guard.Action `json:"action,omitempty"`
	Approve  bool          `json:"approve,omitempty"`
}

func (c *guardProposeCmd) Run(a *app) error {
	act := guard.Action{PPS: 0, Hold: time.Duration(c.For), Why: cmp.Or(c.Why, "by hand")}
	if c.To != nil {
		act.Match.Dst = netip.Prefix(*c.To)
	}
	if c.From != nil {
		act.Match.Src = netip.Prefix(*c.From)
	}
	if c.Proto != "" {
		n, ok := guard.ParseProto(c.Proto)
		if !ok {
			return usagef("--proto %q: accepted: tcp, udp, icmp, icmp6, gre, esp, sctp, or 1 to 255", c.Proto)
		}
		act.Match.Proto = n
	}
	act.Match.SrcPorts, act.Match.DstPort, act.Match.Fragments, act.Match.SYN, act.Match.New = c.Sport, c.Dport, c.Fragments, c.SYN, c.New
	if err := act.Do.UnmarshalText([]byte(c.Action)); err != nil {
		return usagef("--action: %v", err)
	}
	if err := act.Announce.UnmarshalText([]byte(c.Announce)); err != nil {
		return usagef("--announce: %v", err)
	}
	for _, r := range []struct {
		name, text string
		to         *uint64
	}{{"pps", c.PPS, &act.PPS}, {"bps", c.BPS, &act.BPS}} {
		if r.text == "" {
			continue
		}
		v, err := guard.ParseRate(r.text)
		if err != nil {
			return usagef("--%s: %v", r.name, err)
		}
		*r.to = v
	}
	switch {
	case c.To == nil && c.From == nil:
		return usagef("say which packets: --to PREFIX, --from PREFIX")
	case act.Do == guard.Police && act.PPS == 0 && act.BPS == 0:
		return usagef("--action police: say what passes: --pps, --bps")
	case c.Override && !c.Approve:
		return usagef("--override goes with --approve")
	}
	return a.guardDo("propose", guardRequest{Action: &act, Approve: c.Approve, Override: c.Override})
}

type guardApproveCmd struct {
	ID       []uint64 `arg:"" help:"Numbers of weir guard list."`
	Override bool     `help:"Whatever the mode of the hostgroup says, and if some of it is allowed, which is spared; it is told as such."`
}

func (c *guardApproveCmd) Run(a *app) error {
	for _, id := range c.ID {
		if err := a.guardDo("approve", guardRequest{ID: id, Override: c.Override}); err != nil {
			return err
		}
	}
	return nil
}

type guardLiftCmd struct {
	ID []uint64 `arg:"" help:"Numbers of weir guard list."`
}

func (c *guardLiftCmd) Run(a *app) error {
	for _, id := range c.ID {
		if err := a.guardDo("lift", guardRequest{ID: id}); err != nil {
			return err
		}
	}
	return nil
}

type guardExtendCmd struct {
	ID  uint64          `arg:"" help:"The number in weir guard list."`
	For config.Duration `required:"" placeholder:"TIME" help:"How long it lasts from now on."`
}

func (c *guardExtendCmd) Run(a *app) error {
	return a.guardDo("extend", guardRequest{ID: c.ID, For: time.Duration(c.For)})
}

// guardDo asks for something and prints what became of it.
func (a *app) guardDo(what string, r guardRequest) error {
	r.By = whoami()
	var answer guard.ActionStatus
	if err := a.post("/control/guard/"+what, r, &answer); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "%d %s: %s\n", answer.ID, answer.State, rows.Plain(answer.What))
	if err == nil && answer.State == guard.StateActive {
		_, err = fmt.Fprintf(a.stdout, "until %s; undo: %s\n", time.Unix(0, answer.Ends).Local().Format(time.DateTime), answer.Undo)
	}
	if err == nil && answer.State == guard.StateActive && !answer.Here {
		_, err = fmt.Fprintf(a.stdout, "%s\n", rows.Plain(cmp.Or(answer.Note, "announced only, not enforced here")))
	}
	return err
}

// whoami is who types, as far as the environment tells.
func whoami() string {
	name := cmp.Or(os.Getenv("SUDO_USER"), os.Getenv("USER"), fmt.Sprintf("uid %d", os.Getuid()))
	if len(name) > 64 {
		name = name[:64]
	}
	return name
}

// --- the kill switch ---

type (
	guardOffCmd struct{}
	guardOnCmd  struct{}
)

// openSwitch is the kill switch in the kernel: the pinned map that its programs look at.
var openSwitch = func() (guard.Switch, error) { return datapath.OpenGuardSwitch(hookOptions()) }

// offMark is a file that a running weir, and the next one, takes for the kill switch.
// It is beside the control socket, where only root and weir's user write.
func offMark(conf *config.Config) string {
	return filepath.Join(filepath.Dir(conf.Control), "guard.off")
}

func (guardOffCmd) Run(a *app) error { return a.guardSwitch(false) }
func (guardOnCmd) Run(a *app) error  { return a.guardSwitch(true) }

// guardSwitch sets the switch in the kernel, marks it for weir, and tells the one that
// runs; none of the three needs the others.
func (a *app) guardSwitch(on bool) error {
	conf, _, err := a.settings()
	if err != nil {
		return err
	}
	var errs []error
	word := map[bool]string{true: "on", false: "off"}[on]
	if s, err := openSwitch(); err == nil {
		if err := s.SetOn(on); err != nil {
			errs = append(errs, err)
		} else {
			fmt.Fprintf(a.stdout, "the kernel's programs: %s\n", word)
		}
	} else if errors.Is(err, guard.ErrNoEnforcer) {
		fmt.Fprintln(a.stdout, "the kernel's programs: none of weir's in this network namespace")
	} else {
		errs = append(errs, err)
	}
	unmarked := setMark(offMark(conf), on)
	if unmarked != nil {
		errs = append(errs, unmarked)
	}
	var answer struct{}
	err = a.post("/control/guard/"+word, guardRequest{By: whoami()}, &answer)
	switch {
	case err == nil:
		fmt.Fprintf(a.stdout, "the running weir: %s\n", word)
	case strings.Contains(err.Error(), "no weir is running here"):
		if unmarked == nil {
			fmt.Fprintf(a.stdout, "no weir is running; the next one starts with its guard %s\n", word)
		}
	default:
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// setMark takes the mark away, or makes it.
func setMark(mark string, on bool) error {
	if on {
		if err := os.Remove(mark); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(mark), 0o755); err != nil {
		return err
	}
	return os.WriteFile(mark, []byte("weir guard off, by "+whoami()+"\n"), 0o644)
}

// --- learning ---

type guardBaselineCmd struct {
	YAML   bool   `name:"yaml" help:"Print the proposals as a configuration."`
	Output string `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json, ndjson (default ${default})."`
}

func (c *guardBaselineCmd) Run(a *app) error {
	format, err := rows.ParseFormat(c.Output)
	if err != nil {
		return usageError{err}
	}
	conf, _, err := a.settings()
	if err != nil {
		return err
	}
	r, err := control.Client(conf.Control).Get("http://localhost/control/guard/baseline")
	if err != nil {
		return unwrapped(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return refusal(r)
	}
	var answer struct{ Baselines []guard.Baseline }
	if err := json.NewDecoder(io.LimitReader(r.Body, maxAnswer)).Decode(&answer); err != nil {
		return err
	}
	if c.YAML {
		return baselineYAML(a, answer.Baselines)
	}
	var lines [][]any
	for _, b := range answer.Baselines {
		current := any(nil)
		if b.Current != nil {
			current = *b.Current
		}
		lines = append(lines, []any{b.Group, b.Name, b.Seconds, b.Median, b.High, b.Most, current, b.Proposed, b.Enough})
	}
	return printRows(a.stdout, format, []string{"group", "threshold", "seconds", "median", "p999", "most", "current", "proposed", "enough"}, lines)
}

func baselineYAML(a *app, list []guard.Baseline) error {
	groups := map[string]map[string]string{}
	for _, b := range list {
		if b.Current == nil {
			continue // nobody asked for that threshold
		}
		if groups[b.Group] == nil {
			groups[b.Group] = map[string]string{}
		}
		groups[b.Group][b.Name] = guard.FormatRate(b.Proposed, "")
	}
	type thresholds struct {
		Thresholds map[string]string `yaml:"thresholds"`
	}
	out := map[string]any{}
	if m := groups["default"]; m != nil {
		out["thresholds"] = m
		delete(groups, "default")
	}
	if len(groups) > 0 {
		rest := map[string]thresholds{}
		for name, m := range groups {
			rest[name] = thresholds{m}
		}
		out["hostgroups"] = rest
	}
	return writeYAML(a.stdout, map[string]any{"guard": out})
}

func writeYAML(w io.Writer, v any) error {
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	return errors.Join(enc.Encode(v), enc.Close())
}

// --- import ---

type guardImportCmd struct {
	File   string `arg:"" help:"A fastnetmon.conf; - is stdin."`
	Output string `short:"o" default:"yaml" placeholder:"FORMAT" help:"yaml: the configuration, the report as table on stderr; or the report alone as table, csv, json, ndjson (default ${default})."`
	Strict bool   `help:"Fail if something in it is not supported."`
}

func (c *guardImportCmd) Run(a *app) error {
	format := rows.Table
	if c.Output != "yaml" {
		var err error
		if format, err = rows.ParseFormat(c.Output); err != nil {
			return usagef("%v; or yaml", err)
		}
	}
	data, called, err := a.readText(c.File)
	if err != nil {
		return err
	}
	im, err := guard.ReadFastNetMon(strings.NewReader(string(data)))
	if err != nil {
		return usagef("%s: %v", called, err)
	}
	var lines [][]any
	lost := 0
	for _, l := range im.Lines {
		lines = append(lines, []any{l.Line, l.Fate, l.Key, l.Value, l.Note})
		if l.Fate == guard.FateUnsupported {
			lost++
		}
	}
	columns := []string{"line", "fate", "key", "value", "note"}
	if c.Output != "yaml" {
		err = printRows(a.stdout, format, columns, lines)
	} else {
		err = printRows(a.stderr, rows.Table, columns, lines)
		if err == nil {
			err = c.write(a, im)
		}
	}
	if err == nil && c.Strict && lost > 0 {
		return fmt.Errorf("%s: %d lines are not supported", called, lost)
	}
	return err
}

// write prints what was read as a configuration.
func (c *guardImportCmd) write(a *app, im *guard.Import) error {
	read := func(path, what string) []string {
		if path == "" {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			fmt.Fprintf(a.stderr, "weir: %s %s: %v; its networks are left out\n", what, path, reason(err))
			return nil
		}
		defer f.Close()
		list, wrong := guard.ReadNetworks(f)
		for _, err := range wrong {
			fmt.Fprintf(a.stderr, "weir: %s %s: %v\n", what, path, err)
		}
		var text []string
		for _, p := range list {
			text = append(text, p.String())
		}
		return text
	}
	limits := func(list []guard.Limit) map[string]string {
		m := map[string]string{}
		for _, l := range list {
			m[l.Name()] = guard.FormatRate(l.Value(), "")
		}
		return m
	}
	main := &im.Policy.Groups[0]
	out := map[string]any{
		"mode": main.Mode.String(), "thresholds": limits(main.Hosts), "outgoing": limits(main.Outgoing),
		"hold": config.Duration(main.Hold).String(), "max-hold": config.Duration(main.MaxHold).String(), "while-attacked": main.WhileAttacked,
	}
	if l := read(im.NetworksPath, "networks_list_path"); l != nil {
		out["networks"] = l
	}
	if l := read(im.WhiteListPath, "white_list_path"); l != nil {
		out["allow"] = l
	}
	groups := map[string]any{}
	for _, g := range im.Policy.Groups[1:] {
		var networks []string
		for _, p := range g.Networks {
			networks = append(networks, p.String())
		}
		groups[g.Name] = map[string]any{"networks": networks, "thresholds": limits(g.Hosts), "outgoing": limits(g.Outgoing)}
	}
	if len(groups) > 0 {
		out["hostgroups"] = groups
	}
	if im.NotifyScript != "" {
		out["notify"] = map[string]any{"script": im.NotifyScript}
	}
	bgp := map[string]any{}
	if im.BGP.NextHop.IsValid() && im.BGP.NextHop.Is4() && !im.BGP.NextHop.IsUnspecified() {
		bgp["next-hop"] = im.BGP.NextHop.String()
	}
	if im.BGP.NextHop6.IsValid() && im.BGP.NextHop6.Is6() {
		bgp["next-hop6"] = im.BGP.NextHop6.String()
	}
	if im.BGP.Community != "" {
		if _, err := (&config.BGP{Communities: []string{im.BGP.Community}}).CommunityList(); err == nil {
			bgp["communities"] = []string{im.BGP.Community}
		}
	}
	if len(bgp) > 0 {
		out["bgp"] = bgp
	}
	return writeYAML(a.stdout, map[string]any{"guard": out})
}

// --- simulation ---

type guardSimulateCmd struct {
	Filter []string `arg:"" optional:"" help:"Stored flows to replay, in nfdump's language (see: weir help filter). All, if there is none."`

	Read      []string `short:"r" sep:"none" placeholder:"FILE" help:"Meter these captures, and replay their flows, instead of stored ones. Repeatable."`
	Store     string   `placeholder:"DIR" help:"The store (default: as configured)."`
	Time      timeSpan `short:"t" default:"-1d" placeholder:"FROM[/TO]" help:"Stored flows of this time (default ${default})."`
	Threshold []string `sep:"none" placeholder:"NAME=RATE" help:"Instead of the configured thresholds of hosts: pps=20k, udp-bps-10s=1G, or FastNetMon's names. Repeatable."`
	Subnet    []string `sep:"none" placeholder:"NAME=RATE" help:"The same for each /24 and /64. Repeatable."`
	Network   []string `sep:"none" placeholder:"PREFIX" help:"Protect these, instead of what is configured. Repeatable."`
	Output    string   `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json, ndjson (default ${default})."`
}

func (c *guardSimulateCmd) Run(a *app) (err error) {
	format, err := rows.ParseFormat(c.Output)
	if err != nil {
		return usageError{err}
	}
	conf, log, err := a.settings()
	if err != nil {
		return err
	}
	p, err := c.policy(conf)
	if err != nil {
		return err
	}
	s := &guard.Simulation{Policy: p}
	var engine query.Engine
	if len(c.Read) > 0 {
		if len(c.Filter) > 0 || c.Store != "" {
			return usagef("-r replays captures: without a filter and --store")
		}
		err = c.captures(a, conf, s)
	} else {
		engine, err = c.stored(a.ctx, conf, log, s)
		if closer, ok := engine.(io.Closer); ok {
			defer closer.Close()
		}
	}
	if err != nil {
		return err
	}
	rep, err := s.Run(a.ctx.Err)
	if err != nil {
		return err
	}
	if err := c.print(a, format, rep); err != nil {
		return err
	}
	if engine != nil {
		return incomplete(engine)
	}
	return nil
}

// policy is the configured one, with what the flags say.
func (c *guardSimulateCmd) policy(conf *config.Config) (guard.Policy, error) {
	g := conf.Guard
	set := func(flag string, list []string, to *map[string]string) error {
		if len(list) == 0 {
			return nil
		}
		*to = map[string]string{}
		for _, t := range list {
			name, value, ok := strings.Cut(t, "=")
			if !ok {
				return usagef("--%s %q: accepted: NAME=RATE", flag, t)
			}
			(*to)[name] = value
		}
		if _, err := guard.ParseLimits(*to); err != nil {
			return usagef("--%s: %v", flag, err)
		}
		g.Hostgroups = maps.Clone(g.Hostgroups)
		for name, h := range g.Hostgroups { // the flags are for all
			h.Thresholds, h.Subnets = nil, nil
			g.Hostgroups[name] = h
		}
		return nil
	}
	if err := set("threshold", c.Threshold, &g.Thresholds); err != nil {
		return guard.Policy{}, err
	}
	if err := set("subnet", c.Subnet, &g.Subnets); err != nil {
		return guard.Policy{}, err
	}
	if len(c.Network) > 0 {
		g.Networks = nil
		for _, t := range c.Network {
			p, err := config.ParsePrefix(t)
			if err != nil {
				return guard.Policy{}, usagef("--network: %v", err)
			}
			g.Networks = append(g.Networks, p)
		}
	}
	p, err := g.Policy(nil)
	if err != nil {
		return p, usageError{err}
	}
	return p, nil
}

// stored takes flows from a store.
func (c *guardSimulateCmd) stored(ctx context.Context, conf *config.Config, log slogger, s *guard.Simulation) (query.Engine, error) {
	r := query.Request{Filter: strings.Join(c.Filter, " "), Limit: -1}
	var err error
	if r.From, r.To, err = parseSpan(string(c.Time), time.Now()); err != nil {
		return nil, usageError{err}
	}
	if _, err := query.Parse(r.Filter); err != nil {
		return nil, usageError{err}
	}
	reader, err := store.OpenReader(cmp.Or(c.Store, conf.Store.Dir))
	if err != nil {
		return nil, err
	}
	engine, err := query.Open(reader, query.Options{Log: log})
	if err != nil {
		return nil, err
	}
	_, err = engine.Flows(ctx, r, s)
	return engine, err
}

// captures takes flows from capture files: reported each second, so that bursts are seen.
func (c *guardSimulateCmd) captures(a *app, conf *config.Config, s *guard.Simulation) error {
	sources, err := openFiles(c.Read)
	if err != nil {
		return err
	}
	defer func() { closeAll(sources) }()
	mc := meter.Config{Cache: cacheConfig(conf.Cache, 1)}
	mc.Cache.Active = time.Second
	m, err := meter.New(mc, s)
	if err != nil {
		return err
	}
	return m.RunFiles(a.ctx, sources...)
}

var firedColumns = []string{
	"began", "ended", "group", "scope", "target", "kind", "threshold", "peak", "peak_pps", "peak_bps", "sources", "action", "hit", "innocent", "note",
}

func (c *guardSimulateCmd) print(a *app, format rows.Format, rep *guard.Report) error {
	var lines [][]any
	for i := range rep.Fired {
		lines = append(lines, firedLine(&rep.Fired[i], format))
	}
	slices.SortStableFunc(rep.Fired, func(x, y guard.Fired) int { return cmp.Compare(x.Began, y.Began) })
	if format != rows.Table {
		return printRows(a.stdout, format, firedColumns, lines)
	}
	if len(lines) > 0 {
		if err := printFitted(a, firedColumns, lines, []string{"note", "group", "scope", "peak_bps", "innocent", "sources", "ended"}, "action"); err != nil {
			return err
		}
	}
	span := ""
	if rep.Records > 0 {
		span = fmt.Sprintf(", from %s to %s", time.Unix(0, rep.First).UTC().Format(time.RFC3339), time.Unix(0, rep.Last).UTC().Format(time.RFC3339))
	}
	_, err := fmt.Fprintf(a.stdout, "%d attacks in %d flow records%s; nothing was dropped\n", len(lines), rep.Records, span)
	if rep.Unusable > 0 {
		fmt.Fprintf(a.stderr, "weir: %d records say neither when nor how much: left out\n", rep.Unusable)
	}
	return err
}

func firedLine(f *guard.Fired, format rows.Format) []any {
	var action, hit, innocent, note any
	if f.Action != nil {
		action, hit, innocent, note = f.Action.What, f.Action.Hit, f.Action.Innocent, f.Action.Note
		if format == rows.Table {
			hit, innocent = shareText(f.Action.Hit), shareText(f.Action.Innocent)
		}
	}
	if f.Note != "" {
		note = f.Note
	}
	sources, ended := any(nil), any(nil)
	if f.Evidence != nil {
		sources = f.Evidence.Sources
	}
	if f.Ended != 0 {
		ended = time.Unix(0, f.Ended)
	}
	return []any{
		time.Unix(0, f.Began), ended, f.Group, string(f.Scope), f.Name, string(f.Kind), f.Threshold, f.Peak, f.PeakPPS, f.PeakBPS, sources, action, hit, innocent, note,
	}
}

// printRows prints lines under columns.
func printRows(w io.Writer, format rows.Format, columns []string, lines [][]any) error {
	out := rows.New(w, format, columns)
	for _, l := range lines {
		if err := out.Row(l); err != nil {
			return err
		}
	}
	return out.Close()
}

// printFitted prints a table that fits the terminal.
func printFitted(a *app, columns []string, lines [][]any, drop []string, cut string) error {
	left, err := writeTable(a.stdout, columns, lines, terminalWidth(a.stdout), drop, cut)
	if err == nil && len(left) > 0 {
		fmt.Fprintf(a.stderr, "weir: too narrow for %s; -o csv has all\n", strings.Join(left, ", "))
	}
	return err
}

// printAttacks prints them for scripts.
func printAttacks(a *app, format rows.Format, list []guard.AttackStatus) error {
	var lines [][]any
	for i := range list {
		x := &list[i]
		ended := any(nil)
		if x.Ended != 0 {
			ended = time.Unix(0, x.Ended)
		}
		evidence := any(nil)
		if b, err := json.Marshal(x.Evidence); err == nil && x.Evidence != nil {
			evidence = rows.RawJSON(b)
		}
		lines = append(lines, []any{
			x.ID, x.Name, string(x.Kind), string(x.Scope), x.Group, x.Threshold, x.Rate, x.Peak, x.PPS, x.BPS, x.Flows, x.PeakPPS, x.PeakBPS, x.SYNRatio,
			time.Unix(0, x.Began), time.Unix(0, x.Seen), ended, x.Count, x.Note, evidence,
		})
	}
	return printRows(a.stdout, format, []string{
		"id", "target", "kind", "scope", "group", "threshold", "rate", "peak", "pps", "bps", "flows", "peak_pps", "peak_bps", "syn_ratio", "began", "seen", "ended",
		"count", "note", "evidence",
	}, lines)
}

// guard prints `weir show guard` for people: hostgroups, attacks that go on, actions.
func (c *showCmd) guard(a *app, format rows.Format) error {
	s, err := a.guardStatus()
	if err != nil {
		return err
	}
	if format != rows.Table {
		return printAttacks(a, format, s.Attacks)
	}
	var lines [][]any
	for _, g := range s.Groups {
		networks := any(g.Networks)
		if g.Networks == 0 {
			networks = "all"
		}
		lines = append(lines, []any{g.Group, g.Mode.String(), networks, g.PPS, g.BPS, g.Flows, shareText(g.SYNRatio), g.DroppedPPS, strings.Join(g.Thresholds, ", ")})
	}
	groups := []string{"group", "mode", "networks", "pps", "bps", "flows", "syn_ratio", "dropped_pps", "thresholds"}
	if err := printFitted(a, groups, lines, []string{"thresholds", "syn_ratio", "networks"}, "thresholds"); err != nil {
		return err
	}
	lines = nil
	for _, l := range s.Limits {
		if strings.HasPrefix(l.Name, "flows.") || l.Over.Packets > 0 {
			lines = append(lines, []any{l.Name, l.Over.Packets, l.Over.Bytes, l.Dropped.Packets, l.Dropped.Bytes, l.Held})
		}
	}
	if len(lines) > 0 {
		fmt.Fprintln(a.stdout)
		if err := printFitted(a, []string{"limit", "beyond_packets", "beyond_bytes", "dropped_packets", "dropped_bytes", "held"}, lines, []string{"dropped_bytes", "beyond_bytes"}, ""); err != nil {
			return err
		}
	}
	if !s.On {
		fmt.Fprintln(a.stdout, "\nThe kill switch is off: nothing is in force until `weir guard on`.")
	}
	lines = nil
	for i := range s.Attacks {
		x := &s.Attacks[i]
		since := any(nil)
		if x.Ended == 0 {
			since = config.Duration((time.Duration(x.Seen-x.Began) + time.Second).Truncate(time.Second)).String()
		}
		sources := any(nil)
		if x.Evidence != nil {
			sources = x.Evidence.Sources
		}
		if x.Ended == 0 || len(lines) < 20 {
			lines = append(lines, []any{x.ID, x.Name, string(x.Kind), string(x.Scope), x.Threshold, x.Rate, x.Peak, sources, time.Unix(0, x.Began), since, x.Count})
		}
	}
	if len(lines) == 0 {
		_, err := fmt.Fprintln(a.stdout, "\nNo attacks.")
		return err
	}
	fmt.Fprintln(a.stdout)
	attacks := []string{"id", "target", "kind", "scope", "threshold", "rate", "peak", "sources", "began", "going_on", "times"}
	if err := printFitted(a, attacks, lines, []string{"times", "scope", "sources", "began"}, ""); err != nil {
		return err
	}
	lines = nil
	for i := range s.Actions {
		if act := &s.Actions[i]; act.State == guard.StateObserved || act.State == guard.StateProposed || act.State == guard.StateActive {
			lines = append(lines, actionLine(act, rows.Table))
		}
	}
	if len(lines) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	return printFitted(a, actionColumns, lines, []string{"undo", "here", "attack", "created", "ends", "group", "counted_packets", "innocent", "note", "by"}, "why")
}
