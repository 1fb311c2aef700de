package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// ruling is what a Job's pod failure policy says of a failed Pod. Without a
// rule that matches, the failure counts.
type ruling struct {
	action batchv1.PodFailurePolicyAction
	// message says why the whole Job fails.
	message string
}

// counts tells whether the failure counts against the back-off limit.
func (r ruling) counts() bool { return r.action != batchv1.PodFailurePolicyActionIgnore }

// rule finds the first rule that a failed Pod matches.
func rule(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) ruling {
	if policy == nil {
		return ruling{}
	}
	for i, r := range policy.Rules {
		message := ""
		switch {
		case r.OnExitCodes != nil:
			c := exitedAs(&pod.Status, r.OnExitCodes)
			if c == nil {
				continue
			}
			message = fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
				c.Name, pod.Namespace, pod.Name, c.State.Terminated.ExitCode, r.Action, i)
		case r.OnPodConditions != nil:
			c := conditionAmong(&pod.Status, r.OnPodConditions)
			if c == nil {
				continue
			}
			message = fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", pod.Namespace, pod.Name, c.Type, r.Action, i)
		default:
			continue
		}
		switch r.Action {
		case batchv1.PodFailurePolicyActionFailJob:
			return ruling{action: r.Action, message: message}
		case batchv1.PodFailurePolicyActionIgnore, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionCount:
			return ruling{action: r.Action}
		}
	}
	return ruling{}
}

// exitedAs is the first container that failed as the rule says.
func exitedAs(status *corev1.PodStatus, want *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, containers := range [][]corev1.ContainerStatus{status.ContainerStatuses, status.InitContainerStatuses} {
		for i := range containers {
			c := &containers[i]
			if c.State.Terminated == nil || c.State.Terminated.ExitCode == 0 {
				continue
			}
			if want.ContainerName != nil && *want.ContainerName != c.Name {
				continue
			}
			listed := slices.Contains(want.Values, c.State.Terminated.ExitCode)
			if listed && want.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn ||
				!listed && want.Operator == batchv1.PodFailurePolicyOnExitCodesOpNotIn {
				return c
			}
		}
	}
	return nil
}

// conditionAmong is the first of the Pod's conditions that a pattern names.
func conditionAmong(status *corev1.PodStatus, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) *corev1.PodCondition {
	for i := range status.Conditions {
		c := &status.Conditions[i]
		for _, p := range patterns {
			if c.Type == p.Type && c.Status == p.Status {
				return c
			}
		}
	}
	return nil
}

// metBy tells which rule of a success policy the indexes meet, or nothing.
func metBy(policy *batchv1.SuccessPolicy, completions int, succeeded indexes) string {
	if policy == nil || len(succeeded) == 0 {
		return ""
	}
	for i, r := range policy.Rules {
		enough := func(n int) bool { return r.SucceededCount != nil && n >= int(*r.SucceededCount) }
		met := false
		if r.SucceededIndexes == nil {
			met = enough(succeeded.count())
		} else if wanted := parseIndexes(*r.SucceededIndexes, completions); len(wanted) > 0 {
			have := wanted.common(succeeded)
			met = have == wanted.count() || enough(have)
		}
		if met {
			return fmt.Sprintf("Matched rules at index %d", i)
		}
	}
	return ""
}
