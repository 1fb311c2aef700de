package apitest

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	daemonutil "k8s.io/kubernetes/pkg/controller/daemon/util"
	"k8s.io/utils/ptr"
)

// BadImage is an image with which a Pod runs and never becomes ready.
const BadImage = "bad"

// ExitImage is an image whose containers run to their end, with an exit code.
func ExitImage(code int) string { return fmt.Sprintf("exit-%d", code) }

// exitCode is ExitImage's.
func exitCode(image string) (code int, ends bool) {
	_, err := fmt.Sscanf(image, "exit-%d", &code)
	return code, err == nil
}

// Ended is the status of a Pod whose container has ended with an exit code.
func Ended(code int) corev1.PodStatus {
	status := corev1.PodStatus{Phase: corev1.PodSucceeded}
	if code != 0 {
		status.Phase = corev1.PodFailed
	}
	status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: int32(code), FinishedAt: metav1.Now()},
	}}}
	return status
}

// KubeletNode makes the Node that Kubelet's Pods run on, and keeps it alive
// until the test ends. Without it Pods are collected as garbage after a minute.
func (a *API) KubeletNode(t testing.TB) {
	t.Helper()
	a.Node(t, kubeletNode, nil)
	leases := a.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	beat := func(ctx context.Context) error {
		renewed := metav1.NewMicroTime(time.Now())
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: kubeletNode}, Spec: coordinationv1.LeaseSpec{
			HolderIdentity: ptr.To(kubeletNode), LeaseDurationSeconds: ptr.To[int32](40), RenewTime: &renewed,
		}}
		_, err := leases.Create(ctx, lease, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		patch, err := json.Marshal(lease)
		if err == nil {
			_, err = leases.Patch(ctx, kubeletNode, types.MergePatchType, patch, metav1.PatchOptions{})
		}
		return err
	}
	if err := beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for ticker := time.NewTicker(10 * time.Second); ; {
			select {
			case <-ctx.Done():
				ticker.Stop()
				return
			case <-ticker.C:
				if err := beat(ctx); err != nil && ctx.Err() == nil {
					t.Errorf("lease of Node %s: %v", kubeletNode, err)
				}
			}
		}
	}()
}

// kubeletNode is the Node of Kubelet's Pods.
const kubeletNode = "kubelet"

// Kubelet plays the scheduler's and the kubelet's part in a namespace until
// the test ends: Pods run and become ready, unless their image is BadImage,
// and end when they are deleted. Those of an ExitImage end at once. A
// DaemonSet's Pod is bound to the node that it is for.
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
					if len(pod.Finalizers) > 0 && pod.Status.Phase == corev1.PodRunning {
						ended := pod.DeepCopy()
						ended.Status = Ended(137)
						_, _ = pods.UpdateStatus(ctx, ended, metav1.UpdateOptions{})
					}
					_ = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{
						// Not another one that has its name by then.
						GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
					})
				})
			case pod.Status.Phase == corev1.PodPending && pod.Spec.NodeName == "":
				node, err := daemonutil.GetTargetNodeName(pod)
				if err != nil {
					node = kubeletNode // any will do
				}
				_ = pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}, metav1.CreateOptions{})
			case pod.Status.Phase == corev1.PodPending:
				running := pod.DeepCopy()
				running.Status = Running("10.0.0.1", pod.Spec.Containers[0].Image != BadImage)
				if code, ends := exitCode(pod.Spec.Containers[0].Image); ends {
					running.Status = Ended(code)
				}
				_, _ = pods.UpdateStatus(ctx, running, metav1.UpdateOptions{})
			}
		}
	}()
}
