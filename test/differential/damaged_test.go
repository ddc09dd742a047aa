package differential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/cache"
	"weir/capture"
	"weir/collect"
	"weir/flow"
	"weir/meter"
)

// damage changes a file as disks, lines and people with bad intent do.
func (d dice) damage(b []byte) ([]byte, string) {
	b = bytes.Clone(b)
	if len(b) == 0 {
		return b, "empty"
	}
	// Where it hurts: near the front, where the headers are, or anywhere.
	place := func() int {
		if d.one(3) {
			return d.IntN(min(len(b), 200))
		}
		return d.IntN(len(b))
	}
	var words []string
	for range pick(d, 1, 1, 2, 5, 20) {
		switch d.IntN(7) {
		case 0:
			i := place()
			b[i] ^= 1 << d.IntN(8)
			words = append(words, fmt.Sprintf("bit at %d", i))
		case 1:
			i := place()
			b[i] = byte(pick(d, 0, 1, 4, 0x7f, 0x80, 0xff))
			words = append(words, fmt.Sprintf("octet at %d", i))
		case 2: // a length that lies, in either byte order
			i := place()
			v := pick(d, uint32(0), 1, 4, 11, 12, 13, 0xffff, 0x10000, 1<<20, 1<<31-1, 1<<31, 1<<32-1, d.Uint32())
			for k := range min(4, len(b)-i) {
				if i&4 == 0 {
					b[i+k] = byte(v >> (8 * k))
				} else {
					b[i+k] = byte(v >> (24 - 8*k))
				}
			}
			words = append(words, fmt.Sprintf("%#x at %d", v, i))
		case 3:
			b = b[:d.between(1, len(b))]
			words = append(words, fmt.Sprintf("cut to %d", len(b)))
		case 4: // octets are missing
			i := place()
			n := min(len(b)-i, d.between(1, 16))
			b = append(b[:i], b[i+n:]...)
			words = append(words, fmt.Sprintf("%d missing at %d", n, i))
		case 5: // or come twice
			i := place()
			n := min(len(b)-i, d.between(1, 64))
			b = append(b[:i+n], b[i:]...)
			words = append(words, fmt.Sprintf("%d twice at %d", n, i))
		case 6:
			i := place()
			n := min(len(b)-i, d.between(1, 64))
			copy(b[i:], d.octets(n))
			words = append(words, fmt.Sprintf("%d of noise at %d", n, i))
		}
		if len(b) == 0 {
			break
		}
	}
	return b, strings.Join(words, ", ")
}

// originals are captures of the corpus that are small, or of this package's
// generators where there is no corpus.
func originals(t *testing.T, d dice) map[string][]byte {
	dir := os.Getenv("WEIR_CORPUS")
	if dir == "" {
		dir = "../../../shared/corpus"
	}
	files := map[string][]byte{}
	for _, kind := range []string{"packets", "exports"} {
		names, _ := filepath.Glob(filepath.Join(dir, kind, "*.pcap*"))
		for _, name := range names {
			if st, err := os.Stat(name); err != nil || st.Size() > 100_000 {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files[filepath.Base(name)] = b
		}
	}
	if len(files) == 0 {
		t.Logf("no corpus in %s (WEIR_CORPUS): generated captures only", dir)
	}
	var frames, exports []frame
	for n := range 300 {
		frames = append(frames, d.frame(n, pick(d, links...)))
	}
	for n := range 8 {
		x := d.exporter(n, pick(d, 1, 5, 7, 8, 9, 10))
		for range 20 {
			exports = append(exports, x.datagram())
		}
	}
	files["frames.pcapng"], files["exports.pcap"] = d.pcapng(frames), d.pcap(exports)
	files["exports.pcapng"] = d.pcapng(exports)
	for _, name := range []string{"frames.pcapng", "exports.pcap"} {
		b, ext := d.compressed(files[name])
		files[name+ext] = b
	}
	return files
}

const patience = 10 * time.Second

// survive reads a damaged file with meter and decode. Each must come to its
// end, with an error of one line or none, and account for what it read.
func survive(t *testing.T, path, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	oneLine := func(verb string, err error) {
		if err != nil && (strings.ContainsAny(strings.TrimSpace(err.Error()), "\n\r") || !strings.Contains(err.Error(), filepath.Base(path))) {
			t.Errorf("%s of %s: not one line that names the file: %q", verb, what, err)
		}
	}
	var metered uint64
	src, err := capture.Open(path)
	if err == nil {
		sink := flow.SinkFunc(func(b []flow.Record) error {
			for i := range b {
				metered += b[i].Packets
			}
			return nil
		})
		var m *meter.Meter
		if m, err = meter.New(meter.Config{Cache: cache.Config{Entries: 1 << 12}, Workers: 1}, sink); err != nil {
			t.Fatal(err)
		}
		err = m.RunFiles(ctx, src)
		src.Close()
		s := m.Summary()
		sum := s.Metered.Packets
		for _, c := range s.Ignored {
			sum += c.Packets
		}
		if s.Packets != sum || metered != s.Metered.Packets {
			t.Errorf("meter of %s: %d packets read, %d metered and ignored; %d in records of %d", what, s.Packets, sum, metered, s.Metered.Packets)
		}
	}
	oneLine("meter", err)
	records := uint64(0)
	sum, err := collect.Decode(ctx, []string{path}, collect.DecodeOptions{Sink: flow.SinkFunc(func(b []flow.Record) error {
		records += uint64(len(b))
		return nil
	})})
	oneLine("decode", err)
	if sum != nil && sum.Records != records {
		t.Errorf("decode of %s: %d records, %d in the summary", what, records, sum.Records)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s: not done in %v", what, patience)
	}
}

// TestDamaged reads damaged captures: nothing panics, hangs, or grows.
func TestDamaged(t *testing.T) {
	for _, seed := range seeds(t, 6) {
		d := newDice(seed)
		files := originals(t, d)
		names := sortedKeys(files)
		dir := folder(t)
		for i := range 1200 {
			name := names[i%len(names)]
			if i >= len(names) {
				name = pick(d, names...)
			}
			b, words := d.damage(files[name])
			path := filepath.Join(dir, "damaged")
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
			what := fmt.Sprintf("seed %d, %d: %s, %s", seed, i, name, words)
			done := make(chan struct{})
			watch := time.AfterFunc(patience, func() {
				select {
				case <-done:
				default:
					buf := make([]byte, 1<<16)
					panic(what + ": hangs\n" + string(buf[:runtime.Stack(buf, true)]))
				}
			})
			survive(t, path, what)
			close(done)
			watch.Stop()
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.Sys > 300<<20 {
		t.Errorf("%d MiB were needed", m.Sys>>20)
	}
}

// TestDamagedProgram asks the program itself: exit status 0, or 1 and one line of
// error, never a stack, 300 MiB at most.
func TestDamagedProgram(t *testing.T) {
	dir := t.TempDir()
	weir := os.Getenv("WEIR_BINARY")
	switch {
	case weir != "":
	case os.Getenv("WEIR_DIFFERENTIAL") == "":
		t.Skip("skipped: no program to try; WEIR_BINARY names one, WEIR_DIFFERENTIAL (the long form) builds it")
	default:
		weir = filepath.Join(dir, "weir")
		build := exec.Command("go", "build", "-o", weir, "../../cmd/weir")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	d := newDice(7)
	files := originals(t, d)
	names := sortedKeys(files)
	n := 40
	if os.Getenv("WEIR_DIFFERENTIAL") != "" {
		n = 400
	}
	for range n {
		name := pick(d, names...)
		b, words := d.damage(files[name])
		path := filepath.Join(dir, "damaged")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		args := pick(d, []string{"meter", "-r", path, "-o", "csv"}, []string{"decode", "-o", "csv", path}, []string{"decode", "--templates", path})
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		cmd := exec.CommandContext(ctx, weir, args...)
		cmd.Env = append(os.Environ(), "GOMEMLIMIT=off")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		hung := ctx.Err() != nil
		cancel()
		var exit *exec.ExitError
		status := 0
		if errors.As(err, &exit) {
			status = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		use := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		text := stderr.String()
		said, failed := 0, 0 // lines: hints of what was left out, and the error, which names the file
		for line := range strings.Lines(text) {
			if said++; strings.Contains(line, path) {
				failed++
			}
			if !strings.HasPrefix(line, "weir: ") {
				failed = 9
			}
		}
		if hung || status != 0 && status != 1 || failed != status || said > status+1 || use.Maxrss > 300<<10 {
			t.Errorf("weir %s of %s, %s: exit status %d, %d MiB, hung %v, stderr %q", args[0], name, words, status, use.Maxrss>>10, hung, text)
		}
	}
}
