package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/flow"
)

const testTime = 1_700_000_000e9 // when test messages are exported and received

// feed decodes one message and returns its records; they stay valid.
func feed(t testing.TB, d *Decoder, msg []byte) ([]flow.Record, Message, error) {
	t.Helper()
	return feedFrom(t, d, testSource, testTime, msg)
}

func feedFrom(t testing.TB, d *Decoder, src Source, at int64, msg []byte) ([]flow.Record, Message, error) {
	t.Helper()
	var b Batch
	m, err := d.Decode(&b, src, at, msg)
	if len(b.Records) != m.Records+m.Released+m.Reversed {
		t.Fatalf("%d records in the batch, the message counts %+v", len(b.Records), m)
	}
	check(t, d, &b, m, msg)
	return b.Records, m, err
}

func octets(s string) []byte {
	b, err := hex.DecodeString(strings.Map(func(r rune) rune {
		if strings.ContainsRune(" \n\t|", r) {
			return -1
		}
		return r
	}, s))
	if err != nil {
		panic(err)
	}
	return b
}

func count(d *Decoder, r Reason) uint64 {
	l := d.Lost()
	return l.Losses()[r].Datagrams
}

// show prints a record's known columns in a fixed order, then its elements.
func show(r *flow.Record) string {
	var out []string
	cols := columnsOf(r)
	for _, k := range []string{
		"src", "dst", "next_hop", "bgp_next_hop", "sport", "dport", "proto", "tos", "tcp_flags", "packets", "bytes",
		"first", "last", "input", "output", "src_as", "dst_as", "src_mask", "dst_mask", "vlan", "icmp", "direction", "end_reason",
		"forwarding", "sampling", "flow_id",
	} {
		v, ok := cols[k]
		if ok && (k == "first" || k == "last") {
			v = time.Unix(0, v.(int64)).UTC().Format("15:04:05.000")
		}
		if ok {
			out = append(out, fmt.Sprintf("%s=%v", k, v))
		}
	}
	return strings.Join(append(out, string(r.Elements)), " ")
}

// Golden octets of every version and of v8's schemes, read, and (v1, v5, v7, v8)
// written again to the octet. The header says 2023-11-14 22:13:20 UTC and an
// uptime of one hour.
func TestDecodeGolden(t *testing.T) {
	head := func(version, count string, rest string) string {
		return version + count + "0036ee80 6553f100 00000000" + rest
	}
	const body = "0a000001 0a000002 0a0000fe 0003 0004 00000007 000003e8 0036c770 0036eb80 01bb d431" // to the ports
	v8 := func(scheme, record string) string {
		return head("0008", "0001", "00000005 01 02"+scheme+"02 00000000") + record
	}
	const c20 = "00000009 00000007 000003e8 0036c770 0036eb80"
	const times = " first=22:13:10.000 last=22:13:19.232"
	for _, c := range []struct{ name, msg, want string }{
		{
			"v1: protocol, ToS, flags in this order", head("0001", "0001", "") + body + "0000 06 10 1b 000000 00000000",
			"src=10.0.0.1 dst=10.0.0.2 next_hop=10.0.0.254 sport=443 dport=54321 proto=6 tos=16 tcp_flags=27 packets=7 bytes=1000" + times + " input=3 output=4 ",
		},
		{
			"v5: flags, protocol, ToS in this order; sampling 1 in 100, mode 1", head("0005", "0001", "00000005 01 02 4064") + body + "00 1b 06 10 fde8 fde9 18 10 0000",
			"src=10.0.0.1 dst=10.0.0.2 next_hop=10.0.0.254 sport=443 dport=54321 proto=6 tos=16 tcp_flags=27 packets=7 bytes=1000" + times + " input=3 output=4 src_as=65000 dst_as=65001 src_mask=24 dst_mask=16 sampling=100 ",
		},
		{
			"v5: ICMP type and code in the destination port", head("0005", "0001", "00000005 01 02 0000") + strings.Replace(body, "01bb d431", "0000 0303", 1) + "00 00 01 00 0000 0000 00 00 0000",
			"src=10.0.0.1 dst=10.0.0.2 next_hop=10.0.0.254 sport=0 dport=771 proto=1 tos=0 tcp_flags=0 packets=7 bytes=1000" + times + " input=3 output=4 src_as=0 dst_as=0 src_mask=0 dst_mask=0 icmp=771 ",
		},
		{
			"v6: encapsulation sizes and the peer's next hop", head("0006", "0001", "00000005 01 02 0000") + body + "00 1b 06 10 fde8 fde9 18 10 0e 12 0a0000fd",
			"src=10.0.0.1 dst=10.0.0.2 next_hop=10.0.0.254 sport=443 dport=54321 proto=6 tos=16 tcp_flags=27 packets=7 bytes=1000" + times + ` input=3 output=4 src_as=65000 dst_as=65001 src_mask=24 dst_mask=16 {"inputEncapsulationOctets":14,"outputEncapsulationOctets":18,"peerNextHopIPv4Address":"10.0.0.253"}`,
		},
		{
			"v7: router shortcut", head("0007", "0001", "00000005 00000000") + body + "00 1b 06 10 0000 0000 00 00 0000 0a0000fc",
			"src=10.0.0.1 dst=10.0.0.2 next_hop=10.0.0.254 sport=443 dport=54321 proto=6 tos=16 tcp_flags=27 packets=7 bytes=1000" + times + ` input=3 output=4 src_as=0 dst_as=0 src_mask=0 dst_mask=0 {"ipv4RouterSc":"10.0.0.252"}`,
		},
		{"v8.1 AS", v8("01", c20+"fde8 fde9 0003 0004"), "packets=7 bytes=1000" + times + ` input=3 output=4 src_as=65000 dst_as=65001 {"deltaFlowCount":9}`},
		{"v8.2 protocol-port", v8("02", c20+"06 00 0000 01bb d431"), "sport=443 dport=54321 proto=6 packets=7 bytes=1000" + times + ` {"deltaFlowCount":9}`},
		{"v8.3 source-prefix", v8("03", c20+"0a000000 18 00 fde8 0003 0000"), "src=10.0.0.0 packets=7 bytes=1000" + times + ` input=3 src_as=65000 src_mask=24 {"deltaFlowCount":9}`},
		{"v8.4 destination-prefix", v8("04", c20+"0a000000 18 00 fde9 0004 0000"), "dst=10.0.0.0 packets=7 bytes=1000" + times + ` output=4 dst_as=65001 dst_mask=24 {"deltaFlowCount":9}`},
		{"v8.5 prefix, source mask first", v8("05", c20+"0a000000 0a010000 18 10 0000 fde8 fde9 0003 0004"), "src=10.0.0.0 dst=10.1.0.0 packets=7 bytes=1000" + times + ` input=3 output=4 src_as=65000 dst_as=65001 src_mask=24 dst_mask=16 {"deltaFlowCount":9}`},
		{"v8.6 destination", v8("06", "0a000002 00000007 000003e8 0036c770 0036eb80 0004 10 20 00000002 0a0000fc"), "dst=10.0.0.2 tos=16 packets=7 bytes=1000" + times + ` output=4 {"markedTos":32,"extraPackets":2,"ipv4RouterSc":"10.0.0.252"}`},
		{
			"v8.7 source-destination: the destination stands first", v8("07", "0a000002 0a000001 00000007 000003e8 0036c770 0036eb80 0004 0003 10 20 0000 00000002 0a0000fc"),
			"src=10.0.0.1 dst=10.0.0.2 tos=16 packets=7 bytes=1000" + times + ` input=3 output=4 {"markedTos":32,"extraPackets":2,"ipv4RouterSc":"10.0.0.252"}`,
		},
		{
			"v8.8 full-flow", v8("08", "0a000002 0a000001 d431 01bb 00000007 000003e8 0036c770 0036eb80 0004 0003 10 06 20 00 00000002 0a0000fc"),
			"src=10.0.0.1 dst=10.0.0.2 sport=443 dport=54321 proto=6 tos=16 packets=7 bytes=1000" + times + ` input=3 output=4 {"markedTos":32,"extraPackets":2,"ipv4RouterSc":"10.0.0.252"}`,
		},
		{"v8.9 AS-ToS: the ToS behind the interfaces", v8("09", c20+"fde8 fde9 0003 0004 10 00 0000"), "tos=16 packets=7 bytes=1000" + times + ` input=3 output=4 src_as=65000 dst_as=65001 {"deltaFlowCount":9}`},
		{"v8.10 protocol-port-ToS", v8("0a", c20+"06 10 0000 01bb d431 0003 0004"), "sport=443 dport=54321 proto=6 tos=16 packets=7 bytes=1000" + times + ` input=3 output=4 {"deltaFlowCount":9}`},
		{"v8.11 source-prefix-ToS", v8("0b", c20+"0a000000 18 10 fde8 0003 0000"), "src=10.0.0.0 tos=16 packets=7 bytes=1000" + times + ` input=3 src_as=65000 src_mask=24 {"deltaFlowCount":9}`},
		{"v8.12 destination-prefix-ToS", v8("0c", c20+"0a000000 18 10 fde9 0004 0000"), "dst=10.0.0.0 tos=16 packets=7 bytes=1000" + times + ` output=4 dst_as=65001 dst_mask=24 {"deltaFlowCount":9}`},
		{"v8.13 prefix-ToS", v8("0d", c20+"0a000000 0a010000 18 10 10 00 fde8 fde9 0003 0004"), "src=10.0.0.0 dst=10.1.0.0 tos=16 packets=7 bytes=1000" + times + ` input=3 output=4 src_as=65000 dst_as=65001 src_mask=24 dst_mask=16 {"deltaFlowCount":9}`},
		{"v8.14 prefix-port", v8("0e", c20+"0a000000 0a010000 18 10 10 06 01bb d431 0003 0004"), "src=10.0.0.0 dst=10.1.0.0 sport=443 dport=54321 proto=6 tos=16 packets=7 bytes=1000" + times + ` input=3 output=4 src_mask=24 dst_mask=16 {"deltaFlowCount":9}`},
		{
			"v9: template and data", "0009 0002 0036ee80 6553f100 00000005 00000102" +
				"0000 0028 0100 0008 0008 0004 000c 0004 0015 0004 0016 0004 0001 0004 0002 0004 0050 0006 0039 0006" +
				"0100 0028 0a000001 0a000002 0036eb80 0036c770 000003e8 00000007 020000000001 020000000002",
			"src=10.0.0.1 dst=10.0.0.2 packets=7 bytes=1000" + times + ` {"destinationMacAddress":"02:00:00:00:00:01","postDestinationMacAddress":"02:00:00:00:00:02"}`,
		},
		{
			"IPFIX: enterprise and variable-length fields, padding", "000a 0052 6553f100 00000005 00000102" +
				"0002 0024 0100 0005 0001 0002 0052 ffff 8001 0004 00007279 9000 0002 00001267 0004 0001" +
				"0100 001e 03e8 04 6c6f3030 00000190 abcd 06" + "03e9 00 00000191 abce 11 0000",
			`proto=6 bytes=1000 {"interfaceName":"lo00","reverseOctetDeltaCount":400,"pen4711.4096":"abcd"}` + "\n" +
				`proto=17 bytes=1001 {"interfaceName":"","reverseOctetDeltaCount":401,"pen4711.4096":"abce"}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			recs, m, err := feed(t, NewDecoder(Options{}), octets(c.msg))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for i := range recs {
				got = append(got, show(&recs[i]))
			}
			if g := strings.Join(got, "\n"); g != c.want {
				t.Errorf("got  %s\nwant %s", g, c.want)
			}
			if m.Version >= 5 && m.Sequence != 5 || m.Version > 1 && m.Version != 7 && m.Domain != 0x0102 {
				t.Errorf("%+v", m)
			}
			in := octets(c.msg)
			switch m.Version {
			case flow.VersionV8, flow.VersionV1, flow.VersionV5, flow.VersionV7:
				form := FormV8{Scheme: SchemeV8(in[22])}
				if out := encodeAgain(m, recs, form); !bytes.Equal(out, in) {
					t.Errorf("written again:\n got %x\nwant %x", out, in)
				}
			}
		})
	}
}

func TestV8MaskOrder(t *testing.T) {
	msg := octets("0008 0001 0036ee80 6553f100 00000000 00000005 01 02 05 02 00000000" +
		"00000009 00000007 000003e8 0036c770 0036eb80 0a000000 0a010000 18 10 0000 fde8 fde9 0003 0004")
	for _, flowTools := range []bool{false, true} {
		recs, m, err := feed(t, NewDecoder(Options{V8DestinationMaskFirst: flowTools}), msg)
		src, dst := recs[0].SrcMask, recs[0].DstMask
		if flowTools {
			src, dst = dst, src
		}
		if err != nil || src != 24 || dst != 16 {
			t.Errorf("destination mask first %v: /%d to /%d, %v", flowTools, recs[0].SrcMask, recs[0].DstMask, err)
		}
		form := FormV8{Scheme: V8Prefix, DestinationMaskFirst: flowTools}
		if out := encodeAgain(m, recs, form); !bytes.Equal(out, msg) {
			t.Errorf("destination mask first %v, written again: %x", flowTools, out)
		}
	}
}

// What each kind of broken message is refused for, where, and that the next
// message is decoded.
func TestRefusals(t *testing.T) {
	tmpl := templateSet(10, 256, []spec{{1, 4}, {2, 4}})
	good := datagram(10, 0, tmpl, dataSet(256, []spec{{1, 4}, {2, 4}}, 2))
	set := func(id, length uint16, body ...byte) []byte {
		return append(be.AppendUint16(be.AppendUint16(nil, id), length), body...)
	}
	ipfixOf := func(sets ...[]byte) []byte { return datagram(10, 0, sets...) }
	lie := func(msg []byte, off int, v uint16) []byte {
		msg = slices.Clone(msg)
		be.PutUint16(msg[off:], v)
		return msg
	}
	for _, c := range []struct {
		name    string
		msg     []byte
		reason  Reason
		offset  int
		field   string
		wraps   error
		records int // that are read all the same
	}{
		{"nothing", nil, ShortMessage, 0, "version number", ErrShort, 0},
		{"one octet", []byte{0}, ShortMessage, 0, "version number", ErrShort, 0},
		{"version 2", make([]byte, 100)[:64], UnknownVersion, 0, "version number", ErrVersion, 0},
		{"sFlow v5", octets("00000005 00000001 c0000201 00000000 00000001 00000001 00000000"), UnknownVersion, 0, "version number", ErrVersion, 0},
		{"v5 header cut", v5Datagram(1)[:23], ShortMessage, 23, "header", ErrShort, 0},
		{"v5 count beyond the datagram", lie(v5Datagram(3), 2, 31), RecordCount, 2, "count", ErrCount, 3},
		{"v5 last record cut", v5Datagram(3)[:24+48*3-1], RecordCount, 2, "count", ErrCount, 2},
		{"v8 scheme 15", octets("0008 0001 0036ee80 6553f100 00000000 00000005 01 02 0f 02 00000000"), ReservedSet, 22, "aggregation scheme", ErrReserved, 0},
		{"v9 header cut", datagram(9, 0)[:19], ShortMessage, 19, "packet header", ErrShort, 0},
		{"IPFIX header cut", good[:15], ShortMessage, 15, "message header", ErrShort, 0},
		{"IPFIX message cut", good[:len(good)-4], MessageLength, 2, "message length", ErrLength, 0},
		{"IPFIX length too small", lie(good, 2, 15), MessageLength, 2, "message length", ErrLength, 2},
		{"octets behind an IPFIX message", append(slices.Clone(good), 1, 2, 3), MessageLength, 2, "message length", ErrLength, 2},
		{"set length 0", ipfixOf(tmpl, set(256, 0, 1, 2, 3, 4)), SetLength, 16 + 16 + 2, "set length", ErrLength, 0},
		{"set length 3", ipfixOf(tmpl, set(256, 3, 1, 2, 3, 4)), SetLength, 16 + 16 + 2, "set length", ErrLength, 0},
		{"set beyond the message", ipfixOf(tmpl, set(256, 13, 1, 2, 3, 4, 5, 6, 7, 8)), SetLength, 16 + 16 + 2, "set length", ErrLength, 0},
		{"a set header cut", ipfixOf(tmpl, []byte{1, 0, 1}), SetLength, 16 + 16, "set header", ErrShort, 0},
		{"reserved set, the next one is read", ipfixOf(tmpl, set(4, 8, 1, 2, 3, 4), dataSet(256, []spec{{1, 4}, {2, 4}}, 1)), ReservedSet, 32, "set ID", ErrReserved, 1},
		{"v9's template set in IPFIX", ipfixOf(tmpl, set(0, 8, 1, 2, 3, 4), dataSet(256, []spec{{1, 4}, {2, 4}}, 1)), ReservedSet, 32, "set ID", ErrReserved, 1},
		{"template number below 256", ipfixOf(set(2, 12, 0, 255, 0, 1, 0, 1, 0, 4)), BadTemplate, 20, "template ID", ErrReserved, 0},
		{"more fields than the set holds", ipfixOf(set(2, 12, 1, 0, 0, 9, 0, 1, 0, 4)), BadTemplate, 22, "field count", ErrCount, 0},
		{"an enterprise number cut", ipfixOf(set(2, 12, 1, 0, 0, 1, 0x80, 1, 0, 4)), BadTemplate, 20, "field specifiers", ErrShort, 0},
		{"records longer than any message", ipfixOf(set(2, 16, 1, 0, 0, 2, 0, 1, 0xff, 0xfe, 0, 1, 0xff, 0xfe)), BadTemplate, 22, "field lengths", ErrLength, 0},
		{"options template without a scope", ipfixOf(set(3, 14, 1, 0, 0, 1, 0, 0, 0, 1, 0, 4)), BadTemplate, 24, "scope field count", ErrCount, 0},
		{"options template with more scope than fields", ipfixOf(set(3, 14, 1, 0, 0, 1, 0, 2, 0, 1, 0, 4)), BadTemplate, 24, "scope field count", ErrCount, 0},
		{"v9 options template of uneven lengths", datagram(9, 0, set(1, 14, 1, 0, 0, 3, 0, 3, 0, 1, 0, 4)), BadTemplate, 24, "options template length", ErrLength, 0},
		{"v9 options template of uneven lengths whose sum is even", datagram(9, 0, set(1, 18, 1, 0, 0, 3, 0, 5, 0, 1, 0, 4, 0, 34, 0, 4)), BadTemplate, 24, "options template length", ErrLength, 0},
		{"a data set shorter than its record", ipfixOf(tmpl, set(256, 9, 1, 2, 3, 4, 5)), RecordOverrun, 36, "data record", ErrShort, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := NewDecoder(Options{})
			_, m, err := feed(t, d, c.msg)
			var se *SyntaxError
			if !errors.As(err, &se) || se.Offset != c.offset || se.Field != c.field || !errors.Is(err, c.wraps) {
				t.Errorf("error %v; want one at octet %d, %s, that is %v", err, c.offset, c.field, c.wraps)
			}
			if m.Records != c.records || m.Refused == 0 || count(d, c.reason) == 0 {
				t.Errorf("%+v, %d counted as %s", m, count(d, c.reason), c.reason)
			}
			if recs, _, err := feed(t, d, good); err != nil || len(recs) != 2 {
				t.Errorf("then a good message gives %d records, %v", len(recs), err)
			}
		})
	}
}

// v9: the header's count may be too small; zeros behind the last flowset are
// padding.
func TestV9CountAndPadding(t *testing.T) {
	f := []spec{{1, 4}, {2, 4}}
	msg := datagram(9, 0, templateSet(9, 256, f), dataSet(256, f, 3), dataSet(256, f, 2))
	be.PutUint16(msg[2:], 1)
	for _, pad := range []int{0, 1, 4, 50} {
		recs, m, err := feed(t, NewDecoder(Options{}), append(slices.Clone(msg), make([]byte, pad)...))
		if err != nil || len(recs) != 5 || m.Count != 1 || m.Sets != 3 {
			t.Errorf("%d octets of padding: %d records, %+v, %v", pad, len(recs), m, err)
		}
	}
}

// Padding of a set: any octets that are too few for a record.
func TestSetPadding(t *testing.T) {
	f := []spec{{1, 4}, {2, 4}}
	for pad := range 8 {
		set := append(dataSet(256, f, 2), make([]byte, pad)...)
		be.PutUint16(set[2:], uint16(len(set)))
		recs, _, err := feed(t, NewDecoder(Options{}), datagram(10, 0, templateSet(10, 256, f), set))
		if err != nil || len(recs) != 2 {
			t.Errorf("%d octets: %d records, %v", pad, len(recs), err)
		}
	}
}

// IPv4 and IPv6 fields in one template: whichever is not zero; both, if both
// say something.
func TestBothFamilies(t *testing.T) {
	f := []spec{{8, 4}, {27, 16}, {9, 1}, {29, 1}}
	v6 := "20010db8000000000000000000000001"
	none := strings.Repeat("0", 32)
	for _, c := range []struct{ data, want string }{
		{"c0000201" + none + "18 00", "src=192.0.2.1 src_mask=24 "},
		{"00000000" + v6 + "00 40", "src=2001:db8::1 src_mask=64 "},
		{"00000000" + none + "00 00", "src=:: src_mask=0 "},
		{"c0000201" + v6 + "18 40", `src=192.0.2.1 src_mask=24 {"sourceIPv6Address":"2001:db8::1","sourceIPv6PrefixLength":64}`},
	} {
		set := append([]byte{1, 0, 0, 26}, octets(c.data)...)
		recs, _, err := feed(t, NewDecoder(Options{}), datagram(10, 0, templateSet(10, 256, f), set))
		if err != nil {
			t.Fatal(err)
		}
		if got := show(&recs[0]); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// ICMP's type and code reach both forms, whichever the exporter sends.
func TestICMP(t *testing.T) {
	for _, c := range []struct {
		name   string
		fields []spec
		data   string
		want   string
	}{
		{"in an element of their own", []spec{{4, 1}, {32, 2}}, "01 0303", "sport=0 dport=771 proto=1 icmp=771 "},
		{"in two", []spec{{4, 1}, {178, 1}, {179, 1}}, "3a 80 00", "sport=0 dport=32768 proto=58 icmp=32768 "},
		{"in the destination port", []spec{{4, 1}, {7, 2}, {11, 2}}, "01 0000 0800", "sport=0 dport=2048 proto=1 icmp=2048 "},
		{"in both", []spec{{4, 1}, {7, 2}, {11, 2}, {32, 2}}, "01 0000 0800 0800", "sport=0 dport=2048 proto=1 icmp=2048 "},
		{"in the port, zero in the element", []spec{{4, 1}, {7, 2}, {11, 2}, {32, 2}}, "01 0000 0800 0000", "sport=0 dport=2048 proto=1 icmp=2048 "},
		{"in the element, zero in the port", []spec{{4, 1}, {7, 2}, {11, 2}, {32, 2}}, "01 0000 0000 0800", "sport=0 dport=2048 proto=1 icmp=2048 "},
		{"echo reply is zero", []spec{{4, 1}, {32, 2}}, "01 0000", "sport=0 dport=0 proto=1 icmp=0 "},
		{"IPv4's and IPv6's: the one that says something", []spec{{4, 1}, {32, 2}, {139, 2}}, "3a 0000 8100", "sport=0 dport=33024 proto=58 icmp=33024 "},
		{"no protocol: the element tells", []spec{{139, 2}}, "8100", "sport=0 dport=33024 proto=58 icmp=33024 "},
		{"UDP: zeros mean nothing", []spec{{4, 1}, {32, 2}}, "11 0000", "proto=17 "},
		{"UDP: what is there is kept", []spec{{4, 1}, {32, 2}}, "11 0007", `proto=17 {"icmpTypeCodeIPv4":7}`},
	} {
		data := octets(c.data)
		set := append(be.AppendUint16([]byte{1, 0}, uint16(4+len(data))), data...)
		recs, _, err := feed(t, NewDecoder(Options{}), datagram(9, 0, templateSet(9, 256, c.fields), set))
		if err != nil || len(recs) != 1 {
			t.Fatalf("%s: %d records, %v", c.name, len(recs), err)
		}
		if got := show(&recs[0]); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}
