package differential

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"
)

var be = binary.BigEndian

// dice are what a seed decides. Two runs of a seed are the same.
type dice struct{ *rand.Rand }

func newDice(seed uint64) dice { return dice{rand.New(rand.NewPCG(seed, 0x77656972))} }

// one in n.
func (d dice) one(n int) bool { return d.IntN(n) == 0 }

// between a and b, both included.
func (d dice) between(a, b int) int { return a + d.IntN(b-a+1) }

func (d dice) octets(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(d.Uint32())
	}
	return b
}

func pick[T any](d dice, of ...T) T { return of[d.IntN(len(of))] }

// Big-endian numbers, appended.
func u16(b []byte, v ...int) []byte {
	for _, x := range v {
		b = be.AppendUint16(b, uint16(x))
	}
	return b
}

func u32(b []byte, v ...uint32) []byte {
	for _, x := range v {
		b = be.AppendUint32(b, x)
	}
	return b
}

func join(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// sortedKeys are a map's keys in an order that does not depend on the run.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
