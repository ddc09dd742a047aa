package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/acl"
	"weir/flow"
	"weir/rows"
)

type aclExplainCmd struct {
	Packet []string `arg:"" name:"src dst [proto [[sport] dport]]" help:"The packet: source, destination, protocol, ports or ICMP type, by numbers or Cisco's names."`

	ACL string `name:"acl" required:"" placeholder:"FILE" help:"The access lists, in Cisco's language or YAML; - is stdin."`
	judging

	Proto    string `placeholder:"PROTO" help:"Protocol: tcp, udp, icmp, 47, …"`
	Sport    string `placeholder:"PORT" help:"Source port."`
	Dport    string `placeholder:"PORT" help:"Destination port."`
	ICMP     string `name:"icmp" placeholder:"TYPE[/CODE]" help:"ICMP type and code, or a name: echo, 3/4."`
	Flags    string `placeholder:"FLAGS" help:"TCP flags: syn,ack; none."`
	TOS      string `name:"tos" placeholder:"OCTET" help:"The TOS octet or traffic class, 0 to 255 or 0xb8."`
	DSCP     string `name:"dscp" placeholder:"DSCP" help:"Its upper six bits, 0 to 63 or ef, af11, …"`
	TTL      string `name:"ttl" placeholder:"N" help:"TTL or hop limit."`
	Length   string `placeholder:"N" help:"Octets of the IP packet."`
	Fragment bool   `help:"It is a later fragment, without ports, ICMP type or flags."`
	At       string `placeholder:"TIME" help:"When, for time ranges (default: now)."`

	All    bool   `help:"Tell of every rule; else, of a long list, of those that were close."`
	Output string `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json, ndjson (default ${default})."`
}

func (c *aclExplainCmd) Run(a *app) error {
	format, err := rows.ParseFormat(c.Output)
	if err != nil {
		return usageError{err}
	}
	k, family, err := c.packet(time.Now())
	if err != nil {
		return usageError{err}
	}
	p, err := a.readPolicy(c.ACL)
	if err != nil {
		return err
	}
	lists, err := c.lists(p, c.ACL, family)
	if err != nil {
		return err
	}
	e := explanation{packet: k, family: family, verdict: "permit"}
	for _, l := range lists[family] {
		asker := p.Asker(l)
		s := said{list: l, answer: asker.Ask(k), steps: asker.Steps(k)}
		for _, b := range p.Bindings {
			if b.List == l.Name && b.Family == l.Family {
				s.at = append(s.at, b.Interface+" "+b.Direction.String())
			}
		}
		e.lists = append(e.lists, s)
		if v := s.verdict(); v != "permit" {
			e.verdict = v
		}
		if e.verdict == "deny" {
			break
		}
	}
	out := bufio.NewWriter(a.stdout)
	switch format {
	case rows.Table:
		e.text(out, c.All)
	case rows.JSON:
		err = printJSON(out, e.json())
	default:
		err = e.rows(out, format)
	}
	return errors.Join(err, out.Flush())
}

// packet is what the arguments and flags say. What they do not say is not
// known, except that it is no fragment.
func (c *aclExplainCmd) packet(now time.Time) (*acl.Known, acl.Family, error) {
	if len(c.Packet) < 2 {
		return nil, 0, errors.New("a packet needs two addresses: SRC DST [PROTO [[SPORT] DPORT]]")
	}
	if len(c.Packet) > 5 {
		return nil, 0, fmt.Errorf("%q is one word too many; accepted: SRC DST [PROTO [[SPORT] DPORT]]", c.Packet[5])
	}
	k := &acl.Known{From: now}
	var family acl.Family
	var err error
	if family, err = c.addresses(k); err != nil {
		return nil, 0, err
	}
	if c.At != "" {
		if k.From, err = parseTime(c.At, now); err != nil {
			return nil, 0, fmt.Errorf("--at: %w", err)
		}
	}
	// number is a flag's, or not known.
	number := func(f acl.Field, flag, text string, limit uint64) uint64 {
		if text == "" {
			k.Unknown = k.Unknown.With(f)
			return 0
		}
		n, e := strconv.ParseUint(text, 0, 64)
		if e != nil || n > limit {
			err = fmt.Errorf("%s %q: accepted: a number, 0 to %d", flag, text, limit)
		}
		return n
	}
	k.TTL = uint8(number(acl.FieldTTL, "--ttl", c.TTL, 255))
	k.Length = uint32(number(acl.FieldLength, "--length", c.Length, 1<<32-1))
	if c.DSCP != "" {
		if c.TOS != "" {
			return nil, 0, errors.New("--tos and --dscp are the same octet: give one of them")
		}
		if k.Key.TOS, err = acl.ParseDSCP(c.DSCP); err != nil {
			return nil, 0, fmt.Errorf("--dscp: %w", err)
		}
	} else {
		k.Key.TOS = uint8(number(acl.FieldTOS, "--tos", c.TOS, 255))
	}
	if err == nil {
		err = c.layer4(k, family)
	}
	return k, family, err
}

func (c *aclExplainCmd) addresses(k *acl.Known) (family acl.Family, err error) {
	var addrs [2]netip.Addr
	for i := range addrs {
		if addrs[i], err = netip.ParseAddr(c.Packet[i]); err != nil || addrs[i].Zone() != "" {
			return 0, fmt.Errorf("%q is no address; accepted: SRC DST, as 198.51.100.1 192.0.2.10", c.Packet[i])
		}
	}
	if addrs[0].Is4() != addrs[1].Is4() {
		return 0, fmt.Errorf("%s and %s are not of one family", addrs[0], addrs[1])
	}
	if addrs[0].Is6() {
		family = acl.IPv6
		k.Key.VLAN |= flow.KeyIPv6
	}
	k.Key.Src, k.Key.Dst = flow.AddrFrom(addrs[0]), flow.AddrFrom(addrs[1])
	return family, nil
}

// layer4 reads protocol, ports, ICMP type and flags.
func (c *aclExplainCmd) layer4(k *acl.Known, family acl.Family) (err error) {
	words := c.Packet[2:]
	proto := c.Proto
	if len(words) > 0 {
		if proto != "" {
			return fmt.Errorf("the protocol is given twice: %s and --proto %s", words[0], proto)
		}
		proto, words = words[0], words[1:]
	}
	unknown := func(list ...acl.Field) {
		for _, f := range list {
			k.Unknown = k.Unknown.With(f)
		}
	}
	if proto == "" {
		unknown(acl.FieldProto)
		if given := c.Sport + c.Dport + c.ICMP + c.Flags; given != "" {
			return errors.New("ports, ICMP type and flags need a protocol: PROTO behind the addresses, or --proto")
		}
	} else if k.Key.Proto, err = acl.ParseProto(family, proto); err != nil {
		return err
	}
	if c.Fragment {
		k.Key.VLAN |= flow.KeyFragment
		if len(words) > 0 || c.Sport+c.Dport+c.ICMP+c.Flags != "" {
			return errors.New("a later fragment (--fragment) has no ports, ICMP type or flags")
		}
		return nil
	}
	sport, dport, icmp := c.Sport, c.Dport, c.ICMP
	isICMP := k.Key.Proto == flow.ProtoICMP && family == acl.IPv4 || k.Key.Proto == flow.ProtoICMPv6 && family == acl.IPv6
	switch {
	case len(words) > 0 && sport+dport+icmp != "":
		return fmt.Errorf("%s stands behind the protocol, and a flag says the same: give one of them", words[0])
	case len(words) > 0 && isICMP:
		icmp = strings.Join(words, "/")
	case len(words) == 1:
		dport = words[0]
	case len(words) == 2:
		sport, dport = words[0], words[1]
	}
	if icmp != "" && !isICMP {
		return fmt.Errorf("--icmp %s: the protocol is %s", icmp, proto)
	}
	if isICMP {
		if sport+dport != "" {
			return errors.New("ICMP has no ports; accepted: --icmp TYPE[/CODE], or the same behind the protocol")
		}
		if icmp == "" {
			unknown(acl.FieldICMP)
			return nil
		}
		typ, code, err := acl.ParseICMP(family, icmp)
		k.Key.DstPort = uint16(typ)<<8 | uint16(code)
		return err
	}
	if k.Key.SrcPort, err = c.port(k, acl.FieldSrcPort, sport); err != nil {
		return err
	}
	if k.Key.DstPort, err = c.port(k, acl.FieldDstPort, dport); err != nil {
		return err
	}
	if proto == "" {
		unknown(acl.FieldICMP)
	}
	switch {
	case c.Flags == "":
		unknown(acl.FieldFlags)
	case k.Key.Proto != flow.ProtoTCP:
		return fmt.Errorf("--flags: %s has none; TCP has", proto)
	default:
		if k.TCPFlags, err = acl.ParseFlags(c.Flags); err != nil {
			return fmt.Errorf("--flags: %w", err)
		}
	}
	return nil
}

func (c *aclExplainCmd) port(k *acl.Known, f acl.Field, text string) (uint16, error) {
	if text == "" {
		k.Unknown = k.Unknown.With(f)
		return 0, nil
	}
	return acl.ParsePort(k.Key.Proto, text)
}

// explanation is what the lists on a packet's way say of it.
type explanation struct {
	packet  *acl.Known
	family  acl.Family
	lists   []said
	verdict string // permit, deny or depends
}

// said is what one list says.
type said struct {
	list   *acl.List
	at     []string // where it is applied
	answer acl.Answer
	steps  []acl.Step
}

func (s *said) verdict() string {
	if !s.answer.Agreed {
		return "depends"
	}
	return s.answer.Action.String()
}

// flagOf is the flag that gives a field.
var flagOf = map[acl.Field]string{
	acl.FieldProto: "--proto", acl.FieldSrcPort: "--sport", acl.FieldDstPort: "--dport", acl.FieldICMP: "--icmp", acl.FieldFlags: "--flags",
	acl.FieldTOS: "--tos", acl.FieldTTL: "--ttl", acl.FieldLength: "--length",
}

// about is the packet in words.
func (e *explanation) about() string {
	k := e.packet
	has := func(f acl.Field) bool { return !k.Unknown.Has(f) }
	proto := "packet"
	if has(acl.FieldProto) {
		proto = acl.ProtoText(e.family, k.Key.Proto)
	}
	later := k.Key.VLAN&flow.KeyFragment != 0
	end := func(a flow.Addr, f acl.Field, port uint16) string {
		s := a.String()
		if withPorts(k.Key.Proto) && has(acl.FieldProto) && !later && has(f) {
			s += fmt.Sprintf(" port %d", port)
		}
		return s
	}
	s := proto + " " + end(k.Key.Src, acl.FieldSrcPort, k.Key.SrcPort) + " → " + end(k.Key.Dst, acl.FieldDstPort, k.Key.DstPort)
	add := func(ok bool, text string) {
		if ok {
			s += ", " + text
		}
	}
	isICMP := k.Key.Proto == flow.ProtoICMP || k.Key.Proto == flow.ProtoICMPv6
	add(later, "a later fragment")
	add(isICMP && !later && has(acl.FieldICMP), k.ICMPText(e.family))
	add(k.Key.Proto == flow.ProtoTCP && !later && has(acl.FieldFlags), "flags "+acl.FlagsText(k.TCPFlags))
	add(has(acl.FieldTOS), fmt.Sprintf("TOS 0x%02x", k.Key.TOS))
	add(has(acl.FieldTTL), fmt.Sprintf("TTL %d", k.TTL))
	add(has(acl.FieldLength), fmt.Sprintf("%d octets", k.Length))
	return s
}

// withPorts says whether a protocol has ports.
func withPorts(proto uint8) bool {
	_, err := acl.ParsePort(proto, "0")
	return err == nil
}

// because says why a rule does not match, or may.
func (e *explanation) because(s acl.Step) string {
	found, wanted := e.packet.Why(s.Rule, e.family, s.Field)
	switch s.Match {
	case acl.Yes:
		return "matches"
	case acl.Maybe:
		return fmt.Sprintf("may match: %s not given (%s); asked for: %s", s.Field, flagOf[s.Field], wanted)
	}
	return fmt.Sprintf("%s %s; asked for: %s", s.Field, found, wanted)
}

const (
	fewRules   = 40 // of a list are all told of
	closeRules = 15 // of a longer one, before the one that decides
)

// shown are the steps that are told of: of a long list those that differ in no
// address and no protocol, and the last.
func (s *said) shown(all bool) (steps []acl.Step, left int) {
	if all || len(s.steps) <= fewRules {
		return s.steps, 0
	}
	far := []acl.Field{acl.FieldProto, acl.FieldSrc, acl.FieldDst}
	for i := len(s.steps) - 1; i >= 0; i-- {
		step := s.steps[i]
		if i == len(s.steps)-1 || step.Match == acl.Maybe || !slices.Contains(far, step.Field) && len(steps) <= closeRules {
			steps = append(steps, step)
		}
	}
	slices.Reverse(steps)
	return steps, len(s.steps) - len(steps)
}

func (e *explanation) text(w *bufio.Writer, all bool) {
	fmt.Fprintf(w, "%s\n", e.about())
	if len(e.lists) == 0 {
		fmt.Fprintf(w, "\npermit: no list of %s judges it\n", familyNames[e.family])
		return
	}
	for _, s := range e.lists {
		fmt.Fprintf(w, "\n%s", s.list.Head())
		if len(s.at) > 0 {
			fmt.Fprintf(w, "  (%s)", some(s.at))
		}
		fmt.Fprintln(w)
		steps, left := s.shown(all)
		if left > 0 {
			fmt.Fprintf(w, "    … %d rules that differ in protocol or address, or stand far before (--all)\n", left)
		}
		width := 0
		for _, step := range steps {
			width = max(width, len(step.Rule.Text(e.family)))
		}
		for _, step := range steps {
			mark := map[acl.Tri]string{acl.No: " ", acl.Maybe: "?", acl.Yes: ">"}[step.Match]
			fmt.Fprintf(w, "  %s %-*s  %s\n", mark, min(width, 64), rows.Plain(step.Rule.Text(e.family)), rows.Plain(e.because(step)))
		}
		fmt.Fprintf(w, "\n%s\n", rows.Plain(s.conclusion()))
	}
	if len(e.lists) > 1 {
		fmt.Fprintf(w, "\n%s by both\n", e.verdict)
	}
}

// conclusion is the verdict, and by which rule.
func (s *said) conclusion() string {
	r := s.answer.Rule
	by := func(r *acl.Rule) string {
		if r.Seq == 0 {
			return "what is implicit at the end of the list"
		}
		text := fmt.Sprintf("rule %d", r.Seq)
		if at := r.Pos.String(); at != "" {
			text += " (" + at + ")"
		}
		return text
	}
	if s.answer.Sure {
		text := s.verdict() + " by " + by(r)
		switch {
		case r.Reject:
			text += ", answered"
		case r.Log != acl.NoLog:
			text += ", logged"
		}
		return text
	}
	last := s.steps[len(s.steps)-1].Rule
	n := 0
	for _, step := range s.steps {
		if step.Match == acl.Maybe {
			n++
		}
	}
	first := fmt.Sprintf("%s if %s matches", r.Action, by(r))
	if n > 1 {
		first += fmt.Sprintf(", %d more may", n-1)
	}
	text := fmt.Sprintf("%s; else %s by %s", first, last.Action, by(last))
	if s.answer.Agreed {
		return s.verdict() + " in any case: " + text
	}
	return fmt.Sprintf("depends on the %s: %s", s.answer.Field, text)
}

type explainedRule struct {
	Rule   any    `json:"rule"`
	Text   string `json:"text"`
	Line   any    `json:"line"`
	Match  string `json:"match"`
	Field  string `json:"field,omitempty"`
	Found  string `json:"found,omitempty"`
	Wanted string `json:"wanted,omitempty"`
}

func (e *explanation) rules(s *said) []explainedRule {
	var all []explainedRule
	for _, step := range s.steps {
		r := explainedRule{
			Rule: seq(step.Rule), Text: step.Rule.Cisco(e.family), Line: line(step.Rule.Pos),
			Match: map[acl.Tri]string{acl.No: "no", acl.Maybe: "maybe", acl.Yes: "yes"}[step.Match],
		}
		if step.Match != acl.Yes {
			r.Field = step.Field.String()
			r.Found, r.Wanted = e.packet.Why(step.Rule, e.family, step.Field)
		}
		all = append(all, r)
	}
	return all
}

func (e *explanation) json() any {
	type listJSON struct {
		List    string          `json:"list"`
		Family  string          `json:"family"`
		At      []string        `json:"at"`
		Verdict string          `json:"verdict"`
		Rule    any             `json:"rule"`
		Text    string          `json:"text"`
		Reject  bool            `json:"reject"`
		Log     bool            `json:"log"`
		Depends string          `json:"depends_on,omitempty"`
		Rules   []explainedRule `json:"rules"`
	}
	out := struct {
		Packet  string     `json:"packet"`
		Verdict string     `json:"verdict"`
		Lists   []listJSON `json:"lists"`
	}{e.about(), e.verdict, []listJSON{}}
	for i := range e.lists {
		s := &e.lists[i]
		l := listJSON{
			List: s.list.Name, Family: e.family.String(), At: append([]string{}, s.at...), Verdict: s.verdict(), Rule: seq(s.answer.Rule),
			Text: s.answer.Rule.Cisco(e.family), Reject: s.answer.Rule.Reject, Log: s.answer.Rule.Log != acl.NoLog, Rules: e.rules(s),
		}
		if !s.answer.Sure {
			l.Depends = s.answer.Field.String()
		}
		out.Lists = append(out.Lists, l)
	}
	return out
}

func (e *explanation) rows(w *bufio.Writer, format rows.Format) error {
	out := rows.New(w, format, []string{"list", "rule", "text", "line", "match", "field", "found", "wanted"})
	for i := range e.lists {
		for _, r := range e.rules(&e.lists[i]) {
			if err := out.Row([]any{e.lists[i].list.Name, r.Rule, r.Text, r.Line, r.Match, r.Field, r.Found, r.Wanted}); err != nil {
				return err
			}
		}
	}
	return out.Close()
}
