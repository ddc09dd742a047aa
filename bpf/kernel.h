/* What the programs need of the kernel's interface, and no more: contexts,
 * helpers, how maps and programs are declared. It is all stable ABI (UAPI
 * linux/bpf.h); written out here, objects are the same whatever headers the
 * machine has that builds them.
 */
#ifndef WEIR_KERNEL_H
#define WEIR_KERNEL_H

#include "types.h"

#define SEC(name)       __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __noinline      __attribute__((noinline))
#define NULL            ((void *)0)
typedef _Bool bool;
#define true  1
#define false 0

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Memory that others write too: one access, as wide as the type. */
#define READ_ONCE(x)     (*(volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))

/* Set before the programs are loaded; what it makes unreachable costs nothing. */
#define CONSTANT volatile const

/* The compiler knows nothing of x from here on. */
#define HIDE(x) asm volatile("" : "+r"(x))

/* map definitions are types that BTF carries */
#define __uint(name, value) int(*name)[value]
#define __type(name, value) __typeof__(value) *name
#define __array(name, value) __typeof__(value) *name[]

enum bpf_map_type {
	BPF_MAP_TYPE_HASH          = 1,
	BPF_MAP_TYPE_ARRAY         = 2,
	BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4,
	BPF_MAP_TYPE_PERCPU_HASH   = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY  = 6,
	BPF_MAP_TYPE_LPM_TRIE      = 11,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_DEVMAP       = 14,
};
#define BPF_F_NO_PREALLOC 1
#define BPF_F_CURRENT_CPU 0xffffffffull /* of bpf_perf_event_output; above it how many octets of the packet follow */
#define BPF_F_MMAPABLE    (1 << 10)
#define BPF_F_INNER_MAP   (1 << 12) /* 5.10 */

enum { XDP_DROP = 1, XDP_PASS = 2, XDP_REDIRECT = 4 };
enum { TC_ACT_SHOT = 2, TC_ACT_UNSPEC = -1 }; /* TCX_NEXT: the programs after this one are run */

struct xdp_md {
	__u32 data, data_end, data_meta;
	__u32 ingress_ifindex, rx_queue_index, egress_ifindex;
};

struct __sk_buff {
	__u32 len, pkt_type, mark, queue_mapping, protocol;
	__u32 vlan_present, vlan_tci, vlan_proto;
	__u32 priority, ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid;
	__u32 data, data_end;
	__u32 napi_id, family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port;
	__u32 data_meta;
	__u64 flow_keys, tstamp;
	__u32 wire_len, gso_segs;
	__u64 sk;
	__u32 gso_size; /* 5.7 */
};

/* Of the kernel's own, where the loader finds them in its BTF (CO-RE). */
#define OF_KERNEL __attribute__((preserve_access_index))
struct net { __u64 net_cookie; } OF_KERNEL;
typedef struct { struct net *net; } OF_KERNEL possible_net_t;
struct net_device { int ifindex; possible_net_t nd_net; } OF_KERNEL;

#define AF_INET  2
#define AF_INET6 10

/* Input; with these answers ifindex is the output interface. */
enum {
	BPF_FIB_LKUP_RET_SUCCESS,
	BPF_FIB_LKUP_RET_BLACKHOLE,
	BPF_FIB_LKUP_RET_UNREACHABLE,
	BPF_FIB_LKUP_RET_PROHIBIT,
	BPF_FIB_LKUP_RET_NOT_FWDED, /* local, broadcast, multicast; no route */
	BPF_FIB_LKUP_RET_FWD_DISABLED,
	BPF_FIB_LKUP_RET_UNSUPP_LWT,
	BPF_FIB_LKUP_RET_NO_NEIGH,
};
struct bpf_fib_lookup {
	__u8  family, l4_protocol;
	__u16 sport, dport; /* network order */
	__u16 tot_len; /* if it is not 0, the answer is the route's MTU */
	__u32 ifindex;
	__u32 tos; /* IPv4: the octet; IPv6: traffic class and label, network order */
	__u32 src[4], dst[4]; /* IPv4: the first */
	__u32 vlan;
	__u8  smac[6], dmac[6];
};
_Static_assert(sizeof(struct bpf_fib_lookup) == 64, "as the kernel has it");

static void *(*const bpf_map_lookup_elem)(void *map, const void *key)                              = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 how) = (void *)2;
static __u64 (*const bpf_ktime_get_ns)(void)                                                       = (void *)5;
static __u32 (*const bpf_get_prandom_u32)(void)                                                    = (void *)7;
static long (*const bpf_perf_event_output)(void *ctx, void *map, __u64 how, const void *data, __u64 size) = (void *)25;
static long (*const bpf_skb_pull_data)(struct __sk_buff *skb, __u32 len)                           = (void *)39;
static long (*const bpf_xdp_adjust_head)(struct xdp_md *ctx, int delta)                            = (void *)44;
static long (*const bpf_redirect_map)(void *map, __u64 key, __u64 flags)                           = (void *)51;
static long (*const bpf_fib_lookup)(void *ctx, struct bpf_fib_lookup *f, int size, __u32 flags)    = (void *)69;
static __u64 (*const bpf_jiffies64)(void)                                                          = (void *)118; /* 5.6 */
static __u64 (*const bpf_xdp_get_buff_len)(struct xdp_md *ctx)                                     = (void *)188; /* 5.18 */

#endif
