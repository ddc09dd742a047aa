package export

import (
	"math"
	"math/rand/v2"
	"testing"

	"weir/flow"
)

// With default settings the exports of a usual mix of traffic are at most 0.5 %
// of its octets: a fifth IPv6, 70 % TCP, 25 % UDP, 5 % ICMP, 15 % in VLANs, 20
// packets and 6,305 octets to a flow, most flows far smaller.
func TestDefaultVolume(t *testing.T) {
	const (
		flows      = 200_000
		meanOctets = 6305
	)
	rng := rand.New(rand.NewPCG(11, 11))
	e, err := New(Options{Destinations: []Destination{{Host: "127.0.0.1", Port: 1}}, FollowRecords: true})
	if err != nil {
		t.Fatal(err)
	}
	w := tap(t, e.senders[0].dest, true)
	octets := 0
	w.check = nil
	emit := w.emit
	w.emit = func(g *datagram) { octets += len(g.b); emit(g) }
	for i := range flows {
		r := flow.Record{
			IPVersion: 4, Proto: flow.ProtoTCP, SrcPort: uint16(rng.Uint32()), DstPort: 443, TCPFlags: 0x1b,
			Packets: uint64(min(4*math.Pow(rng.Float64(), -1/1.1), 100_000)), Last: day0 + int64(i)*1_500_000,
			Has: flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort | flow.HasProto | flow.HasTOS | flow.HasTCPFlags |
				flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast | flow.HasEndReason | flow.HasFlowID,
		}
		r.Bytes, r.First = r.Packets*meanOctets/20, r.Last-rng.Int64N(30e9)
		r.Src, r.Dst = flow.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), flow.AddrFrom4([4]byte{20, byte(i)})
		if rng.IntN(5) == 0 {
			r.Src, r.Dst, r.IPVersion = flow.Addr{0: 0x20, 14: byte(i >> 8), 15: byte(i)}, flow.Addr{0: 0x2a, 15: byte(i)}, 6
		}
		switch n := rng.IntN(100); {
		case n < 5:
			r.Proto, r.SrcPort, r.DstPort, r.ICMPType, r.TCPFlags, r.Has = flow.ProtoICMP, 0, 0x0800, 8, 0, r.Has|flow.HasICMP
			if r.IPVersion == 6 {
				r.Proto, r.ICMPType, r.DstPort = flow.ProtoICMPv6, 128, 0x8000
			}
		case n < 30:
			r.Proto, r.TCPFlags = flow.ProtoUDP, 0
		}
		if rng.IntN(100) < 15 {
			r.VLAN, r.Has = 100, r.Has|flow.HasVLAN
		}
		w.give(r)
	}
	w.flush()
	share := float64(octets) / (flows * meanOctets)
	t.Logf("%.2f octets a record, %.3f %% of the traffic", float64(octets)/flows, 100*share)
	if share > .005 {
		t.Errorf("exports are %.3f %% of the traffic; want at most 0.5 %%", 100*share)
	}
}
