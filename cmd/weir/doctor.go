package main

import (
	"fmt"

	"weir/hook"
	"weir/host"
	"weir/rows"
)

type doctorCmd struct {
	Output string `short:"o" default:"table" placeholder:"FORMAT" help:"table, csv, json or ndjson (default ${default})."`
}

func (c *doctorCmd) Run(a *app) error {
	format, err := rows.ParseFormat(c.Output)
	if err != nil {
		return usageError{err}
	}
	conf, _, err := a.settings()
	if err != nil {
		return err
	}
	w := rows.New(a.stdout, format, []string{"check", "state", "found", "fix"})
	failed := 0
	found := host.Doctor(conf)
	if list, err := chosen(conf); err == nil { // else the doctor has said so
		found = append(found, hook.Findings(hookOptions(), list, func(name string) hook.Mode {
			mode, _ := hook.ParseMode(conf.Interfaces[name].Mode) // checked with the configuration
			return mode
		})...)
	}
	found = append(found, forwardFindings(a.ctx, conf)...)
	for _, f := range found {
		if f.State == host.Fail {
			failed++
		}
		if err := w.Row([]any{f.Check, string(f.State), f.Found, f.Fix}); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of these checks failed", failed)
	}
	return nil
}
