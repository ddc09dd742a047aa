package meter

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"weir/cache"
	"weir/capture"
	"weir/flow"
)

const (
	// lastReads bounds how long a live source is read on after the end, for
	// what its ring still holds.
	lastReads = time.Second
	// setBack is how far the machine's clock must jump back to begin anew.
	setBack = 2 * time.Second
	// downWait is the pause before an interface that is down is tried again.
	downWait = 200 * time.Millisecond
)

// RunLive meters sources at the same time until ctx ends or all of them have
// ended; then what was captured until then is metered and drained. It does not
// close them.
func (m *Meter) RunLive(ctx context.Context, sources ...capture.Source) error {
	shared := &sharedSink{sink: m.sink}
	var all []*live
	boot, chooser := uint16(rand.Uint32()), rand.Uint64()
	for i, src := range sources {
		cfg := m.cfg.Cache
		cfg.Offline, cfg.Gone = false, nil
		cfg.Sampling = m.cfg.Rate()
		cfg.Number = uint8(i)
		if cfg.Seed == 0 {
			cfg.Seed = rand.Uint64() // nobody may know who shares a set with whom
		}
		if cfg.Boot == 0 {
			cfg.Boot = boot
		}
		c, err := cache.New(cfg, shared)
		if err != nil {
			return err
		}
		defer c.Close()
		r := m.newReader(i)
		cfg.Seed = chooser // of flows: the same at all sources
		r.flows = cache.NewFlowSampler(cfg, m.cfg.SampleFlows)
		all = append(all, &live{meter: m, number: i, source: src, cache: c, reader: r, block: newBlock(&cfg), ask: make(chan question), ended: make(chan struct{})})
	}
	m.mu.Lock()
	for _, l := range all {
		if s, ok := l.source.(capture.Stats); ok {
			m.drops = append(m.drops, s.Stats)
		}
	}
	m.live = all
	m.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	for i, l := range all {
		wg.Go(func() {
			errs[i] = l.run(ctx)
			if l.cache.Err() != nil {
				cancel(l.cache.Err()) // nobody takes records any more
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// live meters one source.
type live struct {
	meter  *Meter
	number int
	source capture.Source
	cache  *cache.Cache
	reader *reader
	ask    chan question
	ended  chan struct{} // no more answers
	block  *block
}

func (l *live) run(ctx context.Context) error {
	defer close(l.ended)
	defer l.publish()
	defer l.cache.Drain(flow.EndForced)
	batch := capture.Batch{Packets: make([]capture.Packet, 0, readPackets)}
	last := time.Now().UnixNano()
	for ctx.Err() == nil {
		err := l.source.Read(&batch)
		l.add(batch.Packets)
		now := time.Now().UnixNano()
		if now < last-int64(setBack) {
			l.cache.Restart(flow.EndForced, now)
		}
		l.cache.Tick(now)
		last = now
		l.publish()
		l.answer(len(batch.Packets) == 0)
		switch {
		case l.cache.Err() != nil:
			return l.cache.Err()
		case err == nil:
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, capture.ErrDown):
			select {
			case <-ctx.Done():
			case <-time.After(downWait):
			}
		default:
			return err
		}
	}
	// What came in before the end counts: until the ring is empty, or gives
	// packets of after the end.
	end := time.Now()
	for time.Since(end) < lastReads {
		err := l.source.Read(&batch)
		l.add(batch.Packets)
		if n := len(batch.Packets); err != nil || n == 0 || batch.Packets[n-1].Time > end.UnixNano() {
			break
		}
	}
	return nil
}

func (l *live) add(packets []capture.Packet) {
	b := l.block
	n := 0
	for i := range packets {
		if !l.reader.decode(&packets[i], &b.infos[n], b.moreAt(n)) {
			continue
		}
		if n++; n == len(b.infos) {
			b.add(l.cache, 0, n)
			n = 0
		}
	}
	b.add(l.cache, 0, n)
}

func (l *live) publish() {
	l.meter.publishAccount(l.number, &l.reader.account)
	l.meter.publishCache(l.number, l.cache.Stats())
}

// sharedSink lets several caches hand on to one sink.
type sharedSink struct {
	mu   sync.Mutex
	sink flow.Sink
}

func (s *sharedSink) WriteRecords(batch []flow.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sink.WriteRecords(batch)
}
