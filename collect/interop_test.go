package collect

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/flow"
)

// alone moves the calling goroutine's thread into a network namespace of its
// own, with nothing but a loopback; children and sockets made here are in it.
// The thread ends with the goroutine. Without the privilege, the machine's
// loopback has to do.
func alone(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread is not fit for others
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Logf("no namespace of our own (%v): on this machine's loopback", err)
		return
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		t.Fatalf("loopback up: %v", err)
	}
}

type tuple struct {
	src, dst     netip.Addr
	proto        uint8
	sport, dport uint16
}

type counters struct{ packets, bytes uint64 }

// TestSoftflowd: softflowd meters a capture of the corpus and exports it to a
// collector; the flows that arrive are those of the capture's table.
func TestSoftflowd(t *testing.T) {
	softflowd, err := exec.LookPath("softflowd")
	if err != nil {
		t.Skip("skipped: softflowd is not installed")
	}
	packets := filepath.Join(filepath.Dir(exports(t)), "packets")
	const capture = "ipfixprobe_mixed"
	rows := table(t, filepath.Join(packets, capture+".flows.csv"))
	if len(rows) == 0 {
		t.Fatal("no table of flows")
	}
	for _, c := range []struct {
		version, transport string
	}{{"5", "udp"}, {"9", "udp"}, {"10", "udp"}, {"10", "tcp"}} {
		t.Run("v"+c.version+" over "+c.transport, func(t *testing.T) {
			alone(t)
			want := map[tuple]counters{}
			for _, r := range rows {
				k := tuple{src: netip.MustParseAddr(r["src"]), dst: netip.MustParseAddr(r["dst"])}
				num := func(name string) uint64 {
					v, err := strconv.ParseUint(r[name], 10, 64)
					if err != nil {
						t.Fatal(err)
					}
					return v
				}
				k.proto, k.sport, k.dport = uint8(num("proto")), uint16(num("src_port")), uint16(num("dst_port"))
				if c.version == "5" && k.src.Is6() {
					continue // v5 has no IPv6
				}
				n := want[k]
				want[k] = counters{n.packets + num("packets"), n.bytes + num("bytes")}
			}
			sink := &memory{}
			col, stop := start(t, Options{Listen: []string{c.transport + "://127.0.0.1:0"}, Sink: sink, Loops: 2})
			args := []string{
				"-r", filepath.Join(packets, capture+".pcap"), "-n", col.Addrs()[0].String(), "-v", c.version, "-d",
				"-p", filepath.Join(t.TempDir(), "pid"), "-c", "none", "-P", c.transport,
			}
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, softflowd, args...)
			cmd.Env = append(os.Environ(), "TZ=UTC")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("softflowd: %v\n%s", err, out)
			}
			if err := stop(); err != nil { // drains
				t.Fatal(err)
			}
			got := map[tuple]counters{}
			for _, r := range sink.records {
				k := tuple{r.Src.Netip(), r.Dst.Netip(), r.Proto, r.SrcPort, r.DstPort}
				n := got[k]
				got[k] = counters{n.packets + r.Packets, n.bytes + r.Bytes}
				if r.Has&(flow.HasFirst|flow.HasLast) != flow.HasFirst|flow.HasLast || r.Last < r.First {
					t.Errorf("times of %v: %+v", k, r)
				}
			}
			for k, w := range want {
				if got[k] != w {
					t.Errorf("%v: %+v, want %+v", k, got[k], w)
				}
				delete(got, k)
			}
			for k, g := range got {
				t.Errorf("%v: %+v, not in the capture", k, g)
			}
			for _, l := range col.Losses() {
				if l.Records+l.Datagrams != 0 {
					t.Errorf("lost: %+v", l)
				}
			}
			for _, e := range col.Exporters() {
				if fmt.Sprint(e.Version) != c.version || e.Sequence.Restarts+e.Sequence.Duplicates+e.Sequence.Reordered+e.Sequence.Missing != 0 {
					t.Errorf("%+v", e)
				}
			}
			if c.version == "10" && len(col.Exporters()) > 0 && col.Exporters()[0].Started.IsZero() && c.transport == "udp" {
				t.Error("the exporter's start, which its options tell, is not known")
			}
		})
	}
}
