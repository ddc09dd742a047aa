package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/collect"
	"weir/export"
	"weir/flow"
	"weir/wire"
)

// gathered is what a collector of a test was sent.
type gathered struct {
	mu      sync.Mutex
	records []flow.Record
	options int
}

func (g *gathered) WriteRecords(b []flow.Record) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.records = flow.AppendCopies(g.records, b)
	return nil
}

func (g *gathered) totals() (sum counted) {
	for i := range g.records {
		sum.records++
		sum.packets += g.records[i].Packets
		sum.bytes += g.records[i].Bytes
	}
	return sum
}

// collecting starts a collector on loopback; stop drains it.
func collecting(t *testing.T) (url string, g *gathered, c *collect.Collector, stop func()) {
	t.Helper()
	g = &gathered{}
	o := collect.Options{
		Listen: []string{"udp://127.0.0.1:0"}, Sink: g, Loops: 1, Log: slog.New(slog.DiscardHandler),
		OnOptions: func(o []wire.OptionsRecord) { g.options += len(o) },
	}
	c, err := collect.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return "udp://" + c.Addrs()[0].String(), g, c, stop
}

// lostOf is what a collector lost, save repeats.
func lostOf(c *collect.Collector) (lost []string) {
	for _, l := range c.Losses() {
		if l.Records+l.Datagrams > 0 {
			lost = append(lost, fmt.Sprintf("%+v", l))
		}
	}
	return lost
}

func weir(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	status = run(context.Background(), args, strings.NewReader(""), &o, &e)
	return status, o.String(), e.String()
}

// TestReplayFlows: a store's flows go out again; what arrives, and what the verb
// says that it sent and lost, is what the store holds.
func TestReplayFlows(t *testing.T) {
	if os.Getenv("CGO_ENABLED") == "0" {
		t.Skip("skipped: no query engine without cgo")
	}
	dir := smallStore(t)
	status, out, errs := weir(t, "query", "--store", dir, "-o", "ndjson")
	if status != 0 {
		t.Fatalf("query: %s", errs)
	}
	var want counted
	six := uint64(0)
	for line := range strings.Lines(out) {
		var r struct {
			Src            string
			Packets, Bytes uint64
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		want = counted{want.records + 1, want.packets + r.Packets, want.bytes + r.Bytes}
		if strings.Contains(r.Src, ":") {
			six++
		}
	}
	if want.records == 0 {
		t.Fatal("an empty store")
	}
	for _, c := range []struct {
		version uint8
		extra   []string
	}{{5, nil}, {9, nil}, {10, nil}, {10, []string{"--now"}}} {
		url, g, collector, stop := collecting(t)
		args := append([]string{"replay", "--store", dir, "--to", fmt.Sprintf("%s?version=%d", url, c.version), "--speed", "max", "--summary"}, c.extra...)
		status, _, errs := weir(t, args...)
		if status != 0 {
			t.Fatalf("%v: %s", args, errs)
		}
		stop()
		var sum replayed
		if err := json.Unmarshal([]byte(errs), &sum); err != nil {
			t.Fatalf("%v: %s", err, errs)
		}
		lost := uint64(0)
		for _, l := range sum.Lost {
			lost += l.Records
		}
		if got := g.totals(); got != (counted{sum.Records, sum.Packets, sum.Bytes}) || got.records+lost != want.records {
			t.Errorf("v%d: arrived %+v, sent %+v, lost %d; the store has %+v", c.version, got, sum, lost, want)
		}
		if c.version == 5 && lost != six || c.version != 5 && (lost != 0 || g.totals() != want) {
			t.Errorf("v%d: %d lost, of IPv6 are %d", c.version, lost, six)
		}
		if l := lostOf(collector); len(l) > 0 {
			t.Errorf("v%d: the collector lost %v", c.version, l)
		}
		newest := int64(0)
		for i := range g.records {
			newest = max(newest, g.records[i].Last)
		}
		if age := time.Since(time.Unix(0, newest)); (age < time.Hour) != (len(c.extra) > 0) {
			t.Errorf("%v: the newest flow is %v old", args, age)
		}
	}
	url, g, _, stop := collecting(t)
	if status, _, errs := weir(t, "replay", "--store", dir, "--to", url, "--speed", "max", "proto udp and not proto udp"); status != 0 || !strings.Contains(errs, "sent 0 datagrams") {
		t.Errorf("nothing to send: %d, %s", status, errs)
	}
	if status, _, errs := weir(t, "replay", "--store", dir, "--to", url, "--speed", "max", "proto udp"); status != 0 {
		t.Error(errs)
	}
	stop()
	for i := range g.records {
		if g.records[i].Proto != flow.ProtoUDP {
			t.Errorf("the filter let pass %+v", g.records[i])
		}
	}
	if len(g.records) == 0 {
		t.Error("no UDP flows came")
	}
}

// exportCapture is a capture of every trial datagram from two exporters, 10 ms
// apart.
func exportCapture(t *testing.T) (name string, trials []export.Trial) {
	t.Helper()
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = le.AppendUint32(b, 2|4<<16)
	b = append(b, make([]byte, 8)...)
	b = le.AppendUint32(le.AppendUint32(b, 65535), 101) // raw IP
	now := time.Now()
	trials = export.Trials(now)
	for i, at := 0, 0; i < len(trials); i++ {
		for exporter := range byte(2) {
			p := trials[i].Octets
			ip := make([]byte, 28, 28+len(p))
			ip[0], ip[8], ip[9] = 0x45, 64, 17
			binary.BigEndian.PutUint16(ip[2:], uint16(28+len(p)))
			copy(ip[12:], []byte{192, 0, 2, 1 + exporter, 198, 51, 100, 9})
			binary.BigEndian.PutUint16(ip[20:], 50000)
			binary.BigEndian.PutUint16(ip[22:], 2055)
			binary.BigEndian.PutUint16(ip[24:], uint16(8+len(p)))
			ip = append(ip, p...)
			b = le.AppendUint32(b, uint32(now.Unix()))
			b = le.AppendUint32(b, uint32(at))
			b = le.AppendUint32(le.AppendUint32(b, uint32(len(ip))), uint32(len(ip)))
			b = append(b, ip...)
			at += 10_000
		}
	}
	name = filepath.Join(t.TempDir(), "exports.pcap")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name, trials
}

// TestReplayDatagrams: a capture's datagrams go out again, and each exporter's
// templates and sequence numbers stay apart.
func TestReplayDatagrams(t *testing.T) {
	capture, trials := exportCapture(t)
	flows := 0
	for _, x := range trials {
		flows += len(x.Flows)
	}
	for _, rewrite := range []string{"", "127.7.7.0/24"} {
		url, g, c, stop := collecting(t)
		args := []string{"replay", "-r", capture, "--to", url, "--speed", "max"}
		if rewrite != "" {
			args = append(args, "--rewrite-src", rewrite)
		}
		status, _, errs := weir(t, args...)
		if status != 0 || !strings.Contains(errs, fmt.Sprintf("sent %d datagrams", 2*len(trials))) || !strings.Contains(errs, "of 2 exporters") {
			t.Fatalf("%d: %s", status, errs)
		}
		stop()
		if got := g.totals(); got.records != uint64(2*flows) || int(c.Stats().Datagrams) != 2*len(trials) {
			t.Errorf("%d records in %d datagrams, want %d in %d", got.records, c.Stats().Datagrams, 2*flows, 2*len(trials))
		}
		if l := lostOf(c); len(l) > 0 {
			t.Errorf("lost %v", l)
		}
		from := map[string]int{}
		for i := range g.records {
			if g.records[i].Version != flow.VersionSFlow { // it says itself who it is of
				from[g.records[i].Exporter.String()]++
			}
		}
		want := map[string]int{"127.0.0.1": 2 * (flows - 1)}
		if rewrite != "" {
			want = map[string]int{"127.7.7.1": flows - 1, "127.7.7.2": flows - 1}
		}
		if fmt.Sprint(from) != fmt.Sprint(want) {
			t.Errorf("%q: from %v, want %v", rewrite, from, want)
		}
	}
	// With the timing it had it takes as long.
	url, _, _, _ := collecting(t)
	began := time.Now()
	if status, _, errs := weir(t, "replay", "-r", capture, "--to", url, "--speed", "4"); status != 0 {
		t.Error(errs)
	}
	if took, least := time.Since(began), time.Duration(2*len(trials)-1)*10*time.Millisecond/4; took < least {
		t.Errorf("four times as fast, it took %v; less than %v cannot be", took, least)
	}
}

// TestExportTest: one datagram of each format; the collector knows every flow
// again.
func TestExportTest(t *testing.T) {
	url, g, c, stop := collecting(t)
	status, out, errs := weir(t, "export-test", url, "-o", "ndjson")
	if status != 0 {
		t.Fatal(errs)
	}
	stop()
	if l := lostOf(c); len(l) > 0 {
		t.Errorf("lost %v", l)
	}
	type told struct {
		Format, Src, Dst, First, Last string
		Proto, Sport, Dport           uint64
		Packets, Bytes                uint64
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != len(g.records) || g.options != 1 || !strings.Contains(errs, "sent 20 datagrams") {
		t.Fatalf("told %d flows, %d came, %d counters: %s", len(lines), len(g.records), g.options, errs)
	}
	versions := map[string]bool{}
	for i, line := range lines {
		var want told
		if err := json.Unmarshal([]byte(line), &want); err != nil {
			t.Fatal(err)
		}
		r := &g.records[i]
		text := func(c flow.Column) string { return string(r.AppendColumn(nil, c)) }
		got := told{
			Format: want.Format, Src: text(flow.ColSrc), Dst: text(flow.ColDst), First: text(flow.ColFirst), Last: text(flow.ColLast),
			Proto: r.Number(flow.ColProto), Sport: r.Number(flow.ColSrcPort), Dport: r.Number(flow.ColDstPort), Packets: r.Packets, Bytes: r.Bytes,
		}
		if want.Format == "sflow" {
			got.First, got.Last = "", "" // when it came
		}
		if got != want {
			t.Errorf("%s came as %+v", line, got)
		}
		versions[flow.VersionName(r.Version)] = true
	}
	if fmt.Sprint(versions) != "map[1:true 10:true 5:true 7:true 8:true 9:true sflow:true]" {
		t.Errorf("versions %v", versions)
	}
	url, g, _, stop = collecting(t)
	if status, _, errs := weir(t, "export-test", url, "--format", "v9,V8-AS"); status != 0 {
		t.Error(errs)
	}
	stop()
	if len(g.records) != 3 {
		t.Errorf("%d records of v9 and v8-AS", len(g.records))
	}
}

// Wrong use ends with status 2 and says what would be accepted.
func TestReplayUsage(t *testing.T) {
	capture, _ := exportCapture(t)
	for _, c := range []struct {
		args, want string
	}{
		{"replay --to udp://127.0.0.1:9 --speed fast", "a number above 0, such as 10 or 0.5, or max"},
		{"replay --to tcp://127.0.0.1:9 -r " + capture, "accepted: udp://HOST:PORT"},
		{"replay --to udp://127.0.0.1:9?version=9 -r " + capture, "nothing can stand behind the ?"},
		{"replay --to udp://127.0.0.1:9?version=77", "accepted: "},
		{"replay --to udp://127.0.0.1:9 --rewrite-src keep", "are about captures (-r FILE)"},
		{"replay --to udp://127.0.0.1:9 --now -r " + capture, "--now moves the times of a store's flows"},
		{"replay --to udp://127.0.0.1:9 --rate 0 -r " + capture, "accepted: 1 to 10000000, or off"},
		{"replay --to udp://127.0.0.1:9 --rewrite-src all -r " + capture, "accepted: keep"},
		{"replay --to udp://127.0.0.1:9 -r " + capture + " proto udp", "a capture's datagrams go out whole"},
		{"replay -r " + capture, "--to"},
		{"export-test 127.0.0.1:9", "accepted: udp://HOST:PORT"},
		{"export-test udp://127.0.0.1:9 --format v4", "accepted: v1, v5, v7, v8"},
	} {
		status, _, errs := weir(t, strings.Fields(c.args)...)
		if status != 2 || !strings.Contains(errs, c.want) {
			t.Errorf("%s: %d, %s", c.args, status, errs)
		}
	}
}

// TestExplain: both forms of weir decode --explain, over a capture of every format.
func TestExplain(t *testing.T) {
	capture, trials := exportCapture(t)
	status, out, errs := weir(t, "decode", "--explain", capture)
	if status != 0 {
		t.Fatal(errs)
	}
	for _, want := range []string{
		"message 1 from 192.0.2.1 port 50000", "    24  c0 00 02 05                srcaddr                           192.0.2.5", "NetFlow v9 (RFC 3954)", "IPFIX (RFC 7011)", "sFlow v5",
		"Information Element id.", "prefix-port record 1",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in the page", want)
		}
	}
	// Both of the capture's exporters say that they are the same sFlow agent.
	if strings.Contains(strings.Replace(out, "! the same number came before: a duplicate", "", 1), " ! ") {
		t.Errorf("what weir sends has a problem:\n%s", out)
	}
	status, out, errs = weir(t, "decode", "--explain", "-o", "json", capture)
	if status != 0 {
		t.Fatal(errs)
	}
	var all []struct {
		Message, Offset, Length int
		Kind, Octets            string
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatal(err)
	}
	octets, want := 0, 0
	for _, l := range all {
		if l.Kind == "field" {
			octets += len(l.Octets) / 2
		}
	}
	for _, x := range trials {
		want += 2 * len(x.Octets)
	}
	if octets != want {
		t.Errorf("%d octets are explained, %d were captured", octets, want)
	}
}

// capturedTCP is a capture of one TCP connection's octets, to port 4739.
func capturedTCP(t *testing.T, octets []byte) string {
	t.Helper()
	le, big := binary.LittleEndian, binary.BigEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = le.AppendUint32(b, 2|4<<16)
	b = le.AppendUint32(le.AppendUint32(append(b, make([]byte, 8)...), 65535), 101)
	ip := make([]byte, 40, 40+len(octets))
	ip[0], ip[8], ip[9], ip[32], ip[33] = 0x45, 64, 6, 5<<4, 0x18
	big.PutUint16(ip[2:], uint16(40+len(octets)))
	copy(ip[12:], []byte{192, 0, 2, 1, 198, 51, 100, 9})
	big.PutUint16(ip[20:], 40000)
	big.PutUint16(ip[22:], 4739)
	ip = append(ip, octets...)
	b = append(b, make([]byte, 8)...)
	b = le.AppendUint32(le.AppendUint32(b, uint32(len(ip))), uint32(len(ip)))
	name := filepath.Join(t.TempDir(), "tcp.pcap")
	if err := os.WriteFile(name, append(b, ip...), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestDecodeTemplates: a template, an options template with its scope, a change, a
// withdrawal, for people and for programs.
func TestDecodeTemplates(t *testing.T) {
	var octets []byte
	message := func(sets ...[]byte) {
		b := append(make([]byte, wire.HeaderIPFIXLen), bytes.Join(sets, nil)...)
		wire.PutHeaderIPFIX(b, wire.Stamp{Unix: 1_700_000_000e9}, 0, 7)
		octets = append(octets, b...)
	}
	set := func(id uint16, records []byte) []byte {
		return wire.EndSet(append(wire.AppendSet(nil, id), records...), 0)
	}
	message(set(wire.TemplateSetIPFIX, wire.AppendTemplate(nil, 256, []wire.FieldSpec{{ID: 8, Length: 4}, {ID: 1, Length: 4}})))
	message(set(wire.TemplateSetIPFIX, wire.AppendTemplate(nil, 256, []wire.FieldSpec{{ID: 82, Length: wire.VariableLength}, {PEN: 29305, ID: 1, Length: 8}})))
	message(set(wire.OptionsSetIPFIX, wire.AppendOptionsTemplate(nil, flow.VersionIPFIX, 300, 1, []wire.FieldSpec{{ID: 10, Length: 4}, {ID: 34, Length: 4}})))
	message(wire.AppendWithdrawals(nil, false, 256))
	name := capturedTCP(t, octets)
	status, out, errs := weir(t, "decode", "--templates", "-o", "ndjson", name)
	if status != 0 {
		t.Fatal(errs)
	}
	want := []string{
		`{"kind":"template","exporter":"192.0.2.1","version":10,"domain":7,"template":256,"scope":"","fields":"sourceIPv4Address:4 octetDeltaCount:4","message":1,"action":"added","octets":8,"elements":[{"id":8,"name":"sourceIPv4Address","type":"ipv4Address","length":4},{"id":1,"name":"octetDeltaCount","type":"unsigned64","length":4}]}`,
		`{"kind":"template","exporter":"192.0.2.1","version":10,"domain":7,"template":256,"scope":"","fields":"interfaceName:variable reverseOctetDeltaCount:8","message":1,"action":"redefined","octets":null,"elements":[{"id":82,"name":"interfaceName","type":"string","length":"variable"},{"pen":29305,"id":1,"name":"reverseOctetDeltaCount","type":"unsigned64","length":8}]}`,
		`{"kind":"options-template","exporter":"192.0.2.1","version":10,"domain":7,"template":300,"scope":"ingressInterface:4","fields":"samplingInterval:4","message":1,"action":"added","octets":8,"elements":[{"scope":true,"id":10,"name":"ingressInterface","type":"unsigned32","length":4},{"id":34,"name":"samplingInterval","type":"unsigned32","length":4}]}`,
		`{"kind":"template-withdrawn","exporter":"192.0.2.1","version":10,"domain":7,"template":256,"scope":"","fields":"interfaceName:variable reverseOctetDeltaCount:8","message":1,"action":"withdrawn","octets":null,"elements":[{"id":82,"name":"interfaceName","type":"string","length":"variable"},{"pen":29305,"id":1,"name":"reverseOctetDeltaCount","type":"unsigned64","length":8}]}`,
	}
	if got := strings.Split(strings.TrimSpace(out), "\n"); !slices.Equal(got, want) {
		t.Errorf("\n%s\nwant\n%s", out, strings.Join(want, "\n"))
	}
	for _, format := range []string{"csv", "json", "table"} {
		status, out, errs := weir(t, "decode", "--templates", "-o", format, name)
		if status != 0 || !strings.Contains(out, "template-withdrawn") || strings.Contains(out, "redefined") != (format != "table") {
			t.Errorf("%s: %d %s%s", format, status, errs, out)
		}
	}
	status, out, errs = weir(t, "decode", "--explain", name)
	if status != 0 || !strings.Contains(out, "Template Withdrawal") || strings.Contains(out, " ! ") {
		t.Errorf("explained: %d %s\n%s", status, errs, out)
	}
}

// TestV8Masks: who reads flow-tools' exports says so.
func TestV8Masks(t *testing.T) {
	capture, _ := exportCapture(t)
	for _, order := range []string{"source", "destination"} {
		status, out, errs := weir(t, "decode", "--explain", "--v8-masks", order, "-o", "csv", capture)
		if status != 0 {
			t.Fatal(errs)
		}
		at := strings.Index(out, "prefix-port record 1")
		src, dst := strings.Index(out[at:], "src_mask"), strings.Index(out[at:], "dst_mask")
		if first := map[bool]string{true: "source", false: "destination"}[src < dst]; first != order {
			t.Errorf("%s: the %s mask comes first", order, first)
		}
	}
	if status, _, errs := weir(t, "decode", "--v8-masks", "both", capture); status != 2 || !strings.Contains(errs, "accepted: source, destination") {
		t.Errorf("%d %s", status, errs)
	}
}
