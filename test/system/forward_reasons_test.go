package system

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// slowWay is a kind of packet that is left to the kernel: why, what the router is
// told before, what after.
type slowWay struct {
	name, why     string
	before, after string
	frames        [][]byte
	wants         string // what must be seen in the kernel's answers, so that something was shown
	patience      time.Duration
}

const (
	sender4, sender6 = "10.1.0.1", "fd00:1::1"
	far4, far6       = "10.99.7.7", "fd00:99:1::7"
)

// to is a datagram of a to somewhere, as a frame to the router.
func to(dst string, payload int) []byte { return toWith(dst, payload, nil) }

func toWith(dst string, payload int, change func(p []byte)) []byte {
	var p []byte
	if strings.Contains(dst, ":") {
		p = ipv6(sender6, dst, 17, 0, udp(4000, 53, payload))
	} else {
		p = ipv4(sender4, dst, 17, 0, 0, udp(4000, 53, payload))
	}
	if change != nil {
		change(p)
		sumAgain(p)
	}
	return routerFrame(p, uint32(payload))
}

// sumAgain mends the checksum of an IPv4 header.
func sumAgain(p []byte) {
	if p[0]>>4 == 4 {
		be.PutUint16(p[10:], 0)
		be.PutUint16(p[10:], checksum(p[:int(p[0]&15)*4]))
	}
}

func dontFragment(p []byte) { p[6] |= 0x40 }
func ttl(n byte) func([]byte) {
	return func(p []byte) {
		if p[0]>>4 == 4 {
			p[8] = n
		} else {
			p[7] = n
		}
	}
}

// withSource is a frame of an IPv4 packet from elsewhere.
func withSource(src, dst string) []byte {
	return routerFrame(ipv4(src, dst, 17, 0, 0, udp(4000, 53, 40)), 40)
}

// withOptions puts options into the IPv4 header of a packet to somewhere.
func withOptions(dst string, options ...byte) []byte {
	p := ipv4(sender4, dst, 17, 0, 0, udp(4000, 53, 40))
	p = slices.Concat(p[:20], options, p[20:])
	p[0] = 0x45 + byte(len(options)/4)
	be.PutUint16(p[2:], uint16(len(p)))
	sumAgain(p)
	return routerFrame(p, 41)
}

func slowWays() []slowWay {
	addressed := func(f []byte, mac ...byte) []byte { copy(f, mac); return f }
	tagged := func(tags ...uint16) []byte {
		return numbered(toRouter(ethernet(0x0800, ipv4(sender4, far4, 17, 0, 0, udp(4000, 53, 40)), tags...)), 42)
	}
	six := func(next uint8, l4 []byte) []byte { return routerFrame(ipv6(sender6, far6, next, 0, l4), 43) }
	padding := func(next uint8) []byte { return append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, udp(4000, 53, 40)...) }
	return []slowWay{
		{name: "to somebody else", why: "addressee", frames: [][]byte{addressed(to(far4, 40), 2, 0, 0, 0, 9, 9), addressed(to(far6, 40), 2, 0, 0, 0, 9, 9), addressed(to(far4, 40), 255, 255, 255, 255, 255, 255)}},
		{name: "tags", why: "encapsulation", frames: [][]byte{tagged(100), tagged(100, 200)}},
		{name: "a tag of no VLAN", why: "forwarded", wants: "b", frames: [][]byte{tagged(0), tagged(5 << 13)}},
		{name: "options", why: "ip-options", wants: "b", frames: [][]byte{withOptions(far4, 1, 1, 1, 1), withOptions(far4, 7, 7, 4, 0, 0, 0, 0, 0), six(0, padding(17)), six(60, padding(17))}},
		{name: "fragments of IPv6", why: "ip-options", wants: "b", frames: [][]byte{six(44, append([]byte{17, 0, 0, 1, 0, 0, 0, 9}, udp(4000, 53, 40)...)), six(44, append([]byte{17, 0, 0, 0x28, 0, 0, 0, 9}, make([]byte, 40)...))}},
		{name: "fragments", why: "fragment", wants: "b", frames: [][]byte{
			toWith(far4, 40, func(p []byte) { p[6] |= 0x20 }), toWith(far4, 40, func(p []byte) { p[7] = 100 }),
		}},
		{name: "TTL 1 and 0", why: "ttl", wants: "icmp 11 icmp6 3", frames: [][]byte{toWith(far4, 40, ttl(1)), toWith(far6, 40, ttl(1)), toWith(far4, 40, ttl(0)), toWith(far6, 40, ttl(0))}},
		{name: "too long", why: "mtu", before: "ip link set rb mtu 1300", after: "ip link set rb mtu 1500", wants: "b icmp 3 icmp6 2", frames: [][]byte{toWith(far4, 1350, dontFragment), toWith(far4, 1350, nil), to(far6, 1350)}},
		{name: "addresses apart", why: "martian", wants: "icmp 3 icmp6 1", frames: [][]byte{
			to("224.0.0.251", 40), to("239.1.2.3", 40), to("ff0e::1", 40), withSource("10.1.0.24", "240.0.0.1"), to("127.0.0.1", 40), to("0.0.0.0", 40), to("::1", 40), to("fe80::7", 40),
			withSource("127.0.0.1", far4), withSource("224.0.0.1", far4), withSource("0.0.0.0", far4), withSource("10.2.0.254", far4), withSource("10.1.0.254", far4),
		}},
		{name: "to the router", why: "local", wants: "icmp 0 icmp6 129", frames: [][]byte{
			routerFrame(ipv4(sender4, "10.1.0.254", 1, 0, 0, echo4()), 0), routerFrame(ipv4(sender4, "10.2.0.254", 1, 0, 0, echo4()), 0),
			routerFrame(ipv6(sender6, "fd00:2::ff", 58, 0, echo6("fd00:2::ff")), 0),
		}},
		{name: "no route", why: "local", wants: "icmp 3", frames: [][]byte{withSource("10.1.0.21", "172.16.9.9")}},
		{name: "no route of IPv6", why: "local", wants: "icmp6 1", frames: [][]byte{to("fd77::9", 40)}},
		{
			name: "refused", why: "unreachable", wants: "icmp 3 icmp6 1", frames: [][]byte{to("10.98.1.1", 40), withSource("10.1.0.22", "10.98.2.1"), withSource("10.1.0.23", "10.98.3.1"), to("fd00:98:1::1", 40), to("fd00:98:2::1", 40), to("fd00:98:3::1", 40)},
			before: `ip route add blackhole 10.98.1.0/24; ip route add unreachable 10.98.2.0/24; ip route add prohibit 10.98.3.0/24
ip -6 route add blackhole fd00:98:1::/48; ip -6 route add unreachable fd00:98:2::/48; ip -6 route add prohibit fd00:98:3::/48`,
		},
		{name: "forwarding off", why: "forwarding-off", wants: "b", before: "echo 0 >/proc/sys/net/ipv4/conf/ra/forwarding; echo 0 >/proc/sys/net/ipv6/conf/ra/forwarding", after: "echo 1 >/proc/sys/net/ipv4/conf/ra/forwarding; echo 1 >/proc/sys/net/ipv6/conf/ra/forwarding", frames: [][]byte{to(far4, 40), to(far6, 40)}},
		{
			name: "segment routing", why: "encapsulating-route", wants: "b", frames: [][]byte{to("fd00:97::1", 40)},
			before: "ip sr tunsrc set fd00:2::ff; ip -6 route add fd00:97::/32 encap seg6 mode encap segs fd00:99::5 via fd00:2::1 dev rb",
		},
		{name: "nobody there", why: "neighbour", wants: "icmp 3 icmp6 1", patience: 2 * time.Second, frames: [][]byte{to("10.2.0.77", 40), to("fd00:2::77", 40)}},
		{name: "an output without programs", why: "output", wants: "c", before: "ip route add 10.96.0.0/16 via 10.3.0.1; ip -6 route add fd00:96::/32 via fd00:3::1", frames: [][]byte{to("10.96.0.1", 40), to("fd00:96::1", 40)}},
		{
			name: "a route's locked MTU", why: "route-mtu", wants: "b icmp 3 icmp6 2", frames: [][]byte{to("10.95.0.1", 40), toWith("10.95.0.1", 1100, dontFragment), to("10.95.0.1", 1100), to("fd00:95::1", 40), to("fd00:95::1", 1400)},
			before: "ip route add 10.95.0.0/16 via 10.2.0.1 mtu lock 1000; ip -6 route add fd00:95::/32 via fd00:2::1 mtu lock 1300",
		},
		{
			name: "a route's MTU", why: "route-mtu", wants: "b icmp 3 icmp6 2", frames: [][]byte{
				to("10.93.0.1", 40), toWith("10.93.0.1", 1100, dontFragment), to("10.93.0.1", 1100), toWith("10.92.0.1", 1100, dontFragment), to("10.92.0.1", 1100), toWith("10.91.0.1", 1100, dontFragment), to("10.91.0.1", 1100),
				to("fd00:93::1", 40), to("fd00:93::1", 1400), to("fd00:91::1", 40), to("fd00:91::1", 1400),
			},
			before: `ip route add 10.93.0.0/16 via 10.2.0.1 mtu 1000
ip nexthop add id 93 via 10.2.0.1 dev rb; ip route add 10.92.0.0/16 nhid 93 mtu 1000
ip route add 10.91.0.0/16 mtu 1000 nexthop via 10.2.0.1 nexthop via 10.2.0.1 weight 2
ip -6 route add fd00:93::/32 via fd00:2::1 mtu 1290; ip nexthop add id 94 via fd00:2::1 dev rb; ip -6 route add fd00:91::/32 nhid 94 mtu 1290`,
		},
		{name: "IPv6 off for all", why: "forwarding-off", before: "echo 0 >/proc/sys/net/ipv6/conf/all/forwarding; echo 1 >/proc/sys/net/ipv6/conf/ra/forwarding; echo 1 >/proc/sys/net/ipv6/conf/rb/forwarding", after: "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding", frames: [][]byte{to(far6, 40)}},
		{
			name: "back where it came from", why: "hairpin", wants: "a icmp 5", frames: [][]byte{to("10.94.0.1", 40), to("fd00:94::1", 40)},
			before: "ip neigh replace 10.1.0.9 lladdr 02:00:00:00:01:09 dev ra nud permanent; ip neigh replace fd00:1::9 lladdr 02:00:00:00:01:09 dev ra nud permanent; ip route add 10.94.0.0/16 via 10.1.0.9; ip -6 route add fd00:94::/32 via fd00:1::9",
		},
	}
}

// echo4 is a request that is answered, and so is echo6.
func echo4() []byte {
	m := icmp4(8, 0)
	copy(m[len(m)-8:], "weir\x00\x00\x00\x00")
	be.PutUint16(m[2:], checksum(m))
	return m
}

func echo6(dst string) []byte {
	m := icmp4(128, 0)
	copy(m[len(m)-8:], "weir\x00\x00\x00\x00")
	p := ipv6(sender6, dst, 58, 0, m)
	pseudo := slices.Concat(p[8:40], []byte{0, 0, 0, byte(len(m)), 0, 0, 0, 58}, m)
	be.PutUint16(m[2:], checksum(pseudo))
	return m
}

// comparable takes out of a frame what the kernel makes up anew each time: the
// identification of its own packets and of fragments' headers.
func comparableFrame(f []byte) string {
	f = slices.Clone(f)
	if f[12] == 8 && f[13] == 0 {
		p := f[14:]
		if p[9] == 1 {
			p[4], p[5], p[10], p[11] = 0, 0, 0, 0
		}
	}
	return string(f)
}

// isOurs leaves out what networks say on their own: ARP, neighbour discovery,
// multicast.
func isOurs(f []byte) bool {
	switch {
	case len(f) < 34 || f[0]&1 != 0:
		return false
	case f[12] == 0x08 && f[13] == 0:
		return true
	case f[12] == 0x86 && f[13] == 0xdd && len(f) > 54:
		neighbours := f[20] == 58 && (f[54] == 135 || f[54] == 136)
		return !neighbours
	}
	return false
}

// seenAt is what came out of a router, each kind once.
type seenAt map[string]bool

// words names what there is: "a", "b", "c" for packets at those, "icmp TYPE" and
// "icmp6 TYPE" for the router's own at the sender.
func (s seenAt) words() (w []string) {
	set := map[string]bool{}
	for k := range s {
		at, f := k[:1], k[1:]
		word := at
		switch {
		case at != "a":
		case f[12] == 8 && f[14+9] == 1:
			word = fmt.Sprint("icmp ", f[14+20])
		case f[12] == 0x86 && f[14+6] == 58:
			word = fmt.Sprint("icmp6 ", f[14+40])
		}
		set[word] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// Whatever is not plain forwarding is done by the kernel, as it does it without
// weir: what arrives anywhere is the same to the octet, and the sender is told the
// same; each packet is counted once, by its reason.
func TestForwardReasons(t *testing.T) {
	// Alone: what the kernel tells of errors has a rate, and busy neighbours make it late.
	n := newCrossed(t)
	for _, family := range []string{"ipv4", "ipv6"} {
		must(t, n.r, "sh", "-c", "echo 30 >/proc/sys/net/"+family+"/neigh/rb/retrans_time_ms")
	}
	for i := 21; i < 25; i++ { // each sender has its own share of what the kernel tells
		must(t, n.r, "ip", "neigh", "replace", fmt.Sprint("10.1.0.", i), "lladdr", "02:00:00:00:01:01", "dev", "ra", "nud", "permanent")
	}
	taps := map[string]*tap{"a": newTap(t, n.a, "va"), "b": newTap(t, n.b, "vb"), "c": newTap(t, n.c, "vc")}
	out := newSender(t, n.a, "va")
	const times = 3 // the first asks the routing table, the others have the answer
	run := func(w slowWay) seenAt {
		t.Helper()
		for _, p := range taps {
			p.take(nil)
		}
		for range times {
			out.send(t, w.frames...)
		}
		// Whatever is to come has come when for a while nothing has.
		quiet, last := 0, -1
		for begun := time.Now(); quiet < 8 || time.Since(begun) < w.patience; time.Sleep(25 * time.Millisecond) {
			all := 0
			for _, p := range taps {
				all += p.count(isOurs)
			}
			if quiet++; all != last {
				quiet, last = 0, all
			}
			if w.patience > 0 && all >= times*len(w.frames) && quiet >= 8 {
				break
			}
		}
		got := seenAt{}
		for at, p := range taps {
			for _, f := range p.take(isOurs) {
				got[at+comparableFrame(f)] = true
			}
		}
		return got
	}
	tell := func(commands string) bool {
		if r := do(t, n.r, "sh", "-e", "-c", commands); r.status != 0 {
			t.Logf("not tried: %s: %s", commands, r.stderr)
			return false
		}
		return true
	}
	// Without weir; routes stay, settings do not.
	ways := slowWays()
	want := map[string]seenAt{}
	for _, w := range ways {
		if !tell(w.before) {
			continue
		}
		want[w.name] = run(w)
		tell(w.after)
		if said := strings.Join(want[w.name].words(), " "); said != w.wants {
			t.Errorf("%s: the kernel alone sends %q, thought was %q: the test shows something else", w.name, said, w.wants)
		}
	}
	f := startForwarding(t, n.r, strings.Replace(forwardAll, "  rc: {meter: true, mode: xdp, forward: on}\n", "", 1))
	seen := map[string]bool{}
	for _, w := range ways {
		expect, tried := want[w.name]
		if !tried {
			continue
		}
		if strings.HasPrefix(w.before, "ip link") || strings.HasPrefix(w.before, "echo") {
			tell(w.before)
			time.Sleep(200 * time.Millisecond)
		}
		before := f.fates(t, "ra")
		got := run(w)
		count := uint64(times * len(w.frames))
		if d := f.fates(t, "ra").less(before); d[w.why] != count || d.all() != count {
			t.Errorf("%s: %d packets, all for the reason %s: counted %v", w.name, count, w.why, d)
		}
		tell(w.after)
		seen[w.why] = true
		for k := range expect {
			if !got[k] {
				t.Errorf("%s: at %s there is no\n%s, which the kernel alone sends; there is %v", w.name, k[:1], describe([]byte(k[1:])), got.words())
			}
		}
		for k := range got {
			if !expect[k] {
				t.Errorf("%s: at %s there is\n%s, which the kernel alone does not send; it sends %v", w.name, k[:1], describe([]byte(k[1:])), expect.words())
			}
		}
	}
	for why := range f.fates(t, "") {
		if !seen[why] {
			t.Logf("not provoked here: %s", why)
		}
	}
	f.stop(t)
	detach(t, n.r)
}
