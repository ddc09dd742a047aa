package route

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is an rtnetlink socket that reads in bulk (recvmmsg): the kernel sends
// each notification by itself.
type socket struct {
	fd        int
	datagrams []mmsghdr
	names     []unix.RawSockaddrNetlink
	iovs      []unix.Iovec
	buf       []byte
	size      int // of a datagram, at most

	// congested is set when messages were lost, until the socket was once empty:
	// before that the kernel drops without saying so again.
	congested bool
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// openSocket subscribes to groups in the network namespace of the calling
// thread. Of its buffer, octets, it takes what it may have.
func openSocket(buffer, burst, size int, groups ...int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	s := &socket{
		fd: fd, size: size, buf: make([]byte, burst*size), datagrams: make([]mmsghdr, burst),
		names: make([]unix.RawSockaddrNetlink, burst), iovs: make([]unix.Iovec, burst),
	}
	for i := range s.datagrams {
		s.iovs[i].Base = &s.buf[i*size]
		s.iovs[i].SetLen(size)
		h := &s.datagrams[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&s.names[i]))
		h.Namelen = unix.SizeofSockaddrNetlink
		h.Iov = &s.iovs[i]
		h.SetIovlen(1)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer) // up to rmem_max
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		s.close()
		return nil, fmt.Errorf("netlink: %w", err)
	}
	for _, g := range groups {
		err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("netlink: group %d: %w", g, err)
		}
	}
	return s, nil
}

func (s *socket) close() { unix.Close(s.fd) }

// read takes what is there, at most a burst, without waiting, and gives each
// message to take, which says whether it made sense. n is how many datagrams
// there were; lost says that some could not be read, or were dropped before.
func (s *socket) read(take func(message) bool, bad *uint64) (n int, lost bool, err error) {
	got, e := uintptr(0), unix.EINTR
	for e == unix.EINTR {
		got, _, e = unix.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.datagrams[0])), uintptr(len(s.datagrams)), unix.MSG_DONTWAIT, 0, 0)
	}
	switch e {
	case 0:
	case unix.EAGAIN:
		return 0, false, nil
	case unix.ENOBUFS:
		return 0, true, nil
	default:
		return 0, true, fmt.Errorf("netlink: %w", e)
	}
	for i := range int(got) {
		d := &s.datagrams[i]
		if s.names[i].Pid != 0 {
			continue // not of the kernel
		}
		if d.hdr.Flags&unix.MSG_TRUNC != 0 {
			*bad++
			lost = true
			continue
		}
		b := s.buf[i*s.size:][:d.len]
		for len(b) > 0 {
			m, rest, ok := next(b)
			if !ok || !take(m) {
				*bad++
				lost = true
			}
			b = rest
		}
	}
	return int(got), lost, nil
}

// asker sends requests and reads what comes back.
type asker struct {
	fd  int
	seq uint32
	buf []byte
}

// errInterrupted: what was listed changed meanwhile, and something may be missing.
var errInterrupted = errors.New("netlink: a list changed while it was read")

func openAsker(protocol int) (*asker, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	// The kernel answers within the call that asks; this is for one that does not.
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	return &asker{fd: fd, buf: make([]byte, 64<<10)}, nil
}

func (a *asker) close() { unix.Close(a.fd) }

// begin starts a message at the end of b; finish sets its length.
func (a *asker) begin(b []byte, kind, flags uint16) []byte {
	a.seq++
	b = append(b, 0, 0, 0, 0)
	b = order.AppendUint16(b, kind)
	b = order.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = order.AppendUint32(b, a.seq)
	return append(b, 0, 0, 0, 0)
}

func finish(b []byte, at int) []byte {
	order.PutUint32(b[at:], uint32(len(b)-at))
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = order.AppendUint16(b, uint16(attrHead+len(value)))
	b = order.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// list asks for all of a kind and gives each to take.
func (a *asker) list(kind uint16, body []byte, take func(message) bool) error {
	b := finish(append(a.begin(nil, kind, unix.NLM_F_DUMP), body...), 0)
	if err := unix.Sendto(a.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	interrupted := false
	for {
		n, err := unix.Read(a.fd, a.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("netlink: listing (%d): %w", kind, err)
		}
		for b := a.buf[:n]; len(b) > 0; {
			m, rest, ok := next(b)
			if !ok {
				return fmt.Errorf("netlink: listing (%d): a broken answer", kind)
			}
			b = rest
			if m.seq != a.seq {
				continue // of an earlier request
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.kind {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if e := -int32(u32(m.body)); e != 0 {
					return fmt.Errorf("netlink: listing (%d): %w", kind, unix.Errno(e))
				}
				if interrupted {
					return errInterrupted
				}
				return nil
			}
			take(m)
		}
	}
}

// send sends messages that want no answer, and says how many were refused.
func (a *asker) send(b []byte) (refused int, err error) {
	if err := unix.Sendto(a.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("netlink: %w", err)
	}
	for {
		n, _, e := unix.Syscall6(unix.SYS_RECVFROM, uintptr(a.fd), uintptr(unsafe.Pointer(&a.buf[0])), uintptr(len(a.buf)), unix.MSG_DONTWAIT, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return refused, nil // no more of them
		}
		for b := a.buf[:n]; len(b) > 0; {
			m, rest, ok := next(b)
			if ok && m.kind == unix.NLMSG_ERROR && u32(m.body) != 0 {
				refused++
			}
			b = rest
		}
	}
}
