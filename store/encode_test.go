package store

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	parquetzstd "github.com/parquet-go/parquet-go/compress/zstd"
	"pgregory.net/rapid"

	"weir/flow"
	"weir/store/storetest"
)

var epoch = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// BenchmarkEncode is the way of records into a segment: copying them into
// columns, and encoding these.
func BenchmarkEncode(b *testing.B) {
	const n = 1 << 18
	records := storetest.NewTraffic(1, epoch.UnixNano()).Records(n)
	var cols batch
	e := newEncoder(zstd.SpeedFastest)
	report := func(b *testing.B, size int64) {
		b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "records/s")
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/record")
		if size > 0 {
			b.ReportMetric(float64(size)/n, "B/record")
		}
	}
	fill := func() {
		cols.reset()
		for i := range records {
			cols.add(&records[i], 0)
		}
	}
	fill()
	b.Run("columns", func(b *testing.B) {
		for b.Loop() {
			fill()
		}
		report(b, 0)
	})
	b.Run("encode", func(b *testing.B) {
		var s Segment
		for b.Loop() {
			s = Segment{}
			cols.summary(&s)
			if err := e.write(io.Discard, &s, cols.whole); err != nil {
				b.Fatal(err)
			}
		}
		report(b, s.Size)
	})
	// The same columns through parquet-go's own writer, for comparison.
	b.Run("parquet-go", func(b *testing.B) {
		var size int64
		for b.Loop() {
			size = generic(b, &cols)
		}
		report(b, size)
	})
}

// generic writes b by parquet-go's column writers, and gives the size.
func generic(t testing.TB, b *batch) int64 {
	fields := parquet.Group{}
	for _, c := range schema {
		node := map[kind]parquet.Node{
			kindAddr: parquet.UUID(), kindTime: parquet.Encoded(parquet.Int(64), &parquet.DeltaBinaryPacked), kindU64: parquet.Uint(64),
			kindU32: parquet.Uint(32), kindU16: parquet.Uint(16), kindU8: parquet.Uint(8), kindText: parquet.String(),
		}[c.kind]
		if c.kind != kindTime {
			node = parquet.Encoded(node, &parquet.RLEDictionary)
		}
		fields[c.name] = parquet.Optional(parquet.Compressed(node, &parquetzstd.Codec{Level: parquetzstd.SpeedFastest}))
	}
	schemaOf := parquet.NewSchema("flows", fields)
	at := map[string]int{}
	for i, path := range schemaOf.Columns() {
		at[path[0]] = i
	}
	var out counter
	w := parquet.NewWriter(&out, schemaOf)
	values := make([]parquet.Value, b.rows())
	for _, c := range schema {
		i := at[c.name]
		for row, has := range b.has {
			v := parquet.NullValue().Level(0, 0, i)
			if has&c.bit == c.bit {
				switch c.kind {
				case kindAddr:
					v = parquet.FixedLenByteArrayValue(b.addr[c.at][row][:])
				case kindTime:
					v = parquet.Int64Value(b.time[c.at][row])
				case kindU64:
					v = parquet.Int64Value(int64(b.u64[c.at][row]))
				case kindU32:
					v = parquet.Int32Value(int32(b.u32[c.at][row]))
				case kindU16:
					v = parquet.Int32Value(int32(b.u16[c.at][row]))
				case kindU8:
					v = parquet.Int32Value(int32(b.u8[c.at][row]))
				case kindText:
					v = parquet.ByteArrayValue(b.elements(row))
				}
				v = v.Level(0, 1, i)
			}
			values[row] = v
		}
		if _, err := w.ColumnWriters()[i].WriteRowValues(values); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return int64(out)
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// More rows than a row group holds, through cuts, a merge and back.
func TestLargeSegments(t *testing.T) {
	if testing.Short() {
		t.Skip("a quarter of a million rows: not in short runs")
	}
	const n = 2*groupRows + 1000
	dir := t.TempDir()
	c := &clock{t: epoch}
	s := open(t, dir, Options{Now: c.now, SegmentRows: groupRows + 500})
	want := numbered(0, n)
	for lo := 0; lo < n; lo += 1000 {
		s.WriteRecords(want[lo:min(lo+1000, n)])
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	c.add(2 * time.Hour)
	if err := s.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if q := s.Stats().Quarantined; len(q) > 0 {
		t.Fatalf("quarantined %v", q)
	}
	if g := s.Segments(); len(g) != 1 || g[0].Rows != n {
		t.Fatalf("segments %+v, want one of %d rows", g, n)
	}
	rd, err := OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for i := range want {
		storetest.AsStored(&want[i], 0)
	}
	err = rd.ReadSegment(s.Segments()[0], flow.SinkFunc(func(b []flow.Record) error {
		for i := range b {
			if !reflect.DeepEqual(b[i], want[b[i].FlowID]) {
				return fmt.Errorf("flow %d: %s", b[i].FlowID, cmp.Diff(want[b[i].FlowID], b[i]))
			}
			seen++
		}
		return nil
	}))
	if err != nil || seen != n {
		t.Fatalf("%d rows, want %d: %v", seen, n, err)
	}
}

// A segment that is not one is refused, whatever it is made of.
func FuzzSegment(f *testing.F) {
	var in batch
	records := numbered(0, 100)
	for i := range records {
		in.add(&records[i], 0)
	}
	var file bytes.Buffer
	var s Segment
	in.summary(&s)
	if err := newEncoder(zstd.SpeedFastest).write(&file, &s, in.whole); err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes())
	f.Add([]byte("PAR1"))
	for _, at := range []int{10, 100, file.Len() / 2, file.Len() - 200, file.Len() - 20, file.Len() - 6} {
		broken := bytes.Clone(file.Bytes())
		broken[at] ^= 0x41
		f.Add(broken)
		f.Add(broken[:at])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := readMeta("x", data); err != nil {
			return
		}
		if !bytes.Equal(data, file.Bytes()) {
			t.Fatal("a changed segment was taken for whole")
		}
		var b batch
		if err := readRows("x", data, &b); err != nil {
			return
		}
		var r flow.Record
		for i := range b.rows() {
			b.record(i, &r)
		}
	})
}

func FuzzCatalogue(f *testing.F) {
	c := newCatalogue()
	c.add(Segment{ID: 3, File: flowsDir + "/a.parquet", Rows: 7})
	c.retired = append(c.retired, retired{File: flowsDir + "/b.parquet", Since: 5})
	text, err := c.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("weir catalogue 1\nend 1 0 00000000\n"))
	f.Add([]byte("weir catalogue 2\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCatalogue("x", data)
		if err != nil {
			return
		}
		again, err := c.clone().encode()
		if err != nil {
			t.Fatal(err)
		}
		d, err := decodeCatalogue("x", again)
		if err != nil || !cmp.Equal(c.segments, d.segments) || !cmp.Equal(c.retired, d.retired) || c.next != d.next {
			t.Fatalf("%v: %q became %q", err, data, again)
		}
	})
}

// random makes records that know what they like.
func random(t *rapid.T) []flow.Record {
	n := rapid.IntRange(0, 400).Draw(t, "rows")
	seed := rapid.Uint64().Draw(t, "seed")
	tr := storetest.NewTraffic(seed, epoch.UnixNano())
	return tr.Any(n)
}

// What is written is read back, whatever is known of a record and whatever
// becomes of its columns: dictionaries, deltas, plain, all null.
func TestSegmentRoundTrip(t *testing.T) {
	e := newEncoder(zstd.SpeedFastest)
	rapid.Check(t, func(t *rapid.T) {
		want := random(t)
		var in, out batch
		for i := range want {
			in.add(&want[i], epoch.UnixMicro())
		}
		var file bytes.Buffer
		var s Segment
		in.summary(&s)
		if err := e.write(&file, &s, in.whole); err != nil {
			t.Fatal(err)
		}
		meta, err := readMeta("x", file.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(s, meta); d != "" {
			t.Fatalf("the file's own summary (-written +read):\n%s", d)
		}
		if err := readRows("x", file.Bytes(), &out); err != nil {
			t.Fatal(err)
		}
		if out.rows() != len(want) {
			t.Fatalf("%d rows, want %d", out.rows(), len(want))
		}
		for i := range want {
			var got flow.Record
			out.record(i, &got)
			storetest.AsStored(&want[i], epoch.UnixNano())
			if d := cmp.Diff(want[i], got); d != "" {
				t.Fatalf("row %d (-written +read):\n%s", i, d)
			}
		}
	})
}
