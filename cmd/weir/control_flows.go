package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir/flow"
	"weir/host"
	"weir/query"
	"weir/rows"
)

// The flows in the cache are chosen, sorted and printed here, in the process
// that has them, and streamed: `weir show` only copies. Nothing of this holds
// more than a list that was asked for, and the meter waits for none of it.

// errNotMetering answers what only a metering process can.
var errNotMetering = errors.New("no interface is metered here")

const (
	maxWalks   = 4 // at the same time; each holds a part of the cache
	walkWait   = 10 * time.Second
	streamWait = 10 * time.Minute // that a reader may pause, in a pager say
	maxForm    = 16 << 20         // octets of a question: filters may list many addresses

	// tableFlows is how many flows a table has unless it is said.
	tableFlows  = 100
	topTalkers  = 10
	tableAtOnce = 5000 // rows that a table's columns are fitted to at a time
)

// walkOf is how the flows of m are seen.
func walkOf(m metering) query.Walk {
	if w, ok := m.(walker); ok {
		return w.Walk
	}
	return func(ctx context.Context, yield func([]flow.Record) error) error {
		all, err := m.Entries(ctx)
		if err != nil {
			return err
		}
		return yield(all)
	}
}

// desk answers questions about a node's flows.
type desk struct {
	node *node
	busy chan struct{}

	mu    sync.Mutex
	noted [2]traffic // older first
}

func newDesk(n *node) *desk { return &desk{node: n, busy: make(chan struct{}, maxWalks)} }

// flowQuestion is what can be asked about flows.
type flowQuestion struct {
	filter *query.Filter
	text   string // of filter
	order  string // "": none
	stat   string
	limit  int // 0: not said; -1: all
	format string
	width  int // of the terminal; 0: no limit
}

// Formats beside those of rows: IOS's layouts.
const (
	formatCisco   = "cisco"
	formatVerbose = "cisco-verbose"
)

// badQuestion is the asker's to mend.
type badQuestion struct{ error }

func parseQuestion(w http.ResponseWriter, r *http.Request) (q flowQuestion, err error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return q, badQuestion{err}
	}
	number := func(name string) (n int) {
		if s := r.Form.Get(name); s != "" && err == nil {
			if n, err = strconv.Atoi(s); err != nil || n < -1 {
				err = fmt.Errorf("%s %q: accepted: a number", name, s)
			}
		}
		return n
	}
	q = flowQuestion{
		text: r.Form.Get("filter"), order: r.Form.Get("order"), stat: r.Form.Get("stat"), format: r.Form.Get("format"),
		limit: number("limit"), width: number("width"),
	}
	if q.format == "" {
		q.format = string(rows.Table)
	}
	if _, known := rows.ParseFormat(q.format); err == nil && known != nil && !q.cisco() {
		err = known
	}
	if err == nil {
		q.filter, err = query.Parse(q.text)
	}
	if err != nil {
		err = badQuestion{err}
	}
	return q, err
}

func (q *flowQuestion) cisco() bool { return q.format == formatCisco || q.format == formatVerbose }

// answers writes an answer about flows to out.
type answers func(ctx context.Context, m metering, q flowQuestion, out *answer) error

// handle lets an answer be asked for.
func (d *desk) handle(give answers) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out := &answer{w: w, c: http.NewResponseController(w)}
		err := d.give(give, out, w, r)
		switch {
		case err == nil:
		case out.begun:
			// Too late for a status: the stream breaks, so that nobody takes half
			// an answer for a whole one.
			d.node.log.Debug("control answer cut short", "path", r.URL.Path, "error", err)
			panic(http.ErrAbortHandler)
		default:
			refuse(w, err)
		}
	}
}

func (d *desk) give(give answers, out *answer, w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuestion(w, r)
	if err != nil {
		return err
	}
	m, _, _ := d.node.rooms()
	if m == nil {
		return errNotMetering
	}
	select {
	case d.busy <- struct{}{}:
		defer func() { <-d.busy }()
	case <-r.Context().Done():
		return r.Context().Err()
	case <-time.After(walkWait):
		return fmt.Errorf("%d others are being answered; ask again later", maxWalks)
	}
	if err := give(r.Context(), m, q, out); err != nil {
		return err
	}
	out.begin()
	return nil
}

// refuse answers with an error: what is the asker's to mend as 400.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	var bad badQuestion
	switch {
	case errors.As(err, &bad):
		status = http.StatusBadRequest
	case errors.Is(err, errNotMetering):
		status = http.StatusNotFound
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"error": err.Error()}) // a client that went away is no failure
}

// answer is the stream to one client. A client that reads slowly holds up
// nobody else; one that does not read at all is cut off.
type answer struct {
	w     http.ResponseWriter
	c     *http.ResponseController
	begun bool
}

// Names of what is told after the rows.
const (
	trailerMatched = "Weir-Matched" // flows, or groups, that there were
	trailerGiven   = "Weir-Given"   // that were printed
)

func (a *answer) begin() {
	if !a.begun {
		a.begun = true
		a.w.Header().Set("Trailer", trailerMatched+", "+trailerGiven)
		a.w.WriteHeader(http.StatusOK)
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.begin()
	if err := a.c.SetWriteDeadline(time.Now().Add(streamWait)); err != nil {
		return 0, err
	}
	return a.w.Write(p)
}

// told says how many there were and how many were printed.
func (a *answer) told(matched, given uint64) {
	a.begin()
	a.w.Header().Set(trailerMatched, strconv.FormatUint(matched, 10))
	a.w.Header().Set(trailerGiven, strconv.FormatUint(given, 10))
}

// flows answers `weir show flows`.
func (d *desk) flows(ctx context.Context, m metering, q flowQuestion, out *answer) error {
	if q.cisco() {
		return d.ciscoFlows(ctx, m, q, out)
	}
	if q.limit == 0 && q.format == string(rows.Table) {
		q.limit = tableFlows
	}
	memory := query.NewMemory(walkOf(m))
	sink := d.printer(q, out)
	if q.limit > 0 || q.order != "" {
		if q.order == "" {
			q.order = "bytes"
		}
		list, total, err := d.first(ctx, memory, q)
		if err != nil {
			return err
		}
		if err := sink.WriteRecords(list); err != nil {
			return err
		}
		out.told(total.Flows, uint64(len(list)))
		return sink.Close()
	}
	total, err := memory.Stream(ctx, q.filter, sink)
	if err != nil {
		return err
	}
	if err := sink.Close(); err != nil {
		return err
	}
	out.told(total.Flows, total.Flows)
	return nil
}

// first gives the first flows by the question's order.
func (d *desk) first(ctx context.Context, memory *query.Memory, q flowQuestion) ([]flow.Record, query.Total, error) {
	r := query.Request{Filter: q.text, Order: flowOrder(q.order), Limit: q.limit}
	if q.limit <= 0 {
		return nil, query.Total{}, badQuestion{fmt.Errorf("an order needs -n N, of 1 to %d flows", query.MostSorted)}
	}
	if _, err := memory.Explain(r); err != nil {
		return nil, query.Total{}, badQuestion{err}
	}
	return memory.First(ctx, r)
}

// flowOrder takes first and last for what nfdump calls tstart and tend.
func flowOrder(s string) string {
	for from, to := range map[string]string{"first": "tstart", "last": "tend"} {
		if s == from {
			return to + ":d" // the newest, as people ask for them
		}
		if len(s) > len(from) && s[:len(from)+1] == from+":" {
			return to + s[len(from):]
		}
	}
	return s
}

// top answers `weir show top-talkers`: flows, or sums by a statistic.
func (d *desk) top(ctx context.Context, m metering, q flowQuestion, out *answer) error {
	if q.limit == 0 {
		q.limit = topTalkers
	}
	memory := query.NewMemory(walkOf(m))
	if q.stat == "" {
		if q.order == "" {
			q.order = "bytes"
		}
		list, total, err := d.first(ctx, memory, q)
		if err != nil {
			return err
		}
		if q.cisco() {
			return d.ciscoTop(ctx, memory, q, list, total, out)
		}
		sink := d.printer(q, out)
		if err := sink.WriteRecords(list); err != nil {
			return err
		}
		out.told(total.Flows, uint64(len(list)))
		return sink.Close()
	}
	r := query.Request{Filter: q.text, Stat: q.stat, Order: flowOrder(q.order), Limit: q.limit}
	if q.order == "" && !statOrders(q.stat) {
		r.Order = "bytes"
	}
	if _, err := memory.Explain(r); err != nil {
		return badQuestion{err}
	}
	res, err := memory.Aggregate(ctx, r)
	if err != nil {
		return err
	}
	if q.cisco() {
		return ciscoGroups(out, res)
	}
	if q.format == string(rows.Table) {
		_, err = writeTable(out, res.Columns, res.Rows, q.width, []string{"first", "bpp", "pps", "last", "flows"}, "")
	} else {
		w := rows.New(out, rows.Format(q.format), res.Columns)
		for _, line := range res.Rows {
			if err := w.Row(line); err != nil {
				return err
			}
		}
		err = w.Close()
	}
	out.told(res.Total.Flows, uint64(len(res.Rows)))
	return err
}

// statOrders says whether a statistic names its order, as srcip/packets does.
func statOrders(stat string) bool {
	head, rest, found := strings.Cut(strings.ToLower(stat), "/")
	if strings.HasSuffix(head, "ip4") || strings.HasSuffix(head, "ip6") { // the length of the prefix first
		_, _, found = strings.Cut(rest, "/")
	}
	return found
}

// recordPrinter prints records and ends well-formed.
type recordPrinter interface {
	flow.Sink
	Close() error
}

// printer prints flows as the question wants them.
func (d *desk) printer(q flowQuestion, out io.Writer) recordPrinter {
	if q.format == string(rows.Table) {
		return &flowTable{out: out, width: q.width, names: interfaceNameTable(), now: time.Now().UnixNano()}
	}
	return rows.NewFlows(out, rows.Format(q.format), false)
}

// interfaceNameTable gives this machine's interfaces by index, safe to print.
func interfaceNameTable() map[uint32]string {
	names := map[uint32]string{}
	if all, err := host.Links(); err == nil { // else there are numbers
		for _, i := range all {
			names[i.Index] = rows.Plain(i.Name)
		}
	}
	return names
}
