package collect

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weir/flow"
)

// TestReceiveRate receives 2 M v9 records at 400,000 records/s (WEIR_RATE) from
// a generator in a process of its own, without losing any, and tells the CPU
// time. It runs if WEIR_GENFLOW names the benchmarks' genflow.
func TestReceiveRate(t *testing.T) {
	gen := os.Getenv("WEIR_GENFLOW")
	if gen == "" {
		t.Skip("skipped: takes 5 s and a quiet machine; set WEIR_GENFLOW to the generator's path")
	}
	rate := os.Getenv("WEIR_RATE")
	if rate == "" {
		rate = "400000"
	}
	for _, version := range []string{"5", "9", "10"} {
		var records atomic.Uint64
		c, stop := start(t, Options{Listen: []string{"udp://127.0.0.1:0"}, Sink: flow.SinkFunc(func(b []flow.Record) error {
			records.Add(uint64(len(b)))
			return nil
		})})
		before := cpu()
		out, err := exec.Command(gen, "-v", version, "-n", "2000000", "-rate", rate, "-to",
			net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Addrs()[0].(*net.UDPAddr).Port))).Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		used := cpu() - before
		var sent struct{ Records, Datagrams, RecordsPerSec uint64 }
		if err := json.Unmarshal(out, &sent); err != nil {
			t.Fatal(err)
		}
		got, drops := records.Load(), lossOf(t, c, "kernel-drops").Datagrams
		t.Logf("v%s: sent %d records at %d/s, received %d, %d datagrams dropped; %.3f CPU-s per million records", version,
			sent.Records, sent.RecordsPerSec, got, drops, used.Seconds()/float64(got)*1e6)
		if got != sent.Records {
			t.Errorf("v%s: %d of %d records", version, got, sent.Records)
		}
	}
}

// cpu is the CPU time this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
