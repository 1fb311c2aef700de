package supervise

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/dataplane/features"
	"github.com/skiff-k8s/skiff/hostnode/namespaces"
)

// preflight finds out what would stop a create, before anything is made.
func (p Paths) preflight(c *cluster.Cluster) error {
	if os.Geteuid() != 0 {
		return &Refusal{Err: errors.New("skiff must run as root: it makes namespaces, mounts and cgroups"), Help: "run it with sudo"}
	}
	if _, err := os.Lstat(p.Cluster(c.Name)); err == nil {
		return &Refusal{Err: fmt.Errorf("cluster %q: %w", c.Name, ErrExists), Help: "skiff delete cluster --name " + c.Name + ", or choose another --name"}
	}
	if err := p.usable(c); err != nil {
		return err
	}
	return errors.Join(checkFiles(c)...)
}

// usable finds out whether a cluster can run on this host.
func (p Paths) usable(c *cluster.Cluster) error {
	for _, program := range []string{initProgram, machineProgram} {
		if _, err := os.Stat(filepath.Join(p.Libexec, program)); err != nil {
			return &Refusal{Err: fmt.Errorf("find skiff's programs: %w", err), Help: "run make build"}
		}
	}
	if err := probeKernel(); err != nil {
		return err
	}
	if c.Networking.IPFamily != cluster.IPv4 {
		if err := probeIPv6(); err != nil {
			return err
		}
	}
	return nil
}

// fileSystems that machines mount; asking for one loads its module.
var fileSystems = []struct{ name, consequence string }{
	{"overlay", "containers cannot have a root file system"},
	{"bpf", "Services cannot be programmed"},
	{"cgroup2", "Services cannot be programmed"},
	{"mqueue", "containers cannot have message queues"},
}

func probeKernel() error {
	for _, fs := range fileSystems {
		fd, err := unix.Fsopen(fs.name, unix.FSOPEN_CLOEXEC)
		if err != nil {
			return &Refusal{Err: fmt.Errorf("kernel feature: file system %s: %w: %s", fs.name, err, fs.consequence), Help: "use a kernel that has it; a distribution's of Linux 5.15 or newer does"}
		}
		unix.Close(fd)
	}
	layout, err := readHost(Paths{})
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(layout.layout, func(h namespaces.Hierarchy) bool { return h.Controllers == "" }) {
		return &Refusal{Err: errors.New("kernel feature: no cgroup2 tree is mounted: Services cannot be programmed"),
			Help: "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"}
	}
	return features.Services()
}

// probeIPv6 finds out whether the host has IPv6 at all: with the module left
// out there are no such sockets, with net.ipv6.conf.all.disable_ipv6 not even
// loopback has an address.
func probeIPv6() error {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err == nil {
		return l.Close()
	}
	return &Refusal{Field: "networking.ipFamily", Err: fmt.Errorf("this host has no IPv6: %w", err),
		Help: "sysctl -w net.ipv6.conf.all.disable_ipv6=0 (or boot without ipv6.disable=1), or use ipFamily: ipv4"}
}

// checkFiles looks for the files of the host that the config names.
func checkFiles(c *cluster.Cluster) []error {
	var errs []error
	check := func(field, path string) {
		if path == "" {
			return
		}
		if _, err := os.Stat(path); err != nil {
			errs = append(errs, &Refusal{Field: field, Err: err})
		}
	}
	errs = append(errs, checkMounts(c)...)
	check("auditPolicy", c.AuditPolicy)
	if t := c.EtcdTLS; t != nil {
		check("etcdTLS.caFile", t.CAFile)
		check("etcdTLS.certFile", t.CertFile)
		check("etcdTLS.keyFile", t.KeyFile)
	}
	return errs
}

// checkMounts looks for what machines mount of the host.
func checkMounts(c *cluster.Cluster) []error {
	errs := checkRuntimeHandlers(c)
	for i, n := range c.Nodes {
		for j, m := range n.ExtraMounts {
			field := fmt.Sprintf("nodes[%d].extraMounts[%d]", i, j)
			if _, err := os.Stat(m.HostPath); err != nil {
				errs = append(errs, &Refusal{Field: field + ".hostPath", Err: err, Help: "create it first: mkdir -p " + m.HostPath})
			}
			if err := checkPropagation(field, m); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errs
}

// checkRuntimeHandlers looks for the programs of the host that nodes run.
func checkRuntimeHandlers(c *cluster.Cluster) []error {
	var errs []error
	for i, handler := range c.RuntimeHandlers {
		field := fmt.Sprintf("runtimeHandlers[%d].path", i)
		info, err := os.Stat(handler.Path)
		switch {
		case err != nil:
			errs = append(errs, &Refusal{Field: field, Err: err, Help: "install the runtime first, or name where it is"})
		case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
			errs = append(errs, &Refusal{Field: field, Err: fmt.Errorf("%s is not a program", handler.Path), Help: "name an OCI runtime's program, for example /usr/bin/crun"})
		}
	}
	return errs
}

// checkPropagation refuses a propagation that the mount below the host's path
// does not give: the kernel would silently propagate nothing.
func checkPropagation(field string, m cluster.Mount) error {
	if propagation[m.Propagation] == "" {
		return nil
	}
	mount, options, err := mountOf(m.HostPath)
	if err != nil {
		return nil // the missing path is an error of its own
	}
	shared := slices.ContainsFunc(options, func(o string) bool { return hasTag(o, "shared") })
	slave := slices.ContainsFunc(options, func(o string) bool { return hasTag(o, "master") })
	if shared || (slave && m.Propagation == "HostToContainer") {
		return nil
	}
	return &Refusal{Field: field + ".propagation", Err: fmt.Errorf("%s: %s is mounted on %s, which is not a shared mount", m.Propagation, m.HostPath, mount),
		Help: "mount --make-rshared " + mount}
}
