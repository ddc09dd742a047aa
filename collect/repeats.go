package collect

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"sync/atomic"

	"weir/flow"
	"weir/wire"
)

// repeats keeps records from being handed on twice. A weir that is killed
// between sending a batch and noting that it has, sends the same records again,
// under the same flow ids (IE 148), first thing in its next life.
//
// It looks at records of weir's own template with a flow id alone, since for
// others a flow id may name a flow of which many records come, alike ones too.
// A record comes again if flow id, key, packets and octets are those of one of
// the last 8192 records of its exporter's domain. Times are not asked: what a
// flow's counters were is kept in the kernel to the packet, its times are not.
//
// The memory is bounded: a window of 144 KiB for each of so many exporters'
// domains. It belongs to one goroutine, or to a lock's holder; the counters may
// be read by anybody.
type repeats struct {
	secret  [4]uint64
	windows map[exporter]*window
	most    int
	full    int64 // Unix ns: until then no window can be had
	last    exporter
	latest  *window // of last; nil: it has none

	records, packets, octets atomic.Uint64 // what came again
}

// exporter is who numbers flows.
type exporter struct {
	addr    flow.Addr
	domain  uint32
	version uint8
}

// Bounds of the memory, and how long a window stays for an exporter that is
// silent when another one wants its place.
const (
	windowDepth = 8192 // a power of 2
	windowIdle  = int64(60e9)
	maxWindows  = 1024 // of all loops of an address together
)

// window is what one exporter's domain sent lately.
type window struct {
	used   int64 // Unix ns: latest record
	origin origin
	*ring  // nil: of others
}

// origin is whose templates with a flow id the exporter sends.
type origin uint8

const (
	unknown origin = iota // none came since we listen
	ours
	others // and ever after, for ours may be among them
)

// ring holds fingerprints of the last records, numbered as they came, and
// chains of those that share a bucket, from the newest to the oldest. A chain
// ends where it leaves the ring, so that nothing need be taken out of it.
type ring struct {
	n     uint32                  // of the next; records before the first are long ago
	print [windowDepth]uint64     // of record i at i % windowDepth
	back  [windowDepth]uint16     // from there to the one before in its chain; at least windowDepth: none
	head  [2 * windowDepth]uint32 // by fingerprint: the newest
}

func newRepeats(most int) *repeats {
	return &repeats{
		secret:  [4]uint64{rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64()},
		windows: map[exporter]*window{}, most: most,
	}
}

// take gets what a predecessor remembers, who does not need it any more.
func (r *repeats) take(old *repeats) {
	r.secret, r.windows = old.secret, old.windows
	old.windows = nil
}

// learn looks at templates that came, now.
func (r *repeats) learn(events []wire.TemplateEvent, now int64) {
	for i := range events {
		e := &events[i]
		if e.Action == wire.Withdrawn || !e.Template.HasFlowID() {
			continue
		}
		w := r.window(exporter{e.Source.Addr, e.Domain, e.Version}, now)
		if w == nil || w.origin == others || w.origin == ours && e.Action == wire.Refreshed {
			continue
		}
		if e.Template.Ours() {
			w.origin = ours
		} else {
			w.origin, w.ring = others, nil
		}
	}
}

// drop takes the records that came before out of b, from one on.
func (r *repeats) drop(b *wire.Batch, from int) {
	kept := from
	for i := from; i < len(b.Records); i++ {
		x := &b.Records[i]
		if x.Has&flow.HasFlowID != 0 && r.again(x) {
			r.records.Add(1)
			r.packets.Add(x.Packets)
			r.octets.Add(x.Bytes)
			continue
		}
		if kept != i {
			b.Records[kept] = *x
		}
		kept++
	}
	b.Records = b.Records[:kept]
}

// again says whether x came before, and enters it if not.
func (r *repeats) again(x *flow.Record) bool {
	w := r.window(exporter{x.Exporter, x.Domain, x.Version}, x.Received)
	if w == nil || w.ring == nil {
		return false
	}
	return w.enter(r.fingerprint(x)) && w.origin == ours
}

// window finds or makes the exporter's window; nil if there is no room.
func (r *repeats) window(e exporter, now int64) *window {
	w := r.latest
	if e != r.last || w == nil && now >= r.full {
		if w = r.windows[e]; w == nil {
			w = r.add(e, now)
		}
		r.last, r.latest = e, w
	}
	if w != nil {
		w.used = max(w.used, now)
	}
	return w
}

// add makes a window, in the place of the one that was silent longest if need
// be and if that is long enough.
func (r *repeats) add(e exporter, now int64) *window {
	w := &window{used: now}
	if len(r.windows) >= r.most {
		if now < r.full {
			return nil
		}
		var silent exporter
		var oldest *window
		for k, o := range r.windows {
			if oldest == nil || o.used < oldest.used {
				silent, oldest = k, o
			}
		}
		if oldest == nil || now-oldest.used < windowIdle {
			r.full = now + windowIdle/60 // not for every record of a flood
			return nil
		}
		delete(r.windows, silent)
		w.ring = oldest.ring
	}
	if w.ring == nil {
		w.ring = new(ring)
	}
	*w.ring = ring{n: windowDepth + 1} // so that a head of 0 is of long ago
	r.windows[e] = w
	return w
}

// enter says whether p is there, and puts it in the place of the oldest if not.
// The way back ends, for every step of it is at least one record.
func (g *ring) enter(p uint64) (was bool) {
	head := &g.head[p%uint64(len(g.head))]
	for at := *head; g.n-at <= windowDepth; at -= uint32(g.back[at%windowDepth]) {
		if g.print[at%windowDepth] == p {
			return true
		}
	}
	i := g.n % windowDepth
	g.print[i], g.back[i] = p, uint16(min(g.n-*head, windowDepth))
	*head = g.n
	g.n++
	return false
}

// fingerprint is of what makes a record, with a secret: nobody can choose
// records that have the same.
func (r *repeats) fingerprint(x *flow.Record) uint64 {
	word := binary.NativeEndian.Uint64
	key := uint64(x.SrcPort)<<48 | uint64(x.DstPort)<<32 | uint64(x.VLAN)<<16 | uint64(x.Proto)<<8 | uint64(x.TOS)
	where := uint64(x.Input)<<32 | uint64(x.ICMPType)<<24 | uint64(x.ICMPCode)<<16 | uint64(x.Direction)
	s := &r.secret
	h := fold(x.FlowID^s[0], x.Packets^s[1])
	h = fold(x.Bytes^h^s[2], key^s[3])
	h = fold(word(x.Src[:])^h^s[0], word(x.Src[8:])^s[1])
	h = fold(word(x.Dst[:])^h^s[2], word(x.Dst[8:])^s[3])
	return fold(where^h^s[0], h^s[2])
}

// fold is both halves of a product.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
