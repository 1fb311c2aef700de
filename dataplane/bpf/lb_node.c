/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Services of SCTP for a node and its pods: the kernel runs no program for
 * connect() and sendmsg() of an SCTP socket, so that these are translated as
 * packets, by clsact filters in the node's network namespace.
 *
 *   pod_in    ingress of a pod's device: what the pod sends
 *   pod_out   egress of a pod's device: the answers to it
 *   node_out  egress of the uplink and of lo: what the node itself sends
 *   node_in   ingress of the uplink: the answers to it, which come by pod_in
 *             from the node's own pods
 *
 * A pod's packets are translated before policies see them, and its answers
 * after, so that these judge pods, and not services. What the node sends to
 * its own pods, policies always allow: it goes to the pod's device at once.
 */
#include "lb_flow.h"

char _license[] SEC("license") = "GPL";

/* Set before loading: the node's own addresses, and the device that leads out
 * of it. */
const volatile struct lb_addr node_v4 = {}, node_v6 = {};
const volatile __u32 node_uplink = 0;
const volatile __u8 node_uplink_mac[ETH_ALEN] = {};

#define LOOPBACK 1 /* lo's index in every network namespace */
#define AF_INET 2
#define AF_INET6 10

static __always_inline int is_own(const struct lb_addr *a)
{
	struct lb_addr addr = *a;
	enum lb_node_kind *kind = bpf_map_lookup_elem(&lb_nodes, &addr);

	return kind && *kind == LB_NODE_SELF;
}

/* A pod that is its own backend would take what comes from its own address
 * for forged: it sees the node. */
static __always_inline int is_hairpin(const struct nat_tuple *in, const struct lb_backend *b)
{
	return lb_same_addr(&in->src, &b->addr);
}

static __always_inline void nat_seen_as(const struct nat_tuple *in, const struct lb_backend *b, struct lb_addr *out)
{
	if (!is_hairpin(in, b)) {
		*out = in->src;
		return;
	}
	for (int i = 0; i < 4; i++)
		out->w[i] = lb_is_v4(&in->src) ? node_v4.w[i] : node_v6.w[i];
}

/* Most packets are not ours; 0 for them, at the least cost. */
static __always_inline int is_ours(struct __sk_buff *skb)
{
	__u8 proto;

	if (bpf_skb_load_bytes(skb, skb->protocol == bpf_htons(ETH_P_IP) ? ETH_HLEN + offsetof(struct iphdr, protocol) :
				    ETH_HLEN + offsetof(struct ipv6hdr, nexthdr), &proto, 1))
		return 0;
	return proto != LB_TCP && proto != LB_UDP;
}

/* Reads a packet of SCTP, or an error of ICMP. */
static __always_inline int read(struct __sk_buff *skb, struct nat_packet *p, struct nat_step *step)
{
	if (!is_ours(skb) || !parse(skb, p) || p->part == NAT_LATER)
		return 0;
	if (p->t.proto == NAT_ICMP || p->t.proto == NAT_ICMP6)
		return 1;
	return p->t.proto == LB_SCTP && step_of(skb, p, step);
}

static __always_inline int is_icmp(const struct nat_packet *p)
{
	return p->t.proto != LB_SCTP;
}

/*
 * Hands the node a packet that was made an answer of a service. It must come
 * by a device that leads to its source, which the device of a pod does not: by
 * the uplink, or by lo where the service's address is the node's own.
 */
__noinline int node_receive(struct __sk_buff *skb, int v6)
{
	struct lb_addr src = {};
	__u8 mac[ETH_ALEN] = {};

	if (!skb)
		return TC_ACT_SHOT;
	if (v6) {
		bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), &src, sizeof(src));
	} else {
		lb_set_v4(&src, 0);
		bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), &src.w[3], sizeof(src.w[3]));
	}
	if (is_own(&src)) {
		if (skb->ifindex == LOOPBACK)
			return TC_ACT_UNSPEC;
		bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0);
		return bpf_redirect(LOOPBACK, BPF_F_INGRESS);
	}
	/* On lo it has the route with which it was sent. */
	if (skb->ifindex == node_uplink || skb->ifindex == LOOPBACK)
		return TC_ACT_UNSPEC;
	for (int i = 0; i < ETH_ALEN; i++)
		mac[i] = node_uplink_mac[i];
	bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0);
	return bpf_redirect(node_uplink, BPF_F_INGRESS);
}

/* Sends what the node has sent to a service on to a backend, by the device
 * that leads there. */
__noinline int node_send(struct __sk_buff *skb, const struct nat_packet *p, const struct nat_flow *flow)
{
	struct bpf_fib_lookup way = {};
	__u8 mac[ETH_ALEN] = {};

	if (!skb || !p || !flow)
		return TC_ACT_SHOT;
	way.ifindex = skb->ifindex;
	way.l4_protocol = LB_SCTP;
	if (!p->v6) {
		way.family = AF_INET;
		way.ipv4_src = p->t.src.w[3];
		way.ipv4_dst = flow->backend.addr.w[3];
	} else {
		way.family = AF_INET6;
		__builtin_memcpy(way.ipv6_src, &p->t.src, sizeof(p->t.src));
		__builtin_memcpy(way.ipv6_dst, &flow->backend.addr, sizeof(flow->backend.addr));
	}
	switch (bpf_fib_lookup(skb, &way, sizeof(way), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		if (way.ifindex == skb->ifindex)
			return TC_ACT_UNSPEC;
		return bpf_redirect_neigh(way.ifindex, NULL, 0, 0);
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		/* lo takes larger packets: the stack says so to the sender. */
		return bpf_redirect(LOOPBACK, BPF_F_INGRESS);
	case BPF_FIB_LKUP_RET_NOT_FWDED: /* a backend of the node itself */
		if (skb->ifindex == LOOPBACK)
			return TC_ACT_UNSPEC;
		bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0);
		return bpf_redirect(LOOPBACK, BPF_F_INGRESS);
	}
	return TC_ACT_SHOT;
}

/* Sends a pod's packet back to it. */
static __always_inline int bounce(struct __sk_buff *skb)
{
	__u8 macs[2 * ETH_ALEN], turned[2 * ETH_ALEN];

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return TC_ACT_SHOT;
	__builtin_memcpy(turned, macs + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(turned + ETH_ALEN, macs, ETH_ALEN);
	bpf_skb_store_bytes(skb, 0, turned, sizeof(turned), 0);
	return bpf_redirect(skb->ifindex, 0);
}

/* Makes a client's packet its backend's; 0 when it cannot. */
__noinline int node_rewrite(struct __sk_buff *skb, const struct nat_packet *p, const struct nat_flow *flow)
{
	struct lb_addr seen = {};

	if (!skb || !p || !flow)
		return 0;
	if (!nat_rewrite_in(skb, p, flow))
		return 0;
	if (!is_hairpin(&p->t, &flow->backend))
		return 1;
	nat_seen_as(&p->t, &flow->backend, &seen);
	set_address(skb, p->l3, p->v6, NAT_SRC, &p->t.src, &seen);
	return 1;
}

/* Translates what a client sends. Not a function of its own: the kernel counts
 * the stack of all that call each other. Returns enum nat_verdict. */
static __always_inline int call(struct __sk_buff *skb, const struct nat_packet *p, const struct nat_step *step,
				struct nat_flow *flow)
{
	int verdict = flow_of(p, step, flow);

	if (verdict != NAT_TRANSLATE)
		return verdict;
	if (!node_rewrite(skb, p, flow))
		return NAT_DROP;
	nat_track(&p->t, flow, step, 0);
	return is_hairpin(&p->t, &flow->backend) ? NAT_BOUNCE : NAT_TRANSLATE;
}

SEC("tc")
int pod_in(struct __sk_buff *skb)
{
	struct nat_packet p = {};
	struct nat_step step = {};
	struct nat_flow flow = {};

	if (!read(skb, &p, &step))
		return TC_ACT_UNSPEC;
	if (is_icmp(&p)) {
		/* About what the node sent, or about an answer to the pod. */
		if (is_own(&p.t.dst) && nat_error(skb, &p, 1))
			return node_receive(skb, p.v6);
		nat_error(skb, &p, 0);
		return TC_ACT_UNSPEC;
	}
	if (is_own(&p.t.dst)) {
		switch (nat_answer(skb, &p, &step)) {
		case NAT_TRANSLATE:
			return node_receive(skb, p.v6);
		case NAT_BOUNCE:
			set_address(skb, p.l3, p.v6, NAT_DST, &p.t.dst, &p.t.src);
			return bounce(skb);
		case NAT_DROP:
			return TC_ACT_SHOT;
		}
	}
	switch (call(skb, &p, &step, &flow)) {
	case NAT_BOUNCE:
		return bounce(skb);
	case NAT_DROP:
		return TC_ACT_SHOT;
	}
	return TC_ACT_UNSPEC;
}

SEC("tc")
int pod_out(struct __sk_buff *skb)
{
	struct nat_packet p = {};
	struct nat_step step = {};

	if (!read(skb, &p, &step))
		return TC_ACT_UNSPEC;
	if (is_icmp(&p)) {
		nat_error(skb, &p, 1);
		return TC_ACT_UNSPEC;
	}
	return nat_answer(skb, &p, &step) == NAT_DROP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SEC("tc")
int node_in(struct __sk_buff *skb)
{
	struct nat_packet p = {};
	struct nat_step step = {};

	/* Answers to pods are translated at their devices. */
	if (!read(skb, &p, &step) || !is_own(&p.t.dst))
		return TC_ACT_UNSPEC;
	if (is_icmp(&p))
		return nat_error(skb, &p, 1) ? node_receive(skb, p.v6) : TC_ACT_UNSPEC;
	switch (nat_answer(skb, &p, &step)) {
	case NAT_TRANSLATE:
		return node_receive(skb, p.v6);
	case NAT_DROP:
		return TC_ACT_SHOT;
	}
	return TC_ACT_UNSPEC;
}

SEC("tc")
int node_out(struct __sk_buff *skb)
{
	struct nat_packet p = {};
	struct nat_step step = {};
	struct nat_flow flow = {};

	/* What is forwarded was translated where it came in. */
	if (!read(skb, &p, &step) || !is_own(&p.t.src))
		return TC_ACT_UNSPEC;
	if (is_icmp(&p)) {
		if (!is_own(&p.t.dst) || !nat_error(skb, &p, 1))
			nat_error(skb, &p, 0);
		return TC_ACT_UNSPEC;
	}
	if (skb->ifindex == LOOPBACK && is_own(&p.t.dst)) {
		switch (nat_answer(skb, &p, &step)) {
		case NAT_TRANSLATE:
		case NAT_BOUNCE: /* the node's own backend */
			return TC_ACT_UNSPEC;
		case NAT_DROP:
			return TC_ACT_SHOT;
		}
	}
	switch (call(skb, &p, &step, &flow)) {
	case NAT_TRANSLATE:
	case NAT_BOUNCE:
		return node_send(skb, &p, &flow);
	case NAT_DROP:
		return TC_ACT_SHOT;
	}
	return TC_ACT_UNSPEC;
}
