package query

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/store"
)

const (
	defaultTop = 10
	maxBins    = 4096 // that one flow is spread over; a longer one counts in the bin of its end
	maxKeys    = 32
)

// plan is a request made ready: checked, typed, without SQL.
type plan struct {
	from, to int64 // event time, µs; to is exclusive
	filter   *Filter
	keys     []key
	proto    bool // the last key is the protocol, of :p
	order    ordering
	limit    int   // rows; -1: all
	bin      int64 // µs; 0: no series
	stat     bool
}

const (
	minTime = -1 << 62
	maxTime = 1<<62 - 1
)

// newPlan checks r. raw is a request for records, not for aggregates.
func newPlan(r Request, raw bool) (*plan, error) {
	p := &plan{from: minTime, to: maxTime, limit: r.Limit, order: ordering{name: "flows"}}
	if !r.From.IsZero() {
		p.from = r.From.UnixMicro()
	}
	if !r.To.IsZero() {
		p.to = r.To.UnixMicro()
	}
	if p.from > p.to {
		return nil, fmt.Errorf("query: the span ends (%s) before it begins (%s)", r.To.UTC().Format(time.RFC3339), r.From.UTC().Format(time.RFC3339))
	}
	var err error
	if p.filter, err = Parse(r.Filter); err != nil {
		return nil, err
	}
	if r.Limit < -1 {
		return nil, fmt.Errorf("query: limit %d; expected the number of rows, or -1 for all", r.Limit)
	}
	if raw {
		if r.Stat != "" || len(r.Keys) > 0 || r.Bin != 0 {
			return nil, fmt.Errorf("query: records have no statistic, keys or bins")
		}
		p.order = ordering{name: "last"}
		if p.limit == 0 {
			p.limit = -1
		}
		return p, p.setOrder(r.Order)
	}
	switch {
	case r.Stat != "" && len(r.Keys) > 0:
		return nil, fmt.Errorf("query: a statistic (%s) or keys (%s), not both", r.Stat, strings.Join(r.Keys, ","))
	case r.Stat != "":
		s, err := parseStat(r.Stat)
		if err != nil {
			return nil, fmt.Errorf("query: %w", err)
		}
		if len(s.orders) > 1 {
			return nil, fmt.Errorf("query: statistic %q: one order at a time", r.Stat)
		}
		p.stat = true
		p.keys = s.keys
		if s.proto {
			p.keys = append(slices.Clone(p.keys), keyTable["proto"])
			p.proto = true
		}
		if len(s.orders) == 1 {
			p.order = s.orders[0]
		}
		if p.limit == 0 {
			p.limit = defaultTop
		}
	case len(r.Keys) > 0:
		if p.keys, err = parseKeys(r.Keys); err != nil {
			return nil, fmt.Errorf("query: %w", err)
		}
		if len(p.keys) > maxKeys {
			return nil, fmt.Errorf("query: %d keys; %d at most", len(p.keys), maxKeys)
		}
	case r.Bin == 0:
		return nil, fmt.Errorf("query: nothing to aggregate by: expected a statistic, keys or bins")
	}
	if p.limit == 0 {
		p.limit = -1
	}
	if r.Bin != 0 {
		if p.bin = r.Bin.Microseconds(); p.bin < 1000 || r.Bin%time.Microsecond != 0 {
			return nil, fmt.Errorf("query: bins of %v; a millisecond at least, whole microseconds", r.Bin)
		}
	}
	return p, p.setOrder(r.Order)
}

func (p *plan) setOrder(text string) error {
	if text == "" {
		return nil
	}
	o, err := parseOrder(text)
	if err != nil {
		return fmt.Errorf("query: %w", err)
	}
	p.order = o
	return nil
}

// columns are the names of the result's.
func (p *plan) columns() []string {
	var out []string
	if p.bin > 0 {
		out = append(out, "time")
	}
	for _, k := range p.keys {
		out = append(out, k.name)
	}
	return append(out, "flows", "packets", "bytes", "pps", "bps", "bpp", "first", "last")
}

// prune keeps the segments that may hold something of the span.
func (p *plan) prune(all []store.Segment) []store.Segment {
	return slices.DeleteFunc(slices.Clone(all), func(s store.Segment) bool { return s.MaxTime < p.from || s.MinTime >= p.to })
}

// sqlMaker writes the SQL of a plan over some segments.
type sqlMaker struct {
	*plan
	d     dialect
	from  string // the FROM clause
	event string // event time
	where string // "" or " WHERE …"
}

// eventTime is what the span is about, and the order of records: the end of the
// flow, else its start, else when the record came.
const eventTime = "coalesce(last, first, received)"

func (p *plan) sql(d dialect, segments []store.Segment, path func(store.Segment) string) *sqlMaker {
	m := &sqlMaker{plan: p, d: d, event: "last"}
	paths := make([]string, len(segments))
	inside := true
	for i, s := range segments {
		paths[i] = path(s)
		if s.NoLast > 0 {
			m.event = eventTime
		}
		inside = inside && s.MinTime >= p.from && s.MaxTime < p.to
	}
	m.from = d.source(paths)
	var and []string
	if !inside {
		if p.from != minTime {
			and = append(and, m.event+" >= "+strconv.FormatInt(p.from, 10))
		}
		if p.to != maxTime {
			and = append(and, m.event+" < "+strconv.FormatInt(p.to, 10))
		}
	}
	if !p.filter.All() {
		and = append(and, filterSQL(d, p.filter.root))
	}
	if len(and) > 0 {
		m.where = " WHERE " + strings.Join(and, " AND ")
	}
	return m
}

// and adds a condition to where.
func (m *sqlMaker) and(condition string) string {
	if m.where == "" {
		return " WHERE " + condition
	}
	return m.where + " AND " + condition
}

// total sums what matches.
func (m *sqlMaker) total() string {
	return "SELECT count(*), " + m.d.narrow("coalesce(sum(packets), 0)") + ", " + m.d.narrow("coalesce(sum(bytes), 0)") +
		", min(first), max(last) FROM " + m.from + m.where
}

// side is the keys of one side of the flow: expressions to group by in the
// first step, and those made of them in the second.
type side struct {
	first  []string // "src AS k0", …
	second []string // "k0", or the network of it, AS k0
	masked bool
	known  string // a condition: of statistics over both sides, the side is known
}

func (m *sqlMaker) sides() []side {
	n := 1
	for _, k := range m.keys {
		n = max(n, len(k.cols))
	}
	out := make([]side, n)
	for i := range out {
		s := &out[i]
		for j, k := range m.keys {
			c := k.cols[min(i, len(k.cols)-1)]
			as := fmt.Sprintf("k%d", j)
			s.first = append(s.first, c.String()+" AS "+as)
			if len(k.cols) > 1 {
				s.known = c.String() + " IS NOT NULL"
			}
			if !k.net {
				s.second = append(s.second, as)
				continue
			}
			s.masked = true
			net := fmt.Sprintf("CASE WHEN %s THEN %s ELSE %s END", isIPv4(m.d, as), m.d.prefixN(as, 96+orAll(k.bits4, 32)), m.d.prefixN(as, orAll(k.bits6, 128)))
			if k.ownMask {
				s.first = append(s.first, k.mask.String()+" AS "+as+"m")
				own := fmt.Sprintf("CASE WHEN %s THEN least(coalesce(%sm, 32), 32) WHEN %s IS NOT NULL THEN least(coalesce(%sm, 128), 128) END", isIPv4(m.d, as), as, as, as)
				net = m.d.prefix(as, fmt.Sprintf("CASE WHEN %s THEN 96 ELSE 0 END + %s", isIPv4(m.d, as), own))
				s.second = append(s.second, own+" AS "+as+"m")
			}
			s.second = append(s.second, net+" AS "+as)
		}
	}
	return out
}

func orAll(bits, all int) int {
	if bits == 0 {
		return all
	}
	return bits
}

// groupColumns are the key columns of the grouped rows.
func (m *sqlMaker) groupColumns() []string {
	var out []string
	for j, k := range m.keys {
		if k.ownMask { // the length of the network, before it
			out = append(out, fmt.Sprintf("k%dm", j))
		}
		out = append(out, fmt.Sprintf("k%d", j))
	}
	return out
}

const sums = "sum(flows) AS flows, sum(packets) AS packets, sum(bytes) AS bytes, min(first) AS first, max(last) AS last"

// groups is a query for one row a group with the sums. Networks are found in a
// second step, from the few distinct addresses instead of the many rows.
func (m *sqlMaker) groups() string {
	var parts []string
	second := false
	for _, s := range m.sides() {
		where := m.where
		if s.known != "" {
			where = m.and(s.known)
		}
		q := "SELECT " + strings.Join(s.first, ", ") + ", count(*) AS flows, sum(packets) AS packets, sum(bytes) AS bytes, min(first) AS first, max(last) AS last FROM " +
			m.from + where + " GROUP BY ALL"
		if s.masked {
			q = "SELECT " + strings.Join(s.second, ", ") + ", flows, packets, bytes, first, last FROM (" + q + ")"
			second = true
		}
		parts = append(parts, q)
	}
	if len(parts) == 1 && !second {
		return parts[0]
	}
	by := strings.Join(m.groupColumns(), ", ")
	return "SELECT " + by + ", " + sums + " FROM (" + strings.Join(parts, " UNION ALL ") + ") GROUP BY " + by
}

// aggregate is the query of a statistic or of keys.
func (m *sqlMaker) aggregate() string {
	if m.bin > 0 {
		return m.series()
	}
	d := m.d
	keys := strings.Join(m.groupColumns(), ", ")
	order := " ORDER BY " + m.orderSQL() + m.direction() + ", " + keys
	with, total, from := "", "", m.groups()
	if m.totalInRows() {
		with = "WITH g AS MATERIALIZED (" + from + ") "
		from = "SELECT * FROM g"
		total = ", (SELECT sum(flows)::UBIGINT AS tf, " + d.narrow("coalesce(sum(packets), 0)") + " AS tp, " + d.narrow("coalesce(sum(bytes), 0)") +
			" AS tb, min(first) AS t1, max(last) AS t2 FROM g) AS total"
	}
	columns := ""
	if total != "" {
		columns = ", tf, tp, tb, t1, t2"
	}
	// The rates are for the few rows that are left, not for all groups.
	return with + "SELECT " + keys + ", flows::UBIGINT AS flows, " + d.narrow("packets") + " AS packets, " + d.narrow("bytes") + " AS bytes, " +
		rateSQL(d, "packets", "1000", durationSQL(d)) + " AS pps, " + rateSQL(d, "bytes", "8000", durationSQL(d)) + " AS bps, " +
		bppSQL(d) + " AS bpp, first, last" + columns + " FROM (SELECT * FROM (" + from + ")" + order + m.limitSQL() + ") AS top" + total +
		" ORDER BY " + m.orderOf("top.") + m.direction() + ", " + keys
}

// totalInRows says whether the rows of aggregate carry the total in five more
// columns: that saves a second pass over the records. It does not go where a
// record counts twice, nor for a series.
func (m *sqlMaker) totalInRows() bool {
	return m.where != "" && m.bin == 0 && !slices.ContainsFunc(m.keys, func(k key) bool { return len(k.cols) > 1 })
}

// orderSQL is what grouped rows are ordered by.
func (m *sqlMaker) orderSQL() string { return m.orderOf("") }

func (m *sqlMaker) orderOf(table string) string {
	switch m.order.name {
	case "pps":
		return rateSQL(m.d, "packets", "1000", durationSQL(m.d))
	case "bps":
		return rateSQL(m.d, "bytes", "8000", durationSQL(m.d))
	case "bpp":
		return bppSQL(m.d)
	case "duration":
		return durationSQL(m.d)
	}
	return table + m.order.name
}

func bppSQL(d dialect) string {
	return "CASE WHEN packets > 0 THEN " + d.narrow(d.div("bytes", "packets")) + " WHEN bytes IS NOT NULL AND packets IS NOT NULL THEN 0 END"
}

func (m *sqlMaker) direction() string {
	if m.order.asc {
		return " ASC NULLS LAST"
	}
	return " DESC NULLS LAST"
}

// limitSQL asks for one row more than wanted, to see whether there is one.
func (m *sqlMaker) limitSQL() string {
	if m.limit < 0 {
		return ""
	}
	return " LIMIT " + strconv.Itoa(m.limit+1)
}

// series is one row a bin and key. A flow's packets and octets are spread over
// the bins it spans in proportion to the time it spends in each. What a bin
// gets is the difference of two cumulative sums, rounded down, so the parts of
// a flow sum to exactly what it has. The flow itself counts in the bin of its
// end. A flow of unknown times, and one of more than maxBins bins, is wholly
// there.
func (m *sqlMaker) series() string {
	d := m.d
	bin := strconv.FormatInt(m.bin, 10)
	sides := m.sides()
	var parts []string
	for _, s := range sides {
		where := m.where
		if s.known != "" {
			where = m.and(s.known)
		}
		var key string
		for _, k := range s.first {
			key += k + ", "
		}
		inner := "SELECT " + key + "packets, bytes, first AS f, last AS l, " + m.event + " AS e, " +
			"CASE WHEN " + d.div("last", bin) + " - " + d.div("first", bin) + " BETWEEN 1 AND " + strconv.Itoa(maxBins) +
			" THEN " + d.div("first", bin) + " END AS lo, " + d.div(m.event, bin) + " AS hi FROM " + m.from + where
		names := strings.Join(m.groupColumns(), ", ")
		if names != "" {
			names += ", "
		}
		whole := "SELECT hi AS b, " + names + "count(*) AS flows, sum(packets) AS packets, sum(bytes) AS bytes, min(f) AS first, max(l) AS last FROM (" +
			inner + ") WHERE lo IS NULL GROUP BY ALL"
		upto := func(counter, t string) string {
			return d.div(d.wide(counter)+" * (("+t+") - f)", "l - f")
		}
		share := func(counter string) string {
			return "sum(" + upto(counter, "least((b + 1) * "+bin+", l)") + " - " + upto(counter, "greatest(b * "+bin+", f)") + ")"
		}
		spread := "SELECT b, " + names + "sum(CASE WHEN b = hi THEN 1 ELSE 0 END) AS flows, " + share("packets") + " AS packets, " + share("bytes") + " AS bytes, " +
			"min(greatest(f, b * " + bin + ")) AS first, max(least(l, (b + 1) * " + bin + ")) AS last FROM (SELECT *, " + d.unnest("lo", "hi") + " AS b FROM (" +
			inner + ") WHERE lo IS NOT NULL) GROUP BY ALL"
		both := whole + " UNION ALL " + spread
		if s.masked {
			both = "SELECT b, " + strings.Join(s.second, ", ") + ", flows, packets, bytes, first, last FROM (" + both + ")"
		}
		parts = append(parts, both)
	}
	by := strings.Join(append([]string{"b"}, m.groupColumns()...), ", ")
	q := "SELECT " + by + ", " + sums + " FROM (" + strings.Join(parts, " UNION ALL ") + ") GROUP BY " + by
	out := "SELECT b * " + bin + " AS time"
	if len(m.keys) > 0 {
		out += ", " + strings.Join(m.groupColumns(), ", ")
	}
	out += ", flows::UBIGINT, " + d.narrow("packets") + ", " + d.narrow("bytes") + ", " +
		d.narrow(d.div("packets * 1000000", bin)) + " AS pps, " + d.narrow(d.div("bytes * 8000000", bin)) + " AS bps, " + bppSQL(d) + " AS bpp, first, last"
	if len(m.keys) > 0 && m.limit >= 0 {
		// The first groups by their sums over the whole span.
		keys := strings.Join(m.groupColumns(), ", ")
		order := m.orderSQL()
		var same []string
		for _, k := range m.groupColumns() {
			same = append(same, "g."+k+" IS NOT DISTINCT FROM t."+k)
		}
		return "WITH g AS MATERIALIZED (" + q + "), t AS (SELECT " + keys + " FROM (SELECT " + keys + ", " + sums + " FROM g GROUP BY " + keys + ") ORDER BY " +
			order + m.direction() + ", " + keys + " LIMIT " + strconv.Itoa(m.limit) + ") " +
			out + " FROM g WHERE EXISTS (SELECT 1 FROM t WHERE " + strings.Join(same, " AND ") + ") ORDER BY " + by
	}
	return out + " FROM (" + q + ") ORDER BY " + by + func() string {
		if len(m.keys) == 0 {
			return m.limitSQL()
		}
		return ""
	}()
}

// rawColumns are those of a record, in the order that the engine reads them.
var rawColumns = func() string {
	return strings.Join(columnNames[:colFlows], ", ")
}()

// raw is the query for records.
func (m *sqlMaker) raw(limit int) string {
	order := ""
	switch m.order.name {
	case "last":
		order = m.event
	case "flows": // each is one
		order = m.event
	case "duration":
		order = columnSQL(m.d, colDuration)
	case "pps":
		order = columnSQL(m.d, colPPS)
	case "bps":
		order = columnSQL(m.d, colBPS)
	case "bpp":
		order = columnSQL(m.d, colBPP)
	default:
		order = m.order.name
	}
	q := "SELECT " + rawColumns + " FROM " + m.from + m.where + " ORDER BY " + order + m.direction()
	if limit >= 0 {
		q += " LIMIT " + strconv.Itoa(limit)
	}
	return q
}

// String is the plan for people.
func (p *plan) String() string {
	var b strings.Builder
	at := func(us int64) string {
		if us == minTime || us == maxTime {
			return "…"
		}
		return time.UnixMicro(us).UTC().Format(time.RFC3339Nano)
	}
	fmt.Fprintf(&b, "span    %s to %s, by the end of the flow\n", at(p.from), at(p.to))
	fmt.Fprintf(&b, "filter  %s\n", p.filter)
	if len(p.keys) > 0 {
		var keys []string
		for _, k := range p.keys {
			s := k.name
			switch {
			case k.ownMask:
				s += " by its own mask"
			case k.net:
				s += fmt.Sprintf(" /%d (IPv4) /%d (IPv6)", orAll(k.bits4, 32), orAll(k.bits6, 128))
			}
			if len(k.cols) > 1 {
				s += " on either side"
			}
			keys = append(keys, s)
		}
		fmt.Fprintf(&b, "keys    %s\n", strings.Join(keys, ", "))
	}
	if p.bin > 0 {
		fmt.Fprintf(&b, "bins    %v\n", time.Duration(p.bin)*time.Microsecond)
	}
	direction := "descending"
	if p.order.asc {
		direction = "ascending"
	}
	fmt.Fprintf(&b, "order   %s, %s\n", p.order.name, direction)
	if p.limit >= 0 {
		fmt.Fprintf(&b, "limit   %d\n", p.limit)
	}
	return b.String()
}
