package datapath

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"weir/acl"
	"weir/bpf"
	"weir/flow"
	"weir/packet"
)

// Test runs' frames come in by the loopback interface.
const loopback = 1

// dice makes lists and packets that meet each other.
type dice struct{ *rand.Rand }

func (d dice) of(from ...string) string { return from[d.IntN(len(from))] }

func (d dice) addr(v6 bool) string {
	if v6 {
		return d.of("any", "any", "host 2001:db8::1", "2001:db8::/32", "2001:db8:0:1::/64", "host 2001:db8:0:1::7", "object-group NET")
	}
	return d.of("any", "any", "host 10.0.0.1", "10.0.0.0 0.0.0.255", "10.0.0.0/8", "192.0.2.0 0.0.0.127", "10.0.0.1 0.0.255.0", "object-group NET")
}

func (d dice) ports() string {
	n := []string{"53", "80", "443", "1000", "65535"}
	switch d.IntN(6) {
	case 0:
		return " eq " + d.of(n...)
	case 1:
		return " neq " + d.of(n...)
	case 2:
		return " gt " + d.of("52", "79", "1024")
	case 3:
		return " range 53 " + d.of("79", "443", "1000")
	}
	return ""
}

func (d dice) list(name string, v6 bool, rules int) string {
	var b strings.Builder
	ip, icmp := "ip", "icmp"
	if v6 {
		ip = "ipv6"
		fmt.Fprintf(&b, "ipv6 access-list %s\n", name)
	} else {
		fmt.Fprintf(&b, "ip access-list extended %s\n", name)
	}
	for range rules {
		action := d.of("permit", "deny")
		switch d.IntN(8) {
		case 0:
			fmt.Fprintf(&b, " %s %s %s %s%s\n", action, ip, d.addr(v6), d.addr(v6), d.of("", " fragments", " dscp ef", " log"))
		case 1:
			fmt.Fprintf(&b, " %s %s %s %s%s\n", action, icmp, d.addr(v6), d.addr(v6), d.of("", " echo-request", " 3 1"))
		case 2, 3, 4:
			fmt.Fprintf(&b, " %s udp %s%s %s%s\n", action, d.addr(v6), d.ports(), d.addr(v6), d.ports())
		default:
			fmt.Fprintf(&b, " %s tcp %s%s %s%s%s\n", action, d.addr(v6), d.ports(), d.addr(v6), d.ports(), d.of("", "", " established", " syn", " match-all +syn -ack", " log"))
		}
	}
	return strings.ReplaceAll(b.String(), "echo-request", map[bool]string{false: "echo", true: "echo-request"}[v6])
}

// policy is two lists at the loopback interface, in both directions.
func (d dice) policy(t testing.TB, rules int) *acl.Policy {
	t.Helper()
	text := "object-group network NET\n host 10.0.0.2\n 192.0.2.0 255.255.255.0\n 2001:db8:0:2::/64\n"
	for i, dir := range []string{"in", "out"} {
		text += d.list(fmt.Sprint("FOUR", i), false, rules) + d.list(fmt.Sprint("SIX", i), true, rules)
		text += fmt.Sprintf("interface lo\n ip access-group FOUR%d %s\n ipv6 traffic-filter SIX%d %s\n", i, dir, i, dir)
	}
	return mustRead(t, text)
}

func mustRead(t testing.TB, text string) *acl.Policy {
	t.Helper()
	p, err := acl.ReadCisco("test", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return p
}

// frame is an Ethernet frame that a list may have an opinion of.
func (d dice) frame() []byte {
	v6 := d.IntN(3) == 0
	proto := []byte{6, 6, 17, 17, 1, 47}[d.IntN(6)]
	if v6 && proto == 1 {
		proto = 58
	}
	var payload []byte
	port := func() uint16 { return []uint16{53, 80, 443, 1000, 65535, 78, 1, 1025}[d.IntN(8)] }
	switch proto {
	case 6:
		payload = binary.BigEndian.AppendUint16(payload, port())
		payload = binary.BigEndian.AppendUint16(payload, port())
		payload = append(payload, make([]byte, 16)...)
		payload[12], payload[13] = 0x50, []byte{flow.SYN, flow.ACK, flow.SYN | flow.ACK, flow.RST, flow.FIN | flow.ACK, 0}[d.IntN(6)]
	case 17:
		payload = binary.BigEndian.AppendUint16(payload, port())
		payload = binary.BigEndian.AppendUint16(payload, port())
		payload = append(payload, 0, 8, 0, 0)
	case 1:
		payload = []byte{[]byte{8, 3, 0}[d.IntN(3)], byte(d.IntN(2)), 0, 0, 0, 0, 0, 0}
	case 58:
		payload = []byte{[]byte{128, 3, 135, 136}[d.IntN(4)], byte(d.IntN(2)), 0, 0, 0, 0, 0, 0}
	default:
		payload = make([]byte, 8)
	}
	payload = append(payload, make([]byte, d.IntN(40))...)
	tos := []byte{0, 0, 46 << 2}[d.IntN(3)]
	later := d.IntN(8) == 0
	if v6 {
		a := func() []byte {
			x := flow.Addr{0x20, 1, 0x0d, 0xb8, 7: byte(d.IntN(3)), 15: []byte{1, 7, 9}[d.IntN(3)]}
			return x[:]
		}
		next := proto
		if later {
			payload = append([]byte{proto, 0, 1, 0, 0, 0, 0, 1}, payload...)
			next = 44
		}
		f := append(make([]byte, 12), 0x86, 0xdd, 0x60|tos>>4, tos<<4, 0, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(len(payload)))
		f = append(f, next, byte(1+d.IntN(64)))
		f = append(append(f, a()...), a()...)
		return append(f, payload...)
	}
	a := func() []byte {
		return [][]byte{{10, 0, 0, 1}, {10, 0, 0, 2}, {10, 0, 9, 1}, {10, 9, 9, 9}, {192, 0, 2, 5}, {192, 0, 2, 200}, {203, 0, 113, 1}}[d.IntN(7)]
	}
	f := append(make([]byte, 12), 0x08, 0, 0x45, tos)
	f = binary.BigEndian.AppendUint16(f, uint16(20+len(payload)))
	off := uint16(0)
	if later {
		off = 185
	}
	f = append(f, 0, 0)
	f = binary.BigEndian.AppendUint16(f, off)
	f = append(f, byte(1+d.IntN(64)), proto, 0, 0)
	f = append(append(f, a()...), a()...)
	f = append(f, payload...)
	for len(f) < 60 {
		f = append(f, 0)
	}
	return f
}

// filtering is a table with lists, of which the loopback interface is a port.
func filtering(t testing.TB, entries int, o FilterOptions) (*bpf.Kernel, *Filter) {
	t.Helper()
	return filteringWith(t, bpf.Options{Entries: entries, Lists: true}, o)
}

func filteringWith(t testing.TB, table bpf.Options, o FilterOptions) (*bpf.Kernel, *Filter) {
	t.Helper()
	k := loadKernel(t, table)
	if err := (ports{k.Memory().Control}).set(loopback, bpf.PortIngress|bpf.PortListIn|bpf.PortListOut); err != nil {
		t.Fatal(err)
	}
	o.Ports = func() map[string]uint16 {
		return map[string]uint16{"lo": uint16(ports{k.Memory().Control}.find(loopback).Number)}
	}
	return k, newFilter(k, slog.New(slog.DiscardHandler), o)
}

// evaluate is the naive answer; no rule: the packet passes unjudged.
func evaluate(p *acl.Policy, d acl.Direction, in *packet.Info) (action acl.Action, l *acl.List, r *acl.Rule) {
	f := acl.IPv4
	if in.Key.VLAN&flow.KeyIPv6 != 0 {
		f = acl.IPv6
	}
	for _, b := range p.Bindings {
		if b.Direction == d && b.Family == f {
			l = p.List(b.List, f)
			v := p.Evaluate(l, in, time.Now())
			return v.Action, l, v.Rule
		}
	}
	return acl.Permit, nil, nil
}

// Each packet gets what a naive reading of the list from top to bottom says, also
// when its flow is known, when the lists change under it, as a fragment, and with
// other flags than the packets before; coming in and going out, by XDP and by TC.
// And what the rules have decided of is what they were asked.
func TestKernelJudges(t *testing.T) {
	k, f := filtering(t, 1<<12, FilterOptions{})
	s := sweeper(t, SweepConfig{Idle: time.Hour, Lists: k.Lists}, k, &counting{})
	d := dice{rand.New(rand.NewPCG(4, 2))}
	type key struct{ list, rule string }
	want := map[key]bpf.Count{}
	wrong, stopped := 0, 0
	rounds := 60
	if testing.Short() {
		rounds = 20
	}
	for round := range rounds {
		p := d.policy(t, []int{1, 5, 40, 200}[round%4])
		if err := f.Apply(p, 0); err != nil {
			t.Fatal(err)
		}
		for range 400 {
			frame := d.frame()
			var in packet.Info
			if why := packet.Decode(packet.LinkEthernet, frame, uint32(len(frame)), &in); why != packet.Decoded {
				t.Fatalf("%x: %v", frame, why)
			}
			for _, hook := range []struct {
				program *ebpf.Program
				dir     acl.Direction
				drop    uint32
			}{{k.Programs.XDP, acl.In, 1}, {k.Programs.Ingress, acl.In, 2}, {k.Programs.Egress, acl.Out, 2}} {
				action, l, r := evaluate(p, hook.dir, &in)
				got, err := hook.program.Run(&ebpf.RunOptions{Data: frame})
				if err != nil {
					t.Fatal(err)
				}
				if (got == hook.drop) != (action == acl.Deny) {
					if wrong++; wrong < 5 {
						t.Errorf("%+v: the kernel says %d, the list %v by %v\n%s", in, int32(got), action, r, acl.AppendCisco(nil, p))
					}
				}
				if action == acl.Deny {
					stopped++
				}
				name := key{l.Family.String() + l.Name, "implicit"}
				if r != nil {
					name.rule = r.Cisco(l.Family)
				}
				c := want[name]
				c.Packets++
				c.Bytes += uint64(in.Length)
				want[name] = c
			}
		}
		// Some flows leave, some stay while the lists change.
		if round%3 == 0 {
			if err := s.DrainAll(flow.EndForced); err != nil {
				t.Fatal(err)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d verdicts are wrong", wrong)
	}
	got := map[key]bpf.Count{}
	hits := s.Hits()
	f.mu.Lock()
	for id, n := range f.ids {
		part := strings.Split(id, "\x00")
		name := key{strings.Replace(part[0], " ", "", 1), part[1]}
		if part[3] == "true" {
			name.rule = "implicit"
		}
		c := got[name]
		c.Packets += hits[n].Packets
		c.Bytes += hits[n].Bytes
		got[name] = c
	}
	f.mu.Unlock()
	var sum, asked bpf.Count
	for name, c := range want {
		asked.Packets, asked.Bytes = asked.Packets+c.Packets, asked.Bytes+c.Bytes
		if got[name] != c {
			t.Errorf("%s, %s: hits %+v, want %+v", name.list, name.rule, got[name], c)
		}
	}
	for _, c := range got {
		sum.Packets, sum.Bytes = sum.Packets+c.Packets, sum.Bytes+c.Bytes
	}
	if sum != asked || stopped == 0 || stopped == int(asked.Packets) {
		t.Errorf("rules have decided of %+v, asked of %+v; %d stopped", sum, asked, stopped)
	}
	c, err := k.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if all := allPorts(c); all[bpf.Dropped].Packets != uint64(stopped) {
		t.Errorf("%d packets are told to be dropped, %d were", all[bpf.Dropped].Packets, stopped)
	}
}

// A thousand changes of long lists while packets come: what all lists deny never
// passes, what all permit never stops, and behind a change nothing goes by the lists
// before it.
func TestKernelListsSwapped(t *testing.T) {
	k, f := filtering(t, 1<<12, FilterOptions{})
	f.setUsed(sweeper(t, SweepConfig{Lists: k.Lists}, k, &counting{}).rulesInUse) // they have more rules than there are numbers
	d := dice{rand.New(rand.NewPCG(8, 1))}
	text := func(n int) string {
		var b strings.Builder
		b.WriteString("ip access-list extended L\n")
		for i := range 100 {
			fmt.Fprintf(&b, " deny tcp 172.16.%d.0 0.0.0.255 any eq %d\n", d.IntN(256), 1+(i*7+n)%60000)
		}
		fmt.Fprintf(&b, " deny udp any host 203.0.113.1 eq 53\n %s udp any any eq 80\n permit udp any any eq 443\n deny ip any any\ninterface lo\n ip access-group L in\n", map[bool]string{true: "permit", false: "deny"}[n%2 == 0])
		return b.String()
	}
	frame := func(port uint16, last byte) []byte {
		b := append(make([]byte, 12), 0x08, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, last, 203, 0, 113, 1, 0x10, 0)
		b = binary.BigEndian.AppendUint16(b, port)
		return append(b, make([]byte, 60-len(b))...)
	}
	if err := f.Apply(mustRead(t, text(0)), 0); err != nil {
		t.Fatal(err)
	}
	swaps := 1000
	if testing.Short() {
		swaps = 50
	}
	var done atomic.Bool
	var sent [2]atomic.Uint64
	var senders sync.WaitGroup
	for n, c := range []struct {
		port uint16
		want uint32
	}{{53, 1}, {443, 2}} {
		senders.Go(func() {
			r := rand.New(rand.NewPCG(9, uint64(n)))
			for !done.Load() {
				got, err := k.Programs.XDP.Run(&ebpf.RunOptions{Data: frame(c.port, byte(r.IntN(200)))})
				if err != nil || got != c.want {
					t.Errorf("port %d: verdict %d, %v; want %d", c.port, got, err, c.want)
					return
				}
				sent[n].Add(1)
				time.Sleep(100 * time.Microsecond)
			}
		})
	}
	for n := 1; n <= swaps && !t.Failed(); n++ {
		if err := f.Apply(mustRead(t, text(n)), 0); err != nil {
			t.Error(err)
			break
		}
		for last := range byte(4) {
			got, err := k.Programs.XDP.Run(&ebpf.RunOptions{Data: frame(80, last)})
			if want := uint32(2 - n%2); err != nil || got != want {
				t.Errorf("after change %d: verdict %d, %v; want %d", n, got, err, want)
			}
		}
	}
	done.Store(true)
	senders.Wait()
	t.Logf("%d changes, %d and %d packets meanwhile", swaps, sent[0].Load(), sent[1].Load())
	if sent[0].Load() < uint64(swaps) || sent[1].Load() < uint64(swaps) {
		t.Error("hardly a packet came")
	}
}

// A change on trial ends by itself, in the programs: also when nobody is there to
// end it. What was confirmed stays.
func TestKernelTrial(t *testing.T) {
	k := loadKernel(t, bpf.Options{Entries: 1 << 10, Lists: true, TestClock: true})
	control := k.Memory().Control
	if err := (ports{control}).set(loopback, bpf.PortIngress|bpf.PortListIn); err != nil {
		t.Fatal(err)
	}
	number := uint16(ports{control}.find(loopback).Number)
	o := FilterOptions{Ports: func() map[string]uint16 { return map[string]uint16{"lo": number} }, Orphan: 5 * time.Second}
	f := newFilter(k, slog.New(slog.DiscardHandler), o)
	f.clock = func() (uint64, error) { return atomic.LoadUint64(&control.TestClock), nil }
	at := func(seconds uint64) { clockTo(k, seconds*second) }
	frame := append(make([]byte, 12), 0x08, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 203, 0, 113, 1, 0x10, 0, 0, 53)
	frame = append(frame, make([]byte, 60-len(frame))...)
	passes := func(want bool, when string) {
		t.Helper()
		got, err := k.Programs.XDP.Run(&ebpf.RunOptions{Data: frame})
		if err != nil || (got == 2) != want {
			t.Errorf("%s: verdict %d, %v; passes: want %v", when, got, err, want)
		}
	}
	open := mustRead(t, "ip access-list extended L\n permit ip any any\ninterface lo\n ip access-group L in\n")
	closed := mustRead(t, "ip access-list extended L\n deny ip any any\ninterface lo\n ip access-group L in\n")
	at(1000)
	passes(true, "without lists")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	inForce := func(want *acl.Policy) {
		t.Helper()
		if got := f.InForce(); (got == nil) != (want == nil) || got != nil && got.Policy != want {
			t.Errorf("other lists are said to be in force")
		}
	}
	inForce(nil)
	must(f.Apply(open, 0))
	passes(true, "open")
	inForce(open)
	must(f.Apply(closed, 60*time.Second))
	passes(false, "on trial")
	inForce(closed)
	if err := f.Apply(open, 0); err != ErrTrial {
		t.Errorf("a change during a trial: %v", err)
	}
	control.AliveUntil = 1 << 62
	at(1059)
	passes(false, "a second before the trial ends")
	at(1060)
	passes(true, "the trial is over, and nobody has said so")
	must(f.Tick())
	inForce(open)
	if err := f.Confirm(); err != ErrNoTrial {
		t.Errorf("confirming too late: %v", err)
	}
	must(f.Apply(closed, 60*time.Second))
	passes(false, "on trial again")
	must(f.Confirm())
	at(2000)
	control.AliveUntil = 1 << 62
	passes(false, "confirmed")
	must(f.Rollback())
	passes(true, "rolled back")
	must(f.Apply(closed, 60*time.Second))
	must(f.Rollback())
	passes(true, "a trial rolled back")
	inForce(open)
	must(f.Apply(closed, 0))
	passes(false, "closed")

	// Another daemon takes it up.
	again := newFilter(k, slog.New(slog.DiscardHandler), o)
	again.clock = f.clock
	must(again.adopt())
	if again.running == nil || !same(again.running.policy, closed) || len(again.ids) != len(f.ids) {
		t.Fatalf("adopted %+v", again.running)
	}
	word := control.Lists
	must(again.Ensure(closed))
	if control.Lists != word {
		t.Error("the same lists were put in force anew")
	}

	// Without a daemon.
	ports := ports{control}
	for _, c := range []struct {
		choice ListChoice
		passes bool
	}{{ListChoice{}, false}, {ListChoice{Orphan: FallbackOpen}, true}, {ListChoice{Orphan: FallbackClosed}, false}} {
		must(ports.set(loopback, bpf.PortIngress|bpf.PortListIn|c.choice.flags()))
		must(again.Tick())
		passes(false, "with a daemon")
		at(control.TestClock/second + 6)
		passes(c.passes, fmt.Sprintf("without one, %+v", c.choice))
	}
	must(again.Tick())
	must(again.Ensure(open))
	passes(true, "it is back")
}
