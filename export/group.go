package export

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"weir/flow"
)

// group is destinations that get a record between them, not each.
type group struct {
	name    string
	balance bool // else fail-over
	senders []*sender

	mu      sync.Mutex
	to      []uint8 // which of senders gets each record of a batch
	current int     // of a fail-over group
	log     func(from, to *sender)
}

const maxGroup = 255

// write gives a batch to those of the group that it is for.
func (g *group) write(batch []flow.Record, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.balance {
		g.choose(now)
		g.senders[g.current].write(batch, nil, 0)
		return
	}
	g.to = g.to[:0]
	for i := range batch {
		g.to = append(g.to, g.share(&batch[i]))
	}
	for k, s := range g.senders {
		if slices.Contains(g.to, uint8(k)) {
			s.write(batch, g.to, uint8(k))
		}
	}
}

// share says whose a flow is: the sender whose name and the flow's key make the
// largest hash (rendezvous hashing), so that one destination more, or less, moves
// no flows between the others.
func (g *group) share(r *flow.Record) uint8 {
	key := hashOf(r)
	best, at := uint64(0), 0
	for k, s := range g.senders {
		if h := mix(key ^ s.name); h > best {
			best, at = h, k
		}
	}
	return uint8(at)
}

// hashOf is a hash of addresses, ports and protocol, the same for both directions.
func hashOf(r *flow.Record) uint64 {
	end := func(a *flow.Addr, port uint16) uint64 {
		return mix(be.Uint64(a[:8]) ^ mix(be.Uint64(a[8:])^mix(uint64(port)+1)))
	}
	return mix(end(&r.Src, r.SrcPort) + end(&r.Dst, r.DstPort) + uint64(r.Proto))
}

// choose makes the best sender that is well the current one. Who was away has to
// be well for a while to come back, lest the flows go to and fro.
func (g *group) choose(now time.Time) {
	next := g.current
	if g.senders[next].wellFor(now) < 0 {
		for i, s := range g.senders {
			if s.wellFor(now) >= 0 {
				next = i
				break
			}
		}
	} else {
		for i, s := range g.senders[:next] {
			if s.wellFor(now) >= s.dest.Hold {
				next = i
				break
			}
		}
	}
	if next == g.current {
		return
	}
	from, to := g.senders[g.current], g.senders[next]
	g.current = next
	from.serve(false)
	to.serve(true)
	g.log(from, to)
}

// newGroups sorts senders into groups; those that are in none come back.
func newGroups(senders []*sender) (single []*sender, groups []*group) {
	for _, s := range senders {
		name, balance := cmp.Or(s.dest.Balance, s.dest.FailOver), s.dest.Balance != ""
		if name == "" {
			single = append(single, s)
			continue
		}
		i := slices.IndexFunc(groups, func(g *group) bool { return g.name == name && g.balance == balance })
		if i < 0 {
			i = len(groups)
			groups = append(groups, &group{name: name, balance: balance})
		}
		g := groups[i]
		g.senders = append(g.senders, s)
	}
	for _, g := range groups {
		if g.balance {
			continue
		}
		slices.SortStableFunc(g.senders, func(a, b *sender) int { return cmp.Compare(a.dest.Priority, b.dest.Priority) })
		for i, s := range g.senders {
			s.standby = i > 0
		}
		g.log = func(from, to *sender) {
			to.log.Warn("exports go here now", "group", g.name, "instead_of", from.dest.String())
		}
	}
	return single, groups
}
