package collect

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// ListenAfter is Listen for a Collector that takes the place of another one in
// the same process, without a datagram lost: addresses that both listen at (the
// same URL) keep their sockets, with what the kernel holds in them; the others
// are opened now, and an error leaves old as it was. Then stop old, call Take,
// and Run. TCP and TLS keep the socket at which they accept, also when what
// follows the address is another. DTLS has one socket for all its connections,
// which end with old: Take opens its port anew.
func (c *Collector) ListenAfter(old *Collector) (err error) {
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	shared := map[string]bool{}
	for _, l := range old.udp {
		shared[old.where[l.where].url] = true
	}
	for i, e := range c.where {
		if shared[e.url] {
			continue
		}
		if e.network == "dtls" {
			if at := old.at(e); at != nil {
				if _, _, err := e.secure.load(); err != nil {
					return listenError(e.url, err)
				}
				e.address = at.ln.Addr().String()
				c.later = append(c.later, e)
				continue
			}
		}
		if ln := old.listener(e); ln != nil {
			s, err := c.newTCP(e, ln)
			if err != nil {
				return listenError(e.url, err)
			}
			c.tcp = append(c.tcp, s)
			continue
		}
		if err := c.open(i); err != nil {
			return err
		}
	}
	for _, e := range c.where {
		delete(shared, e.url) // what is left, old alone listens at
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	old.passedOn = map[string]bool{}
	for _, e := range old.where {
		old.passedOn[e.url] = true
	}
	for url := range shared {
		delete(old.passedOn, url)
	}
	c.listening = true
	return nil
}

// at is who has connections at e's URL, or else at its address with the same
// protocol below. Nil: nobody.
func (c *Collector) at(e endpoint) *tcpServer {
	for _, s := range c.tcp {
		if s.e.url == e.url {
			return s
		}
	}
	for _, s := range c.tcp {
		if (s.e.network == "dtls") == (e.network == "dtls") && (s.e.address == e.address && !anyPort(e.address) || s.ln.Addr().String() == e.address) {
			return s
		}
	}
	return nil
}

func anyPort(address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && port == "0"
}

// listener is another descriptor of the socket that e's connections are
// accepted at: who waits there is accepted by whoever comes first. Nil: none.
func (c *Collector) listener(e endpoint) net.Listener {
	if e.network == "udp" {
		return nil
	}
	s := c.at(e)
	if s == nil {
		return nil
	}
	ln, ok := s.ln.(*net.TCPListener)
	if !ok {
		return nil
	}
	f, err := ln.File()
	if err != nil {
		return nil
	}
	defer f.Close()
	again, err := net.FileListener(f)
	if err != nil {
		return nil
	}
	return again
}

// reopen opens a port of DTLS whose last owner has ended: its socket is closed in a
// goroutine of the DTLS library, behind the last connection.
func (c *Collector) reopen(e endpoint) error {
	s, err := c.newTCP(e, nil)
	for end := time.Now().Add(5 * time.Second); errors.Is(err, unix.EADDRINUSE) && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
		s, err = c.newTCP(e, nil)
	}
	if err != nil {
		return listenError(e.url, err)
	}
	c.tcp = append(c.tcp, s)
	return nil
}

// Take gives c the sockets and the state of old, whose Run has returned.
func (c *Collector) Take(old *Collector) error {
	for _, e := range c.later {
		if err := c.reopen(e); err != nil {
			return err
		}
	}
	c.later = nil
	groups := map[string][]*loop{}
	for _, l := range old.udp {
		url := old.where[l.where].url
		groups[url] = append(groups[url], l)
	}
	opened := map[int][]*loop{}
	for _, l := range c.udp {
		opened[l.where] = append(opened[l.where], l)
	}
	c.udp = nil
	for i, e := range c.where {
		if group := opened[i]; group != nil {
			c.udp = append(c.udp, group...)
			continue
		}
		for _, o := range groups[e.url] {
			if err := control(o.conn, func(fd int) error { return setBuffer(fd, c.opt.SocketBytes) }); err != nil {
				return fmt.Errorf("listen %s: %w", e.url, err)
			}
			l, err := c.newLoop(o.conn, i, o.index, o.of)
			if err != nil {
				return fmt.Errorf("listen %s: %w", e.url, err)
			}
			l.lastDrops = o.endDrops()
			l.repeats.take(o.repeats)
			c.udp = append(c.udp, l)
		}
	}
	if err := c.restore(old.state()); err != nil {
		return err
	}
	c.restored = true
	return nil
}

// passes says whether a loop's socket goes over to a successor.
func (c *Collector) passes(l *loop) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.passedOn[c.where[l.where].url]
}

// endDrops is the kernel's counter up to which this loop has counted, and will
// for ever: what comes after is the successor's to count.
func (l *loop) endDrops() uint32 {
	l.countDrops()
	l.dropsMu.Lock()
	defer l.dropsMu.Unlock()
	l.passed = true
	return l.lastDrops
}
