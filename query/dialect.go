package query

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"weir/flow"
)

// dialect is how one SQL engine spells what the plan says. All text that
// reaches SQL is made here or in sql.go, of enumerated names and of numbers and
// addresses encoded by type; what a user typed never does.
type dialect interface {
	// source is the FROM clause over the segments' files.
	source(paths []string) string
	// addr is an address as a constant.
	addr(a flow.Addr) string
	// prefix is the first bits (an expression, of 0 to 128) of an address
	// expression, the rest zero; prefixN the same for a constant.
	prefix(addr, bits string) string
	prefixN(addr string, bits int) string
	// div is integer division, truncated.
	div(a, b string) string
	// wide is an integer expression in 128 bits.
	wide(a string) string
	// narrow is a wide non-negative one in 64 bits unsigned, saturated.
	narrow(a string) string
	// series makes one row for each integer lo to hi, as column name.
	unnest(lo, hi string) string
}

// duckDB is DuckDB 1.5 over Parquet files.
type duckDB struct{}

func (duckDB) source(paths []string) string {
	var b strings.Builder
	b.WriteString("read_parquet([")
	for i, p := range paths {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("'" + strings.ReplaceAll(p, "'", "''") + "'")
	}
	b.WriteString("])")
	return b.String()
}

func (duckDB) addr(a flow.Addr) string {
	h := hex.EncodeToString(a[:])
	return "'" + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:] + "'::UUID"
}

// prefix works on the hexadecimal text, for want of bit operations on a UUID:
// whole digits are cut off and the one at the edge is looked up in a table of
// digits with 0 to 3 leading bits kept.
func (duckDB) prefix(addr, bits string) string {
	h := "replace(" + addr + "::VARCHAR, '-', '')"
	edge := fmt.Sprintf("substr('%s', ((%s) %% 4) * 16 + instr('%s', substr(%s, (%s) // 4 + 1, 1)), 1)", kept, bits, digits, h, bits)
	return fmt.Sprintf("rpad(substr(%s, 1, (%s) // 4) || CASE WHEN (%s) < 128 THEN %s ELSE '' END, 32, '0')::UUID", h, bits, bits, edge)
}

const (
	digits = "0123456789abcdef"
	kept   = "0000000000000000" + "0000000088888888" + "000044448888cccc" + "0022446688aaccee"
)

// prefixN keeps the text's dashes, and puts zeros for the rest.
func (duckDB) prefixN(addr string, bits int) string {
	const zeros = "00000000-0000-0000-0000-000000000000"
	if bits >= 128 {
		return addr
	}
	at := 0 // of the digit at the edge
	for left := bits / 4; left > 0 || zeros[at] == '-'; at++ {
		if zeros[at] != '-' {
			left--
		}
	}
	edge, rest := "", zeros[at:]
	if bits%4 != 0 {
		edge = fmt.Sprintf(" || substr('%s', instr('%s', substr(%s::VARCHAR, %d, 1)), 1)", kept[bits%4*16:][:16], digits, addr, at+1)
		rest = zeros[at+1:]
	}
	return fmt.Sprintf("(substr(%s::VARCHAR, 1, %d)%s || '%s')::UUID", addr, at, edge, rest)
}

func (duckDB) div(a, b string) string { return "((" + a + ") // (" + b + "))" }
func (duckDB) wide(a string) string   { return "(" + a + ")::HUGEINT" }

// narrow: least() looks away from what is not known, so it is asked for first.
func (duckDB) narrow(a string) string {
	return "CASE WHEN (" + a + ") IS NOT NULL THEN least(" + a + ", 18446744073709551615::HUGEINT)::UBIGINT END"
}

func (duckDB) unnest(lo, hi string) string {
	return "unnest(range(" + lo + ", " + hi + " + 1))"
}

// addrRange is the first and the last address of p, both mapped.
func addrRange(p netip.Prefix) (lo, hi flow.Addr) {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	lo = flow.AddrFrom(p.Masked().Addr())
	hi = lo
	for i := bits; i < 128; i++ {
		hi[i/8] |= 1 << (7 - i%8)
	}
	return lo, hi
}

// inPrefix says that an address column lies in p. An IPv6 network that contains
// the v4-mapped range does not mean IPv4 by it.
func inPrefix(d dialect, col string, p netip.Prefix) string {
	lo, hi := addrRange(p)
	if lo == hi {
		return col + " = " + d.addr(lo)
	}
	s := col + " BETWEEN " + d.addr(lo) + " AND " + d.addr(hi)
	if p.Addr().Is6() && p.Bits() <= 96 && p.Contains(netip.AddrFrom16(flow.Addr{10: 0xff, 11: 0xff})) {
		s = "(" + s + " AND NOT " + isIPv4(d, col) + ")"
	}
	return s
}

func isIPv4(d dialect, col string) string {
	lo, hi := addrRange(netip.PrefixFrom(netip.AddrFrom4([4]byte{}), 0))
	return "(" + col + " BETWEEN " + d.addr(lo) + " AND " + d.addr(hi) + ")"
}

// columnSQL is the expression of a column.
func columnSQL(d dialect, c column) string {
	switch c {
	case colFlows:
		return "1"
	case colDuration:
		return durationSQL(d)
	case colPPS:
		return rateSQL(d, "packets", "1000", columnSQL(d, colDuration))
	case colBPS:
		return rateSQL(d, "bytes", "8000", columnSQL(d, colDuration))
	case colBPP:
		return "CASE WHEN packets > 0 THEN " + d.div("bytes", "packets") + " WHEN bytes IS NOT NULL AND packets IS NOT NULL THEN 0 END"
	}
	return c.String()
}

// durationSQL is the ms from first to last, 0 where a clock ran backwards.
func durationSQL(d dialect) string {
	a, z := d.div("first", "1000"), d.div("last", "1000")
	return "CASE WHEN " + z + " > " + a + " THEN " + z + " - " + a + " WHEN " + z + " <= " + a + " THEN 0 END"
}

// rateSQL is counter*times/ms; 0 where ms is 0, unknown where anything is.
func rateSQL(d dialect, counter, times, ms string) string {
	ms = "(" + ms + ")"
	return "CASE WHEN " + ms + " > 0 THEN " + d.narrow(d.div(d.wide(counter)+" * "+times, ms)) +
		" WHEN " + ms + " = 0 AND " + counter + " IS NOT NULL THEN 0 END"
}

// filterSQL is a filter as a boolean expression. Unknown counts as false, so
// only a negation must look at it.
func filterSQL(d dialect, n node) string {
	var b strings.Builder
	writeFilter(d, &b, n)
	return b.String()
}

func writeFilter(d dialect, b *strings.Builder, n node) {
	switch n := n.(type) {
	case *orNode:
		b.WriteByte('(')
		writeFilter(d, b, n.l)
		b.WriteString(" OR ")
		writeFilter(d, b, n.r)
		b.WriteByte(')')
	case *andNode:
		b.WriteByte('(')
		writeFilter(d, b, n.l)
		b.WriteString(" AND ")
		writeFilter(d, b, n.r)
		b.WriteByte(')')
	case *notNode:
		b.WriteString("(NOT coalesce(")
		writeFilter(d, b, n.x)
		b.WriteString(", false))")
	case *term:
		b.WriteByte('(')
		for i, c := range n.subject.cols {
			if i > 0 {
				b.WriteString(" OR ")
			}
			b.WriteString(termSQL(d, n, c))
		}
		b.WriteByte(')')
	default:
		b.WriteString("true")
	}
}

func termSQL(d dialect, t *term, c column) string {
	col := columnSQL(d, c)
	u := func(n uint64) string { return strconv.FormatUint(n, 10) }
	switch {
	case t.op == opUnknown:
		return col + " IS NULL"
	case t.subject.kind == kindAddr:
		return addrsSQL(d, col, t.prefixes)
	case t.subject.kind == kindTime:
		return col + " " + operatorText[t.op] + " " + strconv.FormatInt(t.micros, 10)
	case t.op == opIn:
		s := make([]string, len(t.numbers))
		for i, n := range t.numbers {
			s[i] = u(n)
		}
		return col + " IN (" + strings.Join(s, ", ") + ")"
	case t.op == opAll:
		return "(" + col + " & " + u(t.numbers[0]) + ") = " + u(t.numbers[0])
	}
	return "(" + col + ") " + operatorText[t.op] + " " + u(t.numbers[0])
}

// addrsSQL says that an address is one of several, or in one of the networks.
func addrsSQL(d dialect, col string, prefixes []netip.Prefix) string {
	var single, parts []string
	for _, p := range prefixes {
		if lo, hi := addrRange(p); lo == hi {
			single = append(single, d.addr(lo))
		} else {
			parts = append(parts, inPrefix(d, col, p))
		}
	}
	switch {
	case len(single) == 1:
		parts = append(parts, col+" = "+single[0])
	case len(single) > 1:
		parts = append(parts, col+" IN ("+strings.Join(single, ", ")+")")
	}
	return "(" + strings.Join(parts, " OR ") + ")"
}
