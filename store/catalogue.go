package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The catalogue says which files make the store. It is one text file:
//
//	weir catalogue 1
//	{"id":7,"file":"flows/…","rows":…}     one line a live segment, oldest first
//	{"retired":"flows/…","since":…}        one line a replaced file that still waits to be unlinked
//	end NEXT LINES CRC                      next segment id, lines above, CRC-32C (hex) of the octets above
//
// It is replaced whole, by rename: a reader sees the store before a change or
// after it, never between.
const (
	catalogueFile    = "catalogue"
	catalogueVersion = 1
	flowsDir         = "flows"
	quarantineDir    = "quarantine"
	lockFile         = "lock"
)

type catalogue struct {
	segments []Segment // by ID
	retired  []retired
	next     uint64 // the next segment's ID

	lines map[uint64][]byte // the segments' lines, by ID, made once
}

// retired is a file that was replaced at Since (Unix µs).
type retired struct {
	File  string `json:"retired"`
	Since int64  `json:"since"`
	Size  int64  `json:"size,omitempty"`
}

func newCatalogue() *catalogue {
	return &catalogue{next: 1, lines: map[uint64][]byte{}}
}

// clone is a catalogue to change; segments' lines are shared.
func (c *catalogue) clone() *catalogue {
	return &catalogue{slices.Clone(c.segments), slices.Clone(c.retired), c.next, c.lines}
}

func (c *catalogue) add(s Segment) {
	s.Replaces = nil
	at, _ := slices.BinarySearchFunc(c.segments, s.ID, func(s Segment, id uint64) int {
		return cmpUint(s.ID, id)
	})
	c.segments = slices.Insert(c.segments, at, s)
	c.next = max(c.next, s.ID+1)
}

// drop takes segments out; it says whether all were there.
func (c *catalogue) drop(ids []uint64) bool {
	before := len(c.segments)
	c.segments = slices.DeleteFunc(c.segments, func(s Segment) bool { return slices.Contains(ids, s.ID) })
	return before-len(c.segments) == len(ids)
}

func cmpUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (c *catalogue) encode() ([]byte, error) {
	b := fmt.Appendf(nil, "weir catalogue %d\n", catalogueVersion)
	lines := make(map[uint64][]byte, len(c.segments))
	for i := range c.segments {
		s := &c.segments[i]
		line := c.lines[s.ID]
		if line == nil {
			var err error
			if line, err = json.Marshal(s); err != nil {
				return nil, err
			}
			line = append(line, '\n')
		}
		lines[s.ID] = line
		b = append(b, line...)
	}
	for _, r := range c.retired {
		line, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		b = append(append(b, line...), '\n')
	}
	c.lines = lines
	sum := crc32.Checksum(b, castagnoli)
	return fmt.Appendf(b, "end %d %d %08x\n", c.next, len(c.segments)+len(c.retired), sum), nil
}

// decodeCatalogue parses data; path is for the errors.
func decodeCatalogue(path string, data []byte) (*catalogue, error) {
	bad := func(line int, format string, a ...any) error {
		return fmt.Errorf("%s:%d: broken catalogue: %s", path, line, fmt.Sprintf(format, a...))
	}
	lines := strings.SplitAfter(string(data), "\n")
	if n := len(lines); n < 3 || lines[n-1] != "" {
		return nil, bad(len(lines), "cut short")
	}
	lines = lines[:len(lines)-1]
	var version int
	if _, err := fmt.Sscanf(lines[0], "weir catalogue %d\n", &version); err != nil {
		return nil, bad(1, "it must begin with \"weir catalogue %d\"", catalogueVersion)
	}
	if version != catalogueVersion {
		return nil, bad(1, "version %d; this program knows %d", version, catalogueVersion)
	}
	last := lines[len(lines)-1]
	var n int
	var sum string
	c := newCatalogue()
	if _, err := fmt.Sscanf(last, "end %d %d %s\n", &c.next, &n, &sum); err != nil {
		return nil, bad(len(lines), "the last line must be \"end NEXT LINES CRC\"")
	}
	want, err := strconv.ParseUint(sum, 16, 32)
	if body := data[:len(data)-len(last)]; err != nil || uint32(want) != crc32.Checksum(body, castagnoli) {
		return nil, bad(len(lines), "checksum %08x, it says %s", crc32.Checksum(body, castagnoli), sum)
	}
	if n != len(lines)-2 {
		return nil, bad(len(lines), "%d lines, it says %d", len(lines)-2, n)
	}
	for i, line := range lines[1 : len(lines)-1] {
		if bytes.HasPrefix([]byte(line), []byte(`{"retired"`)) {
			var r retired
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				return nil, bad(i+2, "%v", err)
			}
			if !localFile(r.File) {
				return nil, bad(i+2, "file %q lies outside the store", r.File)
			}
			c.retired = append(c.retired, r)
			continue
		}
		var s Segment
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			return nil, bad(i+2, "%v", err)
		}
		if !localFile(s.File) {
			return nil, bad(i+2, "file %q lies outside the store", s.File)
		}
		if k := len(c.segments); k > 0 && c.segments[k-1].ID >= s.ID || s.ID >= c.next {
			return nil, bad(i+2, "segment %d is out of order", s.ID)
		}
		c.segments = append(c.segments, s)
		c.lines[s.ID] = []byte(line)
	}
	return c, nil
}

// localFile says whether name is a plain file of the flows folder.
func localFile(name string) bool {
	dir, base := filepath.Split(name)
	return dir == flowsDir+"/" && base != "" && base != "." && base != ".."
}

// loadCatalogue reads the catalogue of dir. Without one the error is
// fs.ErrNotExist.
func loadCatalogue(dir string) (*catalogue, error) {
	path := filepath.Join(dir, catalogueFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return decodeCatalogue(path, data)
}

// rebuildCatalogue makes a catalogue from what the segments say of themselves.
// Files that cannot be read are listed in broken.
func rebuildCatalogue(dir string) (c *catalogue, broken []error, err error) {
	names, err := segmentFiles(dir)
	if err != nil {
		return nil, nil, err
	}
	c = newCatalogue()
	replaced := map[uint64]bool{}
	for _, name := range names {
		path := filepath.Join(dir, name)
		data, err := readFile(path, nil)
		if err != nil {
			broken = append(broken, err)
			continue
		}
		s, err := readMeta(path, data)
		if err != nil {
			broken = append(broken, err)
			continue
		}
		s.File = name
		for _, id := range s.Replaces {
			replaced[id] = true
		}
		if slices.ContainsFunc(c.segments, func(o Segment) bool { return o.ID == s.ID }) {
			broken = append(broken, &CorruptError{path, fmt.Sprintf("a second segment %d", s.ID)})
			continue
		}
		c.add(s)
	}
	c.segments = slices.DeleteFunc(c.segments, func(s Segment) bool { return replaced[s.ID] })
	return c, broken, nil
}

// segmentFiles lists the finished files of the flows folder.
func segmentFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, flowsDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".parquet") {
			names = append(names, flowsDir+"/"+e.Name())
		}
	}
	return names, nil
}
