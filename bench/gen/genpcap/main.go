// genpcap writes a deterministic pcap file and, beside it, FILE.truth.json
// with the exact totals a flow meter must reproduce.
//
//	genpcap -o mix.pcap   -n 20000000 -flows 1000000 -span 300
//	genpcap -o flood.pcap -n 20000000 -mode synflood -span 60
//
// -flows counts unidirectional 5-tuples; mode mix gives two to a connection.
// "bytes" in the truth file is the sum of IP lengths (layer 3), "l2bytes" of
// the frames on the wire.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math"
	"os"
	"slices"

	"weir/bench/gen/internal/rng"
)

var be = binary.BigEndian

type conn struct {
	cli, srv     [16]byte // v4 in the first 4 bytes
	cport, sport uint16
	proto        uint8 // 6, 17, 1 (58 when v6)
	v6, rst      bool
	vlan         uint16
	npkt, seen   uint32
	dirs         uint8 // which directions appeared: 1 forward, 2 back
}

type count struct{ Packets, Bytes, Flows uint64 }

type truth struct {
	Packets, Bytes, L2Bytes uint64
	Flows                   uint64 // unidirectional 5-tuples, VLAN included
	Connections             uint64
	FirstNs, LastNs         int64
	TCP, UDP, ICMP          count
	V4, V6, Vlan            count
}

func (t *truth) add(c *conn, dir uint8, l3, l2 int) {
	t.Packets++
	t.Bytes += uint64(l3)
	t.L2Bytes += uint64(l2)
	f := uint64(0)
	if c.dirs&dir == 0 {
		c.dirs |= dir
		f = 1
	}
	t.Flows += f
	one := func(k *count) { k.Packets++; k.Bytes += uint64(l3); k.Flows += f }
	switch c.proto {
	case 6:
		one(&t.TCP)
	case 17:
		one(&t.UDP)
	default:
		one(&t.ICMP)
	}
	if c.v6 {
		one(&t.V6)
	} else {
		one(&t.V4)
	}
	if c.vlan != 0 {
		one(&t.Vlan)
	}
}

func newConn(r *rng.R, i int) conn {
	c := conn{v6: r.N(100) < 20}
	if r.N(100) < 15 {
		c.vlan = uint16(100 + r.N(8))
	}
	rank := uint64(r.Zipf(200000))
	s := rng.Mix(rank | 1<<40)
	if c.v6 {
		be.PutUint64(c.cli[0:], 0x20010db800000000|uint64(r.N(4000)))
		be.PutUint64(c.cli[8:], r.U64())
		be.PutUint64(c.srv[0:], 0x2a00000000000000|s>>16)
		be.PutUint64(c.srv[8:], s)
	} else {
		be.PutUint32(c.cli[:], 0x0a000000|uint32(r.N(1<<20))) // 10.0/12
		be.PutUint32(c.srv[:], 0x10000000+uint32(s)%0xb0000000)
	}
	// The client port carries the connection number, so that no two
	// connections share a 5-tuple even when they share both hosts.
	c.cport = uint16(1024 + (i*40503)%64000)
	switch p := r.N(100); {
	case p < 70:
		c.proto = 6
		c.sport = []uint16{443, 443, 443, 443, 443, 80, 80, 22, 8080, 993}[r.N(10)]
		c.rst = r.N(10) == 0
	case p < 95:
		c.proto = 17
		c.sport = []uint16{53, 53, 53, 443, 443, 123, 4500, 3478}[r.N(8)]
	default:
		c.proto = 1
		if c.v6 {
			c.proto = 58
		}
	}
	return c
}

type writer struct {
	w    *bufio.Writer
	snap int
	nano bool
	buf  [2048]byte
}

func (w *writer) header() {
	var h [24]byte
	binary.LittleEndian.PutUint32(h[0:], 0xa1b2c3d4)
	if w.nano {
		binary.LittleEndian.PutUint32(h[0:], 0xa1b23c4d)
	}
	binary.LittleEndian.PutUint16(h[4:], 2)
	binary.LittleEndian.PutUint16(h[6:], 4)
	binary.LittleEndian.PutUint32(h[16:], uint32(w.snap))
	binary.LittleEndian.PutUint32(h[20:], 1)
	w.w.Write(h[:])
}

// frame writes one packet of l3 bytes IP length and returns its wire length.
func (w *writer) frame(ns int64, c *conn, back bool, flags uint8, l3 int, id uint16) int {
	b := w.buf[16:]
	copy(b, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02")
	src, dst, sp, dp := c.cli, c.srv, c.cport, c.sport
	if back {
		b[5], b[11] = 2, 1
		src, dst, sp, dp = dst, src, dp, sp
	}
	o := 12
	if c.vlan != 0 {
		be.PutUint16(b[o:], 0x8100)
		be.PutUint16(b[o+2:], c.vlan)
		o += 4
	}
	var sum uint32 // pseudo header
	l4off := o + 2 + 20
	if c.v6 {
		l4off = o + 2 + 40
		be.PutUint16(b[o:], 0x86dd)
		ip := b[o+2:]
		be.PutUint32(ip, 0x60000000)
		be.PutUint16(ip[4:], uint16(l3-40))
		ip[6], ip[7] = c.proto, 64
		copy(ip[8:24], src[:])
		copy(ip[24:40], dst[:])
		sum = add(0, ip[8:40]) + uint32(l3-40) + uint32(c.proto)
	} else {
		be.PutUint16(b[o:], 0x0800)
		ip := b[o+2:]
		ip[0], ip[1] = 0x45, 0
		be.PutUint16(ip[2:], uint16(l3))
		be.PutUint16(ip[4:], id)
		be.PutUint16(ip[6:], 0x4000)
		ip[8], ip[9], ip[10], ip[11] = 64, c.proto, 0, 0
		copy(ip[12:16], src[:4])
		copy(ip[16:20], dst[:4])
		be.PutUint16(ip[10:], ^fold(add(0, ip[:20])))
		sum = add(0, ip[12:20]) + uint32(l3-20) + uint32(c.proto)
	}
	l4 := b[l4off:]
	clear(l4[:20])
	switch c.proto {
	case 6:
		be.PutUint16(l4, sp)
		be.PutUint16(l4[2:], dp)
		be.PutUint32(l4[4:], c.seen*1000+1)
		be.PutUint32(l4[8:], c.seen*1000+1)
		l4[12], l4[13] = 0x50, flags
		be.PutUint16(l4[14:], 0xffff)
		be.PutUint16(l4[16:], ^fold(add(sum, l4[:20])))
	case 17:
		be.PutUint16(l4, sp)
		be.PutUint16(l4[2:], dp)
		be.PutUint16(l4[4:], uint16(l3-(l4off-o-2)))
		be.PutUint16(l4[6:], ^fold(add(sum, l4[:8])))
	default: // echo request and reply
		if l4[0] = 8; back {
			l4[0] = 0
		}
		if c.v6 {
			if l4[0] = 128; back {
				l4[0] = 129
			}
		} else {
			sum = 0
		}
		be.PutUint16(l4[4:], c.cport)
		be.PutUint16(l4[6:], uint16(c.seen))
		be.PutUint16(l4[2:], ^fold(add(sum, l4[:8])))
	}
	l2 := o + 2 + l3
	cap := min(l2, w.snap)
	if end := l4off + 20; cap > end {
		clear(b[end:cap])
	}
	h := w.buf[:16]
	sub := ns % 1e9
	if !w.nano {
		sub /= 1000
	}
	binary.LittleEndian.PutUint32(h[0:], uint32(ns/1e9))
	binary.LittleEndian.PutUint32(h[4:], uint32(sub))
	binary.LittleEndian.PutUint32(h[8:], uint32(cap))
	binary.LittleEndian.PutUint32(h[12:], uint32(l2))
	if _, err := w.w.Write(w.buf[:16+cap]); err != nil {
		log.Fatal(err)
	}
	return l2
}

func add(s uint32, b []byte) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(be.Uint16(b[i:]))
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// size is an IP length: 7:4:1 small, medium and full (IMIX).
func size(r *rng.R, c *conn) int {
	hdr := 20
	if c.v6 {
		hdr = 40
	}
	if c.proto == 1 || c.proto == 58 {
		return hdr + 64
	}
	switch n := r.N(12); {
	case n < 7:
		return hdr + 20 + r.N(12)
	case n < 11:
		return 576
	}
	return 1500
}

func main() {
	out := flag.String("o", "", "output pcap file")
	n := flag.Int("n", 20_000_000, "packets")
	flows := flag.Int("flows", 1_000_000, "unidirectional flows (mode mix)")
	span := flag.Float64("span", 300, "seconds from the first to the last packet")
	snap := flag.Int("snap", 96, "snap length")
	nano := flag.Bool("nano", false, "nanosecond pcap")
	seed := flag.Uint64("seed", 1, "seed")
	mode := flag.String("mode", "mix", "mix | synflood (every packet a new flow)")
	epoch := flag.Int64("epoch", 1750000000, "time of the first packet, Unix seconds")
	flag.Parse()
	if *out == "" || (*mode != "mix" && *mode != "synflood") {
		flag.Usage()
		os.Exit(2)
	}
	f, err := os.Create(*out)
	if err != nil {
		log.Fatal(err)
	}
	w := &writer{w: bufio.NewWriterSize(f, 1<<20), snap: *snap, nano: *nano}
	w.header()
	r := rng.R(*seed)
	t := &truth{FirstNs: math.MaxInt64}
	note := func(ns int64, c *conn, dir uint8, l3, l2 int) {
		t.add(c, dir, l3, l2)
		t.FirstNs, t.LastNs = min(t.FirstNs, ns), max(t.LastNs, ns)
	}
	if *mode == "synflood" {
		for i := range *n {
			c := conn{proto: 6, sport: uint16([]int{80, 443}[i&1]), cport: uint16(1024 + r.N(64000))}
			be.PutUint32(c.cli[:], uint32(i)*2654435761) // odd factor: all distinct
			be.PutUint32(c.srv[:], 0xc0000200|uint32(r.N(16)))
			ns := *epoch*1e9 + int64(float64(i)/float64(*n)**span*1e9)
			note(ns, &c, 1, 40, w.frame(ns, &c, false, 2, 40, uint16(i)))
		}
		t.Connections = uint64(*n)
	} else {
		mix(w, &r, *n, *flows/2, *span, *epoch*1e9, note)
		t.Connections = uint64(*flows / 2)
	}
	if err := w.w.Flush(); err != nil {
		log.Fatal(err)
	}
	if err := f.Close(); err != nil {
		log.Fatal(err)
	}
	j, _ := json.MarshalIndent(t, "", " ")
	if err := os.WriteFile(*out+".truth.json", append(j, '\n'), 0o644); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %d packets, %d bytes, %d flows\n", *out, t.Packets, t.Bytes, t.Flows)
}

// mix draws every connection and its packet count, lays all packets on the
// time line (time and connection in one sortable word), and writes them.
func mix(w *writer, r *rng.R, n, nconn int, span float64, epoch int64, note func(int64, *conn, uint8, int, int)) {
	conns := make([]conn, nconn)
	total := 0
	for i := range conns {
		conns[i] = newConn(r, i)
		k := uint32(min(2*r.Pareto(1.1), float64(n)/100+2))
		conns[i].npkt = k
		total += int(k)
	}
	// Scale to exactly n packets, at least 2 each, the rest by lot in
	// proportion to size.
	f := float64(n) / float64(total)
	got := 0
	for i := range conns {
		c := &conns[i]
		c.npkt = max(2, uint32(float64(c.npkt)*f))
		got += int(c.npkt)
	}
	for got != n {
		c := &conns[r.N(nconn)]
		if got < n {
			c.npkt++
			got++
		} else if c.npkt > 2 {
			c.npkt--
			got--
		}
	}
	const connBits = 24
	if nconn >= 1<<connBits || span*1e6 >= 1<<(64-connBits) {
		log.Fatal("genpcap: too many connections or too long a span")
	}
	at := make([]uint64, 0, n)
	for i := range conns {
		c := &conns[i]
		start := r.Float() * span * 0.98
		// Mean gap: 1 ms..1 s, no longer than fits.
		gap := math.Pow(10, -3+3*r.Float())
		gap = min(gap, (span-start)/float64(c.npkt)/2)
		ts := start
		for range c.npkt {
			at = append(at, uint64(min(ts, span)*1e6)<<connBits|uint64(i))
			ts += r.Exp(gap)
		}
	}
	slices.Sort(at)
	for k, a := range at {
		c := &conns[a&(1<<connBits-1)]
		ns := epoch + int64(a>>connBits)*1000 + int64(k%1000)
		if !w.nano {
			ns -= ns % 1000
		}
		// Requests and answers; the first is always forward, the
		// second back, so both directions of each connection exist.
		back := c.seen == 1 || c.seen > 1 && r.N(100) < 55
		flags, l3 := uint8(0x10), size(r, c)
		if c.proto == 6 {
			bare := 40
			if c.v6 {
				bare = 60
			}
			switch {
			case c.seen == 0:
				flags, l3 = 0x02, bare
			case c.seen == 1:
				flags, l3 = 0x12, bare
			case c.seen+2 >= c.npkt && c.rst:
				flags, l3 = 0x04, bare
			case c.seen+2 >= c.npkt:
				flags, l3 = 0x11, bare
				back = c.seen+2 == c.npkt
			case l3 > 100:
				flags = 0x18
			}
		}
		c.seen++
		l2 := w.frame(ns, c, back, flags, l3, uint16(k))
		dir := uint8(1)
		if back {
			dir = 2
		}
		note(ns, c, dir, l3, l2)
	}
}
