package system

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// exporter is a small IPFIX exporter of the test's own, which can be made to
// do what good ones do not.
type exporter struct {
	conn     net.Conn
	domain   uint32
	sequence uint32 // records sent before the next message
	sent     count  // in data records
	records  uint64
}

// newExporter sends from an address of the loopback, which tells exporters
// apart, to a port of it.
func newExporter(t testing.TB, ns, from, to string, domain uint32) *exporter {
	t.Helper()
	e := &exporter{domain: domain}
	within(t, ns, func() (err error) {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
		e.conn, err = d.Dial("udp", to)
		return err
	})
	t.Cleanup(func() { e.conn.Close() })
	return e
}

// ipfixTemplate has source, destination, ports, protocol, packets, octets and
// times in milliseconds.
var ipfixTemplate = [][2]uint16{{8, 4}, {12, 4}, {7, 2}, {11, 2}, {4, 1}, {2, 8}, {1, 8}, {152, 8}, {153, 8}}

func templateSet(id uint16) []byte {
	b := be.AppendUint16(nil, 2)
	b = be.AppendUint16(b, uint16(8+4*len(ipfixTemplate)))
	b = be.AppendUint16(b, id)
	b = be.AppendUint16(b, uint16(len(ipfixTemplate)))
	for _, f := range ipfixTemplate {
		b = be.AppendUint16(be.AppendUint16(b, f[0]), f[1])
	}
	return b
}

// message makes a message of sets that have n data records.
func (e *exporter) message(n int, sets ...[]byte) []byte {
	size := 16
	for _, s := range sets {
		size += len(s)
	}
	b := be.AppendUint16(nil, 10)
	b = be.AppendUint16(b, uint16(size))
	b = be.AppendUint32(b, uint32(time.Now().Unix()))
	b = be.AppendUint32(b, e.sequence)
	b = be.AppendUint32(b, e.domain)
	for _, s := range sets {
		b = append(b, s...)
	}
	e.sequence += uint32(n)
	return b
}

// data is a set of n records, 3 packets of 300 octets each.
func (e *exporter) data(id uint16, n int) []byte {
	b := be.AppendUint16(nil, id)
	b = be.AppendUint16(b, uint16(4+45*n))
	now := uint64(time.Now().UnixMilli())
	for i := range n {
		b = append(b, 10, 66, byte(e.domain), byte(i), 10, 77, 0, 1)
		b = be.AppendUint16(be.AppendUint16(b, uint16(1024+i)), 443)
		b = append(b, 6)
		b = be.AppendUint64(be.AppendUint64(b, 3), 300)
		b = be.AppendUint64(be.AppendUint64(b, now-1000), now)
	}
	e.records += uint64(n)
	e.sent.add(count{3 * uint64(n), 300 * uint64(n)})
	return b
}

func (e *exporter) send(t testing.TB, message []byte) {
	t.Helper()
	if _, err := e.conn.Write(message); err != nil {
		t.Fatal(err)
	}
}
