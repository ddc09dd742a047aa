package wire

import (
	"bytes"
	"slices"
)

// waiting is a data set whose template has not come yet, with what its
// message's header said.
type waiting struct {
	id       uint16
	clock    clock
	received int64
	body     []byte
}

// waitingCost is what a waiting set costs beside its octets, about.
const waitingCost = 96

// wait keeps a data set until its template comes. A session may use half of
// the room there is, its oldest sets make way for new ones; when the rest is
// taken by others, the new one is lost.
func (d *Decoder) wait(id uint16, body []byte) {
	s, cost := d.msg.s, len(body)+waitingCost
	d.expireWaiting(d.ctx.received)
	n, free := 0, 0
	for ; n < len(s.waiting) && s.waitingOctets-free+cost > d.opt.Limits.WaitingOctets/2; n++ {
		free += len(s.waiting[n].body) + waitingCost
	}
	d.dropWaiting(s, n)
	if s.waitingOctets+cost > d.opt.Limits.WaitingOctets/2 || d.waitingOctets+cost > d.opt.Limits.WaitingOctets {
		d.tally(s, TemplateMissing, 1, 0, len(body))
		return
	}
	if d.waitingOctets == 0 {
		d.oldest = d.ctx.received
	}
	s.waiting = append(s.waiting, waiting{id: id, clock: d.ctx.clock, received: d.ctx.received, body: bytes.Clone(body)})
	s.waitingOctets += cost
	d.waitingOctets += cost
}

// release decodes what waited for a template that is now known.
func (d *Decoder) release(id uint16) {
	s, t := d.msg.s, d.current(d.msg.s.templates[id])
	if !slices.ContainsFunc(s.waiting, func(w waiting) bool { return w.id == id }) {
		return
	}
	saved, now, reversed := d.ctx, d.msg.Message, 0
	kept := s.waiting[:0]
	for _, w := range s.waiting {
		if w.id != id {
			kept = append(kept, w)
			continue
		}
		s.waitingOctets -= len(w.body) + waitingCost
		d.waitingOctets -= len(w.body) + waitingCost
		d.ctx.clock, d.ctx.received, d.ctx.waited = w.clock, w.received, true
		if !d.ctx.up && s.init != 0 {
			d.ctx.uptime, d.ctx.up = uint32(w.clock.exported/1e6-s.init), true
		}
		before := d.msg.Message
		d.data(t, w.body, 0)
		// Counted apart: these are not of the message at hand.
		released := d.msg.Records - before.Records
		reversed += d.msg.Reversed - before.Reversed
		s.n.options += uint64(d.msg.Options - before.Options)
		d.msg.Message = before
		d.msg.Released += released
	}
	clear(s.waiting[len(kept):])
	s.waiting = kept
	released := d.msg.Released
	d.ctx, d.msg.Message = saved, now
	d.msg.Released = released
	d.msg.Reversed += reversed
}

// dropWaiting gives up the n oldest sets of a session.
func (d *Decoder) dropWaiting(s *session, n int) {
	if n == 0 {
		return
	}
	for _, w := range s.waiting[:n] {
		s.waitingOctets -= len(w.body) + waitingCost
		d.waitingOctets -= len(w.body) + waitingCost
		d.tally(s, TemplateMissing, 1, 0, len(w.body))
	}
	s.waiting = slices.Delete(s.waiting, 0, n)
}

// Expire gives up data that has waited too long for its template, and counts
// as lost what sequence numbers say did not come; now is Unix ns. Call it about
// once a second: a quiet exporter sends nothing that would.
func (d *Decoder) Expire(now int64) {
	d.expireWaiting(now)
	for s := range d.each {
		s.seq.close(now, false)
	}
}

func (d *Decoder) expireWaiting(now int64) {
	limit := int64(d.opt.Limits.WaitingTime)
	if d.waitingOctets == 0 || limit < 0 || now-d.oldest <= limit {
		return
	}
	d.oldest = now
	for s := range d.each {
		n := 0
		for n < len(s.waiting) && now-s.waiting[n].received > limit {
			n++
		}
		d.dropWaiting(s, n)
		if len(s.waiting) > 0 {
			d.oldest = min(d.oldest, s.waiting[0].received)
		}
	}
}

// Finish gives up all that waits, at the end of a file: no template comes.
func (d *Decoder) Finish() {
	for s := range d.each {
		d.dropWaiting(s, len(s.waiting))
		s.seq.close(0, true)
	}
}
