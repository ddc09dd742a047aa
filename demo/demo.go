// Package demo is a made-up network that sends real export datagrams: two
// routers with v9 (one of them sampling), two data-centre gateways and a
// firewall with IPFIX, a switch with v5. What they tell is invented, by a seed:
// offices, servers, the world outside with its AS numbers, a day's curve, now
// and then a scan, a flood or a backup.
//
// In: a seed, a rate, the collector's UDP address on this machine. Out: export
// datagrams, each exporter from a loopback address of its own (127.0.1.1 and
// on), written by package export. Rates are records a second of all exporters
// together; times are Unix ns.
package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/export"
	"weir/flow"
)

// Options is what New needs. Only To must be given.
type Options struct {
	To   string // the collector's UDP address, HOST:PORT, on a loopback address
	Seed uint64 // the same seed makes the same network and the same conversations
	Rate int    // flow records a second, about, at the busiest hour; 0: 500
	// Backfill is for how long before the start there were flows. They are sent
	// in the first moments; their times lie in the past.
	Backfill time.Duration
	Log      *slog.Logger

	now func() time.Time
}

const (
	defaultRate = 500
	maxRate     = 100_000
	// backfillMost bounds the records of the back-fill: each then stands for
	// several flows, so that the graphs are as high.
	backfillMost = 500_000
	tick         = 100 * time.Millisecond
)

// Network is the made-up network.
type Network struct {
	opt       Options
	to        netip.AddrPort
	traffic   *traffic
	exporters []*exporter
}

// exporter is one device: what it is, and what it has to tell.
type exporter struct {
	*device
	sink  *export.Exporter
	batch []flow.Record
}

// New draws the network. Nothing is sent before Run.
func New(opt Options) (*Network, error) {
	to, err := resolve(opt.To)
	if err != nil {
		return nil, err
	}
	if opt.Rate == 0 {
		opt.Rate = defaultRate
	}
	if opt.Rate < 0 || opt.Rate > maxRate {
		return nil, fmt.Errorf("demo: rate %d; accepted: 1 to %d records a second", opt.Rate, maxRate)
	}
	if opt.Backfill < 0 || opt.Backfill > 24*time.Hour {
		return nil, fmt.Errorf("demo: back-fill of %v; accepted: 0 to 24h", opt.Backfill)
	}
	if opt.now == nil {
		opt.now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	n := &Network{opt: opt, to: to, traffic: newTraffic(rand.New(rand.NewPCG(opt.Seed, 0x77656972)))}
	start := opt.now()
	for i := range devices {
		d := &devices[i]
		e := &exporter{device: d}
		dest := export.Destination{
			Host: to.Addr().String(), Port: to.Port(), Version: d.version, Domain: d.domain,
			Preset: d.preset, Flush: 200 * time.Millisecond, Rate: -1,
		}
		if to.Addr().Is4() {
			dest.Source = netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)})
		}
		e.sink, err = export.New(export.Options{
			Destinations: []export.Destination{dest}, Block: true,
			// Up for some days: the back-fill's flows are younger.
			Boot:     start.Add(-time.Duration(60+37*i) * time.Hour),
			Sampling: d.sampling, SamplingRandom: true,
			Interfaces: d.names(), Log: opt.Log.With("device", d.name), Now: opt.now,
		})
		if err != nil {
			return nil, fmt.Errorf("demo: %w", err)
		}
		n.exporters = append(n.exporters, e)
	}
	return n, nil
}

// resolve accepts this machine's own addresses only: nobody else asked for
// made-up flows.
func resolve(s string) (netip.AddrPort, error) {
	a, err := net.ResolveUDPAddr("udp", s)
	if err != nil || a.Port == 0 {
		return netip.AddrPort{}, fmt.Errorf("demo: to %q; accepted: HOST:PORT of a collector on this machine, such as 127.0.0.1:2055", s)
	}
	p := a.AddrPort()
	addr := p.Addr().Unmap()
	if !addr.IsValid() || addr.IsUnspecified() {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if !addr.IsLoopback() {
		return netip.AddrPort{}, fmt.Errorf("demo: to %q; accepted: a loopback address, as the flows are made up", s)
	}
	return netip.AddrPortFrom(addr, p.Port()), nil
}

// Run sends the back-fill, then flows as time goes by, until ctx ends. It
// returns an error only if nothing can be sent.
func (n *Network) Run(ctx context.Context) error {
	for _, e := range n.exporters {
		if err := e.sink.Open(ctx); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
	}
	// Exporters end after the last record was written.
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var g errgroup.Group
	for _, e := range n.exporters {
		g.Go(func() error { return e.sink.Run(sending) })
	}
	start := n.opt.now()
	n.backfill(ctx, start)
	n.live(ctx, start)
	stop()
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// backfill makes the flows of the time before start, oldest first.
func (n *Network) backfill(ctx context.Context, start time.Time) {
	if n.opt.Backfill == 0 {
		return
	}
	const step = time.Second
	total := float64(n.opt.Rate) * n.opt.Backfill.Seconds()
	thin := max(1, total/backfillMost)
	at := start.Add(-n.opt.Backfill)
	for owed := 0.0; at.Before(start) && ctx.Err() == nil; at = at.Add(step) {
		owed += float64(n.opt.Rate) * curve(at) * step.Seconds() / thin
		owed -= float64(n.make(at, step, owed, thin))
		n.write(256)
	}
	n.write(0)
}

// live makes flows as time passes.
func (n *Network) live(ctx context.Context, start time.Time) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	at := start
	for owed := 0.0; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := n.opt.now()
		step := now.Sub(at)
		if step <= 0 {
			continue
		}
		if step > time.Second {
			at, step = now.Add(-time.Second), time.Second // the machine slept
		}
		owed += float64(n.opt.Rate) * curve(now) * step.Seconds()
		owed -= float64(n.make(at, step, owed, 1))
		at = now
		n.write(0)
	}
}

// make draws about owed records that end within [at, at+step), each standing
// for thin flows, and says how many it drew.
func (n *Network) make(at time.Time, step time.Duration, owed, thin float64) int {
	made := 0
	for float64(made) < owed {
		end := at.Add(time.Duration(n.traffic.rng.Float64() * float64(step)))
		for _, r := range n.traffic.next(end, thin) {
			e := n.exporters[r.device]
			e.batch = append(e.batch, r.Record)
			made++
		}
	}
	return made
}

// write hands on what the exporters hold, if more than least.
func (n *Network) write(least int) {
	for _, e := range n.exporters {
		if len(e.batch) > least {
			e.sink.WriteRecords(e.batch) // counts its losses itself
			e.batch = e.batch[:0]
		}
	}
}

// Stats is what each exporter has sent.
func (n *Network) Stats() []export.Stats {
	var all []export.Stats
	for _, e := range n.exporters {
		all = append(all, e.sink.Stats()...)
	}
	return all
}
