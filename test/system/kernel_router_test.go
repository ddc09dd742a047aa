package system

import (
	"fmt"
	"net"
	"os/exec"
	"testing"
	"time"

	"weir/test/kernel"
)

// routed is three namespaces: r forwards between a and b.
//
//	a: va 10.1.0.1, fd00:1::1  --  r: ra 10.1.0.254, fd00:1::ff
//	b: vb 10.2.0.1, fd00:2::1  --  r: rb 10.2.0.254, fd00:2::ff
//
// Neighbours are fixed; with IPv4 alone nothing travels that the test did not
// send.
type routed struct{ a, r, b string }

func newRouted(t testing.TB) routed {
	t.Helper()
	n := routed{namespace(t), namespace(t), namespace(t)}
	joinRouter(t, n.a, "va", n.r, "ra", 1)
	joinRouter(t, n.b, "vb", n.r, "rb", 2)
	must(t, n.r, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
	return n
}

// joinRouter connects a namespace with a router's, on networks 10.I.0.0/24 and
// fd00:I::/64, and makes the router its way to all others.
func joinRouter(t testing.TB, ns, name, r, router string, i int) {
	t.Helper()
	if out, err := exec.Command("ip", "link", "add", name, "netns", ns, "type", "veth", "peer", "name", router, "netns", r).CombinedOutput(); err != nil {
		t.Skipf("skipped: no veth pair: %v: %s", err, out)
	}
	for _, end := range []struct {
		ns, name  string
		host, mac int
		peer      int
	}{{ns, name, 1, 1, 254}, {r, router, 254, 254, 1}} {
		six := map[int]string{1: "1", 254: "ff"}
		must(t, end.ns, "sh", "-e", "-c", fmt.Sprintf(`
echo 0 >/proc/sys/net/ipv6/conf/%[1]s/disable_ipv6
echo 0 >/proc/sys/net/ipv6/conf/%[1]s/accept_dad
echo 1 >/proc/sys/net/ipv6/conf/%[1]s/mldv2_unsolicited_report_interval # ms: the kernel's reports are over before a test begins
ip link set %[1]s address 02:00:00:00:%02[2]x:%02[3]x addrgenmode none
ip addr add 10.%[2]d.0.%[3]d/24 dev %[1]s
ip addr add fd00:%[2]d::%[4]s/64 dev %[1]s nodad
ip link set %[1]s up
ip neigh replace 10.%[2]d.0.%[5]d lladdr 02:00:00:00:%02[2]x:%02[5]x dev %[1]s nud permanent
ip neigh replace fd00:%[2]d::%[6]s lladdr 02:00:00:00:%02[2]x:%02[5]x dev %[1]s nud permanent`,
			end.name, i, end.mac, six[end.host], end.peer, six[end.peer]))
	}
	must(t, ns, "ip", "route", "add", "default", "via", fmt.Sprintf("10.%d.0.254", i))
	must(t, ns, "ip", "route", "add", "default", "via", fmt.Sprintf("fd00:%d::ff", i))
}

// listen receives UDP for nobody.
func listen(t testing.TB, ns, addr string) {
	t.Helper()
	within(t, ns, func() error {
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		c.(*net.UDPConn).SetReadBuffer(8 << 20)
		t.Cleanup(func() { c.Close() })
		go func() {
			for b := make([]byte, 65536); ; {
				if _, _, err := c.ReadFrom(b); err != nil {
					return
				}
			}
		}()
		return nil
	})
}

// datagrams sends n datagrams of all sizes and says what flow they make.
func datagrams(t testing.TB, ns, from, to string, n int) (key string, sent count) {
	t.Helper()
	var c net.Conn
	within(t, ns, func() error {
		local, err := net.ResolveUDPAddr("udp", from)
		if err != nil {
			return err
		}
		remote, err := net.ResolveUDPAddr("udp", to)
		if err != nil {
			return err
		}
		c, err = net.DialUDP("udp", local, remote)
		return err
	})
	defer c.Close()
	b := make([]byte, 1400)
	l, r := c.LocalAddr().(*net.UDPAddr), c.RemoteAddr().(*net.UDPAddr)
	header := 28
	if l.IP.To4() == nil {
		header = 48
	}
	for i := range n {
		size := 1 + i*7%1400
		if _, err := c.Write(b[:size]); err != nil {
			t.Fatal(err)
		}
		sent.add(count{1, uint64(header + size)})
		if i%64 == 63 {
			time.Sleep(time.Millisecond)
		}
	}
	return flowKey(l.IP.String(), r.IP.String(), 17, l.Port, r.Port, 0, ""), sent
}

// A router's flows: each forwarded packet once, where it came in, with the
// interface it left by; what the router itself sends where it leaves. The same
// as packet sockets count there, and as the interfaces do.
func TestRouter(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	for _, mode := range kernelModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			n := newRouted(t)
			listen(t, n.a, "10.1.0.1:9")
			listen(t, n.b, "10.2.0.1:9")
			listen(t, n.r, "10.1.0.254:9")
			listen(t, n.a, "[fd00:1::1]:9")
			listen(t, n.b, "[fd00:2::1]:9")
			ra, rb := indexOf(t, n.r, "ra"), indexOf(t, n.r, "rb")
			p := meterStart(t, n.r, mode, "ra rb", "-o", "csv", "--summary", "--cache", "4Ki")
			sockets := meterStart(t, n.r, "afpacket", "ra rb", "-o", "csv")
			before := counted(t, n.r, "ra")
			rbBefore := counted(t, n.r, "rb")
			want := map[flowAt]count{}
			var forwarded count
			send := func(ns, from, to string, n int, direction, input, output string) {
				t.Helper()
				key, sent := datagrams(t, ns, from, to, n)
				want[flowAt{key, direction, input, output}] = sent
				if input != "" && output != "" {
					forwarded.add(sent)
				}
			}
			send(n.a, "10.1.0.1:1000", "10.2.0.1:9", 1500, "0", ra, rb)
			send(n.b, "10.2.0.1:1001", "10.1.0.1:9", 700, "0", rb, ra)
			send(n.r, "10.1.0.254:1002", "10.1.0.1:9", 300, "1", "", ra)
			send(n.r, "10.2.0.254:1003", "10.2.0.1:9", 200, "1", "", rb)
			send(n.a, "10.1.0.1:1004", "10.1.0.254:9", 100, "0", ra, "")
			settle()
			var wire count // in and out of both interfaces: what is forwarded is there twice
			for k, c := range want {
				wire.add(c)
				if k.input != "" && k.output != "" {
					wire.add(c)
				}
			}
			got := counted(t, n.r, "ra")
			other := counted(t, n.r, "rb")
			got = count{got.Packets + other.Packets - before.Packets - rbBefore.Packets, got.Bytes + other.Bytes - before.Bytes - rbBefore.Bytes}
			if got != wire {
				t.Errorf("the interfaces counted %+v, %+v were sent", got, wire)
			}
			send(n.a, "[fd00:1::1]:2000", "[fd00:2::1]:9", 400, "0", ra, rb)
			send(n.b, "[fd00:2::1]:2001", "[fd00:1::1]:9", 250, "0", rb, ra)
			settle()
			p.stop(t)
			sockets.stop(t)
			flows := byPoint(t, some(parseCSV(t, p.stdout.String())))
			samePoints(t, flows, want)
			// Packet sockets see what is forwarded once more, as it leaves.
			seen := byPoint(t, some(parseCSV(t, sockets.stdout.String())))
			alike := map[flowAt]count{}
			for k, c := range want {
				if k.direction == "0" {
					alike[flowAt{k.flow, "0", k.input, ""}] = c
				}
				if k.output != "" {
					alike[flowAt{k.flow, "1", "", k.output}] = c
				}
			}
			samePoints(t, seen, alike)
			detach(t, n.r)
		})
	}
}

// some leaves out what the kernel says on its own: multicast of IPv6.
func some(all rows) (mine rows) {
	for _, m := range all {
		if m["proto"] == "17" {
			mine = append(mine, m)
		}
	}
	return mine
}

// Behind a bridge it is the bridge that the kernel says a packet came in by: what is
// forwarded is counted once all the same, at the bridge's port.
func TestRouterWithBridge(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	for _, mode := range []string{"xdp", "tc"} {
		for _, ports := range []string{"ra", "ra tap"} {
			t.Run(mode+" "+ports, func(t *testing.T) {
				t.Parallel()
				n := newRouted(t)
				must(t, n.r, "sh", "-e", "-c", `
ip link add name lan type bridge
ip link set lan address 02:00:00:00:01:fe addrgenmode none
ip addr flush dev ra
ip link set ra master lan
ip addr add 10.1.0.254/24 dev lan
ip link set lan up
ip neigh replace 10.1.0.1 lladdr 02:00:00:00:01:01 dev lan nud permanent`)
				if ports == "ra tap" { // which is metered too: the output is one of two
					must(t, n.r, "sh", "-e", "-c", "ip link add tap type veth peer name far; ip link set tap master lan up; ip link set far up")
				}
				listen(t, n.a, "10.1.0.1:9")
				listen(t, n.b, "10.2.0.1:9")
				ra, rb := indexOf(t, n.r, "ra"), indexOf(t, n.r, "rb")
				p := meterStart(t, n.r, mode, ports+" rb", "-o", "csv", "--cache", "1Ki")
				want := map[flowAt]count{}
				send := func(ns, from, to string, n int, direction, input, output string) {
					t.Helper()
					key, sent := datagrams(t, ns, from, to, n)
					want[flowAt{key, direction, input, output}] = sent
				}
				send(n.a, "10.1.0.1:1000", "10.2.0.1:9", 300, "0", ra, rb)
				send(n.b, "10.2.0.1:1001", "10.1.0.1:9", 300, "0", rb, ra)
				settle()
				p.stop(t)
				samePoints(t, byPoint(t, some(parseCSV(t, p.stdout.String()))), want)
				detach(t, n.r)
			})
		}
	}
}

// With one of two interfaces metered, what comes in by the other is counted as
// it leaves by this one.
func TestRouterOneSided(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	for _, mode := range []string{"xdp", "clsact"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			n := newRouted(t)
			listen(t, n.a, "10.1.0.1:9")
			listen(t, n.b, "10.2.0.1:9")
			ra, rb := indexOf(t, n.r, "ra"), indexOf(t, n.r, "rb")
			p := meterStart(t, n.r, mode, "ra", "-o", "csv", "--cache", "1Ki")
			want := map[flowAt]count{}
			send := func(ns, from, to string, n int, direction, input, output string) {
				t.Helper()
				key, sent := datagrams(t, ns, from, to, n)
				if direction != "" {
					want[flowAt{key, direction, input, output}] = sent
				}
			}
			send(n.a, "10.1.0.1:1000", "10.2.0.1:9", 800, "0", ra, rb)
			send(n.b, "10.2.0.1:1001", "10.1.0.1:9", 600, "1", "", ra)
			send(n.r, "10.1.0.254:1002", "10.1.0.1:9", 300, "1", "", ra)
			send(n.r, "10.2.0.254:1003", "10.2.0.1:9", 200, "", "", "")
			settle()
			p.stop(t)
			samePoints(t, byPoint(t, some(parseCSV(t, p.stdout.String()))), want)

			// Both, and then one of them detached: the other counts on, and what
			// comes in by that one, too, where it leaves.
			p = meterStart(t, n.r, mode, "ra rb", "-o", "csv", "--cache", "1Ki")
			p.stop(t)
			if r := must(t, n.r, weir, "meter", "--detach", "-i", "rb"); len(links(t, n.r)) == 0 {
				t.Fatalf("nothing is left: %s", r.stderr)
			}
			want = map[flowAt]count{}
			send(n.a, "10.1.0.1:1100", "10.2.0.1:9", 100, "0", ra, rb)
			send(n.b, "10.2.0.1:1101", "10.1.0.1:9", 50, "1", "", ra)
			settle()
			r := detach(t, n.r, "-o", "csv")
			samePoints(t, byPoint(t, some(parseCSV(t, r.stdout))), want)
		})
	}
}
