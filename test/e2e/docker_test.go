package e2e

import (
	"context"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/skiff-k8s/skiff/test/images/dockerd"
)

var _ = Describe("a Docker daemon on the host", func() {
	It("hands over several images at once, as kind's scripts ask", func() {
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		host, err := dockerd.Serve(ctx, filepath.Join(GinkgoT().TempDir(), "s"), "docker-a:v1", "registry.example/docker-b:v2", "docker-c:v3")
		Expect(err).NotTo(HaveOccurred())
		Expect(os.Setenv("DOCKER_HOST", host)).To(Succeed())
		DeferCleanup(os.Unsetenv, "DOCKER_HOST")

		out := skiff("load", "docker-image", "docker-a:v1", "registry.example/docker-b:v2", "--name", shared.name, "--nodes", "e2e-worker,e2e-worker2").must()
		Expect(out).To(And(ContainSubstring("docker.io/library/docker-a:v1"), ContainSubstring("registry.example/docker-b:v2")))
		list := skiff("get", "images").must()
		Expect(list).To(And(ContainSubstring("docker.io/library/docker-a:v1"), ContainSubstring("registry.example/docker-b:v2")))
		Expect(list).NotTo(ContainSubstring("docker-c"))

		r := skiff("load", "docker-image", "docker-a:v1", "absent:v9")
		Expect(r.code).To(Equal(1))
		Expect(r.errOut).To(ContainSubstring(`image "absent:v9": no such image`))
	})
})
