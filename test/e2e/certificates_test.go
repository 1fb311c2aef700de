package e2e

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// readCertificate reads a PEM file.
func readCertificate(path string) *x509.Certificate {
	GinkgoHelper()
	raw, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	block, _ := pem.Decode(raw)
	Expect(block).NotTo(BeNil(), path)
	cert, err := x509.ParseCertificate(block.Bytes)
	Expect(err).NotTo(HaveOccurred())
	return cert
}

// leaves are the files of all certificates of a cluster but its authorities'.
func leaves(c cluster) []string {
	GinkgoHelper()
	dir := filepath.Join("/var/lib/skiff/clusters", c.name)
	var files []string
	for _, pattern := range []string{"pki/*.crt", "machines/*/etc/pki/*.crt"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		Expect(err).NotTo(HaveOccurred())
		for _, file := range found {
			if !readCertificate(file).IsCA {
				files = append(files, file)
			}
		}
	}
	return files
}

// age gives every leaf certificate other times, by its own authority.
func (c cluster) age(from, until time.Time) {
	GinkgoHelper()
	dir := filepath.Join("/var/lib/skiff/clusters", c.name, "pki")
	for _, file := range leaves(c) {
		cert := readCertificate(file)
		for _, name := range []string{"ca", "front-proxy-ca"} {
			ca := readCertificate(filepath.Join(dir, name+".crt"))
			if cert.CheckSignatureFrom(ca) != nil {
				continue
			}
			raw, err := os.ReadFile(filepath.Join(dir, name+".key"))
			Expect(err).NotTo(HaveOccurred())
			block, _ := pem.Decode(raw)
			key, err := x509.ParseECPrivateKey(block.Bytes)
			Expect(err).NotTo(HaveOccurred())
			cert.NotBefore, cert.NotAfter = from, until
			der, err := x509.CreateCertificate(rand.Reader, cert, ca, cert.PublicKey, key)
			Expect(err).NotTo(HaveOccurred())
			Expect(os.WriteFile(file+".aged", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)).To(Succeed())
			Expect(os.Rename(file+".aged", file)).To(Succeed())
			break
		}
	}
}

// ends are the ends of all leaf certificates that come before a time.
func (c cluster) ends(before time.Time) func() []string {
	return func() (early []string) {
		for _, file := range leaves(c) {
			if end := readCertificate(file).NotAfter; end.Before(before) {
				early = append(early, file+" ends "+end.String())
			}
		}
		return early
	}
}

// served is the end of the certificate that somebody shows.
func served(address string) func() (time.Time, error) {
	return func() (time.Time, error) {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}) // whatever it shows
		if err != nil {
			return time.Time{}, err
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].NotAfter, nil
	}
}

var _ = Describe("certificates", Ordered, func() {
	var c cluster
	month := time.Now().Add(30 * 24 * time.Hour)
	endpoint := func() string {
		GinkgoHelper()
		return strings.TrimPrefix(c.kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}").must(), "https://")
	}
	works := func() {
		GinkgoHelper()
		c.kubectl("get", "nodes").must()
		c.kubectl("delete", "pod", "works", "--ignore-not-found", "--now").must()
		c.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: works}\nspec: {containers: [{name: c, image: registry.k8s.io/e2e-test-images/agnhost:2.66.1, args: [pause]}]}").must()
		c.kubectl("wait", "pod/works", "--for=condition=Ready", "--timeout=20s").must()
		// By the API server's certificate to the kubelet, and the kubelet's own.
		c.kubectl("exec", "works", "--", "true").must()
	}
	BeforeAll(func() {
		var r result
		c, r = create("aged", "")
		DeferCleanup(c.delete)
		r.must()
	})

	It("that ended long ago are renewed by a start, and the kubeconfig with them", func() {
		skiff("stop", "cluster", "--name", c.name).must()
		c.age(time.Now().Add(-2*365*24*time.Hour), time.Now().Add(-365*24*time.Hour))
		// The user's file has what was right then.
		admin, err := os.ReadFile(filepath.Join("/var/lib/skiff/clusters", c.name, "pki/admin.crt"))
		Expect(err).NotTo(HaveOccurred())
		Expect(os.WriteFile(c.kubeconfig+".crt", admin, 0o600)).To(Succeed())
		defer os.Remove(c.kubeconfig + ".crt")
		c.kubectl("config", "set-credentials", "skiff-aged", "--embed-certs", "--client-certificate", c.kubeconfig+".crt").must()

		skiff("start", "cluster", "--name", c.name).must()
		Expect(c.ends(month)()).To(BeEmpty())
		works()
	})

	It("that end soon are replaced while the cluster runs", func() {
		pids := c.find("skiff-machine", "")
		Expect(pids).NotTo(BeEmpty())
		c.age(time.Now().Add(-24*time.Hour), time.Now().Add(5*time.Minute))
		Eventually(c.ends(month)).Should(BeEmpty())
		for _, address := range []string{endpoint(), c.get("nodes", `{.items[0].status.addresses[0].address}`) + ":10250"} {
			Eventually(served(address)).Should(BeTemporally(">", month), address)
		}
		raw, err := os.ReadFile(filepath.Join("/var/lib/skiff/clusters", c.name, "kubeconfig"))
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() ([]byte, error) { return os.ReadFile(c.kubeconfig) }).Should(
			WithTransform(func(b []byte) string { return credentialOf(b) }, Equal(credentialOf(raw))), "the user's kubeconfig follows")
		works()
		Expect(c.find("skiff-machine", "")).To(ConsistOf(pids), "no process was restarted")
	})
})

// credentialOf is the line with the client certificate.
func credentialOf(kubeconfig []byte) string {
	for line := range strings.Lines(string(kubeconfig)) {
		if _, value, ok := strings.Cut(line, "client-certificate-data: "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
