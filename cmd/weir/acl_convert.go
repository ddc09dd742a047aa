package main

import (
	"weir/acl"
)

type aclImportCmd struct {
	File   string `arg:"" optional:"" default:"-" help:"What nft -j list ruleset or iptables-save printed; - is stdin (default)."`
	From   string `required:"" placeholder:"LANGUAGE" help:"nft or iptables."`
	Output string `short:"o" default:"cisco" placeholder:"LANGUAGE" help:"cisco or yaml (default ${default})."`
}

func (c *aclImportCmd) Run(a *app) error {
	return usagef("weir acl import is not in this version yet")
}

type aclExportCmd struct {
	File string `arg:"" help:"The access lists, in Cisco's language or YAML; - is stdin."`
	To   string `required:"" placeholder:"LANGUAGE" help:"cisco, yaml or nft."`
}

func (c *aclExportCmd) Run(a *app) error {
	p, err := a.readPolicy(c.File)
	if err != nil {
		return err
	}
	_, err = a.stdout.Write(policyText(p, c.To))
	return err
}

var _ = acl.Read
