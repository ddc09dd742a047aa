package console

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/flow"
	"weir/query"
)

// NowAnswer is what the Now screen shows.
type NowAnswer struct {
	AsOf   string  `json:"as_of"`
	TookMs float64 `json:"took_ms"`
	Range  string  `json:"range"` // 5m, 15m, 1h, 6h, 24h; "" for given ends
	From   string  `json:"from"`
	To     string  `json:"to"`
	Filter string  `json:"filter"`
	// Series is split by direction; null without a store.
	Series *SeriesAnswer `json:"series"`
	Tops   []Top         `json:"tops"`
	// Newest is the newest flow record, as in flows; null if there is none.
	Newest     json.RawMessage `json:"newest"`
	Losses     []LossLine      `json:"losses"`
	Exporters  []Exporter      `json:"exporters"`
	Interfaces []Interface     `json:"interfaces"`
	Status     StatusAnswer    `json:"status"`
}

// Top is one card of the Now screen.
type Top struct {
	Name string `json:"name"` // sources, destinations, ports, …
	Stat string `json:"stat"` // the statistic, for the top route
	RowsAnswer
}

// nowRanges are the ranges of the Now screen, by name.
var nowRanges = []struct {
	name string
	span time.Duration
}{
	{"5m", 5 * time.Minute}, {"15m", 15 * time.Minute}, {"1h", time.Hour}, {"6h", 6 * time.Hour}, {"24h", 24 * time.Hour},
}

// nowTops are the cards, in order.
var nowTops = []struct {
	name, stat string
	keys       []string // instead of the statistic: an ifIndex means something at its exporter only
}{
	{"sources", "srcip", nil},
	{"destinations", "dstip", nil},
	{"ports", "port:p", nil},
	{"protocols", "proto", nil},
	{"source AS", "srcas", nil},
	{"destination AS", "dstas", nil},
	{"exporters", "router", nil},
	{"input interfaces", "inif", []string{"router", "inif"}},
}

const (
	nowRows   = 6
	nowAtOnce = 2               // queries of one answer that run side by side
	nowShared = 2 * time.Second // an answer is given to whoever asks within
	nowLoad   = 4               // … or within so many times what it took
	nowKept   = 32              // answers kept
)

// nowCache shares answers: many open screens cost what one does.
type nowCache struct {
	mu      sync.Mutex
	entries map[string]*nowEntry
}

type nowEntry struct {
	done chan struct{} // closed when body and err are set
	body []byte
	err  error
	at   time.Time     // when it was ready
	keep time.Duration // for how long it is shared
}

func newNowCache() *nowCache { return &nowCache{entries: map[string]*nowEntry{}} }

// get returns the entry for key, and whether the caller has to fill it.
func (c *nowCache) get(key string, now time.Time) (e *nowEntry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil {
		select {
		case <-e.done:
			if e.err == nil && now.Sub(e.at) < e.keep {
				return e, false
			}
		default:
			return e, false
		}
	}
	if len(c.entries) >= nowKept {
		for k, old := range c.entries {
			select {
			case <-old.done:
				delete(c.entries, k)
			default:
			}
		}
	}
	e = &nowEntry{done: make(chan struct{})}
	if len(c.entries) < nowKept {
		c.entries[key] = e
	}
	return e, true
}

func (s *Server) nowPage(w http.ResponseWriter, r *http.Request) error {
	req, err := s.request(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	name := q.Get("range")
	span := time.Duration(0)
	switch {
	case !req.From.IsZero() || !req.To.IsZero():
		if name != "" {
			return badRequest("range and from/to exclude each other")
		}
		if req.To.IsZero() {
			req.To = time.Now()
		}
		if req.From.IsZero() {
			req.From = req.To.Add(-time.Hour)
		}
	case name == "":
		name, span = s.fittingRange(time.Now())
	default:
		for _, known := range nowRanges {
			if known.name == name {
				span = known.span
			}
		}
		if span == 0 {
			return badRequest("range %q is unknown; accepted: 5m, 15m, 1h, 6h, 24h", name)
		}
	}
	// Asked for by its words, not by the moment: who asks for the last hour gets
	// the same as who asked a second ago.
	key := q.Get("range") + "\x00" + q.Get("from") + "\x00" + q.Get("to") + "\x00" + req.Filter
	e, mine := s.now.get(key, time.Now())
	if mine {
		// Others may wait for this answer: it does not end with who asked first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), s.opt.QueryTimeout)
		go func() {
			defer cancel()
			start := time.Now()
			answer, err := s.nowAnswer(ctx, req, name, span)
			if err == nil {
				e.body, err = json.Marshal(answer)
			}
			e.err, e.at = err, time.Now()
			e.keep = max(nowShared, nowLoad*e.at.Sub(start))
			close(e.done)
		}()
	} else {
		s.metrics.shared.Inc()
	}
	select {
	case <-e.done:
	case <-r.Context().Done():
		return r.Context().Err()
	}
	if e.err != nil {
		return e.err
	}
	w.Header().Set("Age", strconv.Itoa(int(time.Since(e.at)/time.Second)))
	return writeJSONBytes(w, r, append(e.body[:len(e.body):len(e.body)], '\n'))
}

// fittingRange is the shortest range that holds all there is, an hour at most:
// a store that is a minute old fills the picture.
func (s *Server) fittingRange(now time.Time) (string, time.Duration) {
	if s.opt.Store != nil {
		oldest := s.opt.Store().Oldest
		for _, r := range nowRanges[:2] {
			if oldest.IsZero() || now.Sub(oldest) < r.span {
				return r.name, r.span
			}
		}
	}
	return nowRanges[2].name, nowRanges[2].span
}

// nowAnswer asks all the questions of the Now screen.
func (s *Server) nowAnswer(ctx context.Context, req query.Request, name string, span time.Duration) (*NowAnswer, error) {
	start := time.Now()
	if span > 0 {
		req.To = start
		req.Bin = fittingBin(span)
		width := int64(req.Bin / time.Second)
		req.From = time.Unix(floorTo(start.Add(-span).Unix(), width)+width, 0).UTC()
	}
	a := &NowAnswer{
		AsOf: string(flow.AppendTime(nil, start.UnixNano())), Range: name, Filter: req.Filter,
		Tops: []Top{}, Losses: s.lossLines(), Exporters: []Exporter{}, Interfaces: []Interface{}, Status: *s.statusAnswer(),
		Newest: json.RawMessage("null"),
	}
	if s.opt.Exporters != nil {
		a.Exporters = append(a.Exporters, s.opt.Exporters()...)
	}
	if s.opt.Interfaces != nil {
		a.Interfaces = append(a.Interfaces, s.opt.Interfaces()...)
	}
	if s.opt.Engine != nil {
		if err := s.nowTraffic(ctx, req, a); err != nil {
			return nil, err
		}
	}
	a.From, a.To = string(flow.AppendTime(nil, req.From.UnixNano())), string(flow.AppendTime(nil, req.To.UnixNano()))
	a.TookMs = millis(time.Since(start))
	return a, nil
}

func (s *Server) nowTraffic(ctx context.Context, req query.Request, a *NowAnswer) error {
	b, err := s.span(ctx, &req)
	if err != nil {
		return err
	}
	a.Tops = make([]Top, len(nowTops))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(nowAtOnce)
	group.Go(func() (err error) {
		series := req
		series.Limit = -1
		start := time.Now()
		if a.Series, err = s.seriesByDirection(ctx, series, b); err == nil {
			a.Series.TookMs = millis(time.Since(start))
		}
		return err
	})
	for i, t := range nowTops {
		group.Go(func() error {
			top := query.Request{From: req.From, To: req.To, Filter: req.Filter, Stat: t.stat + "/bytes", Limit: nowRows}
			if t.keys != nil {
				top.Stat, top.Keys, top.Order = "", t.keys, "bytes"
			}
			res, took, err := s.ask(ctx, top)
			if err == nil {
				a.Tops[i] = Top{t.name, t.stat, *newRowsAnswer(res, took)}
			}
			return err
		})
	}
	group.Go(func() error {
		newest := query.Request{From: req.From, To: req.To, Filter: req.Filter, Limit: 1}
		columns, _ := parseColumns("")
		return s.limited(ctx, func(ctx context.Context) error {
			_, err := s.opt.Engine.Flows(ctx, newest, flow.SinkFunc(func(batch []flow.Record) error {
				if len(batch) > 0 && string(a.Newest) == "null" {
					a.Newest = appendFlow(nil, &batch[0], columns)
				}
				return nil
			}))
			return err
		})
	})
	return group.Wait()
}
