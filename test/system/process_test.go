package system

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weir/test/kernel"
)

// buffer is written by a process and read by a test meanwhile.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// process is a program that runs beside the test.
type process struct {
	name           string
	cmd            *exec.Cmd
	stdout, stderr buffer
	ended          chan struct{}
	err            error // when ended
}

// environment keeps a program away from the machine's own weir.
func environment(dir string) []string {
	return append(append(os.Environ(), kernel.Environ()...), "HOME="+dir, "XDG_STATE_HOME="+dir, "XDG_RUNTIME_DIR="+dir, "LC_ALL=C", "TZ=UTC")
}

// start starts a program, in a namespace unless ns is empty, and ends it with
// the test. A failed test prints what it said.
func start(t testing.TB, ns string, args ...string) *process {
	t.Helper()
	if ns != "" {
		args = append([]string{"ip", "netns", "exec", ns}, args...)
	}
	p := &process{name: filepath.Base(args[0]), cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.Env = environment(t.TempDir())
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		select {
		case <-p.ended:
		default:
			p.cmd.Process.Kill()
			<-p.ended
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", strings.Join(args, " "), tail(p.stderr.String(), 6000))
		}
	})
	return p
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// await waits until the process said something on stderr.
func (p *process) await(t testing.TB, text string) {
	t.Helper()
	until(t, 20*time.Second, fmt.Sprintf("%s says %q", p.name, text), func() bool {
		if strings.Contains(p.stderr.String(), text) {
			return true
		}
		select {
		case <-p.ended:
			if !strings.Contains(p.stderr.String(), text) {
				t.Fatalf("%s ended (%v) before it said %q:\n%s", p.name, p.err, text, p.stderr.String())
			}
		default:
		}
		return false
	})
}

func (p *process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
}

// wait waits for the end and returns the exit status, -1 for a signal.
func (p *process) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(60 * time.Second * slow):
		p.cmd.Process.Signal(syscall.SIGQUIT) // a Go program says where it stands
		time.Sleep(time.Second)
		t.Fatalf("%s does not end:\n%s", p.name, tail(p.stderr.String(), 20000))
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop ends it politely; it must end well.
func (p *process) stop(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	if status := p.wait(t); status != 0 {
		t.Errorf("%s: exit status %d after SIGTERM", p.name, status)
	}
}

// kill ends it at once.
func (p *process) kill(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.wait(t)
}

// slow is how much more time everything gets on a slow (emulated) machine.
var slow = func() time.Duration {
	n, err := strconv.Atoi(os.Getenv("WEIR_SLOW"))
	if err != nil || n < 1 {
		return 1
	}
	return time.Duration(n)
}()

// until polls.
func until(t testing.TB, patience time.Duration, what string, done func() bool) {
	t.Helper()
	patience *= slow
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if done() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// result is what a program that ran to its end left.
type result struct {
	status         int
	stdout, stderr string
}

// do runs a program to its end.
func do(t testing.TB, ns string, args ...string) result {
	t.Helper()
	return doWith(t, ns, nil, args...)
}

func doWith(t testing.TB, ns string, stdin []byte, args ...string) result {
	t.Helper()
	if ns != "" {
		args = append([]string{"ip", "netns", "exec", ns}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	cmd.Env = environment(t.TempDir())
	timer := time.AfterFunc(120*time.Second*slow, func() { cmd.Process.Signal(syscall.SIGQUIT) })
	defer timer.Stop()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", args, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// must is do for programs that must succeed.
func must(t testing.TB, ns string, args ...string) result {
	t.Helper()
	r := do(t, ns, args...)
	if r.status != 0 {
		t.Fatalf("%s: exit status %d\n%s%s", strings.Join(args, " "), r.status, tail(r.stdout, 2000), tail(r.stderr, 4000))
	}
	return r
}

// oneLine says that a failure was told in one clear line.
func oneLine(t testing.TB, r result, status int, words ...string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	last := lines[len(lines)-1]
	if r.status != status {
		t.Errorf("exit status %d, want %d: %s", r.status, status, tail(r.stderr, 2000))
	}
	if strings.Contains(r.stderr, "goroutine ") {
		t.Errorf("a panic: %s", tail(r.stderr, 4000))
	}
	// Lines of the log may come first; of what failed there is one.
	failure := 0
	for _, l := range lines {
		if strings.HasPrefix(l, "weir: ") {
			failure++
		}
	}
	if failure != 1 || !strings.HasPrefix(last, "weir: ") {
		t.Errorf("want one last line that says what failed: %q", r.stderr)
	}
	for _, w := range words {
		if !strings.Contains(last, w) {
			t.Errorf("%q does not say %q", last, w)
		}
	}
}

// need skips a test that wants a program that is not there.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("skipped: %s is not installed", p)
		}
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: network namespaces and packet sockets need root")
	}
	need(t, "ip")
}

// count is packets and octets.
type count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

func (c *count) add(o count) { c.Packets += o.Packets; c.Bytes += o.Bytes }

// summary is what `weir meter --summary` prints.
type summary struct {
	count
	Metered count            `json:"metered"`
	Ignored map[string]count `json:"ignored"`
	Flows   struct {
		Created uint64            `json:"created"`
		Expired map[string]uint64 `json:"expired"`
	} `json:"flows"`
	Records uint64 `json:"records"`
	Lost    map[string]struct {
		Records uint64 `json:"records"`
		count
	} `json:"lost"`
}

func parseSummary(t testing.TB, stderr string) (s summary) {
	t.Helper()
	for line := range strings.SplitSeq(stderr, "\n") {
		if strings.HasPrefix(line, "{") {
			if err := json.Unmarshal([]byte(line), &s); err != nil {
				t.Fatalf("summary: %v\n%s", err, line)
			}
			return s
		}
	}
	t.Fatalf("no summary in %q", tail(stderr, 3000))
	return s
}

// rows are the lines of a CSV output, by column name.
type rows []map[string]string

func parseCSV(t testing.TB, text string) rows {
	t.Helper()
	lines, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatalf("csv: %v\n%s", err, tail(text, 2000))
	}
	var all rows
	for i, l := range lines {
		if i == 0 {
			continue
		}
		m := make(map[string]string, len(l))
		for j, v := range l {
			m[lines[0][j]] = v
		}
		all = append(all, m)
	}
	return all
}

func number(t testing.TB, s string) uint64 {
	t.Helper()
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("not a number: %q", s)
	}
	return v
}

// sum adds up packets and bytes.
func (r rows) sum(t testing.TB) (c count) {
	t.Helper()
	for _, m := range r {
		c.add(count{number(t, m["packets"]), number(t, m["bytes"])})
	}
	return c
}

// stored is what a store holds, by its own query.
func stored(t testing.TB, store string, filter ...string) (flows uint64, c count) {
	t.Helper()
	r := must(t, "", append([]string{weir, "query", "--store", store, "-A", "proto", "-n", "0", "-o", "csv"}, filter...)...)
	all := parseCSV(t, r.stdout)
	for _, m := range all {
		flows += number(t, m["flows"])
	}
	return flows, all.sum(t)
}

// loss is one line of `weir show loss`.
type loss struct {
	Stage, Reason                      string
	Records, Packets, Bytes, Datagrams uint64
}

func losses(t testing.TB, ns, control string) []loss {
	t.Helper()
	r := must(t, ns, weir, "show", "loss", "-o", "json", "--control", control)
	var all []loss
	if err := json.Unmarshal([]byte(r.stdout), &all); err != nil {
		t.Fatalf("show loss: %v\n%s", err, r.stdout)
	}
	if len(all) < 10 {
		t.Fatalf("show loss has only %d counters: %s", len(all), r.stdout)
	}
	return all
}

// noLoss fails the test for each counter that is not zero.
func noLoss(t testing.TB, all []loss, but ...string) {
	t.Helper()
next:
	for _, l := range all {
		for _, b := range but {
			if l.Stage+"/"+l.Reason == b {
				continue next
			}
		}
		if l.Records+l.Packets+l.Bytes+l.Datagrams != 0 {
			t.Errorf("lost: %+v", l)
		}
	}
}

func lossOf(all []loss, stage, reason string) (l loss) {
	for _, x := range all {
		if x.Stage == stage && x.Reason == reason {
			return x
		}
	}
	return l
}
