/* acl.h alone in the kernel: what it says of a packet, and what it costs. */
#include "../../kernel.h"
#include "../../acl.h"

char _license[] SEC("license") = "Dual MIT/GPL";

#define PACKETS 16384

struct exchange {
	struct packet p;
	__u32 list, port, egress, ipv6;
	struct acl_result r;
	__u32 judged, class, bound, spare;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PACKETS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct exchange);
} shared SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} turn SEC(".maps");

/* next is the next of the packets, in turn. */
static __always_inline struct exchange *next(void)
{
	__u32 i = 0, *n = bpf_map_lookup_elem(&turn, &i);
	if (!n)
		return NULL;
	i = (*n)++ % PACKETS;
	return bpf_map_lookup_elem(&shared, &i);
}

SEC("xdp") int xdp_answer(struct xdp_md *ctx)
{
	(void)ctx;
	struct exchange *x = next();
	if (!x)
		return XDP_PASS;
	struct packet p = x->p;
	__u64 answer = acl_classify(0, x->list, &p);
	struct acl_result r = acl_result(answer);
	x->judged = answer != 0;
	x->r = r;
	x->class = acl_class(0, &p);
	x->bound = acl_list(0, x->port, x->egress, x->ipv6);
	return XDP_PASS;
}

/* The hot path, and the same without it. */
SEC("xdp") int xdp_classify(struct xdp_md *ctx)
{
	(void)ctx;
	struct exchange *x = next();
	if (!x)
		return XDP_PASS;
	struct packet p = x->p;
	struct acl_result r = acl_result(acl_classify(0, x->list, &p));
	return r.rule == 0xffffff ? 1 : XDP_PASS;
}

SEC("xdp") int xdp_empty(struct xdp_md *ctx)
{
	(void)ctx;
	struct exchange *x = next();
	if (!x)
		return XDP_PASS;
	struct packet p = x->p;
	HIDE(p.length);
	return p.length == 0xffffff ? 1 : XDP_PASS;
}
