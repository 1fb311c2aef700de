package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/skiff-k8s/skiff/hostnode/runtime/imagestore"
)

// imagesCommand works on the host's image store; `skiff` runs it as a child,
// so that it need not hold containerd itself. Results go out as JSON.
func imagesCommand(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("want load, keep, list or delete")
	}
	flags := flag.NewFlagSet("images "+args[0], flag.ContinueOnError)
	store := flags.String("store", "", "directory of the image store")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if *store == "" {
		return errors.New("--store is required")
	}
	switch args[0] {
	case "load":
		return loadArchives(ctx, *store, flags.Args())
	case "keep":
		return keepArchive(ctx, *store)
	case "list":
		images, err := imagestore.List(*store)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(images)
	case "delete":
		for _, name := range flags.Args() {
			if err := imagestore.Delete(*store, name); err != nil {
				return err
			}
		}
		return nil
	default:
		return fmt.Errorf("unknown verb %q: want load, keep, list or delete", args[0])
	}
}

func loadArchives(ctx context.Context, store string, files []string) error {
	if len(files) == 0 {
		return errors.New("no archive named")
	}
	var all []imagestore.Image
	for _, file := range files {
		loaded, err := loadArchive(ctx, store, file)
		if err != nil {
			return err
		}
		all = append(all, loaded...)
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

func loadArchive(ctx context.Context, store, file string) ([]imagestore.Image, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	loaded, err := imagestore.Load(ctx, store, f)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", file, err)
	}
	return loaded, nil
}

// stallBound is how long a machine may pause in the middle of an archive: the
// store is locked meanwhile.
const stallBound = 20 * time.Second

// keepArchive takes an image that a machine has pulled from standard input, a
// socket, and answers there with what it kept.
func keepArchive(ctx context.Context, store string) error {
	conn, err := net.FileConn(os.Stdin)
	if err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	defer conn.Close()
	kept, err := imagestore.Keep(ctx, store, stalling{conn})
	if err != nil {
		return err
	}
	return json.NewEncoder(conn).Encode(kept)
}

// stalling gives each read stallBound.
type stalling struct{ net.Conn }

func (s stalling) Read(p []byte) (int, error) {
	if err := s.SetReadDeadline(time.Now().Add(stallBound)); err != nil {
		return 0, err
	}
	return s.Conn.Read(p)
}
