package wire

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"weir/flow"
)

// stream is what a router sends: datagrams of one version with the 19 fields
// that the benchmarks' generator uses, of IPv4 or IPv6.
type spec struct{ id, n uint16 }

func usual(ipfix, v6 bool) []spec {
	src, dst, nh, a, sm, dm := uint16(8), uint16(12), uint16(15), uint16(4), uint16(9), uint16(13)
	if v6 {
		src, dst, nh, a, sm, dm = 27, 28, 62, 16, 29, 30
	}
	first, last, tl := uint16(22), uint16(21), uint16(4)
	if ipfix {
		first, last, tl = 152, 153, 8
	}
	return []spec{
		{src, a},
		{dst, a},
		{nh, a},
		{10, 4},
		{14, 4},
		{2, 8},
		{1, 8},
		{first, tl},
		{last, tl},
		{7, 2},
		{11, 2},
		{6, 1},
		{4, 1},
		{5, 1},
		{sm, 1},
		{dm, 1},
		{16, 4},
		{17, 4},
		{61, 1},
	}
}

func templateSet(version int, id uint16, fields []spec) []byte {
	set := uint16(setV9Templates)
	if version == 10 {
		set = setIPFIXTemplates
	}
	b := be.AppendUint16(nil, set)
	b = be.AppendUint16(b, uint16(8+4*len(fields)))
	b = be.AppendUint16(b, id)
	b = be.AppendUint16(b, uint16(len(fields)))
	for _, f := range fields {
		b = be.AppendUint16(be.AppendUint16(b, f.id), f.n)
	}
	return b
}

func dataSet(id uint16, fields []spec, n int) []byte {
	b := be.AppendUint16(be.AppendUint16(nil, id), 0)
	for r := range n {
		for _, f := range fields {
			for i := range f.n {
				c := byte(0)
				if i == f.n-1 {
					c = byte(r + int(f.id))
				}
				b = append(b, c)
			}
		}
	}
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	be.PutUint16(b[2:], uint16(len(b)))
	return b
}

// datagram puts a header in front of sets.
func datagram(version int, seq uint32, sets ...[]byte) []byte {
	var b []byte
	switch version {
	case 9:
		b = be.AppendUint16(be.AppendUint16(nil, 9), uint16(len(sets)))
		b = be.AppendUint32(b, 3600_000)
		b = be.AppendUint32(b, 1_700_000_000)
		b = be.AppendUint32(b, seq)
		b = be.AppendUint32(b, 1)
	case 10:
		b = be.AppendUint16(be.AppendUint16(nil, 10), 0)
		b = be.AppendUint32(b, 1_700_000_000)
		b = be.AppendUint32(b, seq)
		b = be.AppendUint32(b, 1)
	}
	for _, s := range sets {
		b = append(b, s...)
	}
	if version == 10 {
		be.PutUint16(b[2:], uint16(len(b)))
	}
	return b
}

var testSource = Source{Addr: flow.AddrFrom4([4]byte{192, 0, 2, 1}), Port: 50000}

// steady is a decoder that knows the template, and a data datagram of n records.
func steady(version int, fields []spec, n int) (*Decoder, *Batch, []byte) {
	d, b := NewDecoder(Options{}), &Batch{}
	if _, err := d.Decode(b, testSource, 1_700_000_000e9, datagram(version, 0, templateSet(version, 256, fields))); err != nil {
		panic(err)
	}
	b.Reset()
	return d, b, datagram(version, 1, dataSet(256, fields, n))
}

func v5Datagram(n int) []byte {
	b := make([]byte, 24+48*n)
	be.PutUint16(b, 5)
	be.PutUint16(b[2:], uint16(n))
	be.PutUint32(b[4:], 3600_000)
	be.PutUint32(b[8:], 1_700_000_000)
	return b
}

// benchmark also reports the least time that a batch of records took, which says what the code
// can do while others want the machine, too.
func benchmark(b *testing.B, d *Decoder, batch *Batch, msg []byte, seq, n int) {
	b.ReportAllocs()
	s := uint32(1)
	records := 0
	least, turn := math.Inf(1), time.Now()
	for b.Loop() {
		be.PutUint32(msg[seq:], s)
		if seq == 12 {
			s++
		} else {
			s += uint32(n)
		}
		m, err := d.Decode(batch, testSource, 1_700_000_000e9, msg)
		if err != nil || m.Records != n {
			b.Fatal(m, err)
		}
		records += m.Records
		if got := len(batch.Records); got > 4096 {
			now := time.Now()
			least, turn = min(least, float64(now.Sub(turn).Nanoseconds())/float64(got)), now
			batch.Reset()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(records), "ns/record")
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(least, "least-ns/record")
}

func BenchmarkDecodeV5(b *testing.B) {
	benchmark(b, NewDecoder(Options{}), &Batch{}, v5Datagram(30), 16, 30)
}

func BenchmarkDecodeV9IPv4(b *testing.B) {
	d, batch, msg := steady(9, usual(false, false), 22)
	benchmark(b, d, batch, msg, 12, 22)
}

func BenchmarkDecodeV9IPv6(b *testing.B) {
	d, batch, msg := steady(9, usual(false, true), 13)
	benchmark(b, d, batch, msg, 12, 13)
}

func BenchmarkDecodeIPFIXIPv4(b *testing.B) {
	d, batch, msg := steady(10, usual(true, false), 19)
	benchmark(b, d, batch, msg, 8, 19)
}

// Five fields without a column.
func BenchmarkDecodeIPFIXElements(b *testing.B) {
	fields := append(usual(true, false), spec{56, 6}, spec{52, 1}, spec{53, 1}, spec{60, 1}, spec{234, 4})
	d, batch, msg := steady(10, fields, 16)
	benchmark(b, d, batch, msg, 8, 16)
}

// Five fields without a column that have many digits: an address translator's.
func BenchmarkDecodeIPFIXTranslated(b *testing.B) {
	fields := append(usual(true, false), spec{225, 4}, spec{226, 4}, spec{227, 2}, spec{228, 2}, spec{234, 4})
	const n, ours = 16, 16 // octets of the five
	d, batch, msg := steady(10, fields, n)
	octets := rand.New(rand.NewPCG(1, 2))
	records := msg[16+4:]
	size := len(records) / n
	for i := range records {
		if i%size >= size-ours {
			records[i] = byte(octets.Uint32())
		}
	}
	benchmark(b, d, batch, msg, 8, n)
}

// Decoding allocates nothing once the batch has grown: the budget of the hot
// path, for each kind of message.
func TestDecodeAllocates(t *testing.T) {
	for _, c := range []struct {
		name string
		make func() (*Decoder, *Batch, []byte)
	}{
		{"v5", func() (*Decoder, *Batch, []byte) { return NewDecoder(Options{}), &Batch{}, v5Datagram(30) }},
		{"v1", func() (*Decoder, *Batch, []byte) {
			b := v5Datagram(30)
			be.PutUint16(b, 1)
			return NewDecoder(Options{}), &Batch{}, b
		}},
		{"v7", func() (*Decoder, *Batch, []byte) {
			b := append(v5Datagram(0), make([]byte, 27*RecordV7Len)...)
			b[1], b[3], b[HeaderV5Len+48] = 7, 27, 10 // a router that was bypassed
			return NewDecoder(Options{}), &Batch{}, b
		}},
		{"v8", func() (*Decoder, *Batch, []byte) {
			b := append(v5Datagram(0), make([]byte, 4+35*V8PrefixPort.RecordLen())...)
			b[1], b[3], b[22] = 8, 35, byte(V8PrefixPort)
			return NewDecoder(Options{}), &Batch{}, b
		}},
		{"v9 IPv4", func() (*Decoder, *Batch, []byte) { return steady(9, usual(false, false), 22) }},
		{"v9 IPv6", func() (*Decoder, *Batch, []byte) { return steady(9, usual(false, true), 13) }},
		{"IPFIX", func() (*Decoder, *Batch, []byte) { return steady(10, usual(true, false), 19) }},
		{"IPFIX with elements", func() (*Decoder, *Batch, []byte) {
			return steady(10, append(usual(true, false), spec{56, 6}, spec{52, 1}, spec{234, 4}, spec{323, 8}, spec{82, 16}), 10)
		}},
		{"IPFIX, variable length and elements", func() (*Decoder, *Batch, []byte) {
			d, b, _ := steady(10, []spec{{96, 65535}, {56, 6}, {1, 8}, {234, 4}, {225, 4}, {2, 1}}, 1)
			set := append([]byte{1, 0, 0, 4 + 28}, 4, 'h', 't', 't', 'p', 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 2, 3, 4, 192, 0, 2, 1, 7)
			return d, b, datagram(10, 1, append(set, 0))
		}},
		{"IPFIX, variable length", func() (*Decoder, *Batch, []byte) {
			d, b, _ := steady(10, []spec{{8, 4}, {12, 4}, {96, 65535}, {1, 8}}, 1)
			set := append([]byte{1, 0, 0, 4 + 20}, 192, 0, 2, 1, 192, 0, 2, 2, 3, 'd', 'n', 's', 0, 0, 0, 0, 0, 0, 1, 0)
			return d, b, datagram(10, 1, set)
		}},
	} {
		d, b, msg := c.make()
		allocs := testing.AllocsPerRun(100, func() {
			if m, err := d.Decode(b, testSource, 1_700_000_000e9, msg); err != nil || m.Records == 0 {
				t.Fatal(c.name, m, err)
			}
			b.Reset()
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations a datagram, want 0", c.name, allocs)
		}
	}
}

// A minute of a storm of templates: 2,000 exporters send 100 templates each, as
// they were a minute ago, or every one another than it was.
func BenchmarkTemplateStorm(b *testing.B) {
	const exporters, templates, perMessage = 2000, 100, 20
	messages := func(turn int) (list [][]byte) {
		for at := 0; at < templates; at += perMessage {
			set := AppendSet(nil, TemplateSetIPFIX)
			for i := range perMessage {
				fields := make([]FieldSpec, 0, 20)
				for j, f := range usual(true, i%2 == 1) {
					fields = append(fields, FieldSpec{ID: f.id, Length: f.n})
					if j == turn%19 {
						fields = append(fields, FieldSpec{ID: 136, Length: 1})
					}
				}
				set = AppendTemplate(set, uint16(256+at+i), fields)
			}
			list = append(list, datagram(10, 0, EndSet(set, 0)))
		}
		return list
	}
	for _, c := range []struct {
		name  string
		turns int
	}{{"again", 1}, {"changed", 2}} {
		b.Run(c.name, func(b *testing.B) {
			d, batch := NewDecoder(Options{Limits: Limits{TemplateOctets: 2 << 30}}), &Batch{}
			var load [][][]byte
			for turn := range c.turns {
				load = append(load, messages(turn))
			}
			minute := func(turn int) {
				for e := range exporters {
					src := Source{Addr: flow.AddrFrom4([4]byte{10, 0, byte(e >> 8), byte(e)}), Port: 4739}
					for _, msg := range load[turn%c.turns] {
						batch.Reset()
						if m, err := d.Decode(batch, src, testTime, msg); err != nil || m.Templates != perMessage {
							b.Fatal(m, err)
						}
					}
				}
			}
			minute(0)
			b.ReportAllocs()
			b.ResetTimer()
			turn := 1
			for b.Loop() {
				minute(turn)
				turn++
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/60*100, "%core")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(exporters*templates), "ns/template")
		})
	}
}
