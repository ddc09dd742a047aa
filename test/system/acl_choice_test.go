package system

import (
	"fmt"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/test/kernel"
)

// ports are interfaces of weir's namespace, each with its peer in that of a sender.
type ports struct {
	s, x string // sender, weir
	out  map[string]*sender
	in   map[string]*arrivals // at the interface itself, behind XDP
}

func newPorts(t testing.TB, names ...string) *ports {
	t.Helper()
	p := &ports{namespace(t), namespace(t), map[string]*sender{}, map[string]*arrivals{}}
	for _, name := range names {
		if out, err := exec.Command("ip", "link", "add", "s"+name, "netns", p.s, "type", "veth", "peer", "name", name, "netns", p.x).CombinedOutput(); err != nil {
			t.Skipf("skipped: no veth pair: %v: %s", err, out)
		}
		must(t, p.s, "ip", "link", "set", "s"+name, "up")
		must(t, p.x, "ip", "link", "set", name, "up")
		p.out[name] = newSender(t, p.s, "s"+name)
		p.in[name] = newArrivals(t, p.x, name)
	}
	return p
}

// passes sends frames in at an interface, and behind them one that none of its lists
// judges (ARP): when that has come, so have they, or never will. It gives how many
// have.
func (p *ports) passes(t testing.TB, name string, frames ...[]byte) (n int) {
	t.Helper()
	in := p.in[name]
	before, last := in.count(), in.of(lastFrame)
	arp := numbered(ethernet(0x0806, append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, make([]byte, 38)...)), lastFrame)
	for _, f := range append(frames[:len(frames):len(frames)], arp) {
		// Who sends what is dropped as it leaves is told so.
		if _, err := unix.Write(p.out[name].fd, f); err != nil && (err != unix.ENOBUFS || name != "back") {
			t.Fatal(err)
		}
	}
	until(t, 5*time.Second, name+": ARP passes", func() bool { return in.of(lastFrame) > last })
	return in.count() - before - 1
}

const lastFrame = 1 << 31

// flowsOf is n frames of as many flows, to a port.
func flowsOf(n int, port uint16) (frames [][]byte) {
	for i := range n {
		f := udp4(fmt.Sprintf("10.20.%d.%d", i>>8, i&255), fmt.Sprintf("10.%d.0.1", i%200), uint16(i), port, 20)
		frames = append(frames, numbered(f.octets, uint32(i)))
	}
	return frames
}

// unreadable are IP packets that no list can judge.
func unreadable() map[string][]byte {
	good := func() []byte { return ipv4("10.0.0.1", "10.0.0.2", 17, 0, 0, udp(1, 53, 20)) }
	all := map[string][]byte{}
	p := good()
	p[0] = 0x55
	all["version 5"] = ethernet(0x0800, p)
	p = good()
	p[0] = 0x44
	all["a header of 16 octets"] = ethernet(0x0800, p)
	p = good()
	be.PutUint16(p[2:], 10)
	all["a total length of 10"] = ethernet(0x0800, p)
	all["a header cut off"] = ethernet(0x0800, good()[:14])
	all["a header of IPv6 cut off"] = ethernet(0x86dd, ipv6("fd00::1", "fd00::2", 17, 0, nil)[:30])
	return all
}

// stubs have too little of a transport header for a rule to look at.
func stubs() map[string][]byte {
	var deep []byte
	for range 20 {
		deep = append(deep, 60, 0, 1, 4, 0, 0, 0, 0)
	}
	return map[string][]byte{
		"TCP of 8 octets, and more fragments":    ethernet(0x0800, ipv4("10.0.0.1", "10.0.0.2", 6, 0, 0x2000, tcp(1000, 53, 2, 0)[:8])),
		"TCP of 13 octets":                       ethernet(0x0800, ipv4("10.0.0.1", "10.0.0.2", 6, 0, 0, append(tcp(1000, 53, 2, 0)[:5], "weir1234"...))),
		"UDP of 2 octets":                        ethernet(0x0800, append(ipv4("10.0.0.1", "10.0.0.2", 17, 0, 0x2000, []byte{1, 2}), "weir1234"...)),
		"IPv6, TCP of 8 octets":                  ethernet(0x86dd, ipv6("fd00::1", "fd00::2", 44, 0, append([]byte{6, 0, 0, 1, 0, 0, 0, 9}, "12345678"...))),
		"IPv6 behind twenty destination options": ethernet(0x86dd, ipv6("fd00::1", "fd00::2", 60, 0, append(deep, udp(1000, 53, 20)...))),
	}
}

const choiceLists = `
ip access-list extended IN
 10 permit udp any any eq 53
 20 deny ip any any
ipv6 access-list IN6
 10 permit udp any any eq 53
ip access-list extended BACK
 10 permit udp any any eq 53
ipv6 access-list BACK6
 10 permit udp any any eq 53
ip access-list extended ALL
 10 permit ip any any
ipv6 access-list ALL6
 10 permit ipv6 any any
`

// What becomes of packets that no list can tell of: the table is full, no list is
// there, the daemon is gone, the packet cannot be read, or the list only counts.
func TestListsChoices(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	p := newPorts(t, "keep", "open", "closed", "judge", "fopen", "fclosed", "nolist", "count", "plain", "lets")
	p.out["back"], p.in["back"] = newSender(t, p.x, "keep"), newArrivals(t, p.s, "skeep") // as it leaves, by TC
	const at = "{meter: true, mode: MODE, acl: {in: IN, in6: IN6, "
	j := startJudged(t, p.x, "xdp", `
interfaces:
  keep: `+at+`daemon-gone: keep, out: BACK, out6: BACK6}}
  open: `+at+`daemon-gone: open}}
  closed: `+at+`daemon-gone: closed}}
  judge: `+at+`table-full: judge}}
  fopen: `+at+`table-full: open}}
  fclosed: `+at+`table-full: closed}}
  nolist: {meter: true, mode: MODE, acl: {no-list: closed}}
  count: `+at+`count-only: on}}
  plain: {meter: true, mode: MODE}
  lets: {meter: true, mode: MODE, acl: {in: ALL, in6: ALL6}}
cache: {entries: 1Ki, idle: 1m}
acl: {file: LISTS, orphan-after: 2s}`, choiceLists)
	sent, denied := count{}, count{} // by the list IN
	judged := func(frames [][]byte, permitted bool) {
		for _, f := range frames {
			one := count{1, uint64(len(f) - 14)}
			if f[12] != 0x08 {
				t.Fatal("of IPv4 only")
			}
			sent.add(one)
			if !permitted {
				denied.add(one)
			}
		}
	}
	check := func(port string, what string, want int, frames ...[]byte) {
		t.Helper()
		if got := p.passes(t, port, frames...); got != want {
			t.Errorf("%s: %s: %d of %d pass, want %d", port, what, got, len(frames), want)
		}
	}
	same := func() {
		t.Helper()
		hits := j.hits(t)
		if got := hits["ipv4 IN 20"]; got.Packets != denied.Packets {
			t.Errorf("20 denied %+v, want %+v", got, denied)
		}
		if got, want := hits["ipv4 IN 10"], sent.less(denied); got.Packets != want.Packets {
			t.Errorf("10 permitted %+v, want %+v", got, want)
		}
	}

	good, bad := flowsOf(10, 53), flowsOf(10, 54)
	for _, port := range []string{"keep", "open", "closed", "judge", "fopen", "fclosed"} {
		check(port, "permitted", 10, good...)
		check(port, "denied", 0, bad...)
		judged(good, true)
		judged(bad, false)
	}
	check("count", "permitted", 10, good...)
	check("count", "denied, counted only", 10, bad...)
	judged(good, true)
	judged(bad, false)
	same()
	for what, f := range unreadable() {
		check("nolist", what, 0, numbered(f, 7))
	}
	check("nolist", "what no list judges", 0, append(good, bad...)...)
	check("plain", "what no list judges", 20, append(good, bad...)...)

	// What cannot be read does not pass where lists are, and passes elsewhere.
	for what, f := range unreadable() {
		f = numbered(f, 7)
		check("keep", what, 0, f)
		check("back", what, 0, f)
		check("lets", what, 0, f)
		check("plain", what, 1, f)
		check("count", what, 1, f)
	}
	for what, f := range stubs() {
		f = numbered(f, 8)
		check("keep", what, 0, f)
		check("back", what, 0, f)
		check("lets", what, 0, f)
		check("plain", what, 1, f)
		check("count", what, 1, f)
	}
	// Of VLANs, too, one or two.
	for _, tags := range [][]uint16{{100}, {100, 200}} {
		for port, want := range map[uint16]int{53: 1, 54: 0} {
			f := numbered(udp4("10.0.0.1", "10.0.0.2", 1000, port, 30, tags...).octets, 9)
			check("keep", fmt.Sprint("tags ", tags, " port ", port), want, f)
			check("back", fmt.Sprint("tags ", tags, " port ", port), want, f)
			sent.add(count{1, 0})
			if want == 0 {
				denied.add(count{1, 0})
			}
		}
	}
	// Neighbours are found under a list's own end, which is not the same as a rule
	// that denies all; what is below IP no list judges.
	nd := func(kind byte) []byte {
		return numbered(ethernet(0x86dd, ipv6("fe80::1", "ff02::1:ff00:1", 58, 0, append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 24)...))), 10)
	}
	check("keep", "neighbours of IPv6", 2, nd(135), nd(136))
	check("keep", "a router's advertisement", 0, nd(134))
	check("back", "neighbours of IPv6", 2, nd(135), nd(136))
	check("back", "a router's advertisement", 0, nd(134))
	hits := j.hits(t)
	for rule, want := range map[string]uint64{"ipv6 IN6 implicit": 3, "ipv6 BACK6 implicit": 3, "ipv4 BACK implicit": 2, "ipv4 BACK 10": 2, "ipv6 IN6 10": 0} {
		if hits[rule].Packets != want {
			t.Errorf("rule %s decided of %+v, want %d packets", rule, hits[rule], want)
		}
	}

	// A flood of flows that finds no place in the table.
	check("plain", "a flood", 3000, flowsOf(3000, 53)...)
	g, b := flowsOf(2000, 53), flowsOf(2000, 54)
	check("judge", "permitted, table full", 2000, g...)
	check("judge", "denied, table full", 0, b...)
	judged(g, true)
	judged(b, false)
	same()
	// Some find a place all the same, where flows have ended: those are the list's.
	decided := func(rule string) uint64 { return j.hits(t)[rule].Packets }
	before := decided("ipv4 IN 20")
	if got := uint64(p.passes(t, "fopen", flowsOf(2000, 54)...)); got == 0 || got+decided("ipv4 IN 20")-before != 2000 {
		t.Errorf("open when the table is full: %d of 2000 pass that are denied, the list stopped %d", got, decided("ipv4 IN 20")-before)
	}
	before = decided("ipv4 IN 10")
	if got := uint64(p.passes(t, "fclosed", flowsOf(2000, 53)...)); got == 2000 || got != decided("ipv4 IN 10")-before {
		t.Errorf("closed when the table is full: %d of 2000 pass that are permitted, the list let %d pass", got, decided("ipv4 IN 10")-before)
	}

	// Without a sign of life for two seconds.
	killed := time.Now()
	j.kill(t)
	if time.Since(killed) < time.Second {
		check("closed", "killed just now", 10, good...)
		check("open", "killed just now", 0, bad...)
	}
	until(t, 10*time.Second, "without weir, what is closed is closed", func() bool { return p.passes(t, "closed", good...) == 0 })
	if gone := time.Since(killed); gone < 900*time.Millisecond || gone > 4*time.Second*slow {
		t.Errorf("closed %v after weir was killed, want 1 to 2 s", gone)
	}
	check("open", "without weir", 20, append(good, bad...)...)
	for what, f := range unreadable() {
		check("open", what+", without weir", 1, numbered(f, 7))
		check("closed", what+", without weir", 0, numbered(f, 7))
	}
	check("keep", "without weir", 10, good...)
	check("keep", "without weir", 0, bad...)
	check("judge", "without weir", 0, bad...)
	j.begin(t)
	check("closed", "with weir again", 10, good...)
	check("open", "with weir again", 10, good...)
	check("open", "with weir again", 0, bad...)
	j.stop(t)
}
