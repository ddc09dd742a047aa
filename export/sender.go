package export

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weir/flow"
	"weir/wire"
)

// sender is one destination: its stream, the queue between the rhythm of flows
// and that of the network, and its socket. Whoever holds writing fills the
// queue: WriteRecords, or run when a timer is due. Only run, one goroutine,
// empties it, and it never waits for writing, which may be waiting for it.
type sender struct {
	dest Destination
	opt  *Options
	log  *slog.Logger

	writing   sync.Mutex // guards the stream and its times
	stream    stream
	begun     bool
	waiting   time.Time // since when records wait in the stream
	chosen    []flow.Record
	apart     []flow.Record // biflows, direction by direction; with writing
	apartTo   []uint8       // and to whom of a group
	refreshed time.Time
	told      time.Time

	mu      sync.Mutex
	space   sync.Cond   // the queue has room, or is closed
	queue   []*datagram // a ring
	head    int
	queued  int
	pushed  uint64 // datagrams that were ever in the queue
	popped  uint64 // and of those, the ones that are out of it
	newest  uint32 // sequence number after the newest datagram built
	slot    *slot  // nil: sequence numbers are not remembered
	down    bool   // the socket did not open when it was last tried
	spare   []*datagram
	closed  bool
	lost    ledger
	done    Stats // counters of what went out
	sent    sum
	given   uint64
	linkSeq uint32 // the session's next sequence number
	local   netip.AddrPort
	remote  netip.AddrPort
	payload int       // longest datagram; the stream follows
	forget  bool      // the stream is to send its templates again
	grow    bool      // run itself fills the queue: it must not wait for room
	linger  time.Time // until then a full queue is waited for, as with Options.Block

	wake chan struct{}

	memory *memory
	name   uint64 // in memory

	match    func(*flow.Record) bool // which records are for here; nil: all
	filtered uint64                  // those that were not
	// When something was lost, first and last, as it was found when statistics went
	// out, ms; and how many records had been then.
	lostFirst, lostLast, lostTold uint64
	standby                       bool // another of its group gets the records

	// How the collector is; guarded by mu.
	tried         bool      // to connect
	linked        bool      // connected
	wellAt        time.Time // since when nothing was wrong; zero: something is
	badAt         time.Time // when it last was
	wrong         string    // what, last
	flight        int       // of the queue: sent and not acknowledged
	links         uint64    // connections made
	spool         *spool    // nil: none
	spoolComplain time.Time // not before this again
	restored      uint64    // records that a former process left in it
	preface       []*datagram
	sendNow       bool // templates are wanted at once
	againNow      bool // and from the link

	// run's own.
	link     *link
	sock     *socket
	probedAt time.Time
	nap      time.Duration // until acknowledgements are looked for again
	backoff  time.Duration // between attempts to connect
	pace     pace
	retryAt  time.Time // when to try to open the socket again
	complain time.Time // not before this again
	batch    [batchMax]*datagram
	recent   [1024]sentNote // by sequence, what went out
	lastNote sentNote
}

// sentNote remembers a datagram, should the network send it back.
type sentNote struct {
	seq    uint32
	octets int
	sum    sum
	live   bool
}

// batchMax is how many datagrams one system call sends.
const batchMax = 32

func newSender(d Destination, opt *Options) *sender {
	d = d.withDefaults()
	s := &sender{dest: d, opt: opt, wake: make(chan struct{}, 1), queue: make([]*datagram, d.Queue)}
	s.log = opt.Log.With("destination", d.String())
	s.space.L = &s.mu
	s.stream = stream{
		version: d.Version, domain: d.Domain, preset: d.Preset, refresh: uint64(d.RefreshPackets),
		random: opt.SamplingRandom, follow: opt.FollowRecords, payload: payloadOf(d.MTU, netip.Addr{}),
		session: d.Connected(), fields: d.Fields, v8: d.V8, preface: s.keepPreface,
		get: s.get, free: s.free, emit: s.push, lose: s.lose, move: s.move, extra: s.statistics,
		sampling: samplers{rate: max(opt.Sampling, 1)},
	}
	if d.Fields.Chosen() {
		s.stream.preset = wire.Selected
	}
	switch {
	case d.stream():
		s.stream.payload = streamPayload
	case d.Connected():
		s.stream.payload -= dtlsOverhead
	}
	if opt.Rules != nil && s.stream.templated() && s.stream.preset != wire.Compact && s.stream.preset != wire.Cisco && s.stream.preset != wire.Minimal {
		s.stream.rules = &rules{from: opt.Rules}
	}
	if opt.Sampling > 1 {
		s.stream.sampling.rates, s.stream.sampling.any = []uint32{opt.Sampling}, true
	}
	s.payload = s.stream.payload
	s.pace = pace{rate: float64(d.Rate)}
	return s
}

// payloadOf is the longest UDP payload of an IP packet of mtu octets. An
// unknown family counts as IPv6, the one with less room.
func payloadOf(mtu int, a netip.Addr) int {
	if a.Is4() {
		return min(mtu-28, 65507)
	}
	return min(mtu-48, 65507)
}

// write gives records to the stream: those that its filter lets pass and, where to
// is not nil, that have its number there.
func (s *sender) write(batch []flow.Record, to []uint8, number uint8) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if !s.dest.joins() {
		batch, to = s.directions(batch, to)
	}
	if s.match == nil && to == nil {
		if !s.accept(batch) {
			return
		}
	} else if s.choose(batch, to, number); !s.accept(s.chosen) {
		return
	} else {
		batch = s.chosen
	}
	now := s.opt.Now()
	s.tick(now)
	for i := range batch {
		s.stream.add(&batch[i])
	}
	if s.stream.pending > 0 && s.waiting.IsZero() {
		s.waiting = now
	}
	if s.over() {
		s.stream.flush() // and what waited counts as lost
	}
}

// directions takes biflows apart, for formats that have no other direction. writing
// is held.
func (s *sender) directions(batch []flow.Record, to []uint8) ([]flow.Record, []uint8) {
	if !slices.ContainsFunc(batch, func(r flow.Record) bool { return r.Reverse != nil }) {
		return batch, to
	}
	s.apart, s.apartTo = s.apart[:0], s.apartTo[:0]
	for i := range batch {
		s.apart = batch[i].AppendDirections(s.apart)
		for to != nil && len(s.apartTo) < len(s.apart) {
			s.apartTo = append(s.apartTo, to[i])
		}
	}
	if to == nil {
		return s.apart, nil
	}
	return s.apart, s.apartTo
}

// choose copies what is for here to chosen. writing is held.
func (s *sender) choose(batch []flow.Record, to []uint8, number uint8) {
	s.chosen = s.chosen[:0]
	filtered := uint64(0)
	for i := range batch {
		switch {
		case to != nil && to[i] != number:
		case s.match != nil && !s.match(&batch[i]):
			filtered++
		default:
			s.chosen = append(s.chosen, batch[i])
		}
	}
	s.mu.Lock()
	s.filtered += filtered
	s.mu.Unlock()
}

// flush gives to the queue what waits in the stream.
func (s *sender) flush() {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.stream.pending > 0 { // else there is nothing new, and a tick can wait
		s.tick(s.opt.Now())
		s.stream.flush()
		s.waiting = time.Time{}
	}
}

// await returns when what is queued now is queued no more.
func (s *sender) await() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for target := s.pushed; s.popped < target; {
		if s.dest.Connected() && !s.linked {
			return // it waits for the collector
		}
		if s.down {
			s.drop(resolve)
			s.space.Broadcast()
			return
		}
		s.space.Wait()
	}
}

func (s *sender) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// accept counts a batch; after the end it is lost.
func (s *sender) accept(batch []flow.Record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.given += uint64(len(batch))
	if s.closed {
		for i := range batch {
			s.lost.record(closed, &batch[i])
		}
	}
	return !s.closed
}

// lose counts a record that the stream cannot send.
func (s *sender) lose(why reason, r *flow.Record) {
	s.mu.Lock()
	s.lost.record(why, r)
	s.mu.Unlock()
}

// tick does what is due. writing is held.
func (s *sender) tick(now time.Time) {
	st := &s.stream
	st.now = now.UnixNano()
	if !s.begun {
		s.begun = true
		s.begin(now)
		s.refreshed, s.told = now, now
		if s.opt.Interfaces != nil {
			s.told = time.Time{} // names at once
		}
	}
	s.mu.Lock()
	again, wanted := s.forget, s.sendNow
	st.payload, s.forget, s.sendNow = s.payload, false, false
	s.mu.Unlock()
	if again || wanted {
		st.forget()
	}
	if wanted || again && s.dest.Connected() {
		s.told = time.Time{} // names at once
	}
	if wanted {
		s.mu.Lock()
		s.againNow = s.dest.Connected()
		s.mu.Unlock()
		st.flush()
		st.resend()
		s.refreshed = now
	}
	if st.pending == 0 {
		s.waiting = time.Time{}
	} else if !s.waiting.IsZero() && now.Sub(s.waiting) >= s.dest.Flush {
		st.flush()
		s.waiting = time.Time{}
	}
	if st.follow && st.newest == 0 {
		return // the time is not known yet
	}
	if now.Sub(s.refreshed) >= s.dest.RefreshTime {
		st.resend()
		s.refreshed = now
	}
	if now.Sub(s.told) >= s.dest.OptionsTime {
		s.told = now
		st.tell()
	}
}

// begin starts the stream where the memory says that it was. writing is held.
func (s *sender) begin(now time.Time) {
	st := &s.stream
	st.begin(st.now, s.opt.Boot.UnixNano())
	if st.session {
		return // a session begins at 0
	}
	slot := s.memory.take(s.name, now)
	if boot, ok := slot.boot(s.base()); ok && boot <= st.now && st.now-boot < wire.MaxSpan {
		st.boot = boot
	}
	slot.setBoot(st.boot, s.base())
	if seq, ok := slot.sequence(); ok {
		st.seq = seq
	}
	s.mu.Lock()
	if s.newest = st.seq; !s.closed {
		s.slot = slot
	}
	s.mu.Unlock()
}

// base is Options.Boot as a stream has it.
func (s *sender) base() int64 { return floorTo(s.opt.Boot.UnixNano(), time.Second) }

// move remembers that sysUptime begins anew.
func (s *sender) move(boot int64) {
	s.mu.Lock()
	s.slot.setBoot(boot, s.base())
	s.mu.Unlock()
}

// statistics are the options records that are not needed to read data. writing
// is held.
func (s *sender) statistics(w *optionsWriter) {
	if s.opt.Interfaces != nil {
		list := s.opt.Interfaces()
		w.names(list)
		w.vrfs(list)
	}
	s.mu.Lock()
	d, records, lost := s.done, s.sent.records, s.lost.total()
	switch now := uint64(s.stream.now / 1e6); {
	case lost.records == 0:
	case s.lostFirst == 0:
		s.lostFirst, s.lostLast = now, now
	case lost.records > s.lostTold:
		s.lostLast = now
	}
	s.lostTold = lost.records
	first, last := s.lostFirst, s.lostLast
	s.mu.Unlock()
	w.counters(w.pick(&meteringV9, &meteringIPFIX), s.dest.Domain, d.Octets, d.Datagrams, records)
	if s.opt.Ignored != nil {
		packets, octets := s.opt.Ignored()
		w.counters(w.pick(&ignoredV9, &ignoredIPFIX), s.dest.Domain, packets, octets)
	}
	if first == 0 {
		w.counters(w.pick(&notSentV9, &notSentIPFIX), s.dest.Domain, lost.records, lost.packets, lost.octets)
		return
	}
	w.counters(w.pick(&notSentTimesV9, &notSentTimesIPFIX), s.dest.Domain, lost.records, lost.packets, lost.octets, first, last)
}

// get is an empty datagram. writing is held.
func (s *sender) get() *datagram {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.spare); n > 0 {
		g := s.spare[n-1]
		s.spare = s.spare[:n-1]
		if cap(g.b) >= s.stream.payload {
			return g
		}
	}
	return &datagram{b: make([]byte, 0, s.stream.payload)}
}

// free takes back a datagram.
func (s *sender) free(g *datagram) {
	s.mu.Lock()
	s.keep(g)
	s.mu.Unlock()
}

// keep is free with mu held.
func (s *sender) keep(g *datagram) {
	if len(s.spare) < s.dest.Queue {
		s.spare = append(s.spare, g)
	}
}

// waits says whether records may wait for room rather than be lost. mu is held.
func (s *sender) waits() bool { return s.opt.Block || time.Now().Before(s.linger) }

// push queues g; with Block it waits for room, else g is lost. writing is held.
func (s *sender) push(g *datagram) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.queued == len(s.queue) && s.waits() && !s.closed && !s.grow && s.spool == nil {
		s.space.Wait()
	}
	if s.queued == len(s.queue) && s.grow {
		s.enlarge()
	}
	s.newest = g.next
	switch {
	case s.closed:
		s.lost.datagram(closed, g)
		s.keep(g)
	case s.spool != nil && (s.spool.messages > 0 || s.queued == len(s.queue)):
		s.toSpool(g)
	case s.queued < len(s.queue):
		if s.dest.Connected() && !s.linked {
			g.b = append(make([]byte, 0, len(g.b)), g.b...) // it may wait for long: in no more room than it needs
		}
		s.queue[(s.head+s.queued)%len(s.queue)] = g
		s.queued++
		s.pushed++
		s.opt.reached(stepQueued)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	default:
		why := queueFull
		switch {
		case s.dest.Connected() && !s.linked:
			why = away
		case !s.local.IsValid():
			why = resolve
		}
		s.lost.datagram(why, g)
		s.keep(g)
	}
	s.settle()
}

// settle remembers, once nothing is queued, also the numbers of what was lost
// before it came to that: a hole must show. mu is held.
func (s *sender) settle() {
	if s.queued == 0 {
		s.slot.setSequence(s.newest)
	}
}

// pop removes the first n datagrams from the queue. mu is held.
func (s *sender) pop(n int) {
	for range n {
		s.keep(s.queue[s.head])
		s.head = (s.head + 1) % len(s.queue)
	}
	s.queued -= n
	s.popped += uint64(n)
	s.settle()
}

// drop gives up all that is queued. mu is held.
func (s *sender) drop(why reason) {
	for i := range s.queued {
		s.lost.datagram(why, s.queue[(s.head+i)%len(s.queue)])
	}
	s.pop(s.queued)
}

// enlarge doubles the queue. mu is held.
func (s *sender) enlarge() {
	ring := make([]*datagram, 2*len(s.queue))
	for i := range s.queued {
		ring[i] = s.queue[(s.head+i)%len(s.queue)]
	}
	s.queue, s.head = ring, 0
}

// take gets the next datagrams, without removing them.
func (s *sender) take(most int) []*datagram {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fromSpool()
	n := min(s.queued-s.flight, most, batchMax)
	for i := range n {
		s.batch[i] = s.queue[(s.head+s.flight+i)%len(s.queue)]
	}
	return s.batch[:n]
}

// depth is how many datagrams wait.
func (s *sender) depth() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queued
}

// open resolves the destination and makes the socket, or connects. It may be
// called again after a failure.
func (s *sender) open(ctx context.Context) error {
	if s.dest.Connected() {
		return s.connect(ctx)
	}
	sock, err := openSocket(ctx, s.dest)
	if err != nil {
		s.mu.Lock()
		s.down = true
		s.unwell(err)
		s.mu.Unlock()
		s.space.Broadcast()
		return err
	}
	s.sock = sock
	s.pace.receiver = newReceiver(sock.local, sock.remote)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.local, s.remote, s.down = sock.local, sock.remote, false
	s.well()
	s.fit()
	s.forget = true
	return nil
}

// fit sets the longest datagram by the MTU given and the one the kernel knows
// of the path. mu is held.
func (s *sender) fit() {
	mtu := s.dest.MTU
	if known := s.sock.pathMTU(); known > 0 {
		mtu = min(mtu, known)
	}
	s.payload = payloadOf(max(mtu, minMTU), s.remote.Addr())
}

// run sends until ctx ends, then what is left.
func (s *sender) run(ctx context.Context) error {
	defer s.end()
	if err := s.openSpool(); err != nil {
		s.log.Error("no spool: only the queue waits for the collector", "error", err)
	}
	ticker := time.NewTicker(min(s.dest.Flush/2, 100*time.Millisecond))
	defer ticker.Stop()
	for ctx.Err() == nil {
		if !s.ready(ctx) {
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
			s.tickNow()
			continue
		}
		if s.round(ctx) {
			select {
			case <-ticker.C:
				s.tickNow()
			default:
			}
			continue
		}
		select {
		case <-s.wake:
		case <-s.soon():
		case <-s.gone():
			s.ended()
		case <-ticker.C:
			s.tickNow()
		case <-ctx.Done():
		}
	}
	s.drain()
	return nil
}

// tickNow is tick by run. If writing goes on, that sees to the timers itself;
// a queue that is filling can wait for them.
func (s *sender) tickNow() {
	if !s.writing.TryLock() {
		return
	}
	defer s.writing.Unlock()
	if s.depth() <= s.dest.Queue/2 {
		s.fill(func(*stream) { s.tick(s.opt.Now()); s.probe(s.opt.Now()) })
	}
}

// fill lets run itself put datagrams into the queue. writing is held.
func (s *sender) fill(do func(*stream)) {
	s.mu.Lock()
	s.grow = true
	s.mu.Unlock()
	do(&s.stream)
	s.mu.Lock()
	s.grow = false
	s.mu.Unlock()
}

// ready says whether there is a socket; it tries to open one now and then.
func (s *sender) ready(ctx context.Context) bool {
	s.renew(ctx)
	if s.sock != nil || s.link != nil {
		return true
	}
	now := time.Now()
	if now.Before(s.retryAt) {
		return false
	}
	if s.dest.Connected() {
		return s.reconnect(ctx, now)
	}
	s.retryAt = now.Add(5 * time.Second)
	if err := s.open(ctx); err != nil {
		s.log.Warn("no socket for exports; trying again in 5 s", "error", err)
		return false
	}
	return true
}

// round sends one batch, and says whether there was something to send.
func (s *sender) round(ctx context.Context) bool {
	if s.dest.Connected() && s.link == nil {
		return false
	}
	batch := s.take(s.pace.most())
	if len(batch) == 0 {
		return false
	}
	if s.link != nil {
		if n := s.pace.wait(ctx, len(batch), false); n < len(batch) {
			batch = batch[:n]
		}
		s.post(ctx, batch)
		return true
	}
	// A queue that fills although flows cannot wait is worse than a burst.
	s.mu.Lock()
	hurry := !s.waits() && s.queued > s.dest.Queue/2
	s.mu.Unlock()
	if n := s.pace.wait(ctx, len(batch), hurry); n < len(batch) {
		batch = batch[:n]
	}
	s.send(batch)
	s.mu.Lock()
	s.done.Paced = s.pace.waited
	s.pop(len(batch))
	s.space.Broadcast()
	s.mu.Unlock()
	return true
}

// send hands a batch to the network and counts what became of each datagram.
func (s *sender) send(batch []*datagram) {
	for tries := 0; len(batch) > 0; {
		n, err := s.sock.send(batch)
		if n > 0 {
			s.account(batch[:n])
			batch, tries = batch[n:], 0
		}
		if err == nil {
			continue
		}
		// An earlier datagram's fate may be told at a later one's sending, which
		// then did not happen; a few tries tell the two apart.
		if tries++; tries <= 3 && !errors.Is(err, errTimeout) {
			s.mu.Lock()
			s.done.Retried++
			s.mu.Unlock()
			if causeOf(err) == bufferFull {
				time.Sleep(time.Millisecond << tries)
			}
			continue
		}
		s.fail(batch[0], err)
		batch, tries = batch[1:], 0
	}
	s.returned()
}

// account counts datagrams as sent.
func (s *sender) account(batch []*datagram) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range batch {
		s.done.Datagrams++
		s.done.Octets += uint64(len(g.b))
		s.done.Templates += uint64(g.templates)
		s.done.Options += uint64(g.options)
		s.sent.add(g.sum)
		s.lastNote = sentNote{g.seq, len(g.b), g.sum, true}
		s.recent[g.seq%uint32(len(s.recent))] = s.lastNote
	}
	s.opt.reached(stepSent)
	s.slot.setSequence(batch[len(batch)-1].next)
	s.opt.reached(stepRemembered)
}

// fail counts a datagram that could not be sent.
func (s *sender) fail(g *datagram, err error) {
	why := causeOf(err)
	s.mu.Lock()
	s.lost.datagram(why, g)
	s.slot.setSequence(g.next)
	s.forget = true
	if why == tooBig {
		s.fit()
	} else {
		s.unwell(err)
	}
	s.mu.Unlock()
	s.warn(why, err)
}

func (s *sender) warn(why reason, err error) {
	if now := time.Now(); now.After(s.complain) {
		s.complain = now.Add(30 * time.Second)
		s.log.Warn("exports are lost", "reason", reasonText[why].name, "error", err, "help", reasonText[why].help)
	}
}

// returned reads what the network says of datagrams sent before: those are
// counted back. The quoted octets tell which; without them it is the newest.
func (s *sender) returned() {
	for range 1024 {
		seq, known, err := s.sock.returned(s.dest.Version)
		if err == nil {
			return
		}
		why := causeOf(err)
		s.mu.Lock()
		note := &s.lastNote
		if known && s.recent[seq%uint32(len(s.recent))].seq == seq {
			note = &s.recent[seq%uint32(len(s.recent))]
		}
		if note.live {
			note.live = false
			g := datagram{sum: note.sum}
			s.lost.datagram(why, &g)
			s.sent.sub(note.sum)
			s.done.Datagrams--
			s.done.Octets -= uint64(note.octets)
		}
		s.forget = true
		if why == tooBig {
			s.fit()
		} else {
			s.unwell(err)
		}
		s.mu.Unlock()
		s.warn(why, err)
	}
}

// Times allowed for sending what is left at the end.
const (
	drainBlock = 5 * time.Minute // a capture's flows: nobody waits for the next packet
	drainLive  = 10 * time.Second
)

// drain sends what waits, then the last statistics.
func (s *sender) drain() {
	limit := drainLive
	if s.opt.Block {
		limit = drainBlock
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if s.sock == nil && s.link == nil {
		if err := s.open(ctx); err != nil {
			s.log.Warn("no socket for the last exports", "error", err)
			cancel()
		}
	}
	s.empty(ctx)
	if !s.writing.TryLock() {
		return // someone still writes: what comes now is late
	}
	defer s.writing.Unlock()
	if !s.begun {
		return
	}
	s.stream.now = s.opt.Now().UnixNano()
	s.fill((*stream).flush)
	s.empty(ctx)
	if s.stream.built > 0 && ctx.Err() == nil {
		s.fill((*stream).tell)
		s.empty(ctx)
	}
}

// empty sends all that is queued.
func (s *sender) empty(ctx context.Context) {
	for more := true; more; more = s.relink(ctx) {
		for ctx.Err() == nil && s.round(ctx) {
		}
		s.acknowledge(ctx)
	}
}

// end closes up: what is left is lost.
func (s *sender) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	why := shutdown
	switch {
	case s.dest.Connected():
		if why = s.unlink(); s.spool != nil {
			why = s.leave()
		}
	case s.sock == nil:
		why = resolve
	}
	s.drop(why)
	s.slot = nil // it may be a successor's now
	s.space.Broadcast()
	if s.sock != nil {
		s.sock.close()
	}
	s.pace.receiver.close()
}

// stats is the state of now.
func (s *sender) stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.done
	st.Destination, st.Version = s.dest.String(), s.dest.Version
	if s.local.IsValid() {
		st.Local, st.Remote = s.local.String(), s.remote.String()
	}
	if s.dest.Version >= flow.VersionV9 {
		if st.Template = s.dest.Preset.String(); s.dest.Fields.Chosen() {
			st.Template = s.dest.Fields.String()
		}
	}
	st.Domain, st.Payload, st.Sequence = s.dest.Domain, s.payload, s.newest
	if s.dest.Connected() {
		st.Sequence = s.linkSeq
	}
	st.State, st.Error, st.ErrorAt, st.Connections = s.state(), s.wrong, s.badAt, s.links
	st.Group, st.Standby = cmp.Or(s.dest.Balance, s.dest.FailOver), s.standby
	if s.spool != nil {
		st.Spooled, st.SpooledRecords, st.SpoolOctets, st.SpoolMax = s.spool.messages, s.spool.sum.records, s.spool.octets, s.dest.SpoolSize
	}
	st.InFlight, st.Filtered, st.Restored = s.flight, s.filtered, s.restored
	st.GivenRecords = s.given
	st.Records, st.WireRecords, st.Packets, st.Bytes = s.sent.records, s.sent.wire, s.sent.packets, s.sent.octets
	st.Queued, st.QueueMax = s.queued, s.dest.Queue
	st.Lost = s.lost.losses()
	return st
}
