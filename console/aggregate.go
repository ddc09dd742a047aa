package console

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"weir/flow"
	"weir/query"
)

const defaultTop = 10

func (s *Server) top(w http.ResponseWriter, r *http.Request) error {
	req, err := s.request(r)
	if err != nil {
		return err
	}
	req.Stat = r.URL.Query().Get("stat")
	if req.Order != "" {
		// A statistic carries its order: srcip/bytes.
		if stat, _, has := strings.Cut(req.Stat, "/"); has {
			return badRequest("stat %s has an order already; leave out order, or say stat=%s", strconv.Quote(req.Stat), stat)
		}
		req.Stat += "/" + req.Order
		req.Order = ""
	}
	return s.rows(w, r, req, "top")
}

func (s *Server) aggregate(w http.ResponseWriter, r *http.Request) error {
	req, err := s.request(r)
	if err != nil {
		return err
	}
	req.Keys = splitKeys(r.URL.Query().Get("keys"))
	return s.rows(w, r, req, "aggregate")
}

func splitKeys(list string) []string {
	var keys []string
	for k := range strings.SplitSeq(list, ",") {
		if k = strings.TrimSpace(k); k != "" {
			keys = append(keys, k)
		}
	}
	return keys
}

// rows answers an aggregated request in the format asked for.
func (s *Server) rows(w http.ResponseWriter, r *http.Request, req query.Request, name string) error {
	format, err := answerFormat(r)
	if err != nil {
		return err
	}
	limit, most := req.Limit, s.opt.MaxRows
	if format != "json" {
		most = s.opt.MaxStreamRows
	}
	if limit == 0 {
		limit = defaultTop
	}
	req.Limit = min(limit, most)
	res, took, err := s.ask(r.Context(), req)
	if err != nil {
		return err
	}
	if format == "json" {
		return writeJSON(w, r, newRowsAnswer(res, took))
	}
	out := newStream(w, r, format, name)
	w.Header().Set(truncatedHeader, strconv.FormatBool(res.Truncated))
	out.start(false)
	return writeRows(out, res, format)
}

// ask runs one aggregated request within the budget.
func (s *Server) ask(ctx context.Context, req query.Request) (res *query.Result, took time.Duration, err error) {
	err = s.limited(ctx, func(ctx context.Context) error {
		start := time.Now()
		res, err = s.opt.Engine.Aggregate(ctx, req)
		took = time.Since(start)
		s.metrics.query(took)
		return err
	})
	return res, took, s.blame(req, err)
}

// writeRows writes an aggregated answer as CSV or NDJSON.
func writeRows(out *stream, res *query.Result, format string) error {
	var line []byte
	if format == "csv" {
		for i, c := range res.Columns {
			if i > 0 {
				line = append(line, ',')
			}
			line = flow.AppendCSVText(line, inert(c))
		}
		out.Write(append(line, '\n'))
	}
	for _, row := range res.Rows {
		line = line[:0]
		if format == "ndjson" {
			line = append(line, '{')
		}
		for i, v := range row {
			if i > 0 {
				line = append(line, ',')
			}
			if format == "ndjson" {
				line = append(flow.AppendJSONText(line, res.Columns[i]), ':')
			}
			line = appendCell(line, v, format == "ndjson")
		}
		if format == "ndjson" {
			line = append(line, '}')
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return out.buf.Flush()
}

func appendCell(dst []byte, v any, asJSON bool) []byte {
	switch v := jsonValue(v).(type) {
	case string:
		if asJSON {
			return flow.AppendJSONText(dst, v)
		}
		return flow.AppendCSVText(dst, inert(v))
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case uint64:
		return strconv.AppendUint(dst, v, 10)
	case float64:
		return flow.AppendFloat(dst, v)
	}
	if asJSON {
		return append(dst, "null"...)
	}
	return dst
}
