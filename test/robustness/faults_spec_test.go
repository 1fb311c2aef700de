//go:build robustness

package robustness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/test/robustness/clockjump"
	"github.com/skiff-k8s/skiff/test/robustness/history"
)

const (
	// apiClients that write at once, and watchers beside them.
	apiClients = 4
	watchers   = 2
	// recoveryBound is how long a cluster may take to be whole again after a
	// fault: a node that was away counts as NotReady after 40 s.
	recoveryBound = 90 * time.Second
	// recoveryPoll is between two looks.
	recoveryPoll = 50 * time.Millisecond
)

func setClock(pid int, offset time.Duration) error { return clockjump.Set(pid, offset) }

// run is a cluster under load.
type run struct {
	c        *cluster
	client   *kubernetes.Clientset
	reset    func()
	recorder *recorder
	watchers []*watcher
	journals []*journalWriter
}

var _ = Describe("a cluster under faults", func() {
	It("loses nothing that it acknowledged, and answers as one register for each object", func(ctx context.Context) {
		c := create("robust", settings.topology, settings.durability)
		_, err := skiff("", "load", "image-archive", "../../_output/images-robustness.tar", "--name", c.name)
		Expect(err).NotTo(HaveOccurred())
		ranges, err := c.ranges()
		Expect(err).NotTo(HaveOccurred())
		open, err := fence(ranges)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(open)
		r := &run{c: c, recorder: newRecorder()}
		r.client, r.reset, err = c.client()
		Expect(err).NotTo(HaveOccurred())
		_, err = r.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: loadNamespace}}, metav1.CreateOptions{})
		Expect(err).NotTo(HaveOccurred())
		r.journals, err = startJournals(ctx, r.client, 2)
		Expect(err).NotTo(HaveOccurred())

		stop := r.load()
		report := &Account{Topology: c.topology, Seed: settings.seed, Durability: settings.durability, Machine: machine()}
		Expect(r.recovered(time.Now())).To(Succeed(), "before any fault")
		report.Steps = r.suffer(ctx)
		stop()
		report.Duration = r.recorder.now()
		report.Violations = r.verify(ctx)
		for _, h := range report.Steps {
			if h.Err != nil {
				report.Violations = append(report.Violations, fmt.Sprintf("%v at %v: %v", h.Step, h.At, h.Err))
			}
		}
		r.fill(report)
		account = report
		Expect(report.Violations).To(BeEmpty())
	})
})

// account of the run, once there is one.
var account *Account

var _ = ReportAfterSuite("report", func(suite Report) {
	if account == nil {
		return
	}
	for _, spec := range suite.SpecReports {
		if text := strings.Join(spec.ContainerHierarchyTexts, " "); strings.HasPrefix(text, "etcd's") && spec.State != types.SpecStateSkipped {
			account.Others = append(account.Others, fmt.Sprintf("%s, %s: %s", text, spec.LeafNodeText, spec.State))
		}
	}
	fmt.Println(account)
	if settings.report == "" {
		return
	}
	old, err := os.ReadFile(settings.report)
	if err != nil && !os.IsNotExist(err) {
		Fail(err.Error())
	}
	Expect(os.WriteFile(settings.report, []byte(Merge(string(old), account)), 0o644)).To(Succeed())
})

// load writes, watches and appends until the returned function is called,
// which waits for all of it; watches go on until verify has ended them.
func (r *run) load() (stop func()) {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(context.Background())
	watching, endWatching := context.WithCancel(context.Background())
	var clients, watches sync.WaitGroup
	for i := range apiClients {
		a, err := newAPIClient(r.c, r.recorder, i, settings.seed)
		Expect(err).NotTo(HaveOccurred())
		clients.Go(func() { a.run(ctx) })
	}
	for i := range watchers {
		w, err := newWatcher(r.c, r.recorder, fmt.Sprintf("watch-%d", i), settings.seed+uint64(i))
		Expect(err).NotTo(HaveOccurred())
		r.watchers = append(r.watchers, w)
		watches.Go(func() { w.run(watching) })
	}
	for _, j := range r.journals {
		clients.Go(func() { j.run(ctx) })
	}
	DeferCleanup(func() {
		cancel()
		endWatching()
		clients.Wait()
		watches.Wait()
	})
	return func() {
		cancel()
		clients.Wait()
	}
}

// suffer draws faults until the time is over, or one is not recovered from.
func (r *run) suffer(ctx context.Context) []Happened {
	byName := map[string]fault{}
	var some []Fault
	for _, f := range faults() {
		byName[f.Name] = f
		some = append(some, f.Fault)
	}
	plan := NewPlan(settings.seed, r.c.topology, some)
	GinkgoWriter.Printf("seed %d\n", settings.seed)
	var all []Happened
	for r.recorder.now() < settings.duration {
		step := plan.Next()
		sleep(ctx, step.After)
		h := Happened{Step: step, At: r.recorder.now()}
		h.Err = r.happen(ctx, byName[step.Fault], &h)
		GinkgoWriter.Printf("%8.2fs %v: over after %.2fs, recovered in %.2fs %v\n", h.At.Seconds(), h.Step, (h.Undone - h.At).Seconds(), (h.Recovered - h.Undone).Seconds(), errText(h.Err))
		all = append(all, h)
		if h.Err != nil || ctx.Err() != nil {
			break
		}
	}
	return all
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (r *run) happen(ctx context.Context, f fault, h *Happened) error {
	if err := f.inject(ctx, r.c, h.Target); err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	sleep(ctx, h.Hold)
	if f.undo != nil {
		if err := f.undo(ctx, r.c, h.Target); err != nil {
			return fmt.Errorf("undo: %w", err)
		}
	}
	h.Undone = r.recorder.now()
	err := r.recovered(time.Now())
	h.Recovered = r.recorder.now()
	return err
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// recovered waits until clients have written, all nodes are Ready and all
// journals were appended to since a moment.
func (r *run) recovered(since time.Time) error {
	var lacks string
	for deadline := time.Now().Add(recoveryBound); time.Now().Before(deadline); time.Sleep(recoveryPoll) {
		if lacks = r.lacks(since); lacks == "" {
			return nil
		}
	}
	return fmt.Errorf("not recovered after %v: %s", recoveryBound, lacks)
}

func (r *run) lacks(since time.Time) string {
	if !r.recorder.lastWrite().After(since) {
		return "no write succeeds"
	}
	for _, j := range r.journals {
		if !j.lastWrite().After(since) {
			return "journal of " + j.pod + " is not written"
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestBound)
	defer cancel()
	nodes, err := r.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		r.reset()
		return err.Error()
	}
	if len(nodes.Items) != len(r.c.machines()) {
		return fmt.Sprintf("%d nodes", len(nodes.Items))
	}
	for _, n := range nodes.Items {
		for _, condition := range n.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
				return "node " + n.Name + " is not Ready: " + condition.Message
			}
		}
	}
	return ""
}

// verify reads everything once more and has the verdict.
func (r *run) verify(ctx context.Context) []string {
	GinkgoHelper()
	bounded, cancel := context.WithTimeout(ctx, recoveryBound)
	defer cancel()
	last, err := newAPIClient(r.c, r.recorder, apiClients, settings.seed)
	Expect(err).NotTo(HaveOccurred())
	Eventually(func() (history.Outcome, error) {
		o := history.Operation{Client: apiClients, Kind: history.List}
		err := last.do(&o)
		r.recorder.add(o, err)
		return o.Outcome, err
	}).Should(Equal(history.OK))
	Expect(newestEvents(bounded, r.client, r.watchers)).To(Succeed())

	var wrong []string
	for _, w := range r.watchers {
		r.recorder.streams = append(r.recorder.streams, w.recorded()...)
	}
	for i, v := range history.Check(r.recorder.history()) {
		wrong = append(wrong, v.What)
		if v.Picture != nil {
			path := filepath.Join("../../_output", fmt.Sprintf("robustness-%d-%d.html", settings.seed, i))
			Expect(v.Picture(path)).To(Succeed())
			GinkgoWriter.Println(v.What, "see", path)
		}
	}
	for _, j := range r.journals {
		var data []byte
		Eventually(func() (err error) { data, err = j.read(); return err }).Should(Succeed())
		wrong = append(wrong, j.verify(data)...)
	}
	onHost, err := verifyVolumes(r.c, r.journals)
	Expect(err).NotTo(HaveOccurred())
	return append(wrong, onHost...)
}

func (r *run) fill(report *Account) {
	report.History, report.Told, report.Journals = r.recorder.history(), r.recorder.told, len(r.journals)
	for _, j := range r.journals {
		report.Records += len(j.acknowledged)
		report.Unanswered += len(j.open)
	}
	for _, w := range r.watchers {
		report.Resumed += w.resumed
	}
}

// machine that the run was on.
func machine() string {
	var u syscall.Utsname
	_ = syscall.Uname(&u)
	var release strings.Builder
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release.WriteByte(byte(c))
	}
	return fmt.Sprintf("%d cores, kernel %s, %s.", runtime.NumCPU(), release.String(), time.Now().UTC().Format(time.DateOnly))
}
