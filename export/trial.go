package export

import (
	"fmt"
	"net/netip"
	"time"

	"weir/flow"
	"weir/wire"
)

// Trial is a datagram for trying a collector, with flows that are known again.
type Trial struct {
	Format string // v5, v8-prefix, ipfix, sflow, …
	Octets []byte
	Flows  []flow.Record // what it says
}

// trialDomain and a version's number are the observation domain, source ID or
// engine of its trials, so that they are in nobody's way, nor in each other's for
// collectors (tshark is one) that follow sequences by that number alone.
const trialDomain = 70

// trialFlow is a flow that says which format it came in: packets and octets are
// n and 1,000 n, the source is 192.0.2.n or 2001:db8::n, the source port 40000+n.
func trialFlow(n uint8, six bool, now time.Time) flow.Record {
	last := now.Truncate(time.Second).Add(-time.Second)
	r := flow.Record{
		Src: flow.AddrFrom4([4]byte{192, 0, 2, n}), Dst: flow.AddrFrom4([4]byte{198, 51, 100, 1}), IPVersion: 4,
		SrcPort: 40000 + uint16(n), DstPort: 443, Proto: flow.ProtoTCP, TCPFlags: flow.SYN | flow.ACK | flow.FIN, TOS: 8,
		Packets: uint64(n), Bytes: 1000 * uint64(n), First: last.Add(-time.Second).UnixNano(), Last: last.UnixNano(),
		Input: 1, Output: 2, SrcAS: 64496, DstAS: 64497, SrcMask: 24, DstMask: 24, NextHop: flow.AddrFrom4([4]byte{203, 0, 113, 1}),
		Has: flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort | flow.HasProto | flow.HasTCPFlags | flow.HasTOS | flow.HasPackets |
			flow.HasBytes | flow.HasFirst | flow.HasLast | flow.HasInput | flow.HasOutput | flow.HasSrcAS | flow.HasDstAS | flow.HasSrcMask |
			flow.HasDstMask | flow.HasNextHop,
	}
	if six {
		host := func(last string) flow.Addr { return flow.AddrFrom(netip.MustParseAddr("2001:db8::" + last)) }
		r.Src, r.Dst, r.NextHop, r.IPVersion = host(fmt.Sprintf("%x", n)), host("1:1"), host("2:1"), 6
		r.SrcMask, r.DstMask = 64, 64
	}
	return r
}

// Trials makes one datagram of each format that there is: v1, v5, v7, v8 in each
// aggregation scheme, v9 and IPFIX with their templates in front of the data, of
// IPv4 and IPv6, and sFlow with a flow sample and a counter sample.
func Trials(now time.Time) []Trial {
	boot := now.Truncate(time.Second).Add(-time.Hour)
	stamp := wire.Stamp{Unix: now.UnixNano(), Boot: boot.UnixNano()}
	head := wire.HeaderV5{Count: 1, Stamp: stamp, Engine: trialDomain + flow.VersionV5}
	fixed := func(version uint8, header int, put func([]byte, wire.HeaderV5), record func([]byte, *flow.Record, uint32, uint32, int64) []byte) Trial {
		r := trialFlow(version, false, now)
		if version == flow.VersionV1 {
			r.Has &^= flow.HasSrcAS | flow.HasDstAS | flow.HasSrcMask | flow.HasDstMask
		}
		b := make([]byte, header)
		put(b, head)
		return Trial{fmt.Sprintf("v%d", version), record(b, &r, uint32(r.Packets), uint32(r.Bytes), stamp.Boot), []flow.Record{r}}
	}
	all := []Trial{
		fixed(flow.VersionV1, wire.HeaderV1Len, wire.PutHeaderV1, wire.AppendRecordV1),
		fixed(flow.VersionV5, wire.HeaderV5Len, wire.PutHeaderV5, wire.AppendRecordV5),
		fixed(flow.VersionV7, wire.HeaderV5Len, wire.PutHeaderV7, wire.AppendRecordV7),
	}
	for s := wire.V8AS; s.Valid(); s++ {
		r := trialFlow(80+uint8(s), false, now)
		r.Has &= s.Fields()
		h := head
		h.Engine = (trialDomain+flow.VersionV8)<<8 | uint16(s) // each scheme has a cache, and so a sequence, of its own
		b := make([]byte, wire.HeaderV8Len)
		wire.PutHeaderV8(b, h, s)
		b = wire.AppendRecordV8(b, wire.FormV8{Scheme: s}, &r, wire.AggregateOf(&r), stamp.Boot)
		all = append(all, Trial{"v8-" + s.String(), b, []flow.Record{r}})
	}
	return append(all, templatedTrial(flow.VersionV9, now, stamp), templatedTrial(flow.VersionIPFIX, now, stamp), sflowTrial(now))
}

// templatedTrial is a v9 or IPFIX datagram: templates, then data.
func templatedTrial(version uint8, now time.Time, stamp wire.Stamp) Trial {
	t := Trial{Format: "v9", Octets: make([]byte, wire.HeaderV9Len)}
	if version == flow.VersionIPFIX {
		t.Format, t.Octets = "ipfix", make([]byte, wire.HeaderIPFIXLen)
	}
	var layouts []*wire.Layout
	at := len(t.Octets)
	t.Octets = wire.AppendSet(t.Octets, wire.TemplateSet(version))
	for i, six := range []bool{false, true} {
		r := trialFlow(version, six, now)
		l := wire.NewLayout(version, wire.ShapeOf(version, wire.Cisco, &r, false), wire.FirstTemplateID+uint16(i))
		t.Octets = l.AppendTemplate(t.Octets)
		t.Flows, layouts = append(t.Flows, r), append(layouts, l)
	}
	t.Octets = wire.EndSet(t.Octets, at)
	for i, l := range layouts {
		at := len(t.Octets)
		t.Octets = wire.AppendSet(t.Octets, l.ID)
		t.Octets = wire.EndSet(l.Append(t.Octets, &t.Flows[i], stamp.Boot, 0), at)
	}
	if version == flow.VersionIPFIX {
		wire.PutHeaderIPFIX(t.Octets, stamp, 0, trialDomain+flow.VersionIPFIX)
	} else {
		second := wire.Stamp{Unix: now.Truncate(time.Second).UnixNano(), Boot: stamp.Boot}
		wire.PutHeaderV9(t.Octets, uint16(2*len(layouts)), second, 0, trialDomain+flow.VersionV9)
	}
	return t
}

// sflowTrial is an sFlow datagram: one packet, and the counters of an interface.
func sflowTrial(now time.Time) Trial {
	r := trialFlow(flow.VersionSFlow, false, now)
	r.Packets, r.Bytes, r.Sampling = 1, 105, 1
	r.Has = r.Has&^(flow.HasFirst|flow.HasLast) | flow.HasSampling
	agent := flow.AddrFrom4([4]byte{192, 0, 2, 105})
	b := wire.AppendSFlowHeader(nil, wire.SFlowHeader{Agent: agent, SubAgent: trialDomain + 5, Uptime: 3_600_000, Samples: 2})
	b = wire.AppendSFlowSample(b, &r, wire.SFlowSample{Sequence: 1, Source: 1, Pool: 1})
	b = wire.AppendSFlowCounters(b, 1, wire.SFlowInterface{
		Index: 1, Type: 6, Speed: 1_000_000_000, InOctets: 105_000, InPackets: 105, OutOctets: 1, OutPackets: 1, Name: "weir-test",
	})
	return Trial{"sflow", b, []flow.Record{r}}
}
