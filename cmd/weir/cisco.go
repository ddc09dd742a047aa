package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/bits"
	"net/http"
	"strings"
	"time"

	"weir/console"
	"weir/flow"
	"weir/query"
	"weir/rows"
)

// IOS's layouts, for eyes and scripts that know them: `show ip cache flow` and
// its verbose form, `show ip flow top-talkers`. What IOS shows and is not known
// here is a dash, never a zero.

// ciscoFlows answers with `show ip cache [verbose] flow`.
func (d *desk) ciscoFlows(ctx context.Context, m metering, q flowQuestion, out *answer) error {
	w := bufio.NewWriterSize(out, 64<<10)
	memory := query.NewMemory(walkOf(m))
	active, err := countFlows(ctx, memory)
	if err != nil {
		return err
	}
	since, t := d.node.tally.read()
	c := d.node.cache()
	c.Entries = active // of now, as the flows below
	ciscoCache(w, c, t, since, time.Now())
	lines := &ciscoLines{w: w, names: interfaceNameTable(), verbose: q.format == formatVerbose}
	lines.head()
	var given, matched uint64
	if q.limit > 0 || q.order != "" {
		if q.order == "" {
			q.order = "bytes"
		}
		list, total, err := d.first(ctx, memory, q)
		if err != nil {
			return err
		}
		matched = total.Flows
		lines.both(list)
		given = lines.given
	} else {
		total, err := memory.Stream(ctx, q.filter, lines)
		if err != nil {
			return err
		}
		matched = total.Flows
		if lines.six > 0 { // IOS has a command of its own for these
			lines.headSix()
			if _, err := memory.Stream(ctx, q.filter, lines); err != nil {
				return err
			}
		}
		given = matched
	}
	if err := w.Flush(); err != nil {
		return err
	}
	out.told(matched, given)
	return nil
}

// countFlows counts the flows that are in the cache.
func countFlows(ctx context.Context, m *query.Memory) (uint64, error) {
	t, err := m.Stream(ctx, everything, flow.SinkFunc(func([]flow.Record) error { return nil }))
	return t.Flows, err
}

var everything, _ = query.Parse("")

// ciscoCache prints what stands before the flows.
func ciscoCache(w io.Writer, c console.Cache, t tallied, since, now time.Time) {
	fmt.Fprintf(w, "IP packet size distribution (%d total packets):\n", t.packets)
	shares := permille(t.sizes[:])
	for _, part := range [][2]int{{0, 15}, {15, len(sizeBins)}} {
		head, line := "  ", "  "
		for i := part[0]; i < part[1]; i++ {
			name := fmt.Sprint(sizeBins[i])
			if i == 0 {
				name = "1-32"
			}
			head += fmt.Sprintf(" %4s", name)
			if shares[i] == 1000 {
				line += " 1.00"
			} else {
				line += fmt.Sprintf(" .%03d", shares[i])
			}
		}
		fmt.Fprintf(w, "%s\n%s\n\n", head, line)
	}
	fmt.Fprintf(w, "IP Flow Switching Cache, %d bytes\n", c.Memory)
	// IOS's flow is over when the active timeout reports it, and added again by
	// its next packet: added - active is the total of the table below.
	fmt.Fprintf(w, "  %d active, %d inactive, %d added\n", c.Entries, c.Capacity-min(c.Entries, c.Capacity), t.records+c.Entries)
	fmt.Fprintf(w, "  %d ager polls, %d flow alloc failures\n", c.Sweeps, c.Refused)
	fmt.Fprintf(w, "  Active flows timeout %s\n", ciscoTimeout(c.ActiveSeconds, true))
	fmt.Fprintf(w, "  Inactive flows timeout %s\n", ciscoTimeout(c.IdleSeconds, false))
	fmt.Fprintf(w, "  last clearing of statistics never\n")
	ciscoProtocols(w, t, now.Sub(since).Seconds())
}

// permille gives shares of a sum in thousandths that sum to 1000, or are all 0:
// what rounding down leaves goes to those that lost the most by it.
func permille(counts []uint64) []int {
	shares := make([]int, len(counts))
	rest := make([]uint64, len(counts))
	var sum uint64
	for _, n := range counts {
		sum += n
	}
	if sum == 0 {
		return shares
	}
	left := 1000
	for i, n := range counts {
		hi, lo := bits.Mul64(n, 1000)
		q, r := bits.Div64(hi, lo, sum)
		shares[i], rest[i] = int(q), r
		left -= int(q)
	}
	for ; left > 0; left-- {
		most := 0
		for i := range rest {
			if rest[i] > rest[most] {
				most = i
			}
		}
		shares[most]++
		rest[most] = 0
	}
	return shares
}

func ciscoTimeout(seconds float64, minutes bool) string {
	switch {
	case seconds == 0:
		return "never"
	case minutes && seconds == float64(int(seconds/60)*60):
		return fmt.Sprintf("in %d minutes", int(seconds/60))
	}
	return fmt.Sprintf("in %v seconds", seconds)
}

// ciscoProtocols prints the table of expired flows.
func ciscoProtocols(w io.Writer, t tallied, seconds float64) {
	fmt.Fprint(w, "Protocol         Total    Flows   Packets Bytes  Packets Active(Sec) Idle(Sec)\n"+
		"--------         Flows     /Sec     /Flow  /Pkt     /Sec     /Flow     /Flow\n")
	var all serviceCount
	line := func(name string, c *serviceCount) {
		per := func(a, b float64) float64 {
			if b <= 0 {
				return 0
			}
			return a / b
		}
		flows, packets := float64(c.records), float64(c.packets)
		fmt.Fprintf(w, "%-10s %11d %8.1f %9.0f %5.0f %8.1f %9.1f %9.1f\n", name, c.records,
			per(flows, seconds), per(packets, flows), per(float64(c.bytes), packets), per(packets, seconds),
			per(c.active.Seconds(), flows), per(c.idle.Seconds(), flows))
	}
	for s := range t.protocols {
		c := &t.protocols[s]
		if c.records == 0 {
			continue
		}
		line(serviceNames[s], c)
		all.records += c.records
		all.packets += c.packets
		all.bytes += c.bytes
		all.active += c.active
		all.idle += c.idle
	}
	line("Total:", &all)
	fmt.Fprintln(w)
}

// ciscoLines prints flows: those of IPv4, then, after headSix, those of IPv6.
type ciscoLines struct {
	w       *bufio.Writer
	names   map[uint32]string
	verbose bool
	sixes   bool   // print those of IPv6
	bytes   bool   // the last column, of top-talkers
	six     uint64 // that were passed over
	given   uint64
}

func (l *ciscoLines) head() {
	if l.verbose {
		io.WriteString(l.w, "SrcIf          SrcIPaddress    DstIf          DstIPaddress    Pr TOS Flgs  Pkts\n"+
			"Port Msk AS                    Port Msk AS    NextHop              B/Pk  Active\n")
		return
	}
	last := " Pkts"
	if l.bytes {
		last = "Bytes"
	}
	io.WriteString(l.w, "SrcIf         SrcIPaddress    DstIf         DstIPaddress    Pr SrcP DstP "+last+"\n")
}

// headSix goes on with the flows of IPv6, as `show ipv6 flow cache` has them.
func (l *ciscoLines) headSix() {
	l.sixes = true
	last := "Packets"
	if l.bytes {
		last = "Bytes"
	}
	fmt.Fprintf(l.w, "\n%-39s %-13s %-39s %-13s Prot SrcPrt DstPrt %s\n", "SrcAddress", "InpIf", "DstAddress", "OutIf", last)
}

// both prints a list, those of IPv6 after those of IPv4.
func (l *ciscoLines) both(list []flow.Record) {
	l.WriteRecords(list)
	if l.six > 0 {
		l.headSix()
		l.WriteRecords(list)
	}
}

func (l *ciscoLines) WriteRecords(batch []flow.Record) error {
	for i := range batch {
		r := &batch[i]
		if six := r.IPVersion == 6; six != l.sixes {
			if six {
				l.six++
			}
			continue
		}
		l.given++
		switch {
		case l.sixes:
			fmt.Fprintf(l.w, "%-39s %-13s %-39s %-13s 0x%02X 0x%04X 0x%04X %s\n", l.addr(r, flow.ColSrc), l.in(r), l.addr(r, flow.ColDst), l.out(r), r.Proto, r.SrcPort, r.DstPort, l.count(r))
		case l.verbose:
			l.two(r)
		default:
			fmt.Fprintf(l.w, "%-13s %-15s %-13s %-15s %02X %04X %04X %5s\n", l.in(r), l.addr(r, flow.ColSrc), l.out(r), l.addr(r, flow.ColDst), r.Proto, r.SrcPort, r.DstPort, l.count(r))
		}
	}
	_, err := l.w.Write(nil) // its first error, if there was one
	return err
}

// two prints a flow in two lines.
func (l *ciscoLines) two(r *flow.Record) {
	column := func(c flow.Column) string {
		if !r.Known(c) {
			return "-"
		}
		return string(r.AppendColumn(nil, c))
	}
	perPacket := uint64(0)
	if r.Packets > 0 {
		perPacket = r.Bytes / r.Packets
	}
	fmt.Fprintf(l.w, "%-14s %-15s %-14s %-15s %02X %02X  %02X %7s\n", l.in(r), l.addr(r, flow.ColSrc), l.out(r), l.addr(r, flow.ColDst), r.Proto, r.TOS, r.TCPFlags, l.count(r))
	fmt.Fprintf(l.w, "%04X /%-2s %-21s %04X /%-2s %-5s %-15s %9d %7.1f\n", r.SrcPort, column(flow.ColSrcMask), column(flow.ColSrcAS),
		r.DstPort, column(flow.ColDstMask), column(flow.ColDstAS), column(flow.ColNextHop), perPacket, float64(max(r.Last-r.First, 0))/1e9)
}

func (l *ciscoLines) addr(r *flow.Record, c flow.Column) string {
	if !r.Known(c) {
		return "-" // an overflow aggregate's
	}
	return string(r.AppendColumn(nil, c))
}

func (l *ciscoLines) in(r *flow.Record) string {
	if r.Has&flow.HasInput == 0 {
		return "-"
	}
	return l.name(r.Input)
}

// out is the output interface; IOS marks with * what was counted there.
func (l *ciscoLines) out(r *flow.Record) string {
	switch {
	case r.Has&flow.HasOutput == 0:
		return "-"
	case r.Has&flow.HasDirection != 0 && r.Direction == 1:
		return l.name(r.Output) + "*"
	}
	return l.name(r.Output)
}

func (l *ciscoLines) name(index uint32) string {
	if name := l.names[index]; name != "" {
		return name
	}
	return fmt.Sprint("if", index)
}

func (l *ciscoLines) count(r *flow.Record) string {
	n := r.Packets
	if l.bytes {
		n = r.Bytes
	}
	return ciscoNumber(n)
}

// ciscoNumber takes five columns: thousands as K, millions as M, and so on.
func ciscoNumber(n uint64) string {
	if n < 100_000 {
		return fmt.Sprint(n)
	}
	for _, unit := range []string{"K", "M", "G", "T", "P"} {
		if n /= 1000; n < 10_000 {
			return fmt.Sprint(n, unit)
		}
	}
	return fmt.Sprint(n, "P")
}

// ciscoTop answers with `show ip flow top-talkers`.
func (d *desk) ciscoTop(ctx context.Context, memory *query.Memory, q flowQuestion, list []flow.Record, total query.Total, out *answer) error {
	w := bufio.NewWriter(out)
	lines := &ciscoLines{w: w, names: interfaceNameTable(), bytes: !strings.HasPrefix(q.order, "packets")}
	lines.head()
	lines.both(list)
	if q.filter.All() {
		fmt.Fprintf(w, "%d of %d top talkers shown. %d flows processed.\n", len(list), q.limit, total.Flows)
	} else {
		processed, err := countFlows(ctx, memory)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%d of %d top talkers shown. %d of %d flows matched.\n", len(list), q.limit, total.Flows, max(total.Flows, processed))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	out.told(total.Flows, uint64(len(list)))
	return nil
}

// ciscoNames are IOS's headings of `show ip flow top N aggregate FIELD`.
var ciscoNames = map[string]string{
	"src": "IPV4 SRC-ADDR", "dst": "IPV4 DST-ADDR", "ip": "IP ADDR", "sport": "SRC PORT", "dport": "DST PORT", "port": "PORT", "proto": "IP PROT",
	"tos": "IP TOS", "src_as": "SRC AS", "dst_as": "DST AS", "as": "AS", "input": "INPUT IF", "output": "OUTPUT IF", "if": "INTERFACE",
	"next_hop": "NEXT-HOP", "bgp_next_hop": "BGP NEXT-HOP", "src_mask": "SRC MASK", "dst_mask": "DST MASK", "vlan": "VLAN", "icmp_type": "ICMP TYPE", "icmp_code": "ICMP CODE",
}

// ciscoGroups prints sums as `show ip flow top N aggregate FIELD` does.
func ciscoGroups(out *answer, res *query.Result) error {
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, "There are %d top talkers:\n", len(res.Rows))
	names := map[uint32]string{}
	keys := len(res.Columns) - 8 // flows, packets, bytes and the rest follow
	widths := make([]int, keys)
	text := func(i int, v any) string {
		switch name := res.Columns[i]; {
		case v == nil:
			return "-"
		case name == "input" || name == "output" || name == "if":
			if len(names) == 0 {
				names = interfaceNameTable()
			}
			if n, ok := v.(uint64); ok && names[uint32(n)] != "" {
				return names[uint32(n)]
			}
		}
		return fmt.Sprint(v)
	}
	heading := func(i int) string {
		if name, ok := ciscoNames[res.Columns[i]]; ok {
			return name
		}
		return strings.ToUpper(strings.ReplaceAll(res.Columns[i], "_", " "))
	}
	for i := range keys {
		widths[i] = len(heading(i))
		if res.Columns[i] == "src" || res.Columns[i] == "dst" || res.Columns[i] == "ip" {
			widths[i] = 15
		}
		for _, row := range res.Rows {
			widths[i] = max(widths[i], len(text(i, row[i])))
		}
	}
	for i := range keys {
		fmt.Fprintf(w, "%-*s  ", widths[i], heading(i))
	}
	fmt.Fprintf(w, "%10s  %10s  %10s\n", "bytes", "pkts", "flows")
	for i := range keys {
		fmt.Fprintf(w, "%s  ", strings.Repeat("=", widths[i]))
	}
	fmt.Fprintf(w, "==========  ==========  ==========\n")
	for _, row := range res.Rows {
		for i := range keys {
			fmt.Fprintf(w, "%-*s  ", widths[i], text(i, row[i]))
		}
		sums := row[keys:] // flows, packets, bytes
		for i, v := range []any{sums[2], sums[1], sums[0]} {
			if v == nil {
				v = "-"
			}
			if i > 0 {
				w.WriteString("  ")
			}
			fmt.Fprintf(w, "%10v", v)
		}
		w.WriteByte('\n')
	}
	if err := w.Flush(); err != nil {
		return err
	}
	out.told(res.Total.Flows, uint64(len(res.Rows)))
	return nil
}

// cisco prints what needs no flows as IOS does: show ip flow interface, show ip
// flow export.
func (c *showCmd) cisco(a *app, client *http.Client) error {
	v := views[c.What]
	list, err := fetch(client, v)
	if err != nil {
		return err
	}
	var b strings.Builder
	switch c.What {
	case "access-lists":
		return ciscoLists(a.stdout, list)
	case "interfaces":
		for _, i := range list {
			if i["mode"] != nil { // both directions, whatever the hook
				fmt.Fprintf(&b, "%s\n  ip flow ingress\n  ip flow egress\n", rows.Plain(fmt.Sprint(i["name"])))
			}
		}
	case "export":
		for n, d := range list {
			fmt.Fprintf(&b, "Flow export v%v is enabled for main cache\n  Export source and destination details :\n", d["version"])
			fmt.Fprintf(&b, "    Destination(%d)  %s\n  Version %v flow records\n", n+1, rows.Plain(fmt.Sprint(d["address"])), d["version"])
			fmt.Fprintf(&b, "  %v flows exported in %v udp datagrams\n  %v flows failed due to lack of export packet\n", d["records"], d["datagrams"], d["failed"])
		}
	}
	_, err = io.WriteString(a.stdout, b.String())
	return err
}
