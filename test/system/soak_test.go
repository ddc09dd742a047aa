package system

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weir/test/kernel"
)

// soaking is how long the long forms run; without WEIR_SOAK they do not.
func soaking(t testing.TB) time.Duration {
	t.Helper()
	v := os.Getenv("WEIR_SOAK")
	if v == "" {
		t.Skip("skipped: a long run, see make soak (WEIR_SOAK=5m)")
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 20*time.Second {
		t.Fatalf("WEIR_SOAK=%s: accepted: a duration of at least 20s", v)
	}
	return d
}

// flatFrom is how long a run must be for its memory to be judged: before, the
// first merges of the store still widen it.
const flatFrom = 2 * time.Minute

// held is what a process holds: resident memory in MiB, and descriptors.
func held(t testing.TB, p *process) (rss, descriptors int) {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	text, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(text)) {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "VmRSS:" {
			rss = int(number(t, f[1])) >> 10
		}
	}
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return rss, len(fds)
}

// All of weir, for long: traffic on an interface, exporters that start anew and
// change their templates, garbage, and a configuration that changes at random
// and is wrong now and then. At the end every packet and record is stored, and
// neither memory nor descriptors have grown.
func TestSoakUp(t *testing.T) {
	lasts := soaking(t)
	kernel.Programs(t)
	for _, mode := range []string{"afpacket", "xdp"} {
		t.Run(mode, func(t *testing.T) { soakUp(t, mode, lasts) })
	}
}

func soakUp(t *testing.T, mode string, lasts time.Duration) {
	l := newLine(t, true)
	dir := t.TempDir()
	interfaces := "interfaces: {vb: {meter: true, mode: " + mode + "}}\n"
	file, store := upConfig(t, dir, interfaces+"cache: {idle: 2s, active: 5s, entries: 64Ki}")
	p := start(t, l.b, weir, "up", "-c", file)
	ready(t, p, l.b)
	metering(t, p, l.b, mode, 1)
	before := counted(t, l.b, "vb")
	out := newSender(t, l.a, "va")
	var sink net.PacketConn
	within(t, l.b, func() (err error) { sink, err = net.ListenPacket("udp4", "127.0.0.1:3333"); return err })
	defer sink.Close()
	go func() { // until it is closed
		b := make([]byte, 65536)
		for {
			if _, _, err := sink.ReadFrom(b); err != nil {
				return
			}
		}
	}()
	end := time.Now().Add(lasts)
	var wg sync.WaitGroup

	// Packets: many short flows, and a few long ones.
	wg.Go(func() {
		r := rand.New(rand.NewPCG(21, 22))
		for time.Now().Before(end) {
			var some [][]byte
			for range 100 {
				f := udp4("10.7.0.1", "10.8.0.1", uint16(r.IntN(20000)), 53, r.IntN(1200))
				if r.IntN(3) == 0 {
					f = tcp4("10.7.0.2", "10.8.0.2", uint16(r.IntN(50)), 443, 0x18, r.IntN(1200))
				}
				some = append(some, f.octets)
			}
			out.send(t, some...)
			time.Sleep(5 * time.Millisecond)
		}
	})
	// Exporters, each of its own address; records sent per address.
	const exporters = 8
	sent := make([]count, exporters)
	records := make([]uint64, exporters)
	for i := range exporters {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(31, uint64(i)))
			from := fmt.Sprintf("127.0.1.%d", i+1)
			for time.Now().Before(end) {
				e := newExporter(t, l.b, from, "127.0.0.1:2055", uint32(1+r.IntN(3)))
				id := uint16(256 + r.IntN(2000))
				e.send(t, e.message(0, templateSet(id)))
				for range 50 + r.IntN(1000) {
					if r.IntN(200) == 0 { // another template, the same domain
						id = uint16(256 + r.IntN(2000))
						e.send(t, e.message(0, templateSet(id)))
					}
					n := 1 + r.IntN(20)
					e.send(t, e.message(n, e.data(id, n)))
					time.Sleep(2 * time.Millisecond)
				}
				sent[i].add(e.sent)
				records[i] += e.records
				e.conn.Close()
				time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
			}
		})
	}
	// Garbage, from an address of its own.
	wg.Go(func() {
		r := rand.New(rand.NewPCG(41, 42))
		e := newExporter(t, l.b, "127.0.2.1", "127.0.0.1:2055", 1)
		good := e.message(0, templateSet(256), e.data(256, 20))
		for time.Now().Before(end) {
			m := append([]byte{}, good...)
			for range r.IntN(30) {
				m[r.IntN(len(m))] = byte(r.IntN(256))
			}
			e.conn.Write(m[:r.IntN(len(m)+1)])
			time.Sleep(3 * time.Millisecond)
		}
	})
	// Configurations.
	reloads, wrong := 0, 0
	wg.Go(func() {
		r := rand.New(rand.NewPCG(51, 52))
		for time.Now().Before(end.Add(-3 * time.Second)) {
			time.Sleep(500*time.Millisecond + time.Duration(r.IntN(3000))*time.Millisecond)
			text := interfaces + fmt.Sprintf("cache: {idle: 2s, active: %ds, entries: 64Ki}\n", 3+r.IntN(5))
			if r.IntN(3) == 0 {
				text += "export: ['udp://127.0.0.1:3333?version=" + []string{"5", "9", "10"}[r.IntN(3)] + "']\n"
			}
			if r.IntN(3) == 0 {
				text += "collect: {listen: ['udp://127.0.0.1:2055', 'udp://127.0.0.1:" + strconv.Itoa(7000+r.IntN(20)) + "']}\n"
			}
			if r.IntN(5) == 0 {
				text, wrong = "cache: {idle: never}\n", wrong+1
			}
			upConfig(t, dir, text)
			p.signal(t, syscall.SIGHUP)
			reloads++
		}
	})
	// What it holds, once a second.
	var rss, fds []int
	for time.Now().Before(end) {
		time.Sleep(time.Second)
		m, n := held(t, p)
		rss, fds = append(rss, m), append(fds, n)
		if len(rss)%15 == 0 { // where it is, should it grow
			mib := func(name string) int { return int(metric(t, l.b, console, name)) >> 20 }
			t.Logf("%d s: %d MiB resident; Go heap %d in use, %d idle, %d given back; %.0f goroutines, %.0f segments", len(rss), m, mib("go_memstats_heap_inuse_bytes"),
				mib("go_memstats_heap_idle_bytes"), mib("go_memstats_heap_released_bytes"), metric(t, l.b, console, "go_goroutines"), metric(t, l.b, console, "weir_store_segments"))
		}
	}
	wg.Wait()
	time.Sleep(500 * time.Millisecond)
	after := counted(t, l.b, "vb")
	all := losses(t, l.b, filepath.Join(dir, "sock"))
	p.stop(t)
	want := count{after.Packets - before.Packets, after.Bytes - before.Bytes}
	if _, got := stored(t, store, "net 10.7.0.0/16"); got != want {
		t.Errorf("stored %+v of the interface, the kernel counted %+v", got, want)
	}
	total := uint64(0)
	for i := range exporters {
		flows, got := stored(t, store, fmt.Sprintf("exporter ip 127.0.1.%d", i+1))
		if flows != records[i] || got != sent[i] {
			t.Errorf("exporter %d: stored %d records of %+v, it sent %d of %+v", i+1, flows, got, records[i], sent[i])
		}
		total += records[i]
	}
	for _, l := range all { // garbage may look like anything, and is told by the wire alone
		if l.Stage != "wire" && l.Reason != "sequence-gaps" && l.Records+l.Packets+l.Datagrams > 0 {
			t.Errorf("lost: %+v", l)
		}
	}
	// Segments are merged now and then, which takes memory for a while: what it
	// falls back to in between must not grow.
	if lasts >= flatFrom {
		flat(t, "MiB of memory", rss, 100)
	} else {
		t.Logf("left out: whether memory stays flat, which a run of %v cannot show (from %v on)", lasts, flatFrom)
	}
	flat(t, "descriptors", fds, 12)
	t.Logf("%d packets, %d records of exporters, %d reloads, %d of them wrong", want.Packets, total, reloads, wrong)
	t.Log("left out: an interface that comes and goes, a clock that is set")
}

// flat says that the least of the last third of v is not above that of the second by more
// than slack.
func flat(t testing.TB, what string, v []int, slack int) {
	t.Helper()
	third := len(v) / 3
	middle, last := slices.Min(v[third:2*third]), slices.Min(v[2*third:])
	if last > middle+slack {
		t.Errorf("%s grow: at least %d in the second third, %d in the last", what, middle, last)
	}
	t.Logf("%s: %d to %d in the second third, %d to %d in the last", what, middle, slices.Max(v[third:2*third]), last, slices.Max(v[2*third:]))
}

// A collector is killed at random moments, twenty times and for as long as
// asked. Each time the store opens, nothing is torn, what is lost is of the last
// 5 s, and data alone is understood.
func TestSoakKill(t *testing.T) {
	lasts := soaking(t)
	ns := namespace(t)
	dir := t.TempDir()
	e := newExporter(t, ns, "127.0.0.7", "127.0.0.1:9995", 7)
	r := rand.New(rand.NewPCG(61, 62))
	const rate = 50_000 // records a second
	type written struct {
		at      time.Time
		records uint64
	}
	c := startCollector(t, ns, dir)
	e.send(t, e.message(0, templateSet(400)))
	time.Sleep(4 * time.Second) // the templates are on disk
	worst := uint64(0)
	rounds := 0
	for begun := time.Now(); rounds < 20 || time.Since(begun) < lasts; rounds++ {
		var log []written // what had been sent when, in this round
		from, base := time.Now(), e.records
		run := time.Duration(r.IntN(8000)) * time.Millisecond
		for time.Since(from) < run {
			for float64(e.records-base) < time.Since(from).Seconds()*rate {
				e.send(t, e.message(25, e.data(400, 25)))
			}
			log = append(log, written{time.Now(), e.records})
			time.Sleep(2 * time.Millisecond)
		}
		c.kill(t)
		killed := time.Now()
		flows, got := stored(t, c.store)
		if got != (count{3 * flows, 300 * flows}) {
			t.Fatalf("round %d: torn: %d records of %+v", rounds, flows, got)
		}
		safe := base // sent 5 s and more before the kill, with what a busy machine takes to read them
		for _, w := range log {
			if killed.Sub(w.at) > 5*time.Second+500*time.Millisecond {
				safe = w.records
			}
		}
		if flows < safe || flows > e.records {
			t.Errorf("round %d: %d records are stored, of %d sent %d were older than 5 s", rounds, flows, e.records, safe)
		}
		worst = max(worst, e.records-flows)
		e.records, e.sent = flows, got
		c = startCollector(t, ns, dir)
	}
	e.send(t, e.message(25, e.data(400, 25)))
	until(t, 10*time.Second, "records without a template", func() bool {
		flows, _ := stored(t, c.store)
		return flows == e.records
	})
	c.stop(t)
	if flows, got := stored(t, c.store); flows != e.records || got != e.sent {
		t.Errorf("stored %d records of %+v, want %d of %+v", flows, got, e.records, e.sent)
	}
	if left, _ := filepath.Glob(filepath.Join(c.store, "flows", "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	t.Logf("%d rounds, %d records, at most %d lost at a time (%.1f s)", rounds, e.records, worst, float64(worst)/rate)
	t.Log("left out: power cuts, which a killed process does not show")
}

// A meter in the kernel is killed at random moments under traffic, twenty times
// and for as long as asked, with packets while nobody runs: every packet is in
// a record, sequence numbers have no gap, and the collector has each record once.
func TestSoakMeterKilled(t *testing.T) {
	lasts := soaking(t)
	kernel.Programs(t)
	for _, mode := range []string{"xdp", "tc"} {
		t.Run(mode, func(t *testing.T) {
			killing(t, mode, 20, lasts, func(r *rand.Rand) time.Duration { return time.Duration(r.IntN(6000)) * time.Millisecond })
		})
	}
}
