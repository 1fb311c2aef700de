package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

const (
	deployments = 50
	replicas    = 2
	surge       = 1
	kills       = 6
	namespace   = "rolls"
	nodeName    = "played"
	// silent is longer than any step of a roll takes on a loaded machine.
	silent = time.Minute
)

// TestKilledWhileDeploymentsRoll: the control plane is killed at random while
// fifty Deployments roll. No step is lost, and none happens twice.
func TestKilledWhileDeploymentsRoll(t *testing.T) {
	program, err := apiservertest.Build("controlplane")
	if err != nil {
		t.Fatal(err)
	}
	server, err := apiservertest.OpenProgram(program, "-listen", freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	client := kubernetes.NewForConfigOrDie(server.Config())
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	persist(t, func() error {
		_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
		return err
	})
	for i := range deployments {
		persist(t, func() error {
			_, err := client.AppsV1().Deployments(namespace).Create(ctx, deployment(fmt.Sprintf("d%02d", i)), metav1.CreateOptions{})
			return err
		})
	}
	persist(t, func() error {
		_, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}, metav1.CreateOptions{})
		return err
	})
	node := &node{client: client, seen: map[types.UID]string{}}
	var played sync.WaitGroup
	played.Go(func() { node.play(ctx) })
	defer played.Wait()
	defer cancel()

	complete(t, client, 1)
	for i := range deployments {
		persist(t, func() error {
			_, err := client.AppsV1().Deployments(namespace).Patch(ctx, fmt.Sprintf("d%02d", i), types.MergePatchType,
				[]byte(`{"spec":{"template":{"metadata":{"annotations":{"roll":"2"}}}}}`), metav1.PatchOptions{})
			return err
		})
	}
	for range kills {
		after := time.Duration(rand.Int64N(int64(400 * time.Millisecond)))
		time.Sleep(after)
		server.Kill()
		server.Restart(t)
		t.Logf("killed %v after its start", after)
	}
	complete(t, client, 2)
	cancel()
	played.Wait()
	if len(node.faults) > 0 {
		t.Errorf("while they rolled:\n%s", strings.Join(node.faults, "\n"))
	}
	if want := 2 * deployments * replicas; len(node.seen) != want {
		t.Errorf("%d Pods there were, want %d", len(node.seen), want)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// persist asks until it is answered well.
func persist(t *testing.T, ask func() error) {
	t.Helper()
	begin := time.Now()
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Since(begin) > silent {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// complete waits until all Deployments are, at the revision, and looks at what
// else there is.
func complete(t *testing.T, client kubernetes.Interface, revision int) {
	t.Helper()
	begin := time.Now()
	persist(t, func() error {
		list, err := client.AppsV1().Deployments(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			d := &list.Items[i]
			progressing := deploymentutil.GetDeploymentCondition(d.Status, appsv1.DeploymentProgressing)
			if !deploymentutil.DeploymentComplete(d, &d.Status) || progressing == nil || progressing.Reason != deploymentutil.NewRSAvailableReason ||
				d.Annotations[deploymentutil.RevisionAnnotation] != fmt.Sprint(revision) {
				return fmt.Errorf("%s: %+v %v", d.Name, d.Status, d.Annotations)
			}
		}
		pods, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(pods.Items) != deployments*replicas {
			return fmt.Errorf("%d Pods", len(pods.Items))
		}
		return nil
	})
	t.Logf("revision %d complete after %v", revision, time.Since(begin))
	sets, err := client.AppsV1().ReplicaSets(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	revisions := map[string]int{}
	for _, rs := range sets.Items {
		revisions[rs.Annotations[deploymentutil.RevisionAnnotation]]++
	}
	want := map[string]int{}
	for i := range revision {
		want[fmt.Sprint(i+1)] = deployments
	}
	if !maps.Equal(revisions, want) {
		t.Errorf("ReplicaSets by revision: %v, want %v", revisions, want)
	}
}

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](replicas),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{
				MaxSurge: ptr.To(intstr.FromInt32(surge)), MaxUnavailable: ptr.To(intstr.FromInt32(0)),
			}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "none"}}},
			},
		},
	}
}

// node plays scheduler and kubelet whenever it is answered, and notes what
// may not be.
type node struct {
	client kubernetes.Interface
	// seen are the names of all Pods that there ever were.
	seen   map[types.UID]string
	faults []string
	// beaten is the Node's last heartbeat.
	beaten metav1.Time
}

func (n *node) play(ctx context.Context) {
	for ctx.Err() == nil {
		list, err := n.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		n.beat(ctx)
		n.look(list.Items)
		for i := range list.Items {
			n.serve(ctx, &list.Items[i])
		}
	}
}

// beat says that the Node is alive.
func (n *node) beat(ctx context.Context) {
	now := metav1.Now()
	if now.Sub(n.beaten.Time) < 2*time.Second {
		return
	}
	patch, err := json.Marshal(corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now,
	}}}})
	if err != nil {
		return
	}
	if _, err := n.client.CoreV1().Nodes().Patch(ctx, nodeName, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err == nil {
		n.beaten = now
	}
}

// look counts the Pods of each Deployment.
func (n *node) look(pods []corev1.Pod) {
	live, ready := map[string]int{}, map[string]int{}
	for i := range pods {
		p := &pods[i]
		n.seen[p.UID] = p.Name
		if p.DeletionTimestamp != nil {
			continue
		}
		live[p.Labels["app"]]++
		if p.Status.Phase == corev1.PodRunning {
			ready[p.Labels["app"]]++
		}
	}
	for app, count := range live {
		if count > replicas+surge {
			n.faults = append(n.faults, fmt.Sprintf("%s has %d Pods", app, count))
		}
		if started := n.rolled(app); started && ready[app] < replicas {
			n.faults = append(n.faults, fmt.Sprintf("%s has %d ready Pods", app, ready[app]))
		}
	}
}

// rolled tells whether there were more Pods than the first roll-out makes.
func (n *node) rolled(app string) bool {
	count := 0
	for _, name := range n.seen {
		if strings.HasPrefix(name, app+"-") {
			count++
		}
	}
	return count > replicas
}

// serve does what is next for a Pod; what fails is done the next time.
func (n *node) serve(ctx context.Context, p *corev1.Pod) {
	pods := n.client.CoreV1().Pods(namespace)
	switch {
	case p.DeletionTimestamp != nil:
		_ = pods.Delete(ctx, p.Name, *metav1.NewDeleteOptions(0))
	case p.Spec.NodeName == "":
		_ = pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: nodeName}}, metav1.CreateOptions{})
	case p.Status.Phase == corev1.PodPending:
		patch, err := json.Marshal(corev1.Pod{Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.244.0.1", PodIPs: []corev1.PodIP{{IP: "10.244.0.1"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}},
		}})
		if err == nil {
			_, _ = pods.Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		}
	}
}
