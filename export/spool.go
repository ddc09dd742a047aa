package export

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// spool is a folder in which messages wait, first in, first out. It belongs to
// one destination of one process at a time.
//
// The folder holds segments, NNNNNNNNNNNNNNNN.spool in hexadecimal, read in the
// order of their numbers, and position, two such numbers: the segment that is
// being read, and the octet in it. A segment is "weirSPL" and the form's number,
// 1, then entries:
//
//	0   length of the body, 4 octets, big-endian, as all
//	4   CRC-32C of the body, 4 octets
//	8   the body: a kind, then
//	    T  index (2), template id (2), set (2), the template record
//	    M  records, data records on the wire, packets, octets of the flows (8 each),
//	       data records (4), options records (4), newest time in it (8),
//	       how many templates it needs (2), their indexes (2 each), the message
//
// A T stands before the first M of its segment that needs it. What follows a torn
// or broken entry of a segment is lost, and counted.
type spool struct {
	dir  string
	max  int64
	lock *os.File

	segments []*segment // by number; the first is read, the last is written
	octets   int64
	messages int
	sum      sum

	w     *os.File
	index map[*definition]uint16

	r    *bufio.Reader
	rf   *os.File
	at   int64 // octet in the first segment, up to which it was read
	defs map[uint16]*definition

	buf []byte
}

// segment is one file, and what it still has to give.
type segment struct {
	number   uint64
	octets   int64
	messages int
	sum      sum
}

const (
	spoolMagic    = "weirSPL\x01"
	segmentOctets = 16 << 20
	firstSegment  = uint64(1) << 32 // room below for what is put in front at the end
	maxEntry      = 1 << 17
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errSpoolFull = errors.New("the spool is full")

// openSpool opens, or makes, the folder; what is in it is given first.
func openSpool(dir string, most int64) (s *spool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	s = &spool{dir: dir, max: most, index: map[*definition]uint16{}, defs: map[uint16]*definition{}}
	if s.lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		s.lock.Close()
		return nil, fmt.Errorf("spool %s: another weir has it", dir)
	}
	if err := s.load(); err != nil {
		s.lock.Close()
		return nil, fmt.Errorf("spool %s: %w", dir, err)
	}
	return s, nil
}

func (s *spool) path(n uint64) string { return filepath.Join(s.dir, fmt.Sprintf("%016x.spool", n)) }

// load finds what a former process left.
func (s *spool) load() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".spool")
		if n, err := strconv.ParseUint(name, 16, 64); ok && err == nil {
			s.segments = append(s.segments, &segment{number: n})
		}
	}
	slices.SortFunc(s.segments, func(a, b *segment) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	from, at := s.position()
	for len(s.segments) > 0 && s.segments[0].number < from {
		if err := os.Remove(s.path(s.segments[0].number)); err != nil {
			return err
		}
		s.segments = s.segments[1:]
	}
	for _, g := range s.segments {
		start := int64(0)
		if g.number == from {
			start = at
		}
		if err := s.scan(g, start); err != nil {
			return err
		}
		s.octets += g.octets
		s.messages += g.messages
		s.sum.add(g.sum)
	}
	if len(s.segments) > 0 && s.segments[0].number == from && at > 0 {
		return s.startReading(at)
	}
	return nil
}

// position is where reading goes on.
func (s *spool) position() (segment uint64, at int64) {
	b, err := os.ReadFile(filepath.Join(s.dir, "position"))
	if err != nil {
		return 0, 0
	}
	if _, err := fmt.Sscanf(string(b), "%x %x", &segment, &at); err != nil || at < 0 {
		return 0, 0
	}
	return segment, at
}

func (s *spool) savePosition() error {
	n := firstSegment
	if len(s.segments) > 0 {
		n = s.segments[0].number
	}
	tmp := filepath.Join(s.dir, "position.new")
	if err := os.WriteFile(tmp, fmt.Appendf(nil, "%016x %016x\n", n, s.at), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(s.dir, "position"))
}

// scan counts what a segment holds from an octet on.
func (s *spool) scan(g *segment, from int64) error {
	f, err := os.Open(s.path(g.number))
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		g.octets = info.Size()
	}
	r := bufio.NewReader(f)
	if magic := make([]byte, len(spoolMagic)); !readAll(r, magic) || string(magic) != spoolMagic {
		return nil
	}
	for at := int64(len(spoolMagic)); ; {
		body, err := s.entry(r)
		if err != nil {
			return nil // counted as it is read
		}
		if m, _, ok := parseMessage(body); ok && at >= from {
			g.messages++
			g.sum.add(m)
		}
		at += 8 + int64(len(body))
	}
}

func readAll(r io.Reader, b []byte) bool {
	_, err := io.ReadFull(r, b)
	return err == nil
}

// entry reads one, into buf.
func (s *spool) entry(r io.Reader) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := be.Uint32(head[:])
	if n == 0 || n > maxEntry {
		return nil, errors.New("an entry's length makes no sense")
	}
	s.buf = slices.Grow(s.buf[:0], int(n))[:n]
	if _, err := io.ReadFull(r, s.buf); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	if crc32.Checksum(s.buf, castagnoli) != be.Uint32(head[4:]) {
		return nil, errors.New("an entry's checksum is wrong")
	}
	return s.buf, nil
}

const messageHead = 1 + 4*8 + 4 + 4 + 8 + 2

// parseMessage reads a body's head.
func parseMessage(b []byte) (m sum, uses int, ok bool) {
	if len(b) < messageHead || b[0] != 'M' {
		return m, 0, false
	}
	uses = int(be.Uint16(b[messageHead-2:]))
	if len(b) < messageHead+2*uses || !isIPFIX(b[messageHead+2*uses:]) {
		return m, 0, false
	}
	return sum{be.Uint64(b[1:]), be.Uint64(b[9:]), be.Uint64(b[17:]), be.Uint64(b[25:])}, uses, true
}

// add puts a message at the end.
func (s *spool) add(g *datagram) error {
	if s.octets+int64(len(g.b))+messageHead+64 > s.max {
		return errSpoolFull
	}
	if s.w == nil || s.segments[len(s.segments)-1].octets >= segmentOctets {
		if err := s.begin(); err != nil {
			return err
		}
	}
	return s.put(g)
}

// begin opens another segment, behind all.
func (s *spool) begin() error {
	n := firstSegment
	if len(s.segments) > 0 {
		n = s.segments[len(s.segments)-1].number + 1
	} else if from, _ := s.position(); from >= n {
		n = from + 1
	}
	return s.create(n, len(s.segments))
}

// create makes segment n the i-th, and the one that is written.
func (s *spool) create(n uint64, i int) error {
	s.endWriting()
	f, err := os.OpenFile(s.path(n), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(spoolMagic); err != nil {
		f.Close()
		os.Remove(s.path(n))
		return err
	}
	s.w = f
	clear(s.index)
	s.segments = slices.Insert(s.segments, i, &segment{number: n, octets: int64(len(spoolMagic))})
	s.octets += int64(len(spoolMagic))
	return nil
}

func (s *spool) endWriting() {
	if s.w != nil {
		s.w.Close()
		s.w = nil
	}
}

// put writes g, and the templates that the segment has not, to the segment that
// is written.
func (s *spool) put(g *datagram) error {
	i := slices.IndexFunc(s.segments, func(x *segment) bool { return s.w != nil && s.path(x.number) == s.w.Name() })
	seg := s.segments[i]
	out := s.buf[:0]
	entry := func(body func([]byte) []byte) {
		at := len(out)
		out = body(append(out, 0, 0, 0, 0, 0, 0, 0, 0))
		be.PutUint32(out[at:], uint32(len(out)-at-8))
		be.PutUint32(out[at+4:], crc32.Checksum(out[at+8:], castagnoli))
	}
	var fresh []*definition
	for _, d := range g.uses {
		if _, ok := s.index[d]; ok {
			continue
		}
		n := uint16(len(s.index))
		s.index[d] = n
		fresh = append(fresh, d)
		entry(func(b []byte) []byte {
			b = append(b, 'T')
			b = binary.BigEndian.AppendUint16(b, n)
			b = binary.BigEndian.AppendUint16(b, d.id)
			b = binary.BigEndian.AppendUint16(b, d.set)
			return append(b, d.rec...)
		})
	}
	entry(func(b []byte) []byte {
		b = append(b, 'M')
		for _, v := range []uint64{g.sum.records, g.sum.wire, g.sum.packets, g.sum.octets} {
			b = be.AppendUint64(b, v)
		}
		b = be.AppendUint32(b, uint32(g.data))
		b = be.AppendUint32(b, uint32(g.options))
		b = be.AppendUint64(b, uint64(g.last))
		b = be.AppendUint16(b, uint16(len(g.uses)))
		for _, d := range g.uses {
			b = be.AppendUint16(b, s.index[d])
		}
		return append(b, g.b...)
	})
	s.buf = out
	if n, err := s.w.Write(out); err != nil {
		// As if it had not been: what was written of it is cut off.
		if n > 0 {
			if cut := s.w.Truncate(seg.octets); cut == nil {
				s.w.Seek(seg.octets, io.SeekStart)
			} else {
				s.endWriting() // the segment ends here, torn
			}
		}
		for _, d := range fresh {
			delete(s.index, d)
		}
		return err
	}
	seg.octets += int64(len(out))
	seg.messages++
	seg.sum.add(g.sum)
	s.octets += int64(len(out))
	s.messages++
	s.sum.add(g.sum)
	return nil
}

// startReading opens the first segment, and reads up to an octet for the sake of
// templates.
func (s *spool) startReading(at int64) error {
	f, err := os.Open(s.path(s.segments[0].number))
	if err != nil {
		return err
	}
	s.rf, s.r, s.at = f, bufio.NewReader(f), int64(len(spoolMagic))
	clear(s.defs)
	magic := make([]byte, len(spoolMagic))
	if !readAll(s.r, magic) || string(magic) != spoolMagic {
		return errors.New("not a segment of a spool")
	}
	for s.at < at {
		body, err := s.entry(s.r)
		if err != nil {
			return nil // found again, and counted, by take
		}
		s.at += 8 + int64(len(body))
		s.learn(body)
	}
	return nil
}

func (s *spool) learn(body []byte) {
	if len(body) > 7 && body[0] == 'T' {
		s.defs[be.Uint16(body[1:])] = &definition{be.Uint16(body[3:]), be.Uint16(body[5:]), slices.Clone(body[7:])}
	}
}

// take reads the next message into g; false: there is none. broken is what could
// not be read and is lost.
func (s *spool) take(g *datagram) (ok bool, broken datagramLoss) {
	for s.messages > 0 {
		if s.r == nil {
			if err := s.startReading(0); err != nil {
				broken.add(s.dropFirst())
				continue
			}
		}
		body, err := s.entry(s.r)
		if err != nil {
			broken.add(s.dropFirst()) // its end: nothing more is in it
			continue
		}
		s.at += 8 + int64(len(body))
		s.learn(body)
		m, uses, isMessage := parseMessage(body)
		if !isMessage {
			continue
		}
		seg := s.segments[0]
		seg.messages--
		seg.sum.sub(m)
		s.messages--
		s.sum.sub(m)
		g.uses = g.uses[:0]
		whole := true
		for i := range uses {
			d := s.defs[be.Uint16(body[messageHead+2*i:])]
			whole = whole && d != nil
			g.uses = append(g.uses, d)
		}
		if !whole {
			broken.add(datagramLoss{1, m})
			continue
		}
		g.sum = m
		g.data, g.options = int(be.Uint32(body[33:])), int(be.Uint32(body[37:]))
		g.last = int64(be.Uint64(body[41:]))
		g.b = append(g.b[:0], body[messageHead+2*uses:]...)
		if s.messages == 0 {
			s.reset()
		}
		return true, broken
	}
	return false, broken
}

// datagramLoss is messages and what was in them.
type datagramLoss struct {
	messages int
	sum      sum
}

func (l *datagramLoss) add(o datagramLoss) {
	l.messages += o.messages
	l.sum.add(o.sum)
}

// dropFirst removes the segment that was read; what it had still to give is lost.
func (s *spool) dropFirst() datagramLoss {
	seg := s.segments[0]
	if len(s.segments) == 1 {
		s.endWriting()
	}
	if s.rf != nil {
		s.rf.Close()
	}
	s.r, s.rf, s.at = nil, nil, 0
	os.Remove(s.path(seg.number))
	s.segments = s.segments[1:]
	s.octets -= seg.octets
	s.messages -= seg.messages
	s.sum.sub(seg.sum)
	return datagramLoss{seg.messages, seg.sum}
}

// reset removes the segments of an empty spool.
func (s *spool) reset() {
	for len(s.segments) > 0 {
		s.dropFirst()
	}
}

// close puts messages that were taken, or never came here, in front, and leaves
// all for the next process. What does not fit comes back.
func (s *spool) close(front []*datagram) (left []*datagram, err error) {
	defer s.lock.Close()
	defer s.endWriting()
	if s.rf != nil {
		s.rf.Close()
		s.rf = nil
	}
	left = front
	if len(front) > 0 {
		// What of the first segment was read already stays behind the new one, and
		// must not be read twice: it is cut down to the rest.
		if err := s.cutFirst(); err != nil {
			return left, err
		}
		n := firstSegment
		if len(s.segments) > 0 {
			n = s.segments[0].number - 1
		} else if from, _ := s.position(); from >= n {
			n = from + 1
		}
		if err := s.create(n, 0); err != nil {
			return left, err
		}
		for len(left) > 0 {
			if s.octets+int64(len(left[0].b))+messageHead+64 > s.max+segmentOctets {
				err = errSpoolFull
				break
			}
			if err = s.put(left[0]); err != nil {
				break
			}
			left = left[1:]
		}
		if serr := s.w.Sync(); err == nil {
			err = serr
		}
		s.at = 0
	}
	return left, errors.Join(err, s.savePosition())
}

// cutFirst writes the first segment anew without what was read of it, its
// templates first.
func (s *spool) cutFirst() error {
	if s.at == 0 || len(s.segments) == 0 {
		return nil
	}
	s.endWriting()
	seg := s.segments[0]
	from, err := os.Open(s.path(seg.number))
	if err != nil {
		return err
	}
	defer from.Close()
	tmp := s.path(seg.number) + ".new"
	to, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer to.Close()
	w := bufio.NewWriter(to)
	w.WriteString(spoolMagic)
	for index, d := range s.defs {
		body := be.AppendUint16([]byte{'T'}, index)
		body = be.AppendUint16(body, d.id)
		body = be.AppendUint16(body, d.set)
		body = append(body, d.rec...)
		w.Write(be.AppendUint32(be.AppendUint32(nil, uint32(len(body))), crc32.Checksum(body, castagnoli)))
		w.Write(body)
	}
	if _, err := from.Seek(s.at, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(w, from); err != nil {
		return err
	}
	if err := errors.Join(w.Flush(), to.Sync(), os.Rename(tmp, s.path(seg.number))); err != nil {
		return err
	}
	s.octets -= seg.octets
	if info, err := to.Stat(); err == nil {
		seg.octets = info.Size()
	}
	s.octets += seg.octets
	s.at = 0
	return nil
}
