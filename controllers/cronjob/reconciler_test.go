package cronjob_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/apitest"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

type world struct {
	*testing.T
	api *apitest.API
	ns  string
}

// yearly schedules are due once, in the past, however slow the test is.
const yearly = "0 0 1 1 *"

// cron creates a CronJob named c that was last started 400 days ago, and runs
// it from then on: what it missed is due at once.
func (w world) cron(change func(*batchv1.CronJob)) {
	w.Helper()
	spec := apitest.PodSpec()
	spec.RestartPolicy = corev1.RestartPolicyNever
	cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: batchv1.CronJobSpec{
		Schedule: yearly, Suspend: ptr.To(true),
		JobTemplate: batchv1.JobTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"of": "c"}, Annotations: map[string]string{"note": "template"}},
			Spec:       batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: spec}},
		},
	}}
	if change != nil {
		change(cj)
	}
	cronJobs := w.api.Client.BatchV1().CronJobs(w.ns)
	made, err := cronJobs.Create(w.Context(), cj, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	patch, err := json.Marshal(map[string]any{"status": batchv1.CronJobStatus{LastScheduleTime: ptr.To(metav1.NewTime(made.CreationTimestamp.AddDate(0, 0, -400)))}})
	if err != nil {
		w.Fatal(err)
	}
	if _, err := cronJobs.Patch(w.Context(), "c", types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		w.Fatal(err)
	}
}

func (w world) patch(patch string) {
	w.Helper()
	apitest.Patch(w, w.api.Client.BatchV1().CronJobs(w.ns), "c", types.MergePatchType, patch)
}

func (w world) resume() { w.Helper(); w.patch(`{"spec":{"suspend":false}}`) }

// again makes another day of the year due. A schedule that changes is looked
// at when it is next due, so something else is changed after it.
func (w world) again(day int) {
	w.Helper()
	w.patch(fmt.Sprintf(`{"spec":{"schedule":"0 0 %d 1 *"}}`, day))
	w.patch(fmt.Sprintf(`{"metadata":{"annotations":{"day":"%d"}}}`, day))
}

// end ends the running Pods.
func (w world) end(code int) {
	w.Helper()
	apitest.Eventually(w, func() string {
		pods, err := w.api.Client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		for _, p := range pods.Items {
			if p.Status.Phase == corev1.PodRunning {
				w.api.SetStatus(w, w.ns, p.Name, apitest.Ended(code))
				return ""
			}
		}
		return "no Pod runs"
	})
}

// Dump prints the CronJob, its Jobs and events.
func (w world) Dump() string {
	var lines []string
	cronJobs, err := w.api.Client.BatchV1().CronJobs(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, c := range cronJobs.Items {
		var active []string
		for _, ref := range c.Status.Active {
			active = append(active, fmt.Sprint(ref.APIVersion, ref.Kind, ref.Name, ref.UID != ""))
		}
		last := "never"
		if at := c.Status.LastScheduleTime; at != nil && time.Since(at.Time) < 399*24*time.Hour {
			last = stable(at.UTC().Format(time.RFC3339))
		}
		lines = append(lines, fmt.Sprintf("cronjob %s: active=%s last=%s succeeded=%v", c.Name, stable(fmt.Sprint(active)), last, c.Status.LastSuccessfulTime != nil))
	}
	jobs, err := w.api.Client.BatchV1().Jobs(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, j := range jobs.Items {
		owner := "none"
		if ref := metav1.GetControllerOf(&j); ref != nil {
			owner = fmt.Sprint(ref.Kind, ref.Name, *ref.BlockOwnerDeletion)
		}
		var ends []string
		for _, c := range j.Status.Conditions {
			ends = append(ends, string(c.Type))
		}
		lines = append(lines, fmt.Sprintf("job %s of %s: %v labels=%v annotations=%s", stable(j.Name), owner, ends, stable(fmt.Sprint(j.Labels)), stable(fmt.Sprint(j.Annotations))))
	}
	events, err := w.api.Client.CoreV1().Events(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range events.Items {
		// Upstream's tells of these too when its cache is behind its own writes.
		if e.InvolvedObject.Kind == "CronJob" && e.Reason != "MissingJob" && e.Reason != "UnexpectedJob" {
			seen[fmt.Sprint("event ", e.Source.Component, " ", e.Type, " ", e.Reason, " ", stable(e.Message))] = true
		}
	}
	for e := range seen {
		lines = append(lines, e)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// stable leaves out UIDs.
func stable(text string) string { return random.ReplaceAllString(text, "…") }

var random = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`)

func (w world) until(part string) time.Duration {
	w.Helper()
	return apitest.Until(w, part)
}

// told waits for an event that Dump leaves out.
func (w world) told(message string) {
	w.Helper()
	apitest.Eventually(w, func() string {
		events, err := w.api.Client.CoreV1().Events(w.ns).List(w.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		if !slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Reason+" "+e.Message == message }) {
			return w.Dump()
		}
		return ""
	})
}

func (w world) jobs(n int) {
	w.Helper()
	apitest.Eventually(w, func() string {
		if d := w.Dump(); strings.Count("\n"+d, "\njob ") != n {
			return d
		}
		return ""
	})
}

// child is a Job that names the CronJob as its controller.
func (w world) child(name string) {
	w.Helper()
	cj, err := w.api.Client.BatchV1().CronJobs(w.ns).Get(w.Context(), "c", metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{
		*metav1.NewControllerRef(cj, batchv1.SchemeGroupVersion.WithKind("CronJob")),
	}}, Spec: cj.Spec.JobTemplate.Spec}
	if _, err := w.api.Client.BatchV1().Jobs(w.ns).Create(w.Context(), job, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
}

// firstJob is the name of the Job of the first of January.
func firstJob() string {
	now := time.Now().UTC()
	return fmt.Sprintf("c-%d", time.Date(now.Year(), 1, 1, 0, 0, 0, 0, time.UTC).Unix()/60)
}

func (w world) deleteJob(name string) {
	w.Helper()
	if err := w.api.Client.BatchV1().Jobs(w.ns).Delete(w.Context(), name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}); err != nil {
		w.Fatal(err)
	}
}

var scenarios = map[string]func(w world){
	"suspended, then what was missed is started, and succeeds": func(w world) {
		w.cron(nil)
		w.jobs(0)
		w.resume()
		w.until("active=[batch/v1Jobc-")
		w.end(0)
		w.until("SawCompletedJob")
	},
	"a Job that fails": func(w world) {
		w.cron(func(c *batchv1.CronJob) { c.Spec.JobTemplate.Spec.BackoffLimit = ptr.To[int32](0) })
		w.resume()
		w.end(1)
		w.until("SawCompletedJob")
	},
	"a time zone": func(w world) {
		w.cron(func(c *batchv1.CronJob) { c.Spec.TimeZone = ptr.To("Asia/Tokyo") })
		w.resume()
		w.until("+09:00")
	},
	"too late": func(w world) {
		w.cron(func(c *batchv1.CronJob) { c.Spec.StartingDeadlineSeconds = ptr.To[int64](100) })
		w.resume()
		w.patch(`{"metadata":{"annotations":{"a":"b"}}}`)
	},
	"in time": func(w world) {
		w.cron(func(c *batchv1.CronJob) { c.Spec.StartingDeadlineSeconds = ptr.To[int64](366 * 24 * 3600) })
		w.resume()
		w.jobs(1)
	},
	"many missed": func(w world) {
		w.cron(func(c *batchv1.CronJob) { c.Spec.Schedule = "30 3 * * *" })
		w.patch(`{"metadata":{"annotations":{"a":"b"}}}`)
		w.resume()
		w.until("TooManyMissedTimes")
		w.until("SuccessfulCreate")
	},
	"a date that does not exist": func(w world) {
		w.cron(func(c *batchv1.CronJob) { c.Spec.Schedule = "59 23 31 2 *" })
		w.resume()
		w.until("InvalidSchedule")
	},
	"two at once": func(w world) {
		w.cron(nil)
		w.resume()
		w.jobs(1)
		w.again(2)
		w.jobs(2)
		w.end(0)
		w.end(0)
		w.until("active=[]")
	},
	"two at once are forbidden": func(w world) {
		w.cron(func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = batchv1.ForbidConcurrent })
		w.resume()
		w.jobs(1)
		w.until("active=[batch/v1Jobc-")
		w.again(2)
		w.until("JobAlreadyActive")
		w.end(0)
		w.jobs(2) // it is not too late for the second yet
	},
	"the second takes the place of the first": func(w world) {
		w.cron(func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = batchv1.ReplaceConcurrent })
		w.resume()
		w.jobs(1)
		w.until("active=[batch/v1Jobc-")
		w.again(2)
		w.until("SuccessfulDelete")
		w.jobs(1)
	},
	"history of one": func(w world) {
		w.cron(func(c *batchv1.CronJob) { c.Spec.SuccessfulJobsHistoryLimit = ptr.To[int32](1) })
		w.resume()
		for day := 2; day < 5; day++ {
			w.until("active=[batch/v1Jobc-")
			w.end(0)
			w.until("active=[]")
			w.again(day)
		}
		w.until("active=[batch/v1Jobc-")
		w.jobs(2)
	},
	"no history of failures": func(w world) {
		w.cron(func(c *batchv1.CronJob) {
			c.Spec.FailedJobsHistoryLimit, c.Spec.JobTemplate.Spec.BackoffLimit = ptr.To[int32](0), ptr.To[int32](0)
		})
		w.resume()
		w.end(1)
		w.until("SuccessfulDelete")
		w.jobs(0)
	},
	"a Job that somebody deletes": func(w world) {
		w.cron(nil)
		w.resume()
		w.until("active=[batch/v1Jobc-")
		w.deleteJob(firstJob())
		w.told("MissingJob Active job went missing: " + firstJob())
		w.until("active=[]")
	},
	"a Job that somebody else makes": func(w world) {
		w.cron(nil)
		w.child("by-hand")
		w.told("UnexpectedJob Saw a job that the controller did not create or forgot: by-hand")
		w.end(0)
		w.until("succeeded=true")
	},
	"a Job of the name that is somebody else's": func(w world) {
		w.cron(nil)
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: firstJob()}}
		job.Spec.Template.Spec = apitest.PodSpec()
		job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
		if _, err := w.api.Client.BatchV1().Jobs(w.ns).Create(w.Context(), job, metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
		w.resume()
		w.jobs(1)
	},
	"a Job that was made before the status was written": func(w world) {
		w.cron(nil)
		w.child(firstJob())
		w.told("UnexpectedJob Saw a job that the controller did not create or forgot: " + firstJob())
		w.resume()
		w.until("active=[batch/v1Jobc-")
	},
	"a quota on Jobs": func(w world) {
		quotas := w.api.Client.CoreV1().ResourceQuotas(w.ns)
		quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{
			Hard: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")},
		}}
		if _, err := quotas.Create(w.Context(), quota, metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
		apitest.Eventually(w, func() string {
			if q, err := quotas.Get(w.Context(), "q", metav1.GetOptions{}); err != nil || q.Status.Hard == nil {
				return fmt.Sprint(q, err)
			}
			return ""
		})
		w.cron(nil)
		w.resume()
		w.until("FailedCreate")
		if err := quotas.Delete(w.Context(), "q", metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.jobs(1)
		w.until("SuccessfulCreate")
	},
	"deleted with its Jobs": func(w world) {
		w.cron(nil)
		w.resume()
		w.until("active=[batch/v1Jobc-")
		if err := w.api.Client.BatchV1().CronJobs(w.ns).Delete(w.Context(), "c", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}); err != nil {
			w.Fatal(err)
		}
		w.jobs(0)
	},
	"deleted, its Jobs orphaned": func(w world) {
		w.cron(nil)
		w.resume()
		w.until("active=[batch/v1Jobc-")
		if err := w.api.Client.BatchV1().CronJobs(w.ns).Delete(w.Context(), "c", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)}); err != nil {
			w.Fatal(err)
		}
		w.until("of none")
	},
}

// stage runs ours, or upstream's controllers of these names.
func stage(upstream ...string) apitest.Stage[world] {
	return func(t *testing.T) func(*testing.T) world {
		api := apitest.Run(t, upstream...)
		api.KubeletNode(t)
		return func(t *testing.T) world {
			w := world{t, api, api.Namespace(t)}
			api.Kubelet(t, w.ns)
			return w
		}
	}
}

func TestAsUpstream(t *testing.T) {
	apitest.AsUpstream(t, scenarios, stage(), stage(names.CronJobController))
}

// When the cluster's clock moves, what is due is done: a CronJob's start, a
// Job's deadline, and the end of its time to live.
func TestMovedClock(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	apitest.RunWith(t, controllers.Config{Clock: clock})
	api := apitest.Server(t)
	w := world{t, api, api.Namespace(t)}
	api.Kubelet(t, w.ns)
	cronJobs, jobs := api.Client.BatchV1().CronJobs(w.ns), api.Client.BatchV1().Jobs(w.ns)
	cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: batchv1.CronJobSpec{Schedule: "@every 10h"}}
	cj.Spec.JobTemplate.Spec = batchv1.JobSpec{
		ActiveDeadlineSeconds: ptr.To[int64](3600), TTLSecondsAfterFinished: ptr.To[int32](7200),
		Template: corev1.PodTemplateSpec{Spec: apitest.PodSpec()},
	}
	cj.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	if _, err := cronJobs.Create(t.Context(), cj, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Who waits is told of the move; who comes late sees the time.
	move := func(by time.Duration, missing func(context.Context) string) {
		t.Helper()
		clock.Step(by)
		t.Log(by, apitest.Eventually(t, func() string { return missing(t.Context()) }))
	}
	only := func(ctx context.Context) (*batchv1.Job, string) {
		list, err := jobs.List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 {
			return nil, fmt.Sprintf("%d Jobs, %v", len(list.Items), err)
		}
		return &list.Items[0], ""
	}
	apitest.Eventually(t, func() string {
		if !clock.HasWaiters() {
			return "nobody waits"
		}
		return ""
	})
	move(10*time.Hour+time.Second, func(ctx context.Context) string { _, problem := only(ctx); return problem })
	apitest.Eventually(t, func() string {
		if job, problem := only(t.Context()); problem != "" || job.Status.Active != 1 {
			return fmt.Sprint("does not run ", problem, job)
		}
		return ""
	})
	move(time.Hour+time.Second, func(ctx context.Context) string {
		job, problem := only(ctx)
		if problem == "" && !slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
			return c.Type == batchv1.JobFailed && c.Reason == batchv1.JobReasonDeadlineExceeded
		}) {
			return fmt.Sprint(job.Status)
		}
		return problem
	})
	name := func() string { job, _ := only(t.Context()); return job.Name }()
	move(2*time.Hour+time.Second, func(ctx context.Context) string {
		if _, err := jobs.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Sprint("still there: ", err)
		}
		return ""
	})
}
