package system

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/test/kernel"
)

// crossed is a router with three networks, as routed has two: r forwards between a,
// b and c (vc 10.3.0.1, rc 10.3.0.254, …). What is for 10.99.0.0/16 and fd00:99::/32
// goes by b.
type crossed struct {
	routed
	c string
}

func newCrossed(t testing.TB) crossed {
	t.Helper()
	kernel.Programs(t)
	n := crossed{newRouted(t), namespace(t)}
	joinRouter(t, n.c, "vc", n.r, "rc", 3)
	for ns, name := range map[string]string{n.a: "va", n.b: "vb", n.c: "vc"} {
		takesFrames(t, ns, name)
		must(t, ns, "sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done")
	}
	must(t, n.r, "sh", "-e", "-c", `
for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done
echo 0 >/proc/sys/net/ipv4/icmp_ratelimit
echo 0 >/proc/sys/net/ipv6/icmp/ratelimit
sysctl -qw net.ipv4.icmp_msgs_per_sec=100000 net.ipv4.icmp_msgs_burst=100000
ip route add 10.99.0.0/16 via 10.2.0.1
ip -6 route add fd00:99::/32 via fd00:2::1
# Answers to those that tests send for find their way: if they waited for a neighbour,
# they would take the room of the sockets that every namespace's ICMP leaves by.
for i in 7 8; do
	ip neigh replace 10.1.0.$i lladdr 02:00:00:00:01:01 dev ra nud permanent
	ip neigh replace fd00:1::$i lladdr 02:00:00:00:01:01 dev ra nud permanent
done`)
	return n
}

// takesFrames lets frames be redirected to an end of a veth pair from the other.
func takesFrames(t testing.TB, ns, name string) {
	t.Helper()
	need(t, "ethtool")
	must(t, ns, "ethtool", "-K", name, "gro", "on")
}

// forwarding is a running weir that forwards.
type forwarding struct {
	*process
	ns, dir, control, config, store string
	program                         string
}

const forwardAll = `
interfaces:
  ra: {meter: true, mode: xdp, forward: on}
  rb: {meter: true, mode: xdp, forward: on}
  rc: {meter: true, mode: xdp, forward: on}
cache: {entries: 16Ki, idle: 2s}`

// startForwarding starts weir with a configuration and waits until it forwards.
func startForwarding(t testing.TB, ns, text string) *forwarding {
	t.Helper()
	f := &forwarding{ns: ns, dir: t.TempDir(), program: weir}
	f.control = filepath.Join(f.dir, "sock")
	f.configure(t, text)
	f.begin(t)
	return f
}

func (f *forwarding) configure(t testing.TB, text string) {
	t.Helper()
	f.config, f.store = upConfig(t, f.dir, text+"\nconsole: {listen: ''}\ncollect: {listen: ['udp://127.0.0.1:2055']}")
}

// begin starts it, again, and waits until it knows its next hops.
func (f *forwarding) begin(t testing.TB) {
	t.Helper()
	f.process = start(t, f.ns, f.program, "up", "-c", f.config)
	until(t, time.Minute, "weir shows its next hops", func() bool {
		select {
		case <-f.ended:
			t.Fatalf("it ended: %s", f.stderr.String())
		default:
		}
		c, err := net.Dial("unix", f.control)
		if err != nil {
			return false
		}
		c.Close()
		r := do(t, f.ns, weir, "show", "routes", "-o", "json", "--control", f.control)
		return r.status == 0 && strings.Contains(r.stdout, `"alive"`)
	})
}

// shownRoute is a row of `weir show routes`.
type shownRoute struct {
	Kind, Interface, Address, MAC, Device, State, Reason string
	Flows, Packets                                       uint64
}

func showRoutes(t testing.TB, ns, control string) (all []shownRoute) {
	t.Helper()
	r := must(t, ns, weir, "show", "routes", "-o", "json", "--control", control)
	if err := json.Unmarshal([]byte(r.stdout), &all); err != nil {
		t.Fatalf("show routes: %v\n%s", err, r.stdout)
	}
	return all
}

// fates is what became of packets that came in by an interface, or by any if it is
// empty: how many were forwarded, and how many left to the kernel by reason.
type fates map[string]uint64

func (f *forwarding) fates(t testing.TB, in string) fates { return fatesOf(t, f.ns, f.control, in) }

func fatesOf(t testing.TB, ns, control, in string) fates {
	t.Helper()
	m := fates{}
	for _, x := range showRoutes(t, ns, control) {
		if x.Kind == "packets" && (in == "" || x.Interface == in) {
			m[x.Reason] += x.Packets
		}
	}
	return m
}

// less is what has come since; zeros are left out.
func (m fates) less(o fates) fates {
	d := fates{}
	for k, n := range m {
		if n != o[k] {
			d[k] = n - o[k]
		}
	}
	return d
}

func (m fates) all() (n uint64) {
	for _, x := range m {
		n += x
	}
	return n
}

// tap keeps the frames that come in at an interface, those that came first last
// forgotten.
type tap struct {
	fd     int
	mu     sync.Mutex
	frames []tapped
}

type tapped struct {
	at     time.Time
	octets []byte
}

func newTap(t testing.TB, ns, ifname string) *tap {
	t.Helper()
	p := &tap{fd: packetSocket(t, ns, ifname, unix.SOCK_RAW)}
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 1<<16); !stop.Load(); {
			n, from, err := unix.Recvfrom(p.fd, b, 0)
			if l, is := from.(*unix.SockaddrLinklayer); err != nil || !is || l.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			p.mu.Lock()
			p.frames = append(p.frames, tapped{time.Now(), slices.Clone(b[:n])})
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() { stop.Store(true); <-done; unix.Close(p.fd) })
	return p
}

// take gives what has come that is wanted, and forgets all. nil: all is wanted.
func (p *tap) take(wanted func([]byte) bool) (list [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.frames {
		if wanted == nil || wanted(f.octets) {
			list = append(list, f.octets)
		}
	}
	p.frames = nil
	return list
}

// count is how many frames have come that are wanted.
func (p *tap) count(wanted func([]byte) bool) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.frames {
		if wanted == nil || wanted(f.octets) {
			n++
		}
	}
	return n
}

// lost is how many frames the tap's socket had no room for.
func (p *tap) lost(t testing.TB) uint32 {
	t.Helper()
	s, err := unix.GetsockoptTpacketStats(p.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		t.Fatal(err)
	}
	return s.Drops
}

// numberOf is the number of a numbered frame.
func numberOf(f []byte) (n uint32, ok bool) {
	if len(f) < 8 || string(f[len(f)-8:len(f)-4]) != "weir" {
		return 0, false
	}
	return be.Uint32(f[len(f)-4:]), true
}

func isNumbered(f []byte) bool { _, ok := numberOf(f); return ok }

// toRouter addresses a frame of a to the router.
func toRouter(f []byte) []byte {
	copy(f, []byte{2, 0, 0, 0, 1, 254, 2, 0, 0, 0, 1, 1})
	return f
}

// routerFrame is a packet on its way from a to the router, numbered.
func routerFrame(p []byte, n uint32) []byte {
	kind := uint16(0x0800)
	if p[0]>>4 == 6 {
		kind = 0x86dd
	}
	return numbered(toRouter(ethernet(kind, p)), n)
}

// describe is a frame for who reads what failed.
func describe(f []byte) string { return fmt.Sprintf("%x", f[:min(len(f), 96)]) }
