package collect

import (
	"bufio"
	"context"
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
// each telling its length. Connections share one decoder; messages are few and
// large, and TCP pushes back.
type tcpServer struct {
	c  *Collector
	e  endpoint
	ln net.Listener

	mu      sync.Mutex
	dec     *wire.Decoder
	repeats *repeats
	conns   map[net.Conn]bool
	end     time.Time // when to stop reading at the latest; zero: nobody asked

	messages, octets   atomic.Uint64
	refused, misframed atomic.Uint64
}

const (
	maxConns = 1024
	tcpIdle  = 30 * time.Minute       // a connection silent for longer is closed
	tcpQuiet = 100 * time.Millisecond // once the end was asked for
)

func (c *Collector) newTCP(e endpoint) (*tcpServer, error) {
	ln, err := net.Listen("tcp", e.address)
	if err != nil {
		return nil, err
	}
	return &tcpServer{
		c: c, e: e, ln: ln, conns: map[net.Conn]bool{},
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
		s.ln.(*net.TCPListener).SetDeadline(time.Now().Add(tcpQuiet))
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
			s.serve(conn)
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
			conn.Close()
		})
	}
}

// serve reads one connection to its end. A message that is no IPFIX ends it:
// where the next one begins is not known.
func (s *tcpServer) serve(conn net.Conn) {
	remote, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return
	}
	src := wire.Source{Addr: flow.AddrFrom(remote.Addr()), Port: remote.Port(), Reliable: true}
	defer func() {
		s.mu.Lock()
		s.dec.Close(src)
		s.mu.Unlock()
	}()
	r := bufio.NewReaderSize(conn, 1<<17)
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
