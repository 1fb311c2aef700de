package apitest

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

// BadImage is an image with which a Pod runs and never becomes ready.
const BadImage = "bad"

// Kubelet plays the scheduler's and the kubelet's part in a namespace until
// the test ends: Pods run and become ready, unless their image is BadImage,
// and end when they are deleted.
func (a *API) Kubelet(t testing.TB, ns string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	events, err := a.Client.CoreV1().Pods(ns).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); events.Stop(); <-done })
	go func() {
		defer close(done)
		for event := range events.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok || event.Type == watch.Deleted {
				continue
			}
			switch pods := a.Client.CoreV1().Pods(ns); {
			case pod.DeletionTimestamp != nil:
				time.AfterFunc(10*time.Millisecond, func() {
					_ = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)})
				})
			case pod.Status.Phase == corev1.PodPending && pod.Spec.NodeName == "":
				_ = pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "kubelet"}}, metav1.CreateOptions{})
			case pod.Status.Phase == corev1.PodPending:
				running := pod.DeepCopy()
				running.Status = Running("10.0.0.1", pod.Spec.Containers[0].Image != BadImage)
				_, _ = pods.UpdateStatus(ctx, running, metav1.UpdateOptions{})
			}
		}
	}()
}
