package demo

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/flow"
	"weir/wire"
)

func TestNewErrors(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{To: ""}, "HOST:PORT of a collector on this machine"},
		{Options{To: "127.0.0.1:0"}, "HOST:PORT of a collector on this machine"},
		{Options{To: "192.0.2.1:2055"}, "a loopback address, as the flows are made up"},
		{Options{To: "127.0.0.1:1", Rate: -1}, "accepted: 1 to 100000"},
		{Options{To: "127.0.0.1:1", Backfill: 48 * time.Hour}, "accepted: 0 to 24h"},
	} {
		if _, err := New(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v; want %q in it", c.o, err, c.want)
		}
	}
	if n, err := New(Options{To: ":2055"}); err != nil || n.to.String() != "127.0.0.1:2055" {
		t.Errorf("to any address: %v, %v; want loopback", n, err)
	}
}

// The same seed tells the same story, another one another.
func TestDeterministic(t *testing.T) {
	at := time.Unix(1_750_000_000, 0)
	tell := func(seed uint64) (all []told) {
		tr := newTraffic(rand.New(rand.NewPCG(seed, 1)))
		for i := range 5000 {
			all = append(all, tr.next(at.Add(time.Duration(i)*time.Second), 1)...)
		}
		return all
	}
	same := func(a, b []told) bool {
		return slices.EqualFunc(a, b, func(x, y told) bool {
			return x.device == y.device && x.Src == y.Src && x.Dst == y.Dst && x.Bytes == y.Bytes && x.First == y.First && x.FlowID == y.FlowID
		})
	}
	a := tell(1)
	if !same(a, tell(1)) {
		t.Error("the same seed tells two stories")
	}
	if same(a, tell(2)) {
		t.Error("two seeds tell one story")
	}
}

// What is told could be true: sizes, times, ports and families agree.
func TestPlausible(t *testing.T) {
	tr := newTraffic(rand.New(rand.NewPCG(1, 1)))
	start := time.Unix(1_750_000_000, 0)
	protos, devices6, sources := map[uint8]int{}, map[int]int{}, map[flow.Addr]int{}
	n := 0
	for i := range 40_000 {
		end := start.Add(time.Duration(i) * 50 * time.Millisecond)
		for _, r := range tr.next(end, 1) {
			n++
			protos[r.Proto]++
			sources[r.Src]++
			if !r.Src.Is4() {
				devices6[r.device]++
			}
			if r.Src.Is4() != r.Dst.Is4() {
				t.Fatalf("%v talks to %v", r.Src, r.Dst)
			}
			if r.First > r.Last || r.Last > end.UnixNano() || r.Last-r.First > int64(time.Minute) {
				t.Fatalf("from %d to %d, ended by %v", r.First, r.Last, end)
			}
			if r.Packets == 0 || r.Bytes/r.Packets < 40 || r.Bytes/r.Packets > 9000 {
				t.Fatalf("%d packets of %d octets together", r.Packets, r.Bytes)
			}
			if r.Proto == flow.ProtoICMP && (r.SrcPort != 0 || r.DstPort != uint16(r.ICMPType)<<8|uint16(r.ICMPCode)) {
				t.Fatalf("ICMP %d/%d with ports %d, %d", r.ICMPType, r.ICMPCode, r.SrcPort, r.DstPort)
			}
		}
	}
	if devices6[branch] != 0 {
		t.Error("the v5 switch tells of IPv6")
	}
	if len(devices6) < 4 || len(protos) < 5 || len(sources) < 1000 {
		t.Errorf("%d records: %d devices with IPv6, protocols %v, %d sources: too plain", n, len(devices6), protos, len(sources))
	}
	most := 0
	for _, k := range sources {
		most = max(most, k)
	}
	if most*100 < n/2 || most > n/3 {
		t.Errorf("the first of %d sources has %d of %d records: no Zipf", len(sources), most, n)
	}
}

// The curve has a night, and never stops.
func TestCurve(t *testing.T) {
	least, top := 9.0, 0.0
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for m := range 24 * 60 {
		v := curve(at.Add(time.Duration(m) * time.Minute))
		least, top = min(least, v), max(top, v)
	}
	if least < .3 || least > .65 || top < .8 || top > 1.2 {
		t.Errorf("from %.2f to %.2f of the busiest hour", least, top)
	}
}

// A collector gets six exporters within seconds: all versions, an hour of
// history, names, sampling; nothing lost or out of order.
func TestNetwork(t *testing.T) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadBuffer(4 << 20)
	n, err := New(Options{To: conn.LocalAddr().String(), Seed: 1, Rate: 20, Backfill: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- n.Run(ctx) }()

	dec := wire.NewDecoder(wire.Options{})
	var b wire.Batch
	records, versions, minutes := map[flow.Addr]int{}, map[uint8]int{}, map[int64]int{}
	sampled, live := 0, 0
	buf := make([]byte, 65536)
	stopped := false
	for {
		conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		size, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			break
		}
		b.Reset()
		now := time.Now().UnixNano()
		m, err := dec.Decode(&b, wire.Source{Addr: flow.AddrFrom(from.Addr()), Port: from.Port()}, now, buf[:size])
		if err != nil || m.Waiting > 0 {
			t.Fatalf("%+v: %v", m, err)
		}
		for _, r := range b.Records {
			records[flow.AddrFrom(from.Addr())]++
			versions[m.Version]++
			age := now - r.Last
			if age < -int64(time.Second) || age > int64(time.Hour+time.Minute) {
				t.Fatalf("a record that ended %v ago", time.Duration(age))
			}
			minutes[age/int64(time.Minute)]++
			if r.Last > start.UnixNano() {
				live++
			}
			if r.Has&flow.HasSampling != 0 && r.Sampling == 100 {
				sampled++
			}
		}
		if !stopped && live > 30 {
			stopped = true
			cancel()
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(records) != len(devices) || len(versions) != 3 || len(minutes) < 55 || sampled == 0 || live < 30 {
		t.Errorf("exporters %v, versions %v, %d minutes of history, %d sampled, %d live", records, versions, len(minutes), sampled, live)
	}
	names := len(dec.Interfaces())
	r, d := dec.Sequences()
	if names < 10 || r.Lost+d.Lost != 0 {
		t.Errorf("%d interface names, %d lost", names, r.Lost+d.Lost)
	}
	for _, s := range n.Stats() {
		if s.GivenRecords != s.Records {
			t.Errorf("%s: %d records of %d sent", s.Destination, s.Records, s.GivenRecords)
		}
	}
}

func BenchmarkTraffic(b *testing.B) {
	tr := newTraffic(rand.New(rand.NewPCG(1, 1)))
	at := time.Now()
	n := 0
	for b.Loop() {
		n += len(tr.next(at, 1))
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
}
