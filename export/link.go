package export

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pion/dtls/v3"
	"golang.org/x/sys/unix"

	"weir/flow"
	"weir/wire"
)

// definition is a template record that data sets of messages need.
type definition struct {
	id  uint16
	set uint16 // wire.TemplateSetIPFIX or wire.OptionsSetIPFIX
	rec []byte
}

func (d *definition) same(o *definition) bool {
	return d == o || d.id == o.id && d.set == o.set && bytes.Equal(d.rec, o.rec)
}

// link is one connection to a collector: TCP, TLS (RFC 7011 sections 10.4, 11.1)
// or DTLS (section 11.2). Messages are written without template sets and without
// a sequence number; a link is a transport session and gives them both: numbers
// from 0, and each template once before the first data that needs it (over DTLS,
// which may lose it, again as over UDP).
type link struct {
	conn  net.Conn
	tcp   *net.TCPConn // nil: DTLS
	count *counted     // TCP's octets
	ended chan struct{}
	why   error // of the end; valid when ended is closed

	domain  uint32
	payload int // longest message
	seq     uint32
	told    map[uint16]*definition

	// Over DTLS.
	since          time.Time
	records        *records
	refreshPackets int
	refreshTime    time.Duration
	posted         int // messages since told was empty
	toldAt         time.Time

	out []byte // template messages

	stop sync.Once
}

// Limits of a link.
const (
	// streamPayload is the longest message over TCP and TLS: a TLS record holds it.
	streamPayload = 16000
	// dtlsOverhead is what DTLS 1.2 adds to a message, at most, of the suites used.
	dtlsOverhead = 13 + 8 + 16 + 27
	// toldMax bounds the templates of a session: collectors do, too.
	toldMax = 512

	// securePause is how long nothing follows a handshake. Over DTLS a collector that
	// has sent the last of it may not have done with it, and some (pion/dtls is one) let
	// go of what comes before; in TLS 1.3 the word that our certificate is refused comes
	// after what is the end of the handshake for us. Nobody would send it again.
	securePause = 500 * time.Millisecond

	connectTime  = 10 * time.Second
	writeTime    = 30 * time.Second
	unackedTime  = 30 * time.Second // TCP_USER_TIMEOUT
	secureMinTLS = tls.VersionTLS12
)

// counted counts what is written to a TCP connection.
type counted struct {
	net.Conn
	n uint64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.n += uint64(n)
	return n, err
}

// credentials are what a secure destination's files hold.
type credentials struct {
	certs []tls.Certificate
	roots *x509.CertPool // nil: the system's
}

func loadCredentials(d Destination) (c credentials, err error) {
	if d.Cert != "" {
		pair, err := tls.LoadX509KeyPair(d.Cert, d.Key)
		if err != nil {
			return c, fmt.Errorf("export to %s: cert, key: %w", d.Host, err)
		}
		c.certs = []tls.Certificate{pair}
	}
	if d.CA != "" {
		pem, err := os.ReadFile(d.CA)
		if err != nil {
			return c, fmt.Errorf("export to %s: ca: %w", d.Host, err)
		}
		c.roots = x509.NewCertPool()
		if !c.roots.AppendCertsFromPEM(pem) {
			return c, fmt.Errorf("export to %s: ca: %s has no certificate in PEM", d.Host, d.CA)
		}
	}
	return c, nil
}

// dial connects. The files of certificates are read each time, so that renewed
// ones are used from the next connection on.
func dial(ctx context.Context, d Destination) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	host := net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port)))
	cred, err := loadCredentials(d)
	if err != nil {
		return nil, err
	}
	name := d.Host
	if d.Name != "" {
		name = d.Name
	}
	l := &link{
		domain: d.Domain, payload: streamPayload, told: map[uint16]*definition{}, ended: make(chan struct{}),
		refreshPackets: math.MaxInt, refreshTime: math.MaxInt64, toldAt: time.Now(),
	}
	dialer := net.Dialer{}
	network := "tcp"
	if !d.stream() {
		network = "udp"
	}
	if d.Source.IsValid() {
		if network == "tcp" {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.Source, 0))
		} else {
			dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(d.Source, 0))
		}
	}
	raw, err := dialer.DialContext(ctx, network, host)
	if err != nil {
		return nil, fmt.Errorf("export to %s: %w", host, err)
	}
	fail := func(err error) (*link, error) {
		raw.Close()
		return nil, fmt.Errorf("export to %s: %w", host, err)
	}
	switch d.Network {
	case "tcp", "tls":
		l.tcp = raw.(*net.TCPConn)
		if rc, err := l.tcp.SyscallConn(); err == nil {
			rc.Control(func(fd uintptr) {
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedTime/time.Millisecond))
			})
		}
		l.count = &counted{Conn: raw}
		l.conn = l.count
		if d.Network == "tls" {
			c := tls.Client(l.count, &tls.Config{Certificates: cred.certs, RootCAs: cred.roots, ServerName: name, MinVersion: secureMinTLS})
			if err := c.HandshakeContext(ctx); err != nil {
				return fail(err)
			}
			l.conn = c
		}
	case "dtls":
		mtu := payloadOf(d.MTU, netip.Addr{})
		l.payload = mtu - dtlsOverhead
		l.refreshPackets, l.refreshTime = d.RefreshPackets, d.RefreshTime
		sock, err := newSocket(raw.(*net.UDPConn))
		if err != nil {
			return fail(err)
		}
		l.records = &records{Conn: raw, sock: sock}
		options := []dtls.ClientOption{dtls.WithServerName(name), dtls.WithMTU(mtu), dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret)}
		if cred.roots != nil {
			options = append(options, dtls.WithRootCAs(cred.roots))
		}
		if len(cred.certs) > 0 {
			options = append(options, dtls.WithCertificates(cred.certs...))
		}
		c, err := dtls.ClientWithOptions(l.records, raw.RemoteAddr(), options...)
		if err != nil {
			return fail(err)
		}
		if err := c.HandshakeContext(ctx); err != nil {
			c.Close()
			return fail(err)
		}
		l.conn = c
	}
	l.since = time.Now()
	return l, nil
}

// records is a connected UDP socket as DTLS wants it, which knows the numbers of
// the records that it sent: what the network says of one quotes its number.
type records struct {
	net.Conn
	sock *socket
	last atomic.Uint64 // epoch and number of the last one, as a DTLS record has them

	back uint64 // number of the first that came back; valid if there is why
	why  error
}

const recordNumber = 3 // where it stands in a record (RFC 6347 section 4.1), in 8 octets

func (r *records) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := r.Read(b)
	return n, r.RemoteAddr(), err
}

func (r *records) WriteTo(b []byte, _ net.Addr) (int, error) {
	if len(b) >= recordNumber+8 {
		r.last.Store(be.Uint64(b[recordNumber:]))
	}
	return r.Write(b)
}

// bounced is the number of the first record that came back; all ones: none did.
func (r *records) bounced() uint64 {
	for range 1024 {
		quote, err := r.sock.bounced()
		if err == nil {
			break
		}
		if len(quote) < recordNumber+8 {
			continue
		}
		if n := be.Uint64(quote[recordNumber:]); r.why == nil || n < r.back {
			r.back, r.why = n, err
		}
	}
	if r.why == nil {
		return math.MaxUint64
	}
	return r.back
}

// listen reads to the end of the connection: a collector has nothing to say, but
// what it closes must be seen before more is written. It returns when close is
// called, or the collector is gone.
func (l *link) listen() {
	var b [2048]byte
	for {
		if _, err := l.conn.Read(b[:]); err != nil {
			l.why = err
			close(l.ended)
			return
		}
	}
}

// settle waits, where there are certificates, for the collector to refuse ours.
func (l *link) settle(ctx context.Context, d Destination) error {
	if d.Network == "tcp" {
		return nil
	}
	select {
	case <-l.ended:
		return fmt.Errorf("export to %s: after the handshake: %w", d.Host, l.why)
	case <-time.After(securePause):
	case <-ctx.Done():
	}
	return nil
}

// lost says that the collector has ended the connection, and how. run's own, as
// are all that follow.
func (l *link) lost() error {
	if l.records != nil && l.records.bounced() != math.MaxUint64 {
		return l.records.why
	}
	select {
	case <-l.ended:
		if errors.Is(l.why, io.EOF) {
			return errors.New("the collector closed the connection")
		}
		return l.why
	default:
		return nil
	}
}

func (l *link) close() { l.stop.Do(func() { l.conn.Close() }) }

// finish closes in good order: what was written is still delivered.
func (l *link) finish() {
	if c, ok := l.conn.(interface{ CloseWrite() error }); ok {
		l.conn.SetWriteDeadline(time.Now().Add(time.Second))
		c.CloseWrite()
	} else if l.tcp != nil {
		l.tcp.CloseWrite()
	}
	l.close()
}

// post is what a message needed besides itself.
type post struct {
	messages, octets, templates int
}

// send writes a message, after the templates that it needs. Then g.end is what
// acknowledged must have reached for the message to be there. After an error the
// link is of no use.
func (l *link) send(g *datagram, deadline time.Time) (p post, err error) {
	l.conn.SetWriteDeadline(deadline)
	if l.tcp == nil && (l.posted >= l.refreshPackets || time.Since(l.toldAt) >= l.refreshTime) {
		clear(l.told)
	}
	if p, err = l.tell(g); err != nil {
		return p, err
	}
	be.PutUint32(g.b[8:], l.seq)
	if _, err := l.conn.Write(g.b); err != nil {
		return p, err
	}
	g.seq = l.seq
	l.seq += uint32(g.data)
	l.posted++
	if g.at = time.Now(); l.tcp != nil {
		g.end = l.count.n
	} else {
		g.end = l.records.last.Load()
	}
	return p, nil
}

// tell writes the definitions that g needs and the session has not, or has
// otherwise: those are withdrawn first (RFC 7011 section 8.1), which is for
// streams alone.
func (l *link) tell(g *datagram) (p post, err error) {
	var fresh []*definition
	changed := false
	for _, d := range g.uses {
		have := l.told[d.id]
		if have != nil && have.same(d) {
			continue
		}
		changed = changed || have != nil
		fresh = append(fresh, d)
	}
	if len(fresh) == 0 {
		return p, nil
	}
	if len(l.told) == 0 {
		l.posted, l.toldAt = 0, time.Now()
	}
	if l.tcp != nil && (changed || len(l.told)+len(fresh) > toldMax) {
		if p, err = l.withdraw(g.b); err != nil {
			return p, err
		}
		fresh = append(fresh[:0], g.uses...)
	}
	l.begin(g.b)
	set := 0 // where the open one began
	kind := uint16(0)
	end := func() {
		if set > 0 {
			l.out = wire.EndSet(l.out, set)
			set = 0
		}
	}
	for _, d := range fresh {
		if len(l.out)+2*wire.SetHeaderLen+len(d.rec) > l.payload && len(l.out) > wire.HeaderIPFIXLen {
			end()
			if err := l.write(&p); err != nil {
				return p, err
			}
			l.begin(g.b)
		}
		if set == 0 || d.set != kind {
			end()
			set, kind = len(l.out), d.set
			l.out = wire.AppendSet(l.out, kind)
		}
		l.out = append(l.out, d.rec...)
		l.told[d.id] = d
		p.templates++
	}
	end()
	return p, l.write(&p)
}

// withdraw takes back all templates.
func (l *link) withdraw(like []byte) (p post, err error) {
	l.begin(like)
	for _, set := range []uint16{wire.TemplateSetIPFIX, wire.OptionsSetIPFIX} {
		at := len(l.out)
		l.out = wire.AppendSet(l.out, set)
		l.out = be.AppendUint16(l.out, set)
		l.out = be.AppendUint16(l.out, 0)
		l.out = wire.EndSet(l.out, at)
	}
	clear(l.told)
	return p, l.write(&p)
}

// begin makes an empty message, dated as another.
func (l *link) begin(like []byte) {
	l.out = append(l.out[:0], make([]byte, wire.HeaderIPFIXLen)...)
	wire.PutHeaderIPFIX(l.out, wire.Stamp{Unix: int64(be.Uint32(like[4:])) * 1e9}, l.seq, l.domain)
}

func (l *link) write(p *post) error {
	be.PutUint16(l.out[2:], uint16(len(l.out)))
	_, err := l.conn.Write(l.out)
	p.messages++
	p.octets += len(l.out)
	l.posted++
	return err
}

// again makes templates due: over streams they are withdrawn before.
func (l *link) again(now time.Time) (p post, err error) {
	if l.tcp != nil && len(l.told) > 0 {
		var like [wire.HeaderIPFIXLen]byte
		wire.PutHeaderIPFIX(like[:], wire.Stamp{Unix: now.UnixNano()}, 0, l.domain)
		l.conn.SetWriteDeadline(now.Add(writeTime))
		return l.withdraw(like[:])
	}
	clear(l.told)
	return p, nil
}

// bounceTime is how long a message over DTLS may come back.
const bounceTime = 250 * time.Millisecond

// reached says which messages the collector's machine has: over TCP those that it
// has acknowledged. Over DTLS nobody does: there it is those that have not come
// back in a while, or before the first that did.
func (l *link) reached() func(g *datagram) bool {
	if l.tcp != nil {
		octets := l.acknowledged()
		return func(g *datagram) bool { return g.end <= octets }
	}
	bounced := l.records.bounced()
	over := l.lost() != nil
	return func(g *datagram) bool {
		return g.end < bounced && (over || time.Since(g.at) >= bounceTime)
	}
}

// acknowledged is how many octets the peer's TCP has said to have.
func (l *link) acknowledged() uint64 {
	rc, err := l.tcp.SyscallConn()
	if err != nil {
		return 0
	}
	waiting, known := 0, false
	rc.Control(func(fd uintptr) {
		n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		waiting, known = n, err == nil
	})
	if !known {
		return 0
	}
	return l.count.n - min(l.count.n, uint64(waiting))
}

func (l *link) addrs() (local, remote netip.AddrPort) {
	of := func(a net.Addr) netip.AddrPort {
		p, err := netip.ParseAddrPort(a.String())
		if err != nil {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return of(l.conn.LocalAddr()), of(l.conn.RemoteAddr())
}

// isIPFIX says whether b is a message whose header a link can complete.
func isIPFIX(b []byte) bool {
	return len(b) >= wire.HeaderIPFIXLen && be.Uint16(b) == flow.VersionIPFIX
}

// fatal says that trying again is of no use before a person has acted.
func fatal(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, os.ErrNotExist)
}

// date gives a message that has none a header of now.
func (l *link) date(g *datagram, now time.Time) {
	wire.PutHeaderIPFIX(g.b, wire.Stamp{Unix: now.UnixNano()}, 0, l.domain)
}
