/* parse.h as any C compiler builds it: questions on standard input, answers on
 * standard output, until the input ends; with an argument, each answer at once.
 * All in the machine's byte order. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../parse.h"

struct question { __u32 start, vlan, wire, length; }; /* length octets follow */
struct answer { struct packet p; __u32 reason, headers; };

#define MOST 65536 /* octets of a frame */

static __u32 ask(const struct question *q, struct frame *f, struct packet *p)
{
	switch (q->start) {
	case NEXT_ETHERNET:
		return parse_ethernet(f, q->wire, q->vlan, p);
	case NEXT_RAW:
		return parse_raw(f, q->wire, p);
	default:
		return parse_network(f, q->wire, q->start, q->vlan, p);
	}
}

int main(int args, char **arg)
{
	(void)arg;
	long page = sysconf(_SC_PAGESIZE);
	char *room = mmap(NULL, MOST + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED || mprotect(room + MOST, page, PROT_NONE))
		return perror("mmap"), 1;
	setvbuf(stdin, NULL, _IOFBF, 1 << 18);
	setvbuf(stdout, NULL, _IOFBF, 1 << 18);
	struct question q;
	while (fread(&q, sizeof q, 1, stdin) == 1) {
		if (q.length > MOST)
			return fprintf(stderr, "a frame of %u octets\n", q.length), 1;
#ifdef EXACT /* for a sanitizer, which watches what is in front, too */
		char *data = malloc(q.length ? q.length : 1);
#else
		char *data = room + MOST - q.length; /* behind it is nothing that can be read */
#endif
		if (q.length && fread(data, q.length, 1, stdin) != 1)
			return fprintf(stderr, "a frame is cut\n"), 1;
		struct frame f = { (const __u8 *)data, (const __u8 *)data + q.length };
		struct answer a, slow;
		memset(&a, 0xa5, sizeof a); /* what was there before must not show */
		memset(&slow, 0x5a, sizeof slow);
		a.reason = ask(&q, &f, &a.p);
		a.headers = a.reason == DECODED ? headers(f.data, f.data_end, &a.p) : 0;
		slow.reason = parse_slow_frame(&f, q.wire, q.start, blank(&slow.p, q.vlan));
		a.p.key.input = slow.p.key.input = 0;
		a.p.frame = slow.p.frame = 0;
		if (slow.reason != a.reason || slow.p.want != a.p.want || (a.reason == DECODED && memcmp(&slow.p, &a.p, sizeof a.p)))
			a.reason |= 0x80; /* the fast path and the slow one disagree */
		if (fwrite(&a, sizeof a, 1, stdout) != 1 || (args > 1 && fflush(stdout)))
			return perror("write"), 1;
#ifdef EXACT
		free(data);
#endif
	}
	return fflush(stdout) ? perror("write"), 1 : 0;
}
