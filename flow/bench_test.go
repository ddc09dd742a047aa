package flow

import "testing"

// What metering a capture to CSV costs for each record.
func BenchmarkAppendCSV(b *testing.B) {
	for _, c := range []struct {
		name     string
		src, dst Addr
	}{
		{"ipv4", AddrFrom4([4]byte{192, 0, 2, 1}), AddrFrom4([4]byte{198, 51, 100, 27})},
		{"ipv6", Addr{0: 0x20, 1: 1, 2: 0xd, 3: 0xb8, 14: 1, 15: 9}, Addr{0: 0x2a, 5: 7, 6: 1, 9: 3, 15: 9}},
	} {
		r := Record{
			First: 1750000000431525000, Last: 1750000016452031000, Proto: 6, Src: c.src, Dst: c.dst, SrcPort: 51000, DstPort: 443,
			TCPFlags: 0x1b, Packets: 12, Bytes: 5431, Sampling: 1, EndReason: EndIdle,
			Has: HasFirst | HasLast | HasProto | HasSrc | HasDst | HasSrcPort | HasDstPort | HasTOS | HasTCPFlags | HasPackets | HasBytes | HasSampling | HasEndReason,
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf = r.AppendCSV(buf[:0])
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
