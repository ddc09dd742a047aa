package store

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
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
