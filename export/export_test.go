package export

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/flow"
	"weir/wire"
)

// collector is a UDP socket that decodes what comes.
type collector struct {
	conn    *net.UDPConn
	mu      sync.Mutex
	dec     *wire.Decoder
	batch   wire.Batch
	records map[uint8]sum // by version
	octets  uint64
	grams   int
	options []wire.OptionsRecord
	missing int // sets without template
	slow    time.Duration
	each    func(wire.Message, []flow.Record)
	changed chan struct{}
}

func listen(t testing.TB, addr string) *collector {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Skipf("no UDP socket on %s: %v", addr, err)
	}
	c := &collector{conn: conn, dec: wire.NewDecoder(wire.Options{}), records: map[uint8]sum{}, changed: make(chan struct{}, 1)}
	t.Cleanup(func() { conn.Close() })
	return c
}

func (c *collector) start() *collector {
	go c.run()
	return c
}

func (c *collector) run() {
	buf := make([]byte, 65536)
	for {
		n, from, err := c.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		c.mu.Lock()
		c.batch.Reset()
		src := wire.Source{Addr: flow.AddrFrom(from.Addr()), Port: from.Port()}
		m, err := c.dec.Decode(&c.batch, src, time.Now().UnixNano(), buf[:n])
		if err != nil {
			panic(fmt.Sprintf("%v in %x", err, buf[:n]))
		}
		s := c.records[m.Version]
		for _, r := range c.batch.Records {
			s.add(sum{1, 1, r.Packets, r.Bytes})
		}
		if c.each != nil {
			c.each(m, c.batch.Records)
		}
		for _, o := range c.batch.Options {
			o.Fields = append([]byte(nil), o.Fields...)
			o.Scope = append([]byte(nil), o.Scope...)
			c.options = append(c.options, o)
		}
		c.records[m.Version] = s
		c.octets += uint64(n)
		c.grams++
		c.missing += m.Waiting
		slow := c.slow
		c.mu.Unlock()
		select {
		case c.changed <- struct{}{}:
		default:
		}
		time.Sleep(slow)
	}
}

func (c *collector) addr() string { return c.conn.LocalAddr().String() }

func (c *collector) got(version uint8) sum {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.records[version]
}

// until waits for a condition of what came.
func (c *collector) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		c.mu.Lock()
		done := ok()
		c.mu.Unlock()
		if done {
			return
		}
		select {
		case <-c.changed:
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatalf("no %s in 20 s; have %+v", what, c.records)
		}
	}
}

func parse(t testing.TB, s string) Destination {
	t.Helper()
	d, err := ParseDestination(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// running starts an exporter; stop ends and waits for it.
func running(t *testing.T, o Options) (e *Exporter, stop func()) {
	t.Helper()
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return e, run(t, e)
}

// run runs e; stop ends it.
func run(t *testing.T, e *Exporter) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// opened is running with the sockets, and spools, open before it begins.
func opened(t *testing.T, o Options) (e *Exporter, stop func()) {
	t.Helper()
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e, run(t, e)
}

func mixed(n int, last int64) (records []flow.Record, total sum) {
	rng := rand.New(rand.NewPCG(9, 9))
	for range n {
		r := plain(rng, last)
		records = append(records, r)
		total.add(sum{1, 1, r.Packets, r.Bytes})
	}
	return records, total
}

func lossOf(list []flow.Loss, why reason) flow.Loss {
	for _, l := range list {
		if l.Reason == reasonText[why].name {
			return l
		}
	}
	return flow.Loss{}
}

// Several destinations get everything, each in its own version; what went out
// and what was lost add up to what was given; statistics say so.
func TestSeveralDestinations(t *testing.T) {
	c := listen(t, "127.0.0.1:0").start()
	six := listen(t, "[::1]:0").start()
	var list []Destination
	for i, v := range []string{"5", "9", "10&template=full", "1", "7"} {
		list = append(list, parse(t, fmt.Sprintf("udp://%s?version=%s&domain=%d&source=127.0.0.%d", c.addr(), v, 10+i, 2+i)))
	}
	list = append(list, parse(t, fmt.Sprintf("udp://%s?version=9", six.addr())))
	e, stop := running(t, Options{
		Destinations: list, Block: true, Interfaces: func() []Interface {
			return []Interface{{Index: 1, Name: "eth0", Description: "wan", VRF: 10, VRFName: "blue"}}
		},
		Ignored: func() (uint64, uint64) { return 7, 700 },
	})
	records, total := mixed(20_000, time.Now().UnixNano())
	for i := 0; i < len(records); i += 100 {
		if err := e.WriteRecords(records[i : i+100]); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	for i, st := range e.Stats() {
		at := c
		if i == 5 {
			at = six
		}
		at.until(t, "last record", func() bool { return at.records[st.Version].records >= st.WireRecords })
		got := at.got(st.Version)
		if got.packets != st.Packets || got.octets != st.Bytes {
			t.Errorf("%s: read %+v; sent %d packets, %d octets", st.Destination, got, st.Packets, st.Bytes)
		}
		lost := lossOf(st.Lost, v5IPv6)
		if st.Records+lost.Records != total.records || st.Packets+lost.Packets != total.packets || st.Bytes+lost.Bytes != total.octets || st.GivenRecords != total.records {
			t.Errorf("%s: sent %d, lost %d of %d", st.Destination, st.Records, lost.Records, total.records)
		}
		if wantLost := st.Version < flow.VersionV9; (lost.Records > 0) != wantLost {
			t.Errorf("%s: lost %d IPv6 records", st.Destination, lost.Records)
		}
		if len(st.Lost) != int(reasons) || st.Queued != 0 {
			t.Errorf("%s: %d reasons, %d datagrams wait", st.Destination, len(st.Lost), st.Queued)
		}
	}
	var sequence wire.SequenceInfo
	r, d := c.dec.Sequences()
	sequence.Add(r)
	sequence.Add(d)
	if sequence.Lost != 0 || sequence.Restarts != 0 || sequence.Reordered != 0 || c.missing != 0 {
		t.Errorf("the collector saw %+v, %d sets without template", sequence, c.missing)
	}
	var octets uint64
	for _, st := range e.Stats()[:5] {
		octets += st.Octets
	}
	c.until(t, "last datagram", func() bool { return c.octets >= octets }) // options come after the records
	if octets != c.octets {
		t.Errorf("sent %d octets; %d came", octets, c.octets)
	}
	var told []string
	for _, o := range c.options {
		told = append(told, string(o.Scope)+string(o.Fields))
	}
	all := strings.Join(told, "\n")
	for _, want := range []string{`"VRFname":"blue"`, `"interfaceName":"eth0"`, `"interfaceDescription":"wan"`, `"ignoredPacketTotalCount":7`, `"exportedFlowRecordTotalCount":20000`, `"notSentFlowTotalCount":0`, "systemInitTimeMilliseconds"} {
		if !strings.Contains(all, want) {
			t.Errorf("no options record says %s:\n%s", want, all)
		}
	}
	if n := len(e.Endpoints()); n != 6 || e.Endpoints()[1].Remote.String() != c.addr() || e.Endpoints()[1].Local.Addr().String() != "127.0.0.3" {
		t.Errorf("endpoints %v", e.Endpoints())
	}
	if err := e.WriteRecords(records[:10]); err != nil || lossOf(e.Losses(), closed).Records != 60 {
		t.Errorf("after the end: %v, %+v", err, lossOf(e.Losses(), closed))
	}
}

// A record does not wait for its datagram to fill.
func TestFlushInTime(t *testing.T) {
	c := listen(t, "127.0.0.1:0").start()
	e, _ := running(t, Options{Destinations: []Destination{parse(t, "udp://"+c.addr()+"?flush=20ms")}})
	records, _ := mixed(3, time.Now().UnixNano())
	e.WriteRecords(records)
	c.until(t, "records without a full datagram", func() bool { return c.records[flow.VersionV9].records == 3 })
}

// A collector that reads slowly, with a small buffer, gets everything: its
// queue is watched.
func TestSlowCollector(t *testing.T) {
	c := listen(t, "127.0.0.1:0")
	c.conn.SetReadBuffer(16 << 10) // a dozen datagrams
	c.slow = time.Millisecond
	c.start()
	e, stop := running(t, Options{Destinations: []Destination{parse(t, "udp://"+c.addr()+"?rate=off&queue=64")}, Block: true})
	if !e.opened(t).pace.receiver.visible() {
		t.Skip("the kernel does not tell of sockets (sock_diag)")
	}
	records, total := mixed(20_000, time.Now().UnixNano())
	for i := 0; i < len(records); i += 500 {
		e.WriteRecords(records[i : i+500])
	}
	stop()
	c.until(t, "last record", func() bool { return c.records[flow.VersionV9].records == total.records })
	if got := c.got(flow.VersionV9); got != total {
		t.Errorf("read %+v of %+v", got, total)
	}
}

// opened waits until the first destination's socket is open.
func (e *Exporter) opened(t *testing.T) *sender {
	t.Helper()
	for range 500 {
		if len(e.Endpoints()) > 0 {
			return e.senders[0]
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("no socket in 5 s")
	return nil
}

// Nobody listens: every datagram is counted as refused, none as sent. When the
// collector is there, its first datagrams bring the templates.
func TestRefusedThenThere(t *testing.T) {
	c := listen(t, "127.0.0.1:0")
	addr := c.addr()
	c.conn.Close()
	e, stop := running(t, Options{Destinations: []Destination{parse(t, "udp://"+addr+"?refresh-packets=100000&flush=10ms")}})
	records, total := mixed(2_000, time.Now().UnixNano())
	e.WriteRecords(records)
	for range 500 {
		if lossOf(e.Losses(), refused).Records == total.records {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	l := lossOf(e.Losses(), refused)
	if st := e.Stats()[0]; l.Records != total.records || l.Packets != total.packets || l.Bytes != total.octets || st.Records != 0 || st.Octets != 0 {
		t.Fatalf("refused %+v, sent %d; want all of %+v refused", l, st.Records, total)
	}

	c = listen(t, addr).start()
	e.WriteRecords(records)
	stop()
	c.until(t, "records", func() bool { return c.records[flow.VersionV9].records == total.records })
	if c.missing != 0 {
		t.Errorf("%d sets came without their template", c.missing)
	}
}

// Without Block a full queue loses what is new, and counts it.
func TestQueueFull(t *testing.T) {
	c := listen(t, "127.0.0.1:0").start()
	e, err := New(Options{Destinations: []Destination{parse(t, "udp://"+c.addr()+"?queue=16&version=5")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	records, _ := mixed(10_000, time.Now().UnixNano())
	e.WriteRecords(records) // nobody sends yet
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Run(ctx); err != nil {
		t.Fatal(err)
	}
	st := e.Stats()[0]
	full, six := lossOf(st.Lost, queueFull), lossOf(st.Lost, v5IPv6)
	if full.Records == 0 || st.Records == 0 || st.Records+full.Records+six.Records != 10_000 {
		t.Errorf("sent %d, lost %d to the queue and %d to v5, of 10000", st.Records, full.Records, six.Records)
	}
}

// Who waits for room in the queue is let go at the end, and nothing is
// forgotten.
func TestStopWhileBlocked(t *testing.T) {
	c := listen(t, "127.0.0.1:0").start()
	e, stop := running(t, Options{Destinations: []Destination{parse(t, "udp://"+c.addr()+"?queue=16&rate=100")}, Block: true})
	records, _ := mixed(5_000, time.Now().UnixNano())
	var wrote atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.WriteRecords(records)
		wrote.Store(true)
	}()
	e.opened(t)
	stop()
	<-done
	st := e.Stats()[0]
	var lost uint64
	for _, l := range st.Lost {
		lost += l.Records
	}
	if !wrote.Load() || st.Records+lost != uint64(len(records)) {
		t.Errorf("sent %d, lost %d of %d", st.Records, lost, len(records))
	}
}

// A name that does not resolve is an error of Open; Run goes on trying and
// counts what it cannot keep.
func TestNameDoesNotResolve(t *testing.T) {
	d := parse(t, "udp://no-such-host.invalid:2055?queue=16")
	e, err := New(Options{Destinations: []Destination{d}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Open(context.Background()); err == nil || !strings.Contains(err.Error(), "export to no-such-host.invalid:2055") {
		t.Errorf("Open: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	records, total := mixed(2_000, time.Now().UnixNano())
	e.WriteRecords(records)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if l := lossOf(e.Losses(), resolve); l.Records != total.records || l.Packets != total.packets {
		t.Errorf("lost %+v of %+v", l, total)
	}
}

// Templates go out again by time, data or not; so do statistics.
func TestRefreshByTime(t *testing.T) {
	c := listen(t, "127.0.0.1:0").start()
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	e, _ := running(t, Options{
		Destinations: []Destination{parse(t, "udp://"+c.addr()+"?version=10&refresh-time=10m&options-time=1h&flush=10ms&template=cisco")},
		Now:          func() time.Time { return time.Unix(0, now.Load()) },
	})
	records, _ := mixed(1, now.Load())
	e.WriteRecords(records)
	now.Add(int64(time.Second))
	templates := func() uint64 { return e.Stats()[0].Templates }
	wait := func(n uint64) {
		t.Helper()
		for range 500 {
			if templates() == n {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%d templates sent; want %d", templates(), n)
	}
	wait(1)
	now.Add(int64(599 * time.Second))
	wait(2)
	now.Add(int64(599 * time.Second))
	time.Sleep(250 * time.Millisecond)
	wait(2)
	now.Add(int64(time.Second))
	wait(3)
}

func TestNewErrors(t *testing.T) {
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "no destination") {
		t.Errorf("New without destinations: %v", err)
	}
}

// End to end without a network's limits: what one core builds and hands to the
// kernel.
func BenchmarkExport(b *testing.B) {
	c := listen(b, "127.0.0.1:0") // which reads nothing
	for _, v := range []string{"5", "9", "10"} {
		b.Run("v"+v, func(b *testing.B) {
			e, err := New(Options{Destinations: []Destination{parse(b, "udp://"+c.addr()+"?rate=off&version="+v)}, Block: true})
			if err != nil {
				b.Fatal(err)
			}
			if err := e.Open(context.Background()); err != nil {
				b.Fatal(err)
			}
			e.senders[0].pace.receiver = nil
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			go func() { done <- e.Run(ctx) }()
			records, _ := mixed(4096, time.Now().UnixNano())
			n := 0
			for b.Loop() {
				i := n % len(records) &^ 255
				e.WriteRecords(records[i : i+256])
				n += 256
			}
			cancel()
			<-done
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(e.Stats()[0].Octets)/float64(n), "B/record")
		})
	}
}
