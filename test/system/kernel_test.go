package system

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pinsDir is where a network namespace's pins are, below netns-COOKIE.
const pinsDir = "/sys/fs/bpf/weir/v1"

// cookies are those of the namespaces that tests made.
var cookies sync.Map

// pinFolder is where the pins of a namespace are.
func pinFolder(t testing.TB, ns string) string {
	t.Helper()
	var cookie uint64
	within(t, ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	return filepath.Join(pinsDir, fmt.Sprintf("netns-%d", cookie))
}

// pins lists what is pinned of a namespace, below its folder.
func pins(t testing.TB, ns string) (list []string) {
	t.Helper()
	dir := pinFolder(t, ns)
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			name, _ := filepath.Rel(dir, path)
			list = append(list, name)
		}
		return nil
	})
	return list
}

// links lists the hooks that have a program of ours, by their pins.
func links(t testing.TB, ns string) (list []string) {
	t.Helper()
	for _, p := range pins(t, ns) {
		if name, is := strings.CutPrefix(p, "links/"); is {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// points are those of an interface that have a program of ours, by their pins.
func points(t testing.TB, ns, index string) string {
	t.Helper()
	var list []string
	for _, l := range links(t, ns) {
		if f := strings.Split(l, "-"); f[0] == index {
			list = append(list, f[1])
		}
	}
	slices.Sort(list)
	return strings.Join(slices.Compact(list), " ")
}

// leftBehind is what tests should have removed: namespaces, pins.
func leftBehind() (list []string) {
	names, _ := filepath.Glob(fmt.Sprintf("/run/netns/weirtest-%d-*", os.Getpid()))
	list = append(list, names...)
	cookies.Range(func(folder, _ any) bool {
		if _, err := os.Stat(folder.(string)); err == nil {
			list = append(list, folder.(string))
		}
		return true
	})
	return list
}

// kernelModes are the ways of metering that have a program in the kernel.
var kernelModes = []string{"xdp", "tc", "clsact"}

// allModes are all ways.
var allModes = append([]string{"afpacket"}, kernelModes...)

// mode is the flag of one of allModes; clsact is tc on a kernel without TCX.
func modeFlag(mode string) string {
	if mode == "clsact" {
		return "tc"
	}
	return mode
}

// inMode are the words that start weir in one of allModes, to be followed by a
// verb.
func inMode(mode string) []string {
	if mode == "clsact" {
		return []string{"env", "WEIR_WITHOUT=tcx", weir}
	}
	return []string{weir}
}

// meterStart starts a meter in one of allModes and waits until it meters;
// interfaces are separated by spaces.
func meterStart(t testing.TB, ns, mode, interfaces string, args ...string) *process {
	t.Helper()
	all := append(inMode(mode), "meter", "--mode", modeFlag(mode))
	n := 0
	for name := range strings.FieldsSeq(interfaces) {
		all, n = append(all, "-i", name), n+1
	}
	p := start(t, ns, append(all, args...)...)
	metering(t, p, ns, mode, n)
	return p
}

// metering waits until a process meters so many interfaces.
func metering(t testing.TB, p *process, ns, mode string, n int) {
	t.Helper()
	if mode == "afpacket" {
		rings(t, p, ns, n)
		return
	}
	until(t, time.Minute, fmt.Sprintf("%s meters %d interfaces", p.name, n), func() bool {
		select {
		case <-p.ended:
			t.Fatalf("it ended: %s", p.stderr.String())
		default:
		}
		return strings.Count(p.stderr.String(), "msg=metering ") >= n
	})
}

// flowAt is a flow at an observation point.
type flowAt struct {
	flow                     string // as keyOf writes it
	direction, input, output string
}

// byPoint adds up records by flow and observation point.
func byPoint(t testing.TB, all rows) map[flowAt]count {
	t.Helper()
	flows := map[flowAt]count{}
	for _, m := range all {
		k := flowAt{keyOf(m), m["direction"], m["input"], m["output"]}
		c := flows[k]
		c.add(count{number(t, m["packets"]), number(t, m["bytes"])})
		flows[k] = c
	}
	return flows
}

// samePoints is sameFlows with the points.
func samePoints(t testing.TB, got, want map[flowAt]count) {
	t.Helper()
	for k, w := range want {
		if got[k] != w {
			t.Errorf("flow %+v: %+v, want %+v", k, got[k], w)
		}
	}
	for k, g := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("flow %+v: %+v, which nobody sent", k, g)
		}
	}
}

// seenAt puts what is expected of frames to an observation point.
func (e expectation) seenAt(into map[flowAt]count, direction, input, output string) {
	for k, c := range e.flows {
		at := flowAt{k, direction, input, output}
		sum := into[at]
		sum.add(c)
		into[at] = sum
	}
}

// indexOf is an interface's index.
func indexOf(t testing.TB, ns, name string) string {
	t.Helper()
	return strings.TrimSpace(must(t, ns, "cat", "/sys/class/net/"+name+"/ifindex").stdout)
}

// settle gives what was just sent the time to be received.
func settle() { time.Sleep(300 * time.Millisecond * slow) }

// detach takes weir off everything in a namespace and says what is left of it.
func detach(t testing.TB, ns string, args ...string) result {
	t.Helper()
	r := must(t, ns, append([]string{weir, "meter", "--detach"}, args...)...)
	if left := pins(t, ns); len(left) > 0 {
		t.Errorf("left after --detach: %v", left)
	}
	return r
}

// account is what a meter's summary and its records must say of what was sent.
func account(t testing.TB, p *process, sent expectation) rows {
	t.Helper()
	s := parseSummary(t, p.stderr.String())
	if s.count != sent.all || s.Metered != sent.metered {
		t.Errorf("read %+v, metered %+v; want %+v, %+v", s.count, s.Metered, sent.all, sent.metered)
	}
	for reason, c := range s.Ignored {
		if c != sent.ignored[reason] {
			t.Errorf("ignored as %s: %+v, want %+v", reason, c, sent.ignored[reason])
		}
	}
	all := parseCSV(t, p.stdout.String())
	if got := all.sum(t); got != sent.metered || s.Records != uint64(len(all)) {
		t.Errorf("%d records of %+v, the summary says %d of %+v", len(all), got, s.Records, sent.metered)
	}
	for reason, lost := range s.Lost {
		if lost.Records+lost.Packets != 0 {
			t.Errorf("lost: %s %+v", reason, lost)
		}
	}
	return all
}
