package demo

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"
	"time"

	"weir/flow"
)

// told is a record, and the device that tells it.
type told struct {
	flow.Record
	device int
}

// traffic draws conversations.
type traffic struct {
	rng   *rand.Rand
	apps  []float64 // cumulated weights
	peers []float64
	zipf  map[int]*rand.Zipf // by number of hosts
	id    uint64
	out   []told
}

// app is a kind of conversation: a client asks, a server answers.
type app struct {
	weight   float64
	proto    uint8
	port     uint16
	where    place
	up, down size          // octets of a conversation
	packet   float64       // octets of a large packet
	length   time.Duration // median
}

// size is the median of a log-normal distribution and its sigma.
type size struct{ median, sigma float64 }

// place is who talks to whom.
type place uint8

const (
	outward  place = iota // campus or branch to the world
	inward                // the world to our servers
	eastWest              // among our servers
	resolver              // campus to our servers
)

var apps = []app{
	{34, flow.ProtoTCP, 443, outward, size{3e3, 1}, size{24e3, 1.9}, 1400, 4 * time.Second},
	{20, flow.ProtoUDP, 443, outward, size{4e3, 1}, size{60e3, 2}, 1250, 6 * time.Second},
	{14, flow.ProtoUDP, 53, resolver, size{70, .2}, size{180, .5}, 512, 20 * time.Millisecond},
	{4, flow.ProtoUDP, 53, outward, size{75, .2}, size{210, .6}, 512, 30 * time.Millisecond},
	{7, flow.ProtoTCP, 443, inward, size{2e3, .8}, size{18e3, 1.6}, 1400, 3 * time.Second},
	{2, flow.ProtoTCP, 80, inward, size{900, .6}, size{5e3, 1.3}, 1400, time.Second},
	{2, flow.ProtoTCP, 80, outward, size{900, .6}, size{9e3, 1.5}, 1400, time.Second},
	{1.5, flow.ProtoTCP, 25, inward, size{30e3, 1.5}, size{1500, .4}, 1400, 3 * time.Second},
	{1.5, flow.ProtoTCP, 993, outward, size{3e3, 1}, size{12e3, 1.5}, 1400, 20 * time.Second},
	{1.5, flow.ProtoTCP, 22, inward, size{8e3, 1.5}, size{12e3, 1.6}, 800, 30 * time.Second},
	{2, flow.ProtoUDP, 3478, outward, size{2e6, .9}, size{2.4e6, .9}, 1100, 55 * time.Second},
	{1, flow.ProtoUDP, 51820, inward, size{300e3, 1.6}, size{900e3, 1.6}, 1380, 50 * time.Second},
	{2, flow.ProtoUDP, 123, outward, size{76, .1}, size{76, .1}, 90, 30 * time.Millisecond},
	{4, flow.ProtoTCP, 5432, eastWest, size{9e3, 1.4}, size{40e3, 1.8}, 1400, 10 * time.Second},
	{3, flow.ProtoTCP, 9092, eastWest, size{150e3, 1.5}, size{60e3, 1.5}, 8900, 40 * time.Second},
	{3, flow.ProtoTCP, 6379, eastWest, size{4e3, 1}, size{9e3, 1.2}, 1400, 5 * time.Second},
	{1, flow.ProtoTCP, 2049, eastWest, size{500e3, 1.7}, size{2e6, 1.7}, 8900, 45 * time.Second},
	{1.5, flow.ProtoTCP, 389, resolver, size{700, .5}, size{2e3, .9}, 1400, time.Second},
	{1.5, flow.ProtoUDP, 514, eastWest, size{6e3, 1.2}, size{0, 0}, 400, 40 * time.Second},
	{2, flow.ProtoICMP, 0, resolver, size{340, .6}, size{340, .6}, 84, 4 * time.Second},
	{.5, 50, 0, outward, size{200e3, 1.5}, size{200e3, 1.5}, 1400, 50 * time.Second}, // ESP
}

func newTraffic(rng *rand.Rand) *traffic {
	t := &traffic{rng: rng, zipf: map[int]*rand.Zipf{}}
	sum := 0.0
	for _, a := range apps {
		sum += a.weight
		t.apps = append(t.apps, sum)
	}
	sum = 0
	for _, p := range peers {
		sum += p.weight
		t.peers = append(t.peers, sum)
	}
	return t
}

// pick draws an index by cumulated weights.
func (t *traffic) pick(sums []float64) int {
	x := t.rng.Float64() * sums[len(sums)-1]
	for i, s := range sums {
		if x < s {
			return i
		}
	}
	return len(sums) - 1
}

// rank draws the popularity of one of n hosts: few have most of it.
func (t *traffic) rank(n int) uint64 {
	z := t.zipf[n]
	if z == nil {
		z = rand.NewZipf(t.rng, 1.15, 3, uint64(n-1))
		t.zipf[n] = z
	}
	return z.Uint64()
}

// host is the address of the n-th host of a prefix; neighbours in n are not
// neighbours in the prefix.
func host(p netip.Prefix, n uint64) flow.Addr {
	a := p.Addr().As16()
	free := uint(p.Addr().BitLen() - p.Bits())
	h := n * 0x9e3779b97f4a7c15
	h ^= h >> 29
	if p.Addr().Is4() {
		v := binary.BigEndian.Uint32(a[12:])
		span := uint64(1)<<free - 2
		binary.BigEndian.PutUint32(a[12:], v+1+uint32(h%span))
		return flow.Addr(a)
	}
	// A subnet where there is room for one, then the interface identifier.
	if free > 64 {
		v := binary.BigEndian.Uint64(a[:])
		binary.BigEndian.PutUint64(a[:], v|h>>7&(1<<(free-64)-1)&0xffff)
	}
	binary.BigEndian.PutUint64(a[8:], h|1)
	return flow.Addr(a)
}

func (s site) addr(n uint64, six bool) flow.Addr {
	if six {
		return host(s.v6, n)
	}
	return host(s.v4, n)
}

func (p peer) addr(n uint64, six bool) flow.Addr {
	if six {
		return host(p.v6, n)
	}
	return host(p.v4, n)
}

// draw is a log-normal amount.
func (t *traffic) draw(s size) float64 {
	if s.median == 0 {
		return 0
	}
	return s.median * math.Exp(t.rng.NormFloat64()*s.sigma)
}

// curve is the share of the busiest hour's traffic: low at night, a rise in
// the morning, most in the evening, restless in between.
func curve(at time.Time) float64 {
	h := float64(at.Hour()) + float64(at.Minute())/60
	day := .72 - .2*math.Cos((h-4)/24*2*math.Pi) + .06*math.Cos((h-20)/12*2*math.Pi)
	s := float64(at.UnixNano()) / 1e9
	return day + .05*math.Sin(s/71) + .04*math.Sin(s/23.7) + .03*math.Sin(s/311)
}

// What happens now and then, by the wall clock, so that it is in the back-fill
// as well: in each period, from its second on, for so long.
type incident struct {
	period, begin, length int64
	share                 float64 // of the conversations meanwhile
}

func (i incident) on(at time.Time) bool {
	s := at.Unix() % i.period
	return s >= i.begin && s < i.begin+i.length
}

var (
	scan   = incident{420, 130, 45, .30}
	flood  = incident{900, 500, 60, .25}
	backup = incident{1200, 60, 240, .03}
)

// next draws a conversation that ended at end, as records of one device. The
// slice is used again.
func (t *traffic) next(end time.Time, thin float64) []told {
	t.out = t.out[:0]
	switch x := t.rng.Float64(); {
	case scan.on(end) && x < scan.share:
		t.scan(end, thin)
	case flood.on(end) && x < flood.share:
		t.flood(end, thin)
	case backup.on(end) && x < backup.share:
		a := app{proto: flow.ProtoTCP, port: 873, where: eastWest, up: size{12e6, .8}, down: size{200e3, .5}, packet: 8900, length: 58 * time.Second}
		t.talk(&a, end, thin)
	default:
		t.talk(&apps[t.pick(t.apps)], end, thin)
	}
	return t.out
}

// talk draws a conversation of a kind and tells both directions.
func (t *traffic) talk(a *app, end time.Time, thin float64) {
	six := t.rng.Float64() < .35
	c := conversation{proto: a.proto, sport: uint16(32768 + t.rng.IntN(28000)), dport: a.port, flags: flow.SYN | flow.ACK | flow.PSH | flow.FIN}
	world := peers[t.pick(t.peers)]
	switch a.where {
	case outward:
		if t.rng.Float64() < .15 {
			six = false // branch-1 speaks v5
			c.device, c.in, c.out = branch, 1+uint32(t.rng.IntN(2)), 24
			c.src = guests.addr(t.rank(guests.hosts), six)
		} else {
			c.device = t.edge(world)
			c.in, c.out = 3, world.port
			c.src = campus.addr(t.rank(campus.hosts), six)
			c.route(ownAS, world.as, 16, 24, six)
		}
		c.dst = world.addr(t.rank(400), six)
	case inward:
		c.src = world.addr(t.rank(5000), six)
		c.dst = servers.addr(uint64(a.port)*8+t.rank(6), six)
		if t.rng.Float64() < .4 {
			c.device, c.in, c.out, c.status = firewall, 1, 2, 64
		} else {
			c.device, c.in, c.out = t.edge(world), world.port, 3
			c.route(world.as, ownAS, 24, 24, six)
		}
	case eastWest:
		c.device, c.in, c.out, c.vlan = dc1+t.rng.IntN(2), 10, 20, uint16(100+10*(a.port%7))
		if a.packet > 2000 {
			c.out = 12
		}
		c.src = backend.addr(t.rank(backend.hosts), six)
		c.dst = backend.addr(uint64(a.port)<<20+t.rank(8), six)
	case resolver:
		c.device, c.in, c.out, c.status = firewall, 3, 2, 64
		c.src = campus.addr(t.rank(campus.hosts), six)
		c.dst = servers.addr(uint64(a.port)*8+t.rank(3), six)
	}
	switch a.proto {
	case flow.ProtoICMP:
		c.sport, c.dport, c.icmp = 0, 8<<8, true
		if six {
			c.proto, c.dport = flow.ProtoICMPv6, 128<<8
		}
	case flow.ProtoTCP, flow.ProtoUDP:
	default:
		c.sport, c.dport = 0, 0
	}
	length := min(60*time.Second, time.Duration(float64(a.length)*math.Exp(t.rng.NormFloat64())))
	c.first, c.last = end.Add(-length).UnixNano(), end.UnixNano()
	c.reason = flow.EndIdle
	switch {
	case length == 60*time.Second:
		c.reason = flow.EndActive
		c.flags &^= flow.FIN
	case a.proto == flow.ProtoTCP:
		c.reason = flow.EndDetected
		if t.rng.Float64() < .08 {
			c.flags |= flow.RST
		}
	}
	t.tell(&c, t.draw(a.up), a.packet, thin)
	if a.down.median > 0 {
		back := c.reverse()
		t.tell(&back, t.draw(a.down), a.packet, thin)
	}
}

// edge is the router by which a network outside is reached.
func (t *traffic) edge(p peer) int {
	if p.as%3 == 0 {
		return edge2
	}
	return edge1
}

// scan is one stranger that knocks at many doors; the firewall denies most.
func (t *traffic) scan(end time.Time, thin float64) {
	doors := [...]uint16{22, 23, 445, 3389, 8080}
	round := uint64(end.Unix() / scan.period)
	c := conversation{
		device: firewall, in: 1, out: 2, status: 129, proto: flow.ProtoTCP, flags: flow.SYN, reason: flow.EndIdle,
		src: strangers.addr(round, false), dst: servers.addr(uint64(t.rng.IntN(5000)), false),
		sport: uint16(40000 + t.rng.IntN(2000)), dport: doors[t.rng.IntN(len(doors))], first: end.UnixNano(), last: end.UnixNano(),
	}
	t.tell(&c, 44, 44, thin)
}

// flood is amplified DNS from everywhere at one of our servers.
func (t *traffic) flood(end time.Time, thin float64) {
	p := peers[t.pick(t.peers)]
	round := uint64(end.Unix() / flood.period)
	c := conversation{
		device: edge1, in: 1, out: 3, proto: flow.ProtoUDP, reason: flow.EndIdle,
		src: p.addr(uint64(t.rng.IntN(1<<20)), false), dst: servers.addr(443*8+round%6, false),
		sport: 53, dport: uint16(1024 + t.rng.IntN(60000)), first: end.Add(-2 * time.Second).UnixNano(), last: end.UnixNano(),
	}
	c.route(p.as, ownAS, 24, 24, false)
	t.tell(&c, t.draw(size{60e3, .4}), 1450, thin)
}

// conversation is one direction of talk, before it becomes a record.
type conversation struct {
	device           int
	src, dst         flow.Addr
	sport, dport     uint16
	proto            uint8
	icmp             bool
	flags            uint16
	in, out          uint32
	srcAS, dstAS     uint32
	srcMask, dstMask uint8
	routed           bool
	vlan             uint16
	status           uint8
	first, last      int64
	reason           flow.EndReason
}

// route says what an edge router knows.
func (c *conversation) route(from, to uint32, fromMask, toMask uint8, six bool) {
	c.routed, c.srcAS, c.dstAS, c.srcMask, c.dstMask = true, from, to, fromMask, toMask
	if six {
		c.srcMask, c.dstMask = 2*fromMask, 2*toMask
	}
}

func (c conversation) reverse() conversation {
	c.src, c.dst = c.dst, c.src
	c.sport, c.dport = c.dport, c.sport
	c.in, c.out = c.out, c.in
	c.srcAS, c.dstAS = c.dstAS, c.srcAS
	c.srcMask, c.dstMask = c.dstMask, c.srcMask
	if c.icmp {
		c.sport, c.dport = 0, 0 // echo reply
		if c.proto == flow.ProtoICMPv6 {
			c.dport = 129 << 8
		}
	}
	return c
}

// tell makes a record of octets in packets of at most packet octets. A device
// that samples has seen some of them, or none.
func (t *traffic) tell(c *conversation, octets, packet, thin float64) {
	least := 40.0
	octets = max(octets, least)
	// Half of the packets are small: requests and acknowledgements.
	packets := max(1, math.Ceil(octets/packet*1.4))
	octets = max(octets, packets*least) * thin
	packets = math.Ceil(packets * thin)
	if n := float64(devices[c.device].sampling); n > 1 {
		seen := packets / n
		if seen < 1 && t.rng.Float64() > seen {
			return
		}
		seen = max(1, math.Round(seen))
		octets, packets = octets/packets*seen, seen
	}
	t.id++
	r := told{device: c.device, Record: flow.Record{
		Src: c.src, Dst: c.dst, SrcPort: c.sport, DstPort: c.dport, Proto: c.proto,
		First: c.first, Last: c.last, Packets: uint64(packets), Bytes: uint64(octets),
		Input: c.in, Output: c.out, EndReason: c.reason, FlowID: t.id,
		Has: flow.HasSrc | flow.HasDst | flow.HasSrcPort | flow.HasDstPort | flow.HasProto | flow.HasTOS | flow.HasFirst | flow.HasLast |
			flow.HasPackets | flow.HasBytes | flow.HasInput | flow.HasOutput | flow.HasDirection | flow.HasEndReason | flow.HasFlowID,
	}}
	if devices[c.device].outward(c.out) && !devices[c.device].outward(c.in) {
		r.Direction = 1 // metered where it leaves
	}
	switch {
	case c.proto == flow.ProtoTCP:
		r.TCPFlags, r.Has = c.flags, r.Has|flow.HasTCPFlags
	case c.dport == 3478 || c.sport == 3478:
		r.TOS = 46 << 2 // calls are marked EF
	case c.icmp:
		r.ICMPType, r.ICMPCode, r.Has = uint8(c.dport>>8), uint8(c.dport), r.Has|flow.HasICMP
	}
	if c.routed {
		r.SrcAS, r.DstAS, r.SrcMask, r.DstMask = c.srcAS, c.dstAS, c.srcMask, c.dstMask
		r.Has |= flow.HasSrcAS | flow.HasDstAS | flow.HasSrcMask | flow.HasDstMask
	}
	if c.vlan != 0 {
		r.VLAN, r.Has = c.vlan, r.Has|flow.HasVLAN
	}
	if c.status != 0 {
		r.ForwardingStatus, r.Has = c.status, r.Has|flow.HasForwardingStatus
	}
	t.out = append(t.out, r)
}
