package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/perf"

	"weir/bpf"
	"weir/flow"
)

// events is what the programs tell of single packets: those that a rule wants
// logged, and those whose sender is to be told that they were rejected.
//
// In: bpf.Event and a packet's first octets, through a ring for each processor and
// each group of programs. Out: lines of the log (logbook), answers (answerer). A
// processor tells of so many packets in a tick of the kernel's clock (bpf.Untold
// counts the others), a ring has so much room (lost), lines and answers have their
// rates: whatever comes, this is bounded work.
type events struct {
	log     *slog.Logger
	filter  *Filter
	book    *logbook
	answers *answerer
	every   time.Duration
	walk    func(visit func(word uint64, k *flow.Key, port uint32, packets uint64), end func())

	lost   atomic.Uint64 // a ring had no room for
	unread atomic.Uint64 // events that make no sense
}

const (
	eventSize = int(unsafe.Sizeof(bpf.Event{}))
	ringSize  = 64 << 10 // octets, for each processor: three hundred events

	logEvery = 5 * time.Minute // as Cisco's
	logRate  = 100             // lines a second

	leftOutEvery = time.Minute
)

func newEvents(log *slog.Logger, f *Filter, name func(ifindex uint32) string) *events {
	o := f.options
	if o.LogEvery <= 0 {
		o.LogEvery = logEvery
	}
	if o.LogRate <= 0 {
		o.LogRate = logRate
	}
	return &events{
		log: log, filter: f, every: o.LogEvery, answers: newAnswerer(log, o.Answers),
		book: &logbook{log: log, rule: f.rule, name: name, lines: perSecond(o.LogRate, o.LogRate), flows: map[logKey]*logged{}},
	}
}

// run reads until ctx ends, and then what is there still. Sums that are due are
// written, as many as may be: the next process begins with what the table has.
func (e *events) run(ctx context.Context, maps []*ebpf.Map) {
	var reading sync.WaitGroup
	var readers []*perf.Reader
	for _, m := range maps {
		r, err := perf.NewReader(m, ringSize)
		if err != nil {
			e.log.Warn("nothing is logged or answered of some interfaces: the kernel's events cannot be read", "error", err)
			continue
		}
		readers = append(readers, r)
		reading.Go(func() { e.read(r) })
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	sums, leftOut := time.Now().Add(e.every), time.Now().Add(leftOutEvery)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case now := <-tick.C:
			if !now.Before(sums) {
				sums = now.Add(e.every)
				e.sum()
			}
			e.book.drain(now)
			if !now.Before(leftOut) {
				leftOut = now.Add(leftOutEvery)
				e.book.complain()
			}
		}
	}
	for _, r := range readers {
		if err := r.Flush(); err != nil {
			r.Close() // it ends all the same
		}
	}
	reading.Wait()
	for _, r := range readers {
		r.Close()
	}
	e.sum()
	e.book.drain(time.Now())
	e.book.complain()
	e.answers.close()
}

// sum reads all of the table, if it may have something to tell.
func (e *events) sum() {
	if e.filter.logs() || e.book.known() > 0 {
		e.book.sum(e.walk)
	}
}

// read takes events until it is told to stop.
func (e *events) read(r *perf.Reader) {
	var rec perf.Record
	for {
		err := r.ReadInto(&rec)
		switch {
		case errors.Is(err, perf.ErrFlushed), errors.Is(err, os.ErrClosed):
			return
		case perf.IsUnknownEvent(err):
			e.unread.Add(1)
			continue
		case err != nil:
			e.log.Error("nothing more is logged or answered: the kernel's events cannot be read", "error", err)
			return
		}
		if rec.LostSamples > 0 {
			e.lost.Add(rec.LostSamples)
			continue
		}
		ev, octets, err := parseEvent(rec.RawSample)
		if err != nil {
			e.unread.Add(1)
			e.log.Debug("an event of the kernel's programs", "error", err)
			continue
		}
		e.take(&ev, octets, time.Now())
	}
}

// parseEvent reads an event, and the octets of the packet that are behind it.
func parseEvent(b []byte) (e bpf.Event, octets []byte, err error) {
	if len(b) < eventSize {
		return e, nil, fmt.Errorf("%d octets, want %d", len(b), eventSize)
	}
	ne := binary.NativeEndian
	e = bpf.Event{
		Now: ne.Uint64(b), Word: ne.Uint64(b[8:]), Port: ne.Uint32(b[16:]),
		Network: ne.Uint32(b[20:]), Octets: ne.Uint32(b[24:]), Rejected: ne.Uint32(b[28:]),
	}
	octets = b[eventSize:] // and up to seven that the ring has put there
	if e.Octets > uint32(len(octets)) || e.Octets > bpf.EventOctets {
		return e, nil, fmt.Errorf("%d octets of a packet, %d are there", e.Octets, len(octets))
	}
	if e.Network > e.Octets {
		return e, nil, fmt.Errorf("an IP header at %d of %d octets", e.Network, e.Octets)
	}
	return e, octets[:e.Octets], nil
}

// take answers a packet and logs it, as its rule says.
func (e *events) take(ev *bpf.Event, octets []byte, now time.Time) {
	if ev.Rejected != 0 {
		e.answers.answer(ev, octets, now)
	}
	if ev.Word&bpf.VerdictLog == 0 {
		return
	}
	k, ok := readKey(octets[ev.Network:])
	if !ok {
		e.unread.Add(1)
		return
	}
	var mac []byte
	if ev.Network >= etherLen {
		mac = octets[6:12]
	}
	e.book.first(ev, &k, mac, now)
}

// losses are what was not told, and is in the ledger though no packet is lost by it.
func (e *events) losses(untold uint64) []flow.Loss {
	return []flow.Loss{
		{
			Stage: "acl", Reason: "untold", Packets: untold + e.lost.Load() + e.unread.Load(),
			Help: "Not a loss: packets that rules with log or reject have matched, and that came too fast to be told one by one. They are counted as ever.",
		},
		{
			Stage: "acl", Reason: "unanswered", Packets: e.answers.unanswered.Load(),
			Help: "Not a loss: packets that were rejected and whose senders were not told, because of the rate of answers or because there was no way to send one.",
		},
	}
}
