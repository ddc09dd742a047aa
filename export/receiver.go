package export

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receiver watches the receive queue of a collector's socket on this machine,
// by the kernel's socket diagnostics (sock_diag(7), UDP, by address). A nil
// receiver sees nothing.
type receiver struct {
	fd    int
	req   [diagHeader + diagRequest]byte
	reply [1024]byte
	seen  bool // the last look found the socket
}

const (
	diagHeader    = 16 // struct nlmsghdr
	diagRequest   = 56 // struct inet_diag_req_v2
	diagMessage   = 72 // struct inet_diag_msg
	diagByFamily  = 20 // SOCK_DIAG_BY_FAMILY
	diagSKMemInfo = 7  // INET_DIAG_SKMEMINFO

	// What a datagram of up to 1,500 octets takes of a receive buffer: the
	// kernel counts the memory around it too.
	datagramMemory = 2304
)

// newReceiver is nil if remote is not an address of this machine, or the
// kernel does not tell.
func newReceiver(local, remote netip.AddrPort) *receiver {
	if !ours(remote.Addr()) {
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil
	}
	timeout := unix.NsecToTimeval(int64(100 * time.Millisecond))
	if unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout) != nil {
		unix.Close(fd)
		return nil
	}
	r := &receiver{fd: fd}
	b := r.req[:]
	ne := binary.NativeEndian
	ne.PutUint32(b[0:], uint32(len(b)))
	ne.PutUint16(b[4:], diagByFamily)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST)
	q := b[diagHeader:]
	q[0], q[1], q[2] = unix.AF_INET6, unix.IPPROTO_UDP, 1<<(diagSKMemInfo-1)
	if remote.Addr().Is4() {
		q[0] = unix.AF_INET
	}
	ne.PutUint32(q[4:], ^uint32(0)) // any state
	// The kernel looks for who would receive: source first, as in a packet.
	be.PutUint16(q[8:], local.Port())
	be.PutUint16(q[10:], remote.Port())
	copy(q[12:28], local.Addr().AsSlice())
	copy(q[28:44], remote.Addr().AsSlice())
	for i := 48; i < 56; i++ {
		q[i] = 0xff // no cookie
	}
	r.look()
	return r
}

// ours says whether a is an address of this machine.
func ours(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, x := range addrs {
		if n, ok := x.(*net.IPNet); ok {
			if b, ok := netip.AddrFromSlice(n.IP); ok && b.Unmap() == a {
				return true
			}
		}
	}
	return false
}

func (r *receiver) visible() bool { return r != nil && r.seen }

func (r *receiver) close() {
	if r != nil {
		unix.Close(r.fd)
	}
}

// look asks how many octets of the socket's buffer are taken, and its size.
func (r *receiver) look() (taken, size int, ok bool) {
	r.seen = false
	if _, err := unix.Write(r.fd, r.req[:]); err != nil {
		return 0, 0, false
	}
	n, err := unix.Read(r.fd, r.reply[:])
	if err != nil || n < diagHeader+diagMessage {
		return 0, 0, false
	}
	ne := binary.NativeEndian
	if ne.Uint16(r.reply[4:]) != diagByFamily {
		return 0, 0, false // NLMSG_ERROR: nobody there
	}
	for a := r.reply[diagHeader+diagMessage : n]; len(a) >= int(unsafe.Sizeof(unix.RtAttr{})); {
		l, kind := int(ne.Uint16(a)), ne.Uint16(a[2:])
		if l < 4 || l > len(a) {
			break
		}
		if kind == diagSKMemInfo && l >= 12 {
			r.seen = true
			return int(ne.Uint32(a[4:])), int(ne.Uint32(a[8:])), true
		}
		a = a[min((l+3)&^3, len(a)):]
	}
	return 0, 0, false
}

// patience is how long a receiver that does not read is waited for.
const patience = 10 * time.Second

// wait blocks while the receiver's queue is more than half full, and says how
// many of n datagrams it has room for; none when ctx ends.
func (r *receiver) wait(ctx context.Context, n int) int {
	if r == nil {
		return n
	}
	nap := 100 * time.Microsecond
	for began := time.Now(); ; nap = min(2*nap, 5*time.Millisecond) {
		taken, size, ok := r.look()
		if !ok {
			return n
		}
		if room := (size/2 - taken) / datagramMemory; room >= 1 {
			return min(n, max(1, room/4)) // others may be looking, too
		}
		if taken == 0 || time.Since(began) > patience {
			return n
		}
		if ctx.Err() != nil {
			return 0
		}
		sleep(ctx, nap)
	}
}
