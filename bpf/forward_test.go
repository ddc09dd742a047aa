package bpf_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weir/bpf"
	"weir/flow"
	"weir/test/kernel"
)

// A router in a network namespace of its own, whose frames are made up: they come in
// by i0, and by a VLAN there that u0 stands for, and leave by o0, by o1 as o0's VLAN
// 7, or not at all. The kernel routes; the tests enter what the daemon would.
//
//	10.1.0.0/16, fd01::/16   by o0, next hop 10.9.0.9 or fd09::9
//	10.2.0.0/16, fd02::/16   by o1, next hop 10.8.0.9 or fd08::9
//	10.3.0.0/16, fd03::/16   by x0, which is no output
//	10.4.0.0/16, fd04::/16   by o0, MTU 1400, next hop 10.9.0.8 or fd09::8
type router struct {
	k     *bpf.Kernel
	index map[string]uint32
	run   chan func()
	hops  map[string]wayOut // by the destination's second octet, in text
	seen  bpf.WhyCounts     // by look
	now   uint64
}

// wayOut is what a forwarded frame gets.
type wayOut struct {
	to, from [6]byte
	vlan     uint16 // 0: untagged
	mtu      int
}

var routerMAC = [6]byte{2, 0, 0, 0, 0, 0xa0}

const upperVLAN = 100

func newRouter(t testing.TB) *router {
	t.Helper()
	kernel.Programs(t)
	r := &router{index: map[string]uint32{}, run: make(chan func()), hops: map[string]wayOut{}}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread, and its namespace, end with the goroutine
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range r.run {
			f()
		}
	}()
	if err := <-ready; err != nil {
		close(r.run)
		t.Skipf("not tried: no network namespace: %v", err)
	}
	t.Cleanup(func() { close(r.run) })
	r.within(func() { r.build(t) })
	return r
}

// within runs f in the router's namespace.
func (r *router) within(f func()) {
	done := make(chan struct{})
	r.run <- func() { defer close(done); f() }
	<-done
}

func (r *router) build(t testing.TB) {
	out, err := exec.Command("sh", "-e", "-c", `
for d in i0 u0 o0 o1 x0; do
	ip link add $d type veth peer name p$d
	echo 1 >/proc/sys/net/ipv6/conf/p$d/disable_ipv6 # it would say things
	ip link set p$d up
	ip link set $d up addrgenmode none
done
ip link set i0 address 02:00:00:00:00:a0; ip link set u0 address 02:00:00:00:00:a0
ip link set o0 address 02:00:00:00:00:b0; ip link set o1 address 02:00:00:00:00:b1
ip addr add 10.9.0.1/24 dev o0; ip addr add 10.8.0.1/24 dev o1; ip addr add 10.7.0.1/24 dev x0; ip addr add 10.6.0.1/24 dev i0
for d in o0=09 o1=08 x0=07; do
	ip addr add fd${d#*=}::1/64 dev ${d%=*} nodad
	for n in 8 9; do
		ip neigh add fd${d#*=}::$n lladdr 02:00:00:00:${d#*=}:0$n dev ${d%=*} nud permanent
		ip neigh add 10.${d#*=0}.0.$n lladdr 02:00:00:00:${d#*=}:0$n dev ${d%=*} nud permanent
	done
done
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
ip route add 10.1.0.0/16 via 10.9.0.9; ip -6 route add fd01::/16 via fd09::9 dev o0
ip route add 10.2.0.0/16 via 10.8.0.9; ip -6 route add fd02::/16 via fd08::9 dev o1
ip route add 10.3.0.0/16 via 10.7.0.9; ip -6 route add fd03::/16 via fd07::9 dev x0
ip route add 10.4.0.0/16 via 10.9.0.8; ip -6 route add fd04::/16 via fd09::8 dev o0`).CombinedOutput()
	if err != nil {
		t.Errorf("the network: %v: %s", err, out)
		return
	}
	for _, name := range []string{"i0", "u0", "o0", "o1", "x0"} {
		i, err := net.InterfaceByName(name)
		if err != nil {
			t.Error(err)
			return
		}
		r.index[name] = uint32(i.Index)
	}
	o := bpf.Options{Entries: 1 << 16, Key: flow.KeyCisco, Tick: 4e6, Forward: true, TestClock: true, NoFrags: true, Needs: bpf.Needs{XDP: true}}
	for i := range o.Secret {
		o.Secret[i] = rand.Uint64()
	}
	if r.k, err = bpf.Load(o); err != nil {
		t.Errorf("%+v", err)
		return
	}
	t.Cleanup(func() { r.k.Close() })
	// A device's frames can be tried once it has a program.
	l, err := link.AttachXDP(link.XDPOptions{Program: r.k.Programs.XDP, Interface: int(r.index["i0"])})
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() { l.Close() })
	r.clock(1e12)
	c := r.k.Memory().Control
	for number, name := range []string{1: "i0", 2: "o0"} {
		if name != "" {
			p := &c.Port[r.index[name]%bpf.PortSlots]
			*p = bpf.Port{Ifindex: r.index[name], Number: uint32(number), Flags: bpf.PortIngress | bpf.PortForward, MAC: macWord(routerMAC)}
		}
	}
	check := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	check(r.k.Forward.SetUpper(r.index["i0"], upperVLAN, r.index["u0"]))
	check(r.k.Forward.SetOutput(2, r.index["o0"]))
	row := uint32(bpf.Whys)
	hop := func(octet, gateway, logical string, w wayOut) {
		h := &r.k.Forward.Hops[row]
		h.From = macWord(w.from)
		if w.vlan != 0 {
			h.From |= uint64(flow.KeyTagged|w.vlan) << 48
		}
		h.Device, h.Number, h.MTU, h.Logical, h.Address = r.index["o0"], 2, uint16(w.mtu), r.index[logical], flow.AddrFrom(netip.MustParseAddr(gateway))
		h.To = macWord(w.to) | bpf.HopAlive<<48
		check(r.k.Forward.SetRow(bpf.HopKey{Ifindex: r.index[logical], Address: h.Address}, row))
		r.hops[octet] = w
		row++
	}
	b0, b1 := [6]byte{2, 0, 0, 0, 0, 0xb0}, [6]byte{2, 0, 0, 0, 0, 0xb1}
	plain := wayOut{[6]byte{2, 0, 0, 0, 9, 9}, b0, 0, 1500}
	tagged := wayOut{[6]byte{2, 0, 0, 0, 8, 9}, b1, 7, 1500}
	narrow := wayOut{[6]byte{2, 0, 0, 0, 9, 8}, b0, 0, 1400}
	for _, gateway := range []string{"10.9.0.9", "fd09::9"} {
		hop("1", gateway, "o0", plain)
	}
	for _, gateway := range []string{"10.8.0.9", "fd08::9"} {
		hop("2", gateway, "o1", tagged)
	}
	for _, gateway := range []string{"10.9.0.8", "fd09::8"} {
		hop("4", gateway, "o0", narrow)
	}
	check(r.k.Forward.SetRow(bpf.HopKey{Address: flow.AddrFrom(netip.MustParseAddr("10.6.0.1"))}, 0))
}

func macWord(a [6]byte) uint64 {
	var b [8]byte
	copy(b[:], a[:])
	return binary.NativeEndian.Uint64(b[:])
}

func (r *router) clock(ns uint64) {
	r.now = ns
	atomic.StoreUint64(&r.k.Memory().Control.TestClock, ns)
}

const xdpDrop, xdpPass, xdpRedirect = 1, 2, 4

// frame sends one in by i0 and gives what the program did, and what has become of the
// frame.
func (r *router) frame(t testing.TB, f []byte) (verdict uint32, out []byte) {
	t.Helper()
	var err error
	o := &ebpf.RunOptions{
		Data: f, DataOut: make([]byte, len(f)+64),
		Context: struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }{DataEnd: uint32(len(f)), Ingress: r.index["i0"]},
	}
	r.within(func() { verdict, err = r.k.Programs.XDP.Run(o) })
	if err != nil {
		t.Fatalf("a frame of %d octets: %v", len(f), err)
	}
	return verdict, o.DataOut
}

// whys are what has been counted at i0.
func (r *router) whys(t testing.TB) bpf.WhyCounts {
	t.Helper()
	counts, err := r.k.Forward.Counts(1)
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// made is a frame to the router: with these tags, of this destination.
func made(dst string, size int, tags ...uint16) []byte {
	f := append(routerMAC[:6:6], 2, 0, 0, 0, 0, 1)
	be := binary.BigEndian
	for _, tag := range tags {
		f = be.AppendUint16(be.AppendUint16(f, 0x8100), tag)
	}
	l4 := make([]byte, size)
	copy(l4, []byte{0x12, 0x34, 0, 53, byte(size >> 8), byte(size), 0xab, 0xcd})
	to := netip.MustParseAddr(dst)
	if to.Is6() {
		p := be.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(size))
		p = append(p, 17, 64)
		p = append(p, netip.MustParseAddr("fd06::7").AsSlice()...)
		return append(append(append(be.AppendUint16(f, 0x86dd), p...), to.AsSlice()...), l4...)
	}
	p := be.AppendUint16([]byte{0x45, 0}, uint16(20+size))
	p = append(p, 0, 7, 0, 0, 64, 17, 0, 0, 10, 6, 0, 7)
	p = append(p, to.AsSlice()...)
	be.PutUint16(p[10:], headerSum(p))
	return append(append(be.AppendUint16(f, 0x0800), p...), l4...)
}

// headerSum is the checksum that a header should have whose own is zero.
func headerSum(h []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// forwarded is what a router makes of a frame on its way out, told by the book.
func forwarded(f []byte, w wayOut) []byte {
	p := f[14:]
	if binary.BigEndian.Uint16(f[12:]) == 0x8100 {
		p = f[18:]
	}
	p = bytes.Clone(p)
	kind := uint16(0x86dd)
	if p[0]>>4 == 4 {
		kind = 0x0800
		p[8]--
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], headerSum(p[:20]))
	} else {
		p[7]--
	}
	out := append(append([]byte{}, w.to[:]...), w.from[:]...)
	if w.vlan != 0 {
		out = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(out, 0x8100), w.vlan)
	}
	return append(binary.BigEndian.AppendUint16(out, kind), p...)
}

// Tags are taken off, put on, and changed on the way from interface to interface; of
// IPv4 and IPv6. The first packet of a flow and its next are treated alike.
func TestForwardedTags(t *testing.T) {
	r := newRouter(t)
	if t.Failed() {
		return
	}
	for name, tags := range map[string][]uint16{"untagged": nil, "tagged": {upperVLAN}, "with priority": {5<<13 | upperVLAN}, "with priority alone": {5 << 13}} {
		for octet, way := range map[string]string{"1": "untagged", "2": "tagged", "4": "untagged"} {
			for _, dst := range []string{"10." + octet + ".0.5", "fd0" + octet + "::5"} {
				t.Run(fmt.Sprintf("%s to %s by %s", name, way, dst), func(t *testing.T) {
					f := made(dst, 40, tags...)
					before := r.whys(t)
					for i := range 3 {
						verdict, out := r.frame(t, f)
						if want := forwarded(f, r.hops[octet]); verdict != xdpRedirect || !bytes.Equal(out, want) {
							t.Errorf("packet %d: verdict %d\nin   %x\nout  %x\nwant %x", i, verdict, f, out, want)
						}
					}
					after := r.whys(t)
					before[bpf.Forwarded] += 3
					if after != before {
						t.Errorf("counted %v, want %v", after, before)
					}
				})
			}
		}
	}
	t.Run("left alone", func(t *testing.T) {
		longest := func(dst string, mtu int) []byte {
			if dst[0] == 'f' {
				return made(dst, mtu-40)
			}
			return made(dst, mtu-20)
		}
		changed := func(f []byte, change func([]byte)) []byte { change(f); return f }
		for _, c := range []struct {
			name string
			f    []byte
			why  bpf.Why
		}{
			{"a VLAN without an interface", made("10.1.0.5", 40, 101), bpf.WhyEncapsulation},
			{"two tags", made("10.1.0.5", 40, upperVLAN, 5), bpf.WhyEncapsulation},
			{"no output", made("10.3.0.5", 40), bpf.WhyOutput},
			{"no output, IPv6", made("fd03::5", 40, upperVLAN), bpf.WhyOutput},
			{"as long as may be", longest("10.1.0.5", 1500), bpf.Forwarded},
			{"too long", longest("10.1.0.5", 1501), bpf.WhyMTU},
			{"as long as may be, IPv6", longest("fd02::5", 1500), bpf.Forwarded},
			{"too long, IPv6", longest("fd02::5", 1501), bpf.WhyMTU},
			{"too long for this one", longest("10.4.0.5", 1401), bpf.WhyMTU},
			{"too long with what is behind it", append(longest("10.4.0.5", 1390), make([]byte, 11)...), bpf.WhyMTU},
			{"with something behind it", append(longest("10.4.0.5", 1390), make([]byte, 10)...), bpf.Forwarded},
			{"a wrong checksum", changed(made("10.1.0.5", 40), func(f []byte) { f[14+11]++ }), bpf.WhyChecksum},
			{"from this router", changed(made("10.1.0.5", 40), func(f []byte) {
				copy(f[14+12:], []byte{10, 6, 0, 1, 10, 1, 0, 5})
				f[14+10], f[14+11] = 0, 0
				binary.BigEndian.PutUint16(f[14+10:], headerSum(f[14:34]))
			}), bpf.WhyMartian},
		} {
			before := r.whys(t)
			verdict, out := r.frame(t, c.f)
			after := r.whys(t)
			before[c.why]++
			if after != before {
				t.Errorf("%s: counted %v, want %v", c.name, after, before)
			}
			if c.why != bpf.Forwarded && (verdict != xdpPass || !bytes.Equal(out, c.f)) {
				t.Errorf("%s: verdict %d\nin  %x\nout %x", c.name, verdict, c.f, out)
			}
		}
		// A VLAN's interface that is gone before anybody has said so.
		r.k.Forward.SetUpper(r.index["i0"], 102, 99999)
		if verdict, _ := r.frame(t, made("10.1.0.5", 40, 102)); verdict != xdpPass || r.whys(t)[bpf.WhyError] != 1 {
			t.Errorf("the VLAN of no device: verdict %d, %v", verdict, r.whys(t))
		}
	})
}

// mayForward says whether a router may forward a frame, as far as it tells itself;
// naively.
func mayForward(f []byte) (octet string, may bool) {
	if len(f) < 34 || [6]byte(f) != routerMAC {
		return "", false
	}
	kind, p := binary.BigEndian.Uint16(f[12:]), f[14:]
	if kind == 0x8100 {
		if id := binary.BigEndian.Uint16(f[14:]) & 0xfff; id != 0 && id != upperVLAN || len(f) < 38 {
			return "", false
		}
		kind, p = binary.BigEndian.Uint16(f[16:]), f[18:]
	}
	switch {
	case kind == 0x0800 && len(p) >= 20 && p[0] == 0x45:
		total := int(binary.BigEndian.Uint16(p[2:]))
		if total < 20 || p[6]&0x3f != 0 || p[7] != 0 || p[8] <= 1 || headerSum(p[:20]) != 0 {
			return "", false
		}
		return map[[2]byte]string{{10, 1}: "1", {10, 2}: "2", {10, 4}: "4"}[[2]byte(p[16:])], p[16] == 10
	case kind == 0x86dd && len(p) >= 40 && p[0]>>4 == 6:
		if p[7] <= 1 || p[24] != 0xfd {
			return "", false
		}
		switch p[6] {
		case 0, 43, 44, 60, 135, 139, 140, 253, 254: // extension headers
			return "", false
		}
		return map[byte]string{1: "1", 2: "2", 4: "4"}[p[25]], true
	}
	return "", false
}

// look sends a frame in and holds what becomes of it to the book: it is forwarded
// with just the changes that must be, or not changed at all, and counted once at most.
func (r *router) look(t testing.TB, f []byte) (verdict uint32) {
	t.Helper()
	before := r.seen
	verdict, out := r.frame(t, f)
	after := r.whys(t)
	r.seen = after
	counted, was := uint64(0), bpf.WhyCounts{}
	for i := range after {
		was[i] = after[i] - before[i]
		counted += was[i]
	}
	if counted > 1 {
		t.Fatalf("counted %d times: %x", counted, f)
	}
	octet, may := mayForward(f)
	switch {
	case verdict == xdpRedirect && was[bpf.Forwarded] == 1:
		w, known := r.hops[octet]
		if !may || !known {
			t.Fatalf("forwarded, and must not be: %x", f)
		}
		if want := forwarded(f, w); !bytes.Equal(out, want) {
			t.Fatalf("in   %x\nout  %x\nwant %x", f, out, want)
		}
	case verdict == xdpPass && was[bpf.Forwarded] == 0:
		if !bytes.Equal(out, f) {
			t.Fatalf("left to the kernel, and changed:\nin  %x\nout %x", f, out)
		}
	default:
		t.Fatalf("verdict %d, counted %v: %x", verdict, was, f)
	}
	return verdict
}

// unread is how many frames are counted that make no flow.
func (r *router) unread(t testing.TB) (n uint64) {
	t.Helper()
	all, err := r.k.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for reason, c := range all[2] { // port 1, in
		if reason > 0 && reason < bpf.Filtered {
			n += c.Packets
		}
	}
	return n
}

// chance is a frame that is more or less one to forward.
func chance(r *rand.Rand) []byte {
	octet := string('0' + rune(1+r.IntN(5)))
	dst := "10." + octet + ".0." + fmt.Sprint(r.IntN(200))
	if r.IntN(2) == 0 {
		dst = "fd0" + octet + "::" + fmt.Sprint(r.IntN(200))
	}
	var tags []uint16
	for range []int{0, 0, 0, 1, 1, 2}[r.IntN(6)] {
		tags = append(tags, []uint16{upperVLAN, upperVLAN, 0, 7, 0xf064}[r.IntN(5)])
	}
	f := made(dst, []int{8, 40, 40, 1300, 1380, 1480, 1500}[r.IntN(7)], tags...)
	at := 14 + 4*len(tags)
	for range r.IntN(4) {
		switch r.IntN(5) {
		case 0: // anything
			f[r.IntN(len(f))] = byte(r.Uint32())
		case 1: // in the headers
			f[12+r.IntN(min(len(f)-12, 60))] ^= 1 << r.IntN(8)
		case 2: // TTL
			if f[at]>>4 == 4 {
				f[at+8] = byte(r.IntN(3))
			} else if len(f) > at+7 {
				f[at+7] = byte(r.IntN(3))
			}
		case 3:
			f = f[:max(14, r.IntN(len(f)+1))]
			if len(f) <= at+20 {
				return f
			}
		case 4:
			f = append(f, make([]byte, r.IntN(30))...)
		}
	}
	if r.IntN(2) == 0 && len(f) >= at+20 && f[at]>>4 == 4 { // with a checksum that is right again
		f[at+10], f[at+11] = 0, 0
		binary.BigEndian.PutUint16(f[at+10:], headerSum(f[at:at+20]))
	}
	return f
}

// Whatever comes in leaves as it must or is left alone, and is counted once.
func TestForwardedRandom(t *testing.T) {
	r := newRouter(t)
	if t.Failed() {
		return
	}
	source := rand.New(rand.NewPCG(1, 5))
	seen := map[uint32]int{}
	r.seen = r.whys(t)
	const frames = 10000
	for i := range frames {
		if i%500 == 0 {
			r.clock(r.now + 3e9) // all ask again
		}
		seen[r.look(t, chance(source))]++
	}
	if seen[xdpRedirect] < 1000 || seen[xdpPass] < 1000 {
		t.Errorf("verdicts %v: nothing is shown", seen)
	}
	counted := r.unread(t)
	for _, n := range r.whys(t) {
		counted += n
	}
	if counted != frames {
		t.Errorf("%d frames, counted %d, of them %d unreadable: %v", frames, counted, r.unread(t), r.whys(t))
	}
	t.Logf("%d forwarded, %d left to the kernel: %v", seen[xdpRedirect], seen[xdpPass], r.whys(t))
}

func FuzzForwarded(f *testing.F) {
	source := rand.New(rand.NewPCG(2, 5))
	for range 200 {
		f.Add(chance(source))
	}
	r := newRouter(f)
	if f.Failed() {
		return
	}
	r.seen = r.whys(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 14 || len(b) > 2000 {
			return // the kernel tries no others
		}
		r.look(t, b)
	})
}
