//go:build robustness

package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/test/leftovers"
)

const (
	// keepers are Pods that live through all kills.
	keepers = 6
	// churners are how many other Pods come and go at once.
	churners = 4
)

// step is a moment of a Pod's start or stop that shows on the node: an entry
// appears or vanishes.
type step struct {
	pattern string
	kind    string
}

var _ = Describe("the process of a node", Ordered, ContinueOnFailure, Label("kills"), func() {
	var (
		n        *node
		client   *kubernetes.Clientset
		w        *witness
		baseline []string
	)
	BeforeAll(func(ctx context.Context) {
		c := create("robust-k", Topology{ControlPlanes: 1, Workers: 1}, "ephemeral")
		_, err := skiff("", "load", "image-archive", "../../_output/images-robustness.tar", "--name", c.name)
		Expect(err).NotTo(HaveOccurred())
		client, _, err = c.client()
		Expect(err).NotTo(HaveOccurred())
		n = c.node(c.numbered("worker", 1)[0])
		Expect(podWorld(ctx, client)).To(Succeed())
		watching, end := context.WithCancel(context.Background())
		DeferCleanup(end)
		w, err = newWitness(watching, client, podNamespace)
		Expect(err).NotTo(HaveOccurred())
		// What the first Pod of a kind makes for all that come: images, cgroups of
		// the classes, the shim.
		for kind := range kinds {
			Expect(w.live(ctx, client, podOf(kind, fmt.Sprintf("first-%d", kind), n.name), 0)).To(Succeed())
		}
		baseline = n.quiet(ctx)
	})
	AfterEach(func(ctx context.Context) {
		if CurrentSpecReport().Failed() {
			// What it left is not the next one's.
			Expect(client.CoreV1().Pods(podNamespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}, metav1.ListOptions{})).To(Succeed())
		}
		Expect(w.violations()).To(BeEmpty(), "containers that ran and were lost")
		Expect(n.leaks(ctx, baseline)).To(BeEmpty())
	})

	It("killed at random leaves running containers alone, makes none twice, and leaks nothing", func(ctx context.Context) {
		draw := rand.New(rand.NewPCG(settings.seed, 1))
		GinkgoWriter.Printf("seed %d\n", settings.seed)
		kept := map[string]map[string]string{}
		for i := range keepers {
			name := fmt.Sprintf("keeper-%d", i)
			Expect(createPod(ctx, client, podOf(i%3, name, n.name))).To(Succeed())
			Expect(w.until(ctx, name, "running", started)).To(Succeed())
			kept[name] = w.containers(name)
		}
		processes := n.processesOf(kept)
		stop := w.churn(ctx, client, n.name, churners, settings.seed)
		for range settings.kills {
			n.rest(ctx)
			sleep(ctx, time.Duration(draw.IntN(1200))*time.Millisecond)
			Expect(n.kill()).To(Succeed())
			Eventually(n.duplicates).WithContext(ctx).Should(BeEmpty())
		}
		lives, err := stop()
		Expect(err).NotTo(HaveOccurred())
		AddReportEntry(fmt.Sprintf("%d kills during the lives of %d Pods", settings.kills, lives))
		for name, containers := range kept {
			Expect(w.containers(name)).To(Equal(containers), name)
		}
		Expect(n.processesOf(kept)).To(Equal(processes))
		for name := range kept {
			Expect(client.CoreV1().Pods(podNamespace).Delete(ctx, name, metav1.DeleteOptions{})).To(Succeed())
			Expect(w.until(ctx, name, "gone", absent)).To(Succeed())
		}
	})

	const (
		state = machinev1alpha1.ContainerdState
		root  = machinev1alpha1.ContainerdRoot
	)
	DescribeTable("killed while a Pod starts, finishes the start", Label("steps"),
		func(ctx context.Context, s step) {
			p := podOf(kindOf(s.kind), "starts", n.name)
			n.rest(ctx)
			before := n.entries(s.pattern)
			Expect(createPod(ctx, client, p)).To(Succeed())
			n.until(ctx, func() bool { return len(leftovers.Added(before, n.entries(s.pattern))) > 0 })
			Expect(n.kill()).To(Succeed())
			Expect(w.until(ctx, p.Name, "running", started)).To(Succeed())
			Eventually(n.duplicates).WithContext(ctx).Should(BeEmpty())
			Expect(client.CoreV1().Pods(podNamespace).Delete(ctx, p.Name, metav1.DeleteOptions{})).To(Succeed())
			Expect(w.until(ctx, p.Name, "gone", absent)).To(Succeed())
		},
		Entry("volumes are made", step{machinev1alpha1.KubeletDir + "/pods/*/volumes/*/*", "volumes"}),
		Entry("its network namespace is made", step{state + "/io.containerd.grpc.v1.cri/netns/*", "plain"}),
		Entry("its address is reserved", step{machinev1alpha1.RunDir + "/cni/*.json", "plain"}),
		Entry("its sandbox has files", step{state + "/io.containerd.sandbox.controller.v1.skiff/*", "plain"}),
		Entry("its sandbox is on record", step{state + "/io.containerd.sandbox.controller.v1.skiff/*/state.json", "shared-pids"}),
		Entry("a container has a directory", step{root + "/io.containerd.grpc.v1.cri/containers/*", "plain"}),
		Entry("a container is on record", step{root + "/io.containerd.grpc.v1.cri/containers/*/status", "several"}),
		Entry("a container has a bundle", step{state + "/io.containerd.runtime.v2.task/k8s.io/*", "plain"}),
		Entry("a container's root is mounted", step{state + "/io.containerd.runtime.v2.task/k8s.io/*/rootfs/*", "volumes"}),
		Entry("runc begins", step{state + "/runc/k8s.io/*", "plain"}),
		Entry("a container is created", step{state + "/runc/k8s.io/*/state.json", "plain"}),
		Entry("a container's process is known", step{state + "/io.containerd.runtime.v2.task/k8s.io/*/init.pid", "several"}),
		Entry("a container writes its log", step{"/var/log/pods/*/*/0.log", "plain"}),
	)

	DescribeTable("killed while a Pod stops, finishes the stop", Label("steps"),
		func(ctx context.Context, s step) {
			p := podOf(kindOf(s.kind), "stops", n.name)
			n.rest(ctx)
			before := n.entries(s.pattern)
			Expect(createPod(ctx, client, p)).To(Succeed())
			Expect(w.until(ctx, p.Name, "running", started)).To(Succeed())
			own := leftovers.Added(before, n.entries(s.pattern))
			Expect(client.CoreV1().Pods(podNamespace).Delete(ctx, p.Name, metav1.DeleteOptions{})).To(Succeed())
			if s.pattern != "" {
				Expect(own).NotTo(BeEmpty(), s.pattern)
				n.until(ctx, func() bool { return len(leftovers.Added(n.entries(s.pattern), own)) > 0 })
			}
			Expect(n.kill()).To(Succeed())
			Expect(w.until(ctx, p.Name, "gone", absent)).To(Succeed())
		},
		Entry("it is asked to", step{"", "plain"}),
		Entry("a container is deaf", step{"", "deaf"}),
		Entry("a hook runs", step{"", "shared-pids"}),
		Entry("a container has ended", step{state + "/runc/k8s.io/*", "plain"}),
		Entry("a container's bundle is gone", step{state + "/io.containerd.runtime.v2.task/k8s.io/*", "several"}),
		Entry("its address is free", step{machinev1alpha1.RunDir + "/cni/*.json", "plain"}),
		Entry("its network namespace is gone", step{state + "/io.containerd.grpc.v1.cri/netns/*", "plain"}),
		Entry("a container's directory is gone", step{root + "/io.containerd.grpc.v1.cri/containers/*", "volumes"}),
		Entry("its volumes are gone", step{machinev1alpha1.KubeletDir + "/pods/*/volumes/*/*", "volumes"}),
		Entry("its directory is gone", step{machinev1alpha1.KubeletDir + "/pods/*", "volumes"}),
	)
})

// entries of the machine's file system that match.
func (n *node) entries(pattern string) []string {
	if pattern == "" {
		return nil
	}
	all, err := filepath.Glob(n.at(pattern))
	Expect(err).NotTo(HaveOccurred())
	return all
}

// until something shows, looked for without a pause: the next step is a
// millisecond away.
func (n *node) until(ctx context.Context, shows func() bool) {
	for deadline := time.Now().Add(recoveryBound); !shows(); {
		Expect(ctx.Err()).NotTo(HaveOccurred())
		Expect(time.Now().Before(deadline)).To(BeTrue(), "the step is never seen")
	}
}

// quiet waits until nothing changes on the node, and returns what is there.
func (n *node) quiet(ctx context.Context) (all []string) {
	Eventually(func() error {
		if err := n.tidy(ctx); err != nil {
			return err
		}
		before, err := n.remains()
		if err != nil {
			return err
		}
		sleep(ctx, time.Second)
		if all, err = n.remains(); err != nil {
			return err
		}
		if !slices.Equal(before, all) {
			return fmt.Errorf("it changes: %v, %v", leftovers.Added(before, all), leftovers.Added(all, before))
		}
		return nil
	}).Should(Succeed())
	return all
}

// leaks are what is more than there was, once the node had time to clean up.
func (n *node) leaks(ctx context.Context, baseline []string) (more []string) {
	for deadline := time.Now().Add(recoveryBound); time.Now().Before(deadline); sleep(ctx, 100*time.Millisecond) {
		if err := n.tidy(ctx); err != nil {
			more = []string{err.Error()}
			continue
		}
		now, err := n.remains()
		if err != nil {
			more = []string{err.Error()}
			continue
		}
		if more = leftovers.Added(baseline, now); len(more) == 0 {
			return nil
		}
	}
	return more
}

// processesOf lists the processes of containers, which a cgroup of the
// container's name holds.
func (n *node) processesOf(pods map[string]map[string]string) (pids []int) {
	for _, p := range n.c.processes() {
		cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
		if err != nil {
			continue // it ended meanwhile
		}
		for _, containers := range pods {
			for _, id := range containers {
				if strings.Contains(string(cgroup), strings.TrimPrefix(id, "containerd://")) {
					pids = append(pids, p.PID)
				}
			}
		}
	}
	slices.Sort(pids)
	return pids
}
