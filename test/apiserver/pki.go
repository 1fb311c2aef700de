package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

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
func certificates(dir string, address *net.TCPAddr, nodeIP, serviceCIDR string) (string, error) {
	serviceCIDR, _, _ = strings.Cut(serviceCIDR, ",") // the second is of the other family
	first, _, err := net.ParseCIDR(serviceCIDR)
	if err != nil {
		return "", fmt.Errorf("service range: %w", err)
	}
	first = first.To4()
	first[3]++
	for _, d := range []string{dir, filepath.Join(dir, "ca")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return "", err
		}
	}
	admin, err := pki.Ensure(pki.Config{
		Dir:       filepath.Join(dir, "ca"),
		Nodes:     []pki.Node{{Name: nodeName, IP: net.ParseIP(nodeIP), ControlPlane: true, Dir: dir}},
		DNSDomain: dnsDomain,
		ServiceIP: first,
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
