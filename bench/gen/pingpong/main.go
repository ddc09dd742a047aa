// pingpong sends a UDP packet, waits until it is sent back, and again: what it
// prints are the shares of round trips that took as long or less.
//
//	ip netns exec sink pingpong -echo 10.9.2.2:7
//	ip netns exec client pingpong -to 10.9.2.2:7 -t 3
//
// It blocks in system calls that Go's runtime does not hear of: neither its poller
// nor its scheduler has a part in what is measured.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/netip"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const size = 18 // octets of payload: the smallest frame

func main() {
	echo := flag.String("echo", "", "send back what comes to this address and port")
	to := flag.String("to", "", "ask this address and port")
	secs := flag.Float64("t", 3, "seconds")
	gap := flag.Duration("gap", 100*time.Microsecond, "pause between round trips, for what else is to be done on the CPU")
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
		err = ask(fd, netip.MustParseAddrPort(*to), time.Duration(*secs*1e9), *gap)
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
	var from unix.RawSockaddrInet4
	for {
		length := uint32(unix.SizeofSockaddrInet4)
		n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), address(b), uintptr(len(b)), 0, uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&length)))
		if e == 0 {
			_, _, e = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), address(b), n, 0, uintptr(unsafe.Pointer(&from)), uintptr(length))
		}
		if e != 0 && e != unix.EINTR {
			return e
		}
	}
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

func ask(fd int, to netip.AddrPort, long, gap time.Duration) error {
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
		pause := unix.NsecToTimespec(gap.Nanoseconds())
		unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
		b[0]++ // or a late answer is taken for this one's
		sent := time.Now()
		if _, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), address(b), size); e != 0 {
			return e
		}
		n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), address(back), uintptr(len(back)))
		if e != 0 || n != size || back[0] != b[0] {
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
