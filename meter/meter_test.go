package meter_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/cache"
	"weir/capture"
	"weir/flow"
	"weir/meter"
	"weir/packet"
)

const second = int64(time.Second)

// frame is an Ethernet frame with an IPv4 packet of a UDP or TCP flow.
func frame(src, dst uint32, sport, dport uint16, proto, flags byte, length uint16) []byte {
	b := make([]byte, 14+20+20)
	binary.BigEndian.PutUint16(b[12:], 0x0800)
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(ip[2:], length)
	binary.BigEndian.PutUint32(ip[12:], src)
	binary.BigEndian.PutUint32(ip[16:], dst)
	binary.BigEndian.PutUint16(ip[20:], sport)
	binary.BigEndian.PutUint16(ip[22:], dport)
	ip[32], ip[33] = 0x50, flags
	return b
}

var arp = append(make([]byte, 12), 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

// traffic gives n packets of about so many flows; a tenth is not IP.
func traffic(seed uint64, n, flows int, step time.Duration) []capture.Packet {
	rng := rand.New(rand.NewPCG(seed, 0))
	now := 1_700_000_000 * second
	all := make([]capture.Packet, n)
	for i := range all {
		now += rng.Int64N(2*int64(step) + 1)
		p := capture.Packet{Time: now, Link: packet.LinkEthernet}
		if rng.IntN(10) == 0 {
			p.Data, p.Wire = arp, 60
		} else {
			f := uint32(rng.IntN(flows))
			proto, flags := byte(17), byte(0)
			if f%2 == 0 {
				if proto = 6; rng.IntN(10) == 0 {
					flags = flow.FIN
				}
			}
			length := uint16(40 + rng.IntN(1400))
			p.Data = frame(0x0a000000+f*2654435761>>8, 0xc0000200+f%7, uint16(f), 443, proto, flags, length)
			p.Wire = 14 + uint32(length)
		}
		all[i] = p
	}
	return all
}

// replay is a source of packets from memory.
type replay struct {
	packets []capture.Packet
	end     error // instead of io.EOF
	at      func(left int)
}

func (r *replay) Read(b *capture.Batch) error {
	n := min(cap(b.Packets), len(r.packets), 100)
	b.Packets = append(b.Packets[:0], r.packets[:n]...)
	r.packets = r.packets[n:]
	if r.at != nil {
		r.at(len(r.packets))
	}
	if len(r.packets) > 0 {
		return nil
	}
	if r.end != nil {
		return r.end
	}
	return io.EOF
}

func (r *replay) Close() error { return nil }

// csv is a sink that prints.
type csv struct {
	bytes.Buffer
	total
}

func (c *csv) WriteRecords(batch []flow.Record) error {
	for i := range batch {
		c.Write(batch[i].AppendCSV(nil))
		c.Write(binary.BigEndian.AppendUint64(nil, batch[i].FlowID))
	}
	return c.total.WriteRecords(batch)
}

func config(entries, workers int) meter.Config {
	c := meter.Config{Cache: cache.DefaultConfig(), Workers: workers}
	c.Cache.Entries = entries
	return c
}

func run(t testing.TB, cfg meter.Config, sink flow.Sink, sources ...capture.Source) *meter.Meter {
	t.Helper()
	m, err := meter.New(cfg, sink)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.RunFiles(context.Background(), sources...); err != nil {
		t.Fatal(err)
	}
	return m
}

// balance checks that read = metered + ignored and metered = records + lost.
func balance(t *testing.T, s meter.Summary, out *total) {
	t.Helper()
	read := s.Metered
	for _, c := range s.Ignored {
		read.Packets += c.Packets
		read.Bytes += c.Bytes
	}
	if read != s.Count {
		t.Errorf("read %+v, but metered and ignored are %+v", s.Count, read)
	}
	kept := meter.Count{Packets: out.packets, Bytes: out.bytes}
	for _, l := range s.Lost {
		kept.Packets += l.Packets
		kept.Bytes += l.Bytes
	}
	if kept != s.Metered {
		t.Errorf("metered %+v, but records and losses are %+v", s.Metered, kept)
	}
	if s.Records != out.records {
		t.Errorf("%d records counted, %d came out", s.Records, out.records)
	}
	var ended uint64
	for why, n := range s.Flows.Expired {
		if why != "active" {
			ended += n
		}
	}
	if ended != s.Flows.Created {
		t.Errorf("%d flows created, %d ended", s.Flows.Created, ended)
	}
}

func TestFiles(t *testing.T) {
	packets := traffic(1, 50000, 3000, 3*time.Millisecond)
	var want meter.Count
	arps := 0
	for i := range packets {
		if packets[i].Wire == 60 && len(packets[i].Data) == len(arp) {
			arps++
			continue
		}
		want.Packets++
		want.Bytes += uint64(packets[i].Wire) - 14
	}
	for _, workers := range []int{1, 2, 4} {
		var out total
		m := run(t, config(1<<14, workers), &out, &replay{packets: packets[:20000]}, &replay{packets: packets[20000:]})
		s := m.Summary()
		balance(t, s, &out)
		if s.Metered != want {
			t.Errorf("metered %+v, want %+v", s.Metered, want)
		}
		if got := s.Ignored["arp"]; got != (meter.Count{Packets: uint64(arps), Bytes: uint64(arps) * 60}) {
			t.Errorf("ignored %+v as arp, want %d packets", got, arps)
		}
		if len(s.Ignored) != len(packet.Reasons())+3 || len(s.Flows.Expired) != 5 || len(s.Lost) != 1 {
			t.Errorf("not all reasons are listed: %+v", s)
		}
	}
}

// The same octets come out for any number of workers: with room, without, with
// gaps, with times that go back.
func TestWorkersAgree(t *testing.T) {
	crowd := traffic(2, 60000, 20000, time.Millisecond)
	sparse := traffic(3, 3000, 200, 20*time.Second)
	back := slices.Concat(traffic(4, 5000, 900, 5*time.Millisecond), traffic(5, 5000, 900, 5*time.Millisecond))
	burst := traffic(6, 140000, 1<<30, 0) // all in one second: more than may wait
	for name, c := range map[string]struct {
		packets []capture.Packet
		entries int
	}{
		"room": {crowd, 1 << 16}, "crowd": {crowd, 2048}, "tiny": {crowd[:3000], 10}, "sparse": {sparse, 4096},
		"back": {back, 4096}, "burst": {burst, 4096},
	} {
		t.Run(name, func(t *testing.T) {
			var want csv
			m := run(t, config(c.entries, 1), &want, &replay{packets: c.packets})
			balance(t, m.Summary(), &want.total)
			one := m.Summary()
			for _, workers := range []int{2, 3, 5, 9} {
				var got csv
				m := run(t, config(c.entries, workers), &got, &replay{packets: c.packets})
				if !bytes.Equal(got.Bytes(), want.Bytes()) {
					t.Errorf("%d workers give other octets than 1: %d records, want %d", workers, got.records, want.records)
				}
				a, _ := json.Marshal(m.Summary())
				b, _ := json.Marshal(one)
				if !bytes.Equal(a, b) {
					t.Errorf("%d workers: %s\n1 worker: %s", workers, a, b)
				}
			}
		})
	}
}

// Records come out ordered by (end, key): with no expiry before the end, by key.
func TestOrder(t *testing.T) {
	var last flow.Record
	n := 0
	sink := flow.SinkFunc(func(batch []flow.Record) error {
		for i := range batch {
			r := &batch[i]
			if n++; n > 1 && bytes.Compare(last.Src[:], r.Src[:]) > 0 {
				t.Errorf("%v comes after %v", r.Src, last.Src)
			}
			last = *r
		}
		return nil
	})
	cfg := config(1<<14, 2)
	cfg.Cache.Idle, cfg.Cache.Active, cfg.Cache.TCPEnd = 0, 0, 0
	run(t, cfg, sink, &replay{packets: traffic(7, 20000, 5000, time.Millisecond)})
	if n < 4000 {
		t.Errorf("%d records", n)
	}
}

type longer uint32

func (l longer) Match(p *capture.Packet) bool { return p.Wire > uint32(l) }

func TestFilterAndSampling(t *testing.T) {
	packets := traffic(8, 40000, 1000, time.Millisecond)
	long := 0
	for i := range packets {
		if packets[i].Wire > 700 {
			long++
		}
	}
	var out total
	cfg := config(4096, 1)
	cfg.Filter = longer(700)
	s := run(t, cfg, &out, &replay{packets: packets}).Summary()
	balance(t, s, &out)
	if s.Packets != uint64(long) || s.Filtered.Packets != uint64(len(packets)-long) {
		t.Errorf("read %d and filtered %d of %d, want %d read", s.Packets, s.Filtered.Packets, len(packets), long)
	}
	out = total{}
	cfg = config(4096, 1)
	cfg.Own = func(k *flow.Key) bool { return k.SrcPort < 100 }
	s = run(t, cfg, &out, &replay{packets: packets}).Summary()
	balance(t, s, &out)
	if own := s.Ignored["own-export"].Packets; own < 2000 || own > 6000 || own+s.Metered.Packets+s.Ignored["arp"].Packets != 40000 {
		t.Errorf("a tenth of the flows is ours: %+v", s)
	}
	for _, random := range []bool{false, true} {
		out := total{}
		cfg := config(4096, 1)
		cfg.Sample = meter.Sampling{N: 10, Random: random}
		var rate uint32
		sink := flow.SinkFunc(func(b []flow.Record) error { rate = b[0].Sampling; return out.WriteRecords(b) })
		s := run(t, cfg, sink, &replay{packets: packets}).Summary()
		balance(t, s, &out)
		chosen := s.Packets - s.Ignored["not-sampled"].Packets
		if s.Packets != 40000 || rate != 10 || !random && chosen != 4000 || chosen < 3700 || chosen > 4300 {
			t.Errorf("random %v: %d chosen of %d, rate %d", random, chosen, s.Packets, rate)
		}
	}
}

// A capture that ends badly does not keep the next from being read.
func TestBadCapture(t *testing.T) {
	var out total
	m, _ := meter.New(config(4096, 1), &out)
	err := m.RunFiles(context.Background(), &replay{packets: traffic(1, 100, 10, 0), end: capture.ErrTruncated}, &replay{packets: traffic(2, 100, 10, 0)})
	if !errors.Is(err, capture.ErrTruncated) {
		t.Errorf("error %v, want %v", err, capture.ErrTruncated)
	}
	s := m.Summary()
	balance(t, s, &out)
	if s.Packets != 200 {
		t.Errorf("%d packets read, want 200", s.Packets)
	}
}

// A sink that fails ends the run; what it did not take is counted.
func TestSinkFails(t *testing.T) {
	failed := errors.New("no space left")
	for _, workers := range []int{1, 3} {
		var out total
		calls := 0
		sink := flow.SinkFunc(func(b []flow.Record) error {
			if calls++; calls > 2 {
				return failed
			}
			return out.WriteRecords(b)
		})
		m, _ := meter.New(config(4096, workers), sink)
		err := m.RunFiles(context.Background(), &replay{packets: traffic(1, 100000, 3000, 5*time.Millisecond)})
		if !errors.Is(err, failed) {
			t.Errorf("%d workers: error %v, want %v", workers, err, failed)
		}
		s := m.Summary()
		balance(t, s, &out)
		if calls != 3 {
			t.Errorf("%d workers: the sink was called %d times", workers, calls)
		}
		losses := m.Losses()
		if l := losses[len(losses)-1]; l.Reason != cache.SinkFailed || l.Packets != s.Lost[cache.SinkFailed].Packets || l.Packets == 0 {
			t.Errorf("%d workers: ledger %+v", workers, l)
		}
	}
}

// Cancelled, a run hands on what it has read.
func TestCancelled(t *testing.T) {
	for _, workers := range []int{1, 3} {
		ctx, cancel := context.WithCancel(context.Background())
		src := &replay{packets: traffic(1, 100000, 3000, time.Millisecond)}
		src.at = func(left int) {
			if left < 50000 {
				cancel()
			}
		}
		var out total
		m, _ := meter.New(config(4096, workers), &out)
		if err := m.RunFiles(ctx, src); err != nil {
			t.Errorf("error %v", err)
		}
		s := m.Summary()
		balance(t, s, &out)
		if s.Packets < 50000 || s.Packets > 60000 {
			t.Errorf("%d packets read, want a little more than 50000", s.Packets)
		}
	}
}

// The summary is a contract with scripts.
func TestSummaryJSON(t *testing.T) {
	var out total
	s := run(t, config(4096, 1), &out, &replay{packets: traffic(1, 100, 10, 0)}).Summary()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(text, &top); err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(top)), []string{"bytes", "filtered", "flows", "ignored", "lost", "metered", "packets", "records"}; !slices.Equal(got, want) {
		t.Errorf("keys %v, want %v", got, want)
	}
	for _, part := range []string{`"metered":{"packets":`, `"arp":{"packets":`, `"flows":{"created":10,"expired":{"active":0,`, `"forced":`, `"lost":{"sink-failed":{"records":0,"packets":0,"bytes":0}}`} {
		if !strings.Contains(string(text), part) {
			t.Errorf("no %s in %s", part, text)
		}
	}
}

// Steady state allocates nothing: the second half of a capture costs no more
// than a handful of slices that still grow.
func TestAllocations(t *testing.T) {
	for _, workers := range []int{1, 3} {
		packets := traffic(1, 200000, 3000, time.Millisecond)
		src := &replay{packets: packets}
		var half, end runtime.MemStats
		src.at = func(left int) {
			switch left {
			case 50000:
				runtime.ReadMemStats(&half)
			case 0:
				runtime.ReadMemStats(&end)
			}
		}
		run(t, config(1<<14, workers), &total{}, src)
		if n := end.Mallocs - half.Mallocs; half.Mallocs == 0 || n > 100 {
			t.Errorf("%d workers: %d allocations for the last 50000 packets", workers, n)
		}
	}
}

// wire is a live source: batches when the test sends them, a quiet line's tick
// otherwise.
type wire struct {
	batches chan []capture.Packet
	errs    chan error
	read    chan struct{} // one for each Read
	drops   uint64
}

func newWire() *wire {
	return &wire{batches: make(chan []capture.Packet, 100), errs: make(chan error, 10), read: make(chan struct{}, 1000)}
}

func (w *wire) Read(b *capture.Batch) error {
	b.Packets = b.Packets[:0]
	select {
	case p := <-w.batches:
		b.Packets = append(b.Packets, p...)
		return nil
	default:
	}
	select {
	case p := <-w.batches:
		b.Packets = append(b.Packets, p...)
	case err := <-w.errs:
		return err
	case <-time.After(10 * time.Millisecond):
	}
	return nil
}

func (w *wire) Close() error            { return nil }
func (w *wire) Stats() (uint64, uint64) { return 0, w.drops }

func live(t *testing.T, sink flow.Sink, wires ...*wire) (m *meter.Meter, stop func() error) {
	t.Helper()
	m, err := meter.New(config(4096, 0), sink)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	sources := make([]capture.Source, len(wires))
	for i := range wires {
		sources[i] = wires[i]
	}
	go func() { done <- m.RunLive(ctx, sources...) }()
	return m, func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			t.Fatal("RunLive did not end")
			return nil
		}
	}
}

func now(n int, flows int, ifindex uint32, egress bool) []capture.Packet {
	all := traffic(uint64(ifindex), n, flows, 0)
	for i := range all {
		all[i].Time, all[i].Interface, all[i].Egress = time.Now().UnixNano(), ifindex, egress
	}
	return all
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

// locked is a total for several goroutines, with what the records say.
type locked struct {
	mu sync.Mutex
	total
	in, out uint64 // packets of records with an input, and with an output
}

func (l *locked) WriteRecords(b []flow.Record) error {
	if !l.mu.TryLock() {
		return errors.New("the sink is called twice at the same time")
	}
	defer l.mu.Unlock()
	for i := range b {
		if b[i].Has&flow.HasInput != 0 {
			l.in += b[i].Packets
		}
		if b[i].Has&flow.HasOutput != 0 && b[i].Direction == 1 {
			l.out += b[i].Packets
		}
	}
	return l.total.WriteRecords(b)
}

func TestLive(t *testing.T) {
	var sink locked
	a, b := newWire(), newWire()
	a.drops = 7
	m, stop := live(t, &sink, a, b)
	a.batches <- now(200, 50, 2, false)
	a.errs <- capture.ErrDown // and up again
	b.batches <- now(100, 50, 3, true)
	a.batches <- now(200, 50, 2, false)
	eventually(t, "500 packets read", func() bool { return m.Snapshot().Packets == 500 })
	s := m.Snapshot()
	if s.CaptureDrops != 7 || s.Cache.Entries == 0 || len(s.Interfaces) != 2 || s.Interfaces[0].Index != 2 || s.Interfaces[0].In.Packets != 400 || s.Interfaces[1].Out.Packets != 100 {
		t.Errorf("snapshot %+v", s)
	}
	flows, err := m.Entries(context.Background())
	if err != nil || uint64(len(flows)) != s.Cache.Entries {
		t.Errorf("%d flows shown (%v), %d in the caches", len(flows), err, s.Cache.Entries)
	}
	// What is in the ring when the end comes still counts.
	late := now(300, 50, 2, false)
	for rest := late; len(rest) > 0; rest = rest[100:] {
		a.batches <- rest[:100]
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s = m.Snapshot()
	balance(t, s.Summary, &sink.total)
	if s.Packets != 800 || s.Cache.Entries != 0 {
		t.Errorf("%d packets, %d entries left", s.Packets, s.Cache.Entries)
	}
	if sink.in+sink.out != sink.packets || sink.in == 0 || sink.out == 0 {
		t.Errorf("%d packets in, %d out, of %d", sink.in, sink.out, sink.packets)
	}
	if flows, err := m.Entries(context.Background()); err != nil || len(flows) != 0 {
		t.Errorf("%d flows after the end, %v", len(flows), err)
	}
}

// A source that is gone does not end the others; its error is told at the end.
func TestLiveGone(t *testing.T) {
	var sink locked
	a, b := newWire(), newWire()
	m, stop := live(t, &sink, a, b)
	a.batches <- now(100, 5, 2, false)
	a.errs <- capture.ErrGone
	eventually(t, "100 packets", func() bool { return m.Snapshot().Packets == 100 })
	b.batches <- now(100, 5, 3, false)
	eventually(t, "200 packets", func() bool { return m.Snapshot().Packets == 200 })
	if err := stop(); !errors.Is(err, capture.ErrGone) {
		t.Errorf("error %v, want %v", err, capture.ErrGone)
	}
	balance(t, m.Summary(), &sink.total)
}

// When nobody takes records any more, metering ends and says why.
func TestLiveSinkFails(t *testing.T) {
	failed := errors.New("no space left")
	a, b := newWire(), newWire()
	m, err := meter.New(meter.Config{Cache: cache.Config{Entries: 4096, Idle: time.Nanosecond}}, flow.SinkFunc(func([]flow.Record) error { return failed }))
	if err != nil {
		t.Fatal(err)
	}
	a.batches <- now(100, 5, 2, false)
	if err := m.RunLive(context.Background(), a, b); !errors.Is(err, failed) {
		t.Errorf("error %v, want %v", err, failed)
	}
	balance(t, m.Summary(), &total{})
}
