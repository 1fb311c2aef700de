package apitest

import (
	"context"
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// Reconciler is one of ours.
type Reconciler interface {
	SetupWithManager(manager.Manager) error
}

// Alone runs one reconciler without any other controller until the test ends.
// It writes events as component.
func (a *API) Alone(t testing.TB, component string, build func(informers.SharedInformerFactory, record.EventRecorder) (Reconciler, error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	events := record.NewBroadcaster(record.WithContext(ctx))
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: a.Client.CoreV1().Events("")})
	t.Cleanup(events.Shutdown)
	factory := shared.NewInformers(a.Client)
	r, err := build(factory, events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component}))
	if err != nil {
		t.Fatal(err)
	}
	mgr, err := shared.NewManager(a.Config, logr.FromSlogHandler(logTo(t)).V(1), factory)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// BareNamespace is Namespace without the controllers that make accounts: its
// default ServiceAccount is made here. It stays when the test ends.
func (a *API) BareNamespace(t testing.TB) string {
	t.Helper()
	core := a.Client.CoreV1()
	ns, err := core.Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := core.ServiceAccounts(ns.Name).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// AloneUpstream runs one of upstream's controllers without any other until the
// test ends. build makes it and returns what runs it.
func (a *API) AloneUpstream(t testing.TB, build func(context.Context, informers.SharedInformerFactory) (run func(context.Context), err error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	factory := informers.NewSharedInformerFactory(a.Client, 0)
	run, err := build(ctx, factory)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	done := make(chan struct{})
	go func() { defer close(done); run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; factory.Shutdown() })
}
