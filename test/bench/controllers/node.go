package main

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// nodeName is of the one Node, on which nothing runs.
const nodeName = "played"

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "none", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}}}}
}

// play does the kubelet's last part: a Pod that is being deleted has stopped
// at once.
func (m *measurement) play(ctx context.Context) error {
	pods, err := follow(ctx, m.client.CoreV1().Pods(metav1.NamespaceAll), metav1.ListOptions{FieldSelector: "spec.nodeName=" + nodeName})
	if err != nil {
		return err
	}
	go func() {
		defer pods.stop()
		for {
			e, err := pods.next(ctx)
			if err != nil {
				return // the measurement is over
			}
			if pod, ok := e.Object.(*corev1.Pod); ok && pod.DeletionTimestamp != nil {
				_ = m.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
					GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
				})
			}
		}
	}()
	return nil
}

// bound makes a Pod that has the Node.
func (m *measurement) bound(ctx context.Context, ns, name string, labels map[string]string) (*corev1.Pod, error) {
	spec := podSpec()
	spec.NodeName = nodeName
	return m.client.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: spec}, metav1.CreateOptions{})
}

// ready says that the Pod runs.
func (m *measurement) ready(ctx context.Context, pod *corev1.Pod, ip string) error {
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}},
	}
	_, err := m.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}
