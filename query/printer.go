package query

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/flow"
)

// IsLayout says whether -o NAME is one of nfdump's that NewPrinter knows: line,
// long, extended, fmt:…, csv:…, nfdump-csv, nfdump-json.
func IsLayout(name string) bool {
	return presets[name] != "" || strings.HasPrefix(name, "fmt:") || strings.HasPrefix(name, "csv:") ||
		name == "nfdump-csv" || name == "nfdump-json"
}

// Printer writes answers as nfdump prints them, with nfdump's names, columns
// and widths; times are UTC. What weir does not store, or does not know, prints
// as nfdump prints it: 0. Errors of the writer come back from Close.
type Printer struct {
	w    *bufio.Writer
	kind printerKind
	// of text and csv:
	pieces []piece
	begun  bool

	Plain bool // -N: numbers in full, not with M, G and T
	Quiet bool // -q: no headings, no summary
}

type printerKind uint8

const (
	printText printerKind = iota
	printCSV              // csv:…
	printNfdumpCSV
	printNfdumpJSON
)

// NewPrinter prints to w in the layout.
func NewPrinter(w io.Writer, layout string) (*Printer, error) {
	p := &Printer{w: bufio.NewWriter(w)}
	text := ""
	switch {
	case layout == "nfdump-csv":
		p.kind = printNfdumpCSV
		return p, nil
	case layout == "nfdump-json":
		p.kind = printNfdumpJSON
		return p, nil
	case presets[layout] != "":
		text = presets[layout]
	case strings.HasPrefix(layout, "fmt:"):
		text = layout[4:]
	case strings.HasPrefix(layout, "csv:"):
		p.kind = printCSV
		text = layout[4:]
	default:
		return nil, fmt.Errorf("unknown layout %q; expected line, long, extended, fmt:…, csv:…, nfdump-csv or nfdump-json", layout)
	}
	var err error
	p.pieces, err = parseLayout(text)
	if err == nil && len(p.pieces) == 0 {
		err = fmt.Errorf("layout %q: an empty format", layout)
	}
	return p, err
}

// WriteRecords prints records: a Printer is a flow.Sink for Engine.Flows.
func (p *Printer) WriteRecords(batch []flow.Record) error {
	for i := range batch {
		if err := p.record(&printed{Record: batch[i], flows: 1, plain: p.Plain, csv: p.kind == printCSV}); err != nil {
			return err
		}
	}
	return nil
}

func (p *Printer) record(r *printed) error {
	if !p.begun {
		p.begun = true
		p.heading()
	} else if p.kind == printNfdumpJSON {
		p.w.WriteString(",\n")
	}
	switch p.kind {
	case printNfdumpCSV:
		p.w.WriteString(strings.Join(longCSV(r), ","))
	case printNfdumpJSON:
		p.json(recordJSON(r))
		return nil
	default:
		for _, piece := range p.pieces {
			if piece.name != "" {
				p.w.WriteString(piece.tag.value(r))
			} else {
				p.w.WriteString(piece.text)
			}
		}
	}
	return p.w.WriteByte('\n')
}

// heading of records.
func (p *Printer) heading() {
	if p.kind == printNfdumpJSON {
		p.w.WriteString("[\n")
	}
	if p.Quiet {
		return
	}
	switch p.kind {
	case printNfdumpCSV:
		p.w.WriteString(longCSVHeading + "\n")
	case printCSV:
		for _, piece := range p.pieces {
			p.w.WriteString(piece.name + piece.text)
		}
		p.w.WriteByte('\n')
	case printText:
		for _, piece := range p.pieces {
			if piece.name != "" {
				p.w.WriteString(piece.tag.heading)
			} else {
				p.w.WriteString(strings.Repeat(" ", len(piece.text)))
			}
		}
		p.w.WriteByte('\n')
	}
}

// WriteResult prints the answer to r: a statistic, or an aggregation.
func (p *Printer) WriteResult(r Request, res *Result) error {
	plan, err := newPlan(r, false)
	if err != nil {
		return err
	}
	if plan.bin > 0 {
		return fmt.Errorf("query: nfdump has no layout for a series; use csv or json")
	}
	if plan.stat && len(plan.keys)-b2i(plan.proto) == 1 {
		return p.stat(r, plan, res)
	}
	if plan.stat && !p.Quiet && p.kind == printText {
		fmt.Fprintf(p.w, "Top %sflows ordered by %s:\n", topCount(plan.limit), plan.order.name)
	}
	if !plan.stat && p.kind == printText {
		if err := p.aggregateLayout(plan.keys); err != nil {
			return err
		}
	}
	for _, row := range res.Rows {
		if err := p.record(p.group(plan, row)); err != nil {
			return err
		}
	}
	if !p.begun {
		p.begun = true
		p.heading()
	}
	return nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func topCount(limit int) string {
	if limit < 0 {
		return ""
	}
	return strconv.Itoa(limit) + " "
}

// tagOfKey is the tag that prints a key.
var tagOfKey = map[string]string{
	"src": "sa", "dst": "da", "sport": "sp", "dport": "dp", "proto": "pr", "src_as": "sas", "dst_as": "das", "input": "in",
	"output": "out", "src_mask": "smk", "dst_mask": "dmk", "vlan": "svln", "tos": "tos", "tcp_flags": "flg", "next_hop": "nh",
	"bgp_next_hop": "nhb", "exporter": "ra", "domain": "odid", "direction": "dir", "forwarding_status": "fwd",
	"end_reason": "end", "icmp_type": "it", "icmp_code": "ic",
}

// aggregateLayout is what nfdump makes of -A: the keys between the times and the sums.
func (p *Printer) aggregateLayout(keys []key) error {
	text := "%ts %td "
	for _, k := range keys {
		t := tagOfKey[k.name]
		if t == "" {
			return fmt.Errorf("query: nfdump has no column for %s; use csv or json", k.name)
		}
		if k.ownMask {
			t = map[string]string{"sa": "sn", "da": "dn"}[t]
		}
		text += " %" + t
	}
	var err error
	p.pieces, err = parseLayout(text + "  %pkt %byt %bps %bpp %fl")
	return err
}

// group makes a row of an aggregation a record that knows its keys.
func (p *Printer) group(plan *plan, row []any) *printed {
	out := &printed{plain: p.Plain, csv: p.kind == printCSV}
	r := &out.Record
	for i, k := range plan.keys {
		setKey(r, &k, row[i])
	}
	row = row[len(plan.keys):]
	out.flows, _ = row[0].(uint64)
	if n, ok := row[1].(uint64); ok {
		r.Packets, r.Has = n, r.Has|flow.HasPackets
	}
	if n, ok := row[2].(uint64); ok {
		r.Bytes, r.Has = n, r.Has|flow.HasBytes
	}
	if t, ok := row[6].(time.Time); ok {
		r.First, r.Has = t.UnixNano(), r.Has|flow.HasFirst
	}
	if t, ok := row[7].(time.Time); ok {
		r.Last, r.Has = t.UnixNano(), r.Has|flow.HasLast
	}
	return out
}

// setKey enters the value of a key into r.
func setKey(r *flow.Record, k *key, value any) {
	if value == nil {
		return
	}
	c := k.cols[0]
	r.Has |= columnBits[c]
	n, _ := value.(uint64)
	var a flow.Addr
	if s, ok := value.(string); ok {
		text, bits, slash := strings.Cut(s, "/")
		if ip, err := netip.ParseAddr(text); err == nil {
			a = flow.AddrFrom(ip)
		}
		if m, err := strconv.ParseUint(bits, 10, 8); slash && err == nil && k.ownMask {
			if c == colSrc {
				r.SrcMask, r.Has = uint8(m), r.Has|flow.HasSrcMask
			} else {
				r.DstMask, r.Has = uint8(m), r.Has|flow.HasDstMask
			}
		}
	}
	switch c {
	case colSrc:
		r.Src = a
	case colDst:
		r.Dst = a
	case colNextHop:
		r.NextHop = a
	case colBGPNextHop:
		r.BGPNextHop = a
	case colExporter:
		r.Exporter = a
	case colProto:
		r.Proto = uint8(n)
	case colSrcPort:
		r.SrcPort = uint16(n)
	case colDstPort:
		r.DstPort = uint16(n)
	case colSrcAS:
		r.SrcAS = uint32(n)
	case colDstAS:
		r.DstAS = uint32(n)
	case colInput:
		r.Input = uint32(n)
	case colOutput:
		r.Output = uint32(n)
	case colSrcMask:
		r.SrcMask = uint8(n)
	case colDstMask:
		r.DstMask = uint8(n)
	case colVLAN:
		r.VLAN = uint16(n)
	case colTOS:
		r.TOS = uint8(n)
	case colTCPFlags:
		r.TCPFlags = uint16(n)
	case colDomain:
		r.Domain = uint32(n)
	case colDirection:
		r.Direction = uint8(n)
	case colForwardingStatus:
		r.ForwardingStatus = uint8(n)
	case colEndReason:
		r.EndReason = flow.EndReason(n)
	case colICMPType:
		r.ICMPType = uint8(n)
	case colICMPCode:
		r.ICMPCode = uint8(n)
	}
}

// stat prints a statistic over one element.
func (p *Printer) stat(r Request, plan *plan, res *Result) error {
	const csvHeading = "ts,te,td,pr,val,fl,flP,pkt,pktP,byt,bytP,pps,bps,bpp"
	k := plan.keys[0]
	percent := func(a any, of uint64) float64 {
		n, _ := a.(uint64)
		if of == 0 {
			return 0
		}
		return 100 * float64(n) / float64(of)
	}
	p.begun = true
	switch {
	case p.kind == printNfdumpJSON:
		p.w.WriteString("[\n")
	case p.kind != printText:
		if !p.Quiet {
			p.w.WriteString(csvHeading + "\n")
		}
	case !p.Quiet:
		fmt.Fprintf(p.w, "Top %s%s ordered by %s:\n", topCount(plan.limit), k.title, plan.order.name)
		fmt.Fprintf(p.w, "Date first seen                 Duration Proto %17s    Flows(%%)     Packets(%%)       Bytes(%%)         pps      bps   bpp\n", k.title)
	}
	for i, row := range res.Rows {
		g := p.group(plan, row)
		sums := row[len(plan.keys):]
		proto := "any"
		switch {
		case plan.proto:
			n, _ := row[1].(uint64)
			proto = protoName(uint8(n))
		case k.name == "proto":
			proto = protoName(g.Proto)
		}
		value := ""
		switch v := row[0].(type) {
		case nil:
			value = "unknown"
		case string:
			value = v
			if ip, err := netip.ParseAddr(v); err == nil && p.kind == printText {
				if s := ip.String(); len(s) > 16 {
					value = s[:7] + ".." + s[len(s)-7:]
				}
			}
		case uint64:
			value = strconv.FormatUint(v, 10)
			if k.name == "domain" {
				value = fmt.Sprintf("0x%x", v)
			}
		}
		flP, pktP, bytP := percent(sums[0], res.Total.Flows), percent(sums[1], res.Total.Packets), percent(sums[2], res.Total.Bytes)
		pps, bps, bpp := perSecond(g.Packets, 1, g.ms()), perSecond(g.Bytes, 8, g.ms()), ratio(g.Bytes, g.Packets)
		switch p.kind {
		case printText:
			fmt.Fprintf(p.w, "%s %16s %-5s %17s %s(%4.1f) %s(%4.1f) %s(%4.1f) %s %s %5d\n", nfdumpTime(nfTime, g.First), clockTime(g.duration()), proto, value,
				g.scaled(8, g.flows), flP, g.scaled(8, g.Packets), pktP, g.scaled(8, g.Bytes), bytP, g.scaled(8, pps), g.scaled(8, bps), bpp)
		case printNfdumpJSON:
			if i > 0 {
				p.w.WriteString(",\n")
			}
			p.json([]member{
				{"first", jsonTime(g.First)},
				{"last", jsonTime(g.Last)},
				{"proto", proto},
				{"val", value},
				{"aggr_flows", g.flows},
				{"in_packets", g.Packets},
				{"in_bytes", g.Bytes},
				{"pps", pps},
				{"bps", bps},
				{"bpp", bpp},
			})
		default:
			fmt.Fprintf(p.w, "%s,%s,%.3f,%s,%s,%d,%.1f,%d,%.1f,%d,%.1f,%d,%d,%d\n", nfdumpTime(nfSecond, g.First), nfdumpTime(nfSecond, g.Last),
				g.duration().Seconds(), proto, value, g.flows, flP, g.Packets, pktP, g.Bytes, bytP, pps, bps, bpp)
		}
	}
	if p.kind != printNfdumpJSON {
		p.w.WriteByte('\n')
	}
	return nil
}

// Close prints the summary over t and ends the output.
func (p *Printer) Close(t Total) error {
	if p.kind == printNfdumpJSON {
		if !p.begun {
			p.w.WriteString("[\n")
		}
		p.w.WriteString("]\n")
		return p.w.Flush()
	}
	if !p.begun {
		p.heading()
	}
	if p.Quiet {
		return p.w.Flush()
	}
	ms := uint64(0)
	if t.First != 0 && t.Last != 0 {
		ms = durationMs(t.First, t.Last)
	}
	bps, pps, bpp := perSecond(t.Bytes, 8, ms), perSecond(t.Packets, 1, ms), ratio(t.Bytes, t.Packets)
	if p.kind != printText {
		fmt.Fprintf(p.w, "Summary\nflows,bytes,packets,avg_bps,avg_pps,avg_bpp\n%d,%d,%d,%d,%d,%d\n", t.Flows, t.Bytes, t.Packets, bps, pps, bpp)
		return p.w.Flush()
	}
	s := scaleNumber
	if p.Plain {
		s = func(n uint64) string { return strconv.FormatUint(n, 10) }
	}
	fmt.Fprintf(p.w, "Summary: total flows: %d, total bytes: %s, total packets: %s, avg bps: %s, avg pps: %s, avg bpp: %s\n",
		t.Flows, s(t.Bytes), s(t.Packets), s(bps), s(pps), s(bpp))
	if t.First != 0 || t.Last != 0 {
		fmt.Fprintf(p.w, "Time window: %s - %s\n", nfdumpTime(nfSecond, t.First), nfdumpTime(nfSecond, t.Last))
	}
	fmt.Fprintf(p.w, "Total flows passed: %d\n", t.Flows)
	return p.w.Flush()
}

// longCSVHeading is that of nfdump's csv for records (1.7).
const longCSVHeading = "ts,te,td,sa,da,sp,dp,pr,flg,fwd,stos,ipkt,ibyt,opkt,obyt,in,out,sas,das,smk,dmk,dtos,dir,nh,nhb,svln,dvln," +
	"ismc,odmc,idmc,osmc,mpls1,mpls2,mpls3,mpls4,mpls5,mpls6,mpls7,mpls8,mpls9,mpls10,cl,sl,al,ra,eng,exid,tr"

func longCSV(r *printed) []string {
	r.csv = true
	const mac, label, latency = "00:00:00:00:00:00", "0-0-0", "    0.000"
	v := func(name string) string { return tags[name].value(r) }
	out := []string{nfdumpTime(nfSecond, r.First), nfdumpTime(nfSecond, r.Last), v("tds")}
	for _, name := range []string{
		"sa", "da", "sp", "dp", "pr", "flg", "fwd", "stos", "ipkt", "ibyt", "opkt", "obyt", "in", "out",
		"sas", "das", "smk", "dmk", "dtos",
	} {
		out = append(out, v(name))
	}
	out = append(out, strconv.Itoa(int(r.Direction)), v("nh"), v("nhb"), v("svln"), v("dvln"), mac, mac, mac, mac)
	out = append(out, slices.Repeat([]string{label}, 10)...)
	return append(out, latency, latency, latency, v("ra"), fmt.Sprintf("%d/%d", r.Domain>>8&0xff, r.Domain&0xff), "0", nfdumpTime(nfTime, r.Received))
}

// member of a JSON object, in nfdump's order.
type member struct {
	name  string
	value any
}

func jsonTime(ns int64) string { return time.Unix(0, ns).UTC().Format("2006-01-02T15:04:05.000") }

// json writes an object as nfdump does, one member a line.
func (p *Printer) json(members []member) {
	p.w.WriteString("{")
	for i, m := range members {
		value, err := json.Marshal(m.value)
		if err != nil {
			value = []byte("null")
		}
		sep := ","
		if i == 0 {
			sep = ""
		}
		fmt.Fprintf(p.w, "%s\n\t%q : %s", sep, m.name, value)
	}
	p.w.WriteString("\n}")
}

// recordJSON gives the members of a record that are known, by nfdump's names.
func recordJSON(r *printed) []member {
	out := []member{{"type", "FLOW"}, {"sampled", b2i(r.Has&flow.HasSampling != 0 && r.Sampling > 1)}}
	add := func(bit flow.Field, name string, value any) {
		if bit == 0 || r.Has&bit == bit {
			out = append(out, member{name, value})
		}
	}
	family := func(a flow.Addr) string {
		if a.Is4() {
			return "4"
		}
		return "6"
	}
	icmp := r.Has&flow.HasICMP != 0 && (r.Proto == flow.ProtoICMP || r.Proto == flow.ProtoICMPv6)
	add(flow.HasFirst, "first", jsonTime(r.First))
	add(flow.HasLast, "last", jsonTime(r.Last))
	add(flow.HasReceived, "received", jsonTime(r.Received))
	add(flow.HasPackets, "in_packets", r.Packets)
	add(flow.HasBytes, "in_bytes", r.Bytes)
	if r.flows != 1 {
		add(0, "aggr_flows", r.flows)
	}
	add(flow.HasProto, "proto", r.Proto)
	if r.Has&flow.HasTCPFlags != 0 && r.Proto == flow.ProtoTCP {
		add(0, "tcp_flags", r.flagLetters())
	}
	if icmp {
		add(0, "icmp_type", r.ICMPType)
		add(0, "icmp_code", r.ICMPCode)
	} else {
		add(flow.HasSrcPort, "src_port", r.SrcPort)
		add(flow.HasDstPort, "dst_port", r.DstPort)
	}
	add(flow.HasTOS, "src_tos", r.TOS)
	add(flow.HasSrc, "src"+family(r.Src)+"_addr", r.Src.String())
	add(flow.HasDst, "dst"+family(r.Dst)+"_addr", r.Dst.String())
	add(flow.HasInput, "input_snmp", r.Input)
	add(flow.HasOutput, "output_snmp", r.Output)
	add(flow.HasSrcMask, "src_mask", r.SrcMask)
	add(flow.HasDstMask, "dst_mask", r.DstMask)
	network := func(a flow.Addr, mask uint8) string { s, _, _ := strings.Cut(r.network(a, mask), "/"); return s }
	add(flow.HasSrcMask|flow.HasSrc, "src_net", network(r.Src, r.SrcMask))
	add(flow.HasDstMask|flow.HasDst, "dst_net", network(r.Dst, r.DstMask))
	add(flow.HasForwardingStatus, "fwd_status", r.ForwardingStatus)
	add(flow.HasDirection, "direction", r.Direction)
	add(flow.HasSrcAS, "src_as", r.SrcAS)
	add(flow.HasDstAS, "dst_as", r.DstAS)
	add(flow.HasVLAN, "src_vlan", r.VLAN)
	add(flow.HasNextHop, "ip"+family(r.NextHop)+"_next_hop", r.NextHop.String())
	add(flow.HasBGPNextHop, "bgp"+family(r.BGPNextHop)+"_next_hop", r.BGPNextHop.String())
	add(flow.HasExporter, "ip"+family(r.Exporter)+"_router", r.Exporter.String())
	add(flow.HasDomain, "observationDomainID", r.Domain)
	return out
}
