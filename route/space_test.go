package route

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// space is a network namespace without a name: it ends with the test.
type space struct {
	t  testing.TB
	fd int
}

func newSpace(t testing.TB) *space {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	s := &space{t, -1}
	var err error
	thread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
	})
	if err != nil {
		t.Skip("no network namespace:", err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	s.ip("link", "set", "lo", "up")
	s.sysctl("net/ipv6/conf/default/accept_dad", "0") // addresses serve at once
	return s
}

// thread runs f on a thread of its own, and waits.
func thread(f func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		defer close(done)
		f()
	}()
	<-done
}

// in runs f in the namespace.
func (s *space) in(f func()) {
	s.t.Helper()
	var err error
	thread(func() {
		if err = unix.Setns(s.fd, unix.CLONE_NEWNET); err == nil {
			f()
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// try runs a command in the namespace.
func (s *space) try(stdin string, args ...string) (string, error) {
	var out []byte
	var err error
	s.in(func() {
		c := exec.Command(args[0], args[1:]...)
		c.Stdin = strings.NewReader(stdin)
		out, err = c.CombinedOutput()
	})
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (s *space) run(args ...string) string {
	s.t.Helper()
	out, err := s.try("", args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *space) ip(args ...string) { s.t.Helper(); s.run(append([]string{"ip"}, args...)...) }

// batch is a series of ip's words.
func (s *space) batch(lines string) {
	s.t.Helper()
	if _, err := s.try(lines, "ip", "-batch", "-"); err != nil {
		s.t.Fatal(err)
	}
}

// sysctl sets a value below /proc/sys.
func (s *space) sysctl(path, value string) {
	s.t.Helper()
	var err error
	s.in(func() { err = os.WriteFile("/proc/sys/"+path, []byte(value), 0) })
	if err != nil {
		s.t.Fatal(err)
	}
}

// cable joins two namespaces with a veth pair, both ends up with an address.
func cable(a, b *space, nameA, nameB, addrA, addrB string) {
	a.t.Helper()
	var err error
	a.in(func() {
		c := exec.Command("ip", "link", "add", "name", nameA, "type", "veth", "peer", "name", nameB)
		var out []byte
		if out, err = c.CombinedOutput(); err != nil {
			err = fmt.Errorf("veth: %w: %s", err, out)
			return
		}
		var l netlink.Link
		if l, err = netlink.LinkByName(nameB); err == nil {
			err = netlink.LinkSetNsFd(l, b.fd)
		}
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.ip("addr", "add", addrA, "dev", nameA)
	b.ip("addr", "add", addrB, "dev", nameB)
	b.ip("link", "set", nameB, "up")
	a.ip("link", "set", "dev", nameA, "up")
}

func (s *space) link(name string) *netlink.LinkAttrs {
	s.t.Helper()
	var l netlink.Link
	var err error
	s.in(func() { l, err = netlink.LinkByName(name) })
	if err != nil {
		s.t.Fatal(err)
	}
	return l.Attrs()
}

// index is the interface's number.
func (s *space) index(name string) uint32 { s.t.Helper(); return uint32(s.link(name).Index) }

// fake is a Table that remembers.
type fake struct {
	mu     sync.Mutex
	hops   map[Hop]Way
	uppers map[upperKey]uint32
	own    map[netip.Addr]bool
	mtus   map[netip.Prefix]uint32
	log    []entry
	used   []Hop
	full   bool
	quiet  bool // no log of prefixes
	told   int
}

type entry struct {
	at   time.Time
	what string
}

func newFake() *fake {
	return &fake{hops: map[Hop]Way{}, uppers: map[upperKey]uint32{}, own: map[netip.Addr]bool{}}
}

func (f *fake) say(format string, args ...any) {
	f.log = append(f.log, entry{time.Now(), fmt.Sprintf(format, args...)})
}

func (f *fake) SetHop(h Hop, w Way) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full {
		return errors.New("full")
	}
	f.hops[h] = w
	f.say("hop %s %v", h.Gateway, w.Alive)
	return nil
}

func (f *fake) DropHop(h Hop) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.hops, h)
	f.say("drop %s", h.Gateway)
}

func (f *fake) SetUpper(lower uint32, vlan uint16, upper uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.uppers[upperKey{lower, vlan}] = upper
}

func (f *fake) SetOwn(a netip.Addr, own bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own[a] = own
	f.say("own %s %v", a, own)
}

func (f *fake) SetMTUs(m map[netip.Prefix]uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mtus = maps.Clone(m)
	f.say("mtus %v", m)
}

func (f *fake) Invalidate(p netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told++
	if !f.quiet {
		f.say("invalidate %s", p)
	}
}

func (f *fake) InvalidateAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told++
	f.say("invalidate all")
}

func (f *fake) Used(yield func(Hop)) {
	f.mu.Lock()
	used := slices.Clone(f.used)
	f.mu.Unlock()
	for _, h := range used {
		yield(h)
	}
}

func (f *fake) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = nil
}

// when is when something was first said since the last forget.
func (f *fake) when(what string) (time.Time, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.log {
		if e.what == what {
			return e.at, true
		}
	}
	return time.Time{}, false
}

func (f *fake) words() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var w []string
	for _, e := range f.log {
		w = append(w, e.what)
	}
	return w
}

func (f *fake) hop(h Hop) (Way, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w, ok := f.hops[h]
	return w, ok
}

func (f *fake) with(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// eventually waits for what must become true, with more patience than any
// machine needs.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 30 s: %s", what)
		}
	}
}

// watch runs a Monitor in the namespace until the test ends, and waits for its
// first listing.
func (s *space) watch(o Options) *Monitor {
	s.t.Helper()
	if o.Output == nil {
		o.Output = func(uint32) bool { return true }
	}
	m := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go thread(func() {
		err := unix.Setns(s.fd, unix.CLONE_NEWNET)
		if err == nil {
			err = m.Run(ctx)
		}
		done <- err
	})
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error("Run:", err)
		}
	})
	eventually(s.t, "the first listing", func() bool { return m.Snapshot().Listings > 0 })
	return m
}
