package metrics

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/metrics/pkg/apis/metrics"
	"sigs.k8s.io/metrics-server/pkg/api"
	kubelet "sigs.k8s.io/metrics-server/pkg/scraper/client"
	"sigs.k8s.io/metrics-server/pkg/storage"
)

const (
	// resolution is metrics-server's: how old an answer may be, so that the
	// autoscaler's windows are not cut short by others who ask.
	resolution = 15 * time.Second
	// memory is how old the sample before may be: a mean over longer says
	// nothing about now.
	memory = time.Minute
	// pause is between the samples of a first answer, attempts how often it is
	// sampled again: kubelets keep a sample for two seconds.
	pause    = time.Second
	attempts = 3
	// patience bounds the question to one kubelet, parallel those in flight.
	patience = 3 * time.Second
	parallel = 32
)

var _ api.MetricsGetter = (*Source)(nil)

// Source answers from kubelets' samples.
type Source struct {
	nodes    corelisters.NodeLister
	kubelets func() (kubelet.KubeletMetricsGetter, error)
	store    storage.Storage

	// turn holds a token for who may ask kubelets, and guards sampled: the
	// others wait for seconds, and get the same answer.
	turn    chan struct{}
	sampled time.Time
}

// NewSource makes a source; it asks nobody, and calls kubelets when it does
// for the first time.
func NewSource(nodes corelisters.NodeLister, kubelets func() (kubelet.KubeletMetricsGetter, error)) *Source {
	return &Source{
		nodes: nodes, kubelets: sync.OnceValues(kubelets),
		store: storage.NewStorage(resolution), turn: make(chan struct{}, 1),
	}
}

// GetNodeMetrics implements api.NodeMetricsGetter.
func (s *Source) GetNodeMetrics(nodes ...*corev1.Node) ([]metrics.NodeMetrics, error) {
	if err := s.refresh(); err != nil {
		return nil, err
	}
	return s.store.GetNodeMetrics(nodes...)
}

// GetPodMetrics implements api.PodMetricsGetter.
func (s *Source) GetPodMetrics(pods ...*metav1.PartialObjectMetadata) ([]metrics.PodMetrics, error) {
	if err := s.refresh(); err != nil {
		return nil, err
	}
	return s.store.GetPodMetrics(pods...)
}

// refresh samples when what is known is too old:
//
//	younger than resolution → nothing
//	younger than memory     → one sample: usage since the last one
//	older, or none          → samples until there are two of all
func (s *Source) refresh() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	age := time.Since(s.sampled)
	if age < resolution {
		return nil
	}
	first, err := s.sample()
	if err != nil {
		return err
	}
	if age < memory || len(first.Nodes) == 0 {
		return nil
	}
	for range attempts {
		time.Sleep(pause) // of which the answer is the mean usage
		if _, err := s.sample(); err != nil {
			return err
		}
		if s.complete(first) {
			break
		}
	}
	return nil
}

// sample asks all kubelets at once.
func (s *Source) sample() (*storage.MetricsBatch, error) {
	kubelets, err := s.kubelets()
	if err != nil {
		return nil, fmt.Errorf("client for kubelets: %w", err)
	}
	nodes, err := s.nodes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	all := &storage.MetricsBatch{Nodes: map[string]storage.MetricsPoint{}, Pods: map[types.NamespacedName]storage.PodMetricsPoint{}}
	var mu sync.Mutex // guards all
	var group errgroup.Group
	group.SetLimit(parallel)
	for _, node := range nodes {
		if silent(node) {
			continue
		}
		group.Go(func() error {
			// Not the request's: the answer is for all who wait.
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			batch, err := kubelets.GetMetrics(ctx, node)
			if err != nil {
				klog.ErrorS(err, "Kubelet did not tell its usage", "node", klog.KObj(node))
				return nil // the others' is as good without
			}
			mu.Lock()
			defer mu.Unlock()
			for name, point := range batch.Nodes {
				all.Nodes[name] = point
			}
			for name, point := range batch.Pods {
				all.Pods[name] = point
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	s.store.Store(all)
	if len(all.Nodes) > 0 { // else whoever asks next tries again
		s.sampled = time.Now()
	}
	return all, nil
}

// silent tells whether a node's kubelet has not been heard of for so long that
// asking it would only take patience.
func silent(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionUnknown
		}
	}
	return false
}

// complete tells whether there is an answer for all that was there at first.
// What went meanwhile is no reason to wait forever: see attempts.
func (s *Source) complete(first *storage.MetricsBatch) bool {
	var nodes []*corev1.Node
	for name := range first.Nodes {
		nodes = append(nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	var pods []*metav1.PartialObjectMetadata
	for name := range first.Pods {
		pods = append(pods, &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}})
	}
	haveNodes, err := s.store.GetNodeMetrics(nodes...)
	if err != nil || len(haveNodes) < len(nodes) {
		return false
	}
	havePods, err := s.store.GetPodMetrics(pods...)
	return err == nil && len(havePods) == len(pods)
}
