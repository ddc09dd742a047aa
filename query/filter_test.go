package query

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/flow"
	"weir/store/storetest"
)

var epoch = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func addr(s string) flow.Addr { return flow.AddrFrom(netip.MustParseAddr(s)) }

// web is a flow to look at from all sides.
func web() flow.Record {
	return flow.Record{
		Has: (1<<29 - 1) &^ flow.HasICMP, Src: addr("10.1.2.3"), Dst: addr("192.0.2.80"), NextHop: addr("10.0.0.1"),
		BGPNextHop: addr("10.0.0.2"), Exporter: addr("172.16.0.9"), First: epoch.UnixNano(),
		Last: epoch.Add(2500 * time.Millisecond).UnixNano(), Received: epoch.Add(4 * time.Second).UnixNano(),
		Packets: 10, Bytes: 5000, SrcPort: 51000, DstPort: 443, Proto: 6, TCPFlags: flow.SYN | flow.ACK | flow.PSH,
		TOS: 0x20, Input: 3, Output: 7, SrcAS: 64500, DstAS: 15169, Sampling: 1, Domain: 5, VLAN: 100,
		SrcMask: 24, DstMask: 20, Direction: 1, EndReason: flow.EndDetected, ForwardingStatus: 64, Version: 9, IPVersion: 4,
	}
}

// Each filter against that flow.
func TestMatch(t *testing.T) {
	r := web()
	six := flow.Record{Has: flow.HasSrc | flow.HasDst | flow.HasProto, Src: addr("2001:db8::1"), Dst: addr("fe80::2"), Proto: 58}
	for _, tc := range []struct {
		filter       string
		want, wantV6 bool
	}{
		{"", true, true},
		{"any", true, true},
		{"ipv4", true, false},
		{"ipv6", false, true},
		{"inet6", false, true},
		{"not any", false, false},
		{"! ipv4", false, true},
		{"ip 10.1.2.3", true, false},
		{"host 192.0.2.80", true, false},
		{"src ip 192.0.2.80", false, false},
		{"dst host 192.0.2.80", true, false},
		{"ip 2001:DB8::1", false, true},
		{"ip ::ffff:10.1.2.3", true, false},
		{"net 10.0.0.0/8", true, false},
		{"net 10/8", true, false},
		{"net 192.0/16", true, false},
		{"src net 10.1.0.0 255.255.0.0", true, false},
		{"dst net 10.0.0.0/8", false, false},
		{"net 2001:db8::/32", false, true},
		{"net ::/0", false, true},
		{"net 0.0.0.0/0", true, false},
		{"ip in [1.2.3.4 10.1.2.0/24]", true, false},
		{"ip in [1.2.3.4, 5.6.7.8]", false, false},
		{"src ip in [10.1.2.3,2001:db8::/64]", true, true},
		{"port 443", true, false},
		{"port = 443", true, false},
		{"port == 443", true, false},
		{"src port 443", false, false},
		{"dst port eq 443", true, false},
		{"port > 50000", true, false},
		{"dst port > 443", false, false},
		{"dst port >= 443", true, false},
		{"dst port ge 443 and dst port le 443", true, false},
		{"port lt 444", true, false},
		{"port gt 51000", false, false},
		{"port != 443", false, true},
		{"port in [80 443]", true, false},
		{"src port in [80,443]", false, false},
		{"port 0x1bb", true, false},
		{"proto tcp", true, false},
		{"proto TCP", true, false},
		{"proto 6", true, false},
		{"proto icmp6", false, true},
		{"proto in [udp 58]", false, true},
		{"as 15169", true, false},
		{"src as 15169", false, false},
		{"src as in [1 64500]", true, false},
		{"dst as > 15k", true, false},
		{"if 7", true, false},
		{"in if 7", false, false},
		{"out if 7", true, false},
		{"in if 3", true, false},
		{"vlan 100", true, false},
		{"mask 20", true, false},
		{"src mask 24", true, false},
		{"dst mask 24", false, false},
		{"tos 32", true, false},
		{"tos > 31", true, false},
		{"src tos 0x20", true, false},
		{"flags S", true, false},
		{"flags SA", true, false},
		{"flags SF", false, false},
		{"flags = SAP", true, false},
		{"flags =S", false, false},
		{"flags 26", true, false},
		{"flags > 20", true, false},
		{"flags X", false, false},
		{"not flags F", true, true},
		{"flags s and not flags AFRU", true, false},
		{"packets 10", true, false},
		{"packets > 9", true, false},
		{"in packets < 10", false, false},
		{"bytes > 4k", true, false},
		{"bytes > 5K", false, false},
		{"bytes < 1m", true, false},
		{"flows 1", true, true},
		{"flows > 1", false, false},
		{"duration 2500", true, false},
		{"duration > 2500", false, false},
		{"pps 4", true, false},
		{"bps 16k", true, false},
		{"bpp 500", true, false},
		{"first seen = 2026-11-22T10:00:00", true, false},
		{"first seen > 2026-11-22T09:59:59.999", true, false},
		{"last seen <= 2026-11-22T10:00:02.5", true, false},
		{"last seen > 2026-11-22 10:00:02", true, false},
		{"first seen < 2026-11-22", false, false},
		{"first seen > 2026-11", true, false},
		{"first seen >= 2026-11-22T12:00+02:00", true, false},
		{"received > '2026-11-22 10:00:03'", true, false},
		{"router ip 172.16.0.9", true, false},
		{"exporter ip 172.16.0.8", false, false},
		{"next ip 10.0.0.1", true, false},
		{"bgp next ip 10.0.0.2", true, false},
		{"observation domain id 5", true, false},
		{"domain = 5", true, false},
		{"fwdstat 64", true, false},
		{"fwdstat forwarded", true, false},
		{"fwdstat dropped", false, false},
		{"not fwdstat != forwarded", true, false},
		{"flowdir egress", true, false},
		{"flowdir 0", false, false},
		{"src_as = 64500", true, false},
		{"dport in [80 443]", true, false},
		{"exporter = 172.16.0.9", true, false},
		{"sampling > 1", false, false},
		{"end_reason = 3", true, false},
		{"end_reason = end", true, false},
		{"tcp_flags = 26", true, false},
		{"direction = 1", true, false},
		{"src = 10.0.0.0/8", true, false},
		{"dst in [192.0.2.0/24]", true, false},
		{"version = 9", true, false},
		{"version = sflow", false, false},
		{"ip_version = 6", false, true},
		{"first < 2026-11-23", true, false},
		{"input = 3", true, false},
		{"output = unknown", false, true},
		{"src_as != unknown", true, false},
		{"icmp_type = unknown", true, true},
		{"fragment = 0", true, true},
		{"port 80 or port 443 and proto udp", false, false},
		{"(port 80 or port 443) and proto tcp", true, false},
		{"not port 80 and proto tcp", true, false},
		{"not (port 80 or proto tcp)", false, true},
		{"proto tcp # and port 80\n and port 443", true, false},
		{"PROTO tcp AND PORT 443", true, false},
		{"sport gt 1024 and dport lt 1024", true, false},
	} {
		f, err := Parse(tc.filter)
		if err != nil {
			t.Errorf("%s: %v", tc.filter, err)
			continue
		}
		if got := f.Match(&r); got != tc.want {
			t.Errorf("%s: %v for the web flow, want %v", tc.filter, got, tc.want)
		}
		if got := f.Match(&six); got != tc.wantV6 {
			t.Errorf("%s: %v for the IPv6 flow, want %v", tc.filter, got, tc.wantV6)
		}
		again, err := Parse(f.String())
		if err != nil || again.String() != f.String() {
			t.Errorf("%s prints as %s, which parses to %v, %v", tc.filter, f, again, err)
		}
	}
}

func TestSyntaxErrors(t *testing.T) {
	for _, tc := range []struct{ filter, want string }{
		{"proto tcp and dst prot 443", `filter:1:19: expected as, host, ip, mask, net or port after "dst", found "prot" (did you mean "port"?)`},
		{"prto tcp", `filter:1:1: unknown word "prto"; `},
		{"proto tcp and", `filter:1:14: expected a term`},
		{"proto tcpp", `filter:1:7: expected a number or a name of proto, found "tcpp" (did you mean "tcp"?)`},
		{"port 70000", `filter:1:6: port is at most 65535, found 70000`},
		{"(port 80", `filter:1:9: expected and, or or ), found the end`},
		{"port 80)", `filter:1:8: expected and, or or the end after a term, found ")"`},
		{"port 80 port 443", `filter:1:9: expected and, or or the end after a term, found "port"`},
		{"ip 10.0.0.300", `filter:1:4: expected an address, found "10.0.0.300"`},
		{"host www.example.org", `filter:1:6: expected an address, found "www.example.org": names are not looked up`},
		{"net 10.0.0.0/33", `filter:1:5: expected a prefix length of 0 to 32 after the /, found "33"`},
		{"net 10.0.0.0 255.0.255.0", `filter:1:14: 255.0.255.0 is not a netmask`},
		{"port in 80", `filter:1:9: expected [ … ] after "in", found "80"`},
		{"port in [80", `filter:1:12: expected a value or ] in a list, found the end`},
		{"port in []", `filter:1:10: an empty list`},
		{"ip > 10.0.0.1", `filter:1:4: expected =, in or nothing after "ip", found ">"`},
		{"flags Q", `filter:1:7: expected letters of FSRPAUEC`},
		{"first seen 2026", `filter:1:12: expected =, <, >, <= or >= after "first seen"`},
		{"first seen > yesterday", `filter:1:14: expected a time as 2026-11-22T10:00:00, found "yesterday"`},
		{"bytes > 99999999999999999999", `filter:1:9: expected a number after "bytes"`},
		{"in mac 00:11:22:33:44:55", `filter:1:1: weir does not store MAC addresses`},
		{"min ttl 5", `filter:1:1: weir does not store the TTL`},
		{"src geo CH", `filter:1:1: weir does not store countries`},
		{"proto tcp\n and\n prot 3", `filter:3:2: unknown word "prot"`},
		{"port 'x", `filter:1:6: expected a number after "port", found an open quote`},
		{"port $", `filter:1:6: expected a number after "port", found "$"`},
		{"version = unknown", `filter:1:11: version is always known`},
		{"src", `filter:1:4: expected `},
		{"dst_as 5", `filter:1:8: expected =, <, >, <=, >= or in [ … ] after "dst_as", found "5"`},
		{"dst_as", `filter:1:7: expected =, <, >, <=, >= or in [ … ] after "dst_as", found the end`},
		{strings.Repeat("(", 300) + "any", `filter:1:201: more than 200 parentheses`},
	} {
		_, err := Parse(tc.filter)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%.40s: %v, want a SyntaxError", tc.filter, err)
			continue
		}
		if !strings.HasPrefix(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.40s:\n got %s\nwant %s", tc.filter, err, tc.want)
		}
	}
	_, err := Parse("proto tcp and dst prot 443")
	const want = `filter:1:19: expected as, host, ip, mask, net or port after "dst", found "prot" (did you mean "port"?)
  proto tcp and dst prot 443
                    ^^^^`
	if got := err.(*SyntaxError).Pretty(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// randomFilter makes a tree of any shape.
func randomFilter(t *rapid.T, depth int) node {
	switch k := rapid.IntRange(0, 9).Draw(t, "node"); {
	case depth > 0 && k < 2:
		return &andNode{randomFilter(t, depth-1), randomFilter(t, depth-1)}
	case depth > 0 && k < 4:
		return &orNode{randomFilter(t, depth-1), randomFilter(t, depth-1)}
	case depth > 0 && k < 6:
		return &notNode{randomFilter(t, depth-1)}
	case k == 9 && rapid.Bool().Draw(t, "any"):
		return anyNode{}
	}
	out := &term{subject: phrases[rapid.IntRange(0, len(phrases)-1).Draw(t, "subject")].subject}
	s := out.subject
	number := func() uint64 {
		n := rapid.OneOf(rapid.Uint64Range(0, 3), rapid.Uint64Range(0, 300), rapid.Uint64(), rapid.SampledFrom([]uint64{6, 17, 58, 443, 1 << 20, 1 << 32})).Draw(t, "number")
		if s.max > 0 {
			n %= s.max + 1
		}
		return n
	}
	op := func(from ...operator) operator { return rapid.SampledFrom(from).Draw(t, "op") }
	if canBeUnknown(s) && rapid.IntRange(0, 9).Draw(t, "unknown") == 0 {
		out.op = opUnknown
		return out
	}
	switch s.kind {
	case kindAddr:
		out.op = op(opEq, opIn)
		for range rapid.IntRange(1, 3).Draw(t, "n") * int(out.op) / int(opIn) {
			out.prefixes = append(out.prefixes, randomPrefix(t))
		}
		if out.op == opEq {
			out.prefixes = []netip.Prefix{randomPrefix(t)}
		}
	case kindTime:
		out.op = op(opEq, opLt, opGt, opLe, opGe)
		out.micros = epoch.UnixMicro() - rapid.Int64Range(0, 3_600_000_000).Draw(t, "back")
	case kindFlags:
		if out.op = op(opEq, opLt, opGt, opAll); out.op == opAll {
			out.numbers = []uint64{rapid.Uint64Range(1, 255).Draw(t, "flags")}
			break
		}
		out.numbers = []uint64{number()}
	case kindFamily:
		out.numbers = []uint64{rapid.SampledFrom([]uint64{4, 6}).Draw(t, "family")}
	case kindSide:
		out.numbers = []uint64{number()}
	default:
		out.op = op(opEq, opLt, opGt, opLe, opGe, opIn)
		for range 3 {
			out.numbers = append(out.numbers, number())
		}
		if out.op != opIn {
			out.numbers = out.numbers[:1]
		}
	}
	return out
}

func randomPrefix(t *rapid.T) netip.Prefix {
	var a flow.Addr
	bits := rapid.IntRange(0, 128).Draw(t, "bits")
	if rapid.Bool().Draw(t, "ipv4") {
		a = flow.AddrFrom4([4]byte{10, 0, rapid.Byte().Draw(t, "c") & 3, rapid.Byte().Draw(t, "d")})
		bits = rapid.SampledFrom([]int{0, 8, 22, 23, 24, 27, 30, 31, 32, 32}).Draw(t, "bits4")
	} else {
		a = addr("2001:db8::")
		a[7], a[15] = rapid.Byte().Draw(t, "7"), rapid.Byte().Draw(t, "15")
	}
	p, err := a.Netip().Prefix(bits)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What is printed parses to what was printed.
func TestPrintParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := &Filter{randomFilter(t, 4)}
		again, err := Parse(f.String())
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if again.String() != f.String() {
			t.Fatalf("printed %s, parsed and printed %s", f, again)
		}
		records := storetest.NewTraffic(rapid.Uint64().Draw(t, "seed"), epoch.UnixNano()).Any(20)
		for i := range records {
			if f.Match(&records[i]) != again.Match(&records[i]) {
				t.Fatalf("%s: the printed filter differs on %+v", f, records[i])
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "any", "src net 10.0.0.0/8 and proto tcp and dst port in [80 443] and bytes > 1M and flags S and not flags AFRPU",
		"first seen >= 2024-07-11T09:15:00 or last seen < '2024-07-11 10:00'", "not (host ::1 or net 172.16/12) # x",
		"src_as = unknown and fwdstat forwarded", "ip in [1.2.3.4,::/0 10/8]", "((((", "port 0x", "flags =S", "é",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := Parse(text)
		if err != nil {
			var e *SyntaxError
			if !errors.As(err, &e) || e.Line < 1 || e.Col < 1 || e.Error() == "" || e.Pretty() == "" {
				t.Fatalf("%q: %#v", text, err)
			}
			return
		}
		printed := filter.String()
		again, err := Parse(printed)
		if err != nil || again.String() != printed {
			t.Fatalf("%q prints as %q, which parses to %v, %v", text, printed, again, err)
		}
		r := web()
		if filter.Match(&r) != again.Match(&r) {
			t.Fatalf("%q and %q differ", text, printed)
		}
		filterSQL(duckDB{}, filter.root)
	})
}

// Long lists are indexed, and mean the same as many terms.
func TestLongLists(t *testing.T) {
	records := storetest.NewTraffic(4, epoch.UnixNano()).Any(500)
	var ports, addrs []string
	for i := range 300 {
		ports = append(ports, fmt.Sprint(records[i].SrcPort))
		a := records[i].Dst.Netip()
		p, err := a.Prefix(a.BitLen() - i%20)
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, p.String())
	}
	for head, list := range map[string][]string{"port": ports, "ip": addrs} {
		long, err := Parse(head + " in [" + strings.Join(list, " ") + "]")
		if err != nil {
			t.Fatal(err)
		}
		if l := long.root.(*term); l.sorted == nil && l.table == nil {
			t.Fatalf("%s: no index", head)
		}
		var many []*Filter
		for _, v := range list {
			f, err := Parse(head + " " + v)
			if err != nil {
				t.Fatal(err)
			}
			many = append(many, f)
		}
		for i := range records {
			want := slices.ContainsFunc(many, func(f *Filter) bool { return f.Match(&records[i]) })
			if long.Match(&records[i]) != want {
				t.Fatalf("%s: %v for %+v, want %v", head, !want, records[i], want)
			}
		}
	}
}

// A filter is for every record of a live stream: it allocates nothing.
func TestMatchAllocations(t *testing.T) {
	f, err := Parse("src net 10.0.0.0/8 and (port in [80 443] or bps > 1m) and not flags F and first seen > 2020")
	if err != nil {
		t.Fatal(err)
	}
	r := web()
	if n := testing.AllocsPerRun(100, func() { f.Match(&r) }); n > 0 {
		t.Errorf("%v allocations a record, want 0", n)
	}
}
