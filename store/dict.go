package store

import (
	"encoding/binary"
	"math/bits"

	"weir/flow"
)

// A dictionary numbers the distinct values of one column chunk in the order of
// their first appearance. Its memory is used again for the next chunk.

const (
	dictSample = 4096    // after so many values the share of distinct ones decides whether to go on
	dictLimit  = 1 << 17 // distinct values at most
)

// word is a column value that fits a machine word.
type word interface {
	~uint8 | ~uint16 | ~uint32 | ~uint64 | ~int64
}

// slots is an open-addressed hash table from a value to its number + 1. It
// starts small, so that columns of few values stay in the first-level cache.
type slots struct {
	at    []int32
	shift uint8 // 64 - log2(len(at))
}

func (s *slots) start() {
	if s.at == nil {
		s.at = make([]int32, 0, 1<<18)
	}
	s.at = s.at[:1<<10]
	s.shift = 64 - 10
	clear(s.at)
}

// grow makes the table four times as large, and empty.
func (s *slots) grow() {
	n := len(s.at) * 4
	s.at = sized(s.at, n)
	s.shift = uint8(64 - bits.TrailingZeros(uint(n)))
	clear(s.at)
}

const golden = 0x9e3779b97f4a7c15

func hashWord(v uint64) uint64 { return (v ^ v>>32) * golden }

func hashAddr(a *flow.Addr) uint64 {
	hi, lo := binary.LittleEndian.Uint64(a[:8]), binary.LittleEndian.Uint64(a[8:])
	h, l := bits.Mul64(lo^golden, hi^0xd6e8feb86659fd93)
	return (h ^ l) * golden
}

// wordDict numbers machine words.
type wordDict struct {
	slots
	values []uint64
}

func (d *wordDict) reset() { d.values = d.values[:0]; d.start() }

func (d *wordDict) number(v uint64) int32 {
	for h := hashWord(v) >> d.shift; ; h = (h + 1) & uint64(len(d.at)-1) {
		n := d.at[h]
		if n == 0 {
			break
		}
		if d.values[n-1] == v {
			return n - 1
		}
	}
	return d.insert(v)
}

func (d *wordDict) insert(v uint64) int32 {
	if len(d.values)*2 >= len(d.at) {
		d.grow()
		for i, old := range d.values {
			d.put(hashWord(old), i)
		}
	}
	d.values = append(d.values, v)
	d.put(hashWord(v), len(d.values)-1)
	return int32(len(d.values) - 1)
}

func (s *slots) put(hash uint64, number int) {
	h := hash >> s.shift
	for s.at[h] != 0 {
		h = (h + 1) & uint64(len(s.at)-1)
	}
	s.at[h] = int32(number) + 1
}

// addrDict numbers addresses.
type addrDict struct {
	slots
	values []flow.Addr
}

func (d *addrDict) reset() { d.values = d.values[:0]; d.start() }

func (d *addrDict) number(v *flow.Addr) int32 {
	for h := hashAddr(v) >> d.shift; ; h = (h + 1) & uint64(len(d.at)-1) {
		n := d.at[h]
		if n == 0 {
			break
		}
		if d.values[n-1] == *v {
			return n - 1
		}
	}
	if len(d.values)*2 >= len(d.at) {
		d.grow()
		for i := range d.values {
			d.put(hashAddr(&d.values[i]), i)
		}
	}
	d.values = append(d.values, *v)
	d.put(hashAddr(v), len(d.values)-1)
	return int32(len(d.values) - 1)
}

// worthwhile says whether a dictionary of so many distinct values among n is
// likely to save anything.
func worthwhile(distinct, n int) bool {
	return distinct <= dictLimit && distinct*4 <= n*3
}
