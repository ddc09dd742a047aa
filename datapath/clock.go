package datapath

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// clock asks for the kernel's clock, and where it stands to Unix time. The two
// clocks step differently, so that a moment's offset is good to a step; it is
// left as it is while it differs by less than two, lest times jitter.
func (s *Sweeper) clock() (uint64, error) {
	clock, mono, err := s.kernel.Now()
	if err != nil {
		return 0, fmt.Errorf("datapath: the kernel's clock: %w", err)
	}
	offset := s.cfg.Wall(mono) - int64(clock)
	if d := offset - s.offset.Load(); d >= int64(s.moved) || -d >= int64(s.moved) {
		s.offset.Store(offset)
	}
	return clock, nil
}

// wall is the Unix ns of a moment of CLOCK_MONOTONIC that is not long ago.
func wall(mono uint64) int64 {
	best, difference := int64(1)<<62, int64(0)
	for range 3 { // the tightest of three: we may be interrupted in between
		var before, real, after unix.Timespec
		unix.ClockGettime(unix.CLOCK_MONOTONIC, &before)
		unix.ClockGettime(unix.CLOCK_REALTIME, &real)
		unix.ClockGettime(unix.CLOCK_MONOTONIC, &after)
		if width := after.Nano() - before.Nano(); width < best {
			best, difference = width, real.Nano()-before.Nano()-width/2
		}
	}
	return int64(mono) + difference
}
