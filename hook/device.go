package hook

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LinkType is how an interface's frames begin.
type LinkType int

const (
	Unknown  LinkType = iota // with nothing that our programs read
	Ethernet                 // lo too
	RawIP                    // with the IP header: tun, wireguard, ppp, …
)

func (t LinkType) String() string {
	switch t {
	case Ethernet:
		return "Ethernet"
	case RawIP:
		return "no link header"
	}
	return "unknown"
}

// LinkTypeOf asks an interface of this network namespace.
func LinkTypeOf(ifname string) (LinkType, error) {
	arphrd, err := hardwareType(ifname)
	return linkType(arphrd), err
}

// linkType reads an ARPHRD number. Tunnels (ipip, sit, gre without a link
// layer of its own) show the inner packet in TC, as tun does.
func linkType(arphrd uint16) LinkType {
	switch arphrd {
	case unix.ARPHRD_ETHER, unix.ARPHRD_LOOPBACK:
		return Ethernet
	case unix.ARPHRD_NONE, unix.ARPHRD_RAWIP, unix.ARPHRD_PPP,
		unix.ARPHRD_TUNNEL, unix.ARPHRD_TUNNEL6, unix.ARPHRD_SIT:
		return RawIP
	}
	return Unknown
}

// hardwareType is the interface's ARPHRD number.
func hardwareType(ifname string) (uint16, error) {
	req, err := unix.NewIfreq(ifname)
	if err != nil {
		return 0, fmt.Errorf("%s: no such interface", ifname)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", ifname, err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFHWADDR, req); err != nil {
		return 0, fmt.Errorf("%s: link type: %w", ifname, err)
	}
	return req.Uint16(), nil
}

// Forwards says whether the kernel forwards what comes in by an interface:
// bpf.PortForwards if either.
func Forwards(ifname string) (v4, v6 bool) {
	on := func(family string) bool {
		b, err := os.ReadFile(filepath.Join("/proc/sys/net", family, "conf", ifname, "forwarding"))
		return err == nil && len(bytes.TrimSpace(b)) > 0 && bytes.TrimSpace(b)[0] != '0'
	}
	return on("ipv4"), on("ipv6")
}

// driver is the interface's driver, of virtual ones too; empty if it has no
// name for itself.
func driver(ifname string) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, ifname)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Driver[:])
}

// xdpFeatures is what XDP a driver has: NETDEV_XDP_ACT_….
type xdpFeatures uint64

const (
	xdpBasic xdpFeatures = 1 << 0 // XDP_PASS, XDP_DROP, XDP_TX
	xdpFrags xdpFeatures = 1 << 5 // RX_SG: frames of several buffers

	xdpTransmit      xdpFeatures = 1 << 2 // NDO_XMIT: frames can be redirected to it
	xdpTransmitFrags xdpFeatures = 1 << 6 // NDO_XMIT_SG: those of several buffers, too
)

// Redirects says whether frames can be redirected to an interface at present, and
// those of several buffers. A kernel before 6.3 does not say; then known is false.
func Redirects(ifindex uint32) (frames, frags, known bool) {
	f, known := driverFeatures(ifindex)
	return f&xdpTransmit != 0, f&xdpTransmitFrags != 0, known
}

// driverFeatures asks the kernel (6.3 or later) what XDP an interface has.
// known is false where it does not say.
func driverFeatures(ifindex uint32) (f xdpFeatures, known bool) {
	const devGet, attrIfindex, attrFeatures = 1, 1, 3 // NETDEV_CMD_DEV_GET, NETDEV_A_DEV_…
	a, err := generic("netdev", devGet, attr32(nil, attrIfindex, ifindex))
	if err != nil {
		return 0, false
	}
	attrs(a, func(kind uint16, value []byte) {
		if kind == attrFeatures {
			f, known = xdpFeatures(number(value)), true
		}
	})
	return f, known
}

// xdpProgram is one that IFLA_XDP tells of.
type xdpProgram struct {
	id      uint32
	generic bool
}

// xdpPrograms are those on an interface: one in the driver, one outside, one
// in hardware.
func xdpPrograms(ifindex uint32) ([]xdpProgram, error) {
	// IFLA_XDP's parts
	const attached, progID, drvID, skbID, hwID = 2, 4, 5, 6, 7
	const modeSKB = 2
	a, err := ask(unix.NETLINK_ROUTE, unix.RTM_GETLINK, 0, ifinfo(ifindex))
	if err != nil {
		return nil, fmt.Errorf("interface %d: %w", ifindex, err)
	}
	if len(a) < unix.SizeofIfInfomsg {
		return nil, errors.New("netlink: a short answer")
	}
	var found []xdpProgram
	attrs(a[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) {
		if kind != unix.IFLA_XDP {
			return
		}
		var mode byte
		var any uint32
		attrs(value, func(kind uint16, v []byte) {
			switch id := uint32(number(v)); {
			case kind == attached && len(v) == 1:
				mode = v[0]
			case kind == progID:
				any = id
			case (kind == drvID || kind == skbID || kind == hwID) && id != 0:
				found = append(found, xdpProgram{id, kind == skbID})
			}
		})
		if len(found) == 0 && any != 0 {
			found = append(found, xdpProgram{any, mode == modeSKB})
		}
	})
	return found, nil
}

// setXDP attaches (program, or takes off: -1) by netlink: only if there is
// none (expected 0), or in the place of a program by its descriptor.
func setXDP(ifindex uint32, program, expected int, generic bool) error {
	const (
		attrFD, attrFlags, attrExpected        = 1, 3, 8
		ifNoExist, skb, drv, replace           = 1, 2, 4, 16
		setLink                         uint16 = unix.RTM_SETLINK
	)
	flags := uint32(drv)
	if generic {
		flags = skb
	}
	x := attr32(nil, attrFD, uint32(int32(program)))
	if expected > 0 {
		flags |= replace
		x = attr32(x, attrExpected, uint32(expected))
	} else {
		flags |= ifNoExist
	}
	x = attr32(x, attrFlags, flags)
	_, err := ask(unix.NETLINK_ROUTE, setLink, unix.NLM_F_ACK, attr(ifinfo(ifindex), unix.IFLA_XDP|nlaNested, x))
	return err
}

// offloads are the interface's features that are on, by ethtool's names.
func offloads(ifname string) (map[string]bool, error) {
	const (
		setFeatures = 4 // ETH_SS_FEATURES
		nameLength  = 32
	)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	ne := binary.NativeEndian

	info := make([]byte, 20) // cmd, reserved, sset_mask (64 bits), one count
	ne.PutUint32(info, unix.ETHTOOL_GSSET_INFO)
	ne.PutUint64(info[8:], 1<<setFeatures)
	if err := ethtool(fd, ifname, info); err != nil {
		return nil, err
	}
	n := ne.Uint32(info[16:])
	if n == 0 || n > 1024 {
		return nil, fmt.Errorf("%s: %d features", ifname, n)
	}

	names := make([]byte, 12+int(n)*nameLength)
	ne.PutUint32(names, unix.ETHTOOL_GSTRINGS)
	ne.PutUint32(names[4:], setFeatures)
	ne.PutUint32(names[8:], n)
	if err := ethtool(fd, ifname, names); err != nil {
		return nil, err
	}

	blocks := (n + 31) / 32
	state := make([]byte, 8+blocks*16) // available, requested, active, never changed
	ne.PutUint32(state, unix.ETHTOOL_GFEATURES)
	ne.PutUint32(state[4:], blocks)
	if err := ethtool(fd, ifname, state); err != nil {
		return nil, err
	}
	on := map[string]bool{}
	for i := range n {
		active := ne.Uint32(state[8+i/32*16+8:])
		if active>>(i%32)&1 != 0 {
			on[text(names[12+i*nameLength:12+(i+1)*nameLength])] = true
		}
	}
	return on, nil
}

// ethtool asks a driver; the answer is in the place of the question.
func ethtool(fd int, ifname string, question []byte) error {
	var req struct { // ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	if len(ifname) >= unix.IFNAMSIZ {
		return unix.ENODEV
	}
	copy(req.name[:], ifname)
	var pin runtime.Pinner
	pin.Pin(&question[0])
	defer pin.Unpin()
	req.data = unsafe.Pointer(&question[0])
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); e != 0 {
		return e
	}
	return nil
}
