package meter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"weir/cache"
	"weir/capture"
	"weir/flow"
	"weir/packet"
)

// blockPackets is how many packets are handed on at a time.
const blockPackets = 512

// readPackets is how many frames are asked for at a time: few enough that
// their first lines are still in the processor's cache when they are decoded.
const readPackets = 256

// block is a piece of the stream: packets, and the ticks between them.
type block struct {
	infos [blockPackets]packet.Info
	more  []flow.More // of the same packets; nil: nothing is wanted
	n     int
	ticks []tick

	// With several workers: what is whose, and what left their caches.
	hashes [blockPackets]uint64
	work   []share
	clock  uint32 // of the caches, after the block
}

// tick moves the clock to now before packet number at.
type tick struct {
	at  int
	now int64
}

type share struct {
	index []uint16       // of the packets
	ticks []int          // how many of index come before each tick
	gone  []*cache.Batch // what left the share's cache
	spare []*cache.Batch // for it
}

func newBlock(cfg *cache.Config) *block {
	b := new(block)
	if cfg.Select.Wide() {
		b.more = make([]flow.More, blockPackets)
	}
	return b
}

// moreAt is where what more is wanted of packet i goes; nil: nowhere.
func (b *block) moreAt(i int) *flow.More {
	if b.more == nil {
		return nil
	}
	return &b.more[i]
}

// add gives packets from up to to to a cache.
func (b *block) add(c *cache.Cache, from, to int) {
	if b.more == nil {
		c.Add(b.infos[from:to])
	} else {
		c.AddMore(b.infos[from:to], b.more[from:to])
	}
}

// addSome gives a share of the packets to its cache.
func (b *block) addSome(c *cache.Cache, index []uint16) {
	if b.more == nil {
		c.AddSome(b.infos[:b.n], b.hashes[:b.n], index)
	} else {
		c.AddSomeMore(b.infos[:b.n], b.more[:b.n], b.hashes[:b.n], index)
	}
}

func (b *block) reset() {
	b.n, b.ticks = 0, b.ticks[:0]
	for i := range b.work {
		s := &b.work[i]
		s.index, s.ticks = s.index[:0], s.ticks[:0]
	}
}

// RunFiles meters captures one after the other to their end, or until ctx ends;
// then all flows end and their records are handed on. It does not close them.
// After an error of a source the next one is read.
func (m *Meter) RunFiles(ctx context.Context, sources ...capture.Source) error {
	workers := m.cfg.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	cfg := m.cfg.Cache
	cfg.Offline = true
	cfg.Sampling = m.cfg.Rate()
	out := newMerger(m, &cfg)
	r := m.newReader(0)
	var failed []error
	read := func(hand func(*block) (*block, error)) error {
		f := feeder{reader: r, hand: hand}
		f.block, f.err = hand(nil)
		for _, src := range sources {
			if err := f.read(ctx, src); err != nil && f.err == nil {
				failed = append(failed, err)
			}
		}
		return f.end()
	}
	var err error
	if n := min(workers-1, cache.Regions(cfg.Entries)); n > 0 {
		err = m.parallel(cfg, n, r, out, read)
	} else {
		err = m.inline(cfg, r, out, read)
	}
	if err == nil && ctx.Err() == nil {
		switch len(failed) {
		case 0:
		case 1:
			err = failed[0]
		default:
			err = fmt.Errorf("%w; and %d more captures failed", failed[0], len(failed)-1)
		}
	}
	return err
}

// feeder fills blocks.
type feeder struct {
	*reader
	block *block
	hand  func(*block) (*block, error) // takes a full block, gives an empty one
	err   error                        // of hand: nothing is wanted any more
	next  int64                        // the time at which the next tick is
	begun bool
}

// read takes all packets of a source.
func (f *feeder) read(ctx context.Context, src capture.Source) error {
	batch := capture.Batch{Packets: make([]capture.Packet, 0, readPackets)}
	for f.err == nil && ctx.Err() == nil {
		err := src.Read(&batch)
		for i := range batch.Packets {
			b := f.block
			in := &b.infos[b.n]
			if !f.decode(&batch.Packets[i], in, b.moreAt(b.n)) {
				continue
			}
			if in.Time >= f.next || !f.begun {
				f.tick(in.Time)
			}
			if b.n++; b.n == blockPackets {
				if f.block, f.err = f.hand(b); f.err != nil {
					return nil
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *feeder) tick(now int64) {
	const second = 1e9
	f.begun = true
	f.block.ticks = append(f.block.ticks, tick{f.block.n, now})
	rest := now % second
	if rest < 0 {
		rest += second
	}
	if f.next = now - rest + second; f.next < now {
		f.next = now // the end of time
	}
}

// end hands on what is left.
func (f *feeder) end() error {
	if f.err == nil {
		_, f.err = f.hand(f.block)
	}
	return f.err
}

// inline does all work in the caller's goroutine.
func (m *Meter) inline(cfg cache.Config, r *reader, out *merger, read func(func(*block) (*block, error)) error) error {
	cfg.Gone = out.take
	c, err := cache.New(cfg, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	b := newBlock(&cfg)
	err = read(func(full *block) (*block, error) {
		if full == nil {
			return b, nil
		}
		from := 0
		for _, t := range b.ticks {
			b.add(c, from, t.at)
			c.Tick(t.now)
			from = t.at
		}
		b.add(c, from, b.n)
		c.Flush()
		out.blockEnd(c.Clock())
		b.reset()
		m.publishAccount(0, &r.account)
		m.publishShare(0, c)
		return b, out.err
	})
	out.drain(c)
	m.publishShare(0, c)
	if err == nil {
		err = out.err
	}
	return err
}

// parallel reads and decodes in the caller's goroutine, works the caches in n
// others and merges in one more. Every block goes to every worker, which takes
// its share of the packets, so that none is copied; and blocks keep their
// order.
func (m *Meter) parallel(cfg cache.Config, n int, r *reader, out *merger, read func(func(*block) (*block, error)) error) error {
	blocks := 4 + 2*n
	free := make(chan *block, blocks)
	for range blocks {
		b := newBlock(&cfg)
		b.work = make([]share, n)
		for i := range b.work {
			b.work[i].index = make([]uint16, 0, blockPackets)
		}
		free <- b
	}
	// Each channel has room for all blocks: nobody waits but for work.
	workers := make([]*worker, n)
	for i := range workers {
		w := &worker{meter: m, config: &cfg, number: i, todo: make(chan *block, blocks), done: make(chan *block, blocks)}
		own := cfg
		own.Gone = w.take
		var err error
		if w.cache, err = cache.NewShare(own, nil, i, n); err != nil {
			return err
		}
		defer w.cache.Close()
		workers[i] = w
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(w.run)
	}
	wg.Go(func() {
		for {
			var b *block
			for _, w := range workers {
				if b = <-w.done; b == nil {
					return
				}
				s := &b.work[w.number]
				for i, g := range s.gone {
					s.gone[i] = out.take(g)
				}
				s.spare = append(s.spare, s.gone...)
				s.gone = s.gone[:0]
			}
			out.blockEnd(b.clock)
			if out.err != nil {
				stop.Store(true)
			}
			b.reset()
			free <- b
		}
	})
	sharer := cache.NewSharer(cfg, n)
	err := read(func(b *block) (*block, error) {
		if b != nil {
			b.divide(sharer)
			for _, w := range workers {
				w.todo <- b
			}
			m.publishAccount(0, &r.account)
		}
		if stop.Load() {
			return nil, errStopped
		}
		return <-free, nil
	})
	for _, w := range workers {
		close(w.todo)
	}
	wg.Wait()
	caches := make([]*cache.Cache, n)
	for i, w := range workers {
		caches[i] = w.cache
	}
	out.drain(caches...)
	for i, c := range caches {
		m.publishShare(i, c)
	}
	if err == nil || err == errStopped {
		err = out.err
	}
	return err
}

// publishShare leaves out the records, which the merger counts.
func (m *Meter) publishShare(i int, c *cache.Cache) {
	s := c.Stats()
	s.Records = 0
	m.publishCache(i, s)
}

var errStopped = errors.New("the sink failed")

// divide says which packets are whose.
func (b *block) divide(s *cache.Sharer) {
	next := 0
	for i := range b.infos[:b.n] {
		for ; next < len(b.ticks) && b.ticks[next].at == i; next++ {
			b.divideTick()
		}
		var to int
		if b.more == nil {
			b.hashes[i], to = s.Share(&b.infos[i].Key)
		} else {
			b.hashes[i], to = s.ShareMore(&b.infos[i].Key, &b.more[i])
		}
		w := &b.work[to]
		w.index = append(w.index, uint16(i))
	}
	for ; next < len(b.ticks); next++ {
		b.divideTick()
	}
}

func (b *block) divideTick() {
	for i := range b.work {
		w := &b.work[i]
		w.ticks = append(w.ticks, len(w.index))
	}
}

// worker owns one share of the table.
type worker struct {
	meter      *Meter
	config     *cache.Config
	number     int
	cache      *cache.Cache
	block      *block // at work
	todo, done chan *block
}

func (w *worker) run() {
	defer close(w.done)
	for b := range w.todo {
		w.block = b
		s := &b.work[w.number]
		from := 0
		for i, t := range b.ticks {
			b.addSome(w.cache, s.index[from:s.ticks[i]])
			w.cache.Tick(t.now)
			from = s.ticks[i]
		}
		b.addSome(w.cache, s.index[from:])
		w.cache.Flush()
		if w.number == 0 {
			b.clock = w.cache.Clock() // all caches have the same ticks
		}
		w.meter.publishShare(w.number, w.cache)
		w.done <- b
	}
}

// take keeps what has left the cache with the block that was the cause.
func (w *worker) take(full *cache.Batch) *cache.Batch {
	s := &w.block.work[w.number]
	s.gone = append(s.gone, full)
	n := len(s.spare)
	if n == 0 {
		return w.config.NewBatch()
	}
	empty := s.spare[n-1]
	s.spare = s.spare[:n-1]
	return empty
}
