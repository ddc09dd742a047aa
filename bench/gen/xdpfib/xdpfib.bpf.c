//go:build ignore

/* The programs that weir's forwarding is measured beside, and the measure's own.
 *
 *   fib       asks the routing table for each packet, and redirects by a devmap: as
 *             the kernel's sample xdp_fwd and xdp-tools' xdp-forward do
 *   redirect  knows the way: what XDP forwarding costs without any thought
 *   sink      drops the bench's frames, and lets all else pass
 *   tell      the same, counted by protocol
 *   drop      drops all that is IPv4
 *   idle      lets all pass; idle_in and idle_out do so in TCX
 */
#include "../../../bpf/kernel.h"

char _license[] SEC("license") = "GPL";

CONSTANT __u32 output     = 0; /* of `redirect`: its key in tx, and the MACs */
CONSTANT __u8  macs[12]   = {}; /* destination, source */

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__type(key, __u32); /* ifindex */
	__type(value, __u32);
	__uint(max_entries, 256);
} tx SEC(".maps");

struct ethernet {
	__u8  dst[6], src[6];
	__u16 type;
};
struct ipv4 {
	__u8  version, tos;
	__u16 length, id, fragment;
	__u8  ttl, proto;
	__u16 sum;
	__u32 src, dst;
};
struct ipv6 {
	__u32 first;
	__u16 length;
	__u8  next, hops;
	__u32 src[4], dst[4];
};
#define IPV4 __builtin_bswap16(0x0800)
#define IPV6 __builtin_bswap16(0x86dd)

static __always_inline void lower_ttl(struct ipv4 *h)
{
	__u32 sum = h->sum + (__u32)__builtin_bswap16(0x0100);
	h->sum = sum + (sum >= 0xffff);
	h->ttl--;
}

SEC("xdp")
int fib(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *e = data;
	struct ipv4 *four = NULL;
	struct ipv6 *six = NULL;
	struct bpf_fib_lookup f = { .ifindex = ctx->ingress_ifindex };

	if ((void *)(e + 1) > end)
		return XDP_PASS;
	if (e->type == IPV4) {
		four = (void *)(e + 1);
		if ((void *)(four + 1) > end || four->ttl <= 1)
			return XDP_PASS;
		f.family = AF_INET;
		f.tos = four->tos;
		f.l4_protocol = four->proto;
		f.tot_len = __builtin_bswap16(four->length);
		f.src[0] = four->src;
		f.dst[0] = four->dst;
	} else if (e->type == IPV6) {
		six = (void *)(e + 1);
		if ((void *)(six + 1) > end || six->hops <= 1)
			return XDP_PASS;
		f.family = AF_INET6;
		f.tos = six->first & __builtin_bswap32(0x0fffffff);
		f.l4_protocol = six->next;
		f.tot_len = __builtin_bswap16(six->length);
		__builtin_memcpy(f.src, six->src, 16);
		__builtin_memcpy(f.dst, six->dst, 16);
	} else {
		return XDP_PASS;
	}
	if (bpf_fib_lookup(ctx, &f, sizeof f, 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return XDP_PASS;
	__u32 to = f.ifindex;
	if (!bpf_map_lookup_elem(&tx, &to))
		return XDP_PASS;
	if (four)
		lower_ttl(four);
	else if (six)
		six->hops--;
	__builtin_memcpy(e->dst, f.dmac, 6);
	__builtin_memcpy(e->src, f.smac, 6);
	return bpf_redirect_map(&tx, to, 0);
}

SEC("xdp")
int redirect(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *e = data;
	struct ipv4 *h = (void *)(e + 1);
	if ((void *)(h + 1) > end || e->type != IPV4 || ctx->ingress_ifindex == output)
		return XDP_PASS;
	lower_ttl(h);
	for (int i = 0; i < 6; i++) {
		e->dst[i] = macs[i];
		e->src[i] = macs[6 + i];
	}
	return bpf_redirect_map(&tx, output, XDP_PASS);
}

#define BENCH_PORT __builtin_bswap16(9) /* xdpsend's */

static __always_inline struct ipv4 *of_bench(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *e = data;
	struct ipv4 *h = (void *)(e + 1);
	__u16 *ports = (void *)(h + 1);
	return (void *)(ports + 2) <= end && e->type == IPV4 && ports[1] == BENCH_PORT ? h : NULL;
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	return of_bench(ctx) ? XDP_DROP : XDP_PASS;
}

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32); /* IP protocol */
	__type(value, __u64);
	__uint(max_entries, 256);
} arrived SEC(".maps");

SEC("xdp")
int tell(struct xdp_md *ctx)
{
	struct ipv4 *h = of_bench(ctx);
	if (!h)
		return XDP_PASS;
	__u32 proto = h->proto;
	__u64 *n = bpf_map_lookup_elem(&arrived, &proto);
	if (n)
		__sync_fetch_and_add(n, 1);
	return XDP_DROP;
}

SEC("xdp")
int drop(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *e = data;
	return (void *)(e + 1) <= end && e->type == IPV4 ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int idle(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

SEC("tc")
int idle_in(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_UNSPEC;
}

SEC("tc")
int idle_out(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_UNSPEC;
}
