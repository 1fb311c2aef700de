package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"

	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-base/featuregate"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	kubectrlmgrconfig "k8s.io/kubernetes/pkg/controller/apis/config"
	"k8s.io/kubernetes/pkg/features"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/skiff-k8s/skiff/controllers/cloudvolumes"
	"github.com/skiff-k8s/skiff/controllers/cronjob"
	"github.com/skiff-k8s/skiff/controllers/daemonset"
	"github.com/skiff-k8s/skiff/controllers/deployment"
	"github.com/skiff-k8s/skiff/controllers/endpointslice"
	"github.com/skiff-k8s/skiff/controllers/hostpath"
	"github.com/skiff-k8s/skiff/controllers/job"
	"github.com/skiff-k8s/skiff/controllers/loadbalancer"
	"github.com/skiff-k8s/skiff/controllers/namespace"
	"github.com/skiff-k8s/skiff/controllers/nodelabels"
	"github.com/skiff-k8s/skiff/controllers/nodelifecycle"
	"github.com/skiff-k8s/skiff/controllers/podgc"
	"github.com/skiff-k8s/skiff/controllers/replicaset"
	"github.com/skiff-k8s/skiff/controllers/rootca"
	"github.com/skiff-k8s/skiff/controllers/serviceaccount"
	"github.com/skiff-k8s/skiff/controllers/shared"
	"github.com/skiff-k8s/skiff/controllers/statefulset"
	"github.com/skiff-k8s/skiff/controllers/tainteviction"
	"github.com/skiff-k8s/skiff/controllers/ttlafterfinished"
	"github.com/skiff-k8s/skiff/controllers/volumesnapshots"
)

// parts are what our own controllers are made from.
type parts struct {
	cfg       Config
	mgr       manager.Manager
	client    kubernetes.Interface
	metadata  metadata.Interface
	informers informers.SharedInformerFactory
	rootCA    []byte
	events    record.EventBroadcaster
	// component is upstream's default configuration.
	component kubectrlmgrconfig.KubeControllerManagerConfiguration
}

// recorder writes events as the named component.
func (s *parts) recorder(component string) record.EventRecorder {
	return s.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
}

// config is what most of ours work with; events are written as component.
func (s *parts) config(component string) shared.Config {
	return shared.Config{Client: s.client, Informers: s.informers, Recorder: s.recorder(component), Clock: s.cfg.Clock}
}

// add registers what a constructor has made.
func (s *parts) add(r interface {
	SetupWithManager(manager.Manager) error
}, err error) error {
	if err != nil {
		return err
	}
	return r.SetupWithManager(s.mgr)
}

// ours are the controllers of our own, by upstream's name where they take the
// place of one of upstream's. README.md says why.
var ours = map[string]func(context.Context, *parts) error{
	names.NamespaceController: func(ctx context.Context, s *parts) error {
		return namespace.New(namespace.Config{Client: s.client, Metadata: s.metadata, Clock: s.cfg.Clock}).SetupWithManager(ctx, s.mgr)
	},
	names.ServiceAccountController: func(_ context.Context, s *parts) error {
		return serviceaccount.New().SetupWithManager(s.mgr)
	},
	names.RootCACertificatePublisherController: func(_ context.Context, s *parts) error {
		return rootca.New(s.rootCA).SetupWithManager(s.mgr)
	},
	names.EndpointSliceController: func(_ context.Context, s *parts) error {
		return endpointslice.New(endpointslice.Config{
			Client: s.client, Informers: s.informers, Recorder: s.recorder("endpoint-slice-controller"),
		}).SetupWithManager(s.mgr)
	},
	names.ReplicaSetController: func(_ context.Context, s *parts) error {
		return s.add(replicaset.New(s.config("replicaset-controller")))
	},
	names.DeploymentController: func(_ context.Context, s *parts) error {
		return s.add(deployment.New(s.config("deployment-controller")))
	},
	names.JobController: func(_ context.Context, s *parts) error {
		return s.add(job.New(s.config("job-controller")))
	},
	names.CronJobController: func(_ context.Context, s *parts) error {
		return s.add(cronjob.New(s.config("cronjob-controller")))
	},
	names.TTLAfterFinishedController: func(_ context.Context, s *parts) error {
		return ttlafterfinished.New(ttlafterfinished.Config{Client: s.client, Informers: s.informers, Clock: s.cfg.Clock}).SetupWithManager(s.mgr)
	},
	names.StatefulSetController: func(_ context.Context, s *parts) error {
		return s.add(statefulset.New(s.config("statefulset-controller")))
	},
	names.DaemonSetController: func(_ context.Context, s *parts) error {
		return s.add(daemonset.New(s.config("daemonset-controller")))
	},
	names.TaintEvictionController: func(_ context.Context, s *parts) error {
		return s.add(tainteviction.New(s.config("taint-eviction-controller")))
	},
	names.ReplicationControllerController: func(_ context.Context, s *parts) error {
		return s.add(replicaset.NewReplicationController(s.config("replication-controller")))
	},
	names.NodeLifecycleController: func(_ context.Context, s *parts) error {
		return s.add(nodelifecycle.New(nodelifecycle.Config{
			Client: s.client, Informers: s.informers, Recorder: s.recorder("node-controller"), Clock: s.cfg.Clock,
		}))
	},
	names.PodGarbageCollectorController: func(_ context.Context, s *parts) error {
		return s.add(podgc.New(podgc.Config{
			Client: s.client, Informers: s.informers, Clock: s.cfg.Clock,
			Threshold: int(s.component.PodGCController.TerminatedPodGCThreshold),
		}))
	},
	nodelabels.Name: func(_ context.Context, s *parts) error {
		return nodelabels.New(s.cfg.NodeLabels).SetupWithManager(s.mgr)
	},
	loadbalancer.Name: func(_ context.Context, s *parts) error {
		return loadbalancer.New(loadbalancer.Config{
			Ranges: s.cfg.ControlPlane.LoadBalancerSubnets, Informers: s.informers, Recorder: s.recorder("service-controller"),
		}).SetupWithManager(s.mgr)
	},
	cloudvolumes.Name: func(_ context.Context, s *parts) error {
		client, err := snapshots.NewForConfig(s.cfg.RESTConfig)
		if err != nil {
			return err
		}
		return cloudvolumes.New(cloudvolumes.Config{
			Drivers: s.cfg.CloudDrivers, Client: s.client, Snapshots: client, Recorder: s.recorder("cloud-volumes"), Clock: s.cfg.Clock,
		}).SetupWithManager(s.mgr)
	},
	volumesnapshots.Name: func(_ context.Context, s *parts) error {
		return volumesnapshots.New(volumesnapshots.Config{
			Drivers: s.cfg.CloudDrivers, RESTConfig: s.cfg.RESTConfig, Client: s.client, Informers: s.informers,
		}).SetupWithManager(s.mgr)
	},
	hostpath.Name: func(_ context.Context, s *parts) error {
		return hostpath.New(hostpath.Config{VolumesDir: s.cfg.VolumesDir, Recorder: s.recorder(hostpath.Provisioner)}).SetupWithManager(s.mgr)
	},
}

// upstreamOnly are features that only upstream's controller of the name has.
// Where one is on, upstream's runs.
var upstreamOnly = map[string]featuregate.Feature{
	names.JobController: features.WorkloadWithJob,
}

// keep adds to the names of controllers that shall be upstream's those that
// must be.
func keep(upstream []string) []string {
	upstream = slices.Clone(upstream)
	for name, feature := range upstreamOnly {
		if utilfeature.DefaultFeatureGate.Enabled(feature) && !slices.Contains(upstream, name) {
			upstream = append(upstream, name)
		}
	}
	return upstream
}

// Names returns the names of all controllers, upstream's and our own, sorted.
func Names() []string {
	all := map[string]bool{}
	for name := range app.NewControllerDescriptors() {
		all[name] = true
	}
	for name := range ours {
		all[name] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// Ours tells whether a controller of our own runs under the name.
func Ours(name string) bool {
	return ours[name] != nil
}

// split returns the names under which ours run, and those of upstream's.
func split(keepUpstream []string) (own, upstream []string, err error) {
	descriptors := app.NewControllerDescriptors()
	for _, name := range keepUpstream {
		if descriptors[name] == nil {
			return nil, nil, fmt.Errorf("upstream has no controller %q", name)
		}
	}
	for _, name := range Names() {
		if Ours(name) && !slices.Contains(keepUpstream, name) {
			own = append(own, name)
		} else {
			upstream = append(upstream, name)
		}
	}
	return own, upstream, nil
}
