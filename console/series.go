package console

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"weir/query"
)

// SeriesAnswer is traffic in bins of equal width. Sums, not rates: divide by
// BinSeconds.
type SeriesAnswer struct {
	BinSeconds float64 `json:"bin_seconds"`
	Time       []int64 `json:"time"` // Unix seconds at which a bin begins
	Lines      []Line  `json:"lines"`
	Total      Total   `json:"total"`
	TookMs     float64 `json:"took_ms"`
}

// Line is one line of a series: a value for each time.
type Line struct {
	Name    string   `json:"name"`
	Filter  string   `json:"filter"` // selects what the line sums; "" if that cannot be said
	Flows   []uint64 `json:"flows"`
	Packets []uint64 `json:"packets"`
	Bytes   []uint64 `json:"bytes"`
}

// The names of lines that are not keys.
const (
	lineAll   = "all"
	lineIn    = "in"
	lineOut   = "out"
	lineNone  = "unknown" // flows that do not tell their direction
	lineOther = "other"
)

const maxLines = 20

func (s *Server) series(w http.ResponseWriter, r *http.Request) error {
	req, err := s.request(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	split := q.Get("split")
	if split != "" && split != "direction" {
		return badRequest("split %q is unknown; accepted: direction", split)
	}
	keys := splitKeys(q.Get("keys"))
	if split != "" && keys != nil {
		return badRequest("split and keys exclude each other")
	}
	if q.Get("bin") != "" {
		if req.Bin, err = parseDuration(q.Get("bin")); err != nil || req.Bin < time.Second || req.Bin%time.Second != 0 {
			return badRequest("bin %q is not a duration of whole seconds: 10s, 5m", q.Get("bin"))
		}
	}
	limit := req.Limit
	if limit == 0 {
		limit = 5
	}
	if limit > maxLines {
		return badRequest("limit %d: a series has at most %d lines", limit, maxLines)
	}
	req.Limit = -1
	order := req.Order
	req.Order = ""
	start := time.Now()
	span, err := s.span(r.Context(), &req)
	if err != nil {
		return err
	}
	var answer *SeriesAnswer
	switch {
	case keys != nil:
		answer, err = s.seriesByKeys(r.Context(), req, span, keys, order, limit)
	case split != "":
		answer, err = s.seriesByDirection(r.Context(), req, span)
	default:
		answer, err = s.seriesLines(r.Context(), req, span, nil)
	}
	if err != nil {
		return err
	}
	answer.TookMs = millis(time.Since(start))
	return writeJSON(w, r, answer)
}

// bins is a row of bins of equal width.
type bins struct {
	start int64 // Unix s, a multiple of width
	width int64 // s
	n     int
}

func newBins(from, to time.Time, width time.Duration) bins {
	w := int64(width / time.Second)
	first := floorTo(from.Unix(), w)
	last := floorTo(to.Add(-1).Unix(), w)
	return bins{first, w, int((last-first)/w) + 1}
}

func floorTo(t, w int64) int64 {
	q := t / w
	if t%w < 0 {
		q--
	}
	return q * w
}

func (b bins) times() []int64 {
	t := make([]int64, b.n)
	for i := range t {
		t[i] = b.start + int64(i)*b.width
	}
	return t
}

func (b bins) line(name, filter string) Line {
	return Line{Name: name, Filter: filter, Flows: make([]uint64, b.n), Packets: make([]uint64, b.n), Bytes: make([]uint64, b.n)}
}

// span settles the ends of the request and the width of its bins. Open ends
// are those of the data; an open end alone is now.
func (s *Server) span(ctx context.Context, req *query.Request) (bins, error) {
	if req.From.IsZero() {
		probe := query.Request{To: req.To, Filter: req.Filter, Stat: "proto", Limit: 1}
		res, _, err := s.ask(ctx, probe)
		if err != nil {
			return bins{}, err
		}
		if res.Total.Flows > 0 {
			// Bounds are on the end of flows: the earliest start comes before it.
			req.From = time.Unix(0, res.Total.First)
			end := time.Unix(0, res.Total.Last).Add(time.Second)
			if req.To.IsZero() || end.Before(req.To) {
				req.To = end
			}
		}
	}
	if req.To.IsZero() {
		req.To = time.Now()
	}
	if req.From.IsZero() {
		req.From = req.To.Add(-time.Hour)
	}
	if !req.From.Before(req.To) {
		req.From = req.To.Add(-time.Second)
	}
	if req.Bin == 0 {
		req.Bin = fittingBin(req.To.Sub(req.From))
	}
	b := newBins(req.From, req.To, req.Bin)
	if b.n > maxBins {
		return b, badRequest("bin %v: %d bins from %s to %s; at most %d are accepted", req.Bin, b.n, stamp(req.From), stamp(req.To), maxBins)
	}
	return b, nil
}

// fill asks a question in bins and puts each row of the answer into its bin of
// the line that choose names.
func (s *Server) fill(ctx context.Context, req query.Request, b bins, choose func(row []any) *Line) (query.Total, error) {
	res, _, err := s.ask(ctx, req)
	if err != nil {
		return query.Total{}, err
	}
	t, f, p, o := column(res.Columns, "time"), column(res.Columns, "flows"), column(res.Columns, "packets"), column(res.Columns, "bytes")
	if t < 0 || f < 0 || p < 0 || o < 0 {
		return query.Total{}, fmt.Errorf("series: the store answered columns %s", strings.Join(res.Columns, ","))
	}
	for _, row := range res.Rows {
		at, ok := row[t].(time.Time)
		if !ok {
			continue
		}
		// What lies outside is put into the nearest bin: the sums hold.
		i := min(max(int((floorTo(at.Unix(), b.width)-b.start)/b.width), 0), b.n-1)
		line := choose(row)
		line.Flows[i] += number(row[f])
		line.Packets[i] += number(row[p])
		line.Bytes[i] += number(row[o])
	}
	return res.Total, nil
}

// seriesLines asks for the sum and for each of parts, which must not overlap.
func (s *Server) seriesLines(ctx context.Context, req query.Request, b bins, parts []Line) (*SeriesAnswer, error) {
	answer := &SeriesAnswer{BinSeconds: float64(b.width), Time: b.times()}
	all := b.line(lineAll, req.Filter)
	total, err := s.fill(ctx, req, b, func([]any) *Line { return &all })
	if err != nil {
		return nil, err
	}
	answer.Total = newTotal(total)
	answer.Lines = append(answer.Lines, all)
	for _, part := range parts {
		sub := req
		sub.Filter = and(req.Filter, part.Filter)
		if total.Flows > 0 {
			if _, err := s.fill(ctx, sub, b, func([]any) *Line { return &part }); err != nil {
				return nil, err
			}
		}
		answer.Lines = append(answer.Lines, part)
	}
	return answer, nil
}

// replaceAll turns the first line, the sum, into what the others leave of it.
// Lines may come of different moments of a store that grows: never below zero.
func (a *SeriesAnswer) replaceAll(name, filter string) {
	rest := &a.Lines[0]
	rest.Name, rest.Filter = name, filter
	for _, line := range a.Lines[1:] {
		for i := range rest.Bytes {
			rest.Flows[i] -= min(rest.Flows[i], line.Flows[i])
			rest.Packets[i] -= min(rest.Packets[i], line.Packets[i])
			rest.Bytes[i] -= min(rest.Bytes[i], line.Bytes[i])
		}
	}
	a.Lines = append(a.Lines[1:], *rest)
}

// seriesByDirection asks for in, out and unknown at once.
func (s *Server) seriesByDirection(ctx context.Context, req query.Request, b bins) (*SeriesAnswer, error) {
	in, out := b.line(lineIn, "flowdir ingress"), b.line(lineOut, "flowdir egress")
	none := b.line(lineNone, "not flowdir ingress and not flowdir egress")
	req.Keys = []string{"dir"}
	total, err := s.fill(ctx, req, b, func(row []any) *Line {
		switch {
		case row[1] == nil || number(row[1]) > 1: // time, direction, …
			return &none
		case number(row[1]) == 1:
			return &out
		}
		return &in
	})
	if err != nil {
		return nil, err
	}
	return &SeriesAnswer{BinSeconds: float64(b.width), Time: b.times(), Lines: []Line{in, out, none}, Total: newTotal(total)}, nil
}

func (s *Server) seriesByKeys(ctx context.Context, req query.Request, b bins, keys []string, order string, limit int) (*SeriesAnswer, error) {
	top := query.Request{From: req.From, To: req.To, Filter: req.Filter, Keys: keys, Order: order, Limit: limit}
	if order == "" {
		top.Order = "bytes"
	}
	res, _, err := s.ask(ctx, top)
	if err != nil {
		return nil, err
	}
	columns := keyColumns(res.Columns)
	var parts []Line
	for _, row := range res.Rows {
		filter := rowFilter(res.Columns, row, columns)
		if filter == "" {
			continue // falls under other
		}
		name := make([]string, len(columns))
		for i, k := range columns {
			name[i] = fmt.Sprint(jsonValue(row[k]))
		}
		parts = append(parts, b.line(strings.Join(name, " "), filter))
	}
	answer, err := s.seriesLines(ctx, req, b, parts)
	if err == nil {
		answer.replaceAll(lineOther, "")
	}
	return answer, err
}
