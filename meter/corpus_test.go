package meter_test

import (
	"bytes"
	"context"
	stdcsv "encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"weir/cache"
	"weir/capture"
	"weir/flow"
	"weir/meter"
)

// corpus lists the captures, or skips and says why.
func corpus(t *testing.T) []string {
	dir := os.Getenv("WEIR_CORPUS")
	if dir == "" {
		dir = "../../shared/corpus"
	}
	all, _ := filepath.Glob(filepath.Join(dir, "packets", "*.pcap*"))
	if len(all) == 0 {
		t.Skipf("skipped: no captures in %s/packets; set WEIR_CORPUS to the corpus's folder", dir)
	}
	return all
}

// meterFile meters a capture; the error is the capture's.
func meterFile(t *testing.T, path string, cfg meter.Config, sink flow.Sink) (meter.Summary, error) {
	src, err := capture.Open(path)
	if err != nil {
		return meter.Summary{}, err
	}
	defer src.Close()
	m, err := meter.New(cfg, sink)
	if err != nil {
		t.Fatal(err)
	}
	err = m.RunFiles(context.Background(), src)
	return m.Summary(), err
}

// expectedFlows reads a table of the flows a capture holds: key -> packets,
// octets, TCP flags, first, last (when they are times that a record can say).
func expectedFlows(t *testing.T, path string) map[string]string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	rows, err := stdcsv.NewReader(bytes.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	col := map[string]int{}
	for i, name := range rows[0] {
		col[name] = i
	}
	flows := map[string]string{}
	for _, row := range rows[1:] {
		at := func(name string) string { return row[col[name]] }
		key := strings.Join([]string{at("src"), at("dst"), at("proto"), at("src_port"), at("dst_port"), at("tos")}, " ")
		flows[key] = fmt.Sprintf("%s packets %s octets flags %s %s to %s", at("packets"), at("bytes"), at("tcp_flags"), nanoseconds(at("first")), nanoseconds(at("last")))
	}
	return flows
}

// nanoseconds of tshark's seconds; beyond what a packet's time can say, the end.
func nanoseconds(s string) string {
	whole, part, _ := strings.Cut(s, ".")
	if v, err := strconv.ParseInt(whole, 10, 64); err == nil && v > 1<<62/1_000_000_000 {
		return strconv.Itoa(1 << 62)
	}
	v, _ := strconv.ParseInt(whole+(part + "000000000")[:9], 10, 64)
	return strconv.FormatInt(v, 10)
}

// Every capture of the corpus, with timeouts off, gives exactly the flows of
// its table, summed over the table's six columns.
func TestCorpusFlows(t *testing.T) {
	tables, flows := 0, 0
	for _, path := range corpus(t) {
		base := filepath.Base(path)
		want := expectedFlows(t, path[:len(path)-len(filepath.Ext(path))]+".flows.csv")
		type sums struct {
			packets, bytes uint64
			flags          uint16
			first, last    int64
		}
		got := map[string]*sums{}
		var out total
		sink := flow.SinkFunc(func(batch []flow.Record) error {
			for i := range batch {
				r := &batch[i]
				key := fmt.Sprintf("%v %v %d %d %d %d", r.Src, r.Dst, r.Proto, r.SrcPort, r.DstPort, r.TOS)
				s := got[key]
				if s == nil {
					s = &sums{first: r.First, last: r.Last}
					got[key] = s
				}
				s.packets += r.Packets
				s.bytes += r.Bytes
				s.flags |= r.TCPFlags
				s.first, s.last = min(s.first, r.First), max(s.last, r.Last)
			}
			return out.WriteRecords(batch)
		})
		s, err := meterFile(t, path, meter.Config{Cache: cache.Config{Entries: 1 << 15}, Workers: 1}, sink)
		if s.Flows.Created > 0 || err == nil {
			balance(t, s, &out)
		}
		if want == nil {
			continue // malformed, or the oracles disagree: getting through is what is asked
		}
		if err != nil && !errors.Is(err, capture.ErrTruncated) {
			t.Errorf("%s: %v", base, err)
		}
		tables++
		flows += len(want)
		for key, text := range want {
			g := got[key]
			if g == nil {
				t.Errorf("%s: no flow %s", base, key)
				continue
			}
			have := fmt.Sprintf("%d packets %d octets flags %d %d to %d", g.packets, g.bytes, g.flags, g.first, g.last)
			if have != text {
				t.Errorf("%s: %s: %s, want %s", base, key, have, text)
			}
			delete(got, key)
		}
		for key := range got {
			t.Errorf("%s: flow %s is not in the table", base, key)
		}
	}
	t.Logf("%d tables, %d flows", tables, flows)
}

// With the usual timeouts, every capture gives the same octets for one worker
// and for several, and everything is accounted for.
func TestCorpusWorkers(t *testing.T) {
	for _, path := range corpus(t) {
		var want, got csv
		s, _ := meterFile(t, path, config(2048, 1), &want)
		balance(t, s, &want.total)
		meterFile(t, path, config(2048, 3), &got)
		if !bytes.Equal(want.Bytes(), got.Bytes()) {
			t.Errorf("%s: 3 workers give other octets than 1", filepath.Base(path))
		}
	}
}
