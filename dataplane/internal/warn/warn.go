// Package warn tells users by Events what their objects ask for and do not get.
package warn

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
)

// Events writes them, in the background, until Stop.
type Events struct {
	broadcaster events.EventBroadcaster
	recorder    events.EventRecorder
}

// Start needs a client that may create and patch Events; component is who
// speaks.
func Start(ctx context.Context, client kubernetes.Interface, component string) *Events {
	b := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	// It fails only for what is no event handler.
	_ = b.StartRecordingToSinkWithContext(ctx)
	return &Events{broadcaster: b, recorder: b.NewRecorder(scheme.Scheme, component)}
}

// Stop writes no more.
func (e *Events) Stop() { e.broadcaster.Shutdown() }

// Say warns of an object, or of a reference to one: action is what failed,
// reason why, both CamelCase.
func (e *Events) Say(object runtime.Object, action, reason, message string) {
	e.recorder.Eventf(object, nil, corev1.EventTypeWarning, reason, action, "%s", message)
}
