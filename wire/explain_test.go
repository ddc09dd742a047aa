package wire

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"weir/flow"
)

// covered holds an explanation to its promise: fields cover the message, in
// order, and structures hold the fields behind them.
func covered(t testing.TB, msg []byte, lines []Line) {
	t.Helper()
	at := 0
	var ends []int
	for i, l := range lines {
		if l.Length <= 0 || l.Depth < 0 || l.Depth > len(ends) {
			t.Fatalf("line %d: %+v", i, l)
		}
		ends = ends[:l.Depth]
		if l.Offset != at || l.Depth > 0 && l.Offset+l.Length > ends[l.Depth-1] {
			t.Fatalf("line %d is at %d, want %d, in %v: %+v", i, l.Offset, at, ends, l)
		}
		if l.Structure {
			ends = append(ends, l.Offset+l.Length)
			continue
		}
		if !bytes.Equal(l.Octets, msg[l.Offset:l.Offset+l.Length]) {
			t.Fatalf("line %d: octets %x: %+v", i, l.Octets, l)
		}
		at += l.Length
	}
	if at != len(msg) {
		t.Fatalf("%d of %d octets are explained", at, len(msg))
	}
}

// linesText is an explanation as lines of offset, field, value, meaning and problem.
func linesText(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%d%s %s", l.Offset, strings.Repeat(" ", l.Depth), l.Field)
		if l.Structure {
			fmt.Fprintf(&b, " (%d)", l.Length)
		}
		for _, s := range []struct{ before, text string }{{" = ", l.Value}, {" · ", l.Meaning}, {" ! ", l.Problem}} {
			if s.text != "" {
				b.WriteString(s.before + s.text)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func explain(t *testing.T, d *Decoder, src Source, msg []byte) string {
	t.Helper()
	b := &Batch{}
	lines, m, _ := d.Explain(b, src, testTime, msg)
	covered(t, msg, lines)
	check(t, d, b, m, msg)
	return linesText(lines)
}

// wantLines fails unless each of want stands in the explanation, in order.
func wantLines(t *testing.T, got string, want ...string) {
	t.Helper()
	rest := got
	for _, w := range want {
		_, after, ok := strings.Cut("\n"+rest, "\n"+w+"\n")
		if !ok {
			t.Errorf("%q is not there, or not in its place, in:\n%s", w, got)
			return
		}
		rest = after
	}
}

// TestExplainV5: every field in Cisco's words, and what is wrong beside it.
func TestExplainV5(t *testing.T) {
	msg := v5Datagram(1)
	copy(msg[24:], []byte{192, 0, 2, 1})
	msg[61], msg[62] = 0x12, 17
	got := explain(t, NewDecoder(Options{}), testSource, msg)
	wantLines(t, got, "0 header (24) · NetFlow v5", "0  version = 5", "2  count = 1", "16  flow_sequence = 0", "24 record 1 (48)",
		"24  srcaddr = 192.0.2.1", "48  First = 0 · 2023-11-14T21:13:20.000000Z", "61  tcp_flags = 18 · SYN ACK", "62  prot = 17 · UDP")
	if strings.Contains(got, " ! ") {
		t.Errorf("nothing is wrong:\n%s", got)
	}
	msg = append(v5Datagram(1), 1, 2, 3)
	msg[3] = 2                      // a count that does not fit
	msg[24+36] = 7                  // padding
	be.PutUint32(msg[24+24:], 5000) // First, after Last
	got = explain(t, NewDecoder(Options{}), testSource, msg)
	wantLines(t, got, "2  count = 2 ! 1 records of 48 octets are there, and 3 octets more", "60  pad1 = 7 ! not zero", "72 octets ! behind the last record that the header counts")
	if !strings.Contains(got, "before the flow's start") {
		t.Errorf("Last before First is not told:\n%s", got)
	}
}

// TestExplainSequence: gaps, repeats and restarts stand beside the number.
func TestExplainSequence(t *testing.T) {
	d := NewDecoder(Options{})
	number := func(seq uint32) string {
		msg := datagram(9, seq, templateSet(9, 256, usual(false, false)))
		for line := range strings.Lines(explain(t, d, testSource, msg)) {
			if strings.Contains(line, "Sequence Number") {
				return strings.TrimSpace(line)
			}
		}
		return "no sequence number"
	}
	for _, c := range []struct {
		seq  uint32
		want string
	}{
		{5, "12  Sequence Number = 5"},
		{6, "12  Sequence Number = 6"},
		{9, "12  Sequence Number = 9 ! sequence gap: 2 datagrams before this message did not come (yet)"},
		{8, "12  Sequence Number = 8 ! out of order: it comes late, or from elsewhere"},
		{9, "12  Sequence Number = 9 ! the same number came before: a duplicate"},
	} {
		if got := number(c.seq); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestExplainTemplates(t *testing.T) {
	d := NewDecoder(Options{})
	fields := []spec{{8, 4}, {12, 4}, {4, 1}, {6, 1}, {1, 4}, {22, 4}, {21, 4}}
	got := explain(t, d, testSource, datagram(10, 0, dataSet(256, fields, 2)))
	wantLines(t, got, "20  octets ! template 256 is not known (yet): the octets wait for it")
	got = explain(t, d, testSource, datagram(10, 2, templateSet(10, 256, fields), dataSet(256, fields, 1)))
	wantLines(t, got, "0 message header (16) · IPFIX (RFC 7011)", "16 Template Set (36)", "16  Set ID = 2", "18  Length = 36", "20  Template Record (32)", "20   Template ID = 256",
		"22   Field Count = 7", "24   Information Element id. = 8 · sourceIPv4Address", "26   Field Length = 4 · ipv4Address",
		"40   Information Element id. = 1 · octetDeltaCount, octets", "42   Field Length = 4 · reduced-size encoding of unsigned64")
	if !strings.Contains(got, "Data Record 1") || !strings.Contains(got, "protocolIdentifier") {
		t.Errorf("%s", got)
	}
	// A template that comes with the data is known at once, one of an earlier
	// message later.
	got = explain(t, d, testSource, datagram(10, 3, dataSet(256, fields, 1)))
	wantLines(t, got, "20  Data Record 1 (22) · template 256")
}

// TestExplainProblems: what Decode refuses is told where it stands.
func TestExplainProblems(t *testing.T) {
	for _, c := range []struct {
		name, want string
		msg        []byte
	}{
		{"set length", "Length = 3 ! a set has 4 octets at least: where the next begins is not known", datagram(10, 0, []byte{1, 0, 0, 3})},
		{"long set", "Length = 400 ! 4 octets are left of the message", datagram(10, 0, []byte{1, 0, 1, 144})},
		{"reserved set", "Set ID = 77 ! reserved", datagram(10, 0, []byte{0, 77, 0, 4})},
		{"template number", "Template ID = 255 ! templates have numbers from 256 on", datagram(10, 0, templateSet(10, 255, []spec{{1, 4}}))},
		{"empty template", "records of this template would have no octets: it is refused", datagram(9, 0, templateSet(9, 256, []spec{{1, 0}}))},
		{"field count", "fields are expected, the set has room for 1", datagram(10, 0, []byte{0, 2, 0, 12, 1, 0, 0, 9, 0, 1, 0, 4})},
		{"withdrawal", "! a withdrawal over UDP: RFC 7011 section 8.4 forbids it, it is ignored", datagram(10, 0, []byte{0, 2, 0, 8, 1, 0, 0, 0})},
		{"padding", "padding ! padding is not zero", datagram(10, 0, templateSet(10, 256, []spec{{1, 4}}), []byte{1, 0, 0, 10, 0, 0, 0, 1, 0, 1})},
		{"message length", "Length = 999 ! the message has 16 octets", octets("000a 03e7 6553f100 00000000 00000001")},
		{"scope", "of 1 fields, 1 to all can be the scope", datagram(10, 0, []byte{0, 3, 0, 14, 1, 0, 0, 1, 0, 0, 0, 1, 0, 4})},
		{"scheme", "no such aggregation scheme", octets("0008 0001 0036ee80 6553f100 00000000 00000005 01 02 0f 02 00000000")},
		{"version", "version = 4660 ! a version that is not read", octets("1234 0000")},
		{"one octet", "! a message has a version number of 2 octets at least", []byte{9}},
		{"cut v5", "! 4 octets are expected, 2 are there", v5Datagram(1)[:14]},
		{"sFlow, cut", "octets are left", sflowDatagram(1, flowSampleOf(1, 0, rawHeader(1, 82, frame)))[:60]},
		{"sFlow, samples", "samples = 9 ! 1 samples are there", func() []byte {
			m := sflowDatagram(1, flowSampleOf(1, 0, rawHeader(1, 82, frame)))
			m[27] = 9
			return m
		}()},
	} {
		if got := explain(t, NewDecoder(Options{}), testSource, c.msg); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q is not in\n%s", c.name, c.want, got)
		}
	}
}

func TestExplainSFlow(t *testing.T) {
	got := explain(t, NewDecoder(Options{}), testSource, sflowDatagram(1, flowSampleOf(1, 0, rawHeader(1, 82, frame), tlv(1001, u32s(100, 5, 200, 0)), tlv(9<<12|77, u32s(1)))))
	wantLines(t, got, "0 datagram header (28) · sFlow v5", "4  agent_address type = 1 · IPv4", "8  agent_address = 192.0.2.9", "16  sequence_number = 1",
		"28 sample 1: flow_sample (160) · enterprise 0, format 1", "36  sequence_number = 1", "40  source_id = 3 · class 0, index 3",
		"44  sampling_rate = 512 · one packet in 512", "56  input = 3 · ifIndex", "68  record 1: sampled_header (84) · enterprise 0, format 1",
		"76   header_protocol = 1 · ETHERNET-ISO88023",
		"92   header · 198.51.100.1:49153 to 203.0.113.2:443, protocol 6 TCP SYN ACK, IP length 60",
		"152  record 2: extended_switch (24) · enterprise 0, format 1001", "160   src_vlan = 100",
		"176  record 3 (12) · enterprise 9, format 77", "184   opaque · a format that is not known: stepped over")
}

// The tables of v8's records are as long as the decoder's.
func TestExplainV8Sizes(t *testing.T) {
	for i, s := range v8Schemes {
		if i > 0 && sizeOf(v8Records[i]) != s.size {
			t.Errorf("scheme %d: %d octets, want %d", i, sizeOf(v8Records[i]), s.size)
		}
	}
	for v, size := range map[uint8][2]int{1: {16, 48}, 5: {24, 48}, 6: {24, 52}, 7: {24, 52}} {
		if sizeOf(fixedHeaders[v]) != size[0] || sizeOf(fixedRecords[v]) != size[1] {
			t.Errorf("v%d: %d and %d octets, want %v", v, sizeOf(fixedHeaders[v]), sizeOf(fixedRecords[v]), size)
		}
	}
	if sizeOf(fixedHeaders[8]) != 28 {
		t.Error("v8's header")
	}
}

// TestExplainCorpus: every message of the corpus is explained to the octet, and
// what Decode has no complaint of has no problem but sequence, count and padding.
func TestExplainCorpus(t *testing.T) {
	n := 0
	for _, pattern := range []string{"v*.pcap", "ipfix*.pcap", "sflow*.pcap"} {
		d := NewDecoder(Options{})
		for _, msg := range payloads(pattern) {
			lines, m, err := d.Explain(&Batch{}, testSource, testTime, msg)
			covered(t, msg, lines)
			n++
			problem := ""
			for _, l := range lines {
				if l.Problem != "" {
					problem += l.Field + ": " + l.Problem + "; "
				}
			}
			if err != nil && problem == "" {
				t.Errorf("%+v: %v is not told", m, err)
			}
		}
	}
	if n == 0 {
		t.Skip("skipped: no corpus of export captures (set WEIR_CORPUS)")
	}
	t.Logf("%d messages", n)
}

// FuzzExplain: whatever comes, every octet is in one field, and Decode says
// the same with and without.
func FuzzExplain(f *testing.F) {
	seeds(f, "*.pcap", v5Datagram(2), sflowDatagram(1, flowSampleOf(1, 0, rawHeader(1, 82, frame)), AppendSFlowCounters(nil, 1, SFlowInterface{Index: 1, Name: "eth0"})),
		datagram(9, 0, templateSet(9, 256, usual(false, false)), dataSet(256, usual(false, false), 2)),
		datagram(10, 0, templateSet(10, 256, []spec{{291, 65535}, {292, 65535}, {96, 65535}}), octets("0100 0012 07 03 000a 0004 00000001 00 03 616263")),
		datagram(10, 0, optionsSet(10, 300, []spec{{302, 8}}, []spec{{305, 4}, {306, 4}}, "0000000000000001 00000001 00000009")))
	f.Fuzz(func(t *testing.T, msg []byte) {
		d, plain := NewDecoder(Options{Limits: smallLimits}), NewDecoder(Options{Limits: smallLimits})
		src := testSource
		src.Reliable = len(msg)%2 == 1
		for range 2 {
			a, b := &Batch{}, &Batch{}
			lines, m, err := d.Explain(a, src, testTime, msg)
			covered(t, msg, lines)
			check(t, d, a, m, msg)
			again, errAgain := plain.Decode(b, src, testTime, msg)
			if m != again || fmt.Sprint(err) != fmt.Sprint(errAgain) || len(a.Records) != len(b.Records) {
				t.Fatalf("%+v, %v; without: %+v, %v", m, err, again, errAgain)
			}
			if err != nil {
				told := false
				for _, l := range lines {
					told = told || l.Problem != ""
				}
				if !told && len(lines) > 0 {
					t.Fatalf("%v is not told", err)
				}
			}
			if m.Version == flow.VersionV5 && d.Lost() != plain.Lost() {
				t.Fatal("losses differ")
			}
		}
	})
}
