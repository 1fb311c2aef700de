/* SPDX-License-Identifier: GPL-2.0 */
/* Flows that are translated: how they begin, go on and end. */
#pragma once

#include "lb_step.h"
#include "lb_write.h"

enum nat_verdict {
	NAT_PASS, /* as it is */
	NAT_TRANSLATE,
	NAT_DROP,
	NAT_OPEN, /* as a flow that is to be made */
	NAT_BOUNCE, /* as NAT_TRANSLATE, back to who has sent it */
};

/* The address under which the backend of a flow sees its client; of the
 * program that includes this. */
static __always_inline void nat_seen_as(const struct nat_tuple *in, const struct lb_backend *b, struct lb_addr *out);

#define NAT_PORT_FIRST 1024
#define NAT_PORT_COUNT 31000
#define NAT_PORT_TRIES 16

/* A UDP flow that was silent for so long is a new one. */
#define NAT_UDP_IDLE_NS (180 * 1000000000ULL)

/* As nf_conntrack's for an association (nf_conntrack_sctp_timeout_established). */
#define NAT_SCTP_IDLE_NS (210 * 1000000000ULL)

/* Ports are given out in turn, so that one comes back as late as can be. */
static __u32 nat_next;

static __always_inline int parse(struct __sk_buff *skb, struct nat_packet *p)
{
	p->l3 = ETH_HLEN;
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		p->v6 = 1;
	else if (skb->protocol != bpf_htons(ETH_P_IP))
		return 0;
	return nat_parse(skb, p);
}

static __always_inline void fragment_key(const struct nat_packet *p, struct nat_fragment *key)
{
	key->src = p->t.src;
	key->dst = p->t.dst;
	key->id_be = p->id_be;
	key->proto = p->part_proto;
}

/* A fragment without ports goes where the first one went; which is enum nat_end. */
__noinline int nat_later_fragment(struct __sk_buff *skb, const struct nat_packet *p, int which)
{
	struct nat_fragment key = {};
	struct lb_addr *found, to;

	if (!skb || !p)
		return 0;
	fragment_key(p, &key);
	found = bpf_map_lookup_elem(&nat_fragments, &key);
	if (!found)
		return 0;
	to = *found;
	if (which == NAT_SRC)
		set_address(skb, p->l3, p->v6, NAT_SRC, &p->t.src, &to);
	else
		set_address(skb, p->l3, p->v6, NAT_DST, &p->t.dst, &to);
	return 0;
}

__noinline int nat_first_fragment(const struct nat_packet *p, const struct lb_addr *to)
{
	struct nat_fragment key = {};
	struct lb_addr end;

	if (!p || !to || p->part != NAT_FIRST)
		return 0;
	fragment_key(p, &key);
	end = *to;
	bpf_map_update_elem(&nat_fragments, &key, &end, BPF_ANY);
	return 0;
}

/* The tuple that the backend of a flow sends. */
static __always_inline void reply_key(const struct nat_tuple *in, const struct lb_backend *b,
				      __be16 port_be, struct nat_tuple *out)
{
	out->src = b->addr;
	nat_seen_as(in, b, &out->dst);
	out->sport_be = b->port_be;
	out->dport_be = port_be;
	out->proto = in->proto;
}

/* Chooses the backend for the first packet of a flow. Returns enum nat_verdict. */
__noinline int nat_choose(const struct nat_tuple *t, struct nat_flow *flow)
{
	struct lb_service svc = {};

	if (!t || !flow)
		return NAT_PASS;
	flow->service.addr = t->dst;
	flow->service.port_be = t->dport_be;
	flow->service.proto = t->proto;
	if (!lb_find(&flow->service, &svc) || svc.flags & LB_NODE_ONLY)
		return NAT_PASS;
	if (!lb_may_call(&svc, &t->src)) {
		lb_count(LB_REFUSED_SOURCE);
		return NAT_DROP;
	}
	/* Without endpoints the packet goes on to an address that refuses. */
	if (lb_pick(&flow->service, &svc, &t->src, &flow->backend) != LB_TRANSLATE)
		return NAT_PASS;
	flow->group = svc.group;
	flow->set = svc.set;
	return NAT_TRANSLATE;
}

/* Gives the flow a port of its own and notes it. Returns enum nat_verdict. */
__noinline int nat_note(const struct nat_tuple *t, struct nat_flow *flow)
{
	struct nat_reply r = {};
	struct nat_tuple rk = {}, in;
	struct nat_flow made;
	int found = 0;

	if (!t || !flow)
		return NAT_PASS;
	r.service = t->dst;
	r.service_port_be = t->dport_be;
	r.client_port_be = t->sport_be;
	for (int i = 0; i < NAT_PORT_TRIES && !found; i++) {
		__u32 n = __sync_fetch_and_add(&nat_next, 1);

		flow->port_be = bpf_htons(NAT_PORT_FIRST + n % NAT_PORT_COUNT);
		reply_key(t, &flow->backend, flow->port_be, &rk);
		found = !bpf_map_update_elem(&nat_replies, &rk, &r, BPF_NOEXIST);
	}
	if (!found) {
		lb_count(LB_NAT_NO_PORT);
		return NAT_PASS;
	}
	flow->seen_ns = bpf_ktime_get_ns();
	flow->state = 0;
	flow->fin_end = 0;
	in = *t;
	made = *flow;
	bpf_map_update_elem(&nat_flows, &in, &made, BPF_ANY);
	lb_count(LB_NAT_OPENED);
	return NAT_TRANSLATE;
}

/* Makes a flow for the first packet of one. Returns enum nat_verdict. */
static __always_inline int open_flow(const struct nat_tuple *t, __u32 opening, struct nat_flow *flow)
{
	int verdict = nat_choose(t, flow);

	if (verdict != NAT_TRANSLATE)
		return verdict;
	flow->opening = opening;
	return nat_note(t, flow);
}

__noinline int nat_close(const struct nat_tuple *t, const struct nat_flow *flow)
{
	struct nat_tuple rk = {}, in;

	if (!t || !flow)
		return 0;
	reply_key(t, &flow->backend, flow->port_be, &rk);
	bpf_map_delete_elem(&nat_replies, &rk);
	in = *t;
	if (!bpf_map_delete_elem(&nat_flows, &in))
		lb_count(LB_NAT_CLOSED);
	return 0;
}

/* Says whether the flow's backend still is one of its service. */
__noinline int nat_still_serves(struct nat_flow *flow)
{
	struct lb_service svc = {};

	if (!flow)
		return 0;
	if (!lb_lookup(&flow->service, &svc))
		return 0;
	if (svc.set != flow->set && !lb_has(&flow->service, &svc, &flow->backend, 1))
		return 0;
	flow->set = svc.set;
	return 1;
}

/* Says whether what opens a flow anew is of the one that there is. */
static __always_inline int keeps_backend(const struct nat_flow *f, __u64 idle)
{
	if (f->service.proto == LB_UDP)
		return idle < NAT_UDP_IDLE_NS;
	return f->service.proto == LB_SCTP && f->state & NAT_AGREED && idle < NAT_SCTP_IDLE_NS;
}

/* Finds the flow that a client's packet belongs to. Returns enum nat_verdict:
 * NAT_OPEN when the packet is the first of one. */
__noinline int nat_find(const struct nat_packet *p, const struct nat_step *step, struct nat_flow *out)
{
	struct nat_tuple in;
	struct nat_flow *f;
	__u64 now, idle;
	int opens;

	if (!p || !step || !out)
		return NAT_PASS;
	in = p->t;
	opens = in.proto == LB_UDP || step->signs & NAT_OPENS;
	f = bpf_map_lookup_elem(&nat_flows, &in);
	if (!f)
		return opens ? NAT_OPEN : NAT_PASS;
	now = bpf_ktime_get_ns();
	idle = now - f->seen_ns;
	*out = *f;
	if (in.proto != LB_UDP && (!opens || step->opening == out->opening)) {
		if (in.proto == LB_SCTP)
			f->seen_ns = now;
		return NAT_TRANSLATE;
	}
	/* Another SYN is another connection from the same port. Another INIT may
	 * be a client that began again, whose backend knows what to do of it: a
	 * connection tracker leaves them together. */
	if (keeps_backend(out, idle) && nat_still_serves(out)) {
		f->seen_ns = now;
		f->set = out->set;
		f->opening = step->opening;
		return NAT_TRANSLATE;
	}
	nat_close(&in, out);
	return opens ? NAT_OPEN : NAT_PASS;
}

/* What a client sends: the flow it belongs to, made if it is the first of one.
 * Returns enum nat_verdict. */
static __always_inline int flow_of(const struct nat_packet *p, const struct nat_step *step, struct nat_flow *out)
{
	int verdict = nat_find(p, step, out);

	return verdict == NAT_OPEN ? open_flow(&p->t, step->opening, out) : verdict;
}

/*
 * Notes the end of a connection, so that the table holds live ones. A flow
 * ends with what says so, or when the second FIN has been acknowledged: until
 * then data may be on its way again, and a packet that is not translated any
 * more gets a RST from whoever it reaches.
 */
__noinline int nat_track(const struct nat_tuple *in, const struct nat_flow *flow, const struct nat_step *step, int out)
{
	__u8 fin = out ? NAT_FIN_OUT : NAT_FIN_IN;
	struct nat_tuple key;
	struct nat_flow *f;

	if (!in || !flow || !step)
		return 0;
	if (step->signs & NAT_ENDS)
		return nat_close(in, flow);
	if ((step->signs & NAT_TALKS && out && !(flow->state & NAT_AGREED)) ||
	    (step->signs & NAT_FIN && !(flow->state & fin))) {
		key = *in;
		f = bpf_map_lookup_elem(&nat_flows, &key);
		if (!f)
			return 0;
		if (step->signs & NAT_TALKS) {
			f->state = flow->state | NAT_AGREED;
			return 0;
		}
		f->fin_end = step->end;
		f->state = flow->state | fin | (out ? NAT_LAST_OUT : 0);
		return 0;
	}
	if ((flow->state & NAT_FIN_BOTH) == NAT_FIN_BOTH && step->signs & NAT_ACK &&
	    out != !!(flow->state & NAT_LAST_OUT) && (__s32)(step->ack - flow->fin_end) >= 0)
		nat_close(in, flow);
	return 0;
}

/* Who sent the packet's answer. */
static __always_inline void invert(const struct nat_tuple *t, struct nat_tuple *out)
{
	out->src = t->dst;
	out->dst = t->src;
	out->sport_be = t->dport_be;
	out->dport_be = t->sport_be;
	out->proto = t->proto;
}

/*
 * An error about a packet that was translated: who sent it must recognize it.
 * On the way out that is the client, whose packet reached a backend or a
 * router as the translated one; on the way in it is the backend, whose answer
 * reached the client or a router as the service's. Returns 1 when it was
 * about such a packet.
 */
__noinline int nat_error(struct __sk_buff *skb, const struct nat_packet *p, int out)
{
	struct nat_packet quoted = {};
	struct nat_change c = {};
	struct nat_tuple key = {};

	if (!skb || !p)
		return 0;
	if (!is_error(skb, p))
		return 0;
	quoted.l3 = p->l4 + NAT_ICMP_HEADER;
	quoted.v6 = p->v6;
	if (!nat_parse(skb, &quoted) || quoted.part == NAT_LATER || !has_ports(quoted.t.proto))
		return 0;
	invert(&quoted.t, &key);
	if (out) {
		struct nat_reply *r = bpf_map_lookup_elem(&nat_replies, &key);

		if (!r)
			return 0;
		c.which = NAT_DST;
		c.from = quoted.t.dst;
		c.to = r->service;
		c.src_port_be = r->client_port_be;
		c.dst_port_be = r->service_port_be;
	} else {
		struct nat_flow *f = bpf_map_lookup_elem(&nat_flows, &key);

		if (!f)
			return 0;
		c.which = NAT_SRC;
		c.from = quoted.t.src;
		c.to = f->backend.addr;
		c.src_port_be = f->backend.port_be;
		c.dst_port_be = f->port_be;
	}
	return nat_rewrite_quoted(skb, p, &quoted, &c);
}

/* Sends a client's packet to the flow's backend. */
__noinline int nat_rewrite_in(struct __sk_buff *skb, const struct nat_packet *p, const struct nat_flow *flow)
{
	struct nat_change c = {};

	if (!skb || !p || !flow)
		return 0;
	c.which = NAT_DST;
	c.from = p->t.dst;
	c.to = flow->backend.addr;
	c.src_port_be = flow->port_be;
	c.dst_port_be = flow->backend.port_be;
	return nat_rewrite(skb, p, &c);
}

/* The flow that is answered; in is what the client sent, but for its address:
 * who was the backend itself is not who the backend saw. */
static __always_inline struct nat_flow *answered(const struct nat_packet *p, struct nat_tuple *in)
{
	struct nat_flow *f;

	in->src = p->t.dst;
	f = bpf_map_lookup_elem(&nat_flows, in);
	if (f && f->port_be == p->t.dport_be)
		return f;
	in->src = p->t.src;
	f = bpf_map_lookup_elem(&nat_flows, in);
	if (f && f->port_be == p->t.dport_be)
		return f;
	in->src = p->t.dst;
	return NULL;
}

/* Makes a backend's answer the service's. Returns enum nat_verdict. */
__noinline int nat_answer(struct __sk_buff *skb, const struct nat_packet *p, const struct nat_step *step)
{
	struct nat_flow *f, flow;
	struct nat_change c = {};
	struct nat_reply *r;
	struct nat_tuple t;

	if (!skb || !p || !step)
		return NAT_PASS;
	t = p->t;
	r = bpf_map_lookup_elem(&nat_replies, &t);
	if (!r)
		return NAT_PASS;
	c.which = NAT_SRC;
	c.from = t.src;
	c.to = r->service;
	c.src_port_be = r->service_port_be;
	c.dst_port_be = r->client_port_be;
	nat_first_fragment(p, &c.to);
	if (!nat_rewrite(skb, p, &c))
		return NAT_DROP;

	t.dst = c.to;
	t.sport_be = c.dst_port_be;
	t.dport_be = c.src_port_be;
	f = answered(p, &t);
	if (!f)
		return NAT_TRANSLATE;
	flow = *f;
	if (t.proto != LB_TCP)
		f->seen_ns = bpf_ktime_get_ns();
	nat_track(&t, &flow, step, 1);
	return lb_same_addr(&t.src, &p->t.src) ? NAT_BOUNCE : NAT_TRANSLATE;
}
