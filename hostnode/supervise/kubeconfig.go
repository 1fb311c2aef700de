package supervise

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/pki"
)

// Kubeconfig is the admin's kubeconfig, context skiff-<name>: for the host,
// or with the address on the cluster's own network if internal is set.
func Kubeconfig(name string, internal bool) ([]byte, error) {
	p, err := DefaultPaths()
	if err != nil {
		return nil, err
	}
	if _, err := p.readRecord(name); err != nil {
		return nil, err
	}
	path := p.Kubeconfig(name)
	if internal {
		path += "-internal"
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig of cluster %q: %w", name, err)
	}
	return data, nil
}

func kubeconfig(rec *record, admin *pki.Admin, server string) []byte {
	name := "skiff-" + rec.Cluster.Name
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: %[1]s
  cluster:
    server: %[2]s
    certificate-authority-data: %[3]s
users:
- name: %[1]s
  user:
    client-certificate-data: %[4]s
    client-key-data: %[5]s
contexts:
- name: %[1]s
  context:
    cluster: %[1]s
    user: %[1]s
current-context: %[1]s
`, name, server, b64(admin.CA), b64(admin.Cert), b64(admin.Key))
}

// clientAddress is where clients on the host call the API server.
func clientAddress(c *cluster.Cluster) string {
	address := c.Networking.APIServerAddress
	if ip, err := netip.ParseAddr(address); err == nil && ip.IsUnspecified() {
		address = "127.0.0.1"
		if ip.Is6() {
			address = "::1"
		}
	}
	return joinPort(address, c.Networking.APIServerPort)
}
