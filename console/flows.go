package console

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"weir/flow"
	"weir/query"
)

// FlowsAnswer holds flow records: objects keyed by the column names of the
// flow columns, without those that are unknown.
type FlowsAnswer struct {
	Columns   []string          `json:"columns"`
	Rows      []json.RawMessage `json:"rows"`
	Total     Total             `json:"total"` // over all that matched; zero when it was not asked for
	TookMs    float64           `json:"took_ms"`
	Truncated bool              `json:"truncated"` // more matched than the rows given
}

const (
	defaultFlows = 200
	typeCSV      = "text/csv; charset=utf-8"
	typeNDJSON   = "application/x-ndjson"
)

// errEnough ends a query that has given all that was asked for.
var errEnough = errors.New("enough rows")

func (s *Server) flows(w http.ResponseWriter, r *http.Request) error {
	req, err := s.request(r)
	if err != nil {
		return err
	}
	columns, err := parseColumns(r.URL.Query().Get("columns"))
	if err != nil {
		return err
	}
	format, err := answerFormat(r)
	if err != nil {
		return err
	}
	if format != "json" {
		return s.streamFlows(w, r, req, columns, format)
	}
	limit := req.Limit
	if limit == 0 {
		limit = defaultFlows
	}
	limit = min(limit, s.opt.MaxRows)
	req.Limit = limit + 1 // one more tells whether the limit cut
	answer := FlowsAnswer{Rows: []json.RawMessage{}}
	for _, c := range columns {
		answer.Columns = append(answer.Columns, c.String())
	}
	start := time.Now()
	err = s.limited(r.Context(), func(ctx context.Context) error {
		total, err := s.opt.Engine.Flows(ctx, req, flow.SinkFunc(func(batch []flow.Record) error {
			for i := range batch {
				if len(answer.Rows) == limit {
					answer.Truncated = true
					return nil
				}
				answer.Rows = append(answer.Rows, appendFlow(nil, &batch[i], columns))
			}
			return nil
		}))
		answer.Total = newTotal(total)
		s.metrics.query(time.Since(start))
		return err
	})
	if err != nil {
		return s.blame(req, err)
	}
	if answer.Truncated {
		// The engine stopped at the limit: what it summed is not all.
		answer.Total = Total{}
		if r.URL.Query().Get("total") != "false" {
			all := query.Request{From: req.From, To: req.To, Filter: req.Filter, Stat: "proto", Limit: 1}
			res, _, err := s.ask(r.Context(), all)
			if err != nil {
				return err
			}
			answer.Total = newTotal(res.Total)
		}
	}
	answer.TookMs = millis(time.Since(start))
	return writeJSON(w, r, &answer)
}

// streamFlows writes rows as they come, up to the cap. Whether it cut is known
// only at the end: the trailer X-Query-Truncated says so.
func (s *Server) streamFlows(w http.ResponseWriter, r *http.Request, req query.Request, columns []flow.Column, format string) error {
	limit := s.opt.MaxStreamRows
	if req.Limit > 0 {
		limit = min(limit, req.Limit)
	}
	req.Limit = limit + 1
	truncated, rows := false, 0
	out := newStream(w, r, format, "flows")
	var line []byte
	begin := func() {
		if format == "csv" {
			for i, c := range columns {
				if i > 0 {
					line = append(line, ',')
				}
				line = append(line, c.String()...)
			}
			out.Write(append(line, '\n'))
		}
	}
	err := s.limited(r.Context(), func(ctx context.Context) error {
		_, err := s.opt.Engine.Flows(ctx, req, flow.SinkFunc(func(batch []flow.Record) error {
			for i := range batch {
				if rows == limit {
					truncated = true
					return errEnough
				}
				if rows == 0 {
					begin()
				}
				rows++
				if format == "csv" {
					line = appendFlowCSV(line[:0], &batch[i], columns)
				} else {
					line = append(appendFlow(line[:0], &batch[i], columns), '\n')
				}
				if _, err := out.Write(line); err != nil {
					return err
				}
			}
			return nil
		}))
		return err
	})
	if err != nil && !errors.Is(err, errEnough) {
		return s.blame(req, err)
	}
	if rows == 0 {
		begin()
	}
	return out.end(truncated)
}

func parseColumns(list string) ([]flow.Column, error) {
	var columns []flow.Column
	if list == "" {
		for c := range flow.NumColumns {
			columns = append(columns, flow.Column(c))
		}
		return columns, nil
	}
	for name := range strings.SplitSeq(list, ",") {
		c, ok := flow.ColumnByName(strings.TrimSpace(name))
		if !ok {
			return nil, badRequest("columns: unknown column %s; accepted: %s", strconv.Quote(name), strings.Join(flow.ColumnNames(), ", "))
		}
		columns = append(columns, c)
		if len(columns) > flow.NumColumns {
			return nil, badRequest("columns: more than there are")
		}
	}
	return columns, nil
}

// textColumn says that c is not a bare number in JSON.
func textColumn(c flow.Column) bool {
	switch c {
	case flow.ColFirst, flow.ColLast, flow.ColReceived, flow.ColSrc, flow.ColDst, flow.ColNextHop, flow.ColBGPNextHop,
		flow.ColExporter, flow.ColVersion:
		return true
	}
	return false
}

// appendFlow appends a record as a JSON object of the columns that are known.
func appendFlow(dst []byte, r *flow.Record, columns []flow.Column) []byte {
	dst = append(dst, '{')
	sep := false
	for _, c := range columns {
		if !r.Known(c) {
			continue
		}
		if c == flow.ColElements && !json.Valid(r.Elements) {
			continue
		}
		if sep {
			dst = append(dst, ',')
		}
		sep = true
		dst = append(dst, '"')
		dst = append(dst, c.String()...)
		dst = append(dst, '"', ':')
		if textColumn(c) {
			dst = append(dst, '"')
			dst = r.AppendColumn(dst, c)
			dst = append(dst, '"')
		} else {
			dst = r.AppendColumn(dst, c)
		}
	}
	return append(dst, '}')
}

func appendFlowCSV(dst []byte, r *flow.Record, columns []flow.Column) []byte {
	for i, c := range columns {
		if i > 0 {
			dst = append(dst, ',')
		}
		if c == flow.ColElements {
			dst = flow.AppendCSVText(dst, inert(string(r.Elements)))
			continue
		}
		dst = r.AppendColumn(dst, c) // numbers, times, addresses: inert as they are
	}
	return append(dst, '\n')
}

// inert keeps a spreadsheet from taking text off the network for a formula.
func inert(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

// answerFormat is json, csv or ndjson.
func answerFormat(r *http.Request) (string, error) {
	switch f := r.URL.Query().Get("format"); f {
	case "json", "csv", "ndjson":
		return f, nil
	case "":
	default:
		return "", badRequest("format %s is unknown; accepted: json, csv, ndjson", strconv.Quote(f))
	}
	accept := r.Header.Get("Accept")
	switch {
	case strings.Contains(accept, "text/csv"):
		return "csv", nil
	case strings.Contains(accept, typeNDJSON):
		return "ndjson", nil
	}
	return "json", nil
}

// stream is an answer written as it is made. Its header goes out with its
// first octets, so that an error before them still has its status.
type stream struct {
	w       http.ResponseWriter
	buf     *bufio.Writer
	format  string
	name    string
	started bool
}

func newStream(w http.ResponseWriter, r *http.Request, format, name string) *stream {
	s := &stream{w: w, format: format, name: name}
	s.buf = bufio.NewWriterSize((*streamHead)(s), 32<<10)
	return s
}

const truncatedHeader = "X-Query-Truncated"

func (s *stream) Write(p []byte) (int, error) { return s.buf.Write(p) }

// streamHead writes the header before the first octets.
type streamHead stream

func (s *streamHead) Write(p []byte) (int, error) {
	(*stream)(s).start(true)
	return s.w.Write(p)
}

func (s *stream) start(trailer bool) {
	if s.started {
		return
	}
	s.started = true
	h := s.w.Header()
	h.Set("Cache-Control", "no-store")
	if s.format == "csv" {
		h.Set("Content-Type", typeCSV)
	} else {
		h.Set("Content-Type", typeNDJSON)
	}
	h.Set("Content-Disposition", `attachment; filename="weir-`+s.name+"."+s.format+`"`)
	if trailer {
		h.Set("Trailer", truncatedHeader)
	}
	s.w.WriteHeader(http.StatusOK)
}

// end flushes, and says whether the cap cut: in the header if that has not
// gone out yet, else in the trailer.
func (s *stream) end(truncated bool) error {
	if !s.started {
		s.w.Header().Set(truncatedHeader, strconv.FormatBool(truncated))
		s.start(false)
	} else {
		s.w.Header().Set(truncatedHeader, strconv.FormatBool(truncated))
	}
	return s.buf.Flush()
}

var _ io.Writer = (*stream)(nil)
