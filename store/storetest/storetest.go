// Package storetest makes flow records for tests and benchmarks of the store
// and the query engine. It uses no clock and no global randomness: the same
// seed gives the same records.
package storetest

import (
	"encoding/binary"
	"math"

	"weir/flow"
)

// Traffic draws records as a busy border router exports them: few hot networks
// and hosts, a heavy tail of packets a flow, answers beside questions.
type Traffic struct {
	state    uint64
	Now      int64     // time of receipt of the next record, Unix ns
	Step     int64     // ns between datagrams of 24 records
	IPv6     int       // percent
	Exporter flow.Addr // of the next record
	n        int
}

// NewTraffic starts at Unix ns now.
func NewTraffic(seed uint64, now int64) *Traffic {
	return &Traffic{state: seed, Now: now, Step: 100_000, IPv6: 20, Exporter: flow.AddrFrom4([4]byte{10, 255, 0, 1})}
}

func (t *Traffic) bits() uint64 { t.state += 0x9e3779b97f4a7c15; return mix(t.state) }

// mix is splitmix64's finisher.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (t *Traffic) below(n int) int { return int(t.bits() >> 11 % uint64(n)) }
func (t *Traffic) unit() float64   { return float64(t.bits()>>11) / (1 << 53) }

// rank picks below n with a density near 1/rank.
func (t *Traffic) rank(n int) int {
	return min(int(math.Exp(t.unit()*math.Log(float64(n)+1)))-1, n-1)
}

func one[T any](t *Traffic, of ...T) T { return of[t.below(len(of))] }

// Known is what every record of Traffic knows.
const Known = flow.HasFirst | flow.HasLast | flow.HasProto | flow.HasSrc | flow.HasSrcPort | flow.HasDst |
	flow.HasDstPort | flow.HasTOS | flow.HasTCPFlags | flow.HasPackets | flow.HasBytes | flow.HasInput |
	flow.HasOutput | flow.HasDirection | flow.HasNextHop | flow.HasSrcAS | flow.HasDstAS | flow.HasSrcMask |
	flow.HasDstMask | flow.HasSampling | flow.HasExporter | flow.HasDomain | flow.HasReceived

// Draw makes the next record.
func (t *Traffic) Draw(r *flow.Record) {
	if t.n++; t.n%24 == 0 {
		t.Now += t.Step
	}
	*r = flow.Record{
		Has: Known, Sampling: 1, Domain: 1, Version: flow.VersionV9, Exporter: t.Exporter,
		Received: t.Now, SrcMask: 24, DstMask: 24, IPVersion: 4,
	}
	network := mix(uint64(t.rank(50000)) + 1<<40)
	if t.below(100) < t.IPv6 {
		r.IPVersion = 6
		binary.BigEndian.PutUint64(r.Src[:], 0x20010db8<<32|uint64(t.rank(4000)))
		binary.BigEndian.PutUint64(r.Src[8:], mix(uint64(t.rank(100000))))
		binary.BigEndian.PutUint64(r.Dst[:], 0x2a00<<48|network>>16)
		binary.BigEndian.PutUint64(r.Dst[8:], uint64(t.rank(256)))
		r.NextHop = flow.Addr{}
	} else {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 10<<24|uint32(t.rank(65536)))
		r.Src = flow.AddrFrom4(a)
		binary.BigEndian.PutUint32(a[:], (16<<24+uint32(network)%(176<<24))&^0xff|uint32(t.rank(256)))
		r.Dst = flow.AddrFrom4(a)
		r.NextHop = flow.AddrFrom4([4]byte{})
	}
	r.SrcPort = uint16(1024 + t.below(64000))
	switch share := t.below(100); {
	case share < 70:
		r.Proto = flow.ProtoTCP
		r.TCPFlags = one[uint16](t, 0x1b, 0x1b, 0x1b, 0x02, 0x14, 0x1a)
		r.DstPort = one[uint16](t, 443, 443, 443, 443, 80, 80, 22, 25, 8080, 993)
	case share < 95:
		r.Proto = flow.ProtoUDP
		r.DstPort = one[uint16](t, 53, 53, 53, 443, 443, 123)
	default:
		r.SrcPort = 0
		r.Has |= flow.HasICMP
		if r.IPVersion == 6 {
			r.Proto, r.ICMPType, r.DstPort = flow.ProtoICMPv6, 128, 128<<8
		} else {
			r.Proto, r.ICMPType, r.DstPort = flow.ProtoICMP, 8, 8<<8
		}
	}
	if r.Has&flow.HasICMP == 0 && t.below(2) == 0 {
		r.Src, r.Dst, r.SrcPort, r.DstPort = r.Dst, r.Src, r.DstPort, r.SrcPort
	}
	r.Packets = uint64(min(math.Pow(1-t.unit(), -1/1.1), 1e6))
	r.Bytes = r.Packets * uint64(40+t.below(1460))
	const ms = 1_000_000
	r.Last = t.Now/ms*ms - int64(t.below(15000))*ms
	r.First = r.Last - int64(min(-5000*math.Log(1-t.unit()), 60000))*ms
	r.SrcAS, r.DstAS = uint32(64512+t.below(100)), uint32(1+t.rank(60000))
	r.Input, r.Output = uint32(1+t.below(16)), uint32(1+t.below(16))
}

// Records draws n.
func (t *Traffic) Records(n int) []flow.Record {
	out := make([]flow.Record, n)
	for i := range out {
		t.Draw(&out[i])
	}
	return out
}

// Any makes n records of which anything may be unknown and anything extreme;
// times are whole µs (which is what a store keeps) near the present.
func (t *Traffic) Any(n int) []flow.Record {
	out := make([]flow.Record, n)
	few := t.below(3) == 0 // columns of few values, as in one exporter's records
	pool := make([]uint64, 5)
	for i := range pool {
		pool[i] = t.bits()
	}
	v := func() uint64 {
		switch {
		case few:
			return pool[t.below(len(pool))]
		case t.below(4) == 0:
			return uint64(t.below(4))
		}
		return t.bits()
	}
	addr := func() (a flow.Addr) {
		if t.below(2) == 0 {
			var four [4]byte
			binary.BigEndian.PutUint32(four[:], uint32(10<<24|v()&0x3ff))
			return flow.AddrFrom4(four)
		}
		binary.BigEndian.PutUint64(a[:8], 0x20010db8<<32|v()&0xff)
		binary.BigEndian.PutUint64(a[8:], v()&0xff)
		return a
	}
	all := t.below(3) == 0
	for i := range out {
		r := &out[i]
		last := t.Now/1000*1000 - int64(t.below(3_600_000_000))*1000
		*r = flow.Record{
			Has: flow.Field(t.bits()) & (1<<29 - 1),
			Src: addr(), Dst: addr(), NextHop: addr(), BGPNextHop: addr(), Exporter: addr(),
			Last: last, First: last - int64(t.below(600_000_000))*1000, Received: last + int64(t.below(60_000_000))*1000,
			Packets: v() >> 24, Bytes: v() >> 20, FlowID: v(),
			Input: uint32(v()), Output: uint32(v()), SrcAS: uint32(v()), DstAS: uint32(v()),
			Sampling: uint32(v()), Domain: uint32(v()),
			SrcPort: uint16(v()), DstPort: uint16(v()), VLAN: uint16(v()) & 0xfff, TCPFlags: uint16(v()) & 0x1ff,
			Proto: one[uint8](t, 1, 6, 6, 17, 58, uint8(v())), TOS: uint8(v()), ICMPType: uint8(v()), ICMPCode: uint8(v()),
			SrcMask: uint8(v()) % 33, DstMask: uint8(v()) % 129, Direction: uint8(v()) & 1,
			EndReason: flow.EndReason(v() % 6), ForwardingStatus: uint8(v()),
			Version: one[uint8](t, 0, 5, 9, 10, 105), Fragment: t.below(20) == 0,
		}
		if all {
			r.Has = 1<<29 - 1
		}
		if t.below(3) == 0 {
			r.Elements = []byte(`{"ingressVRFID":` + string(rune('0'+t.below(10))) + `}`)
		}
	}
	return out
}

// AsStored makes r what a store gives back: unknown fields zero, times in µs,
// the IP version by the addresses, the time of receipt now if there is none.
func AsStored(r *flow.Record, now int64) {
	if r.IPVersion == 0 {
		switch {
		case r.Has&flow.HasSrc != 0 && !r.Src.Is4(), r.Has&flow.HasDst != 0 && !r.Dst.Is4():
			r.IPVersion = 6
		case r.Has&(flow.HasSrc|flow.HasDst) != 0:
			r.IPVersion = 4
		}
	}
	if r.Has&flow.HasReceived == 0 {
		r.Has |= flow.HasReceived
		r.Received = now
	}
	r.Has &^= flow.HasDropped | flow.HasRule
	r.DroppedPackets, r.DroppedBytes, r.Rule = 0, 0, 0
	unless(r, flow.HasFirst, &r.First)
	unless(r, flow.HasLast, &r.Last)
	unless(r, flow.HasProto, &r.Proto)
	unless(r, flow.HasSrc, &r.Src)
	unless(r, flow.HasSrcPort, &r.SrcPort)
	unless(r, flow.HasDst, &r.Dst)
	unless(r, flow.HasDstPort, &r.DstPort)
	unless(r, flow.HasTOS, &r.TOS)
	unless(r, flow.HasTCPFlags, &r.TCPFlags)
	unless(r, flow.HasPackets, &r.Packets)
	unless(r, flow.HasBytes, &r.Bytes)
	unless(r, flow.HasInput, &r.Input)
	unless(r, flow.HasOutput, &r.Output)
	unless(r, flow.HasDirection, &r.Direction)
	unless(r, flow.HasVLAN, &r.VLAN)
	unless(r, flow.HasICMP, &r.ICMPType)
	unless(r, flow.HasICMP, &r.ICMPCode)
	unless(r, flow.HasNextHop, &r.NextHop)
	unless(r, flow.HasBGPNextHop, &r.BGPNextHop)
	unless(r, flow.HasSrcAS, &r.SrcAS)
	unless(r, flow.HasDstAS, &r.DstAS)
	unless(r, flow.HasSrcMask, &r.SrcMask)
	unless(r, flow.HasDstMask, &r.DstMask)
	unless(r, flow.HasSampling, &r.Sampling)
	unless(r, flow.HasEndReason, &r.EndReason)
	unless(r, flow.HasForwardingStatus, &r.ForwardingStatus)
	unless(r, flow.HasExporter, &r.Exporter)
	unless(r, flow.HasDomain, &r.Domain)
	unless(r, flow.HasFlowID, &r.FlowID)
	r.First, r.Last, r.Received = r.First/1000*1000, r.Last/1000*1000, r.Received/1000*1000
}

func unless[T any](r *flow.Record, bit flow.Field, p *T) {
	if r.Has&bit == 0 {
		var zero T
		*p = zero
	}
}
