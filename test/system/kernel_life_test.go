package system

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weir/test/kernel"
)

// stream sends frames until it is stopped, and knows what.
type stream struct {
	mu    sync.Mutex
	times []uint64 // each frame was sent
	list  []frame
	stop  chan struct{}
	done  chan struct{}
}

// startStream sends frames of a list at random, 16 at a time, with a pause
// between.
func startStream(t testing.TB, out *sender, list []frame, pause time.Duration) *stream {
	s := &stream{times: make([]uint64, len(list)), list: list, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		r := rand.New(rand.NewPCG(17, uint64(len(list))))
		var octets [16][]byte
		var which [16]int
		for {
			select {
			case <-s.stop:
				return
			case <-time.After(pause):
			}
			for i := range octets {
				which[i] = min(r.IntN(len(list)), r.IntN(len(list))) // some more often
				octets[i] = list[which[i]].octets
			}
			out.send(t, octets[:]...)
			s.mu.Lock()
			for _, i := range which {
				s.times[i]++
			}
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() { s.end() })
	return s
}

// end stops it; twice is once.
func (s *stream) end() expectation {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	<-s.done
	return s.sent()
}

func (s *stream) sent() expectation {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := expectation{ignored: map[string]count{}, flows: map[string]count{}}
	for i, f := range s.list {
		if n := s.times[i]; n > 0 {
			c := count{n, n * f.length}
			sum := e.flows[f.key]
			sum.add(c)
			e.flows[f.key] = sum
			e.all.add(c)
			e.metered.add(c)
		}
	}
	return e
}

// manyFlows is a frame of each of n flows.
func manyFlows(n int) (list []frame) {
	for i := range n {
		f := udp4("10.7.0.1", "10.8.0.1", uint16(1024+i), 53, 20+i%900)
		if i%3 == 0 {
			f = tcp4("10.7.0.2", "10.8.0.2", uint16(1024+i), 443, []uint8{2, 16, 24, 24, 24, 17}[i%6], 20+i%900)
		}
		list = append(list, f)
	}
	return list
}

// whole reads records of a file whose writer may have been killed.
func whole(t testing.TB, file string) rows {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return lines(t, string(b))
}

// lines are the records of whole lines.
func lines(t testing.TB, text string) rows {
	t.Helper()
	return parseCSV(t, text[:strings.LastIndexByte(text, '\n')+1])
}

// repeatable is how many records a kill -9 may repeat.
const repeatable = 512

// withoutRepeats leaves out of the first records of a run those that killed ones
// before it, of which one may have been killed before it had repeated anything, had
// written last. They have read the clock apart, so that their times may differ a
// little.
func withoutRepeats(t testing.TB, before, after rows) (kept rows, repeated int) {
	t.Helper()
	type told struct{ key, packets, bytes string }
	of := func(m map[string]string) told { return told{keyOf(m) + m["direction"], m["packets"], m["bytes"]} }
	first := func(m map[string]string) time.Time {
		at, err := time.Parse(time.RFC3339, m["first"])
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	known := map[told][]time.Time{}
	for _, m := range before[max(0, len(before)-repeatable):] {
		known[of(m)] = append(known[of(m)], first(m))
	}
	for i, m := range after {
		again := false
		if i < repeatable {
			for _, at := range known[of(m)] {
				if d := at.Sub(first(m)); d.Abs() < 50*time.Millisecond {
					again = true
				}
			}
		}
		if again {
			repeated++
			continue
		}
		kept = append(kept, m)
	}
	return kept, repeated
}

// startNfcapd is a collector of somebody else; end says what it stored, and
// fails if it saw more sequence errors than that, or a datagram it did not
// understand.
func startNfcapd(t testing.TB, ns, port string) (end func(errors int) (uint64, count)) {
	t.Helper()
	need(t, "nfcapd", "nfdump")
	dir := t.TempDir()
	p := start(t, ns, "nfcapd", "-p", port, "-b", "127.0.0.1", "-l", dir, "-t", "3600", "-B", "8000000", "-e")
	p.await(t, "Startup")
	time.Sleep(200 * time.Millisecond * slow)
	return func(errors int) (uint64, count) {
		t.Helper()
		p.signal(t, syscall.SIGTERM)
		p.wait(t)
		log := p.stderr.String() + p.stdout.String()
		m := regexp.MustCompile(`Sequence Errors: (\d+)`).FindStringSubmatch(log)
		if m == nil || number(t, m[1]) > uint64(errors) || regexp.MustCompile(`Bad Packets: [1-9]`).MatchString(log) {
			t.Errorf("nfcapd: %v\n%s", m, tail(log, 3000))
		}
		return nfdumped(t, dir)
	}
}

// Killed again and again under traffic, with packets while nobody runs: the
// records of all runs and what --detach hands on are what was sent, in files, in
// weir's own collector and in another's; sequence numbers have no gap, and what a
// kill repeats is dropped by its flow id.
func TestKilled(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	for _, mode := range []string{"xdp", "clsact"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			killing(t, mode, 3, 0, func(r *rand.Rand) time.Duration {
				return 700*time.Millisecond + time.Duration(r.IntN(1500))*time.Millisecond
			})
		})
	}
}

// killing kills a meter at random moments, so many times and for so long.
func killing(t *testing.T, mode string, rounds int, lasts time.Duration, pause func(*rand.Rand) time.Duration) {
	l := newLine(t, false)
	dir := t.TempDir()
	c := startCollector(t, l.b, dir)
	peer := startNfcapd(t, l.b, "9996")
	out := newSender(t, l.a, "va")
	r := rand.New(rand.NewPCG(71, 72))
	// In between, one of two collectors is slow, so that a kill finds records on
	// their way, which the other has got.
	rate := "40"
	files := 0
	args := func() []string {
		files++
		return []string{
			"-o", "csv", "-w", filepath.Join(dir, strconv.Itoa(files)+".csv"), "--cache", "8Ki", "--idle", "1s", "--active", "2s",
			"--export", "udp://127.0.0.1:9995?version=10&template=full", "--export", "udp://127.0.0.1:9996?version=9&rate=" + rate,
		}
	}
	var s *stream
	begun, kills := time.Now(), 0
	for ; kills < rounds || time.Since(begun) < lasts; kills++ {
		p := meterStart(t, l.b, mode, "vb", args()...)
		if s == nil {
			s = startStream(t, out, manyFlows(3000), time.Millisecond)
		}
		time.Sleep(pause(r))
		p.kill(t)
		time.Sleep(time.Duration(r.IntN(700)) * time.Millisecond)
	}
	rate = "off"
	p := meterStart(t, l.b, mode, "vb", args()...)
	time.Sleep(pause(r))
	p.stop(t)
	time.Sleep(200 * time.Millisecond) // packets for --detach
	want := s.end()
	settle()
	detach(t, l.b, args()...)
	settle()

	var all, last rows
	repeated := 0
	for i := range files {
		file := filepath.Join(dir, strconv.Itoa(i+1)+".csv")
		run := whole(t, file)
		kept, again := withoutRepeats(t, last, run)
		all, last, repeated = append(all, kept...), append(last, run...), repeated+again
	}
	sameFlows(t, byFlow(t, all), want.flows)
	if got := all.sum(t); got != want.metered {
		t.Errorf("the files have %+v, sent %+v", got, want.metered)
	}
	if repeated > kills*repeatable {
		t.Errorf("%d records were repeated by %d kills", repeated, kills)
	}
	flows, got := peer(kills) // who is killed between sending and noting it uses a number twice
	if got.Packets < want.metered.Packets || flows > uint64(len(all)+kills*repeatable) {
		t.Errorf("nfcapd has %d flows of %+v, sent %+v in %d records", flows, got, want.metered, len(all))
	}
	ledger := losses(t, l.b, c.control)
	again := lossOf(ledger, "collect", "repeated").Records
	for _, x := range ledger {
		if x.Reason == "sequence-gaps" && x.Records+x.Datagrams > 0 {
			t.Errorf("a gap: %+v", x)
		}
	}
	c.stop(t)
	if _, got := stored(t, c.store); got != want.metered {
		t.Errorf("the collector has %+v, sent %+v", got, want.metered)
	}
	t.Logf("%d kills, %d packets in %d records, %d repeated in files, %d to the collector; nfcapd has %d", kills, want.metered.Packets, len(all), repeated, again, flows)
}

// A clean stop and a start, another filter, another sampling rate: the programs
// are swapped in place, and no packet passes unseen.
func TestSwapped(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	for _, mode := range []string{"xdp", "tc", "clsact"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := newLine(t, false)
			out := newSender(t, l.a, "va")
			var s *stream
			var all rows
			var seen, metered, unsampled count
			for i, more := range [][]string{nil, {"ip"}, {"--sample", "1:10"}, {"ip or ip6"}, nil} {
				p := meterStart(t, l.b, mode, "vb", append([]string{"-o", "csv", "--summary", "--cache", "8Ki", "--idle", "1s", "--active", "1s"}, more...)...)
				if s == nil {
					s = startStream(t, out, manyFlows(1000), time.Millisecond)
				}
				time.Sleep(700 * time.Millisecond)
				p.stop(t)
				time.Sleep(300 * time.Millisecond)
				run, sum := parseCSV(t, p.stdout.String()), parseSummary(t, p.stderr.String())
				if got := run.sum(t); got != sum.Metered || sum.Records != uint64(len(run)) {
					t.Errorf("run %d: %d records of %+v, the summary says %d of %+v", i, len(run), got, sum.Records, sum.Metered)
				}
				for _, m := range run {
					if m["sampling"] == "10" && i != 2 && i != 3 {
						t.Errorf("run %d: sampled 1:10: %v", i, m)
					}
				}
				all = append(all, run...)
				seen.add(sum.count)
				metered.add(sum.Metered)
				unsampled.add(sum.Ignored["not-sampled"])
			}
			want := s.end()
			settle()
			r := detach(t, l.b, "-o", "csv")
			rest := parseCSV(t, r.stdout)
			all = append(all, rest...)
			// What was left out by lot was counted, too, but for its length, which
			// nobody read: that of the frame.
			if seen.Packets += rest.sum(t).Packets; seen.Packets != want.all.Packets {
				t.Errorf("%d packets seen, of them %d metered and %d not sampled; %d were sent", seen.Packets, metered.Packets, unsampled.Packets, want.all.Packets)
			}
			if unsampled.Packets == 0 {
				t.Error("sampling left nothing out")
			}
			if got := all.sum(t); got.Packets+unsampled.Packets != want.all.Packets {
				t.Errorf("records of %d packets and %d not sampled are not the %d sent", got.Packets, unsampled.Packets, want.all.Packets)
			}
		})
	}
}

// Another size or key of the table: the old one's flows are handed on, nothing
// is lost between the two.
func TestOtherTable(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	l := newLine(t, false)
	out := newSender(t, l.a, "va")
	var s *stream
	var all, killed rows
	for i, more := range [][]string{{"--cache", "8Ki"}, {"--cache", "16Ki"}, {"--cache", "16Ki", "--key", "5tuple"}, {"--cache", "8Ki"}} {
		p := meterStart(t, l.b, "xdp", "vb", append([]string{"-o", "csv", "--summary", "--idle", "30s"}, more...)...)
		if s == nil {
			s = startStream(t, out, manyFlows(1000), time.Millisecond)
		}
		time.Sleep(700 * time.Millisecond)
		if i == 1 {
			p.kill(t)
			time.Sleep(300 * time.Millisecond)
			killed = lines(t, p.stdout.String())
			all = append(all, killed...)
			continue
		}
		p.stop(t)
		time.Sleep(300 * time.Millisecond)
		run, sum := parseCSV(t, p.stdout.String()), parseSummary(t, p.stderr.String())
		if got := run.sum(t); got != sum.Metered || sum.Records != uint64(len(run)) {
			t.Errorf("run %d: %d records of %+v, the summary says %d of %+v", i, len(run), got, sum.Records, sum.Metered)
		}
		run, _ = withoutRepeats(t, killed, run)
		all, killed = append(all, run...), nil
		if got := pins(t, l.b); strings.Count(strings.Join(got, " "), "/meta") != 1 {
			t.Errorf("run %d: more than one table: %v", i, got)
		}
	}
	want := s.end()
	settle()
	all = append(all, parseCSV(t, detach(t, l.b, "-o", "csv").stdout)...)
	if got := all.sum(t); got != want.metered {
		t.Errorf("records of %+v, sent %+v", got, want.metered)
	}
	got := map[string]count{}
	for k, c := range byFlow(t, all) { // 5tuple knows no type of service
		f := strings.Fields(k)
		k = strings.Join(f[:5], " ")
		sum := got[k]
		sum.add(c)
		got[k] = sum
	}
	flows := map[string]count{}
	for k, c := range want.flows {
		flows[strings.Join(strings.Fields(k)[:5], " ")] = c
	}
	sameFlows(t, got, flows)
}

// With nobody there for ten times what the table holds, all is counted; and what
// is due leaves within 5 s of the return.
func TestGoneForLong(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	l := newLine(t, false)
	out := newSender(t, l.a, "va")
	p := meterStart(t, l.b, "xdp", "vb", "-o", "csv", "--cache", "1Ki")
	p.kill(t)
	var sent count
	for i := range 10 {
		var some [][]byte
		for j := range 1024 {
			n := i*1024 + j
			f := udp4(fmt.Sprintf("10.%d.%d.1", n>>8, n&255), "10.8.0.1", 1000, 53, n%1000)
			if n%2 == 0 {
				f = udp4("10.7.0.1", fmt.Sprintf("10.%d.%d.1", n>>8, n&255), 1000, 53, n%1000)
			}
			some = append(some, f.octets, f.octets)
			sent.add(count{2, 2 * f.length})
		}
		out.send(t, some...)
	}
	settle()
	p = meterStart(t, l.b, "xdp", "vb", "-o", "csv", "--cache", "1Ki", "--idle", "1s", "--summary")
	until(t, 5*time.Second, "all that is due has left", func() bool {
		return lines(t, p.stdout.String()).sum(t) == sent
	})
	p.stop(t)
	all := parseCSV(t, p.stdout.String())
	if got := all.sum(t); got != sent {
		t.Errorf("records of %+v, sent %+v", got, sent)
	}
	aggregates := 0
	for _, m := range all {
		if m["src"] == "" {
			aggregates++
		}
	}
	if aggregates == 0 {
		t.Error("ten times what it holds, and no aggregate")
	}
	t.Logf("%d packets of %d flows in %d records, %d of them aggregates", sent.Packets, 10*1024, len(all), aggregates)
	detach(t, l.b)
}

// --detach without anybody to take it says how much it let go of.
func TestDetachTells(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	l := newLine(t, false)
	if r := must(t, l.b, weir, "meter", "--detach"); !strings.Contains(r.stderr, "nothing of ours is attached") {
		t.Errorf("nothing there: %s", r.stderr)
	}
	if r := must(t, l.b, weir, "meter", "--detach", "-i", "vb"); !strings.Contains(r.stderr, "nothing of ours is attached to vb") {
		t.Errorf("nothing there: %s", r.stderr)
	}
	p := meterStart(t, l.b, "tc", "vb", "-o", "csv", "--cache", "1Ki", "--idle", "10m")
	oneLine(t, do(t, l.b, weir, "meter", "--detach"), 1, "already meters here", strconv.Itoa(p.cmd.Process.Pid))
	p.kill(t)
	newSender(t, l.a, "va").send(t, octets(manyFlows(300))...)
	settle()
	if r := detach(t, l.b); !strings.Contains(r.stderr, "detached from vb") || !strings.Contains(r.stderr, "300 packets") {
		t.Errorf("300 packets were counted: %s", r.stderr)
	}
}

// One weir at a time has the table: a second one meters by packet sockets and
// says why, or is refused where it was told to.
func TestSecond(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	l := newLine(t, false)
	p := meterStart(t, l.b, "xdp", "vb", "-o", "csv", "--summary", "--cache", "1Ki")
	pid := strconv.Itoa(p.cmd.Process.Pid)
	for _, mode := range []string{"xdp", "tc"} {
		oneLine(t, do(t, l.b, weir, "meter", "-i", "vb", "--mode", mode), 1, "vb: --mode "+mode, "already meters here", pid)
	}
	second := start(t, l.b, weir, "meter", "-i", "vb", "-o", "csv", "--summary")
	metering(t, second, l.b, "afpacket", 1)
	if log := second.stderr.String(); !strings.Contains(log, "mode=afpacket") || !strings.Contains(log, "already meters here") || !strings.Contains(log, pid) {
		t.Errorf("the second does not say why: %s", log)
	}
	frames := everyKind()
	newSender(t, l.a, "va").send(t, octets(frames)...)
	settle()
	second.stop(t)
	account(t, second, expect(frames))
	p.stop(t)
	account(t, p, expect(frames))
	detach(t, l.b)
}

// An interface that goes takes its hooks along and nothing else; what it had
// counted is handed on. One of its name that comes later is another.
func TestInterfaceReplaced(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	l := newLine(t, false)
	other := newTunnel(t, l.b, "tun9")
	p := meterStart(t, l.b, "auto", "vb tun9", "-o", "csv", "--summary", "--cache", "1Ki")
	frames := everyKind()
	newSender(t, l.a, "va").send(t, octets(frames)...)
	settle()
	must(t, l.b, "ip", "link", "del", "vb")
	p.await(t, "an interface is gone")
	must(t, l.a, "ip", "link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", l.b)
	must(t, l.a, "ip", "link", "set", "va", "up")
	must(t, l.b, "ip", "link", "set", "vb", "up")
	f := udp4("10.5.0.2", "10.5.0.1", 1000, 53, 100)
	newSender(t, l.b, "tun9").send(t, f.octets[14:])
	newSender(t, l.a, "va").send(t, octets(frames)...) // not metered: nobody said so
	settle()
	p.stop(t)
	account(t, p, expect(append(frames, f)))
	if got := links(t, l.b); len(got) != 2 {
		t.Errorf("hooks of tun9 alone, want: %v", got)
	}
	_ = other
	// The next one takes it up.
	p = meterStart(t, l.b, "auto", "vb tun9", "-o", "csv", "--summary", "--cache", "1Ki")
	newSender(t, l.a, "va").send(t, octets(frames)...)
	settle()
	p.stop(t)
	account(t, p, expect(frames))
	detach(t, l.b)
}
