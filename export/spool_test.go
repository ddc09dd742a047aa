package export

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/wire"
)

// message is an IPFIX message with so many records said to be in it, that needs a
// template of its own and one that all have.
func message(n int) *datagram {
	b := make([]byte, wire.HeaderIPFIXLen, 200)
	b = append(b, fmt.Sprintf("message %d", n)...)
	wire.PutHeaderIPFIX(b, wire.Stamp{Unix: 1_750_000_000e9}, 0, 7)
	return &datagram{
		b: b, sum: sum{1, 1, uint64(n), 100}, data: 1, last: int64(n),
		uses: []*definition{{256, 2, []byte("common")}, {uint16(300 + n%5), 2, fmt.Appendf(nil, "template %d", n%5)}},
	}
}

// number is which message g is; it has what message gave it.
func number(t *testing.T, g *datagram) int {
	t.Helper()
	n := int(g.last)
	want := message(n)
	if string(g.b) != string(want.b) || g.sum != want.sum || g.data != want.data || len(g.uses) != 2 || !g.uses[0].same(want.uses[0]) || !g.uses[1].same(want.uses[1]) {
		t.Errorf("message %d came back as %+v", n, g)
	}
	return n
}

func spoolIn(t *testing.T, dir string, most int64) *spool {
	t.Helper()
	s, err := openSpool(dir, most)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// All that goes in comes out, in order, over several processes that take a part
// each and put back what they have taken and not sent.
func TestSpoolKeepsOrderOverRestarts(t *testing.T) {
	dir := t.TempDir()
	in, out := 0, 0
	for range 40 {
		s := spoolIn(t, dir, 1<<30)
		if s.messages != in-out || s.sum.records != uint64(in-out) {
			t.Fatalf("the next process finds %d messages, %d records; want %d", s.messages, s.sum.records, in-out)
		}
		for range 17 {
			if err := s.add(message(in)); err != nil {
				t.Fatal(err)
			}
			in++
		}
		var front []*datagram
		for i := range 15 {
			g := &datagram{}
			if ok, broken := s.take(g); !ok || broken.messages > 0 {
				t.Fatalf("nothing came: %+v", broken)
			}
			if i < 11 { // sent
				if n := number(t, g); n != out {
					t.Fatalf("message %d came; want %d", n, out)
				}
				out++
			} else {
				front = append(front, g)
			}
		}
		if left, err := s.close(front); len(left) > 0 || err != nil {
			t.Fatal(len(left), err)
		}
	}
	s := spoolIn(t, dir, 1<<30)
	g := &datagram{}
	for ; out < in; out++ {
		if ok, _ := s.take(g); !ok || number(t, g) != out {
			t.Fatalf("at the end message %d did not come", out)
		}
	}
	if ok, _ := s.take(g); ok || s.octets != 0 || s.messages != 0 {
		t.Errorf("an empty spool has %d octets, %d messages", s.octets, s.messages)
	}
	s.close(nil)
	files, _ := filepath.Glob(filepath.Join(dir, "*.spool"))
	if len(files) > 0 {
		t.Errorf("an empty spool has segments: %v", files)
	}
}

func TestSpoolIsBounded(t *testing.T) {
	s := spoolIn(t, t.TempDir(), 20_000)
	n := 0
	for ; n < 10_000; n++ {
		if err := s.add(message(n)); err != nil {
			if err != errSpoolFull {
				t.Fatal(err)
			}
			break
		}
	}
	if n < 50 || n == 10_000 || s.octets > 20_000 {
		t.Errorf("%d messages, %d octets", n, s.octets)
	}
	for i := range n {
		g := &datagram{}
		if ok, _ := s.take(g); !ok || number(t, g) != i {
			t.Fatalf("message %d did not come", i)
		}
	}
	if err := s.add(message(0)); err != nil {
		t.Errorf("there is room again: %v", err)
	}
	s.close(nil)
}

// Of a segment that is torn or damaged the rest is lost, and counted: what comes
// out and what is lost is what went in.
func TestSpoolBroken(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func([]byte) []byte
	}{
		{"torn", func(b []byte) []byte { return b[:len(b)*2/3] }},
		{"a bit", func(b []byte) []byte { b[len(b)/2] ^= 4; return b }},
		{"a length", func(b []byte) []byte { copy(b[len(spoolMagic):], "\xff\xff\xff\xff"); return b }},
		{"the head", func(b []byte) []byte { b[0] = 'x'; return b }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := spoolIn(t, dir, 1<<30)
			for n := range 100 {
				s.add(message(n))
			}
			// While it is open: what was put in is known, so the loss is exact.
			path := s.path(firstSegment)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, c.damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			var got, lost sum
			for {
				g := &datagram{}
				ok, broken := s.take(g)
				lost.add(broken.sum)
				if !ok {
					break
				}
				number(t, g)
				got.add(g.sum)
			}
			if got.records+lost.records != 100 || lost.records == 0 || s.messages != 0 || s.octets != 0 {
				t.Errorf("%d came, %d are lost of 100; %d left, %d octets", got.records, lost.records, s.messages, s.octets)
			}
			if err := s.add(message(1)); err != nil {
				t.Errorf("it goes on: %v", err)
			}
			s.close(nil)
		})
	}
}

func TestSpoolHasOneOwner(t *testing.T) {
	dir := t.TempDir()
	s := spoolIn(t, dir, 1<<30)
	if _, err := openSpool(dir, 1<<30); err == nil || !strings.Contains(err.Error(), "another weir") {
		t.Error(err)
	}
	s.close(nil)
	s = spoolIn(t, dir, 1<<30)
	s.close(nil)
}

func FuzzSpool(f *testing.F) {
	dir := f.TempDir()
	s, err := openSpool(dir, 1<<30)
	if err != nil {
		f.Fatal(err)
	}
	for n := range 3 {
		s.add(message(n))
	}
	seed, _ := os.ReadFile(s.path(firstSegment))
	s.close(nil)
	f.Add(seed)
	f.Add(seed[:len(seed)-5])
	f.Fuzz(func(t *testing.T, segment []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%016x.spool", firstSegment)), segment, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openSpool(dir, 1<<30)
		if err != nil {
			return
		}
		g := &datagram{}
		for ok := true; ok; ok, _ = s.take(g) {
		}
		if s.messages != 0 {
			t.Errorf("%d messages cannot be had", s.messages)
		}
		s.close(nil)
	})
}

// A collector that is away for longer than the queue is patient, and a weir that is
// stopped and started meanwhile: everything comes, once.
func TestSpoolOnDisk(t *testing.T) {
	s := newStation(t, "tcp", nil)
	s.kill()
	to := "tcp://" + s.addr + "?flush=5ms&queue=16&spool=" + t.TempDir()
	records, total := mixed(60_000, time.Now().UnixNano())
	e, stop := opened(t, Options{Destinations: []Destination{parse(t, to)}})
	give(e, records[:40_000])
	stop()
	st := e.Stats()[0]
	if st.SpooledRecords != 40_000 || st.Records != 0 || st.Queued != 0 {
		t.Fatalf("%d of 40000 are in the spool, %d queued, lost %+v", st.SpooledRecords, st.Queued, e.Losses())
	}
	e, stop = opened(t, Options{Destinations: []Destination{parse(t, to)}})
	give(e, records[40_000:])
	s.open()
	s.until("everything", func() bool { return s.got.records >= total.records })
	stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.got != (sum{total.records, total.records, total.packets, total.octets}) {
		t.Errorf("got %+v; given %+v", s.got, total)
	}
	if st := e.Stats()[0]; st.Restored != 40_000 || st.GivenRecords != 20_000 || st.Records != 60_000 || st.Spooled != 0 {
		t.Errorf("%+v", st)
	}
}
