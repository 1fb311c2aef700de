package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// imageBytes cannot be compressed, and are in files of fileBytes.
	imageBytes = 150 << 20
	fileBytes  = 1 << 20
	largeImage = "skiff.cluster/bench-large:latest"
)

// loader is a subject into which an archive can be loaded.
type loader interface {
	subject
	// LoadImage makes an archive's images known on all nodes.
	LoadImage(ctx context.Context, archive string) error
	// ForgetImage removes what LoadImage left outside of the cluster.
	ForgetImage(ctx context.Context, image string) error
}

func imagesKey(nodes int) string { return fmt.Sprintf("image%d", nodes) }

// imageSizes are the clusters into which the image is loaded; upstream's has
// three nodes.
var imageSizes = sizes{1, 3, 10}

func imageFigures() []figure {
	var all []figure
	for _, n := range imageSizes {
		all = append(all, figure{imagesKey(n), fmt.Sprintf("load an image of 150 MB until Pods of it run on all nodes, nodes: %d, s", n)})
	}
	return all
}

// loads measures how long an image takes to be of use on every node.
func loads(ctx context.Context, s loader, got sample) error {
	grower, grows := s.(grower)
	for _, n := range imageSizes {
		create := s.Create
		switch {
		case grows:
			create = func(ctx context.Context) (*rest.Config, error) { return grower.CreateNodes(ctx, n) }
		case n != 3:
			continue
		}
		took, err := load(ctx, s, n, create)
		if err != nil {
			return fmt.Errorf("load an image on %d nodes: %w", n, err)
		}
		got[imagesKey(n)] = took.Seconds()
	}
	return nil
}

func load(ctx context.Context, s loader, n int, create func(context.Context) (*rest.Config, error)) (took time.Duration, err error) {
	defer func() { err = errors.Join(err, s.Delete(context.WithoutCancel(ctx))) }()
	if p, ok := s.(interface{ BeforeCreate(context.Context) error }); ok {
		if err := p.BeforeCreate(ctx); err != nil {
			return 0, err
		}
	}
	config, err := create(ctx)
	if err != nil {
		return 0, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return 0, err
	}
	if err := answers(ctx, client); err != nil {
		return 0, fmt.Errorf("wait for the API: %w", err)
	}
	if err := untilReady(ctx, client, n); err != nil {
		return 0, fmt.Errorf("nodes Ready: %w", err)
	}
	archive, err := makeArchive()
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(filepath.Dir(archive))
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}

	begin := time.Now()
	defer func() { err = errors.Join(err, s.ForgetImage(context.WithoutCancel(ctx), largeImage)) }()
	if err := s.LoadImage(ctx, archive); err != nil {
		return 0, err
	}
	for i, node := range nodes.Items {
		p := pausePod(fmt.Sprintf("large-%d", i), false)
		p.Labels = map[string]string{"app": "large"}
		p.Spec.NodeName = node.Name
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = largeImage, corev1.PullNever
		if err := retry(ctx, func() error {
			_, err := client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
			return err
		}); err != nil {
			return 0, err
		}
	}
	if err := untilPods(ctx, client, "app=large", func(running int) bool { return running == n }); err != nil {
		return 0, fmt.Errorf("Pods of it Running: %w", err)
	}
	return time.Since(begin), nil
}

// makeArchive writes an archive with the pause image and a layer that nobody
// has seen before.
func makeArchive() (string, error) {
	dir, err := os.MkdirTemp("", "skiff-bench")
	if err != nil {
		return "", err
	}
	tag, err := name.NewTag(pauseImage)
	if err != nil {
		return "", err
	}
	base, err := tarball.ImageFromPath("_output/images.tar", &tag)
	if err != nil {
		return "", err
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	for i := range imageBytes / fileBytes {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("data/%d", i), Mode: 0o644, Size: fileBytes}); err != nil {
			return "", err
		}
		if _, err := io.CopyN(w, rand.Reader, fileBytes); err != nil {
			return "", err
		}
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		return "", err
	}
	large, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return "", err
	}
	if tag, err = name.NewTag(largeImage); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "large.tar")
	return path, tarball.MultiWriteToFile(path, map[name.Tag]v1.Image{tag: large})
}

func (s *skiffCluster) LoadImage(ctx context.Context, archive string) error {
	return output(exec.CommandContext(ctx, "bin/skiff", "load", "image-archive", archive, "--name", skiffName))
}

func (s *skiffCluster) ForgetImage(ctx context.Context, image string) error {
	return output(exec.CommandContext(ctx, "bin/libexec/skiff/skiff-machine", "images", "delete", "--store", "/var/lib/skiff/images", image))
}

func (a *assembled) LoadImage(ctx context.Context, archive string) error {
	return a.cluster.ImportArchive(ctx, archive)
}

// ForgetImage has nothing to do: the image goes with the cluster.
func (a *assembled) ForgetImage(context.Context, string) error { return nil }

func output(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}
