package system

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/test/kernel"
)

// transfer sends octets over one TCP connection.
func transfer(t testing.TB, from, to, addr string, octets int) {
	t.Helper()
	var server net.Listener
	within(t, to, func() (err error) { server, err = net.Listen("tcp", addr); return err })
	defer server.Close()
	received := make(chan int64, 1)
	go func() {
		c, err := server.Accept()
		if err != nil {
			received <- -1
			return
		}
		n, _ := io.Copy(io.Discard, c)
		c.Close()
		received <- n
	}()
	var c net.Conn
	within(t, from, func() (err error) { c, err = net.Dial("tcp", addr); return err })
	b := make([]byte, 1<<20)
	for sent := 0; sent < octets; {
		n, err := c.Write(b[:min(len(b), octets-sent)])
		if err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	c.(*net.TCPConn).CloseWrite()
	if n := <-received; n != int64(octets) {
		t.Fatalf("%d of %d octets came", n, octets)
	}
	c.Close()
}

// segmented sends datagrams in buffers of many (UDP_SEGMENT) and says what they
// are.
func segmented(t testing.TB, ns, from, to string, buffers int) (sent count) {
	t.Helper()
	const size, segments, rest = 1200, 20, 77
	within(t, ns, func() error {
		local, err := net.ResolveUDPAddr("udp", from)
		if err != nil {
			return err
		}
		remote, err := net.ResolveUDPAddr("udp", to)
		if err != nil {
			return err
		}
		c, err := net.DialUDP("udp", local, remote)
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		var set error
		raw.Control(func(fd uintptr) { set = syscall.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size) })
		if set != nil {
			return set
		}
		header := 28
		if remote.IP.To4() == nil {
			header = 48
		}
		b := make([]byte, size*segments+rest)
		for i := range buffers {
			n := len(b) - i%size // the last segment is shorter, or missing
			if _, err := c.Write(b[:n]); err != nil {
				return err
			}
			packets := (n + size - 1) / size
			sent.add(count{uint64(packets), uint64(n + packets*header)})
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	return sent
}

// fiveTuples adds up records by addresses, protocol and ports.
func fiveTuples(t testing.TB, all rows, protos string) map[string]count {
	t.Helper()
	flows := map[string]count{}
	for _, m := range all {
		if !strings.Contains(protos, m["proto"]) {
			continue
		}
		k := fmt.Sprint(m["src"], " ", m["dst"], " ", m["proto"], " ", m["sport"], " ", m["dport"])
		c := flows[k]
		c.add(count{number(t, m["packets"]), number(t, m["bytes"])})
		flows[k] = c
	}
	return flows
}

// A buffer of many segments is as many packets, wherever it is seen: by TC on
// its way out and on its way in, in buffers; by XDP and by packet sockets with
// offloads off, one by one.
func TestOffloads(t *testing.T) {
	kernel.Programs(t)
	need(t, "ethtool")
	t.Parallel()
	for _, mode := range []string{"tc", "clsact"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			n := newRouted(t)
			off := []string{"ethtool", "-K", "rb", "tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off"}
			if r := do(t, n.r, off...); r.status != 0 {
				t.Fatalf("%v: %s", off, r.stderr)
			}
			points := map[string]*process{
				"tc, sender":         meterStart(t, n.a, mode, "va", "-o", "csv", "--cache", "1Ki", "--active", "0", "--idle", "10m", "--tcp-end=false"),
				"tc, router":         meterStart(t, n.r, mode, "ra", "-o", "csv", "--cache", "1Ki", "--active", "0", "--idle", "10m", "--tcp-end=false"),
				"xdp, receiver":      meterStart(t, n.b, "xdp", "vb", "-o", "csv", "--cache", "1Ki", "--active", "0", "--idle", "10m", "--tcp-end=false"),
				"afpacket, offloads": meterStart(t, n.r, "afpacket", "rb", "-o", "csv", "--active", "0", "--idle", "10m", "--tcp-end=false"),
			}
			listen(t, n.b, "10.2.0.1:9")
			listen(t, n.b, "[fd00:2::1]:9")
			before := counted(t, n.a, "va").Packets
			transfer(t, n.a, n.b, "10.2.0.1:5001", 50_000_000)
			buffers := counted(t, n.a, "va").Packets - before
			transfer(t, n.a, n.b, "[fd00:2::1]:5001", 20_000_000)
			udp4 := segmented(t, n.a, "10.1.0.1:6000", "10.2.0.1:9", 200)
			udp6 := segmented(t, n.a, "[fd00:1::1]:6000", "[fd00:2::1]:9", 200)
			settle()
			seen := map[string]map[string]count{}
			for name, p := range points {
				p.stop(t)
				seen[name] = fiveTuples(t, parseCSV(t, p.stdout.String()), "6 17")
			}
			want := seen["afpacket, offloads"]
			if len(want) != 6 {
				t.Errorf("%d flows, want 2 connections both ways and 2 of datagrams: %v", len(want), want)
			}
			for key, sent := range map[string]count{"10.1.0.1 10.2.0.1 17 6000 9": udp4, "fd00:1::1 fd00:2::1 17 6000 9": udp6} {
				if want[key] != sent {
					t.Errorf("%s: packet sockets counted %+v, %+v were sent", key, want[key], sent)
				}
			}
			// A busy machine may fill the rings between the router and the receiver: what
			// the link lost there, either way, is the whole difference.
			down := deviceDrops(t, n.r, "rb", "tx") + deviceDrops(t, n.b, "vb", "rx")
			up := deviceDrops(t, n.b, "vb", "tx") + deviceDrops(t, n.r, "rb", "rx")
			if received := sumOf(seen["xdp, receiver"]).Packets; received+down != sumOf(want).Packets+up {
				t.Errorf("xdp, receiver: %d packets, the link lost %d on their way there and %d from there, packet sockets counted %d", received, down, up, sumOf(want).Packets)
			}
			var all uint64
			for name, flows := range seen {
				for k, w := range want {
					if flows[k] != w && (name != "xdp, receiver" || down+up == 0) {
						t.Errorf("%s: %s: %+v, packet sockets counted %+v", name, k, flows[k], w)
					}
				}
				for k, c := range flows {
					if _, ok := want[k]; !ok {
						t.Errorf("%s: %s: %+v, which packet sockets did not see", name, k, c)
					}
				}
			}
			for k, c := range want {
				if strings.Contains(k, " 6 ") && strings.HasPrefix(k, "10.") {
					all += c.Packets
				}
			}
			if buffers*2 > all {
				t.Errorf("%d packets in %d buffers: offloads are not on, nothing was shown", all, buffers)
			}
			t.Logf("%d packets of one connection in %d buffers", all, buffers)
			detach(t, n.a)
			detach(t, n.r)
			detach(t, n.b)
		})
	}
}

// deviceDrops is what a device says that it lost of one direction, rx or tx.
func deviceDrops(t testing.TB, ns, device, direction string) uint64 {
	t.Helper()
	r := do(t, ns, "cat", "/sys/class/net/"+device+"/statistics/"+direction+"_dropped")
	n, err := strconv.ParseUint(strings.TrimSpace(r.stdout), 10, 64)
	if err != nil {
		t.Fatalf("drops of %s: %v %s", device, err, r.stderr)
	}
	return n
}

func sumOf(flows map[string]count) (c count) {
	for _, f := range flows {
		c.Packets += f.Packets
		c.Bytes += f.Bytes
	}
	return c
}
