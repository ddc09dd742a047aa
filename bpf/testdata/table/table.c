/* The flow table without a kernel: threads are the CPUs, one more is the daemon.
 *
 *   table ENTRIES FLOWS THREADS PACKETS SEED
 *
 * Each thread sends PACKETS packets of FLOWS flows, some of which are much more
 * frequent than others. The length of a packet tells its flow. The daemon takes
 * entries out all the while, as datapath does, and looks at each: none may have
 * counted another's packets. Now and then the threads stop, and the daemon takes
 * out all, by the same rules of what has to be looked at: then the table must
 * be empty, and what was counted must be what was sent.
 *
 * An RCU read section is an odd number in a thread's counter; a grace period
 * waits until each that was odd has changed.
 */
#define WEIR_KERNEL_H
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../types.h"

static __thread __u64 random_state;
static __u32 draw(void)
{
	__u64 x = random_state;
	x ^= x << 13, x ^= x >> 7, x ^= x << 17;
	random_state = x;
	return x >> 32;
}
static void stumble(void)
{
	if (draw() % 64 == 0)
		sched_yield();
}

#define SEC(name)
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __noinline      __attribute__((noinline))
#define CONSTANT        volatile
#define likely(x)       __builtin_expect(!!(x), 1)
#define unlikely(x)     __builtin_expect(!!(x), 0)
/* Before each access to what is shared, another may get the processor. */
#define READ_ONCE(x)     (stumble(), *(volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v) (stumble(), *(volatile __typeof__(x) *)&(x) = (v))
#define __sync_val_compare_and_swap(p, old, new) (stumble(), __sync_val_compare_and_swap(p, old, new))
#define __sync_fetch_and_add(p, n)               (stumble(), __sync_fetch_and_add(p, n))
#define __builtin_memcpy(to, from, n)            (stumble(), memcpy(to, from, n))
#define HIDE(x) __asm__ volatile("" : "+r"(x))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) __typeof__(value) *name
struct xdp_md { __u32 data, data_end; };
struct __sk_buff { __u32 data, data_end; };
enum { BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_DEVMAP, BPF_MAP_TYPE_PERF_EVENT_ARRAY, BPF_F_NO_PREALLOC, BPF_F_MMAPABLE };
enum { AF_INET = 2, AF_INET6 = 10, BPF_FIB_LKUP_RET_SUCCESS = 0, BPF_FIB_LKUP_RET_NOT_FWDED = 4, BPF_FIB_LKUP_RET_NO_NEIGH = 7 };
struct bpf_fib_lookup {
	__u8  family, l4_protocol;
	__u16 sport, dport;
	__u32 ifindex, tos, src[4], dst[4];
};

static void *lookup(const void *map, const void *key);
#define bpf_map_lookup_elem lookup
static __u64 jiffies = 1000;
#define bpf_jiffies64() READ_ONCE(jiffies)
#define bpf_get_prandom_u32 draw
#define bpf_fib_lookup(ctx, f, size, flags) ((void)(f), 1)

/* Nothing is forwarded here. */
#define WEIR_FORWARD_H
#define use_forward false
#define ask_route(ctx, s)     ((void)(ctx))
#define find_route(ctx, s, e) ((void)(ctx))

#include "../../table.h"

static struct set     *all;
static __u32           all_sets, *flags;
static struct counters noted[2 * MAX_PORTS];

static void *lookup(const void *map, const void *key)
{
	__u32 i;
	memcpy(&i, key, sizeof i);
	if (map == &table)
		return i < all_sets ? &all[i] : NULL;
	if (map == &touched)
		return &flags[i];
	if (map == &counters)
		return &noted[i];
	return NULL; /* own, prefixes: nothing is in them */
}

#define PHASES 100
static __u32 flows;
static __u64 packets;

static __u32 length_of(__u32 flow) { return 40 + flow % 1400; }

static struct xdp_md frameless; /* its frame is of no octets */

static void section(struct seen *s, __u32 flow)
{
	memset(s, 0, sizeof *s);
	__u32 *w = s->p.word;
	w[2] = w[6] = NETWORK32(0xffff);
	w[3] = flow;
	w[7] = NETWORK32(0x0a000000) | flow % 509 << 16; /* 509 prefixes of 256 addresses */
	w[8] = WORD_PORTS(1, flow & 0xffff);
	w[10] = WORD_LAST(0, PROTO_UDP, 0);
	s->p.length = length_of(flow);
	s->p.ttl = 64;
	s->packets = 1;
	s->bytes = s->p.length;
	s->facts = facts_of(0, s->p.length, s->p.length, 64);
	s->port = 1;
	s->now = now_ns();
	mask(&s->p, s->port);
	look_up(&frameless, s, true);
}

struct cpu {
	pthread_t thread;
	__u64 seed, packets, bytes;
	__attribute__((aligned(64))) volatile __u64 epoch;
} *cpus;
static int n_cpus;

static void *send(void *arg)
{
	struct cpu *c = arg;
	random_state = c->seed;
	for (__u64 i = 0; i < packets / PHASES; i++) {
		__u32 f = draw() % flows;
		while (f >= 8 && draw() & 1) /* half of the packets are of an eighth of the flows, and so on */
			f /= 8;
		__sync_fetch_and_add(&c->epoch, 1);
		struct seen s;
		section(&s, f);
		__sync_fetch_and_add(&c->epoch, 1);
		c->packets++;
		c->bytes += length_of(f);
	}
	return NULL;
}

static void grace(void)
{
	for (int i = 0; i < n_cpus; i++) {
		__u64 e = cpus[i].epoch;
		while (e & 1 && cpus[i].epoch == e)
			sched_yield();
	}
	__sync_synchronize();
}

static __u64 got_packets, got_bytes, got_entries, wrong;

static void take(struct entry *e, bool of_flow)
{
	__u64 n = READ_ONCE(e->packets), bytes = READ_ONCE(e->bytes), f = READ_ONCE(e->facts);
	got_packets += n, got_bytes += bytes, got_entries++;
	if (!of_flow)
		return;
	__u32 flow, l;
	memcpy(&flow, e->key.src + 12, 4);
	l = length_of(flow);
	if (n == 0 || bytes != n * l || FACTS_MIN_LENGTH(f) != l || FACTS_MAX_LENGTH(f) != l || e->first == 0 || e->last < e->first) {
		if (wrong++ < 10)
			fprintf(stderr, "flow %u of length %u: %llu packets, %llu octets, facts %#llx, first %llu, last %llu\n", flow, l, n, bytes, f, e->first, e->last);
	}
}

static bool *occupied; /* by touched group: something was left there */

/* untouched checks a group that need not be looked at: what is entered there all
 * the same, while this is done, is told by the time its program has ended. */
static void untouched(__u32 g)
{
	for (__u32 i = g * TOUCHED_SETS; i < (g + 1) * TOUCHED_SETS && i < sets + aggregate_sets; i++)
		for (__u32 way = 0; way < WAYS; way++) {
			__u32 word = READ_ONCE(all[i].word[way]);
			if (word == FREE)
				continue;
			grace();
			if (!READ_ONCE(flags[g]) && wrong++ < 10)
				fprintf(stderr, "set %u way %u: word %#x, and nobody was told\n", i, way, word);
		}
}

/* sweep takes out one entry in every (0: none), by the rule that a group that was empty
 * and is not touched has nothing in it. */
static void sweep(__u32 every)
{
	static __u32 dying[4096];
	for (__u32 g = 0; g * TOUCHED_SETS < sets + aggregate_sets; g++) {
		bool now = __sync_lock_test_and_set(&flags[g], 0);
		__sync_synchronize();
		if (!now && !occupied[g]) {
			untouched(g);
			continue;
		}
		occupied[g] = false;
		__u32 n = 0;
		for (__u32 i = g * TOUCHED_SETS; i < (g + 1) * TOUCHED_SETS && i < sets + aggregate_sets; i++)
			for (__u32 way = 0; way < WAYS; way++) {
				__u32 word = READ_ONCE(all[i].word[way]), state = word & STATE_MASK;
				if (state == FREE)
					continue;
				if (state == CLAIMED || !every || draw() % every || !__sync_bool_compare_and_swap(&all[i].word[way], word, (word & ~STATE_MASK) | DYING))
					occupied[g] = true;
				else
					dying[n++] = i * WAYS + way;
			}
		if (!n)
			continue;
		grace();
		for (__u32 i = 0; i < n; i++) {
			struct set *s = &all[dying[i] / WAYS];
			struct entry *e = &s->entry[dying[i] % WAYS];
			take(e, dying[i] / WAYS < sets);
			memset(e, 0xee, sizeof *e); /* nobody may look */
			e->incarnation = 0;
			__sync_synchronize();
			WRITE_ONCE(s->word[dying[i] % WAYS], FREE);
		}
	}
}

static volatile int left;

static void *watch(void *arg) /* joins the CPUs */
{
	for (int i = 0; i < n_cpus; i++)
		pthread_join(cpus[i].thread, NULL);
	left = 0;
	return arg;
}

int main(int argc, char **argv)
{
	if (argc != 6)
		return 2;
	__u32 entries = atoi(argv[1]);
	flows = atoi(argv[2]), n_cpus = atoi(argv[3]), packets = atoll(argv[4]);
	__u64 seed = atoll(argv[5]) * 0x9e3779b97f4a7c15ull + 1;
	sets = (entries + WAYS - 1) / WAYS;
	aggregate_sets = 4;
	real_time = true; /* all threads are one CPU that they take from each other */
	all_sets = sets + aggregate_sets + (2 * MAX_PORTS + WAYS - 1) / WAYS;
	all = aligned_alloc(4096, all_sets * sizeof *all);
	memset(all, 0, all_sets * sizeof *all);
	flags = calloc(all_sets / TOUCHED_SETS + 1, sizeof *flags);
	occupied = calloc(all_sets / TOUCHED_SETS + 1, sizeof *occupied);
	cpus = aligned_alloc(64, n_cpus * sizeof *cpus);
	memset(cpus, 0, n_cpus * sizeof *cpus);
	random_state = seed;
	for (int i = 0; i < 16; i++)
		((volatile __u32 *)secret)[i] = draw();
	tick_ns = 4000000;
	for (__u32 i = sets + aggregate_sets; i < all_sets; i++)
		for (__u32 way = 0; way < WAYS; way++)
			all[i].entry[way].facts = 0xffull << 48 | 0xffffull << 16;
	control.port[1] = (struct port){.ifindex = 1, .number = 3};

	__u64 sweeps = 0;
	for (int phase = 0; phase < PHASES; phase++) {
		left = n_cpus;
		for (int i = 0; i < n_cpus; i++) {
			cpus[i].seed = draw() * 0x9e3779b97f4a7c15ull | 1;
			pthread_create(&cpus[i].thread, NULL, send, &cpus[i]);
		}
		pthread_t watcher;
		pthread_create(&watcher, NULL, watch, NULL);
		for (; left; sweeps++, WRITE_ONCE(jiffies, jiffies + 1)) {
			WRITE_ONCE(control.pressure, sweeps / 8 & 1);
			sweep(sweeps % 16 ? 0 : 1 + sweeps / 16 % 4);
		}
		pthread_join(watcher, NULL);
		sweep(1);
		for (__u32 i = 0; i < sets + aggregate_sets; i++)
			for (__u32 way = 0; way < WAYS; way++)
				if (all[i].word[way]) {
					fprintf(stderr, "set %u way %u: word %#x is left, in a group that nobody touched\n", i, way, all[i].word[way]);
					return 1;
				}
	}
	__u64 in_flows = got_entries;
	for (__u32 i = sets + aggregate_sets; i < all_sets; i++)
		for (__u32 way = 0; way < WAYS; way++)
			if (all[i].entry[way].packets) {
				take(&all[i].entry[way], false);
				if ((i - sets - aggregate_sets) * WAYS + way != 6 || all[i].entry[way].key.input != 1)
					fprintf(stderr, "a catch-all that is not the port's\n"), wrong++;
			}
	__u64 sent = 0, octets = 0;
	for (int i = 0; i < n_cpus; i++)
		sent += cpus[i].packets, octets += cpus[i].bytes;
	struct counters *c = &noted[6];
	printf("sent %llu packets, %llu octets; counted %llu, %llu in %llu entries by %llu sweeps; %llu were refused a place, %llu caught\n",
	       sent, octets, got_packets, got_bytes, in_flows, sweeps, c->reason[REFUSED].packets, c->reason[CAUGHT].packets);
	return wrong || sent != got_packets || octets != got_bytes;
}
