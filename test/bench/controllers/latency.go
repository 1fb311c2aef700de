package main

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

// times is how often each latency is measured in a run.
const times = 20

// latency is the median, in milliseconds, of what it takes from act until the
// feed shows what is waited for.
func latency(ctx context.Context, of *feed, act func(i int) error, shows func(i int, e watch.Event) bool) (float64, error) {
	defer of.stop()
	var took []float64
	for i := range times {
		begin := time.Now()
		if err := act(i); err != nil {
			return 0, err
		}
		if err := of.until(ctx, func(e watch.Event) bool { return shows(i, e) }); err != nil {
			return 0, fmt.Errorf("time %d of %d: %w", i+1, times, err)
		}
		took = append(took, milliseconds(begin))
		// Whoever wrote has seen it by then.
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return median(took), nil
}

// relayed is what the shortest controller takes: a client follows one object
// and writes another when it changes.
func relayed(ctx context.Context, m *measurement) (float64, error) {
	ns, err := m.namespace(ctx)
	if err != nil {
		return 0, err
	}
	maps := m.client.CoreV1().ConfigMaps(ns)
	write := func(name string, i int) error {
		_, err := maps.Patch(ctx, name, types.MergePatchType, fmt.Appendf(nil, `{"data":{"n":"%d"}}`, i), metav1.PatchOptions{})
		return err
	}
	var feeds []*feed
	for _, name := range []string{"cause", "effect"} {
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			return 0, err
		}
		of, err := follow(ctx, maps, metav1.SingleObject(metav1.ObjectMeta{Name: name}))
		if err != nil {
			return 0, err
		}
		feeds = append(feeds, of)
	}
	has := func(i int, e watch.Event) bool {
		o, ok := e.Object.(*corev1.ConfigMap)
		return ok && o.Data["n"] == fmt.Sprint(i)
	}
	failed := make(chan error, 1)
	go func() {
		defer feeds[0].stop()
		for i := range times {
			err := feeds[0].until(ctx, func(e watch.Event) bool { return has(i, e) })
			if err == nil {
				err = write("effect", i)
			}
			if err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	took, err := latency(ctx, feeds[1], func(i int) error { return write("cause", i) }, has)
	if err != nil {
		return 0, err
	}
	return took, <-failed
}

// readyTo is from a Pod's readiness until the feed shows n ready ones.
func (m *measurement) readyTo(ctx context.Context, ns string, of *feed, ready func(watch.Event) int) (float64, error) {
	pods := make([]*corev1.Pod, times)
	for i := range pods {
		var err error
		if pods[i], err = m.bound(ctx, ns, fmt.Sprintf("p%d", i), map[string]string{"app": "web"}); err != nil {
			return 0, err
		}
	}
	return latency(ctx, of, func(i int) error { return m.ready(ctx, pods[i], fmt.Sprintf("10.244.3.%d", i+1)) },
		func(i int, e watch.Event) bool { return ready(e) == i+1 })
}

func readyToEndpoints(ctx context.Context, m *measurement) (float64, error) {
	ns, err := m.namespace(ctx)
	if err != nil {
		return 0, err
	}
	of, err := follow(ctx, m.client.CoreV1().Endpoints(ns), metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	if err := m.service(ctx, ns, "web"); err != nil {
		return 0, err
	}
	return m.readyTo(ctx, ns, of, func(e watch.Event) int {
		n := 0
		if o, ok := e.Object.(*corev1.Endpoints); ok {
			for _, s := range o.Subsets {
				n += len(s.Addresses)
			}
		}
		return n
	})
}

func readyToBudget(ctx context.Context, m *measurement) (float64, error) {
	ns, err := m.namespace(ctx)
	if err != nil {
		return 0, err
	}
	budgets := m.client.PolicyV1().PodDisruptionBudgets(ns)
	of, err := follow(ctx, budgets, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
	}}
	if _, err := budgets.Create(ctx, budget, metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	return m.readyTo(ctx, ns, of, func(e watch.Event) int {
		if o, ok := e.Object.(*policyv1.PodDisruptionBudget); ok {
			return int(o.Status.CurrentHealthy)
		}
		return 0
	})
}

func endpointsMirrored(ctx context.Context, m *measurement) (float64, error) {
	ns, of, err := m.newSlices(ctx)
	if err != nil {
		return 0, err
	}
	core := m.client.CoreV1()
	for i := range times {
		_, err := core.Services(ns).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%d", i)}, Spec: corev1.ServiceSpec{
			Ports: []corev1.ServicePort{{Port: 80}},
		}}, metav1.CreateOptions{})
		if err != nil {
			return 0, err
		}
	}
	return latency(ctx, of, func(i int) error {
		_, err := core.Endpoints(ns).Create(ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%d", i)}, Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}}, Ports: []corev1.EndpointPort{{Port: 80}},
		}}}, metav1.CreateOptions{})
		return err
	}, added)
}

func added(_ int, e watch.Event) bool { return e.Type == watch.Added }

func rolesAggregated(ctx context.Context, m *measurement) (float64, error) {
	roles := m.client.RbacV1().ClusterRoles()
	of, err := follow(ctx, roles, metav1.SingleObject(metav1.ObjectMeta{Name: "bench"}))
	if err != nil {
		return 0, err
	}
	label := map[string]string{"aggregate-to-bench": "true"}
	_, err = roles.Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta:      metav1.ObjectMeta{Name: "bench"},
		AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: label}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return 0, err
	}
	return latency(ctx, of, func(i int) error {
		_, err := roles.Create(ctx, &rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%d", i), Labels: label},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{fmt.Sprintf("r%d", i)}, Verbs: []string{"get"}}},
		}, metav1.CreateOptions{})
		return err
	}, func(i int, e watch.Event) bool {
		o, ok := e.Object.(*rbacv1.ClusterRole)
		return ok && len(o.Rules) == i+1
	})
}

// claimGone is how long the finalizer of a claim that nobody uses holds it.
func claimGone(ctx context.Context, m *measurement) (float64, error) {
	ns, err := m.namespace(ctx)
	if err != nil {
		return 0, err
	}
	claims := m.client.CoreV1().PersistentVolumeClaims(ns)
	for i := range times {
		_, err := claims.Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%d", i)}, Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To("none"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}},
		}}, metav1.CreateOptions{})
		if err != nil {
			return 0, err
		}
	}
	of, err := follow(ctx, claims, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	return latency(ctx, of, func(i int) error { return claims.Delete(ctx, fmt.Sprintf("c%d", i), metav1.DeleteOptions{}) },
		func(_ int, e watch.Event) bool { return e.Type == watch.Deleted })
}

func tokenServed(ctx context.Context, m *measurement) (float64, error) {
	ns, err := m.namespace(ctx)
	if err != nil {
		return 0, err
	}
	secrets := m.client.CoreV1().Secrets(ns)
	of, err := follow(ctx, secrets, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	name := func(i int) string { return fmt.Sprintf("t%d", i) }
	return latency(ctx, of, func(i int) error {
		_, err := secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name(i), Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}},
			Type:       corev1.SecretTypeServiceAccountToken,
		}, metav1.CreateOptions{})
		return err
	}, func(i int, e watch.Event) bool {
		o, ok := e.Object.(*corev1.Secret)
		return ok && o.Name == name(i) && len(o.Data[corev1.ServiceAccountTokenKey]) > 0
	})
}

// newNodes is from a Node's creation until it shows something. The Nodes go
// afterwards.
func (m *measurement) newNodes(ctx context.Context, prefix string, shows func(*corev1.Node) bool) (float64, error) {
	nodes := m.client.CoreV1().Nodes()
	of, err := follow(ctx, nodes, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	name := func(i int) string { return fmt.Sprintf("%s%d", prefix, i) }
	took, err := latency(ctx, of, func(i int) error {
		_, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name(i)}}, metav1.CreateOptions{})
		return err
	}, func(i int, e watch.Event) bool {
		o, ok := e.Object.(*corev1.Node)
		return ok && o.Name == name(i) && shows(o)
	})
	if err != nil {
		return 0, err
	}
	for i := range times {
		if err := nodes.Delete(ctx, name(i), metav1.DeleteOptions{}); err != nil {
			return 0, err
		}
	}
	return took, nil
}

func nodeRange(ctx context.Context, m *measurement) (float64, error) {
	return m.newNodes(ctx, "ranged", func(n *corev1.Node) bool { return n.Spec.PodCIDR != "" })
}

func nodeTTL(ctx context.Context, m *measurement) (float64, error) {
	return m.newNodes(ctx, "annotated", func(n *corev1.Node) bool { return n.Annotations[corev1.ObjectTTLAnnotationKey] != "" })
}

// daemonReplaced is of a DaemonSet's Pod.
func daemonReplaced(ctx context.Context, m *measurement) (float64, error) {
	ns, pods, err := m.newPods(ctx)
	if err != nil {
		return 0, err
	}
	labels := map[string]string{"app": "daemon"}
	spec := podSpec()
	spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	_, err = m.client.AppsV1().DaemonSets(ns).Create(ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "daemon"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
	}}, metav1.CreateOptions{})
	if err != nil {
		return 0, err
	}
	var last string
	note := func(i int, e watch.Event) bool {
		if o, ok := e.Object.(*corev1.Pod); ok && added(i, e) {
			last = o.Name
			return true
		}
		return false
	}
	if err := pods.until(ctx, func(e watch.Event) bool { return note(0, e) }); err != nil {
		return 0, err
	}
	if err := sleep(ctx, 50*time.Millisecond); err != nil {
		return 0, err
	}
	return latency(ctx, pods, func(int) error { return m.client.CoreV1().Pods(ns).Delete(ctx, last, metav1.DeleteOptions{}) }, note)
}

// evicted is from a taint to the end of a Pod that does not tolerate it.
func evicted(ctx context.Context, m *measurement) (float64, error) {
	ns, pods, err := m.newPods(ctx)
	if err != nil {
		return 0, err
	}
	nodes := m.client.CoreV1().Nodes()
	name := func(i int) string { return fmt.Sprintf("tainted%d", i) }
	for i := range times {
		if _, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name(i)}}, metav1.CreateOptions{}); err != nil {
			return 0, err
		}
		spec := podSpec()
		spec.NodeName = name(i)
		if _, err := m.client.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name(i)}, Spec: spec}, metav1.CreateOptions{}); err != nil {
			return 0, err
		}
	}
	took, err := latency(ctx, pods, func(i int) error {
		_, err := nodes.Patch(ctx, name(i), types.MergePatchType, []byte(`{"spec":{"taints":[{"key":"bench","effect":"NoExecute"}]}}`), metav1.PatchOptions{})
		return err
	}, func(i int, e watch.Event) bool {
		o, ok := e.Object.(*corev1.Pod)
		return ok && o.Name == name(i) && o.DeletionTimestamp != nil
	})
	if err != nil {
		return 0, err
	}
	for i := range times {
		if err := nodes.Delete(ctx, name(i), metav1.DeleteOptions{}); err != nil {
			return 0, err
		}
	}
	return took, nil
}
