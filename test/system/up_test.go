package system

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/test/kernel"
)

// upConfig writes a configuration and returns its name and the store's folder.
func upConfig(t testing.TB, dir, more string) (file, store string) {
	t.Helper()
	file, store = filepath.Join(dir, "weir.yaml"), filepath.Join(dir, "store")
	text := fmt.Sprintf("control: %s\nstore: {dir: %s}\n%s\n", filepath.Join(dir, "sock"), store, more)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file, store
}

const console = "127.0.0.1:8642"

// ready waits until the console answers.
func ready(t testing.TB, p *process, ns string) {
	t.Helper()
	until(t, 20*time.Second, "the console answers", func() bool {
		select {
		case <-p.ended:
			t.Fatalf("it ended: %s", p.stderr.String())
		default:
		}
		_, err := fetch(ns, "http://"+console+"/readyz")
		return err == nil
	})
}

// talk makes traffic between the two ends of a line: TCP connections with n
// octets each way and UDP datagrams, all answered, and waits until it is over.
func talk(t testing.TB, l line, connections, octets, datagrams int) {
	t.Helper()
	var server net.Listener
	var peer net.PacketConn
	within(t, l.b, func() (err error) {
		if server, err = net.Listen("tcp4", "10.9.0.2:8080"); err != nil {
			return err
		}
		peer, err = net.ListenPacket("udp4", "10.9.0.2:5300")
		return err
	})
	defer server.Close()
	defer peer.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := peer.ReadFrom(b)
			if err != nil {
				return
			}
			peer.WriteTo(b[:n], from)
		}
	}()
	for range connections {
		var c net.Conn
		within(t, l.a, func() (err error) { c, err = net.Dial("tcp4", "10.9.0.2:8080"); return err })
		go func() { c.Write(make([]byte, octets)); c.(*net.TCPConn).CloseWrite() }()
		if n, err := io.Copy(io.Discard, c); err != nil || n != int64(octets) {
			t.Fatalf("echo of %d octets: %d, %v", octets, n, err)
		}
		c.Close()
	}
	var c net.Conn
	within(t, l.a, func() (err error) { c, err = net.Dial("udp4", "10.9.0.2:5300"); return err })
	defer c.Close()
	b := make([]byte, 2000)
	for i := range datagrams {
		c.Write(b[:1+i%1200])
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond) // the last ACK
}

// aggregate asks the API for all there is.
func aggregate(ns, filter string) (flows uint64, c count, err error) {
	text, err := fetch(ns, "http://"+console+"/api/v1/aggregate?keys=proto&limit=300&filter="+url.QueryEscape(filter))
	if err != nil {
		return 0, c, err
	}
	var answer struct {
		Columns []string `json:"columns"`
		Rows    [][]any  `json:"rows"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return 0, c, fmt.Errorf("%w: %s", err, tail(text, 500))
	}
	num := func(r []any, column string) uint64 {
		f, _ := r[slices.Index(answer.Columns, column)].(float64)
		return uint64(f)
	}
	for _, r := range answer.Rows {
		flows += num(r, "flows")
		c.add(count{num(r, "packets"), num(r, "bytes")})
	}
	return flows, c, nil
}

// All of weir in one process, on an interface with real traffic: what the
// kernel counted there is what the API and the query tell, within 10 s after
// the flows ended, and nothing is lost; the end drains what is still a flow.
func TestUpEndToEnd(t *testing.T) {
	kernel.Programs(t)
	for _, mode := range []string{"afpacket", "xdp"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			upEndToEnd(t, mode)
		})
	}
}

func upEndToEnd(t *testing.T, mode string) {
	l := newLine(t, true)
	dir := t.TempDir()
	file, store := upConfig(t, dir, "interfaces: {vb: {meter: true, mode: "+mode+"}}\ncache: {idle: 2s}")
	before := counted(t, l.b, "vb")
	p := start(t, l.b, weir, "up", "-c", file)
	ready(t, p, l.b)
	metering(t, p, l.b, mode, 1)
	if now := counted(t, l.b, "vb"); now != before {
		t.Fatalf("the line is not quiet: %+v, %+v", before, now)
	}
	since := func() count {
		now := counted(t, l.b, "vb")
		return count{now.Packets - before.Packets, now.Bytes - before.Bytes}
	}
	talk(t, l, 20, 200_000, 1000)
	want := since()
	if want.Packets < 4000 {
		t.Fatalf("only %+v travelled", want)
	}
	var got count
	var flows uint64
	until(t, 2*time.Second+10*time.Second, "the API tells all that travelled", func() bool {
		var err error
		if flows, got, err = aggregate(l.b, ""); err != nil {
			t.Fatal(err)
		}
		if got.Packets > want.Packets {
			t.Fatalf("%+v stored, %+v travelled", got, want)
		}
		return got.Packets == want.Packets
	})
	if got != want {
		t.Errorf("stored %+v, the kernel counted %+v", got, want)
	}
	if flows < 42 {
		t.Errorf("%d flows; 20 connections and one dialogue are 42", flows)
	}
	if _, c := stored(t, store); c != want {
		t.Errorf("weir query says %+v, want %+v", c, want)
	}
	_, c, err := aggregate(l.b, "proto udp and src ip 10.9.0.1")
	wantUDP := count{1000, 0}
	for i := range 1000 {
		wantUDP.Bytes += 28 + 1 + uint64(i%1200)
	}
	if err != nil || c != wantUDP {
		t.Errorf("UDP from 10.9.0.1: %+v (%v), want %+v", c, err, wantUDP)
	}
	control := filepath.Join(dir, "sock")
	noLoss(t, losses(t, l.b, control))
	for _, what := range []string{"cache", "interfaces", "export", "exporters", "templates", "store"} {
		r := must(t, l.b, weir, "show", what, "-o", "json", "--control", control)
		if !json.Valid([]byte(r.stdout)) || len(r.stdout) < 10 {
			t.Errorf("show %s: %q", what, r.stdout)
		}
	}
	if v := metric(t, l.b, console, "weir_meter_metered_packets_total"); v != float64(want.Packets) {
		t.Errorf("metric: %v metered, want %d", v, want.Packets)
	}

	// More traffic, and the end at once: the flows are still in the cache.
	talk(t, l, 3, 50_000, 200)
	want = since()
	p.stop(t)
	if _, c := stored(t, store); c != want {
		t.Errorf("after the end %+v are stored, the kernel counted %+v", c, want)
	}
	if strings.Contains(p.stderr.String(), "level=ERROR") {
		t.Errorf("errors in the log: %s", p.stderr.String())
	}
}

// The end with a cache full of flows: each of them is in the store.
func TestUpDrainsAll(t *testing.T) {
	kernel.Programs(t)
	for _, mode := range []string{"afpacket", "xdp"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			upDrainsAll(t, mode)
		})
	}
}

func upDrainsAll(t *testing.T, mode string) {
	l := newLine(t, false)
	file, store := upConfig(t, t.TempDir(), "interfaces: {vb: {meter: true, mode: "+mode+"}}\ncache: {idle: 60s}")
	p := start(t, l.b, weir, "up", "-c", file)
	ready(t, p, l.b)
	metering(t, p, l.b, mode, 1)
	out := newSender(t, l.a, "va")
	const n = 300_000
	some := make([][]byte, 0, 1000)
	for i := range n {
		f := udp4("10.7.0.1", "10.8.0.1", uint16(i), uint16(1000+i>>16), 100)
		if some = append(some, f.octets); len(some) == cap(some) {
			out.send(t, some...)
			some = some[:0]
			time.Sleep(5 * time.Millisecond)
		}
	}
	settle()
	p.stop(t)
	flows, got := stored(t, store)
	if flows != n || got != (count{n, n * 128}) {
		t.Errorf("stored %d flows of %+v, sent %d", flows, got, n)
	}
}

// An interface that goes away takes its metering with it and nothing else: what
// was metered is stored, the collector collects; when it is back, SIGHUP is
// enough.
func TestUpInterfaceGone(t *testing.T) {
	kernel.Programs(t)
	for _, mode := range []string{"afpacket", "xdp"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			upInterfaceGone(t, mode)
		})
	}
}

func upInterfaceGone(t *testing.T, mode string) {
	l := newLine(t, false)
	idle, gone := "60s", "no interface is left to meter" // the meter has ended
	if mode != "afpacket" {
		idle, gone = "2s", "an interface is gone" // the table goes on
	}
	file, store := upConfig(t, t.TempDir(), "interfaces: {vb: {meter: true, mode: "+mode+"}}\ncache: {idle: "+idle+"}")
	p := start(t, l.b, weir, "up", "-c", file)
	ready(t, p, l.b)
	metering(t, p, l.b, mode, 1)
	frames := everyKind()
	out := newSender(t, l.a, "va")
	out.send(t, octets(frames)...)
	must(t, l.b, "ip", "link", "set", "vb", "down") // that alone is no end
	time.Sleep(300 * time.Millisecond)
	must(t, l.b, "ip", "link", "set", "vb", "up")
	time.Sleep(700 * time.Millisecond)
	out.send(t, octets(frames)...)
	settle()
	must(t, l.b, "ip", "link", "del", "vb")
	p.await(t, gone)
	want := expect(append(frames, frames...)).metered
	until(t, 10*time.Second, "what was metered is stored", func() bool {
		_, got, err := aggregate(l.b, "not net 127.0.0.0/8")
		return err == nil && got == want
	})
	e := newExporter(t, l.b, "127.0.0.1", "127.0.0.1:4739", 5)
	e.send(t, e.message(20, templateSet(300), e.data(300, 20)))

	// A wrong moment for a SIGHUP, and a right one.
	p.signal(t, syscall.SIGHUP)
	p.await(t, "configuration not taken")
	must(t, l.a, "ip", "link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", l.b)
	must(t, l.a, "ip", "link", "set", "va", "up")
	must(t, l.b, "ip", "link", "set", "vb", "up")
	p.signal(t, syscall.SIGHUP)
	p.await(t, "configuration taken")
	if mode == "afpacket" {
		metering(t, p, l.b, mode, 1)
	} else {
		metering(t, p, l.b, mode, 2) // the second time
	}
	again := newSender(t, l.a, "va")
	again.send(t, octets(frames)...)
	settle()
	p.stop(t)
	want.add(expect(frames).metered)
	want.add(e.sent)
	if _, got := stored(t, store); got != want {
		t.Errorf("stored %+v, want %+v", got, want)
	}
}

// A meter of the loopback, over which it exports to itself: our exports are
// known and left out, and do not feed themselves.
func TestUpDoesNotMeterItself(t *testing.T) {
	kernel.Programs(t)
	for _, mode := range []string{"afpacket", "tc"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			upDoesNotMeterItself(t, mode)
		})
	}
}

func upDoesNotMeterItself(t *testing.T, mode string) {
	ns := namespace(t)
	dir := t.TempDir()
	file, store := upConfig(t, dir, "interfaces: {lo: {meter: true, mode: "+mode+"}}\ncache: {idle: 1s, active: 1s}\nconsole: {listen: ''}")
	p := start(t, ns, weir, "up", "-c", file)
	metering(t, p, ns, mode, 1)
	time.Sleep(2500 * time.Millisecond) // our exporter's first datagrams, and what they would breed
	var c net.Conn
	within(t, ns, func() error {
		sink, err := net.ListenPacket("udp4", "127.0.0.1:7777")
		if err != nil {
			return err
		}
		t.Cleanup(func() { sink.Close() })
		c, err = net.Dial("udp4", "127.0.0.1:7777")
		return err
	})
	defer c.Close()
	for range 40 {
		for range 25 {
			c.Write(make([]byte, 100))
		}
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond)
	p.stop(t)
	if _, got := stored(t, store, "dst port 7777"); got != (count{1000, 128_000}) {
		t.Errorf("stored %+v, sent 1000 packets of 128 octets", got)
	}
	if flows, got := stored(t, store, "not port 7777"); flows > 0 {
		t.Errorf("%d flows of %+v that nobody sent: our own exports", flows, got)
	}
}

// What cannot start says so in one line, with status 1 or 2.
func TestUpRefuses(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	var taken net.PacketConn
	var web net.Listener
	within(t, ns, func() (err error) {
		if taken, err = net.ListenPacket("udp4", "127.0.0.1:2055"); err != nil {
			return err
		}
		web, err = net.Listen("tcp4", "127.0.0.1:9999")
		return err
	})
	defer taken.Close()
	defer web.Close()
	up := func(args ...string) result {
		dir := t.TempDir()
		return do(t, ns, append([]string{weir, "up", "--control", filepath.Join(dir, "sock"), "--store", filepath.Join(dir, "store"), "--console", "127.0.0.1:0"}, args...)...)
	}
	oneLine(t, up("--listen", "udp://127.0.0.1:2055"), 1, "127.0.0.1:2055", "in use")
	oneLine(t, up("--listen", "udp://127.0.0.1:2056", "--console", "127.0.0.1:9999"), 1, "127.0.0.1:9999", "in use")
	oneLine(t, up("--listen", "udp://127.0.0.1:2056", "-i", "eth77"), 2, "eth77")
	oneLine(t, up("--listen", "127.0.0.300:1"), 2, "127.0.0.300")
	oneLine(t, up("--listen", "udp://192.0.2.77:2056"), 1, "192.0.2.77")
	oneLine(t, up("--listen", "udp://127.0.0.1:2056", "--store", "/proc/weir"), 1, "/proc/weir")
	if r := up("-c", filepath.Join(t.TempDir(), "none.yaml")); r.status != 2 || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "none.yaml: no such file") {
		t.Errorf("no such configuration: %d %q", r.status, r.stderr)
	}
	oneLine(t, do(t, ns, weir, "meter", "-i", "eth77"), 1, "eth77")
	t.Run("a-destination", func(t *testing.T) {
		kernel.Programs(t) // the interface comes first
		oneLine(t, up("--listen", "udp://127.0.0.1:2056", "-i", "lo", "--export", "carrier-pigeon://x:1"), 2, "carrier-pigeon")
	})
}

// Two of them: the second store, or console, is refused; the first goes on.
func TestUpTwice(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	dir := t.TempDir()
	file, _ := upConfig(t, dir, fmt.Sprintf("interfaces: {lo: {meter: %t}}", kernel.Loads() == nil))
	p := start(t, ns, weir, "up", "-c", file)
	ready(t, p, ns)
	oneLine(t, do(t, ns, weir, "up", "-c", file, "--listen", "udp://127.0.0.1:3055", "--console", "127.0.0.1:3642", "--control", filepath.Join(dir, "other")), 1, filepath.Join(dir, "store"))
	oneLine(t, do(t, ns, weir, "up", "-c", file, "--store", filepath.Join(dir, "other"), "--console", "127.0.0.1:3642", "--control", filepath.Join(dir, "other")), 1, "2055", "in use")
	noLoss(t, losses(t, ns, filepath.Join(dir, "sock")), "packet/own-export")
	p.stop(t)
}

// Without root the collector and the console run all the same, and weir says
// what it leaves out; asking for an interface is refused.
func TestUpWithoutRoot(t *testing.T) {
	t.Parallel()
	need(t, "setpriv")
	ns := namespace(t)
	dir, err := os.MkdirTemp("", "weir-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	asNobody := []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"}
	args := append(asNobody, weir, "up", "--store", filepath.Join(dir, "store"), "--control", filepath.Join(dir, "sock"))
	p := start(t, ns, args...)
	ready(t, p, ns)
	if log := p.stderr.String(); !strings.Contains(log, "not metering") || !strings.Contains(log, "root") {
		t.Errorf("it does not say that it does not meter: %s", log)
	}
	e := newExporter(t, ns, "127.0.0.1", "127.0.0.1:4739", 5)
	e.send(t, e.message(20, templateSet(300), e.data(300, 20)))
	until(t, 10*time.Second, "20 records", func() bool {
		flows, c, err := aggregate(ns, "")
		return err == nil && flows == 20 && c == e.sent
	})
	p.stop(t)
	oneLine(t, do(t, ns, append(args, "--interface", "lo")...), 1, "root")
	oneLine(t, do(t, ns, append(asNobody, weir, "meter", "-i", "lo")...), 1, "CAP_NET_RAW")
}
