package wire

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/ie"
)

// Withdrawals in all their forms (RFC 7011 section 8.1): one, several, all of a
// kind; they are obeyed over connections only.
func TestWithdrawals(t *testing.T) {
	for _, c := range []struct {
		name    string
		options bool
		ids     []uint16
		octets  string
		left    string // templates, then
	}{
		{"one", false, []uint16{256}, "0002 0008 0100 0000", "257 300o 301o"},
		{"two", false, []uint16{256, 257}, "0002 000c 0100 0000 0101 0000", "300o 301o"},
		{"all", false, nil, "0002 0008 0002 0000", "300o 301o"},
		{"one of options", true, []uint16{301}, "0003 0008 012d 0000", "256 257 300o"},
		{"all of options", true, nil, "0003 0008 0003 0000", "256 257"},
		{"an options template as a data template", false, []uint16{300}, "0002 0008 012c 0000", "256 257 300o 301o"},
		{"one that is not there", false, []uint16{999}, "0002 0008 03e7 0000", "256 257 300o 301o"},
	} {
		set := AppendWithdrawals(nil, c.options, c.ids...)
		if want := unhex(t, c.octets); !bytes.Equal(set, want) {
			t.Errorf("%s: %x; want %x", c.name, set, want)
		}
		f := []spec{{1, 4}, {2, 4}}
		define := datagram(10, 0, templateSet(10, 256, f), templateSet(10, 257, f),
			optionsSet(10, 300, []spec{{10, 4}}, []spec{{34, 4}}, ""), optionsSet(10, 301, []spec{{10, 4}}, []spec{{34, 4}}, ""))
		for _, reliable := range []bool{true, false} {
			d := NewDecoder(Options{})
			src := Source{Addr: testSource.Addr, Port: 1, Reliable: reliable}
			feedFrom(t, d, src, testTime, define)
			_, _, err := feedFrom(t, d, src, testTime, datagram(10, 0, set))
			var left []string
			for _, i := range d.Templates() {
				s := fmt.Sprint(i.ID)
				if i.Kind == "options" {
					s += "o"
				}
				left = append(left, s)
			}
			want := c.left
			if !reliable {
				want = "256 257 300o 301o"
			}
			if got := strings.Join(left, " "); got != want || (err == nil) != reliable {
				t.Errorf("%s, reliable %v: %s are left, %v; want %s", c.name, reliable, got, err, want)
			}
		}
	}
}

// The three kinds of lists (RFC 6313), written and read.
func TestListsWritten(t *testing.T) {
	fields := []FieldSpec{
		{ID: ie.IDBasicList, Length: VariableLength},
		{ID: ie.IDSubTemplateList, Length: VariableLength},
		{ID: ie.IDSubTemplateMultiList, Length: VariableLength},
	}
	inner := []FieldSpec{{ID: ie.IDSourceIPv4Address, Length: 4}, {ID: ie.IDOctetDeltaCount, Length: 2}}
	templates := AppendSet(nil, TemplateSetIPFIX)
	templates = AppendTemplate(templates, 256, fields)
	templates = AppendTemplate(templates, 257, inner)
	templates = EndSet(AppendTemplate(templates, 258, inner[1:]), 0)

	b := AppendSet(nil, 256)
	at := len(b)
	b = AppendBasicList(AppendVariable(b), Ordered, FieldSpec{ID: ie.IDMplsTopLabelStackSection, Length: 3})
	b = EndVariable(append(b, 0, 0x10, 0x01, 0, 0x20, 0x11), at)
	at = len(b)
	b = AppendSubTemplateList(AppendVariable(b), AllOf, 257)
	for i := range byte(2) {
		b = AppendUint(append(b, 192, 0, 2, i), 1000+uint64(i), 2)
	}
	b = EndVariable(b, at)
	at = len(b)
	b = AppendSubTemplateMultiList(AppendVariable(b), Undefined)
	part := len(b)
	b = EndPart(AppendUint(append(AppendPart(b, 257), 192, 0, 2, 9), 5, 2), part)
	part = len(b)
	b = EndPart(AppendUint(AppendPart(b, 258), 6, 2), part)
	b = EndSet(EndVariable(b, at), 0)

	recs, _, err := feed(t, NewDecoder(Options{}), datagram(10, 0, templates, b))
	const want = `{"basicList":{"semantic":"ordered","mplsTopLabelStackSection":["001001","002011"]},` +
		`"subTemplateList":{"semantic":"allOf","template":257,"records":[{"sourceIPv4Address":"192.0.2.0","octetDeltaCount":1000},{"sourceIPv4Address":"192.0.2.1","octetDeltaCount":1001}]},` +
		`"subTemplateMultiList":{"semantic":"undefined","records":[{"sourceIPv4Address":"192.0.2.9","octetDeltaCount":5},{"octetDeltaCount":6}]}}`
	if err != nil || len(recs) != 1 || string(recs[0].Elements) != want {
		t.Errorf("%v\n got %s\nwant %s", err, recs[0].Elements, want)
	}
}

// An integer is read the same in every length that holds it (RFC 7011 section
// 6.2), signed ones too.
func TestReducedSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "octets")
		v := rapid.Uint64().Draw(t, "value") & (math.MaxUint64 >> (64 - 8*n))
		s := int64(v<<(64-8*n)) >> (64 - 8*n)
		fields := []FieldSpec{{ID: ie.IDOctetDeltaCount, Length: uint16(n)}, {ID: ie.IDMibObjectValueInteger, Length: uint16(n)}, {ID: 4, Length: 1}}
		msg := EndSet(AppendTemplate(AppendSet(nil, TemplateSetIPFIX), 256, fields), 0)
		data := AppendUint(AppendUint(AppendSet(nil, 256), v, n), uint64(s), n)
		var b Batch
		_, err := NewDecoder(Options{}).Decode(&b, testSource, testTime, datagram(10, 0, msg, EndSet(append(data, 6), 0)))
		recs := b.Records
		if err != nil || len(recs) != 1 || recs[0].Bytes != v || string(recs[0].Elements) != fmt.Sprintf(`{"mibObjectValueInteger":%d}`, s) {
			t.Fatalf("%d in %d octets: %v, %v", v, n, recs, err)
		}
	})
}

// Times of every kind are read as they were written, to their unit, from 1970 to
// 2106 and, but for seconds, beyond; NTP's era that ends in 2036 does not show.
func TestTimesWritten(t *testing.T) {
	day := func(s string) int64 {
		at, err := time.Parse(time.DateOnly, s)
		if err != nil {
			t.Fatal(err)
		}
		return at.UnixNano()
	}
	moments := []int64{0, 1, 999_999_999, testTime + 123_456_789, day("2036-02-07") + 6*3600e9 + 28*60e9 + 15e9, day("2036-02-08"), day("2038-01-19") + 3*3600e9 + 14*60e9 + 8e9, day("2106-02-07")}
	for _, ns := range moments {
		for typ, unit := range map[ie.Type]int64{ie.DateTimeSeconds: 1e9, ie.DateTimeMilliseconds: 1e6, ie.DateTimeMicroseconds: 1e3, ie.DateTimeNanoseconds: 1} {
			b := AppendTime(nil, typ, ns)
			if typ == ie.DateTimeMicroseconds && be.Uint64(b)&0x7ff != 0 {
				t.Errorf("%v of %d: the low eleven bits of %x are not zero", typ, ns, b)
			}
			got, ok := absolute(typ, b)
			if want := ns / unit * unit; !ok || got != want {
				t.Errorf("%v: %d became %d, %v; want %d", typ, ns, got, ok, want)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		ns := rapid.Int64Range(0, 4_000_000_000e9).Draw(t, "ns")
		if got, _ := absolute(ie.DateTimeNanoseconds, AppendTime(nil, ie.DateTimeNanoseconds, ns)); got != ns {
			t.Fatalf("%d became %d", ns, got)
		}
		if got, _ := absolute(ie.DateTimeMicroseconds, AppendTime(nil, ie.DateTimeMicroseconds, ns)); got != ns/1e3*1e3 {
			t.Fatalf("%d in µs became %d", ns, got)
		}
	})
}

// A biflow (RFC 5103): what is counted of the other direction has the same number
// under the enterprise number 29305, and its own name when read.
func TestBiflowWritten(t *testing.T) {
	fields := []FieldSpec{
		{ID: ie.IDOctetDeltaCount, Length: 8},
		{PEN: ie.Reverse, ID: ie.IDOctetDeltaCount, Length: 4},
		{PEN: ie.Reverse, ID: ie.IDFlowStartMilliseconds, Length: 8},
		{ID: ie.IDBiflowDirection, Length: 1},
	}
	template := EndSet(AppendTemplate(AppendSet(nil, TemplateSetIPFIX), 256, fields), 0)
	if want := unhex(t, "0002 0020 0100 0004 0001 0008 8001 0004 00007279 8098 0008 00007279 00ef 0001"); !bytes.Equal(template, want) {
		t.Errorf("template\n got %x\nwant %x", template, want)
	}
	data := AppendUint(AppendUint(AppendSet(nil, 256), 1000, 8), 70, 4)
	data = append(AppendTime(data, ie.DateTimeMilliseconds, testTime), 1)
	recs, _, err := feed(t, NewDecoder(Options{}), datagram(10, 0, template, EndSet(data, 0)))
	const want = `bytes=1000 {"reverseOctetDeltaCount":70,"reverseFlowStartMilliseconds":"2023-11-14T22:13:20.000Z","biflowDirection":1}`
	if err != nil || len(recs) != 1 || show(&recs[0]) != want {
		t.Errorf("%v\n got %s\nwant %s", err, show(&recs[0]), want)
	}
	for id, want := range map[uint16]bool{
		ie.IDOctetDeltaCount: true, ie.IDFlowStartMilliseconds: true, ie.IDTcpControlBits: true, ie.IDIngressInterface: true,
		ie.IDFlowId: false, ie.IDBiflowDirection: false, ie.IDPaddingOctets: false, ie.IDExportedMessageTotalCount: false, 65: false,
	} {
		if ie.Reversible(id) != want {
			t.Errorf("element %d is reversible: %v; want %v", id, !want, want)
		}
	}
}

// Strings and octets of variable length around the limits of the short form.
func TestVariableLengthWritten(t *testing.T) {
	for _, n := range []int{0, 1, 254, 255, 256, 65535, 65536} {
		b := AppendString(nil, bytes.Repeat([]byte{'x'}, n), VariableLength)
		n = min(n, 65535)
		if from, to, ok := variable(b); !ok || to != len(b) || to-from != n || (n < 255) != (from == 1) {
			t.Errorf("%d octets: %x, read from %d to %d, %v", n, b[:min(4, len(b))], from, to, ok)
		}
	}
}
