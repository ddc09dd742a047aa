package wire

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"

	"weir/flow"
	"weir/ie"
)

// typesSets are a template set for type information, as number id, and a set of
// records about elements.
func typesSets(id uint16, elements ...ie.Element) []byte {
	b := EndSet(AppendOptionsTemplate(AppendSet(nil, OptionsSetIPFIX), flow.VersionIPFIX, id, 2, TypeInformation), 0)
	at := len(b)
	b = AppendSet(b, id)
	for _, e := range elements {
		b = AppendTypeInformation(b, e, "of "+e.Name)
	}
	return EndSet(b, at)
}

// Elements of a made-up enterprise.
var (
	tasteOfPacket = ie.Element{PEN: 4711, ID: 9, Type: ie.Signed16, Semantics: ie.Quantity, Name: "tasteOfPacket", Units: "packets"}
	nameOfTaste   = ie.Element{PEN: 4711, ID: 10, Type: ie.String, Name: "nameOfTaste"}
)

// tastes are a template and a record with those two.
func tastes() (template, data []byte) {
	fields := []FieldSpec{{ID: 4, Length: 1}, {PEN: 4711, ID: 9, Length: 2}, {PEN: 4711, ID: 10, Length: VariableLength}}
	template = EndSet(AppendTemplate(AppendSet(nil, TemplateSetIPFIX), 256, fields), 0)
	data = AppendSet(nil, 256)
	data = append(data, flow.ProtoTCP)
	data = AppendUint(data, 0xfffe, 2)
	data = AppendString(data, "sour", VariableLength)
	return template, EndSet(data, 0)
}

// RFC 5610: an unknown enterprise element becomes named, whenever the type comes.
func TestTypeInformation(t *testing.T) {
	template, data := tastes()
	types := typesSets(400, tasteOfPacket, nameOfTaste)
	const (
		named   = `proto=6 {"tasteOfPacket":-2,"nameOfTaste":"sour"}`
		unnamed = `proto=6 {"pen4711.9":"fffe","pen4711.10":"736f7572"}`
	)
	message := func(sets ...[]byte) []byte { return datagram(10, 0, sets...) }
	for _, c := range []struct {
		name     string
		messages [][]byte
		want     string // of the last record
	}{
		{"no types", [][]byte{message(template, data)}, unnamed},
		{"before the template", [][]byte{message(types), message(template, data)}, named},
		{"between template and data", [][]byte{message(template), message(types), message(data)}, named},
		{"after data was read without", [][]byte{message(template, data), message(types), message(data)}, named},
		{"in one message", [][]byte{message(template, types, data)}, named},
		{"data waited for its template", [][]byte{message(data), message(types, template)}, named},
		{"the template again", [][]byte{message(types), message(template), message(template, data)}, named},
	} {
		d := NewDecoder(Options{})
		var last string
		for _, msg := range c.messages {
			recs, _, err := feed(t, d, msg)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			for i := range recs {
				last = show(&recs[i])
			}
		}
		if last != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, last, c.want)
		}
	}
}

// Names from outside never pass for others.
func TestTypeInformationRefused(t *testing.T) {
	template, data := tastes()
	for _, c := range []struct {
		element ie.Element
		want    string
	}{
		{ie.Element{PEN: 4711, ID: 9, Type: ie.Signed16, Name: "octetDeltaCount"}, `"pen4711.9":-2,`}, // IANA's
		{ie.Element{PEN: 4711, ID: 9, Type: ie.Signed16, Name: "tunnelKey"}, `"pen4711.9":-2,`},       // VMware's
		{ie.Element{PEN: 4711, ID: 9, Type: ie.Signed16, Name: `a","b`}, `"pen4711.9":-2,`},
		{ie.Element{PEN: 4711, ID: 9, Type: ie.Signed16, Name: strings.Repeat("x", 129)}, `"pen4711.9":-2,`},
		{ie.Element{PEN: 4711, ID: 9, Type: 99, Name: "unheardOf"}, `"pen4711.9":"fffe",`},
		{ie.Element{PEN: 0, ID: 4, Type: ie.String, Name: "protocolName"}, `"pen4711.9":"fffe",`},
		{ie.Element{PEN: 4712, ID: 9, Type: ie.Signed16, Name: "someoneElses"}, `"pen4711.9":"fffe",`},
	} {
		d := NewDecoder(Options{})
		feed(t, d, datagram(10, 0, typesSets(400, c.element)))
		recs, _, err := feed(t, d, datagram(10, 0, template, data))
		if err != nil || len(recs) != 1 || !strings.Contains(string(recs[0].Elements), c.want) || recs[0].Proto != flow.ProtoTCP {
			t.Errorf("%+v: %s, %v; want %s in it", c.element, show(&recs[0]), err, c.want)
		}
	}
}

// IANA's numbers that the registry here does not have yet may be described, too.
func TestTypeInformationOfNewElements(t *testing.T) {
	d := NewDecoder(Options{})
	feed(t, d, datagram(10, 0, typesSets(400, ie.Element{ID: 65, Type: ie.Unsigned8, Name: "gap"}, ie.Element{ID: 9999, Type: ie.Unsigned8, Name: "beyond"})))
	template := EndSet(AppendTemplate(AppendSet(nil, TemplateSetIPFIX), 256, []FieldSpec{{ID: 65, Length: 1}, {ID: 9999, Length: 1}, {ID: 4, Length: 2}}), 0)
	recs, _, err := feed(t, d, datagram(10, 2, template, EndSet(append(AppendSet(nil, 256), 1, 2, 0, 6), 0)))
	const want = `proto=6 {"gap":1,"beyond":2}`
	if err != nil || len(recs) != 1 || show(&recs[0]) != want {
		t.Errorf("%s, %v; want %s", show(&recs[0]), err, want)
	}
}

// What domain 0 tells counts for the whole exporter; another exporter's does not.
func TestTypeInformationScope(t *testing.T) {
	template, data := tastes()
	whole := datagram(10, 0, typesSets(400, tasteOfPacket, nameOfTaste))
	be.PutUint32(whole[12:], 0)
	d := NewDecoder(Options{})
	feedFrom(t, d, Source{Addr: flow.AddrFrom4([4]byte{192, 0, 2, 77})}, testTime, whole)
	recs, _, _ := feed(t, d, datagram(10, 0, template, data))
	if got := show(&recs[0]); strings.Contains(got, "taste") {
		t.Errorf("another exporter's types were used: %s", got)
	}
	feed(t, d, whole)
	recs, _, _ = feed(t, d, datagram(10, 1, data))
	if got := show(&recs[0]); !strings.Contains(got, `"tasteOfPacket":-2`) {
		t.Errorf("domain 0's types were not used: %s", got)
	}
}

// Types are bounded, live in the state file, and cost nothing where none are.
func TestTypeInformationLimits(t *testing.T) {
	d := NewDecoder(Options{Limits: smallLimits})
	for i := range 8 {
		_, _, err := feed(t, d, datagram(10, 0, typesSets(400, ie.Element{PEN: 4711, ID: uint16(i), Type: ie.String, Name: fmt.Sprintf("taste%d", i)})))
		if (err != nil) != (i >= smallLimits.Types) {
			t.Errorf("type %d: %v", i, err)
		}
	}
	if n := count(d, TypeLimit); n != 3 {
		t.Errorf("%d counted as type-limit; want 3", n)
	}

	template, data := tastes()
	d = NewDecoder(Options{})
	feed(t, d, datagram(10, 0, template, typesSets(400, tasteOfPacket, nameOfTaste)))
	again := NewDecoder(Options{})
	if err := LoadState(AppendState(nil, d), func(flow.Addr) *Decoder { return again }); err != nil {
		t.Fatal(err)
	}
	recs, _, _ := feed(t, again, datagram(10, 2, data))
	if got := show(&recs[0]); !strings.Contains(got, `"tasteOfPacket":-2`) {
		t.Errorf("after a restart: %s", got)
	}
}

// A described element is known within lists, too.
func TestTypeInformationInLists(t *testing.T) {
	fields := []FieldSpec{{ID: 4, Length: 1}, {ID: ie.IDBasicList, Length: VariableLength}}
	template := EndSet(AppendTemplate(AppendSet(nil, TemplateSetIPFIX), 257, fields), 0)
	data := append(AppendSet(nil, 257), 6)
	at := len(data)
	data = AppendBasicList(AppendVariable(data), AllOf, FieldSpec{PEN: 4711, ID: 10, Length: VariableLength})
	data = AppendString(AppendString(data, "sour", VariableLength), "salt", VariableLength)
	data = EndSet(EndVariable(data, at), 0)
	recs, _, err := feed(t, NewDecoder(Options{}), datagram(10, 0, typesSets(400, nameOfTaste), template, data))
	const want = `{"basicList":{"semantic":"allOf","nameOfTaste":["sour","salt"]}}`
	if err != nil || len(recs) != 1 || string(recs[0].Elements) != want {
		t.Errorf("%s, %v; want %s", show(&recs[0]), err, want)
	}
}

// A state file of version 1, which knew no types, is read.
func TestStateVersion1(t *testing.T) {
	template, data := tastes()
	d := NewDecoder(Options{})
	feed(t, d, datagram(10, 0, template))
	v2 := AppendState(nil, d)
	const types = 8 + 8 + 4 + 23 + 24 + 14 // behind them the count of types, 0
	v1 := append(slices.Clone(v2[:types]), v2[types+4:len(v2)-4]...)
	v1[7] = 1
	be.PutUint64(v1[8:], be.Uint64(v1[8:])-4)
	v1 = be.AppendUint32(v1, crc32.Checksum(v1, castagnoli))
	again := NewDecoder(Options{})
	if err := LoadState(v1, func(flow.Addr) *Decoder { return again }); err != nil {
		t.Fatal(err)
	}
	if recs, _, err := feed(t, again, datagram(10, 1, data)); err != nil || len(recs) != 1 {
		t.Errorf("%d records, %v", len(recs), err)
	}
}
