package system

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weir/test/kernel"
)

// filteredOf is what a summary says was left out.
func filteredOf(t testing.TB, stderr string) count {
	t.Helper()
	var s struct {
		Filtered count `json:"filtered"`
	}
	for line := range strings.SplitSeq(stderr, "\n") {
		if strings.HasPrefix(line, "{") {
			if err := json.Unmarshal([]byte(line), &s); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s.Filtered
}

// Source or destination is in a prefix: in every mode the same packets are
// metered, and the others counted.
func TestLivePrefixes(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	frames := mixed(4000, rand.New(rand.NewPCG(5, 6)))
	var in []frame
	var left count
	for _, f := range frames {
		if f.ignored == "" && !strings.Contains(f.key, "10.1.0.2") && !strings.Contains(f.key, "10.2.0.4") && !strings.Contains(f.key, "2001:db8::") {
			left.add(count{1, f.length})
			continue
		}
		in = append(in, f)
	}
	want := expect(in)
	if left.Packets == 0 || want.metered.Packets == 0 {
		t.Fatal("the prefixes leave out all or nothing")
	}
	for _, mode := range []string{"afpacket", "xdp", "tc"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := newLine(t, false)
			out := newSender(t, l.a, "va")
			p := meterStart(t, l.b, mode, "vb", "-o", "csv", "--summary", "--cache", "16Ki", "--prefix", "10.1.0.2", "--prefix", "2001:db8::/32", "--prefix", "10.2.0.4/32")
			out.send(t, octets(frames)...)
			settle()
			p.stop(t)
			sameFlows(t, byFlow(t, account(t, p, want)), want.flows)
			if got := filteredOf(t, p.stderr.String()); got != left {
				t.Errorf("filtered %+v, want %+v", got, left)
			}
		})
	}
}

// Each interface has a list of its own, though they share one table.
func TestPrefixesByInterface(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	for _, mode := range []string{"afpacket", "xdp"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l, m := newLine(t, false), newLine(t, false)
			// The second line's end moves to the first's namespace.
			must(t, m.b, "ip", "link", "set", "vb", "name", "vc")
			must(t, m.b, "ip", "link", "set", "vc", "netns", l.b)
			must(t, l.b, "ip", "link", "set", "vc", "up")
			one, two := newSender(t, l.a, "va"), newSender(t, m.a, "va")
			conf := filepath.Join(t.TempDir(), "weir.yaml")
			if err := os.WriteFile(conf, []byte("interfaces: {vb: {mode: "+mode+", prefixes: [10.1.0.0/16]}, vc: {mode: "+mode+", prefixes: [10.2.0.0/16], filter: udp}}\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			p := start(t, l.b, weir, "-c", conf, "meter", "-i", "vb", "-i", "vc", "-o", "csv", "--summary", "--cache", "16Ki")
			p.await(t, "interface=vc")
			frames := []frame{udp4("10.1.0.1", "10.9.9.9", 1, 2, 10), udp4("10.2.0.1", "10.9.9.9", 3, 4, 20), tcp4("10.2.0.1", "10.9.9.9", 5, 6, 16, 0)}
			one.send(t, octets(frames)...)
			two.send(t, octets(frames)...)
			settle()
			p.stop(t)
			want := map[flowAt]count{}
			expect(frames[:1]).seenAt(want, "0", indexOf(t, l.b, "vb"), "")
			expect(frames[1:2]).seenAt(want, "0", indexOf(t, l.b, "vc"), "")
			samePoints(t, byPoint(t, parseCSV(t, p.stdout.String())), want)
		})
	}
}
