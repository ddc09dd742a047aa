package datapath

import (
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"weir/acl"
	"weir/bpf"
	"weir/flow"
	"weir/packet"
)

// logbook writes what rules with `log` have matched: a line for a flow's first
// packet, then its sums for as long as it goes on.
//
// The programs tell of first packets. The sums are what the table has counted: of
// entries that are there, and of those that have left since the flow is known here.
// So a line that was held back, because there were too many, is not lost: what it
// would have told is in the flow's next sum.
//
// A flow is a rule, addresses, protocol and ports. Entries of one flow that differ in
// anything else are summed up.
type logbook struct {
	log   *slog.Logger
	rule  func(word uint64) (named, bool) // nil is never asked
	name  func(ifindex uint32) string
	lines limit

	mu      sync.Mutex // taken under the sweeper's
	flows   map[logKey]*logged
	due     []logKey // sums that are to be written
	state   time.Time
	leftOut uint64 // since it was last said
}

// maxLogged is how many flows are known at a time: what can be written at the rate
// of 100 lines a second until the next sums.
const maxLogged = 1 << 15

type logKey struct {
	src, dst     flow.Addr
	sport, dport uint16 // as in flow.Key
	rule         uint16
	proto        uint8
}

func logKeyOf(word uint64, k *flow.Key) logKey {
	return logKey{k.Src, k.Dst, k.SrcPort, k.DstPort, ruleOf(word), k.Proto}
}

// logged is what is known of a flow.
type logged struct {
	named
	word uint64
	port uint32  // as in bpf.Event
	mac  [6]byte // where it came from, if has
	has  bool

	events uint64 // packets that the programs have told of
	left   uint64 // packets of entries that have left
	there  uint64 // packets of entries that are there, as last summed up
	total  uint64 // packets, as last summed up
	told   uint64 // packets that lines have told
}

// line is one that is about to be written.
type line struct {
	key     logKey
	flow    logged
	packets uint64
}

// first takes a packet that the programs have told of.
func (b *logbook) first(e *bpf.Event, k *flow.Key, mac []byte, now time.Time) {
	key := logKeyOf(e.Word, k)
	b.mu.Lock()
	if l := b.flows[key]; l != nil {
		l.events++
		b.mu.Unlock()
		return
	}
	rule, ok := b.rule(e.Word)
	if !ok { // it is gone
		b.leftOut++
		b.mu.Unlock()
		return
	}
	l := &logged{named: rule, word: e.Word, port: e.Port, events: 1}
	if len(mac) == 6 {
		l.mac, l.has = [6]byte(mac), true
	}
	say := b.lines.take(&b.state, now)
	if say {
		l.told = 1
	} else {
		b.leftOut++
	}
	if len(b.flows) < maxLogged {
		b.flows[key] = l
	}
	out := *l
	b.mu.Unlock()
	if say {
		b.write(&line{key, out, 1})
	}
}

// departed takes what an entry has counted that leaves the table.
func (b *logbook) departed(word uint64, k *flow.Key, port uint32, packets uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.of(word, k, port); l != nil {
		l.left += packets
	}
}

// of is what is known of a flow, of which its entry is what is known first if its
// line was held back, or if it is older than this process. nil: there is no room, or
// no such rule. mu is held.
func (b *logbook) of(word uint64, k *flow.Key, port uint32) *logged {
	key := logKeyOf(word, k)
	l := b.flows[key]
	if l != nil {
		return l
	}
	if len(b.flows) >= maxLogged {
		b.leftOut++
		return nil
	}
	rule, ok := b.rule(word)
	if !ok { // the entry has not been judged since it went
		return nil
	}
	l = &logged{named: rule, word: word, port: port}
	b.flows[key] = l
	return l
}

// sum adds up what flows have counted, and finds those that have something to tell.
// Nothing leaves the table while walk calls; it calls end last.
func (b *logbook) sum(walk func(visit func(word uint64, k *flow.Key, port uint32, packets uint64), end func())) {
	b.mu.Lock()
	for _, l := range b.flows {
		l.there = 0
	}
	b.mu.Unlock()
	walk(func(word uint64, k *flow.Key, port uint32, packets uint64) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if l := b.of(word, k, port); l != nil {
			l.there += packets
		}
	}, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.due = b.due[:0]
		for key, l := range b.flows {
			// Packets that are in no flow are told one by one, and only so.
			l.total = max(l.left+l.there, l.events)
			// Some were taken from it when it got another rule in between.
			l.told = min(l.told, l.total)
			switch {
			case l.total > l.told:
				b.due = append(b.due, key)
			case l.there == 0:
				delete(b.flows, key)
			}
		}
	})
}

// known is how many flows there are.
func (b *logbook) known() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.flows)
}

// drain writes what sums there may be written now.
func (b *logbook) drain(now time.Time) {
	for {
		b.mu.Lock()
		if len(b.due) == 0 || !b.lines.take(&b.state, now) {
			b.mu.Unlock()
			return
		}
		key := b.due[len(b.due)-1]
		b.due = b.due[:len(b.due)-1]
		l := b.flows[key]
		out := line{key, *l, l.total - l.told}
		l.told = l.total
		b.mu.Unlock()
		b.write(&out)
	}
}

// complain says how many lines there were too many.
func (b *logbook) complain() {
	b.mu.Lock()
	n := b.leftOut
	b.leftOut = 0
	b.mu.Unlock()
	if n > 0 {
		b.log.Warn("access list: too many lines", "left_out", n)
	}
}

func (b *logbook) write(l *line) {
	k, f := &l.key, &l.flow
	action := "permit"
	if f.word&bpf.VerdictMask == bpf.VerdictDeny {
		action = "deny"
		if f.rule.Reject {
			action = "reject"
		}
	}
	attrs := make([]any, 0, 32)
	attrs = append(
		attrs, "list", f.list.Name, "rule", f.rule.Cisco(f.list.Family), "seq", f.rule.Seq, "action", action,
		"proto", logProto(k.proto), "src", k.src.String(), "dst", k.dst.String(),
	)
	switch k.proto {
	case flow.ProtoICMP, flow.ProtoICMPv6:
		attrs = append(attrs, "type", k.dport>>8, "code", k.dport&0xff)
	case flow.ProtoTCP, flow.ProtoUDP, flow.ProtoSCTP, flow.ProtoDCCP, flow.ProtoUDPLite:
		attrs = append(attrs, "sport", k.sport, "dport", k.dport)
	}
	name, direction := b.name(f.port&^flow.KeyEgress), acl.In
	if f.port&flow.KeyEgress != 0 {
		direction = acl.Out
	}
	attrs = append(attrs, "interface", name, "direction", direction.String())
	if f.rule.Log == acl.LogInput && direction == acl.In {
		attrs = append(attrs, "input", name)
		if f.has {
			attrs = append(attrs, "mac", net.HardwareAddr(f.mac[:]).String())
		}
	}
	if f.word&bpf.VerdictCount != 0 {
		attrs = append(attrs, "passed", true) // the list only counts
	}
	b.log.Info("access list", append(attrs, "packets", l.packets)...)
}

func logProto(p uint8) string {
	switch p {
	case flow.ProtoICMP:
		return "icmp"
	case flow.ProtoTCP:
		return "tcp"
	case flow.ProtoUDP:
		return "udp"
	case flow.ProtoICMPv6:
		return "icmpv6"
	case flow.ProtoSCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

// readKey reads the packet of an event, from its IP header on.
func readKey(ip []byte) (flow.Key, bool) {
	var in packet.Info
	if len(ip) == 0 || packet.Decode(packet.LinkRaw, ip, uint32(len(ip)), &in) != packet.Decoded {
		return flow.Key{}, false
	}
	return in.Key, true
}
