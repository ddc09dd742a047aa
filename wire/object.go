package wire

import (
	"net/netip"
	"strconv"
)

// object builds a JSON object in a batch's arena; members that are zero, which
// in formats of fixed form means that they say nothing, are left out unless
// always is set.
type object struct {
	b      *Batch
	start  int
	always bool
}

func (o *object) begin(b *Batch) { o.b, o.start = b, len(b.arena) }

func (o *object) key(name string) {
	sep := byte(',')
	if len(o.b.arena) == o.start {
		sep = '{'
	}
	o.b.arena = append(o.b.arena, sep, '"')
	o.b.arena = append(append(o.b.arena, name...), `":`...)
}

func (o *object) uint(name string, v uint64) {
	if v != 0 || o.always {
		o.key(name)
		o.b.arena = strconv.AppendUint(o.b.arena, v, 10)
	}
}

func (o *object) addr(name string, f []byte) {
	if !zeros(f) || o.always {
		o.key(name)
		o.b.arena = appendAddr(o.b.arena, netip.AddrFrom4([4]byte(f)))
	}
}

// end gives the object; nil if it has no members.
func (o *object) end() []byte {
	if len(o.b.arena) == o.start {
		return nil
	}
	o.b.arena = append(o.b.arena, '}')
	return o.b.arena[o.start:len(o.b.arena):len(o.b.arena)]
}
