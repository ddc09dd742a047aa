package export

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/flow"
	"weir/wire"
)

// told collects what a collector read.
type told struct {
	mu      sync.Mutex
	records []flow.Record
}

// exchange gives records to an exporter with one destination and what a collector makes
// of them.
func exchange(t *testing.T, params string, form wire.FormV8, records []flow.Record) ([]flow.Record, Stats) {
	t.Helper()
	c := listen(t, "127.0.0.1:0")
	var got told
	c.each = func(_ wire.Message, batch []flow.Record) {
		got.mu.Lock()
		got.records = flow.AppendCopies(got.records, batch)
		got.mu.Unlock()
	}
	c.start()
	d := parse(t, "udp://"+c.addr()+"?"+params)
	d.V8 = form
	e, stop := running(t, Options{Destinations: []Destination{d}, FollowRecords: true, Block: true})
	e.WriteRecords(records)
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	stop()
	st := e.Stats()[0]
	c.until(t, "records", func() bool {
		got.mu.Lock()
		defer got.mu.Unlock()
		return uint64(len(got.records)) == st.WireRecords
	})
	got.mu.Lock() // options may still come
	defer got.mu.Unlock()
	return slices.Clone(got.records), st
}

const boot = 1_700_000_000 * int64(time.Second)

func aggregate(i int) flow.Record {
	return flow.Record{
		Src: flow.AddrFrom4([4]byte{10, byte(i), 0, 0}), Dst: flow.AddrFrom4([4]byte{192, 0, byte(i), 0}), SrcMask: 16, DstMask: 24, SrcAS: 64500, DstAS: 64501,
		Input: 3, Output: 4, Proto: 17, SrcPort: 53, DstPort: uint16(i), TOS: 8, Flows: uint64(i + 1), Packets: uint64(10 * i), Bytes: uint64(1000 * i), IPVersion: 4,
		First: boot, Last: boot + int64(time.Second)*int64(i%50),
		Has: flow.HasSrc | flow.HasDst | flow.HasSrcMask | flow.HasDstMask | flow.HasSrcAS | flow.HasDstAS | flow.HasInput | flow.HasOutput | flow.HasProto |
			flow.HasSrcPort | flow.HasDstPort | flow.HasTOS | flow.HasFlows | flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast,
	}
}

// Every v8 scheme arrives with the sums that were given, in datagrams whose sequence
// counts records; what v8 cannot carry is counted.
func TestV8(t *testing.T) {
	var records []flow.Record
	for i := range 200 {
		records = append(records, aggregate(i))
	}
	six := aggregate(1)
	six.IPVersion, six.Src = 6, flow.Addr{0x20, 1}
	for scheme := wire.V8AS; scheme <= wire.V8PrefixPort; scheme++ {
		got, st := exchange(t, "version=8", wire.FormV8{Scheme: scheme}, append(records, six))
		var packets, octets uint64
		for i := range got {
			packets, octets = packets+got[i].Packets, octets+got[i].Bytes
			if has := got[i].Has & scheme.Fields(); has != scheme.Fields() || got[i].Version != flow.VersionV8 {
				t.Fatalf("%v: %+v", scheme, got[i])
			}
		}
		if len(got) != 200 || packets != 10*199*100 || octets != 1000*199*100 || st.Records != 200 || lossOf(st.Lost, v5IPv6).Records != 1 {
			t.Errorf("%v: %d records, %d packets, %d octets; %+v", scheme, len(got), packets, octets, st)
		}
		if catalyst := scheme >= wire.V8Destination && scheme <= wire.V8FullFlow; !catalyst && string(got[3].Elements) != `{"deltaFlowCount":4}` {
			t.Errorf("%v: %s", scheme, got[3].Elements)
		}
	}
	if _, err := New(Options{Destinations: []Destination{parse(t, "udp://127.0.0.1:1?version=8")}}); err == nil || !strings.Contains(err.Error(), "aggregation cache") {
		t.Errorf("flows over v8: %v", err)
	}
}

// A counter that 32 bits cannot hold is split; the flows are told once.
func TestV8BigCounters(t *testing.T) {
	r := aggregate(5)
	r.Packets, r.Bytes, r.Flows = 10_000_000_000, 9_000_000_000_000, 7
	got, _ := exchange(t, "version=8", wire.FormV8{Scheme: wire.V8Prefix}, []flow.Record{r})
	var packets, octets uint64
	flows := 0
	for i := range got {
		packets, octets = packets+got[i].Packets, octets+got[i].Bytes
		if string(got[i].Elements) == `{"deltaFlowCount":7}` {
			flows++
		}
	}
	if packets != r.Packets || octets != r.Bytes || flows != 1 || len(got) < 2 {
		t.Errorf("%d records: %d packets, %d octets, flows %d times", len(got), packets, octets, flows)
	}
}

// Aggregates over v9 and IPFIX say how many flows they are.
func TestAggregatesByTemplate(t *testing.T) {
	for _, version := range []string{"9", "10"} {
		got, _ := exchange(t, "version="+version, wire.FormV8{}, []flow.Record{aggregate(6)})
		if len(got) != 1 || string(got[0].Elements) != `{"deltaFlowCount":7}` || got[0].SrcMask != 16 || got[0].Packets != 60 {
			t.Errorf("v%s: %+v %s", version, got, got[0].Elements)
		}
	}
}

func biflow() flow.Record {
	return flow.Record{
		Src: flow.AddrFrom4([4]byte{10, 0, 0, 1}), Dst: flow.AddrFrom4([4]byte{10, 0, 0, 2}), SrcPort: 40000, DstPort: 443, Proto: 6, TCPFlags: 0x1b, Packets: 5, Bytes: 500,
		First: boot, Last: boot + 3e9, IPVersion: 4, Reverse: &flow.Reverse{Packets: 7, Bytes: 7000, First: boot + 1e6, Last: boot + 2e9, TCPFlags: 0x1a},
		More: &flow.More{Known: flow.BySrcMAC | flow.ByTTL | flow.ByMPLS, SrcMAC: [6]byte{2, 0, 0, 0, 0, 1}, DstMAC: [6]byte{2}, MinTTL: 60, MaxTTL: 64, Labels: [3]uint32{flow.LabelThere | 0x12345}},
		Has:  flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort | flow.HasProto | flow.HasTCPFlags | flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast,
	}
}

// Biflows are one record over IPFIX (RFC 5103), and two where there is no other
// direction; nothing of them is lost.
func TestBiflow(t *testing.T) {
	r := biflow()
	r.Elements = r.AppendMore(nil)
	for _, c := range []struct {
		params string
		joined bool
	}{
		{"version=10", true},
		{"version=10&template=full", true},
		{"version=10&biflow=apart", false},
		{"version=10&fields=src,dst,packets,bytes", false},
		{"version=9", false},
		{"version=5", false},
	} {
		got, st := exchange(t, c.params, wire.FormV8{}, []flow.Record{r})
		var packets, octets uint64
		for i := range got {
			packets, octets = packets+got[i].Packets, octets+got[i].Bytes
		}
		if st.Packets != 12 || st.Bytes != 7500 {
			t.Errorf("%s: sent %d packets, %d octets", c.params, st.Packets, st.Bytes)
		}
		if !c.joined {
			if len(got) != 2 || packets != 12 || octets != 7500 || got[1].Src != r.Dst {
				t.Errorf("%s: %+v", c.params, got)
			}
			continue
		}
		if len(got) != 1 || got[0].Packets != 5 || strings.Replace(string(got[0].Elements), `"ipVersion":4,`, "", 1) != `{"sourceMacAddress":"02:00:00:00:00:01","mplsTopLabelStackSection":"012345","minimumTTL":60,"maximumTTL":64,`+
			`"reversePacketDeltaCount":7,"reverseOctetDeltaCount":7000,"reverseFlowStartMilliseconds":"2023-11-14T22:13:20.001Z","reverseFlowEndMilliseconds":"2023-11-14T22:13:22.000Z","reverseTcpControlBits":26}` {
			t.Errorf("%s: %+v %s", c.params, got, got[0].Elements)
		}
	}
}

// What is sent of a tunnel is what elements say of it when they are read.
func TestTunnelElements(t *testing.T) {
	r := biflow()
	r.Reverse = nil
	r.More = &flow.More{
		Known: flow.ByTunnel | flow.ByLength | flow.ByTCPOptions | flow.ByFragment, Tunnel: flow.TunnelVXLAN, TunnelProto: 17, TunnelPort: 4789, TunnelID: 123, TunnelHas: flow.HasTunnelID,
		TunnelSrc: flow.AddrFrom4([4]byte{192, 0, 2, 1}), TunnelDst: flow.AddrFrom4([4]byte{192, 0, 2, 2}), MinLength: 40, MaxLength: 1500, TCPOptions: 0x104, FragmentFlags: 0x40,
	}
	want := string(r.AppendMore(nil))
	got, _ := exchange(t, "version=10", wire.FormV8{}, []flow.Record{r})
	same := func(s string) string { // order is the template's
		parts := strings.Split(strings.Trim(s, "{}"), ",")
		m := map[string]bool{}
		for _, p := range parts {
			m[p] = true
		}
		return fmt.Sprint(m)
	}
	if len(got) != 1 || same(string(got[0].Elements)) != same(want) {
		t.Errorf("read %s\nsent %s", got[0].Elements, want)
	}
	if got, _ := exchange(t, "version=9", wire.FormV8{}, []flow.Record{r}); len(got) != 1 || strings.Contains(string(got[0].Elements), "tunnel") {
		t.Errorf("v9 has no elements of enterprises: %s", got[0].Elements)
	}
}

// tshark reads our v8 without complaint.
func TestV8IntoTshark(t *testing.T) {
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("skipped: tshark is not installed (it is the reader)")
	}
	if _, err := exec.LookPath("text2pcap"); err != nil {
		t.Skip("skipped: text2pcap is not installed (it writes the capture)")
	}
	// One capture of all schemes: tshark takes long to start.
	const records = 100
	var dump bytes.Buffer
	for scheme := wire.V8AS; scheme <= wire.V8PrefixPort; scheme++ {
		s := stream{
			version: flow.VersionV8, domain: 1, follow: true, payload: 1472, v8: wire.FormV8{Scheme: scheme},
			get: func() *datagram { return &datagram{b: make([]byte, 0, 1472)} }, free: func(*datagram) {}, move: func(int64) {},
			lose: func(reason, *flow.Record) { t.Error("a record was lost") },
			emit: func(g *datagram) {
				fmt.Fprintf(&dump, "0000")
				for _, c := range g.b {
					fmt.Fprintf(&dump, " %02x", c)
				}
				fmt.Fprintln(&dump)
			},
			sampling: samplers{rate: 1},
		}
		s.begin(boot, boot)
		for i := range records {
			r := aggregate(i)
			s.add(&r)
		}
		s.flush()
	}
	file := t.TempDir() + "/v8.pcap"
	cmd := exec.Command("text2pcap", "-q", "-u", "2055,2055", "-", file)
	cmd.Stdin = &dump
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("text2pcap: %v\n%s", err, out)
	}
	out, err := exec.Command("tshark", "-r", file, "-T", "fields", "-e", "cflow.version", "-e", "cflow.count", "-e", "cflow.aggmethod", "-e", "cflow.sequence", "-e", "_ws.malformed", "-e", "_ws.expert.message").Output()
	if err != nil {
		t.Fatal(err)
	}
	scheme, n := wire.V8AS, 0 // what is read, in the order in which it was written
	for line := range strings.Lines(string(out)) {
		if n == records {
			scheme, n = scheme+1, 0
		}
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		var count, seq int
		if len(f) < 6 || f[0] != "8" || f[2] != fmt.Sprint(int(scheme)) || f[4]+f[5] != "" {
			t.Fatalf("%v: tshark says %q", scheme, line)
		}
		fmt.Sscan(f[1], &count)
		if fmt.Sscan(f[3], &seq); seq != n {
			t.Errorf("%v: sequence %d, want %d", scheme, seq, n)
		}
		n += count
	}
	if scheme != wire.V8PrefixPort || n != records {
		t.Errorf("%v: tshark reads %d records of %d, and nothing behind them", scheme, n, records)
	}
}
