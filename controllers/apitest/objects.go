package apitest

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// Namespace makes a namespace with a generated name and waits for its default
// ServiceAccount, without which admission refuses Pods.
func (a *API) Namespace(t testing.TB) string {
	t.Helper()
	ns, err := a.Client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := a.Client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	Eventually(t, func() string {
		if _, err := a.Client.CoreV1().ServiceAccounts(ns.Name).Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	return ns.Name
}

// PodSpec is a Pod that no test needs to run.
func PodSpec() corev1.PodSpec {
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: ptr.To[int64](0),
		Containers:                    []corev1.Container{{Name: "c", Image: "none"}},
	}
}

// Deployment is one of the given name, with Pods labelled app=name.
func Deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(replicas),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: PodSpec()},
		},
	}
}

// Pods says what is missing until the namespace has want Pods that are not
// being deleted.
func (a *API) Pods(t testing.TB, ns string, want int) func() string {
	return func() string {
		list, err := a.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return err.Error()
		}
		live := 0
		for i := range list.Items {
			if list.Items[i].DeletionTimestamp == nil {
				live++
			}
		}
		if live != want {
			return fmt.Sprintf("%d pods in %s, want %d", live, ns, want)
		}
		return ""
	}
}

// Quota allows a number of Pods in the namespace, and is in force when it
// returns.
func (a *API) Quota(t testing.TB, ns, name, pods string) {
	t.Helper()
	quotas := a.Client.CoreV1().ResourceQuotas(ns)
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse(pods)},
	}}
	if _, err := quotas.Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	Eventually(t, func() string {
		q, err := quotas.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || q.Status.Hard == nil {
			return fmt.Sprint(q, err)
		}
		return ""
	})
}

// Node makes a ready Node that ends with the test.
func (a *API) Node(t testing.TB, name string, labels map[string]string) {
	t.Helper()
	nodes := a.Client.CoreV1().Nodes()
	if _, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Not an update: controllers write taints by now.
	patch, err := json.Marshal(corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue,
		LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nodes.Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nodes.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// Running is the status of a Pod that runs, ready or not. Empty addresses are
// left out.
func Running(ip string, ready bool) corev1.PodStatus {
	status := corev1.PodStatus{Phase: corev1.PodRunning}
	if ip != "" {
		status.PodIP, status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	}
	condition := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()}
	if ready {
		condition.Status = corev1.ConditionTrue
	}
	status.Conditions = []corev1.PodCondition{condition}
	return status
}

// SetStatus does a kubelet's part for a Pod.
func (a *API) SetStatus(t testing.TB, ns, name string, status corev1.PodStatus) {
	t.Helper()
	patch, err := json.Marshal(corev1.Pod{Status: status})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Client.CoreV1().Pods(ns).Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}
