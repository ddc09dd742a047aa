/* parse.h alone in the kernel: what it says of a frame, and what it costs. */
#include "../../kernel.h"
#include "../../parse.h"

char _license[] SEC("license") = "Dual MIT/GPL";

struct exchange {
	__u32 start, vlan, wire, spare;
	struct packet p;
	__u32 reason, headers;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct exchange);
} shared SEC(".maps");

#define ANSWER(context)                                                                                \
	__u32 zero = 0;                                                                                \
	struct exchange *x = bpf_map_lookup_elem(&shared, &zero);                                      \
	if (!x)                                                                                        \
		return 0;                                                                              \
	struct packet p;                                                                               \
	__u32 reason = x->start == NEXT_ETHERNET ? parse_ethernet(context, x->wire, x->vlan, &p)       \
		: x->start == NEXT_RAW ? parse_raw(context, x->wire, &p)                               \
		: parse_network(context, x->wire, x->start, x->vlan, &p);                              \
	x->reason = reason;                                                                            \
	x->p.want = p.want;                                                                            \
	if (reason == DECODED) {                                                                       \
		p.key.input = 0;                                                                       \
		p.frame = 0;                                                                           \
		x->p = p;                                                                              \
		x->headers = headers((void *)(long)context->data, (void *)(long)context->data_end, &p); \
	}                                                                                              \
	return 0;

SEC("xdp") int xdp_answer(struct xdp_md *ctx) { ANSWER(ctx) }
SEC("tc") int tc_answer(struct __sk_buff *skb) { ANSWER(skb) }

/* The hot path, and the same without it. */
SEC("xdp") int xdp_parse(struct xdp_md *ctx)
{
	struct packet p;
	if (parse_ethernet(ctx, ctx->data_end - ctx->data, 0, &p) != DECODED)
		return XDP_PASS;
	__u32 sum = p.length + p.tcp_flags + p.ttl;
	p.key.input = ctx->ingress_ifindex;
	for (int i = 0; i < 11; i++)
		sum = sum * 31 + p.word[i];
	return sum == 1 ? 1 : XDP_PASS; /* all of it is wanted */
}

SEC("xdp") int xdp_empty(struct xdp_md *ctx) { (void)ctx; return XDP_PASS; }
