package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"

	"github.com/parquet-go/parquet-go"

	"weir/flow"
)

// readFile reads a segment's file whole and holds it against its checksum.
// want may be nil: then only the file's own structure is looked at.
func readFile(path string, want *Segment) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if want != nil {
		if int64(len(data)) != want.Size {
			return nil, &CorruptError{path, fmt.Sprintf("%d octets, the catalogue says %d", len(data), want.Size)}
		}
		if crc := crc32.Checksum(data, castagnoli); crc != want.CRC {
			return nil, &CorruptError{path, fmt.Sprintf("checksum %08x, the catalogue says %08x", crc, want.CRC)}
		}
	}
	return data, nil
}

// CorruptError says which file is broken and how one sees it.
type CorruptError struct{ Path, Why string }

func (e *CorruptError) Error() string { return e.Path + ": broken segment: " + e.Why }

// openParquet parses the footer of data, which must have been checked: a
// Parquet reader believes the lengths it reads.
func openParquet(path string, data []byte) (f *parquet.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &CorruptError{path, fmt.Sprint(p)}
		}
	}()
	f, err = parquet.OpenFile(bytes.NewReader(data), int64(len(data)), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, &CorruptError{path, err.Error()}
	}
	return f, nil
}

// readRows appends all rows of a segment to b.
func readRows(path string, data []byte, b *batch) (err error) {
	f, err := openParquet(path, data)
	if err != nil {
		return err
	}
	for _, g := range f.RowGroups() {
		if err := readGroup(path, g, b); err != nil {
			return err
		}
	}
	return nil
}

// readGroup appends the rows of one row group.
func readGroup(path string, g parquet.RowGroup, b *batch) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &CorruptError{path, fmt.Sprint(p)}
		}
	}()
	lo := b.rows()
	n := int(g.NumRows())
	if n < 0 || n > groupRows { // a lie must not cost memory
		return &CorruptError{path, fmt.Sprintf("a row group of %d rows; %d at most", n, groupRows)}
	}
	hi := lo + n
	b.resize(hi)
	clear(b.has[lo:])
	for i := lo; i < hi; i++ {
		b.ends[i] = uint32(len(b.text))
	}
	chunks := g.ColumnChunks()
	byName := make(map[string]parquet.ColumnChunk, len(chunks))
	for i, name := range g.Schema().Columns() {
		byName[name[0]] = chunks[i]
	}
	for i := range schema {
		c := &schema[i]
		chunk, ok := byName[c.name]
		if !ok { // a file of an older version of the schema
			if c.bit == 0 {
				clear(b.u8[c.at][lo:hi])
			}
			continue
		}
		if err := readChunk(c, chunk, b, lo, hi); err != nil {
			return &CorruptError{path, "column " + c.name + ": " + err.Error()}
		}
	}
	return nil
}

var errShape = errors.New("not the column's type, or not its length")

func readChunk(c *column, chunk parquet.ColumnChunk, b *batch, lo, hi int) error {
	pages := chunk.Pages()
	defer pages.Close()
	at := lo
	for {
		p, err := pages.ReadPage()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		err = readPage(c, p, b, at, hi)
		at += int(p.NumRows())
		parquet.Release(p)
		if err != nil {
			return err
		}
	}
	if at != hi {
		return errShape
	}
	return nil
}

// readPage puts the values of p at rows at and following.
func readPage(c *column, p parquet.Page, b *batch, at, hi int) error {
	n := int(p.NumRows())
	if at+n > hi {
		return errShape
	}
	levels := p.DefinitionLevels()
	if c.bit == 0 {
		levels = nil
	} else if len(levels) != n {
		return errShape
	}
	has := b.has[at : at+n]
	for i, l := range levels {
		if l != 0 {
			has[i] |= c.bit
		}
	}
	data := p.Data()
	var index []int32
	if d := p.Dictionary(); d != nil {
		index = data.Int32()
		data = d.Page().Data()
		for _, i := range index {
			if int(i) < 0 || int(i) >= d.Len() {
				return errShape
			}
		}
	}
	switch c.kind {
	case kindAddr:
		octets, size := data.FixedLenByteArray()
		if size != 16 {
			return errShape
		}
		return spread(b.addr[c.at][at:at+n], levels, index, len(octets)/16, func(i int) flow.Addr {
			return flow.Addr(octets[16*i:])
		})
	case kindTime:
		values := data.Int64()
		return spread(b.time[c.at][at:at+n], levels, index, len(values), func(i int) int64 { return values[i] })
	case kindU64:
		values := data.Uint64()
		return spread(b.u64[c.at][at:at+n], levels, index, len(values), func(i int) uint64 { return values[i] })
	case kindU32:
		values := data.Uint32()
		return spread(b.u32[c.at][at:at+n], levels, index, len(values), func(i int) uint32 { return values[i] })
	case kindU16:
		values := data.Uint32()
		return spread(b.u16[c.at][at:at+n], levels, index, len(values), func(i int) uint16 { return uint16(values[i]) })
	case kindU8:
		values := data.Uint32()
		return spread(b.u8[c.at][at:at+n], levels, index, len(values), func(i int) uint8 { return uint8(values[i]) })
	}
	octets, offsets := data.ByteArray()
	if len(b.text)+len(octets) > math.MaxUint32 {
		return errors.New("more than 4 GiB of elements")
	}
	k := 0
	for i := range n {
		if levels == nil || levels[i] != 0 {
			j := k
			if index != nil {
				j = int(index[k])
			}
			if j+1 >= len(offsets) {
				return errShape
			}
			b.text = append(b.text, octets[offsets[j]:offsets[j+1]]...)
			k++
		}
		b.ends[at+i] = uint32(len(b.text))
	}
	for i := at + n; i < hi; i++ {
		b.ends[i] = uint32(len(b.text))
	}
	return nil
}

// spread sets the known ones of to, in order, from the values of a page.
func spread[T any](to []T, levels []byte, index []int32, have int, value func(int) T) error {
	k := 0
	if index != nil {
		have = len(index)
	}
	for i := range to {
		if levels != nil && levels[i] == 0 {
			continue
		}
		if k >= have {
			return errShape
		}
		if index != nil {
			to[i] = value(int(index[k]))
		} else {
			to[i] = value(k)
		}
		k++
	}
	return nil
}
