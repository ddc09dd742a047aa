package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"weir/capture"
	"weir/config"
	"weir/export"
	"weir/flow"
	"weir/host"
	"weir/meter"
)

type meterCmd struct {
	Filter []string `arg:"" optional:"" help:"Packets to meter, in tcpdump's language: 'tcp port 443'. All, if there is none."`

	Read      []string `short:"r" sep:"none" placeholder:"FILE" help:"Capture file: pcap or pcapng, also gzip or zstd; - is stdin. Repeatable."`
	Interface []string `short:"i" sep:"none" placeholder:"IF" help:"Interface, live. Repeatable."`
	Mode      string   `default:"auto" placeholder:"MODE" help:"How to get at an interface's packets: auto or afpacket, which are the same in this version (default ${default})."`
	Detach    bool     `hidden:"" help:"Remove what a kernel datapath left at the interfaces."`

	Idle    *config.Duration `placeholder:"15s" help:"A flow without packets for so long is over; 0: never (default 15s). In files time is the capture's."`
	Active  *config.Duration `placeholder:"30m" help:"A flow that goes on is reported so often; 0: never (default 30m)."`
	TCPEnd  *string          `name:"tcp-end" placeholder:"true" help:"true: FIN or RST ends a flow within 2 s; false: not (default true)."`
	Cache   *config.Count    `placeholder:"1Mi" help:"Flows that the cache holds, 128 octets each (default 1Mi)."`
	Key     *string          `placeholder:"cisco" help:"What makes a flow: cisco (5-tuple, ToS, input interface, VLAN) or 5tuple (default cisco)."`
	Sample  *config.Sample   `placeholder:"1:N" help:"Look at one packet in N: every N-th of a file, by lot at an interface (default 1:1, all)."`
	Workers int              `placeholder:"N" help:"Cores to use for files (default: all); the output is the same."`

	Export  []string `sep:"none" placeholder:"URL" help:"Export to udp://HOST:PORT?version=5|9|10 (see: weir help export). Repeatable."`
	Store   string   `placeholder:"DIR" help:"Keep the records in a store."`
	Output  string   `short:"o" placeholder:"FORMAT" help:"Print the records: table, csv, json, ndjson (default table, unless they go elsewhere)."`
	Write   string   `short:"w" placeholder:"FILE" help:"Print there instead of to stdout."`
	Summary bool     `help:"At the end, one JSON object on stderr: every packet read, by what became of it."`
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
	var filter *capture.Expression
	if text := strings.Join(c.Filter, " "); text != "" {
		if filter, err = capture.ParseExpression(text); err != nil {
			return usageError{err}
		}
	}

	// Where records come from.
	var sources []capture.Source
	if live {
		all, err := host.Interfaces()
		if err != nil {
			return err
		}
		list, err := host.Find(all, c.Interface)
		if err != nil {
			return err
		}
		sources, err = openInterfaces(list, conf, filter)
		if err != nil {
			return err
		}
	} else if sources, err = openFiles(c.Read); err != nil {
		return err
	}
	defer closeAll(sources)

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
	if c.Output != "" || c.Write != "" || len(c.Export) == 0 && c.Store == "" {
		p, end, err := a.printer(c.Output, c.Write, live)
		if err != nil {
			return err
		}
		sinks, ends = append(sinks, p), append(ends, end)
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
	var mc meter.Config
	if live {
		mc = liveMeter(conf, len(sources))
	} else {
		mc = meter.Config{Cache: cacheConfig(conf.Cache, 1), Workers: c.Workers}
	}
	if c.Sample != nil {
		mc.Sample = meter.Sampling{N: c.Sample.Rate(), Random: live}
	}
	if filter != nil && !live { // an interface has it in the kernel
		mc.Filter = filter
	}
	var exporter *export.Exporter
	var own *ownTraffic
	if len(c.Export) > 0 {
		if exporter, err = c.exporter(mc, live, log); err != nil {
			return err
		}
		if live { // a capture may hold the like of them, and then means it
			own = &ownTraffic{exporter: exporter}
			mc.Own = own.is
		}
		sinks = append(sinks, exporter)
	}
	m, err := meter.New(mc, flow.Tee(sinks...))
	if err != nil {
		return err
	}

	run := func(ctx context.Context) error {
		if own != nil {
			own.look()
			defer own.follow(ctx)()
		}
		if live {
			return m.RunLive(ctx, sources...)
		}
		defer a.progress(sources)()
		return m.RunFiles(ctx, sources...)
	}
	if exporter != nil {
		err = withExporter(a.ctx, exporter, run)
	} else {
		err = run(a.ctx)
	}
	if filter != nil && filter.Err() != nil {
		fmt.Fprintf(a.stderr, "weir: some packets were not matched: %v\n", filter.Err())
	}
	err = also(err, drain())
	if c.Summary {
		s := m.Snapshot()
		if room != nil { // records that the disk refused are known at the end
			for _, l := range room.Losses() {
				s.Lost[l.Reason] = meter.LossCount{Records: l.Records, Packets: l.Packets, Bytes: l.Bytes}
			}
		}
		if live { // never read, so beside the balance; their octets nobody knows
			s.Lost[kernelDrop] = meter.LossCount{Packets: s.CaptureDrops}
		}
		err = errors.Join(err, printJSON(a.stderr, summary(s.Summary, exporter)))
	}
	return err
}

// check lays the flags over the configuration.
func (c *meterCmd) check(conf *config.Config, live bool) error {
	switch {
	case c.Detach:
		return usagef("--detach: this version leaves nothing at an interface")
	case live == (len(c.Read) > 0):
		return usagef("give capture files (-r FILE) or interfaces (-i IF), not both or neither")
	case c.Mode == "xdp" || c.Mode == "tc":
		return usagef("--mode %s is not in this version yet; accepted: auto, afpacket", c.Mode)
	case c.Mode != "auto" && c.Mode != "afpacket":
		return usagef("--mode %q: accepted: auto, afpacket", c.Mode)
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
	if err := conf.Check(); err != nil {
		var names []string // a flag is told by its own name, not by the key it stands for
		if c.Cache != nil {
			names = append(names, "cache.entries:", "--cache")
		}
		if c.Key != nil {
			names = append(names, "cache.key:", "--key")
		}
		return usagef("%s", strings.NewReplacer(names...).Replace(err.Error()))
	}
	return nil
}

// exporter joins the destinations. Files can wait for a slow collector and
// carry the capture's own time; interfaces cannot and do not.
func (c *meterCmd) exporter(mc meter.Config, live bool, log slogger) (*export.Exporter, error) {
	o := export.Options{
		Block: !live, FollowRecords: !live, Sampling: mc.Sample.N, SamplingRandom: mc.Sample.Random,
		Log: log.With("component", "export"),
	}
	if live {
		o.Interfaces = interfaceNames
	}
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
