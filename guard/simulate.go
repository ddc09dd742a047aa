package guard

import (
	"cmp"
	"errors"
	"slices"

	"weir/flow"
)

// Simulation replays flow records against a policy: what would have fired, and what would
// have been done? A record tells when its flow began and ended; its packets are taken to
// have come evenly in between. So a burst within a record is smoothed: a simulation tells
// of fewer attacks than the live guard, never of more, by how much depends on how often
// the flows were reported.
//
// Nothing is dropped in it, so every attack is seen to its own end.
type Simulation struct {
	Policy Policy

	list []simulated
	no   uint64 // records that could not be used
}

// simulated is what a simulation keeps of a record.
type simulated struct {
	delta       Delta
	first, last int64 // Unix ns
	done        Volume
	dropped     Volume
}

// MaxSimulated is how many records a simulation takes.
const MaxSimulated = 4 << 20

// maxSimulatedTicks bounds a simulation's length, in seconds: a month.
const maxSimulatedTicks = 31 * 86400

// ErrSimulation says that there is more than a simulation takes.
var ErrSimulation = errors.New("more than 4 Mi records: a narrower time or filter would be accepted")

// WriteRecords takes records in any order; it is a flow.Sink.
func (s *Simulation) WriteRecords(batch []flow.Record) error {
	const need = flow.HasSrc | flow.HasDst | flow.HasPackets | flow.HasBytes | flow.HasLast
	for i := range batch {
		r := &batch[i]
		if r.Has&need != need || r.Packets == 0 {
			s.no++
			continue
		}
		if len(s.list) >= MaxSimulated {
			return ErrSimulation
		}
		x := simulated{delta: DeltaOf(r), first: r.Last, last: r.Last}
		if r.Has&flow.HasFirst != 0 && r.First <= r.Last {
			x.first = r.First
		}
		s.list = append(s.list, x)
	}
	return nil
}

// Fired is what a simulation tells of one attack.
type Fired struct {
	AttackStatus
	Action *ActionStatus // what would have been done; nil: nothing
}

// Report is a simulation's outcome.
type Report struct {
	Records, Unusable uint64
	First, Last       int64 // Unix ns
	Fired             []Fired
}

// Run replays all. fatal is asked now and then, and ends it: a context's error.
func (s *Simulation) Run(fatal func() error) (*Report, error) {
	rep := &Report{Records: uint64(len(s.list)), Unusable: s.no}
	if len(s.list) == 0 {
		return rep, nil
	}
	slices.SortFunc(s.list, func(a, b simulated) int { return cmp.Compare(a.first, b.first) })
	rep.First = s.list[0].first
	for i := range s.list {
		rep.Last = max(rep.Last, s.list[i].last)
	}
	if (rep.Last-rep.First)/1e9 > maxSimulatedTicks {
		return nil, errors.New("the flows span more than 31 days; a narrower time would be accepted")
	}
	actions := map[uint64]*ActionStatus{}
	attacks := map[uint64]*AttackStatus{}
	var order []uint64
	p := s.Policy
	p.MaxActions, p.MaxPerMinute = 4096, 1<<30 // what would have fired, not how often
	fake := &Fake{}
	now := rep.First
	e, err := New(Options{Policy: p, Enforcer: fake, Tell: func(ev Event) {
		if ev.Attack != nil {
			v := ev.Attack.View()
			if attacks[v.ID] == nil {
				order = append(order, v.ID)
			}
			attacks[v.ID] = &v
			if ev.Action != nil && actions[v.ID] == nil {
				x := ev.Action.View(ev.At)
				actions[v.ID] = &x
			}
		}
	}})
	if err != nil {
		return nil, err
	}
	next, active := 0, []*simulated(nil)
	batch := make([]Delta, 0, 1024)
	flush := func() {
		e.Add(batch)
		batch = batch[:0]
	}
	e.Tick(now)
	quiet := int64(0)
	for end := now + 1e9; next < len(s.list) || len(active) > 0 || quiet < 3600; end += 1e9 {
		for next < len(s.list) && s.list[next].first < end {
			active = append(active, &s.list[next])
			next++
		}
		kept := active[:0]
		for _, x := range active {
			d := x.until(end)
			if d.Packets > 0 || d.Flows > 0 {
				if batch = append(batch, d); len(batch) == cap(batch) {
					flush()
				}
			}
			if x.last >= end {
				kept = append(kept, x)
			}
		}
		active = kept
		flush()
		fake.Advance(end)
		e.Tick(end)
		if next == len(s.list) && len(active) == 0 {
			if quiet++; len(e.attacks) == 0 {
				break
			}
		}
		if fatal != nil && end/1e9%64 == 0 {
			if err := fatal(); err != nil {
				return nil, err
			}
		}
	}
	for _, id := range order {
		rep.Fired = append(rep.Fired, Fired{*attacks[id], actions[id]})
	}
	return rep, nil
}

// until is what of x came before end, and was not told yet. Sums over all calls are exact.
func (x *simulated) until(end int64) Delta {
	d := x.delta
	share := 1.0
	if x.last >= end {
		share = float64(end-x.first) / float64(x.last-x.first+1)
	}
	part := func(all uint64, done *uint64) uint64 {
		n := all
		if share < 1 {
			n = min(all, uint64(float64(all)*share))
		}
		n, *done = n-min(n, *done), max(n, *done)
		return n
	}
	if x.done.Packets > 0 {
		d.Flows = 0
	}
	d.Packets, d.Bytes = part(x.delta.Packets, &x.done.Packets), part(x.delta.Bytes, &x.done.Bytes)
	d.DroppedPackets, d.DroppedBytes = part(x.delta.DroppedPackets, &x.dropped.Packets), part(x.delta.DroppedBytes, &x.dropped.Bytes)
	if d.Packets == 0 && x.done.Packets == 0 {
		d.Flows = 0 // told with its first packet
	}
	return d
}
