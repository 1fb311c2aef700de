/* SPDX-License-Identifier: GPL-2.0 */
/* How programs read the service maps; see lb.h for what they must expect. */
#pragma once

#include "lb.h"

/* How often a reader looks again when it fell between two writes. */
#define LB_TRIES 5

static __always_inline int lb_same_key(const struct lb_key *a, const struct lb_key *b)
{
	return a->addr_be == b->addr_be && a->port_be == b->port_be &&
	       a->proto == b->proto && a->scope == b->scope;
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

	if (!key || !out)
		return 0;
#pragma unroll
	for (int i = 0; i < 3; i++) {
		s = bpf_map_lookup_elem(&lb_services, key);
		if (!s)
			return 0;
		out->set = s->set;
		out->count = s->count;
		out->affinity_s = s->affinity_s;
		out->flags = s->flags;
		barrier();
		/* Last: see the head of lb.h. */
		out->self = *(volatile struct lb_key *)&s->self;
		if (lb_same_key(&out->self, key))
			return 1;
	}
	return 0;
}

__noinline int lb_is_member(const struct lb_key *service, const struct lb_backend *b)
{
	struct lb_member m = {};

	if (!service || !b)
		return 0;
	m.service = *service;
	m.backend.addr_be = b->addr_be;
	m.backend.port_be = b->port_be;
	return bpf_map_lookup_elem(&lb_members, &m) != NULL;
}

/* Copies one slot of a set; 0 when the set is gone or going. */
static __always_inline int lb_slot(__u32 set, __u32 index, struct lb_backend *out)
{
	struct lb_slot_key key = {};
	struct lb_slot *s;
	struct lb_slot_key self;

	key.set = set;
	key.index = index;
	s = bpf_map_lookup_elem(&lb_slots, &key);
	if (!s)
		return 0;
	out->addr_be = s->backend.addr_be;
	out->port_be = s->backend.port_be;
	out->pad = 0;
	barrier();
	self = *(volatile struct lb_slot_key *)&s->self;
	return self.set == set && self.index == index;
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
__noinline int lb_pick(const struct lb_key *key, struct lb_service *svc, __u64 who,
		       struct lb_backend *out)
{
	struct lb_client client = {};
	struct lb_affinity now = {};
	int affine;

	if (!key || !svc || !out)
		return LB_REFUSE;
	affine = svc->affinity_s != 0;
	if (affine) {
		struct lb_affinity *a;

		client.who = who;
		client.service = *key;
		now.seen_ns = bpf_ktime_get_ns();
		a = bpf_map_lookup_elem(&lb_affinities, &client);
		if (a) {
			__u64 seen = a->seen_ns;

			now.backend.addr_be = a->backend.addr_be;
			now.backend.port_be = a->backend.port_be;
			/* A backend that left is no member any more. */
			if (now.seen_ns - seen < svc->affinity_s * 1000000000ULL &&
			    lb_is_member(key, &now.backend)) {
				*out = now.backend;
				bpf_map_update_elem(&lb_affinities, &client, &now, BPF_ANY);
				return LB_TRANSLATE;
			}
		}
	}
#pragma unroll
	for (int i = 0; i < LB_TRIES; i++) {
		if (svc->count == 0)
			return LB_REFUSE;
		if (lb_slot(svc->set, bpf_get_prandom_u32() % svc->count, out)) {
			if (affine) {
				now.backend = *out;
				bpf_map_update_elem(&lb_affinities, &client, &now, BPF_ANY);
			}
			return LB_TRANSLATE;
		}
		if (!lb_lookup(key, svc))
			return LB_MISS;
	}
	return LB_REFUSE;
}
