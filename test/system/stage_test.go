package system

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/test/kernel"
)

const stageForce = `ip access-list extended WAN
 10 permit udp any any eq 53
 20 deny udp any any eq 54
 30 permit ip any any
interface vb
 ip access-group WAN in
`

const stageNext = `ip access-list extended WAN
 10 deny udp any any eq 53
 20 permit udp any any
 30 permit tcp any any established
 40 deny ip any any
interface vb
 ip access-group WAN in
`

// stagedRows is what `weir acl stage` says.
func stagedRows(t testing.TB, ns, control string) (list []map[string]any) {
	t.Helper()
	out := must(t, ns, weir, "--control", control, "acl", "stage", "-o", "json").stdout
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// stagedCount is what the rows of which want says something agree with it have.
func stagedCount(list []map[string]any, want map[string]any) (c count) {
	for _, r := range list {
		same := true
		for k, v := range want {
			same = same && r[k] == v
		}
		if same {
			c.add(count{uint64(r["packets"].(float64)), uint64(r["bytes"].(float64))})
		}
	}
	return c
}

// received is how many IPv4 packets a machine's own network has got from its
// interfaces: what is dropped at one is not among them.
func received(t testing.TB, ns string) uint64 {
	t.Helper()
	var names []string
	for line := range strings.Lines(must(t, ns, "cat", "/proc/net/snmp").stdout) {
		f := strings.Fields(line)
		switch {
		case f[0] != "Ip:":
		case names == nil:
			names = f
		default:
			return number(t, f[slices.Index(names, "InReceives")])
		}
	}
	t.Fatal("the kernel does not count what it receives")
	return 0
}

// Staged lists count to the packet and the octet what they would change, of flows
// that have left and of those that are there, and change nothing until they are
// applied.
func TestStage(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	for _, mode := range []string{"xdp", "tc"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := newLine(t, false)
			dir := t.TempDir()
			conf, force, next, control := filepath.Join(dir, "weir.yaml"), filepath.Join(dir, "force.acl"), filepath.Join(dir, "next.acl"), filepath.Join(dir, "sock")
			for name, text := range map[string]string{
				conf: "interfaces: {vb: {mode: " + mode + "}}\nacl: {file: " + force + "}\n", force: stageForce, next: stageNext,
			} {
				if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			acl := func(args ...string) []string { return append([]string{weir, "--control", control, "acl"}, args...) }
			out := newSender(t, l.a, "va")
			p := start(t, l.b, weir, "-c", conf, "--control", control, "meter", "-i", "vb", "-o", "csv", "--summary", "--cache", "4Ki", "--idle", "2s")
			metering(t, p, l.b, mode, 1)
			oneLine(t, do(t, l.b, acl("stage")...), 1, "nothing is staged")
			oneLine(t, do(t, l.b, acl("apply", "--staged", "--now")...), 1, "nothing is staged")
			if r := must(t, l.b, acl("diff", force)...); !strings.Contains(r.stdout, "no difference") {
				t.Errorf("what is in force differs from its file: %s", r.stdout)
			}
			if r := do(t, l.b, acl("diff", "--exit-code", next)...); r.status != 1 || !strings.Contains(r.stdout, "+ 10 deny udp any any eq domain") {
				t.Errorf("diff: status %d: %s", r.status, r.stdout)
			}
			if r := must(t, l.b, acl("stage", next)...); !strings.Contains(r.stderr, "1 list of 4 rules") {
				t.Errorf("stage: %s", r.stderr)
			}
			syn := tcp4("10.1.0.1", "10.2.0.1", 1000, 22, 0x02, 0)
			ack := tcp4("10.1.0.1", "10.2.0.1", 1001, 22, 0x10, 100)
			both := []frame{tcp4("10.1.0.1", "10.2.0.1", 1002, 22, 0x02, 0), tcp4("10.1.0.1", "10.2.0.1", 1002, 22, 0x10, 10)}
			frames := []frame{syn, syn, syn, ack}
			frames = append(frames, both...)
			var now, then []frame // dropped by the lists in force, and by those staged
			for i := range 500 {
				a, b, c := udp4("10.1.0.1", "10.2.0.1", 2000, 53, i), udp4("10.1.0.1", "10.2.0.1", 2001, 54, i), udp4("10.1.0.1", "10.2.0.1", uint16(3000+i%7), 55, i)
				frames, then, now = append(frames, a, b, c), append(then, a), append(now, b)
			}
			then = append(then, syn, syn, syn)
			sum := func(list []frame) count { return expect(list).all }
			seen := func() {
				t.Helper()
				all := stagedRows(t, l.b, control)
				is := func(what string, want count, where map[string]any) {
					t.Helper()
					if got := stagedCount(all, where); got != want {
						t.Errorf("%s: %+v, want %+v", what, got, want)
					}
				}
				change := func(name string) map[string]any { return map[string]any{"section": "change", "change": name} }
				is("newly dropped", sum(then), change("newly-dropped"))
				is("newly passed", sum(now), change("newly-passed"))
				is("all", sum(frames), map[string]any{"section": "change"})
				rule := func(n float64, verdict string) map[string]any {
					return map[string]any{"section": "rule", "rule": n, "verdict": verdict}
				}
				is("rule 10", sum(then[:500]), rule(10, "deny"))
				is("rule 40", sum(then[500:]), rule(40, "deny"))
				is("the flow that is dropped most", sum(then[:500]), map[string]any{"section": "flow", "change": "newly-dropped", "dport": 53.0})
				// One packet alone is known, and so are some that are alike; of two it is
				// not told which had the flag.
				is("depends", sum(both), change("depends"))
				is("rule 30, which depends", sum(both), rule(30, "depends"))
				is("rule 30", sum([]frame{ack}), rule(30, "permit"))
			}
			before := received(t, l.b)
			out.send(t, octets(frames)...)
			settle()
			seen()
			until(t, time.Minute, "the flows leave", func() bool { return strings.Count(p.stdout.String(), "\n") >= 13 })
			seen()
			// Of what came after the programs all is there but what is dropped by the lists
			// in force.
			if got, want := received(t, l.b)-before, uint64(len(frames)-len(now)); got != want {
				t.Errorf("the machine has received %d packets, want %d", got, want)
			}

			// What is staged is what is applied; to be compared with itself.
			must(t, l.b, acl("apply", "--staged", "--confirm", "60s")...)
			out.send(t, octets(then)...)
			settle()
			all := stagedRows(t, l.b, control)
			if c := stagedCount(all, map[string]any{"section": "change", "change": "none"}); c != sum(then) {
				t.Errorf("on trial: %+v as now, want %+v", c, sum(then))
			}
			must(t, l.b, acl("rollback")...)
			if c := stagedCount(stagedRows(t, l.b, control), map[string]any{"section": "change", "change": "newly-dropped"}); c.Packets != 503 {
				t.Errorf("after the rollback %+v newly dropped", c)
			}
			must(t, l.b, acl("apply", "--staged", "--confirm", "60s")...)
			must(t, l.b, acl("confirm")...)
			oneLine(t, do(t, l.b, acl("stage")...), 1, "nothing is staged")
			if kept, err := os.ReadFile(force); err != nil || string(kept) != stageNext {
				t.Errorf("kept for the next start: %q, %v", kept, err)
			}
			must(t, l.b, acl("stage", force)...)
			must(t, l.b, acl("stage", "--drop")...)
			oneLine(t, do(t, l.b, acl("stage")...), 1, "nothing is staged")
			p.stop(t)
			detach(t, l.b)
		})
	}
}
