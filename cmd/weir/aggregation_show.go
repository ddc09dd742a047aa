package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"weir/aggregate"
	"weir/flow"
	"weir/rows"
)

// aggregated answers with what is in one cache now.
func (n *node) aggregated(w http.ResponseWriter, r *http.Request) {
	a, err := n.aggregations().find(r.PathValue("cache"))
	if err != nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
		return
	}
	if r.FormValue("format") == formatCisco {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		ciscoAggregation(w, a, time.Now())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	list := []json.RawMessage{}
	for _, f := range a.cache.Entries() {
		f.Elements = nil
		b := f.AppendJSON(nil)
		list = append(list, fmt.Appendf(b[:len(b)-1], `,"flows":%d}`, f.Flows))
	}
	if err := json.NewEncoder(w).Encode(map[string]any{"aggregates": list}); err != nil {
		n.log.Debug("control answer", "error", err)
	}
}

// aggregatesView is the view of one cache: what its scheme keeps.
func aggregatesView(s aggregate.Scheme) view {
	v := view{path: "/control/aggregation/" + s.String(), list: "aggregates"}
	for _, c := range []struct {
		name string
		has  flow.Field
	}{
		{"input", flow.HasInput},
		{"src", flow.HasSrc},
		{"src_mask", flow.HasSrcMask},
		{"src_as", flow.HasSrcAS},
		{"output", flow.HasOutput},
		{"dst", flow.HasDst},
		{"dst_mask", flow.HasDstMask},
		{"dst_as", flow.HasDstAS},
		{"proto", flow.HasProto},
		{"sport", flow.HasSrcPort},
		{"dport", flow.HasDstPort},
		{"tos", flow.HasTOS},
	} {
		if s.Fields()&c.has != 0 {
			v.columns = append(v.columns, c.name)
		}
	}
	v.columns = append(v.columns, "flows", "packets", "bytes", "first", "last")
	v.drop = []string{"first", "last"}
	return v
}

// showAggregation prints the caches, or what is in the one that is named.
func (c *showCmd) showAggregation(a *app, client *http.Client, format rows.Format) error {
	if len(c.Filter) == 0 {
		return c.show(a, client, views[c.What], format)
	}
	s, err := aggregate.ParseScheme(c.Filter[0])
	if err != nil {
		return usageError{err}
	}
	v := aggregatesView(s)
	if !c.Cisco {
		return c.show(a, client, v, format)
	}
	r, err := client.Get("http://localhost" + v.path + "?format=" + formatCisco)
	if err != nil {
		return unwrapped(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return refusal(r)
	}
	_, err = io.Copy(a.stdout, r.Body)
	return err
}

// ciscoAggregation is `show ip cache flow aggregation SCHEME`.
func ciscoAggregation(w io.Writer, a *aggregation, now time.Time) {
	s := a.cache.Stats()
	fmt.Fprintf(w, "IP Flow Switching Cache, %d entries\n", s.Capacity)
	fmt.Fprintf(w, "  %d active, %d inactive, %d added\n", s.Entries, s.Capacity-s.Entries, s.Created)
	fmt.Fprintf(w, "  %d flows aged early for want of entries\n", s.Expired[flow.EndResource])
	fmt.Fprintf(w, "  Active flows timeout %s\n", ciscoTimeout(a.conf.Active.Seconds(), true))
	fmt.Fprintf(w, "  Inactive flows timeout %s\n", ciscoTimeout(a.conf.Idle.Seconds(), false))
	if m := a.conf.Mask; s.Scheme.Fields()&flow.HasSrcMask != 0 {
		fmt.Fprintf(w, "  Minimum source mask is configured to /%d\n", m.Source)
	}
	if m := a.conf.Mask; s.Scheme.Fields()&flow.HasDstMask != 0 {
		fmt.Fprintf(w, "  Minimum destination mask is configured to /%d\n", m.Destination)
	}
	fmt.Fprintln(w)
	columns := ciscoAggregationColumns(s.Scheme)
	line := ""
	for _, c := range columns {
		line += fmt.Sprintf("%-*s ", c.width, c.head)
	}
	fmt.Fprintln(w, line+" Flows   Pkts  B/Pk  Active")
	names := interfaceNameTable()
	for _, r := range a.cache.Entries() {
		line := ""
		for _, c := range columns {
			line += fmt.Sprintf("%-*s ", c.width, c.text(&r, names))
		}
		perPacket := uint64(0)
		if r.Packets > 0 {
			perPacket = r.Bytes / r.Packets
		}
		fmt.Fprintf(w, "%s%6d %6d %5d %7.1f\n", line, r.Flows, r.Packets, perPacket, time.Duration(max(r.Last-r.First, 0)).Seconds())
	}
}

type ciscoColumn struct {
	head  string
	width int
	has   flow.Field
	text  func(r *flow.Record, names map[uint32]string) string
}

// ciscoAggregationColumns are IOS's words for what a scheme keeps. What is not known is a
// dash.
func ciscoAggregationColumns(s aggregate.Scheme) (list []ciscoColumn) {
	known := func(has flow.Field, text func(r *flow.Record, names map[uint32]string) string) func(*flow.Record, map[uint32]string) string {
		return func(r *flow.Record, names map[uint32]string) string {
			if r.Has&has == 0 {
				return "-"
			}
			return text(r, names)
		}
	}
	name := func(index uint32, names map[uint32]string) string {
		if n := names[index]; n != "" {
			return n
		}
		return strconv.Itoa(int(index))
	}
	for _, c := range []ciscoColumn{
		{"Src If", 14, flow.HasInput, func(r *flow.Record, names map[uint32]string) string { return name(r.Input, names) }},
		{"Src Prefix", 16, flow.HasSrc, func(r *flow.Record, _ map[uint32]string) string { return r.Src.String() }},
		{"Msk", 4, flow.HasSrcMask, func(r *flow.Record, _ map[uint32]string) string { return "/" + strconv.Itoa(int(r.SrcMask)) }},
		{"Src AS", 7, flow.HasSrcAS, func(r *flow.Record, _ map[uint32]string) string { return strconv.Itoa(int(r.SrcAS)) }},
		{"Dst If", 14, flow.HasOutput, func(r *flow.Record, names map[uint32]string) string { return name(r.Output, names) }},
		{"Dst Prefix", 16, flow.HasDst, func(r *flow.Record, _ map[uint32]string) string { return r.Dst.String() }},
		{"Msk", 4, flow.HasDstMask, func(r *flow.Record, _ map[uint32]string) string { return "/" + strconv.Itoa(int(r.DstMask)) }},
		{"Dst AS", 7, flow.HasDstAS, func(r *flow.Record, _ map[uint32]string) string { return strconv.Itoa(int(r.DstAS)) }},
		{"Protocol", 8, flow.HasProto, func(r *flow.Record, _ map[uint32]string) string { return fmt.Sprintf("0x%02X", r.Proto) }},
		{"Source Port", 11, flow.HasSrcPort, func(r *flow.Record, _ map[uint32]string) string { return fmt.Sprintf("0x%04X", r.SrcPort) }},
		{"Dest Port", 9, flow.HasDstPort, func(r *flow.Record, _ map[uint32]string) string { return fmt.Sprintf("0x%04X", r.DstPort) }},
		{"TOS", 3, flow.HasTOS, func(r *flow.Record, _ map[uint32]string) string { return fmt.Sprintf("%02X", r.TOS) }},
	} {
		if s.Fields()&c.has != 0 {
			c.text = known(c.has, c.text)
			list = append(list, c)
		}
	}
	return list
}
