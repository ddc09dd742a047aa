package main

import (
	"errors"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/flow"
)

// The bins are what they say: the first whose limit the mean size does not
// exceed.
func TestSizeBins(t *testing.T) {
	naive := func(packets, bytes uint64) int {
		if packets == 0 {
			return 0
		}
		for i, limit := range sizeBins {
			if float64(bytes)/float64(packets) <= float64(limit) {
				return i
			}
		}
		return len(sizeBins) - 1
	}
	for bytes := range uint64(6000) {
		if got, want := sizeBin(1, bytes), naive(1, bytes); got != want {
			t.Fatalf("%d octets are in bin %d, want %d", bytes, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		packets := rapid.Uint64Range(0, 1000).Draw(t, "packets")
		bytes := rapid.Uint64Range(0, 6000*1000).Draw(t, "bytes")
		if got, want := sizeBin(packets, bytes), naive(packets, bytes); got != want {
			t.Fatalf("%d octets in %d packets are in bin %d, want %d", bytes, packets, got, want)
		}
	})
}

func TestServices(t *testing.T) {
	for _, c := range []struct {
		want     string
		proto    uint8
		src, dst uint16
		fragment bool
	}{
		{"TCP-WWW", 6, 51000, 80, false},
		{"TCP-WWW", 6, 80, 51000, false}, // and back
		{"TCP-Telnet", 6, 51000, 23, false},
		{"TCP-FTP", 6, 51000, 21, false},
		{"TCP-FTPD", 6, 20, 51000, false},
		{"TCP-SMTP", 6, 80, 25, false}, // the destination counts first
		{"TCP-X", 6, 51000, 6063, false},
		{"TCP-other", 6, 51000, 6064, false},
		{"TCP-BGP", 6, 179, 40000, false},
		{"TCP-NNTP", 6, 40000, 119, false},
		{"TCP-other", 6, 51000, 443, false},
		{"TCP-other", 6, 51000, 53, false}, // DNS is a UDP row
		{"TCP-Frag", 6, 0, 0, true},
		{"UDP-DNS", 17, 53, 51000, false},
		{"UDP-NTP", 17, 123, 123, false},
		{"UDP-TFTP", 17, 2000, 69, false},
		{"UDP-other", 17, 2000, 80, false},
		{"UDP-Frag", 17, 0, 0, true},
		{"ICMP", 1, 0, 0x800, false},
		{"ICMP", 1, 0, 0, true},
		{"IGMP", 2, 0, 0, false},
		{"IPINIP", 4, 0, 0, false},
		{"IPv6INIP", 41, 0, 0, false},
		{"GRE", 47, 0, 0, false},
		{"ICMPv6", 58, 0, 0x8700, false},
		{"IP-other", 89, 0, 0, false},
		{"IP-other", 0, 0, 0, false},
	} {
		r := flow.Record{Proto: c.proto, SrcPort: c.src, DstPort: c.dst, Fragment: c.fragment}
		if got := serviceNames[serviceOf(&r)]; got != c.want {
			t.Errorf("protocol %d, ports %d to %d: %s, want %s", c.proto, c.src, c.dst, got, c.want)
		}
	}
}

// What a tally counts is what went through it, whichever way it is told.
func TestTallySums(t *testing.T) {
	var seen tally
	if since, _ := seen.read(); !since.IsZero() {
		t.Error("a tally that was never used knows since when")
	}
	refuse := errors.New("full")
	var fail error
	var handed int
	sink := seen.before(flow.SinkFunc(func(b []flow.Record) error {
		if fail == nil {
			handed += len(b)
		}
		return fail
	}))
	if _, ok := sink.(flow.Syncer); ok {
		t.Error("it can sync, though what is behind it cannot")
	}
	batch := make([]flow.Record, 100)
	want := counted{}
	now := time.Now().UnixNano()
	for i := range batch {
		batch[i] = flow.Record{Proto: 6, DstPort: uint16(i), Packets: uint64(i + 1), Bytes: uint64(i+1) * uint64(40+i), First: now - 3e9, Last: now - 1e9}
		want.packets += batch[i].Packets
		want.bytes += batch[i].Bytes
	}
	want.records = 100
	if err := sink.WriteRecords(batch); err != nil || handed != 100 {
		t.Fatalf("%d handed on, %v", handed, err)
	}
	fail = refuse
	if err := sink.WriteRecords(batch); !errors.Is(err, refuse) { // lost, not handed on
		t.Fatal(err)
	}
	since, got := seen.read()
	if got.counted != want || seen.present() != want || time.Since(since) > time.Minute {
		t.Errorf("%+v, want %+v", got.counted, want)
	}
	var bins uint64
	for _, n := range got.sizes {
		bins += n
	}
	var services serviceCount
	for _, c := range got.protocols {
		services.records += c.records
		services.packets += c.packets
		services.bytes += c.bytes
		services.active += c.active
		services.idle += c.idle
	}
	if bins != want.packets || services.counted != want {
		t.Errorf("%d packets by size, %+v by protocol; want %+v", bins, services.counted, want)
	}
	if services.active != 200*time.Second || services.idle < 100*time.Second || services.idle > 200*time.Second {
		t.Errorf("active %v, idle %v", services.active, services.idle)
	}

	// Another meter, after a reload: the sums go on, the present's begin.
	seen.before(flow.SinkFunc(func([]flow.Record) error { return nil })).WriteRecords(batch[:1])
	if p := seen.present(); p.records != 1 || p.packets != 1 {
		t.Errorf("of the present meter: %+v", p)
	}
	if _, all := seen.read(); all.records != 101 {
		t.Errorf("of all: %d records", all.records)
	}
}

type syncing struct{ synced int }

func (*syncing) WriteRecords([]flow.Record) error { return nil }
func (s *syncing) Sync() error                    { s.synced++; return nil }

func TestTallySyncs(t *testing.T) {
	var seen tally
	s := new(syncing)
	sync, ok := seen.before(s).(flow.Syncer)
	if !ok || sync.Sync() != nil || s.synced != 1 {
		t.Errorf("Sync does not come through: %v, %d", ok, s.synced)
	}
}

// Reading does not disturb counting.
func TestTallyWhileCounting(t *testing.T) {
	var seen tally
	sink := seen.before(flow.SinkFunc(func([]flow.Record) error { return nil }))
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 1000 {
			sink.WriteRecords([]flow.Record{{Packets: 1, Bytes: 40}})
		}
	})
	for range 100 {
		_, c := seen.read()
		if c.packets != c.records || c.bytes != 40*c.records {
			t.Errorf("half counted: %+v", c.counted)
		}
		seen.present()
	}
	wg.Wait()
}

func tallyBatch() []flow.Record {
	batch := make([]flow.Record, 256)
	for i := range batch {
		batch[i] = flow.Record{Proto: []uint8{6, 17, 6, 1}[i%4], SrcPort: uint16(i * 251), DstPort: []uint16{80, 53, 443, 0}[i%4], Packets: uint64(1 + i%9), Bytes: uint64(1+i%9) * uint64(40+i*5)}
	}
	return batch
}

func TestTallyAllocations(t *testing.T) {
	var seen tally
	sink, batch := seen.before(flow.SinkFunc(func([]flow.Record) error { return nil })), tallyBatch()
	if n := testing.AllocsPerRun(100, func() { sink.WriteRecords(batch) }); n > 0 {
		t.Errorf("%v allocations a batch, want 0", n)
	}
}

// What counting adds to each record.
func BenchmarkTally(b *testing.B) {
	var seen tally
	sink, batch := seen.before(flow.SinkFunc(func([]flow.Record) error { return nil })), tallyBatch()
	for b.Loop() {
		sink.WriteRecords(batch)
	}
	b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N*len(batch)), "ns/record")
}
