package collect

import (
	"context"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weir/flow"
	"weir/wire"
)

// exports finds the corpus of export captures; the test is skipped, saying so,
// if it is not there.
func exports(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("WEIR_CORPUS")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "corpus")
	}
	dir = filepath.Join(dir, "exports")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("skipped: no corpus of export captures (set WEIR_CORPUS): %v", err)
	}
	return dir
}

// table reads a CSV file with a header line into maps; nil if there is none.
func table(t testing.TB, name string) []map[string]string {
	t.Helper()
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	all := []map[string]string{}
	for _, r := range rows[1:] {
		m := map[string]string{}
		for i, h := range rows[0] {
			m[h] = r[i]
		}
		all = append(all, m)
	}
	return all
}

// message is one export message of a capture, as decoded.
type message struct {
	frame   int
	src     wire.Source
	m       wire.Message
	err     error
	records []flow.Record
	raw     []rawRecord
	events  []wire.TemplateEvent
}

type rawRecord struct {
	t      *wire.Template
	dom    uint32
	waited bool
	data   []byte
}

// decodeCapture decodes one capture and keeps everything.
func decodeCapture(t testing.TB, name string, opt DecodeOptions) ([]message, *Summary) {
	t.Helper()
	var all []message
	var cur message
	opt.Sink = flow.SinkFunc(func(b []flow.Record) error {
		for _, r := range b {
			r.Elements = slices.Clone(r.Elements)
			cur.records = append(cur.records, r)
		}
		return nil
	})
	opt.OnTemplate = func(_ int, e wire.TemplateEvent) { cur.events = append(cur.events, e) }
	opt.OnRecord = func(r wire.RawRecord) {
		cur.raw = append(cur.raw, rawRecord{r.Template, r.Domain, r.Waited, slices.Clone(r.Data)})
	}
	opt.OnMessage = func(frame int, src wire.Source, m wire.Message, err error) {
		cur.frame, cur.src, cur.m, cur.err = frame, src, m, err
		all = append(all, cur)
		cur = message{}
	}
	sum, err := Decode(context.Background(), []string{name}, opt)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return all, sum
}

// column gives the value of a column of records.csv; "" if it is unknown.
func column(r *flow.Record, name string) string {
	num := func(h flow.Field, v uint64) string {
		if r.Has&h == 0 {
			return ""
		}
		return strconv.FormatUint(v, 10)
	}
	addr := func(h flow.Field, a flow.Addr) string {
		if r.Has&h == 0 {
			return ""
		}
		return a.String()
	}
	ms := func(h flow.Field, ns int64) string {
		if r.Has&h == 0 {
			return ""
		}
		return strconv.FormatInt((ns-((ns%1e6)+1e6)%1e6)/1e6, 10)
	}
	switch name {
	case "version":
		return strconv.Itoa(int(r.Version))
	case "domain":
		if r.Version < flow.VersionV9 {
			return "" // the table has none for them
		}
		return num(flow.HasDomain, uint64(r.Domain))
	case "src_addr":
		return addr(flow.HasSrc, r.Src)
	case "dst_addr":
		return addr(flow.HasDst, r.Dst)
	case "next_hop":
		return addr(flow.HasNextHop, r.NextHop)
	case "src_port":
		return num(flow.HasSrcPort, uint64(r.SrcPort))
	case "dst_port":
		return num(flow.HasDstPort, uint64(r.DstPort))
	case "proto":
		return num(flow.HasProto, uint64(r.Proto))
	case "tcp_flags":
		return num(flow.HasTCPFlags, uint64(r.TCPFlags))
	case "tos":
		return num(flow.HasTOS, uint64(r.TOS))
	case "packets":
		return num(flow.HasPackets, r.Packets)
	case "bytes":
		return num(flow.HasBytes, r.Bytes)
	case "first_ms":
		return ms(flow.HasFirst, r.First)
	case "last_ms":
		return ms(flow.HasLast, r.Last)
	case "in_if":
		return num(flow.HasInput, uint64(r.Input))
	case "out_if":
		return num(flow.HasOutput, uint64(r.Output))
	case "src_as":
		return num(flow.HasSrcAS, uint64(r.SrcAS))
	case "dst_as":
		return num(flow.HasDstAS, uint64(r.DstAS))
	case "src_mask":
		return num(flow.HasSrcMask, uint64(r.SrcMask))
	case "dst_mask":
		return num(flow.HasDstMask, uint64(r.DstMask))
	}
	panic("no column " + name)
}

var recordColumns = []string{
	"version", "domain", "src_addr", "dst_addr", "next_hop", "src_port", "dst_port", "proto",
	"tcp_flags", "tos", "packets", "bytes", "first_ms", "last_ms", "in_if", "out_if", "src_as", "dst_as", "src_mask", "dst_mask",
}

// difference is a column in which weir and the tables differ, in how many
// records of one capture, and why. A difference that goes away fails the test
// as one that comes.
type difference struct {
	capture, column string
	records         int
	why             string
}

const (
	noAgreement = "the table is blank where the tools do not agree (flows that began before the exporter, or a wrapped clock): here the difference to the export is taken modulo 2^32 (wire's TestUptimeWrap)"
	initTime    = "the table is blank for IPFIX records with sysUpTime stamps only: the exporter's start (IE 160) came in options, and gives them times (wire's TestUptimeWrap)"
	icmpPort    = "ICMP: the type and code came in elements of their own; source port 0 and destination port type*256+code say the same"
	icmpProto   = "the exporter's ICMP templates have no protocol: their ICMP elements tell"
	maskOrder   = "the table is blank where the tools read the masks in either order; the source mask comes first here, V8DestinationMaskFirst is flow-tools' order"
)

var differences = []difference{
	{"ipfix_generic", "first_ms", 12, initTime},
	{"ipfix_generic", "last_ms", 12, initTime},
	{"ipfix_mpls_501", "first_ms", 74, initTime},
	{"ipfix_mpls_501", "last_ms", 74, initTime},
	{"ipfix_mpls_multi_401a", "first_ms", 748, initTime},
	{"ipfix_mpls_multi_401a", "last_ms", 748, initTime},
	{"ipfix_padding", "dst_port", 2, icmpPort},
	{"ipfix_padding", "src_port", 2, icmpPort},
	{"ipfix_scapy", "first_ms", 1, noAgreement},
	{"ipfix_scapy", "last_ms", 1, noAgreement},
	{"ipfix_softflowd", "first_ms", 22, initTime},
	{"ipfix_softflowd", "proto", 13, icmpProto},
	{"ipfix_softflowd", "src_port", 13, icmpPort},
	{"ipfix_softflowd", "dst_port", 13, icmpPort},
	{"ipfix_softflowd", "last_ms", 22, initTime},
	{"ipfix_softflowd_biflow", "dst_port", 14, icmpPort},
	{"ipfix_softflowd_biflow", "first_ms", 40, initTime},
	{"ipfix_softflowd_biflow", "last_ms", 40, initTime},
	{"ipfix_softflowd_biflow", "src_port", 14, icmpPort},
	{"ipfix_softflowd_milli", "dst_port", 14, icmpPort},
	{"ipfix_softflowd_milli", "src_port", 14, icmpPort},
	{"ipfix_softflowd_mixed", "dst_port", 14, icmpPort},
	{"ipfix_softflowd_mixed", "first_ms", 41, initTime},
	{"ipfix_softflowd_mixed", "last_ms", 41, initTime},
	{"ipfix_softflowd_mixed", "src_port", 14, icmpPort},
	{"ipfix_srv6_500", "first_ms", 43, initTime},
	{"ipfix_srv6_500", "last_ms", 43, initTime},
	{"v1_softflowd_mixed", "first_ms", 30, noAgreement},
	{"v1_softflowd_mixed", "last_ms", 30, noAgreement},
	{"v5_generic", "first_ms", 2, noAgreement},
	{"v5_softflowd_mixed", "first_ms", 30, noAgreement},
	{"v5_softflowd_mixed", "last_ms", 30, noAgreement},
	{"v5_v9_nprobe_mixed", "first_ms", 2, noAgreement},
	{"v5_v9_nprobe_mixed", "last_ms", 2, noAgreement},
	{"v8_agg13_flowtools", "dst_mask", 78, maskOrder},
	{"v8_agg13_flowtools", "src_mask", 78, maskOrder},
	{"v8_agg5_flowtools", "dst_mask", 80, maskOrder},
	{"v8_agg5_flowtools", "src_mask", 80, maskOrder},
	{"v9_cisco_asa_1", "dst_port", 7, icmpPort},
	{"v9_exatel_1", "first_ms", 2, noAgreement},
	{"v9_exatel_1", "last_ms", 2, noAgreement},
	{"v9_fortigate_521", "first_ms", 1, noAgreement},
	{"v9_fortigate_521", "last_ms", 1, noAgreement},
	{"v9_nprobe_2", "first_ms", 1, noAgreement},
	{"v9_nprobe_2", "last_ms", 1, noAgreement},
	{"v9_softflowd_field", "first_ms", 44, noAgreement},
	{"v9_softflowd_field", "last_ms", 44, noAgreement},
	{"v9_softflowd_mixed", "dst_port", 14, icmpPort},
	{"v9_softflowd_mixed", "first_ms", 41, noAgreement},
	{"v9_softflowd_mixed", "last_ms", 41, noAgreement},
	{"v9_softflowd_mixed", "src_port", 14, icmpPort},
	{"v9_softflowd_vlan", "first_ms", 6, noAgreement},
	{"v9_softflowd_vlan", "last_ms", 6, noAgreement},
	{"v9_telegraf", "first_ms", 8, noAgreement},
	{"v9_telegraf", "last_ms", 8, noAgreement},
}

// TestExportRecords: every capture with a table of records gives those records,
// in their frames and order.
func TestExportRecords(t *testing.T) {
	dir := exports(t)
	files, err := filepath.Glob(filepath.Join(dir, "*.records.csv"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tables of records in %s (%v)", dir, err)
	}
	type place struct{ capture, column string }
	got, total := map[place]int{}, 0
	for _, csvName := range files {
		base := strings.TrimSuffix(filepath.Base(csvName), ".records.csv")
		t.Run(base, func(t *testing.T) {
			msgs, _ := decodeCapture(t, captureOf(t, dir, base), DecodeOptions{})
			want := byFrame(table(t, csvName))
			for _, m := range msgs {
				total += len(want[m.frame])
				for _, c := range compareRecords(t, m, want[m.frame]) {
					got[place{base, c}]++
				}
				delete(want, m.frame)
			}
			for n, w := range want {
				t.Errorf("frame %d: %d records are missing altogether", n, len(w))
			}
		})
	}
	for _, d := range differences {
		k := place{d.capture, d.column}
		if got[k] != d.records {
			t.Errorf("%s: %s differs in %d records; explained are %d: %s", d.capture, d.column, got[k], d.records, d.why)
		}
		delete(got, k)
	}
	for k, n := range got {
		t.Errorf("%s: %s differs in %d records, which nothing explains", k.capture, k.column, n)
	}
	t.Logf("%d records of %d captures", total, len(files))
}

func captureOf(t testing.TB, dir, base string) string {
	for _, ext := range []string{".pcap", ".pcapng"} {
		if _, err := os.Stat(filepath.Join(dir, base+ext)); err == nil {
			return filepath.Join(dir, base+ext)
		}
	}
	t.Fatalf("%s: no capture beside its tables", base)
	return ""
}

func byFrame(rows []map[string]string) map[int][]map[string]string {
	m := map[int][]map[string]string{}
	for _, r := range rows {
		n, _ := strconv.Atoi(r["frame"])
		m[n] = append(m[n], r)
	}
	return m
}

// compareRecords names the columns that differ, once for each record, and
// fails the test where no kind of difference would explain the values.
func compareRecords(t *testing.T, m message, want []map[string]string) (differ []string) {
	t.Helper()
	recs := m.records
	if len(recs)-m.m.Released != len(want) {
		t.Errorf("frame %d: %d records (and %d that had waited), want %d (error: %v)", m.frame, len(recs)-m.m.Released, m.m.Released, len(want), m.err)
		return nil
	}
	recs = recs[m.m.Released:] // in the corpus, templates are in front of their message's own data
	for i, w := range want {
		r := &recs[i]
		for _, c := range recordColumns {
			g := column(r, c)
			if g == w[c] {
				continue
			}
			differ = append(differ, c)
			icmp := r.Proto == flow.ProtoICMP || r.Proto == flow.ProtoICMPv6
			switch {
			case c == "first_ms" || c == "last_ms" || c == "src_mask" || c == "dst_mask":
				if w[c] == "" {
					continue
				}
			case c == "proto" && icmp && w[c] == "" && r.Has&flow.HasICMP != 0:
				continue
			case c == "src_port" && icmp && g == "0" && w[c] == "",
				c == "dst_port" && icmp && (w[c] == "" || w[c] == "0") && int(r.DstPort) == int(r.ICMPType)<<8|int(r.ICMPCode) && r.Has&flow.HasICMP != 0:
				continue
			}
			t.Errorf("frame %d, record %s: %s is %q, want %q; elements %s", m.frame, w["rec"], c, g, w[c], r.Elements)
		}
	}
	return differ
}

// waited are the captures with data before its template: so many records are
// decoded when the template comes, beside those in the tables.
var waited = map[string]int{
	"ipfix_data_template":        3,
	"ipfix_netscaler_data_first": 3,
	"ipfix_vflow_mx":             4,
	"v9_data_plus_templates":     11,
	"v9_fortigate_300d":          81,
	"v9_nprobe_4":                14,
}

func TestExportWaiting(t *testing.T) {
	dir := exports(t)
	files, _ := filepath.Glob(filepath.Join(dir, "*.records.csv"))
	got := map[string]int{}
	for _, name := range files {
		base := strings.TrimSuffix(filepath.Base(name), ".records.csv")
		msgs, _ := decodeCapture(t, captureOf(t, dir, base), DecodeOptions{})
		for _, m := range msgs {
			if m.m.Released > 0 {
				got[base] += m.m.Released
			}
		}
	}
	if !maps.Equal(got, waited) {
		t.Errorf("records that waited: %v, want %v", got, waited)
	}
}

// TestExportDatagrams: headers and what is in each datagram.
func TestExportDatagrams(t *testing.T) {
	dir := exports(t)
	files, _ := filepath.Glob(filepath.Join(dir, "*.datagrams.csv"))
	if len(files) == 0 {
		t.Fatal("no tables of datagrams")
	}
	for _, name := range files {
		base := strings.TrimSuffix(filepath.Base(name), ".datagrams.csv")
		t.Run(base, func(t *testing.T) {
			rows := table(t, name)
			msgs, _ := decodeCapture(t, captureOf(t, dir, base), DecodeOptions{})
			if len(rows) != len(msgs) {
				t.Fatalf("%d datagrams, want %d", len(msgs), len(rows))
			}
			for i, w := range rows {
				m := &msgs[i]
				got := map[string]string{
					"frame": strconv.Itoa(m.frame), "src": m.src.Addr.String(), "src_port": strconv.Itoa(int(m.src.Port)),
					"version": strconv.Itoa(int(m.m.Version)), "data_records": strconv.Itoa(m.m.Records),
					"options_records": strconv.Itoa(m.m.Options), "templates": strconv.Itoa(m.m.Templates),
					"undecodable_sets": strconv.Itoa(m.m.Waiting), "unix_secs": strconv.FormatInt(m.m.Exported/1e9, 10),
				}
				if m.m.Version >= 9 {
					got["domain"] = strconv.FormatUint(uint64(m.m.Domain), 10)
				}
				if m.m.Version > 1 {
					got["sequence"] = strconv.FormatUint(uint64(m.m.Sequence), 10)
				}
				if m.m.Version < 10 {
					got["header_count"] = strconv.Itoa(int(m.m.Count))
					got["sys_uptime_ms"] = strconv.FormatUint(uint64(m.m.Uptime), 10)
				}
				for k, g := range got {
					if w[k] != g {
						t.Errorf("datagram %d (frame %s): %s is %s, want %s (error: %v)", i+1, w["frame"], k, g, w[k], m.err)
					}
				}
			}
		})
	}
}

// TestExportTemplates: every template record, as it comes.
func TestExportTemplates(t *testing.T) {
	dir := exports(t)
	files, _ := filepath.Glob(filepath.Join(dir, "*.templates.csv"))
	if len(files) == 0 {
		t.Fatal("no tables of templates")
	}
	for _, name := range files {
		base := strings.TrimSuffix(filepath.Base(name), ".templates.csv")
		t.Run(base, func(t *testing.T) {
			rows := byFrame(table(t, name))
			msgs, _ := decodeCapture(t, captureOf(t, dir, base), DecodeOptions{})
			for _, m := range msgs {
				want := rows[m.frame]
				if len(want) != len(m.events) {
					t.Errorf("frame %d: %d templates, want %d", m.frame, len(m.events), len(want))
					continue
				}
				for i, w := range want {
					e := m.events[i]
					kind := "data"
					if e.Template.Options() {
						kind = "options"
					}
					var def []string
					for _, f := range e.Template.Fields {
						d := fmt.Sprintf("%d:%d", f.ID, f.Length)
						if f.PEN != 0 {
							d += fmt.Sprintf(":%d", f.PEN)
						}
						def = append(def, d)
					}
					got := fmt.Sprint(e.Version, e.Domain, e.Template.ID, kind, e.Template.Scope, len(def), strings.Join(def, " "))
					if want := fmt.Sprint(w["version"], w["domain"], w["template_id"], w["kind"], w["scope_fields"], w["fields"], w["definition"]); fmt.Sprint(strings.Fields(got)) != fmt.Sprint(strings.Fields(want)) && norm(got) != norm(want) {
						t.Errorf("frame %d, template %d: %s, want %s", m.frame, i+1, got, want)
					}
				}
			}
		})
	}
}

func norm(s string) string { return strings.ReplaceAll(s, " ", "") }

// TestExportFields: every octet of every field of every data and options record.
func TestExportFields(t *testing.T) {
	dir := exports(t)
	files, _ := filepath.Glob(filepath.Join(dir, "*.fields.csv"))
	if len(files) == 0 {
		t.Fatal("no tables of fields")
	}
	n := 0
	for _, name := range files {
		base := strings.TrimSuffix(filepath.Base(name), ".fields.csv")
		t.Run(base, func(t *testing.T) {
			rows := byFrame(table(t, name))
			msgs, _ := decodeCapture(t, captureOf(t, dir, base), DecodeOptions{})
			for _, m := range msgs {
				want := rows[m.frame]
				rec := 0
				for _, r := range m.raw {
					if r.waited {
						continue
					}
					rec++
					kind := "data"
					if r.t.Options() {
						kind = "options"
					}
					for i, f := range r.t.Fields {
						v := r.t.Value(r.data, i)
						if len(want) == 0 {
							t.Fatalf("frame %d: more fields than the table has", m.frame)
						}
						w := want[0]
						want = want[1:]
						n++
						scope := ""
						if i < r.t.Scope {
							scope = "scope"
						}
						got := []string{fmt.Sprint(r.dom), fmt.Sprint(r.t.ID), kind, fmt.Sprint(rec), fmt.Sprint(i + 1), fmt.Sprint(f.ID), fmt.Sprint(f.PEN), hex.EncodeToString(v), scope}
						for j, k := range []string{"domain", "set_id", "kind", "rec", "pos", "ie", "pen", "value_hex", "scope"} {
							if w[k] != got[j] {
								t.Fatalf("frame %d, record %d, field %d: %s is %q, want %q", m.frame, rec, i+1, k, got[j], w[k])
							}
						}
					}
				}
				if len(want) > 0 {
					t.Errorf("frame %d: %d fields are missing, the first is %v", m.frame, len(want), want[0])
				}
			}
		})
	}
	t.Logf("%d fields", n)
}

// robust are the captures without an agreed answer: what is refused, and what
// is read all the same.
var robust = map[string]struct {
	refused, records, waiting int
	why                       string
}{
	"ipfix_vflow_ios.pcap":      {4, 2, 2, "two messages whose length is not the datagram's: the sets that are whole are read, the first message's wait for the second's templates"},
	"v5_bad_count_1.pcap":       {1, 30, 0, "the header counts 55582 records: the 30 that are there are read"},
	"v9_graylog_truncated.pcap": {2, 2, 1, "another packet where a flowset should be, which is then a reserved set and one beyond the end; and data whose template is not there"},
	"v9_malformed_1.pcapng":     {3, 0, 3, "templates whose fields have no octets, once in each datagram"},
	"v9_malformed_2.pcapng":     {16, 0, 16, "the same"},
	"v9_malformed_3.pcap":       {1, 0, 1, "the same"},
	"v9_malformed_4.pcapng":     {0, 0, 0, "zeros behind the last flowset are padding: nothing is wrong"},
}

// TestExportRobust: captures without an agreed answer are got through, and
// what is wrong with them is counted.
func TestExportRobust(t *testing.T) {
	dir := exports(t)
	files, _ := filepath.Glob(filepath.Join(dir, "*.pcap*"))
	found := 0
	for _, name := range files {
		base := filepath.Base(name)
		if _, err := os.Stat(strings.TrimSuffix(strings.TrimSuffix(name, "ng"), ".pcap") + ".records.csv"); err == nil || strings.HasPrefix(base, "sflow") {
			continue
		}
		found++
		t.Run(base, func(t *testing.T) {
			want, ok := robust[base]
			if !ok {
				t.Fatal("a capture that this test does not know")
			}
			msgs, sum := decodeCapture(t, name, DecodeOptions{Ports: []uint16{2055, 4739, 6543}})
			refused, records, waiting, lost := 0, 0, 0, uint64(0)
			for _, m := range msgs {
				refused, records, waiting = refused+m.m.Refused, records+m.m.Records, waiting+m.m.Waiting
				t.Logf("frame %d: %+v: %v", m.frame, m.m, m.err)
			}
			for _, l := range sum.Lost {
				lost += l.Datagrams
			}
			if refused != want.refused || records != want.records || waiting != want.waiting {
				t.Errorf("%d refused, %d records, %d sets without template; want %+v", refused, records, waiting, want)
			}
			if min := uint64(refused); lost < min {
				t.Errorf("%d refused, %d in the summary", refused, lost)
			}
		})
	}
	if found != len(robust) {
		t.Errorf("%d captures, the test knows %d", found, len(robust))
	}
}

// sampleColumn gives the value of a column of samples.csv that a record of the
// sample has.
func sampleColumn(r *flow.Record, name string) string {
	columns := map[string]flow.Column{
		"agent": flow.ColExporter, "sub_agent": flow.ColDomain, "rate": flow.ColSampling, "src_addr": flow.ColSrc, "dst_addr": flow.ColDst,
		"proto": flow.ColProto, "tos": flow.ColTOS, "src_port": flow.ColSrcPort, "dst_port": flow.ColDstPort, "tcp_flags": flow.ColTCPFlags,
		"ip_length": flow.ColBytes, "in_value": flow.ColInput, "out_value": flow.ColOutput, "next_hop": flow.ColNextHop,
		"src_mask": flow.ColSrcMask, "dst_mask": flow.ColDstMask, "gw_src_as": flow.ColSrcAS, "gw_dst_as": flow.ColDstAS,
	}
	var elements map[string]any
	switch name {
	case "src_mac", "dst_mac", "ttl", "gw_as":
		json.Unmarshal(r.Elements, &elements)
		v, ok := elements[map[string]string{"src_mac": "sourceMacAddress", "dst_mac": "destinationMacAddress", "ttl": "ipTTL", "gw_as": "as"}[name]]
		if !ok {
			return ""
		}
		return fmt.Sprint(v)
	}
	return string(r.AppendColumn(nil, columns[name]))
}

// TestExportSamples: every sample of the sFlow captures, as sflowtool, goflow2
// and tshark read them: flow samples become records, counter samples counters.
func TestExportSamples(t *testing.T) {
	dir := exports(t)
	files, _ := filepath.Glob(filepath.Join(dir, "*.samples.csv"))
	if len(files) == 0 {
		t.Fatal("no tables of samples")
	}
	values := 0
	for _, name := range files {
		base := strings.TrimSuffix(filepath.Base(name), ".samples.csv")
		t.Run(base, func(t *testing.T) {
			rows := table(t, name)
			var counters []wire.OptionsRecord
			msgs, _ := decodeCapture(t, captureOf(t, dir, base), DecodeOptions{OnOptions: func(_ int, o wire.OptionsRecord) {
				o.Scope, o.Fields = slices.Clone(o.Scope), slices.Clone(o.Fields)
				counters = append(counters, o)
			}})
			var records []flow.Record
			for _, m := range msgs {
				for _, r := range m.records {
					if r.Version == flow.VersionSFlow {
						records = append(records, r)
					}
				}
			}
			for _, w := range rows {
				at := fmt.Sprintf("frame %s, sample %s", w["frame"], w["sample"])
				if strings.HasPrefix(w["type"], "counter") {
					if len(counters) == 0 {
						t.Fatalf("%s: no counters", at)
					}
					values += compareCounters(t, at, &counters[0], w)
					counters = counters[1:]
					continue
				}
				if len(records) == 0 {
					t.Fatalf("%s: no record", at)
				}
				r := &records[0]
				records = records[1:]
				for _, c := range []string{
					"agent", "sub_agent", "rate", "src_mac", "dst_mac", "src_addr", "dst_addr", "proto", "tos", "ttl", "src_port",
					"dst_port", "tcp_flags", "ip_length", "in_value", "out_value", "next_hop", "src_mask", "dst_mask", "gw_as", "gw_src_as", "gw_dst_as",
				} {
					want, got := w[c], sampleColumn(r, c)
					switch {
					case c == "in_value" && (want == "0" || w["in_format"] != "0"), c == "out_value" && (want == "0" || w["out_format"] != "0"):
						want = "" // not one interface that is known
					case want == "" && (c == "src_port" || c == "dst_port" || c == "tcp_flags"): // the protocol has none
						continue
					case c == "gw_as" && want == "0":
						want = ""
					}
					if got != want {
						t.Errorf("%s: %s is %q, want %q", at, c, got, want)
					}
					values++
				}
			}
			if len(records)+len(counters) > 0 {
				t.Errorf("%d records and %d counters more than the table has", len(records), len(counters))
			}
		})
	}
	t.Logf("%d values", values)
}

func compareCounters(t *testing.T, at string, o *wire.OptionsRecord, w map[string]string) (n int) {
	t.Helper()
	var scope map[string]uint64
	var fields map[string]map[string]any
	if err := errors.Join(json.Unmarshal(o.Scope, &scope), json.Unmarshal(o.Fields, &fields)); err != nil {
		t.Fatalf("%s: %v in %s %s", at, err, o.Scope, o.Fields)
	}
	got := map[string]string{
		"agent": o.Source.Addr.String(), "sub_agent": fmt.Sprint(o.Domain),
		"source_class": fmt.Sprint(scope["ds_class"]), "source_index": fmt.Sprint(scope["ds_index"]),
	}
	for column, field := range map[string]string{
		"if_index": "ifIndex", "if_speed": "ifSpeed", "if_in_octets": "ifInOctets", "if_in_ucast": "ifInUcastPkts",
		"if_out_octets": "ifOutOctets", "if_out_ucast": "ifOutUcastPkts",
	} {
		if v, ok := fields["if_counters"][field]; ok {
			got[column] = strconv.FormatFloat(v.(float64), 'f', -1, 64)
		} else {
			got[column] = ""
		}
	}
	for c, g := range got {
		n++
		if g != w[c] {
			t.Errorf("%s: %s is %q, want %q", at, c, g, w[c])
		}
	}
	return n
}
