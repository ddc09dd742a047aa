package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// bufferSize is what one read asks for: small enough to stay in the
	// processor's cache until it is parsed. A packet of a large file costs 9 ns
	// this way (128 KiB and 1 MiB: 10.5 ns) and 5 ns from a mapped file, which
	// kills the process when somebody truncates it: not worth it.
	bufferSize = 512 << 10
	// maxFrame bounds a frame: twice tcpdump's longest, and what Linux' longest
	// offloaded packets need. A length above it is a lie.
	maxFrame = bufferSize - 64<<10
	// batchSize is the capacity a batch gets that has none.
	batchSize = 1024
)

// Progress is offered by sources that read files.
type Progress interface {
	// Progress is how many octets of the file were read, and how many there
	// are (0: unknown, as for a pipe), both as stored. It may be called from
	// any goroutine.
	Progress() (done, total int64)
}

// Open opens the capture file at path; "-" is standard input. The first Read
// may wait for input, Open does so for its first octets.
func Open(path string) (Source, error) {
	if path == "-" {
		return openFile(os.Stdin, "standard input")
	}
	f, err := os.Open(path)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, &FileError{path, -1, err}
	}
	return openFile(f, path)
}

func openFile(f *os.File, name string) (Source, error) {
	var total int64
	if st, err := f.Stat(); err == nil {
		switch {
		case st.IsDir():
			f.Close()
			return nil, &FileError{name, -1, errors.New("is a directory; a capture file would be accepted")}
		case st.Mode().IsRegular():
			total = st.Size()
		}
	}
	s, err := open(f, name, total)
	if err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

// OpenReader reads a capture from r; name stands for it in errors. Close closes
// r if it can be closed.
func OpenReader(r io.Reader, name string) (Source, error) {
	s, err := open(r, name, 0)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// file is a capture file: a buffer over its octets, and the format that takes
// packets out of it.
type file struct {
	name   string
	raw    counter   // the file as stored
	total  int64     // its size, 0: unknown
	r      io.Reader // uncompressed
	format interface{ read(*file, *Batch) error }

	buf    []byte
	lo, hi int   // buf[lo:hi] was read and not yet given
	base   int64 // offset in the uncompressed file of buf[0]
	end    error // what ended reading: io.EOF, or an error of the reader
	failed error // what ended parsing

	closing sync.Once
}

// counter counts what is read of the file.
type counter struct {
	r io.Reader
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func open(r io.Reader, name string, total int64) (*file, error) {
	f := &file{name: name, total: total, buf: make([]byte, bufferSize)}
	f.raw.r = r
	f.r = &f.raw
	if err := f.decompress(); err != nil {
		return nil, err
	}
	if err := f.detect(); err != nil {
		return nil, err
	}
	return f, nil
}

// decompress looks at the first octets and puts a decompressor in front if they
// ask for one.
func (f *file) decompress() error {
	f.fill(4)
	head := f.buf[:f.hi]
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(f.stored())
		if err != nil {
			return f.fail(fmt.Errorf("gzip: %w", err))
		}
		f.uncompressed(z)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		// Concurrency 1 starts no goroutine, so that there is nothing to close.
		z, err := zstd.NewReader(f.stored(), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return f.fail(fmt.Errorf("zstd: %w", err))
		}
		f.uncompressed(z)
	}
	return nil
}

// stored reads the file as stored, from its start.
func (f *file) stored() io.Reader {
	return io.MultiReader(bytes.NewReader(bytes.Clone(f.buf[:f.hi])), &f.raw)
}

func (f *file) uncompressed(r io.Reader) {
	f.r = r
	f.hi, f.end = 0, nil
}

// detect reads the file's header.
func (f *file) detect() error {
	f.fill(4)
	head := f.buf[:f.hi]
	if len(head) == 0 && f.end == io.EOF {
		return f.failAt(errors.New("is empty; pcap or pcapng would be accepted"), -1)
	}
	if len(head) < 4 {
		if f.end != nil && f.end != io.EOF {
			return f.ended(0)
		}
		return f.failAt(fmt.Errorf("%w: only %d octets; pcap or pcapng would be accepted", ErrNotCapture, len(head)), -1)
	}
	if binary.LittleEndian.Uint32(head) == blockSection {
		f.format = &pcapng{}
		return nil
	}
	p, ok := pcapOf(head)
	if ok {
		f.format = p
		return p.header(f)
	}
	return f.failAt(fmt.Errorf("%w: it begins with %s; pcap or pcapng would be accepted, plain, gzip or zstd", ErrNotCapture, kindOf(head)), -1)
}

// kindOf names what people take for a capture file.
func kindOf(head []byte) string {
	for _, k := range []struct{ magic, name string }{
		{"BZh", "bzip2"},
		{"\xfd7zX", "xz"},
		{"PK\x03\x04", "a zip archive"},
		{"\x04\x22\x4d\x18", "lz4"},
		{"\x1f\x8b", "gzip within gzip"},
		{"\x28\xb5\x2f\xfd", "zstd within zstd"},
		{"snoo", "a snoop capture"},
		{"\x7fELF", "a program"},
		{"PAR1", "Parquet"},
		{"\x0c\xa5", "nfdump's format"},
		{"\xa5\x0c", "nfdump's format"},
	} {
		if bytes.HasPrefix(head, []byte(k.magic)) {
			return k.name
		}
	}
	return fmt.Sprintf("% x", head[:4])
}

// fill reads until n octets are there (n <= len(buf)) and says whether they
// are. It moves what is unread to the start of the buffer, so that frames given
// before are no longer valid.
func (f *file) fill(n int) bool {
	if f.lo > 0 {
		copy(f.buf, f.buf[f.lo:f.hi])
		f.base += int64(f.lo)
		f.hi -= f.lo
		f.lo = 0
	}
	for idle := 0; f.hi < n && f.end == nil; {
		k, err := f.r.Read(f.buf[f.hi:])
		f.hi += k
		f.end = err
		if idle++; k > 0 {
			idle = 0
		} else if idle > 100 {
			f.end = io.ErrNoProgress
		}
	}
	return f.hi >= n
}

// skip moves on by n octets, of which any number may not be read yet.
func (f *file) skip(n int64) bool {
	for n > int64(f.hi-f.lo) {
		n -= int64(f.hi - f.lo)
		f.lo = f.hi
		if !f.fill(1) {
			return false
		}
	}
	f.lo += int(n)
	return true
}

// fail ends parsing at the current place.
func (f *file) fail(err error) error { return f.failAt(err, f.base+int64(f.lo)) }

func (f *file) failAt(err error, offset int64) error {
	f.failed = &FileError{f.name, offset, err}
	return f.failed
}

// ended says why there are not n octets more: the end of the file between two
// packets is io.EOF, within one ErrTruncated.
func (f *file) ended(n int) error {
	have := f.hi - f.lo
	switch {
	case f.end == io.EOF && have == 0:
		f.failed = io.EOF
		return io.EOF
	case f.end == io.EOF:
		return f.fail(fmt.Errorf("%w: %d octets of it are there, %d are missing", ErrTruncated, have, n-have))
	case errors.Is(f.end, io.ErrUnexpectedEOF):
		return f.fail(fmt.Errorf("%w: the compressed file is cut off", ErrTruncated))
	}
	return f.fail(f.end)
}

func (f *file) Read(b *Batch) error {
	if cap(b.Packets) == 0 {
		b.Packets = make([]Packet, 0, batchSize)
	}
	b.Packets = b.Packets[:0]
	if f.failed != nil {
		return f.failed
	}
	return f.format.read(f, b)
}

func (f *file) Progress() (done, total int64) { return f.raw.n.Load(), f.total }

// Close ends a Read that waits for a pipe; the next one fails.
func (f *file) Close() error {
	var err error
	f.closing.Do(func() {
		if c, ok := f.raw.r.(io.Closer); ok {
			err = c.Close()
		}
	})
	return err
}
