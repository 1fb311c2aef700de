//go:build robustness

package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	podNamespace = "pods"
	pauseImage   = "registry.k8s.io/pause:3.10.2"
	shellImage   = "docker.io/library/busybox:latest"
)

// kinds of Pods, each with other things to clean up.
var kinds = []struct {
	name string
	make func(*corev1.PodSpec)
}{
	{"plain", func(*corev1.PodSpec) {}},
	{"volumes", withVolumes},
	{"several", func(s *corev1.PodSpec) {
		s.InitContainers = []corev1.Container{shell("init", "true")}
		s.Containers = append(s.Containers, shell("second", "trap 'exit 0' TERM; sleep 1d & wait"))
	}},
	{"ends", func(s *corev1.PodSpec) {
		s.RestartPolicy, s.Containers = corev1.RestartPolicyNever, []corev1.Container{shell("c", "sleep 0.3")}
	}},
	{"host-network", func(s *corev1.PodSpec) { s.HostNetwork = true }},
	{"shared-pids", func(s *corev1.PodSpec) {
		s.ShareProcessNamespace = new(true)
		c := shell("c", "trap 'exit 0' TERM; sleep 1d & wait")
		c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sleep", "0.1"}}}}
		s.Containers = []corev1.Container{c}
	}},
	{"deaf", func(s *corev1.PodSpec) {
		s.Containers = []corev1.Container{shell("c", "trap '' TERM; while :; do sleep 1d; done")}
	}},
}

func kindOf(name string) int {
	for i, k := range kinds {
		if k.name == name {
			return i
		}
	}
	panic("no kind of Pod " + name)
}

func shell(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: shellImage, ImagePullPolicy: corev1.PullNever, Command: []string{"sh", "-c", script}}
}

func withVolumes(s *corev1.PodSpec) {
	s.AutomountServiceAccountToken = new(true)
	s.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "pods"}}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "pods"}}},
		{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
	}
	c := &s.Containers[0]
	for _, v := range s.Volumes {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
	}
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "config", MountPath: "/k", SubPath: "k"})
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi"), corev1.ResourceCPU: resource.MustParse("500m")}
	c.Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Mi"), corev1.ResourceCPU: resource.MustParse("1m")}
}

// podOf a kind; without a node the scheduler finds one.
func podOf(kind int, name, node string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: podNamespace, Labels: map[string]string{"kind": kinds[kind].name}},
		Spec: corev1.PodSpec{
			NodeName: node, TerminationGracePeriodSeconds: new(int64(1)), AutomountServiceAccountToken: new(false),
			Containers: []corev1.Container{{Name: "c", Image: pauseImage, ImagePullPolicy: corev1.PullNever}},
		},
	}
	kinds[kind].make(&p.Spec)
	return p
}

// podWorld makes the namespace and what Pods mount.
func podWorld(ctx context.Context, client kubernetes.Interface) error {
	_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: podNamespace}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().ConfigMaps(podNamespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Secrets(podNamespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, StringData: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	return err
}

func started(p *corev1.Pod) bool {
	if p == nil {
		return false
	}
	if p.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if p.Status.Phase != corev1.PodRunning {
		return false
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Running == nil && s.State.Terminated == nil {
			return false
		}
	}
	return true
}

func absent(p *corev1.Pod) bool { return p == nil }

// create a Pod; one whose namespace has no ServiceAccount yet is refused.
func createPod(ctx context.Context, client kubernetes.Interface, p *corev1.Pod) error {
	for {
		_, err := client.CoreV1().Pods(podNamespace).Create(ctx, p, metav1.CreateOptions{})
		if err == nil || !apierrors.IsForbidden(err) {
			return err
		}
		sleep(ctx, 20*time.Millisecond)
	}
}

// live is the whole life of one Pod.
func (w *witness) live(ctx context.Context, client kubernetes.Interface, p *corev1.Pod, alive time.Duration) error {
	if err := createPod(ctx, client, p); err != nil {
		return err
	}
	if err := w.until(ctx, p.Name, "running", started); err != nil {
		return err
	}
	sleep(ctx, alive)
	if err := client.CoreV1().Pods(podNamespace).Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return w.until(ctx, p.Name, "gone", absent)
}

// churn creates and deletes Pods of all kinds until the returned function is
// called, which waits for the last ones and says what did not work.
func (w *witness) churn(ctx context.Context, client kubernetes.Interface, node string, workers int, seed uint64) (stop func() (lives int, err error)) {
	ending := make(chan struct{})
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		lives int
		errs  []error
	)
	for i := range workers {
		draw := rand.New(rand.NewPCG(seed, uint64(i)))
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-ending:
					return
				default:
				}
				err := w.live(ctx, client, podOf(draw.IntN(len(kinds)), fmt.Sprintf("churn-%d-%d", i, n), node), time.Duration(draw.IntN(800))*time.Millisecond)
				mu.Lock()
				lives++
				if err != nil {
					errs = append(errs, err)
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	return func() (int, error) {
		close(ending)
		all.Wait()
		return lives, errors.Join(errs...)
	}
}
