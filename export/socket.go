package export

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"weir/wire"
)

// errTimeout: the send buffer stayed full.
var errTimeout = fmt.Errorf("the send buffer stayed full: %w", syscall.EAGAIN)

// sendPatience is how long a full send buffer is waited for.
const sendPatience = 2 * time.Second

// socket is a connected UDP socket that sends in batches and hears what the
// network says of its datagrams (IP_RECVERR).
type socket struct {
	conn          *net.UDPConn
	raw           syscall.RawConn
	local, remote netip.AddrPort

	headers [batchMax]mmsghdr
	vectors [batchMax]unix.Iovec
	n       int // how many are to be sent
	sent    int
	errno   syscall.Errno
	sendFn  func(fd uintptr) bool

	quote  [64]byte
	oob    [512]byte
	reply  unix.Msghdr
	vector unix.Iovec // of quote
	gotN   int
	gotOOB int
	recvFn func(fd uintptr)
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// openSocket resolves the destination's name and connects.
func openSocket(ctx context.Context, d Destination) (*socket, error) {
	host := net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port)))
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	dialer := net.Dialer{Control: func(_, address string, rc syscall.RawConn) error { return multicast(d, address, rc) }}
	if d.Source.IsValid() {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(d.Source, 0))
	}
	c, err := dialer.DialContext(ctx, "udp", host)
	if err != nil {
		return nil, fmt.Errorf("export to %s: %w", host, err)
	}
	s, err := newSocket(c.(*net.UDPConn))
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("export to %s: %w", host, err)
	}
	return s, nil
}

// newSocket takes over a connected socket.
func newSocket(c *net.UDPConn) (s *socket, err error) {
	s = &socket{conn: c}
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		return nil, err
	}
	unmap := func(a net.Addr) netip.AddrPort {
		p := a.(*net.UDPAddr).AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	s.local, s.remote = unmap(c.LocalAddr()), unmap(c.RemoteAddr())
	// Never fragment; hear of errors. A kernel that refuses either still sends.
	s.raw.Control(func(fd uintptr) {
		if s.remote.Addr().Is4() {
			unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1)
		} else {
			unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
			unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
		}
	})
	s.sendFn, s.recvFn = s.sendRaw, s.receiveRaw
	return s, nil
}

func (s *socket) close() { s.conn.Close() }

// pathMTU is what the kernel knows of the way, in octets; 0: nothing.
func (s *socket) pathMTU() (mtu int) {
	s.raw.Control(func(fd uintptr) {
		level, name := unix.SOL_IP, unix.IP_MTU
		if !s.remote.Addr().Is4() {
			level, name = unix.SOL_IPV6, unix.IPV6_MTU
		}
		if v, err := unix.GetsockoptInt(int(fd), level, name); err == nil {
			mtu = v
		}
	})
	return mtu
}

// send hands datagrams to the kernel. n of them it took; an error is about the
// one after those (or about one sent earlier).
func (s *socket) send(batch []*datagram) (n int, err error) {
	s.n = min(len(batch), batchMax)
	for i, g := range batch[:s.n] {
		s.vectors[i].Base = unsafe.SliceData(g.b)
		s.vectors[i].SetLen(len(g.b))
		s.headers[i].hdr.Iov = &s.vectors[i]
		s.headers[i].hdr.SetIovlen(1)
	}
	s.conn.SetWriteDeadline(time.Now().Add(sendPatience))
	err = s.raw.Write(s.sendFn)
	for i := range s.n {
		s.vectors[i].Base = nil
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, errTimeout
	case err != nil:
		return 0, err
	case s.errno != 0:
		return 0, s.errno
	}
	return s.sent, nil
}

// sendRaw is one sendmmsg; false: not writable now.
func (s *socket) sendRaw(fd uintptr) bool {
	for {
		n, _, errno := syscall.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&s.headers[0])), uintptr(s.n), unix.MSG_DONTWAIT, 0, 0)
		s.sent, s.errno = int(n), errno
		switch errno {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		case 0:
		default:
			s.sent = 0
		}
		return true
	}
}

// returned reads one error that came back for a datagram sent before: nil when
// there is none. known says that seq, the datagram's sequence number, could be
// read from what was quoted of it.
func (s *socket) returned(version uint8) (seq uint32, known bool, err error) {
	quote, err := s.bounced()
	if at := wire.SequenceOffset(version); at > 0 && len(quote) >= at+4 {
		seq, known = be.Uint32(quote[at:]), true
	}
	return seq, known, err
}

// bounced reads one error that came back, and what was quoted of the datagram
// that it is about.
func (s *socket) bounced() (quote []byte, err error) {
	s.gotN = -1
	if s.raw.Control(s.recvFn) != nil || s.gotN < 0 {
		return nil, nil
	}
	messages, perr := unix.ParseSocketControlMessage(s.oob[:s.gotOOB])
	if perr != nil {
		return nil, nil
	}
	for _, m := range messages {
		ip := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR
		ip6 := m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !ip && !ip6 || len(m.Data) < int(unsafe.Sizeof(unix.SockExtendedErr{})) {
			continue
		}
		e := *(*unix.SockExtendedErr)(unsafe.Pointer(&m.Data[0]))
		if e.Origin != unix.SO_EE_ORIGIN_ICMP && e.Origin != unix.SO_EE_ORIGIN_ICMP6 {
			// The kernel's own: told to who sent, too, and counted there.
			return s.bounced()
		}
		return s.quote[:min(s.gotN, len(s.quote))], syscall.Errno(e.Errno)
	}
	return nil, nil
}

// receiveRaw is one recvmsg of the error queue; unix.Recvmsg would allocate.
func (s *socket) receiveRaw(fd uintptr) {
	s.vector.Base = &s.quote[0]
	s.vector.SetLen(len(s.quote))
	s.reply = unix.Msghdr{Iov: &s.vector, Control: &s.oob[0]}
	s.reply.SetIovlen(1)
	s.reply.SetControllen(len(s.oob))
	n, _, errno := syscall.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&s.reply)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if errno == 0 {
		s.gotN, s.gotOOB = int(n), int(s.reply.Controllen)
	}
}
