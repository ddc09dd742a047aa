/* The part of parse.h that knows the hook: CONTEXT is its context, HOOK makes
 * names for it. parse.h includes it once for each.
 *
 * Functions that are not static are checked by the verifier once, by themselves,
 * and not anew for each way that leads to them; and what they are given to
 * change is unknown to it afterwards. So what there is to check is the sum of
 * the headers' code, and not the product of their orders. Each call costs a few
 * ns (more on processors whose returns are guarded), which is why what is met
 * every day goes without: see read_plain.
 */

/* HOOK(read_header) is read_header. */
__noinline __u64 HOOK(read_header)(CONTEXT *context, struct walk *w)
{
	return w ? read_header(w, BEGIN(context), END(context)) : TOO_DEEP;
}

/* HOOK(retry) is retry; one more Ethernet header may be read if more. */
__noinline int HOOK(retry)(struct walk *w, int more)
{
	return w ? retry(w, more) : 0;
}

/* HOOK(agrees) says whether the version of the IP header here is what was
 * announced. */
__noinline int HOOK(agrees)(CONTEXT *context, struct walk *w)
{
	if (!w)
		return 0;
	const __u8 *b = place(BEGIN(context), w->off);
	return have(w, b, 1, END(context)) && b[0] >> 4 == (w->next == TYPE_IPV4 ? 4 : 6);
}

/* HOOK(find_ip) walks to the outermost IP header. */
static __always_inline __u32 HOOK(find_ip)(CONTEXT *context, struct walk *w)
{
	const __u8 *data = BEGIN(context), *data_end = END(context);
	if (is_ip(w))
		return DECODED;
	for (__u64 i = 0; i <= MAX_HEADERS; i++) {
		__u64 step = TOO_DEEP;
		if (i < MAX_HEADERS) {
			step = read_plain(w, data, data_end);
			if (!step)
				step = HOOK(read_header)(context, w);
		}
		step = hide(step, w->length);
		__u32 why = step & 0xff;
		if (why == DECODED) {
			w->off = hide(w->off + (step >> 8 & 0xffff), w->length);
			w->next = hide(step >> 32, w->length);
			if (!is_ip(w))
				continue;
			/* A try has succeeded if the first four bits agree. */
			if (!hide(w->retry[0], w->length) || HOOK(agrees)(context, w))
				return DECODED;
		} else if (!hide(w->retry[0], w->length)) {
			return why;
		}
		if (!HOOK(retry)(w, i < MAX_HEADERS))
			return MPLS_PAYLOAD;
		if (is_ip(w))
			return DECODED;
	}
	return TOO_DEEP;
}

/* HOOK(jumbo_length) is jumbo_length. */
__noinline __u32 HOOK(jumbo_length)(CONTEXT *context, struct walk *w)
{
	return w ? jumbo_length(w, BEGIN(context), END(context)) : 0;
}

/* HOOK(read_extension) is read_extension. */
__noinline int HOOK(read_extension)(CONTEXT *context, struct walk *w)
{
	return w ? read_extension(w, BEGIN(context), END(context)) : 0;
}

/* HOOK(read_ipv6) reads an IPv6 header and its extension headers. */
static __always_inline __u32 HOOK(read_ipv6)(CONTEXT *context, struct walk *w, __u32 wire, struct packet *p)
{
	const __u8 *h = place(BEGIN(context), w->off);
	if (!have(w, h, 40, END(context)))
		return TRUNCATED_IP;
	__u32 first = NETWORK32(LOAD(__u32, h)), length = 40 + NETWORK16(LOAD(__u16, h + 4)), proto = h[6];
	if (first >> 28 != 6)
		return BAD_VERSION;
	store_ipv6(p, h);
	p->ttl = h[7];
	if (length == 40) {
		if (proto == EXT_HOP_BY_HOP) {
			length = HOOK(jumbo_length)(context, w);
		} else {
			/* Linux' BIG TCP: too long for the field, and the jumbo option is
			 * not there yet or no longer. */
			__u32 whole = beyond(w, wire);
			if (whole > 40 + 65535)
				length = whole;
		}
	}
	p->length = length;
	limit(w, w->off, length);
	w->vlan |= KEY_IPV6;
	go_on(w, GO_ON(40, proto));
	for (__u64 i = 0; i < MAX_EXTENSIONS; i++) {
		if (w->next != EXT_HOP_BY_HOP && w->next != EXT_ROUTING && w->next != EXT_FRAGMENT && w->next != EXT_DESTINATION)
			break;
		if (!HOOK(read_extension)(context, w))
			break;
	}
	p->word[10] = WORD_LAST(w->vlan, w->next, first >> 20 & 0xff);
	return DECODED;
}

/* HOOK(parse_slow) reads any frame from its start, which is what next says. A
 * tag that is no longer in the frame is in p->key.vlan. */
__noinline int HOOK(parse_slow)(CONTEXT *context, __u32 wire, __u32 next, struct packet *p)
{
	const __u8 *data = BEGIN(context), *data_end = END(context);
	if (!p)
		return UNKNOWN_LINK;
	__u64 any = data_end - data;
	struct walk w = {
		.length = any,
		.off    = hide(0, any),
		.next   = hide(next, any),
		.end    = hide(UNTOLD, any),
		.vlan   = hide(p->key.vlan, any),
		.want   = hide(0, any),
	};
	for (int i = 0; i < MAX_TRIES; i++)
		w.retry[i] = hide(0, any);
	__u32 why = HOOK(find_ip)(context, &w);
	if (why == DECODED) {
		p->network = w.off;
		if (w.next == TYPE_IPV6)
			why = HOOK(read_ipv6)(context, &w, wire, p);
		else
			why = read_ipv4(&w, data, data_end, wire, p);
		if (why == DECODED)
			read_transport(&w, data, data_end, p);
	}
	p->want = w.want;
	return why;
}
