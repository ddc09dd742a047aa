/* The structs that the programs and Go share. Every width is fixed, every pad
 * is written out; Go's side is layout.go, and a test holds the two
 * together. Change LAYOUT when anything here changes its place or its meaning, or
 * when banks of access lists do (acl/bank.go): a daemon drains and replaces a table
 * of another layout, and programs never see a bank that they cannot read.
 *
 * Needs the types __u8 to __u64, of vmlinux.h, linux/types.h or types.h.
 */
#ifndef WEIR_FLOW_H
#define WEIR_FLOW_H

#define LAYOUT 4

#define WAYS      15   /* entries of a set */
#define MAX_PORTS 256  /* metered interfaces; 0 stands for all without a number */

/* Who owns an entry is said by its word in the set's head: eight bits of state,
 * 24 bits of the key's hash. Words are changed by compare-and-exchange only.
 *
 *   FREE --datapath--> CLAIMED --datapath--> NEW --datapath--> LIVE
 *   NEW, LIVE --daemon--> DYING --grace period, daemon--> FREE
 *
 * NEW and LIVE differ in one bit, so that a look-up can mask it. */
enum state {
	FREE    = 0,
	CLAIMED = 1, /* key and facts are being written */
	LIVE    = 2,
	DYING   = 3, /* taken out: nobody finds it; CPUs that already had may still add */
	NEW     = 6, /* live, and has counted one packet */
};
#define STATE_MASK 0xffu
#define NEW_BIT    0x04u

/* bits of flow_key.vlan above the outermost tag's id; flow.Key… in Go */
#define VLAN_ID      0x0fff
#define KEY_IPV6     0x1000
#define KEY_FRAGMENT 0x2000 /* a later fragment: ports are 0 */
#define KEY_INNER    0x4000
#define KEY_TAGGED   0x8000

#define KEY_EGRESS 0x80000000u /* in flow_key.input: sent by this host, the rest is the output ifindex */

struct flow_key {
	__u8  src[16], dst[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u16 sport, dport;     /* host order; ICMP: 0, type<<8 | code */
	__u32 input;            /* ifindex */
	__u16 vlan;
	__u8  proto, tos;
};

#define MARK_CLOSING 1 /* FIN or RST was seen */

struct entry {
	/* line 0 */
	__u64 packets, bytes;  /* @0, @8: atomic adds; they only grow while the entry lives */
	struct flow_key key;   /* @16 */
	__u32 closing;         /* @60 second of the kernel's clock, rounded up, of the first FIN or RST; see MARK_CLOSING */
	/* line 1 */
	__u64 first;           /* @64 ns of the kernel's clock; 0: set by the next packet */
	__u64 last;            /* @72 */
	__u64 verdict;         /* @80: what the lists said, see VERDICT_…; changed by compare-and-exchange */
	__u64 route;           /* @88: where it is forwarded to, see ROUTE_…; changed by compare-and-exchange */
	__u64 rate[2];         /* @96: what the guard does with it, see GUARD_…, and what it has used of its limits; changed by compare-and-exchange */
	union {                /* @112: changed as one word by compare-and-exchange */
		__u64 facts;
		struct {
			__u8  tcp_flags, mark;
			__u16 min_length, max_length; /* IP lengths, 65535 and more as 65535 */
			__u8  min_ttl, max_ttl;
		};
	};
	__u32 incarnation;     /* @120: records that the slot has given; the daemon's */
	__u32 output;          /* @124: ifindex that packets leave by; 0: unknown */
};

/* What the lists say of a flow, or said: generation << 32 | rule << 16 | class << 8
 * | verdict. It holds for packets of its class, under the lists of its generation;
 * any other packet is judged anew. `class` is acl.h's; the rule's number means the
 * same in all generations. 0: never judged. */
#define VERDICT_GENERATION(w) ((__u32)((w) >> 32))
#define VERDICT_RULE(w)       ((__u16)((w) >> 16))
#define VERDICT_CLASS(w)      ((__u8)((w) >> 8))
#define VERDICT_MASK   0x03
#define VERDICT_NONE   0x00 /* no list judges it: it passes */
#define VERDICT_PERMIT 0x01
#define VERDICT_DENY   0x02
#define VERDICT_COUNT  0x04 /* with the last: it passes all the same, the list only counts */
#define VERDICT_REJECT 0x08 /* with it: the sender is told */
#define VERDICT_LOG    0x10
#define VERDICT_GUARD  0x20 /* of a packet, not of an entry: the guard stops it, */
#define VERDICT_UNKEPT 0x40 /* and its flow, which is new, is not to be entered */

/* Where a flow is forwarded to: generation << 32 | when << 16 | way. It holds as long
 * as the generation is that of its destination (struct control), and for two
 * seconds: then the routing table is asked again, whatever was or was not heard of
 * it. Below WHYS, way is the enum why that leaves the flow to the kernel; else it
 * is a row of `hops`. 0: never asked. */
#define ROUTE_GENERATION(w) ((__u32)((w) >> 32))
#define ROUTE_WHEN(w)       ((__u16)((w) >> 16))
#define ROUTE_WAY(w)        ((__u16)(w))
#define ROUTE_UNIT          26 /* bits of now that ROUTE_WHEN leaves out: it counts 67 ms */
#define ROUTE_HOLDS         29 /* units, just below two seconds */
#define ROUTE_HOLDS_BRIEFLY 1  /* if what is missing may come any moment: a neighbour */

/* What a program did with a packet that came in where it forwards: forwarded it, or
 * why it left that to the kernel. */
enum why {
	FORWARDED = 0,
	/* said of a packet */
	WHY_ADDRESSEE,     /* the frame is not to this router alone: broadcast, multicast, somebody else's */
	WHY_ENCAPSULATION, /* other headers than one VLAN tag at most in front of IP, or the tag of no interface */
	WHY_OPTIONS,       /* IPv4 options, IPv6 extension headers */
	WHY_FRAGMENT,
	WHY_TTL,           /* 1 or 0: the kernel tells the sender */
	WHY_MTU,           /* too long for its output: the kernel cuts it, or tells the sender */
	WHY_OFFLOAD,       /* its checksum was left to hardware that it never comes to */
	WHY_ORPHAN,        /* the daemon has been gone for longer than the watchdog allows */
	WHY_MARTIAN,       /* addresses that are not forwarded, among them multicast */
	WHY_CHECKSUM,      /* of its IPv4 header: wrong, and the kernel drops it */
	/* said of a flow, in its route */
	WHY_LOCAL = 16,    /* to this router */
	WHY_UNREACHABLE,   /* no route, or one that says blackhole, unreachable, prohibit */
	WHY_DISABLED,      /* the kernel does not forward here */
	WHY_LWT,           /* the route encapsulates */
	WHY_NEIGHBOUR,     /* the next hop's link address is not known */
	WHY_OUTPUT,        /* frames cannot be redirected to the output interface */
	WHY_ROUTE_MTU,     /* the route has an MTU of its own */
	WHY_HAIRPIN,       /* it would leave where it came in: the kernel tells the sender of a better way */
	WHY_URPF,          /* the way back to its source leads elsewhere: dropped */
	WHY_ERROR,         /* the routing table could not be asked */
	WHY_SPI,           /* ESP, AH: the kernel may choose between next hops by what no flow's key has */
	WHY_LOST = 30,     /* none: counted at the output; forwarded, and its driver did not take it */
	WHY_OFF = 31,      /* the programs do not forward there: not counted */
	WHYS = 32,
};

/* A next hop. The programs read it word by word; the daemon writes, and the programs
 * when the routing table knows of another link address. */
#define MAX_HOPS 65536
struct hop {
	__u64 to;      /* destination MAC in the first six octets in memory, then HOP_…, of 16 bits */
	__u64 from;    /* source MAC; then KEY_TAGGED and the id, of a VLAN's interface */
	__u32 device;  /* ifindex of the interface that frames are redirected to */
	__u16 number;  /* its port's; 0: the row is not in use */
	__u16 mtu;
	__u32 logical; /* ifindex as routes have it: of the VLAN's interface */
	__u32 used;    /* now >> HOP_USED_UNIT, when it last forwarded: the programs' */
	__u8  address[16]; /* the next hop's; IPv4 as ::ffff:a.b.c.d */
	__u64 spare[2];
};
#define HOP_ALIVE     0x8000 /* of `to`, above the MAC: frames reach it, as far as the kernel knows */
#define HOP_FRAGS     0x4000 /* frames in several buffers can be redirected there */
#define HOP_USED_UNIT 30 /* bits: about a second */

/* How `hops` are found. With ifindex 0 it is an address of this router, and the row
 * is 0. */
struct hop_key {
	__u32 ifindex; /* as routes have it */
	__u8  address[16];
};

/* The interface of a VLAN on a device. */
struct upper_key { __u32 ifindex, vlan; };

/* Beside each entry if there are lists. Written anew when the entry is. */
struct judged {
	__u64 credited_packets, credited_bytes; /* of the entry's: in `hits` already, of rules that the verdict is no longer from */
	__u64 dropped_packets, dropped_bytes;   /* and not yet in a record: the daemon takes off what is */
	__u64 out;                              /* as entry.verdict: of the list at the interface where it leaves, if it came in by another */
	__u64 out_packets, out_bytes;           /* judged by that, since it is from this rule */
	__u64 held_until;                       /* ns of the kernel's clock: the guard's penalty, of entries in a state other than 0 */
};

/* By a rule's number: what it has decided of. Beside this, entries with a verdict
 * from it have what they counted and is not credited. */
#define MAX_RULES (1 << 16)
struct hits {
	__u64 direct_packets, direct_bytes;   /* the programs add */
	__u64 retired_packets, retired_bytes; /* of entries that have left: the daemon's alone */
	__u64 last;                           /* ns of the kernel's clock: the daemon's alone */
	__u64 spare[3];
};

/* Which rule of the guard hits a flow, and which limits it has: generation << 32 |
 * rule's row + 1 << 16 | limits' row + 1 << 8 | state; 0: none. It holds while the
 * generation is control.guard's; 0: never asked, or before there were any. The state is
 * GUARD_HELD, while all its packets are stopped, | how often that was so, lately. */
#define GUARD_GENERATION(w) ((__u64)(w) >> 32)
#define GUARD_RULE(w)       ((__u32)((w) >> 16 & 0xffff))
#define GUARD_LIMIT(w)      ((__u32)((w) >> 8 & 0xff))
#define GUARD_HELD          0x80
#define GUARD_LEVEL(w)      ((__u32)((w) & 0x0f))
#define GUARD_FOUND(w)      ((w) & 0xffffff00) /* a rule, or limits */
#define GUARD_ROWS(w)       ((__u32)((w) & 0x3ff)) /* of control.guard */
/* While there is a rule of new flows, who is in the table can be told without a look at
 * it: of each entry, the tag in its word is marked in both banks of `guard_there`. The
 * daemon fills the bank that is not in use anew, now and then, and changes over; a bank
 * may have marks of flows that are gone, and lacks none of those that are there. Each has
 * two marks, by the tag and by the tag mixed, of whose bits a bank leaves out so many that
 * it is no larger than the flows need. */
#define GUARD_MARKS         0x1000 /* of control.guard: who enters is marked */
#define GUARD_BANK          0x2000 /* the bank in use is the second */
#define GUARD_FLOOD         0x4000 /* the bank is asked */
#define GUARD_KEPT          0x8000 /* of control.guard: the programs keep `judged` for it */
#define GUARD_LEFT_OUT(w, bank) ((__u32)(w) >> (16 + 5 * (bank)) & 0x1f) /* of control.guard: bits of a tag */

/* A rule of the guard. What it hits is written while until is 0, or in the past, and no
 * program can still be at it; the rest is changed word by word. */
#define GUARD_RULES 256
#define GUARD_PORTS 8
#define GUARD_LOOKS 8 /* at rules, for one packet: if so many are for other packets of its flow, it passes */
struct guard_rule {
	/* lines 0 and 1: what it hits */
	__u32 want[11], mask[11];   /* of a flow's key, as words */
	__u16 src_ports[GUARD_PORTS]; /* with GUARD_FROM_PORTS: one of these; what is left over repeats the first */
	__u32 flags;                /* @104 */
	__u32 what;                 /* GUARD_COUNT, … */
	__u64 id;                   /* @112: the daemon's */
	__u64 until;                /* @120: ns of the kernel's clock; 0: the row is not in use */
	/* line 2: of GUARD_POLICE */
	__u64 packet_cost;          /* @128: of a packet, in 1/16 ns; 0: not looked at */
	__u64 byte_cost;            /* of an octet, in 1/16 ns >> GUARD_BYTE_SHIFT; 0: not looked at */
	__u64 burst;                /* what may be owed, in 1/16 ns */
	__u64 packets_at, bytes_at; /* the buckets, see guard.h: the programs' */
	__u64 pps, bps;             /* the daemon's */
	__u64 carried[6];           /* the daemon's: what programs at another table have counted of it */
	__u64 spare;
};
#define GUARD_COUNT  0
#define GUARD_POLICE 1
#define GUARD_DROP   2
#define GUARD_FROM_PORTS 1
#define GUARD_SYN        2 /* of its flows, only TCP packets with SYN and without ACK */
#define GUARD_NEW        4 /* only packets whose flow is not in the table */
#define GUARD_BYTE_SHIFT 16

/* What single flows may send, of those that it hits. Changed as a rule is, while it is
 * in no flow's entry. */
#define GUARD_LIMITS 128
struct guard_limit {
	__u32 want[11], mask[11]; /* of a flow's key, as words */
	__u32 used;               /* @88: not 0: the row is in use */
	__u16 rule;               /* @92: only of flows with a verdict from this rule of a list; 0: of all */
	__u16 spare;
	__u32 what;               /* @96: GUARD_COUNT: count what is beyond; GUARD_POLICE: stop that; GUARD_DROP: stop all for a while */
	__u32 burst;              /* @100: what may be owed, in units of 1 << GUARD_SLOT ns */
	__u64 packet_cost;        /* @104: of a packet, in these units << GUARD_COST_SHIFT; 0: not looked at */
	__u64 byte_cost;          /* of an octet */
	__u64 hold, max_hold;     /* of GUARD_DROP, ns: doubles each time */
	__u64 spare2[7];
};

/* What each CPU has counted of a rule, by its row, and of limits, by GUARD_RULES and
 * their row. */
struct guard_tally {
	__u64 packets, bytes;                 /* of a rule: that it hit; of limits: beyond them, and let pass */
	__u64 dropped_packets, dropped_bytes; /* stopped */
	__u64 refused_packets, refused_bytes; /* of those stopped, what is in no flow but in an aggregate */
	__u64 held;                           /* how often a flow's hold began */
	__u64 spare;
};

/* Where the allow list has something, as bits. Of IPv4 prefixes as long as 16 bits or
 * shorter, by that many of an address; up to 24, by those, mixed; beyond, by whole
 * addresses, mixed. Of IPv6 prefixes shorter than 64 by 32 bits, mixed; of 128, by the
 * address, mixed; of others, by 64 bits, mixed. */
enum near { NEAR_WIDE4 = 0, NEAR_CLOSE4 = 65536, NEAR_EXACT4 = 131072, NEAR_WIDE6 = 196608, NEAR_CLOSE6 = 262144, NEAR_EXACT6 = 327680 };
#define GUARD_NEAR_WORDS 6144
#define GUARD_SLOT       8  /* bits: 256 ns */
#define GUARD_COST_SHIFT 24
#define GUARD_FORGET 64000000000ull /* ns: who was silent so long owes nothing */

/* How many flows may enter the table. Who is beyond that is counted as when the table
 * is full, and passes. */
enum gate { GATE_CPU, GATE_SOURCE, GATE_DESTINATION, GATES };
struct guard_gates {
	__u64 cost[GATES];  /* of a flow, in 1/16 ns; 0: not looked at */
	__u64 burst[GATES];
	__u64 spare[2];
};
struct guard_gate_cpu { /* of each CPU */
	__u64 at;
	__u64 packets[GATES], bytes[GATES]; /* of flows that a gate kept out */
	__u64 spare;
};
#define GUARD_TAG_WORDS 262144 /* of a bank: a bit for each of the 2^24 tags that a word has room for */
#define GUARD_BUCKETS 32768 /* of a row of a sketch */
struct guard_bucket { __u64 at; };

/* What the daemon is told of a packet, in front of its first octets. */
struct event { /* 32 octets */
	__u64 now;     /* ns of the kernel's clock */
	__u64 word;    /* as entry.verdict */
	__u32 port;    /* ifindex, with KEY_EGRESS */
	__u32 network; /* where in the octets the IP header begins */
	__u32 octets;  /* how many follow */
	__u32 rejected; /* 1: it was dropped, and its sender is to be told; 0: a rule wants it logged */
};
#define EVENT_OCTETS 128

/* Half a page of memory, so that what a look-up touches is in one page, with
 * each entry's two cache lines side by side. The words' line is the set's head. */
struct set {
	struct entry entry[WAYS];
	__u32 word[WAYS], spare;
	__u32 note[WAYS], spare2; /* the daemon's alone, 0 at rest: what of a record on its way the entry no longer says */
};

/* Beside each entry, the daemon's alone: what has been exported of it. There
 * are two banks. bank[incarnation & 1] is what was; the other is what it will
 * be once the record that is on its way has been handed on: it is on its way
 * if that bank counts more packets. Raising incarnation commits it. */
struct side {
	struct { __u64 packets, bytes; } bank[2];
};

/* Packets that make no flow, and some that do, by port, direction and reason,
 * each CPU for itself. Reasons below 24 are packet.Reason's numbers. */
enum reason {
	DECODED = 0, ARP, OTHER_TYPE, LLC, MPLS_PAYLOAD, FAMILY, WLAN_CONTROL, WLAN_PROTECTED, UNKNOWN_LINK,
	TRUNCATED_LINK, TOO_DEEP, TRUNCATED_IP, BAD_VERSION, BAD_HEADER_LENGTH, BAD_TOTAL_LENGTH,
	FILTERED = 24,   /* the filter or the prefix list did not choose it */
	NOT_SAMPLED,
	OWN_EXPORT,
	REFUSED,         /* found no place, is counted in an aggregate: not lost */
	CAUGHT,          /* of those, the ones in a catch-all */
	METERED,         /* only where keys have no input interface */
	DROPPED,         /* by a list: they are in flows, or under another reason */
	UNTOLD,          /* events that there were too many of */
	REASONS = 32,
};

struct counters {
	struct { __u64 packets, bytes; } reason[REASONS]; /* bytes: IP length where it was decoded, else the frame's */
};

/* A metered interface. The table of them is searched from ifindex % PORT_SLOTS
 * on, PORT_PROBES places, wrapping round. */
#define PORT_SLOTS  1024
#define PORT_PROBES 8
#define PORT_INGRESS  1 /* its ingress is metered: egress elsewhere need not count what came in here */
#define PORT_FORWARDS 2 /* the kernel forwards what comes in: the output interface is looked up */
#define PORT_NO_LINK  4 /* frames start with the IP header (tun, wireguard, ppp in TC) */
#define PORT_LIST_IN  8 /* lists judge what comes in, */
#define PORT_LIST_OUT 0x10 /* what leaves */
#define PORT_UNRULED_CLOSED 0x20 /* packets that no list judges do not pass */
#define PORT_ORPHAN_OPEN    0x40 /* without a daemon all pass, */
#define PORT_ORPHAN_CLOSED  0x80 /* or none */
#define PORT_FULL_OPEN      0x100 /* packets that find no place in the table pass, */
#define PORT_FULL_CLOSED    0x200 /* or do not: else they are judged one by one */
#define PORT_FORWARD        0x400 /* what comes in is forwarded by the program */
#define PORT_PARTIAL        0x800 /* frames may come from this machine, with checksums that are yet to be made */
#define PORT_URPF_STRICT   0x1000 /* sources are reached by the interface that they come in by, */
#define PORT_URPF_LOOSE    0x2000 /* or by any */
#define PORT_UPPER         0x4000 /* it is on top of metered ones */
#define PORT_VLAN    16 /* flags >> PORT_VLAN: KEY_TAGGED and the id, for a VLAN's interface on top of a metered one */

#define LEFT_IPV6 1 /* forwarding of IPv6 is off for the whole machine, whatever the routing table says */
#define LEFT_SPI4 2 /* multipath routes of IPv4 look at ports, and at the SPI of ESP and AH like those */
#define LEFT_SPI6 4

/* The kernel says of a forwarded packet that it came in by the uppermost
 * interface: the VLAN's, the bridge, the bond. So these have places too, with
 * PORT_INGRESS if the metered ones below have it, and their number. */
struct port {
	__u32 ifindex; /* 0: free */
	__u32 number;  /* 1 to MAX_PORTS-1 */
	__u32 flags;
	__u32 lower;   /* ifindex of the metered interface below, which keys have; 0: none, or it is not the only one */
	__u64 mac;     /* its six octets in memory, then 0: what is to be forwarded comes to it */
	__u32 left;    /* LEFT_…: what the kernel alone forwards */
	__u32 spare;
};

#define ROUTE_BUCKETS 4096 /* of each IP version */

/* What the daemon tells the programs while they run. */
struct control {
	__u32 pressure;   /* entries with one packet may hold a quarter of a set, outputs are not looked up */
	__u32 sample;     /* a packet is looked at if a random u32 is below this; 0: every packet */
	__u32 spare;
	__u32 sample_rest; /* 32 more bits of sample, behind the point */
	__u64 test_clock; /* with the rodata switch of that name: now, in ns */
	__u64 jiffies_ns; /* written by the program `tell_time`: the kernel's clock as entries have it … */
	__u64 mono_ns;    /* … and CLOCK_MONOTONIC at the same moment */
	__u64 correct_until; /* the programs': until then, what is forwarded is looked up where it leaves, see correct() */
	__u64 correct;       /* not 0: at all times */
	__u64 guard;         /* generation << 32 | rows of the guard's rules that are looked at; 0: there never were any */
	__u64 own_near;      /* a bit each for where own exports go to, mixed */
	/* Which lists are in force, as generation << 32 | LISTS_BANK | LISTS_ORPHAN. A
	 * packet goes by one of these words, which is read once. */
	__u64 lists;       /* 0: none */
	__u64 trial;       /* until trial_until, ns of the kernel's clock: these instead; 0: no change is on trial */
	__u64 trial_until;
	__u64 orphan;      /* from alive_until on, which the daemon puts off: these instead; 0: lists stay as they are without it */
	__u64 alive_until;
	__u64 generation;  /* the last that was given, the daemon's */
	__u64 forward_until; /* from then on, which the daemon puts off, the kernel forwards; 0: it need not be put off */
	__u32 routes;      /* of a route's generation, the part that all destinations have, */
	__u32 guard_off;     /* not 0: no packet is stopped for any of them; whoever may write the pinned map sets it */
	struct port port[PORT_SLOTS];
	__u32 routes_to[2 * ROUTE_BUCKETS]; /* and the part of those that are near each other: see route_bucket */
};
#define LISTS_BANK   1u /* which of the two */
#define LISTS_ORPHAN 2u /* there is no daemon: ports have a choice, PORT_ORPHAN_… */

/* What the daemon leaves for the next daemon; the programs do not read it. */
struct meta {
	__u32 layout, sets, aggregate_sets, key_mode;
	__u64 secret[8];       /* of the keyed hash */
	__u64 netns;           /* cookie of the network namespace that ifindexes are of */
	__u64 born;            /* Unix ns: the zero of export's sysUptime */
	__u32 boot;            /* 12 bits of every flow id */
	__u32 sample;          /* 1:N */
	__u64 tick_ns;
	__u64 leaving[3];      /* a sum of `retired` before the change under way: whose it is, packets, octets; all 0 at rest */
	__u64 test_clock;      /* 1: the clock is control's */
	__u64 leaving_hits[2][3]; /* two rules' sums of `hits` before that change: rule + 1, or 0; packets, octets */
	__u64 spare[7];
	__u64 retired[2 * MAX_PORTS][2]; /* packets, octets that left the table; by port number * 2 + egress */
	__u64 told[REASONS][2];  /* of `counters`, over all ports: what is in a daemon's account already */
	__u64 sequence[256];   /* the exporter's, see export.Memory */
};

#endif
