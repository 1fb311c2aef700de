package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// epoch is the time of every file: the same inputs give the same digests.
var epoch = time.Unix(0, 0)

// builder makes layers once and shares them between images.
type builder struct {
	cache  string
	layers map[string]v1.Layer
	// files counts layer files: a layer may build another while it is filled.
	files int
}

func (b *builder) build(ctx context.Context, r recipe) (v1.Image, error) {
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		Architecture: "amd64", OS: "linux", Created: v1.Time{Time: epoch}, Config: r.config,
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	steps := []struct {
		key  string
		make func(context.Context, *tar.Writer) error
	}{
		{"debs " + strings.Join(r.debs, " "), func(ctx context.Context, w *tar.Writer) error { return b.debs(ctx, w, r.debs) }},
		{"programs " + fmt.Sprint(r.programs), func(ctx context.Context, w *tar.Writer) error { return b.programs(ctx, w, r) }},
		{"files " + fmt.Sprint(r.files, r.from, r.links, r.registry), func(ctx context.Context, w *tar.Writer) error { return b.plain(ctx, w, r) }},
	}
	for i, s := range steps {
		if (i == 0 && len(r.debs) == 0) || (i == 1 && len(r.programs) == 0) {
			continue
		}
		layer, err := b.layer(ctx, s.key, s.make)
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// layer runs fill once per key and keeps the result in memory and on disk.
func (b *builder) layer(ctx context.Context, key string, fill func(context.Context, *tar.Writer) error) (v1.Layer, error) {
	if l, ok := b.layers[key]; ok {
		return l, nil
	}
	path := filepath.Join(b.cache, fmt.Sprintf("layer-%d.tar", b.files))
	b.files++
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := fill(ctx, w); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromFile(path, tarball.WithCompressionLevel(1))
	if err != nil {
		return nil, err
	}
	b.layers[key] = l
	return l, nil
}

// programs builds Go packages statically and adds them.
func (b *builder) programs(ctx context.Context, w *tar.Writer, r recipe) error {
	module := "."
	if r.csi {
		module = "test/images/csi"
	}
	for _, path := range sortedKeys(r.programs) {
		binary, err := b.program(ctx, module, r.programs[path])
		if err != nil {
			return err
		}
		content, err := os.ReadFile(binary)
		if err != nil {
			return err
		}
		mode := int64(0o755)
		if path == "usr/local/bin/nnp" {
			mode = 0o4755 // the spec wants to see that setuid does nothing
		}
		if err := addFile(w, path, content, mode, 0); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) program(ctx context.Context, module, pkg string) (string, error) {
	out, err := filepath.Abs(filepath.Join(b.cache, "program-"+strings.ReplaceAll(pkg, "/", "_")))
	if err != nil {
		return "", err
	}
	start := time.Now()
	cmd := exec.CommandContext(ctx, "go", "build", "-C", module, "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, msg)
	}
	slog.Info("program built", "package", pkg, "after", time.Since(start).Round(100*time.Millisecond))
	return out, nil
}

// plain adds files, links and directories.
func (b *builder) plain(_ context.Context, w *tar.Writer, r recipe) error {
	for _, p := range sortedKeys(r.files) {
		f := r.files[p]
		if err := addFile(w, p, []byte(f.content), f.mode, f.uid); err != nil {
			return err
		}
	}
	for _, p := range sortedKeys(r.from) {
		dir, err := moduleDir(r.from[p].module)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, r.from[p].path))
		if err != nil {
			return err
		}
		if err := addFile(w, p, content, 0o644, 0); err != nil {
			return err
		}
	}
	for _, p := range sortedKeys(r.links) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: p, Linkname: r.links[p], Mode: 0o777, ModTime: epoch}); err != nil {
			return err
		}
	}
	for _, dir := range []string{"tmp/", "uploads/", "var/tmp/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o1777, ModTime: epoch}); err != nil {
			return err
		}
	}
	if r.registry {
		return b.fakeRegistry(w)
	}
	return nil
}

func moduleDir(module string) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("module %s: %w: %s", module, err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

func addFile(w *tar.Writer, path string, content []byte, mode int64, uid int) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: path, Size: int64(len(content)), Mode: mode, Uid: uid, ModTime: epoch}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(w, bytes.NewReader(content))
	return err
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
