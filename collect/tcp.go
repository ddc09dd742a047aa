package collect

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"weir/flow"
	"weir/wire"
)

// tcpServer takes IPFIX over TCP (RFC 7011 section 10.4): messages back to back,
// each telling its length; also within TLS, and over DTLS, where each record is a
// message (section 11). Connections share one decoder; messages are few and large,
// and TCP pushes back.
type tcpServer struct {
	c      *Collector
	e      endpoint
	ln     net.Listener
	secure *tls.Config // of TLS

	mu      sync.Mutex
	dec     *wire.Decoder
	repeats *repeats
	conns   map[net.Conn]bool
	end     time.Time // when to stop reading at the latest; zero: nobody asked

	messages, octets   atomic.Uint64
	refused, misframed atomic.Uint64
	strangers          atomic.Uint64 // who were not let in
}

const (
	maxConns = 1024
	tcpIdle  = 30 * time.Minute       // a connection silent for longer is closed
	tcpQuiet = 100 * time.Millisecond // once the end was asked for

	handshakeTime = 10 * time.Second
)

// newTCP listens; at ln, if there is one.
func (c *Collector) newTCP(e endpoint, ln net.Listener) (*tcpServer, error) {
	var secure *tls.Config
	var err error
	switch {
	case e.network == "dtls":
		ln, err = e.listenDTLS()
	case ln == nil:
		ln, err = net.Listen("tcp", e.address)
	}
	if err == nil && e.network == "tls" {
		secure, err = e.secure.tls()
	}
	if err != nil {
		if ln != nil {
			ln.Close()
		}
		return nil, err
	}
	return &tcpServer{
		c: c, e: e, ln: ln, secure: secure, conns: map[net.Conn]bool{},
		dec:     c.decoder(1),
		repeats: newRepeats(maxWindows),
	}, nil
}

func (s *tcpServer) run(ctx context.Context) error {
	// After the end was asked for, connections that wait are still accepted,
	// and what is in the kernel's buffers is still read.
	defer context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end = time.Now().Add(drainTime)
		if ln, ok := s.ln.(*net.TCPListener); ok {
			ln.SetDeadline(time.Now().Add(tcpQuiet))
		} else {
			s.ln.Close()
		}
		for c := range s.conns {
			c.SetReadDeadline(time.Now().Add(tcpQuiet))
		}
	})()
	defer s.ln.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := s.ln.Accept()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default: // out of descriptors, say: they may come back
			s.c.log.Warn("accept failed", "listen", s.e.url, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if s.secure != nil {
			conn = tls.Server(conn, s.secure)
		}
		s.mu.Lock()
		full := len(s.conns) >= maxConns
		if !full {
			s.conns[conn] = true
		}
		s.mu.Unlock()
		if full {
			s.refused.Add(1)
			conn.Close()
			continue
		}
		wg.Go(func() {
			if s.greet(ctx, conn) {
				s.serve(conn)
			}
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
			conn.Close()
		})
	}
}

// greet lets in who has a certificate that is known, if one is asked for.
func (s *tcpServer) greet(ctx context.Context, conn net.Conn) bool {
	c, ok := conn.(interface{ HandshakeContext(context.Context) error })
	if !ok {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		s.strangers.Add(1)
		s.c.log.Warn("not let in", "listen", s.e.url, "exporter", conn.RemoteAddr().String(), "error", err)
		return false
	}
	return true
}

// serve reads one connection to its end. A message that is no IPFIX ends it:
// where the next one begins is not known.
func (s *tcpServer) serve(conn net.Conn) {
	remote, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return
	}
	src := wire.Source{Addr: flow.AddrFrom(remote.Addr()), Port: remote.Port(), Reliable: s.e.network != "dtls"}
	defer func() {
		s.mu.Lock()
		s.dec.Close(src)
		s.mu.Unlock()
	}()
	r := bufio.NewReaderSize(conn, 1<<17) // over DTLS, too: a message is read whole, and is as long as it says
	batch := &wire.Batch{}
	defer func() {
		if len(batch.Records)+len(batch.Options) > 0 {
			s.c.queue <- batch
			<-s.c.free // one in, one out: the pool keeps its size
		}
	}()
	for {
		s.mu.Lock()
		until := time.Now().Add(tcpIdle)
		if !s.end.IsZero() {
			until = time.Now().Add(tcpQuiet)
			if s.end.Before(until) {
				until = s.end
			}
		}
		conn.SetReadDeadline(until)
		s.mu.Unlock()
		head, err := r.Peek(4)
		if err != nil {
			if len(head) > 0 && errors.Is(err, io.EOF) {
				s.misframed.Add(1)
			}
			return
		}
		n := int(be.Uint16(head[2:]))
		if be.Uint16(head) != 10 || n < 16 {
			s.misframed.Add(1)
			s.c.log.Warn("not an IPFIX message: connection closed", "listen", s.e.url, "exporter", remote)
			return
		}
		msg, err := r.Peek(n)
		if err != nil {
			s.misframed.Add(1)
			return
		}
		s.mu.Lock()
		now := time.Now().UnixNano()
		from := len(batch.Records)
		s.dec.Decode(batch, src, now, msg)
		s.dec.Expire(now)
		s.repeats.learn(batch.Templates, now)
		s.repeats.drop(batch, from)
		s.mu.Unlock()
		batch.Templates = batch.Templates[:0]
		r.Discard(n)
		s.messages.Add(1)
		s.octets.Add(uint64(n))
		if len(batch.Records) >= batchRecords || r.Buffered() == 0 {
			batch = s.c.hand(batch)
		}
	}
}
