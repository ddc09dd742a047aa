package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/export"
	"weir/flow"
)

// exportingNode is a node that exports to a collector that is there, filtered, and to one
// that is not.
func exportingNode(t *testing.T) (socket string, n *node, e *export.Exporter) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	o := export.Options{Filter: exportFilter}
	for _, to := range []string{
		"udp://" + conn.LocalAddr().String() + "?flush=1ms&version=9&template=security&filter=dst+port+53",
		"tcp://127.0.0.1:1?spool=" + t.TempDir(),
	} {
		d, err := export.ParseDestination(to)
		if err != nil {
			t.Fatal(err)
		}
		o.Destinations = append(o.Destinations, d)
	}
	if e, err = export.New(o); err != nil {
		t.Fatal(err)
	}
	if err := e.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	socket, n = running(t, &fakeMeter{})
	n.mu.Lock()
	n.exporter = e
	n.mu.Unlock()
	has := flow.HasSrc | flow.HasDst | flow.HasProto | flow.HasSrcPort | flow.HasDstPort | flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast
	now := time.Now().UnixNano()
	for _, port := range []uint16{53, 80, 53, 443, 53} {
		e.WriteRecords([]flow.Record{{Src: addrOf("192.0.2.1"), Dst: addrOf("192.0.2.2"), Proto: 17, SrcPort: 1024, DstPort: port, Packets: 2, Bytes: 100, First: now, Last: now, Has: has}})
	}
	for range 1000 {
		if e.Stats()[0].Records == 3 {
			return socket, n, e
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%+v", e.Stats()[0])
	return
}

// show export tells, for people, state, sums and every way to lose something at zero
// too; for programs the same in columns.
func TestShowExport(t *testing.T) {
	socket, _, e := exportingNode(t)
	out := mustShow(t, socket, "export")
	for _, want := range []string{
		"state       sending", "state       away", "format      v9, template security, domain 1", "sent        3 records in", "of flows: 6 packets, 300 octets",
		"given       3 records, beside 2 that the filter kept back", "spool       0 records", "last error  ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for _, l := range e.Losses() {
		if strings.Count(out, "    "+l.Reason+" ") != 2 {
			t.Errorf("%s is not told of both destinations:\n%s", l.Reason, out)
		}
	}
	header, rest, _ := strings.Cut(mustShow(t, socket, "export", "-o", "csv"), "\n")
	if !strings.HasPrefix(header, "address,version,records,datagrams,bytes,failed,state,") || strings.Count(rest, "\n") != 2 {
		t.Errorf("%s\n%s", header, rest)
	}
	var list []map[string]any
	if err := json.Unmarshal([]byte(mustShow(t, socket, "export", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0]["filtered"] != 2.0 || list[0]["flow_bytes"] != 300.0 || list[1]["state"] != "away" || len(list[1]["lost"].([]any)) != len(e.Losses()) {
		t.Errorf("%v", list)
	}
}

// Templates go out on demand, by the verb.
func TestShowExportSendTemplates(t *testing.T) {
	socket, _, e := exportingNode(t)
	before := e.Stats()[0].Templates
	if status, out, errs := show(t, socket, "export", "--send-templates"); status != 0 || out != "" || !strings.Contains(errs, "to 2 destinations") {
		t.Fatalf("%d %q %q", status, out, errs)
	}
	for range 1000 {
		if e.Stats()[0].Templates > before {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if now := e.Stats()[0].Templates; now <= before {
		t.Errorf("%d templates before, %d now", before, now)
	}
	if status, _, errs := show(t, socket, "loss", "--send-templates"); status != 2 || !strings.Contains(errs, "goes with show export") {
		t.Errorf("%d %q", status, errs)
	}
}

func TestMetricsOfExports(t *testing.T) {
	_, n, _ := exportingNode(t)
	w := httptest.NewRecorder()
	n.server().ServeHTTP(w, httptest.NewRequest("GET", "http://localhost/metrics", nil))
	for _, want := range []string{
		`weir_export_up{destination="udp://`, `weir_export_filtered_records_total{destination="udp://`, `weir_export_lost_records_total{destination="tcp://`, `reason="spool-full"} 0`,
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

// A configuration's destinations are checked with it.
func TestConfigCheckReadsDestinations(t *testing.T) {
	file := filepath.Join(t.TempDir(), "weir.yaml")
	for text, want := range map[string]string{
		"export: ['udp://h:1?versoin=9']":                       "did you mean \"version\"",
		"export: ['udp://h:1', {to: 'udp://h:1', filter: 'x'}]": "export[1]: filter",
		"export: [{to: 'udp://h:1', filter: 'dst port 53'}]":    "",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs strings.Builder
		status := run(context.Background(), []string{"config", "check", file}, strings.NewReader(""), &out, &errs)
		if (status == 0) != (want == "") || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: %d %s", text, status, errs.String())
		}
	}
}
