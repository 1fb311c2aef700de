package controllers_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/apitest"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

// TestStart: a Deployment that waits for the controllers gets its Pod, and the
// aggregated roles get their rules.
func TestStart(t *testing.T) {
	ctx := t.Context()
	api := apitest.Server(t)
	if _, err := api.Client.AppsV1().Deployments("default").Create(ctx, apitest.Deployment("waiting", 1), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Run(t)
	t.Log("start to the first Pod:", apitest.Eventually(t, api.Pods(t, "default", 1)))
	for _, name := range []string{"view", "edit", "admin"} {
		t.Log(name, "has rules:", apitest.Eventually(t, func() string {
			role, err := api.Client.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			if len(role.Rules) == 0 {
				return name + " has no rules"
			}
			return ""
		}))
	}
	if err := api.Client.AppsV1().Deployments("default").Delete(ctx, "waiting", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log("Pod collected:", apitest.Eventually(t, api.Pods(t, "default", 0)))

	ns := api.Namespace(t)
	if _, err := api.Client.AppsV1().Deployments(ns).Create(ctx, apitest.Deployment("hundred", 100), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log("Deployment of 100:", apitest.Eventually(t, api.Pods(t, ns, 100)))
}

// TestTokenSecret: a Secret of type service-account-token gets its token.
func TestTokenSecret(t *testing.T) {
	ctx := t.Context()
	api := apitest.Run(t)
	ns := api.Namespace(t)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "token", Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}
	if _, err := api.Client.CoreV1().Secrets(ns).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, func() string {
		s, err := api.Client.CoreV1().Secrets(ns).Get(ctx, "token", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if len(s.Data[corev1.ServiceAccountTokenKey]) == 0 || len(s.Data[corev1.ServiceAccountRootCAKey]) == 0 {
			return "no token"
		}
		return ""
	})
}

// TestNodeCIDRs: a node that comes with a range keeps it and nobody else gets
// it; a node without one is given one.
func TestNodeCIDRs(t *testing.T) {
	ctx := t.Context()
	api := apitest.Run(t)
	for i, cidr := range []string{"10.244.0.0/24", "10.244.1.0/24", "", "10.244.3.0/24", ""} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node%d", i)}}
		if cidr != "" {
			node.Spec.PodCIDR, node.Spec.PodCIDRs = cidr, []string{cidr}
		}
		if _, err := api.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Log("all have ranges:", apitest.Eventually(t, func() string {
		nodes, err := api.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		seen := map[string]string{}
		for _, n := range nodes.Items {
			if n.Spec.PodCIDR == "" {
				return n.Name + " has no range"
			}
			if other := seen[n.Spec.PodCIDR]; other != "" {
				t.Fatalf("%s and %s both have %s", other, n.Name, n.Spec.PodCIDR)
			}
			seen[n.Spec.PodCIDR] = n.Name
		}
		return ""
	}))
	if err := api.Client.CoreV1().Nodes().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestNewRefuses(t *testing.T) {
	api := apitest.Server(t)
	good := controllers.Config{RESTConfig: api.Config}
	good.ControlPlane = apitest.ControlPlane()
	if _, err := controllers.New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*controllers.Config){
		"no client":                  func(c *controllers.Config) { c.RESTConfig = nil },
		"a pod subnet of no meaning": func(c *controllers.Config) { c.ControlPlane.PodSubnets = []netip.Prefix{{}} },
		"no service subnet":          func(c *controllers.Config) { c.ControlPlane.ServiceSubnets = nil },
		"an unknown controller":      func(c *controllers.Config) { c.Upstream = []string{"none"} },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			spoil(&cfg)
			if _, err := controllers.New(cfg); err == nil {
				t.Error("accepted")
			} else {
				t.Log(err)
			}
		})
	}
}

// TestPolicyStatus: the controller of ValidatingAdmissionPolicies, which is
// built late, checks the first policy's types.
func TestPolicyStatus(t *testing.T) {
	ctx := t.Context()
	api := apitest.Run(t)
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "typo"},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule:       admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
				},
			}}},
			Validations: []admissionv1.Validation{{Expression: "object.spec.replicaz > 1"}},
		},
	}
	policies := api.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	if _, err := policies.Create(ctx, policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log("checked:", apitest.Eventually(t, func() string {
		p, err := policies.Get(ctx, "typo", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if p.Status.TypeChecking == nil || len(p.Status.TypeChecking.ExpressionWarnings) != 1 {
			return fmt.Sprint(p.Status)
		}
		return ""
	}))
	if err := policies.Delete(ctx, "typo", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}
