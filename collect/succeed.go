package collect

import (
	"fmt"
	"net"
)

// ListenAfter is Listen for a Collector that takes the place of another one in
// the same process, without a datagram lost: addresses that both listen at (the
// same URL) keep their sockets, with what the kernel holds in them; the others
// are opened now, and an error leaves old as it was. Then stop old, call Take,
// and Run.
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
		if ln := old.listener(e.url); ln != nil {
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

// listener is another descriptor of the socket that a URL's connections are
// accepted at: who waits there is accepted by whoever comes first. Nil: none.
func (c *Collector) listener(url string) net.Listener {
	for _, s := range c.tcp {
		ln, ok := s.ln.(*net.TCPListener)
		if !ok || s.e.url != url {
			continue
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
	return nil
}

// Take gives c the sockets and the state of old, whose Run has returned.
func (c *Collector) Take(old *Collector) error {
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
