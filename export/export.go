// Package export sends flow records to collectors: NetFlow v1, v5, v7, v9 and
// IPFIX in UDP datagrams.
//
// In: flow.Record, in batches, from whoever calls WriteRecords. Out: datagrams
// to every Destination, each with its own version, templates, sequence
// numbers and pace. Formats and their laws are RFC 3954, RFC 7011 and Cisco's
// NetFlow v5; octets are written by package wire.
//
// Records that cannot go out are counted by reason (Losses): sent + lost =
// given, to the packet and the octet. Times are Unix ns until they stand in a
// datagram. An Exporter may be written to from any goroutine; Run owns the
// sockets and starts one goroutine for each destination.
package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/flow"
)

// Options is what New needs. Only Destinations must be given.
type Options struct {
	Destinations []Destination

	// Block makes WriteRecords wait for slow destinations instead of losing
	// records: for captures, which can wait.
	Block bool
	// FollowRecords makes the export time that of the newest record given
	// instead of the wall clock: for captures, whose time is in the past.
	FollowRecords bool

	// Boot is when the exporter began, the base of sysUptime. Zero: New's time.
	// With Memory it must be the same in every process.
	Boot time.Time
	// Sampling is announced to collectors: one packet in so many is looked at.
	// 0 and 1: all. A record's own Sampling, if it has one, wins.
	Sampling       uint32
	SamplingRandom bool // chosen by lot, not every n-th

	// Interfaces names the interfaces; asked before each announcement. Nil: no
	// names are sent.
	Interfaces func() []Interface
	// Filter reads a Destination's Filter. Nil: there must be none.
	Filter func(text string) (match func(*flow.Record) bool, err error)
	// Rules names the rules of access lists that records name: those alone, before
	// the record does, and again with the interfaces' names. Nil: none is told.
	Rules Rules
	// Ignored is what the metering process could not make flows of since it
	// began (IE 164, 165). Nil: not announced.
	Ignored func() (packets, octets uint64)

	// Memory keeps the sequence numbers, and where sysUptime begins, for the next
	// process to find, such as in a page of a pinned map: MemoryWords of it,
	// zero at first, in the form that memory.go tells. It is used until Run has
	// returned, by one exporter at a time. Nil: none.
	Memory []uint64

	Log *slog.Logger
	Now func() time.Time // nil: time.Now

	step func(step) // for tests that kill the process there
}

// step is a place on a datagram's way.
type step uint8

const (
	stepQueued     step = iota // not sent yet
	stepSent                   // its sequence number is not remembered yet
	stepRemembered             // its records are not yet said to be handed on
)

func (o *Options) reached(s step) {
	if o.step != nil {
		o.step(s)
	}
}

// Interface is one line of the interface names' announcement.
type Interface struct {
	Index       uint32
	Name        string
	Description string
	// VRF is the routing table of the interface and VRFName its name: the VRF
	// device's, or the network namespace's. Empty: it is not told.
	VRF     uint32
	VRFName string
}

// Endpoint is one destination's flow, for who must not meter it.
type Endpoint struct {
	Local, Remote netip.AddrPort
	TCP           bool // else UDP
}

// Stats is what one destination has done since New.
type Stats struct {
	Destination string `json:"destination"` // its URL
	Local       string `json:"local"`       // address:port; empty before the socket is open
	Remote      string `json:"remote"`
	Version     uint8  `json:"version"`
	Template    string `json:"template"` // preset; empty for fixed formats
	Domain      uint32 `json:"domain"`
	Payload     int    `json:"payload"` // longest message at present, octets

	// State is sending, standby (of a fail-over group), connecting, away (not
	// connected) or failing (datagrams come back, or there is no socket).
	State       string    `json:"state"`
	Group       string    `json:"group"`
	Standby     bool      `json:"standby"`
	Error       string    `json:"error"` // the last thing that went wrong
	ErrorAt     time.Time `json:"error_at"`
	Connections uint64    `json:"connections"` // made, of TCP, TLS and DTLS
	Sequence    uint32    `json:"sequence"`    // number of the next message

	// Given by WriteRecords, and of those what was handed to the network.
	GivenRecords uint64 `json:"given_records"`
	Datagrams    uint64 `json:"datagrams"`
	Octets       uint64 `json:"octets"` // UDP payloads
	Records      uint64 `json:"records"`
	Packets      uint64 `json:"packets"` // of the flows in Records
	Bytes        uint64 `json:"bytes"`
	// WireRecords counts data records on the wire: a v5 record of more than
	// 2^32 packets or octets becomes several.
	WireRecords uint64 `json:"wire_records"`
	Templates   uint64 `json:"templates"` // template records sent
	Options     uint64 `json:"options"`   // options data records sent

	Filtered uint64 `json:"filtered"` // records that the filter kept back: not given
	Restored uint64 `json:"restored"` // records that a former process left in the spool: not given

	InFlight       int    `json:"in_flight"` // of Queued: sent and not acknowledged yet
	Spooled        int    `json:"spooled"`   // messages in the spool's folder
	SpooledRecords uint64 `json:"spooled_records"`
	SpoolOctets    int64  `json:"spool_octets"`
	SpoolMax       int64  `json:"spool_max"` // 0: there is no spool

	Queued   int           `json:"queued"`    // datagrams that wait
	QueueMax int           `json:"queue_max"` // how many may
	Paced    time.Duration `json:"paced"`     // time waited for the sake of the collector
	Retried  uint64        `json:"retried"`   // sends tried again
	Lost     []flow.Loss   `json:"lost"`      // by reason, zeros included
}

// Exporter is a flow.Sink that sends to all its destinations.
type Exporter struct {
	opt     Options
	senders []*sender
	single  []*sender // in no group
	groups  []*group
}

var _ flow.Syncer = (*Exporter)(nil)

// New checks the options. Nothing is sent, or opened, before Open or Run.
func New(opt Options) (*Exporter, error) {
	if len(opt.Destinations) == 0 {
		return nil, errors.New("export: no destination; accepted: one or more udp://HOST:PORT?version=5|9|10")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Boot.IsZero() {
		opt.Boot = opt.Now()
	}
	e := &Exporter{opt: opt}
	memory, twins := newMemory(opt.Memory), map[uint64]int{}
	for _, d := range opt.Destinations {
		if d.Version == flow.VersionV8 && !d.V8.Scheme.Valid() {
			return nil, fmt.Errorf("%s: NetFlow v8 has aggregates, not flows: it is for the destinations of an aggregation cache", d)
		}
		s := newSender(d, &e.opt)
		first := nameOf(s.dest, 0)
		s.memory, s.name = memory, nameOf(s.dest, twins[first])
		twins[first]++
		if d.Filter != "" {
			if opt.Filter == nil {
				return nil, fmt.Errorf("export to %s: filters are not available here", d.Host)
			}
			match, err := opt.Filter(d.Filter)
			if err != nil {
				return nil, fmt.Errorf("export to %s: filter %q: %w", d.Host, d.Filter, err)
			}
			s.match = match
		}
		e.senders = append(e.senders, s)
	}
	e.single, e.groups = newGroups(e.senders)
	for _, g := range e.groups {
		if len(g.senders) > maxGroup {
			return nil, fmt.Errorf("export: group %s has %d destinations; accepted: up to %d", g.name, len(g.senders), maxGroup)
		}
	}
	return e, nil
}

// Open resolves the destinations' names and opens the sockets, so that errors
// show at once and Endpoints are known. Run does it otherwise, and goes on
// trying. It is called once, before Run.
func (e *Exporter) Open(ctx context.Context) error {
	for _, s := range e.senders {
		if err := s.openSpool(); err != nil {
			return err
		}
		err := s.open(ctx)
		if err != nil && s.dest.Connected() && !e.opt.Block && !fatal(err) {
			s.log.Warn("the collector is away; its records wait", "error", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Run sends until ctx ends, then flushes what is left, in order, and returns.
// End ctx after the last WriteRecords; records that come later are counted as
// lost.
func (e *Exporter) Run(ctx context.Context) error {
	g := errgroup.Group{}
	for _, s := range e.senders {
		g.Go(func() error { return s.run(ctx) })
	}
	return g.Wait()
}

// WriteRecords gives records to every destination. It never fails: what cannot
// go out is counted. With Options.Block, or after Linger, it waits while a queue is
// full, so Run must be running.
func (e *Exporter) WriteRecords(batch []flow.Record) error {
	for _, s := range e.single {
		s.write(batch, nil, 0)
	}
	for _, g := range e.groups {
		g.write(batch, time.Now())
	}
	return nil
}

// Sync returns when all that WriteRecords was given has been handed to the
// network, or is counted as lost. It does not wait for datagrams to fill; it
// waits as the pace of each destination wants it, at the same time for all. A
// destination whose socket does not open is not waited for: what it was given
// is lost (resolve). Run must be running, or over.
func (e *Exporter) Sync() error {
	for _, s := range e.senders {
		s.flush()
	}
	for _, s := range e.senders {
		s.await()
	}
	return nil
}

// Linger makes WriteRecords wait while a queue is full, as Options.Block does,
// from now on and until d is over: a cache that is drained at the end gives
// more at once than a queue holds.
func (e *Exporter) Linger(d time.Duration) {
	for _, s := range e.senders {
		s.mu.Lock()
		s.linger = time.Now().Add(d)
		s.mu.Unlock()
		time.AfterFunc(d, s.space.Broadcast) // who waits then, waits no more
	}
}

// SendTemplates makes every destination send its templates, and the options that
// go with them, at once rather than when they are due.
func (e *Exporter) SendTemplates() {
	for _, s := range e.senders {
		s.mu.Lock()
		s.sendNow = true
		s.mu.Unlock()
		s.awaken()
	}
}

// Endpoints are the destinations' flows, those whose socket is open.
func (e *Exporter) Endpoints() []Endpoint {
	var list []Endpoint
	for _, s := range e.senders {
		s.mu.Lock()
		if s.local.IsValid() {
			list = append(list, Endpoint{s.local, s.remote, s.dest.stream()})
		}
		s.mu.Unlock()
	}
	return list
}

// Stats is the state of each destination.
func (e *Exporter) Stats() []Stats {
	list := make([]Stats, len(e.senders))
	for i, s := range e.senders {
		list[i] = s.stats()
	}
	return list
}

// Losses is what did not go out, over all destinations, zeros included.
func (e *Exporter) Losses() []flow.Loss {
	var all ledger
	for _, s := range e.senders {
		s.mu.Lock()
		all.add(&s.lost)
		s.mu.Unlock()
	}
	return all.losses()
}
