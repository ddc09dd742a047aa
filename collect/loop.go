package collect

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"weir/wire"
)

// loop receives at one socket and decodes what comes. It runs in one goroutine.
type loop struct {
	c       *Collector
	conn    *net.UDPConn
	rx      *receiver
	where   int // index of the endpoint
	index   int // of the socket in its group of so many
	of      int
	granted int // octets of receive buffer

	mu  sync.Mutex // held while decoding a burst, and to look at dec
	dec *wire.Decoder

	repeats *repeats

	datagrams, octets atomic.Uint64
	truncated         atomic.Uint64
	drops             atomic.Uint64 // by the kernel
	lastDrops         uint32        // guarded by dropsMu
	passed            bool          // the socket is a successor's; guarded by dropsMu
	dropsMu           sync.Mutex
	panics            atomic.Uint64
}

func (c *Collector) newLoop(conn *net.UDPConn, where, index, of int) (*loop, error) {
	rx, err := newReceiver(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &loop{
		c: c, conn: conn, rx: rx, where: where, index: index, of: of, granted: bufferOf(conn),
		dec:     c.decoder(of),
		repeats: newRepeats((maxWindows + of - 1) / of),
	}, nil
}

// nap lets datagrams gather, so that one system call takes many: waking up for
// each would cost more than decoding it. Only where the kernel's buffer holds
// what comes meanwhile.
const (
	nap       = 4 * time.Millisecond
	napBuffer = 8 << 20
	tick      = time.Second
)

func (l *loop) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { l.conn.SetReadDeadline(time.Unix(1, 0)) })()
	batch := <-l.c.free
	var since time.Time // when the batch's first record came
	next := time.Now().Add(tick)
	for {
		wake := next
		if len(batch.Records)+len(batch.Options) > 0 && since.Add(batchTime).Before(wake) {
			wake = since.Add(batchTime)
		}
		l.conn.SetReadDeadline(wake)
		if ctx.Err() != nil {
			break
		}
		n, err := l.rx.read(true)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			l.c.queue <- batch // what was decoded is handed on all the same
			return err
		}
		now := time.Now()
		if n > 0 {
			if len(batch.Records)+len(batch.Options) == 0 {
				since = now
			}
			l.decode(batch, n, now)
		}
		if len(batch.Records) >= batchRecords || now.Sub(since) >= batchTime {
			batch = l.c.hand(batch)
		}
		if now.After(next) {
			l.mu.Lock()
			l.dec.Expire(now.UnixNano())
			l.mu.Unlock()
			l.countDrops()
			next = now.Add(tick)
		}
		if n > 0 && n < burst && l.granted >= napBuffer {
			time.Sleep(nap)
		}
	}
	batch, err := l.drain(batch)
	l.c.queue <- batch
	return err
}

// drain reads what the kernel still holds.
func (l *loop) drain(batch *wire.Batch) (*wire.Batch, error) {
	l.conn.SetReadDeadline(time.Time{})
	for end := time.Now().Add(drainTime); time.Now().Before(end); {
		n, err := l.rx.read(false)
		if errors.Is(err, os.ErrDeadlineExceeded) { // set, late, by what woke us up
			l.conn.SetReadDeadline(time.Time{})
			continue
		}
		if err != nil || n == 0 {
			return batch, err
		}
		l.decode(batch, n, time.Now())
		if len(batch.Records) >= batchRecords {
			batch = l.c.hand(batch)
		}
	}
	return batch, nil
}

func (l *loop) decode(batch *wire.Batch, n int, now time.Time) {
	received := now.UnixNano()
	octets, from := 0, len(batch.Records)
	l.mu.Lock()
	for i := 0; i < n; {
		i = l.some(batch, i, n, received, &octets)
	}
	l.mu.Unlock()
	l.repeats.learn(batch.Templates, received)
	l.repeats.drop(batch, from)
	for i := range batch.Templates {
		if batch.Templates[i].Action != wire.Refreshed {
			l.c.learned.Store(true)
			break
		}
	}
	batch.Templates = batch.Templates[:0]
	if l.c.opt.OnOptions == nil {
		batch.Options = batch.Options[:0]
	}
	l.datagrams.Add(uint64(n))
	l.octets.Add(uint64(octets))
}

// some decodes datagrams from i on, until all are decoded or one makes the
// decoder panic: that is a defect of ours, and no datagram may stop the
// collector. It returns the next to decode.
func (l *loop) some(batch *wire.Batch, i, n int, received int64, octets *int) (next int) {
	records := len(batch.Records)
	defer func() {
		if why := recover(); why != nil {
			batch.Records = batch.Records[:records]
			l.panics.Add(1)
			l.c.log.Error("decoder panicked: a datagram was skipped; please report this", "panic", why)
		}
	}()
	for ; i < n; i++ {
		next = i + 1
		records = len(batch.Records)
		data, from, port, truncated := l.rx.datagram(i)
		*octets += len(data)
		if truncated {
			l.truncated.Add(1)
		}
		l.dec.Decode(batch, wire.Source{Addr: from, Port: port}, received, data) // what is refused is counted inside
	}
	return n
}

// countDrops takes the kernel's counter, which wraps, into ours.
func (l *loop) countDrops() {
	l.dropsMu.Lock()
	defer l.dropsMu.Unlock()
	if l.passed {
		return
	}
	if now, ok := dropsOf(l.conn); ok {
		l.drops.Add(uint64(now - l.lastDrops))
		l.lastDrops = now
	}
}
