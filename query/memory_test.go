package query

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/flow"
	"weir/store/storetest"
)

// walkOver shows records in batches of all sizes, and spoils each batch after
// the call, as a cache's walk does.
func walkOver(records []flow.Record) Walk {
	return func(ctx context.Context, yield func([]flow.Record) error) error {
		for i, n := 0, 1; i < len(records); i, n = i+n, n*2%701+1 {
			batch := slices.Clone(records[i:min(i+n, len(records))])
			for j := range batch {
				batch[j].Elements = slices.Clone(batch[j].Elements)
			}
			if err := yield(batch); err != nil {
				return err
			}
			for j := range batch {
				clear(batch[j].Elements)
				batch[j] = flow.Record{}
			}
		}
		return ctx.Err()
	}
}

// Groups that are more than may be held at a time come out as if they were not.
func TestMemoryInShares(t *testing.T) {
	records := storetest.NewTraffic(7, epoch.UnixNano()).Any(3000)
	whole, few := NewMemory(walkOver(records)), NewMemory(walkOver(records))
	few.most = 7
	for _, stat := range []string{"srcip", "ip:p/bytes", "record/packets", "srcnet/flows:a", "port/bps"} {
		r := Request{Stat: stat, Limit: 2500}
		want, err := whole.Aggregate(context.Background(), r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := few.Aggregate(context.Background(), r)
		if err != nil {
			t.Fatal(err)
		}
		if len(want.Rows) < 100 || want.Total != got.Total || want.Truncated != got.Truncated {
			t.Errorf("%s: %d rows of %+v, want %d of %+v", stat, len(got.Rows), got.Total, len(want.Rows), want.Total)
		}
		for i := range want.Rows {
			if a, b := fmt.Sprint(want.Rows[i]), fmt.Sprint(got.Rows[i]); a != b {
				t.Fatalf("%s: row %d is %s, want %s", stat, i, b, a)
			}
		}
	}
}

// What is kept of a batch is its own.
func TestMemoryKeepsWhatItGives(t *testing.T) {
	records := storetest.NewTraffic(3, epoch.UnixNano()).Any(1000)
	m := NewMemory(walkOver(records))
	list, total, err := m.First(context.Background(), Request{Order: "bytes", Limit: 300})
	if err != nil || len(list) != 300 || total.Flows != 1000 {
		t.Fatalf("%d records of %d, %v", len(list), total.Flows, err)
	}
	elements := 0
	for _, r := range list {
		if len(r.Elements) > 0 {
			elements++
			if !strings.HasPrefix(string(r.Elements), "{") {
				t.Fatalf("elements %q", r.Elements)
			}
		}
	}
	if elements == 0 {
		t.Error("no record has elements")
	}
}

// A stream hands on all that match, none twice, and holds nothing back.
func TestMemoryStream(t *testing.T) {
	records := storetest.NewTraffic(5, epoch.UnixNano()).Any(2000)
	for i := range records {
		records[i].FlowID, records[i].Has = uint64(i), records[i].Has|flow.HasFlowID
	}
	f, err := Parse("proto tcp or src net 10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	var total Total
	got, err := NewMemory(walkOver(records)).Stream(context.Background(), f, flow.SinkFunc(func(batch []flow.Record) error {
		for i := range batch {
			if seen[batch[i].FlowID] {
				t.Errorf("%d twice", batch[i].FlowID)
			}
			seen[batch[i].FlowID] = true
			total.add(&batch[i])
		}
		return nil
	}))
	if want := len(chosen(records, f.Match)); err != nil || len(seen) != want || got != total || want == 0 || want == len(records) {
		t.Errorf("%d of %d, total %+v want %+v, %v", len(seen), want, got, total, err)
	}
	refused := errors.New("no more")
	_, err = NewMemory(walkOver(records)).Stream(context.Background(), f, flow.SinkFunc(func([]flow.Record) error { return refused }))
	if !errors.Is(err, refused) {
		t.Errorf("a taker that refuses: %v", err)
	}
}

func TestMemoryRefuses(t *testing.T) {
	m := NewMemory(walkOver(nil))
	for _, tc := range []struct {
		r    Request
		want string
	}{
		{Request{Filter: "prt 80", Stat: "srcip"}, "filter:1:1"},
		{Request{Stat: "scrip"}, `did you mean "srcip"`},
		{Request{Stat: "srcip", Limit: -1}, "1 to 100000 rows"},
		{Request{Stat: "srcip", Limit: MostSorted + 1}, "1 to 100000 rows"},
		{Request{Bin: time.Minute}, "no series"},
		{Request{Keys: []string{"srcip", "dstip", "router"}, Limit: 1}, "at most"},
		{Request{Keys: []string{"srcport", "dstport", "proto", "tos"}, Limit: 1}, "at most"},
	} {
		if _, err := m.Aggregate(context.Background(), tc.r); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.r, err, tc.want)
		}
	}
	if _, _, err := m.First(context.Background(), Request{}); err == nil {
		t.Error("all records, sorted: no error")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := NewMemory(walkOver(make([]flow.Record, 10))).Aggregate(ctx, Request{Stat: "srcip"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a request that ended: %v", err)
	}
}

// What a million flows cost: by a statistic with a group for each flow, and the
// hundred largest.
func BenchmarkMemory(b *testing.B) {
	records := make([]flow.Record, 1<<20)
	base := storetest.NewTraffic(1, epoch.UnixNano()).Any(4096)
	for i := range records {
		records[i] = base[i%len(base)]
		records[i].Has |= flow.HasSrc | flow.HasBytes
		records[i].Src = flow.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		records[i].Bytes = uint64(i*2654435761) % 1e6
	}
	m := NewMemory(func(ctx context.Context, yield func([]flow.Record) error) error {
		for i := 0; i < len(records); i += 16384 {
			if err := yield(records[i:min(i+16384, len(records))]); err != nil {
				return err
			}
		}
		return nil
	})
	perRecord := func(b *testing.B) {
		b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N*len(records)), "ns/record")
	}
	for _, stat := range []string{"srcip/bytes", "proto/bytes", "dstport:p/bytes"} {
		b.Run(stat, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Aggregate(context.Background(), Request{Stat: stat}); err != nil {
					b.Fatal(err)
				}
			}
			perRecord(b)
		})
	}
	b.Run("largest", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := m.First(context.Background(), Request{Order: "bytes", Limit: 100}); err != nil {
				b.Fatal(err)
			}
		}
		perRecord(b)
	})
}
