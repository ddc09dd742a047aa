package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"weir/flow"
)

// Reader reads a store beside its writer, from any process. It takes no lock
// and keeps nothing open. It is safe for concurrent use.
type Reader struct {
	dir string

	mu       sync.Mutex
	stamp    stamp
	segments []Segment
	broken   map[uint64]Segment // left out by Exclude
}

// stamp tells one catalogue from the next.
type stamp struct {
	size  int64
	mtime time.Time
	inode any
}

// OpenReader opens the store in dir for reading.
func OpenReader(dir string) (*Reader, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if !st.IsDir() {
		return nil, fmt.Errorf("store %s: not a folder", dir)
	}
	if _, err := os.Stat(filepath.Join(dir, flowsDir)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("store %s: no store is here (no folder %s)", dir, flowsDir)
		}
		return nil, fmt.Errorf("store: %w", err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	r := &Reader{dir: abs, broken: map[uint64]Segment{}}
	if _, err := r.Segments(); err != nil {
		return nil, err
	}
	return r, nil
}

// Dir is the store's folder, absolute.
func (r *Reader) Dir() string { return r.dir }

// Segments lists the live segments as of now, in the order they were received.
// Their files stay for the writer's grace period after they are replaced; files
// that retention takes may vanish at once. A broken catalogue is made up for
// from the segments themselves.
func (r *Reader) Segments() ([]Segment, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, err := stampOf(filepath.Join(r.dir, catalogueFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("store: %w", err)
	}
	if err == nil && now == r.stamp {
		return r.live(), nil
	}
	c, err := loadCatalogue(r.dir)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("store: %w", err)
		}
		if c, _, err = rebuildCatalogue(r.dir); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
	}
	// The stamp is older than what was read, or of it: at worst it is read twice.
	r.stamp, r.segments = now, c.segments
	return r.live(), nil
}

func (r *Reader) live() []Segment {
	if len(r.broken) == 0 {
		return slices.Clone(r.segments)
	}
	return slices.DeleteFunc(slices.Clone(r.segments), func(s Segment) bool {
		_, broken := r.broken[s.ID]
		return broken
	})
}

// Path of a segment's file.
func (r *Reader) Path(s Segment) string { return filepath.Join(r.dir, s.File) }

// Verify reads a segment whole. The error is a *CorruptError if it is broken.
func (r *Reader) Verify(s Segment) error {
	_, err := readFile(r.Path(s), &s)
	return err
}

// ReadSegment gives the records of a segment to sink, in the order of the file.
// It needs no query engine.
func (r *Reader) ReadSegment(s Segment, sink flow.Sink) error {
	path := r.Path(s)
	data, err := readFile(path, &s)
	if err != nil {
		return err
	}
	f, err := openParquet(path, data)
	if err != nil {
		return err
	}
	var b batch
	var out [256]flow.Record
	for _, g := range f.RowGroups() {
		b.reset()
		if err := readGroup(path, g, &b); err != nil {
			return err
		}
		for lo := 0; lo < b.rows(); lo += len(out) {
			n := min(len(out), b.rows()-lo)
			for i := range n {
				b.record(lo+i, &out[i])
			}
			if err := sink.WriteRecords(out[:n]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Exclude leaves a segment out of what Segments gives from now on.
func (r *Reader) Exclude(s Segment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken[s.ID] = s
}

// Broken lists what Exclude left out, oldest first.
func (r *Reader) Broken() []Segment {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.broken), func(a, b Segment) int { return cmp.Compare(a.ID, b.ID) })
}
