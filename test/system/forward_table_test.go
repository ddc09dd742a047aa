package system

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// cpuTime is how much of a processor a process has had.
func cpuTime(t testing.TB, p *process) time.Duration {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(text)[strings.LastIndexByte(string(text), ')')+2:])
	const ticks = 100 // a second: USER_HZ
	return time.Duration(number(t, f[14-3])+number(t, f[15-3])) * time.Second / ticks
}

// tableOf is n routes as `ip -batch` takes them: of the sizes that a table of the
// Internet has, more or less, by b or c.
func tableOf(verb string, n int, r *rand.Rand) string {
	var b strings.Builder
	for i := range n {
		bits := []int{24, 24, 24, 23, 22, 22, 20}[r.IntN(7)]
		a := uint32(11+i%180)<<24 | uint32(i/180*0x9e5)<<8&0xffff00
		a &^= 1<<(32-bits) - 1
		fmt.Fprintf(&b, "route %s %d.%d.%d.0/%d via 10.%d.0.1\n", verb, a>>24, a>>16&255, a>>8&255, bits, 2+r.IntN(2))
	}
	return b.String()
}

// fullTable loads n routes, then changes them for so long, while packets to
// destinations in and out of the table are forwarded.
func fullTable(t *testing.T, n int, lasts time.Duration) {
	g := newCrossed(t)
	f := startForwarding(t, g.r, forwardAll)
	before := f.fates(t, "ra")
	w := startWatched(t, g)
	batch := func(text string) time.Duration {
		t.Helper()
		file := filepath.Join(t.TempDir(), "batch")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		must(t, g.r, "ip", "-force", "-batch", file)
		return time.Since(begun)
	}
	r := rand.New(rand.NewPCG(9, 9))
	cpu := cpuTime(t, f.process)
	took := batch(tableOf("replace", n, r))
	loading := cpuTime(t, f.process) - cpu
	t.Logf("%d routes in %v: weir had %v of a processor", n, took.Round(time.Millisecond), loading)

	cpu = cpuTime(t, f.process)
	changes, flapping := 0, time.Duration(0)
	for flapping < lasts {
		const some = 5000
		flapping += batch(tableOf("replace", some, r))
		changes += some
	}
	used := cpuTime(t, f.process) - cpu
	t.Logf("%d changes in %v, %.0f a second: weir had %v of a processor, %.0f %%", changes, flapping.Round(time.Millisecond), float64(changes)/flapping.Seconds(), used, 100*used.Seconds()/flapping.Seconds())
	if used > flapping {
		t.Errorf("weir had %v of a processor in %v of changes", used, flapping)
	}
	sent, lost := w.end(t)
	few(t, "while routes change", sent, lost)
	if d := f.fates(t, "ra").less(before); d.all() > uint64(sent) || d.all() < uint64(sent-lost) || d["forwarded"]*100 < d.all()*99 {
		t.Errorf("%d packets were sent, %d lost: %v", sent, lost, d)
	}
	f.stop(t)
	detach(t, g.r)
}

// Thousands of route changes a second neither stall what is forwarded nor take a
// processor.
func TestForwardTable(t *testing.T) {
	t.Parallel()
	fullTable(t, 20_000, time.Second)
}

// The same with a table as large as the Internet's.
func TestSoakForwardTable(t *testing.T) {
	soaking(t)
	fullTable(t, 900_000, 10*time.Second)
}
