package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// singles are the Pods of each kind that are started one after another.
	singles = 12
	// sustained is how long Pods come and go, sustainers how many at once.
	sustained  = 10 * time.Second
	sustainers = 8
	// crowd fills one node; upstream's limit is 110.
	crowd = 100
	// lead is how long before its end a Pod is told when that will be.
	lead = 4 * time.Second
	// worker is the node that all figures of one node are taken on; both
	// subjects have one of this name.
	worker = skiffName + "-worker"
)

// nodeFigures are those of one node and its Pods.
var nodeFigures = []figure{
	{"podP50", "one after another: Pod create → Running, p50, ms"},
	{"podP99", "slowest of them, ms"},
	{"volumesP50", "with ConfigMap, Secret and token, p50, ms"},
	{"volumesP99", "slowest of them, ms"},
	{"goneP50", "Pod delete → gone, p50, ms"},
	{"goneP99", "slowest of them, ms"},
	{"succeeded", "container's exit → Pod Succeeded, ms"},
	{"exec", "exec, there and back, ms"},
	{"twenty", "20 Pods at once on one node, s"},
	{"hundred", "100 Pods at once on one node, s"},
	{"podCPU", "CPU for each of them, ms"},
	{"podPSS", "memory (PSS) for each of them, beside its own, MB"},
	{"rate", "Pods that come and go, a second"},
}

// nodes measures a cluster that is made for it.
func nodes(ctx context.Context, s subject, got sample) (err error) {
	defer func() { err = errors.Join(err, s.Delete(context.WithoutCancel(ctx))) }()
	if p, ok := s.(interface{ BeforeCreate(context.Context) error }); ok {
		if err := p.BeforeCreate(ctx); err != nil {
			return err
		}
	}
	config, err := s.Create(ctx)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := answers(ctx, client); err != nil {
		return fmt.Errorf("wait for the API: %w", err)
	}
	if err := untilReady(ctx, client, 3); err != nil {
		return fmt.Errorf("nodes Ready: %w", err)
	}
	if err := retry(ctx, func() error { return createConfig(ctx, client) }); err != nil {
		return err
	}
	// The first of a node finds nothing in any cache.
	if _, _, err := life(ctx, client, onWorker(pausePod("first", true))); err != nil {
		return err
	}
	for _, take := range []func(context.Context, kubernetes.Interface, *rest.Config, subject, sample) error{oneByOne, exits, execs, crowds, rates} {
		if err := take(ctx, client, config, s, got); err != nil {
			return err
		}
	}
	return nil
}

func onWorker(p *corev1.Pod) *corev1.Pod {
	p.Spec.NodeName = worker
	return p
}

// life of one Pod: how long until it is Running, and until it is gone.
func life(ctx context.Context, client kubernetes.Interface, p *corev1.Pod) (up, down time.Duration, err error) {
	begin := time.Now()
	if err := retry(ctx, func() error {
		_, err := client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
		return err
	}); err != nil {
		return 0, 0, err
	}
	if err := untilPods(ctx, client, "pod="+p.Name, func(n int) bool { return n == 1 }); err != nil {
		return 0, 0, fmt.Errorf("Pod %s Running: %w", p.Name, err)
	}
	up = time.Since(begin)
	begin = time.Now()
	if err := client.CoreV1().Pods("default").Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil {
		return up, 0, err
	}
	if err := untilGone(ctx, client, "pod="+p.Name); err != nil {
		return up, 0, fmt.Errorf("Pod %s gone: %w", p.Name, err)
	}
	return up, time.Since(begin), nil
}

func oneByOne(ctx context.Context, client kubernetes.Interface, _ *rest.Config, _ subject, got sample) error {
	all := map[string][]float64{}
	for i := range 2 * singles {
		key := []string{"pod", "volumes"}[i%2]
		up, down, err := life(ctx, client, onWorker(pausePod(fmt.Sprintf("one-%d", i), i%2 == 1)))
		if err != nil {
			return err
		}
		all[key] = append(all[key], milliseconds(up))
		all["gone"] = append(all["gone"], milliseconds(down))
	}
	for key, values := range all {
		got[key+"P50"], got[key+"P99"] = median(values), slices.Max(values)
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// exits tells Pods when to end, and looks how long after that it is known.
func exits(ctx context.Context, client kubernetes.Interface, _ *rest.Config, _ subject, got sample) error {
	var all []float64
	for i := range 5 {
		end := time.Now().Add(lead)
		p := onWorker(pausePod(fmt.Sprintf("ends-%d", i), false))
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].Image = agnhostImage
		p.Spec.Containers[0].Command = []string{"bash", "-c", fmt.Sprintf(
			`sleep $(awk -v end=%.6f -v now=$EPOCHREALTIME 'BEGIN { printf "%%.4f", end - now }')`, float64(end.UnixMicro())/1e6)}
		if _, err := client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
			return err
		}
		if err := untilSucceeded(ctx, client, p.Name); err != nil {
			return fmt.Errorf("Pod %s Succeeded: %w", p.Name, err)
		}
		late := time.Since(end)
		if late > lead {
			return fmt.Errorf("Pod %s: %v after its end it is not known whether it had begun before", p.Name, late)
		}
		all = append(all, milliseconds(late))
		if err := client.CoreV1().Pods("default").Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	got["succeeded"] = median(all)
	return nil
}

// crowds starts many Pods at once on one node, and weighs the larger crowd.
func crowds(ctx context.Context, client kubernetes.Interface, _ *rest.Config, s subject, got sample) error {
	var err error
	if got["twenty"], err = crowdOf(ctx, client, 20, nil); err != nil {
		return err
	}
	cpu, err := s.CPU()
	if err != nil {
		return err
	}
	before, own, err := weight(s)
	if err != nil {
		return err
	}
	got["hundred"], err = crowdOf(ctx, client, crowd, func() error {
		after, ownAfter, err := weight(s)
		if err != nil {
			return err
		}
		used, err := s.CPU()
		got["podPSS"] = ((after - before) - (ownAfter - own)) / crowd
		got["podCPU"] = milliseconds(used-cpu) / crowd
		return err
	})
	return err
}

// crowdOf n Pods: the seconds until all are Running; then it calls there, and
// deletes them.
func crowdOf(ctx context.Context, client kubernetes.Interface, n int, there func() error) (float64, error) {
	label := fmt.Sprintf("crowd-%d", n)
	begin := time.Now()
	var creating sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		creating.Go(func() {
			p := onWorker(pausePod(fmt.Sprintf("%s-%d", label, i), false))
			p.Labels = map[string]string{"app": label}
			_, errs[i] = client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
		})
	}
	creating.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	if err := untilPods(ctx, client, "app="+label, func(running int) bool { return running == n }); err != nil {
		return 0, fmt.Errorf("%d Pods Running: %w", n, err)
	}
	took := time.Since(begin).Seconds()
	if there != nil {
		if err := there(); err != nil {
			return took, err
		}
	}
	selector := metav1.ListOptions{LabelSelector: "app=" + label}
	if err := client.CoreV1().Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{}, selector); err != nil {
		return took, err
	}
	return took, retry(ctx, func() error {
		list, err := client.CoreV1().Pods("default").List(ctx, selector)
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d Pods are left", len(list.Items))
		}
		return err
	})
}

// weight of a subject's processes in MB, and of those in it that are the
// programs of the crowd's Pods: upstream's sandboxes run the same program, and
// half of it is not the Pods' own.
func weight(s subject) (all, own float64, err error) {
	pids, err := s.Processes()
	if err != nil {
		return 0, 0, err
	}
	var programs []int
	for _, pid := range pids {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && exe == "/pause" {
			programs = append(programs, pid)
		}
	}
	own = pss(programs)
	if strings.HasPrefix(s.Name(), "upstream") {
		own /= 2
	}
	return pss(pids), own, nil
}

// rates counts the Pods that come and go in a while.
func rates(ctx context.Context, client kubernetes.Interface, _ *rest.Config, _ subject, got sample) error {
	var all sync.WaitGroup
	var lives atomic.Int32
	errs := make([]error, sustainers)
	begin := time.Now()
	for i := range sustainers {
		all.Go(func() {
			for n := 0; time.Since(begin) < sustained && errs[i] == nil; n++ {
				_, _, errs[i] = life(ctx, client, onWorker(pausePod(fmt.Sprintf("rate-%d-%d", i, n), false)))
				lives.Add(1)
			}
		})
	}
	all.Wait()
	got["rate"] = float64(lives.Load()) / time.Since(begin).Seconds()
	return errors.Join(errs...)
}
