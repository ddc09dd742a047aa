/* What the access lists say of a packet: asked for a flow's first packet, kept in
 * its entry, and asked again only when the lists have changed, or for a packet that
 * differs in something outside the key that a rule looks at.
 *
 * Which lists are in force is one word that is read once for each packet, and a
 * bank is changed only after all programs have ended that may have read its number:
 * so no packet is judged by two versions of a list.
 *
 * What a rule has decided is not counted packet by packet: an entry's counters are
 * its rule's. When an entry gets another rule, they are credited to the old one.
 */
#ifndef WEIR_JUDGE_H
#define WEIR_JUDGE_H

#include "seen.h"
#include "acl.h"

CONSTANT bool use_lists = false;
CONSTANT bool use_guard = false; /* only with lists: it needs what they have beside entries */

/* lists_in_force reads which lists a packet is judged by. */
static __always_inline __u64 lists_in_force(__u64 now)
{
	__u64 lists = READ_ONCE(control.lists), trial = READ_ONCE(control.trial), orphan = READ_ONCE(control.orphan);
	if (unlikely(trial) && now < READ_ONCE(control.trial_until))
		lists = trial;
	if (unlikely(orphan) && now >= READ_ONCE(control.alive_until))
		lists = orphan;
	return lists;
}

/* is_denied says whether a list stops a packet with this verdict. */
static __always_inline bool is_denied(__u64 word)
{
	return (word & (VERDICT_MASK | VERDICT_COUNT)) == VERDICT_DENY;
}

/* is_stopped says whether a packet with this word does not pass. */
static __always_inline bool is_stopped(__u64 word)
{
	return is_denied(word) || (use_guard && word & VERDICT_GUARD);
}

/* of_guard is the guard's part of a packet's word, of_lists the rest. */
#define VERDICT_OF_GUARD ((__u64)(VERDICT_GUARD | VERDICT_UNKEPT))
static __always_inline __u64 of_guard(__u64 word) { return use_guard ? word & VERDICT_OF_GUARD : 0; }
static __always_inline __u64 of_lists(__u64 word) { return use_guard ? word & ~VERDICT_OF_GUARD : word; }

static __always_inline __u64 verdict_word(__u64 lists, __u32 rule, __u32 class, __u32 verdict)
{
	return lists >> 32 << 32 | rule << 16 | class << 8 | verdict;
}

/* Less of a transport header than is looked at: the rest may come in a fragment,
 * where no rule sees it (RFC 1858). Or, of IPv6, none: it is behind more extension
 * headers than are walked, or behind one that is cut off (RFC 7112). */
static __always_inline bool is_stub(const struct packet *p)
{
	__u32 has = p->length - (p->transport - p->network), proto = p->key.proto;
	if (p->key.vlan & KEY_FRAGMENT)
		return false;
	if (p->key.vlan & KEY_IPV6 && (proto == EXT_HOP_BY_HOP || proto == EXT_ROUTING || proto == EXT_FRAGMENT || proto == EXT_DESTINATION))
		return true;
	return (proto == 6 && has < 14) || ((proto == 17 || proto == 136 || proto == 33 || proto == 132) && has < 4);
}

/* judge asks the list of a port and direction, and gives the verdict's word. */
static __always_inline __u64 judge(const struct seen *s, __u32 at)
{
	if (!s)
		return 0;
	struct port *port = find_port(at & ~KEY_EGRESS);
	__u64 lists = s->lists;
	__u32 bank = lists & LISTS_BANK, egress = at >> 31, flags = port ? READ_ONCE(port->flags) : 0;
	if (!port)
		return verdict_word(lists, 0, CLASS_FIXED, VERDICT_NONE);
	if (lists & LISTS_ORPHAN && flags & PORT_ORPHAN_OPEN)
		return verdict_word(lists, 0, CLASS_FIXED, VERDICT_PERMIT);
	if (lists & LISTS_ORPHAN && flags & PORT_ORPHAN_CLOSED)
		return verdict_word(lists, 0, CLASS_FIXED, VERDICT_DENY);
	__u32 list = acl_list(bank, READ_ONCE(port->number), egress, s->p.key.vlan & KEY_IPV6);
	if (!(list & BIND_LIST))
		return verdict_word(lists, 0, CLASS_FIXED, flags & PORT_UNRULED_CLOSED ? VERDICT_DENY : VERDICT_NONE);
	if (is_stub(&s->p))
		return verdict_word(lists, 0, CLASS_MANY, list & BIND_COUNT ? VERDICT_DENY | VERDICT_COUNT : VERDICT_DENY);
	__u64 answer = acl_classify(bank, (list & BIND_LIST) - 1, &s->p);
	lists = READ_ONCE(s->lists); /* rather than on the stack, which is nearly full */
	bank = lists & LISTS_BANK;
	if (!answer)
		return verdict_word(lists, 0, CLASS_MANY, VERDICT_DENY); /* no bank says so */
	struct acl_result r = acl_result(answer);
	__u32 class = r.depends ? acl_class(bank, &s->p) : CLASS_FIXED, verdict = VERDICT_PERMIT;
	if (!(r.flags & RULE_PERMIT)) {
		verdict = VERDICT_DENY;
		if (list & BIND_COUNT)
			verdict |= VERDICT_COUNT;
		else if (r.flags & RULE_REJECT)
			verdict |= VERDICT_REJECT;
	}
	if (r.flags & (RULE_LOG | RULE_LOG_INPUT))
		verdict |= VERDICT_LOG;
	return verdict_word(lists, r.id, class, verdict);
}

/* holds says whether a verdict is that of a packet, too. */
static __always_inline bool holds(__u64 word, const struct seen *s)
{
	__u32 class = VERDICT_CLASS(word);
	if (unlikely(word >> 32 != s->lists >> 32))
		return false;
	return likely(class == CLASS_FIXED) || (class != CLASS_MANY && class == acl_class(s->lists & LISTS_BANK, &s->p));
}

/* credit counts for a rule what is not in an entry that has a verdict from it. */
__noinline int credit(__u64 word, __u64 packets, __u64 bytes)
{
	__u32 rule = VERDICT_RULE(word);
	struct hits *h = bpf_map_lookup_elem(&hits, &rule);
	if (!h)
		return 0;
	__sync_fetch_and_add(&h->direct_packets, packets);
	__sync_fetch_and_add(&h->direct_bytes, bytes);
	return 0;
}

/* decided is for a packet that no entry counts. */
static __always_inline void decided(const struct seen *s) { credit(s->word, s->packets, s->bytes); }

/* replace gives a flow's entry the packet's verdict, if nobody has done so since
 * `old` was read. Of several processors one credits the old rule; what the others
 * are about to count then, at most a packet each, is the new one's. */
__noinline int replace(struct entry *e, __u32 slot, const struct seen *s, __u64 old)
{
	if (!e || !s || __sync_val_compare_and_swap(&e->verdict, old, s->word) != old || !s->asked)
		return 0;
	struct judged *f = bpf_map_lookup_elem(&judged, &slot);
	if (!f)
		return 0;
	__u64 packets = READ_ONCE(e->packets), bytes = READ_ONCE(e->bytes);
	packets -= __sync_lock_test_and_set(&f->credited_packets, packets);
	bytes -= __sync_lock_test_and_set(&f->credited_bytes, bytes);
	if (old)
		credit(old, packets, bytes);
	return 0;
}

/* replace_leaving is replace for the list where a packet leaves. */
__noinline int replace_leaving(const struct seen *s, __u64 old)
{
	if (!s)
		return 0;
	__u32 slot = s->slot;
	struct judged *f = bpf_map_lookup_elem(&judged, &slot);
	if (!f || __sync_val_compare_and_swap(&f->out, old, s->word) != old || !s->asked || !old)
		return 0;
	__u64 packets = __sync_lock_test_and_set(&f->out_packets, 0);
	return credit(old, packets, __sync_lock_test_and_set(&f->out_bytes, 0));
}

/* departed counts what has been judged where it leaves. */
__noinline int departed(const struct seen *s, __u32 at)
{
	if (!s)
		return 0;
	__u32 slot = s->slot;
	struct judged *f = bpf_map_lookup_elem(&judged, &slot);
	if (!f)
		return 0;
	__sync_fetch_and_add(&f->out_packets, s->packets);
	__sync_fetch_and_add(&f->out_bytes, s->bytes);
	if (is_denied(s->word)) {
		__sync_fetch_and_add(&f->dropped_bytes, s->bytes);
		__sync_fetch_and_add(&f->dropped_packets, s->packets);
		note(at, DROPPED, s->packets, s->bytes);
	}
	return 0;
}

/* judge_leaving judges what leaves by a port and was counted where it came in: the
 * flow's entry has a verdict for that, too. */
static __always_inline void judge_leaving(struct seen *s, __u32 at)
{
	__u32 slot = s->slot;
	struct judged *f = bpf_map_lookup_elem(&judged, &slot);
	__u64 old = f ? READ_ONCE(f->out) : 0;
	s->word = old;
	if (!holds(old, s)) {
		s->word = judge(s, at);
		s->asked = VERDICT_RULE(old) != VERDICT_RULE(s->word);
		replace_leaving(s, old);
	}
	departed(s, at);
}

/* alone is for a packet that has been judged and is in no flow. */
static __always_inline void alone(const struct seen *s, __u32 at)
{
	decided(s);
	if (is_denied(s->word))
		note(at, DROPPED, s->packets, s->bytes);
}

/* guarded_alone is for one that the guard has been asked about, and that is in no flow. */
static __always_inline void guarded_alone(const struct seen *s)
{
	if (of_guard(s->word))
		note(s->port, DROPPED, s->packets, s->bytes);
}

/* judge_alone is for one that has not been judged. */
static __always_inline void judge_alone(struct seen *s, __u32 at)
{
	s->word = judge(s, at);
	s->asked = 1;
	alone(s, at);
}

/* dropped_beside notes beside its entry that a packet does not pass: before the entry
 * counts it, so that whoever has read the entry's packets finds here all of those
 * that were dropped; octets before packets, as there. */
static __always_inline void dropped_beside(__u32 slot, const struct seen *s)
{
	struct judged *f = bpf_map_lookup_elem(&judged, &slot);
	if (!f)
		return;
	__sync_fetch_and_add(&f->dropped_bytes, s->bytes);
	__sync_fetch_and_add(&f->dropped_packets, s->packets);
}

/* dropped notes it for the port, too. */
__noinline int dropped(__u32 slot, const struct seen *s)
{
	if (!s)
		return 0;
	dropped_beside(slot, s);
	note(s->port, DROPPED, s->packets, s->bytes);
	return 0;
}

/* fresh is what stands beside an entry with its first packet. */
static __always_inline void fresh(__u32 slot, const struct seen *s)
{
	struct judged *f = bpf_map_lookup_elem(&judged, &slot);
	if (!f)
		return;
	bool stopped = is_stopped(s->word);
	f->credited_packets = f->credited_bytes = f->out = f->out_packets = f->out_bytes = 0;
	f->dropped_packets = stopped ? s->packets : 0;
	f->dropped_bytes = stopped ? s->bytes : 0;
}

/* unplaced is the verdict of a packet that the table has no room for: the lists',
 * or what the port is told to do then. */
static __always_inline void unplaced(struct seen *s)
{
	struct port *port = find_port(s->port & ~KEY_EGRESS);
	__u32 flags = port ? READ_ONCE(port->flags) : 0;
	if (flags & (PORT_FULL_OPEN | PORT_FULL_CLOSED) && (s->word & VERDICT_MASK) != VERDICT_NONE)
		s->word = verdict_word(s->lists, 0, CLASS_FIXED, flags & PORT_FULL_OPEN ? VERDICT_PERMIT : VERDICT_DENY) | of_guard(s->word);
}

/* stops_unread says whether an IP packet that cannot be read does not pass a port:
 * a list of either family would have judged it, or what no list judges is stopped. */
__noinline int stops_unread(__u32 at)
{
	struct port *port = find_port(at & ~KEY_EGRESS);
	__u32 flags = port ? READ_ONCE(port->flags) : 0;
	if (!port || !(flags & (PORT_LIST_IN | PORT_LIST_OUT | PORT_UNRULED_CLOSED | PORT_ORPHAN_CLOSED)))
		return 0;
	__u64 lists = lists_in_force(now_ns());
	if (!lists || (lists & LISTS_ORPHAN && flags & PORT_ORPHAN_OPEN))
		return 0;
	if (lists & LISTS_ORPHAN && flags & PORT_ORPHAN_CLOSED)
		return 1;
	__u32 bank = lists & LISTS_BANK, number = READ_ONCE(port->number), egress = at >> 31;
	__u32 four = acl_list(bank, number, egress, false), six = acl_list(bank, number, egress, true);
	if (!(four & BIND_LIST) && !(six & BIND_LIST))
		return (flags & PORT_UNRULED_CLOSED) != 0;
	return (four & BIND_LIST && !(four & BIND_COUNT)) || (six & BIND_LIST && !(six & BIND_COUNT));
}

/* is_told says whether the daemon is to be told of a packet: to log it, or to
 * answer it. */
static __always_inline bool is_told(const struct seen *s)
{
	return (s->asked && s->word & VERDICT_LOG) || (s->word & VERDICT_REJECT && is_stopped(s->word));
}

#endif
