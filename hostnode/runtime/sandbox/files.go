package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// shmSize is Docker's and Kubernetes' size of a pod's /dev/shm.
const shmSize = 64 << 20

// makeFiles makes what CRI mounts into the sandbox's containers: hostname,
// hosts, resolv.conf and /dev/shm. CRI takes them from paths of its own, which
// become symlinks to ours: at its start CRI deletes directories there whose
// sandbox has no container of its own (none of ours has), but no symlinks.
func (c *Controller) makeFiles(sb *sandbox) error {
	dir := c.dir(sb.id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	hostname := sb.config.GetHostname()
	if hostname == "" {
		var err error
		if hostname, err = os.Hostname(); err != nil {
			return fmt.Errorf("read hostname: %w", err)
		}
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	resolv := []byte(resolvConf(sb.config.GetDnsConfig()))
	if sb.config.GetDnsConfig() == nil {
		if resolv, err = os.ReadFile("/etc/resolv.conf"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for name, content := range map[string][]byte{
		"hostname": []byte(hostname + "\n"), "hosts": hosts, "resolv.conf": resolv,
	} {
		if err := writeFile(filepath.Join(dir, name), content); err != nil {
			return err
		}
	}

	if err := os.MkdirAll(c.stateDir(sb.id), 0o711); err != nil {
		return err
	}
	if namespaceOptions(sb).GetIpc() != runtimeapi.NamespaceMode_NODE {
		if err := c.mountShm(sb.id); err != nil {
			return err
		}
	}
	if err := replaceLink(c.dir(sb.id), filepath.Join(c.cfg.CRIRoot, "sandboxes", sb.id)); err != nil {
		return err
	}
	return replaceLink(c.stateDir(sb.id), filepath.Join(c.cfg.CRIState, "sandboxes", sb.id))
}

func (c *Controller) mountShm(id string) error {
	shm := c.shmDir(id)
	if err := os.MkdirAll(shm, 0o700); err != nil {
		return err
	}
	err := unix.Mount("shm", shm, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV,
		fmt.Sprintf("mode=1777,size=%d", shmSize))
	if err != nil {
		return fmt.Errorf("mount /dev/shm of the pod: %w", err)
	}
	return nil
}

func (c *Controller) unmountShm(id string) error {
	if err := mount.UnmountAll(c.shmDir(id), unix.MNT_DETACH); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unmount /dev/shm of the pod: %w", err)
	}
	return nil
}

// removeFiles undoes makeFiles, however far that came.
func (c *Controller) removeFiles(id string) error {
	if id == "" || filepath.Base(id) != id {
		return fmt.Errorf("%q is no sandbox id", id)
	}
	// A node process that died within Start left it mounted.
	if err := c.unmountShm(id); err != nil {
		return err
	}
	return errors.Join(
		os.RemoveAll(filepath.Join(c.cfg.CRIRoot, "sandboxes", id)),
		os.RemoveAll(filepath.Join(c.cfg.CRIState, "sandboxes", id)),
		os.RemoveAll(c.stateDir(id)),
		os.RemoveAll(c.dir(id)),
	)
}

// resolvConf is the content of a pod's /etc/resolv.conf.
func resolvConf(dns *runtimeapi.DNSConfig) string {
	var b strings.Builder
	if len(dns.GetSearches()) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.GetSearches(), " "))
	}
	for _, server := range dns.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(dns.GetOptions()) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.GetOptions(), " "))
	}
	return b.String()
}

// writeFile writes a file that containers of any user may read.
func writeFile(path string, content []byte) error {
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644)
}

func replaceLink(target, link string) error {
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(link); err != nil {
		return err
	}
	return os.Symlink(target, link)
}
