package system

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/test/kernel"
)

// Lists on both sides of a router, what they say of frames from a to b, and by which
// rule. Ports and addresses are chosen so that each of these decides.
const routerLists = `
ip access-list extended IN
 10 permit udp any any eq 53
 20 deny udp any any range 1000 1999
 30 permit tcp any any established
 40 permit icmp any any echo
 50 deny tcp any any eq 23
 60 permit ip any 10.3.9.0/24
ip access-list extended OUT
 10 deny udp any 10.3.1.0 0.0.0.255
 20 deny tcp any any eq 443
 30 permit ip any any
ipv6 access-list IN6
 10 permit udp any any eq 53
 20 deny udp any any range 1000 1999
 30 permit tcp any any established
 40 permit icmp any any echo-request
ipv6 access-list OUT6
 10 deny udp any fd00:4::/48
 20 permit ipv6 any any
interface ra
 ip access-group IN in
 ipv6 traffic-filter IN6 in
interface rb
 ip access-group OUT out
 ipv6 traffic-filter OUT6 out
`

// ruled is a kind of frame, and the rules that decide of it where it comes in and
// where it leaves; the latter is empty where the former drops it.
type ruled struct {
	name    string
	p       []byte // the IP packet
	in, out string
	passes  bool
	tags    []uint16
}

func (r *ruled) frame(n uint32) []byte {
	kind := uint16(0x0800)
	if r.p[0]>>4 == 6 {
		kind = 0x86dd
	}
	f := ethernet(kind, r.p, r.tags...)
	copy(f, []byte{2, 0, 0, 0, 1, 254, 2, 0, 0, 0, 1, 1})
	return numbered(f, n)
}

func routerFrames() []ruled {
	const a, b, b1, b9 = "10.1.0.7", "10.3.0.7", "10.3.1.7", "10.3.9.7"
	const a6, b6, b61 = "fd00:1::7", "fd00:3::7", "fd00:4::7"
	four := func(dst string, proto uint8, l4 []byte) []byte { return ipv4(a, dst, proto, 0, 0, l4) }
	six := func(dst string, next uint8, l4 []byte) []byte { return ipv6(a6, dst, next, 0, l4) }
	hop := func(next uint8, l4 []byte) []byte { return append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, l4...) }
	return []ruled{
		{"udp", four(b, 17, udp(3000, 53, 40)), "ipv4 IN 10", "ipv4 OUT 30", true, nil},
		{"udp, longer", four(b, 17, udp(3000, 53, 1200)), "ipv4 IN 10", "ipv4 OUT 30", true, nil},
		{"udp, denied as it leaves", four(b1, 17, udp(3001, 53, 40)), "ipv4 IN 10", "ipv4 OUT 10", false, nil},
		{"udp, denied", four(b, 17, udp(3002, 1500, 60)), "ipv4 IN 20", "", false, nil},
		{"udp, denied by nobody's rule", four(b, 17, udp(3002, 2000, 60)), "ipv4 IN implicit", "", false, nil},
		{"tcp, a first packet", four(b, 6, tcp(3003, 80, 2, 30)), "ipv4 IN implicit", "", false, nil},
		{"tcp, established", four(b, 6, tcp(3004, 80, 16, 30)), "ipv4 IN 30", "ipv4 OUT 30", true, nil},
		// Of one flow, two verdicts: what a rule looks at is not in the key.
		{"tcp, SYN of a flow with both", four(b9, 6, tcp(3005, 23, 2, 30)), "ipv4 IN 50", "", false, nil},
		{"tcp, ACK of a flow with both", four(b9, 6, tcp(3005, 23, 16, 500)), "ipv4 IN 30", "ipv4 OUT 30", true, nil},
		{"tcp, denied as it leaves", four(b, 6, tcp(3006, 443, 16, 600)), "ipv4 IN 30", "ipv4 OUT 20", false, nil},
		{"icmp echo", four(b, 1, icmp4(8, 0)), "ipv4 IN 40", "ipv4 OUT 30", true, nil},
		{"icmp, another", four(b, 1, icmp4(13, 0)), "ipv4 IN implicit", "", false, nil},
		{"gre", four(b9, 47, make([]byte, 40)), "ipv4 IN 60", "ipv4 OUT 30", true, nil},
		{"udp, a VLAN's", four(b, 17, udp(3000, 53, 40)), "ipv4 IN 10", "ipv4 OUT 30", true, []uint16{100}},
		{"udp, a VLAN's, denied as it leaves", four(b1, 17, udp(3000, 53, 40)), "ipv4 IN 10", "ipv4 OUT 10", false, []uint16{100}},
		{"udp, a VLAN's, denied", four(b, 17, udp(3000, 1999, 40)), "ipv4 IN 20", "", false, []uint16{100}},
		{"a later fragment", ipv4(a, b9, 6, 0, 100, make([]byte, 60)), "ipv4 IN 30", "ipv4 OUT 30", true, nil},
		// Where no rule sees its flags (RFC 1858): by no rule.
		{"a tiny first fragment", ipv4(a, b9, 6, 0, 0x2000, make([]byte, 8)), "", "", false, nil},

		{"v6 udp", six(b6, 17, udp(3000, 53, 40)), "ipv6 IN6 10", "ipv6 OUT6 20", true, nil},
		{"v6 udp, denied as it leaves", six(b61, 17, udp(3001, 53, 40)), "ipv6 IN6 10", "ipv6 OUT6 10", false, nil},
		{"v6 udp, denied", six(b6, 17, udp(3002, 1000, 50)), "ipv6 IN6 20", "", false, nil},
		{"v6 udp behind an extension header, denied", six(b6, 60, hop(17, udp(3002, 1000, 50))), "ipv6 IN6 20", "", false, nil},
		{"v6 tcp behind an extension header", six(b6, 60, hop(6, tcp(3004, 80, 16, 50))), "ipv6 IN6 30", "ipv6 OUT6 20", true, nil},
		{"v6 tcp, a first packet", six(b6, 6, tcp(3003, 80, 2, 30)), "ipv6 IN6 implicit", "", false, nil},
		{"v6 echo", six(b6, 58, icmp4(128, 0)), "ipv6 IN6 40", "ipv6 OUT6 20", true, nil},
	}
}

// filterRouter is a router for frames of any source and destination.
func filterRouter(t testing.TB) routed {
	t.Helper()
	n := newRouted(t)
	must(t, n.r, "sh", "-e", "-c", `
for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done
ip route add default via 10.2.0.1 dev rb
ip -6 route add default via fd00:2::1 dev rb`)
	return n
}

// hasVLAN gives the router an interface for a VLAN, where the kernel has such.
func (n routed) hasVLAN(t testing.TB) bool {
	t.Helper()
	if r := do(t, n.r, "ip", "link", "add", "link", "ra", "name", "ra.100", "type", "vlan", "id", "100"); r.status != 0 {
		t.Logf("not tried: frames of a VLAN through a router: %s", r.stderr)
		return false
	}
	must(t, n.r, "ip", "link", "set", "ra.100", "up")
	return true
}

// What is denied where it comes in or where it leaves does not arrive, what both
// permit does; each rule has decided of what it must, to the packet and the octet;
// the flows' records say what became of them; and what was sent has arrived or was
// dropped by a rule.
// Then all that again with other lists, while frames are sent: each is judged by the
// old ones or the new ones.
func TestListsRouter(t *testing.T) {
	kernel.Programs(t)
	t.Parallel()
	for _, way := range []string{"xdp", "tc", "forwarding"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			n, mode, forwards := filterRouter(t), way, "off"
			if way == "forwarding" {
				mode, forwards = "xdp", "on"
				takesFrames(t, n.a, "va")
				takesFrames(t, n.b, "vb")
			}
			vlan := n.hasVLAN(t)
			arrived := newArrivals(t, n.b, "vb")
			out := newSender(t, n.a, "va")
			j := startJudged(t, n.r, mode, fmt.Sprintf("interfaces: {ra: {meter: true, mode: MODE, forward: %[1]s}, rb: {meter: true, mode: MODE, forward: %[1]s}}\ncache: {entries: 4Ki, idle: 2s}", forwards), routerLists)
			kinds := routerFrames()
			if !vlan {
				kinds = slices.DeleteFunc(kinds, func(k ruled) bool { return k.tags != nil })
			}
			want, hits := map[uint32]int{}, map[string]count{}
			for k := range j.hits(t) {
				hits[k] = count{}
			}
			byStatus := map[string]uint64{} // flows whose packets have one verdict
			r := rand.New(rand.NewPCG(5, 6))
			var sent, stubs uint64
			for range 40 { // some flows end in between, most do not
				var frames [][]byte
				for range 25 {
					i := r.IntN(len(kinds))
					k := &kinds[i]
					frames = append(frames, k.frame(uint32(i)))
					sent++
					one := count{1, uint64(len(k.p))}
					for _, rule := range []string{k.in, k.out} {
						if rule != "" {
							c := hits[rule]
							c.add(one)
							hits[rule] = c
						}
					}
					if k.in == "" {
						stubs++
					}
					if k.passes {
						want[uint32(i)]++
					}
					if !strings.Contains(k.name, "both") {
						byStatus[map[bool]string{true: "64", false: "129"}[k.passes]]++
					}
				}
				out.send(t, frames...)
			}
			j.sameHits(t, hits)
			same := func() {
				t.Helper()
				for i := range kinds {
					until(t, 5*time.Second, fmt.Sprintf("%q: %d frames arrive", kinds[i].name, want[uint32(i)]), func() bool { return arrived.of(uint32(i)) >= want[uint32(i)] })
					if got := arrived.of(uint32(i)); got != want[uint32(i)] {
						t.Errorf("%q: %d frames arrived, want %d", kinds[i].name, got, want[uint32(i)])
					}
				}
			}
			same()
			if way == "forwarding" {
				forwardedByLists(t, j, kinds, want)
			}
			denied := j.denied(t).Packets
			if got := uint64(arrived.count()) + denied + stubs; got != sent {
				t.Errorf("sent %d; %d arrived and rules dropped %d and %d tiny fragments", sent, arrived.count(), denied, stubs)
			}

			reloadUnderTraffic(t, j, out, arrived, hits)
			if mode == "tc" {
				bulk(t, n, j)
			}
			j.stop(t)
			all := parseCSV(t, must(t, "", weir, "query", "--store", j.store, "-A", "fwdstat", "-n", "0", "-o", "csv", "not port 23 and not port 3100 and not port 5001 and not (proto ipv6-icmp and not dst ip fd00:3::7)").stdout)
			got := map[string]uint64{}
			for _, m := range all {
				got[m["fwdstat"]+m["forwarding_status"]] += number(t, m["packets"])
			}
			if fmt.Sprint(got) != fmt.Sprint(byStatus) {
				t.Errorf("records of packets by forwarding status: %v, want %v\n%v", got, byStatus, all)
			}
			detach(t, n.r)
		})
	}
}

// forwardedByLists says that what lists let pass did not go by the kernel, but for
// what is not plain.
func forwardedByLists(t *testing.T, j *judged, kinds []ruled, arrived map[uint32]int) {
	t.Helper()
	plain, all := 0, 0
	for i, n := range arrived {
		all += n
		if k := kinds[i].name; k != "a later fragment" && !strings.Contains(k, "extension header") && kinds[i].tags == nil {
			plain += n
		}
	}
	got := fatesOf(t, j.ns, j.control, "ra")
	if got["forwarded"] != uint64(plain) || got.all() != uint64(all) {
		t.Errorf("%d of %d packets that lists let pass are plain: %v", plain, all, got.less(nil))
	}
}

// reloadUnderTraffic changes the lists' file while frames are sent, and back: not a
// packet is missing in the sums of what was permitted and denied.
func reloadUnderTraffic(t *testing.T, j *judged, out *sender, arrived *arrivals, hits map[string]count) {
	t.Helper()
	arrived.forget()
	k := ruled{p: ipv4("10.1.0.7", "10.3.0.7", 17, 0, 0, udp(3100, 53, 100))}
	var list []frame
	list = append(list, frame{octets: k.frame(500), key: "one", length: uint64(len(k.p))})
	s := startStream(t, out, list, time.Millisecond)
	some := func() {
		t.Helper()
		before := arrived.count()
		until(t, 5*time.Second, "frames arrive", func() bool { return arrived.count() > before+50 })
	}
	some()
	j.write(t, strings.Replace(routerLists, "10 permit udp any any eq 53", "10 deny udp any any eq 53", 1))
	j.hangUp(t, true)
	until(t, 5*time.Second, "the new rule denies", func() bool { return j.hits(t)["ipv4 IN 10"].Packets > 50 })
	before := arrived.count()
	until(t, 5*time.Second, "frames are denied", func() bool { return s.sent().all.Packets > uint64(before)+200 })

	// Broken ones are refused, with the place, and what is in force stays.
	j.write(t, strings.Replace(routerLists, " 20 deny udp any any range 1000 1999", " 20 deny udp any any ragne 1000 1999", 1))
	j.hangUp(t, false)
	if text := fmt.Sprintf("%s:4:22: found", j.lists); !strings.Contains(j.stderr.String(), text) {
		t.Errorf("a broken file is refused, but not as %q: %s", text, tail(j.stderr.String(), 500))
	}
	if got := arrived.count(); got > before+16 { // 16 may have been on their way
		t.Errorf("%d frames arrived after all were denied", got-before)
	}
	denies := j.hits(t)["ipv4 IN 10"]
	until(t, 5*time.Second, "it goes on denying", func() bool { return j.hits(t)["ipv4 IN 10"].Packets > denies.Packets })

	j.write(t, routerLists)
	j.hangUp(t, true)
	some()
	sent := s.end().all
	old := hits["ipv4 IN 10"].Packets
	var permitted, denied uint64
	until(t, 5*time.Second, "what was permitted arrives", func() bool {
		permitted = j.hits(t)["ipv4 IN 10"].Packets - old
		return uint64(arrived.count()) == permitted
	})
	j.apply(t, strings.Replace(routerLists, "10 permit udp any any eq 53", "10 deny udp any any eq 53", 1), "--now")
	denied = j.hits(t)["ipv4 IN 10"].Packets
	if permitted+denied != sent.Packets || denied < 100 {
		t.Errorf("%d frames were sent: %d permitted, which arrived, %d denied", sent.Packets, permitted, denied)
	}
	t.Logf("%d frames during reloads, %d of them denied", sent.Packets, denied)
	j.apply(t, routerLists, "--now")
}

// bulk transfers in buffers of many segments: a rule has decided of the segments that
// leave, one by one.
func bulk(t *testing.T, n routed, j *judged) {
	t.Helper()
	off := []string{"ethtool", "-K", "rb", "tso", "off", "gso", "off", "gro", "off"}
	if r := do(t, n.r, off...); r.status != 0 {
		t.Logf("not tried: %v: %s", off, r.stderr)
		return
	}
	const open = `
ip access-list extended IN
 5 permit tcp any any eq 5001
 10 permit ip any any
ip access-list extended OUT
 5 permit tcp any any eq 5001
 10 permit ip any any
interface ra
 ip access-group IN in
interface rb
 ip access-group OUT out
`
	j.apply(t, open, "--now")
	buffers, segments := sent(t, n.a, "va"), sent(t, n.r, "rb")
	transfer(t, n.a, n.b, "10.2.0.1:5001", 20_000_000)
	before, hits := segments, j.hits(t)
	for end := time.Now().Add(5 * time.Second * slow); time.Now().Before(end); time.Sleep(50 * time.Millisecond) { // the last ACK
		segments = sent(t, n.r, "rb").less(before)
		if hits = j.hits(t); hits["ipv4 OUT 5"] == segments {
			break
		}
	}
	buffers = sent(t, n.a, "va").less(buffers)
	for _, rule := range []string{"ipv4 IN 5", "ipv4 OUT 5"} {
		if hits[rule] != segments {
			t.Errorf("rule %q decided of %+v, %+v left the router in segments", rule, hits[rule], segments)
		}
	}
	if buffers.Packets*2 > segments.Packets {
		t.Errorf("%d segments in %d buffers: offloads are not on, nothing was shown", segments.Packets, buffers.Packets)
	}
}

// sent is what the kernel counted that left by an interface, as IP packets.
func sent(t testing.TB, ns, name string) count {
	t.Helper()
	dir := "/sys/class/net/" + name + "/statistics/"
	f := strings.Fields(must(t, ns, "cat", dir+"tx_packets", dir+"tx_bytes").stdout)
	if len(f) != 2 {
		t.Fatalf("%s: no counters", name)
	}
	n := number(t, f[0])
	return count{n, number(t, f[1]) - 14*n}
}

func (c count) less(o count) count { return count{c.Packets - o.Packets, c.Bytes - o.Bytes} }
