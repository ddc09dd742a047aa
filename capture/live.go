package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"weir/flow"
	"weir/packet"
)

const (
	defaultSnap = 256 // link headers, tags, IPv6 extension headers and the ports
	maxSnap     = 128 << 10
	defaultRing = 32 << 20
	blockSize   = 256 << 10
	blockWait   = 60 * time.Millisecond // at most, until a packet can be read
	pollWait    = 500 * time.Millisecond
)

// LiveOptions are the options of OpenLive; the zero value is ready for use.
type LiveOptions struct {
	Promiscuous bool    // take frames for other stations too
	SnapLen     int     // octets kept of each frame; 0: 256, enough for the headers
	RingBytes   int     // memory of each source's ring; 0: 32 MiB
	Filter      *Filter // nil: everything; its link type need not be the interface's
}

// OpenLive opens an interface for reading what it receives and sends.
//
// A frame that the NIC or the kernel put together from several packets, or has
// still to take apart (GRO, GSO, TSO), comes as one packet whose Wire, and
// whose length by the IP header, are those of the whole: bytes are nearly
// right, packets are too few. Only hooks in the kernel count these exactly.
//
// The source implements Stats. Read may give an error that is ErrDown and be
// called again; ErrGone is final.
func OpenLive(ifname string, opt LiveOptions) (Source, error) {
	all, err := OpenLiveGroup(ifname, 1, opt)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// OpenLiveGroup opens n sources that share one interface: the kernel gives all
// packets of a flow, in both directions, to the same one (later fragments, that
// have no ports, to a common one).
func OpenLiveGroup(ifname string, n int, opt LiveOptions) ([]Source, error) {
	ifc, err := interfaceByName(ifname)
	if err != nil {
		return nil, err
	}
	var group []*live
	undo := func(err error) ([]Source, error) {
		for _, l := range group {
			l.Close()
		}
		return nil, fmt.Errorf("%s: %w", ifname, err)
	}
	for range max(n, 1) {
		l, err := newLive(ifc, opt)
		if err != nil {
			return undo(err)
		}
		group = append(group, l)
	}
	// A socket has everything between its binding and its joining the group.
	// None passes a packet before all have joined, so that none comes twice.
	if n > 1 {
		if err := fanout(group); err != nil {
			return undo(err)
		}
	}
	all := make([]Source, len(group))
	for i, l := range group {
		if err := l.attach(l.program); err != nil {
			return undo(fmt.Errorf("attaching the filter: %w", err))
		}
		all[i] = l
	}
	return all, nil
}

func fanout(group []*live) error {
	how := unix.PACKET_FANOUT_HASH
	arg := (how | unix.PACKET_FANOUT_FLAG_UNIQUEID) << 16
	for _, l := range group {
		if err := unix.SetsockoptInt(l.fd, unix.SOL_PACKET, unix.PACKET_FANOUT, arg); err != nil {
			return fmt.Errorf("sharing the interface among %d readers: %w", len(group), err)
		}
		id, err := unix.GetsockoptInt(l.fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
		if err != nil {
			return fmt.Errorf("sharing the interface: %w", err)
		}
		arg = id&0xffff | how<<16
	}
	return nil
}

// interfaceByName finds an interface, or says which ones there are.
func interfaceByName(name string) (*net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("%s: listing the interfaces: %w", name, err)
	}
	var names []string
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
		names = append(names, all[i].Name)
	}
	if near := nearest(name, names); near != "" {
		return nil, fmt.Errorf("%s: no such interface; did you mean %s?", name, near)
	}
	return nil, fmt.Errorf("%s: no such interface; there are %s", name, strings.Join(names, ", "))
}

// live is one AF_PACKET socket with its ring (TPACKET_V3): blocks of packets
// that the kernel fills in turn and hands over by their status word.
type live struct {
	name    string
	index   int
	lo      bool // loopback gives every packet twice: sent and received
	cooked  bool // the socket gives no link headers
	link    packet.LinkType
	program []bpf.RawInstruction

	fd, wake int // the socket; an eventfd that ends waiting
	closed   atomic.Bool

	mu     sync.Mutex // Read and Close
	ring   []byte
	block  int // the block being read
	next   int // offset in it of the next packet
	left   int // packets left in it
	inside bool
	held   int // blocks before it that the last batch points into

	stats          sync.Mutex
	packets, drops uint64
}

func newLive(ifc *net.Interface, opt LiveOptions) (_ *live, err error) {
	l := &live{name: ifc.Name, index: ifc.Index, lo: ifc.Flags&net.FlagLoopback != 0, fd: -1, wake: -1}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	snap := opt.SnapLen
	if snap == 0 {
		snap = defaultSnap
	}
	if snap < 64 || snap > maxSnap {
		return nil, fmt.Errorf("a snap length of %d; 64 to %d would be accepted", snap, maxSnap)
	}
	size := opt.RingBytes
	if size == 0 {
		size = defaultRing
	}
	if size < 2*blockSize || size > 1<<30 {
		return nil, fmt.Errorf("a ring of %d octets; 512 KiB to 1 GiB would be accepted", size)
	}
	blocks := size / blockSize

	hardware, err := hardwareType(ifc.Name)
	if err != nil {
		return nil, err
	}
	kind := unix.SOCK_RAW
	switch hardware {
	case unix.ARPHRD_ETHER, unix.ARPHRD_LOOPBACK:
		l.link = packet.LinkEthernet
	case unix.ARPHRD_IEEE80211:
		l.link = packet.LinkWLAN
	case unix.ARPHRD_IEEE80211_PRISM:
		l.link = packet.LinkPrism
	case unix.ARPHRD_IEEE80211_RADIOTAP:
		l.link = packet.LinkRadiotap
	default: // tun, WireGuard, PPP, tunnels: from the network header on
		kind, l.cooked = unix.SOCK_DGRAM, true
		l.link = packet.LinkNetwork
	}
	if l.program, err = opt.Filter.program(l.link, snap); err != nil {
		return nil, err
	}

	// Protocol 0: no packet before all is set.
	if l.fd, err = unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		l.fd = -1
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			return nil, fmt.Errorf("%w: reading an interface needs CAP_NET_RAW: run as root, or give the program the capability (setcap cap_net_raw+ep)", os.ErrPermission)
		}
		return nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		l.wake = -1
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err = unix.SetsockoptInt(l.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return nil, fmt.Errorf("TPACKET_V3 (Linux 3.2 or later): %w", err)
	}
	if l.lo {
		// Older kernels (before 4.20) do not know it; Read skips these anyway.
		unix.SetsockoptInt(l.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	}
	const frame = 2048 // only has to divide the block here
	req := unix.TpacketReq3{
		Block_size: blockSize, Block_nr: uint32(blocks),
		Frame_size: frame, Frame_nr: uint32(blocks * (blockSize / frame)),
		Retire_blk_tov: uint32(blockWait / time.Millisecond),
	}
	if err = unix.SetsockoptTpacketReq3(l.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return nil, fmt.Errorf("a ring of %d MiB: %w", size>>20, err)
	}
	if l.ring, err = unix.Mmap(l.fd, 0, blocks*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("mapping the ring: %w", err)
	}
	if err = l.attach([]bpf.RawInstruction{{Op: unix.BPF_RET | unix.BPF_K}}); err != nil {
		return nil, fmt.Errorf("attaching the filter: %w", err)
	}
	if opt.Promiscuous {
		m := unix.PacketMreq{Ifindex: int32(l.index), Type: unix.PACKET_MR_PROMISC}
		if err = unix.SetsockoptPacketMreq(l.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
			return nil, fmt.Errorf("promiscuous mode: %w", err)
		}
	}
	if err = unix.Bind(l.fd, &unix.SockaddrLinklayer{Protocol: hton16(unix.ETH_P_ALL), Ifindex: l.index}); err != nil {
		return nil, fmt.Errorf("binding to the interface: %w", err)
	}
	return l, nil
}

func hton16(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// hardwareType is the interface's ARPHRD number.
func hardwareType(name string) (uint16, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("asking for the link type: %w", err)
	}
	defer unix.Close(fd)
	// struct ifreq: the name, then a sockaddr whose family is the answer.
	var req [40]byte
	if len(name) >= unix.IFNAMSIZ {
		return 0, fmt.Errorf("%w: the name is too long", unix.EINVAL)
	}
	copy(req[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFHWADDR, uintptr(unsafe.Pointer(&req[0]))); errno != 0 {
		return 0, fmt.Errorf("asking for the link type: %w", errno)
	}
	runtime.KeepAlive(&req)
	return binary.NativeEndian.Uint16(req[unix.IFNAMSIZ:]), nil
}

func (l *live) attach(program []bpf.RawInstruction) error {
	code := make([]unix.SockFilter, len(program))
	for i, op := range program {
		code[i] = unix.SockFilter{Code: op.Op, Jt: op.Jt, Jf: op.Jf, K: op.K}
	}
	err := unix.SetsockoptSockFprog(l.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
	if errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("%d instructions, more than the kernel takes for one socket: shorten it, or raise net.core.optmem_max: %w", len(code), err)
	}
	return err
}

// status is a block's status word: the kernel's until it has USER set.
func (l *live) status(block int) *uint32 {
	return (*uint32)(unsafe.Pointer(&l.ring[block*blockSize+int(unsafe.Offsetof(unix.TpacketBlockDesc{}.Hdr))]))
}

func (l *live) blocks() int { return len(l.ring) / blockSize }

func (l *live) Read(b *Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cap(b.Packets) == 0 {
		b.Packets = make([]Packet, 0, batchSize)
	}
	b.Packets = b.Packets[:0]
	if l.closed.Load() {
		return fmt.Errorf("%s: %w", l.name, os.ErrClosed)
	}
	for ; l.held > 0; l.held-- {
		n := l.blocks()
		atomic.StoreUint32(l.status((l.block+n-l.held)%n), unix.TP_STATUS_KERNEL)
	}
	if l.take(b); len(b.Packets) > 0 {
		return nil
	}
	fds := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}, {Fd: int32(l.wake), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, int(pollWait/time.Millisecond))
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("%s: waiting for packets: %w", l.name, err)
	}
	if l.closed.Load() {
		return fmt.Errorf("%s: %w", l.name, os.ErrClosed)
	}
	l.take(b)
	if fds[0].Revents&unix.POLLERR != 0 {
		return l.broken()
	}
	return nil
}

// broken says what is wrong with the interface.
func (l *live) broken() error {
	code, err := unix.GetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		return fmt.Errorf("%s: asking for the error: %w", l.name, err)
	case code == 0:
		return nil
	}
	if _, err := net.InterfaceByIndex(l.index); err != nil {
		return fmt.Errorf("%s: %w", l.name, ErrGone)
	}
	if unix.Errno(code) == unix.ENETDOWN {
		return fmt.Errorf("%s: %w; reading goes on when it is up", l.name, ErrDown)
	}
	return fmt.Errorf("%s: reading: %w", l.name, unix.Errno(code))
}

// take moves packets from the blocks that are ready into the batch. A block
// whose last packet was taken is held until the next Read, since the batch
// points into it.
func (l *live) take(b *Batch) {
	out := b.Packets[:cap(b.Packets)]
	n := 0
	for n < len(out) {
		if l.left == 0 {
			if l.inside {
				l.inside = false
				l.block = (l.block + 1) % l.blocks()
				l.held++
			}
			if l.held == l.blocks() || atomic.LoadUint32(l.status(l.block))&unix.TP_STATUS_USER == 0 {
				break
			}
			h := (*unix.TpacketHdrV1)(unsafe.Pointer(l.status(l.block)))
			l.inside, l.left, l.next = true, int(h.Num_pkts), int(h.Offset_to_first_pkt)
			continue
		}
		l.left--
		block := l.ring[l.block*blockSize : (l.block+1)*blockSize]
		if l.next < 0 || l.next+unix.SizeofTpacket3Hdr+unix.SizeofSockaddrLinklayer > blockSize {
			l.left = 0 // not from this kernel
			continue
		}
		h := (*unix.Tpacket3Hdr)(unsafe.Pointer(&block[l.next]))
		from := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&block[l.next+unix.SizeofTpacket3Hdr]))
		start := l.next + int(h.Mac)
		end := start + int(h.Snaplen)
		l.next += int(h.Next_offset)
		sent := from.Pkttype == unix.PACKET_OUTGOING
		if end > blockSize || end < start || sent && l.lo {
			continue
		}
		p := &out[n]
		n++
		p.Data = block[start:end:end]
		p.Time = int64(h.Sec)*1e9 + int64(h.Nsec)
		p.Wire = h.Len
		p.Interface = uint32(l.index)
		p.Egress = sent
		p.Link = l.link
		if l.cooked {
			p.Link = packet.LinkOfEtherType(hton16(from.Protocol))
		}
		p.VLAN = 0
		if h.Status&unix.TP_STATUS_VLAN_VALID != 0 {
			p.VLAN = flow.KeyTagged | uint16(h.Hv1.Vlan_tci)&flow.VLANMask
		}
	}
	b.Packets = out[:n]
}

func (l *live) Stats() (packets, drops uint64) {
	l.stats.Lock()
	defer l.stats.Unlock()
	if !l.closed.Load() {
		// The kernel's counters start again with every look.
		if s, err := unix.GetsockoptTpacketStatsV3(l.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			l.packets += uint64(s.Packets)
			l.drops += uint64(s.Drops)
		}
	}
	return l.packets, l.drops
}

// Close ends a Read that waits, and then the socket. The last batch's data is
// gone with it.
func (l *live) Close() error {
	if l.fd >= 0 {
		l.Stats()
	}
	if l.closed.Swap(true) {
		return nil
	}
	if l.wake >= 0 {
		unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Lock()
	defer l.stats.Unlock()
	var err error
	if l.ring != nil {
		err = unix.Munmap(l.ring)
		l.ring = nil
	}
	for _, fd := range []int{l.fd, l.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	return err
}
