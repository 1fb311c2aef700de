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
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>

#include "lb_pick.h"

char _license[] SEC("license") = "GPL";

#define NAT_PORT_FIRST 1024
#define NAT_PORT_COUNT 31000
#define NAT_PORT_TRIES 16

/* A UDP flow that was silent for so long is a new one. */
#define NAT_UDP_IDLE_NS (180 * 1000000000ULL)

#define IP_MF 0x2000
#define IP_OFFSET 0x1fff

#define ICMP_DEST_UNREACH 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_HEADER 8

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* Both directions: who sends, to whom, as the packet says. */
struct nat_tuple {
	__be32 src_be;
	__be32 dst_be;
	__be16 sport_be;
	__be16 dport_be;
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct nat_tuple) == 16, "nat_tuple");

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
	__u32 isn; /* of the SYN that made it: tells a repetition */
	__be16 port_be; /* the client's port behind the translation */
	__u8 state; /* enum nat_state */
	__u8 pad;
	__u32 fin_end; /* what acknowledges the second FIN */
	__u32 pad2;
};
_Static_assert(sizeof(struct nat_flow) == 40, "nat_flow");

/* Keyed by the tuple that the backend sends. */
struct nat_reply {
	__be32 service_addr_be;
	__be16 service_port_be;
	__be16 client_port_be;
};
_Static_assert(sizeof(struct nat_reply) == 8, "nat_reply");

/* Fragments after the first have no ports. */
struct nat_fragment {
	__be32 src_be;
	__be32 dst_be;
	__be16 id_be;
	__u8 proto;
	__u8 pad;
};
_Static_assert(sizeof(struct nat_fragment) == 12, "nat_fragment");

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
	__type(value, __be32); /* the address that the first fragment went to, or came from */
} nat_fragments SEC(".maps");

/* Ports are given out in turn, so that one comes back as late as can be. */
static __u32 nat_next;

/* What a packet is, as far as the translation asks. */
struct nat_packet {
	struct nat_tuple t;
	__u32 l4; /* offset of the transport header */
	__u32 seq; /* TCP */
	__u32 end; /* the sequence number after the packet */
	__u32 ack;
	__be16 id_be;
	__u8 flags; /* TCP */
	__u8 fragment; /* enum nat_part */
};

enum nat_part {
	NAT_WHOLE,
	NAT_FIRST,
	NAT_LATER, /* no transport header */
};

#define IP_AT ETH_HLEN
#define IP_CHECK_AT (IP_AT + offsetof(struct iphdr, check))
#define IP_SRC_AT (IP_AT + offsetof(struct iphdr, saddr))
#define IP_DST_AT (IP_AT + offsetof(struct iphdr, daddr))

#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

/* Reads a packet; 0 when it is none of ours to look at. */
static __always_inline int parse(struct __sk_buff *skb, struct nat_packet *p)
{
	struct iphdr ip;
	__u16 frag;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return 0;
	if (bpf_skb_load_bytes(skb, IP_AT, &ip, sizeof(ip)))
		return 0;
	if (ip.version != 4 || ip.ihl < 5)
		return 0;
	p->t.src_be = ip.saddr;
	p->t.dst_be = ip.daddr;
	p->t.proto = ip.protocol;
	p->id_be = ip.id;
	p->l4 = IP_AT + ip.ihl * 4;
	frag = bpf_ntohs(ip.frag_off);
	p->fragment = frag & IP_OFFSET ? NAT_LATER : frag & IP_MF ? NAT_FIRST : NAT_WHOLE;
	if (p->fragment == NAT_LATER)
		return ip.protocol == LB_TCP || ip.protocol == LB_UDP;

	if (ip.protocol == LB_TCP) {
		struct {
			__be16 sport_be, dport_be;
			__be32 seq_be, ack_be;
			__u8 offset, flags;
			__u8 pad[2];
		} tcp;

		if (bpf_skb_load_bytes(skb, p->l4, &tcp, sizeof(tcp)))
			return 0;
		p->t.sport_be = tcp.sport_be;
		p->t.dport_be = tcp.dport_be;
		p->seq = bpf_ntohl(tcp.seq_be);
		p->ack = bpf_ntohl(tcp.ack_be);
		p->flags = tcp.flags;
		p->end = p->seq + skb->len - p->l4 - (tcp.offset >> 4) * 4 +
			 !!(tcp.flags & TCP_SYN) + !!(tcp.flags & TCP_FIN);
		return 1;
	}
	if (ip.protocol == LB_UDP) {
		__be16 ports[2];

		if (bpf_skb_load_bytes(skb, p->l4, ports, sizeof(ports)))
			return 0;
		p->t.sport_be = ports[0];
		p->t.dport_be = ports[1];
		return 1;
	}
	return ip.protocol == IPPROTO_ICMP;
}

static __always_inline void set_address(struct __sk_buff *skb, __u32 at, __be32 from, __be32 to)
{
	bpf_l3_csum_replace(skb, IP_CHECK_AT, from, to, 4);
	bpf_skb_store_bytes(skb, at, &to, 4, 0);
}

/* The transport checksum after an address of the pseudo header changed, and
 * a port. UDP's zero (none) stays. */
static __always_inline void set_transport(struct __sk_buff *skb, const struct nat_packet *p,
					  __be32 from, __be32 to)
{
	__u32 at = p->l4 + (p->t.proto == LB_TCP ? 16 : 6);
	__u64 flags = p->t.proto == LB_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	bpf_l4_csum_replace(skb, at, from, to, 4 | BPF_F_PSEUDO_HDR | flags);
}

static __always_inline void set_port(struct __sk_buff *skb, const struct nat_packet *p, __u32 which,
				     __be16 from, __be16 to)
{
	__u32 at = p->l4 + (p->t.proto == LB_TCP ? 16 : 6);
	__u64 flags = p->t.proto == LB_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if (from == to)
		return;
	bpf_l4_csum_replace(skb, at, from, to, 2 | flags);
	bpf_skb_store_bytes(skb, p->l4 + which, &to, 2, 0);
}

#define SRC_PORT 0
#define DST_PORT 2

static __always_inline void fragment_key(const struct nat_packet *p, struct nat_fragment *key)
{
	key->src_be = p->t.src_be;
	key->dst_be = p->t.dst_be;
	key->id_be = p->id_be;
	key->proto = p->t.proto;
}

/* The tuple that the backend of a flow sends. */
static __always_inline void reply_key(const struct nat_tuple *in, const struct lb_backend *b,
				      __be16 port_be, struct nat_tuple *out)
{
	out->src_be = b->addr_be;
	out->dst_be = in->src_be;
	out->sport_be = b->port_be;
	out->dport_be = port_be;
	out->proto = in->proto;
}

/* Finds the service that the outside calls. */
static __always_inline int find(const struct nat_tuple *t, struct lb_key *key, struct lb_service *svc)
{
	key->addr_be = t->dst_be;
	key->port_be = t->dport_be;
	key->proto = t->proto;
	key->scope = LB_SCOPE_ALL;
	if (lb_lookup(key, svc))
		return !(svc->flags & LB_NODE_ONLY);
	if (!bpf_map_lookup_elem(&lb_nodes, &t->dst_be))
		return 0;
	key->addr_be = 0;
	return lb_lookup(key, svc);
}

/* Makes a flow for the first packet of one; 0 when it goes on as it is. */
static __noinline int open_flow(const struct nat_tuple *t, __u32 isn, struct nat_flow *flow)
{
	struct lb_service svc = {};
	struct nat_reply r = {};
	struct nat_tuple rk = {};
	int found = 0;

	if (!find(t, &flow->service, &svc))
		return 0;
	/* Without endpoints the packet goes on to an address that refuses. */
	if (lb_pick(&flow->service, &svc, bpf_ntohl(t->src_be), &flow->backend) != LB_TRANSLATE)
		return 0;

	r.service_addr_be = t->dst_be;
	r.service_port_be = t->dport_be;
	r.client_port_be = t->sport_be;
	for (int i = 0; i < NAT_PORT_TRIES && !found; i++) {
		__u32 n = __sync_fetch_and_add(&nat_next, 1);

		flow->port_be = bpf_htons(NAT_PORT_FIRST + n % NAT_PORT_COUNT);
		reply_key(t, &flow->backend, flow->port_be, &rk);
		found = !bpf_map_update_elem(&nat_replies, &rk, &r, BPF_NOEXIST);
	}
	if (!found)
		return 0;
	flow->seen_ns = bpf_ktime_get_ns();
	flow->isn = isn;
	flow->state = 0;
	flow->fin_end = 0;
	bpf_map_update_elem(&nat_flows, t, flow, BPF_ANY);
	return 1;
}

static __always_inline void close_flow(const struct nat_tuple *t, const struct nat_flow *flow)
{
	struct nat_tuple rk = {};

	reply_key(t, &flow->backend, flow->port_be, &rk);
	bpf_map_delete_elem(&nat_replies, &rk);
	bpf_map_delete_elem(&nat_flows, t);
}

/* What a client sends: the flow it belongs to, made if it is the first of one. */
static __always_inline int flow_of(const struct nat_packet *p, struct nat_flow *out)
{
	int syn = p->t.proto == LB_TCP && (p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	struct nat_flow *f = bpf_map_lookup_elem(&nat_flows, &p->t);

	if (f) {
		__u64 now = bpf_ktime_get_ns(), idle = now - f->seen_ns;

		*out = *f;
		if (p->t.proto == LB_TCP) {
			/* Another SYN is another connection from the same port. */
			if (!syn || p->seq == out->isn)
				return 1;
		} else if (idle < NAT_UDP_IDLE_NS && lb_is_member(&out->service, &out->backend)) {
			f->seen_ns = now;
			return 1;
		}
		close_flow(&p->t, out);
	}
	if (p->t.proto == LB_TCP && !syn)
		return 0;
	return open_flow(&p->t, p->seq, out);
}

/*
 * Notes the end of a connection, so that the table holds live ones. A flow
 * ends with a RST, or when the second FIN has been acknowledged: until then
 * data may be on its way again, and a packet that is not translated any more
 * gets a RST from whoever it reaches.
 */
static __always_inline void track(const struct nat_tuple *in, const struct nat_flow *flow,
				  const struct nat_packet *p, int out)
{
	__u8 fin = out ? NAT_FIN_OUT : NAT_FIN_IN;
	struct nat_flow *f;

	if (in->proto != LB_TCP)
		return;
	if (p->flags & TCP_RST) {
		close_flow(in, flow);
		return;
	}
	if (p->flags & TCP_FIN && !(flow->state & fin)) {
		f = bpf_map_lookup_elem(&nat_flows, in);
		if (!f)
			return;
		f->fin_end = p->end;
		f->state = flow->state | fin | (out ? NAT_LAST_OUT : 0);
		return;
	}
	if ((flow->state & NAT_FIN_BOTH) == NAT_FIN_BOTH && p->flags & TCP_ACK &&
	    out != !!(flow->state & NAT_LAST_OUT) && (__s32)(p->ack - flow->fin_end) >= 0)
		close_flow(in, flow);
}

SEC("tc")
int nat_in(struct __sk_buff *skb)
{
	struct nat_packet p = {};
	struct nat_flow flow = {};
	struct nat_fragment fk = {};

	if (!parse(skb, &p) || p.t.proto == IPPROTO_ICMP)
		return TC_ACT_UNSPEC;
	if (p.fragment == NAT_LATER) {
		__be32 *to;

		fragment_key(&p, &fk);
		to = bpf_map_lookup_elem(&nat_fragments, &fk);
		if (to)
			set_address(skb, IP_DST_AT, p.t.dst_be, *to);
		return TC_ACT_UNSPEC;
	}
	if (!flow_of(&p, &flow))
		return TC_ACT_UNSPEC;
	if (p.fragment == NAT_FIRST) {
		fragment_key(&p, &fk);
		bpf_map_update_elem(&nat_fragments, &fk, &flow.backend.addr_be, BPF_ANY);
	}
	set_transport(skb, &p, p.t.dst_be, flow.backend.addr_be);
	set_address(skb, IP_DST_AT, p.t.dst_be, flow.backend.addr_be);
	set_port(skb, &p, DST_PORT, p.t.dport_be, flow.backend.port_be);
	set_port(skb, &p, SRC_PORT, p.t.sport_be, flow.port_be);
	track(&p.t, &flow, &p, 0);
	return TC_ACT_UNSPEC;
}

/*
 * An error about a packet that was translated, from its backend or from a
 * router: the client must recognize in it what it sent.
 */
static __always_inline void error_out(struct __sk_buff *skb, const struct nat_packet *p)
{
	struct nat_tuple rk = {};
	struct nat_reply *r, reply;
	struct iphdr ip;
	__be16 ports[2];
	__u8 type;
	__u32 at = p->l4 + ICMP_HEADER, l4;

	if (bpf_skb_load_bytes(skb, p->l4, &type, 1))
		return;
	if (type != ICMP_DEST_UNREACH && type != ICMP_TIME_EXCEEDED && type != ICMP_PARAMETERPROB)
		return;
	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return;
	if (ip.version != 4 || ip.ihl < 5 || (ip.protocol != LB_TCP && ip.protocol != LB_UDP) ||
	    bpf_ntohs(ip.frag_off) & IP_OFFSET)
		return;
	l4 = at + ip.ihl * 4;
	if (bpf_skb_load_bytes(skb, l4, ports, sizeof(ports)))
		return;
	rk.src_be = ip.daddr;
	rk.dst_be = ip.saddr;
	rk.sport_be = ports[1];
	rk.dport_be = ports[0];
	rk.proto = ip.protocol;
	r = bpf_map_lookup_elem(&nat_replies, &rk);
	if (!r)
		return;
	reply = *r;

	/* An address and the header checksum over it change against each
	 * other: the ICMP checksum stays, except for the ports. */
	bpf_l3_csum_replace(skb, at + offsetof(struct iphdr, check), ip.daddr, reply.service_addr_be, 4);
	bpf_skb_store_bytes(skb, at + offsetof(struct iphdr, daddr), &reply.service_addr_be, 4, 0);
	bpf_l4_csum_replace(skb, p->l4 + 2, ports[0], reply.client_port_be, 2);
	bpf_skb_store_bytes(skb, l4 + SRC_PORT, &reply.client_port_be, 2, 0);
	bpf_l4_csum_replace(skb, p->l4 + 2, ports[1], reply.service_port_be, 2);
	bpf_skb_store_bytes(skb, l4 + DST_PORT, &reply.service_port_be, 2, 0);
	if (p->t.src_be == ip.daddr)
		set_address(skb, IP_SRC_AT, p->t.src_be, reply.service_addr_be);
}

SEC("tc")
int nat_out(struct __sk_buff *skb)
{
	struct nat_packet p = {};
	struct nat_reply *r, reply;
	struct nat_fragment fk = {};
	struct nat_tuple in = {};
	struct nat_flow *f, flow;

	if (!parse(skb, &p))
		return TC_ACT_UNSPEC;
	if (p.fragment == NAT_LATER) {
		__be32 *from;

		fragment_key(&p, &fk);
		from = bpf_map_lookup_elem(&nat_fragments, &fk);
		if (from)
			set_address(skb, IP_SRC_AT, p.t.src_be, *from);
		return TC_ACT_UNSPEC;
	}
	if (p.t.proto == IPPROTO_ICMP) {
		error_out(skb, &p);
		return TC_ACT_UNSPEC;
	}
	r = bpf_map_lookup_elem(&nat_replies, &p.t);
	if (!r)
		return TC_ACT_UNSPEC;
	reply = *r;
	if (p.fragment == NAT_FIRST) {
		fragment_key(&p, &fk);
		bpf_map_update_elem(&nat_fragments, &fk, &reply.service_addr_be, BPF_ANY);
	}
	set_transport(skb, &p, p.t.src_be, reply.service_addr_be);
	set_address(skb, IP_SRC_AT, p.t.src_be, reply.service_addr_be);
	set_port(skb, &p, SRC_PORT, p.t.sport_be, reply.service_port_be);
	set_port(skb, &p, DST_PORT, p.t.dport_be, reply.client_port_be);

	in.src_be = p.t.dst_be;
	in.dst_be = reply.service_addr_be;
	in.sport_be = reply.client_port_be;
	in.dport_be = reply.service_port_be;
	in.proto = p.t.proto;
	f = bpf_map_lookup_elem(&nat_flows, &in);
	if (!f)
		return TC_ACT_UNSPEC;
	flow = *f;
	if (p.t.proto == LB_UDP)
		f->seen_ns = bpf_ktime_get_ns();
	track(&in, &flow, &p, 1);
	return TC_ACT_UNSPEC;
}
