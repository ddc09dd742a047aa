package route

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// What the kernel's messages say. Nothing here allocates but for a link's kind;
// what is too short is refused.

const (
	messageHead = unix.NLMSG_HDRLEN
	attrHead    = unix.SizeofRtAttr
	attrMask    = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
)

var order = binary.NativeEndian

func align4(n int) int { return (n + 3) &^ 3 }

// message is one netlink message.
type message struct {
	kind, flags uint16
	seq         uint32
	body        []byte
}

// next takes the first message off a datagram; ok is false at its end, or where
// it makes no sense.
func next(b []byte) (m message, rest []byte, ok bool) {
	if len(b) < messageHead {
		return m, nil, false
	}
	n := order.Uint32(b)
	if n < messageHead || uint64(n) > uint64(len(b)) {
		return m, nil, false
	}
	m = message{kind: order.Uint16(b[4:]), flags: order.Uint16(b[6:]), seq: order.Uint32(b[8:]), body: b[messageHead:n]}
	return m, b[min(align4(int(n)), len(b)):], true
}

// nextAttr takes the first attribute off b.
func nextAttr(b []byte) (kind uint16, value, rest []byte, ok bool) {
	if len(b) < attrHead {
		return 0, nil, nil, false
	}
	n := int(order.Uint16(b))
	if n < attrHead || n > len(b) {
		return 0, nil, nil, false
	}
	return order.Uint16(b[2:]) & attrMask, b[attrHead:n], b[min(align4(n), len(b)):], true
}

// find is the value of an attribute, nil without.
func find(b []byte, kind uint16) []byte {
	for k, v, rest, ok := nextAttr(b); ok; k, v, rest, ok = nextAttr(rest) {
		if k == kind {
			return v
		}
	}
	return nil
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return order.Uint32(b)
}

// addrOf reads an address of a family.
func addrOf(family uint8, b []byte) (netip.Addr, bool) {
	switch {
	case family == unix.AF_INET && len(b) >= 4:
		return netip.AddrFrom4([4]byte(b)), true
	case family == unix.AF_INET6 && len(b) >= 16:
		return netip.AddrFrom16([16]byte(b)), true
	}
	return netip.Addr{}, false
}

// routeMessage is what RTM_NEWROUTE and RTM_DELROUTE say.
type routeMessage struct {
	key routeKey
	mtu uint32 // RTAX_MTU, if it is forwarded by; 0: none
}

// parseRoute reads a route message (struct rtmsg). ok is false for what no route is
// forwarded by: other families, multicast, and the kernel's own notes of what it
// looked up (RTM_F_CLONED).
func parseRoute(b []byte) (r routeMessage, ok, sound bool) {
	if len(b) < unix.SizeofRtMsg {
		return r, false, false
	}
	family, bits, flags := b[0], int(b[1]), order.Uint32(b[8:])
	r.key.tos, r.key.table = b[3], uint32(b[4])
	var at netip.Addr
	switch family {
	case unix.AF_INET:
		at = netip.IPv4Unspecified()
	case unix.AF_INET6:
		at = netip.IPv6Unspecified()
	default:
		return r, false, true
	}
	if flags&unix.RTM_F_CLONED != 0 {
		return r, false, true
	}
	known := bits == 0
	for k, v, rest, more := nextAttr(b[unix.SizeofRtMsg:]); more; k, v, rest, more = nextAttr(rest) {
		switch k {
		case unix.RTA_DST:
			if at, known = addrOf(family, v); !known {
				return r, false, false
			}
		case unix.RTA_TABLE:
			r.key.table = u32(v)
		case unix.RTA_PRIORITY:
			r.key.priority = u32(v)
		case unix.RTA_METRICS:
			if b[7] == unix.RTN_UNICAST {
				r.mtu = u32(find(v, unix.RTAX_MTU))
			}
		}
	}
	r.key.to = netip.PrefixFrom(at, bits)
	if !known || !r.key.to.IsValid() {
		return routeMessage{}, false, false
	}
	return r, !multicast(r.key.to), true
}

// multicast says whether all of p is.
func multicast(p netip.Prefix) bool {
	return p.Addr().IsMulticast() && (p.Bits() >= 8 || p.Bits() >= 4 && p.Addr().Is4())
}

// neighbourMessage is what RTM_NEWNEIGH and RTM_DELNEIGH say.
type neighbourMessage struct {
	hop   Hop
	state uint16  // NUD_…
	mac   [6]byte // zero: none that a frame can be sent to
}

var broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// parseNeighbour reads struct ndmsg. ok is false for what is no neighbour of IP:
// a bridge's addresses, proxies, multicast.
func parseNeighbour(b []byte) (n neighbourMessage, ok, sound bool) {
	if len(b) < unix.SizeofNdMsg {
		return n, false, false
	}
	family, flags := b[0], b[10]
	if family != unix.AF_INET && family != unix.AF_INET6 || flags&unix.NTF_PROXY != 0 {
		return n, false, true
	}
	n.hop.Interface, n.state = order.Uint32(b[4:]), order.Uint16(b[8:])
	for k, v, rest, more := nextAttr(b[unix.SizeofNdMsg:]); more; k, v, rest, more = nextAttr(rest) {
		switch k {
		case unix.NDA_DST:
			if n.hop.Gateway, sound = addrOf(family, v); !sound {
				return n, false, false
			}
		case unix.NDA_LLADDR:
			if len(v) == 6 && [6]byte(v) != broadcast {
				n.mac = [6]byte(v)
			}
		}
	}
	if !n.hop.Gateway.IsValid() {
		return n, false, false
	}
	return n, !n.hop.Gateway.IsMulticast(), true
}

// addressMessage is what RTM_NEWADDR and RTM_DELADDR say.
type addressMessage struct {
	ifindex uint32
	own     netip.Addr
	link    netip.Prefix // that it is on: of the peer, point to point
}

// parseAddress reads struct ifaddrmsg.
func parseAddress(b []byte) (a addressMessage, ok, sound bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return a, false, false
	}
	family, bits := b[0], int(b[1])
	if family != unix.AF_INET && family != unix.AF_INET6 {
		return a, false, true
	}
	a.ifindex = order.Uint32(b[4:])
	var on netip.Addr
	for k, v, rest, more := nextAttr(b[unix.SizeofIfAddrmsg:]); more; k, v, rest, more = nextAttr(rest) {
		switch k {
		case unix.IFA_LOCAL:
			if a.own, sound = addrOf(family, v); !sound {
				return a, false, false
			}
		case unix.IFA_ADDRESS:
			if on, sound = addrOf(family, v); !sound {
				return a, false, false
			}
		}
	}
	if !a.own.IsValid() {
		a.own = on // IPv6 has IFA_LOCAL for peers only
	}
	if !on.IsValid() {
		on = a.own
	}
	a.link = netip.PrefixFrom(on, bits)
	if !a.own.IsValid() || !a.link.IsValid() {
		return a, false, false
	}
	a.link = a.link.Masked()
	return a, true, true
}

// link is what matters of an interface. It is comparable: two that are equal
// forward alike.
type link struct {
	kind    string // rtnetlink's: veth, vlan, bridge, …; empty for hardware
	arphrd  uint16
	admin   bool // set up
	carrier bool
	mac     [6]byte
	mtu     uint32
	master  uint32
	lower   uint32 // that it is on; 0: none, or in another namespace
	vlan    uint16 // Tagged | id of an 802.1Q one
}

// up says whether frames can be sent by it.
func (l link) up() bool { return l.admin && l.carrier }

// parseLink reads struct ifinfomsg. ok is false for what is no whole message of
// an interface: a bridge's view of its port, a word of wireless.
func parseLink(b []byte) (ifindex uint32, l link, ok, sound bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return 0, l, false, false
	}
	if b[0] != unix.AF_UNSPEC {
		return 0, l, false, true
	}
	l.arphrd, ifindex = order.Uint16(b[2:]), order.Uint32(b[4:])
	flags := order.Uint32(b[8:])
	l.admin, l.carrier = flags&unix.IFF_UP != 0, flags&unix.IFF_LOWER_UP != 0
	abroad := false
	for k, v, rest, more := nextAttr(b[unix.SizeofIfInfomsg:]); more; k, v, rest, more = nextAttr(rest) {
		switch k {
		case unix.IFLA_ADDRESS:
			if len(v) == 6 {
				l.mac = [6]byte(v)
			}
		case unix.IFLA_MTU:
			l.mtu, ok = u32(v), true
		case unix.IFLA_MASTER:
			l.master = u32(v)
		case unix.IFLA_LINK:
			l.lower = u32(v)
		case unix.IFLA_LINK_NETNSID:
			abroad = true
		case unix.IFLA_LINKINFO:
			l.kind, l.vlan = parseLinkInfo(v)
		}
	}
	if abroad || l.lower == ifindex {
		l.lower = 0
	}
	return ifindex, l, ok, true
}

// parseLinkInfo reads IFLA_LINKINFO.
func parseLinkInfo(b []byte) (kind string, vlan uint16) {
	kind = text(find(b, unix.IFLA_INFO_KIND))
	if kind != "vlan" {
		return kind, 0
	}
	data := find(b, unix.IFLA_INFO_DATA)
	id, protocol := find(data, unix.IFLA_VLAN_ID), find(data, unix.IFLA_VLAN_PROTOCOL)
	if len(id) < 2 || len(protocol) >= 2 && binary.BigEndian.Uint16(protocol) != unix.ETH_P_8021Q {
		return kind, 0
	}
	return kind, Tagged | order.Uint16(id)&0xfff
}

// text is a C string.
func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// settingForwards says whether RTM_NEWNETCONF tells of a changed setting that
// routing heeds. A new interface's settings come all at once, and change
// nothing that was.
func settingForwards(b []byte) bool {
	const netconfHead = 4 // struct netconfmsg, padded
	const forwarding, proxyNeighbours, ignoreDown = 2, 5, 6
	if len(b) < netconfHead {
		return false
	}
	b = b[netconfHead:]
	one := find(b, proxyNeighbours) == nil
	return one && (find(b, forwarding) != nil || find(b, ignoreDown) != nil)
}
