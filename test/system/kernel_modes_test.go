package system

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// Every kind of frame, in and out, is metered alike in every mode: flows,
// interfaces, directions, and what makes no flow by reason.
func TestModesAgree(t *testing.T) {
	t.Parallel()
	for _, mode := range allModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := newLine(t, false)
			out, back := newSender(t, l.a, "va"), newSender(t, l.b, "vb")
			p := meterStart(t, l.b, mode, "vb", "-o", "csv", "--summary", "--idle", "1s", "--active", "2s", "--cache", "64Ki")
			frames := mixed(20_000, rand.New(rand.NewPCG(11, 12)))
			for part := range 4 {
				some := frames[part*5_000 : (part+1)*5_000]
				out.send(t, octets(some[:4000])...)
				back.send(t, octets(some[4000:])...)
				time.Sleep(time.Duration(part%3) * 700 * time.Millisecond) // some flows expire between, some do not
			}
			p.stop(t)
			index := indexOf(t, l.b, "vb")
			want := map[flowAt]count{}
			for part := range 4 {
				some := frames[part*5_000 : (part+1)*5_000]
				expect(some[:4000]).seenAt(want, "0", index, "")
				expect(some[4000:]).seenAt(want, "1", "", index)
			}
			all := account(t, p, expect(frames))
			samePoints(t, byPoint(t, all), want)
			if mode == "afpacket" {
				if left := pins(t, l.b); len(left) > 0 {
					t.Errorf("pins: %v", left)
				}
				return
			}
			hooks := map[string][]string{"xdp": {index + "-egress", index + "-xdp"}, "tc": {index + "-egress", index + "-ingress"}, "clsact": {index + "-clsact", index + "-egress", index + "-ingress"}}[mode]
			if got := links(t, l.b); strings.Join(got, " ") != strings.Join(hooks, " ") {
				t.Errorf("hooks %v, want %v", got, hooks)
			}
			link := must(t, l.b, "ip", "-d", "link", "show", "dev", "vb").stdout
			if has := strings.Contains(link, "xdp"); has != (mode == "xdp") {
				t.Errorf("an XDP program: %v: %s", has, link)
			}
			if filters := must(t, l.b, "tc", "filter", "show", "dev", "vb", "egress").stdout; strings.Contains(filters, "weir") != (mode == "clsact") {
				t.Errorf("egress filters: %q", filters)
			}
			detach(t, l.b)
			if link := must(t, l.b, "ip", "-d", "link", "show", "dev", "vb").stdout; strings.Contains(link, "xdp") {
				t.Errorf("after --detach: %s", link)
			}
			if q := must(t, l.b, "tc", "qdisc", "show", "dev", "vb").stdout; strings.Contains(q, "clsact") {
				t.Errorf("after --detach: %s", q)
			}
		})
	}
}
