/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Connected UDP sockets whose backend is gone: nobody tells them, as nobody
 * answers. lb_find_stale looks whether there are any, in all network
 * namespaces at once; lb_end_stale ends those of the namespace in which its
 * iterator was opened. Loaded when a backend leaves for the first time.
 */
#include "lb_origin.h"

char _license[] SEC("license") = "GPL";

/* A backend that serves a service port no more. */
struct lb_dead {
	__u32 group;
	struct lb_backend backend;
};
_Static_assert(sizeof(struct lb_dead) == 24, "lb_dead");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_dead);
	__type(value, __u8);
} lb_dead_backends SEC(".maps");

/* How many were found, and how many ended, since the start. */
__u64 lb_stale_found;
__u64 lb_stale_ended;

/* Named only; the kernel knows what is in them. */
struct sock_common {
	__u8 first;
};
struct udp_sock;

extern int bpf_sock_destroy(struct sock_common *sk) __ksym;

/* What the kernel gives iterators; pointers take eight bytes everywhere. */
struct udp_context {
	__u64 meta;
	struct udp_sock *sk;
};

struct storage_context {
	__u64 meta;
	__u64 map;
	__u64 sk;
	struct lb_pair *value;
};

static __always_inline int is_stale(const struct lb_pair *p)
{
	struct lb_dead key = {};

	key.group = p->group;
	key.backend.addr = p->backend;
	key.backend.port_be = p->backend_port_be;
	return bpf_map_lookup_elem(&lb_dead_backends, &key) != NULL;
}

SEC("iter/bpf_sk_storage_map")
int lb_find_stale(struct storage_context *ctx)
{
	struct lb_pair *p = ctx->value;

	if (p && is_stale(p))
		__sync_fetch_and_add(&lb_stale_found, 1);
	return 0;
}

SEC("iter/udp")
int lb_end_stale(struct udp_context *ctx)
{
	struct udp_sock *sk = ctx->sk;
	struct lb_pair *p;

	if (!sk)
		return 0;
	p = bpf_sk_storage_get(&lb_peers, sk, 0, 0);
	if (!p || !is_stale(p))
		return 0;
	if (!bpf_sock_destroy((struct sock_common *)sk))
		__sync_fetch_and_add(&lb_stale_ended, 1);
	return 0;
}
