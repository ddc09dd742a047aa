package guard

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"weir/flow"
)

// Measure is one thing that is counted of a destination, a source, a network or a group.
type Measure uint8

// The measures. Those that most flows have come first: the beginning of Counts is then all
// that is touched of it.
const (
	Packets Measure = iota
	Bytes
	Flows // new ones
	TCPPackets
	TCPBytes
	TCPFlows   // new ones
	EstPackets // of established flows
	EstBytes
	SYNPackets // of TCP flows that never got beyond their SYN
	SYNBytes
	SYNFlows // new ones
	UDPPackets
	UDPBytes
	AmpPackets // UDP from ports of amplifiers
	AmpBytes
	ICMPPackets // and ICMPv6
	ICMPBytes
	FragPackets // later fragments
	FragBytes
	DropPackets
	DropBytes
	NumMeasures int = iota
)

// Counts are sums by measure. As rates they are per second.
type Counts [NumMeasures]uint64

// kinds says which measures a delta is counted in, beside packets, octets and flows.
type kinds uint8

const (
	kindTCP kinds = 1 << iota
	kindSYN
	kindUDP
	kindAmp
	kindICMP
	kindFrag
	kindEst
	kindDrop
)

// kindsOf classifies a delta, once for all sums that it is added to.
func kindsOf(d *Delta) (k kinds) {
	switch d.Key.Proto {
	case flow.ProtoTCP:
		k = kindTCP
		if d.synOnly() {
			k |= kindSYN
		}
	case flow.ProtoUDP:
		k = kindUDP
		if d.amplified() {
			k |= kindAmp
		}
	case flow.ProtoICMP, flow.ProtoICMPv6:
		k = kindICMP
	}
	if d.fragment() {
		k |= kindFrag
	}
	if d.Established && !d.Aggregate {
		k |= kindEst
	}
	if d.DroppedPackets|d.DroppedBytes != 0 {
		k |= kindDrop
	}
	return k
}

// count adds a delta, which is of these kinds.
func (c *Counts) count(d *Delta, k kinds) {
	packets, octets, flows := d.Packets, d.Bytes, uint64(d.Flows)
	c[Packets] += packets
	c[Bytes] += octets
	c[Flows] += flows
	switch {
	case k&kindTCP != 0:
		c[TCPPackets] += packets
		c[TCPBytes] += octets
		c[TCPFlows] += flows
		if k&kindSYN != 0 {
			c[SYNPackets] += packets
			c[SYNBytes] += octets
			c[SYNFlows] += flows
		}
	case k&kindUDP != 0:
		c[UDPPackets] += packets
		c[UDPBytes] += octets
		if k&kindAmp != 0 {
			c[AmpPackets] += packets
			c[AmpBytes] += octets
		}
	case k&kindICMP != 0:
		c[ICMPPackets] += packets
		c[ICMPBytes] += octets
	}
	if k&kindEst != 0 {
		c[EstPackets] += packets
		c[EstBytes] += octets
	}
	if k&(kindFrag|kindDrop) == 0 {
		return
	}
	if k&kindFrag != 0 {
		c[FragPackets] += packets
		c[FragBytes] += octets
	}
	c[DropPackets] += d.DroppedPackets
	c[DropBytes] += d.DroppedBytes
}

// counts is what of d a measure counts.
func (d *Delta) counts(m Measure) uint64 {
	var c Counts
	c.count(d, kindsOf(d))
	return c[m]
}

func (c *Counts) add(o *Counts) {
	for i := range c {
		c[i] += o[i]
	}
}

func (c *Counts) sub(o *Counts) {
	for i := range c {
		c[i] -= o[i]
	}
}

// less is sub where there may be less than o.
func (c *Counts) less(o *Counts) {
	for i := range c {
		c[i] -= min(c[i], o[i])
	}
}

// per gives rates a second of sums over ns.
func (c *Counts) per(ns int64) (r Counts) {
	for i := range c {
		r[i] = uint64(float64(c[i]) * 1e9 / float64(ns))
	}
	return r
}

// share is part/whole, 0 of nothing.
func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// SYNRatio is the share of new TCP flows that never got beyond their SYN.
func (c *Counts) SYNRatio() float64 { return share(c[SYNFlows], c[TCPFlows]) }

// limitNames are the names under which thresholds are set. Those of FastNetMon are
// `threshold_` and the same; mbps there and here is Mbit/s.
var limitNames = []struct {
	name    string
	measure Measure
	bits    bool
}{
	{"pps", Packets, false},
	{"bps", Bytes, true},
	{"flows", Flows, false},
	{"tcp-pps", TCPPackets, false},
	{"tcp-bps", TCPBytes, true},
	{"udp-pps", UDPPackets, false},
	{"udp-bps", UDPBytes, true},
	{"icmp-pps", ICMPPackets, false},
	{"icmp-bps", ICMPBytes, true},
	{"ip-fragments-pps", FragPackets, false},
	{"ip-fragments-bps", FragBytes, true},
	{"tcp-syn-pps", SYNPackets, false},
	{"tcp-syn-bps", SYNBytes, true},
	{"amplification-pps", AmpPackets, false},
	{"amplification-bps", AmpBytes, true},
	{"tcp-syn-flows", SYNFlows, false},
}

// Limit is a threshold: a rate of a measure over a window that must not be exceeded.
type Limit struct {
	Measure Measure
	Rate    uint64 // a second: packets, flows, or octets
	Window  Window
}

// Window is the time over which a rate is taken.
type Window uint8

// The windows.
const (
	Second     Window = iota // the last tick
	TenSeconds               // the last ten
)

func (w Window) String() string { return [...]string{"1s", "10s"}[w] }

// Name is what the threshold is called in the configuration.
func (l Limit) Name() string {
	name := ""
	for _, n := range limitNames {
		if n.measure == l.Measure {
			name = n.name
		}
	}
	if l.Window == TenSeconds {
		name += "-10s"
	}
	return name
}

func (l Limit) bits() bool {
	for _, n := range limitNames {
		if n.measure == l.Measure {
			return n.bits
		}
	}
	return false
}

// Value is the rate as it is configured and shown: bit/s for octets.
func (l Limit) Value() uint64 { return l.shown(l.Rate) }

func (l Limit) shown(rate uint64) uint64 {
	if l.bits() {
		return rate * 8
	}
	return rate
}

func (l Limit) String() string { return l.Name() + " " + FormatRate(l.Value(), l.unit()) }

func (l Limit) unit() string {
	switch {
	case l.bits():
		return "bps"
	case l.Measure == Flows || l.Measure == SYNFlows:
		return "flows/s"
	}
	return "pps"
}

// FormatRate writes a rate with its unit: 20kpps, 1Gbps.
func FormatRate(n uint64, unit string) string {
	for _, f := range []struct {
		n uint64
		s string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if n >= f.n && (n%f.n == 0 || n >= 10*f.n) {
			return strconv.FormatUint(n/f.n, 10) + f.s + unit
		} else if n >= f.n {
			return strconv.FormatFloat(float64(n)/float64(f.n), 'f', 1, 64) + f.s + unit
		}
	}
	return strconv.FormatUint(n, 10) + unit
}

// ParseRate reads 20k, 20kpps, 1Gbps, 800Mbit/s, 3500. What unit it has is the caller's to know.
func ParseRate(s string) (uint64, error) {
	n := strings.ToLower(strings.TrimSpace(s))
	for _, unit := range []string{"flows/s", "packets/s", "bit/s", "bits/s", "pps", "bps", "bit"} {
		if cut, ok := strings.CutSuffix(n, unit); ok {
			n = cut
			break
		}
	}
	n = strings.TrimSpace(n)
	factor := 1.0
	for _, f := range []struct {
		s string
		n float64
	}{{"k", 1e3}, {"m", 1e6}, {"g", 1e9}, {"t", 1e12}} {
		if cut, ok := strings.CutSuffix(n, f.s); ok {
			n, factor = cut, f.n
			break
		}
	}
	v, err := strconv.ParseFloat(n, 64)
	if v *= factor; err != nil || !(v >= 0 && v <= 1e15) {
		return 0, fmt.Errorf("%.40q is no rate; accepted: 3500, 20k, 20kpps, 800Mbps, 1Gbps", s)
	}
	return uint64(v), nil
}

// ParseLimit reads a threshold by name and value. Names may be FastNetMon's
// (threshold_pps, threshold_tcp_mbps), with - or _; -10s at the end takes the mean of
// ten seconds instead of the last one.
func ParseLimit(name, value string) (Limit, error) {
	n := strings.TrimPrefix(strings.ReplaceAll(strings.ToLower(name), "_", "-"), "threshold-")
	l := Limit{}
	if cut, ok := strings.CutSuffix(n, "-10s"); ok {
		n, l.Window = cut, TenSeconds
	}
	mega := uint64(1)
	if cut, ok := strings.CutSuffix(n, "mbps"); ok {
		n, mega = cut+"bps", 1e6
	}
	for _, x := range limitNames {
		if x.name != n {
			continue
		}
		v, err := ParseRate(value)
		if err != nil {
			return l, err
		}
		if mega > 1 && strings.Trim(value, "0123456789. ") == "" {
			v *= mega
		}
		if x.bits {
			v /= 8
		}
		if v == 0 {
			return l, fmt.Errorf("%s: 0 would be exceeded by the first packet; leave the threshold out to have none", name)
		}
		l.Measure, l.Rate = x.measure, v
		return l, nil
	}
	return l, fmt.Errorf("%.40q is no threshold; accepted: %s, each also with -10s at its end", name, strings.Join(LimitNames(), ", "))
}

// LimitNames lists the names of thresholds.
func LimitNames() []string {
	var names []string
	for _, n := range limitNames {
		names = append(names, n.name)
	}
	return names
}

// ParseLimits reads thresholds, in a stable order.
func ParseLimits(m map[string]string) (list []Limit, err error) {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		l, err := ParseLimit(n, m[n])
		if err != nil {
			return nil, err
		}
		for _, o := range list {
			if o.Measure == l.Measure && o.Window == l.Window {
				return nil, fmt.Errorf("%s is set twice, by other names", l.Name())
			}
		}
		list = append(list, l)
	}
	return list, nil
}

// DefaultLimits are FastNetMon's: 20 kpps, 1 Gbit/s, 3500 flows a second. (There the
// last is not looked at unless ban_for_flows is on.)
func DefaultLimits() []Limit {
	return []Limit{{Packets, 20_000, Second}, {Bytes, 1e9 / 8, Second}, {Flows, 3500, Second}}
}
