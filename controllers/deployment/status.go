package deployment

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/controller/deployment/util"
)

// condition sets a condition as of now.
func (p *pass) condition(status *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType, value corev1.ConditionStatus, reason, message string) {
	now := metav1.Time{Time: p.now}
	util.SetDeploymentCondition(status, appsv1.DeploymentCondition{
		Type: kind, Status: value, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now,
	})
}

// notePause starts the clock of progress anew when the Deployment is paused or
// resumed. A deadline that is already missed stays so.
func (p *pass) notePause() {
	progressing := util.GetDeploymentCondition(p.d.Status, appsv1.DeploymentProgressing)
	if !util.HasProgressDeadline(p.d) || progressing != nil && progressing.Reason == util.TimedOutReason {
		return
	}
	noted := progressing != nil && progressing.Reason == util.PausedDeployReason
	switch {
	case p.d.Spec.Paused && !noted:
		p.condition(&p.d.Status, appsv1.DeploymentProgressing, corev1.ConditionUnknown, util.PausedDeployReason, "Deployment is paused")
	case !p.d.Spec.Paused && noted:
		p.condition(&p.d.Status, appsv1.DeploymentProgressing, corev1.ConditionUnknown, util.ResumedDeployReason, "Deployment is resumed")
	}
}

// counts is the status but for the progress.
func (p *pass) counts() appsv1.DeploymentStatus {
	sets := p.all()
	available := util.GetAvailableReplicaCountForReplicaSets(sets)
	status := appsv1.DeploymentStatus{
		ObservedGeneration:  p.d.Generation,
		Replicas:            util.GetActualReplicaCountForReplicaSets(sets),
		UpdatedReplicas:     util.GetActualReplicaCountForReplicaSets([]*appsv1.ReplicaSet{p.newSet}),
		ReadyReplicas:       util.GetReadyReplicaCountForReplicaSets(sets),
		AvailableReplicas:   available,
		UnavailableReplicas: max(0, util.GetReplicaCountForReplicaSets(sets)-available),
		CollisionCount:      p.d.Status.CollisionCount,
		Conditions:          append([]appsv1.DeploymentCondition{}, p.d.Status.Conditions...),
	}
	if p.countTerminating {
		status.TerminatingReplicas = util.GetTerminatingReplicaCountForReplicaSets(sets)
	}
	if available >= *p.d.Spec.Replicas-util.MaxUnavailable(*p.d) {
		p.condition(&status, appsv1.DeploymentAvailable, corev1.ConditionTrue, util.MinimumReplicasAvailable, "Deployment has minimum availability.")
	} else {
		p.condition(&status, appsv1.DeploymentAvailable, corev1.ConditionFalse, util.MinimumReplicasUnavailable, "Deployment does not have minimum availability.")
	}
	return status
}

// progress is the status during a rollout: complete, moving, or too late.
func (p *pass) progress() {
	status := p.counts()
	if !util.HasProgressDeadline(p.d) {
		util.RemoveDeploymentCondition(&status, appsv1.DeploymentProgressing)
	}
	current := util.GetDeploymentCondition(p.d.Status, appsv1.DeploymentProgressing)
	done := status.Replicas == status.UpdatedReplicas && current != nil && current.Reason == util.NewRSAvailableReason
	if util.HasProgressDeadline(p.d) && !done {
		p.judge(&status, current)
	}
	if failure := p.failure(); failure != nil {
		util.SetDeploymentCondition(&status, *failure)
	} else {
		util.RemoveDeploymentCondition(&status, appsv1.DeploymentReplicaFailure)
	}
	p.d.Status = status
	if same(p.deployment, p.d) {
		p.plan.again = p.untilDeadline(current)
	}
}

func (p *pass) judge(status *appsv1.DeploymentStatus, current *appsv1.DeploymentCondition) {
	subject := fmt.Sprintf("Deployment %q", p.d.Name)
	if p.newSet != nil {
		subject = fmt.Sprintf("ReplicaSet %q", p.newSet.Name)
	}
	switch {
	case util.DeploymentComplete(p.d, status):
		p.condition(status, appsv1.DeploymentProgressing, corev1.ConditionTrue, util.NewRSAvailableReason, subject+" has successfully progressed.")
	case util.DeploymentProgressing(p.d, status):
		// Every move is noted, so that the deadline counts from the last one.
		now := metav1.Time{Time: p.now}
		moved := appsv1.DeploymentCondition{
			Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: util.ReplicaSetUpdatedReason,
			Message: subject + " is progressing.", LastUpdateTime: now, LastTransitionTime: now,
		}
		if current != nil {
			if current.Status == corev1.ConditionTrue {
				moved.LastTransitionTime = current.LastTransitionTime
			}
			util.RemoveDeploymentCondition(status, appsv1.DeploymentProgressing)
		}
		util.SetDeploymentCondition(status, moved)
	case p.late(util.GetDeploymentCondition(*status, appsv1.DeploymentProgressing)):
		p.condition(status, appsv1.DeploymentProgressing, corev1.ConditionFalse, util.TimedOutReason, subject+" has timed out progressing.")
	}
}

// deadline is when a rollout that has not moved since current is too late.
func (p *pass) deadline(current *appsv1.DeploymentCondition) time.Time {
	return current.LastUpdateTime.Add(time.Duration(*p.d.Spec.ProgressDeadlineSeconds) * time.Second)
}

func (p *pass) late(current *appsv1.DeploymentCondition) bool {
	switch {
	case current == nil:
		return false
	case current.Reason == util.NewRSAvailableReason:
		// The last rollout's success; this one's start is not noted yet.
		return false
	case current.Reason == util.TimedOutReason:
		return true
	default:
		return p.deadline(current).Before(p.now)
	}
}

// untilDeadline is how long a rollout that does not move has left.
func (p *pass) untilDeadline(current *appsv1.DeploymentCondition) time.Duration {
	if !util.HasProgressDeadline(p.d) || current == nil || current.Reason == util.TimedOutReason || util.DeploymentComplete(p.d, &p.d.Status) {
		return 0
	}
	const past = 50 * time.Millisecond // for good
	return max(0, p.deadline(current).Sub(p.now)) + past
}

// failure is why Pods cannot be created or deleted, the new set's first.
func (p *pass) failure() *appsv1.DeploymentCondition {
	for _, rs := range append([]*appsv1.ReplicaSet{p.newSet}, p.old...) {
		if rs == nil {
			continue
		}
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				failure := util.ReplicaSetToDeploymentCondition(c)
				return &failure
			}
		}
	}
	return nil
}

// same tells whether there is no status to write.
func same(before, after *appsv1.Deployment) bool {
	return equality.Semantic.DeepEqual(before.Status, after.Status) &&
		before.Annotations[util.RevisionAnnotation] == after.Annotations[util.RevisionAnnotation]
}
