package system

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// speakers are routing daemons: BIRD at a and b and c, FRR at the router between
// them. All speak OSPF; a and b speak BGP with each other through the router.
// 10.50.0.0/16 is behind b, and dearer behind c.
type speakers struct {
	crossed
	birds map[string]*process
	dir   string
}

func startSpeakers(t *testing.T) *speakers {
	t.Helper()
	const frr = "/usr/lib/frr/"
	need(t, "bird", "birdc")
	if _, err := os.Stat(frr + "ospfd"); err != nil {
		t.Skip("skipped: FRR is not installed")
	}
	s := &speakers{newCrossed(t), map[string]*process{}, t.TempDir()}
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(s.dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for dir, mode := range map[string]os.FileMode{filepath.Dir(s.dir): 0o755, s.dir: 0o777} { // FRR's user is its own
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	zebra := filepath.Join(s.dir, "zebra.api")
	daemon := func(name, conf string) {
		start(t, s.r, frr+name, "-f", write(name+".conf", conf), "-i", filepath.Join(s.dir, name+".pid"), "-z", zebra, "--vty_socket", s.dir, "-u", "frr", "-g", "frr", "-P", "0")
	}
	daemon("zebra", "hostname r\n")
	until(t, 20*time.Second, "zebra listens", func() bool { _, err := os.Stat(zebra); return err == nil })
	ospf := "hostname r\n"
	for name, cost := range map[string]int{"ra": 10, "rb": 10, "rc": 100} {
		ospf += fmt.Sprintf("interface %s\n ip ospf network point-to-point\n ip ospf hello-interval 1\n ip ospf dead-interval 4\n ip ospf cost %d\n", name, cost)
	}
	daemon("ospfd", ospf+"router ospf\n ospf router-id 10.255.0.1\n network 10.0.0.0/8 area 0\n")
	for i, side := range []struct{ name, ns, more string }{
		{"a", s.a, "protocol bgp peer { local 10.1.0.1 as 65001; neighbor 10.2.0.1 as 65002; multihop; hold time 6; connect delay time 1; connect retry time 2; error wait time 1, 2; ipv4 { import all; export none; }; }"},
		{"b", s.b, "protocol static { ipv4; route 10.50.0.0/16 blackhole; }\nprotocol bgp peer { local 10.2.0.1 as 65002; neighbor 10.1.0.1 as 65001; multihop; hold time 6; connect delay time 1; connect retry time 2; error wait time 1, 2; ipv4 { import all; export where source = RTS_STATIC; }; }"},
		{"c", s.c, "protocol static { ipv4; route 10.50.0.0/16 blackhole; }"},
	} {
		conf := fmt.Sprintf(`router id 10.255.0.%d;
protocol device { scan time 1; }
%s
protocol ospf v2 { ipv4 { import all; export where source = RTS_STATIC; }; area 0 { interface "v%s" { type ptp; hello 1; dead count 4; cost 10; }; }; }
`, 10+i, side.more, side.name)
		s.birds[side.name] = start(t, side.ns, "bird", "-f", "-c", write(side.name+".bird", conf), "-s", filepath.Join(s.dir, side.name+".ctl"), "-P", filepath.Join(s.dir, side.name+".birdpid"))
	}
	s.settled(t)
	return s
}

// birdc asks a BIRD.
func (s *speakers) birdc(t *testing.T, name string, words ...string) string {
	t.Helper()
	return do(t, "", append([]string{"birdc", "-s", filepath.Join(s.dir, name+".ctl")}, words...)...).stdout
}

// settled waits until all know each other.
func (s *speakers) settled(t *testing.T) {
	t.Helper()
	until(t, time.Minute, "OSPF and BGP are up", func() bool {
		for name := range s.birds {
			if !strings.Contains(s.birdc(t, name, "show", "ospf", "neighbors"), "Full") {
				return false
			}
		}
		return strings.Contains(s.birdc(t, "a", "show", "protocols", "peer"), "Established") &&
			strings.Contains(do(t, s.r, "ip", "route", "show", "10.50.0.0/16").stdout, "10.2.0.1")
	})
}

// since is when BGP came up.
func (s *speakers) since(t *testing.T) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^peer .*`).FindString(s.birdc(t, "a", "show", "protocols", "peer"))
	if !strings.Contains(m, "Established") {
		t.Errorf("BGP is not up: %s", m)
	}
	return m
}

// converges cuts b off and says for how long no packet arrives at c, which should then
// have them.
func (s *speakers) converges(t *testing.T, cut, mend func()) time.Duration {
	t.Helper()
	in := newTap(t, s.c, "vc")
	var packets [][]byte
	for i := range 5 {
		packets = append(packets, ipv4("10.1.0.7", "10.50.0.1", 17, 0, 0, udp(uint16(5000+i), 53, 20)))
	}
	p := startPulse(t, newSender(t, s.a, "va"), packets)
	time.Sleep(300 * time.Millisecond)
	if n := in.count(isNumbered); n > 0 {
		t.Errorf("%d packets go by c before b is cut off", n)
	}
	at := time.Now()
	cut()
	until(t, 30*time.Second, "packets go by c", func() bool { return in.count(isNumbered) > 50 })
	sent := p.end()
	first, _ := numberOf(in.take(isNumbered)[0])
	mend()
	s.settled(t)
	return sent[first].at.Sub(at)
}

// Real routers around: their adjacencies stay up while much is forwarded, and they
// find another way as fast as without weir when a link is cut or a router is silent.
func TestInteropForwardRouting(t *testing.T) {
	if os.Getenv("WEIR_INTEROP") == "" {
		t.Skip("skipped: BIRD and FRR take their time, see make interop (WEIR_INTEROP=1)")
	}
	s := startSpeakers(t)
	cuts := []struct {
		name      string
		cut, mend func()
	}{
		{"a link is cut", func() { must(t, s.b, "ip", "link", "set", "vb", "down") }, func() {
			must(t, s.b, "sh", "-c", "ip link set vb up; ip route replace default via 10.2.0.254; ip neigh replace 10.2.0.254 lladdr 02:00:00:00:02:fe dev vb nud permanent")
		}},
		{"a router is silent", func() { s.birds["b"].signal(t, unix.SIGSTOP) }, func() { s.birds["b"].signal(t, unix.SIGCONT) }},
	}
	alone := map[string]time.Duration{}
	for _, c := range cuts {
		alone[c.name] = s.converges(t, c.cut, c.mend)
	}
	f := startForwarding(t, s.r, forwardAll)
	for _, c := range cuts {
		with := s.converges(t, c.cut, c.mend)
		t.Logf("%s: packets go the other way after %v with weir, after %v without", c.name, with.Round(time.Millisecond), alone[c.name].Round(time.Millisecond))
		if with > alone[c.name]+time.Second {
			t.Errorf("%s: %v with weir, %v without", c.name, with, alone[c.name])
		}
	}

	// Under load: as much as one sender makes.
	since, before := s.since(t), f.fates(t, "")
	out := newSender(t, s.a, "va")
	var frames [][]byte
	for i := range 640 {
		frames = append(frames, routerFrame(ipv4("10.1.0.7", "10.3.0.9", 17, 0, 0, udp(uint16(1024+i), 53, 20)), uint32(i)))
	}
	must(t, s.r, "ip", "neigh", "replace", "10.3.0.9", "lladdr", "02:00:00:00:03:09", "dev", "rc", "nud", "permanent")
	begun, sent := time.Now(), 0
	for time.Since(begun) < 15*time.Second {
		out.send(t, frames...)
		sent += len(frames)
		if time.Since(begun) > 2*time.Second && sent%64000 == 0 {
			for name := range s.birds {
				if text := s.birdc(t, name, "show", "ospf", "neighbors"); !strings.Contains(text, "Full") {
					t.Errorf("under load %s has no neighbour: %s", name, text)
				}
			}
		}
	}
	d := f.fates(t, "").less(before)
	t.Logf("under load: %.0f packets a second were sent, %.0f forwarded", float64(sent)/time.Since(begun).Seconds(), float64(d["forwarded"])/time.Since(begun).Seconds())
	if after := s.since(t); after != since {
		t.Errorf("BGP was down under load: %s; %s", since, after)
	}
	if d["forwarded"] < uint64(sent)/2 {
		t.Errorf("of %d packets: %v", sent, d)
	}
	f.stop(t)
	detach(t, s.r)
}
