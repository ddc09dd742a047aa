package wire

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"weir/flow"
	"weir/ie"
)

// optionsSet makes an options template and a data set of it. scope and rest are
// fields, data their octets.
func optionsSet(version int, id uint16, scope, rest []spec, data string) []byte {
	var b []byte
	if version == 9 {
		b = be.AppendUint16(be.AppendUint16(nil, id), uint16(4*len(scope)))
		b = be.AppendUint16(b, uint16(4*len(rest)))
	} else {
		b = be.AppendUint16(be.AppendUint16(nil, id), uint16(len(scope)+len(rest)))
		b = be.AppendUint16(b, uint16(len(scope)))
	}
	for _, f := range append(append([]spec{}, scope...), rest...) {
		b = be.AppendUint16(be.AppendUint16(b, f.id), f.n)
	}
	set := uint16(setV9Options)
	if version == 10 {
		set = setIPFIXOptions
	}
	b = append(be.AppendUint16(be.AppendUint16(nil, set), uint16(len(b)+4)), b...)
	d := octets(data)
	return append(be.AppendUint16(be.AppendUint16(b, id), uint16(len(d)+4)), d...)
}

// Sampling as exporters announce it, and the records it then holds for. 0: not
// known.
func TestSampling(t *testing.T) {
	plain := []spec{{1, 4}}
	bySampler := []spec{{1, 4}, {48, 2}}
	bySelector := []spec{{1, 4}, {302, 8}}
	withInput := []spec{{1, 4}, {10, 4}}
	for _, c := range []struct {
		name    string
		version int
		options []string // each: a set, see below
		record  []spec
		data    string
		want    uint32
	}{
		{"nothing announced", 9, nil, plain, "00000001", 0},
		{"v9: interval and algorithm of the system", 9, []string{"s 1 34.4 35.1 | 00000000 00000064 02"}, plain, "00000001", 100},
		{"an interval of 0 is none", 9, []string{"s 1 34.4 35.1 | 00000000 00000000 00"}, plain, "00000001", 0},
		{"an interval beyond belief is none", 9, []string{"s 1 34.4 | 00000000 80000000"}, plain, "00000001", 0},
		{"v9: sampler, by its number", 9, []string{"s 1 48.2 49.1 50.4 | 00000000 0007 02 000003e8"}, bySampler, "00000001 0007", 1000},
		{"v9: another sampler", 9, []string{"s 1 48.2 49.1 50.4 | 00000000 0007 02 000003e8", "t 1 48.2 49.1 50.4 | 00000000 0008 02 00000064"}, bySampler, "00000001 0008", 100},
		{"v9: the record names none of two", 9, []string{"s 1 48.2 49.1 50.4 | 00000000 0007 02 000003e8", "t 1 48.2 49.1 50.4 | 00000000 0008 02 00000064"}, plain, "00000001", 0},
		{"v9: the only sampler holds for all", 9, []string{"s 1 48.2 49.1 50.4 | 00000000 0007 02 000003e8"}, plain, "00000001", 1000},
		{"v9: one interface's", 9, []string{"s 2 34.4 | 00000003 00000064", "t 2 34.4 | 00000004 00000032"}, withInput, "00000001 00000004", 50},
		{"v9: no such interface", 9, []string{"s 2 34.4 | 00000003 00000064", "t 2 34.4 | 00000004 00000032"}, withInput, "00000001 00000009", 0},
		{"v9: in the record itself", 9, []string{"s 1 34.4 | 00000000 00000064"}, []spec{{1, 4}, {34, 4}}, "00000001 0000000a", 10},
		{"IPFIX: selector, interval and space", 10, []string{"s 302.8 304.2 305.4 306.4 | 0000000000000001 0001 00000001 000003e7"}, bySelector, "00000001 0000000000000001", 1000},
		{"IPFIX: n out of N", 10, []string{"s 302.8 304.2 309.4 310.4 | 0000000000000001 0003 0000000a 000003e8"}, bySelector, "00000001 0000000000000001", 100},
		{"IPFIX: probability", 10, []string{"s 302.8 304.2 311.8 | 0000000000000001 0004 3f847ae147ae147b"}, bySelector, "00000001 0000000000000001", 100},
		{"IPFIX: interval alone, as some send the rate", 10, []string{"s 143.4 305.4 | 00000001 00000200"}, plain, "00000001", 512},
		{"IPFIX: in the record itself", 10, nil, []spec{{1, 4}, {305, 4}, {306, 4}}, "00000001 00000001 00000063", 100},
		{"announced in domain 0, for all domains", 10, []string{"0 302.8 304.2 305.4 306.4 | 0000000000000001 0001 00000001 00000009"}, plain, "00000001", 10},
		{"announced in domain 0, by selector", 10, []string{"0 302.8 305.4 306.4 | 0000000000000001 00000001 00000009", "0 302.8 305.4 306.4 | 0000000000000002 00000001 00000013"}, bySelector, "00000001 0000000000000002", 20},
		{"the latest counts", 9, []string{"s 1 34.4 | 00000000 00000064", "s 1 34.4 | 00000000 00000032"}, plain, "00000001", 50},
	} {
		d := NewDecoder(Options{})
		for _, o := range c.options {
			head, data, _ := strings.Cut(o, "|")
			words := strings.Fields(head)
			id, domain := uint16(300), uint32(1)
			switch words[0] {
			case "t":
				id = 301
			case "0":
				domain = 0
			}
			var fields []spec
			for _, w := range words[1:] {
				f := spec{n: 4}
				a, b, ok := strings.Cut(w, ".")
				f.id = uint16(atoi(a))
				if ok {
					f.n = uint16(atoi(b))
				}
				fields = append(fields, f)
			}
			msg := datagram(c.version, 0, optionsSet(c.version, id, fields[:1], fields[1:], data))
			at := map[int]int{9: 16, 10: 12}[c.version]
			be.PutUint32(msg[at:], domain)
			if _, m, err := feed(t, d, msg); m.Options != 1 || err != nil && !strings.Contains(c.name, "belief") {
				t.Fatalf("%s: %+v, %v", c.name, m, err)
			}
		}
		data := octets(c.data)
		set := append(be.AppendUint16([]byte{1, 0}, uint16(len(data)+4)), data...)
		recs, _, err := feed(t, d, datagram(c.version, 1, templateSet(c.version, 256, c.record), set))
		if err != nil || len(recs) != 1 {
			t.Fatalf("%s: %v", c.name, err)
		}
		if r := recs[0]; r.Sampling != c.want || (r.Has&flow.HasSampling != 0) != (c.want != 0) {
			t.Errorf("%s: %d, want %d", c.name, r.Sampling, c.want)
		}
	}
}

func atoi(s string) int {
	n := 0
	for _, c := range s {
		n = n*10 + int(c-'0')
	}
	return n
}

// What options records give to whoever shows them.
func TestOptionsRecords(t *testing.T) {
	for _, c := range []struct {
		name          string
		set           []byte
		version       int
		scope, fields string
	}{
		{
			"v9: interface names", optionsSet(9, 300, []spec{{2, 4}}, []spec{{82, 8}, {83, 8}}, "00000005 6574683000000000 75706c696e6b0000"), 9,
			`{"interface":5}`, `{"interfaceName":"eth0","interfaceDescription":"uplink"}`,
		},
		{"v9: scope system", optionsSet(9, 300, []spec{{1, 4}}, []spec{{42, 4}}, "00000000 00000007"), 9, `{"system":0}`, `{"exportedFlowRecordTotalCount":7}`},
		{"v9: an unknown scope", optionsSet(9, 300, []spec{{77, 2}}, []spec{{42, 4}}, "0001 00000007"), 9, `{"scope77":1}`, `{"exportedFlowRecordTotalCount":7}`},
		{
			"IPFIX: two scope fields", optionsSet(10, 300, []spec{{149, 4}, {145, 2}}, []spec{{173, 8}}, "00000001 0100 000000000000000f"), 10,
			`{"observationDomainId":1,"templateId":256}`, `{"flowKeyIndicator":15}`,
		},
		{
			"IPFIX: a name that comes twice", optionsSet(10, 300, []spec{{10, 4}}, []spec{{82, 2}, {82, 2}}, "00000001 6131 6132"), 10,
			`{"ingressInterface":1}`, `{"interfaceName":["a1","a2"]}`,
		},
	} {
		var b Batch
		m, err := NewDecoder(Options{}).Decode(&b, testSource, testTime, datagram(c.version, 0, c.set))
		if err != nil || m.Options != 1 || m.Records != 0 || len(b.Options) != 1 {
			t.Fatalf("%s: %+v, %v", c.name, m, err)
		}
		if o := b.Options[0]; string(o.Scope) != c.scope || string(o.Fields) != c.fields || o.Template != 300 {
			t.Errorf("%s: %s %s, want %s %s", c.name, o.Scope, o.Fields, c.scope, c.fields)
		}
	}
	d := NewDecoder(Options{})
	feed(t, d, datagram(10, 0, optionsSet(10, 300, []spec{{144, 4}}, []spec{{166, 8}, {160, 8}}, "00000001 0000000000000007 0000018bcfe56800")))
	if e := d.Exporters()[0]; e.Statistics["notSentFlowTotalCount"] != 7 || e.Started.UnixNano() != testTime || e.OptionRecords != 1 {
		t.Errorf("%+v", e)
	}
}

// Values of every type as JSON.
func TestElementValues(t *testing.T) {
	for _, c := range []struct {
		typ  ie.Type
		data string
		want string
	}{
		{ie.Unsigned8, "ff", "255"},
		{ie.Unsigned64, "ffffffffffffffff", "18446744073709551615"},
		{ie.Unsigned32, "0102", "258"},
		{ie.Unsigned256, "01", "1"},
		{ie.Unsigned256, strings.Repeat("0f", 32), `"` + strings.Repeat("0f", 32) + `"`},
		{ie.Signed32, "fffffffe", "-2"},
		{ie.Signed32, "fe", "-2"},
		{ie.Signed64, "8000000000000000", "-9223372036854775808"},
		{ie.Float64, "3ff8000000000000", "1.5"},
		{ie.Float64, "3fc00000", "1.5"},
		{ie.Float32, "7fc00000", `"7fc00000"`},
		{ie.Float64, "7ff0000000000000", `"7ff0000000000000"`},
		{ie.Boolean, "01", "true"},
		{ie.Boolean, "02", "false"},
		{ie.Boolean, "00", `"00"`}, // 2 is false, 0 is nothing
		{ie.MACAddress, "0200000000ff", `"02:00:00:00:00:ff"`},
		{ie.IPv4Address, "c0000201", `"192.0.2.1"`},
		{ie.IPv6Address, "20010db8000000000000000000000001", `"2001:db8::1"`},
		{ie.OctetArray, "deadbeef", `"deadbeef"`},
		{ie.OctetArray, "", `""`},
		{ie.String, "6f6b0000", `"ok"`},
		{ie.String, "00", `""`},
		{ie.DateTimeSeconds, "6553f100", `"2023-11-14T22:13:20Z"`},
		{ie.DateTimeMilliseconds, "0000018bcfe56801", `"2023-11-14T22:13:20.001Z"`},
	} {
		d := NewDecoder(Options{})
		got := d.appendValue(nil, c.typ, octets(c.data), nil, 0)
		if string(got) != c.want || !json.Valid(got) {
			t.Errorf("%v %s: %s, want %s", c.typ, c.data, got, c.want)
		}
	}
	if f, _ := floatOf(octets("3fc00000")); f != 1.5 || math.IsNaN(f) {
		t.Error(f)
	}
}

// Structured data (RFC 6313).
func TestLists(t *testing.T) {
	d := NewDecoder(Options{})
	feed(t, d, datagram(10, 0, templateSet(10, 300, []spec{{8, 4}, {96, 65535}}), templateSet(10, 301, []spec{{291, 65535}})))
	for _, c := range []struct {
		name string
		id   uint16
		data string
		want string
	}{
		{"basicList of interfaces", 291, "03 000a 0004 00000001 00000002", `{"basicList":{"semantic":"allOf","ingressInterface":[1,2]}}`},
		{"basicList, empty", 291, "ff 000a 0004", `{"basicList":{"semantic":"undefined","ingressInterface":[]}}`},
		{"basicList of texts", 291, "04 0060 ffff 03 646e73 00 ff0002 6161", `{"basicList":{"semantic":"ordered","applicationName":["dns","","aa"]}}`},
		{"basicList of an enterprise's elements", 291, "00 8001 0002 00001267 0a0b", `{"basicList":{"semantic":"noneOf","pen4711.1":["0a0b"]}}`},
		{"basicList of basicLists", 291, "03 0123 ffff 09 03 000a 0004 00000001", `{"basicList":{"semantic":"allOf","basicList":[{"semantic":"allOf","ingressInterface":[1]}]}}`},
		{"subTemplateList", 292, "01 012c 0a000001 03 646e73 0a000002 00", `{"subTemplateList":{"semantic":"exactlyOneOf","template":300,"records":[{"sourceIPv4Address":"10.0.0.1","applicationName":"dns"},{"sourceIPv4Address":"10.0.0.2","applicationName":""}]}}`},
		{"subTemplateMultiList", 293, "02 012c 0009 0a000001 00 012d 000d 08 03 0004 0001 0611 06", `{"subTemplateMultiList":{"semantic":"oneOrMoreOf","records":[{"sourceIPv4Address":"10.0.0.1","applicationName":""},{"basicList":{"semantic":"allOf","protocolIdentifier":[6,17,6]}}]}}`},
		{"an unknown template", 292, "01 03e7 0a000001", `{"subTemplateList":"0103e70a000001"}`},
		{"a record cut", 292, "01 012c 0a000001 09 646e73", `{"subTemplateList":"01012c0a00000109646e73"}`},
		{"an element cut", 291, "03 000a 0004 000000", `{"basicList":"03000a0004000000"}`},
		{"elements without octets", 291, "03 000a 0000 00", `{"basicList":"03000a000000"}`},
		{"a multi list's length lies", 293, "02 012c 0003 00", `{"subTemplateMultiList":"02012c000300"}`},
		{"nothing", 292, "", ``},
		{"too short", 292, "01 01", `{"subTemplateList":"0101"}`},
	} {
		data := octets(c.data)
		body := append([]byte{byte(len(data))}, data...)
		body = append(body, 6)
		set := append(be.AppendUint16([]byte{1, 0}, uint16(len(body)+4)), body...)
		recs, _, err := feed(t, d, datagram(10, 0, templateSet(10, 256, []spec{{c.id, 65535}, {4, 1}}), set))
		if err != nil || len(recs) != 1 {
			t.Fatalf("%s: %d records, %v", c.name, len(recs), err)
		}
		if got := string(recs[0].Elements); got != c.want || got != "" && !json.Valid([]byte(got)) {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
	// Lists within lists end, however deep they go.
	inner := octets("03 000a 0004 00000001")
	for range 40 {
		inner = append(append(octets("03 0123 ffff"), byte(len(inner))), inner...)
	}
	got := d.appendValue(nil, ie.BasicList, inner, nil, 0)
	if !json.Valid(got) || strings.Count(string(got), "semantic") != maxDepth {
		t.Errorf("%d lists deep: %s", strings.Count(string(got), "semantic"), got)
	}
}

// Every element of the registry has a decoder for its type: a value of the
// type's length is read as what it is, and not as octets.
func TestEveryElementHasADecoder(t *testing.T) {
	d := NewDecoder(Options{})
	n := 0
	for e := range ie.All {
		if e.Name == "" || e.Type.List() {
			continue // TestLists has the three
		}
		n++
		value := make([]byte, max(e.Type.Len(), 1))
		value[len(value)-1] = 1
		got := string(d.appendValue(nil, e.Type, value, nil, 0))
		want := map[ie.Type]string{
			ie.OctetArray: `"01"`, ie.Unsigned8: `1`, ie.Unsigned16: `1`, ie.Unsigned32: `1`, ie.Unsigned64: `1`, ie.Signed32: `1`,
			ie.Float64: `5e-324`, ie.Boolean: `true`, ie.MACAddress: `"00:00:00:00:00:01"`, ie.String: `"\u0001"`,
			ie.DateTimeSeconds: `"1970-01-01T00:00:01Z"`, ie.DateTimeMilliseconds: `"1970-01-01T00:00:00.001Z"`,
			ie.DateTimeMicroseconds: `"2036-02-07T06:28:16.000000Z"`, ie.DateTimeNanoseconds: `"2036-02-07T06:28:16.000000000Z"`,
			ie.IPv4Address: `"0.0.0.1"`, ie.IPv6Address: `"::1"`,
			ie.Unsigned256: `"` + strings.Repeat("0", 63) + `1"`, // 256 bits are no JSON number
		}[e.Type]
		if got != want || want == "" {
			t.Errorf("%d %s, %v: %s; want %s", e.ID, e.Name, e.Type, got, want)
		}
	}
	if n < 480 {
		t.Errorf("%d elements", n)
	}
}
