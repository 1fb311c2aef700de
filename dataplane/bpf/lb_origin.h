/* SPDX-License-Identifier: GPL-2.0 */
/* What sockets were translated to; stays with each socket. */
#pragma once

#include "lb.h"

struct lb_pair {
	struct lb_addr service;
	struct lb_addr backend;
	__be16 service_port_be;
	__be16 backend_port_be;
	__u32 group;
	__u32 set; /* that had the backend */
};
_Static_assert(sizeof(struct lb_pair) == 44, "lb_pair");

/* How many services one unconnected UDP socket may call at a time and still
 * get each answer under the right name. */
#define LB_RING 4

struct lb_ring {
	struct lb_pair pairs[LB_RING];
	__u32 next;
};

/* By connect(). */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct lb_pair);
} lb_peers SEC(".maps");

/* By sendmsg() on a socket that is not connected. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct lb_ring);
} lb_rings SEC(".maps");
