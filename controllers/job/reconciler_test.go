package job_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	upstream "k8s.io/kubernetes/pkg/controller/job"
	"k8s.io/utils/ptr"

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

// job creates a Job named a whose Pods exit with the code.
func (w world) job(code int, change func(*batchv1.Job)) {
	w.Helper()
	spec := apitest.PodSpec()
	spec.RestartPolicy = corev1.RestartPolicyNever
	spec.Containers[0].Image = apitest.ExitImage(code)
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: spec}}}
	if change != nil {
		change(job)
	}
	if _, err := w.api.Client.BatchV1().Jobs(w.ns).Create(w.Context(), job, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
}

// endless makes Pods that run until the test ends them.
func endless(job *batchv1.Job) { job.Spec.Template.Spec.Containers[0].Image = "none" }

func byIndex(job *batchv1.Job, completions int32) {
	job.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion)
	job.Spec.Completions, job.Spec.Parallelism = ptr.To(completions), ptr.To(completions)
}

func (w world) patch(patch string) {
	w.Helper()
	apitest.Patch(w, w.api.Client.BatchV1().Jobs(w.ns), "a", types.StrategicMergePatchType, patch)
}

func (w world) delete(policy metav1.DeletionPropagation) {
	w.Helper()
	if err := w.api.Client.BatchV1().Jobs(w.ns).Delete(w.Context(), "a", metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
		w.Fatal(err)
	}
}

func (w world) pods() []corev1.Pod {
	w.Helper()
	list, err := w.api.Client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return list.Items
}

// end ends running Pods with an exit code: those of the index, or n of them.
func (w world) end(code, index, n int) {
	w.Helper()
	for _, p := range w.pods() {
		if p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil || n == 0 {
			continue
		}
		if i := p.Labels[batchv1.JobCompletionIndexAnnotation]; index < 0 || i == fmt.Sprint(index) {
			w.api.SetStatus(w, w.ns, p.Name, apitest.Ended(code))
			n--
		}
	}
}

// Dump prints the Job, its Pods without their random names, and events.
func (w world) Dump() string {
	var lines []string
	jobs, err := w.api.Client.BatchV1().Jobs(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, j := range jobs.Items {
		s := j.Status
		lines = append(lines, fmt.Sprintf("job %s: active=%d ready=%d succeeded=%d failed=%d terminating=%d done=%q lost=%q uncounted=%v started=%v completed=%v",
			j.Name, s.Active, ptr.Deref(s.Ready, -1), s.Succeeded, s.Failed, ptr.Deref(s.Terminating, -1), s.CompletedIndexes,
			ptr.Deref(s.FailedIndexes, "none"), s.UncountedTerminatedPods, s.StartTime != nil, s.CompletionTime != nil))
		for i, c := range s.Conditions {
			lines = append(lines, fmt.Sprintf("condition %d %s=%s %s: %s", i, c.Type, c.Status, c.Reason, stable(c.Message)))
		}
	}
	for _, p := range w.pods() {
		owner := "none"
		if ref := metav1.GetControllerOf(&p); ref != nil {
			owner = fmt.Sprint(ref.Kind, ref.Name, *ref.BlockOwnerDeletion)
		}
		labels := strings.Join(slices.Sorted(func(yield func(string) bool) {
			for k, v := range p.Labels {
				if !strings.HasSuffix(k, "controller-uid") && !yield(k+"="+v) {
					return
				}
			}
		}), ",")
		lines = append(lines, fmt.Sprintf("pod %s of %s: %s deleting=%v finalizers=%v labels=%s annotations=%v host=%s env=%v",
			p.GenerateName, owner, p.Status.Phase, p.DeletionTimestamp != nil, p.Finalizers, labels, p.Annotations, p.Spec.Hostname, p.Spec.Containers[0].Env))
	}
	events, err := w.api.Client.CoreV1().Events(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	count := map[string]int{}
	for _, e := range events.Items {
		if e.InvolvedObject.Kind == "Job" && e.Reason != "FailedCreate" { // as often as it is tried
			count[fmt.Sprint("event ", e.Source.Component, " ", e.Type, " ", e.Reason, " ", stable(e.Message))] += int(max(1, e.Count))
		}
	}
	for e, n := range count {
		lines = append(lines, fmt.Sprint(e, " ", n))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// stable is the message without the random part of Pods' names.
func stable(message string) string { return randomSuffix.ReplaceAllString(message, "") }

var randomSuffix = regexp.MustCompile(`(-[0-9]+)?-[a-z0-9]{5}\b|for pod test-\S+`)

func (w world) until(part string) time.Duration {
	w.Helper()
	return apitest.Until(w, part)
}

var scenarios = map[string]func(w world){
	"one Pod that succeeds": func(w world) {
		w.job(0, nil)
		w.until("Complete=True CompletionsReached")
	},
	"ten completions, three at a time": func(w world) {
		w.job(0, func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = ptr.To[int32](10), ptr.To[int32](3) })
		w.until("Complete=True")
	},
	"a work queue ends when one has succeeded and all have ended": func(w world) {
		w.job(0, func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = nil, ptr.To[int32](3); endless(j) })
		w.until("active=3 ready=3")
		w.end(0, -1, 1)
		w.until("active=2 ready=2")
		w.end(1, -1, 1)
		w.until("active=1 ready=1")
		w.end(0, -1, 1)
		w.until("Complete=True")
	},
	"no Pod may fail": func(w world) {
		w.job(1, func(j *batchv1.Job) { j.Spec.BackoffLimit = ptr.To[int32](0) })
		w.until("Failed=True BackoffLimitExceeded")
	},
	"three Pods fail, one after the other": func(w world) {
		w.job(1, func(j *batchv1.Job) { j.Spec.BackoffLimit = ptr.To[int32](2) })
		w.until("Failed=True BackoffLimitExceeded")
	},
	"Pods that still run end with the Job": func(w world) {
		w.job(0, func(j *batchv1.Job) {
			j.Spec.Completions, j.Spec.Parallelism, j.Spec.BackoffLimit = ptr.To[int32](3), ptr.To[int32](3), ptr.To[int32](0)
			endless(j)
		})
		w.until("active=3 ready=3")
		w.end(1, -1, 1)
		w.until("Failed=True BackoffLimitExceeded")
	},
	"containers that restart too often": func(w world) {
		w.job(0, func(j *batchv1.Job) {
			j.Spec.Template.Spec.RestartPolicy, j.Spec.BackoffLimit = corev1.RestartPolicyOnFailure, ptr.To[int32](3)
			endless(j)
		})
		w.until("active=1 ready=1")
		status := apitest.Running("10.0.0.1", true)
		status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", RestartCount: 3}}
		w.api.SetStatus(w, w.ns, w.pods()[0].Name, status)
		w.until("Failed=True BackoffLimitExceeded")
	},
	"a deadline": func(w world) {
		w.job(0, func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = ptr.To[int64](1); endless(j) })
		w.until("Failed=True DeadlineExceeded")
	},
	"a deadline that is set later": func(w world) {
		w.job(0, endless)
		w.until("active=1 ready=1")
		w.patch(`{"spec":{"activeDeadlineSeconds":1}}`)
		w.until("Failed=True DeadlineExceeded")
	},
	"suspended from the start, resumed": func(w world) {
		w.job(0, func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) })
		w.until("Suspended=True JobSuspended")
		w.patch(`{"spec":{"suspend":false}}`)
		w.until("Complete=True")
	},
	"suspended while it runs, resumed": func(w world) {
		w.job(0, func(j *batchv1.Job) {
			j.Spec.Completions, j.Spec.Parallelism = ptr.To[int32](2), ptr.To[int32](2)
			endless(j)
		})
		w.until("active=2 ready=2")
		w.patch(`{"spec":{"suspend":true}}`)
		w.until("active=0")
		w.until("terminating=0")
		w.patch(`{"spec":{"suspend":false}}`)
		w.until("active=2 ready=2")
		w.end(0, -1, 2)
		w.until("Complete=True")
	},
	"parallelism goes up, down and to nothing": func(w world) {
		w.job(0, func(j *batchv1.Job) {
			j.Spec.Completions, j.Spec.Parallelism = ptr.To[int32](8), ptr.To[int32](2)
			endless(j)
		})
		w.until("active=2 ready=2")
		w.patch(`{"spec":{"parallelism":6}}`)
		w.until("active=6 ready=6")
		w.patch(`{"spec":{"parallelism":1}}`)
		w.until("active=1 ready=1 succeeded=0 failed=0 terminating=0")
		w.patch(`{"spec":{"parallelism":0}}`)
		w.until("active=0 ready=0 succeeded=0 failed=0 terminating=0")
	},
	"indexed": func(w world) {
		w.job(0, func(j *batchv1.Job) { byIndex(j, 7); j.Spec.Parallelism = ptr.To[int32](3) })
		w.until(`done="0-6"`)
		w.until("Complete=True")
	},
	"an index is tried again": func(w world) {
		w.job(0, func(j *batchv1.Job) { byIndex(j, 3); endless(j) })
		w.until("active=3 ready=3")
		w.end(1, 1, 1)
		w.until("active=3 ready=3 succeeded=0 failed=1")
		w.end(0, -1, 3)
		w.until("Complete=True")
	},
	"indexed, fewer completions later": func(w world) {
		w.job(0, func(j *batchv1.Job) { byIndex(j, 4); endless(j) })
		w.until("active=4 ready=4")
		w.end(0, 3, 1)
		w.until(`done="3"`)
		w.patch(`{"spec":{"completions":2,"parallelism":2}}`)
		w.until(`active=2 ready=2 succeeded=0`)
		w.end(0, -1, 2)
		w.until("Complete=True")
	},
	"a limit for each index": func(w world) {
		w.job(0, func(j *batchv1.Job) {
			byIndex(j, 3)
			j.Spec.BackoffLimitPerIndex = ptr.To[int32](1)
			endless(j)
		})
		w.until("active=3 ready=3")
		w.end(1, 1, 1)
		w.until("active=3 ready=3 succeeded=0 failed=1")
		w.until("job-index-failure-count:1")
		w.end(1, 1, 1)
		w.until(`lost="1"`)
		w.end(0, -1, 2)
		w.until("Failed=True FailedIndexes")
	},
	"too many failed indexes": func(w world) {
		w.job(0, func(j *batchv1.Job) {
			byIndex(j, 4)
			j.Spec.BackoffLimitPerIndex, j.Spec.MaxFailedIndexes = ptr.To[int32](0), ptr.To[int32](1)
			endless(j)
		})
		w.until("active=4 ready=4")
		w.end(1, 0, 1)
		w.until(`lost="0"`)
		w.end(1, 2, 1)
		w.until("Failed=True MaxFailedIndexesExceeded")
	},
	"success policy": func(w world) {
		w.job(0, func(j *batchv1.Job) {
			byIndex(j, 5)
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{
				{SucceededIndexes: ptr.To("0,4")}, {SucceededIndexes: ptr.To("1-3"), SucceededCount: ptr.To[int32](2)},
			}}
			endless(j)
		})
		w.until("active=5 ready=5")
		w.end(0, 4, 1)
		w.until(`done="4"`)
		w.end(0, 1, 1)
		w.until(`done="1,4"`)
		w.end(0, 3, 1)
		w.until("Complete=True SuccessPolicy")
	},
	"a failure that is the whole Job's": func(w world) {
		w.job(0, func(j *batchv1.Job) {
			j.Spec.Completions, j.Spec.Parallelism = ptr.To[int32](2), ptr.To[int32](2)
			policy(j, batchv1.PodFailurePolicyActionFailJob, 42)
			endless(j)
		})
		w.until("active=2 ready=2")
		w.end(42, -1, 1)
		w.until("Failed=True PodFailurePolicy")
	},
	"a failure that is ignored, and one that is not": func(w world) {
		w.job(0, func(j *batchv1.Job) {
			policy(j, batchv1.PodFailurePolicyActionIgnore, 42)
			j.Spec.BackoffLimit = ptr.To[int32](0)
			endless(j)
		})
		w.until("active=1 ready=1")
		first := w.pods()[0].Name
		w.end(42, -1, 1)
		apitest.Eventually(w, func() string {
			for _, p := range w.pods() {
				if p.Name != first && p.Status.Phase == corev1.PodRunning {
					return ""
				}
			}
			return "no other Pod runs"
		})
		w.end(1, -1, 1)
		w.until("Failed=True BackoffLimitExceeded")
	},
	"a failure that ends its index": func(w world) {
		w.job(0, func(j *batchv1.Job) {
			byIndex(j, 2)
			policy(j, batchv1.PodFailurePolicyActionFailIndex, 42)
			j.Spec.BackoffLimitPerIndex = ptr.To[int32](5)
			endless(j)
		})
		w.until("active=2 ready=2")
		w.end(42, 0, 1)
		w.until(`lost="0"`)
		w.end(0, 1, 1)
		w.until("Failed=True FailedIndexes")
	},
	"a Pod that is deleted counts as failed": func(w world) {
		w.job(0, endless)
		w.until("active=1 ready=1")
		if err := w.api.Client.CoreV1().Pods(w.ns).Delete(w.Context(), w.pods()[0].Name, metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.until("active=1 ready=1 succeeded=0 failed=1 terminating=0")
		w.end(0, -1, 1)
		w.until("Complete=True")
	},
	"a Pod that is deleted is replaced when it has ended": func(w world) {
		w.job(0, func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed); endless(j) })
		w.until("active=1 ready=1")
		if err := w.api.Client.CoreV1().Pods(w.ns).Delete(w.Context(), w.pods()[0].Name, metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.until("active=1 ready=1 succeeded=0 failed=1 terminating=0")
		w.end(0, -1, 1)
		w.until("Complete=True")
	},
	"managed by another controller": func(w world) {
		w.job(0, func(j *batchv1.Job) { j.Spec.ManagedBy = ptr.To("example.com/other") })
		time.Sleep(1500 * time.Millisecond) // nothing is to happen
		if n := len(w.pods()); n != 0 {
			w.Errorf("%d Pods", n)
		}
	},
	"a Pod is let go and adopted again": func(w world) {
		w.job(0, endless)
		w.until("active=1 ready=1")
		name := w.pods()[0].Name
		pods := w.api.Client.CoreV1().Pods(w.ns)
		label := w.pods()[0].Labels["batch.kubernetes.io/controller-uid"]
		set := func(value string) {
			if _, err := pods.Patch(w.Context(), name, types.MergePatchType,
				[]byte(`{"metadata":{"labels":{"batch.kubernetes.io/controller-uid":"`+value+`"}}}`), metav1.PatchOptions{}); err != nil {
				w.Fatal(err)
			}
		}
		set("other")
		w.until("of none: Running deleting=false finalizers=[]")
		apitest.Eventually(w, w.api.Pods(w, w.ns, 2))
		set(label)
		apitest.Eventually(w, w.api.Pods(w, w.ns, 1)) // two are one too many
		w.until("active=1 ready=1 succeeded=0 failed=0 terminating=0")
	},
	"deleted in the background": func(w world) {
		w.job(0, endless)
		w.until("active=1 ready=1")
		w.delete(metav1.DeletePropagationBackground)
		apitest.Eventually(w, w.api.Pods(w, w.ns, 0))
	},
	"deleted in the foreground": func(w world) {
		w.job(0, endless)
		w.until("active=1 ready=1")
		w.delete(metav1.DeletePropagationForeground)
		apitest.Eventually(w, func() string {
			if d := w.Dump(); strings.Contains(d, "job a") {
				return d
			}
			return ""
		})
	},
	"deleted, its Pods orphaned": func(w world) {
		w.job(0, endless)
		w.until("active=1 ready=1")
		w.delete(metav1.DeletePropagationOrphan)
		w.until("of none: Running deleting=false finalizers=[]")
	},
	"a quota that is too small": func(w world) {
		w.api.Quota(w, w.ns, "q", "2")
		w.job(0, func(j *batchv1.Job) {
			j.Spec.Completions, j.Spec.Parallelism = ptr.To[int32](4), ptr.To[int32](4)
			endless(j)
		})
		w.until("active=2 ready=2")
		if err := w.api.Client.CoreV1().ResourceQuotas(w.ns).Delete(w.Context(), "q", metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
		w.until("active=4 ready=4")
		w.end(0, -1, 4)
		w.until("Complete=True")
	},
	"a hundred": func(w world) {
		w.job(0, func(j *batchv1.Job) { byIndex(j, 100) })
		w.until(`done="0-99"`)
		w.until("Complete=True")
	},
}

// policy is a pod failure policy with one rule for an exit code.
func policy(j *batchv1.Job, action batchv1.PodFailurePolicyAction, code int32) {
	j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
		Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code}},
	}}}
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
	// Ten seconds after each failure would be most of the test's time. Ours
	// and upstream's read the same variable.
	wait := upstream.DefaultJobPodFailureBackOff
	upstream.DefaultJobPodFailureBackOff = 50 * time.Millisecond
	t.Cleanup(func() { upstream.DefaultJobPodFailureBackOff = wait })
	apitest.AsUpstream(t, scenarios, stage(), stage(names.JobController))
}
