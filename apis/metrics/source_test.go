package metrics

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	kubelet "sigs.k8s.io/metrics-server/pkg/scraper/client"
	"sigs.k8s.io/metrics-server/pkg/storage"
)

// kubelets are nodes that use one core each, with one Pod that uses half.
type kubelets struct {
	start time.Time
	// keeps is how long a sample is kept.
	keeps time.Duration
	last  time.Time
	asked atomic.Int32
	down  bool
}

func (k *kubelets) GetMetrics(_ context.Context, node *corev1.Node) (*storage.MetricsBatch, error) {
	k.asked.Add(1)
	if k.down {
		return nil, errors.New("connection refused")
	}
	if now := time.Now(); now.Sub(k.last) >= k.keeps {
		k.last = now
	}
	used := uint64(k.last.Sub(k.start))
	return &storage.MetricsBatch{
		Nodes: map[string]storage.MetricsPoint{node.Name: {Timestamp: k.last, CumulativeCPUUsed: used, MemoryUsage: 1 << 30}},
		Pods: map[types.NamespacedName]storage.PodMetricsPoint{{Namespace: "ns", Name: "pod-" + node.Name}: {
			Containers: map[string]storage.MetricsPoint{"c": {StartTime: k.start, Timestamp: k.last, CumulativeCPUUsed: used / 2, MemoryUsage: 1 << 20}},
		}},
	}, nil
}

func newTestSource(k *kubelets, nodes ...*corev1.Node) *Source {
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for _, n := range nodes {
		if err := indexer.Add(n); err != nil {
			panic(err)
		}
	}
	return NewSource(corelisters.NewNodeLister(indexer), func() (kubelet.KubeletMetricsGetter, error) { return k, nil })
}

func node(name string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
	}}
}

// TestSource asks at certain times after the kubelets' start, and looks at the
// windows of the answers, how long they took and how often kubelets were asked.
func TestSource(t *testing.T) {
	type question struct {
		at     time.Duration
		window time.Duration // of the answer; 0: there is none
		took   time.Duration
		asked  int32 // kubelets, in all
	}
	const hour = time.Hour
	for name, c := range map[string]struct {
		keeps     time.Duration
		down      bool
		questions []question
	}{
		"the first answer waits for a second sample": {
			questions: []question{{at: hour, window: time.Second, took: time.Second, asked: 2}},
		},
		"a kubelet that keeps its samples is waited for": {
			keeps:     2 * time.Second,
			questions: []question{{at: hour, window: 2 * time.Second, took: 2 * time.Second, asked: 3}},
		},
		"who asks again soon gets the same answer": {
			questions: []question{
				{at: hour, window: time.Second, took: time.Second, asked: 2},
				{at: hour + 10*time.Second, window: time.Second, asked: 2},
			},
		},
		"who asks every 15 s, as the autoscaler, gets the usage since": {
			questions: []question{
				{at: hour, window: time.Second, took: time.Second, asked: 2},
				{at: hour + 16*time.Second, window: 15 * time.Second, asked: 3},
				{at: hour + 31*time.Second, window: 15 * time.Second, asked: 4},
			},
		},
		"after an hour of silence nothing of before counts": {
			questions: []question{
				{at: hour, window: time.Second, took: time.Second, asked: 2},
				{at: 2 * hour, window: time.Second, took: time.Second, asked: 4},
			},
		},
		"kubelets that do not answer are no error, and asked again": {
			down:      true,
			questions: []question{{at: hour, asked: 1}, {at: hour + time.Second, asked: 2}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &kubelets{start: time.Now(), keeps: c.keeps, down: c.down}
				n := node("n", corev1.ConditionTrue)
				s := newTestSource(k, n)
				for _, q := range c.questions {
					time.Sleep(time.Until(k.start.Add(q.at)))
					begin := time.Now()
					got, err := s.GetNodeMetrics(n)
					if err != nil {
						t.Fatal(err)
					}
					if took := time.Since(begin); took != q.took || k.asked.Load() != q.asked {
						t.Errorf("at %v: took %v, want %v; asked %d, want %d", q.at, took, q.took, k.asked.Load(), q.asked)
					}
					if q.window == 0 {
						if len(got) > 0 {
							t.Errorf("at %v: %v", q.at, got)
						}
						continue
					}
					if len(got) != 1 || got[0].Window.Duration != q.window || got[0].Usage.Cpu().MilliValue() != 1000 || got[0].Usage.Memory().Value() != 1<<30 {
						t.Errorf("at %v: %v, want window %v", q.at, got, q.window)
					}
					pods, err := s.GetPodMetrics(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod-n"}})
					if err != nil || len(pods) != 1 || pods[0].Containers[0].Usage.Cpu().MilliValue() != 500 {
						t.Errorf("at %v: %v, %v", q.at, pods, err)
					}
				}
			})
		})
	}
}

// TestManyAskAtOnce: all wait for one and the same pair of samples.
func TestManyAskAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kubelets{start: time.Now().Add(-time.Hour)}
		n := node("n", corev1.ConditionTrue)
		s := newTestSource(k, n)
		answers := make(chan error, 10)
		for range cap(answers) {
			go func() {
				got, err := s.GetNodeMetrics(n)
				if err == nil && len(got) != 1 {
					err = fmt.Errorf("%d nodes", len(got))
				}
				answers <- err
			}()
		}
		for range cap(answers) {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		if k.asked.Load() != 2 {
			t.Errorf("asked %d times", k.asked.Load())
		}
	})
}

// TestASilentNodeIsNotAsked: it would take its patience of every answer.
func TestASilentNodeIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kubelets{start: time.Now().Add(-time.Hour)}
		alive, silent := node("alive", corev1.ConditionFalse), node("silent", corev1.ConditionUnknown)
		got, err := newTestSource(k, alive, silent).GetNodeMetrics(alive, silent)
		if err != nil || len(got) != 1 || got[0].Name != "alive" {
			t.Errorf("%v, %v", got, err)
		}
	})
}
