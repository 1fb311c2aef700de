/* SPDX-License-Identifier: GPL-2.0 */
/*
 * NetworkPolicy at netfilter's hooks of a node, once for all its pods.
 *
 *   forward    pod to pod, on this node or between nodes, and the outside:
 *              egress of the sender, ingress of the receiver
 *   local_in   pod to its own node: egress of the sender
 *   local_out  node to its own pod: always allowed (probes); remembered, so
 *              that an isolated pod may answer
 *
 * TCP is judged by the packet that opens a connection: what is established
 * goes on. All else is judged packet by packet, and the answers to what was
 * allowed pass as long as the flow is fresh. policy.h describes the maps.
 */
#include "policy_parse.h"

char _license[] SEC("license") = "GPL";

#define NF_DROP 0
#define NF_ACCEPT 1

#define SECOND 1000000000ull
/* As nf_conntrack's defaults: udp_timeout and udp_timeout_stream. */
#define FRESH_ONE_WAY (30 * SECOND)
#define FRESH_BOTH_WAYS (120 * SECOND)

static __always_inline int drop(enum policy_drop reason)
{
	__u64 *count = bpf_map_lookup_elem(&policy_drops, &reason);

	if (count)
		(*count)++;
	return NF_DROP;
}

static __always_inline bool has_rule(__u32 group, __u32 peer, __u16 port, __u8 proto, __u8 bits)
{
	struct policy_rule key = { group, peer, port, proto, bits };

	return bpf_map_lookup_elem(&policy_rules, &key) != NULL;
}

/*
 * Is there a rule of the group for this peer? Not static: the verifier looks
 * at it once, and not once for each of its callers.
 */
__attribute__((noinline)) int policy_match(__u32 group, __u32 peer, __u32 mask, __u8 proto, __u16 port)
{
	if (mask & POLICY_MASK_ALL_PROTOCOLS && has_rule(group, peer, 0, 0, 0))
		return 1;
	if (proto != IPPROTO_TCP && proto != IPPROTO_UDP && proto != IPPROTO_SCTP)
		return 0;
	for (int bits = POLICY_PORT_BITS; bits >= 0; bits--) {
		if (!(mask & 1u << bits))
			continue;
		if (has_rule(group, peer, port & 0xffff << (POLICY_PORT_BITS - bits), proto, bits))
			return 1;
	}
	return 0;
}

/* How often a reader looks when a writer is in its way. */
#define LOOKS 2

/* What was read before is not read after. */
#define barrier() asm volatile("" ::: "memory")

/* Copies the peer of a key; false if there is none. */
static __always_inline bool find_peer(const struct policy_peer_key *key, struct policy_peer *to)
{
	for (int i = 0; i < LOOKS; i++) {
		struct policy_peer *p = bpf_map_lookup_elem(&policy_peers, key);

		if (!p)
			return false;
		*to = *p;
		barrier();
		if (same(&p->self.addr, &key->addr) && p->self.port == key->port && p->self.proto == key->proto)
			return true;
	}
	return false;
}

static __always_inline bool peer_of(const struct policy_addr *addr, __u8 proto, __u16 called, struct policy_peer *to)
{
	struct policy_peer_key key = { .addr = *addr };

	if (find_peer(&key, to))
		return true;
	if (!called)
		return false;
	key.port = called;
	key.proto = proto;
	return find_peer(&key, to);
}

static __always_inline bool find_group(__u32 group, struct policy_group *to)
{
	for (int i = 0; i < LOOKS; i++) {
		struct policy_group *g = bpf_map_lookup_elem(&policy_groups, &group);

		if (!g)
			return false;
		*to = *g;
		barrier();
		if (g->self == group)
			return true;
	}
	return false;
}

static __always_inline __u32 block_of(__u32 group, const struct policy_addr *addr, __u32 family)
{
	struct policy_block key = {
		.prefix_bits = 8 * (sizeof(key) - sizeof(key.prefix_bits)),
		.group = group,
		.family = family,
		.addr = *addr,
	};
	__u32 *peer = bpf_map_lookup_elem(&policy_blocks, &key);

	return peer ? *peer : 0;
}

/* May the group's pods talk with addr? called is the port of addr that the
 * pod calls; 0 where addr is the caller. */
static __always_inline bool allowed(__u32 group, const struct policy_addr *addr, const struct packet *p, __u16 called)
{
	struct policy_group g;
	struct policy_peer peer;
	__u32 block;

	if (!find_group(group, &g))
		return false;
	if (g.ports[POLICY_KIND_ANY] &&
	    policy_match(group, POLICY_PEER_ANY, g.ports[POLICY_KIND_ANY], p->flow.proto, p->port))
		return true;
	if (g.ports[POLICY_KIND_POD] | g.ports[POLICY_KIND_NAMESPACE] | g.ports[POLICY_KIND_IDENTITY]) {
		if (peer_of(addr, p->flow.proto, called, &peer)) {
			if (g.ports[POLICY_KIND_IDENTITY] &&
			    policy_match(group, peer.identity, g.ports[POLICY_KIND_IDENTITY], p->flow.proto, p->port))
				return true;
			if (g.ports[POLICY_KIND_NAMESPACE] &&
			    policy_match(group, peer.ns, g.ports[POLICY_KIND_NAMESPACE], p->flow.proto, p->port))
				return true;
			if (g.ports[POLICY_KIND_POD] &&
			    policy_match(group, POLICY_PEER_POD, g.ports[POLICY_KIND_POD], p->flow.proto, p->port))
				return true;
		}
	}
	if (!g.ports[POLICY_KIND_BLOCK])
		return false;
	block = block_of(group, addr, p->family);
	return block && policy_match(group, block, g.ports[POLICY_KIND_BLOCK], p->flow.proto, p->port);
}

static __always_inline struct policy_flow reversed(const struct policy_flow *f)
{
	struct policy_flow r = { .src = f->dst, .dst = f->src, .sport_be = f->dport_be, .dport_be = f->sport_be, .proto = f->proto };

	return r;
}

static __always_inline struct policy_seen *fresh(const struct policy_flow *f, __u64 now)
{
	struct policy_seen *s = bpf_map_lookup_elem(&policy_flows, f);

	if (!s || now - s->at_ns > (s->replied ? FRESH_BOTH_WAYS : FRESH_ONE_WAY))
		return NULL;
	return s;
}

/* Is the packet an answer to what was allowed? */
static __always_inline bool answers(const struct policy_flow *f, __u64 now)
{
	struct policy_flow back = reversed(f);
	struct policy_seen *s = fresh(&back, now);

	if (!s)
		return false;
	/* Once a second is enough, and keeps the line clean. */
	if (!s->replied || now - s->at_ns > SECOND) {
		s->replied = 1;
		s->at_ns = now;
	}
	return true;
}

static __always_inline void remember(const struct policy_flow *f, __u64 now)
{
	struct policy_seen *s = fresh(f, now);
	struct policy_seen first = { .at_ns = now };

	if (s) {
		if (now - s->at_ns > SECOND)
			s->at_ns = now;
		return;
	}
	bpf_map_update_elem(&policy_flows, f, &first, BPF_ANY);
}

/*
 * An ICMP error belongs to the flow of the packet that it quotes, which the
 * receiver of the error has sent. TCP leaves no trace here, so that its
 * errors all pass: what they end, a reset could end too.
 */
static __always_inline bool related(const struct packet *p)
{
	struct policy_flow back;
	__u64 now;

	if (!same(&p->quoted.src, &p->flow.dst))
		return false;
	if (p->quoted.proto == IPPROTO_TCP)
		return true;
	now = bpf_ktime_get_ns();
	back = reversed(&p->quoted);
	return fresh(&p->quoted, now) || fresh(&back, now);
}

/* Not static, as policy_match. */
__attribute__((noinline)) int policy_judge(const struct packet *p, __u32 egress, __u32 ingress)
{
	__u64 now = 0;

	if (!p)
		return NF_DROP;
	if (p->kind != PACKET_WHOLE && !egress && !ingress)
		return NF_ACCEPT;
	if (p->kind == PACKET_ERROR)
		return related(p) ? NF_ACCEPT : drop(egress ? POLICY_DROP_EGRESS : POLICY_DROP_INGRESS);
	if (p->kind == PACKET_MALFORMED)
		return drop(POLICY_DROP_MALFORMED);
	if (p->flow.proto != IPPROTO_TCP) {
		now = bpf_ktime_get_ns();
		if (answers(&p->flow, now))
			return NF_ACCEPT;
	}
	if (egress && !allowed(egress, &p->flow.dst, p, p->port))
		return drop(POLICY_DROP_EGRESS);
	if (ingress && !allowed(ingress, &p->flow.src, p, 0))
		return drop(POLICY_DROP_INGRESS);
	if (now)
		remember(&p->flow, now);
	return NF_ACCEPT;
}

/* The compiler knows what policy_judge may return, the verifier does not. */
static __always_inline int verdict(int accept)
{
	asm volatile("" : "+r"(accept));
	return accept ? NF_ACCEPT : NF_DROP;
}

/* No group has this number: its pods are allowed nothing. */
#define NOTHING 0xffffffff

/* The groups of a pod; none where the address is of no isolated pod. */
static __always_inline struct policy_pod pod_of(const struct policy_addr *addr)
{
	struct policy_pod copy = {};

	for (int i = 0; i < LOOKS; i++) {
		struct policy_pod *pod = bpf_map_lookup_elem(&policy_pods, addr);

		if (!pod)
			return (struct policy_pod){};
		copy = *pod;
		barrier();
		if (same(&pod->self, addr))
			return copy;
	}
	return (struct policy_pod){ .ingress = NOTHING, .egress = NOTHING };
}

static __always_inline bool isolated(struct policy_pod pod)
{
	return pod.ingress || pod.egress;
}

static __always_inline int forward(struct bpf_nf_ctx *ctx, __u32 family)
{
	struct policy_pod from, to;
	struct packet p = {};

	if (!parse(ctx, family, &p))
		return NF_ACCEPT;
	from = pod_of(&p.flow.src);
	to = pod_of(&p.flow.dst);
	if (!isolated(from) && !isolated(to))
		return NF_ACCEPT;
	return verdict(policy_judge(&p, from.egress, to.ingress));
}

static __always_inline int local_in(struct bpf_nf_ctx *ctx, __u32 family)
{
	struct policy_pod from;
	struct packet p = {};

	if (!parse(ctx, family, &p))
		return NF_ACCEPT;
	from = pod_of(&p.flow.src);
	return isolated(from) ? verdict(policy_judge(&p, from.egress, 0)) : NF_ACCEPT;
}

static __always_inline int local_out(struct bpf_nf_ctx *ctx, __u32 family)
{
	struct packet p = {};
	__u64 now;

	if (!parse(ctx, family, &p) || p.kind != PACKET_WHOLE || p.flow.proto == IPPROTO_TCP)
		return NF_ACCEPT;
	if (!isolated(pod_of(&p.flow.dst)))
		return NF_ACCEPT;
	now = bpf_ktime_get_ns();
	if (!answers(&p.flow, now))
		remember(&p.flow, now);
	return NF_ACCEPT;
}

#define HOOK(name, number) \
	SEC("netfilter") int policy_##name##number(struct bpf_nf_ctx *ctx) { return name(ctx, number); }

HOOK(forward, 4)
HOOK(forward, 6)
HOOK(local_in, 4)
HOOK(local_in, 6)
HOOK(local_out, 4)
HOOK(local_out, 6)
