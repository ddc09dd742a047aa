/* Which packets are metered: by lot, by a filter, by a list of prefixes. Each is
 * off unless it was asked for; what is off costs nothing.
 *
 * Needs flow.h, bpf_helpers.h, and struct control. */
#ifndef WEIR_CHOOSE_H
#define WEIR_CHOOSE_H

/* The filter's place: InjectFilter (cbpf.go) puts a tcpdump expression's program
 * here before the object is loaded. data is the first octet of the frame, of the
 * IP header where there is no link header; in TC it is skb->data. Not 0: meter it. */
static __noinline int weir_filter(void *ctx, void *data, void *data_end)
{
	int chosen = 1;
	/* Nobody knows what this does: arguments and result are kept. */
	asm volatile("" : "+r"(chosen) : "r"(ctx), "r"(data), "r"(data_end));
	return chosen;
}

struct prefix_key {
	__u32 bits;
	__u8  addr[16]; /* IPv4 as ::ffff:a.b.c.d, and 96 bits more */
};

/* 1: in the list. 0: not, though a wider prefix is: ::/0 holds no IPv4. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, struct prefix_key);
	__type(value, __u8);
} prefixes SEC(".maps");

static __always_inline int has_prefix(const __u8 addr[16])
{
	struct prefix_key k = { .bits = 128 };
	__builtin_memcpy(k.addr, addr, 16);
	__u8 *listed = bpf_map_lookup_elem(&prefixes, &k);
	return listed && *listed;
}

/* Source or destination is in the list. */
static __always_inline int is_listed(const struct flow_key *k)
{
	return has_prefix(k->src) || has_prefix(k->dst);
}

/* One packet in 2^64 / (sample.sample_rest). A second number is drawn only when
 * the first does not decide, once in 2^32 packets. */
static __always_inline int is_sampled(const struct control *c)
{
	__u32 limit = c->sample, r;
	if (!limit)
		return 1;
	r = bpf_get_prandom_u32();
	return r < limit || (r == limit && bpf_get_prandom_u32() < c->sample_rest);
}

#endif
