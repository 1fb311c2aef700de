package apitest

import (
	"context"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
