package guard

import "weir/flow"

// Delta is what one flow entry counted since the last tick. Entries that counted nothing
// need not be given. A Delta may also stand for many flows that have no entry of their
// own (what the cache refused): Key then has what they share, Flows how many there were.
type Delta struct {
	Key flow.Key

	Packets, Bytes               uint64 // all, also what was dropped
	DroppedPackets, DroppedBytes uint64 // of these, what was dropped, whoever did it

	Flows    uint32 // flows that began since the last tick: 1 for a new entry, 0 for an old one
	TCPFlags uint8  // OR over the flow's life, not over this tick only

	// Aggregate: it is of flows that the cache had no place for. Of the key there are the
	// protocol and the destination's network, or not even these.
	Aggregate bool

	// Established: the flow has at least three packets and, if it is TCP, an ACK. A
	// spoofed packet does not make one.
	Established bool
}

// DeltaOf is a whole record as one delta, as if its flow began and ended within a tick.
// Packets are multiplied by the sampling rate, as far as it is known.
func DeltaOf(r *flow.Record) (d Delta) {
	d.be(r)
	return d
}

// be makes d the delta of a whole record, field by field: copies of it would take as long
// as all the rest.
func (d *Delta) be(r *flow.Record) {
	rate := uint64(1)
	if r.Has&flow.HasSampling != 0 && r.Sampling > 1 {
		rate = uint64(r.Sampling)
	}
	d.Packets, d.Bytes, d.Flows, d.TCPFlags = r.Packets*rate, r.Bytes*rate, 1, uint8(r.TCPFlags)
	d.DroppedPackets, d.DroppedBytes = 0, 0
	if r.Has&flow.HasDropped != 0 {
		d.DroppedPackets, d.DroppedBytes = r.DroppedPackets*rate, r.DroppedBytes*rate
	}
	// As the cache has it: a rule for one flow compares the whole key.
	k := &d.Key
	k.Src, k.Dst, k.SrcPort, k.DstPort, k.Proto, k.TOS = r.Src, r.Dst, r.SrcPort, r.DstPort, r.Proto, r.TOS
	vlan, input := r.VLAN&flow.VLANMask, r.Input
	if r.IPVersion == 6 {
		vlan |= flow.KeyIPv6
	}
	if r.Has&flow.HasVLAN != 0 {
		vlan |= flow.KeyTagged
	}
	if r.Fragment {
		vlan |= flow.KeyFragment
	}
	if r.Has&flow.HasDirection != 0 && r.Direction == 1 {
		input = r.Output | flow.KeyEgress
	}
	k.VLAN, k.Input = vlan, input
	d.Aggregate = r.Has&flow.HasSrc == 0 && r.Src == flow.Addr{}
	d.Established = establishedBy(r.Proto, d.TCPFlags, r.Packets)
}

// establishedBy says whether packets, and flags, make an established flow.
func establishedBy(proto, flags uint8, packets uint64) bool {
	return packets >= 3 && (proto != flow.ProtoTCP || flags&flow.ACK != 0)
}

// synOnly says whether d is TCP that never got beyond its SYN.
func (d *Delta) synOnly() bool {
	return d.Key.Proto == flow.ProtoTCP && d.TCPFlags&(flow.SYN|flow.ACK|flow.RST|flow.FIN) == flow.SYN
}

// single says whether d is of new flows that have had one packet each.
func (d *Delta) single() bool { return d.Flows > 0 && d.Packets <= uint64(d.Flows) }

func (d *Delta) fragment() bool { return d.Key.VLAN&flow.KeyFragment != 0 }

// amplified says whether d is UDP that comes from a port which answers more than it is
// asked: what reflection attacks use (US-CERT TA14-017A, and later finds).
func (d *Delta) amplified() bool {
	return d.Key.Proto == flow.ProtoUDP && Amplifier(d.Key.SrcPort) != ""
}

// amplifiers are UDP source ports of reflection attacks. Ports that also carry much that
// was asked for (QUIC, STUN, VPNs) are not among them.
var amplifiers = [...]struct {
	port uint16
	name string
}{
	{17, "qotd"},
	{19, "chargen"},
	{53, "dns"},
	{69, "tftp"},
	{111, "portmap"},
	{123, "ntp"},
	{137, "netbios"},
	{161, "snmp"},
	{177, "xdmcp"},
	{389, "cldap"},
	{427, "slp"},
	{500, "ike"},
	{520, "rip"},
	{623, "ipmi"},
	{1434, "mssql"},
	{1701, "l2tp"},
	{1900, "ssdp"},
	{3283, "ard"},
	{3389, "rdp"},
	{3702, "ws-discovery"},
	{5093, "sentinel"},
	{5351, "nat-pmp"},
	{5353, "mdns"},
	{5683, "coap"},
	{10001, "ubiquiti"},
	{10074, "mitel"},
	{11211, "memcached"},
	{27015, "steam"},
	{27960, "quake"},
	{32414, "plex"},
	{37810, "dvr"},
}

var amplifierSet, amplifierNames = func() (set [1 << 16 / 64]uint64, names map[uint16]string) {
	names = map[uint16]string{}
	for _, a := range amplifiers {
		set[a.port/64] |= 1 << (a.port % 64)
		names[a.port] = a.name
	}
	return set, names
}()

// Amplifier is the service that answers from a UDP port in reflection attacks, "" if none
// is known.
func Amplifier(port uint16) string {
	if amplifierSet[port/64]&(1<<(port%64)) == 0 {
		return ""
	}
	return amplifierNames[port]
}
