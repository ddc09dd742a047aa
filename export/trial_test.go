package export

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/flow"
	"weir/wire"
)

// TestTrials: what is sent for trying a collector says what it claims, in
// sequence, and is known by its form.
func TestTrials(t *testing.T) {
	now := time.Unix(1_700_000_000, 123_456_789)
	d := wire.NewDecoder(wire.Options{})
	src := wire.Source{Addr: flow.AddrFrom4([4]byte{192, 0, 2, 77}), Port: 4000}
	formats := map[string]bool{}
	for _, x := range Trials(now) {
		formats[x.Format] = true
		b := &wire.Batch{}
		m, err := d.Decode(b, src, now.UnixNano(), x.Octets)
		if err != nil || m.Records != len(x.Flows) || wire.Detect(x.Octets) != m.Version {
			t.Errorf("%s: %+v, %v", x.Format, m, err)
			continue
		}
		for i := range b.Records {
			got, want := &b.Records[i], &x.Flows[i]
			for c := range flow.Column(flow.NumColumns) {
				if want.Known(c) && c != flow.ColVersion && string(got.AppendColumn(nil, c)) != string(want.AppendColumn(nil, c)) {
					t.Errorf("%s: %v is %s, want %s", x.Format, c, got.AppendColumn(nil, c), want.AppendColumn(nil, c))
				}
			}
		}
	}
	if len(formats) != 20 {
		t.Errorf("%d formats: %v", len(formats), formats)
	}
}

// TestTsharkTrials: tshark dissects each of them without a complaint. (It reads the
// ToS of v8's scheme 9 from where the interfaces are.)
func TestTsharkTrials(t *testing.T) {
	tshark := peer(t, "tshark")
	for port, want := range map[int]string{2055: "cflow", 6343: "sflow"} {
		var grams [][]byte
		for _, x := range Trials(time.Now()) {
			if (x.Format == "sflow") == (want == "sflow") {
				grams = append(grams, x.Octets)
			}
		}
		file := filepath.Join(t.TempDir(), want+".pcap")
		writePcap(t, file, grams, port)
		out, err := exec.Command(tshark, "-r", file, "-d", fmt.Sprintf("udp.port==%d,%s", port, want), "-V").Output()
		if err != nil {
			t.Fatalf("tshark: %v", err)
		}
		for l := range strings.Lines(string(out)) {
			if strings.Contains(l, "Malformed") || strings.Contains(l, "Expert Info") || strings.Contains(l, "No template found") {
				t.Errorf("tshark complains of %s: %s", want, l)
			}
		}
		text := string(out)
		switch {
		case want == "sflow":
			for _, s := range []string{"InMon sFlow", "Expanded flow sample", "Expanded counters sample", "192.0.2.105", "198.51.100.1", "Generic interface counters", "105000"} {
				if !strings.Contains(text, s) {
					t.Errorf("tshark does not show %q", s)
				}
			}
		default:
			if n := strings.Count(text, "Cisco NetFlow/IPFIX"); n < len(grams) {
				t.Errorf("tshark dissects %d of %d datagrams", n, len(grams))
			}
			for n := 81; n <= 94; n++ { // v8's packets
				if !strings.Contains(text, fmt.Sprintf("Packets: %d\n", n)) {
					t.Errorf("tshark does not show v8's scheme %d", n-80)
				}
			}
		}
	}
}
