package system

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// otherWeir builds a weir that is another program of the same layout: the small one
// for routers.
func otherWeir(t testing.TB) string {
	t.Helper()
	if built := os.Getenv("WEIR_OTHER"); built != "" {
		return built
	}
	need(t, "go")
	to := filepath.Join(t.TempDir(), "weir")
	build := exec.Command("go", "build", "-o", to, "./cmd/weir")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	return to
}

// watched is a stream of packets from a to b, of which is known how many are lost.
type watched struct {
	in    *tap
	pulse *pulse
}

func startWatched(t *testing.T, n crossed) *watched {
	var packets [][]byte
	for i := range 20 {
		packets = append(packets, ipv4("10.1.0.7", far4, 17, 0, 0, udp(uint16(5000+i), 53, 20)), ipv6("fd00:1::7", far6, 17, 0, udp(uint16(5000+i), 53, 20)))
	}
	return &watched{newTap(t, n.b, "vb"), startPulse(t, newSender(t, n.a, "va"), packets)}
}

// end gives how many were sent, and how many have not arrived.
func (w *watched) end(t *testing.T) (sent, lost int) {
	t.Helper()
	sent = len(w.pulse.end())
	settle()
	arrived := map[uint32]bool{}
	for _, f := range w.in.take(isNumbered) {
		n, _ := numberOf(f)
		if arrived[n] {
			t.Errorf("packet %d arrives twice", n)
		}
		arrived[n] = true
	}
	if d := w.in.lost(t); d > 0 {
		t.Fatalf("the tap lost %d frames", d)
	}
	return sent, sent - len(arrived)
}

// few fails if more is lost than a busy machine loses by itself: as much as is sent
// in 20 ms.
func few(t *testing.T, what string, sent, lost int) {
	t.Helper()
	t.Logf("%s: %d of %d packets lost", what, lost, sent)
	if lost > 4*40 {
		t.Errorf("%s: %d of %d packets lost", what, lost, sent)
	}
}

// Killed, stopped, started again, replaced by another version: packets are forwarded
// on, without a daemon, too, and all are counted.
func TestForwardKilled(t *testing.T) {
	t.Parallel()
	n := newCrossed(t)
	next := otherWeir(t)
	f := startForwarding(t, n.r, forwardAll)
	w := startWatched(t, n)
	pause := func() { time.Sleep(500 * time.Millisecond) }
	pause()
	f.kill(t)
	pause()
	f.begin(t)
	pause()
	f.stop(t)
	pause()
	f.program = next
	f.begin(t)
	pause()
	f.signal(t, unix.SIGHUP)
	pause()
	f.stop(t)
	f.program = weir
	f.begin(t)
	pause()
	sent, lost := w.end(t)
	few(t, "killed, stopped, replaced", sent, lost)
	d := f.fates(t, "ra")
	if uint64(sent) < d.all() || uint64(sent-lost) > d.all() {
		t.Errorf("%d packets were sent, %d arrived, counted are %d: %v", sent, sent-lost, d.all(), d.less(nil))
	}
	if d["forwarded"] != d.all() {
		t.Errorf("not all were forwarded: %v", d.less(nil))
	}
	f.stop(t)
	if _, c := stored(t, f.store, "src ip 10.1.0.7 or src ip fd00:1::7"); c.Packets < uint64(sent-lost) || c.Packets > uint64(sent) {
		t.Errorf("records of %d packets, %d were sent, %d arrived", c.Packets, sent, sent-lost)
	}
	detach(t, n.r)
}

// Without a sign of life for as long as the watchdog allows the kernel forwards, and
// the programs again when weir is back.
func TestForwardWatchdog(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]func(*testing.T, *forwarding, func()){
		"killed": func(t *testing.T, f *forwarding, meanwhile func()) {
			f.kill(t)
			meanwhile()
			f.begin(t)
		},
		"stopped": func(t *testing.T, f *forwarding, meanwhile func()) {
			f.signal(t, unix.SIGSTOP)
			meanwhile()
			f.signal(t, unix.SIGCONT)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newCrossed(t)
			f := startForwarding(t, n.r, forwardAll+"\nforward: {watchdog: 2s}")
			w := startWatched(t, n)
			time.Sleep(time.Second)
			if d := f.fates(t, "ra"); d["watchdog"] > 0 || d["forwarded"] == 0 {
				t.Errorf("with weir there: %v", d.less(nil))
			}
			// The last sign of life is at most a second old.
			before, at := w.pulse.count(), time.Now()
			early, late := 0, 0
			gone(t, f, func() {
				time.Sleep(time.Second - time.Since(at) - 100*time.Millisecond)
				early = w.pulse.count()
				time.Sleep(2100*time.Millisecond - time.Since(at))
				late = w.pulse.count()
				time.Sleep(4*time.Second - time.Since(at))
			})
			until(t, 10*time.Second, "the programs forward again", func() bool {
				d := f.fates(t, "ra")
				time.Sleep(100 * time.Millisecond)
				again := f.fates(t, "ra").less(d)
				return again["forwarded"] > 0 && again["watchdog"] == 0
			})
			sent, lost := w.end(t)
			few(t, name, sent, lost)
			d := f.fates(t, "ra")
			least, most := uint64(1000*40/5*(4000-2100)/1000/1000), uint64(sent-early)
			if d["watchdog"] < least/2 || d["watchdog"] > most {
				t.Errorf("%d packets by the kernel, of %d (%d before it was gone, %d when that was surely not yet noticed, %d when it was)", d["watchdog"], sent, before, early, late)
			}
			if d.all() > uint64(sent) || d.all() < uint64(sent-lost) || d["forwarded"]+d["watchdog"] != d.all() {
				t.Errorf("%d packets were sent, %d lost: %v", sent, lost, d.less(nil))
			}
			f.stop(t)
			detach(t, n.r)
		})
	}
}

// As many packets as the kernel's own generator makes: what is lost while weir is
// killed, restarted and replaced, beside what is lost anyway.
func TestSoakForwardKilled(t *testing.T) {
	soaking(t)
	n := newCrossed(t)
	next := otherWeir(t)
	xdpsend := filepath.Join(t.TempDir(), "xdpsend")
	build := exec.Command("go", "build", "-o", xdpsend, "./bench/gen/xdpsend")
	build.Dir = filepath.Join("..", "..")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	f := startForwarding(t, n.r, forwardAll)
	received := func() uint64 {
		return number(t, strings.TrimSpace(must(t, n.b, "cat", "/sys/class/net/vb/statistics/rx_packets").stdout))
	}
	run := func(what string, meanwhile func()) (share float64) {
		t.Helper()
		before := received()
		p := start(t, n.a, xdpsend, "-dev", "va", "-dmac", "02:00:00:00:01:fe", "-src", "10.1.0.7", "-dst", "10.99.9.9", "-t", "12")
		time.Sleep(time.Second)
		meanwhile()
		p.wait(t)
		settle()
		var made struct {
			Made uint64
			PPS  float64
		}
		if err := json.Unmarshal([]byte(p.stdout.String()), &made); err != nil {
			t.Fatalf("%v: %s", err, p.stdout.String())
		}
		lost := int64(made.Made) - int64(received()-before)
		share = float64(lost) / float64(made.Made)
		t.Logf("%s: %.0f packets a second, %d of %d lost, %.4f %%", what, made.PPS, lost, made.Made, 100*share)
		return share
	}
	calm := run("nothing happens", func() {})
	before := f.fates(t, "ra")
	killed := run("killed, started, stopped, replaced", func() {
		f.kill(t)
		time.Sleep(time.Second)
		f.begin(t)
		f.stop(t)
		f.program = next
		f.begin(t)
	})
	if killed > calm+0.002 {
		t.Errorf("%.4f %% lost while weir was killed and replaced, %.4f %% else", 100*killed, 100*calm)
	}
	if d := f.fates(t, "ra").less(before); d["forwarded"] != d.all() {
		t.Errorf("not all were forwarded: %v", d)
	}
	f.stop(t)
	detach(t, n.r)
}
