package system

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/test/kernel"
)

// dice makes lists, and frames that meet their rules.
type dice struct{ *rand.Rand }

func (d dice) of(from ...string) string { return from[d.IntN(len(from))] }

func (d dice) port() uint16 {
	return []uint16{22, 53, 80, 443, 1000, 1023, 1024, 4789, 8080, 60000}[d.IntN(10)]
}

func (d dice) ports() string {
	p := d.port()
	return d.of("", "", fmt.Sprint(" eq ", p), fmt.Sprint(" neq ", p), fmt.Sprint(" gt ", p), fmt.Sprint(" lt ", p), fmt.Sprintf(" range %d %d", p, p+uint16(d.IntN(900))))
}

func (d dice) addr(v6 bool) string {
	if v6 {
		return d.of("any", "any", "fd00:1::/32", fmt.Sprintf("fd00:%d::/48", d.IntN(4)), fmt.Sprintf("fd00:%d:%d::/48", d.IntN(4), d.IntN(3)), fmt.Sprintf("host fd00:%d::%d", d.IntN(4), d.IntN(4)))
	}
	return d.of("any", "any", fmt.Sprintf("10.%d.0.0/16", d.IntN(8)), fmt.Sprintf("10.%d.%d.0 0.0.0.255", d.IntN(8), d.IntN(4)), fmt.Sprintf("host 10.%d.%d.%d", d.IntN(8), d.IntN(4), 1+d.IntN(4)), "10.0.1.0 0.255.0.255")
}

// list is a list of n rules, of all that an address list's packets differ in but
// fragments, which nft puts together elsewhere.
func (d dice) list(name string, v6 bool, n int) string {
	var b strings.Builder
	head, all, echo := "ip access-list extended ", "ip", "echo"
	if v6 {
		head, all, echo = "ipv6 access-list ", "ipv6", "echo-request"
	}
	fmt.Fprintf(&b, "%s%s\n", head, name)
	for range n {
		action := d.of("permit", "permit", "deny")
		from, to := d.addr(v6), d.addr(v6)
		switch d.IntN(10) {
		case 0:
			fmt.Fprintf(&b, " %s %s %s %s%s\n", action, d.of("gre", "esp", "47", "89"), from, to, d.of("", " dscp ef", " ttl lt 10"))
		case 1, 2:
			fmt.Fprintf(&b, " %s icmp %s %s%s\n", action, from, to, d.of("", " "+echo, " 1", " 3 1", " 4 0"))
		case 3, 4, 5:
			fmt.Fprintf(&b, " %s udp %s%s %s%s%s\n", action, from, d.ports(), to, d.ports(), d.of("", "", " dscp ef", " length gt 500"))
		case 6:
			from = map[bool]string{false: d.of("10.1.2.0/24", "10.1.0.0/17"), true: "fd00:1:2::/48"}[v6] // or little is left
			fmt.Fprintf(&b, " %s %s %s %s%s\n", action, all, from, to, d.of("", " ttl eq 64", " precedence 5"))
		default:
			fmt.Fprintf(&b, " %s tcp %s%s %s%s%s\n", action, from, d.ports(), to, d.ports(), d.of("", "", " established", " syn", " match-all +syn -ack", " match-any +fin +rst"))
		}
	}
	return b.String()
}

// frame is one that a router forwards if nobody objects.
func (d dice) frame(n uint32) []byte {
	v6 := d.IntN(3) == 0
	tos := []uint8{0, 0, 46 << 2, 5 << 5}[d.IntN(4)]
	proto := []uint8{6, 6, 6, 17, 17, 1, 47, 50, 89}[d.IntN(9)]
	if v6 && proto == 1 {
		proto = 58
	}
	var l4 []byte
	size := []int{8, 60, 600, 1200}[d.IntN(4)]
	switch proto {
	case 6:
		l4 = tcp(d.port()+uint16(d.IntN(2)), d.port()+uint16(d.IntN(2)), []uint8{2, 18, 16, 24, 17, 4, 20}[d.IntN(7)], size)
	case 17:
		l4 = udp(d.port()+uint16(d.IntN(2)), d.port()+uint16(d.IntN(2)), size)
	case 1:
		l4 = icmp4([]uint8{8, 0, 13, 3, 4, 1}[d.IntN(6)], uint8(d.IntN(3)))
	case 58:
		l4 = icmp4([]uint8{128, 129, 1, 3, 4}[d.IntN(5)], uint8(d.IntN(3)))
	default:
		l4 = make([]byte, size)
	}
	ttl := []uint8{2, 9, 10, 64, 255}[d.IntN(5)]
	kind, p := uint16(0x0800), []byte(nil)
	if v6 {
		kind = 0x86dd
		p = ipv6(fmt.Sprintf("fd00:1:%d::%d", d.IntN(3), d.IntN(4)), fmt.Sprintf("fd00:%d:%d::%d", 3+d.IntN(2), d.IntN(3), d.IntN(4)), proto, tos, l4)
		p[7] = ttl
	} else {
		p = ipv4(fmt.Sprintf("10.%d.%d.%d", []int{1, 3, 4, 5}[d.IntN(4)], d.IntN(4), 1+d.IntN(4)), fmt.Sprintf("10.%d.%d.%d", 3+d.IntN(5), d.IntN(4), 1+d.IntN(4)), proto, tos, 0, l4)
		p[8] = ttl
		be.PutUint16(p[10:], 0)
		be.PutUint16(p[10:], checksum(p[:20]))
	}
	f := ethernet(kind, p)
	copy(f, []byte{2, 0, 0, 0, 1, 254, 2, 0, 0, 0, 1, 1})
	return numbered(f, n)
}

func checksum(h []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(be.Uint16(h[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// The same list as weir's on one router, and as the kernel's own tables on another:
// of thousands of frames the same ones arrive.
func TestListsLikeNft(t *testing.T) {
	kernel.Programs(t)
	need(t, "nft")
	t.Parallel()
	d := dice{rand.New(rand.NewPCG(21, 22))}
	lists := d.list("IN", false, 140) + d.list("OUT", false, 20) + " permit ip any any\n" + d.list("IN6", true, 60) + `interface ra
 ip access-group IN in
 ipv6 traffic-filter IN6 in
interface rb
 ip access-group OUT out
`
	ours, theirs := filterRouter(t), filterRouter(t)
	j := startJudged(t, ours.r, "xdp", "interfaces: {ra: {meter: true, mode: MODE}, rb: {meter: true, mode: MODE}}\ncache: {entries: 16Ki}", lists)
	tables := must(t, "", weir, "acl", "export", "--to", "nft", j.lists)
	file := filepath.Join(j.dir, "rules.nft")
	if err := os.WriteFile(file, []byte(tables.stdout), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := do(t, theirs.r, "nft", "-f", file); r.status != 0 {
		t.Skipf("skipped: this kernel or nft does not take the rules: %s", tail(r.stderr, 500))
	}
	const n = 4000
	var frames [][]byte
	for i := range uint32(n) {
		frames = append(frames, d.frame(i))
	}
	var arrived [2]*arrivals
	for i, r := range []routed{ours, theirs} {
		arrived[i] = newArrivals(t, r.b, "vb")
		out := newSender(t, r.a, "va")
		out.send(t, frames...)
	}
	until(t, 10*time.Second, "what weir permits arrives", func() bool {
		return uint64(arrived[0].count())+j.denied(t).Packets >= n
	})
	until(t, 10*time.Second, "as many frames arrive by nft", func() bool { return arrived[1].count() >= arrived[0].count() })
	differ := 0
	for i := range uint32(n) {
		if a, b := arrived[0].of(i), arrived[1].of(i); a != b {
			if differ++; differ < 5 {
				t.Errorf("frame %d arrives %d times by weir, %d times by nft: %x", i, a, b, frames[i])
			}
		}
	}
	passed := arrived[0].count()
	if passed < n/5 || passed > n*4/5 {
		t.Errorf("%d of %d frames passed: the lists do not say much", passed, n)
	}
	t.Logf("%d of %d frames passed, %d differ\n%s", passed, n, differ, tables.stderr)
	j.stop(t)
}
