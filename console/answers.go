package console

import (
	"math"
	"time"

	"weir/flow"
	"weir/query"
)

// Total sums what a question matched, before any limit.
type Total struct {
	Flows   uint64 `json:"flows"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	First   string `json:"first,omitempty"` // start of the earliest flow
	Last    string `json:"last,omitempty"`  // end of the latest
}

func newTotal(t query.Total) Total {
	return Total{Flows: t.Flows, Packets: t.Packets, Bytes: t.Bytes, First: instant(t.First), Last: instant(t.Last)}
}

// instant prints Unix ns; "" if unknown.
func instant(ns int64) string {
	if ns == 0 {
		return ""
	}
	return string(flow.AppendTime(nil, ns))
}

// RowsAnswer is a table: a value, or null, under each column.
type RowsAnswer struct {
	Columns   []string `json:"columns"`
	Rows      [][]any  `json:"rows"`
	Filters   []string `json:"filters"` // selects what a row sums; "" where the language has no words for it
	Total     Total    `json:"total"`
	TookMs    float64  `json:"took_ms"`
	Segments  int      `json:"segments"` // files read
	Truncated bool     `json:"truncated"`
}

func newRowsAnswer(res *query.Result, took time.Duration) *RowsAnswer {
	a := &RowsAnswer{
		Columns: res.Columns, Rows: make([][]any, len(res.Rows)), Filters: make([]string, len(res.Rows)),
		Total: newTotal(res.Total), TookMs: millis(took), Segments: res.Segments, Truncated: res.Truncated,
	}
	keys := keyColumns(res.Columns)
	for i, row := range res.Rows {
		a.Filters[i] = rowFilter(res.Columns, row, keys)
		out := make([]any, len(row))
		for j, v := range row {
			out[j] = jsonValue(v)
		}
		a.Rows[i] = out
	}
	return a
}

func millis(d time.Duration) float64 { return math.Round(float64(d)/1e4) / 100 }

// jsonValue turns a cell into what JSON can say.
func jsonValue(v any) any {
	switch v := v.(type) {
	case time.Time:
		return instant(v.UnixNano())
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil
		}
	}
	return v
}

// number reads a cell that holds a count.
func number(v any) uint64 {
	switch v := v.(type) {
	case uint64:
		return v
	case int64:
		return uint64(max(v, 0))
	case float64:
		if v > 0 {
			return uint64(v)
		}
	}
	return 0
}

// column finds a column; -1 if it is not there.
func column(columns []string, name string) int {
	for i, c := range columns {
		if c == name {
			return i
		}
	}
	return -1
}
