package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"weir/acl"
	"weir/rows"
)

// converting is what import and export have in common: what cannot be said in
// the other language is told, and nothing is printed that is not all of it.
type converting struct {
	Partial bool   `help:"Print what could be converted, though some rules were refused."`
	Report  string `default:"table" placeholder:"FORMAT" help:"What became of each rule, on stderr: table, csv, json, ndjson (default ${default})."`
}

func (c *converting) check() (rows.Format, error) {
	format, err := rows.ParseFormat(c.Report)
	if err != nil {
		return "", usageError{errors.New(strings.Replace(err.Error(), "-o ", "--report ", 1))}
	}
	return format, nil
}

// finish prints the report, and text unless rules were refused.
func (c *converting) finish(a *app, format rows.Format, text []byte, reports []acl.Report) error {
	if err := printReports(a, format, reports); err != nil {
		return err
	}
	refused := slices.ContainsFunc(reports, func(r acl.Report) bool { return r.Outcome == acl.Refused })
	if refused && !c.Partial {
		return errors.New("some rules were refused, so nothing is printed; --partial prints the others")
	}
	_, err := a.stdout.Write(text)
	return err
}

func printReports(a *app, format rows.Format, reports []acl.Report) error {
	if format == rows.Table {
		if len(reports) == 0 {
			return nil
		}
		for line := range strings.Lines(string(acl.AppendReports(nil, reports))) {
			if _, err := fmt.Fprintln(a.stderr, rows.Plain(strings.TrimSuffix(line, "\n"))); err != nil {
				return err
			}
		}
		return nil
	}
	w := rows.New(a.stderr, format, []string{"outcome", "chain", "handle", "line", "rule", "why", "more", "less"})
	for i := range reports {
		r := &reports[i]
		var handle any
		if r.Handle != 0 {
			handle = r.Handle
		}
		if err := w.Row([]any{r.Outcome.String(), r.Chain, handle, line(r.Pos), r.Text, strings.Join(r.Why, "; "), r.More, r.Less}); err != nil {
			return err
		}
	}
	return w.Close()
}

// language is s if it is one of the languages accepted.
func language(flag, s string, accepted ...string) error {
	if !slices.Contains(accepted, s) {
		return usagef("%s %q: accepted: %s", flag, s, strings.Join(accepted, ", "))
	}
	return nil
}

type aclImportCmd struct {
	File string `arg:"" optional:"" default:"-" help:"What nft -j list ruleset or iptables-save printed; - is stdin (default)."`

	From   string `required:"" placeholder:"LANGUAGE" help:"nft or iptables."`
	Output string `short:"o" default:"cisco" placeholder:"LANGUAGE" help:"cisco or yaml (default ${default})."`
	converting
}

func (c *aclImportCmd) Run(a *app) error {
	if err := language("--from", c.From, "nft", "iptables"); err != nil {
		return err
	}
	if err := language("-o", c.Output, "cisco", "yaml"); err != nil {
		return err
	}
	format, err := c.check()
	if err != nil {
		return err
	}
	data, name, err := a.readText(c.File)
	if err != nil {
		return err
	}
	read := acl.ImportNft
	if c.From == "iptables" {
		read = acl.ImportIptables
	}
	p, reports, err := read(name, data)
	if err != nil {
		return usageError{err}
	}
	return c.finish(a, format, policyText(p, c.Output), reports)
}

type aclExportCmd struct {
	File string `arg:"" help:"The access lists, in Cisco's language or YAML; - is stdin."`

	To string `required:"" placeholder:"LANGUAGE" help:"cisco, yaml or nft."`
	converting
}

func (c *aclExportCmd) Run(a *app) error {
	if err := language("--to", c.To, "cisco", "yaml", "nft"); err != nil {
		return err
	}
	format, err := c.check()
	if err != nil {
		return err
	}
	p, err := a.readPolicy(c.File)
	if err != nil {
		return err
	}
	if c.To != "nft" {
		return c.finish(a, format, policyText(p, c.To), nil)
	}
	text, reports := acl.AppendNft(nil, p)
	return c.finish(a, format, text, reports)
}

// policyText prints a policy in one of weir's languages.
func policyText(p *acl.Policy, language string) []byte {
	if language == "yaml" {
		return acl.AppendYAML(nil, p)
	}
	return acl.AppendCisco(nil, p)
}
