package deployment

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/deployment/util"
)

// state is what a pass looks at. Nothing in it is changed.
type state struct {
	deployment *appsv1.Deployment
	// sets are the ReplicaSets that the Deployment controls.
	sets []*appsv1.ReplicaSet
	// oldPods tells, for Recreate, whether a Pod of an old set may still run.
	oldPods func(newSet *appsv1.ReplicaSet) bool
	now     time.Time
	// countTerminating is upstream's feature DeploymentReplicaSetTerminatingReplicas.
	countTerminating bool
}

// note is an event about the Deployment.
type note struct {
	kind, reason, message string
}

// change is a write of a ReplicaSet, and what to tell about it.
type change struct {
	set *appsv1.ReplicaSet
	say *note
}

// plan is what a pass does, in this order.
type plan struct {
	// rollback replaces the Deployment; there is nothing else to do then.
	rollback *appsv1.Deployment
	create   *change
	update   []change
	remove   []*appsv1.ReplicaSet
	// deployment has the status, and the annotation of the revision, to write
	// if they differ.
	deployment *appsv1.Deployment
	notes      []note
	// again is when to look at the progress next; zero: when something happens.
	again time.Duration
}

// pass works on copies; plan is their difference from state.
type pass struct {
	state
	ctx context.Context
	d   *appsv1.Deployment
	// newSet has the Deployment's template; nil when there is none yet.
	newSet *appsv1.ReplicaSet
	old    []*appsv1.ReplicaSet
	before map[string]*appsv1.ReplicaSet
	plan   plan
}

// decide plans one pass.
func decide(ctx context.Context, s state) plan {
	p := &pass{state: s, ctx: ctx, d: s.deployment.DeepCopy(), before: map[string]*appsv1.ReplicaSet{}}
	var sets []*appsv1.ReplicaSet
	for _, rs := range s.sets {
		p.before[rs.Name] = rs
		sets = append(sets, rs.DeepCopy())
	}
	p.newSet = util.FindNewReplicaSet(p.d, sets)
	_, p.old = util.FindOldReplicaSets(p.d, sets)
	p.run()
	p.collect()
	return p.plan
}

func (p *pass) run() {
	if p.d.DeletionTimestamp != nil {
		p.d.Status = p.counts()
		return
	}
	p.notePause()
	revision := strconv.FormatInt(util.MaxRevision(klog.FromContext(p.ctx), p.old)+1, 10)
	p.adopt(revision)
	rollback := rollbackTo(p.d)
	switch {
	case p.d.Spec.Paused:
		p.scale()
		if rollback == nil {
			p.cleanUp()
		}
		p.d.Status = p.counts()
	case rollback != nil:
		p.ensureNewSet(revision)
		if p.plan.create == nil {
			p.rollBack(*rollback)
			return
		}
		p.progress()
	case p.resized():
		p.scale()
		p.d.Status = p.counts()
	case p.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		p.recreate(revision)
		p.progress()
	default:
		p.ensureNewSet(revision)
		p.roll()
		p.progress()
	}
}

// all are the sets, old ones first.
func (p *pass) all() []*appsv1.ReplicaSet {
	sets := append([]*appsv1.ReplicaSet{}, p.old...)
	if p.newSet != nil {
		sets = append(sets, p.newSet)
	}
	return sets
}

// resized tells whether the Deployment has got another size since its sets got
// theirs.
func (p *pass) resized() bool {
	for _, rs := range controller.FilterActiveReplicaSets(p.all()) {
		if was, ok := util.GetDesiredReplicasAnnotation(klog.FromContext(p.ctx), rs); ok && was != *p.d.Spec.Replicas {
			return true
		}
	}
	return false
}

// roll moves a RollingUpdate one step.
func (p *pass) roll() {
	want, have := *p.d.Spec.Replicas, *p.newSet.Spec.Replicas
	if have != want {
		size := want // too large
		if have < want {
			grown, err := util.NewRSNewReplicas(p.d, p.all(), p.newSet)
			if err != nil {
				return // admission lets no such maxSurge pass
			}
			size = grown
		}
		if p.resize(p.newSet, size) {
			return
		}
	}
	if p.shrinkOld() {
		return
	}
	if util.DeploymentComplete(p.d, &p.deployment.Status) {
		p.cleanUp()
	}
}

// shrinkOld takes old Pods away as far as enough stay available: those that
// are not available first, since they cost nothing.
func (p *pass) shrinkOld() bool {
	active := controller.FilterActiveReplicaSets(p.old)
	sort.Sort(controller.ReplicaSetsByCreationTimestamp(active))
	least := *p.d.Spec.Replicas - util.MaxUnavailable(*p.d)
	unavailableNew := *p.newSet.Spec.Replicas - p.newSet.Status.AvailableReplicas
	if util.GetReplicaCountForReplicaSets(active) == 0 {
		return false
	}
	spare := util.GetReplicaCountForReplicaSets(p.all()) - least - unavailableNew
	if spare <= 0 {
		return false
	}
	shrunk := false
	for _, rs := range active {
		take := min(spare, *rs.Spec.Replicas-rs.Status.AvailableReplicas)
		if take > 0 && p.resize(rs, *rs.Spec.Replicas-take) {
			spare -= take
			shrunk = true
		}
	}
	spare = util.GetAvailableReplicaCountForReplicaSets(append(active, p.newSet)) - least
	for _, rs := range active {
		take := min(spare, *rs.Spec.Replicas)
		if take > 0 && p.resize(rs, *rs.Spec.Replicas-take) {
			spare -= take
			shrunk = true
		}
	}
	return shrunk
}

// recreate moves a Recreate one step: nothing of the new starts before all of
// the old has ended.
func (p *pass) recreate(revision string) {
	shrunk := false
	for _, rs := range controller.FilterActiveReplicaSets(p.old) {
		shrunk = p.resize(rs, 0) || shrunk
	}
	if shrunk || util.GetActualReplicaCountForReplicaSets(p.old) > 0 || p.oldPods(p.newSet) {
		return
	}
	p.ensureNewSet(revision)
	p.resize(p.newSet, *p.d.Spec.Replicas)
	if util.DeploymentComplete(p.d, &p.deployment.Status) {
		p.cleanUp()
	}
}

// cleanUp deletes the oldest sets beyond the history that is wanted, of those
// that are empty.
func (p *pass) cleanUp() {
	if !util.HasRevisionHistoryLimit(p.d) {
		return
	}
	alive := controller.FilterReplicaSets(p.old, func(rs *appsv1.ReplicaSet) bool {
		return rs != nil && rs.DeletionTimestamp == nil
	})
	sort.Sort(util.ReplicaSetsByRevision(alive))
	for i := range max(0, len(alive)-int(*p.d.Spec.RevisionHistoryLimit)) {
		rs := alive[i]
		if rs.Status.Replicas == 0 && *rs.Spec.Replicas == 0 && rs.Generation <= rs.Status.ObservedGeneration {
			p.plan.remove = append(p.plan.remove, rs)
		}
	}
}

// rollbackTo is the revision that the deprecated annotation asks for, zero for
// the last one; nil when nothing is asked for.
func rollbackTo(d *appsv1.Deployment) *int64 {
	revision, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedRollbackTo], 10, 64)
	if err != nil {
		return nil
	}
	return &revision
}

// rollBack puts the template of an old revision back, and the annotations that
// belonged to it. In any case the wish is taken off.
func (p *pass) rollBack(revision int64) {
	log := klog.FromContext(p.ctx)
	delete(p.d.Annotations, appsv1.DeprecatedRollbackTo)
	p.plan.rollback = p.d
	if revision == 0 {
		if revision = util.LastRevision(log, p.all()); revision == 0 {
			p.say(corev1.EventTypeWarning, util.RollbackRevisionNotFound, "Unable to find last revision.")
			return
		}
	}
	for _, rs := range p.all() {
		if v, err := util.Revision(rs); err != nil || v != revision {
			continue
		}
		if util.EqualIgnoreHash(&p.d.Spec.Template, &rs.Spec.Template) {
			p.say(corev1.EventTypeWarning, util.RollbackTemplateUnchanged,
				fmt.Sprintf("The rollback revision contains the same template as current deployment %q", p.d.Name))
			return
		}
		util.SetFromReplicaSetTemplate(p.d, rs.Spec.Template)
		util.SetDeploymentAnnotationsTo(p.d, rs)
		delete(p.d.Annotations, appsv1.DeprecatedRollbackTo)
		p.say(corev1.EventTypeNormal, util.RollbackDone, fmt.Sprintf("Rolled back deployment %q to revision %d", p.d.Name, revision))
		return
	}
	p.say(corev1.EventTypeWarning, util.RollbackRevisionNotFound, "Unable to find the revision to rollback to.")
}

func (p *pass) say(kind, reason, message string) {
	p.plan.notes = append(p.plan.notes, note{kind, reason, message})
}

// collect turns what was changed on the copies into writes.
func (p *pass) collect() {
	if p.plan.rollback != nil {
		return
	}
	removed := map[string]bool{}
	for _, rs := range p.plan.remove {
		removed[rs.Name] = true
	}
	for _, rs := range p.all() {
		was := p.before[rs.Name]
		if was == nil || removed[rs.Name] || equality.Semantic.DeepEqual(was.Annotations, rs.Annotations) && equality.Semantic.DeepEqual(was.Spec, rs.Spec) {
			continue
		}
		c := change{set: rs}
		if from, to := *was.Spec.Replicas, *rs.Spec.Replicas; from != to {
			direction := "up"
			if to < from {
				direction = "down"
			}
			c.say = &note{corev1.EventTypeNormal, "ScalingReplicaSet",
				fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction, rs.Name, from, to)}
		}
		p.plan.update = append(p.plan.update, c)
	}
	p.plan.deployment = p.d
}
