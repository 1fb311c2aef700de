package runtime

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/runtime/imagestore"
	"github.com/skiff-k8s/skiff/hostnode/runtime/union"
)

// turnBound is how long a pull waits for another machine's pull of the same
// image: that one may be paused, or its registry slow only for it.
const turnBound = 30 * time.Second

// pulls makes the cluster's machines pull an image once: they take turns, and
// who has pulled gives the host's store a copy before it is the next one's
// turn. That one asks the registry too, and downloads and unpacks what the
// store lacks: nothing.
type pulls struct {
	// dir is shared by the cluster's machines, see machine.PulledDir.
	dir     string
	shared  *imagestore.Reader
	content content.Store
	images  images.Store
	report  func(msg string, args ...any)

	// ctx ends with the runtime; copying waits for copies under way.
	ctx     context.Context
	stop    context.CancelFunc
	copying sync.WaitGroup
}

func newPulls(a *adopter, dir string) *pulls {
	// Layers that the host has are not downloaded, so not among the node's own blobs.
	p := &pulls{dir: dir, shared: a.shared, content: union.NewContent(a.content, a.shared), images: a.images, report: a.log.Warn}
	p.ctx, p.stop = context.WithCancel(namespaces.WithNamespace(context.Background(), namespace))
	return p
}

// close gives up copies under way. Later pulls stay private.
func (p *pulls) close() {
	p.stop()
	p.copying.Wait()
}

// once pulls when it is this machine's turn. The copy for the others is made
// behind the caller's back.
func (p *pulls) once(ctx context.Context, ref string, pull func() error) error {
	if p.dir == "" || p.shared == nil || p.ctx.Err() != nil {
		return pull()
	}
	done, err := p.turn(ctx, ref)
	if err != nil {
		return err
	}
	if err := pull(); err != nil {
		done()
		return err
	}
	p.copying.Go(func() {
		defer done()
		if err := p.give(p.ctx, ref); err != nil && p.ctx.Err() == nil {
			p.report("pulled image is this node's alone", "image", ref, "error", err)
		}
	})
	return nil
}

// turn waits until no other machine pulls the image, within bounds.
func (p *pulls) turn(ctx context.Context, ref string) (done func(), err error) {
	hash := fnv.New32a()
	io.WriteString(hash, ref)
	f, err := os.Open(filepath.Join(p.dir, strconv.Itoa(int(hash.Sum32()%machine.PulledLocks))))
	if err != nil {
		return nil, fmt.Errorf("wait for other pulls: %w", err)
	}
	locked := make(chan error, 1)
	go func() {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		for errors.Is(err, unix.EINTR) {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		locked <- err
	}()
	leave := sync.OnceFunc(func() {
		go func() {
			<-locked
			f.Close()
		}()
	})
	select {
	case err := <-locked:
		locked <- err // for leave
		if err != nil {
			leave()
			return nil, fmt.Errorf("wait for other pulls: %w", err)
		}
		return leave, nil
	case <-time.After(turnBound):
		leave()
		return func() {}, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// give sends the supervisor the archive of an image, unless the host's store
// has all of it.
func (p *pulls) give(ctx context.Context, ref string) error {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return err
	}
	image, err := p.images.Get(ctx, named.String())
	if err != nil {
		return err
	}
	known, err := p.known(ctx, image.Target)
	if err != nil || known {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(p.dir, machine.PulledSocket))
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	to := bufio.NewWriterSize(conn, 1<<20)
	if err := archive.Export(ctx, p.content, to, archive.WithPlatform(platforms.Default()),
		archive.WithImages([]images.Image{image})); err != nil {
		return err
	}
	if err := errors.Join(to.Flush(), conn.(*net.UnixConn).CloseWrite()); err != nil {
		return err
	}
	var kept []imagestore.Image
	if err := json.NewDecoder(conn).Decode(&kept); err != nil {
		return fmt.Errorf("the supervisor did not keep it, see its log: %w", err)
	}
	return nil
}

// known says whether the host's store has all blobs of an image.
func (p *pulls) known(ctx context.Context, target ocispec.Descriptor) (bool, error) {
	platform := platforms.Default()
	children := images.LimitManifests(images.FilterPlatforms(images.ChildrenHandler(p.content), platform), platform, 1)
	missing := images.HandlerFunc(func(_ context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if _, err := os.Stat(p.shared.Blob(desc.Digest)); errors.Is(err, os.ErrNotExist) {
			return nil, errMissing
		} else if err != nil {
			return nil, err
		}
		return nil, nil
	})
	err := images.Walk(ctx, images.Handlers(missing, children), target)
	if errors.Is(err, errMissing) {
		return false, nil
	}
	return err == nil, err
}

var errMissing = fmt.Errorf("blob of the host's store: %w", errdefs.ErrNotFound)
