package meter

import (
	"context"
	"sync"
	"time"

	"weir/flow"
)

// A cache belongs to the goroutine that meters. Whoever wants to see what is in
// it asks, part by part, and gets copies: metering goes on between two parts,
// and does not wait for what is done with them.

// question asks a live cache for a part of what is in it.
type question struct {
	part  int
	into  []flow.Record // its memory is used again
	reply chan<- answer
}

type answer struct {
	records []flow.Record
	more    bool // there are further parts
}

const (
	// nextQuestion is how long a meter that has nothing to read waits for the
	// next question, and answering how long it goes on like that; meanwhile
	// packets wait in its ring.
	nextQuestion = 10 * time.Millisecond
	answering    = 100 * time.Millisecond
)

// answer answers a question that waits. On a line that is quiet it stays for
// the next ones, or each would take as long as a read that finds nothing.
func (l *live) answer(quiet bool) {
	var q question
	select {
	case q = <-l.ask:
	default:
		return
	}
	end := time.Now().Add(answering)
	for {
		records := q.into[:0]
		l.cache.EntriesOf(q.part, func(r *flow.Record) bool {
			records = flow.AppendCopy(records, r)
			return true
		})
		more := q.part+1 < l.cache.Parts()
		q.reply <- answer{records, more}
		if !more || !quiet || time.Now().After(end) {
			return
		}
		select {
		case q = <-l.ask:
		case <-time.After(nextQuestion):
			return
		}
	}
}

// Walk shows the flows that are in the live caches, in batches that are valid
// during the call: one after the other, though not always from the same
// goroutine. Each batch is of one moment; together they are of as long as it
// takes. A flow is shown once at most. An error of yield ends it.
func (m *Meter) Walk(ctx context.Context, yield func([]flow.Record) error) error {
	m.mu.Lock()
	all := m.live
	m.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var one sync.Mutex // at a time
	for _, l := range all {
		wg.Go(func() {
			reply := make(chan answer, 1)
			q := question{reply: reply}
			for {
				select {
				case l.ask <- q:
				case <-l.ended:
					return
				case <-ctx.Done():
					return
				}
				a := <-reply
				one.Lock()
				if len(a.records) > 0 && ctx.Err() == nil {
					if err := yield(a.records); err != nil {
						cancel(err)
					}
				}
				one.Unlock()
				if !a.more {
					return
				}
				q.part, q.into = q.part+1, a.records
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// Entries copies out the flows that are in the live caches now.
func (m *Meter) Entries(ctx context.Context) ([]flow.Record, error) {
	var all []flow.Record
	err := m.Walk(ctx, func(batch []flow.Record) error {
		all = append(all, batch...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}
