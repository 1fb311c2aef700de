package job

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/utils/ptr"
)

// noIndex is the index of a Pod that has none.
const noIndex = -1

// removeFinalizer is the patch that takes our finalizer off a Pod.
var removeFinalizer = []byte(`{"metadata":{"$deleteFromPrimitiveList/finalizers":["` + batchv1.JobTrackingFinalizer + `"]}}`)

func tracked(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

func indexed(job *batchv1.Job) bool {
	return ptr.Deref(job.Spec.CompletionMode, "") == batchv1.IndexedCompletion
}

func suspended(job *batchv1.Job) bool { return ptr.Deref(job.Spec.Suspend, false) }

func perIndexLimit(job *batchv1.Job) bool { return job.Spec.BackoffLimitPerIndex != nil }

// replacesFailedOnly tells whether a Pod that terminates is replaced when it
// has ended only.
func replacesFailedOnly(job *batchv1.Job) bool {
	return ptr.Deref(job.Spec.PodReplacementPolicy, "") == batchv1.Failed
}

// failed tells whether a Pod counts as failed. One that is deleted may never
// say so itself.
func failed(job *batchv1.Job, pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed {
		return true
	}
	return !replacesFailedOnly(job) && pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded
}

// indexOf is the Pod's completion index, or noIndex.
func indexOf(pod *corev1.Pod) int {
	i, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 {
		return noIndex
	}
	return i
}

// validIndex is the Pod's completion index if the Job has it, or noIndex.
func validIndex(job *batchv1.Job, pod *corev1.Pod) int {
	if i := indexOf(pod); i < int(ptr.Deref(job.Spec.Completions, 0)) {
		return i
	}
	return noIndex
}

// indexFailures are how often the Pods of an index had failed when this one
// was made, counted and ignored.
func indexFailures(pod *corev1.Pod) (counted, ignored int) {
	return number(pod.Annotations[batchv1.JobIndexFailureCountAnnotation]), number(pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation])
}

// number reads an annotation that users may have changed.
func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > math.MaxInt32 {
		return 0
	}
	return n
}

// template is the template of the Job's Pods.
func template(job *batchv1.Job) *corev1.PodTemplateSpec {
	t := job.Spec.Template.DeepCopy()
	if !slices.Contains(t.Finalizers, batchv1.JobTrackingFinalizer) {
		t.Finalizers = append(t.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if indexed(job) {
		for _, containers := range [][]corev1.Container{t.Spec.InitContainers, t.Spec.Containers} {
			for i := range containers {
				tellIndex(&containers[i])
			}
		}
	}
	return t
}

// tellIndex lets a container read its index from its environment.
func tellIndex(c *corev1.Container) {
	const name = "JOB_COMPLETION_INDEX"
	if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == name }) {
		return
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"},
	}})
}

// templateOf is the template of the Pod of an index, and the prefix of its
// name. It carries the failures of the Pod that it replaces, if any.
func templateOf(job *batchv1.Job, base *corev1.PodTemplateSpec, index int, replaced *corev1.Pod) (*corev1.PodTemplateSpec, string) {
	t := base.DeepCopy()
	if t.Annotations == nil {
		t.Annotations = map[string]string{}
	}
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	t.Annotations[batchv1.JobCompletionIndexAnnotation] = strconv.Itoa(index)
	t.Labels[batchv1.JobCompletionIndexAnnotation] = strconv.Itoa(index)
	t.Spec.Hostname = fmt.Sprintf("%s-%d", job.Name, index)
	if perIndexLimit(job) {
		counted, ignored := 0, 0
		if replaced != nil {
			counted, ignored = indexFailures(replaced)
			if rule(job.Spec.PodFailurePolicy, replaced).counts() {
				counted++
			} else {
				ignored++
			}
		}
		t.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(counted)
		if ignored > 0 {
			t.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(ignored)
		}
	}
	suffix := fmt.Sprintf("-%d-", index)
	name := job.Name
	if longest := names.MaxGeneratedNameLength - len(suffix); len(name) > longest {
		name = name[:longest]
	}
	return t, name + suffix
}
