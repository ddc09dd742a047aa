package meter

import (
	"weir/cache"
	"weir/flow"
)

// merger orders what left the caches by (end, key) and hands the records on.
type merger struct {
	meter    *Meter
	recorder cache.Recorder
	sorter   cache.Sorter
	limit    int // entries that may wait for their second to be over
	waiting  []cache.Gone
	clock    uint32 // of the caches, at the last block's end
	records  []flow.Record
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
		meter: m, recorder: cache.NewRecorder(cfg),
		limit:   max(entries, 64<<10),
		records: make([]flow.Record, 0, recordBatch),
	}
}

// take keeps what has left a cache.
func (o *merger) take(gone []cache.Gone) { o.waiting = append(o.waiting, gone...) }

// blockEnd hands on what ended in seconds that are over. Should more than the
// table holds end in one second, its records come in several ordered runs.
func (o *merger) blockEnd(clock uint32) {
	if len(o.waiting) >= o.limit {
		o.write(clock + 1)
	} else if clock > o.clock && len(o.waiting) > 0 {
		o.write(clock)
	}
	o.clock = clock
}

// write hands on what ended up to a second of the caches' clock.
func (o *merger) write(end uint32) {
	o.sorter.Reset()
	for i := range o.waiting {
		if g := &o.waiting[i]; g.End() <= end {
			o.sorter.Add(g)
		}
	}
	o.sorted()
	rest := o.waiting[:0]
	if len(o.waiting) > o.sorter.Len() {
		for i := range o.waiting {
			if g := &o.waiting[i]; g.End() > end {
				rest = append(rest, *g)
			}
		}
	}
	o.waiting = rest
}

// sorted hands on what is in the sorter.
func (o *merger) sorted() {
	o.sorter.Sort()
	n := o.sorter.Len()
	var touch uint64
	for i := 0; i < n; {
		to := min(n, i+recordBatch-len(o.records))
		for j := i; j < to; j++ { // their misses overlap
			touch ^= o.sorter.At(j).Packets
		}
		for ; i < to; i++ {
			o.records = o.records[:len(o.records)+1]
			o.recorder.Fill(o.sorter.At(i), &o.records[len(o.records)-1])
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
		o.lost.Records++
		o.lost.Packets += batch[i].Packets
		o.lost.Bytes += batch[i].Bytes
	}
}

// drain ends all flows of the caches.
func (o *merger) drain(caches ...*cache.Cache) {
	o.sorter.Reset()
	for i := range o.waiting {
		o.sorter.Add(&o.waiting[i])
	}
	for _, c := range caches {
		for g := range c.Leave(flow.EndForced) {
			o.sorter.Add(g)
		}
	}
	o.sorted()
	o.waiting = o.waiting[:0]
	o.flush()
	o.meter.publishMerged(o.given, o.lost)
}
