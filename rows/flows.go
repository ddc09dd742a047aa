package rows

import (
	"bufio"
	"io"
	"strconv"
	"strings"

	"weir/flow"
)

// Flows prints flow records; it is a flow.Syncer. Table lines come out at once,
// in columns wide enough for what is usual.
type Flows struct {
	w      *bufio.Writer
	format Format
	buf    []byte
	n      uint64
	live   bool
}

var _ flow.Syncer = (*Flows)(nil)

// NewFlows returns a Flows on w. Live output is flushed after each batch.
func NewFlows(w io.Writer, format Format, live bool) *Flows {
	return &Flows{w: bufio.NewWriterSize(w, 256<<10), format: format, live: live}
}

// WriteRecords prints a batch.
func (f *Flows) WriteRecords(batch []flow.Record) error {
	for i := range batch {
		b := f.buf[:0]
		if f.n == 0 {
			b = f.begin(b)
		}
		switch f.format {
		case CSV:
			b = batch[i].AppendCSV(b)
		case JSON:
			if f.n > 0 {
				b = append(b, ",\n"...)
			}
			b = batch[i].AppendJSON(b)
		case NDJSON:
			b = append(batch[i].AppendJSON(b), '\n')
		default:
			b = appendLine(b, &batch[i])
		}
		f.n++
		f.buf = b
		if _, err := f.w.Write(b); err != nil {
			return err
		}
	}
	if f.live {
		return f.w.Flush()
	}
	return nil
}

// Sync hands on what was printed, to the file descriptor if that is what f
// prints to: what comes of this process is no longer its concern. It makes
// Flows a flow.Syncer.
func (f *Flows) Sync() error { return f.w.Flush() }

// Records says how many were printed.
func (f *Flows) Records() uint64 { return f.n }

func (f *Flows) begin(b []byte) []byte {
	switch f.format {
	case CSV:
		b = append(b, strings.Join(flow.ColumnNames(), ",")...)
		b = append(b, '\n')
	case JSON:
		b = append(b, "[\n"...)
	case Table:
		b = append(b, tableHead...)
	}
	return b
}

// Close ends the output, well-formed also when there were no records.
func (f *Flows) Close() error {
	if f.n == 0 {
		f.w.Write(f.begin(nil))
	}
	if f.format == JSON {
		f.w.WriteString("\n]\n")
	}
	return f.w.Flush()
}

const tableHead = "first (UTC)                 duration  proto  source                                            destination                                           packets          bytes  flags     end\n"

// appendLine prints what a person looks at first.
func appendLine(b []byte, r *flow.Record) []byte {
	start := len(b)
	pad := func(to int) {
		for len(b)-start < to {
			b = append(b, ' ')
		}
	}
	right := func(to int, s string) {
		pad(to - len(s))
		b = append(b, s...)
	}
	if r.Has&flow.HasFirst != 0 {
		b = flow.AppendTime(b, r.First)
		b = b[:len(b)-4] // to the millisecond
		b[start+10] = ' '
	} else {
		b = append(b, '-')
	}
	dur := "-"
	if r.Has&(flow.HasFirst|flow.HasLast) == flow.HasFirst|flow.HasLast {
		dur = strconv.FormatFloat(float64(r.Last-r.First)/1e9, 'f', 3, 64)
	}
	pad(24)
	right(36, dur)
	pad(38)
	if r.Has&flow.HasProto == 0 {
		b = append(b, '-')
	} else {
		b = append(b, ProtoName(r.Proto)...)
	}
	pad(45)
	b = appendEndpoint(b, r, flow.ColSrc, flow.ColSrcPort)
	pad(93)
	b = append(b, "→ "...)
	start += len("→") - 1
	if icmp := r.Has&flow.HasICMP != 0; icmp {
		b = r.AppendColumn(b, flow.ColDst)
		b = append(b, " type "...)
		b = r.AppendColumn(b, flow.ColICMPType)
		b = append(b, '/')
		b = r.AppendColumn(b, flow.ColICMPCode)
	} else {
		b = appendEndpoint(b, r, flow.ColDst, flow.ColDstPort)
	}
	pad(143)
	right(154, string(r.AppendColumn(nil, flow.ColPackets)))
	right(169, string(r.AppendColumn(nil, flow.ColBytes)))
	pad(171)
	b = append(b, FlagLetters(r)...)
	if r.Has&flow.HasEndReason != 0 {
		pad(181)
		b = append(b, r.EndReason.String()...)
	}
	return append(b, '\n')
}

func appendEndpoint(b []byte, r *flow.Record, addr, port flow.Column) []byte {
	if !r.Known(addr) {
		return append(b, '-')
	}
	n := r.Number(port)
	if n == 0 || r.Has&flow.HasICMP != 0 {
		return r.AppendColumn(b, addr)
	}
	a := r.Src
	if addr == flow.ColDst {
		a = r.Dst
	}
	if a.Is4() {
		b = r.AppendColumn(b, addr)
	} else {
		b = append(b, '[')
		b = r.AppendColumn(b, addr)
		b = append(b, ']')
	}
	b = append(b, ':')
	return strconv.AppendUint(b, n, 10)
}

// FlagLetters writes a record's TCP flags as nfdump does, CWR and ECE first.
func FlagLetters(r *flow.Record) string {
	if r.Has&flow.HasTCPFlags == 0 || r.Proto != flow.ProtoTCP {
		return ""
	}
	b := []byte("CEUAPRSF")
	for i := range b {
		if r.TCPFlags&(0x80>>i) == 0 {
			b[i] = '.'
		}
	}
	return string(b)
}

// ProtoName is the short name of the protocols people meet, else the number.
func ProtoName(p uint8) string {
	if s, ok := protoNames[p]; ok {
		return s
	}
	return strconv.Itoa(int(p))
}

var protoNames = map[uint8]string{
	1: "ICMP", 2: "IGMP", 4: "IPIP", 6: "TCP", 8: "EGP", 17: "UDP", 33: "DCCP", 41: "IPv6", 46: "RSVP",
	47: "GRE", 50: "ESP", 51: "AH", 58: "ICMP6", 59: "NONXT", 88: "EIGRP", 89: "OSPF", 94: "IPIP2", 103: "PIM",
	112: "VRRP", 115: "L2TP", 124: "ISIS", 132: "SCTP", 136: "UDPL", 137: "MPLS",
}
