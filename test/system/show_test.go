package system

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"weir/test/kernel"
)

// shown is what a running weir shows, as CSV.
func shown(t testing.TB, ns, control string, args ...string) rows {
	t.Helper()
	return parseCSV(t, must(t, ns, append([]string{weir, "--control", control, "show", "-o", "csv"}, args...)...).stdout)
}

// balanced waits until all that was sent is accounted for, and checks that the
// parts of the balance add up to it.
func balanced(t testing.TB, ns, control string, want count) (parts map[string]count) {
	t.Helper()
	until(t, 30*time.Second, fmt.Sprintf("%+v seen and nothing missing", want), func() bool {
		parts = map[string]count{}
		for _, m := range shown(t, ns, control, "balance") {
			if m["part"] == "difference" && (m["packets"] != "0" || m["bytes"] != "0") {
				return false
			}
			c := parts[m["part"]]
			c.add(count{number(t, m["packets"]), number(t, m["bytes"])})
			parts[m["part"]] = c
		}
		return parts["seen"] == want
	})
	var sum count
	for part, c := range parts {
		if part != "seen" && part != "difference" {
			sum.add(c)
		}
	}
	if sum != want {
		t.Errorf("the parts of the balance sum to %+v, want %+v: %v", sum, want, parts)
	}
	return parts
}

// answers waits until a running weir can be asked.
func answers(t testing.TB, ns, control string) {
	t.Helper()
	until(t, time.Minute, "the control socket answers", func() bool {
		return do(t, ns, weir, "--control", control, "show", "cache").status == 0
	})
}

// What is in the cache is what was sent, live, however it is metered and asked
// for, and the balance is exact.
func TestShowLive(t *testing.T) {
	kernel.Programs(t) // a packet socket's filter is one
	for _, mode := range allModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := newLine(t, false)
			out := newSender(t, l.a, "va")
			control := filepath.Join(t.TempDir(), "sock")
			p := meterStart(t, l.b, mode, "vb", "--control", control, "-o", "csv", "-w", "/dev/null", "--idle", "10m", "--tcp-end=false")
			answers(t, l.b, control)
			frames := mixed(4000, rand.New(rand.NewPCG(5, 6)))
			want := expect(frames)
			out.send(t, octets(frames)...)
			parts := balanced(t, l.b, control, want.all)
			if parts["cached"] != want.metered || parts["exported"].Packets != 0 {
				t.Errorf("cached %+v of %+v, exported %+v", parts["cached"], want.metered, parts["exported"])
			}
			sameFlows(t, byFlow(t, shown(t, l.b, control, "flows")), want.flows)

			// A filter, in the process that has the flows.
			tcpOnly := map[string]count{}
			for k, c := range want.flows {
				if strings.Fields(k)[2] == "6" {
					tcpOnly[k] = c
				}
			}
			sameFlows(t, byFlow(t, shown(t, l.b, control, "flows", "proto tcp")), tcpOnly)

			// Sums over them.
			byProto := map[string]uint64{}
			for k, c := range want.flows {
				byProto[strings.Fields(k)[2]] += c.Bytes
			}
			got := map[string]uint64{}
			for _, m := range shown(t, l.b, control, "top-talkers", "-s", "proto", "-n", "100") {
				got[m["proto"]] = number(t, m["bytes"])
			}
			if !maps.Equal(got, byProto) {
				t.Errorf("bytes by protocol %v, want %v", got, byProto)
			}

			// The interface: how, and how much.
			for _, m := range shown(t, l.b, control, "interfaces") {
				if m["name"] != "vb" || m["mode"] != modeFlag(mode) || number(t, m["packets_in"])+number(t, m["packets_out"]) != want.all.Packets {
					t.Errorf("interface %v, want %s and %d packets", m, mode, want.all.Packets)
				}
			}
			ciscoAgrees(t, must(t, l.b, weir, "--control", control, "show", "flows", "--cisco").stdout, want)

			// Someone who asks and does not read keeps nobody from counting.
			within(t, "", func() error {
				c, err := net.Dial("unix", control)
				if err != nil {
					return err
				}
				t.Cleanup(func() { c.Close() })
				_, err = fmt.Fprintf(c, "POST /control/flows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 10\r\n\r\nformat=csv")
				return err
			})
			out.send(t, octets(frames)...)
			want.all.add(want.all)
			balanced(t, l.b, control, want.all)

			p.stop(t)
			oneLine(t, do(t, l.b, weir, "--control", control, "show", "flows"), 1, "no weir is running here")
			if mode != "afpacket" {
				detach(t, l.b)
			}
		})
	}
}

// ciscoAgrees reads IOS's layout as a script does: the flows of IPv4 with their
// packets, in hexadecimal.
func ciscoAgrees(t *testing.T, text string, want expectation) {
	t.Helper()
	for _, line := range []string{"IP packet size distribution (0 total packets):", "  0 ager polls", "Active flows timeout in 30 minutes", "Inactive flows timeout in 600 seconds", "last clearing of statistics never"} {
		if line = strings.TrimPrefix(line, "  0 "); !strings.Contains(text, line) {
			t.Errorf("no %q in\n%s", line, tail(text, 3000))
		}
	}
	flow := regexp.MustCompile(`(?m)^(\S+)\s+(\d+\.\d+\.\d+\.\d+)\s+(\S+)\s+(\d+\.\d+\.\d+\.\d+)\s+([0-9A-F]{2})\s+([0-9A-F]{4})\s+([0-9A-F]{4})\s+(\d+)$`)
	got := map[string]uint64{}
	for _, m := range flow.FindAllStringSubmatch(text, -1) {
		hex := func(s string) uint64 {
			v, err := strconv.ParseUint(s, 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		if m[1] != "vb" {
			t.Errorf("input interface %q", m[1])
		}
		got[fmt.Sprint(m[2], m[4], hex(m[5]), hex(m[6]), hex(m[7]))] += number(t, m[8])
	}
	four := map[string]uint64{}
	for k, c := range want.flows {
		f := strings.Fields(k)
		if strings.Contains(f[0], ":") {
			continue
		}
		four[fmt.Sprint(f[0], f[1], number(t, f[2]), number(t, f[3]), number(t, f[4]))] += c.Packets
	}
	if !maps.Equal(got, four) {
		t.Errorf("%d flows in IOS's layout, want %d; %v, want %v", len(got), len(four), tail(fmt.Sprint(got), 500), tail(fmt.Sprint(four), 500))
	}
}

// The protocol table and the packet sizes count what has expired, over reloads;
// an interface's name cannot drive the terminal.
func TestShowExpired(t *testing.T) {
	t.Parallel()
	kernel.Programs(t) // a packet socket's filter is one
	l := newLine(t, false)
	evil := "v\x1b[31mb"
	if r := do(t, l.b, "ip", "link", "set", "vb", "down"); r.status != 0 {
		t.Fatal(r.stderr)
	}
	if r := do(t, l.b, "ip", "link", "set", "vb", "name", evil); r.status != 0 {
		t.Skipf("skipped: the kernel takes no such name: %s", r.stderr)
	}
	must(t, l.b, "ip", "link", "set", evil, "up")
	out := newSender(t, l.a, "va")
	control := filepath.Join(t.TempDir(), "sock")
	p := meterStart(t, l.b, "afpacket", evil, "--control", control, "-o", "csv", "-w", "/dev/null", "--idle", "1s")
	answers(t, l.b, control)
	var frames []frame
	for i := range 40 {
		frames = append(frames, udp4("10.1.0.1", "10.2.0.1", uint16(5000+i%4), 53, 100), tcp4("10.1.0.1", "10.2.0.1", 4000, 80, 16, 1000))
	}
	out.send(t, octets(frames)...)
	want := expect(frames)
	until(t, time.Minute, "all flows have expired", func() bool { return balanced(t, l.b, control, want.all)["exported"] == want.metered })
	text := must(t, l.b, weir, "--control", control, "show", "cache", "--cisco").stdout
	for _, line := range []string{
		`IP packet size distribution \(80 total packets\):`,
		`   \.000 \.000 \.000 \.000 \.500 \.000 .*`, // 128 octets of UDP
		`   \.000 \.000 \.000 \.000 \.500 \.000 .*`, // 1040 of TCP
		`TCP-WWW +1 +\d+\.\d +40 +1040 .*`,
		`UDP-DNS +4 +\d+\.\d +10 +128 .*`,
		`Total: +5 .*`,
		`  0 active, \d+ inactive, 5 added`,
	} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(text) {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
	until(t, 30*time.Second, "a flow is there", func() bool {
		out.send(t, frames[0].octets)
		return len(shown(t, l.b, control, "flows")) == 1
	})
	for _, args := range [][]string{{"flows"}, {"flows", "--cisco"}, {"interfaces"}, {"interfaces", "--cisco"}, {"top-talkers", "-s", "if", "--cisco"}, {"interfaces", "-o", "csv"}, {"interfaces", "-o", "json"}} {
		if r := must(t, l.b, append([]string{weir, "--control", control, "show"}, args...)...); strings.Contains(r.stdout+r.stderr, "\x1b") {
			t.Errorf("show %v lets an escape through: %q", args, r.stdout)
		}
	}
	p.stop(t)
}
