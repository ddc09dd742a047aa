package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"weir/cache"
	"weir/capture"
	"weir/collect"
	"weir/config"
	"weir/console"
	"weir/export"
	"weir/flow"
	"weir/meter"
	"weir/metrics"
	"weir/query"
	"weir/store"
)

type slogger = *slog.Logger

// node is a running weir: the rooms that this process has, and what is told of
// them through the console, the control socket and the metrics.
type node struct {
	log      slogger
	started  time.Time
	engine   query.Engine
	store    *storeRoom
	rings    map[uint32]ring // by interface index; of the goroutine that reloads
	gone     atomic.Bool     // an interface went away since the metering started
	tally    tally           // of what left the cache; meters hand on through tally.before
	staging  staging         // of access lists; meters hand on to it, too
	guarding guarding        // the guard; and to it
	power    guardPower      // what carries its rules out

	serving sync.Once
	served  *console.Server

	mu         sync.Mutex // of what a reload exchanges
	conf       *config.Config
	collector  *collect.Collector
	meter      metering
	exporter   *export.Exporter
	aggregates aggregations
	metered    map[uint32][]capture.Source // the sources of each interface
	past       []flow.Loss                 // of the rooms that a reload retired
	reloaded   reload
	proposal   *change // the last of access lists
}

// metering is a metering process as it is asked while it runs: in this
// process's memory, or in the kernel's.
type metering interface {
	Snapshot() meter.Snapshot
	Losses() []flow.Loss
	Entries(ctx context.Context) ([]flow.Record, error) // what is in the cache now
}

// reload tells how the last reading of the configuration went.
type reload struct {
	ok bool
	at time.Time // of the last good one
}

// storeRoom is the store with its goroutine's life.
type storeRoom struct{ *store.Store }

func openStore(c config.Store, log slogger) (*storeRoom, error) {
	s, err := store.Open(c.Dir, store.Options{MaxBytes: int64(c.MaxSize), MaxAge: time.Duration(c.MaxAge), NoCompact: !c.Compact, Log: log.With("component", "store")})
	if err != nil {
		return nil, err
	}
	return &storeRoom{s}, nil
}

// end writes what is buffered; a nil room has nothing.
func (s *storeRoom) end() error {
	if s == nil {
		return nil
	}
	before := s.lost()
	err := s.Close()
	if n := s.lost() - before; err != nil && n > 0 {
		err = fmt.Errorf("%d records that were still in memory are lost: %w", n, err)
	}
	return err
}

// lost is how many records the store could not keep.
func (s *storeRoom) lost() (n uint64) {
	for _, l := range s.Losses() {
		n += l.Records
	}
	return n
}

func (n *node) config() *config.Config {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.conf
}

func (n *node) configure(c *config.Config) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conf = c
}

// rooms are the parts that exist at this moment; nil: not in this process.
func (n *node) rooms() (metering, *export.Exporter, *collect.Collector) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.meter, n.exporter, n.collector
}

// aggregations are the aggregation caches that exist at this moment.
func (n *node) aggregations() aggregations {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.aggregates
}

// losses is the whole ledger, in the order of the data's way.
func (n *node) losses() []flow.Loss {
	m, e, c := n.rooms()
	var list []flow.Loss
	if m != nil {
		list = append(list, m.Losses()...)
	}
	if e != nil {
		list = append(list, e.Losses()...)
	}
	list = addLosses(list, n.aggregations().losses())
	if c != nil {
		list = append(list, c.Losses()...)
	}
	if n.store != nil {
		list = append(list, n.store.Losses()...)
	}
	if n.engine != nil {
		l := flow.Loss{
			Stage: "store", Reason: "broken-segment",
			Help: "A query found segments broken or missing; their records are left out of every answer. The log names the files.",
		}
		for _, s := range query.Broken(n.engine) {
			l.Records, l.Packets, l.Bytes = l.Records+s.Rows, l.Packets+s.Packets, l.Bytes+s.Bytes
		}
		list = append(list, l)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return addLosses(list, n.past)
}

// addLosses adds more to list, by stage and reason.
func addLosses(list, more []flow.Loss) []flow.Loss {
	at := map[[2]string]int{}
	for i, l := range list {
		at[[2]string{l.Stage, l.Reason}] = i
	}
	for _, l := range more {
		i, ok := at[[2]string{l.Stage, l.Reason}]
		if !ok {
			at[[2]string{l.Stage, l.Reason}] = len(list)
			list = append(list, l)
			continue
		}
		list[i].Records += l.Records
		list[i].Packets += l.Packets
		list[i].Bytes += l.Bytes
		list[i].Datagrams += l.Datagrams
	}
	return list
}

// retire keeps the losses of a room that a reload takes out.
func (n *node) retire(l []flow.Loss) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.past = addLosses(n.past, l)
}

// server is the console with everything this node can tell; the same for the
// web and for the control socket. The rooms must be there before the first call.
func (n *node) server() *console.Server {
	n.serving.Do(func() { n.served = n.newServer() })
	return n.served
}

func (n *node) newServer() *console.Server {
	show := metrics.New(version, n.started, metrics.Losses(n.losses), n.samples)
	conf := n.config().Console
	o := console.Options{
		Listen: conf.Listen, Hosts: conf.Hosts, Engine: n.engine, Losses: n.losses,
		Version: version, Started: n.started, Logger: n.log.With("component", "console"),
		Metrics: show,
	}
	m, e, c := n.rooms()
	if c != nil {
		o.Exporters = n.exporters
	}
	if m != nil {
		o.Cache = n.cache
	}
	if m != nil || c != nil {
		o.Interfaces = n.interfaces
	}
	if e != nil {
		o.Exports = n.exports
	}
	o.Guard, o.GuardDo = n.guardAnswer, n.guardDo
	if n.store != nil {
		o.Store = n.storeState
		o.Ready = func() error {
			if why := n.store.Stats().Failing; why != "" {
				return errors.New(why)
			}
			return nil
		}
	}
	server := console.New(o)
	if err := show.Add(server); err != nil {
		n.log.Warn("the console's own metrics are not shown", "error", err)
	}
	return server
}

func (n *node) exporters() []console.Exporter {
	_, _, c := n.rooms()
	if c == nil {
		return nil
	}
	var list []console.Exporter
	for _, e := range c.Exporters() {
		x := console.Exporter{
			Address: e.Addr.Unmap().String(), Version: flow.VersionName(e.Version), Domain: e.Domain,
			Datagrams: e.Datagrams, Records: e.Records,
			SequenceGaps: e.Sequence.Gaps, SequenceLost: e.Sequence.Lost, SequenceUnit: e.Sequence.Unit,
			LastSeen: e.Last, Late: time.Since(e.Last) > exporterLate,
			SkewSeconds: e.Skew.Seconds(), Templates: e.Templates,
		}
		for _, s := range e.Sampling {
			x.Sampling = max(x.Sampling, s.Rate)
		}
		for _, l := range e.Losses {
			if l.Reason == "template-missing" {
				x.Misses = l.Datagrams
			}
		}
		list = append(list, x)
	}
	return list
}

// exporterLate is the silence after which an exporter is called late: twice
// the active timeout that dashboards use, and more than a template interval.
const exporterLate = 2 * time.Minute

// exportersHere are those of flows, and of the aggregation caches.
func (n *node) exportersHere() (list []*export.Exporter) {
	if _, e, _ := n.rooms(); e != nil {
		list = append(list, e)
	}
	for _, a := range n.aggregations() {
		if a.exporter != nil {
			list = append(list, a.exporter)
		}
	}
	return list
}

// exportStats is the state of all destinations.
func (n *node) exportStats() (list []export.Stats) {
	for _, e := range n.exportersHere() {
		list = append(list, e.Stats()...)
	}
	return list
}

func (n *node) exports() []console.Destination {
	var list []console.Destination
	for _, s := range n.exportStats() {
		d := console.Destination{Address: s.Destination, Version: fmt.Sprint(s.Version), Records: s.Records, Datagrams: s.Datagrams, Bytes: s.Octets}
		for _, l := range s.Lost {
			d.Failed += l.Records
		}
		list = append(list, d)
	}
	return list
}

func (n *node) storeState() console.Store {
	s := n.store.Stats()
	c := console.Store{Kind: "parquet", Path: s.Dir, Records: s.Rows, Bytes: s.Bytes, Segments: s.Segments, Error: s.Failing}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.Dir, &fs); err == nil {
		c.Free = fs.Bavail * uint64(fs.Bsize)
	}
	if s.Rows > 0 {
		c.Oldest, c.Newest = time.UnixMicro(s.First), time.UnixMicro(s.Last)
	}
	return c
}

// samples are the metrics beside the ledger.
func (n *node) samples(emit func(metrics.Sample)) {
	m, _, c := n.rooms()
	counter := func(name, help string, v uint64, labels ...string) {
		emit(metrics.Sample{Name: name, Help: help, Labels: labels, Value: float64(v)})
	}
	gauge := func(name, help string, v float64, labels ...string) {
		emit(metrics.Sample{Name: name, Help: help, Gauge: true, Labels: labels, Value: v})
	}
	if m != nil {
		s := m.Snapshot()
		counter("weir_meter_read_packets_total", "Packets read from the interfaces.", s.Packets)
		counter("weir_meter_read_bytes_total", "Their octets: from the IP header on, or the frame's where there is none.", s.Bytes)
		counter("weir_meter_metered_packets_total", "Packets that are in a flow.", s.Metered.Packets)
		counter("weir_meter_metered_bytes_total", "Their octets.", s.Metered.Bytes)
		for reason, v := range s.Ignored {
			counter("weir_meter_ignored_packets_total", "Packets that are in no flow, by reason.", v.Packets, "reason", reason)
			counter("weir_meter_ignored_bytes_total", "Octets of their frames.", v.Bytes, "reason", reason)
		}
		counter("weir_cache_created_flows_total", "Flows that entered the cache.", s.Cache.Created)
		for why := flow.EndIdle; why <= flow.EndResource; why++ {
			counter("weir_cache_ended_flows_total", "Flows that left the cache, by reason.", s.Cache.Expired[why], "reason", why.String())
		}
		gauge("weir_cache_entries", "Flows in the cache now.", float64(s.Cache.Entries))
		gauge("weir_cache_capacity_entries", "Flows it can hold.", float64(s.Cache.Capacity))
		gauge("weir_cache_aggregates", "Overflow aggregates in it now.", float64(s.Cache.Aggregates))
		counter("weir_cache_refused_packets_total", "Packets that found no place for a flow and are counted in an overflow aggregate.", s.Cache.Refused)
	}
	if d, err := n.filtered(); err == nil {
		if c, err := d.Dropped(); err == nil {
			counter("weir_acl_dropped_packets_total", "Packets that access lists have stopped.", c.Packets)
			counter("weir_acl_dropped_bytes_total", "Their octets.", c.Bytes)
		}
	}
	n.forwardSamples(counter, gauge)
	told := map[string]bool{} // the same destination may stand there twice
	for _, s := range n.exportStats() {
		if !told[s.Destination] {
			told[s.Destination] = true
			exportSamples(s, counter, gauge)
		}
	}
	if c != nil {
		s := c.Stats()
		counter("weir_collect_datagrams_total", "Export datagrams received.", s.Datagrams)
		counter("weir_collect_bytes_total", "Their UDP payload.", s.Bytes)
		counter("weir_collect_records_total", "Flow records decoded.", s.Records)
		gauge("weir_collect_queue_batches", "Batches that wait for the store.", float64(s.Queued))
		gauge("weir_collect_exporters", "Exporters' observation domains known.", float64(len(c.Exporters())))
	}
	if n.store != nil {
		s := n.store.Stats()
		counter("weir_store_records_total", "Records taken.", s.Records)
		counter("weir_store_durable_records_total", "Records written and synced.", s.Durable)
		gauge("weir_store_records", "Records held.", float64(s.Rows))
		gauge("weir_store_bytes", "Octets of the segments.", float64(s.Bytes))
		gauge("weir_store_segments", "Segments.", float64(s.Segments))
		gauge("weir_store_unflushed_seconds", "Age of the oldest record that is not yet durable.", s.UnflushedAge.Seconds())
	}
	n.guardSamples(emit)
	n.mu.Lock()
	r := n.reloaded
	n.mu.Unlock()
	good := 0.0
	if r.ok {
		good = 1
	}
	gauge("weir_config_last_reload_successful", "Whether the last reading of the configuration went well.", good)
	gauge("weir_config_last_reload_success_timestamp_seconds", "When it last did.", float64(r.at.Unix()))
}

// cacheConfig is the live cache that the configuration asks for, split over
// the given number of sources.
func cacheConfig(c config.Cache, sources int) cache.Config {
	cc := cache.DefaultConfig()
	cc.Entries = max(1024, int(c.Entries)/max(1, sources))
	cc.Idle, cc.Active = time.Duration(c.Idle), time.Duration(c.Active)
	if !c.TCPEnd {
		cc.TCPEnd = 0
	}
	if key, err := flow.ParseKey(c.Key); err == nil && key == flow.Facts5Tuple {
		cc.Key = flow.Key5Tuple
	}
	cc.Select = c.Selection()
	return cc
}
