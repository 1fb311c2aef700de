//go:build robustness

package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/test/robustness/history"
)

const (
	loadNamespace = "robustness"
	// objects that are written at any one time. Few, so that clients meet.
	objects = 6
	// epoch is how long the same objects are used: a search through an hour's
	// operations on one object takes too much memory.
	epoch = 30 * time.Second
	// clientPause is between two operations of a client: the load is to be
	// hurt, not to be the fault.
	clientPause = 20 * time.Millisecond
)

// recorder has everything that the clients saw.
type recorder struct {
	began time.Time

	mu         sync.Mutex // guards the fields below
	operations []history.Operation
	streams    []history.Stream
	// wrote is when the last write succeeded.
	wrote time.Time
	// told are the errors that clients were told, and how often.
	told map[string]int
}

func newRecorder() *recorder { return &recorder{began: time.Now(), told: map[string]int{}} }

func (r *recorder) now() time.Duration { return time.Since(r.began) }

func (r *recorder) add(o history.Operation, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.operations = append(r.operations, o)
	if o.Outcome == history.OK && o.Kind != history.Get && o.Kind != history.List {
		r.wrote = time.Now()
	}
	if o.Outcome == history.Unknown || o.Outcome == history.Rejected {
		r.told[reason(err)]++
	}
}

func (r *recorder) history() history.History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return history.History{Operations: r.operations, Streams: r.streams}
}

func (r *recorder) lastWrite() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wrote
}

// apiClient writes and reads ConfigMaps at random.
type apiClient struct {
	id       int
	recorder *recorder
	client   rest.Interface
	reset    func()
	random   *rand.Rand
	// known are the revisions of objects by what this client saw last.
	known  map[string]int64
	writes int
}

func newAPIClient(c *cluster, r *recorder, id int, seed uint64) (*apiClient, error) {
	set, reset, err := c.client()
	if err != nil {
		return nil, err
	}
	return &apiClient{id: id, recorder: r, client: set.CoreV1().RESTClient(), reset: reset,
		random: rand.New(rand.NewPCG(seed, uint64(id)+1)), known: map[string]int64{}}, nil
}

// run until ctx ends.
func (a *apiClient) run(ctx context.Context) {
	for ctx.Err() == nil {
		a.step()
		select {
		case <-ctx.Done():
		case <-time.After(clientPause):
		}
	}
}

// step is one operation. It is not cut off by the end of the run.
func (a *apiClient) step() {
	prefix := fmt.Sprintf("e%d-", a.recorder.now()/epoch)
	o := history.Operation{Client: a.id, Key: prefix + strconv.Itoa(a.random.IntN(objects)), Kind: a.choose()}
	if o.Kind == history.List {
		o.Key = prefix
	}
	if o.Precondition = a.known[o.Key]; o.Precondition == 0 && (o.Kind == history.Update || o.Kind == history.Delete) {
		o.Kind, o.Precondition = history.Create, 0
	}
	if o.Kind == history.Create || o.Kind == history.Update {
		a.writes++
		o.Value = fmt.Sprintf("%d-%d", a.id, a.writes)
	}
	if o.Kind != history.Update && o.Kind != history.Delete {
		o.Precondition = 0
	}
	err := a.do(&o)
	if o.Outcome == history.Unknown {
		a.reset()
	}
	switch {
	case o.Outcome == history.OK && o.Kind != history.Delete && o.Kind != history.List:
		a.known[o.Key] = o.Revision
	case o.Outcome == history.OK && o.Kind == history.Delete, o.Outcome == history.Absent:
		delete(a.known, o.Key)
	}
	for _, item := range o.Items {
		a.known[item.Key] = item.Revision
	}
	a.recorder.add(o, err)
}

func (a *apiClient) choose() history.Kind {
	switch n := a.random.IntN(100); {
	case n < 45:
		return history.Update
	case n < 60:
		return history.Create
	case n < 75:
		return history.Delete
	case n < 92:
		return history.Get
	}
	return history.List
}

// do sends the request, once: an answer that says "try again" may come after
// the deed, so the client library must not.
func (a *apiClient) do(o *history.Operation) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestBound)
	defer cancel()
	var into corev1.ConfigMap
	o.Call = a.recorder.now()
	err := error(nil)
	switch o.Kind {
	case history.Create:
		err = a.request(a.client.Post()).Body(object(o)).Do(ctx).Into(&into)
	case history.Update:
		err = a.request(a.client.Put()).Name(o.Key).Body(object(o)).Do(ctx).Into(&into)
	case history.Delete:
		revision := strconv.FormatInt(o.Precondition, 10)
		err = a.request(a.client.Delete()).Name(o.Key).Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &revision}}).Do(ctx).Error()
	case history.Get:
		err = a.request(a.client.Get()).Name(o.Key).Do(ctx).Into(&into)
	case history.List:
		var list corev1.ConfigMapList
		options := metav1.ListOptions{LabelSelector: "epoch=" + strings.TrimSuffix(o.Key, "-")}
		if o.Key == "" {
			options.LabelSelector = "epoch"
		}
		err = a.request(a.client.Get()).VersionedParams(&options, scheme.ParameterCodec).Do(ctx).Into(&list)
		o.Return = a.recorder.now()
		if o.Outcome = outcome(err); o.Outcome == history.OK {
			o.Revision = revisionOf(list.ResourceVersion)
			for _, item := range list.Items {
				o.Items = append(o.Items, history.Item{Key: item.Name, Value: content(&item), Revision: revisionOf(item.ResourceVersion)})
			}
		}
		return err
	}
	o.Return = a.recorder.now()
	if o.Outcome = outcome(err); o.Outcome == history.OK && o.Kind != history.Delete {
		o.Revision = revisionOf(into.ResourceVersion)
		o.Value = content(&into)
	}
	return err
}

func (a *apiClient) request(r *rest.Request) *rest.Request {
	return r.Namespace(loadNamespace).Resource("configmaps").MaxRetries(0)
}

// outcome of a request by its error.
func outcome(err error) history.Outcome {
	switch {
	case err == nil:
		return history.OK
	case apierrors.IsAlreadyExists(err):
		return history.Exists
	case apierrors.IsConflict(err):
		return history.Conflict
	case apierrors.IsNotFound(err):
		return history.Absent
	case apierrors.IsUnauthorized(err), apierrors.IsForbidden(err), apierrors.IsTooManyRequests(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return history.Rejected
	}
	return history.Unknown
}

func reason(err error) string {
	if r := apierrors.ReasonForError(err); r != metav1.StatusReasonUnknown {
		return string(r)
	}
	return "no answer"
}

func revisionOf(resourceVersion string) int64 {
	n, err := strconv.ParseInt(resourceVersion, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("resourceVersion %q is not a number", resourceVersion))
	}
	return n
}

// newestEvents waits until the watches have delivered a write that is made
// now.
func newestEvents(ctx context.Context, client kubernetes.Interface, watchers []*watcher) error {
	made, err := client.CoreV1().ConfigMaps(loadNamespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "last"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	for _, w := range watchers {
		if err := w.reach(ctx, revisionOf(made.ResourceVersion)); err != nil {
			return err
		}
	}
	return nil
}
