package flow

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"
)

func TestKeyLayout(t *testing.T) {
	// The kernel's table holds the same 44 octets.
	if got := unsafe.Sizeof(Key{}); got != 44 {
		t.Fatalf("Key is %d octets, want 44", got)
	}
}

func TestAppendTimeAgreesWithTheStandardLibrary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ns := rapid.Int64().Draw(t, "ns")
		want := time.Unix(0, ns).UTC().Format("2006-01-02T15:04:05.000000Z")
		if got := string(AppendTime(nil, ns)); got != want {
			t.Fatalf("AppendTime(%d) = %s, want %s", ns, got, want)
		}
	})
	for _, s := range []string{"1970-01-01T00:00:00.000000Z", "2000-02-29T23:59:59.999999Z", "2100-03-01T00:00:00.000000Z"} {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(AppendTime(nil, at.UnixNano())); got != s {
			t.Errorf("AppendTime = %s, want %s", got, s)
		}
	}
}

func TestAddr(t *testing.T) {
	for _, s := range []string{"192.0.2.1", "0.0.0.0", "2001:db8::1", "::", "::1", "fe80::1:0:0:2"} {
		a := AddrFrom(netip.MustParseAddr(s))
		if got := string(AppendAddr(nil, a)); got != s {
			t.Errorf("AppendAddr(%s) = %s", s, got)
		}
		if a.Is4() != strings.Contains(s, ".") {
			t.Errorf("%s: Is4 = %v", s, a.Is4())
		}
	}
	// A v4-mapped address in a real IPv6 header is not an IPv4 address.
	r := Record{Src: AddrFrom4([4]byte{192, 0, 2, 1}), IPVersion: 6, Has: HasSrc}
	if got := string(r.AppendColumn(nil, ColSrc)); got != "::ffff:192.0.2.1" {
		t.Errorf("mapped source of an IPv6 packet = %s", got)
	}
}

func TestAppendAddrAgreesWithTheStandardLibrary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a Addr
		for i := range 8 { // many zeros, few digits: where the rules are
			g := rapid.SampledFrom([]uint16{0, 0, 0, 1, 0x1f, 0xabc, 0xffff}).Draw(t, "group")
			a[2*i], a[2*i+1] = byte(g>>8), byte(g)
		}
		if got, want := string(AppendAddr(nil, a)), netip.AddrFrom16(a).Unmap().String(); got != want {
			t.Fatalf("AppendAddr = %s, want %s", got, want)
		}
	})
}

func TestColumnsAreTheContract(t *testing.T) {
	const want = "first,last,proto,src,sport,dst,dport,tos,tcp_flags,packets,bytes,input,output,direction,vlan,icmp_type,icmp_code," +
		"next_hop,bgp_next_hop,src_as,dst_as,src_mask,dst_mask,sampling,end_reason,forwarding_status,exporter,domain,version,received,elements"
	if got := strings.Join(ColumnNames(), ","); got != want {
		t.Fatalf("columns\n got %s\nwant %s", got, want)
	}
	for _, n := range ColumnNames() {
		if c, ok := ColumnByName(n); !ok || c.String() != n {
			t.Errorf("ColumnByName(%s) = %v, %v", n, c, ok)
		}
	}
}

// What is not known is empty in CSV and absent in JSON, never a zero.
func TestUnknownIsEmpty(t *testing.T) {
	var r Record
	line, err := csv.NewReader(strings.NewReader(string(r.AppendCSV(nil)))).Read()
	if err != nil {
		t.Fatal(err)
	}
	if len(line) != NumColumns {
		t.Fatalf("%d columns, want %d", len(line), NumColumns)
	}
	for i, v := range line {
		if v != "" {
			t.Errorf("%s = %q, want empty", Column(i), v)
		}
	}
	if got := string(r.AppendJSON(nil)); got != "{}" {
		t.Errorf("JSON = %s, want {}", got)
	}
}

func TestEveryColumnIsPrinted(t *testing.T) {
	r := Record{
		First: 1, Last: 2e9, Received: 3e9, Proto: 6, Src: AddrFrom4([4]byte{1, 2, 3, 4}), Dst: Addr{0: 0x20, 15: 1}, SrcPort: 5, DstPort: 6,
		TOS: 7, TCPFlags: 8, Packets: 9, Bytes: 10, Input: 11, Output: 12, Direction: 1, VLAN: 14, ICMPType: 15, ICMPCode: 16,
		NextHop: AddrFrom4([4]byte{17}), BGPNextHop: AddrFrom4([4]byte{18}), SrcAS: 19, DstAS: 20, SrcMask: 21, DstMask: 22, Sampling: 23,
		EndReason: EndIdle, ForwardingStatus: 64, Exporter: AddrFrom4([4]byte{25}), Domain: 26, Version: VersionSFlow, Has: ^Field(0),
		Elements: []byte(`{"a, \"b\"":1}`),
	}
	line, err := csv.NewReader(strings.NewReader(string(r.AppendCSV(nil)))).Read()
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := json.Unmarshal(r.AppendJSON(nil), &object); err != nil {
		t.Fatalf("%v in %s", err, r.AppendJSON(nil))
	}
	for i, v := range line {
		if v == "" {
			t.Errorf("%s is empty in CSV", Column(i))
		}
		if _, ok := object[Column(i).String()]; !ok {
			t.Errorf("%s is missing in JSON", Column(i))
		}
	}
	if line[ColElements] != string(r.Elements) {
		t.Errorf("elements = %s", line[ColElements])
	}
	if got := testing.AllocsPerRun(100, func() { buf = r.AppendJSON(r.AppendCSV(buf[:0])) }); got != 0 {
		t.Errorf("printing a record allocates %v times", got)
	}
}

var buf []byte

func TestJSONTextIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOf(rapid.Byte()).Draw(t, "in")
		out := AppendJSONText(nil, in)
		var s string
		if err := json.Unmarshal(out, &s); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		if want := strings.ToValidUTF8(string(in), "\x00"); strings.Count(want, "\x00") == 0 && s != want {
			t.Fatalf("%q came back as %q", in, s)
		}
		for _, r := range string(out) {
			if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 {
				t.Fatalf("%q holds a control character", out)
			}
		}
	})
}

// AppendCSV is written out for speed; it is AppendColumn with commas.
func TestCSVIsTheColumns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Record{
			Src: AddrFrom4([4]byte{byte(rapid.Uint8().Draw(t, "a")), 10, 99, 100}), Dst: Addr{0: rapid.Uint8().Draw(t, "b"), 15: 1},
			First: rapid.Int64().Draw(t, "first"), Last: 2e18, Packets: rapid.Uint64().Draw(t, "packets"), Bytes: 9, Input: 10, Output: 11, SrcPort: 12,
			DstPort: 13, TOS: 14, TCPFlags: 15, Proto: 16, Direction: 1, VLAN: 17, ICMPType: 18, ICMPCode: 19, SrcAS: 20, DstAS: 21, SrcMask: 22, DstMask: 23,
			Sampling: 24, EndReason: 3, ForwardingStatus: 64, Domain: 25, Received: 26e9, IPVersion: rapid.SampledFrom([]uint8{0, 4, 6}).Draw(t, "version"),
			Version: rapid.SampledFrom([]uint8{0, 9, VersionSFlow}).Draw(t, "protocol"),
			Has:     Field(rapid.Uint64().Draw(t, "has")),
		}
		var want []byte
		for c := range Column(NumColumns) {
			if c > 0 {
				want = append(want, ',')
			}
			want = r.AppendColumn(want, c)
		}
		if got := string(r.AppendCSV(nil)); got != string(want)+"\n" {
			t.Fatalf("AppendCSV\n got %swant %s", got, want)
		}
	})
}

// A Tee gives to its sinks in turn until one errs, and syncs all that can be.
func TestTee(t *testing.T) {
	var calls []string
	sink := func(name string, err error) SinkFunc {
		return func([]Record) error { calls = append(calls, name); return err }
	}
	bad := errors.New("bad")
	said := func(want string, err, wantErr error) {
		t.Helper()
		if got := strings.Join(calls, " "); got != want || err != wantErr {
			t.Errorf("calls %q, %v; want %q, %v", got, err, want, wantErr)
		}
		calls = nil
	}
	first, second := &syncer{SinkFunc: sink("a", nil)}, &syncer{SinkFunc: sink("c", nil)}
	first.sync = func() error { calls = append(calls, "sync a"); return bad }
	second.sync = func() error { calls = append(calls, "sync c"); return errors.New("later") }
	tee := Tee(first, sink("b", nil), Tee(second))
	said("a b c", tee.WriteRecords(nil), nil)
	said("sync a sync c", tee.(Syncer).Sync(), bad)
	said("a b", Tee(first, sink("b", bad), second).WriteRecords(nil), bad)
}

type syncer struct {
	SinkFunc
	sync func() error
}

func (s *syncer) Sync() error { return s.sync() }
