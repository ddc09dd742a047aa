package packet

import (
	"testing"
)

// BenchmarkDecode: what one packet costs when it is in the processor's cache.
func BenchmarkDecode(b *testing.B) {
	tcp4 := ether(0x0800, patch(patch(ip4, 9, "06"), 2, "0028")[:20], x("1000 2000 00000001 00000002 5018 0000 0000 0000"), make([]byte, 20))
	tcp6 := ether(0x86dd, patch(patch(ip6, 4, "0014"), 6, "06")[:40], x("1000 2000 00000001 00000002 5018 0000 0000 0000"))
	udp4 := ether(0x0800, ip4)
	tagged := ether(0x8100, x("0005 0800"), ip4)
	for _, c := range []struct {
		name   string
		link   LinkType
		frames [][]byte
	}{
		{"tcp4", LinkEthernet, [][]byte{tcp4}},
		{"tcp6", LinkEthernet, [][]byte{tcp6}},
		{"vlan-udp4", LinkEthernet, [][]byte{tagged}},
		{"mix", LinkEthernet, [][]byte{tcp4, tcp4, udp4, tcp4, tagged, tcp6, tcp4, udp4, tcp4, tcp6, tcp4, tagged, tcp4, udp4, tcp4, tcp4}},
		{"qinq-mpls", LinkEthernet, [][]byte{ether(0x8100, x("0005 8100 0006 8847"), label, ip4)}},
		{"ip6-hopbyhop", LinkEthernet, [][]byte{ether(0x86dd, patch(patch(ip6, 4, "0014"), 6, "00")[:40], x("1100 01040000 0000"), ip6[40:])}},
		{"raw", LinkRaw, [][]byte{ip4}},
		{"radiotap", LinkRadiotap, [][]byte{join(x("00000800 00000000 0802"), make([]byte, 22), snap, x("0800"), ip4)}},
	} {
		b.Run(c.name, func(b *testing.B) {
			var in Info
			n := 0
			for b.Loop() {
				for _, f := range c.frames {
					if Decode(c.link, f, uint32(len(f)), &in) != Decoded {
						b.Fatal("not decoded")
					}
				}
				n += len(c.frames)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/packet")
		})
	}
}
