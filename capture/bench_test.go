package capture_test

import (
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"weir/capture"
	"weir/packet"
)

// mix is a large capture to measure with: WEIR_BENCH_PCAP, or the first
// captures of the corpus many times over would say nothing.
func mix(b *testing.B) string {
	path := os.Getenv("WEIR_BENCH_PCAP")
	if path == "" {
		b.Skip("skipped: set WEIR_BENCH_PCAP to a capture of some gigabytes (bench/gen makes one)")
	}
	return path
}

// cpu is the processor time of this process: what the kernel does for it
// included.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchmarkFile(b *testing.B, each func(*capture.Packet)) {
	path := mix(b)
	packets := 0
	start := cpu()
	for b.Loop() {
		src, err := capture.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		batch := capture.Batch{Packets: make([]capture.Packet, 0, 256)}
		for err == nil {
			err = src.Read(&batch)
			packets += len(batch.Packets)
			for i := range batch.Packets {
				each(&batch.Packets[i])
			}
		}
		if err != io.EOF {
			b.Fatal(err)
		}
		src.Close()
	}
	used := cpu() - start
	b.ReportMetric(float64(used.Nanoseconds())/float64(packets), "cpu-ns/packet")
	b.ReportMetric(float64(packets)/used.Seconds()/1e6, "Mpackets/cpu-s")
}

func BenchmarkRead(b *testing.B) { benchmarkFile(b, func(*capture.Packet) {}) }

func BenchmarkReadAndDecode(b *testing.B) {
	var in packet.Info
	benchmarkFile(b, func(p *capture.Packet) { p.Decode(&in) })
}
