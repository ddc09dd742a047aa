package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"weir/capture"
	"weir/console"
	"weir/flow"
	"weir/hook"
	"weir/host"
	"weir/meter"
)

// cache is the flow cache as it is shown.
func (n *node) cache() console.Cache {
	m, _, _ := n.rooms()
	if m == nil {
		return console.Cache{}
	}
	s, conf := m.Snapshot().Cache, n.config().Cache
	c := console.Cache{
		Entries: s.Entries, Peak: s.Peak, Capacity: s.Capacity, Memory: s.Memory, Aggregates: s.Aggregates, Refused: s.Refused,
		Sweeps: s.Sweeps, Created: s.Created, Packets: s.Packets, Bytes: s.Bytes,
		IdleSeconds: time.Duration(conf.Idle).Seconds(), ActiveSeconds: time.Duration(conf.Active).Seconds(),
	}
	for why := flow.EndIdle; why <= flow.EndResource; why++ {
		c.Expired = append(c.Expired, console.Count{Name: why.String(), Count: s.Expired[why]})
	}
	return c
}

// interfaces are those metered here, and those that exporters told of.
func (n *node) interfaces() []console.Interface {
	m, _, c := n.rooms()
	var list []console.Interface
	if m != nil {
		names := map[uint32]string{}
		if all, err := host.Links(); err == nil {
			for _, i := range all {
				names[i.Index] = i.Name
			}
		}
		for _, i := range m.Snapshot().Interfaces {
			x := console.Interface{
				Index: i.Index, Name: names[i.Index], Mode: string(hook.AFPacket), Dropped: n.dropped(i.Index),
				PacketsIn: i.In.Packets, BytesIn: i.In.Bytes, PacketsOut: i.Out.Packets, BytesOut: i.Out.Bytes,
			}
			if p, ok := m.(planner); ok {
				x.Mode = ""
				if plan := p.plan(i.Index); plan != nil {
					x.Mode, x.Why = string(plan.Mode), plan.Why
				}
			}
			for _, reason := range slices.Sorted(maps.Keys(i.Ignored)) {
				if c := i.Ignored[reason]; c.Packets > 0 {
					x.Ignored = append(x.Ignored, console.Count{Name: reason, Count: c.Packets})
				}
			}
			n.addFates(&x)
			list = append(list, x)
		}
	}
	if c != nil {
		for _, i := range c.Interfaces() {
			list = append(list, console.Interface{Exporter: i.Addr.Unmap().String(), Index: i.Index, Name: i.Name, Alias: i.Description})
		}
	}
	return list
}

// dropped is how many packets of an interface the kernel could not hand over.
func (n *node) dropped(index uint32) (packets uint64) {
	n.mu.Lock()
	sources := n.metered[index]
	n.mu.Unlock()
	for _, s := range sources {
		if s, ok := s.(capture.Stats); ok {
			_, drops := s.Stats()
			packets += drops
		}
	}
	return packets
}

// interfaceState is an interface with its rates, over half a minute to a minute;
// nil: it is not metered here, or has not been for long enough.
type interfaceState struct {
	console.Interface
	PPSIn  *uint64 `json:"pps_in"`
	BPSIn  *uint64 `json:"bps_in"` // bit/s
	PPSOut *uint64 `json:"pps_out"`
	BPSOut *uint64 `json:"bps_out"`
}

// rateEvery is how often the interfaces' counters are noted for their rates.
const rateEvery = 30 * time.Second

// traffic is what was counted at one moment.
type traffic struct {
	at time.Time
	by map[uint32]meter.Interface
}

// watch notes the interfaces' counters until ctx ends.
func (d *desk) watch(ctx context.Context) {
	tick := time.NewTicker(rateEvery)
	defer tick.Stop()
	for {
		d.note(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (d *desk) note(now time.Time) {
	m, _, _ := d.node.rooms()
	t := traffic{at: now, by: map[uint32]meter.Interface{}}
	if m != nil {
		for _, i := range m.Snapshot().Interfaces {
			t.by[i.Index] = i
		}
	}
	d.mu.Lock()
	d.noted = [2]traffic{d.noted[1], t}
	d.mu.Unlock()
}

// interfaces are the node's with their rates: since the note before the last,
// or since the last where a new meter has begun to count meanwhile.
func (d *desk) interfaces() []interfaceState {
	now := time.Now()
	d.mu.Lock()
	noted := d.noted
	d.mu.Unlock()
	list := make([]interfaceState, 0)
	for _, i := range d.node.interfaces() {
		s := interfaceState{Interface: i}
		for _, then := range noted {
			before, ok := then.by[i.Index]
			seconds := now.Sub(then.at).Seconds()
			if i.Mode == "" || !ok || seconds < 1 || i.PacketsIn < before.In.Packets || i.PacketsOut < before.Out.Packets {
				continue
			}
			rate := func(now, then, times uint64) *uint64 {
				r := uint64(float64((now-min(now, then))*times) / seconds)
				return &r
			}
			s.PPSIn, s.PPSOut = rate(i.PacketsIn, before.In.Packets, 1), rate(i.PacketsOut, before.Out.Packets, 1)
			s.BPSIn, s.BPSOut = rate(i.BytesIn, before.In.Bytes, 8), rate(i.BytesOut, before.Out.Bytes, 8)
			break
		}
		list = append(list, s)
	}
	return list
}

// balanceLine is a line of the balance: how many of the packets that the meter
// has seen are where.
type balanceLine struct {
	Part    string `json:"part"`   // seen, exported, cached, aggregates, lost, ignored, difference
	Reason  string `json:"reason"` // of ignored
	Packets int64  `json:"packets"`
	Bytes   int64  `json:"bytes"`
	Help    string `json:"help"`
}

// balance tells where the packets are that the present meter has seen: seen =
// exported + cached + aggregates + lost + ignored by reason. Its parts are not
// of one moment, so while packets pass or flows end there is a difference;
// a few tries are made to find a moment without.
func (n *node) balance(ctx context.Context) (lines []balanceLine, err error) {
	m, _, _ := n.rooms()
	if m == nil {
		return nil, errNotMetering
	}
	for range 5 {
		var still bool
		if lines, still, err = n.weigh(ctx, m); err != nil || still {
			break
		}
	}
	return lines, err
}

// weigh makes a balance; still: nothing passed meanwhile.
func (n *node) weigh(ctx context.Context, m metering) (lines []balanceLine, still bool, err error) {
	before, done := m.Snapshot(), n.tally.present()
	var cached, aggregates meter.Count
	err = walkOf(m)(ctx, func(batch []flow.Record) error {
		for i := range batch {
			c := &cached
			if batch[i].Has&flow.HasSrc == 0 {
				c = &aggregates
			}
			c.Packets += batch[i].Packets
			c.Bytes += batch[i].Bytes
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	s := m.Snapshot()
	var rest meter.Count
	add := func(part, reason string, c meter.Count, help string) {
		rest.Packets, rest.Bytes = rest.Packets-c.Packets, rest.Bytes-c.Bytes
		lines = append(lines, balanceLine{part, reason, int64(c.Packets), int64(c.Bytes), help})
	}
	add("seen", "", s.Count, "Packets read since this meter began. What the kernel dropped before is in the ledger alone.")
	rest = s.Count
	add("exported", "", meter.Count{Packets: done.packets, Bytes: done.bytes}, "In records that were handed on.")
	add("cached", "", cached, "In flows that are in the cache, since their last record.")
	add("aggregates", "", aggregates, "In overflow aggregates, for want of an entry.")
	for _, why := range slices.Sorted(maps.Keys(s.Lost)) {
		add("lost", why, meter.Count{Packets: s.Lost[why].Packets, Bytes: s.Lost[why].Bytes}, "In records that nobody took.")
	}
	for _, l := range m.Losses() {
		if c, ok := s.Ignored[l.Reason]; ok && l.Stage == "packet" {
			add("ignored", l.Reason, c, l.Help)
		}
	}
	passed := s.Packets - before.Packets
	help := "Seen less all the rest: 0 while nothing passes."
	if passed > 0 {
		help = fmt.Sprintf("Seen less all the rest, which are not of one moment: %d packets passed meanwhile.", passed)
	}
	lines = append(lines, balanceLine{"difference", "", int64(rest.Packets), int64(rest.Bytes), help})
	return lines, rest == meter.Count{} && done == n.tally.present(), nil
}
