package cronjob

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// onCronJob asks for the CronJob: at once, or at its next time when that has
// changed, as what the new schedule would have started before was not asked for.
func (r *Reconciler) onCronJob() handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q shared.Queue) { q.Add(shared.Request(e.Object)) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q shared.Queue) {
			old, ok := e.ObjectOld.(*batchv1.CronJob)
			now, ok2 := e.ObjectNew.(*batchv1.CronJob)
			if !ok || !ok2 {
				return
			}
			if old.Spec.Schedule == now.Spec.Schedule && ptr.Equal(old.Spec.TimeZone, now.Spec.TimeZone) {
				q.Add(shared.Request(now))
				return
			}
			schedule, err := parse(now)
			if err != nil {
				r.say(now, []note{warning("UnParseableCronJobSchedule", "unparseable schedule for cronjob: %s", now.Spec.Schedule)})
				return
			}
			q.AddAfter(shared.Request(now), next(now, schedule, r.cfg.Clock.Now()))
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q shared.Queue) { q.Add(shared.Request(e.Object)) },
	}
}

// onJob asks for the Job's CronJob.
func (r *Reconciler) onJob() handler.Funcs {
	ask := func(q shared.Queue, o client.Object) {
		ref := metav1.GetControllerOf(o)
		if ref == nil || ref.Kind != kind.Kind {
			return
		}
		if cj, err := r.cronJobs.CronJobs(o.GetNamespace()).Get(ref.Name); err == nil && cj.UID == ref.UID {
			q.Add(shared.Request(cj))
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q shared.Queue) { ask(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q shared.Queue) {
			if e.ObjectOld.GetResourceVersion() != e.ObjectNew.GetResourceVersion() {
				ask(q, e.ObjectOld)
				ask(q, e.ObjectNew)
			}
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q shared.Queue) { ask(q, e.Object) },
	}
}
