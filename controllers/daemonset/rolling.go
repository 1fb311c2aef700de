package daemonset

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/controller/daemon/util"
)

// roll is the next step of a rolling update. It is taken when manage has
// nothing to do, which makes the Pods of nodes that have none.
func roll(s *state) (plan, error) {
	wanted := s.wanted()
	unavailable, err := util.UnavailableCount(s.set, len(wanted))
	if err != nil {
		return plan{}, fmt.Errorf("maxUnavailable of DaemonSet %s/%s: %w", s.set.Namespace, s.set.Name, err)
	}
	surge, err := util.SurgeCount(s.set, len(wanted))
	if err != nil {
		return plan{}, fmt.Errorf("maxSurge of DaemonSet %s/%s: %w", s.set.Namespace, s.set.Name, err)
	}
	if surge > 0 {
		return surging(s, wanted, surge), nil
	}
	if len(wanted) > 0 {
		unavailable = max(1, unavailable) // both zero would never end
	}
	return replacing(s, wanted, unavailable), nil
}

// pair are the Pods of one node: the one of the current template, and another.
type pair struct{ current, old *corev1.Pod }

// pairOf is false for a node with more Pods than that, which manage mends.
func (s *state) pairOf(pods []*corev1.Pod) (p pair, ok bool) {
	for _, pod := range live(pods) {
		kept := &p.old
		if s.updated(pod) {
			kept = &p.current
		}
		if *kept != nil {
			return pair{}, false
		}
		*kept = pod
	}
	return p, true
}

// names are of the nodes that have Pods or shall have one.
func (s *state) names(wanted map[string]bool) []string {
	all := maps.Clone(wanted)
	for name := range s.pods {
		all[name] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// replacing deletes old Pods: all that are not available, and of the others as
// many as may be unavailable.
func replacing(s *state, wanted map[string]bool, unavailable int) plan {
	var free, candidates []*corev1.Pod
	for _, name := range s.names(wanted) {
		p, ok := s.pairOf(s.pods[name])
		switch {
		case !ok, (p.old == nil) == (p.current == nil):
			unavailable--
		case p.current != nil:
			if !s.available(p.current) {
				unavailable--
			}
		case !s.available(p.old):
			free = append(free, p.old)
			unavailable--
		default:
			candidates = append(candidates, p.old)
		}
	}
	return plan{remove: append(free, candidates[:min(max(0, unavailable), len(candidates))]...)}
}

// surging starts Pods beside old ones: everywhere that the old one is not
// available, and elsewhere as many as the surge allows; and deletes old Pods
// whose successor is available. Those on nodes that shall not have one any more
// go when enough are available elsewhere.
func surging(s *state, wanted map[string]bool, surge int) plan {
	var p plan
	var candidates []string
	var misplaced []*corev1.Pod
	known := map[string]bool{}
	for _, n := range s.nodes {
		known[n.name] = true
	}
	available := 0
	for _, name := range s.names(wanted) {
		of, ok := s.pairOf(s.pods[name])
		if !ok {
			surge--
			continue
		}
		if shown := of.old; shown != nil && s.available(shown) || shown == nil && of.current != nil && s.available(of.current) {
			available++
		}
		switch {
		case of.old == nil: // manage's
		case of.current != nil && s.available(of.current):
			p.remove = append(p.remove, of.old)
		case of.current != nil:
			surge--
		case !known[name]: // the Pods of a node that is gone are collected
		case !s.available(of.old) && wanted[name]:
			p.create = append(p.create, name)
		case !s.available(of.old):
			p.remove = append(p.remove, of.old)
		case wanted[name]:
			candidates = append(candidates, name)
		default:
			misplaced = append(misplaced, of.old)
		}
	}
	p.remove = append(p.remove, misplaced[:min(max(0, available-len(wanted)), len(misplaced))]...)
	p.create = append(p.create, candidates[:min(max(0, surge), len(candidates))]...)
	return p
}
