package query

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"weir/flow"
)

func print(t *testing.T, layout string, set func(*Printer), records ...flow.Record) string {
	t.Helper()
	var out strings.Builder
	p, err := NewPrinter(&out, layout)
	if err != nil {
		t.Fatal(err)
	}
	if set != nil {
		set(p)
	}
	if err := p.WriteRecords(records); err != nil {
		t.Fatal(err)
	}
	var total Total
	for i := range records {
		total.add(&records[i])
	}
	if err := p.Close(total); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// What nfdump_test.go holds against nfdump itself, where there is none.
func TestPrinter(t *testing.T) {
	icmp := flow.Record{
		Has: flow.HasSrc | flow.HasDst | flow.HasProto | flow.HasICMP | flow.HasDstPort | flow.HasBytes,
		Src: addr("2001:db8::aaaa:bbbb:cccc"), Dst: addr("2001:db8::1"), Proto: 58, ICMPType: 128, DstPort: 128 << 8, Bytes: 5_000_000,
	}
	for _, tc := range []struct {
		layout, want string
		set          func(*Printer)
		records      []flow.Record
	}{
		{"line", `Date first seen             Duration     Proto      Src IP Addr:Port          Dst IP Addr:Port   Packets    Bytes Flows
2026-11-22 10:00:00.000     00:00:02.500 TCP           10.1.2.3:51000 ->       192.0.2.80:443         10     5000     1
1970-01-01 00:00:00.000     00:00:00.000 ICMP6 2001:db..bb:cccc.0     ->      2001:db8::1.128.0        0    5.0 M     1
Summary: total flows: 2, total bytes: 5.0 M, total packets: 10, avg bps: 16.0 M, avg pps: 4, avg bpp: 500500
Time window: 2026-11-22 10:00:00 - 2026-11-22 10:00:02
Total flows passed: 2
`, nil, []flow.Record{web(), icmp}},
		{"fmt:%ts|%pr|%sa|%dap|%flg", "2026-11-22 10:00:00.000|TCP  |        10.1.2.3|      192.0.2.80:443  |...AP.S.\n", func(p *Printer) { p.Quiet = true }, []flow.Record{web()}},
		{"csv:%sa,%dp,%byt", "sa,dp,byt\n2001:db8::aaaa:bbbb:cccc,128.0,5000000\nSummary\nflows,bytes,packets,avg_bps,avg_pps,avg_bpp\n1,5000000,0,0,0,0\n", nil, []flow.Record{icmp}},
		{"fmt:%byt %in", "   Bytes  Input\n 5000000      0\n", func(p *Printer) { p.Plain = true }, []flow.Record{icmp}},
		{"nfdump-json", "[\n]\n", nil, nil},
	} {
		got := print(t, tc.layout, tc.set, tc.records...)
		if !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s:\n%s\nwant\n%s", tc.layout, got, tc.want)
		}
	}
	var list []map[string]any
	if err := json.Unmarshal([]byte(print(t, "nfdump-json", nil, web(), icmp)), &list); err != nil || len(list) != 2 {
		t.Fatalf("%d objects, %v", len(list), err)
	}
	if list[0]["src4_addr"] != "10.1.2.3" || list[0]["tcp_flags"] != "...AP.S." || list[1]["icmp_type"] != 128.0 || list[1]["in_packets"] != nil {
		t.Errorf("%v", list)
	}
}

func TestLayoutErrors(t *testing.T) {
	for layout, want := range map[string]string{
		"fmt:%tz":    `unknown tag "%tz"`,
		"fmt:":       "an empty format",
		"fmt:%sap":   "",
		"pretty":     `unknown layout "pretty"`,
		"csv:%mpls1": "unknown tag",
	} {
		_, err := NewPrinter(&strings.Builder{}, layout)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %s", layout, err, want)
		}
		if IsLayout(layout) != (layout != "pretty") {
			t.Errorf("IsLayout(%s) is wrong", layout)
		}
	}
	p, err := NewPrinter(&strings.Builder{}, "line")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WriteResult(Request{Stat: "srcip", Bin: time.Minute}, &Result{}); err == nil {
		t.Error("a series was printed")
	}
}

func TestSplitStat(t *testing.T) {
	for text, want := range map[string]string{
		"srcip": "srcip", "srcip/bytes": "srcip/bytes", "srcip:p/flows/bytes:a": "srcip:p/flows srcip:p/bytes:a", "srcip4/24/flows/bytes": "srcip4/24/flows srcip4/24/bytes",
	} {
		if got := strings.Join(SplitStat(text), " "); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
