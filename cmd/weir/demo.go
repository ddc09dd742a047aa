package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"weir/config"
	"weir/demo"
)

type demoCmd struct {
	Console string `default:"127.0.0.1:8642" placeholder:"HOST:PORT" help:"Where the console is (default ${default})."`
	Rate    int    `default:"500" help:"Flow records a second, of all exporters together."`
	Seed    uint64 `default:"1" help:"The same seed makes the same network."`
	Store   string `placeholder:"DIR" help:"Keep the flows there (default: a folder that is removed at the end)."`
}

func (c *demoCmd) Run(a *app) (err error) {
	if c.Rate < 1 || c.Rate > 100_000 {
		return usagef("--rate %d: accepted: 1 to 100000 records a second", c.Rate)
	}
	log, err := a.logger(config.Log{Level: cmp.Or(a.logLevel, "warn"), Format: "text"})
	if err != nil {
		return err
	}
	dir := c.Store
	if dir == "" {
		if dir, err = os.MkdirTemp("", "weir-demo-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	conf := config.Default()
	conf.Store.Dir = dir
	conf.Control = cmp.Or(a.control, filepath.Join(dir, "weir.sock"))
	conf.Console.Listen = c.Console
	conf.Collect.Listen = []string{"udp://127.0.0.1:0"} // any free port: a weir may be running
	n := &node{conf: conf, log: log, started: time.Now(), reloaded: reload{true, time.Now()}}
	network := func(ctx context.Context, failed chan<- error) (*part, error) {
		to := n.collector.Addrs()[0].String()
		d, err := demo.New(demo.Options{To: to, Seed: c.Seed, Rate: c.Rate, Backfill: time.Hour, Log: log.With("component", "demo")})
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(a.stderr, "weir demo: a made-up network is sending to %s; open http://%s/ (Ctrl-C ends it)\n", to, conf.Console.Listen)
		return start(ctx, "demo", failed, d.Run), nil
	}
	return n.run(a.ctx, network, nil, nil)
}
