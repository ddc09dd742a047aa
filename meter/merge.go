package meter

import (
	"weir/cache"
	"weir/flow"
)

// merger orders what left the caches by (end, key) and hands the records on.
type merger struct {
	meter    *Meter
	config   *cache.Config
	recorder cache.Recorder
	sorter   cache.Sorter
	limit    int // entries that may wait for their second to be over
	waiting  []*cache.Batch
	later    []*cache.Gone // of waiting, those that are not in the sorter
	count    int           // what waits
	old      []*cache.Batch
	free     []*cache.Batch
	clock    uint32 // of the caches, at the last block's end
	records  []flow.Record
	told     cache.Told // of records
	given    uint64
	lost     cache.Lost
	err      error
	touch    uint64 // keeps reads that only fetch from being optimised away
}

// recordBatch is how many records are handed on at a time.
const recordBatch = 512

func newMerger(m *Meter, cfg *cache.Config) *merger {
	entries := cfg.Entries
	if entries <= 0 {
		entries = cache.DefaultEntries
	}
	return &merger{
		meter: m, config: cfg, recorder: cache.NewRecorder(cfg),
		limit:   max(entries, 64<<10),
		records: make([]flow.Record, 0, recordBatch),
	}
}

// take keeps what has left a cache, and gives an empty batch for it. What ends
// with the second that is under way, which is most, goes to the sorter while it
// is still in the processor's cache.
func (o *merger) take(b *cache.Batch) *cache.Batch {
	o.waiting = append(o.waiting, b)
	n := b.Len()
	o.count += n
	for i := range n {
		if g := b.At(i); g.End() == o.clock+1 {
			o.sorter.Add(g)
		} else {
			o.later = append(o.later, g)
		}
	}
	return o.empty()
}

func (o *merger) empty() *cache.Batch {
	n := len(o.free)
	if n == 0 {
		return o.config.NewBatch()
	}
	b := o.free[n-1]
	o.free = o.free[:n-1]
	return b
}

// blockEnd hands on what ended in seconds that are over; all that left has been
// taken. Should more than the table holds end in one second, its records come
// in several ordered runs.
func (o *merger) blockEnd(clock uint32) {
	if o.count >= o.limit {
		o.write(clock + 1)
	} else if clock > o.clock {
		o.write(clock)
	}
	if o.clock = clock; o.sorter.Len() > 0 || len(o.later) == 0 {
		return
	}
	// What had to leave since the last tick ends with the next.
	for _, g := range o.later {
		o.sorter.Add(g)
	}
	o.later = o.later[:0]
}

// write hands on what ended up to a second of the caches' clock. What is left
// moves to other batches.
func (o *merger) write(end uint32) {
	if o.count == 0 {
		return
	}
	rest := o.later[:0]
	for _, g := range o.later {
		if g.End() <= end {
			o.sorter.Add(g)
		} else {
			rest = append(rest, g)
		}
	}
	o.sorted()
	o.count -= o.sorter.Len()
	o.sorter.Reset()
	old := o.waiting
	o.waiting, o.old = o.old[:0], old
	var to *cache.Batch
	for i, g := range rest {
		if to == nil || to.Full() {
			to = o.empty()
			to.Reset()
			o.waiting = append(o.waiting, to)
		}
		rest[i] = to.Append(g)
	}
	o.later = rest
	o.free = append(o.free, old...)
}

// sorted hands on what is in the sorter.
func (o *merger) sorted() {
	o.sorter.Sort()
	n := o.sorter.Len()
	var touch uint64
	for i := 0; i < n; {
		to := min(n, i+recordBatch-len(o.records))
		for j := i; j < to; j++ { // their misses overlap
			g := o.sorter.At(j)
			touch ^= g.Packets ^ uint64(g.Last)
		}
		for ; i < to; i++ {
			if len(o.records) == 0 {
				o.recorder.Begin(&o.told, recordBatch)
			}
			o.records = o.records[:len(o.records)+1]
			g, r := o.sorter.At(i), &o.records[len(o.records)-1]
			o.recorder.Fill(g, r)
			o.recorder.Tell(g, r, &o.told)
		}
		if len(o.records) == recordBatch {
			o.flush()
		}
	}
	o.meter.publishMerged(o.given, o.lost)
	o.touch ^= touch
}

func (o *merger) flush() {
	batch := o.records
	if o.records = o.records[:0]; len(batch) == 0 {
		return
	}
	if o.err == nil {
		if o.err = o.meter.sink.WriteRecords(batch); o.err == nil {
			o.given += uint64(len(batch))
			return
		}
	}
	for i := range batch {
		packets, octets := batch[i].Total()
		o.lost.Records++
		o.lost.Packets += packets
		o.lost.Bytes += octets
	}
}

// drain ends all flows of the caches.
func (o *merger) drain(caches ...*cache.Cache) {
	for _, g := range o.later {
		o.sorter.Add(g)
	}
	for _, c := range caches {
		for g := range c.Leave(flow.EndForced) {
			o.sorter.Add(g)
		}
	}
	o.sorted()
	o.waiting, o.later, o.count = nil, nil, 0
	o.flush()
	o.meter.publishMerged(o.given, o.lost)
}
