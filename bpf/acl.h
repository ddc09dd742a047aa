/* Package acl's classifier, as the kernel's programs have it: what a list says
 * of a packet, from the bank that acl.Compile made. acl/bank.go tells what is
 * where in a bank, and why; a change goes into both.
 *
 *   acl_list      which list judges a port's packets
 *   acl_classify  what it says of one
 *   acl_class     a number for what is outside the flow key
 *
 * In: the number of a bank, of which there may be several while one takes the
 * place of another, and struct packet. Out: a word, see struct acl_result. Nothing is kept,
 * so any C compiler builds it (testdata/acl/lists.c).
 *
 * A bank is judged by nobody before it is read: whatever it has, nothing is read
 * outside of it or of the packet, and every loop ends.
 *
 * Functions that are not static are verified once, not for each way that leads
 * to them. They cannot be given a map, so that they are given the bank's number
 * and its first page. A bank must not be changed before the programs that may
 * have its number have ended.
 */
#ifndef WEIR_ACL_H
#define WEIR_ACL_H

#include "parse.h"

#define BANK_WORDS (1 << 18) /* of a page */

struct bank_page { __u64 word[BANK_WORDS]; };

#ifdef __bpf__
#define BANKS 2

/* An element of a bank is a page of two mebibytes; some kernels allow no more
 * than four. Banks are of any size, which takes Linux 5.10, and for which the
 * kernel calls a function for each look-up. So the first page, which nearly always
 * is the only one, is looked up once for a packet and handed on. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, BANKS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
		__uint(max_entries, 1);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct bank_page));
	});
} banks SEC(".maps");

static __always_inline const struct bank_page *find_page(__u32 bank, __u32 page)
{
	/* Keys of four octets, the first of eight that are written at once: the
	 * verifier forgets what was in them before. */
	__u64 key = bank;
	void *pages = bpf_map_lookup_elem(&banks, &key);
	if (!pages)
		return NULL;
	key = page;
	return bpf_map_lookup_elem(pages, &key);
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "an integer's first four octets are its lower half");
#else
/* There is one bank. */
static const struct bank_page *bank_pages;
static __u32 bank_size; /* pages */

static __always_inline const struct bank_page *find_page(__u32 bank, __u32 page)
{
	return !bank && page < bank_size ? &bank_pages[page] : (const struct bank_page *)0;
}
#ifndef HIDE
#define HIDE(x) (void)(x)
#endif
#endif

/* page_of is the page that has a word, or NULL. */
static __always_inline const struct bank_page *page_of(__u32 bank, const struct bank_page *first, __u32 at)
{
	__u32 page = at / BANK_WORDS;
	return page ? find_page(bank, page) : first;
}

/* in_page is where in its page a word is. */
static __always_inline __u32 in_page(__u32 at) { return at & (BANK_WORDS - 1); }

/* bank_word is a word of a bank, or 0 where it has none. */
static __always_inline __u64 bank_word(__u32 bank, const struct bank_page *first, __u32 at)
{
	const struct bank_page *page = page_of(bank, first, at);
	return page ? page->word[in_page(at)] : 0;
}

__noinline __u64 acl_far_word(__u32 bank, __u32 at) { return bank_word(bank, NULL, at); }

/* near_word is bank_word for what most often is in the first page: in fewer
 * instructions, and with less on the stack. */
static __always_inline __u64 near_word(__u32 bank, const struct bank_page *first, __u32 at)
{
	return at < BANK_WORDS ? first->word[at] : acl_far_word(bank, at);
}

/* half is the i-th 32-bit number of some words, of which w is the one. */
static __always_inline __u32 half(__u64 w, __u32 i) { return w >> (i & 1) * 32; }

enum {
	BANK_LISTS   = 2,
	BANK_CLASSES = 3,
	BANK_LENGTHS = 4,
	BANK_BINDING = 512,

	CLASSES_NONE = 0,
	CLASSES_SOME = 1,

	LIST_WORDS  = 32,
	LIST_SHAPE  = 0,
	LIST_COUNTS = 1,
	LIST_ROWS   = 2,
	LIST_LAST   = 3,
	LIST_FIELDS = 4,
	MAX_FIELDS  = 20,
	MAX_ROUNDS  = 9 + 576, /* rows of the summary, and of words: acl.maxBits are in so many */

	KIND_BYTE = 0, KIND_PROTO, KIND_SRC, KIND_DST, KIND_SPORT, KIND_DPORT, KIND_SIZE, KIND_FLAGS,

	/* A tree of n bounds has 1 + log8(n/7) levels, a bank has room for fewer
	 * than 2^25 bounds, and an address has four words. */
	MAX_STEPS = 36,
};

#define REF_NONE   0x1fffffffu /* a bit that no list has: where most packets differ, no branch need be guessed */
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

/* acl_classify's answer is one word, for want of stack: 1 << 63 | the rule's number in
 * the list << 32 | depends << 24 | flags << 16 | the rule's id. */
struct acl_result {
	__u32 rule;    /* its number in the list */
	__u16 id;
	__u8  flags;
	__u8  depends; /* another packet of the flow may get another verdict, if its class is another */
};

static __always_inline struct acl_result acl_result(__u64 answer)
{
	return (struct acl_result){ .rule = answer >> 32 & 0x7fffffff, .id = answer, .flags = answer >> 16, .depends = answer >> 24 & 1 };
}

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

/* acl_find follows a tree from ref for a value, and where that leads to the next
 * word of the address, for the packet's word of that number. */
static __always_inline __u32 acl_find(__u32 bank, const struct bank_page *first, __u32 ref, __u32 number, const struct packet *p, __u32 next, __u64 any)
{
	__u64 value = (__u32)hide(number, any);
	next = hide(next, any);
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_STEPS; i++) {
		__u32 kind = ref & REF_KIND, at = (ref & REF_VALUE) * 4, n, off;
		if (kind < REF_NODE3)
			return ref;
		if (ref & REF_NEXT) {
			value = (__u32)hide(NETWORK32(p->word[next & 7]), any);
			next = hide(next + 1, any);
		}
		const struct bank_page *page = page_of(bank, first, at);
		if (!page)
			return REF_NONE;
		off = in_page(at);
		const __u64 *word = page->word;
		if (kind == REF_TABLE) {
			__u64 head = word[off], least = (__u32)head, last = head >> 32 & 0xffffff;
			__u64 part = ((value - least) & unless(below(value, least))) >> (head >> 56 & 31);
			part -= (part - last) & unless(below(part, last));
			at += 1 + (__u32)part / 2;
			ref = half(bank_word(bank, first, at), part);
			continue;
		}
		if (kind == REF_NODE3) {
			__u64 a = word[off], b = word[off | 1];
			n = 6 - below(value, (__u32)a) - below(value, a >> 32) - below(value, (__u32)b);
			off = (off & ~3) | (n >> 1 & 3);
		} else {
			off &= ~7;
			__u64 a = word[off], b = word[off | 1], c = word[off | 2], d = word[off | 3];
			n = 14 - below(value, (__u32)a) - below(value, a >> 32) - below(value, (__u32)b) - below(value, b >> 32) -
				below(value, (__u32)c) - below(value, c >> 32) - below(value, (__u32)d);
			off |= n >> 1 & 7;
		}
		ref = half(word[off], n);
	}
	return REF_NONE;
}

/* octet is what a packet has in a field of an octet. */
static __always_inline __u32 octet(const struct packet *p, __u64 field)
{
	__u32 kind = field >> 32 & 0xff, v = ((const __u8 *)p)[field >> 40 & (sizeof *p - 1)];
	return kind == KIND_PROTO && p->key.vlan & KEY_FRAGMENT ? v + 256 : v;
}

/* acl_field looks up what a packet has in a field. */
__noinline __u32 acl_field(const struct bank_page *first, const struct packet *p, __u64 field, __u32 bank)
{
	if (!first || !p)
		return REF_NONE;
	__u32 ref = field, kind = field >> 32 & 0xff, arg = field >> 40 & 0xff, later = p->key.vlan & KEY_FRAGMENT, x;
	if (later && (kind == KIND_SPORT || kind == KIND_DPORT || kind == KIND_FLAGS))
		return REF_ALL;
	switch (kind) {
	case KIND_SRC:
	case KIND_DST:
		arg = (arg & 3) + (kind == KIND_DST ? 4 : 0);
		x = NETWORK32(p->word[arg & 7]);
		break;
	case KIND_SPORT:
		x = p->key.sport;
		break;
	case KIND_DPORT:
		x = p->key.dport;
		break;
	case KIND_SIZE:
		x = p->length < 0xffff ? p->length : 0xffff;
		break;
	default:
		x = octet(p, field);
		return half(bank_word(bank, first, ref + x / 2), x);
	}
	return acl_find(bank, first, ref, x, p, arg + 1, field);
}

#define ANSWER_SAID    (1ull << 63)
#define ANSWER_DEPENDS (1ull << 24)
#define ANSWER_RULE    0x7fffffff00ffffffull /* of a bank's word about a rule */

/* acl_enter looks up a list, and a packet's values in its fields, and gives the
 * answer if no other rule than the last matches. It gives 0 if the list does not
 * judge the packet. */
static __always_inline __u64 acl_enter(const struct bank_page *first, struct acl_walk *k, __u32 list, const struct packet *p)
{
	__u64 lists = first->word[BANK_LISTS];
	if (list >= (__u32)lists)
		return 0;
	__u32 bank = k->bank, at = (lists >> 32) + list * LIST_WORDS;
	const struct bank_page *page = page_of(bank, first, at);
	if (!page)
		return 0;
	const __u64 *word = page->word + (in_page(at) & ~(LIST_WORDS - 1));
	__u32 shape = word[LIST_SHAPE];
	if ((shape & 0xff) != !!(p->key.vlan & KEY_IPV6))
		return 0;
	k->fields = shape >> 8;
	k->key = shape >> 16;
	k->shift = shape >> 24 & 7;
	k->sums = word[LIST_COUNTS];
	k->rows = word[LIST_ROWS];
	k->rules = word[LIST_ROWS] >> 32;
	__u64 last = word[LIST_LAST];
	__u32 n = k->fields;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < MAX_FIELDS; i++) {
		if (i >= n)
			break;
		__u64 field = word[LIST_FIELDS + i];
		__u32 kind = field >> 32 & 0xff, at_octet = (__u32)field + octet(p, field) / 2;
		if (kind <= KIND_PROTO && at_octet < BANK_WORDS) /* acl_field's answer, without the call */
			k->ref[i] = half(first->word[at_octet], octet(p, field));
		else
			k->ref[i] = acl_field(first, p, field, bank);
	}
	return (last & ANSWER_RULE) | ANSWER_SAID;
}

/* acl_row gives the rules of a row of the summary, or of a row of words, that
 * have no objection, and in k->open those with conditions outside the key that
 * have none in the key. */
static __always_inline __u64 acl_row(const struct bank_page *first, struct acl_walk *k, __u32 index, bool summary)
{
	if (!first || !k)
		return 0;
	__u32 at = k->rows + ((summary ? index : k->sums + index) << (k->shift & 7)), n = k->fields;
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
			v += (summary ? index : index / 64) * 2;
			adds = near_word(k->bank, first, v);
			if (!summary) {
				__u64 before = adds & ((1ull << (index & 63)) - 1);
				if (adds >> (index & 63) & 1)
					adds = near_word(k->bank, first, (__u32)near_word(k->bank, first, v + 1) + ones(before));
				else
					adds = 0;
			}
		} else if (kind == REF_ALL) {
			adds = ~0ull;
		}
		match &= near_word(k->bank, first, at + i) | adds;
		open &= match | unless(below(i, k->key));
	}
	k->open = open & near_word(k->bank, first, at + n);
	return match;
}

__noinline __u64 acl_sums(const struct bank_page *first, struct acl_walk *k, __u32 sum) { return acl_row(first, k, sum, true); }
__noinline __u64 acl_word(const struct bank_page *first, struct acl_walk *k, __u32 word) { return acl_row(first, k, word, false); }

/* acl_classify says what a list says of a packet. It gives 0 if it says nothing:
 * if there is no such list, or the packet is not of its family. */
__noinline __u64 acl_classify(__u32 bank, __u32 list, const struct packet *p)
{
	const struct bank_page *first = find_page(bank, 0);
	if (!first || !p)
		return 0;
	struct acl_walk k = { .bank = bank };
	__u64 answer = acl_enter(first, &k, list, p);
	if (!answer)
		return 0;
	/* words where a rule may match, and where one may that has conditions outside the key */
	__u64 full = 0, outside = 0, match = 0;
	__u32 sum = 0, word = 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_ROUNDS; i++) {
		__u64 visit = full | outside;
		if (!visit) {
			if (sum >= k.sums)
				break;
			full = acl_sums(first, &k, sum);
			outside = k.open & unless(k.depends);
			sum = hide(sum + 1, full);
			continue;
		}
		visit &= -visit;
		full &= ~visit;
		outside &= ~visit;
		word = sum * 64 - 64 + ones(visit - 1);
		match = acl_word(first, &k, word);
		__u64 open = k.open & (match ^ (match - 1)); /* up to the first rule that matches; if none does, all */
		__u64 depends = (open | -open) >> 63;
		k.depends |= depends;
		outside &= unless(depends); /* need not be looked for any more */
		if (match)
			break;
	}
	if (match)
		answer = (near_word(bank, first, k.rules + word * 64 + ones((match & -match) - 1)) & ANSWER_RULE) | ANSWER_SAID;
	return k.depends ? answer | ANSWER_DEPENDS : answer & ~ANSWER_DEPENDS;
}

/* acl_class is a number that is the same for packets of one flow that get the
 * same verdict from every list: below CLASS_MANY, which is the number where
 * there are too many. */
__noinline __u32 acl_class(__u32 bank, const struct packet *p)
{
	const struct bank_page *first = find_page(bank, 0);
	if (!first || !p)
		return CLASS_MANY;
	__u64 head = first->word[BANK_CLASSES];
	__u32 at = head >> 32, mode = head, flags = p->tcp_flags, ttl = p->ttl;
	if (mode == CLASSES_NONE)
		return 0;
	if (mode != CLASSES_SOME)
		return CLASS_MANY;
	__u32 class = acl_field(first, p, (__u64)KIND_SIZE << 32 | (__u32)first->word[BANK_LENGTHS], bank);
	class += bank_word(bank, first, at + flags / 8) >> flags % 8 * 8;
	class += bank_word(bank, first, at + 32 + ttl / 8) >> ttl % 8 * 8;
	return class & 0xff;
}

/* acl_list gives the list that judges a port's packets, counted from 1, and
 * BIND_COUNT; 0: none does. */
static __always_inline __u32 acl_list(__u32 bank, __u32 port, bool egress, bool ipv6)
{
	const struct bank_page *first = find_page(bank, 0);
	__u32 slot = (port & (MAX_PORTS - 1)) << 2 | (__u32)egress << 1 | (__u32)ipv6;
	return first ? half(first->word[BANK_BINDING + slot / 2], slot) : 0;
}

#endif
