/* SPDX-License-Identifier: GPL-2.0 */
/* How programs read the service maps; see lb.h for what they must expect. */
#pragma once

#include "lb.h"

/* How often a reader looks again when it fell between two writes. */
#define LB_TRIES 5

/* A set has no more than 2 to the power of so many backends. */
#define LB_SEARCH 16

static __always_inline int lb_same_addr(const struct lb_addr *a, const struct lb_addr *b)
{
	return a->w[3] == b->w[3] && a->w[0] == b->w[0] && a->w[1] == b->w[1] &&
	       a->w[2] == b->w[2];
}

static __always_inline int lb_is_v4(const struct lb_addr *a)
{
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == bpf_htonl(0xffff);
}

static __always_inline void lb_set_v4(struct lb_addr *a, __be32 v4_be)
{
	a->w[0] = 0;
	a->w[1] = 0;
	a->w[2] = bpf_htonl(0xffff);
	a->w[3] = v4_be;
}

static __always_inline int lb_same_key(const struct lb_key *a, const struct lb_key *b)
{
	return lb_same_addr(&a->addr, &b->addr) && a->port_be == b->port_be &&
	       a->proto == b->proto && a->scope == b->scope;
}

static __always_inline void lb_count(enum lb_counter which)
{
	__u64 *n = bpf_map_lookup_elem(&lb_counters, &which);

	if (n)
		*n += 1;
}

/*
 * The functions that are not static are verified once, each for itself, and
 * not once a path that leads to them: programs load in a fourth of the time.
 * For that they check their pointers, which are never NULL.
 */

/* Copies the service entry; 0 when there is none. */
__noinline int lb_lookup(const struct lb_key *key, struct lb_service *out)
{
	struct lb_service *s;
	struct lb_key at;

	if (!key || !out)
		return 0;
	/* Before 6.2 a map's key is on the program's own stack. */
	at = *key;
	for (int i = 0; i < 3; i++) {
		s = bpf_map_lookup_elem(&lb_services, &at);
		if (!s)
			return 0;
		out->set = s->set;
		out->count = s->count;
		out->total = s->total;
		out->affinity_s = s->affinity_s;
		out->group = s->group;
		out->sources = s->sources;
		out->flags = s->flags;
		barrier();
		/* Last: see the head of lb.h. */
		out->self = *(volatile struct lb_key *)&s->self;
		if (lb_same_key(&out->self, &at))
			return 1;
	}
	return 0;
}

/* Makes key the one under which every node address of a family answers. */
static __always_inline void lb_any_key(struct lb_key *key)
{
	int v4 = lb_is_v4(&key->addr);

	key->addr.w[0] = 0;
	key->addr.w[1] = 0;
	key->addr.w[2] = v4 ? bpf_htonl(0xffff) : 0;
	key->addr.w[3] = 0;
	key->scope = LB_SCOPE_ANY;
}

/*
 * Finds the entry for the address and port in key, as a node and its pods see
 * it; key becomes the one of the entry. Who finds one with LB_NODE_ONLY asks
 * whether the client may see it.
 */
static __always_inline int lb_find(struct lb_key *key, struct lb_service *svc)
{
	struct lb_addr called = key->addr;
	enum lb_node_kind *kind, node;

	key->scope = LB_SCOPE_ALL;
	if (lb_lookup(key, svc))
		return 1;
	kind = bpf_map_lookup_elem(&lb_nodes, &called);
	if (!kind)
		return 0;
	node = *kind;
	lb_any_key(key);
	if (!lb_lookup(key, svc))
		return 0;
	if (!(svc->flags & LB_NODE_OWN) || node == LB_NODE_SELF)
		return 1;
	key->addr = called;
	key->scope = LB_SCOPE_NODE;
	return lb_lookup(key, svc);
}

/* Copies one backend of a set; 0 when the set is gone or going. */
__noinline int lb_backend_at(__u32 set, __u32 index, struct lb_backend *out)
{
	struct lb_chunk_key key = {}, self;
	struct lb_chunk *c;
	__u32 at = index % LB_CHUNK;

	if (!out)
		return 0;
	key.set = set;
	key.index = index / LB_CHUNK;
	c = bpf_map_lookup_elem(&lb_chunks, &key);
	if (!c)
		return 0;
	/* What the compiler knows, the verifier wants to see. */
	asm volatile("" : "+r"(at));
	if (at >= LB_CHUNK)
		return 0;
	out->addr = c->backends[at].addr;
	out->port_be = c->backends[at].port_be;
	out->pad = 0;
	barrier();
	self = *(volatile struct lb_chunk_key *)&c->self;
	return self.set == set && self.index == key.index;
}

static __always_inline int lb_order(__u32 a, __u32 b)
{
	return a < b ? -1 : a > b;
}

/* The order in which sets are sorted: negative when a comes before b. */
static __always_inline int lb_compare(const struct lb_backend *a, const struct lb_backend *b)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		if (a->addr.w[i] != b->addr.w[i])
			return lb_order(a->addr.w[i], b->addr.w[i]);
	}
	return lb_order(a->port_be, b->port_be);
}

/* What is left to search, from lo to before hi. */
struct lb_range {
	__u32 set;
	__u32 lo;
	__u32 hi;
};

/* Halves what is left to search. Returns 1 when it found the backend, -1 when
 * the set goes away, else 0. */
__noinline int lb_halve(struct lb_range *r, const struct lb_backend *b)
{
	struct lb_backend x = {};
	__u32 mid;
	int order;

	if (!r || !b)
		return -1;
	mid = r->lo + (r->hi - r->lo) / 2;
	if (!lb_backend_at(r->set, mid, &x))
		return -1;
	order = lb_compare(&x, b);
	if (order == 0)
		return 1;
	if (order < 0)
		r->lo = mid + 1;
	else
		r->hi = mid;
	return 0;
}

/* Says whether a backend is among those from lo to before hi of a set: 1, 0,
 * or -1 when the set goes away. */
__noinline int lb_search(__u32 set, __u32 lo, __u32 hi, const struct lb_backend *b)
{
	struct lb_range r = {.set = set, .lo = lo, .hi = hi};

	if (!b)
		return 0;
	for (int i = 0; i < LB_SEARCH && r.lo < r.hi; i++) {
		int found = lb_halve(&r, b);

		if (found)
			return found;
	}
	return 0;
}

/*
 * Says whether a backend still is one of the service, which is renewed when
 * its set went away under us. flows: those that only keep their flows count.
 */
__noinline int lb_has(const struct lb_key *key, struct lb_service *svc, const struct lb_backend *b,
		      int flows)
{
	if (!key || !svc || !b)
		return 0;
	for (int i = 0; i < LB_TRIES; i++) {
		int found = lb_search(svc->set, 0, svc->count, b);

		if (!found && flows)
			found = lb_search(svc->set, svc->count, svc->total, b);
		if (found >= 0)
			return found;
		if (!lb_lookup(key, svc))
			return 0;
	}
	return 0;
}

/* Says whether a client's address is in the list of those who may call. */
static __always_inline int lb_may_call(const struct lb_service *svc, const struct lb_addr *client)
{
	struct lb_source key = {};

	if (!(svc->flags & LB_SOURCES))
		return 1;
	key.bits = 32 + 128;
	key.list = svc->sources;
	key.addr = *client;
	return bpf_map_lookup_elem(&lb_sources, &key) != NULL;
}

enum lb_verdict {
	LB_MISS, /* not a service */
	LB_REFUSE, /* a service without endpoints */
	LB_TRANSLATE,
};

/*
 * Picks a backend of the service. svc is the entry found for key, renewed
 * when its set went away under us. who names the client for affinity. Returns
 * enum lb_verdict.
 */
__noinline int lb_pick(const struct lb_key *key, struct lb_service *svc, const struct lb_addr *who,
		       struct lb_backend *out)
{
	struct lb_client client = {};
	struct lb_affinity now = {};
	int affine, found = 0;

	if (!key || !svc || !out || !who)
		return LB_REFUSE;
	affine = svc->affinity_s != 0;
	if (affine) {
		struct lb_affinity *a;

		client.who = *who;
		client.group = svc->group;
		now.seen_ns = bpf_ktime_get_ns();
		a = bpf_map_lookup_elem(&lb_affinities, &client);
		if (a) {
			__u64 seen = a->seen_ns;

			now.backend = a->backend;
			/* A backend that left is no member any more. */
			if (now.seen_ns - seen < svc->affinity_s * 1000000000ULL &&
			    lb_has(key, svc, &now.backend, 0)) {
				*out = now.backend;
				bpf_map_update_elem(&lb_affinities, &client, &now, BPF_ANY);
				return LB_TRANSLATE;
			}
		}
	}
	for (int i = 0; i < LB_TRIES && !found; i++) {
		if (svc->count == 0) {
			lb_count(LB_REFUSED_NO_ENDPOINT);
			return LB_REFUSE;
		}
		found = lb_backend_at(svc->set, bpf_get_prandom_u32() % svc->count, out);
		if (!found && !lb_lookup(key, svc))
			return LB_MISS;
	}
	if (!found) {
		lb_count(LB_REFUSED_BUSY);
		return LB_REFUSE;
	}
	if (affine) {
		now.backend = *out;
		bpf_map_update_elem(&lb_affinities, &client, &now, BPF_ANY);
	}
	return LB_TRANSLATE;
}
