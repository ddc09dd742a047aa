package wire

import (
	"fmt"
	"slices"
	"testing"
)

// biflowFields are a template as softflowd -b has it, with a few fields more.
var biflowFields = []FieldSpec{
	{ID: 8, Length: 4},
	{ID: 12, Length: 4},
	{ID: 7, Length: 2},
	{ID: 11, Length: 2},
	{ID: 4, Length: 1},
	{ID: 10, Length: 4},
	{ID: 14, Length: 4},
	{ID: 1, Length: 8},
	{ID: 2, Length: 8},
	{ID: 152, Length: 8},
	{ID: 153, Length: 8},
	{ID: 6, Length: 1},
	{ID: 61, Length: 1},
	{PEN: 29305, ID: 1, Length: 4}, // in fewer octets
	{PEN: 29305, ID: 2, Length: 4},
	{PEN: 29305, ID: 6, Length: 1},
	{PEN: 29305, ID: 152, Length: 8},
	{ID: 239, Length: 1},
}

func biflow(reverse string) string {
	return "0a000001 0a000002 c738 01bb 06 00000003 00000004 00000000000003e8 000000000000000a 0000018bcfe56800 0000018bcfe56be8 1b 00" + reverse + "01"
}

func biflowMessage(fields []FieldSpec, records ...string) []byte {
	msg := EndSet(AppendTemplate(AppendSet(nil, TemplateSetIPFIX), 256, fields), 0)
	data := AppendSet(nil, 256)
	for _, r := range records {
		data = append(data, octets(r)...)
	}
	return datagram(10, 0, msg, EndSet(data, 0))
}

// A biflow becomes two records if that is wanted and both directions were seen.
func TestSplitBiflows(t *testing.T) {
	const (
		seen    = "00000320 00000008 13 0000018bcfe56804"
		unseen  = "00000000 00000000 00 0000000000000000"
		times   = " first=22:13:20.000 last=22:13:21.000"
		forward = "src=10.0.0.1 dst=10.0.0.2 sport=51000 dport=443 proto=6 tcp_flags=27 packets=10 bytes=1000" + times + " input=3 output=4 direction=0 "
	)
	whole := []string{
		forward + `{"reverseOctetDeltaCount":800,"reversePacketDeltaCount":8,"reverseTcpControlBits":19,"reverseFlowStartMilliseconds":"2023-11-14T22:13:20.004Z","biflowDirection":1}`,
		forward + `{"reverseOctetDeltaCount":0,"reversePacketDeltaCount":0,"reverseTcpControlBits":0,"reverseFlowStartMilliseconds":"1970-01-01T00:00:00.000Z","biflowDirection":1}`,
	}
	split := []string{
		forward + `{"biflowDirection":1}`,
		forward + `{"biflowDirection":1}`,
		"src=10.0.0.2 dst=10.0.0.1 sport=443 dport=51000 proto=6 tcp_flags=19 packets=8 bytes=800 first=22:13:20.004 last=22:13:21.000 input=4 output=3 " + `{"biflowDirection":1}`,
	}
	for _, c := range []struct {
		split bool
		want  []string
	}{{false, whole}, {true, split}} {
		msg := biflowMessage(biflowFields, biflow(seen), biflow(unseen))
		d := NewDecoder(Options{SplitBiflows: c.split})
		recs, m, err := feed(t, d, msg)
		var got []string
		for i := range recs {
			got = append(got, show(&recs[i]))
		}
		if err != nil || !slices.Equal(got, c.want) || m.Records != 2 || m.Reversed != len(c.want)-2 {
			t.Errorf("split %v: %+v, %v\n got %q\nwant %q", c.split, m, err, got, c.want)
		}
		if s := d.Exporters()[0]; s.Records != uint64(len(recs)) {
			t.Errorf("split %v: %d records counted", c.split, s.Records)
		}
		// Sequence numbers count records as they were sent.
		msg = biflowMessage(biflowFields, biflow(seen))
		be.PutUint32(msg[8:], 2)
		if _, _, err := feed(t, d, msg); err != nil || d.Exporters()[0].Sequence.Gaps != 0 {
			t.Errorf("split %v: %+v, %v", c.split, d.Exporters()[0].Sequence, err)
		}
	}
}

// The same with lengths that vary, and with data that waits for its template.
func TestSplitBiflowsElsewhere(t *testing.T) {
	fields := append(slices.Clone(biflowFields), FieldSpec{ID: 96, Length: VariableLength})
	msg := biflowMessage(fields, biflow("00000320 00000008 13 0000018bcfe56804")+"03 646e73", biflow("00000321 00000009 13 0000018bcfe56804")+"00")
	size := int(be.Uint16(msg[18:]))
	first := append(slices.Clone(msg[:16]), msg[16+size:]...)
	second := slices.Clone(msg[:16+size])
	be.PutUint16(first[2:], uint16(len(first)))
	be.PutUint16(second[2:], uint16(len(second)))
	for name, list := range map[string][][]byte{"variable": {msg}, "waiting": {first, second}} {
		d := NewDecoder(Options{SplitBiflows: true})
		var got []string
		for _, msg := range list {
			recs, _, err := feed(t, d, msg)
			if err != nil {
				t.Fatal(name, err)
			}
			for i := range recs {
				got = append(got, fmt.Sprintf("%v %d %s", recs[i].Src, recs[i].Bytes, recs[i].Elements))
			}
		}
		want := []string{
			`10.0.0.1 1000 {"biflowDirection":1,"applicationName":"dns"}`, `10.0.0.1 1000 {"biflowDirection":1,"applicationName":""}`,
			`10.0.0.2 800 {"biflowDirection":1,"applicationName":"dns"}`, `10.0.0.2 801 {"biflowDirection":1,"applicationName":""}`,
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", name, got, want)
		}
	}
}

// softflowd's biflows in the corpus: what both directions say is the sum of what
// the elements say without splitting.
func TestSplitBiflowsCorpus(t *testing.T) {
	all := payloads("ipfix_softflowd_biflow.pcap")
	if len(all) == 0 {
		t.Skip("the corpus is not there: set WEIR_CORPUS")
	}
	var octets [2]uint64
	for i, split := range []bool{false, true} {
		d := NewDecoder(Options{SplitBiflows: split})
		for _, msg := range all {
			recs, m, err := feed(t, d, msg)
			if err != nil || split && m.Reversed == 0 && m.Records > 10 {
				t.Fatal(m, err)
			}
			for i2 := range recs {
				r := &recs[i2]
				octets[i] += r.Bytes
				if v, ok := elementsOf(t, r.Elements)["reverseOctetDeltaCount"]; ok {
					if split {
						t.Fatalf("%s", r.Elements)
					}
					var n uint64
					fmt.Sscan(fmt.Sprint(v), &n)
					octets[i] += n
				}
			}
		}
	}
	if octets[0] != octets[1] || octets[0] == 0 {
		t.Errorf("%d octets as they are, %d when split", octets[0], octets[1])
	}
}
