package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

// measurement is a client of a subject's API server.
type measurement struct {
	subject *subject
	client  kubernetes.Interface
}

func newMeasurement(ctx context.Context, s *subject) (*measurement, error) {
	config := s.server.Config()
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.WarningHandler = rest.NoWarnings{} // of Endpoints
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	m := &measurement{s, client}
	_, err = client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return m, m.play(ctx)
}

// begin starts the controllers and returns how many seconds it takes until a
// namespace that waits for them has its account and a Deployment its Pod.
func (m *measurement) begin(ctx context.Context) (float64, error) {
	const ns = "waiting"
	if _, err := m.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	if _, err := m.client.AppsV1().Deployments(ns).Create(ctx, deployment("first", 1), metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	pods, err := follow(ctx, m.client.CoreV1().Pods(ns), metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	defer pods.stop()
	begin := time.Now()
	if err := m.subject.begin(); err != nil {
		return 0, err
	}
	err = pods.added(ctx, 1)
	return time.Since(begin).Seconds(), err
}

// idle lets the subject be, and reads what it used.
func (m *measurement) idle(ctx context.Context, how time.Duration, into sample) error {
	// What the start left to do is no idling; the program settles by then.
	if err := sleep(ctx, 8*time.Second); err != nil {
		return err
	}
	before, err := m.subject.cpu()
	if err != nil {
		return err
	}
	if err := sleep(ctx, how); err != nil {
		return err
	}
	after, err := m.subject.cpu()
	if err != nil {
		return err
	}
	into["cpu"] = 100 * float64(after-before) / float64(how)
	into["anonymous"], err = m.subject.anonymous()
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// namespace makes a namespace that takes Pods.
func (m *measurement) namespace(ctx context.Context) (string, error) {
	ns, err := m.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "bench-"}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	accounts, err := follow(ctx, m.client.CoreV1().ServiceAccounts(ns.Name), metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	defer accounts.stop()
	return ns.Name, accounts.added(ctx, 1)
}

// newPods makes a namespace and follows its Pods.
func (m *measurement) newPods(ctx context.Context) (ns string, pods *feed, err error) {
	if ns, err = m.namespace(ctx); err != nil {
		return "", nil, err
	}
	pods, err = follow(ctx, m.client.CoreV1().Pods(ns), metav1.ListOptions{})
	return ns, pods, err
}

// newSlices makes a namespace and follows its EndpointSlices.
func (m *measurement) newSlices(ctx context.Context) (ns string, slices *feed, err error) {
	if ns, err = m.namespace(ctx); err != nil {
		return "", nil, err
	}
	slices, err = follow(ctx, m.client.DiscoveryV1().EndpointSlices(ns), metav1.ListOptions{})
	return ns, slices, err
}

func deploymentOfHundred(ctx context.Context, m *measurement) (float64, error) {
	ns, pods, err := m.newPods(ctx)
	if err != nil {
		return 0, err
	}
	defer pods.stop()
	begin := time.Now()
	if _, err := m.client.AppsV1().Deployments(ns).Create(ctx, deployment("hundred", 100), metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	err = pods.added(ctx, 100)
	return milliseconds(begin), err
}

// podReplaced is the median of a hundred: single ones scatter by half.
func podReplaced(ctx context.Context, m *measurement) (float64, error) {
	ns, pods, err := m.newPods(ctx)
	if err != nil {
		return 0, err
	}
	defer pods.stop()
	if _, err := m.client.AppsV1().Deployments(ns).Create(ctx, deployment("one", 1), metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	var took []float64
	var begin time.Time
	for len(took) < 100 {
		e, err := pods.next(ctx)
		if err != nil {
			return 0, err
		}
		pod, ok := e.Object.(*corev1.Pod)
		if !ok || e.Type != watch.Added {
			continue
		}
		if !begin.IsZero() {
			took = append(took, milliseconds(begin))
		}
		// Whoever made it has seen it by then.
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
		begin = time.Now()
		if err := m.client.CoreV1().Pods(ns).Delete(ctx, pod.Name, metav1.DeleteOptions{}); err != nil {
			return 0, err
		}
	}
	return median(took), nil
}

func thousandPodsOfJobs(ctx context.Context, m *measurement) (float64, error) {
	ns, pods, err := m.newPods(ctx)
	if err != nil {
		return 0, err
	}
	defer pods.stop()
	spec := podSpec()
	spec.RestartPolicy = corev1.RestartPolicyNever
	begin := time.Now()
	for i := range 10 {
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("job%d", i)}, Spec: batchv1.JobSpec{
			Parallelism: ptr.To[int32](100), Completions: ptr.To[int32](100), Template: corev1.PodTemplateSpec{Spec: spec},
		}}
		if _, err := m.client.BatchV1().Jobs(ns).Create(ctx, job, metav1.CreateOptions{}); err != nil {
			return 0, err
		}
	}
	err = pods.added(ctx, 1000)
	return time.Since(begin).Seconds(), err
}

func (m *measurement) service(ctx context.Context, ns, name string) error {
	_, err := m.client.CoreV1().Services(ns).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
	}}, metav1.CreateOptions{})
	return err
}

// serviceToSlice is the median of ten.
func serviceToSlice(ctx context.Context, m *measurement) (float64, error) {
	ns, slices, err := m.newSlices(ctx)
	if err != nil {
		return 0, err
	}
	defer slices.stop()
	var took []float64
	for i := range 10 {
		begin := time.Now()
		if err := m.service(ctx, ns, fmt.Sprintf("s%d", i)); err != nil {
			return 0, err
		}
		if err := slices.added(ctx, 1); err != nil {
			return 0, err
		}
		took = append(took, milliseconds(begin))
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return median(took), nil
}

// readyToSlice is the median of twenty Pods that become ready one after the
// other.
func readyToSlice(ctx context.Context, m *measurement) (float64, error) {
	ns, changes, err := m.newSlices(ctx)
	if err != nil {
		return 0, err
	}
	defer changes.stop()
	if err := m.service(ctx, ns, "web"); err != nil {
		return 0, err
	}
	if err := changes.added(ctx, 1); err != nil {
		return 0, err
	}
	var took []float64
	for i := range 20 {
		pod, err := m.bound(ctx, ns, fmt.Sprintf("p%d", i), map[string]string{"app": "web"})
		if err != nil {
			return 0, err
		}
		begin := time.Now()
		if err := m.ready(ctx, pod, fmt.Sprintf("10.244.1.%d", i+1)); err != nil {
			return 0, err
		}
		for ready := 0; ready <= i; {
			e, err := changes.next(ctx)
			if err != nil {
				return 0, err
			}
			if s, ok := e.Object.(*discoveryv1.EndpointSlice); ok {
				ready = readyEndpoints(s)
			}
		}
		took = append(took, milliseconds(begin))
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return median(took), nil
}

func readyEndpoints(s *discoveryv1.EndpointSlice) int {
	n := 0
	for _, e := range s.Endpoints {
		if ptr.Deref(e.Conditions.Ready, false) {
			n++
		}
	}
	return n
}

// namespaceOfObjects deletes a namespace with 200 ConfigMaps, 200 Secrets and
// 100 Pods without a node.
func namespaceOfObjects(ctx context.Context, m *measurement) (float64, error) {
	ns, err := m.namespace(ctx)
	if err != nil {
		return 0, err
	}
	core := m.client.CoreV1()
	for i := range 200 {
		meta := metav1.ObjectMeta{Name: fmt.Sprintf("o%d", i)}
		if _, err := core.ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
			return 0, err
		}
		if _, err := core.Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
			return 0, err
		}
		if i < 100 {
			if _, err := core.Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: meta, Spec: podSpec()}, metav1.CreateOptions{}); err != nil {
				return 0, err
			}
		}
	}
	return m.deleteNamespace(ctx, ns)
}

// namespaceWithPod is the median of three.
func namespaceWithPod(ctx context.Context, m *measurement) (float64, error) {
	var took []float64
	for range 3 {
		ns, err := m.namespace(ctx)
		if err != nil {
			return 0, err
		}
		pod, err := m.bound(ctx, ns, "running", nil)
		if err != nil {
			return 0, err
		}
		if err := m.ready(ctx, pod, "10.244.2.1"); err != nil {
			return 0, err
		}
		s, err := m.deleteNamespace(ctx, ns)
		if err != nil {
			return 0, err
		}
		took = append(took, s)
	}
	return median(took), nil
}

// deleteNamespace returns how many seconds it took until it was gone.
func (m *measurement) deleteNamespace(ctx context.Context, ns string) (float64, error) {
	namespaces := m.client.CoreV1().Namespaces()
	gone, err := follow(ctx, namespaces, metav1.SingleObject(metav1.ObjectMeta{Name: ns}))
	if err != nil {
		return 0, err
	}
	defer gone.stop()
	begin := time.Now()
	if err := namespaces.Delete(ctx, ns, metav1.DeleteOptions{}); err != nil && !apierrors.IsConflict(err) {
		return 0, err
	}
	for {
		e, err := gone.next(ctx)
		if err != nil {
			return 0, err
		}
		if e.Type == watch.Deleted {
			return time.Since(begin).Seconds(), nil
		}
	}
}

func milliseconds(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(replicas),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()},
		},
	}
}
