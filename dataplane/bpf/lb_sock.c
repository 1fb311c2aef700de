/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Services at the socket: a connect() or sendmsg() to a service's address
 * goes to one of its endpoints, and what comes back shows the service's
 * address. Attached to the machine's own cgroup2 directory, so that it sees
 * the sockets of the node and of its pods and nobody else's.
 *
 * An IPv4 address on an IPv6 socket is ::ffff:a.b.c.d for connect(), recvmsg()
 * and getpeername(), which is how the maps write it. A sendmsg() to one is
 * IPv4's in the kernel and comes by lb_sendmsg4.
 */
#include "lb_origin.h"
#include "lb_pick.h"

#include <stdbool.h>

#define EPERM 1
#define ECONNREFUSED 111

char _license[] SEC("license") = "GPL";

/* The node's own network namespace; set before loading. */
const volatile __u64 lb_node_netns = 0;

/* Whether the kernel takes an error from us; set before loading. Without, the
 * call fails all the same, with EPERM. */
const volatile bool lb_sets_retval = true;

/* The kernel does not run these programs for SCTP: see lb_node.c. */
static __always_inline int proto_of(struct bpf_sock_addr *ctx)
{
	return ctx->protocol == LB_TCP || ctx->protocol == LB_UDP;
}

/* Finds the entry for an address as this socket sees it. */
static __always_inline int find(struct bpf_sock_addr *ctx, const struct lb_addr *addr, __be16 port_be,
				struct lb_key *key, struct lb_service *svc)
{
	key->addr = *addr;
	key->port_be = port_be;
	key->proto = ctx->protocol;
	if (!lb_find(key, svc))
		return 0;
	return !(svc->flags & LB_NODE_ONLY) || bpf_get_netns_cookie(ctx) == lb_node_netns;
}

static __always_inline int refuse(int error)
{
	if (lb_sets_retval)
		bpf_set_retval(-error);
	return 0;
}

/* Says whether the service is open to the namespace that the socket is in. */
static __always_inline int may_call(struct bpf_sock_addr *ctx, const struct lb_service *svc)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	struct lb_identity *id = bpf_map_lookup_elem(&lb_identities, &netns);
	struct lb_addr from;

	if (!id)
		return 0;
	from = lb_is_v4(&svc->self.addr) ? id->v4 : id->v6;
	return lb_may_call(svc, &from);
}

/* Chooses for connect() and sendmsg(): enum lb_verdict, or minus the error. */
static __always_inline int choose(struct bpf_sock_addr *ctx, const struct lb_key *key,
				  struct lb_service *svc, struct lb_backend *b)
{
	struct lb_addr who = {};
	__u64 netns;

	if (svc->flags & LB_SOURCES && !may_call(ctx, svc)) {
		lb_count(LB_REFUSED_SOURCE);
		return -EPERM;
	}
	netns = bpf_get_netns_cookie(ctx);
	who.w[0] = netns >> 32;
	who.w[1] = netns;
	switch (lb_pick(key, svc, &who, b)) {
	case LB_MISS:
		return LB_MISS;
	case LB_TRANSLATE:
		return LB_TRANSLATE;
	}
	return -ECONNREFUSED;
}

static __always_inline void pair_of(struct lb_pair *p, const struct lb_addr *addr, __be16 port_be,
				    const struct lb_backend *b, const struct lb_service *svc)
{
	p->service = *addr;
	p->service_port_be = port_be;
	p->backend = b->addr;
	p->backend_port_be = b->port_be;
	p->group = svc->group;
	p->set = svc->set;
}

/* A UDP socket may connect elsewhere: what it was is no longer true. */
static __always_inline void forget_peer(struct bpf_sock_addr *ctx)
{
	if (ctx->protocol == LB_UDP)
		bpf_sk_storage_delete(&lb_peers, ctx->sk);
}

/* Translates for connect(); 0 refuses. */
static __always_inline int on_connect(struct bpf_sock_addr *ctx, struct lb_addr *addr, __be16 *port_be)
{
	struct lb_key key = {};
	struct lb_service svc = {};
	struct lb_backend b = {};
	struct lb_pair p = {}, *peer;
	int verdict;

	if (!proto_of(ctx))
		return 1;
	if (!find(ctx, addr, *port_be, &key, &svc)) {
		forget_peer(ctx);
		return 1;
	}
	verdict = choose(ctx, &key, &svc, &b);
	if (verdict < 0)
		return refuse(-verdict);
	if (verdict == LB_MISS)
		return 1;
	pair_of(&p, addr, *port_be, &b, &svc);
	peer = bpf_sk_storage_get(&lb_peers, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (peer)
		*peer = p;
	*addr = b.addr;
	*port_be = b.port_be;
	return 1;
}

static __always_inline int same_service(const struct lb_pair *p, const struct lb_addr *addr, __be16 port_be)
{
	return p->service_port_be == port_be && lb_same_addr(&p->service, addr);
}

static __always_inline int same_backend(const struct lb_pair *p, const struct lb_addr *addr, __be16 port_be)
{
	return p->backend_port_be == port_be && lb_same_addr(&p->backend, addr);
}

/*
 * Translates for sendmsg() on an unconnected socket. The socket stays with
 * its backend while that is one, as a flow in a connection tracker would.
 */
static __always_inline int on_sendmsg(struct bpf_sock_addr *ctx, struct lb_addr *addr, __be16 *port_be)
{
	struct lb_key key = {};
	struct lb_service svc = {};
	struct lb_backend b = {};
	struct lb_pair p = {}, *had;
	struct lb_ring *ring;
	int verdict;
	__u32 at;

	if (ctx->protocol != LB_UDP)
		return 1;
	if (!find(ctx, addr, *port_be, &key, &svc))
		return 1;
	ring = bpf_sk_storage_get(&lb_rings, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!ring) {
		lb_count(LB_REFUSED_BUSY);
		return refuse(ECONNREFUSED);
	}
	/* The service's own place if it has one, else the oldest. */
	at = ring->next;
	for (int i = 0; i < LB_RING; i++) {
		if (same_service(&ring->pairs[i], addr, *port_be))
			at = LB_RING + i;
	}
	had = &ring->pairs[at % LB_RING];
	if (at >= LB_RING) {
		b.addr = had->backend;
		b.port_be = had->backend_port_be;
		if (had->set == svc.set || lb_has(&key, &svc, &b, 1)) {
			had->set = svc.set;
			*addr = b.addr;
			*port_be = b.port_be;
			return 1;
		}
	}
	verdict = choose(ctx, &key, &svc, &b);
	if (verdict < 0)
		return refuse(-verdict);
	if (verdict == LB_MISS)
		return 1;
	pair_of(&p, addr, *port_be, &b, &svc);
	if (at < LB_RING)
		ring->next = (at + 1) % LB_RING;
	*had = p;
	*addr = b.addr;
	*port_be = b.port_be;
	return 1;
}

/* Turns a backend's address into the one the socket connected to. */
static __always_inline int on_getpeername(struct bpf_sock_addr *ctx, struct lb_addr *addr, __be16 *port_be)
{
	struct lb_pair *peer;

	if (!proto_of(ctx))
		return 0;
	peer = bpf_sk_storage_get(&lb_peers, ctx->sk, 0, 0);
	if (!peer || !same_backend(peer, addr, *port_be))
		return 0;
	*addr = peer->service;
	*port_be = peer->service_port_be;
	return 1;
}

static __always_inline int on_recvmsg(struct bpf_sock_addr *ctx, struct lb_addr *addr, __be16 *port_be)
{
	struct lb_ring *ring;

	if (on_getpeername(ctx, addr, port_be))
		return 1;
	ring = bpf_sk_storage_get(&lb_rings, ctx->sk, 0, 0);
	if (!ring)
		return 0;
	for (int i = 0; i < LB_RING; i++) {
		struct lb_pair *p = &ring->pairs[i];

		if (!same_backend(p, addr, *port_be))
			continue;
		*addr = p->service;
		*port_be = p->service_port_be;
		return 1;
	}
	return 0;
}

static __always_inline void load4(struct bpf_sock_addr *ctx, struct lb_addr *addr)
{
	lb_set_v4(addr, ctx->user_ip4);
}

static __always_inline void store4(struct bpf_sock_addr *ctx, const struct lb_addr *addr, __be16 port_be)
{
	ctx->user_ip4 = addr->w[3];
	ctx->user_port = port_be;
}

static __always_inline void load6(struct bpf_sock_addr *ctx, struct lb_addr *addr)
{
	addr->w[0] = ctx->user_ip6[0];
	addr->w[1] = ctx->user_ip6[1];
	addr->w[2] = ctx->user_ip6[2];
	addr->w[3] = ctx->user_ip6[3];
}

static __always_inline void store6(struct bpf_sock_addr *ctx, const struct lb_addr *addr, __be16 port_be)
{
	ctx->user_ip6[0] = addr->w[0];
	ctx->user_ip6[1] = addr->w[1];
	ctx->user_ip6[2] = addr->w[2];
	ctx->user_ip6[3] = addr->w[3];
	ctx->user_port = port_be;
}

SEC("cgroup/connect4")
int lb_connect4(struct bpf_sock_addr *ctx)
{
	__be16 port_be = ctx->user_port;
	struct lb_addr addr;

	load4(ctx, &addr);
	if (!on_connect(ctx, &addr, &port_be))
		return 0;
	store4(ctx, &addr, port_be);
	return 1;
}

SEC("cgroup/connect6")
int lb_connect6(struct bpf_sock_addr *ctx)
{
	__be16 port_be = ctx->user_port;
	struct lb_addr addr;

	load6(ctx, &addr);
	if (!on_connect(ctx, &addr, &port_be))
		return 0;
	store6(ctx, &addr, port_be);
	return 1;
}

SEC("cgroup/sendmsg4")
int lb_sendmsg4(struct bpf_sock_addr *ctx)
{
	__be16 port_be = ctx->user_port;
	struct lb_addr addr;

	load4(ctx, &addr);
	if (!on_sendmsg(ctx, &addr, &port_be))
		return 0;
	store4(ctx, &addr, port_be);
	return 1;
}

SEC("cgroup/sendmsg6")
int lb_sendmsg6(struct bpf_sock_addr *ctx)
{
	__be16 port_be = ctx->user_port;
	struct lb_addr addr;

	load6(ctx, &addr);
	if (!on_sendmsg(ctx, &addr, &port_be))
		return 0;
	store6(ctx, &addr, port_be);
	return 1;
}

SEC("cgroup/recvmsg4")
int lb_recvmsg4(struct bpf_sock_addr *ctx)
{
	__be16 port_be = ctx->user_port;
	struct lb_addr addr;

	load4(ctx, &addr);
	if (on_recvmsg(ctx, &addr, &port_be))
		store4(ctx, &addr, port_be);
	return 1;
}

SEC("cgroup/recvmsg6")
int lb_recvmsg6(struct bpf_sock_addr *ctx)
{
	__be16 port_be = ctx->user_port;
	struct lb_addr addr;

	load6(ctx, &addr);
	if (on_recvmsg(ctx, &addr, &port_be))
		store6(ctx, &addr, port_be);
	return 1;
}

SEC("cgroup/getpeername4")
int lb_getpeername4(struct bpf_sock_addr *ctx)
{
	__be16 port_be = ctx->user_port;
	struct lb_addr addr;

	load4(ctx, &addr);
	if (on_getpeername(ctx, &addr, &port_be))
		store4(ctx, &addr, port_be);
	return 1;
}

SEC("cgroup/getpeername6")
int lb_getpeername6(struct bpf_sock_addr *ctx)
{
	__be16 port_be = ctx->user_port;
	struct lb_addr addr;

	load6(ctx, &addr);
	if (on_getpeername(ctx, &addr, &port_be))
		store6(ctx, &addr, port_be);
	return 1;
}
