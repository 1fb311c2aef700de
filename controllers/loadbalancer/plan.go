package loadbalancer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/utils/ptr"
)

// decision is what one Service shall be.
type decision struct {
	service *corev1.Service
	// addrs are those of its status, in the order of its families.
	addrs []netip.Addr
	// finalizer tells whether it has ours.
	finalizer bool
	// refusals say which addresses it does not get, and why.
	refusals []string
}

// wants tells whether a Service gets addresses from us.
func wants(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && classIsOurs(svc) && svc.DeletionTimestamp == nil
}

func classIsOurs(svc *corev1.Service) bool {
	return svc.Spec.LoadBalancerClass == nil || *svc.Spec.LoadBalancerClass == Class
}

// leaves tells whether something of ours has to go from a Service. The API
// server empties the status of one that changes its type.
func leaves(svc *corev1.Service) bool {
	if wants(svc) || !classIsOurs(svc) {
		return false
	}
	return servicehelper.HasLBFinalizer(svc) || svc.DeletionTimestamp != nil && len(svc.Status.LoadBalancer.Ingress) > 0
}

// plan decides for all Services that are ours, and for those that were.
//
//	wants ─ address free → Ensured: finalizer, status
//	      └ not free     → pending: finalizer, Event; again when a Service changes
//	Ensured, pending ─ deleted, other type → finalizer off, status empty
func plan(ranges []netip.Prefix, services []*corev1.Service) []decision {
	p := &planner{ranges: ranges, have: ledger{}}
	var out []decision
	for _, svc := range services {
		switch {
		case wants(svc):
			p.wanting = append(p.wanting, newWish(svc))
			continue
		case leaves(svc):
			out = append(out, decision{service: svc, addrs: leftOver(svc)})
		}
		// Until its status is empty the dataplane serves it.
		for _, a := range statusAddrs(svc) {
			p.have.add(a, svc)
		}
	}
	slices.SortFunc(p.wanting, func(a, b *wish) int { return age(a.service, b.service) })
	p.keep()
	p.addExternalIPs(services)
	p.grantRequests()
	p.giveFree()
	for _, w := range p.wanting {
		out = append(out, w.decision())
	}
	return out
}

// leftOver is the status of a Service that leaves. The one write that takes
// the finalizer off a deleted Service is mostly its end; if others hold it,
// the next pass empties the status.
func leftOver(svc *corev1.Service) []netip.Addr {
	if servicehelper.HasLBFinalizer(svc) && svc.DeletionTimestamp != nil {
		return statusAddrs(svc)
	}
	return nil
}

// age orders the older Service first.
func age(a, b *corev1.Service) int {
	return cmp.Or(
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Name, b.Name),
	)
}

// statusAddrs are the addresses in a Service's status.
func statusAddrs(svc *corev1.Service) []netip.Addr {
	var addrs []netip.Addr
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(ingress.IP); err == nil {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}

// wish is a Service and what it has got so far.
type wish struct {
	service   *corev1.Service
	asks, got byFamily
	refusals  []string
	// invalid: what it asks for makes no sense, so that it gets nothing.
	invalid bool
}

func newWish(svc *corev1.Service) *wish {
	w := &wish{service: svc}
	asks, err := requested(svc)
	if err != nil {
		w.invalid, w.refusals = true, []string{err.Error()}
	}
	w.asks = asks
	return w
}

// missing are the families for which it has nothing yet.
func (w *wish) missing() []corev1.IPFamily {
	if w.invalid {
		return nil
	}
	var families []corev1.IPFamily
	for _, f := range w.service.Spec.IPFamilies {
		if !w.got.of(f).IsValid() {
			families = append(families, f)
		}
	}
	return families
}

func (w *wish) decision() decision {
	d := decision{service: w.service, finalizer: true, refusals: w.refusals}
	for _, f := range w.service.Spec.IPFamilies {
		if a := w.got.of(f); a.IsValid() {
			d.addrs = append(d.addrs, a)
		}
	}
	return d
}

// planner is a pass.
type planner struct {
	ranges  []netip.Prefix
	wanting []*wish
	have    ledger
}

func (p *planner) inRange(a netip.Addr) bool {
	return slices.ContainsFunc(p.ranges, func(r netip.Prefix) bool { return r.Contains(a) })
}

// of are the ranges of a family.
func (p *planner) of(family corev1.IPFamily) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(p.ranges), func(r netip.Prefix) bool { return familyOf(r.Addr()) != family })
}

func (p *planner) give(w *wish, a netip.Addr) {
	w.got.set(a)
	p.have.add(a, w.service)
}

// keep leaves everybody what the status says, unless a Service asks for
// something else by now. If two have the same, the older one keeps it.
func (p *planner) keep() {
	for _, w := range p.wanting {
		var has byFamily
		for _, a := range statusAddrs(w.service) {
			has.set(a)
		}
		for _, family := range w.missing() {
			a, asked := has.of(family), w.asks.of(family)
			if a.IsValid() && p.inRange(a) && (!asked.IsValid() || asked == a) && p.have.conflict(a, w.service) == nil {
				p.give(w, a)
			}
		}
	}
}

// addExternalIPs keeps addresses free that a Service answers on already. Who
// names an address that a load balancer has does not take it away.
func (p *planner) addExternalIPs(services []*corev1.Service) {
	for _, svc := range services {
		for _, ip := range svc.Spec.ExternalIPs {
			if a, err := netip.ParseAddr(ip); err == nil {
				p.have.add(a.Unmap(), svc)
			}
		}
	}
}

// grantRequests gives those that ask what nobody has.
func (p *planner) grantRequests() {
	for _, w := range p.wanting {
		for _, family := range w.missing() {
			a := w.asks.of(family)
			if !a.IsValid() {
				continue
			}
			if refusal := p.refuse(a, w.service); refusal != "" {
				w.refusals = append(w.refusals, refusal)
			} else {
				p.give(w, a)
			}
		}
	}
}

// refuse says why a Service cannot have the address it asks for.
func (p *planner) refuse(a netip.Addr, svc *corev1.Service) string {
	if !p.inRange(a) {
		return fmt.Sprintf("requested address %s is not in the cluster's LoadBalancer range %s", a, list(p.ranges))
	}
	holder := p.have.conflict(a, svc)
	if holder == nil {
		return ""
	}
	why := ""
	if key := svc.Annotations[SharingAnnotation]; key != "" {
		why = fmt.Sprintf(", which does not share it as %q", key)
		if key == holder.Annotations[SharingAnnotation] {
			why = fmt.Sprintf(", which shares it as %q but has the same port", key)
		}
	}
	return fmt.Sprintf("requested address %s is in use by Service %s/%s%s", a, holder.Namespace, holder.Name, why)
}

// giveFree gives everybody else the lowest address that is free.
func (p *planner) giveFree() {
	pools := map[corev1.IPFamily][]*pool{}
	for _, r := range p.ranges {
		pools[familyOf(r.Addr())] = append(pools[familyOf(r.Addr())], newPool(r))
	}
	for _, w := range p.wanting {
		for _, family := range w.missing() {
			if w.asks.of(family).IsValid() {
				continue
			}
			var a netip.Addr
			for _, pool := range pools[family] {
				if a = pool.take(p.have); a.IsValid() {
					break
				}
			}
			switch {
			case a.IsValid():
				p.give(w, a)
			case len(pools[family]) == 0:
				w.refusals = append(w.refusals, fmt.Sprintf("the cluster has no LoadBalancer range of family %s", family))
			default:
				w.refusals = append(w.refusals, fmt.Sprintf("no free address in the cluster's LoadBalancer range %s", list(p.of(family))))
			}
		}
	}
}

func list(ranges []netip.Prefix) string {
	var words []string
	for _, r := range ranges {
		words = append(words, r.String())
	}
	return strings.Join(words, ", ")
}

// ingress is the status that shows the addresses.
func ingress(addrs []netip.Addr) []corev1.LoadBalancerIngress {
	var out []corev1.LoadBalancerIngress
	for _, a := range addrs {
		// Packets arrive with the address itself: nobody translates it before.
		out = append(out, corev1.LoadBalancerIngress{IP: a.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
	}
	return out
}
