package host

import (
	"bufio"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Socket is a socket of this machine.
type Socket struct {
	Proto         uint8 // of a raw socket; 6, 17
	Local, Remote netip.AddrPort
	Raw           bool
	Established   bool
	Listening     bool
}

// Sockets are those of the network namespace this process is in, as /proc/net tells.
// What cannot be read is left out.
func Sockets() (all []Socket) {
	for _, f := range []struct {
		name  string
		proto uint8
	}{{"tcp", 6}, {"tcp6", 6}, {"udp", 17}, {"udp6", 17}, {"raw", 0}, {"raw6", 0}} {
		file, err := os.Open("/proc/net/" + f.name)
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(file); s.Scan() && len(all) < 100_000; {
			if socket, ok := parseSocket(s.Text(), f.proto); ok {
				all = append(all, socket)
			}
		}
		file.Close()
	}
	return all
}

// parseSocket reads a line of /proc/net/tcp and its like: "sl local rem st …", where
// addresses are 32-bit words in the machine's order.
func parseSocket(line string, proto uint8) (s Socket, ok bool) {
	f := strings.Fields(line)
	if len(f) < 4 || !strings.HasSuffix(f[0], ":") {
		return s, false
	}
	if s.Local, ok = procAddr(f[1]); !ok {
		return s, false
	}
	if s.Remote, ok = procAddr(f[2]); !ok {
		return s, false
	}
	s.Proto = proto
	if proto == 0 { // of raw sockets the port is the protocol
		s.Raw, s.Proto = true, uint8(s.Local.Port())
		return s, true
	}
	s.Established = proto == 6 && f[3] == "01"
	s.Listening = proto == 6 && f[3] == "0A" || proto == 17
	return s, true
}

func procAddr(text string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(text, ":")
	b, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 { // as little-endian machines have it
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), true
}

// Resolvers are the name servers of /etc/resolv.conf; what cannot be read is left out.
func Resolvers() (all []netip.Addr) {
	file, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	defer file.Close()
	for s := bufio.NewScanner(file); s.Scan() && len(all) < 16; {
		f := strings.Fields(s.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			all = append(all, a)
		}
	}
	return all
}
