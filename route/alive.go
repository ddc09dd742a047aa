package route

import "golang.org/x/sys/unix"

// Keeping neighbours alive. The kernel verifies a neighbour when it sends to it:
// one that has not been confirmed for a while is stale; the next packet makes it
// wait 5 s for word from above, then ask it three times, then give it up. What a
// fast path sends the kernel does not see, and the neighbour would stay stale,
// dead or alive. So we say, for next hops in use, what a packet would
// (NTF_USE): when the kernel tells that one has become stale, and at each turn
// for those that were so before they were used.
//
// NTF_EXT_MANAGED (5.16) would have the kernel do this by itself, but leaves the
// neighbour so when we are gone, and shows in the administrator's lists. Neither
// may be said of a permanent neighbour: the kernel would make it an ordinary one.

// keepAlive looks after the next hops that were used since the last turn.
func (m *Monitor) keepAlive() {
	m.turn++
	var stale, unknown []Hop
	m.o.Table.Used(func(h Hop) {
		e, known := m.view.neighbours[h]
		if !known || !e.is.told {
			unknown = append(unknown, h)
			return
		}
		e.is.used = m.turn
		m.view.neighbours[h] = e
		if e.is.state == unix.NUD_STALE {
			stale = append(stale, h)
		}
	})
	for _, h := range unknown {
		m.o.Table.DropHop(h) // of a table that is older than we are
	}
	m.use(stale...)
}

// stale looks after a neighbour that has just become stale, if it was in use.
func (m *Monitor) stale(msg message) {
	n, ok, _ := parseNeighbour(msg.body)
	if !ok || n.state != unix.NUD_STALE {
		return
	}
	if e := m.view.neighbours[n.hop]; e.is.told && e.is.used != 0 && m.turn-e.is.used <= 1 {
		m.use(n.hop)
	}
}

// use tells the kernel that neighbours are in use.
func (m *Monitor) use(hops ...Hop) {
	const atOnce = 256 // requests in one call
	for len(hops) > 0 {
		n := min(len(hops), atOnce)
		var b []byte
		for _, h := range hops[:n] {
			b = m.ask.appendUse(b, h)
		}
		hops = hops[n:]
		refused, err := m.ask.send(b)
		if err != nil {
			m.failed(err)
			return
		}
		m.stats.Refreshed += uint64(n - refused) // those refused are gone, and a message says so
	}
}

func (a *asker) appendUse(b []byte, h Hop) []byte {
	at := len(b)
	b = a.begin(b, unix.RTM_NEWNEIGH, 0)
	family := byte(unix.AF_INET)
	if h.Gateway.Is6() {
		family = unix.AF_INET6
	}
	b = append(b, family, 0, 0, 0)
	b = order.AppendUint32(b, h.Interface)
	b = append(b, 0, 0, unix.NTF_USE, 0) // no state
	return finish(appendAttr(b, unix.NDA_DST, h.Gateway.AsSlice()), at)
}
