package route

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Options of a Monitor.
type Options struct {
	Table Table
	// Output says whether frames can be sent out by a device from the fast path.
	// When its answers change, call Refresh.
	Output func(device uint32) bool
	Log    *slog.Logger

	ReceiveBuffer int           // octets, of each of two sockets; 0: 16 MiB
	KeepAlive     time.Duration // how often next hops in use are looked after; 0: 5 s
}

// Monitor listens to the kernel's routing and tells a Table.
type Monitor struct {
	o       Options
	refresh atomic.Bool

	mu     sync.Mutex
	wakeFD int // an eventfd that ends Run's wait; -1: it does not run
	shared Stats

	// Run's goroutine has what follows.
	stats Stats
	view  *view
	ask   *asker
	lists *routeLister
	turn  uint32 // of keeping alive
	tick  time.Time
	retry time.Time // of a listing that failed; zero: none did
}

// New makes a Monitor that listens to nothing yet.
func New(o Options) *Monitor {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ReceiveBuffer == 0 {
		o.ReceiveBuffer = 16 << 20
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = 5 * time.Second
	}
	m := &Monitor{o: o, wakeFD: -1}
	m.view = newView(o.Table, &m.stats, o.Log, o.Output)
	return m
}

// Refresh makes Run ask Output again for each next hop.
func (m *Monitor) Refresh() {
	m.refresh.Store(true)
	m.wake()
}

// Snapshot is what was heard and told up to now.
func (m *Monitor) Snapshot() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shared
}

func (m *Monitor) publish() {
	m.mu.Lock()
	m.shared = m.stats
	m.mu.Unlock()
}

func (m *Monitor) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wakeFD >= 0 {
		one := [8]byte{}
		order.PutUint64(one[:], 1)
		unix.Write(m.wakeFD, one[:]) // fails only when it is set as high as can be
	}
}

// pause is how long Run waits before it tries again what failed.
const pause = time.Second

// Run listens until the context ends, in the network namespace of the thread it
// is called on. It returns an error only where it could not begin.
func (m *Monitor) Run(ctx context.Context) error {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	m.mu.Lock()
	m.wakeFD = fd
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.wakeFD = -1
		unix.Close(fd)
	}()
	defer context.AfterFunc(ctx, m.wake)()

	for {
		err := m.follow(ctx, fd)
		if ctx.Err() != nil {
			return nil
		}
		if m.stats.Listings == 0 {
			return err
		}
		// The sockets are broken. Nothing is known until there are new ones.
		m.failed(err)
		m.view.invalidateAll()
		m.view.flush(time.Now())
		m.publish()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (m *Monitor) failed(err error) {
	m.stats.LastError, m.stats.LastErrorTime = err.Error(), time.Now()
	m.o.Log.Warn("the kernel's routing cannot be followed", "error", err)
}

// gather is how long routes are left to gather while they change, milliseconds.
const gather = 1

// follow opens the sockets, lists what there is, and takes in what changes.
func (m *Monitor) follow(ctx context.Context, wake int) error {
	rare, err := openSocket(m.o.ReceiveBuffer, 16, 64<<10,
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_NEXTHOP,
		unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return err
	}
	defer rare.close()
	routes, err := openSocket(m.o.ReceiveBuffer, 128, 8<<10, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return err
	}
	defer routes.close()
	if m.ask, err = openAsker(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	defer m.ask.close()
	if m.lists, err = openLister(); err != nil {
		return err
	}
	defer m.lists.close()
	m.view.mtus.doubt = true

	takeRare, takeRoute := m.rare, m.view.message // closures allocate: once
	now := time.Now()
	if err := m.listAll(now); err != nil && !errors.Is(err, errInterrupted) {
		return err
	}
	m.listRoutes(now, false)
	m.tick = now.Add(m.o.KeepAlive)
	fds := []unix.PollFd{{Fd: int32(wake), Events: unix.POLLIN}, {Fd: int32(rare.fd), Events: unix.POLLIN}, {Fd: int32(routes.fd), Events: unix.POLLIN}}
	heard := 0 // route messages in this turn
	for ctx.Err() == nil {
		m.publish()
		if heard > 0 {
			// Where one route changes others do. To be woken for each costs several
			// times what it is to hear it: they gather for a moment, the rare do not.
			if _, err := unix.Poll(fds[:2], gather); err != nil && err != unix.EINTR {
				return fmt.Errorf("poll: %w", err)
			}
		} else if _, err := unix.Poll(fds, m.timeout(time.Now())); err != nil && err != unix.EINTR {
			return fmt.Errorf("poll: %w", err)
		}
		drain(wake)
		if _, err := m.listen(rare, takeRare, true); err != nil {
			return err
		}
		if heard, err = m.listen(routes, takeRoute, false); err != nil {
			return err
		}
		now := time.Now()
		if m.refresh.Swap(false) {
			m.view.settleHops(every)
		}
		if !m.retry.IsZero() && !now.Before(m.retry) {
			m.listAll(now)
		}
		m.listRoutes(now, routes.congested)
		m.view.flush(now)
		m.view.again(now)
		if !now.Before(m.tick) {
			m.tick = now.Add(m.o.KeepAlive)
			m.keepAlive()
			m.view.retry()
		}
	}
	return nil
}

// listen takes in what a socket has, at most a few bursts of it. From one that
// has lost messages all is asked again, once now and once when it is empty: only
// then does the kernel go on to tell.
func (m *Monitor) listen(s *socket, take func(message) bool, relist bool) (heard int, err error) {
	const bursts = 16
	for range bursts {
		n, lost, err := s.read(take, &m.stats.Malformed)
		if err != nil {
			return heard, err
		}
		heard += n
		if lost {
			heard++ // there is more
			if !s.congested {
				m.stats.Overruns++
			}
			s.congested = true
			m.view.invalidateAll()
		} else if n == 0 {
			if s.congested {
				s.congested = false
				m.view.invalidateAll()
				if relist {
					m.listAll(time.Now())
				}
				m.view.mtus.doubt = true
			}
			return heard, nil
		}
	}
	return heard, nil
}

// rare takes a message that is not of routes. A neighbour in use that is stale
// is looked after at once.
func (m *Monitor) rare(msg message) bool {
	sound := m.view.message(msg)
	if msg.kind == unix.RTM_NEWNEIGH {
		m.stale(msg)
	}
	return sound
}

// listAll hears of all links, addresses and neighbours anew. If that fails, what
// is known stays, and it is tried again after a pause.
func (m *Monitor) listAll(now time.Time) error {
	m.retry = time.Time{}
	m.view.begin()
	family := [...]struct {
		kind uint16
		body int // octets of a request's fixed head
	}{{unix.RTM_GETLINK, unix.SizeofIfInfomsg}, {unix.RTM_GETADDR, unix.SizeofIfAddrmsg}, {unix.RTM_GETNEIGH, unix.SizeofNdMsg}}
	for _, f := range family {
		if err := m.ask.list(f.kind, make([]byte, f.body), m.view.message); err != nil {
			m.retry = now.Add(pause)
			m.failed(err)
			return err
		}
	}
	m.view.end()
	m.stats.Listings++
	m.view.invalidateAll()
	m.view.flush(now)
	return nil
}

// listRoutes lists routes when it must be, and takes in what was listed: those
// with an MTU. While messages are lost there is no sense in it.
func (m *Monitor) listRoutes(now time.Time, congested bool) {
	if l, ok := m.lists.take(now); ok {
		if l.err != nil {
			m.view.mtus.abandonList()
			m.failed(l.err)
			return
		}
		m.view.mtus.endList(l.found)
		m.stats.RouteListings++
	}
	if m.view.mtus.doubt && !congested && m.lists.ready(now) {
		m.view.mtus.beginList()
		m.lists.start(m.wake)
	}
}

// timeout is how long may be waited, in milliseconds.
func (m *Monitor) timeout(now time.Time) int {
	until := m.tick
	for _, t := range []time.Time{m.view.due, m.retry, m.view.mtus.due(), m.lists.due(m.view.mtus.doubt)} {
		if !t.IsZero() && t.Before(until) {
			until = t
		}
	}
	return max(0, int((until.Sub(now)+time.Millisecond-1)/time.Millisecond))
}

// drain empties an eventfd.
func drain(fd int) {
	var b [8]byte
	unix.Read(fd, b[:])
}
