package guard

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"

	"weir/flow"
)

// Evidence is what the packets of an attack's target looked like: shares of packets, from
// a sample that is spread evenly over them.
type Evidence struct {
	At          int64    `json:"at"`      // Unix ns: the tick it is of
	Packets     uint64   `json:"packets"` // that the sample stands for
	Deltas      int      `json:"sampled"` // sampled flow entries
	Sources     int      `json:"sources"` // different ones in the sample: at least so many there are
	TopSources  []Share  `json:"top_sources"`
	Protocols   []Share  `json:"protocols"`
	SourcePorts []Share  `json:"source_ports"`
	DestPorts   []Share  `json:"dest_ports"`
	Sizes       []Share  `json:"sizes"` // octets of the packets' mean
	TCPFlags    []Share  `json:"tcp_flags"`
	Established float64  `json:"established"` // share of established flows
	TopFlow     float64  `json:"top_flow"`    // share of the largest one
	Headers     []Header `json:"headers"`
}

// Share is one value's share of packets.
type Share struct {
	Value string  `json:"value"`
	Share float64 `json:"share"`
}

// Header is what the headers of one sampled flow's packets said.
type Header struct {
	Src      netip.AddrPort `json:"src"`
	Dst      netip.AddrPort `json:"dst"`
	Proto    uint8          `json:"proto"`
	TCPFlags uint8          `json:"tcp_flags"`
	TOS      uint8          `json:"tos"`
	Fragment bool           `json:"fragment,omitempty"`
	Packets  uint64         `json:"packets"` // of the flow, in the tick
	Bytes    uint64         `json:"bytes"`
}

const (
	mostShares  = 10
	mostHeaders = 20
	mostKeys    = 4096 // of one tally: the sample is not larger by much
)

// tally sums packets by a key.
type tally[K cmp.Ordered] map[K]uint64

func (t tally[K]) add(k K, n uint64) {
	if _, there := t[k]; there || len(t) < mostKeys {
		t[k] += n
	}
}

// top are the largest, ties in the keys' order.
func (t tally[K]) top(whole uint64, name func(K) string) []Share {
	keys := make([]K, 0, len(t))
	for k := range t {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b K) int { return cmp.Or(cmp.Compare(t[b], t[a]), cmp.Compare(a, b)) })
	list := make([]Share, 0, min(len(keys), mostShares))
	for _, k := range keys[:min(len(keys), mostShares)] {
		list = append(list, Share{name(k), share(t[k], whole)})
	}
	return list
}

func portName(p uint16) string { return strconv.Itoa(int(p)) }

// amplifierPort names the service as well.
func amplifierPort(p uint16) string {
	if n := Amplifier(p); n != "" {
		return portName(p) + " " + n
	}
	return portName(p)
}

var sizeBins = [...]uint16{64, 128, 256, 512, 1024, 1500}

func sizeBin(d *Delta) uint16 {
	mean := d.Bytes / max(1, d.Packets)
	for _, b := range sizeBins {
		if mean <= uint64(b) {
			return b
		}
	}
	return 65535
}

func sizeName(b uint16) string {
	if b == 65535 {
		return "> 1500"
	}
	return "<= " + strconv.Itoa(int(b))
}

// flagText writes TCP flags as nfdump does, without the dots.
func flagText(f uint8) string {
	if f == 0 {
		return "none"
	}
	s := ""
	for i, c := range "FSRPAUEC" {
		if f&(1<<i) != 0 {
			s += string(c)
		}
	}
	return s
}

// sourceKey orders sources in a tally.
type sourceKey string

// gather takes the evidence of what m matches; which sample is fuller decides.
func (r *rates) gather(now int64, m *Match) *Evidence {
	from := r.sample
	if count(r.hot, m) > count(r.sample, m) {
		from = r.hot
	}
	e := &Evidence{At: now}
	sources, protos, sports, dports := tally[sourceKey]{}, tally[uint8]{}, tally[uint16]{}, tally[uint16]{}
	sizes, flags, flows := tally[uint16]{}, tally[uint8]{}, tally[string]{}
	established := uint64(0)
	from.of(m, func(d *Delta, n uint64) {
		e.Deltas++
		e.Packets += n
		src := mask6(d.Key.Src)
		sources.add(sourceKey(src[:]), n)
		flows.add(keyText(&d.Key), n)
		protos.add(d.Key.Proto, n)
		sizes.add(sizeBin(d), n)
		if d.Established {
			established += n
		}
		if ported(d.Key.Proto) && !d.fragment() {
			sports.add(d.Key.SrcPort, n)
			dports.add(d.Key.DstPort, n)
		}
		if d.Key.Proto == flow.ProtoTCP {
			flags.add(d.TCPFlags, n)
		}
		if len(e.Headers) < mostHeaders {
			e.Headers = append(e.Headers, Header{
				Src: netip.AddrPortFrom(d.Key.Src.Netip(), d.Key.SrcPort), Dst: netip.AddrPortFrom(d.Key.Dst.Netip(), d.Key.DstPort),
				Proto: d.Key.Proto, TCPFlags: d.TCPFlags, TOS: d.Key.TOS, Fragment: d.fragment(), Packets: d.Packets, Bytes: d.Bytes,
			})
		}
	})
	e.Sources = len(sources)
	e.TopSources = sources.top(e.Packets, func(k sourceKey) string { return prefixText(sourcePrefix(flow.Addr([]byte(k)))) })
	e.Protocols = protos.top(e.Packets, protoName)
	e.SourcePorts = sports.top(e.Packets, amplifierPort)
	e.DestPorts = dports.top(e.Packets, portName)
	e.Sizes = sizes.top(e.Packets, sizeName)
	e.TCPFlags = flags.top(e.Packets, flagText)
	e.Established = share(established, e.Packets)
	for _, n := range flows {
		e.TopFlow = max(e.TopFlow, share(n, e.Packets))
	}
	return e
}

func ported(proto uint8) bool {
	return proto == flow.ProtoTCP || proto == flow.ProtoUDP || proto == flow.ProtoSCTP || proto == flow.ProtoDCCP || proto == flow.ProtoUDPLite
}

func count(s *sample, m *Match) (n int) {
	s.of(m, func(*Delta, uint64) { n++ })
	return n
}

// keyText is an order on flow keys for tallies.
func keyText(k *flow.Key) string {
	b := append(append([]byte{}, k.Src[:]...), k.Dst[:]...)
	b = binary.BigEndian.AppendUint16(b, k.SrcPort)
	b = binary.BigEndian.AppendUint16(b, k.DstPort)
	b = binary.BigEndian.AppendUint32(b, k.Input)
	b = binary.BigEndian.AppendUint16(b, k.VLAN)
	return string(append(b, k.Proto, k.TOS))
}
