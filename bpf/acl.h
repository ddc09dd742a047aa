/* Package acl's classifier, as the kernel's programs have it: what a list says
 * of a packet, from the bank that acl.Compile made. acl/bank.go tells what is
 * where in a bank, and why; a change goes into both.
 *
 *   acl_list      which list judges a port's packets
 *   acl_classify  what it says of one
 *   acl_class     a number for what is outside the flow key
 *
 * In: the number of a bank, of which there may be several while one takes the
 * place of another, and struct packet. Out: struct acl_result. Nothing is kept,
 * so any C compiler builds it (testdata/acl/lists.c).
 *
 * A bank is judged by nobody before it is read: whatever it has, nothing is read
 * outside of it or of the packet, and every loop ends.
 *
 * Functions that are not static are verified once, not for each way that leads
 * to them. They cannot be given a map, so each of them asks for the bank by its
 * number, which costs a nanosecond. A bank must not be changed before the
 * programs that may have its number have ended.
 */
#ifndef WEIR_ACL_H
#define WEIR_ACL_H

#include "parse.h"

#define ACL_PAGE_WORDS 512

struct bank_page { __u64 word[ACL_PAGE_WORDS]; };

#ifdef __bpf__
#define ACL_BANKS 2

/* An element of a bank is a page. Banks are of any size, which takes Linux 5.10;
 * the kernel calls a function for each look-up then. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, ACL_BANKS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(map_flags, BPF_F_INNER_MAP);
		__uint(max_entries, 1);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct bank_page));
	});
} banks SEC(".maps");

static __always_inline void *find_bank(__u32 number) { return bpf_map_lookup_elem(&banks, &number); }

static __always_inline const __u64 *bank_page(void *bank, __u32 at)
{
	__u32 page = at / ACL_PAGE_WORDS;
	return bpf_map_lookup_elem(bank, &page);
}
#else
/* There is one. */
static const struct bank_page *bank_pages;
static __u32 bank_size; /* pages */

static __always_inline void *find_bank(__u32 number) { return number ? (void *)0 : (void *)bank_pages; }

static __always_inline const __u64 *bank_page(void *bank, __u32 at)
{
	__u32 page = at / ACL_PAGE_WORDS;
	return page < bank_size ? ((const struct bank_page *)bank)[page].word : (const __u64 *)0;
}
#ifndef HIDE
#define HIDE(x) (void)(x)
#endif
#endif

/* in_page is where in its page a word is. */
static __always_inline __u32 in_page(__u32 at) { return at & (ACL_PAGE_WORDS - 1); }

/* bank_word is a word of a bank, or 0 where it has none. */
static __always_inline __u64 bank_word(void *bank, __u32 at)
{
	const __u64 *page = bank_page(bank, at);
	return page ? page[in_page(at)] : 0;
}

/* half is the i-th 32-bit number of some words, of which w is the one. */
static __always_inline __u32 half(__u64 w, __u32 i) { return w >> (i & 1) * 32; }

enum {
	BANK_LISTS   = 2,
	BANK_CLASSES = 3,
	BANK_LENGTHS = 4,
	BANK_BINDING = ACL_PAGE_WORDS,

	CLASSES_NONE = 0,
	CLASSES_SOME = 1,

	LIST_WORDS  = 32,
	LIST_SHAPE  = 0,
	LIST_COUNTS = 1,
	LIST_ROWS   = 2,
	LIST_FIELDS = 4,
	MAX_FIELDS  = 20,
	MAX_SUMS    = 9, /* rows of the summary: MaxBits/64/64 */

	KIND_BYTE = 0, KIND_PROTO, KIND_SRC, KIND_DST, KIND_SPORT, KIND_DPORT, KIND_SIZE, KIND_FLAGS,

	/* A tree of n bounds has 1 + log8(n/7) levels, a bank has room for fewer
	 * than 2^25 bounds, and an address has four words. */
	MAX_STEPS = 36,
};

#define REF_NONE   0x00000000u
#define REF_BIT    0x10000000u
#define REF_VECTOR 0x20000000u
#define REF_ALL    0x30000000u
#define REF_NODE3  0x40000000u
#define REF_NODE7  0x50000000u
#define REF_TABLE  0x60000000u
#define REF_NEXT   0x80000000u
#define REF_KIND   0x70000000u
#define REF_VALUE  0x0fffffffu

#define BIND_COUNT 0x80000000u /* of what acl_list gives: nothing is dropped, only counted */
#define BIND_LIST  0x7fffffffu

#define CLASS_MANY  254 /* too many to tell apart: each packet is judged anew */
#define CLASS_FIXED 255 /* the verdict depends on the key alone */

/* struct acl_result.flags */
#define RULE_PERMIT    1
#define RULE_REJECT    2
#define RULE_LOG       4
#define RULE_LOG_INPUT 8

struct acl_result {
	__u32 rule;    /* its number in the list */
	__u16 id;
	__u8  flags;
	__u8  depends; /* another packet of the flow may get another verdict, if its class is another */
};

/* What is known of a packet on its way through a list. */
struct acl_walk {
	__u64 open;            /* acl_row's second answer */
	__u32 ref[MAX_FIELDS]; /* of each field: what the packet's value adds to the row */
	__u32 bank, rows, rules;
	__u8  sums, shift, fields, key;
	__u32 depends;
	__u32 spare;
};

/* ones is how many bits are set. */
static __always_inline __u32 ones(__u64 v)
{
	v -= v >> 1 & 0x5555555555555555;
	v = (v & 0x3333333333333333) + (v >> 2 & 0x3333333333333333);
	v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return v * 0x0101010101010101 >> 56;
}

/* What follows has no branches: the processor would guess them wrong, and the
 * verifier tries all combinations. */

/* below is 1 if x < bound, both less than 2^63. */
static __always_inline __u64 below(__u64 x, __u64 bound)
{
	x -= bound;
	HIDE(x);
	return x >> 63;
}

/* unless is 0 if a condition that is 1 or 0 holds, or all bits. */
static __always_inline __u64 unless(__u64 condition)
{
	HIDE(condition);
	return condition - 1;
}

/* acl_find follows a tree from ref for the number x, and where that leads to the
 * next word of the address, for the packet's word of that number. */
__noinline __u32 acl_find(__u32 number, __u32 ref, __u32 x, const struct packet *p, __u32 next)
{
	void *bank = find_bank(number);
	if (!bank || !p)
		return REF_NONE;
	__u64 value = x;
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_STEPS; i++) {
		__u32 kind = ref & REF_KIND, at = (ref & REF_VALUE) * 4, n, off;
		if (kind < REF_NODE3)
			return ref;
		if (ref & REF_NEXT) {
			value = NETWORK32(p->word[next & 7]);
			next++;
			HIDE(next); /* or the verifier follows each way to have counted */
		}
		const __u64 *page = bank_page(bank, at);
		if (!page)
			return REF_NONE;
		off = in_page(at);
		if (kind == REF_TABLE) {
			__u64 head = page[off], first = (__u32)head, last = head >> 32 & 0xffffff;
			__u64 part = ((value - first) & unless(below(value, first))) >> (head >> 56 & 31);
			part -= (part - last) & unless(below(part, last));
			at += 1 + (__u32)part / 2;
			ref = half(bank_word(bank, at), part);
			continue;
		}
		if (kind == REF_NODE3) {
			__u64 a = page[off], b = page[off | 1];
			n = 6 - below(value, (__u32)a) - below(value, a >> 32) - below(value, (__u32)b);
			off = (off & ~3) | (n >> 1 & 3);
		} else {
			off &= ~7;
			__u64 a = page[off], b = page[off | 1], c = page[off | 2], d = page[off | 3];
			n = 14 - below(value, (__u32)a) - below(value, a >> 32) - below(value, (__u32)b) - below(value, b >> 32) -
				below(value, (__u32)c) - below(value, c >> 32) - below(value, (__u32)d);
			off |= n >> 1 & 7;
		}
		ref = half(page[off], n);
	}
	return REF_NONE;
}

/* acl_enter looks up a list, and a packet's values in its fields. It gives 0 if
 * the list does not judge it. */
__noinline int acl_enter(struct acl_walk *k, __u32 list, const struct packet *p)
{
	if (!k || !p)
		return 0;
	void *bank = find_bank(k->bank);
	if (!bank)
		return 0;
	__u64 lists = bank_word(bank, BANK_LISTS);
	if (list >= (__u32)lists)
		return 0;
	__u32 at = (lists >> 32) + list * LIST_WORDS;
	const __u64 *page = bank_page(bank, at);
	if (!page)
		return 0;
	page += in_page(at) & ~(LIST_WORDS - 1);
	__u32 shape = page[LIST_SHAPE];
	if ((shape & 0xff) != !!(p->key.vlan & KEY_IPV6))
		return 0;
	k->fields = shape >> 8;
	k->key = shape >> 16;
	k->shift = shape >> 24 & 7;
	k->sums = page[LIST_COUNTS];
	k->rows = page[LIST_ROWS];
	k->rules = page[LIST_ROWS] >> 32;
	__u32 n = k->fields, later = p->key.vlan & KEY_FRAGMENT;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < MAX_FIELDS; i++) {
		if (i >= n)
			break;
		__u64 field = page[LIST_FIELDS + i];
		__u32 ref = field, kind = field >> 32 & 0xff, arg = field >> 40 & 0xff, x;
		switch (kind) {
		case KIND_SRC:
		case KIND_DST:
			arg = (arg & 3) + (kind == KIND_DST ? 4 : 0);
			x = NETWORK32(p->word[arg & 7]);
			goto find;
		case KIND_SPORT:
			x = p->key.sport;
			goto find_first;
		case KIND_DPORT:
			x = p->key.dport;
			goto find_first;
		case KIND_SIZE:
			x = p->length < 0xffff ? p->length : 0xffff;
			goto find;
		case KIND_PROTO:
			x = p->key.proto + (later ? 256 : 0);
			break;
		case KIND_FLAGS:
			if (later) {
				ref = REF_ALL;
				goto found;
			}
			x = p->tcp_flags;
			break;
		default:
			x = ((const __u8 *)p)[arg & (sizeof *p - 1)];
		}
		ref = half(bank_word(bank, ref + x / 2), x);
		goto found;
find_first:
		if (later) {
			ref = REF_ALL;
			goto found;
		}
find:
		ref = acl_find(k->bank, ref, x, p, arg + 1);
found:
		k->ref[i] = ref;
	}
	return 1;
}

/* acl_row gives the rules of a row of the summary, or of a row of words, that
 * have no objection, and in k->open those with conditions outside the key that
 * have none in the key. */
static __always_inline __u64 acl_row(struct acl_walk *k, __u32 index, bool summary)
{
	if (!k)
		return 0;
	k->open = 0;
	void *bank = find_bank(k->bank);
	if (!bank)
		return 0;
	__u32 n = k->fields, key = k->key, group = summary ? index : index / 64;
	__u32 at = k->rows + ((summary ? index : k->sums + index) << (k->shift & 7));
	const __u64 *row = bank_page(bank, at), *page;
	if (!row)
		return 0;
	__u64 match = ~0ull, open = ~0ull;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < MAX_FIELDS; i++) {
		if (i >= n)
			break;
		__u32 ref = k->ref[i], v = ref & REF_VALUE, kind = ref & REF_KIND;
		__u64 adds = 0;
		if (kind == REF_BIT) {
			if (summary)
				v >>= 6;
			adds = below(v / 64 ^ index, 1) << (v & 63);
		} else if (kind == REF_VECTOR) {
			v += group * 2;
			page = bank_page(bank, v);
			if (!page)
				return 0;
			adds = page[in_page(v)];
			if (!summary) {
				__u64 before = adds & ((1ull << (index & 63)) - 1);
				if (adds >> (index & 63) & 1)
					adds = bank_word(bank, (__u32)bank_word(bank, v + 1) + ones(before));
				else
					adds = 0;
			}
		} else if (kind == REF_ALL) {
			adds = ~0ull;
		}
		match &= row[in_page(at + i)] | adds;
		open &= match | unless(below(i, key));
	}
	k->open = open & row[in_page(at + n)];
	return match;
}

__noinline __u64 acl_sums(struct acl_walk *k, __u32 sum) { return acl_row(k, sum, true); }
__noinline __u64 acl_word(struct acl_walk *k, __u32 word) { return acl_row(k, word, false); }

/* acl_group looks for the first rule that matches, of those that a row of the
 * summary speaks of, and gives its bit, counted from 1; 0: none of them does. */
__noinline __u32 acl_group(struct acl_walk *k, __u32 sum)
{
	if (!k)
		return 0;
	__u64 full = acl_sums(k, sum), outside = k->open & unless(k->depends);
#pragma clang loop unroll(disable)
	for (int i = 0; i < 64; i++) {
		__u64 visit = full | outside;
		if (!visit)
			return 0;
		__u64 bit = visit & -visit;
		full &= ~bit;
		outside &= ~bit;
		__u32 w = sum * 64 + ones(bit - 1);
		__u64 match = acl_word(k, w), first = match & -match;
		__u64 open = k->open & (first | (first - 1)); /* all of them, if there is no first */
		__u64 depends = (open | -open) >> 63;
		k->depends |= depends;
		outside &= unless(depends); /* need not be looked for any more */
		if (match)
			return w * 64 + ones(first - 1) + 1;
	}
	return 0;
}

/* acl_classify says what a list says of a packet. It gives 0 if it says nothing:
 * if there is no such list, or the packet is not of its family. */
__noinline int acl_classify(__u32 bank, __u32 list, const struct packet *p, struct acl_result *r)
{
	if (!p || !r)
		return 0;
	struct acl_walk k = { .bank = bank };
	if (!acl_enter(&k, list, p))
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 s = 0; s < MAX_SUMS; s++) {
		if (s >= k.sums)
			break;
		__u32 bit = acl_group(&k, s);
		if (!bit)
			continue;
		void *b = find_bank(bank);
		if (!b)
			return 0;
		__u64 rule = bank_word(b, k.rules + bit - 1);
		r->rule = rule >> 32;
		r->id = rule;
		r->flags = rule >> 16;
		r->depends = k.depends;
		return 1;
	}
	return 0;
}

/* acl_class is a number that is the same for packets of one flow that get the
 * same verdict from every list: below CLASS_MANY, which is the number where
 * there are too many. */
__noinline __u32 acl_class(__u32 number, const struct packet *p)
{
	void *bank = find_bank(number);
	if (!bank || !p)
		return CLASS_MANY;
	__u64 head = bank_word(bank, BANK_CLASSES);
	__u32 at = head >> 32, mode = head, flags = p->tcp_flags, ttl = p->ttl;
	if (mode == CLASSES_NONE)
		return 0;
	if (mode != CLASSES_SOME)
		return CLASS_MANY;
	__u32 length = acl_find(number, bank_word(bank, BANK_LENGTHS), p->length < 0xffff ? p->length : 0xffff, p, 0);
	__u32 class = (bank_word(bank, at + flags / 8) >> flags % 8 * 8 & 0xff) + (bank_word(bank, at + 32 + ttl / 8) >> ttl % 8 * 8 & 0xff);
	return (class + length) & 0xff;
}

/* acl_list gives the list that judges a port's packets, counted from 1, and
 * BIND_COUNT; 0: none does. */
static __always_inline __u32 acl_list(__u32 number, __u32 port, bool egress, bool ipv6)
{
	void *bank = find_bank(number);
	__u32 slot = (port & (MAX_PORTS - 1)) << 2 | (__u32)egress << 1 | (__u32)ipv6;
	return bank ? half(bank_word(bank, BANK_BINDING + slot / 2), slot) : 0;
}

#endif
