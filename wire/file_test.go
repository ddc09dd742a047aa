package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"weir/flow"
	"weir/ie"
)

// readFile reads a file of messages as weir decode does.
func readFile(t testing.TB, b []byte) []flow.Record {
	t.Helper()
	d := NewDecoder(Options{})
	var batch Batch
	for len(b) > 0 {
		n := Next(b)
		if n == 0 {
			t.Fatalf("no message begins at the %d last octets", len(b))
		}
		if _, err := d.Decode(&batch, Source{Reliable: true}, testTime, b[:n]); err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
	d.Finish()
	if records, _ := d.Sequences(); records != (SequenceInfo{Unit: "records"}) {
		t.Errorf("sequence: %+v", records)
	}
	for _, s := range d.Exporters() {
		if len(d.Exporters()) != 1 || s.Records != uint64(len(batch.Records)) || s.Redefined != 0 {
			t.Errorf("%+v", s)
		}
	}
	return batch.Records
}

// What a file adds to a record's elements, and where they came from.
var fileElements = []string{"exporterIPv4Address", "exporterIPv6Address", "originalObservationDomainId", "exportProtocolVersion", "collectionTimeMilliseconds"}

// The file of a record, to the octet.
func TestFileGolden(t *testing.T) {
	r := flow.Record{
		Src: flow.AddrFrom4([4]byte{10, 1, 2, 3}), Proto: flow.ProtoUDP, Bytes: 1000, Last: goldenBoot + 5e6, Version: flow.VersionV8,
		Exporter: flow.AddrFrom4([4]byte{192, 0, 2, 1}), Domain: 7, Received: goldenBoot + 9e9,
		Elements: []byte(`{"interfaceName":"lo","deltaFlowCount":3,"pen4711.9":"ab","basicList":{}}`),
		Has:      flow.HasSrc | flow.HasProto | flow.HasBytes | flow.HasLast | flow.HasExporter | flow.HasDomain | flow.HasReceived,
	}
	var file bytes.Buffer
	w := NewFileWriter(&file, 42)
	if err := w.WriteRecords([]flow.Record{r}); err != nil {
		t.Fatal(err)
	}
	want := unhex(t, `
		000a 0080 6553f109 00000000 0000002a
		0002 0038 0100 000b
		0008 0004 0004 0001 0001 0008       # what a layout has, no destination, nor a beginning
		0099 0008                           # flowEndMilliseconds
		0082 0004 0195 0004 00d6 0001 0102 0008
		0003 0008 0052 ffff 8009 ffff 00001267
		0100 0038
		0a010203 11 00000000000003e8 0000018bcfe56805
		c0000201 00000007 08 0000018bcfe58b28
		0000000000000003 026c6f 01ab 00`)
	if !bytes.Equal(file.Bytes(), want) {
		t.Errorf("\n got %x\nwant %x", file.Bytes(), want)
	}
	if w.Unwritten() != 1 {
		t.Errorf("%d values were not written; want the list alone", w.Unwritten())
	}
}

// What others exported, written as a file and read again, says the same.
func TestFileCorpus(t *testing.T) {
	all := slices.Concat(payloads("v[1578]_*.pcap"), payloads("v9_*.pcap"), payloads("ipfix_*.pcap"))
	if len(all) == 0 {
		t.Skip("the corpus is not there: set WEIR_CORPUS")
	}
	d := NewDecoder(Options{})
	var in Batch
	for _, msg := range all {
		d.Decode(&in, testSource, testTime, msg)
	}
	if len(in.Records) < 1000 {
		t.Fatalf("%d records in the corpus", len(in.Records))
	}
	var file bytes.Buffer
	w := NewFileWriter(&file, 1)
	for batch := range slices.Chunk(in.Records, 700) {
		if err := w.WriteRecords(batch); err != nil {
			t.Fatal(err)
		}
	}
	out := readFile(t, file.Bytes())
	if len(out) != len(in.Records) {
		t.Fatalf("%d records became %d", len(in.Records), len(out))
	}
	unwritten := uint64(0)
	for i := range out {
		a, b := in.Records[i], out[i]
		want, got := columnsOf(&a), columnsOf(&b)
		if a.Has&flow.HasICMP != 0 {
			want["sport"] = uint64(0) // as ICMP's is; ASA's NSEL has the identifier there
		}
		if fmt.Sprint(want) != fmt.Sprint(got) {
			t.Fatalf("record %d, v%d:\nread      %v %s\nfrom file %v %s", i, a.Version, want, a.Elements, got, b.Elements)
		}
		have, kept := elementsOf(t, a.Elements), elementsOf(t, b.Elements)
		for _, name := range fileElements {
			if _, was := have[name]; !was {
				delete(kept, name)
			}
		}
		if a.Has&flow.HasICMP != 0 { // there are no other ports then, and these fill the columns
			for _, name := range []string{"tcpSourcePort", "tcpDestinationPort", "udpSourcePort", "udpDestinationPort"} {
				delete(have, name)
			}
		}
		for name := range maps.Clone(have) {
			if e, ok := elementOf(name); !ok || e.Type.List() {
				delete(have, name)
				unwritten++
			}
		}
		if fmt.Sprint(have) != fmt.Sprint(kept) {
			t.Fatalf("record %d, v%d:\nread      %v\nfrom file %v", i, a.Version, have, kept)
		}
	}
	if w.Unwritten() != unwritten {
		t.Errorf("%d values are told as not written; %d are missing", w.Unwritten(), unwritten)
	}
	t.Logf("%d records, %d octets, %d values not written", len(out), file.Len(), unwritten)
}

// A file may have more kinds of records than template numbers are kept: all are
// withdrawn, and begin anew. No message is too long.
func TestFileManyTemplates(t *testing.T) {
	var file bytes.Buffer
	w := NewFileWriter(&file, 1)
	var in []flow.Record
	for i := range maxFileTemplates + 10 {
		in = append(in, flow.Record{
			Bytes: uint64(i), Has: flow.HasBytes,
			Elements: fmt.Appendf(nil, `{"pen%d.1":"00"}`, 100_000+i),
		})
	}
	in = append(in, flow.Record{Bytes: 1, Has: flow.HasBytes, Elements: fmt.Appendf(nil, `{"payload":%q}`, strings.Repeat("ab", 9000))})
	if err := w.WriteRecords(in); err != nil {
		t.Fatal(err)
	}
	if out := readFile(t, file.Bytes()); len(out) != len(in) || out[maxFileTemplates+5].Bytes != maxFileTemplates+5 {
		t.Errorf("%d records; want %d", len(out), len(in))
	}
	if w.Unwritten() != 1 {
		t.Errorf("%d values were not written; want 1, which is too long", w.Unwritten())
	}
}

// What a type's values look like in Elements is what a file makes octets of.
func TestFileValues(t *testing.T) {
	for _, c := range []struct {
		typ  ie.Type
		json string
		want string // with the length in front; empty: not written
	}{
		{ie.Unsigned16, `300`, "0002 012c"},
		{ie.Unsigned16, `70000`, "0008 0000000000011170"}, // sent longer than it is
		{ie.Unsigned64, `18446744073709551615`, "0008 ffffffffffffffff"},
		{ie.Signed32, `-2`, "0004 fffffffe"},
		{ie.Unsigned16, `-2`, ""},
		{ie.Unsigned16, `"abcdef"`, "ffff 03abcdef"},
		{ie.Unsigned16, `"xyz"`, ""},
		{ie.Float64, `1.5`, "0008 3ff8000000000000"},
		{ie.Boolean, `true`, "0001 01"},
		{ie.Boolean, `false`, "0001 02"},
		{ie.String, `"añ"`, "ffff 0361c3b1"},
		{ie.OctetArray, `"0102"`, "ffff 020102"},
		{ie.OctetArray, `7`, ""},
		{ie.IPv4Address, `"192.0.2.1"`, "0004 c0000201"},
		{ie.IPv4Address, `"2001:db8::1"`, ""},
		{ie.IPv6Address, `"2001:db8::1"`, "0010 20010db8000000000000000000000001"},
		{ie.MACAddress, `"02:00:00:00:00:01"`, "0006 020000000001"},
		{ie.DateTimeSeconds, `"2023-11-14T22:13:20Z"`, "0004 6553f100"},
		{ie.DateTimeMilliseconds, `"2023-11-14T22:13:20.001Z"`, "0008 0000018bcfe56801"},
		{ie.DateTimeMilliseconds, `"9999-11-14T22:13:20.001Z"`, ""},
		{ie.BasicList, `{"semantic":"allOf"}`, ""},
		{ie.BasicList, `"0001"`, ""},
	} {
		w := NewFileWriter(nil, 0)
		ok := w.element(ie.Element{ID: 500, Type: c.typ}, json.RawMessage(c.json))
		var got []byte
		if ok {
			got = append(be.AppendUint16(nil, w.extras[0].Length), w.values...)
		}
		if want := unhex(t, c.want); !bytes.Equal(got, want) || ok != (c.want != "") {
			t.Errorf("%v %s: %x; want %x", c.typ, c.json, got, want)
		}
	}
}

// FuzzFile writes any elements: whatever they are, the file can be read, and the
// record's columns are in it.
func FuzzFile(f *testing.F) {
	f.Add([]byte(`{"interfaceName":"lo","deltaFlowCount":3,"pen4711.9":"ab","basicList":{},"vlanId":[1,2]}`))
	f.Add([]byte(`{"pen":"","pen4294967296.1":"00","ie0":"","ie40000":"00","reverse":1,"sourceIPv4Address":"::","flowStartSeconds":"1969-01-01T00:00:00Z"}`))
	f.Add([]byte(`[1]`))
	f.Fuzz(func(t *testing.T, elements []byte) {
		var file bytes.Buffer
		w := NewFileWriter(&file, 1)
		r := flow.Record{Bytes: 77, VLAN: 9, Proto: 6, Has: flow.HasBytes | flow.HasVLAN | flow.HasProto, Elements: elements}
		if err := w.WriteRecords([]flow.Record{r, r}); err != nil {
			t.Fatal(err)
		}
		for _, r := range readFile(t, file.Bytes()) {
			if r.Bytes != 77 || r.VLAN != 9 || r.Proto != 6 {
				t.Fatalf("%s gave %+v", elements, r)
			}
		}
	})
}
