package system

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// corpus is a folder of captures with expected answers, or a skip that says so.
func corpus(t testing.TB, part string) string {
	t.Helper()
	dir := os.Getenv("WEIR_CORPUS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "corpus")
	}
	dir = filepath.Join(dir, part)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("skipped: the corpus of captures is not there (%v); set WEIR_CORPUS to its folder", err)
	}
	return dir
}

func captures(t testing.TB, dir string) []string {
	t.Helper()
	all, _ := filepath.Glob(filepath.Join(dir, "*.pcap*"))
	if len(all) < 100 {
		t.Fatalf("only %d captures in %s", len(all), dir)
	}
	return all
}

// synthetic makes a capture with genpcap and gives its true totals.
func synthetic(t testing.TB, args ...string) (file string, c count) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "made.pcap")
	must(t, "", append([]string{genpcap, "-o", file}, args...)...)
	b, err := os.ReadFile(file + ".truth.json")
	if err != nil {
		t.Fatal(err)
	}
	var truth map[string]any
	if err := json.Unmarshal(b, &truth); err != nil {
		t.Fatal(err)
	}
	for k, v := range truth {
		f, _ := v.(float64)
		switch strings.ToLower(k) {
		case "packets":
			c.Packets = uint64(f)
		case "bytes":
			c.Bytes = uint64(f)
		}
	}
	if c.Packets == 0 || c.Bytes == 0 {
		t.Fatalf("no totals in %s", b)
	}
	return file, c
}

// The same capture gives the same records, octet for octet, on any number of
// cores and whichever way it comes.
func TestFilesDeterminism(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		gen  []string
		args []string
	}{
		{"mix", []string{"-n", "300000", "-flows", "20000", "-span", "300"}, nil},
		{"flood", []string{"-n", "100000", "-mode", "synflood", "-span", "60"}, []string{"--cache", "4Ki"}},
		{"sampled", []string{"-n", "100000", "-flows", "10000", "-span", "100", "-nano"}, []string{"--sample", "1:10"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file, truth := synthetic(t, c.gen...)
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			var z bytes.Buffer
			g := gzip.NewWriter(&z)
			g.Write(raw)
			g.Close()
			gz, zst := filepath.Join(dir, "c.pcap.gz"), filepath.Join(dir, "c.pcap.zst")
			if err := os.WriteFile(gz, z.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			e, err := zstd.NewWriter(nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(zst, e.EncodeAll(raw, nil), 0o644); err != nil {
				t.Fatal(err)
			}
			var first string
			for i, way := range [][]string{
				{"-r", file, "--workers", "1"},
				{"-r", file, "--workers", "2"},
				{"-r", file, "--workers", "4"},
				{"-r", gz},
				{"-r", zst},
				{"-r", "-"},
				{"-r", file, "-w", filepath.Join(dir, "out.csv")},
			} {
				args := append(append([]string{weir, "meter", "-o", "csv", "--summary"}, way...), c.args...)
				r := doWith(t, "", raw, args...)
				if r.status != 0 {
					t.Fatalf("%v: %d %s", way, r.status, r.stderr)
				}
				if i == 6 {
					b, _ := os.ReadFile(filepath.Join(dir, "out.csv"))
					r.stdout = string(b)
				}
				s := parseSummary(t, r.stderr)
				if c.name == "sampled" { // octets of what was not looked at are its frames'
					s.Bytes, truth.Bytes = 0, 0
				}
				if s.count != truth {
					t.Errorf("%v: read %+v, the capture has %+v", way, s.count, truth)
				}
				conserved(t, fmt.Sprint(way), parseSummary(t, r.stderr), parseCSV(t, r.stdout))
				switch {
				case i == 0:
					first = r.stdout
				case r.stdout != first:
					t.Errorf("%v gives other records than %q", way, "--workers 1")
				}
			}
		})
	}
}

// conserved says that read = metered + ignored, and metered = the records.
func conserved(t testing.TB, what string, s summary, records rows) {
	t.Helper()
	read := s.Metered
	for _, c := range s.Ignored {
		read.add(c)
	}
	if read != s.count {
		t.Errorf("%s: read %+v, metered and ignored are %+v", what, s.count, read)
	}
	if got := records.sum(t); got != s.Metered || uint64(len(records)) != s.Records {
		t.Errorf("%s: %d records of %+v, the summary says %d of %+v", what, len(records), got, s.Records, s.Metered)
	}
	ended := uint64(0)
	for _, n := range s.Flows.Expired {
		ended += n
	}
	// A flow that goes on is reported more than once; one that ends without a
	// packet since it was last reported makes no record.
	if ended < s.Records || s.Flows.Created > s.Records {
		t.Errorf("%s: %d flows created, %d ends, %d records", what, s.Flows.Created, ended, s.Records)
	}
	for reason, l := range s.Lost {
		if l.Records+l.Packets+l.Bytes > 0 {
			t.Errorf("%s: lost: %s %+v", what, reason, l)
		}
	}
}

// Every capture of the corpus is accounted for to the packet, with flows that
// expire and with a cache that is far too small.
func TestFilesConservation(t *testing.T) {
	t.Parallel()
	dir := corpus(t, "packets")
	packets := uint64(0)
	for i, file := range captures(t, dir) {
		name := filepath.Base(file)
		ways := [][]string{{}, {"--cache", "1Ki", "--key", "5tuple", "--active", "1s", "--idle", "1s"}}
		if os.Getenv("WEIR_SOAK") == "" {
			ways = ways[i%2:][:1] // one of them each; both in the long form
		}
		for _, way := range ways {
			r := do(t, "", append([]string{weir, "meter", "-r", file, "-o", "csv", "--summary"}, way...)...)
			if strings.Contains(r.stderr, "goroutine ") || r.status > 1 {
				t.Errorf("%s: %d %s", name, r.status, tail(r.stderr, 2000))
				continue
			}
			_, err := os.Stat(strings.TrimSuffix(file, filepath.Ext(file)) + ".flows.csv")
			if r.status != 0 && err == nil {
				t.Errorf("%s: %s", name, r.stderr)
			}
			if !strings.Contains(r.stderr, `{"packets"`) {
				if r.stdout != "" {
					t.Errorf("%s: records, but no summary: %s", name, r.stderr)
				}
				continue // not a capture that can be begun
			}
			s := parseSummary(t, r.stderr)
			packets += s.Packets
			conserved(t, name+" "+strings.Join(way, " "), s, parseCSV(t, r.stdout))
		}
	}
	t.Logf("%d packets", packets)
}

// stamp is a time of the oracle in microseconds, as records have them.
func stamp(t testing.TB, s string) (us int64, ok bool) {
	t.Helper()
	if s == "" {
		return 0, false // it is the oracle that cannot say it
	}
	whole, part, _ := strings.Cut(s, ".")
	v, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		t.Fatalf("time %q: %v", s, err)
	}
	p, err := strconv.ParseInt((part + "000000")[:6], 10, 64)
	if err != nil {
		t.Fatalf("time %q: %v", s, err)
	}
	return v*1e6 + p, v >= 0 && v < 1<<33
}

// With timeouts off, every capture gives the flows that an independent tool
// found in it: packets, octets, flags and times, summed over the six columns
// of its key.
func TestFilesFlows(t *testing.T) {
	t.Parallel()
	dir := corpus(t, "packets")
	type sums struct {
		count
		first, last int64
		flags       uint64
	}
	compared, flows := 0, 0
	for _, file := range captures(t, dir) {
		name := filepath.Base(file)
		table, err := os.ReadFile(strings.TrimSuffix(file, filepath.Ext(file)) + ".flows.csv")
		if err != nil {
			continue // no agreed answer
		}
		compared++
		want, untold := map[string]sums{}, map[string]bool{}
		for _, m := range parseCSV(t, string(table)) {
			k := strings.Join([]string{m["src"], m["dst"], m["proto"], m["src_port"], m["dst_port"], m["tos"]}, " ")
			first, ok1 := stamp(t, m["first"])
			last, ok2 := stamp(t, m["last"])
			want[k] = sums{count{number(t, m["packets"]), number(t, m["bytes"])}, first, last, number(t, m["tcp_flags"])}
			untold[k] = !ok1 || !ok2 // beyond what a record can say
		}
		r := do(t, "", weir, "meter", "-r", file, "-o", "csv", "--idle", "0", "--active", "0", "--tcp-end=false")
		if r.status != 0 {
			t.Errorf("%s: %d %s", name, r.status, r.stderr)
			continue
		}
		got := map[string]sums{}
		for _, m := range parseCSV(t, r.stdout) {
			k := strings.Join([]string{m["src"], m["dst"], m["proto"], m["sport"], m["dport"], m["tos"]}, " ")
			g, known := got[k]
			g.add(count{number(t, m["packets"]), number(t, m["bytes"])})
			if m["tcp_flags"] != "" {
				g.flags |= number(t, m["tcp_flags"])
			}
			first, last := when(t, m["first"]), when(t, m["last"])
			if !known {
				g.first, g.last = first, last
			}
			g.first, g.last = min(g.first, first), max(g.last, last)
			got[k] = g
		}
		for k, w := range want {
			g := got[k]
			if untold[k] {
				g.first, g.last = w.first, w.last
			}
			if g != w {
				t.Errorf("%s: %s: %+v, want %+v", name, k, g, w)
			}
			delete(got, k)
			flows++
		}
		for k, g := range got {
			t.Errorf("%s: %s: %+v, which nobody else sees", name, k, g)
		}
	}
	if compared < 200 {
		t.Errorf("only %d captures compared", compared)
	}
	t.Logf("%d flows of %d captures", flows, compared)
}

func when(t testing.TB, s string) int64 {
	t.Helper()
	v, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return v.UnixMicro()
}

// What is decoded from the captures of export traffic is as many records as
// their tables have, and those that waited for their template.
func TestDecode(t *testing.T) {
	t.Parallel()
	dir := corpus(t, "exports")
	// Data before its template, decoded when that came: not in the tables.
	waited := map[string]int{
		"ipfix_data_template": 3, "ipfix_netscaler_data_first": 3, "ipfix_vflow_mx": 4,
		"v9_data_plus_templates": 11, "v9_fortigate_300d": 81, "v9_nprobe_4": 14,
	}
	total := 0
	for _, file := range captures(t, dir) {
		base := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
		if strings.HasPrefix(base, "sflow") {
			continue // not in this version: counted as an unknown version
		}
		args := []string{weir, "decode", file, "-o", "csv", "--summary"}
		ports := map[string]bool{}
		if b, err := os.ReadFile(filepath.Join(dir, base+".datagrams.csv")); err == nil {
			for _, m := range parseCSV(t, string(b)) {
				if !ports[m["dst_port"]] {
					ports[m["dst_port"]] = true
					args = append(args, "--port", m["dst_port"])
				}
			}
		}
		r := do(t, "", args...)
		if strings.Contains(r.stderr, "goroutine ") || r.status > 1 {
			t.Errorf("%s: %d %s", base, r.status, tail(r.stderr, 2000))
			continue
		}
		table, err := os.ReadFile(filepath.Join(dir, base+".records.csv"))
		if err != nil {
			continue // no agreed answer
		}
		if r.status != 0 {
			t.Errorf("%s: %s", base, r.stderr)
		}
		got, want := parseCSV(t, r.stdout), parseCSV(t, string(table))
		total += len(want)
		if len(got) != len(want)+waited[base] {
			t.Errorf("%s: %d records, want %d and %d that waited", base, len(got), len(want), waited[base])
			continue
		}
		if waited[base] > 0 {
			continue
		}
		for i, w := range want {
			for theirs, ours := range map[string]string{"src_addr": "src", "dst_addr": "dst", "packets": "packets", "bytes": "bytes", "in_if": "input", "src_as": "src_as", "version": "version"} {
				if w[theirs] != got[i][ours] && w[theirs] != "" {
					t.Errorf("%s: record %d: %s is %q, want %q", base, i+1, ours, got[i][ours], w[theirs])
				}
			}
		}
		// The same without being told the ports, unless they carry other things too.
		if r2 := do(t, "", weir, "decode", file, "-o", "csv"); r2.stdout != r.stdout {
			t.Errorf("%s: other records when the ports are found by content: %d, not %d", base, len(parseCSV(t, r2.stdout)), len(got))
		}
	}
	t.Logf("%d records", total)
}

// What is no capture, or only begins like one, ends with one clear line.
func TestFilesRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	file, _ := synthetic(t, "-n", "1000", "-flows", "100")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, words := range map[string][]string{
		write("empty.pcap", nil): {"empty.pcap", "empty"},
		write("text.pcap", []byte("hello, this is no capture at all, only text")):    {"text.pcap", "not a capture"},
		write("headless.pcap", raw[:20]):                                             {"headless.pcap"},
		write("broken.pcap.gz", []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3}): {"broken.pcap.gz"},
		dir:                             {dir, "directory"},
		filepath.Join(dir, "none.pcap"): {"none.pcap", "no such file"},
	} {
		oneLine(t, do(t, "", weir, "meter", "-r", name, "-o", "csv"), 1, words...)
		oneLine(t, do(t, "", weir, "decode", name, "-o", "csv"), 1, words[0])
	}
	// Cut in the middle of a packet: what came before counts.
	r := do(t, "", weir, "meter", "-r", write("cut.pcap", raw[:len(raw)/2]), "-o", "csv", "--summary")
	s := parseSummary(t, r.stderr)
	if s.Packets < 400 || s.Packets >= 1000 {
		t.Errorf("%d packets of half a capture", s.Packets)
	}
	conserved(t, "cut", s, parseCSV(t, r.stdout))
	if r.status != 1 || !strings.Contains(r.stderr, "cut.pcap") {
		t.Errorf("a capture that is cut: %d %s", r.status, r.stderr)
	}
	for _, args := range [][]string{
		{"meter"},
		{"meter", "-r", file, "-i", "lo"},
		{"meter", "-r", file, "--idle", "soon"},
		{"meter", "-r", file, "--workers", "-1"},
		{"meter", "-r", file, "-o", "xml"},
		{"meter", "-r", file, "--cache", "1"},
		{"meter", "-r", file, "tcp prot 80"},
		{"meter", "-r", file, "--export", "udp://127.0.0.1:1?version=4"},
		{"decode", file, "--port", "0"},
		{"query", "-t", "tomorrow"},
		{"fly"},
	} {
		if r := do(t, "", append([]string{weir}, args...)...); r.status != 2 || r.stdout != "" && args[0] != "meter" || !strings.Contains(r.stderr, "weir: ") {
			t.Errorf("%v: status %d: %s", args, r.status, tail(r.stderr, 500))
		}
	}
}
