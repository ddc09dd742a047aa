package system

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// collector is `weir collect --store` in a namespace.
type collector struct {
	*process
	ns, control, store string
}

func startCollector(t testing.TB, ns, dir string, more ...string) *collector {
	t.Helper()
	c := &collector{ns: ns, control: filepath.Join(dir, "sock"), store: filepath.Join(dir, "store")}
	c.process = start(t, ns, append([]string{weir, "collect", "--listen", "udp://127.0.0.1:9995", "--store", c.store, "--control", c.control}, more...)...)
	c.await(t, "listening")
	until(t, 10*time.Second, "the control socket", func() bool {
		_, err := os.Stat(c.control)
		return err == nil
	})
	return c
}

// generated is what genflow says it sent.
type generated struct {
	Records, Datagrams, Packets, Bytes, V6, SendErrors uint64
	RecordsPerSec                                      float64
}

func (g generated) count() count { return count{g.Packets, g.Bytes} }

func generate(t testing.TB, ns string, args ...string) (g generated) {
	t.Helper()
	r := must(t, ns, append([]string{genflow, "-to", "127.0.0.1:9995"}, args...)...)
	if err := json.Unmarshal([]byte(r.stdout), &g); err != nil {
		t.Fatalf("genflow: %v: %s", err, r.stdout)
	}
	if g.SendErrors > 0 {
		t.Fatalf("genflow: %d send errors", g.SendErrors)
	}
	return g
}

// Every record that arrives at 400,000 a second is in the store, and nothing
// is counted as lost, whatever the version.
func TestCollectAtSpeed(t *testing.T) {
	for _, version := range []string{"5", "9", "10"} {
		t.Run("v"+version, func(t *testing.T) {
			ns := namespace(t)
			c := startCollector(t, ns, t.TempDir())
			g := generate(t, ns, "-v", version, "-n", "800000", "-rate", "400000", "-prebuild", "200000")
			until(t, 10*time.Second, "all are queryable", func() bool {
				flows, _ := stored(t, c.store)
				return flows >= g.Records
			})
			noLoss(t, losses(t, ns, c.control))
			c.stop(t)
			flows, got := stored(t, c.store)
			if flows != g.Records || got != g.count() {
				t.Errorf("%d records of %+v are stored, sent %d of %+v", flows, got, g.Records, g.count())
			}
			if flows, _ := stored(t, c.store, "ipv6"); flows != g.V6 {
				t.Errorf("%d records are IPv6, sent %d", flows, g.V6)
			}
			t.Logf("%d records at %.0f/s", g.Records, g.RecordsPerSec)
		})
	}
}

// Killed while 100,000 records a second arrive, at most 5 s of them are lost,
// nothing is torn, and the next one goes on with data alone: it knows the
// templates. What it says was lost is the gap between the two, if anything.
func TestCollectKilled(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	dir := t.TempDir()
	c := startCollector(t, ns, dir)
	e := newExporter(t, ns, "127.0.0.7", "127.0.0.1:9995", 7)
	e.send(t, e.message(0, templateSet(400)))
	const rate = 20_000 // records a second
	r := rand.New(rand.NewPCG(5, 6))
	for round := range 3 {
		// The templates are older than the last saving of the state: that is
		// the promise. How often is the collector's business, not above 5 s.
		lasts := 6*time.Second + time.Duration(r.IntN(2000))*time.Millisecond
		begun, before := time.Now(), e.records
		for time.Since(begun) < lasts {
			for float64(e.records-before) < time.Since(begun).Seconds()*rate {
				e.send(t, e.message(25, e.data(400, 25)))
			}
			time.Sleep(2 * time.Millisecond)
		}
		c.kill(t)
		flows, got := stored(t, c.store)
		if got != (count{3 * flows, 300 * flows}) {
			t.Errorf("round %d: torn: %d records of %+v", round, flows, got)
		}
		if flows > e.records || e.records-flows > 5*rate*11/10 {
			t.Errorf("round %d: %d of %d records are stored: %.1f s lost", round, flows, e.records, float64(e.records-flows)/rate)
		}
		t.Logf("round %d: %d of %d records are stored: %.1f s lost", round, flows, e.records, float64(e.records-flows)/rate)
		e.records, e.sent = flows, got
		c = startCollector(t, ns, dir) // without a template from now on
		e.send(t, e.message(25, e.data(400, 25)))
		until(t, 10*time.Second, "records without a template", func() bool {
			flows, _ := stored(t, c.store)
			return flows == e.records
		})
	}
	all := losses(t, ns, c.control)
	noLoss(t, all, "collect/sequence-gaps")
	c.stop(t)
	if flows, got := stored(t, c.store); flows != e.records || got != e.sent {
		t.Errorf("stored %d records of %+v, want %d of %+v", flows, got, e.records, e.sent)
	}
}

// A polite restart keeps the templates at once.
func TestCollectRestarted(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	dir := t.TempDir()
	c := startCollector(t, ns, dir)
	e := newExporter(t, ns, "127.0.0.8", "127.0.0.1:9995", 8)
	e.send(t, e.message(10, templateSet(256), e.data(256, 10)))
	for range 3 {
		time.Sleep(100 * time.Millisecond)
		c.stop(t)
		c = startCollector(t, ns, dir)
		e.send(t, e.message(30, e.data(256, 30)))
	}
	time.Sleep(200 * time.Millisecond)
	noLoss(t, losses(t, ns, c.control))
	c.stop(t)
	if flows, got := stored(t, c.store); flows != e.records || got != e.sent {
		t.Errorf("stored %d records of %+v, want %d of %+v", flows, got, e.records, e.sent)
	}
}

// Reordered and duplicated datagrams, an exporter that starts anew, data before
// its template and garbage between: no record is lost, and no gap is told where
// there is none. A datagram that never came is told, to the record.
func TestCollectDisorder(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	dir := t.TempDir()
	c := startCollector(t, ns, dir)
	r := rand.New(rand.NewPCG(7, 8))
	var want count
	records := uint64(0)
	add := func(e *exporter) {
		records += e.records
		want.add(e.sent)
	}
	shuffled := newExporter(t, ns, "127.0.0.11", "127.0.0.1:9995", 11)
	shuffled.send(t, shuffled.message(0, templateSet(256)))
	for range 50 {
		var some [][]byte
		for range 6 {
			n := 1 + r.IntN(20)
			some = append(some, shuffled.message(n, shuffled.data(256, n)))
		}
		r.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		for _, m := range some {
			shuffled.send(t, m)
		}
	}
	add(shuffled)

	// The exporter starts anew: from another port, and from the same one.
	anew := newExporter(t, ns, "127.0.0.12", "127.0.0.1:9995", 12)
	for range 3 {
		anew.sequence = 0
		anew.send(t, anew.message(0, templateSet(256)))
		for range 40 {
			anew.send(t, anew.message(20, anew.data(256, 20)))
		}
		time.Sleep(50 * time.Millisecond)
	}
	add(anew)
	again := newExporter(t, ns, "127.0.0.12", "127.0.0.1:9995", 12)
	again.send(t, again.message(20, templateSet(256), again.data(256, 20)))
	add(again)

	early := newExporter(t, ns, "127.0.0.13", "127.0.0.1:9995", 13)
	for range 10 {
		early.send(t, early.message(20, early.data(300, 20)))
	}
	early.send(t, early.message(0, templateSet(300)))
	add(early)
	time.Sleep(300 * time.Millisecond)
	noLoss(t, losses(t, ns, c.control))

	// Duplicates are records that came twice: they may be stored twice or once,
	// but are no gap.
	double := newExporter(t, ns, "127.0.0.14", "127.0.0.1:9995", 14)
	double.send(t, double.message(0, templateSet(256)))
	for range 20 {
		m := double.message(10, double.data(256, 10))
		double.send(t, m)
		double.send(t, m)
	}
	time.Sleep(300 * time.Millisecond)
	all := losses(t, ns, c.control)
	if l := lossOf(all, "collect", "sequence-gaps"); l.Records+l.Datagrams > 0 {
		t.Errorf("duplicates are told as a gap: %+v", l)
	}

	// Garbage: counted, and nobody's loss. One of each kind.
	garbage := newExporter(t, ns, "127.0.0.15", "127.0.0.1:9995", 15)
	whole := garbage.message(20, templateSet(256), garbage.data(256, 20))
	garbage.records, garbage.sent = 0, count{}
	insults := [][]byte{{}, {0}, {0, 10}, []byte("GET / HTTP/1.0\r\n\r\n"), whole[:17], make([]byte, 1400), {0, 5, 0, 30}, {0, 9, 255, 255}}
	for i := range insults {
		garbage.send(t, insults[i])
	}
	for range 2000 {
		m := append([]byte{}, whole...)
		for range 1 + r.IntN(8) {
			m[r.IntN(len(m))] = byte(r.IntN(256))
		}
		be.PutUint32(m[12:], 15) // its own domain: others' state is not the game here
		garbage.send(t, m[:1+r.IntN(len(m))])
	}
	if lost := garbage.message(20, garbage.data(256, 20)); len(lost) == 0 {
		t.Fatal()
	}

	gap := newExporter(t, ns, "127.0.0.16", "127.0.0.1:9995", 16)
	gap.send(t, gap.message(0, templateSet(256)))
	for i := range 300 {
		n := 10
		m := gap.message(n, gap.data(256, n))
		if i == 100 || i == 101 || i == 150 { // these never come
			gap.records -= uint64(n)
			gap.sent.Packets, gap.sent.Bytes = gap.sent.Packets-3*uint64(n), gap.sent.Bytes-300*uint64(n)
			continue
		}
		gap.send(t, m)
		if i%50 == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	add(gap)
	time.Sleep(time.Second)
	r2 := must(t, ns, weir, "show", "exporters", "-o", "json", "--control", c.control)
	var exporters []struct {
		Address       string
		Sequence_lost uint64
	}
	if err := json.Unmarshal([]byte(r2.stdout), &exporters); err != nil {
		t.Fatal(err)
	}
	seen := map[string]uint64{}
	for _, x := range exporters {
		seen[x.Address] += x.Sequence_lost
	}
	for _, a := range []string{"127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.14"} {
		if seen[a] != 0 {
			t.Errorf("%s: %d records told as lost, none were", a, seen[a])
		}
	}
	if seen["127.0.0.16"] != 30 {
		t.Errorf("127.0.0.16: %d records told as lost, want 30", seen["127.0.0.16"])
	}
	after := losses(t, ns, c.control)
	refused := uint64(0)
	for _, l := range after {
		if l.Stage == "wire" {
			refused += l.Datagrams
		}
		if l.Reason == "panic" && l.Datagrams > 0 {
			t.Errorf("the decoder panicked: %+v", l)
		}
	}
	if refused == 0 {
		t.Error("garbage is counted nowhere")
	}
	c.stop(t)
	flows, got := stored(t, c.store, "not exporter ip in [127.0.0.14 127.0.0.15]")
	if flows != records || got != want {
		t.Errorf("stored %d records of %+v, want %d of %+v", flows, got, records, want)
		for _, x := range []*exporter{shuffled, anew, early, gap} {
			flows, _ := stored(t, c.store, fmt.Sprintf("exporter ip 127.0.0.%d", x.domain))
			t.Logf("%d: %d stored, %d sent", x.domain, flows, x.records)
		}
	}
	if n, _ := stored(t, c.store, "exporter ip 127.0.0.14"); n != double.records && n != 2*double.records {
		t.Errorf("duplicates: %d stored, sent %d twice", n, double.records)
	}
}

// One port, one line: what cannot start says why.
func TestCollectRefuses(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	dir := t.TempDir()
	c := startCollector(t, ns, dir)
	collect := func(args ...string) result {
		return do(t, ns, append([]string{weir, "collect", "--control", filepath.Join(t.TempDir(), "s")}, args...)...)
	}
	other := filepath.Join(t.TempDir(), "other")
	oneLine(t, collect("--listen", "udp://127.0.0.1:9995", "--store", other), 1, "9995", "in use")
	oneLine(t, collect("--listen", "udp://127.0.0.1:9996", "--store", c.store), 1, c.store)
	oneLine(t, collect("--listen", "udp://127.0.0.1:99999", "--store", other), 2, "99999")
	oneLine(t, collect("--listen", "quic://127.0.0.1:1", "--store", other), 2, "quic")
	oneLine(t, collect("--to", "jsonl:/nowhere/file", "--listen", "udp://127.0.0.1:9996"), 1, "/nowhere/file")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	oneLine(t, collect("--listen", "udp://127.0.0.1:9996", "--store", file), 1, file)
	oneLine(t, do(t, "", weir, "query", "--store", filepath.Join(other, "none")), 1, "none")
	if r := do(t, "", weir, "query", "--store", c.store, "src ip 10.0.0.300"); r.status != 2 || !strings.HasPrefix(r.stderr, "weir: filter:1:8: ") || !strings.Contains(r.stderr, "       ^^^^") {
		t.Errorf("a filter that is wrong: %d %s", r.status, r.stderr) // the place is shown below it
	}
	c.stop(t)
	if strings.Contains(c.stderr.String(), "level=ERROR") {
		t.Errorf("the first was harmed: %s", c.stderr.String())
	}
}
