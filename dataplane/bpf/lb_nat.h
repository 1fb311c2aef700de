/* SPDX-License-Identifier: GPL-2.0 */
/* The state of the translation of packets, and what it reads and writes in
 * them. IPv4 addresses are written as everywhere: ::ffff:a.b.c.d. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>

#include "lb_pick.h"

#define NAT_ICMP 1
#define NAT_ICMP6 58

/* Both directions: who sends, to whom, as the packet says. */
struct nat_tuple {
	struct lb_addr src;
	struct lb_addr dst;
	__be16 sport_be;
	__be16 dport_be;
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct nat_tuple) == 40, "nat_tuple");

/* Which sides have said FIN, and which one said it last. */
enum nat_state {
	NAT_FIN_IN = 1 << 0,
	NAT_FIN_OUT = 1 << 1,
	NAT_FIN_BOTH = NAT_FIN_IN | NAT_FIN_OUT,
	NAT_LAST_OUT = 1 << 2,
};

/* Keyed by the tuple that the client sends. */
struct nat_flow {
	__u64 seen_ns;
	struct lb_key service;
	struct lb_backend backend;
	__u32 group;
	__u32 set; /* that had the backend */
	__u32 isn; /* of the SYN that made it: tells a repetition */
	__u32 fin_end; /* what acknowledges the second FIN */
	__be16 port_be; /* the client's port behind the translation */
	__u8 state; /* enum nat_state */
	__u8 pad;
	__u32 pad2;
};
_Static_assert(sizeof(struct nat_flow) == 72, "nat_flow");

/* Keyed by the tuple that the backend sends. */
struct nat_reply {
	struct lb_addr service;
	__be16 service_port_be;
	__be16 client_port_be;
};
_Static_assert(sizeof(struct nat_reply) == 20, "nat_reply");

/* Fragments after the first have no ports. */
struct nat_fragment {
	struct lb_addr src;
	struct lb_addr dst;
	__be32 id_be;
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct nat_fragment) == 40, "nat_fragment");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct nat_tuple);
	__type(value, struct nat_flow);
} nat_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct nat_tuple);
	__type(value, struct nat_reply);
} nat_replies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 512);
	__type(key, struct nat_fragment);
	__type(value, struct lb_addr); /* that the first fragment went to, or came from */
} nat_fragments SEC(".maps");

enum nat_part {
	NAT_WHOLE,
	NAT_FIRST,
	NAT_LATER, /* no transport header */
};

/* What a packet is, as far as the translation asks. */
struct nat_packet {
	struct nat_tuple t;
	__u32 l3; /* offset of the network header */
	__u32 l4; /* offset of the transport header */
	__be32 id_be;
	__u8 part; /* enum nat_part */
	__u8 part_proto; /* what a fragment header says follows it */
	__u8 v6;
	__u8 pad;
};

#define IP_MF 0x2000
#define IP_OFFSET 0x1fff

#define NAT_HOPOPTS 0
#define NAT_ROUTING 43
#define NAT_FRAGMENT 44
#define NAT_DSTOPTS 60

/* How many extension headers are walked; packets with more go on as they are. */
#define NAT_HEADERS 6

static __always_inline void from_v6(struct lb_addr *out, const struct in6_addr *in)
{
	__builtin_memcpy(out, in, sizeof(*out));
}

static __always_inline int parse_v4(struct __sk_buff *skb, struct nat_packet *p)
{
	struct iphdr ip;
	__u16 frag;

	if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)))
		return 0;
	if (ip.version != 4 || ip.ihl < 5)
		return 0;
	lb_set_v4(&p->t.src, ip.saddr);
	lb_set_v4(&p->t.dst, ip.daddr);
	p->t.proto = ip.protocol;
	p->id_be = ip.id;
	p->l4 = p->l3 + ip.ihl * 4;
	frag = bpf_ntohs(ip.frag_off);
	p->part = frag & IP_OFFSET ? NAT_LATER : frag & IP_MF ? NAT_FIRST : NAT_WHOLE;
	p->part_proto = ip.protocol;
	return 1;
}

static __always_inline int parse_v6(struct __sk_buff *skb, struct nat_packet *p)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)))
		return 0;
	if (ip.version != 6)
		return 0;
	from_v6(&p->t.src, &ip.saddr);
	from_v6(&p->t.dst, &ip.daddr);
	p->t.proto = ip.nexthdr;
	p->l4 = p->l3 + sizeof(ip);
	for (int i = 0; i < NAT_HEADERS; i++) {
		struct {
			__u8 next, len;
			__be16 second_be; /* offset of a fragment; type and segments of routing */
			__be32 id_be;
		} h;

		if (p->t.proto != NAT_HOPOPTS && p->t.proto != NAT_DSTOPTS &&
		    p->t.proto != NAT_ROUTING && p->t.proto != NAT_FRAGMENT)
			return 1;
		if (p->part == NAT_LATER)
			return 1;
		if (bpf_skb_load_bytes(skb, p->l4, &h, sizeof(h)))
			return 0;
		if (p->t.proto == NAT_FRAGMENT) {
			__u16 at = bpf_ntohs(h.second_be);

			p->id_be = h.id_be;
			p->part_proto = h.next;
			p->part = at & 0xfff8 ? NAT_LATER : at & 1 ? NAT_FIRST : NAT_WHOLE;
			p->l4 += 8;
		} else {
			/* On its way to another address than the header says. */
			if (p->t.proto == NAT_ROUTING && bpf_ntohs(h.second_be) & 0xff)
				return 0;
			p->l4 += (h.len + 1) * 8;
		}
		p->t.proto = h.next;
	}
	return 0;
}

/* Reads the packet whose network header is at p->l3; 0 when it is none of ours
 * to look at. All of p but l3 and v6 is zero. */
__noinline int nat_parse(struct __sk_buff *skb, struct nat_packet *p)
{
	__be16 ports[2];

	if (!skb || !p)
		return 0;
	if (p->v6) {
		if (!parse_v6(skb, p))
			return 0;
	} else if (!parse_v4(skb, p)) {
		return 0;
	}
	if (p->part == NAT_LATER)
		return p->part_proto == LB_TCP || p->part_proto == LB_UDP ||
		       p->part_proto == NAT_DSTOPTS;
	if (p->t.proto == LB_TCP || p->t.proto == LB_UDP) {
		if (bpf_skb_load_bytes(skb, p->l4, ports, sizeof(ports)))
			return 0;
		p->t.sport_be = ports[0];
		p->t.dport_be = ports[1];
		return 1;
	}
	return p->t.proto == (p->v6 ? NAT_ICMP6 : NAT_ICMP);
}

/* What TCP adds. */
struct nat_tcp {
	__u32 seq;
	__u32 end; /* the sequence number after the packet */
	__u32 ack;
	__u8 flags;
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

static __always_inline int parse_tcp(struct __sk_buff *skb, const struct nat_packet *p, struct nat_tcp *out)
{
	struct {
		__be16 sport_be, dport_be;
		__be32 seq_be, ack_be;
		__u8 offset, flags;
		__u8 pad[2];
	} tcp;

	if (bpf_skb_load_bytes(skb, p->l4, &tcp, sizeof(tcp)))
		return 0;
	out->seq = bpf_ntohl(tcp.seq_be);
	out->ack = bpf_ntohl(tcp.ack_be);
	out->flags = tcp.flags;
	out->end = out->seq + skb->len - p->l4 - (tcp.offset >> 4) * 4 +
		   !!(tcp.flags & TCP_SYN) + !!(tcp.flags & TCP_FIN);
	return 1;
}

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

/* Writes an address and both ports. UDP's zero checksum (none) stays. */
__noinline int nat_rewrite(struct __sk_buff *skb, const struct nat_packet *p, const struct nat_change *c)
{
	__u64 flags;
	__u32 sum;

	if (!skb || !p || !c)
		return 0;
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
