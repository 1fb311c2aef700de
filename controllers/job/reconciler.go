package job

import (
	"context"
	"errors"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/job/util"
	"k8s.io/kubernetes/pkg/controller/util/consistency"
	"k8s.io/kubernetes/pkg/features"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

var (
	kind         = batchv1.SchemeGroupVersion.WithKind("Job")
	jobResource  = batchv1.Resource("jobs")
	podsResource = corev1.Resource("pods")
)

// Config is what the reconciler works with.
type Config = shared.Config

// Reconciler runs Jobs.
type Reconciler struct {
	cfg          Config
	jobs         batchlisters.JobLister
	pods         corelisters.PodLister
	podsByOwner  cache.Indexer
	control      controller.PodControlInterface
	expectations controller.ControllerExpectationsInterface
	released     released
	backoffs     backoffs
	// written knows which own writes the cache has seen.
	written consistency.ConsistencyStore
}

// New makes a reconciler and its listers; it starts nothing.
func New(cfg Config) (*Reconciler, error) {
	jobInformer, podInformer := cfg.Informers.Batch().V1().Jobs(), cfg.Informers.Core().V1().Pods()
	if err := controller.AddPodControllerIndexer(podInformer.Informer()); err != nil {
		return nil, fmt.Errorf("index Pods by owner: %w", err)
	}
	r := &Reconciler{
		cfg:          cfg,
		jobs:         jobInformer.Lister(),
		pods:         podInformer.Lister(),
		podsByOwner:  podInformer.Informer().GetIndexer(),
		expectations: controller.NewControllerExpectations(),
		released:     released{byJob: map[types.NamespacedName]sets.Set[types.UID]{}},
		backoffs:     backoffs{byJob: map[types.NamespacedName]backoff{}},
		written:      consistency.NewNoopConsistencyStore(),
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.StaleControllerConsistencyJob) {
		r.written = consistency.NewConsistencyStore(map[schema.GroupResource]consistency.LastSyncRVGetter{
			jobResource:  jobInformer.Informer().GetStore(),
			podsResource: podInformer.Informer().GetStore(),
		})
	}
	r.control = cfg.PodControl(r.written)
	return r, nil
}

// SetupWithManager registers the reconciler, and the one for orphaned Pods.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if err := (orphans{r}).setup(mgr, names.JobController); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named(names.JobController).
		WithOptions(shared.OnClock(r.cfg.Clock)).
		Watches(&batchv1.Job{}, shared.OnItself(r.forget)).
		Watches(&corev1.Pod{}, r.onPod()).
		Complete(r)
}

// Reconcile creates, deletes and counts the Pods of a Job.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if ready, result, err := shared.CaughtUp(r.written, req.NamespacedName); !ready {
		return result, err
	}
	job, err := r.jobs.Jobs(req.Namespace).Get(req.Name)
	switch {
	case apierrors.IsNotFound(err):
		r.forget(ctx, req.NamespacedName, "")
		return reconcile.Result{}, nil
	case err != nil:
		return reconcile.Result{}, err
	case managedElsewhere(job):
		return reconcile.Result{}, nil
	case util.IsJobFinished(job):
		r.written.Clear(req.NamespacedName, job.UID)
		r.backoffs.set(req.NamespacedName, backoff{})
		return reconcile.Result{}, nil
	case job.Spec.CompletionMode != nil && *job.Spec.CompletionMode != batchv1.NonIndexedCompletion && *job.Spec.CompletionMode != batchv1.IndexedCompletion:
		r.cfg.Recorder.Event(job, corev1.EventTypeWarning, "UnknownCompletionMode", "Skipped Job sync because completion mode is unknown")
		return reconcile.Result{}, nil
	}
	v, err := r.observe(ctx, job.DeepCopy())
	if err != nil {
		return reconcile.Result{}, err
	}
	return r.sync(ctx, v)
}

// sync is one pass over a Job.
func (r *Reconciler) sync(ctx context.Context, v *view) (reconcile.Result, error) {
	now := r.cfg.Clock.Now()
	if v.job.Status.StartTime == nil && !suspended(v.job) {
		at := metav1.NewTime(now)
		v.job.Status.StartTime = &at
	}
	verdict, after := judge(v, now)
	c := planPods(v, verdict != nil, now)
	d := r.apply(ctx, v, c)
	over, notes, dirty := conclude(v, verdict, d, r.cfg.Clock.Now())
	if err := r.track(ctx, v, over, notes, dirty); err != nil {
		return reconcile.Result{}, fmt.Errorf("tracking status: %w", err)
	}
	if d.failure != nil {
		return reconcile.Result{}, d.failure
	}
	return reconcile.Result{RequeueAfter: soonest(after, c.after)}, nil
}

// observe reads the Pods that are the Job's, adopting and releasing what its
// selector says.
func (r *Reconciler) observe(ctx context.Context, job *batchv1.Job) (*view, error) {
	key := shared.Request(job)
	// Before the Pods are read, so that what is expected is in them.
	settled := r.expectations.SatisfiedExpectations(klog.FromContext(ctx), key.String())
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return nil, reconcile.TerminalError(fmt.Errorf("selector of %s: %w", key, err))
	}
	all, err := controller.FilterPodsByOwner(r.podsByOwner, &job.ObjectMeta, kind.Kind, true)
	if err != nil {
		return nil, err
	}
	mayAdopt := controller.RecheckDeletionTimestamp(func(ctx context.Context) (metav1.Object, error) {
		fresh, err := r.cfg.Client.BatchV1().Jobs(job.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
		if err == nil && fresh.UID != job.UID {
			err = fmt.Errorf("Job %s is another one: uid %s, was %s", key, fresh.UID, job.UID)
		}
		return fresh, err
	})
	refs := controller.NewPodControllerRefManager(r.control, job, selector, kind, mayAdopt, batchv1.JobTrackingFinalizer)
	pods, err := refs.ClaimPods(ctx, all)
	if err != nil {
		return nil, err
	}
	for i, pod := range pods {
		if !metav1.IsControlledBy(pod, job) && !tracked(pod) { // adopted right now, with a finalizer
			pods[i] = pod.DeepCopy()
			pods[i].Finalizers = append(pods[i].Finalizers, batchv1.JobTrackingFinalizer)
		}
	}
	return newView(view{
		job: job, pods: pods, active: controller.FilterActivePods(klog.FromContext(ctx), pods), settled: settled,
		released: r.released.of(key.NamespacedName), backoff: r.backoffs.of(key.NamespacedName),
	}), nil
}

// track counts Pods: it writes which, removes their finalizers, and writes the
// counters, and the end if it is the Job's.
func (r *Reconciler) track(ctx context.Context, v *view, over *batchv1.JobCondition, notes []note, dirty bool) error {
	t := count(v, over, r.cfg.Clock.Now())
	terminating := *v.job.Status.Terminating
	job := v.job
	if dirty || t.dirty {
		var err error
		if job, err = r.writeStatus(ctx, job); err != nil {
			return fmt.Errorf("adding uncounted pods to status: %w", err)
		}
		r.backoffs.set(shared.Request(job).NamespacedName, v.backoff)
		r.say(job, notes)
	}
	failure := r.release(ctx, job, t)
	dirty = settle(&job.Status, t.held)
	var end []note
	if failure == nil {
		end = finish(job, t, terminating)
	}
	if dirty || len(end) > 0 {
		if _, err := r.writeStatus(ctx, job); err != nil {
			return errors.Join(failure, fmt.Errorf("removing uncounted pods from status: %w", err))
		}
		r.say(job, end)
	}
	return failure
}

// release removes the finalizers of the Pods, and takes them off t.held.
func (r *Reconciler) release(ctx context.Context, job *batchv1.Job, t tally) error {
	key := shared.Request(job).NamespacedName
	gone := make([]bool, len(t.release))
	failures := shared.InParallel(len(t.release), func(i int) error {
		pod := t.release[i]
		r.released.add(key, pod.UID)
		err := r.control.PatchPod(ctx, pod.Namespace, pod.Name, removeFinalizer)
		if err != nil {
			r.released.seen(key, pod.UID) // no event will say so
		}
		gone[i] = ignoreNotFound(err) == nil
		return ignoreNotFound(err)
	})
	for i, pod := range t.release {
		if gone[i] {
			t.held.Delete(pod.UID)
		}
	}
	return first(failures)
}

// writeStatus writes the Job's status and returns what the server has then.
func (r *Reconciler) writeStatus(ctx context.Context, job *batchv1.Job) (*batchv1.Job, error) {
	written, err := r.cfg.Client.BatchV1().Jobs(job.Namespace).UpdateStatus(ctx, job, metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	r.written.WroteAt(shared.Request(written).NamespacedName, written.UID, jobResource, written.ResourceVersion)
	return written, nil
}

func (r *Reconciler) say(job *batchv1.Job, notes []note) {
	for _, n := range notes {
		r.cfg.Recorder.Event(job, n.kind, n.reason, n.message)
	}
}

// forget drops what is known of a Job; any one of the name without uid.
func (r *Reconciler) forget(ctx context.Context, job types.NamespacedName, uid types.UID) {
	r.written.Clear(job, uid)
	r.expectations.DeleteExpectations(klog.FromContext(ctx), job.String())
	r.released.forget(job)
	r.backoffs.set(job, backoff{})
}

// managedElsewhere tells whether another controller has the Job.
func managedElsewhere(job *batchv1.Job) bool {
	return job.Spec.ManagedBy != nil && *job.Spec.ManagedBy != batchv1.JobControllerName
}

func first(failures []error) error {
	if i := slices.IndexFunc(failures, func(err error) bool { return err != nil }); i >= 0 {
		return failures[i]
	}
	return nil
}
