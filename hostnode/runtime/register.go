package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	core "github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/hostnode/runtime/sandbox"
	"github.com/skiff-k8s/skiff/hostnode/runtime/union"
)

// runtimeKey finds the Runtime in a plugin's context: containerd's registry of
// plugins is global, what they serve is not.
type runtimeKey struct{}

func runtimeOf(ic *plugin.InitContext) *Runtime {
	return ic.Context.Value(runtimeKey{}).(*Runtime)
}

// register adds our plugins to containerd's registry, once a process.
var register = sync.OnceValue(func() error {
	for _, registration := range []plugin.Registration{
		{
			Type:   plugins.ContentPlugin,
			ID:     "content",
			InitFn: newContent,
		},
		{
			Type:   plugins.SnapshotPlugin,
			ID:     snapshotterName,
			InitFn: newSnapshotter,
		},
		{
			Type:     plugins.SandboxControllerPlugin,
			ID:       sandboxerName,
			Requires: []plugin.Type{plugins.MetadataPlugin},
			InitFn:   newSandboxer,
		},
		{
			// A server plugin is the last to load: the CRI is there.
			Type: plugins.ServerPlugin,
			ID:   "skiff",
			Requires: []plugin.Type{
				plugins.GRPCPlugin, plugins.CRIServicePlugin,
				plugins.MetadataPlugin, plugins.LeasePlugin, plugins.DiffPlugin,
				plugins.SandboxStorePlugin,
			},
			InitFn: newServer,
		},
	} {
		registry.Register(&registration)
	}
	return nil
})

func newContent(ic *plugin.InitContext) (any, error) {
	root := ic.Properties[plugins.PropertyRootDir]
	ic.Meta.Exports["root"] = root
	store, err := local.NewStore(root)
	if err != nil {
		return nil, err
	}
	private := soundContent{store}
	if runtimeOf(ic).shared == nil {
		return private, nil
	}
	// The garbage collector wants it even when it is empty.
	if err := os.MkdirAll(filepath.Join(root, "blobs"), 0o755); err != nil {
		return nil, err
	}
	return union.NewContent(private, runtimeOf(ic).shared), nil
}

// overlayMagic is statfs's type of an overlay file system.
const overlayMagic = 0x794c7630

func newSnapshotter(ic *plugin.InitContext) (any, error) {
	root := ic.Properties[plugins.PropertyRootDir]
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
	ic.Meta.Exports["root"] = root
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		return nil, fmt.Errorf("stat file system of %s: %w", root, err)
	}
	if fs.Type == overlayMagic {
		runtimeOf(ic).cfg.Log.Warn("the data directory is on overlayfs, which cannot carry another one: "+
			"every container copies its image", "dir", root)
		return native.NewSnapshotter(root)
	}
	return newOverlay(ic, root)
}

func newOverlay(ic *plugin.InitContext, root string) (snapshots.Snapshotter, error) {
	meta, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"), func(o *bolt.Options) error {
		o.NoSync = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	options := []overlay.Opt{overlay.WithMetaStore(meta), overlay.AsynchronousRemove}
	// Pods in user namespaces see their image's owners shifted by the mount.
	if ok, err := overlayutils.SupportsIDMappedMounts(); err == nil && ok {
		options = append(options, overlay.WithRemapIDs)
		ic.Meta.Capabilities = append(ic.Meta.Capabilities, "remap-ids")
	}
	ic.Meta.Capabilities = append(ic.Meta.Capabilities, "only-remap-ids", snapshots.RebaseCap)
	private, err := overlay.NewSnapshotter(root, options...)
	if err != nil || runtimeOf(ic).shared == nil {
		return private, err
	}
	return union.NewSnapshotter(private, root, runtimeOf(ic).shared)
}

// newSandboxer takes back, too, what was left half-made: CRI, which needs the
// sandboxes, has not read its records yet.
func newSandboxer(ic *plugin.InitContext) (any, error) {
	r := runtimeOf(ic)
	db, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return nil, err
	}
	statuses := filepath.Join(r.cfg.Root, "io.containerd.grpc.v1.cri", "containers")
	if err := dropHalfMade(ic.Context, metadata.NewContainerStore(db.(*metadata.DB)), statuses, r.cfg.Log); err != nil {
		return nil, err
	}
	return sandbox.New(sandbox.Config{
		PauseBinary: r.libexec("skiff-pause"),
		Root:        ic.Properties[plugins.PropertyRootDir],
		State:       ic.Properties[plugins.PropertyStateDir],
		CRIRoot:     filepath.Join(r.cfg.Root, "io.containerd.grpc.v1.cri"),
		CRIState:    filepath.Join(r.cfg.State, "io.containerd.grpc.v1.cri"),
		Shim:        func() (string, error) { return r.shim.Address(), r.shim.Ensure() },
		Log:         r.cfg.Log,
	})
}

// cri is what the CRI plugin implements.
type cri interface {
	runtimeapi.RuntimeServiceServer
	runtimeapi.ImageServiceServer
	IsInitialized() bool
}

// newServer takes the CRI service out of containerd.
func newServer(ic *plugin.InitContext) (any, error) {
	r := runtimeOf(ic)
	instance, err := ic.GetByID(plugins.GRPCPlugin, "cri")
	if err != nil {
		return nil, err
	}
	upstream, ok := instance.(cri)
	if !ok {
		return nil, fmt.Errorf("CRI plugin is a %T, which is not the CRI", instance)
	}
	if r.cfg.CNIConfDir == "" {
		if err := hookNetwork(upstream, r.cfg.CNI); err != nil {
			return nil, err
		}
	}
	images, err := newAdopter(ic)
	if err != nil {
		return nil, err
	}
	sandboxes, err := ic.GetSingle(plugins.SandboxStorePlugin)
	if err != nil {
		return nil, err
	}
	leasing, err := ic.GetSingle(plugins.LeasePlugin)
	if err != nil {
		return nil, err
	}
	if err := dropLeases(ic.Context, leasing.(leases.Manager), sandboxes.(core.Store)); err != nil {
		return nil, err
	}
	r.service = &service{cri: upstream, runtime: r, images: images, pulls: newPulls(images, r.cfg.PulledDir), sandboxes: sandboxes.(core.Store)}
	return nopServer{}, nil
}

// nopServer is a server plugin that needs no start.
type nopServer struct{}

func (nopServer) Start(context.Context) error { return nil }
