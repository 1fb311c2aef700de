package trace

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/dataplane/lb"
	"github.com/skiff-k8s/skiff/dataplane/policy"
)

// answerPatience bounds all questions to the API server: one that accepts and
// does not answer is a finding, too.
const answerPatience = 10 * time.Second

// Objects are what the API server holds.
type Objects struct {
	policy.Objects
	Services []*corev1.Service
}

func (o Objects) services() lb.Objects {
	return lb.Objects{Services: o.Services, Slices: o.Slices, Nodes: o.Nodes}
}

// Read lists all that Services and NetworkPolicies depend on.
func Read(ctx context.Context, client kubernetes.Interface) (o Objects, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	var list metav1.ListOptions
	services, err := client.CoreV1().Services("").List(ctx, list)
	if err != nil {
		return o, unanswered("Services", err)
	}
	slices, err := client.DiscoveryV1().EndpointSlices("").List(ctx, list)
	if err != nil {
		return o, unanswered("EndpointSlices", err)
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, list)
	if err != nil {
		return o, unanswered("Nodes", err)
	}
	pods, err := client.CoreV1().Pods("").List(ctx, list)
	if err != nil {
		return o, unanswered("Pods", err)
	}
	namespaces, err := client.CoreV1().Namespaces().List(ctx, list)
	if err != nil {
		return o, unanswered("Namespaces", err)
	}
	policies, err := client.NetworkingV1().NetworkPolicies("").List(ctx, list)
	if err != nil {
		return o, unanswered("NetworkPolicies", err)
	}
	o.Services = pointers(services.Items)
	o.Slices, o.Nodes, o.Pods = pointers(slices.Items), pointers(nodes.Items), pointers(pods.Items)
	o.Namespaces, o.Policies = pointers(namespaces.Items), pointers(policies.Items)
	return o, nil
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

// mended is an error that knows what its user can do.
type mended struct {
	error
	mend string
}

// Mend says what to do.
func (e *mended) Mend() string { return e.mend }

// Unwrap is the error without it.
func (e *mended) Unwrap() error { return e.error }

func unanswered(kind string, err error) error {
	return &mended{fmt.Errorf("list %s: %w", kind, err), "skiff logs --component control-plane shows why the API server does not answer"}
}

// podOfAddress is the pod that EndpointSlices say an address is of.
func (o Objects) podOfAddress(address string) string {
	for _, s := range o.Slices {
		for _, e := range s.Endpoints {
			if e.TargetRef != nil && e.TargetRef.Kind == "Pod" && len(e.Addresses) > 0 && e.Addresses[0] == address {
				return e.TargetRef.Namespace + "/" + e.TargetRef.Name
			}
		}
	}
	return ""
}
