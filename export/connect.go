package export

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// What a sender does for a collector that is connected to.

// Waits between attempts to connect.
const (
	retryFirst = 500 * time.Millisecond
	retryLast  = 10 * time.Second
)

// connect makes the link. run's own, or before it.
func (s *sender) connect(ctx context.Context) error {
	l, err := dial(ctx, s.dest)
	if err == nil {
		go l.listen()
		if err = l.settle(ctx, s.dest); err != nil {
			l.close()
			<-l.ended
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tried = true
	if err != nil {
		s.unwell(err)
		s.space.Broadcast()
		return err
	}
	s.link, s.linked, s.flight = l, true, 0
	s.links++
	s.linkSeq = 0
	s.local, s.remote = l.addrs()
	if l.tcp == nil { // nobody holds a sender up over DTLS
		s.pace.receiver = newReceiver(s.local, s.remote)
	}
	s.forget = true // sampling and names are told again
	s.well()
	return nil
}

// reconnect tries to make a link anew, ever less often.
func (s *sender) reconnect(ctx context.Context, now time.Time) bool {
	err := s.connect(ctx)
	if err == nil {
		s.log.Info("connected", "local", s.local.String(), "remote", s.remote.String())
		return true
	}
	s.later(now)
	s.complainOf("the collector is away; its records wait", err)
	return false
}

// later puts off the next attempt, each time for longer.
func (s *sender) later(now time.Time) {
	s.backoff = min(max(2*s.backoff, retryFirst), retryLast)
	s.retryAt = now.Add(s.backoff)
}

func (s *sender) complainOf(what string, err error) {
	if now := time.Now(); now.After(s.complain) {
		s.complain = now.Add(30 * time.Second)
		s.log.Warn(what, "error", err)
	}
}

// gone is closed when the collector has ended the connection.
func (s *sender) gone() <-chan struct{} {
	if s.link == nil {
		return nil
	}
	return s.link.ended
}

// ended gives up a link that the collector has ended.
func (s *sender) ended() {
	if err := s.link.lost(); err != nil {
		s.breakOff(err)
	}
}

// breakOff gives up the link: what the collector's machine had not acknowledged
// is sent again by the next one.
func (s *sender) breakOff(err error) {
	s.settleLink()
	s.link.close()
	<-s.link.ended
	s.pace.receiver.close()
	s.pace.receiver = nil
	lasted := s.link.since
	s.mu.Lock()
	s.link, s.linked, s.flight = nil, false, 0
	s.unwell(err)
	s.space.Broadcast()
	s.mu.Unlock()
	if time.Since(lasted) > retryLast {
		s.backoff = 0
	}
	s.later(time.Now())
	s.complainOf("the connection is lost; what was not acknowledged is sent again", err)
}

// post sends messages over the link.
func (s *sender) post(ctx context.Context, batch []*datagram) {
	if err := s.link.lost(); err != nil {
		s.breakOff(err)
		return
	}
	deadline := time.Now().Add(writeTime)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	l := s.link
	defer context.AfterFunc(ctx, func() { l.conn.SetWriteDeadline(time.Now().Add(drainLive)) })()
	if err := s.prepare(); err != nil {
		s.breakOff(err)
		return
	}
	for _, g := range batch {
		p, err := s.link.send(g, deadline)
		s.mu.Lock()
		s.posted(p)
		if err == nil {
			s.flight++
		}
		s.linkSeq = s.link.seq
		s.mu.Unlock()
		if err != nil {
			s.breakOff(err)
			return
		}
	}
	s.nap = ackFirst
	s.settleLink()
}

// prepare tells a new session what must be known before data, and templates that
// are wanted now.
func (s *sender) prepare() error {
	s.mu.Lock()
	again := s.againNow
	s.againNow = false
	var first []*datagram
	if s.link.seq == 0 && s.link.posted == 0 {
		first = s.preface
	}
	s.mu.Unlock()
	if again {
		p, err := s.link.again(time.Now())
		s.mu.Lock()
		s.posted(p)
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	for _, g := range first {
		s.link.date(g, s.opt.Now())
		p, err := s.link.send(g, time.Now().Add(writeTime))
		p.messages, p.octets = p.messages+1, p.octets+len(g.b)
		s.mu.Lock()
		s.posted(p)
		s.done.Options += uint64(g.options)
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// posted counts what went out beside data. mu is held.
func (s *sender) posted(p post) {
	s.done.Datagrams += uint64(p.messages)
	s.done.Octets += uint64(p.octets)
	s.done.Templates += uint64(p.templates)
}

// keepPreface keeps a copy of what must be known before data, for sessions to
// come; nil begins it anew. Called with writing held.
func (s *sender) keepPreface(g *datagram) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g == nil {
		s.preface = nil
		return
	}
	c := *g
	c.b = append([]byte(nil), g.b...)
	c.uses = append([]*definition(nil), g.uses...)
	s.preface = append(s.preface, &c)
}

// Times between looks for acknowledgements.
const (
	ackFirst = time.Millisecond
	ackLast  = 100 * time.Millisecond
)

// soon is when to look for acknowledgements again; never while nothing waits.
func (s *sender) soon() <-chan time.Time {
	if s.link == nil {
		return nil
	}
	if s.settleLink() == 0 {
		return nil
	}
	if err := s.link.lost(); err != nil {
		s.breakOff(err)
		return nil
	}
	s.nap = min(max(2*s.nap, ackFirst), ackLast)
	return time.After(s.nap)
}

// settleLink lets go of what the collector's machine has, and says how many
// messages are still on their way.
func (s *sender) settleLink() int {
	reached := s.link.reached()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for ; n < s.flight; n++ {
		g := s.queue[(s.head+n)%len(s.queue)]
		if !reached(g) {
			break
		}
		s.done.Datagrams++
		s.done.Octets += uint64(len(g.b))
		s.done.Options += uint64(g.options)
		s.sent.add(g.sum)
	}
	if n > 0 {
		s.flight -= n
		s.done.Paced = s.pace.waited
		s.pop(n)
		s.space.Broadcast()
	}
	return s.flight
}

// relink connects again while the last is being sent.
func (s *sender) relink(ctx context.Context) bool {
	if !s.dest.Connected() || s.link != nil || s.depth() == 0 {
		return false
	}
	sleep(ctx, 50*time.Millisecond)
	return s.open(ctx) == nil
}

// acknowledge waits until all that was sent has arrived; ctx bounds it.
func (s *sender) acknowledge(ctx context.Context) {
	for s.link != nil && ctx.Err() == nil && s.settleLink() > 0 {
		s.ended()
		sleep(ctx, ackFirst)
	}
}

// unlink closes the link at the end, in good order, and says why what is left
// would be lost. mu is held.
func (s *sender) unlink() reason {
	if s.link == nil {
		return away
	}
	l := s.link
	s.link, s.linked, s.flight = nil, false, 0
	l.finish()
	<-l.ended
	return shutdown
}

// Health, for fail-over and for people. mu is held.

func (s *sender) well() { s.wellAt = time.Now() }

func (s *sender) unwell(err error) {
	s.wellAt, s.badAt, s.wrong = time.Time{}, time.Now(), err.Error()
}

// unwellTime is how long a datagram that came back makes a collector unwell: UDP
// tells of failure alone.
const unwellTime = 10 * time.Second

// wellFor is how long nothing has been wrong; below 0: something is. A destination
// that was not tried yet is given a chance.
func (s *sender) wellFor(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.dest.Connected() && !s.linked:
		if !s.tried {
			return 0
		}
		return -1
	case s.dest.Connected():
		return now.Sub(s.wellAt)
	case s.down:
		return -1
	case s.badAt.IsZero():
		return time.Duration(1<<63 - 1)
	}
	if since := now.Sub(s.badAt); since >= min(unwellTime, s.dest.Hold) {
		return since
	}
	return -1
}

// state is how the destination is, in a word. mu is held.
func (s *sender) state() string {
	switch {
	case s.closed:
		return "stopped"
	case s.dest.Connected() && !s.linked && !s.tried:
		return "connecting"
	case s.dest.Connected() && !s.linked:
		return "away"
	case s.down, !s.dest.Connected() && !s.badAt.IsZero() && time.Since(s.badAt) < unwellTime:
		return "failing"
	case s.standby:
		return "standby"
	}
	return "sending"
}

// serve makes the sender its group's current one, or not.
func (s *sender) serve(current bool) {
	s.mu.Lock()
	s.standby = !current
	s.forget = s.forget || current
	s.mu.Unlock()
}

// probeTime is how often a collector that failed, and gets nothing now, is sent
// its templates, to see whether they come back.
const probeTime = 3 * time.Second

// probe looks after a collector over UDP that another one stands in for. writing
// is held.
func (s *sender) probe(now time.Time) {
	s.mu.Lock()
	idle := s.standby && !s.dest.Connected() && !s.badAt.IsZero()
	s.mu.Unlock()
	if !idle || now.Sub(s.probedAt) < probeTime || !s.begun {
		return
	}
	s.probedAt = now
	s.stream.now = now.UnixNano()
	s.stream.resend()
}

// awaken lets run look at what is wanted.
func (s *sender) awaken() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// The spool.

func (s *sender) openSpool() error {
	if s.dest.Spool == "" || s.spool != nil {
		return nil
	}
	sp, err := openSpool(filepath.Join(s.dest.Spool, fmt.Sprintf("%016x", s.name)), s.dest.SpoolSize)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spool, s.restored = sp, sp.sum.records
	if sp.messages > 0 {
		s.log.Info("the spool holds what was not sent before", "messages", sp.messages, "records", sp.sum.records)
	}
	return nil
}

// toSpool puts a message at the end of the spool. mu is held.
func (s *sender) toSpool(g *datagram) {
	if err := s.spool.add(g); err != nil {
		why := spoolError
		if errors.Is(err, errSpoolFull) {
			why = spoolFull
		}
		s.lost.datagram(why, g)
		s.complainOfSpool("the spool takes no more", err)
	}
	s.keep(g)
	s.awaken()
}

// renew ends a DTLS session that has lasted for RefreshTime. A collector that began
// anew without a word takes nothing of the old one and does not say so.
func (s *sender) renew(ctx context.Context) {
	if s.link == nil || s.link.tcp != nil || time.Since(s.link.since) < s.dest.RefreshTime {
		return
	}
	s.acknowledge(ctx)
	s.mu.Lock()
	s.unlink()
	s.mu.Unlock()
	s.pace.receiver.close()
	s.pace.receiver, s.retryAt = nil, time.Time{}
}

// complainOfSpool is called with mu held.
func (s *sender) complainOfSpool(what string, err error) {
	if now := time.Now(); now.After(s.spoolComplain) {
		s.spoolComplain = now.Add(30 * time.Second)
		s.log.Warn(what, "error", err)
	}
}

// fromSpool fills the queue's free half from the spool. mu is held.
func (s *sender) fromSpool() {
	if s.spool == nil || !s.linked {
		return
	}
	for s.spool.messages > 0 && s.queued < (len(s.queue)+1)/2 {
		g := &datagram{}
		ok, broken := s.spool.take(g)
		s.lost.messages(spoolError, broken)
		if broken.messages > 0 {
			s.complainOfSpool("the spool was broken", errors.New("what followed in its segment is lost"))
		}
		if !ok {
			return
		}
		s.queue[(s.head+s.queued)%len(s.queue)] = g
		s.queued++
		s.pushed++
	}
}

// leave puts what is still queued in front of the spool, for the next process, and
// says why what does not fit is lost. mu is held.
func (s *sender) leave() reason {
	front := make([]*datagram, 0, s.queued)
	for i := range s.queued {
		front = append(front, s.queue[(s.head+i)%len(s.queue)])
	}
	left, err := s.spool.close(front)
	s.pop(len(front) - len(left))
	if err == nil {
		return shutdown
	}
	s.log.Error("the spool could not be kept", "error", err)
	return spoolError
}
