package query

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/flow"
)

// printed is what a row of nfdump's layouts is made of: a record, or a group as
// a record that knows its keys alone.
type printed struct {
	flow.Record
	flows uint64
	plain bool // numbers in full
	csv   bool // values without padding
}

// tag is one %tag of a fmt: layout: nfdump's heading, padded as it is, and the
// value.
type tag struct {
	heading string
	value   func(*printed) string
}

const (
	nfTime   = "2006-01-02 15:04:05.000"
	nfSecond = "2006-01-02 15:04:05"
)

func nfdumpTime(layout string, ns int64) string { return time.Unix(0, ns).UTC().Format(layout) }

// tags are nfdump's, as far as weir stores what they print. What a record does
// not know prints as nfdump prints it: 0, 0.0.0.0, no flags.
var tags = map[string]tag{
	"ts":  {"Date first seen        ", func(p *printed) string { return nfdumpTime(nfTime, p.First) }},
	"te":  {"Date last seen         ", func(p *printed) string { return nfdumpTime(nfTime, p.Last) }},
	"tr":  {"Date flow received     ", func(p *printed) string { return nfdumpTime(nfTime, p.Received) }},
	"tsr": {"Date first seen (raw)", func(p *printed) string { return p.seconds(p.First) }},
	"ter": {"Date last seen (raw) ", func(p *printed) string { return p.seconds(p.Last) }},
	"td":  {"    Duration    ", func(p *printed) string { return p.pad(16, clockTime(p.duration())) }},
	"tds": {"    Duration", func(p *printed) string { return p.pad(12, fmt.Sprintf("%.3f", p.duration().Seconds())) }},
	"pr":  {"Proto", func(p *printed) string { return p.left(5, protoName(p.Proto)) }},

	"sa":  {"     Src IP Addr", func(p *printed) string { return p.ip(p.Src) }},
	"da":  {"     Dst IP Addr", func(p *printed) string { return p.ip(p.Dst) }},
	"sp":  {"Src Pt", func(p *printed) string { return p.pad(6, p.port(p.SrcPort, false)) }},
	"dp":  {"Dst Pt", func(p *printed) string { return p.pad(6, p.port(p.DstPort, true)) }},
	"sap": {"     Src IP Addr:Port ", func(p *printed) string { return p.ipPort(p.Src, p.port(p.SrcPort, false)) }},
	"dap": {"     Dst IP Addr:Port ", func(p *printed) string { return p.ipPort(p.Dst, p.port(p.DstPort, true)) }},
	"sn":  {"        Src Network", func(p *printed) string { return p.pad(19, p.network(p.Src, p.SrcMask)) }},
	"dn":  {"        Dst Network", func(p *printed) string { return p.pad(19, p.network(p.Dst, p.DstMask)) }},
	"smk": {"SMask", func(p *printed) string { return p.number(5, uint64(p.SrcMask)) }},
	"dmk": {"DMask", func(p *printed) string { return p.number(5, uint64(p.DstMask)) }},
	"nh":  {"     Next-hop IP", func(p *printed) string { return p.ip(p.only(flow.HasNextHop, p.NextHop)) }},
	"nhb": {" BGP next-hop IP", func(p *printed) string { return p.ip(p.only(flow.HasBGPNextHop, p.BGPNextHop)) }},
	"ra":  {"       Router IP", func(p *printed) string { return p.ip(p.only(flow.HasExporter, p.Exporter)) }},
	"sas": {"Src AS", func(p *printed) string { return p.number(6, uint64(p.SrcAS)) }},
	"das": {"Dst AS", func(p *printed) string { return p.number(6, uint64(p.DstAS)) }},
	"in":  {" Input", func(p *printed) string { return p.number(6, uint64(p.Input)) }},
	"out": {"Output", func(p *printed) string { return p.number(6, uint64(p.Output)) }},

	"pkt":  {" Packets", func(p *printed) string { return p.scaled(8, p.Packets) }},
	"ipkt": {"  In Pkt", func(p *printed) string { return p.scaled(8, p.Packets) }},
	"opkt": {" Out Pkt", func(p *printed) string { return p.scaled(8, 0) }},
	"byt":  {"   Bytes", func(p *printed) string { return p.scaled(8, p.Bytes) }},
	"ibyt": {" In Byte", func(p *printed) string { return p.scaled(8, p.Bytes) }},
	"obyt": {"Out Byte", func(p *printed) string { return p.scaled(8, 0) }},
	"fl":   {"Flows", func(p *printed) string { return p.number(5, p.flows) }},
	"bps":  {"     bps", func(p *printed) string { return p.scaled(8, perSecond(p.Bytes, 8, p.ms())) }},
	"pps":  {"     pps", func(p *printed) string { return p.scaled(8, perSecond(p.Packets, 1, p.ms())) }},
	"bpp":  {"   Bpp", func(p *printed) string { return p.number(6, ratio(p.Bytes, p.Packets)) }},

	"flg":  {"   Flags", func(p *printed) string { return p.flagLetters() }},
	"tos":  {"Tos", func(p *printed) string { return p.number(3, uint64(p.TOS)) }},
	"stos": {"STos", func(p *printed) string { return p.number(4, uint64(p.TOS)) }},
	"dtos": {"DTos", func(p *printed) string { return p.number(4, 0) }},
	"dir":  {"Dir", func(p *printed) string { return p.pad(3, []string{"I", "E"}[p.Direction&1]) }},
	"fwd":  {"Fwd", func(p *printed) string { return p.number(3, uint64(p.ForwardingStatus)) }},
	"end":  {"End", func(p *printed) string { return p.number(3, uint64(p.EndReason)) }},
	"it":   {"ICMP-T", func(p *printed) string { return p.number(6, uint64(p.ICMPType)) }},
	"ic":   {"ICMP-C", func(p *printed) string { return p.number(6, uint64(p.ICMPCode)) }},
	"svln": {"SVlan", func(p *printed) string { return p.number(5, uint64(p.VLAN)) }},
	"dvln": {"DVlan", func(p *printed) string { return p.number(5, 0) }},
	"odid": {"obsDomainID", func(p *printed) string { return fmt.Sprintf("0x%09x", p.Domain) }},
	"eng": {" engine ", func(p *printed) string {
		return p.pad(8, fmt.Sprintf("%d/%-3d", p.Domain>>8&0xff, p.Domain&0xff))
	}},
}

// presets are the layouts that nfdump has names for.
var presets = map[string]string{
	"line":     "%ts %td %pr %sap -> %dap %pkt %byt %fl",
	"long":     "%ts %td %pr %sap -> %dap %flg %tos %pkt %byt %fl",
	"extended": "%ts %td %pr %sap -> %dap %flg %tos %pkt %byt %pps %bps %bpp %fl",
}

// piece of a parsed layout: a tag or text between tags.
type piece struct {
	name string
	tag  tag
	text string
}

// parseLayout reads a fmt: string. A name of a preset stands for it.
func parseLayout(text string) ([]piece, error) {
	for name, preset := range presets {
		text = strings.ReplaceAll(text, "%"+name, preset)
	}
	var out []piece
	for text != "" {
		at := strings.IndexByte(text, '%')
		if at != 0 {
			if at < 0 {
				at = len(text)
			}
			out = append(out, piece{text: text[:at]})
			text = text[at:]
			continue
		}
		end := 1
		for end < len(text) && text[end] >= 'a' && text[end] <= 'z' || end < len(text) && text[end] >= '0' && text[end] <= '9' {
			end++
		}
		name := text[1:end]
		text = text[end:]
		if name == "n" {
			out = append(out, piece{text: "\n"})
			continue
		}
		t, ok := tags[name]
		if !ok {
			var known []string
			for k := range tags {
				known = append(known, k)
			}
			slices.Sort(known)
			err := fmt.Errorf("format: unknown tag %q; weir has %%%s", "%"+name, strings.Join(known, " %"))
			if c := closest(name, known); c != "" {
				err = fmt.Errorf("%w (did you mean %q?)", err, "%"+c)
			}
			return nil, err
		}
		out = append(out, piece{name: name, tag: t})
	}
	return out, nil
}

func (p *printed) duration() time.Duration { return time.Duration(p.ms()) * time.Millisecond }

func (p *printed) ms() uint64 {
	if p.Has&(flow.HasFirst|flow.HasLast) != flow.HasFirst|flow.HasLast {
		return 0
	}
	return durationMs(p.First, p.Last)
}

func ratio(a, b uint64) uint64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// clockTime prints HH:MM:SS.mmm.
func clockTime(d time.Duration) string {
	ms := d.Milliseconds()
	return fmt.Sprintf("%02d:%02d:%02d.%03d", ms/3600000, ms/60000%60, ms/1000%60, ms%1000)
}

func (p *printed) seconds(ns int64) string {
	return fmt.Sprintf("%d.%03d", ns/1e9, max(ns, 0)/1e6%1000)
}

func (p *printed) pad(n int, s string) string {
	if p.csv {
		return s
	}
	return fmt.Sprintf("%*s", n, s)
}

func (p *printed) left(n int, s string) string {
	if p.csv {
		return s
	}
	return fmt.Sprintf("%-*s", n, s)
}

func (p *printed) number(n int, v uint64) string { return p.pad(n, strconv.FormatUint(v, 10)) }

// scaled prints a number as nfdump does: from a million on with a factor.
func (p *printed) scaled(n int, v uint64) string {
	if p.plain || p.csv {
		return p.number(n, v)
	}
	return p.pad(n, scaleNumber(v))
}

func scaleNumber(v uint64) string {
	for _, f := range []struct {
		of   float64
		sign string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}} {
		if float64(v) >= f.of {
			return fmt.Sprintf("%.1f %s", float64(v)/f.of, f.sign)
		}
	}
	return strconv.FormatUint(v, 10)
}

// text of an address; an unset one has the family of the record.
func (p *printed) addr(a flow.Addr) netip.Addr {
	if a == (flow.Addr{}) && !p.v6() {
		return netip.AddrFrom4([4]byte{})
	}
	return a.Netip()
}

func (p *printed) v6() bool {
	return p.Has&flow.HasSrc != 0 && !p.Src.Is4() || p.Has&flow.HasDst != 0 && !p.Dst.Is4()
}

// only is a if it is known, else 0.0.0.0.
func (p *printed) only(bit flow.Field, a flow.Addr) flow.Addr {
	if p.Has&bit == 0 {
		return flow.AddrFrom4([4]byte{})
	}
	return a
}

// ip prints an address in 16 columns, long ones with their middle cut out.
func (p *printed) ip(a flow.Addr) string {
	s := p.addr(a).String()
	if len(s) > 16 && !p.csv {
		s = s[:7] + ".." + s[len(s)-7:]
	}
	return p.pad(16, s)
}

func (p *printed) ipPort(a flow.Addr, port string) string {
	sign := ":"
	if p.addr(a).Is6() {
		sign = "."
	}
	return p.ip(a) + sign + p.left(5, port)
}

// port prints type.code in the place of ICMP's destination port.
func (p *printed) port(n uint16, dst bool) string {
	if dst && p.Has&flow.HasICMP != 0 && (p.Proto == flow.ProtoICMP || p.Proto == flow.ProtoICMPv6) {
		return fmt.Sprintf("%d.%d", p.ICMPType, p.ICMPCode)
	}
	return strconv.Itoa(int(n))
}

func (p *printed) network(a flow.Addr, mask uint8) string {
	ip := p.addr(a)
	net, err := ip.Prefix(min(int(mask), ip.BitLen()))
	if err != nil {
		return ip.String()
	}
	return net.Addr().String() + "/" + strconv.Itoa(int(mask))
}

// flags prints a letter for each flag that is set, CWR first.
func (p *printed) flagLetters() string {
	b := []byte("........")
	for i := range flagNames {
		if p.Proto == flow.ProtoTCP || p.Has&flow.HasProto == 0 {
			if p.TCPFlags&(1<<i) != 0 {
				b[7-i] = flagNames[i]
			}
		}
	}
	return string(b)
}

// protoNames are nfdump's, of five letters at most.
var protoNames = map[uint8]string{
	1: "ICMP", 2: "IGMP", 3: "GGP", 4: "IPIP", 5: "ST", 6: "TCP", 7: "CBT", 8: "EGP", 9: "IGP", 17: "UDP", 33: "DCCP",
	41: "IPv6", 46: "RSVP", 47: "GRE", 50: "ESP", 51: "AH", 58: "ICMP6", 88: "EIGRP", 89: "OSPF", 103: "PIM", 108: "IPCMP",
	112: "VRRP", 115: "L2TP", 132: "SCTP", 136: "UDPLi",
}

func protoName(n uint8) string {
	if s := protoNames[n]; s != "" {
		return s
	}
	return strconv.Itoa(int(n))
}
