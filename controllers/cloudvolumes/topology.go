package cloudvolumes

import (
	"hash/fnv"
	"maps"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// nodeZone is a node as a driver sees it.
type nodeZone struct {
	// registered says that the driver serves the node.
	registered bool
	zone       string
}

// nodeZones are the nodes of the cluster in the eyes of a driver.
func nodeZones(nodes []corev1.Node, csiNodes []storagev1.CSINode, driver, zoneKey string) map[string]nodeZone {
	zones := map[string]nodeZone{}
	for i := range nodes {
		zones[nodes[i].Name] = nodeZone{zone: nodes[i].Labels[zoneKey]}
	}
	for i := range csiNodes {
		n, known := zones[csiNodes[i].Name]
		if known && registration(&csiNodes[i], driver) != nil {
			n.registered = true
			zones[csiNodes[i].Name] = n
		}
	}
	return zones
}

// registration is what a driver said of a node.
func registration(n *storagev1.CSINode, driver string) *storagev1.CSINodeDriver {
	for i := range n.Spec.Drivers {
		if n.Spec.Drivers[i].Name == driver {
			return &n.Spec.Drivers[i]
		}
	}
	return nil
}

// allowedZones are those of a class; nil: all.
func allowedZones(terms []corev1.TopologySelectorTerm, zoneKey string) []string {
	var zones []string
	for _, term := range terms {
		for _, e := range term.MatchLabelExpressions {
			if e.Key == zoneKey || e.Key == corev1.LabelTopologyZone {
				zones = append(zones, e.Values...)
			}
		}
	}
	return zones
}

// planZone says where the volume of a claim may be, in order of preference.
// wait: a node that matters is not registered yet, and its event brings the
// claim back.
func planZone(zones map[string]nodeZone, allowed []string, selectedNode, claim string) (order []string, wait bool, refusal string) {
	if selectedNode != "" {
		n, known := zones[selectedNode]
		switch {
		case !known:
			return nil, false, "node " + selectedNode + " does not exist"
		case !n.registered:
			return nil, true, ""
		case n.zone == "":
			return nil, false, ""
		case len(allowed) > 0 && !slices.Contains(allowed, n.zone):
			return nil, false, "node " + selectedNode + " is in zone " + n.zone + ", which allowedTopologies of the StorageClass leaves out"
		}
		return []string{n.zone}, false, ""
	}
	candidates := map[string]bool{}
	for _, zone := range allowed {
		candidates[zone] = true
	}
	if len(allowed) == 0 {
		for _, n := range zones {
			if !n.registered {
				return nil, true, ""
			}
			if n.zone != "" {
				candidates[n.zone] = true
			}
		}
	}
	sorted := slices.Sorted(maps.Keys(candidates))
	if len(sorted) == 0 {
		return nil, false, ""
	}
	// Claims spread over zones by their name, as with external-provisioner.
	h := fnv.New32()
	_, _ = h.Write([]byte(claim))
	at := int(h.Sum32() % uint32(len(sorted)))
	return slices.Concat(sorted[at:], sorted[:at]), false, ""
}

// requirement is the zones as CSI asks for them.
func requirement(zoneKey string, order []string) *csi.TopologyRequirement {
	if len(order) == 0 {
		return nil
	}
	var all []*csi.Topology
	for _, zone := range order {
		all = append(all, &csi.Topology{Segments: map[string]string{zoneKey: zone}})
	}
	return &csi.TopologyRequirement{Requisite: all, Preferred: all}
}

// affinity is where a volume can be reached from.
func affinity(topologies []*csi.Topology) *corev1.VolumeNodeAffinity {
	var terms []corev1.NodeSelectorTerm
	for _, t := range topologies {
		var term corev1.NodeSelectorTerm
		for _, key := range slices.Sorted(maps.Keys(t.GetSegments())) {
			term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{
				Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{t.GetSegments()[key]},
			})
		}
		terms = append(terms, term)
	}
	if len(terms) == 0 {
		return nil
	}
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: terms}}
}
