package wire

import "weir/flow"

// sequence follows the sequence numbers of one exporter's domain. Only a hole
// that stays open is loss: datagrams that come late, come twice, or come from
// an exporter that began anew are told apart.
//
// v5 to v8 and IPFIX number records, v9 datagrams; each message says its number
// (seq) and how much it holds (n).
type sequence struct {
	started bool
	next    uint32
	vague   bool // next is the least it can be: a message's records could not be counted

	holes  []hole
	recent [window]mark // messages seen lately, to know them again
	marked uint64       // so many, in all
	at     uint64       // messages observed

	habit  habit
	scores [habits]int8
	last   raw // the message before

	exported, uptime uint32 // s and ms, of the latest message
	stray            uint32 // where a stream that does not go on from next would
	strayed          bool

	info SequenceInfo
}

// window is how many messages later a hole may still be filled.
const window = 64

// holeTime closes holes of quiet exporters.
const holeTime = 10e9

// farAhead is more than any gap: an exporter that jumps further began anew,
// unless its uptime says that it did not.
const farAhead = 1 << 24

type hole struct {
	from, n uint32
	at      uint64 // message that left it
	since   int64  // Unix ns
}

type mark struct{ seq, n uint32 }

// raw is what a message says of itself.
type raw struct {
	seq, data, options uint32
	certain            bool // both could be counted
}

// habit is how an exporter numbers. The RFCs say: the number in the header is
// of what was sent before this message, and options data records count like
// flow records. Exporters in use (softflowd is one) put the number of what was
// sent with this message, or leave options out; taken at their word, they would
// lose something in every message. What a stream's messages agree with decides.
type habit uint8

const (
	habitAfter     habit = 1 // the number is of what was sent with this message
	habitNoOptions habit = 2 // options data is not counted
	habits               = 4
)

// place gives where a message begins in the numbering, and how much it holds.
func (h habit) place(m raw) (start, n uint32) {
	n = m.data
	if h&habitNoOptions == 0 {
		n += m.options
	}
	if h&habitAfter != 0 {
		return m.seq - n, n
	}
	return m.seq, n
}

// follows says whether b is the message after a, by the habit.
func (h habit) follows(a, b raw) bool {
	start, n := h.place(a)
	next, _ := h.place(b)
	return start+n == next
}

// maxScore bounds what a long past says against the present.
const maxScore = 8

// learn keeps the score of each habit, and changes to another one if the
// message is out of place by the one believed and in place by one that has
// proved as good.
func (q *sequence) learn(m raw) {
	defer func() { q.last = m }()
	if !q.started || !m.certain || !q.last.certain {
		return
	}
	var follows [habits]bool
	best, any := q.habit, false
	for h := range habit(habits) {
		follows[h] = h.follows(q.last, m)
		any = any || follows[h]
	}
	if !any {
		return // a loss, or out of order: that says nothing of habits
	}
	for h, ok := range follows {
		if ok {
			q.scores[h] = min(q.scores[h]+1, maxScore)
		} else {
			q.scores[h] = max(q.scores[h]-1, 0)
		}
		if ok && !follows[q.habit] && (best == q.habit || q.scores[h] > q.scores[best]) {
			best = habit(h)
		}
	}
	if best != q.habit && q.scores[best] >= q.scores[q.habit] {
		q.habit = best
		q.next, _ = best.place(m)
	}
}

// pulse is what the header says of the exporter's clock. v9 and older say how
// long it has been up.
type pulse struct {
	exported uint32 // s
	uptime   uint32 // ms
	up       bool
}

// steady says whether the exporter's start, as far as the pulse tells, is the
// one it had; known is false if it does not tell.
func (q *sequence) steady(p pulse) (steady, known bool) {
	if !p.up || !q.started {
		return false, false
	}
	moved := q.moved(p)
	return moved > -startSlack && moved < startSlack, true
}

// startSlack is how far apart (ms) two reports of one start may be: v9's headers
// have whole seconds, and clocks are set.
const startSlack = 5000

// moved is by how many ms the pulse puts the exporter's start later than it was.
// Both clocks wrap alike, so their difference does not change at a wrap.
func (q *sequence) moved(p pulse) int32 {
	return int32((p.exported*1000 - p.uptime) - (q.exported*1000 - q.uptime))
}

// goesOn says whether a message looks like the next of this stream.
func (q *sequence) goesOn(seq uint32, p pulse, slack uint32) bool {
	if !q.started || q.vague {
		return false
	}
	steady, known := q.steady(p)
	if known {
		return steady && seq-q.next <= slack
	}
	if q.habit&habitAfter != 0 {
		return seq-q.next <= slack // the message's own records are in it
	}
	return seq == q.next
}

// observe takes the numbers of one message.
func (q *sequence) observe(m raw, p pulse, now int64) {
	q.at++
	q.close(now, false)
	q.learn(m)
	seq, n := q.habit.place(m)
	certain := m.certain
	steady, known := q.steady(p)
	restarted := known && !steady && p.uptime < q.uptime
	diff := int32(seq - q.next)
	switch {
	case !q.started:
		q.started = true
	case diff == 0:
	case restarted:
		q.info.Restarts++
		q.giveUp(len(q.holes))
	case diff > 0 && q.vague: // what came is as likely what was not counted
	case diff > 0 && (diff < farAhead && !(seq == 0 && diff > 1<<16) || steady):
		q.info.Gaps++
		q.info.Missing += uint64(diff)
		if len(q.holes) == window {
			q.giveUp(1)
		}
		q.holes = append(q.holes, hole{from: q.next, n: uint32(diff), at: q.at, since: now})
	case diff < 0 && q.fill(seq, n):
		q.info.Reordered++
		q.mark(seq, n)
		return
	case diff < 0 && known && q.moved(p) >= startSlack:
		// It started later than it had, and counts from the beginning: one that was
		// not up for long before, or else its uptime would have told.
		q.info.Restarts++
		q.giveUp(len(q.holes))
	case diff < 0 && q.seen(seq, n):
		q.info.Duplicates++
		return
	case q.strayed && seq == q.stray:
		q.info.Restarts++
		q.giveUp(len(q.holes))
	default: // one message alone proves nothing
		q.stray, q.strayed = seq+n, true
		q.info.Reordered++
		return
	}
	q.strayed = false
	q.next, q.vague = seq+n, !certain
	q.exported, q.uptime = p.exported, p.uptime
	q.mark(seq, n)
}

func (q *sequence) mark(seq, n uint32) {
	q.recent[q.marked%window] = mark{seq, n}
	q.marked++
}

// fill closes the part of a hole that a late message belongs to.
func (q *sequence) fill(seq, n uint32) bool {
	for i := range q.holes {
		h := &q.holes[i]
		off := seq - h.from
		if off >= h.n || n == 0 {
			continue
		}
		n = min(n, h.n-off)
		q.info.Missing -= uint64(n)
		rest := hole{from: seq + n, n: h.n - off - n, at: h.at, since: h.since}
		h.n = off
		if rest.n > 0 && h.n > 0 {
			if len(q.holes) < window {
				q.holes = append(q.holes, rest)
			} else {
				q.info.Missing -= uint64(rest.n)
				q.info.Lost += uint64(rest.n)
			}
		} else if rest.n > 0 {
			*h = rest
		} else if h.n == 0 {
			q.holes = append(q.holes[:i], q.holes[i+1:]...)
		}
		return true
	}
	return false
}

// seen says whether the message, or one of its place, came lately.
func (q *sequence) seen(seq, n uint32) bool {
	for i := range min(q.marked, window) {
		if m := q.recent[i]; m.seq == seq || n == 0 && seq-m.seq < m.n {
			return true
		}
	}
	return false
}

// close declares lost what did not come for a window of messages, or of time.
func (q *sequence) close(now int64, all bool) {
	for len(q.holes) > 0 {
		h := &q.holes[0]
		if !all && q.at-h.at <= window && now-h.since < holeTime {
			return
		}
		q.giveUp(1)
	}
}

func (q *sequence) giveUp(n int) {
	for _, h := range q.holes[:n] {
		q.info.Missing -= uint64(h.n)
		q.info.Lost += uint64(h.n)
	}
	q.holes = append(q.holes[:0], q.holes[n:]...)
}

// unit is what a version's sequence numbers count.
func unit(version uint8) string {
	switch version {
	case flow.VersionV1:
		return ""
	case flow.VersionV9:
		return "datagrams"
	}
	return "records"
}
