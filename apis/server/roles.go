package server

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apis/metrics"
)

// policyReader is what a node's dataplane may read beyond upstream's
// system:node-proxier, to enforce NetworkPolicies. Upstream has no role for
// that: network add-ons bring theirs.
const policyReader = "skiff:network-policy-reader"

// ownClusterRoles are the roles that are not upstream's.
func ownClusterRoles() []rbacv1.ClusterRole {
	watch := []string{"list", "watch"}
	return []rbacv1.ClusterRole{{
		ObjectMeta: ownMeta(),
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"namespaces", "pods"}, Verbs: watch},
			{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"networkpolicies"}, Verbs: watch},
		},
	}, *metrics.ReaderRole()}
}

// ownClusterRoleBindings bind them to the user that dataplanes are, as
// upstream binds system:node-proxier.
func ownClusterRoleBindings() []rbacv1.ClusterRoleBinding {
	return []rbacv1.ClusterRoleBinding{{
		ObjectMeta: ownMeta(),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: policyReader},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user.KubeProxy}},
	}}
}

func ownMeta() metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:        policyReader,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}
