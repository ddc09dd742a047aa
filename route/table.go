package route

import "net/netip"

// Table is a fast path's memory of routes. All calls come from the goroutine of
// Monitor.Run.
type Table interface {
	// SetHop enters or changes a next hop. An error (it is full) is logged once
	// and counted, and tried again when there may be room.
	SetHop(key Hop, way Way) error
	// DropHop says that a next hop is gone, or cannot be sent to from here. Of
	// one that is not there it says nothing new.
	DropHop(key Hop)
	// SetUpper says which interface has the frames of a VLAN that come in by
	// lower; vlan is Way.VLAN's. Upper 0: none.
	SetUpper(lower uint32, vlan uint16, upper uint32)
	// SetOwn says that an address is this machine's, or no longer.
	SetOwn(addr netip.Addr, own bool)
	// SetMTUs says which destinations have routes with an MTU of their own, and
	// the least that any of these has, octets of an IP packet: the longest prefix
	// counts. They are all there are; the table must not change the map.
	SetMTUs(map[netip.Prefix]uint32)
	// Invalidate says that routes to destinations within p may have changed.
	Invalidate(p netip.Prefix)
	InvalidateAll()
	// Used yields the next hops that something was sent to since the last call.
	Used(yield func(Hop))
}

// Hop is a next hop in the words of the routing table: the interface the route
// leaves by, a VLAN's own, and the gateway's address, or the destination's where
// that is on the link. An IPv4 route may have an IPv6 gateway (RFC 8950).
type Hop struct {
	Interface uint32
	Gateway   netip.Addr // without a zone
}

// Way is how a frame gets to a next hop.
type Way struct {
	Device              uint32  // which sends it: a VLAN's lower one
	VLAN                uint16  // Tagged | id of the tag it needs; 0: none
	Source, Destination [6]byte // MAC addresses
	MTU                 uint16  // octets of an IP packet, of the route's interface
	Alive               bool    // false: it must not be sent to now
}

// Tagged marks a VLAN id, so that 0 is no tag.
const Tagged = 0x8000
