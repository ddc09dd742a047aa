package route

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// counter is a Table that costs nothing.
type counter struct {
	fake
	prefixes, all atomic.Uint64
}

func (c *counter) Invalidate(netip.Prefix) { c.prefixes.Add(1) }
func (c *counter) InvalidateAll()          { c.all.Add(1) }

// load sends so many routes of a BGP table (/24s from 1.0.0.0 on) to the kernel,
// or withdraws them.
func (s *space) load(kind, flags uint16, from, n int, gateway netip.Addr) (refused int) {
	s.t.Helper()
	var err error
	s.in(func() {
		var a *asker
		if a, err = openAsker(unix.NETLINK_ROUTE); err != nil {
			return
		}
		defer a.close()
		b := make([]byte, 0, 64<<10)
		for i := from; i < from+n && err == nil; i++ {
			at := len(b)
			b = a.begin(b, kind, flags)
			b = append(b, unix.AF_INET, 24, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BIRD, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0)
			b = appendAttr(b, unix.RTA_DST, []byte{byte(1 + i>>16), byte(i >> 8), byte(i), 0})
			b = finish(appendAttr(b, unix.RTA_GATEWAY, gateway.AsSlice()), at)
			if len(b) > 30<<10 || i == from+n-1 {
				var no int
				no, err = a.send(b)
				refused += no
				b = b[:0]
			}
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return refused
}

// A table is loaded, flaps, and goes. Each message is heard, or it is known
// that some were not.
func TestTableIsLoadedAndFlaps(t *testing.T) {
	r, p := newSpace(t), newSpace(t)
	cable(r, p, "a", "x", "10.0.0.1/24", "10.0.0.2/24")
	gw, other := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	table := &counter{fake: *newFake()}
	m := r.watch(Options{Table: table})
	const routes, flaps = 20_000, 10
	before := m.Snapshot()
	refused := r.load(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, 0, routes, gw)
	for i := range flaps {
		refused += r.load(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, 0, routes/10, []netip.Addr{other, gw}[i%2])
	}
	refused += r.load(unix.RTM_DELROUTE, 0, 0, routes, gw)
	if refused != 0 {
		t.Fatalf("the kernel refuses %d", refused)
	}
	const want = 2*routes + flaps*routes/10
	eventually(t, "all is heard, or said to be lost", func() bool {
		s := m.Snapshot()
		return s.Routes4-before.Routes4 == want || s.Overruns > before.Overruns && s.InvalidationsAll > before.InvalidationsAll
	})
	if s := m.Snapshot(); s.Overruns == 0 {
		if n := s.Invalidations - before.Invalidations; n != want {
			t.Errorf("%d invalidations of %d changes", n, want)
		}
	} else {
		t.Logf("%d overruns", s.Overruns)
	}
}

// BenchmarkTable loads a full BGP table, and says what listening costs its
// thread.
func BenchmarkTable(b *testing.B) {
	const routes = 900_000
	gw := netip.MustParseAddr("10.0.0.2")
	listening(b, func(r *space) {
		for b.Loop() {
			r.load(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, 0, routes, gw)
		}
	})
}

// BenchmarkFlapping changes 5000 routes a second of such a table.
func BenchmarkFlapping(b *testing.B) {
	gateways := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")}
	listening(b, func(r *space) {
		for i := 0; b.Loop(); i++ {
			next := time.Now().Add(10 * time.Millisecond)
			r.load(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, i*50%50_000, 50, gateways[i/1000%2])
			time.Sleep(time.Until(next))
		}
	})
}

// listening runs a Monitor while routes change, and reports its thread's CPU time.
func listening(b *testing.B, change func(r *space)) {
	r, p := newSpace(b), newSpace(b)
	cable(r, p, "a", "x", "10.0.0.1/24", "10.0.0.2/24")
	m := New(Options{Table: &counter{fake: *newFake()}, Output: func(uint32) bool { return true }})
	ctx, cancel := context.WithCancel(context.Background())
	used := make(chan time.Duration)
	go thread(func() {
		if err := unix.Setns(r.fd, unix.CLONE_NEWNET); err != nil {
			b.Error(err)
		} else if err := m.Run(ctx); err != nil {
			b.Error(err)
		}
		used <- usage()
	})
	eventually(b, "the first listing", func() bool { return m.Snapshot().Listings > 0 })
	change(r)
	b.StopTimer()
	time.Sleep(5 * settle)
	cancel()
	cpu, s := <-used, m.Snapshot()
	b.ReportMetric(cpu.Seconds()/float64(s.Routes4)*1e6, "CPU-s/million")
	b.ReportMetric(100*cpu.Seconds()/b.Elapsed().Seconds(), "%CPU")
	b.ReportMetric(float64(s.Routes4)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(s.Overruns), "overruns")
}

// usage is the CPU time of the calling thread.
func usage() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_THREAD, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
