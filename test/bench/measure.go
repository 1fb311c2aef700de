package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// limit bounds every single wait of a run.
const limit = 3 * time.Minute

// measure creates the subject, takes all figures and deletes it.
func measure(ctx context.Context, s subject, opts options) (got sample, err error) {
	got = sample{}
	if p, ok := s.(interface{ BeforeCreate(context.Context) error }); ok {
		if err := p.BeforeCreate(ctx); err != nil {
			return got, errors.Join(err, s.Delete(ctx))
		}
	}
	start := time.Now()
	config, err := s.Create(ctx)
	defer func() {
		begin := time.Now()
		if e := s.Delete(context.WithoutCancel(ctx)); err == nil {
			err = e
		}
		got["delete"] = time.Since(begin).Seconds()
	}()
	if err != nil {
		return got, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return got, err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	if err := bringUp(ctx, client, s, start, got); err != nil {
		return got, err
	}
	if err := idle(ctx, s, opts.idle, got); err != nil {
		return got, err
	}
	if err := pods(ctx, client, got); err != nil {
		return got, err
	}
	return got, burst(ctx, client, opts.burst, got)
}

// bringUp applies the first manifests as soon as the API takes them and notes
// when each thing is seen to work.
func bringUp(ctx context.Context, client kubernetes.Interface, s subject, start time.Time, got sample) error {
	since := func() float64 { return time.Since(start).Seconds() }
	if err := answers(ctx, client); err != nil {
		return fmt.Errorf("wait for the API: %w", err)
	}
	got["api"] = since()
	if d, ok := s.(interface {
		Addons(context.Context, kubernetes.Interface) error
	}); ok {
		if err := d.Addons(ctx, client); err != nil {
			return fmt.Errorf("add-ons: %w", err)
		}
	}
	if err := createFirst(ctx, client); err != nil {
		return err
	}
	done := make(chan error, 2)
	go func() {
		done <- untilPods(ctx, client, "app=web", func(running int) bool { return running >= 1 })
	}()
	nodes := make(chan error, 1)
	go func() { nodes <- untilReady(ctx, client, 3) }()
	caller := make(chan error, 1)
	go func() { caller <- untilSucceeded(ctx, client, "caller") }()
	for range 3 {
		select {
		case err := <-nodes:
			if err != nil {
				return fmt.Errorf("nodes Ready: %w", err)
			}
			got["ready"] = since()
		case err := <-done:
			if err != nil {
				return fmt.Errorf("first Pod: %w", err)
			}
			got["firstPod"] = since()
		case err := <-caller:
			if err != nil {
				return fmt.Errorf("Service by name: %w", err)
			}
			got["byName"] = since()
		}
	}
	cpu, err := s.CPU()
	got["cpuReady"] = cpu.Seconds()
	return err
}

// answers waits until the API can be asked.
func answers(ctx context.Context, client kubernetes.Interface) error {
	return retry(ctx, func() error {
		_, err := client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// idle waits and reads memory and processor time.
func idle(ctx context.Context, s subject, d time.Duration, got sample) error {
	before, err := s.CPU()
	if err != nil {
		return err
	}
	begin := time.Now()
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := s.CPU()
	if err != nil {
		return err
	}
	got["idleCPU"] = 100 * (after - before).Seconds() / time.Since(begin).Seconds()
	pids, err := s.Processes()
	if err != nil {
		return err
	}
	got["pss"] = pss(pids)
	return nil
}

// pods measures single Pods one after another: medians of five.
func pods(ctx context.Context, client kubernetes.Interface, got sample) error {
	if err := createConfig(ctx, client); err != nil {
		return err
	}
	var plain, volumes, gone []float64
	for i := range 10 {
		withVolumes := i%2 == 1
		p := pausePod(fmt.Sprintf("single-%d", i), withVolumes)
		begin := time.Now()
		if _, err := client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
			return err
		}
		if err := untilPods(ctx, client, "pod="+p.Name, func(n int) bool { return n == 1 }); err != nil {
			return fmt.Errorf("Pod %s Running: %w", p.Name, err)
		}
		ms := float64(time.Since(begin).Microseconds()) / 1000
		if withVolumes {
			volumes = append(volumes, ms)
		} else {
			plain = append(plain, ms)
		}
		begin = time.Now()
		if err := client.CoreV1().Pods("default").Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		if err := untilGone(ctx, client, "pod="+p.Name); err != nil {
			return fmt.Errorf("Pod %s gone: %w", p.Name, err)
		}
		gone = append(gone, float64(time.Since(begin).Microseconds())/1000)
	}
	got["pod"], got["podVolumes"], got["gone"] = median(plain), median(volumes), median(gone)
	return nil
}

func burst(ctx context.Context, client kubernetes.Interface, n int, got sample) error {
	begin := time.Now()
	if err := createBurst(ctx, client, n); err != nil {
		return err
	}
	if err := untilPods(ctx, client, "app=burst", func(running int) bool { return running == n }); err != nil {
		return fmt.Errorf("burst of %d Pods: %w", n, err)
	}
	got["burst"] = time.Since(begin).Seconds()
	return nil
}

// untilPods follows the Pods of a selector until enough are Running.
func untilPods(ctx context.Context, client kubernetes.Interface, selector string, enough func(running int) bool) error {
	running := map[string]bool{}
	return follow(ctx, client, selector, func(e watch.EventType, p *corev1.Pod) bool {
		running[p.Name] = e != watch.Deleted && p.Status.Phase == corev1.PodRunning
		n := 0
		for _, r := range running {
			if r {
				n++
			}
		}
		return enough(n)
	})
}

func untilSucceeded(ctx context.Context, client kubernetes.Interface, name string) error {
	return follow(ctx, client, "pod="+name, func(_ watch.EventType, p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded
	})
}

func untilGone(ctx context.Context, client kubernetes.Interface, selector string) error {
	list, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil || len(list.Items) == 0 {
		return err
	}
	return follow(ctx, client, selector, func(e watch.EventType, _ *corev1.Pod) bool { return e == watch.Deleted })
}

// follow lists and watches Pods until done says so.
func follow(ctx context.Context, client kubernetes.Interface, selector string, done func(watch.EventType, *corev1.Pod) bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		w, err := client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return err
		}
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok && done(e.Type, p) {
				w.Stop()
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func untilReady(ctx context.Context, client kubernetes.Interface, want int) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ready := map[string]bool{}
	for {
		w, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for e := range w.ResultChan() {
			node, ok := e.Object.(*corev1.Node)
			if !ok {
				continue
			}
			ready[node.Name] = slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			})
			n := 0
			for _, r := range ready {
				if r {
					n++
				}
			}
			if n == want {
				w.Stop()
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// retry asks again every 5 ms: both subjects are polled alike.
func retry(ctx context.Context, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ask()
		if err == nil || apierrors.IsAlreadyExists(err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// quantile is the smallest value that the share q of all does not exceed.
func quantile(v []float64, q float64) float64 {
	slices.Sort(v)
	return v[int(math.Ceil(q*float64(len(v))))-1]
}
