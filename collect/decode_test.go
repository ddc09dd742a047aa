package collect

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weir/capture"
	"weir/flow"
	"weir/packet"
	"weir/wire"
)

// pcapOf writes a classic pcap file of raw IP packets.
func pcapOf(t testing.TB, packets ...[]byte) string {
	t.Helper()
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0)
	b = le.AppendUint32(b, uint32(packet.LinkRaw))
	for i, p := range packets {
		b = le.AppendUint32(b, uint32(1_700_000_000+i))
		b = le.AppendUint32(b, 0)
		b = le.AppendUint32(b, uint32(len(p)))
		b = le.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	name := filepath.Join(t.TempDir(), "x.pcap")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// ip4 and ip6 put a header in front of a payload; off and more are the
// fragment's, in octets.
func ip4(proto uint8, id uint16, off int, more bool, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, 64, proto
	be.PutUint16(b[2:], uint16(20+len(payload)))
	be.PutUint16(b[4:], id)
	frag := uint16(off / 8)
	if more {
		frag |= 0x2000
	}
	be.PutUint16(b[6:], frag)
	copy(b[12:], []byte{192, 0, 2, 1, 192, 0, 2, 2})
	return append(b, payload...)
}

func ip6(id uint32, off int, more bool, payload []byte) []byte {
	b := make([]byte, 48, 48+len(payload))
	b[0], b[6], b[7] = 0x60, 44, 64
	be.PutUint16(b[4:], uint16(8+len(payload)))
	copy(b[8:], []byte{0x20, 1, 0xd, 0xb8, 15: 1})
	copy(b[24:], []byte{0x20, 1, 0xd, 0xb8, 15: 2})
	b[40] = 17
	frag := uint16(off)
	if more {
		frag |= 1
	}
	be.PutUint16(b[42:], frag)
	be.PutUint32(b[44:], id)
	return append(b, payload...)
}

func udp(sport, dport uint16, payload []byte) []byte {
	b := be.AppendUint16(be.AppendUint16(nil, sport), dport)
	b = be.AppendUint16(be.AppendUint16(b, uint16(8+len(payload))), 0)
	return append(b, payload...)
}

func tcp(dport uint16, seq uint32, flags uint8, payload []byte) []byte {
	b := be.AppendUint16(be.AppendUint16(nil, 40000), dport)
	b = be.AppendUint32(be.AppendUint32(b, seq), 0)
	b = append(b, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	return ip4(6, 1, 0, false, append(b, payload...))
}

func decodeFile(t testing.TB, name string, opt DecodeOptions) ([]flow.Record, *Summary) {
	t.Helper()
	sink := &memory{}
	opt.Sink = sink
	sum, err := Decode(context.Background(), []string{name}, opt)
	if err != nil {
		t.Fatal(err)
	}
	return sink.records, sum
}

// Datagrams whose fragments come in any order, twice, overlapping, of both IP
// versions.
func TestFragments(t *testing.T) {
	whole := udp(50000, 2055, v5(0, 30)) // 1472 octets
	cut := func(sizes ...int) (parts [][2]int) {
		off := 0
		for _, n := range sizes {
			parts = append(parts, [2]int{off, min(off+n, len(whole))})
			off += n
		}
		return parts
	}
	three := cut(512, 512, 512)
	for name, order := range map[string][][2]int{
		"in order":      three,
		"backwards":     {three[2], three[1], three[0]},
		"twice":         {three[0], three[0], three[2], three[1]},
		"overlapping":   {{0, 800}, {512, 1200}, {1024, len(whole)}},
		"small, mixed":  {{1200, len(whole)}, {0, 8}, {8, 400}, {800, 1200}, {400, 800}},
		"an atomic one": {{0, len(whole)}},
	} {
		for _, v6 := range []bool{false, true} {
			var packets [][]byte
			for _, p := range order {
				more := p[1] < len(whole)
				if v6 {
					packets = append(packets, ip6(7, p[0], more, whole[p[0]:p[1]]))
				} else {
					packets = append(packets, ip4(17, 7, p[0], more, whole[p[0]:p[1]]))
				}
			}
			recs, sum := decodeFile(t, pcapOf(t, packets...), DecodeOptions{})
			if len(recs) != 30 || sum.Datagrams != 1 || sum.Ignored["incomplete-fragments"] != 0 {
				t.Errorf("%s, IPv6 %v: %d records, %+v", name, v6, len(recs), sum)
			}
		}
	}
	recs, sum := decodeFile(t, pcapOf(t, ip4(17, 7, 0, true, whole[:512]), ip4(17, 8, 512, true, whole[512:1024])), DecodeOptions{})
	if len(recs) != 0 || sum.Ignored["incomplete-fragments"] != 2 {
		t.Errorf("halves: %d records, %v", len(recs), sum.Ignored)
	}
	// Many beginnings must not take memory without end.
	var packets [][]byte
	for i := range 2000 {
		packets = append(packets, ip4(17, uint16(i), 0, true, whole[:8]))
	}
	if _, sum := decodeFile(t, pcapOf(t, packets...), DecodeOptions{}); sum.Ignored["incomplete-fragments"] != 2000 {
		t.Errorf("%v", sum.Ignored)
	}
}

// IPFIX in TCP segments of any size, in any order, sent again.
func TestTCPStreams(t *testing.T) {
	msgs := ipfix(0, templateSet, dataSet)
	for i := range 9 {
		msgs = append(msgs, ipfix(uint32(1+i), dataSet)...)
	}
	seg := func(from, to int) []byte { return tcp(4739, uint32(101+from), 0x10, msgs[from:to]) }
	syn := tcp(4739, 100, tcpSYN, nil)
	n := len(msgs)
	for name, packets := range map[string][][]byte{
		"one segment":                  {syn, seg(0, n)},
		"split in a header":            {syn, seg(0, 3), seg(3, 7), seg(7, n)},
		"out of order":                 {syn, seg(50, 100), seg(0, 50), seg(150, n), seg(100, 150)},
		"sent again":                   {syn, seg(0, 60), seg(0, 60), seg(40, 100), seg(30, n), seg(100, n)},
		"captured from the middle on":  {seg(0, 40), seg(40, n)},
		"the connection closes":        {syn, seg(0, n), tcp(4739, uint32(101+n), tcpFIN, nil)},
		"on another port, by content":  {tcp(5555, 100, tcpSYN, nil), tcp(5555, 101, 0x10, msgs)},
		"a sequence number that wraps": {tcp(4739, 0xffffffff, tcpSYN, nil), tcp(4739, 0, 0x10, msgs)},
	} {
		recs, sum := decodeFile(t, pcapOf(t, packets...), DecodeOptions{})
		if len(recs) != 10 || sum.Datagrams != 10 || sum.Sequence.Gaps != 0 || sum.Versions["10"].Records != 10 {
			t.Errorf("%s: %d records, %+v", name, len(recs), sum)
		}
	}
	// Something else, on the port and elsewhere.
	for _, port := range []uint16{4739, 80} {
		recs, sum := decodeFile(t, pcapOf(t, tcp(port, 100, tcpSYN, nil), tcp(port, 101, 0x10, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
			tcp(port, 128, 0x10, msgs)), DecodeOptions{})
		if len(recs) != 0 || sum.Ignored["tcp-without-message"] != 2 {
			t.Errorf("HTTP on port %d: %d records, %v", port, len(recs), sum.Ignored)
		}
	}
	// A hole that is never filled must not take memory without end.
	packets := [][]byte{syn}
	for i := range 200 {
		packets = append(packets, tcp(4739, uint32(1000+i*20000), 0x10, make([]byte, 20000)))
	}
	decodeFile(t, pcapOf(t, packets...), DecodeOptions{})
}

// Which datagrams are taken: by port when asked for; else by custom and by form.
func TestPortsAndContent(t *testing.T) {
	at := func(port uint16, payload []byte) []byte { return ip4(17, 1, 0, false, udp(50000, port, payload)) }
	dns := []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01")
	name := pcapOf(t, at(2055, v5(0, 1)), at(12345, v5(1, 1)), at(53, dns), at(2055, dns), at(6343, []byte{0, 0, 0, 4, 0, 0, 0, 1}))
	recs, sum := decodeFile(t, name, DecodeOptions{})
	if len(recs) != 2 || sum.Lost["unknown-version"].Datagrams != 2 || sum.Ignored["not-export"] != 1 {
		t.Errorf("by custom and content: %d records, %+v", len(recs), sum)
	}
	recs, sum = decodeFile(t, name, DecodeOptions{Ports: []uint16{12345}})
	if len(recs) != 1 || sum.Lost["unknown-version"].Datagrams != 0 || sum.Ignored["not-export"] != 4 {
		t.Errorf("port 12345: %d records, %+v", len(recs), sum)
	}
}

// Files of raw messages, back to back.
func TestMessageFiles(t *testing.T) {
	nine := func(seq uint32) []byte {
		b := be.AppendUint16(be.AppendUint16(nil, 9), 1)
		b = be.AppendUint32(be.AppendUint32(b, 1000), 1_700_000_000)
		b = be.AppendUint32(be.AppendUint32(b, seq), 1)
		b = append(b, 0, 0, 0, 12, 1, 0, 0, 1, 0, 1, 0, 4)
		return append(b, 1, 0, 0, 8, 0, 0, 0, 9)
	}
	for name, c := range map[string]struct {
		b       []byte
		msgs    uint64
		records int
		err     string
	}{
		"IPFIX": {slices.Concat(ipfix(0, templateSet, dataSet), ipfix(1, dataSet)), 2, 2, ""},
		"v5":    {slices.Concat(v5(0, 3), v5(3, 30)), 2, 33, ""},
		"v9":    {slices.Concat(nine(0), nine(1), nine(2)), 3, 3, ""},
		"mixed": {slices.Concat(v5(0, 1), ipfix(0, templateSet, dataSet), nine(0)), 3, 3, ""},
		"text":  {[]byte(strings.Repeat("not a capture\n", 20)), 0, 0, "nor a file of NetFlow, IPFIX or sFlow messages"},
		"cut":   {slices.Concat(v5(0, 3), v5(3, 30)[:500]), 1, 3, "octet 168: no NetFlow, IPFIX or sFlow message begins here, after 1 messages"},
	} {
		file := filepath.Join(t.TempDir(), "messages")
		if err := os.WriteFile(file, c.b, 0o600); err != nil {
			t.Fatal(err)
		}
		sink := &memory{}
		sum, err := Decode(context.Background(), []string{file}, DecodeOptions{Sink: sink})
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: error %v, want %q", name, err, c.err)
		}
		if sink.len() != c.records || sum.Datagrams != c.msgs {
			t.Errorf("%s: %d records of %d messages, want %d of %d", name, sink.len(), sum.Datagrams, c.records, c.msgs)
		}
		for _, r := range sink.records {
			if r.Has&flow.HasExporter != 0 {
				t.Errorf("%s: an exporter is made up: %v", name, r.Exporter)
			}
		}
	}
}

// Bad files: one clear line with the file's name, and what was read before.
func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	whole, err := os.ReadFile(pcapOf(t, ip4(17, 1, 0, false, udp(1, 2055, v5(0, 30))), ip4(17, 1, 0, false, udp(1, 2055, v5(30, 30)))))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, c := range []struct {
		file    string
		records int
	}{
		{filepath.Join(dir, "missing"), 0},
		{dir, 0},
		{write("empty", nil), 0},
		{write("short", whole[:10]), 0},
		{write("cut.pcap", whole[:len(whole)-100]), 30},
	} {
		sink := &memory{}
		_, err := Decode(context.Background(), []string{c.file}, DecodeOptions{Sink: sink})
		if err == nil || !strings.Contains(err.Error(), c.file) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", c.file, err)
		}
		if sink.len() != c.records {
			t.Errorf("%s: %d records, want %d", c.file, sink.len(), c.records)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Decode(ctx, []string{write("whole.pcap", whole)}, DecodeOptions{}); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	sink := &memory{err: os.ErrClosed}
	if _, err := Decode(context.Background(), []string{write("whole.pcap", whole)}, DecodeOptions{Sink: sink}); err != os.ErrClosed {
		t.Errorf("a failing sink: %v", err)
	}
}

// A template in one file serves the next; the summary adds up.
func TestFilesAreOneStream(t *testing.T) {
	one := pcapOf(t, ip4(17, 1, 0, false, udp(1, 2055, ipfix(0, dataSet))), ip4(17, 1, 0, false, udp(1, 2055, ipfix(1, templateSet))))
	two := pcapOf(t, ip4(17, 1, 0, false, udp(1, 2055, ipfix(1, dataSet))), ip4(17, 1, 0, false, udp(1, 2055, ipfix(9, dataSet))))
	sink := &memory{}
	sum, err := Decode(context.Background(), []string{one, two}, DecodeOptions{Sink: sink})
	if err != nil {
		t.Fatal(err)
	}
	if v := sum.Versions["10"]; v != (VersionSummary{Messages: 4, Sets: 4, Templates: 1, Records: 3}) || sum.Records != 3 || sink.len() != 3 || sum.Datagrams != 4 {
		t.Errorf("%+v", sum)
	}
	if sum.Sequence != (SequenceSummary{Gaps: 1, LostRecords: 7}) {
		t.Errorf("%+v", sum.Sequence)
	}
	if _, ok := sum.Lost["template-missing"]; !ok || len(sum.Lost) < 15 {
		t.Errorf("reasons: %v", sum.Lost)
	}
}

func FuzzExtract(f *testing.F) {
	f.Add(ip4(17, 1, 0, false, udp(1, 2055, v5(0, 1))), uint32(packet.LinkRaw))
	f.Add(ip4(17, 1, 0, true, make([]byte, 64)), uint32(packet.LinkRaw))
	f.Add(ip6(1, 8, true, make([]byte, 64)), uint32(packet.LinkRaw))
	f.Add(tcp(4739, 1, 0x10, ipfix(0, templateSet, dataSet)), uint32(packet.LinkRaw))
	f.Add(append(make([]byte, 12), append([]byte{8, 0}, tcp(4739, 1, tcpSYN, nil)...)...), uint32(packet.LinkEthernet))
	f.Fuzz(func(t *testing.T, data []byte, link uint32) {
		x := newExtractor(nil)
		taken := 0
		x.take = func(src wire.Source, _ uint16, _ int64, msg []byte) {
			if len(msg) > maxDatagram {
				t.Fatalf("a message of %d octets", len(msg))
			}
			taken++
		}
		// The frame as a whole, and its two halves as two frames.
		for _, part := range [][]byte{data, data[:len(data)/2], data[len(data)/2:]} {
			x.packet(&capture.Packet{Data: part, Wire: uint32(len(part)), Link: packet.LinkType(link), Time: 1})
		}
		if len(x.frags) != len(x.order) {
			t.Fatalf("%d datagrams in the making, %d in order", len(x.frags), len(x.order))
		}
		for _, s := range x.streams {
			held := 0
			for _, a := range s.ahead {
				held += len(a.data)
			}
			if held != s.held {
				t.Fatalf("%d octets ahead, counted as %d", held, s.held)
			}
		}
	})
}
