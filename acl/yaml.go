package acl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Read reads a policy in the language that name's extension or, without one of
// .yaml, .yml, .acl, .cfg, .conf and .txt, the first line that is not a comment
// shows.
func Read(name string, data []byte) (*Policy, error) {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml":
		return ReadYAML(name, data)
	case ".acl", ".cfg", ".conf", ".txt":
		return ReadCisco(name, data)
	}
	for s := range strings.Lines(string(data[:min(len(data), 1<<16)])) {
		s = strings.TrimSpace(s)
		if s == "" || s[0] == '!' || s[0] == '#' {
			continue
		}
		key, _, ok := strings.Cut(s, ":")
		if ok && slices.Contains(topKeys, strings.TrimSpace(key)) || s == "---" || s[0] == '{' {
			return ReadYAML(name, data)
		}
		break
	}
	return ReadCisco(name, data)
}

// ReadYAML reads the same model as ReadCisco from YAML. The error is an Errors.
func ReadYAML(name string, data []byte) (*Policy, error) {
	if err := checkText(name, data); err != nil {
		return nil, err
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF): // empty
		return &Policy{}, nil
	case err != nil:
		return nil, Errors{syntaxError(name, err)}
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, Errors{{Pos{File: name}, "more than one YAML document; accepted: one"}}
	}
	return ReadNode(name, &doc)
}

// ReadNode is ReadYAML of a part of a document, such as the key acl: of a
// configuration. name stands in positions.
func ReadNode(name string, n *yaml.Node) (*Policy, error) {
	y := yamlReader{newReader(name)}
	for n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	if n.Kind != 0 && n.Tag != "!!null" {
		y.document(n)
	}
	return y.policy()
}

// syntaxError turns the YAML library's message, "yaml: line 3: …", into ours.
func syntaxError(name string, err error) *Error {
	e := &Error{Pos{File: name}, strings.TrimPrefix(err.Error(), "yaml: ")}
	if rest, ok := strings.CutPrefix(e.Msg, "line "); ok {
		if n, msg, ok := strings.Cut(rest, ": "); ok {
			if line, err := strconv.Atoi(n); err == nil {
				e.Pos.Line, e.Pos.Col, e.Msg = line, 1, msg
			}
		}
	}
	e.Msg = "not YAML: " + strings.ReplaceAll(e.Msg, "\n", " ")
	return e
}

// Keys of the mappings.
var (
	topKeys     = []string{"lists", "groups", "times", "bindings"}
	listKeys    = []string{"family", "rules", "remarks"}
	groupKeys   = []string{"kind", "networks", "ports", "groups", "description"}
	timeKeys    = []string{"start", "end", "periods"}
	bindingKeys = []string{"interface", "direction", "list", "family"}
	ruleKeys    = []string{
		"permit", "deny", "reject", "from", "from-port", "to", "to-port", "icmp", "flags", "established", "fragments",
		"dscp", "precedence", "tos", "tos-octet", "ttl", "length", "time", "log", "seq", "remark",
	}
)

// yamlReader is a reader of YAML nodes.
type yamlReader struct{ *reader }

func (y yamlReader) pos(n *yaml.Node) Pos { return Pos{y.name, n.Line, n.Column} }

func (y yamlReader) fail(n *yaml.Node, format string, args ...any) {
	y.errs.add(y.pos(n), format, args...)
}

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "keys"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias"
	case n.Tag == "!!null":
		return "nothing"
	}
	return quote(n.Value)
}

// each visits the pairs of a mapping. A key that comes twice, or is not among
// keys, is refused; nil keys: names.
func (y yamlReader) each(n *yaml.Node, what string, keys []string, visit func(key, val *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		if keys == nil {
			y.fail(n, "found %s; accepted for %s: names, each with its keys", kindOf(n), what)
		} else {
			y.fail(n, "found %s; accepted for %s: the keys %s", kindOf(n), what, strings.Join(keys, ", "))
		}
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		line, twice := seen[key.Value]
		if y.errs.enough() {
			return
		}
		switch {
		case key.Kind != yaml.ScalarNode:
			y.fail(key, "found %s; accepted: a key", kindOf(key))
			continue
		case twice:
			y.fail(key, "%s stands here and in line %d", quote(key.Value), line)
			continue
		case keys != nil && !slices.Contains(keys, key.Value):
			y.fail(key, "found the key %s; %s", quote(key.Value), accepted(key.Value, keys))
			continue
		}
		seen[key.Value] = key.Line
		visit(key, n.Content[i+1])
	}
}

// items visits the elements of a list, or the one value that stands for a list
// of one.
func (y yamlReader) items(n *yaml.Node, what string, visit func(n *yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		if y.scalar(n, what) {
			visit(n)
		}
		return
	}
	for _, e := range n.Content {
		if y.scalar(e, what) {
			visit(e)
		}
	}
}

// scalar says whether n is a value, and refuses it if not.
func (y yamlReader) scalar(n *yaml.Node, what string) bool {
	if y.errs.enough() {
		return false
	}
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag == "!!null":
		y.fail(n, "found %s; accepted: %s", kindOf(n), what)
		return false
	case !printable(n.Value) || len(n.Value) > maxText:
		y.fail(n, "text with control characters, with blanks around it or of more than %d octets; accepted: %s", maxText, what)
		return false
	}
	return true
}

// line is the value of n as words.
func (y yamlReader) line(n *yaml.Node) *line {
	at := y.pos(n)
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		at.Col++
	}
	l := newLine(n.Value, at)
	l.places = y.places
	return l
}

// read reads the words of n with f, all of them.
func (y yamlReader) read(n *yaml.Node, what string, f func(l *line)) {
	if !y.scalar(n, what) {
		return
	}
	l := y.line(n)
	f(l)
	l.close()
	if l.err != nil {
		y.errs = append(y.errs, l.err)
	}
}

func (y yamlReader) bool(n *yaml.Node) bool {
	switch strings.ToLower(n.Value) {
	case "on", "true", "yes":
		return true
	case "off", "false", "no":
		return false
	}
	y.fail(n, "found %s; accepted: on, off", kindOf(n))
	return false
}

func (y yamlReader) document(n *yaml.Node) {
	y.each(n, "access lists", topKeys, func(key, val *yaml.Node) {
		if val.Tag == "!!null" {
			return
		}
		switch key.Value {
		case "lists":
			y.each(val, "lists", nil, y.yamlList)
		case "groups":
			y.each(val, "groups", nil, y.yamlGroup)
		case "times":
			y.each(val, "times", nil, y.yamlTime)
		case "bindings":
			if val.Kind != yaml.SequenceNode {
				y.fail(val, "found %s; accepted for bindings: a list of {%s}", kindOf(val), strings.Join(bindingKeys, ", "))
				return
			}
			for _, e := range val.Content {
				y.binding(e)
			}
		}
	})
}

// family is what the key family of n says.
func (y yamlReader) family(n *yaml.Node) (f Family) {
	for i := 0; i+1 < len(n.Content) && n.Kind == yaml.MappingNode; i += 2 {
		if n.Content[i].Value == "family" {
			y.read(n.Content[i+1], "ipv4, ipv6", func(l *line) {
				if l.word("ipv4", "ipv6") == "ipv6" {
					f = IPv6
				}
			})
			return f
		}
	}
	return f
}

func hasKey(n *yaml.Node, key string) bool {
	for i := 0; i+1 < len(n.Content) && n.Kind == yaml.MappingNode; i += 2 {
		if n.Content[i].Value == key {
			return true
		}
	}
	return false
}

// yamlList reads a list. Where an IPv4 and an IPv6 list have one name, the key
// of the second is "ipv6 NAME".
func (y yamlReader) yamlList(key, val *yaml.Node) {
	f := y.family(val)
	name := key.Value
	if s, ok := strings.CutPrefix(name, "ipv6 "); ok {
		if f == IPv4 && hasKey(val, "family") {
			y.fail(key, "the key of an IPv6 list over family: ipv4; accepted: one of them")
		}
		name, f = s, IPv6
	}
	if l := y.lists[listKey{name, f}]; l != nil {
		y.fail(key, "the %s list %s is there already, since line %d", familyNames[f], quote(name), l.Pos.Line)
		return
	}
	l := y.list(name, f, y.pos(key))
	rules := func(n *yaml.Node) {
		if n.Kind != yaml.SequenceNode {
			if n.Tag != "!!null" {
				y.fail(n, "found %s; accepted for rules: a list", kindOf(n))
			}
			return
		}
		for _, e := range n.Content {
			y.rule(l, e)
		}
	}
	if val.Kind == yaml.SequenceNode {
		rules(val)
		return
	}
	y.each(val, "a list", listKeys, func(key, val *yaml.Node) {
		switch key.Value {
		case "rules":
			rules(val)
		case "remarks":
			y.items(val, "text", func(n *yaml.Node) { l.Remarks = append(l.Remarks, n.Value) })
		}
	})
}

// rule reads a rule: keys, or a line as in Cisco's language.
func (y yamlReader) rule(list *listReader, n *yaml.Node) {
	if y.errs.enough() {
		return
	}
	if n.Kind == yaml.ScalarNode {
		y.read(n, "a rule", func(l *line) {
			c := ciscoReader{reader: y.reader, list: list}
			if t := l.peek(); strings.EqualFold(t.text, "no") || !c.listLine(l) {
				l.refuse(t, "a number", append(slices.Clone(actions), "remark")...)
			}
		})
		return
	}
	r := &Rule{Proto: AnyProto, Pos: y.pos(n)}
	action := ""
	seq := 0
	// The protocol says what the rest means, wherever it stands.
	for i := 0; i+1 < len(n.Content) && n.Kind == yaml.MappingNode; i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if !slices.Contains(actions, key.Value) {
			continue
		}
		if action != "" {
			y.fail(key, "%s and %s in one rule; accepted: one of them", action, key.Value)
			continue
		}
		action = key.Value
		if action == "permit" {
			r.Action = Permit
		}
		r.Reject = action == "reject"
		y.places.set(r, partProto, y.pos(val))
		y.read(val, "a protocol", func(l *line) { r.Proto = l.proto(list.Family) })
	}
	y.each(n, "a rule", ruleKeys, func(key, val *yaml.Node) { y.ruleKey(list, r, key.Value, val, &seq) })
	if action == "" && n.Kind == yaml.MappingNode {
		y.fail(n, "a rule without action; accepted: one of the keys permit, deny, reject, with a protocol")
	}
	y.add(list, r, uint32(seq), y.pos(n))
}

func (y yamlReader) ruleKey(list *listReader, r *Rule, key string, n *yaml.Node, seq *int) {
	f := list.Family
	part := func(s string) { y.places.set(r, s, y.pos(n)) }
	switch key {
	case "from":
		part(partSrc)
		y.addrs(n, "source", f, &r.Src)
	case "to":
		part(partDst)
		y.addrs(n, "destination", f, &r.Dst)
	case "from-port":
		part(partSrcPorts)
		y.ports(n, portTable(r.Proto), &r.SrcPorts)
	case "to-port":
		part(partDstPorts)
		y.ports(n, portTable(r.Proto), &r.DstPorts)
	case "icmp":
		part(partICMP)
		y.items(n, "a type of ICMP", func(n *yaml.Node) {
			y.read(n, "a type of ICMP", func(l *line) {
				t := l.take()
				i, ok := parseICMP(t.text, f)
				if !ok {
					l.refuseNamed(t, "TYPE, TYPE/CODE", icmpTables[f])
				}
				r.ICMP = append(r.ICMP, i)
			})
		})
		if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
			y.fail(n, "an empty list; accepted: types of ICMP, or no such key")
		}
	case "flags":
		part(partFlags)
		y.flags(r, f, n)
	case "established":
		part(partFlags)
		if y.bool(n) {
			if !r.Flags.None() {
				y.fail(n, "established and flags in one rule; accepted: one of them")
			}
			r.Flags = Established
		}
	case "fragments":
		part(partFrags)
		r.Fragments = y.bool(n)
	case "dscp", "precedence", "tos", "tos-octet":
		part(partTOS)
		y.read(n, "a value", func(l *line) {
			l.toks = append([]token{{key, y.pos(n)}}, l.toks...)
			only := &Rule{Proto: 255, TOS: r.TOS} // takes nothing else
			l.options(only, f, []string{key})
			r.TOS = only.TOS
		})
	case "ttl":
		part(partTTL)
		y.numbers(n, "a TTL", noNames, 255, &r.TTL)
	case "length":
		part(partLength)
		y.numbers(n, "a length in octets", noNames, 65535, &r.Lengths)
	case "time":
		part(partTime)
		y.read(n, "the name of a time range", func(l *line) { r.Time = l.name("the name of a time range") })
	case "log":
		switch strings.ToLower(n.Value) {
		case "input":
			r.Log = LogInput
		case "on", "true", "yes":
			r.Log = LogFlow
		case "off", "false", "no":
		default:
			y.fail(n, "found %s; accepted: on, off, input", kindOf(n))
		}
	case "seq":
		part(partSeq)
		y.read(n, "a sequence number", func(l *line) { *seq = l.number("a sequence number", 1, maxSeq) })
	case "remark":
		part(partRemark)
		y.items(n, "text", func(n *yaml.Node) { r.Remarks = append(r.Remarks, n.Value) })
	}
}

// flags reads a condition on flags, as it stands in a line.
func (y yamlReader) flags(r *Rule, f Family, n *yaml.Node) {
	y.read(n, "flags", func(l *line) {
		if !r.Flags.None() {
			l.fail(l.peek(), "established and flags in one rule; accepted: one of them")
			return
		}
		words := append([]string{"established", "match-any", "match-all"}, flagNames.names()[:6]...)
		if t := l.peek(); keyword(t.text, words...) == "" {
			l.refuse(t, "", words...)
			return
		}
		only := &Rule{Proto: 255} // takes nothing else
		l.options(only, f, words)
		r.Flags = only.Flags
	})
}

// addrs reads networks, or `group NAME`.
func (y yamlReader) addrs(n *yaml.Node, what string, f Family, a *Addrs) {
	anything := false
	y.items(n, "any, a network, or group NAME", func(e *yaml.Node) {
		y.read(e, "a network", func(l *line) {
			if keyword(l.peek().text, "group") != "" && n.Kind != yaml.SequenceNode {
				l.take()
				a.Group = l.groupName()
				return
			}
			one := l.addrs(what, f, yamlWords)
			anything = anything || one.Any() && l.err == nil
			a.Nets = append(a.Nets, one.Nets...)
		})
	})
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		y.fail(n, "an empty list; accepted: networks, or any")
	}
	if anything && len(n.Content) > 1 {
		y.fail(n, "any among networks; accepted: any alone")
	}
}

// groupName takes the name of a group that a person made.
func (l *line) groupName() string {
	t := l.peek()
	s := l.name("the name of a group")
	if fault := nameFault(s); l.err == nil && fault != "" {
		l.fail(t, "found %s", fault)
	}
	return s
}

func (y yamlReader) ports(n *yaml.Node, tab *table, s *Ports) {
	if n.Kind == yaml.ScalarNode && strings.HasPrefix(n.Value, "group ") {
		y.read(n, "group NAME", func(l *line) {
			l.take()
			s.Group = l.groupName()
		})
		return
	}
	y.numbers(n, "a port", tab, 65535, &s.Ranges)
}

// numbers reads numbers, names, FROM-TO, and the operators of the lines.
func (y yamlReader) numbers(n *yaml.Node, what string, tab *table, limit int, ranges *[]Range) {
	y.items(n, what, func(n *yaml.Node) {
		y.read(n, what, func(l *line) {
			if l.isOperator() {
				*ranges = append(*ranges, l.numbers(what, tab, limit)...)
				return
			}
			t := l.take()
			from, ok := tab.number(t.text, limit)
			to := from
			if a, b, isRange := strings.Cut(t.text, "-"); !ok && isRange {
				var ok2 bool
				from, ok = decimal(a, limit)
				to, ok2 = decimal(b, limit)
				if ok = ok && ok2; ok && from > to {
					l.fail(t, "a range from %d down to %d; accepted: the lower number first", from, to)
				}
			}
			if !ok {
				l.refuseNamed(t, fmt.Sprintf("%s, 0 to %d, FROM-TO", what, limit), tab)
			}
			*ranges = append(*ranges, Range{uint16(from), uint16(to)})
		})
	})
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		y.fail(n, "an empty list; accepted: %s, or no such key", what)
	}
}

func (y yamlReader) yamlGroup(key, val *yaml.Node) {
	g := y.group(key.Value, GroupNetwork, y.pos(key)).Group
	y.each(val, "a group", groupKeys, func(key, val *yaml.Node) {
		switch key.Value {
		case "kind":
			y.read(val, "network, service", func(l *line) {
				if l.word("network", "service") == "service" {
					g.Kind = GroupService
				}
			})
		case "networks":
			y.items(val, "a network", func(n *yaml.Node) { y.member(n, g) })
		case "ports":
			g.Kind = GroupService
			y.numbers(val, "a port", anyPorts, 65535, &g.Ports)
		case "groups":
			y.items(val, "the name of a group", func(n *yaml.Node) {
				y.places.set(g, n.Value, y.pos(n))
				g.Groups = append(g.Groups, n.Value)
			})
		case "description":
			if y.scalar(val, "text") {
				g.Remark = val.Value
			}
		}
	})
}

// member reads a network of a group, of either family, or FROM-TO.
func (y yamlReader) member(n *yaml.Node, g *Group) {
	y.read(n, "a network", func(l *line) {
		t := l.peek()
		if from, to, ok := strings.Cut(t.text, "-"); ok {
			l.toks = []token{{from, t.at}, {to, l.pos(len(from) + 1)}}
			g.Nets = append(g.Nets, l.addrRange()...)
			return
		}
		f := IPv4
		if strings.Contains(t.text, ":") {
			f = IPv6
		}
		if keyword(t.text, "any") != "" {
			nets, _ := l.member()
			g.Nets = append(g.Nets, nets...)
			return
		}
		g.Nets = append(g.Nets, l.addrs("network", f, standardWords).Nets...)
	})
}

const yamlClock = "2006-01-02 15:04"

func (y yamlReader) yamlTime(key, val *yaml.Node) {
	t := y.time(key.Value, y.pos(key))
	at := func(n *yaml.Node, field *time.Time) {
		if !y.scalar(n, "a date and time, like 2026-12-31 23:59") {
			return
		}
		v, err := time.ParseInLocation(yamlClock, n.Value, time.Local)
		if err != nil {
			y.fail(n, "found %s; accepted: a date and time, like 2026-12-31 23:59", quote(n.Value))
		}
		*field = v
	}
	y.each(val, "a time range", timeKeys, func(key, val *yaml.Node) {
		switch key.Value {
		case "start":
			at(val, &t.Start)
		case "end":
			at(val, &t.End)
		case "periods":
			y.items(val, "a period, like weekdays 8:00 to 17:00", func(n *yaml.Node) {
				y.read(n, "a period", func(l *line) { t.Periods = append(t.Periods, l.period()) })
			})
		}
	})
}

func (y yamlReader) binding(n *yaml.Node) {
	b := Binding{Family: y.family(n), Pos: y.pos(n)}
	seen := map[string]bool{}
	y.each(n, "a binding", bindingKeys, func(key, val *yaml.Node) {
		seen[key.Value] = true
		switch key.Value {
		case "interface":
			y.read(val, "the name of an interface", func(l *line) { b.Interface = l.name("the name of an interface") })
		case "list":
			b.Pos = y.pos(val)
			y.read(val, "the name of a list", func(l *line) { b.List = l.name("the name of a list") })
		case "direction":
			y.read(val, "in, out", func(l *line) {
				if l.word("in", "out") == "out" {
					b.Direction = Out
				}
			})
		}
	})
	for _, key := range bindingKeys[:3] {
		if !seen[key] && n.Kind == yaml.MappingNode {
			y.fail(n, "a binding without %s; accepted: %s", key, strings.Join(bindingKeys, ", "))
			return
		}
	}
	y.p.Bindings = append(y.p.Bindings, b)
}
