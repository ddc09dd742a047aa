package flow

import (
	"encoding/binary"
	"math"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// Column is one of the flow columns, in the order in which they are printed.
type Column int

// The flow columns. Their names and order are a contract with users' scripts.
const (
	ColFirst Column = iota
	ColLast
	ColProto
	ColSrc
	ColSrcPort
	ColDst
	ColDstPort
	ColTOS
	ColTCPFlags
	ColPackets
	ColBytes
	ColInput
	ColOutput
	ColDirection
	ColVLAN
	ColICMPType
	ColICMPCode
	ColNextHop
	ColBGPNextHop
	ColSrcAS
	ColDstAS
	ColSrcMask
	ColDstMask
	ColSampling
	ColEndReason
	ColForwardingStatus
	ColExporter
	ColDomain
	ColVersion
	ColReceived
	ColElements
	NumColumns int = iota
)

type columnKind uint8

const (
	kindNumber columnKind = iota
	kindText              // quoted in JSON
	kindObject            // JSON as it is
)

var columns = [NumColumns]struct {
	name string
	has  Field
	kind columnKind
}{
	ColFirst:            {"first", HasFirst, kindText},
	ColLast:             {"last", HasLast, kindText},
	ColProto:            {"proto", HasProto, kindNumber},
	ColSrc:              {"src", HasSrc, kindText},
	ColSrcPort:          {"sport", HasSrcPort, kindNumber},
	ColDst:              {"dst", HasDst, kindText},
	ColDstPort:          {"dport", HasDstPort, kindNumber},
	ColTOS:              {"tos", HasTOS, kindNumber},
	ColTCPFlags:         {"tcp_flags", HasTCPFlags, kindNumber},
	ColPackets:          {"packets", HasPackets, kindNumber},
	ColBytes:            {"bytes", HasBytes, kindNumber},
	ColInput:            {"input", HasInput, kindNumber},
	ColOutput:           {"output", HasOutput, kindNumber},
	ColDirection:        {"direction", HasDirection, kindNumber},
	ColVLAN:             {"vlan", HasVLAN, kindNumber},
	ColICMPType:         {"icmp_type", HasICMP, kindNumber},
	ColICMPCode:         {"icmp_code", HasICMP, kindNumber},
	ColNextHop:          {"next_hop", HasNextHop, kindText},
	ColBGPNextHop:       {"bgp_next_hop", HasBGPNextHop, kindText},
	ColSrcAS:            {"src_as", HasSrcAS, kindNumber},
	ColDstAS:            {"dst_as", HasDstAS, kindNumber},
	ColSrcMask:          {"src_mask", HasSrcMask, kindNumber},
	ColDstMask:          {"dst_mask", HasDstMask, kindNumber},
	ColSampling:         {"sampling", HasSampling, kindNumber},
	ColEndReason:        {"end_reason", HasEndReason, kindNumber},
	ColForwardingStatus: {"forwarding_status", HasForwardingStatus, kindNumber},
	ColExporter:         {"exporter", HasExporter, kindText},
	ColDomain:           {"domain", HasDomain, kindNumber},
	ColVersion:          {"version", 0, kindText},
	ColReceived:         {"received", HasReceived, kindText},
	ColElements:         {"elements", 0, kindObject},
}

func (c Column) String() string { return columns[c].name }

// ColumnNames lists the columns' names in order.
func ColumnNames() []string {
	names := make([]string, NumColumns)
	for i := range names {
		names[i] = columns[i].name
	}
	return names
}

// ColumnByName finds a column.
func ColumnByName(name string) (Column, bool) {
	for i := range columns {
		if columns[i].name == name {
			return Column(i), true
		}
	}
	return 0, false
}

// Known says whether r has a value for c.
func (r *Record) Known(c Column) bool {
	switch c {
	case ColVersion:
		return r.Version != VersionMetered
	case ColElements:
		return len(r.Elements) > 0
	}
	return r.Has&columns[c].has != 0
}

// AppendColumn appends the plain text of c, nothing if it is unknown. Times
// are RFC 3339 in UTC with microseconds, addresses RFC 5952, numbers decimal.
func (r *Record) AppendColumn(dst []byte, c Column) []byte {
	if !r.Known(c) {
		return dst
	}
	switch c {
	case ColFirst:
		return AppendTime(dst, r.First)
	case ColLast:
		return AppendTime(dst, r.Last)
	case ColReceived:
		return AppendTime(dst, r.Received)
	case ColSrc:
		return r.appendAddr(dst, &r.Src)
	case ColDst:
		return r.appendAddr(dst, &r.Dst)
	case ColNextHop:
		return AppendAddr(dst, r.NextHop)
	case ColBGPNextHop:
		return AppendAddr(dst, r.BGPNextHop)
	case ColExporter:
		return AppendAddr(dst, r.Exporter)
	case ColVersion:
		if r.Version == VersionSFlow {
			return append(dst, "sflow"...)
		}
		return strconv.AppendUint(dst, uint64(r.Version), 10)
	case ColElements:
		return append(dst, r.Elements...)
	}
	return strconv.AppendUint(dst, r.Number(c), 10)
}

// Number is the value of a numeric column, 0 for the others and for unknown ones.
func (r *Record) Number(c Column) uint64 {
	if !r.Known(c) {
		return 0
	}
	switch c {
	case ColProto:
		return uint64(r.Proto)
	case ColSrcPort:
		return uint64(r.SrcPort)
	case ColDstPort:
		return uint64(r.DstPort)
	case ColTOS:
		return uint64(r.TOS)
	case ColTCPFlags:
		return uint64(r.TCPFlags)
	case ColPackets:
		return r.Packets
	case ColBytes:
		return r.Bytes
	case ColInput:
		return uint64(r.Input)
	case ColOutput:
		return uint64(r.Output)
	case ColDirection:
		return uint64(r.Direction)
	case ColVLAN:
		return uint64(r.VLAN)
	case ColICMPType:
		return uint64(r.ICMPType)
	case ColICMPCode:
		return uint64(r.ICMPCode)
	case ColSrcAS:
		return uint64(r.SrcAS)
	case ColDstAS:
		return uint64(r.DstAS)
	case ColSrcMask:
		return uint64(r.SrcMask)
	case ColDstMask:
		return uint64(r.DstMask)
	case ColSampling:
		return uint64(r.Sampling)
	case ColEndReason:
		return uint64(r.EndReason)
	case ColForwardingStatus:
		return uint64(r.ForwardingStatus)
	case ColDomain:
		return uint64(r.Domain)
	}
	return 0
}

// AppendCSV appends r as one RFC 4180 line, all columns, CRLF left to LF. It is
// AppendColumn for each column, written out: a capture of many small flows
// spends its time here.
func (r *Record) AppendCSV(dst []byte) []byte {
	number := func(has Field, n uint64) {
		if r.Has&has != 0 {
			if n < 10 {
				dst = append(dst, byte('0'+n))
			} else {
				dst = strconv.AppendUint(dst, n, 10)
			}
		}
		dst = append(dst, ',')
	}
	if r.Has&HasFirst != 0 {
		dst = AppendTime(dst, r.First)
	}
	dst = append(dst, ',')
	if r.Has&HasLast != 0 {
		dst = AppendTime(dst, r.Last)
	}
	dst = append(dst, ',')
	number(HasProto, uint64(r.Proto))
	if r.Has&HasSrc != 0 {
		dst = r.appendAddr(dst, &r.Src)
	}
	dst = append(dst, ',')
	number(HasSrcPort, uint64(r.SrcPort))
	if r.Has&HasDst != 0 {
		dst = r.appendAddr(dst, &r.Dst)
	}
	dst = append(dst, ',')
	number(HasDstPort, uint64(r.DstPort))
	number(HasTOS, uint64(r.TOS))
	number(HasTCPFlags, uint64(r.TCPFlags))
	number(HasPackets, r.Packets)
	number(HasBytes, r.Bytes)
	if r.Has&hasMiddle == 0 {
		dst = append(dst, ",,,,,,,,,,,,"...)
	} else {
		number(HasInput, uint64(r.Input))
		number(HasOutput, uint64(r.Output))
		number(HasDirection, uint64(r.Direction))
		number(HasVLAN, uint64(r.VLAN))
		number(HasICMP, uint64(r.ICMPType))
		number(HasICMP, uint64(r.ICMPCode))
		dst = append(r.AppendColumn(dst, ColNextHop), ',')
		dst = append(r.AppendColumn(dst, ColBGPNextHop), ',')
		number(HasSrcAS, uint64(r.SrcAS))
		number(HasDstAS, uint64(r.DstAS))
		number(HasSrcMask, uint64(r.SrcMask))
		number(HasDstMask, uint64(r.DstMask))
	}
	number(HasSampling, uint64(r.Sampling))
	number(HasEndReason, uint64(r.EndReason))
	number(HasForwardingStatus, uint64(r.ForwardingStatus))
	dst = append(r.AppendColumn(dst, ColExporter), ',')
	number(HasDomain, uint64(r.Domain))
	dst = append(r.AppendColumn(dst, ColVersion), ',')
	dst = append(r.AppendColumn(dst, ColReceived), ',')
	if len(r.Elements) > 0 {
		dst = AppendCSVText(dst, r.Elements)
	}
	return append(dst, '\n')
}

// hasMiddle are the columns from input to dst_mask, which a capture leaves empty.
const hasMiddle = HasInput | HasOutput | HasDirection | HasVLAN | HasICMP | HasNextHop | HasBGPNextHop | HasSrcAS | HasDstAS | HasSrcMask | HasDstMask

// AppendJSON appends r as one JSON object whose keys are the column names;
// unknown columns are left out.
func (r *Record) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	sep := false
	for c := range Column(NumColumns) {
		if !r.Known(c) {
			continue
		}
		if sep {
			dst = append(dst, ',')
		}
		sep = true
		dst = append(dst, '"')
		dst = append(dst, columns[c].name...)
		dst = append(dst, '"', ':')
		if columns[c].kind == kindText {
			dst = append(dst, '"')
			dst = r.AppendColumn(dst, c)
			dst = append(dst, '"')
		} else {
			dst = r.AppendColumn(dst, c)
		}
	}
	return append(dst, '}')
}

// AppendTime appends Unix ns as RFC 3339 in UTC with microseconds.
func AppendTime(dst []byte, ns int64) []byte {
	// time.AppendFormat costs half of a CSV line; the date changes rarely.
	sec, frac := ns/1e9, ns%1e9
	if frac < 0 {
		sec, frac = sec-1, frac+1e9
	}
	if sec < 0 || sec > 253402300799 { // year 9999
		return time.Unix(sec, frac).UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000Z")
	}
	day, rest := sec/86400, int(sec%86400)
	y, m, d := civil(day)
	us := int(frac / 1000)
	return append(dst,
		byte('0'+y/1000), byte('0'+y/100%10), byte('0'+y/10%10), byte('0'+y%10), '-',
		byte('0'+m/10), byte('0'+m%10), '-', byte('0'+d/10), byte('0'+d%10), 'T',
		byte('0'+rest/36000), byte('0'+rest/3600%10), ':',
		byte('0'+rest/600%6), byte('0'+rest/60%10), ':',
		byte('0'+rest/10%6), byte('0'+rest%10), '.',
		byte('0'+us/100000), byte('0'+us/10000%10), byte('0'+us/1000%10),
		byte('0'+us/100%10), byte('0'+us/10%10), byte('0'+us%10), 'Z')
}

// civil turns days since 1970 into a Gregorian date: an era is 400 years of
// 146097 days that begins on a first of March, so that leap days come last.
func civil(day int64) (y, m, d int) {
	day += 719468 // since 0000-03-01
	era := day / 146097
	doe := day % 146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	d = int(doy - (153*mp+2)/5 + 1)
	m = int(mp + 3)
	if m > 12 {
		m -= 12
	}
	y = int(yoe + era*400)
	if m <= 2 {
		y++
	}
	return y, m, d
}

// AppendAddr appends a in its RFC 5952 form, v4-mapped as a dotted quad.
func AppendAddr(dst []byte, a Addr) []byte {
	if a.Is4() {
		dst = appendOctet(dst, a[12])
		dst = appendOctet(append(dst, '.'), a[13])
		dst = appendOctet(append(dst, '.'), a[14])
		return appendOctet(append(dst, '.'), a[15])
	}
	return append6(dst, &a)
}

// append6 writes RFC 5952: the longest run of at least two zero groups, the
// first of equals, becomes ::, the rest is hexadecimal without leading zeros.
func append6(dst []byte, a *Addr) []byte {
	from, length := 8, 1
	for i := 0; i < 8; i++ {
		n := i
		for n < 8 && a[2*n]|a[2*n+1] == 0 {
			n++
		}
		if n-i > length {
			from, length = i, n-i
		}
		i = max(i, n-1)
	}
	const hex = "0123456789abcdef"
	for i := 0; i < 8; i++ {
		if i == from {
			dst = append(dst, ':', ':')
			i += length
			if i >= 8 {
				break
			}
		} else if i > 0 {
			dst = append(dst, ':')
		}
		hi, lo := a[2*i], a[2*i+1]
		switch {
		case hi >= 0x10:
			dst = append(dst, hex[hi>>4], hex[hi&15], hex[lo>>4], hex[lo&15])
		case hi > 0:
			dst = append(dst, hex[hi], hex[lo>>4], hex[lo&15])
		case lo >= 0x10:
			dst = append(dst, hex[lo>>4], hex[lo&15])
		default:
			dst = append(dst, hex[lo])
		}
	}
	return dst
}

func appendOctet(dst []byte, n byte) []byte {
	switch {
	case n >= 100:
		return append(dst, '0'+n/100, '0'+n/10%10, '0'+n%10)
	case n >= 10:
		return append(dst, '0'+n/10, '0'+n%10)
	}
	return append(dst, '0'+n)
}

// appendAddr keeps a v4-mapped address of a real IPv6 header apart.
func (r *Record) appendAddr(dst []byte, a *Addr) []byte {
	if r.IPVersion == 6 && a.Is4() {
		return netip.AddrFrom16(*a).AppendTo(dst)
	}
	return AppendAddr(dst, *a)
}

// AppendCSVText appends s as a CSV field, quoted if it must be.
func AppendCSVText[T string | []byte](dst []byte, s T) []byte {
	quote := false
	for i := range len(s) {
		if c := s[i]; c == ',' || c == '"' || c == '\n' || c == '\r' {
			quote = true
			break
		}
	}
	if !quote {
		return append(dst, s...)
	}
	dst = append(dst, '"')
	for i := range len(s) {
		if s[i] == '"' {
			dst = append(dst, '"')
		}
		dst = append(dst, s[i])
	}
	return append(dst, '"')
}

// AppendJSONText appends s as a JSON string. What is not UTF-8, and control
// characters of both blocks, which a terminal might act on, are escaped.
func AppendJSONText[T string | []byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				dst = append(dst, '\\', c)
			case c < 0x20 || c == 0x7f:
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			default:
				dst = append(dst, c)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		switch {
		case r == utf8.RuneError && n <= 1:
			dst = append(dst, "\\ufffd"...)
			n = 1
		case r < 0xa0 || r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			// C1 controls, line separators, bidirectional overrides
			b := binary.BigEndian.AppendUint16(nil, uint16(r))
			dst = append(dst, '\\', 'u', hex[b[0]>>4], hex[b[0]&15], hex[b[1]>>4], hex[b[1]&15])
		default:
			dst = append(dst, s[i:i+n]...)
		}
		i += n
	}
	return append(dst, '"')
}

// AppendFloat appends f without an exponent, as short as it can be, for csv
// and json; what is no number becomes 0.
func AppendFloat(dst []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, '0')
	}
	return strconv.AppendFloat(dst, f, 'f', -1, 64)
}
