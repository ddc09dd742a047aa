package export

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"weir/flow"
	"weir/wire"
)

// A balanced group's destinations have each flow once, both directions of it at the
// same one, and each has lawful sequence numbers.
func TestBalance(t *testing.T) {
	var list []Destination
	var at []*collector
	for i, v := range []string{"9", "10", "5"} {
		c := listen(t, "127.0.0.1:0")
		at = append(at, c)
		list = append(list, parse(t, fmt.Sprintf("udp://%s?version=%s&balance=all&domain=%d", c.addr(), v, i+1)))
	}
	where := map[string]int{}
	var whereMu sync.Mutex
	for i, c := range at {
		c.each = func(_ wire.Message, records []flow.Record) {
			for _, r := range records {
				a, b := fmt.Sprint(r.Src, r.SrcPort), fmt.Sprint(r.Dst, r.DstPort)
				key := max(a, b) + min(a, b) + fmt.Sprint(r.Proto)
				whereMu.Lock()
				if was, ok := where[key]; ok && was != i {
					t.Errorf("%s is at %d and at %d", key, was, i)
				}
				where[key] = i
				whereMu.Unlock()
			}
		}
		c.start()
	}
	var records []flow.Record
	var total sum
	for _, r := range first(mixed(6000, time.Now().UnixNano())) {
		if r.IPVersion == 6 || r.Proto == flow.ProtoICMP {
			continue // v5 has no IPv6; v5 has ICMP's type for a port
		}
		back := r
		back.Src, back.Dst, back.SrcPort, back.DstPort = r.Dst, r.Src, r.DstPort, r.SrcPort
		records = append(records, r, back)
		total.add(sum{2, 2, 2 * r.Packets, 2 * r.Bytes})
	}
	e, stop := running(t, Options{Destinations: list, Block: true})
	give(e, records)
	stop()
	var sent sum
	for i, st := range e.Stats() {
		at[i].until(t, "last record", func() bool { return at[i].records[st.Version].records >= st.WireRecords })
		got := at[i].got(st.Version)
		sent.add(sum{st.Records, st.WireRecords, st.Packets, st.Bytes})
		if got.packets != st.Packets || got.octets != st.Bytes || st.Records != st.GivenRecords {
			t.Errorf("%s: read %+v; sent %+v", st.Destination, got, st)
		}
		if share := float64(st.Records) / float64(total.records); share < 0.28 || share > 0.39 {
			t.Errorf("%s has %.2f of the flows", st.Destination, share)
		}
		seq, _ := at[i].dec.Sequences()
		if seq.Lost != 0 || seq.Restarts != 0 || at[i].missing != 0 {
			t.Errorf("%s: %+v, %d sets without template", st.Destination, seq, at[i].missing)
		}
	}
	if sent.records != total.records || sent.packets != total.packets || sent.octets != total.octets {
		t.Errorf("sent %+v of %+v", sent, total)
	}
}

// One destination more takes flows from the others, and moves none between them.
func TestBalanceMovesLittle(t *testing.T) {
	of := func(n int) *group {
		g := &group{balance: true}
		for i := range n {
			g.senders = append(g.senders, &sender{name: mix(uint64(i) + 77)})
		}
		return g
	}
	four, five := of(4), of(5)
	moved := 0
	records := first(mixed(5000, 1e18))
	for i := range records {
		a, b := four.share(&records[i]), five.share(&records[i])
		switch {
		case b == 4:
			moved++
		case a != b:
			t.Fatalf("a flow went from %d to %d", a, b)
		}
	}
	if moved < 850 || moved > 1150 {
		t.Errorf("%d of 5000 moved to the fifth", moved)
	}
}

// The rules of fail-over, on a clock of the test's own.
func TestFailOverChoice(t *testing.T) {
	now := time.Now()
	e, err := New(Options{Destinations: []Destination{
		parse(t, "udp://127.0.0.1:9?failover=g&priority=5&hold=30s"),
		parse(t, "udp://127.0.0.1:10?failover=g&priority=1&hold=30s"),
		parse(t, "udp://127.0.0.1:11?failover=g&priority=9&hold=30s"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	g := e.groups[0]
	fails := func(i int) { g.senders[i].badAt = now }
	is := func(want int, why string) {
		t.Helper()
		if g.choose(now); g.current != want {
			t.Errorf("%s: %d is current; want %d", why, g.current, want)
		}
		for i, s := range g.senders {
			if s.standby != (i != want) {
				t.Errorf("%s: standby of %d is %v", why, i, s.standby)
			}
		}
	}
	if g.senders[0].dest.Port != 10 || g.senders[2].dest.Port != 11 {
		t.Fatal("not in the order of priority")
	}
	is(0, "at the start")
	fails(0)
	is(1, "the first failed")
	now = now.Add(20 * time.Second)
	is(1, "the first has not been well for long")
	fails(1)
	is(0, "the second failed, and the first is well though not for long")
	fails(0)
	is(2, "both failed")
	fails(2)
	is(2, "all failed: it stays")
	now = now.Add(29 * time.Second)
	is(2, "nobody better has been well for long")
	now = now.Add(time.Second)
	is(0, "the best has")
}

// Over UDP a collector that is gone is noticed by what comes back; another one gets
// the flows until the first has answered no more for a while. All is accounted for.
func TestFailOverUDP(t *testing.T) {
	primary, backup := listen(t, "127.0.0.1:0").start(), listen(t, "127.0.0.1:0").start()
	e, stop := running(t, Options{Destinations: []Destination{
		parse(t, "udp://"+primary.addr()+"?version=9&failover=g&hold=300ms&flush=1ms"),
		parse(t, "udp://"+backup.addr()+"?version=10&failover=g&hold=300ms&flush=1ms&priority=1"),
	}})
	var given sum
	records, _ := mixed(10, time.Now().UnixNano())
	feed := func(what string, until func() bool) {
		t.Helper()
		for range 2000 {
			give(e, records)
			for _, r := range records {
				given.add(sum{1, 1, r.Packets, r.Bytes})
			}
			time.Sleep(5 * time.Millisecond)
			if until() {
				return
			}
		}
		t.Fatalf("no %s: %+v", what, e.Stats())
	}
	feed("record at the first", func() bool { return primary.got(9).records > 0 })
	addr := primary.addr()
	primary.conn.Close()
	feed("record at the second", func() bool { return backup.got(10).records > 0 })
	if st := e.Stats()[0]; st.State != "failing" || st.Error == "" || !st.Standby {
		t.Errorf("the first is %+v", st)
	}
	again := listen(t, addr).start()
	feed("return to the first", func() bool { return again.got(9).records > 0 })
	stop()
	var sent, lost sum
	for _, st := range e.Stats() {
		sent.add(sum{st.Records, st.WireRecords, st.Packets, st.Bytes})
		for _, l := range st.Lost {
			lost.add(sum{l.Records, l.Records, l.Packets, l.Bytes})
		}
	}
	again.until(t, "last record", func() bool {
		return primary.got(9).records+again.records[9].records+backup.got(10).records >= sent.records
	})
	if sent.records+lost.records != given.records || sent.packets+lost.packets != given.packets {
		t.Errorf("sent %+v, lost %+v of %+v", sent, lost, given)
	}
	if got := primary.got(9).records + again.got(9).records + backup.got(10).records; got != sent.records {
		t.Errorf("received %d; sent %d", got, sent.records)
	}
	if again.missing+backup.missing > 0 {
		t.Error("data before templates")
	}
}

// A connected destination that is away hands over at once; what was given to it
// before waits for it and comes when it is back.
func TestFailOverConnected(t *testing.T) {
	primary := newStation(t, "tcp", nil)
	backup := listen(t, "127.0.0.1:0").start()
	e, stop := running(t, Options{Destinations: []Destination{
		parse(t, "tcp://"+primary.addr+"?failover=g&hold=100ms&flush=1ms"),
		parse(t, "udp://"+backup.addr()+"?failover=g&priority=1&flush=1ms"),
	}})
	records, _ := mixed(30, time.Now().UnixNano())
	give(e, records[:10])
	primary.until("first records", func() bool { return primary.got.records == 10 })
	primary.kill()
	primary.until("notice", func() bool { return e.Stats()[0].State == "away" })
	give(e, records[10:20])
	backup.until(t, "records at the second", func() bool { return backup.records[9].records == 10 })
	primary.open()
	primary.until("connection", func() bool { return e.Stats()[0].Connections == 2 })
	time.Sleep(120 * time.Millisecond) // the hold
	give(e, records[20:])
	primary.until("last records", func() bool { return primary.got.records == 20 })
	stop()
}

// A destination gets what its filter lets pass, and says what it kept back.
func TestFilter(t *testing.T) {
	c := listen(t, "127.0.0.1:0").start()
	o := Options{
		Destinations: []Destination{parse(t, "udp://"+c.addr()+"?filter=tcp"), parse(t, "udp://"+c.addr()+"?version=10")}, Block: true,
		Filter: func(text string) (func(*flow.Record) bool, error) {
			if text != "tcp" {
				return nil, errors.New("what?")
			}
			return func(r *flow.Record) bool { return r.Proto == flow.ProtoTCP }, nil
		},
	}
	records, total := mixed(2000, time.Now().UnixNano())
	tcp := uint64(0)
	for _, r := range records {
		if r.Proto == flow.ProtoTCP {
			tcp++
		}
	}
	e, stop := running(t, o)
	give(e, records)
	stop()
	for i, want := range []uint64{tcp, total.records} {
		st := e.Stats()[i]
		c.until(t, "last record", func() bool { return c.records[st.Version].records >= want })
		if st.GivenRecords != want || st.Records != want || st.Filtered != total.records-want || c.got(st.Version).records != want {
			t.Errorf("%+v", st)
		}
	}
	o.Destinations[0].Filter = "udp or"
	if _, err := New(o); err == nil {
		t.Error("a filter that cannot be read was taken")
	}
}

// Datagrams to a multicast group reach who joined it on the interface named.
func TestMulticast(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skip("no interface lo: multicast is not tested")
	}
	conn, err := net.ListenMulticastUDP("udp4", lo, &net.UDPAddr{IP: net.IPv4(239, 255, 77, 7)})
	if err != nil {
		t.Skipf("no multicast here: %v", err)
	}
	c := &collector{conn: conn, dec: wire.NewDecoder(wire.Options{}), records: map[uint8]sum{}, changed: make(chan struct{}, 1)}
	t.Cleanup(func() { conn.Close() })
	c.start()
	port := netip.MustParseAddrPort(c.addr()).Port()
	e, stop := running(t, Options{Destinations: []Destination{parse(t, fmt.Sprintf("udp://239.255.77.7:%d?interface=lo&ttl=3&source=127.0.0.1", port))}, Block: true})
	records, total := mixed(500, time.Now().UnixNano())
	give(e, records)
	stop()
	c.until(t, "last record", func() bool { return c.records[9].records == total.records })
	if _, err := New(Options{}); err == nil {
		t.Error("no destination")
	}
	bad := Destination{Host: "239.255.77.7", Port: 9, Interface: "nowhere0"}
	if _, err := openSocket(t.Context(), bad.withDefaults()); err == nil {
		t.Error("an interface that is not there was taken")
	}
}

func first(records []flow.Record, _ sum) []flow.Record { return records }

// Sharing and filtering cost no memory once everything has been seen.
func TestGroupsDoNotAllocate(t *testing.T) {
	if testing.Short() {
		t.Skip("not in short runs, which are for the race detector: it says nothing about allocations")
	}
	o := Options{Filter: func(string) (func(*flow.Record) bool, error) {
		return func(r *flow.Record) bool { return r.Proto == flow.ProtoTCP }, nil
	}}
	for _, to := range []string{
		"udp://127.0.0.1:9?balance=b&queue=16&filter=tcp", "udp://127.0.0.1:10?balance=b&queue=16", "udp://127.0.0.1:11?failover=f&queue=16",
		"tcp://127.0.0.1:9?failover=f&priority=1&queue=16", "tcp://127.0.0.1:9?fields=src,dst,bytes&queue=16",
	} {
		o.Destinations = append(o.Destinations, parse(t, to))
	}
	e, err := New(o) // nobody runs it: the queues fill, and what is lost is counted
	if err != nil {
		t.Fatal(err)
	}
	records, _ := mixed(256, time.Now().UnixNano())
	for range 3000 {
		e.WriteRecords(records)
	}
	if n := testing.AllocsPerRun(300, func() { e.WriteRecords(records) }); n >= 1 {
		t.Errorf("%.1f allocations for a batch of 256 records and 5 destinations", n)
	}
	if lossOf(e.Losses(), away).Records == 0 || lossOf(e.Losses(), resolve).Records == 0 {
		t.Error("the queues are not full: the test shows nothing")
	}
}
