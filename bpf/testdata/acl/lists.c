/* acl.h as any C compiler builds it: banks and questions on standard input,
 * answers on standard output, until the input ends. All in the machine's byte
 * order. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../acl.h"

enum { BANK = 1, QUESTION, ANSWER };

/* BANK: so many words follow; QUESTION: that; ANSWER: all
 * that was asked is to be answered now. */
struct message { __u32 kind, words; };
struct question { struct packet p; __u32 list, port, egress, ipv6; };
struct answer { struct acl_result r; __u32 judged, class, list, spare; };

int main(void)
{
	setvbuf(stdin, NULL, _IOFBF, 1 << 18);
	setvbuf(stdout, NULL, _IOFBF, 1 << 18);
	struct message m;
	void *bank = NULL;
	while (fread(&m, sizeof m, 1, stdin) == 1) {
		if (m.kind == BANK) {
			free(bank);
			bank_size = (m.words + BANK_WORDS - 1) / BANK_WORDS;
			bank_pages = bank = calloc(bank_size, sizeof *bank_pages); /* exactly: a sanitizer watches */
			if (!bank || fread(bank, sizeof(__u64), m.words, stdin) != m.words)
				return fprintf(stderr, "a bank is cut\n"), 1;
			continue;
		}
		if (m.kind == ANSWER) {
			fflush(stdout);
			continue;
		}
		struct question q;
		if (fread(&q, sizeof q, 1, stdin) != 1)
			return fprintf(stderr, "a question is cut\n"), 1;
		struct answer a = { 0 };
		__u64 answer = acl_classify(0, q.list, &q.p);
		a.r = acl_result(answer);
		a.judged = answer != 0;
		a.class = acl_class(0, &q.p);
		a.list = acl_list(0, q.port, q.egress, q.ipv6);
		if (fwrite(&a, sizeof a, 1, stdout) != 1)
			return perror("write"), 1;
	}
	free(bank);
	return fflush(stdout) ? perror("write"), 1 : 0;
}
