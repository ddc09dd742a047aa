package acl

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"weir/flow"
	"weir/packet"
)

// access makes a list like those of a firewall between networks: from many
// networks to many servers, services by port, a few rules for all.
func access(rng *rand.Rand, f Family, n int) *List {
	l := &List{Name: "access", Family: f}
	ports := []uint16{22, 25, 53, 80, 110, 123, 143, 161, 389, 443, 445, 465, 514, 587, 636, 993, 995, 1433, 3306, 3389, 5432, 6379, 8080, 8443, 9092}
	for i := range n {
		r := &Rule{Seq: uint32(i + 1), Action: Permit, Proto: flow.ProtoTCP}
		r.Dst.Nets = []Net{randomNet(rng, f, 24, 32)}
		if rng.IntN(4) > 0 {
			r.Src.Nets = []Net{randomNet(rng, f, 16, 24)}
		}
		switch rng.IntN(10) {
		case 0, 1, 2:
			r.Proto = flow.ProtoUDP
		case 3:
			r.Action = Deny
		}
		p := ports[rng.IntN(len(ports))]
		r.DstPorts.Ranges = []Range{{p, p}}
		if rng.IntN(8) == 0 {
			r.DstPorts.Ranges = []Range{{1024, 65535}}
		}
		l.Rules = append(l.Rules, r)
	}
	return l
}

// randomNet has a length between two, which are IPv4's; IPv6's is twice that.
func randomNet(rng *rand.Rand, f Family, from, to int) Net {
	n := from + rng.IntN(to-from+1)
	a := [4]byte{10, byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}
	if f == IPv4 {
		return NetFrom(netip.PrefixFrom(netip.AddrFrom4(a), n).Masked())
	}
	b := [16]byte{0x20, 0x01, 0x0d, 0xb8, byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32()), 15: 1}
	return NetFrom(netip.PrefixFrom(netip.AddrFrom16(b), 2*n).Masked())
}

// accessPackets are half of them for one of the rules.
func accessPackets(rng *rand.Rand, l *List, n int) []packet.Info {
	list := make([]packet.Info, n)
	for i := range list {
		in := &list[i]
		k := &in.Key
		r := l.Rules[rng.IntN(len(l.Rules))]
		src, dst := randomNet(rng, l.Family, 32, 32), randomNet(rng, l.Family, 32, 32)
		k.Src, k.Dst = src.Addr, dst.Addr
		k.Proto, k.SrcPort, k.DstPort = flow.ProtoTCP, uint16(rng.Uint32())|0x8000, uint16(rng.Uint32())
		in.TTL, in.Length, in.TCPFlags = 60, 40+uint32(rng.IntN(1000)), flow.SYN
		if l.Family == IPv6 {
			k.VLAN |= flow.KeyIPv6
		}
		if rng.IntN(2) == 0 {
			within := func(a *flow.Addr, of []Net) {
				if len(of) > 0 {
					for i := range a {
						a[i] = a[i]&^of[0].Care[i] | of[0].Addr[i]
					}
				}
			}
			within(&k.Src, r.Src.Nets)
			within(&k.Dst, r.Dst.Nets)
			k.Proto = uint8(r.Proto)
			if len(r.DstPorts.Ranges) > 0 {
				k.DstPort = r.DstPorts.Ranges[0].From
			}
		}
	}
	return list
}

// withGroup has 64 k prefixes in a group, of which the first rule denies the
// sources.
func withGroup(rng *rand.Rand, f Family, l *List) *Policy {
	g := &Group{Name: "blocked"}
	for range 1 << 16 {
		a := [16]byte{0: 0x20 | byte(rng.IntN(0x20)), 15: 1}
		for i := 1; i < 8; i++ {
			a[i] = byte(rng.Uint32())
		}
		if f == IPv4 {
			g.Nets = append(g.Nets, NetFrom(netip.PrefixFrom(netip.AddrFrom4([4]byte(a[1:])), 16+rng.IntN(17)).Masked()))
		} else {
			g.Nets = append(g.Nets, NetFrom(netip.PrefixFrom(netip.AddrFrom16(a), 32+rng.IntN(33)).Masked()))
		}
	}
	r := &Rule{Seq: 1, Proto: AnyProto, Src: Addrs{Group: "blocked"}}
	l.Rules = append([]*Rule{r}, l.Rules...)
	return &Policy{Lists: []*List{l}, Groups: []*Group{g}}
}

func BenchmarkClassify(b *testing.B) {
	for _, f := range []Family{IPv4, IPv6} {
		for _, n := range []int{16, 256, 1024, 4096, 32768} {
			l := access(rand.New(rand.NewPCG(1, 2)), f, n)
			benchmark(b, fmt.Sprintf("%v/%d", f, n), &Policy{Lists: []*List{l}})
		}
		rng := rand.New(rand.NewPCG(1, 2))
		p := withGroup(rng, f, access(rng, f, 16))
		benchmark(b, fmt.Sprintf("%v/16+64k-prefixes", f), p)
	}
}

func benchmark(b *testing.B, name string, p *Policy) {
	b.Run(name, func(b *testing.B) {
		bank, err := Compile(p, CompileOptions{})
		if err != nil {
			b.Fatal(err)
		}
		packets := accessPackets(rand.New(rand.NewPCG(3, 4)), p.Lists[0], 1<<14)
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			bank.Classify(0, &packets[i%len(packets)])
		}
		b.ReportMetric(float64(bank.Size())/1024, "KiB")
	})
}

func BenchmarkCompile(b *testing.B) {
	l := access(rand.New(rand.NewPCG(1, 2)), IPv4, 4096)
	for b.Loop() {
		if _, err := Compile(&Policy{Lists: []*List{l}}, CompileOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
