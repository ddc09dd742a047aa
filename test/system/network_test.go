package system

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"weir/test/kernel"
)

var namespaces atomic.Uint32

// namespace makes a network of its own with a loopback; it goes with the test.
// IPv6 makes noise of its own and is switched off.
func namespace(t testing.TB) string {
	t.Helper()
	needRoot(t)
	name := fmt.Sprintf("weirtest-%d-%d", os.Getpid(), namespaces.Add(1))
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Skipf("skipped: no network namespace: %v: %s", err, out)
	}
	folder := pinFolder(t, name)
	cookies.Store(folder, nil)
	t.Cleanup(func() {
		os.RemoveAll(folder) // the pins; with them go the programs
		exec.Command("ip", "netns", "del", name).Run()
	})
	must(t, name, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; ip link set lo up")
	return name
}

// line is two namespaces with a veth pair between them: va in a, vb in b, with
// 10.9.0.1 and 10.9.0.2. Nothing travels on it that the test did not send:
// neighbours are fixed. With offloads off a packet on it is a packet.
type line struct{ a, b string }

func newLine(t testing.TB, addresses bool) line {
	t.Helper()
	kernel.Programs(t) // a packet socket's filter is one
	l := line{namespace(t), namespace(t)}
	if out, err := exec.Command("ip", "link", "add", "va", "netns", l.a, "type", "veth", "peer", "name", "vb", "netns", l.b).CombinedOutput(); err != nil {
		t.Skipf("skipped: no veth pair: %v: %s", err, out)
	}
	for _, end := range []struct{ ns, name, addr, mac, peer, peerMAC string }{
		{l.a, "va", "10.9.0.1", "02:00:00:00:00:01", "10.9.0.2", "02:00:00:00:00:02"},
		{l.b, "vb", "10.9.0.2", "02:00:00:00:00:02", "10.9.0.1", "02:00:00:00:00:01"},
	} {
		must(t, end.ns, "ip", "link", "set", end.name, "address", end.mac)
		if addresses {
			need(t, "ethtool")
			must(t, end.ns, "ip", "addr", "add", end.addr+"/24", "dev", end.name)
			must(t, end.ns, "ethtool", "-K", end.name, "tso", "off", "gso", "off", "gro", "off", "tx", "off", "rx", "off")
		}
		must(t, end.ns, "ip", "link", "set", end.name, "up")
		if addresses {
			must(t, end.ns, "ip", "neigh", "replace", end.peer, "lladdr", end.peerMAC, "dev", end.name, "nud", "permanent")
		}
	}
	return l
}

// counted is what the kernel counted at an interface, both directions: frames,
// and their octets less the Ethernet headers.
func counted(t testing.TB, ns, name string) (c count) {
	t.Helper()
	dir := "/sys/class/net/" + name + "/statistics/"
	f := strings.Fields(must(t, ns, "cat", dir+"rx_packets", dir+"tx_packets", dir+"rx_bytes", dir+"tx_bytes").stdout)
	if len(f) != 4 {
		t.Fatalf("%s: no counters", name)
	}
	c.Packets = number(t, f[0]) + number(t, f[1])
	c.Bytes = number(t, f[2]) + number(t, f[3]) - 14*c.Packets
	if strings.Contains(must(t, ns, "ip", "-d", "link", "show", "dev", name).stdout, "xdp") {
		c.Bytes += 14 * number(t, f[0]) // veth with XDP counts what it receives without them
	}
	return c
}

// within runs f on a thread in the namespace; sockets made there stay there.
func within(t testing.TB, ns string, f func() error) {
	t.Helper()
	if err := inNamespace(ns, f); err != nil {
		t.Fatal(err)
	}
}

func inNamespace(ns string, f func() error) error {
	if ns == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := os.Open("/run/netns/" + ns)
		if err == nil {
			err = unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET)
			fd.Close()
		}
		if err != nil {
			done <- fmt.Errorf("namespace %s: %w", ns, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// sender puts frames on an interface.
type sender struct{ fd int }

func newSender(t testing.TB, ns, ifname string) *sender {
	t.Helper()
	s := &sender{fd: -1}
	within(t, ns, func() error {
		ifc, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: ifc.Index})
	})
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

// send sends frames in bulk (sendmmsg) and fails unless all went out.
func (s *sender) send(t testing.TB, frames ...[]byte) {
	t.Helper()
	type mmsghdr struct {
		h unix.Msghdr
		n uint32
		_ uint32
	}
	const bulk = 64
	var msgs [bulk]mmsghdr
	var iov [bulk]unix.Iovec
	for len(frames) > 0 {
		n := min(bulk, len(frames))
		for i, f := range frames[:n] {
			iov[i] = unix.Iovec{Base: &f[0]}
			iov[i].SetLen(len(f))
			msgs[i] = mmsghdr{}
			msgs[i].h.Iov = &iov[i]
			msgs[i].h.SetIovlen(1)
		}
		for sent := 0; sent < n; {
			m, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&msgs[sent])), uintptr(n-sent), 0, 0, 0)
			switch {
			case errno == unix.ENOBUFS || errno == unix.EAGAIN || errno == unix.EINTR:
				time.Sleep(time.Millisecond)
			case errno != 0:
				t.Fatalf("send: %v", errno)
			}
			if errno == 0 {
				sent += int(m)
			}
		}
		runtime.KeepAlive(frames)
		frames = frames[n:]
	}
}

// packetSocket is one that takes in what comes to an interface, and waits for it 50 ms at
// a time; kind says whether with its link header. Who has it closes it.
func packetSocket(t testing.TB, ns, ifname string, kind int) (fd int) {
	t.Helper()
	within(t, ns, func() error {
		ifc, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: ifc.Index}) // ETH_P_ALL in network order
	})
	return fd
}

// rings waits until a process has so many packet sockets in its namespace that
// receive from the interface.
func rings(t testing.TB, p *process, ns string, want int) {
	t.Helper()
	until(t, 10*time.Second, fmt.Sprintf("%d packet sockets in %s", want, ns), func() bool {
		select {
		case <-p.ended:
			t.Fatalf("it ended: %s", p.stderr.String())
		default:
		}
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "net/packet"))
		if err != nil {
			return false
		}
		n := 0
		for _, l := range strings.Split(string(text), "\n")[1:] {
			if f := strings.Fields(l); len(f) > 5 && (f[2] == "3" || f[2] == "2") && f[3] == "0003" && f[5] == "1" { // raw or cooked, every protocol, running
				n++
			}
		}
		return n >= want
	})
	time.Sleep(300 * time.Millisecond) // the filter that passes packets comes last
}

// client asks a weir in a namespace.
func client(ns string) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			err = inNamespace(ns, func() (err error) {
				c, err = net.Dial(network, addr)
				return err
			})
			return c, err
		},
	}}
}

// fetch is the body of an answer.
func fetch(ns, url string) (string, error) {
	r, err := client(ns).Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, r.Status, b)
	}
	return string(b), err
}

// metric reads one sample; absent is -1.
func metric(t testing.TB, ns, console, name string) float64 {
	t.Helper()
	text, err := fetch(ns, "http://"+console+"/metrics")
	if err != nil {
		return -1
	}
	for l := range strings.SplitSeq(text, "\n") {
		if rest, ok := strings.CutPrefix(l, name+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				t.Fatalf("%s: %v", l, err)
			}
			return v
		}
	}
	return -1
}
