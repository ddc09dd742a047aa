package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"weir/collect"
	"weir/config"
	"weir/datapath"
	"weir/hook"
	"weir/host"
	"weir/query"
	"weir/store"
)

type upCmd struct {
	Interface []string         `short:"i" sep:"none" placeholder:"IF" help:"Meter this interface (default: those that are up, have a route and are no part of a bridge or bond). Repeatable."`
	Mode      string           `placeholder:"MODE" help:"How: auto, xdp, tc or afpacket, as with weir meter (default: as configured, auto). With -i."`
	Listen    []string         `sep:"none" placeholder:"URL" help:"Receive at udp://[HOST]:PORT instead of at loopback's ports 2055, 4739, 6343 and 9995. Repeatable."`
	Export    []string         `sep:"none" placeholder:"URL" help:"Export there too (see: weir help export). Repeatable."`
	Store     string           `placeholder:"DIR" help:"Keep the flows there (default: as configured, /var/lib/weir)."`
	Console   *string          `placeholder:"HOST:PORT" help:"Where the console, the API and /metrics are (default: as configured, 127.0.0.1:8642)."`
	Active    *config.Duration `placeholder:"TIME" help:"Report a long flow so often (default 60s, unless the configuration says otherwise)."`
}

// upActive is the active timeout of `weir up`: its own console wants to see a
// long flow within a minute, not after Cisco's half hour.
const upActive = config.Duration(time.Minute)

func (c *upCmd) Run(a *app) error {
	_, log, err := a.settings()
	if err != nil {
		return err
	}
	load := func() (*config.Config, error) {
		base := config.Default()
		base.Cache.Active = upActive
		conf, err := config.LoadOver(base, a.configPath)
		if err != nil {
			return nil, err
		}
		return conf, c.override(conf, a)
	}
	conf, err := load()
	if err != nil {
		return err
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	n := &node{conf: conf, log: log, started: time.Now(), reloaded: reload{true, time.Now()}}
	return n.run(a.ctx, n.startMeter, hup, load)
}

// override lays the flags over a configuration that was read.
func (c *upCmd) override(conf *config.Config, a *app) error {
	if a.control != "" {
		conf.Control = a.control
	}
	if len(c.Interface) > 0 {
		chosen := map[string]config.Interface{}
		for _, name := range c.Interface {
			i := conf.Interfaces[name]
			i.Meter, i.Mode = true, cmp.Or(c.Mode, i.Mode, "auto")
			chosen[name] = i
		}
		conf.Interfaces = chosen
	}
	if _, err := hook.ParseMode(c.Mode); err != nil {
		return usagef("--%v", err)
	}
	if c.Mode != "" && len(c.Interface) == 0 {
		return usagef("--mode is for the interfaces that are named (-i IF)")
	}
	if len(c.Listen) > 0 {
		conf.Collect.Listen = c.Listen
	}
	for _, to := range c.Export {
		conf.Export = append(conf.Export, config.Destination{To: to})
	}
	if c.Store != "" {
		conf.Store.Dir = c.Store
	}
	if c.Console != nil {
		conf.Console.Listen = *c.Console
	}
	if c.Active != nil {
		conf.Cache.Active = *c.Active
	}
	return checkListen(conf.Collect.Listen)
}

// startFunc starts a room; nil: there is none to start.
type startFunc func(ctx context.Context, failed chan<- error) (*part, error)

// part is a room's goroutine.
type part struct {
	name   string
	cancel context.CancelFunc
	ended  chan error // gets one value
}

// start runs a room until stop, or until it fails: failed then gets its name.
func start(ctx context.Context, name string, failed chan<- error, run func(context.Context) error) *part {
	ctx, cancel := context.WithCancel(ctx)
	p := &part{name, cancel, make(chan error, 1)}
	go func() {
		err := run(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = fmt.Errorf("%s ended by itself", name)
			}
			failed <- err
		}
		p.ended <- err
	}()
	return p
}

// stop ends a room and waits until it has handed on all it held.
func (p *part) stop() error {
	if p == nil {
		return nil
	}
	p.cancel()
	return <-p.ended
}

// also adds what stopping a room said to why all stops; a room that failed
// says the same twice.
func also(err, more error) error {
	switch {
	case more == nil || err != nil && strings.Contains(err.Error(), more.Error()):
		return err
	case err != nil && strings.Contains(more.Error(), err.Error()):
		return more
	}
	return errors.Join(err, more)
}

// run starts the rooms from the store back to the wire, so that each finds the
// next one ready, and stops them from the wire to the store, so that the last
// packet seen is the last record stored. source starts what the flows come
// from; hup (nil: never) asks for load.
func (n *node) run(ctx context.Context, source startFunc, hup <-chan os.Signal, load func() (*config.Config, error)) (err error) {
	behind, release := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx: what drains
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
	defer n.keepRings(nil)
	metering, err := source(behind, failed)
	if err != nil {
		return err
	}
	defer func() { err = also(err, metering.stop()) }()
	guarding, err := n.startGuard(behind, failed)
	if err != nil {
		return err
	}
	defer func() { err = also(err, guarding.stop()) }()

	show := start(behind, "console", failed, n.serve)
	defer func() { err = also(err, show.stop()) }()
	ask := start(behind, "control", failed, func(ctx context.Context) error {
		err := n.serveControl(ctx)
		<-ctx.Done() // not being able to answer is no reason to stop
		return err
	})
	defer ask.stop()

	for {
		select {
		case <-ctx.Done():
			n.log.Info("stopping: draining what is held")
			return nil
		case err := <-failed:
			return err
		case <-hup:
			old := n.config()
			if collecting, metering, err = n.reload(behind, failed, load, collecting, metering); err != nil {
				return err
			}
			if guarding, err = n.exchangeGuard(behind, failed, guarding, old); err != nil {
				return err
			}
		}
	}
}

// openEngine opens the query engine; a build without one goes on without.
func (n *node) openEngine() error {
	reader, err := store.OpenReader(n.conf.Store.Dir)
	if err != nil {
		return err
	}
	engine, err := query.Open(reader, query.Options{Log: n.log.With("component", "query")})
	if errors.Is(err, query.ErrNoEngine) {
		n.log.Warn("the console shows no stored flows", "reason", err)
		return nil
	}
	n.engine = engine
	return err
}

func (n *node) serve(ctx context.Context) error {
	at := n.config().Console.Listen
	if at == "" {
		<-ctx.Done()
		return nil
	}
	n.log.Info("console", "url", "http://"+at+"/")
	return n.server().Run(ctx)
}

func (n *node) startCollector(ctx context.Context, failed chan<- error) (*part, error) {
	c, err := collect.New(collectOptions(n.conf, n.store, statePath(n.conf.Store.Dir), n.log))
	if err != nil {
		return nil, err
	}
	if err := c.Listen(); err != nil {
		return nil, err
	}
	return n.runCollector(ctx, failed, c), nil
}

func (n *node) runCollector(ctx context.Context, failed chan<- error, c *collect.Collector) *part {
	for _, l := range c.Addrs() {
		n.log.Info("collecting", "network", l.Network(), "address", l.String())
	}
	n.mu.Lock()
	n.collector = c
	n.mu.Unlock()
	return start(ctx, "collector", failed, c.Run)
}

// exchangeCollector puts a collector with the new configuration in the place
// of the running one. Sockets that both want go over with what is in them, so
// no datagram is lost. An error that is refused left all as it was; any other
// ends the program.
func (n *node) exchangeCollector(ctx context.Context, failed chan<- error, running *part) (fresh *part, refused, err error) {
	c, err := collect.New(collectOptions(n.conf, n.store, statePath(n.conf.Store.Dir), n.log))
	if err != nil {
		return running, err, nil
	}
	old := n.collector
	if err := c.ListenAfter(old); err != nil {
		return running, err, nil
	}
	if err := running.stop(); err != nil {
		return nil, nil, err
	}
	if err := c.Take(old); err != nil {
		return nil, nil, err
	}
	n.retire(old.Losses())
	return n.runCollector(ctx, failed, c), nil, nil
}

// startMeter meters the interfaces and exports to our own collector, and to
// whoever else is named. Without the privilege it says so and does without.
func (n *node) startMeter(ctx context.Context, failed chan<- error) (*part, error) {
	if !host.CanMeter() {
		if len(n.conf.Interfaces) > 0 {
			return nil, errors.New("metering an interface needs CAP_NET_RAW: run as root, or without interfaces")
		}
		n.log.Warn("not metering this machine: that needs root (CAP_NET_RAW); collecting and showing all the same")
		return nil, nil
	}
	wanted, err := chosen(n.conf)
	if err != nil {
		return nil, err
	}
	if len(wanted) == 0 {
		if len(n.conf.Interfaces) > 0 {
			n.log.Info("not metering: the configuration switches every interface off")
		} else {
			n.log.Warn("no interface is up with a route: not metering; name one with -i")
		}
		return nil, nil
	}
	return n.meterInterfaces(ctx, failed, wanted)
}

// chosen is the interfaces that the configuration names, or the usual ones.
func chosen(conf *config.Config) ([]host.Interface, error) {
	all, err := host.Interfaces()
	if err != nil {
		return nil, err
	}
	if len(conf.Interfaces) == 0 {
		return host.Default(all), nil
	}
	var names []string
	for name, i := range conf.Interfaces {
		if i.Meter {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	list, err := host.Find(all, names)
	if err != nil {
		return nil, usageError{err}
	}
	return list, nil
}

// reload reads the configuration again and exchanges the rooms it concerns.
// What cannot be read, or does not start, leaves all as it was.
func (n *node) reload(ctx context.Context, failed chan<- error, load func() (*config.Config, error), collecting, metering *part) (c, m *part, err error) {
	c, m = collecting, metering
	refuse := func(err error) {
		n.log.Error("configuration not taken, the old one stays", "error", strings.ReplaceAll(err.Error(), "\n", "; "))
		n.mu.Lock()
		n.reloaded.ok = false
		n.mu.Unlock()
	}
	next, err := load()
	if err != nil {
		refuse(err)
		return c, m, nil
	}
	old := n.conf
	if next.Store != old.Store || !reflect.DeepEqual(next.Console, old.Console) || next.Control != old.Control || next.Log != old.Log {
		n.log.Warn("store, console, control and log are read at the start only: restart to change them")
		next.Store, next.Console, next.Control, next.Log = old.Store, old.Console, old.Control, old.Log
	}
	n.configure(next)
	if !reflect.DeepEqual(next.Collect, old.Collect) {
		var refused error
		if c, refused, err = n.exchangeCollector(ctx, failed, c); err != nil {
			return c, m, err
		}
		if refused != nil {
			n.configure(old)
			refuse(refused)
			return c, m, nil
		}
	}
	if n.gone.Load() || n.unhooked() || !reflect.DeepEqual(metered(next), metered(old)) {
		if m, err = n.exchangeMeter(ctx, failed, m, old); err != nil {
			return c, m, err
		}
		if n.conf == old { // it did not start, the old one runs again
			refuse(errors.New("see above"))
			return c, m, nil
		}
	} else if err := n.ensureLists(next); err != nil {
		n.configure(old)
		refuse(err)
		return c, m, nil
	}
	n.mu.Lock()
	n.reloaded = reload{true, time.Now()}
	n.mu.Unlock()
	n.log.Info("configuration taken")
	return c, m, nil
}

// unhooked says whether an interface has lost its programs since it was taken up.
func (n *node) unhooked() bool {
	m, _, _ := n.rooms()
	l, ok := m.(*live)
	return ok && l.kernel != nil && l.kernel.Gone()
}

// exchangeMeter stops the metering and starts it anew. Two at a time would
// count packets twice, so the old one drains first; meanwhile packets wait in
// the rings, which go over to the new one. If that does not start, the old
// configuration's does.
func (n *node) exchangeMeter(ctx context.Context, failed chan<- error, m *part, old *config.Config) (*part, error) {
	n.power.hold()
	defer n.power.letGo()
	if err := m.stop(); err != nil {
		return nil, err
	}
	if meter, exporter, _ := n.rooms(); meter != nil {
		n.retire(append(withoutDrops(meter.Losses()), exporter.Losses()...))
	}
	n.retire(n.aggregations().losses())
	n.mu.Lock()
	n.meter, n.exporter, n.aggregates = nil, nil, nil
	n.mu.Unlock()
	n.gone.Store(false)
	fresh, err := n.startMeter(ctx, failed)
	if err == nil {
		return fresh, nil
	}
	n.gone.Store(true)
	n.log.Error("metering does not start with the new configuration", "error", err)
	n.configure(old)
	if fresh, err = n.startMeter(ctx, failed); err != nil { // an interface is gone, say
		n.log.Error("nor with the old one: not metering; collecting and showing go on", "error", err)
		return nil, nil
	}
	return fresh, nil
}

// metered is what of a configuration the metering is made of. What lists say is not:
// they are exchanged while it goes on.
func metered(c *config.Config) []any {
	return []any{c.Interfaces, c.Cache, c.Aggregation, c.Export, c.Collect, c.Filters(), c.ACL.Protect, c.ACL.OrphanAfter, c.Forward, c.Guard.Enabled}
}

// ensureLists puts the access lists in force that a configuration has now.
func (n *node) ensureLists(c *config.Config) error {
	p, err := c.Policy()
	if err != nil || p == nil {
		return err
	}
	d, err := n.filtered()
	if errors.Is(err, datapath.ErrNoLists) {
		return nil // nothing is metered in the kernel
	}
	return d.Ensure(p)
}
