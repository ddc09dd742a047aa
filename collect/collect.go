// Package collect receives export datagrams and hands on flow records.
//
// In: NetFlow v1 to v9, IPFIX and sFlow on UDP sockets, IPFIX on TCP, TLS and DTLS
// connections, or captures and message files (Decode). Out: flow.Record in batches to a
// flow.Sink, called from one goroutine at a time. Every datagram that the kernel
// delivered is read, decoded and handed on, or is counted in the loss ledger
// (Losses). Units are those of package flow.
//
// A UDP address has one receive loop per core, each with its own socket and its
// own wire.Decoder. The kernel chooses the socket by the exporter's address, so
// all of an exporter's datagrams meet the same decoder and nothing is shared in
// the hot path; a loop's lock is taken once per burst, and by whoever looks at
// its state. Decoded batches go through a queue to one goroutine, which calls
// the sink; when the sink is slow the queue fills, then the kernel's buffers,
// and what they cannot hold is counted by the kernel and reported here.
package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/flow"
	"weir/wire"
)

// Options of a Collector.
type Options struct {
	// Listen are the places to receive at: "udp://:2055", "udp://[::1]:4739",
	// "tcp://:4739" (IPFIX), "tls://:4740?cert=FILE&key=FILE&ca=FILE&allow=NAME,…"
	// and the same for dtls. One UDP port takes every version.
	Listen []string

	// Sink takes the records. Calls never overlap.
	Sink flow.Sink

	// State is the file that keeps templates, sampling and sequence numbers
	// over a restart; empty: none.
	State string
	// StateEvery is how often it is saved while running, beside soon after a
	// template changed; 0: 1 min.
	StateEvery time.Duration

	Loops       int // receive loops per UDP address; 0: one per core
	SocketBytes int // receive buffer of each socket; 0: 64 MiB, less where the kernel refuses
	Queue       int // batches between receiving and the sink; 0: 8

	// MaxSkew > 0 moves the flow times of exporters whose clock is off by more.
	MaxSkew time.Duration
	// SplitBiflows: see wire.Options.
	SplitBiflows bool
	// Limits bound what exporters can make the collector hold, all loops of
	// an address together.
	Limits wire.Limits

	// OnOptions, if set, is called with every options record (interface and
	// application names, samplers, …), from the goroutine that calls Sink.
	OnOptions func([]wire.OptionsRecord)

	Log *slog.Logger // nil: slog.Default()
}

// Defaults.
const (
	defaultSocketBytes = 64 << 20
	defaultQueue       = 8
	defaultStateEvery  = time.Minute
)

// A batch is handed on when it has so many records, or its first is so old.
const (
	batchRecords = 4096
	batchTime    = 50 * time.Millisecond
)

// drainTime bounds how long a loop reads on after the end was asked for:
// exporters do not stop for us.
const drainTime = 5 * time.Second

// Collector receives, decodes and hands on.
type Collector struct {
	opt   Options
	log   *slog.Logger
	where []endpoint
	udp   []*loop
	tcp   []*tcpServer

	queue chan *wire.Batch // full ones, to the sink
	free  chan *wire.Batch

	listening bool
	restored  bool        // the state came from a predecessor, not from the file
	learned   atomic.Bool // a template changed since the state was saved

	mu       sync.Mutex
	passedOn map[string]bool // URLs whose sockets go over to a successor
	later    []endpoint      // DTLS, at ports that a predecessor has until it ends
	records  atomic.Uint64   // given to the sink
	sinkLost atomic.Uint64   // records that the sink did not take
	badState atomic.Uint64   // state files that could not be used or written
}

type endpoint struct {
	url, network, address string
	secure                secure
}

// New makes a Collector and checks the options. It opens nothing.
func New(opt Options) (*Collector, error) {
	if opt.Sink == nil {
		return nil, errors.New("collect: no sink for the records")
	}
	if opt.Loops <= 0 {
		opt.Loops = runtime.GOMAXPROCS(0)
	}
	if opt.SocketBytes <= 0 {
		opt.SocketBytes = defaultSocketBytes
	}
	if opt.Queue <= 0 {
		opt.Queue = defaultQueue
	}
	if opt.StateEvery <= 0 {
		opt.StateEvery = defaultStateEvery
	}
	c := &Collector{opt: opt, log: opt.Log}
	if c.log == nil {
		c.log = slog.Default()
	}
	for _, url := range opt.Listen {
		e, err := parseListen(url)
		if err != nil {
			return nil, err
		}
		c.where = append(c.where, e)
	}
	if len(c.where) == 0 {
		return nil, errors.New("collect: nowhere to listen; give at least one address, such as udp://:2055")
	}
	// A batch for each loop, as many as may wait, and the one at the sink.
	c.queue = make(chan *wire.Batch, opt.Queue)
	c.free = make(chan *wire.Batch, opt.Queue+opt.Loops*len(c.where)+1)
	for range cap(c.free) {
		c.free <- &wire.Batch{}
	}
	return c, nil
}

// Listen opens the sockets, so that a port in use is known before other parts
// start. Run calls it if nobody did.
func (c *Collector) Listen() (err error) {
	if c.listening {
		return nil
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	for i := range c.where {
		if err := c.open(i); err != nil {
			return err
		}
	}
	c.listening = true
	return nil
}

// open opens the i-th place to receive at.
func (c *Collector) open(i int) error {
	e := c.where[i]
	if e.network != "udp" {
		s, err := c.newTCP(e, nil)
		if err != nil {
			return listenError(e.url, err)
		}
		c.tcp = append(c.tcp, s)
		return nil
	}
	group, err := openGroup(e.address, c.opt.Loops, c.opt.SocketBytes)
	if err != nil {
		return listenError(e.url, err)
	}
	for j, conn := range group {
		l, err := c.newLoop(conn, i, j, len(group))
		if err != nil {
			return listenError(e.url, err)
		}
		c.udp = append(c.udp, l)
	}
	if got := bufferOf(group[0]); got < c.opt.SocketBytes {
		c.log.Warn("receive buffer is smaller than asked for: bursts may be dropped; raise net.core.rmem_max or grant CAP_NET_ADMIN",
			"listen", e.url, "asked_bytes", c.opt.SocketBytes, "granted_bytes", got)
	}
	return nil
}

func (c *Collector) close() {
	for _, l := range c.udp {
		l.conn.Close()
	}
	for _, s := range c.tcp {
		s.ln.Close()
	}
	c.udp, c.tcp, c.listening = nil, nil, false
}

// Addrs are the addresses that are listened at, after Listen.
func (c *Collector) Addrs() []net.Addr {
	var all []net.Addr
	for _, l := range c.udp {
		if l.index == 0 {
			all = append(all, l.conn.LocalAddr())
		}
	}
	for _, s := range c.tcp {
		all = append(all, s.ln.Addr())
	}
	return all
}

// limits is the share of one of n decoders.
func (c *Collector) limits(n int) wire.Limits {
	l := c.opt.Limits
	share := func(have *int, def int) {
		if *have <= 0 {
			*have = def
		}
		*have = (*have + n - 1) / n
	}
	share(&l.Sessions, wire.DefaultLimits.Sessions)
	share(&l.TemplateOctets, wire.DefaultLimits.TemplateOctets)
	share(&l.WaitingOctets, wire.DefaultLimits.WaitingOctets)
	return l
}

// Run receives until ctx ends; then it reads what the kernel still holds, hands
// it on, saves the state and returns nil. It returns early with the reason if
// a socket, or the sink, fails. A Collector runs once.
func (c *Collector) Run(ctx context.Context) error {
	if err := c.Listen(); err != nil {
		return err
	}
	defer func() {
		for _, l := range c.udp {
			l.countDrops()
			if !c.passes(l) {
				l.conn.Close()
			}
		}
	}()
	if !c.restored {
		c.loadState()
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	written := make(chan error, 1)
	go func() { // ends when the queue is closed, below
		err := c.write()
		if err != nil {
			stop(err)
		}
		written <- err
	}()

	g, gctx := errgroup.WithContext(ctx)
	for _, l := range c.udp {
		g.Go(func() error { return l.run(gctx) })
	}
	for _, s := range c.tcp {
		g.Go(func() error { return s.run(gctx) })
	}
	g.Go(func() error { c.keepState(gctx); return nil })
	err := g.Wait()
	close(c.queue)
	sinkErr := <-written
	if saveErr := c.saveState(); err == nil && saveErr != nil {
		err = fmt.Errorf("decoder state: %w", saveErr)
	}
	if sinkErr != nil {
		return sinkErr
	}
	return err
}

// write hands batches to the sink until the queue is closed. After an error it
// counts what can no longer be handed on.
func (c *Collector) write() error {
	var failed error
	for b := range c.queue {
		if failed == nil {
			if c.opt.OnOptions != nil && len(b.Options) > 0 {
				c.opt.OnOptions(b.Options)
			}
			if len(b.Records) > 0 {
				failed = c.opt.Sink.WriteRecords(b.Records)
			}
		}
		if failed == nil {
			c.records.Add(uint64(len(b.Records)))
		} else {
			c.sinkLost.Add(uint64(len(b.Records)))
		}
		b.Reset()
		c.free <- b
	}
	return failed
}

// hand gives a batch to the writer and takes an empty one. It blocks while the
// queue is full.
func (c *Collector) hand(b *wire.Batch) *wire.Batch {
	if len(b.Records) == 0 && (len(b.Options) == 0 || c.opt.OnOptions == nil) {
		b.Reset()
		return b
	}
	c.queue <- b
	return <-c.free
}

// decoder is one for a listener's loop, one of so many.
func (c *Collector) decoder(of int) *wire.Decoder {
	return wire.NewDecoder(wire.Options{Limits: c.limits(of), MaxSkew: c.opt.MaxSkew, SplitBiflows: c.opt.SplitBiflows})
}
