package replay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weir/flow"
	"weir/wire"
)

// Datagrams sends export messages to a collector again, octet by octet as they
// were. Each exporter (address and port) has a socket of its own, so that the
// collector keeps their templates and sequence numbers apart.
type Datagrams struct {
	To   netip.AddrPort
	From Rewrite
	Pace *Pace
	Rate float64 // datagrams a second at most; 0: no limit

	Sent, Octets uint64 // that the kernel took
	TooLong      uint64 // messages of a TCP connection that no datagram can carry

	socks  map[wire.Source]*net.UDPConn
	mapped map[flow.Addr]netip.Addr
	began  time.Time
}

// Rewrite is which address a datagram leaves from.
type Rewrite struct {
	// Keep: its exporter's, and its port.
	Keep bool
	// Prefix: one of its addresses for each exporter's address, in the order they
	// appear. Invalid, without Keep: this machine's.
	Prefix netip.Prefix
}

// ParseRewrite reads keep, an address or a prefix; "" is the zero Rewrite.
func ParseRewrite(s string) (Rewrite, error) {
	switch s {
	case "":
		return Rewrite{}, nil
	case "keep":
		return Rewrite{Keep: true}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return Rewrite{Prefix: netip.PrefixFrom(a, a.BitLen())}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return Rewrite{}, fmt.Errorf("%q: accepted: keep (the exporters' own addresses), an address, or a prefix such as 192.0.2.0/24", s)
	}
	return Rewrite{Prefix: p.Masked()}, nil
}

// maxSockets bounds the exporters of a capture.
const maxSockets = 4096

// Send sends one message of src, captured at t, when it is due.
func (d *Datagrams) Send(ctx context.Context, src wire.Source, t int64, msg []byte) error {
	if err := d.Pace.Wait(ctx, t); err != nil {
		return err
	}
	if len(msg) > 65507 {
		d.TooLong++
		return nil
	}
	conn, err := d.socket(src)
	if err != nil {
		return err
	}
	if d.began.IsZero() {
		d.began = d.Pace.now()
	}
	if d.Rate > 0 {
		due := d.began.Add(time.Duration(float64(d.Sent) / d.Rate * 1e9))
		if wait := due.Sub(d.Pace.now()); wait > time.Millisecond {
			if err := d.Pace.sleep(ctx, wait); err != nil {
				return err
			}
		}
	}
	for {
		_, err := conn.WriteToUDPAddrPort(msg, d.To)
		switch {
		case err == nil:
			d.Sent++
			d.Octets += uint64(len(msg))
			return nil
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EAGAIN): // the interface's queue is full
			if err := d.Pace.sleep(ctx, time.Millisecond); err != nil {
				return err
			}
		case errors.Is(err, unix.ECONNREFUSED): // of an earlier datagram; this one was not sent
		default:
			return fmt.Errorf("send to %v: %w", d.To, err)
		}
	}
}

// Exporters is how many there were.
func (d *Datagrams) Exporters() int { return len(d.socks) }

// Close closes the sockets.
func (d *Datagrams) Close() {
	for _, c := range d.socks {
		c.Close()
	}
	d.socks = nil
}

// socket is the exporter's.
func (d *Datagrams) socket(src wire.Source) (*net.UDPConn, error) {
	if c := d.socks[src]; c != nil {
		return c, nil
	}
	if len(d.socks) >= maxSockets {
		return nil, fmt.Errorf("more than %d exporters: replay some of them at a time", maxSockets)
	}
	local, err := d.local(src)
	if err != nil {
		return nil, err
	}
	conn, err := listen(local)
	if err != nil {
		return nil, fmt.Errorf("send as %v: %w", local.Addr(), explainBind(err))
	}
	if d.socks == nil {
		d.socks = map[wire.Source]*net.UDPConn{}
	}
	d.socks[src] = conn
	return conn, nil
}

// local is where a socket of src is bound to.
func (d *Datagrams) local(src wire.Source) (netip.AddrPort, error) {
	unspecified := netip.IPv4Unspecified()
	if d.To.Addr().Is6() {
		unspecified = netip.IPv6Unspecified()
	}
	a, port := unspecified, uint16(0)
	switch {
	case src.Addr.IsZero(): // a file of messages does not tell
	case d.From.Keep:
		a, port = src.Addr.Netip(), src.Port
	case d.From.Prefix.IsValid():
		var err error
		if a, err = d.numbered(src.Addr); err != nil {
			return netip.AddrPort{}, err
		}
	}
	if a.Is4() != d.To.Addr().Is4() {
		return netip.AddrPort{}, fmt.Errorf("%v cannot send to %v, which is of the other family: give --rewrite-src a prefix of the collector's", a, d.To)
	}
	return netip.AddrPortFrom(a, port), nil
}

// numbered gives an exporter its address of the prefix.
func (d *Datagrams) numbered(exporter flow.Addr) (netip.Addr, error) {
	if a, ok := d.mapped[exporter]; ok {
		return a, nil
	}
	a := d.From.Prefix.Addr()
	if !d.From.Prefix.IsSingleIP() {
		for range len(d.mapped) + 1 { // the first one names the network
			a = a.Next()
		}
		if !d.From.Prefix.Contains(a) {
			return a, fmt.Errorf("%v has no address left for a further exporter: give --rewrite-src a shorter prefix", d.From.Prefix)
		}
	}
	if d.mapped == nil {
		d.mapped = map[flow.Addr]netip.Addr{}
	}
	d.mapped[exporter] = a
	return a, nil
}

// listen opens a socket at an address, one of others if the kernel lets: with
// CAP_NET_ADMIN a socket may send as anybody (IP_TRANSPARENT).
func listen(local netip.AddrPort) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(network, _ string, rc syscall.RawConn) error {
		return rc.Control(func(fd uintptr) {
			if local.Addr().IsUnspecified() {
				return
			}
			// Without the privilege, addresses of this machine are still to be had.
			if strings.HasSuffix(network, "6") {
				unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
			} else {
				unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
			}
			if local.Port() != 0 { // two addresses may have had one port
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			}
		})
	}}
	network := "udp4"
	if local.Addr().Is6() {
		network = "udp6"
	}
	c, err := lc.ListenPacket(context.Background(), network, local.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// explainBind says what would help.
func explainBind(err error) error {
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return errors.New("only root (CAP_NET_ADMIN) may send from addresses of others; without --rewrite-src exporters are kept apart by the port they send from")
	}
	return err
}
