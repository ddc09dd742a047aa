package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"weir/export"
	"weir/flow"
	"weir/rows"
)

// destination is one line of `weir show export`: the exporter's account, and the
// names that older scripts know.
type destination struct {
	Address string `json:"address"`
	export.Stats
	Bytes  uint64 `json:"bytes"` // of payload: Stats has the flows' under another name
	Flows  uint64 `json:"flow_bytes"`
	Failed uint64 `json:"failed"`
}

// destinations is what the control socket tells of exports.
func (n *node) destinations() []destination {
	var list []destination
	for _, s := range n.exportStats() {
		d := destination{Address: s.Destination, Stats: s, Bytes: s.Octets, Flows: s.Bytes}
		for _, l := range s.Lost {
			d.Failed += l.Records
		}
		list = append(list, d)
	}
	return list
}

// sendTemplates answers `weir show export --send-templates`.
func (n *node) sendTemplates(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	exporters := n.exportersHere()
	if len(exporters) == 0 {
		w.WriteHeader(http.StatusNotFound)
		json.NewEncoder(w).Encode(map[string]string{"error": "nothing is exported here"})
		return
	}
	for _, e := range exporters {
		e.SendTemplates()
	}
	json.NewEncoder(w).Encode(map[string]int{"destinations": len(n.exportStats())})
}

// askTemplates has the running weir send its templates.
func askTemplates(a *app, client *http.Client) error {
	r, err := client.Post("http://localhost/control/export/send-templates", "application/json", strings.NewReader("{}"))
	if err != nil {
		return unwrapped(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return refusal(r)
	}
	var answer struct {
		Destinations int `json:"destinations"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&answer); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "weir: templates are being sent to %d destinations\n", answer.Destinations)
	return nil
}

// printExport prints each destination for people: what it is, what went there, what
// waits, and every way to lose something, zeros included.
func printExport(w io.Writer, list []map[string]any) error {
	for i, m := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := printDestination(w, m); err != nil {
			return err
		}
	}
	return nil
}

func printDestination(w io.Writer, m map[string]any) error {
	text := func(name string) string {
		if m[name] == nil {
			return ""
		}
		return rows.Plain(fmt.Sprint(m[name]))
	}
	num := func(name string) uint64 {
		n, _ := strconv.ParseUint(text(name), 10, 64)
		return n
	}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-12s%s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintln(w, text("address"))
	state := text("state")
	if group := text("group"); group != "" {
		state += ", group " + group
	}
	if n := num("connections"); n > 0 {
		state += fmt.Sprintf(", %d connections made", n)
	}
	line("state", "%s", state)
	if text("local") != "" {
		line("from, to", "%s, %s", text("local"), text("remote"))
	}
	if e := text("error"); e != "" {
		line("last error", "%s, %s", since(text("error_at")), e)
	}
	format := "v" + text("version")
	switch num("version") {
	case flow.VersionIPFIX:
		format = "IPFIX"
	}
	if t := text("template"); t != "" {
		format += ", template " + t
	}
	line("format", "%s, domain %d, up to %d octets a message", format, num("domain"), num("payload"))
	line("sent", "%d records in %d datagrams, %d octets; of flows: %d packets, %d octets", num("records"), num("datagrams"), num("octets"), num("packets"), num("flow_bytes"))
	if num("version") >= flow.VersionV9 {
		line("", "%d templates, %d options records", num("templates"), num("options"))
	}
	line("sequence", "%d", num("sequence"))
	given := fmt.Sprintf("%d records", num("given_records"))
	if n := num("filtered"); n > 0 {
		given += fmt.Sprintf(", beside %d that the filter kept back", n)
	}
	if n := num("restored"); n > 0 {
		given += fmt.Sprintf(", and %d that were in the spool at the start", n)
	}
	line("given", "%s", given)
	line("waiting", "%d of %d datagrams, %d of them sent and not acknowledged", num("queued"), num("queue_max"), num("in_flight"))
	if n := num("spool_max"); n > 0 {
		line("spool", "%d records in %d datagrams, %d of %d octets", num("spooled_records"), num("spooled"), num("spool_octets"), n)
	}
	fmt.Fprintln(w, "  lost")
	lost, _ := m["lost"].([]any)
	var lines [][]any
	for _, l := range lost {
		l, _ := l.(map[string]any)
		lines = append(lines, []any{"", l["reason"], cell(l["records"]), cell(l["packets"]), cell(l["bytes"]), cell(l["datagrams"])})
	}
	_, err := writeTable(w, []string{"  ", "reason", "records", "packets", "bytes", "datagrams"}, lines, 0, nil, "")
	return err
}

// since says when a time was, for people.
func since(text string) string {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return text
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}

// exportSamples are the metrics of one destination beside those of node.samples.
func exportSamples(s export.Stats, counter func(name, help string, v uint64, labels ...string), gauge func(name, help string, v float64, labels ...string)) {
	to := []string{"destination", s.Destination}
	yes := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	counter("weir_export_records_total", "Flow records sent.", s.Records, to...)
	counter("weir_export_datagrams_total", "Datagrams, or messages, sent.", s.Datagrams, to...)
	counter("weir_export_bytes_total", "Their payload.", s.Octets, to...)
	counter("weir_export_given_records_total", "Flow records given to it: sent, lost or waiting.", s.GivenRecords, to...)
	counter("weir_export_filtered_records_total", "Flow records that its filter kept back.", s.Filtered, to...)
	counter("weir_export_templates_total", "Template records sent.", s.Templates, to...)
	counter("weir_export_options_total", "Options data records sent.", s.Options, to...)
	counter("weir_export_connections_total", "Connections made: TCP, TLS, DTLS.", s.Connections, to...)
	gauge("weir_export_up", "Whether the collector is connected or, over UDP, nothing has come back lately.", yes(s.State == "sending" || s.State == "standby"), to...)
	gauge("weir_export_current", "Whether records go there: 0 while it stands by in a fail-over group.", yes(!s.Standby), to...)
	gauge("weir_export_queue_datagrams", "Datagrams that wait to be sent, or to be acknowledged.", float64(s.Queued), to...)
	gauge("weir_export_spool_records", "Flow records in its spool.", float64(s.SpooledRecords), to...)
	gauge("weir_export_spool_bytes", "Octets of its spool.", float64(s.SpoolOctets), to...)
	for _, l := range s.Lost {
		counter("weir_export_lost_records_total", "Flow records that did not go out, by reason.", l.Records, "destination", s.Destination, "reason", l.Reason)
	}
}
