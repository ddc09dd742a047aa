package differential

import (
	"slices"

	"weir/ie"
)

// field is one field of a template.
type field struct {
	id     uint16
	length int // 65535: variable
	pen    uint32
}

type template struct {
	id     uint16
	fields []field
	scope  int // > 0: options
}

const variable = 65535

// exporter sends messages of one version from one port, for one domain.
type exporter struct {
	dice
	version   int
	domain    uint32
	source    uint32
	port      int
	six       bool // over IPv6
	boot      uint32
	seq       uint32
	templates []template // announced
}

func (d dice) exporter(n int, version int) *exporter {
	return &exporter{
		dice: d, version: version, domain: pick(d, uint32(0), 1, d.Uint32()), source: 0xc0000201 + uint32(n/2), port: 30000 + n,
		six: d.one(5), boot: 1_700_000_000, seq: uint32(n) << 24,
	}
}

// columnIDs are the elements that the tables of records have.
var columnIDs = []uint16{8, 12, 27, 28, 15, 62, 7, 11, 4, 6, 5, 2, 1, 86, 85, 10, 14, 16, 17, 9, 13, 29, 30}

// times of flows, start and end.
var timeIDs = [][2]uint16{{22, 21}, {150, 151}, {152, 153}, {154, 155}, {156, 157}, {158, 159}}

// otherIDs are all others that IANA has, but for those that tell of other
// fields (the exporter's start) and those that tshark looks into: lists, pieces
// of packets.
var otherIDs = func() (ids []uint16) {
	for e := range ie.All {
		if e.PEN == 0 && e.ID != 0 && !slices.Contains(columnIDs, e.ID) && !e.Type.List() && (e.ID < 150 || e.ID > 163) && e.ID != 21 && e.ID != 22 && (e.ID < 313 || e.ID > 317) && e.ID != 104 {
			ids = append(ids, e.ID)
		}
	}
	return ids
}()

// reduced elements are integers whose length may be less than their type's
// (RFC 7011 section 6.2).
func (x *exporter) length(id uint16) int {
	e, _ := ie.Lookup(0, id)
	n := e.Type.Len()
	switch {
	case n == 0: // octets, text
		if x.version == 10 && x.one(2) {
			return variable
		}
		return x.between(1, 40)
	case e.Type.Integer() && n > 1 && n <= 8 && x.one(3):
		return x.between(1, n)
	}
	return n
}

// random makes a template of 1 to 30 fields in any order, no column twice.
func (x *exporter) random(id uint16) template {
	t := template{id: id}
	add := func(id uint16) { t.fields = append(t.fields, field{id: id, length: x.length(id)}) }
	for _, c := range columnIDs {
		if x.one(2) {
			add(c)
		}
	}
	if x.one(4) { // what a classical template has, in its order
		t.fields = t.fields[:0]
		for _, c := range []uint16{8, 12, 15, 10, 14, 2, 1, 7, 11, 6, 4, 5, 16, 17, 9, 13} {
			e, _ := ie.Lookup(0, c)
			t.fields = append(t.fields, field{id: c, length: e.Type.Len()})
			if slices.Contains([]uint16{10, 14, 2, 1, 16, 17}, c) && x.one(2) {
				t.fields[len(t.fields)-1].length = pick(x.dice, 2, 4)
			}
		}
	}
	family := pick(x.dice, timeIDs...)
	if x.one(2) {
		for _, id := range family {
			e, _ := ie.Lookup(0, id)
			t.fields = append(t.fields, field{id: id, length: e.Type.Len()})
		}
	}
	for range x.IntN(6) {
		add(pick(x.dice, otherIDs...))
	}
	if x.version == 10 {
		for range x.IntN(3) {
			switch x.IntN(3) {
			case 0:
				t.fields = append(t.fields, field{id: uint16(x.IntN(32768)), length: pick(x.dice, x.between(1, 20), variable), pen: pick(x.dice, uint32(9), 2636, 35632, 6871, x.Uint32()>>8)})
			case 1: // the other direction (RFC 5103)
				t.fields = append(t.fields, field{id: pick(x.dice, uint16(1), 2), length: x.between(1, 8), pen: 29305})
			case 2:
				t.fields = append(t.fields, field{id: 291, length: variable})
			}
		}
	}
	if len(t.fields) == 0 || x.one(3) {
		add(4)
		t.fields = slices.CompactFunc(t.fields, func(a, b field) bool { return a.id == b.id && a.id == 4 })
	}
	if x.one(2) {
		x.Shuffle(len(t.fields), func(i, j int) { t.fields[i], t.fields[j] = t.fields[j], t.fields[i] })
	}
	seen := map[field]bool{}
	t.fields = slices.DeleteFunc(t.fields, func(f field) bool {
		k := field{id: f.id, pen: f.pen}
		was := seen[k]
		seen[k] = true
		return was
	})
	return t
}

// options is an options template.
func (x *exporter) options(id uint16) template {
	t := template{id: id, scope: x.between(1, 2)}
	for range t.scope {
		f := field{id: pick(x.dice, uint16(149), 10, 144, 143), length: 4}
		if x.version == 9 {
			f.id = uint16(x.between(1, 5))
		}
		t.fields = append(t.fields, f)
	}
	for range x.between(1, 5) {
		id := pick(x.dice, otherIDs...)
		t.fields = append(t.fields, field{id: id, length: x.length(id)})
	}
	return t
}

// set puts a header and padding around a body.
func (x *exporter) set(id int, body []byte, pad int) []byte {
	return join(u16(nil, id, 4+len(body)+pad), body, make([]byte, pad))
}

func (x *exporter) padding(least int) int {
	if x.one(2) || least <= 1 {
		return 0
	}
	return x.IntN(min(least, 4))
}

// templateSet announces templates of one kind.
func (x *exporter) templateSet(ts ...template) []byte {
	var b []byte
	for _, t := range ts {
		switch {
		case t.scope == 0:
			b = u16(b, int(t.id), len(t.fields))
		case x.version == 9:
			b = u16(b, int(t.id), 4*t.scope, 4*(len(t.fields)-t.scope))
		default:
			b = u16(b, int(t.id), len(t.fields), t.scope)
		}
		for _, f := range t.fields {
			if f.pen != 0 {
				b = u32(u16(b, int(f.id)|0x8000, f.length), f.pen)
			} else {
				b = u16(b, int(f.id), f.length)
			}
		}
	}
	id := 0
	if x.version == 10 {
		id = 2
	}
	if ts[0].scope > 0 {
		id++
	}
	pad := 0
	if len(b)%4 != 0 {
		pad = 4 - len(b)%4
	}
	return x.set(id, b, pad)
}

// uptime and time of a message.
func (x *exporter) now() (seconds, uptime uint32) {
	uptime = 3_600_000 + x.seq&0xffff*1000
	return x.boot + uptime/1000, uptime
}

// record is one data record.
func (x *exporter) record(t template) []byte {
	var b []byte
	seconds, uptime := x.now()
	start := uint64(seconds)*1000 - x.Uint64N(60_000)
	end := start + x.Uint64N(10_000)
	at := map[uint16]uint64{22: start, 21: end}
	for _, f := range timeIDs {
		at[f[0]], at[f[1]] = start, end
	}
	for _, f := range t.fields {
		n := f.length
		if n == variable {
			n = pick(x.dice, 0, 1, 5, 254, 255, 300)
			if f.id == 291 && f.pen == 0 {
				count := x.IntN(5)
				n = 5 + count
				v := u16([]byte{byte(n), 3}, 4, 1) // all of, protocols
				b = append(append(b, v...), x.octets(count)...)
				continue
			}
			if n < 255 && !x.one(4) {
				b = append(b, byte(n))
			} else {
				b = u16(append(b, 255), n)
			}
		}
		ms, isTime := at[f.id]
		switch {
		case isTime && f.pen == 0:
			switch f.id {
			case 21, 22:
				b = u32(b, uptime-(seconds*1000-uint32(ms)))
			case 150, 151:
				b = u32(b, uint32(ms/1000))
			case 152, 153:
				b = be.AppendUint64(b, ms)
			case 158, 159:
				b = u32(b, uint32((uint64(seconds)*1000-ms)*1000))
			default:
				b = u32(u32(b, uint32(ms/1000+2208988800)), uint32((ms%1000<<32+999)/1000)) // rounded up: a whole millisecond again
			}
		case slices.Contains([]uint16{9, 13, 29, 30}, f.id) && f.pen == 0:
			b = append(b, byte(x.IntN(33)))
		case slices.Contains([]uint16{8, 12, 27, 28, 15, 62}, f.id) && x.one(3):
			b = append(b, make([]byte, n)...) // nothing there
		case f.id == 210 && f.pen == 0:
			b = append(b, make([]byte, n)...)
		case f.id == 4 && f.pen == 0 && n == 1:
			b = append(b, byte(pick(x.dice, 6, 17, 132, x.between(2, 57))))
		default:
			v := x.octets(n)
			if e, _ := ie.Lookup(f.pen, f.id); e.Type == ie.String { // other octets tshark prints as they are
				for i := range v {
					v[i] = 'a' + v[i]%26
				}
			}
			b = append(b, v...)
		}
	}
	return b
}

// least is how long a record is at least: padding is shorter.
func (t template) least() (n int) {
	for _, f := range t.fields {
		if f.length == variable {
			n++
		} else {
			n += f.length
		}
	}
	return n
}

// number is a template number that is not taken: when one gets a new meaning,
// tshark stays with the old.
func (x *exporter) number(from, to int) uint16 {
	for {
		id := uint16(x.between(from, to))
		if !slices.ContainsFunc(x.templates, func(t template) bool { return t.id == id }) {
			return id
		}
	}
}

// message is a v9 or IPFIX message.
func (x *exporter) message() []byte {
	var sets [][]byte
	records := 0
	data := func(t template) {
		var b []byte
		for range x.between(1, 8) {
			b = append(b, x.record(t)...)
			records++
		}
		sets = append(sets, x.set(int(t.id), b, x.padding(t.least())))
	}
	announced := 0
	if len(x.templates) == 0 && x.one(3) { // data comes first
		t := x.random(x.number(256, 900))
		data(t)
		x.templates = append(x.templates, t)
	} else if len(x.templates) > 0 && x.one(3) { // what is known, again
		t := pick(x.dice, x.templates...)
		sets = append(sets, x.templateSet(t))
		announced++
	}
	for range pick(x.dice, 0, 0, 1, 2) {
		ts := []template{x.random(x.number(256, 600))}
		if x.one(3) {
			ts = append(ts, x.random(x.number(601, 900)))
		}
		if x.one(4) { // the oracle tells them by their numbers, whoever sends them
			ts = []template{x.options(x.number(1000, 2000))}
		}
		sets = append(sets, x.templateSet(ts...))
		announced += len(ts)
		x.templates = append(x.templates, ts...)
	}
	for range x.IntN(4) {
		if len(x.templates) > 0 {
			data(pick(x.dice, x.templates...))
		}
	}
	body := join(sets...)
	if len(body) > 8000 {
		body = nil
		records, announced = 0, 0
	}
	seconds, uptime := x.now()
	if x.version == 9 {
		b := u16(nil, 9, records+announced)
		b = u32(b, uptime, seconds, x.seq, x.domain)
		x.seq++
		return append(b, body...)
	}
	b := u16(nil, 10, 16+len(body))
	b = u32(b, seconds, x.seq, x.domain)
	x.seq += uint32(records)
	return append(b, body...)
}

// legacy is a v1, v5, v7 or v8 datagram.
func (x *exporter) legacy() []byte {
	seconds, uptime := x.now()
	n := x.between(1, 24)
	b := u16(nil, x.version, n)
	b = u32(b, uptime, seconds, x.Uint32N(1000)*1_000_000)
	scheme := 0
	if x.version != 1 {
		b = u32(b, x.seq)
		switch x.version {
		case 5:
			b = append(b, byte(x.IntN(3)), byte(x.IntN(3)))
			b = u16(b, pick(x.dice, 0, 1<<14|100, x.IntN(65536)))
		case 7:
			b = u32(b, 0)
		case 8:
			scheme = pick(x.dice, 1, 2, 3, 4, 9, 10, 11, 12)
			b = append(b, 0, 0, byte(scheme), 2, 0, 0, 0, 0)
		}
		x.seq += uint32(n)
	}
	stamps := func() (first, last uint32) {
		first = uptime - x.Uint32N(60_000)
		return first, first + x.Uint32N(uptime-first+1)
	}
	for range n {
		first, last := stamps()
		if x.version == 8 {
			size := map[int]int{1: 28, 2: 28, 3: 32, 4: 32, 9: 32, 10: 32, 11: 32, 12: 32}[scheme]
			r := x.octets(size)
			be.PutUint32(r[12:], first)
			be.PutUint32(r[16:], last)
			b = append(b, r...)
			continue
		}
		r := x.octets(48)
		be.PutUint32(r[24:], first)
		be.PutUint32(r[28:], last)
		if x.version == 7 {
			r = append(r, x.octets(4)...)
			be.PutUint16(r[36:], 0) // nothing is invalid
		}
		b = append(b, r...)
	}
	return b
}

// datagram wraps a message for a capture.
func (x *exporter) datagram() frame {
	var msg []byte
	if x.version >= 9 {
		msg = x.message()
	} else {
		msg = x.legacy()
	}
	udp := append(u16(nil, x.port, 2055, 8+len(msg), 0), msg...)
	var ip []byte
	if x.six {
		ip = u16(u32(nil, 6<<28), len(udp))
		ip = append(ip, protoUDP, 64)
		ip = u32(ip, 0x20010db8, 0, 0, x.source, 0x20010db8, 0, 0, 1)
	} else {
		ip = u16([]byte{0x45, 0}, 20+len(udp), 0, 0)
		ip = append(ip, 64, protoUDP, 0, 0)
		ip = u32(ip, x.source, 0xc0000263)
	}
	b := join(ip, udp)
	return frame{octets: b, wire: len(b), link: linkRaw}
}
