package rows

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/flow"
)

var columns = []string{"src", "packets", "bps", "first"}

func print(t *testing.T, f Format, lines ...[]any) string {
	t.Helper()
	var b bytes.Buffer
	w := New(&b, f, columns)
	for _, l := range lines {
		if err := w.Row(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestFormats(t *testing.T) {
	at := time.Date(2026, 11, 22, 10, 0, 0, 1000, time.UTC)
	lines := [][]any{{"192.0.2.1", uint64(7), 1.5, at}, {"a,\"b\"\x1b[2J", nil, 0.0, at}}
	for _, c := range []struct {
		format Format
		want   string
	}{
		{CSV, "src,packets,bps,first\n192.0.2.1,7,1.5,2026-11-22T10:00:00.000001Z\n" + `"a,""b""\u001b[2J",,0,2026-11-22T10:00:00.000001Z` + "\n"},
		{NDJSON, `{"src":"192.0.2.1","packets":7,"bps":1.5,"first":"2026-11-22T10:00:00.000001Z"}` + "\n" +
			`{"src":"a,\"b\"\u001b[2J","packets":null,"bps":0,"first":"2026-11-22T10:00:00.000001Z"}` + "\n"},
		{Table, "src             packets   bps  first\n" +
			"192.0.2.1             7  1.50  2026-11-22 10:00:00.000\n" +
			`a,"b"\u001b[2J        -  0.00  2026-11-22 10:00:00.000` + "\n"},
	} {
		if got := print(t, c.format, lines...); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.format, got, c.want)
		}
	}
	var array []map[string]any
	if err := json.Unmarshal([]byte(print(t, JSON, lines...)), &array); err != nil || len(array) != 2 {
		t.Errorf("JSON: %v, %d objects", err, len(array))
	}
}

func TestEmptyOutputIsWellFormed(t *testing.T) {
	if got := print(t, CSV); got != "src,packets,bps,first\n" {
		t.Errorf("CSV: %q", got)
	}
	if got := print(t, NDJSON); got != "" {
		t.Errorf("NDJSON: %q", got)
	}
	var array []any
	if err := json.Unmarshal([]byte(print(t, JSON)), &array); err != nil || len(array) != 0 {
		t.Errorf("JSON: %v", err)
	}
	var b bytes.Buffer
	NewFlows(&b, JSON, false).Close()
	if err := json.Unmarshal(b.Bytes(), &array); err != nil {
		t.Errorf("flows as JSON: %v in %q", err, b.String())
	}
}

func TestFlowsRoundTrip(t *testing.T) {
	batch := []flow.Record{
		{Src: flow.AddrFrom4([4]byte{192, 0, 2, 1}), Proto: 6, SrcPort: 80, TCPFlags: flow.SYN | flow.ACK, Has: flow.HasSrc | flow.HasProto | flow.HasSrcPort | flow.HasTCPFlags},
		{Src: flow.Addr{0: 0x20, 1: 1, 15: 9}, Proto: 58, Has: flow.HasSrc | flow.HasProto, Elements: []byte(`{"x":"a,b"}`)},
	}
	var b bytes.Buffer
	f := NewFlows(&b, CSV, false)
	if err := f.WriteRecords(batch); err != nil {
		t.Fatal(err)
	}
	f.Close()
	lines, err := csv.NewReader(&b).ReadAll()
	if err != nil || len(lines) != 3 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	if got := lines[2][flow.ColElements]; got != `{"x":"a,b"}` {
		t.Errorf("elements = %s", got)
	}
	if got := FlagLetters(&batch[0]); got != "...A..S." {
		t.Errorf("flags = %s", got)
	}
	b.Reset()
	f = NewFlows(&b, Table, true)
	f.WriteRecords(batch)
	f.Close()
	if !strings.Contains(b.String(), "192.0.2.1:80") || strings.Count(b.String(), "\n") != 3 {
		t.Errorf("table:\n%s", b.String())
	}
}

func TestPlainEscapesWhatATerminalObeys(t *testing.T) {
	for in, want := range map[string]string{
		"eth0": "eth0", "Zürich": "Zürich", "\x1b]52;c;x\a": `\u001b]52;c;x\u0007`, "a\u202eb": `a\u202eb`, "\x80": `\x80`, "\u009bm": `\u009bm`,
	} {
		if got := Plain(in); got != want {
			t.Errorf("Plain(%q) = %q, want %q", in, got, want)
		}
	}
}

// What was printed is out after Sync, in every format, and is what Close would
// have left had it been the end, but for what ends the output.
func TestFlowsSync(t *testing.T) {
	records := make([]flow.Record, 3)
	for i := range records {
		records[i] = flow.Record{Packets: uint64(i), Bytes: 64, Has: flow.HasPackets | flow.HasBytes}
	}
	for _, f := range []Format{Table, CSV, JSON, NDJSON} {
		var b bytes.Buffer
		p := NewFlows(&b, f, false)
		var sink flow.Syncer = p
		for i := range records {
			if err := sink.WriteRecords(records[i : i+1]); err != nil {
				t.Fatal(err)
			}
		}
		if b.Len() > 0 {
			t.Errorf("%s: %q before Sync", f, b.String())
		}
		if err := sink.Sync(); err != nil {
			t.Fatal(err)
		}
		synced := b.String()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if end := strings.TrimPrefix(b.String(), synced); len(synced) == 0 || end != "" && (f != JSON || end != "\n]\n") {
			t.Errorf("%s: %q after Sync, then %q", f, synced, end)
		}
	}
	p := NewFlows(full{}, CSV, false)
	if err := errors.Join(p.WriteRecords(records), p.Sync()); err == nil {
		t.Error("Sync does not say that the disk is full")
	}
}

// full is a disk that is.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }
