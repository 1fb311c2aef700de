package deployment

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/pkg/controller/deployment/util"
	"k8s.io/utils/ptr"
)

// simulation is a cluster with one Deployment: passes of ours, and a
// ReplicaSet controller and kubelets that take their time.
type simulation struct {
	t      *testing.T
	d      *appsv1.Deployment
	sets   []*appsv1.ReplicaSet
	now    time.Time
	random *rand.Rand
	log    []string
	// bad are images that never become available.
	bad map[string]bool
}

func newSimulation(t *testing.T, replicas int32, strategy appsv1.DeploymentStrategy, seed uint64) *simulation {
	return &simulation{
		t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), random: rand.New(rand.NewPCG(seed, 1)), bad: map[string]bool{},
		d: &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "d", Generation: 1},
			Spec: appsv1.DeploymentSpec{
				Replicas: ptr.To(replicas), Strategy: strategy,
				Selector:                &metav1.LabelSelector{MatchLabels: map[string]string{"app": "d"}},
				RevisionHistoryLimit:    ptr.To[int32](2),
				ProgressDeadlineSeconds: ptr.To[int32](600),
				Template:                template("v1"),
			},
		},
	}
}

func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "d"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}
}

func rolling(surge, unavailable int) appsv1.DeploymentStrategy {
	return appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
		MaxSurge: ptr.To(intstr.FromInt(surge)), MaxUnavailable: ptr.To(intstr.FromInt(unavailable)),
	}}
}

func (s *simulation) change(image string, replicas int32) {
	s.d = s.d.DeepCopy()
	s.d.Generation++
	s.d.Spec.Template, s.d.Spec.Replicas = template(image), ptr.To(replicas)
}

// pass runs decide and does what it says. It tells whether anything was to do.
func (s *simulation) pass() bool {
	s.now = s.now.Add(time.Second)
	p := decide(s.t.Context(), state{
		deployment: s.d, sets: s.sets, now: s.now, countTerminating: true,
		oldPods: func(newSet *appsv1.ReplicaSet) bool {
			for _, rs := range s.sets {
				if (newSet == nil || rs.UID != newSet.UID) && rs.Status.Replicas > 0 {
					return true
				}
			}
			return false
		},
	})
	if p.rollback != nil {
		s.d = p.rollback.DeepCopy()
		s.d.Generation++
		return true
	}
	did := false
	if p.create != nil {
		rs := p.create.set.DeepCopy()
		rs.UID, rs.Generation, rs.CreationTimestamp = types.UID(rs.Name), 1, metav1.NewTime(s.now)
		s.sets = append(s.sets, rs)
		s.note(p.create)
		did = true
	}
	for _, c := range p.update {
		for i, rs := range s.sets {
			if rs.Name == c.set.Name {
				s.sets[i] = c.set.DeepCopy()
				s.sets[i].Generation++
			}
		}
		s.note(&c)
		did = true
	}
	for _, gone := range p.remove {
		s.sets = slices.DeleteFunc(slices.Clone(s.sets), func(rs *appsv1.ReplicaSet) bool { return rs.Name == gone.Name })
		did = true
	}
	if !same(s.d, p.deployment) {
		updated := s.d.DeepCopy()
		updated.Status = p.deployment.Status
		updated.Annotations = p.deployment.Annotations
		s.d = updated
		did = true
	}
	return did
}

func (s *simulation) note(c *change) {
	if c.say != nil {
		s.log = append(s.log, strings.ReplaceAll(c.say.message, c.set.Name, c.set.Spec.Template.Spec.Containers[0].Image))
	}
}

// others let the ReplicaSet controller and kubelets do some of their work.
func (s *simulation) others() {
	for i, rs := range s.sets {
		rs = rs.DeepCopy()
		want := *rs.Spec.Replicas
		switch have := rs.Status.Replicas; {
		case have < want:
			rs.Status.Replicas = have + 1 + s.random.Int32N(want-have)
		case have > want:
			rs.Status.Replicas = want
			rs.Status.AvailableReplicas = min(rs.Status.AvailableReplicas, want) // unready Pods go first
		}
		if room := rs.Status.Replicas - rs.Status.AvailableReplicas; room > 0 && !s.bad[rs.Spec.Template.Spec.Containers[0].Image] {
			rs.Status.AvailableReplicas += s.random.Int32N(room + 1)
		}
		rs.Status.ReadyReplicas, rs.Status.ObservedGeneration = rs.Status.AvailableReplicas, rs.Generation
		rs.Status.TerminatingReplicas = ptr.To[int32](0)
		s.sets[i] = rs
	}
}

// settle lets all work until nothing is left to do; check sees every step.
func (s *simulation) settle(check func()) {
	s.t.Helper()
	for range 10000 {
		before := s.world()
		did := s.pass()
		check()
		s.others()
		check()
		if !did && s.world() == before && (s.complete() || s.hangs()) {
			return
		}
	}
	s.t.Fatalf("does not settle: %s", strings.Join(s.log, "; "))
}

func (s *simulation) world() string {
	var b strings.Builder
	for _, rs := range s.sets {
		fmt.Fprintln(&b, rs.Name, *rs.Spec.Replicas, rs.Generation, rs.Status.Replicas, rs.Status.AvailableReplicas, rs.Status.ObservedGeneration)
	}
	return b.String()
}

func (s *simulation) complete() bool {
	return util.DeploymentComplete(s.d, &s.d.Status)
}

func (s *simulation) hangs() bool { return s.bad[s.d.Spec.Template.Spec.Containers[0].Image] }

func (s *simulation) sum(of func(*appsv1.ReplicaSet) int32) int32 {
	total := int32(0)
	for _, rs := range s.sets {
		total += of(rs)
	}
	return total
}

// TestRollingKeepsItsBounds rolls random Deployments out and over, and checks
// at every step that no more Pods are asked for than the surge allows, and
// that no available Pod is given up that is needed.
func TestRollingKeepsItsBounds(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 2))
		replicas, surge, unavailable := 1+random.Int32N(20), random.IntN(5), random.IntN(5)
		if surge == 0 && unavailable == 0 {
			surge = 1
		}
		s := newSimulation(t, replicas, rolling(surge, unavailable), seed)
		s.settle(func() {})
		for step := range 5 {
			image := fmt.Sprintf("v%d", step+2)
			s.bad[image] = random.IntN(3) == 0 && step < 4
			s.change(image, replicas)
			least := replicas - util.MaxUnavailable(*s.d)
			s.settle(func() {
				asked := s.sum(func(rs *appsv1.ReplicaSet) int32 { return *rs.Spec.Replicas })
				kept := s.sum(func(rs *appsv1.ReplicaSet) int32 { return min(*rs.Spec.Replicas, rs.Status.AvailableReplicas) })
				if asked > replicas+int32(surge) || kept < least {
					t.Fatalf("seed %d: %d Pods asked for of at most %d, %d available kept of at least %d\n%s", seed,
						asked, replicas+int32(surge), kept, least, strings.Join(s.log, "\n"))
				}
			})
		}
		if empty := s.sum(func(rs *appsv1.ReplicaSet) int32 {
			if *rs.Spec.Replicas == 0 {
				return 1
			}
			return 0
		}); empty > 2 {
			t.Errorf("seed %d: %d old sets kept, want 2", seed, empty)
		}
		if got := s.d.Annotations[util.RevisionAnnotation]; got != "6" {
			t.Errorf("seed %d: revision %s", seed, got)
		}
	}
}

// TestRecreateNeverOverlaps checks at every step that Pods of one set only
// are asked for or run.
func TestRecreateNeverOverlaps(t *testing.T) {
	for seed := range uint64(50) {
		s := newSimulation(t, 1+int32(seed%7), appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}, seed)
		s.settle(func() {})
		for step := range 4 {
			s.change(fmt.Sprintf("v%d", step+2), *s.d.Spec.Replicas)
			s.settle(func() {
				running := 0
				for _, rs := range s.sets {
					if *rs.Spec.Replicas > 0 || rs.Status.Replicas > 0 {
						running++
					}
				}
				if running > 1 {
					t.Fatalf("seed %d: %d sets run\n%s", seed, running, strings.Join(s.log, "\n"))
				}
			})
		}
	}
}

// TestScalingKeepsProportions changes the size of a rollout that hangs, many
// times, and checks that all sets together have the size and the surge.
func TestScalingKeepsProportions(t *testing.T) {
	for seed := range uint64(100) {
		s := newSimulation(t, 10, rolling(3, 2), seed)
		s.settle(func() {})
		s.bad["bad"] = true
		s.change("bad", 10)
		s.settle(func() {})
		for range 6 {
			size := 5 + s.random.Int32N(60)
			s.change("bad", size)
			s.settle(func() {})
			if asked := s.sum(func(rs *appsv1.ReplicaSet) int32 { return *rs.Spec.Replicas }); asked > size+3 || asked < size {
				t.Fatalf("seed %d: %d Pods for a size of %d\n%s", seed, asked, size, strings.Join(s.log, "\n"))
			}
		}
		s.change("good", 10)
		s.settle(func() {})
	}
}

// TestRolloutLog is the story of three rollouts.
func TestRolloutLog(t *testing.T) {
	s := newSimulation(t, 10, rolling(3, 2), 1)
	s.settle(func() {})
	s.bad["v2"] = true
	s.change("v2", 10)
	s.settle(func() {})
	s.change("v3", 10)
	for range 3 {
		s.pass()
	}
	want := []string{
		"Scaled up replica set v1 from 0 to 10",
		"Scaled up replica set v2 from 0 to 3",
		"Scaled down replica set v1 from 10 to 8",
		"Scaled up replica set v2 from 3 to 5",
		"Scaled down replica set v2 from 5 to 0",
		"Scaled up replica set v3 from 0 to 5",
	}
	if !slices.Equal(s.log, want) {
		t.Errorf("\n%s\nwant\n%s", strings.Join(s.log, "\n"), strings.Join(want, "\n"))
	}
}

// TestDeadline: a rollout that does not move is late after its deadline, and
// the plan says when to look.
func TestDeadline(t *testing.T) {
	s := newSimulation(t, 2, rolling(1, 0), 1)
	s.settle(func() {})
	s.bad["v2"] = true
	s.change("v2", 2)
	s.settle(func() {})
	reason := func() string {
		return util.GetDeploymentCondition(s.d.Status, appsv1.DeploymentProgressing).Reason
	}
	p := decide(t.Context(), state{deployment: s.d, sets: s.sets, now: s.now, countTerminating: true})
	if p.again <= 0 || p.again > 10*time.Minute+time.Second {
		t.Errorf("looks again after %v", p.again)
	}
	if got := reason(); got == util.TimedOutReason {
		t.Errorf("late at once")
	}
	s.now = s.now.Add(p.again)
	s.pass()
	if got := reason(); got != util.TimedOutReason {
		t.Errorf("%s after the deadline", got)
	}
	if p := decide(t.Context(), state{deployment: s.d, sets: s.sets, now: s.now, countTerminating: true}); p.again != 0 {
		t.Errorf("a late rollout is looked at again after %v", p.again)
	}
	s.change("v3", 2)
	s.settle(func() {})
	if got := reason(); got != util.NewRSAvailableReason {
		t.Errorf("%s after a good rollout", got)
	}
}
