package system

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// judged is a running weir that filters.
type judged struct {
	*process
	ns, dir, control, config, lists, store string
	mode                                   string
}

// startJudged starts weir with a configuration, in which MODE is the mode and LISTS
// the file of access lists; it may say more of them than that.
func startJudged(t testing.TB, ns, mode, interfaces, lists string) *judged {
	t.Helper()
	dir := t.TempDir()
	j := &judged{ns: ns, dir: dir, control: filepath.Join(dir, "sock"), lists: filepath.Join(dir, "lists.acl"), mode: mode}
	j.write(t, lists)
	j.configure(t, interfaces)
	j.begin(t)
	return j
}

// configure writes the configuration: what the interfaces are told, and more.
func (j *judged) configure(t testing.TB, text string) {
	t.Helper()
	if !strings.Contains(text, "LISTS") {
		text += "\nacl: {file: LISTS}"
	}
	text = strings.ReplaceAll(text, "LISTS", j.lists)
	j.config, j.store = upConfig(t, j.dir, strings.ReplaceAll(text, "MODE", modeFlag(j.mode))+"\nconsole: {listen: ''}\ncollect: {listen: ['udp://127.0.0.1:2055']}")
}

// write replaces the file of lists.
func (j *judged) write(t testing.TB, lists string) {
	t.Helper()
	if err := os.WriteFile(j.lists, []byte(lists), 0o644); err != nil {
		t.Fatal(err)
	}
}

// begin starts it, again, and waits until it answers.
func (j *judged) begin(t testing.TB) {
	t.Helper()
	j.process = start(t, j.ns, append(inMode(j.mode), "up", "-c", j.config)...)
	until(t, time.Minute, "weir shows its lists", func() bool {
		select {
		case <-j.ended:
			t.Fatalf("it ended: %s", j.stderr.String())
		default:
		}
		c, err := net.Dial("unix", j.control)
		if err != nil {
			return false
		}
		c.Close()
		return do(t, j.ns, weir, "show", "access-lists", "-o", "json", "--control", j.control).status == 0
	})
}

// hangUp makes it read its configuration again, and waits until it has taken, or
// refused it.
func (j *judged) hangUp(t testing.TB, taken bool) {
	t.Helper()
	text := map[bool]string{true: "configuration taken", false: "configuration not taken"}[taken]
	before := countOf(j.stderr.String(), text)
	j.signal(t, unix.SIGHUP)
	until(t, 20*time.Second, text, func() bool { return countOf(j.stderr.String(), text) > before })
}

// acl does something with the lists of the running weir.
func (j *judged) acl(t testing.TB, args ...string) result {
	t.Helper()
	return do(t, j.ns, append(append([]string{weir, "acl"}, args...), "--control", j.control)...)
}

// apply puts lists in force, or on trial.
func (j *judged) apply(t testing.TB, lists string, how ...string) {
	t.Helper()
	file := filepath.Join(j.dir, "next.acl")
	if err := os.WriteFile(file, []byte(lists), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := j.acl(t, append([]string{"apply", file}, how...)...); r.status != 0 {
		t.Fatalf("apply: %s", r.stderr)
	}
}

// hit is a row of `weir show access-lists`.
type hit struct {
	Family, List, Kind, Rule string
	Seq                      *uint32
	count
}

func (j *judged) rules(t testing.TB) (all []hit) {
	t.Helper()
	r := must(t, j.ns, weir, "show", "access-lists", "-o", "json", "--control", j.control)
	if err := json.Unmarshal([]byte(r.stdout), &all); err != nil {
		t.Fatalf("show access-lists: %v\n%s", err, r.stdout)
	}
	return all
}

// hits is what each rule has decided of, by its list, kind and number: "ipv4 IN 10",
// "ipv6 OUT implicit". Rules of a list that nobody wrote are added up.
func (j *judged) hits(t testing.TB) map[string]count {
	t.Helper()
	hits := map[string]count{}
	for _, x := range j.rules(t) {
		k := x.Family + " " + x.List + " " + x.Kind
		if x.Seq != nil {
			k = fmt.Sprint(x.Family, " ", x.List, " ", *x.Seq)
		}
		c := hits[k]
		c.add(x.count)
		hits[k] = c
	}
	return hits
}

// denied is what all rules have denied.
func (j *judged) denied(t testing.TB) (c count) {
	t.Helper()
	for _, x := range j.rules(t) {
		if strings.HasPrefix(x.Rule, "deny") {
			c.add(x.count)
		}
	}
	return c
}

// sameHits waits for what rules must have decided of; none may have more.
func (j *judged) sameHits(t testing.TB, want map[string]count) {
	t.Helper()
	var got map[string]count
	for end := time.Now().Add(5 * time.Second * slow); ; time.Sleep(50 * time.Millisecond) {
		got = j.hits(t)
		missing := false
		for k, w := range want {
			missing = missing || got[k].Packets < w.Packets
		}
		if !missing || time.Now().After(end) {
			break
		}
	}
	for k, g := range got {
		if g != want[k] {
			t.Errorf("rule %q decided of %+v, want %+v", k, g, want[k])
		}
	}
	for k, w := range want {
		if _, is := got[k]; !is {
			t.Errorf("there is no rule %q; it should have decided of %+v", k, w)
		}
	}
}

// numbered is a frame that says in its last octets which one it is.
func numbered(f []byte, n uint32) []byte {
	f = append([]byte(nil), f...)
	copy(f[len(f)-8:], "weir")
	be.PutUint32(f[len(f)-4:], n)
	return f
}

// arrivals are the numbered frames that come in at an interface, by number.
type arrivals struct {
	mu    sync.Mutex
	times map[uint32]int
	all   int
}

func newArrivals(t testing.TB, ns, ifname string) *arrivals {
	t.Helper()
	a := &arrivals{times: map[uint32]int{}}
	fd := packetSocket(t, ns, ifname, unix.SOCK_RAW)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 1<<16); !stop.Load(); {
			n, from, err := unix.Recvfrom(fd, b, 0)
			if l, is := from.(*unix.SockaddrLinklayer); err != nil || !is || l.Pkttype == unix.PACKET_OUTGOING || n < 8 || string(b[n-8:n-4]) != "weir" {
				continue
			}
			a.mu.Lock()
			a.times[be.Uint32(b[n-4:])]++
			a.all++
			a.mu.Unlock()
		}
	}()
	t.Cleanup(func() { stop.Store(true); <-done; unix.Close(fd) })
	return a
}

func (a *arrivals) of(n uint32) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.times[n]
}

func (a *arrivals) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all
}

// forget begins anew.
func (a *arrivals) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.times)
	a.all = 0
}

// icmp4 is an ICMP message.
func icmp4(kind, code uint8) []byte {
	return append([]byte{kind, code, 0, 0, 0, 1, 0, 1}, make([]byte, 16)...)
}
