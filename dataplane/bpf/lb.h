/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Service load balancing: the structures and maps that the socket programs
 * (lb_sock.c), the packet programs (lb_nat.c) and the writer in
 * dataplane/lb/table share. lb_pick.h has the one way to look a service up.
 *
 * Names ending in _be are in network byte order.
 *
 * How a writer changes a service while readers run: the slots of a new set
 * first, then the one service entry that names the set, then the old set's
 * slots go. A reader that falls between finds no slot and looks again.
 * Elements of these hashes are reused at once for other keys, so every value
 * begins with its own identity, which the reader compares after it has copied
 * the rest: a value that was overwritten meanwhile begins with another one.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define LB_TCP 6
#define LB_UDP 17

enum lb_scope {
	LB_SCOPE_ALL = 0,
	/* Seen by the node's own sockets only; asked for when the entry of
	 * LB_SCOPE_ALL has LB_NODE_OWN. */
	LB_SCOPE_NODE = 1,
} __attribute__((packed));

struct lb_key {
	__be32 addr_be; /* 0: any address in lb_nodes */
	__be16 port_be;
	__u8 proto;
	enum lb_scope scope;
};
_Static_assert(sizeof(struct lb_key) == 8, "lb_key");

enum lb_flags {
	/* Only sockets in the node's own network namespace see the entry. */
	LB_NODE_ONLY = 1 << 0,
	/* externalTrafficPolicy Local: a socket of the node itself that calls
	 * another node's port sees that node's own endpoints. */
	LB_NODE_OWN = 1 << 1,
	/* lb_members lists the backends: affinity and UDP ask it. */
	LB_MEMBERS = 1 << 2,
};

struct lb_service {
	struct lb_key self;
	__u32 set;
	__u32 count; /* 0: refuse */
	__u32 affinity_s; /* 0: none */
	enum lb_flags flags;
};
_Static_assert(sizeof(struct lb_service) == 24, "lb_service");

struct lb_slot_key {
	__u32 set;
	__u32 index;
};
_Static_assert(sizeof(struct lb_slot_key) == 8, "lb_slot_key");

struct lb_backend {
	__be32 addr_be;
	__be16 port_be;
	__u16 pad;
};
_Static_assert(sizeof(struct lb_backend) == 8, "lb_backend");

struct lb_slot {
	struct lb_slot_key self;
	struct lb_backend backend;
};
_Static_assert(sizeof(struct lb_slot) == 16, "lb_slot");

struct lb_member {
	struct lb_key service;
	struct lb_backend backend;
};
_Static_assert(sizeof(struct lb_member) == 16, "lb_member");

struct lb_client {
	__u64 who; /* network namespace cookie, or the client's address */
	struct lb_key service;
};
_Static_assert(sizeof(struct lb_client) == 16, "lb_client");

struct lb_affinity {
	__u64 seen_ns;
	struct lb_backend backend;
};
_Static_assert(sizeof(struct lb_affinity) == 16, "lb_affinity");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_key);
	__type(value, struct lb_service);
} lb_services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_slot_key);
	__type(value, struct lb_slot);
} lb_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_member);
	__type(value, __u8);
} lb_members SEC(".maps");

enum lb_node_kind {
	LB_NODE_OTHER = 0,
	LB_NODE_SELF = 1,
};

/* The addresses on which node ports answer. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be32);
	__type(value, enum lb_node_kind);
} lb_nodes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct lb_client);
	__type(value, struct lb_affinity);
} lb_affinities SEC(".maps");
