/* SPDX-License-Identifier: GPL-2.0 */
/* The state of the translation of packets, and what it reads of their headers.
 * IPv4 addresses are written as everywhere: ::ffff:a.b.c.d. */
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

/* Which sides of TCP have said FIN, and which one said it last. */
enum nat_state {
	NAT_FIN_IN = 1 << 0,
	NAT_FIN_OUT = 1 << 1,
	NAT_FIN_BOTH = NAT_FIN_IN | NAT_FIN_OUT,
	NAT_LAST_OUT = 1 << 2,
	NAT_AGREED = 1 << 3, /* SCTP: the backend has taken the association */
};

/* Keyed by the tuple that the client sends. */
struct nat_flow {
	__u64 seen_ns;
	struct lb_key service;
	struct lb_backend backend;
	__u32 group;
	__u32 set; /* that had the backend */
	__u32 opening; /* nat_step.opening of the packet that made it: tells a repetition */
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
	__u32 end; /* offset of what follows the packet */
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
	p->end = p->l3 + bpf_ntohs(ip.tot_len);
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
	p->end = p->l4 + bpf_ntohs(ip.payload_len);
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

static __always_inline int has_ports(__u8 proto)
{
	return proto == LB_TCP || proto == LB_UDP || proto == LB_SCTP;
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
	if (has_ports(p->t.proto)) {
		if (bpf_skb_load_bytes(skb, p->l4, ports, sizeof(ports)))
			return 0;
		p->t.sport_be = ports[0];
		p->t.dport_be = ports[1];
		return 1;
	}
	return p->t.proto == (p->v6 ? NAT_ICMP6 : NAT_ICMP);
}
