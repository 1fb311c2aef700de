package lb

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/dataplane/internal/warn"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// reporter tells users by Events what their Services do not get. A nil
// reporter is silent: one node speaks for all.
type reporter struct {
	events *warn.Events
	// told are the problems that were reported, by Service: each is said
	// once, and again when it came back.
	told map[types.UID]map[problem]struct{}
}

// problem is one thing that a Service asks for and does not get.
type problem struct{ reason, message string }

func newReporter(ctx context.Context, client kubernetes.Interface) *reporter {
	return &reporter{events: warn.Start(ctx, client, "skiff-dataplane"), told: map[types.UID]map[problem]struct{}{}}
}

func (r *reporter) close() {
	if r != nil {
		r.events.Stop()
	}
}

// taken reports the keys that another Service has.
func (r *reporter) taken(name types.NamespacedName, s *service, taken map[table.Key]types.NamespacedName) {
	if r == nil || s == nil {
		return
	}
	now := map[problem]struct{}{}
	for key, owner := range taken {
		now[problem{"AddressInUse", fmt.Sprintf("%s is served by Service %s already", key, owner)}] = struct{}{}
	}
	for p := range now {
		if _, said := r.told[s.uid][p]; !said {
			r.say(name, s, p)
		}
	}
	if len(now) == 0 {
		delete(r.told, s.uid)
		return
	}
	r.told[s.uid] = now
}

// failed reports a Service that could not be written.
func (r *reporter) failed(name types.NamespacedName, s *service, err error) {
	if r == nil || s == nil {
		return
	}
	r.say(name, s, problem{"NotProgrammed", err.Error()})
}

func (r *reporter) say(name types.NamespacedName, s *service, p problem) {
	ref := &corev1.ObjectReference{Kind: "Service", APIVersion: "v1", Namespace: name.Namespace, Name: name.Name, UID: s.uid}
	r.events.Say(ref, "ProgramService", p.reason, p.message)
}
