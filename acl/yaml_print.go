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
			put(lists, name, l.node(name == l.Name))
		}
		put(doc, "lists", lists)
	}
	if len(p.Groups) > 0 {
		groups := mapping()
		for _, g := range p.Groups {
			put(groups, g.Name, g.node())
		}
		put(doc, "groups", groups)
	}
	if len(p.Times) > 0 {
		times := mapping()
		for _, t := range p.Times {
			put(times, t.Name, t.node())
		}
		put(doc, "times", times)
	}
	if len(p.Bindings) > 0 {
		bindings := &yaml.Node{Kind: yaml.SequenceNode}
		for _, b := range p.Bindings {
			m := mapping()
			m.Style = yaml.FlowStyle
			put(m, "interface", text(b.Interface))
			put(m, "direction", text(b.Direction.String()))
			put(m, "list", text(b.List))
			if b.Family == IPv6 {
				put(m, "family", text("ipv6"))
			}
			bindings.Content = append(bindings.Content, m)
		}
		put(doc, "bindings", bindings)
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

// put appends a pair, unless there is nothing to be said.
func put(m *yaml.Node, key string, val *yaml.Node) {
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
		put(m, "family", text("ipv6"))
	}
	rules := &yaml.Node{Kind: yaml.SequenceNode}
	for _, r := range l.Rules {
		rules.Content = append(rules.Content, r.node(l.Family))
	}
	if len(rules.Content) == 0 {
		rules.Style = yaml.FlowStyle
	}
	put(m, "rules", rules)
	put(m, "remarks", list(l.Remarks, text))
	return m
}

func (r *Rule) node(f Family) *yaml.Node {
	m := mapping()
	put(m, "seq", word(strconv.FormatUint(uint64(r.Seq), 10)))
	put(m, "remark", list(r.Remarks, text))
	put(m, r.verb(), word(protoTables[f].text(int(r.Proto))))
	put(m, "from", addrsNode(&r.Src))
	put(m, "from-port", portsNode(&r.SrcPorts))
	put(m, "to", addrsNode(&r.Dst))
	put(m, "to-port", portsNode(&r.DstPorts))
	put(m, "icmp", list(r.ICMP, func(i ICMP) *yaml.Node { return word(i.text(f, false)) }))
	if r.Flags == Established {
		put(m, "established", word("on"))
	} else if !r.Flags.None() {
		put(m, "flags", text(r.Flags.String()))
	}
	if r.Fragments {
		put(m, "fragments", word("on"))
	}
	if r.TOS.Mask != 0 {
		words := strings.Fields(r.TOS.String())
		for i := 0; i < len(words); i += 2 {
			put(m, words[i], text(words[i+1]))
		}
	}
	put(m, "ttl", list(r.TTL, rangeNode))
	put(m, "length", list(r.Lengths, rangeNode))
	if r.Time != "" {
		put(m, "time", text(r.Time))
	}
	switch r.Log {
	case LogFlow:
		put(m, "log", word("on"))
	case LogInput:
		put(m, "log", word("input"))
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
		put(m, "kind", text("service"))
	}
	if g.Remark != "" {
		put(m, "description", text(g.Remark))
	}
	put(m, "networks", list(g.Nets, netNode))
	put(m, "ports", list(g.Ports, rangeNode))
	put(m, "groups", list(g.Groups, text))
	if len(m.Content) == 0 {
		put(m, "kind", text("network"))
	}
	return m
}

func (t *TimeRange) node() *yaml.Node {
	m := mapping()
	if !t.Start.IsZero() {
		put(m, "start", text(t.Start.Local().Format(yamlClock)))
	}
	if !t.End.IsZero() {
		put(m, "end", text(t.End.Local().Format(yamlClock)))
	}
	put(m, "periods", list(t.Periods, func(p Period) *yaml.Node { return text(p.String()) }))
	if len(m.Content) == 0 {
		m.Style = yaml.FlowStyle
	}
	return m
}
