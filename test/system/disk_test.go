package system

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// small mounts a file system of its own in memory; it goes with the test.
func small(t testing.TB, size string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "none", dir).CombinedOutput(); err != nil {
		t.Skipf("skipped: no tmpfs can be mounted: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
	return dir
}

// A disk that is full stops nothing: what the buffers cannot hold is counted,
// to the record; when there is space again the store goes on by itself.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	disk := small(t, "96m")
	control := filepath.Join(t.TempDir(), "sock")
	ballast := filepath.Join(disk, "ballast")
	c := &collector{ns: ns, control: control, store: filepath.Join(disk, "store")}
	c.process = start(t, ns, weir, "collect", "--listen", "udp://127.0.0.1:9995", "--store", c.store, "--control", control)
	c.await(t, "listening")
	g := generate(t, ns, "-v", "9", "-n", "50000", "-rate", "100000", "-prebuild", "50000")
	sent, want := g.Records, g.count()
	until(t, 10*time.Second, "the first records", func() bool { n, _ := stored(t, c.store); return n == sent })

	// All the space goes to something else.
	exec.Command("sh", "-c", "cat /dev/zero >"+ballast).Run()
	second := generate(t, ns, "-v", "9", "-n", "1600000", "-rate", "400000", "-prebuild", "100000", "-seed", "2")
	sent += second.Records
	want.add(second.count())
	time.Sleep(6 * time.Second)
	if r := do(t, ns, weir, "show", "store", "-o", "csv", "--control", control); r.status != 0 || parseCSV(t, r.stdout)[0]["failing"] == "" {
		t.Errorf("a full disk, and show store does not say so: %s%s", r.stdout, r.stderr)
	}
	if n, got := stored(t, c.store); n > sent || got.Packets > want.Packets {
		t.Errorf("%d records of %d", n, sent)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, "it goes on when there is space", func() bool {
		r := do(t, ns, weir, "show", "store", "-o", "csv", "--control", control)
		return r.status == 0 && parseCSV(t, r.stdout)[0]["failing"] == ""
	})
	third := generate(t, ns, "-v", "9", "-n", "20000", "-rate", "100000", "-prebuild", "20000", "-seed", "3")
	sent += third.Records
	want.add(third.count())
	time.Sleep(time.Second)
	all := losses(t, ns, control)
	c.stop(t)
	flows, got := stored(t, c.store)
	lost := lossOf(all, "store", "store-io")
	full := lossOf(all, "store", "store-full")
	lost.Records += full.Records
	lost.Packets += full.Packets
	lost.Bytes += full.Bytes
	if flows+lost.Records != sent || got.Packets+lost.Packets != want.Packets || got.Bytes+lost.Bytes != want.Bytes {
		t.Errorf("stored %d records of %+v, lost %+v; sent %d of %+v", flows, got, lost, sent, want)
	}
	noLoss(t, all, "store/store-io", "store/store-full")
	if lost.Records == 0 {
		t.Log("the buffers held all of it: the test proves less than it could")
	}
	t.Logf("sent %d, stored %d, counted as lost %d", sent, flows, lost.Records)
}

// The end while the disk is full says in one line that it failed; what had been
// written is whole.
func TestDiskFullAtTheEnd(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	disk := small(t, "8m")
	dir := t.TempDir()
	c := &collector{ns: ns, control: filepath.Join(dir, "sock"), store: filepath.Join(disk, "store")}
	c.process = start(t, ns, weir, "collect", "--listen", "udp://127.0.0.1:9995", "--store", c.store, "--control", c.control)
	c.await(t, "listening")
	e := newExporter(t, ns, "127.0.0.1", "127.0.0.1:9995", 1)
	e.send(t, e.message(20, templateSet(256), e.data(256, 20)))
	until(t, 10*time.Second, "they are stored", func() bool { n, _ := stored(t, c.store); return n == 20 })
	exec.Command("sh", "-c", "cat /dev/zero >"+filepath.Join(disk, "ballast")).Run()
	e.send(t, e.message(20, e.data(256, 20)))
	time.Sleep(500 * time.Millisecond)
	c.signal(t, syscall.SIGTERM)
	oneLine(t, result{status: c.wait(t), stderr: c.stderr.String()}, 1, "no space left", c.store)
	if err := os.Remove(filepath.Join(disk, "ballast")); err != nil {
		t.Fatal(err)
	}
	if n, got := stored(t, c.store); n != 20 || got != (count{60, 6000}) {
		t.Errorf("%d records of %+v are left of the 20 that were written", n, got)
	}
}

// A store that cannot be written is refused at the start.
func TestDiskReadOnly(t *testing.T) {
	t.Parallel()
	disk := small(t, "8m")
	store := filepath.Join(disk, "store")
	if err := os.Mkdir(store, 0o755); err != nil {
		t.Fatal(err)
	}
	must(t, "", "mount", "-o", "remount,ro", disk)
	ns := namespace(t)
	args := []string{weir, "collect", "--listen", "udp://127.0.0.1:9995", "--store", store, "--control", filepath.Join(t.TempDir(), "s")}
	oneLine(t, do(t, ns, args...), 1, store, "read-only")
	args[5] = filepath.Join(disk, "new")
	oneLine(t, do(t, ns, args...), 1, args[5], "read-only")

	need(t, "setpriv")
	dir, err := os.MkdirTemp("", "weir-ro-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	args[5] = dir
	oneLine(t, do(t, ns, append([]string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}, args...)...), 1, dir, "permission")
}

// A broken segment, or a broken catalogue, is set aside and told; the rest is
// there, to the record.
func TestDiskCorrupt(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	dir := t.TempDir()
	c := startCollector(t, ns, dir)
	e := newExporter(t, ns, "127.0.0.1", "127.0.0.1:9995", 1)
	e.send(t, e.message(0, templateSet(256)))
	for range 3 {
		for range 20 {
			e.send(t, e.message(20, e.data(256, 20)))
		}
		until(t, 10*time.Second, "they are stored", func() bool { n, _ := stored(t, c.store); return n == e.records })
	}
	c.stop(t)
	segments, err := filepath.Glob(filepath.Join(c.store, "flows", "*"))
	if err != nil || len(segments) < 2 {
		t.Fatalf("segments: %v %v", segments, err)
	}
	flip := func(name string, at int) {
		t.Helper()
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[at%len(b)] ^= 0x55
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	reopen := func(what string) uint64 {
		t.Helper()
		c = startCollector(t, ns, dir)
		if !strings.Contains(c.stderr.String(), "broken") {
			t.Errorf("%s: the log does not say so: %s", what, c.stderr.String())
		}
		lost := lossOf(losses(t, ns, c.control), "store", "store-corrupt")
		c.stop(t)
		flows, got := stored(t, c.store)
		if got != (count{3 * flows, 300 * flows}) {
			t.Errorf("%s: torn: %d of %+v", what, flows, got)
		}
		if what != "catalogue" && flows+lost.Records != e.records {
			t.Errorf("%s: %d records and %d told as lost, %d were sent", what, flows, lost.Records, e.records)
		}
		return flows
	}
	// The catalogue, whole: it is made anew from the segments.
	catalogue, _ := filepath.Glob(filepath.Join(c.store, "catalogue*"))
	if len(catalogue) == 0 {
		catalogue, _ = filepath.Glob(filepath.Join(c.store, "catalog*"))
	}
	if len(catalogue) == 0 {
		t.Fatalf("no catalogue in %s", c.store)
	}
	flip(catalogue[0], 50)
	if n := reopen("catalogue"); n != e.records {
		t.Errorf("without its catalogue the store has %d of %d records", n, e.records)
	}
	if err := os.Truncate(catalogue[0], 10); err != nil {
		t.Fatal(err)
	}
	if n := reopen("catalogue"); n != e.records {
		t.Errorf("with half a catalogue the store has %d of %d records", n, e.records)
	}
	// A segment with one wrong octet.
	segments, _ = filepath.Glob(filepath.Join(c.store, "flows", "*"))
	flip(segments[0], 300)
	if n := reopen("segment"); n >= e.records || n == 0 {
		t.Errorf("%d of %d records after a segment broke", n, e.records)
	}
}
