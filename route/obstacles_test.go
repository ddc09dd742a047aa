package route

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	ebpflink "github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weir/host"
	"weir/test/kernel"
)

// obstacles are those of the namespace but for rp_filter, which the machine's
// distribution chose.
func (s *space) obstacles(t *testing.T) []Obstacle {
	t.Helper()
	var found []Obstacle
	var err error
	s.in(func() { found, err = Obstacles(context.Background(), nil) })
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(found, func(o Obstacle) bool { return o.Kind == RPFilter })
}

func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
}

// say is "Kind Name [Interface] refuses".
func say(list []Obstacle) string {
	var words []string
	for _, o := range list {
		w := string(o.Kind) + ": " + o.Name
		if o.Interface != "" {
			w += " @" + o.Interface
		}
		if o.Refuses {
			w += " refuses"
		}
		words = append(words, w)
	}
	slices.Sort(words)
	return strings.Join(words, "; ")
}

func TestObstaclesOfNftables(t *testing.T) {
	need(t, "nft")
	for _, c := range []struct{ name, rules, want string }{
		{"nothing", "", ""},
		{"an empty chain", "table inet f { chain c { type filter hook forward priority 0; policy accept; }; }", ""},
		{"input and output are not on the way", "table inet f { chain i { type filter hook input priority 0; policy drop; ct state new drop; }; chain o { type filter hook output priority 0; drop; }; }", ""},
		{"a policy", "table ip6 f { chain c { type filter hook forward priority 0; policy drop; }; }", "filter: ip6 f c refuses"},
		{"a plain filter", "table ip f { chain c { type filter hook prerouting priority 0; ip saddr 10.0.0.0/8 drop; }; }", "filter: ip f c refuses"},
		{"one that rejects", "table ip f { chain c { type filter hook forward priority 0; ip saddr 10.0.0.0/8 reject; }; }", "filter: ip f c refuses"},
		{"one that only counts", "table ip f { chain c { type filter hook forward priority 0; ip saddr 10.0.0.0/8 counter accept; }; }", "filter: ip f c"},
		{"a stateful one", "table inet f { chain c { type filter hook forward priority 0; policy drop; ct state established accept; }; }", "stateful filter: inet f c refuses"},
		{"stateful by a jump", "table inet f { chain u { ct state invalid drop; }; chain v { jump u; }; chain c { type filter hook forward priority 0; goto v; }; }", "stateful filter: inet f c refuses"},
		{"stateful by a map", "table inet f { chain u { ct state invalid drop; }; chain c { type filter hook forward priority 0; ip protocol vmap { tcp : jump u }; }; }", "stateful filter: inet f c refuses"},
		{"another chain's state is not this one's", "table inet f { chain i { type filter hook input priority 0; ct state new drop; }; chain c { type filter hook forward priority 0; counter; }; }", "filter: inet f c"},
		{"a circle of jumps cannot be, two ways to a chain can", "table ip f { chain u { counter; }; chain c { type filter hook forward priority 0; tcp dport 1 jump u; udp dport 1 jump u; }; }", "filter: ip f c"},
		{"NAT", "table ip n { chain c { type nat hook postrouting priority 100; oifname a masquerade; }; chain d { type nat hook prerouting priority -100; }; }", "NAT: ip n c refuses"},
		{"NAT forwards", "table ip n { chain d { type nat hook prerouting priority -100; tcp dport 80 dnat to 10.0.0.2; }; }", "NAT: ip n d refuses"},
		{"ingress of a device", "table netdev d { chain c { type filter hook ingress devices = { a, b } priority 0; ip saddr 10.0.0.1 drop; }; }", "filter: netdev d c @a refuses; filter: netdev d c @b refuses"},
		{"egress of a device", "table netdev d { chain c { type filter hook egress device a priority 0; policy drop; }; }", "filter: netdev d c @a refuses"},
		{"inet's ingress", "table inet d { chain c { type filter hook ingress device a priority 0; counter; }; }", "filter: inet d c @a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newSpace(t)
			r.batch("link add name a type veth peer name b\n")
			if _, err := r.try(c.rules, "nft", "-f", "-"); err != nil {
				t.Fatal(err)
			}
			list := r.obstacles(t)
			if got := say(list); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			for _, o := range list {
				if o.Text == "" || strings.Contains(o.Text, "\n") {
					t.Errorf("text %q", o.Text)
				}
			}
		})
	}
}

func TestObstaclesOfIptables(t *testing.T) {
	for _, c := range []struct{ name, tool, rules, want string }{
		{"nothing", "iptables-legacy", "-L", ""},
		{"input is not on the way", "iptables-legacy", "-A INPUT -j DROP", ""},
		{"a policy", "iptables-legacy", "-P FORWARD DROP", "filter: iptables filter refuses"},
		{"a filter", "iptables-legacy", "-A FORWARD -s 10.0.0.0/8 -j DROP", "filter: iptables filter refuses"},
		{"one that only counts", "iptables-legacy", "-A FORWARD -s 10.0.0.0/8 -j ACCEPT", "filter: iptables filter"},
		{"one that rejects", "iptables-legacy", "-A FORWARD -s 10.0.0.0/8 -j REJECT", "filter: iptables filter refuses"},
		{"a stateful one", "iptables-legacy", "-A FORWARD -m conntrack --ctstate NEW -j ACCEPT", "stateful filter: iptables filter refuses"},
		{"NAT", "iptables-legacy", "-t nat -A POSTROUTING -o a -j MASQUERADE", "NAT: iptables nat refuses"},
		{"IPv6", "ip6tables-legacy", "-A FORWARD -s 2001:db8::/32 -m conntrack --ctstate NEW -j DROP", "stateful filter: ip6tables filter refuses"},
		{"IPv6 NAT", "ip6tables-legacy", "-t nat -A POSTROUTING -j MASQUERADE", "NAT: ip6tables nat refuses"},
		{"nft's iptables", "iptables-nft", "-A FORWARD -m conntrack --ctstate NEW -j ACCEPT", "stateful filter: ip filter FORWARD refuses"},
		{"nft's iptables' NAT", "iptables-nft", "-t nat -A POSTROUTING -j MASQUERADE", "NAT: ip nat POSTROUTING refuses"},
	} {
		t.Run(c.name, func(t *testing.T) {
			need(t, c.tool)
			r := newSpace(t)
			if _, err := r.try("", append([]string{c.tool}, strings.Fields(c.rules)...)...); err != nil {
				t.Skip("the kernel does not take it: ", err)
			}
			if got := say(r.obstacles(t)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestOtherObstacles(t *testing.T) {
	need(t, "tc")
	r := newSpace(t)
	r.batch("link add name a type veth peer name b\nlink add name br type bridge\n")
	r.sysctl("net/ipv4/conf/all/rp_filter", "0")
	r.sysctl("net/ipv4/conf/b/rp_filter", "0")
	r.sysctl("net/ipv4/conf/a/rp_filter", "1")
	r.sysctl("net/bridge/bridge-nf-call-iptables", "0")
	r.sysctl("net/bridge/bridge-nf-call-ip6tables", "0")
	if got := say(r.obstacles(t)); got != "" {
		t.Errorf("of nothing there is %s", got)
	}
	var found []Obstacle
	r.in(func() { found, _ = Obstacles(context.Background(), nil) })
	if i := slices.IndexFunc(found, func(o Obstacle) bool { return o.Interface == "a" }); i < 0 || !strings.Contains(found[i].Text, "urpf: strict") {
		t.Errorf("rp_filter of a: %+v", found)
	}

	for _, c := range []struct{ do, want string }{
		{"tc qdisc add dev a root tbf rate 1mbit burst 10k latency 10ms", "queueing discipline: tbf @a"},
		{"tc qdisc replace dev a root pfifo", ""},
		{"tc qdisc add dev a clsact", ""},
		{"ip xfrm policy add dir in src 10.0.0.0/8 dst 10.1.0.0/16", ""},
		{"ip xfrm policy add dir fwd src 10.0.0.0/8 dst 10.1.0.0/16", "IPsec: xfrm refuses"},
		{"ip xfrm policy flush", ""},
	} {
		if out, err := r.try("", strings.Fields(c.do)...); err != nil {
			t.Logf("not tried, the kernel does not take it: %v%s", err, out)
			continue
		}
		if got := say(r.obstacles(t)); got != c.want {
			t.Errorf("after %s: %s, want %s", c.do, got, c.want)
		}
	}
	r.sysctl("net/bridge/bridge-nf-call-iptables", "1")
	if got := say(r.obstacles(t)); got != "bridge filter: br_netfilter @br" {
		t.Error(got)
	}
}

func TestProgramsOfOthers(t *testing.T) {
	need(t, "tc")
	kernel.Programs(t)
	r := newSpace(t)
	r.batch("link add name a type veth peer name b\n")
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "other", Type: ebpf.SchedCLS, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()

	r.run("tc", "qdisc", "add", "dev", "a", "clsact")
	r.run("tc", "filter", "add", "dev", "a", "egress", "bpf", "da", "bytecode", "1,6 0 0 0")
	var filter error
	r.in(func() {
		filter = netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: int(r.index("a")), Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd:          p.FD(), Name: "other", DirectAction: true,
		})
	})
	if filter != nil {
		t.Fatal(filter)
	}
	want := fmt.Sprintf("TC filter: TC filter bpf @a; TC filter: TC program %d @a", id)
	var tcx ebpflink.Link
	r.in(func() {
		tcx, err = ebpflink.AttachTCX(ebpflink.TCXOptions{Interface: int(r.index("b")), Program: p, Attach: ebpf.AttachTCXEgress})
	})
	if err == nil {
		defer tcx.Close()
		want += fmt.Sprintf("; TC filter: TCX program %d @b", id)
	} else {
		t.Log("no TCX here:", err)
	}
	if got := say(r.obstacles(t)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	var found []Obstacle
	r.in(func() { found, err = Obstacles(context.Background(), func(p uint32) bool { return p == uint32(id) }) })
	found = slices.DeleteFunc(found, func(o Obstacle) bool { return o.Kind != Program })
	if got := say(found); err != nil || got != "TC filter: TC filter bpf @a" {
		t.Errorf("but for ours: %s, %v", got, err)
	}
}

// Tables and rules that no kernel sends end in an error or in nothing.
func FuzzRules(f *testing.F) {
	rule := func(expressions ...[]byte) []byte {
		b := append([]byte{unix.NFPROTO_IPV4, 0, 0, 0}, appendAttr(nil, unix.NFTA_RULE_TABLE, []byte("t\x00"))...)
		b = appendAttr(b, unix.NFTA_RULE_CHAIN, []byte("c\x00"))
		var list []byte
		for _, e := range expressions {
			list = appendAttr(list, unix.NFTA_LIST_ELEM, e)
		}
		return appendAttr(b, unix.NFTA_RULE_EXPRESSIONS, list)
	}
	chainOf := append([]byte{unix.NFPROTO_IPV4, 0, 0, 0}, appendAttr(nil, unix.NFTA_CHAIN_TABLE, []byte("t\x00"))...)
	chainOf = appendAttr(chainOf, unix.NFTA_CHAIN_NAME, []byte("c\x00"))
	chainOf = appendAttr(chainOf, unix.NFTA_CHAIN_HOOK, appendAttr(nil, unix.NFTA_HOOK_HOOKNUM, []byte{0, 0, 0, 2}))
	f.Add(chainOf, rule(appendAttr(nil, unix.NFTA_EXPR_NAME, []byte("ct\x00"))))
	f.Add(chainOf, rule(appendAttr(appendAttr(nil, unix.NFTA_EXPR_NAME, []byte("immediate\x00")), unix.NFTA_EXPR_DATA, appendAttr(nil, 2, appendAttr(nil, 2, appendAttr(nil, 2, []byte("c\x00")))))))
	f.Fuzz(func(t *testing.T, c, rule []byte) {
		chains := map[chainKey]*chain{}
		if k, c, ok := parseChain(c); ok {
			chains[k] = c
		}
		parseRule(chains, rule)
		chainObstacles(chains)
	})
}

func FuzzIptables(f *testing.F) {
	for _, x := range xtFamilies {
		entry := make([]byte, x.entry+40)
		order.PutUint16(entry[x.targetOffset:], uint16(x.entry))
		order.PutUint16(entry[x.targetOffset+2:], uint16(len(entry)))
		order.PutUint16(entry[x.entry:], 40)
		order.PutUint32(entry[x.entry+xtHead:], ^uint32(0))
		info := make([]byte, xtInfoSize)
		order.PutUint32(info[xtNameSize:], 1<<unix.NF_INET_FORWARD)
		d, policy, err := x.read(info, entry)
		if err != nil || !policy || !d.drop || d.rules != 0 {
			f.Fatalf("%s: %+v, %v, %v", x.tool, d, policy, err)
		}
		f.Add(info, entry)
	}
	f.Fuzz(func(t *testing.T, info, entries []byte) {
		for _, x := range xtFamilies {
			x.read(info, entries)
		}
	})
}

func TestVirtualServices(t *testing.T) {
	const text = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  C0000201:0050 rr
  -> 0A000002:0050      Masq    1      0          0
UDP  C0000201:0035 rr
FWM  00000001 wlc
`
	if n := virtualServices([]byte(text)); n != 3 {
		t.Errorf("%d services, want 3", n)
	}
}

func TestFindings(t *testing.T) {
	found := []Obstacle{
		{Kind: NAT, Name: "ip nat POSTROUTING", Refuses: true, Text: "no NAT"},
		{Kind: RPFilter, Name: "rp_filter", Interface: "a", Text: "set urpf"},
		{Kind: Filter, Name: "netdev d c", Interface: "other", Refuses: true, Text: "passes"},
	}
	force := func(name string) bool { return name == "b" }
	if list := Findings(found, errors.New("x"), nil, force); list != nil {
		t.Errorf("of no interface: %v", list)
	}
	want := []host.Finding{
		{Check: "forwarding by a, b", State: host.Fail, Found: "NAT: ip nat POSTROUTING", Fix: "no NAT; or forward: force"},
		{Check: "forwarding by a", State: host.Warn, Found: "rp_filter: rp_filter", Fix: "set urpf"},
		{Check: "forwarding", State: host.Warn, Found: "one", Fix: "run as root: what would be passed by is not known"},
		{Check: "forwarding", State: host.Warn, Found: "two", Fix: "run as root: what would be passed by is not known"},
	}
	if list := Findings(found, errors.Join(errors.New("one"), errors.New("two")), []string{"a", "b"}, force); !slices.Equal(list, want) {
		t.Errorf("%+v", list)
	}
	if list := Findings(found, nil, []string{"b"}, force); len(list) != 1 || list[0].State != host.Warn {
		t.Errorf("forced: %+v", list)
	}
	if list := Findings(nil, nil, []string{"b"}, force); len(list) != 1 || list[0].State != host.OK {
		t.Errorf("nothing: %+v", list)
	}
	if err := Refusal(found, "a"); err == nil || !strings.Contains(err.Error(), "no NAT") {
		t.Error(err)
	}
	if err := Refusal(found[1:], "a"); err != nil {
		t.Error(err)
	}
}
