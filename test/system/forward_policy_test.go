package system

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// sides says to which of b and c each numbered frame goes, and that each arrives
// once.
type sides struct{ b, c *tap }

func (s sides) of(t *testing.T, out *sender, frames [][]byte) map[uint32]string {
	t.Helper()
	s.b.take(nil)
	s.c.take(nil)
	for len(frames) > 0 {
		some := frames[:min(100, len(frames))] // no queue on the way overflows
		before := s.b.count(isNumbered) + s.c.count(isNumbered)
		out.send(t, some...)
		until(t, 10*time.Second, "all arrive", func() bool { return s.b.count(isNumbered)+s.c.count(isNumbered) >= before+len(some) })
		frames = frames[len(some):]
	}
	where := map[uint32]string{}
	for name, p := range map[string]*tap{"b": s.b, "c": s.c} {
		for _, f := range p.take(isNumbered) {
			n, _ := numberOf(f)
			where[n] += name
		}
	}
	return where
}

// policyFrames are of many flows that rules and multipath tell apart.
func policyFrames() (frames [][]byte) {
	r := rand.New(rand.NewPCG(8, 1))
	for n := range 500 {
		port, tos := uint16(1024+r.IntN(60000)), []uint8{0, 0, 0x10, 0x10, 0xb8, 0x03}[r.IntN(6)]
		proto, l4 := uint8(17), udp(port, uint16(r.IntN(60000)), 20)
		switch r.IntN(7) {
		case 0:
			proto, l4 = 6, tcp(port, 443, 16, 20)
		case 1:
			proto, l4 = 132, udp(port, 443, 20)
		case 2:
			proto, l4 = 47, make([]byte, 30)
		case 3:
			proto, l4 = 1, icmp4(8, 0)
		case 4:
			proto, l4 = []uint8{50, 51, 33, 136}[r.IntN(4)], be.AppendUint64(be.AppendUint64(nil, r.Uint64()), r.Uint64())
			if proto == 51 {
				l4[0], l4[1] = 17, 4
			}
			l4 = append(l4, make([]byte, 30)...)
		}
		host := r.IntN(200)
		if n%2 == 0 {
			frames = append(frames, routerFrame(ipv4(fmt.Sprintf("10.1.%d.%d", r.IntN(2), 2+host), fmt.Sprintf("10.99.%d.7", r.IntN(200)), proto, tos, 0, l4), uint32(n)))
			continue
		}
		if proto == 1 {
			proto, l4 = 58, icmp4(128, 0)
		}
		p := ipv6(fmt.Sprintf("fd00:1:%d::%x", r.IntN(2), 2+host), fmt.Sprintf("fd00:99::%x", r.IntN(200)), proto, tos, l4)
		be.PutUint32(p, be.Uint32(p)|r.Uint32()&0xfffff)
		frames = append(frames, routerFrame(p, uint32(n)))
	}
	return frames
}

// Rules that look at where packets come from, their type of service, interface,
// protocol and ports, and routes of several next hops, choose the way that they choose
// without weir; each flow stays on its way.
func TestForwardPolicy(t *testing.T) {
	t.Parallel()
	// Between next hops the kernel may choose by the SPI of ESP and AH, too, which no
	// flow's key has.
	isLeft := func(setup string, f []byte) bool {
		proto := f[14+9]
		if f[12] == 0x86 {
			proto = f[14+6]
		}
		four, six := strings.Contains(setup, "ipv4.fib_multipath_hash_policy=1"), strings.Contains(setup, "ipv6.fib_multipath_hash_policy=1")
		return (proto == 50 || proto == 51) && (f[12] == 0x08 && four || f[12] == 0x86 && six)
	}
	const several = "ip route replace 10.99.0.0/16 nexthop via 10.2.0.1 nexthop via 10.3.0.1; ip -6 route del fd00:99::/32; ip -6 route add fd00:99::/32 nexthop via fd00:2::1 nexthop via fd00:3::1;"
	policies := []struct{ name, setup string }{
		{"source", "ip rule add from 10.1.1.0/24 lookup 7; ip -6 rule add from fd00:1:1::/48 lookup 7"},
		{"type of service", "ip rule add tos 0x10 lookup 7; ip -6 rule add tos 0x10 lookup 7"},
		{"a route's type of service", "ip route add 10.99.0.0/16 tos 0x10 via 10.3.0.1"},
		{"interface", "ip rule add iif ra from 10.1.1.0/24 lookup 7; ip rule add iif rb lookup 8; ip -6 rule add iif ra from fd00:1:1::/48 lookup 7"},
		{"protocol and ports", "ip rule add ipproto udp sport 1024-30000 lookup 7; ip -6 rule add ipproto tcp lookup 7"},
		{"several next hops, by address", several + "sysctl -qw net.ipv4.fib_multipath_hash_policy=0 net.ipv6.fib_multipath_hash_policy=0"},
		{"several next hops, by flow", several + "sysctl -qw net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1"},
		{"next hops of several weights", "ip route replace 10.99.0.0/16 nexthop via 10.2.0.1 weight 3 nexthop via 10.3.0.1 weight 1; sysctl -qw net.ipv4.fib_multipath_hash_policy=1"},
		{"a group of next hop objects", "ip nexthop add id 1 via 10.2.0.1 dev rb; ip nexthop add id 2 via 10.3.0.1 dev rc; ip nexthop add id 9 group 1/2; ip route replace 10.99.0.0/16 nhid 9; sysctl -qw net.ipv4.fib_multipath_hash_policy=1"},
	}
	const reset = `
for table in 7 8; do
	while ip rule del lookup $table; do :; done
	while ip -6 rule del lookup $table; do :; done
done 2>/dev/null
ip route del 10.99.0.0/16 tos 0x10 2>/dev/null
while ip route del 10.99.0.0/16; do :; done 2>/dev/null
while ip -6 route del fd00:99::/32; do :; done 2>/dev/null
ip nexthop flush >/dev/null 2>&1
set -e
sysctl -qw net.ipv4.fib_multipath_hash_policy=0 net.ipv6.fib_multipath_hash_policy=0
ip route add 10.99.0.0/16 via 10.2.0.1; ip -6 route add fd00:99::/32 via fd00:2::1
ip route replace default via 10.3.0.1 table 7; ip -6 route replace default via fd00:3::1 table 7
`
	n := newCrossed(t)
	out, at := newSender(t, n.a, "va"), sides{newTap(t, n.b, "vb"), newTap(t, n.c, "vc")}
	frames := policyFrames()
	want := map[string]map[uint32]string{}
	for _, p := range policies {
		must(t, n.r, "sh", "-c", reset+p.setup)
		where := at.of(t, out, frames)
		want[p.name] = where
		sum := map[string]int{}
		for _, w := range where {
			sum[w]++
		}
		if len(sum) != 2 || sum["b"] < 30 || sum["c"] < 30 {
			t.Errorf("%s: without weir %v: nothing is shown", p.name, sum)
		}
	}
	f := startForwarding(t, n.r, forwardAll)
	for _, p := range policies {
		must(t, n.r, "sh", "-c", reset+p.setup)
		time.Sleep(1200 * time.Millisecond) // no message tells of the hash policy
		before := f.fates(t, "ra")
		const rounds = 2
		left := 0
		for _, f := range frames {
			if isLeft(p.setup, f) {
				left++
			}
		}
		for round := range rounds {
			got := at.of(t, out, frames)
			others := map[string]int{}
			for i, w := range want[p.name] {
				if got[i] != w {
					others[fmt.Sprintf("protocol %d", frames[i][14+9])]++
				}
			}
			if len(others) > 0 {
				t.Errorf("%s, round %d: of %d packets these go elsewhere than without weir: %v", p.name, round, len(frames), others)
			}
		}
		if d := f.fates(t, "ra").less(before); d["spi"] != uint64(rounds*left) || d["forwarded"] != uint64(rounds*(len(frames)-left)) || d.all() != uint64(rounds*len(frames)) {
			t.Errorf("%s: %d packets, %d of them left to the kernel: %v", p.name, rounds*len(frames), rounds*left, d)
		}
	}
	f.stop(t)
	detach(t, n.r)
}

// Sources that the way back does not lead to are dropped (RFC 3704): strict, and
// loose.
func TestForwardURPF(t *testing.T) {
	t.Parallel()
	n := newCrossed(t)
	must(t, n.r, "sh", "-e", "-c", "ip route add blackhole 172.17.0.0/16; ip -6 route add blackhole fd17::/16")
	outs := map[string]*sender{"ra": newSender(t, n.a, "va"), "rc": newSender(t, n.c, "vc")}
	in := newTap(t, n.b, "vb")
	f := startForwarding(t, n.r, strings.NewReplacer("ra: {", "ra: {urpf: strict, ", "rc: {", "rc: {urpf: loose, ").Replace(forwardAll))
	dropped := uint64(0)
	for _, c := range []struct {
		source       string
		strict, lets bool // it passes ra, rc
	}{
		{"10.1.0.7", true, true},
		{"10.3.0.7", false, true},
		{"10.2.0.9", false, true},
		{"10.99.1.1", false, true},
		{"172.16.0.1", false, false},
		{"172.17.0.1", false, false},
		{"fd00:1::7", true, true},
		{"fd00:3::7", false, true},
		{"fd00:2::9", false, true},
		{"fd00:99::1", false, true},
		{"fd16::1", false, false},
		{"fd17::1", false, false},
	} {
		for port, passes := range map[string]bool{"ra": c.strict, "rc": c.lets} {
			var p []byte
			if strings.Contains(c.source, ":") {
				p = ipv6(c.source, far6, 17, 0, udp(7000, 53, 40))
			} else {
				p = ipv4(c.source, far4, 17, 0, 0, udp(7000, 53, 40))
			}
			frame := routerFrame(p, 1)
			if port == "rc" {
				copy(frame, []byte{2, 0, 0, 0, 3, 254, 2, 0, 0, 0, 3, 1})
			}
			const times = 3
			in.take(nil)
			before := f.fates(t, port)
			for range times {
				outs[port].send(t, frame)
			}
			want, why := times, "forwarded"
			if !passes {
				want, why = 0, "urpf"
				dropped += times
			}
			var d fates
			until(t, 5*time.Second, "all are counted", func() bool { d = f.fates(t, port).less(before); return d.all() >= times })
			if d[why] != times || d.all() != times {
				t.Errorf("from %s by %s: counted %v, want %s", c.source, port, d, why)
			}
			if want > 0 {
				until(t, 5*time.Second, "they arrive", func() bool { return in.count(isNumbered) >= want })
			}
			if got := in.count(isNumbered); got != want {
				t.Errorf("from %s by %s: %d of %d arrive, want %d", c.source, port, got, times, want)
			}
		}
	}
	f.stop(t)
	var denied uint64
	for _, m := range parseCSV(t, must(t, "", weir, "query", "--store", f.store, "-n", "0", "-o", "csv", "dst port 53").stdout) {
		if m["forwarding_status"] != "64" {
			denied += number(t, m["packets"])
			if !strings.HasPrefix(fmt.Sprint(number(t, m["forwarding_status"])>>6), "2") {
				t.Errorf("a record of what was dropped: %v", m)
			}
		}
	}
	if denied != dropped {
		t.Errorf("records say that %d packets were dropped, %d were", denied, dropped)
	}
	detach(t, n.r)
}
