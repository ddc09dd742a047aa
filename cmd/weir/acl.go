package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"weir/acl"
	"weir/rows"
)

// aclCmd is all that can be done with access lists. What needs no running weir
// is in the files acl_….go.
type aclCmd struct {
	Check    aclCheckCmd    `cmd:"" help:"Say all that is wrong with a file, and what in it is hardly meant."`
	Explain  aclExplainCmd  `cmd:"" help:"Say which rule decides about a packet, and why those before it do not."`
	Test     aclTestCmd     `cmd:"" help:"Judge the packets of capture files."`
	Simulate aclSimulateCmd `cmd:"" help:"Judge stored flows: what would have been dropped?"`
	Diff     aclDiffCmd     `cmd:"" help:"Say what makes one file of another, or of what the running weir has in force."`
	Import   aclImportCmd   `cmd:"" help:"Make access lists of a rule set of nftables or iptables, with a report."`
	Export   aclExportCmd   `cmd:"" help:"Print a file in another language."`

	Stage    aclStageCmd    `cmd:"" help:"Hold a file beside what the running weir has in force: it counts what it would drop, and drops nothing."`
	Apply    aclApplyCmd    `cmd:"" help:"Put a file in force in the running weir, on trial or for good."`
	Confirm  aclConfirmCmd  `cmd:"" help:"Keep what is on trial."`
	Rollback aclRollbackCmd `cmd:"" help:"End the trial, or put the lists before in force again."`
}

// exitCode ends the program with it when all has been said.
type exitCode int

func (s exitCode) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// readPolicy reads the access lists of a file; what is wrong with them, or with
// the file, is the user's to mend.
func (a *app) readPolicy(name string) (*acl.Policy, error) {
	data, called, err := a.readText(name)
	if err != nil {
		return nil, err
	}
	return acl.Read(called, data)
}

// maxPolicy is what of a file is read: one octet more than a policy may have, so
// that its reader refuses a larger one.
const maxPolicy = 16<<20 + 1

// readText reads a file, or standard input for "-", which is called so.
func (a *app) readText(name string) (data []byte, called string, err error) {
	in := a.stdin
	if called = "stdin"; name != "-" {
		called = name
		f, err := os.Open(name)
		if err != nil {
			return nil, called, usagef("%s: %v", name, reason(err))
		}
		defer f.Close()
		in = f
	}
	if data, err = io.ReadAll(io.LimitReader(in, maxPolicy)); err != nil {
		return nil, called, usagef("%s: %v", called, reason(err))
	}
	return data, called, nil
}

// reason is what went wrong with a file, without its name.
func reason(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// judging says which lists judge.
type judging struct {
	List []string `sep:"none" placeholder:"NAME" help:"The list to ask, where a file has several of a family. Repeatable: one a family."`
	In   string   `placeholder:"IF" help:"Ask the lists that are applied at this interface in."`
	Out  string   `placeholder:"IF" help:"Ask the lists that are applied at this interface out; with --in, after those."`
}

var familyNames = [...]string{acl.IPv4: "IPv4", acl.IPv6: "IPv6"}

// lists are those that judge the packets of each family that is asked about, in
// their order: one, or with --in and --out two.
func (c *judging) lists(p *acl.Policy, file string, families ...acl.Family) (found [2][]*acl.List, err error) {
	if len(p.Lists) == 0 {
		return found, usagef("%s: no access list in it", file)
	}
	switch {
	case len(c.List) > 0 && c.In+c.Out != "":
		return found, usagef("--list names the list, --in and --out find it: give one of them")
	case c.In+c.Out != "":
		return c.bound(p, file)
	case len(c.List) > 0:
		return c.named(p, file)
	}
	for _, f := range families {
		for _, l := range p.Lists {
			if l.Family == f {
				found[f] = append(found[f], l)
			}
		}
		if len(found[f]) > 1 {
			return found, usagef("%s has %d lists of %s: %s; choose by --list NAME, or by --in IF or --out IF", file, len(found[f]), familyNames[f], listNames(found[f]))
		}
	}
	return found, nil
}

func (c *judging) named(p *acl.Policy, file string) (found [2][]*acl.List, err error) {
	for _, name := range c.List {
		n := 0
		for _, l := range p.Lists {
			if l.Name == name {
				n++
				found[l.Family] = append(found[l.Family], l)
			}
		}
		if n == 0 {
			return found, usagef("--list %s: not in %s, which has: %s", name, file, listNames(p.Lists))
		}
	}
	for f, lists := range found {
		if len(lists) > 1 {
			return found, usagef("--list names %d lists of %s (%s): one of a family judges a packet", len(lists), familyNames[f], listNames(lists))
		}
	}
	return found, nil
}

// bound finds lists by where they are applied.
func (c *judging) bound(p *acl.Policy, file string) (found [2][]*acl.List, err error) {
	for _, at := range []struct {
		name string
		d    acl.Direction
	}{{c.In, acl.In}, {c.Out, acl.Out}} {
		n := 0
		for _, b := range p.Bindings {
			if b.Interface != at.name || b.Direction != at.d {
				continue
			}
			l := p.List(b.List, b.Family)
			if l == nil {
				return found, usagef("%v: %s has the list %s %s, which is not there", b.Pos, b.Interface, b.List, b.Direction)
			}
			n++
			found[b.Family] = append(found[b.Family], l)
		}
		if at.name != "" && n == 0 {
			var all []string
			for _, b := range p.Bindings {
				all = append(all, fmt.Sprintf("%s at %s %s", b.List, b.Interface, b.Direction))
			}
			return found, usagef("--%s %s: %s applies no list there; it applies: %s", at.d, at.name, file, some(all))
		}
	}
	return found, nil
}

func listNames(lists []*acl.List) string {
	var names []string
	for _, l := range lists {
		names = append(names, l.Name)
	}
	return some(names)
}

// some are the first of many names.
func some(names []string) string {
	names = slices.Compact(names)
	switch {
	case len(names) == 0:
		return "nothing"
	case len(names) > 12:
		names = append(slices.Clone(names[:12]), "…")
	}
	return strings.Join(names, ", ")
}

// seq is a rule's number as a cell; that of an implicit one is not known.
func seq(r *acl.Rule) any {
	if r == nil || r.Seq == 0 {
		return nil
	}
	return r.Seq
}

// line is where a rule stands, as a cell.
func line(at acl.Pos) any {
	if at.Line == 0 {
		return nil
	}
	return at.Line
}

type aclCheckCmd struct {
	File   []string `arg:"" help:"Files to check, in Cisco's language or YAML; - is stdin."`
	Strict bool     `help:"Exit 1 for notes, too: for what is merely not used."`
	Output string   `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json, ndjson (default ${default})."`
}

// remark is a line of weir acl check.
type remark struct {
	at       acl.Pos
	severity string // error, warning or note
	kind     string
	list     any // nil: not about one
	rule     any
	by       []*acl.Rule
	msg      string
}

// notes are findings of what does no harm where it is; all others say that a
// file does not do what it says.
var notes = []acl.FindingKind{acl.Unbound, acl.Unused, acl.EmptyGroup, acl.LastMinute}

func (c *aclCheckCmd) Run(a *app) error {
	format, err := rows.ParseFormat(c.Output)
	if err != nil {
		return usageError{err}
	}
	var all []remark
	status := 0
	for _, name := range c.File {
		found := a.checkPolicy(name)
		for _, r := range found {
			switch {
			case r.severity == "error":
				status = 2
			case r.severity == "warning" || c.Strict:
				status = max(status, 1)
			}
		}
		if len(found) == 0 && format == rows.Table {
			fmt.Fprintf(a.stdout, "%s: good\n", rows.Plain(name))
		}
		all = append(all, found...)
	}
	if err := printRemarks(a, format, all); err != nil || status == 0 {
		return err
	}
	return exitCode(status)
}

// checkPolicy reads a file and checks it.
func (a *app) checkPolicy(name string) (found []remark) {
	p, err := a.readPolicy(name)
	var errs acl.Errors
	switch {
	case errors.As(err, &errs):
		for _, e := range errs {
			found = append(found, remark{at: e.Pos, severity: "error", kind: "syntax", msg: e.Msg})
		}
		return found
	case err != nil:
		return []remark{{severity: "error", kind: "unreadable", msg: err.Error()}}
	}
	if len(p.Lists) == 0 {
		found = append(found, remark{at: acl.Pos{File: name}, severity: "warning", kind: "no-list", msg: "no access list in it"})
	}
	if _, err := acl.Compile(p, acl.CompileOptions{Now: time.Now()}); err != nil {
		found = append(found, remark{at: acl.Pos{File: name}, severity: "warning", kind: "too-big", msg: err.Error()})
	}
	for _, f := range p.Check() {
		r := remark{at: f.Pos, severity: "warning", kind: f.Kind.String(), by: f.By, rule: seq(f.Rule), msg: f.Msg}
		if slices.Contains(notes, f.Kind) {
			r.severity = "note"
		}
		if f.List != nil {
			r.list = f.List.Name
		}
		found = append(found, r)
	}
	return found
}

// printRemarks prints them as compilers do, errors on stderr as those of every
// verb; or as rows, errors among them.
func printRemarks(a *app, format rows.Format, all []remark) error {
	w := rows.New(a.stdout, format, []string{"file", "line", "col", "severity", "kind", "list", "rule", "by", "message"})
	for _, r := range all {
		if r.severity == "error" {
			fmt.Fprintln(a.stderr, rows.Plain((&acl.Error{Pos: r.at, Msg: r.msg}).Error()))
		}
		if format != rows.Table {
			var by []string
			for _, rule := range r.by {
				by = append(by, fmt.Sprint(rule.Seq))
			}
			var col any
			if r.at.Line > 0 {
				col = r.at.Col
			}
			if err := w.Row([]any{r.at.File, line(r.at), col, r.severity, r.kind, r.list, r.rule, strings.Join(by, " "), r.msg}); err != nil {
				return err
			}
		} else if r.severity != "error" {
			if _, err := fmt.Fprintf(a.stdout, "%s: %s: %s (%s)\n", rows.Plain(r.at.String()), r.severity, rows.Plain(r.msg), r.kind); err != nil {
				return err
			}
		}
	}
	if format == rows.Table {
		return nil
	}
	return w.Close()
}

type aclDiffCmd struct {
	Old      string `arg:"" help:"The file as it was; - is stdin. Alone it is the file as it is to be, and what was is in force in the running weir."`
	New      string `arg:"" optional:"" help:"The file as it is to be."`
	ExitCode bool   `help:"Exit 1 if there are differences."`
	Output   string `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json, ndjson (default ${default})."`
}

func (c *aclDiffCmd) Run(a *app) error {
	format, err := rows.ParseFormat(c.Output)
	switch {
	case err != nil:
		return usageError{err}
	case c.Old == "-" && c.New == "-":
		return usagef("both files cannot be stdin")
	}
	old, new, err := c.policies(a)
	if err != nil {
		return err
	}
	changes := acl.Diff(old, new)
	if err := c.print(a, format, changes); err != nil || len(changes) == 0 || !c.ExitCode {
		return err
	}
	return exitCode(1)
}

func (c *aclDiffCmd) policies(a *app) (old, new *acl.Policy, err error) {
	if c.New == "" {
		return a.againstRunning(c.Old)
	}
	if old, err = a.readPolicy(c.Old); err == nil {
		new, err = a.readPolicy(c.New)
	}
	return old, new, err
}

func (c *aclDiffCmd) print(a *app, format rows.Format, changes []acl.Change) error {
	if format == rows.Table {
		if len(changes) == 0 {
			_, err := fmt.Fprintln(a.stdout, "no difference: they say the same")
			return err
		}
		_, err := a.stdout.Write(acl.AppendDiff(nil, changes))
		return err
	}
	w := rows.New(a.stdout, format, []string{"change", "in", "old_rule", "new_rule", "old", "new"})
	for _, x := range changes {
		if err := w.Row([]any{x.Kind.String(), x.In, seq(x.Old), seq(x.New), strings.Join(x.Was, "\n"), strings.Join(x.Is, "\n")}); err != nil {
			return err
		}
	}
	return w.Close()
}
