package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/acl"
	"weir/flow"
	"weir/host"
	"weir/packet"
	"weir/query"
	"weir/rows"
	"weir/store"
)

type aclSimulateCmd struct {
	Filter []string `arg:"" optional:"" help:"Flows to judge, in nfdump's language (see: weir help filter). All, if there is none."`

	ACL string `name:"acl" required:"" placeholder:"FILE" help:"The access lists, in Cisco's language or YAML; - is stdin."`
	judging
	Interface []string `sep:"none" placeholder:"NAME=N" help:"The interface of that name has the number N in the flows (default: this machine's numbers). Repeatable."`

	Store  string   `placeholder:"DIR" help:"The store (default: as configured)."`
	Time   timeSpan `short:"t" default:"-1d" placeholder:"FROM[/TO]" help:"Flows of this time (default ${default})."`
	Number int      `short:"n" default:"10" placeholder:"N" help:"How many of those that are denied most are named (default ${default})."`
	Output string   `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json, ndjson (default ${default})."`
}

func (c *aclSimulateCmd) Run(a *app) (err error) {
	format, err := rows.ParseFormat(c.Output)
	switch {
	case err != nil:
		return usageError{err}
	case c.Number < 0:
		return usagef("-n %d: accepted: 0 or more", c.Number)
	}
	now := time.Now()
	r := query.Request{Filter: strings.Join(c.Filter, " "), Limit: -1}
	if r.From, r.To, err = parseSpan(string(c.Time), now); err != nil {
		return usageError{err}
	}
	if _, err := query.Parse(r.Filter); err != nil {
		return usageError{err}
	}
	p, err := a.readPolicy(c.ACL)
	if err != nil {
		return err
	}
	s, err := c.simulation(p, r)
	if err != nil {
		return err
	}
	conf, log, err := a.settings()
	if err != nil {
		return err
	}
	reader, err := store.OpenReader(cmp.Or(c.Store, conf.Store.Dir))
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
	if err := s.run(a.ctx, engine); err != nil {
		return err
	}
	if format == rows.Table {
		err = s.table(a, c.Number)
	} else {
		err = s.rows(a, format, c.Number)
	}
	return errors.Join(err, incomplete(engine))
}

// simulation judges flows.
type simulation struct {
	request query.Request
	policy  *acl.Policy
	bank    *acl.Bank
	lists   []simulated
	looks   acl.Fields // what any of the lists asks for
	// always are the lists that judge every flow of a family; nil: those that are
	// applied where it came in and where it went out.
	always  *[2][]int
	at      [2]map[uint32][2][]int // by direction and interface: lists, by family
	timed   bool
	kinds   kinds
	denied  [2]map[flow.Addr]*sums // by source and by destination
	partial bool                   // some of denied were forgotten
	skipped map[string]*sums       // not judged, by reason
	all     sums
}

// simulated is a list, and what came of it.
type simulated struct {
	*acl.List
	asker *acl.Asker
	where []string
	sums  map[outcome]*sums
	all   sums
}

// outcome is what came of a flow: a rule's verdict, or, with a field, that of
// this rule or one behind it.
type outcome struct {
	rule    *acl.Rule
	verdict string
	depends acl.Field
}

// sums of flows.
type sums struct {
	flows, packets, bytes uint64
	first, last           int64 // 0: not known
}

func (s *sums) add(g *query.Group) {
	s.flows += g.Flows
	s.packets += g.Packets
	s.bytes += g.Bytes
	if g.Has&flow.HasFirst != 0 && (s.first == 0 || g.First < s.first) {
		s.first = g.First
	}
	if g.Has&flow.HasLast != 0 {
		s.last = max(s.last, g.Last)
	}
}

// simulation finds out which lists judge what.
func (c *aclSimulateCmd) simulation(p *acl.Policy, r query.Request) (*simulation, error) {
	s := &simulation{
		request: r, policy: p, skipped: map[string]*sums{},
		denied: [2]map[flow.Addr]*sums{{}, {}}, at: [2]map[uint32][2][]int{{}, {}},
	}
	numbers := map[string]uint32{}
	for _, text := range c.Interface {
		name, n, ok := strings.Cut(text, "=")
		v, err := strconv.ParseUint(n, 10, 32)
		if !ok || err != nil {
			return nil, usagef("--interface %q: accepted: NAME=N, N being the interface's number in the flows", text)
		}
		numbers[name] = uint32(v)
	}
	add := func(l *acl.List) (n int) {
		if n = slices.IndexFunc(s.lists, func(x simulated) bool { return x.List == l }); n < 0 {
			n = len(s.lists)
			s.lists = append(s.lists, simulated{List: l, asker: p.Asker(l), sums: map[outcome]*sums{}})
		}
		return n
	}
	if len(c.List) > 0 || len(p.Bindings) == 0 && c.In+c.Out == "" {
		lists, err := c.lists(p, c.ACL, acl.IPv4, acl.IPv6)
		if err != nil {
			return nil, err
		}
		s.always = &[2][]int{}
		for f := range lists {
			for _, l := range lists[f] {
				s.always[f] = append(s.always[f], add(l))
			}
		}
	} else {
		if c.In+c.Out != "" { // are they there?
			if _, err := c.bound(p, c.ACL); err != nil {
				return nil, err
			}
		} else if len(p.Lists) == 0 {
			return nil, usagef("%s: no access list in it", c.ACL)
		}
		for _, b := range p.Bindings {
			l := p.List(b.List, b.Family)
			if l == nil || c.In+c.Out != "" && b.Interface != [2]string{c.In, c.Out}[b.Direction] {
				continue
			}
			n, err := interfaceNumber(b.Interface, numbers)
			if err != nil {
				return nil, err
			}
			i := add(l)
			s.lists[i].where = append(s.lists[i].where, b.Interface+" "+b.Direction.String())
			lists := s.at[b.Direction][n]
			lists[b.Family] = append(lists[b.Family], i)
			s.at[b.Direction][n] = lists
		}
	}
	alone := &acl.Policy{Groups: p.Groups, Times: p.Times}
	for i := range s.lists {
		alone.Lists = append(alone.Lists, s.lists[i].List)
		s.looks |= s.lists[i].asker.Looks()
	}
	s.timed = s.looks.Has(acl.FieldTime)
	var err error
	s.bank, err = acl.Compile(alone, acl.CompileOptions{Now: time.Now()})
	if err != nil {
		return nil, usageError{err}
	}
	s.kinds = newKinds(s.bank)
	return s, nil
}

// interfaceNumber is the number that flows have for an interface.
func interfaceNumber(name string, given map[string]uint32) (uint32, error) {
	if n, ok := given[name]; ok {
		return n, nil
	}
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	all, err := host.Links()
	if err == nil {
		for _, i := range all {
			if i.Name == name {
				return i.Index, nil
			}
		}
	}
	return 0, usagef("a list is applied at %s, which this machine does not have; give its number in the flows by --interface %s=N, or judge all flows by --list NAME", name, name)
}

// run judges all flows: summed by what the lists ask for, or, where they ask
// for what no two flows share, one by one.
func (s *simulation) run(ctx context.Context, e query.Engine) error {
	if s.timed || s.looks.Has(acl.FieldLength) {
		_, err := e.Flows(ctx, s.request, flow.SinkFunc(func(batch []flow.Record) error {
			for i := range batch {
				s.judge(&query.Group{Record: batch[i], Flows: 1}, batch[i].Has&flow.HasPackets != 0 && batch[i].Packets == 1)
			}
			return nil
		}))
		return err
	}
	r := s.request
	r.Keys = []string{"srcip", "dstip", "ip_version"}
	for f, keys := range map[acl.Field][]string{
		acl.FieldProto: {"proto"}, acl.FieldSrcPort: {"srcport"}, acl.FieldDstPort: {"dstport"}, acl.FieldICMP: {"icmp_type", "icmp_code"},
		acl.FieldFlags: {"flags"}, acl.FieldTOS: {"tos"}, acl.FieldFragment: {"fragment", "version", "proto", "dstport", "icmp_type", "icmp_code"},
	} {
		if s.looks.Has(f) {
			r.Keys = append(r.Keys, keys...)
		}
	}
	if s.always == nil {
		r.Keys = append(r.Keys, "inif", "outif")
	}
	slices.Sort(r.Keys)
	r.Keys = slices.Compact(r.Keys)
	// Of a flow of one packet the flags are those of the packet.
	if !s.looks.Has(acl.FieldFlags) {
		return query.Groups(ctx, e, r, func(g *query.Group) error { s.judge(g, false); return nil })
	}
	for _, single := range []bool{true, false} {
		term := map[bool]string{true: "packets = 1", false: "not packets = 1"}[single]
		part := r
		if part.Filter = term; s.request.Filter != "" {
			part.Filter = "(" + s.request.Filter + ") and (" + term + ")"
		}
		if err := query.Groups(ctx, e, part, func(g *query.Group) error { s.judge(g, single); return nil }); err != nil {
			return err
		}
	}
	return nil
}

// judge judges flows that are alike. single: each has one packet.
func (s *simulation) judge(g *query.Group, single bool) {
	s.all.add(g)
	k, family, ok := s.known(g, single)
	if !ok {
		s.skip("family-unknown", g)
		return
	}
	lists := s.always
	judged := false
	for d, port := range []uint32{g.Input, g.Output} {
		var ask []int
		switch {
		case lists != nil && d == 0:
			ask = lists[family]
		case lists == nil && g.Has&[2]flow.Field{flow.HasInput, flow.HasOutput}[d] != 0:
			ask = s.at[d][port][family]
		}
		for _, n := range ask {
			judged = true
			if s.ask(n, k, g) != "permit" {
				return
			}
		}
	}
	switch {
	case judged:
	case lists != nil:
		s.skip("no-"+family.String()+"-list", g)
	case g.Has&(flow.HasInput|flow.HasOutput) == 0:
		s.skip("interface-unknown", g)
	default:
		s.skip("no-list-there", g)
	}
}

func (s *simulation) skip(reason string, g *query.Group) {
	if s.skipped[reason] == nil {
		s.skipped[reason] = &sums{}
	}
	s.skipped[reason].add(g)
}

// known is what flows say of their packets.
func (s *simulation) known(g *query.Group, single bool) (*acl.Known, acl.Family, bool) {
	k := &acl.Known{Info: packet.Info{TCPFlags: uint8(g.TCPFlags)}, AnyFlags: !single}
	key := &k.Key
	*key = flow.Key{Src: g.Src, Dst: g.Dst, SrcPort: g.SrcPort, DstPort: g.DstPort, Proto: g.Proto, TOS: g.TOS}
	family := acl.IPv4
	switch {
	case g.IPVersion == 6:
		family = acl.IPv6
	case g.IPVersion == 4:
	case g.Has&flow.HasSrc != 0 && !g.Src.Is4() || g.Has&flow.HasDst != 0 && !g.Dst.Is4():
		family = acl.IPv6
	case g.Has&(flow.HasSrc|flow.HasDst) == 0:
		return nil, 0, false
	}
	if family == acl.IPv6 {
		key.VLAN |= flow.KeyIPv6
	}
	for _, x := range [...]struct {
		field acl.Field
		bit   flow.Field
	}{
		{acl.FieldProto, flow.HasProto},
		{acl.FieldSrc, flow.HasSrc},
		{acl.FieldDst, flow.HasDst},
		{acl.FieldSrcPort, flow.HasSrcPort},
		{acl.FieldDstPort, flow.HasDstPort},
		{acl.FieldTOS, flow.HasTOS},
		{acl.FieldFlags, flow.HasTCPFlags},
	} {
		if g.Has&x.bit == 0 {
			k.Unknown = k.Unknown.With(x.field)
		}
	}
	if g.Has&flow.HasICMP != 0 {
		key.DstPort = uint16(g.ICMPType)<<8 | uint16(g.ICMPCode)
	} else if g.Has&flow.HasDstPort == 0 {
		k.Unknown = k.Unknown.With(acl.FieldICMP)
	}
	if k.Unknown.Has(acl.FieldProto) {
		k.Unknown = k.Unknown.With(acl.FieldSrcPort).With(acl.FieldDstPort).With(acl.FieldICMP).With(acl.FieldFlags)
	}
	switch {
	case g.Fragment:
		key.VLAN |= flow.KeyFragment
	case key.DstPort == 0 && g.Version != flow.VersionMetered: // as later fragments have it in what is exported
		k.Unknown = k.Unknown.With(acl.FieldFragment)
	}
	k.Unknown = k.Unknown.With(acl.FieldTTL)
	if single && g.Flows == 1 && g.Has&flow.HasBytes != 0 {
		k.Length = uint32(min(g.Bytes, 1<<32-1))
	} else {
		k.Unknown = k.Unknown.With(acl.FieldLength)
	}
	switch {
	case g.Has&(flow.HasFirst|flow.HasLast) == flow.HasFirst|flow.HasLast:
		k.From, k.To = time.Unix(0, g.First), time.Unix(0, g.Last)
	case s.timed:
		k.Unknown = k.Unknown.With(acl.FieldTime)
	}
	return k, family, true
}

// outsideKey are the fields that the classifier can do without: of them it says
// whether they matter.
const outsideKey = 1<<acl.FieldFlags | 1<<acl.FieldTTL | 1<<acl.FieldLength

// ask asks a list about flows, and books what it says.
func (s *simulation) ask(n int, k *acl.Known, g *query.Group) (verdict string) {
	l := &s.lists[n]
	o, ok := outcome{}, false
	if k.Unknown&s.looks&^outsideKey == 0 && !s.timed {
		o, ok = s.classify(n, k)
	}
	if !ok {
		answer := l.asker.Ask(k)
		o = outcome{rule: answer.Rule, verdict: answer.Action.String()}
		if !answer.Sure {
			o.depends = answer.Field
		}
		if !answer.Agreed {
			o.verdict = depends
		}
	}
	if l.sums[o] == nil {
		l.sums[o] = &sums{}
	}
	l.sums[o].add(g)
	l.all.add(g)
	if o.verdict == acl.Deny.String() {
		s.deny(0, g.Src, g)
		s.deny(1, g.Dst, g)
	}
	return o.verdict
}

// depends is the verdict on flows whose packets may get either.
const depends = "depends"

func (s *simulation) classify(n int, k *acl.Known) (outcome, bool) {
	r, ok := s.kinds.classify(n, k)
	return outcome{s.bank.Rules(n)[r.rule], r.verdict, r.depends}, ok
}

// ruling is an outcome, its rule by its number in the bank.
type ruling struct {
	rule    int
	verdict string
	depends acl.Field
}

// classify asks about one packet of each kind that may be meant. Not ok: there
// are too many kinds.
func (k *kinds) classify(n int, known *acl.Known) (o ruling, ok bool) {
	in := known.Info
	first := k.bank.Classify(n, &in)
	o = ruling{rule: first.Rule, verdict: first.Action.String()}
	if !first.Depends {
		return o, true
	}
	if k.many {
		return o, false
	}
	flags, ttls, lengths := k.one.flags[:], k.one.ttls[:], k.one.lengths[:]
	flags[0], ttls[0], lengths[0] = in.TCPFlags, in.TTL, in.Length
	switch {
	case known.Unknown.Has(acl.FieldFlags):
		flags = k.ofFlags(0xff)
	case known.AnyFlags:
		flags = k.ofFlags(in.TCPFlags)
	}
	if known.Unknown.Has(acl.FieldTTL) {
		ttls = k.ttls
	}
	if known.Unknown.Has(acl.FieldLength) {
		lengths = k.lengths
	}
	if k.many || k.most > 0 && len(flags)*len(ttls)*len(lengths) > k.most {
		return o, false
	}
	least := -1
	for i, length := range lengths {
		in.Length = length
		for j, ttl := range ttls {
			in.TTL = ttl
			along := -1 // what the first of these flags got
			for nth, v := range flags {
				in.TCPFlags = v
				r := first // of the same kind, as the flags' OR is the first of them
				if nth > 0 || len(ttls)*len(lengths) > 1 {
					r = k.bank.Classify(n, &in)
				}
				if least >= 0 && r.Action.String() != o.verdict {
					o.verdict = depends
				} else if least < 0 {
					o.verdict = r.Action.String()
				}
				switch {
				case along >= 0 && along != r.Rule:
					o.depends = acl.FieldFlags
				case least >= 0 && least != r.Rule && o.depends != acl.FieldFlags && j > 0:
					o.depends = acl.FieldTTL
				case least >= 0 && least != r.Rule && o.depends == acl.NoField && i > 0:
					o.depends = acl.FieldLength
				}
				if along < 0 {
					along = r.Rule
				}
				if least < 0 || r.Rule < least {
					least = r.Rule
				}
			}
		}
	}
	o.rule = least
	return o, true
}

// kinds are packets of which one of each must be asked about, the others getting
// the same verdict.
type kinds struct {
	bank    *acl.Bank
	most    int          // that are asked about; 0: all
	flags   [256][]uint8 // of the octets that have no other bits than the index
	ttls    []uint8
	lengths []uint32
	many    bool     // more than the bank tells apart
	one     struct { // what is known
		flags, ttls [1]uint8
		lengths     [1]uint32
	}
}

func newKinds(b *acl.Bank) (k kinds) {
	k.bank = b
	seen := map[uint8]bool{}
	first := func(in packet.Info) bool {
		class := b.Class(&in)
		k.many = k.many || class == acl.ClassMany
		if seen[class] {
			return false
		}
		seen[class] = true
		return true
	}
	for v := range 256 {
		if first(packet.Info{TTL: uint8(v)}) {
			k.ttls = append(k.ttls, uint8(v))
		}
	}
	clear(seen)
	for v := range uint32(1 << 16) {
		if first(packet.Info{Length: v}) {
			k.lengths = append(k.lengths, v)
		}
	}
	return k
}

func (k *kinds) ofFlags(or uint8) []uint8 {
	if k.flags[or] == nil {
		seen := map[uint8]bool{}
		for part := or; ; part = (part - 1) & or {
			class := k.bank.Class(&packet.Info{TCPFlags: part})
			k.many = k.many || class == acl.ClassMany
			if !seen[class] {
				seen[class] = true
				k.flags[or] = append(k.flags[or], part)
			}
			if part == 0 {
				break
			}
		}
	}
	return k.flags[or]
}

// maxDenied bounds the addresses that are kept count of: a flood has any number.
const maxDenied = 1 << 20

func (s *simulation) deny(side int, addr flow.Addr, g *query.Group) {
	m := s.denied[side]
	if m[addr] == nil {
		if len(m) >= maxDenied { // the smaller half was no part of the answer
			s.partial = true
			for _, d := range most(m, len(m))[maxDenied/2:] {
				delete(m, d.addr)
			}
		}
		m[addr] = &sums{}
	}
	m[addr].add(g)
}

// deniedMost is an address and what of it was denied.
type deniedMost struct {
	addr flow.Addr
	*sums
}

// most are the n addresses with the most flows, then bytes, the most first.
func most(m map[flow.Addr]*sums, n int) []deniedMost {
	all := make([]deniedMost, 0, len(m))
	for addr, x := range m {
		all = append(all, deniedMost{addr, x})
	}
	slices.SortFunc(all, func(a, b deniedMost) int {
		return cmp.Or(cmp.Compare(b.flows, a.flows), cmp.Compare(b.bytes, a.bytes), slices.Compare(a.addr[:], b.addr[:]))
	})
	return all[:min(n, len(all))]
}

// outcomes are what came of a list's flows, in the order of its rules, those
// without flows among them.
func (l *simulated) outcomes() (all []outcome) {
	rules := append(slices.Clone(l.Rules), acl.Implicit(l.Family)...)
	by := map[*acl.Rule][]outcome{}
	for o := range l.sums {
		by[o.rule] = append(by[o.rule], o)
	}
	for i, r := range rules {
		n := len(all)
		all = append(all, by[r]...)
		slices.SortFunc(all[n:], func(a, b outcome) int {
			return cmp.Or(cmp.Compare(a.depends, b.depends), strings.Compare(a.verdict, b.verdict))
		})
		if len(all) == n && (r.Seq > 0 || i == len(rules)-1) {
			all = append(all, outcome{rule: r, verdict: r.Action.String()})
			l.sums[all[n]] = &sums{}
		}
	}
	return all
}

func (s *sums) share(all *sums) any {
	if all.flows == 0 {
		return nil
	}
	return float64(s.flows) / float64(all.flows)
}

func when(ns int64) any {
	if ns == 0 {
		return nil
	}
	return time.Unix(0, ns).UTC()
}

// rows prints one row a rule and what came of it, then those denied most, then
// what was not judged.
func (s *simulation) rows(a *app, format rows.Format, n int) error {
	w := rows.New(a.stdout, format, []string{
		"section", "list", "family", "rule", "verdict", "depends_on", "address", "flows", "packets", "bytes", "share", "first", "last", "text",
	})
	row := func(section string, list, family, rule, verdict, depends, address any, x, all *sums, text any) error {
		return w.Row([]any{section, list, family, rule, verdict, depends, address, x.flows, x.packets, x.bytes, x.share(all), when(x.first), when(x.last), text})
	}
	for i := range s.lists {
		l := &s.lists[i]
		for _, o := range l.outcomes() {
			var depends any
			if o.depends != acl.NoField {
				depends = o.depends.String()
			}
			if err := row("rule", l.Name, l.Family.String(), seq(o.rule), o.verdict, depends, nil, l.sums[o], &l.all, o.rule.Cisco(l.Family)); err != nil {
				return err
			}
		}
	}
	for side, section := range []string{"denied-source", "denied-destination"} {
		for _, d := range most(s.denied[side], n) {
			if err := row(section, nil, nil, nil, "deny", nil, d.addr.String(), d.sums, &s.all, nil); err != nil {
				return err
			}
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(s.skipped)) {
		if err := row("not-judged", nil, nil, nil, nil, reason, nil, s.skipped[reason], &s.all, nil); err != nil {
			return err
		}
	}
	return w.Close()
}

// table prints the same for people.
func (s *simulation) table(a *app, n int) error {
	out := a.stdout
	span := func(x *sums) string {
		if x.first == 0 || x.last == 0 {
			return ""
		}
		const layout = "2006-01-02 15:04"
		return ", " + time.Unix(0, x.first).UTC().Format(layout) + " to " + time.Unix(0, x.last).UTC().Format(layout) + " UTC"
	}
	fmt.Fprintf(out, "%d flows, %d packets, %d bytes%s\n", s.all.flows, s.all.packets, s.all.bytes, span(&s.all))
	for i := range s.lists {
		l := &s.lists[i]
		fmt.Fprintf(out, "\n%s", rows.Plain(l.Head()))
		if len(l.where) > 0 {
			fmt.Fprintf(out, "  (%s)", rows.Plain(some(l.where)))
		}
		total := map[string]*sums{"permit": {}, "deny": {}, "depends": {}}
		for o, x := range l.sums {
			total[o.verdict].flows += x.flows
		}
		fmt.Fprintf(out, ": %d flows", l.all.flows)
		for _, v := range []string{"permit", "deny", "depends"} {
			fmt.Fprintf(out, ", %d %s", total[v].flows, map[string]string{"permit": "permitted", "deny": "denied", "depends": "depend"}[v])
		}
		fmt.Fprintln(out)
		w := rows.New(out, rows.Table, []string{"flows", "share", "packets", "bytes", "verdict", "last", "rule"})
		for _, o := range l.outcomes() {
			x := l.sums[o]
			verdict := o.verdict
			if o.depends != acl.NoField {
				verdict += " (" + o.depends.String() + ")"
			}
			if err := w.Row([]any{x.flows, percent(x, &l.all), x.packets, x.bytes, verdict, when(x.last), o.rule.Text(l.Family)}); err != nil {
				return err
			}
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
	for side, what := range []string{"source", "destination"} {
		m := s.denied[side]
		if len(m) == 0 || n == 0 {
			continue
		}
		about := ""
		if s.partial {
			about = " (of very many; counts may be too low)"
		}
		fmt.Fprintf(out, "\nDenied most, by %s%s\n", what, about)
		w := rows.New(out, rows.Table, []string{"flows", "packets", "bytes", what})
		for _, d := range most(m, n) {
			if err := w.Row([]any{d.flows, d.packets, d.bytes, d.addr.String()}); err != nil {
				return err
			}
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
	if len(s.skipped) > 0 {
		fmt.Fprintln(out)
	}
	for _, reason := range slices.Sorted(maps.Keys(s.skipped)) {
		x := s.skipped[reason]
		fmt.Fprintf(out, "not judged, %s: %d flows, %d packets, %d bytes%s\n", reason, x.flows, x.packets, x.bytes, skipHints[reason])
	}
	return nil
}

// skipHints say what can be done.
var skipHints = map[string]string{
	"interface-unknown": " (--list NAME judges flows wherever they came in)",
	"no-list-there":     " (--list NAME judges flows wherever they came in; --interface NAME=N says which number an interface has)",
}

func percent(x, all *sums) string {
	if all.flows == 0 {
		return "-"
	}
	return strconv.FormatFloat(100*float64(x.flows)/float64(all.flows), 'f', 1, 64) + " %"
}
