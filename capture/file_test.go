package capture_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"weir/capture"
	"weir/packet"
)

// record is what a writer puts into a file and the reader must give.
type record struct {
	time int64
	wire uint32
	link packet.LinkType
	data string
}

func readAll(src capture.Source, size int) ([]record, error) {
	var all []record
	b := capture.Batch{Packets: make([]capture.Packet, 0, size)}
	for {
		err := src.Read(&b)
		for _, p := range b.Packets {
			if p.Interface != 0 || p.VLAN != 0 || p.Egress {
				return all, fmt.Errorf("%+v is not of a file", p)
			}
			all = append(all, record{p.Time, p.Wire, p.Link, string(p.Data)})
		}
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		if len(b.Packets) == 0 {
			return all, errors.New("an empty batch from a file")
		}
	}
}

// TestPcap: every byte order, resolution and relative of the format.
func TestPcap(t *testing.T) {
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		for _, c := range []struct {
			name    string
			magic   uint32
			unit    int64
			front   int // octets between the header and the first packet
			behind  int // octets between a packet's header and its data
			minor   uint16
			swapped bool // lengths the other way round
		}{
			{"microseconds", 0xa1b2c3d4, 1000, 0, 0, 4, false},
			{"nanoseconds", 0xa1b23c4d, 1, 0, 0, 4, false},
			{"modified", 0xa1b2cd34, 1000, 0, 8, 4, false},
			{"IXIA software", 0x1c0001ab, 1000, 4, 0, 4, false},
			{"IXIA hardware", 0x1c0001ac, 1, 4, 0, 4, false},
			{"version 2.3", 0xa1b2c3d4, 1000, 0, 0, 3, true},
			{"version 2.2", 0xa1b2c3d4, 1000, 0, 0, 2, true},
		} {
			b := order.AppendUint32(nil, c.magic)
			b = order.AppendUint16(order.AppendUint16(b, 2), c.minor)
			b = append(b, make([]byte, 8)...)
			b = order.AppendUint32(b, 96)
			b = order.AppendUint32(b, 0xf4000000|uint32(packet.LinkSLL)) // with a length of the FCS
			b = append(b, make([]byte, c.front)...)
			var want []record
			for i, n := range []uint32{60, 0, 1, 96} {
				r := record{4_000_000_000e9 + int64(i)*c.unit, n + uint32(i)*1000, packet.LinkSLL, strings.Repeat("x", int(n))}
				want = append(want, r)
				b = order.AppendUint32(order.AppendUint32(b, 4_000_000_000), uint32(i))
				if c.swapped {
					b = order.AppendUint32(order.AppendUint32(b, r.wire), n)
				} else {
					b = order.AppendUint32(order.AppendUint32(b, n), r.wire)
				}
				b = append(b, make([]byte, c.behind)...)
				b = append(b, r.data...)
			}
			src, err := capture.OpenReader(bytes.NewReader(b), "x")
			if err != nil {
				t.Errorf("%s, %v: %v", c.name, order, err)
				continue
			}
			got, err := readAll(src, 3)
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s, %v:\n got %v %v\nwant %v", c.name, order, got, err, want)
			}
		}
	}
}

// ng writes pcapng blocks.
type ng struct {
	binary.AppendByteOrder
	b []byte
}

func (w *ng) block(kind uint32, body []byte) {
	body = append(body, make([]byte, -len(body)&3)...)
	n := uint32(len(body) + 12)
	w.b = w.AppendUint32(w.AppendUint32(w.b, kind), n)
	w.b = w.AppendUint32(append(w.b, body...), n)
}

func (w *ng) section() {
	b := w.AppendUint32(nil, 0x1a2b3c4d)
	b = append(w.AppendUint16(b, 1), 0, 0)
	w.block(0x0a0d0d0a, append(b, bytes.Repeat([]byte{0xff}, 8)...))
}

func (w *ng) iface(link packet.LinkType, snap uint32, options ...byte) {
	b := append(w.AppendUint16(nil, uint16(link)), 0, 0)
	w.block(1, append(w.AppendUint32(b, snap), options...))
}

func (w *ng) option(code uint16, value ...byte) []byte {
	b := w.AppendUint16(w.AppendUint16(nil, code), uint16(len(value)))
	return append(append(b, value...), make([]byte, -len(value)&3)...)
}

func (w *ng) packet(iface uint32, stamp uint64, r record) {
	b := w.AppendUint32(nil, iface)
	b = w.AppendUint32(w.AppendUint32(b, uint32(stamp>>32)), uint32(stamp))
	b = w.AppendUint32(w.AppendUint32(b, uint32(len(r.data))), r.wire)
	w.block(6, append(b, r.data...))
}

// TestPcapng: sections in both byte orders, interfaces of many resolutions,
// every kind of packet block, and blocks to skip.
func TestPcapng(t *testing.T) {
	var file []byte
	var want []record
	for _, order := range []binary.AppendByteOrder{binary.BigEndian, binary.LittleEndian, binary.BigEndian} {
		w := &ng{AppendByteOrder: order}
		w.section()
		w.block(0xbad, order.AppendUint32(nil, 32473))
		w.iface(packet.LinkEthernet, 64)
		w.block(5, make([]byte, 20))
		w.iface(packet.LinkRaw, 0, append(w.option(2, []byte("eth0")...), w.option(9, 9)...)...)
		w.iface(packet.LinkNull, 0, w.option(9, 12)...)
		w.iface(packet.LinkNull, 0, w.option(9, 0)...)
		w.iface(packet.LinkNull, 0, w.option(9, 0x80|20)...)
		w.iface(packet.LinkNull, 0, append(w.option(9, 6), w.option(14, order.AppendUint64(nil, 1_000_000_000)...)...)...)
		w.iface(packet.LinkNull, 0, w.option(14, order.AppendUint64(nil, ^uint64(99))...)...)
		w.iface(packet.LinkNull, 0, w.option(9, 0x80|64)...)
		w.iface(packet.LinkNull, 0, w.option(9, 127)...)
		for i, c := range []struct {
			link  packet.LinkType
			stamp uint64
			time  int64
		}{
			{packet.LinkEthernet, 1_600_000_000_000_001, 1_600_000_000_000_001_000},
			{packet.LinkRaw, 1_600_000_000_000_000_001, 1_600_000_000_000_000_001},
			{packet.LinkNull, 1_600_000_000_000_123, 1_600_000_000_000},
			{packet.LinkNull, 1_600_000_000, 1_600_000_000e9},
			{packet.LinkNull, 1_600_000_000<<20 | 1<<19, 1_600_000_000_500_000_000},
			{packet.LinkNull, 600_000_000_000_007, 1_600_000_000_000_007_000},
			{packet.LinkNull, 50_000_000, -50e9},
			{packet.LinkNull, 1 << 63, 500_000_000},
			{packet.LinkNull, 1 << 63, 0},
		} {
			r := record{c.time, 1500, c.link, strings.Repeat("y", i)}
			w.packet(uint32(i), c.stamp, r)
			want = append(want, r)
		}
		// Out of range is the end of the range.
		w.packet(3, 1<<63, record{wire: 1})
		want = append(want, record{1 << 62, 1, packet.LinkNull, ""})
		w.packet(0, 1<<64-1, record{wire: 1})
		want = append(want, record{1 << 62, 1, packet.LinkEthernet, ""})
		// The simple block is the first interface's, and as long as that snaps.
		w.block(3, append(order.AppendUint32(nil, 100), make([]byte, 64)...))
		want = append(want, record{0, 100, packet.LinkEthernet, string(make([]byte, 64))})
		w.block(3, append(order.AppendUint32(nil, 3), "abc"...))
		want = append(want, record{0, 3, packet.LinkEthernet, "abc"})
		// The obsolete block.
		old := append(order.AppendUint16(nil, 1), 0, 7)
		old = order.AppendUint32(order.AppendUint32(old, 0), 5)
		old = order.AppendUint32(order.AppendUint32(old, 2), 9)
		w.block(2, append(old, "ab"...))
		want = append(want, record{5, 9, packet.LinkRaw, "ab"})
		// Larger than the buffer, and unknown.
		w.block(0x80000001, make([]byte, 2<<20))
		w.packet(1, 6, record{wire: 2, data: "zz"})
		want = append(want, record{6, 2, packet.LinkRaw, "zz"})
		file = append(file, w.b...)
	}
	for _, r := range []io.Reader{bytes.NewReader(file), iotest.HalfReader(bytes.NewReader(file)), iotest.DataErrReader(bytes.NewReader(file))} {
		src, err := capture.OpenReader(r, "x")
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(src, 4)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if i >= len(got) || got[i] != want[i] {
				t.Fatalf("packet %d: got %+v, want %+v", i, got[min(i, len(got)-1)], want[i])
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d packets, want %d", len(got), len(want))
		}
	}
}

// simplePcap is a file of n frames of 100 octets.
func simplePcap(n int) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0)
	for i := range n {
		b = le.AppendUint32(le.AppendUint32(b, uint32(i)), 0)
		b = le.AppendUint32(le.AppendUint32(b, 100), 100)
		b = append(b, make([]byte, 100)...)
	}
	return b
}

// TestSeams: how the octets come, and how large batches are, changes nothing.
func TestSeams(t *testing.T) {
	var file bytes.Buffer
	rapid.Check(t, func(t *rapid.T) {
		file.Reset()
		file.Write(simplePcap(0))
		var want []record
		for i := range rapid.IntRange(0, 60).Draw(t, "packets") {
			n := rapid.SampledFrom([]int{0, 1, 60, 1500, 65535, 200_000}).Draw(t, "length")
			h := binary.LittleEndian.AppendUint32(nil, uint32(i))
			h = binary.LittleEndian.AppendUint32(h, 7)
			h = binary.LittleEndian.AppendUint32(h, uint32(n))
			h = binary.LittleEndian.AppendUint32(h, uint32(n+1))
			data := bytes.Repeat([]byte{byte(i)}, n)
			file.Write(h)
			file.Write(data)
			want = append(want, record{int64(i)*1e9 + 7000, uint32(n + 1), packet.LinkEthernet, string(data)})
		}
		var r io.Reader = bytes.NewReader(file.Bytes())
		switch rapid.IntRange(0, 2).Draw(t, "reader") {
		case 1:
			r = iotest.HalfReader(r)
		case 2:
			r = iotest.DataErrReader(r)
		}
		src, err := capture.OpenReader(r, "x")
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(src, rapid.IntRange(1, 20).Draw(t, "batch"))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("%d packets, want %d", len(got), len(want))
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("packet %d differs", i)
			}
		}
	})
}

func TestCompressed(t *testing.T) {
	plain := simplePcap(20000)
	var gz, zs bytes.Buffer
	w := gzip.NewWriter(&gz)
	w.Write(plain)
	w.Close()
	e, _ := zstd.NewWriter(&zs)
	e.Write(plain)
	e.Close()
	for name, b := range map[string][]byte{"plain": plain, "gzip": gz.Bytes(), "zstd": zs.Bytes(), "two gzip members": append(bytes.Clone(gz.Bytes()), gzipped(nil)...)} {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		src, err := capture.Open(path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := readAll(src, 500)
		if len(got) != 20000 || err != nil {
			t.Errorf("%s: %d packets, %v", name, len(got), err)
		}
		if done, total := src.(capture.Progress).Progress(); done != int64(len(b)) || total != int64(len(b)) {
			t.Errorf("%s: %d of %d read, want all of %d", name, done, total, len(b))
		}
		src.Close()

		if name == "plain" {
			continue
		}
		src, err = capture.OpenReader(bytes.NewReader(b[:len(b)/2]), "half")
		if err == nil {
			got, err = readAll(src, 500)
		}
		if !errors.Is(err, capture.ErrTruncated) || len(got) == 0 && name == "gzip" {
			t.Errorf("half of %s: %d packets, %v, want ErrTruncated", name, len(got), err)
		}
		damaged := bytes.Clone(b)
		damaged[len(b)/2] ^= 0xff
		src, err = capture.OpenReader(bytes.NewReader(damaged), "damaged")
		if err == nil {
			_, err = readAll(src, 500)
		}
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("damaged %s: no error", name)
		}
	}
}

func gzipped(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(b)
	w.Close()
	return z.Bytes()
}

// TestTruncated: cut anywhere, all whole packets come, then one error that says
// where; cut between two packets it is a whole file.
func TestTruncated(t *testing.T) {
	pcap := simplePcap(3)
	w := &ng{AppendByteOrder: binary.LittleEndian}
	w.section()
	w.iface(packet.LinkEthernet, 0)
	ends := map[int]bool{28: true, len(w.b): true} // a section alone is a whole file
	for range 3 {
		w.packet(0, 1, record{wire: 100, data: strings.Repeat("x", 101)})
		ends[len(w.b)] = true
	}
	front := len(w.b) - 3*136
	for n := 24; n <= len(pcap); n++ {
		src, err := capture.OpenReader(bytes.NewReader(pcap[:n]), "x.pcap")
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(src, 8)
		whole := (n - 24) / 116
		switch {
		case len(got) != whole:
			t.Errorf("%d octets of pcap: %d packets, want %d", n, len(got), whole)
		case (n-24)%116 == 0 && err != nil:
			t.Errorf("%d octets of pcap: %v", n, err)
		case (n-24)%116 != 0 && (!errors.Is(err, capture.ErrTruncated) || !strings.HasPrefix(err.Error(), fmt.Sprintf("x.pcap: at offset %d: ", 24+whole*116))):
			t.Errorf("%d octets of pcap: %v, want ErrTruncated at %d", n, err, 24+whole*116)
		}
	}
	for n := 12; n <= len(w.b); n++ {
		src, err := capture.OpenReader(bytes.NewReader(w.b[:n]), "x")
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(src, 8)
		if want := max(0, n-front) / 136; len(got) != want || ends[n] != (err == nil) || err != nil && !errors.Is(err, capture.ErrTruncated) {
			t.Errorf("%d octets of pcapng: %d packets, %v, want %d", n, len(got), err, want)
		}
	}
}

// TestBadFiles: one clear line each.
func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	lie := simplePcap(2)
	binary.LittleEndian.PutUint32(lie[24+116+8:], 0x7fffffff)
	w := &ng{AppendByteOrder: binary.LittleEndian}
	w.section()
	w.iface(packet.LinkEthernet, 0)
	good := len(w.b)
	w.packet(0, 1, record{wire: 1, data: "abcd"})
	block := func(at int, value uint32) []byte {
		b := bytes.Clone(w.b)
		binary.LittleEndian.PutUint32(b[at:], value)
		return b
	}
	for _, c := range []struct {
		path    string
		packets int
		says    string
		is      error
	}{
		{filepath.Join(dir, "missing"), 0, "no such file", os.ErrNotExist},
		{dir, 0, "is a directory", nil},
		{file("empty", nil), 0, "is empty", nil},
		{file("three", []byte{1, 2, 3}), 0, "only 3 octets", capture.ErrNotCapture},
		{file("text", []byte("hello, world\n")), 0, "it begins with 68 65 6c 6c; pcap or pcapng would be accepted", capture.ErrNotCapture},
		{file("xz", []byte("\xfd7zXZ\x00...")), 0, "it begins with xz", capture.ErrNotCapture},
		{file("gz", gzipped([]byte("hello, world\n"))), 0, "it begins with 68", capture.ErrNotCapture},
		{file("gzgz", gzipped(gzipped(simplePcap(1)))), 0, "gzip within gzip", capture.ErrNotCapture},
		{file("emptygz", gzipped(nil)), 0, "is empty", nil},
		{file("header", simplePcap(0)[:10]), 0, "10 octets of it are there, 14 are missing", capture.ErrTruncated},
		{file("version", append([]byte{0xd4, 0xc3, 0xb2, 0xa1, 9, 0, 4, 0}, make([]byte, 16)...)), 0, "pcap version 9.4", nil},
		{file("lie", lie), 1, "at offset 140: a frame of 2147483647 octets", nil},
		{file("ngversion", block(12, 2)), 0, "pcapng version 2.0", nil},
		{file("ngorder", block(8, 99)), 0, "byte order 0x00000063", nil},
		{file("ngshort", block(good+4, 8)), 0, "a block of 8 octets", nil},
		{file("ngodd", block(good+4, 39)), 0, "a block of 39 octets", nil},
		{file("nglong", block(good+4, 0xfffffffc)), 0, "a block of type 6 with 4294967292 octets", nil},
		{file("ngend", block(len(w.b)-4, 40)), 0, "says 40 at its end", nil},
		{file("ngiface", block(good+8, 1)), 0, "a packet of interface 1; the section describes 1", nil},
		{file("nglength", block(good+20, 5)), 0, "a frame of 5 octets in a block of 36", nil},
		{file("ngunknown", block(good, 77)[:len(w.b)-6]), 0, "", capture.ErrTruncated},
		{file("ngskip", append(block(good, 77)[:good+4], 0xfc, 0xff, 0xff, 0xff, 1, 2, 3, 4)), 0, "a block of 4294967292 octets", capture.ErrTruncated},
	} {
		src, err := capture.Open(c.path)
		var got []record
		if err == nil {
			got, err = readAll(src, 10)
			// It stays failed.
			var b capture.Batch
			if again := src.Read(&b); again != err || len(b.Packets) != 0 {
				t.Errorf("%s: then %v", c.path, again)
			}
			src.Close()
		}
		if err == nil || len(got) != c.packets || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), c.path+": ") || strings.Contains(err.Error(), "\n") || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %d packets, %v; want %d and %q", filepath.Base(c.path), len(got), err, c.packets, c.says)
		}
	}
	path := file("secret", simplePcap(1))
	os.Chmod(path, 0)
	asNobody(t, func() {
		if _, err := capture.Open(path); !errors.Is(err, os.ErrPermission) || err.Error() != path+": permission denied" {
			t.Errorf("no permission: %v", err)
		}
	})
}

// asNobody calls fn in a thread without any right; the thread dies with it.
func asNobody(t *testing.T, fn func()) {
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		if os.Geteuid() == 0 {
			const nobody = 65534
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
				t.Logf("not tried without rights: %v", errno)
				return
			}
		}
		fn()
	}()
	<-done
}

// TestPipe: packets come as soon as they are there, and Close ends a Read that
// waits for more.
func TestPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go w.Write(simplePcap(2))
	src, err := capture.OpenReader(r, "pipe")
	if err != nil {
		t.Fatal(err)
	}
	b := capture.Batch{Packets: make([]capture.Packet, 0, 100)}
	for n := 0; n < 2; n += len(b.Packets) {
		if err := src.Read(&b); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error)
	go func() {
		var b capture.Batch
		done <- src.Read(&b)
	}()
	src.Close()
	if err := <-done; err == nil {
		t.Error("Read after Close gave no error")
	}
	w.Close()
}

// TestFileAllocations: reading and matching allocate nothing for a packet.
func TestFileAllocations(t *testing.T) {
	w := &ng{AppendByteOrder: binary.LittleEndian}
	w.section()
	w.iface(packet.LinkEthernet, 0)
	for range 40000 {
		w.packet(0, 1, record{wire: 100, data: "01234567890123456789"})
	}
	for name, file := range map[string][]byte{"pcap": simplePcap(40000), "pcapng": w.b} {
		src, err := capture.OpenReader(bytes.NewReader(file), name)
		if err != nil {
			t.Fatal(err)
		}
		e, err := capture.ParseExpression("tcp port 80 or not tcp")
		if err != nil {
			t.Fatal(err)
		}
		e.Match(&capture.Packet{Link: packet.LinkEthernet}) // compiled once a link type
		b := capture.Batch{Packets: make([]capture.Packet, 0, 64)}
		if n := testing.AllocsPerRun(500, func() {
			if err := src.Read(&b); err != nil {
				t.Fatal(err)
			}
			for i := range b.Packets {
				e.Match(&b.Packets[i])
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a batch, want 0", name, n)
		}
	}
}

// FuzzFile: no file makes the reader panic, loop or give packets from nowhere.
func FuzzFile(f *testing.F) {
	f.Add(simplePcap(3))
	f.Add(gzipped(simplePcap(3)))
	w := &ng{AppendByteOrder: binary.BigEndian}
	w.section()
	w.iface(packet.LinkEthernet, 64, w.option(9, 0x80|30)...)
	w.packet(0, 1<<40, record{wire: 99, data: "abcde"})
	w.block(3, append(w.AppendUint32(nil, 3), "abc"...))
	w.block(2, make([]byte, 40))
	f.Add(w.b)
	dir := os.Getenv("WEIR_CORPUS")
	if dir == "" {
		dir = "../../shared/corpus"
	}
	all, _ := filepath.Glob(filepath.Join(dir, "packets", "*.pcap*"))
	if len(all) == 0 {
		f.Logf("seeds of the corpus left out: no captures in %s; set WEIR_CORPUS to its folder", dir)
	}
	for _, path := range all {
		if b, err := os.ReadFile(path); err == nil {
			f.Add(b[:min(len(b), 4096)])
		}
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		src, err := capture.OpenReader(bytes.NewReader(file), "x")
		if err != nil {
			return
		}
		compressed := bytes.HasPrefix(file, []byte{0x1f, 0x8b}) || bytes.HasPrefix(file, []byte{0x28, 0xb5})
		octets := 0
		b := capture.Batch{Packets: make([]capture.Packet, 0, 16)}
		for reads := 0; ; reads++ {
			err := src.Read(&b)
			for i := range b.Packets {
				octets += len(b.Packets[i].Data)
				var in packet.Info
				b.Packets[i].Decode(&in)
			}
			if err != nil {
				var fe *capture.FileError
				if err != io.EOF && !errors.As(err, &fe) {
					t.Fatalf("%T: %v", err, err)
				}
				break
			}
			if len(b.Packets) == 0 || reads > len(file) && !compressed {
				t.Fatal("no progress")
			}
		}
		if octets > len(file) && !compressed {
			t.Fatalf("%d octets of packets in a file of %d", octets, len(file))
		}
	})
}
