package meter_test

import (
	"context"
	"errors"
	"testing"

	"weir/flow"
)

// Someone who looks at the flows and stays at it holds up nobody: packets are
// counted meanwhile, and another look sees them.
func TestWalkWaitsForNobody(t *testing.T) {
	var sink locked
	a, b := newWire(), newWire()
	m, stop := live(t, &sink, a, b)
	a.batches <- now(2000, 1000, 2, false)
	b.batches <- now(2000, 1000, 3, false)
	eventually(t, "4000 packets read", func() bool { return m.Snapshot().Packets == 4000 })
	looking, enough, seen := make(chan struct{}), make(chan struct{}), uint64(0)
	done := make(chan error, 1)
	go func() {
		first := true
		done <- m.Walk(context.Background(), func(batch []flow.Record) error {
			if first {
				close(looking)
				<-enough
				first = false
			}
			seen += uint64(len(batch))
			return nil
		})
	}()
	<-looking
	entries := m.Snapshot().Cache.Entries
	a.batches <- now(2000, 1000, 2, false)
	b.batches <- now(2000, 1000, 3, false)
	eventually(t, "4000 more, while someone looks", func() bool { return m.Snapshot().Packets == 8000 })
	flows, err := m.Entries(context.Background())
	if err != nil || uint64(len(flows)) != m.Snapshot().Cache.Entries {
		t.Errorf("another look: %d flows of %d, %v", len(flows), m.Snapshot().Cache.Entries, err)
	}
	close(enough)
	if err := <-done; err != nil || seen == 0 || seen > m.Snapshot().Cache.Entries || entries == 0 {
		t.Errorf("the long look saw %d flows, %v", seen, err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	balance(t, m.Summary(), &sink.total)
}

// A walk shows each flow once, with what was counted of it, and ends when it is
// told to.
func TestWalkShowsEachFlowOnce(t *testing.T) {
	var sink locked
	a := newWire()
	m, stop := live(t, &sink, a)
	a.batches <- now(3000, 1000, 2, false)
	eventually(t, "3000 packets read", func() bool { return m.Snapshot().Packets == 3000 })
	ids := map[uint64]bool{}
	var packets uint64
	batches := 0
	err := m.Walk(context.Background(), func(batch []flow.Record) error {
		batches++
		for i := range batch {
			if ids[batch[i].FlowID] {
				t.Errorf("flow %x is shown twice", batch[i].FlowID)
			}
			ids[batch[i].FlowID] = true
			packets += batch[i].Packets
		}
		return nil
	})
	if s := m.Snapshot(); err != nil || uint64(len(ids)) != s.Cache.Entries || packets != s.Metered.Packets || batches < 2 {
		t.Errorf("%d flows of %d packets in %d batches, %v; %d flows and %d packets are there", len(ids), packets, batches, err, s.Cache.Entries, s.Metered.Packets)
	}
	enough := errors.New("enough")
	if err := m.Walk(context.Background(), func([]flow.Record) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("a walk that is ended: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Walk(ctx, func([]flow.Record) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a walk whose asker is gone: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// What is in no flow is told by the interface it came in at.
func TestIgnoredByInterface(t *testing.T) {
	var sink locked
	a, b := newWire(), newWire()
	m, stop := live(t, &sink, a, b)
	bad := now(30, 5, 2, false)
	for i := range bad {
		bad[i].Data = bad[i].Data[:12] // within the Ethernet header
	}
	a.batches <- bad
	b.batches <- now(100, 5, 3, false)
	eventually(t, "130 packets", func() bool { return m.Snapshot().Packets == 130 })
	for _, i := range m.Snapshot().Interfaces {
		want := uint64(0)
		if i.Index == 2 {
			want = 30
		}
		if got := i.Ignored["truncated-link"].Packets; got != want || len(i.Ignored) < 10 {
			t.Errorf("interface %d: %d packets truncated, want %d; %v", i.Index, got, want, i.Ignored)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
