package acl

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/flow"
	"weir/packet"
)

var nftSpaces atomic.Uint32

// nftSpace makes a network namespace, which goes with the test, for programs to
// load rules in. Without it, or them, the test is skipped.
func nftSpace(t *testing.T, programs ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: network namespaces need root")
	}
	for _, p := range append(programs, "ip") {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("skipped: %s is not installed", p)
		}
	}
	name := fmt.Sprintf("weiracl-%d-%d", os.Getpid(), nftSpaces.Add(1))
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Skipf("skipped: no network namespace: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			t.Errorf("the namespace %s stays: %v: %s", name, err, out)
		}
	})
	return name
}

// inSpace runs a program there.
func inSpace(t rapid.TB, space, input string, args ...string) []byte {
	t.Helper()
	c := exec.Command("ip", append([]string{"netns", "exec", space}, args...)...)
	c.Stdin = strings.NewReader(input)
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v: %.2000s\n%s", strings.Join(args, " "), err, errs.String(), input)
	}
	return out
}

// needNft skips unless nft and the kernel take tables with what AppendNft
// writes: what is missing is named.
func needNft(t *testing.T) string {
	t.Helper()
	space := nftSpace(t, "nft")
	for _, c := range []struct{ feature, rules string }{
		{"tables", "table ip t { chain c { type filter hook prerouting priority -450; policy drop; } }"},
		{"intervals in sets", "table ip t { set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } } }"},
		{"combinations in sets", "table ip t { chain c { icmp type . icmp code { 3 . 4 } accept; } }"},
		{"reject at prerouting", "table ip t { chain c { type filter hook prerouting priority -450; reject with icmp type admin-prohibited; } }"},
		{"IPv6's fragment header", "table ip6 t { chain c { frag frag-off != 0 accept; } }"},
		{"logs", "table ip t { chain c { log prefix \"x \" accept; } }"},
	} {
		cmd := exec.Command("ip", "netns", "exec", space, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(strings.ReplaceAll(c.rules, "}", "\n}"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("skipped: the kernel or nft has no %s: %s", c.feature, out)
		}
	}
	inSpace(t, space, "flush ruleset", "nft", "-f", "-")
	return space
}

// forNft leaves out of a policy what AppendNft cannot say, and applies each list
// somewhere.
func forNft(p *Policy) {
	p.Bindings = nil
	for i, l := range p.Lists {
		for _, r := range l.Rules {
			r.Time = ""
			if l.Family == IPv6 && r.Proto == protoAH {
				r.Proto = AnyProto
			}
		}
		p.Bindings = append(p.Bindings, Binding{Interface: fmt.Sprintf("e%d", i), Direction: Direction(i % 2), Family: l.Family, List: l.Name})
	}
	if len(p.Lists) > 0 { // one of them twice
		l := p.Lists[0]
		p.Bindings = append(p.Bindings, Binding{Interface: "f0", Direction: Out, Family: l.Family, List: l.Name})
	}
	p.Times = nil
}

// bound is the list that is applied at a place, or nil: all is admitted there.
func bound(p *Policy, at Binding) *List {
	for _, b := range p.Bindings {
		if b.Interface == at.Interface && b.Direction == at.Direction && b.Family == at.Family {
			return p.List(b.List, b.Family)
		}
	}
	return nil
}

// TestNftRoundTrip: what is written for nft, loaded by it, listed and read again
// judges like the first.
func TestNftRoundTrip(t *testing.T) {
	space := needNft(t)
	rapid.Check(t, func(t *rapid.T) {
		p := genPolicy(t)
		forNft(p)
		rules, _ := AppendNft([]byte("flush ruleset\n"), p)
		inSpace(t, space, string(rules), "nft", "-f", "-")
		listed := inSpace(t, space, "", "nft", "-j", "list", "ruleset")
		q, reports, err := ImportNft("nft", listed)
		if err != nil {
			t.Fatalf("%v\n%s", err, rules)
		}
		for _, r := range reports {
			if r.Outcome == Refused || r.More || r.Less {
				t.Fatalf("%s\n%s\n%s", r.String(), rules, listed)
			}
		}
		now := time.Now()
		for _, b := range p.Bindings {
			l, m := p.List(b.List, b.Family), bound(q, b)
			for range 200 {
				in := genInfo(t, p, l)
				want, got := p.Evaluate(l, in, now), Verdict{Action: Permit}
				if m != nil {
					got = q.Evaluate(m, in, now)
				}
				if want.Action != got.Action {
					t.Fatalf("%+v: %s, then %s\n%s\n%s\n%s", in, said(want), said(got), AppendCisco(nil, p), rules, AppendCisco(nil, q))
				}
			}
		}
	})
}

// genInfo is a packet that some rule of l may match.
func genInfo(t *rapid.T, p *Policy, l *List) *packet.Info {
	in := &packet.Info{Length: uint32(rapid.IntRange(20, 1500).Draw(t, "length")), TTL: rapid.Uint8().Draw(t, "ttl")}
	k := &in.Key
	if l.Family == IPv6 {
		k.VLAN |= flow.KeyIPv6
	}
	var r *Rule
	if len(l.Rules) > 0 {
		r = l.Rules[rapid.IntRange(0, len(l.Rules)-1).Draw(t, "rule")]
	} else {
		r = &Rule{Proto: AnyProto}
	}
	k.Proto = uint8(choose(t, "protocol", 6, 17, 1, 58, 132, 136, 33, 50, 4))
	if r.Proto != AnyProto && choose(t, "its protocol", true, true, false) {
		k.Proto = uint8(r.Proto)
	}
	// Extension headers are no protocols, and behind some the kernel looks on.
	if l.Family == IPv6 && (k.Proto == 0 || k.Proto == protoAH) {
		k.Proto = flow.ProtoTCP
	}
	addr := func(a *Addrs) flow.Addr {
		nets := p.NetsOf(a, l.Family)
		any := NetFrom(allAddrs[l.Family])
		n := any
		if len(nets) > 0 && choose(t, "in", true, true, true, false) {
			n = nets[rapid.IntRange(0, len(nets)-1).Draw(t, "net")]
		}
		v := n.Addr
		for i := range v {
			v[i] |= rapid.Byte().Draw(t, "octet") &^ n.Care[i]
		}
		return v
	}
	k.Src, k.Dst = addr(&r.Src), addr(&r.Dst)
	if r.TOS.Mask != 0 {
		k.TOS = r.TOS.Value
	}
	if choose(t, "another tos", true, false, false) {
		k.TOS = rapid.Uint8().Draw(t, "tos")
	}
	number := func(ranges []Range) uint16 {
		if len(ranges) == 0 || choose(t, "out", true, false, false, false) {
			return uint16(rapid.IntRange(0, 65535).Draw(t, "number"))
		}
		r := ranges[rapid.IntRange(0, len(ranges)-1).Draw(t, "range")]
		return choose(t, "end", r.From, r.To, uint16(rapid.IntRange(int(r.From), int(r.To)).Draw(t, "number")))
	}
	if len(r.TTL) > 0 {
		in.TTL = uint8(number(r.TTL))
	}
	if len(r.Lengths) > 0 {
		in.Length = uint32(max(20, number(r.Lengths)))
	}
	if choose(t, "fragment", true, false, false, false) {
		k.VLAN |= flow.KeyFragment
		return in
	}
	switch {
	case hasPorts(int16(k.Proto)):
		k.SrcPort, k.DstPort = number(p.RangesOf(&r.SrcPorts)), number(p.RangesOf(&r.DstPorts))
	case int16(k.Proto) == icmpProto[l.Family]:
		k.DstPort = number(icmpRanges(r.ICMP))
	}
	if k.Proto == flow.ProtoTCP {
		in.TCPFlags = choose(t, "flags", r.Flags.Set, rapid.Uint8().Draw(t, "any flags"))
	}
	return in
}
