package route

import (
	"errors"
	"maps"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// The MTU of a route (RTAX_MTU). The kernel heeds it when it forwards, and
// bpf_fib_lookup tells of it only if it is locked. So the routes that have one, of any
// routing table, are kept, and the fast path is told which destinations they concern.
// Which of several routes a packet takes is not known here: the least MTU counts.

// mtusKept is how many routes with an MTU are kept one by one. Of more only the
// least is known, and all destinations have it.
const mtusKept = 4096

// mtusRest is how long the prefixes stay as they are once they were made out, so
// that a storm of such routes costs little.
const mtusRest = 50 * time.Millisecond

// sinceKept is how many routes are told apart that change while others are listed.
const sinceKept = 1 << 16

// routeKey is what tells routes apart.
type routeKey struct {
	to              netip.Prefix
	table, priority uint32
	tos             uint8
}

// mtuRoutes are routes that have an MTU.
type mtuRoutes struct {
	of      map[routeKey]uint32
	several map[routeKey]bool // keys of several routes, one behind the other
	rest    uint32            // the least of those that found no room; 0: there are none
}

func newMTURoutes() mtuRoutes {
	return mtuRoutes{of: map[routeKey]uint32{}, several: map[routeKey]bool{}}
}

// set enters a route; with MTU 0 it takes it out. It says whether anything changes.
func (r *mtuRoutes) set(k routeKey, mtu uint32) bool {
	was, had := r.of[k]
	switch {
	case was == mtu:
		return false
	case mtu == 0:
		delete(r.of, k)
	case had || len(r.of) < mtusKept:
		r.of[k] = mtu
	default:
		before := r.rest
		r.rest = lesser(r.rest, mtu)
		return r.rest != before
	}
	return true
}

// behind enters a route that stands behind another with its key, or does not.
func (r *mtuRoutes) behind(k routeKey, mtu uint32) bool {
	had := r.of[k]
	if mtu = lesser(had, mtu); mtu != 0 && len(r.several) < mtusKept {
		r.several[k] = true
	}
	return r.set(k, mtu)
}

var all4, all6 = netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)

// lesser is the lesser of two MTUs, of which 0 is none.
func lesser(a, b uint32) uint32 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// prefixes are the destinations that have an MTU: for each prefix the least that a
// route to it or to one around it has.
func (r *mtuRoutes) prefixes() map[netip.Prefix]uint32 {
	own := map[netip.Prefix]uint32{}
	for k, mtu := range r.of {
		own[k.to] = lesser(own[k.to], mtu)
	}
	if r.rest != 0 {
		least := r.rest
		for _, mtu := range own {
			least = lesser(least, mtu)
		}
		return map[netip.Prefix]uint32{all4: least, all6: least}
	}
	all := maps.Clone(own)
	for p := range all {
		for bits := range p.Bits() {
			around, _ := p.Addr().Prefix(bits)
			all[p] = lesser(all[p], own[around])
		}
	}
	return all
}

// mtuView is what the table was told of these, and what is yet to be.
type mtuView struct {
	routes  mtuRoutes
	told    map[netip.Prefix]uint32
	changed bool
	rests   time.Time // until then the table is not told

	// A listing knows how it was when it began, and routes heard of since are newer.
	listed bool              // there was one; before that the table keeps what it has
	since  map[routeKey]bool // nil: none is under way
	doubt  bool              // routes may have gone without a word: there must be another
}

func newMTUView() mtuView { return mtuView{routes: newMTURoutes(), doubt: true} }

// hear takes in a route that is there, or no longer is. One that was appended stands
// behind others with its key.
func (m *mtuView) hear(r routeMessage, there, appended bool) {
	if len(m.since) >= sinceKept {
		m.doubt = true
	} else if m.since != nil {
		m.since[r.key] = true
	}
	known := &m.routes
	had := known.of[r.key]
	switch {
	case there && appended:
		m.changed = known.behind(r.key, r.mtu) || m.changed
	case there && !known.several[r.key]:
		m.changed = known.set(r.key, r.mtu) || m.changed
	case there:
		m.changed = known.set(r.key, lesser(had, r.mtu)) || m.changed
		m.doubt = true // which of several it has replaced only a list tells
	case known.several[r.key], had != r.mtu, r.mtu != 0 && known.rest != 0:
		m.doubt = true // or which has gone
	default:
		m.changed = known.set(r.key, 0) || m.changed
	}
}

// question says that routes may have gone without a word.
func (m *mtuView) question() {
	if len(m.routes.of) > 0 || m.routes.rest != 0 {
		m.doubt = true
	}
}

func (m *mtuView) beginList() { m.since, m.doubt = map[routeKey]bool{}, false }

// endList takes in a listing.
func (m *mtuView) endList(found mtuRoutes) {
	for k, mtu := range m.routes.of {
		if m.since[k] {
			found.set(k, mtu)
		}
	}
	for k := range m.since {
		if m.routes.of[k] == 0 {
			found.set(k, 0)
		}
	}
	m.routes, m.since, m.listed, m.changed = found, nil, true, true
}

// due is when the table is to be told; zero: there is nothing.
func (m *mtuView) due() time.Time {
	if !m.changed || !m.listed {
		return time.Time{}
	}
	return m.rests
}

// settleMTUs tells the table what has changed of destinations with an MTU.
func (v *view) settleMTUs(now time.Time) {
	m := &v.mtus
	if !m.changed || !m.listed || now.Before(m.rests) {
		return
	}
	was := m.told
	m.told, m.changed, m.rests = m.routes.prefixes(), false, now.Add(mtusRest)
	v.table.SetMTUs(m.told)
	v.stats.MTUs = len(m.told)
	for p, mtu := range m.told {
		if was[p] != mtu {
			v.invalidate(p)
		}
	}
	for p := range was {
		if m.told[p] == 0 {
			v.invalidate(p)
		}
	}
}

// routeLister lists routes beside Run, since a full table takes a second.
type routeLister struct {
	ask  *asker
	done chan routeList
	next time.Time // not before
	busy bool
}

type routeList struct {
	found mtuRoutes
	err   error
	took  time.Duration
}

// listShare is which part of a processor listings may take: one in so many.
const listShare = 20

func openLister() (*routeLister, error) {
	ask, err := openAsker(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &routeLister{ask: ask, done: make(chan routeList, 1)}, nil
}

// close waits for a listing that is under way.
func (l *routeLister) close() {
	if l.busy {
		<-l.done
	}
	l.ask.close()
}

func (l *routeLister) ready(now time.Time) bool { return !l.busy && !now.Before(l.next) }

// due is when another listing may begin, if one is wanted; zero: it need not be
// waited for.
func (l *routeLister) due(wanted bool) time.Time {
	if !wanted || l.busy {
		return time.Time{}
	}
	return l.next
}

// start begins to list in a goroutine that ends with the list, and calls done then.
func (l *routeLister) start(done func()) {
	l.busy = true
	go func() {
		begun := time.Now()
		found, err := l.list()
		l.done <- routeList{found, err, time.Since(begun)}
		done()
	}()
}

// take gives a list that is ready.
func (l *routeLister) take(now time.Time) (list routeList, ok bool) {
	select {
	case list = <-l.done:
		l.busy, l.next = false, now.Add(max(listShare*list.took, mtusRest))
		if list.err != nil {
			l.next = now.Add(pause)
		}
		return list, true
	default:
		return list, false
	}
}

// list asks for the routes of all tables, and keeps those with an MTU. That others
// change meanwhile does not matter: they are heard of.
func (l *routeLister) list() (mtuRoutes, error) {
	found := newMTURoutes()
	take := func(m message) bool {
		r, ok, sound := parseRoute(m.body)
		if ok && r.mtu != 0 {
			if found.of[r.key] != 0 {
				found.behind(r.key, r.mtu)
			} else {
				found.set(r.key, r.mtu)
			}
		}
		return sound
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		request := make([]byte, unix.SizeofRtMsg)
		request[0] = family
		if err := l.ask.list(unix.RTM_GETROUTE, request, take); err != nil && !errors.Is(err, errInterrupted) {
			return found, err
		}
	}
	return found, nil
}

// abandonList is for a listing that failed.
func (m *mtuView) abandonList() { m.since, m.doubt = nil, true }
