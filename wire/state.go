package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"slices"

	"weir/flow"
	"weir/ie"
)

// The state of decoders as one file, so that a collector that starts again
// knows the templates, sampling rates, names and sequence numbers it knew, and
// still holds the data that waits for its template. All integers are
// big-endian; n is a count of 4 octets before a list, blob is 4 octets of
// length and so many octets:
//
//	magic 8 ("weirTPL" 2), length 8 of what follows save the checksum
//	n sessions:
//	  address 16, port 2, domain 4, version 1
//	  first 8, last 8 (Unix ns), exporter's start 8 (Unix ms)
//	  sequence: started 1, next 4, vague 1, exported 4, uptime 4
//	  n types of elements: enterprise 4, number 2, type 1, semantics 1, units 2, blob name
//	  n templates: options 1, seen 8, blob as sent
//	  n samplers: id 4, interface 4, rate 4, named 1
//	  n interfaces: ifIndex 4, blob name, blob description
//	  n waiting sets: template 2, exported 8, uptime 4, up 1, received 8, blob
//	CRC-32C 4 of all before
//
// Version 1 had no types; it is read too. A reader refuses what does not fit; it never trusts a count further than the
// octets that are there.

var stateMagic = [8]byte{'w', 'e', 'i', 'r', 'T', 'P', 'L', stateVersion}

const stateVersion = 2

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrState is what LoadState wraps when a state is not to be used.
var ErrState = errors.New("not a usable decoder state")

// AppendState writes the state of some decoders. TCP sessions end with their
// connection and are not in it.
func AppendState(dst []byte, decoders ...*Decoder) []byte {
	start := len(dst)
	dst = append(dst, stateMagic[:]...)
	dst = append(dst, make([]byte, 8)...)
	head := len(dst)
	dst = be.AppendUint32(dst, 0)
	n := 0
	for _, d := range decoders {
		for _, s := range slices.Backward(slices.Collect(d.each)) { // the latest last, as they are added
			if !s.key.reliable {
				dst = s.appendState(dst)
				n++
			}
		}
	}
	be.PutUint32(dst[head:], uint32(n))
	be.PutUint64(dst[start+8:], uint64(len(dst)-head))
	return be.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

func (s *session) appendState(b []byte) []byte {
	b = append(b, s.key.addr[:]...)
	b = be.AppendUint16(b, s.port)
	b = be.AppendUint32(b, s.key.domain)
	b = append(b, s.key.version)
	b = be.AppendUint64(b, uint64(s.first))
	b = be.AppendUint64(b, uint64(s.last))
	b = be.AppendUint64(b, uint64(s.init))
	b = appendBool(b, s.seq.started)
	b = be.AppendUint32(b, s.seq.next)
	b = appendBool(b, s.seq.vague)
	b = be.AppendUint32(b, s.seq.exported)
	b = be.AppendUint32(b, s.seq.uptime)
	b = be.AppendUint32(b, uint32(len(s.types)))
	for _, k := range slices.SortedFunc(maps.Keys(s.types), typeKey.compare) {
		e := s.types[k]
		b = be.AppendUint32(b, k.pen)
		b = be.AppendUint16(b, k.id)
		b = append(b, byte(e.Type), byte(e.Semantics))
		b = be.AppendUint16(b, ie.UnitsNumber(e.Units))
		b = appendBlob(b, []byte(e.Name))
	}
	b = be.AppendUint32(b, uint32(len(s.templates)))
	for _, id := range slices.Sorted(maps.Keys(s.templates)) {
		t := s.templates[id]
		b = appendBool(b, t.opts)
		b = be.AppendUint64(b, uint64(t.seen))
		b = appendBlob(b, t.raw)
	}
	b = be.AppendUint32(b, uint32(len(s.samplers)))
	for _, o := range s.samplers {
		b = be.AppendUint32(b, o.id)
		b = be.AppendUint32(b, o.ifx)
		b = be.AppendUint32(b, o.rate)
		b = appendBool(b, o.named)
	}
	b = be.AppendUint32(b, uint32(len(s.interfaces)))
	for _, ifx := range slices.Sorted(maps.Keys(s.interfaces)) {
		n := s.interfaces[ifx]
		b = be.AppendUint32(b, ifx)
		b = appendBlob(b, []byte(n.name))
		b = appendBlob(b, []byte(n.description))
	}
	b = be.AppendUint32(b, uint32(len(s.waiting)))
	for _, w := range s.waiting {
		b = be.AppendUint16(b, w.id)
		b = be.AppendUint64(b, uint64(w.clock.exported))
		b = be.AppendUint32(b, w.clock.uptime)
		b = appendBool(b, w.clock.up)
		b = be.AppendUint64(b, uint64(w.received))
		b = appendBlob(b, w.body)
	}
	return b
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendBlob(b, v []byte) []byte {
	return append(be.AppendUint32(b, uint32(len(v))), v...)
}

// blob reads a length and so many octets.
func (r *reader) blob() []byte { return r.take(int(min(uint64(r.u32()), math.MaxInt32))) }

// LoadState gives each session of a state to the decoder that pick chooses for
// its address. If it errs, no decoder was changed.
func LoadState(state []byte, pick func(flow.Addr) *Decoder) error {
	if len(state) < len(stateMagic)+8+4+4 {
		return fmt.Errorf("%w: %d octets are too few", ErrState, len(state))
	}
	version := state[7]
	if [7]byte(state) != [7]byte(stateMagic[:]) || version < 1 || version > stateVersion {
		return fmt.Errorf("%w: it does not begin as versions 1 and 2 do", ErrState)
	}
	if n := binary.BigEndian.Uint64(state[8:]); n != uint64(len(state)-20) {
		return fmt.Errorf("%w: it should hold %d octets and holds %d", ErrState, n, len(state)-20)
	}
	body, sum := state[:len(state)-4], be.Uint32(state[len(state)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return fmt.Errorf("%w: the checksum is wrong", ErrState)
	}
	r := &reader{b: body, off: 16}
	var all []*session
	for range r.u32() {
		s, err := readSession(r, version)
		if err != nil {
			return fmt.Errorf("%w: session %d, octet %d: %w", ErrState, len(all), r.off, err)
		}
		all = append(all, s)
	}
	if r.bad || r.left() != 0 {
		return fmt.Errorf("%w: octet %d: more or less than it counts", ErrState, r.off)
	}
	for _, s := range all {
		pick(s.key.addr).restore(s)
	}
	return nil
}

// readSession reads one session. Its templates are not compiled yet: raw and
// opts are all they have.
func readSession(r *reader, version uint8) (*session, error) {
	s := &session{templates: map[uint16]*known{}}
	copy(s.key.addr[:], r.take(16))
	s.port, s.key.domain, s.key.version = r.u16(), r.u32(), r.u8()
	s.first, s.last, s.init = int64(r.u64()), int64(r.u64()), int64(r.u64())
	s.seq.started, s.seq.next, s.seq.vague = r.u8() == 1, r.u32(), r.u8() == 1
	s.seq.exported, s.seq.uptime = r.u32(), r.u32()
	if version >= 2 {
		s.types = readTypes(r)
	}
	for n := r.u32(); n > 0 && !r.bad; n-- {
		t := &Template{opts: r.u8() == 1, v9: s.key.version == flow.VersionV9}
		seen := int64(r.u64())
		if t.raw = slices.Clone(r.blob()); len(t.raw) >= 2 {
			t.ID = be.Uint16(t.raw)
		}
		s.templates[t.ID] = &known{Template: t, seen: seen}
	}
	for n := r.u32(); n > 0 && !r.bad; n-- {
		o := sampler{id: r.u32(), ifx: r.u32(), rate: r.u32(), named: r.u8() == 1}
		if _, ok := rate(uint64(o.rate)); ok {
			s.samplers = append(s.samplers, o)
		}
	}
	for n := r.u32(); n > 0 && !r.bad; n-- {
		if s.interfaces == nil {
			s.interfaces = map[uint32]name{}
		}
		ifx := r.u32()
		s.interfaces[ifx] = name{string(r.blob()), string(r.blob())}
	}
	for n := r.u32(); n > 0 && !r.bad; n-- {
		w := waiting{id: r.u16()}
		w.clock.exported, w.clock.uptime, w.clock.up = int64(r.u64()), r.u32(), r.u8() == 1
		w.received = int64(r.u64())
		w.body = slices.Clone(r.blob())
		s.waiting = append(s.waiting, w)
	}
	if r.bad {
		return nil, ErrShort
	}
	switch s.key.version {
	case 1, 5, 6, 7, 8, 9, 10:
		return s, nil
	}
	return nil, ErrVersion
}

func readTypes(r *reader) map[typeKey]ie.Element {
	var types map[typeKey]ie.Element
	for n := r.u32(); n > 0 && !r.bad; n-- {
		e := ie.Element{PEN: r.u32(), ID: r.u16(), Type: ie.Type(r.u8()), Semantics: ie.Semantics(r.u8())}
		e.Units, e.Name = ie.UnitsName(r.u16()), string(r.blob())
		if types == nil {
			types = map[typeKey]ie.Element{}
		}
		types[typeKey{e.PEN, e.ID}] = e
	}
	return types
}

// restore takes a session in, under the limits that hold now. Templates come
// in as they did from the exporter.
func (d *Decoder) restore(from *session) {
	if d.count >= d.opt.Limits.Sessions {
		return
	}
	s := d.find(from.key, from.port)
	switch {
	case s == nil:
		s = d.add(from.key, from.port)
	case s.last > from.last:
		return // an older copy
	}
	s.first, s.last, s.init, s.seq = from.first, from.last, from.init, from.seq
	for _, o := range from.samplers {
		d.wide = d.wide || s.key.domain == 0
		s.learnSampler(o, d.opt.Limits.Samplers)
	}
	if len(from.interfaces) <= d.opt.Limits.Interfaces {
		s.interfaces = from.interfaces
	}
	d.ctx = context{src: Source{Addr: s.key.addr, Port: s.port}, version: s.key.version}
	var b Batch
	d.msg = message{b: &b, s: s}
	for _, k := range slices.SortedFunc(maps.Keys(from.types), typeKey.compare) {
		d.learnType(typeInfo{Element: from.types[k], hasPEN: true, hasID: true, hasType: true}, 0, 0)
	}
	for _, t := range from.templates {
		d.msg = message{b: &b, s: s}
		d.ctx.received = t.seen
		d.templateSet(t.raw, 0, t.opts)
	}
	for _, w := range from.waiting {
		d.msg = message{b: &b, s: s}
		d.ctx.clock, d.ctx.received = w.clock, w.received
		if s.templates[w.id] == nil {
			d.wait(w.id, w.body)
		}
	}
	d.msg = message{}
}

func (d *Decoder) find(k sessionKey, port uint16) *session {
	for s := d.sessions[k]; s != nil; s = s.sibling {
		if s.port == port {
			return s
		}
	}
	return nil
}
