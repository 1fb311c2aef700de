/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The checksum of SCTP: a CRC32c over the whole packet, itself taken for zero,
 * without addresses. CRCs are linear, so that the ports can change without
 * another look at the packet: new = old ^ past(n, change of the ports), where
 * past moves a CRC past n bytes of zeros, here all bytes of the packet, as the
 * ports come first.
 */
#pragma once

#include "lb_nat.h"

#define SCTP_CHECKSUM 8

/* sctp_past[i][k][x] is where 2 to the power of i bytes of zeros move a CRC
 * that is x in its k-th four bits and else zero. Set before loading. */
const volatile __u32 sctp_past[16][8][16] = {};

__noinline int sctp_move(__u32 crc, __u32 bytes)
{
	for (int i = 0; i < 16; i++) {
		__u32 moved = 0;

		if (!(bytes >> i & 1))
			continue;
		for (int k = 0; k < 8; k++)
			moved ^= sctp_past[i][k][crc >> 4 * k & 15];
		crc = moved;
	}
	return crc;
}

/*
 * Says whether the checksum is made by the device that the packet leaves by,
 * or by none (CHECKSUM_PARTIAL): what is in its place now is zero, and has to
 * stay so. The kernel tells programs only by what it does: a change of a
 * checksum is left out there.
 */
static __always_inline int sctp_sum_comes_later(struct __sk_buff *skb, __u32 at, __u32 *sum)
{
	__u32 tried;

	if (bpf_skb_load_bytes(skb, at, sum, sizeof(*sum)) ||
	    bpf_l4_csum_replace(skb, at, 0, 1, 2) ||
	    bpf_skb_load_bytes(skb, at, &tried, sizeof(tried)))
		return 1;
	return tried == *sum;
}

/* Writes both ports of a whole packet. */
static __always_inline void sctp_set_ports(struct __sk_buff *skb, const struct nat_packet *p, __be16 src_be,
					   __be16 dst_be)
{
	__be16 was[2] = {p->t.sport_be, p->t.dport_be}, is[2] = {src_be, dst_be};
	__u32 at = p->l4 + SCTP_CHECKSUM, sum, change;

	change = (was[0] ^ is[0]) | (__u32)(was[1] ^ is[1]) << 16;
	if (!change)
		return;
	if (!sctp_sum_comes_later(skb, at, &sum)) {
		sum ^= sctp_move(change, p->end - p->l4);
		bpf_skb_store_bytes(skb, at, &sum, sizeof(sum), 0);
	}
	bpf_skb_store_bytes(skb, p->l4, is, sizeof(is), 0);
}
