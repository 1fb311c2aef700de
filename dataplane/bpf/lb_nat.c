/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Services for packets that start outside of the nodes: destination
 * translation on the way in, its reverse on the way out, at the one device
 * that all of them pass. Two clsact filters: nat_in at ingress, nat_out at
 * egress of the same device.
 *
 * The client's address stays. Its port is always moved into 1024..32023:
 * behind the translation, two flows of one client and one port to two services
 * of one backend, or to a service and to the backend itself, are one and the
 * same otherwise, and one of them dies.
 */
#include "lb_flow.h"

char _license[] SEC("license") = "GPL";

static __always_inline void nat_seen_as(const struct nat_tuple *in, const struct lb_backend *b, struct lb_addr *out)
{
	*out = in->src;
}

SEC("tc")
int nat_in(struct __sk_buff *skb)
{
	struct nat_packet p = {};
	struct nat_flow flow = {};
	struct nat_step step = {};

	if (!parse(skb, &p))
		return TC_ACT_UNSPEC;
	if (p.part == NAT_LATER) {
		nat_later_fragment(skb, &p, NAT_DST);
		return TC_ACT_UNSPEC;
	}
	if (p.t.proto == NAT_ICMP || p.t.proto == NAT_ICMP6) {
		nat_error(skb, &p, 0);
		return TC_ACT_UNSPEC;
	}
	if (!step_of(skb, &p, &step))
		return TC_ACT_UNSPEC;
	switch (flow_of(&p, &step, &flow)) {
	case NAT_DROP:
		return TC_ACT_SHOT;
	case NAT_PASS:
		return TC_ACT_UNSPEC;
	}
	nat_first_fragment(&p, &flow.backend.addr);
	if (!nat_rewrite_in(skb, &p, &flow))
		return TC_ACT_SHOT;
	nat_track(&p.t, &flow, &step, 0);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int nat_out(struct __sk_buff *skb)
{
	struct nat_packet p = {};
	struct nat_step step = {};

	if (!parse(skb, &p))
		return TC_ACT_UNSPEC;
	if (p.part == NAT_LATER) {
		nat_later_fragment(skb, &p, NAT_SRC);
		return TC_ACT_UNSPEC;
	}
	if (p.t.proto == NAT_ICMP || p.t.proto == NAT_ICMP6) {
		nat_error(skb, &p, 1);
		return TC_ACT_UNSPEC;
	}
	if (!step_of(skb, &p, &step))
		return TC_ACT_UNSPEC;
	return nat_answer(skb, &p, &step) == NAT_DROP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}
