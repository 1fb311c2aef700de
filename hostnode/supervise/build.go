package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/pki"
)

// machineDirs are the directories of a new machine, below its own.
var machineDirs = []string{
	"etc/pki", "kubernetes/manifests",
	"cni/net.d", "cni/bin", "var/cache", "var/lib/containerd", "var/lib/etcd", "var/lib/kubelet",
	"var/lib/skiff/images", "var/lib/skiff/volumes", "var/log/skiff", "var/spool", "var/tmp",
}

// announce starts the cluster's directory aside: its ranges are taken from
// now on, and a delete of the half-made cluster knows them.
func (p Paths) announce(rec *record) error {
	if err := writeJSON(filepath.Join(p.aside(rec.Cluster.Name), "cluster.json"), rec); err != nil {
		return fmt.Errorf("build cluster directory: %w", err)
	}
	return nil
}

// build completes the cluster's directory, lays its cables meanwhile, and
// publishes it.
func (p Paths) build(ctx context.Context, rec *record, h host, from *origin) error {
	name := rec.Cluster.Name
	dir := p.aside(name)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := p.fill(ctx, dir, rec, h, from); err != nil {
			return fmt.Errorf("build cluster directory: %w", err)
		}
		return nil
	})
	g.Go(func() error { return p.lay(ctx, rec) })
	if err := g.Wait(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(p.wanted(name))), nil, 0o600); err != nil {
		return fmt.Errorf("build cluster directory: %w", err)
	}
	if err := os.Rename(dir, p.Cluster(name)); err != nil {
		return fmt.Errorf("publish cluster directory: %w", err)
	}
	return nil
}

// lay makes the cables that the supervisor will find.
func (p Paths) lay(ctx context.Context, rec *record) error {
	f, err := p.newFabric(rec)
	if err != nil {
		return err
	}
	if err := f.EnsureSwitch(ctx); err != nil {
		return fmt.Errorf("make switch: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range rec.Machines {
		g.Go(func() error { return f.EnsureNode(ctx, m.Name) })
	}
	return g.Wait()
}

func (p Paths) fill(ctx context.Context, dir string, rec *record, h host, from *origin) error {
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	for _, d := range []string{volumesDir(dir), p.Images()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for i, m := range rec.Machines {
		if err := fillMachine(dir, rec, i, h); err != nil {
			return fmt.Errorf("machine %s: %w", m.Name, err)
		}
	}
	if from != nil {
		if err := p.fillFrom(ctx, dir, rec, from); err != nil {
			return err
		}
	}
	return ensureCredentials(dir, rec)
}

// ensureCredentials makes the certificates and the kubeconfigs, or mends those
// of an old cluster: a start does so, and a supervisor long before the old ones
// expire.
func ensureCredentials(dir string, rec *record) error {
	return ensureCredentialsAt(dir, rec, time.Now())
}

func ensureCredentialsAt(dir string, rec *record, now time.Time) error {
	cfg, err := pkiConfig(dir, rec)
	if err != nil {
		return err
	}
	cfg.Now = now
	// A start, a supervisor and its renewals may meet here.
	unlock, err := lockDirectory(dir)
	if err != nil {
		return err
	}
	defer unlock()
	admin, err := pki.Ensure(cfg)
	if err != nil {
		return err
	}
	internal := apiServerURL(rec)
	if len(rec.peers()) > 0 {
		// The Service leads to whichever lives.
		service, err := rec.serviceIPs(1)
		if err != nil {
			return err
		}
		internal = "https://" + joinPort(service[0].String(), 443)
	}
	files := map[string][]byte{
		"kubeconfig":          kubeconfig(rec, admin, "https://"+clientAddress(&rec.Cluster)),
		"kubeconfig-internal": kubeconfig(rec, admin, internal),
	}
	for _, m := range rec.Machines {
		if m.Role == cluster.ControlPlaneRole {
			// Where kubeadm puts it, for people on a control-plane machine.
			own := kubeconfig(rec, admin, "https://"+joinPort(m.IPs[0].String(), machine.APIServerPort))
			files[filepath.Join("machines", m.Name, "kubernetes", filepath.Base(adminFile))] = own
		}
	}
	for name, data := range files {
		path := filepath.Join(dir, name)
		if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
			continue
		}
		if err := writeFile(path, data); err != nil {
			return err
		}
	}
	return nil
}

// fillMachine makes the directories of a machine and writes its
// configuration.
func fillMachine(dir string, rec *record, i int, h host) error {
	name := rec.Machines[i].Name
	own := filepath.Join(dir, "machines", name)
	for _, d := range machineDirs {
		if err := os.MkdirAll(filepath.Join(own, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "logs", name), 0o755); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(filepath.Join(own, "var/tmp"), 0o777|os.ModeSticky), os.Chmod(filepath.Join(own, "etc"), 0o700)); err != nil {
		return err
	}
	for link, target := range map[string]string{"var/run": "/run", "var/lock": "/run/lock"} {
		if err := os.Symlink(target, filepath.Join(own, link)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := writeConfigurations(dir, rec, i, h); err != nil {
		return err
	}
	if rec.Machines[i].Role != cluster.ControlPlaneRole {
		return nil
	}
	return copyGiven(dir, rec, own)
}

// writeConfigurations writes what the machine's programs read, and limits its
// storage. A start does so again: the host may have changed since, and so may
// skiff.
func writeConfigurations(dir string, rec *record, i int, h host) error {
	own := filepath.Join(dir, "machines", rec.Machines[i].Name)
	plan, err := planMachine(rec, i, h)
	if err != nil {
		return err
	}
	if err := limitStorage(own, rec, i, plan.node.EphemeralStorageBytes); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(own, "etc", filepath.Base(machine.NodeConfigFile)), plan.node); err != nil {
		return err
	}
	if plan.controlPlane == nil {
		return nil
	}
	plan.controlPlane.EtcdJoin = memberLost(dir, rec, i)
	return writeJSON(filepath.Join(own, "etc", filepath.Base(machine.ControlPlaneConfigFile)), plan.controlPlane)
}

// copyGiven copies files of the user's that the control plane reads.
func copyGiven(dir string, rec *record, own string) error {
	c := &rec.Cluster
	files := map[string]string{auditPolicyFile: c.AuditPolicy}
	if c.EtcdTLS != nil {
		files[etcdCAFile], files[etcdCertFile], files[etcdKeyFile] = c.EtcdTLS.CAFile, c.EtcdTLS.CertFile, c.EtcdTLS.KeyFile
	}
	for inMachine, onHost := range files {
		if onHost == "" {
			continue
		}
		rel, err := filepath.Rel(machine.EtcDir, inMachine)
		if err != nil {
			return err
		}
		data, err := readGiven(dir, rec, rel, onHost)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(own, "etc", rel), data); err != nil {
			return err
		}
	}
	return nil
}

// readGiven reads the copy that another control plane has, else the user's
// file: a machine that is made anew is as the others, whatever has become of
// that since.
func readGiven(dir string, rec *record, rel, onHost string) ([]byte, error) {
	for _, m := range rec.controlPlanes() {
		data, err := os.ReadFile(filepath.Join(dir, "machines", m.Name, "etc", rel))
		if !errors.Is(err, os.ErrNotExist) {
			return data, err
		}
	}
	return os.ReadFile(onHost)
}

// pkiConfig names everybody who needs a certificate.
func pkiConfig(dir string, rec *record) (pki.Config, error) {
	serviceIPs, err := rec.serviceIPs(1)
	if err != nil {
		return pki.Config{}, err
	}
	cfg := pki.Config{
		Dir: filepath.Join(dir, "pki"), DNSDomain: dnsDomain, ServiceIPs: serviceIPs,
		APIServerNames: serverNames(rec.Cluster.Networking.APIServerAddress),
	}
	for _, m := range rec.Machines {
		cfg.Nodes = append(cfg.Nodes, pki.Node{
			Name: m.Name, IPs: m.IPs, ControlPlane: m.Role == cluster.ControlPlaneRole,
			Dir: filepath.Join(dir, "machines", m.Name, "etc/pki"),
		})
	}
	return cfg, nil
}

// clusterDevices is how the names of package fabric's devices on the host
// start.
const clusterDevices = "skf"

// serverNames are the names by which clients reach the API server through the
// host: its address, or, when it listens on all, every one of them.
func serverNames(address string) []string {
	ip := net.ParseIP(address)
	if ip == nil || !ip.IsUnspecified() {
		return []string{address}
	}
	var names []string
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	links, _ := net.Interfaces()
	for _, link := range links {
		if strings.HasPrefix(link.Name, clusterDevices) {
			continue // clusters' own, not for clients
		}
		addresses, _ := link.Addrs()
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				names = append(names, n.IP.String())
			}
		}
	}
	return names
}
