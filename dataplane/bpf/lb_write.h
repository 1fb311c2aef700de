/* SPDX-License-Identifier: GPL-2.0 */
/* What the translation writes into packets. */
#pragma once

#include "lb_nat.h"
#include "lb_sctp.h"

#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

/* Which of a packet's two addresses or ports. */
enum nat_end {
	NAT_SRC,
	NAT_DST,
};

/* Of 6.16: the checksum of a whole IPv6 packet, where a device made one, does
 * not change with its addresses, as there is no header checksum. */
#define NAT_F_IPV6 (1ULL << 7)
#define EINVAL 22

/* A checksum of the transport layer after an address of its pseudo header
 * changed. */
static __always_inline void sum_address(struct __sk_buff *skb, __u32 at, int v6, const struct lb_addr *from,
					const struct lb_addr *to, __u64 flags)
{
	__s64 diff;

	flags |= BPF_F_PSEUDO_HDR;
	if (!v6) {
		bpf_l4_csum_replace(skb, at, from->w[3], to->w[3], 4 | flags);
		return;
	}
	diff = bpf_csum_diff((__be32 *)from->w, sizeof(*from), (__be32 *)to->w, sizeof(*to), 0);
	if (bpf_l4_csum_replace(skb, at, 0, diff, NAT_F_IPV6 | flags) == -EINVAL)
		bpf_l4_csum_replace(skb, at, 0, diff, flags);
}

/* Writes an address of a network header at l3 and IPv4's checksum over it. */
static __always_inline void set_address(struct __sk_buff *skb, __u32 l3, int v6, enum nat_end which,
					const struct lb_addr *from, const struct lb_addr *to)
{
	__u32 at;

	if (v6) {
		at = which == NAT_SRC ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr);
		bpf_skb_store_bytes(skb, l3 + at, to, sizeof(*to), 0);
		return;
	}
	at = which == NAT_SRC ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr);
	bpf_l3_csum_replace(skb, l3 + offsetof(struct iphdr, check), from->w[3], to->w[3], 4);
	bpf_skb_store_bytes(skb, l3 + at, &to->w[3], 4, 0);
}

/* One end of a packet to be written. */
struct nat_change {
	struct lb_addr from;
	struct lb_addr to;
	__be16 src_port_be;
	__be16 dst_port_be;
	__u32 which; /* enum nat_end: whose address changes */
};

static __always_inline void set_port(struct __sk_buff *skb, __u32 l4, __u32 sum, __u64 flags, enum nat_end which,
				     __be16 from, __be16 to)
{
	if (from == to)
		return;
	bpf_l4_csum_replace(skb, sum, from, to, 2 | flags);
	bpf_skb_store_bytes(skb, l4 + which * 2, &to, 2, 0);
}

/* Writes an address and both ports. UDP's zero checksum (none) stays. Returns 0
 * when it cannot: the packet must not go on. */
__noinline int nat_rewrite(struct __sk_buff *skb, const struct nat_packet *p, const struct nat_change *c)
{
	__u64 flags;
	__u32 sum;

	if (!skb || !p || !c)
		return 0;
	if (p->t.proto == LB_SCTP) {
		/* What the checksum of a fragmented packet covers is not here. */
		if (p->part != NAT_WHOLE)
			return 0;
		set_address(skb, p->l3, p->v6, c->which, &c->from, &c->to);
		sctp_set_ports(skb, p, c->src_port_be, c->dst_port_be);
		return 1;
	}
	flags = p->t.proto == LB_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	sum = p->l4 + (p->t.proto == LB_TCP ? 16 : 6);
	sum_address(skb, sum, p->v6, &c->from, &c->to, flags);
	set_address(skb, p->l3, p->v6, c->which, &c->from, &c->to);
	set_port(skb, p->l4, sum, flags, NAT_SRC, p->t.sport_be, c->src_port_be);
	set_port(skb, p->l4, sum, flags, NAT_DST, p->t.dport_be, c->dst_port_be);
	return 1;
}

#define NAT_ICMP_HEADER 8
#define NAT_ICMP_SUM 2

/* Says whether a message of ICMP is an error about a packet that it quotes. */
static __always_inline int is_error(struct __sk_buff *skb, const struct nat_packet *p)
{
	__u8 type;

	if (bpf_skb_load_bytes(skb, p->l4, &type, 1))
		return 0;
	if (p->v6)
		return type >= 1 && type <= 4; /* unreachable, too big, time, parameter */
	return type == 3 || type == 11 || type == 12; /* unreachable (too big as well), time, parameter */
}

/*
 * Writes an address and both ports of the packet that an error quotes, and
 * the error's own address where it is the same.
 */
__noinline int nat_rewrite_quoted(struct __sk_buff *skb, const struct nat_packet *p,
				  const struct nat_packet *quoted, const struct nat_change *c)
{
	/* What the quoted packet was sent to is what the error comes from; what
	 * it was sent from is where the error goes. */
	enum nat_end outer;
	__u32 sum;

	if (!skb || !p || !quoted || !c)
		return 0;
	outer = c->which == NAT_DST ? NAT_SRC : NAT_DST;
	sum = p->l4 + NAT_ICMP_SUM;
	/* IPv4: the address and the header checksum over it change against
	 * each other, so the checksum of the message stays. */
	if (p->v6) {
		__s64 diff = bpf_csum_diff((__be32 *)c->from.w, 16, (__be32 *)c->to.w, 16, 0);

		bpf_l4_csum_replace(skb, sum, 0, diff, 0);
	}
	set_address(skb, quoted->l3, p->v6, c->which, &c->from, &c->to);
	set_port(skb, quoted->l4, sum, 0, NAT_SRC, quoted->t.sport_be, c->src_port_be);
	set_port(skb, quoted->l4, sum, 0, NAT_DST, quoted->t.dport_be, c->dst_port_be);

	if (!lb_same_addr(outer == NAT_SRC ? &p->t.src : &p->t.dst, &c->from))
		return 1;
	if (p->v6)
		sum_address(skb, sum, 1, &c->from, &c->to, 0);
	set_address(skb, p->l3, p->v6, outer, &c->from, &c->to);
	return 1;
}
