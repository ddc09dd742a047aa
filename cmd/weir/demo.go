package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
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
	return n.runDemo(a.ctx, demo.Options{Seed: c.Seed, Rate: c.Rate, Backfill: time.Hour, Log: log.With("component", "demo")}, a.stderr)
}

// runDemo is run without metering: the records come from a made-up network.
func (n *node) runDemo(ctx context.Context, o demo.Options, say io.Writer) (err error) {
	behind, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	failed := make(chan error, 8)
	if n.store, err = openStore(n.conf.Store, n.log); err != nil {
		return err
	}
	defer func() { err = also(err, n.store.end()) }()
	if err := n.openEngine(); err != nil {
		return err
	}
	if closer, ok := n.engine.(io.Closer); ok {
		defer closer.Close()
	}
	keep := start(behind, "store", failed, n.store.Run)
	defer func() { err = also(err, keep.stop()) }()
	collecting, err := n.startCollector(behind, failed)
	if err != nil {
		return err
	}
	defer func() { err = also(err, collecting.stop()) }()
	o.To = n.collector.Addrs()[0].String()
	network, err := demo.New(o)
	if err != nil {
		return err
	}
	sending := start(ctx, "demo", failed, network.Run)
	defer func() { err = also(err, sending.stop()) }()
	show := start(behind, "console", failed, n.serve)
	defer func() { err = also(err, show.stop()) }()
	ask := start(behind, "control", failed, func(ctx context.Context) error {
		err := n.serveControl(ctx)
		<-ctx.Done()
		return err
	})
	defer ask.stop()
	fmt.Fprintf(say, "weir demo: a made-up network is sending to %s; open http://%s/ (Ctrl-C ends it)\n", o.To, n.conf.Console.Listen)
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}
