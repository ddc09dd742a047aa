package export

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// multicast sets, before the socket is connected, how datagrams to a group of
// receivers leave; other addresses need nothing.
func multicast(d Destination, address string, rc syscall.RawConn) (err error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !to.Addr().Unmap().IsMulticast() {
		return nil
	}
	index := 0
	if d.Interface != "" {
		i, err := net.InterfaceByName(d.Interface)
		if err != nil {
			return fmt.Errorf("interface %s: %w", d.Interface, err)
		}
		index = i.Index
	}
	ttl := max(d.TTL, 1)
	if ctl := rc.Control(func(fd uintptr) {
		if to.Addr().Unmap().Is4() {
			if err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MULTICAST_TTL, ttl); err == nil && index > 0 {
				err = unix.SetsockoptIPMreqn(int(fd), unix.SOL_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)})
			}
			return
		}
		if err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS, ttl); err == nil && index > 0 {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_MULTICAST_IF, index)
		}
	}); ctl != nil {
		return ctl
	}
	return err
}
