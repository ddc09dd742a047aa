package cache

import (
	"weir/flow"
	"weir/packet"
)

const maxEntries = 1 << 26

// Gone is an entry that has left the cache: what a record is made of.
type Gone struct{ entry Entry }

// Cache is a flow cache. It belongs to one goroutine.
type Cache struct{ cfg Config }

// New makes a cache; its records go to sink in batches. The table's memory is
// the operating system's: Close gives it back.
func New(cfg Config, sink flow.Sink) (*Cache, error) { return &Cache{cfg: cfg}, cfg.Validate() }

// Add counts packets, in arrival order. It may zero what the key mask leaves out.
func (c *Cache) Add(batch []packet.Info) {}

// Tick moves the clock to now (Unix ns): every whole second up to it that has
// something to decide is swept. A time before the last tick changes nothing.
func (c *Cache) Tick(now int64) {}

// Drain ends all flows for the given reason and hands on every record.
func (c *Cache) Drain(why flow.EndReason) {}

// Err is the first error of the sink. Records after it are counted as lost.
func (c *Cache) Err() error { return nil }

// Close returns the table's memory. What was not drained is lost.
func (c *Cache) Close() error { return nil }

// Stats are a cache's counters.
type Stats struct {
	Packets, Bytes uint64                       // added
	Created        uint64                       // flows entered
	Expired        [flow.EndResource + 1]uint64 // flows that left for good, by reason; active ones stay
	Records        uint64                       // handed on
	Entries, Peak  uint64                       // flows in the table, and the most there were
	Capacity       uint64
	Refused        uint64 // packets that found no place, counted in aggregates
	Aggregates     uint64 // overflow aggregates in use
	Backwards      uint64 // packets with a time before one already seen
}

// Stats returns the counters.
func (c *Cache) Stats() Stats { return Stats{} }

// Losses is the cache's part of the ledger.
func (c *Cache) Losses() []flow.Loss { return nil }

// Entries shows what is in the table as records, without ending anything.
func (c *Cache) Entries(yield func(*flow.Record) bool) {}
