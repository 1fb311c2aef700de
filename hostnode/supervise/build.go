package supervise

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/pki"
)

// machineDirs are the directories of a new machine, below its own.
var machineDirs = []string{
	"etc/pki", "kubernetes/manifests",
	"var/cache", "var/lib/containerd", "var/lib/etcd", "var/lib/kubelet",
	"var/lib/skiff/images", "var/lib/skiff/volumes", "var/log/skiff", "var/spool", "var/tmp",
}

// build makes the cluster's directory aside and publishes it.
func (p Paths) build(rec *record, h host) error {
	name := rec.Cluster.Name
	dir := p.aside(name)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove what an earlier create left: %w", err)
	}
	if err := p.fill(dir, rec, h); err != nil {
		return fmt.Errorf("build cluster directory: %w", err)
	}
	if err := os.Rename(dir, p.Cluster(name)); err != nil {
		return fmt.Errorf("publish cluster directory: %w", err)
	}
	return nil
}

func (p Paths) fill(dir string, rec *record, h host) error {
	// First, so that a delete knows the ranges of a half-made cluster.
	if err := writeJSON(filepath.Join(dir, "cluster.json"), rec); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	for _, d := range []string{filepath.Join(dir, "volumes"), p.Images()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for i, m := range rec.Machines {
		if err := fillMachine(dir, rec, i, h); err != nil {
			return fmt.Errorf("machine %s: %w", m.Name, err)
		}
	}
	admin, err := pki.Ensure(pkiConfig(dir, rec))
	if err != nil {
		return err
	}
	// The address on the host is what the owner of the cluster uses.
	external := kubeconfig(rec, admin, "https://"+clientAddress(&rec.Cluster))
	internal := kubeconfig(rec, admin, apiServerURL(rec))
	err = writeFile(filepath.Join(dir, "kubeconfig"), external, 0o600)
	return errors.Join(err, writeFile(filepath.Join(dir, "kubeconfig-internal"), internal, 0o600))
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
		if err := os.Symlink(target, filepath.Join(own, link)); err != nil {
			return err
		}
	}
	plan, err := planMachine(rec, i, h)
	if err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(own, "etc", filepath.Base(machine.NodeConfigFile)), plan.node); err != nil {
		return err
	}
	if plan.controlPlane == nil {
		return nil
	}
	if err := writeJSON(filepath.Join(own, "etc", filepath.Base(machine.ControlPlaneConfigFile)), plan.controlPlane); err != nil {
		return err
	}
	return copyGiven(&rec.Cluster, own)
}

// copyGiven copies files of the user's that the control plane reads.
func copyGiven(c *cluster.Cluster, own string) error {
	files := map[string]string{auditPolicyFile: c.AuditPolicy}
	if c.EtcdTLS != nil {
		files[etcdCAFile], files[etcdCertFile], files[etcdKeyFile] = c.EtcdTLS.CAFile, c.EtcdTLS.CertFile, c.EtcdTLS.KeyFile
	}
	for inMachine, onHost := range files {
		if onHost == "" {
			continue
		}
		data, err := os.ReadFile(onHost)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(machine.EtcDir, inMachine)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(own, "etc", rel), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// pkiConfig names everybody who needs a certificate.
func pkiConfig(dir string, rec *record) pki.Config {
	serviceIP, _ := nth(rec.Cluster.Networking.ServiceSubnet, 1) // planned before: it has one
	cfg := pki.Config{
		Dir: filepath.Join(dir, "pki"), DNSDomain: dnsDomain, ServiceIP: net.IP(serviceIP.AsSlice()),
		APIServerNames: []string{rec.Cluster.Networking.APIServerAddress},
	}
	for _, m := range rec.Machines {
		cfg.Nodes = append(cfg.Nodes, pki.Node{
			Name: m.Name, IP: net.IP(m.IP.AsSlice()), ControlPlane: m.Role == cluster.ControlPlaneRole,
			Dir: filepath.Join(dir, "machines", m.Name, "etc/pki"),
		})
	}
	return cfg
}
