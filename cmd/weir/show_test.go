package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"weir/cache"
	"weir/config"
	"weir/control"
	"weir/flow"
	"weir/meter"
	"weir/query"
)

func addrOf(s string) flow.Addr { return flow.AddrFrom(netip.MustParseAddr(s)) }

func familyOf(s string) uint8 {
	if netip.MustParseAddr(s).Is4() {
		return 4
	}
	return 6
}

// fakeMeter has the flows that a test gives it.
type fakeMeter struct {
	mu       sync.Mutex // of the snapshot
	flows    []flow.Record
	snapshot meter.Snapshot
	broken   error // of a walk, after the first flows
	walks    atomic.Int32
	at       chan struct{} // if set, a walk waits here for its end
}

func (f *fakeMeter) Snapshot() meter.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.snapshot
}

func (f *fakeMeter) Losses() []flow.Loss {
	return []flow.Loss{{Stage: "packet", Reason: "arp", Packets: f.Snapshot().Ignored["arp"].Packets, Help: "no IP"}}
}

func (f *fakeMeter) Entries(context.Context) ([]flow.Record, error) { return f.flows, nil }

func (f *fakeMeter) Walk(ctx context.Context, yield func([]flow.Record) error) error {
	f.walks.Add(1)
	if f.at != nil {
		select {
		case <-f.at:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for rest := f.flows; len(rest) > 0; {
		n := min(len(rest), 1000)
		if err := yield(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
		if f.broken != nil {
			return f.broken
		}
	}
	return nil
}

// someFlows are n flows of all kinds; the i-th has 100*i octets.
func someFlows(n int) []flow.Record {
	list := make([]flow.Record, n)
	now := time.Now().UnixNano()
	for i := range list {
		r := ciscoRecord([]uint8{6, 17, 6}[i%3], fmt.Sprintf("10.0.%d.%d", i/250%250, i%250), uint16(20000+i%40000), fmt.Sprintf("192.0.2.%d", i%7), []uint16{443, 53, 80, 22}[i%4], uint64(1+i%50), uint64(100*i))
		if i%11 == 10 {
			r.Src, r.Dst, r.IPVersion = addrOf(fmt.Sprintf("2001:db8::%x:%x", i>>16, i&0xffff)), addrOf("2001:db8::1"), 6
		}
		r.First, r.Last = now-int64(i%977)*1e9, now-int64(i%13)*1e8
		if r.First > r.Last {
			r.First = r.Last
		}
		r.FlowID, r.Sampling = uint64(i), 1
		r.Has |= flow.HasFlowID | flow.HasSampling
		list[i] = r
	}
	return list
}

// running starts a node that can be asked about m, and returns its socket.
func running(t testing.TB, m metering) (control string, n *node) {
	t.Helper()
	conf := config.Default()
	conf.Control = filepath.Join(t.TempDir(), "sock")
	n = meterNode(conf, slog.New(slog.DiscardHandler))
	t.Cleanup(n.answering(context.Background(), m, nil))
	for range 1000 {
		if c, err := net.Dial("unix", conf.Control); err == nil {
			c.Close()
			return conf.Control, n
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("the control socket does not answer")
	return
}

// show runs `weir show` and returns its exit status and output.
func show(t testing.TB, control string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	var out, errs bytes.Buffer
	status = run(context.Background(), append([]string{"--control", control, "show"}, args...), strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

func mustShow(t testing.TB, control string, args ...string) string {
	t.Helper()
	status, out, errs := show(t, control, args...)
	if status != 0 {
		t.Fatalf("show %v: exit status %d: %s", args, status, errs)
	}
	return out
}

// lines reads CSV and checks its header.
func csvLines(t testing.TB, text string, header string) [][]string {
	t.Helper()
	all, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil || len(all) == 0 {
		t.Fatalf("csv: %v: %q", err, text)
	}
	if got := strings.Join(all[0], ","); got != header {
		t.Errorf("columns\n got %s\nwant %s", got, header)
	}
	return all[1:]
}

const flowHeader = "first,last,proto,src,sport,dst,dport,tos,tcp_flags,packets,bytes,input,output,direction,vlan,icmp_type,icmp_code," +
	"next_hop,bgp_next_hop,src_as,dst_as,src_mask,dst_mask,sampling,end_reason,forwarding_status,exporter,domain,version,received,elements"

// The flows that come out are those that a filter says, all of them, in full,
// in every format.
func TestShowFlows(t *testing.T) {
	m := &fakeMeter{flows: someFlows(5000)}
	socket, _ := running(t, m)
	for _, filter := range []string{"", "proto tcp and port 443", "src net 10.0.3.0/24 or ipv6", "bytes > 400k and packets < 10", "not any", "src_as = unknown and duration > 1000"} {
		f, err := query.Parse(filter)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for i := range m.flows {
			if f.Match(&m.flows[i]) {
				want = append(want, strings.TrimSuffix(string(m.flows[i].AppendCSV(nil)), "\n"))
			}
		}
		slices.Sort(want)
		out := mustShow(t, socket, "flows", "-o", "csv", filter)
		got := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		csvLines(t, out, flowHeader)
		got = got[1:]
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%q: %d flows, want %d", filter, len(got), len(want))
		}
		var objects []map[string]any
		if err := json.Unmarshal([]byte(mustShow(t, socket, "flows", "-o", "json", filter)), &objects); err != nil || len(objects) != len(want) {
			t.Errorf("%q: %d objects, want %d, %v", filter, len(objects), len(want), err)
		}
		if n := strings.Count(mustShow(t, socket, "flows", "-o", "ndjson", filter), "\n"); n != len(want) {
			t.Errorf("%q: %d lines of ndjson, want %d", filter, n, len(want))
		}
		if n := strings.Count(mustShow(t, socket, "flows", "-n", "0", filter), "\n") - 1; n != len(want) {
			t.Errorf("%q: %d lines of a table, want %d", filter, n, len(want))
		}
	}
}

// A table has the hundred largest and says so; -n and -O choose others.
func TestShowFlowsInOrder(t *testing.T) {
	m := &fakeMeter{flows: someFlows(3000)}
	socket, _ := running(t, m)
	status, out, errs := show(t, socket, "flows")
	if status != 0 || strings.Count(out, "\n") != 101 || !strings.Contains(errs, "the first 100 of 3000 flows, by bytes") {
		t.Errorf("%d, %d lines, %q", status, strings.Count(out, "\n"), errs)
	}
	if status, _, errs := show(t, socket, "flows", "-n", "7"); status != 0 || errs != "" {
		t.Errorf("who says how many is told nothing: %d %q", status, errs)
	}
	column := func(name string, args ...string) (list []float64) {
		at := slices.Index(strings.Split(flowHeader, ","), name)
		for _, line := range csvLines(t, mustShow(t, socket, append([]string{"flows", "-o", "csv"}, args...)...), flowHeader) {
			if v, err := time.Parse(time.RFC3339Nano, line[at]); err == nil {
				list = append(list, float64(v.UnixMicro()))
			} else if v, err := strconv.ParseFloat(line[at], 64); err == nil {
				list = append(list, v)
			}
		}
		return list
	}
	for _, c := range []struct {
		order, column string
		ascending     bool
	}{{"bytes", "bytes", false}, {"packets", "packets", false}, {"packets:a", "packets", true}, {"first", "first", false}, {"last", "last", false}, {"first:a", "first", true}, {"tstart", "first", true}} {
		got := column(c.column, "-n", "50", "-O", c.order)
		sorted := slices.Sorted(slices.Values(got))
		if !c.ascending {
			slices.Reverse(sorted)
		}
		if len(got) != 50 || !slices.Equal(got, sorted) {
			t.Errorf("-O %s: %v", c.order, got)
		}
	}
	if got := column("bytes", "-n", "1"); len(got) != 1 || got[0] != 299900 {
		t.Errorf("the largest has %v octets", got)
	}
	if got := column("bytes", "-n", "1", "bytes < 1000 and proto udp"); len(got) != 1 || got[0] != 700 {
		t.Errorf("the largest of few has %v octets", got)
	}
}

func TestShowTopTalkers(t *testing.T) {
	m := &fakeMeter{flows: someFlows(3000)}
	socket, _ := running(t, m)
	if lines := csvLines(t, mustShow(t, socket, "top-talkers", "-o", "csv"), flowHeader); len(lines) != 10 || lines[0][10] != "299900" {
		t.Errorf("%d flows, the first of %s octets", len(lines), lines[0][10])
	}
	want := map[string]uint64{}
	for _, r := range m.flows {
		want[string(r.AppendColumn(nil, flow.ColDst))] += r.Bytes
	}
	lines := csvLines(t, mustShow(t, socket, "top-talkers", "-s", "dstip", "-o", "csv", "-n", "100"), "dst,flows,packets,bytes,pps,bps,bpp,first,last")
	if len(lines) != len(want) {
		t.Errorf("%d destinations, want %d", len(lines), len(want))
	}
	last := uint64(1 << 63)
	for _, line := range lines {
		n, _ := strconv.ParseUint(line[3], 10, 64)
		if n != want[line[0]] || n > last {
			t.Errorf("%s: %d octets after %d, want %d", line[0], n, last, want[line[0]])
		}
		last = n
	}
	csvLines(t, mustShow(t, socket, "top-talkers", "-s", "dstport:p/packets", "-o", "csv", "proto tcp"), "dport,proto,flows,packets,bytes,pps,bps,bpp,first,last")
	for _, stat := range []string{"srcip", "dstip", "ip", "port", "proto", "as", "if", "srcip4/24", "record"} {
		mustShow(t, socket, "top-talkers", "-s", stat)
		mustShow(t, socket, "top-talkers", "-s", stat, "--cisco")
	}
	out := mustShow(t, socket, "top-talkers", "--cisco", "-n", "3")
	if !strings.HasSuffix(out, "3 of 3 top talkers shown. 3000 flows processed.\n") || !strings.Contains(out, "Bytes\n") {
		t.Errorf("%s", out)
	}
	out = mustShow(t, socket, "top-talkers", "--cisco", "-n", "4000", "-O", "packets", "bytes < 1000")
	if !strings.HasSuffix(out, "10 of 4000 top talkers shown. 10 of 3000 flows matched.\n") || !strings.Contains(out, " Pkts\n") {
		t.Errorf("%s", out)
	}
}

// What is wrong is said before anything is asked, in one line that names it.
func TestShowUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"flows", "proto tcp and dst prot 443"}, `filter:1:19: expected as`},
		{[]string{"flows", "bytes >"}, `filter:1:8`},
		{[]string{"top-talkers", "host www.example.org"}, `names are not looked up`},
		{[]string{"flow"}, `did you mean "flows"?`},
		{[]string{"loss", "proto tcp"}, `takes no filter`},
		{[]string{"store", "-n", "3"}, `takes no filter`},
		{[]string{"flows", "-o", "xml"}, `accepted: table, csv, json, ndjson`},
		{[]string{"flows", "-n-3"}, `-n -3: accepted: 0 (all) or more`},
		{[]string{"flows", "-n", "1000000"}, `1 to 100000 rows`},
		{[]string{"flows", "-o", "csv", "-O", "bytes"}, `-n N`},
		{[]string{"flows", "-n", "0", "-O", "bytes"}, `-n 0`},
		{[]string{"top-talkers", "-n", "0"}, `-n 0`},
		{[]string{"flows", "-s", "srcip"}, `-s goes with show top-talkers`},
		{[]string{"loss", "--cisco"}, `IOS has no layout of loss`},
		{[]string{"flows", "--cisco", "-o", "csv"}, `without -o csv`},
		{[]string{"flows", "--verbose"}, `--verbose goes with`},
	} {
		status, out, errs := show(t, "/nonexistent/sock", c.args...)
		if status != 2 || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("show %v: exit status %d, %q, want 2 and %q", c.args, status, errs, c.want)
		}
	}
	m := &fakeMeter{flows: someFlows(10)}
	socket, _ := running(t, m)
	for _, c := range []struct {
		args []string
		want string
	}{ // what only the one who is asked knows
		{[]string{"flows", "-n", "3", "-O", "sise"}, `unknown order "sise"`},
		{[]string{"top-talkers", "-s", "scrip"}, `did you mean "srcip"?`},
		{[]string{"top-talkers", "-s", "srcip/bytes/packets"}, `one order at a time`},
	} {
		if status, out, errs := show(t, socket, c.args...); status != 2 || out != "" || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("show %v: exit status %d, %q, want 2 and %q", c.args, status, errs, c.want)
		}
	}
}

func TestShowWithoutAMeter(t *testing.T) {
	if status, _, errs := show(t, filepath.Join(t.TempDir(), "none"), "flows"); status != 1 || !strings.Contains(errs, "no weir is running here") {
		t.Errorf("nobody there: %d %q", status, errs)
	}
	socket, n := running(t, &fakeMeter{})
	n.mu.Lock()
	n.meter = nil // as in a collector
	n.mu.Unlock()
	for _, what := range []string{"flows", "top-talkers", "cache", "balance", "interfaces", "export", "store"} {
		if status, out, errs := show(t, socket, what); status != 1 || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "here") {
			t.Errorf("show %s: exit status %d, %q", what, status, errs)
		}
	}
}

// An empty cache is no error, and well-formed in every format.
func TestShowNoFlows(t *testing.T) {
	socket, _ := running(t, &fakeMeter{})
	csvLines(t, mustShow(t, socket, "flows", "-o", "csv"), flowHeader)
	csvLines(t, mustShow(t, socket, "top-talkers", "-s", "srcip", "-o", "csv"), "src,flows,packets,bytes,pps,bps,bpp,first,last")
	for _, args := range [][]string{{"flows", "-o", "json"}, {"top-talkers", "-o", "json"}, {"top-talkers", "-s", "ip", "-o", "json"}} {
		var list []any
		if err := json.Unmarshal([]byte(mustShow(t, socket, args...)), &list); err != nil || len(list) != 0 {
			t.Errorf("%v: %v, %v", args, list, err)
		}
	}
	if out := mustShow(t, socket, "flows", "-o", "ndjson"); out != "" {
		t.Errorf("%q", out)
	}
	if out := mustShow(t, socket, "flows"); strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "proto") {
		t.Errorf("%q", out)
	}
	if out := mustShow(t, socket, "top-talkers", "--cisco"); !strings.HasSuffix(out, "0 of 10 top talkers shown. 0 flows processed.\n") {
		t.Errorf("%q", out)
	}
	if out := mustShow(t, socket, "top-talkers", "--cisco", "-s", "srcip"); !strings.HasPrefix(out, "There are 0 top talkers:\n") {
		t.Errorf("%q", out)
	}
	if out := mustShow(t, socket, "cache", "--cisco"); !strings.Contains(out, "(0 total packets)") || !strings.HasSuffix(out, "Pkts\n") {
		t.Errorf("%q", out)
	}
}

// The balance adds up, and what is missing is said.
func TestShowBalance(t *testing.T) {
	m := &fakeMeter{}
	socket, n := running(t, m)
	sink := n.tally.before(flow.SinkFunc(func([]flow.Record) error { return nil }))
	sink.WriteRecords([]flow.Record{{Packets: 30, Bytes: 3000}})
	m.flows = []flow.Record{
		{Has: flow.HasSrc | flow.HasPackets | flow.HasBytes, Packets: 5, Bytes: 500},
		{Has: flow.HasPackets | flow.HasBytes, Packets: 2, Bytes: 200}, // an overflow aggregate
	}
	m.mu.Lock()
	m.snapshot.Count = meter.Count{Packets: 41, Bytes: 4100}
	m.snapshot.Ignored = map[string]meter.Count{"arp": {Packets: 1, Bytes: 100}}
	m.snapshot.Lost = map[string]meter.LossCount{cache.SinkFailed: {Records: 1, Packets: 3, Bytes: 300}}
	m.mu.Unlock()
	check := func(difference string) {
		t.Helper()
		var got []string
		for _, line := range csvLines(t, mustShow(t, socket, "balance", "-o", "csv"), "part,reason,packets,bytes,help") {
			got = append(got, strings.Join(line[:4], " "))
		}
		want := []string{"seen  41 4100", "exported  30 3000", "cached  5 500", "aggregates  2 200", "lost sink-failed 3 300", "ignored arp 1 100", difference}
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
	check("difference  0 0")
	m.flows[0].Packets-- // one is gone
	m.flows[0].Bytes -= 140
	want := "difference  1 140"
	var got []string
	for _, line := range csvLines(t, mustShow(t, socket, "balance", "-o", "csv"), "part,reason,packets,bytes,help") {
		got = append(got, strings.Join(line[:4], " "))
	}
	if got[len(got)-1] != want {
		t.Errorf("%q, want %q", got[len(got)-1], want)
	}
	if out := mustShow(t, socket, "loss"); !strings.Contains(out, "difference") || !strings.Contains(out, "packet  arp") {
		t.Errorf("show loss has no balance:\n%s", out)
	}
	if out := mustShow(t, socket, "loss", "-o", "csv"); strings.Contains(out, "difference") {
		t.Errorf("show loss -o csv has the balance, which is no loss:\n%s", out)
	}
}

func TestShowCache(t *testing.T) {
	m := &fakeMeter{}
	m.snapshot.Cache = cache.Stats{Entries: 7, Peak: 9, Capacity: 100, Memory: 13000, Refused: 3, Aggregates: 2, Sweeps: 11, Created: 50}
	socket, _ := running(t, m)
	line := csvLines(t, mustShow(t, socket, "cache", "-o", "csv"), "entries,capacity,created,packets,bytes,idle_seconds,active_seconds,expired,peak,refused,aggregates,memory,sweeps")[0]
	if got := strings.Join(append(line[:3:3], line[8:]...), " "); got != "7 100 50 9 3 2 13000 11" {
		t.Errorf("%s", got)
	}
	if out := mustShow(t, socket, "cache"); !strings.Contains(out, "\nrefused         3\n") || !strings.Contains(out, "idle 0, active 0") {
		t.Errorf("%s", out)
	}
}

// Half an answer is not taken for a whole one.
func TestShowBrokenOff(t *testing.T) {
	m := &fakeMeter{flows: someFlows(5000), broken: errors.New("the table is gone")}
	socket, _ := running(t, m)
	status, _, errs := show(t, socket, "flows", "-o", "csv") // nothing was printed yet
	if status != 1 || !strings.Contains(errs, "the table is gone") {
		t.Errorf("exit status %d, %q", status, errs)
	}
	m.flows = m.flows[:1000]
	for i := range m.flows { // more than is buffered
		m.flows[i].Elements = bytes.Repeat([]byte("x"), 1000)
	}
	status, out, errs := show(t, socket, "flows", "-o", "csv")
	if status != 1 || !strings.Contains(errs, "broke off its answer") || out == "" {
		t.Errorf("exit status %d after %d octets, %q", status, len(out), errs)
	}
}

// Who reads slowly holds up nobody else, and who goes away frees its place.
func TestShowSlowReaders(t *testing.T) {
	m := &fakeMeter{flows: someFlows(100_000)}
	socket, _ := running(t, m)
	var slow []io.Closer
	for range maxWalks - 1 {
		r, err := control.Client(socket).PostForm("http://localhost/control/flows", url.Values{"format": {"csv"}})
		if err != nil {
			t.Fatal(err)
		}
		slow = append(slow, r.Body) // and does not read
	}
	if n := len(csvLines(t, mustShow(t, socket, "flows", "-o", "csv", "-n", "5"), flowHeader)); n != 5 {
		t.Errorf("%d flows", n)
	}
	one, err := control.Client(socket).PostForm("http://localhost/control/flows", url.Values{"format": {"csv"}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // there is no place; it waits for one
		defer close(done)
		mustShow(t, socket, "cache") // which needs none
		if out := mustShow(t, socket, "flows", "-o", "csv", "-n", "6"); strings.Count(out, "\n") != 7 {
			t.Errorf("%d lines", strings.Count(out, "\n"))
		}
	}()
	one.Body.Close()
	<-done
	for _, s := range slow {
		s.Close()
	}
}

// A process that ends lets those it answers go.
func TestShowEnds(t *testing.T) {
	conf := config.Default()
	conf.Control = filepath.Join(t.TempDir(), "sock")
	n := meterNode(conf, slog.New(slog.DiscardHandler))
	m := &fakeMeter{at: make(chan struct{})}
	end := n.answering(context.Background(), m, nil)
	status := make(chan int, 1)
	go func() {
		for {
			if c, err := net.Dial("unix", conf.Control); err == nil {
				c.Close()
				break
			}
			time.Sleep(time.Millisecond)
		}
		var out, errs bytes.Buffer
		status <- run(context.Background(), []string{"--control", conf.Control, "show", "flows"}, strings.NewReader(""), &out, &errs)
	}()
	for m.walks.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	end()
	if got := <-status; got != 1 {
		t.Errorf("exit status %d, want 1", got)
	}
}

// A second weir at the same socket is quiet about it, and the first answers on.
func TestAnsweringTwice(t *testing.T) {
	m := &fakeMeter{flows: someFlows(3)}
	socket, _ := running(t, m)
	var log bytes.Buffer
	conf := config.Default()
	conf.Control = socket
	second := meterNode(conf, slog.New(slog.NewTextHandler(&log, nil)))
	second.answering(context.Background(), &fakeMeter{}, nil)()
	if log.Len() > 0 {
		t.Errorf("the second says: %s", log.String())
	}
	if n := len(csvLines(t, mustShow(t, socket, "flows", "-o", "csv"), flowHeader)); n != 3 {
		t.Errorf("%d flows", n)
	}
}

// Rates come of notes, and of the present meter's counts alone.
func TestInterfaceRates(t *testing.T) {
	m := &fakeMeter{}
	m.snapshot.Interfaces = []meter.Interface{{Index: 1 << 30, In: meter.Count{Packets: 100, Bytes: 1000}}}
	n := meterNode(config.Default(), slog.New(slog.DiscardHandler))
	n.meter = m
	d := newDesk(n)
	if i := d.interfaces(); len(i) != 1 || i[0].PPSIn != nil {
		t.Errorf("a rate of nothing noted: %+v", i)
	}
	d.note(time.Now().Add(-10 * time.Second))
	m.snapshot.Interfaces[0].In = meter.Count{Packets: 1100, Bytes: 101_000}
	i := d.interfaces()[0]
	if i.PPSIn == nil || *i.PPSIn < 90 || *i.PPSIn > 100 || *i.BPSIn < 72_000 || *i.BPSIn > 80_000 || *i.PPSOut != 0 {
		t.Errorf("%+v", i)
	}
	m.snapshot.Interfaces[0].In = meter.Count{Packets: 10, Bytes: 10} // a reload
	if i := d.interfaces()[0]; i.PPSIn != nil {
		t.Errorf("a rate over two meters: %+v", i)
	}
}

// Tables fit the terminal: what is less important goes, texts are cut, and
// what was left out is said.
func TestTablesFit(t *testing.T) {
	columns := []string{"name", "alias", "packets", "bytes", "help"}
	lines := [][]any{
		{"eth0", nil, uint64(12345678), uint64(1 << 40), strings.Repeat("a long explanation ", 6)},
		{"eth1", nil, uint64(1), uint64(2), "short"},
	}
	drop := []string{"help", "alias", "bytes"}
	for _, c := range []struct {
		width int
		head  string
		left  string
	}{
		{0, "name  alias   packets          bytes  help", ""},
		{200, "name  alias   packets          bytes  help", ""},
		{80, "name  alias   packets          bytes  help", ""},
		{61, "name  alias   packets          bytes  help", ""},
		{55, "name   packets          bytes  help", ""},
		{50, "name   packets          bytes", "help"},
		{20, "name   packets", "bytes help"},
		{5, "name   packets", "bytes help"}, // there is no less
	} {
		var b bytes.Buffer
		left, err := writeTable(&b, columns, lines, c.width, drop, "help")
		head, _, _ := strings.Cut(b.String(), "\n")
		if err != nil || head != c.head || strings.Join(left, " ") != c.left {
			t.Errorf("width %d: %q, left out %q, %v", c.width, head, left, err)
		}
		for line := range strings.Lines(b.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); c.width >= 20 && n > c.width {
				t.Errorf("width %d: a line of %d: %q", c.width, n, line)
			}
		}
	}
}

// Whatever flows there are, a table of them has the terminal's width, if IPv4
// addresses and counters fit it.
func TestFlowTableFits(t *testing.T) {
	flows := slices.DeleteFunc(someFlows(400), func(r flow.Record) bool { return r.IPVersion == 6 })
	for i := range flows {
		flows[i].VLAN, flows[i].TOS, flows[i].TCPFlags, flows[i].Output = 100, 32, 0x1b, 3
		flows[i].Has |= flow.HasVLAN | flow.HasTCPFlags | flow.HasOutput
	}
	for _, width := range []int{80, 100, 120, 160} {
		var b bytes.Buffer
		table := &flowTable{out: &b, width: width, names: map[uint32]string{2: "enp0s31f6", 3: "wg-to-the-office"}, now: time.Now().UnixNano()}
		if err := errors.Join(table.WriteRecords(flows), table.Close()); err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(b.String()) {
			n++
			if got := utf8.RuneCountInString(strings.TrimRight(line, "\n")); got > width {
				t.Errorf("width %d: a line of %d: %q", width, got, line)
			}
		}
		if n != len(flows)+1 {
			t.Errorf("width %d: %d lines of %d flows", width, n, len(flows))
		}
		if width == 160 && !strings.HasPrefix(b.String(), "proto  source") || !strings.Contains(b.String(), "packets") {
			t.Errorf("width %d: %.200s", width, b.String())
		}
	}
}

// Names that came from elsewhere cannot drive a terminal.
func TestShowIsSafe(t *testing.T) {
	m := &fakeMeter{flows: someFlows(20)}
	socket, _ := running(t, m)
	evil := "\x1b]0;owned\a\u202e\u009bm,\"\n"
	for i := range m.flows {
		m.flows[i].Elements = flow.AppendJSONText([]byte(`{"x":`), evil)
		m.flows[i].Elements = append(m.flows[i].Elements, '}')
	}
	for _, args := range [][]string{{"flows"}, {"flows", "-o", "csv"}, {"flows", "-o", "json"}, {"flows", "-o", "ndjson"}, {"top-talkers"}, {"interfaces"}, {"interfaces", "--cisco"}, {"loss"}, {"cache"}} {
		for _, r := range mustShow(t, socket, args...) {
			if r < 0x20 && r != '\n' || r >= 0x7f && r < 0xa0 || r == 0x202e {
				t.Errorf("show %v prints %q", args, r)
			}
		}
	}
	var b bytes.Buffer
	if _, err := writeTable(&b, []string{"name", "help"}, [][]any{{evil, strings.Repeat(evil, 40)}}, 70, []string{"help"}, "help"); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\a\u202e\u009b") {
		t.Errorf("%q", b.String())
	}
	status, _, errs := show(t, socket, "flows", "host \x1b[31m")
	if status != 2 || strings.Contains(errs, "\x1b") {
		t.Errorf("a filter with an escape: %d %q", status, errs)
	}
}

// Whatever is asked, the answer is one: an error that says so, or rows.
func FuzzQuestion(f *testing.F) {
	for _, s := range []string{
		"", "format=csv", "format=cisco&limit=3", "format=cisco-verbose", "format=json&order=bytes&limit=10", "stat=srcip&format=ndjson",
		"stat=ip:p/bps&limit=2", "limit=-1", "limit=99999999999999999999", "width=80", "width=-7&format=table", "filter=proto+tcp+and", "order=first:a&limit=1", "%zz",
	} {
		f.Add(s)
	}
	n := meterNode(config.Default(), slog.New(slog.DiscardHandler))
	n.meter = &fakeMeter{flows: someFlows(30)}
	d := newDesk(n)
	f.Fuzz(func(t *testing.T, form string) {
		for _, give := range []answers{d.flows, d.top} {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodPost, "/control/flows", strings.NewReader(form))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			out := &answer{w: w, c: http.NewResponseController(deadlines{w})}
			if err := d.give(give, out, w, r); err != nil {
				if out.begun {
					t.Fatalf("%q: %v after the answer had begun", form, err)
				}
				refuse(w, err)
				if w.Code != http.StatusBadRequest {
					t.Fatalf("%q: status %d: %v", form, w.Code, err)
				}
			} else if w.Code != http.StatusOK {
				t.Fatalf("%q: status %d", form, w.Code)
			}
		}
	})
}

// deadlines is a ResponseWriter that takes deadlines, as a connection's does.
type deadlines struct{ http.ResponseWriter }

func (deadlines) SetWriteDeadline(time.Time) error { return nil }
