package config

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"time"

	"go.yaml.in/yaml/v4"

	"weir/acl"
)

// ACL is filtering by access lists. They stand in a file of their own, in Cisco's
// words or in YAML, or here.
type ACL struct {
	File string `yaml:"file"`
	// Protect puts rules in front of every list that let this machine's own
	// sessions, exports and routing protocols pass.
	Protect bool `yaml:"protect"`
	// OrphanAfter is how long weir may give no sign of life before interfaces do what
	// their daemon-gone says.
	OrphanAfter Duration `yaml:"orphan-after"`

	Lists *acl.Policy `yaml:"-"` // those that stand here: lists, groups, times
}

// InterfaceACL is what is filtered at an interface, and what becomes of packets when
// no list can tell.
type InterfaceACL struct {
	In        string `yaml:"in"`  // IPv4 list of what comes in
	Out       string `yaml:"out"` // IPv4 list of what leaves
	In6       string `yaml:"in6"`
	Out6      string `yaml:"out6"`
	CountOnly bool   `yaml:"count-only"` // lists count, and drop nothing

	NoList     string `yaml:"no-list"`     // open, closed: packets that no list judges
	DaemonGone string `yaml:"daemon-gone"` // keep, open, closed
	TableFull  string `yaml:"table-full"`  // judge, open, closed: packets that the flow table has no room for
}

func defaultACL() ACL { return ACL{Protect: true, OrphanAfter: Duration(10 * time.Second)} }

// acl reads the key acl: its own keys, and the rest as lists.
func (d *decoder) acl(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.structure(n, v, path)
		return
	}
	own, lists := *n, *n
	own.Content, lists.Content = nil, nil
	names := keys(v.Type())
	for i := 0; i+1 < len(n.Content); i += 2 {
		to := &lists
		if slices.Contains(names, n.Content[i].Value) {
			to = &own
		}
		to.Content = append(to.Content, n.Content[i], n.Content[i+1])
	}
	d.structure(&own, v, path)
	if len(lists.Content) == 0 {
		return
	}
	p, err := acl.ReadNode(d.file, &lists)
	var errs acl.Errors
	switch {
	case errors.As(err, &errs):
		for _, e := range errs {
			d.errs = append(d.errs, &Error{File: d.file, Line: e.Pos.Line, Col: e.Pos.Col, Key: path, Msg: e.Msg})
		}
	case err != nil:
		d.fail(n, path, "%v", err)
	default:
		v.Addr().Interface().(*ACL).Lists = p
	}
}

// Filters says whether access lists are wanted at all.
func (c *Config) Filters() bool {
	if c.ACL.File != "" || c.ACL.Lists != nil {
		return true
	}
	for _, i := range c.Interfaces {
		if i.ACL != (InterfaceACL{}) {
			return true
		}
	}
	return false
}

// Policy is the access lists with what the interfaces say; nil: none are wanted.
func (c *Config) Policy() (*acl.Policy, error) {
	if !c.Filters() {
		return nil, nil
	}
	p := &acl.Policy{}
	if c.ACL.Lists != nil {
		*p = *c.ACL.Lists
	}
	if c.ACL.File != "" {
		f, err := os.Open(c.ACL.File)
		if err != nil {
			return nil, fmt.Errorf("%s: %s", c.ACL.File, plainOS(err))
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, maxLists+1))
		if err != nil {
			return nil, fmt.Errorf("%s: %s", c.ACL.File, plainOS(err))
		}
		read, err := acl.Read(c.ACL.File, data)
		if err != nil {
			return nil, err
		}
		if c.ACL.Lists != nil {
			return nil, fmt.Errorf("%s: lists stand there and under acl: too; accepted: one place", c.ACL.File)
		}
		p = read
	}
	return p, c.Bind(p)
}

// maxLists bounds what is read as access lists, in octets.
const maxLists = 16 << 20

// Bind adds what the interfaces say to a policy that says nothing of the place.
func (c *Config) Bind(p *acl.Policy) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(c.Interfaces)) {
		i := c.Interfaces[name].ACL
		for _, b := range []acl.Binding{
			{Interface: name, Direction: acl.In, Family: acl.IPv4, List: i.In},
			{Interface: name, Direction: acl.Out, Family: acl.IPv4, List: i.Out},
			{Interface: name, Direction: acl.In, Family: acl.IPv6, List: i.In6},
			{Interface: name, Direction: acl.Out, Family: acl.IPv6, List: i.Out6},
		} {
			taken := slices.ContainsFunc(p.Bindings, func(x acl.Binding) bool {
				return x.Interface == name && x.Direction == b.Direction && x.Family == b.Family
			})
			switch {
			case b.List == "" || taken:
			case p.List(b.List, b.Family) == nil:
				errs = append(errs, fmt.Errorf("interfaces.%s.acl: there is no %v list %q", name, b.Family, b.List))
			default:
				p.Bindings = append(p.Bindings, b)
			}
		}
	}
	return errors.Join(errs...)
}

func (i *InterfaceACL) check(report func(key, msg string)) {
	choice := func(key, got string, accepted ...string) {
		if got != "" {
			oneOf(report, key, got, accepted...)
		}
	}
	choice("acl.no-list", i.NoList, "open", "closed")
	choice("acl.daemon-gone", i.DaemonGone, "keep", "open", "closed")
	choice("acl.table-full", i.TableFull, "judge", "open", "closed")
}
