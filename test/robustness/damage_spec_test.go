//go:build robustness

package robustness

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apis/storage/pagesum/pagesumtest"
	"github.com/skiff-k8s/skiff/test/reboot"
)

// written are objects that must never change again.
const written = 40

// keepsake writes objects whose loss shows.
func keepsake(ctx context.Context, client kubernetes.Interface, prefix string) {
	GinkgoHelper()
	for i := range written {
		name := fmt.Sprintf("%s-%d", prefix, i)
		_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"keepsake": prefix}}, Data: map[string]string{"digest": digest(name, prefix)}}, metav1.CreateOptions{})
		Expect(err).NotTo(HaveOccurred())
	}
}

func expectKept(ctx context.Context, client kubernetes.Interface, prefix string) {
	GinkgoHelper()
	list, err := client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{LabelSelector: "keepsake=" + prefix})
	Expect(err).NotTo(HaveOccurred())
	Expect(list.Items).To(HaveLen(written))
	for _, cm := range list.Items {
		Expect(cm.Data["digest"]).To(Equal(digest(cm.Name, prefix)), cm.Name)
	}
}

// etcdFile is the newest file of a kind of the cluster's etcd.
func (c *cluster) etcdFile(pattern string) string {
	GinkgoHelper()
	return newest(filepath.Join(c.dir(c.controlPlanes()[0]), "var/lib/etcd/member", pattern))
}

func newest(pattern string) string {
	GinkgoHelper()
	files, err := filepath.Glob(pattern)
	Expect(err).NotTo(HaveOccurred())
	Expect(files).NotTo(BeEmpty())
	slices.Sort(files)
	return files[len(files)-1]
}

// damage to a file.
type damage func(file string)

// halve what was written to it.
func halve(file string) {
	GinkgoHelper()
	data, err := os.ReadFile(file)
	Expect(err).NotTo(HaveOccurred())
	Expect(os.Truncate(file, int64(len(bytes.TrimRight(data, "\x00"))/2))).To(Succeed())
}

// keptText is of an object's content, which only a checksum can tell.
func keptText() string { return digest("kept-7", "kept")[:32] }

// flip a bit of an object in the log.
func flip(file string) {
	GinkgoHelper()
	data, err := os.ReadFile(file)
	Expect(err).NotTo(HaveOccurred())
	at := bytes.Index(data, []byte(keptText()))
	Expect(at).To(BeNumerically(">=", 0), "the object is not in the file")
	Expect(pagesumtest.Flip(file, int64(at))).To(Succeed())
}

// flipInDatabase flips one where it is in use.
func flipInDatabase(file string) {
	GinkgoHelper()
	at, err := pagesumtest.Find(file, keptText())
	Expect(err).NotTo(HaveOccurred())
	Expect(pagesumtest.Flip(file, at)).To(Succeed())
}

var _ = Describe("etcd's files", Ordered, func() {
	var (
		c      *cluster
		client *kubernetes.Clientset
		reset  func()
	)
	BeforeAll(func(ctx context.Context) {
		c = create("robust-d", Topology{ControlPlanes: 1}, "durable")
		var err error
		client, reset, err = c.client()
		Expect(err).NotTo(HaveOccurred())
		keepsake(ctx, client, "kept")
	})

	DescribeTable("damaged while nothing runs: the start names the file and serves nothing, and serves all once the file is back",
		func(ctx context.Context, end []string, pattern string, do damage) {
			if end == nil {
				Expect(reboot.Kill(c.name)).To(Succeed())
			} else {
				_, err := skiff("", append(end, "--name", c.name)...)
				Expect(err).NotTo(HaveOccurred())
			}
			file := c.etcdFile(pattern)
			data, err := os.ReadFile(file)
			Expect(err).NotTo(HaveOccurred())
			do(file)

			began := time.Now()
			out, err := skiff("", "start", "cluster", "--name", c.name)
			Expect(err).To(HaveOccurred())
			Expect(out).To(ContainSubstring("etcd's data is damaged: " + file))
			Expect(out).To(MatchRegexp(`Mend: put .* back`))
			AddReportEntry("refused after", time.Since(began).String())
			out, err = skiff("", "get", "clusters", "-o", "wide")
			Expect(err).NotTo(HaveOccurred())
			Expect(out).To(MatchRegexp(`(?m)^robust-d +damaged `))
			Expect(out).To(ContainSubstring(file))
			bounded, cancel := context.WithTimeout(ctx, requestBound)
			defer cancel()
			_, err = client.CoreV1().ConfigMaps("default").List(bounded, metav1.ListOptions{})
			Expect(err).To(HaveOccurred(), "nobody serves it")

			Expect(os.WriteFile(file, data, 0o600)).To(Succeed())
			_, err = skiff("", "start", "cluster", "--name", c.name)
			Expect(err).NotTo(HaveOccurred())
			reset()
			expectKept(ctx, client, "kept")
			i, err := c.info()
			Expect(err).NotTo(HaveOccurred())
			Expect(i.State).To(Equal("running"))
			Expect(i.Trouble).To(BeEmpty())
		},
		Entry("a bit of the log flipped, after a stop", []string{"stop", "cluster"}, "wal/*.wal", damage(flip)),
		Entry("a bit of the database flipped, after a stop", []string{"stop", "cluster"}, "snap/db", damage(flipInDatabase)),
		Entry("a bit of the database flipped, after a stop --now", []string{"stop", "cluster", "--now"}, "snap/db", damage(flipInDatabase)),
		Entry("the log cut off, after a stop", []string{"stop", "cluster"}, "wal/*.wal", damage(halve)),
		Entry("a bit of the log flipped, after kill -9 of everything", nil, "wal/*.wal", damage(flip)),
		Entry("a bit of the database flipped, after kill -9 of everything", nil, "snap/db", damage(flipInDatabase)),
		Entry("the log cut off, after kill -9 of everything", nil, "wal/*.wal", damage(halve)),
		Entry("the database cut off, after kill -9 of everything", nil, "snap/db", damage(halve)),
	)
})

var _ = Describe("etcd's files of one control plane of three", Ordered, func() {
	var (
		c      *cluster
		client *kubernetes.Clientset
		reset  func()
	)
	BeforeAll(func(ctx context.Context) {
		c = create("robust-m", Topology{ControlPlanes: 3}, "durable")
		var err error
		client, reset, err = c.client()
		Expect(err).NotTo(HaveOccurred())
		keepsake(ctx, client, "kept")
	})

	DescribeTable("damaged while nothing runs: it is made anew from the others, and nothing is lost",
		func(ctx context.Context, end []string, number int, pattern string, do damage) {
			victim, other := c.controlPlanes()[number], c.controlPlanes()[(number+1)%3]
			if end == nil {
				Expect(reboot.Kill(c.name)).To(Succeed())
			} else {
				_, err := skiff("", append(end, "--name", c.name)...)
				Expect(err).NotTo(HaveOccurred())
			}
			do(newest(filepath.Join(c.dir(victim), "var/lib/etcd/member", pattern)))
			_, err := skiff("", "start", "cluster", "--name", c.name)
			Expect(err).NotTo(HaveOccurred())
			reset()
			expectKept(ctx, client, "kept")
			began := time.Now()
			Eventually(func() (string, error) { return skiff("", "get", "clusters", "-o", "wide") }).WithTimeout(time.Minute).Should(And(
				MatchRegexp(`(?m)^robust-m +running +3 +3/3 `), ContainSubstring("made anew from the other control planes"), ContainSubstring(victim)))
			AddReportEntry("whole after", time.Since(began).String())

			// It counts: the others may lose one.
			Expect(signal(syscall.SIGKILL, c.find("control-plane", other))).To(Succeed())
			Eventually(func() error {
				_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "w-"}}, metav1.CreateOptions{})
				reset()
				return err
			}).WithTimeout(20 * time.Second).Should(Succeed())
			expectKept(ctx, client, "kept")
		},
		Entry("a bit of the database flipped, after a stop", []string{"stop", "cluster"}, 1, "snap/db", damage(flipInDatabase)),
		Entry("a bit of the log flipped, after kill -9 of everything", nil, 2, "wal/*.wal", damage(flip)),
		Entry("a bit of the database flipped, after kill -9 of everything", nil, 0, "snap/db", damage(flipInDatabase)),
		Entry("the database cut off, after kill -9 of everything", nil, 1, "snap/db", damage(halve)),
	)
})

var _ = Describe("etcd's disk", func() {
	It("full: writes stop, nothing is lost, get clusters says why, and room is all it takes", func(ctx context.Context) {
		d := newDisk(ctx)
		filler := filepath.Join(d.mount, "filler")
		d.fill(filler)
		// Until a segment of the log is full there is room in it.
		Eventually(func() error { return d.write(ctx) }).WithTimeout(2 * time.Minute).WithPolling(time.Millisecond).ShouldNot(Succeed())
		d.expectTrouble("no space left on device")
		Expect(os.Remove(filler)).To(Succeed())
		d.expectRecovered(ctx)
	})

	It("read-only: the same, after it is checked and mounted again", func(ctx context.Context) {
		d := newDisk(ctx)
		// As the kernel does after an error of the disk.
		Expect(output("mount", "-o", "remount,abort", d.mount)).Error().NotTo(HaveOccurred())
		Eventually(func() error { return d.write(ctx) }).WithPolling(10 * time.Millisecond).ShouldNot(Succeed())
		d.expectTrouble("read-only file system")
		_, err := skiff("", "stop", "cluster", "--name", d.c.name)
		Expect(err).NotTo(HaveOccurred())
		d.remount()
		_, err = skiff("", "start", "cluster", "--name", d.c.name)
		Expect(err).NotTo(HaveOccurred())
		d.expectRecovered(ctx)
	})
})

// disk of a control plane's own: a file system in a file, on the machine's
// /var.
type disk struct {
	c            *cluster
	client       *kubernetes.Clientset
	reset        func()
	image, mount string
	writes       int
}

// diskBytes are enough for a control plane without Pods, and soon full.
const diskBytes = 96 << 20

func newDisk(ctx context.Context) *disk {
	GinkgoHelper()
	d := &disk{c: create("robust-f", Topology{ControlPlanes: 1}, "durable"), image: filepath.Join(GinkgoT().TempDir(), "disk")}
	_, err := skiff("", "stop", "cluster", "--name", d.c.name)
	Expect(err).NotTo(HaveOccurred())
	d.mount = filepath.Join(d.c.dir(d.c.controlPlanes()[0]), "var")
	f, err := os.Create(d.image)
	Expect(err).NotTo(HaveOccurred())
	Expect(f.Truncate(diskBytes)).To(Succeed())
	Expect(f.Close()).To(Succeed())
	Expect(output("mkfs.ext4", "-q", "-m", "0", d.image)).Error().NotTo(HaveOccurred())
	aside := d.mount + ".aside"
	Expect(os.Rename(d.mount, aside)).To(Succeed())
	Expect(os.Mkdir(d.mount, 0o755)).To(Succeed())
	Expect(output("mount", "-o", "loop", d.image, d.mount)).Error().NotTo(HaveOccurred())
	DeferCleanup(func() {
		_, _ = skiff("", "stop", "cluster", "--now", "--name", d.c.name)
		Expect(output("umount", d.mount)).Error().NotTo(HaveOccurred())
	})
	Expect(output("cp", "-a", aside+"/.", d.mount)).Error().NotTo(HaveOccurred())
	// What the copy left in memory is not to be what an error of the disk costs.
	Expect(output("sync", "-f", d.mount)).Error().NotTo(HaveOccurred())
	Expect(os.RemoveAll(aside)).To(Succeed())
	_, err = skiff("", "start", "cluster", "--name", d.c.name)
	Expect(err).NotTo(HaveOccurred())
	d.client, d.reset, err = d.c.client()
	Expect(err).NotTo(HaveOccurred())
	keepsake(ctx, d.client, "kept")
	return d
}

func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// fill takes all room that there is.
func (d *disk) fill(path string) {
	GinkgoHelper()
	f, err := os.Create(path)
	Expect(err).NotTo(HaveOccurred())
	defer f.Close()
	for _, n := range []int{1 << 20, 1 << 12, 1} {
		for err = nil; err == nil; {
			_, err = io.Copy(f, bytes.NewReader(make([]byte, n)))
		}
	}
}

// write an object of some size.
func (d *disk) write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	d.writes++
	_, err := d.client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("w-%d", d.writes)}, Data: map[string]string{"x": strings.Repeat("x", 100_000)}}, metav1.CreateOptions{})
	if err != nil {
		d.reset()
	}
	return err
}

func (d *disk) expectTrouble(why string) {
	GinkgoHelper()
	Eventually(func() (string, error) { return skiff("", "get", "clusters", "-o", "wide") }).Should(And(
		MatchRegexp(`(?m)^robust-f +degraded `), ContainSubstring(why), ContainSubstring(d.mount)))
}

func (d *disk) expectRecovered(ctx context.Context) {
	GinkgoHelper()
	Eventually(func() error { return d.write(ctx) }).WithTimeout(time.Minute).Should(Succeed())
	expectKept(ctx, d.client, "kept")
	Eventually(func() (info, error) { return d.c.info() }).Should(And(HaveField("State", "running"), HaveField("Trouble", "")))
}

func (d *disk) remount() {
	GinkgoHelper()
	Expect(output("umount", d.mount)).Error().NotTo(HaveOccurred())
	// 1: mended.
	_, err := output("e2fsck", "-fy", d.image)
	if err != nil && !strings.Contains(err.Error(), "exit status 1") {
		Expect(err).NotTo(HaveOccurred())
	}
	Expect(output("mount", "-o", "loop", d.image, d.mount)).Error().NotTo(HaveOccurred())
}
