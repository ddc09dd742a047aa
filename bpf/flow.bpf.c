//go:build ignore

/* The programs that meter packets where they pass. Read from top to bottom:
 * parse, choose, look up, count. All of them let every packet pass.
 *
 *   xdp_meter      ingress, each frame as it came from the wire
 *   tc_ingress     ingress where XDP is not to be had
 *   tc_egress      what this host sends, and what it forwards but did not meter
 *                  on its way in
 *   tc_ingress_ip, tc_egress_ip
 *                  the same on interfaces without link headers (tun, wireguard)
 *   tell_time      writes down what the clock says; run by the daemon
 *
 * parse.h reads a frame, choose.h says whether it is metered, table.h looks it
 * up and counts it.
 */
#include "table.h"

/* The routing table may be asked by programs with a licence that is compatible
 * with the GPL only. So what is in this object may be used under the MIT licence
 * or version 2 of the GPL, besides the project's own. */
char _license[] SEC("license") = "Dual MIT/GPL";

/* Set before the programs are loaded; what they make unreachable costs nothing. */
CONSTANT bool use_filter = false;
CONSTANT bool frags      = false; /* xdp_meter is loaded as one that takes frames in several buffers */

static __always_inline __u32 clamp(__u32 length) { return length < 0xffff ? length : 0xffff; }

/* one says that the buffer is one packet. */
static __always_inline void one(struct seen *s)
{
	__u32 length = s->p.length;
	s->packets = 1;
	s->bytes = length;
	s->facts = facts_of(s->p.tcp_flags, clamp(length), clamp(length), s->p.ttl);
}

/* segments says what a buffer is that stands for several packets: each has the
 * headers, all but the last have gso_size octets of payload. On its way out the
 * kernel has reckoned with them, an inner packet's too, in wire_len. On its way
 * in it has not, and of a tunnel's packets that were merged, only the outer
 * headers count for each. */
static __always_inline void segments(struct seen *s, struct __sk_buff *skb, const void *data, const void *end, bool egress)
{
	one(s);
	__u32 size = skb->gso_size;
	if (likely(!size))
		return;
	__u32 n = skb->gso_segs, header = headers(data, end, &s->p), length = s->p.length;
	if (egress && n > 1) {
		__u32 each = (skb->wire_len - skb->len) / (n - 1);
		if (each > s->p.network)
			header = each - s->p.network;
	}
	if (!header || header >= length)
		return;
	__u32 payload = length - header;
	if (!n)
		n = (payload + size - 1) / size;
	if (n < 2)
		return;
	__u32 full = (n - 1) * size;
	s->packets = n;
	s->bytes = (__u64)n * header + payload;
	s->facts = facts_of(s->p.tcp_flags, clamp(header + (payload > full ? payload - full : 0)), clamp(header + size), s->p.ttl);
}

/* chosen says whether the packet is to be metered. What a flow's key alone
 * decides, prefixes and own exports, is asked when the flow is entered. */
static __always_inline bool chosen(const struct seen *s, void *ctx, void *data, void *end)
{
	if (use_filter && !weir_filter(ctx, data, end)) {
		note(s->port, FILTERED, s->packets, s->bytes);
		return false;
	}
	if (unlikely(!is_sampled(&control))) {
		note(s->port, NOT_SAMPLED, s->packets, s->bytes);
		return false;
	}
	return true;
}

/* leave counts a frame that makes no flow: as chosen or not, like any other. */
static __always_inline void leave(void *ctx, struct seen *s, void *data, void *end, __u32 reason, __u32 wire)
{
	s->packets = 1;
	s->bytes = wire;
	if (chosen(s, ctx, data, end))
		note(s->port, reason, 1, wire);
}

/* meter does all that is left once a frame is parsed and its sizes are known. */
static __always_inline void meter(void *ctx, struct seen *s, void *data, void *end, bool xdp)
{
	if (!chosen(s, ctx, data, end))
		return;
	mask(&s->p, s->port);
	s->now = now_ns();
	s->closing = 0;
	if (unlikely(s->p.tcp_flags & 0x05)) { /* FIN, RST */
		s->closing = (s->now + 999999999) / 1000000000;
		s->facts |= FACTS_CLOSING;
	}
	if (key_5tuple)
		note(s->port, METERED, s->packets, s->bytes);
	look_up(ctx, s, xdp);
}

SEC("xdp")
int xdp_meter(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 wire = frags ? bpf_xdp_get_buff_len(ctx) : (__u32)(end - data);
	struct seen s;
	s.port = ctx->ingress_ifindex;
	s.output = 0;
	__u32 reason = parse_ethernet(ctx, wire, 0, &s.p);
	if (unlikely(reason != DECODED)) {
		leave(ctx, &s, data, end, reason, wire);
		return XDP_PASS;
	}
	one(&s);
	meter(ctx, &s, data, end, true);
	return XDP_PASS;
}

/* The outermost VLAN tag, if it is no longer in the frame. */
static __always_inline __u16 accelerated(struct __sk_buff *skb)
{
	return skb->vlan_present ? (skb->vlan_tci & VLAN_ID) | KEY_TAGGED : 0;
}

#define TC_MAX_PULL 512 /* octets of headers that are made readable */

static __always_inline int tc(struct __sk_buff *skb, bool egress, bool ip)
{
	struct seen s;
	__u32 reason = UNKNOWN_LINK, ifindex = skb->ifindex;
	s.port = egress ? ifindex | KEY_EGRESS : ifindex;
	s.output = egress ? ifindex : 0;
	void *data, *end;
	for (int i = 0; i < 2; i++) {
		data = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
		if (ip)
			reason = parse_network(skb, skb->len, NETWORK16(skb->protocol), accelerated(skb), &s.p);
		else
			reason = parse_ethernet(skb, skb->len, accelerated(skb), &s.p);
		__u32 want = s.p.want;
		if (likely(!want) || data + want <= end || (__u32)(end - data) >= skb->len)
			break;
		if (bpf_skb_pull_data(skb, skb->len < TC_MAX_PULL ? skb->len : TC_MAX_PULL))
			break;
	}
	if (egress && skb->ingress_ifindex) {
		struct port *p = find_port(skb->ingress_ifindex);
		if (p && READ_ONCE(p->flags) & PORT_INGRESS) {
			if (reason == DECODED)
				correct(&s, p, ifindex);
			return TC_ACT_UNSPEC;
		}
	}
	data = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
	if (unlikely(reason != DECODED)) {
		leave(skb, &s, data, end, reason, skb->len);
		return TC_ACT_UNSPEC;
	}
	segments(&s, skb, data, end, egress);
	meter(skb, &s, data, end, false);
	return TC_ACT_UNSPEC;
}

SEC("tc") int tc_ingress(struct __sk_buff *skb)    { return tc(skb, false, false); }
SEC("tc") int tc_egress(struct __sk_buff *skb)     { return tc(skb, true, false); }
SEC("tc") int tc_ingress_ip(struct __sk_buff *skb) { return tc(skb, false, true); }
SEC("tc") int tc_egress_ip(struct __sk_buff *skb)  { return tc(skb, true, true); }

SEC("syscall")
int tell_time(void *none)
{
	(void)none;
	control.jiffies_ns = now_ns();
	control.mono_ns = bpf_ktime_get_ns();
	return 0;
}
