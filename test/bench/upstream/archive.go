package upstream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/skiff-k8s/skiff/test/bench/cgroup"
)

// ImportArchive imports an archive's images on all nodes at once, as kind does.
func (c *Cluster) ImportArchive(ctx context.Context, archive string) error {
	var all sync.WaitGroup
	errs := make([]error, len(c.nodes))
	for i, n := range c.nodes {
		all.Go(func() { errs[i] = c.importOn(ctx, n, archive) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (c *Cluster) importOn(ctx context.Context, n node, archive string) error {
	pids, err := cgroup.Members(cgroupPath + "/" + n.name)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || filepath.Base(exe) != "containerd" {
			continue
		}
		file, err := os.Open(archive)
		if err != nil {
			return err
		}
		defer file.Close()
		// The node has its own mounts: the archive comes through a pipe.
		cmd := exec.CommandContext(ctx, "nsenter", "--mount", "--target", fmt.Sprint(pid),
			filepath.Join(c.cfg.Programs, "ctr"), "-n", "k8s.io", "images", "import", "--snapshotter", "overlayfs", "-")
		cmd.Stdin = file
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
		}
		return nil
	}
	return fmt.Errorf("node %s: no containerd among %v", n.name, pids)
}
