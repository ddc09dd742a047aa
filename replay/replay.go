// Package replay sends again what was kept: flow records to a sink, or captured
// export datagrams to a collector, with the timing they had.
//
// In: flow.Record in the order of their ends, or messages in the order of their
// capture, each with its time (Unix ns). Out: the same, when due: Pace says when,
// Times which stamps they bear. Nothing here runs by itself: the caller's
// goroutine waits.
package replay

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"weir/flow"
)

// Pace says when what happened at a time is due again: Speed times as fast as
// it was, from the first call on. The zero Pace does not wait.
type Pace struct {
	Speed float64 // 1: as it was; 0: as fast as it goes

	Now   func() time.Time                           // nil: time.Now
	Sleep func(context.Context, time.Duration) error // nil: by the clock

	started bool
	first   int64
	start   time.Time
}

// ParseSpeed reads a number above 0, or max.
func ParseSpeed(s string) (float64, error) {
	if s == "max" {
		return 0, nil
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !(v > 0) || v > 1e9 {
		return 0, fmt.Errorf("%q: accepted: a number above 0, such as 10 or 0.5, or max", s)
	}
	return v, nil
}

// Wait returns when what happened at t is due; at once if that is past, or with
// ctx's end.
func (p *Pace) Wait(ctx context.Context, t int64) error {
	if !p.started {
		p.started, p.first, p.start = true, t, p.now()
	}
	if p.Speed == 0 {
		return ctx.Err()
	}
	due := p.start.Add(time.Duration(float64(t-p.first) / p.Speed))
	if d := due.Sub(p.now()); d > 0 {
		return p.sleep(ctx, d)
	}
	return ctx.Err()
}

func (p *Pace) now() time.Time {
	if p.Now != nil {
		return p.Now()
	}
	return time.Now()
}

func (p *Pace) sleep(ctx context.Context, d time.Duration) error {
	if p.Sleep != nil {
		return p.Sleep(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Times moves time stamps: what was at From is at To, and time runs Speed times
// as fast, as if the network had been so much livelier. The zero Times leaves
// stamps as they are.
type Times struct {
	From, To int64 // Unix ns
	Speed    float64
}

// Move gives the stamp that t bears.
func (m *Times) Move(t int64) int64 {
	if *m == (Times{}) {
		return t
	}
	d := t - m.From
	if m.Speed > 0 && m.Speed != 1 {
		d = int64(float64(d) / m.Speed)
	}
	return m.To + d
}

// Flows is a sink that hands records on when their last packet is due.
type Flows struct {
	Ctx   context.Context
	Pace  *Pace
	Times Times
	Next  flow.Sink

	// Count of what was handed on.
	Records, Packets, Bytes uint64

	batch []flow.Record
}

// tick is how much is handed on at once: a batch of one record each would cost
// more than it keeps.
const tick = 10 * time.Millisecond

// WriteRecords hands the batch on in parts, each when it is due.
func (f *Flows) WriteRecords(batch []flow.Record) error {
	for len(batch) > 0 {
		at, n := endOf(&batch[0]), 1
		until := at + int64(float64(tick)*f.Pace.Speed)
		for n < len(batch) && (f.Pace.Speed == 0 || endOf(&batch[n]) < until) {
			n++
		}
		if err := f.Pace.Wait(f.Ctx, at); err != nil {
			return err
		}
		f.batch = append(f.batch[:0], batch[:n]...)
		var packets, bytes uint64
		for i := range f.batch {
			r := &f.batch[i]
			packets, bytes = packets+r.Packets, bytes+r.Bytes
			if r.Has&flow.HasFirst != 0 {
				r.First = f.Times.Move(r.First)
			}
			if r.Has&flow.HasLast != 0 {
				r.Last = f.Times.Move(r.Last)
			}
		}
		if err := f.Next.WriteRecords(f.batch); err != nil {
			return err
		}
		f.Records, f.Packets, f.Bytes = f.Records+uint64(n), f.Packets+packets, f.Bytes+bytes
		batch = batch[n:]
	}
	return nil
}

// endOf is when a record is due: at its last packet, else when it was received.
func endOf(r *flow.Record) int64 {
	switch {
	case r.Has&flow.HasLast != 0:
		return r.Last
	case r.Has&flow.HasFirst != 0:
		return r.First
	}
	return r.Received
}
