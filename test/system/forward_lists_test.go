package system

import (
	"strings"
	"testing"
	"time"

	"weir/test/kernel"
)

// A list at the interface where forwarded packets leave answers and logs as one where
// they come in.
func TestForwardListsTell(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	n := newCrossed(t)
	in, back, out := newTap(t, n.b, "vb"), newTap(t, n.a, "va"), newSender(t, n.a, "va")
	j := startJudged(t, n.r, "xdp", strings.Replace(forwardAll, "mode: xdp", "mode: MODE", -1), `
ip access-list extended OUT
 10 reject udp any any eq 53 log
 20 permit ip any any log
ipv6 access-list OUT6
 10 reject udp any any eq 53
 20 permit ipv6 any any
interface rb
 ip access-group OUT out
 ipv6 traffic-filter OUT6 out
`)
	until(t, 10*time.Second, "a next hop", func() bool {
		return strings.Contains(must(t, n.r, weir, "show", "routes", "-o", "json", "--control", j.control).stdout, `"alive"`)
	})
	passing := func(dst string) []byte {
		f := to(dst, 40)
		port := f[14+20+2:]
		if strings.Contains(dst, ":") {
			port = f[14+40+2:]
		}
		be.PutUint16(port, 54)
		return f
	}
	const times = 3
	for range times {
		out.send(t, to(far4, 40), to(far6, 40), passing(far4), passing(far6))
	}
	answers := map[string]func([]byte) bool{
		"administratively prohibited":       func(f []byte) bool { return f[12] == 8 && f[14+9] == 1 && f[14+20] == 3 && f[14+21] == 13 },
		"administratively prohibited, IPv6": func(f []byte) bool { return f[12] == 0x86 && f[14+6] == 58 && f[14+40] == 1 && f[14+41] == 1 },
	}
	for what, is := range answers {
		until(t, 5*time.Second, what+" is answered", func() bool { return back.count(is) >= times })
	}
	until(t, 5*time.Second, "what is permitted arrives", func() bool { return in.count(isNumbered) >= 2*times })
	j.sameHits(t, map[string]count{
		"ipv4 OUT 10": {times, times * 68}, "ipv4 OUT 20": {times, times * 68}, "ipv4 OUT implicit": {},
		"ipv6 OUT6 10": {times, times * 88}, "ipv6 OUT6 20": {times, times * 88}, "ipv6 OUT6 implicit": {},
	})
	d := fatesOf(t, n.r, j.control, "ra")
	if got := in.count(isNumbered); got != 2*times || d["forwarded"] != 2*times || d.all() != 2*times {
		t.Errorf("%d arrive, want %d; %v", got, 2*times, d.less(nil))
	}
	for _, words := range []string{"rule=\"reject udp any any eq domain log\"", "rule=\"permit ip any any log\""} {
		until(t, 10*time.Second, words+" is logged", func() bool { return strings.Contains(j.stderr.String(), words) })
	}
	if text := j.stderr.String(); !strings.Contains(text, "interface=rb direction=out") {
		t.Errorf("the log does not say where: %s", tail(text, 1500))
	}
	j.stop(t)
	detach(t, n.r)
}
