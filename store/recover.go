package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// checkTail is how many octets of the newest segments are read whole at Open: a
// power cut tears what was written last.
const checkTail = 64 << 20

// recover brings catalogue and files together after a stop of any kind. The
// store always opens, unless its folder cannot be read or written.
func (s *Store) recover() error {
	if err := s.removeTemporary(); err != nil {
		return err
	}
	c, err := loadCatalogue(s.dir)
	rebuilt := false
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			if _, perr := os.ReadDir(s.dir); perr != nil || errors.Is(err, fs.ErrPermission) {
				return err
			}
			s.o.Log.Error("the catalogue is broken; making a new one from the segments", "err", err)
			if err := s.quarantine(catalogueFile); err != nil {
				return err
			}
		}
		var broken []error
		if c, broken, err = rebuildCatalogue(s.dir); err != nil {
			return err
		}
		for _, b := range broken {
			var corrupt *CorruptError
			if !errors.As(b, &corrupt) {
				return b
			}
			name, err := filepath.Rel(s.dir, corrupt.Path)
			if err != nil {
				return err
			}
			s.o.Log.Error("a segment is broken; put into quarantine", "err", b)
			if err := s.quarantine(name); err != nil {
				return err
			}
		}
		rebuilt = true
	}
	s.cat = c

	changed := rebuilt
	// What the catalogue names must be there and whole.
	tail := int64(0)
	for i := len(c.segments) - 1; i >= 0; i-- {
		seg := c.segments[i]
		err := checkSegment(s.path(seg.File), &seg, tail < checkTail)
		tail += seg.Size
		if err == nil {
			continue
		}
		if errors.Is(err, fs.ErrPermission) {
			return err
		}
		s.o.Log.Error("a segment is broken", "err", err)
		s.countCorrupt(&seg)
		if !errors.Is(err, fs.ErrNotExist) {
			if err := s.quarantine(seg.File); err != nil {
				return err
			}
		} else {
			s.stats.Quarantined = append(s.stats.Quarantined, seg.File+" (missing)")
		}
		c.segments = slices.Delete(c.segments, i, i+1)
		changed = true
	}
	if !rebuilt {
		adopted, err := s.adoptOrphans()
		if err != nil {
			return err
		}
		changed = changed || adopted
	} else {
		s.removeSuperseded()
	}
	if changed {
		return s.change(func(*catalogue) error { return nil })
	}
	return nil
}

// removeTemporary unlinks what a crash left half written.
func (s *Store) removeTemporary() error {
	for _, dir := range []string{s.dir, s.path(flowsDir)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), tmpSuffix) {
				if err := s.o.disk.remove(filepath.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// checkSegment looks whether the file is there with the right size; whole, it
// is held against its checksum.
func checkSegment(path string, seg *Segment, whole bool) error {
	if whole {
		_, err := readFile(path, seg)
		return err
	}
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Size() != seg.Size {
		return &CorruptError{path, fmt.Sprintf("%d octets, the catalogue says %d", st.Size(), seg.Size)}
	}
	return nil
}

// adoptOrphans looks at finished files that the catalogue does not name. A cut
// that came after the catalogue was written is taken in. A merge whose parts
// are live did not happen, and what retention dropped is dropped: unlinked.
func (s *Store) adoptOrphans() (bool, error) {
	c := s.cat
	known := map[string]bool{}
	for i := range c.segments {
		known[c.segments[i].File] = true
	}
	for _, r := range c.retired {
		known[r.File] = true
	}
	names, err := segmentFiles(s.dir)
	if err != nil {
		return false, err
	}
	adopted := false
	for _, name := range names {
		if known[name] {
			continue
		}
		path := s.path(name)
		data, err := readFile(path, nil)
		if err != nil {
			return adopted, err
		}
		seg, err := readMeta(path, data)
		if err != nil {
			s.o.Log.Error("a segment is broken; put into quarantine", "err", err)
			if err := s.quarantine(name); err != nil {
				return adopted, err
			}
			continue
		}
		if seg.Level == 0 && seg.ID >= c.next {
			seg.File = name
			c.add(seg)
			adopted = true
			s.o.Log.Info("took in a segment that a crash left out of the catalogue", "file", name, "rows", seg.Rows)
			continue
		}
		if err := s.o.disk.remove(path); err != nil {
			return adopted, err
		}
		c.next = max(c.next, seg.ID+1)
	}
	return adopted, nil
}

// removeSuperseded retires the files that a rebuilt catalogue does not name:
// parts of segments that are live.
func (s *Store) removeSuperseded() {
	names, err := segmentFiles(s.dir)
	if err != nil {
		return // they are found at the next opening
	}
	for _, name := range names {
		if !slices.ContainsFunc(s.cat.segments, func(g Segment) bool { return g.File == name }) {
			s.retire(s.cat, name)
		}
	}
}

// retire puts a file on the list of those to unlink after the grace period.
func (s *Store) retire(c *catalogue, name string) {
	r := retired{File: name, Since: s.o.Now().UnixMicro()}
	if st, err := os.Stat(s.path(name)); err == nil {
		r.Size = st.Size()
	}
	c.retired = append(c.retired, r)
}

// quarantine moves a file out of the way, under a name that is free.
func (s *Store) quarantine(name string) error {
	dir := s.path(quarantineDir)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	to := filepath.Join(dir, filepath.Base(name))
	for i := 1; ; i++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = filepath.Join(dir, fmt.Sprintf("%s.%d", filepath.Base(name), i))
	}
	if err := s.o.disk.rename(s.path(name), to); err != nil {
		return err
	}
	s.mu.Lock()
	s.stats.Quarantined = append(s.stats.Quarantined, to)
	s.mu.Unlock()
	return nil
}

// countCorrupt enters a broken segment into the ledger.
func (s *Store) countCorrupt(seg *Segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.losses[lossCorrupt]
	l.Records += seg.Rows
	l.Packets += seg.Packets
	l.Bytes += seg.Bytes
}

// hour of a segment: the one it began to be received in.
func (g *Segment) hour() int64 { return floorDiv(g.MinRecv, time.Hour.Microseconds()) }

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
