// genflow makes NetFlow v5, v9 or IPFIX datagrams and sends them over UDP,
// writes them to a pcap file, or both; at the end it prints the exact totals.
//
//	genflow -v 9 -n 5000000 -rate 500000 -to 127.0.0.1:9995
//	genflow -v 10 -n 1000000 -pcap ipfix.pcap
//
// All datagrams are built before the first is sent (-prebuild bounds how
// many; the ring is sent again, with fresh sequence numbers, until -n is
// reached), so the sender costs little more than sendmmsg.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"flag"
	"log"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"weir/bench/gen/internal/rng"
)

var be = binary.BigEndian

type totals struct {
	Version                   int
	Records, Datagrams        uint64
	Packets, Bytes            uint64
	TCP, UDP, ICMP, V6        uint64
	UDPBytes                  uint64
	Seconds                   float64
	RecordsPerSec, SendErrors uint64
}

type flow struct {
	src, dst     [16]byte
	sp, dp       uint16
	proto, flags uint8
	v6           bool
	pkts, bytes  uint64
	first, last  uint32 // ms before export time
	sas, das     uint32
	in, out      uint16
}

func draw(r *rng.R, v6pc int) (f flow) {
	f.v6 = r.N(100) < v6pc
	prefix := rng.Mix(uint64(r.Zipf(50000)) | 1<<41) // Zipf over 50000 /24s
	host := r.Zipf(65536)
	if f.v6 {
		be.PutUint64(f.src[:], 0x20010db800000000|uint64(r.Zipf(4000)))
		be.PutUint64(f.src[8:], rng.Mix(uint64(r.Zipf(100000))))
		be.PutUint64(f.dst[:], 0x2a00000000000000|prefix>>16)
		be.PutUint64(f.dst[8:], uint64(r.Zipf(256)))
	} else {
		be.PutUint32(f.src[:], 0x0a000000|uint32(host))
		be.PutUint32(f.dst[:], 0x10000000+uint32(prefix)%0xb0000000&^0xff|uint32(r.Zipf(256)))
	}
	f.sp = uint16(1024 + r.N(64000))
	switch p := r.N(100); {
	case p < 70:
		f.proto, f.flags = 6, []uint8{0x1b, 0x1b, 0x1b, 0x02, 0x14, 0x1a}[r.N(6)]
		f.dp = []uint16{443, 443, 443, 443, 80, 80, 22, 25, 8080, 993}[r.N(10)]
	case p < 95:
		f.proto = 17
		f.dp = []uint16{53, 53, 53, 443, 443, 123}[r.N(6)]
	default:
		f.proto, f.sp, f.dp = 1, 0, 0x0800
		if f.v6 {
			f.proto, f.dp = 58, 0x8000
		}
	}
	if r.N(2) == 0 && f.proto != 1 && f.proto != 58 { // answers
		f.src, f.dst, f.sp, f.dp = f.dst, f.src, f.dp, f.sp
	}
	f.pkts = uint64(min(r.Pareto(1.1), 1e6))
	f.bytes = f.pkts * uint64(40+r.N(1460))
	f.last = uint32(r.N(15000))
	f.first = f.last + uint32(min(r.Exp(5000), 60000))
	f.sas, f.das = uint32(64512+r.N(100)), uint32(1+r.Zipf(60000))
	f.in, f.out = uint16(1+r.N(16)), uint16(1+r.N(16))
	return f
}

type field struct{ id, n uint16 }

// Templates: 256 is IPv4, 257 IPv6. In order of the writer below.
func template(ipfix, v6 bool) []field {
	src, dst, nh, a := uint16(8), uint16(12), uint16(15), uint16(4)
	sm, dm := uint16(9), uint16(13)
	if v6 {
		src, dst, nh, a, sm, dm = 27, 28, 62, 16, 29, 30
	}
	fs, ls, tl := uint16(22), uint16(21), uint16(4)
	if ipfix {
		fs, ls, tl = 152, 153, 8
	}
	return []field{
		{src, a},
		{dst, a},
		{nh, a},
		{10, 4},
		{14, 4},
		{2, 8},
		{1, 8},
		{fs, tl},
		{ls, tl},
		{7, 2},
		{11, 2},
		{6, 1},
		{4, 1},
		{5, 1},
		{sm, 1},
		{dm, 1},
		{16, 4},
		{17, 4},
		{61, 1},
	}
}

const uptime = 3600_000 // ms, in v5 and v9 headers

func record(b []byte, f *flow, ipfix bool, now int64) []byte {
	a := 4
	if f.v6 {
		a = 16
	}
	b = append(b, f.src[:a]...)
	b = append(b, f.dst[:a]...)
	b = append(b, make([]byte, a)...)
	b = be.AppendUint32(b, uint32(f.in))
	b = be.AppendUint32(b, uint32(f.out))
	b = be.AppendUint64(b, f.pkts)
	b = be.AppendUint64(b, f.bytes)
	if ipfix {
		b = be.AppendUint64(b, uint64(now-int64(f.first)))
		b = be.AppendUint64(b, uint64(now-int64(f.last)))
	} else {
		b = be.AppendUint32(b, uptime-f.first)
		b = be.AppendUint32(b, uptime-f.last)
	}
	b = be.AppendUint16(b, f.sp)
	b = be.AppendUint16(b, f.dp)
	b = append(b, f.flags, f.proto, 0, 24, 24)
	b = be.AppendUint32(b, f.sas)
	b = be.AppendUint32(b, f.das)
	return append(b, 0)
}

func record5(b []byte, f *flow) []byte {
	b = append(b, f.src[:4]...)
	b = append(b, f.dst[:4]...)
	b = append(b, 0, 0, 0, 0)
	b = be.AppendUint16(b, f.in)
	b = be.AppendUint16(b, f.out)
	b = be.AppendUint32(b, uint32(f.pkts))
	b = be.AppendUint32(b, uint32(f.bytes))
	b = be.AppendUint32(b, uptime-f.first)
	b = be.AppendUint32(b, uptime-f.last)
	b = be.AppendUint16(b, f.sp)
	b = be.AppendUint16(b, f.dp)
	b = append(b, 0, f.flags, f.proto, 0)
	b = be.AppendUint16(b, uint16(f.sas))
	b = be.AppendUint16(b, uint16(f.das))
	return append(b, 24, 24, 0, 0)
}

type dgram struct {
	b       []byte
	records int // data records
	count   int // what the sequence number advances by
	t       totals
}

func header(ver int, b []byte, now int64) []byte {
	b = be.AppendUint16(b, uint16(ver))
	b = be.AppendUint16(b, 0) // count or length, set at the end
	switch ver {
	case 5:
		b = be.AppendUint32(b, uptime)
		b = be.AppendUint32(b, uint32(now/1000))
		b = be.AppendUint32(b, uint32(now%1000*1e6))
		return append(b, 0, 0, 0, 0, 0, 1, 0, 0) // sequence at 16
	case 9:
		b = be.AppendUint32(b, uptime)
		b = be.AppendUint32(b, uint32(now/1000))
		return append(b, 0, 0, 0, 0, 0, 0, 0, 1) // sequence at 12
	}
	b = be.AppendUint32(b, uint32(now/1000))
	return append(b, 0, 0, 0, 0, 0, 0, 0, 1) // sequence at 8
}

var seqAt = map[int]int{5: 16, 9: 12, 10: 8}

func build(ver int, r *rng.R, now int64, v6pc, mtu int, tmpl bool, want int) dgram {
	var d dgram
	b := header(ver, make([]byte, 0, mtu+64), now)
	sets := 0
	if tmpl && ver != 5 {
		start := len(b)
		id := uint16(0)
		if ver == 10 {
			id = 2
		}
		b = be.AppendUint16(b, id)
		b = be.AppendUint16(b, 0)
		for i, v6 := range []bool{false, true} {
			t := template(ver == 10, v6)
			b = be.AppendUint16(b, uint16(256+i))
			b = be.AppendUint16(b, uint16(len(t)))
			for _, f := range t {
				b = be.AppendUint16(b, f.id)
				b = be.AppendUint16(b, f.n)
			}
			sets++
		}
		be.PutUint16(b[start+2:], uint16(len(b)-start))
	}
	note := func(f *flow) {
		d.records++
		d.t.Records++
		d.t.Packets += f.pkts
		d.t.Bytes += f.bytes
		switch f.proto {
		case 6:
			d.t.TCP++
		case 17:
			d.t.UDP++
		default:
			d.t.ICMP++
		}
		if f.v6 {
			d.t.V6++
		}
	}
	if ver == 5 {
		for range min(30, want) {
			f := draw(r, 0)
			note(&f)
			b = record5(b, &f)
		}
		be.PutUint16(b[2:], uint16(d.records))
		d.b, d.count = b, d.records
		return d
	}
	// One set for each family, IPv4 first.
	var fam [2][]byte
	for d.records < want {
		f := draw(r, v6pc)
		i := 0
		if f.v6 {
			i = 1
		}
		rec := record(nil, &f, ver == 10, now)
		if len(b)+len(fam[0])+len(fam[1])+len(rec)+16 > mtu {
			break
		}
		note(&f)
		fam[i] = append(fam[i], rec...)
	}
	for i, p := range fam {
		if len(p) == 0 {
			continue
		}
		for len(p)%4 != 0 {
			p = append(p, 0)
		}
		b = be.AppendUint16(b, uint16(256+i))
		b = be.AppendUint16(b, uint16(len(p)+4))
		b = append(b, p...)
	}
	if ver == 9 {
		be.PutUint16(b[2:], uint16(d.records+sets))
		d.count = 1 // v9 counts datagrams
	} else {
		be.PutUint16(b[2:], uint16(len(b)))
		d.count = d.records
	}
	d.b = b
	return d
}

func (t *totals) add(o *totals) {
	t.Records += o.Records
	t.Packets += o.Packets
	t.Bytes += o.Bytes
	t.TCP += o.TCP
	t.UDP += o.UDP
	t.ICMP += o.ICMP
	t.V6 += o.V6
}

func main() {
	ver := flag.Int("v", 9, "5, 9 or 10 (IPFIX)")
	n := flag.Int("n", 1_000_000, "records")
	rate := flag.Float64("rate", 0, "records a second, 0: as fast as possible")
	to := flag.String("to", "", "send to this host:port (loopback or a namespace of yours only)")
	out := flag.String("pcap", "", "write the datagrams to this pcap file")
	v6 := flag.Int("v6", 20, "percent IPv6 (not v5)")
	mtu := flag.Int("mtu", 1400, "largest UDP payload")
	seed := flag.Uint64("seed", 1, "seed")
	pre := flag.Int("prebuild", 1_000_000, "records to build before sending")
	batch := flag.Int("batch", 16, "datagrams to a sendmmsg")
	every := flag.Int("tmpl", 1000, "a template in every so many datagrams")
	at := flag.Int64("time", 0, "export time, Unix ms (0: now)")
	flag.Parse()
	if seqAt[*ver] == 0 || (*to == "") == (*out == "") {
		flag.Usage()
		os.Exit(2)
	}
	r := rng.R(*seed)
	now := *at
	if now == 0 {
		now = time.Now().UnixMilli()
	}
	var ring []dgram
	for made := 0; made < min(*n, *pre); {
		d := build(*ver, &r, now, *v6, *mtu, len(ring)%*every == 0, *n-made)
		made += d.records
		ring = append(ring, d)
	}
	t := totals{Version: *ver}
	seq := uint32(0)
	next := func() *dgram { // nil when done
		left := *n - int(t.Records)
		if left <= 0 {
			return nil
		}
		d := &ring[int(t.Datagrams)%len(ring)]
		if d.records > left { // only at the end, for a second trip round the ring
			x := build(*ver, &r, now, *v6, *mtu, true, left)
			d = &x
		}
		be.PutUint32(d.b[seqAt[*ver]:], seq)
		seq += uint32(d.count)
		t.Datagrams++
		t.UDPBytes += uint64(len(d.b))
		t.add(&d.t)
		return d
	}
	start := time.Now()
	if *out != "" {
		writePcap(*out, now, next)
	} else {
		send(*to, *batch, *rate, &t, next)
	}
	t.Seconds = time.Since(start).Seconds()
	t.RecordsPerSec = uint64(float64(t.Records) / t.Seconds)
	json.NewEncoder(os.Stdout).Encode(t)
}

type mmsghdr struct {
	h syscall.Msghdr
	n uint32
	_ uint32
}

func send(to string, batch int, rate float64, t *totals, next func() *dgram) {
	c, err := net.Dial("udp", to)
	if err != nil {
		log.Fatal(err)
	}
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		log.Fatal(err)
	}
	msgs := make([]mmsghdr, batch)
	iov := make([]syscall.Iovec, batch)
	start := time.Now()
	for done := false; !done; {
		k := 0
		for ; k < batch; k++ {
			d := next()
			if d == nil {
				done = true
				break
			}
			iov[k] = syscall.Iovec{Base: &d.b[0], Len: uint64(len(d.b))}
			msgs[k].h.Iov, msgs[k].h.Iovlen = &iov[k], 1
		}
		for sent := 0; sent < k; {
			var m uintptr
			var e syscall.Errno
			raw.Write(func(fd uintptr) bool {
				m, _, e = syscall.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&msgs[sent])), uintptr(k-sent), 0, 0, 0)
				return e != syscall.EAGAIN
			})
			if e != 0 {
				t.SendErrors++
				m = 1 // that one is lost
			}
			sent += int(m)
		}
		if rate > 0 {
			due := start.Add(time.Duration(float64(t.Records) / rate * 1e9))
			if d := time.Until(due); d > 100*time.Microsecond {
				time.Sleep(d)
			}
		}
	}
}

func writePcap(name string, now int64, next func() *dgram) {
	f, err := os.Create(name)
	if err != nil {
		log.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	le := binary.LittleEndian
	h := le.AppendUint32(nil, 0xa1b2c3d4)
	h = append(h, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0)
	w.Write(h)
	us := now * 1000
	for d := next(); d != nil; d = next() {
		n := len(d.b) + 42
		h = le.AppendUint32(h[:0], uint32(us/1e6))
		h = le.AppendUint32(h, uint32(us%1e6))
		h = le.AppendUint32(h, uint32(n))
		h = le.AppendUint32(h, uint32(n))
		h = append(h, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0)
		h = be.AppendUint16(h, uint16(n-14))
		h = append(h, 0, 0, 0x40, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1)
		var s uint32
		for i := len(h) - 20; i < len(h); i += 2 {
			s += uint32(be.Uint16(h[i:]))
		}
		s = s&0xffff + s>>16
		be.PutUint16(h[len(h)-10:], ^uint16(s))
		h = be.AppendUint16(h, 50000)
		h = be.AppendUint16(h, 9995)
		h = be.AppendUint16(h, uint16(len(d.b)+8))
		h = append(h, 0, 0)
		w.Write(h)
		w.Write(d.b)
		us += 10
	}
	if err := w.Flush(); err != nil {
		log.Fatal(err)
	}
	if err := f.Close(); err != nil {
		log.Fatal(err)
	}
}
