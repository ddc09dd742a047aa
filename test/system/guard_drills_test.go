package system

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const drillsPolicy = `
guard:
  mode: automatic
  action: drop
  allow-own: off
  allow: [10.3.0.53, 198.18.53.53]
  networks: [10.99.0.0/16, 'fd00:99::/32']
  thresholds: {pps: 1k, flows: 600}
  outgoing: {}
  hold: 5s
  max-hold: 60s
  calm: 2s
  hostgroups:
    one flow: {networks: [10.99.1.1]}
    syn: {networks: [10.99.2.1]}
    reflection: {networks: [10.99.3.1]}
    fragments: {networks: [10.99.4.1]}
    carpet: {networks: [10.99.5.0/24], subnets: {pps: 1500}}
    slow rise: {networks: [10.99.6.1]}
    crowd: {networks: [10.99.7.1]}
    sweep: {networks: ['fd00:99:8::/64'], subnets: {pps: 1500}}
    one flow, IPv6: {networks: ['fd00:99:9::1']}
    allowed: {networks: [10.99.10.1]}
`

// drill is a flood, and what must be said of it.
type drill struct {
	group, victim string // one address of it, with a transfer to it
	network       string // what the flood is for
	kind, match   string
	evidence      string // the largest source, or source port
	packets       [][]byte

	flood *flood
	legit *paced
	act   guardAction
}

// many makes n packets.
func many(n int, packet func(i int, r *rand.Rand) []byte) (list [][]byte) {
	r := rand.New(rand.NewPCG(8, 15))
	for i := range n {
		list = append(list, packet(i, r))
	}
	return list
}

const drillRate = 3000 // packets a second

func drills() []*drill {
	return []*drill{
		{
			group: "one flow", victim: "10.99.1.1", network: "10.99.1.1/32",
			kind: "single-flow", match: "udp from 198.18.1.1 sport 4000 to 10.99.1.1 dport 9999 one flow", evidence: "198.18.1.1",
			packets: [][]byte{ipv4("198.18.1.1", "10.99.1.1", 17, 0, 0, udp(4000, 9999, 100))},
		},
		{
			group: "syn", victim: "10.99.2.1", network: "10.99.2.1/32", kind: "syn-flood", match: "tcp syn to 10.99.2.1",
			packets: many(60_000, func(i int, r *rand.Rand) []byte {
				return ipv4(forged("198.18.2.0", i), "10.99.2.1", 6, 0, 0, tcp(uint16(r.Uint32()), 80, 2, 0))
			}),
		},
		{
			group: "reflection", victim: "10.99.3.1", network: "10.99.3.1/32", kind: "udp-amplification", match: "udp sport 53,123,389,11211 to 10.99.3.1", evidence: "53 dns",
			packets: many(4000, func(i int, r *rand.Rand) []byte {
				return ipv4(forged("198.18.3.0", i), "10.99.3.1", 17, 0, 0, udp([]uint16{53, 53, 123, 389, 11211}[i%5], uint16(r.Uint32()), 400))
			}),
		},
		{
			group: "fragments", victim: "10.99.4.1", network: "10.99.4.1/32", kind: "fragment-flood", match: "fragments to 10.99.4.1",
			packets: many(500, func(i int, r *rand.Rand) []byte {
				return ipv4(forged("198.18.4.0", i), "10.99.4.1", 17, 0, uint16(100+i), make([]byte, 200))
			}),
		},
		{
			group: "carpet", victim: "10.99.5.1", network: "10.99.5.0/24", kind: "udp-flood", match: "udp new flows to 10.99.5.0/24",
			packets: many(20_000, func(i int, r *rand.Rand) []byte {
				return ipv4(forged("198.18.5.0", i), fmt.Sprintf("10.99.5.%d", r.IntN(256)), 17, 0, 0, udp(uint16(1024+r.IntN(60000)), uint16(30000+r.IntN(30000)), 60))
			}),
		},
		{
			group: "slow rise", victim: "10.99.6.1", network: "10.99.6.1/32", kind: "udp-flood", match: "udp to 10.99.6.1",
			packets: many(300, func(i int, r *rand.Rand) []byte {
				return ipv4(forged("198.18.6.0", i), "10.99.6.1", 17, 0, 0, udp(uint16(1024+r.IntN(60000)), uint16(30000+r.IntN(30000)), 60))
			}),
		},
		{
			group: "sweep", victim: "fd00:99:8::1", network: "fd00:99:8::/64", kind: "udp-flood", match: "from 2001:db8:8::/64 to fd00:99:8::/64",
			packets: many(60_000, func(i int, r *rand.Rand) []byte {
				return ipv6(forged("2001:db8:8::", i), forged("fd00:99:8::", i), 17, 0, udp(uint16(1024+r.IntN(60000)), uint16(30000+r.IntN(30000)), 60))
			}),
		},
		{
			group: "one flow, IPv6", victim: "fd00:99:9::1", network: "fd00:99:9::1/128", kind: "single-flow",
			match: "udp from 2001:db8::9 sport 4000 to fd00:99:9::1 dport 9999 one flow", evidence: "2001:db8::/64",
			packets: [][]byte{ipv6("2001:db8::9", "fd00:99:9::1", 17, 0, udp(4000, 9999, 100))},
		},
	}
}

// The drills of floods, all at a time. Each is found and dropped in the kernel by what
// is narrow enough; who is no part of it keeps what they had; packets are neither lost
// nor counted twice; and it ends.
func TestGuardDrills(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	list := drills()
	for _, d := range list {
		g.victim(t, d.victim)
	}
	g.victim(t, "10.99.7.1")
	g.configure(t, "off", drillsPolicy)
	g.begin(t)
	arrived := newFloodCounter(t, g)
	for _, d := range list {
		d.legit = g.startPaced(t, net.JoinHostPort(d.victim, "80"))
	}
	dns := startResolver(t, g, "10.99.3.1")
	time.Sleep(time.Second)
	if all := g.attacks(t, ""); len(all) > 0 {
		t.Fatalf("peace, and attacks: %+v", all)
	}

	allowed := startFlood(t, newSender(t, g.a, "va"), drillRate, [][]byte{ipv4("198.18.53.53", "10.99.10.1", 17, 0, 0, udp(4000, 9999, 100))})
	crowd := startCrowd(t, g, "10.99.7.1:80")
	for _, d := range list {
		rate := int64(drillRate)
		if d.group == "slow rise" {
			rate = 200
		}
		d.flood = startFlood(t, newSender(t, g.a, "va"), rate, d.packets)
	}
	var crossed time.Time
	for _, d := range list {
		from := time.Unix(0, d.flood.began.Load())
		if d.group == "slow rise" {
			from = d.rises(t)
			crossed = from
		}
		d.act = g.awaitAction(t, d.group, "active")
		d.judge(t, g, from)
	}
	if d := list[5]; d.act.Created.Before(crossed) {
		t.Errorf("%s: it was acted upon %v before it was over the threshold", d.group, crossed.Sub(d.act.Created))
	}
	for _, d := range list {
		d.legit.received.Store(0)
	}
	began := time.Now()
	time.Sleep(2 * time.Second)
	for _, d := range list {
		d.legit.keeps(t, float64(d.legit.received.Load())/time.Since(began).Seconds())
	}
	g.tells(t, len(list))

	sent := map[string]uint64{}
	for _, d := range list {
		sent[d.group] = d.flood.end()
	}
	allowedSent := allowed.end()
	crowd.end(t)
	asked, answered := dns.end()
	if asked < 50 || answered < asked*95/100 {
		t.Errorf("of %d questions of the victim's to its resolver, which is allowed, %d were answered", asked, answered)
	}
	g.isSpared(t, "crowd", "established", "established traffic")
	g.isSpared(t, "allowed", "single-flow", "is allowed")
	for _, d := range list {
		until(t, 30*time.Second, d.group+": the attack and its action end", func() bool {
			x := g.attacks(t, d.group)
			act := g.action(t, d.act.ID)
			return len(x) == 1 && x[0].Ended != nil && act.State == "ended"
		})
		d.act = g.action(t, d.act.ID)
		if got := arrived.of(d.network); got+d.act.Dropped != sent[d.group] || d.act.Dropped == 0 {
			t.Errorf("%s: of %d packets %d arrived, and %d were dropped", d.group, sent[d.group], got, d.act.Dropped)
		}
		t.Logf("%s: sent %d, dropped %d", d.group, sent[d.group], d.act.Dropped)
	}
	if got := arrived.of("10.99.10.1/32"); got != allowedSent {
		t.Errorf("of %d packets of an allowed source %d arrived", allowedSent, got)
	}

	// What was stopped passes again.
	for _, d := range list {
		before := arrived.of(d.network)
		again := startFlood(t, newSender(t, g.a, "va"), 2000, d.packets)
		time.Sleep(50 * time.Millisecond)
		n := again.end()
		sent[d.group] += n
		until(t, 5*time.Second, fmt.Sprintf("%s: %d packets pass again", d.group, n), func() bool { return arrived.of(d.network) == before+n })
	}
	total := allowedSent
	for _, n := range sent {
		total += n
	}
	if got := statistics(t, g.a, "va", "tx_packets"); got < total || got > total+20 { // and what is not the floods'
		t.Errorf("%d packets were sent, the interface says %d", total, got)
	}
	g.stop(t)
	for _, d := range list {
		g.inRecords(t, d, sent[d.group])
	}
	for _, m := range g.records(t, "dst ip 10.99.7.1 or dst ip 10.99.10.1") {
		if m["forwarding_status"] != "" || strings.Contains(m["elements"], "dropped") {
			t.Errorf("a record of what nothing was done about: %v", m)
			break
		}
	}
	detach(t, g.r)
}

// rises lets a flood grow, and says when it came over the threshold.
func (d *drill) rises(t *testing.T) (crossed time.Time) {
	for rate := int64(200); rate <= 2200; rate += 50 {
		d.flood.rate.Store(rate)
		if crossed.IsZero() && rate >= 1000-pacedRate/1448 { // the transfer's packets are the victim's, too
			crossed = time.Now()
		}
		time.Sleep(100 * time.Millisecond)
	}
	return crossed
}

// judge looks at what is done about a flood that began.
func (d *drill) judge(t *testing.T, g *guarded, from time.Time) {
	t.Helper()
	after := d.act.Created.Sub(from)
	t.Logf("%s: %s, after %v", d.group, d.act.What, after.Round(time.Millisecond))
	if after > 3*time.Second*slow {
		t.Errorf("%s: found after %v", d.group, after)
	}
	if d.act.What != "drop: "+d.match || !d.act.Here || d.act.By != "automatic" || d.act.Undo == "" {
		t.Errorf("%s: %+v, want drop: %s", d.group, d.act, d.match)
	}
	x := g.attacks(t, d.group)
	if len(x) != 1 || x[0].Kind != d.kind || x[0].ID != d.act.Attack {
		t.Errorf("%s: %+v", d.group, x)
		return
	}
	said := fmt.Sprint(x[0].Evidence.TopSources, x[0].Evidence.SourcePorts)
	if !strings.Contains(said, "{"+d.evidence) {
		t.Errorf("%s: the evidence does not name %s: %s", d.group, d.evidence, said)
	}
}

// tells says that metrics and the console's answer have the actions in force.
func (g *guarded) tells(t *testing.T, actions int) {
	t.Helper()
	if got := metric(t, g.r, console, "weir_guard_active_actions"); got != float64(actions) {
		t.Errorf("weir_guard_active_actions is %v, want %d", got, actions)
	}
	text, err := fetch(g.r, "http://"+console+"/api/v1/guard")
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Groups []struct {
			Group      string
			DroppedPPS uint64 `json:"dropped_pps"`
		}
		Actions []struct {
			State, What string
			Left        float64
		}
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatalf("%v: %s", err, tail(text, 500))
	}
	active := 0
	for _, a := range answer.Actions {
		if a.State == "active" && a.Left > 0 {
			active++
		}
	}
	if active != actions {
		t.Errorf("the console has %d actions in force, want %d: %s", active, actions, tail(text, 2000))
	}
	for _, x := range answer.Groups {
		if calm := strings.Contains("default crowd allowed", x.Group); calm == (x.DroppedPPS > 0) {
			t.Errorf("hostgroup %s: %d packets a second are dropped", x.Group, x.DroppedPPS)
		}
	}
	if text := must(t, g.r, weir, "show", "guard", "--control", g.control).stdout; !strings.Contains(text, "syn-flood") {
		t.Errorf("weir show guard:\n%s", text)
	}
}

// isSpared says that an attack on a hostgroup was told, and nothing done about it, for a reason.
func (g *guarded) isSpared(t *testing.T, group, kind, why string) {
	t.Helper()
	x := g.attacks(t, group)
	if len(x) != 1 || x[0].Kind != kind {
		t.Errorf("%s: %+v", group, x)
	}
	all := g.actions(t, group)
	if len(all) != 1 || all[0].State != "proposed" && all[0].State != "obsolete" || all[0].State == "proposed" && !strings.Contains(all[0].Note, why) || all[0].Counted+all[0].Dropped > 0 {
		t.Errorf("%s: %+v", group, all)
	}
}

func (g *guarded) records(t *testing.T, filter string) rows {
	t.Helper()
	return parseCSV(t, must(t, "", weir, "query", "--store", g.store, "-n", "0", "-o", "csv", filter).stdout)
}

// droppedIn is what of a record was dropped.
func droppedIn(t *testing.T, m map[string]string) (packets, octets uint64) {
	t.Helper()
	var e struct {
		Packets uint64 `json:"droppedPacketDeltaCount"` // IE 133
		Octets  uint64 `json:"droppedOctetDeltaCount"`  // IE 132
	}
	if m["elements"] != "" {
		if err := json.Unmarshal([]byte(m["elements"]), &e); err != nil {
			t.Fatalf("%v: %s", err, m["elements"])
		}
	}
	return e.Packets, e.Octets
}

// inRecords says that records have what was sent, and what was dropped of it.
func (g *guarded) inRecords(t *testing.T, d *drill, sent uint64) {
	t.Helper()
	var packets, dropped uint64
	for _, m := range g.records(t, "dst net "+d.network+" and (src net 198.18.0.0/15 or src net 2001:db8::/32)") {
		packets += number(t, m["packets"])
		n, octets := droppedIn(t, m)
		dropped += n
		if (n > 0) != (m["forwarding_status"] == "138") || (n > 0) != (octets > 0) {
			t.Errorf("%s: a record of dropped packets, or of others: %v", d.group, m)
			return
		}
	}
	if strings.Contains(d.match, "new flows") || strings.Contains(d.match, "syn") { // they are in no entry, but in aggregates, of no sender
		packets, dropped = packets+d.act.Dropped-dropped, d.act.Dropped
	}
	if packets != sent {
		t.Errorf("%s: records of %d packets, %d were sent", d.group, packets, sent)
	}
	if dropped != d.act.Dropped {
		t.Errorf("%s: records of %d dropped packets, the rule dropped %d", d.group, dropped, d.act.Dropped)
	}
}

// resolver answers a victim's questions.
type resolver struct {
	asked, answered atomic.Uint64
	stop            chan struct{}
	wait            sync.WaitGroup
}

// startResolver lets a victim ask 10.3.0.53, a hundred times a second.
func startResolver(t *testing.T, g *guarded, victim string) *resolver {
	t.Helper()
	must(t, g.c, "ip", "addr", "add", "10.3.0.53", "dev", "vc")
	d := &resolver{stop: make(chan struct{})}
	var server, client *net.UDPConn
	at := &net.UDPAddr{IP: net.ParseIP("10.3.0.53"), Port: 53}
	within(t, g.c, func() (err error) { server, err = net.ListenUDP("udp", at); return err })
	within(t, g.b, func() (err error) {
		client, err = net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(victim)}, at)
		return err
	})
	d.wait.Go(func() {
		for b := make([]byte, 2000); ; {
			n, from, err := server.ReadFromUDP(b)
			if err != nil {
				return
			}
			server.WriteToUDP(b[:n], from)
		}
	})
	d.wait.Go(func() {
		for b := make([]byte, 2000); ; d.answered.Add(1) {
			if _, err := client.Read(b); err != nil {
				return
			}
		}
	})
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-d.stop:
				return
			case <-tick.C:
				if _, err := client.Write(make([]byte, 40)); err == nil {
					d.asked.Add(1)
				}
			}
		}
	}()
	t.Cleanup(func() { server.Close(); client.Close(); d.wait.Wait() })
	return d
}

func (d *resolver) end() (asked, answered uint64) {
	close(d.stop)
	settle()
	return d.asked.Load(), d.answered.Load()
}

// crowd is many clients of one server that want something at once.
type crowd struct {
	stop     chan struct{}
	wait     sync.WaitGroup
	requests atomic.Uint64
	failed   atomic.Uint64
}

// startCrowd makes clients at forty addresses connect, ask some times, and come again.
func startCrowd(t *testing.T, g *guarded, addr string) *crowd {
	t.Helper()
	const clients = 40
	var server net.Listener
	within(t, g.b, func() (err error) { server, err = net.Listen("tcp", addr); return err })
	t.Cleanup(func() { server.Close() })
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for b := make([]byte, 2000); ; {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					c.Write(b[:n])
				}
			}()
		}
	}()
	var script strings.Builder
	for i := range clients {
		fmt.Fprintf(&script, "ip addr add 10.3.0.%d dev vc\n", 100+i)
	}
	must(t, g.c, "sh", "-e", "-c", script.String())
	w := &crowd{stop: make(chan struct{})}
	for i := range clients {
		w.wait.Go(func() {
			inNamespace(g.c, func() error {
				for {
					select {
					case <-w.stop:
						return nil
					default:
					}
					if err := w.visit(fmt.Sprintf("10.3.0.%d", 100+i), addr); err != nil {
						w.failed.Add(1)
					}
				}
			})
		})
	}
	t.Cleanup(func() { w.end(t) })
	return w
}

// visit asks a hundred times over one connection.
func (w *crowd) visit(from, to string) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second * slow}
	c, err := d.Dial("tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	b := make([]byte, 200)
	for range 100 {
		select {
		case <-w.stop:
			return nil
		case <-time.After(15 * time.Millisecond):
		}
		c.SetDeadline(time.Now().Add(10 * time.Second * slow))
		if _, err := c.Write(b); err != nil {
			return err
		}
		if _, err := c.Read(b); err != nil {
			return err
		}
		w.requests.Add(1)
	}
	return nil
}

// end ends it: nobody was turned away.
func (w *crowd) end(t *testing.T) {
	t.Helper()
	select {
	case <-w.stop:
		return
	default:
	}
	close(w.stop)
	w.wait.Wait()
	if n := w.failed.Load(); n > 0 {
		t.Errorf("%d of the crowd were turned away", n)
	}
	t.Logf("the crowd asked %d times", w.requests.Load())
}
