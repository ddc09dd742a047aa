package main

import (
	"sync"
	"time"

	"weir/flow"
)

// tally counts what leaves the flow cache: by packet size and by protocol, as
// IOS tells them in `show ip cache flow`, and in all. It stands between a meter
// and what takes its records, outlives both, and takes no memory but its own.
// The zero value counts from now on.
type tally struct {
	mu    sync.Mutex
	since time.Time // of the first record that could have come; zero: none yet
	base  counted   // what was counted when the present meter began
	tallied
}

// tallied is what a tally has counted.
type tallied struct {
	counted
	sizes     [len(sizeBins)]uint64 // packets, by the mean size of their flow's
	protocols [numServices]serviceCount
}

// counted is a number of records and what they say was counted.
type counted struct{ records, packets, bytes uint64 }

// serviceCount is what was counted of one of IOS's protocol rows.
type serviceCount struct {
	counted
	active, idle time.Duration // sums of: first to last packet; last packet to the end
}

// sizeBins are the upper limits of IOS's packet sizes, in octets of the IP
// packet. What is larger (a datagram of several fragments' size, a segment that
// the network card put together) is in the last.
var sizeBins = [...]uint16{
	32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 480,
	512, 544, 576, 1024, 1536, 2048, 2560, 3072, 3584, 4096, 4608,
}

// sizeBin finds the bin of packets of so many octets in the mean.
func sizeBin(packets, bytes uint64) int {
	if packets == 0 {
		return 0
	}
	switch size := bytes / packets; { // a fraction is no octet: 32.5 octets are more than 32
	case bytes <= 576*packets:
		if bytes%packets == 0 && size > 0 {
			size--
		}
		return int(size / 32)
	case bytes <= 4608*packets:
		if bytes%packets == 0 {
			size--
		}
		return int(size/512) + 17
	}
	return len(sizeBins) - 1
}

// before gives a sink that counts the records a new meter hands on to next. It
// is a flow.Syncer if next is.
func (t *tally) before(next flow.Sink) flow.Sink {
	t.mu.Lock()
	if t.since.IsZero() {
		t.since = time.Now()
	}
	t.base = t.counted
	t.mu.Unlock()
	take := tallySink{t, next}
	if s, ok := next.(flow.Syncer); ok {
		return tallySyncer{take, s}
	}
	return take
}

type tallySink struct {
	tally *tally
	next  flow.Sink
}

func (s tallySink) WriteRecords(batch []flow.Record) error {
	if err := s.next.WriteRecords(batch); err != nil {
		return err // and the meter counts them as lost
	}
	s.tally.count(batch, time.Now().UnixNano())
	return nil
}

type tallySyncer struct {
	tallySink
	next flow.Syncer
}

func (s tallySyncer) Sync() error { return s.next.Sync() }

func (t *tally) count(batch []flow.Record, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range batch {
		r := &batch[i]
		packets, bytes := r.Total()
		t.sizes[sizeBin(packets, bytes)] += packets
		p := &t.protocols[serviceOf(r)]
		p.records++
		p.packets += packets
		p.bytes += bytes
		p.active += time.Duration(max(r.Last-r.First, 0))
		p.idle += time.Duration(max(now-r.Last, 0))
		t.packets += packets
		t.bytes += bytes
	}
	t.records += uint64(len(batch))
}

// read gives what was counted since the first meter began; a zero time: no
// meter has.
func (t *tally) read() (time.Time, tallied) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.since, t.tallied
}

// present gives what the present meter has handed on.
func (t *tally) present() counted {
	t.mu.Lock()
	defer t.mu.Unlock()
	return counted{t.records - t.base.records, t.packets - t.base.packets, t.bytes - t.base.bytes}
}

// service is one of the rows of IOS's protocol table.
type service uint8

const (
	tcpTelnet service = iota
	tcpFTP
	tcpFTPD
	tcpWWW
	tcpSMTP
	tcpX
	tcpBGP
	tcpNNTP
	tcpFrag
	tcpOther
	udpDNS
	udpNTP
	udpTFTP
	udpFrag
	udpOther
	icmp
	igmp
	ipInIP
	ipv6InIP
	gre
	icmpV6 // not one of IOS's, whose table is of IPv4 alone
	ipOther
	numServices
)

var serviceNames = [numServices]string{
	"TCP-Telnet", "TCP-FTP", "TCP-FTPD", "TCP-WWW", "TCP-SMTP", "TCP-X", "TCP-BGP", "TCP-NNTP", "TCP-Frag", "TCP-other",
	"UDP-DNS", "UDP-NTP", "UDP-TFTP", "UDP-Frag", "UDP-other", "ICMP", "IGMP", "IPINIP", "IPv6INIP", "GRE", "ICMPv6", "IP-other",
}

// serviceOf finds a record's row: by its destination port, else its source port.
func serviceOf(r *flow.Record) service {
	switch {
	case r.Proto == flow.ProtoTCP && r.Fragment:
		return tcpFrag
	case r.Proto == flow.ProtoTCP:
		if s := tcpService(r.DstPort); s != tcpOther {
			return s
		}
		return tcpService(r.SrcPort)
	case r.Proto == flow.ProtoUDP && r.Fragment:
		return udpFrag
	case r.Proto == flow.ProtoUDP:
		if s := udpService(r.DstPort); s != udpOther {
			return s
		}
		return udpService(r.SrcPort)
	}
	switch r.Proto {
	case flow.ProtoICMP:
		return icmp
	case 2:
		return igmp
	case flow.ProtoIPIP:
		return ipInIP
	case 41:
		return ipv6InIP
	case 47:
		return gre
	case flow.ProtoICMPv6:
		return icmpV6
	}
	return ipOther
}

func tcpService(port uint16) service {
	switch port {
	case 20:
		return tcpFTPD
	case 21:
		return tcpFTP
	case 23:
		return tcpTelnet
	case 25:
		return tcpSMTP
	case 80:
		return tcpWWW
	case 119:
		return tcpNNTP
	case 179:
		return tcpBGP
	}
	if port >= 6000 && port <= 6063 {
		return tcpX
	}
	return tcpOther
}

func udpService(port uint16) service {
	switch port {
	case 53:
		return udpDNS
	case 69:
		return udpTFTP
	case 123:
		return udpNTP
	}
	return udpOther
}
