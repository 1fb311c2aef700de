//go:build robustness

package robustness

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// witness watches a namespace's Pods. A container that was seen running must
// be the same one as long as nobody asked its Pod to end, or end with success.
type witness struct {
	mu sync.Mutex // guards the fields below
	// pods by name, as last seen; running has containers by Pod and name.
	pods    map[string]*corev1.Pod
	running map[string]string
	wrong   []string
	changed chan struct{}
}

func newWitness(ctx context.Context, client kubernetes.Interface, namespace string) (*witness, error) {
	w := &witness{pods: map[string]*corev1.Pod{}, running: map[string]string{}, changed: make(chan struct{})}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { w.see(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { w.see(o.(*corev1.Pod)) },
		DeleteFunc: func(o any) { w.gone(o) },
	})
	if err != nil {
		return nil, err
	}
	factory.Start(ctx.Done())
	for kind, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return nil, fmt.Errorf("no list of %v", kind)
		}
	}
	return w, nil
}

func (w *witness) see(p *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[p.Name] = p
	w.wake()
	if p.DeletionTimestamp != nil {
		return
	}
	for _, s := range p.Status.ContainerStatuses {
		key := fmt.Sprintf("container %s of pod %s %s", s.Name, p.Name, p.UID)
		was, seen := w.running[key]
		switch {
		case s.State.Running != nil && !seen:
			w.running[key] = s.ContainerID
		case s.State.Running != nil && was != s.ContainerID:
			w.wrong = append(w.wrong, fmt.Sprintf("%s: %s was replaced by %s", key, was, s.ContainerID))
			w.running[key] = s.ContainerID
		case s.State.Running == nil && seen && (s.State.Terminated == nil || s.State.Terminated.ExitCode != 0):
			w.wrong = append(w.wrong, fmt.Sprintf("%s: %s does not run any more: %+v", key, was, s.State))
			delete(w.running, key)
		}
	}
}

func (w *witness) gone(o any) {
	if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = last.Obj
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, o.(*corev1.Pod).Name)
	w.wake()
}

// wake those who wait; the caller holds mu.
func (w *witness) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// until a Pod (nil: there is none) is as wanted.
func (w *witness) until(ctx context.Context, name, what string, wanted func(*corev1.Pod) bool) error {
	late := time.After(recoveryBound)
	for {
		w.mu.Lock()
		pod, changed := w.pods[name], w.changed
		w.mu.Unlock()
		if wanted(pod) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return fmt.Errorf("pod %s is not %s after %v: %s", name, what, recoveryBound, describe(pod))
		}
	}
}

func describe(pod *corev1.Pod) string {
	if pod == nil {
		return "it is not there"
	}
	return fmt.Sprintf("phase %s, asked to end at %v, containers %+v", pod.Status.Phase, pod.DeletionTimestamp, pod.Status.ContainerStatuses)
}

func (w *witness) violations() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.wrong...)
}

// containers that run now, by name and Pod.
func (w *witness) containers(pod string) map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]string{}
	if p := w.pods[pod]; p != nil {
		for _, s := range p.Status.ContainerStatuses {
			all[s.Name] = s.ContainerID
		}
	}
	return all
}
