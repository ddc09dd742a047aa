package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weir/flow"
)

// unhex reads octets written in groups, with notes after #.
func unhex(t *testing.T, s string) []byte {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(s) {
		line, _, _ = strings.Cut(line, "#")
		b.WriteString(strings.Join(strings.Fields(line), ""))
	}
	out, err := hex.DecodeString(b.String())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const (
	goldenBoot = int64(1_700_000_000) * 1e9
	goldenNow  = goldenBoot + 3_600_500*1e6 // an hour and half a second later
)

// golden is a record with every field that a format may carry.
func golden() flow.Record {
	return flow.Record{
		Src: flow.AddrFrom4([4]byte{10, 1, 2, 3}), Dst: flow.AddrFrom4([4]byte{192, 0, 2, 9}),
		NextHop: flow.AddrFrom4([4]byte{198, 51, 100, 1}), SrcPort: 51000, DstPort: 443, Proto: flow.ProtoTCP, TOS: 0xb8,
		TCPFlags: 0x1b, Packets: 1000, Bytes: 1_500_000, First: goldenBoot + 3_590_000*1e6 + 999_999, Last: goldenBoot + 3_600_000*1e6,
		Input: 3, Output: 70_000, SrcAS: 64500, DstAS: 4_200_000_000, SrcMask: 24, DstMask: 16, VLAN: 100,
		Direction: 1, EndReason: flow.EndDetected, ForwardingStatus: 64, FlowID: 0x0102030405060708, IPVersion: 4,
		Has: flow.HasSrc | flow.HasDst | flow.HasNextHop | flow.HasSrcPort | flow.HasDstPort | flow.HasProto | flow.HasTOS | flow.HasTCPFlags |
			flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast | flow.HasInput | flow.HasOutput | flow.HasSrcAS | flow.HasDstAS |
			flow.HasSrcMask | flow.HasDstMask | flow.HasVLAN | flow.HasDirection | flow.HasEndReason | flow.HasForwardingStatus | flow.HasFlowID,
	}
}

func TestGoldenFixed(t *testing.T) {
	r := golden()
	stamp := Stamp{Unix: goldenNow, Boot: goldenBoot}
	sampling, _ := SamplingV5(100, false)
	h := HeaderV5{Count: 1, Stamp: stamp, Sequence: 0x01020304, Engine: 0x0501, Sampling: sampling}
	common := `
		0a010203 c0000209 c6336401  # source, destination, next hop
		0003 0000                   # ifIndex 70000 does not fit
		000003e8 0016e360           # packets, octets
		0036c770 0036ee80           # First, Last
		c738 01bb`
	header := `0001 0036f074 6553ff10 1dcd6500` // count, uptime, seconds, 500,000,000 ns
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{
			"v5", AppendRecordV5(put5(PutHeaderV5, h), &r, 1000, 1_500_000, goldenBoot),
			`0005` + header + `01020304 05 01 4064` + common + `
			00 1b 06 b8  # flags, protocol, ToS
			fbf4 5ba0    # AS 64500, AS_TRANS
			18 10 0000`,
		},
		{
			"v7", AppendRecordV7(put5(PutHeaderV7, h), &r, 1000, 1_500_000, goldenBoot),
			`0007` + header + `01020304 00000000` + common + ` 00 1b 06 b8 fbf4 5ba0 18 10 0000 00000000`,
		},
		{
			"v1", AppendRecordV1(put5(PutHeaderV1, h)[:HeaderV1Len], &r, 1000, 1_500_000, goldenBoot),
			`0001` + header + common + ` 0000 06 b8 1b 000000 00000000 # protocol, ToS, flags`,
		},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n got %x\nwant %x", c.name, c.got, want)
		}
	}

	r.Proto, r.SrcPort, r.DstPort, r.ICMPType, r.ICMPCode, r.Has = flow.ProtoICMP, 8, 0, 3, 1, r.Has|flow.HasICMP
	if rec := AppendRecordV5(nil, &r, 1, 1, goldenBoot); be.Uint16(rec[32:]) != 0 || be.Uint16(rec[34:]) != 0x0301 {
		t.Errorf("ICMP 3/1 in ports %x; want 0000 0301", rec[32:36])
	}
}

func put5(put func([]byte, HeaderV5), h HeaderV5) []byte {
	b := make([]byte, HeaderV5Len)
	put(b, h)
	return b
}

func TestGoldenTemplated(t *testing.T) {
	r := golden()
	r.Has &^= flow.HasNextHop | flow.HasSrcMask | flow.HasDstMask
	stopped := flow.Record{
		Src: r.Src, Dst: r.Dst, Packets: 1000, Bytes: 1_500_000, First: r.First, Last: r.Last, ForwardingStatus: 129, IPVersion: 4,
		DroppedPackets: 999, DroppedBytes: 1_499_000, Rule: 0x0102, FlowID: r.FlowID,
		Has: flow.HasSrc | flow.HasDst | flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast | flow.HasForwardingStatus | flow.HasDropped | flow.HasRule | flow.HasFlowID,
	}
	for _, c := range []struct {
		name             string
		version          uint8
		preset           Preset
		r                *flow.Record
		template, record string
	}{
		{"v9 compact", flow.VersionV9, Compact, &r, `
			012c 0012  # 300, 18 fields
			0008 0004 000c 0004 0007 0002 000b 0002 0004 0001 0005 0001 0006 0001
			000a 0004 000e 0004          # an ifIndex above 65535
			0002 0004 0001 0004          # packets above 255
			0016 0004 0015 0004          # FIRST_SWITCHED, LAST_SWITCHED
			0010 0004 0011 0004
			003a 0002 003d 0001 0059 0001`, `
			0a010203 c0000209 c738 01bb 06 b8 1b 00000003 00011170 000003e8 0016e360
			0036c770 0036ee80 0000fbf4 fa56ea00 0064 01 40`},
		{"v9 cisco", flow.VersionV9, Cisco, &r, `
			012c 0014
			0008 0004 000c 0004 0007 0002 000b 0002 0004 0001 0005 0001 0006 0001
			000a 0004 000e 0004 0002 0008 0001 0008 0016 0004 0015 0004 0010 0004 0011 0004
			003a 0002 003d 0001 0088 0001 0059 0001 003c 0001`, `
			0a010203 c0000209 c738 01bb 06 b8 1b 00000003 00011170 00000000000003e8 000000000016e360
			0036c770 0036ee80 0000fbf4 fa56ea00 0064 01 03 40 04`},
		{"IPFIX full", flow.VersionIPFIX, Full, &r, `
			012c 0015
			0008 0004 000c 0004 0007 0002 000b 0002 0004 0001 0005 0001 0006 0002
			000a 0004 000e 0004 0002 0008 0001 0008 0098 0008 0099 0008 0010 0004 0011 0004
			003a 0002 003d 0001 0088 0001 0059 0001 003c 0001 0094 0008`, `
			0a010203 c0000209 c738 01bb 06 b8 001b 00000003 00011170 00000000000003e8 000000000016e360
			0000018bd01c2f70 0000018bd01c5680 0000fbf4 fa56ea00 0064 01 03 40 04 0102030405060708`},
		{"IPFIX full, stopped", flow.VersionIPFIX, Full, &stopped, `
			012c 000d
			0008 0004 000c 0004 0002 0008 0001 0008 0098 0008 0099 0008 0059 0001
			0085 0008 0084 0008 00e9 0001  # dropped packets and octets, firewallEvent
			0089 0004                      # the rule
			003c 0001 0094 0008`, `
			0a010203 c0000209 00000000000003e8 000000000016e360 0000018bd01c2f70 0000018bd01c5680 81
			00000000000003e7 000000000016df78 03 00000102 04 0102030405060708`},
		{"v9 full, stopped", flow.VersionV9, Full, &stopped, `
			012c 000f
			0008 0004 000c 0004 0002 0008 0001 0008 0016 0004 0015 0004 0098 0008 0099 0008 0059 0001
			0085 0008 0084 0008 00e9 0001 0089 0004 003c 0001 0094 0008`, `
			0a010203 c0000209 00000000000003e8 000000000016e360 0036c770 0036ee80 0000018bd01c2f70 0000018bd01c5680 81
			00000000000003e7 000000000016df78 03 00000102 04 0102030405060708`},
		{"IPFIX cisco, stopped", flow.VersionIPFIX, Cisco, &stopped, `
			012c 0008
			0008 0004 000c 0004 0002 0008 0001 0008 0098 0008 0099 0008 0059 0001 003c 0001`, `
			0a010203 c0000209 00000000000003e8 000000000016e360 0000018bd01c2f70 0000018bd01c5680 81 04`},
	} {
		l := NewLayout(c.version, ShapeOf(c.version, c.preset, c.r, false), 300)
		if got, want := l.AppendTemplate(nil), unhex(t, c.template); !bytes.Equal(got, want) {
			t.Errorf("%s template:\n got %x\nwant %x", c.name, got, want)
		}
		if got, want := l.Append(nil, c.r, goldenBoot, 0), unhex(t, c.record); !bytes.Equal(got, want) {
			t.Errorf("%s record:\n got %x\nwant %x", c.name, got, want)
		}
	}
}

func TestGoldenHeadersAndOptions(t *testing.T) {
	stamp := Stamp{Unix: goldenNow - 5e8, Boot: goldenBoot}
	b := make([]byte, HeaderV9Len)
	PutHeaderV9(b, 7, stamp, 0xfffffffe, 0x99)
	if want := unhex(t, "0009 0007 0036ee80 6553ff10 fffffffe 00000099"); !bytes.Equal(b, want) {
		t.Errorf("v9 header %x; want %x", b, want)
	}
	b = make([]byte, HeaderIPFIXLen+8)
	PutHeaderIPFIX(b, stamp, 5, 6)
	if want := unhex(t, "000a 0018 6553ff10 00000005 00000006 0000000000000000"); !bytes.Equal(b, want) {
		t.Errorf("IPFIX header %x; want %x", b, want)
	}
	fields := []FieldSpec{{ID: 1, Length: 4}, {ID: 48, Length: 1}, {ID: 50, Length: 4}}
	b = EndSet(AppendOptionsTemplate(AppendSet(nil, OptionsSet(flow.VersionV9)), flow.VersionV9, 256, 1, fields), 0)
	if want := unhex(t, "0001 0018 0100 0004 0008 0001 0004 0030 0001 0032 0004 0000"); !bytes.Equal(b, want) {
		t.Errorf("v9 options template %x; want %x", b, want)
	}
	fields[0] = FieldSpec{ID: 302, Length: 8}
	b = EndSet(AppendOptionsTemplate(AppendSet(nil, OptionsSet(flow.VersionIPFIX)), flow.VersionIPFIX, 256, 1, fields), 0)
	if want := unhex(t, "0003 0018 0100 0003 0001 012e 0008 0030 0001 0032 0004 0000"); !bytes.Equal(b, want) {
		t.Errorf("IPFIX options template %x; want %x", b, want)
	}
	if got := AppendString(nil, "eth0", 6); string(got) != "eth0\x00\x00" {
		t.Errorf("fixed string %q", got)
	}
	if got := AppendString(nil, strings.Repeat("x", 300), VariableLength); len(got) != 303 || got[0] != 255 || be.Uint16(got[1:]) != 300 {
		t.Errorf("long string: %d octets, begins %x", len(got), got[:3])
	}
	if got := AppendString(nil, "ab", VariableLength); string(got) != "\x02ab" {
		t.Errorf("short string %q", got)
	}
}

func TestSamplingV5(t *testing.T) {
	for _, c := range []struct {
		n      uint32
		random bool
		want   uint16
		fits   bool
	}{{0, false, 0, true}, {1, true, 0, true}, {100, false, 1<<14 | 100, true}, {16383, true, 2<<14 | 16383, true}, {16384, false, 1<<14 | 16383, false}} {
		if got, fits := SamplingV5(c.n, c.random); got != c.want || fits != c.fits {
			t.Errorf("1 of %d: %#x %v; want %#x %v", c.n, got, fits, c.want, c.fits)
		}
	}
}

// The parts of a flow add up, and each fits in 32 bits.
func TestParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]uint64{10, math.MaxUint32 - 1, math.MaxUint32, math.MaxUint32 + 1, 1 << 44}).Draw(t, "about")
		packets := rapid.Uint64Range(0, limit+3).Draw(t, "packets")
		octets := rapid.Uint64Range(0, limit+5).Draw(t, "octets")
		n := Parts(packets, octets)
		if n > 1 && max(packets, octets) <= math.MaxUint32 {
			t.Fatalf("%d parts although one would do", n)
		}
		var p, o uint64
		for i := range n {
			p += uint64(Part(packets, i, n))
			o += uint64(Part(octets, i, n))
		}
		if p != packets || o != octets {
			t.Fatalf("%d parts sum to %d packets, %d octets; want %d, %d", n, p, o, packets, octets)
		}
	})
}

// anyRecord draws a record with any set of known fields.
func anyRecord(t *rapid.T) flow.Record {
	six := rapid.Bool().Draw(t, "six")
	addr := func(name string) flow.Addr {
		var a flow.Addr
		copy(a[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, name))
		if !six {
			a = flow.AddrFrom4([4]byte(a[12:]))
		} else {
			a[0] |= 0x20
		}
		return a
	}
	u := func(name string, most uint64) uint64 {
		return rapid.OneOf(rapid.Uint64Range(0, min(most, 300)), rapid.Uint64Range(0, most)).Draw(t, name)
	}
	r := flow.Record{
		Src: addr("src"), Dst: addr("dst"), NextHop: addr("next hop"), BGPNextHop: addr("bgp next hop"),
		SrcPort: uint16(u("sport", 65535)), DstPort: uint16(u("dport", 65535)), TOS: uint8(u("tos", 255)),
		Proto:    rapid.SampledFrom([]uint8{1, 6, 17, 58, 47, 132}).Draw(t, "proto"),
		TCPFlags: uint16(u("flags", 0xfff)), Packets: u("packets", math.MaxUint64), Bytes: u("bytes", math.MaxUint64),
		Input: uint32(u("input", math.MaxUint32)), Output: uint32(u("output", math.MaxUint32)),
		SrcAS: uint32(u("src as", math.MaxUint32)), DstAS: uint32(u("dst as", math.MaxUint32)),
		SrcMask: uint8(u("src mask", 32)), DstMask: uint8(u("dst mask", 32)), VLAN: uint16(u("vlan", 4095)),
		Direction: uint8(u("direction", 1)), EndReason: flow.EndReason(u("reason", 5)), ForwardingStatus: uint8(u("status", 255)),
		FlowID: u("flow id", math.MaxUint64), DroppedPackets: u("dropped packets", math.MaxUint64), DroppedBytes: u("dropped octets", math.MaxUint64),
		Rule: uint16(u("rule", 65535)),
		Has:  flow.HasFirst | flow.HasLast | flow.Field(rapid.Uint64Range(0, 1<<31-1).Draw(t, "has")),
	}
	if rapid.IntRange(0, 3).Draw(t, "addresses") > 0 {
		r.Has |= flow.HasSrc | flow.HasDst
	}
	r.Has &^= flow.HasSampling | flow.HasExporter | flow.HasDomain | flow.HasReceived
	if six {
		r.IPVersion = 6
	} else {
		r.IPVersion = 4
	}
	switch icmp := r.Proto == flow.ProtoICMP || r.Proto == flow.ProtoICMPv6; {
	case !icmp || r.Has&flow.HasProto == 0:
		r.Has &^= flow.HasICMP
	case r.Has&flow.HasICMP == 0:
		r.Proto = 47 // readers take an ICMP flow's port for its type
	}
	if r.Has&flow.HasICMP != 0 {
		r.ICMPType, r.ICMPCode = uint8(u("type", 255)), uint8(u("code", 255))
		r.Proto = flow.ProtoICMP
		if six {
			r.Proto = flow.ProtoICMPv6
		}
		r.Has |= flow.HasSrcPort | flow.HasDstPort
		r.SrcPort, r.DstPort = 0, uint16(r.ICMPType)<<8|uint16(r.ICMPCode)
	}
	r.Last = goldenNow - int64(u("age ms", 1000_000))*1e6
	r.First = r.Last - int64(u("duration ms", 1800_000))*1e6
	return r
}

// expected is what a reader must get back of r: the preset's choice, no more.
func expected(r flow.Record, version uint8, p Preset) flow.Record {
	keep := r.Has
	if p == Compact {
		keep &^= flow.HasEndReason
		if r.Proto != flow.ProtoTCP && r.TCPFlags == 0 {
			keep &^= flow.HasTCPFlags
		}
	}
	if p != Full {
		keep &^= flow.HasFlowID | flow.HasDropped | flow.HasRule
	}
	r.Has = keep
	r.Elements = r.AppendVerdict(nil)
	return r
}

// What is written reads back, through the decoder, for every version, preset
// and set of known fields; and what was read is written again to the octet.
func TestTemplatedRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		version := rapid.SampledFrom([]uint8{flow.VersionV9, flow.VersionIPFIX}).Draw(t, "version")
		p := rapid.SampledFrom([]Preset{Compact, Cisco, Full}).Draw(t, "preset")
		r := anyRecord(t)
		read := func(msg []byte) flow.Record {
			var b Batch
			m, err := NewDecoder(Options{}).Decode(&b, Source{Addr: flow.AddrFrom4([4]byte{127, 0, 0, 1}), Port: 1}, goldenNow, msg)
			if err != nil || m.Refused != 0 || len(b.Records) != 2 {
				t.Fatalf("%d records, %+v, %v", len(b.Records), m, err)
			}
			return b.Records[1]
		}
		first := read(templatedMessage(t, version, p, &r))
		if diff := cmp.Diff(facts(expected(r, version, p)), facts(first)); diff != "" {
			t.Fatalf("%v %v (- sent, + read):\n%s", version, p, diff)
		}
		if p == Full && r.Has&(flow.HasDropped|flow.HasRule) != 0 {
			return // read as elements; only what is metered here has them in columns
		}
		x := templatedMessage(t, version, p, &first)
		again := read(x)
		if y := templatedMessage(t, version, p, &again); !bytes.Equal(x, y) {
			t.Fatalf("%v %v: read and written again\n%x\nwas\n%x", version, p, y, x)
		}
	})
}

// templatedMessage is a message of r's template and two records.
func templatedMessage(t *rapid.T, version uint8, p Preset, r *flow.Record) []byte {
	l := NewLayout(version, ShapeOf(version, p, r, false), 300)
	header := HeaderV9Len
	if version == flow.VersionIPFIX {
		header = HeaderIPFIXLen
	}
	msg := make([]byte, header)
	msg = EndSet(l.AppendTemplate(AppendSet(msg, TemplateSet(version))), header)
	at := len(msg)
	msg = AppendSet(msg, l.ID)
	for range 2 {
		before := len(msg)
		if msg = l.Append(msg, r, goldenBoot, 0); len(msg)-before != l.Size {
			t.Fatalf("record of %d octets; layout says %d", len(msg)-before, l.Size)
		}
	}
	msg = EndSet(msg, at)
	stamp := Stamp{Unix: goldenNow - 5e8, Boot: goldenBoot}
	if version == flow.VersionIPFIX {
		PutHeaderIPFIX(msg, stamp, 0, 1)
	} else {
		PutHeaderV9(msg, 3, stamp, 0, 1)
	}
	return msg
}

// facts are a record's known fields that an exporter decides.
func facts(r flow.Record) map[string]any {
	m := map[string]any{}
	add := func(bit flow.Field, name string, v any) {
		if r.Has&bit != 0 {
			m[name] = v
		}
	}
	ms := func(t int64) int64 { return t / 1e6 }
	add(flow.HasSrc, "src", r.Src)
	add(flow.HasDst, "dst", r.Dst)
	add(flow.HasNextHop, "next_hop", r.NextHop)
	add(flow.HasBGPNextHop, "bgp_next_hop", r.BGPNextHop)
	add(flow.HasSrcPort, "sport", r.SrcPort)
	add(flow.HasDstPort, "dport", r.DstPort)
	add(flow.HasProto, "proto", r.Proto)
	add(flow.HasTOS, "tos", r.TOS)
	add(flow.HasTCPFlags, "flags", r.TCPFlags)
	add(flow.HasPackets, "packets", r.Packets)
	add(flow.HasBytes, "bytes", r.Bytes)
	add(flow.HasInput, "input", r.Input)
	add(flow.HasOutput, "output", r.Output)
	add(flow.HasFirst, "first", ms(r.First))
	add(flow.HasLast, "last", ms(r.Last))
	add(flow.HasSrcAS, "src_as", r.SrcAS)
	add(flow.HasDstAS, "dst_as", r.DstAS)
	add(flow.HasSrcMask, "src_mask", r.SrcMask)
	add(flow.HasDstMask, "dst_mask", r.DstMask)
	add(flow.HasVLAN, "vlan", r.VLAN)
	add(flow.HasICMP, "icmp", [2]uint8{r.ICMPType, r.ICMPCode})
	add(flow.HasDirection, "direction", r.Direction)
	add(flow.HasEndReason, "reason", r.EndReason)
	add(flow.HasForwardingStatus, "status", r.ForwardingStatus)
	add(flow.HasFlowID, "flow_id", r.FlowID)
	// What has no column, but for the IP version, and the times that v9 has twice.
	elements := map[string]json.RawMessage{}
	if len(r.Elements) > 0 && json.Unmarshal(r.Elements, &elements) != nil {
		elements = nil
	}
	for name, v := range elements {
		switch name {
		case "ipVersion", "flowStartSysUpTime", "flowEndSysUpTime":
		default:
			m[name] = string(v)
		}
	}
	return m
}

// Encoding allocates nothing.
func TestEncodeAllocates(t *testing.T) {
	r := golden()
	buf := make([]byte, 0, 256)
	for _, version := range []uint8{flow.VersionV9, flow.VersionIPFIX} {
		for _, p := range []Preset{Compact, Cisco, Full} {
			l := NewLayout(version, ShapeOf(version, p, &r, true), 300)
			if n := testing.AllocsPerRun(100, func() {
				if ShapeOf(version, p, &r, true) != l.Shape {
					t.Error("the shape changed")
				}
				buf = l.Append(buf[:0], &r, goldenBoot, 1)
			}); n != 0 {
				t.Errorf("v%d %v: %v allocations a record", version, p, n)
			}
		}
	}
	for name, appendRecord := range map[string]func(){
		"v1": func() { buf = AppendRecordV1(buf[:0], &r, 1, 1, goldenBoot) },
		"v5": func() { buf = AppendRecordV5(buf[:0], &r, 1, 1, goldenBoot) },
		"v7": func() { buf = AppendRecordV7(buf[:0], &r, 1, 1, goldenBoot) },
		"v8": func() {
			for s := V8AS; s < schemesV8; s++ {
				buf = AppendRecordV8(buf[:0], FormV8{Scheme: s}, &r, AggregateV8{Flows: 1}, goldenBoot)
			}
		},
	} {
		if n := testing.AllocsPerRun(100, appendRecord); n != 0 {
			t.Errorf("%s: %v allocations a record", name, n)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, c := range []struct {
		name    string
		version uint8
		preset  Preset
	}{{"v9-compact", flow.VersionV9, Compact}, {"v9-cisco", flow.VersionV9, Cisco}, {"ipfix-full", flow.VersionIPFIX, Full}} {
		b.Run(c.name, func(b *testing.B) {
			r := golden()
			l := NewLayout(c.version, ShapeOf(c.version, c.preset, &r, false), 300)
			buf := make([]byte, 0, 256)
			for b.Loop() {
				if ShapeOf(c.version, c.preset, &r, false) == l.Shape {
					buf = l.Append(buf[:0], &r, goldenBoot, 0)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(len(buf)), "B/record")
		})
	}
	b.Run("v5", func(b *testing.B) {
		r := golden()
		buf := make([]byte, 0, 256)
		for b.Loop() {
			buf = AppendRecordV5(buf[:0], &r, 1, 1, goldenBoot)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		b.ReportMetric(float64(len(buf)), "B/record")
	})
}
