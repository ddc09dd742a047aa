package system

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const floodPolicy = `
guard:
  mode: observe
  networks: [10.99.0.0/16]
  keys: 4Ki
  new-flows: {per-cpu: 0, per-source: 0, per-destination: 20k}
`

// known is packets of established flows from c to a victim, and those of them that arrive.
type known struct {
	out     *sender
	frames  [][]byte // one of each flow
	next    int
	sent    uint64
	arrived *udpCounter
}

const knownFlows = 200

func startKnown(t testing.TB, g *guarded, victim string) *known {
	t.Helper()
	k := &known{out: newSender(t, g.c, "vc"), arrived: countUDP(t, g.b, "vb")}
	for i := range knownFlows {
		f := ethernet(0x0800, ipv4("10.3.0.1", victim, 17, 0, 0, udp(uint16(20_000+i), 443, 100)))
		copy(f, []byte{2, 0, 0, 0, 3, 254, 2, 0, 0, 0, 3, 1})
		k.frames = append(k.frames, f)
	}
	return k
}

// send sends the next n.
func (k *known) send(t testing.TB, n int) {
	t.Helper()
	for range n {
		k.out.send(t, k.frames[k.next])
		k.next = (k.next + 1) % len(k.frames)
	}
	k.sent += uint64(n)
}

// udpCounter counts what comes to an interface over UDP and IPv4. The kernel leaves out
// the rest, however much that is.
type udpCounter struct {
	n    atomic.Uint64
	stop atomic.Bool
}

func countUDP(t testing.TB, ns, ifname string) *udpCounter {
	t.Helper()
	fd := packetSocket(t, ns, ifname, unix.SOCK_DGRAM)
	only := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.IPPROTO_UDP},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(only)), Filter: &only[0]}); err != nil {
		t.Fatal(err)
	}
	c, done := &udpCounter{}, make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 1); !c.stop.Load(); {
			_, from, err := unix.Recvfrom(fd, b, 0)
			if l, is := from.(*unix.SockaddrLinklayer); err == nil && is && l.Pkttype != unix.PACKET_OUTGOING {
				c.n.Add(1)
			}
		}
	}()
	t.Cleanup(func() { c.stop.Store(true); <-done; unix.Close(fd) })
	return c
}

// spoofed sends SYNs to a victim, each from a sender and a port of its own.
type spoofed struct {
	out  *sender
	dst  string
	sent uint64
}

func (s *spoofed) send(t testing.TB, n int) {
	t.Helper()
	frames := make([][]byte, n)
	for i := range frames {
		at := s.sent + uint64(i)
		src := fmt.Sprintf("198.%d.%d.%d", 18+at>>16&1, at>>8&255, at&255)
		frames[i] = toRouter(ethernet(0x0800, ipv4(src, s.dst, 6, 0, 0, tcp(uint16(1024+at>>17), 80, 2, 0))))
	}
	s.out.send(t, frames...)
	s.sent += uint64(n)
}

// Five SYNs, each a flow of its own, for each packet of flows that are established, over a
// router with a table too small for them: what is established arrives, with and without a
// rule against new flows, and stays in its entries; every packet is in a record, of its
// flow or of an aggregate, or dropped by the rule and in a record, too; and neither the
// table nor its memory grows.
func TestGuardFlood(t *testing.T) {
	t.Parallel()
	guardFlood(t, func(rounds int) bool { return rounds < 4 })
}

func TestSoakGuardFlood(t *testing.T) {
	lasts := soaking(t)
	began := time.Now()
	guardFlood(t, func(int) bool { return time.Since(began) < lasts })
}

// guardFlood floods while more says so of the rounds that were, half of them without a rule.
func guardFlood(t *testing.T, more func(rounds int) bool) {
	g := newGuarded(t)
	const victim = "10.99.2.1"
	g.configure(t, "on", floodPolicy)
	g.reconfigure(t, "cache: .*", "cache: {entries: 16Ki, idle: 10m, active: 24h}") // an established flow is one record
	g.begin(t)
	k, s := startKnown(t, g, victim), &spoofed{out: newSender(t, g.a, "va"), dst: victim}
	k.send(t, 3*knownFlows)
	until(t, 10*time.Second, "the flows are known", func() bool { return k.arrived.n.Load() == k.sent })
	rss, _ := held(t, g.process)
	tables := pins(t, g.r)

	var act guardAction
	for rounds := 0; more(rounds); rounds++ {
		ruled := rounds%2 == 1
		if ruled {
			if r := g.guard(t, "propose", "--new", "--to", victim, "--action", "drop", "--for", "10m", "--approve"); r.status != 0 {
				t.Fatal(r.stderr)
			}
			act = g.awaitAction(t, "", "active")
		}
		sent, came, syns, dropped := k.sent, k.arrived.n.Load(), s.sent, uint64(0)
		for range 100 {
			for range 10 {
				s.send(t, 20)
				k.send(t, 4)
			}
		}
		sent, syns = k.sent-sent, s.sent-syns
		if syns != 5*sent {
			t.Fatalf("%d SYNs for %d packets", syns, sent)
		}
		settle()
		if came = k.arrived.n.Load() - came; came < sent*8/10 || came > sent {
			t.Errorf("round %d: of %d packets of established flows %d arrived", rounds, sent, came)
		}
		if ruled {
			until(t, 10*time.Second, "the rule has dropped all SYNs", func() bool { // it is read once a second
				dropped = g.action(t, act.ID).Dropped
				return dropped >= syns
			})
			if dropped != syns {
				t.Errorf("round %d: the rule dropped %d of %d SYNs", rounds, dropped, syns)
			}
			if r := g.guard(t, "lift", fmt.Sprint(act.ID)); r.status != 0 {
				t.Fatal(r.stderr)
			}
		}
		until(t, 10*time.Second, "the table has the flows", func() bool { // it is looked at once a second
			n, most := metric(t, g.r, console, "weir_cache_entries"), metric(t, g.r, console, "weir_cache_capacity_entries")
			if n > most {
				t.Errorf("round %d: %g entries of %g", rounds, n, most)
			}
			return n >= knownFlows
		})
		t.Logf("round %d: of %d packets of established flows %d arrived, beside %d SYNs; %d dropped", rounds, sent, came, syns, dropped)
	}
	// The store takes 200 MiB more while it merges what a minute has brought, and gives them back.
	until(t, 2*time.Minute, fmt.Sprintf("no more than 100 MiB above the %d before the floods are resident", rss), func() bool {
		now, _ := held(t, g.process)
		return now <= rss+100
	})
	if now := pins(t, g.r); len(now) != len(tables) {
		t.Errorf("pinned before: %v; now: %v", tables, now)
	}
	noLoss(t, losses(t, g.r, g.control), "cache/aggregated", "guard/dropped")
	g.stop(t)
	var flows, syns, aggregated uint64
	for _, m := range g.records(t, "dst net "+victim+"/24 and (proto tcp or proto udp)") {
		n := number(t, m["packets"])
		switch {
		case m["proto"] == "17":
			flows += n
			if want := k.sent / knownFlows; n != want {
				t.Errorf("a record of %d packets of an established flow, want one of %d: %v", n, want, m)
			}
		case m["src"] == "":
			aggregated += n
			fallthrough
		default:
			syns += n
		}
	}
	if flows != k.sent || syns != s.sent {
		t.Errorf("records of %d packets of the flows and of %d SYNs; %d and %d were sent", flows, syns, k.sent, s.sent)
	}
	if aggregated < s.sent/2 {
		t.Errorf("%d of %d SYNs are in aggregates", aggregated, s.sent)
	}
	detach(t, g.r)
}

// The drills of floods, again and again in one weir: each time every flood is found, dropped
// and over, packets are neither lost nor counted twice, and neither memory nor descriptors
// nor goroutines grow.
func TestSoakGuardDrills(t *testing.T) {
	lasts := soaking(t)
	g := newGuarded(t)
	list := drills()
	for _, d := range list {
		g.victim(t, d.victim)
	}
	g.configure(t, "on", drillsPolicy+"  max-per-minute: 1000\n  keys: 8Ki\n")
	g.begin(t)
	arrived := newFloodCounter(t, g)
	var rss, fds, goroutines []int
	var total uint64
	for began := time.Now(); time.Since(began) < lasts; {
		last := map[string]uint64{}
		for _, d := range list {
			for _, a := range g.actions(t, d.group) {
				last[d.group] = max(last[d.group], a.ID)
			}
			last[d.network] = arrived.of(d.network)
			d.flood = startFlood(t, newSender(t, g.a, "va"), drillRate, d.packets)
		}
		fresh := func(d *drill, state string) (found bool) {
			for _, a := range g.actions(t, d.group) {
				if a.ID > last[d.group] && a.State == state {
					d.act, found = a, true
				}
			}
			return found
		}
		for _, d := range list {
			until(t, 30*time.Second, d.group+": an action is in force", func() bool { return fresh(d, "active") })
		}
		for _, d := range list {
			d.flood.end()
		}
		for _, d := range list {
			until(t, 30*time.Second, d.group+": it is over", func() bool { return fresh(d, "ended") })
			settle()
			var dropped uint64
			for _, a := range g.actions(t, d.group) {
				if a.ID > last[d.group] {
					dropped += a.Dropped
				}
			}
			sent, came := d.flood.packets.Load(), arrived.of(d.network)-last[d.network]
			if total += sent; came+dropped != sent || dropped == 0 {
				t.Errorf("%s: of %d packets %d arrived, and %d were dropped", d.group, sent, came, dropped)
			}
		}
		m, n := held(t, g.process)
		rss, fds, goroutines = append(rss, m), append(fds, n), append(goroutines, int(metric(t, g.r, console, "go_goroutines")))
		t.Logf("%v: %d MiB resident, %d descriptors, %d goroutines", time.Since(began).Round(time.Second), m, n, goroutines[len(goroutines)-1])
		if t.Failed() {
			return
		}
	}
	if len(rss) >= 6 {
		flat(t, "descriptors", fds, 12)
		flat(t, "goroutines", goroutines, 12)
		if lasts >= flatFrom {
			flat(t, "MiB of memory", rss, 100)
		}
	} else {
		t.Logf("left out: whether memory, descriptors and goroutines stay flat, which %d turns cannot show (from 6 on)", len(rss))
	}
	g.stop(t)
	if got := g.records(t, "src net 198.18.0.0/15 or src net 2001:db8::/32 or dst net 10.99.0.0/16").sum(t).Packets; got < total {
		t.Errorf("records of %d packets, %d were sent", got, total)
	}
	t.Logf("%d turns, %d packets", len(rss), total)
	detach(t, g.r)
}

// reconfigure changes the configuration's text.
func (g *guarded) reconfigure(t testing.TB, what, with string) {
	t.Helper()
	text, err := os.ReadFile(g.config)
	if err != nil {
		t.Fatal(err)
	}
	next := regexp.MustCompile(what).ReplaceAllString(string(text), with)
	if next == string(text) {
		t.Fatalf("nothing like %q in the configuration", what)
	}
	if err := os.WriteFile(g.config, []byte(next), 0o644); err != nil {
		t.Fatal(err)
	}
}

// reload makes weir read its configuration again.
func (g *guarded) reload(t testing.TB) {
	t.Helper()
	const words = "configuration taken"
	before := strings.Count(g.stderr.String(), words)
	g.signal(t, unix.SIGHUP)
	until(t, 30*time.Second, words, func() bool { return strings.Count(g.stderr.String(), words) > before })
}
