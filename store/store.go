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
//
//	DIR/lock           the writer's lock
//	DIR/catalogue      which files are the store (see catalogue.go)
//	DIR/flows/         the segments, and files that were replaced a moment ago
//	DIR/quarantine/    what could not be read, for a person to look at
//
// The life of a record: WriteRecords copies it into the columns of a buffer. At
// the latest Options.Cut after the buffer's first record, Run writes it as one
// segment: temporary file, sync, rename, sync of the folder, then a new
// catalogue in the same way. From there on the record is durable and visible.
// So a crash loses at most the last Cut and the time of one write. Later Run
// merges the small segments of an hour into large ones, sorted, in one
// replacement of the catalogue.
//
// A Store is no flow.Syncer. Whoever syncs does so after every few hundred
// records, thousands of times a second when much is due: a segment each would be
// a sync of the disk each, and files without number, while waiting for the cut
// would hold up the flow table for seconds. What a crash may lose stays what it
// is for records from elsewhere: those of the last Cut.
package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"weir/flow"
)

// Options of a Store. The zero value is usable.
type Options struct {
	Cut         time.Duration // a segment is cut at the latest so long after its first record; default 3s, at most 5s
	SegmentRows int           // ... or when it has so many rows; default 256 Ki
	Buffers     int           // segments in memory at a time (one filling, the others being written); default 4, at least 2
	CompactRows int           // rows of a compacted segment at most: bounds compaction's memory; default 512 Ki
	NoCompact   bool          // leave the cuts as they are

	MaxBytes int64         // retention by size of all files; 0: no limit
	MaxAge   time.Duration // retention by time of receipt; 0: no limit
	MinFree  int64         // retention by free octets of the file system; 0: no limit
	Grace    time.Duration // replaced files stay so long for running queries; default 2m

	Log *slog.Logger     // nil: silent
	Now func() time.Time // the clock; nil: time.Now

	disk disk // for tests
}

const (
	maxCut      = 5 * time.Second
	retryPause  = time.Second // between attempts of a write that failed
	maxElements = 64 << 20    // octets of elements in a segment
)

func (o *Options) defaults() error {
	o.Cut = cmp.Or(o.Cut, 3*time.Second)
	o.SegmentRows = cmp.Or(o.SegmentRows, 256<<10)
	o.Buffers = cmp.Or(o.Buffers, 4)
	o.CompactRows = cmp.Or(o.CompactRows, 1<<19)
	o.Grace = cmp.Or(o.Grace, 2*time.Minute)
	switch {
	case o.Cut < 0 || o.Cut > maxCut:
		return fmt.Errorf("store: cut %v: it must be above 0 and at most %v", o.Cut, maxCut)
	case o.SegmentRows < 1 || o.SegmentRows > 1<<24:
		return fmt.Errorf("store: segment rows %d: 1 to %d", o.SegmentRows, 1<<24)
	case o.Buffers < 2:
		return fmt.Errorf("store: %d buffers: one fills while another is written, so at least 2", o.Buffers)
	case o.CompactRows < 1 || o.CompactRows > 1<<24:
		return fmt.Errorf("store: compact rows %d: 1 to %d", o.CompactRows, 1<<24)
	case o.MaxBytes < 0 || o.MaxAge < 0 || o.MinFree < 0 || o.Grace < 0:
		return errors.New("store: retention and grace must not be negative")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.disk == nil {
		o.disk = osDisk{}
	}
	return nil
}

var (
	// ErrLocked is returned by Open when another process writes to the store.
	ErrLocked = errors.New("another process writes to this store")
	// ErrClosed is returned by WriteRecords after Close.
	ErrClosed = errors.New("the store is closed")
)

// buffer is a batch on its way to becoming a segment.
type buffer struct {
	batch
	since  time.Time // of its first record
	id     uint64    // the segment's ID, given at the first attempt to write it
	listed bool      // the catalogue has it, but is not known to be durable
}

// Store is the one writer of a store. WriteRecords may be called from many
// goroutines, before and while Run runs.
type Store struct {
	dir  string
	o    Options
	lock *os.File
	wake chan struct{} // there is something to write, or a first record

	mu      sync.Mutex // what WriteRecords touches
	filling *buffer    // nil: none is free
	full    []*buffer  // to be written, in this order
	free    []*buffer
	made    int // buffers made
	closed  bool
	failing string // the last write's error
	stats   Stats
	losses  [numLoss]flow.Loss

	writing sync.Mutex // held while buffers are written
	enc     *encoder

	merging sync.Mutex // held while segments are merged or expired
	mergeIn *merger

	catMu sync.Mutex
	cat   *catalogue
}

// Indexes of Store.losses.
const (
	lossFull = iota
	lossIO
	lossCorrupt
	numLoss
)

func newLosses() [numLoss]flow.Loss {
	return [numLoss]flow.Loss{
		lossFull:    {Stage: "store", Reason: "store-full", Help: "Records came faster than the disk takes them and all buffers were full: give the store a faster disk, or more buffers."},
		lossIO:      {Stage: "store", Reason: "store-io", Help: "The disk refused to be written (see the log) and the buffers were full: free space or repair it; the store goes on by itself."},
		lossCorrupt: {Stage: "store", Reason: "store-corrupt", Help: "A segment was found broken and put into the folder quarantine: suspect the disk."},
	}
}

// Open opens or makes the store in dir. It takes the writer's lock, finishes
// what a crash left half done and starts nothing: see Run.
func Open(dir string, o Options) (*Store, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	for _, d := range []string{dir, filepath.Join(dir, flowsDir)} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
	}
	lock, err := lockDir(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", dir, err)
	}
	s := &Store{dir: dir, o: o, lock: lock, wake: make(chan struct{}, 1), enc: newEncoder(zstd.SpeedFastest), losses: newLosses()}
	s.mergeIn = &merger{store: s}
	if err := s.recover(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("store %s: %w", dir, err)
	}
	return s, nil
}

// WriteRecords copies the batch into memory. It never waits for the disk: what
// finds no room is counted (see Losses). A record without a time of receipt,
// as metered ones are, gets the present time.
func (s *Store) WriteRecords(records []flow.Record) error {
	if len(records) == 0 {
		return nil
	}
	now := s.o.Now()
	us := now.UnixMicro()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	wake := false
	for i := range records {
		b := s.filling
		if b == nil {
			if b = s.take(); b == nil {
				s.lose(records[i:])
				break
			}
			b.since = now
			s.filling = b
			wake = true
		}
		b.add(&records[i], us)
		s.stats.Records++
		if b.rows() >= s.o.SegmentRows || len(b.text) >= maxElements {
			s.full = append(s.full, b)
			s.filling = nil
			wake = true
		}
	}
	if wake {
		s.poke()
	}
	return nil
}

// take gives an empty buffer or nil.
func (s *Store) take() *buffer {
	if n := len(s.free); n > 0 {
		b := s.free[n-1]
		s.free = s.free[:n-1]
		return b
	}
	if s.made < s.o.Buffers {
		s.made++
		return &buffer{}
	}
	return nil
}

// lose counts records that found no room. It has s.mu.
func (s *Store) lose(records []flow.Record) {
	l := &s.losses[lossFull]
	if s.failing != "" {
		l = &s.losses[lossIO]
	}
	l.Records += uint64(len(records))
	for i := range records {
		if r := &records[i]; r.Has&flow.HasPackets != 0 {
			l.Packets += r.Packets
		}
		if r := &records[i]; r.Has&flow.HasBytes != 0 {
			l.Bytes += r.Bytes
		}
	}
}

func (s *Store) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run cuts, compacts and applies retention until ctx ends; then it writes what
// is buffered and returns why it could not, or nil.
func (s *Store) Run(ctx context.Context) error {
	var tidy sync.WaitGroup
	tidy.Go(func() { s.tidy(ctx) })
	defer tidy.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.Flush()
		case <-s.wake:
		case <-timer.C:
		}
		timer.Reset(s.cutDue())
	}
}

// cutDue writes what is full or old enough, and says when to come again.
func (s *Store) cutDue() time.Duration {
	s.mu.Lock()
	wait := maxCut
	if b := s.filling; b != nil {
		if wait = s.o.Cut - s.o.Now().Sub(b.since); wait <= 0 {
			s.full = append(s.full, b)
			s.filling = nil
			wait = maxCut
		}
	}
	s.mu.Unlock()
	if err := s.writeFull(); err != nil {
		return retryPause
	}
	return max(wait, time.Millisecond)
}

// Flush writes what is buffered and returns when it is durable, or why not; in
// that case it stays buffered.
func (s *Store) Flush() error {
	s.mu.Lock()
	if s.filling != nil {
		s.full = append(s.full, s.filling)
		s.filling = nil
	}
	s.mu.Unlock()
	return s.writeFull()
}

// writeFull writes the full buffers in their order. At an error the rest waits.
func (s *Store) writeFull() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	for {
		s.mu.Lock()
		if len(s.full) == 0 {
			s.mu.Unlock()
			return nil
		}
		b := s.full[0]
		s.mu.Unlock()

		err := s.writeSegment(b)
		s.mu.Lock()
		if err != nil {
			if s.failing == "" {
				s.o.Log.Error("cannot write; records wait in memory", "err", err)
			}
			s.failing = err.Error()
			s.mu.Unlock()
			return err
		}
		if s.failing != "" {
			s.o.Log.Info("writing again")
			s.failing = ""
		}
		s.full = slices.Delete(s.full, 0, 1)
		s.stats.Durable += uint64(b.rows())
		s.stats.Cuts++
		b.reset()
		b.id, b.listed = 0, false
		s.free = append(s.free, b)
		s.mu.Unlock()
	}
}

// writeSegment makes one buffer durable. After an error it may be called again:
// it then goes on where it stopped.
func (s *Store) writeSegment(b *buffer) error {
	if b.listed {
		return s.o.disk.syncDir(s.dir)
	}
	if b.id == 0 {
		b.id = s.newID()
	}
	seg := Segment{ID: b.id, Made: s.o.Now().UnixMicro()}
	b.summary(&seg)
	if err := s.writeRows(&seg, s.enc, b.whole); err != nil {
		return err
	}
	err := s.change(func(c *catalogue) error { c.add(seg); return nil })
	b.listed = err != nil && s.live(seg.ID)
	return err
}

// newID gives the next segment's ID.
func (s *Store) newID() uint64 {
	s.catMu.Lock()
	defer s.catMu.Unlock()
	id := s.cat.next
	s.cat.next++
	return id
}

// writeRows writes the file of seg, which it completes.
func (s *Store) writeRows(seg *Segment, e *encoder, group func(lo, hi int) (*batch, int)) error {
	at := time.UnixMicro(seg.MinRecv).UTC().Format("20060102T150405")
	seg.File = fmt.Sprintf("%s/%s-%08d-%d.parquet", flowsDir, at, seg.ID, seg.Level)
	start := time.Now()
	var encoded time.Duration
	_, err := writeFile(s.o.disk, s.path(seg.File), func(f file) error {
		err := e.write(f, seg, group)
		encoded = time.Since(start)
		return err
	})
	s.mu.Lock()
	s.stats.EncodeTime += encoded
	s.stats.SyncTime += time.Since(start) - encoded
	s.mu.Unlock()
	return err
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// change replaces the catalogue by what edit makes of a copy. If edit or the
// disk refuses, everything stays as it was; if only the last sync failed, the
// change is made and the error says that it is not known to be durable.
func (s *Store) change(edit func(*catalogue) error) error {
	s.catMu.Lock()
	defer s.catMu.Unlock()
	c := s.cat.clone()
	if err := edit(c); err != nil {
		return err
	}
	data, err := c.encode()
	if err != nil {
		return err
	}
	done, err := writeFile(s.o.disk, s.path(catalogueFile), func(f file) error {
		_, err := f.Write(data)
		return err
	})
	if done {
		s.cat = c
	}
	return err
}

// live says whether the catalogue has the segment.
func (s *Store) live(id uint64) bool {
	s.catMu.Lock()
	defer s.catMu.Unlock()
	return slices.ContainsFunc(s.cat.segments, func(g Segment) bool { return g.ID == id })
}

// Close writes what is buffered and gives up the lock. WriteRecords fails from
// then on; what could not be written is counted.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	err := s.Flush()
	s.mu.Lock()
	for _, b := range s.full {
		packets, octets := b.totals()
		l := &s.losses[lossIO]
		l.Records += uint64(b.rows())
		l.Packets += packets
		l.Bytes += octets
	}
	s.full = nil
	s.mu.Unlock()
	s.merging.Lock() // a merge that still runs ends first
	defer s.merging.Unlock()
	return errors.Join(err, s.lock.Close())
}

// Losses lists what was lost, by reason, zeros included.
func (s *Store) Losses() []flow.Loss {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.losses[:])
}

// Segments lists the live segments, oldest first.
func (s *Store) Segments() []Segment {
	s.catMu.Lock()
	defer s.catMu.Unlock()
	return slices.Clone(s.cat.segments)
}

// Stats says how the store is.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	st := s.stats
	st.Failing = s.failing
	st.Quarantined = slices.Clone(st.Quarantined)
	oldest := time.Time{}
	count := func(b *buffer) {
		st.Buffered += uint64(b.rows())
		if oldest.IsZero() || b.since.Before(oldest) {
			oldest = b.since
		}
	}
	for _, b := range s.full {
		count(b)
	}
	if s.filling != nil {
		count(s.filling)
	}
	s.mu.Unlock()
	if !oldest.IsZero() {
		st.UnflushedAge = s.o.Now().Sub(oldest)
	}
	st.Dir = s.dir
	s.catMu.Lock()
	defer s.catMu.Unlock()
	var b bounds
	for i := range s.cat.segments {
		g := &s.cat.segments[i]
		st.Segments++
		st.Rows += g.Rows
		st.Bytes += uint64(g.Size)
		b.add(g.MinTime)
		b.add(g.MaxTime)
	}
	st.First, st.Last = b.min, b.max
	for _, r := range s.cat.retired {
		st.RetiredBytes += uint64(r.Size)
	}
	return st
}

// Stats of a Store, for "show store" and metrics. Counters count since Open.
type Stats struct {
	Dir           string
	Segments      int
	Rows, Bytes   uint64        // of the live segments
	RetiredBytes  uint64        // of replaced files that wait to be unlinked
	First, Last   int64         // event times, Unix µs; 0: empty
	Records       uint64        // taken into memory
	Durable       uint64        // of these, written and synced
	Buffered      uint64        // of these, not yet durable
	UnflushedAge  time.Duration // of the oldest of those
	Cuts          uint64        // segments cut
	Compactions   uint64        // merges done
	CompactedRows uint64        // rows they wrote
	Expired       uint64        // segments that retention took
	Quarantined   []string      // files found broken
	Failing       string        // the last write's error; "" when it went well
	EncodeTime    time.Duration // spent on encoding and handing to the kernel
	SyncTime      time.Duration // spent on waiting for the disk
}

// Segment is one file of the store, as the catalogue has it. Times are Unix µs.
type Segment struct {
	ID       uint64 `json:"id"`
	File     string `json:"file"`  // below the store's folder
	Level    int    `json:"level"` // 0: as cut; 1: a merge of cuts; 2: final
	Rows     uint64 `json:"rows"`
	Size     int64  `json:"size"`
	CRC      uint32 `json:"crc"` // CRC-32C of the file
	Packets  uint64 `json:"packets"`
	Bytes    uint64 `json:"bytes"`
	MinFirst int64  `json:"min_first"` // over the rows that know it
	MaxFirst int64  `json:"max_first"`
	MinLast  int64  `json:"min_last"`
	MaxLast  int64  `json:"max_last"`
	NoFirst  uint64 `json:"no_first,omitempty"` // rows that do not know it
	NoLast   uint64 `json:"no_last,omitempty"`
	MinRecv  int64  `json:"min_recv"`
	MaxRecv  int64  `json:"max_recv"`
	MinTime  int64  `json:"min_time"` // event time: last, else first, else received
	MaxTime  int64  `json:"max_time"`
	Made     int64  `json:"made"` // when the file was written

	Replaces []uint64 `json:"replaces,omitempty"` // in the file only: all the segments it is made of
}
