package export

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"golang.org/x/sys/unix"

	"weir/flow"
	"weir/wire"
)

// station is a collector over connections. It checks what RFC 7011 asks of each:
// sequence numbers from 0 without a gap, each template once, before its data.
type station struct {
	t       *testing.T
	network string
	addr    string
	tls     *tls.Config
	dtls    []dtls.ServerOption

	mu       sync.Mutex
	ln       net.Listener
	conns    []net.Conn
	got      sum
	perConn  []uint64 // records of each connection
	options  int
	defined  int // templates
	withdraw int
	raw      []byte // of the first connection: all that was read
	paused   bool
	wg       sync.WaitGroup
}

func newStation(t *testing.T, network string, c *authority) *station {
	s := &station{t: t, network: network, addr: "127.0.0.1:0"}
	if c != nil {
		s.tls = &tls.Config{Certificates: []tls.Certificate{c.pair}, ClientCAs: c.pool, ClientAuth: tls.RequireAndVerifyClientCert}
		s.dtls = []dtls.ServerOption{
			dtls.WithCertificates(c.pair), dtls.WithClientCAs(c.pool), dtls.WithClientAuth(dtls.RequireAndVerifyClientCert),
			dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret),
		}
	}
	s.open()
	t.Cleanup(s.kill)
	return s
}

func (s *station) open() {
	s.t.Helper()
	var ln net.Listener
	var err error
	for range 100 { // the port may still be in use by what was killed
		switch s.network {
		case "dtls":
			ln, err = dtls.ListenWithOptions("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(s.addr)), s.dtls...)
		default:
			ln, err = net.Listen("tcp", s.addr)
		}
		if err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.ln, s.addr, s.paused = ln, ln.Addr().String(), false
	s.mu.Unlock()
	s.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.perConn = append(s.perConn, 0)
			n := len(s.perConn) - 1
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(c, n) })
		}
	})
}

// reader gives messages of a connection.
func (s *station) reader(c net.Conn) func() ([]byte, error) {
	if s.network == "dtls" {
		b := make([]byte, 65536)
		return func() ([]byte, error) {
			n, err := c.Read(b)
			return b[:n], err
		}
	}
	var r io.Reader = c
	if s.network == "tls" {
		r = tls.Server(c, s.tls)
	}
	return func() ([]byte, error) {
		for {
			s.mu.Lock()
			paused := s.paused
			s.mu.Unlock()
			if !paused {
				break
			}
			time.Sleep(time.Millisecond)
		}
		head := make([]byte, 16)
		if _, err := io.ReadFull(r, head); err != nil {
			return nil, err
		}
		b := append(head, make([]byte, int(be.Uint16(head[2:]))-16)...)
		_, err := io.ReadFull(r, b[16:])
		return b, err
	}
}

func (s *station) serve(c net.Conn, n int) {
	defer c.Close()
	dec := wire.NewDecoder(wire.Options{})
	src := wire.Source{Addr: flow.AddrFrom4([4]byte{127, 0, 0, 1}), Port: uint16(n + 1), Reliable: s.network != "dtls"}
	next := s.reader(c)
	var seq uint32
	var batch wire.Batch
	known := map[uint16]bool{}
	for {
		b, err := next()
		if err != nil {
			return
		}
		batch.Reset()
		m, err := dec.Decode(&batch, src, time.Now().UnixNano(), b)
		s.mu.Lock()
		if n == 0 {
			s.raw = append(s.raw, b...)
		}
		switch {
		case err != nil:
			s.t.Errorf("connection %d: %v", n, err)
		case m.Sequence != seq:
			s.t.Errorf("connection %d: sequence %d; the records before make it %d", n, m.Sequence, seq)
		case m.Waiting+m.Refused > 0:
			s.t.Errorf("connection %d: %d sets without template, %d refused", n, m.Waiting, m.Refused)
		}
		seq = m.Sequence + uint32(m.Records+m.Options)
		for _, e := range batch.Templates {
			switch {
			case e.Action == wire.Withdrawn:
				s.withdraw++
				delete(known, e.Template.ID)
			case known[e.Template.ID] && s.network != "dtls":
				s.t.Errorf("connection %d: template %d twice", n, e.Template.ID)
			default:
				known[e.Template.ID] = true
				s.defined++
			}
		}
		for _, r := range batch.Records {
			s.got.add(sum{1, 1, r.Packets, r.Bytes})
		}
		s.perConn[n] += uint64(len(batch.Records))
		s.options += m.Options
		s.mu.Unlock()
	}
}

// kill ends the collector at once: what the kernel holds is lost.
func (s *station) kill() {
	s.mu.Lock()
	s.ln.Close()
	for _, c := range s.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0)
			c.Close()
		} else if d, ok := c.(*dtls.Conn); ok {
			d.SetReadDeadline(time.Unix(1, 0))
			d.Close()
		}
	}
	s.conns, s.paused = nil, false
	s.mu.Unlock()
	s.wg.Wait()
}

// unread is how many records the kernel holds of the first connection, in whole
// messages, for a collector that does not read them: looked at, not taken.
func (s *station) unread() uint64 {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	rc, err := s.conns[0].(*net.TCPConn).SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	b := make([]byte, 64<<20)
	n := 0
	rc.Control(func(fd uintptr) {
		n, _, err = unix.Recvfrom(int(fd), b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	dec := wire.NewDecoder(wire.Options{})
	src := wire.Source{Addr: flow.AddrFrom4([4]byte{127, 0, 0, 2}), Port: 1, Reliable: true}
	var batch wire.Batch
	all := append(s.raw, b[:n]...) // with the templates, which came before
	for len(all) >= 16 && int(be.Uint16(all[2:])) <= len(all) {
		n := int(be.Uint16(all[2:]))
		if _, err := dec.Decode(&batch, src, time.Now().UnixNano(), all[:n]); err != nil {
			s.t.Fatal(err)
		}
		all = all[n:]
	}
	return uint64(len(batch.Records)) - s.got.records
}

func (s *station) until(what string, ok func() bool) {
	s.t.Helper()
	for range 3000 {
		s.mu.Lock()
		done := ok()
		s.mu.Unlock()
		if done {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("no %s in 30 s; have %+v, %v", what, s.got, s.perConn)
}

// authority makes certificates for tests.
type authority struct {
	ca, cert, key string // files
	pair          tls.Certificate
	pool          *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "weir"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		DNSNames: []string{"collector.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	must(err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	must(err)
	file := func(name, kind string, der []byte) string {
		p := filepath.Join(dir, name)
		must(os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return p
	}
	a := &authority{ca: file("ca.pem", "CERTIFICATE", caDER), cert: file("cert.pem", "CERTIFICATE", der), key: file("key.pem", "EC PRIVATE KEY", keyDER)}
	a.pair, err = tls.LoadX509KeyPair(a.cert, a.key)
	must(err)
	a.pool = x509.NewCertPool()
	parsed, err := x509.ParseCertificate(caDER)
	must(err)
	a.pool.AddCert(parsed)
	return a
}

func (a *authority) params() string {
	return fmt.Sprintf("cert=%s&key=%s&ca=%s", a.cert, a.key, a.ca)
}

// give writes records in batches.
func give(e *Exporter, records []flow.Record) {
	for len(records) > 0 {
		n := min(len(records), 100)
		e.WriteRecords(records[:n])
		records = records[n:]
	}
}

func checkSum(t *testing.T, st Stats, given sum) {
	t.Helper()
	var lost sum
	for _, l := range st.Lost {
		lost.add(sum{l.Records, l.Records, l.Packets, l.Bytes})
	}
	if st.GivenRecords != given.records || st.Records+lost.records != given.records || st.Packets+lost.packets != given.packets || st.Bytes+lost.octets != given.octets {
		t.Errorf("given %+v; sent %d records, %d packets, %d octets; lost %+v; queued %d, spooled %d", given, st.Records, st.Packets, st.Bytes, lost, st.Queued, st.SpooledRecords)
	}
}

// Over each transport a collector gets every record, in lawful sessions, also when
// it goes away, quietly, and comes back: what was given meanwhile waits.
func TestConnectionsAndTheirEnd(t *testing.T) {
	c := newAuthority(t)
	for _, network := range []string{"tcp", "tls", "dtls"} {
		t.Run(network, func(t *testing.T) {
			s := newStation(t, network, c)
			to := network + "://" + s.addr + "?flush=5ms&template=full"
			if network != "tcp" {
				to += "&" + c.params()
			}
			e, stop := running(t, Options{
				Destinations: []Destination{parse(t, to)}, Sampling: 10, SamplingRandom: true,
				Interfaces: func() []Interface {
					return []Interface{{Index: 1, Name: "eth0", Description: "wan", VRF: 10, VRFName: "blue"}}
				},
			})
			records, total := mixed(9000, time.Now().UnixNano())
			give(e, records[:3000])
			s.until("first records", func() bool { return s.got.records == 3000 })
			settle := func() {
				t.Helper()
				s.until("acknowledgement", func() bool { st := e.Stats()[0]; return st.InFlight == 0 && st.Queued == 0 })
			}
			settle()
			s.kill()
			if network != "dtls" { // over DTLS it shows when a message comes back
				s.until("notice", func() bool { return e.Stats()[0].State == "away" })
			}
			give(e, records[3000:6000])
			s.until("notice", func() bool { return e.Stats()[0].State == "away" })
			s.open()
			s.until("what waited", func() bool { return s.got.records == 6000 })
			give(e, records[6000:])
			s.until("the rest", func() bool { return s.got.records == 9000 })
			settle()
			s.mu.Lock()
			defined := s.defined
			s.mu.Unlock()
			e.SendTemplates()
			s.until("templates on demand", func() bool { return s.defined > defined })
			stop()
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.got != (sum{total.records, total.records, total.packets, total.octets}) {
				t.Errorf("got %+v; given %+v", s.got, total)
			}
			st := e.Stats()[0]
			checkSum(t, st, total)
			if st.Connections != 2 || st.Records != total.records || s.options == 0 || st.Templates == 0 {
				t.Errorf("%+v; %d options records came", st, s.options)
			}
		})
	}
}

// A collector is killed while it does not read and the exporter is held up, and another
// one takes its place: every record is where the ledger says. Those in the dead
// collector's own buffer are nobody's to know but its machine's; here they are counted
// there. With a spool nothing else is lost.
func TestKillUnderLoad(t *testing.T) {
	for _, spool := range []string{"", "&spool=" + t.TempDir()} {
		t.Run("spool "+strconv.FormatBool(spool != ""), func(t *testing.T) { killUnderLoad(t, spool) })
	}
}

func killUnderLoad(t *testing.T, spool string) {
	s := newStation(t, "tcp", nil)
	e, stop := opened(t, Options{Destinations: []Destination{parse(t, "tcp://"+s.addr+"?flush=5ms&queue=64&rate=off&fields=src,dst,packets,bytes"+spool)}})
	all, _ := mixed(1000, time.Now().UnixNano())
	var given sum
	load := func(until func() bool) {
		for !until() {
			give(e, all)
			for _, r := range all {
				given.add(sum{1, 1, r.Packets, r.Bytes})
			}
		}
	}
	full := func(why reason) func() bool {
		if spool != "" {
			at := e.Stats()[0].SpooledRecords
			return func() bool { return e.Stats()[0].SpooledRecords > at+20_000 }
		}
		return func() bool { return lossOf(e.Losses(), why).Records > 0 }
	}
	load(func() bool { return given.records >= 20_000 })
	s.until("all of the first", func() bool { return s.got.records == given.records })
	s.mu.Lock()
	s.paused = true
	s.mu.Unlock()
	// Until there is no room: the window is shut, and nothing moves any more.
	load(full(queueFull))
	for last, now := uint64(0), uint64(1); now != last; {
		last = e.Stats()[0].Records
		time.Sleep(300 * time.Millisecond)
		now = e.Stats()[0].Records
	}
	dead := s.unread() // acknowledged by its machine, never read: dead with it
	s.kill()
	if dead == 0 {
		t.Fatal("nothing was in the collector's buffer: the test shows nothing")
	}
	s.until("notice", func() bool { return e.Stats()[0].State == "away" })
	load(full(away))
	s.open()
	s.until("an empty queue", func() bool {
		st := e.Stats()[0]
		return st.Queued == 0 && st.Spooled == 0 && st.Connections == 2
	})
	stop()
	st := e.Stats()[0]
	checkSum(t, st, given)
	s.until("the last record", func() bool { return s.got.records+dead >= st.Records })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.got.records+dead != st.Records {
		t.Errorf("received %d, dead with the collector %d; sent %d", s.got.records, dead, st.Records)
	}
	for _, why := range []reason{away, queueFull} {
		if lost := lossOf(st.Lost, why).Records; (lost == 0) != (spool != "") {
			t.Errorf("%s: %d lost", reasonText[why].name, lost)
		}
	}
	if spool != "" && st.Records != given.records {
		t.Errorf("sent %d of %d", st.Records, given.records)
	}
}

// A live exporter goes on without a collector that it can wait for; one of files, which
// nobody would wait for, says so at once, and so does one that can never connect.
func TestOpenWithoutCollector(t *testing.T) {
	for _, c := range []struct {
		to    string
		block bool
		want  string
	}{
		{"tcp://127.0.0.1:1", false, ""},
		{"tcp://127.0.0.1:1", true, "refused"},
		{"tls://127.0.0.1:1?cert=/no&key=/no", false, "no such file"},
	} {
		e, err := New(Options{Destinations: []Destination{parse(t, c.to)}, Block: c.block})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Open(t.Context()); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.to, err, c.want)
		}
		run(t, e)()
	}
}

// Certificates are asked for in both directions, and must be for the name.
func TestMutualCertificates(t *testing.T) {
	c, other := newAuthority(t), newAuthority(t)
	for _, network := range []string{"tls", "dtls"} {
		s := newStation(t, network, c)
		for _, x := range []struct{ params, want string }{
			{c.params(), ""},
			{c.params() + "&name=collector.test", ""},
			{c.params() + "&name=other.test", "other.test"},
			{fmt.Sprintf("cert=%s&key=%s&ca=%s", c.cert, c.key, other.ca), "authority"},
			{fmt.Sprintf("cert=%s&key=%s&ca=%s", c.cert, other.key, c.ca), "does not match"},
			{fmt.Sprintf("cert=%s&key=%s&ca=/nowhere", c.cert, c.key), "no such file"},
		} {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			l, err := dial(ctx, parse(t, network+"://"+s.addr+"?"+x.params))
			cancel()
			if (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
				t.Errorf("%s %s: %v; want %q", network, x.params, err, x.want)
			}
			if err == nil {
				go l.listen()
				l.finish()
				<-l.ended
			}
		}
		// Without a certificate, or with one of another authority, the collector
		// takes nothing.
		for _, params := range []string{"ca=" + c.ca, fmt.Sprintf("cert=%s&key=%s&ca=%s", other.cert, other.key, c.ca)} {
			e, stop := running(t, Options{Destinations: []Destination{parse(t, network+"://"+s.addr+"?flush=5ms&"+params)}})
			records, _ := mixed(10, time.Now().UnixNano())
			give(e, records)
			s.until("refusal", func() bool { return e.Stats()[0].Error != "" })
			stop()
			if st := e.Stats()[0]; st.Records != 0 || lossOf(st.Lost, away).Records != 10 {
				t.Errorf("%s %s: %d records are said to be sent, %+v lost", network, params, st.Records, lossOf(st.Lost, away))
			}
			s.mu.Lock()
			if s.got.records != 0 {
				t.Errorf("%s: %d records came without a certificate that is known", network, s.got.records)
			}
			s.mu.Unlock()
		}
	}
}

// A DTLS session does not last for ever: a collector that began anew, and has said
// nothing, gets the next one.
func TestDTLSIsRenewed(t *testing.T) {
	c := newAuthority(t)
	s := newStation(t, "dtls", c)
	e, stop := running(t, Options{Destinations: []Destination{parse(t, "dtls://"+s.addr+"?flush=5ms&refresh-time=1s&"+c.params())}})
	records, total := mixed(200, time.Now().UnixNano())
	give(e, records[:100])
	s.until("first records", func() bool { return s.got.records == 100 })
	s.until("another session", func() bool { return e.Stats()[0].Connections >= 2 })
	give(e, records[100:])
	s.until("the rest", func() bool { return s.got.records == 200 })
	stop()
	checkSum(t, e.Stats()[0], total)
}
