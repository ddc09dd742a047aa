//go:build ignore

/* What a look-up costs, beside what eBPF agents do. All programs of a kind do
 * the same work on the same frame, whose source address a random number
 * replaces, so that there are as many flows as asked for.
 */
#include "../../flow.bpf.c"

CONSTANT __u32 flows = 1; /* a power of two */
CONSTANT bool  flood = false; /* every other packet is of a flow of its own */

/* Others' entry: what a record needs, as ours has it. */
struct value {
	__u64 packets, bytes, first, last, facts;
	__u64 spare[11];
};
_Static_assert(sizeof(struct value) == sizeof(struct entry), "the same memory");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct flow_key);
	__type(value, struct value);
	__uint(max_entries, 1);
} shared SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, struct flow_key);
	__type(value, struct value);
	__uint(max_entries, 1);
} percpu SEC(".maps");

__u64 sink, serial;

static __always_inline void draw(__u32 *low, __u32 *high)
{
	__u32 lot = bpf_get_prandom_u32();
	if (flood && lot >> 31) {
		__u64 n = ++serial; /* the benchmark has one CPU */
		*low = n;
		*high = 0x80000000 | n >> 32;
		return;
	}
	*low = lot & (flows - 1);
}

static __always_inline int frame(struct xdp_md *ctx, struct seen *s)
{
	s->port = ctx->ingress_ifindex;
	s->output = 0;
	if (parse_ethernet(ctx, ctx->data_end - ctx->data, 0, &s->p) != DECODED)
		return 0;
	one(s);
	draw(&s->p.word[3], &s->p.word[7]);
	return 1;
}

SEC("xdp")
int bench_empty(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

/* What the bench itself costs. */
SEC("xdp")
int bench_draw(struct xdp_md *ctx)
{
	(void)ctx;
	__u32 low = 0, high = 0;
	draw(&low, &high);
	sink = low ^ high;
	return XDP_PASS;
}

/* What all have in common. */
SEC("xdp")
int bench_parse(struct xdp_md *ctx)
{
	struct seen s;
	if (frame(ctx, &s)) {
		mask(&s.p, s.port);
		s.now = now_ns();
		__u32 x = 0;
		for (int i = 0; i < 11; i++)
			x ^= s.p.word[i];
		sink = x ^ s.now ^ s.facts;
	}
	return XDP_PASS;
}

SEC("xdp")
int bench_weir(struct xdp_md *ctx)
{
	struct seen s;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (frame(ctx, &s))
		meter(ctx, &s, data, end, true);
	return XDP_PASS;
}

SEC("xdp")
int bench_shared(struct xdp_md *ctx)
{
	struct seen s;
	if (!frame(ctx, &s))
		return XDP_PASS;
	mask(&s.p, s.port);
	s.now = now_ns();
	struct value *v = bpf_map_lookup_elem(&shared, &s.p.key);
	if (!v) {
		struct value new = { .packets = 1, .bytes = s.bytes, .first = s.now, .last = s.now, .facts = s.facts };
		bpf_map_update_elem(&shared, &s.p.key, &new, 0);
		return XDP_PASS;
	}
	__sync_fetch_and_add(&v->bytes, s.bytes);
	__sync_fetch_and_add(&v->packets, s.packets);
	if (READ_ONCE(v->last) < s.now)
		WRITE_ONCE(v->last, s.now);
	if (facts_new(READ_ONCE(v->facts), s.facts))
		v->facts = facts_both(v->facts, s.facts);
	return XDP_PASS;
}

SEC("xdp")
int bench_percpu(struct xdp_md *ctx)
{
	struct seen s;
	if (!frame(ctx, &s))
		return XDP_PASS;
	mask(&s.p, s.port);
	s.now = now_ns();
	struct value *v = bpf_map_lookup_elem(&percpu, &s.p.key);
	if (!v) {
		struct value new = { .packets = 1, .bytes = s.bytes, .first = s.now, .last = s.now, .facts = s.facts };
		bpf_map_update_elem(&percpu, &s.p.key, &new, 0);
		return XDP_PASS;
	}
	v->bytes += s.bytes;
	v->packets += s.packets;
	if (v->last < s.now)
		v->last = s.now;
	if (facts_new(v->facts, s.facts))
		v->facts = facts_both(v->facts, s.facts);
	return XDP_PASS;
}
