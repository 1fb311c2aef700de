package e2e

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
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
		for _, name := range []string{"ca", "front-proxy-ca", "etcd-peer-ca"} {
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

// nodeClients has the audit log tell who the clients in nodes are.
const nodeClients = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["system:nodes"]}
- {level: Metadata, users: ["system:kube-proxy"]}
- {level: None}
`

// credential is a client certificate as the API server saw it.
type credential struct{ user, id string }

// credentials are those of all requests since a time that were answered.
func (c cluster) credentials(since time.Time) map[credential]int {
	GinkgoHelper()
	seen := map[credential]int{}
	logs, err := filepath.Glob(filepath.Join("/var/lib/skiff/clusters", c.name, "logs/*/audit.log"))
	Expect(err).NotTo(HaveOccurred())
	for _, log := range logs {
		raw, err := os.ReadFile(log)
		Expect(err).NotTo(HaveOccurred())
		for line := range strings.Lines(string(raw)) {
			var event auditv1.Event
			if json.Unmarshal([]byte(line), &event) != nil {
				continue // it is being written
			}
			ids := event.User.Extra["authentication.kubernetes.io/credential-id"]
			if event.RequestReceivedTimestamp.After(since) && len(ids) == 1 && event.ResponseStatus != nil && event.ResponseStatus.Code < 400 {
				seen[credential{event.User.Username, ids[0]}]++
			}
		}
	}
	return seen
}

// credentialsOf are those that a cluster's nodes should use now.
func (c cluster) credentialsOf() []credential {
	GinkgoHelper()
	var all []credential
	for _, name := range []string{"kubelet-client", "dataplane-client"} {
		files, err := filepath.Glob(filepath.Join("/var/lib/skiff/clusters", c.name, "machines/*/etc/pki", name+".crt"))
		Expect(err).NotTo(HaveOccurred())
		Expect(files).NotTo(BeEmpty(), name)
		for _, file := range files {
			cert := readCertificate(file)
			all = append(all, credential{cert.Subject.CommonName, fmt.Sprintf("X509SHA256=%x", sha256.Sum256(cert.Raw))})
		}
	}
	return all
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
		// By the API server's certificate to the kubelet, and the kubelet's own. A
		// client that notices a new one closes its connections, this one perhaps.
		Eventually(func() string { r := c.kubectl("exec", "works", "--", "true"); return r.out + r.errOut }).Should(BeEmpty())
	}
	BeforeAll(func() {
		policy := filepath.Join(GinkgoT().TempDir(), "audit.yaml")
		Expect(os.WriteFile(policy, []byte(nodeClients), 0o644)).To(Succeed())
		var r result
		c, r = create("aged", "kind: Cluster\napiVersion: skiff.cluster/v1alpha1\nauditPolicy: "+policy+
			"\nnodes: [{role: control-plane}, {role: control-plane}, {role: control-plane}]\n")
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
		since := time.Now()
		c.age(time.Now().Add(-24*time.Hour), time.Now().Add(5*time.Minute))
		Eventually(c.ends(month)).Should(BeEmpty())
		addresses := []string{endpoint()}
		for _, node := range c.controlPlanes() {
			for _, port := range []string{"6443", "10250", "2379", "2380"} { // etcd's for clients and for peers
				addresses = append(addresses, net.JoinHostPort(node.IP, port))
			}
		}
		for _, address := range addresses {
			Eventually(served(address)).Should(BeTemporally(">", month), address)
		}
		raw, err := os.ReadFile(filepath.Join("/var/lib/skiff/clusters", c.name, "kubeconfig"))
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() ([]byte, error) { return os.ReadFile(c.kubeconfig) }).Should(
			WithTransform(func(b []byte) string { return credentialOf(b) }, Equal(credentialOf(raw))), "the user's kubeconfig follows")
		works()
		// The clients in the nodes turn to the new ones, on all connections.
		want := c.credentialsOf()
		Eventually(func() map[credential]int { return c.credentials(since) }).WithTimeout(time.Minute).Should(SatisfyAll(haveAll(want)...))
		since = time.Now()
		works()
		Expect(keysOf(c.credentials(since))).To(HaveEach(BeElementOf(want)))
		Expect(c.find("skiff-machine", "")).To(ConsistOf(pids), "no process was restarted")
	})

	It("of etcd's members are in use between them after the old ones", func() {
		dead := c.holder("kube-scheduler")
		skiff("kill", "node", dead, "--name", c.name).must()
		c.writes("after-kill")
		c.served()
	})
})

// haveAll wants every credential among those that were seen.
func haveAll(want []credential) (all []types.GomegaMatcher) {
	for _, w := range want {
		all = append(all, HaveKey(w))
	}
	return all
}

func keysOf(seen map[credential]int) []credential { return slices.Collect(maps.Keys(seen)) }

// credentialOf is the line with the client certificate.
func credentialOf(kubeconfig []byte) string {
	for line := range strings.Lines(string(kubeconfig)) {
		if _, value, ok := strings.Cut(line, "client-certificate-data: "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
