// Package nodelabels gives Nodes the labels that their kubelets may not set on
// themselves (NodeRestriction): node-role.kubernetes.io/control-plane, as
// kubeadm's mark-control-plane phase does, and those of the config file.
package nodelabels

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const (
	// ControlPlane marks a control-plane node; its value is empty.
	ControlPlane = "node-role.kubernetes.io/control-plane"
	// ExcludeFromLoadBalancers keeps external load balancers away; kubeadm
	// sets it on control planes, and kind takes it off again where there is
	// no other node.
	ExcludeFromLoadBalancers = "node.kubernetes.io/exclude-from-external-load-balancers"

	// Given is the annotation of a Node that has got its labels: what its
	// user takes away afterwards stays away.
	Given = "skiff.cluster/labels-given"
)

// Config of Run.
type Config struct {
	Client kubernetes.Interface
	// Labels by Node name.
	Labels map[string]map[string]string
}

// Run labels every new Node of Labels once, until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	defer queue.ShutDown()
	factory := informers.NewSharedInformerFactory(cfg.Client, 0)
	nodes := factory.Core().V1().Nodes()
	check := func(obj any) {
		if n, ok := obj.(*corev1.Node); ok && patch(n, cfg.Labels[n.Name]) != nil {
			queue.Add(n.Name)
		}
	}
	if _, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    check,
		UpdateFunc: func(_, obj any) { check(obj) },
	}); err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer context.AfterFunc(ctx, queue.ShutDown)()
	for {
		name, stopped := queue.Get()
		if stopped {
			return nil
		}
		if err := reconcile(ctx, cfg, name); err != nil {
			queue.AddRateLimited(name)
		} else {
			queue.Forget(name)
		}
		queue.Done(name)
	}
}

func reconcile(ctx context.Context, cfg Config, name string) error {
	node, err := cfg.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	p := patch(node, cfg.Labels[name])
	if p == nil {
		return nil
	}
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = cfg.Client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
	return err
}

// patch is what a Node still has to get; nil: nothing.
func patch(node *corev1.Node, labels map[string]string) map[string]any {
	if _, given := node.Annotations[Given]; given || len(labels) == 0 {
		return nil
	}
	return map[string]any{"metadata": map[string]any{
		"labels":      labels,
		"annotations": map[string]string{Given: "true"},
	}}
}
