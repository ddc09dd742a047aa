//go:build cgo

package query

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/duckdb/duckdb-go/v2"
	"golang.org/x/sync/errgroup"

	"weir/flow"
	"weir/store"
)

// engine runs plans on DuckDB, in this process, straight on the store's files.
type engine struct {
	reader *store.Reader
	o      Options
	db     *sql.DB
	temp   string // to remove at Close

	mu       sync.Mutex
	verified map[uint64]bool // segments read whole and found right
	missed   map[uint64]bool // listed but not there, once
}

func open(r *store.Reader, o Options) (_ Engine, err error) {
	if o.Memory <= 0 {
		o.Memory = 1 << 30
	}
	if o.Threads <= 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	e := &engine{reader: r, o: o, verified: map[uint64]bool{}, missed: map[uint64]bool{}}
	if o.TempDir == "" {
		if e.temp, err = os.MkdirTemp("", "weir-query-"); err != nil {
			return nil, fmt.Errorf("query: %w", err)
		}
		o.TempDir = e.temp
	}
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	// The engine reads the store and writes its spill folder, nothing else, and
	// never fetches an extension.
	settings := []string{
		"SET memory_limit = " + quote(strconv.FormatInt(o.Memory>>10, 10)+"KiB"),
		"SET threads = " + strconv.Itoa(o.Threads),
		"SET temp_directory = " + quote(o.TempDir),
		"SET preserve_insertion_order = false",
		"SET parquet_metadata_cache = true",
		"SET autoinstall_known_extensions = false",
		"SET autoload_known_extensions = false",
		"SET allowed_directories = [" + quote(r.Dir()) + ", " + quote(o.TempDir) + "]",
		"SET enable_external_access = false",
		"SET lock_configuration = true",
	}
	first := true
	connector, err := duckdb.NewConnector("", func(c driver.ExecerContext) error {
		if !first { // settings are of the instance; the last one locked them
			return nil
		}
		first = false
		for _, s := range settings {
			if _, err := c.ExecContext(context.Background(), s, nil); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
		return nil
	})
	if err == nil {
		e.db = sql.OpenDB(connector)
		err = e.db.Ping()
	}
	if err != nil {
		e.Close()
		return nil, fmt.Errorf("query: starting the engine: %w", err)
	}
	return e, nil
}

// Close frees the engine.
func (e *engine) Close() error {
	var err error
	if e.db != nil {
		err = e.db.Close()
	}
	if e.temp != "" {
		err = errors.Join(err, os.RemoveAll(e.temp))
	}
	return err
}

// Explain returns the plan and its SQL.
func (e *engine) Explain(r Request) (string, error) {
	raw := r.Stat == "" && len(r.Keys) == 0 && r.Bin == 0
	p, err := newPlan(r, raw)
	if err != nil {
		return "", err
	}
	all, err := e.reader.Segments()
	if err != nil {
		return "", err
	}
	segments := p.prune(all)
	rows, size := uint64(0), int64(0)
	for _, s := range segments {
		rows += s.Rows
		size += s.Size
	}
	text := p.String() + fmt.Sprintf("reads   %d of %d segments, %d records, %d octets\n", len(segments), len(all), rows, size)
	m := p.sql(duckDB{}, segments, e.reader.Path)
	if raw {
		if p.order.name == "last" {
			text += "walks   in slices of time, and stops at the limit\n"
		}
		return text + m.raw(p.limit) + "\n", nil
	}
	return text + m.aggregate() + "\n", nil
}

// attempt calls do with the segments of the span, all of them verified: a
// flipped bit would give a wrong number, not an error. What is broken is left
// out (see Broken). Retention or a merge may take a file away before it is
// read: then it is tried once more with the segments as of now.
func (e *engine) attempt(ctx context.Context, p *plan, do func([]store.Segment) error) error {
	for again := false; ; {
		all, err := e.reader.Segments()
		if err != nil {
			return err
		}
		segments := p.prune(all)
		switch changed, err := e.verify(ctx, segments); {
		case err != nil:
			return err
		case changed: // each time a segment fewer, or a file looked for again
			continue
		}
		err = do(segments)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil || again || errors.Is(err, errSink) {
			return err
		}
		again = true
		e.mu.Lock()
		for _, s := range segments {
			delete(e.verified, s.ID)
		}
		e.mu.Unlock()
	}
}

// verify reads each segment that this engine has not read yet and holds it
// against the catalogue's checksum. changed: some are gone or broken, and the
// catalogue should be asked again.
func (e *engine) verify(ctx context.Context, segments []store.Segment) (changed bool, err error) {
	var todo []store.Segment
	e.mu.Lock()
	for _, s := range segments {
		if !e.verified[s.ID] {
			todo = append(todo, s)
		}
	}
	e.mu.Unlock()
	results := make([]error, len(todo))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, s := range todo {
		g.Go(func() error {
			results[i] = e.reader.Verify(s)
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.verified) > maxVerified { // of segments long merged away
		clear(e.verified)
	}
	for i, s := range todo {
		var corrupt *store.CorruptError
		switch err := results[i]; {
		case err == nil:
			e.verified[s.ID] = true
		case errors.Is(err, os.ErrNotExist) && !e.missed[s.ID]:
			e.missed[s.ID] = true // merged or retired meanwhile, surely
			changed = true
		case errors.As(err, &corrupt), errors.Is(err, os.ErrNotExist):
			e.o.Log.Error("a segment is broken and left out of answers", "err", err)
			e.reader.Exclude(s)
			changed = true
		default:
			return false, fmt.Errorf("query: %w", err)
		}
	}
	return changed, nil
}

// maxVerified bounds what is remembered of segments that are gone.
const maxVerified = 1 << 16

// Broken lists the segments that were found broken or missing and are left out
// of every answer.
func (e *engine) Broken() []store.Segment { return e.reader.Broken() }

// rows runs a query and gives each row to do. The values are valid during the call.
func (e *engine) rows(ctx context.Context, query string, do func([]driver.Value) error) error {
	conn, err := e.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("query: %w", err)
	}
	defer conn.Close()
	return conn.Raw(func(c any) error {
		rows, err := c.(driver.QueryerContext).QueryContext(ctx, query, nil)
		if err != nil {
			return fmt.Errorf("query: %w", err)
		}
		defer rows.Close()
		values := make([]driver.Value, len(rows.Columns()))
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			switch err := rows.Next(values); err {
			case nil:
				if err := do(values); err != nil {
					return err
				}
			case io.EOF:
				return nil
			default:
				return fmt.Errorf("query: %w", err)
			}
		}
	})
}

// Aggregate answers a request with Stat, Keys or Bin.
func (e *engine) Aggregate(ctx context.Context, r Request) (*Result, error) {
	start := time.Now()
	p, err := newPlan(r, false)
	if err != nil {
		return nil, err
	}
	var res *Result
	err = e.attempt(ctx, p, func(segments []store.Segment) error {
		res = &Result{Columns: p.columns(), Segments: len(segments)}
		if len(segments) == 0 {
			return nil
		}
		m := p.sql(duckDB{}, segments, e.reader.Path)
		carried := m.totalInRows()
		if !carried {
			if err := e.total(ctx, m, segments, &res.Total); err != nil {
				return err
			}
		}
		if err := e.rows(ctx, m.aggregate(), func(v []driver.Value) error {
			if carried {
				res.Total.set(v[len(v)-5:])
				v = v[:len(v)-5]
			}
			res.Rows = append(res.Rows, p.row(v))
			return nil
		}); err != nil {
			return err
		}
		if p.limit >= 0 {
			switch {
			case p.bin > 0 && len(p.keys) > 0:
				return e.seriesTruncated(ctx, p, m, res)
			case len(res.Rows) > p.limit:
				res.Rows, res.Truncated = res.Rows[:p.limit], true
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	res.Took = time.Since(start)
	return res, nil
}

// Groups sums what matches by keys, as Groups says.
func (e *engine) Groups(ctx context.Context, r Request, do func(*Group) error) error {
	p, err := newPlan(r, false)
	if err != nil {
		return err
	}
	for _, k := range p.keys {
		if len(k.cols) > 1 || k.net {
			return fmt.Errorf("query: records are not grouped by %s", k.name)
		}
	}
	given := false
	return e.attempt(ctx, p, func(segments []store.Segment) error {
		if given {
			return fmt.Errorf("%w: the answer was begun when a segment vanished", errSink)
		}
		if len(segments) == 0 {
			return nil
		}
		m := p.sql(duckDB{}, segments, e.reader.Path)
		sums := "flows, " + m.d.narrow("packets") + ", " + m.d.narrow("bytes") + ", first, last"
		return e.rows(ctx, "SELECT "+strings.Join(append(m.groupColumns(), sums), ", ")+" FROM ("+m.groups()+")", func(v []driver.Value) error {
			given = true
			var g Group
			for i, k := range p.keys {
				setColumn(&g.Record, k.cols[0], v[i])
			}
			v = v[len(p.keys):]
			g.Flows = unsigned(v[0])
			for i, c := range []column{colPackets, colBytes, colFirst, colLast} {
				setColumn(&g.Record, c, v[i+1])
			}
			if err := do(&g); err != nil {
				return fmt.Errorf("%w: %w", errSink, err)
			}
			return nil
		})
	})
}

// total sums what matches: from the catalogue if that is all of some segments.
func (e *engine) total(ctx context.Context, m *sqlMaker, segments []store.Segment, t *Total) error {
	if m.where == "" {
		for i, s := range segments {
			t.Flows += s.Rows
			t.Packets += s.Packets
			t.Bytes += s.Bytes
			if s.NoFirst < s.Rows && (i == 0 || t.First == 0 || s.MinFirst*1000 < t.First) {
				t.First = s.MinFirst * 1000
			}
			if s.NoLast < s.Rows {
				t.Last = max(t.Last, s.MaxLast*1000)
			}
		}
		return nil
	}
	return e.rows(ctx, m.total(), func(v []driver.Value) error {
		t.set(v)
		return nil
	})
}

// set reads flows, packets, bytes, first, last.
func (t *Total) set(v []driver.Value) {
	*t = Total{Flows: unsigned(v[0]), Packets: unsigned(v[1]), Bytes: unsigned(v[2])}
	if v[3] != nil {
		t.First = integer(v[3]) * 1000
	}
	if v[4] != nil {
		t.Last = integer(v[4]) * 1000
	}
}

// seriesTruncated finds out whether the limit cut groups off a series.
func (e *engine) seriesTruncated(ctx context.Context, p *plan, m *sqlMaker, res *Result) error {
	single := *m.plan
	single.bin, single.limit = 0, p.limit
	n := 0
	all := *m
	all.plan = &single
	err := e.rows(ctx, "SELECT 1 FROM ("+all.groups()+") LIMIT "+strconv.Itoa(p.limit+1), func([]driver.Value) error {
		n++
		return nil
	})
	res.Truncated = n > p.limit
	return err
}

// row makes a result row of the engine's values: time, keys (masks before them),
// then the eight sums.
func (p *plan) row(v []driver.Value) []any {
	var out []any
	if p.bin > 0 {
		out = append(out, micro(v[0]))
		v = v[1:]
	}
	for _, k := range p.keys {
		var mask driver.Value
		if k.ownMask {
			mask, v = v[0], v[1:]
		}
		value := v[0]
		v = v[1:]
		switch {
		case value == nil:
			out = append(out, nil)
		case !k.addr:
			out = append(out, unsigned(value))
		default:
			own := 128
			if mask != nil {
				own = int(unsigned(mask))
			}
			out = append(out, k.text(addrValue(value), own))
		}
	}
	for _, x := range v[:6] { // flows, packets, bytes and the rates
		if x == nil {
			out = append(out, nil)
		} else {
			out = append(out, unsigned(x))
		}
	}
	return append(out, micro(v[6]), micro(v[7]))
}

var errSink = errors.New("the taker refused")

// Flows gives the raw records, newest first unless Order says otherwise. The
// total is over the records given.
func (e *engine) Flows(ctx context.Context, r Request, sink flow.Sink) (Total, error) {
	var t Total
	p, err := newPlan(r, true)
	if err != nil {
		return t, err
	}
	w := &recordWriter{sink: sink, total: &t}
	err = e.attempt(ctx, p, func(segments []store.Segment) error {
		if w.given > 0 {
			return fmt.Errorf("%w: the answer was begun when a segment vanished", errSink)
		}
		if p.order.name != "last" {
			if len(segments) == 0 {
				return nil
			}
			m := p.sql(duckDB{}, segments, e.reader.Path)
			if err := e.rows(ctx, m.raw(p.limit), w.row); err != nil {
				return err
			}
			return w.flush()
		}
		return e.walk(ctx, p, segments, w)
	})
	return t, err
}

// walk gives records in order of time: slice by slice, so that it can stop at
// the limit, and never sorts more than a slice.
func (e *engine) walk(ctx context.Context, p *plan, segments []store.Segment, w *recordWriter) error {
	left := p.limit
	for slice := range timeSlices(p, segments) {
		part := *p
		part.from, part.to = max(p.from, slice.from), min(p.to, slice.to)
		in := part.prune(segments)
		if len(in) == 0 {
			continue
		}
		before := w.given
		m := part.sql(duckDB{}, in, e.reader.Path)
		if err := e.rows(ctx, m.raw(left), w.row); err != nil {
			return err
		}
		if p.limit >= 0 {
			if left -= w.given - before; left <= 0 {
				break
			}
		}
	}
	return w.flush()
}

// recordWriter turns rows into records, in batches.
type recordWriter struct {
	sink  flow.Sink
	batch []flow.Record
	given int // rows taken
	total *Total
}

const recordBatch = 512

func (w *recordWriter) row(v []driver.Value) error {
	if w.batch == nil {
		w.batch = make([]flow.Record, 0, recordBatch)
	}
	w.batch = w.batch[:len(w.batch)+1]
	r := &w.batch[len(w.batch)-1]
	*r = flow.Record{}
	readRecord(r, v)
	w.given++
	w.total.add(r)
	if len(w.batch) == cap(w.batch) {
		return w.flush()
	}
	return nil
}

func (w *recordWriter) flush() error {
	if len(w.batch) == 0 {
		return nil
	}
	err := w.sink.WriteRecords(w.batch)
	w.batch = w.batch[:0]
	if err != nil {
		return fmt.Errorf("%w: %w", errSink, err)
	}
	return nil
}

// readRecord sets r from the values of rawColumns.
func readRecord(r *flow.Record, v []driver.Value) {
	for c := range colFlows {
		setColumn(r, c, v[c])
	}
}

// setColumn sets a field of r, unless it is not known.
func setColumn(r *flow.Record, c column, x driver.Value) {
	if x == nil {
		return
	}
	r.Has |= columnBits[c]
	switch c {
	case colFirst:
		r.First = integer(x) * 1000
	case colLast:
		r.Last = integer(x) * 1000
	case colReceived:
		r.Received = integer(x) * 1000
	case colSrc:
		r.Src = addrValue(x)
	case colDst:
		r.Dst = addrValue(x)
	case colNextHop:
		r.NextHop = addrValue(x)
	case colBGPNextHop:
		r.BGPNextHop = addrValue(x)
	case colExporter:
		r.Exporter = addrValue(x)
	case colProto:
		r.Proto = uint8(unsigned(x))
	case colSrcPort:
		r.SrcPort = uint16(unsigned(x))
	case colDstPort:
		r.DstPort = uint16(unsigned(x))
	case colTOS:
		r.TOS = uint8(unsigned(x))
	case colTCPFlags:
		r.TCPFlags = uint16(unsigned(x))
	case colPackets:
		r.Packets = unsigned(x)
	case colBytes:
		r.Bytes = unsigned(x)
	case colInput:
		r.Input = uint32(unsigned(x))
	case colOutput:
		r.Output = uint32(unsigned(x))
	case colDirection:
		r.Direction = uint8(unsigned(x))
	case colVLAN:
		r.VLAN = uint16(unsigned(x))
	case colICMPType:
		r.ICMPType = uint8(unsigned(x))
	case colICMPCode:
		r.ICMPCode = uint8(unsigned(x))
	case colSrcAS:
		r.SrcAS = uint32(unsigned(x))
	case colDstAS:
		r.DstAS = uint32(unsigned(x))
	case colSrcMask:
		r.SrcMask = uint8(unsigned(x))
	case colDstMask:
		r.DstMask = uint8(unsigned(x))
	case colSampling:
		r.Sampling = uint32(unsigned(x))
	case colEndReason:
		r.EndReason = flow.EndReason(unsigned(x))
	case colForwardingStatus:
		r.ForwardingStatus = uint8(unsigned(x))
	case colDomain:
		r.Domain = uint32(unsigned(x))
	case colVersion:
		r.Version = uint8(unsigned(x))
	case colFlowID:
		r.FlowID = unsigned(x)
	case colIPVersion:
		r.IPVersion = uint8(unsigned(x))
	case colFragment:
		r.Fragment = unsigned(x) != 0
	case colElements:
		if s, ok := x.(string); ok {
			r.Elements = []byte(s)
		}
	}
}

// addrValue is an address as the engine gives it.
func addrValue(x driver.Value) flow.Addr {
	b, ok := x.([]byte)
	if !ok || len(b) != 16 {
		panic(fmt.Sprintf("query: the engine gives %T for an address", x))
	}
	return flow.Addr(b)
}

func unsigned(x driver.Value) uint64 {
	switch x := x.(type) {
	case uint64:
		return x
	case uint32:
		return uint64(x)
	case uint16:
		return uint64(x)
	case uint8:
		return uint64(x)
	case int64:
		return uint64(x)
	case int32:
		return uint64(x)
	case *big.Int:
		return x.Uint64()
	}
	panic(fmt.Sprintf("query: the engine gives %T for a number", x))
}

func integer(x driver.Value) int64 { return int64(unsigned(x)) }

// micro is a time of the engine, or nil.
func micro(x driver.Value) any {
	if x == nil {
		return nil
	}
	return time.UnixMicro(integer(x)).UTC()
}
