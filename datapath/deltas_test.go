package datapath

import (
	"sync"
	"testing"
	"time"

	"weir/bpf"
	"weir/flow"
	"weir/guard"
)

// Walks at all times, while packets are counted and flows leave and begin: the deltas that
// come of them and of the records are what was sent, flow by flow, to the packet and the
// octet, and each flow begins once. (After an active timeout one that ended without another
// packet, and came again to its place, is taken for the same.)
func TestDeltasAreWhatWasSent(t *testing.T) {
	for _, load := range []struct {
		name    string
		percent int
		active  time.Duration
	}{
		{"10%", 10, 8 * time.Second},
		{"400%", 400, 8 * time.Second},
		{"without an active timeout", 100, 0},
	} {
		t.Run(load.name, func(t *testing.T) {
			const sets = 256
			w := newTwin(sets, 8, 4)
			w.port(2, 1)
			w.port(3, 2)
			w.now.Store(1000 * second)
			var mu sync.Mutex // of what follows
			differ, list := guard.NewDiffer(sets*bpf.Ways), []guard.Delta(nil)
			told, began := map[flow.Key]bpf.Count{}, uint64(0)
			take := func() {
				for i := range list {
					d := &list[i]
					n := told[d.Key]
					told[d.Key] = bpf.Count{Packets: n.Packets + d.Packets, Bytes: n.Bytes + d.Bytes}
					if !d.Aggregate {
						began += uint64(d.Flows)
					}
				}
			}
			c := newCollector()
			c.each = func(r *flow.Record) {
				mu.Lock()
				defer mu.Unlock()
				list = differ.Left(list[:0], []flow.Record{*r})
				take()
			}
			s := sweeper(t, SweepConfig{Idle: 5 * time.Second, Active: load.active, TCPEnd: 2 * time.Second}, w, c)
			if err := s.Adopt(); err != nil {
				t.Fatal(err)
			}
			var walks sync.WaitGroup
			ended := make(chan struct{})
			walks.Go(func() {
				for at := uint64(0); ; {
					select {
					case <-ended:
						return
					default:
					}
					err := s.Walk(func(batch []flow.Record) error {
						mu.Lock()
						defer mu.Unlock()
						list = differ.Shown(list[:0], batch)
						take()
						return nil
					})
					if err != nil {
						t.Error(err)
					}
					if now := w.now.Load() / second; now != at { // as often as a guard
						at = now
						mu.Lock()
						differ.Walked()
						mu.Unlock()
					}
				}
			})
			drive(t, w, s, uint64(sets*bpf.Ways*load.percent/100), few(100_000))
			close(ended)
			walks.Wait()
			if err := s.DrainAll(flow.EndForced); err != nil {
				t.Fatal(err)
			}
			want := map[flow.Key]bpf.Count{}
			for _, from := range []map[flow.Key]bpf.Count{c.flows, c.prefixes} {
				for k, n := range from {
					want[k] = bpf.Count{Packets: want[k].Packets + n.Packets, Bytes: want[k].Bytes + n.Bytes}
				}
			}
			for input, n := range c.caught {
				want[flow.Key{Input: input}] = n
			}
			equal(t, "flow", want, told)
			if created := s.Stats().Created; began > created || load.active == 0 && began != created || differ.Full() != 0 {
				t.Errorf("%d flows began in the deltas, %d in the table; %d found no room", began, created, differ.Full())
			}
		})
	}
}
