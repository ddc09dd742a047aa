package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"weir/aggregate"
	"weir/config"
	"weir/export"
	"weir/flow"
	"weir/wire"
)

// aggregation is an aggregation cache of this process, and who gets what leaves it.
type aggregation struct {
	name     string
	conf     config.Aggregation
	cache    *aggregate.Cache
	exporter *export.Exporter // nil: it has no destination
}

type aggregations []*aggregation

// domainOfAggregates is added to a scheme's number for a domain that nobody chose: each
// cache counts its own sequence.
const domainOfAggregates = 1000

// openAggregations makes the caches that are asked for. o is what their exporters have
// in common; what leaves a cache without a destination goes to rest, or to nobody if that
// is nil. follow: time is the records'.
func openAggregations(all map[string]config.Aggregation, o export.Options, follow bool, rest flow.Sink, log slogger) (list aggregations, err error) {
	if rest == nil {
		rest = flow.SinkFunc(func([]flow.Record) error { return nil })
	}
	rest = &oneAtATime{sink: rest}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		a := &aggregation{name: name, conf: all[name]}
		c, err := a.conf.Config(name)
		if err != nil {
			return nil, usageError{err}
		}
		c.FollowRecords = follow
		to := rest
		if len(a.conf.Export) > 0 {
			if a.exporter, err = aggregateExporter(a.conf.Export, c.Scheme, o, log); err != nil {
				return nil, err
			}
			to = a.exporter
		}
		if a.cache, err = aggregate.New(c, to); err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}

func aggregateExporter(all []config.Destination, scheme aggregate.Scheme, o export.Options, log slogger) (*export.Exporter, error) {
	o.Filter = exportFilter
	o.Log, o.Memory, o.Rules, o.Destinations = log.With("component", "aggregation"), nil, nil, nil
	for _, to := range all {
		d, err := destinationOf(to)
		if err != nil {
			return nil, usageError{err}
		}
		if d.Domain == 1 {
			d.Domain = domainOfAggregates + uint32(scheme)
		}
		d.V8.Scheme = wire.SchemeV8(scheme)
		o.Destinations = append(o.Destinations, d)
	}
	e, err := export.New(o)
	if err != nil {
		return nil, usageError{err}
	}
	return e, nil
}

// printsAggregates says whether some cache has no destination of its own.
func printsAggregates(all map[string]config.Aggregation) bool {
	for _, a := range all {
		if len(a.Export) == 0 {
			return true
		}
	}
	return false
}

// exports says whether all caches, of which there are some, have a destination.
func exports(all map[string]config.Aggregation) bool { return len(all) > 0 && !printsAggregates(all) }

// aggregateOptions are what exporters of a live meter's aggregates have in common.
func (l *live) aggregateOptions() export.Options {
	return export.Options{Interfaces: interfaceNames, Sampling: l.config.Rate(), SamplingRandom: true}
}

// sinks are what takes the main cache's records.
func (l aggregations) sinks() (sinks []flow.Sink) {
	for _, a := range l {
		sinks = append(sinks, a.cache)
	}
	return sinks
}

// run meters with the caches behind it: they let go what is due meanwhile, and all at the
// end; then their exporters send what they hold.
func (l aggregations) run(ctx context.Context, meter func(context.Context) error) error {
	run := func(ctx context.Context) error {
		ticking, stop := context.WithCancel(ctx)
		defer stop()
		var wg sync.WaitGroup
		for _, a := range l {
			wg.Go(func() { a.cache.Run(ticking) }) // what its sink says, WriteRecords tells
		}
		err := meter(ctx)
		stop()
		wg.Wait()
		for _, a := range l {
			err = also(err, a.cache.Drain(flow.EndForced))
		}
		return err
	}
	for _, a := range l {
		if a.exporter != nil {
			behind := run
			run = func(ctx context.Context) error { return withExporter(ctx, a.exporter, behind) }
		}
	}
	return run(ctx)
}

// exporting says whether any of them exports.
func exporting(l aggregations) bool {
	return slices.ContainsFunc(l, func(a *aggregation) bool { return a.exporter != nil })
}

// endpoints are their exporters' flows, which are not metered.
func (l aggregations) endpoints() (all []export.Endpoint) {
	for _, a := range l {
		if a.exporter != nil {
			all = append(all, a.exporter.Endpoints()...)
		}
	}
	return all
}

func (l aggregations) losses() (list []flow.Loss) {
	for _, a := range l {
		list = addLosses(list, a.cache.Losses())
		if a.exporter != nil {
			list = addLosses(list, a.exporter.Losses())
		}
	}
	return list
}

// aggregationLine is what `weir show aggregation` tells of a cache.
type aggregationLine struct {
	Cache         string   `json:"cache"`
	Entries       int      `json:"entries"`
	Capacity      int      `json:"capacity"`
	Peak          int      `json:"peak"`
	Added         uint64   `json:"added"` // flows of the main cache
	Packets       uint64   `json:"packets"`
	Bytes         uint64   `json:"bytes"`
	Exported      uint64   `json:"exported"` // of added, those in aggregates that have left
	Early         uint64   `json:"early"`    // aggregates that left for want of room
	ActiveSeconds float64  `json:"active_seconds"`
	IdleSeconds   float64  `json:"idle_seconds"`
	Mask          string   `json:"mask"`
	Export        []string `json:"export"`
}

func (l aggregations) lines() []aggregationLine {
	lines := make([]aggregationLine, 0, len(l))
	for _, a := range l {
		s := a.cache.Stats()
		line := aggregationLine{
			Cache: a.name, Entries: s.Entries, Capacity: s.Capacity, Peak: s.Peak, Added: s.Added.Records, Packets: s.Added.Packets, Bytes: s.Added.Bytes,
			Exported: s.Left.Records, Early: s.Expired[flow.EndResource],
			ActiveSeconds: a.conf.Active.Seconds(), IdleSeconds: a.conf.Idle.Seconds(), Export: []string{},
		}
		m := a.conf.Mask
		line.Mask = fmt.Sprintf("/%d /%d", m.Source, m.Destination)
		if m.Source6|m.Destination6 != 0 {
			line.Mask += fmt.Sprintf(" ipv6 /%d /%d", m.Source6, m.Destination6)
		}
		if a.exporter != nil {
			for _, d := range a.exporter.Stats() {
				line.Export = append(line.Export, d.Destination)
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// errNoAggregation says what is not there.
var errNoAggregation = errors.New("no such aggregation cache here")

func (l aggregations) find(name string) (*aggregation, error) {
	for _, a := range l {
		if a.name == name {
			return a, nil
		}
	}
	return nil, errNoAggregation
}
