package capture_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weir/capture"
	"weir/flow"
	"weir/packet"
	"weir/test/kernel"
)

// namespace puts the test's thread into a network of its own with a pair of
// linked interfaces, both up; the thread is thrown away after the test.
func namespace(t *testing.T) (a, b netlink.Link) {
	kernel.Programs(t)     // a packet socket's filter is one; and reading interfaces needs root as well
	runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("skipped: no network namespace: %v", err)
	}
	// Without IPv6 the line is quiet.
	os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wa"}, PeerName: "wb"}); err != nil {
		t.Skipf("skipped: no pair of interfaces: %v", err)
	}
	for _, name := range []string{"wa", "wb", "lo"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
		switch name {
		case "wa":
			a = l
		case "wb":
			b = l
		}
	}
	return a, b
}

// udp4 is an Ethernet frame with a UDP datagram, tags in front of it.
func udp4(src, dst string, sport, dport uint16, payload int, tags ...uint16) []byte {
	be := binary.BigEndian
	f := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}, make([]byte, 0, 100)...)
	for _, tag := range tags {
		f = be.AppendUint16(be.AppendUint16(f, 0x8100), tag)
	}
	f = be.AppendUint16(f, 0x0800)
	f = append(f, 0x45, 0)
	f = be.AppendUint16(f, uint16(28+payload))
	f = append(f, 0, 0, 0, 0, 64, 17, 0, 0)
	f = append(f, netip.MustParseAddr(src).AsSlice()...)
	f = append(f, netip.MustParseAddr(dst).AsSlice()...)
	f = be.AppendUint16(f, sport)
	f = be.AppendUint16(f, dport)
	f = be.AppendUint16(f, uint16(8+payload))
	return append(f, make([]byte, 2+payload)...)
}

// sender sends frames out of an interface.
func sender(t *testing.T, index int) func(frames ...[]byte) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func(frames ...[]byte) {
		t.Helper()
		for _, f := range frames {
			if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

type seen struct {
	packet.Info
	capture.Packet
	why packet.Reason
}

// collect reads until it has n packets, or the line is quiet.
func collect(t *testing.T, src capture.Source, n int) []seen {
	t.Helper()
	var all []seen
	b := capture.Batch{Packets: make([]capture.Packet, 0, 3)}
	for quiet := 0; len(all) < n && quiet < 1; {
		if err := src.Read(&b); err != nil {
			t.Error(err)
			return all
		}
		if len(b.Packets) == 0 {
			quiet++
		}
		for _, p := range b.Packets {
			s := seen{Packet: p}
			s.why = p.Decode(&s.Info)
			all = append(all, s)
		}
	}
	return all
}

func TestLive(t *testing.T) {
	a, b := namespace(t)
	src, err := capture.OpenLive("wa", capture.LiveOptions{SnapLen: 96, Promiscuous: true})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	before := time.Now()
	sender(t, b.Attrs().Index)(
		udp4("10.0.0.1", "10.0.0.2", 1, 1000, 1000),
		udp4("10.0.0.1", "10.0.0.2", 2, 1000, 10, 7),
		udp4("10.0.0.1", "10.0.0.2", 3, 1000, 10, 7, 8))
	sender(t, a.Attrs().Index)(udp4("10.0.0.2", "10.0.0.1", 1000, 1, 10))
	got := collect(t, src, 4)
	if len(got) != 4 {
		t.Fatalf("%d packets, want 4", len(got))
	}
	const tag = flow.KeyTagged
	for i, w := range []struct {
		sport  uint16
		length uint32
		vlan   uint16 // of the key
		off    uint16 // taken off the frame
		egress bool
	}{
		{1, 1028, 0, 0, false},
		{2, 38, tag | 7, tag | 7, false},
		{3, 38, tag | 7, tag | 7, false},
		{1000, 38, 0, 0, true},
	} {
		g := got[i]
		if g.why != packet.Decoded || g.Key.SrcPort != w.sport || g.Length != w.length || g.Key.VLAN != w.vlan || g.VLAN != w.off || g.Egress != w.egress {
			t.Errorf("packet %d: %+v, want %+v", i, g, w)
		}
		if g.Key.Input != uint32(a.Attrs().Index) || g.Interface != g.Key.Input {
			t.Errorf("packet %d: interface %d, want %d", i, g.Interface, a.Attrs().Index)
		}
		if at := time.Unix(0, g.Info.Time); at.Before(before.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
			t.Errorf("packet %d: time %v", i, at)
		}
	}
	if len(got[0].Data) != 96 || got[0].Wire != 14+1028 {
		t.Errorf("captured %d of %d, want 96 of 1042", len(got[0].Data), got[0].Wire)
	}
	if p, d := src.(capture.Stats).Stats(); p != 4 || d != 0 {
		t.Errorf("stats %d, %d, want 4, 0", p, d)
	}
}

// TestLiveOnce: loopback shows every packet once.
func TestLiveOnce(t *testing.T) {
	namespace(t)
	src, err := capture.OpenLive("lo", capture.LiveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	lo, _ := netlink.LinkByName("lo")
	sender(t, lo.Attrs().Index)(udp4("127.0.0.1", "127.0.0.1", 5, 6, 0), udp4("127.0.0.1", "127.0.0.1", 7, 8, 0))
	got := collect(t, src, 3)
	if len(got) != 2 || got[0].Egress || got[0].Key.SrcPort != 5 || got[1].Key.SrcPort != 7 {
		t.Errorf("got %+v, want two received packets", got)
	}
}

// TestLiveCooked: an interface without link headers gives packets from the
// network header on.
func TestLiveCooked(t *testing.T) {
	namespace(t)
	if err := netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "wt"}, Mode: netlink.TUNTAP_MODE_TUN}); err != nil {
		t.Skipf("skipped: no tun device: %v", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
	if err != nil {
		t.Skipf("skipped: no tun device: %v", err)
	}
	defer unix.Close(fd)
	ifr, _ := unix.NewIfreq("wt")
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Skipf("skipped: no tun device: %v", err)
	}
	l, _ := netlink.LinkByName("wt")
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	filter, err := capture.CompileFilter("udp port 9 and inbound", packet.LinkNetwork)
	if err != nil {
		t.Fatal(err)
	}
	src, err := capture.OpenLive("wt", capture.LiveOptions{Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for _, port := range []uint16{9, 10} {
		if _, err := unix.Write(fd, udp4("10.0.0.1", "10.0.0.2", port, 99, 0)[14:]); err != nil {
			t.Fatal(err)
		}
	}
	if got := collect(t, src, 2); len(got) != 1 || got[0].why != packet.Decoded || got[0].Key.SrcPort != 9 || got[0].Length != 28 {
		t.Errorf("got %+v, want one packet of port 9", got)
	}
}

// TestLiveFilter: the kernel passes what the expression says, with a tag in the
// frame or taken off it.
func TestLiveFilter(t *testing.T) {
	_, b := namespace(t)
	frames := [][]byte{
		udp4("10.0.0.1", "10.0.0.2", 1, 53, 0),
		udp4("10.0.0.1", "10.0.0.2", 2, 53, 0, 7),
		udp4("10.0.0.1", "10.0.0.2", 3, 53, 0, 7, 8),
		udp4("10.0.0.1", "10.0.0.2", 4, 80, 0, 9),
		udp4("10.0.0.1", "10.0.0.2", 5, 80, 100),
	}
	// As in a capture file, and in the kernel's datapath: a tagged packet is the
	// packet in it behind the word vlan only.
	wants := map[string]string{
		"":                                 "12345",
		"port 53":                          "1",
		"vlan":                             "234",
		"vlan 7":                           "23",
		"vlan and port 53":                 "2",
		"vlan 7 and vlan 8":                "3",
		"vlan and vlan and udp":            "3",
		"vlan 9 and port 80":               "4",
		"not vlan":                         "15",
		"udp and not vlan 7":               "15",
		"not vlan 7 and ether[20] != 0xff": "145",
		"greater 100":                      "5",
		"outbound":                         "",
		"inbound and src port 5":           "5",
		"port 80 or vlan and ip":           "24",
		"ether src 2:0:0:0:0:1":            "12345",
		"udp[0:2] > 3 or src port 1":       "15",
		"ether[14:2] = 7 or ether[12:4] = 0x81000009": "234",
		"len = 46": "24",
	}
	sources := map[string]capture.Source{}
	for expr := range wants {
		filter, err := capture.CompileFilter(expr, packet.LinkNetwork)
		if err != nil {
			t.Errorf("%q: %v", expr, err)
			continue
		}
		src, err := capture.OpenLive("wa", capture.LiveOptions{Filter: filter, RingBytes: 1 << 20})
		if err != nil {
			t.Errorf("%q: %v", expr, err)
			continue
		}
		defer src.Close()
		sources[expr] = src
	}
	sender(t, b.Attrs().Index)(frames...)
	var all sync.WaitGroup
	for expr, src := range sources {
		all.Go(func() {
			got := ""
			for _, p := range collect(t, src, len(frames)+1) {
				got += string('0' + rune(p.Key.SrcPort)) // the frame's number
			}
			if want := wants[expr]; got != want {
				t.Errorf("%q: packets %q, want %q", expr, got, want)
			}
		})
	}
	all.Wait()
}

// TestLiveShared: sources of a group have every packet once, a flow's all in
// one of them.
func TestLiveShared(t *testing.T) {
	_, b := namespace(t)
	group, err := capture.OpenLiveGroup("wa", 3, capture.LiveOptions{RingBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	const flows, each = 40, 5
	send := sender(t, b.Attrs().Index)
	for range each {
		for i := range flows {
			send(udp4("10.0.0.1", "10.0.0.2", uint16(i), 9, 0))
		}
	}
	where, count, used := map[uint16]int{}, map[uint16]int{}, map[int]bool{}
	for i, src := range group {
		var batch capture.Batch
		for quiet := 0; quiet < 1; {
			if err := src.Read(&batch); err != nil {
				t.Fatal(err)
			}
			if len(batch.Packets) == 0 {
				quiet++
			}
			for j := range batch.Packets {
				var in packet.Info
				batch.Packets[j].Decode(&in)
				if at, ok := where[in.Key.SrcPort]; ok && at != i {
					t.Errorf("flow %d in sources %d and %d", in.Key.SrcPort, at, i)
				}
				where[in.Key.SrcPort] = i
				count[in.Key.SrcPort]++
				used[i] = true
			}
		}
		src.Close()
	}
	for i := range uint16(flows) {
		if count[i] != each {
			t.Errorf("flow %d: %d packets, want %d", i, count[i], each)
		}
	}
	if len(used) < 2 {
		t.Errorf("all flows went to %d source", len(used))
	}
}

// TestLiveDrops: what does not fit into the ring is counted.
func TestLiveDrops(t *testing.T) {
	_, b := namespace(t)
	src, err := capture.OpenLive("wa", capture.LiveOptions{RingBytes: 512 << 10, SnapLen: 1500})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	const sent = 3000
	send, frame := sender(t, b.Attrs().Index), udp4("10.0.0.1", "10.0.0.2", 1, 9, 1400)
	for range sent {
		send(frame)
	}
	got := 0
	var batch capture.Batch
	for quiet := 0; quiet < 1; {
		if err := src.Read(&batch); err != nil {
			t.Fatal(err)
		}
		if got += len(batch.Packets); len(batch.Packets) == 0 {
			quiet++
		}
	}
	packets, drops := src.(capture.Stats).Stats()
	if packets != sent || drops == 0 || uint64(got)+drops != packets {
		t.Errorf("%d sent, %d read; the kernel says %d packets, %d dropped", sent, got, packets, drops)
	}
}

// TestLivePermission needs no root, on the contrary.
func TestLivePermission(t *testing.T) {
	asNobody(t, func() {
		if _, err := capture.OpenLive("lo", capture.LiveOptions{}); !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "lo: ") || !strings.Contains(err.Error(), "CAP_NET_RAW") {
			t.Errorf("without rights: %v", err)
		}
	})
}

func TestLiveErrors(t *testing.T) {
	a, _ := namespace(t)
	if _, err := capture.OpenLive("wc", capture.LiveOptions{}); err == nil || !strings.Contains(err.Error(), "did you mean w") {
		t.Errorf("wrong name: %v", err)
	}
	if _, err := capture.OpenLive("nothinglikeit", capture.LiveOptions{}); err == nil || !strings.Contains(err.Error(), "there are lo, ") {
		t.Errorf("wrong name: %v", err)
	}
	src, err := capture.OpenLive("wa", capture.LiveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	// until is the first error, for a while.
	until := func() error {
		var b capture.Batch
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
			if err := src.Read(&b); err != nil {
				return err
			}
		}
		return nil
	}
	if err := netlink.LinkSetDown(a); err != nil {
		t.Fatal(err)
	}
	if err := until(); !errors.Is(err, capture.ErrDown) {
		t.Errorf("down: %v, want ErrDown", err)
	}
	if err := netlink.LinkSetUp(a); err != nil {
		t.Fatal(err)
	}
	peer, _ := netlink.LinkByName("wb")
	sender(t, peer.Attrs().Index)(udp4("10.0.0.1", "10.0.0.2", 1, 9, 0))
	if got := collect(t, src, 1); len(got) != 1 {
		t.Errorf("up again: %d packets, want 1", len(got))
	}
	if err := netlink.LinkDel(a); err != nil {
		t.Fatal(err)
	}
	if err := until(); !errors.Is(err, capture.ErrGone) {
		t.Errorf("deleted: %v, want ErrGone", err)
	}
	if err := src.Close(); err != nil {
		t.Error(err)
	}
	var b capture.Batch
	if err := src.Read(&b); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v, want os.ErrClosed", err)
	}
}

// TestLiveClose: Close ends a Read that waits.
func TestLiveClose(t *testing.T) {
	namespace(t)
	src, err := capture.OpenLive("wa", capture.LiveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		var b capture.Batch
		for {
			if err := src.Read(&b); err != nil {
				done <- err
				return
			}
		}
	}()
	time.Sleep(20 * time.Millisecond)
	if err := src.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v, want os.ErrClosed", err)
	}
}
