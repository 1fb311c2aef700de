package controllers_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/apitest"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

// run starts all controllers and stops them with the test.
func run(t *testing.T) *apitest.API {
	t.Helper()
	api := apitest.Server(t)
	manager, err := controllers.New(controllers.Config{
		RESTConfig: api.Config,
		PKIDir:     api.PKIDir,
		ControlPlane: machinev1alpha1.ControlPlaneConfiguration{
			PodSubnet:     apitest.PodSubnet,
			ServiceSubnet: apitest.ServiceSubnet,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("controllers ended: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("controllers do not stop")
		}
	})
	return api
}

func deployment(ns, name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(replicas),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: ptr.To[int64](0),
					Containers:                    []corev1.Container{{Name: "c", Image: "none"}},
				},
			},
		},
	}
}

// TestCluster sees one namespace through its life under all controllers.
func TestCluster(t *testing.T) {
	ctx := t.Context()
	api := apitest.Server(t)
	_, err := api.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "life"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = api.Client.AppsV1().Deployments("life").Create(ctx, deployment("life", "waiting", 1), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods := func(want int) func() string {
		return func() string {
			list, err := api.Client.CoreV1().Pods("life").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
			if err != nil {
				return err.Error()
			}
			if len(list.Items) != want {
				return fmt.Sprintf("%d pods, want %d", len(list.Items), want)
			}
			return ""
		}
	}
	run(t)
	t.Log("start to the first Pod:", apitest.Eventually(t, pods(1)))

	if _, err := api.Client.AppsV1().Deployments("life").Create(ctx, deployment("life", "hundred", 100), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log("Deployment of 100:", apitest.Eventually(t, pods(101)))

	t.Log("root CA:", apitest.Eventually(t, func() string {
		if _, err := api.Client.CoreV1().ConfigMaps("life").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		return ""
	}))
	t.Log("aggregated role:", apitest.Eventually(t, func() string {
		role, err := api.Client.RbacV1().ClusterRoles().Get(ctx, "view", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if len(role.Rules) == 0 {
			return "view has no rules"
		}
		return ""
	}))

	if err := api.Client.CoreV1().Namespaces().Delete(ctx, "life", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log("namespace gone:", apitest.Eventually(t, func() string {
		ns, err := api.Client.CoreV1().Namespaces().Get(ctx, "life", metav1.GetOptions{})
		if errors.IsNotFound(err) {
			return ""
		}
		return fmt.Sprint(ns, err)
	}))
}

// TestNodeCIDRs: a node that comes with a range keeps it and nobody else gets
// it; a node without one is given one.
func TestNodeCIDRs(t *testing.T) {
	ctx := t.Context()
	api := run(t)
	for i, cidr := range []string{"10.244.0.0/24", "10.244.1.0/24", "", "10.244.3.0/24", ""} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node%d", i)}}
		if cidr != "" {
			node.Spec.PodCIDR, node.Spec.PodCIDRs = cidr, []string{cidr}
		}
		if _, err := api.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Log("all have ranges:", apitest.Eventually(t, func() string {
		nodes, err := api.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		seen := map[string]string{}
		for _, n := range nodes.Items {
			if n.Spec.PodCIDR == "" {
				return n.Name + " has no range"
			}
			if other := seen[n.Spec.PodCIDR]; other != "" {
				t.Fatalf("%s and %s both have %s", other, n.Name, n.Spec.PodCIDR)
			}
			seen[n.Spec.PodCIDR] = n.Name
		}
		return ""
	}))
}
