//go:build cgo

package query

import (
	"context"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weir/flow"
)

// What is in memory is answered for as what is in a store is: random questions
// to both engines over the same records have the same answers.
func TestMemoryAgreesWithStore(t *testing.T) {
	records := anyRecords(11, 2500)
	stored, _ := fill(t, records)
	memory := NewMemory(walkOver(records))
	names := append([]string{"record", "srcip4/20", "dstip6/60"}, sortedKeys()...)
	orders := []string{"", "/flows", "/packets", "/bytes", "/pps", "/bps", "/bpp", "/duration", "/tstart", "/tend"}
	rapid.Check(t, func(t *rapid.T) {
		f := &Filter{randomFilter(t, 3)}
		r := Request{Filter: f.String(), Limit: rapid.SampledFrom([]int{0, 1, 5, 100, 5000}).Draw(t, "limit")}
		if rapid.Bool().Draw(t, "span") {
			r.From = epoch.Add(-time.Duration(rapid.Int64Range(0, 3600e9).Draw(t, "from")) / 1000 * 1000)
			r.To = r.From.Add(time.Duration(rapid.Int64Range(0, 1800e9).Draw(t, "to")) / 1000 * 1000)
		}
		direction := rapid.SampledFrom([]string{"", ":a", ":d"}).Draw(t, "direction")
		order := rapid.SampledFrom(orders).Draw(t, "order")
		if order != "" {
			order += direction
		}
		r.Stat = rapid.SampledFrom(names).Draw(t, "stat")
		if rapid.Bool().Draw(t, "by protocol") {
			r.Stat += ":p"
		}
		if slices.Contains([]string{"srcip4/20", "dstip6/60"}, r.Stat[:min(9, len(r.Stat))]) {
			r.Stat = r.Stat[:9]
		}
		r.Stat += order
		want, err := stored.Aggregate(context.Background(), r)
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		got, err := memory.Aggregate(context.Background(), r)
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		got.Segments, got.Took = want.Segments, want.Took
		if d := gocmp.Diff(want, got); d != "" {
			t.Fatalf("%+v (-store +memory):\n%s", r, d)
		}

		// Records: all of them, and the first.
		var all, streamed collect
		if _, err := stored.Flows(context.Background(), Request{Filter: r.Filter}, &all); err != nil {
			t.Fatal(err)
		}
		total, err := memory.Stream(context.Background(), f, &streamed)
		if err != nil || total.Flows != uint64(len(all)) || len(streamed) != len(all) {
			t.Fatalf("%s: %d records in memory, %d in the store, %v", f, len(streamed), len(all), err)
		}
		byID := func(a, b flow.Record) int { return int(a.FlowID) - int(b.FlowID) }
		slices.SortFunc(all, byID)
		slices.SortFunc(streamed, byID)
		for i := range all {
			if all[i].FlowID != streamed[i].FlowID {
				t.Fatalf("%s: record %d is in one answer only", f, all[i].FlowID)
			}
		}
		raw := Request{Filter: r.Filter, From: r.From, To: r.To, Limit: rapid.IntRange(1, 50).Draw(t, "records"), Order: orders[rapid.IntRange(1, len(orders)-1).Draw(t, "by")][1:] + direction}
		var some, same collect
		if _, err := stored.Flows(context.Background(), raw, &some); err != nil {
			t.Fatal(err)
		}
		if _, err := memory.Flows(context.Background(), raw, &same); err != nil {
			t.Fatal(err)
		}
		if len(some) != len(same) {
			t.Fatalf("%+v: %d records, want %d", raw, len(same), len(some))
		}
		o, err := parseOrder(raw.Order)
		if err != nil {
			t.Fatal(err)
		}
		value := o.of()
		for i := range some { // equals may come in any order
			if value(&some[i]) != value(&same[i]) {
				t.Fatalf("%+v: record %d is ordered by %v, want %v", raw, i, value(&same[i]), value(&some[i]))
			}
		}
	})
}
