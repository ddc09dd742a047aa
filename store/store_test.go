package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weir/flow"
	"weir/store/storetest"
)

// clock is a clock that stands until it is moved.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func open(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// memoryDir is a folder in memory where there is one: the fault tests sync some
// ten thousand times.
func memoryDir(t interface {
	Helper()
	Fatal(...any)
	Cleanup(func())
},
) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "weir-store-")
	if err != nil {
		if dir, err = os.MkdirTemp("", "weir-store-"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// numbered makes records with flow IDs from, from+1, …
func numbered(from, n int) []flow.Record {
	t := storetest.NewTraffic(uint64(from), epoch.UnixNano())
	r := t.Records(n)
	for i := range r {
		r[i].FlowID = uint64(from + i)
		r[i].Has |= flow.HasFlowID
	}
	return r
}

// stored reads every live row.
func stored(t testing.TB, dir string) []flow.Record {
	t.Helper()
	rd, err := OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	segments, err := rd.Segments()
	if err != nil {
		t.Fatal(err)
	}
	var out []flow.Record
	for i := range segments {
		out = append(out, rowsOf(t, rd, &segments[i])...)
	}
	return out
}

func rowsOf(t testing.TB, rd *Reader, seg *Segment) []flow.Record {
	t.Helper()
	var b batch
	data, err := readFile(rd.Path(*seg), seg)
	if err != nil {
		t.Fatal(err)
	}
	if err := readRows(rd.Path(*seg), data, &b); err != nil {
		t.Fatal(err)
	}
	if uint64(b.rows()) != seg.Rows {
		t.Fatalf("%s: %d rows, the catalogue says %d", seg.File, b.rows(), seg.Rows)
	}
	out := make([]flow.Record, b.rows())
	for i := range out {
		b.record(i, &out[i])
	}
	return out
}

// ids of rows, sorted.
func ids(rows []flow.Record) []int {
	out := make([]int, len(rows))
	for i := range rows {
		out[i] = int(rows[i].FlowID)
	}
	slices.Sort(out)
	return out
}

// wantIDs says whether the store has exactly the flow IDs [0, n).
func wantIDs(t testing.TB, dir string, n int) {
	t.Helper()
	got := ids(stored(t, dir))
	if len(got) != n {
		t.Fatalf("%d rows stored, want %d", len(got), n)
	}
	for i, id := range got {
		if id != i {
			t.Fatalf("flow %d where %d should be: one is twice there or not at all", id, i)
		}
	}
}

func byID(rows []flow.Record) {
	slices.SortFunc(rows, func(a, b flow.Record) int { return int(a.FlowID) - int(b.FlowID) })
}

// A store against a slice: whatever is written, flushed, merged and reopened,
// in any order, the rows stay the same.
func TestStoreKeepsRecords(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := memoryDir(rt)
		c := &clock{t: epoch}
		o := Options{SegmentRows: 50, CompactRows: rapid.SampledFrom([]int{100, 1000}).Draw(rt, "limit"), Now: c.now, Buffers: 100, Grace: time.Nanosecond}
		s, err := Open(dir, o)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { s.Close() }()
		tr := storetest.NewTraffic(rapid.Uint64().Draw(rt, "seed"), epoch.UnixNano())
		var want []flow.Record
		check := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				batch := tr.Any(rapid.IntRange(0, 120).Draw(rt, "n"))
				for i := range batch {
					batch[i].Has |= flow.HasFlowID
					batch[i].FlowID = uint64(len(want) + i)
					if i%3 == 0 { // the elements say it
						batch[i].Has |= flow.HasDropped | flow.HasRule
						batch[i].DroppedPackets, batch[i].DroppedBytes, batch[i].Rule = uint64(i), 40*uint64(i), uint16(i)
						batch[i].Elements = batch[i].AppendVerdict(nil)
					}
				}
				check(s.WriteRecords(batch))
				for i := range batch {
					storetest.AsStored(&batch[i], c.now().UnixNano())
				}
				want = append(want, batch...)
			},
			"flush":  func(*rapid.T) { check(s.Flush()) },
			"tidy":   func(*rapid.T) { check(s.Tidy(context.Background())) },
			"wait":   func(*rapid.T) { c.add(31 * time.Minute) },
			"reopen": func(*rapid.T) { check(s.Close()); s, err = Open(dir, o); check(err) },
			"": func(rt *rapid.T) {
				for _, l := range s.Losses() {
					if l.Records > 0 {
						rt.Fatalf("lost: %+v", l)
					}
				}
			},
		})
		check(s.Close())
		got := stored(t, dir)
		byID(got)
		if d := cmp.Diff(want, got); d != "" {
			rt.Fatalf("(-written +stored):\n%s", d)
		}
	})
}

// Records = durable + buffered + lost, and the store goes on by itself when the
// disk does.
func TestFullBuffersAreCounted(t *testing.T) {
	d := &faulty{disk: osDisk{}, fail: func(int, string) error { return syscall.ENOSPC }}
	s := open(t, t.TempDir(), Options{SegmentRows: 10, Buffers: 2, disk: osDisk{}})
	s.o.disk = d
	records := numbered(0, 25)
	if err := s.WriteRecords(records); err != nil {
		t.Fatal(err)
	}
	check := func(reason string, lost int) {
		t.Helper()
		st := s.Stats()
		var sum flow.Loss
		for _, l := range s.Losses() {
			sum.Records += l.Records
			if l.Reason == reason {
				if l.Records != uint64(lost) {
					t.Errorf("%s: %d records, want %d", reason, l.Records, lost)
				}
			}
		}
		if st.Records != st.Durable+st.Buffered {
			t.Errorf("%d taken, %d durable + %d buffered", st.Records, st.Durable, st.Buffered)
		}
	}
	check("store-full", 5) // before anyone tried to write, it is but full
	if err := s.Flush(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Flush: %v, want no space", err)
	}
	if st := s.Stats(); st.Failing == "" || st.Buffered != 20 {
		t.Errorf("failing %q with %d buffered, want a reason and 20", st.Failing, st.Buffered)
	}
	s.WriteRecords(numbered(25, 7))
	check("store-io", 7)
	want := records[20:]
	var packets, octets uint64
	for _, r := range want {
		packets += r.Packets
		octets += r.Bytes
	}
	if l := s.Losses()[lossFull]; l.Packets != packets || l.Bytes != octets {
		t.Errorf("lost %d packets, %d octets; want %d, %d", l.Packets, l.Bytes, packets, octets)
	}
	d.fail = nil
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	s.WriteRecords(numbered(20, 5))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Failing != "" || st.Durable != 25 {
		t.Errorf("after recovery: failing %q, %d durable, want 25", st.Failing, st.Durable)
	}
	wantIDs(t, s.dir, 25)
	if err := s.WriteRecords(records); !errors.Is(err, ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
}

func TestSecondWriterIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Fatalf("second Open: %v, want %v", err, ErrLocked)
	}
	s.Close()
	open(t, dir, Options{}).Close()
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{Cut: 6 * time.Second}, {Cut: -1}, {Buffers: 1}, {SegmentRows: -1}, {CompactRows: 1 << 25}, {MaxBytes: -1}} {
		if _, err := Open(t.TempDir(), o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

// Run makes records durable within Cut, and drains at the end.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{Cut: 50 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	s.WriteRecords(numbered(0, 100))
	for s.Stats().Durable < 100 {
		time.Sleep(5 * time.Millisecond)
	}
	wantIDs(t, dir, 100)
	s.WriteRecords(numbered(100, 50))
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantIDs(t, dir, 150)
}

// faulty fails the operations it is told to, by number.
type faulty struct {
	disk
	mu   sync.Mutex
	n    int
	fail func(n int, op string) error
}

func (f *faulty) step(op string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	if f.fail == nil {
		return nil
	}
	return f.fail(f.n, op)
}

func (f *faulty) create(path string) (file, error) {
	if err := f.step("create"); err != nil {
		return nil, err
	}
	under, err := f.disk.create(path)
	return &faultyFile{under, f}, err
}

func (f *faulty) rename(from, to string) error {
	if err := f.step("rename"); err != nil {
		return err
	}
	return f.disk.rename(from, to)
}

func (f *faulty) remove(path string) error {
	if err := f.step("remove"); err != nil {
		return err
	}
	return f.disk.remove(path)
}

func (f *faulty) syncDir(dir string) error {
	if err := f.step("syncdir"); err != nil {
		return err
	}
	return f.disk.syncDir(dir)
}

type faultyFile struct {
	file
	f *faulty
}

// Write of a full disk takes a part.
func (f *faultyFile) Write(p []byte) (int, error) {
	if err := f.f.step("write"); err != nil {
		n, _ := f.file.Write(p[:len(p)/2])
		return n, err
	}
	return f.file.Write(p)
}

func (f *faultyFile) Sync() error {
	if err := f.f.step("sync"); err != nil {
		return err
	}
	return f.file.Sync()
}

// script is what the fault tests do to a store: cuts, merges and retention.
func script(s *Store, c *clock) (written int, err error) {
	for range 4 {
		if e := s.WriteRecords(numbered(written, 20)); e != nil {
			return written, e
		}
		written += 20
		err = errors.Join(err, s.Flush())
		err = errors.Join(err, s.Tidy(context.Background()))
		c.add(40 * time.Minute)
	}
	return written, errors.Join(err, s.Flush(), s.Tidy(context.Background()))
}

func scriptOptions(c *clock, d disk) Options {
	return Options{SegmentRows: 7, CompactRows: 30, Buffers: 50, Now: c.now, Grace: time.Minute, disk: d}
}

// stride is from one operation on the disk that is tried to the next: short runs, as the
// race detector's, try some of them.
func stride() int {
	if testing.Short() {
		return 5
	}
	return 1
}

// Each operation on the disk fails once, in turn: nothing is lost and nothing
// is there twice once the disk works again.
func TestEveryFaultHeals(t *testing.T) {
	for k := 1; ; k += stride() {
		dir := memoryDir(t)
		c := &clock{t: epoch}
		failed := ""
		d := &faulty{disk: osDisk{}, fail: func(n int, op string) error {
			if n == k {
				failed = op
				return syscall.EIO
			}
			return nil
		}}
		s, err := Open(dir, scriptOptions(c, d))
		if err != nil {
			if failed == "" {
				t.Fatal(err)
			}
			if s, err = Open(dir, scriptOptions(c, d)); err != nil { // the fault hit Open: once more
				t.Fatal(err)
			}
		}
		n, _ := script(s, c)
		if err := s.Close(); err != nil {
			t.Fatalf("operation %d (%s) failed, and then Close: %v", k, failed, err)
		}
		if got := len(stored(t, dir)); got != n {
			t.Errorf("operation %d (%s) failed: %d rows, want %d; %+v", k, failed, got, n, s.Losses())
		}
		wantIDs(t, dir, n)
		again := open(t, dir, scriptOptions(c, osDisk{}))
		wantIDs(t, dir, n)
		again.Close()
		if failed == "" {
			if k < 100 {
				t.Fatalf("only %d operations: the script does not merge", k)
			}
			break
		}
	}
}

// The process dies at each operation on the disk, in turn (all later ones do
// not happen): the store opens, has what was flushed before, and nothing twice.
func TestDeathAtEveryOperation(t *testing.T) {
	for k := 1; ; k += stride() {
		dir := memoryDir(t)
		c := &clock{t: epoch}
		dead := false
		d := &faulty{disk: osDisk{}, fail: func(n int, op string) error {
			if n >= k {
				dead = true
				return syscall.EIO
			}
			return nil
		}}
		durable := uint64(0)
		if s, err := Open(dir, scriptOptions(c, d)); err == nil {
			script(s, c)
			durable = s.Stats().Durable
			s.lock.Close()
		}
		s := open(t, dir, scriptOptions(c, osDisk{}))
		got := ids(stored(t, dir))
		if uint64(len(got)) < durable {
			t.Fatalf("died at operation %d: %d rows, %d were durable", k, len(got), durable)
		}
		for i, id := range got {
			if id != i {
				t.Fatalf("died at operation %d: flow %d where %d should be", k, id, i)
			}
		}
		if q := s.Stats().Quarantined; len(q) > 0 {
			t.Fatalf("died at operation %d: quarantined %v", k, q)
		}
		if err := s.WriteRecords(numbered(len(got), 5)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Flush(), s.Tidy(context.Background()), s.Close()); err != nil {
			t.Fatal(err)
		}
		wantIDs(t, dir, len(got)+5)
		if !dead {
			break
		}
	}
}

// Broken files of every kind: the store opens without them, says so, and the
// broken ones are in quarantine.
func TestBrokenFiles(t *testing.T) {
	fill := func(t *testing.T) (dir string, files []string) {
		dir = t.TempDir()
		s := open(t, dir, Options{NoCompact: true})
		for i := range 3 {
			s.WriteRecords(numbered(i*10, 10))
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		for _, g := range s.Segments() {
			files = append(files, filepath.Join(dir, g.File))
		}
		s.Close()
		return dir, files
	}
	change := func(t *testing.T, path string, f func([]byte) []byte) {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f(data), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	flip := func(at float64) func([]byte) []byte {
		return func(d []byte) []byte { d[int(float64(len(d)-1)*at)] ^= 0x10; return d }
	}
	cut := func(keep float64) func([]byte) []byte {
		return func(d []byte) []byte { return d[:int(float64(len(d))*keep)] }
	}
	empty := func([]byte) []byte { return nil }
	noise := func(d []byte) []byte {
		r := rand.NewChaCha8([32]byte{1})
		r.Read(d)
		return d
	}
	for name, tc := range map[string]struct {
		harm        func(t *testing.T, dir string, files []string)
		rows        int
		quarantined int
	}{
		"segment cut short":     {func(t *testing.T, _ string, f []string) { change(t, f[1], cut(0.5)) }, 20, 1},
		"segment empty":         {func(t *testing.T, _ string, f []string) { change(t, f[2], empty) }, 20, 1},
		"segment missing":       {func(t *testing.T, _ string, f []string) { os.Remove(f[0]) }, 20, 1},
		"bit flipped in a page": {func(t *testing.T, _ string, f []string) { change(t, f[0], flip(0.2)) }, 20, 1},
		"bit flipped in a foot": {func(t *testing.T, _ string, f []string) { change(t, f[0], flip(0.99)) }, 20, 1},
		"two segments noise":    {func(t *testing.T, _ string, f []string) { change(t, f[0], noise); change(t, f[1], noise) }, 10, 2},
		"catalogue missing":     {func(t *testing.T, d string, _ []string) { os.Remove(filepath.Join(d, "catalogue")) }, 30, 0},
		"catalogue cut short":   {func(t *testing.T, d string, _ []string) { change(t, filepath.Join(d, "catalogue"), cut(0.7)) }, 30, 1},
		"catalogue empty":       {func(t *testing.T, d string, _ []string) { change(t, filepath.Join(d, "catalogue"), empty) }, 30, 1},
		"catalogue bit flipped": {func(t *testing.T, d string, _ []string) { change(t, filepath.Join(d, "catalogue"), flip(0.5)) }, 30, 1},
		"catalogue of the future": {func(t *testing.T, d string, _ []string) {
			change(t, filepath.Join(d, "catalogue"), func(b []byte) []byte { return []byte(strings.Replace(string(b), "catalogue 1", "catalogue 9", 1)) })
		}, 30, 1},
		"catalogue and segment": {func(t *testing.T, d string, f []string) {
			change(t, filepath.Join(d, "catalogue"), empty)
			change(t, f[1], cut(0.9))
		}, 20, 2},
		"leftover temporary files": {func(t *testing.T, d string, f []string) {
			os.WriteFile(f[0]+tmpSuffix, []byte("PAR1"), 0o640)
			os.WriteFile(filepath.Join(d, "catalogue.tmp"), []byte("weir"), 0o640)
		}, 30, 0},
		"foreign file": {func(t *testing.T, d string, f []string) {
			os.WriteFile(filepath.Join(d, flowsDir, "x.parquet"), []byte("PAR1 not"), 0o640)
		}, 30, 1},
	} {
		t.Run(name, func(t *testing.T) {
			dir, files := fill(t)
			tc.harm(t, dir, files)
			s := open(t, dir, Options{NoCompact: true})
			st := s.Stats()
			if st.Rows != uint64(tc.rows) || len(st.Quarantined) != tc.quarantined {
				t.Errorf("%d rows, quarantined %q; want %d rows, %d quarantined", st.Rows, st.Quarantined, tc.rows, tc.quarantined)
			}
			if got := len(stored(t, dir)); got != tc.rows {
				t.Errorf("%d rows readable, want %d", got, tc.rows)
			}
			left, _ := filepath.Glob(filepath.Join(dir, "*", "*"+tmpSuffix))
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			s.WriteRecords(numbered(100, 5))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if got := len(stored(t, dir)); got != tc.rows+5 {
				t.Errorf("%d rows after another cut, want %d", got, tc.rows+5)
			}
		})
	}
}

// A segment that breaks while the store is open is found by the merge.
func TestMergeLeavesBrokenOut(t *testing.T) {
	dir := t.TempDir()
	c := &clock{t: epoch}
	s := open(t, dir, Options{Now: c.now})
	for i := range 4 {
		s.WriteRecords(numbered(i*10, 10))
		s.Flush()
	}
	path := s.path(s.Segments()[1].File)
	data, _ := os.ReadFile(path)
	data[100] ^= 1
	os.WriteFile(path, data, 0o640)
	c.add(2 * time.Hour)
	if err := s.Tidy(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := len(stored(t, dir)); got != 30 {
		t.Errorf("%d rows, want 30", got)
	}
	if l := s.Losses()[lossCorrupt]; l.Records != 10 || len(s.Stats().Quarantined) != 1 {
		t.Errorf("loss %+v, quarantined %v; want 10 records, 1 file", l, s.Stats().Quarantined)
	}
}

// n small segments become one, in one step for readers; the old files stay for
// the grace period and go then.
func TestCompaction(t *testing.T) {
	dir := t.TempDir()
	c := &clock{t: epoch}
	s := open(t, dir, Options{Now: c.now, Grace: time.Minute})
	for i := range 15 {
		s.WriteRecords(numbered(i*100, 100))
		s.Flush()
		c.add(3 * time.Second)
	}
	tidy := func() {
		t.Helper()
		if err := s.Tidy(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	files := func() int {
		names, err := segmentFiles(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	if tidy(); len(s.Segments()) != 15 {
		t.Fatalf("%d segments, want 15: too few to merge yet", len(s.Segments()))
	}
	s.WriteRecords(numbered(1500, 100))
	s.Flush()
	if tidy(); len(s.Segments()) != 1 || s.Segments()[0].Level != 1 || files() != 17 {
		t.Fatalf("%d segments, %d files; want 1 and, in the grace period, 17", len(s.Segments()), files())
	}
	wantIDs(t, dir, 1600)
	c.add(2 * time.Minute)
	if tidy(); files() != 1 || s.Stats().RetiredBytes != 0 {
		t.Fatalf("%d files after the grace period, want 1", files())
	}
	s.WriteRecords(numbered(1600, 100))
	s.Flush()
	c.add(time.Hour)
	if tidy(); len(s.Segments()) != 1 || s.Segments()[0].Level != 2 {
		t.Fatalf("after the hour: %+v, want one final segment", s.Segments())
	}
	wantIDs(t, dir, 1700)
	before := s.Segments()
	c.add(time.Hour)
	if tidy(); !slices.EqualFunc(before, s.Segments(), func(a, b Segment) bool { return a.ID == b.ID }) {
		t.Fatal("a final segment was merged again")
	}
}

// While a writer cuts and merges, a reader always sees whole cuts: each of
// them once.
func TestReaderBesideWriter(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{Now: func() time.Time { return epoch }, CompactRows: 200})
	rd, err := OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(stop)
		for i := range 60 {
			s.WriteRecords(numbered(i*10, 10))
			if err := errors.Join(s.Flush(), s.Tidy(context.Background())); err != nil {
				t.Error(err)
				return
			}
		}
	})
	last := 0
	for done := false; !done; {
		select {
		case <-stop:
			done = true
		default:
		}
		segments, err := rd.Segments()
		if err != nil {
			t.Fatal(err)
		}
		var rows []flow.Record
		for i := range segments {
			rows = append(rows, rowsOf(t, rd, &segments[i])...)
		}
		got := ids(rows)
		for i, id := range got {
			if i != id {
				t.Fatalf("flow %d where %d should be", id, i)
			}
		}
		if len(got) < last || len(got)%10 != 0 {
			t.Fatalf("%d rows after %d", len(got), last)
		}
		last = len(got)
	}
	wg.Wait()
	if last != 600 {
		t.Fatalf("%d rows at the end, want 600", last)
	}
}

func TestRetention(t *testing.T) {
	fill := func(t *testing.T, o Options) (*Store, *clock) {
		c := &clock{t: epoch}
		o.Now, o.NoCompact = c.now, true
		s := open(t, t.TempDir(), o)
		for i := range 10 {
			r := numbered(i*10, 10)
			for j := range r {
				r[j].Received = c.now().UnixNano()
				r[j].Last = 0 // a clock that was never set must not matter
			}
			s.WriteRecords(r)
			s.Flush()
			c.add(time.Hour)
		}
		return s, c
	}
	t.Run("age", func(t *testing.T) {
		s, _ := fill(t, Options{MaxAge: 4*time.Hour + time.Minute})
		s.Tidy(context.Background())
		if got := ids(stored(t, s.dir)); len(got) != 40 || got[0] != 60 {
			t.Errorf("left %v, want 60 to 99", got)
		}
		if names, _ := segmentFiles(s.dir); len(names) != 4 || s.Stats().Expired != 6 {
			t.Errorf("%d files, %d expired; want 4 and 6", len(names), s.Stats().Expired)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		s, _ := fill(t, Options{})
		s.o.MaxBytes = int64(s.Stats().Bytes) * 35 / 100
		s.Tidy(context.Background())
		if got := ids(stored(t, s.dir)); len(got) != 30 || got[0] != 70 {
			t.Errorf("left %v, want 70 to 99", got)
		}
		if int64(s.Stats().Bytes) > s.o.MaxBytes {
			t.Errorf("%d octets kept, limit %d", s.Stats().Bytes, s.o.MaxBytes)
		}
	})
	t.Run("free", func(t *testing.T) {
		s, _ := fill(t, Options{})
		s.o.MinFree = 1 << 60 // more than there is: all goes but the newest
		s.Tidy(context.Background())
		if got := ids(stored(t, s.dir)); len(got) != 10 || got[0] != 90 {
			t.Errorf("left %v, want 90 to 99", got)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		s, _ := fill(t, Options{})
		s.Tidy(context.Background())
		wantIDs(t, s.dir, 100)
	})
}

// mount makes a small file system, or skips.
func mount(t *testing.T, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("weir-test", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("mounting tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// A full disk stops nothing: what finds no room is counted, and when retention
// or a person makes room the store goes on without a restart.
func TestFullDisk(t *testing.T) {
	dir := mount(t, "size=400k")
	s := open(t, dir, Options{SegmentRows: 1000, Buffers: 2, NoCompact: true})
	total := 0
	for s.Stats().Failing == "" {
		if total > 1_000_000 {
			t.Fatal("400 KiB hold a million records")
		}
		s.WriteRecords(numbered(total, 1000))
		total += 1000
		s.Flush()
	}
	if !strings.Contains(s.Stats().Failing, "no space") {
		t.Fatalf("failing: %s", s.Stats().Failing)
	}
	for range 5 {
		if err := s.WriteRecords(numbered(total, 1000)); err != nil {
			t.Fatal(err)
		}
		total += 1000
	}
	st, lost := s.Stats(), s.Losses()[lossIO].Records
	if lost == 0 || st.Durable+st.Buffered+lost != uint64(total) {
		t.Fatalf("%d records: %d durable, %d buffered, %d lost", total, st.Durable, st.Buffered, lost)
	}
	rows := len(stored(t, dir))
	if rows != int(st.Durable) {
		t.Errorf("%d rows readable, %d durable", rows, st.Durable)
	}
	s.o.MaxBytes = int64(st.Bytes) / 2
	if err := s.Tidy(context.Background()); err != nil {
		t.Fatalf("retention on a full disk: %v", err)
	}
	if err := s.Flush(); err != nil {
		t.Fatalf("after retention made room: %v", err)
	}
	if st := s.Stats(); st.Failing != "" || st.Buffered != 0 {
		t.Errorf("failing %q, %d buffered", st.Failing, st.Buffered)
	}
}

func TestReadOnly(t *testing.T) {
	dir := mount(t, "size=4m")
	s := open(t, dir, Options{})
	s.WriteRecords(numbered(0, 10))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skipf("remounting read-only: %v", err)
	}
	_, err := Open(dir, Options{})
	if err == nil || !strings.Contains(err.Error(), dir) || !errors.Is(err, syscall.EROFS) || strings.Contains(err.Error(), "\n") {
		t.Errorf("Open of a read-only store: %v; want one line that names it", err)
	}
	wantIDs(t, dir, 10) // reading needs no writing
}

func TestOpenReader(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "file")
	os.WriteFile(plain, nil, 0o600)
	for _, path := range []string{filepath.Join(dir, "none"), plain, dir} {
		if _, err := OpenReader(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error that names it", path, err)
		}
	}
	if _, err := OpenReader(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

// A writer that is killed loses at most what it took in the last five seconds.
func TestKill(t *testing.T) {
	if dir := os.Getenv("WEIR_STORE_CHILD"); dir != "" {
		child(dir)
		return
	}
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	dir := t.TempDir()
	total := 0
	for round := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "WEIR_STORE_CHILD="+dir, "WEIR_STORE_FROM="+strconv.Itoa(total))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		type mark struct {
			at time.Time
			n  int
		}
		marks := []mark{{time.Now(), total}}
		stop := time.Now().Add(time.Duration(700+rand.IntN(600)) * time.Millisecond)
		for in := bufio.NewScanner(out); in.Scan() && time.Now().Before(stop); {
			if n, err := strconv.Atoi(in.Text()); err == nil {
				marks = append(marks, mark{time.Now(), n})
			}
		}
		cmd.Process.Kill()
		killed := time.Now()
		cmd.Wait()

		s := open(t, dir, Options{})
		got := ids(stored(t, dir))
		for i, id := range got {
			if i != id {
				t.Fatalf("round %d: flow %d where %d should be", round, id, i)
			}
		}
		// The child's Cut is 200 ms; half a second more is a generous write.
		need := 0
		for _, m := range marks {
			if killed.Sub(m.at) > 700*time.Millisecond {
				need = m.n
			}
		}
		last := marks[len(marks)-1].n
		t.Logf("round %d: wrote %d, killed, %d there, %d lost", round, last-total, len(got)-total, max(0, last-len(got)))
		if len(got) < need {
			t.Errorf("round %d: %d rows; %d were written before the last cut was due", round, len(got), need)
		}
		if q := s.Stats().Quarantined; len(q) > 0 {
			t.Errorf("quarantined %v", q)
		}
		total = len(got)
		s.Close()
	}
	if total == 0 {
		t.Error("nothing was ever durable")
	}
}

func child(dir string) {
	s, err := Open(dir, Options{Cut: 200 * time.Millisecond, CompactRows: 20000})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go s.Run(context.Background())
	n, _ := strconv.Atoi(os.Getenv("WEIR_STORE_FROM"))
	for {
		s.WriteRecords(numbered(n, 100))
		n += 100
		fmt.Println(n)
		time.Sleep(time.Millisecond)
	}
}

// A record taken costs no allocation once the buffers have their size.
func TestWriteAllocations(t *testing.T) {
	s := open(t, t.TempDir(), Options{SegmentRows: 1 << 20})
	records := numbered(0, 100)
	for range 200 {
		s.WriteRecords(records)
	}
	s.Flush()
	if n := testing.AllocsPerRun(100, func() { s.WriteRecords(records) }); n > 0 {
		t.Errorf("%v allocations a batch of 100 records, want 0", n)
	}
}

// BenchmarkStore is records to durable segments, the writes to the disk
// included; then their compaction, apart.
func BenchmarkStore(b *testing.B) {
	const n = 1 << 20
	records := storetest.NewTraffic(1, epoch.UnixNano()).Records(n)
	cpu := func() time.Duration {
		var u syscall.Rusage
		syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	var ingest, merge time.Duration
	var before, after uint64
	for b.Loop() {
		b.StopTimer()
		c := &clock{t: epoch}
		s := open(b, b.TempDir(), Options{Now: c.now})
		for range s.o.Buffers { // a store that runs has its buffers
			buf := &buffer{}
			buf.resize(s.o.SegmentRows)
			buf.reset()
			s.free, s.made = append(s.free, buf), s.made+1
		}
		b.StartTimer()
		t0 := cpu()
		for lo := 0; lo < n; lo += 1000 {
			s.WriteRecords(records[lo:min(lo+1000, n)])
			if lo%100_000 == 0 {
				s.cutDue()
			}
		}
		if err := s.Flush(); err != nil {
			b.Fatal(err)
		}
		ingest += cpu() - t0
		before = s.Stats().Bytes
		if s.Stats().Durable != n {
			b.Fatalf("%d durable, %+v", s.Stats().Durable, s.Losses())
		}
		c.add(2 * time.Hour)
		t0 = cpu()
		if err := s.Tidy(context.Background()); err != nil {
			b.Fatal(err)
		}
		merge += cpu() - t0
		after = s.Stats().Bytes
		s.Close()
	}
	b.ReportMetric(ingest.Seconds()/float64(b.N)/n*1e6, "cpu-s/Mrecord")
	b.ReportMetric(merge.Seconds()/float64(b.N)/n*1e6, "compact-cpu-s/Mrecord")
	b.ReportMetric(float64(before)/n, "B/record")
	b.ReportMetric(float64(after)/n, "compacted-B/record")
}
