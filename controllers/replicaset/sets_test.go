package replicaset_test

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/apitest"
)

// sets are what a scenario works on.
type sets interface {
	kind() string
	create(ctx context.Context, ns string, rs *appsv1.ReplicaSet) error
	patch(ctx context.Context, ns, name string, patch []byte) error
	delete(ctx context.Context, ns, name string, options metav1.DeleteOptions) error
	// list prints them.
	list(ctx context.Context, ns string) ([]string, error)
}

func replicaSets(api *apitest.API) sets { return setsOf{api.Client.AppsV1()} }

type setsOf struct{ client appsclient.AppsV1Interface }

func (setsOf) kind() string { return "ReplicaSet" }

func (s setsOf) create(ctx context.Context, ns string, rs *appsv1.ReplicaSet) error {
	_, err := s.client.ReplicaSets(ns).Create(ctx, rs, metav1.CreateOptions{})
	return err
}

func (s setsOf) patch(ctx context.Context, ns, name string, patch []byte) error {
	_, err := s.client.ReplicaSets(ns).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

func (s setsOf) delete(ctx context.Context, ns, name string, options metav1.DeleteOptions) error {
	return s.client.ReplicaSets(ns).Delete(ctx, name, options)
}

func (s setsOf) list(ctx context.Context, ns string) ([]string, error) {
	list, err := s.client.ReplicaSets(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, rs := range list.Items {
		s := rs.Status
		var conditions []string
		for _, c := range s.Conditions {
			conditions = append(conditions, fmt.Sprint(c.Type, c.Status, c.Reason))
		}
		lines = append(lines, fmt.Sprintf("set %s: want=%d have=%d labeled=%d ready=%d available=%d terminating=%d observed=%v %v", rs.Name, *rs.Spec.Replicas,
			s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, ptr.Deref(s.TerminatingReplicas, -1), s.ObservedGeneration == rs.Generation, conditions))
	}
	return lines, nil
}

func replicationControllers(api *apitest.API) sets { return controllersOf{api.Client.CoreV1()} }

type controllersOf struct{ client coreclient.CoreV1Interface }

func (controllersOf) kind() string { return "ReplicationController" }

func (c controllersOf) create(ctx context.Context, ns string, rs *appsv1.ReplicaSet) error {
	rc := &corev1.ReplicationController{ObjectMeta: rs.ObjectMeta, Spec: corev1.ReplicationControllerSpec{
		Replicas: rs.Spec.Replicas, MinReadySeconds: rs.Spec.MinReadySeconds, Selector: rs.Spec.Selector.MatchLabels, Template: &rs.Spec.Template,
	}}
	_, err := c.client.ReplicationControllers(ns).Create(ctx, rc, metav1.CreateOptions{})
	return err
}

func (c controllersOf) patch(ctx context.Context, ns, name string, patch []byte) error {
	_, err := c.client.ReplicationControllers(ns).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

func (c controllersOf) delete(ctx context.Context, ns, name string, options metav1.DeleteOptions) error {
	return c.client.ReplicationControllers(ns).Delete(ctx, name, options)
}

func (c controllersOf) list(ctx context.Context, ns string) ([]string, error) {
	list, err := c.client.ReplicationControllers(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, rc := range list.Items {
		s := rc.Status
		var conditions []string
		for _, c := range s.Conditions {
			conditions = append(conditions, fmt.Sprint(c.Type, c.Status, c.Reason))
		}
		lines = append(lines, fmt.Sprintf("set %s: want=%d have=%d labeled=%d ready=%d available=%d observed=%v %v", rc.Name, *rc.Spec.Replicas,
			s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, s.ObservedGeneration == rc.Generation, conditions))
	}
	return lines, nil
}
