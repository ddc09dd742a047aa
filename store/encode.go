package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/encoding/delta"
	"github.com/parquet-go/parquet-go/encoding/rle"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"

	"weir/flow"
)

// groupRows is the largest row group: what one thread of a query takes at a time.
const groupRows = 128 << 10

// encoder writes batches as Parquet. A column chunk is one data page, after a
// dictionary page if its values repeat; else 64-bit integers are delta-coded
// and the rest is plain. It works on whole columns of machine types, which
// costs a third of going through a generic row or value writer
// (BenchmarkEncode has both). Its memory is used again.
type encoder struct {
	zstd  *zstd.Encoder
	words wordDict
	addrs addrDict
	table []int32 // number + 1 of each 16-bit value

	index  []int32 // the chunk by dictionary number
	levels []byte
	dense  []int64 // the known values of a chunk that is not all known
	dense4 []int32
	dict   []byte // dictionary page, body
	page   []byte // data page, body
	tmp    []byte
	packed [2][]byte

	out      []byte // what goes to the file next
	protocol thrift.CompactProtocol
}

func newEncoder(level zstd.EncoderLevel) *encoder {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
	if err != nil {
		panic(err) // no option can be wrong
	}
	return &encoder{zstd: z, table: make([]int32, 1<<16)}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// write writes one segment and fills in s.Size and s.CRC; the rest of s is there
// already and goes into the file. group gives rows lo to hi, one row group, as
// rows from and following of a batch that is valid until the next call.
func (e *encoder) write(w io.Writer, s *Segment, group func(lo, hi int) (b *batch, from int)) error {
	s.Size, s.CRC = 0, 0
	meta, err := json.Marshal(s)
	if err != nil {
		return err
	}
	var at int64
	flush := func() error {
		n, err := w.Write(e.out)
		if err == nil && n < len(e.out) {
			err = io.ErrShortWrite
		}
		s.CRC = crc32.Update(s.CRC, castagnoli, e.out)
		at += int64(len(e.out))
		e.out = e.out[:0]
		return err
	}
	file := &format.FileMetaData{
		Version:      2,
		Schema:       fileSchema,
		NumRows:      int64(s.Rows),
		CreatedBy:    "weir",
		ColumnOrders: columnOrders,
		RowGroups:    thrift.Slice[format.RowGroup]{},
	}
	e.out = append(e.out[:0], "PAR1"...)
	for start := 0; start < int(s.Rows); start += groupRows {
		end := min(start+groupRows, int(s.Rows))
		b, lo := group(start, end)
		hi := lo + end - start
		g := format.RowGroup{NumRows: int64(hi - lo), FileOffset: at + int64(len(e.out)), Ordinal: int16(len(file.RowGroups))}
		all, any := ^flow.Field(0), flow.Field(0)
		for _, has := range b.has[lo:hi] {
			all &= has
			any |= has
		}
		for i := range schema {
			c, err := e.chunk(&schema[i], b, lo, hi, all, any, at)
			if err != nil {
				return fmt.Errorf("column %s: %w", schema[i].name, err)
			}
			g.TotalByteSize += c.MetaData.TotalUncompressedSize
			g.TotalCompressedSize += c.MetaData.TotalCompressedSize
			g.Columns = append(g.Columns, c)
		}
		file.RowGroups = append(file.RowGroups, g)
		if err := flush(); err != nil {
			return err
		}
	}
	footer, err := thrift.Marshal(&e.protocol, file)
	if err != nil {
		return err
	}
	if err := flush(); err != nil { // s.CRC is that of all before
		return err
	}
	e.out = appendSeal(e.out, meta, s.CRC, footer)
	e.out = append(e.out, footer...)
	e.out = binary.LittleEndian.AppendUint32(e.out, uint32(len(footer)))
	e.out = append(e.out, "PAR1"...)
	err = flush()
	s.Size = at
	return err
}

// whole is the rows of b as they are, for encoder.write.
func (b *batch) whole(lo, _ int) (*batch, int) { return b, lo }

var fileSchema, columnOrders = func() (thrift.Slice[format.SchemaElement], thrift.Slice[format.ColumnOrder]) {
	elements := thrift.Slice[format.SchemaElement]{{Name: "flows", NumChildren: thrift.New(int32(len(schema)))}}
	var orders thrift.Slice[format.ColumnOrder]
	for _, c := range schema {
		s := format.SchemaElement{Name: c.name, Type: thrift.New(c.kind.physical()), RepetitionType: thrift.New(format.Optional)}
		if c.bit == 0 {
			s.RepetitionType = thrift.New(format.Required)
		}
		unsigned := func(width int8, t deprecated.ConvertedType) {
			s.LogicalType.Value = &format.IntType{BitWidth: width}
			s.ConvertedType = thrift.New(t)
		}
		switch c.kind {
		case kindAddr:
			s.TypeLength = thrift.New(int32(16))
			s.LogicalType.Value = &format.UUIDType{}
		case kindU64:
			unsigned(64, deprecated.Uint64)
		case kindU32:
			unsigned(32, deprecated.Uint32)
		case kindU16:
			unsigned(16, deprecated.Uint16)
		case kindU8:
			unsigned(8, deprecated.Uint8)
		case kindText:
			s.LogicalType.Value = &format.StringType{}
			s.ConvertedType = thrift.New(deprecated.UTF8)
		}
		elements = append(elements, s)
		orders = append(orders, format.ColumnOrder{Value: &format.TypeDefinedOrder{}})
	}
	return elements, orders
}()

func (k kind) physical() format.Type {
	switch k {
	case kindAddr:
		return format.FixedLenByteArray
	case kindTime, kindU64:
		return format.Int64
	case kindText:
		return format.ByteArray
	}
	return format.Int32
}

// chunk appends rows lo to hi of one column to e.out. all and any are the AND
// and the OR of the rows' bits; base is the file offset of e.out.
func (e *encoder) chunk(c *column, b *batch, lo, hi int, all, any flow.Field, base int64) (format.ColumnChunk, error) {
	n := hi - lo
	known := n
	has := b.has[lo:hi]
	e.page = e.page[:0]
	switch {
	case c.bit == 0:
		has = nil
	case all&c.bit != 0:
		has = nil
		e.page = appendLevels(e.page, 1, n)
	case any&c.bit == 0:
		known = 0
		e.page = appendLevels(e.page, 0, n)
	default:
		e.levels = sized(e.levels, n)
		known = 0
		for i, h := range has {
			l := byte(0)
			if h&c.bit != 0 {
				l = 1
			}
			e.levels[i] = l
			known += int(l)
		}
		var err error
		if e.tmp, err = (&rle.Encoding{BitWidth: 1}).EncodeLevels(e.tmp, e.levels); err != nil {
			return format.ColumnChunk{}, err
		}
		e.page = binary.LittleEndian.AppendUint32(e.page, uint32(len(e.tmp)))
		e.page = append(e.page, e.tmp...)
	}

	m := format.ColumnMetaData{
		Type:         c.kind.physical(),
		PathInSchema: []string{c.name},
		Codec:        format.Zstd, // always: readers take it to be one for the column, not for the chunk
		NumValues:    int64(n),
		Statistics:   format.Statistics{NullCount: int64(n - known)},
	}
	enc := format.Plain
	distinct := 0
	if known > 0 {
		var err error
		switch c.kind {
		case kindAddr:
			enc, distinct = e.addrChunk(b.addr[c.at][lo:hi], has, c.bit, known, &m.Statistics)
		case kindTime:
			enc, distinct, err = wordChunk(e, b.time[c.at][lo:hi], has, c.bit, known, &m.Statistics, 8)
		case kindU64:
			enc, distinct, err = wordChunk(e, b.u64[c.at][lo:hi], has, c.bit, known, &m.Statistics, 8)
		case kindU32:
			enc, distinct, err = wordChunk(e, b.u32[c.at][lo:hi], has, c.bit, known, &m.Statistics, 4)
		case kindU16:
			enc, distinct, err = shortChunk(e, b.u16[c.at][lo:hi], has, c.bit, known, &m.Statistics)
		case kindU8:
			enc, distinct, err = shortChunk(e, b.u8[c.at][lo:hi], has, c.bit, known, &m.Statistics)
		case kindText:
			for i := lo; i < hi; i++ {
				if b.has[i]&c.bit != 0 {
					text := b.elements(i)
					e.page = binary.LittleEndian.AppendUint32(e.page, uint32(len(text)))
					e.page = append(e.page, text...)
				}
			}
		}
		if err != nil {
			return format.ColumnChunk{}, err
		}
	}

	var err error
	if enc == format.RLEDictionary {
		if e.tmp, err = (&rle.DictionaryEncoding{}).EncodeInt32(e.tmp, e.index); err != nil {
			return format.ColumnChunk{}, err
		}
		e.page = append(e.page, e.tmp...)
	}
	dict, page := e.dict, e.page
	if enc != format.RLEDictionary {
		dict = nil
	}
	e.packed[0] = e.zstd.EncodeAll(dict, e.packed[0][:0])
	if enc == format.Plain {
		e.packed[1] = e.zstd.EncodeAll(page, e.packed[1][:0])
	} else {
		e.packed[1] = e.pack(e.packed[1][:0], page)
	}
	start := base + int64(len(e.out))
	put := func(h *format.PageHeader, body, packed []byte) error {
		h.UncompressedPageSize, h.CompressedPageSize = int32(len(body)), int32(len(packed))
		head, err := thrift.Marshal(&e.protocol, h)
		if err != nil {
			return err
		}
		e.out = append(e.out, head...)
		e.out = append(e.out, packed...)
		m.TotalUncompressedSize += int64(len(head) + len(body))
		m.TotalCompressedSize += int64(len(head) + len(packed))
		return nil
	}
	if dict != nil {
		m.DictionaryPageOffset = start
		m.Encoding = append(m.Encoding, format.Plain)
		h := format.PageHeader{Type: format.DictionaryPage, DictionaryPageHeader: thrift.New(format.DictionaryPageHeader{
			NumValues: int32(distinct), Encoding: format.Plain,
		})}
		if err := put(&h, dict, e.packed[0]); err != nil {
			return format.ColumnChunk{}, err
		}
	}
	m.DataPageOffset = base + int64(len(e.out))
	m.Encoding = append(m.Encoding, enc, format.RLE)
	h := format.PageHeader{Type: format.DataPage, DataPageHeader: thrift.New(format.DataPageHeader{
		NumValues: int32(n), Encoding: enc, DefinitionLevelEncoding: format.RLE, RepetitionLevelEncoding: format.RLE,
	})}
	if err := put(&h, page, e.packed[1]); err != nil {
		return format.ColumnChunk{}, err
	}
	return format.ColumnChunk{FileOffset: start, MetaData: m}, nil
}

// appendLevels appends n equal definition levels: one run (Parquet's RLE
// hybrid, after its length).
func appendLevels(dst []byte, level byte, n int) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.AppendUvarint(dst, uint64(n)<<1)
	dst = append(dst, level)
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}

// wordChunk codes integers of 32 or 64 bits (size octets).
func wordChunk[T word](e *encoder, values []T, has []flow.Field, bit flow.Field, known int, s *format.Statistics, size int) (format.Encoding, int, error) {
	d := &e.words
	d.reset()
	e.index = sized(e.index, known)
	dictionary := true
	k := 0
	var prev T
	number := int32(-1)
	for i, v := range values {
		if has != nil && has[i]&bit == 0 {
			continue
		}
		if v != prev || number < 0 {
			prev, number = v, d.number(uint64(v))
		}
		e.index[k] = number
		k++
		if k == dictSample || k&0xffff == 0 {
			if !worthwhile(len(d.values), k) {
				dictionary = false
				break
			}
		}
	}
	if dictionary && k > 64 && !worthwhile(len(d.values), k) {
		dictionary = false
	}
	if dictionary {
		lo, hi := T(d.values[0]), T(d.values[0])
		e.dict = e.dict[:0]
		for _, w := range d.values {
			lo, hi = min(lo, T(w)), max(hi, T(w))
			if size == 8 {
				e.dict = binary.LittleEndian.AppendUint64(e.dict, w)
			} else {
				e.dict = binary.LittleEndian.AppendUint32(e.dict, uint32(w))
			}
		}
		minMax(s, uint64(lo), uint64(hi), size)
		return format.RLEDictionary, len(d.values), nil
	}

	first := true
	var lo, hi T
	var err error
	if size == 8 {
		e.dense = e.dense[:0]
	} else {
		e.dense4 = e.dense4[:0]
	}
	for i, v := range values {
		if has != nil && has[i]&bit == 0 {
			continue
		}
		if first {
			lo, hi, first = v, v, false
		}
		lo, hi = min(lo, v), max(hi, v)
		if size == 8 {
			e.dense = append(e.dense, int64(v))
		} else {
			e.dense4 = append(e.dense4, int32(v))
		}
	}
	minMax(s, uint64(lo), uint64(hi), size)
	if size == 8 {
		e.tmp, err = (&delta.BinaryPackedEncoding{}).EncodeInt64(e.tmp[:0], e.dense)
	} else {
		e.tmp, err = (&delta.BinaryPackedEncoding{}).EncodeInt32(e.tmp[:0], e.dense4)
	}
	e.page = append(e.page, e.tmp...)
	return format.DeltaBinaryPacked, 0, err
}

// shortChunk codes integers of 8 and 16 bits, whose dictionary is found by
// direct address.
func shortChunk[T ~uint8 | ~uint16](e *encoder, values []T, has []flow.Field, bit flow.Field, known int, s *format.Statistics) (format.Encoding, int, error) {
	d := &e.words
	d.values = d.values[:0]
	e.index = sized(e.index, known)
	k := 0
	for i, v := range values {
		if has != nil && has[i]&bit == 0 {
			continue
		}
		number := e.table[v]
		if number == 0 {
			d.values = append(d.values, uint64(v))
			number = int32(len(d.values))
			e.table[v] = number
		}
		e.index[k] = number - 1
		k++
	}
	lo, hi := d.values[0], d.values[0]
	e.dict = e.dict[:0]
	for _, w := range d.values {
		e.table[w] = 0
		lo, hi = min(lo, w), max(hi, w)
		e.dict = binary.LittleEndian.AppendUint32(e.dict, uint32(w))
	}
	minMax(s, lo, hi, 4)
	if k > 64 && len(d.values)*4 > k {
		// Too many for a dictionary: back to the values, plain, for zstd.
		for _, number := range e.index {
			e.page = binary.LittleEndian.AppendUint32(e.page, uint32(d.values[number]))
		}
		return format.Plain, 0, nil
	}
	return format.RLEDictionary, len(d.values), nil
}

// addrChunk codes addresses.
func (e *encoder) addrChunk(values []flow.Addr, has []flow.Field, bit flow.Field, known int, s *format.Statistics) (format.Encoding, int) {
	d := &e.addrs
	d.reset()
	e.index = sized(e.index, known)
	dictionary := true
	k := 0
	prev := -1
	for i := range values {
		if has != nil && has[i]&bit == 0 {
			continue
		}
		if prev >= 0 && values[i] == values[prev] {
			e.index[k] = e.index[k-1]
		} else {
			e.index[k] = d.number(&values[i])
		}
		prev = i
		k++
		if k == dictSample || k&0xffff == 0 {
			if !worthwhile(len(d.values), k) {
				dictionary = false
				break
			}
		}
	}
	if dictionary && k > 64 && !worthwhile(len(d.values), k) {
		dictionary = false
	}
	from := d.values
	to := &e.dict
	if dictionary {
		e.dict = e.dict[:0]
	} else {
		from = values
		to = &e.page
	}
	lo, hi := -1, -1
	for i := range from {
		if !dictionary && has != nil && has[i]&bit == 0 {
			continue
		}
		if lo < 0 {
			lo, hi = i, i
		} else {
			if less(&from[i], &from[lo]) {
				lo = i
			}
			if less(&from[hi], &from[i]) {
				hi = i
			}
		}
		*to = append(*to, from[i][:]...)
	}
	s.MinValue, s.MaxValue = slices.Clone(from[lo][:]), slices.Clone(from[hi][:])
	if dictionary {
		return format.RLEDictionary, len(d.values)
	}
	return format.Plain, 0
}

// less orders addresses as unsigned octet strings.
func less(a, b *flow.Addr) bool {
	ah, bh := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(b[:8])
	if ah != bh {
		return ah < bh
	}
	return binary.BigEndian.Uint64(a[8:]) < binary.BigEndian.Uint64(b[8:])
}

func minMax(s *format.Statistics, lo, hi uint64, size int) {
	s.MinValue = binary.LittleEndian.AppendUint64(nil, lo)[:size]
	s.MaxValue = binary.LittleEndian.AppendUint64(nil, hi)[:size]
}

// pack appends src, bit-packed numbers, as a zstd frame. Long ones mostly have
// no pattern: a look at a few places tells, and they are stored in raw blocks,
// which costs nothing to write or read.
func (e *encoder) pack(dst, src []byte) []byte {
	const look, places = 4 << 10, 4
	if len(src) > 2*look*places {
		at := len(dst)
		for i := range places {
			from := len(src) / places * i
			dst = e.zstd.EncodeAll(src[from:from+look], dst)
		}
		hard := len(dst)-at > look*places*19/20
		dst = dst[:at]
		if hard {
			return appendRaw(dst, src)
		}
	}
	return e.zstd.EncodeAll(src, dst)
}

// appendRaw appends src as a zstd frame of raw blocks (RFC 8878 section 3.1.1).
func appendRaw(dst, src []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, 0xFD2FB528)
	dst = append(dst, 0xA0) // four octets of content size, single segment
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(src)))
	for len(src) > 0 {
		n := min(len(src), 128<<10)
		h := uint32(n) << 3
		if n == len(src) {
			h |= 1 // the last
		}
		dst = append(dst, byte(h), byte(h>>8), byte(h>>16))
		dst = append(dst, src[:n]...)
		src = src[n:]
	}
	return dst
}
