package cache

import "weir/flow"

// batchSize is how many entries that left are handed on at a time.
const batchSize = 256

// out hands on what leaves: to Config.Gone, or as records to the sink.
type out struct {
	batch    *Batch
	hook     func(*Batch) *Batch
	sink     flow.Sink
	recorder Recorder
	records  []flow.Record
	told     Told
	given    uint64
	err      error
	lost     Lost
}

// Batch holds entries that left, in the order in which they did.
type Batch struct {
	gone   [batchSize]Gone // places of each, of which the first is the entry's
	places int
	n      int // entries
}

// NewBatch is an empty batch for what leaves a cache of c.
func (c *Config) NewBatch() *Batch { return &Batch{places: int(placesOf(&c.Select))} }

// Len is how many entries the batch holds.
func (b *Batch) Len() int { return b.n }

// At is entry i.
func (b *Batch) At(i int) *Gone { return &b.gone[i*b.places] }

// Full says that there is no room for another.
func (b *Batch) Full() bool { return (b.n+1)*b.places > batchSize }

// next is room for another, if the batch is not full.
func (b *Batch) next() *Gone {
	b.n++
	return b.At(b.n - 1)
}

// Append copies g to the batch, which has room, and says where it is now.
func (b *Batch) Append(g *Gone) *Gone {
	to := b.next()
	*to = *g
	if b.places > 1 && g.Mark&(goneAggregate|goneCatchAll) == 0 {
		copyWide(&to.Entry, &g.Entry, uint32(b.places))
	}
	return to
}

// Reset empties the batch.
func (b *Batch) Reset() { b.n = 0 }

func (o *out) init(cfg *Config, sink flow.Sink) {
	o.hook, o.sink, o.recorder = cfg.Gone, sink, NewRecorder(cfg)
	o.batch = cfg.NewBatch()
	if o.hook == nil {
		o.records = make([]flow.Record, batchSize)
	}
}

// next is room for one more.
func (o *out) next() *Gone {
	if o.batch.Full() {
		o.flush()
	}
	return o.batch.next()
}

// take hands on what has left.
func (o *out) take(g *Gone) {
	if o.batch.Full() {
		o.flush()
	}
	o.batch.Append(g)
}

func (o *out) flush() {
	b := o.batch
	if b.Len() == 0 {
		return
	}
	if o.hook != nil {
		o.given += uint64(b.Len())
		o.batch = o.hook(b)
		o.batch.Reset()
		return
	}
	records := o.records[:b.Len()]
	o.recorder.Begin(&o.told, len(records))
	for i := range records {
		o.recorder.Fill(b.At(i), &records[i])
		o.recorder.Tell(b.At(i), &records[i], &o.told)
	}
	defer b.Reset()
	if o.err == nil {
		if o.err = o.sink.WriteRecords(records); o.err == nil {
			o.given += uint64(len(records))
			return
		}
	}
	for i := range records {
		g := b.At(i)
		o.lost.Records++
		o.lost.Packets += g.Packets
		o.lost.Bytes += g.Bytes
	}
}

// emit hands on what e has counted.
func (c *Cache) emit(slot uint32, e *Entry, end uint32, why flow.EndReason) {
	e.Incarnation++
	g := c.out.next()
	g.Entry = *e
	if c.wide != nil {
		copyWide(&g.Entry, e, c.places)
	}
	c.gone(g, slot, end, uint8(why))
}

// gone writes what an entry's fields mean once it has left.
func (c *Cache) gone(g *Gone, slot, end uint32, mark uint8) *Gone {
	g.State = c.base*c.regionSets*ways + slot
	g.Until = end
	g.Mark = mark
	return g
}

// Err is the first error of the sink. Records after it are counted as lost.
func (c *Cache) Err() error { return c.out.err }

// Losses is the cache's part of the ledger. What is refused a place is not
// lost: it is counted in aggregates, which leave as records.
func (c *Cache) Losses() []flow.Loss { return c.out.lost.Losses() }

// Losses is l as the ledger has it.
func (l Lost) Losses() []flow.Loss {
	return []flow.Loss{{
		Stage: "cache", Reason: SinkFailed, Records: l.Records, Packets: l.Packets, Bytes: l.Bytes,
		Help: "What takes the records failed, and what was metered could not be handed on: see the error it ended with.",
	}}
}

// SinkFailed is the one reason for which metered packets are lost.
const SinkFailed = "sink-failed"

// Stats are a cache's counters.
type Stats struct {
	Packets, Bytes uint64                       // added
	Created        uint64                       // flows entered
	Expired        [flow.EndResource + 1]uint64 // flows that left, by reason; EndActive: deltas, the flow stayed
	Records        uint64                       // handed on
	Entries, Peak  uint64                       // flows in the table, and the most there were
	Capacity       uint64
	Refused        uint64 // packets that found no place, counted in aggregates
	Aggregates     uint64 // overflow aggregates in use
	Backwards      uint64 // packets with a time before one already seen
	Sweeps         uint64 // passes over the table for what is due
	Memory         uint64 // octets of the table, when it is full
	Lost           Lost   // what the sink did not take
}

// Lost is metered and not handed on.
type Lost struct{ Records, Packets, Bytes uint64 }

// Add sums counters up; Peak is the sum of peaks.
func (s *Stats) Add(t *Stats) {
	s.Packets += t.Packets
	s.Bytes += t.Bytes
	s.Created += t.Created
	for i, n := range t.Expired {
		s.Expired[i] += n
	}
	s.Records += t.Records
	s.Entries += t.Entries
	s.Peak += t.Peak
	s.Capacity += t.Capacity
	s.Refused += t.Refused
	s.Aggregates += t.Aggregates
	s.Backwards += t.Backwards
	s.Sweeps += t.Sweeps
	s.Memory += t.Memory
	s.Lost.Records += t.Lost.Records
	s.Lost.Packets += t.Lost.Packets
	s.Lost.Bytes += t.Lost.Bytes
}

// Stats returns the counters.
func (c *Cache) Stats() Stats {
	s := c.stats
	s.Records = c.out.given
	if c.out.hook != nil {
		s.Records += uint64(c.out.batch.Len())
	}
	s.Entries = c.live
	s.Memory = c.memory()
	s.Lost = c.out.lost
	if c.overflow != nil {
		s.Aggregates = uint64(c.overflow.live)
	}
	return s
}
