package system

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

var be = binary.BigEndian

// frame is an Ethernet frame and what a meter must say of it.
type frame struct {
	octets  []byte
	key     string // the flow, as flowKey writes it; empty: none
	length  uint64 // from the IP header; without one, the frame's
	ignored string // the reason, if it makes no flow
}

// flowKey writes the columns of a record that name its flow.
func flowKey(src, dst string, proto, sport, dport, tos int, vlan string) string {
	return fmt.Sprintf("%s %s %d %d %d %d %s", src, dst, proto, sport, dport, tos, vlan)
}

func keyOf(m map[string]string) string {
	return fmt.Sprintf("%s %s %s %s %s %s %s", m["src"], m["dst"], m["proto"], m["sport"], m["dport"], m["tos"], m["vlan"])
}

func ethernet(etherType uint16, payload []byte, tags ...uint16) []byte {
	f := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	for _, tag := range tags {
		f = be.AppendUint16(be.AppendUint16(f, 0x8100), tag)
	}
	f = be.AppendUint16(f, etherType)
	return append(f, payload...)
}

func vlanText(tags []uint16) string {
	if len(tags) == 0 {
		return ""
	}
	return fmt.Sprint(tags[0] & 0xfff)
}

// ipv4 is a packet; fragment is the octets' offset/8 and the more-fragments bit.
func ipv4(src, dst string, proto, tos uint8, fragment uint16, payload []byte) []byte {
	p := []byte{0x45, tos}
	p = be.AppendUint16(p, uint16(20+len(payload)))
	p = be.AppendUint16(p, 7) // identification
	p = be.AppendUint16(p, fragment)
	p = append(p, 64, proto, 0, 0)
	p = append(p, netip.MustParseAddr(src).AsSlice()...)
	p = append(p, netip.MustParseAddr(dst).AsSlice()...)
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(be.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	be.PutUint16(p[10:], ^uint16(sum))
	return append(p, payload...)
}

func ipv6(src, dst string, next, class uint8, payload []byte) []byte {
	p := be.AppendUint32(nil, 6<<28|uint32(class)<<20)
	p = be.AppendUint16(p, uint16(len(payload)))
	p = append(p, next, 64)
	p = append(p, netip.MustParseAddr(src).AsSlice()...)
	p = append(p, netip.MustParseAddr(dst).AsSlice()...)
	return append(p, payload...)
}

func tcp(sport, dport uint16, flags uint8, payload int) []byte {
	p := be.AppendUint16(be.AppendUint16(nil, sport), dport)
	p = append(p, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0)
	return append(p, make([]byte, payload)...)
}

func udp(sport, dport uint16, payload int) []byte {
	p := be.AppendUint16(be.AppendUint16(nil, sport), dport)
	p = be.AppendUint16(p, uint16(8+payload))
	return append(p, make([]byte, payload+2)...)
}

func udp4(src, dst string, sport, dport uint16, payload int, tags ...uint16) frame {
	p := ipv4(src, dst, 17, 0, 0, udp(sport, dport, payload))
	return frame{ethernet(0x0800, p, tags...), flowKey(src, dst, 17, int(sport), int(dport), 0, vlanText(tags)), uint64(len(p)), ""}
}

func tcp4(src, dst string, sport, dport uint16, flags uint8, payload int) frame {
	p := ipv4(src, dst, 6, 0x10, 0, tcp(sport, dport, flags, payload))
	return frame{ethernet(0x0800, p), flowKey(src, dst, 6, int(sport), int(dport), 0x10, ""), uint64(len(p)), ""}
}

// everyKind is one frame of each kind that a line may carry.
func everyKind() []frame {
	ip := func(key string, p []byte, tags ...uint16) frame {
		return frame{ethernet(0x0800, p, tags...), key, uint64(len(p)), ""}
	}
	ip6 := func(key string, p []byte) frame { return frame{ethernet(0x86dd, p), key, uint64(len(p)), ""} }
	none := func(reason string, octets []byte) frame { return frame{octets, "", uint64(len(octets)), reason} }
	damaged := func(reason string, p []byte) frame {
		f := ethernet(0x0800, p)
		return frame{f, "", uint64(len(f)), reason}
	}
	fragments := append([]byte{17, 0, 0, 1, 0, 0, 0, 9}, udp(1000, 2000, 40)...)     // first: more follow
	later := append([]byte{17, 0, 0, 0x28, 0, 0, 0, 9}, make([]byte, 64)...)         // at 40, the last
	hopByHop := append([]byte{6, 0, 1, 4, 0, 0, 0, 0}, tcp(3000, 443, 0x10, 100)...) // padding
	badHeader := ipv4("10.0.0.1", "10.0.0.2", 17, 0, 0, udp(1, 2, 10))               // header length 16
	badTotal := ipv4("10.0.0.1", "10.0.0.2", 17, 0, 0, udp(1, 2, 10))                // total length 10
	badVersion := ipv4("10.0.0.1", "10.0.0.2", 17, 0, 0, udp(1, 2, 10))              // version 5
	padded := ipv4("10.1.0.9", "10.2.0.9", 17, 0, 0, udp(9, 10, 0))                  // 28 octets in a frame of 60
	badHeader[0], badVersion[0] = 0x44, 0x55
	be.PutUint16(badTotal[2:], 10)
	return []frame{
		tcp4("10.1.0.1", "10.2.0.1", 40000, 443, 0x02, 0),
		tcp4("10.1.0.1", "10.2.0.1", 40000, 443, 0x18, 1200),
		tcp4("10.1.0.1", "10.2.0.1", 40000, 443, 0x11, 0),
		udp4("10.1.0.2", "10.2.0.2", 5353, 53, 33),
		udp4("10.1.0.2", "10.2.0.2", 5353, 53, 33, 100),
		udp4("10.1.0.2", "10.2.0.2", 5353, 53, 1400, 4095, 7),
		ip(flowKey("10.1.0.3", "10.2.0.3", 1, 0, 8*256, 0, ""), ipv4("10.1.0.3", "10.2.0.3", 1, 0, 0, []byte{8, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4})),
		ip(flowKey("10.1.0.4", "10.2.0.4", 17, 1000, 2000, 0, ""), ipv4("10.1.0.4", "10.2.0.4", 17, 0, 0x2000, udp(1000, 2000, 992))),
		ip(flowKey("10.1.0.4", "10.2.0.4", 17, 0, 0, 0, ""), ipv4("10.1.0.4", "10.2.0.4", 17, 0, 125, make([]byte, 500))),
		ip(flowKey("10.1.0.5", "10.2.0.5", 47, 0, 0, 0xb8, ""), ipv4("10.1.0.5", "10.2.0.5", 47, 0xb8, 0, []byte{0, 0, 8, 0, 0x45, 0})),
		ip(flowKey("10.1.0.6", "10.2.0.6", 132, 7, 8, 0, ""), ipv4("10.1.0.6", "10.2.0.6", 132, 0, 0, []byte{0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0})),
		ip(flowKey("10.1.0.9", "10.2.0.9", 17, 9, 10, 0, ""), append(padded, make([]byte, 18)...)).withLength(28),
		ip6(flowKey("2001:db8::1", "2001:db8::2", 17, 1234, 53, 0x20, ""), ipv6("2001:db8::1", "2001:db8::2", 17, 0x20, udp(1234, 53, 77))),
		ip6(flowKey("2001:db8::1", "2001:db8::2", 6, 3000, 443, 0, ""), ipv6("2001:db8::1", "2001:db8::2", 0, 0, hopByHop)),
		ip6(flowKey("2001:db8::3", "2001:db8::2", 17, 1000, 2000, 0, ""), ipv6("2001:db8::3", "2001:db8::2", 44, 0, fragments)),
		ip6(flowKey("2001:db8::3", "2001:db8::2", 17, 0, 0, 0, ""), ipv6("2001:db8::3", "2001:db8::2", 44, 0, later)),
		ip6(flowKey("fe80::1", "ff02::1", 58, 0, 134*256, 0, ""), ipv6("fe80::1", "ff02::1", 58, 0, []byte{134, 0, 0, 0, 64, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0})),
		none("arp", ethernet(0x0806, append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, make([]byte, 38)...))),
		none("other-type", ethernet(0x88cc, make([]byte, 46))),
		none("llc", ethernet(38, append([]byte{0x42, 0x42, 3}, make([]byte, 35)...))),
		none("other-type", ethernet(0x9999, []byte("garbage that nobody knows the type of"))),
		damaged("bad-header-length", badHeader),
		damaged("bad-total-length", badTotal),
		damaged("bad-ip-version", badVersion),
		damaged("truncated-ip", []byte{0x45, 0, 0, 40, 0, 0}),
	}
}

func (f frame) withLength(n uint64) frame { f.length = n; return f }

// expectation adds up frames.
type expectation struct {
	all, metered count
	ignored      map[string]count
	flows        map[string]count
}

func expect(frames []frame) expectation {
	e := expectation{ignored: map[string]count{}, flows: map[string]count{}}
	for _, f := range frames {
		one := count{1, f.length}
		e.all.add(one)
		if f.ignored != "" {
			c := e.ignored[f.ignored]
			c.add(one)
			e.ignored[f.ignored] = c
			continue
		}
		e.metered.add(one)
		c := e.flows[f.key]
		c.add(one)
		e.flows[f.key] = c
	}
	return e
}
