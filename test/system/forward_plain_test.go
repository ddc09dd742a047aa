package system

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"
)

// plainPackets are of the kinds that a router forwards without ado.
func plainPackets() (list [][]byte) {
	r := rand.New(rand.NewPCG(3, 9))
	const a4, b4, far4, a6, b6, far6 = "10.1.0.7", "10.2.0.1", "10.99.7.7", "fd00:1::7", "fd00:2::1", "fd00:99:1::7"
	transport := func() (uint8, []byte) {
		n, port := 12+r.IntN(1290), uint16(1000+r.IntN(40))
		switch r.IntN(5) {
		case 0:
			return 6, tcp(port, 80, []uint8{2, 16, 24, 17}[r.IntN(4)], n)
		case 1:
			return 47, make([]byte, n)
		case 2:
			return 132, udp(port, 7, n)
		}
		return 17, udp(port, 53, n)
	}
	for range 300 {
		proto, l4 := transport()
		tos, ttl := uint8(r.IntN(256)), uint8(2+r.IntN(254))
		for _, dst := range []string{b4, far4} {
			p := ipv4(a4, dst, proto, tos, uint16(r.IntN(2))<<14, l4) // with and without DF
			be.PutUint16(p[4:], uint16(r.Uint32()))                   // each checksum there is
			p[8] = ttl
			be.PutUint16(p[10:], 0)
			be.PutUint16(p[10:], checksum(p[:20]))
			list = append(list, p)
		}
		for _, dst := range []string{b6, far6} {
			p := ipv6(a6, dst, proto, tos, l4)
			p[7] = ttl
			be.PutUint32(p, be.Uint32(p)|r.Uint32()&0xfffff) // the flow label
			list = append(list, p)
		}
	}
	return append(list, ipv4(a4, b4, 1, 0, 0, icmp4(8, 0)), ipv6(a6, b6, 58, 0, icmp4(128, 0)))
}

// Frames leave a router that weir forwards for as they leave it without, to the
// octet; records say by which interface and next hop.
func TestForwardPlain(t *testing.T) {
	t.Parallel()
	n := newCrossed(t)
	packets := plainPackets()
	var frames [][]byte
	for i, p := range packets {
		frames = append(frames, routerFrame(p, uint32(i)))
	}
	in, out := newTap(t, n.b, "vb"), newSender(t, n.a, "va")
	through := func() map[uint32][]byte {
		t.Helper()
		in.take(nil)
		out.send(t, frames...)
		until(t, 10*time.Second, "all arrive", func() bool { return in.count(isNumbered) >= len(frames) })
		got := map[uint32][]byte{}
		for _, f := range in.take(isNumbered) {
			i, _ := numberOf(f)
			if got[i] != nil {
				t.Errorf("frame %d arrives twice", i)
			}
			got[i] = f
		}
		if lost := in.lost(t); lost > 0 {
			t.Fatalf("the tap lost %d frames", lost)
		}
		return got
	}
	want := through()
	f := startForwarding(t, n.r, forwardAll)
	for round := range 3 { // a flow's first packets, its later ones, those of one that has begun anew
		before := f.fates(t, "ra")
		got := through()
		for i := range frames {
			if !bytes.Equal(got[uint32(i)], want[uint32(i)]) {
				t.Fatalf("round %d, frame %d:\nsent %s\ngot  %s\nwant %s", round, i, describe(frames[i]), describe(got[uint32(i)]), describe(want[uint32(i)]))
			}
		}
		if d := f.fates(t, "ra").less(before); d["forwarded"] != uint64(len(frames)) || d.all() != uint64(len(frames)) {
			t.Errorf("round %d: %d frames: %v", round, len(frames), d)
		}
		if round == 1 {
			time.Sleep(2200 * time.Millisecond)
		}
	}
	f.stop(t)
	rb := indexOf(t, n.r, "rb")
	var sum count
	for _, m := range parseCSV(t, must(t, "", weir, "query", "--store", f.store, "-n", "0", "-o", "csv", "src ip 10.1.0.7 or src ip fd00:1::7").stdout) {
		sum.add(count{number(t, m["packets"]), number(t, m["bytes"])})
		hop := map[string]string{"10.2.0.1": "", "fd00:2::1": "", "10.99.7.7": "10.2.0.1", "fd00:99:1::7": "fd00:2::1"}
		if m["output"] != rb || m["next_hop"] != hop[m["dst"]] || m["forwarding_status"] != "64" {
			t.Errorf("a record: %v", m)
			break
		}
	}
	if sum.Packets != uint64(3*len(frames)) {
		t.Errorf("records of %d packets, %d were sent", sum.Packets, 3*len(frames))
	}
	detach(t, n.r)
}
