package acl

import (
	"bytes"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// AppendYAML appends p as ReadYAML reads it: it is p again, positions aside.
func AppendYAML(dst []byte, p *Policy) []byte {
	doc := mapping()
	if len(p.Lists) > 0 {
		lists, known := mapping(), p.byName()
		for _, l := range p.Lists {
			name := l.Name
			if l.Family == IPv6 && known[listKey{name, IPv4}] != nil {
				name = "ipv6 " + name
			}
			putKey(lists, name, l.node(name == l.Name))
		}
		putKey(doc, "lists", lists)
	}
	if len(p.Groups) > 0 {
		groups := mapping()
		for _, g := range p.Groups {
			putKey(groups, g.Name, g.node())
		}
		putKey(doc, "groups", groups)
	}
	if len(p.Times) > 0 {
		times := mapping()
		for _, t := range p.Times {
			putKey(times, t.Name, t.node())
		}
		putKey(doc, "times", times)
	}
	if len(p.Bindings) > 0 {
		bindings := &yaml.Node{Kind: yaml.SequenceNode}
		for _, b := range p.Bindings {
			m := mapping()
			m.Style = yaml.FlowStyle
			putKey(m, "interface", text(b.Interface))
			putKey(m, "direction", text(b.Direction.String()))
			putKey(m, "list", text(b.List))
			if b.Family == IPv6 {
				putKey(m, "family", text("ipv6"))
			}
			bindings.Content = append(bindings.Content, m)
		}
		putKey(doc, "bindings", bindings)
	}
	if len(doc.Content) == 0 {
		return append(dst, "{}\n"...)
	}
	w := bytes.NewBuffer(dst)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	// Nodes made of text into memory: there is nothing to fail.
	if err := enc.Encode(doc); err != nil {
		panic(err)
	}
	if err := enc.Close(); err != nil {
		panic(err)
	}
	return w.Bytes()
}

func mapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode} }

// putKey appends a pair, unless there is nothing to be said.
func putKey(m *yaml.Node, key string, val *yaml.Node) {
	if val != nil {
		m.Content = append(m.Content, text(key), val)
	}
}

// text is a string; quoted where it would read as something else.
func text(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

// word is a number or a word that needs no quotes: what reads it looks at the
// letters alone.
func word(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: s} }

// list is none, one, or several in brackets.
func list[T any](all []T, one func(T) *yaml.Node) *yaml.Node {
	switch len(all) {
	case 0:
		return nil
	case 1:
		return one(all[0])
	}
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, x := range all {
		n.Content = append(n.Content, one(x))
	}
	return n
}

func (l *List) node(withFamily bool) *yaml.Node {
	m := mapping()
	if l.Family == IPv6 && withFamily {
		putKey(m, "family", text("ipv6"))
	}
	rules := &yaml.Node{Kind: yaml.SequenceNode}
	for _, r := range l.Rules {
		rules.Content = append(rules.Content, r.node(l.Family))
	}
	if len(rules.Content) == 0 {
		rules.Style = yaml.FlowStyle
	}
	putKey(m, "rules", rules)
	putKey(m, "remarks", list(l.Remarks, text))
	return m
}

func (r *Rule) node(f Family) *yaml.Node {
	m := mapping()
	putKey(m, "seq", word(strconv.FormatUint(uint64(r.Seq), 10)))
	putKey(m, "remark", list(r.Remarks, text))
	putKey(m, r.verb(), word(protoTables[f].text(int(r.Proto))))
	putKey(m, "from", addrsNode(&r.Src))
	putKey(m, "from-port", portsNode(&r.SrcPorts))
	putKey(m, "to", addrsNode(&r.Dst))
	putKey(m, "to-port", portsNode(&r.DstPorts))
	putKey(m, "icmp", list(r.ICMP, func(i ICMP) *yaml.Node { return word(i.text(f, false)) }))
	if r.Flags == Established {
		putKey(m, "established", word("on"))
	} else if !r.Flags.None() {
		putKey(m, "flags", text(r.Flags.String()))
	}
	if r.Fragments {
		putKey(m, "fragments", word("on"))
	}
	if r.TOS.Mask != 0 {
		words := strings.Fields(r.TOS.String())
		for i := 0; i < len(words); i += 2 {
			putKey(m, words[i], text(words[i+1]))
		}
	}
	putKey(m, "ttl", list(r.TTL, rangeNode))
	putKey(m, "length", list(r.Lengths, rangeNode))
	if r.Time != "" {
		putKey(m, "time", text(r.Time))
	}
	switch r.Log {
	case LogFlow:
		putKey(m, "log", word("on"))
	case LogInput:
		putKey(m, "log", word("input"))
	}
	return m
}

// addrsNode is nothing for any.
func addrsNode(a *Addrs) *yaml.Node {
	if a.Group != "" {
		return text("group " + a.Group)
	}
	return list(a.Nets, netNode)
}

// netNode is an address, a prefix, or an address and a wildcard.
func netNode(n Net) *yaml.Node {
	p, ok := n.Prefix()
	switch {
	case !ok:
		return text(n.text())
	case p.IsSingleIP():
		return text(p.Addr().String())
	}
	return text(p.String())
}

func portsNode(s *Ports) *yaml.Node {
	if s.Group != "" {
		return text("group " + s.Group)
	}
	return list(s.Ranges, rangeNode)
}

func rangeNode(r Range) *yaml.Node {
	from, to := strconv.Itoa(int(r.From)), strconv.Itoa(int(r.To))
	if from == to {
		return word(from)
	}
	return word(from + "-" + to)
}

func (g *Group) node() *yaml.Node {
	m := mapping()
	if g.Kind == GroupService && len(g.Ports) == 0 {
		putKey(m, "kind", text("service"))
	}
	if g.Remark != "" {
		putKey(m, "description", text(g.Remark))
	}
	putKey(m, "networks", list(g.Nets, netNode))
	putKey(m, "ports", list(g.Ports, rangeNode))
	putKey(m, "groups", list(g.Groups, text))
	if len(m.Content) == 0 {
		putKey(m, "kind", text("network"))
	}
	return m
}

func (t *TimeRange) node() *yaml.Node {
	m := mapping()
	if !t.Start.IsZero() {
		putKey(m, "start", text(t.Start.Local().Format(yamlClock)))
	}
	if !t.End.IsZero() {
		putKey(m, "end", text(t.End.Local().Format(yamlClock)))
	}
	putKey(m, "periods", list(t.Periods, func(p Period) *yaml.Node { return text(p.String()) }))
	if len(m.Content) == 0 {
		m.Style = yaml.FlowStyle
	}
	return m
}
