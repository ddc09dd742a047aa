package capture_test

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weir/capture"
	"weir/flow"
	"weir/packet"
)

// corpus is the folder of packet captures with expected answers, or a skip that
// says why there is none.
func corpus(t testing.TB) string {
	dir := os.Getenv("WEIR_CORPUS")
	if dir == "" {
		dir = "../../shared/corpus"
	}
	dir = filepath.Join(dir, "packets")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("skipped: the corpus of captures is not there (%v); set WEIR_CORPUS to its folder", err)
	}
	return dir
}

func captures(t testing.TB, dir string) []string {
	all, _ := filepath.Glob(filepath.Join(dir, "*.pcap*"))
	if len(all) == 0 {
		t.Fatalf("no captures in %s", dir)
	}
	return all
}

// oracleKey is the key of the expected flow tables.
type oracleKey struct {
	src, dst     string
	proto        uint8
	sport, dport uint16
	tos          uint8
}

type totals struct {
	packets, bytes uint64
	first, last    int64
	flags          uint8
	vlan           string // of the first packet in the file
}

// read gives every packet of a capture to fn and returns the error that ended
// it, nil for a clean end.
func read(t testing.TB, path string, fn func(*capture.Packet)) error {
	src, err := capture.Open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	b := capture.Batch{Packets: make([]capture.Packet, 0, 7)} // small: the seams between batches show
	for {
		err := src.Read(&b)
		for i := range b.Packets {
			fn(&b.Packets[i])
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if len(b.Packets) == 0 {
			t.Fatalf("%s: an empty batch without an error", path)
		}
	}
}

// meter groups a capture's packets by key, in the most obvious way.
func meter(t testing.TB, path string) (map[oracleKey]*totals, map[packet.Reason]int, int, error) {
	flows := map[oracleKey]*totals{}
	reasons := map[packet.Reason]int{}
	packets := 0
	err := read(t, path, func(p *capture.Packet) {
		packets++
		var in packet.Info
		if why := p.Decode(&in); why != packet.Decoded {
			reasons[why]++
			return
		}
		k := in.Key
		key := oracleKey{k.Src.String(), k.Dst.String(), k.Proto, k.SrcPort, k.DstPort, k.TOS}
		f := flows[key]
		if f == nil {
			f = &totals{first: in.Time, last: in.Time}
			if k.VLAN&flow.KeyTagged != 0 {
				f.vlan = strconv.Itoa(int(k.VLAN & flow.VLANMask))
			}
			flows[key] = f
		}
		f.packets++
		f.bytes += uint64(in.Length)
		f.flags |= in.TCPFlags
		f.first, f.last = min(f.first, in.Time), max(f.last, in.Time)
		if (k.VLAN&flow.KeyIPv6 == 0) != k.Src.Is4() {
			t.Errorf("%s: packet %d: IPv6 flag %v of %v", path, packets, k.VLAN&flow.KeyIPv6 != 0, k.Src)
		}
		if k.VLAN&flow.KeyFragment != 0 && (k.SrcPort != 0 || k.DstPort != 0 || in.TCPFlags != 0) {
			t.Errorf("%s: packet %d: a later fragment with ports", path, packets)
		}
	})
	return flows, reasons, packets, err
}

// seconds parses tshark's time stamps. What is out of the range of Packet.Time
// (one capture has stamps of the year 586524) is its end.
func seconds(t testing.TB, s string) int64 {
	whole, part, _ := strings.Cut(s, ".")
	const end = 1 << 62
	if v, err := strconv.ParseInt(whole, 10, 64); err == nil && v > end/1_000_000_000 {
		return end
	}
	v, err := strconv.ParseInt(whole+(part + "000000000")[:9], 10, 64)
	if err != nil {
		t.Fatalf("time %q: %v", s, err)
	}
	return v
}

func expected(t testing.TB, path string) map[oracleKey]*totals {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	col := map[string]int{}
	for i, name := range rows[0] {
		col[name] = i
	}
	num := func(row []string, name string) uint64 {
		v, err := strconv.ParseUint(row[col[name]], 10, 64)
		if err != nil {
			t.Fatalf("%s: %s: %v", path, name, err)
		}
		return v
	}
	flows := map[oracleKey]*totals{}
	for _, r := range rows[1:] {
		key := oracleKey{r[col["src"]], r[col["dst"]], uint8(num(r, "proto")), uint16(num(r, "src_port")), uint16(num(r, "dst_port")), uint8(num(r, "tos"))}
		flows[key] = &totals{num(r, "packets"), num(r, "bytes"), seconds(t, r[col["first"]]), seconds(t, r[col["last"]]), uint8(num(r, "tcp_flags")), r[col["vlan"]]}
	}
	return flows
}

// differences are what captures give other than expected, word by word, and
// why. What is no longer there fails the test.
var differences = map[string]struct{ diff, why string }{
	"gopacket_test018.pcapng": {"8 packets in the summary, 4 of them not a flow's; got 4, 0 map[]", customBlocks},
	"gopacket_test102.pcapng": {"8 packets in the summary, 3 of them not a flow's; got 5, 0 map[]", customBlocks},
	"gopacket_test202.pcapng": {"11 packets in the summary, 3 of them not a flow's; got 8, 0 map[]", customBlocks},
	"libtrace_complex.pcapng": {"8 packets in the summary, 3 of them not a flow's; got 5, 0 map[]", customBlocks},
	"pcpp_QinQ_802_1_AD.pcapng": {
		"{192.85.1.22 192.85.1.14 253 0 0 0}: {packets:1 bytes:1474 first:1430378523814664000 last:1430378523814664000 flags:0 vlan:30}, " +
			"want {packets:1 bytes:1474 first:1430378523814664000 last:1430378523814664000 flags:0 vlan:100}",
		"the table has the id of the first 802.1Q tag, the key the outermost tag's, which is an 802.1ad one here",
	},
}

const customBlocks = "the summary counts pcapng's custom blocks as packets; they are none"

func TestCorpusFlows(t *testing.T) {
	dir := corpus(t)
	compared, seen := 0, map[string]bool{}
	for _, path := range captures(t, dir) {
		name := filepath.Base(path)
		base := strings.TrimSuffix(path, filepath.Ext(path))
		raw, err := os.ReadFile(base + ".summary.json")
		if err != nil {
			continue // robust: see TestCorpusRobust
		}
		var sum struct {
			Packets int
			NonIP   int `json:"non_ip"`
			BadIP   int `json:"bad_ip"`
		}
		if err := json.Unmarshal(raw, &sum); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		compared++
		diff := compare(t, path, base, sum.Packets, sum.NonIP+sum.BadIP)
		if why, ok := differences[name]; ok {
			seen[name] = true
			if diff != why.diff {
				t.Errorf("%s: listed as different (%s):\n  %s\nbut now\n  %s", name, why.why, why.diff, diff)
			}
			continue
		}
		if diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for name := range differences {
		if !seen[name] {
			t.Errorf("%s: listed as different, but not in the corpus", name)
		}
	}
	if compared < 250 {
		t.Errorf("only %d captures were compared", compared)
	}
	t.Logf("%d captures compared", compared)
}

func compare(t *testing.T, path, base string, packets, ignored int) string {
	flows, reasons, n, err := meter(t, path)
	var d []string
	if err != nil {
		d = append(d, err.Error())
	}
	sum := 0
	for _, k := range reasons {
		sum += k
	}
	if n != packets || sum != ignored {
		d = append(d, fmt.Sprintf("%d packets in the summary, %d of them not a flow's; got %d, %d %v", packets, ignored, n, sum, reasons))
	}
	want := expected(t, base+".flows.csv")
	for k, w := range want {
		if g := flows[k]; g == nil {
			d = append(d, fmt.Sprintf("missing %v %+v", k, *w))
		} else if *g != *w {
			d = append(d, fmt.Sprintf("%v: %+v, want %+v", k, *g, *w))
		}
	}
	for k, g := range flows {
		if want[k] == nil {
			d = append(d, fmt.Sprintf("unexpected %v %+v", k, *g))
		}
	}
	slices.Sort(d)
	if len(d) > 6 {
		d = append(d[:6], fmt.Sprintf("and %d more", len(d)-6))
	}
	return strings.Join(d, "\n  ")
}

// TestCorpusRobust reads the captures without an agreed answer: nothing panics,
// and all of their packets come, as the index says.
func TestCorpusRobust(t *testing.T) {
	dir := corpus(t)
	index, err := os.ReadFile(filepath.Join(dir, "INDEX.md"))
	if err != nil {
		t.Fatal(err)
	}
	robust := 0
	for line := range strings.Lines(string(index)) {
		c := strings.Split(line, " | ")
		if len(c) < 8 || !strings.HasPrefix(c[7], "robust") {
			continue
		}
		robust++
		name := strings.TrimPrefix(c[0], "| ")
		_, _, n, err := meter(t, filepath.Join(dir, name))
		if err != nil && !errors.Is(err, capture.ErrTruncated) {
			var fe *capture.FileError
			if !errors.As(err, &fe) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if name == "tcpdump_juniper_es_oobr.pcap" || name == "tcpdump_vtp_asan-3.pcap" {
			// The index counts none: tshark does not read files of this link type.
			if n != 1 || err != nil || c[1] != "0" {
				t.Errorf("%s: %d packets, %v, want 1", name, n, err)
			}
			continue
		}
		if got := strconv.Itoa(n); got != c[1] {
			t.Errorf("%s: %s packets (%v), want %s", name, got, err, c[1])
		} else if err != nil {
			t.Logf("%s: after %s packets: %v", name, got, err)
		}
	}
	if robust < 50 {
		t.Errorf("only %d robust captures in the index", robust)
	}
}
