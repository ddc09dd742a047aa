/* The flow table as the programs use it: where a key may be, how it is found,
 * counted and entered, by several CPUs and the daemon at once without a lock.
 * Why that loses nothing stands at find(), touch() and claim().
 *
 * In: struct seen. Out: the maps. No context but for the routing table, so that
 * any C compiler builds it (testdata/table.c).
 */
#ifndef WEIR_TABLE_H
#define WEIR_TABLE_H

#include "seen.h"
#include "choose.h"
#include "judge.h"
#include "guard.h"
#include "forward.h"

CONSTANT __u32 sets           = 1;     /* of flows */
CONSTANT __u32 aggregate_sets = 1;     /* behind them, of overflow aggregates */
CONSTANT bool  key_5tuple     = false; /* the key is addresses, protocol, ports */
CONSTANT bool  weak_order     = false; /* the machine may read ahead of a read that comes before */
CONSTANT bool  use_prefixes   = false;

/* --- look up --- */

/* Where a key may be: two sets, and the word that its entry has when it is
 * live. */
struct place {
	__u32 set[2];
	__u32 live;
};

/* hash is keyed: NH (the products of sums of RFC 4418, which nobody who lacks
 * the secret can make collide), then mixed so that each bit depends on all. */
static __always_inline __u64 hash(const __u32 w[11])
{
	__u64 h = (__u64)(w[0] + secret[0]) * (w[1] + secret[1]);
	h += (__u64)(w[2] + secret[2]) * (w[3] + secret[3]);
	h += (__u64)(w[4] + secret[4]) * (w[5] + secret[5]);
	h += (__u64)(w[6] + secret[6]) * (w[7] + secret[7]);
	h += (__u64)(w[8] + secret[8]) * (w[9] + secret[9]);
	h += (__u64)(w[10] + secret[10]) * secret[11];
	h ^= h >> 32;
	h *= 0x9fb21c651e98df25;
	h ^= h >> 32;
	return h;
}

static __always_inline void find_place(struct place *at, const struct packet *p, __u32 first, __u32 n)
{
	__u64 h = hash(p->word);
	at->set[0] = first + (__u32)((h >> 32) * n >> 32);
	at->set[1] = first + (__u32)((h & 0xffffffff) * n >> 32);
	at->live = (__u32)(h >> 32) << 8 | LIVE;
}

static __always_inline bool same_key(const struct entry *e, const struct packet *p)
{
	const __u32 *a = (const void *)&e->key, *b = p->word;
	__u32 differ = 0;
	for (int i = 0; i < 11; i++)
		differ |= a[i] ^ b[i];
	return !differ;
}

/* after gives e, which cannot be known before word has been read. */
static __always_inline struct entry *after(struct entry *e, __u64 word)
{
#ifdef __bpf__
	asm volatile("%[word] &= 0\n%[e] += %[word]" : [e] "+r"(e), [word] "+r"(word));
#endif
	(void)word;
	return e;
}

/* home is where in a set a key is first looked for, and, if it is free there,
 * entered. Most are, so that the processor need not wait for the words before it
 * reads the entry. The bits are not those that choose the set. */
static __always_inline __u32 home(__u32 live) { return (live >> 8 & 0xff) * WAYS >> 8; }

#define TURN (WAYS + 1) /* a power of two; the word behind the last is always 0 */
_Static_assert((TURN & WAYS) == 0 && __builtin_offsetof(struct set, note) == __builtin_offsetof(struct set, word) + 4 * TURN, "words end with a spare");

/* find looks for a live entry in a set.
 *
 * A program that reads NEW or LIVE here may add to the entry for as long as it
 * runs: it runs within an RCU read section that began before it read the word,
 * the daemon makes the word DYING before it waits for a grace period, and only
 * then reads the last counts and gives the slot away. So nothing that is added
 * is missed, nothing is added to another's entry, and the word need not be
 * read again. It holds for programs that are preempted, too: they stay within
 * their section.
 *
 * That the key is read after the word matters, because a program that starts
 * later than DYING is not waited for: it might see the old key and then the
 * word of the slot's next flow, if that happens to have the same tag. x86 does
 * not let reads overtake each other; elsewhere the key's address is made to
 * depend on the word. The other side is claim(), whose word follows the key by
 * a full barrier. */
static __always_inline struct entry *find(__u32 at, __u32 live, const struct packet *p, __u32 *slot)
{
	struct set *s = bpf_map_lookup_elem(&table, &at);
	if (!s)
		return NULL;
	__u32 way = home(live);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < TURN; i++, way++) {
		way &= TURN - 1;
		__u32 word = READ_ONCE(s->word[way]);
		if ((word & ~NEW_BIT) != live)
			continue;
		struct entry *e = &s->entry[way];
		if (weak_order)
			e = after(e, word);
		if (unlikely(!same_key(e, p)))
			continue;
		if (unlikely(word & NEW_BIT)) /* the second packet; if it fails, another was quicker, or the daemon */
			__sync_val_compare_and_swap(&s->word[way], word, live);
		*slot = at * WAYS + way;
		return e;
	}
	return NULL;
}

/* touch tells the daemon to look at a set. It comes after a full barrier behind
 * what the daemon is to find; the daemon makes the flag 0 before it looks. */
static __always_inline void touch(__u32 set)
{
	__u32 i = set / TOUCHED_SETS, *t = bpf_map_lookup_elem(&touched, &i);
	if (t && !READ_ONCE(*t))
		WRITE_ONCE(*t, 1);
}

/* --- count --- */

#define FACTS_FLAGS(f)      ((__u8)(f))
#define FACTS_MARK(f)       ((__u8)((f) >> 8))
#define FACTS_MIN_LENGTH(f) ((__u16)((f) >> 16))
#define FACTS_MAX_LENGTH(f) ((__u16)((f) >> 32))
#define FACTS_MIN_TTL(f)    ((__u8)((f) >> 48))
#define FACTS_MAX_TTL(f)    ((__u8)((f) >> 56))
#define FACTS_OR            0xffffull /* flags and mark */
#define FACTS_CLOSING       ((__u64)MARK_CLOSING << 8)

static __always_inline __u64 facts_of(__u32 flags, __u32 min_length, __u32 max_length, __u32 ttl)
{
	return (__u64)flags | (__u64)min_length << 16 | (__u64)max_length << 32 | (__u64)ttl << 48 | (__u64)ttl << 56;
}

/* facts_new says whether a packet's facts say anything that f does not. */
static __always_inline bool facts_new(__u64 f, __u64 packet)
{
	return (packet & ~f & FACTS_OR) || FACTS_MIN_LENGTH(packet) < FACTS_MIN_LENGTH(f) || FACTS_MAX_LENGTH(packet) > FACTS_MAX_LENGTH(f) ||
	       FACTS_MIN_TTL(packet) < FACTS_MIN_TTL(f) || FACTS_MAX_TTL(packet) > FACTS_MAX_TTL(f);
}

static __always_inline __u64 facts_both(__u64 a, __u64 b)
{
	__u64 min_length = FACTS_MIN_LENGTH(a), max_length = FACTS_MAX_LENGTH(a), min_ttl = FACTS_MIN_TTL(a), max_ttl = FACTS_MAX_TTL(a);
	if (FACTS_MIN_LENGTH(b) < min_length)
		min_length = FACTS_MIN_LENGTH(b);
	if (FACTS_MAX_LENGTH(b) > max_length)
		max_length = FACTS_MAX_LENGTH(b);
	if (FACTS_MIN_TTL(b) < min_ttl)
		min_ttl = FACTS_MIN_TTL(b);
	if (FACTS_MAX_TTL(b) > max_ttl)
		max_ttl = FACTS_MAX_TTL(b);
	return ((a | b) & FACTS_OR) | min_length << 16 | max_length << 32 | min_ttl << 48 | max_ttl << 56;
}

/* closing_at is struct entry's closing: seconds, rounded up. */
static __always_inline __u32 closing_at(__u64 now) { return (now + 999999999) / 1000000000; }

/* amend is for a packet that says something new of its flow. */
__noinline int amend(struct entry *e, __u64 packet, __u64 now, __u32 set)
{
	if (!e)
		return 0;
	__u64 old = READ_ONCE(e->facts);
	if (packet & ~old & FACTS_CLOSING) /* before the mark, which says that it is there */
		__sync_val_compare_and_swap(&e->closing, 0, closing_at(now));
	for (int i = 0; i < 16; i++) {
		__u64 new = facts_both(old, packet), was = __sync_val_compare_and_swap(&e->facts, old, new);
		if (was == old) {
			if (new & ~old & FACTS_CLOSING)
				touch(set);
			return 0;
		}
		old = was;
	}
	/* So many others are at it: flags must not be missed, of a crowd's
	 * lengths and TTLs one may be. */
	__sync_fetch_and_or(&e->facts, packet & FACTS_OR);
	touch(set);
	return 0;
}

/* count adds a packet to an entry that find() gave, or to a catch-all. */
static __always_inline void count(struct entry *e, const struct seen *s, __u32 set)
{
	__u64 now = s->now;
	if (READ_ONCE(e->last) < now) /* first, so that both cache lines are on their way before the adds wait for one */
		WRITE_ONCE(e->last, now);
	__sync_fetch_and_add(&e->bytes, s->bytes);
	__sync_fetch_and_add(&e->packets, s->packets);
	if (unlikely(!READ_ONCE(e->first))) {
		__sync_val_compare_and_swap(&e->first, 0, now);
		touch(set);
	}
	if (unlikely(facts_new(READ_ONCE(e->facts), s->facts)))
		amend(e, s->facts, now, set);
}

/* --- enter --- */

/* room is how many entries of a set are free. */
static __always_inline __u32 room(const struct set *s)
{
	__u64 free = 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < WAYS; i++) {
		__u64 word = READ_ONCE(s->word[i]);
		HIDE(word); /* no branches, or the verifier tries all combinations */
		free += (word - 1) >> 63;
	}
	return free;
}

/* reserved says whether what is left of a set is kept for flows with more than
 * one packet: under pressure the others may hold a quarter of it. */
static __always_inline bool reserved(const struct set *s)
{
	__u64 new = 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < WAYS; i++) {
		__u64 other = (READ_ONCE(s->word[i]) & STATE_MASK) ^ NEW;
		HIDE(other);
		new += (other - 1) >> 63;
	}
	return new >= WAYS / 4;
}

/* claim takes one of a set's free entries, writes the flow's first packet into
 * it and lets it be found.
 *
 * Of several that want the same entry, compare-and-exchange lets one have it.
 * Until it publishes, nobody else reads or writes what is behind a CLAIMED
 * word, so plain stores do; the exchange that publishes is a full barrier. Two
 * CPUs with the first packets of one flow may enter it twice: two records,
 * whose sum is right, and one of which idles out, as find() takes the first.
 * incarnation is not written: it is the slot's. */
static __always_inline bool claim(struct set *s, __u32 at, const struct seen *v, __u32 live)
{
	__u32 way = home(live);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < TURN; i++, way++) {
		way &= TURN - 1;
		if (way == WAYS || READ_ONCE(s->word[way]) != FREE || __sync_val_compare_and_swap(&s->word[way], FREE, CLAIMED) != FREE)
			continue;
		struct entry *e = &s->entry[way];
		e->packets = v->packets;
		e->bytes = v->bytes;
		__builtin_memcpy(&e->key, &v->p.key, sizeof e->key);
		e->closing = v->facts & FACTS_CLOSING ? closing_at(v->now) : 0;
		e->first = e->last = v->now;
		e->verdict = of_lists(v->word);
		e->route = v->route;
		e->rate[0] = e->rate[1] = 0;
		e->facts = v->facts;
		e->output = v->output;
		if (use_lists)
			fresh(at * WAYS + way, v);
		if (use_guard)
			mark_there(live);
		__u32 word = v->packets == 1 ? live | NEW_BIT : live;
		return __sync_val_compare_and_swap(&s->word[way], CLAIMED, word) == CLAIMED;
	}
	return false;
}

/* As long as a set has more room than this, it takes whatever comes to it first.
 * So nearly all flows are in the first of their two sets, and what others find
 * full is rare: at 75 % of a table less than one new flow in ten thousand. */
#define SPARE 2

/* enter makes an entry in the first of two sets, or, if that is all but full, in
 * the one that has more room. If others have taken it all meanwhile, the other
 * is tried. */
__noinline int enter(const struct seen *s, const struct place *at, bool pressed)
{
	if (!s || !at)
		return false;
	__u32 i = at->set[0], j = at->set[1];
	struct set *a = bpf_map_lookup_elem(&table, &i), *b = bpf_map_lookup_elem(&table, &j);
	if (!a || !b)
		return false;
	__u32 room_a = room(a), room_b = room(b);
	if (pressed) {
		if (room_a && reserved(a))
			room_a = 0;
		if (room_b && reserved(b))
			room_b = 0;
	}
	if (room_a <= SPARE && room_a < room_b) {
		if (claim(b, j, s, at->live)) {
			touch(j);
			return true;
		}
		room_b = 0;
	}
	if (room_a && claim(a, i, s, at->live)) {
		touch(i);
		return true;
	}
	if (room_b && claim(b, j, s, at->live)) {
		touch(j);
		return true;
	}
	return false;
}

static __always_inline void note_refused(const struct seen *s, bool stopped)
{
	struct counters *c = counters_of(s->port);
	if (!c)
		return;
	note_in(c, REFUSED, s->packets, s->bytes);
	if (stopped)
		note_in(c, DROPPED, s->packets, s->bytes);
}

/* aggregate counts a packet that found no place: in the aggregate of its
 * interface, protocol and destination prefix, /24 or /64; if there is no place
 * for that either, in the port's catch-all, which is always there. */
__noinline int aggregate(struct seen *s)
{
	if (!s)
		return 0;
	bool stopped = use_lists && is_stopped(s->word);
	note_refused(s, stopped);
	__u32 *w = s->p.word;
	w[0] = w[1] = w[2] = w[3] = 0;
	w[8] = use_lists ? WORD_PORTS(VERDICT_RULE(s->word), of_lists(s->word) & 0xff) : 0; /* a rule's packets, which have one verdict */
	if (s->p.key.vlan & KEY_IPV6)
		w[6] = w[7] = 0;
	else
		s->p.key.dst[15] = 0;
	w[10] &= WORD_LAST(KEY_IPV6, 0xff, 0);
	s->output = 0;
	s->facts &= ~FACTS_CLOSING;
	struct place at;
	find_place(&at, &s->p, sets, aggregate_sets);
	for (int i = 0; i < 2; i++) {
		__u32 slot;
		struct entry *e = find(at.set[i], at.live, &s->p, &slot);
		if (e) {
			if (stopped)
				dropped_beside(slot, s);
			count(e, s, at.set[i]);
			return 0;
		}
	}
	if (enter(s, &at, false))
		return 0;
	note(s->port, CAUGHT, s->packets, s->bytes);
	if (use_lists)
		decided(s);
	__u32 slot = row(s->port), set = sets + aggregate_sets + slot / WAYS, way = slot % WAYS;
	HIDE(way); /* the verifier knows no remainders */
	struct set *c = bpf_map_lookup_elem(&table, &set);
	if (!c)
		return 0;
	struct entry *e = &c->entry[way & (TURN - 1)];
	if (slot > 1 && READ_ONCE(e->key.input) != s->p.key.input) /* number 0 is of many */
		WRITE_ONCE(e->key.input, s->p.key.input);
	if (stopped)
		dropped_beside((sets + aggregate_sets) * WAYS + slot, s);
	count(e, s, set);
	return 0;
}

#define OUTPUT_NONE 0xffffffffu

/* forwards_to asks the routing table where the packet will leave; OUTPUT_NONE: here,
 * or nowhere; 0: that it cannot tell. */
static __noinline __u32 forwards_to(void *ctx, const struct seen *s)
{
	const __u32 *w = s->p.word;
	struct bpf_fib_lookup f = {
		.family = AF_INET,
		.l4_protocol = s->p.key.proto,
		.sport = NETWORK16(s->p.key.sport),
		.dport = NETWORK16(s->p.key.dport),
		.ifindex = s->port,
	};
	if (s->p.key.vlan & KEY_IPV6) {
		f.family = AF_INET6;
		f.tos = NETWORK32((__u32)s->p.key.tos << 20);
		__builtin_memcpy(f.src, w, 16);
		__builtin_memcpy(f.dst, w + 4, 16);
	} else {
		f.tos = s->p.key.tos;
		f.src[0] = w[3];
		f.dst[0] = w[7];
	}
	long ret = bpf_fib_lookup(ctx, &f, sizeof f, 0);
	if (ret == BPF_FIB_LKUP_RET_NOT_FWDED)
		return OUTPUT_NONE;
	if (ret != BPF_FIB_LKUP_RET_SUCCESS && ret != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	return metered_below(f.ifindex);
}

/* is_to says whether a frame is to the router that has a port: what a bridge passes
 * on goes by no route. */
static __always_inline bool is_to(const struct port *p, const __u8 *data)
{
	return READ_ONCE(p->flags) & PORT_NO_LINK || (LOAD(__u32, data) | (__u64)LOAD(__u16, data + 4) << 32) == READ_ONCE(p->mac);
}

/* Where a flow leaves is found out when it comes in, if the routing table knows; else
 * as it leaves, where its packets are looked up once more. That is done soon after a
 * flow has come of which it is not known, and now and then, for what has changed. */
#define AWAITED_NS  (50 * 1000000ull)
#define CORRECT_BIT 25 /* an eighth of all time, 34 ms at a time */

static __always_inline void await_output(__u64 now)
{
	if (READ_ONCE(control.correct_until) < now + AWAITED_NS)
		WRITE_ONCE(control.correct_until, now + AWAITED_NS);
}

static __always_inline bool corrects(__u64 now)
{
	return now < READ_ONCE(control.correct_until) || !(now >> CORRECT_BIT & 7) || READ_ONCE(control.correct);
}

/* first is for a packet whose flow is not in the table. */
static __always_inline int first(void *ctx, struct seen *s, const struct place *at, bool xdp, const __u8 *data, const __u8 *end)
{
	if (!s || !at)
		return 0;
	if (use_prefixes && !is_listed(&s->p.key)) {
		note(s->port, FILTERED, s->packets, s->bytes);
		if (use_lists)
			alone(s, s->port);
		guarded_alone(s);
		return 0;
	}
	if (!(use_guard && s->word & VERDICT_UNKEPT) && is_own(s)) { /* a rule spares those */
		note(s->port, OWN_EXPORT, s->packets, s->bytes);
		s->word = 0; /* no list stands in its way */
		return 0;
	}
	bool pressed = READ_ONCE(control.pressure), out = use_guard && (s->word & VERDICT_UNKEPT || kept_out(s));
	if (use_forward && xdp && s->why == FORWARDED && !(use_lists && is_stopped(s->word))) {
		ask_route(ctx, s);
	} else if (!pressed && !out && !s->output) {
		struct port *p = find_port(s->port);
		if (p && READ_ONCE(p->flags) & PORT_FORWARDS && data + 6 <= end && is_to(p, data))
			s->output = forwards_to(ctx, s);
	}
	if (s->output == OUTPUT_NONE)
		s->output = 0;
	else if (!s->output)
		await_output(s->now);
	if (out || !enter(s, at, pressed)) {
		if (use_lists && !out) /* a gate stops nobody */
			unplaced(s);
		aggregate(s);
	} else if (use_lists && is_stopped(s->word)) {
		note(s->port, DROPPED, s->packets, s->bytes);
	}
	return 0;
}

__noinline int first_xdp(struct xdp_md *ctx, struct seen *s, const struct place *at) { return first(ctx, s, at, true, (void *)(long)ctx->data, (void *)(long)ctx->data_end); }
__noinline int first_tc(struct __sk_buff *ctx, struct seen *s, const struct place *at) { return first(ctx, s, at, false, (void *)(long)ctx->data, (void *)(long)ctx->data_end); }

/* ahead begins to fetch a set that is likely to be looked at, while another still
 * is on its way: programs have no other way to say so. */
static __always_inline void ahead(__u32 at, __u32 live)
{
	struct set *s = bpf_map_lookup_elem(&table, &at);
	if (s) {
		__u32 word = READ_ONCE(s->word[home(live)]);
		HIDE(word);
	}
}

static __always_inline void look_up(void *ctx, struct seen *s, bool xdp)
{
	struct place at;
	struct entry *e = NULL;
	find_place(&at, &s->p, 0, sets);
	__u32 set = at.set[0];
	if (!use_guard || likely(!(READ_ONCE(control.guard) & GUARD_FLOOD)) || may_be_there(at.live)) {
		if (unlikely(READ_ONCE(control.pressure))) /* most packets are of new flows, which are in neither set */
			ahead(at.set[1], at.live);
		e = find(set, at.live, &s->p, &s->slot);
		if (unlikely(!e)) {
			set = at.set[1];
			e = find(set, at.live, &s->p, &s->slot);
		}
	}
	if (use_lists && (!use_guard || s->lists)) { /* with a guard there may be none */
		__u64 old = e ? READ_ONCE(e->verdict) : 0;
		s->word = old;
		if (unlikely(!e || !holds(old, s))) {
			s->word = judge(s, s->port);
			s->asked = VERDICT_RULE(old) != VERDICT_RULE(s->word);
			if (e)
				replace(e, s->slot, s, old);
		}
	}
	guard(s, e);
	if (likely(e)) {
		bool stopped = use_lists && is_stopped(s->word);
		if (stopped)
			dropped(s->slot, s);
		count(e, s, set);
		if (use_forward && xdp && s->why == FORWARDED && !stopped)
			find_route(ctx, s, e);
		return;
	}
	if (use_guard && !use_prefixes && s->word & VERDICT_UNKEPT) /* of a flood: no more than that */
		aggregate(s);
	else if (xdp)
		first_xdp(ctx, s, &at);
	else
		first_tc(ctx, s, &at);
}

/* mask leaves of the key what the key mode says. */
static __always_inline void mask(struct packet *p, __u32 input)
{
	p->word[9] = key_5tuple ? 0 : input;
	if (key_5tuple)
		p->word[10] &= WORD_LAST(KEY_IPV6 | KEY_FRAGMENT | KEY_INNER, 0xff, 0);
}

/* correct writes down where a packet leaves that was counted when it came in by
 * a port, and asks the list there. */
static __always_inline void correct(struct seen *s, const struct port *p, __u32 output)
{
	__u32 lower = READ_ONCE(p->lower), vlan = READ_ONCE(p->flags) >> PORT_VLAN;
	if (vlan)
		s->p.key.vlan = (s->p.key.vlan & ~(KEY_TAGGED | VLAN_ID)) | vlan;
	mask(&s->p, lower ? lower : READ_ONCE(p->ifindex));
	struct place at;
	find_place(&at, &s->p, 0, sets);
	for (int i = 0; i < 2; i++) {
		__u32 slot;
		struct entry *e = find(at.set[i], at.live, &s->p, &slot);
		if (!e)
			continue;
		if (READ_ONCE(e->output) != output)
			WRITE_ONCE(e->output, output);
		s->slot = slot;
		if (use_lists && s->lists)
			judge_leaving(s, output | KEY_EGRESS);
		return;
	}
	if (use_lists && s->lists)
		judge_alone(s, output | KEY_EGRESS);
}

#endif
