/* SPDX-License-Identifier: GPL-2.0 */
/*
 * NetworkPolicy: what a packet is, as far as policies care.
 */
#pragma once

#include <stdbool.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "policy.h"

/* linux/icmp.h wants the C library's headers. */
#define ICMP4_UNREACHABLE 3
#define ICMP4_TIME_EXCEEDED 11
#define ICMP4_PARAMETER 12
#define ICMP6_ERRORS_FIRST 1
#define ICMP6_ERRORS_LAST 4
#define ICMP6_MLD_FIRST 130
#define ICMP6_REDIRECT 137
#define ICMP6_MLD2_REPORT 143

/* The kernel's, which no uapi header has. */
struct nf_hook_state;
struct sk_buff;
struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
};

extern int bpf_dynptr_from_skb(struct __sk_buff *skb, __u64 flags, struct bpf_dynptr *ptr) __ksym;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *ptr, __u64 offset, void *buffer, __u64 buffer__szk) __ksym;

enum packet_kind {
	PACKET_WHOLE = 0,
	PACKET_ERROR = 1,     /* of ICMP; quoted is set */
	PACKET_MALFORMED = 2, /* no ports where there must be some */
};

struct packet {
	__u32 family; /* 4 or 6 */
	enum packet_kind kind;
	struct policy_flow flow;
	struct policy_flow quoted;
	__u16 port; /* that is called */
};

/* The first words of a transport header. */
struct ports {
	__be16 source;
	__be16 dest;
	__be32 second;
};

struct extension {
	__u8 next;
	__u8 words; /* of 8 bytes, without the first */
	__be16 fragment;
};

#define TCP_FLAGS_AT 12
#define TCP_SYN 0x02
#define TCP_ACK 0x10

/* What of an IPv6 header's chain is followed. */
#define EXTENSIONS 6

static __always_inline bool same(const struct policy_addr *a, const struct policy_addr *b)
{
	return a->word_be[0] == b->word_be[0] && a->word_be[1] == b->word_be[1] &&
	       a->word_be[2] == b->word_be[2] && a->word_be[3] == b->word_be[3];
}

enum place {
	PLACE_BROKEN = -1,
	PLACE_LATER_FRAGMENT = -2,
};

static __always_inline void mapped(struct policy_addr *to, __be32 addr)
{
	to->word_be[2] = bpf_htonl(0xffff);
	to->word_be[3] = addr;
}

/* Reads an IPv4 header and returns where the transport header is, or a place. */
static __always_inline int read_ip4(const struct bpf_dynptr *data, __u32 at, struct policy_flow *f)
{
	struct iphdr buffer, *ip = bpf_dynptr_slice(data, at, &buffer, sizeof(buffer));

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return PLACE_BROKEN;
	mapped(&f->src, ip->saddr);
	mapped(&f->dst, ip->daddr);
	f->proto = ip->protocol;
	if (ip->frag_off & bpf_htons(0x1fff))
		return PLACE_LATER_FRAGMENT;
	return at + ip->ihl * 4;
}

static __always_inline void copy(struct policy_addr *to, const struct in6_addr *from)
{
	__builtin_memcpy(to, from, sizeof(*to));
}

/* Not static: verified once for its six callers. Returns the protocol in the
 * low byte and, above it, where its header is; or a place. */
__attribute__((noinline)) int policy_skip(const struct bpf_dynptr *data, __u32 at, __u8 next)
{
	for (int i = 0; i < EXTENSIONS; i++) {
		struct extension buffer, *e;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_MH && next != IPPROTO_FRAGMENT && next != IPPROTO_AH)
			return at << 8 | next;
		e = bpf_dynptr_slice(data, at, &buffer, sizeof(buffer));
		if (!e)
			return PLACE_BROKEN;
		if (next == IPPROTO_FRAGMENT) {
			if (e->fragment & bpf_htons(0xfff8))
				return PLACE_LATER_FRAGMENT;
			at += 8;
		} else if (next == IPPROTO_AH) {
			at += (e->words + 2) * 4;
		} else {
			at += (e->words + 1) * 8;
		}
		next = e->next;
	}
	return PLACE_BROKEN;
}

static __always_inline int read_ip6(const struct bpf_dynptr *data, __u32 at, struct policy_flow *f)
{
	struct ipv6hdr buffer, *ip = bpf_dynptr_slice(data, at, &buffer, sizeof(buffer));
	int place;

	if (!ip || ip->version != 6)
		return PLACE_BROKEN;
	copy(&f->src, &ip->saddr);
	copy(&f->dst, &ip->daddr);
	place = policy_skip(data, at + sizeof(*ip), ip->nexthdr);
	if (place < 0)
		return place;
	f->proto = place & 0xff;
	return place >> 8;
}

static __always_inline int read_ip(const struct bpf_dynptr *data, __u32 at, __u32 family, struct policy_flow *f)
{
	return family == 4 ? read_ip4(data, at, f) : read_ip6(data, at, f);
}

static __always_inline bool is_icmp(__u8 proto, __u32 family)
{
	return proto == (family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

static __always_inline bool is_error(__u8 type, __u32 family)
{
	if (family == 4)
		return type == ICMP4_UNREACHABLE || type == ICMP4_TIME_EXCEEDED || type == ICMP4_PARAMETER;
	return type >= ICMP6_ERRORS_FIRST && type <= ICMP6_ERRORS_LAST;
}

/* Neighbours, routers and multicast groups: no traffic, but how links work. */
static __always_inline bool is_neighbour(__u8 type, __u32 family)
{
	return family == 6 && ((type >= ICMP6_MLD_FIRST && type <= ICMP6_REDIRECT) || type == ICMP6_MLD2_REPORT);
}

/* Ports of TCP, UDP and SCTP; an echo's id as both. */
static __always_inline void set_ports(struct policy_flow *f, const struct ports *l4, __u32 family)
{
	if (f->proto == IPPROTO_TCP || f->proto == IPPROTO_UDP || f->proto == IPPROTO_SCTP) {
		f->sport_be = l4->source;
		f->dport_be = l4->dest;
	} else if (is_icmp(f->proto, family)) {
		f->sport_be = (__be16)l4->second;
		f->dport_be = f->sport_be;
	}
}

/* Reads what an ICMP error at l4 quotes. */
static __always_inline void read_quoted(const struct bpf_dynptr *data, __u32 at, struct packet *p)
{
	struct ports buffer, *l4;
	int place = read_ip(data, at, p->family, &p->quoted);

	if (place < 0)
		return;
	l4 = bpf_dynptr_slice(data, place, &buffer, sizeof(buffer));
	if (l4)
		set_ports(&p->quoted, l4, p->family);
}

/*
 * Reads a packet. False: policies have nothing to say about it. Fragments
 * after the first are such: without the first, which is judged, they are
 * noise.
 */
static __always_inline bool parse(struct bpf_nf_ctx *ctx, __u32 family, struct packet *p)
{
	struct ports buffer, *l4;
	struct bpf_dynptr data;
	__u8 type, flags_buffer[2], *flags;
	int place;

	p->family = family;
	if (bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &data))
		return false;
	place = read_ip(&data, 0, family, &p->flow);
	if (place == PLACE_LATER_FRAGMENT)
		return false;
	if (place < 0) {
		p->kind = PACKET_MALFORMED;
		return true;
	}
	l4 = bpf_dynptr_slice(&data, place, &buffer, sizeof(buffer));
	if (!l4) {
		/* Protocols without ports may have shorter headers. */
		if (p->flow.proto == IPPROTO_TCP || p->flow.proto == IPPROTO_UDP || p->flow.proto == IPPROTO_SCTP ||
		    is_icmp(p->flow.proto, family))
			p->kind = PACKET_MALFORMED;
		return true;
	}
	if (is_icmp(p->flow.proto, family)) {
		type = *(__u8 *)l4;
		if (is_neighbour(type, family))
			return false;
		if (is_error(type, family)) {
			p->kind = PACKET_ERROR;
			read_quoted(&data, place + sizeof(*l4), p);
			return true;
		}
	}
	set_ports(&p->flow, l4, family);
	p->port = bpf_ntohs(p->flow.dport_be);
	if (p->flow.proto != IPPROTO_TCP)
		return true;
	/* A slice beyond the end is none: the flags are asked for alone. */
	flags = bpf_dynptr_slice(&data, place + TCP_FLAGS_AT, flags_buffer, sizeof(flags_buffer));
	return !flags || (flags[1] & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}
