package scheduling

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	"k8s.io/kubernetes/pkg/scheduler/profile"
)

// Config of the scheduler.
type Config struct {
	// Client reaches the API server. Its limits apply: QPS -1 for none.
	Client *rest.Config
}

// Run schedules Pods until ctx ends. The API server must answer, or soon do.
// Only one scheduler may run on a cluster.
func Run(ctx context.Context, cfg Config) error {
	config := rest.CopyConfig(cfg.Client)
	_, details, _ := strings.Cut(rest.DefaultKubernetesUserAgent(), "/")
	config.UserAgent = "kube-scheduler/" + details + "/scheduler"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make scheduler's client: %w", err)
	}
	dynamicClient, err := dynamic.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make scheduler's dynamic client: %w", err)
	}
	defaults, err := latest.Default()
	if err != nil {
		return fmt.Errorf("default scheduler configuration: %w", err)
	}

	broadcaster := events.NewEventBroadcasterAdapterWithContext(ctx, client)
	informers := scheduler.NewInformerFactory(client, 0, nil)
	dynamicInformers := dynamicinformer.NewFilteredDynamicSharedInformerFactory(dynamicClient, 0, corev1.NamespaceAll, nil)
	var recorders profile.RecorderFactory = func(name string) events.EventRecorderLogger {
		return broadcaster.NewRecorder(name)
	}
	sched, err := scheduler.New(ctx, client, informers, dynamicInformers, recorders,
		scheduler.WithComponentConfigVersion(defaults.TypeMeta.APIVersion),
		scheduler.WithKubeConfig(config),
		scheduler.WithProfiles(defaults.Profiles...),
		scheduler.WithPercentageOfNodesToScore(defaults.PercentageOfNodesToScore),
		scheduler.WithPodMaxBackoffSeconds(defaults.PodMaxBackoffSeconds),
		scheduler.WithPodInitialBackoffSeconds(defaults.PodInitialBackoffSeconds),
		scheduler.WithExtenders(defaults.Extenders...),
		scheduler.WithParallelism(defaults.Parallelism),
	)
	if err != nil {
		return fmt.Errorf("compose scheduler: %w", err)
	}

	broadcaster.StartRecordingToSink(ctx.Done())
	defer broadcaster.Shutdown()
	informers.Start(ctx.Done())
	defer informers.Shutdown()
	dynamicInformers.Start(ctx.Done())
	defer dynamicInformers.Shutdown()
	informers.WaitForCacheSync(ctx.Done())
	dynamicInformers.WaitForCacheSync(ctx.Done())
	waitForHandlers(ctx, sched)

	sched.Run(ctx)
	return nil
}

// waitForHandlers waits until the scheduler has seen every object that the
// informers listed. Upstream looks only every 100 ms, but at once when asked.
func waitForHandlers(ctx context.Context, sched *scheduler.Scheduler) {
	for ctx.Err() == nil {
		look, cancel := context.WithTimeout(ctx, 2*time.Millisecond)
		err := sched.WaitForHandlersSync(look)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			return
		}
	}
}
