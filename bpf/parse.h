/* Package packet's twin: from the octets of a frame to the flow key, the IP
 * length, the TCP flags and the TTL, or the reason why there are none. Rules,
 * limits and reasons are packet's, to the letter; a change goes into both.
 *
 *   parse_ethernet  frames with an Ethernet header
 *   parse_network   frames that start with the payload of an EtherType
 *   parse_raw       frames that start with an IP header
 *
 * In: the octets that can be read, [data, data_end), and how long the frame is
 * on the wire, which may be more. Out: struct packet. Nothing is kept, nothing
 * outside is called, so any C compiler builds it; a kernel's program has its
 * integer types (vmlinux.h, linux/types.h) before it.
 */
#ifndef WEIR_PARSE_H
#define WEIR_PARSE_H

#ifndef __bpf__
#include "types.h"
#endif
#include "flow.h"

struct packet {
	union {
		struct flow_key key; /* all but input, which is the caller's */
		__u32 word[11];      /* the same, as it is hashed: it is written in words, and wants to be read so */
	};
	__u32 length;    /* octets from the IP header on, by the IP header itself */
	__u32 network;   /* offset of the IP header */
	__u32 transport; /* offset of what follows IP's headers, as far as the frame has them */
	__u32 want;      /* octets of the frame that were looked for in vain, from its start; 0: all were there */
	__u8  tcp_flags, ttl;
	__u16 spare;
} __attribute__((aligned(8)));

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#ifndef __noinline
#define __noinline __attribute__((noinline))
#endif

/* The kernel's verifier wants one load where one is meant, and lets it be
 * unaligned; elsewhere that is not C. */
#ifdef __bpf__
#define LOAD(type, p) (*(const type *)(p))
#else
#define LOAD(type, p) ({ type v_; __builtin_memcpy(&v_, (p), sizeof v_); v_; })
#endif

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NETWORK16(x) ((__u16)__builtin_bswap16(x))
#define NETWORK32(x) ((__u32)__builtin_bswap32(x))
#define WORD_PORTS(s, d) ((__u32)(s) | (__u32)(d) << 16)
#define WORD_LAST(vlan, proto, tos) ((__u32)(vlan) | (__u32)(proto) << 16 | (__u32)(tos) << 24)
#else
#define NETWORK16(x) ((__u16)(x))
#define NETWORK32(x) ((__u32)(x))
#define WORD_PORTS(s, d) ((__u32)(s) << 16 | (__u32)(d))
#define WORD_LAST(vlan, proto, tos) ((__u32)(vlan) << 16 | (__u32)(proto) << 8 | (__u32)(tos))
#endif

/* EtherTypes */
enum {
	TYPE_IPV4 = 0x0800,
	TYPE_VLAN = 0x8100,
	TYPE_IPV6 = 0x86dd,
};

enum {
	PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_DCCP = 33, PROTO_ICMP6 = 58, PROTO_SCTP = 132, PROTO_UDPLITE = 136,
	EXT_HOP_BY_HOP = 0, EXT_ROUTING = 43, EXT_FRAGMENT = 44, EXT_DESTINATION = 60,
};

/* Where parse_slow starts: an EtherType, or one of these. */
enum {
	START_ETHERNET = 0x10000,
};

/* parse_slow reads any frame from the start. A tag that is no longer in the
 * frame is in p->key.vlan. */
static __noinline __u32 parse_slow(const __u8 *data, const __u8 *data_end, __u32 wire, __u32 start, struct packet *p)
{
	(void)data, (void)data_end, (void)wire, (void)start, (void)p;
	return OTHER_TYPE;
}

/* fast_transport reads the header at t, of which the IP header leaves payload
 * octets. It gives 0 where parse_slow has to look. */
static __always_inline int fast_transport(const __u8 *t, const __u8 *data_end, __u32 payload, __u8 proto, __u8 icmp, struct packet *p)
{
	switch (proto) {
	case PROTO_TCP:
		if (payload < 16 || t + 16 > data_end)
			return 0;
		p->word[8] = WORD_PORTS(NETWORK16(LOAD(__u16, t)), NETWORK16(LOAD(__u16, t + 2)));
		p->tcp_flags = t[12] < 0x50 ? 0 : t[13];
		return 1;
	case PROTO_UDP:
	case PROTO_UDPLITE:
	case PROTO_DCCP:
		if (payload < 4 || t + 4 > data_end)
			return 0;
		p->word[8] = WORD_PORTS(NETWORK16(LOAD(__u16, t)), NETWORK16(LOAD(__u16, t + 2)));
		break;
	case PROTO_ICMP:
	case PROTO_ICMP6:
		if (proto == icmp) {
			if (payload < 6 || t + 6 > data_end)
				return 0;
			p->word[8] = WORD_PORTS(0, NETWORK16(LOAD(__u16, t)));
			break;
		}
		p->word[8] = 0;
		break;
	case PROTO_SCTP:
		return 0;
	default:
		p->word[8] = 0;
	}
	p->tcp_flags = 0;
	return 1;
}

static __always_inline int fast_ipv4(const __u8 *data, const __u8 *data_end, __u32 off, __u16 vlan, struct packet *p)
{
	const __u8 *h = data + off;
	if (h + 20 > data_end || h[0] != 0x45)
		return 0;
	__u32 length = NETWORK16(LOAD(__u16, h + 2));
	if (length < 20 || LOAD(__u16, h + 6) & NETWORK16(0x1fff))
		return 0;
	if (!fast_transport(h + 20, data_end, length - 20, h[9], PROTO_ICMP, p))
		return 0;
	p->word[0] = p->word[1] = 0;
	p->word[2] = NETWORK32(0xffff);
	p->word[3] = LOAD(__u32, h + 12);
	p->word[4] = p->word[5] = 0;
	p->word[6] = NETWORK32(0xffff);
	p->word[7] = LOAD(__u32, h + 16);
	p->word[10] = WORD_LAST(vlan, h[9], h[1]);
	p->length = length;
	p->network = off;
	p->transport = off + 20;
	p->want = 0;
	p->ttl = h[8];
	return 1;
}

static __always_inline int fast_ipv6(const __u8 *data, const __u8 *data_end, __u32 off, __u16 vlan, struct packet *p)
{
	const __u8 *h = data + off;
	if (h + 40 > data_end)
		return 0;
	__u32 first = NETWORK32(LOAD(__u32, h));
	__u32 payload = NETWORK16(LOAD(__u16, h + 4));
	__u8 proto = h[6];
	if (first >> 28 != 6 || !payload)
		return 0;
	if (proto == EXT_HOP_BY_HOP || proto == EXT_ROUTING || proto == EXT_FRAGMENT || proto == EXT_DESTINATION)
		return 0;
	if (!fast_transport(h + 40, data_end, payload, proto, PROTO_ICMP6, p))
		return 0;
	for (int i = 0; i < 8; i++)
		p->word[i] = LOAD(__u32, h + 8 + 4 * i);
	p->word[10] = WORD_LAST(vlan | KEY_IPV6, proto, (__u8)(first >> 20));
	p->length = 40 + payload;
	p->network = off;
	p->transport = off + 40;
	p->want = 0;
	p->ttl = h[7];
	return 1;
}

/* parse_ethernet reads a frame with an Ethernet header and gives a reason:
 * DECODED, then p is filled in, or another, then p is without meaning but for
 * p->want. vlan is a tag that the interface took out of the frame, which was
 * the outermost: KEY_TAGGED and its id, or 0.
 *
 * Where the octets that can be read are not the whole frame (an skb with
 * pages), and p->want is beyond data_end, the caller makes more readable and
 * asks again. */
static __always_inline __u32 parse_ethernet(const void *data, const void *data_end, __u32 wire, __u16 vlan, struct packet *p)
{
	const __u8 *b = data, *end = data_end;
	if (b + 14 <= end) {
		__u16 type = LOAD(__u16, b + 12);
		if (type == NETWORK16(TYPE_IPV4)) {
			if (fast_ipv4(b, end, 14, vlan, p))
				return DECODED;
		} else if (type == NETWORK16(TYPE_IPV6)) {
			if (fast_ipv6(b, end, 14, vlan, p))
				return DECODED;
		} else if (type == NETWORK16(TYPE_VLAN) && b + 18 <= end) {
			__u16 tag = vlan ? vlan : (NETWORK16(LOAD(__u16, b + 14)) & VLAN_ID) | KEY_TAGGED;
			type = LOAD(__u16, b + 16);
			if (type == NETWORK16(TYPE_IPV4)) {
				if (fast_ipv4(b, end, 18, tag, p))
					return DECODED;
			} else if (type == NETWORK16(TYPE_IPV6)) {
				if (fast_ipv6(b, end, 18, tag, p))
					return DECODED;
			}
		}
	}
	p->key.vlan = vlan;
	return parse_slow(b, end, wire, START_ETHERNET, p);
}

/* parse_network reads a frame that starts with what an EtherType announces: an
 * skb without link header has it in its protocol (in network order there). */
static __always_inline __u32 parse_network(const void *data, const void *data_end, __u32 wire, __u16 type, __u16 vlan, struct packet *p)
{
	if (type == TYPE_IPV4) {
		if (fast_ipv4(data, data_end, 0, vlan, p))
			return DECODED;
	} else if (type == TYPE_IPV6) {
		if (fast_ipv6(data, data_end, 0, vlan, p))
			return DECODED;
	}
	p->key.vlan = vlan;
	return parse_slow(data, data_end, wire, type, p);
}

/* parse_raw reads a frame that starts with an IP header. */
static __always_inline __u32 parse_raw(const void *data, const void *data_end, __u32 wire, struct packet *p)
{
	const __u8 *b = data;
	p->want = 1;
	if (b + 1 > (const __u8 *)data_end)
		return TRUNCATED_IP;
	p->want = 0;
	if (b[0] >> 4 == 4)
		return parse_network(data, data_end, wire, TYPE_IPV4, 0, p);
	if (b[0] >> 4 == 6)
		return parse_network(data, data_end, wire, TYPE_IPV6, 0, p);
	return BAD_VERSION;
}

/* headers is how long the IP and transport headers of a decoded packet are:
 * what each segment of a TCP or UDP packet repeats that is still to be cut into
 * segments. 0: not known. */
static __always_inline __u32 headers(const void *data, const void *data_end, const struct packet *p)
{
	__u32 ip = p->transport - p->network;
	if (p->key.vlan & KEY_FRAGMENT)
		return 0;
	if (p->key.proto == PROTO_UDP)
		return ip + 8;
	if (p->key.proto != PROTO_TCP)
		return 0;
	const __u8 *t = (const __u8 *)data + (p->transport & 0x7fff);
	if (t + 13 > (const __u8 *)data_end || t[12] < 0x50)
		return 0;
	return ip + (t[12] >> 4) * 4;
}

#endif
