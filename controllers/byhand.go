package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller/disruption"
	serviceaccountcontroller "k8s.io/kubernetes/pkg/controller/serviceaccount"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// loop is a controller that is a function.
type loop struct {
	name string
	run  func(context.Context)
}

func (l loop) Name() string            { return l.name }
func (l loop) Run(ctx context.Context) { l.run(ctx) }

// tokens is the controller of Secrets of type service-account-token. Upstream
// builds it with a client of its own, ahead of all others.
func (u *upstream) tokens(ctx context.Context) (app.Controller, error) {
	key, err := keyutil.PrivateKeyFromFile(u.keyFile)
	if err != nil {
		return nil, fmt.Errorf("service account key: %w", err)
	}
	generator, err := serviceaccount.JWTTokenGenerator(serviceaccount.LegacyIssuer, key)
	if err != nil {
		return nil, fmt.Errorf("token generator: %w", err)
	}
	client, err := u.context.NewClient("tokens-controller")
	if err != nil {
		return nil, err
	}
	controller, err := serviceaccountcontroller.NewTokensController(klog.FromContext(ctx),
		u.context.InformerFactory.Core().V1().ServiceAccounts(), u.context.InformerFactory.Core().V1().Secrets(), client,
		serviceaccountcontroller.TokensControllerOptions{TokenGenerator: generator, RootCA: u.rootCA})
	if err != nil {
		return nil, err
	}
	workers := int(u.context.ComponentConfig.SAController.ConcurrentSATokenSyncs)
	return loop{names.ServiceAccountTokenController, func(ctx context.Context) { controller.Run(ctx, workers) }}, nil
}

// policyStatus is upstream's controller, built when the first
// ValidatingAdmissionPolicy exists: it type-checks expressions, and has the
// schema of every built-in kind in memory for that (20 ms, 6 MB). Its
// constructor, unlike others, may run beside informers.
func (u *upstream) policyStatus(descriptor *app.ControllerDescriptor) app.Controller {
	policies := u.context.InformerFactory.Admissionregistration().V1().ValidatingAdmissionPolicies().Informer()
	return loop{descriptor.Name(), func(ctx context.Context) {
		first := make(chan struct{})
		exists := sync.OnceFunc(func() { close(first) })
		registration, err := policies.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(any) { exists() }})
		if err != nil {
			return // the informer has stopped
		}
		select {
		case <-ctx.Done():
			return
		case <-first:
		}
		controller, err := descriptor.BuildController(ctx, u.context)
		if err = errors.Join(err, policies.RemoveEventHandler(registration)); err != nil {
			utilruntime.HandleErrorWithContext(ctx, err, "Controller not built", "controller", descriptor.Name())
			return
		}
		if controller != nil {
			controller.Run(ctx)
		}
	}}
}

// staleDisruption is how long upstream leaves the condition DisruptionTarget
// on a Pod that nobody deleted.
const staleDisruption = 2 * time.Minute

// disruption is upstream's controller on the cluster's clock.
func (u *upstream) disruption(ctx context.Context) (app.Controller, error) {
	client, err := u.context.NewClient("disruption-controller")
	if err != nil {
		return nil, err
	}
	config, err := u.context.NewClientConfig("disruption-controller")
	if err != nil {
		return nil, err
	}
	scales, err := scale.NewForConfig(config, u.context.RESTMapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(client.Discovery()))
	if err != nil {
		return nil, fmt.Errorf("scale client: %w", err)
	}
	core, apps := u.context.InformerFactory.Core().V1(), u.context.InformerFactory.Apps().V1()
	controller := disruption.NewDisruptionControllerInternal(ctx,
		core.Pods(), u.context.InformerFactory.Policy().V1().PodDisruptionBudgets(), core.ReplicationControllers(),
		apps.ReplicaSets(), apps.Deployments(), apps.StatefulSets(),
		client, u.context.RESTMapper, scales, client.Discovery(), u.clock, staleDisruption)
	workers := int(u.context.ComponentConfig.DisruptionController.ConcurrentDisruptionSyncs)
	return loop{names.DisruptionController, func(ctx context.Context) { controller.Run(ctx, workers) }}, nil
}

// legacyTokens is upstream's controller on the cluster's clock.
func (u *upstream) legacyTokens() (app.Controller, error) {
	client, err := u.context.NewClient("legacy-service-account-token-cleaner")
	if err != nil {
		return nil, err
	}
	core := u.context.InformerFactory.Core().V1()
	cleaner, err := serviceaccountcontroller.NewLegacySATokenCleaner(core.ServiceAccounts(), core.Secrets(), core.Pods(), client, u.clock,
		serviceaccountcontroller.LegacySATokenCleanerOptions{
			CleanUpPeriod: u.context.ComponentConfig.LegacySATokenCleaner.CleanUpPeriod.Duration,
			SyncInterval:  serviceaccountcontroller.DefaultCleanerSyncInterval,
		})
	if err != nil {
		return nil, err
	}
	return loop{names.LegacyServiceAccountTokenCleanerController, cleaner.Run}, nil
}
