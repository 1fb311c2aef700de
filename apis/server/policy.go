package server

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

// policy reconciles upstream's default roles and bindings, and skiff's own,
// with upstream's reconciler: what is missing is made, rules that are missing
// are added, and what is annotated
// rbac.authorization.kubernetes.io/autoupdate=false stays.
//
// Upstream's hook also carries roles over from clusters older than 1.14; no
// supported upgrade leads from there.
func (b *bootstrap) policy(ctx context.Context) error {
	if err := b.namespaces(ctx); err != nil {
		return err
	}
	group := new(errgroup.Group)
	group.SetLimit(writers)
	b.roles(group)
	b.bindings(group)
	// /readyz has upstream's checks and no others; it goes with its role.
	group.Go(func() error { return b.metricsAPI(ctx) })
	return group.Wait()
}

func (b *bootstrap) roles(group *errgroup.Group) {
	lister := b.informers.Rbac().V1()
	clusterRoles := reconciliation.ClusterRoleModifier{Client: b.client.RbacV1().ClusterRoles()}
	for _, role := range slices.Concat(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles(), ownClusterRoles()) {
		reconcileRole(group, reconciliation.ClusterRoleRuleOwner{ClusterRole: &role}, &roles{
			RuleOwnerModifier: clusterRoles,
			known: func() (reconciliation.RuleOwner, error) {
				have, err := lister.ClusterRoles().Lister().Get(role.Name)
				return reconciliation.ClusterRoleRuleOwner{ClusterRole: have}, err
			},
		})
	}
	inNamespaces := reconciliation.RoleModifier{Client: b.client.RbacV1(), NamespaceClient: b.client.CoreV1().Namespaces()}
	for namespace, all := range bootstrappolicy.NamespaceRoles() {
		for _, role := range all {
			reconcileRole(group, reconciliation.RoleRuleOwner{Role: &role}, &roles{
				RuleOwnerModifier: inNamespaces,
				known: func() (reconciliation.RuleOwner, error) {
					have, err := lister.Roles().Lister().Roles(namespace).Get(role.Name)
					return reconciliation.RoleRuleOwner{Role: have}, err
				},
			})
		}
	}
}

func (b *bootstrap) bindings(group *errgroup.Group) {
	lister := b.informers.Rbac().V1()
	clusterBindings := reconciliation.ClusterRoleBindingClientAdapter{Client: b.client.RbacV1().ClusterRoleBindings()}
	for _, binding := range slices.Concat(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings(), ownClusterRoleBindings()) {
		reconcileBinding(group, reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &binding}, &bindings{
			RoleBindingModifier: clusterBindings,
			known: func() (reconciliation.RoleBinding, error) {
				have, err := lister.ClusterRoleBindings().Lister().Get(binding.Name)
				return reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: have}, err
			},
		})
	}
	inNamespaces := reconciliation.RoleBindingClientAdapter{Client: b.client.RbacV1(), NamespaceClient: b.client.CoreV1().Namespaces()}
	for namespace, all := range bootstrappolicy.NamespaceRoleBindings() {
		for _, binding := range all {
			reconcileBinding(group, reconciliation.RoleBindingAdapter{RoleBinding: &binding}, &bindings{
				RoleBindingModifier: inNamespaces,
				known: func() (reconciliation.RoleBinding, error) {
					have, err := lister.RoleBindings().Lister().RoleBindings(namespace).Get(binding.Name)
					return reconciliation.RoleBindingAdapter{RoleBinding: have}, err
				},
			})
		}
	}
}

func reconcileRole(group *errgroup.Group, want reconciliation.RuleOwner, client *roles) {
	group.Go(func() error {
		err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			_, err := (&reconciliation.ReconcileRoleOptions{Role: want, Client: client, Confirm: true}).Run()
			return err
		})
		if err != nil {
			return fmt.Errorf("reconcile %s of %s: %w", kind(want.GetNamespace(), "Role"), want.GetName(), err)
		}
		return nil
	})
}

func reconcileBinding(group *errgroup.Group, want reconciliation.RoleBinding, client *bindings) {
	group.Go(func() error {
		err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			_, err := (&reconciliation.ReconcileRoleBindingOptions{RoleBinding: want, Client: client, Confirm: true}).Run()
			return err
		})
		if err != nil {
			return fmt.Errorf("reconcile %s of %s: %w", kind(want.GetNamespace(), "RoleBinding"), want.GetName(), err)
		}
		return nil
	})
}

func kind(namespace, name string) string {
	if namespace == "" {
		return "Cluster" + name
	}
	return name
}

// roles is a client for one role. The first question goes to the informer;
// when its answer was too old, the reconciler asks again and hears the server.
type roles struct {
	reconciliation.RuleOwnerModifier
	known func() (reconciliation.RuleOwner, error)
	asked bool
}

func (r *roles) Get(namespace, name string) (reconciliation.RuleOwner, error) {
	if r.asked {
		return r.RuleOwnerModifier.Get(namespace, name)
	}
	r.asked = true
	return r.known()
}

// bindings is the same for one binding.
type bindings struct {
	reconciliation.RoleBindingModifier
	known func() (reconciliation.RoleBinding, error)
	asked bool
}

func (b *bindings) Get(namespace, name string) (reconciliation.RoleBinding, error) {
	if b.asked {
		return b.RoleBindingModifier.Get(namespace, name)
	}
	b.asked = true
	return b.known()
}
