package route

import (
	"net/netip"
	"time"
)

// settle is how long the kernel's table may lag behind its message: that of a
// deletion is heard while readers may still find the route.
const settle = 20 * time.Millisecond

// pending is how many prefixes wait for their second call. More than that in
// one settle time are a table being loaded: all is asked again instead.
const pending = 1 << 14

// bumps tells a table, twice, what may have changed: at once, and when the
// kernel has surely done it (between one and two settle times later).
type bumps struct {
	table       Table
	stats       *Stats
	fresh, aged bumped
	due         time.Time // when aged is told again and fresh becomes aged; zero: both are empty
	all         bool      // InvalidateAll waits for the end of this batch
}

type bumped struct {
	prefixes []netip.Prefix
	all      bool
}

func (b *bumped) empty() bool { return !b.all && len(b.prefixes) == 0 }

func (b *bumps) invalidate(p netip.Prefix) {
	b.stats.Invalidations++
	b.table.Invalidate(p)
	if len(b.fresh.prefixes) < pending {
		b.fresh.prefixes = append(b.fresh.prefixes, p)
	} else {
		b.fresh.all = true
	}
}

// invalidateAll is done once for a batch of messages, however many ask for it.
func (b *bumps) invalidateAll() { b.all = true }

// flush ends a batch of messages.
func (b *bumps) flush(now time.Time) {
	if b.all {
		b.all, b.fresh.all = false, true
		b.stats.InvalidationsAll++
		b.table.InvalidateAll()
	}
	if b.due.IsZero() && !b.fresh.empty() {
		b.due = now.Add(settle)
	}
}

// again does the second calls that are due.
func (b *bumps) again(now time.Time) {
	if b.due.IsZero() || now.Before(b.due) {
		return
	}
	if b.aged.all {
		b.table.InvalidateAll()
	} else {
		for _, p := range b.aged.prefixes {
			b.table.Invalidate(p)
		}
	}
	b.aged.prefixes, b.aged.all = b.aged.prefixes[:0], false
	b.aged, b.fresh = b.fresh, b.aged
	b.due = time.Time{}
	if !b.aged.empty() {
		b.due = now.Add(settle)
	}
}
