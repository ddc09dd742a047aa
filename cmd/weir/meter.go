package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"weir/capture"
	"weir/config"
	"weir/datapath"
	"weir/export"
	"weir/flow"
	"weir/host"
	"weir/meter"
)

type meterCmd struct {
	Filter []string `arg:"" optional:"" help:"Packets to meter, in tcpdump's language: 'tcp port 443'. All, if there is none."`

	Read      []string `short:"r" sep:"none" placeholder:"FILE" help:"Capture file: pcap or pcapng, also gzip or zstd; - is stdin. Repeatable."`
	Interface []string `short:"i" sep:"none" placeholder:"IF" help:"Interface, live. Repeatable."`
	Mode      string   `placeholder:"MODE" help:"How to get at an interface's packets: xdp or tc, in the kernel; afpacket, through packet sockets; auto, the best that interface and kernel offer (default auto)."`
	Detach    bool     `help:"Take weir's programs off the interfaces (-i; all, without), hand on what is left in the kernel's flow table, and remove it."`

	Prefix   []config.Prefix `sep:"none" placeholder:"CIDR" help:"Meter only packets from or to this network. Repeatable."`
	Prefixes string          `placeholder:"FILE" help:"The same from a file: a network a line, # comments."`

	Idle        *config.Duration `placeholder:"15s" help:"A flow without packets for so long is over; 0: never (default 15s). In files time is the capture's."`
	Active      *config.Duration `placeholder:"30m" help:"A flow that goes on is reported so often; 0: never (default 30m)."`
	TCPEnd      *string          `name:"tcp-end" placeholder:"true" help:"true: FIN or RST ends a flow within 2 s; false: not (default true)."`
	Cache       *config.Count    `placeholder:"1Mi" help:"Flows that the cache holds, 128 octets each (default 1Mi)."`
	Key         *string          `placeholder:"cisco" help:"What makes a flow: cisco (5-tuple, ToS, input interface, VLAN), 5tuple, or names joined by commas: src,dst,proto,dscp (see: weir help keys; default cisco)."`
	Collect     *string          `placeholder:"FIELDS" help:"What more records tell: ttl, length, mac, mpls, flow-label, tcp-options, fragment, … (see: weir help keys)."`
	Biflow      bool             `help:"Both directions are one flow, and one record (RFC 5103)."`
	Tunnel      *string          `placeholder:"outer" help:"inner: look at the packets in GRE, IP-in-IP, 6in4, VXLAN, Geneve, GTP-U and Teredo tunnels; records tell what is around them (default outer)."`
	Sample      *config.Sample   `placeholder:"1:N" help:"Look at one packet in N: every N-th of a file, by lot at an interface (default 1:1, all)."`
	SampleFlows *config.Sample   `placeholder:"1:N" help:"Meter one flow in N, chosen by its key, with all its packets (default 1:1, all)."`
	Workers     int              `placeholder:"N" help:"Cores to use for files (default: all); the output is the same."`

	Aggregation []string `sep:"none" placeholder:"SCHEME[,…]" help:"An aggregation cache: flows that leave the cache merged by as, protocol-port, prefix, … (see: weir help aggregation); printed instead of flows, unless export=URL says where it goes. Repeatable."`
	Export      []string `sep:"none" placeholder:"URL" help:"Export to udp://HOST:PORT?version=5|9|10, or over tcp, tls, dtls (see: weir help export). Repeatable."`
	Store       string   `placeholder:"DIR" help:"Keep the records in a store."`
	Output      string   `short:"o" placeholder:"FORMAT" help:"Print the records: table, csv, json, ndjson, or ipfix, an IPFIX file (default table, unless they go elsewhere)."`
	Write       string   `short:"w" placeholder:"FILE" help:"Print there instead of to stdout."`
	Summary     bool     `help:"At the end, one JSON object on stderr: every packet read, by what became of it."`
}

func (c *meterCmd) Run(a *app) (err error) {
	conf, log, err := a.settings()
	if err != nil {
		return err
	}
	live := len(c.Interface) > 0
	if err := c.check(conf, live); err != nil {
		return err
	}
	text := strings.Join(c.Filter, " ")
	var filter *capture.Expression
	if text != "" {
		if filter, err = capture.ParseExpression(text); err != nil {
			return usageError{err}
		}
	}
	prefixes, err := c.prefixes()
	if err != nil {
		return err
	}

	// Where records come from.
	var sources []capture.Source
	var list []host.Interface
	if live && !c.Detach {
		all, err := host.Interfaces()
		if err != nil {
			return err
		}
		if list, err = host.Find(all, c.Interface); err != nil {
			return err
		}
		c.choose(conf, text, prefixes)
	} else if !c.Detach {
		if sources, err = openFiles(c.Read); err != nil {
			return err
		}
	}
	defer func() { closeAll(sources) }()

	// Where they go. Ends are in the order of the data.
	var sinks []flow.Sink
	var room *storeRoom
	var ends []func() error
	drain := func() (err error) {
		for _, end := range ends {
			err = also(err, end())
		}
		ends = nil
		return err
	}
	defer func() { err = also(err, drain()) }()
	var merged flow.Sink // takes what leaves aggregation caches that have no destination
	if c.Output != "" || c.Write != "" || len(c.Export) == 0 && c.Store == "" && !c.Detach && !exports(conf.Aggregation) {
		p, end, err := a.printer(c.Output, c.Write, live)
		if err != nil {
			return err
		}
		ends = append(ends, end)
		if printsAggregates(conf.Aggregation) {
			merged = p // in place of flows
		} else {
			sinks = append(sinks, p)
		}
	}
	behind, stop := context.WithCancel(context.WithoutCancel(a.ctx))
	defer stop()
	if c.Store != "" {
		conf.Store.Dir = c.Store
		if room, err = openStore(conf.Store, log); err != nil {
			return err
		}
		failed := make(chan error, 1)
		p := start(behind, "store", failed, room.Store.Run)
		sinks, ends = append(sinks, room.Store), append(ends, func() error { return also(p.stop(), room.end()) })
	}
	if c.Detach {
		return also(c.detach(a, conf, sinks, log), drain())
	}
	if live {
		return c.meterLive(a, conf, list, sinks, merged, room, drain, log)
	}
	mc := meter.Config{Cache: cacheConfig(conf.Cache, 1), Workers: c.Workers, SampleFlows: conf.Cache.SampleFlows.Rate()}
	if c.Sample != nil {
		mc.Sample = meter.Sampling{N: c.Sample.Rate()}
	}
	if filter != nil {
		mc.Filter = filter
	}
	if len(prefixes) > 0 {
		mc.Chosen = meter.NewPrefixes(prefixes).Has
	}
	var exporter *export.Exporter
	if len(c.Export) > 0 {
		// Files can wait for a slow collector, and carry the capture's own time.
		o := export.Options{Block: true, FollowRecords: true, Sampling: mc.Rate()}
		if exporter, err = c.exporter(o, log); err != nil {
			return err
		}
		sinks = append(sinks, exporter)
	}
	aggregates, err := openAggregations(conf.Aggregation, export.Options{Block: true, FollowRecords: true, Sampling: mc.Rate()}, true, merged, log)
	if err != nil {
		return err
	}
	m, err := meter.New(mc, flow.Tee(append(sinks, aggregates.sinks()...)...))
	if err != nil {
		return err
	}
	err = c.run(a.ctx, exporter, func(ctx context.Context) error {
		return aggregates.run(ctx, func(ctx context.Context) error {
			defer a.progress(sources)()
			return m.RunFiles(ctx, sources...)
		})
	})
	if filter != nil && filter.Err() != nil {
		fmt.Fprintf(a.stderr, "weir: some packets were not matched: %v\n", filter.Err())
	}
	return c.end(a, also(err, drain()), m.Snapshot(), room, exporter)
}

// run meters, with an exporter behind it if there is one.
func (c *meterCmd) run(ctx context.Context, e *export.Exporter, meter func(context.Context) error) error {
	if e == nil {
		return meter(ctx)
	}
	return withExporter(ctx, e, meter)
}

// end prints the summary, if it is wanted.
func (c *meterCmd) end(a *app, err error, s meter.Snapshot, room *storeRoom, e *export.Exporter) error {
	if !c.Summary {
		return err
	}
	if room != nil { // records that the disk refused are known at the end
		for _, l := range room.Losses() {
			s.Lost[l.Reason] = meter.LossCount{Records: l.Records, Packets: l.Packets, Bytes: l.Bytes}
		}
	}
	if len(c.Interface) > 0 { // never read, so beside the balance; their octets nobody knows
		s.Lost[kernelDrop] = meter.LossCount{Packets: s.CaptureDrops}
	}
	return errors.Join(err, printJSON(a.stderr, summary(s.Summary, e)))
}

// choose lays the flags over what the configuration says of the interfaces, and
// leaves no others.
func (c *meterCmd) choose(conf *config.Config, filter string, prefixes []netip.Prefix) {
	chosen := map[string]config.Interface{}
	for _, name := range c.Interface {
		i := conf.Interfaces[name]
		i.Meter = true
		i.Mode = cmp.Or(c.Mode, i.Mode, "auto")
		i.Filter = cmp.Or(filter, i.Filter)
		if len(prefixes) > 0 {
			i.Prefixes = nil
			for _, p := range prefixes {
				i.Prefixes = append(i.Prefixes, config.Prefix(p))
			}
		}
		if c.Sample != nil {
			i.Sample = *c.Sample
		}
		chosen[name] = i
	}
	conf.Interfaces = chosen
}

// prefixes are those of the flags.
func (c *meterCmd) prefixes() ([]netip.Prefix, error) {
	list := config.Netips(c.Prefix)
	if c.Prefixes == "" {
		return list, nil
	}
	more, err := config.LoadPrefixes(c.Prefixes)
	if err != nil {
		return nil, usageError{err}
	}
	return append(list, more...), nil
}

// meterLive meters interfaces until it is told to stop.
func (c *meterCmd) meterLive(a *app, conf *config.Config, list []host.Interface, sinks []flow.Sink, merged flow.Sink, room *storeRoom, drain func() error, log slogger) (err error) {
	var sources []capture.Source
	defer func() { closeAll(sources) }()
	l, err := openLive(list, conf, func(list []host.Interface) ([]capture.Source, error) {
		var err error
		sources, err = openInterfaces(list, conf)
		return sources, err
	}, log)
	if err != nil {
		return err
	}
	defer l.close()
	var exporter *export.Exporter
	aggregates, err := openAggregations(conf.Aggregation, l.aggregateOptions(), false, merged, log)
	if err != nil {
		return err
	}
	own := &ownTraffic{kernel: l.setOwn, aggregates: aggregates, log: log}
	if len(c.Export) > 0 {
		o := export.Options{Interfaces: interfaceNames, Sampling: l.config.Rate(), SamplingRandom: true}
		l.exportTo(&o)
		if exporter, err = c.exporter(o, log); err != nil {
			return err
		}
		own.exporter = exporter
		sinks = append(sinks, exporter)
	}
	if own.any() {
		l.config.Own = own.is
	}
	node := meterNode(conf, log)
	node.aggregates = aggregates
	sinks = append(sinks, aggregates.sinks()...)
	meter, err := l.into(node.tally.before(flow.Tee(append(sinks, &node.staging)...)))
	if err != nil {
		return err
	}
	err = c.run(a.ctx, exporter, func(ctx context.Context) error {
		return aggregates.run(ctx, func(ctx context.Context) error {
			if own.any() {
				own.look()
				defer own.follow(ctx)()
			}
			defer node.answering(ctx, l, exporter)()
			return meter(ctx)
		})
	})
	if err == nil && l.kernel != nil {
		log.Info("the programs stay and go on counting; `weir meter --detach` removes them", "pins", l.kernel.Where())
	}
	return c.end(a, also(err, drain()), l.Snapshot(), room, exporter)
}

// detach removes what is in the kernel, and hands on what was counted there.
func (c *meterCmd) detach(a *app, conf *config.Config, sinks []flow.Sink, log slogger) error {
	var let meter.Count // go of, without anybody to take it
	if len(sinks) == 0 && len(c.Export) == 0 {
		sinks = append(sinks, flow.SinkFunc(func(batch []flow.Record) error {
			for i := range batch {
				packets, bytes := batch[i].Total()
				let.Packets += packets
				let.Bytes += bytes
			}
			return nil
		}))
	}
	d, err := datapath.OpenDetacher(hookOptions(), log.With("component", "datapath"))
	if err != nil {
		return err
	}
	defer d.Close()
	var exporter *export.Exporter
	if len(c.Export) > 0 {
		o := export.Options{Interfaces: interfaceNames, Sampling: d.Sampling(), SamplingRandom: true, Boot: d.Born(), Memory: d.ExportMemory()}
		if exporter, err = c.exporter(o, log); err != nil {
			return err
		}
		sinks = append(sinks, exporter)
	}
	cc := cacheConfig(conf.Cache, 1)
	var done datapath.Detached
	err = c.run(a.ctx, exporter, func(context.Context) (err error) {
		done, err = d.Run(c.Interface, datapath.SweepConfig{Idle: cc.Idle, Active: cc.Active, TCPEnd: cc.TCPEnd}, flow.Tee(sinks...))
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case len(done.Interfaces) == 0 && len(c.Interface) > 0:
		fmt.Fprintf(a.stderr, "weir: nothing of ours is attached to %s\n", strings.Join(c.Interface, ", "))
	case len(done.Interfaces) == 0:
		fmt.Fprintln(a.stderr, "weir: nothing of ours is attached")
	default:
		fmt.Fprintf(a.stderr, "weir: detached from %s\n", strings.Join(done.Interfaces, ", "))
	}
	if len(done.Left) > 0 {
		fmt.Fprintf(a.stderr, "weir: %s: still attached, so the flow table stays\n", strings.Join(done.Left, ", "))
	}
	if let.Packets > 0 {
		fmt.Fprintf(a.stderr, "weir: %d packets (%d octets) that had been counted went to nobody; -o, --export and --store take them\n", let.Packets, let.Bytes)
	}
	return nil
}

// check lays the flags over the configuration.
func (c *meterCmd) check(conf *config.Config, live bool) error {
	switch {
	case c.Detach && len(c.Read) > 0:
		return usagef("--detach is about interfaces (-i IF), not files")
	case !c.Detach && live == (len(c.Read) > 0):
		return usagef("give capture files (-r FILE) or interfaces (-i IF), not both or neither")
	case !slices.Contains([]string{"", "auto", "xdp", "tc", "afpacket"}, c.Mode):
		return usagef("--mode %q: accepted: auto, xdp, tc, afpacket", c.Mode)
	case c.Mode != "" && !live:
		return usagef("--mode is about interfaces (-i IF)")
	case c.Workers < 0:
		return usagef("--workers %d: accepted: 1 or more; 0 for all cores", c.Workers)
	case live && c.Workers > 0:
		return usagef("--workers is for files; an interface has a ring for each core")
	}
	if c.Idle != nil {
		conf.Cache.Idle = *c.Idle
	}
	if c.Active != nil {
		conf.Cache.Active = *c.Active
	}
	if c.TCPEnd != nil {
		switch *c.TCPEnd {
		case "true", "on", "yes":
			conf.Cache.TCPEnd = true
		case "false", "off", "no":
			conf.Cache.TCPEnd = false
		default:
			return usagef("--tcp-end %q: accepted: true, false", *c.TCPEnd)
		}
	}
	if c.Cache != nil {
		conf.Cache.Entries = *c.Cache
	}
	if c.Key != nil {
		conf.Cache.Key = *c.Key
	}
	if c.Collect != nil {
		conf.Cache.Collect = *c.Collect
	}
	if c.Tunnel != nil {
		conf.Cache.Tunnel = *c.Tunnel
	}
	if c.SampleFlows != nil {
		conf.Cache.SampleFlows = *c.SampleFlows
	}
	conf.Cache.Biflow = conf.Cache.Biflow || c.Biflow
	for i, s := range c.Aggregation {
		name, more, err := config.ParseAggregation(s)
		if err != nil {
			return usagef("--aggregation %v", err)
		}
		if i == 0 {
			conf.Aggregation = map[string]config.Aggregation{} // the flags are the whole choice
		}
		if was, twice := conf.Aggregation[name]; twice { // for another destination
			was.Export = append(was.Export, more.Export...)
			more = was
		}
		conf.Aggregation[name] = more
	}
	if err := conf.Check(); err != nil {
		var names []string // a flag is told by its own name, not by the key it stands for
		if c.Cache != nil {
			names = append(names, "cache.entries:", "--cache")
		}
		if c.Key != nil {
			names = append(names, "cache.key:", "--key")
		}
		if c.Collect != nil {
			names = append(names, "cache.collect:", "--collect")
		}
		if c.Tunnel != nil {
			names = append(names, "cache.tunnel:", "--tunnel")
		}
		return usagef("%s", strings.NewReplacer(names...).Replace(err.Error()))
	}
	return nil
}

// exporter joins the destinations.
func (c *meterCmd) exporter(o export.Options, log slogger) (*export.Exporter, error) {
	o.Log, o.Filter = log.With("component", "export"), exportFilter
	for _, to := range c.Export {
		d, err := export.ParseDestination(to)
		if err != nil {
			return nil, usageError{err}
		}
		o.Destinations = append(o.Destinations, d)
	}
	e, err := export.New(o)
	if err != nil {
		return nil, usageError{err}
	}
	return e, nil
}

// openFiles opens all captures before any is read: a mistyped name ends the
// run before it has begun.
func openFiles(names []string) (sources []capture.Source, err error) {
	for _, name := range names {
		s, err := capture.Open(name)
		if err != nil {
			closeAll(sources)
			return nil, err
		}
		sources = append(sources, s)
	}
	return sources, nil
}

// progress draws how far the reading is, if there is a person to look at it
// and it takes long enough to wonder. The result ends it.
func (a *app) progress(sources []capture.Source) (end func()) {
	f, ok := a.stderr.(*os.File)
	if !ok {
		return func() {}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func() {}
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		started, drawn := time.Now(), false
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				if drawn {
					fmt.Fprint(f, "\r\x1b[K")
				}
				return
			case <-tick.C:
			}
			var read, total int64
			for _, s := range sources {
				if p, ok := s.(capture.Progress); ok {
					d, t := p.Progress()
					read, total = read+d, total+t
				}
			}
			if elapsed := time.Since(started); elapsed > 2*time.Second && total > 0 && read > 0 {
				left := time.Duration(float64(elapsed) * float64(total-read) / float64(read)).Round(time.Second)
				fmt.Fprintf(f, "\r\x1b[K%3d %%  %d of %d MB  %.0f MB/s  %v left", 100*read/total, read/1e6, total/1e6, float64(read)/1e6/elapsed.Seconds(), left)
				drawn = true
			}
		}
	}()
	return func() { close(stop); <-done }
}

// summary is the meter's account, and what became of the records that were
// exported, destination by destination.
func summary(s meter.Summary, e *export.Exporter) any {
	if e == nil {
		return s
	}
	return struct {
		meter.Summary
		Export []export.Stats `json:"export"`
	}{s, e.Stats()}
}
