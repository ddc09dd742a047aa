package wire

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"weir/flow"
)

// encodeAgain writes what was read of a v1, v5, v7 or v8 datagram; form is for
// v8.
func encodeAgain(m Message, recs []flow.Record, form FormV8) []byte {
	boot := m.Exported - int64(m.Uptime)*1e6
	h := HeaderV5{
		Count: uint16(len(recs)), Stamp: Stamp{Unix: m.Exported, Boot: boot},
		Sequence: m.Sequence, Engine: uint16(m.Domain),
	}
	if len(recs) > 0 {
		h.Sampling, _ = SamplingV5(recs[0].Sampling, false)
	}
	out := make([]byte, HeaderV8Len)
	put, size := PutHeaderV5, HeaderV5Len
	switch m.Version {
	case flow.VersionV1:
		put, size = PutHeaderV1, HeaderV1Len
	case flow.VersionV7:
		put = PutHeaderV7
	case flow.VersionV8:
		put, size = func(b []byte, h HeaderV5) { PutHeaderV8(b, h, form.Scheme) }, HeaderV8Len
	}
	put(out, h)
	out = out[:size]
	for i := range recs {
		r := &recs[i]
		p, o := uint32(r.Packets), uint32(r.Bytes)
		switch m.Version {
		case flow.VersionV1:
			out = AppendRecordV1(out, r, p, o, boot)
		case flow.VersionV5:
			out = AppendRecordV5(out, r, p, o, boot)
		case flow.VersionV7:
			out = AppendShortcutV7(out, r, ShortcutOf(r), p, o, boot)
		case flow.VersionV8:
			out = AppendRecordV8(out, form, r, AggregateOf(r), boot)
		}
	}
	return out
}

// canonical is msg as an exporter that follows the layouts writes it: reserved
// octets zero, nanoseconds whole milliseconds, v5's sampling mode 1, flows that
// end after they begin, ICMP without a source port, no octets behind the last
// record.
func canonical(t *rapid.T, version uint8, scheme SchemeV8, records int) []byte {
	head, size := HeaderV5Len, RecordV5Len
	switch version {
	case flow.VersionV1:
		head = HeaderV1Len
	case flow.VersionV7:
		size = RecordV7Len
	case flow.VersionV8:
		head, size = HeaderV8Len, scheme.RecordLen()
	}
	n := head + records*size
	b := rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "octets")
	be.PutUint16(b, uint16(version))
	be.PutUint16(b[2:], uint16(records))
	be.PutUint32(b[12:], rapid.Uint32Range(0, 999).Draw(t, "ms")*1e6)
	zero := func(f []byte, spans ...int) {
		for i := 0; i < len(spans); i += 2 {
			clear(f[spans[i] : spans[i]+spans[i+1]])
		}
	}
	uptime := be.Uint32(b[4:])
	times := func(f []byte) {
		age := rapid.Uint32Range(0, 1<<30-1).Draw(t, "age")
		be.PutUint32(f[4:], uptime-age)
		be.PutUint32(f, uptime-age-rapid.Uint32Range(0, 1<<30-1).Draw(t, "duration"))
	}
	switch version {
	case flow.VersionV5:
		interval := be.Uint16(b[22:]) & 0x3fff
		if interval == 1 {
			interval = 0
		} else if interval != 0 {
			interval |= 1 << 14
		}
		be.PutUint16(b[22:], interval)
	case flow.VersionV7:
		zero(b, 20, 4)
	case flow.VersionV8:
		b[22], b[23] = byte(scheme), 2
		zero(b, 24, 4)
	}
	for i := range records {
		f := b[head+i*size:][:size]
		if version != flow.VersionV8 {
			times(f[24:])
			proto := f[38]
			switch version {
			case flow.VersionV1:
				zero(f, 36, 2, 41, 7)
			case flow.VersionV5:
				zero(f, 36, 1, 46, 2)
			}
			if proto == flow.ProtoICMP {
				zero(f, 32, 2)
			}
			continue
		}
		switch {
		case scheme == V8Destination:
			times(f[12:])
		case scheme == V8SourceDestination:
			times(f[16:])
			zero(f, 30, 2)
		case scheme == V8FullFlow:
			times(f[20:])
			zero(f, 35, 1)
			if f[33] == flow.ProtoICMP {
				zero(f, 10, 2)
			}
		default:
			times(f[12:])
			for _, pad := range [][3]int{
				{int(V8ProtocolPort), 21, 3},
				{int(V8SourcePrefix), 25, 1},
				{int(V8SourcePrefix), 30, 2},
				{int(V8DestinationPrefix), 25, 1},
				{int(V8DestinationPrefix), 30, 2},
				{int(V8Prefix), 30, 2},
				{int(V8ASToS), 29, 3},
				{int(V8ProtocolPortToS), 22, 2},
				{int(V8SourcePrefixToS), 30, 2},
				{int(V8DestinationPrefixToS), 30, 2},
				{int(V8PrefixToS), 31, 1},
			} {
				if pad[0] == int(scheme) {
					zero(f, pad[1], pad[2])
				}
			}
			icmp := (scheme == V8ProtocolPort || scheme == V8ProtocolPortToS) && f[20] == flow.ProtoICMP
			if icmp {
				zero(f, 24, 2)
			}
			if scheme == V8PrefixPort && f[31] == flow.ProtoICMP {
				zero(f, 32, 2)
			}
		}
	}
	return b
}

// encode(decode(x)) = x for every x of fixed form, to the octet: v1, v5, v7, and
// the fourteen schemes of v8 in both orders of masks.
func TestFixedIdentity(t *testing.T) {
	identity := func(version uint8, form FormV8) func(*rapid.T) {
		return func(t *rapid.T) {
			x := canonical(t, version, form.Scheme, rapid.IntRange(1, 4).Draw(t, "records"))
			var b Batch
			m, err := NewDecoder(Options{V8DestinationMaskFirst: form.DestinationMaskFirst}).Decode(&b, testSource, testTime, x)
			if err != nil || m.Version != version {
				t.Fatalf("%x: %+v, %v", x, m, err)
			}
			if again := encodeAgain(m, b.Records, form); !bytes.Equal(again, x) {
				t.Fatalf("%v\nread  %x\nwrote %x", form, x, again)
			}
		}
	}
	for _, version := range []uint8{flow.VersionV1, flow.VersionV5, flow.VersionV7} {
		t.Run("v"+string('0'+version), func(t *testing.T) { rapid.Check(t, identity(version, FormV8{})) })
	}
	for s := V8AS; s < schemesV8; s++ {
		for _, last := range []bool{false, true} {
			name := "v8 " + s.String()
			if last {
				name += ", destination mask first"
			}
			t.Run(name, func(t *testing.T) { rapid.Check(t, identity(flow.VersionV8, FormV8{s, last})) })
		}
	}
}

// What a scheme is called, how long its records are, how many a datagram takes.
func TestSchemesV8(t *testing.T) {
	want := []struct {
		name       string
		size, most int
	}{
		{"AS", 28, 51},
		{"protocol-port", 28, 51},
		{"source-prefix", 32, 44},
		{"destination-prefix", 32, 44},
		{"prefix", 40, 35},
		{"destination", 32, 44},
		{"source-destination", 40, 35},
		{"full-flow", 44, 32},
		{"AS-ToS", 32, 44},
		{"protocol-port-ToS", 32, 44},
		{"source-prefix-ToS", 32, 44},
		{"destination-prefix-ToS", 32, 44},
		{"prefix-ToS", 40, 35},
		{"prefix-port", 40, 35},
	}
	if int(schemesV8) != len(want)+1 {
		t.Fatalf("%d schemes; want %d", schemesV8-1, len(want))
	}
	for i, w := range want {
		s := SchemeV8(i + 1)
		if !s.Valid() || s.String() != w.name || s.RecordLen() != w.size || s.MaxRecords() != w.most {
			t.Errorf("%d: %v, %d octets, %d records; want %v", s, s, s.RecordLen(), s.MaxRecords(), w)
		}
		if n := HeaderV8Len + s.MaxRecords()*s.RecordLen(); n > 1500-28 {
			t.Errorf("%v: a full datagram has %d octets", s, n)
		}
		for _, text := range []string{w.name, strings.ToLower(w.name)} {
			if got, err := ParseSchemeV8(text); got != s || err != nil {
				t.Errorf("ParseSchemeV8(%q) = %v, %v", text, got, err)
			}
		}
	}
	for _, text := range []string{"", "0", "15", "prefixes"} {
		if s, err := ParseSchemeV8(text); err == nil {
			t.Errorf("ParseSchemeV8(%q) = %v", text, s)
		}
	}
	if SchemeV8(0).Valid() || SchemeV8(15).Valid() {
		t.Error("schemes 0 and 15 are valid")
	}
}

// What 16 bits cannot hold is said as in v5; ICMP is in the destination port.
func TestV8Narrow(t *testing.T) {
	r := golden() // output 70000, destination AS 4200000000
	as := AppendRecordV8(nil, FormV8{Scheme: V8AS}, &r, AggregateV8{Flows: 3, Packets: 1000, Octets: 1_500_000}, goldenBoot)
	if want := unhex(t, "00000003 000003e8 0016e360 0036c770 0036ee80 fbf4 5ba0 0003 0000"); !bytes.Equal(as, want) {
		t.Errorf("AS:\n got %x\nwant %x", as, want)
	}
	r.Proto, r.SrcPort, r.DstPort, r.ICMPType, r.ICMPCode, r.Has = flow.ProtoICMP, 8, 0, 3, 1, r.Has|flow.HasICMP
	ports := AppendRecordV8(nil, FormV8{Scheme: V8ProtocolPort}, &r, AggregateV8{}, goldenBoot)
	if want := unhex(t, "01 00 0000 0000 0301"); !bytes.Equal(ports[20:], want) {
		t.Errorf("protocol-port of ICMP 3/1: %x; want %x", ports[20:], want)
	}
}

// A record that does not tell how many flows it is made of is one.
func TestAggregateOf(t *testing.T) {
	for _, c := range []struct {
		elements string
		want     AggregateV8
	}{
		{"", AggregateV8{Packets: 5, Octets: 6, Flows: 1}},
		{`{"deltaFlowCount":9}`, AggregateV8{Packets: 5, Octets: 6, Flows: 9}},
		{`{"deltaFlowCount":"9"}`, AggregateV8{Packets: 5, Octets: 6, Flows: 1}},
		{`{"vlanId":9}`, AggregateV8{Packets: 5, Octets: 6, Flows: 1}},
		{
			`{"markedTos":1,"extraPackets":2,"ipv4RouterSc":"10.0.0.1"}`,
			AggregateV8{Packets: 5, Octets: 6, Flows: 1, MarkedTOS: 1, ExtraPackets: 2, Router: flow.AddrFrom4([4]byte{10, 0, 0, 1})},
		},
	} {
		r := flow.Record{Packets: 5, Bytes: 6, Elements: []byte(c.elements)}
		if got := AggregateOf(&r); got != c.want {
			t.Errorf("%s: %+v; want %+v", c.elements, got, c.want)
		}
	}
}

// What others wrote (flow-tools, softflowd, pmacct, routers) is written again to
// the octet, but for fractions of a millisecond in the header, which no record
// has, the engine that flow-tools puts into reserved octets of v7's, and a
// sampling interval of a router whose mode says that it does not sample.
func TestFixedCorpus(t *testing.T) {
	all := payloads("v[1578]_*.pcap")
	if len(all) == 0 {
		t.Skip("the corpus is not there: set WEIR_CORPUS")
	}
	seen := map[uint8]int{}
	for _, x := range all {
		form := FormV8{}
		if x[1] == flow.VersionV8 {
			form = FormV8{Scheme: SchemeV8(x[22]), DestinationMaskFirst: true}
		}
		var b Batch
		m, err := NewDecoder(Options{V8DestinationMaskFirst: true}).Decode(&b, testSource, testTime, x)
		if err != nil || m.Version > flow.VersionV8 { // one file has too high a count, one v9 too
			continue
		}
		be.PutUint32(x[12:], be.Uint32(x[12:])/1e6*1e6)
		switch m.Version {
		case flow.VersionV5:
			if be.Uint16(x[22:])&0x3fff != 0 {
				x[22] = x[22]&0x3f | 0x40
			}
		case flow.VersionV7:
			clear(x[20:24])
		}
		again := encodeAgain(m, b.Records, form)
		if len(x) < len(again) {
			t.Fatalf("v%d: %d octets became %d", m.Version, len(x), len(again))
		}
		for i := range again {
			if again[i] != x[i] {
				t.Errorf("v%d %v: octet %d was %#x, became %#x", m.Version, form, i, x[i], again[i])
			}
		}
		seen[m.Version]++
	}
	for _, v := range []uint8{flow.VersionV1, flow.VersionV5, flow.VersionV7, flow.VersionV8} {
		if seen[v] == 0 {
			t.Errorf("no v%d in the corpus", v)
		}
	}
}
