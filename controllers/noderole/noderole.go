// Package noderole keeps the label node-role.kubernetes.io/control-plane on
// the control plane's own Node: what kubeadm's mark-control-plane phase does.
// Kubelets may not set labels of that domain on themselves (NodeRestriction).
package noderole

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Label marks a control-plane node; its value is empty.
const Label = "node-role.kubernetes.io/control-plane"

// excludeLabel keeps external load balancers away; kubeadm sets it, and kind
// takes it off again where the control plane is the only node.
const excludeLabel = "node.kubernetes.io/exclude-from-external-load-balancers"

// Config of Run.
type Config struct {
	Client kubernetes.Interface
	// Node is the name of the control plane's own Node.
	Node string
	// Only says that the cluster has no other nodes.
	Only bool
}

// Run labels the Node whenever it lacks the labels, until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	want := map[string]string{Label: ""}
	if !cfg.Only {
		want[excludeLabel] = ""
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	defer queue.ShutDown()
	factory := informers.NewSharedInformerFactoryWithOptions(cfg.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, cfg.Node).String()
	}))
	informer := factory.Core().V1().Nodes().Informer()
	check := func(obj any) {
		if n, ok := obj.(*corev1.Node); ok && missing(n.Labels, want) {
			queue.Add(n.Name)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    check,
		UpdateFunc: func(_, obj any) { check(obj) },
	}); err != nil {
		return fmt.Errorf("watch node %s: %w", cfg.Node, err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer context.AfterFunc(ctx, queue.ShutDown)()
	for {
		name, stopped := queue.Get()
		if stopped {
			return nil
		}
		if err := label(ctx, cfg.Client, name, want); err != nil {
			queue.AddRateLimited(name)
		} else {
			queue.Forget(name)
		}
		queue.Done(name)
	}
}

func missing(have, want map[string]string) bool {
	for k := range want {
		if _, ok := have[k]; !ok {
			return true
		}
	}
	return false
}

func label(ctx context.Context, client kubernetes.Interface, name string, labels map[string]string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}
