package host

import (
	"net"
	"net/netip"
	"testing"
)

func TestParseSocket(t *testing.T) {
	for _, c := range []struct {
		line  string
		proto uint8
		want  Socket
	}{
		{"   0: 0100007F:0016 0200007F:C350 01 00000000:00000000", 6, Socket{Proto: 6, Local: netip.MustParseAddrPort("127.0.0.1:22"), Remote: netip.MustParseAddrPort("127.0.0.2:50000"), Established: true}},
		{"   1: 00000000:00B3 00000000:0000 0A 0:0", 6, Socket{Proto: 6, Local: netip.MustParseAddrPort("0.0.0.0:179"), Remote: netip.MustParseAddrPort("0.0.0.0:0"), Listening: true}},
		{"   2: 00000000:0059 00000000:0000 07 0:0", 0, Socket{Proto: 89, Raw: true, Local: netip.MustParseAddrPort("0.0.0.0:89"), Remote: netip.MustParseAddrPort("0.0.0.0:0")}},
		{"   3: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0", 6, Socket{Proto: 6, Local: netip.MustParseAddrPort("[::1]:22"), Remote: netip.MustParseAddrPort("[::]:0"), Listening: true}},
	} {
		if got, ok := parseSocket(c.line, c.proto); !ok || got != c.want {
			t.Errorf("%q: %+v, %v; want %+v", c.line, got, ok, c.want)
		}
	}
	for _, line := range []string{"", "sl local_address rem_address st", "0: x:1 0:0 01", "0: 0100007F 0:0 01", "0: 01:1 02:2 01"} {
		if got, ok := parseSocket(line, 6); ok {
			t.Errorf("%q is taken for %+v", line, got)
		}
	}
}

func TestSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := netip.MustParseAddrPort(l.Addr().String())
	for _, s := range Sockets() {
		if s.Local == want && s.Listening && s.Proto == 6 {
			return
		}
	}
	t.Errorf("a socket that listens at %v is not among those of this machine", want)
}
