/* Every map: key, value, size, who writes, who deletes, what happens when it is
 * full. All but rodata and prefixes are pinned by these names, outlive the daemon and the
 * programs. Sizes of 1 are set by the loader.
 */
#ifndef WEIR_MAPS_H
#define WEIR_MAPS_H

#include "flow.h"
#include "kernel.h"

/* The flow table: sets of flows, of overflow aggregates, of catch-alls, one
 * after the other. The programs enter and count, the daemon retires, both by
 * the words in the sets' heads. Full: the packet is counted in an aggregate,
 * or else in the port's catch-all. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct set);
	__uint(max_entries, 1);
} table SEC(".maps");

/* One for each slot of the table; the daemon's alone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct side);
	__uint(max_entries, 1);
} side SEC(".maps");

/* One for each TOUCHED_SETS sets of the table. The programs set it to 1 after
 * they have entered something, or done what may make an entry due sooner; the
 * daemon sets it to 0 before it looks. */
#define TOUCHED_SETS 64
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} touched SEC(".maps");

/* What one daemon leaves for the next; the programs do not read it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct meta);
	__uint(max_entries, 1);
} meta SEC(".maps");

/* What the daemon tells the programs. A section of its own is an ARRAY of one
 * value that the programs reach without a look-up; it is pinned as `control`. */
struct control control SEC(".data.control");

/* By port number * 2 + egress: packets that make no flow. The programs add, the
 * daemon reads. Never full. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct counters);
	__uint(max_entries, 2 * MAX_PORTS);
} counters SEC(".maps");

/* The flows of this host's own exports: the daemon writes and deletes. Full:
 * the daemon is told, and what it could not enter is metered. */
struct own {
	__u8  src[16], dst[16];
	__u16 src_port, dst_port;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct own);
	__type(value, __u8);
	__uint(max_entries, 1024);
} own SEC(".maps");

/* One for each slot of the table, if there are lists; else one in all. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct judged);
	__uint(max_entries, 1);
} judged SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct hits);
	__uint(max_entries, MAX_RULES);
} hits SEC(".maps");

/* What rules want to be told. Full: counted as UNTOLD, like what there is too
 * much of. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

/* Each CPU's events in the present tick. */
struct told {
	__u64 tick;
	__u64 events;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct told);
	__uint(max_entries, 1);
} told SEC(".maps");

/* Next hops, if there is forwarding; else one row. The daemon enters them. Full: it
 * is told, and the kernel forwards to those that have no row. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct hop);
	__uint(max_entries, 1);
} hops SEC(".maps");

/* Which row a next hop has, and which addresses are this router's: the daemon writes
 * and deletes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct hop_key);
	__type(value, __u32);
	__uint(max_entries, 2 * MAX_HOPS);
} hop_of SEC(".maps");

/* The daemon writes and deletes. Full: the kernel forwards what has the tag. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct upper_key);
	__type(value, __u32);
	__uint(max_entries, 8192);
} uppers SEC(".maps");

/* By port number: the interface, if frames can be redirected to it. The daemon
 * writes; the kernel deletes those of interfaces that go. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, MAX_PORTS);
} tx SEC(".maps");

/* By port number: what became of packets that came in where the programs forward.
 * The programs add, the daemon reads. */
struct why_counts { __u64 packets[WHYS]; };
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct why_counts);
	__uint(max_entries, MAX_PORTS);
} whys SEC(".maps");

/* A key of prefixes. */
struct prefix {
	__u32 bits; /* IPv4: 96 and its own */
	__u8  addr[16];
};

/* Destinations with routes that have an MTU of their own, and the least that any of
 * them has: the routing table's answer does not say. The daemon writes and deletes; of
 * too many it makes one. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u32);
	__uint(max_entries, 1 << 13);
} route_mtus SEC(".maps");

/* The guard's rules, in the order in which they are asked. The daemon writes, and the
 * programs their buckets. Full: the daemon is told. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct guard_rule);
	__uint(max_entries, GUARD_RULES);
} guard_rules SEC(".maps");

/* What single flows may send, in the order in which they are asked. The daemon writes.
 * Full: the daemon is told. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct guard_limit);
	__uint(max_entries, GUARD_LIMITS);
} guard_limits SEC(".maps");

/* By rule and by limits: what came of them. The programs add, each CPU for itself; the
 * daemon reads, and empties rows that are not in use. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct guard_tally);
	__uint(max_entries, GUARD_RULES + GUARD_LIMITS);
} guard_tallies SEC(".maps");

/* Two banks of marks: the programs add, the daemon empties and fills. Never full. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 2 * GUARD_TAG_WORDS);
} guard_there SEC(".maps");

/* How many flows may begin: the daemon writes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct guard_gates);
	__uint(max_entries, 1);
} guard_gates SEC(".maps");

/* How many have: the programs' alone; the daemon reads. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct guard_gate_cpu);
	__uint(max_entries, 1);
} guard_gate_cpus SEC(".maps");

/* Two rows of buckets for each of source and destination, in the order of enum gate: who
 * shares a bucket of one row with another shares that of the other row with somebody
 * else. The programs' alone; never full. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct guard_bucket);
	__uint(max_entries, 4 * GUARD_BUCKETS);
} guard_buckets SEC(".maps");

/* Sources and destinations that no rule hits: the daemon writes and deletes, with
 * values as in `prefixes`. Full: it is told, and no rule comes into force. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u8);
	__uint(max_entries, 1 << 16);
} guard_allowed SEC(".maps");

/* Where the allow list has something: the daemon writes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, GUARD_NEAR_WORDS);
} guard_near SEC(".maps");

/* Packets whose source or destination is in one of these are metered, if there
 * is a list; of these programs only: the daemon writes and deletes. Full: it is told. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u8);
	__uint(max_entries, 1 << 20);
} prefixes SEC(".maps");

#endif
