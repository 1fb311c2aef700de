//go:build robustness

package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

const (
	// round is how long it takes to create and delete settings.rate Pods, the
	// last of them roundEnd before its end.
	round    = time.Minute
	roundEnd = 15 * time.Second
	// warmUp is how many Pods each worker has before samples count: a kubelet
	// here remembers the events of 1,024 objects, and upstream's native
	// histograms (KEP-5808, at most 160 buckets a series) get most of their
	// buckets by then. Both have bounds, and are most of what the heap grows by.
	warmUp = 1024
	// collection is how often the kubelet removes what has ended.
	collection = 2 * time.Minute
)

var _ = Describe("Pods that come and go", Label("churn"), func() {
	It("leave the processes and the machines as they were", func(ctx context.Context) {
		const workers = 2
		c := create("robust-c", Topology{ControlPlanes: 1, Workers: workers}, "ephemeral")
		_, err := skiff("", "load", "image-archive", "../../_output/images-robustness.tar", "--name", c.name)
		Expect(err).NotTo(HaveOccurred())
		client, _, err := c.client()
		Expect(err).NotTo(HaveOccurred())
		Expect(podWorld(ctx, client)).To(Succeed())
		w, err := newWitness(ctx, client, podNamespace)
		Expect(err).NotTo(HaveOccurred())

		f := &flatness{c: c, client: client}
		began, pods := time.Now(), 0
		for i := 0; time.Since(began) < settings.duration || len(f.samples) < 3*leastSamples; i++ {
			next := time.Now().Add(round)
			Expect(w.round(ctx, client, i)).To(Succeed())
			// Events live an hour, as upstream: a run of an hour would never be
			// as full at its beginning as at its end.
			Expect(client.CoreV1().Events(podNamespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})).To(Succeed())
			sleep(ctx, time.Until(next))
			Expect(ctx.Err()).NotTo(HaveOccurred())
			if pods += settings.rate; pods < warmUp*workers {
				continue
			}
			Expect(f.settle(ctx)).To(Succeed())
			sample, err := f.sample(ctx)
			Expect(err).NotTo(HaveOccurred())
			f.samples = append(f.samples, sample)
		}
		Expect(w.violations()).To(BeEmpty())
		trends := Trends(f.samples)
		text := fmt.Sprintf("%v, %d Pods; %d minutes count. %s\n\n%s", time.Since(began).Round(time.Second), pods, len(f.samples), machine(), Table(trends))
		GinkgoWriter.Println(text)
		if settings.report != "" {
			Expect(os.WriteFile(settings.report, []byte(churnHead+text), 0o644)).To(Succeed())
		}
		for _, t := range trends {
			Expect(t.Grew).To(BeFalse(), "%s of %s: %.4g in the first third, %.4g in the last", t.Name, t.Subject, t.First, t.Last)
		}
		// What the kubelet collects by and by is gone to the last entry.
		Eventually(func() (map[string]int, error) { return f.pods() }).WithTimeout(collection).WithPolling(time.Second).Should(HaveEach(BeZero()))
	})
})

const churnHead = `# Churn

Written by ` + "`make churn`" + `: Pods of seven kinds are created and deleted on a cluster
of three nodes, of which two take them; after each minute, when the last one is
gone and containerd has nothing of it any more, everything is counted, once each
of the two has had 1,024 Pods: caches with bounds are full then. Medians of the samples in the first and in the
last third of those. A count has grown if it is nowhere in the last third as
low as it was at its highest in the first, memory if its median is more than
5 % and 2 MB higher. Live is the heap after two collections of garbage. PSS is not
judged, as it depends on who else has the same pages; nor are threads, which Go
keeps.

`

// round is a minute's Pods; it ends when the last one is gone.
func (w *witness) round(ctx context.Context, client kubernetes.Interface, number int) error {
	draw := rand.New(rand.NewPCG(settings.seed, uint64(number)))
	var all sync.WaitGroup
	errs := make(chan error, settings.rate)
	for i := range settings.rate {
		pod, alive := podOf(draw.IntN(len(kinds)), fmt.Sprintf("churn-%d-%d", number, i), ""), time.Duration(draw.IntN(3000))*time.Millisecond
		all.Go(func() { errs <- w.live(ctx, client, pod, alive) })
		sleep(ctx, (round-roundEnd)/time.Duration(settings.rate))
	}
	all.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// flatness of a cluster: what it holds at quiet moments.
type flatness struct {
	c       *cluster
	client  *kubernetes.Clientset
	samples []map[Figure]float64
}

// programs by the word that finds them.
var programs = map[string]string{
	supervisorWord: "supervisor", watcherWord: "watcher", controlPlaneWord: "control plane", nodeWord: "node", shimWord: "shim", initWord: "init",
}

// settle removes what the kubelet collects once a minute: how much of it there
// is depends on when one looks.
func (f *flatness) settle(ctx context.Context) error {
	for _, m := range f.c.machines() {
		n := f.c.node(m)
		for deadline := time.Now().Add(recoveryBound); ; sleep(ctx, recoveryPoll) {
			left, err := n.records()
			if err == nil && len(left) == 0 {
				break
			}
			if err == nil {
				err = n.tidy(ctx)
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s: after %v there is still %v: %w", m, recoveryBound, left, err)
			}
		}
	}
	return nil
}

func (f *flatness) sample(ctx context.Context) (map[Figure]float64, error) {
	values := map[Figure]float64{}
	for _, p := range f.c.processes() {
		for word, program := range programs {
			if !strings.Contains(p.Command, word) || word == initWord && p.Machine == "" {
				continue // outside of a machine it is the watcher
			}
			subject := strings.TrimSpace(p.Machine + " " + program)
			if err := weigh(values, subject, p.PID); err != nil {
				return nil, fmt.Errorf("%s: %w", subject, err)
			}
		}
	}
	for _, m := range f.c.machines() {
		n := f.c.node(m)
		for name, list := range map[string]func() ([]string, error){"mounts": n.mounts, "cgroups": n.cgroups, "devices": n.devices, "records of containerd": n.records} {
			all, err := list()
			if err != nil {
				return nil, err
			}
			values[Figure{m, name}] = float64(len(all))
		}
		if err := f.runtime(ctx, values, m+" node", "/api/v1/nodes/"+m+"/proxy"); err != nil {
			return nil, err
		}
	}
	return values, f.runtime(ctx, values, f.c.controlPlanes()[0]+" control plane", "")
}

// runtime reads what a program says of itself, below a path of the API.
func (f *flatness) runtime(ctx context.Context, values map[Figure]float64, subject, path string) error {
	get := func(path string) ([]byte, error) { return f.client.RESTClient().Get().RequestURI(path).DoRaw(ctx) }
	// The profile comes after a collection; pools are empty after the second.
	for range 2 {
		if _, err := get(path + "/debug/pprof/heap?gc=1"); err != nil {
			return err
		}
	}
	metrics, err := get(path + "/metrics")
	if err != nil {
		return err
	}
	if values[Figure{subject, "goroutines"}], err = gauge(metrics, "go_goroutines"); err != nil {
		return err
	}
	live, err := gauge(metrics, "go_memstats_heap_alloc_bytes")
	values[Figure{subject, FigureLive}] = live / (1 << 20)
	return err
}

// weigh a process.
func weigh(values map[Figure]float64, subject string, pid int) error {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return err
	}
	// A node holds a lock on each layer of the host's store that it knows, which
	// become more when somebody on the host loads an image.
	fds = slices.DeleteFunc(fds, func(fd os.DirEntry) bool {
		file, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		return err != nil || strings.HasPrefix(file, machinev1alpha1.ImageStoreDir)
	})
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	values[Figure{subject, "descriptors"}], values[Figure{subject, FigureThreads}] = float64(len(fds)), float64(len(threads))
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "Pss:":
			values[Figure{subject, FigurePSS}] = kb / 1024
		case "Anonymous:":
			values[Figure{subject, FigureAnonymous}] = kb / 1024
		}
	}
	return nil
}

// gauge of a program's metrics.
func gauge(metrics []byte, name string) (float64, error) {
	for line := range strings.Lines(string(metrics)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	return 0, fmt.Errorf("%s is not among %d bytes of metrics", name, len(metrics))
}

// pods counts what is left of Pods on each machine.
func (f *flatness) pods() (map[string]int, error) {
	left := map[string]int{}
	for _, m := range f.c.machines() {
		n := f.c.node(m)
		for _, pattern := range append(slices.Clone(podDirs), logDirs...) {
			files, err := filepath.Glob(n.at(pattern))
			if err != nil {
				return nil, err
			}
			left[m+pattern] = len(files)
		}
		records, err := n.records()
		if err != nil {
			return nil, err
		}
		left[m+" records"] = len(records)
	}
	return left, nil
}
