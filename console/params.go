package console

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"weir/query"
)

// parseQuery is r.URL.Query() that does not overlook errors.
func parseQuery(r *http.Request) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("query string: %v", err)
	}
	return q, nil
}

// request reads what all queries have in common. The filter is parsed here, so
// that its errors come with their place and before anything is run.
func (s *Server) request(r *http.Request) (query.Request, error) {
	q, err := parseQuery(r)
	if err != nil {
		return query.Request{}, err
	}
	now := time.Now()
	var req query.Request
	if req.From, err = parseTime("from", q.Get("from"), now); err != nil {
		return req, err
	}
	if req.To, err = parseTime("to", q.Get("to"), now); err != nil {
		return req, err
	}
	if !req.From.IsZero() && !req.To.IsZero() && !req.From.Before(req.To) {
		return req, badRequest("from %s is not before to %s", stamp(req.From), stamp(req.To))
	}
	req.Filter = strings.TrimSpace(q.Get("filter"))
	if err := checkFilter(req.Filter); err != nil {
		return req, err
	}
	req.Order = q.Get("order")
	req.Limit, err = parseCount("limit", q.Get("limit"))
	return req, err
}

// maxFilter bounds a filter's length, in octets.
const maxFilter = 16 << 10

func checkFilter(filter string) error {
	if len(filter) > maxFilter {
		return badRequest("filter: %d octets; at most %d are accepted", len(filter), maxFilter)
	}
	if _, err := query.Parse(filter); err != nil {
		if e, ok := errors.AsType[*query.SyntaxError](err); ok {
			return filterError(e)
		}
		return badRequest("filter: %v", err)
	}
	return nil
}

func filterError(e *query.SyntaxError) *apiError {
	return &apiError{
		Status: http.StatusBadRequest, Message: e.Msg, Line: e.Line, Column: e.Col, Width: e.Width,
		Accepted: e.Accepted, Suggestion: e.Suggest,
	}
}

// and joins two filters; either may be empty.
func and(a, b string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	}
	// A comment may end a filter: the bracket stands on a line of its own.
	return "(" + a + "\n) and (" + b + "\n)"
}

func parseCount(name, s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, badRequest("%s %s is not a number above 0", name, strconv.Quote(s))
	}
	return n, nil
}

var layouts = []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"}

// parseTime reads a point in time; empty is the zero time.
func parseTime(name, s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return time.Time{}, nil
	case s == "now":
		return now, nil
	case s[0] == '-' || s[0] == '+':
		if d, err := parseDuration(s[1:]); err == nil {
			if s[0] == '-' {
				d = -d
			}
			return now.Add(d), nil
		}
	default:
		for _, layout := range layouts {
			if t, err := time.Parse(layout, s); err == nil {
				return t.UTC(), nil
			}
		}
		if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) < 1<<33 {
			sec, frac := math.Modf(f)
			return time.Unix(int64(sec), int64(frac*1e9)).UTC(), nil
		}
	}
	return time.Time{}, badRequest("%s %s is not a time; accepted: RFC 3339, 2026-11-22 10:00, Unix seconds, -1h", name, strconv.Quote(s))
}

// parseDuration is time.ParseDuration with days and weeks.
func parseDuration(s string) (time.Duration, error) {
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			f, err := strconv.ParseFloat(n, 64)
			if err != nil || math.Abs(f) > 36500 {
				return 0, fmt.Errorf("%s is not a duration", strconv.Quote(s))
			}
			return time.Duration(f * float64(unit)), nil
		}
	}
	return time.ParseDuration(s)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// steps are the widths that bins may have on their own.
var steps = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

// maxBins bounds a series.
const maxBins = 2000

// fittingBin is the width that gives at most 180 bins over span, five seconds
// at least: an exporter's records do not come finer than that.
func fittingBin(span time.Duration) time.Duration {
	for _, step := range steps[2:] {
		if span <= 180*step {
			return step
		}
	}
	days := (span/180 + 24*time.Hour - 1) / (24 * time.Hour)
	return days * 24 * time.Hour
}
