package cloud

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/csi"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/cloudstorage"
)

// version is the one of CSI that the drivers say they have.
const version = "1.13.0"

// Config of a Registrar.
type Config struct {
	Cloud    machinev1alpha1.Cloud
	NodeName string
	// KubeletDir is the kubelet's root: sockets lie where drivers have theirs.
	KubeletDir string
	// StorageDir is where the volumes are. Default: the machine's.
	StorageDir string
}

// Registrar starts and registers drivers.
type Registrar struct {
	cfg    Config
	plugin *plugin

	mu sync.Mutex
	// nodes are the node services of the drivers that run, by driver; mu
	// guards it.
	nodes map[string]*cloudstorage.Node
}

// New makes a Registrar; Plugin goes into the kubelet's list of plugins.
func New(cfg Config) *Registrar {
	return &Registrar{cfg: cfg, plugin: &plugin{host: make(chan volume.VolumeHost, 1)}, nodes: map[string]*cloudstorage.Node{}}
}

// Lost says whether what is behind a volume is gone that is mounted, or a
// device, at a path; nil: it is there, or the driver is none of ours.
func (r *Registrar) Lost(driver, id, at string) *cloudstorage.Lost {
	r.mu.Lock()
	node := r.nodes[driver]
	r.mu.Unlock()
	if node == nil {
		return nil
	}
	return node.Lost(id, at)
}

func (r *Registrar) serves(driver string, node *cloudstorage.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if node == nil {
		delete(r.nodes, driver)
	} else {
		r.nodes[driver] = node
	}
}

// Plugin is what gives the Registrar the kubelet's volume host.
func (r *Registrar) Plugin() volume.VolumePlugin { return r.plugin }

// Run registers drivers until ctx ends.
func (r *Registrar) Run(ctx context.Context) (err error) {
	if len(r.cfg.Cloud.Drivers) == 0 {
		return nil
	}
	var host volume.VolumeHost
	select {
	case host = <-r.plugin.host:
	case <-ctx.Done():
		return ctx.Err()
	}
	kubelet, ok := host.(volume.KubeletVolumeHost)
	if !ok || kubelet.GetInformerFactory() == nil {
		return errors.New("emulated cloud: the kubelet has no view of CSIDrivers")
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	stop := context.AfterFunc(ctx, queue.ShutDown)
	defer stop()
	enqueue := func(o any) {
		if d, ok := o.(*storagev1.CSIDriver); ok {
			queue.Add(d.Name)
		}
	}
	informer := kubelet.GetInformerFactory().Storage().V1().CSIDrivers().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: enqueue, UpdateFunc: func(_, o any) { enqueue(o) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			enqueue(o)
		},
	}); err != nil {
		return fmt.Errorf("watch CSIDrivers: %w", err)
	}

	running := drivers{}
	defer func() { err = errors.Join(err, running.close()) }()
	for {
		name, shutdown := queue.Get()
		if shutdown {
			return ctx.Err()
		}
		if err := r.sync(ctx, host, kubelet, running, name); err != nil && ctx.Err() == nil {
			slog.Warn("storage driver not registered yet", "driver", name, "reason", err)
			queue.AddRateLimited(name)
		} else {
			queue.Forget(name)
		}
		queue.Done(name)
	}
}

// drivers that run, by name.
type drivers map[string]*cloudstorage.Server

func (d drivers) close() error {
	var errs []error
	for _, server := range d {
		errs = append(errs, server.Close())
	}
	return errors.Join(errs...)
}

// sync makes a driver run if its CSIDriver is there and ours.
func (r *Registrar) sync(ctx context.Context, host volume.VolumeHost, kubelet volume.KubeletVolumeHost, running drivers, name string) error {
	d, err := kubelet.CSIDriverLister().Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	ours := false
	if err == nil {
		_, ours = d.Labels[machinev1alpha1.CloudMark]
	}
	server := running[name]
	switch {
	case ours && server == nil:
		server, err := r.start(ctx, host, name)
		if err != nil {
			return err
		}
		running[name] = server
		slog.Info("storage driver registered", "driver", name)
	case !ours && server != nil:
		csi.PluginHandler.DeRegisterPlugin(ctx, name, r.socket(name))
		delete(running, name)
		r.serves(name, nil)
		slog.Info("storage driver removed", "driver", name)
		return server.Close()
	}
	return nil
}

func (r *Registrar) socket(driver string) string {
	return filepath.Join(r.cfg.KubeletDir, "plugins", driver, "csi.sock")
}

// start serves a driver and tells the kubelet.
func (r *Registrar) start(ctx context.Context, host volume.VolumeHost, name string) (*cloudstorage.Server, error) {
	driver, err := cloudstorage.New(cloudstorage.Config{Cloud: r.cfg.Cloud, Root: r.cfg.StorageDir}, name)
	if err != nil {
		return nil, err
	}
	socket := r.socket(name)
	node := driver.Node(r.cfg.NodeName, func() (string, error) { return zone(host) })
	server, err := cloudstorage.Serve(ctx, socket, driver, node)
	if err != nil {
		return nil, err
	}
	if err := csi.PluginHandler.RegisterPlugin(ctx, name, socket, []string{version}, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("register driver %s: %w", name, err), server.Close())
	}
	r.serves(name, node)
	return server, nil
}

// zone is the node's, as its labels say when a driver is registered.
func zone(host volume.VolumeHost) (string, error) {
	labels, err := host.GetNodeLabels()
	if err != nil {
		return "", err
	}
	if zone := labels[corev1.LabelTopologyZone]; zone != "" {
		return zone, nil
	}
	return labels[corev1.LabelFailureDomainBetaZone], nil
}
