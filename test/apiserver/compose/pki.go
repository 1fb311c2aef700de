package compose

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/skiff-k8s/skiff/hostnode/pki"
)

const (
	nodeName  = "test-control-plane"
	dnsDomain = "cluster.local"
)

// certificates makes the cluster's files in dir and beside it an admin
// kubeconfig, whose path it returns.
func certificates(dir string, address *net.TCPAddr, node netip.Addr, services []netip.Prefix) (string, error) {
	var first []netip.Addr
	for _, p := range services {
		first = append(first, p.Addr().Next())
	}
	for _, d := range []string{dir, filepath.Join(dir, "ca")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return "", err
		}
	}
	admin, err := pki.Ensure(pki.Config{
		Dir:        filepath.Join(dir, "ca"),
		Nodes:      []pki.Node{{Name: nodeName, IPs: []netip.Addr{node}, ControlPlane: true, Dir: dir}},
		DNSDomain:  dnsDomain,
		ServiceIPs: first,
	})
	if err != nil {
		return "", err
	}

	const name = "test"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{
		Server:                   "https://" + address.String(),
		CertificateAuthorityData: admin.CA,
	}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: admin.Cert, ClientKeyData: admin.Key}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	kubeconfig := filepath.Join(filepath.Dir(dir), "kubeconfig")
	return kubeconfig, clientcmd.WriteToFile(*config, kubeconfig)
}
