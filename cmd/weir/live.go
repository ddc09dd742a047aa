package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"weir/bpf"
	"weir/capture"
	"weir/config"
	"weir/datapath"
	"weir/export"
	"weir/flow"
	"weir/hook"
	"weir/host"
	"weir/meter"
)

// live meters interfaces: in the kernel's flow table where that can be, through
// packet sockets elsewhere.
type live struct {
	kernel  *datapath.Datapath // nil: nothing is metered there
	plans   []*hook.Plan       // of all interfaces
	rest    []host.Interface   // those with packet sockets
	sources []capture.Source   // of these
	sockets *meter.Meter       // of the sources; nil: there are none, or Run has not begun
	config  meter.Config       // of sockets
}

// hookOptions are what is forced at the hooks: WEIR_WITHOUT holds words such as
// xdp, tcx, frags, bpf, which are then done without, as on older kernels.
func hookOptions() hook.Options {
	without := strings.FieldsFunc(os.Getenv("WEIR_WITHOUT"), func(r rune) bool { return r == ',' || r == ' ' })
	has := func(word string) bool { return slices.Contains(without, word) }
	return hook.Options{NoBPF: has("bpf"), NoXDP: has("xdp"), NoFrags: has("frags"), NoLink: has("link"), NoTCX: has("tcx"), NoFeatures: has("features")}
}

// openLive takes the interfaces up as the configuration says; open gives the
// packet sockets of those that need them.
func openLive(list []host.Interface, conf *config.Config, open func([]host.Interface) ([]capture.Source, error), log slogger) (_ *live, err error) {
	l := new(live)
	l.config = liveMeter(conf, 1)
	o := datapath.Options{Cache: l.config.Cache, Sampling: l.config.Sample.N, Hook: hookOptions(), Log: log.With("component", "datapath")}
	if o.Policy, err = conf.Policy(); err != nil {
		return nil, usageError{err}
	}
	o.Filter = filterOptions(conf)
	o.Guard = conf.Guard.Enabled
	o.Forward.Watchdog = time.Duration(conf.Forward.Watchdog)
	beyond := conf.Cache.BeyondKernel()
	for _, i := range list {
		in := datapath.Interface{Interface: i, Lists: listChoice(conf.Interfaces[i.Name].ACL), Prefixes: config.Netips(conf.Interfaces[i.Name].Prefixes), Forward: forwardChoice(conf.Interfaces[i.Name])}
		if in.Want, err = hook.ParseMode(conf.Interfaces[i.Name].Mode); err != nil {
			return nil, usageError{err}
		}
		if beyond != "" {
			if in.Want == hook.XDP || in.Want == hook.TC {
				return nil, usagef("%s: mode %s: the kernel's programs do not have %s; accepted: mode auto or afpacket", i.Name, in.Want, beyond)
			}
			in.Want = hook.AFPacket
		}
		if in.Filter, err = kernelFilter(conf.Interfaces[i.Name].Filter); err != nil {
			return nil, usageError{err}
		}
		o.Interfaces = append(o.Interfaces, in)
	}
	if l.kernel, l.plans, err = datapath.Open(o); err != nil {
		return nil, err
	}
	prefixes := meter.PrefixesByInterface{}
	for i, p := range l.plans {
		if p.Mode != hook.AFPacket {
			log.Info("metering", "interface", p.Interface, "mode", p.Mode, "why", p.Why)
			continue
		}
		if beyond != "" {
			p.Why = "the kernel's programs do not have " + beyond
		}
		l.rest = append(l.rest, list[i])
		if len(o.Interfaces[i].Prefixes) > 0 {
			prefixes[p.Ifindex] = meter.NewPrefixes(o.Interfaces[i].Prefixes)
		}
	}
	if l.sources, err = open(l.rest); err != nil {
		l.close()
		return nil, err
	}
	l.config = liveMeter(conf, len(l.sources))
	if len(prefixes) > 0 {
		l.config.Chosen = prefixes.Has
	}
	for _, i := range l.rest {
		log.Info("metering", "interface", i.Name, "mode", hook.AFPacket, "why", l.plan(i.Index).Why, "rings", len(l.sources)/len(l.rest))
	}
	for _, p := range l.plans {
		for _, n := range p.Notes {
			log.Warn(n, "interface", p.Interface)
		}
	}
	return l, nil
}

// kernelFilter compiles an expression for programs that see frames pass.
func kernelFilter(text string) (*capture.Filter, error) {
	if text == "" {
		return nil, nil
	}
	e, err := capture.ParseExpression(text)
	if err != nil {
		return nil, err
	}
	return e.Live()
}

func (l *live) plan(ifindex uint32) *hook.Plan {
	for _, p := range l.plans {
		if p.Ifindex == ifindex {
			return p
		}
	}
	return nil
}

// exportTo makes an exporter go on where the last process's left off.
func (l *live) exportTo(o *export.Options) {
	if l.kernel != nil {
		o.Boot, o.Memory = l.kernel.Born(), l.kernel.ExportMemory()
		if f := l.kernel.Filtering(); f != nil {
			o.Rules = f
		}
	}
}

// into says where the records go: once, before run.
func (l *live) into(sink flow.Sink) (run func(context.Context) error, err error) {
	one := &oneAtATime{sink: sink}
	if len(l.sources) > 0 {
		if l.sockets, err = meter.New(l.config, one); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var wg sync.WaitGroup
		var errs [2]error
		if l.kernel != nil {
			wg.Go(func() {
				if errs[0] = l.kernel.Run(ctx, one); errs[0] != nil {
					cancel()
				}
			})
		}
		if l.sockets != nil {
			wg.Go(func() {
				if errs[1] = l.sockets.RunLive(ctx, l.sources...); errs[1] != nil {
					cancel()
				}
			})
		}
		wg.Wait()
		return errors.Join(errs[:]...)
	}, nil
}

// socketed are the interfaces metered through packet sockets.
func (l *live) socketed() []host.Interface { return l.rest }

// close lets the kernel's table go; sources belong to whoever opened them.
func (l *live) close() {
	if l.kernel != nil {
		l.kernel.Close()
	}
}

// oneAtATime lets several metering processes hand on to one sink.
type oneAtATime struct {
	mu   sync.Mutex
	sink flow.Sink
}

func (s *oneAtATime) WriteRecords(batch []flow.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sink.WriteRecords(batch)
}

func (s *oneAtATime) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sync, ok := s.sink.(flow.Syncer); ok {
		return sync.Sync()
	}
	return nil
}

// Snapshot is the account of both.
func (l *live) Snapshot() (s meter.Snapshot) {
	if l.kernel != nil {
		s.Add(l.kernel.Snapshot())
	}
	if l.sockets != nil {
		s.Add(l.sockets.Snapshot())
	}
	return s
}

func (l *live) Losses() (list []flow.Loss) {
	if l.kernel != nil {
		list = l.kernel.Losses()
	}
	if l.sockets != nil {
		list = addLosses(l.sockets.Losses(), list)
	}
	return list
}

func (l *live) Entries(ctx context.Context) (all []flow.Record, err error) {
	err = l.Walk(ctx, func(batch []flow.Record) error {
		all = flow.AppendCopies(all, batch)
		return nil
	})
	return all, err
}

func (l *live) Walk(ctx context.Context, yield func([]flow.Record) error) error {
	if l.kernel != nil {
		if err := l.kernel.Walk(ctx, yield); err != nil {
			return err
		}
	}
	if l.sockets != nil {
		return l.sockets.Walk(ctx, yield)
	}
	return nil
}

// setOwn tells the kernel which packets are our own exports'.
func (l *live) setOwn(list []export.Endpoint) error {
	if l.kernel == nil {
		return nil
	}
	keys := make([]bpf.Own, 0, len(list))
	for _, e := range list {
		keys = append(keys, bpf.Own{
			Src: flow.AddrFrom(e.Local.Addr()), Dst: flow.AddrFrom(e.Remote.Addr()),
			SrcPort: e.Local.Port(), DstPort: e.Remote.Port(),
		})
	}
	return l.kernel.SetOwn(keys)
}
