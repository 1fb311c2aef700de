package e2e

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// pullers is a config of two nodes; the blanks are the last number of the network and
// the directory with the registry's address.
const pullers = `
kind: Cluster
apiVersion: skiff.cluster/v1alpha1
networking: {nodeSubnet: 172.30.%d.0/24}
nodes:
- &node
  role: control-plane
  extraMounts: [{hostPath: %s, containerPath: /etc/containerd/certs.d, readOnly: true}]
- <<: *node
  role: worker
`

const everywhere = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations: [{operator: Exists}]
      containers: [{name: c, image: "registry.test/app:1", imagePullPolicy: Always}]
`

// blobs is a registry that counts what is fetched of each blob, and who asks
// for manifests.
type blobs struct {
	http.Handler
	mu      sync.Mutex
	fetched map[string]int
	asked   map[string]bool
}

func (b *blobs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	if _, digest, ok := strings.Cut(r.URL.Path, "/blobs/"); ok && r.Method == http.MethodGet {
		b.fetched[digest]++
	}
	if strings.Contains(r.URL.Path, "/manifests/") {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		b.asked[host] = true
	}
	b.mu.Unlock()
	b.Handler.ServeHTTP(w, r)
}

func push(to string, image v1.Image) {
	GinkgoHelper()
	ref, err := name.ParseReference(to, name.Insecure)
	Expect(err).NotTo(HaveOccurred())
	Expect(remote.Write(ref, image)).To(Succeed())
}

// whyNotKept is what the supervisors say of images that they did not keep.
func whyNotKept() string {
	var said []string
	logs, _ := filepath.Glob("/var/lib/skiff/clusters/pull9*/logs/supervisor.log")
	for _, file := range logs {
		log, _ := os.ReadFile(file)
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, "keep") || strings.Contains(line, "kept") {
				said = append(said, line)
			}
		}
	}
	return strings.Join(said, "")
}

var _ = Describe("an image in a registry", func() {
	It("is downloaded once for all nodes and clusters of the host, and asked for by each", func() {
		certs := GinkgoT().TempDir()
		counted := &blobs{
			Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))),
			fetched: map[string]int{}, asked: map[string]bool{},
		}
		layer, err := random.Layer(1<<20, types.DockerLayer)
		Expect(err).NotTo(HaveOccurred())
		digest, err := layer.Digest()
		Expect(err).NotTo(HaveOccurred())
		pause, err := name.NewTag("registry.k8s.io/pause:3.10.2")
		Expect(err).NotTo(HaveOccurred())
		image, err := tarball.ImageFromPath(filepath.Join(root, "_output/images.tar"), &pause)
		Expect(err).NotTo(HaveOccurred())
		image, err = mutate.AppendLayers(image, layer)
		Expect(err).NotTo(HaveOccurred())
		config, err := image.ConfigName()
		Expect(err).NotTo(HaveOccurred())
		for subnet := 91; subnet <= 92; subnet++ {
			c, r := create(fmt.Sprint("pull", subnet), fmt.Sprintf(pullers, subnet, certs))
			DeferCleanup(func() { c.delete().must() })
			r.must()
			// The second address of a node subnet is the host's.
			l, err := net.Listen("tcp", fmt.Sprintf("172.30.%d.2:0", subnet))
			Expect(err).NotTo(HaveOccurred())
			server := &http.Server{Handler: counted, ReadHeaderTimeout: time.Minute}
			go server.Serve(l)
			DeferCleanup(server.Close)
			push(l.Addr().String()+"/app:1", image)
			hosts := filepath.Join(certs, "registry.test", "hosts.toml")
			Expect(os.MkdirAll(filepath.Dir(hosts), 0o755)).To(Succeed())
			Expect(os.WriteFile(hosts, fmt.Appendf(nil, "[host.%q]\n", "http://"+l.Addr().String()), 0o644)).To(Succeed())

			c.apply(everywhere).must()
			c.kubectl("rollout", "status", "daemonset/everywhere", "--timeout=60s").must()
		}
		counted.mu.Lock()
		defer counted.mu.Unlock()
		for _, node := range []string{"172.30.91.10", "172.30.91.11", "172.30.92.10", "172.30.92.11"} {
			Expect(counted.asked).To(HaveKey(node), "who asked for the manifest")
		}
		// The layer of the pause image is there: it was loaded.
		Expect(counted.fetched).To(Equal(map[string]int{config.String(): 1, digest.String(): 1}), whyNotKept)
	})
})
