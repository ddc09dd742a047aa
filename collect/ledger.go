package collect

import (
	"cmp"
	"slices"

	"weir/flow"
	"weir/wire"
)

// The methods below may be called from any goroutine, after Listen and also
// while Run works.

// decoders calls f with each decoder, locked.
func (c *Collector) decoders(f func(*wire.Decoder)) {
	for _, l := range c.udp {
		l.mu.Lock()
		f(l.dec)
		l.mu.Unlock()
	}
	for _, s := range c.tcp {
		s.mu.Lock()
		f(s.dec)
		s.mu.Unlock()
	}
}

// Exporters lists the exporters by address, domain, version and port.
func (c *Collector) Exporters() []wire.ExporterInfo {
	all := []wire.ExporterInfo{}
	c.decoders(func(d *wire.Decoder) { all = append(all, d.Exporters()...) })
	slices.SortStableFunc(all, func(a, b wire.ExporterInfo) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Port, b.Port))
	})
	return all
}

// Templates lists the templates now known.
func (c *Collector) Templates() []wire.TemplateInfo {
	all := []wire.TemplateInfo{}
	c.decoders(func(d *wire.Decoder) { all = append(all, d.Templates()...) })
	slices.SortStableFunc(all, func(a, b wire.TemplateInfo) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Port, b.Port), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// Interfaces lists the interface names that exporters sent.
func (c *Collector) Interfaces() []wire.InterfaceName {
	all := []wire.InterfaceName{}
	c.decoders(func(d *wire.Decoder) { all = append(all, d.Interfaces()...) })
	slices.SortStableFunc(all, func(a, b wire.InterfaceName) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Index, b.Index))
	})
	return all
}

// Losses is the ledger: all reasons, zeros included, always in the same order.
func (c *Collector) Losses() []flow.Loss {
	var drops, truncated, panics, refused, misframed, strangers uint64
	var again flow.Loss
	repeated := func(r *repeats) {
		again.Records += r.records.Load()
		again.Packets += r.packets.Load()
		again.Bytes += r.octets.Load()
	}
	for _, l := range c.udp {
		l.countDrops()
		drops += l.drops.Load()
		truncated += l.truncated.Load()
		panics += l.panics.Load()
		repeated(l.repeats)
	}
	for _, s := range c.tcp {
		refused += s.refused.Load()
		misframed += s.misframed.Load()
		strangers += s.strangers.Load()
		repeated(s.repeats)
	}
	var records, datagrams wire.SequenceInfo
	var wires wire.Counts
	c.decoders(func(d *wire.Decoder) {
		r, g := d.Sequences()
		records.Add(r)
		datagrams.Add(g)
		wires.Add(d.Lost())
	})
	all := []flow.Loss{
		{Reason: "kernel-drops", Datagrams: drops, Help: "the kernel had no room for a datagram: a larger receive buffer (net.core.rmem_max), or a faster sink"},
		{Reason: "sequence-gaps", Records: records.Lost, Datagrams: datagrams.Lost, Help: "sequence numbers say that exports never came here: lost by the network, by the exporter, or by the kernel (which then counts them too); records for v5 to v8 and IPFIX and sFlow's samples, datagrams for v9 and sFlow"},
		{Reason: "truncated", Datagrams: truncated, Help: "a datagram was longer than any may be; what came was read"},
		{Reason: "sink", Records: c.sinkLost.Load(), Help: "records that were decoded when the sink had failed"},
		{Reason: "panic", Datagrams: panics, Help: "datagrams that a defect of the decoder kept from being read: please report them"},
		{Reason: "connections", Datagrams: refused, Help: "TCP connections refused for there were too many"},
		{Reason: "framing", Datagrams: misframed, Help: "TCP connections that ended within a message, or carried something that is no IPFIX"},
		{Reason: "handshake", Datagrams: strangers, Help: "TLS and DTLS connections that were not let in: no certificate, one of an unknown authority, or a name that is not allowed; the log has each"},
		{Reason: "repeated", Records: again.Records, Packets: again.Packets, Bytes: again.Bytes, Help: "not a loss: records that a weir sent again after it was killed, told by their flow ids, and that were here already"},
	}
	for i := range all {
		all[i].Stage = "collect"
	}
	return append(all, wires.Losses()...)
}

// ListenerInfo is one address listened at.
type ListenerInfo struct {
	Network     string `json:"network"` // udp, tcp, tls, dtls
	Address     string `json:"address"`
	Loops       int    `json:"loops"`
	SocketBytes int    `json:"socket_bytes"` // receive buffer of each loop as granted
	Datagrams   uint64 `json:"datagrams"`    // tcp: messages
	Bytes       uint64 `json:"bytes"`
	KernelDrops uint64 `json:"kernel_drops"`
	Connections int    `json:"connections"` // tcp: now
}

// Listeners tells of the sockets.
func (c *Collector) Listeners() []ListenerInfo {
	all := []ListenerInfo{}
	for _, l := range c.udp {
		l.countDrops()
		if l.index == 0 {
			all = append(all, ListenerInfo{Network: "udp", Address: l.conn.LocalAddr().String(), Loops: l.of, SocketBytes: l.granted})
		}
		i := &all[len(all)-1]
		i.Datagrams += l.datagrams.Load()
		i.Bytes += l.octets.Load()
		i.KernelDrops += l.drops.Load()
	}
	for _, s := range c.tcp {
		s.mu.Lock()
		all = append(all, ListenerInfo{
			Network: s.e.network, Address: s.ln.Addr().String(), Loops: 1,
			Datagrams: s.messages.Load(), Bytes: s.octets.Load(), Connections: len(s.conns),
		})
		s.mu.Unlock()
	}
	return all
}

// Stats are sums over all listeners.
type Stats struct {
	Datagrams uint64 `json:"datagrams"` // TCP: messages
	Bytes     uint64 `json:"bytes"`
	Records   uint64 `json:"records"` // taken by the sink
	Queued    int    `json:"queued"`  // batches that wait for the sink now
	QueueSize int    `json:"queue_size"`
}

// Stats sums up since the start.
func (c *Collector) Stats() Stats {
	s := Stats{Records: c.records.Load(), Queued: len(c.queue), QueueSize: c.opt.Queue}
	for _, l := range c.udp {
		s.Datagrams += l.datagrams.Load()
		s.Bytes += l.octets.Load()
	}
	for _, t := range c.tcp {
		s.Datagrams += t.messages.Load()
		s.Bytes += t.octets.Load()
	}
	return s
}
