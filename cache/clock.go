package cache

import (
	"math"
	"time"
)

// The cache's clock counts whole seconds from an epoch some months before the
// first packet: thirty-two bits are enough then for what entries and pages
// hold. Times beyond its ends are taken for its ends; only timers see that.
const (
	second    = int64(time.Second)
	never     = math.MaxUint32
	lastTick  = 3 << 30 // the clock's end, a century after its epoch; timers may reach beyond it
	beforeAny = 1 << 24 // seconds from the epoch to the first packet
)

type clock struct {
	started bool
	epoch   int64  // Unix second of the clock's second 0
	tick    uint32 // the last second that was swept, or skipped because nothing was due
}

// start sets the epoch at the first time that is seen.
func (c *clock) start(t int64) {
	s := floorSecond(t)
	c.epoch, c.tick, c.started = s-beforeAny, beforeAny, true
}

// floor is the clock's second that t is in.
func (c *clock) floor(t int64) uint32 {
	return uint32(min(max(floorSecond(t)-c.epoch, 0), lastTick))
}

// due is the first whole second at or after t+d; never if d is 0.
func (c *clock) due(t, d int64) uint32 {
	if d == 0 {
		return never
	}
	s := floorSecond(t)
	rest := t - s*second // under 1e9, and d is years at most
	s += (rest + d + second - 1) / second
	return uint32(min(max(s-c.epoch, 0), never-1))
}

// unix is the time of a second of the clock.
func (c *clock) unix(s uint32) int64 {
	t := c.epoch + int64(s)
	return min(max(t, math.MinInt64/second), math.MaxInt64/second) * second
}

func floorSecond(t int64) int64 {
	s := t / second
	if t%second < 0 {
		s--
	}
	return s
}

// Clock is the last whole second that Tick has reached, in the unit of
// Gone.End.
func (c *clock) Clock() uint32 { return c.tick }
