/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Services at the socket: a connect() or sendmsg() to a service's address
 * goes to one of its endpoints, and what comes back shows the service's
 * address. Attached to the machine's own cgroup2 directory, so that it sees
 * the sockets of the node and of its pods and nobody else's.
 */
#include "lb_pick.h"

#define ECONNREFUSED 111

char _license[] SEC("license") = "GPL";

/* The node's own network namespace; set before loading. */
const volatile __u64 lb_node_netns = 0;

/* How many services one unconnected UDP socket may call at a time and still
 * get each answer under the right name. */
#define LB_RING 4

struct lb_pair {
	__be32 service_addr_be;
	__be32 backend_addr_be;
	__be16 service_port_be;
	__be16 backend_port_be;
};
_Static_assert(sizeof(struct lb_pair) == 12, "lb_pair");

/* What a socket was translated to. */
struct lb_origin {
	struct lb_pair peer; /* by connect */
	struct lb_pair ring[LB_RING]; /* by sendmsg */
	__u32 next;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct lb_origin);
} lb_origins SEC(".maps");

static __always_inline int proto_of(struct bpf_sock_addr *ctx)
{
	return ctx->protocol == LB_TCP || ctx->protocol == LB_UDP;
}

/* Finds the entry for an address as this socket sees it. */
static __always_inline int find(struct bpf_sock_addr *ctx, __be32 addr_be, __be16 port_be,
				struct lb_key *key, struct lb_service *svc)
{
	enum lb_node_kind *kind, node;

	key->addr_be = addr_be;
	key->port_be = port_be;
	key->proto = ctx->protocol;
	key->scope = LB_SCOPE_ALL;
	if (lb_lookup(key, svc)) {
		if (!(svc->flags & LB_NODE_ONLY))
			return 1;
		return bpf_get_netns_cookie(ctx) == lb_node_netns;
	}

	kind = bpf_map_lookup_elem(&lb_nodes, &addr_be);
	if (!kind)
		return 0;
	node = *kind;
	key->addr_be = 0;
	if (!lb_lookup(key, svc))
		return 0;
	if (!(svc->flags & LB_NODE_OWN) || node == LB_NODE_SELF ||
	    bpf_get_netns_cookie(ctx) != lb_node_netns)
		return 1;
	key->addr_be = addr_be;
	key->scope = LB_SCOPE_NODE;
	return lb_lookup(key, svc);
}

static __always_inline void remember_peer(struct bpf_sock_addr *ctx, const struct lb_pair *p)
{
	struct lb_origin *o;

	o = bpf_sk_storage_get(&lb_origins, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (o)
		o->peer = *p;
}

/* A UDP socket may connect elsewhere: what it was is no longer true. */
static __always_inline void forget_peer(struct bpf_sock_addr *ctx)
{
	struct lb_origin *o;

	if (ctx->protocol != LB_UDP)
		return;
	o = bpf_sk_storage_get(&lb_origins, ctx->sk, 0, 0);
	if (o)
		__builtin_memset(&o->peer, 0, sizeof(o->peer));
}

static __always_inline int refuse(void)
{
	bpf_set_retval(-ECONNREFUSED);
	return 0;
}

/* Translates *addr_be and *port_be for connect(); 0 refuses. */
static __always_inline int on_connect(struct bpf_sock_addr *ctx, __be32 *addr_be, __be16 *port_be)
{
	struct lb_key key = {};
	struct lb_service svc = {};
	struct lb_backend b = {};
	struct lb_pair p = {};

	if (!proto_of(ctx))
		return 1;
	if (!find(ctx, *addr_be, *port_be, &key, &svc)) {
		forget_peer(ctx);
		return 1;
	}
	switch (lb_pick(&key, &svc, bpf_get_netns_cookie(ctx), &b)) {
	case LB_MISS:
		return 1;
	case LB_REFUSE:
		return refuse();
	case LB_TRANSLATE:
		break;
	}
	p.service_addr_be = *addr_be;
	p.service_port_be = *port_be;
	p.backend_addr_be = b.addr_be;
	p.backend_port_be = b.port_be;
	remember_peer(ctx, &p);
	*addr_be = b.addr_be;
	*port_be = b.port_be;
	return 1;
}

static __always_inline int same_service(const struct lb_pair *p, __be32 addr_be, __be16 port_be)
{
	return p->service_addr_be == addr_be && p->service_port_be == port_be;
}

static __always_inline int same_backend(const struct lb_pair *p, __be32 addr_be, __be16 port_be)
{
	return p->backend_addr_be == addr_be && p->backend_port_be == port_be;
}

/*
 * Translates for sendmsg() on an unconnected socket. The socket stays with
 * its backend while that is one, as a flow in a connection tracker would.
 */
static __always_inline int on_sendmsg(struct bpf_sock_addr *ctx, __be32 *addr_be, __be16 *port_be)
{
	struct lb_key key = {};
	struct lb_service svc = {};
	struct lb_backend b = {};
	struct lb_pair p = {};
	struct lb_origin *o;
	__u32 at;

	if (ctx->protocol != LB_UDP)
		return 1;
	if (!find(ctx, *addr_be, *port_be, &key, &svc))
		return 1;
	o = bpf_sk_storage_get(&lb_origins, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!o)
		return refuse();
	if (svc.affinity_s == 0) {
		for (int i = 0; i < LB_RING; i++) {
			if (!same_service(&o->ring[i], *addr_be, *port_be))
				continue;
			b.addr_be = o->ring[i].backend_addr_be;
			b.port_be = o->ring[i].backend_port_be;
			if (lb_is_member(&key, &b)) {
				*addr_be = b.addr_be;
				*port_be = b.port_be;
				return 1;
			}
		}
	}
	switch (lb_pick(&key, &svc, bpf_get_netns_cookie(ctx), &b)) {
	case LB_MISS:
		return 1;
	case LB_REFUSE:
		return refuse();
	case LB_TRANSLATE:
		break;
	}
	p.service_addr_be = *addr_be;
	p.service_port_be = *port_be;
	p.backend_addr_be = b.addr_be;
	p.backend_port_be = b.port_be;

	/* The service's own place if it has one, else the oldest. */
	at = o->next;
	for (int i = 0; i < LB_RING; i++) {
		if (same_service(&o->ring[i], *addr_be, *port_be))
			at = i;
	}
	if (at == o->next)
		o->next = (at + 1) % LB_RING;
	o->ring[at % LB_RING] = p;
	*addr_be = b.addr_be;
	*port_be = b.port_be;
	return 1;
}

/* Turns a backend's address into the one the socket asked for. */
static __always_inline void on_getpeername(struct bpf_sock_addr *ctx, __be32 *addr_be,
					   __be16 *port_be)
{
	struct lb_origin *o;

	if (!proto_of(ctx))
		return;
	o = bpf_sk_storage_get(&lb_origins, ctx->sk, 0, 0);
	if (o && same_backend(&o->peer, *addr_be, *port_be)) {
		*addr_be = o->peer.service_addr_be;
		*port_be = o->peer.service_port_be;
	}
}

static __always_inline void on_recvmsg(struct bpf_sock_addr *ctx, __be32 *addr_be, __be16 *port_be)
{
	struct lb_origin *o;

	o = bpf_sk_storage_get(&lb_origins, ctx->sk, 0, 0);
	if (!o)
		return;
	if (same_backend(&o->peer, *addr_be, *port_be)) {
		*addr_be = o->peer.service_addr_be;
		*port_be = o->peer.service_port_be;
		return;
	}
	for (int i = 0; i < LB_RING; i++) {
		if (!same_backend(&o->ring[i], *addr_be, *port_be))
			continue;
		*addr_be = o->ring[i].service_addr_be;
		*port_be = o->ring[i].service_port_be;
		return;
	}
}

SEC("cgroup/connect4")
int lb_connect4(struct bpf_sock_addr *ctx)
{
	__be32 addr_be = ctx->user_ip4;
	__be16 port_be = ctx->user_port;

	if (!on_connect(ctx, &addr_be, &port_be))
		return 0;
	ctx->user_ip4 = addr_be;
	ctx->user_port = port_be;
	return 1;
}

SEC("cgroup/sendmsg4")
int lb_sendmsg4(struct bpf_sock_addr *ctx)
{
	__be32 addr_be = ctx->user_ip4;
	__be16 port_be = ctx->user_port;

	if (!on_sendmsg(ctx, &addr_be, &port_be))
		return 0;
	ctx->user_ip4 = addr_be;
	ctx->user_port = port_be;
	return 1;
}

SEC("cgroup/recvmsg4")
int lb_recvmsg4(struct bpf_sock_addr *ctx)
{
	__be32 addr_be = ctx->user_ip4;
	__be16 port_be = ctx->user_port;

	on_recvmsg(ctx, &addr_be, &port_be);
	ctx->user_ip4 = addr_be;
	ctx->user_port = port_be;
	return 1;
}

SEC("cgroup/getpeername4")
int lb_getpeername4(struct bpf_sock_addr *ctx)
{
	__be32 addr_be = ctx->user_ip4;
	__be16 port_be = ctx->user_port;

	on_getpeername(ctx, &addr_be, &port_be);
	ctx->user_ip4 = addr_be;
	ctx->user_port = port_be;
	return 1;
}

/* ::ffff:a.b.c.d, an IPv4 address on an IPv6 socket. A sendmsg() to one is
 * IPv4's in the kernel and comes by lb_sendmsg4. */
static __always_inline int v4_mapped(struct bpf_sock_addr *ctx)
{
	return ctx->user_ip6[0] == 0 && ctx->user_ip6[1] == 0 &&
	       ctx->user_ip6[2] == bpf_htonl(0xffff);
}

SEC("cgroup/connect6")
int lb_connect6(struct bpf_sock_addr *ctx)
{
	__be32 addr_be;
	__be16 port_be = ctx->user_port;

	if (!v4_mapped(ctx))
		return 1;
	addr_be = ctx->user_ip6[3];
	if (!on_connect(ctx, &addr_be, &port_be))
		return 0;
	ctx->user_ip6[3] = addr_be;
	ctx->user_port = port_be;
	return 1;
}

SEC("cgroup/recvmsg6")
int lb_recvmsg6(struct bpf_sock_addr *ctx)
{
	__be32 addr_be;
	__be16 port_be = ctx->user_port;

	if (!v4_mapped(ctx))
		return 1;
	addr_be = ctx->user_ip6[3];
	on_recvmsg(ctx, &addr_be, &port_be);
	ctx->user_ip6[3] = addr_be;
	ctx->user_port = port_be;
	return 1;
}

SEC("cgroup/getpeername6")
int lb_getpeername6(struct bpf_sock_addr *ctx)
{
	__be32 addr_be;
	__be16 port_be = ctx->user_port;

	if (!v4_mapped(ctx))
		return 1;
	addr_be = ctx->user_ip6[3];
	on_getpeername(ctx, &addr_be, &port_be);
	ctx->user_ip6[3] = addr_be;
	ctx->user_port = port_be;
	return 1;
}
