package deployment

import (
	"fmt"
	"sort"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/deployment/util"
	labelsutil "k8s.io/kubernetes/pkg/util/labels"
	"k8s.io/utils/ptr"
)

// historyLength is how many characters the annotation with a set's former
// revisions may have; upstream's.
const historyLength = 2000

// adopt brings the set with the Deployment's template up to date in what may
// change without a rollout, and the Deployment's revision to the set's.
func (p *pass) adopt(revision string) {
	if p.newSet == nil {
		return
	}
	util.SetNewReplicaSetAnnotations(p.ctx, p.d, p.newSet, revision, true, historyLength)
	p.newSet.Spec.MinReadySeconds = p.d.Spec.MinReadySeconds
	util.SetDeploymentRevision(p.d, p.newSet.Annotations[util.RevisionAnnotation])
	if util.HasProgressDeadline(p.d) && util.GetDeploymentCondition(p.d.Status, appsv1.DeploymentProgressing) == nil {
		p.condition(&p.d.Status, appsv1.DeploymentProgressing, corev1.ConditionTrue, util.FoundNewRSReason,
			fmt.Sprintf("Found new replica set %q", p.newSet.Name))
	}
}

// ensureNewSet plans the set with the Deployment's template, as large as the
// strategy allows at once. Its name is the template's hash: a second attempt
// finds the first one's.
func (p *pass) ensureNewSet(revision string) {
	if p.newSet != nil {
		return
	}
	template := *p.d.Spec.Template.DeepCopy()
	hash := controller.ComputeHash(&template, p.d.Status.CollisionCount)
	template.Labels = labelsutil.CloneAndAddLabel(p.d.Spec.Template.Labels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.d.Namespace, Name: setName(p.d.Name, hash), Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p.d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        ptr.To[int32](0),
			MinReadySeconds: p.d.Spec.MinReadySeconds,
			Selector:        labelsutil.CloneSelectorAndAddLabel(p.d.Spec.Selector, appsv1.DefaultDeploymentUniqueLabelKey, hash),
			Template:        template,
		},
	}
	if size, err := util.NewRSNewReplicas(p.d, append(p.all(), rs), rs); err == nil {
		*rs.Spec.Replicas = size
	}
	util.SetNewReplicaSetAnnotations(p.ctx, p.d, rs, revision, false, historyLength)
	util.SetDeploymentRevision(p.d, revision)
	if util.HasProgressDeadline(p.d) {
		p.condition(&p.d.Status, appsv1.DeploymentProgressing, corev1.ConditionTrue, util.NewReplicaSetReason,
			fmt.Sprintf("Created new replica set %q", rs.Name))
	}
	p.newSet, p.plan.create = rs, &change{set: rs}
	if *rs.Spec.Replicas > 0 {
		p.plan.create.say = &note{corev1.EventTypeNormal, "ScalingReplicaSet",
			fmt.Sprintf("Scaled up replica set %s from 0 to %d", rs.Name, *rs.Spec.Replicas)}
	}
}

// setName is the Deployment's name and the hash, within the limit of names.
func setName(deployment, hash string) string {
	most := validation.DNS1123SubdomainMaxLength - len(hash) - 1
	return deployment[:min(len(deployment), most)] + "-" + hash
}

// resize gives a set another size; it tells whether that is another one.
func (p *pass) resize(rs *appsv1.ReplicaSet, size int32) bool {
	if *rs.Spec.Replicas == size {
		return false
	}
	p.setSize(rs, size)
	return true
}

// setSize gives a set its size, and what the proportions are of.
func (p *pass) setSize(rs *appsv1.ReplicaSet, size int32) {
	*rs.Spec.Replicas = size
	util.SetReplicasAnnotations(rs, *p.d.Spec.Replicas, *p.d.Spec.Replicas+util.MaxSurge(*p.d))
}

// scale follows a change of the Deployment's size, outside of the rollout: one
// active set takes it all; in the middle of a rollout each set gets its
// proportion, so that a bad template gets no larger a part than it had.
func (p *pass) scale() {
	if one := util.FindActiveOrLatest(p.newSet, p.old); one != nil {
		p.resize(one, *p.d.Spec.Replicas)
		return
	}
	if util.IsSaturated(p.d, p.newSet) {
		for _, rs := range controller.FilterActiveReplicaSets(p.old) {
			p.resize(rs, 0)
		}
		return
	}
	if util.IsRollingUpdate(p.d) {
		p.scaleInProportion()
	}
}

func (p *pass) scaleInProportion() {
	sets := controller.FilterActiveReplicaSets(p.all())
	allowed := int32(0)
	if *p.d.Spec.Replicas > 0 {
		allowed = *p.d.Spec.Replicas + util.MaxSurge(*p.d)
	}
	add := allowed - util.GetReplicaCountForReplicaSets(sets)
	// Of sets of the same size, the newer grows and the older shrinks first.
	switch {
	case add > 0:
		sort.Sort(controller.ReplicaSetsBySizeNewer(sets))
	case add < 0:
		sort.Sort(controller.ReplicaSetsBySizeOlder(sets))
	}
	sizes, added := make([]int32, len(sets)), int32(0)
	for i, rs := range sets {
		part := int32(0)
		if add != 0 {
			part = util.GetReplicaSetProportion(klog.FromContext(p.ctx), rs, *p.d, add, added)
		}
		sizes[i] = *rs.Spec.Replicas + part
		added += part
	}
	if len(sets) > 0 && add != 0 {
		sizes[0] = max(0, sizes[0]+add-added) // what rounding left over
	}
	for i, rs := range sets {
		p.setSize(rs, sizes[i])
	}
}
