package collect

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/flow"
	"weir/test/kernel"
)

// memory is a sink that keeps what it is given.
type memory struct {
	mu      sync.Mutex
	records []flow.Record
	calls   int
	busy    bool
	wait    chan struct{} // if set, a call waits for it
	err     error
}

func (m *memory) WriteRecords(b []flow.Record) error {
	m.mu.Lock()
	if m.busy {
		panic("calls overlap")
	}
	m.busy = true
	m.mu.Unlock()
	if m.wait != nil {
		<-m.wait
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.busy = false
	m.calls++
	if m.err != nil {
		return m.err
	}
	for _, r := range b {
		r.Elements = slices.Clone(r.Elements)
		m.records = append(m.records, r)
	}
	return nil
}

func (m *memory) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.records)
}

// start runs a collector until the test, or stop, ends it. Where nothing can
// steer among several loops there is one.
func start(t *testing.T, opt Options) (c *Collector, stop func() error) {
	t.Helper()
	if kernel.Filters() != nil {
		opt.Loops = 1
	}
	opt.Log = slog.New(slog.DiscardHandler)
	c, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { stop() })
	return c, stop
}

// sender sends datagrams to the collector's first address, from a local one.
func sender(t *testing.T, c *Collector, from string) *net.UDPConn {
	t.Helper()
	to := c.Addrs()[0].(*net.UDPAddr).AddrPort()
	var local *net.UDPAddr
	if from != "" {
		local = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))
	}
	conn, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func send(t *testing.T, conn net.Conn, msg []byte) {
	t.Helper()
	if _, err := conn.Write(msg); err != nil {
		t.Fatal(err)
	}
}

// until waits for something that another goroutine makes true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited 10 s for %s", what)
}

// v5 makes a datagram of n records.
func v5(seq uint32, n int) []byte {
	b := make([]byte, 24+48*n)
	be.PutUint16(b, 5)
	be.PutUint16(b[2:], uint16(n))
	be.PutUint32(b[4:], 3600_000)
	be.PutUint32(b[8:], uint32(time.Now().Unix()))
	be.PutUint32(b[16:], seq)
	for i := range n {
		be.PutUint32(b[24+48*i+16:], 1)
		be.PutUint32(b[24+48*i+20:], 100)
	}
	return b
}

// ipfix makes a message of sets; a template set and a data set of octets and
// packets, as template 256.
func ipfix(seq uint32, sets ...[]byte) []byte {
	b := be.AppendUint16(nil, 10)
	b = be.AppendUint16(b, 0)
	b = be.AppendUint32(b, uint32(time.Now().Unix()))
	b = be.AppendUint32(be.AppendUint32(b, seq), 7)
	for _, s := range sets {
		b = append(b, s...)
	}
	be.PutUint16(b[2:], uint16(len(b)))
	return b
}

var (
	templateSet = []byte{0, 2, 0, 16, 1, 0, 0, 2, 0, 1, 0, 4, 0, 2, 0, 4}
	dataSet     = []byte{1, 0, 0, 12, 0, 0, 0, 100, 0, 0, 0, 2}
)

func lossOf(t *testing.T, c *Collector, reason string) flow.Loss {
	t.Helper()
	for _, l := range c.Losses() {
		if l.Reason == reason {
			return l
		}
	}
	t.Fatalf("no reason %q in the ledger", reason)
	return flow.Loss{}
}

func TestCollectEveryVersionOnOnePort(t *testing.T) {
	sink := &memory{}
	c, stop := start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: sink, Loops: 2})
	conn := sender(t, c, "")
	send(t, conn, v5(0, 30))
	send(t, conn, ipfix(0, templateSet, dataSet))
	send(t, conn, []byte("GET / HTTP/1.1\r\n\r\n"))
	until(t, "31 records", func() bool { return sink.len() == 31 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r := sink.records[0]
	if r.Exporter.String() != "127.0.0.1" || r.Version != 5 || r.Packets != 1 || r.Bytes != 100 || r.Received == 0 {
		t.Errorf("first record %+v", r)
	}
	ex := c.Exporters()
	if len(ex) != 2 || ex[0].Version != 5 || ex[0].Records != 30 || ex[1].Version != 10 || ex[1].Domain != 7 || ex[1].Templates != 1 {
		t.Errorf("exporters %+v", ex)
	}
	if l := lossOf(t, c, "unknown-version"); l.Datagrams != 1 || l.Bytes != 18 || l.Stage != "wire" {
		t.Errorf("%+v", l)
	}
	if tm := c.Templates(); len(tm) != 1 || tm[0].ID != 256 || len(tm[0].Fields) != 2 || tm[0].Fields[0].Name != "octetDeltaCount" {
		t.Errorf("templates %+v", tm)
	}
	if s := c.Stats(); s.Datagrams != 3 || s.Records != 31 {
		t.Errorf("%+v", s)
	}
}

// All reasons are listed, zeros too, in the same order, and each helps.
func TestLedgerListsAll(t *testing.T) {
	c, _ := start(t, Options{Listen: []string{"udp://127.0.0.1:0", "tcp://127.0.0.1:0"}, Sink: &memory{}})
	a, b := c.Losses(), c.Losses()
	if !slices.Equal(a, b) || len(a) < 20 {
		t.Errorf("%d and %d reasons", len(a), len(b))
	}
	seen := map[string]bool{}
	for _, l := range a {
		if l.Stage == "" || l.Reason == "" || l.Help == "" || seen[l.Stage+l.Reason] || l.Reason != strings.ToLower(l.Reason) {
			t.Errorf("%+v", l)
		}
		seen[l.Stage+l.Reason] = true
	}
}

// An exporter meets the same loop, and the loop is the one that steer says: the
// kernel's program and ours agree.
func TestSteering(t *testing.T) {
	kernel.SocketFilters(t) // a program that steers is of their kind
	for _, listen := range []string{"udp://127.0.0.1:0", "udp://:0"} {
		sink := &memory{}
		const loops, exporters = 4, 64
		c, stop := start(t, Options{Listen: []string{listen}, Sink: sink, Loops: loops})
		if n := c.Listeners()[0].Loops; n != loops {
			t.Fatalf("%d loops: the kernel does not take the steering program", n)
		}
		port := c.Addrs()[0].(*net.UDPAddr).Port
		for i := range exporters {
			conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 1, byte(i))}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
			if err != nil {
				t.Fatal(err)
			}
			send(t, conn, v5(0, 1))
			conn.Close()
		}
		until(t, "a record of each exporter", func() bool { return sink.len() == exporters })
		stop()
		met := 0
		for i, l := range c.udp {
			n := 0
			for _, e := range l.dec.Exporters() {
				n++
				if want := steer(flow.AddrFrom(e.Addr), loops); want != i {
					t.Errorf("%s: %v met loop %d, not %d", listen, e.Addr, i, want)
				}
			}
			if n > 0 {
				met++
			}
		}
		if met < 2 {
			t.Errorf("%s: all exporters met one loop", listen)
		}
	}
}

// Over IPv6 as well, where the machine has it.
func TestSteeringIPv6(t *testing.T) {
	kernel.SocketFilters(t) // a program that steers is of their kind
	probe, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Skipf("skipped: no IPv6 on loopback: %v", err)
	}
	probe.Close()
	sink := &memory{}
	c, stop := start(t, Options{Listen: []string{"udp://[::1]:0"}, Sink: sink, Loops: 3})
	send(t, sender(t, c, ""), v5(0, 1))
	until(t, "a record", func() bool { return sink.len() == 1 })
	stop()
	want := steer(flow.AddrFrom(netip.MustParseAddr("::1")), 3)
	if n := len(c.udp[want].dec.Exporters()); n != 1 {
		t.Errorf("loop %d met %d exporters", want, n)
	}
}

// What the kernel holds when the end is asked for is decoded and handed on.
func TestDrain(t *testing.T) {
	sink := &memory{wait: make(chan struct{})}
	c, stop := start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: sink, Loops: 1, Queue: 1})
	conn := sender(t, c, "")
	const n = 3000
	for i := range n { // the sink stands still: batches queue up, then the kernel's buffer fills
		send(t, conn, v5(uint32(i*30), 30))
	}
	stopped := make(chan error)
	go func() { stopped <- stop() }()
	close(sink.wait)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	drops := lossOf(t, c, "kernel-drops").Datagrams
	if got := sink.len(); got != (n-int(drops))*30 {
		t.Errorf("%d records of %d datagrams, %d dropped by the kernel", got, n, drops)
	}
	if s := c.Stats(); s.Records != uint64(sink.len()) || s.Datagrams != n-drops {
		t.Errorf("%+v, %d dropped", s, drops)
	}
}

// Datagrams for which there is no room are counted: sent = received + dropped.
func TestKernelDropsAreCounted(t *testing.T) {
	sink := &memory{wait: make(chan struct{})}
	c, stop := start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: sink, Loops: 1, Queue: 1, SocketBytes: 1 << 16})
	conn := sender(t, c, "")
	const n = 5000
	for i := range n {
		send(t, conn, v5(uint32(i*30), 30))
	}
	close(sink.wait)
	until(t, "what found room", func() bool { return c.Stats().Datagrams+lossOf(t, c, "kernel-drops").Datagrams == n })
	send(t, conn, v5(n*30, 30)) // sequence numbers tell of a loss when something comes after it
	until(t, "the last", func() bool { return c.Stats().Datagrams+lossOf(t, c, "kernel-drops").Datagrams == n+1 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	drops := lossOf(t, c, "kernel-drops").Datagrams
	if drops == 0 {
		t.Error("5000 datagrams found room in 64 KiB")
	}
	if got := uint64(sink.len()); got != (n+1-drops)*30 {
		t.Errorf("%d records handed on; sent %d, dropped %d", got, (n+1)*30, drops*30)
	}
	ex := c.Exporters()
	if lost := ex[0].Sequence.Lost + ex[0].Sequence.Missing; lost != drops*30 {
		t.Errorf("sequence numbers say %d records lost, the kernel dropped %d datagrams", lost, drops)
	}
}

func TestSinkFailure(t *testing.T) {
	sink := &memory{err: fmt.Errorf("disk on fire")}
	c, stop := start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: sink})
	send(t, sender(t, c, ""), v5(0, 30))
	until(t, "the loss", func() bool { return lossOf(t, c, "sink").Records == 30 })
	if err := stop(); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("Run ended with %v", err)
	}
}

// A collector that starts again, with another number of loops, decodes data
// without meeting its template again, and data that waited is not lost.
func TestStateSurvivesRestart(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	sink := &memory{}
	open := func(loops int) (*Collector, func() error) {
		return start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: sink, Loops: loops, State: state})
	}
	c, stop := open(2)
	conn := sender(t, c, "127.0.0.7:0")
	from := conn.LocalAddr().String()
	send(t, conn, ipfix(0, templateSet, dataSet))
	other := []byte{1, 1, 0, 8, 0, 0, 0, 42} // of template 257, which is not known
	send(t, conn, ipfix(1, other))
	until(t, "the data to wait", func() bool { ex := c.Exporters(); return len(ex) == 1 && ex[0].WaitingSets == 1 })
	conn.Close()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if sink.len() != 1 {
		t.Fatalf("%d records", sink.len())
	}

	c, stop = open(3)
	conn = sender(t, c, from)
	send(t, conn, ipfix(2, dataSet))
	until(t, "data without a template", func() bool { return sink.len() == 2 })
	send(t, conn, ipfix(3, []byte{0, 2, 0, 12, 1, 1, 0, 1, 0, 2, 0, 4}))
	until(t, "what waited", func() bool { return sink.len() == 3 })
	if r := sink.records[2]; r.Packets != 42 || r.Has&flow.HasBytes != 0 {
		t.Errorf("what waited is %+v", r)
	}
	ex := c.Exporters()
	if len(ex) != 1 || ex[0].Sequence.Gaps != 0 || ex[0].Sequence.Restarts != 0 {
		t.Errorf("%+v", ex)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(state + ".tmp*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A state that cannot be used is set aside, and the collector starts.
func TestBrokenState(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	sink := &memory{}
	c, stop := start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: sink, State: state})
	send(t, sender(t, c, ""), ipfix(0, templateSet, dataSet))
	until(t, "a record", func() bool { return sink.len() == 1 })
	stop()
	good, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{"empty": {}, "cut": good[:len(good)-3], "flipped": flip(good, len(good)/2), "text": []byte("templates: []\n")} {
		os.Remove(state + ".bad")
		if err := os.WriteFile(state, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		c, stop := start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: &memory{}, State: state})
		if err := stop(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(state + ".bad"); err != nil && name != "empty" {
			t.Errorf("%s: not set aside: %v", name, err)
		}
		if n := len(c.Templates()); n != 0 {
			t.Errorf("%s: %d templates came from it", name, n)
		}
	}
}

func flip(b []byte, i int) []byte {
	b = slices.Clone(b)
	b[i] ^= 0x40
	return b
}

func TestTCP(t *testing.T) {
	sink := &memory{}
	c, stop := start(t, Options{Listen: []string{"tcp://127.0.0.1:0"}, Sink: sink})
	conn, err := net.Dial("tcp", c.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	msg := slices.Concat(ipfix(0, templateSet, dataSet), ipfix(1, dataSet, dataSet))
	for i := range msg { // octet by octet: messages do not come as they were sent
		send(t, conn, msg[i:i+1])
	}
	until(t, "three records", func() bool { return sink.len() == 3 })
	if ex := c.Exporters(); len(ex) != 1 || ex[0].Sequence.Gaps != 0 {
		t.Errorf("%+v", ex)
	}
	conn.Close()
	until(t, "the templates to end with the connection", func() bool { return len(c.Templates()) == 0 })

	conn, err = net.Dial("tcp", c.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send(t, conn, ipfix(0, dataSet)) // the template was of the other connection
	send(t, conn, []byte("not IPFIX"))
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a connection that does not speak IPFIX stays open")
	}
	until(t, "the framing error", func() bool { return lossOf(t, c, "framing").Datagrams == 1 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if l := lossOf(t, c, "template-missing"); sink.len() != 3 || l.Datagrams != 1 {
		t.Errorf("%d records, %+v", sink.len(), l)
	}
}

func TestListenErrors(t *testing.T) {
	busy, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	c, _ := start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: &memory{}, Loops: 2})
	for _, at := range []string{"udp://" + busy.LocalAddr().String(), "udp://" + c.Addrs()[0].String()} {
		c, err := New(Options{Listen: []string{at}, Sink: &memory{}, Loops: 2})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "another program has the port") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", at, err)
		}
	}
	for _, url := range []string{"", "2055", "udp:2055", "udp://2055", "udp://:x", "udp://:70000", "udp://example.org:1", "sctp://:1", "tls://:1"} {
		_, err := New(Options{Listen: []string{url}, Sink: &memory{}})
		if err == nil || !strings.Contains(err.Error(), "expected udp://HOST:PORT") {
			t.Errorf("%q: %v", url, err)
		}
	}
	if _, err := New(Options{Sink: &memory{}}); err == nil {
		t.Error("nowhere to listen, and no error")
	}
}
