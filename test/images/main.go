package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	out := flag.String("o", "_output/images.tar", "archive to write")
	set := flag.String("set", "test", "which images: demo, vm, robustness, csi or test")
	cache := flag.String("cache", "_output/images", "directory for downloaded packages and built programs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *set, *cache, *out); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

// run builds the images of the set and publishes the archive by one rename.
func run(ctx context.Context, set, cache, out string) error {
	recipes, err := catalogue(set)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	b := &builder{cache: cache, layers: map[string]v1.Layer{}}
	images := map[name.Tag]v1.Image{}
	start := time.Now()
	for _, r := range recipes {
		img, err := b.build(ctx, r)
		if err != nil {
			return fmt.Errorf("image %s: %w", r.names[0], err)
		}
		for _, n := range r.names {
			tag, err := name.NewTag(n)
			if err != nil {
				return fmt.Errorf("image name %q: %w", n, err)
			}
			images[tag] = img
		}
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	tmp := out + ".new"
	if err := tarball.MultiWriteToFile(tmp, images); err != nil {
		return fmt.Errorf("archive %s: %w", tmp, err)
	}
	slog.Info("images built", "archive", out, "images", len(images), "after", time.Since(start).Round(time.Second))
	return os.Rename(tmp, out)
}
