// genroutes writes a routing table of the size and shape of the Internet's: prefixes
// for `ip -batch`, all by the one next hop, and one address of each in any order.
//
//	genroutes -n 900000 -via 10.9.2.9 -o routes -dsts dsts
//	ip -n router -batch routes
package main

import (
	"bufio"
	"encoding/binary"
	"flag"
	"fmt"
	"log"
	"net/netip"
	"os"

	"weir/bench/gen/internal/rng"
)

// lengths are how many of a thousand prefixes have which length, roughly as in
// tables that routers of the Internet have.
var lengths = []struct{ bits, share int }{{24, 600}, {23, 100}, {22, 110}, {21, 55}, {20, 45}, {19, 30}, {18, 20}, {17, 15}, {16, 25}}

func main() {
	n := flag.Int("n", 900_000, "prefixes")
	via := flag.String("via", "10.9.2.9", "next hop")
	out := flag.String("o", "routes", "file for ip -batch")
	dsts := flag.String("dsts", "dsts", "file of addresses, one of each prefix")
	flag.Parse()
	log.SetFlags(0)
	log.SetPrefix("genroutes: ")
	if err := run(*n, *via, *out, *dsts); err != nil {
		log.Fatal(err)
	}
}

func run(n int, via, out, dsts string) error {
	r := rng.R(1)
	seen := map[netip.Prefix]bool{}
	var all []netip.Prefix
	for len(all) < n {
		p := netip.PrefixFrom(address(r.U32()), length(r.N(1000))).Masked()
		// unicast, and none of those that the bench itself or the kernel has
		if a := p.Addr().As4()[0]; a == 0 || a == 10 || a == 127 || a >= 224 || seen[p] {
			continue
		}
		seen[p] = true
		all = append(all, p)
	}
	err := write(out, func(w *bufio.Writer) {
		for _, p := range all {
			fmt.Fprintf(w, "route add %s via %s\n", p, via)
		}
	})
	if err != nil {
		return err
	}
	return write(dsts, func(w *bufio.Writer) { // the prefixes were drawn by lot: any part of them is from all over
		for _, p := range all {
			b := p.Addr().As4()
			fmt.Fprintln(w, address(binary.BigEndian.Uint32(b[:])|r.U32()>>p.Bits()))
		}
	})
}

func address(v uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v)))
}

func length(lot int) int {
	for _, l := range lengths {
		if lot -= l.share; lot < 0 {
			return l.bits
		}
	}
	return lengths[0].bits
}

func write(name string, fill func(*bufio.Writer)) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	fill(w)
	if err := w.Flush(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
