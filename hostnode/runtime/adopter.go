package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-k8s/skiff/hostnode/runtime/imagestore"
)

// loadedLabel on a containerd image says which load of the host's store it
// came from.
const loadedLabel = "skiff.cluster/loaded-at"

// adopter makes images of the host's store images of this node: records in
// containerd's database, no bytes. It does so when a call names one, so that
// loading an image on the host needs no word to any node.
type adopter struct {
	shared  *imagestore.Reader
	content content.Store
	images  images.Store
	leases  leases.Manager
	unpack  unpack.Platform
	// update makes CRI take note of an image record.
	update     func(ctx context.Context, name string) error
	hiddenFile string
	log        *slog.Logger

	// mu guards the fields below, and lets one image in at a time.
	mu sync.Mutex
	// adopted are the loads that this node has, by image name.
	adopted map[string]time.Time
	// hidden are the loads that were removed from this node.
	hidden map[string]time.Time
}

func newAdopter(ic *plugin.InitContext) (*adopter, error) {
	r := runtimeOf(ic)
	a := &adopter{
		shared: r.shared, adopted: map[string]time.Time{}, hidden: map[string]time.Time{},
		hiddenFile: filepath.Join(r.cfg.Root, "hidden-images.json"),
		log:        r.cfg.Log,
	}
	if a.shared == nil {
		return a, nil
	}
	instance, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return nil, err
	}
	db := instance.(*metadata.DB)
	a.content, a.images = db.ContentStore(), metadata.NewImageStore(db)
	if instance, err = ic.GetSingle(plugins.LeasePlugin); err != nil {
		return nil, err
	}
	a.leases = instance.(leases.Manager)
	if instance, err = ic.GetByID(plugins.DiffPlugin, "walking"); err != nil {
		return nil, err
	}
	snapshotter := ic.Plugins().Get(plugins.SnapshotPlugin, snapshotterName)
	a.unpack = unpack.Platform{
		Platform:                platforms.Default(),
		SnapshotterKey:          snapshotterName,
		Snapshotter:             db.Snapshotter(snapshotterName),
		SnapshotterExports:      snapshotter.Meta.Exports,
		SnapshotterCapabilities: snapshotter.Meta.Capabilities,
		Applier:                 instance.(diff.Applier),
	}
	if instance, err = ic.GetByID(plugins.CRIServicePlugin, "images"); err != nil {
		return nil, err
	}
	cri, ok := instance.(interface {
		UpdateImage(context.Context, string) error
	})
	if !ok {
		return nil, fmt.Errorf("CRI image service is a %T, which has no UpdateImage", instance)
	}
	a.update = cri.UpdateImage
	return a, a.load(ic.Context)
}

// load reads what an earlier process adopted and hid.
func (a *adopter) load(ctx context.Context) error {
	data, err := os.ReadFile(a.hiddenFile)
	if err == nil {
		err = json.Unmarshal(data, &a.hidden)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read hidden images: %w", err)
	}
	known, err := a.images.List(namespaces.WithNamespace(ctx, namespace))
	if err != nil {
		return fmt.Errorf("read adopted images: %w", err)
	}
	for _, image := range known {
		if at, err := time.Parse(time.RFC3339Nano, image.Labels[loadedLabel]); err == nil {
			a.adopted[image.Name] = at
		}
	}
	return nil
}

// adopt makes sure that the node has the image of the host's store that ref
// names, and returns its id; empty if the store has none.
func (a *adopter) adopt(ctx context.Context, ref string) (id string, err error) {
	shared, err := a.list()
	if err != nil {
		return "", err
	}
	ids := identify(ref, shared)
	if len(ids) == 0 {
		return "", nil
	}
	return ids[0].String(), a.takeAll(ctx, shared, ids, func(image imagestore.Image) bool { return names(ref, image) })
}

// reveal is adopt for those who only look: an image that was removed from this
// node stays removed, and the start of an id names it as well.
func (a *adopter) reveal(ctx context.Context, ref string) error {
	shared, err := a.list()
	if err != nil {
		return err
	}
	ids := identifyShort(ref, shared)
	return a.takeAll(ctx, shared, ids, func(imagestore.Image) bool { return false })
}

// takeAll adopts images with all their names but the hidden ones, unless they
// are wanted.
func (a *adopter) takeAll(ctx context.Context, shared []imagestore.Image, ids []digest.Digest, wanted func(imagestore.Image) bool) error {
	if len(ids) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, image := range shared {
		if !slices.Contains(ids, image.ID) {
			continue
		}
		if a.hides(image) {
			if !wanted(image) {
				continue
			}
			delete(a.hidden, image.Name)
			if err := a.saveHidden(); err != nil {
				return err
			}
		}
		if err := a.take(ctx, image); err != nil {
			return err
		}
	}
	return nil
}

// hides says whether this load was removed from the node. The caller holds mu.
func (a *adopter) hides(image imagestore.Image) bool {
	at, ok := a.hidden[image.Name]
	return ok && at.Equal(image.LoadedAt)
}

// hide keeps the names of an image from coming back by themselves.
func (a *adopter) hide(ref string) error {
	shared, err := a.list()
	if err != nil {
		return err
	}
	ids := identifyShort(ref, shared)
	if len(ids) != 1 {
		return nil // not ours, or for CRI to refuse
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// CRI removes an image with all its names.
	for _, image := range shared {
		if image.ID == ids[0] {
			a.hidden[image.Name] = image.LoadedAt
			delete(a.adopted, image.Name)
		}
	}
	return a.saveHidden()
}

func (a *adopter) saveHidden() error {
	data, err := json.Marshal(a.hidden)
	if err != nil {
		return err
	}
	aside := a.hiddenFile + ".new"
	if err := os.WriteFile(aside, data, 0o600); err != nil {
		return fmt.Errorf("record hidden images: %w", err)
	}
	return os.Rename(aside, a.hiddenFile)
}

func (a *adopter) list() ([]imagestore.Image, error) {
	if a.shared == nil {
		return nil, nil
	}
	return a.shared.Images()
}

// identify returns the id of the image that ref means, if there is one.
func identify(ref string, shared []imagestore.Image) []digest.Digest {
	for _, image := range shared {
		if names(ref, image) {
			return []digest.Digest{image.ID}
		}
	}
	return nil
}

// identifyShort also takes the start of an id, as CRI does; of more than one
// if it is too short.
func identifyShort(ref string, shared []imagestore.Image) []digest.Digest {
	ids := identify(ref, shared)
	if len(ids) > 0 || ref == "" {
		return ids
	}
	for _, image := range shared {
		if strings.HasPrefix(image.ID.Encoded(), ref) || strings.HasPrefix(image.ID.String(), ref) && strings.Contains(ref, ":") {
			ids = append(ids, image.ID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// names says whether ref, as in a Pod or a CRI call, means the image.
func names(ref string, image imagestore.Image) bool {
	if ref == image.ID.String() {
		return true
	}
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return false
	}
	if digested, ok := named.(reference.Digested); ok {
		own, err := reference.ParseNormalizedNamed(image.Name)
		return err == nil && own.Name() == named.Name() && digested.Digest() == image.Target.Digest
	}
	return named.String() == image.Name
}

// take adopts one image unless the node has it. The caller holds mu.
func (a *adopter) take(ctx context.Context, image imagestore.Image) (err error) {
	if at, ok := a.adopted[image.Name]; ok && at.Equal(image.LoadedAt) {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("adopt image %s: %w", image.Name, err)
		}
	}()
	ctx = namespaces.WithNamespace(ctx, namespace)
	// The lease keeps the garbage collector off until the image has a name.
	lease, err := a.leases.Create(ctx, leases.WithRandomID(), leases.WithExpiration(time.Hour))
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, a.leases.Delete(context.WithoutCancel(ctx), lease))
	}()
	leased := leases.WithLease(ctx, lease.ID)
	for _, blob := range image.Blobs {
		if err := a.register(leased, blob); err != nil {
			return fmt.Errorf("blob %s: %w", blob.Digest, err)
		}
	}
	platform := platforms.Default()
	children := images.LimitManifests(images.FilterPlatforms(images.ChildrenHandler(a.content), platform), platform, 1)
	if err := images.Walk(leased, images.SetChildrenLabels(a.content, children), image.Target); err != nil {
		return err
	}
	if err := a.unpackImage(leased, image.Target, children); err != nil {
		return err
	}
	if err := a.name(leased, image); err != nil {
		return err
	}
	a.adopted[image.Name] = image.LoadedAt
	return nil
}

// register makes a shared blob known in containerd's namespace: nothing is
// written but the record.
func (a *adopter) register(ctx context.Context, blob ocispec.Descriptor) error {
	writer, err := content.OpenWriter(ctx, a.content, content.WithRef("skiff-"+blob.Digest.String()), content.WithDescriptor(blob))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer writer.Close()
	if err := writer.Commit(ctx, blob.Size, blob.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// unpackImage goes through the motions of unpacking: our snapshotter has the
// layers. Where it has not (see newSnapshotter) they are really unpacked.
func (a *adopter) unpackImage(ctx context.Context, target ocispec.Descriptor, children images.Handler) error {
	unpacker, err := unpack.NewUnpacker(ctx, a.content, unpack.WithUnpackPlatform(a.unpack))
	if err != nil {
		return err
	}
	dispatch := images.Dispatch(ctx, unpacker.Unpack(children), nil, target)
	_, err = unpacker.Wait()
	return errors.Join(dispatch, err)
}

// name creates or moves the image's names, as a pull would have made them: the
// image's id, the name it was loaded by, and that repository by digest.
func (a *adopter) name(ctx context.Context, image imagestore.Image) error {
	_, byDigest, err := references(image)
	if err != nil {
		return err
	}
	for _, name := range []string{image.ID.String(), image.Name, byDigest.String()} {
		record := images.Image{Name: name, Target: image.Target, Labels: map[string]string{
			// CRI's own mark. Without it CRI would make the records again when
			// it hears of them, perhaps after they were removed.
			"io.cri-containerd.image": "managed",
			loadedLabel:               image.LoadedAt.Format(time.RFC3339Nano),
		}}
		_, err := a.images.Create(ctx, record)
		if errdefs.IsAlreadyExists(err) {
			_, err = a.images.Update(ctx, record, "target", "labels")
		}
		if err != nil {
			return err
		}
		if err := a.update(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// references are the name that an image was loaded by, and that repository by
// digest.
func references(image imagestore.Image) (own, byDigest reference.Named, err error) {
	if own, err = reference.ParseNormalizedNamed(image.Name); err != nil {
		return nil, nil, err
	}
	byDigest, err = reference.WithDigest(reference.TrimNamed(own), image.Target.Digest)
	return own, byDigest, err
}
