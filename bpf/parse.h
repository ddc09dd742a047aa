/* Package packet's twin: from the octets of a frame to the flow key, the IP
 * length, the TCP flags and the TTL, or the reason why there are none. Rules,
 * limits and reasons are packet's, to the letter; a change goes into both.
 *
 *   parse_ethernet  frames with an Ethernet header
 *   parse_network   frames that start with the payload of an EtherType
 *   parse_raw       frames that start with an IP header
 *
 * In: the octets that can be read, and how long the frame is on the wire, which
 * may be more. Out: struct packet. Nothing is kept, no map and no helper is
 * used, so any C compiler builds it: there the context is struct frame, and in
 * the kernel's programs, which have declared it before this, struct xdp_md or
 * struct __sk_buff.
 *
 * What most frames are, Ethernet with at most one tag, IPv4 without options or
 * IPv6 without extension headers, is read in line. All else is parse_slow's.
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
		__u32 word[11];      /* the same, as it is written, and best read: a load that spans two stores waits for both */
	};
	__u32 length;    /* octets from the IP header on, by the IP header itself */
	__u32 network;   /* offset of the IP header */
	__u32 transport; /* offset of what follows IP's headers, as far as the frame has them */
	__u32 want;      /* octets of the frame that were looked for in vain, from its start; 0: all were there */
	__u8  tcp_flags, ttl;
	__u16 frame;     /* the caller's: octets of the frame, at most 65535 */
} __attribute__((aligned(8)));

_Static_assert(sizeof(struct packet) == 64, "a cache line, without holes");

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

/* blank gives p with nothing in it but a tag, as parse_slow takes it. */
static __always_inline struct packet *blank(struct packet *p, __u16 vlan)
{
	*p = (struct packet){ .key.vlan = vlan };
	return p;
}

/* store_ipv4 maps the addresses of an IPv4 header. */
static __always_inline void store_ipv4(struct packet *p, const __u8 *h)
{
	p->word[0] = p->word[1] = 0;
	p->word[2] = NETWORK32(0xffff);
	p->word[3] = LOAD(__u32, h + 12);
	p->word[4] = p->word[5] = 0;
	p->word[6] = NETWORK32(0xffff);
	p->word[7] = LOAD(__u32, h + 16);
}

static __always_inline void store_ipv6(struct packet *p, const __u8 *h)
{
	typedef __u64 __attribute__((may_alias)) pair; /* of words */
	for (int i = 0; i < 4; i++)
		((pair *)p->word)[i] = LOAD(__u64, h + 8 + 8 * i);
}

/* EtherTypes (IEEE 802 numbers) that are followed or told apart. */
enum {
	MAX_LLC_LENGTH  = 1500, /* at most: a length, an 802.2 header follows */
	TYPE_IPV4       = 0x0800,
	TYPE_ARP        = 0x0806,
	TYPE_TRILL      = 0x22f3,
	TYPE_BRIDGED    = 0x6558,
	TYPE_RARP       = 0x8035,
	TYPE_VLAN       = 0x8100,
	TYPE_IPV6       = 0x86dd,
	TYPE_MPLS       = 0x8847,
	TYPE_MPLS_MULTI = 0x8848,
	TYPE_PPPOE      = 0x8864,
	TYPE_JUMBO_LLC  = 0x8870,
	TYPE_PROVIDER   = 0x88a8,
	TYPE_MACSEC     = 0x88e5,
	TYPE_BACKBONE   = 0x88e7,
	TYPE_FABRIC     = 0x8903,
	TYPE_METADATA   = 0x8909,
	TYPE_VN_TAG     = 0x8926,
	TYPE_E_TAG      = 0x893f,
	TYPE_NSH        = 0x894f,
	TYPE_QINQ       = 0x9100,

	/* headers that no EtherType announces */
	NEXT_ETHERNET = 0x10000,
	NEXT_LLC,
	NEXT_PPP, /* the protocol field */
	NEXT_RAW, /* IP of either version */
};

enum {
	PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_DCCP = 33, PROTO_ESP = 50, PROTO_AH = 51, PROTO_ICMP6 = 58, PROTO_SCTP = 132, PROTO_UDPLITE = 136,
	EXT_HOP_BY_HOP = 0, EXT_ROUTING = 43, EXT_FRAGMENT = 44, EXT_DESTINATION = 60,
};

/* Limits, as in packet. Together they keep all that is read within the first
 * READABLE octets of a frame. */
enum {
	ETHER_LENGTH   = 14,
	MAX_HEADERS    = 32,
	MAX_OCTETS     = 4096,
	MAX_TRIES      = 4,
	MAX_EXTENSIONS = 8,
	MAX_OPTIONS    = 8,
	READABLE       = 0x7fff,
};

#define UNTOLD 0xffffffffu

/* Where the walk over headers is. */
struct walk {
	__u64 length;           /* octets that can be read */
	__u64 off;              /* octets from the start of the frame */
	__u64 next;             /* what is here: an EtherType or NEXT_…; behind an IP header a protocol */
	__u64 end;              /* offset at which a header's length ends the packet, maybe beyond the frame, or UNTOLD */
	__u64 vlan;             /* the key's */
	__u64 want;             /* packet's */
	__u64 retry[MAX_TRIES]; /* the pseudowires that are being tried, innermost first; see try */
};

/* place is data + off, in a form that no compiler takes apart again: the
 * verifier finds a bounded number that is added to a packet, and goes by the
 * very pointer that is compared with data_end. Callers have made sure of the
 * bound. */
static __always_inline const __u8 *place(const __u8 *data, __u32 off)
{
#ifdef __bpf__
	__u64 n = off;
	asm volatile("%[n] &= %[bound]\n%[p] += %[n]" : [p] "+r"(data), [n] "+r"(n) : [bound] "i"(READABLE));
	return data;
#else
	return data + off;
#endif
}

/* have says whether n octets at b, which is at w->off, belong to the packet and
 * can be read. */
static __always_inline int have(struct walk *w, const __u8 *b, __u32 n, const __u8 *data_end)
{
	if (w->off + n > w->end)
		return 0;
	if (b + n > data_end) {
		w->want = w->off + n;
		return 0;
	}
	return 1;
}

/* have_told is have for an n that the frame tells. Nothing is read by it. */
static __always_inline int have_told(struct walk *w, __u32 n)
{
	if (w->off + n > w->end)
		return 0;
	if (w->off + n > w->length) {
		w->want = w->off + n;
		return 0;
	}
	return 1;
}

/* limit says that a header's length ends the packet n octets behind off. */
static __always_inline void limit(struct walk *w, __u64 off, __u64 n)
{
	if (off + n < w->end)
		w->end = off + n;
}

/* What reading a header comes to: a reason, or GO_ON, by so many octets, to
 * what follows. */
#define GO_ON(skip, next) ((__u64)(next) << 32 | (skip) << 8 | DECODED)

static __always_inline void go_on(struct walk *w, __u64 step)
{
	w->off += step >> 8 & 0xffff;
	w->next = step >> 32;
}

/* What else there may be in the place of a pseudowire that is none. */
enum { ELSE_NOTHING = 1, ELSE_ETHERNET, ELSE_IPV4 };

/* try goes on with an Ethernet frame, skip octets from the end of the label,
 * which is here and has four, and remembers what else there may be behind the
 * label. Where that is one try within the other too many, it is that at once. */
static __always_inline __u64 try(struct walk *w, __u32 skip, __u64 otherwise)
{
	if (w->retry[MAX_TRIES - 1])
		return otherwise == ELSE_IPV4 ? GO_ON(4, TYPE_IPV4) : MPLS_PAYLOAD;
	for (int i = MAX_TRIES - 1; i > 0; i--)
		w->retry[i] = w->retry[i - 1];
	w->retry[0] = otherwise | ((w->off + 4) & 0x3fff) << 2 | (w->vlan & 0xffff) << 16 | (__u64)w->end << 32;
	return GO_ON(4 + skip, NEXT_ETHERNET);
}

/* retry goes back to the innermost pseudowire that may be something else, which
 * is an Ethernet frame only if one more header may be read. It gives 0 where
 * there is none. */
static __always_inline int retry(struct walk *w, int headers_left)
{
	for (int i = 0; i < MAX_TRIES; i++) {
		__u64 r = w->retry[0];
		__u32 otherwise = r & 3;
		if (otherwise == ELSE_IPV4 || (otherwise == ELSE_ETHERNET && headers_left)) {
			w->off = r >> 2 & 0x3fff;
			w->vlan = r >> 16 & 0xffff;
			w->end = r >> 32;
			w->next = otherwise == ELSE_IPV4 ? TYPE_IPV4 : NEXT_ETHERNET;
			w->retry[0] = r - otherwise + ELSE_NOTHING;
			return 1;
		}
		for (int j = 1; j < MAX_TRIES; j++)
			w->retry[j - 1] = w->retry[j];
		w->retry[MAX_TRIES - 1] = 0;
	}
	return 0;
}

/* read_ethernet reads an Ethernet header, or a Cisco ISL header in front of
 * one. */
static __always_inline __u64 read_ethernet(struct walk *w, const __u8 *b, const __u8 *data_end)
{
	if (!have(w, b, ETHER_LENGTH, data_end))
		return TRUNCATED_LINK;
	if ((b[0] == 1 || b[0] == 3) && b[1] == 0 && b[2] == 0x0c && b[3] == 0 && b[4] == 0)
		if (have(w, b, 26, data_end) && b[14] == 0xaa && b[15] == 0xaa && b[16] == 3)
			return GO_ON(26, NEXT_ETHERNET);
	return GO_ON(ETHER_LENGTH, NETWORK16(LOAD(__u16, b + 12)));
}

/* read_llc reads an 802.2 header, with SNAP where it says so. */
static __always_inline __u64 read_llc(struct walk *w, const __u8 *b, const __u8 *data_end)
{
	if (!have(w, b, 3, data_end))
		return TRUNCATED_LINK;
	__u32 sap = b[0] << 16 | b[1] << 8 | b[2];
	if (sap == 0x060603)
		return GO_ON(3, TYPE_IPV4);
	if (sap != 0xaaaa03)
		return LLC;
	if (!have(w, b, 8, data_end))
		return TRUNCATED_LINK;
	__u32 oui = b[3] << 16 | b[4] << 8 | b[5], pid = NETWORK16(LOAD(__u16, b + 6));
	if (oui == 0 || oui == 0x0000f8) /* RFC 1042, 802.1H */
		return pid <= MAX_LLC_LENGTH ? LLC : GO_ON(8, pid);
	if (oui == 0x0080c2 && (pid == 1 || pid == 7)) /* bridged: 802.3 with or without FCS */
		return have(w, b, 10, data_end) ? GO_ON(10, NEXT_ETHERNET) : TRUNCATED_LINK;
	return LLC;
}

/* read_mpls reads a label. Below the last one the first four bits tell what
 * follows. */
static __always_inline __u64 read_mpls(struct walk *w, const __u8 *b, const __u8 *data_end)
{
	if (!have(w, b, 4, data_end))
		return TRUNCATED_LINK;
	if (!(b[2] & 1))
		return GO_ON(4, TYPE_MPLS);
	if (!have(w, b, 5, data_end))
		return TRUNCATED_LINK;
	__u32 skip = 0, otherwise = ELSE_NOTHING;
	switch (b[4] >> 4) {
	case 4:
		/* unless that were a lie about a length */
		if ((b[4] & 15) >= 5 && (!have(w, b, 8, data_end) || (__u16)(NETWORK16(LOAD(__u16, b + 6)) - 1) >= 19))
			return GO_ON(4, TYPE_IPV4);
		otherwise = ELSE_IPV4;
		break;
	case 6:
		return GO_ON(4, TYPE_IPV6);
	case 0:
		if (have(w, b, 8, data_end)) {
			skip = 4;
			otherwise = ELSE_ETHERNET;
		}
		break;
	case 1:
		return MPLS_PAYLOAD;
	}
	return try(w, skip, otherwise);
}

/* read_ppp reads a PPP protocol field: one octet if that is odd. */
static __always_inline __u64 read_ppp(struct walk *w, const __u8 *b, const __u8 *data_end)
{
	if (!have(w, b, 1, data_end))
		return TRUNCATED_LINK;
	__u32 protocol = b[0];
	if (!(protocol & 1)) {
		if (!have(w, b, 2, data_end))
			return TRUNCATED_LINK;
		protocol = protocol << 8 | b[1];
		w->off++;
		b++;
	}
	w->off++;
	b++;
	switch (protocol) {
	case 0x0021:
		return GO_ON(0, TYPE_IPV4);
	case 0x0057:
		return GO_ON(0, TYPE_IPV6);
	case 0x0031: /* bridged: flags, MAC type, frame */
		if (have(w, b, 2, data_end) && b[1] == 1)
			return GO_ON(2, NEXT_ETHERNET);
		break;
	case 0x003d: /* multilink: a whole packet has both end bits set */
		if (have(w, b, 1, data_end) && b[0] >> 6 == 3)
			return have(w, b, 4, data_end) ? GO_ON(4, NEXT_PPP) : TRUNCATED_LINK;
		break;
	case 0x0281:
	case 0x0283:
		return GO_ON(0, TYPE_MPLS);
	}
	return OTHER_TYPE;
}

/* read_type reads what an EtherType announces. */
static __always_inline __u64 read_type(struct walk *w, const __u8 *b, const __u8 *data, const __u8 *data_end)
{
	__u32 size; /* of a header that ends in the next EtherType */
	switch (w->next) {
	case TYPE_VLAN:
	case TYPE_PROVIDER:
	case TYPE_QINQ:
		size = 4;
		if (w->vlan == 0 && have(w, b, 4, data_end))
			w->vlan = (NETWORK16(LOAD(__u16, b)) & VLAN_ID) | KEY_TAGGED;
		break;
	case TYPE_PPPOE: /* version, type, code, session, length */
		if (!have(w, b, 6, data_end))
			return TRUNCATED_LINK;
		w->off += 6;
		limit(w, w->off, NETWORK16(LOAD(__u16, b + 4)));
		return read_ppp(w, b + 6, data_end);
	case TYPE_VN_TAG:
		size = 6;
		break;
	case TYPE_E_TAG:
		size = 8;
		break;
	case TYPE_BACKBONE: /* I-tag, then the customer's addresses */
		size = 4 + ETHER_LENGTH;
		break;
	case TYPE_METADATA: /* version, length of the options in fours, options */
		if (!have(w, b, 2, data_end))
			return TRUNCATED_LINK;
		size = 2 + b[1] * 4 + 2;
		break;
	case TYPE_MACSEC: /* TCI, AN, SL, packet number [, SCI] */
		if (!have(w, b, 1, data_end))
			return TRUNCATED_LINK;
		if (b[0] & 0x0c) /* encrypted or changed */
			return OTHER_TYPE;
		size = 6 + ((b[0] & 0x20) >> 2) + 2;
		break;
	case TYPE_NSH: { /* length in fours in the second octet, what follows in the fourth */
		if (!have(w, b, 4, data_end))
			return TRUNCATED_LINK;
		size = (b[1] & 0x3f) * 4;
		if (size < 8 || !have_told(w, size))
			return TRUNCATED_LINK;
		switch (b[3]) {
		case 1:
			return GO_ON(size, TYPE_IPV4);
		case 2:
			return GO_ON(size, TYPE_IPV6);
		case 3:
			return GO_ON(size, NEXT_ETHERNET);
		case 5:
			return GO_ON(size, TYPE_MPLS);
		}
		return OTHER_TYPE;
	}
	case TYPE_TRILL:
		if (!have(w, b, 6, data_end))
			return TRUNCATED_LINK;
		/* The option length in fours has five bits, across two octets. */
		size = 6 + (NETWORK16(LOAD(__u16, b)) >> 6 & 0x1f) * 4;
		return have_told(w, size) ? GO_ON(size, NEXT_ETHERNET) : TRUNCATED_LINK;
	case TYPE_FABRIC:
		return have(w, b, 2, data_end) ? GO_ON(2, NEXT_ETHERNET) : TRUNCATED_LINK;
	case TYPE_BRIDGED:
		return GO_ON(0, NEXT_ETHERNET);
	case TYPE_JUMBO_LLC:
		return GO_ON(0, NEXT_LLC);
	case TYPE_ARP:
	case TYPE_RARP:
		return ARP;
	default:
		if (w->next > MAX_LLC_LENGTH)
			return OTHER_TYPE;
		limit(w, w->off, w->next);
		return GO_ON(0, NEXT_LLC);
	}
	w->off += size - 2;
	b = place(data, w->off);
	if (!have(w, b, 2, data_end))
		return TRUNCATED_LINK;
	return GO_ON(2, NETWORK16(LOAD(__u16, b)));
}

/* read_header reads the header that is next. */
static __always_inline __u64 read_header(struct walk *w, const __u8 *data, const __u8 *data_end)
{
	if (w->off > MAX_OCTETS)
		return TOO_DEEP;
	const __u8 *b = place(data, w->off);
	switch (w->next) {
	case NEXT_ETHERNET:
		return read_ethernet(w, b, data_end);
	case NEXT_LLC:
		return read_llc(w, b, data_end);
	case NEXT_PPP:
		return read_ppp(w, b, data_end);
	case NEXT_RAW:
		if (!have(w, b, 1, data_end))
			return TRUNCATED_IP;
		return b[0] >> 4 == 4 ? GO_ON(0, TYPE_IPV4) : b[0] >> 4 == 6 ? GO_ON(0, TYPE_IPV6) : BAD_VERSION;
	case TYPE_MPLS:
	case TYPE_MPLS_MULTI:
		return read_mpls(w, b, data_end);
	}
	return read_type(w, b, data, data_end);
}

static __always_inline int is_ip(const struct walk *w)
{
	return w->next == TYPE_IPV4 || w->next == TYPE_IPV6;
}

/* hide gives x, and what it is no verifier can tell: it follows one number, not
 * how two of them belong together. any is a number that it does not know. With
 * that, all the ways to the n-th header are one to it; else it would follow each
 * order of headers by itself, and give up. */
static __always_inline __u64 hide(__u64 x, __u64 any)
{
#ifdef __bpf__
	asm volatile("%[x] ^= %[any]\n%[x] ^= %[any]" : [x] "+r"(x) : [any] "r"(any));
#else
	(void)any;
#endif
	return x;
}

/* read_plain is read_header for an Ethernet header, a tag, a label or PPPoE, if
 * nothing about it is out of the way. It gives 0 where read_header has to look. */
static __always_inline __u64 read_plain(struct walk *w, const __u8 *data, const __u8 *data_end)
{
	const __u8 *b = place(data, w->off);
	__u64 any = w->length;
	__u32 length;
	if (w->off > MAX_OCTETS || w->off + 14 > hide(w->end, any) || b + 14 > data_end)
		return 0;
	switch (w->next) {
	case NEXT_ETHERNET:
		if (b[0] == 1 || b[0] == 3)
			return 0;
		return GO_ON(ETHER_LENGTH, NETWORK16(LOAD(__u16, b + 12)));
	case TYPE_VLAN:
	case TYPE_PROVIDER:
	case TYPE_QINQ:
		if (!hide(w->vlan, any))
			w->vlan = hide((NETWORK16(LOAD(__u16, b)) & VLAN_ID) | KEY_TAGGED, any);
		return GO_ON(4, NETWORK16(LOAD(__u16, b + 2)));
	case TYPE_MPLS:
	case TYPE_MPLS_MULTI:
		if (!(b[2] & 1))
			return GO_ON(4, TYPE_MPLS);
		if (b[4] == 0x45 && NETWORK16(LOAD(__u16, b + 6)) >= 20)
			return GO_ON(4, TYPE_IPV4);
		if (b[4] >> 4 == 6)
			return GO_ON(4, TYPE_IPV6);
		return 0;
	case TYPE_PPPOE:
		length = NETWORK16(LOAD(__u16, b + 4));
		if (length < 2 || (LOAD(__u16, b + 6) != NETWORK16(0x0021) && LOAD(__u16, b + 6) != NETWORK16(0x0057)))
			return 0;
		if (w->off + 6 + length < hide(w->end, any))
			w->end = hide(w->off + 6 + length, any);
		return GO_ON(8, b[7] == 0x21 ? TYPE_IPV4 : TYPE_IPV6);
	}
	return 0;
}

/* beyond is the length of a packet that does not say how long it is: what the
 * frame had beyond its link headers. On a wire that is said to be shorter than
 * those it wraps. */
static __always_inline __u32 beyond(const struct walk *w, __u32 wire)
{
	__u32 rest = wire - w->off, readable = w->length;
	if (w->end != UNTOLD && rest > w->end - w->off)
		rest = w->end - w->off;
	if (readable > w->end)
		readable = w->end;
	readable -= w->off;
	return rest > 0x7fffffff || rest < readable ? readable : rest;
}

/* read_ipv4 reads an IPv4 header with its options. */
static __always_inline __u32 read_ipv4(struct walk *w, const __u8 *data, const __u8 *data_end, __u32 wire, struct packet *p)
{
	const __u8 *h = place(data, w->off);
	if (!have(w, h, 20, data_end))
		return TRUNCATED_IP;
	__u32 first = NETWORK32(LOAD(__u32, h)), length = first & 0xffff, header = (first >> 24 & 15) * 4;
	if (first >> 28 != 4)
		return BAD_VERSION;
	if (header < 20)
		return BAD_HEADER_LENGTH;
	if (length < header) {
		if (length)
			return BAD_TOTAL_LENGTH;
		length = beyond(w, wire); /* segmentation offload: it was still to be written */
	}
	store_ipv4(p, h);
	p->length = length;
	p->ttl = h[8];
	limit(w, w->off, length);
	if (LOAD(__u16, h + 6) & NETWORK16(0x1fff))
		w->vlan |= KEY_FRAGMENT;
	p->word[10] = WORD_LAST(w->vlan, h[9], first >> 16 & 0xff);
	go_on(w, GO_ON(header, h[9]));
	return DECODED;
}

/* jumbo_length is the length of a packet whose payload length is 0 and whose
 * first extension header is hop-by-hop: the jumbo payload option's (RFC 2675)
 * and the header, or 40 where the option is missing. */
static __always_inline __u32 jumbo_length(struct walk *w, const __u8 *data, const __u8 *data_end)
{
	__u32 off = w->off;
	const __u8 *b = place(data, off);
	if (!have(w, b, 48, data_end))
		return 40;
	__u32 at = off + 42, stop = off + 40 + (b[41] + 1) * 8;
	if (stop > w->end)
		stop = w->end;
	if (stop > w->length) {
		w->want = stop;
		stop = w->length;
	}
	for (__u64 i = 0; i < MAX_OPTIONS; i++) {
		at = hide(at, w->length);
		b = place(data, at);
		if (at + 2 > stop || b + 2 > data_end)
			break;
		if (b[0] == 0) { /* Pad1 */
			at++;
			continue;
		}
		if (b[0] == 0xc2 && b[1] == 4 && at + 6 <= stop && b + 6 <= data_end) {
			__u32 length = (__u32)NETWORK16(LOAD(__u16, b + 2)) << 16 | NETWORK16(LOAD(__u16, b + 4));
			return length > UNTOLD - 40 ? UNTOLD : 40 + length;
		}
		at += 2 + b[1];
	}
	return 40;
}

/* read_extension reads an IPv6 extension header. It gives 0 where there is none
 * that is walked, or not as much of it as that takes. */
static __always_inline int read_extension(struct walk *w, const __u8 *data, const __u8 *data_end)
{
	const __u8 *b = place(data, w->off);
	switch (w->next) {
	case EXT_HOP_BY_HOP:
	case EXT_ROUTING:
	case EXT_DESTINATION:
		if (!have(w, b, 2, data_end))
			return 0;
		go_on(w, GO_ON((b[1] + 1) * 8, b[0]));
		return 1;
	case EXT_FRAGMENT:
		if (!have(w, b, 8, data_end))
			return 0;
		if (LOAD(__u16, b + 2) & NETWORK16(0xfff8))
			w->vlan |= KEY_FRAGMENT;
		go_on(w, GO_ON(8, b[0]));
		return !(w->vlan & KEY_FRAGMENT);
	}
	return 0;
}

/* read_transport reads ports, or ICMP type and code, and TCP flags: how much of
 * a header must be there for that is what packet says. The ICMP that does not
 * belong to the IP version has its type elsewhere. */
static __always_inline void read_transport(struct walk *w, const __u8 *data, const __u8 *data_end, struct packet *p)
{
	const __u8 *b = place(data, w->off);
	p->transport = w->off;
	p->word[8] = 0;
	p->tcp_flags = 0;
	if (w->vlan & KEY_FRAGMENT)
		return;
	switch (w->next) {
	case PROTO_TCP:
		if (have(w, b, 16, data_end) && b[12] >= 5 << 4) /* the data offset */
			p->tcp_flags = b[13];
		break;
	case PROTO_UDP:
	case PROTO_UDPLITE:
	case PROTO_DCCP:
		break;
	case PROTO_SCTP:
		if (!have(w, b, 12, data_end))
			return;
		break;
	case PROTO_ICMP:
		if (!(w->vlan & KEY_IPV6) && have(w, b, 6, data_end))
			p->word[8] = WORD_PORTS(0, NETWORK16(LOAD(__u16, b)));
		return;
	case PROTO_ICMP6:
		if (w->vlan & KEY_IPV6 && have(w, b, 2, data_end))
			p->word[8] = WORD_PORTS(0, NETWORK16(LOAD(__u16, b)));
		return;
	default:
		return;
	}
	if (have(w, b, 4, data_end))
		p->word[8] = WORD_PORTS(NETWORK16(LOAD(__u16, b)), NETWORK16(LOAD(__u16, b + 2)));
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
		if (payload < 12 || t + 12 > data_end)
			return 0;
		p->word[8] = WORD_PORTS(NETWORK16(LOAD(__u16, t)), NETWORK16(LOAD(__u16, t + 2)));
		break;
	default:
		p->word[8] = 0;
	}
	p->tcp_flags = 0;
	return 1;
}

static __always_inline int fast_ipv4(const __u8 *data, const __u8 *data_end, const __u8 *h, __u32 vlan, struct packet *p)
{
	if (h + 20 > data_end || h[0] != 0x45)
		return 0;
	__u32 length = NETWORK16(LOAD(__u16, h + 2));
	if (length < 20 || LOAD(__u16, h + 6) & NETWORK16(0x1fff))
		return 0;
	if (!fast_transport(h + 20, data_end, length - 20, h[9], PROTO_ICMP, p))
		return 0;
	store_ipv4(p, h);
	p->word[10] = WORD_LAST(vlan, h[9], h[1]);
	p->length = length;
	p->network = h - data;
	p->transport = h - data + 20;
	p->want = 0;
	p->ttl = h[8];
	return 1;
}

static __always_inline int fast_ipv6(const __u8 *data, const __u8 *data_end, const __u8 *h, __u32 vlan, struct packet *p)
{
	if (h + 40 > data_end)
		return 0;
	__u32 first = NETWORK32(LOAD(__u32, h)), payload = NETWORK16(LOAD(__u16, h + 4)), proto = h[6];
	if (first >> 28 != 6 || !payload)
		return 0;
	if (proto == EXT_HOP_BY_HOP || proto == EXT_ROUTING || proto == EXT_FRAGMENT || proto == EXT_DESTINATION)
		return 0;
	if (!fast_transport(h + 40, data_end, payload, proto, PROTO_ICMP6, p))
		return 0;
	store_ipv6(p, h);
	p->word[10] = WORD_LAST(vlan | KEY_IPV6, proto, first >> 20 & 0xff);
	p->length = 40 + payload;
	p->network = h - data;
	p->transport = h - data + 40;
	p->want = 0;
	p->ttl = h[7];
	return 1;
}

static __always_inline int fast_ethernet(const __u8 *data, const __u8 *data_end, __u32 vlan, struct packet *p)
{
	const __u8 *h = data + ETHER_LENGTH;
	if (h + 4 > data_end)
		return 0;
	__u16 type = LOAD(__u16, data + 12);
	if (type == NETWORK16(TYPE_VLAN)) {
		if (!vlan)
			vlan = (NETWORK16(LOAD(__u16, h)) & VLAN_ID) | KEY_TAGGED;
		type = LOAD(__u16, h + 2);
		h += 4;
	}
	if (type == NETWORK16(TYPE_IPV4))
		return fast_ipv4(data, data_end, h, vlan, p);
	if (type == NETWORK16(TYPE_IPV6))
		return fast_ipv6(data, data_end, h, vlan, p);
	return 0;
}

static __always_inline int fast_network(const __u8 *data, const __u8 *data_end, __u32 type, __u32 vlan, struct packet *p)
{
	if (type == TYPE_IPV4 || type == NEXT_RAW)
		if (fast_ipv4(data, data_end, data, vlan, p))
			return 1;
	if (type == TYPE_IPV6 || type == NEXT_RAW)
		return fast_ipv6(data, data_end, data, vlan, p);
	return 0;
}

#ifdef __bpf__
#define BEGIN(context) ((const __u8 *)(long)(context)->data)
#define END(context)   ((const __u8 *)(long)(context)->data_end)
#define CONTEXT        struct xdp_md
#define HOOK(name)     name##_xdp
#include "parse_slow.h"
#undef CONTEXT
#undef HOOK
#define CONTEXT        struct __sk_buff
#define HOOK(name)     name##_skb
#include "parse_slow.h"
#define parse_slow(context) _Generic((context), struct xdp_md *: parse_slow_xdp, struct __sk_buff *: parse_slow_skb)
#else
struct frame { const __u8 *data, *data_end; };
#define BEGIN(context) ((context)->data)
#define END(context)   ((context)->data_end)
#define CONTEXT        struct frame
#define HOOK(name)     name##_frame
#include "parse_slow.h"
#define parse_slow(context) parse_slow_frame
#endif

/* parse_ethernet reads the context's frame, which has an Ethernet header and is
 * wire octets long, and gives a reason: DECODED, then p is filled in, or
 * another, then p is without meaning but for p->want. vlan is a tag that the
 * interface took out of the frame, which was the outermost: KEY_TAGGED and its
 * id, or 0.
 *
 * Where the frame is longer than what can be read of it (an skb with pages),
 * and p->want is so, too, the caller makes more readable and asks again.
 *
 * parse_network reads a frame that starts with what an EtherType announces: an
 * skb without link header has it in its protocol, in network order there.
 * parse_raw reads one that starts with an IP header of either version. */
#define parse_ethernet(context, wire, vlan, p) \
	(fast_ethernet(BEGIN(context), END(context), vlan, p) \
		? (__u32)DECODED : (__u32)parse_slow(context)(context, wire, NEXT_ETHERNET, blank(p, vlan)))
#define parse_network(context, wire, type, vlan, p) \
	(fast_network(BEGIN(context), END(context), type, vlan, p) \
		? (__u32)DECODED : (__u32)parse_slow(context)(context, wire, type, blank(p, vlan)))
#define parse_raw(context, wire, p) parse_network(context, wire, NEXT_RAW, 0, p)

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
