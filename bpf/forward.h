/* Forwarding: the later packets of a flow leave by what its entry remembers.
 *
 * The kernel is the router. A flow's first packet asks its routing table, by
 * bpf_fib_lookup, with all that ip rules and multipath routes look at; the answer,
 * a next hop's number or why the kernel must do it, is kept as the entry's route.
 * It holds until the daemon hears of a change, and for two seconds at most.
 *
 *   plain      whether a packet is one that a router forwards without ado
 *   is_stale   whether a route holds no longer
 *   ask_route  what the routing table says
 *   send       to the next hop: TTL, link addresses, VLAN tag, out
 *
 * Whatever is not plain goes to the kernel and is counted by enum why.
 */
#ifndef WEIR_FORWARD_H
#define WEIR_FORWARD_H

#include "seen.h"

CONSTANT bool use_forward = false;
CONSTANT __u64 netns      = 0;     /* cookie of the network namespace that interfaces are of */

/* where counts what became of a packet that came in by a port. */
static __always_inline void where(const struct port *p, __u32 why)
{
	__u32 number = p ? READ_ONCE(p->number) % MAX_PORTS : 0;
	struct why_counts *w = bpf_map_lookup_elem(&whys, &number);
	if (w)
		bump(&w->packets[why % WHYS], 1);
}

/* --- which packets --- */

/* is_apart says whether addresses are none that packets are forwarded between:
 * multicast, loopback, link-local, unspecified. The kernel knows what to do. */
static __always_inline bool is_apart(const struct packet *p)
{
	if (p->key.vlan & KEY_IPV6) {
		const __u8 *s = p->key.src, *d = p->key.dst;
		return s[0] == 0xff || d[0] == 0xff || (s[0] == 0xfe && s[1] >> 6 == 2) || (d[0] == 0xfe && d[1] >> 6 == 2) || !(p->word[0] | p->word[1]) ||
		       !(p->word[4] | p->word[5]);
	}
	__u8 s = p->key.src[12], d = p->key.dst[12];
	return s == 0 || s == 127 || s >= 224 || d == 0 || d == 127 || d >= 224;
}

/* is_zero_sum says whether a sum of words, which is not 0, is zero in the arithmetic of
 * the Internet checksum (RFC 1071): a multiple of 0xffff. An odd number divides those
 * whose product with its inverse, modulo 2^64, is small; to fold the sum takes longer. */
static __always_inline bool is_zero_sum(__u64 sum) { return sum * 0xfffefffefffeffffull <= ~0ull / 0xffff; }

/* is_partial says whether all that the transport's checksum has is the sum of the
 * pseudo-header: a sender on this machine has left the rest to its hardware, and no
 * program can tell that it has (CHECKSUM_PARTIAL). A finished checksum looks like
 * that once in 65536 times; then the kernel forwards the packet. */
static __always_inline bool is_partial(const struct packet *p, const __u8 *data, const void *end)
{
	const __u8 *h = place(data, p->transport);
	__u32 has;
	if (p->key.proto == PROTO_TCP) {
		if (h + 18 > (const __u8 *)end)
			return false;
		has = LOAD(__u16, h + 16);
	} else if (p->key.proto == PROTO_UDP) {
		if (h + 8 > (const __u8 *)end)
			return false;
		has = LOAD(__u16, h + 6);
	} else if (p->key.proto == PROTO_ICMP6) {
		if (h + 4 > (const __u8 *)end)
			return false;
		has = LOAD(__u16, h + 2);
	} else {
		return false;
	}
	__u64 sum = (__u64)NETWORK16(p->length - (p->transport - p->network)) + NETWORK16(p->key.proto);
	sum += p->word[3];
	sum += p->word[7];
	if (p->key.vlan & KEY_IPV6) {
		sum += (__u64)p->word[0] + p->word[1] + p->word[2];
		sum += (__u64)p->word[4] + p->word[5] + p->word[6];
	}
	return has && is_zero_sum(sum + 0xffff - has);
}

/* is_sound says whether the checksum of an IPv4 header without options is right: a
 * router must not forward others (RFC 1812, section 5.2.2). */
static __always_inline bool is_sound(const __u8 *h)
{
	__u64 sum = (__u64)LOAD(__u32, h) + LOAD(__u32, h + 4) + LOAD(__u32, h + 8) + LOAD(__u32, h + 12) + LOAD(__u32, h + 16);
	return is_zero_sum(sum);
}

#define NETWORK_UNTAGGED 14
#define NETWORK_TAGGED   18

/* plain says whether a packet is one to forward, as far as it tells itself: else
 * an enum why. */
static __always_inline __u32 plain(const struct seen *s, const struct port *port, const __u8 *data, const void *end)
{
	const struct packet *p = &s->p;
	if (!port || !(READ_ONCE(port->flags) & PORT_FORWARD))
		return WHY_OFF;
	if (data + NETWORK_UNTAGGED + 20 > (const __u8 *)end)
		return WHY_ENCAPSULATION;
	if ((LOAD(__u32, data) | (__u64)LOAD(__u16, data + 4) << 32) != READ_ONCE(port->mac))
		return WHY_ADDRESSEE;
	const __u8 *h = data + NETWORK_UNTAGGED;
	if (p->network != NETWORK_UNTAGGED) {
		h = data + NETWORK_TAGGED;
		if (p->network != NETWORK_TAGGED || LOAD(__u16, data + 12) != NETWORK16(TYPE_VLAN))
			return WHY_ENCAPSULATION;
	}
	if (p->key.vlan & KEY_IPV6) {
		if (p->transport != p->network + 40)
			return WHY_OPTIONS;
	} else {
		if (h + 20 > (const __u8 *)end)
			return WHY_ENCAPSULATION;
		if (LOAD(__u16, h + 6) & NETWORK16(0x3fff))
			return WHY_FRAGMENT;
		if (h[0] != 0x45)
			return WHY_OPTIONS;
		if (unlikely(!is_sound(h)))
			return WHY_CHECKSUM;
	}
	if (p->ttl <= 1)
		return WHY_TTL;
	if (is_apart(p))
		return WHY_MARTIAN;
	if (READ_ONCE(port->flags) & PORT_PARTIAL && is_partial(p, data, end))
		return WHY_OFFLOAD;
	__u64 until = READ_ONCE(control.forward_until);
	if (until && s->now >= until)
		return WHY_ORPHAN;
	return FORWARDED;
}

/* --- where to --- */

/* route_bucket is where a destination's part of the generation stands: of IPv4 by
 * its first twelve bits, of IPv6 by the first 32, mixed. So a change of a route
 * concerns flows to destinations near it, and costs one store. datapath/routes.go
 * has it, too. */
static __always_inline __u32 route_bucket(const struct packet *p)
{
	if (p->key.vlan & KEY_IPV6)
		return ROUTE_BUCKETS + (NETWORK32(p->word[4]) * 0x9e3779b1u >> 20);
	return NETWORK32(p->word[7]) >> 20;
}

static __always_inline __u32 generation_of(const struct packet *p)
{
	return READ_ONCE(control.routes) + READ_ONCE(control.routes_to[route_bucket(p) % (2 * ROUTE_BUCKETS)]);
}

static __always_inline bool is_stale(__u64 route, const struct seen *s)
{
	__u32 holds = ROUTE_WAY(route) == WHY_NEIGHBOUR || ROUTE_WAY(route) == WHY_OUTPUT ? ROUTE_HOLDS_BRIEFLY : ROUTE_HOLDS;
	return ROUTE_GENERATION(route) != generation_of(&s->p) || (__u16)((s->now >> ROUTE_UNIT) - ROUTE_WHEN(route)) > holds;
}

static __always_inline void fib_addresses(struct bpf_fib_lookup *f, const struct packet *p)
{
	const __u32 *w = p->word;
	if (p->key.vlan & KEY_IPV6) {
		f->family = AF_INET6;
		__builtin_memcpy(f->src, w, 16);
		__builtin_memcpy(f->dst, w + 4, 16);
	} else {
		f->family = AF_INET;
		f->src[0] = w[3];
		f->dst[0] = w[7];
	}
	f->l4_protocol = p->key.proto;
	if (p->key.proto != PROTO_ICMP && p->key.proto != PROTO_ICMP6) { /* those have type and code there */
		f->sport = NETWORK16(p->key.sport);
		f->dport = NETWORK16(p->key.dport);
	}
}

/* returns says whether packets to a source would leave by the interface that it came
 * in by, or by any (RFC 3704). Of several equal ways back one is looked at. */
static __always_inline bool returns(void *ctx, const struct seen *s, __u32 input, bool strict)
{
	struct bpf_fib_lookup f = {};
	fib_addresses(&f, &s->p);
	f.ifindex = input;
	for (int i = 0; i < 4; i++) {
		__u32 a = f.src[i];
		f.src[i] = f.dst[i];
		f.dst[i] = a;
	}
	__u16 port = f.sport;
	f.sport = f.dport;
	f.dport = port;
	long ret = bpf_fib_lookup(ctx, &f, sizeof f, 0);
	if (ret == BPF_FIB_LKUP_RET_UNSUPP_LWT)
		return true; /* there is one; the kernel knows where to */
	return (ret == BPF_FIB_LKUP_RET_SUCCESS || ret == BPF_FIB_LKUP_RET_NO_NEIGH) && (!strict || f.ifindex == input);
}

/* v4-mapped, or as it is */
static __always_inline void hop_address(struct hop_key *k, const struct bpf_fib_lookup *f)
{
	__u32 *a = (__u32 *)k->address;
	k->ifindex = f->ifindex;
	if (f->family == AF_INET6) { /* may be so for an IPv4 route, too (RFC 8950) */
		__builtin_memcpy(a, f->dst, 16);
		return;
	}
	a[0] = a[1] = 0;
	a[2] = NETWORK32(0xffff);
	a[3] = f->dst[0];
}

/* renew corrects a next hop's link address if the routing table knows another: what
 * the daemon was to hear, and did not. */
static __always_inline void renew(struct hop *h, const __u8 *dmac)
{
	const __u16 *mac = (const __u16 *)dmac; /* as it is aligned */
	__u64 old = READ_ONCE(h->to), new = (old >> 48 | HOP_ALIVE) << 48 | (__u64)mac[2] << 32 | (__u32)mac[1] << 16 | mac[0];
	if (unlikely(old != new))
		__sync_val_compare_and_swap(&h->to, old, new);
}

/* left_to says whether the kernel alone forwards a packet, whatever its route: an enum
 * why, or FORWARDED. */
static __always_inline __u32 left_to(const struct port *port, const struct packet *p)
{
	bool six = p->key.vlan & KEY_IPV6;
	__u32 left = port ? READ_ONCE(port->left) : 0;
	if (six && left & LEFT_IPV6)
		return WHY_DISABLED;
	if (left & (six ? LEFT_SPI6 : LEFT_SPI4) && (p->key.proto == PROTO_ESP || p->key.proto == PROTO_AH))
		return WHY_SPI;
	return FORWARDED;
}

/* route_mtu is the least that a packet's route may have as its own MTU. */
static __always_inline __u32 route_mtu(const struct packet *p)
{
	struct prefix k = { .bits = 128 };
	__builtin_memcpy(k.addr, p->key.dst, sizeof k.addr);
	__u32 *mtu = bpf_map_lookup_elem(&route_mtus, &k);
	return mtu ? READ_ONCE(*mtu) : 0xffffffff;
}

/* way_of asks the routing table for a packet's way: a row of `hops`, or an enum why. */
static __always_inline __u32 way_of(struct xdp_md *ctx, const struct seen *s, __u32 *output)
{
	struct hop_key k = {};
	struct port *port = find_port(s->port);
	__u32 flags = port ? READ_ONCE(port->flags) : 0, input = s->port, left = left_to(port, &s->p);

	if (left != FORWARDED)
		return left;
	if (s->p.network == NETWORK_TAGGED && s->p.key.vlan & VLAN_ID) {
		struct upper_key u = { s->port, s->p.key.vlan & VLAN_ID };
		__u32 *upper = bpf_map_lookup_elem(&uppers, &u);
		if (!upper)
			return WHY_ENCAPSULATION;
		input = *upper;
	}
	/* The kernel drops what claims to come from this router. */
	__builtin_memcpy(k.address, s->p.key.src, sizeof k.address);
	if (bpf_map_lookup_elem(&hop_of, &k))
		return WHY_MARTIAN;

	struct bpf_fib_lookup f = {};
	fib_addresses(&f, &s->p);
	f.ifindex = input;
	f.tot_len = 1;
	f.tos = s->p.key.tos;
	if (s->p.key.vlan & KEY_IPV6) { /* multipath looks at the label, which no key has */
		const __u8 *h = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
		h += s->p.network == NETWORK_TAGGED ? NETWORK_TAGGED : NETWORK_UNTAGGED;
		f.tos = NETWORK32((__u32)s->p.key.tos << 20);
		if (h + 4 <= end)
			f.tos = LOAD(__u32, h) & NETWORK32(0x0fffffff);
	}
	switch (bpf_fib_lookup(ctx, &f, sizeof f, 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		break;
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return WHY_UNREACHABLE;
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		return WHY_LOCAL;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return WHY_DISABLED;
	case BPF_FIB_LKUP_RET_UNSUPP_LWT:
		return WHY_LWT;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		*output = f.ifindex;
		return WHY_NEIGHBOUR;
	default:
		return WHY_ERROR;
	}
	*output = f.ifindex;
	if (f.ifindex == input)
		return WHY_HAIRPIN;
	hop_address(&k, &f);
	__u32 *row = bpf_map_lookup_elem(&hop_of, &k);
	struct hop *h = row ? bpf_map_lookup_elem(&hops, row) : NULL;
	if (!h || *row < WHYS || !READ_ONCE(h->number))
		return WHY_OUTPUT;
	*output = READ_ONCE(h->device);
	__u32 mtu = READ_ONCE(h->mtu);
	if (f.tot_len < mtu || route_mtu(&s->p) < mtu)
		return WHY_ROUTE_MTU;
	if (flags & (PORT_URPF_STRICT | PORT_URPF_LOOSE) && !returns(ctx, s, input, flags & PORT_URPF_STRICT))
		return WHY_URPF;
	renew(h, f.dmac);
	return *row;
}

/* ask_route gives a packet's route, and where it leaves. */
__noinline int ask_route(struct xdp_md *ctx, struct seen *s)
{
	if (!s)
		return 0;
	__u32 output = 0;
	__u64 generation = generation_of(&s->p); /* before the routing table is asked: what changes meanwhile makes the answer stale */
	__u64 when = s->now >> ROUTE_UNIT & 0xffff, way = way_of(ctx, s, &output);
	s->output = metered_below(output);
	s->route = generation << 32 | when << 16 | (way & 0xffff);
	return 0;
}

/* find_route gives a packet the route of its flow, asked for anew if it holds no
 * longer. */
static __always_inline void find_route(struct xdp_md *ctx, struct seen *s, struct entry *e)
{
	__u64 old = READ_ONCE(e->route);
	s->route = old;
	if (likely(old && !is_stale(old, s)))
		return;
	ask_route(ctx, s);
	__sync_val_compare_and_swap(&e->route, old, s->route); /* or another has asked later */
	if (s->output && READ_ONCE(e->output) != s->output)
		WRITE_ONCE(e->output, s->output);
}

/* --- out --- */

static __always_inline struct hop *hop_at(__u32 row)
{
	return bpf_map_lookup_elem(&hops, &row);
}

/* fits says whether a packet can go to a next hop: else an enum why. What is behind
 * it in its frame, of `wire` octets, goes along. */
static __always_inline __u32 fits(const struct hop *h, const struct seen *s, __u32 wire, bool in_frags)
{
	__u64 to = READ_ONCE(h->to);
	if (!(to >> 48 & HOP_ALIVE))
		return WHY_NEIGHBOUR;
	if (wire - s->p.network > READ_ONCE(h->mtu))
		return WHY_MTU;
	if (in_frags && !(to >> 48 & HOP_FRAGS))
		return WHY_OUTPUT;
	return FORWARDED;
}

static __always_inline void lower_ttl(__u8 *h, bool six)
{
	if (six) {
		h[7]--;
		return;
	}
	/* RFC 1624: the checksum changes by as much, the other way; 0xffff says nothing that 0 does not */
	__u32 sum = LOAD(__u16, h + 10) + (__u32)NETWORK16(0x0100);
	*(__u16 *)(h + 10) = sum + (sum >= 0xffff);
	h[8]--;
}

/* send forwards a packet to a next hop: else, with nothing changed in it, an enum why. */
static __always_inline __u32 send(struct xdp_md *ctx, const struct seen *s, struct hop *hop)
{
	__u64 to = READ_ONCE(hop->to), from = READ_ONCE(hop->from);
	__u32 tag = from >> 48, tagged = s->p.network == NETWORK_TAGGED, used = s->now >> HOP_USED_UNIT;
	if (bpf_redirect_map(&tx, READ_ONCE(hop->number), XDP_PASS) != XDP_REDIRECT)
		return WHY_OUTPUT;
	if (unlikely((tag != 0) != tagged) && bpf_xdp_adjust_head(ctx, tag ? -4 : 4))
		return WHY_ENCAPSULATION;
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *h = data + NETWORK_UNTAGGED;
	if (tag)
		h = data + NETWORK_TAGGED;
	if (h + 20 > end)
		return WHY_ERROR; /* not after plain() */
	bool six = s->p.key.vlan & KEY_IPV6;
	*(__u32 *)data = to;
	*(__u16 *)(data + 4) = to >> 32;
	*(__u32 *)(data + 6) = from;
	*(__u16 *)(data + 10) = from >> 32;
	if (tag) {
		*(__u16 *)(data + 12) = NETWORK16(TYPE_VLAN);
		*(__u16 *)(data + 14) = NETWORK16(tag & VLAN_ID);
		*(__u16 *)(data + 16) = NETWORK16(six ? TYPE_IPV6 : TYPE_IPV4);
	} else {
		*(__u16 *)(data + 12) = NETWORK16(six ? TYPE_IPV6 : TYPE_IPV4);
	}
	lower_ttl(h, six);
	if (READ_ONCE(hop->used) != used)
		WRITE_ONCE(hop->used, used);
	return FORWARDED;
}

#endif
