package replicaset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/features"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// resource is what the reconciler works on: ReplicaSets, or what can be seen
// as such (replicationcontroller.go).
type resource struct {
	// name is the controller's.
	name     string
	kind     schema.GroupVersionKind
	group    schema.GroupResource
	watched  client.Object
	informer cache.SharedIndexInformer
	sets     appslisters.ReplicaSetLister
	// terminating is whether its status counts Pods that terminate.
	terminating bool
	// object is the one behind a set, for events and owner references.
	object func(*appsv1.ReplicaSet) (runtime.Object, error)
	get    func(ctx context.Context, namespace, name string) (*appsv1.ReplicaSet, error)
	// updateStatus writes the set's status.
	updateStatus func(context.Context, *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error)
}

// replicaSets are the resource as it is.
func replicaSets(c kubernetes.Interface, factory informers.SharedInformerFactory) resource {
	informer := factory.Apps().V1().ReplicaSets()
	return resource{
		name:        names.ReplicaSetController,
		kind:        appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
		group:       appsv1.Resource("replicasets"),
		watched:     &appsv1.ReplicaSet{},
		informer:    informer.Informer(),
		sets:        informer.Lister(),
		terminating: utilfeature.DefaultFeatureGate.Enabled(features.DeploymentReplicaSetTerminatingReplicas),
		object:      func(rs *appsv1.ReplicaSet) (runtime.Object, error) { return rs, nil },
		get: func(ctx context.Context, namespace, name string) (*appsv1.ReplicaSet, error) {
			return c.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		updateStatus: func(ctx context.Context, rs *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
			return c.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, rs, metav1.UpdateOptions{})
		},
	}
}
