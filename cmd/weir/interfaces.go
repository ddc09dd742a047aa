package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"weir/capture"
	"weir/config"
	"weir/export"
	"weir/flow"
	"weir/host"
	"weir/meter"
	"weir/query"
)

// maxRings bounds the rings an interface is read through: each has a goroutine,
// a cache of its own and ringBytes of memory.
const maxRings = 4

// openInterfaces opens each interface through one ring a core.
func openInterfaces(list []host.Interface, conf *config.Config) (sources []capture.Source, err error) {
	for _, i := range list {
		c := conf.Interfaces[i.Name]
		filter, err := kernelFilter(c.Filter)
		if err != nil {
			return nil, usageError{err}
		}
		group, err := capture.OpenLiveGroup(i.Name, min(runtime.GOMAXPROCS(0), maxRings), capture.LiveOptions{Promiscuous: c.Promiscuous, Filter: filter})
		if err != nil {
			closeAll(sources)
			return nil, err
		}
		sources = append(sources, group...)
	}
	return sources, nil
}

func closeAll(sources []capture.Source) {
	for _, s := range sources {
		s.Close() // nothing is lost by a close that fails
	}
}

// liveMeter is the meter's configuration for live sources: the table's hash
// has a secret, and flow ids are unlike those of the last start.
func liveMeter(conf *config.Config, sources int) meter.Config {
	c := meter.Config{Cache: cacheConfig(conf.Cache, sources), SampleFlows: conf.Cache.SampleFlows.Rate()}
	var secret [10]byte
	if _, err := rand.Read(secret[:]); err != nil {
		panic(err) // crypto/rand does not fail
	}
	c.Cache.Seed = binary.NativeEndian.Uint64(secret[:])
	c.Cache.Boot = binary.NativeEndian.Uint16(secret[8:]) & 0x3fff
	for _, i := range conf.Interfaces {
		c.Sample = meter.Sampling{N: max(c.Sample.N, i.Sample.Rate()), Random: true}
	}
	return c
}

// interfaceNames is what exports tell of this machine's interfaces.
func interfaceNames() []export.Interface {
	all, err := host.Links()
	if err != nil {
		return nil // the names stay unknown, the flows do not
	}
	list := make([]export.Interface, len(all))
	for i, x := range all {
		list[i] = export.Interface{Index: x.Index, Name: x.Name, Description: x.Kind, VRF: x.Table, VRFName: x.VRF}
	}
	return list
}

// destinationOf is a destination as the configuration has it.
func destinationOf(c config.Destination) (export.Destination, error) {
	d, err := export.ParseDestination(c.To)
	if err != nil {
		return d, err
	}
	if c.Filter != "" {
		d.Filter = c.Filter
	}
	if _, err := exportFilter(d.Filter); err != nil {
		return d, fmt.Errorf("filter: %w", err)
	}
	return d, nil
}

// exportFilter reads a destination's filter: the language of weir query.
func exportFilter(text string) (func(*flow.Record) bool, error) {
	f, err := query.Parse(text)
	if err != nil {
		return nil, err
	}
	return f.Matcher(), nil
}

// meterInterfaces starts metering, its records exported to our own collector
// over loopback and to whoever the configuration names.
func (n *node) meterInterfaces(ctx context.Context, failed chan<- error, list []host.Interface) (*part, error) {
	l, err := openLive(list, n.conf, n.openRings, n.log)
	if err != nil {
		return nil, err
	}
	// Its programs see packets already.
	if err := n.power.use(l.kernel); err != nil {
		n.log.Error("not all of the guard's rules are in force", "error", err)
	}
	p, err := n.meterLive(ctx, failed, l)
	if err != nil {
		_ = n.power.use(nil) // which does nothing that could fail
		l.close()
	}
	return p, err
}

func (n *node) meterLive(ctx context.Context, failed chan<- error, l *live) (*part, error) {
	o := export.Options{
		Interfaces: interfaceNames, Filter: exportFilter, Log: n.log.With("component", "export"),
		Sampling: l.config.Rate(), SamplingRandom: l.config.Sample.Random,
		Ignored: func() (packets, octets uint64) {
			for _, c := range l.Snapshot().Ignored {
				packets, octets = packets+c.Packets, octets+c.Bytes
			}
			return packets, octets
		},
	}
	l.exportTo(&o)
	loop, err := ownCollector(n.collector.Addrs())
	if err != nil {
		return nil, err
	}
	for _, to := range append([]config.Destination{{To: loop}}, n.conf.Export...) {
		d, err := destinationOf(to)
		if err != nil {
			return nil, usageError{err}
		}
		o.Destinations = append(o.Destinations, d)
	}
	e, err := export.New(o)
	if err != nil {
		return nil, err
	}
	aggregates, err := openAggregations(n.conf.Aggregation, l.aggregateOptions(), false, nil, n.log)
	if err != nil {
		return nil, err
	}
	own := &ownTraffic{exporter: e, aggregates: aggregates, kernel: l.setOwn, log: n.log}
	l.config.Own = own.is
	rings := len(l.sources) > 0
	l.sources = n.outlived(l.sources)
	run, err := l.into(n.tally.before(flow.Tee(append(aggregates.sinks(), e, &n.staging, &n.guarding)...)))
	if err != nil {
		return nil, err
	}
	n.keepRings(l.socketed())
	n.mu.Lock()
	n.meter, n.exporter, n.aggregates = l, e, aggregates
	n.metered = map[uint32][]capture.Source{}
	for _, i := range l.socketed() {
		n.metered[i.Index] = n.rings[i.Index].sources
	}
	n.mu.Unlock()
	return start(ctx, "meter", failed, func(ctx context.Context) error {
		defer l.close()
		return withExporter(ctx, e, func(ctx context.Context) error {
			own.look()
			defer own.follow(ctx)()
			err := aggregates.run(ctx, run)
			if err == nil && ctx.Err() == nil && rings {
				n.log.Warn("no interface is left to meter; collecting and showing go on")
				<-ctx.Done()
			}
			return err
		})
	}), nil
}

// lingering is how long a meter that stops may wait for its exporter: a cache of
// many flows takes a while to send at a pace that loses none.
const lingering = 20 * time.Second

// withExporter runs a meter and the exporter behind it: when the meter has
// drained, the exporter sends what it holds.
func withExporter(ctx context.Context, e *export.Exporter, run func(context.Context) error) error {
	behind, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if err := e.Open(ctx); err != nil {
		return err
	}
	metering, end := context.WithCancel(behind)
	defer end()
	defer context.AfterFunc(ctx, func() {
		e.Linger(lingering)
		end()
	})()
	sent := make(chan error, 1)
	go func() { sent <- e.Run(behind) }()
	err := run(metering)
	stop()
	return errors.Join(err, <-sent)
}

// ownCollector is where this process's collector hears this process.
func ownCollector(addrs []net.Addr) (string, error) {
	for _, a := range addrs {
		udp, ok := a.(*net.UDPAddr)
		if !ok {
			continue
		}
		at := udp.AddrPort()
		if at.Addr().IsUnspecified() {
			at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port())
		}
		return fmt.Sprintf("udp://%s?version=10&template=full&biflow=apart", netip.AddrPortFrom(at.Addr().Unmap(), at.Port())), nil
	}
	return "", errors.New("the collector listens at no UDP address: nowhere to send this machine's flows")
}

// ownTraffic knows the packets of our own exports. They are not metered: each
// would make a flow to be exported.
type ownTraffic struct {
	exporter   *export.Exporter // nil: none
	aggregates aggregations
	kernel     func([]export.Endpoint) error // tells the programs
	log        slogger
	now        atomic.Pointer[[]export.Endpoint]
}

// is is asked for every packet.
func (o *ownTraffic) is(k *flow.Key) bool {
	if k.Proto != flow.ProtoUDP && k.Proto != flow.ProtoTCP {
		return false
	}
	for _, e := range *o.now.Load() {
		if e.TCP == (k.Proto == flow.ProtoTCP) && k.DstPort == e.Remote.Port() && k.SrcPort == e.Local.Port() && k.Dst == flow.AddrFrom(e.Remote.Addr()) && k.Src == flow.AddrFrom(e.Local.Addr()) {
			return true
		}
	}
	return false
}

// any says whether there is something to look for.
func (o *ownTraffic) any() bool { return o.exporter != nil || exporting(o.aggregates) }

func (o *ownTraffic) look() {
	list := o.aggregates.endpoints()
	if o.exporter != nil {
		list = append(list, o.exporter.Endpoints()...)
	}
	o.now.Store(&list)
	if err := o.kernel(list); err != nil {
		o.log.Warn("our own exports are metered", "error", err)
	}
}

// follow looks again each second, for a socket may be opened anew.
func (o *ownTraffic) follow(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				o.look()
			}
		}
	}()
	return func() { cancel(); <-done }
}
