package supervise

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// makePulled makes the directory that machines share for the images they pull.
func (p Paths) makePulled(name string) error {
	dir := p.pulled(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory for pulled images: %w", err)
	}
	for i := range machine.PulledLocks {
		f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(i)), os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			return fmt.Errorf("make lock for pulled images: %w", err)
		}
		f.Close()
	}
	return nil
}

// servePulled gives archives of images that machines have pulled to the host's
// image store, one at a time. A child does the work: this process does not
// know what an image is.
func (r *room) servePulled(ctx context.Context) error {
	path := filepath.Join(r.paths.pulled(r.rec.Cluster.Name), machine.PulledSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("serve pulled images: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return fmt.Errorf("serve pulled images: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("serve pulled images: %w", err)
		}
		// The machine keeps its own copy, so that nothing is lost with one.
		if err := r.keepPulled(ctx, conn); err != nil && ctx.Err() == nil {
			r.log.Warn("pulled image not kept for other nodes", "error", err)
		}
	}
}

// keepPulled passes a connection on to a child, which reads the archive from
// it and answers.
func (r *room) keepPulled(ctx context.Context, conn *net.UnixConn) error {
	defer conn.Close()
	archive, err := conn.File()
	if err != nil {
		return err
	}
	defer archive.Close()
	child := exec.CommandContext(ctx, filepath.Join(r.paths.Libexec, machineProgram), "images", "keep", "--store", r.paths.Images())
	child.Stdin, child.Stderr = archive, os.Stderr
	child.Env = r.paths.environment()
	return child.Run()
}
