package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"weir/flow"
)

const (
	tidyEvery  = time.Second
	mergeCuts  = 16               // so many cuts of one hour are merged into one segment
	hourSettle = 10 * time.Second // nothing new in an hour that is over for so long: it is complete
)

// tidy merges, expires and unlinks until ctx ends.
func (s *Store) tidy(ctx context.Context) {
	t := time.NewTicker(tidyEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := s.Tidy(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Error("cannot tidy the store; trying again", "err", err)
		}
	}
}

// Tidy does what Run does once a second: it applies retention, unlinks what was
// replaced longer ago than the grace period, and merges segments until nothing
// is left to merge.
func (s *Store) Tidy(ctx context.Context) error {
	s.merging.Lock()
	defer s.merging.Unlock()
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return nil
	}
	err := s.expire()
	if s.o.NoCompact {
		return err
	}
	// An hour's merge needs much memory, seldom.
	defer func() { s.mergeIn = &merger{store: s} }()
	for ctx.Err() == nil {
		parts, level := planMerge(s.Segments(), s.o.Now().UnixMicro(), uint64(s.o.CompactRows))
		if len(parts) == 0 {
			break
		}
		if merr := s.mergeIn.merge(parts, level); merr != nil {
			return errors.Join(err, merr)
		}
	}
	return err
}

// planMerge picks segments to become one of the level. All are of one hour, and
// have at most limit rows together, so the work fits memory.
//
//   - An hour that is over has all its small segments merged, to be final.
//   - In an hour that still gets cuts (the present one, or a past one that is
//     being imported), enough cuts, or enough rows in cuts, are merged, to keep
//     the number of files a query opens low.
//   - What has half the limit or more is final, whatever its hour.
func planMerge(segments []Segment, now int64, limit uint64) (parts []Segment, level int) {
	hours := map[int64][]Segment{}
	var order []int64
	for _, g := range segments {
		if g.Level < 2 {
			h := g.hour()
			if hours[h] == nil {
				order = append(order, h)
			}
			hours[h] = append(hours[h], g)
		}
	}
	slices.Sort(order)
	take := func(from []Segment) (parts []Segment, rows uint64) {
		for _, g := range from {
			if len(parts) > 0 && rows+g.Rows > limit {
				break
			}
			parts = append(parts, g)
			rows += g.Rows
		}
		return parts, rows
	}
	const hour = int64(time.Hour / time.Microsecond)
	for _, h := range order {
		end := (h + 1) * hour
		for _, g := range hours[h] {
			end = max(end, g.Made)
		}
		if now > end+hourSettle.Microseconds() {
			parts, _ := take(hours[h])
			return parts, 2
		}
		cuts := slices.DeleteFunc(slices.Clone(hours[h]), func(g Segment) bool { return g.Level > 0 })
		parts, rows := take(cuts)
		switch {
		case rows*2 >= limit && len(parts) < len(cuts), rows >= limit:
			return parts, 2
		case len(parts) >= mergeCuts:
			if rows*2 >= limit {
				return parts, 2
			}
			return parts, 1
		}
	}
	return nil, 0
}

// merger makes one segment of several. Its memory is used again.
type merger struct {
	store  *Store
	enc    *encoder
	in     batch
	sorted batch
	order  []int32
}

func (m *merger) merge(parts []Segment, level int) error {
	s := m.store
	if m.enc == nil {
		m.enc = newEncoder(zstd.SpeedFastest)
	}
	rows := 0
	for i := range parts {
		rows += int(parts[i].Rows)
	}
	m.in.resize(rows)
	m.in.reset()
	var done []Segment
	out := Segment{Level: level, Made: s.o.Now().UnixMicro()}
	for i := range parts {
		g := &parts[i]
		path := s.path(g.File)
		before := m.in.rows()
		data, err := readFile(path, g)
		if err == nil {
			var meta Segment
			if meta, err = readMeta(path, data); err == nil {
				err = readRows(path, data, &m.in)
				out.Replaces = append(append(out.Replaces, g.ID), meta.Replaces...)
			}
		}
		if err != nil {
			m.in.resize(before)
			if err := s.dropBroken(g, err); err != nil {
				return err
			}
			continue
		}
		done = append(done, *g)
	}
	if m.in.rows() == 0 {
		return nil
	}
	m.in.summary(&out)
	m.sort()
	out.ID = s.newID()
	err := s.writeRows(&out, m.enc, func(lo, hi int) (*batch, int) {
		m.sorted.take(&m.in, m.order[lo:hi])
		return &m.sorted, 0
	})
	if err != nil {
		s.o.disk.remove(s.path(out.File))
		return fmt.Errorf("merging %d segments: %w", len(done), err)
	}
	ids := make([]uint64, len(done))
	for i := range done {
		ids[i] = done[i].ID
	}
	err = s.change(func(c *catalogue) error {
		if !c.drop(ids) {
			return errGone
		}
		c.add(out)
		for i := range done {
			s.retire(c, done[i].File)
		}
		return nil
	})
	if err != nil && !s.live(out.ID) {
		s.o.disk.remove(s.path(out.File))
		if errors.Is(err, errGone) {
			return nil
		}
		return fmt.Errorf("merging %d segments: %w", len(done), err)
	}
	s.mu.Lock()
	s.stats.Compactions++
	s.stats.CompactedRows += out.Rows
	s.mu.Unlock()
	return err
}

var errGone = errors.New("a segment is gone")

// dropBroken takes a segment that cannot be read out of the store.
func (s *Store) dropBroken(g *Segment, why error) error {
	var corrupt *CorruptError
	missing := errors.Is(why, fs.ErrNotExist)
	if !errors.As(why, &corrupt) && !missing {
		return why // the disk, for the moment: it is tried again
	}
	s.o.Log.Error("a segment is broken; put into quarantine", "err", why)
	if err := s.change(func(c *catalogue) error { c.drop([]uint64{g.ID}); return nil }); err != nil {
		return err
	}
	s.countCorrupt(g)
	if missing {
		return nil
	}
	return s.quarantine(g.File)
}

// sort sets m.order: row groups follow event time, so that a query for a span
// of time skips most of them; within a row group the rows are by address, so
// that equal values stand together, which is what compresses and what groups
// fast.
func (m *merger) sort() {
	n := m.in.rows()
	m.order = sized(m.order, n)
	keys := make([]uint64, n)
	var span bounds
	for i := range n {
		span.add(m.in.eventTime(i))
	}
	low := bits.Len(uint(n)) // bits for the row number
	drop := max(0, bits.Len64(uint64(span.max-span.min))+low-64)
	for i := range n {
		keys[i] = uint64(m.in.eventTime(i)-span.min)>>drop<<low | uint64(i)
	}
	slices.Sort(keys)
	for i, k := range keys {
		m.order[i] = int32(k & (1<<low - 1))
	}
	type row struct {
		hi, lo uint64
		at     int32
	}
	rows := make([]row, min(n, groupRows))
	src, dst := m.in.addr[colSrc], m.in.addr[colDst]
	for from := 0; from < n; from += groupRows {
		part := m.order[from:min(from+groupRows, n)]
		rows = rows[:len(part)]
		for i, at := range part {
			a := flow.Addr{}
			if m.in.has[at]&flow.HasSrc != 0 {
				a = src[at]
			}
			rows[i] = row{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:]), at}
		}
		slices.SortFunc(rows, func(a, b row) int {
			if c := cmp.Compare(a.hi, b.hi); c != 0 {
				return c
			}
			if c := cmp.Compare(a.lo, b.lo); c != 0 {
				return c
			}
			if x, y := &dst[a.at], &dst[b.at]; *x != *y {
				if less(x, y) {
					return -1
				}
				return 1
			}
			return cmp.Compare(a.at, b.at)
		})
		for i := range rows {
			part[i] = rows[i].at
		}
	}
}
