package guard

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"weir/flow"
)

// Kind says what an attack looks like.
type Kind string

// The kinds.
const (
	KindSYN       Kind = "syn-flood"
	KindAmp       Kind = "udp-amplification"
	KindFragments Kind = "fragment-flood"
	KindICMP      Kind = "icmp-flood"
	KindUDP       Kind = "udp-flood"
	KindTCP       Kind = "tcp-flood"
	KindFlow      Kind = "single-flow"
	KindCrowd     Kind = "established" // many whole connections, or one large transfer: a flash crowd, a backup
	KindMixed     Kind = "mixed"
)

// classify tells by a second's counts, and by the evidence, what it is.
func classify(c *Counts, e *Evidence) Kind {
	p := c[Packets]
	half := func(m Measure) bool { return 2*c[m] >= p }
	switch {
	case p == 0:
		return KindMixed
	case half(FragPackets):
		return KindFragments
	case half(AmpPackets):
		return KindAmp
	case half(SYNPackets), c[TCPFlows] >= 100 && c.SYNRatio() >= 0.8 && 4*c[SYNPackets] >= p:
		return KindSYN
	case half(ICMPPackets):
		return KindICMP
	case 10*c[EstPackets] >= 7*p && half(TCPPackets) && c.SYNRatio() < 0.5:
		return KindCrowd
	case e != nil && e.TopFlow >= 0.5:
		return KindFlow
	case half(UDPPackets):
		return KindUDP
	case half(TCPPackets):
		return KindTCP
	}
	return KindMixed
}

// plan is a match and what it hits.
type plan struct {
	match    Match
	hit      float64 // share of the target's packets
	cut      float64 // share of what the threshold that fired counts: of new flows, say
	innocent float64 // share of the target's packets of established flows that are not the attack's
	enough   bool    // what is left keeps to the threshold
}

// weigh finds the match that hits enough of an attack on base, and the least else. rate is
// the measure that fired, as it is; what is not hit of it should be below limit.
func (r *rates) weigh(base Match, limit Limit, rate uint64, kind Kind, can func(*Match) error) (best plan, err error) {
	s := r.sample
	if count(r.hot, &base) > count(r.sample, &base) {
		s = r.hot
	}
	candidates := propose(s, base)
	var culprit *flow.Key
	if i := slices.IndexFunc(candidates, func(m Match) bool { return m.Flow != nil }); i >= 0 && kind == KindFlow {
		culprit = candidates[i].Flow
	}
	found := false
	for _, m := range candidates {
		if e := can(&m); e != nil {
			err = e
			continue
		}
		p := judge(s, base, m, limit.Measure, culprit)
		p.enough = float64(rate)*(1-p.cut) <= float64(limit.Rate)
		if !found || better(&p, &best) {
			best, found = p, true
		}
	}
	if found {
		return best, nil
	}
	return best, cmp.Or(err, fmt.Errorf("no sample of it yet"))
}

// better prefers what is enough, then what harms fewer, then what is narrower.
func better(a, b *plan) bool {
	if a.enough != b.enough {
		return a.enough
	}
	if !a.enough {
		return a.hit-a.innocent > b.hit-b.innocent+0.01
	}
	if d := a.innocent - b.innocent; d < -0.01 || d > 0.01 {
		return d < 0
	}
	// New flows are less than a whole port or protocol. What only the attack's packets have
	// in common is better: of its flows those in the cache already would pass.
	switch {
	case a.match.New && !b.match.New:
		return !b.match.Marked()
	case b.match.New && !a.match.New:
		return a.match.Marked()
	}
	return a.hit < b.hit-0.05
}

// judge counts what m hits of base, also in the measure that fired: a flood of new flows
// may be fewer packets than the transfers beside it. culprit is the flow that is the
// attack, if it is one.
func judge(s *sample, base, m Match, fired Measure, culprit *flow.Key) (p plan) {
	p.match = m
	var all, hit, good, harmed uint64
	var counted, cut float64
	s.of(&base, func(d *Delta, n uint64) {
		all += n
		innocent := d.Established && d.Key.Proto == flow.ProtoTCP && (culprit == nil || d.Key != *culprit)
		if innocent {
			good += n
		}
		// The sample is of packets: each stands for its part of what the flow counted.
		part := float64(n) * float64(d.counts(fired)) / float64(max(1, d.Packets))
		counted += part
		if m.Hits(d) {
			hit += n
			cut += part
			if innocent {
				harmed += n
			}
		}
	})
	p.hit, p.innocent = share(hit, all), share(harmed, good)
	if p.cut = p.hit; counted > 0 {
		p.cut = cut / counted
	}
	return p
}

// propose lists matches within base that could fit what the sample has, narrow ones first.
func propose(s *sample, base Match) []Match {
	flows := tally[string]{}
	keys := map[string]flow.Key{}
	sources, protos, singleProtos := tally[sourceKey]{}, tally[uint8]{}, tally[uint8]{}
	ampPorts, dports := tally[uint16]{}, tally[uint32]{}
	var all, fragments, syn, singles, udpPorts uint64
	sports := tally[uint16]{}
	s.of(&base, func(d *Delta, n uint64) {
		all += n
		k := keyText(&d.Key)
		if _, there := flows[k]; !there && len(flows) < mostKeys {
			keys[k] = d.Key
		}
		flows.add(k, n)
		src := mask6(d.Key.Src)
		sources.add(sourceKey(src[:]), n)
		protos.add(d.Key.Proto, n)
		if d.single() {
			singles += n
			singleProtos.add(d.Key.Proto, n)
		}
		switch {
		case d.fragment():
			fragments += n
		case d.synOnly():
			syn += n
		case d.amplified():
			ampPorts.add(d.Key.SrcPort, n)
		}
		if ported(d.Key.Proto) && !d.fragment() {
			dports.add(uint32(d.Key.Proto)<<16|uint32(d.Key.DstPort), n)
			if d.Key.Proto == flow.ProtoUDP {
				sports.add(d.Key.SrcPort, n)
				udpPorts += n
			}
		}
	})
	if all == 0 {
		return nil
	}
	var list []Match
	with := func(change func(*Match)) {
		m := base
		change(&m)
		list = append(list, m)
	}
	worth := func(n uint64) bool { return 10*n >= all } // a tenth of it
	for _, k := range largest(flows, 1) {
		if key := keys[k]; worth(flows[k]) && 2*flows[k] >= all {
			with(func(m *Match) {
				m.Flow, m.Src, m.Dst, m.Proto = &key, hostPrefix(key.Src), hostPrefix(key.Dst), key.Proto
				if ported(key.Proto) {
					m.SrcPorts, m.DstPort = []uint16{key.SrcPort}, key.DstPort
				}
			})
		}
	}
	if ports := largest(ampPorts, MaxPorts); len(ports) > 0 {
		slices.Sort(ports)
		with(func(m *Match) { m.Proto, m.SrcPorts = flow.ProtoUDP, ports })
	}
	if ports := largest(sports, 1); len(ports) > 0 && 10*sports[ports[0]] >= 9*udpPorts && Amplifier(ports[0]) == "" && worth(udpPorts) {
		with(func(m *Match) { m.Proto, m.SrcPorts = flow.ProtoUDP, ports })
	}
	if worth(fragments) {
		with(func(m *Match) { m.Fragments = true })
	}
	if worth(syn) {
		with(func(m *Match) { m.Proto, m.SYN = flow.ProtoTCP, true })
	}
	if 2*singles >= all { // each packet a flow of its own
		with(func(m *Match) {
			if p := largest(singleProtos, 1); 10*singleProtos[p[0]] >= 9*singles {
				m.Proto = p[0]
			}
			m.New = true
		})
	}
	if !base.Src.IsValid() {
		for _, k := range largest(sources, 1) {
			if 2*sources[k] >= all {
				with(func(m *Match) { m.Src = sourcePrefix(flow.Addr([]byte(k))) })
			}
		}
	}
	for _, k := range largest(dports, 1) {
		if worth(dports[k]) {
			with(func(m *Match) { m.Proto, m.DstPort = uint8(k>>16), uint16(k) })
		}
	}
	for _, k := range largest(protos, 2) {
		if worth(protos[k]) {
			with(func(m *Match) { m.Proto = k })
		}
	}
	return append(list, base)
}

// largest are the n largest keys that make at least a fiftieth of all.
func largest[K cmp.Ordered](t tally[K], n int) []K {
	keys := make([]K, 0, len(t))
	all := uint64(0)
	for k, v := range t {
		keys, all = append(keys, k), all+v
	}
	slices.SortFunc(keys, func(a, b K) int { return cmp.Or(cmp.Compare(t[b], t[a]), cmp.Compare(a, b)) })
	keys = keys[:min(n, len(keys))]
	return slices.DeleteFunc(keys, func(k K) bool { return 50*t[k] < all })
}

// broad says whether p is broader than automatism may act on.
func (p *Policy) broad(x netip.Prefix) bool {
	if x.Addr().Is4() {
		return x.Bits() < p.Broadest4
	}
	return x.Bits() < p.Broadest6
}

// barrier says why automatism must not put an action in force; "" if nothing is in its way.
func (p *Policy) barrier(g *Group, a *Attack, act *Action) string {
	m := &act.Match
	for _, allowed := range p.Allowed {
		for _, x := range []netip.Prefix{m.Dst, m.Src} {
			if x.IsValid() && x.Overlaps(allowed) {
				return fmt.Sprintf("%s is allowed (%s)", prefixText(x), prefixText(allowed))
			}
		}
	}
	switch {
	case !m.Dst.IsValid() && !m.Src.IsValid():
		return "it would hit every address"
	case m.Dst.IsValid() && p.broad(m.Dst), !m.Dst.IsValid() && p.broad(m.Src):
		return fmt.Sprintf("it is broader than /%d or, of IPv6, /%d", p.Broadest4, p.Broadest6)
	case a != nil && a.Kind == KindCrowd && !g.Crowds:
		return "it looks like established traffic: many whole connections, or a large transfer"
	case a != nil && a.Scope == ScopeSource && a.Evidence != nil && a.Evidence.Established < 0.5:
		return "its source may be forged: few of its flows are established"
	case act.Do != Count && act.Innocent > p.MaxInnocent && (a == nil || a.Kind != KindCrowd):
		return fmt.Sprintf("it would hit %.0f %% of the victim's established traffic, more than %.0f %%", 100*act.Innocent, 100*p.MaxInnocent)
	}
	return ""
}
