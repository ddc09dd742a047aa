package query

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"slices"
	"time"

	"weir/flow"
)

// Walk shows records, batch by batch: what is in a flow cache, say. Batches are
// valid during the call. It ends with the error of yield.
type Walk func(ctx context.Context, yield func([]flow.Record) error) error

// Memory is an Engine over records that are in no store. It holds little of
// them: a list that is to be sorted as long as it will be, groups a number at a
// time. It is safe for concurrent use if its Walk is.
type Memory struct {
	walk Walk
	most int // groups held at a time
	seed maphash.Seed
}

const (
	// MostSorted bounds the records, or groups, that a Memory sorts.
	MostSorted = 100_000
	// mostGroups bounds the groups that it holds: 130 octets each.
	mostGroups = 1 << 18
)

// NewMemory gives an engine over what walk shows each time it is called.
func NewMemory(walk Walk) *Memory {
	return &Memory{walk: walk, most: mostGroups, seed: maphash.MakeSeed()}
}

// Stream hands on the records that pass a filter, in no order and none held.
func (m *Memory) Stream(ctx context.Context, f *Filter, sink flow.Sink) (Total, error) {
	var t Total
	match := f.Matcher()
	some := make([]flow.Record, 0, 256)
	err := m.walk(ctx, func(batch []flow.Record) error {
		for i := range batch {
			if r := &batch[i]; match(r) {
				t.add(r)
				if some = append(some, *r); len(some) == cap(some) {
					if err := sink.WriteRecords(some); err != nil {
						return err
					}
					some = some[:0]
				}
			}
		}
		if len(some) == 0 {
			return nil
		}
		err := sink.WriteRecords(some) // what belongs to the batch does not outlive it
		some = some[:0]
		return err
	})
	return t, err
}

// Flows gives the first records by the request's order, at most MostSorted. The
// total is over the records given.
func (m *Memory) Flows(ctx context.Context, r Request, sink flow.Sink) (Total, error) {
	list, _, err := m.First(ctx, r)
	if err != nil {
		return Total{}, err
	}
	var t Total
	for i := range list {
		t.add(&list[i])
	}
	return t, sink.WriteRecords(list)
}

// First gives the first records by the request's order, of all that match and
// are summed in the total.
func (m *Memory) First(ctx context.Context, r Request) ([]flow.Record, Total, error) {
	var t Total
	p, err := m.plan(r, true)
	if err != nil {
		return nil, t, err
	}
	value := p.order.of()
	first := newFirst(p.limit, func(a, b *flow.Record) int { return p.order.compare(value(a), value(b)) })
	err = m.matching(ctx, p, func(r *flow.Record) {
		t.add(r)
		if first.add(r) {
			// r's elements are the walk's, and the list's own from now on
			at := first.last()
			at.Elements = slices.Clone(at.Elements)
		}
	})
	return first.sorted(), t, err
}

// matching shows the records that the plan is about.
func (m *Memory) matching(ctx context.Context, p *plan, show func(*flow.Record)) error {
	match := p.filter.Matcher()
	return m.walk(ctx, func(batch []flow.Record) error {
		for i := range batch {
			r := &batch[i]
			if at := eventMicros(r); at < p.from || at >= p.to || !match(r) {
				continue
			}
			show(r)
		}
		return ctx.Err()
	})
}

// eventMicros is the eventTime of a record.
func eventMicros(r *flow.Record) int64 {
	switch {
	case r.Has&flow.HasLast != 0:
		return micros(r, colLast)
	case r.Has&flow.HasFirst != 0:
		return micros(r, colFirst)
	}
	return micros(r, colReceived)
}

func (m *Memory) plan(r Request, raw bool) (*plan, error) {
	p, err := newPlan(r, raw)
	switch {
	case err != nil:
		return nil, err
	case p.bin > 0:
		return nil, errors.New("query: what is in memory makes no series")
	case p.limit < 0 || p.limit > MostSorted:
		return nil, fmt.Errorf("query: a sorted list of what is in memory holds 1 to %d rows", MostSorted)
	}
	return p, nil
}

// Explain returns the plan; there is no SQL.
func (m *Memory) Explain(r Request) (string, error) {
	p, err := m.plan(r, r.Stat == "" && len(r.Keys) == 0)
	if err != nil {
		return "", err
	}
	return p.String(), nil
}

// Aggregate answers a request with Stat or Keys (of one address and two numbers
// more than a record's 5-tuple, at most).
func (m *Memory) Aggregate(ctx context.Context, r Request) (*Result, error) {
	start := time.Now()
	p, err := m.plan(r, false)
	if err != nil {
		return nil, err
	}
	k, err := newGrouping(p.keys)
	if err != nil {
		return nil, err
	}
	value := p.order.ofSums()
	first := newFirst(p.limit, func(a, b *grouped) int {
		return cmp.Or(p.order.compare(value(&a.totals), value(&b.totals)), k.compare(&a.id, &b.id))
	})
	res := &Result{Columns: p.columns()}
	n := 0
	todo := []share{{}}
	g := groups{most: m.most, seed: m.seed, at: map[groupID]int32{}}
	for i := 0; i < len(todo); i++ {
		g.begin(todo[i])
		err := m.matching(ctx, p, func(r *flow.Record) {
			if i == 0 {
				res.Total.add(r)
			}
			for side := range k.sides {
				if id, ok := k.id(r, side); ok {
					g.add(&id, r)
				}
			}
		})
		if err != nil {
			return nil, err
		}
		todo = append(todo, g.left...)
		n += len(g.list)
		for j := range g.list {
			first.add(&g.list[j])
		}
	}
	for _, g := range first.sorted() {
		res.Rows = append(res.Rows, append(k.cells(&g.id), g.cells()...))
	}
	res.Truncated = n > len(res.Rows)
	res.Took = time.Since(start)
	return res, nil
}

// ordered is a value to sort by.
type ordered struct {
	known bool
	v     uint64 // times with the sign bit turned
}

func orderedTime(ns int64) ordered { return ordered{true, uint64(ns/1000) ^ 1<<63} }

// compare puts what is unknown last.
func (o ordering) compare(a, b ordered) int {
	switch {
	case a.known != b.known:
		if a.known {
			return -1
		}
		return 1
	case o.asc:
		return cmp.Compare(a.v, b.v)
	}
	return cmp.Compare(b.v, a.v)
}

// column that is ordered by, if it is a number.
func (o ordering) column() column {
	return map[string]column{"packets": colPackets, "bytes": colBytes, "pps": colPPS, "bps": colBPS, "bpp": colBPP, "duration": colDuration}[o.name]
}

// of gives what records are ordered by.
func (o ordering) of() func(*flow.Record) ordered {
	c := o.column()
	switch o.name {
	case "first":
		return func(r *flow.Record) ordered {
			if r.Has&flow.HasFirst == 0 {
				return ordered{}
			}
			return orderedTime(r.First)
		}
	case "last", "flows": // each is one flow
		return func(r *flow.Record) ordered { return ordered{true, uint64(eventMicros(r)) ^ 1<<63} }
	}
	return func(r *flow.Record) ordered {
		if !known(r, c) {
			return ordered{}
		}
		return ordered{true, number(r, c)}
	}
}

// first keeps the first n of what it is given.
type first[T any] struct {
	n       int
	compare func(a, b *T) int
	heap    []T // the last of them on top
	at      int // where the one added last is
}

func newFirst[T any](n int, compare func(a, b *T) int) *first[T] {
	return &first[T]{n: n, compare: compare}
}

// add takes x if it is among the first so far.
func (f *first[T]) add(x *T) bool {
	h := f.heap
	if len(h) < f.n {
		h = append(h, *x)
		f.heap = h
		i := len(h) - 1
		for i > 0 {
			up := (i - 1) / 2
			if f.compare(&h[i], &h[up]) <= 0 {
				break
			}
			h[i], h[up] = h[up], h[i]
			i = up
		}
		f.at = i
		return true
	}
	if len(h) == 0 || f.compare(x, &h[0]) >= 0 {
		return false
	}
	h[0] = *x
	i := 0
	for {
		down := 2*i + 1
		if down >= len(h) {
			break
		}
		if down+1 < len(h) && f.compare(&h[down+1], &h[down]) > 0 {
			down++
		}
		if f.compare(&h[down], &h[i]) <= 0 {
			break
		}
		h[i], h[down] = h[down], h[i]
		i = down
	}
	f.at = i
	return true
}

// last is the one that add took last.
func (f *first[T]) last() *T { return &f.heap[f.at] }

// sorted empties f.
func (f *first[T]) sorted() []T {
	list := f.heap
	f.heap = nil
	slices.SortFunc(list, func(a, b T) int { return f.compare(&a, &b) })
	return list
}

// share is a part of all groups: those whose hash has these low bits.
type share struct {
	bits  int
	value uint64
}

// groups are those of a share. When there are too many the share is halved, and
// the other half left for another walk.
type groups struct {
	most int
	seed maphash.Seed
	share
	left []share
	at   map[groupID]int32
	list []grouped
}

// grouped is a group with its sums.
type grouped struct {
	id groupID
	totals
}

// begin counts the groups of another share, in the memory of the last.
func (g *groups) begin(s share) {
	g.share, g.left, g.list = s, g.left[:0], g.list[:0]
	clear(g.at)
}

func (g *groups) has(id *groupID) bool {
	return g.bits == 0 || id.hash(g.seed)&(1<<g.bits-1) == g.value
}

func (g *groups) add(id *groupID, r *flow.Record) {
	if !g.has(id) {
		return
	}
	i, ok := g.at[*id]
	if !ok {
		for len(g.list) >= g.most && g.bits < 62 {
			g.halve()
		}
		if !g.has(id) {
			return
		}
		i = int32(len(g.list))
		g.at[*id] = i
		g.list = append(g.list, grouped{id: *id})
	}
	g.list[i].totals.add(r)
}

func (g *groups) halve() {
	g.left = append(g.left, share{g.bits + 1, g.value | 1<<g.bits})
	g.bits++
	kept := g.list[:0]
	clear(g.at)
	for i := range g.list {
		if g.has(&g.list[i].id) {
			kept = append(kept, g.list[i])
			g.at[g.list[i].id] = int32(len(kept) - 1)
		}
	}
	g.list = kept
}

// totals are of the records of a group that know of it; they saturate.
type totals struct {
	flows, packets, bytes uint64
	first, last           int64 // ns
	has                   flow.Field
}

func (s *totals) add(r *flow.Record) {
	s.flows++
	if r.Has&flow.HasPackets != 0 {
		s.packets = plusSaturated(s.packets, r.Packets)
	}
	if r.Has&flow.HasBytes != 0 {
		s.bytes = plusSaturated(s.bytes, r.Bytes)
	}
	if r.Has&flow.HasFirst != 0 && (s.has&flow.HasFirst == 0 || r.First < s.first) {
		s.first = r.First
	}
	if r.Has&flow.HasLast != 0 && (s.has&flow.HasLast == 0 || r.Last > s.last) {
		s.last = r.Last
	}
	s.has |= r.Has
}

func plusSaturated(a, b uint64) uint64 {
	sum, carry := bits.Add64(a, b, 0)
	if carry != 0 {
		return math.MaxUint64
	}
	return sum
}

// record is the sums as a record, of which the rates are known how to make.
func (s *totals) record() flow.Record {
	return flow.Record{Packets: s.packets, Bytes: s.bytes, First: s.first, Last: s.last, Has: s.has & (flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast)}
}

// ofSums gives what groups are ordered by.
func (o ordering) ofSums() func(*totals) ordered {
	c := o.column()
	switch o.name {
	case "flows":
		return func(s *totals) ordered { return ordered{true, s.flows} }
	case "first":
		return func(s *totals) ordered {
			if s.has&flow.HasFirst == 0 {
				return ordered{}
			}
			return orderedTime(s.first)
		}
	case "last":
		return func(s *totals) ordered {
			if s.has&flow.HasLast == 0 {
				return ordered{}
			}
			return orderedTime(s.last)
		}
	}
	return func(s *totals) ordered {
		r := s.record()
		if !known(&r, c) {
			return ordered{}
		}
		return ordered{true, number(&r, c)}
	}
}

// cells are flows, packets, bytes, pps, bps, bpp, first, last.
func (s *totals) cells() []any {
	r := s.record()
	out := []any{s.flows}
	for _, c := range []column{colPackets, colBytes, colPPS, colBPS, colBPP} {
		if known(&r, c) {
			out = append(out, number(&r, c))
		} else {
			out = append(out, nil)
		}
	}
	for _, t := range []struct {
		has flow.Field
		ns  int64
	}{{flow.HasFirst, s.first}, {flow.HasLast, s.last}} {
		if s.has&t.has == 0 {
			out = append(out, nil)
		} else {
			out = append(out, time.Unix(0, t.ns).UTC())
		}
	}
	return out
}
