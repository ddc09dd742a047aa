package main

import (
	"fmt"

	"github.com/alecthomas/kong"

	"weir/config"
)

type confCmd struct {
	Check struct {
		File string `arg:"" help:"The file to check."`
	} `cmd:"" help:"Say all that is wrong with a file, each with file:line:col."`
	Example struct{} `cmd:"" help:"Print a commented file with every key and its default."`
	Show    struct{} `cmd:"" help:"Print the configuration in force."`
}

func (c *confCmd) Run(a *app, k *kong.Context) error {
	switch k.Selected().Name {
	case "check":
		conf, err := config.Load(c.Check.File)
		if err != nil {
			return err
		}
		for i, to := range conf.Export {
			if _, err := destinationOf(to); err != nil {
				return usagef("%s: export[%d]: %v", c.Check.File, i, err)
			}
		}
		_, err = fmt.Fprintf(a.stdout, "%s: good\n", c.Check.File)
		return err
	case "example":
		_, err := fmt.Fprint(a.stdout, config.Example)
		return err
	}
	conf, _, err := a.settings()
	if err != nil {
		return err
	}
	return conf.Show(a.stdout)
}
