package store

import (
	"cmp"
	"errors"
	"slices"
)

// expire applies retention and unlinks replaced files whose time has come. The
// oldest by time of receipt goes first: an exporter's wrong clock neither saves
// nor kills its records.
func (s *Store) expire() error {
	now := s.o.Now().UnixMicro()
	s.catMu.Lock()
	c := s.cat.clone()
	s.catMu.Unlock()

	var unlink []string // replaced files
	size := int64(0)
	for _, g := range c.segments {
		size += g.Size
	}
	slices.SortFunc(c.segments, func(a, b Segment) int { return cmp.Compare(a.MaxRecv, b.MaxRecv) })
	var expired []Segment
	drop := func() {
		expired = append(expired, c.segments[0])
		size -= c.segments[0].Size
		c.segments = c.segments[1:]
	}
	if s.o.MaxAge > 0 {
		for len(c.segments) > 0 && c.segments[0].MaxRecv < now-s.o.MaxAge.Microseconds() {
			drop()
		}
	}
	waiting := int64(0)
	for _, r := range c.retired {
		waiting += r.Size
	}
	// need says how many octets are too many.
	need := int64(0)
	if s.o.MaxBytes > 0 {
		need = size + waiting - s.o.MaxBytes
	}
	if s.o.MinFree > 0 {
		free, err := freeBytes(s.dir)
		if err != nil {
			return err
		}
		for _, g := range expired {
			free += g.Size
		}
		need = max(need, s.o.MinFree-free)
	}
	for _, r := range c.retired {
		if need > 0 || r.Since < now-s.o.Grace.Microseconds() {
			unlink = append(unlink, r.File)
			need -= r.Size
		}
	}
	for need > 0 && len(c.segments) > 1 {
		need -= c.segments[0].Size
		drop()
	}
	if len(expired) == 0 && len(unlink) == 0 {
		return nil
	}

	// Replaced files are unlinked before the catalogue forgets them, expired ones
	// after: a file that is nowhere named is never one that should live.
	var errs []error
	for _, name := range unlink {
		errs = append(errs, s.o.disk.remove(s.path(name)))
	}
	ids := make([]uint64, len(expired))
	for i := range expired {
		ids[i] = expired[i].ID
	}
	forget := func(c *catalogue) error {
		c.drop(ids)
		if errors.Join(errs...) == nil {
			c.retired = slices.DeleteFunc(c.retired, func(r retired) bool { return slices.Contains(unlink, r.File) })
		}
		return nil
	}
	err := s.change(forget)
	for _, g := range expired {
		errs = append(errs, s.o.disk.remove(s.path(g.File)))
	}
	if err != nil && len(expired) > 0 { // the disk was too full for a catalogue: now there is room
		err = s.change(forget)
	}
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	s.mu.Lock()
	s.stats.Expired += uint64(len(expired))
	s.mu.Unlock()
	return errors.Join(errs...)
}
