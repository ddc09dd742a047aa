package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
)

// A segment is sealed: between its last page and Parquet's footer, where a
// Parquet reader does not look, stands what weir knows of it, under checksums
// that cover the whole file. So a segment proves itself whole without a
// catalogue, and nothing of a broken one is ever believed.
//
//	PAR1 | pages | JSON | length of JSON u32 | CRC u32 | footer's CRC u32 | "WEIR" | footer | its length u32 | PAR1
//
// CRC-32C: the first one over all octets before it, the footer's over footer
// and what follows. Integers are little-endian.
const (
	sealMagic = "WEIR"
	sealSize  = 16 // after the JSON
	parMagic  = "PAR1"
)

// appendSeal appends the seal. before is the CRC of all octets before it.
func appendSeal(dst, meta []byte, before uint32, footer []byte) []byte {
	at := len(dst)
	dst = append(dst, meta...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(meta)))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Update(before, castagnoli, dst[at:]))
	end := binary.LittleEndian.AppendUint32(nil, uint32(len(footer)))
	crc := crc32.Update(crc32.Checksum(footer, castagnoli), castagnoli, append(end, parMagic...))
	dst = binary.LittleEndian.AppendUint32(dst, crc)
	return append(dst, sealMagic...)
}

// readMeta checks a segment by its seal, and reads what it says of itself; with
// the size and the checksum of the file.
func readMeta(path string, data []byte) (Segment, error) {
	var s Segment
	bad := func(why string) (Segment, error) { return Segment{}, &CorruptError{path, why} }
	u32 := binary.LittleEndian.Uint32
	n := len(data)
	if n < 2*len(parMagic)+4+sealSize || string(data[:4]) != parMagic || string(data[n-4:]) != parMagic {
		return bad("not a whole Parquet file")
	}
	footer := n - 8 - int(u32(data[n-8:]))
	if footer < len(parMagic)+sealSize || footer > n-8 {
		return bad("the footer's length is wrong")
	}
	seal := data[footer-sealSize : footer]
	if string(seal[12:]) != sealMagic {
		return bad("not a segment of weir: it has no seal")
	}
	size := int(u32(seal))
	if size > footer-sealSize-len(parMagic) {
		return bad("the seal's length is wrong")
	}
	if crc32.Checksum(data[footer:], castagnoli) != u32(seal[8:]) {
		return bad("the footer's checksum is wrong")
	}
	if crc32.Checksum(data[:footer-sealSize+4], castagnoli) != u32(seal[4:]) {
		return bad("the checksum is wrong")
	}
	d := json.NewDecoder(bytes.NewReader(data[footer-sealSize-size : footer-sealSize]))
	if err := d.Decode(&s); err != nil {
		return bad(err.Error())
	}
	s.Size, s.CRC = int64(n), crc32.Checksum(data, castagnoli)
	return s, nil
}
