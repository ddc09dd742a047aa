package collect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"weir/capture"
	"weir/flow"
	"weir/wire"
)

// DecodeOptions are the options of Decode; Sink may be nil.
type DecodeOptions struct {
	// Ports carry exports, TCP or UDP; empty: wire.Ports, and wherever the
	// content looks like it.
	Ports []uint16

	Sink       flow.Sink
	OnTemplate func(wire.TemplateEvent)
	OnOptions  func(wire.OptionsRecord)
	// OnMessage is called after each message, with the number of the packet in
	// the capture that completed it, from 1 (message files: the message's).
	OnMessage func(frame int, src wire.Source, m wire.Message, err error)
	OnRecord  func(wire.RawRecord)

	V8DestinationMaskFirst bool
	SplitBiflows           bool // see wire.Options
}

// Summary tells what Decode read.
type Summary struct {
	Datagrams uint64                    `json:"datagrams"` // TCP: messages
	Bytes     uint64                    `json:"bytes"`
	Versions  map[string]VersionSummary `json:"versions"` // "5", "9", "10", …
	Records   uint64                    `json:"records"`
	Lost      map[string]LostSummary    `json:"lost"` // by reason, zeros included
	Sequence  SequenceSummary           `json:"sequence"`
	Ignored   map[string]uint64         `json:"ignored"` // packets that carry no export, by reason
}

// VersionSummary is a Summary's part for one version.
type VersionSummary struct {
	Messages  uint64 `json:"messages"`
	Sets      uint64 `json:"sets"`
	Templates uint64 `json:"templates"`
	Options   uint64 `json:"options"`
	Records   uint64 `json:"records"`
}

// LostSummary is what one reason took: as flow.Loss.
type LostSummary struct {
	Datagrams uint64 `json:"datagrams"`
	Records   uint64 `json:"records"`
	Packets   uint64 `json:"packets"`
	Bytes     uint64 `json:"bytes"`
}

// SequenceSummary sums up what sequence numbers say. Records are of v5 to v8
// and IPFIX, datagrams of v9.
type SequenceSummary struct {
	Gaps          uint64 `json:"gaps"`
	LostRecords   uint64 `json:"lost_records"`
	LostDatagrams uint64 `json:"lost_datagrams"`
	Reordered     uint64 `json:"reordered"`
	Duplicates    uint64 `json:"duplicates"`
	Restarts      uint64 `json:"restarts"`
}

// decodeBatch is how many records go to the sink at once.
const decodeBatch = 4096

// Decode reads captures (pcap, pcapng) of export traffic, or files of raw
// messages, in order, with one decoder for all of them: a template in one file
// serves the next. Data that comes before its template is decoded when the
// template comes. An error tells of a file that could not be read to its end,
// or of the sink; the Summary tells what was read until then.
func Decode(ctx context.Context, files []string, opt DecodeOptions) (*Summary, error) {
	f := &fileDecoder{
		opt: opt,
		dec: wire.NewDecoder(wire.Options{
			Limits:                 wire.Limits{WaitingTime: -1},
			V8DestinationMaskFirst: opt.V8DestinationMaskFirst,
			SplitBiflows:           opt.SplitBiflows,
			OnRecord:               opt.OnRecord,
		}),
		x:   newExtractor(opt.Ports),
		sum: &Summary{Versions: map[string]VersionSummary{}},
	}
	f.x.take = f.take
	var err error
	for _, name := range files {
		if err = f.file(ctx, name); err != nil {
			break
		}
	}
	if flushErr := f.flush(); err == nil {
		err = flushErr
	}
	f.finish()
	return f.sum, err
}

// fileDecoder is the state of Decode.
type fileDecoder struct {
	opt   DecodeOptions
	dec   *wire.Decoder
	x     *extractor
	batch wire.Batch
	sum   *Summary
	frame int
	err   error // of the sink
}

func (f *fileDecoder) file(ctx context.Context, name string) error {
	src, err := capture.Open(name)
	if errors.Is(err, capture.ErrNotCapture) && name != "-" {
		return f.messages(ctx, name, err)
	}
	if err != nil {
		return err
	}
	defer src.Close()
	b := capture.Batch{Packets: make([]capture.Packet, 0, 256)}
	f.frame = 0
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		b.Packets = b.Packets[:0]
		err := src.Read(&b)
		for i := range b.Packets {
			f.frame++
			f.x.packet(&b.Packets[i])
		}
		switch {
		case f.err != nil:
			return f.err
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// messages reads a file of raw messages, back to back: an IPFIX file (RFC 5655),
// or datagrams of any version. notCapture is said if it holds none.
func (f *fileDecoder) messages(ctx context.Context, name string, notCapture error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	stat, err := file.Stat()
	if err != nil {
		return err
	}
	// A file is reliable, so that templates may be withdrawn in it.
	src := wire.Source{Reliable: true}
	f.frame = 0
	m := messageFile{r: file, b: make([]byte, 0, messageMemory)}
	for f.err == nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := m.next()
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		case len(b) == 0:
			return nil
		}
		n := wire.Next(b)
		if n == 0 {
			if m.off == 0 {
				return fmt.Errorf("%w, nor a file of NetFlow or IPFIX messages", notCapture)
			}
			return fmt.Errorf("%s: octet %d: no NetFlow or IPFIX message begins here, after %d messages", name, m.off, f.frame)
		}
		f.frame++
		f.take(src, 0, stat.ModTime().UnixNano(), b[:n])
		m.skip(n)
	}
	return f.err
}

// messageFile is read so that a whole message lies in memory wherever it begins:
// none is longer than 65535 octets, and of v9 the next one's header tells the end.
type messageFile struct {
	r    io.Reader
	b    []byte // what is in memory
	from int    // where in it the next message begins
	off  int    // and where in the file
	end  bool
}

const (
	messageMemory = 1 << 20
	messageLeast  = 2 * 65536
)

// next gives what is in memory from the next message on, no octets at the end of
// the file.
func (m *messageFile) next() ([]byte, error) {
	if left := m.b[m.from:]; len(left) >= messageLeast || m.end {
		return left, nil
	}
	n := copy(m.b[:cap(m.b)], m.b[m.from:])
	more, err := io.ReadFull(m.r, m.b[n:cap(m.b)])
	m.b, m.from = m.b[:n+more], 0
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		m.end, err = true, nil
	}
	return m.b, err
}

func (m *messageFile) skip(n int) { m.from, m.off = m.from+n, m.off+n }

func (f *fileDecoder) take(src wire.Source, _ uint16, time int64, msg []byte) {
	if f.err != nil {
		return
	}
	m, err := f.dec.Decode(&f.batch, src, time, msg)
	f.sum.Datagrams++
	f.sum.Bytes += uint64(len(msg))
	if m.Version != 0 {
		k := strconv.Itoa(int(m.Version))
		v := f.sum.Versions[k]
		v.Messages++
		v.Sets += uint64(m.Sets)
		v.Templates += uint64(m.Templates)
		v.Options += uint64(m.Options)
		v.Records += uint64(m.Records + m.Released + m.Reversed)
		f.sum.Versions[k] = v
		f.sum.Records += uint64(m.Records + m.Released + m.Reversed)
	}
	if f.opt.OnTemplate != nil {
		for _, t := range f.batch.Templates {
			f.opt.OnTemplate(t)
		}
	}
	if f.opt.OnOptions != nil {
		for _, o := range f.batch.Options {
			f.opt.OnOptions(o)
		}
	}
	f.batch.Templates, f.batch.Options = f.batch.Templates[:0], f.batch.Options[:0]
	if len(f.batch.Records) >= decodeBatch || f.opt.OnMessage != nil {
		f.err = f.flush()
	}
	if f.opt.OnMessage != nil {
		f.opt.OnMessage(f.frame, src, m, err)
	}
}

// flush hands the records on.
func (f *fileDecoder) flush() error {
	var err error
	if f.opt.Sink != nil && len(f.batch.Records) > 0 && f.err == nil {
		err = f.opt.Sink.WriteRecords(f.batch.Records)
	}
	f.batch.Reset()
	return err
}

func (f *fileDecoder) finish() {
	f.dec.Finish()
	f.x.finish()
	f.sum.Ignored = f.x.ignored
	f.sum.Lost = map[string]LostSummary{}
	lost := f.dec.Lost()
	for _, l := range lost.Losses() {
		f.sum.Lost[l.Reason] = LostSummary{Datagrams: l.Datagrams, Records: l.Records, Packets: l.Packets, Bytes: l.Bytes}
	}
	records, datagrams := f.dec.Sequences()
	f.sum.Sequence = SequenceSummary{
		Gaps: records.Gaps + datagrams.Gaps, LostRecords: records.Lost, LostDatagrams: datagrams.Lost,
		Reordered: records.Reordered + datagrams.Reordered, Duplicates: records.Duplicates + datagrams.Duplicates,
		Restarts: records.Restarts + datagrams.Restarts,
	}
}
