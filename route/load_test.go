package route

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// counter is a Table that costs nothing.
type counter struct {
	fake
	told []atomic.Uint32 // how often, by load's number of a route

	mu     sync.Mutex
	others []netip.Prefix // not load's: what the kernel sets by itself, or in its own time
}

func (c *counter) Invalidate(p netip.Prefix) {
	if i, ok := loaded(p); ok && i < len(c.told) {
		c.told[i].Add(1)
		return
	}
	c.mu.Lock()
	c.others = append(c.others, p)
	c.mu.Unlock()
}

func (c *counter) InvalidateAll() {}

// loaded is the number of a prefix among those that load sends.
func loaded(p netip.Prefix) (int, bool) {
	a := p.Addr()
	if !a.Is4() || p.Bits() != 24 {
		return 0, false
	}
	b := a.As4()
	return (int(b[0])-1)<<16 | int(b[1])<<8 | int(b[2]), b[0] > 0
}

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
	const routes, flaps = 20_000, 10
	table := &counter{fake: *newFake(), told: make([]atomic.Uint32, routes)}
	m := r.watch(Options{Table: table})
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
		table.mu.Lock()
		defer table.mu.Unlock()
		n := s.Invalidations - before.Invalidations
		if n < want || n > want+uint64(len(table.others)) {
			t.Errorf("%d invalidations of %d changes, and of others %v", n, want, table.others)
		}
		for i := range routes {
			least := 2
			if i < routes/10 {
				least += flaps
			}
			if n := int(table.told[i].Load()); n < least || n > 2*least {
				t.Errorf("route %d: told %d times of %d changes", i, n, least)
			}
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
	m := New(Options{Table: &counter{fake: *newFake(), told: make([]atomic.Uint32, 1<<20)}, Output: func(uint32) bool { return true }})
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
