package cronjob

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientfeatures "k8s.io/client-go/features"
	"k8s.io/client-go/kubernetes/scheme"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/reference"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller/util/consistency"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

var (
	kind     = batchv1.SchemeGroupVersion.WithKind("CronJob")
	cronJobs = batchv1.Resource("cronjobs")
	jobs     = batchv1.Resource("jobs")
)

// byCronJob is the index of Jobs by the UID of their controller.
const byCronJob = "skiff-job-by-controller"

// Config is what the reconciler works with.
type Config = shared.Config

// Reconciler starts the Jobs of CronJobs.
type Reconciler struct {
	cfg      Config
	cronJobs batchlisters.CronJobLister
	jobs     cache.Indexer
	// written knows which own writes the cache has seen.
	written consistency.ConsistencyStore
}

// New makes a reconciler and its listers; it starts nothing.
func New(cfg Config) (*Reconciler, error) {
	batch := cfg.Informers.Batch().V1()
	err := batch.Jobs().Informer().AddIndexers(cache.Indexers{byCronJob: func(object any) ([]string, error) {
		if job, ok := object.(*batchv1.Job); ok {
			if ref := metav1.GetControllerOf(job); ref != nil {
				return []string{string(ref.UID)}, nil
			}
		}
		return nil, nil
	}})
	if err != nil {
		return nil, fmt.Errorf("index Jobs by controller: %w", err)
	}
	r := &Reconciler{
		cfg: cfg, cronJobs: batch.CronJobs().Lister(), jobs: batch.Jobs().Informer().GetIndexer(),
		written: consistency.NewNoopConsistencyStore(),
	}
	if clientfeatures.FeatureGates().Enabled(clientfeatures.AtomicFIFO) { // stores know their version
		r.written = consistency.NewConsistencyStore(map[schema.GroupResource]consistency.LastSyncRVGetter{
			cronJobs: batch.CronJobs().Informer().GetStore(),
			jobs:     batch.Jobs().Informer().GetStore(),
		})
	}
	return r, nil
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(names.CronJobController).
		WithOptions(shared.OnClock(r.cfg.Clock)).
		Watches(&batchv1.CronJob{}, r.onCronJob()).
		Watches(&batchv1.Job{}, r.onJob()).
		Complete(r)
}

// Reconcile starts a Job if one is due, and keeps account of those that were.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if ready, result, err := shared.CaughtUp(r.written, req.NamespacedName); !ready {
		return result, err
	}
	cached, err := r.cronJobs.CronJobs(req.Namespace).Get(req.Name)
	if apierrors.IsNotFound(err) {
		r.written.Clear(req.NamespacedName, "")
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	jobs, err := r.jobsOf(cached)
	if err != nil {
		return reconcile.Result{}, err
	}
	cj := cached.DeepCopy()
	dirty := r.cleanUp(ctx, cj, jobs)
	after, changed, failure := r.sync(ctx, cj, jobs)
	if dirty || changed {
		if err := r.writeStatus(ctx, cj); err != nil {
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{RequeueAfter: after}, failure
}

// sync is one pass over a CronJob. It changes the status of cj, and tells
// whether it did, even if it fails later.
func (r *Reconciler) sync(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) (after time.Duration, dirty bool, _ error) {
	notes, dirty, unknown := account(cj, jobs)
	r.say(cj, notes)
	for _, job := range unknown {
		fresh, err := r.cfg.Client.BatchV1().CronJobs(cj.Namespace).Get(ctx, cj.Name, metav1.GetOptions{})
		if err != nil {
			return 0, dirty, err
		}
		if !isActive(fresh, job.UID) {
			r.say(cj, []note{warning("UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)})
		}
	}
	for _, ref := range missing(cj, jobs) {
		_, err := r.cfg.Client.BatchV1().Jobs(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			r.say(cj, []note{normal("MissingJob", "Active job went missing: %v", ref.Name)})
			dropActive(cj, ref.UID)
			dirty = true
		case err != nil:
			return 0, dirty, err
		}
	}
	s := decide(cj, r.cfg.Clock.Now())
	r.say(cj, s.notes)
	if s.start.IsZero() {
		return s.after, dirty, nil
	}
	if s.replace {
		replaced, err := r.replace(ctx, cj)
		dirty = dirty || replaced
		if err != nil {
			return 0, dirty, err
		}
	}
	started, err := r.start(ctx, cj, s.start)
	return s.after, dirty || started, err
}

// replace deletes what runs. It tells whether the status has changed.
func (r *Reconciler) replace(ctx context.Context, cj *batchv1.CronJob) (dirty bool, _ error) {
	for _, ref := range cj.Status.Active {
		job, err := r.cfg.Client.BatchV1().Jobs(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			r.say(cj, []note{warning("FailedGet", "Get job: %v", err)})
			return dirty, err
		}
		if r.delete(ctx, cj, job); isActive(cj, job.UID) {
			return dirty, fmt.Errorf("could not replace job %s/%s", job.Namespace, job.Name)
		}
		dirty = true
	}
	return dirty, nil
}

// start makes the Job of a time and lists it in the status. One that exists is
// listed if it is the CronJob's: we ended between the two last time.
func (r *Reconciler) start(ctx context.Context, cj *batchv1.CronJob, at time.Time) (dirty bool, _ error) {
	wanted, err := jobFor(cj, at)
	if err != nil {
		return false, fmt.Errorf("make a Job from the template of CronJob %s/%s: %w", cj.Namespace, cj.Name, err)
	}
	api := r.cfg.Client.BatchV1().Jobs(cj.Namespace)
	job, err := api.Create(ctx, wanted, metav1.CreateOptions{})
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return false, err
	case apierrors.IsAlreadyExists(err):
		if job, err = api.Get(ctx, wanted.Name, metav1.GetOptions{}); err != nil {
			return false, err
		}
		if !metav1.IsControlledBy(job, cj) || isActive(cj, job.UID) {
			return false, nil
		}
	case err != nil:
		r.say(cj, []note{warning("FailedCreate", "Error creating job: %v", err)})
		return false, err
	default:
		r.written.WroteAt(client.ObjectKeyFromObject(cj), cj.UID, jobs, job.ResourceVersion)
		r.say(cj, []note{normal("SuccessfulCreate", "Created job %v", job.Name)})
	}
	ref, err := reference.GetReference(scheme.Scheme, job)
	if err != nil {
		return false, fmt.Errorf("refer to Job %s/%s: %w", job.Namespace, job.Name, err)
	}
	cj.Status.Active = append(cj.Status.Active, *ref)
	cj.Status.LastScheduleTime = &metav1.Time{Time: at}
	return true, nil
}

// cleanUp deletes what the history limits say. It tells whether the status has
// changed.
func (r *Reconciler) cleanUp(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) (dirty bool) {
	for _, job := range expired(cj, jobs) {
		dirty = r.delete(ctx, cj, job) || dirty
	}
	return dirty
}

// delete deletes a Job and takes it off the status' list. It tells whether that
// has changed the status, or could have. A failure is told as an event; what is
// left is looked at again with the next one.
func (r *Reconciler) delete(ctx context.Context, cj *batchv1.CronJob, job *batchv1.Job) bool {
	err := r.cfg.Client.BatchV1().Jobs(job.Namespace).Delete(ctx, job.Name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)})
	switch {
	case apierrors.IsNotFound(err): // and the cache does not know yet
		listed := isActive(cj, job.UID)
		dropActive(cj, job.UID)
		return listed
	case err != nil:
		r.say(cj, []note{warning("FailedDelete", "Deleted job: %v", err)})
		return false
	}
	dropActive(cj, job.UID)
	r.say(cj, []note{normal("SuccessfulDelete", "Deleted job %v", job.Name)})
	return true
}

// jobsOf are the Jobs that the CronJob controls.
func (r *Reconciler) jobsOf(cj *batchv1.CronJob) ([]*batchv1.Job, error) {
	found, err := r.jobs.ByIndex(byCronJob, string(cj.UID))
	if err != nil {
		return nil, err
	}
	var jobs []*batchv1.Job
	for _, object := range found {
		if job, ok := object.(*batchv1.Job); ok {
			jobs = append(jobs, job)
		}
	}
	return jobs, nil
}

func (r *Reconciler) writeStatus(ctx context.Context, cj *batchv1.CronJob) error {
	written, err := r.cfg.Client.BatchV1().CronJobs(cj.Namespace).UpdateStatus(ctx, cj, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("status of CronJob %s/%s: %w", cj.Namespace, cj.Name, err)
	}
	r.written.WroteAt(client.ObjectKeyFromObject(cj), cj.UID, cronJobs, written.ResourceVersion)
	return nil
}

func (r *Reconciler) say(cj *batchv1.CronJob, notes []note) {
	for _, n := range notes {
		r.cfg.Recorder.Event(cj, n.kind, n.reason, n.message)
	}
}
