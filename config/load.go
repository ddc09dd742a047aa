package config

import (
	"bytes"
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// maxFile bounds what is read as a configuration, in octets.
const maxFile = 4 << 20

// Error is one thing wrong with a configuration.
type Error struct {
	File      string
	Line, Col int    // from 1; 0: the file as a whole
	Key       string // dotted path
	Msg       string
}

func (e *Error) Error() string {
	s := e.File
	if e.Line > 0 {
		s += ":" + strconv.Itoa(e.Line) + ":" + strconv.Itoa(e.Col)
	}
	if e.Key != "" {
		s += ": " + e.Key
	}
	return s + ": " + e.Msg
}

// Errors are all the things wrong with one, in the file's order.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Load reads a file over the defaults. The empty path is DefaultPath, which
// may be absent. The error is an Errors when the content is at fault.
func Load(path string) (*Config, error) { return LoadOver(Default(), path) }

// LoadOver is Load over other defaults, which it changes.
func LoadOver(c *Config, path string) (*Config, error) {
	name := cmp.Or(path, DefaultPath)
	f, err := os.Open(name)
	if err != nil {
		if path == "" && errors.Is(err, os.ErrNotExist) {
			return c, nil
		}
		return nil, Errors{{File: name, Msg: plainOS(err)}}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, Errors{{File: name, Msg: plainOS(err)}}
	}
	if len(data) > maxFile {
		return nil, Errors{{File: name, Msg: "larger than 4 MiB: not a configuration"}}
	}
	return parseOver(c, name, data)
}

// plainOS is the reason alone: the name stands before it already.
func plainOS(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// Parse reads data over the defaults; name stands in errors.
func Parse(name string, data []byte) (*Config, error) { return parseOver(Default(), name, data) }

func parseOver(c *Config, name string, data []byte) (*Config, error) {
	d := decoder{file: name, at: map[string]*yaml.Node{}}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF): // empty: the defaults
		return c, nil
	case err != nil:
		return nil, Errors{syntax(name, err)}
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, Errors{{File: name, Msg: "more than one YAML document; accepted: one"}}
	}
	if len(doc.Content) == 1 && doc.Content[0].Tag != "!!null" {
		d.value(doc.Content[0], reflect.ValueOf(c).Elem(), "")
	}
	wrong := map[string]bool{} // said already
	for _, e := range d.errs {
		wrong[e.Key] = true
	}
	c.check(func(path, msg string) {
		if !wrong[path] {
			d.fail(d.nearest(path), path, "%s", msg)
		}
	})
	if len(d.errs) > 0 {
		slices.SortStableFunc(d.errs, func(a, b *Error) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col)) })
		return nil, d.errs
	}
	return c, nil
}

// syntax turns the YAML library's message, "yaml: line 3: …", into ours.
func syntax(name string, err error) *Error {
	e := &Error{File: name, Msg: strings.TrimPrefix(err.Error(), "yaml: ")}
	if rest, ok := strings.CutPrefix(e.Msg, "line "); ok {
		if n, msg, ok := strings.Cut(rest, ": "); ok {
			if line, err := strconv.Atoi(n); err == nil {
				e.Line, e.Col, e.Msg = line, 1, msg
			}
		}
	}
	e.Msg = "not YAML: " + strings.ReplaceAll(e.Msg, "\n", " ")
	return e
}

// decoder fills a Config from YAML nodes, remembering where each key stands.
type decoder struct {
	file string
	errs Errors
	at   map[string]*yaml.Node
}

func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	e := &Error{File: d.file, Key: path, Msg: fmt.Sprintf(format, args...)}
	if n != nil {
		e.Line, e.Col = n.Line, n.Column
	}
	d.errs = append(d.errs, e)
}

// nearest is the node of path or of the nearest key above it.
func (d *decoder) nearest(path string) *yaml.Node {
	for path != "" {
		if n := d.at[path]; n != nil {
			return n
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return nil
}

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	d.at[path] = n
	if n.Kind == yaml.AliasNode {
		d.fail(n, path, "YAML aliases are not accepted here")
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if n.Kind != yaml.ScalarNode {
			d.fail(n, path, "found %s; accepted: one value", kindName(n))
		} else if err := u.UnmarshalText([]byte(n.Value)); err != nil {
			d.fail(n, path, "%v", err)
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[ACL]() {
			d.acl(n, v, path)
			return
		}
		if v.Type() == reflect.TypeFor[Guard]() && n.Kind == yaml.MappingNode {
			v.FieldByName("Enabled").SetBool(true) // naming it is wanting it
		}
		if n.Kind == yaml.ScalarNode && v.Type() == reflect.TypeFor[Destination]() {
			d.value(n, v.FieldByName("To"), path)
			return
		}
		d.structure(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.fail(n, path, "found %s; accepted: a list ([a, b] or lines of - a)", kindName(n))
			return
		}
		list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, e := range n.Content {
			d.value(e, list.Index(i), path+"["+strconv.Itoa(i)+"]")
		}
		v.Set(list)
	case reflect.String:
		if n.Kind != yaml.ScalarNode {
			d.fail(n, path, "found %s; accepted: text", kindName(n))
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		switch strings.ToLower(n.Value) {
		case "true", "on", "yes":
			v.SetBool(true)
		case "false", "off", "no":
			v.SetBool(false)
		default:
			d.fail(n, path, "found %s; accepted: true, false, on, off", kindName(n))
		}
	default:
		panic("config: no decoder for " + v.Type().String())
	}
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		if n.Tag != "!!null" { // "cache:" with nothing below keeps the defaults
			d.fail(n, path, "found %s; accepted: keys %s", kindName(n), strings.Join(keys(v.Type()), ", "))
		}
		return
	}
	d.each(n, path, func(key *yaml.Node, val *yaml.Node, at string) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.Tag.Get("yaml") != key.Value {
				continue
			}
			if part := f.Tag.Get("reserved"); part != "" {
				d.fail(key, at, "%s is not part of this version", part)
			} else {
				d.value(val, v.Field(i), at)
			}
			return
		}
		names := keys(v.Type())
		d.fail(key, at, "unknown key; accepted: %s%s", strings.Join(names, ", "), didYouMean(key.Value, names))
	})
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		if n.Tag != "!!null" {
			d.fail(n, path, "found %s; accepted: names, each with its keys", kindName(n))
		}
		return
	}
	m := reflect.MakeMap(v.Type())
	d.each(n, path, func(key, val *yaml.Node, at string) {
		e := reflect.New(v.Type().Elem()).Elem()
		if e.Type() == reflect.TypeFor[Interface]() {
			e.Set(reflect.ValueOf(Interface{Meter: true, Mode: "auto"})) // naming it is wanting it
		} else if e.Type() == reflect.TypeFor[Aggregation]() {
			e.Set(reflect.ValueOf(defaultAggregation()))
		}
		d.value(val, e, at)
		m.SetMapIndex(reflect.ValueOf(key.Value), e)
	})
	v.Set(m)
}

// each visits the pairs of a mapping, refusing a key that comes twice.
func (d *decoder) each(n *yaml.Node, path string, visit func(key, val *yaml.Node, at string)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		at := key.Value
		if path != "" {
			at = path + "." + key.Value
		}
		if line, twice := seen[key.Value]; twice {
			d.fail(key, at, "stands here and in line %d", line)
			continue
		}
		seen[key.Value] = key.Line
		visit(key, n.Content[i+1], at)
	}
}

func keys(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("reserved") == "" && f.Tag.Get("yaml") != "-" {
			names = append(names, f.Tag.Get("yaml"))
		}
	}
	return names
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Tag == "!!null" {
		return "nothing"
	}
	return strconv.Quote(n.Value)
}

// Show writes the configuration as YAML, every value with it.
func (c *Config) Show(w io.Writer) error {
	type plain struct {
		Interfaces  map[string]shownInterface `yaml:"interfaces,omitempty"`
		Cache       Cache                     `yaml:"cache"`
		Aggregation map[string]Aggregation    `yaml:"flow-aggregation,omitempty"`
		Export      []Destination             `yaml:"export"`
		Collect     Collect                   `yaml:"collect"`
		Store       Store                     `yaml:"store"`
		Console     Console                   `yaml:"console"`
		ACL         ACL                       `yaml:"acl"`
		Forward     Forward                   `yaml:"forward"`
		Guard       Guard                     `yaml:"guard"`
		Control     string                    `yaml:"control"`
		Log         Log                       `yaml:"log"`
	}
	p := plain{nil, c.Cache, c.Aggregation, c.Export, c.Collect, c.Store, c.Console, c.ACL, c.Forward, c.Guard, c.Control, c.Log}
	for name, i := range c.Interfaces {
		if p.Interfaces == nil {
			p.Interfaces = map[string]shownInterface{}
		}
		p.Interfaces[name] = shownInterface(i)
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(p); err != nil {
		return err
	}
	return enc.Close()
}

// shownInterface is an Interface without what is not set.
type shownInterface struct {
	Meter       bool           `yaml:"meter"`
	Mode        string         `yaml:"mode"`
	Sample      Sample         `yaml:"sample"`
	Promiscuous bool           `yaml:"promiscuous"`
	Filter      string         `yaml:"filter,omitempty"`
	Prefixes    []Prefix       `yaml:"prefixes,omitempty"`
	ACL         InterfaceACL   `yaml:"acl,omitempty"`
	Forward     Forwards       `yaml:"forward"`
	URPF        string         `yaml:"urpf,omitempty"`
	Guard       InterfaceGuard `yaml:"guard,omitempty"`
}
