/* What the programs know of a packet once it is parsed, of the port it came by,
 * and how they count what makes no flow.
 */
#ifndef WEIR_SEEN_H
#define WEIR_SEEN_H

#include "kernel.h"
#include "flow.h"
#include "maps.h"
#include "parse.h"

CONSTANT __u64 tick_ns        = 1;     /* a jiffy */
CONSTANT __u32 secret[16]     = {};    /* of hashes */
CONSTANT bool  test_clock     = false; /* now is control.test_clock */
CONSTANT bool  real_time      = false; /* a program may be preempted by another on its CPU */

/* What a frame, or a buffer of several segments, says. */
struct seen {
	struct packet p;
	__u64 now;        /* ns of the kernel's clock */
	__u64 facts;      /* as in struct entry */
	__u32 packets;
	__u32 bytes;      /* of all segments */
	__u32 port;       /* ifindex of the metered interface, with KEY_EGRESS */
	__u32 output;     /* ifindex, if it is known */
	__u64 lists;      /* in force for it, as in struct control */
	__u64 word;       /* what they say of it, as in struct entry */
	__u64 route;      /* as in struct entry; 0: not asked */
	__u32 slot;       /* of the flow's entry, or NO_SLOT */
	__u16 asked;      /* the lists were asked just now, and a rule wants it logged */
	__u16 why;        /* an enum why: FORWARDED, if the packet looks as if the program can */
};
#define NO_SLOT 0xffffffffu

/* Functions that are not static are verified once, not for each way that leads
 * to them. */

static __always_inline __u64 now_ns(void)
{
	return test_clock ? READ_ONCE(control.test_clock) : bpf_jiffies64() * tick_ns;
}

static __always_inline struct port *find_port(__u32 ifindex)
{
	for (__u32 i = 0; i < PORT_PROBES; i++) {
		struct port *p = &control.port[(ifindex + i) % PORT_SLOTS];
		if (READ_ONCE(p->ifindex) == ifindex)
			return p;
	}
	return NULL;
}

/* metered_below is the metered interface that what leaves by one leaves by in the end: 0: it
 * is one of several. */
static __always_inline __u32 metered_below(__u32 ifindex)
{
	struct port *p = ifindex ? find_port(ifindex) : NULL;
	return p && READ_ONCE(p->flags) & PORT_UPPER ? READ_ONCE(p->lower) : ifindex;
}

/* row is where a port's counters and its catch-all are. */
static __always_inline __u32 row(__u32 port)
{
	struct port *p = find_port(port & ~KEY_EGRESS);
	__u32 number = p ? READ_ONCE(p->number) % MAX_PORTS : 0;
	return number * 2 + (port >> 31);
}

/* bump adds to what this CPU alone adds to: programs run with softirqs held off, at either
 * hook, so that none interrupts another, but where the kernel is a real-time one. */
static __always_inline void bump(__u64 *to, __u64 n)
{
	if (real_time)
		__sync_fetch_and_add(to, n);
	else
		*to += n;
}

static __always_inline struct counters *counters_of(__u32 port)
{
	__u32 i = row(port);
	return bpf_map_lookup_elem(&counters, &i);
}

static __always_inline void note_in(struct counters *c, __u32 reason, __u32 packets, __u64 bytes)
{
	bump(&c->reason[reason].packets, packets);
	bump(&c->reason[reason].bytes, bytes);
}

/* note counts what makes no flow. */
__noinline int note(__u32 port, __u32 reason, __u32 packets, __u64 bytes)
{
	struct counters *c = counters_of(port);
	if (c)
		note_in(c, reason % REASONS, packets, bytes);
	return 0;
}

#endif
