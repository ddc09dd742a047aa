package acl

import (
	"encoding/binary"
	"math/bits"

	"weir/flow"
	"weir/packet"
)

// Result is what a list says of a packet.
type Result struct {
	Rule    int // its number in Bank.Rules; -1: the packet is not of the list's family, and the list says nothing
	ID      uint16
	Action  Action
	Reject  bool
	Log     Log
	Depends bool // another packet of the flow may get another verdict, if Bank.Class is another
}

// ListOf is the list that judges a port's packets, or -1, and whether it only
// counts.
func (b *Bank) ListOf(port uint16, d Direction, f Family) (list int, countOnly bool) {
	if port >= MaxPorts {
		return -1, false
	}
	slot := bindingSlot(port, d, f)
	v := uint32(b.Words[bindings+slot/2] >> (32 * (slot & 1)))
	return int(v&bindList) - 1, v&bindCount != 0
}

// Class is a number that is the same for packets of one flow that get the same
// verdict from every list: below ClassMany, which is the number where there are
// too many. It need not be asked where Result.Depends is false.
func (b *Bank) Class(in *packet.Info) uint8 {
	head := b.Words[headClasses]
	switch uint32(head) {
	case classesNone:
		return 0
	case classesMany:
		return ClassMany
	}
	octet := func(at uint64, v uint8) uint8 { return uint8(b.Words[at+uint64(v/8)] >> (v % 8 * 8)) }
	length := b.find(uint32(b.Words[headLengths]), min(in.Length, 0xffff))
	return octet(head>>32, in.TCPFlags) + octet(head>>32+32, in.TTL) + uint8(length&refValue)
}

// Classify says what a list says of a packet. It allocates nothing.
func (b *Bank) Classify(list int, in *packet.Info) Result {
	at := b.Words[headLists]>>32 + listWords*uint64(list)
	d := b.Words[at:][:listWords]
	shape := d[listShape]
	family := IPv4
	if in.Key.VLAN&flow.KeyIPv6 != 0 {
		family = IPv6
	}
	if Family(shape&0xff) != family {
		return Result{Rule: -1, Action: Permit}
	}
	fields, key, shift := int(shape>>8&0xff), int(shape>>16&0xff), shape>>24&0xff
	var refs [maxFields]uint32
	for i := range fields {
		refs[i] = b.field(d[listFields+i], in)
	}
	sums := d[listCounts] & 0xffffffff
	rows, rules := d[listRows]&0xffffffff, d[listRows]>>32
	depends := false
	for s := range sums {
		row := b.Words[rows+s<<shift:][:1<<shift]
		full := ^uint64(0)
		for i := range key {
			full &= row[i] | b.summary(refs[i], s)
		}
		outside := full & row[fields]
		for i := key; i < fields; i++ {
			full &= row[i] | b.summary(refs[i], s)
		}
		for {
			visit := full
			if !depends {
				visit |= outside
			}
			if visit == 0 {
				break
			}
			w := uint64(bits.TrailingZeros64(visit))
			full &^= 1 << w
			outside &^= 1 << w
			w += s * 64
			row := b.Words[rows+(sums+w)<<shift:][:1<<shift]
			match := ^uint64(0)
			for i := range key {
				match &= row[i] | b.word(refs[i], w)
			}
			open := match & row[fields]
			for i := key; i < fields; i++ {
				match &= row[i] | b.word(refs[i], w)
			}
			if match == 0 {
				depends = depends || open != 0
				continue
			}
			bit := uint64(bits.TrailingZeros64(match))
			depends = depends || open<<(63-bit) != 0
			return result(b.Words[rules+w*64+bit], depends)
		}
	}
	return result(d[listLast], depends)
}

func result(rule uint64, depends bool) Result {
	r := Result{Rule: int(rule >> ruleShift), ID: uint16(rule), Reject: rule&ruleReject != 0, Depends: depends}
	if rule&rulePermit != 0 {
		r.Action = Permit
	}
	if rule&ruleLog != 0 {
		r.Log = LogFlow
	}
	if rule&ruleLogInput != 0 {
		r.Log = LogInput
	}
	return r
}

// field looks up what a packet has in a field, of which w is the descriptor.
func (b *Bank) field(w uint64, in *packet.Info) uint32 {
	k := &in.Key
	ref, kind, arg := uint32(w), w>>32&0xff, int(w>>40&0xff)
	later := k.VLAN&flow.KeyFragment != 0
	entry := func(i uint32) uint32 { return uint32(b.Words[ref+i/2] >> (32 * (i & 1))) }
	switch kind {
	case kindSrc:
		return b.addr(ref, &k.Src, arg)
	case kindDst:
		return b.addr(ref, &k.Dst, arg)
	case kindProto:
		i := uint32(k.Proto)
		if later {
			i += 256
		}
		return entry(i)
	case kindSport, kindDport, kindFlags:
		switch {
		case later:
			return refAll
		case kind == kindSport:
			return b.find(ref, uint32(k.SrcPort))
		case kind == kindDport:
			return b.find(ref, uint32(k.DstPort))
		}
		return entry(uint32(in.TCPFlags))
	case kindSize:
		return b.find(ref, min(in.Length, 0xffff))
	}
	switch {
	case arg == offTOS:
		return entry(uint32(k.TOS))
	case arg == offTTL:
		return entry(uint32(in.TTL))
	case arg < offDst:
		return entry(uint32(k.Src[arg]))
	}
	return entry(uint32(k.Dst[arg-offDst]))
}

// addr finds an address, from one of its words on.
func (b *Bank) addr(ref uint32, a *flow.Addr, word int) uint32 {
	for {
		ref = b.find(ref, binary.BigEndian.Uint32(a[4*word&12:]))
		if ref&refKind < refNode3 {
			return ref
		}
		ref &^= refNext
		word++
	}
}

// find follows a tree to what is no tree, or one of the next word.
func (b *Bank) find(ref, x uint32) uint32 {
	v := uint64(x)
	for {
		at := uint64(ref&refValue) * 4
		switch ref & (refKind | refNext) {
		case refNode3:
			n := b.Words[at:][:4]
			c := 3 - (v-n[0]&0xffffffff)>>63 - (v-n[0]>>32)>>63 - (v-n[1]&0xffffffff)>>63
			ref = uint32(n[(3+c)/2] >> ((3 + c) & 1 * 32))
		case refNode7:
			n := b.Words[at:][:8]
			c := 7 - (v-n[0]&0xffffffff)>>63 - (v-n[0]>>32)>>63 - (v-n[1]&0xffffffff)>>63 - (v-n[1]>>32)>>63 -
				(v-n[2]&0xffffffff)>>63 - (v-n[2]>>32)>>63 - (v-n[3]&0xffffffff)>>63
			ref = uint32(n[(7+c)/2] >> ((7 + c) & 1 * 32))
		case refTable:
			head := b.Words[at]
			part := uint64(0)
			if first := head & 0xffffffff; v > first {
				part = min((v-first)>>(head>>56), head>>32&0xffffff)
			}
			ref = uint32(b.Words[at+1+part/2] >> (part & 1 * 32))
		default:
			return ref
		}
	}
}

// summary is a row of the summary of a reference's vector.
func (b *Bank) summary(ref uint32, s uint64) uint64 {
	v := uint64(ref & refValue)
	switch ref & refKind {
	case refBit:
		if v>>12 == s {
			return 1 << (v >> 6 & 63)
		}
	case refVector:
		return b.Words[v+2*s]
	case refAll:
		return ^uint64(0)
	}
	return 0
}

// word is a word of a reference's vector.
func (b *Bank) word(ref uint32, w uint64) uint64 {
	v := uint64(ref & refValue)
	switch ref & refKind {
	case refBit:
		if v>>6 == w {
			return 1 << (v & 63)
		}
	case refVector:
		sum := b.Words[v+w/64*2]
		if bit := uint64(1) << (w & 63); sum&bit != 0 {
			return b.Words[b.Words[v+w/64*2+1]+uint64(bits.OnesCount64(sum&(bit-1)))]
		}
	case refAll:
		return ^uint64(0)
	}
	return 0
}
