/* Which packets are metered: by lot, by a filter, by a list of prefixes. Each is
 * off unless it was asked for; what is off costs nothing. */
#ifndef WEIR_CHOOSE_H
#define WEIR_CHOOSE_H

#include "maps.h"

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

/* The value in prefixes is 0 where a wider prefix holds what is not in the list:
 * ::/0 holds no IPv4. */
static __always_inline bool has_prefix(const __u8 addr[16])
{
	struct prefix k = { .bits = 128 };
	__builtin_memcpy(k.addr, addr, 16);
	__u8 *listed = bpf_map_lookup_elem(&prefixes, &k);
	return listed && *listed;
}

/* Source or destination is in the list. */
static __always_inline bool is_listed(const struct flow_key *k)
{
	return has_prefix(k->src) || has_prefix(k->dst);
}

/* One packet in 2^32 / (sample, and sample_rest behind the point). A second
 * number is drawn only when the first does not decide, once in 2^32 packets. */
static __always_inline bool is_sampled(const struct control *c)
{
	__u32 limit = c->sample, r;
	if (!limit)
		return true;
	r = bpf_get_prandom_u32();
	return r < limit || (r == limit && bpf_get_prandom_u32() < c->sample_rest);
}

#endif
