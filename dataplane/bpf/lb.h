/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Service load balancing: the structures and maps that the socket programs
 * (lb_sock.c), the packet programs (lb_nat.c, lb_node.c) and the writer in
 * dataplane/lb/table share. lb_pick.h has the one way to look a service up.
 *
 * Names ending in _be are in network byte order. Addresses are 16 bytes; IPv4
 * is written ::ffff:a.b.c.d, as on an IPv6 socket, so that one set of maps and
 * programs serves both families.
 *
 * How a writer changes a service while readers run: the chunks of a new
 * set first, then the service entries that name the set, then the old set's
 * chunks go. A reader that falls between finds no chunk and looks again.
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
#define LB_SCTP 132

struct lb_addr {
	__be32 w[4]; /* in network order */
};
_Static_assert(sizeof(struct lb_addr) == 16, "lb_addr");

enum lb_scope {
	LB_SCOPE_ALL = 0,
	/* Another node's address; asked for when the entry of LB_SCOPE_ANY has
	 * LB_NODE_OWN. */
	LB_SCOPE_NODE = 1,
	/* Any address in lb_nodes; addr is the unspecified one of its family. */
	LB_SCOPE_ANY = 2,
} __attribute__((packed));

struct lb_key {
	struct lb_addr addr;
	__be16 port_be;
	__u8 proto;
	enum lb_scope scope;
};
_Static_assert(sizeof(struct lb_key) == 20, "lb_key");

enum lb_flags {
	/* Only sockets in the node's own network namespace see the entry. */
	LB_NODE_ONLY = 1 << 0,
	/* externalTrafficPolicy Local: who calls another node's port, from the
	 * node or from a pod, sees that node's own endpoints. */
	LB_NODE_OWN = 1 << 1,
	/* Only clients in the list sources of lb_sources may call. */
	LB_SOURCES = 1 << 2,
};

struct lb_service {
	struct lb_key self;
	/* The backends. Backends and order of a set never change: who finds
	 * the set it was given a backend from may keep that backend. */
	__u32 set;
	/* The first count backends of the set get new connections (0: refuse),
	 * those from there to total keep the UDP flows they have. Both parts
	 * are sorted. */
	__u32 count;
	__u32 total;
	__u32 affinity_s; /* 0: none */
	__u32 group; /* names the service port, whatever address is called */
	__u32 sources;
	enum lb_flags flags;
};
_Static_assert(sizeof(struct lb_service) == 48, "lb_service");

struct lb_backend {
	struct lb_addr addr;
	__be16 port_be;
	__u16 pad;
};
_Static_assert(sizeof(struct lb_backend) == 20, "lb_backend");

/* Backends are stored by the chunk: few elements for large sets, and an
 * element is just below 512 bytes, which is what the kernel takes for it. */
#define LB_CHUNK 21

struct lb_chunk_key {
	__u32 set;
	__u32 index;
};
_Static_assert(sizeof(struct lb_chunk_key) == 8, "lb_chunk_key");

struct lb_chunk {
	struct lb_chunk_key self;
	struct lb_backend backends[LB_CHUNK];
};
_Static_assert(sizeof(struct lb_chunk) == 428, "lb_chunk");

struct lb_client {
	struct lb_addr who; /* an address, or a network namespace's cookie */
	__u32 group;
};
_Static_assert(sizeof(struct lb_client) == 20, "lb_client");

struct lb_affinity {
	__u64 seen_ns;
	struct lb_backend backend;
	__u32 pad;
};
_Static_assert(sizeof(struct lb_affinity) == 32, "lb_affinity");

/* A prefix of list: bits is 32 + those of addr. */
struct lb_source {
	__u32 bits;
	__u32 list;
	struct lb_addr addr;
};
_Static_assert(sizeof(struct lb_source) == 24, "lb_source");

/* The addresses that a network namespace sends from. */
struct lb_identity {
	struct lb_addr v4;
	struct lb_addr v6;
};
_Static_assert(sizeof(struct lb_identity) == 32, "lb_identity");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_key);
	__type(value, struct lb_service);
} lb_services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_chunk_key);
	__type(value, struct lb_chunk);
} lb_chunks SEC(".maps");

enum lb_node_kind {
	LB_NODE_OTHER = 0,
	LB_NODE_SELF = 1,
};

/* The addresses on which node ports answer. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_addr);
	__type(value, enum lb_node_kind);
} lb_nodes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_source);
	__type(value, __u8);
} lb_sources SEC(".maps");

/* By network namespace cookie; sockets have no address yet when they connect. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct lb_identity);
} lb_identities SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct lb_client);
	__type(value, struct lb_affinity);
} lb_affinities SEC(".maps");

/* What the programs count, each CPU for itself. */
enum lb_counter {
	LB_REFUSED_NO_ENDPOINT,
	LB_REFUSED_SOURCE,
	LB_REFUSED_BUSY, /* the entry changed whenever we looked, or no memory */
	LB_NAT_OPENED,
	LB_NAT_CLOSED,
	LB_NAT_NO_PORT,
	LB_NAT_FORGOTTEN, /* counted by the writer of the maps, who did it */
	LB_COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LB_COUNTERS);
	__type(key, enum lb_counter);
	__type(value, __u64);
} lb_counters SEC(".maps");
