package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"weir/flow"
)

// u32s is a run of XDR integers.
func u32s(v ...uint32) []byte {
	var b []byte
	for _, x := range v {
		b = be.AppendUint32(b, x)
	}
	return b
}

func xdrText(s string) []byte {
	b := append(be.AppendUint32(nil, uint32(len(s))), s...)
	return append(b, make([]byte, -len(s)&3)...)
}

// tlv is a data format, a length and the octets.
func tlv(format uint32, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	return append(u32s(format, uint32(len(body))), body...)
}

var agentOf = flow.AddrFrom4([4]byte{192, 0, 2, 9})

// datagram of an agent at 192.0.2.9, sub-agent 7.
func sflowDatagram(sequence uint32, samples ...[]byte) []byte {
	b := AppendSFlowHeader(nil, SFlowHeader{Agent: agentOf, SubAgent: 7, Sequence: sequence, Uptime: 10_000 + sequence*1000, Samples: uint32(len(samples))})
	return append(b, bytes.Join(samples, nil)...)
}

// frame is an Ethernet frame with a VLAN tag, IPv4 and TCP; IP length 60.
var frame = func() []byte {
	b, err := hex.DecodeString("00005e0053020000" + "5e005301" + "8100a064" + "0800" +
		"4528003c000040003f060000" + "c6336401" + "cb007102" + "c00101bb" + "00000001" + "00000000" + "50120000" + "00000000")
	if err != nil {
		panic(err)
	}
	return b
}()

func rawHeader(protocol, length uint32, f []byte) []byte {
	pad := make([]byte, -len(f)&3)
	return tlv(1, u32s(protocol, length, 4, uint32(len(f))), f, pad)
}

// flowSampleOf is a compact flow sample: source ifIndex 3, one in 512, from 3 to 5.
func flowSampleOf(sequence, drops uint32, records ...[]byte) []byte {
	return tlv(1, u32s(sequence, 3, 512, sequence*512, drops, 3, 5, uint32(len(records))), bytes.Join(records, nil))
}

func decodeSFlow(t *testing.T, d *Decoder, msg []byte) (*Batch, Message, error) {
	t.Helper()
	b := &Batch{}
	m, err := d.Decode(b, testSource, testTime, msg)
	check(t, d, b, m, msg)
	return b, m, err
}

// TestSFlowSample: what a flow sample's packet, ports, switch, router, gateway,
// NAT and MPLS records say is in the columns, and the rest in the elements.
func TestSFlowSample(t *testing.T) {
	msg := sflowDatagram(1, flowSampleOf(1, 0,
		rawHeader(1, 82, frame),
		tlv(1001, u32s(100, 5, 200, 0)),
		tlv(1002, u32s(1, 0xc0000201, 24, 16)),
		tlv(1003, u32s(1, 0xc0000202, 64500, 64501, 64502, 2, 2, 2, 64503, 64504, 1, 2, 64505, 64506, 1, 64500<<16|7, 150)),
		tlv(1004, u32s(106), xdrText("ann"), u32s(106), xdrText("bob\x1b<")),
		tlv(1006, u32s(1, 0xc0000203, 1, 16<<12|0x140, 2, 17<<12, 18<<12|0x100)),
		tlv(1007, u32s(1, 0x0a000001, 1, 0x0a000002)),
		tlv(1020, u32s(1000, 2000)),
		tlv(1024, u32s(110, 17, 0x0a000003, 0x0a000004, 5000, 4789, 0, 0)),
		tlv(1030, u32s(4711)),
		tlv(9<<12|77, u32s(0xdeadbeef)),
	))
	b, m, err := decodeSFlow(t, NewDecoder(Options{}), msg)
	if err != nil || m.Version != flow.VersionSFlow || m.Domain != 7 || m.Sequence != 1 || m.Sets != 1 || m.Records != 1 || m.Count != 1 || m.Uptime != 11_000 {
		t.Fatalf("%+v, %v", m, err)
	}
	r := b.Records[0]
	elements := string(r.Elements)
	r.Elements = nil
	want := flow.Record{
		Src: flow.AddrFrom4([4]byte{198, 51, 100, 1}), Dst: flow.AddrFrom4([4]byte{203, 0, 113, 2}),
		NextHop: flow.AddrFrom4([4]byte{192, 0, 2, 1}), BGPNextHop: flow.AddrFrom4([4]byte{192, 0, 2, 2}), Exporter: agentOf,
		First: testTime, Last: testTime, Received: testTime, Packets: 1, Bytes: 60, Input: 3, Output: 5, SrcAS: 64501, DstAS: 64506,
		Sampling: 512, Domain: 7, SrcPort: 0xc001, DstPort: 443, VLAN: 100, TCPFlags: flow.SYN | flow.ACK, Proto: 6, TOS: 0x28,
		SrcMask: 24, DstMask: 16, Version: flow.VersionSFlow, IPVersion: 4,
		Has: flow.HasFirst | flow.HasLast | flow.HasReceived | flow.HasExporter | flow.HasDomain | flow.HasPackets | flow.HasBytes |
			flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort | flow.HasProto | flow.HasTOS | flow.HasTCPFlags |
			flow.HasInput | flow.HasOutput | flow.HasDirection | flow.HasVLAN | flow.HasNextHop | flow.HasBGPNextHop |
			flow.HasSrcAS | flow.HasDstAS | flow.HasSrcMask | flow.HasDstMask | flow.HasSampling,
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("\n%+v, want\n%+v", r, want)
	}
	const wantElements = `{"dot1qPriority":5,"postVlanId":200,"as":64500,"bgpPrevAdjacentAsNumber":64502,"bgpNextAdjacentAsNumber":64503,` +
		`"dst_as_path":"64503 64504 {64505,64506}","communities":["64500:7"],"localpref":150,` +
		`"extended_user":{"src_charset":106,"src_user":"ann","dst_charset":106,"dst_user":"bob\u001b\u003c"},` +
		`"extended_mpls":{"nexthop":"192.0.2.3","in_stack":[16],"out_stack":[17,18]},` +
		`"postNATSourceIPv4Address":"10.0.0.1","postNATDestinationIPv4Address":"10.0.0.2","postNAPTSourceTransportPort":1000,"postNAPTDestinationTransportPort":2000,` +
		`"extended_ipv4_tunnel_ingress":{"length":110,"protocol":17,"src_ip":"10.0.0.3","dst_ip":"10.0.0.4","src_port":5000,"dst_port":4789,"tcp_flags":0,"tos":0},` +
		`"extended_vni_ingress":{"vni":4711},"sflow_9_77":"deadbeef",` +
		`"sourceMacAddress":"00:00:5e:00:53:01","destinationMacAddress":"00:00:5e:00:53:02","ipTTL":63}`
	if elements != wantElements {
		t.Errorf("elements\n%s, want\n%s", elements, wantElements)
	}
}

// TestSFlowPorts: where a packet came from and went to, in both forms of a
// sample, and which way it was seen.
func TestSFlowPorts(t *testing.T) {
	compact := func(in, out uint32) []byte {
		return tlv(1, u32s(1, 3, 1, 0, 0, in, out, 1), rawHeader(1, 82, frame))
	}
	expanded := func(inFormat, in, outFormat, out uint32) []byte {
		return tlv(3, u32s(1, 0, 3, 1, 0, 0, inFormat, in, outFormat, out, 1), rawHeader(1, 82, frame))
	}
	for _, c := range []struct {
		name   string
		sample []byte
		want   string // input, output, direction, forwarding status, elements before the MAC addresses
	}{
		{"received at the source", compact(3, 5), "3 5 0 -  "},
		{"sent at the source", compact(5, 3), "5 3 1 -  "},
		{"unknown", compact(0, 0), "- - - -  "},
		{"this machine", compact(3, 0x3fffffff), "3 1073741823 0 -  "},
		{"dropped, an ICMP code", compact(3, 1<<30|1), `3 - 0 132 "drop_reason":"host_unreachable"`},
		{"dropped by a list", compact(3, 1<<30|258), `3 - 0 129 "drop_reason":"acl"`},
		{"dropped, a reason of the future", compact(3, 1<<30|9999), `3 - 0 128 "drop_reason":9999`},
		{"to several", compact(3, 2<<30|4), `3 - 0 - "output_interfaces":4`},
		{"large ifIndex", expanded(0, 1<<31+5, 0, 3), "2147483653 3 1 -  "},
		{"expanded, dropped", expanded(0, 3, 1, 257), `3 - 0 137 "drop_reason":"ttl_exceeded"`},
	} {
		b, _, err := decodeSFlow(t, NewDecoder(Options{}), sflowDatagram(1, c.sample))
		if err != nil || len(b.Records) != 1 {
			t.Errorf("%s: %d records, %v", c.name, len(b.Records), err)
			continue
		}
		r := &b.Records[0]
		var got []string
		for _, col := range []flow.Column{flow.ColInput, flow.ColOutput, flow.ColDirection, flow.ColForwardingStatus} {
			v := "-"
			if r.Known(col) {
				v = string(r.AppendColumn(nil, col))
			}
			got = append(got, v)
		}
		before, _, _ := strings.Cut(string(r.Elements), `"sourceMacAddress"`)
		got = append(got, strings.Trim(before, "{,"))
		if g := strings.TrimSpace(strings.Join(got, " ")); g != strings.TrimSpace(c.want) {
			t.Errorf("%s: %s, want %s", c.name, g, c.want)
		}
	}
}

// TestSFlowDiscard: sflow_drops.txt: each discarded packet is a record of one
// packet, dropped.
func TestSFlowDiscard(t *testing.T) {
	sample := tlv(5, u32s(1, 0, 3, 0, 3, 0, 258, 2), rawHeader(1, 82, frame), tlv(1038, xdrText("ip_rcv")))
	d := NewDecoder(Options{})
	b, _, err := decodeSFlow(t, d, sflowDatagram(1, sample))
	if err != nil || len(b.Records) != 1 {
		t.Fatalf("%d records, %v", len(b.Records), err)
	}
	r := &b.Records[0]
	const elements = `{"drop_reason":"acl","extended_function":{"symbol":"ip_rcv"},"sourceMacAddress":"00:00:5e:00:53:01","destinationMacAddress":"00:00:5e:00:53:02","ipTTL":63,"droppedPacketDeltaCount":1,"droppedOctetDeltaCount":60}`
	if r.Packets != 1 || r.Bytes != 60 || r.Sampling != 1 || r.ForwardingStatus != 129 || r.Input != 3 || r.Has&flow.HasOutput != 0 || string(r.Elements) != elements {
		t.Errorf("%+v, %s", r, r.Elements)
	}
	// Notifications that the agent could not take are in the ledger.
	decodeSFlow(t, d, sflowDatagram(2, tlv(5, u32s(2, 0, 3, 40, 3, 0, 258, 0))))
	lost := d.Lost()
	if lost[AgentDrops].records != 40 || lost[SampleWithoutIP].records != 1 {
		t.Errorf("%+v", lost.Losses())
	}
}

func TestSFlowCounters(t *testing.T) {
	d := NewDecoder(Options{})
	msg := sflowDatagram(1,
		AppendSFlowCounters(nil, 1, SFlowInterface{Index: 12, Type: 6, Speed: 1e9, InOctets: 1 << 40, InPackets: 2, OutOctets: 3, OutPackets: 4, Name: "ge-0/0/1"}),
		tlv(2, u32s(1, 2<<24|1, 3), tlv(1001, u32s(1200, 900, 800, 0, 1<<20, 0, 1<<10)), tlv(2003, u32s(0x3f000000, 0, 0x7fc00000, 1)), tlv(7<<12|1, []byte{1, 2, 3, 4})),
	)
	b, m, err := decodeSFlow(t, d, msg)
	if err != nil || m.Options != 2 || len(b.Options) != 2 || m.Records != 0 {
		t.Fatalf("%+v, %v", m, err)
	}
	for i, want := range []string{
		`{"ds_class":0,"ds_index":12} {"if_counters":{"ifIndex":12,"ifType":6,"ifSpeed":1000000000,"ifDirection":1,"ifStatus":3,"ifInOctets":1099511627776,"ifInUcastPkts":2,"ifInMulticastPkts":0,"ifInBroadcastPkts":0,"ifInDiscards":0,"ifInErrors":0,"ifInUnknownProtos":0,"ifOutOctets":3,"ifOutUcastPkts":4,"ifOutMulticastPkts":0,"ifOutBroadcastPkts":0,"ifOutDiscards":0,"ifOutErrors":0,"ifPromiscuousMode":0},"port_name":{"name":"ge-0/0/1"}}`,
		`{"ds_class":2,"ds_index":1} {"processor":{"5s_cpu":1200,"1m_cpu":900,"5m_cpu":800,"total_memory":1048576,"free_memory":1024},"host_cpu":{"load_one":0.5,"load_five":0,"load_fifteen":null,"proc_run":1},"sflow_7_1":"01020304"}`,
	} {
		if got := string(b.Options[i].Scope) + " " + string(b.Options[i].Fields); got != want {
			t.Errorf("%s, want\n%s", got, want)
		}
	}
	if names := d.Interfaces(); len(names) != 1 || names[0].Index != 12 || names[0].Name != "ge-0/0/1" {
		t.Errorf("names %+v", names)
	}
}

// TestSFlowSequence: datagrams and samples that never came are told apart from
// those that come late, come twice, or come from an agent that began anew.
func TestSFlowSequence(t *testing.T) {
	d := NewDecoder(Options{})
	now := int64(testTime)
	send := func(seq uint32, uptime uint32, samples ...[]byte) {
		b := AppendSFlowHeader(nil, SFlowHeader{Agent: agentOf, Sequence: seq, Uptime: uptime, Samples: uint32(len(samples))})
		if _, err := d.Decode(&Batch{}, testSource, now, append(b, bytes.Join(samples, nil)...)); err != nil {
			t.Fatal(err)
		}
	}
	one := func(seq, drops uint32) []byte { return flowSampleOf(seq, drops, rawHeader(1, 82, frame)) }
	counters := func(seq uint32) []byte { return tlv(2, u32s(seq, 3, 0)) }
	up := func(seq uint32) uint32 { now += 1e9; return 1000 * seq }
	send(1, up(1), one(1, 0), one(2, 0))
	send(2, up(2), one(3, 5), counters(1))
	send(4, up(4), one(5, 5)) // 3, with sample 4, is late
	if s := d.Exporters()[0]; s.Sequence.Missing != 1 || s.Samples.Lost != 1 || s.Samples.Gaps != 1 {
		t.Fatalf("%+v %+v", s.Sequence, s.Samples)
	}
	send(3, up(3), one(4, 5))
	send(3, up(3), one(4, 5)) // twice: its sample says nothing new
	send(5, up(5), one(8, 9), counters(2))
	for seq := uint32(8); seq < 8+window+2; seq++ { // 6 and 7 never come
		send(seq, up(seq), one(seq+1, 9))
	}
	e := d.Exporters()
	if len(e) != 1 || e[0].Addr != agentOf.Netip() || e[0].Sequence.Lost != 2 || e[0].Sequence.Reordered != 1 || e[0].Sequence.Duplicates != 1 || e[0].Sequence.Missing != 0 {
		t.Fatalf("%+v", e)
	}
	if s := e[0].Samples; s.Lost != 2 || s.Reordered != 1 || s.Restarts != 0 || s.Unit != "records" {
		t.Errorf("samples %+v", s)
	}
	if lost := d.Lost(); lost[AgentDrops].records != 9 {
		t.Errorf("the agent dropped %d samples, want 9", lost[AgentDrops].records)
	}
	if s := e[0].Sampling; len(s) != 1 || s[0] != (SamplingInfo{Interface: 3, Rate: 512}) {
		t.Errorf("sampling %+v", s)
	}
	send(1, 10, one(1, 0)) // began anew
	send(2, 1010, one(2, 0))
	if e := d.Exporters()[0]; e.Sequence.Restarts != 1 || e.Samples.Restarts != 1 || e.Sequence.Lost != 2 || e.Samples.Lost != 2 {
		t.Errorf("%+v %+v", e.Sequence, e.Samples)
	}
	records, datagrams := d.Sequences()
	if records.Lost != 2 || datagrams.Lost != 2 {
		t.Errorf("%+v %+v", records, datagrams)
	}
}

// TestSFlowHostile: counts and lengths that lie cost what is behind them, no
// more: no allocation, no loop, and the rest is read.
func TestSFlowHostile(t *testing.T) {
	good := flowSampleOf(1, 0, rawHeader(1, 82, frame))
	many := sflowDatagram(1, good)
	be.PutUint32(many[24:], 0xffffffff)
	path := flowSampleOf(1, 0, rawHeader(1, 82, frame), tlv(1003, u32s(1, 0, 1, 2, 3, 0xffffffff, 2, 0xffffffff)))
	list := flowSampleOf(1, 0, rawHeader(1, 82, frame), tlv(1006, u32s(1, 0, 0x40000001)))
	text := flowSampleOf(1, 0, rawHeader(1, 82, frame), tlv(1004, u32s(106, 0xfffffffe)))
	header := flowSampleOf(1, 0, tlv(1, u32s(1, 82, 4, 0xfffffff0), frame, make([]byte, -len(frame)&3)))
	records := flowSampleOf(1, 0, rawHeader(1, 82, frame))
	be.PutUint32(records[8+28:], 0xffffffff)
	long := flowSampleOf(1, 0, rawHeader(1, 82, frame))
	be.PutUint32(long[8+32+4:], 0x7fffffff)
	for _, c := range []struct {
		name    string
		msg     []byte
		records int
		reason  Reason
		err     error
	}{
		{"more samples than there are", many, 1, RecordCount, ErrCount},
		{"no sample at all", sflowDatagram(1, nil), 0, RecordCount, ErrCount},
		{"a sample longer than the datagram", sflowDatagram(1, good, u32s(1, 0x7ffffffc)), 1, SampleLength, ErrLength},
		{"an AS path longer than its record", sflowDatagram(1, path, good), 2, reasons, nil},
		{"a label stack longer than its record", sflowDatagram(1, list, good), 2, reasons, nil},
		{"a text longer than its record", sflowDatagram(1, text, good), 2, reasons, nil},
		{"a header longer than its record", sflowDatagram(1, header, good), 2, reasons, nil},
		{"more records than the sample has", sflowDatagram(1, records, good), 2, SampleLength, ErrLength},
		{"a record longer than the sample", sflowDatagram(1, long, good), 1, SampleLength, ErrLength},
		{"a sample without a head", sflowDatagram(1, tlv(1, u32s(1, 2)), good), 1, SampleLength, ErrShort},
		{"a format of another maker", sflowDatagram(1, tlv(4300<<12|1, u32s(1, 2)), good), 1, SampleFormat, nil},
		{"no packet in it", sflowDatagram(1, flowSampleOf(1, 0, tlv(1001, u32s(1, 2, 3, 4))), good), 1, SampleWithoutIP, nil},
		{"sFlow version 4", append(u32s(4, 1), sflowDatagram(1, good)[8:]...), 0, UnknownVersion, ErrVersion},
		{"an agent address of no family", append(u32s(5, 9), sflowDatagram(1, good)[8:]...), 0, ShortMessage, ErrShort},
		{"a cut header", sflowDatagram(1, good)[:20], 0, ShortMessage, ErrShort},
	} {
		d := NewDecoder(Options{})
		b, m, err := decodeSFlow(t, d, c.msg)
		if len(b.Records) != c.records || !errors.Is(err, c.err) {
			t.Errorf("%s: %d records, %+v, %v", c.name, len(b.Records), m, err)
		}
		lost := d.Lost()
		for r := range reasons {
			if (lost[r].n != 0) != (r == c.reason) {
				t.Errorf("%s: %v counted %d", c.name, r, lost[r].n)
			}
		}
		if n := testing.AllocsPerRun(5, func() {
			d.Decode(&Batch{}, testSource, testTime, c.msg)
		}); n > 40 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

// Two agents that give the same address, and sources without number, are
// bounded and told apart.
func TestSFlowAgents(t *testing.T) {
	d := NewDecoder(Options{Limits: Limits{Sources: 10}})
	for i := range uint32(100) {
		for port := range uint16(2) {
			seq := 1000*uint32(port) + i
			msg := sflowDatagram(seq, tlv(1, u32s(i, i+1, 1, 0, 0, 3, 5, 1), rawHeader(1, 82, frame)))
			if _, err := d.Decode(&Batch{}, Source{Addr: testSource.Addr, Port: 4000 + port}, testTime+int64(i)*1e9, msg); err != nil {
				t.Fatal(err)
			}
		}
	}
	e := d.Exporters()
	if len(e) != 2 || e[0].Sequence.Gaps+e[1].Sequence.Gaps != 0 || d.sources != 10 {
		t.Errorf("%+v, %d sources", e, d.sources)
	}
	for s := range d.each {
		d.forget(s)
	}
	if d.sources != 0 {
		t.Errorf("%d sources of agents that were forgotten", d.sources)
	}
}

// TestSFlowRoundTrip: encode(decode(x)) says the same, to the octet.
func TestSFlowRoundTrip(t *testing.T) {
	v4 := flow.Record{
		Src: flow.AddrFrom4([4]byte{192, 0, 2, 1}), Dst: flow.AddrFrom4([4]byte{198, 51, 100, 2}), NextHop: flow.AddrFrom4([4]byte{192, 0, 2, 254}),
		BGPNextHop: flow.AddrFrom4([4]byte{192, 0, 2, 253}), Packets: 1, Bytes: 1500, Input: 1 << 30, Output: 7, SrcAS: 4200000001, DstAS: 64501,
		SrcPort: 1234, DstPort: 80, Proto: 6, TCPFlags: 0x1b, TOS: 0xb8, SrcMask: 24, DstMask: 8, VLAN: 12, Sampling: 1000,
	}
	v4.Has = flow.HasVLAN | flow.HasNextHop | flow.HasBGPNextHop | flow.HasSrcAS | flow.HasDstAS | flow.HasSrcMask | flow.HasDstMask | flow.HasSampling
	v6 := v4
	v6.Src, v6.Dst = flow.Addr{0x20, 1, 13, 0xb8, 15: 1}, flow.Addr{0x20, 1, 13, 0xb8, 15: 2}
	v6.Has = flow.HasSampling
	s := SFlowSample{Sequence: 1, Source: 9, Pool: 5000, Drops: 3}
	msg := sflowDatagram(1, AppendSFlowSample(nil, &v4, s), AppendSFlowSample(nil, &v6, s))
	b, m, err := decodeSFlow(t, NewDecoder(Options{}), msg)
	if err != nil || m.Records != 2 || Detect(msg) != flow.VersionSFlow || Next(append(bytes.Clone(msg), 1, 2, 3)) != len(msg) {
		t.Fatalf("%+v, %v; detected as %d", m, err, Detect(msg))
	}
	again := sflowDatagram(1, AppendSFlowSample(nil, &b.Records[0], s), AppendSFlowSample(nil, &b.Records[1], s))
	if !bytes.Equal(again, msg) {
		t.Errorf("\n%x, want\n%x", again, msg)
	}
	for i := range b.Records {
		if !json.Valid(b.Records[i].Elements) && b.Records[i].Elements != nil {
			t.Errorf("elements %s", b.Records[i].Elements)
		}
	}
}

// TestSFlowAllocations: a datagram of samples costs no allocation once its
// batch has grown.
func TestSFlowAllocations(t *testing.T) {
	var samples [][]byte
	for i := range uint32(8) {
		samples = append(samples, flowSampleOf(i+1, 0, rawHeader(1, 82, frame), tlv(1001, u32s(1, 2, 3, 4)), tlv(1002, u32s(1, 5, 6, 7)),
			tlv(1003, u32s(1, 1, 2, 3, 4, 1, 2, 2, 5, 6, 0, 9)), tlv(1007, u32s(1, 5, 1, 7))))
	}
	msg, d, b := sflowDatagram(1, samples...), NewDecoder(Options{}), &Batch{}
	if n := testing.AllocsPerRun(100, func() {
		b.Reset()
		if m, err := d.Decode(b, testSource, testTime, msg); err != nil || m.Records != 8 {
			t.Fatalf("%+v, %v", m, err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for a datagram of 8 samples", n)
	}
}

func BenchmarkSFlow(b *testing.B) {
	var samples [][]byte
	for i := range uint32(7) {
		f := append(bytes.Clone(frame), make([]byte, 128-len(frame))...)
		samples = append(samples, flowSampleOf(i+1, 0, rawHeader(1, 82, f), tlv(1001, u32s(1, 2, 3, 4)), tlv(1002, u32s(1, 5, 6, 7))))
	}
	msg, d, batch, n := sflowDatagram(1, samples...), NewDecoder(Options{}), &Batch{}, 0
	b.ReportAllocs()
	for b.Loop() {
		batch.Reset()
		m, _ := d.Decode(batch, testSource, testTime, msg)
		n += m.Records
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
}
