package v1alpha1

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// gate is a feature gate of this release's Kubernetes. knownGates is
// generated: a gate that upstream would refuse is refused before a cluster is
// made, by a program that does not have upstream's code.
type gate struct {
	// on is the default.
	on bool
	// locked gates keep their default.
	locked bool
	// stage is ALPHA, BETA, DEPRECATED, PRE-ALPHA or empty for GA.
	stage string
	// needs are gates that must be on when this one is.
	needs []string
}

// Gates that set all others of a stage.
var stageGates = map[string]string{"ALPHA": "AllAlpha", "BETA": "AllBeta"}

func validateGates(set map[string]bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sortedKeys(set) {
		at := at.Key(name)
		g, ok := knownGates[name]
		switch {
		case !ok:
			errs = append(errs, field.Invalid(at, name, "not a feature gate of Kubernetes "+KubernetesVersion+similarGate(name)))
		case g.locked && set[name] != g.on:
			errs = append(errs, field.Invalid(at, set[name], "locked to the other value in Kubernetes "+KubernetesVersion))
		case g.stage == "PRE-ALPHA":
			errs = append(errs, field.Invalid(at, set[name], "not yet settable in Kubernetes "+KubernetesVersion))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	for _, name := range sortedKeys(knownGates) {
		if !gateIsOn(name, set) {
			continue
		}
		for _, need := range knownGates[name].needs {
			if gateIsOn(need, set) {
				continue
			}
			errs = append(errs, field.Invalid(at.Key(culprit(set, name, need)), set[culprit(set, name, need)], name+" needs "+need+" to be on"))
		}
	}
	return errs
}

func gateIsOn(name string, set map[string]bool) bool {
	if v, ok := set[name]; ok {
		return v
	}
	g := knownGates[name]
	if v, ok := set[stageGates[g.stage]]; ok && !g.locked {
		return v
	}
	return g.on
}

// culprit is the written gate that made one gate be on without the other.
func culprit(set map[string]bool, name, need string) string {
	for _, gate := range []string{name, need, stageGates[knownGates[name].stage]} {
		if _, ok := set[gate]; ok {
			return gate
		}
	}
	return stageGates[knownGates[need].stage]
}

func similarGate(name string) string {
	best, least := "", 0
	for _, known := range sortedKeys(knownGates) {
		d := distance(strings.ToLower(name), strings.ToLower(known))
		if d <= len(known)/4 && (best == "" || d < least) {
			best, least = known, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// runtimeConfigGroups are the keys of runtimeConfig that name no group.
var runtimeConfigGroups = []string{"api/all", "api/ga", "api/beta", "api/alpha"}
