package packet_test

import (
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"weir/capture"
	"weir/flow"
	"weir/packet"
)

// naive is Decode for Ethernet with tags in front of IP, written down once more
// in the most obvious way: one question after the other, no fast path. It gives
// ok = false for everything else.
func naive(b []byte, wire uint32) (in packet.Info, why packet.Reason, ok bool) {
	be := binary.BigEndian
	if len(b) < 14 {
		return in, packet.TruncatedLink, true
	}
	off, kind := 14, be.Uint16(b[12:])
	for kind == 0x8100 || kind == 0x88a8 || kind == 0x9100 {
		if len(b) < off+4 {
			return in, packet.TruncatedLink, true
		}
		if in.Key.VLAN == 0 {
			in.Key.VLAN = flow.KeyTagged + be.Uint16(b[off:])%4096
		}
		kind = be.Uint16(b[off+2:])
		if off += 4; off > 100 {
			return in, 0, false
		}
	}
	ip := b[off:]
	var next byte
	var payload []byte
	switch kind {
	case 0x0800:
		if len(ip) < 20 {
			return in, packet.TruncatedIP, true
		}
		header, total := int(ip[0]%16)*4, int(be.Uint16(ip[2:]))
		switch {
		case ip[0]/16 != 4:
			return in, packet.BadVersion, true
		case header < 20:
			return in, packet.BadHeaderLength, true
		case total == 0:
			total = max(int(wire)-off, len(ip))
		case total < header:
			return in, packet.BadTotalLength, true
		}
		in.Length = uint32(total)
		in.Key.TOS, in.TTL, next = ip[1], ip[8], ip[9]
		src, _ := netip.AddrFromSlice(ip[12:16])
		dst, _ := netip.AddrFromSlice(ip[16:20])
		in.Key.Src, in.Key.Dst = flow.AddrFrom(src), flow.AddrFrom(dst)
		in.Key.Proto = next
		if be.Uint16(ip[6:])%8192 > 0 {
			in.Key.VLAN |= flow.KeyFragment
			return in, 0, true
		}
		if total < len(ip) {
			ip = ip[:total]
		}
		if header <= len(ip) {
			payload = ip[header:]
		}
		if next == flow.ProtoICMP && len(payload) >= 6 {
			in.Key.DstPort = uint16(payload[0])*256 + uint16(payload[1])
		}
	case 0x86dd:
		if len(ip) < 40 {
			return in, packet.TruncatedIP, true
		}
		if ip[0]/16 != 6 {
			return in, packet.BadVersion, true
		}
		in.Key.VLAN |= flow.KeyIPv6
		in.Key.TOS = ip[0]<<4 | ip[1]>>4
		in.TTL, next = ip[7], ip[6]
		src, _ := netip.AddrFromSlice(ip[8:24])
		dst, _ := netip.AddrFromSlice(ip[24:40])
		in.Key.Src, in.Key.Dst = src.As16(), dst.As16()
		total := 40 + int(be.Uint16(ip[4:]))
		if total == 40 {
			if beyond := max(int(wire)-off, len(ip)); next != 0 && beyond > 65575 {
				total = beyond
			} else if next == 0 {
				return in, 0, false // jumbo: the table of headers has these
			}
		}
		in.Length = uint32(total)
		if total < len(ip) {
			ip = ip[:total]
		}
		payload = ip[40:]
		for next == 0 || next == 43 || next == 44 || next == 60 {
			if len(payload) < 2 {
				break
			}
			size := 8 + 8*int(payload[1])
			if next == 44 {
				if size = 8; len(payload) < size {
					break
				}
				if be.Uint16(payload[2:])/8 > 0 {
					in.Key.Proto = payload[0]
					in.Key.VLAN |= flow.KeyFragment
					return in, 0, true
				}
			}
			next = payload[0]
			if size > len(payload) {
				size = len(payload)
			}
			payload = payload[size:]
		}
		in.Key.Proto = next
		if next == flow.ProtoICMPv6 && len(payload) >= 2 {
			in.Key.DstPort = uint16(payload[0])*256 + uint16(payload[1])
		}
	default:
		return in, 0, false
	}
	switch next {
	case flow.ProtoTCP, flow.ProtoUDP, flow.ProtoUDPLite, flow.ProtoSCTP, flow.ProtoDCCP:
		if len(payload) >= 4 && (next != flow.ProtoSCTP || len(payload) >= 12) {
			in.Key.SrcPort, in.Key.DstPort = be.Uint16(payload), be.Uint16(payload[2:])
		}
	}
	if next == flow.ProtoTCP && len(payload) >= 16 && payload[12]/16 >= 5 {
		in.TCPFlags = payload[13]
	}
	return in, 0, true
}

// same holds Decode to its twin on one Ethernet frame.
func same(t interface{ Fatalf(string, ...any) }, b []byte, wire uint32) {
	want, whyWant, ok := naive(b, wire)
	if !ok {
		return
	}
	// What was there before must not show.
	got := packet.Info{TCPFlags: 0xff, TTL: 0xff, Length: 99}
	got.Key.SrcPort, got.Key.DstPort, got.Key.VLAN, got.Key.Src = 1, 2, 0xffff, flow.Addr{1, 2, 3}
	why := packet.Decode(packet.LinkEthernet, b, wire, &got)
	if why != whyWant || why == packet.Decoded && got != want {
		t.Fatalf("% x, %d on the wire:\n got %v %+v\nwant %v %+v", b, wire, why, got, whyWant, want)
	}
}

// frame draws an Ethernet frame that is right or nearly so.
func frame(t *rapid.T) []byte {
	be := binary.BigEndian
	b := make([]byte, 12)
	for range rapid.IntRange(0, 3).Draw(t, "tags") {
		b = be.AppendUint16(b, rapid.SampledFrom([]uint16{0x8100, 0x8100, 0x88a8, 0x9100}).Draw(t, "tag"))
		b = be.AppendUint16(b, rapid.Uint16().Draw(t, "tci"))
	}
	proto := rapid.SampledFrom([]byte{6, 6, 17, 17, 1, 58, 33, 132, 136, 47, 50, 51, 4}).Draw(t, "proto")
	payload := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "payload")
	length := func(n int) uint16 {
		return uint16(n + rapid.SampledFrom([]int{0, 0, 0, 0, -1, -8, 1, 100, -n}).Draw(t, "lie"))
	}
	if rapid.Bool().Draw(t, "v4") {
		b = be.AppendUint16(b, 0x0800)
		words := rapid.SampledFrom([]int{5, 5, 5, 5, 6, 15, 4}).Draw(t, "header")
		b = append(b, 4<<4|byte(words), rapid.Byte().Draw(t, "tos"))
		b = be.AppendUint16(b, length(words*4+len(payload)))
		b = append(b, 0, 0)
		b = be.AppendUint16(b, rapid.SampledFrom([]uint16{0, 0, 0x4000, 0x2000, 0x2001, 7}).Draw(t, "fragment"))
		b = append(b, rapid.Byte().Draw(t, "ttl"), proto, 0, 0)
		b = append(b, rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "addresses")...)
		b = append(b, make([]byte, max(0, words*4-20))...)
	} else {
		b = be.AppendUint16(b, 0x86dd)
		var ext []byte
		next := proto
		for range rapid.IntRange(0, 3).Draw(t, "extensions") {
			kind := rapid.SampledFrom([]byte{0, 43, 44, 60}).Draw(t, "extension")
			h := rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "header")
			h[0], h[1] = next, rapid.SampledFrom([]byte{0, 0, 0, 1, 200}).Draw(t, "words")
			if kind == 44 && rapid.Bool().Draw(t, "first") {
				h[2], h[3] = 0, 1
			}
			ext, next = append(h, ext...), kind
		}
		payload = append(ext, payload...)
		b = append(b, 6<<4|rapid.Byte().Draw(t, "class")&15, rapid.Byte().Draw(t, "label"), 0, 0)
		b = be.AppendUint16(b, length(len(payload)))
		b = append(b, next, rapid.Byte().Draw(t, "ttl"))
		b = append(b, rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "addresses")...)
	}
	b = append(b, payload...)
	b = append(b, make([]byte, rapid.SampledFrom([]int{0, 0, 4, 18}).Draw(t, "padding"))...)
	if rapid.IntRange(0, 9).Draw(t, "damage") == 0 {
		b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= rapid.Byte().Draw(t, "bits")
	}
	return b
}

func TestTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := frame(t)
		wire := uint32(len(b))
		cut := len(b)
		if rapid.Bool().Draw(t, "snap") {
			cut = rapid.IntRange(0, len(b)).Draw(t, "cut")
		}
		same(t, b[:cut:cut], wire)
	})
}

// corpusFrames gives some frames of every capture of the corpus, if that is
// there.
func corpusFrames(f *testing.F, fn func(link packet.LinkType, data []byte)) {
	dir := os.Getenv("WEIR_CORPUS")
	if dir == "" {
		dir = "../../shared/corpus"
	}
	all, _ := filepath.Glob(filepath.Join(dir, "packets", "*.pcap*"))
	if len(all) == 0 {
		f.Logf("seeds of the corpus left out: no captures in %s; set WEIR_CORPUS to its folder", dir)
	}
	for _, path := range all {
		src, err := capture.Open(path)
		if err != nil {
			continue
		}
		b := capture.Batch{Packets: make([]capture.Packet, 0, 5)}
		src.Read(&b)
		for _, p := range b.Packets {
			fn(p.Link, append([]byte{}, p.Data[:min(len(p.Data), 256)]...))
		}
		src.Close()
	}
}

// FuzzDecode: no frame makes Decode panic or read beyond it; Ethernet frames
// give what the twin gives; what it understood does not change with what comes
// behind the packet, nor with the link header being there.
func FuzzDecode(f *testing.F) {
	corpusFrames(f, func(link packet.LinkType, data []byte) { f.Add(uint32(link), data) })
	for link := range uint32(300) {
		f.Add(link, []byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	}
	f.Fuzz(func(t *testing.T, link uint32, data []byte) {
		data = data[:len(data):len(data)]
		wire := uint32(len(data))
		l := packet.LinkType(link)
		if l == packet.LinkEthernet {
			same(t, data, wire)
		}
		var in packet.Info
		why := packet.Decode(l, data, wire, &in)
		at, found := packet.Network(l, data)
		if at.Offset < 0 || at.Offset > len(data) {
			t.Fatalf("network layer at %d of %d", at.Offset, len(data))
		}
		if why != packet.Decoded {
			if found != packet.Decoded && found != why {
				t.Fatalf("Decode says %v, Network %v", why, found)
			}
			return
		}
		if found != packet.Decoded {
			t.Fatalf("decoded, but Network says %v", found)
		}
		if in.Length < 20 {
			t.Fatalf("length %d", in.Length)
		}
		var raw packet.Info
		if why := packet.Decode(packet.LinkOfEtherType(at.EtherType), data[at.Offset:], wire-uint32(at.Offset), &raw); why != packet.Decoded {
			t.Fatalf("decoded, but not without its link header: %v", why)
		}
		raw.Key.VLAN |= in.Key.VLAN & (flow.KeyTagged | flow.VLANMask)
		if raw != in {
			t.Fatalf("with link header %+v, without %+v", in, raw)
		}
	})
}

// sameMore checks DecodeMore against Decode: without looking into tunnels both say the
// same; with it, what is found in one is a packet that Decode would take.
func sameMore(t interface{ Fatalf(string, ...any) }, link packet.LinkType, data []byte, wire uint32) {
	var plain, outer, inner packet.Info
	var more flow.More
	why := packet.Decode(link, data, wire, &plain)
	if got := packet.DecodeMore(link, data, wire, false, &outer, &more); got != why || why == packet.Decoded && outer != plain {
		t.Fatalf("Decode says %v %+v, DecodeMore %v %+v", why, plain, got, outer)
	}
	if got := packet.DecodeMore(link, data, wire, true, &inner, &more); got != why {
		t.Fatalf("Decode says %v, with tunnels %v", why, got)
	}
	if why != packet.Decoded {
		return
	}
	in := inner.Key.VLAN&flow.KeyInner != 0
	if in != (more.Tunnel != flow.NoTunnel) {
		t.Fatalf("inner %v, tunnel %v", in, more.Tunnel)
	}
	if !in && inner != plain {
		t.Fatalf("no tunnel, and yet %+v is not %+v", inner, plain)
	}
	if in && (more.TunnelSrc != plain.Key.Src || more.TunnelDst != plain.Key.Dst || more.TunnelProto != plain.Key.Proto) {
		t.Fatalf("around the tunnel %+v, Decode says %+v", more, plain)
	}
	if tagged := uint16(flow.KeyTagged | flow.VLANMask); inner.Key.VLAN&tagged != plain.Key.VLAN&tagged {
		t.Fatalf("VLAN %x, want %x", inner.Key.VLAN, plain.Key.VLAN)
	}
}

func TestMoreIsDecode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := frame(t)
		cut := rapid.IntRange(0, len(b)).Draw(t, "cut")
		sameMore(t, packet.LinkEthernet, b[:cut:cut], uint32(len(b)))
	})
}

// FuzzDecodeMore: no frame makes DecodeMore panic or read beyond it, and it agrees
// with Decode.
func FuzzDecodeMore(f *testing.F) {
	corpusFrames(f, func(link packet.LinkType, data []byte) { f.Add(uint32(link), data) })
	for _, proto := range []byte{4, 17, 41, 47} {
		f.Add(uint32(packet.LinkRaw), []byte{0x45, 0, 0, 48, 0, 0, 0, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0xb5, 0x12, 0xb5, 0, 28, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0x45})
	}
	f.Fuzz(func(t *testing.T, link uint32, data []byte) {
		sameMore(t, packet.LinkType(link), data[:len(data):len(data)], uint32(len(data)))
	})
}
