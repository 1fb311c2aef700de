// Package policynotice says on every NetworkPolicy, by a Warning Event, that
// this release does not enforce it: a policy that is stored and does nothing
// must not look like one that protects.
package policynotice

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// Reason of the Event.
const Reason = "NotEnforced"

// Run watches NetworkPolicies until ctx ends.
func Run(ctx context.Context, client kubernetes.Interface) error {
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	recorder := events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "skiff"})

	factory := informers.NewSharedInformerFactory(client, 0)
	if _, err := factory.Networking().V1().NetworkPolicies().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if policy, ok := obj.(*networkingv1.NetworkPolicy); ok {
				recorder.Event(policy, corev1.EventTypeWarning, Reason,
					"skiff does not enforce NetworkPolicies yet: all traffic of the selected Pods is allowed")
			}
		},
	}); err != nil {
		return fmt.Errorf("watch network policies: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	<-ctx.Done()
	return nil
}
