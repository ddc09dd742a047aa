/* The guard's rules: what is policed or dropped until a time, whatever the access lists
 * say, but for what is on the allow list.
 *
 * Rules are asked for a flow's first packets and after they have changed, in the order
 * of their rows; which one hits a flow is kept in its entry. A rule ends by itself when
 * its time has come, whether or not there is a daemon.
 *
 * A packet that the guard stops has VERDICT_GUARD in its word, and is counted like one
 * that a list stops; entries' verdicts are the lists' alone.
 */
#ifndef WEIR_GUARD_H
#define WEIR_GUARD_H

#include "seen.h"
#include "choose.h"

static __always_inline bool same_flow(const __u32 want[11], const __u32 mask[11], const __u32 word[11])
{
	__u32 differ = 0;
	for (int i = 0; i < 11; i++)
		differ |= (word[i] ^ want[i]) & mask[i];
	return !differ;
}

static __always_inline bool from_ports(const struct guard_rule *r, __u16 port)
{
	__u32 other = 1;
	for (int i = 0; i < GUARD_PORTS; i++)
		other &= r->src_ports[i] != port; /* what is not in use repeats the first */
	return !other;
}

static __always_inline bool is_opening(const struct packet *p)
{
	return (p->tcp_flags & 0x12) == 0x02; /* SYN, and no ACK */
}

/* guard_find is the first rule from a row on that hits a packet's flow, as its row + 1;
 * 0: none does. Those of new flows do not hit one that is known. */
__noinline int guard_find(const struct seen *s, __u32 from, __u32 rows, __u32 known)
{
	if (!s)
		return 0;
	for (__u32 i = from; i < GUARD_RULES && i < rows; i++) {
		__u32 row = i;
		const struct guard_rule *r = bpf_map_lookup_elem(&guard_rules, &row);
		if (!r || s->now >= READ_ONCE(r->until) || !same_flow(r->want, r->mask, s->p.word))
			continue;
		__u32 flags = READ_ONCE(r->flags);
		if ((known && flags & GUARD_NEW) || (flags & GUARD_FROM_PORTS && !from_ports(r, s->p.key.sport)))
			continue;
		return row + 1;
	}
	return 0;
}

#define MIXER 0x9e3779b1u /* spreads what differs in few bits */

static __always_inline bool has_allowed(const __u8 addr[16])
{
	struct prefix k = { .bits = 128 };
	__builtin_memcpy(k.addr, addr, 16);
	__u8 *listed = bpf_map_lookup_elem(&guard_allowed, &k);
	return listed && *listed;
}

static __always_inline bool near_bit(__u32 bit)
{
	__u32 at = bit / 64;
	__u64 *near = bpf_map_lookup_elem(&guard_near, &at);
	return !near || READ_ONCE(*near) >> bit % 64 & 1;
}

/* is_near says whether an address may be on the allow list. */
static __always_inline bool is_near(const __u32 w[4], bool six)
{
	if (!six)
		return near_bit(NEAR_WIDE4 + (w[3] & 0xffff)) || near_bit(NEAR_CLOSE4 + ((w[3] & 0xffffff) * MIXER >> 16)) ||
		       near_bit(NEAR_EXACT4 + (w[3] * MIXER >> 16));
	__u32 half = (w[0] * MIXER ^ w[1]) * MIXER, whole = ((half ^ w[2]) * MIXER ^ w[3]) * MIXER;
	return near_bit(NEAR_WIDE6 + (w[0] * MIXER >> 16)) || near_bit(NEAR_CLOSE6 + (half >> 16)) || near_bit(NEAR_EXACT6 + (whole >> 16));
}

__noinline int is_listed_own(const struct seen *s)
{
	struct own k;
	if (!s)
		return 0;
	__builtin_memcpy(&k, &s->p.key, sizeof k); /* the key begins like this */
	return bpf_map_lookup_elem(&own, &k) != NULL;
}

__noinline int is_listed_allowed(const struct seen *s)
{
	return s && (has_allowed(s->p.key.src) || has_allowed(s->p.key.dst));
}

/* is_own says whether a packet is of our own exports. */
static __always_inline bool is_own(const struct seen *s)
{
	const __u32 *w = s->p.word;
	return READ_ONCE(control.own_near) >> ((w[4] ^ w[5] ^ w[6] ^ w[7]) * MIXER >> 26) & 1 && is_listed_own(s);
}

/* is_allowed says whether no rule may hit a packet's flow. */
static __always_inline bool is_allowed(const struct seen *s)
{
	bool six = s->p.key.vlan & KEY_IPV6;
	return ((is_near(s->p.word, six) || is_near(s->p.word + 4, six)) && is_listed_allowed(s)) || is_own(s);
}

/* A bucket is one word, in sixteenths of a ns of the clock: when all that has passed
 * would have come if it had kept to the rate (GCRA, ITU-T I.371). So nothing that
 * remains is discarded, and whoever has waited long enough gets through, however
 * large. */
#define GUARD_UNIT 4 /* bits */

static __always_inline bool conforms(__u64 at, __u64 now, __u64 burst)
{
	return (__s64)(at - now) <= (__s64)burst;
}

static __always_inline void charge(__u64 *at, __u64 now, __u64 cost)
{
	__u64 old = READ_ONCE(*at);
	for (int i = 0; i < 4; i++) {
		__u64 was = __sync_val_compare_and_swap(at, old, ((__s64)(old - now) < 0 ? now : old) + cost);
		if (was == old)
			return;
		old = was;
	}
	__sync_fetch_and_add(at, cost); /* so many others are at it that it is not behind */
}

/* police says whether a packet keeps to a rule's rates. Of several CPUs each may let one
 * through that the others' would have left no room for. */
static __always_inline bool police(struct guard_rule *r, const struct seen *s)
{
	__u64 now = s->now << GUARD_UNIT, burst = READ_ONCE(r->burst), packet = READ_ONCE(r->packet_cost), octet = READ_ONCE(r->byte_cost);
	if ((packet && !conforms(READ_ONCE(r->packets_at), now, burst)) || (octet && !conforms(READ_ONCE(r->bytes_at), now, burst)))
		return false;
	if (packet)
		charge(&r->packets_at, now, s->packets * packet);
	if (octet)
		charge(&r->bytes_at, now, s->bytes * octet >> GUARD_BYTE_SHIFT);
	return true;
}

/* guard_apply does what a rule says: of a packet that is stopped, what is to be in its
 * word. What opens a flow, and rules of that stop, does not get into the table: it is part
 * of a flood of such. */
static __always_inline __u32 guard_apply(const struct seen *s, __u32 row, bool known)
{
	struct guard_rule *r = bpf_map_lookup_elem(&guard_rules, &row);
	struct guard_tally *t = bpf_map_lookup_elem(&guard_tallies, &row);
	if (!r || !t)
		return 0;
	__u32 what = READ_ONCE(r->what);
	bump(&t->bytes, s->bytes);
	bump(&t->packets, s->packets);
	if (what == GUARD_COUNT || (what == GUARD_POLICE && police(r, s)))
		return 0;
	bump(&t->dropped_bytes, s->bytes);
	bump(&t->dropped_packets, s->packets);
	if (known || !(READ_ONCE(r->flags) & (GUARD_NEW | GUARD_SYN)))
		return VERDICT_GUARD;
	bump(&t->refused_bytes, s->bytes);
	bump(&t->refused_packets, s->packets);
	return VERDICT_GUARD | VERDICT_UNKEPT;
}

/* guard_passes_by says whether a rule that hits a flow does not hit a packet of it: its
 * time has come (over), or it is for others. */
static __always_inline bool guard_passes_by(__u32 row, const struct seen *s, bool *over)
{
	const struct guard_rule *r = bpf_map_lookup_elem(&guard_rules, &row);
	*over = !r || s->now >= READ_ONCE(r->until);
	return *over || (READ_ONCE(r->flags) & GUARD_SYN && !is_opening(&s->p));
}

/* guard_limit_of is the first limits that a packet's flow has, as their row + 1; 0: none. */
__noinline int guard_limit_of(const struct seen *s)
{
	if (!s)
		return 0;
	for (__u32 i = 0; i < GUARD_LIMITS; i++) {
		__u32 row = i;
		const struct guard_limit *l = bpf_map_lookup_elem(&guard_limits, &row);
		if (!l || !READ_ONCE(l->used))
			break;
		if (same_flow(l->want, l->mask, s->p.word) && (!l->rule || l->rule == VERDICT_RULE(s->word)))
			return row + 1;
	}
	return 0;
}

/* A flow's two buckets are in one word, packets' << 32 | octets': when all that has
 * passed would have come at the rate, as above, in units of 1 << GUARD_SLOT ns, which
 * wrap around; who was silent for GUARD_FORGET begins anew. What a packet costs is less
 * than a unit, perhaps: so it is taken from the flow's counters, what all of them cost
 * with it less what they did before, and nothing is lost by rounding. */
/* (Products wrap around; what is asked of them does not.) */
static __always_inline __u32 cost_of(__u64 before, __u32 more, __u64 cost)
{
	return ((before + more) * cost >> GUARD_COST_SHIFT) - (before * cost >> GUARD_COST_SHIFT);
}

static __always_inline __u32 not_before(__u32 at, __u32 now) { return (__s32)(at - now) < 0 ? now : at; }

/* within_limits charges a flow for a packet if it keeps to its limits. */
static __always_inline bool within_limits(const struct guard_limit *l, struct entry *e, const struct seen *s)
{
	__u32 now = s->now >> GUARD_SLOT, burst = READ_ONCE(l->burst);
	__u32 packet = cost_of(READ_ONCE(e->packets), s->packets, READ_ONCE(l->packet_cost));
	__u32 octets = cost_of(READ_ONCE(e->bytes), s->bytes, READ_ONCE(l->byte_cost));
	bool silent = s->now - READ_ONCE(e->last) > GUARD_FORGET;
	for (int i = 0; i < 4; i++) { /* beyond that, so many are at it that they charge it */
		__u64 old = READ_ONCE(e->rate[1]);
		__u32 packets_at = silent ? now : not_before(old >> 32, now), bytes_at = silent ? now : not_before(old, now);
		if (packets_at - now > burst || bytes_at - now > burst)
			return false;
		if (__sync_val_compare_and_swap(&e->rate[1], old, (__u64)(packets_at + packet) << 32 | (__u32)(bytes_at + octets)) == old)
			break;
	}
	return true;
}

/* owes makes a flow owe half a burst, so that it passes if it keeps to its rate, and
 * soon does not if it does not; or nothing. */
static __always_inline void owes(struct entry *e, const struct seen *s, __u32 owed)
{
	__u32 at = (s->now >> GUARD_SLOT) + owed;
	WRITE_ONCE(e->rate[1], (__u64)at << 32 | at);
}

/* hold begins a flow's penalty, which is twice what the last one was if that was not
 * long ago. */
static __always_inline void hold(const struct guard_limit *l, struct guard_tally *t, struct entry *e, const struct seen *s, __u64 old)
{
	__u32 slot = s->slot, level = GUARD_LEVEL(old);
	struct judged *j = bpf_map_lookup_elem(&judged, &slot);
	if (!j)
		return;
	__u64 time = READ_ONCE(l->hold), most = READ_ONCE(l->max_hold);
	if (level && s->now - READ_ONCE(j->held_until) > time << (level - 1))
		level = 0;
	time <<= level;
	WRITE_ONCE(j->held_until, s->now + (time < most ? time : most));
	if (level < 0x0f && time < most)
		level++;
	if (__sync_val_compare_and_swap(&e->rate[0], old, (old & ~0xffull) | GUARD_HELD | level) == old)
		bump(&t->held, 1);
}

/* guard_limit_flow stops a packet, if not 0, of a flow that does not keep to its limits. */
__noinline int guard_limit_flow(const struct seen *s, struct entry *e, __u32 row)
{
	struct guard_limit *l = s && e ? bpf_map_lookup_elem(&guard_limits, &row) : NULL;
	__u32 at = GUARD_RULES + row;
	struct guard_tally *t = bpf_map_lookup_elem(&guard_tallies, &at);
	if (!l || !t)
		return 0;
	__u64 old = READ_ONCE(e->rate[0]);
	__u32 what = READ_ONCE(l->what);
	if (old & GUARD_HELD) {
		__u32 slot = s->slot;
		const struct judged *j = bpf_map_lookup_elem(&judged, &slot);
		if (j && s->now < READ_ONCE(j->held_until))
			goto stop;
		if (__sync_val_compare_and_swap(&e->rate[0], old, old & ~(__u64)GUARD_HELD) == old)
			owes(e, s, READ_ONCE(l->burst) / 2);
		old &= ~(__u64)GUARD_HELD;
	}
	if (within_limits(l, e, s))
		return 0;
	if (what == GUARD_COUNT) {
		bump(&t->bytes, s->bytes);
		bump(&t->packets, s->packets);
		return 0;
	}
	if (what == GUARD_DROP)
		hold(l, t, e, s, old);
stop: /* that is beyond the limits, too */
	bump(&t->dropped_bytes, s->bytes);
	bump(&t->dropped_packets, s->packets);
	return 1;
}

/* guard_choose asks rules and limits about a packet, and notes in its flow's entry what
 * they say: its word. */
__noinline __u64 guard_choose(const struct seen *s, struct entry *e)
{
	if (!s || !e)
		return 0;
	__u64 old = READ_ONCE(e->rate[0]), in_force = READ_ONCE(control.guard);
	__u32 rule = guard_find(s, 0, GUARD_ROWS(in_force), true), limit = guard_limit_of(s);
	if ((rule || limit) && is_allowed(s))
		rule = limit = 0;
	__u64 word = GUARD_GENERATION(in_force) << 32 | rule << 16 | limit << 8;
	if (limit == GUARD_LIMIT(old))
		word |= old & 0xff;
	else if (limit)
		owes(e, s, 0);
	__sync_val_compare_and_swap(&e->rate[0], old, word);
	return word;
}

/* apply_first does what the first rule says that hits a packet, from one on that hits its
 * flow (as its row + 1): of a packet that is stopped, what is to be in its word. */
__noinline int apply_first(const struct seen *s, __u32 rule, __u32 rows, bool known)
{
	bool over;
	if (!s)
		return 0;
	for (int i = 0; i < GUARD_LOOKS && rule; i++) {
		if (!guard_passes_by(rule - 1, s, &over))
			return guard_apply(s, rule - 1, known);
		rule = guard_find(s, rule, rows, known);
	}
	return 0;
}

/* guarded asks the rules about a packet, whose flow's entry is e, and marks it if it is to
 * be stopped. */
__noinline int guarded(struct seen *s, struct entry *e)
{
	if (!s || !e || READ_ONCE(control.guard_off))
		return 0;
	__u64 word = READ_ONCE(e->rate[0]), in_force = READ_ONCE(control.guard);
	__u32 rule = GUARD_RULE(word);
	bool over = false;
	if (GUARD_GENERATION(word) != GUARD_GENERATION(in_force) || (rule && guard_passes_by(rule - 1, s, &over) && over)) {
		word = guard_choose(s, e);
		rule = GUARD_RULE(word);
	}
	__u32 stopped = rule ? apply_first(s, rule, GUARD_ROWS(in_force), true) : 0;
	if (!stopped && GUARD_LIMIT(word) && guard_limit_flow(s, e, GUARD_LIMIT(word) - 1))
		stopped = VERDICT_GUARD;
	s->word |= stopped;
	return 0;
}

/* guarded_new is that for one whose flow is not in the table. */
__noinline int guarded_new(struct seen *s)
{
	if (!s || READ_ONCE(control.guard_off))
		return 0;
	__u32 rows = GUARD_ROWS(READ_ONCE(control.guard)), rule = guard_find(s, 0, rows, false);
	if (!rule || is_allowed(s))
		return 0;
	bool over;
	if (!guard_passes_by(rule - 1, s, &over)) /* nearly always, and a call less */
		s->word |= guard_apply(s, rule - 1, false);
	else
		s->word |= apply_first(s, rule, rows, false);
	return 0;
}

/* guard is guarded for a packet that no list stops; a flow that no rule hits costs a
 * comparison. */
static __always_inline void guard(struct seen *s, struct entry *e)
{
	if (!use_guard || is_stopped(s->word))
		return;
	__u64 in_force = READ_ONCE(control.guard);
	if (!e) {
		if (GUARD_ROWS(in_force))
			guarded_new(s);
		return;
	}
	__u64 word = READ_ONCE(e->rate[0]);
	if (unlikely(GUARD_GENERATION(word) != GUARD_GENERATION(in_force) || GUARD_FOUND(word)))
		guarded(s, e);
}

static __always_inline __u32 mixed_tag(__u32 live) { return (live >> 8) * MIXER >> 8; }

static __always_inline bool is_marked(__u32 bank, __u32 bit)
{
	__u32 at = bank * GUARD_TAG_WORDS + bit / 64;
	__u64 *marks = bpf_map_lookup_elem(&guard_there, &at);
	return !marks || READ_ONCE(*marks) >> bit % 64 & 1;
}

static __always_inline void mark_at(__u32 bank, __u32 bit)
{
	__u32 at = bank * GUARD_TAG_WORDS + bit / 64;
	__u64 *marks = bpf_map_lookup_elem(&guard_there, &at);
	if (marks)
		__sync_fetch_and_or(marks, 1ull << bit % 64);
}

/* may_be_there says whether a flow may be in the table, by its word. */
static __always_inline bool may_be_there(__u32 live)
{
	__u32 in_force = READ_ONCE(control.guard), bank = in_force & GUARD_BANK ? 1 : 0, out = GUARD_LEFT_OUT(in_force, bank);
	return is_marked(bank, (live >> 8) >> out) && is_marked(bank, mixed_tag(live) >> out);
}

/* mark_there is before a flow can be found. */
static __always_inline void mark_there(__u32 live)
{
	__u32 in_force = READ_ONCE(control.guard);
	if (likely(!(in_force & GUARD_MARKS)))
		return;
	for (int bank = 0; bank < 2; bank++) {
		__u32 out = GUARD_LEFT_OUT(in_force, bank);
		mark_at(bank, (live >> 8) >> out);
		mark_at(bank, mixed_tag(live) >> out);
	}
}

/* sketched are a source's or a destination's buckets; of IPv6 sources, their /64's. */
static __always_inline bool sketched(const __u32 w[4], __u32 half, enum gate g, struct guard_bucket *found[2])
{
	__u64 h = (__u64)(w[0] + secret[0]) * (w[1] + secret[1]);
	if (!half)
		h += (__u64)(w[2] + secret[2]) * (w[3] + secret[3]);
	h ^= h >> 32;
	h *= 0x9fb21c651e98df25ull;
	for (int i = 0; i < 2; i++, h >>= 32) {
		__u32 at = ((g - GATE_SOURCE) * 2 + i) * GUARD_BUCKETS + (__u32)(h >> 16) % GUARD_BUCKETS;
		found[i] = bpf_map_lookup_elem(&guard_buckets, &at);
		if (!found[i])
			return false;
	}
	return true;
}

/* kept_out says whether a gate lets a packet's flow not into the table; what is let in is
 * counted by all gates. */
__noinline int kept_out(const struct seen *s)
{
	__u32 zero = 0;
	struct guard_gates *g = s ? bpf_map_lookup_elem(&guard_gates, &zero) : NULL;
	struct guard_gate_cpu *c = bpf_map_lookup_elem(&guard_gate_cpus, &zero);
	if (!g || !c)
		return 0;
	struct guard_bucket *b[4] = {};
	__u64 now = s->now << GUARD_UNIT, cost[GATES], burst[GATES];
	__u32 v6 = s->p.key.vlan & KEY_IPV6, by = GATES;
	for (int i = 0; i < GATES; i++) {
		cost[i] = READ_ONCE(g->cost[i]);
		burst[i] = READ_ONCE(g->burst[i]);
	}
	/* A flood has one destination and any sources: those are asked last, when they must be. */
	if (cost[GATE_CPU] && !conforms(c->at, now, burst[GATE_CPU]))
		by = GATE_CPU;
	else if (cost[GATE_DESTINATION] && sketched(s->p.word + 4, 0, GATE_DESTINATION, b + 2) &&
		 !conforms(b[2]->at, now, burst[GATE_DESTINATION]) && !conforms(b[3]->at, now, burst[GATE_DESTINATION]))
		by = GATE_DESTINATION;
	else if (cost[GATE_SOURCE] && sketched(s->p.word, v6, GATE_SOURCE, b) &&
		 !conforms(b[0]->at, now, burst[GATE_SOURCE]) && !conforms(b[1]->at, now, burst[GATE_SOURCE]))
		by = GATE_SOURCE;
	if (by < GATES) {
		bump(&c->packets[by], s->packets);
		bump(&c->bytes[by], s->bytes);
		return 1;
	}
	if (cost[GATE_CPU])
		charge(&c->at, now, cost[GATE_CPU]);
	for (int i = 0; i < 4; i++)
		if (b[i])
			charge(&b[i]->at, now, cost[GATE_SOURCE + i / 2]);
	return 0;
}

#endif
