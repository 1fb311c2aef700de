/* SPDX-License-Identifier: GPL-2.0 */
/* What a packet means to the flow that it is of. */
#pragma once

#include "lb_nat.h"

enum nat_sign {
	NAT_OPENS = 1 << 0, /* SYN; INIT */
	NAT_ENDS = 1 << 1, /* RST; ABORT, SHUTDOWN COMPLETE */
	NAT_FIN = 1 << 2,
	NAT_ACK = 1 << 3,
	NAT_TALKS = 1 << 4, /* SCTP: more than the handshake before the cookie's */
};

struct nat_step {
	__u32 opening; /* the sequence number of SYN, the tag of INIT */
	__u32 end; /* TCP: the sequence number after the packet */
	__u32 ack;
	__u8 signs; /* enum nat_sign */
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

static __always_inline int step_tcp(struct __sk_buff *skb, const struct nat_packet *p, struct nat_step *out)
{
	struct {
		__be16 sport_be, dport_be;
		__be32 seq_be, ack_be;
		__u8 offset, flags;
		__u8 pad[2];
	} tcp;

	if (bpf_skb_load_bytes(skb, p->l4, &tcp, sizeof(tcp)))
		return 0;
	out->opening = bpf_ntohl(tcp.seq_be);
	out->ack = bpf_ntohl(tcp.ack_be);
	out->end = out->opening + skb->len - p->l4 - (tcp.offset >> 4) * 4 +
		   !!(tcp.flags & TCP_SYN) + !!(tcp.flags & TCP_FIN);
	out->signs = ((tcp.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN ? NAT_OPENS : 0) |
		     (tcp.flags & TCP_RST ? NAT_ENDS : 0) | (tcp.flags & TCP_FIN ? NAT_FIN : 0) |
		     (tcp.flags & TCP_ACK ? NAT_ACK : 0);
	return 1;
}

/* Types of chunks (RFC 9260, section 3.2). */
#define SCTP_INIT 1
#define SCTP_INIT_ACK 2
#define SCTP_ABORT 6
#define SCTP_COOKIE_ECHO 10
#define SCTP_SHUTDOWN_COMPLETE 14

#define SCTP_HEADER 12
#define SCTP_INITIATE_TAG 16 /* offset in the packet of an INIT */

/* The first chunk tells: an INIT and a SHUTDOWN COMPLETE are alone in their
 * packet, and so is an ABORT but for errors that a peer may put before it. */
static __always_inline int step_sctp(struct __sk_buff *skb, const struct nat_packet *p, struct nat_step *out)
{
	__u8 chunk;

	if (bpf_skb_load_bytes(skb, p->l4 + SCTP_HEADER, &chunk, sizeof(chunk)))
		return 0;
	if (chunk == SCTP_INIT) {
		out->signs = NAT_OPENS;
		return !bpf_skb_load_bytes(skb, p->l4 + SCTP_INITIATE_TAG, &out->opening, sizeof(out->opening));
	}
	if (chunk == SCTP_ABORT || chunk == SCTP_SHUTDOWN_COMPLETE)
		out->signs = NAT_ENDS;
	else if (chunk != SCTP_INIT_ACK && chunk != SCTP_COOKIE_ECHO)
		out->signs = NAT_TALKS;
	return 1;
}

/* Reads what a whole packet or a first fragment says; 0 when it is cut short.
 * out is zero. */
static __always_inline int step_of(struct __sk_buff *skb, const struct nat_packet *p, struct nat_step *out)
{
	if (p->t.proto == LB_TCP)
		return step_tcp(skb, p, out);
	if (p->t.proto == LB_SCTP)
		return step_sctp(skb, p, out);
	return 1;
}
