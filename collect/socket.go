package collect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"weir/flow"
)

// openGroup opens n UDP sockets on one address, as a group among which the
// kernel chooses by the sender's address (steer), so that an exporter always
// meets the same one. It falls back to one socket where the kernel does not
// take the program that chooses.
func openGroup(address string, n, bytes int) ([]*net.UDPConn, error) {
	// With SO_REUSEPORT, another process's group would be joined, and half of
	// the datagrams lost to it: see first that the port is free.
	probe, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil, err
	}
	address = probe.LocalAddr().String()
	probe.Close()

	var group []*net.UDPConn
	fail := func(err error) ([]*net.UDPConn, error) {
		for _, c := range group {
			c.Close()
		}
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		if n == 1 {
			return nil
		}
		var err error
		if ctl := rc.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}); ctl != nil {
			return ctl
		}
		return err
	}}
	for range n {
		c, err := lc.ListenPacket(context.Background(), "udp", address)
		if err != nil {
			return fail(err)
		}
		group = append(group, c.(*net.UDPConn))
		if err := control(group[len(group)-1], func(fd int) error { return setBuffer(fd, bytes) }); err != nil {
			return fail(err)
		}
	}
	if n > 1 {
		if err := control(group[0], func(fd int) error { return attachSteering(fd, n) }); err != nil {
			fail(nil)
			return openGroup(address, 1, bytes)
		}
	}
	return group, nil
}

func control(c *net.UDPConn, f func(fd int) error) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// setBuffer asks for a receive buffer: past the system's limit with the
// privilege, else as near as it lets.
func setBuffer(fd, bytes int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
}

// bufferOf is the receive buffer that the kernel granted, in octets. The kernel
// counts its own overhead into twice that.
func bufferOf(c *net.UDPConn) int {
	n := 0
	control(c, func(fd int) (err error) {
		n, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		return err
	})
	return n / 2
}

// steer says which of n loops an exporter belongs to. attachSteering has the
// kernel compute the same.
func steer(a flow.Addr, n int) int {
	w := be.Uint32(a[12:])
	if !a.Is4() {
		w ^= be.Uint32(a[0:]) ^ be.Uint32(a[4:]) ^ be.Uint32(a[8:])
	}
	return int(w * steerMul >> 16 % uint32(n))
}

const steerMul = 0x9e3779b1 // 2^32 over the golden ratio

// attachSteering gives the group a classic BPF program whose result is the
// index of the socket, in the order of binding (SO_ATTACH_REUSEPORT_CBPF).
func attachSteering(fd, n int) error {
	net := func(off uint32) uint32 { return uint32(0xfff00000) + off } // SKF_NET_OFF: from the IP header
	word := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: net(off)}
	}
	op := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	tax := op(unix.BPF_MISC|unix.BPF_TAX, 0)
	xor := op(unix.BPF_ALU|unix.BPF_XOR|unix.BPF_X, 0)
	prog := []unix.SockFilter{
		op(unix.BPF_LD|unix.BPF_B|unix.BPF_ABS, net(0)),
		op(unix.BPF_ALU|unix.BPF_RSH|unix.BPF_K, 4),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 6, Jt: 2}, // IPv6 at 5
		word(12),                         // IPv4: the source address
		op(unix.BPF_JMP|unix.BPF_JA, 10), // to the end
		word(8), tax, word(12), xor, tax, // IPv6: its four words
		word(16), xor, tax, word(20), xor,
		op(unix.BPF_ALU|unix.BPF_MUL|unix.BPF_K, steerMul),
		op(unix.BPF_ALU|unix.BPF_RSH|unix.BPF_K, 16),
		op(unix.BPF_ALU|unix.BPF_MOD|unix.BPF_K, uint32(n)),
		op(unix.BPF_RET|unix.BPF_A, 0),
	}
	f := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
		uintptr(unsafe.Pointer(&f)), unsafe.Sizeof(f), 0)
	if e != 0 {
		return e
	}
	return nil
}

// dropsOf reads how many datagrams the kernel dropped for a socket since it was
// made, modulo 2^32: the counter that SO_RXQ_OVFL reports, which comes with the
// next datagram only and is stale when traffic stops. Reading it (SO_MEMINFO,
// Linux 4.12) costs no control message for every datagram.
func dropsOf(c *net.UDPConn) (uint32, bool) {
	const drops = 8 // SK_MEMINFO_DROPS
	var info [9]uint32
	size := uint32(unsafe.Sizeof(info))
	err := control(c, func(fd int) error {
		_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if e != 0 {
			return e
		}
		return nil
	})
	return info[drops], err == nil && size > 4*drops
}

// receiver reads datagrams in bulk (recvmmsg).
type receiver struct {
	conn  *net.UDPConn
	raw   syscall.RawConn
	msgs  []mmsghdr
	names []unix.RawSockaddrInet6
	iovs  []unix.Iovec
	bufs  []byte

	n, used int
	errno   unix.Errno
	wait    func(fd uintptr) bool // made once: closures allocate
	nowait  func(fd uintptr) bool
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

const (
	burst       = 128   // datagrams in one system call
	maxDatagram = 65535 // octets: no datagram is longer
)

func newReceiver(c *net.UDPConn) (*receiver, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &receiver{
		conn: c, raw: raw, msgs: make([]mmsghdr, burst), names: make([]unix.RawSockaddrInet6, burst),
		iovs: make([]unix.Iovec, burst), bufs: make([]byte, burst*maxDatagram),
	}
	for i := range r.msgs {
		r.iovs[i].Base = &r.bufs[i*maxDatagram]
		r.iovs[i].SetLen(maxDatagram)
		h := &r.msgs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Namelen = uint32(unsafe.Sizeof(r.names[0]))
	}
	r.wait = func(fd uintptr) bool { r.recv(fd); return r.errno != unix.EAGAIN }
	r.nowait = func(fd uintptr) bool { r.recv(fd); return true }
	return r, nil
}

func (r *receiver) recv(fd uintptr) {
	for {
		for i := range r.used {
			r.msgs[i].hdr.Namelen = uint32(unsafe.Sizeof(r.names[0]))
		}
		n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.msgs[0])), uintptr(len(r.msgs)), unix.MSG_DONTWAIT, 0, 0)
		if e == unix.EINTR {
			continue
		}
		r.n, r.errno = int(n), e
		if e != 0 {
			r.n = 0
		}
		r.used = r.n
		return
	}
}

// read gives how many datagrams came. Without wait it returns at once; else it
// waits for one, or for the socket's deadline.
func (r *receiver) read(wait bool) (int, error) {
	f := r.nowait
	if wait {
		f = r.wait
	}
	if err := r.raw.Read(f); err != nil {
		return 0, err
	}
	switch r.errno {
	case 0:
		return r.n, nil
	case unix.EAGAIN, unix.ECONNREFUSED, unix.ENOBUFS, unix.ENOMEM:
		return 0, nil
	}
	return 0, fmt.Errorf("receive from %s: %w", r.conn.LocalAddr(), r.errno)
}

// datagram is the i-th that came.
func (r *receiver) datagram(i int) (data []byte, from flow.Addr, port uint16, truncated bool) {
	h, name := &r.msgs[i], &r.names[i]
	p := (*[2]byte)(unsafe.Pointer(&name.Port)) // network order, at the same place for both families
	port = be.Uint16(p[:])
	if name.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		from = flow.AddrFrom4(v4.Addr)
	} else {
		from = flow.Addr(name.Addr)
	}
	return r.bufs[i*maxDatagram:][:h.len:h.len], from, port, h.hdr.Flags&unix.MSG_TRUNC != 0
}

// listenError makes one clear line of a failed bind.
func listenError(url string, err error) error {
	var hint string
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		hint = "another program has the port: stop it, or listen at another one"
	case errors.Is(err, unix.EACCES):
		hint = "ports below 1024 need CAP_NET_BIND_SERVICE"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		hint = "no interface has this address"
	default:
		return fmt.Errorf("listen %s: %w", url, err)
	}
	return fmt.Errorf("listen %s: %w (%s)", url, errno(err), hint)
}

func errno(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

// parseListen reads "udp://host:port".
func parseListen(url string) (e endpoint, err error) {
	network, address, ok := strings.Cut(url, "://")
	bad := func(why string) (endpoint, error) {
		return e, fmt.Errorf("listen %q: %s; expected udp://HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT?cert=…&key=…&ca=… or dtls://…, HOST empty for all addresses", url, why)
	}
	if !ok {
		return bad("no scheme")
	}
	e = endpoint{url: url, network: network}
	address, query, found := strings.Cut(address, "?")
	switch network {
	case "udp", "tcp":
		if found {
			return bad("nothing may follow the port")
		}
	case "tls", "dtls":
		if e.secure, err = parseSecure(query); err != nil {
			return bad(err.Error())
		}
	default:
		return bad("scheme " + strconv.Quote(network) + " is not received")
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return bad("no port")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return bad("port " + strconv.Quote(port) + " is not a number from 0 to 65535")
	}
	if host != "" {
		if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
			return bad("host " + strconv.Quote(host) + " is not an address")
		}
	}
	e.address = address
	return e, nil
}
