// pingpong sends a UDP packet, waits until it is sent back, and again: what it
// prints are the shares of round trips that took as long or less.
//
//	ip netns exec sink pingpong -echo 10.9.2.2:7
//	ip netns exec client pingpong -to 10.9.2.2:7 -t 3
//
// It blocks in system calls, without a runtime's poller in between.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const size = 18 // octets of payload: the smallest frame

func main() {
	echo := flag.String("echo", "", "send back what comes to this address and port")
	to := flag.String("to", "", "ask this address and port")
	secs := flag.Float64("t", 3, "seconds")
	flag.Parse()
	log.SetFlags(0)
	log.SetPrefix("pingpong: ")
	runtime.LockOSThread()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		log.Fatal(err)
	}
	if *echo != "" {
		err = answer(fd, netip.MustParseAddrPort(*echo))
	} else {
		err = ask(fd, netip.MustParseAddrPort(*to), time.Duration(*secs*1e9))
	}
	if err != nil {
		log.Fatal(err)
	}
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

func answer(fd int, at netip.AddrPort) error {
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return err
	}
	fmt.Println("msg=attached")
	b := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err == nil {
			err = unix.Sendto(fd, b[:n], 0, from)
		}
		if err != nil && err != unix.EINTR {
			return err
		}
	}
}

func ask(fd int, to netip.AddrPort, long time.Duration) error {
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
		return err
	}
	took := make([]time.Duration, 0, 1<<20)
	var lost int
	b, back := make([]byte, size), make([]byte, 2048)
	for start := time.Now(); time.Since(start) < long && len(took) < cap(took); {
		b[0]++ // or a late answer is taken for this one's
		sent := time.Now()
		if _, err := unix.Write(fd, b); err != nil {
			return err
		}
		n, err := unix.Read(fd, back)
		if err != nil || n != size || back[0] != b[0] {
			lost++
			continue
		}
		took = append(took, time.Since(sent))
	}
	if len(took) == 0 {
		return fmt.Errorf("nothing came back, of %d", lost)
	}
	slices.Sort(took)
	at := func(share float64) float64 {
		return float64(took[int(share*float64(len(took)-1))].Nanoseconds()) / 1000
	}
	fmt.Printf("{\"Trips\":%d,\"Lost\":%d,\"P50\":%.2f,\"P99\":%.2f,\"P999\":%.2f}\n", len(took), lost, at(0.5), at(0.99), at(0.999))
	return nil
}
