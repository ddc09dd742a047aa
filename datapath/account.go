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
	m := d.kernel().Memory().Meta
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range m.Retired {
		d.base.Packets += m.Retired[i].Packets
		d.base.Bytes += m.Retired[i].Bytes
	}
	d.told = m.Told
	d.sweeper = s
}

// end makes the account final: what the programs count from now on is the next
// daemon's.
func (d *Datapath) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last, d.at = d.account(false), time.Now()
	d.ended = true
}

// accountAge is how old an account may be: to make one, all of the table is read.
const accountAge = time.Second

// Snapshot is the state of the metering, at most a second old.
func (d *Datapath) Snapshot() meter.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ended && time.Since(d.at) > accountAge && d.sweeper != nil {
		d.last, d.at = d.account(true), time.Now()
	}
	s := d.last
	s.Ignored, s.Flows.Expired, s.Lost = maps.Clone(s.Ignored), maps.Clone(s.Flows.Expired), maps.Clone(s.Lost)
	return s
}

// account adds up what was counted since the last daemon told; cached: with
// what is in the table and has not left.
func (d *Datapath) account(cached bool) meter.Snapshot {
	var s meter.Snapshot
	mem := d.kernel().Memory()
	counters, err := d.kernel().Counters()
	if err != nil {
		d.log.Error("the kernel's counters", "error", err)
		return d.last
	}
	var ports [2 * bpf.MaxPorts]bpf.Count
	if cached {
		d.sweeper.Ports(&ports)
	} else {
		ports = mem.Meta.Retired
	}
	var total bpf.Counters
	for i := range counters {
		for why, c := range counters[i] {
			total[why].Packets += c.Packets
			total[why].Bytes += c.Bytes
		}
	}
	for i := range ports {
		s.Metered.Packets += ports[i].Packets
		s.Metered.Bytes += ports[i].Bytes
	}
	s.Metered.Packets -= d.base.Packets
	s.Metered.Bytes -= d.base.Bytes
	since := func(why int) meter.Count {
		return meter.Count{Packets: total[why].Packets - d.told[why].Packets, Bytes: total[why].Bytes - d.told[why].Bytes}
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
	for why := range total { // for the next daemon
		atomic.StoreUint64(&mem.Meta.Told[why].Packets, total[why].Packets)
		atomic.StoreUint64(&mem.Meta.Told[why].Bytes, total[why].Bytes)
	}

	s.Cache = d.sweeper.Stats()
	s.Cache.Packets, s.Cache.Bytes = s.Metered.Packets, s.Metered.Bytes
	s.Cache.Refused = since(bpf.Refused).Packets
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
