package ttlafterfinished_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
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

// job creates a Job that ends at once and has this time to live.
func (w world) job(ttl *int32, code int) {
	w.Helper()
	spec := apitest.PodSpec()
	spec.RestartPolicy = corev1.RestartPolicyNever
	spec.Containers[0].Image = apitest.ExitImage(code)
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: batchv1.JobSpec{
		TTLSecondsAfterFinished: ttl, BackoffLimit: ptr.To[int32](0), Template: corev1.PodTemplateSpec{Spec: spec},
	}}
	if _, err := w.api.Client.BatchV1().Jobs(w.ns).Create(w.Context(), job, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
}

func (w world) patch(patch string) {
	w.Helper()
	if _, err := w.api.Client.BatchV1().Jobs(w.ns).Patch(w.Context(), "a", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		w.Fatal(err)
	}
}

// Dump prints the Jobs, how they ended, and how many Pods are left.
func (w world) Dump() string {
	jobs, err := w.api.Client.BatchV1().Jobs(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	pods, err := w.api.Client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	dump := fmt.Sprintf("%d jobs, %d pods", len(jobs.Items), len(pods.Items))
	for _, j := range jobs.Items {
		for _, c := range j.Status.Conditions {
			dump += fmt.Sprint(" ", c.Type)
		}
	}
	return dump
}

func (w world) until(part string) time.Duration {
	w.Helper()
	return apitest.Until(w, part)
}

var scenarios = map[string]func(w world){
	"at once":         func(w world) { w.job(ptr.To[int32](0), 0); w.until("0 jobs, 0 pods") },
	"after a second":  func(w world) { w.job(ptr.To[int32](1), 0); w.until("Complete"); w.until("0 jobs, 0 pods") },
	"one that failed": func(w world) { w.job(ptr.To[int32](1), 1); w.until("Failed"); w.until("0 jobs, 0 pods") },
	"no time to live": func(w world) { w.job(nil, 0); w.until("Complete") },
	"one that is added": func(w world) {
		w.job(nil, 0)
		w.until("Complete")
		w.patch(`{"spec":{"ttlSecondsAfterFinished":0}}`)
		w.until("0 jobs, 0 pods")
	},
	"one that is raised": func(w world) {
		w.job(ptr.To[int32](5), 0)
		w.until("Complete")
		w.patch(`{"spec":{"ttlSecondsAfterFinished":1000}}`)
		time.Sleep(6 * time.Second)
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
	apitest.AsUpstream(t, scenarios, stage(), stage(names.TTLAfterFinishedController))
}
