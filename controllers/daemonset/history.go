package daemonset

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/kubernetes/pkg/controller"
	labelsutil "k8s.io/kubernetes/pkg/util/labels"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const hashLabel = appsv1.DefaultDaemonSetUniqueLabelKey

// template is what a revision keeps of a DaemonSet: a patch that brings its
// template back, byte for byte upstream's, which compares the bytes.
func template(set *appsv1.DaemonSet) ([]byte, error) {
	encoded, err := json.Marshal(set.Spec.Template)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return nil, err
	}
	fields["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
}

// revisions are a DaemonSet's: the current one, and others from the oldest on.
type revisions struct {
	current *appsv1.ControllerRevision
	old     []*appsv1.ControllerRevision
}

// history reads the revisions, and makes or mends the current one. That is nil
// when its name was taken: then the status says so and has an event.
func (r *Reconciler) history(ctx context.Context, set *appsv1.DaemonSet, selector labels.Selector) (revisions, error) {
	wanted, err := template(set)
	if err != nil {
		return revisions{}, fmt.Errorf("template of DaemonSet %s/%s: %w", set.Namespace, set.Name, err)
	}
	all, err := r.revisions.ControllerRevisions(set.Namespace).List(labels.Everything())
	if err != nil {
		return revisions{}, err
	}
	refs := controller.NewControllerRevisionControllerRefManager(controller.RealControllerRevisionControl{KubeClient: r.cfg.Client}, set, selector, kind, r.mayAdopt(set))
	claimed, err := refs.ClaimControllerRevisions(ctx, all)
	if err != nil {
		return revisions{}, err
	}
	var found revisions
	var same []*appsv1.ControllerRevision
	slices.SortFunc(claimed, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Name, b.Name))
	})
	for _, revision := range claimed {
		if revision.Labels[hashLabel] == "" { // from before there were labels
			revision, err = r.update(ctx, set, revision, func(c *appsv1.ControllerRevision) {
				c.Labels = labelsutil.CloneAndAddLabel(c.Labels, hashLabel, c.Name)
			})
			if err != nil {
				return revisions{}, err
			}
		}
		if bytes.Equal(wanted, revision.Data.Raw) {
			same = append(same, revision)
		} else {
			found.old = append(found.old, revision)
		}
	}
	number := int64(1)
	if n := len(found.old); n > 0 {
		number = found.old[n-1].Revision + 1
	}
	if len(same) == 0 {
		found.current, err = r.snapshot(ctx, set, wanted, number)
		return found, err
	}
	found.current = same[len(same)-1]
	if err := r.merge(ctx, set, same[:len(same)-1], found.current); err != nil {
		return revisions{}, err
	}
	if found.current.Revision < number { // rolled back to
		found.current, err = r.update(ctx, set, found.current, func(c *appsv1.ControllerRevision) { c.Revision = number })
	}
	return found, err
}

// update writes a changed copy of the revision.
func (r *Reconciler) update(ctx context.Context, set *appsv1.DaemonSet, revision *appsv1.ControllerRevision, change func(*appsv1.ControllerRevision)) (*appsv1.ControllerRevision, error) {
	changed := revision.DeepCopy()
	change(changed)
	changed, err := r.cfg.Client.AppsV1().ControllerRevisions(set.Namespace).Update(ctx, changed, metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	r.wrote(set, controllerRevisions, changed)
	return changed, nil
}

// merge takes away revisions of the same template, and has their Pods name the
// one that is left.
func (r *Reconciler) merge(ctx context.Context, set *appsv1.DaemonSet, same []*appsv1.ControllerRevision, kept *appsv1.ControllerRevision) error {
	if len(same) == 0 {
		return nil
	}
	pods, err := controller.FilterPodsByOwner(r.podsByOwner, &set.ObjectMeta, kind.Kind, false)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{hashLabel: kept.Labels[hashLabel]}}})
	if err != nil {
		return err
	}
	for _, pod := range pods {
		named := slices.ContainsFunc(same, func(c *appsv1.ControllerRevision) bool { return c.Labels[hashLabel] == pod.Labels[hashLabel] })
		if !named {
			continue
		}
		patched, err := r.cfg.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		if err == nil {
			r.wrote(set, podResource, patched)
		}
	}
	return r.deleteRevisions(ctx, same)
}

func (r *Reconciler) deleteRevisions(ctx context.Context, doomed []*appsv1.ControllerRevision) error {
	for _, revision := range doomed {
		err := r.cfg.Client.AppsV1().ControllerRevisions(revision.Namespace).Delete(ctx, revision.Name, metav1.DeleteOptions{
			Preconditions: metav1.NewUIDPreconditions(string(revision.UID)),
		})
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete ControllerRevision %s/%s: %w", revision.Namespace, revision.Name, err)
		}
	}
	return nil
}

// snapshot makes the current revision, or nil if another one has its name: two
// templates have one hash. Counting that in the status makes another hash.
func (r *Reconciler) snapshot(ctx context.Context, set *appsv1.DaemonSet, data []byte, number int64) (*appsv1.ControllerRevision, error) {
	hash := controller.ComputeHash(&set.Spec.Template, set.Status.CollisionCount)
	api := r.cfg.Client.AppsV1().ControllerRevisions(set.Namespace)
	name := set.Name + "-" + hash
	made, err := api.Create(ctx, &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: set.Namespace,
			Labels:          labelsutil.CloneAndAddLabel(set.Spec.Template.Labels, hashLabel, hash),
			Annotations:     set.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, kind)},
		},
		Data: runtime.RawExtension{Raw: data}, Revision: number,
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		if made, err = api.Get(ctx, name, metav1.GetOptions{}); err == nil && !bytes.Equal(data, made.Data.Raw) {
			after := set.Status.DeepCopy()
			after.CollisionCount = ptr.To(ptr.Deref(after.CollisionCount, 0) + 1)
			return nil, r.writeStatus(ctx, set, *after)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ControllerRevision %s/%s: %w", set.Namespace, name, err)
	}
	r.wrote(set, controllerRevisions, made)
	return made, nil
}

// surplusRevisions are the oldest beyond the limit that no Pod is of.
func surplusRevisions(old []*appsv1.ControllerRevision, limit int, pods []*corev1.Pod) []*appsv1.ControllerRevision {
	used := map[string]bool{}
	for _, pod := range pods {
		used[pod.Labels[hashLabel]] = true
	}
	surplus := max(0, len(old)-limit)
	unused := slices.DeleteFunc(slices.Clone(old), func(c *appsv1.ControllerRevision) bool { return used[c.Labels[hashLabel]] })
	return unused[:min(surplus, len(unused))]
}
