package console

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weir/flow"
	"weir/query"
)

// memory is a query.Engine over a slice: the naive twin of the real one, which
// the browser's numbers are compared with.
type memory struct {
	records func() []flow.Record
	delay   time.Duration // of every question, for the tests of the budget
}

func fixed(records []flow.Record) *memory {
	return &memory{records: func() []flow.Record { return records }}
}

func (m *memory) wait(ctx context.Context) error {
	if m.delay == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(m.delay):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// match lists what a request is about.
func (m *memory) match(r query.Request) ([]flow.Record, query.Total, error) {
	f, err := query.Parse(r.Filter)
	if err != nil {
		return nil, query.Total{}, err
	}
	var found []flow.Record
	var total query.Total
	for _, rec := range m.records() {
		if !r.From.IsZero() && rec.Last < r.From.UnixNano() || !r.To.IsZero() && rec.Last >= r.To.UnixNano() || !f.Match(&rec) {
			continue
		}
		found = append(found, rec)
		total.Flows++
		total.Packets += rec.Packets
		total.Bytes += rec.Bytes
		if total.First == 0 || rec.First < total.First {
			total.First = rec.First
		}
		total.Last = max(total.Last, rec.Last)
	}
	return found, total, nil
}

func (m *memory) Explain(r query.Request) (string, error) {
	_, err := m.Aggregate(context.Background(), query.Request{Stat: r.Stat, Keys: r.Keys, Limit: 1})
	return "a slice, from end to end", err
}

func (m *memory) Flows(ctx context.Context, r query.Request, sink flow.Sink) (query.Total, error) {
	if err := m.wait(ctx); err != nil {
		return query.Total{}, err
	}
	found, total, err := m.match(r)
	if err != nil {
		return total, err
	}
	order, direction, _ := strings.Cut(r.Order, ":")
	by := func(f func(*flow.Record) float64) {
		slices.SortStableFunc(found, func(a, b flow.Record) int {
			if c := cmp.Compare(f(&b), f(&a)); direction != "a" && (direction == "d" || !strings.HasPrefix(order, "t")) || order == "" {
				return c
			} else {
				return -c
			}
		})
	}
	switch order {
	case "", "tend":
		by(func(r *flow.Record) float64 { return float64(r.Last) })
	case "tstart":
		by(func(r *flow.Record) float64 { return float64(r.First) })
	case "bytes":
		by(func(r *flow.Record) float64 { return float64(r.Bytes) })
	case "packets":
		by(func(r *flow.Record) float64 { return float64(r.Packets) })
	case "duration":
		by(func(r *flow.Record) float64 { return float64(r.Last - r.First) })
	case "bps":
		by(func(r *flow.Record) float64 { return float64(r.Bytes) / max(float64(r.Last-r.First), 1) })
	default:
		return total, fmt.Errorf("order %s is unknown", r.Order)
	}
	if r.Limit > 0 && len(found) > r.Limit {
		found = found[:r.Limit]
	}
	for batch := range slices.Chunk(found, 64) {
		if err := sink.WriteRecords(batch); err != nil {
			return total, err
		}
	}
	return total, nil
}

// keyOf gives the values of a key, one set for each side it looks at.
func keyOf(name string, r *flow.Record) (columns []string, values []any) {
	some := func(c flow.Column, v any) any {
		if !r.Known(c) {
			return nil
		}
		return v
	}
	addr := func(c flow.Column, a flow.Addr) any { return some(c, a.String()) }
	num := func(c flow.Column) any { return some(c, r.Number(c)) }
	switch name {
	case "srcip":
		return []string{"src"}, []any{addr(flow.ColSrc, r.Src)}
	case "dstip":
		return []string{"dst"}, []any{addr(flow.ColDst, r.Dst)}
	case "ip":
		return []string{"ip"}, []any{addr(flow.ColSrc, r.Src), addr(flow.ColDst, r.Dst)}
	case "srcport":
		return []string{"sport"}, []any{num(flow.ColSrcPort)}
	case "dstport":
		return []string{"dport"}, []any{num(flow.ColDstPort)}
	case "port":
		return []string{"port"}, []any{num(flow.ColSrcPort), num(flow.ColDstPort)}
	case "proto":
		return []string{"proto"}, []any{num(flow.ColProto)}
	case "srcas":
		return []string{"src_as"}, []any{num(flow.ColSrcAS)}
	case "dstas":
		return []string{"dst_as"}, []any{num(flow.ColDstAS)}
	case "router":
		return []string{"exporter"}, []any{addr(flow.ColExporter, r.Exporter)}
	case "inif":
		return []string{"input"}, []any{num(flow.ColInput)}
	case "outif":
		return []string{"output"}, []any{num(flow.ColOutput)}
	case "dir":
		return []string{"direction"}, []any{num(flow.ColDirection)}
	}
	return nil, nil
}

type sum struct {
	key                   []any
	flows, packets, bytes uint64
	first, last           int64
}

func (m *memory) Aggregate(ctx context.Context, r query.Request) (*query.Result, error) {
	if err := m.wait(ctx); err != nil {
		return nil, err
	}
	found, total, err := m.match(r)
	if err != nil {
		return nil, err
	}
	order := cmp.Or(r.Order, "flows")
	keys := r.Keys
	if r.Stat != "" {
		stat, o, has := strings.Cut(r.Stat, "/")
		if has {
			order = o
		}
		stat, split, _ := strings.Cut(stat, ":")
		keys = []string{stat}
		if split == "p" {
			keys = append(keys, "proto")
		}
	}
	res := &query.Result{Total: total, Segments: 1}
	sums := map[string]*sum{}
	for _, k := range keys {
		if c, _ := keyOf(k, &flow.Record{}); c == nil {
			return nil, fmt.Errorf("query: unknown key %q", k)
		}
	}
	for i := range found {
		rec := &found[i]
		sets := [][]any{nil}
		var columns []string
		if r.Bin > 0 {
			columns = append(columns, "time")
			w := int64(r.Bin)
			sets = [][]any{{time.Unix(0, floorTo(rec.Last, w)).UTC()}}
		}
		for _, k := range keys {
			c, values := keyOf(k, rec)
			columns = append(columns, c...)
			var next [][]any
			for _, set := range sets {
				for _, v := range values {
					next = append(next, append(slices.Clone(set), v))
				}
			}
			sets = next
		}
		if len(sets) == 2 && fmt.Sprint(sets[0]) == fmt.Sprint(sets[1]) {
			sets = sets[:1] // both sides alike: once
		}
		for _, set := range sets {
			id := fmt.Sprint(set)
			s := sums[id]
			if s == nil {
				s = &sum{key: set, first: rec.First, last: rec.Last}
				sums[id] = s
			}
			s.flows++
			s.packets += rec.Packets
			s.bytes += rec.Bytes
			s.first, s.last = min(s.first, rec.First), max(s.last, rec.Last)
		}
		res.Columns = columns
	}
	if res.Columns == nil {
		if r.Bin > 0 {
			res.Columns = []string{"time"}
		}
		for _, k := range keys {
			c, _ := keyOf(k, &flow.Record{})
			res.Columns = append(res.Columns, c...)
		}
	}
	res.Columns = append(slices.Clone(res.Columns), "flows", "packets", "bytes", "pps", "bps", "bpp", "first", "last")
	rows := []*sum{}
	for _, s := range sums {
		rows = append(rows, s)
	}
	slices.SortFunc(rows, func(a, b *sum) int {
		if r.Bin > 0 {
			return a.key[0].(time.Time).Compare(b.key[0].(time.Time))
		}
		value := map[string]func(*sum) uint64{
			"flows": func(s *sum) uint64 { return s.flows }, "packets": func(s *sum) uint64 { return s.packets }, "bytes": func(s *sum) uint64 { return s.bytes },
		}[order]
		if value == nil {
			return 0
		}
		return cmp.Or(cmp.Compare(value(b), value(a)), cmp.Compare(fmt.Sprint(a.key), fmt.Sprint(b.key)))
	})
	limit := r.Limit
	if limit == 0 {
		limit = 10
	}
	if limit > 0 && len(rows) > limit {
		rows, res.Truncated = rows[:limit], true
	}
	for _, s := range rows {
		secs := math.Max(float64(s.last-s.first)/1e9, 1e-3)
		row := append(slices.Clone(s.key), s.flows, s.packets, s.bytes, float64(s.packets)/secs, 8*float64(s.bytes)/secs,
			float64(s.bytes)/float64(s.packets), time.Unix(0, s.first).UTC(), time.Unix(0, s.last).UTC())
		res.Rows = append(res.Rows, row)
	}
	return res, nil
}

// traffic makes flows of a small network that ended in [from, to), the same
// for the same seed: hosts behind a gateway that talk to servers outside.
func traffic(seed uint64, from, to time.Time, n int) []flow.Record {
	rnd := rand.New(rand.NewPCG(seed, 1))
	pick := func(k int) int { // few get most
		return int(float64(k) * math.Pow(rnd.Float64(), 3))
	}
	addr := func(s string) flow.Addr { return flow.AddrFrom(netip.MustParseAddr(s)) }
	type service struct {
		port  uint16
		proto uint8
		size  float64
	}
	services := []service{{443, 6, 60e3}, {443, 17, 90e3}, {80, 6, 20e3}, {53, 17, 180}, {22, 6, 9e3}, {993, 6, 7e3}, {5432, 6, 30e3}, {123, 17, 76}, {8642, 6, 14e3}, {51820, 17, 120e3}}
	ases := []uint32{15169, 13335, 16509, 3320, 2914, 64500, 24940, 8075}
	records := make([]flow.Record, 0, n)
	span := to.Sub(from)
	for i := range n {
		// A wave and some bursts, so that the picture is not flat.
		var at time.Duration
		for {
			at = time.Duration(rnd.Float64() * float64(span))
			x := float64(at) / float64(span)
			if rnd.Float64() < 0.55+0.3*math.Sin(9*x)+0.15*math.Sin(41*x) {
				break
			}
		}
		s := services[pick(len(services))]
		v6 := rnd.IntN(5) == 0
		k, j := pick(40), pick(60)
		inside, outside := addr(fmt.Sprintf("10.20.%d.%d", k%3, 10+k)), addr(fmt.Sprintf("%d.%d.%d.%d", 23+j*3, 40+j, j*7%256, 5+j))
		if v6 {
			inside, outside = addr(fmt.Sprintf("2001:db8:20::%x", 16+k)), addr(fmt.Sprintf("2a00:1450:4001:8%02x::200e", j))
		}
		packets := 1 + uint64(rnd.ExpFloat64()*6)
		out := rnd.IntN(5) < 2
		var bytes uint64
		if out {
			bytes = packets*60 + uint64(rnd.ExpFloat64()*s.size*0.4)
			packets += bytes / 1000
		} else {
			bytes = packets*60 + uint64(rnd.ExpFloat64()*s.size)
			packets += bytes / 1200
		}
		r := flow.Record{
			Src: outside, Dst: inside, SrcPort: s.port, DstPort: uint16(32768 + rnd.IntN(28000)), Proto: s.proto,
			Packets: packets, Bytes: bytes, Input: 2, Output: 3, SrcAS: ases[j%len(ases)], Sampling: 1, VLAN: 20,
			EndReason: flow.EndIdle, IPVersion: 4, TOS: uint8(rnd.IntN(2) * 0xb8),
			Has: flow.HasFirst | flow.HasLast | flow.HasProto | flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort | flow.HasTOS | flow.HasPackets |
				flow.HasBytes | flow.HasInput | flow.HasOutput | flow.HasDirection | flow.HasEndReason | flow.HasSampling | flow.HasExporter | flow.HasReceived |
				flow.HasSrcAS | flow.HasDstAS | flow.HasDomain | flow.HasVLAN,
			Version: flow.VersionIPFIX, Exporter: addr("192.0.2.1"),
		}
		if v6 {
			r.IPVersion = 6
		}
		if s.proto == 6 {
			r.TCPFlags, r.EndReason = flow.SYN|flow.ACK|flow.PSH|flow.FIN, flow.EndDetected
			r.Has |= flow.HasTCPFlags
		}
		if out {
			r.Src, r.Dst, r.SrcPort, r.DstPort, r.SrcAS, r.DstAS, r.Input, r.Output, r.Direction = inside, outside, r.DstPort, r.SrcPort, 0, r.SrcAS, 3, 2, 1
		}
		if rnd.IntN(40) == 0 {
			r.Proto, r.SrcPort, r.DstPort, r.ICMPType, r.ICMPCode, r.TCPFlags = 1, 0, 8<<8, 8, 0, 0
			r.Packets, r.Bytes, r.EndReason = 4, 336, flow.EndIdle
			r.Has = r.Has&^flow.HasTCPFlags | flow.HasICMP
		}
		switch i % 9 {
		case 0: // an old router that does not say on which way
			r.Version, r.Exporter, r.Input, r.Output = flow.VersionV5, addr("192.0.2.77"), 1, 4
			r.Has &^= flow.HasDirection | flow.HasVLAN | flow.HasEndReason
		case 1, 2:
			r.Version, r.Exporter = flow.VersionV9, addr("2001:db8:ff::9")
			r.Elements = []byte(`{"applicationName":"<b>bold</b>","flowEndMilliseconds":1763786000123,"vendor 9.12235":"0x0000c0a8"}`)
		}
		r.Last = from.UnixNano() + int64(at)
		r.First = r.Last - int64(rnd.ExpFloat64()*float64(4*time.Second))
		r.First, r.Last = r.First/1000*1000, r.Last/1000*1000
		r.Received = r.Last + int64(15*time.Second)
		records = append(records, r)
	}
	return records
}
