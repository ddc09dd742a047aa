//go:build ignore

/* The programs that meter packets where they pass. Read from top to bottom:
 * parse, choose, look up, judge, count, forward. Without access lists they let every
 * packet pass; where they do not forward, to the kernel.
 *
 *   xdp_meter      ingress, each frame as it came from the wire
 *   tc_ingress     ingress where XDP is not to be had
 *   tc_egress      what this host sends, and what it forwards but did not meter
 *                  on its way in
 *   tc_ingress_ip, tc_egress_ip
 *                  the same on interfaces without link headers (tun, wireguard)
 *   count_lost     counts what was redirected and then not sent
 *   tell_time      writes down what the clock says; run by the daemon
 *
 * parse.h reads a frame, choose.h says whether it is metered, table.h looks it
 * up and counts it, judge.h says whether it passes, if there are lists, and
 * forward.h sends it on, if that is wished for.
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
	s->bytes = n * header + payload; /* of a buffer, which has less than 4 GiB */
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

/* unjudged says whether a frame does not pass a port because no list there can
 * judge it: an IP packet that cannot be read. All that is not IP passes. */
static __always_inline bool unjudged(__u32 at, __u32 reason)
{
	return use_lists && reason >= TOO_DEEP && reason <= BAD_TOTAL_LENGTH && stops_unread(at);
}

/* leave counts a frame that makes no flow: as chosen or not, like any other. */
static __always_inline void leave(void *ctx, struct seen *s, void *data, void *end, __u32 reason, __u32 wire)
{
	s->packets = 1;
	s->bytes = wire;
	s->word = 0;
	if (chosen(s, ctx, data, end))
		note(s->port, reason, 1, wire);
	if (unjudged(s->port, reason)) {
		s->word = VERDICT_DENY;
		note(s->port, DROPPED, 1, wire);
	}
}

/* stop_alone is for a packet that is not metered, and judged all the same. */
static __always_inline void stop_alone(struct seen *s)
{
	if (s->lists)
		judge_alone(s, s->port);
	guard(s, NULL);
	guarded_alone(s);
}

/* meter does all that is left once a frame is parsed and its sizes are known. */
static __always_inline void meter(void *ctx, struct seen *s, void *data, void *end, bool xdp)
{
	if (use_lists) {
		s->lists = lists_in_force(s->now);
		s->word = s->lists >> 32 << 32;
	}
	if (!chosen(s, ctx, data, end)) {
		if (use_lists && (s->lists || use_guard)) {
			mask(&s->p, s->port);
			if (!is_own(s)) /* a filter or a lot that leaves our own exports out does not subject them to lists */
				stop_alone(s);
		}
		return;
	}
	mask(&s->p, s->port);
	if (unlikely(s->p.tcp_flags & 0x05)) /* FIN, RST */
		s->facts |= FACTS_CLOSING;
	if (key_5tuple)
		note(s->port, METERED, s->packets, s->bytes);
	look_up(ctx, s, xdp);
}

#define EVENTS_A_TICK 8 /* of each CPU */

/* emit sends an event. */
static __always_inline int emit(void *ctx, const struct seen *s, __u32 at, __u32 length)
{
	__u32 zero = 0;
	struct told *t = s ? bpf_map_lookup_elem(&told, &zero) : NULL;
	if (!t)
		return 0;
	if (t->tick != s->now) {
		t->tick = s->now;
		t->events = 0;
	}
	struct event event = {
		.now = s->now, .word = s->word, .port = at, .network = s->p.network,
		.octets = length < EVENT_OCTETS ? length : EVENT_OCTETS, .rejected = is_stopped(s->word) && s->word & VERDICT_REJECT,
	};
	if (t->events++ >= EVENTS_A_TICK || bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU | (__u64)event.octets << 32, &event, sizeof event))
		note(at, UNTOLD, s->packets, s->bytes);
	return 0;
}

__noinline int emit_xdp(struct xdp_md *ctx, const struct seen *s, __u32 at, __u32 length) { return emit(ctx, s, at, length); }
__noinline int emit_tc(struct __sk_buff *ctx, const struct seen *s, __u32 at, __u32 length) { return emit(ctx, s, at, length); }

/* length is a frame's, all its buffers together. */
static __always_inline __u32 length(struct xdp_md *ctx)
{
	return frags ? bpf_xdp_get_buff_len(ctx) : ctx->data_end - ctx->data;
}

/* begin makes all of s that is not found out first. What a function is given, is
 * given whole; but what no function is given, the compiler leaves out. */
static __always_inline void begin(struct seen *s, __u32 port, __u32 output)
{
	s->now = now_ns();
	s->lists = s->word = s->route = 0;
	s->port = port;
	s->output = output;
	s->slot = NO_SLOT;
	s->asked = s->why = 0;
	s->p.frame = 0;
}

/* judge_out asks the list where a packet leaves. */
__noinline int judge_out(struct seen *s, __u32 at)
{
	if (!s)
		return 0;
	s->asked = 0;
	if (s->slot == NO_SLOT)
		judge_alone(s, at);
	else
		judge_leaving(s, at);
	return 0;
}

#define PORT_JUDGES_OUT (PORT_LIST_OUT | PORT_UNRULED_CLOSED | PORT_ORPHAN_OPEN | PORT_ORPHAN_CLOSED)

/* leaves says whether a packet may leave by its output. */
static __always_inline bool leaves(struct xdp_md *ctx, struct seen *s)
{
	struct port *out = find_port(s->output);
	if (!out || !(READ_ONCE(out->flags) & PORT_JUDGES_OUT) || !s->lists)
		return true;
	judge_out(s, s->output | KEY_EGRESS);
	if (unlikely(is_told(s)))
		emit_xdp(ctx, s, s->output | KEY_EGRESS, length(ctx));
	return !is_stopped(s->word);
}

/* pass sends a packet that is metered, and that no list stops as it comes in, to its
 * next hop, or lets the kernel have it. */
static __always_inline int pass(struct xdp_md *ctx, struct seen *s, const struct port *port)
{
	if (s->why == WHY_OFF)
		return XDP_PASS;
	if (s->why == FORWARDED) {
		if (!s->route) /* it is in no flow */
			ask_route(ctx, s);
		s->why = ROUTE_WAY(s->route);
		struct hop *h = s->why < WHYS ? NULL : hop_at(s->why);
		if (h) {
			s->output = READ_ONCE(h->device);
			__u32 wire = s->p.frame;
			s->why = fits(h, s, wire, wire > ctx->data_end - ctx->data);
			if (s->why == FORWARDED) {
				if (use_lists && !leaves(ctx, s))
					return XDP_DROP;
				s->why = send(ctx, s, h);
			}
		}
	}
	where(port, s->why);
	return s->why == FORWARDED ? XDP_REDIRECT : s->why == WHY_URPF ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int xdp_meter(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 wire = length(ctx);
	struct seen s;
	__u32 reason = parse_ethernet(ctx, wire, 0, &s.p);
	begin(&s, ctx->ingress_ifindex, 0);
	if (unlikely(reason != DECODED)) {
		leave(ctx, &s, data, end, reason, wire);
		return use_lists && is_stopped(s.word) ? XDP_DROP : XDP_PASS;
	}
	one(&s);
	s.p.frame = clamp(wire);
	struct port *port = use_forward ? find_port(s.port) : NULL;
	if (use_forward)
		s.why = plain(&s, port, data, end);
	meter(ctx, &s, data, end, true);
	if (use_lists) {
		if (unlikely(is_told(&s)))
			emit_xdp(ctx, &s, s.port, length(ctx));
		if (is_stopped(s.word))
			return XDP_DROP;
	}
	return use_forward ? pass(ctx, &s, port) : XDP_PASS;
}

/* The outermost VLAN tag, if it is no longer in the frame. */
static __always_inline __u16 accelerated(struct __sk_buff *skb)
{
	return skb->vlan_present ? (skb->vlan_tci & VLAN_ID) | KEY_TAGGED : 0;
}

/* passing says what a buffer is that is counted elsewhere, if a list wants to know. */
static __always_inline void passing(struct seen *s, struct __sk_buff *skb)
{
	if (!use_lists)
		return;
	segments(s, skb, (void *)(long)skb->data, (void *)(long)skb->data_end, true);
	s->lists = lists_in_force(s->now);
}

/* verdict is what becomes of a buffer. */
static __always_inline int verdict(const struct seen *s, struct __sk_buff *skb, __u32 at)
{
	if (!use_lists)
		return TC_ACT_UNSPEC;
	if (unlikely(is_told(s)))
		emit_tc(skb, s, at, skb->len);
	return is_stopped(s->word) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

#define TC_MAX_PULL 512 /* octets of headers that are made readable */

static __always_inline int tc(struct __sk_buff *skb, bool egress, bool ip)
{
	struct seen s;
	__u32 reason = UNKNOWN_LINK, ifindex = skb->ifindex;
	void *data, *end;
	if (egress && !use_lists && skb->ingress_ifindex && likely(!corrects(now_ns()))) {
		struct port *p = find_port(skb->ingress_ifindex);
		if (p && READ_ONCE(p->flags) & PORT_INGRESS)
			return TC_ACT_UNSPEC;
	}
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
	begin(&s, egress ? ifindex | KEY_EGRESS : ifindex, egress ? ifindex : 0);
	if (egress && skb->ingress_ifindex) {
		struct port *p = find_port(skb->ingress_ifindex);
		if (p && READ_ONCE(p->flags) & PORT_INGRESS) {
			if (reason != DECODED) {
				if (!unjudged(ifindex | KEY_EGRESS, reason))
					return TC_ACT_UNSPEC;
				note(ifindex | KEY_EGRESS, DROPPED, 1, skb->len);
				return TC_ACT_SHOT;
			}
			passing(&s, skb);
			correct(&s, p, ifindex);
			return verdict(&s, skb, s.output | KEY_EGRESS);
		}
	}
	data = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
	if (unlikely(reason != DECODED)) {
		leave(skb, &s, data, end, reason, skb->len);
		return use_lists && is_stopped(s.word) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
	}
	segments(&s, skb, data, end, egress);
	meter(skb, &s, data, end, false);
	return verdict(&s, skb, s.port);
}

SEC("tc") int tc_ingress(struct __sk_buff *skb)    { return tc(skb, false, false); }
SEC("tc") int tc_egress(struct __sk_buff *skb)     { return tc(skb, true, false); }
SEC("tc") int tc_ingress_ip(struct __sk_buff *skb) { return tc(skb, false, true); }
SEC("tc") int tc_egress_ip(struct __sk_buff *skb)  { return tc(skb, true, true); }

/* Redirected frames are handed to their device some at a time, when no program sees
 * them any more. */
SEC("tp_btf/xdp_devmap_xmit")
int count_lost(__u64 *ctx)
{
	struct net_device *to = (void *)ctx[1];
	int lost = ctx[3];
	if (lost <= 0 || to->nd_net.net->net_cookie != netns)
		return 0;
	struct port *p = find_port(to->ifindex);
	__u32 number = p ? READ_ONCE(p->number) % MAX_PORTS : 0;
	struct why_counts *w = bpf_map_lookup_elem(&whys, &number);
	if (w)
		__sync_fetch_and_add(&w->packets[WHY_LOST], lost);
	return 0;
}

SEC("syscall")
int tell_time(void *none)
{
	(void)none;
	control.jiffies_ns = now_ns();
	control.mono_ns = bpf_ktime_get_ns();
	return 0;
}
