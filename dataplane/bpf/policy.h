/* SPDX-License-Identifier: GPL-2.0 */
/*
 * NetworkPolicy: the structures and maps that the programs (policy.c) and
 * their writer in dataplane/policy share.
 *
 * A packet is judged by at most two of the node's own pods: the one it comes
 * from (egress) and the one it goes to (ingress). policy_pods holds the
 * addresses of the isolated ones and, for each direction, the number of a
 * group: all pods that the same policies select are of one group.
 *
 * A rule of a group allows a peer some ports. A peer is a number too, and one
 * address is several peers at once: any, any pod, its namespace, its identity
 * (pods of a namespace that no selector in use tells apart), and the longest
 * of the group's own ipBlocks that it is in. policy_groups tells which of
 * these the group has rules for, and with port prefixes of which lengths, so
 * that a decision is a few lookups by exact key, whatever the numbers of
 * policies and pods.
 *
 *   a new pod              its address in policy_peers
 *   another label          the same
 *   a policy changes       the rules of its groups; addresses of peers that
 *                          no rule named before
 *
 * How a writer changes what readers use: it adds rules, then blocks and
 * peers, then pods; and removes in the opposite order. In between, what the
 * old or the new state allows is allowed, and nothing else.
 *
 * Elements of these hashes are reused at once for other keys, so every value
 * begins with its own key, which the reader compares after it has copied the
 * rest: a value that was overwritten meanwhile begins with another one.
 *
 * Addresses have 16 bytes, IPv4 ones as ::ffff:a.b.c.d. Names ending in _be
 * are in network byte order.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct policy_addr {
	__u32 word_be[4];
};
_Static_assert(sizeof(struct policy_addr) == 16, "policy_addr");

/* Groups of a pod; 0: not isolated in that direction. */
struct policy_pod {
	struct policy_addr self;
	__u32 ingress;
	__u32 egress;
};
_Static_assert(sizeof(struct policy_pod) == 24, "policy_pod");

/* With a port: who is this peer only where that port is called. */
struct policy_peer_key {
	struct policy_addr addr;
	__u16 port;
	__u8 proto;
	__u8 pad;
};
_Static_assert(sizeof(struct policy_peer_key) == 20, "policy_peer_key");

struct policy_peer {
	struct policy_peer_key self;
	__u32 identity;
	__u32 ns;
};
_Static_assert(sizeof(struct policy_peer) == 28, "policy_peer");

/* The peers that have no address of their own. */
enum policy_peer_number {
	POLICY_PEER_ANY = 1,
	POLICY_PEER_POD = 2,
	POLICY_PEER_FIRST = 3, /* the first of the others */
};

enum policy_kind {
	POLICY_KIND_ANY = 0,
	POLICY_KIND_POD = 1,
	POLICY_KIND_NAMESPACE = 2,
	POLICY_KIND_IDENTITY = 3,
	POLICY_KIND_BLOCK = 4,
	POLICY_KINDS = 5,
};

#define POLICY_PORT_BITS 16

/* Bit n says that there are rules on port prefixes of n bits. */
enum policy_mask {
	POLICY_MASK_NONE = 0,
	POLICY_MASK_ALL_PROTOCOLS = 1 << (POLICY_PORT_BITS + 1),
};

struct policy_group {
	__u32 self;
	enum policy_mask ports[POLICY_KINDS];
};
_Static_assert(sizeof(struct policy_group) == 24, "policy_group");

/* proto 0: all protocols, also those without ports. */
struct policy_rule {
	__u32 group;
	__u32 peer;
	__u16 port; /* its first port_bits bits, the rest 0 */
	__u8 proto;
	__u8 port_bits;
};
_Static_assert(sizeof(struct policy_rule) == 12, "policy_rule");

struct policy_block {
	__u32 prefix_bits; /* of all that follows */
	__u32 group;
	__u32 family; /* 4 or 6: ::/0 does not hold IPv4 addresses */
	struct policy_addr addr;
};
_Static_assert(sizeof(struct policy_block) == 28, "policy_block");

/* A flow as its first packet had it. Echo requests have their id as ports. */
struct policy_flow {
	struct policy_addr src;
	struct policy_addr dst;
	__be16 sport_be;
	__be16 dport_be;
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct policy_flow) == 40, "policy_flow");

struct policy_seen {
	__u64 at_ns;
	__u64 replied;
};
_Static_assert(sizeof(struct policy_seen) == 16, "policy_seen");

enum policy_drop {
	POLICY_DROP_EGRESS = 0,
	POLICY_DROP_INGRESS = 1,
	POLICY_DROP_MALFORMED = 2,
	POLICY_DROPS = 3,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct policy_addr);
	__type(value, struct policy_pod);
} policy_pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct policy_peer_key);
	__type(value, struct policy_peer);
} policy_peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct policy_group);
} policy_groups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct policy_rule);
	__type(value, enum policy_kind); /* of its peer */
} policy_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct policy_block);
	__type(value, enum policy_peer_number);
} policy_blocks SEC(".maps");

/* Survives its programs: replies of what was allowed pass after a new process
 * has brought its own. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct policy_flow);
	__type(value, struct policy_seen);
} policy_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, POLICY_DROPS);
	__type(key, enum policy_drop);
	__type(value, __u64);
} policy_drops SEC(".maps");
