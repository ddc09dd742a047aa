package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"weir/flow"
	"weir/wire"
)

// TestMain runs the tests or, in a process that TestKilled started, a life.
func TestMain(m *testing.M) {
	if text := os.Getenv("WEIR_EXPORT_LIFE"); text != "" {
		var l life
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			panic(err)
		}
		l.live()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// life is an exporter in a process of its own, which hands on numbered records
// as the kernel's flow cache does: in batches, each given, synced and then
// said to be handed on, in memory that outlives it. The next life begins with
// the batch that was not. It is killed with -9 when it has reached one of its
// steps for the n-th time.
type life struct {
	Table string // file: MemoryWords, then the next batch
	To    string
	Step  string // "": it ends as it should
	Nth   int
}

const (
	lifeBatches = 12
	lifeBatch   = 512
)

// Steps that are not the exporter's.
const (
	stepBegun   = "begun"
	stepWritten = "written"
	stepSynced  = "synced"
	stepSaid    = "said"
)

var stepNames = map[step]string{stepQueued: "queued", stepSent: "sent", stepRemembered: "remembered"}

// table maps the file that stands for the kernel's maps.
func table(name string) []uint64 {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(&b[0])), len(b)/8)
}

// lifeRecord is the n-th record of all.
func lifeRecord(n uint64) flow.Record {
	first := int64(1_750_000_000)*1e9 + int64(n)*1e6
	return flow.Record{
		Src: flow.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), Dst: flow.AddrFrom4([4]byte{192, 0, 2, 1}),
		Proto: flow.ProtoUDP, SrcPort: uint16(n), DstPort: 53, Packets: n + 1, Bytes: 64 * (n + 1), First: first, Last: first + 1e9, FlowID: n, IPVersion: 4,
		Has: flow.HasSrc | flow.HasDst | flow.HasProto | flow.HasSrcPort | flow.HasDstPort | flow.HasPackets | flow.HasBytes | flow.HasFirst | flow.HasLast | flow.HasFlowID,
	}
}

func (l *life) live() {
	words := table(l.Table)
	reached := func(name string) {
		if name == l.Step {
			if l.Nth--; l.Nth == 0 {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // the kernel takes a moment, and nothing may happen in it
			}
		}
	}
	d, err := ParseDestination(l.To)
	if err != nil {
		panic(err)
	}
	e, err := New(Options{
		Destinations: []Destination{d}, Memory: words[:MemoryWords], Block: true,
		Boot: time.Unix(1_749_900_000, 0),
		Now:  func() time.Time { return time.Unix(1_750_000_100, 0) },
		step: func(s step) { reached(stepNames[s]) },
	})
	if err != nil {
		panic(err)
	}
	if err := e.Open(context.Background()); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	next := &words[MemoryWords]
	var batch []flow.Record
	for reached(stepBegun); *next < lifeBatches; {
		batch = batch[:0]
		for i := range uint64(lifeBatch) {
			batch = append(batch, lifeRecord(*next*lifeBatch+i))
		}
		e.WriteRecords(batch)
		reached(stepWritten)
		e.Sync()
		reached(stepSynced)
		*next++
		reached(stepSaid)
	}
	cancel()
	if err := <-done; err != nil {
		panic(err)
	}
}

// run lives it, in another process.
func (l life) run(t *testing.T) {
	t.Helper()
	text, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WEIR_EXPORT_LIFE="+string(text))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if killed != (l.Step != "") || err != nil && !killed {
		t.Fatalf("%+v: %v\n%s", l, err, out)
	}
}

// newTable makes the file that stands for the kernel's maps.
func newTable(t *testing.T) string {
	name := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(name, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// Where the goroutine that sends may just have sent, and not have remembered it
// yet, the numbers may be used again.
var mayRepeat = map[string]bool{"queued": true, "sent": true, stepWritten: true}

// arrived is what the kernel holds for conn now.
func arrived(t *testing.T, conn *net.UDPConn) (grams [][]byte) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65536)
	raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.Read(int(fd), buf)
			if err != nil {
				return true
			}
			grams = append(grams, bytes.Clone(buf[:n]))
		}
	})
	return grams
}

// Wherever the exporter is killed, twice in a row, no record is missing, at most
// one batch a death comes again, and the sequence numbers go on: none is left
// out, and those used again are at most of the datagrams that the kernel had
// just taken.
func TestKilled(t *testing.T) {
	for _, form := range []string{"version=5", "version=9&template=full", "version=10&template=full"} {
		t.Run(form, func(t *testing.T) {
			for _, name := range []string{stepBegun, "queued", "sent", "remembered", stepWritten, stepSynced, stepSaid} {
				for _, nth := range []int{1, 4} {
					if nth == 1 || name != stepBegun && !testing.Short() {
						killTwice(t, form, name, nth)
					}
				}
			}
		})
	}
}

func killTwice(t *testing.T, form, name string, nth int) {
	conn := listen(t, "127.0.0.1:0").conn
	conn.SetReadBuffer(8 << 20)
	defer conn.Close()
	l := life{Table: newTable(t), To: fmt.Sprintf("udp://%s?rate=off&%s", conn.LocalAddr(), form)}
	fail := func(format string, a ...any) {
		t.Helper()
		t.Errorf("killed when %s for the %d. time: %s", name, nth, fmt.Sprintf(format, a...))
	}
	var next uint32 // by the formats' laws, from one datagram to the next
	seen := map[uint64]int{}
	count := func(message wire.Message) uint32 {
		if message.Version == flow.VersionV9 {
			return 1
		}
		return uint32(message.Records + message.Options)
	}
	for i := range 3 {
		l.Step, l.Nth = name, nth
		if i == 2 {
			l.Step = ""
		}
		l.run(t)
		var batch wire.Batch
		dec := wire.NewDecoder(wire.Options{})
		for g, b := range arrived(t, conn) {
			m, err := dec.Decode(&batch, wire.Source{Port: 1}, 0, b)
			if err != nil || m.Waiting > 0 {
				t.Fatalf("%+v, %v", m, err)
			}
			if m.Sequence != next {
				back, most := next-m.Sequence, uint32(batchMax)
				if m.Version != flow.VersionV9 {
					most = lifeBatch
				}
				if g > 0 || back > most || !mayRepeat[name] {
					fail("life %d, datagram %d: sequence number %d after %d", i, g, m.Sequence, next)
				}
			}
			next = m.Sequence + count(m)
		}
		again := map[uint64]bool{}
		for _, r := range batch.Records {
			n := r.Packets - 1
			want := lifeRecord(n)
			if r.Bytes != want.Bytes || r.SrcPort != want.SrcPort || r.First != want.First || r.Last != want.Last || r.Src != want.Src {
				t.Fatalf("record %d came as %+v", n, r)
			}
			if seen[n]++; seen[n] > 1 {
				again[n/lifeBatch] = true
			}
		}
		if len(again) > 1 || len(again) > 0 && i == 0 {
			fail("life %d sent batches %v again", i, again)
		}
		if len(again) > 0 && (name == stepBegun || name == stepSaid) {
			fail("life %d sent %v again, though nothing was on its way", i, again)
		}
	}
	if len(seen) != lifeBatches*lifeBatch {
		fail("%d records came of %d", len(seen), lifeBatches*lifeBatch)
	}
	for n, times := range seen {
		if times > 3 {
			fail("record %d came %d times", n, times)
		}
	}
	if table(l.Table)[MemoryWords] != lifeBatches {
		fail("it did not come to its end")
	}
}

// nfcapd finds nothing to complain about in the sequence of an exporter that is
// killed and started again, and again.
func TestNfcapdKilled(t *testing.T) {
	nfcapd := peer(t, "nfcapd")
	for _, form := range []string{"version=5", "version=9", "version=10"} {
		t.Run(form, func(t *testing.T) {
			dir, port := t.TempDir(), freePort(t)
			var log strings.Builder
			cmd := exec.Command(nfcapd, "-w", dir, "-p", strconv.Itoa(port), "-b", "127.0.0.1", "-t", "3600", "-B", strconv.Itoa(4<<20))
			cmd.Stdout, cmd.Stderr = &log, &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			listening(t, port)
			l := life{Table: newTable(t), To: fmt.Sprintf("udp://127.0.0.1:%d?%s", port, form)}
			for _, l.Step = range []string{"remembered", stepSynced, stepSaid, "remembered", ""} {
				l.Nth = 2
				l.run(t)
			}
			drained(t, port)
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Fatalf("nfcapd: %v\n%s", err, log.String())
			}
			if !strings.Contains(log.String(), "Sequence Errors: 0, Bad Packets: 0") {
				t.Errorf("nfcapd complains:\n%s", log.String())
			}
		})
	}
}
