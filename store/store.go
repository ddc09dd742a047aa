// Package store keeps flow records on disk: immutable Parquet segments in one
// folder, listed by a checksummed catalogue.
//
// In: flow.Record batches (a Store is a flow.Sink). Out: Parquet files that any
// tool can read, and a Reader that says which of them hold a span of time.
//
// Units: times are Unix microseconds in the files and the catalogue, UTC;
// counters are as metered or exported. A Store has one writer process (flock);
// readers in any process neither lock nor block, because nothing that a
// catalogue names is ever changed.
package store

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"weir/flow"
)

// Options of a Store. The zero value is usable.
type Options struct {
	Cut         time.Duration // a segment is cut at the latest so long after its first record; default 3s, at most 5s
	SegmentRows int           // ... or when it has so many rows; default 256 Ki
	Buffers     int           // segments in memory at a time (one filling, the others being written); default 4, at least 2
	CompactRows int           // rows of a compacted segment at most: bounds compaction's memory; default 1 Mi
	NoCompact   bool          // leave the cuts as they are

	MaxBytes int64         // retention by size of all files; 0: no limit
	MaxAge   time.Duration // retention by time of receipt; 0: no limit
	MinFree  int64         // retention by free octets of the file system; 0: no limit
	Grace    time.Duration // replaced files stay so long for running queries; default 2m

	Log *slog.Logger     // nil: silent
	Now func() time.Time // the clock; nil: time.Now
}

// ErrLocked is returned by Open when another process writes to the store.
var ErrLocked = errors.New("another process writes to this store")

// Store is the one writer of a store. WriteRecords may be called from many
// goroutines, before and while Run runs.
type Store struct{}

// Open opens or makes the store in dir. It takes the writer's lock, finishes
// what a crash left half done and starts nothing: see Run.
func Open(dir string, o Options) (*Store, error) { return nil, errors.New("not yet") }

// Run cuts, compacts and applies retention until ctx ends; then it writes what
// is buffered and returns nil.
func (s *Store) Run(ctx context.Context) error { return nil }

// WriteRecords copies the batch into memory. It never waits for the disk: what
// finds no room is counted (see Losses). A metered record without a time of
// receipt gets the present time.
func (s *Store) WriteRecords(batch []flow.Record) error { return nil }

// Flush writes what is buffered and returns when it is durable, or why not.
func (s *Store) Flush() error { return nil }

// Close writes what is buffered and gives up the lock. WriteRecords fails from
// then on.
func (s *Store) Close() error { return nil }

// Losses lists what was lost, by reason, zeros included.
func (s *Store) Losses() []flow.Loss { return nil }

// Stats says how the store is.
func (s *Store) Stats() Stats { return Stats{} }

// Segments lists the live segments, oldest first.
func (s *Store) Segments() []Segment { return nil }

// Stats of a Store, for "show store" and metrics.
type Stats struct {
	Dir                  string
	Segments             int
	Rows, Bytes          uint64 // in live segments
	RetiredBytes         uint64 // in files that wait to be unlinked
	First, Last          int64  // event times, Unix µs; 0: empty
	Records, Durable     uint64 // taken; written and synced since Open
	Buffered             uint64 // taken, not yet durable
	UnflushedAge         time.Duration
	Cuts, Compactions    uint64
	CompactedRows        uint64
	Expired              uint64 // segments that retention took
	Quarantined          []string
	Failing              string // the last write's error, "" when it went well
	EncodeTime, SyncTime time.Duration
}

// Segment is one file of the store, as the catalogue has it.
type Segment struct {
	ID       uint64 `json:"id"`
	File     string `json:"file"`  // name in the store's folder
	Level    int    `json:"level"` // 0: cut; 1: merged cuts; 2: an hour
	Rows     uint64 `json:"rows"`
	Size     int64  `json:"size"`
	CRC      uint32 `json:"crc"` // CRC-32C of the file
	Packets  uint64 `json:"packets"`
	Bytes    uint64 `json:"bytes"`
	MinFirst int64  `json:"min_first"` // Unix µs; over the rows that know it
	MaxFirst int64  `json:"max_first"`
	MinLast  int64  `json:"min_last"`
	MaxLast  int64  `json:"max_last"`
	NoFirst  uint64 `json:"no_first,omitempty"` // rows that do not know it
	NoLast   uint64 `json:"no_last,omitempty"`
	MinRecv  int64  `json:"min_recv"`
	MaxRecv  int64  `json:"max_recv"`
	MinTime  int64  `json:"min_time"` // event time: last, else first, else received
	MaxTime  int64  `json:"max_time"`

	Replaces []uint64 `json:"replaces,omitempty"` // what a merged segment was made of
}
