package bgp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"weir/guard"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// actions are one of each kind that is announced.
func actions() []guard.Action {
	active := func(id uint64, a guard.Announce, m guard.Match, do guard.Do, pps, bps uint64) guard.Action {
		return guard.Action{ID: id, Announce: a, Match: m, Do: do, PPS: pps, BPS: bps, State: guard.StateActive}
	}
	return []guard.Action{
		active(1, guard.RTBH, guard.Match{Dst: pfx("192.0.2.1/32")}, guard.Drop, 0, 0),
		active(2, guard.RTBH, guard.Match{Dst: pfx("2001:db8::1/128")}, guard.Drop, 0, 0),
		active(3, guard.FlowSpec, guard.Match{Dst: pfx("192.0.2.2/32"), Proto: 17, SrcPorts: []uint16{53, 123}}, guard.Drop, 0, 0),
		active(4, guard.FlowSpec, guard.Match{Dst: pfx("2001:db8::2/128"), Proto: 6, SYN: true, DstPort: 443}, guard.Police, 0, 8_000_000),
		active(5, guard.FlowSpec, guard.Match{Dst: pfx("192.0.2.3/32"), Fragments: true}, guard.Police, 1000, 0),
		active(6, guard.FlowSpec, guard.Match{Src: pfx("198.51.100.0/24"), Dst: pfx("192.0.2.4/32")}, guard.Drop, 0, 0),
	}
}

// freePort is a TCP port of loopback that nobody has.
func freePort(t *testing.T) uint16 {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// peerOf is a router under test: how it is started, and asked.
type peerOf struct {
	binary string
	start  func(t *testing.T, dir string, port uint16) *exec.Cmd
	routes func(dir string) string // all it has learnt
}

var bird = peerOf{
	binary: "bird",
	start: func(t *testing.T, dir string, port uint16) *exec.Cmd {
		conf := filepath.Join(dir, "bird.conf")
		text := fmt.Sprintf(`router id 10.0.0.1;
log stderr all;
protocol device {}
flow4 table flowtab4; flow6 table flowtab6;
protocol bgp weir {
  local 127.0.0.1 port %d as 64501;
  neighbor 127.0.0.1 as 64500;
  multihop; passive;
  ipv4 { import all; export none; }; ipv6 { import all; export none; };
  flow4 { table flowtab4; import all; export none; }; flow6 { table flowtab6; import all; export none; };
}
`, port)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return exec.Command("bird", "-f", "-c", conf, "-s", filepath.Join(dir, "bird.ctl"), "-P", filepath.Join(dir, "pid"))
	},
	routes: func(dir string) string {
		out := ""
		for _, table := range []string{"master4", "master6", "flowtab4", "flowtab6"} {
			b, _ := exec.Command("birdc", "-s", filepath.Join(dir, "bird.ctl"), "show", "route", "all", "table", table).CombinedOutput()
			out += string(b)
		}
		return out
	},
}

// frr has its sockets in a folder that its own user may write.
var frr = peerOf{
	binary: "/usr/lib/frr/bgpd",
	start: func(t *testing.T, dir string, port uint16) *exec.Cmd {
		conf := filepath.Join(dir, "bgpd.conf")
		text := `router bgp 64501
 bgp router-id 10.0.0.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 127.0.0.1 remote-as 64500
 neighbor 127.0.0.1 ebgp-multihop
 neighbor 127.0.0.1 disable-connected-check
 neighbor 127.0.0.1 passive
 address-family ipv4 unicast
  neighbor 127.0.0.1 activate
 address-family ipv6 unicast
  neighbor 127.0.0.1 activate
 address-family ipv4 flowspec
  neighbor 127.0.0.1 activate
 address-family ipv6 flowspec
  neighbor 127.0.0.1 activate
`
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return exec.Command("/usr/lib/frr/bgpd", "-S", "-n", "-Z", "-f", conf, "-i", filepath.Join(dir, "pid"), "-p", fmt.Sprint(port), "-l", "127.0.0.1", "-P", "0", "--vty_socket", dir)
	},
	routes: func(dir string) string {
		out := ""
		for _, c := range []string{"show bgp ipv4 unicast 192.0.2.1/32", "show bgp ipv6 unicast 2001:db8::1/128", "show bgp ipv4 flowspec detail", "show bgp ipv6 flowspec detail", "show bgp ipv4 unicast", "show bgp ipv6 unicast"} {
			b, _ := exec.Command("vtysh", "--vty_socket", dir, "-d", "bgpd", "-c", c).CombinedOutput()
			out += string(b)
		}
		return out
	},
}

// Routers of others hear what is announced, all of it, and hear when it ends: by the end
// of the action, and by the end of the speaker.
func TestRoutersHearIt(t *testing.T) {
	for name, c := range map[string]struct {
		peer peerOf
		want []string // regular expressions
	}{
		"bird": {bird, []string{
			`(?s)192\.0\.2\.1/32.*BGP\.next_hop: 192\.0\.2\.254.*BGP\.community: \(65535,666\) \(65535,65281\)`,
			`(?s)2001:db8::1/128.*BGP\.next_hop: 2001:db8::dead`,
			`flow4 \{ dst 192\.0\.2\.2/32; proto 17; sport 53,123; \}`,
			`flow6 \{ dst 2001:db8::2/128; next header 6; dport 443; tcp flags 0x2/0x2 && 0x0/0x10; \}`,
			`flow4 \{ dst 192\.0\.2\.3/32; fragment is_fragment; \}`,
			`flow4 \{ dst 192\.0\.2\.4/32; src 198\.51\.100\.0/24; \}`,
			`\(generic, 0x8006fbf4, 0x0\)`,
			`\(generic, 0x8006fbf4, 0x49742400\)`, // 1e6 octets a second
			`\(generic, 0x800cfbf4, 0x447a0000\)`, // 1000 packets a second
		}},
		"frr": {frr, []string{
			`(?s)routing table entry for 192\.0\.2\.1/32.*Community: (blackhole no-export|no-export blackhole)`,
			`(?s)routing table entry for 2001:db8::1/128.*2001:db8::dead`,
			`(?s)Destination Address 192\.0\.2\.2/32.*IP Protocol = 17.*Source Port = 53.*= 123`,
			`(?s)Destination Address 2001:db8::2/128`,
			`(?s)Packet Fragment = 2`,
			`(?s)Source Address 198\.51\.100\.0/24`,
			`FS:rate 0\.000000`,
			`FS:rate 1000000\.000000`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(c.peer.binary); err != nil {
				t.Skipf("%s is not here: apt-get install bird2 frr", c.peer.binary)
			}
			dir, err := os.MkdirTemp("", "weir-bgp") // the path of a socket must be short
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			port := freePort(t)
			cmd := c.peer.start(t, dir, port)
			var log strings.Builder
			cmd.Stdout, cmd.Stderr = &log, &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				cmd.Process.Kill()
				cmd.Wait()
				if t.Failed() {
					t.Logf("%s said:\n%.4000s", name, log.String())
				}
			})
			s, err := New(Options{
				AS: 64500, RouterID: netip.MustParseAddr("10.0.0.9"), NextHop: netip.MustParseAddr("192.0.2.254"), NextHop6: netip.MustParseAddr("2001:db8::dead"),
				Neighbours: []Neighbour{{Address: netip.MustParseAddr("127.0.0.1"), AS: 64501, Port: port, Multihop: true}},
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- s.Run(ctx) }()
			for _, act := range actions() {
				s.Tell(guard.Event{What: "active", Action: &act})
			}
			until := func(what string, ok func(string) string) {
				t.Helper()
				var routes, missing string
				for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
					if routes = c.peer.routes(dir); ok(routes) == "" {
						return
					}
				}
				missing = ok(routes)
				t.Fatalf("%s: %s; state %+v; it has\n%.6000s", what, missing, s.State(), routes)
			}
			until("announced", func(routes string) string {
				for _, w := range c.want {
					if !regexp.MustCompile(w).MatchString(routes) {
						return "not there: " + w
					}
				}
				return ""
			})
			if st := s.State(); st.Announced != 6 || st.Established != 1 || st.Failed != 0 {
				t.Errorf("%+v", st)
			}
			over := actions()[2]
			over.State = guard.StateEnded
			s.Tell(guard.Event{What: "ended", Action: &over})
			until("ended", func(routes string) string {
				switch {
				case strings.Contains(routes, "192.0.2.2/32"):
					return "the rule is there still"
				case !strings.Contains(routes, "192.0.2.3/32"):
					return "others are gone"
				}
				return ""
			})
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			until("stopped", func(routes string) string {
				if regexp.MustCompile(`192\.0\.2\.[1-4]/32|2001:db8::[12]/128`).MatchString(routes) {
					return "routes are there still"
				}
				return ""
			})
		})
	}
}

func TestWhatCannotBeAnnounced(t *testing.T) {
	s, err := New(Options{AS: 4_200_000_000, RouterID: netip.MustParseAddr("10.0.0.9"), Neighbours: []Neighbour{{Address: netip.MustParseAddr("127.0.0.1"), AS: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, act := range []guard.Action{
		{Announce: guard.RTBH, Match: guard.Match{Src: pfx("192.0.2.1/32")}},
		{Announce: guard.RTBH, Match: guard.Match{Dst: pfx("2001:db8::1/128")}}, // no next hop
		{Announce: guard.FlowSpec, Match: guard.Match{Dst: pfx("192.0.2.1/32")}, Do: guard.Count},
		{Announce: guard.FlowSpec, Do: guard.Drop},
	} {
		if p, err := s.path(&act); err == nil {
			t.Errorf("%+v is announced as %s", act, p.Nlri)
		}
	}
	for _, o := range []Options{{}, {AS: 1}, {AS: 1, RouterID: netip.MustParseAddr("::1")}, {AS: 1, RouterID: netip.MustParseAddr("10.0.0.1")}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}
