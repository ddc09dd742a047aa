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

static __always_inline bool same_flow(const struct guard_rule *r, const __u32 word[11])
{
	__u32 differ = 0;
	for (int i = 0; i < 11; i++)
		differ |= (word[i] ^ r->want[i]) & r->mask[i];
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
 * 0: none does. */
__noinline int guard_find(const struct seen *s, __u32 from, __u32 rows)
{
	if (!s)
		return 0;
	for (__u32 i = from; i < GUARD_RULES && i < rows; i++) {
		__u32 row = i;
		const struct guard_rule *r = bpf_map_lookup_elem(&guard_rules, &row);
		if (!r || s->now >= READ_ONCE(r->until) || !same_flow(r, s->p.word))
			continue;
		if (READ_ONCE(r->flags) & GUARD_FROM_PORTS && !from_ports(r, s->p.key.sport))
			continue;
		return row + 1;
	}
	return 0;
}

static __always_inline bool has_allowed(const __u8 addr[16])
{
	struct prefix k = { .bits = 128 };
	__builtin_memcpy(k.addr, addr, 16);
	__u8 *listed = bpf_map_lookup_elem(&guard_allowed, &k);
	return listed && *listed;
}

/* is_allowed says whether no rule may hit a packet's flow. */
__noinline int is_allowed(const struct seen *s)
{
	struct own k;
	if (!s)
		return 0;
	__builtin_memcpy(&k, &s->p.key, sizeof k); /* the key begins like this */
	return has_allowed(s->p.key.src) || has_allowed(s->p.key.dst) || bpf_map_lookup_elem(&own, &k) != NULL;
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

/* guard_apply does what a rule says: not 0: the packet is stopped. */
__noinline int guard_apply(const struct seen *s, __u32 row)
{
	struct guard_rule *r = s ? bpf_map_lookup_elem(&guard_rules, &row) : NULL;
	if (!r)
		return 0;
	__u32 what = READ_ONCE(r->what);
	__sync_fetch_and_add(&r->hit_bytes, s->bytes);
	__sync_fetch_and_add(&r->hit_packets, s->packets);
	if (what == GUARD_COUNT || (what == GUARD_POLICE && police(r, s)))
		return 0;
	__sync_fetch_and_add(&r->dropped_bytes, s->bytes);
	__sync_fetch_and_add(&r->dropped_packets, s->packets);
	return 1;
}

/* guard_passes_by says whether a rule that hits a flow does not hit a packet of it: its
 * time has come (over), or it is for others. */
static __always_inline bool guard_passes_by(__u32 row, const struct seen *s, bool *over)
{
	const struct guard_rule *r = bpf_map_lookup_elem(&guard_rules, &row);
	*over = !r || s->now >= READ_ONCE(r->until);
	return *over || (READ_ONCE(r->flags) & GUARD_SYN && !is_opening(&s->p));
}

/* guarded asks the rules about a packet, whose flow's entry is e, or which has none, and
 * marks it if it is to be stopped. */
__noinline int guarded(struct seen *s, struct entry *e)
{
	if (!s || READ_ONCE(control.guard_off))
		return 0;
	__u64 old = e ? READ_ONCE(e->rate[0]) : 0, in_force = READ_ONCE(control.guard);
	__u32 rule = GUARD_RULE(old), rows = GUARD_ROWS(in_force);
	bool over = false;
	if (!e || GUARD_GENERATION(old) != GUARD_GENERATION(in_force) || (rule && guard_passes_by(rule - 1, s, &over) && over)) {
		rule = rows && !is_allowed(s) ? guard_find(s, 0, rows) : 0;
		if (e)
			__sync_val_compare_and_swap(&e->rate[0], old, GUARD_GENERATION(in_force) << 32 | rule << 16);
	}
	for (int i = 0; i < GUARD_LOOKS; i++) {
		if (!rule)
			return 0;
		if (!guard_passes_by(rule - 1, s, &over))
			break;
		rule = guard_find(s, rule, rows);
	}
	if (rule && guard_apply(s, rule - 1))
		s->word |= VERDICT_GUARD;
	return 0;
}

/* guard is guarded for a packet that no list stops; a flow that no rule hits costs a
 * comparison. */
static __always_inline void guard(struct seen *s, struct entry *e)
{
	if (!use_guard || is_stopped(s->word))
		return;
	__u64 in_force = READ_ONCE(control.guard), word = e ? READ_ONCE(e->rate[0]) : 0;
	if (unlikely(GUARD_GENERATION(word) != GUARD_GENERATION(in_force) || GUARD_RULE(word)))
		guarded(s, e);
}

#endif
