package system

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Hosts talk through a router that weir forwards for as through any other: TCP with
// and without offloads, large pings, path MTU, traceroute, neighbours that are not
// known yet.
func TestForwardHosts(t *testing.T) {
	t.Parallel()
	need(t, "ping")
	n := newCrossed(t)
	f := startForwarding(t, n.r, forwardAll)
	// Neighbours are found as they are everywhere, not written down: those of IPv6 are
	// asked from link-local addresses.
	must(t, n.r, "sh", "-e", "-c", "ip -6 addr add fe80::ff/64 dev ra nodad; ip -6 addr add fe80::ff/64 dev rb nodad; ip neigh flush nud permanent; ip -6 neigh flush nud permanent")
	for ns, name := range map[string]string{n.a: "va", n.b: "vb"} {
		must(t, ns, "sh", "-c", fmt.Sprintf("ip -6 addr add fe80::1/64 dev %[1]s nodad; ip neigh flush dev %[1]s nud permanent; ip -6 neigh flush dev %[1]s nud permanent", name))
	}
	ping := func(args ...string) string {
		t.Helper()
		r := do(t, n.a, append([]string{"ping", "-n", "-i", "0.02", "-W", "2"}, args...)...)
		if r.status != 0 {
			t.Errorf("ping %v: %s%s", args, r.stdout, r.stderr)
		}
		return r.stdout
	}
	forwards := func(what string, least uint64, do func()) {
		t.Helper()
		before := f.fates(t, "")
		do()
		if d := f.fates(t, "").less(before); d["forwarded"] < least {
			t.Errorf("%s: %v, want %d forwarded at least", what, d, least)
		}
	}
	forwards("ping", 30, func() {
		ping("-c", "20", "10.2.0.1")
		ping("-c", "20", "fd00:2::1")
	})
	fragments := f.fates(t, "")
	ping("-c", "5", "-s", "3000", "10.2.0.1")
	ping("-c", "5", "-s", "3000", "fd00:2::1")
	if d := f.fates(t, "").less(fragments); d["fragment"] != 2*5*3 || d["ip-options"] != 2*5*3 {
		t.Errorf("pings of three fragments each: %v", d)
	}

	// As they send: with checksums that are left to hardware, in large buffers.
	offloaded := f.fates(t, "")
	transfer(t, n.a, n.b, "10.2.0.1:5001", 20_000_000)
	transfer(t, n.a, n.b, "[fd00:2::1]:5001", 20_000_000)
	t.Logf("TCP with offloads: %v", f.fates(t, "").less(offloaded))
	for ns, name := range map[string]string{n.a: "va", n.b: "vb"} {
		must(t, ns, "ethtool", "-K", name, "tso", "off", "gso", "off", "tx", "off")
	}
	forwards("TCP without offloads", 2*2_000_000/1448, func() {
		transfer(t, n.a, n.b, "10.2.0.1:5002", 2_000_000)
		transfer(t, n.a, n.b, "[fd00:2::1]:5002", 2_000_000)
	})

	// The path's MTU is found out, from whom it should be.
	must(t, n.r, "ip", "link", "set", "rb", "mtu", "1300")
	time.Sleep(200 * time.Millisecond)
	if r := do(t, n.a, "ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1400", "10.2.0.1"); !strings.Contains(r.stdout, "From 10.1.0.254") || !strings.Contains(r.stdout, "mtu = 1300") {
		t.Errorf("a ping that must not be cut, too long for the way: %s%s", r.stdout, r.stderr)
	}
	for _, c := range []struct{ addr, dst string }{{"10.2.0.1:5003", "10.2.0.1"}, {"[fd00:2::1]:5003", "fd00:2::1"}} {
		transfer(t, n.a, n.b, c.addr, 1_000_000)
		if r := must(t, n.a, "ip", "route", "get", c.dst); !strings.Contains(r.stdout, "mtu 1300") {
			t.Errorf("the path's MTU to %s was not found: %s", c.dst, r.stdout)
		}
	}
	must(t, n.r, "ip", "link", "set", "rb", "mtu", "1500")

	if r := do(t, n.a, "traceroute", "-n", "-w", "1", "-q", "2", "10.2.0.1"); r.status == 0 {
		for i, hop := range []string{"10.1.0.254", "10.2.0.1"} {
			if lines := strings.Split(r.stdout, "\n"); len(lines) < 3 || strings.Count(lines[1+i], hop) != 1 {
				t.Errorf("traceroute: %s", r.stdout)
			}
		}
	} else {
		t.Log("not tried: traceroute: ", r.stderr)
	}
	f.stop(t)
	detach(t, n.r)
}
