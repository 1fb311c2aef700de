package policy

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/dataplane/internal/warn"
)

// Reasons of Events on NetworkPolicies.
const (
	// ReasonNotEnforced: the node cannot enforce policies.
	ReasonNotEnforced = "NotEnforced"
	// ReasonNotProgrammed: the policy does not fit into the node's maps; its
	// pods are isolated, and what it allows may be refused.
	ReasonNotProgrammed = "NotProgrammed"
	// ReasonInvalid: parts of the policy match nothing.
	ReasonInvalid = "InvalidPolicy"
)

// reporter tells users by Events what their policies do not get.
type reporter struct {
	node   string
	events *warn.Events
	// told is what was said last about a policy: each is said once.
	told map[types.UID]string
}

func newReporter(ctx context.Context, client kubernetes.Interface, node string) *reporter {
	return &reporter{node: node, events: warn.Start(ctx, client, "skiff-dataplane"), told: map[types.UID]string{}}
}

func (r *reporter) close() { r.events.Stop() }

// problem says what is wrong with a policy on this node.
func (r *reporter) problem(p *policy, reason, message string) {
	if r == nil || r.told[p.uid] == reason+message {
		return
	}
	r.told[p.uid] = reason + message
	ref := &corev1.ObjectReference{
		Kind: "NetworkPolicy", APIVersion: "networking.k8s.io/v1",
		Namespace: p.name.Namespace, Name: p.name.Name, UID: p.uid,
	}
	r.events.Say(ref, "ProgramPolicy", reason, fmt.Sprintf("node %s: %s", r.node, message))
}

// well forgets what was said about policies that lack nothing any more.
func (r *reporter) well(policies map[types.NamespacedName]*policy, lacking map[*policy]error) {
	if r == nil || len(r.told) == 0 {
		return
	}
	still := map[types.UID]string{}
	for _, p := range policies {
		if said, ok := r.told[p.uid]; ok && (lacking[p] != nil || len(p.problems) > 0) {
			still[p.uid] = said
		}
	}
	r.told = still
}
