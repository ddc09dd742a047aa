package export

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/flow"
)

// accounted says whether all that was given is sent or lost, at each
// destination.
func accounted(t *testing.T, e *Exporter, given uint64) {
	t.Helper()
	for _, st := range e.Stats() {
		n := st.Records
		for _, l := range st.Lost {
			n += l.Records
		}
		if st.GivenRecords != given || n != given || st.Queued != 0 {
			t.Fatalf("%s: sent or lost %d of %d, %d datagrams wait", st.Destination, n, given, st.Queued)
		}
	}
}

// still is a clock that stands: no timer of the exporter is ever due.
func still() func() time.Time {
	now := time.Now()
	return func() time.Time { return now }
}

// Sync leaves nothing behind, at no destination, though no datagram is full and
// no timer is due.
func TestSync(t *testing.T) {
	c := listen(t, "127.0.0.1:0").start()
	var list []Destination
	for i, v := range []string{"1", "5", "7", "9", "10", "10&template=full&mtu=400"} {
		list = append(list, parse(t, fmt.Sprintf("udp://%s?version=%s&domain=%d", c.addr(), v, 1+i)))
	}
	e, _ := running(t, Options{Destinations: list, Now: still()})
	if err := e.Sync(); err != nil { // with nothing to say
		t.Fatal(err)
	}
	records, _ := mixed(5_000, time.Now().UnixNano())
	given := uint64(0)
	for _, n := range []int{1, 2, 29, 31, 512, 0, 2048, 1} {
		e.WriteRecords(records[given:][:n])
		given += uint64(n)
		if err := e.Sync(); err != nil {
			t.Fatal(err)
		}
		accounted(t, e, given)
	}
	st := e.Stats()[5]
	c.until(t, "last record", func() bool { return c.records[flow.VersionIPFIX].records == st.Records+e.Stats()[4].Records })
}

// A destination that nobody listens at, and one without an address, lose their
// records by their own rules and hold up nobody.
func TestSyncDown(t *testing.T) {
	c := listen(t, "127.0.0.1:0").start()
	gone := listen(t, "127.0.0.1:0")
	gone.conn.Close()
	e, _ := running(t, Options{Now: still(), Destinations: []Destination{
		parse(t, "udp://"+gone.addr()), parse(t, "udp://127.0.0.1:2055?source=192.0.2.1"), parse(t, "udp://"+c.addr()),
	}})
	records, _ := mixed(1_000, time.Now().UnixNano())
	for i := range 10 {
		e.WriteRecords(records[i*100 : i*100+100])
		e.Sync()
		accounted(t, e, uint64(i+1)*100)
	}
	if n := lossOf(e.Stats()[1].Lost, resolve).Records; n != 1000 {
		t.Errorf("%d records lost for want of a socket; want all 1000", n)
	}
	if n := lossOf(e.Stats()[0].Lost, refused).Records; n == 0 {
		t.Error("none was refused, though nobody listens")
	}
	if n := e.Stats()[2].Records; n != 1000 {
		t.Errorf("%d of 1000 records reached who listens", n)
	}
}

// The pace holds: Sync waits for it.
func TestSyncPaced(t *testing.T) {
	c := listen(t, "127.0.0.1:0").start()
	e, stop := running(t, Options{Now: still(), Destinations: []Destination{parse(t, "udp://"+c.addr()+"?rate=200")}})
	e.opened(t).pace.receiver.close() // as if it were on another machine
	e.senders[0].pace.receiver = nil
	records, _ := mixed(5_000, time.Now().UnixNano())
	e.WriteRecords(records)
	e.Sync()
	stop()
	st := e.Stats()[0]
	// the bucket holds batchMax datagrams, each further one costs 5 ms
	if want := time.Duration(st.Datagrams-batchMax-1) * 4 * time.Millisecond; st.Paced < want {
		t.Errorf("%d datagrams waited %v; at least %v", st.Datagrams, st.Paced, want)
	}
	accounted(t, e, 5_000)
}

// At the end, while it ends and after it, Sync returns and all is accounted
// for.
func TestSyncAtTheEnd(t *testing.T) {
	c := listen(t, "127.0.0.1:0").start()
	records, _ := mixed(5_000, time.Now().UnixNano())
	for _, block := range []bool{false, true} {
		e, stop := running(t, Options{Block: block, Destinations: []Destination{
			parse(t, "udp://"+c.addr()+"?rate=2000&queue=16"), parse(t, "udp://"+c.addr()+"?version=5&rate=2000&queue=16"),
		}})
		e.opened(t)
		var given atomic.Uint64
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				for n := range 50 {
					e.WriteRecords(records[n*100 : n*100+100])
					given.Add(100)
					if n%3 == i {
						e.Sync()
					}
				}
				e.Sync()
			})
		}
		e.Linger(10 * time.Millisecond)
		time.Sleep(5 * time.Millisecond) // somewhere in the middle
		stop()
		wg.Wait()
		e.Sync()
		accounted(t, e, given.Load())
	}
}

// Many write and sync at a time; nothing gets lost between them.
func TestSyncConcurrently(t *testing.T) {
	c := listen(t, "127.0.0.1:0").start()
	e, stop := running(t, Options{Block: true, Destinations: []Destination{
		parse(t, "udp://"+c.addr()+"?rate=off&queue=16"), parse(t, "udp://"+c.addr()+"?rate=off&queue=16&version=10&domain=2&flush=1ms"),
	}})
	records, _ := mixed(1_000, time.Now().UnixNano())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 25 {
				e.WriteRecords(records[i*40 : i*40+40])
				e.Sync()
			}
		})
	}
	wg.Wait()
	accounted(t, e, 4_000)
	stop()
	for _, st := range e.Stats() {
		if st.Records != 4_000 {
			t.Errorf("%s: sent %d of 4000", st.Destination, st.Records)
		}
	}
}

// A Tee syncs those of its sinks that can, whatever one of them says.
func TestSyncTee(t *testing.T) {
	c := listen(t, "127.0.0.1:0").start()
	e, _ := running(t, Options{Now: still(), Destinations: []Destination{parse(t, "udp://"+c.addr())}})
	records, _ := mixed(7, time.Now().UnixNano())
	tee := flow.Tee(flow.SinkFunc(func([]flow.Record) error { return nil }), flow.Tee(e))
	if err := tee.WriteRecords(records); err != nil {
		t.Fatal(err)
	}
	if err := tee.(flow.Syncer).Sync(); err != nil {
		t.Fatal(err)
	}
	accounted(t, e, 7)
}

// unpaced is a running exporter to a socket that reads nothing, for measuring.
func unpaced(t testing.TB, version string, o Options) (e *Exporter, stop func()) {
	c := listen(t, "127.0.0.1:0")
	o.Destinations = []Destination{parse(t, "udp://"+c.addr()+"?rate=off&version="+version)}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	e.senders[0].pace.receiver.close()
	e.senders[0].pace.receiver = nil
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	return e, func() { cancel(); <-done }
}

// A batch that is written and synced allocates nothing, remembered or not.
func TestSyncAllocates(t *testing.T) {
	for _, v := range []string{"5", "9", "10"} {
		e, stop := unpaced(t, v, Options{Now: still(), Memory: make([]uint64, MemoryWords)})
		records, _ := mixed(512, time.Now().UnixNano())
		pass := func() {
			e.WriteRecords(records)
			e.Sync()
		}
		for range 50 {
			pass()
		}
		if n := testing.AllocsPerRun(200, pass); n > 0 {
			t.Errorf("version %s: %v allocations for a batch of 512", v, n)
		}
		stop()
	}
}

// What a Sync costs beside the records: batches of 512, each synced or none.
func BenchmarkSync(b *testing.B) {
	for _, v := range []string{"5", "9", "10&template=full"} {
		for _, synced := range []bool{false, true} {
			b.Run(fmt.Sprintf("v%s/sync=%v", v, synced), func(b *testing.B) {
				e, stop := unpaced(b, v, Options{Block: true, Memory: make([]uint64, MemoryWords)})
				records, _ := mixed(512, time.Now().UnixNano())
				n := 0
				for b.Loop() {
					e.WriteRecords(records)
					if synced {
						e.Sync()
					}
					n++
				}
				stop()
				b.ReportMetric(512*float64(n)/b.Elapsed().Seconds(), "records/s")
				b.ReportMetric(float64(e.Stats()[0].Octets)/float64(512*n), "B/record")
			})
		}
	}
}
