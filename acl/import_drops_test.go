package acl

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/flow"
	"weir/packet"
)

// Equal drops: frames sent to a namespace where nft's own rules judge them, and
// judged here by the list that those rules were read as.

// nftLink is two namespaces joined by a veth pair. Frames that go in at va come
// out at vb, where rules are loaded.
type nftLink struct {
	from, to string
	fd       int
}

const vbMAC = "02:00:00:00:00:02"

func newNftLink(t *testing.T) *nftLink {
	t.Helper()
	l := &nftLink{from: nftSpace(t), to: needNft(t), fd: -1}
	if out, err := exec.Command("ip", "link", "add", "va", "netns", l.from, "type", "veth", "peer", "name", "vb", "netns", l.to).CombinedOutput(); err != nil {
		t.Skipf("skipped: no veth pair: %v: %s", err, out)
	}
	// The sender has no IPv6, so that nothing is sent but what the test sends.
	inSpace(t, l.from, "", "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv6/conf/va/disable_ipv6; ip link set va up")
	inSpace(t, l.to, "", "sh", "-c", "ip link set vb address "+vbMAC+"; ip addr add 10.9.0.2/24 dev vb; ip link set vb up")
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- func() error {
			ns, err := os.Open("/run/netns/" + l.from)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			va, err := net.InterfaceByName("va")
			if err != nil {
				return err
			}
			if l.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			return unix.Bind(l.fd, &unix.SockaddrLinklayer{Ifindex: va.Index})
		}()
	}()
	if err := <-done; err != nil {
		t.Skipf("skipped: no packet socket: %v", err)
	}
	t.Cleanup(func() { unix.Close(l.fd) })
	return l
}

// counting counts what there is to judge, and what is admitted: before and
// behind the chains between.
const counting = `
table inet before {
	counter seen { }
	chain c {
		type filter hook prerouting priority -500; policy accept;
		iifname "vb" counter name seen
	}
}
table inet behind {
	counter seen { }
	chain c {
		type filter hook prerouting priority -290; policy accept;
		iifname "vb" counter name seen
	}
}
`

// send sends frames, and says how many the kernel had to judge and how many its
// rules admitted.
func (l *nftLink) send(t *testing.T, frames [][]byte) (seen, admitted int) {
	t.Helper()
	inSpace(t, l.to, "reset counters\n", "nft", "-f", "-")
	for _, f := range frames {
		for {
			_, err := unix.Write(l.fd, f)
			if err == unix.ENOBUFS || err == unix.EAGAIN || err == unix.EINTR {
				time.Sleep(time.Millisecond)
				continue
			}
			if err != nil {
				t.Fatalf("send: %v", err)
			}
			break
		}
	}
	for end := time.Now().Add(3 * time.Second); seen < len(frames) && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		seen = l.count(t, "before")
	}
	return seen, l.count(t, "behind")
}

func (l *nftLink) count(t *testing.T, table string) int {
	t.Helper()
	var out struct {
		Nftables []struct {
			Counter *struct{ Packets int }
		}
	}
	if err := json.Unmarshal(inSpace(t, l.to, "", "nft", "-j", "list", "counters", "table", "inet", table), &out); err != nil {
		t.Fatal(err)
	}
	for _, o := range out.Nftables {
		if o.Counter != nil {
			return o.Counter.Packets
		}
	}
	t.Fatalf("no counter in table %s", table)
	return 0
}

// judge loads rules, reads them back as lists, sends random frames, and
// compares.
func (l *nftLink) judge(t *testing.T, rng *rand.Rand, rules string, frames int, fragments bool) {
	t.Helper()
	inSpace(t, l.to, "flush ruleset\n"+rules, "nft", "-f", "-")
	q, reports, err := ImportNft("nft", inSpace(t, l.to, "", "nft", "-j", "list", "ruleset"))
	if err != nil {
		t.Fatal(err)
	}
	l.hold(t, rng, q, reports, rules, frames, fragments)
}

// hold sends frames to the rules that q and the reports were made of.
func (l *nftLink) hold(t *testing.T, rng *rand.Rand, q *Policy, reports []Report, rules string, frames int, fragments bool) {
	t.Helper()
	var named [2]bool // whether rules of the family name vb
	for _, b := range q.Bindings {
		named[b.Family] = true
	}
	for _, r := range reports {
		if r.More || r.Less {
			t.Fatalf("%s\n%s", r.String(), rules)
		}
		for f, name := range familyNames {
			for _, why := range r.Why {
				named[f] = named[f] || strings.HasPrefix(why, "at vb all of") && strings.Contains(why, name)
			}
		}
	}
	inSpace(t, l.to, counting, "nft", "-f", "-")
	var groups [2][][]byte // by what this side says
	for range frames {
		frame := randomFrame(rng, fragments)
		var in packet.Info
		if why := packet.Decode(packet.LinkEthernet, frame, uint32(len(frame)), &in); why != packet.Decoded {
			t.Fatalf("%x: %v", frame, why)
		}
		action, list := Permit, (*List)(nil)
		f := IPv4
		if in.Key.VLAN&flow.KeyIPv6 != 0 {
			f = IPv6
		}
		if list = bound(q, Binding{Interface: "vb", Family: f}); list == nil && !named[f] {
			list = anywhere(q, f)
		}
		if list != nil {
			action = q.Evaluate(list, &in, time.Now()).Action
		}
		groups[action] = append(groups[action], frame)
	}
	for action, all := range groups {
		l.compare(t, q, rules, Action(action), all)
	}
}

// anywhere is the list of a chain that names no interface, bound nowhere.
func anywhere(p *Policy, f Family) *List {
	for _, l := range p.Lists {
		if l.Family == f {
			return l
		}
	}
	return nil
}

// compare sends frames that get one verdict here, and looks for the first that
// gets another there.
func (l *nftLink) compare(t *testing.T, q *Policy, rules string, action Action, frames [][]byte) {
	t.Helper()
	seen, admitted := l.send(t, frames)
	want := 0
	if action == Permit {
		want = len(frames)
	}
	if seen != len(frames) {
		t.Fatalf("of %d frames the kernel judged %d", len(frames), seen)
	}
	if admitted == want {
		return
	}
	for len(frames) > 1 {
		half := frames[:len(frames)/2]
		_, n := l.send(t, half)
		if n == len(half) && action == Permit || n == 0 && action == Deny {
			half = frames[len(frames)/2:]
		}
		frames = half
	}
	var in packet.Info
	packet.Decode(packet.LinkEthernet, frames[0], uint32(len(frames[0])), &in)
	t.Fatalf("of %d frames that get %s here nft admits %d, among the others\n%x\n%+v\n%s\n%s", seen, action, admitted, frames[0], in, rules, AppendCisco(nil, q))
}

// randomFrame is a sound frame, of values that rules of the tests ask for.
func randomFrame(rng *rand.Rand, fragments bool) []byte {
	one := func(v ...int) int { return v[rng.IntN(len(v))] }
	be := binary.BigEndian
	proto := one(6, 6, 6, 17, 17, 1, 58, 132, 136, 33, 50, 47, 253)
	payload := make([]byte, one(0, 4, 30, 100, 900))
	if proto == 6 || proto == 17 {
		payload = append(make([]byte, 20), payload...)
	} else {
		payload = append(make([]byte, 16), payload...)
	}
	port := func() uint16 { return uint16(one(0, 1, 22, 53, 79, 80, 81, 443, 1023, 1024, 5000, 65534, 65535)) }
	be.PutUint16(payload, port())
	be.PutUint16(payload[2:], port())
	switch proto {
	case 6:
		payload[12], payload[13] = 5<<4, uint8(one(2, 0x12, 0x10, 4, 0x14, 1, 0x11, 0, 0xff, rng.IntN(256)))
	case 17:
		be.PutUint16(payload[4:], uint16(len(payload)))
	case 1, 58:
		payload[0], payload[1] = uint8(one(0, 3, 8, 11, 128, 129, 133, 135, 136, 1, 200)), uint8(one(0, 1, 3, 4, 13, 255))
	}
	tos, ttl := uint8(one(0, 0, 0x20, 0xb8, 0x28, rng.IntN(256))), uint8(one(1, 2, 63, 64, 254, 255))
	offset, more := 0, false
	switch n := rng.IntN(8); {
	case n == 0 && fragments: // a later one: what it has is nobody's header
		offset = one(1, 185, 1000)
	case n == 1:
		more = true
		payload = payload[:len(payload)&^7]
	}
	macs := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	if rng.IntN(2) == 0 {
		b := make([]byte, 20)
		b[0] = 0x45
		if rng.IntN(8) == 0 { // options: no operation
			b[0] = 0x46
			b = append(b, 1, 1, 1, 1)
		}
		b[1], b[8], b[9] = tos, ttl, uint8(proto)
		be.PutUint16(b[2:], uint16(len(b)+len(payload)))
		frag := uint16(offset)
		if more {
			frag |= 0x2000
		} else if offset == 0 && rng.IntN(2) == 0 {
			frag |= 0x4000 // do not fragment
		}
		be.PutUint16(b[6:], frag)
		for i, at := range []int{12, 16} {
			a := [][4]byte{{10, 0, 0, 1}, {10, 0, 1, 255}, {10, 1, 1, 7}, {192, 0, 2, 77}, {172, 16, 5, 3}, {198, 51, 100, byte(rng.IntN(256))}, {11, byte(rng.IntN(256)), 3, 1}}
			copy(b[at:], a[(rng.IntN(len(a))+i)%len(a)][:])
		}
		sum := uint32(0)
		for i := 0; i < len(b); i += 2 {
			sum += uint32(be.Uint16(b[i:]))
		}
		for sum>>16 != 0 {
			sum = sum&0xffff + sum>>16
		}
		be.PutUint16(b[10:], ^uint16(sum))
		return append(append(macs, 8, 0), append(b, payload...)...)
	}
	next := uint8(proto)
	var ext []byte
	if offset != 0 || more {
		ext = []byte{next, 0, 0, 0, 0, 0, 0, 1}
		frag := uint16(offset << 3)
		if more {
			frag |= 1
		}
		be.PutUint16(ext[2:], frag)
		next = 44
	} else if rng.IntN(8) == 0 { // destination options, of padding
		ext = []byte{next, 0, 1, 4, 0, 0, 0, 0}
		next = 60
	}
	b := make([]byte, 40)
	b[0], b[1] = 6<<4|tos>>4, tos<<4
	be.PutUint16(b[4:], uint16(len(ext)+len(payload)))
	b[6], b[7] = next, ttl
	for _, at := range []int{8, 24} {
		a := []string{"2001:db8::1", "2001:db8:1::ffff", "fe80::1", "2001:db8:0:5::9", "3fff::" + fmt.Sprintf("%x", rng.IntN(65536)), "2001:db9::3"}
		copy(b[at:], net.ParseIP(a[rng.IntN(len(a))]).To16())
	}
	return append(append(macs, 0x86, 0xdd), append(append(b, ext...), payload...)...)
}

// TestEqualDropsOfOurLists: a list as AppendNft writes it.
func TestEqualDropsOfOurLists(t *testing.T) {
	l := newNftLink(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, p := range dropPolicies(t) {
		for i := range p.Lists {
			p.Bindings = append(p.Bindings, Binding{Interface: "vb", Family: p.Lists[i].Family, List: p.Lists[i].Name})
		}
		rules, _ := AppendNft(nil, p)
		l.judge(t, rng, string(rules), 1500, true)
	}
}

func dropPolicies(t *testing.T) []*Policy {
	var all []*Policy
	for _, text := range []string{
		`object-group network SERVERS
 10.0.0.0 255.255.255.0
 host 192.0.2.77
 2001:db8::/32
object-group service WEB
 eq 80
 eq 443
 range 5000 6000
ip access-list extended IN4
 permit tcp any object-group SERVERS object-group WEB
 permit tcp any any established
 deny tcp any any eq 22
 reject udp any any eq 80
 permit udp any eq 53 any
 permit icmp any any echo
 permit icmp any any packet-too-big
 deny ip any any fragments
 permit ip 10.0.1.0 0.0.254.255 any dscp ef
 permit ip any 11.0.3.1 0.255.0.0
 permit ip any any precedence 1
 permit ip any any ttl lt 3
 permit ip any any length gt 500
 permit sctp any any gt 1023
 permit tcp any any match-any +urg -psh
ipv6 access-list IN6
 permit tcp any object-group SERVERS object-group WEB
 permit tcp any any established
 deny udp any any neq 80
 permit icmp any any echo-request
 permit 50 any any
 deny ipv6 any any fragments
 permit ipv6 2001:db8::/48 any
 permit ipv6 any any dscp ef
 permit ipv6 any any precedence 1
 permit ipv6 any any ttl eq 64
 permit ipv6 any any length lt 100
`,
		`ip access-list extended A
 deny tcp any any eq 80
 permit udp any any range 53 443
 permit ip any any
ipv6 access-list B
 deny icmp any any nd-ns
 deny tcp any any match-all +syn -ack
 permit tcp any any
`,
	} {
		all = append(all, mustRead(t, text))
	}
	return all
}

// TestEqualDropsOfForeignRules: chains of nft as people write them, at random.
func TestEqualDropsOfForeignRules(t *testing.T) {
	l := newNftLink(t)
	seed := rand.Uint64()
	if s := os.Getenv("WEIR_SEED"); s != "" {
		fmt.Sscan(s, &seed)
	}
	t.Logf("WEIR_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	fragments := !l.readsFragments(t)
	if !fragments {
		t.Log("not tried: later fragments; this kernel reads their octets as ports (nft_payload_fast_eval)")
	}
	for range 12 {
		l.judge(t, rng, foreignRules(rng), 700, fragments)
	}
}

// TestEqualDropsOfIptables: rules as iptables-save and ip6tables-save print them.
func TestEqualDropsOfIptables(t *testing.T) {
	l := newNftLink(t)
	nftSpace(t, "iptables-restore", "ip6tables-restore", "iptables-save", "ip6tables-save")
	seed := rand.Uint64()
	if s := os.Getenv("WEIR_SEED"); s != "" {
		fmt.Sscan(s, &seed)
	}
	t.Logf("WEIR_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	fragments := !l.readsFragments(t)
	for range 8 {
		inSpace(t, l.to, "flush ruleset\n", "nft", "-f", "-")
		var saved []byte
		for _, f := range []string{"ip", "ip6"} {
			rules := iptablesRules(rng, f)
			cmd := exec.Command("ip", "netns", "exec", l.to, f+"tables-restore")
			cmd.Stdin = strings.NewReader(rules)
			if out, err := cmd.CombinedOutput(); err != nil {
				if strings.Contains(string(out), "extension") || strings.Contains(string(out), "not supported") {
					t.Skipf("skipped: the kernel has not all of iptables' matches: %s", out)
				}
				t.Fatalf("%v: %s\n%s", err, out, rules)
			}
			saved = append(saved, inSpace(t, l.to, "", f+"tables-save")...)
		}
		q, reports, err := ImportIptables("saved", saved)
		if err != nil {
			t.Fatalf("%v\n%s", err, saved)
		}
		l.hold(t, rng, q, reports, string(saved), 700, fragments)
	}
}

// iptablesRules is a raw table of a family.
func iptablesRules(rng *rand.Rand, family string) string {
	asks := []string{
		"-p tcp", "-p udp", "! -p tcp", "-p 50", "-p tcp -m tcp --dport 80", "-p tcp -m tcp ! --dport 22:443", "-p udp -m udp --sport 53 ! --dport 80", "-p tcp -m tcp --syn",
		"-p tcp -m tcp ! --tcp-flags SYN,ACK SYN", "-p tcp -m tcp --tcp-flags ALL NONE", "-i vb", "! -i vb", "-p tcp -m comment --comment \"a b\"",
	}
	if family == "ip" {
		asks = append(asks, "-s 10.0.0.0/8", "! -s 10.0.0.0/8", "-d 11.0.3.0/255.0.255.0", "! -d 192.0.2.77", "-p icmp -m icmp --icmp-type 8", "-p icmp -m icmp ! --icmp-type 3/4",
			"-p icmp -m icmp --icmp-type any", "-s 10.0.0.1 -d 192.0.2.0/24")
	} else {
		asks = append(asks, "-s 2001:db8::/32", "! -d 2001:db8::/48", "-p ipv6-icmp -m icmp6 --icmpv6-type 128", "-p ipv6-icmp -m icmp6 ! --icmpv6-type 1/3", "-s fe80::1")
	}
	for _, a := range []struct{ module, ask string }{
		{"multiport", "-p tcp -m multiport --dports 22,80:443"},
		{"multiport", "-p udp -m multiport --ports 53,80"},
		{"multiport", "-p tcp -m multiport ! --sports 80,1024:65535"},
		{"dscp", "-m dscp --dscp 0x2e"},
		{"tos", "-m tos --tos 0x20/0xe0"},
		{"length", "-m length --length 0:100"},
		{"iprange", ""},
	} {
		if a.ask != "" {
			asks = append(asks, a.ask)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*raw\n:PREROUTING %s [0:0]\n:sub - [0:0]\n", []string{"ACCEPT", "DROP"}[rng.IntN(2)])
	for _, chain := range []string{"PREROUTING", "sub"} {
		for range 1 + rng.IntN(6) {
			verdicts := []string{"-j ACCEPT", "-j DROP", "-j DROP", "-j RETURN", "-j sub", "-g sub", ""}
			if chain == "sub" {
				verdicts = verdicts[:4]
			}
			ask := asks[rng.IntN(len(asks))]
			if chain == "sub" && strings.Contains(ask, "-i vb") {
				continue
			}
			fmt.Fprintf(&b, "-A %s %s %s\n", chain, ask, verdicts[rng.IntN(len(verdicts))])
		}
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// readsFragments says whether the kernel has the fault of taking the octets of a
// later fragment for ports.
func (l *nftLink) readsFragments(t *testing.T) bool {
	inSpace(t, l.to, "flush ruleset\ntable inet t {\nchain c {\ntype filter hook prerouting priority -450; policy drop;\ntcp dport != 1 accept\n}\n}\n"+counting, "nft", "-f", "-")
	var frames [][]byte
	for rng := rand.New(rand.NewPCG(3, 4)); len(frames) < 10; {
		frame := randomFrame(rng, true)
		var in packet.Info
		packet.Decode(packet.LinkEthernet, frame, uint32(len(frame)), &in)
		if in.Key.VLAN&flow.KeyFragment != 0 && in.Key.Proto == flow.ProtoTCP {
			frames = append(frames, frame)
		}
	}
	_, admitted := l.send(t, frames)
	return admitted > 0
}

// foreignRules is a table with chains that jump to those behind them.
func foreignRules(rng *rand.Rand) string {
	asks := []string{
		"tcp dport 80", "tcp dport { 22, 80-443 }", "tcp dport != 443", "tcp sport >= 1024", "udp dport 53", "udp sport != { 53, 79-81 }",
		"th dport 80", "meta l4proto tcp", "meta l4proto { tcp, udp }", "meta l4proto != { 50, 47 }", "meta l4proto icmp", "meta l4proto ipv6-icmp",
		"ip saddr 10.0.0.0/8", "ip saddr != 10.0.0.0/8", "ip daddr { 10.0.0.1, 192.0.2.0-192.0.2.99 }", "ip daddr != @four", "ip saddr @four",
		"ip saddr & 255.0.255.0 == 11.0.3.0", "ip saddr & 255.0.255.0 != 11.0.3.0", "ip daddr > 172.16.0.0", "ip6 saddr 2001:db8::/32", "ip6 saddr != @six", "ip6 daddr @six",
		"ip6 daddr & ffff:ffff::ffff == 2001:db8::1", "meta nfproto ipv4", "meta nfproto ipv6", "meta protocol ip6",
		"tcp flags syn / fin,syn,rst,ack", "tcp flags & (syn|ack) != syn", "tcp flags syn,rst", "tcp flags ! syn,fin", "tcp flags != syn", "tcp flags { syn, syn|ack, rst }",
		"icmp type echo-request", "icmp type { echo-reply, 3 }", "icmp type != 8", "icmp code 4", "icmp type 3 icmp code 4", "icmp type . icmp code { 3 . 4, 11 . 0 }",
		"icmpv6 type { nd-neighbor-solicit, echo-request }", "icmpv6 type != { 128-129 }", "icmpv6 code 0",
		"ip dscp ef", "ip dscp != { cs1, 10 }", "ip6 dscp ef", "ip ecn ce", "ip6 dscp < 20", "ip ttl < 5", "ip ttl { 1-2, 64 }", "ip6 hoplimit 64", "ip6 hoplimit > 63",
		"ip frag-off & 0x1fff != 0", "ip frag-off & 0x1fff == 0", "frag frag-off != 0", "meta length > 200", "ip length 0-60", "ip6 length < 80",
		"ip saddr . tcp dport { 10.0.0.1 . 80, 10.0.0.1 . 443 }", "ip saddr . udp dport { 10.0.0.0/8 . 53-80 }", "ip saddr . ip daddr @pairs",
		"ip protocol tcp", "iifname \"vb\"", "iifname != \"vb\"", "iif vb", "udplite dport 80", "sctp sport > 1023", "dccp dport { 1-100 }",
		"@nh,8,8 & 0xe0 == 0x20", "@th,16,16 443",
	}
	n := 1 + rng.IntN(4)
	var b strings.Builder
	b.WriteString(`table inet t {
	set four { type ipv4_addr; flags interval; elements = { 10.0.1.0/24, 172.16.0.0-172.16.9.255 }
	}
	set six { type ipv6_addr; flags interval; elements = { 2001:db8::/48, fe80::1 }
	}
	set pairs { type ipv4_addr . ipv4_addr; elements = { 10.0.0.1 . 192.0.2.77, 10.0.1.255 . 10.0.0.1 }
	}
`)
	for c := n - 1; c >= 0; c-- {
		fmt.Fprintf(&b, "\tchain c%d {\n", c)
		if c == 0 {
			fmt.Fprintf(&b, "\t\ttype filter hook prerouting priority -450; policy %s;\n", []string{"accept", "drop"}[rng.IntN(2)])
		}
		verdict := func() string {
			switch v := rng.IntN(10); {
			case v < 3:
				return "accept"
			case v < 6:
				return "drop"
			case v < 7:
				return "return"
			case v < 9 && c+1 < n:
				return fmt.Sprintf("jump c%d", c+1+rng.IntN(n-c-1))
			case c+1 < n:
				return fmt.Sprintf("goto c%d", c+1+rng.IntN(n-c-1))
			}
			return "continue"
		}
		for range 1 + rng.IntN(7) {
			ask := asks[rng.IntN(len(asks))]
			if strings.HasPrefix(ask, "@nh") {
				ask = "meta nfproto ipv4 " + ask
			}
			if strings.HasPrefix(ask, "@th") || strings.HasPrefix(ask, "th ") {
				ask = "meta l4proto { 6, 17 } " + ask
			}
			switch rng.IntN(6) {
			case 0:
				fmt.Fprintf(&b, "\t\ttcp dport vmap { 80 : %s, 22-53 : %s }\n", verdict(), verdict())
			case 1:
				fmt.Fprintf(&b, "\t\tip saddr vmap { 10.0.0.0/24 : %s, 192.0.2.77 : %s }\n", verdict(), verdict())
			case 2:
				fmt.Fprintf(&b, "\t\tmeta length 40-1000 %s counter %s\n", ask, verdict())
			default:
				fmt.Fprintf(&b, "\t\t%s counter %s\n", ask, verdict())
			}
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}
