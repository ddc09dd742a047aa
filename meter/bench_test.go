package meter_test

import (
	"context"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"weir/cache"
	"weir/capture"
	"weir/flow"
	"weir/meter"
)

// cpu is the processor time of this process, what the kernel does for it
// included.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// total is a sink that sums.
type total struct{ records, packets, bytes uint64 }

func (t *total) WriteRecords(batch []flow.Record) error {
	t.records += uint64(len(batch))
	for i := range batch {
		t.packets += batch[i].Packets
		t.bytes += batch[i].Bytes
	}
	return nil
}

// BenchmarkFile meters the capture in WEIR_BENCH_PCAP: read, decoded, cached,
// expired, ordered, handed on.
func BenchmarkFile(b *testing.B) {
	path := os.Getenv("WEIR_BENCH_PCAP")
	if path == "" {
		b.Skip("skipped: set WEIR_BENCH_PCAP to a capture of some gigabytes (bench/gen makes one)")
	}
	for _, workers := range []int{1, 2} {
		b.Run(map[int]string{1: "inline", 2: "workers=2"}[workers], func(b *testing.B) {
			var packets uint64
			var s meter.Snapshot
			start := cpu()
			for b.Loop() {
				cfg := meter.Config{Cache: cache.DefaultConfig(), Workers: workers}
				var out total
				m, err := meter.New(cfg, &out)
				if err != nil {
					b.Fatal(err)
				}
				src, err := capture.Open(path)
				if err != nil {
					b.Fatal(err)
				}
				if err := m.RunFiles(context.Background(), src); err != nil {
					b.Fatal(err)
				}
				src.Close()
				s = m.Snapshot()
				packets += s.Packets
				if out.packets != s.Metered.Packets || out.bytes != s.Metered.Bytes || out.records != s.Records {
					b.Fatalf("records hold %+v, metered %+v, records %d", out, s.Metered, s.Records)
				}
				runtime.GC()
			}
			used := cpu() - start
			b.ReportMetric(float64(used.Nanoseconds())/float64(packets), "cpu-ns/packet")
			b.ReportMetric(float64(packets)/used.Seconds()/1e6, "Mpackets/cpu-s")
			b.Logf("%+v", s.Summary)
			b.Logf("peak %d of %d", s.Cache.Peak, s.Cache.Capacity)
		})
	}
}
