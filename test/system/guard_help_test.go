package system

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// guarded is a router with a guard: who attacks is at a, who does not is at c, victims
// have addresses of 10.99.0.0/16 and fd00:99::/32 at b. Forged senders are of
// 198.18.0.0/15 and 2001:db8::/32, and get no answers.
type guarded struct {
	crossed
	*process
	dir, control, config, store string
}

// newGuarded makes the router; weir does not run yet.
func newGuarded(t testing.TB) *guarded {
	t.Helper()
	g := &guarded{crossed: newCrossed(t), dir: t.TempDir()}
	g.control = filepath.Join(g.dir, "sock")
	must(t, g.b, "sh", "-e", "-c", "ip route add blackhole 198.18.0.0/15; ip -6 route add blackhole 2001:db8::/32; sysctl -qw net.ipv4.icmp_ratelimit=1000")
	must(t, g.r, "sh", "-e", "-c", "ip route add blackhole 198.18.0.0/15; ip -6 route add blackhole 2001:db8::/32")
	return g
}

// configure writes the configuration.
func (g *guarded) configure(t testing.TB, forward, guard string) {
	t.Helper()
	g.config, g.store = upConfig(t, g.dir, strings.ReplaceAll(`
interfaces:
  ra: {meter: true, mode: xdp, forward: FORWARD}
  rb: {meter: true, mode: xdp, forward: FORWARD}
  rc: {meter: true, mode: xdp, forward: FORWARD}
cache: {entries: 128Ki, idle: 2s, active: 10s}
collect: {listen: ['udp://0.0.0.0:2055']}
`, "FORWARD", forward)+guard)
}

// begin starts weir, and waits until it meters.
func (g *guarded) begin(t testing.TB) {
	t.Helper()
	g.process = start(t, g.r, weir, "up", "-c", g.config)
	ready(t, g.process, g.r)
	metering(t, g.process, g.r, "xdp", 3)
	// The first look at the cache is none at what a second brought.
	until(t, 20*time.Second, "the guard looks", func() bool { return metric(t, g.r, console, "weir_guard_ticks_total") >= 2 })
}

// victim gives an address to b.
func (g *guarded) victim(t testing.TB, addr string) string {
	t.Helper()
	words := []string{"ip", "addr", "add", addr, "dev", "vb"}
	if strings.Contains(addr, ":") {
		words = append(words, "nodad")
	}
	must(t, g.b, words...)
	return addr
}

// guardAction is a row of `weir guard list`.
type guardAction struct {
	ID            uint64 `json:"id"`
	State         string
	What, By, Why string
	Group, Note   string
	Undo          string
	Left          float64
	Hit, Innocent float64
	Counted       uint64 `json:"counted_packets"`
	Dropped       uint64 `json:"dropped_packets"`
	Created, Ends time.Time
	Attack        uint64
	Here          bool
}

// actions are all, also those that are over, of a hostgroup, or of all if it is empty.
func (g *guarded) actions(t testing.TB, group string) []guardAction {
	t.Helper()
	var all []guardAction
	r := must(t, g.r, weir, "guard", "list", "--all", "-o", "json", "--control", g.control)
	if err := json.Unmarshal([]byte(r.stdout), &all); err != nil {
		t.Fatalf("guard list: %v\n%s", err, r.stdout)
	}
	return slices.DeleteFunc(all, func(a guardAction) bool { return group != "" && a.Group != group })
}

// action is one by its number.
func (g *guarded) action(t testing.TB, id uint64) guardAction {
	t.Helper()
	for _, a := range g.actions(t, "") {
		if a.ID == id {
			return a
		}
	}
	t.Fatalf("no action %d", id)
	return guardAction{}
}

// awaitAction waits for the first action of a hostgroup in a state.
func (g *guarded) awaitAction(t testing.TB, group, state string) (got guardAction) {
	t.Helper()
	until(t, 20*time.Second, "an action of "+group+" is "+state, func() bool {
		for _, a := range g.actions(t, group) {
			if a.State == state {
				got = a
				return true
			}
		}
		return false
	})
	return got
}

// guardAttack is a row of `weir show guard`.
type guardAttack struct {
	ID                         uint64 `json:"id"`
	Target, Kind, Scope, Group string
	Threshold, Note            string
	Began, Seen                time.Time
	Ended                      *time.Time
	PeakPPS                    uint64 `json:"peak_pps"`
	Evidence                   struct {
		Sources     int
		TopSources  []guardShare `json:"top_sources"`
		SourcePorts []guardShare `json:"source_ports"`
		DestPorts   []guardShare `json:"dest_ports"`
		Established float64
	}
}

type guardShare struct {
	Value string
	Share float64
}

// attacks are those on a hostgroup, those that go on first.
func (g *guarded) attacks(t testing.TB, group string) []guardAttack {
	t.Helper()
	var all []guardAttack
	r := must(t, g.r, weir, "show", "guard", "-o", "json", "--control", g.control)
	if err := json.Unmarshal([]byte(r.stdout), &all); err != nil {
		t.Fatalf("show guard: %v\n%s", err, r.stdout)
	}
	return slices.DeleteFunc(all, func(a guardAttack) bool { return group != "" && a.Group != group })
}

// guard does something with the running weir's guard.
func (g *guarded) guard(t testing.TB, args ...string) result {
	t.Helper()
	return do(t, g.r, append(append([]string{weir, "guard"}, args...), "-c", g.config, "--control", g.control)...)
}

// flood is frames that are sent at a rate, again and again.
type flood struct {
	packets atomic.Uint64
	began   atomic.Int64 // Unix ns; 0: not yet
	rate    atomic.Int64 // a second
	stop    chan struct{}
	done    chan struct{}
}

// startFlood sends packets at a rate from a to the router until it is ended, each of a
// list in turn.
func startFlood(t testing.TB, out *sender, rate int64, packets [][]byte) *flood {
	t.Helper()
	frames := make([][]byte, len(packets))
	for i, p := range packets {
		kind := uint16(0x0800)
		if p[0]>>4 == 6 {
			kind = 0x86dd
		}
		frames[i] = toRouter(ethernet(kind, p))
	}
	f := &flood{stop: make(chan struct{}), done: make(chan struct{})}
	f.rate.Store(rate)
	go func() {
		defer close(f.done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		due, last, next := 0.0, time.Now(), 0
		for {
			select {
			case <-f.stop:
				return
			case now := <-tick.C:
				due = min(due+now.Sub(last).Seconds()*float64(f.rate.Load()), 128) // what a veth pair has room for
				last = now
			}
			for due >= 1 {
				f.began.CompareAndSwap(0, time.Now().UnixNano())
				n := min(int(due), len(frames)-next)
				out.send(t, frames[next:next+n]...)
				f.packets.Add(uint64(n))
				next, due = (next+n)%len(frames), due-float64(n)
			}
		}
	}()
	t.Cleanup(func() { f.end() })
	return f
}

// end stops it, and gives how many were sent.
func (f *flood) end() uint64 {
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
	<-f.done
	return f.packets.Load()
}

// forged is the i-th forged sender of a network.
func forged(network string, i int) string {
	a := netip.MustParseAddr(network).As16()
	r := rand.New(rand.NewPCG(uint64(i), 77))
	if a[15] = byte(1 + r.IntN(254)); a[0] != 0 {
		be.PutUint64(a[8:], r.Uint64())
	}
	return netip.AddrFrom16(a).Unmap().String()
}

// paced is a transfer that never wants more than a rate: what of it arrives in time
// tells what stands in its way.
type paced struct {
	name     string
	received atomic.Uint64
	from, to net.Conn
	stop     chan struct{}
	wait     sync.WaitGroup
	err      atomic.Pointer[error]
}

const pacedRate = 400_000 // octets a second

// startPaced sends octets from c to a victim's port over TCP.
func (g *guarded) startPaced(t testing.TB, addr string) *paced {
	t.Helper()
	p := &paced{name: addr, stop: make(chan struct{})}
	var server net.Listener
	within(t, g.b, func() (err error) { server, err = net.Listen("tcp", addr); return err })
	t.Cleanup(func() { server.Close() })
	within(t, g.c, func() (err error) { p.from, err = net.DialTimeout("tcp", addr, 20*time.Second); return err })
	var err error
	if p.to, err = server.Accept(); err != nil {
		t.Fatal(err)
	}
	p.wait.Go(func() {
		for b := make([]byte, 1<<16); ; {
			n, err := p.to.Read(b)
			p.received.Add(uint64(n))
			if err != nil {
				if err != io.EOF {
					p.err.Store(&err)
				}
				return
			}
		}
	})
	p.wait.Go(func() {
		defer p.from.(*net.TCPConn).CloseWrite()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for began, sent := time.Now(), 0; ; {
			select {
			case <-p.stop:
				return
			case now := <-tick.C:
				n := int(now.Sub(began).Seconds()*pacedRate) - sent
				if n <= 0 {
					continue
				}
				p.from.SetWriteDeadline(time.Now().Add(30 * time.Second))
				if _, err := p.from.Write(make([]byte, n)); err != nil {
					p.err.Store(&err)
					return
				}
				sent += n
			}
		}
	})
	t.Cleanup(func() { p.from.Close(); p.to.Close(); p.wait.Wait() })
	return p
}

// keeps says that at least four fifths of what is sent a second have arrived.
func (p *paced) keeps(t testing.TB, rate float64) {
	t.Helper()
	if rate < 0.8*pacedRate {
		t.Errorf("the transfer to %s has %.0f %% of what it had", p.name, 100*rate/pacedRate)
	}
	if err := p.err.Load(); err != nil {
		t.Errorf("the transfer to %s: %v", p.name, *err)
	}
}

// floodCounter counts the packets that come to b from forged senders, by destination.
type floodCounter struct {
	fd   int
	mu   sync.Mutex
	to   map[netip.Addr]uint64
	stop atomic.Bool
	done chan struct{}
}

func newFloodCounter(t testing.TB, g *guarded) *floodCounter {
	t.Helper()
	c := &floodCounter{fd: packetSocket(t, g.b, "vb", unix.SOCK_DGRAM), to: map[netip.Addr]uint64{}, done: make(chan struct{})}
	forged4, forged6 := netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("2001:db8::/32")
	go func() {
		defer close(c.done)
		for b := make([]byte, 64); !c.stop.Load(); {
			n, from, err := unix.Recvfrom(c.fd, b, unix.MSG_TRUNC)
			if l, is := from.(*unix.SockaddrLinklayer); err != nil || n < 20 || !is || l.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			var src, dst netip.Addr
			if b[0]>>4 == 6 {
				src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
			} else {
				src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
			}
			if forged4.Contains(src) || forged6.Contains(src) {
				c.mu.Lock()
				c.to[dst]++
				c.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() { c.stop.Store(true); <-c.done; unix.Close(c.fd) })
	return c
}

// of is how many came to a network.
func (c *floodCounter) of(network string) (n uint64) {
	p := netip.MustParsePrefix(network)
	c.mu.Lock()
	defer c.mu.Unlock()
	for a, k := range c.to {
		if p.Contains(a) {
			n += k
		}
	}
	return n
}

func (c *floodCounter) all() uint64 { return c.of("0.0.0.0/0") + c.of("::/0") }

// statistics of an interface, by the kernel.
func statistics(t testing.TB, ns, name, which string) uint64 {
	t.Helper()
	return number(t, strings.TrimSpace(must(t, ns, "cat", fmt.Sprintf("/sys/class/net/%s/statistics/%s", name, which)).stdout))
}
