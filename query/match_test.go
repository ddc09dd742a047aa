package query

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weir/flow"
	"weir/store/storetest"
)

// A Matcher says what Match says, of any filter and any record.
func TestMatcherAgreesWithMatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := &Filter{randomFilter(t, 4)}
		m := f.Matcher()
		records := storetest.NewTraffic(rapid.Uint64().Draw(t, "seed"), epoch.UnixNano()).Any(50)
		for i := range records {
			r := &records[i]
			switch i % 5 {
			case 1: // an IPv6 packet with a mapped address, and none at all
				r.IPVersion = 6
			case 2:
				r.Src, r.Dst = flow.Addr{}, flow.Addr{10: 0xff, 11: 0xff}
			}
			if got, want := m(r), f.Match(r); got != want {
				t.Fatalf("%s: %v for %+v, Match says %v", f, got, *r, want)
			}
		}
	})
}

// The ends of the numbers, where intervals are empty or whole.
func TestMatcherAtTheEnds(t *testing.T) {
	for _, op := range []operator{opEq, opLt, opGt, opLe, opGe, opIn, opAll} {
		for _, v := range []uint64{0, 1, math.MaxUint64 - 1, math.MaxUint64} {
			f := &Filter{&term{subject: &subjects.bytes, op: op, numbers: []uint64{v}}}
			m := f.Matcher()
			for _, n := range []uint64{0, 1, 2, math.MaxUint64 - 2, math.MaxUint64 - 1, math.MaxUint64} {
				r := flow.Record{Has: flow.HasBytes, Bytes: n}
				if got, want := m(&r), f.Match(&r); got != want {
					t.Errorf("bytes %d, operator %d, %d: %v, Match says %v", n, op, v, got, want)
				}
			}
		}
	}
}

// Every documented way to say something, against the flow to look at.
func TestMatcherOfWords(t *testing.T) {
	r := web()
	for _, text := range []string{
		"", "any", "not any", "ipv4", "ip 10.1.2.3", "net ::/0", "net 0.0.0.0/0", "ip in [1.2.3.4 10.1.2.0/24]", "port in [80 443]",
		"flags SA", "flags = SAP", "not flags F", "bps 16k", "first seen > 2026-11", "src_as != unknown", "output = unknown", "version = 9",
	} {
		f, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := f.Matcher()(&r), f.Match(&r); got != want {
			t.Errorf("%s: %v, Match says %v", text, got, want)
		}
	}
}

func TestMatcherAllocations(t *testing.T) {
	f, err := Parse("src net 10.0.0.0/8 and (port in [80 443] or bps > 1m) and not flags F and first seen > 2020 and ip in [10.1.2.3 ::1]")
	if err != nil {
		t.Fatal(err)
	}
	m, r := f.Matcher(), web()
	if n := testing.AllocsPerRun(100, func() { m(&r) }); n > 0 {
		t.Errorf("%v allocations a record, want 0", n)
	}
}

// What a filter costs for each record, as Matcher and as Match.
func BenchmarkMatcher(b *testing.B) {
	records := storetest.NewTraffic(1, epoch.UnixNano()).Any(4096)
	for _, text := range []string{"proto tcp", "src net 10.0.0.0/8 and port in [80 443]", "host 10.0.1.2 or net 2001:db8::/32 and not flags F"} {
		f, err := Parse(text)
		if err != nil {
			b.Fatal(err)
		}
		for _, kind := range []string{"matcher", "match"} {
			m := f.Matcher()
			if kind == "match" {
				m = f.Match
			}
			b.Run(text+"/"+kind, func(b *testing.B) {
				n := 0
				for b.Loop() {
					for i := range records {
						if m(&records[i]) {
							n++
						}
					}
				}
				b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N*len(records)), "ns/record")
			})
		}
	}
}

// Records that a filter chooses, by Matcher.
func chosen(records []flow.Record, m Matcher) []flow.Record {
	return slices.DeleteFunc(slices.Clone(records), func(r flow.Record) bool { return !m(&r) })
}
