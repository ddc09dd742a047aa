package datapath

import (
	"maps"
	"sync/atomic"
	"time"

	"weir/bpf"
	"weir/cache"
	"weir/flow"
	"weir/meter"
	"weir/packet"
)

// The programs count in the kernel, for as long as the table lives; a process
// tells of what was counted and not told by the one before it. What it has told
// it notes in bpf.Meta.

// begin takes up the account where the last daemon left it.
func (d *Datapath) begin(s *Sweeper) {
	m := d.kernel().Memory()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.base = handedOn(m)
	d.told = m.Meta.Told
	d.sweeper = s
}

// handedOn sums up what records have told since the table was made: all that
// left it, and the part of what is in it that was reported. Nobody else may be
// handing on.
func handedOn(m *bpf.Memory) (sum bpf.Count) {
	retired := m.Meta.Retired
	if l := &m.Meta.Leaving; l[0] != 0 { // a daemon was killed while an entry left
		port, slot := l[0]>>32, l[0]&(1<<32-1)-1
		if port < uint64(len(retired)) && slot < uint64(len(m.Sets)*bpf.Ways) && atomic.LoadUint64(&m.Sets[slot/bpf.Ways].Entry[slot%bpf.Ways].Packets) != 0 {
			retired[port] = bpf.Count{Packets: l[1], Bytes: l[2]}
		}
	}
	for i := range retired {
		sum.Packets += retired[i].Packets
		sum.Bytes += retired[i].Bytes
	}
	for i := range m.Sets {
		set := &m.Sets[i]
		for way := range set.Entry {
			switch atomic.LoadUint32(&set.Word[way]) & bpf.StateMask {
			case bpf.Free, bpf.Claimed:
				if i < m.Flows+m.Aggregates { // the catch-alls have no words
					continue
				}
			}
			e := &set.Entry[way]
			if atomic.LoadUint64(&e.Packets) == 0 {
				continue // it is being cleared, and in retired
			}
			done := &m.Sides[i*bpf.Ways+way].Bank[atomic.LoadUint32(&e.Incarnation)&1]
			sum.Packets += done.Packets
			sum.Bytes += done.Bytes
		}
	}
	return sum
}

// end makes the account final: what the programs count from now on is the next
// daemon's.
func (d *Datapath) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last, d.at = d.account(true), time.Now()
	d.ended = true
}

// accountAge is how old an account may be: to make one, all of the table is read.
const accountAge = time.Second

// Snapshot is the state of the metering, at most a second old.
func (d *Datapath) Snapshot() meter.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ended && time.Since(d.at) > accountAge && d.sweeper != nil {
		d.last, d.at = d.account(false), time.Now()
	}
	s := d.last
	s.Ignored, s.Flows.Expired, s.Lost = maps.Clone(s.Ignored), maps.Clone(s.Flows.Expired), maps.Clone(s.Lost)
	return s
}

// account adds up what was counted since the last daemon told. When all has been
// handed on, the packets that were counted since are the next daemon's.
func (d *Datapath) account(ended bool) meter.Snapshot {
	var s meter.Snapshot
	mem := d.kernel().Memory()
	counters, err := d.kernel().Counters()
	if err != nil {
		d.log.Error("the kernel's counters", "error", err)
		return d.last
	}
	var ports [2 * bpf.MaxPorts]bpf.Count
	d.sweeper.Ports(&ports)
	total := allPorts(counters)
	var all bpf.Count
	for i := range ports {
		all.Packets += ports[i].Packets
		all.Bytes += ports[i].Bytes
	}
	if ended {
		all = handedOn(mem)
	}
	s.Metered = meter.Count{
		Packets: all.Packets - d.base.Packets + d.before.count.Packets,
		Bytes:   all.Bytes - d.base.Bytes + d.before.count.Bytes,
	}
	since := func(why int) meter.Count {
		now, was, other := &total[why], &d.told[why], &d.before.ignored[why]
		return meter.Count{Packets: now.Packets - was.Packets + other.Packets, Bytes: now.Bytes - was.Bytes + other.Bytes}
	}
	s.Ignored = make(map[string]meter.Count)
	s.Count = s.Metered
	ignore := func(name string, why int) {
		c := since(why)
		s.Ignored[name] = c
		s.Packets += c.Packets
		s.Bytes += c.Bytes
	}
	for _, why := range packet.Reasons() {
		ignore(why.String(), int(why))
	}
	ignore(notSampled, bpf.NotSampled)
	ignore(ownExport, bpf.OwnExport)
	s.Filtered = since(bpf.Filtered)
	tell(mem.Meta, &total)

	s.Cache = d.sweeper.Stats()
	s.Cache.Add(&d.before.stats)
	s.Cache.Packets, s.Cache.Bytes = s.Metered.Packets, s.Metered.Bytes
	d.refused, d.untold = since(bpf.Refused), since(bpf.Untold)
	s.Cache.Refused = d.refused.Packets
	s.Flows.Created = s.Cache.Created
	s.Flows.Expired = make(map[string]uint64)
	for why := flow.EndIdle; why <= flow.EndResource; why++ {
		s.Flows.Expired[why.String()] = s.Cache.Expired[why]
	}
	s.Records = s.Cache.Records
	s.Lost = map[string]meter.LossCount{cache.SinkFailed: meter.LossCount(s.Cache.Lost)}
	s.Interfaces = d.interfaces(&ports, counters)
	return s
}

// tell notes for the next daemon what is in this one's account.
func tell(m *bpf.Meta, total *bpf.Counters) {
	for why := range total {
		atomic.StoreUint64(&m.Told[why].Packets, total[why].Packets)
		atomic.StoreUint64(&m.Told[why].Bytes, total[why].Bytes)
	}
}

func allPorts(counters []bpf.Counters) (total bpf.Counters) {
	for i := range counters {
		for why, c := range counters[i] {
			total[why].Packets += c.Packets
			total[why].Bytes += c.Bytes
		}
	}
	return total
}

// interfaces is each interface's traffic since the table was made.
func (d *Datapath) interfaces(flows *[2 * bpf.MaxPorts]bpf.Count, counters []bpf.Counters) (list []meter.Interface) {
	for _, p := range d.kernel().Memory().Control.Port {
		if p.Ifindex == 0 || d.plan(p.Ifindex) == nil {
			continue
		}
		sum := func(port uint32) (c meter.Count) {
			c = meter.Count(flows[port])
			if m := counters[port][bpf.Metered]; m.Packets > 0 { // keys have no interface
				c = meter.Count(m)
			}
			for why := 1; why <= bpf.OwnExport; why++ {
				if why == bpf.Filtered {
					continue
				}
				c.Packets += counters[port][why].Packets
				c.Bytes += counters[port][why].Bytes
			}
			return c
		}
		i := meter.Interface{Index: p.Ifindex, In: sum(2 * p.Number), Out: sum(2*p.Number + 1), Ignored: map[string]meter.Count{}}
		ignored := func(name string, why int) {
			in, out := counters[2*p.Number][why], counters[2*p.Number+1][why]
			i.Ignored[name] = meter.Count{Packets: in.Packets + out.Packets, Bytes: in.Bytes + out.Bytes}
		}
		for _, why := range packet.Reasons() {
			ignored(why.String(), int(why))
		}
		ignored(notSampled, bpf.NotSampled)
		ignored(ownExport, bpf.OwnExport)
		list = append(list, i)
	}
	return list
}
